//! Hooks, as the configuration has them.

use super::call::{Command, Post};
use super::record::Record;
use super::{Caller, Hook};
use crate::config::{ArchiveConfig, Config, HookConfig, HookTo};
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::kafka::telling::Producing;
use crate::load::Setup;
use crate::load::hook_loader::HookLoader;
use crate::pipeline::start::chain;
use std::sync::Arc;

/// Opens the hooks of `archive`. Nobody is asked.
///
/// # Errors
/// [`Exit::Config`]: a setting that cannot be used.
pub fn open(
    config: &Config,
    archive: &ArchiveConfig,
    coordinator: &Arc<dyn Coordinator>,
) -> Result<Vec<Arc<Hook>>, Failure> {
    let hook = |hook: &HookConfig| {
        let failed =
            |why: String| Failure::new(Exit::Config, format!("archive {}, hook {}: {why}", archive.name, hook.name));
        let caller: Box<dyn Caller> = match &hook.to {
            HookTo::Command { program, arguments } => {
                Box::new(Command { program: program.clone(), arguments: arguments.clone() })
            }
            HookTo::Http { url, token } => Box::new(Post::new(url.clone(), token.clone()).map_err(failed)?),
            HookTo::Kafka { topic } => {
                let producing = Producing::new(&config.kafka, hook.timeout).map_err(|error| failed(chain(&error)))?;
                Box::new(Record::new(producing, coordinator.clone(), topic))
            }
        };
        let on = (hook.on.batch, hook.on.folder);
        Ok(Arc::new(Hook::new((&archive.name, &hook.name), on, hook.timeout, caller)))
    };
    archive.hooks.iter().map(hook).collect()
}

/// What tells `hooks` of complete folders.
pub fn loaders(hooks: &[Arc<Hook>]) -> impl Iterator<Item = Setup> {
    hooks.iter().filter(|hook| hook.on_folder).map(|hook| {
        // Whatever it calls: a hook of another name begins anew, and no other one.
        let id = Setup::id_of(&hook.name, &["hook"]);
        Setup::new(&hook.name, id, Arc::new(HookLoader { hook: hook.clone() }))
    })
}
