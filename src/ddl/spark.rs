//! Apache Spark SQL: a table of the data source parquet, avro, json or text.
//!
//! Folders that are `name=value` are partition columns, found by `MSCK REPAIR TABLE`; all objects in them are read, as by Hive: of such tables Spark
//! leaves `pathGlobFilter` aside. Other folders are looked through (`recursiveFileLookup`), there it keeps to the output's own objects, and a row's
//! file is in `_metadata.file_path`.

use super::folders::{PartitionColumn, PartitionType};
use super::hive::{LINE, shown};
use super::pattern::Token;
use super::text::{backticks, escaped, list, qualified};
use super::types::{Column, Type};
use super::{Codec, Rows, Table};

pub(super) fn statement(table: &Table) -> Result<String, String> {
    let mut notes = Vec::new();
    let is_hive_style = table.folders.are_hive_style();
    let is_partitioned = is_hive_style && !table.folders.levels.is_empty();
    let mut keys = if is_hive_style { table.folder_keys() } else { location_keys(table) };
    if is_partitioned {
        keys.push(Token::Visible);
    } else {
        keys.extend(if is_hive_style { table.name_keys() } else { ending(table) });
    }
    table.check_chosen()?;
    table.check_alone(&keys, true)?;
    let partitions = if is_hive_style { table.folders.columns() } else { Vec::new() };
    if is_hive_style {
        table.check_columns()?;
    } else {
        notes.push(
            "Folders that are not name=value are no columns: _metadata.file_path tells a row's file.".to_string(),
        );
        notes.extend(table.hidden_note());
    }
    let source = match &table.rows {
        Rows::Parquet(_) => "parquet",
        Rows::Avro(..) => {
            notes.push(
                "Needs the package org.apache.spark:spark-avro_2.13 of Spark's own version (--packages).".to_string(),
            );
            "avro"
        }
        Rows::Json(Some(_)) => "json",
        Rows::Json(None) => {
            notes.push("get_json_object(line, '$.field') reads a field.".to_string());
            "text"
        }
        Rows::Lines => "text",
    };
    // A glob keeps to the output's own objects.
    notes.extend(table.compacted_note(is_partitioned || table.extension.is_empty()));
    if table.codec == Codec::Zstd && matches!(table.rows, Rows::Json(_) | Rows::Lines) {
        notes.push("zstd needs Hadoop's native library.".to_string());
    }
    let location = table.folders.location(table.store.prefix_segments());
    let location = table.store.hadoop_url(&location, &mut notes);
    let name = qualified(&table.name, backticks);
    let mut lines: Vec<String> = match table.columns() {
        Some(columns) => columns.iter().map(line).collect(),
        None => vec![format!("{} STRING", backticks(LINE))],
    };
    lines.extend(partitions.iter().map(|column| format!("{} {}", backticks(&column.name), partition_type(column))));
    let mut text = format!("CREATE TABLE IF NOT EXISTS {name} (\n{}\n)\nUSING {source}\n", list(&lines));
    let mut options = Vec::new();
    if !table.extension.is_empty() && !is_partitioned {
        options.push(format!("pathGlobFilter {}", escaped(&format!("*.{}", table.extension))));
    }
    if !is_hive_style {
        options.push("recursiveFileLookup 'true'".to_string());
    }
    if source == "text" {
        // Otherwise a carriage return ends a line as well.
        options.push(r"lineSep '\n'".to_string());
    }
    if !options.is_empty() {
        text.push_str(&format!("OPTIONS ({})\n", options.join(", ")));
    }
    if !partitions.is_empty() {
        let names: Vec<String> = partitions.iter().map(|column| backticks(&column.name)).collect();
        text.push_str(&format!("PARTITIONED BY ({})\n", names.join(", ")));
    }
    text.push_str(&format!("LOCATION {};\n", escaped(&location)));
    if !partitions.is_empty() {
        text.push_str(&format!("\nMSCK REPAIR TABLE {name};\n"));
    }
    let reads: String = keys.iter().map(|token| shown(*token)).collect();
    Ok(table.head(&table.store.url(&reads), &notes) + &text)
}

/// Anything that ends as the names of the table's objects do.
fn ending(table: &Table) -> Vec<Token> {
    let mut tokens = vec![Token::All];
    if !table.extension.is_empty() {
        tokens.extend(super::pattern::text(&format!(".{}", table.extension)));
    }
    tokens
}

/// The pattern of the table's location, with a slash behind.
fn location_keys(table: &Table) -> Vec<Token> {
    let key = table.folders.location(table.store.prefix_segments());
    super::pattern::text(&if key.is_empty() { key } else { format!("{key}/") })
}

fn line(column: &Column) -> String {
    let comment = column.comment.as_ref().map_or(String::new(), |text| format!(" COMMENT {}", escaped(text)));
    format!("{} {}{comment}", backticks(&column.name), type_of(&column.kind))
}

fn partition_type(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "DATE",
        PartitionType::Int { .. } => "INT",
        PartitionType::Text => "STRING",
    }
}

fn type_of(kind: &Type) -> String {
    match kind {
        Type::Bool => "BOOLEAN".to_string(),
        Type::Int32 => "INT".to_string(),
        Type::Int64 => "BIGINT".to_string(),
        Type::Double => "DOUBLE".to_string(),
        Type::Text | Type::Json => "STRING".to_string(),
        Type::Bytes => "BINARY".to_string(),
        Type::Date => "DATE".to_string(),
        Type::Timestamp(_) => "TIMESTAMP".to_string(),
        Type::Decimal { precision, scale } => format!("DECIMAL({precision}, {scale})"),
        Type::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", backticks(&field.name), type_of(&field.kind))).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        Type::List(element) => format!("ARRAY<{}>", type_of(element)),
        Type::Map(value) => format!("MAP<STRING, {}>", type_of(value)),
    }
}
