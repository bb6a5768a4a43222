//! What a user calls: one file a command, each turning typed arguments into a call of the library and an exit code.

pub mod backfill;
pub mod cat;
pub mod check;
pub mod compact;
pub mod ddl;
pub mod dead_letters;
pub mod demo;
pub mod drive;
pub mod find;
pub mod fold;
pub mod help;
mod hooks;
pub mod inspect;
pub mod ls;
pub mod preview;
pub mod restore;
pub mod run;
pub mod status;
pub mod verify;

use crate::cli::PartArgs;
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::reader::plan::{ALL_OFFSETS, Wanted};
use crate::record::OffsetRange;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Which part of an archive is meant.
fn wanted(args: &PartArgs, topic: Option<&str>, now_ms: i64) -> Wanted {
    Wanted {
        archive: args.archive.clone(),
        topic: topic.map(str::to_string),
        partitions: args.partition.clone(),
        output: args.output.clone(),
        since_ms: args.since.map(|since| since.at(now_ms)),
        until_ms: args.until.map(|until| until.at(now_ms)),
        offsets: OffsetRange::new(
            args.from_offset.unwrap_or(ALL_OFFSETS.first),
            args.to_offset.unwrap_or(ALL_OFFSETS.end),
        ),
    }
}

/// How a command that prints to a pipe comes to its end where it could not print.
enum Unprinted {
    /// Nobody reads any more: all that was wanted is there.
    ClosedPipe,
    /// Anything else.
    Failed(Failure),
}

impl From<std::io::Error> for Unprinted {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(Failure::new(Exit::Failed, format!("write to standard output: {error}"))),
        }
    }
}

impl From<Failure> for Unprinted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The end of a command whose reader may have gone: `head` has seen enough.
fn ended(outcome: Result<Exit, Unprinted>) -> Result<Exit, Failure> {
    match outcome {
        Ok(exit) => Ok(exit),
        Err(Unprinted::ClosedPipe) => Ok(Exit::Done),
        Err(Unprinted::Failed(failure)) => Err(failure),
    }
}

fn print_json(out: &mut dyn Write, line: &impl Serialize) -> Result<(), Unprinted> {
    serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Reads the configuration file.
///
/// # Errors
/// [`Exit::Config`] with every problem of the file.
pub fn load(path: &Path) -> Result<Config, Failure> {
    config::load(path, &|name| std::env::var(name).ok())
        .map_err(|errors| Failure::new(Exit::Config, errors.to_string()))
}
