//! What a metastore answered, in words, and what can be done about it.

use crate::destination::fault::Verdict;

/// An exception that the metastore's interface declares, or thrift's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// Anything that failed inside: its database, a file system.
    Meta,
    /// No such database, table or partition.
    NoSuchObject,
    /// There is one already.
    AlreadyExists,
    /// What it was given does not fit.
    InvalidObject,
    /// What is asked for cannot be done to what is there.
    InvalidOperation,
    /// It does not know the call, or failed in a way that it has no name for.
    Application,
}

impl Exception {
    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "MetaException",
            Self::NoSuchObject => "NoSuchObjectException",
            Self::AlreadyExists => "AlreadyExistsException",
            Self::InvalidObject => "InvalidObjectException",
            Self::InvalidOperation => "InvalidOperationException",
            Self::Application => "TApplicationException",
        }
    }
}

/// Why a table or a partition is not in the metastore as it should be. [`HiveError::verdict`] says what comes next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HiveError {
    /// A setting cannot be used.
    #[error("the Hive metastore's {key} {value:?}: {reason}")]
    Settings {
        /// Which one.
        key: &'static str,
        /// What it is.
        value: String,
        /// What is wrong, and what it should be.
        reason: String,
    },
    /// None of the metastores takes a connection.
    #[error("{what}: no Hive metastore takes a connection ({reasons}): check the URIs, and that one is running there")]
    Unreachable {
        /// What was tried.
        what: String,
        /// What each of them did.
        reasons: String,
    },
    /// A TLS connection could not be made.
    #[error("{what}: no TLS connection to {uri}: {reason}: check ca_file, and whether this metastore speaks TLS")]
    Tls {
        /// What was tried.
        what: String,
        /// Where.
        uri: String,
        /// What came back.
        reason: String,
    },
    /// The connection broke or the answer did not come in time. It may have happened, or may still happen.
    #[error(
        "{what}: {uri} was asked ({call}), and {reason}: it may have happened all the same; asking again does no harm"
    )]
    Interrupted {
        /// What was tried.
        what: String,
        /// Where.
        uri: String,
        /// The call.
        call: &'static str,
        /// What came instead of an answer.
        reason: String,
    },
    /// What answers is no metastore, or one that is spoken to in another way.
    #[error(
        "{what}: {uri} answers {call} with something else than unframed thrift ({reason}): check the port and tls; a metastore with Kerberos (SASL), framed transport or HTTP cannot be used"
    )]
    NotMetastore {
        /// What was tried.
        what: String,
        /// Where.
        uri: String,
        /// The call.
        call: &'static str,
        /// What came back.
        reason: String,
    },
    /// The metastore refuses or fails.
    #[error("{what}: {uri} answers {call} with {}: {message}{}", .exception.name(), advice(*.exception, .message))]
    Answered {
        /// What was tried.
        what: String,
        /// Where.
        uri: String,
        /// The call.
        call: &'static str,
        /// Which exception.
        exception: Exception,
        /// Its text, the beginning of it.
        message: String,
    },
    /// There is no such database.
    #[error(
        "the Hive metastore has no database {database}: create it there (CREATE DATABASE {database}), or name another"
    )]
    NoDatabase {
        /// The database.
        database: String,
    },
    /// There is no such table, and nobody asked for it to be created.
    #[error(
        "the Hive metastore has no table {table}: create it there (`siltstone ddl hive` prints the statement), or let it be created"
    )]
    NoTable {
        /// Database and table.
        table: String,
    },
    /// The table's files are the metastore's: `DROP TABLE` would delete the archive.
    #[error(
        "the Hive table {table} is {found}, not an EXTERNAL_TABLE: dropping it would delete archived objects, so nothing is added to it; create it as external, or name another"
    )]
    NotExternal {
        /// Database and table.
        table: String,
        /// What it is.
        found: String,
    },
    /// The partition keys are others.
    #[error(
        "the Hive table {table} is partitioned by ({found}), but the layout's folders by ({wanted}): name another table, or change the layout"
    )]
    PartitionKeys {
        /// Database and table.
        table: String,
        /// What the output has.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The files are of another format.
    #[error("the Hive table {table} is read with {found}, but the output's objects with {wanted}: name another table")]
    Format {
        /// Database and table.
        table: String,
        /// What the output has.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// Columns lack, or are of another type.
    #[error("the Hive table {table} has not the output's columns: {differences}. {advice}")]
    Columns {
        /// Database and table.
        table: String,
        /// Each column: what is wanted, what is there.
        differences: String,
        /// What to do.
        advice: &'static str,
    },
    /// A partition was handed over that is not one of the table's.
    #[error(
        "the partition of {table} has the keys ({given}), but the table ({found}): the layout was changed since the table was looked at"
    )]
    Values {
        /// Database and table.
        table: String,
        /// What was handed over.
        given: String,
        /// What is there.
        found: String,
    },
    /// Others change the same all the time.
    #[error("{what}: somebody else changed the same {rounds} times in between: find out who else writes this table")]
    Contended {
        /// What was tried.
        what: String,
        /// How often.
        rounds: u32,
    },
}

/// The metastore makes folders itself, with the file systems that it has on its own class path.
fn lacks_file_system(message: &str) -> bool {
    message.contains("No FileSystem for scheme")
        || (message.contains("ClassNotFoundException") && message.contains("FileSystem not found"))
}

fn advice(exception: Exception, message: &str) -> &'static str {
    match exception {
        Exception::Meta if lacks_file_system(message) => {
            ": the metastore itself needs the library of this file system (hadoop-aws for s3a, gcs-connector for gs), or a location of another scheme"
        }
        Exception::Meta => ": the metastore's own log tells more",
        Exception::Application => ": a metastore from 2.3 to 4.0 is needed",
        Exception::NoSuchObject | Exception::AlreadyExists | Exception::InvalidObject | Exception::InvalidOperation => {
            ""
        }
    }
}

impl HiveError {
    /// What the caller does next.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Contended { .. } => Verdict::Retry,
            Self::Answered { exception: Exception::Meta, message, .. } if !lacks_file_system(message) => Verdict::Retry,
            Self::Settings { .. }
            | Self::Tls { .. }
            | Self::NotMetastore { .. }
            | Self::Answered { .. }
            | Self::NoDatabase { .. }
            | Self::NoTable { .. }
            | Self::NotExternal { .. }
            | Self::PartitionKeys { .. }
            | Self::Format { .. }
            | Self::Columns { .. } => Verdict::Refused,
            Self::Values { .. } => Verdict::Stop,
        }
    }

    /// Whether the metastore answered with this exception.
    pub fn is(&self, wanted: Exception) -> bool {
        matches!(self, Self::Answered { exception, .. } if *exception == wanted)
    }
}
