//! Exit codes, and the error that carries one to `main`.

use std::fmt;

/// Why the process ends, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for is done; after SIGTERM: everything open was archived and committed, and no partition is stopped.
    Done = 0,
    /// Something unexpected: see the message.
    Failed = 1,
    /// The configuration or the command line is wrong.
    Config = 2,
    /// A store or Kafka refused: credentials, rights, a bucket that is not there; of a restore a record, whose source partition stopped.
    Refused = 3,
    /// A store or Kafka could not be reached when the process started.
    Unreachable = 4,
    /// A person must decide: another archive's prefix, a partition whose group and receipts disagree. Also after SIGTERM, where
    /// a partition had stopped and everything else is committed; and of a restore, where a source partition stopped.
    Stopped = 5,
    /// SIGTERM: the timeout passed, or partitions were taken away, before everything was committed. Nothing is lost; the
    /// rest is read again.
    Incomplete = 6,
    /// A second signal: left at once. Nothing is lost; what was open is read again.
    Interrupted = 7,
    /// `verify` found something that is wrong, or `backfill --missing` could not mend all of it.
    Findings = 8,
}

/// An error with the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What was tried, on what, what came back, what to do.
    pub message: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
