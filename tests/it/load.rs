//! Complete hours in tables, by themselves: a real Hive Metastore that Spark reads through, and BigQuery's emulator. Each hour is loaded once its data is in, a
//! late record changes its own hour, and a load that is repeated changes nothing, whoever dies in the middle of it.
//!
//! The emulator does not know partition decorators (`tests/it/bigquery.rs`), so each hour is a table of its own there.

use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic};
use crate::support::process::Running;
use crate::support::{DEADLINE, setting, unique, until};
use serde_json::{Value, json};
use siltstone::effect::Effect;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What only loading has.
pub(crate) const EFFECTS: [Effect; 3] = [Effect::LoadedPut, Effect::HiveTable, Effect::HivePartition];

const HOUR_MS: i64 = 3_600_000;
const SIGABRT: i32 = 6;
const HOURS: i64 = 6;
/// Records of an hour, in both Kafka partitions together.
const OF_HOUR: u64 = 60;
/// As many of them come an hour late.
const STRAGGLERS: u64 = 6;

/// What every archive here has: columns, and hours that wait for stragglers of an hour.
const ARCHIVE: &str = r#"timestamp = { field = "time", unit = "ms" }
[archive.complete]
allowed_lateness = "90m"
idle_grace = "0s"
revise_after = "0s"
[[archive.output]]
name = "parquet"
format = { type = "parquet", schema = [{ name = "id", type = "INT64" }, { name = "time", type = "TIMESTAMP", unit = "ms" }] }
layout = { path = "{topic}/dt=%Y-%m-%d/hr=%H", zone = "UTC" }
destination = "main"
"#;

fn record(id: u64, hour: i64) -> Shape {
    let time = BASE_MS + hour * HOUR_MS + (id % 1_000) as i64;
    let mut shape = Shape::of(format!(r#"{{"id":{id},"time":{time},"more":"than the schema has"}}"#)).at(time);
    shape.partition = (id % 2) as i32;
    shape
}

/// Hour of the day, as folders have it.
fn hour_of_day(hour: i64) -> String {
    format!("{:02}", ((BASE_MS + hour * HOUR_MS) / HOUR_MS) % 24)
}

/// All hours in order, but for the stragglers of each, which come with the next one; and a record of 2099 among the first ones.
fn six_hours() -> (Vec<Shape>, BTreeMap<i64, Vec<i64>>) {
    let (mut records, mut expected): (Vec<Shape>, BTreeMap<i64, Vec<i64>>) = Default::default();
    let mut stragglers = Vec::new();
    let far = chrono::DateTime::parse_from_rfc3339("2099-01-01T00:00:00Z").expect("a time").timestamp_millis();
    records.push(Shape::of(format!(r#"{{"id":-1,"time":{far}}}"#)).at(BASE_MS));
    for hour in 0..HOURS {
        let ids = hour as u64 * OF_HOUR..(hour as u64 + 1) * OF_HOUR;
        expected.insert(hour, ids.clone().map(|id| id as i64).collect());
        let late = std::mem::take(&mut stragglers);
        for (index, id) in ids.enumerate() {
            match (index as u64).is_multiple_of(OF_HOUR / STRAGGLERS) && hour + 1 < HOURS {
                true => stragglers.push(record(id, hour)),
                false => records.push(record(id, hour)),
            }
        }
        records.extend(late);
    }
    (records, expected)
}

/// A Hive table and, where there is one, a dataset that an archive is loaded into.
struct Tables {
    topic: String,
    dataset: Option<String>,
}

impl Tables {
    fn name(&self) -> String {
        self.topic.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    }

    fn hive_section(&self) -> String {
        format!(
            "[[archive.load]]\nname = \"warehouse\"\ntype = \"hive\"\noutput = \"parquet\"\nuri = \"{}\"\ncreate = true\n",
            setting("HMS_URI")
        )
    }

    /// A dataset of its own, and a second output at a GCS server that is loaded into it.
    fn with_bigquery(topic: &Topic, trial: &mut Trial) -> Self {
        let dataset = unique("load").replace('-', "_");
        let tables = Self { topic: topic.name.clone(), dataset: Some(dataset.clone()) };
        let (project, endpoint) = (setting("BIGQUERY_PROJECT"), setting("BIGQUERY_ENDPOINT"));
        let reference = json!({"projectId": project, "datasetId": dataset});
        ask(&tables, "datasets", json!({"datasetReference": reference}));
        trial.sections = format!(
            "[destinations.google]\nurl = \"gs://{}/{}\"\nendpoint = \"{}\"\n",
            setting("GCS_BUCKET"),
            unique("p"),
            setting("GCS_ENDPOINT")
        );
        trial.archive = format!(
            "{ARCHIVE}[[archive.output]]\nname = \"json\"\nlayout = {{ path = \"{{topic}}/dt=%Y-%m-%d/hr=%H\", zone = \"UTC\" }}\ndestination = \"google\"\n\
             {}[[archive.load]]\nname = \"bq\"\ntype = \"bigquery\"\noutput = \"json\"\nproject = \"{project}\"\ndataset = \"{dataset}\"\n\
             table = \"{{topic}}_%Y%m%d%H\"\nendpoint = \"{endpoint}\"\n",
            tables.hive_section()
        );
        tables
    }

    fn loaders(&self) -> &'static [&'static str] {
        if self.dataset.is_some() { &["bq", "warehouse"] } else { &["warehouse"] }
    }

    /// Documents that say what was loaded, by loader, hour of the day and revision.
    fn loaded(&self, trial: &Trial) -> BTreeMap<(String, String, u64), Value> {
        let archive = trial.archive();
        let documents = archive.objects.iter().filter(|(key, _)| key.starts_with("_siltstone/load/v1/"));
        let read = |(_, bytes): (&String, &Vec<u8>)| {
            let document: Value = serde_json::from_slice(bytes).expect("JSON");
            let text = |key: &str| document[key].as_str().expect("a text").to_string();
            let hour = text("folder").rsplit_once("hr=").expect("an hour").1.to_string();
            let loader = text("loader").rsplit_once('-').expect("an id").0.to_string();
            ((loader, hour, document["revision"].as_u64().expect("a revision")), document.clone())
        };
        documents.map(read).collect()
    }

    /// Waits until all loaders have loaded these hours at these revisions, and nothing else.
    fn until_loaded(&self, trial: &Trial, expected: &[(i64, u64)]) {
        let expected: Vec<_> = self
            .loaders()
            .iter()
            .flat_map(|loader| {
                expected.iter().map(|&(hour, revision)| (loader.to_string(), hour_of_day(hour), revision))
            })
            .collect();
        let mut expected = expected;
        expected.sort();
        let mut last = Vec::new();
        let is_loaded = || {
            last = self.loaded(trial).into_keys().collect();
            (last == expected).then_some(())
        };
        until("all hours are loaded", 3 * DEADLINE, is_loaded);
    }

    /// Rows by hour as Spark counts them through the metastore, with as many different ids, and the ids' sum.
    fn spark(&self, configured: &[String]) -> BTreeMap<String, (u64, i64)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python =
            Command::new(root.join("scripts/python.sh")).arg("spark").output().expect("scripts/python.sh runs");
        assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
        let table = format!("default.{}", self.name());
        let mut command = Command::new(String::from_utf8(python.stdout).expect("a path").trim());
        command.arg(root.join("tests/proofs/spark_reads.py"));
        command.args(["--uri", &setting("HMS_URI"), "--table", &table, "--columns", "id"]);
        for setting in configured {
            command.args(["--conf", setting]);
        }
        let said = command.output().expect("Spark runs");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let lines = String::from_utf8(said.stdout).expect("UTF-8");
        let read = |line: &str| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(row["rows"], row["distinct"], "rows are there twice: {line}");
            let counted = (row["rows"].as_u64().expect("a count"), row["sum"].as_i64().expect("a sum"));
            (row["hr"].as_str().expect("an hour").to_string(), counted)
        };
        lines.lines().filter(|line| line.starts_with('{')).map(read).collect()
    }

    /// The ids of an hour's table in BigQuery.
    fn bigquery(&self, hour: i64) -> Vec<i64> {
        let dataset = self.dataset.as_ref().expect("a dataset");
        let start = chrono::DateTime::from_timestamp_millis(BASE_MS + hour * HOUR_MS).expect("a time");
        let start = start.format("%Y%m%d%H");
        let table = format!("{}.{dataset}.{}_{start}", setting("BIGQUERY_PROJECT"), self.name());
        let query = format!("SELECT id FROM `{table}` ORDER BY id");
        let answer = ask(self, "queries", json!({"query": query, "useLegacySql": false}));
        assert!(answer["errors"].is_null(), "{answer}");
        let rows = answer["rows"].as_array().expect("rows");
        rows.iter().map(|row| row["f"][0]["v"].as_str().expect("a number").parse().expect("a number")).collect()
    }

    /// Both sides have exactly what was produced.
    #[track_caller]
    fn assert_hold(&self, expected: &BTreeMap<i64, Vec<i64>>, configured: &[String]) {
        let counts =
            expected.iter().map(|(&hour, ids)| (hour_of_day(hour), (ids.len() as u64, ids.iter().sum::<i64>())));
        assert_eq!(self.spark(configured), counts.collect());
        if self.dataset.is_some() {
            for (&hour, ids) in expected {
                assert_eq!(self.bigquery(hour), *ids, "hour {hour}");
            }
        }
    }
}

fn ask(tables: &Tables, what: &str, body: Value) -> Value {
    let (endpoint, project) = (setting("BIGQUERY_ENDPOINT"), setting("BIGQUERY_PROJECT"));
    let url = format!("{endpoint}/bigquery/v2/projects/{project}/{what}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let post = reqwest::Client::new().post(url).header("content-type", "application/json").body(body.to_string());
        let answer = post.send().await.expect("an answer");
        let status = answer.status();
        let bytes = answer.bytes().await.expect("a body");
        assert!(status.is_success(), "{what} for {:?}: {status} {}", tables.dataset, String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).expect("JSON")
    })
}

/// Two processes, of which the one that loads dies at a point where it does, perhaps the other one after it, and a third one that goes on.
fn archived_by_those_that_die(trial: &mut Trial, failpoint: &str) -> Vec<Running> {
    trial.rotate = "age = \"1s\"".to_string();
    trial.kafka = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    let start = || trial.start_in(&[("SILTSTONE_FAILPOINT", failpoint)], "run", &[]);
    let mut dying = [start(), start()].map(Some);
    until("the process that loads dies", 2 * DEADLINE, || {
        dying.iter_mut().flatten().any(|running| !running.is_running()).then_some(())
    });
    let third = trial.start(&[]);
    let mut left = vec![third];
    for running in dying.iter_mut() {
        let is_running = running.as_mut().is_some_and(Running::is_running);
        let running = running.take().expect("taken once");
        if is_running {
            left.push(running);
        } else {
            let ended = running.wait(DEADLINE);
            assert_eq!(ended.signal, Some(SIGABRT), "{}", ended.err);
        }
    }
    left
}

/// What a Hive Metastore and BigQuery are asked for again when nobody remembers that it was: nothing changes by it.
fn load_again(trial: &Trial) {
    let keys: Vec<String> = trial.archive().objects.into_keys().collect();
    for key in keys.iter().filter(|key| key.starts_with("_siltstone/load/v1/") || key.ends_with("/progress.json")) {
        trial.remove(key);
    }
    trial.drain().expect(0);
}

/// The whole story, at whatever destination.
fn six_hours_are_loaded_once(mut trial: Trial, topic: &Topic, tables: &Tables, failpoint: &str, configured: &[String]) {
    let (records, mut expected) = six_hours();
    topic.send_all(records);
    let running = archived_by_those_that_die(&mut trial, failpoint);
    let first: Vec<(i64, u64)> = (0..HOURS).map(|hour| (hour, 1)).collect();
    tables.until_loaded(&trial, &first);
    tables.assert_hold(&expected, configured);
    // A late record changes its own hour alone.
    let late = HOURS as u64 * OF_HOUR;
    topic.send(record(late, 2));
    expected.get_mut(&2).expect("an hour").push(late as i64);
    let then: Vec<(i64, u64)> = first.into_iter().chain([(2, 2)]).collect();
    tables.until_loaded(&trial, &then);
    tables.assert_hold(&expected, configured);
    for running in running {
        drop(running.stop());
    }
    let before = tables.loaded(&trial);
    load_again(&trial);
    let after = tables.loaded(&trial);
    // The newest revision of each hour, by the same job as before.
    let newest: Vec<_> = (0..HOURS).map(|hour| (hour, if hour == 2 { 2 } else { 1 })).collect();
    for loader in tables.loaders() {
        for &(hour, revision) in &newest {
            let key = (loader.to_string(), hour_of_day(hour), revision);
            let (was, is) = (&before[&key], after.get(&key).unwrap_or_else(|| panic!("{key:?} was not loaded again")));
            assert_eq!(
                (&was["by"], &was["into"], &was["loaded_rows"]),
                (&is["by"], &is["into"], &is["loaded_rows"]),
                "{key:?}"
            );
        }
    }
    assert_eq!(after.len(), newest.len() * tables.loaders().len());
    tables.assert_hold(&expected, configured);
    trial.command("status", &[]).expect(0).prints(&["complete until", "2099", "waits"]);
    trial.command("verify", &["--deep"]).expect(0);
    // What is of 2099 is archived, and complete nowhere.
    let markers = trial.archive().objects.into_keys().filter(|key| key.ends_with("/_SUCCESS")).count();
    assert_eq!(markers, HOURS as usize);
}

/// Goal: six event hours with stragglers through two processes, of which each that loads is killed, come into Hive and BigQuery once; a late record changes one hour in both,
/// and a repeated load nothing. Method: whoever loads dies between the request for a load job and what comes of its answer.
#[test]
fn six_hours_come_into_hive_and_bigquery_once_whoever_dies() {
    let topic = Topic::create(2);
    let mut trial = Trial::on_disk(&topic);
    let tables = Tables::with_bigquery(&topic, &mut trial);
    six_hours_are_loaded_once(trial, &topic, &tables, "load-job:after:1", &[]);
}

/// Goal: a loader that fails holds nothing back, says why, and what waits for it is loaded by whoever comes next.
#[test]
fn a_loader_that_fails_holds_nothing_back_and_loads_when_it_can() {
    let topic = Topic::create(1);
    let tables = Tables { topic: topic.name.clone(), dataset: None };
    topic.send_all((0..20).map(|id| {
        let mut shape = record(id, id as i64 % 2);
        shape.partition = 0;
        shape
    }));
    let mut trial = Trial::on_disk(&topic);
    let right = format!("{ARCHIVE}{}", tables.hive_section());
    trial.archive = right.replace(&setting("HMS_URI"), "thrift://127.0.0.1:1");
    let failed = trial.drain();
    assert_eq!(failed.code, Some(4), "{}", failed.err);
    let failed = failed.says(&[
        "load ",
        "by warehouse",
        "no Hive metastore takes a connection",
        "everything is archived and committed",
    ]);
    drop(failed);
    trial.until_all_committed(&topic);
    assert_eq!(trial.archive().objects.keys().filter(|key| key.ends_with("/_SUCCESS")).count(), 2);
    trial
        .command("status", &[])
        .expect(0)
        .prints(&["loader warehouse: 2 folders wait", "no Hive metastore takes a connection"]);
    let status = trial.command("status", &["--json"]).expect(0);
    let lines = status.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    assert_eq!(lines.filter(|line| line["kind"] == "load" && line["error"].is_string()).count(), 2);
    trial.archive = right;
    trial.drain().expect(0).says(&["folder loaded", "table created"]);
    tables.until_loaded(&trial, &[(0, 1), (1, 1)]);
    assert_eq!(tables.spark(&[]).values().map(|(rows, _)| rows).sum::<u64>(), 20);
    // A loader that comes later gets what was complete before it.
    trial.archive = trial.archive.replace("\"warehouse\"", "\"second\"");
    trial.drain().expect(3).says(&["is that of archive it", "Give the loader another `table`"]);
    trial.archive += "table = \"{topic}_second\"\n";
    trial.drain().expect(0).says(&["folder loaded"]);
    let loaded = tables.loaded(&trial);
    assert_eq!(loaded.keys().filter(|(loader, ..)| loader == "second").count(), 2, "{:?}", loaded.keys());
    trial.drain().expect(0);
    assert_eq!(tables.loaded(&trial).len(), loaded.len(), "nothing is loaded twice");
}

/// The same in HDFS: its lane has the service.
mod hdfs {
    use super::*;

    /// Goal: as with a local folder; Spark reads from HDFS.
    #[test]
    fn six_hours_come_into_hive_once_whoever_dies() {
        let topic = Topic::create(2);
        let mut trial = Trial::on_hdfs(&topic);
        let tables = Tables { topic: topic.name.clone(), dataset: None };
        trial.archive = format!("{ARCHIVE}{}", tables.hive_section());
        let configured = ["spark.hadoop.dfs.client.use.datanode.hostname=false".to_string()];
        six_hours_are_loaded_once(trial, &topic, &tables, "hive-partition:after:1", &configured);
    }
}
