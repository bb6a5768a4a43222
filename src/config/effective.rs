//! The effective configuration as TOML: every default filled in, secrets as `***`.

use super::place::CODEC_PRESET;
use super::schema::{LIST_ELEMENT, MAP_VALUE};
use super::units::{show_size, show_time};
use super::{
    ArchiveConfig, Config, GroupProtocol, HookConfig, HookTo, Isolation, KafkaConfig, LoadConfig, LoadTo,
    RegistryConfig, RegistryLogin, Rotate, Secret, Start, client, destination, output,
};
use crate::hook::call::shown_url;
use crate::layout::{
    AvroCodec, Column, ColumnKind, Compression, Decode, Dictionaries, Keep, Newlines, OutputFormat, OutputLayout,
    Pages, Place, RegistryFormat, SchemaSource, TextFields, TextType, TimeFormat, TimeUnit, TimestampFallback,
    TimestampRule, TimestampSource, Tombstones, UnknownFields,
};
use crate::parse::timestamp::render_instant;
use std::collections::BTreeMap;
use std::time::Duration;
use url::Url;

/// `config` as a configuration file that resolves to the same, but for secrets: these are `"***"`.
///
/// Every key is there, whether it was given or is a default; only what is not set and has no default is left out.
pub fn effective_toml(config: &Config) -> String {
    let mut text = String::new();
    kafka(&mut text, &config.kafka);
    section(
        &mut text,
        "spool",
        &[("dir", string(&config.spool.dir.to_string_lossy())), ("limit", size(config.spool.limit))],
    );
    let threads = config.memory.threads.to_string();
    section(&mut text, "memory", &[("budget", size(config.memory.budget)), ("threads", threads)]);
    let listen = config.http.map(|address| ("listen", string(&address.to_string())));
    section(&mut text, "http", listen.as_slice());
    section(
        &mut text,
        "upload",
        &[("concurrency", config.upload.concurrency.to_string()), ("part_size", size(config.upload.part_size))],
    );
    section(&mut text, "shutdown", &[("timeout", time(config.shutdown_timeout))]);
    if let Some(registry) = &config.registry {
        section(&mut text, "registry", &registry_lines(registry));
    }
    for (name, destination) in &config.destinations {
        let mut lines = vec![("url", string(&destination.url))];
        for (key, value) in &destination.options {
            lines.push((key, option(key, value)));
        }
        section(&mut text, &format!("destinations.{name}"), &lines);
    }
    for archive in &config.archives {
        archive_section(&mut text, archive);
    }
    text
}

fn section(text: &mut String, name: &str, lines: &[(&str, String)]) {
    headed(text, &format!("[{name}]"), lines);
}

fn headed(text: &mut String, head: &str, lines: &[(&str, String)]) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(head);
    text.push('\n');
    for (key, value) in lines {
        text.push_str(&format!("{key} = {value}\n"));
    }
}

/// A TOML string that stands for `text` itself: nothing in it is a variable.
fn string(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", texts.into_iter().map(string).collect::<Vec<_>>().join(", "))
}

fn size(bytes: u64) -> String {
    string(&show_size(bytes))
}

fn time(time: Duration) -> String {
    string(&show_time(time))
}

fn option(key: &str, value: &Secret) -> String {
    if !destination::SHOWN_OPTIONS.contains(&key) {
        return string("***");
    }
    match key {
        "hadoop" => settings_of_hadoop(value),
        "path_style" | "allow_http" | "conditional_put" | "use_emulator" => value.reveal().to_string(),
        _ => string(value.reveal()),
    }
}

/// An inline table.
fn settings_of_hadoop(value: &Secret) -> String {
    let settings: BTreeMap<String, String> = serde_json::from_str(value.reveal()).unwrap_or_default();
    let shown = |(name, value): (&String, &String)| {
        let value = if destination::is_shown_of_hadoop(name) { string(value) } else { string("***") };
        format!("{} = {value}", string(name))
    };
    format!("{{ {} }}", settings.iter().map(shown).collect::<Vec<_>>().join(", "))
}

fn registry_lines(registry: &RegistryConfig) -> Vec<(&'static str, String)> {
    let mut lines = vec![("url", strings(registry.urls.iter().map(Url::as_str)))];
    match &registry.login {
        Some(RegistryLogin::Basic(user, _)) => {
            lines.extend([("username", string(user)), ("password", string("***"))]);
        }
        Some(RegistryLogin::Bearer(_)) => lines.push(("token", string("***"))),
        None => {}
    }
    lines.extend(registry.ca_file.as_ref().map(|path| ("ca_file", string(&path.to_string_lossy()))));
    let ids: Vec<String> = registry.unknown_ids.iter().map(u32::to_string).collect();
    lines.push(("unknown_ids", format!("[{}]", ids.join(", "))));
    lines
}

fn kafka(text: &mut String, kafka: &KafkaConfig) {
    let start = match kafka.start {
        Start::Earliest => "earliest".to_string(),
        Start::Latest => "latest".to_string(),
        Start::Time(ms) => chrono::DateTime::from_timestamp_millis(ms).map_or(ms.to_string(), |time| time.to_rfc3339()),
    };
    let isolation = match kafka.isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    };
    let protocol = match kafka.protocol {
        GroupProtocol::Classic => "classic",
        GroupProtocol::Consumer => "consumer",
    };
    let mut lines = vec![
        ("brokers", string(&kafka.brokers)),
        ("group", string(&kafka.group)),
        ("start", string(&start)),
        ("isolation", string(isolation)),
        ("protocol", string(protocol)),
        ("revoke_grace", time(kafka.revoke_grace)),
    ];
    if let Some(instance_id) = &kafka.instance_id {
        lines.push(("instance_id", string(instance_id)));
    }
    section(text, "kafka", &lines);
    let shown = |name: &str, value: &Secret| string(if client::is_shown(name) { value.reveal() } else { "***" });
    let settings: Vec<_> = kafka.client.iter().map(|(name, value)| (string(name), shown(name, value))).collect();
    let lines: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    section(text, "kafka.client", &lines);
}

fn decode(decode: &Decode) -> String {
    let mut entries = Vec::new();
    let mut add = |key: &str, value: String| entries.push(format!("{key} = {value}"));
    let fields = match decode {
        Decode::Json { validate, unfold, names } => {
            add("type", string("json"));
            add("validate", validate.to_string());
            unfolded(*unfold, names, &mut add);
            None
        }
        Decode::Raw => {
            add("type", string("raw"));
            None
        }
        Decode::Ltsv { fields } => {
            add("type", string("ltsv"));
            Some(fields)
        }
        Decode::Csv { columns, delimiter, quote, unfold, fields } => {
            add("type", string("csv"));
            add("columns", strings(columns.iter().map(String::as_str)));
            add("delimiter", string(&delimiter.to_string()));
            add("quote", string(&quote.map_or("off".to_string(), |quote| quote.to_string())));
            add("unfold", unfold.to_string());
            Some(fields)
        }
        Decode::Regex { pattern, fields } => {
            add("type", string("regex"));
            add("pattern", string(pattern));
            Some(fields)
        }
        Decode::Grok { pattern, patterns, fields } => {
            add("type", string("grok"));
            add("pattern", string(pattern));
            if !patterns.is_empty() {
                add("patterns", table(patterns.iter().map(|(name, pattern)| (name, string(pattern)))));
            }
            Some(fields)
        }
        Decode::Syslog { zone } => {
            add("type", string("syslog"));
            add("zone", string(zone));
            None
        }
        Decode::Avro { schema } => {
            add("type", string("avro"));
            add("schema", string(schema));
            None
        }
        Decode::Protobuf { descriptors, message, ignore_unknown } => {
            add("type", string("protobuf"));
            add("descriptors", string(descriptors));
            add("message", string(message));
            add("unknown", string(if *ignore_unknown { "ignore" } else { "dead_letter" }));
            None
        }
        Decode::Registry { format, ignore_unknown } => {
            match format {
                RegistryFormat::Avro => add("type", string("avro")),
                RegistryFormat::Protobuf => {
                    add("type", string("protobuf"));
                    add("unknown", string(if *ignore_unknown { "ignore" } else { "dead_letter" }));
                }
                RegistryFormat::JsonSchema => add("type", string("json_schema")),
            }
            if *format != RegistryFormat::JsonSchema {
                add("registry", "true".to_string());
            }
            None
        }
        Decode::Msgpack { unfold, names } => {
            add("type", string("msgpack"));
            unfolded(*unfold, names, &mut add);
            None
        }
    };
    if let Some(TextFields { types, nulls }) = fields {
        let word = |kind: &TextType| match kind {
            TextType::Int => "int",
            TextType::Float => "float",
            TextType::Bool => "bool",
            TextType::Json => "json",
        };
        add("types", table(types.iter().map(|(name, kind)| (name, string(word(kind))))));
        add("nulls", strings(nulls.iter().map(String::as_str)));
    }
    format!("{{ {} }}", entries.join(", "))
}

fn unfolded(unfold: bool, names: &[String], add: &mut impl FnMut(&str, String)) {
    add("unfold", unfold.to_string());
    if !names.is_empty() {
        add("names", strings(names.iter().map(String::as_str)));
    }
}

/// An inline table; its names may be any text.
fn table<'a>(entries: impl Iterator<Item = (&'a String, String)>) -> String {
    // A JSON string is a quoted key of TOML.
    let key = |name: &String| serde_json::Value::from(name.as_str()).to_string();
    let entries: Vec<String> = entries.map(|(name, value)| format!("{} = {value}", key(name))).collect();
    if entries.is_empty() { "{}".to_string() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn archive_section(text: &mut String, archive: &ArchiveConfig) {
    let topics = &archive.topics;
    let selection = |names: &[String], patterns: &[(String, regex::Regex)]| {
        strings(names.iter().chain(patterns.iter().map(|(pattern, _)| pattern)).map(String::as_str))
    };
    let layout = &archive.layout;
    let tombstones = match layout.tombstones {
        Tombstones::Keep => "keep",
        Tombstones::DeadLetter => "dead_letter",
        Tombstones::Drop => "drop",
    };
    let mut lines = vec![
        ("name", string(&archive.name)),
        ("topics", selection(&topics.names, &topics.patterns)),
        ("exclude", selection(&topics.exclude_names, &topics.exclude_patterns)),
        ("decode", decode(&layout.decode)),
    ];
    lines.extend(layout.transform.as_ref().map(|source| ("transform", string(source))));
    lines.extend([
        ("timestamp", timestamp(&layout.timestamp)),
        ("tombstones", string(tombstones)),
        ("generation", layout.generation.to_string()),
        ("on_gap", string(if archive.halt_on_gap { "halt" } else { "continue" })),
        ("max_future", time(archive.max_future)),
        ("content_encoding", archive.content_encoding.to_string()),
    ]);
    headed(text, "[[archive]]", &lines);
    section(text, "archive.rotate", &rotate(&archive.rotate));
    if let Some(complete) = &archive.complete {
        let lines = [
            ("allowed_lateness", time(complete.allowed_lateness)),
            ("idle_grace", time(complete.idle_grace)),
            ("revise_after", time(complete.revise_after)),
            ("marker", string(&complete.marker)),
        ];
        section(text, "archive.complete", &lines);
    }
    let mut loads = String::new();
    for load in &archive.loads {
        headed(&mut loads, "[[archive.load]]", &load_lines(load));
    }
    let mut names = archive.destination_names.iter().map(|names| strings(names.iter().map(String::as_str)));
    let mut outputs = String::new();
    for output in &layout.outputs {
        headed(&mut outputs, "[[archive.output]]", &output_lines(output, names.next().unwrap_or_default()));
    }
    let format = if layout.dead_letters.format.is_json() { "json" } else { "parquet" };
    let mut lines = vec![("format", string(format))];
    lines.extend(place_lines(&layout.dead_letters.place));
    lines.push(("destination", names.next().unwrap_or_default()));
    section(text, "archive.dead_letters", &lines);
    text.push('\n');
    text.push_str(&outputs);
    text.push_str(&loads);
    for hook in &archive.hooks {
        headed(text, "[[archive.hook]]", &hook_lines(hook));
    }
}

fn hook_lines(hook: &HookConfig) -> Vec<(&'static str, String)> {
    let mut lines = vec![("name", string(&hook.name))];
    match &hook.to {
        HookTo::Command { program, arguments } => {
            lines.push(("type", string("command")));
            // Any argument may be a secret.
            let hidden = arguments.iter().map(|_| "***");
            lines.push(("command", strings(std::iter::once(program.as_str()).chain(hidden))));
        }
        HookTo::Http { url, token } => {
            lines.push(("type", string("http")));
            lines.push(("url", string(&shown_url(url.reveal()))));
            lines.extend(token.as_ref().map(|_| ("token", string("***"))));
        }
        HookTo::Kafka { topic } => {
            lines.push(("type", string("kafka")));
            lines.push(("topic", string(topic)));
        }
    }
    let on = [("batch", hook.on.batch), ("folder", hook.on.folder)];
    lines.push(("on", strings(on.into_iter().filter_map(|(what, on)| on.then_some(what)))));
    lines.push(("timeout", time(hook.timeout)));
    lines
}

fn load_lines(load: &LoadConfig) -> Vec<(&'static str, String)> {
    let path = |path: &std::path::Path| string(&path.to_string_lossy());
    let texts = |map: &BTreeMap<String, String>| table(map.iter().map(|(name, text)| (name, string(text))));
    let mut lines = vec![("name", string(&load.name))];
    let since = load.since_ms.map(|since_ms| ("since", string(&render_instant(since_ms))));
    match &load.to {
        LoadTo::Hive(hive) => {
            lines.push(("type", string("hive")));
            lines.push(("output", string(&load.output)));
            lines.push(("destination", string(&load.destination_name)));
            lines.extend(since);
            lines.push(("uri", strings(hive.uris.iter().map(String::as_str))));
            lines.push(("tls", hive.tls.to_string()));
            lines.extend(hive.ca_file.as_ref().map(|file| ("ca_file", path(file))));
            lines.extend(hive.user.as_ref().map(|user| ("user", string(user))));
            lines.push(("database", string(&hive.database)));
            lines.push(("table", string(&hive.table)));
            lines.push(("create", hive.create.to_string()));
            lines.push(("add_columns", hive.add_columns.to_string()));
            lines.extend(hive.location.as_ref().map(|location| ("location", string(location))));
            lines.push(("parameters", texts(&hive.parameters)));
        }
        LoadTo::BigQuery(to) => {
            lines.push(("type", string("bigquery")));
            lines.push(("output", string(&load.output)));
            lines.push(("destination", string(&load.destination_name)));
            lines.extend(since);
            lines.push(("project", string(&to.project)));
            lines.push(("dataset", string(&to.dataset)));
            lines.push(("table", string(&to.table)));
            lines.push(("external", to.external.to_string()));
            lines.extend(to.partition_field.as_ref().map(|field| ("partition_field", string(field))));
            lines.extend(to.location.as_ref().map(|location| ("location", string(location))));
            lines.extend(to.credentials_file.as_ref().map(|file| ("credentials_file", path(file))));
            lines.extend(to.endpoint.as_ref().map(|endpoint| ("endpoint", string(endpoint))));
            lines.push(("labels", texts(&to.labels)));
        }
    }
    lines
}

fn timestamp(rule: &TimestampRule) -> String {
    let mut parts = Vec::new();
    match &rule.source {
        TimestampSource::Kafka => {}
        TimestampSource::Field(path) => parts.push(format!("field = {}", strings(path.iter().map(String::as_str)))),
        TimestampSource::Header(name) => parts.push(format!("header = {}", string(name))),
    }
    if rule.source != TimestampSource::Kafka {
        match &rule.format {
            TimeFormat::Auto => parts.push("format = \"auto\"".to_string()),
            TimeFormat::Rfc3339 => parts.push("format = \"rfc3339\"".to_string()),
            TimeFormat::Epoch(unit) => parts.push(format!("unit = \"{}\"", unit_name(*unit))),
            TimeFormat::Pattern(pattern) => parts.push(format!("format = {}", string(pattern))),
        }
        parts.push(format!("zone = {}", string(&rule.zone)));
    }
    let fallback = match rule.fallback {
        TimestampFallback::Kafka => "kafka",
        TimestampFallback::DeadLetter => "dead_letter",
    };
    parts.push(format!("fallback = \"{fallback}\""));
    format!("{{ {} }}", parts.join(", "))
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::S => "s",
        TimeUnit::Ms => "ms",
        TimeUnit::Us => "us",
        TimeUnit::Ns => "ns",
    }
}

fn rotate(rotate: &Rotate) -> Vec<(&'static str, String)> {
    vec![
        ("size", size(rotate.size)),
        ("age", time(rotate.age)),
        ("records", rotate.records.to_string()),
        ("bytes", rotate.bytes.map_or_else(|| string("off"), size)),
        ("grace", rotate.grace.map_or_else(|| string("off"), time)),
    ]
}

fn place_lines(place: &Place) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if !place.ending.is_whole() {
        lines.push(("preset", string(CODEC_PRESET)));
    }
    lines.extend([("path", string(&place.path)), ("name", string(&place.name)), ("zone", string(&place.zone))]);
    lines
}

fn inline(lines: &[(&str, String)]) -> String {
    format!("{{ {} }}", lines.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "))
}

fn output_lines(output: &OutputLayout, destination: String) -> Vec<(&'static str, String)> {
    let mut lines = vec![("name", string(&output.name))];
    if let Some(filter) = &output.filter {
        lines.push(("filter", string(filter)));
    }
    lines.push(("format", inline(&format_lines(&output.format))));
    if let Some(keep) = &output.keep {
        lines.push(("keep", keep_text(keep)));
    }
    lines.push(("layout", inline(&place_lines(&output.place))));
    lines.push(("destination", destination));
    lines
}

fn keep_text(keep: &Keep) -> String {
    let name = |column| output::KEPT.iter().find(|(_, kept)| *kept == column).map_or("", |(name, _)| *name);
    let columns = strings(keep.columns.iter().map(|column| name(*column)));
    inline(&[("columns", columns), ("prefix", string(&keep.prefix))])
}

fn format_lines(format: &OutputFormat) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    match format {
        OutputFormat::Raw { compression, newlines } => {
            lines.push(("type", string("raw")));
            lines.extend(compression_lines(*compression));
            let newlines = match newlines {
                Newlines::Refuse => "refuse",
                Newlines::Escape => "escape",
                Newlines::Length => "length",
            };
            lines.push(("newlines", string(newlines)));
        }
        OutputFormat::Json { compression } => {
            lines.push(("type", string("json")));
            lines.extend(compression_lines(*compression));
        }
        OutputFormat::Avro { codec, schema, unknown, block_bytes } => {
            let codec = match codec {
                AvroCodec::None => "none",
                AvroCodec::Deflate => "deflate",
                AvroCodec::Snappy => "snappy",
                AvroCodec::Zstd => "zstd",
            };
            lines.push(("type", string("avro")));
            lines.push(("compression", string(codec)));
            lines.extend(schema_lines(schema, *unknown));
            lines.push(("block_bytes", size(*block_bytes)));
        }
        OutputFormat::Envelope { compression, row_group_bytes, row_group_rows } => {
            lines.push(("type", string("envelope")));
            lines.extend(compression_lines(*compression));
            lines.push(("row_group_bytes", size(*row_group_bytes)));
            lines.push(("row_group_rows", row_group_rows.to_string()));
        }
        OutputFormat::Parquet { compression, schema, unknown, row_group_bytes, row_group_rows, pages } => {
            lines.push(("type", string("parquet")));
            lines.extend(compression_lines(*compression));
            lines.extend(schema_lines(schema, *unknown));
            lines.push(("row_group_bytes", size(*row_group_bytes)));
            lines.push(("row_group_rows", row_group_rows.to_string()));
            lines.push(("bloom_filters", strings(pages.bloom_filters.iter().map(String::as_str))));
            let dictionary = match &pages.dictionary {
                Dictionaries::All => "true".to_string(),
                Dictionaries::None => "false".to_string(),
                Dictionaries::Only(names) => strings(names.iter().map(String::as_str)),
            };
            lines.push(("dictionary", dictionary));
            lines.push(("page_bytes", size(pages.page_bytes.unwrap_or(Pages::BYTES).into())));
        }
    }
    lines
}

fn schema_lines(schema: &SchemaSource, unknown: UnknownFields) -> [(&'static str, String); 2] {
    let schema = match schema {
        SchemaSource::Infer => string("infer"),
        SchemaSource::Registry => string("registry"),
        SchemaSource::Columns(columns) => columns_text(columns),
    };
    let unknown = match unknown {
        UnknownFields::Rest => "rest",
        UnknownFields::DeadLetter => "dead_letter",
        UnknownFields::Drop => "drop",
    };
    [("schema", schema), ("unknown", string(unknown))]
}

fn compression_lines(compression: Compression) -> Vec<(&'static str, String)> {
    match compression {
        Compression::None => vec![("compression", string("none"))],
        Compression::Snappy => vec![("compression", string("snappy"))],
        Compression::Lz4 => vec![("compression", string("lz4"))],
        Compression::Gzip(level) => vec![("compression", string("gzip")), ("level", level.to_string())],
        Compression::Zstd(level) => vec![("compression", string("zstd")), ("level", level.to_string())],
    }
}

fn columns_text(columns: &[Column]) -> String {
    format!("[{}]", columns.iter().map(|column| column_text(column, false)).collect::<Vec<_>>().join(", "))
}

/// A column in BigQuery's form.
fn column_text(column: &Column, repeated: bool) -> String {
    if let ColumnKind::List(element) = &column.kind
        && column.nullable
        && element.nullable
        && !matches!(element.kind, ColumnKind::List(_))
    {
        let element = Column { name: column.name.clone(), ..(**element).clone() };
        return column_text(&element, true);
    }
    let mut lines = vec![("name", string(&column.name))];
    lines.extend(kind_lines(column, repeated));
    inline(&lines)
}

/// All of a column but its name.
fn kind_lines(column: &Column, repeated: bool) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let kind = match &column.kind {
        ColumnKind::Bool => "BOOL",
        ColumnKind::Int64 => "INT64",
        ColumnKind::Float64 => "FLOAT64",
        ColumnKind::String => "STRING",
        ColumnKind::Bytes => "BYTES",
        ColumnKind::Json => "JSON",
        ColumnKind::Date => "DATE",
        ColumnKind::Timestamp { .. } => "TIMESTAMP",
        ColumnKind::Decimal { .. } => "NUMERIC",
        ColumnKind::Struct(_) => "RECORD",
        ColumnKind::List(_) => "ARRAY",
        ColumnKind::Map(_) => "MAP",
    };
    lines.push(("type", string(kind)));
    if repeated {
        lines.push(("mode", string("REPEATED")));
    } else if !column.nullable {
        lines.push(("mode", string("REQUIRED")));
    }
    match &column.kind {
        ColumnKind::Timestamp { unit: Some(unit) } => lines.push(("unit", string(unit_name(*unit)))),
        ColumnKind::Decimal { precision, scale } => {
            lines.push(("precision", precision.to_string()));
            lines.push(("scale", scale.to_string()));
        }
        ColumnKind::Struct(fields) => lines.push(("fields", columns_text(fields))),
        ColumnKind::List(element) => lines.push((LIST_ELEMENT, inline(&kind_lines(element, false)))),
        ColumnKind::Map(value) => lines.push((MAP_VALUE, inline(&kind_lines(value, false)))),
        _ => {}
    }
    lines
}
