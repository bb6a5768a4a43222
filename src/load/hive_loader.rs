//! Complete folders as partitions of a Hive Metastore's tables.

use super::hive::{
    HiveColumn, HiveError, HiveFormat, HivePartition, HiveTable, Metastore, PartitionOutcome, TableOutcome, TableRights,
};
use super::objects::objects_of;
use super::table::{Sources, is_of_one_topic, table_name, table_of};
use super::{LoadFailure, Loader, Report, Window};
use crate::bucket::Bucket;
use crate::bucket::completions::Completed;
use crate::clock::Clock;
use crate::ddl::folders::{PartitionColumn, PartitionType};
use crate::ddl::{Rows, Store, Table, hive};
use crate::destination::fault::Verdict;
use crate::exit::{Exit, Failure};
use crate::layout::{Layout, OutputLayout, SchemaSource};
use crate::pipeline::start::patiently;
use crate::registry::Registry;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What is loaded where.
pub struct HiveLoader {
    /// Its name.
    pub name: String,
    /// The metastore.
    pub metastore: Metastore,
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
    /// The archive's layout.
    pub layout: Layout,
    /// The output.
    pub output: OutputLayout,
    /// All topics that the archive can have; empty where it takes some by pattern.
    pub topics: Vec<String>,
    /// The destination.
    pub store: Store,
    /// The archive's bucket.
    pub bucket: Bucket,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where schemas are asked for.
    pub registry: Option<Arc<Registry>>,
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
        let table = self.table_of(completed).await?;
        let values = table.folders.values(&completed.id.folder).ok_or_else(|| {
            let path = &self.output.place.path;
            LoadFailure::Passed(format!(
                "{} is no folder of path = {path:?}: another layout wrote it",
                completed.id.folder
            ))
        })?;
        let wanted = self.hive_table(&table, &completed.topic).map_err(refused)?;
        if is_of_one_topic(&self.output.place.path) {
            own(&self.bucket, &*self.clock, &self.name, &wanted.name().to_string(), completed).await?;
        }
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
        Ok(Report { into: format!("{}/{}", wanted.name(), shown.join("/")), ..Report::default() })
    }
}

impl HiveLoader {
    async fn table_of(&self, completed: &Completed) -> Result<Table, LoadFailure> {
        // Receipts are read only where they tell something.
        let targets = match self.output.format.schema() {
            Some(SchemaSource::Registry) => {
                objects_of(&self.bucket, &*self.clock, completed).await.map_err(of_store)?.targets
            }
            _ => BTreeSet::new(),
        };
        let sources =
            Sources { bucket: &self.bucket, clock: &*self.clock, registry: self.registry.as_ref(), targets: &targets };
        let topic = &completed.topic;
        let table = table_of(&self.layout, &self.output, topic, &self.topics, &self.store, &sources).await;
        table.map_err(of_store)?.map_err(refused)
    }

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
            table: table_name(&self.table, topic, &self.output.name),
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

/// Sees to it that the table is of this topic and output alone (K-14).
pub(super) async fn own(
    bucket: &Bucket,
    clock: &dyn Clock,
    loader: &str,
    table: &str,
    completed: &Completed,
) -> Result<(), LoadFailure> {
    let what = format!("make {table} the table of topic {}", completed.topic);
    let owner = patiently(clock, &what, || bucket.own_table(loader, table, completed)).await.map_err(of_store)?;
    match owner {
        None => Ok(()),
        Some(owner) => Err(refused(format!(
            "the table {table} is that of {owner}, and topic {} has the same name there: each would take away the rows of the other. Give it a loader with a table of its own",
            completed.topic
        ))),
    }
}

pub(super) fn refused(message: String) -> LoadFailure {
    LoadFailure::Failed { message, verdict: Verdict::Refused }
}

pub(super) fn of_store(failure: Failure) -> LoadFailure {
    let verdict = if failure.exit == Exit::Unreachable { Verdict::Retry } else { Verdict::Refused };
    LoadFailure::Failed { message: failure.message, verdict }
}

fn of_hive(error: &HiveError) -> LoadFailure {
    LoadFailure::Failed { message: error.to_string(), verdict: error.verdict() }
}
