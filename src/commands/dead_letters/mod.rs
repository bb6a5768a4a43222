//! `siltstone dead-letters`: what could not become rows, and what is made of it after a fix. Works with the bucket alone.

mod list;
mod replay;
mod show;

use crate::cli::{DeadLettersCommand, LettersArgs};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::parse::text::printable;
use crate::replay::select::Selection;
use serde::Serialize;
use std::io::Write;

/// Carries out a command.
///
/// # Errors
/// A store refuses or does not answer; see each.
pub async fn dead_letters(command: &DeadLettersCommand, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    match command {
        DeadLettersCommand::List(args) => list::list(args, config, out).await,
        DeadLettersCommand::Show(args) => show::show(args, config, out).await,
        DeadLettersCommand::Replay(args) => replay::replay(args, config, out).await,
    }
}

/// The dead letters that were asked for.
fn selection(args: &LettersArgs) -> Selection {
    Selection {
        archive: args.archive.clone(),
        topic: args.topic.clone(),
        partitions: args.partition.clone(),
        offset: args.offset,
        since_ms: args.since,
        until_ms: args.until,
        stages: args.stage.clone(),
    }
}

/// Text as a terminal may be given it.
fn shown(text: &str) -> String {
    text.chars().flat_map(printable).collect()
}

fn wrote(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("write to the terminal: {error}"))
}

fn write_json(out: &mut dyn Write, line: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, line).map_err(|error| wrote(error.into()))?;
    writeln!(out).map_err(wrote)
}
