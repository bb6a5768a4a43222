//! What a user calls: one file a command, each turning typed arguments into a call of the library and an exit code.

pub mod backfill;
pub mod check;
pub mod dead_letters;
pub mod demo;
pub mod drive;
pub mod help;
pub mod inspect;
pub mod preview;
pub mod run;
pub mod verify;

use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use std::path::Path;

/// Reads the configuration file.
///
/// # Errors
/// [`Exit::Config`] with every problem of the file.
pub fn load(path: &Path) -> Result<Config, Failure> {
    config::load(path, &|name| std::env::var(name).ok())
        .map_err(|errors| Failure::new(Exit::Config, errors.to_string()))
}
