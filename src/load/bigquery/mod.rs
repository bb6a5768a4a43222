//! BigQuery: one load job for each complete hour or day of a table, and external tables.
//!
//! # Guarantees
//! - **Q-1** The id of a load job is made of a digest of (table, hour, offset ranges) and of an attempt: `siltstone_<digest>_<attempt>`.
//!   BigQuery takes an id once, so of several processes, or of a process and what it did before it died, one loads an attempt and the
//!   others wait for it.
//! - **Q-2** Attempts are counted by BigQuery: the last job that is there decides. One that runs is waited for, one that is done is
//!   what was asked for, one that failed is followed by the next.
//! - **Q-3** A load replaces: its partition (`table$YYYYMMDDHH`, `table$YYYYMMDD`) or, without partitions, the table. Both happen whole or
//!   not at all. So a job that runs twice leaves what one leaves.
//! - **Q-4** A set of ranges that is no longer the newest cannot be loaded once a newer one is: whoever loads the newer one bars the ids of
//!   [`HourLoad::earlier`] first, with a job that does nothing under the next id of each. Whoever comes late then is told
//!   [`LoadFaultKind::Superseded`].
//! - **Q-5** Exactly the objects that are named are loaded; a `*` only where the caller says that it has looked what it stands for.
//!
//! # What BigQuery must be like
//! Jobs are remembered for six months. A set that is asked for after that is loaded again, which replaces the partition by itself.
//! A job that somebody else made is seen by `bigquery.jobs.get` on the project (`roles/bigquery.admin`, or a role of one's own): processes
//! with logins of their own need that, processes that share one do not. Beside that a login needs `roles/bigquery.jobUser` on the project,
//! `roles/bigquery.dataEditor` on the dataset and `roles/storage.objectViewer` on the bucket, which must be where the dataset is.
//!
//! A table has at most 10,000 partitions: by hours these are 416 days. Let partitions expire, or load by days.
//!
//! # What was weighed
//! Requests and logins are made by Google's own clients, `google-cloud-bigquery-v2` and `google-cloud-auth`. They bring reqwest 0.13 beside
//! the 0.12 of `object_store`, on the same hyper and rustls, and about a minute of compiling. `gcp-bigquery-client` 0.28 stays on reqwest
//! 0.12 and brings as many crates (tonic and prost cannot be left out), but cannot say `parquetOptions`, without which a Parquet list is no
//! `REPEATED` column, and forgets the status of answers that are not JSON.

mod api;
mod attempts;
mod connect;
mod external;
mod fault;
mod request;
mod zone;

pub use connect::{Credentials, Settings};
pub use external::{ExternalTable, HiveKeys, Made};
pub use fault::{LoadFault, LoadFaultKind, RowError};
pub use zone::{Misfit, granularity};

use crate::clock::Clock;
use api::Api;
use chrono::DateTime;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Most URIs that a load job takes.
pub const URIS_MAX: usize = 10_000;

/// A table by its full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableRef {
    /// The project that has the dataset.
    pub project: String,
    /// The dataset.
    pub dataset: String,
    /// The table, without a partition decorator.
    pub table: String,
}

impl FromStr for TableRef {
    type Err = String;

    /// Reads `project.dataset.table`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("`{text}` is no table: {what}; it is written PROJECT.DATASET.TABLE");
        // A project may have the name of a domain in front, with dots.
        let mut parts = text.rsplitn(3, '.');
        let (Some(table), Some(dataset), Some(project)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it has too few parts"));
        };
        let is_word = |part: &str, more: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !is_word(project, "-.:") {
            return Err(wrong("a project is made of letters, digits and -"));
        }
        if !is_word(dataset, "_") {
            return Err(wrong("a dataset is made of letters, digits and _"));
        }
        if !is_word(table, "_-") {
            return Err(wrong("a table is made of letters, digits, _ and -, without a partition"));
        }
        Ok(Self { project: project.to_string(), dataset: dataset.to_string(), table: table.to_string() })
    }
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}

/// What a partition holds: an hour or a day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// `table$YYYYMMDDHH`.
    Hour,
    /// `table$YYYYMMDD`.
    Day,
}

impl Granularity {
    /// How long a partition is.
    pub const fn ms(self) -> i64 {
        match self {
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }

    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// BigQuery's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Hour => "HOUR",
            Self::Day => "DAY",
        }
    }

    /// What a partition is called behind the `$`. `None` where `start_ms` is not where one begins, or no time of BigQuery's.
    pub fn partition_id(self, start_ms: i64) -> Option<String> {
        let start = DateTime::from_timestamp_millis(start_ms)?;
        let pattern = match self {
            Self::Hour => "%Y%m%d%H",
            Self::Day => "%Y%m%d",
        };
        let is_start = start_ms.rem_euclid(self.ms()) == 0;
        (is_start && (1..=9999).contains(&chrono::Datelike::year(&start))).then(|| start.format(pattern).to_string())
    }
}

/// How objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Parquet. Lists are read as `REPEATED` columns.
    Parquet,
    /// Avro containers. Logical types are read as what they mean.
    Avro,
    /// A JSON object a line.
    NewlineDelimitedJson,
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Self::Parquet => "PARQUET",
            Self::Avro => "AVRO",
            Self::NewlineDelimitedJson => "NEWLINE_DELIMITED_JSON",
        }
    }

    /// Refuses what BigQuery cannot read, as far as Google's pages on loading each format tell. JSON is unpacked from gzip alone, which
    /// BigQuery notices by itself; the other two say inside what they are packed with.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    pub fn check(self, compression: Compression) -> Result<(), String> {
        use Compression::{Deflate, Gzip, Lz4, None, Snappy, Zstd};
        let (name, allowed): (_, &[Compression]) = match self {
            Self::Parquet => ("Parquet", &[None, Gzip, Lz4, Snappy, Zstd]),
            Self::Avro => ("Avro", &[None, Deflate, Snappy, Zstd]),
            Self::NewlineDelimitedJson => ("JSON lines", &[None, Gzip]),
        };
        if allowed.contains(&compression) {
            return Ok(());
        }
        let names: Vec<_> = allowed.iter().map(|one| format!("{one:?}").to_lowercase()).collect();
        Err(format!(
            "BigQuery does not read {name} packed with {}: choose {}",
            format!("{compression:?}").to_lowercase(),
            names.join(", ")
        ))
    }
}

/// What objects are packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    None,
    /// gzip.
    Gzip,
    /// Raw LZ4.
    Lz4,
    /// Snappy.
    Snappy,
    /// Zstandard.
    Zstd,
    /// Deflate, as Avro has it.
    Deflate,
}

/// A column, in BigQuery's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BqField {
    /// Its name.
    pub name: String,
    /// `STRING`, `INTEGER`, `TIMESTAMP`, `RECORD`, …
    pub kind: String,
    /// How many values it has.
    pub mode: Mode,
    /// The columns of a `RECORD`.
    pub fields: Vec<BqField>,
    /// Digits in all and behind the point, of `NUMERIC` and `BIGNUMERIC`.
    pub digits: Option<(i64, i64)>,
    /// What people read.
    pub description: Option<String>,
}

impl BqField {
    /// `wanted` with what `there` has besides: a load must not leave out a column of its table.
    pub fn with_those_of(wanted: &[Self], there: &[Self]) -> Vec<Self> {
        request::with_those_of(wanted, there)
    }
}

/// How many values a column has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One or none. Only such columns, and repeated ones, can be added to a table.
    #[default]
    Nullable,
    /// One.
    Required,
    /// Any number.
    Repeated,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Nullable => "NULLABLE",
            Self::Required => "REQUIRED",
            Self::Repeated => "REPEATED",
        }
    }
}

/// What is to be in a table.
#[derive(Clone, Debug)]
pub struct HourLoad<'a> {
    /// The table.
    pub table: &'a TableRef,
    /// Start of the hour or day, UTC milliseconds, and what partitions hold. `None`: the table has no partitions, and the load is all that is
    /// in it.
    pub partition: Option<(i64, Granularity)>,
    /// The column of event times that partitions are made by; each row must be in the partition by it. `None`: by the time of ingestion, so
    /// that rows are where they are put (`_PARTITIONTIME`).
    pub partition_field: Option<&'a str>,
    /// `gs://` URIs of all objects of the partition, of all folders that belong to it. At least one, at most [`URIS_MAX`].
    pub uris: &'a [String],
    /// Whether the caller has looked that what a `*` in the URIs stands for is what is meant, and nothing else. Without it a `*` is refused.
    pub has_proved_wildcards: bool,
    /// How they are written.
    pub format: Format,
    /// What they are packed with.
    pub compression: Compression,
    /// All columns. Those that the table does not have are added; it is an error to leave out one that it has.
    pub schema: &'a [BqField],
    /// Digest of (table, hour, offset ranges): 32 hex digits.
    pub digest: &'a str,
    /// The digests of all earlier revisions of this partition. They can never be loaded after this.
    pub earlier: &'a [String],
    /// Another set was loaded into this partition by a job that ended then, in BigQuery's time: only a job made later counts. See
    /// [`Loaded::ended_ms`].
    pub after_ms: Option<i64>,
    /// The archive, for the job's label.
    pub archive: &'a str,
}

/// What a load job did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The job.
    pub job_id: String,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// Whether this call made the job. `false`: it was there, from another process or an earlier call.
    pub is_new: bool,
    /// Rows that it wrote, as BigQuery counts them.
    pub rows: Option<i64>,
    /// Bytes that they have in BigQuery.
    pub bytes: Option<i64>,
    /// Objects that it read.
    pub objects: Option<i64>,
    /// When it was made, milliseconds in BigQuery's time.
    pub created_ms: i64,
    /// When it was done, milliseconds in BigQuery's time. A caller that finds now that the set is no longer the newest loads the newest with this
    /// as [`HourLoad::after_ms`].
    pub ended_ms: i64,
}

/// How long things are waited for.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Before the second request after one that failed, and between the first two looks at a job. Doubles each time.
    pub first: Duration,
    /// What that grows to.
    pub most: Duration,
    /// For one answer.
    pub answer: Duration,
    /// For a request that fails again and again with what may pass.
    pub call: Duration,
    /// For a job that runs.
    pub job: Duration,
    /// After a job that failed with what does not pass by itself, until it is tried again. Doubles with each attempt, up to 32 times as long.
    pub failed: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            most: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            call: Duration::from_secs(300),
            job: Duration::from_secs(3_600),
            failed: Duration::from_secs(600),
        }
    }
}

/// Loads tables. Cheap calls may go on side by side.
pub struct BigQuery {
    api: Api,
    location: Option<String>,
    labels: BTreeMap<String, String>,
    pace: Pace,
    clock: Arc<dyn Clock>,
    /// Of each dataset that was asked for.
    locations: tokio::sync::Mutex<BTreeMap<(String, String), String>>,
}

impl fmt::Debug for BigQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BigQuery").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
