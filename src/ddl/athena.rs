//! Amazon Athena: Hive's language, and partition projection, so that nobody has to add partitions.
//!
//! | folder | projection |
//! |---|---|
//! | `dt=%Y-%m-%d`, `%Y/%m/%d/%H` | `date`, from the first day that was given to tomorrow |
//! | `hr=%H` | `integer` with its range, and `digits` where zeros pad it |
//! | `topic={topic}`, the topic alone | `enum` of the archive's topics, where they are all named |
//! | anything else | `injected`: a query says the value |

use super::folders::{PartitionColumn, PartitionType, ValueKind};
use super::hive::{check, create, reads, type_of};
use super::text::{backticks, escaped, is_plain, qualified};
use super::{Codec, Rows, Table, reaches};
use crate::layout::directive::Unit;

pub(super) fn statement(table: &Table) -> Result<String, String> {
    reaches(super::Dialect::Athena, &table.store.url(&table.store.prefix))?;
    check(table)?;
    let mut notes = Vec::new();
    let storage = match &table.rows {
        Rows::Parquet(_) => {
            if table.codec == Codec::Lz4 {
                return Err("Athena reads no Parquet with LZ4_RAW; zstd, snappy or gzip it reads".to_string());
            }
            "STORED AS PARQUET".to_string()
        }
        Rows::Avro(_, schema) => format!(
            "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.avro.AvroSerDe'\nWITH SERDEPROPERTIES ('avro.schema.literal' = {})\nSTORED AS AVRO",
            escaped(schema)
        ),
        Rows::Json(Some(_)) => "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'\nSTORED AS TEXTFILE".to_string(),
        Rows::Json(None) | Rows::Lines => {
            if matches!(table.rows, Rows::Json(_)) {
                notes.push("json_extract_scalar(line, '$.field') reads a field.".to_string());
            }
            "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'\nWITH SERDEPROPERTIES ('input.regex' = '(?s)(.*)')\nSTORED AS TEXTFILE"
                .to_string()
        }
    };
    notes.extend(table.compacted_note(true));
    notes.extend(table.returns_note());
    for column in table.columns().unwrap_or_default().iter().filter(|column| !is_plain(&column.name)) {
        notes.push(format!(
            "Athena's documents allow letters, digits and _ in names: {} may fail in queries.",
            column.name
        ));
    }
    let name = qualified(&table.name, backticks);
    let (partitions, folders) = table.folders.columns_and_template();
    let key = table.folders.location(table.store.prefix_segments());
    let location = table.store.url(&key);
    let mut properties = Vec::new();
    if !partitions.is_empty() {
        properties.push(("projection.enabled".to_string(), "true".to_string()));
        for column in &partitions {
            project(table, column, &mut properties, &mut notes);
        }
        properties.push(("storage.location.template".to_string(), format!("{location}/{folders}/")));
    }
    let mut text = create(table, &name, &type_of, &partitions, athena_partition)?;
    text.push_str(&format!("{storage}\nLOCATION {}", escaped(&format!("{location}/"))));
    if !properties.is_empty() {
        let lines: Vec<String> =
            properties.iter().map(|(key, value)| format!("{} = {}", escaped(key), escaped(value))).collect();
        text.push_str(&format!("\nTBLPROPERTIES (\n{}\n)", super::text::list(&lines)));
    }
    Ok(format!("{}{text};\n", table.head(&reads(table), &notes)))
}

/// Types tell how values are compared; what they look like in paths is the projection's business.
fn athena_partition(column: &PartitionColumn) -> &'static str {
    match (&column.kind, column.of_type()) {
        (ValueKind::Time(time), PartitionType::Int { .. })
            if time.number.is_some_and(|number| number.range.is_some()) =>
        {
            "INT"
        }
        _ => "STRING",
    }
}

fn project(table: &Table, column: &PartitionColumn, properties: &mut Vec<(String, String)>, notes: &mut Vec<String>) {
    let mut say =
        |key: &str, value: &str| properties.push((format!("projection.{}.{key}", column.name), value.to_string()));
    match &column.kind {
        ValueKind::Time(time) => {
            let range = time.number.and_then(|number| Some((number.range?, number.digits)));
            match (range, &time.java, time.unit.and_then(unit)) {
                (Some(((first, last), digits)), ..) => {
                    say("type", "integer");
                    say("range", &format!("{first},{last}"));
                    if let Some(digits) = digits {
                        say("digits", &digits.to_string());
                    }
                }
                (None, Some(java), Some(unit)) => {
                    let first = time.of(table.since.and_hms_opt(0, 0, 0).unwrap_or_default());
                    say("type", "date");
                    say("format", java);
                    say("range", &format!("{first},NOW+1DAYS"));
                    say("interval", "1");
                    say("interval.unit", unit);
                    notes.push(format!(
                        "{}: nothing before {first} is seen; --since tells another day. Rows without any time lie in the year 1.",
                        column.name
                    ));
                }
                _ => injected(column, properties, notes),
            }
        }
        ValueKind::Topic if !table.folders.topics.is_empty() => {
            say("type", "enum");
            say("values", &table.folders.topics.join(","));
        }
        ValueKind::Topic | ValueKind::OfTopic | ValueKind::Number { .. } | ValueKind::Text => {
            injected(column, properties, notes);
        }
    }
}

fn injected(column: &PartitionColumn, properties: &mut Vec<(String, String)>, notes: &mut Vec<String>) {
    properties.push((format!("projection.{}.type", column.name), "injected".to_string()));
    notes.push(format!(
        "{0}: nothing tells its values, so each query does: WHERE {0} = '…', as it stands in the path.",
        column.name
    ));
}

fn unit(unit: Unit) -> Option<&'static str> {
    Some(match unit {
        Unit::Millisecond => return None,
        Unit::Second => "SECONDS",
        Unit::Minute => "MINUTES",
        Unit::Hour => "HOURS",
        Unit::Day => "DAYS",
        Unit::Month => "MONTHS",
        Unit::Year => "YEARS",
    })
}
