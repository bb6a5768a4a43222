//! Which keys a configuration can have. The one list behind unknown keys, their nearest names, and the test that
//! `config/full.toml` documents every key.

use crate::destination::StoreKind;
use std::sync::LazyLock;

/// The keys of one section.
#[derive(Debug)]
pub struct Shape {
    /// Where it stands; `*` is any name.
    pub at: &'static str,
    /// What its keys depend on: a scheme or a type. Empty where there is only one such section.
    pub of: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

/// Every key that a configuration can have, by section. Sections whose keys depend on a `type` or on the scheme of a
/// URL come once for each. `[kafka.client]` is not among them: its keys are librdkafka's.
pub const SHAPES: &[&Shape] = &[
    &ROOT,
    &KAFKA,
    &SPOOL,
    &MEMORY,
    &HTTP,
    &UPLOAD,
    &SHUTDOWN,
    &REGISTRY,
    &FILE,
    &S3,
    &GS,
    &AZ,
    &HDFS,
    &ROTATE,
    &ARCHIVE,
    &DECODE_JSON,
    &DECODE_RAW,
    &DECODE_LTSV,
    &DECODE_CSV,
    &DECODE_REGEX,
    &DECODE_GROK,
    &DECODE_SYSLOG,
    &DECODE_MSGPACK,
    &DECODE_AVRO,
    &DECODE_PROTOBUF,
    &DECODE_JSON_SCHEMA,
    &TIMESTAMP,
    &ARCHIVE_ROTATE,
    &COMPLETE,
    &LOAD_HIVE,
    &LOAD_BIGQUERY,
    &HOOK_COMMAND,
    &HOOK_HTTP,
    &HOOK_KAFKA,
    &DEAD_LETTERS,
    &OUTPUT,
    &FORMAT_RAW,
    &FORMAT_JSON,
    &FORMAT_PARQUET,
    &FORMAT_AVRO,
    &FORMAT_ENVELOPE,
    &SCHEMA_MESSAGE,
    &KEEP,
    &LAYOUT,
];

pub(super) const ROOT: Shape = Shape {
    at: "",
    of: "",
    keys: &["kafka", "spool", "memory", "http", "upload", "shutdown", "registry", "destinations", "rotate", "archive"],
};
pub(super) const KAFKA: Shape = Shape {
    at: "kafka",
    of: "",
    keys: &["brokers", "group", "start", "isolation", "protocol", "instance_id", "revoke_grace", "client"],
};
pub(super) const SPOOL: Shape = Shape { at: "spool", of: "", keys: &["dir", "limit"] };
pub(super) const MEMORY: Shape = Shape { at: "memory", of: "", keys: &["budget", "threads"] };
pub(super) const HTTP: Shape = Shape { at: "http", of: "", keys: &["listen"] };
pub(super) const UPLOAD: Shape = Shape { at: "upload", of: "", keys: &["concurrency", "part_size"] };
pub(super) const SHUTDOWN: Shape = Shape { at: "shutdown", of: "", keys: &["timeout"] };
pub(super) const REGISTRY: Shape =
    Shape { at: "registry", of: "", keys: &["url", "username", "password", "token", "ca_file", "unknown_ids"] };
pub(super) const FILE: Shape = destination(StoreKind::File, "file://");
pub(super) const S3: Shape = destination(StoreKind::S3, "s3://");
pub(super) const GS: Shape = destination(StoreKind::Gcs, "gs://");
pub(super) const AZ: Shape = destination(StoreKind::Azure, "az://");
pub(super) const HDFS: Shape = destination(StoreKind::Hdfs, "hdfs://");
pub(super) const ROTATE: Shape = Shape { at: "rotate", of: "", keys: &["size", "age", "records", "bytes", "grace"] };
pub(super) const ARCHIVE: Shape = Shape {
    at: "archive",
    of: "",
    keys: &[
        "name",
        "topics",
        "exclude",
        "decode",
        "transform",
        "timestamp",
        "tombstones",
        "generation",
        "on_gap",
        "max_future",
        "content_encoding",
        "rotate",
        "complete",
        "load",
        "hook",
        "dead_letters",
        "output",
    ],
};
pub(super) const DECODE_JSON: Shape = decode("type = \"json\"", &["type", "validate", "unfold", "names"]);
pub(super) const DECODE_RAW: Shape = decode("type = \"raw\"", &["type"]);
pub(super) const DECODE_LTSV: Shape = decode("type = \"ltsv\"", &["type", "types", "nulls"]);
pub(super) const DECODE_CSV: Shape =
    decode("type = \"csv\"", &["type", "columns", "delimiter", "quote", "unfold", "types", "nulls"]);
pub(super) const DECODE_REGEX: Shape = decode("type = \"regex\"", &["type", "pattern", "types", "nulls"]);
pub(super) const DECODE_GROK: Shape = decode("type = \"grok\"", &["type", "pattern", "patterns", "types", "nulls"]);
pub(super) const DECODE_SYSLOG: Shape = decode("type = \"syslog\"", &["type", "zone"]);
pub(super) const DECODE_AVRO: Shape = decode("type = \"avro\"", &["type", "schema", "registry"]);
pub(super) const DECODE_PROTOBUF: Shape =
    decode("type = \"protobuf\"", &["type", "descriptors", "message", "unknown", "registry"]);
pub(super) const DECODE_JSON_SCHEMA: Shape = decode("type = \"json_schema\"", &["type"]);
pub(super) const DECODE_MSGPACK: Shape = decode("type = \"msgpack\"", &["type", "unfold", "names"]);
pub(super) const TIMESTAMP: Shape =
    Shape { at: "archive.timestamp", of: "", keys: &["field", "header", "unit", "format", "zone", "fallback"] };
pub(super) const ARCHIVE_ROTATE: Shape =
    Shape { at: "archive.rotate", of: "", keys: &["size", "age", "records", "bytes", "grace"] };
pub(super) const COMPLETE: Shape =
    Shape { at: "archive.complete", of: "", keys: &["allowed_lateness", "idle_grace", "revise_after", "marker"] };
pub(super) const LOAD_HIVE: Shape = Shape {
    at: "archive.load",
    of: "type = \"hive\"",
    keys: &[
        "name",
        "type",
        "output",
        "destination",
        "since",
        "uri",
        "tls",
        "ca_file",
        "user",
        "database",
        "table",
        "create",
        "add_columns",
        "location",
        "parameters",
    ],
};
pub(super) const LOAD_BIGQUERY: Shape = Shape {
    at: "archive.load",
    of: "type = \"bigquery\"",
    keys: &[
        "name",
        "type",
        "output",
        "destination",
        "since",
        "project",
        "dataset",
        "table",
        "external",
        "partition_field",
        "location",
        "credentials_file",
        "endpoint",
        "labels",
    ],
};
pub(super) const HOOK_COMMAND: Shape =
    Shape { at: "archive.hook", of: "type = \"command\"", keys: &["name", "type", "command", "on", "timeout"] };
pub(super) const HOOK_HTTP: Shape =
    Shape { at: "archive.hook", of: "type = \"http\"", keys: &["name", "type", "url", "token", "on", "timeout"] };
pub(super) const HOOK_KAFKA: Shape =
    Shape { at: "archive.hook", of: "type = \"kafka\"", keys: &["name", "type", "topic", "on", "timeout"] };
pub(super) const DEAD_LETTERS: Shape =
    Shape { at: "archive.dead_letters", of: "", keys: &["format", "path", "name", "zone", "destination"] };
pub(super) const OUTPUT: Shape =
    Shape { at: "archive.output", of: "", keys: &["name", "filter", "format", "keep", "layout", "destination"] };
pub(super) const FORMAT_RAW: Shape =
    Shape { at: "archive.output.format", of: "type = \"raw\"", keys: &["type", "compression", "level", "newlines"] };
pub(super) const FORMAT_JSON: Shape =
    Shape { at: "archive.output.format", of: "type = \"json\"", keys: &["type", "compression", "level"] };
pub(super) const FORMAT_PARQUET: Shape = Shape {
    at: "archive.output.format",
    of: "type = \"parquet\"",
    keys: &[
        "type",
        "compression",
        "level",
        "schema",
        "unknown",
        "row_group_bytes",
        "row_group_rows",
        "bloom_filters",
        "dictionary",
        "page_bytes",
    ],
};
pub(super) const FORMAT_AVRO: Shape = Shape {
    at: "archive.output.format",
    of: "type = \"avro\"",
    keys: &["type", "compression", "schema", "unknown", "block_bytes"],
};
pub(super) const FORMAT_ENVELOPE: Shape = Shape {
    at: "archive.output.format",
    of: "type = \"envelope\"",
    keys: &["type", "compression", "level", "row_group_bytes", "row_group_rows"],
};
pub(super) const SCHEMA_MESSAGE: Shape =
    Shape { at: "archive.output.format.schema", of: "", keys: &["descriptors", "message"] };
pub(super) const KEEP: Shape = Shape { at: "archive.output.keep", of: "", keys: &["columns", "prefix"] };
pub(super) const LAYOUT: Shape =
    Shape { at: "archive.output.layout", of: "", keys: &["preset", "path", "name", "zone"] };

const fn decode(of: &'static str, keys: &'static [&'static str]) -> Shape {
    Shape { at: "archive.decode", of, keys }
}

const fn destination(kind: StoreKind, of: &'static str) -> Shape {
    Shape { at: "destinations.*", of, keys: kind.section_keys() }
}

/// Destinations whose scheme is not known: every key that one of them has.
pub(super) static ANY_DESTINATION: LazyLock<Shape> = LazyLock::new(|| {
    let mut keys: Vec<&'static str> = Vec::new();
    for key in [&FILE, &S3, &GS, &AZ, &HDFS].iter().flat_map(|shape| shape.keys) {
        if !keys.contains(key) {
            keys.push(key);
        }
    }
    Shape { at: "destinations.*", of: "", keys: Vec::leak(keys) }
});

impl Shape {
    /// Where else `key` would be right: what the sections of the same name depend on.
    pub(super) fn elsewhere(&self, key: &str) -> Vec<&'static str> {
        let others = SHAPES.iter().filter(|other| other.at == self.at && other.keys.contains(&key));
        others.map(|other| other.of).collect()
    }
}
