//! Complete hours: markers appear once the data of an hour is in, again after late data, whoever completes them and however often he dies.

use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic};
use crate::support::process::Running;
use crate::support::{DEADLINE, until};
use rustix::process::Signal;
use serde_json::Value;
use siltstone::clock::{Clock, SystemClock};
use siltstone::effect::Effect;
use std::collections::{BTreeMap, BTreeSet};

/// What only completing has.
const OF_COMPLETING: [Effect; 4] =
    [Effect::CompletedPut, Effect::MarkerPut, Effect::MarkerReplace, Effect::ProgressPut];

/// The same, and what asks for it after a backfill.
pub(crate) const EFFECTS: [Effect; 6] = [
    Effect::CompletedPut,
    Effect::MarkerPut,
    Effect::MarkerReplace,
    Effect::ProgressPut,
    Effect::RecountPut,
    Effect::RecountDelete,
];

const HOUR_MS: i64 = 3_600_000;
const SIGABRT: i32 = 6;

const ARCHIVE: &str = "timestamp = { field = \"time\", unit = \"ms\" }\n[archive.complete]\nallowed_lateness = \"1m\"\nidle_grace = \"0s\"\nrevise_after = \"0s\"\n\
    [[archive.output]]\nname = \"json\"\nlayout = { path = \"{topic}/dt=%Y-%m-%d/hr=%H\", zone = \"UTC\" }\n";

/// A record of that event hour, written when it happened.
fn of_hour(id: u64, hour: i64, partition: i32) -> Shape {
    let time = BASE_MS + hour * HOUR_MS + id as i64;
    let mut shape = Shape::of(format!(r#"{{"id":{id},"time":{time}}}"#)).at(time);
    shape.partition = partition;
    shape
}

/// By hour of the day: what stands in the markers.
fn markers(trial: &Trial) -> BTreeMap<String, Value> {
    let archive = trial.archive();
    let marked = archive.objects.iter().filter(|(key, _)| key.ends_with("/_SUCCESS"));
    let read = |(key, bytes): (&String, &Vec<u8>)| {
        let hour = key.split("hr=").nth(1).expect("an hour").split('/').next().expect("its digits");
        (hour.to_string(), serde_json::from_slice(bytes).expect("JSON"))
    };
    marked.map(read).collect()
}

/// Hour, revision and rows of each marker.
fn told(trial: &Trial) -> Vec<(String, u64, u64)> {
    let number = |marker: &Value, key: &str| marker[key].as_u64().expect("a number");
    let told = markers(trial).into_iter();
    told.map(|(hour, marker)| (hour, number(&marker, "revision"), number(&marker, "rows"))).collect()
}

fn as_told(expected: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
    expected.iter().map(|&(hour, revision, rows)| (hour.to_string(), revision, rows)).collect()
}

/// Rows in the objects of each hour, counted without siltstone.
fn counted(trial: &Trial, topic: &Topic) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for row in trial.archive().rows(&topic.name) {
        let time = row["time"].as_i64().expect("a time");
        *rows.entry(format!("{:02}", (time / HOUR_MS) % 24)).or_default() += 1;
    }
    rows
}

/// Goal: `run --drain` completes what is over; late data makes the next revision of its hour alone; nothing new makes nothing. `status` tells all of it, and
/// `verify` takes no marker for a stranger. Method: on a folder and on the S3 server.
#[test]
fn a_drain_completes_what_is_over_and_late_data_completes_it_again() {
    for trial in [Trial::on_disk, Trial::on_s3] {
        let topic = Topic::create(2);
        topic.send_all((0..60).map(|id| of_hour(id, id as i64 % 3, (id % 2) as i32)));
        let trial = trial(&topic).with(ARCHIVE);
        trial.drain().expect(0);
        let first = as_told(&[("08", 1, 20), ("09", 1, 20), ("10", 1, 20)]);
        assert_eq!(told(&trial), first);
        let covered = &markers(&trial)["08"]["covered"];
        assert_eq!(covered, &serde_json::json!({"0": [0, 30], "1": [0, 30]}));
        trial.drain().expect(0);
        assert_eq!(told(&trial), first);
        topic.send_all((60..64).map(|id| of_hour(id, 1, 0)));
        trial.drain().expect(0).says(&["late or backfilled data", "revision=2"]);
        assert_eq!(told(&trial), as_told(&[("08", 1, 20), ("09", 2, 24), ("10", 1, 20)]));
        assert_eq!(counted(&trial, &topic)["09"], 24);
        trial.command("status", &[]).expect(0).prints(&["complete until", "hr=09", "open folders: 0"]);
        let status = trial.command("status", &["--json", "--topic", &topic.name]).expect(0);
        let lines: Vec<Value> = status.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let revisions: Vec<_> = lines.iter().filter(|line| line["kind"] == "complete").collect();
        assert_eq!((lines.len(), revisions.len(), &revisions[3]["revision"]), (5, 4, &serde_json::json!(2)));
        trial.command("verify", &["--deep"]).expect(0);
    }
}

/// Goal: rows that a backfill archives into a complete hour make its next revision.
#[test]
fn a_backfill_into_a_complete_hour_completes_it_again() {
    let topic = Topic::create(1);
    topic.send_all((0..20).map(|id| of_hour(id, 0, 0)));
    let mut trial = Trial::on_disk(&topic).with(ARCHIVE);
    trial.kafka = "start = \"latest\"".to_string();
    trial.drain().expect(0);
    topic.send_all((20..30).map(|id| of_hour(id, 0, 0)));
    trial.drain().expect(0);
    assert_eq!(told(&trial), as_told(&[("08", 1, 10)]));
    trial.command("backfill", &["--topic", &topic.name, "--from-offset", "0"]).expect(0);
    assert_eq!(told(&trial), as_told(&[("08", 1, 10)]));
    for _ in 0..2 {
        trial.drain().expect(0);
        assert_eq!(told(&trial), as_told(&[("08", 2, 30)]));
    }
    assert_eq!(counted(&trial, &topic)["08"], 30);
    assert!(!trial.archive().objects.keys().any(|key| key.contains("/recount/")), "what was asked is answered");
    trial.command("verify", &["--deep"]).expect(0);
}

/// Goal: hours that are not over are not complete: neither by a record of 2099, nor while a Kafka partition has more to read, nor where somebody has set the
/// committed offset; and a marker of Hadoop's gives way.
#[test]
fn what_is_not_over_or_not_known_is_not_complete() {
    let topic = Topic::create(1);
    let now_ms = SystemClock::new().wall_ms();
    let ahead = (now_ms - BASE_MS) / HOUR_MS;
    let far = chrono::DateTime::parse_from_rfc3339("2099-01-01T00:00:00Z").expect("a time").timestamp_millis();
    let hour = |offset_ms: i64| format!("{:02}", (offset_ms / HOUR_MS) % 24);
    topic.send_all([of_hour(0, ahead - 2, 0), of_hour(1, ahead, 0)]);
    topic.send(Shape::of(format!(r#"{{"id":2,"time":{far}}}"#)).at(now_ms));
    let trial = Trial::on_disk(&topic).with(ARCHIVE);
    trial.put(&format!("{}/dt=2025-11-21/hr=08/_SUCCESS", topic.name), Vec::new());
    trial.drain().expect(0);
    let told = told_but_hadoops(&trial);
    assert_eq!(told, [(hour(now_ms - 2 * HOUR_MS), 1, 1)]);
    trial.command("status", &[]).expect(0).prints(&["open folders: 2", "2099", "waits"]);
    crate::support::kafka::commit(&trial.group, &topic, 0, 3, "");
    trial.command("status", &[]).expect(0).prints(&["holds everything back", "somebody else set"]);
}

fn told_but_hadoops(trial: &Trial) -> Vec<(String, u64, u64)> {
    let archive = trial.archive();
    let ours = archive.objects.iter().filter(|(key, bytes)| key.ends_with("/_SUCCESS") && !bytes.is_empty());
    let read = |(key, bytes): (&String, &Vec<u8>)| {
        let marker: Value = serde_json::from_slice(bytes).expect("JSON");
        let hour = key.split("hr=").nth(1).expect("an hour").split('/').next().expect("its digits");
        let number = |key: &str| marker[key].as_u64().expect("a number");
        (hour.to_string(), number("revision"), number("rows"))
    };
    ours.map(read).collect()
}

/// Goal: wherever a process dies that completes, the next one ends with the same markers and revisions.
#[test]
fn completing_that_is_aborted_at_any_effect_is_finished() {
    let topic = Topic::create(1);
    topic.send_all((0..20).map(|id| of_hour(id, id as i64 % 2, 0)));
    let trial = Trial::on_disk(&topic).with(ARCHIVE);
    trial.drain().expect(0);
    topic.send_all((20..24).map(|id| of_hour(id, 0, 0)));
    // The late ones are archived, and nothing is completed of them yet.
    let path = trial.dir().join("effects");
    let late =
        |failpoint: &str| trial.start_in(&[("SILTSTONE_FAILPOINT", failpoint)], "run", &["--drain"]).wait(DEADLINE);
    assert_eq!(late("completed-put:before:1").signal, Some(SIGABRT));
    let bare = trial.archive().objects;
    assert_eq!(told(&trial), as_told(&[("08", 1, 10), ("09", 1, 10)]));
    let restore = |without: &BTreeSet<&str>| {
        let is_meant = |key: &str| !without.iter().any(|part| key.contains(part));
        let now = trial.archive().objects;
        now.keys().filter(|key| !bare.contains_key(*key) || !is_meant(key)).for_each(|key| trial.remove(key));
        bare.iter().filter(|(key, bytes)| is_meant(key) && now.get(*key) != Some(bytes)).for_each(|(key, bytes)| {
            trial.put(key, bytes.clone());
        });
    };
    // Once with what was completed before, and once as if nothing was.
    let nothing = BTreeSet::from(["_SUCCESS", "_siltstone/complete"]);
    for (without, expected) in
        [(BTreeSet::new(), [("08", 2, 14), ("09", 1, 10)]), (nothing, [("08", 1, 14), ("09", 1, 10)])]
    {
        restore(&without);
        drop(std::fs::remove_file(&path));
        let counted = trial.start_in(&[("SILTSTONE_EFFECTS", path.to_str().expect("UTF-8"))], "run", &["--drain"]);
        counted.wait(DEADLINE).expect(0);
        assert_eq!(told(&trial), as_told(&expected));
        let end = bare_of_time(trial.archive().objects);
        let text = std::fs::read_to_string(&path).expect("effects");
        let mut counts: BTreeMap<Effect, u64> = BTreeMap::new();
        for effect in OF_COMPLETING {
            let count = text.lines().filter(|name| *name == effect.name()).count() as u64;
            counts.extend((count > 0).then_some((effect, count)));
        }
        let replaces = without.is_empty();
        assert_eq!(
            (counts.contains_key(&Effect::MarkerReplace), counts.contains_key(&Effect::MarkerPut)),
            (replaces, !replaces)
        );
        for (effect, count) in counts {
            for time in BTreeSet::from([1, count]) {
                for side in ["before", "after"] {
                    restore(&without);
                    let failpoint = format!("{}:{side}:{time}", effect.name());
                    let aborted = late(&failpoint);
                    assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
                    trial.drain().expect(0);
                    let now = bare_of_time(trial.archive().objects);
                    let differs = |key: &&String| now.get(*key) != end.get(*key) && !key.ends_with("progress.json");
                    let differing: Vec<_> = end.keys().chain(now.keys()).filter(differs).collect();
                    assert!(differing.is_empty(), "{failpoint}: {differing:?}");
                }
            }
        }
    }
}

/// Without what tells the time of day at which a folder was completed: how far idle Kafka partitions were past.
fn bare_of_time(mut objects: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    for (_, bytes) in objects.iter_mut().filter(|(key, _)| key.ends_with("/_SUCCESS") || key.contains("/complete/v1/"))
    {
        let mut document: Value = serde_json::from_slice(bytes).expect("JSON");
        document.as_object_mut().expect("a document").remove("watermark_ms");
        *bytes = document.to_string().into_bytes();
    }
    objects
}

/// Goal: of two processes one completes, and when it is killed the other one does. Method: Kafka partition 0 moves to the one that is left.
#[test]
fn another_process_completes_when_the_one_that_did_is_killed() {
    let topic = Topic::create(2);
    let mut trial = Trial::on_disk(&topic).with(ARCHIVE);
    trial.rotate = "age = \"1s\"".to_string();
    trial.kafka = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    topic.send_all((0..20).map(|id| of_hour(id, 0, (id % 2) as i32)));
    let mut one = trial.start(&[]);
    until("the first hour is complete", DEADLINE, || (!markers(&trial).is_empty()).then_some(()));
    assert_eq!(told(&trial), as_told(&[("08", 1, 20)]));
    let mut other = trial.start(&[]);
    other.until_says("partition taken over");
    let completes = |running: &Running| running.err().lines().any(|line| line.contains("folder complete"));
    assert!(completes(&one) && one.is_running());
    let killed = [&one, &other].into_iter().find(|running| holds_first(running, &topic)).expect("one of them holds it");
    killed.signal(Signal::KILL);
    topic.send_all((20..40).map(|id| of_hour(id, 1, (id % 2) as i32)));
    topic.send(of_hour(40, 0, 1));
    let expected = as_told(&[("08", 2, 21), ("09", 1, 20)]);
    until("the other one completes", 2 * DEADLINE, || (told(&trial) == expected).then_some(()));
    assert_eq!(counted(&trial, &topic), BTreeMap::from([("08".to_string(), 21), ("09".to_string(), 20)]));
    for running in [one, other] {
        // The one that was killed is gone already.
        drop(running.stop());
    }
}

/// Whether it was the last one that took Kafka partition 0 over, as far as it says.
fn holds_first(running: &Running, topic: &Topic) -> bool {
    let name = format!("partition={}/0", topic.name);
    let said = running.err();
    let mut told = said.lines().filter(|line| line.contains(&name));
    let last = told.rfind(|line| line.contains("taken over") || line.contains("revoked"));
    last.is_some_and(|line| line.contains("taken over"))
}
