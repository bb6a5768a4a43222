//! The configuration: a TOML file, resolved into typed values with every default filled in.
//!
//! ```text
//!       tree, interpolate             raw, shape           resolve, archive, …
//! text ───────────────────▶ values ──────────────▶ sections ──────────────────▶ Config
//!                           with lines              known keys
//! ```
//! Every problem of a file is reported at once; each names the key, the value, the line and what is allowed.
//! Nothing here opens a connection or a file but the configuration itself and the schema files it names.

mod archive;
mod client;
mod decode;
mod destination;
mod effective;
mod error;
pub mod hook;
mod interpolate;
pub mod load;
mod memory;
mod output;
mod place;
mod program;
mod raw;
mod registry;
mod resolve;
mod schema;
mod shape;
#[cfg(test)]
mod tests;
mod time;
mod tree;
mod units;

pub use archive::{
    DEFAULT_ALLOWED_LATENESS, DEFAULT_ARCHIVE, DEFAULT_IDLE_GRACE, DEFAULT_MARKER, DEFAULT_MAX_FUTURE,
    DEFAULT_REVISE_AFTER,
};
pub use client::refused_setting;
pub use effective::effective_toml;
pub use error::{ConfigError, ConfigErrors};
pub use interpolate::PER_PROCESS_VARIABLES;
pub use memory::MemoryShares;
pub use output::{
    DEFAULT_AVRO_CODEC, DEFAULT_BLOCK_BYTES, DEFAULT_GZIP_LEVEL, DEFAULT_PREFIX, DEFAULT_ROW_GROUP_BYTES,
    DEFAULT_ROW_GROUP_ROWS, DEFAULT_ZSTD_LEVEL, REST_COLUMN,
};
pub use resolve::{
    DEFAULT_BUDGET, DEFAULT_GROUP, DEFAULT_PART_SIZE, DEFAULT_REVOKE_GRACE, DEFAULT_ROTATE, DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_SPOOL_DIR, DEFAULT_SPOOL_LIMIT, DEFAULT_UPLOADS,
};
pub use schema::{DEPTH_MOST, FIELDS_MOST, LIST_ELEMENT};
pub use shape::{SHAPES, Shape};
pub use units::{size_of, time_of};

use crate::layout::Layout;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// Reads the configuration in `path`; relative paths in it start at its folder. `env` gives the variables.
///
/// # Errors
/// Everything that is wrong with it, at once: see [`parse`]. A file that cannot be read is one error.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path.parent().unwrap_or(Path::new("")), env),
        Err(error) => Err(ConfigErrors(vec![ConfigError {
            key: String::new(),
            line: None,
            value: None,
            problem: format!("the configuration file {} cannot be read: {error}", path.display()),
            allowed: None,
        }])),
    }
}

/// Reads a configuration from its text; relative paths in it start at `base_dir`. `env` gives the variables.
///
/// Never panics, whatever the text. Opens no file but the schema files that the text names.
///
/// # Errors
/// Everything that is wrong with it, at once, by line. Text that is not TOML is reported alone.
/// No error holds a secret, and none shows what a variable was replaced by as the value of its key.
pub fn parse(text: &str, base_dir: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    let errors = error::Errors::default();
    let root = tree::read(text, env, &errors);
    let config = root.and_then(|root| resolve::resolve(&root, base_dir, &errors));
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(errors.into_errors()),
    }
}

/// A value that never shows itself in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
    /// The value itself, for the client that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[kafka]`.
    pub kafka: KafkaConfig,
    /// `[spool]`.
    pub spool: SpoolConfig,
    /// `[memory]`.
    pub memory: MemoryConfig,
    /// `[http]`; `None`: no listener.
    pub http: Option<SocketAddr>,
    /// `[upload]`.
    pub upload: UploadConfig,
    /// `[registry]`; `None`: there is none.
    pub registry: Option<RegistryConfig>,
    /// `[shutdown] timeout`: how long SIGTERM may take to seal, upload and commit. Default 60 s.
    pub shutdown_timeout: Duration,
    /// `[destinations.*]` by name.
    pub destinations: BTreeMap<String, DestinationConfig>,
    /// `[[archive]]` in file order. At least one.
    pub archives: Vec<ArchiveConfig>,
}

/// `[kafka]`.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port,…`.
    pub brokers: String,
    /// Consumer group. Default `siltstone`.
    pub group: String,
    /// Where a partition without committed offset starts. Default earliest.
    pub start: Start,
    /// Default read_committed.
    pub isolation: Isolation,
    /// Group protocol. Default classic (cooperative-sticky).
    pub protocol: GroupProtocol,
    /// Static membership.
    pub instance_id: Option<String>,
    /// How long a revoke waits for planned batches to be committed. Default 10 s.
    pub revoke_grace: Duration,
    /// `[kafka.client]`: other librdkafka settings. Values may be secrets.
    pub client: BTreeMap<String, Secret>,
}

/// First position of a partition that never had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The log's first offset.
    Earliest,
    /// The log's end at that moment.
    Latest,
    /// The first record whose Kafka timestamp is at or after this many milliseconds UTC.
    Time(i64),
}

/// Kafka's isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Aborted and open transactions are not read.
    ReadCommitted,
    /// Everything is read.
    ReadUncommitted,
}

/// Kafka's group protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Classic, cooperative-sticky.
    Classic,
    /// KIP-848.
    Consumer,
}

/// `[spool]`.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Folder. Default `/var/lib/siltstone`.
    pub dir: PathBuf,
    /// Most bytes on disk before reading pauses. Default 20 GiB.
    pub limit: u64,
}

/// `[memory]`.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Bytes for queues, rows, encoders and upload buffers together. Default 256 MiB.
    pub budget: u64,
    /// Encoder threads. Default: the machine's cores.
    pub threads: usize,
}

/// `[upload]`.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// Objects uploaded side by side in the whole process. Default 8.
    pub concurrency: usize,
    /// Bytes of one multipart piece; larger objects than this go up in pieces. Default 8 MiB, at least 5 MiB, at most an
    /// eighth of the budget.
    pub part_size: u64,
}

/// `[registry]`: a schema registry with Confluent's API.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Base URLs, asked in order until one answers. At least one, without secrets.
    pub urls: Vec<Url>,
    /// How to log in.
    pub login: Option<RegistryLogin>,
    /// A file with certificates in PEM that are trusted beside the machine's.
    pub ca_file: Option<PathBuf>,
    /// Ids that count as unknown, whatever the registry says of them. Default none.
    pub unknown_ids: BTreeSet<u32>,
}

/// How to log in to a schema registry.
#[derive(Clone, Debug)]
pub enum RegistryLogin {
    /// HTTP's basic authentication: user and password.
    Basic(String, Secret),
    /// A bearer token.
    Bearer(Secret),
}

/// `[destinations.NAME]`.
#[derive(Clone, Debug)]
pub struct DestinationConfig {
    /// `file:///…`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
    /// `hdfs://host:port/folder`: in the normal form of
    /// [`crate::destination::url::StoreUrl`] where it comes from a configuration, and without secrets.
    pub url: String,
    /// Everything else of the section, by key: `endpoint`, `region`, `access_key_id`, … Values may be secrets.
    pub options: BTreeMap<String, Secret>,
}

/// `[[archive]]`.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// Stable name.
    pub name: String,
    /// Which topics; a topic belongs to the first archive in file order that matches.
    pub topics: TopicPatterns,
    /// Names, rows and destinations: what the fingerprint covers.
    pub layout: Layout,
    /// Names of the destinations of each output, in the order of `layout.outputs`, then of the dead letters.
    /// The first destination of the first output holds claims and receipts.
    pub destination_names: Vec<Vec<String>>,
    /// When batches are sealed.
    pub rotate: Rotate,
    /// Records gone before they were read: go on (counted) or halt the partition. Default go on.
    pub halt_on_gap: bool,
    /// Event times further ahead of the Kafka timestamp than this do not move the watermark. Default 1 h.
    pub max_future: Duration,
    /// `[archive.complete]`: folders of windows that are over get a marker; `None`: nothing is completed.
    pub complete: Option<CompleteConfig>,
    /// `[[archive.load]]`: what brings complete folders into catalogues and databases.
    pub loads: Vec<LoadConfig>,
    /// `[[archive.hook]]`: who is told of batches and of complete folders.
    pub hooks: Vec<HookConfig>,
    /// Whether objects of gzip and zstd text carry `Content-Encoding`. Default no (`Content-Type` is the codec's then).
    pub content_encoding: bool,
}

/// `[archive.complete]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteConfig {
    /// How much later than newer ones records may come before their window is complete. Default 10 min.
    pub allowed_lateness: Duration,
    /// How much longer a Kafka partition without new records holds a window back. Default 5 min.
    pub idle_grace: Duration,
    /// Name of the marker. Default `_SUCCESS`.
    pub marker: String,
    /// How long after a folder was completed it is not completed again, whatever comes late. Default 5 min.
    pub revise_after: Duration,
}

/// `[[archive.load]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadConfig {
    /// Its name: it stands in the bucket. Default the type.
    pub name: String,
    /// Whose folders.
    pub output: String,
    /// URL of the destination that is loaded from.
    pub destination: String,
    /// Its name.
    pub destination_name: String,
    /// Folders whose windows end behind it alone, milliseconds UTC. Default all.
    pub since_ms: Option<i64>,
    /// Into what.
    pub to: LoadTo,
}

/// `[[archive.hook]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfig {
    /// Its name: it stands in the bucket. Default the type.
    pub name: String,
    /// How.
    pub to: HookTo,
    /// Of what. Default batches, and folders where they are completed.
    pub on: HookOn,
    /// How long one call may take. Default 30 s.
    pub timeout: Duration,
}

/// How a hook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookTo {
    /// `type = "command"`.
    Command {
        /// The program: a path, or a name that `PATH` has.
        program: String,
        /// Its arguments. Any may be a secret.
        arguments: Vec<Secret>,
    },
    /// `type = "http"`.
    Http {
        /// Where to post to. Path and query may be secrets.
        url: Secret,
        /// A bearer token.
        token: Option<Secret>,
    },
    /// `type = "kafka"`: a topic of the cluster that is read from.
    Kafka {
        /// The topic.
        topic: String,
    },
}

/// Of what a hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookOn {
    /// Of each batch.
    pub batch: bool,
    /// Of each revision of a complete folder.
    pub folder: bool,
}

/// Into what folders are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadTo {
    /// `type = "hive"`.
    Hive(HiveLoad),
    /// `type = "bigquery"`.
    BigQuery(BigQueryLoad),
}

/// Partitions of a table in a Hive Metastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiveLoad {
    /// `thrift://host:port`, tried in order.
    pub uris: Vec<String>,
    /// Whether they speak TLS. Default no.
    pub tls: bool,
    /// Certificates in PEM that are trusted beside the machine's.
    pub ca_file: Option<PathBuf>,
    /// As whom, where the metastore believes it.
    pub user: Option<String>,
    /// The database. Default `default`.
    pub database: String,
    /// The table, with `{topic}` and `{output}`.
    pub table: String,
    /// Whether it is created where there is none. Default no.
    pub create: bool,
    /// Whether columns are added that it lacks. Default no.
    pub add_columns: bool,
    /// The destination as engines read it. Default as Hadoop's file systems do: `s3a://`, `gs://`, `abfss://`, `hdfs://`, `file://`.
    pub location: Option<String>,
    /// What else a table that is created has in `TBLPROPERTIES`.
    pub parameters: BTreeMap<String, String>,
}

/// Tables of BigQuery's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BigQueryLoad {
    /// The project that has the dataset, and in which jobs run.
    pub project: String,
    /// The dataset.
    pub dataset: String,
    /// The table, with `{topic}` and `{output}`; with strftime parts, a table for each window.
    pub table: String,
    /// A table over the folders themselves, and no loads. Default no.
    pub external: bool,
    /// The column that the table is partitioned by. Default none: the time of ingestion.
    pub partition_field: Option<String>,
    /// Where jobs run. Default where the dataset is.
    pub location: Option<String>,
    /// A key, or what workload identity federation writes. Default what the machine has.
    pub credentials_file: Option<PathBuf>,
    /// An emulator, which is asked without a login.
    pub endpoint: Option<String>,
    /// Labels of jobs and tables.
    pub labels: BTreeMap<String, String>,
}

/// `topics` and `exclude`.
#[derive(Clone, Debug)]
pub struct TopicPatterns {
    /// Exact names.
    pub names: Vec<String>,
    /// Patterns as written, with their leading `^`, and compiled (matching from the start of the name).
    pub patterns: Vec<(String, Regex)>,
    /// The same for `exclude`; names are exact.
    pub exclude_names: Vec<String>,
    /// Patterns of `exclude`.
    pub exclude_patterns: Vec<(String, Regex)>,
}

impl TopicPatterns {
    /// Whether `topic` belongs here. Topics that start with `__` match no pattern, only exact names.
    pub fn matches(&self, topic: &str) -> bool {
        let excluded = self.exclude_names.iter().any(|name| name == topic)
            || self.exclude_patterns.iter().any(|(_, pattern)| pattern.is_match(topic));
        if excluded {
            return false;
        }
        let by_name = self.names.iter().any(|name| name == topic);
        let by_pattern = !topic.starts_with("__") && self.patterns.iter().any(|(_, pattern)| pattern.is_match(topic));
        by_name || by_pattern
    }

    /// The topic, if there can only ever be this one.
    pub fn only(&self) -> Option<&str> {
        match (self.names.as_slice(), self.patterns.is_empty()) {
            ([name], true) => Some(name),
            _ => None,
        }
    }
}

/// `[rotate]` and `[archive.rotate]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// Bytes on disk of any part. Default 128 MiB.
    pub size: u64,
    /// Age of the oldest record, wall clock. Default 10 min.
    pub age: Duration,
    /// Records of the batch. Default 5,000,000.
    pub records: u64,
    /// Payload bytes read. Default none.
    pub bytes: Option<u64>,
    /// After the end of a window that was open when it ended. Default 2 min; `None`: windows closing seal nothing.
    pub grace: Option<Duration>,
}
