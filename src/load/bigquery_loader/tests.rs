//! What a folder becomes of BigQuery's: names, digests, columns, and the request itself as a server sees it.

use super::*;
use crate::bucket::Bucket;
use crate::bucket::receipt::{Balance, RECEIPT_VERSION, Receipt, ReceiptObject};
use crate::clock::Clock;
use crate::clock::ManualClock;
use crate::complete::tally::{Covered, FolderId};
use crate::config;
use crate::destination::{Destination, StoreKind};
use crate::load::bigquery::tests::fake::Fake;
use crate::load::bigquery::{Credentials, Settings, granularity};
use object_store::memory::InMemory;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const ID: &str = "bq-1";
const HOUR_MS: i64 = 3_600_000;
const START_MS: i64 = 490_000 * HOUR_MS;

const CONFIG: &str = r#"
kafka = { brokers = "k", group = "g" }
[destinations.a]
url = "gs://b/p"
[[archive]]
name = "main"
topics = ["t.x"]
[[archive.output]]
name = "p"
format = { type = "parquet", schema = [{ name = "id", type = "INT64" }, { name = "at", type = "TIMESTAMP" },
    { name = "big", type = "NUMERIC", precision = 38, scale = 20 }, { name = "tags", type = "STRING", mode = "REPEATED" },
    { name = "r", type = "RECORD", fields = [{ name = "x", type = "BOOL" }] }, { name = "m", type = "MAP", value = { type = "INT64" } }] }
layout = { path = "{topic}/dt=%Y-%m-%d/hr=%H" }
"#;

fn completed(revision: u32, end: i64) -> Completed {
    let start = DateTime::from_timestamp_millis(START_MS).expect("a time");
    let folder = start.format("t.x/dt=%Y-%m-%d/hr=%H").to_string();
    Completed {
        version: 1,
        archive: "main".into(),
        generation: 1,
        topic: "t.x".into(),
        id: FolderId { output: "p".into(), destination: "gs://b/p".into(), folder },
        revision,
        window_end_ms: START_MS + HOUR_MS,
        rows: 5,
        uncounted: 0,
        objects: 1,
        bytes: 5,
        event_min_ms: None,
        event_max_ms: None,
        watermark_ms: 0,
        covered: BTreeMap::from([("0".to_string(), Covered { first: 0, end })]),
    }
}

fn bucket() -> Bucket {
    let destination = Destination::from_store("a", "gs://b/p", Arc::new(InMemory::new()), StoreKind::Memory);
    Bucket::new(Arc::new(destination))
}

/// A loader that asks `endpoint`.
async fn loader(endpoint: &str, table: &str, into: Into, bucket: &Bucket) -> BigQueryLoader {
    let config = config::parse(CONFIG, Path::new(""), &|_| None);
    let config = config.unwrap_or_else(|errors| panic!("the test's own configuration: {errors}"));
    let layout = config.archives[0].layout.clone();
    let settings = Settings {
        project: "proj".into(),
        location: Some("EU".into()),
        endpoint: Some(endpoint.into()),
        credentials: Credentials::Nobody,
        ..Settings::default()
    };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(0));
    let output = layout.outputs[0].clone();
    BigQueryLoader {
        id: "bq-1".into(),
        bigquery: BigQuery::connect(settings, clock.clone()).await.expect("clients"),
        project: "proj".into(),
        dataset: "d".into(),
        table: table.into(),
        into,
        granularity: granularity(&output.place.path, "UTC").expect("hours"),
        origin: Origin {
            output,
            topics: vec!["t.x".into()],
            store: Store::new("gs://b/p", |_| None),
            marker: "_SUCCESS".into(),
            bucket: bucket.clone(),
            clock,
            registry: None,
            layout,
        },
    }
}

/// Archives a batch `[first, end)` with one object in the folder of `of`.
async fn archive(bucket: &Bucket, of: &Completed, first: i64, end: i64) {
    let object = ReceiptObject {
        output: "p".into(),
        destination: "gs://b/p".into(),
        key: format!("{}/o+{first}.parquet", of.id.folder),
        folder: of.id.folder.clone(),
        records: Some(5),
        rows: Some(5),
        bytes: 5,
        sha256: None,
        event_min_ms: Some(START_MS),
        event_max_ms: Some(START_MS),
        kept: None,
    };
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        topic: "t.x".into(),
        partition: 0,
        first,
        end,
        topic_id: None,
        cluster_id: "c".into(),
        archive: "main".into(),
        generation: 1,
        fingerprint: "f".into(),
        writer: "0".into(),
        schemas: BTreeMap::new(),
        target: None,
        reason: "age".into(),
        watermark_ms: None,
        balance: Balance::default(),
        objects: vec![object],
        lost: Vec::new(),
        written_ms: None,
    };
    bucket.put_receipt(&receipt, None).await.expect("stored");
}

/// The load jobs that were asked for, by their ids.
fn asked(fake: &Fake) -> BTreeMap<String, Value> {
    let jobs = fake.requests("POST").into_iter().map(|request| request.body);
    let jobs = jobs.filter(|body| body["configuration"]["load"].is_object());
    jobs.map(|body| {
        (body["jobReference"]["jobId"].as_str().expect("an id").to_string(), body["configuration"]["load"].clone())
    })
    .collect()
}

/// Goal: what is asked for names the partition of the folder, replaces it, names each object once, has the output's columns, and takes the ids of earlier revisions first.
#[tokio::test]
async fn a_folder_replaces_the_partition_of_its_hour() {
    let fake = Fake::start(START_MS).await;
    let bucket = bucket();
    let (first, second) = (completed(1, 10), completed(2, 20));
    archive(&bucket, &first, 0, 10).await;
    archive(&bucket, &first, 10, 20).await;
    let into = Into::Partition { granularity: Granularity::Hour, field: Some("at".into()) };
    let loader = loader(&fake.endpoint, "{topic}", into, &bucket).await;
    let window = Window { completed: &first, earlier: &[], after_ms: None };
    let report = loader.load(&window).await.expect("loaded");
    assert_eq!((report.into.as_str(), report.rows), ("proj.d.t_x$2025112416", Some(1234)));
    let load = &asked(&fake).into_values().next().expect("a job");
    assert_eq!(load["destinationTable"], json!({"projectId": "proj", "datasetId": "d", "tableId": "t_x$2025112416"}));
    assert_eq!(load["writeDisposition"], "WRITE_TRUNCATE");
    assert_eq!(load["sourceUris"], json!([format!("gs://b/p/{}/o+0.parquet", first.id.folder)]));
    assert_eq!(load["timePartitioning"], json!({"type": "HOUR", "field": "at"}));
    assert_eq!(load["schemaUpdateOptions"], json!(["ALLOW_FIELD_ADDITION"]));
    assert_eq!(load["decimalTargetTypes"], json!([1, 2]), "NUMERIC and BIGNUMERIC by their numbers");
    let fields = load["schema"]["fields"].as_array().expect("columns");
    let told: Vec<_> = fields.iter().map(|field| (&field["name"], &field["type"], &field["mode"])).collect();
    let expected = [
        ("id", "INTEGER", "NULLABLE"),
        ("at", "TIMESTAMP", "NULLABLE"),
        ("big", "BIGNUMERIC", "NULLABLE"),
        ("tags", "STRING", "REPEATED"),
        ("r", "RECORD", "NULLABLE"),
        ("m", "RECORD", "NULLABLE"),
        // What the schema does not have is in it, as JSON.
        ("_rest", "STRING", "NULLABLE"),
    ];
    let expected = expected.map(|(name, kind, mode)| (json!(name), json!(kind), json!(mode)));
    assert_eq!(told, expected.iter().map(|(name, kind, mode)| (name, kind, mode)).collect::<Vec<_>>());
    assert_eq!(fields[5]["fields"][0]["name"], "key_value");
    // Somebody drops the table: it is loaded anew.
    fake.drops("t_x");
    loader.load(&window).await.expect("loaded anew");
    assert_eq!(asked(&fake).len(), 2, "a job of a table that is gone counts no more");
    // Asked again, nothing is made; a later revision bars the one before and names both objects.
    loader.load(&window).await.expect("there already");
    assert_eq!(asked(&fake).len(), 2);
    let earlier = [first.clone()];
    loader.load(&Window { completed: &second, earlier: &earlier, after_ms: None }).await.expect("loaded");
    let table: TableRef = "proj.d.t_x".parse().expect("a table");
    let mut expected = vec![
        format!("siltstone_{}_1", digest(ID, &table, &first)),
        format!("siltstone_{}_2", digest(ID, &table, &first)),
        format!("siltstone_{}_3", digest(ID, &table, &first)),
        format!("siltstone_{}_1", digest(ID, &table, &second)),
    ];
    expected.sort();
    assert_eq!(fake.jobs(), expected);
    assert_eq!(fake.holds("t_x$2025112416").len(), 2);
    // Whoever comes late with the first one is told.
    let late = loader.load(&window).await.expect_err("it is barred");
    assert!(matches!(late, LoadFailure::Superseded(_)), "{late:?}");
}

/// Goal: with strftime parts each hour is a table; a topic whose name is another's over there is refused, and a folder of another layout passed over.
#[tokio::test]
async fn a_table_is_of_one_topic_and_of_folders_that_it_can_have() {
    let fake = Fake::start(START_MS).await;
    let bucket = bucket();
    let first = completed(1, 10);
    archive(&bucket, &first, 0, 10).await;
    let loader = loader(&fake.endpoint, "x_{topic}_%Y%m%d%H", Into::Table, &bucket).await;
    let report = loader.load(&Window { completed: &first, earlier: &[], after_ms: None }).await.expect("loaded");
    assert_eq!(report.into, "proj.d.x_t_x_2025112416");
    let load = asked(&fake).into_values().next().expect("a job");
    assert_eq!((&load["timePartitioning"], &load["writeDisposition"]), (&Value::Null, &json!("WRITE_TRUNCATE")));
    let mut day = first.clone();
    day.id.folder = "t.x/dt=2025-11-24".into();
    let passed = loader.load(&Window { completed: &day, earlier: &[], after_ms: None }).await.expect_err("of a day");
    assert!(matches!(&passed, LoadFailure::Passed(why) if why.contains("another layout")), "{passed:?}");
    let mut other = Completed { topic: "t-x".into(), ..first };
    other.id.folder = other.id.folder.replace("t.x", "t-x");
    let refused = loader.load(&Window { completed: &other, earlier: &[], after_ms: None }).await.expect_err("taken");
    assert!(
        matches!(&refused, LoadFailure::Failed { message, .. } if message.contains("is that of archive main")),
        "{refused:?}"
    );
    assert_eq!(asked(&fake).len(), 1);
}

/// Goal: digests tell sets apart and nothing else does.
#[test]
fn digests_tell_sets_apart() {
    let (one, other): (TableRef, TableRef) = ("p.d.t".parse().expect("a table"), "p.d.u".parse().expect("a table"));
    let set = completed(1, 10);
    let all = [
        digest(ID, &one, &set),
        digest(ID, &other, &set),
        digest(ID, &one, &completed(2, 10)),
        digest(ID, &one, &completed(1, 11)),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(digest(ID, &one, &Completed { rows: 9, ..set.clone() }), all[0], "what was counted is no part of it");
    assert!(all.iter().all(|digest| digest.len() == 32 && digest.bytes().all(|b| b.is_ascii_hexdigit())));
}

/// Goal: no load leaves out a column that its table has, at any depth, and none is asked for twice.
#[test]
fn a_load_has_all_columns_of_its_table() {
    let column = |name: &str, kind: &str, mode: Mode, fields: Vec<BqField>| BqField {
        name: name.into(),
        kind: kind.into(),
        mode,
        fields,
        ..BqField::default()
    };
    let wanted = [
        column("id", "INTEGER", Mode::Nullable, vec![]),
        column("r", "RECORD", Mode::Nullable, vec![column("x", "BOOLEAN", Mode::Nullable, vec![])]),
    ];
    let there = [
        column("ID", "INTEGER", Mode::Required, vec![]),
        column("r", "RECORD", Mode::Nullable, vec![column("y", "STRING", Mode::Nullable, vec![])]),
        column("theirs", "DATE", Mode::Required, vec![]),
    ];
    let all = BqField::with_those_of(&wanted, &there);
    let names: Vec<_> = all.iter().map(|field| (field.name.as_str(), field.mode)).collect();
    assert_eq!(names, [("id", Mode::Nullable), ("r", Mode::Nullable), ("theirs", Mode::Nullable)]);
    assert_eq!(all[1].fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(BqField::with_those_of(&wanted, &[]), wanted);
}
