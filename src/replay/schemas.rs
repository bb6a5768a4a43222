//! What dead letters need of the schema registry, where their archive reads by one.
//!
//! A registry that does not answer ends the command, as nothing is known then: what it would have said may make rows of letters that
//! otherwise counted as failing.

use crate::clock::Clock;
use crate::decode::{Needs, Schemas};
use crate::exit::{Exit, Failure};
use crate::layout::Layout;
use crate::pipeline::archive::Archive;
use crate::pipeline::context::{Decided, Missing, schemas};
use crate::pipeline::start::{StartError, patiently};
use crate::registry::{Registry, RegistryError, Target};
use std::fmt;
use std::sync::Arc;

/// Asks the registry.
#[derive(Clone)]
pub struct Asker {
    /// The registry of the configuration.
    pub registry: Option<Arc<Registry>>,
    /// Tells for how long.
    pub clock: Arc<dyn Clock>,
}

impl Asker {
    /// Asks for what `payload` names, so that `archive` can read it. Gives the schema that its rows should be projected onto, where that
    /// is a newer one than theirs.
    ///
    /// # Errors
    /// The registry refuses or does not answer.
    pub async fn prepare(&self, archive: &Archive, payload: &[u8]) -> Result<Option<Target>, Failure> {
        let (Some(by_registry), Some(registry)) = (archive.by_registry(), &self.registry) else { return Ok(None) };
        loop {
            match by_registry.needs(payload) {
                Needs::Ask(id) => {
                    let what = format!("schema {id}");
                    patiently(&*self.clock, &what, || registry.ask(id, by_registry.format())).await?;
                }
                Needs::Target(target) => return Ok(Some(target)),
                Needs::Nothing | Needs::Note(_) | Needs::Stray(_) => return Ok(None),
            }
        }
    }

    /// What `layout` needs to make rows that are projected onto `target`.
    ///
    /// # Errors
    /// The registry refuses or does not answer, or has no such schema any more.
    pub async fn schemas(&self, layout: &Layout, target: Option<Target>) -> Result<Schemas, Failure> {
        let decided = Decided { target, unknown: None };
        let what = format!("archive {}", layout.archive);
        patiently(&*self.clock, &what, || async {
            schemas(self.registry.as_ref(), layout, &decided).await.map_err(Unavailable)
        })
        .await
    }
}

#[derive(Debug)]
struct Unavailable(Missing);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Missing::Later(reason) | Missing::Gone(reason) | Missing::Never(reason)) = &self.0;
        f.write_str(reason)
    }
}

impl std::error::Error for Unavailable {}

impl StartError for Unavailable {
    fn exit(&self) -> Option<Exit> {
        match self.0 {
            Missing::Later(_) => None,
            Missing::Gone(_) => Some(Exit::Stopped),
            Missing::Never(_) => Some(Exit::Config),
        }
    }
}

impl StartError for RegistryError {
    fn exit(&self) -> Option<Exit> {
        match self {
            Self::Refused { .. } => Some(Exit::Refused),
            _ => None,
        }
    }
}
