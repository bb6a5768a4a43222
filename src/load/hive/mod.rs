//! Tables and partitions in a Hive Metastore, over thrift.
//!
//! ```text
//! HiveTable ─────▶ ensure_table ──▶ get_table_req, create_table, alter_table_with_environment_context
//! HivePartition ─▶ add_partition ─▶ get_partition, add_partitions_req, alter_partition_with_environment_context
//!    table: what they look like · connection: one TCP or TLS connection · wire: thrift's bytes
//! ```
//! # Guarantees
//! - **H-1** Asked again, each operation changes nothing, also while others ask for the same.
//! - **H-2** Nothing is ever dropped. Only external tables are written to, and those made here say that their files stay.
//! - **H-3** What others keep in a table or a partition stays as it is, also what this module has no name for: an object is read whole, changed
//!   in the fields that are ours, and written back.
//! - **H-4** Statistics of a lower revision do not replace those of a higher one. Between looking and writing there is no lock (the metastore
//!   has none that needs no further tables), so a writer that stalls just there can; the rows that engines read are the folder's all the same, and
//!   whoever asks again with the newer revision mends it.
//!
//! The calls used are in every metastore from 2.3 to 4.0; 3.1.3 and 4.0.1 were tried. There is no Kerberos.
//!
//! # Why no client of crates.io
//! `hive_metastore` (0.2) is generated from the interface of Hive 2.3: what later ones have in a table, such as the type of its owner, is
//! lost when an object is read and written back (H-3). Its 9 MB of code and the client under it take two minutes of a processor to build, and
//! that client connects to addresses only, not to names that a certificate could be for. Apache's own `thrift` builds in three seconds and has the
//! protocol, without a transport that can wait in `tokio`: the few requests needed are values of [`wire`], which keep any field.

mod connection;
mod error;
mod table;
#[cfg(test)]
mod tests;
mod wire;

pub use error::{Exception, HiveError};

use crate::effect::Effect;
use crate::effect::requests::ask;
use connection::{Connection, Method, Servers};
use std::collections::BTreeMap;
use std::path::PathBuf;
use table::Step;
use wire::{Fields, Value, fields, text, texts};

/// Where the metastores are, and how they are spoken to.
#[derive(Clone, Debug, Default)]
pub struct HiveSettings {
    /// `thrift://host:port`, tried in order; the port is 9083 where it is missing. They share one database.
    pub uris: Vec<String>,
    /// TLS, where they speak it.
    pub tls: Option<HiveTls>,
    /// The user that the metastore is to take this process for, where it believes what it is told. `None`: it acts as itself.
    pub user: Option<String>,
}

/// How a metastore's certificate is checked.
#[derive(Clone, Debug, Default)]
pub struct HiveTls {
    /// Certificates in PEM that are trusted beside the machine's own.
    pub ca_file: Option<PathBuf>,
}

/// A column, or a partition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiveColumn {
    /// Its name. Hive knows small letters only, so it is made small.
    pub name: String,
    /// Hive's type, as in `CREATE TABLE`.
    pub type_text: String,
    /// What people read, where there is something to say.
    pub comment: Option<String>,
}

/// What the objects of a table are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HiveFormat {
    /// Apache Parquet.
    Parquet,
    /// Avro container files.
    Avro {
        /// The schema that they are read with, as JSON.
        schema: String,
    },
    /// One JSON object on each line. Spark reads such a table only with hive-hcatalog-core on its class path.
    Json,
    /// Apache ORC.
    Orc,
}

/// A table as the output has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiveTable {
    /// The database, which is there already.
    pub database: String,
    /// The table's name in it.
    pub table: String,
    /// Columns in the objects, in order.
    pub columns: Vec<HiveColumn>,
    /// Columns in the path, in order.
    pub partition_keys: Vec<HiveColumn>,
    /// What the objects are.
    pub format: HiveFormat,
    /// URL of the table's folder as engines read it.
    pub location: String,
    /// What else `TBLPROPERTIES` are to have when the table is created.
    pub parameters: BTreeMap<String, String>,
}

impl HiveTable {
    /// Database and table.
    pub fn name(&self) -> TableName {
        TableName { database: self.database.to_lowercase(), table: self.table.to_lowercase() }
    }
}

/// A table's name, in small letters, as the metastore has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    database: String,
    table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// A folder that is complete, as a loader sees it.
#[derive(Clone, Copy, Debug)]
pub struct HivePartition<'a> {
    /// Names and values in the order of the table's partition keys, for example `[("dt", "2026-11-29"), ("hr", "03")]`.
    pub values: &'a [(String, String)],
    /// URL of the folder as engines read it, for example `s3a://bucket/prefix/t/dt=2026-11-29/hr=03`.
    pub location: &'a str,
    /// Rows in all objects, where that is known.
    pub rows: Option<u64>,
    /// Bytes of all objects.
    pub bytes: u64,
    /// How many objects.
    pub objects: u64,
    /// Counts up when late data changed the folder.
    pub revision: u32,
}

/// What may be done to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRights {
    /// Create it where there is none.
    pub create: bool,
    /// Add columns that it lacks, at its end.
    pub add_columns: bool,
}

/// What [`Metastore::ensure_table`] found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableOutcome {
    /// There was none.
    Created,
    /// It was there and fits.
    Fits,
    /// It was there and lacked these columns.
    ColumnsAdded(Vec<String>),
}

/// What [`Metastore::add_partition`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionOutcome {
    /// There was none.
    Added,
    /// It was there; place or statistics are new.
    Changed,
    /// It was there and said the same.
    Same,
    /// It was there, of a higher revision, and was left alone.
    Newer {
        /// That revision.
        revision: u32,
    },
}

/// A table as the metastore has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFound {
    /// `EXTERNAL_TABLE`, and others.
    pub kind: String,
    /// Columns in the objects, in order.
    pub columns: Vec<HiveColumn>,
    /// Columns in the path, in order.
    pub partition_keys: Vec<HiveColumn>,
    /// URL of its folder.
    pub location: String,
    /// `TBLPROPERTIES`.
    pub parameters: BTreeMap<String, String>,
}

/// A partition as the metastore has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFound {
    /// URL of its folder.
    pub location: String,
    /// The columns that it is read with.
    pub columns: Vec<HiveColumn>,
    /// Its statistics among other things.
    pub parameters: BTreeMap<String, String>,
    /// What is loaded; `None` where somebody else added it.
    pub revision: Option<u32>,
}

const GET_DATABASE: Method =
    Method { name: "get_database", throws: &[(1, Exception::NoSuchObject), (2, Exception::Meta)] };
const GET_TABLE: Method =
    Method { name: "get_table_req", throws: &[(1, Exception::Meta), (2, Exception::NoSuchObject)] };
const CREATE_TABLE: Method = Method {
    name: "create_table",
    throws: &[
        (1, Exception::AlreadyExists),
        (2, Exception::InvalidObject),
        (3, Exception::Meta),
        (4, Exception::NoSuchObject),
    ],
};
const ALTER_TABLE: Method = Method {
    name: "alter_table_with_environment_context",
    throws: &[(1, Exception::InvalidOperation), (2, Exception::Meta)],
};
const GET_PARTITION: Method =
    Method { name: "get_partition", throws: &[(1, Exception::Meta), (2, Exception::NoSuchObject)] };
const ADD_PARTITIONS: Method = Method {
    name: "add_partitions_req",
    throws: &[(1, Exception::InvalidObject), (2, Exception::AlreadyExists), (3, Exception::Meta)],
};
const ALTER_PARTITION: Method = Method {
    name: "alter_partition_with_environment_context",
    throws: &[(1, Exception::InvalidOperation), (2, Exception::Meta)],
};

/// How often an operation looks again because somebody else changed the same.
const ROUNDS: u32 = 5;

/// A metastore. Each operation has a connection of its own, so nothing is left of one that failed; each call of it may take 30 s.
#[derive(Debug)]
pub struct Metastore {
    servers: Servers,
}

impl Metastore {
    /// Reads the settings; nothing is asked yet.
    ///
    /// # Errors
    /// [`HiveError::Settings`]: a URI, or the file of certificates.
    pub fn new(settings: &HiveSettings) -> Result<Self, HiveError> {
        Ok(Self { servers: Servers::new(settings)? })
    }

    /// Asks for the database, which is to be there.
    ///
    /// # Errors
    /// [`HiveError`].
    pub async fn reach(&self, database: &str) -> Result<(), HiveError> {
        let what = format!("ask for the database {database}");
        let mut connection = self.servers.connect(&what).await?;
        reach(&mut connection, &what, &database.to_lowercase()).await
    }

    /// The table, where there is one.
    ///
    /// # Errors
    /// [`HiveError`].
    pub async fn table(&self, name: &TableName) -> Result<Option<TableFound>, HiveError> {
        let what = format!("look for the table {name}");
        let mut connection = self.servers.connect(&what).await?;
        Ok(get_table(&mut connection, &what, name).await?.map(|table| table::found_table(&table)))
    }

    /// The partition of these values, where there is one.
    ///
    /// # Errors
    /// [`HiveError`].
    pub async fn partition(&self, name: &TableName, values: &[String]) -> Result<Option<PartitionFound>, HiveError> {
        let what = format!("look for the partition {} of {name}", values.join("/"));
        let mut connection = self.servers.connect(&what).await?;
        let found = get_partition(&mut connection, &what, name, texts(values)).await?;
        Ok(found.map(|partition| table::found_partition(&partition)))
    }

    /// Sees to it that the table is there and has the partition keys and the columns of `table`, perhaps more.
    ///
    /// # Errors
    /// [`HiveError`]; where the table is there and does not fit, it names what is wanted and what is there, and nothing was changed.
    pub async fn ensure_table(&self, table: &HiveTable, rights: TableRights) -> Result<TableOutcome, HiveError> {
        let name = table.name();
        let what = format!("look for the table {name}");
        let mut connection = self.servers.connect(&what).await?;
        let mut refused = None;
        for _ in 0..ROUNDS {
            let Some(found) = get_table(&mut connection, &what, &name).await? else {
                if !rights.create {
                    return Err(HiveError::NoTable { table: name.to_string() });
                }
                // Who is refused because somebody else was faster finds it at the next look: metastores have no one word for that.
                if let Some(error) = refused {
                    return Err(error);
                }
                match create_table(&mut connection, table).await {
                    Ok(()) => return Ok(TableOutcome::Created),
                    Err(error @ HiveError::Answered { .. }) => refused = Some(error),
                    Err(error) => return Err(error),
                }
                continue;
            };
            let missing = table::missing_columns(table, &found)?;
            if missing.is_empty() {
                return Ok(TableOutcome::Fits);
            }
            if !rights.add_columns {
                return Err(table::columns_missing(table, &found, &missing));
            }
            let changed = table::with_columns(table, found, &missing);
            alter_table(&mut connection, &name, changed).await?;
            // Whether they are there now is looked at: somebody else may have written the table at the same time.
            if let Some(found) = get_table(&mut connection, &what, &name).await?
                && table::missing_columns(table, &found)?.is_empty()
            {
                return Ok(TableOutcome::ColumnsAdded(missing.into_iter().map(|column| column.name).collect()));
            }
        }
        Err(HiveError::Contended { what, rounds: ROUNDS })
    }

    /// Sees to it that the partition is there, at its place and with its statistics.
    ///
    /// # Errors
    /// [`HiveError`]; it may be there all the same.
    pub async fn add_partition(
        &self,
        name: &TableName,
        partition: &HivePartition<'_>,
    ) -> Result<PartitionOutcome, HiveError> {
        let shown: Vec<String> = partition.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let what = format!("add the partition {} to {name}", shown.join("/"));
        let mut connection = self.servers.connect(&what).await?;
        let Some(table) = get_table(&mut connection, &what, name).await? else {
            return Err(HiveError::NoTable { table: name.to_string() });
        };
        table::takes(&table, name, partition)?;
        let values = texts(partition.values.iter().map(|(_, value)| value));
        let (mut refused, mut is_written) = (None, false);
        for _ in 0..ROUNDS {
            let Some(found) = get_partition(&mut connection, &what, name, values.clone()).await? else {
                // The same as with tables.
                if let Some(error) = refused {
                    return Err(error);
                }
                let new = table::partition(&table, name, partition);
                match add_partition(&mut connection, &what, name, new).await {
                    Ok(true) => return Ok(PartitionOutcome::Added),
                    Ok(false) => {}
                    Err(error @ HiveError::Answered { .. }) => refused = Some(error),
                    Err(error) => return Err(error),
                }
                continue;
            };
            match table::step(&table, found, partition, is_written) {
                Step::Newer(revision) => return Ok(PartitionOutcome::Newer { revision }),
                Step::Done if is_written => return Ok(PartitionOutcome::Changed),
                Step::Done => return Ok(PartitionOutcome::Same),
                Step::Write(changed) => alter_partition(&mut connection, &what, name, changed).await?,
            }
            is_written = true;
        }
        Err(HiveError::Contended { what, rounds: ROUNDS })
    }
}

async fn reach(connection: &mut Connection, what: &str, database: &str) -> Result<(), HiveError> {
    match connection.call(what, &GET_DATABASE, fields([(1, text(database))])).await {
        Ok(_) => Ok(()),
        Err(error) if error.is(Exception::NoSuchObject) => {
            Err(HiveError::NoDatabase { database: database.to_string() })
        }
        Err(error) => Err(error),
    }
}

async fn get_table(connection: &mut Connection, what: &str, name: &TableName) -> Result<Option<Fields>, HiveError> {
    let request = fields([(1, text(&name.database)), (2, text(&name.table))]);
    match connection.call(what, &GET_TABLE, fields([(1, Value::Struct(request))])).await {
        Ok(answer) => Ok(Some(connection.part(what, &GET_TABLE, answer, 1)?)),
        Err(error) if error.is(Exception::NoSuchObject) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create_table(connection: &mut Connection, table: &HiveTable) -> Result<(), HiveError> {
    let name = table.name();
    let what = format!("create the table {name} at {}", table.location);
    reach(connection, &what, &name.database).await?;
    let new = Value::Struct(table::new_table(table));
    ask(Effect::HiveTable, connection.call(&what, &CREATE_TABLE, fields([(1, new)]))).await.map(drop)
}

async fn alter_table(connection: &mut Connection, name: &TableName, changed: Fields) -> Result<(), HiveError> {
    let what = format!("add columns to the table {name}");
    let [database, table] = [text(&name.database), text(&name.table)];
    let arguments = [(1, database), (2, table), (3, Value::Struct(changed)), (4, table::no_counting())];
    ask(Effect::HiveTable, connection.call(&what, &ALTER_TABLE, fields(arguments))).await.map(drop)
}

async fn get_partition(
    connection: &mut Connection,
    what: &str,
    name: &TableName,
    values: Value,
) -> Result<Option<Fields>, HiveError> {
    let arguments = fields([(1, text(&name.database)), (2, text(&name.table)), (3, values)]);
    match connection.call(what, &GET_PARTITION, arguments).await {
        Ok(answer) => Ok(Some(connection.fields(what, &GET_PARTITION, answer)?)),
        Err(error) if error.is(Exception::NoSuchObject) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it was added; otherwise there is one already.
async fn add_partition(
    connection: &mut Connection,
    what: &str,
    name: &TableName,
    new: Fields,
) -> Result<bool, HiveError> {
    let [if_not_exists, need_result] = [Value::Bool(true), Value::Bool(true)];
    let request = fields([
        (1, text(&name.database)),
        (2, text(&name.table)),
        (3, wire::structs([new])),
        (4, if_not_exists),
        (5, need_result),
    ]);
    let answer =
        ask(Effect::HivePartition, connection.call(what, &ADD_PARTITIONS, fields([(1, Value::Struct(request))])))
            .await?;
    let added = connection.fields(what, &ADD_PARTITIONS, answer)?;
    Ok(added.get(&1).is_some_and(|added| !added.items().is_empty()))
}

async fn alter_partition(
    connection: &mut Connection,
    what: &str,
    name: &TableName,
    changed: Fields,
) -> Result<(), HiveError> {
    let [database, table] = [text(&name.database), text(&name.table)];
    let arguments = [(1, database), (2, table), (3, Value::Struct(changed)), (4, table::no_counting())];
    ask(Effect::HivePartition, connection.call(what, &ALTER_PARTITION, fields(arguments))).await.map(drop)
}
