//! Records back to Kafka: as they were, once, and not where the topic would spoil them. Both topics are compared by a Python consumer.

use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic, committed, good};
use crate::support::process::{Ended, Running};
use crate::support::{DEADLINE, python, setting, unique, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use siltstone::effect::Effect;
use std::path::Path;
use std::process::Command;

/// Effects that only restores have: the scenes of [`crate::failpoints`] have all others.
pub(crate) const EFFECTS: [Effect; 1] = [Effect::RestoreCommit];

const ENVELOPE: &str = "tombstones = \"keep\"\n[[archive.output]]\nformat = \"json\"\nlayout = { path = \"json/{topic}\" }\n\
                        [[archive.output]]\nname = \"all\"\nformat = \"envelope\"\nlayout = { path = \"all/{topic}/hr=%H\" }";

/// A topic that keeps old records.
fn keeping(partitions: i32) -> Topic {
    Topic::with(&unique("u"), partitions, &[("retention.ms", "-1"), ("message.timestamp.type", "CreateTime")])
}

/// The topic is archived on S3, in batches of so many records.
fn drained(topic: &Topic, records: u32) -> Trial {
    let mut trial = Trial::on_s3(topic).with(ENVELOPE);
    trial.rotate = format!("records = {records}");
    trial.drain().expect(0);
    trial
}

fn restore(trial: &Trial, topic: &Topic, target: &str, arguments: &[&str]) -> Running {
    restore_in(&[], trial, topic, target, arguments)
}

fn restore_in(environment: &[(&str, &str)], trial: &Trial, topic: &Topic, target: &str, arguments: &[&str]) -> Running {
    let mut all = vec!["--topic", topic.name.as_str(), "--to-topic", target, "--json", "--log-level", "info"];
    all.extend_from_slice(arguments);
    trial.start_in(environment, "restore", &all)
}

/// Runs one that keeps partitions, to its end.
fn preserving(trial: &Trial, topic: &Topic, target: &Topic, more: &[&str]) -> Ended {
    restore(trial, topic, &target.name, &[&["--preserve-partitions"], more].concat()).wait(DEADLINE)
}

/// The lines of an event.
fn said(ended: &Ended, event: &str) -> Value {
    let mut lines = ended.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.rfind(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event}:\n{}", ended.out))
}

/// Both topics hold the same records, in the same partitions and order.
#[track_caller]
fn assert_same(topic: &Topic, target: &Topic) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/compare_topics.py");
    let mut compare = Command::new(python());
    compare.arg(script).args([&setting("KAFKA_BROKERS"), &topic.name, &target.name]);
    let compared = compare.output().expect("it runs");
    let text = String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr);
    assert!(compared.status.success(), "{text}");
    let count = topic.count();
    assert!(text.contains(&format!("{count} and {count} records")), "{text}");
}

/// Every kind of record: keys and values null, empty, binary; headers that repeat, are null or empty; times out of order.
fn odd(id: u64) -> Shape {
    let bytes: &[u8] = &[0, 0xff, b'\n', 0x80];
    let text = format!(r#"{{"id":{id}}}"#);
    let value = match id % 5 {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(bytes.to_vec()),
        _ => Some(text.into_bytes()),
    };
    let key = match id % 4 {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(bytes.to_vec()),
        _ => Some(format!("key {}", id % 7).into_bytes()),
    };
    let shape = Shape { partition: (id % 3) as i32, key, value, ..Shape::default() };
    let shape = shape.at(BASE_MS + (id * 7919 % 20_000) as i64 * 1_000);
    match id % 3 {
        0 => shape,
        1 => {
            shape.header("trace", Some(b"one")).header("none", None).header("trace", Some(bytes)).header("trace", None)
        }
        _ => shape.header("", Some(b"")).header("empty", Some(b"")),
    }
}

/// Goal: from whole records a topic comes back as it was. Method: aborted transactions, markers and a record without a timestamp among them; a
/// consumer in Python compares.
#[test]
fn a_topic_comes_back_as_it_was() {
    let topic = Topic::create(3);
    topic.send_all((0..3_000).map(odd));
    topic.transaction((3_000..3_100).map(odd), false);
    topic.transaction((3_100..3_200).map(odd), true);
    topic.send_all((3_200..3_300).map(odd));
    topic.send_all([Shape::of("no time").at(-1)]);
    let trial = drained(&topic, 700);
    let target = keeping(3);
    let dry = preserving(&trial, &topic, &target, &["--dry-run"]).expect(0);
    let plan = said(&dry, "plan");
    assert_eq!((&plan["output"], &plan["survey"]["losses"]), (&json!("all"), &json!([])), "{plan}");
    assert_eq!(plan["survey"]["rows"], topic.count(), "{plan}");
    let ended = preserving(&trial, &topic, &target, &[]).expect(0);
    let balance = &said(&ended, "balance")["balance"];
    assert_eq!((&balance["produced"], &balance["untimed"]), (&json!(topic.count()), &json!(0)), "{balance}");
    assert_same(&topic, &target);
    let again = preserving(&trial, &topic, &target, &[]).expect(0);
    let balance = &said(&again, "balance")["balance"];
    assert_eq!((&balance["produced"], &balance["earlier"]), (&json!(0), &json!(topic.count())), "{balance}");
    assert_same(&topic, &target);
    preserving(&trial, &topic, &target, &["--job", "mine", "--to-offset", "0"]).expect(0);
}

/// Goal: a job whose processes are killed, and one that is taken over while it runs, bring each record once and in order.
#[test]
fn a_restore_that_is_killed_goes_on_where_it_was() {
    let topic = Topic::create(3);
    topic.send_all((0..30_000).map(odd));
    let trial = drained(&topic, 4000);
    let target = keeping(3);
    let group = format!("{}-restore-killed", trial.group);
    let produced =
        || -> i64 { (0..3).filter_map(|slot| committed(&group, &target, slot)).map(|(offset, _)| offset).sum() };
    let arguments = ["--preserve-partitions", "--job", "killed", "--rate", "1500"];
    let mut reached = 0;
    for _ in 0..2 {
        let process = restore(&trial, &topic, &target.name, &arguments);
        reached = until("a transaction is committed", DEADLINE, || Some(produced()).filter(|&now| now > reached));
        process.signal(Signal::KILL);
        process.wait(DEADLINE);
    }
    assert!(reached < 30_000, "it was killed in the middle");
    let first = restore(&trial, &topic, &target.name, &arguments);
    until("the first one commits", DEADLINE, || Some(produced()).filter(|&now| now > reached));
    let second = restore(&trial, &topic, &target.name, &arguments);
    first.wait(DEADLINE).expect(5).says(&["another process has taken this job over"]);
    let ended = second.wait(DEADLINE).expect(0);
    let balance = &said(&ended, "balance")["balance"];
    let sum = balance["produced"].as_u64().unwrap() + balance["earlier"].as_u64().unwrap();
    assert_eq!(sum, 30_000, "{balance}");
    assert_same(&topic, &target);
    let others = ["--job", "killed", "--preserve-partitions", "--from-offset", "5"];
    restore(&trial, &topic, &target.name, &others).wait(DEADLINE).expect(2).says(&["of another restore", "--job"]);
}

/// Goal: aborted before or after any commit, or told to stop, it goes on behind what was committed.
#[test]
fn a_restore_that_is_aborted_at_a_commit_is_finished() {
    const SIGABRT: i32 = 6;
    let topic = Topic::create(3);
    topic.send_all((0..50_000).map(odd));
    let trial = Trial::on_disk(&topic).with(ENVELOPE);
    trial.drain().expect(0);
    for failpoint in
        ["restore-commit:before:1", "restore-commit:after:1", "restore-commit:before:2", "restore-commit:after:2"]
    {
        let target = keeping(3);
        let run = |environment: &[(&str, &str)]| {
            restore_in(environment, &trial, &topic, &target.name, &["--preserve-partitions"]).wait(DEADLINE)
        };
        let aborted = run(&[("SILTSTONE_FAILPOINT", failpoint)]);
        assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
        run(&[]).expect(0);
        assert_same(&topic, &target);
    }
    let target = keeping(3);
    let arguments = ["--preserve-partitions", "--rate", "10000", "--job", "stopped"];
    let process = restore(&trial, &topic, &target.name, &arguments);
    let group = format!("{}-restore-stopped", trial.group);
    until("it has begun", DEADLINE, || committed(&group, &target, 0));
    process.stop().expect(6).says(&["goes on where it was left"]);
    preserving(&trial, &topic, &target, &["--job", "stopped"]).expect(0);
    assert_same(&topic, &target);
}

/// Goal: from rows comes back what they hold, and what is lost is said before the first record.
#[test]
fn rows_come_back_as_far_as_they_hold_records() {
    let topic = Topic::create(2);
    topic.send_all(
        (0..100).map(|id| Shape { partition: (id % 2) as i32, ..good(id).keyed(Some(b"k")).header("h", Some(b"v")) }),
    );
    topic.send_all([Shape::of("no JSON"), Shape::tombstone("t")]);
    let outputs = "tombstones = \"drop\"\ntimestamp = { field = \"time\", unit = \"ms\" }\n[[archive.output]]\nformat = \"json\"\n\
                   layout = { path = \"json/{topic}\" }\n[[archive.output]]\nname = \"kept\"\nformat = \"json\"\n\
                   keep = [\"key\", \"headers\", \"timestamp\", \"offset\"]\nlayout = { path = \"kept/{topic}\" }";
    let trial = Trial::on_disk(&topic).with(outputs);
    trial.drain().expect(0);
    let bare = keeping(2);
    let since = ["--to-offset", "7", "--since", "2025-11-21T08:00:00.005Z"];
    let dry = restore(&trial, &topic, &bare.name, &[&since[..], &["--dry-run"]].concat()).wait(DEADLINE).expect(0);
    let survey = &said(&dry, "plan")["survey"];
    assert_eq!(
        (&survey["untold_times"]["rows"], &survey["untold_offsets"]["rows"]),
        (&json!(0), &json!(50)),
        "{survey}"
    );
    let plain = ["--topic", topic.name.as_str(), "--to-topic", bare.name.as_str(), "--preserve-partitions"];
    let ended = trial.start_in(&[], "restore", &[&plain[..], &["--dry-run"]].concat()).wait(DEADLINE).expect(0);
    ended.prints(&[
        "lost: keys",
        "lost: headers",
        "event times",
        "kept: --output",
        "1 records are not in it but dead letters",
        "1 records were dropped",
    ]);
    let ended = restore(&trial, &topic, &bare.name, &["--preserve-partitions"]).wait(DEADLINE).expect(0);
    let balance = &said(&ended, "balance")["balance"];
    assert_eq!((&balance["produced"], &balance["dead_letters"]), (&json!(100), &json!(1)), "{balance}");
    assert_eq!(balance["dropped"], json!({"tombstones": 1}), "{balance}");
    let kept = keeping(2);
    restore(&trial, &topic, &kept.name, &["--preserve-partitions", "--output", "kept"]).wait(DEADLINE).expect(0);
    let expected = Topic::create(2);
    expected.send_all(topic.sent().into_iter().take(100).map(|sent| Shape {
        partition: sent.partition,
        timestamp: Some(sent.timestamp),
        key: sent.key,
        value: sent.value,
        headers: sent.headers,
    }));
    assert_same(&expected, &kept);
    let some = keeping(1);
    let ended = restore(
        &trial,
        &topic,
        &some.name,
        &["--output", "kept", "--where", ".id >= 90", "--since", "2025-11-21T08:00:00Z"],
    )
    .wait(DEADLINE)
    .expect(0);
    let balance = &said(&ended, "balance")["balance"];
    assert_eq!((&balance["produced"], &balance["filtered"]), (&json!(10), &json!(90)), "{balance}");
}

/// Bytes that nothing makes smaller.
fn noise(count: u32) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (at.wrapping_mul(at) >> 7) as u8).collect()
}

/// Goal: a record that the target does not take stops its source partition behind all that precede it, with what to do, and is met again by the next run; the others
/// come to their ends; once the limit is raised all is there, once.
#[test]
fn a_record_that_is_refused_stops_its_partition_alone() {
    const KEPT: [(&str, &str); 2] = [("retention.ms", "-1"), ("message.timestamp.type", "CreateTime")];
    let topic = Topic::create(3);
    topic.send_all((0..3_000).map(odd));
    topic.send(Shape { partition: 0, ..Shape::of(noise(60_000)).at(BASE_MS) });
    // Of a target with that limit, but for one that is packed.
    topic.send(Shape { partition: 1, ..Shape::of(vec![b'a'; 60_000]).at(BASE_MS) });
    topic.send_all((3_000..6_000).map(odd));
    let trial = drained(&topic, 700);
    let target = Topic::with(&unique("u"), 3, &[&KEPT[..], &[("max.message.bytes", "20000")]].concat());
    let run = || preserving(&trial, &topic, &target, &[]);
    for earlier in [0, 5_001] {
        let ended = run().expect(3).says(&[
            "the others are restored",
            "offset 1000 of all/",
            "of 60000 bytes, max.message.bytes=20000",
            "raise max.message.bytes",
            "--partition 0 --from-offset 1001",
        ]);
        let line = said(&ended, "balance");
        let balance = &line["balance"];
        assert_eq!((&line["complete"], &balance["earlier"]), (&json!(false), &json!(earlier)), "{line}");
        assert_eq!(balance["produced"], 5_001 - earlier, "{line}");
        let of = |partition: usize| {
            (balance["partitions"][partition]["next"].as_i64(), balance["partitions"][partition]["end"].as_i64())
        };
        assert_eq!(of(0), (Some(1_000), Some(2_001)), "{line}");
        assert_eq!((of(1), of(2)), ((Some(2_001), Some(2_001)), (Some(2_000), Some(2_000))), "{line}");
        assert!(
            balance["partitions"][0]["stopped"].is_string() && balance["partitions"][1].get("stopped").is_none(),
            "{line}"
        );
    }
    target.set(&KEPT);
    let ended = run().expect(0);
    assert_eq!(said(&ended, "balance")["balance"]["produced"], 1_001, "{}", ended.out);
    assert_same(&topic, &target);
}

/// Goal: an object that is gone or damaged stops the source partition that needs it; once it is there again the same command brings the rest.
#[test]
fn an_object_that_is_gone_stops_its_partition_alone() {
    let topic = Topic::create(3);
    topic.send_all((0..6_000).map(odd));
    let trial = drained(&topic, 700);
    let archive = trial.archive();
    let of = |partition: u32| {
        let found = archive
            .data_keys()
            .into_iter()
            .filter(move |key| key.starts_with("all/") && key.contains(&format!("+{partition:05}+")));
        found.map(str::to_string).collect::<Vec<_>>()
    };
    let (first, last) = (of(0).remove(0), of(2).pop().expect("objects"));
    trial.remove(&first);
    trial.damage(&last, |bytes| bytes.truncate(bytes.len() / 2));
    let target = keeping(3);
    let run = |more: &[&str]| preserving(&trial, &topic, &target, more);
    let dry = run(&["--dry-run"]).expect(0);
    assert!(
        said(&dry, "plan")["survey"]["unreadable"]["0"].as_str().is_some_and(|why| why.contains(&first)),
        "{}",
        dry.out
    );
    let ended = run(&[]).expect(5).says(&["2 source partitions stopped", &first, &last]);
    let balance = &said(&ended, "balance")["balance"]["partitions"];
    assert_eq!((&balance[0]["next"], &balance[1]["next"]), (&json!(0), &balance[1]["end"]), "{balance}");
    assert!(balance[2]["next"].as_i64() > Some(0) && balance[2]["stopped"].is_string(), "{balance}");
    for key in [&first, &last] {
        trial.put(key, archive.objects[key].clone());
    }
    run(&[]).expect(0);
    assert_same(&topic, &target);
}

/// Goal: a receipt that is damaged stops its source partition, behind what can be read, and no other; once it is there again the same command brings the
/// rest, up to the end that is known then.
#[test]
fn a_damaged_receipt_stops_its_partition_alone() {
    let topic = Topic::create(3);
    topic.send_all((0..6_000).map(odd));
    let trial = drained(&topic, 700);
    let archive = trial.archive();
    let mut receipts = archive
        .objects
        .keys()
        .filter(|key| key.starts_with("_siltstone/receipts/") && key.contains("/00001/") && key.ends_with(".json"));
    let key = receipts.next_back().expect("a receipt").clone();
    trial.damage(&key, |bytes| bytes.truncate(bytes.len() / 2));
    let target = keeping(3);
    let run = |more: &[&str]| preserving(&trial, &topic, &target, more);
    let dry = run(&["--dry-run"]).expect(0);
    let survey = &said(&dry, "plan")["survey"];
    assert!(survey["unreadable"]["1"].as_str().is_some_and(|why| why.contains(&key)), "{survey}");
    assert_eq!(
        (&survey["partitions"]["0"], &survey["partitions"]["1"]),
        (&json!([0, 2_000]), &json!([0, null])),
        "{survey}"
    );
    for _ in 0..2 {
        let ended = run(&[]).expect(5).says(&["1 source partitions stopped", &key]);
        let partitions = &said(&ended, "balance")["balance"]["partitions"];
        let of = |partition: usize| (partitions[partition]["next"].as_i64(), partitions[partition]["end"].as_i64());
        assert_eq!((of(0), of(2)), ((Some(2_000), Some(2_000)), (Some(2_000), Some(2_000))), "{partitions}");
        assert!(of(1).0 >= Some(700) && of(1).1.is_none() && partitions[1]["stopped"].is_string(), "{partitions}");
    }
    trial.put(&key, archive.objects[&key].clone());
    let ended = run(&[]).expect(0);
    assert_eq!(said(&ended, "balance")["balance"]["partitions"][1]["end"], 2_000, "{}", ended.out);
    assert_same(&topic, &target);
}

/// Goal: nothing is produced where the target would spoil it, and what to do is said.
#[test]
fn a_target_that_would_spoil_records_is_refused() {
    let topic = Topic::create(3);
    topic.send_all((0..30).map(odd));
    let trial = Trial::on_disk(&topic).with(ENVELOPE);
    trial.drain().expect(0);
    let with = |partitions, settings: &[(&str, &str)]| {
        Topic::with(&unique("u"), partitions, &[&[("retention.ms", "-1")], settings].concat())
    };
    let run = |target: &Topic, arguments: &[&str]| restore(&trial, &topic, &target.name, arguments).wait(DEADLINE);
    let nothing = |target: &Topic, code: i32, says: &[&str], arguments: &[&str]| {
        run(target, arguments).expect(code).says(says);
        run(target, &[arguments, &["--dry-run"]].concat()).expect(code).says(says);
    };
    let replacing = with(3, &[("message.timestamp.type", "LogAppendTime")]);
    nothing(&replacing, 5, &["LogAppendTime", "--accept timestamps", "kafka-configs.sh"], &[]);
    let deleting = Topic::with(&unique("u"), 3, &[("retention.ms", "604800000")]);
    nothing(&deleting, 5, &["retention.ms=604800000", "--accept retention", "2025-11-21"], &[]);
    let refusing = with(3, &[("message.timestamp.before.max.ms", "3600000")]);
    nothing(&refusing, 5, &["message.timestamp.before.max.ms"], &["--accept", "timestamps,retention,loop,unknown"]);
    let narrow = with(2, &[]);
    nothing(&narrow, 5, &["--preserve-partitions", "--partitions 3"], &["--preserve-partitions"]);
    nothing(&topic, 5, &["--accept loop"], &["--accept", "retention"]);
    let absent = unique("u");
    let missing = restore(&trial, &topic, &absent, &[]).wait(DEADLINE).expect(2);
    missing.says(&["kafka-topics.sh", &absent, "--partitions 3"]);
    restore(&trial, &topic, &narrow.name, &["--since", "2h"]).wait(DEADLINE).expect(2).says(&["2025-11-21T08:00:00Z"]);
    run(&replacing, &["--accept", "timestamps"]).expect(0);
    run(&narrow, &[]).expect(0);
    let compacted = with(1, &[("cleanup.policy", "compact")]);
    run(&compacted, &[]).expect(3).says(&["is refused", "without a key", "source partition"]);
    let small = with(1, &[("max.message.bytes", "80")]);
    run(&small, &[]).expect(3).says(&["is refused", "max.message.bytes"]);
    nothing(&with(1, &[("max.message.bytes", "77")]), 5, &["max.message.bytes=77", "ends a transaction"], &[]);
}
