//! Apache Hive: an external table with a SerDe for each format. Athena reads the same language.
//!
//! - Columns of Avro come from the schema in `avro.schema.literal`; those in the statement say the same. `AvroSerDe` knows `timestamp-millis` and
//!   `date`, but shows `timestamp-micros` as the number that it is.
//! - A partition that is a number with zeros in front is text: `ALTER TABLE … ADD PARTITION` would write an INT without its zeros, and look
//!   into a folder that is not there.
//! - `MSCK REPAIR TABLE` refuses folders that are no partitions of this table (of another output, of dead letters), and partitions whose values are
//!   percent-encoded, unless it is told to ignore that.

use super::folders::{PartitionColumn, PartitionType, ValueKind};
use super::pattern::Token;
use super::text::{backticks, escaped, is_plain, list, qualified};
use super::types::{Column, Precision, Type};
use super::{Codec, Rows, Table};

/// Lines of text as they are: one column, whatever is in them.
const LINE_SERDE: &str = "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'\nWITH SERDEPROPERTIES ('input.regex' = '(?s)(.*)')\nSTORED AS TEXTFILE";

/// Name of the column of rows that have none.
pub(super) const LINE: &str = "line";

pub(super) fn statement(table: &Table) -> Result<String, String> {
    check(table)?;
    let mut notes = Vec::new();
    let key = table.folders.location(table.store.prefix_segments());
    let location = table.store.hadoop_url(&key, &mut notes);
    let storage = match &table.rows {
        Rows::Parquet(columns) => {
            if has_instants(columns) {
                notes.push(
                    "Hive before 4.0 reads no timestamps of 64 bits: declare them as BIGINT there, or ask Spark or Trino.".to_string(),
                );
            }
            if table.codec == Codec::Lz4 {
                notes.push("LZ4_RAW needs the Parquet library of Hive 4.".to_string());
            }
            "STORED AS PARQUET".to_string()
        }
        Rows::Avro(..) => "STORED AS AVRO".to_string(),
        Rows::Json(Some(columns)) => {
            let is_json = |column: &&Column| column.kind.has(&|kind| *kind == Type::Json);
            let mut fails: Vec<String> = Vec::new();
            fails.extend(
                columns
                    .iter()
                    .find(is_json)
                    .map(|column| format!("where a STRING column holds an object or a list, as {} can", column.name)),
            );
            fails.extend(table.has_null_lines.then(|| "at lines that are null".to_string()));
            if !fails.is_empty() {
                notes.push(format!("Needs Hive 4: the JsonSerDe of Hive 3 fails {}.", fails.join(", and ")));
            }
            "ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'\nSTORED AS TEXTFILE".to_string()
        }
        Rows::Json(None) => {
            notes.push("get_json_object(line, '$.field') reads a field.".to_string());
            LINE_SERDE.to_string()
        }
        Rows::Lines => LINE_SERDE.to_string(),
    };
    notes.extend(table.compacted_note(true));
    notes.extend(table.returns_note());
    if table.codec == Codec::Zstd && !matches!(table.rows, Rows::Parquet(_)) {
        notes.push("zstd needs Hadoop's native library.".to_string());
    }
    let name = qualified(&table.name, backticks);
    let mut text = String::new();
    let partitions = table.folders.columns();
    let mut behind = String::new();
    if !partitions.is_empty() {
        let padded = |column: &&PartitionColumn| column.of_type() == PartitionType::Int { padded: true };
        if let Some(column) = partitions.iter().find(padded) {
            notes.push(format!(
                "Numbers with zeros in front are text: WHERE {} = '{}'.",
                column.name,
                padded_three(column)
            ));
        }
        behind = if table.folders.are_hive_style() {
            format!("\nSET hive.msck.path.validation=ignore;\nMSCK REPAIR TABLE {name};\n")
        } else {
            notes.push(
                "Folders that are not name=value are found by nobody: add each partition, as below. (Athena can be told where they are.)"
                    .to_string(),
            );
            notes.extend(table.hidden_note());
            format!("\n{}", add_partition(table, &name, &location, &partitions))
        };
    }
    text.push_str(&create(table, &name, &type_of, &partitions, hive_partition)?);
    text.push_str(&format!("{storage}\nLOCATION {}", escaped(&location)));
    if let Rows::Avro(_, schema) = &table.rows {
        text.push_str(&format!("\nTBLPROPERTIES ('avro.schema.literal' = {})", escaped(schema)));
    }
    let head = table.head(&reads(table), &notes);
    Ok(format!("{head}{text};\n{behind}"))
}

/// Three, with zeros in front as the column's folders have them.
fn padded_three(column: &PartitionColumn) -> String {
    let digits = match &column.kind {
        ValueKind::Time(time) => time.number.and_then(|number| number.digits),
        _ => None,
    };
    format!("{:0>width$}", 3, width = digits.unwrap_or(3))
}

/// What Hive and Athena refuse alike.
pub(crate) fn check(table: &Table) -> Result<(), String> {
    let mut keys = table.folder_keys();
    keys.push(Token::Visible);
    table.check_alone(&keys, true)?;
    table.check_columns()?;
    let mut seen = Vec::new();
    for column in table.folders.columns() {
        if seen.contains(&column.name.to_ascii_lowercase()) {
            return Err(format!("two folders of the path are called {}", column.name));
        }
        seen.push(column.name.to_ascii_lowercase());
    }
    match table.columns() {
        Some(columns) => check_names(columns),
        None => Ok(()),
    }
}

/// Names inside of types have no quotes in Hive's metastore.
fn check_names(columns: &[Column]) -> Result<(), String> {
    for column in columns {
        if column.name.contains(['.', ':', ',', ';']) {
            return Err(format!("Hive has no column {:?}: names are without . : , and ;", column.name));
        }
        check_inner(&column.kind, &column.name)?;
    }
    Ok(())
}

fn check_inner(kind: &Type, path: &str) -> Result<(), String> {
    match kind {
        Type::Struct(fields) => {
            for field in fields {
                let inner = format!("{path}.{}", field.name);
                if !is_plain(&field.name) {
                    return Err(format!(
                        "Hive has no nested field {inner:?}: names in types are of letters, digits and _"
                    ));
                }
                check_inner(&field.kind, &inner)?;
            }
            Ok(())
        }
        Type::List(element) | Type::Map(element) => check_inner(element, path),
        _ => Ok(()),
    }
}

/// What is read, for people: every object in the folders.
pub(super) fn reads(table: &Table) -> String {
    let mut folders = table.folder_keys();
    folders.push(Token::Run);
    let key: String = folders.iter().map(|token| shown(*token)).collect();
    table.store.url(&key)
}

/// A token as people would write it.
pub(super) fn shown(token: Token) -> String {
    match token {
        Token::Char(c) => c.to_string(),
        Token::Digit | Token::One => "?".to_string(),
        Token::Run | Token::Visible => "*".to_string(),
        Token::All => "**".to_string(),
    }
}

/// `CREATE EXTERNAL TABLE …` up to what tells the format.
pub(super) fn create(
    table: &Table,
    name: &str,
    type_of: &dyn Fn(&Table, &Type) -> String,
    partitions: &[PartitionColumn],
    partition_type: fn(&PartitionColumn) -> &'static str,
) -> Result<String, String> {
    let lines: Vec<String> = match table.columns() {
        Some(columns) => {
            let line = |column: &Column| {
                let comment =
                    column.comment.as_ref().map_or(String::new(), |text| format!(" COMMENT {}", escaped(text)));
                format!("{} {}{comment}", backticks(&column.name), type_of(table, &column.kind))
            };
            columns.iter().map(line).collect()
        }
        None => vec![format!("{} STRING", backticks(LINE))],
    };
    let mut text = format!("CREATE EXTERNAL TABLE IF NOT EXISTS {name} (\n{}\n)\n", list(&lines));
    if !partitions.is_empty() {
        let of = |column: &PartitionColumn| format!("{} {}", backticks(&column.name), partition_type(column));
        let columns: Vec<String> = partitions.iter().map(of).collect();
        text.push_str(&format!("PARTITIONED BY ({})\n", columns.join(", ")));
    }
    Ok(text)
}

fn add_partition(table: &Table, name: &str, location: &str, partitions: &[PartitionColumn]) -> String {
    let (values, folder) = table.folders.example();
    let spec: Vec<String> = partitions
        .iter()
        .zip(&values)
        .map(|(column, value)| format!("{} = {}", backticks(&column.name), escaped(value)))
        .collect();
    format!(
        "-- ALTER TABLE {name} ADD IF NOT EXISTS PARTITION ({})\n--   LOCATION {};\n",
        spec.join(", "),
        escaped(&format!("{location}/{folder}"))
    )
}

fn hive_partition(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "DATE",
        PartitionType::Int { padded: false } => "INT",
        PartitionType::Int { padded: true } | PartitionType::Text => "STRING",
    }
}

/// A type of Hive's, which Athena has too.
pub(crate) fn type_of(table: &Table, kind: &Type) -> String {
    let inner = |kind: &Type| type_of(table, kind);
    match kind {
        Type::Bool => "BOOLEAN".to_string(),
        Type::Int32 => "INT".to_string(),
        Type::Int64 => "BIGINT".to_string(),
        Type::Double => "DOUBLE".to_string(),
        Type::Text | Type::Json => "STRING".to_string(),
        Type::Bytes => "BINARY".to_string(),
        // The readers of JSON lines differ in what they take for a day.
        Type::Date if matches!(table.rows, Rows::Json(_)) => "STRING".to_string(),
        Type::Date => "DATE".to_string(),
        Type::Timestamp(Precision::Microseconds) if matches!(table.rows, Rows::Avro(..)) => "BIGINT".to_string(),
        Type::Timestamp(_) => "TIMESTAMP".to_string(),
        Type::Decimal { precision, scale } => format!("DECIMAL({precision}, {scale})"),
        Type::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name, inner(&field.kind))).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        Type::List(element) => format!("ARRAY<{}>", inner(element)),
        Type::Map(value) => format!("MAP<STRING, {}>", inner(value)),
    }
}

/// Whether there is an instant in them, at any depth.
fn has_instants(columns: &[Column]) -> bool {
    columns.iter().any(|column| column.kind.has(&|kind| matches!(kind, Type::Timestamp(_))))
}
