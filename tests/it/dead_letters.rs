//! Dead letters of the real pipeline, replayed by the real binary: after a fix each record is in each output once, whoever replays it,
//! how often, side by side, and wherever one is aborted. What still is no row stays.

use crate::support::archive::{Archive, assert_object, counts, unpacked};
use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic};
use crate::support::process::{Ended, Running};
use crate::support::{DEADLINE, Stopwatch};
use serde_json::Value;
use siltstone::effect::{Effect, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

const SIGABRT: i32 = 6;

const OUTPUTS: &str = "[[archive.output]]\nformat = \"json\"\nlayout = { path = \"json/{topic}/hr=%H\" }\n\
    [[archive.output]]\nformat = { type = \"parquet\", schema = [{ name = \"id\", type = \"INT64\", mode = \"REQUIRED\" }] }\n\
    layout = { path = \"parquet/{topic}/hr=%H\" }\n\
    [[archive.output]]\nformat = \"raw\"\nlayout = { path = \"raw/{topic}\" }\n";

/// The time stands in `when`; where it is looked for in `time`, all but one in five records are dead letters.
fn records() -> Vec<Shape> {
    let record = |id: u64| {
        let (ms, field) = (BASE_MS + id as i64 * 60_000, if id.is_multiple_of(5) { "time" } else { "when" });
        Shape::of(format!(r#"{{"id":{id},"{field}":{ms}}}"#)).at(ms).header("trace", Some(b"\xff")).keyed(Some(b"key"))
    };
    (0..100).map(record).collect()
}

fn looks_for(field: &str) -> String {
    format!("timestamp = {{ field = \"{field}\", unit = \"ms\", fallback = \"dead_letter\" }}\n{OUTPUTS}")
}

/// Looks for the time in either field.
fn mended() -> String {
    format!("transform = '''\n.time = .time || .when\ndel(.when)\n'''\n{}", looks_for("time"))
}

/// `siltstone dead-letters COMMAND -c … ARGUMENTS`.
fn start(trial: &Trial, environment: &[(&str, &str)], command: &str, arguments: &[&str]) -> Running {
    let config = trial.write();
    let mut all = vec!["dead-letters", command, "-c", &config];
    all.extend_from_slice(arguments);
    Running::start(&all, environment)
}

#[track_caller]
fn dead_letters(trial: &Trial, command: &str, arguments: &[&str]) -> Ended {
    start(trial, &[], command, arguments).wait(DEADLINE)
}

/// The last line of a replay with `--json`.
#[track_caller]
fn balance(ended: &Ended) -> Value {
    serde_json::from_str(ended.out.lines().last().expect("a balance")).expect("JSON")
}

/// Replayed, already replayed and still failing in an output.
#[track_caller]
fn replayed(trial: &Trial, output: &str, arguments: &[&str]) -> (u64, u64, u64) {
    let mut all = vec!["--json"];
    all.extend_from_slice(arguments);
    let found = balance(&dead_letters(trial, "replay", &all).expect(0));
    let of = |key: &str| found["outputs"][output][key].as_u64().unwrap_or(0);
    (of("replayed"), of("already"), of("failing"))
}

/// Every id once in both outputs of rows, and receipts and objects name each other.
#[track_caller]
fn assert_all_there(archive: &Archive, ids: &[u64], why: &str) {
    assert_eq!(archive.ids("json/"), ids, "{why}: ids of the JSON output");
    let rows = archive.parquet("parquet/");
    let mut found: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().expect("an id")).collect();
    found.sort_unstable();
    assert_eq!(found, ids, "{why}: ids of the Parquet output");
    let replays = archive.objects.iter().filter(|(key, _)| key.starts_with("_siltstone/replays/v1/"));
    let (mut claims, mut receipts) = (BTreeSet::new(), archive.receipts());
    for (key, bytes) in replays {
        // What is neither was half written by a process that is dead, and is hidden.
        if let Some(claim) = key.strip_suffix(".claim") {
            claims.insert(claim.to_string());
        } else if key.ends_with(".json") {
            receipts.push(serde_json::from_slice(bytes).expect("JSON"));
        }
    }
    for claim in claims {
        assert!(archive.objects.contains_key(&format!("{claim}.json")), "{why}: {claim} has no receipt");
    }
    let mut named = BTreeSet::new();
    for object in receipts.iter().flat_map(|receipt| receipt["objects"].as_array().expect("objects")) {
        let key = object["key"].as_str().expect("a key");
        assert_object(object, archive.objects.get(key).unwrap_or_else(|| panic!("{why}: {key} is not there")));
        assert!(named.insert(key), "{why}: {key} is named twice");
    }
    let hidden = |key: &&str| key.rsplit('/').next().is_some_and(|name| name.starts_with(".siltstone-"));
    let there: BTreeSet<&str> = archive.data_keys().into_iter().filter(|key| !hidden(key)).collect();
    assert_eq!(named, there, "{why}: objects that receipts name, and objects that are there");
}

#[test]
fn what_a_fix_makes_rows_of_is_written_once() {
    let topic = Topic::create(2);
    let mut all = records();
    for shape in &mut all[50..] {
        shape.partition = 1;
    }
    all.push(Shape::of("{broken"));
    topic.send_all(all);
    let mut trial = Trial::on_disk(&topic).with(&looks_for("time"));
    let archive = trial.drained(&topic);
    assert_eq!((archive.counts("json"), archive.counts("raw")), (counts(20, 81, 0), counts(101, 0, 0)));
    let untouched = archive.objects;

    let listed = dead_letters(&trial, "list", &[]).expect(0);
    listed.prints(&["letters", "_dead/", "81 dead letters in 2 objects, 0 of them replayed"]);
    let lines = dead_letters(&trial, "list", &["--json", "--reasons", "--partition", "0"]).expect(0).out;
    let line: Value = serde_json::from_str(lines.trim()).expect("one object");
    assert_eq!((line["letters"].as_u64(), line["replayed"].as_u64()), (Some(41), Some(0)), "{line}");
    let stages: BTreeMap<&str, u64> =
        line["reasons"].as_array().unwrap().iter().fold(BTreeMap::new(), |mut sum, of| {
            *sum.entry(of["stage"].as_str().unwrap()).or_default() += of["letters"].as_u64().unwrap();
            sum
        });
    assert_eq!(stages, BTreeMap::from([("decode", 1), ("timestamp", 40)]));

    let shown = dead_letters(&trial, "show", &["-n", "1", "--partition", "1"]).expect(0);
    shown.prints(&[
        "offset 1 ",
        "timestamp",
        "missing in json, parquet",
        "key        key",
        "header     trace: base64 /w==",
        r#"{"id":51,"#,
    ]);
    let shown = dead_letters(&trial, "show", &["--json", "--stage", "decode"]).expect(0).out;
    let shown: Value = serde_json::from_str(shown.trim()).expect("one dead letter");
    assert_eq!((shown["value"].as_str(), shown["offset"].as_i64()), (Some("{broken"), Some(50)), "{shown}");
    let raw = dead_letters(&trial, "show", &["--raw", "--partition", "0", "--offset", "50"]).expect(0);
    assert_eq!(raw.out, "{broken");
    dead_letters(&trial, "show", &["--raw"]).expect(2).says(&["more than one record is meant", "--offset"]);
    dead_letters(&trial, "show", &["--raw", "--offset", "5000"]).expect(3).says(&["no such dead letter"]);

    assert_eq!(replayed(&trial, "json", &[]), (0, 0, 81), "nothing is mended yet");
    trial.archive = mended();
    let dry = dead_letters(&trial, "replay", &["--dry-run"]).expect(0);
    dry.prints(&["40 dead letters would be written as replay 1", "81 dead letters read", "still failing at decode"]);
    assert_eq!(trial.archive().objects, untouched, "so far nothing was written");

    assert_eq!(replayed(&trial, "json", &["--limit", "7"]), (7, 0, 0));
    assert_eq!(replayed(&trial, "parquet", &["--topic", &topic.name, "--partition", "0,1"]), (73, 7, 1));
    let ids: Vec<u64> = (0..100).collect();
    let archive = trial.archive();
    assert_all_there(&archive, &ids, "replayed");
    assert!(
        untouched.iter().all(|(key, bytes)| archive.objects.get(key) == Some(bytes)),
        "what was there is as it was"
    );
    let raw: usize = archive
        .data_keys()
        .iter()
        .filter(|key| key.starts_with("raw/"))
        .map(|key| unpacked(&archive.objects[*key]).iter().filter(|byte| **byte == b'\n').count())
        .sum();
    assert_eq!(raw, 101, "nothing was missing in the raw output");
    let end = |key: &str| key.starts_with("json/") && key.ends_with("+replay-1.json.gz");
    assert!(archive.data_keys().into_iter().any(end), "{:?}", archive.data_keys());

    assert_eq!(replayed(&trial, "json", &[]), (0, 80, 1));
    assert_eq!(trial.archive().objects, archive.objects, "a second replay writes nothing");
    dead_letters(&trial, "list", &[]).expect(0).prints(&["81 dead letters in 2 objects, 80 of them replayed"]);
    // The archive itself goes on.
    topic.send_all([Shape::of(format!(r#"{{"id":100,"when":{BASE_MS}}}"#))]);
    trial.drain().expect(0);
    assert_all_there(&trial.archive(), &(0..=100).collect::<Vec<_>>(), "archived after the replay");
}

#[test]
fn only_the_refused_row_of_a_record_is_written() {
    let topic = Topic::create(1);
    topic.send_all((0..20_u64).map(|id| {
        let (first, second) = (id * 3, id * 3 + 1);
        Shape::of(format!(r#"[{{"id":{first}}},{{"id":"{second}"}},{{"id":{}}}]"#, id * 3 + 2)).at(BASE_MS)
    }));
    let with = |function: &str| {
        format!("decode = {{ type = \"json\", unfold = true }}\ntransform = '.id = {function}!(.id)'\n{OUTPUTS}")
    };
    let mut trial = Trial::on_disk(&topic).with(&with("int"));
    let archive = trial.drained(&topic);
    assert_eq!((archive.ids("json/").len(), archive.counts("json")), (40, counts(0, 20, 0)));
    // Another decoder numbers rows otherwise: none is written.
    trial.archive = format!("transform = '. = array!(.)'\n{OUTPUTS}");
    assert_eq!(replayed(&trial, "json", &[]), (0, 0, 20));
    trial.archive = with("to_int");
    assert_eq!(replayed(&trial, "json", &[]), (20, 0, 0));
    assert_all_there(&trial.archive(), &(0..60).collect::<Vec<_>>(), "replayed");
    assert_eq!(replayed(&trial, "json", &[]), (0, 20, 0));
}

/// Goal: of two processes that replay at the same time, each record is written once.
#[test]
fn two_replays_side_by_side() {
    let topic = Topic::create(1);
    topic.send_all(records());
    let mut trial = Trial::on_s3(&topic).with(&looks_for("time"));
    // Several batches, so that the two meet often.
    trial.rotate = "records = 10".to_string();
    trial.drained(&topic);
    trial.archive = mended();
    // Written once: the first one reads it while the second one starts.
    let config = trial.write();
    let replay = || Running::start(&["dead-letters", "replay", "-c", &config], &[]);
    let both = [replay(), replay()];
    both.into_iter().for_each(|one| drop(one.wait(DEADLINE).expect(0)));
    assert_all_there(&trial.archive(), &(0..100).collect::<Vec<_>>(), "by two");
}

#[test]
fn what_cannot_be_is_said() {
    let topic = Topic::create(1);
    topic.send_all([Shape::of("{broken")]);
    let mut trial = Trial::on_s3(&topic);
    trial.drained(&topic);
    dead_letters(&trial, "list", &["--archive", "other"]).expect(2).says(&["no archive \"other\"; there are it"]);
    let group = std::mem::replace(&mut trial.group, "other".to_string());
    dead_letters(&trial, "list", &[]).expect(5).says(&["belongs to group", &group]);
    trial.group = group;
    trial.destination.push_str("\nconditional_put = false");
    dead_letters(&trial, "list", &[]).expect(0).prints(&["1 dead letters in 1 objects"]);
    let refused = dead_letters(&trial, "replay", &[]).expect(2);
    refused.says(&["archive it", "conditional_put = false", "dead letters cannot be replayed into this archive"]);
    trial.destination = trial.destination.replace("\nconditional_put = false", "");
    let key = trial.archive().data_keys().iter().find(|key| key.starts_with("_dead/")).unwrap().to_string();
    trial.remove(&key);
    let gone = dead_letters(&trial, "replay", &[]).expect(5);
    gone.says(&["objects were left out", &key, "is not there"]);
}

/// Effects that only replays have: the scenes of [`crate::failpoints`] have all others.
pub(crate) const EFFECTS: [Effect; 2] = [Effect::ReplayClaim, Effect::ReplayReceipt];

/// Goal: a replay that is aborted at any effect is finished by the next one, with each id once. Method: as in [`crate::failpoints`]; an
/// archive with dead letters is replayed from the same state for each effect, before and after its first and its last time.
#[test]
fn a_replay_that_is_aborted_at_any_effect_is_finished() {
    let began = Stopwatch::start();
    let topic = Topic::create(1);
    topic.send_all(records());
    let mut aborts = 0;
    for on_disk in [true, false] {
        let trial = if on_disk { Trial::on_disk(&topic) } else { Trial::on_s3(&topic) };
        let mut trial = trial.with(&looks_for("time"));
        trial.rotate = "records = 50".to_string();
        let before = trial.drained(&topic).objects;
        trial.archive = mended();
        let restore = || {
            let now = trial.archive();
            now.objects.keys().filter(|key| !before.contains_key(*key)).for_each(|key| trial.remove(key));
        };
        let path = trial.dir().join("effects");
        let environment = [("SILTSTONE_EFFECTS", path.to_str().expect("UTF-8"))];
        start(&trial, &environment, "replay", &[]).wait(DEADLINE).expect(0);
        let ids: Vec<u64> = (0..100).collect();
        assert_all_there(&trial.archive(), &ids, "undisturbed");
        let mut counted: BTreeMap<Effect, u64> = BTreeMap::new();
        for name in std::fs::read_to_string(&path).expect("effects").lines() {
            let effect = Effect::ALL.iter().find(|effect| effect.name() == name).expect("a known effect");
            *counted.entry(*effect).or_default() += 1;
        }
        let needed = EFFECTS.iter().chain(&[Effect::LayoutPut, Effect::ObjectPut]);
        needed.for_each(|effect| assert!(counted.contains_key(effect), "{effect:?} is not among {counted:?}"));
        let outside = |effect: &Effect| on_disk || effect.place() == Place::Store;
        for (effect, count) in counted.into_iter().filter(|(effect, _)| outside(effect)) {
            for time in BTreeSet::from([1, count]) {
                for side in ["before", "after"] {
                    restore();
                    let failpoint = format!("{}:{side}:{time}", effect.name());
                    let aborted = start(&trial, &[("SILTSTONE_FAILPOINT", &failpoint)], "replay", &[]).wait(DEADLINE);
                    assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
                    dead_letters(&trial, "replay", &[]).expect(0);
                    assert_all_there(&trial.archive(), &ids, &failpoint);
                    assert_eq!(replayed(&trial, "json", &[]), (0, 80, 0), "{failpoint}");
                    aborts += 1;
                }
            }
        }
    }
    let told = writeln!(std::io::stderr(), "replays: {aborts} aborts, {} s", began.elapsed().as_secs());
    told.expect("standard error");
}
