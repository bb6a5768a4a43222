//! Google BigQuery: an external table over `gs://`.
//!
//! A URI has one `*`, which also stands for slashes. So the table reads everything below a fixed beginning that ends in the extension, and what
//! else could lie there is refused. Folders that are `name=value` are partition columns; of others `_FILE_NAME` tells. A URI without any object
//! is an error, so there is one alone.
//!
//! No array can be null in JSON lines, nor have a null in it, and payloads do as they like: lists are JSON there.

use super::folders::{Level, PartitionColumn, PartitionType, Value, ValueKind};
use super::hive::shown;
use super::pattern::{self, Token};
use super::text::{escaped, escaped_backticks, is_plain, list};
use super::types::{Column, Type};
use super::{Codec, Dialect, Rows, Table, reaches};

pub(super) fn statement(table: &Table) -> Result<String, String> {
    reaches(Dialect::BigQuery, &table.store.url(&table.store.prefix))?;
    let mut notes = Vec::new();
    let is_hive_style = table.folders.are_hive_style();
    let partitions = if is_hive_style { table.folders.columns() } else { Vec::new() };
    if is_hive_style {
        table.check_columns()?;
    }
    let location = table.folders.location(table.store.prefix_segments());
    if location.contains(['*', '[', ']', '?']) {
        return Err(format!("a URI of BigQuery cannot say {location}: *, ?, [ and ] mean something else there"));
    }
    table.check_chosen()?;
    let mut keys = pattern::text(&beginning(table, &mut notes));
    keys.push(Token::All);
    if !table.extension.is_empty() {
        keys.extend(pattern::text(&format!(".{}", table.extension)));
    }
    table.check_alone(&keys, false)?;
    let uri: String =
        keys.iter().map(|token| if *token == Token::All { "*".to_string() } else { shown(*token) }).collect();
    let uri = table.store.url(&uri);
    let mut options = Vec::new();
    let mut say = |key: &str, value: String| options.push(format!("{key} = {value}"));
    match &table.rows {
        Rows::Parquet(_) => {
            if table.codec == Codec::Lz4 {
                return Err("BigQuery reads no Parquet with LZ4_RAW; zstd, snappy or gzip it reads".to_string());
            }
            say("format", "'PARQUET'".to_string());
            say("enable_list_inference", "true".to_string());
        }
        Rows::Avro(..) => {
            if table.codec == Codec::Zstd {
                return Err("BigQuery reads no Avro with zstd; deflate or snappy it reads".to_string());
            }
            say("format", "'AVRO'".to_string());
            say("enable_logical_types", "true".to_string());
        }
        Rows::Json(_) | Rows::Lines if table.codec == Codec::Zstd => {
            return Err("BigQuery reads no text with zstd; gzip it reads".to_string());
        }
        Rows::Json(columns) => {
            say("format", "'NEWLINE_DELIMITED_JSON'".to_string());
            say("ignore_unknown_values", "true".to_string());
            notes.extend(table.compacted_note(false));
            let is_list = |column: &Column| column.kind.has(&|kind| matches!(kind, Type::List(_)));
            if columns.as_ref().is_some_and(|columns| columns.iter().any(is_list)) {
                notes.push("Lists are JSON: in JSON lines an array of BigQuery cannot be null.".to_string());
            }
            if columns.is_none() {
                notes.push(
                    "Without columns BigQuery takes them from some rows of a file: name those that matter.".to_string(),
                );
            }
        }
        Rows::Lines => {
            notes.push("Read as CSV whose delimiter, U+0001, must not be in the payloads.".to_string());
            notes.extend(table.returns_note());
            say("format", "'CSV'".to_string());
            say("field_delimiter", r"'\u0001'".to_string());
            say("quote", "''".to_string());
        }
    }
    if table.codec == Codec::Gzip && matches!(table.rows, Rows::Json(_) | Rows::Lines) {
        say("compression", "'GZIP'".to_string());
    }
    let is_big = |column: &Column| column.kind.has(&is_bignumeric);
    if matches!(table.rows, Rows::Parquet(_) | Rows::Avro(..)) && table.columns().unwrap_or_default().iter().any(is_big)
    {
        say("decimal_target_types", "['NUMERIC', 'BIGNUMERIC']".to_string());
    }
    say("uris", format!("[{}]", escaped(&uri)));
    if !partitions.is_empty() {
        say("hive_partition_uri_prefix", escaped(&table.store.url(&location)));
    } else if !table.folders.levels.is_empty() {
        notes.push(
            "Folders that are not name=value are no columns, and prune nothing: _FILE_NAME tells a row's object."
                .to_string(),
        );
    }
    let mut lines = Vec::new();
    match (&table.rows, table.columns()) {
        (_, Some(columns)) => {
            for column in columns {
                if !is_plain(&column.name) {
                    notes.push(format!(
                        "{}: a name with other than letters, digits and _ is a flexible column name.",
                        column.name
                    ));
                }
                lines.push(line(table, column)?);
            }
        }
        (Rows::Lines, None) => lines.push(format!("{} STRING", escaped_backticks(super::hive::LINE))),
        (_, None) => {}
    }
    // A dot divides project, data set and table, and all of it can stand between one pair of backticks.
    let name = escaped_backticks(&table.name);
    let mut text = format!("CREATE EXTERNAL TABLE IF NOT EXISTS {name}");
    if lines.is_empty() {
        text.push('\n');
    } else {
        text.push_str(&format!(" (\n{}\n)\n", list(&lines)));
    }
    if !partitions.is_empty() {
        let of = |column: &PartitionColumn| format!("{} {}", escaped_backticks(&column.name), partition_type(column));
        let columns: Vec<String> = partitions.iter().map(of).collect();
        text.push_str(&format!("WITH PARTITION COLUMNS ({})\n", columns.join(", ")));
    }
    text.push_str(&format!("OPTIONS (\n{}\n);\n", list(&options)));
    Ok(table.head(&uri, &notes) + &text)
}

/// What the keys of the table's objects begin with, as exactly as one beginning for all of them can tell.
fn beginning(table: &Table, notes: &mut Vec<String>) -> String {
    let location = table.folders.location(table.store.prefix_segments());
    let location = if location.is_empty() { location } else { format!("{location}/") };
    match table.folders.levels.first() {
        Some(Level::Keyed(name, _)) if table.folders.fixed.is_empty() => format!("{location}{name}="),
        Some(Level::Bare(Value { kind: ValueKind::Time(time), .. }))
            if table.folders.fixed.is_empty() && time.begins_with_year() =>
        {
            notes.push(
                "Years from 2000 on: rows of 1999 and before, and those without any time (year 1), are not seen."
                    .to_string(),
            );
            format!("{location}2")
        }
        _ => location,
    }
}

fn line(table: &Table, column: &Column) -> Result<String, String> {
    let comment =
        column.comment.as_ref().map_or(String::new(), |text| format!(" OPTIONS (description = {})", escaped(text)));
    Ok(format!("{} {}{comment}", escaped_backticks(&column.name), type_of(table, &column.kind, &column.name)?))
}

fn partition_type(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "DATE",
        PartitionType::Int { .. } => "INT64",
        PartitionType::Text => "STRING",
    }
}

/// Whether a decimal fits no NUMERIC.
pub(crate) fn is_bignumeric(kind: &Type) -> bool {
    let Type::Decimal { precision, scale } = kind else { return false };
    let (before, behind) = (i16::from(*precision) - i16::from(*scale), i16::from(*scale));
    before > NUMERIC.0 || behind > NUMERIC.1
}

/// Most digits in front of the point, and behind it, of a NUMERIC.
const NUMERIC: (i16, i16) = (29, 9);

fn type_of(table: &Table, kind: &Type, path: &str) -> Result<String, String> {
    let is_json = matches!(table.rows, Rows::Json(_));
    Ok(match kind {
        Type::Bool => "BOOL".to_string(),
        Type::Int32 | Type::Int64 => "INT64".to_string(),
        Type::Double => "FLOAT64".to_string(),
        Type::Text => "STRING".to_string(),
        // Any JSON value; in files it is text.
        Type::Json | Type::Map(_) | Type::List(_) if is_json => "JSON".to_string(),
        Type::Json => "STRING".to_string(),
        Type::Bytes => "BYTES".to_string(),
        Type::Date => "DATE".to_string(),
        Type::Timestamp(_) => "TIMESTAMP".to_string(),
        Type::Decimal { .. } => if is_bignumeric(kind) { "BIGNUMERIC" } else { "NUMERIC" }.to_string(),
        Type::Struct(fields) => {
            let mut inner = Vec::new();
            for field in fields {
                let path = format!("{path}.{}", field.name);
                inner.push(format!("{} {}", escaped_backticks(&field.name), type_of(table, &field.kind, &path)?));
            }
            format!("STRUCT<{}>", inner.join(", "))
        }
        Type::List(element) => match &**element {
            Type::List(_) => return Err(format!("the column {path} has lists in a list, which BigQuery has not")),
            other => format!("ARRAY<{}>", type_of(table, other, path)?),
        },
        Type::Map(value) => {
            let pair = format!("STRUCT<key STRING, value {}>", type_of(table, value, path)?);
            // Parquet's own group around the pairs shows; Avro has none.
            if matches!(table.rows, Rows::Parquet(_)) {
                format!("STRUCT<key_value ARRAY<{pair}>>")
            } else {
                format!("ARRAY<{pair}>")
            }
        }
    })
}
