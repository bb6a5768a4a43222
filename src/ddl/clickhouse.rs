//! ClickHouse: a table of the engine S3, GCS, AzureBlobStorage or File, whose columns `use_hive_partitioning` completes from the path.
//!
//! Its patterns know `*` and `?`, but nothing that leaves names out. Text in paths is shown as it stands there. `DateTime64` and `Date32` reach
//! from 1900 to 2299.

use super::duckdb::clash;
use super::folders::{PartitionColumn, PartitionType};
use super::pattern::Token;
use super::text::{escaped, escaped_backticks, list, qualified};
use super::types::{Column, Precision, Type};
use super::{Codec, Rows, Table};

pub(super) fn statement(table: &Table) -> Result<String, String> {
    let keys: Vec<Token> = table.own_keys().into_iter().map(weaker).collect();
    table.check_alone(&keys, false)?;
    let mut key = String::new();
    for token in keys {
        match token {
            Token::Char(c @ ('*' | '?' | '{' | '}')) => {
                return Err(format!("a pattern of ClickHouse cannot say {c}, which is in the path"));
            }
            Token::Char(c) => key.push(c),
            Token::One | Token::Digit => key.push('?'),
            Token::Run | Token::Visible => key.push('*'),
            Token::All => key.push_str("**"),
        }
    }
    let mut notes = Vec::new();
    let is_hive_style = table.folders.are_hive_style();
    let partitions = if is_hive_style { table.folders.columns() } else { Vec::new() };
    let format = match &table.rows {
        Rows::Parquet(_) => "Parquet",
        Rows::Avro(..) => "Avro",
        Rows::Json(Some(_)) => "JSONEachRow",
        Rows::Json(None) => {
            notes.push("JSONExtractString(line, 'field') reads a field.".to_string());
            "LineAsString"
        }
        Rows::Lines => "LineAsString",
    };
    notes.extend(table.compacted_note(false));
    let codec = match (&table.rows, table.codec) {
        (Rows::Json(_) | Rows::Lines, Codec::Gzip) => Some("gzip"),
        (Rows::Json(_) | Rows::Lines, Codec::Zstd) => Some("zstd"),
        (Rows::Json(_) | Rows::Lines, _) => Some("none"),
        _ => None,
    };
    let engine = engine(table, &key, format, codec, &mut notes)?;
    let mut lines: Vec<String> = match table.columns() {
        Some(columns) => columns.iter().filter(|column| !is_among(&partitions, &column.name)).map(line).collect(),
        None => vec!["`line` String".to_string()],
    };
    lines.extend(
        partitions.iter().map(|column| format!("{} {}", escaped_backticks(&column.name), partition_type(column))),
    );
    if let Some(clash) = clash(table, &partitions) {
        notes.push(format!("{clash}: the value of the path is shown, not that of the rows."));
    }
    if partitions.iter().any(|column| column.of_type() == PartitionType::Text) {
        notes.push("Text in paths is shown as it stands there: decodeURLComponent undoes %XX.".to_string());
    }
    if !is_hive_style && !table.folders.levels.is_empty() {
        notes.push("Folders that are not name=value are no columns: _path tells a row's object.".to_string());
    }
    let name = qualified(&table.name, escaped_backticks);
    let settings = if partitions.is_empty() { "" } else { "\nSETTINGS use_hive_partitioning = 1" };
    let text = format!("CREATE TABLE IF NOT EXISTS {name} (\n{}\n)\nENGINE = {engine}{settings};\n", list(&lines));
    Ok(table.head(&table.store.url(&key), &notes) + &text)
}

/// What ClickHouse can say of a token, which matches more.
fn weaker(token: Token) -> Token {
    match token {
        Token::Digit => Token::One,
        Token::Visible => Token::Run,
        other => other,
    }
}

fn is_among(partitions: &[PartitionColumn], name: &str) -> bool {
    partitions.iter().any(|partition| partition.name.eq_ignore_ascii_case(name))
}

fn engine(
    table: &Table,
    key: &str,
    format: &str,
    codec: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<String, String> {
    let store = &table.store;
    let bucket = &store.bucket;
    let (name, mut arguments) = match store.scheme.as_str() {
        "file" => {
            notes.push("A server reads files below its user_files_path alone; clickhouse-local reads all.".to_string());
            let mut arguments = vec![escaped(format), escaped(&format!("/{key}"))];
            arguments.extend(codec.map(escaped));
            return Ok(format!("File({})", arguments.join(", ")));
        }
        "s3" => {
            notes.push("Without keys behind the URL the server's own credentials count.".to_string());
            let url = match (&store.endpoint, &store.region) {
                (Some(endpoint), _) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
                (None, Some(region)) => format!("https://{bucket}.s3.{region}.amazonaws.com/{key}"),
                (None, None) => format!("https://{bucket}.s3.amazonaws.com/{key}"),
            };
            ("S3", vec![escaped(&url)])
        }
        "gs" => {
            notes.push("Needs an HMAC key behind the URL, or in the server's configuration.".to_string());
            let endpoint = store.endpoint.as_deref().unwrap_or("https://storage.googleapis.com").trim_end_matches('/');
            ("GCS", vec![escaped(&format!("{endpoint}/{bucket}/{key}"))])
        }
        "az" => {
            let account = store.account_or_note(notes);
            notes.push("Write the account's key for KEY.".to_string());
            let url = format!("https://{account}.blob.core.windows.net");
            (
                "AzureBlobStorage",
                vec![escaped(&url), escaped(bucket), escaped(key), escaped(&account), "'KEY'".to_string()],
            )
        }
        other => return Err(format!("ClickHouse reads files, s3://, gs:// and az:// this way, no {other}://")),
    };
    arguments.push(escaped(format));
    arguments.extend(codec.map(escaped));
    Ok(format!("{name}({})", arguments.join(", ")))
}

fn line(column: &Column) -> String {
    let comment = column.comment.as_ref().map_or(String::new(), |text| format!(" COMMENT {}", escaped(text)));
    format!("{} {}{comment}", escaped_backticks(&column.name), type_of(&column.kind, column.nullable))
}

fn partition_type(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "Date32",
        PartitionType::Int { .. } => "Int32",
        PartitionType::Text => "String",
    }
}

/// Tuples, arrays and maps are never null here: one that is null is empty, or one of nulls.
fn type_of(kind: &Type, nullable: bool) -> String {
    let scalar = match kind {
        Type::Bool => "Bool".to_string(),
        Type::Int32 => "Int32".to_string(),
        Type::Int64 => "Int64".to_string(),
        Type::Double => "Float64".to_string(),
        Type::Text | Type::Json | Type::Bytes => "String".to_string(),
        Type::Date => "Date32".to_string(),
        Type::Timestamp(Precision::Milliseconds) => "DateTime64(3, 'UTC')".to_string(),
        Type::Timestamp(Precision::Microseconds) => "DateTime64(6, 'UTC')".to_string(),
        Type::Decimal { precision, scale } => format!("Decimal({precision}, {scale})"),
        Type::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", escaped_backticks(&field.name), type_of(&field.kind, field.nullable)))
                .collect();
            return format!("Tuple({})", fields.join(", "));
        }
        Type::List(element) => return format!("Array({})", type_of(element, true)),
        Type::Map(value) => return format!("Map(String, {})", type_of(value, true)),
    };
    if nullable { format!("Nullable({scalar})") } else { scalar }
}
