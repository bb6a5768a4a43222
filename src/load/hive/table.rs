//! What tables and partitions look like in the metastore, and whether what is there is what is wanted. Pure.

use super::error::HiveError;
use super::wire::{Fields, Value, fields, structs, text, text_map, texts};
use super::{HiveColumn, HiveFormat, HivePartition, HiveTable, PartitionFound, TableFound, TableName};
use std::collections::BTreeMap;

/// Fields of the interface's structs, by their ids there.
mod id {
    pub(super) mod table {
        pub(in super::super) const NAME: i16 = 1;
        pub(in super::super) const DATABASE: i16 = 2;
        pub(in super::super) const OWNER: i16 = 3;
        pub(in super::super) const STORAGE: i16 = 7;
        pub(in super::super) const PARTITION_KEYS: i16 = 8;
        pub(in super::super) const PARAMETERS: i16 = 9;
        pub(in super::super) const TYPE: i16 = 12;
    }
    pub(super) mod partition {
        pub(in super::super) const VALUES: i16 = 1;
        pub(in super::super) const DATABASE: i16 = 2;
        pub(in super::super) const TABLE: i16 = 3;
        pub(in super::super) const STORAGE: i16 = 6;
        pub(in super::super) const PARAMETERS: i16 = 7;
    }
    pub(super) mod storage {
        pub(in super::super) const COLUMNS: i16 = 1;
        pub(in super::super) const LOCATION: i16 = 2;
        pub(in super::super) const INPUT_FORMAT: i16 = 3;
        pub(in super::super) const OUTPUT_FORMAT: i16 = 4;
        pub(in super::super) const COMPRESSED: i16 = 5;
        pub(in super::super) const BUCKETS: i16 = 6;
        pub(in super::super) const SERDE: i16 = 7;
        pub(in super::super) const BUCKET_COLUMNS: i16 = 8;
        pub(in super::super) const SORT_COLUMNS: i16 = 9;
        pub(in super::super) const PARAMETERS: i16 = 10;
    }
    pub(super) mod serde {
        pub(in super::super) const NAME: i16 = 1;
        pub(in super::super) const LIBRARY: i16 = 2;
        pub(in super::super) const PARAMETERS: i16 = 3;
    }
    pub(super) mod column {
        pub(in super::super) const NAME: i16 = 1;
        pub(in super::super) const TYPE: i16 = 2;
        pub(in super::super) const COMMENT: i16 = 3;
    }
}

/// The revision that a partition's statistics are of.
pub(super) const REVISION: &str = "siltstone.revision";
const ROWS: &str = "numRows";
const BYTES: &str = "totalSize";
const FILES: &str = "numFiles";
/// Hive 4 counts itself where this one is missing.
const ERASURE_CODED: &str = "numFilesErasureCoded";
/// Some metastores take statistics for stale without it.
const GENERATED: &str = "STATS_GENERATED_VIA_STATS_TASK";
/// What says that statistics may answer queries, and a count of ours: both are of the files as they were.
const OUTDATED: &[&str] = &["COLUMN_STATS_ACCURATE", "rawDataSize"];
/// When the object was last changed; the metastore fills in what is missing.
const CHANGED_AT: &str = "transient_lastDdlTime";
const EXTERNAL: &str = "EXTERNAL_TABLE";
const AVRO_SCHEMA: &str = "avro.schema.literal";

/// Class names of a format: input, output and the serde; the first is what is written, all are taken.
struct Classes {
    name: &'static str,
    input: &'static str,
    output: &'static str,
    serdes: &'static [&'static str],
}

const fn classes(format: &HiveFormat) -> Classes {
    match format {
        HiveFormat::Parquet => Classes {
            name: "parquet",
            input: "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
            output: "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
            serdes: &[
                "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
                "parquet.hive.serde.ParquetHiveSerDe",
            ],
        },
        HiveFormat::Avro { .. } => Classes {
            name: "avro",
            input: "org.apache.hadoop.hive.ql.io.avro.AvroContainerInputFormat",
            output: "org.apache.hadoop.hive.ql.io.avro.AvroContainerOutputFormat",
            serdes: &["org.apache.hadoop.hive.serde2.avro.AvroSerDe"],
        },
        HiveFormat::Json => Classes {
            name: "json",
            input: "org.apache.hadoop.mapred.TextInputFormat",
            output: "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
            serdes: &[
                "org.apache.hive.hcatalog.data.JsonSerDe",
                "org.apache.hadoop.hive.serde2.JsonSerDe",
                "org.openx.data.jsonserde.JsonSerDe",
            ],
        },
        HiveFormat::Orc => Classes {
            name: "orc",
            input: "org.apache.hadoop.hive.ql.io.orc.OrcInputFormat",
            output: "org.apache.hadoop.hive.ql.io.orc.OrcOutputFormat",
            serdes: &["org.apache.hadoop.hive.ql.io.orc.OrcSerde"],
        },
    }
}

/// The context of a change: without it the metastore lists the folder itself, and overwrites what it is told of it.
pub(super) fn no_counting() -> Value {
    let properties = BTreeMap::from([("DO_NOT_UPDATE_STATS".to_string(), "true".to_string())]);
    Value::Struct(fields([(1, text_map(&properties))]))
}

/// A table to be created.
pub(super) fn new_table(table: &HiveTable) -> Fields {
    let name = table.name();
    let classes = classes(&table.format);
    let serialization = BTreeMap::from([("serialization.format".to_string(), "1".to_string())]);
    let serde = fields([
        (id::serde::NAME, text(&name.table)),
        (id::serde::LIBRARY, text(classes.serdes.first().copied().unwrap_or_default())),
        (id::serde::PARAMETERS, text_map(&serialization)),
    ]);
    let storage = fields([
        (id::storage::COLUMNS, structs(table.columns.iter().map(column))),
        (id::storage::LOCATION, text(&table.location)),
        (id::storage::INPUT_FORMAT, text(classes.input)),
        (id::storage::OUTPUT_FORMAT, text(classes.output)),
        (id::storage::COMPRESSED, Value::Bool(false)),
        (id::storage::BUCKETS, Value::I32(-1)),
        (id::storage::SERDE, Value::Struct(serde)),
        (id::storage::BUCKET_COLUMNS, nothing()),
        (id::storage::SORT_COLUMNS, structs([])),
        (id::storage::PARAMETERS, text_map(&BTreeMap::new())),
    ]);
    let mut parameters = BTreeMap::from([
        ("EXTERNAL".to_string(), "TRUE".to_string()),
        // Later metastores can be told to delete the files of external tables too.
        ("external.table.purge".to_string(), "false".to_string()),
    ]);
    if let HiveFormat::Avro { schema } = &table.format {
        parameters.insert(AVRO_SCHEMA.to_string(), schema.clone());
    }
    parameters.extend(table.parameters.clone());
    fields([
        (id::table::NAME, text(&name.table)),
        (id::table::DATABASE, text(&name.database)),
        (id::table::OWNER, text("siltstone")),
        (id::table::STORAGE, Value::Struct(storage)),
        (id::table::PARTITION_KEYS, structs(table.partition_keys.iter().map(column))),
        (id::table::PARAMETERS, text_map(&parameters)),
        (id::table::TYPE, text(EXTERNAL)),
    ])
}

fn nothing() -> Value {
    let nothing: [&str; 0] = [];
    texts(nothing)
}

fn column(column: &HiveColumn) -> Fields {
    let mut found =
        fields([(id::column::NAME, text(&column.name.to_lowercase())), (id::column::TYPE, text(&column.type_text))]);
    if let Some(comment) = &column.comment {
        found.insert(id::column::COMMENT, text(comment));
    }
    found
}

fn part(of: &Fields, id: i16) -> Fields {
    of.get(&id).and_then(Value::as_fields).cloned().unwrap_or_default()
}

fn text_of(of: &Fields, id: i16) -> String {
    of.get(&id).and_then(Value::as_text).unwrap_or_default()
}

fn columns_of(of: &Fields, id: i16) -> Vec<HiveColumn> {
    let columns = of.get(&id).map(Value::items).unwrap_or_default().iter().filter_map(Value::as_fields);
    let columns = columns.map(|column| HiveColumn {
        name: text_of(column, id::column::NAME).to_lowercase(),
        type_text: text_of(column, id::column::TYPE),
        comment: column.get(&id::column::COMMENT).and_then(Value::as_text),
    });
    columns.collect()
}

fn parameters_of(of: &Fields, id: i16) -> BTreeMap<String, String> {
    of.get(&id).map(Value::as_text_map).unwrap_or_default()
}

// One that somebody else has added has none.
fn revision_of(parameters: &BTreeMap<String, String>) -> Option<u32> {
    parameters.get(REVISION).and_then(|revision| revision.parse().ok())
}

pub(super) fn found_table(table: &Fields) -> TableFound {
    let storage = part(table, id::table::STORAGE);
    TableFound {
        kind: text_of(table, id::table::TYPE),
        columns: columns_of(&storage, id::storage::COLUMNS),
        partition_keys: columns_of(table, id::table::PARTITION_KEYS),
        location: text_of(&storage, id::storage::LOCATION),
        parameters: parameters_of(table, id::table::PARAMETERS),
    }
}

pub(super) fn found_partition(partition: &Fields) -> PartitionFound {
    let storage = part(partition, id::partition::STORAGE);
    let parameters = parameters_of(partition, id::partition::PARAMETERS);
    PartitionFound {
        location: text_of(&storage, id::storage::LOCATION),
        columns: columns_of(&storage, id::storage::COLUMNS),
        revision: revision_of(&parameters),
        parameters,
    }
}

/// As it would be written in `CREATE TABLE`.
fn declared(columns: &[HiveColumn]) -> String {
    let columns = columns.iter().map(|column| format!("{} {}", column.name.to_lowercase(), column.type_text));
    columns.collect::<Vec<_>>().join(", ")
}

/// A type as it can be compared: names of fields in it are small in some metastores, and blanks mean nothing.
fn plain(type_text: &str) -> String {
    let plain: String = type_text.chars().filter(|c| !c.is_whitespace()).collect();
    plain.to_lowercase()
}

fn is_same_type(wanted: &HiveColumn, found: &HiveColumn) -> bool {
    plain(&wanted.type_text) == plain(&found.type_text)
}

fn is_same_key(wanted: &HiveColumn, found: &HiveColumn) -> bool {
    wanted.name.to_lowercase() == found.name && is_same_type(wanted, found)
}

/// The columns that the table lacks.
///
/// # Errors
/// [`HiveError`]: the table is not external, or its keys, its format or the type of a column are others.
pub(super) fn missing_columns(wanted: &HiveTable, found: &Fields) -> Result<Vec<HiveColumn>, HiveError> {
    let table = wanted.name().to_string();
    let kind = text_of(found, id::table::TYPE);
    if kind != EXTERNAL {
        return Err(HiveError::NotExternal { table, found: kind });
    }
    let keys = columns_of(found, id::table::PARTITION_KEYS);
    let fit = wanted.partition_keys.len() == keys.len()
        && wanted.partition_keys.iter().zip(&keys).all(|(wanted, found)| is_same_key(wanted, found));
    if !fit {
        let [wanted, found] = [declared(&wanted.partition_keys), declared(&keys)];
        return Err(HiveError::PartitionKeys { table, wanted, found });
    }
    let storage = part(found, id::table::STORAGE);
    let serde = text_of(&part(&storage, id::storage::SERDE), id::serde::LIBRARY);
    let classes = classes(&wanted.format);
    if !classes.serdes.contains(&serde.as_str()) {
        let known = classes.serdes.first().copied().unwrap_or_default();
        let wanted = format!("{known} ({})", classes.name);
        return Err(HiveError::Format { table, wanted, found: serde });
    }
    let there = columns_of(&storage, id::storage::COLUMNS);
    let (mut missing, mut differ) = (Vec::new(), Vec::new());
    for column in &wanted.columns {
        match there.iter().find(|found| found.name == column.name.to_lowercase()) {
            None => missing.push(column.clone()),
            Some(found) if is_same_type(column, found) => {}
            Some(found) => differ.push(format!(
                "{} is {} in the output and {} in the table",
                found.name, column.type_text, found.type_text
            )),
        }
    }
    if differ.is_empty() {
        return Ok(missing);
    }
    differ.extend(missing.iter().map(|column| missing_text(column, &there)));
    let advice =
        "Types are not changed here: change the table's column (ALTER TABLE … CHANGE COLUMN), or name another table";
    Err(HiveError::Columns { table, differences: differ.join("; "), advice })
}

/// Why a table that lacks columns cannot be used as it is.
pub(super) fn columns_missing(wanted: &HiveTable, found: &Fields, missing: &[HiveColumn]) -> HiveError {
    let there = columns_of(&part(found, id::table::STORAGE), id::storage::COLUMNS);
    let differences: Vec<String> = missing.iter().map(|column| missing_text(column, &there)).collect();
    HiveError::Columns {
        table: wanted.name().to_string(),
        differences: differences.join("; "),
        advice: "Add them (ALTER TABLE … ADD COLUMNS), or let missing columns be added",
    }
}

fn missing_text(column: &HiveColumn, there: &[HiveColumn]) -> String {
    format!("{} {} is not among ({})", column.name.to_lowercase(), column.type_text, declared(there))
}

/// The table with `missing` behind its columns.
pub(super) fn with_columns(wanted: &HiveTable, mut found: Fields, missing: &[HiveColumn]) -> Fields {
    let mut storage = part(&found, id::table::STORAGE);
    let there = storage.get(&id::storage::COLUMNS).map(Value::items).unwrap_or_default();
    let all = there.iter().filter_map(Value::as_fields).cloned().chain(missing.iter().map(column));
    let all = structs(all);
    storage.insert(id::storage::COLUMNS, all);
    found.insert(id::table::STORAGE, Value::Struct(storage));
    if let HiveFormat::Avro { schema } = &wanted.format {
        let mut parameters = parameters_of(&found, id::table::PARAMETERS);
        parameters.insert(AVRO_SCHEMA.to_string(), schema.clone());
        found.insert(id::table::PARAMETERS, text_map(&parameters));
    }
    found
}

/// Whether the table can have such a partition.
///
/// # Errors
/// [`HiveError`]: its keys are others, or its files its own.
pub(super) fn takes(table: &Fields, name: &TableName, partition: &HivePartition<'_>) -> Result<(), HiveError> {
    let kind = text_of(table, id::table::TYPE);
    if kind != EXTERNAL {
        return Err(HiveError::NotExternal { table: name.to_string(), found: kind });
    }
    let keys = columns_of(table, id::table::PARTITION_KEYS);
    let given = partition.values.iter().map(|(name, _)| name.to_lowercase());
    if given.clone().eq(keys.iter().map(|key| key.name.clone())) {
        return Ok(());
    }
    let [table, given, found] = [name.to_string(), given.collect::<Vec<_>>().join(", "), declared(&keys)];
    Err(HiveError::Values { table, given, found })
}

/// A partition to be added: stored as the table says, at its own place.
pub(super) fn partition(table: &Fields, name: &TableName, partition: &HivePartition<'_>) -> Fields {
    let mut storage = part(table, id::table::STORAGE);
    storage.insert(id::storage::LOCATION, text(partition.location));
    let mut parameters = BTreeMap::new();
    tell(&mut parameters, partition);
    fields([
        (id::partition::VALUES, texts(partition.values.iter().map(|(_, value)| value))),
        (id::partition::DATABASE, text(&name.database)),
        (id::partition::TABLE, text(&name.table)),
        (id::partition::STORAGE, Value::Struct(storage)),
        (id::partition::PARAMETERS, text_map(&parameters)),
    ])
}

/// What becomes of a partition that is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It says what it should.
    Done,
    /// It is of this revision, which is higher.
    Newer(u32),
    /// It is to be written like this.
    Write(Fields),
}

/// What becomes of `found`. `is_written`: it was written a moment ago, and the metastore may have put it into other words, or counted itself.
pub(super) fn step(table: &Fields, mut found: Fields, partition: &HivePartition<'_>, is_written: bool) -> Step {
    let there = parameters_of(&found, id::partition::PARAMETERS);
    match revision_of(&there) {
        Some(revision) if revision > partition.revision => return Step::Newer(revision),
        Some(revision) if revision == partition.revision && is_written => return Step::Done,
        Some(_) | None => {}
    }
    let mut storage = part(&found, id::partition::STORAGE);
    let location = text_of(&storage, id::storage::LOCATION);
    let mut wanted = there.clone();
    tell(&mut wanted, partition);
    let is_moved = !is_same_place(&location, partition.location);
    if wanted == there && !is_moved {
        return Step::Done;
    }
    for outdated in OUTDATED {
        wanted.remove(*outdated);
    }
    wanted.remove(CHANGED_AT);
    if is_moved {
        storage.insert(id::storage::LOCATION, text(partition.location));
    }
    // A partition is read with the columns that it has itself: late data may have those that the table has got since.
    if let Some(columns) = part(table, id::table::STORAGE).remove(&id::storage::COLUMNS) {
        storage.insert(id::storage::COLUMNS, columns);
    }
    found.insert(id::partition::STORAGE, Value::Struct(storage));
    found.insert(id::partition::PARAMETERS, text_map(&wanted));
    Step::Write(found)
}

fn tell(parameters: &mut BTreeMap<String, String>, partition: &HivePartition<'_>) {
    match partition.rows {
        Some(rows) => drop(parameters.insert(ROWS.to_string(), rows.to_string())),
        // What somebody else counted is not told any more.
        None => drop(parameters.remove(ROWS)),
    }
    parameters.insert(BYTES.to_string(), partition.bytes.to_string());
    parameters.insert(FILES.to_string(), partition.objects.to_string());
    parameters.entry(ERASURE_CODED.to_string()).or_insert_with(|| "0".to_string());
    parameters.entry(GENERATED.to_string()).or_insert_with(|| "true".to_string());
    parameters.insert(REVISION.to_string(), partition.revision.to_string());
}

/// Whether two URLs are one place. The metastore writes `file:///x` as `file:/x`, and puts its own host into `hdfs:///x`.
fn is_same_place(found: &str, wanted: &str) -> bool {
    let ([found_scheme, found_host, found_path], [scheme, host, path]) = (split(found), split(wanted));
    scheme == found_scheme && path == found_path && (host == found_host || host.is_empty())
}

fn split(url: &str) -> [&str; 3] {
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    [scheme, host, path.trim_end_matches('/')]
}
