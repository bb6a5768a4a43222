//! `[[archive.output]]`: format, kept columns, layout and destinations of each output.

use super::archive::{self, Surroundings, destinations, place, urls};
use super::decode::each_once;
use super::raw::{Field, Section};
use super::tree::Value;
use super::{MemoryShares, place as presets, program, registry, schema, shape};
use crate::format;
use crate::layout::preset::Preset;
use crate::layout::{
    AvroCodec, Column, ColumnKind, Compression, Decode, Dictionaries, Keep, KeptColumn, Newlines, OutputFormat,
    OutputLayout, Pages, SchemaSource, UnknownFields,
};
use std::ops::RangeInclusive;

/// gzip's `level`: 1 to 9, default 6.
pub const DEFAULT_GZIP_LEVEL: u32 = 6;
/// zstd's `level`: 1 to 19, default 3.
pub const DEFAULT_ZSTD_LEVEL: i32 = 3;
/// `row_group_bytes`: 64 KiB to 1 GiB and at most 1/8 of `memory.budget`, default 8 MiB.
pub const DEFAULT_ROW_GROUP_BYTES: u64 = 8 << 20;
/// `row_group_rows`: 4,096 to 100,000,000, default 1,000,000. So few at least that the rows of no record fill more row groups than
/// a file can have.
pub const DEFAULT_ROW_GROUP_ROWS: u32 = 1_000_000;
/// `block_bytes` of Avro: 64 KiB to 4 MiB, default 1 MiB.
pub const DEFAULT_BLOCK_BYTES: u64 = 1 << 20;
/// `compression` of Avro: the one that every reader has.
pub const DEFAULT_AVRO_CODEC: AvroCodec = AvroCodec::Deflate;
/// `keep.prefix` where none is given.
pub const DEFAULT_PREFIX: &str = "_kafka_";
/// The column that Parquet's `unknown = "rest"` adds.
pub const REST_COLUMN: &str = "_rest";

const GZIP_LEVELS: RangeInclusive<u64> = 1..=9;
const ZSTD_LEVELS: RangeInclusive<u64> = 1..=19;
const ROW_GROUP_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 30);
/// `page_bytes`: 4 KiB to 1 MiB, which is the default.
const PAGE_BYTES: RangeInclusive<u64> = (4 << 10)..=(Pages::BYTES as u64);
/// Most columns of `bloom_filters`.
const BLOOM_FILTERS_MOST: usize = 32;
/// Encoding four times the largest takes no more than a row group of the least budget does.
const BLOCK_BYTES: RangeInclusive<u64> = (64 << 10)..=(3 << 20);
const ROW_GROUP_ROWS: RangeInclusive<u64> = 4_096..=100_000_000;

/// An output, the names of its destinations, and where it stands in the file, if it does.
pub(super) struct Output<'f> {
    pub(super) layout: OutputLayout,
    pub(super) destinations: Vec<String>,
    pub(super) field: Option<Field<'f>>,
}

/// The outputs of an archive. Without any: one, of the archive's own kind.
pub(super) fn resolve<'f>(archive: &Section<'f>, surroundings: &Surroundings<'_>, decode: &Decode) -> Vec<Output<'f>> {
    const NEEDED: &str = "sections [[archive.output]], or none: then there is one of the archive's own kind";
    if !archive.has("output") {
        let implied = archive.nothing("output", &shape::OUTPUT);
        return vec![output(&implied, None, surroundings, decode)];
    }
    let given = archive.field("output");
    if let Some(field) = given.as_ref().filter(|field| field.is_empty_list()) {
        field.wrong::<()>("empty: nothing would be archived", NEEDED);
    }
    let fields = given.and_then(|field| field.list(NEEDED)).unwrap_or_default();
    let mut outputs: Vec<Output<'f>> = Vec::new();
    for field in fields {
        let Some(section) = field.section(&shape::OUTPUT) else { continue };
        let output = output(&section, Some(field), surroundings, decode);
        if outputs.iter().any(|other| other.layout.name == output.layout.name) {
            section.cross(
                "name",
                "the same name as another output of this archive".to_string(),
                "another name for each output; without one it is the format".to_string(),
            );
        }
        outputs.push(output);
    }
    check_pinning(archive, surroundings, &outputs);
    outputs
}

/// A schema that is inferred must be pinned by create-if-absent, at the destination that holds claims and receipts.
fn check_pinning(archive: &Section<'_>, surroundings: &Surroundings<'_>, outputs: &[Output<'_>]) {
    let Some(first) = outputs.first() else { return };
    let Some(keeper) = first.destinations.first().and_then(|name| surroundings.destinations.get(name)) else { return };
    let creates_once = keeper.options.get("conditional_put").is_none_or(|value| value.reveal() == "true");
    let infers = |output: &OutputLayout| output.format.schema() == Some(&SchemaSource::Infer);
    if !creates_once && outputs.iter().any(|output| infers(&output.layout)) {
        archive.cross(
            "output",
            "schema = \"infer\", but the first destination of the first output has conditional_put = false".to_string(),
            "a schema from a file or in the configuration, or a store that can create an object only if it is absent"
                .to_string(),
        );
    }
}

fn output<'f>(
    section: &Section<'f>,
    field: Option<Field<'f>>,
    surroundings: &Surroundings<'_>,
    decode: &Decode,
) -> Output<'f> {
    let default_type = if *decode == Decode::Raw { Type::Raw } else { Type::Json };
    let (kind, format) = format(section, surroundings, default_type);
    if *decode == Decode::Raw && !format.takes_every_record() {
        section.cross(
            "format",
            "rows of this format need decoded payloads, but decode = \"raw\"".to_string(),
            "raw, envelope, or decode = \"json\"".to_string(),
        );
    }
    registry::check_output(section, format.schema(), decode);
    let names = match section.field("destination") {
        Some(field) => destinations(&field, surroundings),
        None => the_only(section, surroundings),
    };
    let layout = section.section("layout", &shape::LAYOUT);
    let no_fields = (*decode == Decode::Raw).then_some("a field, but decode = \"raw\" looks into no payload");
    let place = place(&layout, preset(&layout), no_fields, urls(&names, surroundings));
    let name = archive::name(section, "name").unwrap_or(kind.name()).to_string();
    if name == presets::DEAD_LETTERS {
        section.cross("name", "the name of the archive's dead letters".to_string(), archive::NAME.to_string());
    }
    let keep = section.field("keep").and_then(|field| keep(&field, kind, &format));
    let filter = program::filter(section, decode);
    if section.is_sound(&["format", "keep"]) {
        check_format(section, &format, keep.as_ref());
    }
    Output { layout: OutputLayout { name, filter, format, keep, place }, destinations: names, field }
}

/// Lets the format itself judge what no key alone shows to be wrong.
fn check_format(section: &Section<'_>, output: &OutputFormat, keep: Option<&Keep>) {
    // What an inferred schema will be decides nothing here.
    let any = [Column { name: "inferred".to_string(), kind: ColumnKind::Json, nullable: true }];
    if let Err(problem) = format::build(output, keep, Some(&any)) {
        section.cross("format", problem, "rows that the format can hold".to_string());
    }
}

fn the_only(section: &Section<'_>, surroundings: &Surroundings<'_>) -> Vec<String> {
    let names: Vec<String> = surroundings.destinations.keys().cloned().collect();
    if names.len() > 1 && !section.has("destination") {
        section.missing(
            "destination",
            "missing: there is more than one",
            &format!("one or several of {}", names.join(", ")),
        );
    }
    names.into_iter().take(1).collect()
}

fn preset(layout: &Section<'_>) -> Preset {
    let choices: Vec<_> = presets::PRESETS.iter().map(|name| (*name, *name)).collect();
    let chosen = layout.field("preset").and_then(|field| field.choice(&choices)).unwrap_or(presets::DEFAULT_PRESET);
    presets::preset(chosen)
}

/// The type of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Raw,
    Json,
    Parquet,
    Avro,
    Envelope,
}

impl Type {
    const ALL: &[(&'static str, Type)] = &[
        ("raw", Type::Raw),
        ("json", Type::Json),
        ("parquet", Type::Parquet),
        ("avro", Type::Avro),
        ("envelope", Type::Envelope),
    ];

    fn name(self) -> &'static str {
        match self {
            Type::Raw => "raw",
            Type::Json => "json",
            Type::Parquet => "parquet",
            Type::Avro => "avro",
            Type::Envelope => "envelope",
        }
    }

    fn keys(self) -> &'static shape::Shape {
        match self {
            Type::Raw => &shape::FORMAT_RAW,
            Type::Json => &shape::FORMAT_JSON,
            Type::Parquet => &shape::FORMAT_PARQUET,
            Type::Avro => &shape::FORMAT_AVRO,
            Type::Envelope => &shape::FORMAT_ENVELOPE,
        }
    }
}

fn kind(named: &Field<'_>) -> Option<Type> {
    const ORC: &str = "raw, json, parquet, avro, envelope: what reads ORC (Hive, Spark, Trino) reads Parquet";
    match &named.node.value {
        Value::Text(text) if text == "orc" => named.wrong(
            "ORC is not written: no library for Rust writes its decimals, lists, maps or nested columns yet",
            ORC,
        ),
        _ => named.choice(Type::ALL),
    }
}

fn format(output: &Section<'_>, surroundings: &Surroundings<'_>, default: Type) -> (Type, OutputFormat) {
    let field = output.field("format");
    let named = match &field {
        Some(field) if field.is_table() => field.peek("type"),
        other => other.clone(),
    };
    let kind = named.and_then(|named| kind(&named)).unwrap_or(default);
    let table = field.filter(Field::is_table).and_then(|field| field.section(kind.keys()));
    let section = table.unwrap_or_else(|| output.nothing("format", kind.keys()));
    let format = match kind {
        Type::Raw => OutputFormat::Raw {
            compression: compression(&section, kind),
            newlines: section
                .field("newlines")
                .and_then(|field| {
                    field.choice(&[
                        ("refuse", Newlines::Refuse),
                        ("escape", Newlines::Escape),
                        ("length", Newlines::Length),
                    ])
                })
                .unwrap_or(Newlines::Refuse),
        },
        Type::Json => OutputFormat::Json { compression: compression(&section, kind) },
        Type::Parquet => parquet(&section, surroundings),
        Type::Avro => avro(&section, surroundings),
        Type::Envelope => {
            let (row_group_bytes, row_group_rows) = row_group(&section, surroundings);
            OutputFormat::Envelope { compression: compression(&section, kind), row_group_bytes, row_group_rows }
        }
    };
    (kind, format)
}

fn avro(section: &Section<'_>, surroundings: &Surroundings<'_>) -> OutputFormat {
    let (schema, unknown) = columns(section, surroundings);
    let codecs = [
        ("none", AvroCodec::None),
        ("deflate", AvroCodec::Deflate),
        ("snappy", AvroCodec::Snappy),
        ("zstd", AvroCodec::Zstd),
    ];
    let codec = section.field("compression").and_then(|field| field.choice(&codecs)).unwrap_or(DEFAULT_AVRO_CODEC);
    let block_bytes = section.field("block_bytes").and_then(|field| field.size(BLOCK_BYTES));
    OutputFormat::Avro { codec, schema, unknown, block_bytes: block_bytes.unwrap_or(DEFAULT_BLOCK_BYTES) }
}

fn parquet(section: &Section<'_>, surroundings: &Surroundings<'_>) -> OutputFormat {
    let (schema, unknown) = columns(section, surroundings);
    let (row_group_bytes, row_group_rows) = row_group(section, surroundings);
    let compression = compression(section, Type::Parquet);
    OutputFormat::Parquet { compression, schema, unknown, row_group_bytes, row_group_rows, pages: pages(section) }
}

/// `schema` and `unknown`.
fn columns(section: &Section<'_>, surroundings: &Surroundings<'_>) -> (SchemaSource, UnknownFields) {
    let unknown = section.field("unknown").and_then(|field| {
        field.choice(&[
            ("rest", UnknownFields::Rest),
            ("dead_letter", UnknownFields::DeadLetter),
            ("drop", UnknownFields::Drop),
        ])
    });
    let unknown = unknown.unwrap_or(UnknownFields::Rest);
    let schema_field = section.field("schema");
    let schema = schema_field.as_ref().and_then(|field| schema::source(field, surroundings.base_dir));
    let schema = schema.unwrap_or(SchemaSource::Infer);
    if let (Some(field), SchemaSource::Columns(columns), UnknownFields::Rest) = (&schema_field, &schema, unknown)
        && columns.iter().any(|column| column.name.eq_ignore_ascii_case(REST_COLUMN))
    {
        field.wrong::<()>(
            format!("a field is called {REST_COLUMN}, as the column that unknown = \"rest\" adds"),
            "another name, or unknown = \"dead_letter\" or \"drop\"",
        );
    }
    (schema, unknown)
}

/// `bloom_filters`, `dictionary` and `page_bytes`.
fn pages(section: &Section<'_>) -> Pages {
    const FILTERS: &str = "a list of at most 32 columns: names joined by dots, such as request.path";
    const DICTIONARY: &str = "true, false, or a list of the columns that may have one";
    let bloom_filters = section.field("bloom_filters").and_then(|field| match each_once(&field, FILTERS)? {
        many if many.len() > BLOOM_FILTERS_MOST => field.wrong(format!("{} columns", many.len()), FILTERS),
        few => Some(few),
    });
    let dictionary = section.field("dictionary").and_then(|field| match &field.node.value {
        Value::Flag(true) => Some(Dictionaries::All),
        Value::Flag(false) => Some(Dictionaries::None),
        Value::List(_) => each_once(&field, DICTIONARY).map(Dictionaries::Only),
        _ => field.wrong("neither true, false nor a list", DICTIONARY),
    });
    let page_bytes = section.field("page_bytes").and_then(|field| field.size(PAGE_BYTES));
    let page_bytes = page_bytes.and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes != Pages::BYTES);
    Pages { bloom_filters: bloom_filters.unwrap_or_default(), dictionary: dictionary.unwrap_or_default(), page_bytes }
}

/// `row_group_bytes` and `row_group_rows`.
fn row_group(section: &Section<'_>, surroundings: &Surroundings<'_>) -> (u64, u32) {
    let bytes = section.field("row_group_bytes").and_then(|field| {
        let bytes = field.size(ROW_GROUP_BYTES)?;
        match surroundings.budget {
            Some(budget) => MemoryShares::of(budget).check_row_group(&field, bytes, budget),
            None => Some(bytes),
        }
    });
    let rows = section.field("row_group_rows").and_then(|field| field.count(ROW_GROUP_ROWS));
    let rows = rows.and_then(|rows| u32::try_from(rows).ok());
    (bytes.unwrap_or(DEFAULT_ROW_GROUP_BYTES), rows.unwrap_or(DEFAULT_ROW_GROUP_ROWS))
}

fn compression(section: &Section<'_>, kind: Type) -> Compression {
    const NONE: (&str, Compression) = ("none", Compression::None);
    const GZIP: (&str, Compression) = ("gzip", Compression::Gzip(DEFAULT_GZIP_LEVEL));
    const ZSTD: (&str, Compression) = ("zstd", Compression::Zstd(DEFAULT_ZSTD_LEVEL));
    const SNAPPY: (&str, Compression) = ("snappy", Compression::Snappy);
    const LZ4: (&str, Compression) = ("lz4", Compression::Lz4);
    let (choices, default): (&[_], _) = match kind {
        Type::Parquet | Type::Envelope => (&[NONE, GZIP, ZSTD, SNAPPY, LZ4], ZSTD.1),
        // Avro has codecs of its own.
        Type::Raw | Type::Json | Type::Avro => (&[NONE, GZIP, ZSTD], GZIP.1),
    };
    let given = section.field("compression");
    let chosen = match &given {
        Some(field) => field.choice(choices),
        None => Some(default),
    };
    // Whether a level is right cannot be told while its codec is wrong.
    let (Some(codec), Some(level)) = (chosen, section.field("level")) else { return chosen.unwrap_or(default) };
    match codec {
        Compression::Gzip(default) => {
            let level = level.count(GZIP_LEVELS).and_then(|level| u32::try_from(level).ok());
            Compression::Gzip(level.unwrap_or(default))
        }
        Compression::Zstd(default) => {
            let level = level.count(ZSTD_LEVELS).and_then(|level| i32::try_from(level).ok());
            Compression::Zstd(level.unwrap_or(default))
        }
        Compression::None | Compression::Snappy | Compression::Lz4 => {
            level.wrong::<()>("this compression has no levels", "a level for gzip (1 to 9) or zstd (1 to 19) only");
            codec
        }
    }
}

/// Names of the kept columns, in the order in which messages list them.
pub(super) const KEPT: &[(&str, KeptColumn)] = &[
    ("key", KeptColumn::Key),
    ("headers", KeptColumn::Headers),
    ("timestamp", KeptColumn::Timestamp),
    ("topic", KeptColumn::Topic),
    ("partition", KeptColumn::Partition),
    ("offset", KeptColumn::Offset),
];

fn keep(field: &Field<'_>, kind: Type, format: &OutputFormat) -> Option<Keep> {
    const COLUMNS: &str = "a list of key, headers, timestamp, topic, partition, offset";
    const PREFIX: &str = "1 to 64 letters, digits or `_`, the first one no digit";
    const NO_KEEP: &str = "keep with json, parquet or avro only";
    match kind {
        Type::Raw => return field.wrong("raw rows are the payload's bytes and nothing else", NO_KEEP),
        Type::Envelope => return field.wrong("an envelope has every one of Kafka's own columns already", NO_KEEP),
        Type::Json | Type::Parquet | Type::Avro => {}
    }
    let (columns_field, prefix) = if field.is_table() {
        let section = field.section(&shape::KEEP)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let prefix = section.field("prefix").and_then(|field| {
            let prefix = field.word(64, legal, PREFIX)?;
            if prefix.starts_with(|c: char| c.is_ascii_digit()) {
                field.wrong("starts with a digit", PREFIX)
            } else {
                Some(prefix)
            }
        });
        if !section.has("columns") {
            section.missing("columns", "missing", COLUMNS);
        }
        (section.field("columns")?, prefix.unwrap_or(DEFAULT_PREFIX))
    } else {
        (field.clone(), DEFAULT_PREFIX)
    };
    let mut columns = Vec::new();
    for item in columns_field.list(COLUMNS)? {
        let Some(column) = item.choice(KEPT) else { continue };
        if columns.contains(&column) {
            item.wrong::<()>("named twice", COLUMNS);
        }
        columns.push(column);
    }
    check_names(&columns_field, &columns, prefix, format);
    (!columns.is_empty()).then(|| Keep { columns, prefix: prefix.to_string() })
}

/// Refuses kept columns that are called like a column of the schema or the rest column.
fn check_names(field: &Field<'_>, columns: &[KeptColumn], prefix: &str, format: &OutputFormat) {
    let (OutputFormat::Parquet { schema, unknown, .. } | OutputFormat::Avro { schema, unknown, .. }) = format else {
        return;
    };
    let given: &[_] = match schema {
        SchemaSource::Columns(given) => given,
        SchemaSource::Infer | SchemaSource::Registry => &[],
    };
    for (name, column) in KEPT {
        let kept = format!("{prefix}{name}");
        let of_schema = given.iter().any(|other| other.name.eq_ignore_ascii_case(&kept));
        let is_rest = *unknown == UnknownFields::Rest && kept == REST_COLUMN;
        if columns.contains(column) && (of_schema || is_rest) {
            field
                .wrong::<()>(format!("the kept column `{name}` would be called like another column"), "another prefix");
        }
    }
}
