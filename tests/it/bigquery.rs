//! BigQuery's loader against an emulator over HTTP, with objects that went through a GCS server.
//!
//! The emulator (bqemulator 1.4.0) is not BigQuery: it takes an id a second time and loads again, knows one location, does each job before it
//! answers, refuses decorators (`table$YYYYMMDDHH`: 400 `Invalid table id`), and ignores `timePartitioning`, `schemaUpdateOptions`,
//! `parquetOptions`, labels and `hivePartitioningOptions`; it adds columns for `key=value` in the path of Parquet by itself, and tells gzip by the
//! object's name. So each hour has a table of its own here, and paths are plain. What is asked for in those respects, and what is made of ids, is held against a server that
//! keeps them in `src/load/bigquery/tests.rs`.

use crate::support::{setting, unique};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use flate2::{Compression as Level, write::GzEncoder};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use siltstone::clock::SystemClock;
use siltstone::effect::Effect;
use siltstone::load::bigquery::{
    BigQuery, BqField, Compression, Credentials, Format, HourLoad, LoadFault, LoadFaultKind, Loaded, Pace, Settings,
    TableRef,
};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// No scene of an archive alone has these: they are a loader's.
pub(crate) const EFFECTS: [Effect; 3] = [Effect::LoadJob, Effect::BarJob, Effect::ExternalTable];

/// A dataset and a folder of its own.
struct Bench {
    http: reqwest::Client,
    name: String,
    loader: BigQuery,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Pace::default()).await
    }

    async fn with(pace: Pace) -> Self {
        let name = unique("bq").replace('-', "_");
        let bench = Self { http: reqwest::Client::new(), loader: loader(pace).await, name };
        let reference = json!({"projectId": setting("BIGQUERY_PROJECT"), "datasetId": bench.name});
        bench.ask("datasets", json!({"datasetReference": reference})).await;
        bench
    }

    async fn ask(&self, what: &str, body: Value) -> Value {
        let (endpoint, project) = (setting("BIGQUERY_ENDPOINT"), setting("BIGQUERY_PROJECT"));
        let url = format!("{endpoint}/bigquery/v2/projects/{project}/{what}");
        let post = self.http.post(url).header("content-type", "application/json").body(body.to_string());
        let answer = post.send().await.unwrap();
        assert!(answer.status().is_success(), "{what}: {}", answer.status());
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    fn table(&self, hour: &str) -> TableRef {
        format!("{}.{}.hits_{hour}", setting("BIGQUERY_PROJECT"), self.name).parse().unwrap()
    }

    /// All `id`s of a table, as its query tells them.
    async fn ids(&self, table: &TableRef) -> Vec<i64> {
        let query = format!("SELECT id FROM `{table}` ORDER BY id");
        let answer = self.ask("queries", json!({"query": query, "useLegacySql": false})).await;
        assert!(answer["errors"].is_null(), "{answer}");
        let rows = answer["rows"].as_array().unwrap();
        rows.iter().map(|row| row["f"][0]["v"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Puts an object through the GCS server and tells its URI.
    async fn put(&self, name: &str, bytes: Vec<u8>) -> String {
        let (endpoint, bucket) = (setting("GCS_ENDPOINT"), setting("GCS_BUCKET"));
        let key = format!("{}/{name}", self.name);
        let mut url = reqwest::Url::parse(&format!("{endpoint}/upload/storage/v1/b/{bucket}/o")).unwrap();
        url.query_pairs_mut().append_pair("uploadType", "media").append_pair("name", &key);
        let answer = self.http.post(url).body(bytes).send().await.unwrap();
        assert!(answer.status().is_success(), "{key}: {}", answer.status());
        format!("gs://{bucket}/{key}")
    }
}

async fn loader(pace: Pace) -> BigQuery {
    let settings = Settings {
        project: setting("BIGQUERY_PROJECT"),
        endpoint: Some(setting("BIGQUERY_ENDPOINT")),
        credentials: Credentials::Nobody,
        pace,
        ..Settings::default()
    };
    BigQuery::connect(settings, Arc::new(SystemClock::new())).await.unwrap()
}

fn columns() -> Vec<BqField> {
    let column = |name: &str, kind: &str| BqField { name: name.into(), kind: kind.into(), ..BqField::default() };
    vec![column("id", "INTEGER"), column("msg", "STRING")]
}

fn json_gz(ids: std::ops::Range<i64>) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Level::fast());
    for id in ids {
        writeln!(packed, "{}", json!({"id": id, "msg": format!("m{id}")})).unwrap();
    }
    packed.finish().unwrap()
}

fn parquet_file(ids: std::ops::Range<i64>) -> Vec<u8> {
    let messages: StringArray = ids.clone().map(|id| Some(format!("m{id}"))).collect();
    let ids: Int64Array = ids.map(Some).collect();
    let rows = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("msg", Arc::new(messages))]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.into_inner().unwrap()
}

/// 32 hex digits that no other run has.
fn digest() -> String {
    let (a, b) = (unique(""), unique(""));
    format!("{}{}", &a[a.len() - 16..], &b[b.len() - 16..])
}

struct Set {
    table: TableRef,
    uris: Vec<String>,
    digest: String,
    format: Format,
    earlier: Vec<String>,
}

impl Set {
    async fn load(&self, loader: &BigQuery) -> Result<Loaded, LoadFault> {
        let columns = columns();
        let compression = if self.format == Format::Parquet { Compression::None } else { Compression::Gzip };
        let hour = HourLoad {
            table: &self.table,
            partition: None,
            partition_field: None,
            uris: &self.uris,
            has_proved_wildcards: false,
            format: self.format,
            compression,
            schema: &columns,
            digest: &self.digest,
            earlier: &self.earlier,
            after_ms: None,
            archive: "it",
        };
        loader.load(&hour).await
    }
}

/// Six hours, half of them Parquet: each once, and a repeated load changes nothing. A late record changes one of them.
#[tokio::test]
async fn each_hour_is_loaded_once_and_a_late_record_changes_exactly_one() {
    let bench = Bench::new().await;
    let mut sets = Vec::new();
    for hour in 0..6_i64 {
        let (first, format) = (hour * 100, if hour < 3 { Format::Parquet } else { Format::NewlineDelimitedJson });
        let end = if format == Format::Parquet { ".parquet" } else { ".json.gz" };
        let file = |ids| if format == Format::Parquet { parquet_file(ids) } else { json_gz(ids) };
        let uris = vec![
            bench.put(&format!("{hour}/a{end}"), file(first..first + 40)).await,
            bench.put(&format!("{hour}/b{end}"), file(first + 40..first + 60)).await,
        ];
        // What is in the folder and not meant.
        bench.put(&format!("{hour}/c{end}"), file(first + 60..first + 70)).await;
        sets.push(Set { table: bench.table(&hour.to_string()), uris, digest: digest(), format, earlier: Vec::new() });
    }
    for _ in 0..2 {
        for set in &sets {
            let loaded = set.load(&bench.loader).await.unwrap();
            assert_eq!((loaded.attempt, loaded.rows), (1, Some(60)));
        }
    }
    let late = bench.put("4/late.json.gz", json_gz(999..1000)).await;
    let before = &sets[4];
    let uris = before.uris.iter().cloned().chain([late]).collect();
    sets[4] =
        Set { uris, digest: digest(), earlier: vec![before.digest.clone()], table: before.table.clone(), ..*before };
    assert!(sets[4].load(&bench.loader).await.unwrap().is_new);
    for (hour, set) in (0_i64..).zip(&sets) {
        let mut wanted: Vec<_> = (hour * 100..hour * 100 + 60).collect();
        if hour == 4 {
            wanted.push(999);
        }
        assert_eq!(bench.ids(&set.table).await, wanted, "hour {hour}");
    }
}

/// The process that still has the older set, and asks for it after the newer is there.
#[tokio::test]
async fn an_older_set_is_not_loaded_after_a_newer_one() {
    let bench = Bench::new().await;
    let (one, two) = (bench.put("1.json.gz", json_gz(0..5)).await, bench.put("2.json.gz", json_gz(5..6)).await);
    let set = |uris: &[&String], digest: &str, earlier: &[&String]| Set {
        table: bench.table("x"),
        uris: uris.iter().map(ToString::to_string).collect(),
        digest: digest.to_string(),
        format: Format::NewlineDelimitedJson,
        earlier: earlier.iter().map(ToString::to_string).collect(),
    };
    let (first, second) = (digest(), digest());
    let older = set(&[&one], &first, &[]);
    let newer = set(&[&one, &two], &second, &[&first]);
    newer.load(&bench.loader).await.unwrap();
    let fault = older.load(&loader(Pace::default()).await).await.unwrap_err();
    assert_eq!(fault.kind, LoadFaultKind::Superseded, "{fault}");
    assert_eq!(bench.ids(&newer.table).await, [0, 1, 2, 3, 4, 5]);
}

/// Row errors come through, and the set is loaded once the object is what it should be.
#[tokio::test]
async fn a_bad_object_is_told_and_loaded_once_it_is_good() {
    let bench = Bench::with(Pace { failed: Duration::from_secs(3_600), ..Pace::default() }).await;
    let bad = bench.put("bad.json", b"{\"id\": 1}\n{\"id\":".to_vec()).await;
    let set = Set {
        table: bench.table("bad"),
        uris: vec![bench.put("good.json.gz", json_gz(0..3)).await, bad],
        digest: digest(),
        format: Format::NewlineDelimitedJson,
        earlier: Vec::new(),
    };
    let fault = set.load(&bench.loader).await.unwrap_err();
    assert_eq!(fault.kind, LoadFaultKind::Rows, "{fault}");
    let text = fault.to_string();
    for says in [format!("siltstone_{}_1", set.digest).as_str(), "Malformed JSON", "(invalid)", "gs://"] {
        assert!(text.contains(says), "{says}: {text}");
    }
    // Also from another process it is not tried at once.
    bench.put("bad.json", b"{\"id\": 3}\n{\"id\": 4}\n".to_vec()).await;
    let again = set.load(&loader(Pace { failed: Duration::from_secs(3_600), ..Pace::default() }).await).await;
    assert_eq!(again.unwrap_err(), fault);
    let later = set.load(&loader(Pace { failed: Duration::ZERO, ..Pace::default() }).await).await.unwrap();
    assert_eq!((later.attempt, later.rows), (2, Some(5)));
    assert_eq!(bench.ids(&set.table).await, [0, 1, 2, 3, 4]);
}

/// The emulator lets both load; as each load replaces, it is the same. That BigQuery lets one of them is held in `src/load/bigquery/tests.rs`.
#[tokio::test]
async fn two_that_load_the_same_set_at_once_leave_it_once() {
    let bench = Bench::new().await;
    let set = Set {
        table: bench.table("both"),
        uris: vec![bench.put("1.json.gz", json_gz(0..500)).await],
        digest: digest(),
        format: Format::NewlineDelimitedJson,
        earlier: Vec::new(),
    };
    let other = loader(Pace::default()).await;
    let (one, two) = tokio::join!(set.load(&bench.loader), set.load(&other));
    assert_eq!((one.unwrap().attempt, two.unwrap().attempt), (1, 1));
    assert_eq!(bench.ids(&set.table).await, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dataset_that_is_missing_is_named() {
    let bench = Bench::new().await;
    let set = Set {
        table: format!("{}.no_such_dataset.hits", setting("BIGQUERY_PROJECT")).parse().unwrap(),
        uris: vec![bench.put("1.json.gz", json_gz(0..1)).await],
        digest: digest(),
        format: Format::NewlineDelimitedJson,
        earlier: Vec::new(),
    };
    let fault = set.load(&bench.loader).await.unwrap_err();
    assert_eq!(fault.kind, LoadFaultKind::NotFound, "{fault}");
    assert!(fault.to_string().contains("no_such_dataset"), "{fault}");
}
