//! Complete folders as partitions of a Hive Metastore's tables.

use super::hive::{
    HiveColumn, HiveError, HiveFormat, HivePartition, HiveTable, Metastore, PartitionOutcome, TableOutcome, TableRights,
};
use super::origin::{Origin, refused, report};
use super::table::table_name;
use super::{LoadFailure, Loader, Report, Window};
use crate::ddl::folders::{PartitionColumn, PartitionType};
use crate::ddl::{Rows, Store, Table, hive};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;

/// What is loaded where.
pub struct HiveLoader {
    /// Its id.
    pub id: String,
    /// The metastore.
    pub metastore: Metastore,
    /// What tells one metastore from another.
    pub place: String,
    /// The database, which is there already.
    pub database: String,
    /// `{topic}` and `{output}` are put in.
    pub table: String,
    /// What may be done to the table.
    pub rights: TableRights,
    /// The destination as engines call it, without a slash at its end; `None`: as Hadoop's file systems do.
    pub location: Option<String>,
    /// What else a table that is created has in `TBLPROPERTIES`.
    pub parameters: BTreeMap<String, String>,
    /// Whose folders.
    pub origin: Origin,
}

impl fmt::Debug for HiveLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HiveLoader")
            .field("database", &self.database)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Loader for HiveLoader {
    async fn load(&self, window: &Window<'_>) -> Result<Report, LoadFailure> {
        let completed = window.completed;
        let objects = self.origin.objects(completed).await?;
        let table = self.origin.table(completed, &objects).await?;
        let wanted = self.hive_table(&table, &completed.topic).map_err(refused)?;
        let full = format!("hive {} {}", self.place, wanted.name());
        self.origin.own(&self.id, &full, completed, false).await?;
        let values = table.folders.values(&completed.id.folder).ok_or_else(|| {
            let path = &self.origin.output.place.path;
            LoadFailure::Passed(format!(
                "{} is no folder of path = {path:?}, or a value in it is no UTF-8: another layout wrote it",
                completed.id.folder
            ))
        })?;
        match self.metastore.ensure_table(&wanted, self.rights).await.map_err(|error| of_hive(&error))? {
            TableOutcome::Created => {
                tracing::info!(table = %wanted.name(), location = wanted.location, "table created")
            }
            TableOutcome::ColumnsAdded(columns) => {
                tracing::info!(table = %wanted.name(), columns = columns.join(", "), "columns added");
            }
            TableOutcome::Fits => {}
        }
        let location = self.url(&table.store, &completed.id.folder);
        let partition = HivePartition {
            values: &values,
            location: &location,
            rows: (completed.uncounted == 0).then_some(completed.rows),
            bytes: completed.bytes,
            objects: completed.objects,
            revision: completed.revision,
        };
        let added = self.metastore.add_partition(&wanted.name(), &partition).await;
        let outcome = added.map_err(|error| of_hive(&error))?;
        if let PartitionOutcome::Newer { revision } = outcome {
            return Err(LoadFailure::Superseded(format!("revision {revision} is loaded already")));
        }
        let shown: Vec<String> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(report(format!("{}/{}", wanted.name(), shown.join("/"))))
    }
}

impl HiveLoader {
    /// The table as it is to be.
    ///
    /// # Errors
    /// Hive cannot have it, in words.
    fn hive_table(&self, table: &Table, topic: &str) -> Result<HiveTable, String> {
        hive::check(table)?;
        let (columns, format) = match &table.rows {
            Rows::Parquet(columns) => (columns, HiveFormat::Parquet),
            Rows::Avro(columns, schema) => (columns, HiveFormat::Avro { schema: schema.clone() }),
            Rows::Json(Some(columns)) => (columns, HiveFormat::Json),
            Rows::Json(None) => {
                return Err("nothing tells the columns of JSON lines: load a Parquet or Avro output".to_string());
            }
            Rows::Lines => {
                return Err("payloads as they are have no columns: load a Parquet or Avro output".to_string());
            }
        };
        let column = |name: &str, type_text: String, comment: Option<String>| HiveColumn {
            name: name.to_string(),
            // Hive reads types in small letters, without blanks.
            type_text: type_text.to_lowercase().replace(' ', ""),
            comment,
        };
        let columns = columns.iter().map(|of| column(&of.name, hive::type_of(table, &of.kind), of.comment.clone()));
        let keys = table.folders.columns();
        let keys = keys.iter().map(|of| column(&of.name, key_type(of).to_string(), None));
        let fixed = table.folders.fixed.join("/");
        Ok(HiveTable {
            database: self.database.clone(),
            table: table_name(&self.table, topic, &self.origin.output.name),
            columns: columns.collect(),
            partition_keys: keys.collect(),
            format,
            location: self.url(&table.store, &fixed),
            parameters: self.parameters.clone(),
        })
    }

    /// A folder below the destination as engines call it.
    fn url(&self, store: &Store, folder: &str) -> String {
        let base = match &self.location {
            Some(location) => location.clone(),
            None => store.hadoop_url(&store.prefix, &mut Vec::new()).trim_end_matches('/').to_string(),
        };
        if folder.is_empty() { base } else { format!("{base}/{folder}") }
    }
}

fn key_type(column: &PartitionColumn) -> &'static str {
    match column.of_type() {
        PartitionType::Date => "date",
        PartitionType::Int { padded: false } => "int",
        PartitionType::Int { padded: true } | PartitionType::Text => "string",
    }
}

fn of_hive(error: &HiveError) -> LoadFailure {
    LoadFailure::Failed { message: error.to_string(), verdict: error.verdict() }
}
