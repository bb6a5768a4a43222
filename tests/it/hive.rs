//! A real Hive Metastore: tables and partitions that are asked for once, twice, at the same time, and over a restart.

use crate::support::{setting, unique};
use siltstone::load::hive::{
    HiveColumn, HiveError, HiveFormat, HivePartition, HiveSettings, HiveTable, HiveTls, Metastore, PartitionOutcome,
    TableOutcome, TableRights,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Two URIs, of which the first takes no connection.
fn plain() -> Metastore {
    let uris = vec!["thrift://127.0.0.1:1".to_string(), setting("HMS_URI")];
    Metastore::new(&HiveSettings { uris, tls: None, user: Some("archiver".to_string()) }).unwrap()
}

fn over_tls(uri: &str, tls: Option<HiveTls>) -> Metastore {
    Metastore::new(&HiveSettings { uris: vec![uri.to_string()], tls, user: None }).unwrap()
}

fn column(name: &str, type_text: &str) -> HiveColumn {
    HiveColumn { name: name.to_string(), type_text: type_text.to_string(), comment: None }
}

/// A table that no other test has, in a folder of its own: the metastore makes folders where it has to.
struct Fixture {
    table: HiveTable,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let table = HiveTable {
            database: "default".to_string(),
            table: unique("hive").replace('-', "_"),
            columns: vec![column("Ts", "timestamp"), column("who", "struct<name:string,age:bigint>")],
            partition_keys: vec![column("dt", "string"), column("hr", "string")],
            format: HiveFormat::Parquet,
            location: format!("file://{}", folder.path().display()),
            parameters: BTreeMap::from([("archive".to_string(), "it".to_string())]),
        };
        Self { table, folder }
    }

    async fn created() -> Self {
        let fixture = Self::new();
        assert_eq!(plain().ensure_table(&fixture.table, CREATE).await.unwrap(), TableOutcome::Created);
        fixture
    }

    fn location(&self) -> String {
        format!("file://{}/dt=2026-11-29/hr=0 %3", self.folder.path().display())
    }
}

const CREATE: TableRights = TableRights { create: true, add_columns: false };
const ADD_COLUMNS: TableRights = TableRights { create: false, add_columns: true };
const LOOK: TableRights = TableRights { create: false, add_columns: false };

/// A value that a path has to encode.
fn hour() -> [(String, String); 2] {
    [("dt", "2026-11-29"), ("hr", "0 %3")].map(|(name, value)| (name.to_string(), value.to_string()))
}

fn complete<'a>(values: &'a [(String, String)], location: &'a str, revision: u32) -> HivePartition<'a> {
    HivePartition { values, location, rows: Some(7), bytes: 700, objects: 2, revision }
}

fn values() -> [String; 2] {
    hour().map(|(_, value)| value)
}

#[tokio::test]
async fn a_table_is_created_once_and_only_where_it_was_asked_for() {
    let (metastore, fixture) = (plain(), Fixture::new());
    let error = metastore.ensure_table(&fixture.table, LOOK).await.unwrap_err();
    assert!(matches!(error, HiveError::NoTable { .. }), "{error}");
    let error =
        metastore.add_partition(&fixture.table.name(), &complete(&hour(), &fixture.location(), 1)).await.unwrap_err();
    assert!(matches!(error, HiveError::NoTable { .. }), "{error}");
    let other = plain();
    let (one, two) =
        tokio::join!(metastore.ensure_table(&fixture.table, CREATE), other.ensure_table(&fixture.table, CREATE));
    let outcomes = [one.unwrap(), two.unwrap()];
    assert!(outcomes.contains(&TableOutcome::Created), "{outcomes:?}");
    for rights in [CREATE, LOOK] {
        assert_eq!(metastore.ensure_table(&fixture.table, rights).await.unwrap(), TableOutcome::Fits);
    }
    let found = metastore.table(&fixture.table.name()).await.unwrap().unwrap();
    assert_eq!((found.kind.as_str(), found.columns.len(), found.partition_keys.len()), ("EXTERNAL_TABLE", 2, 2));
    assert_eq!(found.parameters.get("archive").map(String::as_str), Some("it"));

    let mut nowhere = Fixture::new().table;
    nowhere.database = unique("nowhere").replace('-', "_");
    let error = metastore.ensure_table(&nowhere, CREATE).await.unwrap_err();
    assert!(matches!(error, HiveError::NoDatabase { .. }), "{error}");
}

#[tokio::test]
async fn other_columns_are_refused_and_missing_ones_added_where_asked_for() {
    let (metastore, mut fixture) = (plain(), Fixture::created().await);
    let (name, location) = (fixture.table.name(), fixture.location());
    metastore.add_partition(&name, &complete(&hour(), &location, 1)).await.unwrap();
    let as_it_was = metastore.table(&name).await.unwrap();

    let mut other = fixture.table.clone();
    other.columns[0].type_text = "bigint".to_string();
    other.columns.push(column("new", "double"));
    for rights in [LOOK, ADD_COLUMNS] {
        let error = metastore.ensure_table(&other, rights).await.unwrap_err().to_string();
        assert!(error.contains("ts is bigint in the output and timestamp in the table"), "{error}");
    }
    let mut other = fixture.table.clone();
    other.partition_keys[1].name = "hour".to_string();
    let error = metastore.ensure_table(&other, ADD_COLUMNS).await.unwrap_err().to_string();
    assert!(error.contains("(dt string, hr string)") && error.contains("(dt string, hour string)"), "{error}");

    fixture.table.columns.push(column("new", "double"));
    let error = metastore.ensure_table(&fixture.table, CREATE).await.unwrap_err().to_string();
    assert!(error.contains("new double is not among (ts timestamp, who struct"), "{error}");
    assert_eq!(metastore.table(&name).await.unwrap(), as_it_was, "what is refused changes nothing");

    let outcome = metastore.ensure_table(&fixture.table, ADD_COLUMNS).await.unwrap();
    assert_eq!(outcome, TableOutcome::ColumnsAdded(vec!["new".to_string()]));
    assert_eq!(metastore.ensure_table(&fixture.table, ADD_COLUMNS).await.unwrap(), TableOutcome::Fits);
    // Late data may have the new column: a partition is read with the columns of its own.
    assert_eq!(metastore.partition(&name, &values()).await.unwrap().unwrap().columns.len(), 2);
    metastore.add_partition(&name, &complete(&hour(), &location, 2)).await.unwrap();
    assert_eq!(metastore.partition(&name, &values()).await.unwrap().unwrap().columns.len(), 3);
}

#[tokio::test]
async fn a_partition_is_there_once_with_the_statistics_of_the_highest_revision() {
    let (metastore, fixture) = (plain(), Fixture::created().await);
    let (name, location, hour) = (fixture.table.name(), fixture.location(), hour());
    let first = complete(&hour, &location, 1);
    assert_eq!(metastore.add_partition(&name, &first).await.unwrap(), PartitionOutcome::Added);
    let added = metastore.partition(&name, &values()).await.unwrap().unwrap();
    assert_eq!(metastore.add_partition(&name, &first).await.unwrap(), PartitionOutcome::Same);
    assert_eq!(metastore.partition(&name, &values()).await.unwrap().unwrap(), added);

    // An object lies there, so that whoever counts himself counts something else.
    std::fs::write(fixture.folder.path().join("dt=2026-11-29/hr=0 %3/late.parquet"), "late").unwrap();
    let late = HivePartition { rows: Some(8), bytes: 801, objects: 3, ..complete(&hour, &location, 3) };
    assert_eq!(metastore.add_partition(&name, &late).await.unwrap(), PartitionOutcome::Changed);
    let expected = [("numRows", "8"), ("totalSize", "801"), ("numFiles", "3"), ("siltstone.revision", "3")];
    let assert_late = async || {
        let found = metastore.partition(&name, &values()).await.unwrap().unwrap();
        for (name, value) in expected {
            assert_eq!(found.parameters.get(name).map(String::as_str), Some(value), "{name}: {:?}", found.parameters);
        }
    };
    assert_late().await;
    let back = complete(&hour, &location, 2);
    assert_eq!(metastore.add_partition(&name, &back).await.unwrap(), PartitionOutcome::Newer { revision: 3 });
    assert_late().await;

    let moved = format!("file://{}/elsewhere", fixture.folder.path().display());
    let outcome = metastore.add_partition(&name, &HivePartition { location: &moved, ..late }).await.unwrap();
    assert_eq!(outcome, PartitionOutcome::Changed);
    let found = metastore.partition(&name, &values()).await.unwrap().unwrap();
    assert!(found.location.ends_with("/elsewhere"), "{}", found.location);
    assert_late().await;

    let error = metastore.add_partition(&name, &complete(&hour[..1], &location, 9)).await.unwrap_err();
    assert!(matches!(error, HiveError::Values { .. }), "{error}");
}

#[tokio::test]
async fn two_that_add_the_same_partition_add_one() {
    let fixture = Fixture::created().await;
    let (one, two) = (plain(), plain());
    let (name, location) = (fixture.table.name(), fixture.location());
    for minute in 0..10 {
        let hour = [hour()[0].clone(), ("hr".to_string(), minute.to_string())];
        let values = hour.clone().map(|(_, value)| value);
        let [first, second] = [1, 2].map(|revision| complete(&hour, &location, revision));
        let (a, b) = tokio::join!(one.add_partition(&name, &first), two.add_partition(&name, &first));
        let mut outcomes = [a.unwrap(), b.unwrap()];
        outcomes.sort_by_key(|outcome| *outcome != PartitionOutcome::Added);
        assert_eq!(outcomes, [PartitionOutcome::Added, PartitionOutcome::Same]);
        let (a, b) = tokio::join!(one.add_partition(&name, &second), two.add_partition(&name, &first));
        let outcomes = (a.unwrap(), b.unwrap());
        // Whatever the order, whoever has the newer one finds it, or writes it when asked again (H-4).
        one.add_partition(&name, &second).await.unwrap();
        let found = one.partition(&name, &values).await.unwrap().unwrap();
        assert_eq!(found.revision, Some(2), "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_location_that_the_metastore_cannot_reach_is_told() {
    let mut fixture = Fixture::new();
    fixture.table.location = "s3a://bucket/prefix".to_string();
    let error = plain().ensure_table(&fixture.table, CREATE).await.unwrap_err().to_string();
    assert!(error.contains("s3a") && error.contains("hadoop-aws"), "{error}");
}

fn services(action: &str, name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services.sh");
    let done = Command::new(script).args([action, name]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// TLS, and a metastore that goes away and comes back. One test, because nobody else uses that metastore.
#[tokio::test]
async fn over_tls_and_over_a_restart() {
    let (uri, ca_file) = (setting("HMS_TLS_URI"), PathBuf::from(setting("HMS_CA_FILE")));
    let trusting = over_tls(&uri, Some(HiveTls { ca_file: Some(ca_file) }));
    let error = over_tls(&uri, Some(HiveTls::default())).reach("default").await.unwrap_err();
    assert!(matches!(error, HiveError::Tls { .. }), "{error}");
    let error = over_tls(&uri, None).reach("default").await.unwrap_err();
    assert!(matches!(error, HiveError::NotMetastore { .. } | HiveError::Interrupted { .. }), "{error}");
    trusting.reach("default").await.unwrap();

    let fixture = Fixture::new();
    let (name, location, hour) = (fixture.table.name(), fixture.location(), hour());
    assert_eq!(trusting.ensure_table(&fixture.table, CREATE).await.unwrap(), TableOutcome::Created);
    let first = complete(&hour, &location, 1);
    assert_eq!(trusting.add_partition(&name, &first).await.unwrap(), PartitionOutcome::Added);

    services("kill", "hms-2");
    let error = trusting.add_partition(&name, &first).await.unwrap_err();
    assert!(matches!(error, HiveError::Unreachable { .. }), "{error}");
    services("start", "hms-2");
    assert_eq!(trusting.add_partition(&name, &first).await.unwrap(), PartitionOutcome::Same);
    assert_eq!(trusting.ensure_table(&fixture.table, LOOK).await.unwrap(), TableOutcome::Fits);
    let late = complete(&hour, &location, 2);
    assert_eq!(trusting.add_partition(&name, &late).await.unwrap(), PartitionOutcome::Changed);
}
