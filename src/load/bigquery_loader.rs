//! Complete folders as partitions of BigQuery's tables, or as tables of their own.

use super::bigquery::{
    BigQuery, BqField, Compression, ExternalTable, Format, Granularity, HiveKeys, HourLoad, LoadFault, LoadFaultKind,
    Made, Mode, TableRef,
};
use super::objects::Objects;
use super::origin::{Origin, refused, report};
use super::table::table_name;
use super::{LoadFailure, Loader, Report, Window};
use crate::bucket::completions::Completed;
use crate::ddl::bigquery::is_bignumeric;
use crate::ddl::folders::{PartitionColumn, PartitionType};
use crate::ddl::types::{Column, Type};
use crate::ddl::{Codec, Dialect, Rows, Store, Table, statement};
use crate::layout::window::{KeyTemplate, WindowValues};
use crate::upload::hex;
use async_trait::async_trait;
use chrono::DateTime;
use sha2::{Digest, Sha256};
use std::fmt;

/// How a folder comes into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Into {
    /// As a partition, which a load replaces.
    Partition {
        /// What a partition, and a folder, holds.
        granularity: Granularity,
        /// The column that the table is partitioned by; `None`: by the time of ingestion.
        field: Option<String>,
    },
    /// As a table of its own: the name shows the time.
    Table,
    /// Not at all: a table over the folders themselves is made once.
    External,
}

/// What is loaded where.
pub struct BigQueryLoader {
    /// Its id.
    pub id: String,
    /// The clients.
    pub bigquery: BigQuery,
    /// The project that has the dataset.
    pub project: String,
    /// The dataset, which is there already.
    pub dataset: String,
    /// `{topic}` and `{output}` are put in, and strftime parts of the start of the window.
    pub table: String,
    /// How.
    pub into: Into,
    /// The length of a window: its start is that much before its end.
    pub granularity: Granularity,
    /// Whose folders.
    pub origin: Origin,
}

impl fmt::Debug for BigQueryLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BigQueryLoader")
            .field("dataset", &self.dataset)
            .field("table", &self.table)
            .field("into", &self.into)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Loader for BigQueryLoader {
    async fn load(&self, window: &Window<'_>) -> Result<Report, LoadFailure> {
        let completed = window.completed;
        let topic = &completed.topic;
        let whose = format!("bigquery {}.{}.{}", self.project, self.dataset, self.template(topic));
        self.origin.own(&self.id, &whose, completed, self.into != Into::External).await?;
        let start_ms = completed.window_end_ms.saturating_sub(self.granularity.ms());
        let into = self.table(topic, start_ms);
        if self.into != Into::External {
            self.check_folder(completed, start_ms)?;
        }
        let objects = self.origin.objects(completed).await?;
        let table = self.origin.table(completed, &objects).await?;
        let schema = schema_of(&table).map_err(refused)?;
        let (format, compression) = written(&table).map_err(refused)?;
        if self.into == Into::External {
            return self.external(&into, &table, &schema, format, compression).await;
        }
        self.load_objects(window, &objects, &Loaded { into, table, schema, format, compression, start_ms }).await
    }

    fn asks_for_earlier(&self) -> bool {
        self.into != Into::External
    }
}

/// What a folder is loaded as.
struct Loaded {
    into: TableRef,
    table: Table,
    schema: Vec<BqField>,
    format: Format,
    compression: Compression,
    start_ms: i64,
}

impl BigQueryLoader {
    async fn load_objects(&self, window: &Window<'_>, objects: &Objects, of: &Loaded) -> Result<Report, LoadFailure> {
        let completed = window.completed;
        let Loaded { into, table, schema, format, compression, start_ms } = of;
        let partition = match &self.into {
            Into::Partition { granularity, .. } => Some((*start_ms, *granularity)),
            Into::Table | Into::External => None,
        };
        let partition_field = match &self.into {
            Into::Partition { field, .. } => field.as_deref(),
            Into::Table | Into::External => None,
        };
        // A load replaces the schema of a whole table; a partition's must have all columns of its table.
        let there = match (schema.is_empty(), partition) {
            (false, Some(_)) => self.bigquery.columns(into).await.map_err(of_fault)?,
            _ => None,
        };
        let schema = BqField::with_those_of(schema, &there.unwrap_or_default());
        let uris: Vec<String> = objects.keys.iter().map(|key| self.uri(&table.store, key)).collect();
        let earlier: Vec<String> = window.earlier.iter().map(|earlier| digest(&self.id, into, earlier)).collect();
        let load = HourLoad {
            table: into,
            partition,
            partition_field,
            uris: &uris,
            has_proved_wildcards: false,
            format: *format,
            compression: *compression,
            schema: &schema,
            digest: &digest(&self.id, into, completed),
            earlier: &earlier,
            after_ms: window.after_ms,
            archive: &completed.archive,
        };
        let loaded = self.bigquery.load(&load).await.map_err(of_fault)?;
        let partition = partition.and_then(|(start_ms, granularity)| granularity.partition_id(start_ms));
        Ok(Report {
            into: partition.map_or(into.to_string(), |partition| format!("{into}${partition}")),
            by: loaded.job_id,
            rows: loaded.rows.and_then(|rows| u64::try_from(rows).ok()),
            ended_ms: Some(loaded.ended_ms),
        })
    }

    /// The name of the table, or of all tables, of a topic; without its time.
    fn template(&self, topic: &str) -> String {
        table_name(&self.table, topic, &self.origin.output.name)
    }

    fn table(&self, topic: &str, start_ms: i64) -> TableRef {
        let start = DateTime::from_timestamp_millis(start_ms).unwrap_or_default();
        TableRef {
            project: self.project.clone(),
            dataset: self.dataset.clone(),
            // Neither a topic nor an output has a % in it by now.
            table: start.format(&self.template(topic)).to_string(),
        }
    }

    /// The folder is the one that the layout gives the window which it is loaded as.
    ///
    /// # Errors
    /// Another layout wrote it, and nobody knows which partition it is.
    fn check_folder(&self, completed: &Completed, start_ms: i64) -> Result<(), LoadFailure> {
        let place = &self.origin.output.place;
        let key = KeyTemplate::compile(place, &self.origin.output.name, "", self.origin.layout.generation);
        let key = key.map_err(|error| refused(error.to_string()))?;
        let values = WindowValues {
            topic: &completed.topic,
            partition: 0,
            event_ms: start_ms,
            fields: &[],
            headers: &[],
            key: None,
        };
        match *key.window(&values).folder == *completed.id.folder {
            true => Ok(()),
            false => Err(LoadFailure::Passed(format!(
                "{} is not the folder of path = {:?} for a whole {}: another layout wrote it",
                completed.id.folder,
                place.path,
                self.granularity.word()
            ))),
        }
    }

    fn uri(&self, store: &Store, key: &str) -> String {
        let prefix = if store.prefix.is_empty() { String::new() } else { format!("{}/", store.prefix) };
        format!("gs://{}/{prefix}{key}", store.bucket)
    }

    async fn external(
        &self,
        into: &TableRef,
        table: &Table,
        schema: &[BqField],
        format: Format,
        compression: Compression,
    ) -> Result<Report, LoadFailure> {
        // What the statement refuses is refused: the table would read what is not of this output.
        statement(Dialect::BigQuery, table).map_err(refused)?;
        if !table.folders.are_hive_style() {
            return Err(refused(
                "an external table needs folders that are name=value, as in dt=%Y-%m-%d/hr=%H".to_string(),
            ));
        }
        let mut fixed = table.folders.fixed.join("/");
        if !fixed.is_empty() {
            fixed.push('/');
        }
        let keys = table.folders.columns();
        let keys: Vec<_> = keys.iter().map(|column| (column.name.as_str(), key_type(column))).collect();
        let wanted = ExternalTable {
            table: into,
            uri_prefix: &self.uri(&table.store, &fixed),
            uri_suffix: &format!(".{}", table.extension),
            keys: HiveKeys::Named(&keys),
            format,
            compression,
            schema,
            require_partition_filter: false,
            archive: &self.origin.layout.archive,
        };
        let made = self.bigquery.ensure_external_table(&wanted).await.map_err(of_fault)?;
        if made == Made::Now {
            tracing::info!(table = %into, "external table made");
        }
        Ok(report(into.to_string()))
    }
}

fn key_type(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "DATE",
        PartitionType::Int { padded: false } => "INTEGER",
        PartitionType::Int { padded: true } | PartitionType::Text => "STRING",
    }
}

/// What a set of ranges is called: 32 hex digits of SHA-256 over the loader, the table, the folder, the revision and the offsets that it covers, each with its length.
pub fn digest(loader: &str, table: &TableRef, completed: &Completed) -> String {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    };
    add(loader.as_bytes());
    for part in [&table.project, &table.dataset, &table.table, &completed.archive, &completed.topic] {
        add(part.as_bytes());
    }
    add(completed.id.digest().as_bytes());
    add(&completed.generation.to_be_bytes());
    add(&completed.revision.to_be_bytes());
    for (number, covered) in &completed.covered {
        add(number.as_bytes());
        add(&covered.first.to_be_bytes());
        add(&covered.end.to_be_bytes());
    }
    hex(&digest.finalize())[..32].to_string()
}

fn of_fault(fault: LoadFault) -> LoadFailure {
    match fault.kind {
        LoadFaultKind::Superseded => LoadFailure::Superseded(fault.to_string()),
        _ => LoadFailure::Failed { verdict: fault.verdict(), message: fault.to_string() },
    }
}

fn written(table: &Table) -> Result<(Format, Compression), String> {
    let format = match &table.rows {
        Rows::Parquet(_) => Format::Parquet,
        Rows::Avro(..) => Format::Avro,
        Rows::Json(_) => Format::NewlineDelimitedJson,
        Rows::Lines => {
            return Err("payloads as they are have no columns: load a JSON, Parquet or Avro output".to_string());
        }
    };
    let compression = match table.codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Zstd => Compression::Zstd,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Deflate => Compression::Deflate,
    };
    format.check(compression)?;
    Ok((format, compression))
}

/// The columns of a table in BigQuery's words; none where nothing tells those of JSON lines: then the table has them.
fn schema_of(table: &Table) -> Result<Vec<BqField>, String> {
    match &table.rows {
        Rows::Parquet(columns) | Rows::Avro(columns, _) | Rows::Json(Some(columns)) => {
            columns.iter().map(|column| field(table, column, &column.name)).collect()
        }
        Rows::Json(None) | Rows::Lines => Ok(Vec::new()),
    }
}

fn field(table: &Table, column: &Column, path: &str) -> Result<BqField, String> {
    let mut field = of_type(table, &column.kind, path)?;
    field.name = column.name.clone();
    field.description = column.comment.clone();
    Ok(field)
}

fn of_type(table: &Table, kind: &Type, path: &str) -> Result<BqField, String> {
    let is_json = matches!(table.rows, Rows::Json(_));
    let plain = |kind: &str| BqField { kind: kind.to_string(), ..BqField::default() };
    Ok(match kind {
        Type::Bool => plain("BOOLEAN"),
        Type::Int32 | Type::Int64 => plain("INTEGER"),
        Type::Double => plain("FLOAT"),
        // In JSON lines an array of BigQuery's cannot be null, and any value is JSON.
        Type::Json | Type::Map(_) | Type::List(_) if is_json => plain("JSON"),
        Type::Text | Type::Json => plain("STRING"),
        Type::Bytes => plain("BYTES"),
        Type::Date => plain("DATE"),
        Type::Timestamp(_) => plain("TIMESTAMP"),
        Type::Decimal { precision, scale } => BqField {
            digits: Some((i64::from(*precision), i64::from(*scale))),
            ..plain(if is_bignumeric(kind) { "BIGNUMERIC" } else { "NUMERIC" })
        },
        Type::Struct(columns) => {
            let of = |column: &Column| self::field(table, column, &format!("{path}.{}", column.name));
            BqField { fields: columns.iter().map(of).collect::<Result<_, _>>()?, ..plain("RECORD") }
        }
        Type::List(element) => match &**element {
            Type::List(_) => return Err(format!("the column {path} has lists in a list, which BigQuery has not")),
            element => BqField { mode: Mode::Repeated, ..of_type(table, element, path)? },
        },
        Type::Map(value) => {
            let named = |name: &str, field: BqField| BqField { name: name.to_string(), ..field };
            let pair = vec![named("key", plain("STRING")), named("value", of_type(table, value, path)?)];
            let pairs = BqField { mode: Mode::Repeated, fields: pair, ..plain("RECORD") };
            // Parquet's own group around the pairs shows; Avro has none.
            match table.rows {
                Rows::Parquet(_) => BqField { fields: vec![named("key_value", pairs)], ..plain("RECORD") },
                _ => pairs,
            }
        }
    })
}

#[cfg(test)]
mod tests;
