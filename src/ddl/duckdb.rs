//! DuckDB: a view over the files. Files with columns tell them; of JSON lines the statement does.
//!
//! DuckDB passes over no names, so the pattern goes level by level and never says `**`.

use super::folders::{PartitionColumn, PartitionType};
use super::pattern::Token;
use super::text::{double_quotes, doubled, list, qualified};
use super::types::{Column, Type};
use super::{Rows, Table};

pub(super) fn statement(table: &Table) -> Result<String, String> {
    let mut notes = Vec::new();
    let mut keys = table.own_keys();
    if table.check_alone(&keys, false).is_err() {
        keys = table.visible_keys();
        table.check_alone(&keys, false)?;
        notes.extend(table.hidden_note());
    }
    let pattern: String = keys.iter().map(|token| glob(*token)).collect();
    let (url, secret) = match table.store.scheme.as_str() {
        "file" => (format!("/{pattern}"), None),
        "s3" => (table.store.url(&pattern), Some(s3_secret(table))),
        "gs" => (
            table.store.url(&pattern),
            Some("CREATE SECRET (TYPE gcs, KEY_ID '…', SECRET '…'); with an HMAC key".to_string()),
        ),
        "az" => {
            let account = table.store.account_or_note(&mut notes);
            let secret = format!(
                "INSTALL azure; CREATE SECRET (TYPE azure, PROVIDER credential_chain, ACCOUNT_NAME '{account}');"
            );
            (table.store.url(&pattern), Some(secret))
        }
        other => return Err(format!("DuckDB reads files, s3://, gs:// and az://, no {other}://")),
    };
    notes.extend(secret.map(|secret| format!("Credentials: {secret}")));
    let is_hive_style = table.folders.are_hive_style();
    let partitions = if is_hive_style { table.folders.columns() } else { Vec::new() };
    let mut arguments = vec![doubled(&url)];
    let function = match &table.rows {
        Rows::Parquet(_) => {
            arguments.push("union_by_name = true".to_string());
            "read_parquet"
        }
        Rows::Avro(columns, _) => {
            notes.push("INSTALL avro; LOAD avro; comes first.".to_string());
            if columns.iter().any(|column| column.kind.has(&is_logical)) {
                notes.push(
                    "The avro extension (1.4) knows no logical types: instants are microseconds since 1970 (make_timestamp; Kafka's own milliseconds), days \
                     are counted from 1970, decimals are bytes. Parquet has them as they are."
                        .to_string(),
                );
            }
            "read_avro"
        }
        Rows::Json(columns) => {
            arguments.push("format = 'newline_delimited'".to_string());
            match columns {
                Some(columns) => arguments.push(format!("columns = {}", json_columns(columns))),
                None => arguments.extend(["records = false".to_string(), "columns = {'json': 'JSON'}".to_string()]),
            }
            "read_json"
        }
        Rows::Lines => {
            notes.push(
                "An object with a carriage return inside of a payload is refused: strict_mode = false reads it, as several rows.".to_string(),
            );
            let more = [
                "auto_detect = false",
                "header = false",
                "columns = {'line': 'VARCHAR'}",
                "delim = ''",
                "quote = ''",
                "escape = ''",
            ];
            arguments.extend(more.map(str::to_string));
            "read_csv"
        }
    };
    notes.extend(table.compacted_note(false));
    if let Some(clash) = clash(table, &partitions) {
        notes.push(format!("{clash}: the value of the path is shown, not that of the rows."));
    }
    if is_hive_style && !partitions.is_empty() {
        arguments.push("hive_partitioning = true".to_string());
        let of = |column: &PartitionColumn| format!("{}: {}", doubled(&column.name), partition_type(column));
        let types: Vec<String> = partitions.iter().map(of).collect();
        arguments.push(format!("hive_types = {{{}}}", types.join(", ")));
    } else if !table.folders.levels.is_empty() {
        notes.push("Folders that are not name=value are no columns: filename tells a row's object.".to_string());
        if !matches!(table.rows, Rows::Avro(..)) {
            arguments.push("hive_partitioning = false".to_string());
        }
        arguments.push("filename = true".to_string());
    }
    let name = qualified(&table.name, double_quotes);
    let text = format!("CREATE OR REPLACE VIEW {name} AS\nSELECT * FROM {function}(\n{}\n);\n", list(&arguments));
    Ok(table.head(&table.store.url(&pattern), &notes) + &text)
}

/// Whether Avro has such a value as another one, and says so beside.
fn is_logical(kind: &Type) -> bool {
    matches!(kind, Type::Timestamp(_) | Type::Date | Type::Decimal { .. })
}

/// A column that is both in the rows and in the path.
pub(super) fn clash(table: &Table, partitions: &[PartitionColumn]) -> Option<String> {
    let columns = table.columns()?;
    let is_there = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    partitions.iter().find(|partition| is_there(&partition.name)).map(|partition| partition.name.clone())
}

fn s3_secret(table: &Table) -> String {
    let mut options = vec!["TYPE s3".to_string(), "PROVIDER credential_chain".to_string()];
    if let Some(region) = &table.store.region {
        options.push(format!("REGION {}", doubled(region)));
    }
    if let Some(endpoint) = &table.store.endpoint {
        let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
        options.push(format!("ENDPOINT {}", doubled(host)));
        options.push("URL_STYLE 'path'".to_string());
        options.push(format!("USE_SSL {}", scheme != "http"));
    }
    format!("CREATE SECRET ({});", options.join(", "))
}

fn glob(token: Token) -> String {
    match token {
        Token::Char(c @ ('*' | '?' | '[')) => format!("[{c}]"),
        Token::Char(c) => c.to_string(),
        Token::Digit => "[0-9]".to_string(),
        Token::One => "?".to_string(),
        Token::Run => "*".to_string(),
        Token::Visible => "[!_.]*".to_string(),
        Token::All => "**".to_string(),
    }
}

fn json_columns(columns: &[Column]) -> String {
    let of = |column: &Column| format!("{}: {}", doubled(&column.name), doubled(&type_of(&column.kind)));
    let lines: Vec<String> = columns.iter().map(of).collect();
    format!("{{\n    {}\n  }}", lines.join(",\n    "))
}

fn partition_type(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "DATE",
        PartitionType::Int { .. } => "INTEGER",
        PartitionType::Text => "VARCHAR",
    }
}

fn type_of(kind: &Type) -> String {
    match kind {
        Type::Bool => "BOOLEAN".to_string(),
        Type::Int32 => "INTEGER".to_string(),
        Type::Int64 => "BIGINT".to_string(),
        Type::Double => "DOUBLE".to_string(),
        Type::Text => "VARCHAR".to_string(),
        Type::Json => "JSON".to_string(),
        Type::Bytes => "BLOB".to_string(),
        Type::Date => "DATE".to_string(),
        Type::Timestamp(_) => "TIMESTAMP WITH TIME ZONE".to_string(),
        Type::Decimal { precision, scale } => format!("DECIMAL({precision}, {scale})"),
        Type::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{} {}", double_quotes(&field.name), type_of(&field.kind))).collect();
            format!("STRUCT({})", fields.join(", "))
        }
        Type::List(element) => format!("{}[]", type_of(element)),
        Type::Map(value) => format!("MAP(VARCHAR, {})", type_of(value)),
    }
}
