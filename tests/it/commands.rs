//! `check`, `inspect`, `help` and `demo`, as a person meets them.

use crate::support::configuration::Trial;
use crate::support::kafka::{Topic, committed};
use crate::support::process::siltstone;
use crate::support::{setting, unique};
use serde_json::{Value, json};

#[test]
fn check_reports_every_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    let text = "[kafka]\nbrokers = \"127.0.0.1:1\"\nstart = \"yesterday\"\n[destinations.main]\nurl = \"ftp://x\"\n\
                [rotate]\nsize = \"12 parsecs\"\nagee = \"1m\"\n[[archive]]\ntopics = [\"a\"]\n\
                [kafka.client]\n\"enable.auto.commit\" = \"true\"\n";
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let ended = siltstone(&["check", "-c", &path]).expect(2);
    for (line, what) in [(3, "yesterday"), (5, "ftp"), (7, "parsecs"), (8, "agee"), (12, "enable.auto.commit")] {
        let found = ended.err.lines().find(|text| text.contains(&format!("line {line}: ")));
        let found = found.unwrap_or_else(|| panic!("nothing about line {line} in\n{}", ended.err));
        assert!(found.contains(what), "{found}");
    }
    assert!(ended.err.contains("did you mean `age`"), "{}", ended.err);
    // The same from `run`, before it touches anything.
    siltstone(&["run", "-c", &path]).expect(2).says(&["line 8: rotate.agee"]);
    siltstone(&["check", "-c", "/nowhere/at/all.toml"]).expect(2).says(&["/nowhere/at/all.toml"]);
    siltstone(&["check"]).expect(2).says(&["--config"]);
}

/// What `run` would fail at for reasons that need no server: `check` says so, names the key and hides values.
#[test]
fn check_finds_what_run_would_fail_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(dir.path().join("file"), "").unwrap();
    let file = "url = \"file:///nowhere/x\"";
    let cases = [
        ("client = { \"session.timeout.ms\" = 400000 }", file, "[kafka.client]: Client creation error: `max.poll"),
        (
            "client = { \"security.protocol\" = \"ssl\", \"ssl.ca.location\" = \"/nowhere.pem\" }",
            file,
            "[kafka.client]: Client creation error: ssl.ca.location",
        ),
        ("", "url = \"gs://b\"\nservice_account_file = \"nowhere.json\"", "nowhere.json"),
        ("", "url = \"gs://b\"\nservice_account_key = \"hush-hush\"", "[destinations.main]: "),
        ("", "url = \"az://b\"\naccount = \"a\"\naccess_key = \"hush-hush\"", "[destinations.main]: "),
        ("", &format!("url = \"file://{}/file/x\"", dir.path().display()), "file is no folder"),
    ];
    for (kafka, destination, expected) in cases {
        let text = format!(
            "[kafka]\nbrokers = \"127.0.0.1:1\"\n{kafka}\n[spool]\ndir = \"spool\"\n[destinations.main]\n{destination}\n\
             [[archive]]\ntopics = [\"a\"]\n"
        );
        std::fs::write(&path, text).unwrap();
        let ended = siltstone(&["check", "-c", &path.display().to_string()]).expect(2);
        ended.prints(&["FAIL", expected]).hides(&["hush-hush", "the configuration is right"]);
    }
    let bad = "[kafka]\nbrokers = \"127.0.0.1:1\"\n[spool]\ndir = \"file\"\n[destinations.main]\nurl = \"s3://b\"\n\
               [[archive]]\ntopics = [\"a\"]\n";
    std::fs::write(&path, bad).unwrap();
    siltstone(&["check", "-c", &path.display().to_string()]).expect(2).prints(&["spool.dir", "is no folder"]);
}

#[test]
fn check_without_connect_needs_no_server() {
    let topic = Topic::create(1);
    let mut trial = Trial::on_disk(&topic);
    trial.brokers = "127.0.0.1:1".to_string();
    let secret = "hidden-from-view-5511";
    trial.sections = format!("[kafka.client]\n\"sasl.password\" = \"{secret}\"");
    trial.command("check", &[]).expect(0).prints(&["the configuration is right"]);
    trial.command("check", &["-v"]).expect(0).prints(&["127.0.0.1:1", &topic.name, "***"]).hides(&[secret]);
    assert!(!trial.root().exists(), "check without --connect writes nothing");
}

#[test]
fn check_connect_proves_broker_topics_and_destinations() {
    let topic = Topic::create(3);
    for mut trial in [Trial::on_disk(&topic), Trial::on_s3(&topic)] {
        let ended = trial.command("check", &["--connect"]).expect(0);
        ended.prints(&[&format!("topic {}: 3 Kafka partitions, archive it", topic.name), "create-if-absent work"]);
        assert!(trial.archive().objects.is_empty(), "the probe is deleted again");
        assert_eq!(committed(&trial.group, &topic, 0), None);
        let missing = unique("missing");
        trial.topics = format!("[\"{}\", \"{missing}\"]", topic.name);
        let ended = trial.command("check", &["--connect"]).expect(3);
        ended.prints(&["FAIL", &format!("topic {missing} does not exist"), &topic.name]);
    }
}

#[test]
fn inspect_shows_where_each_partition_stands() {
    let topic = Topic::create(2);
    topic.send_good(0, 20, 2);
    let trial = Trial::on_disk(&topic);
    let lines = |out: &str| -> Vec<Value> { out.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let before = lines(&trial.command("inspect", &["--json"]).expect(0).out);
    assert_eq!(before.len(), 2);
    assert_eq!((&before[0]["committed"], &before[0]["lag"]), (&Value::Null, &10.into()));
    assert_eq!(before[0]["state"], "never archived");
    trial.drained(&topic);
    topic.send_good(20, 4, 2);
    let objects = trial.archive().objects;
    for (partition, line) in lines(&trial.command("inspect", &["--json"]).expect(0).out).iter().enumerate() {
        assert_eq!(line["topic"], *topic.name);
        assert_eq!(line["partition"], partition);
        assert_eq!((&line["committed"], &line["lag"], &line["log_end"]), (&10.into(), &2.into(), &12.into()));
        assert_eq!(line["state"], "archived");
        let receipt = &line["last_receipt"];
        assert_eq!((&receipt["first"], &receipt["end"], &receipt["rows"]), (&0.into(), &10.into(), &10.into()));
        assert!(line["watermark"].as_str().is_some_and(|text| text.starts_with("2025-11-21T")), "{line}");
    }
    let text = trial.command("inspect", &[]).expect(0);
    text.prints(&[&format!("{}/0", topic.name), &format!("{}/1", topic.name), "[0, 10) 10 rows in 1 objects"]);
    assert!(trial.archive().objects == objects, "inspect writes nothing");
    trial.drained(&topic);
}

const PORTAL: &str = r#"
[kafka]
brokers = "127.0.0.1:1"
[spool]
dir = "spool"
[destinations.main]
url = "file:///nowhere/at/all"
[[archive]]
topics = ["access"]
decode = { type = "ltsv", types = { status = "int" }, nulls = ["-"] }
timestamp = { field = "time" }
transform = """
if .uri == "/healthz" { abort }
.cookie = parse_key_value(.cookie, field_delimiter: "; ") ?? {}
.output = if int!(.status) >= 500 { ["all", "errors"] } else { "all" }
"""
[[archive.output]]
name = "all"
[[archive.output]]
name = "errors"
format = { type = "parquet", schema = "infer" }
layout = { path = "errors/{field.host[0]}" }
[[archive.output]]
format = { type = "raw", newlines = "escape" }
layout = { path = "raw" }
"#;

/// Without any Kafka: samples of a user's own, as a test of a configuration has them.
#[test]
fn preview_shows_what_becomes_of_samples() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("siltstone.toml"), PORTAL).unwrap();
    let good = "time:2025-11-21T03:00:00Z\thost:www.example\tstatus:503\tcookie:a=b; c=d\turi:/x";
    let healthz = good.replace("uri:/x", "uri:/healthz");
    std::fs::write(path("lines"), format!("{good}\n{healthz}\nbroken\n{}\n", good.replace("503", "x"))).unwrap();
    let preview = |arguments: &[&str]| {
        let config = path("siltstone.toml");
        siltstone(&[&["preview", "-c", &config], arguments].concat())
    };
    let out = preview(&["--lines", &path("lines"), "--json"]).expect(0).out;
    let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 4, "{out}");
    let row = json!({"cookie": {"a": "b", "c": "d"}, "host": "www.example", "status": 503, "time": "2025-11-21T03:00:00Z", "uri": "/x"});
    assert_eq!(
        told[0]["rows"],
        json!([{"row": row, "event_time": "2025-11-21T03:00:00.000Z", "outputs": ["all", "errors"]}])
    );
    let keys: Vec<&str> =
        told[0]["objects"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    let name = format!("access+00000+{:020}-{:020}", 0, 1);
    let expected = [
        format!("access/dt=2025-11-21/hr=03/{name}.json.gz"),
        format!("errors/www/{name}.parquet"),
        format!("raw/{name}.txt.gz"),
    ];
    assert_eq!(keys, expected);
    assert_eq!(told[1]["dropped"], json!({"all": "transform", "errors": "transform"}));
    assert_eq!(told[1]["objects"].as_array().unwrap().len(), 1, "raw takes it all the same: {}", told[1]);
    for (number, reason) in [(2, "no label"), (3, "whole number")] {
        let letter = &told[number]["dead_letters"][0];
        assert_eq!((&letter["stage"], &letter["outputs"]), (&json!("decode"), &json!(["all", "errors"])));
        assert!(letter["reason"].as_str().unwrap().contains(reason), "{letter}");
    }
    let text = preview(&["--lines", &path("lines")]).expect(0);
    text.prints(&[
        "access/0 offset 0",
        "errors/www/",
        "dropped by the rule transform",
        "dead letter  decode: field 1 has no label",
    ]);
    // Records with Kafka's own; a dead letter is such a record.
    let record =
        json!({"topic": "access", "partition": 7, "offset": 41, "timestamp": 1_763_712_000_000_i64, "value": good});
    std::fs::write(path("records"), format!("{record}\n")).unwrap();
    let out = preview(&["--records", &path("records"), "--json"]).expect(0).out;
    assert!(out.contains("access+00007+00000000000000000041-"), "{out}");
    preview(&["--records", &path("lines")]).expect(2).says(&["line 1"]);
    preview(&["--lines", &path("lines"), "--topic", "other"]).expect(3).says(&["no archive takes the topic other"]);
    assert!(!dir.path().join("spool").exists(), "nothing is left behind");
}

/// Cloud Foundry's firehose as people have it: the example, on envelopes as JSON and the same as Protocol Buffers.
#[test]
fn the_firehose_example_takes_log_lines_out_of_their_envelopes() {
    let path = |name: &str| format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    let (config, samples) = (path("config/firehose.toml"), path("tests/samples/firehose.jsonl"));
    let out = siltstone(&["preview", "-c", &config, "--records", &samples, "--json"]).expect(0).out;
    let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 8, "{out}");
    for (archive, topic, first) in [("json", "firehose", 0), ("protobuf", "firehose-protobuf", 4)] {
        let told = &told[first..first + 4];
        assert!(told.iter().all(|one| one["archive"] == archive), "{out}");
        let (log, metric) = (&told[0]["rows"][0], &told[2]["rows"][0]);
        let event_type = if archive == "json" { json!(5) } else { json!("LogMessage") };
        let row = json!({
            "app_id": "5f1d2c3b-8e4a-4b7e-9c0d-1a2b3c4d5e6f", "deployment": "cf", "eventType": event_type,
            "index": "3f1c8a52-7d1e-4d0e-9a9c-5a4f1c2b7a10", "ip": "10.0.16.5", "job": "diego_cell",
            "message": "GET /p/1 200 4.5ms ä", "origin": "rep", "source_instance": "0", "source_type": "APP/PROC/WEB",
            "stream": "out", "timestamp": 1_763_712_000_123_456_789_i64,
        });
        assert_eq!((&log["row"], &log["event_time"]), (&row, &json!("2025-11-21T08:00:00.123Z")));
        let key = told[0]["objects"][0]["key"].as_str().unwrap();
        let folder = "logs/5f1d2c3b-8e4a-4b7e-9c0d-1a2b3c4d5e6f/dt=2025-11-21/hr=08";
        assert!(key.starts_with(&format!("{folder}/{topic}+")), "{key}");
        assert_eq!(told[1]["rows"][0]["row"]["stream"], "err");
        assert_eq!(
            (&metric["outputs"], &metric["row"]["valueMetric"]["value"]),
            (&json!(["metrics"]), &json!(1_234_567.5))
        );
        let stage = if archive == "json" { "transform" } else { "decode" };
        assert_eq!((&told[3]["rows"], &told[3]["dead_letters"][0]["stage"]), (&json!([]), &json!(stage)));
    }
}

/// The newest records of the real Kafka, and nothing is joined, committed or written.
#[test]
fn preview_reads_the_newest_records() {
    let topic = Topic::create(2);
    topic.send_good(0, 50, 2);
    let trial = Trial::on_disk(&topic);
    let out = trial.command("preview", &["-n", "6", "--json"]).expect(0).out;
    let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 6, "{out}");
    assert!(told.iter().all(|one| one["objects"].as_array().is_some_and(|objects| objects.len() == 1)), "{out}");
    assert!(told.iter().all(|one| one["offset"].as_i64().is_some_and(|offset| offset >= 19)), "{out}");
    assert_eq!((committed(&trial.group, &topic, 0), trial.root().exists()), (None, false));
}

#[test]
fn help_shows_every_page_of_the_guide() {
    let list = siltstone(&["help"]).expect(0).out;
    for page in ["delivery", "configuration", "decode", "transform", "layout", "operations"] {
        assert!(list.contains(page), "{list}");
        let text = siltstone(&["help", page]).expect(0).out;
        assert!(text.starts_with("# ") && text.len() > 1000, "{page}: {text}");
    }
    siltstone(&["help", "nonsense"]).expect(2).says(&["nonsense", "operations"]);
    siltstone(&["--version"]).expect(0).prints(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn the_demo_needs_nothing_and_counts_its_own_archive() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo");
    let path = folder.display().to_string();
    let ended = siltstone(&["demo", "--records", "3000", "--dir", &path]).expect(0);
    ended.prints(&["_siltstone/", "3000"]);
    let archive = crate::support::archive::Archive::on_disk(&folder);
    let data = |ending: &str| archive.data_keys().iter().filter(|key| key.ends_with(ending)).count();
    assert!(data(".json.gz") > 0 || data(".parquet") > 0, "{:?}", archive.objects.keys());
}

/// An archive, as people and pipes read it: the demo's, which needs no server.
#[test]
fn an_archive_is_listed_printed_and_searched() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo").display().to_string();
    siltstone(&["demo", "--records", "3000", "--dir", &folder]).expect(0);
    let config = format!("{folder}/demo.toml");
    let run = |arguments: &[&str]| siltstone(&[arguments, &["-c", &config]].concat());
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let out = run(arguments).expect(0).out;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let listed = lines(&["ls", "--output", "json", "--json"]);
    assert_eq!(listed.last().unwrap()["total"]["rows"], 3000);
    run(&["ls", "--folders"]).expect(0).prints(&["json/access/dt=", "6000 rows", "4 Kafka partitions"]);
    let mut ids = [lines(&["cat", "--topic", "access"]), lines(&["cat", "--topic", "access", "--output", "parquet"])]
        .map(|rows| rows.iter().map(|row| row["id"].as_i64().unwrap()).collect::<Vec<_>>());
    ids.iter_mut().for_each(|ids| ids.sort_unstable());
    assert_eq!(ids[0], (0..3000).collect::<Vec<_>>());
    assert_eq!(ids[0], ids[1]);
    let some = lines(&["cat", "--topic", "access", "--where", ".status >= 500", "--grep", "GET", "-n", "3"]);
    assert!(some.len() == 3 && some.iter().all(|row| row["status"].as_i64() >= Some(500)), "{some:?}");
    run(&["cat", "--topic", "access", "--since", "2h", "--until", "2h"]).expect(0).says(&["--output NAME"]);
    run(&["find", "access/0/5"]).expect(0).prints(&["access/0 offset 5", "json"]);
    run(&["find", "access/0/99999999"]).expect(1).prints(&["not archived yet"]);
    run(&["cat", "--topic", "nobody"]).expect(2).says(&["nobody"]);
    run(&["cat", "--topic", "access", "--output", "parquet", "--raw"]).expect(2).says(&["--raw"]);
}

/// A SASL_SSL listener, from the configuration to the archive.
#[test]
fn scram_over_tls_archives() {
    let topic = Topic::create(1);
    topic.send_good(0, 10, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.brokers = setting("KAFKA_SASL_BROKERS");
    trial.sections = format!(
        "[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
         \"sasl.username\" = \"archiver\"\n\"sasl.password\" = \"arch-secret\"\n\"ssl.ca.location\" = \"{}\"",
        setting("KAFKA_CA")
    );
    trial.drain().expect(0).hides(&["arch-secret"]);
    trial.archive().assert_even(&topic);
}
