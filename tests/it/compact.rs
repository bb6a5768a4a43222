//! Small objects made large: no row is another afterwards, whoever is killed, and everything that reads or verifies follows.

use crate::support::DEADLINE;
use crate::support::archive::Archive;
use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic, good};
use crate::support::process::Ended;
use serde_json::{Value, json};
use siltstone::effect::{Effect, Place};
use std::collections::{BTreeMap, BTreeSet};

const SIGABRT: i32 = 6;

/// Effects that only compactions have: the scenes of [`crate::failpoints`] have all others.
pub(crate) const EFFECTS: [Effect; 8] = [
    Effect::CompactionClaim,
    Effect::CompactionReceipt,
    Effect::CompactionEnd,
    Effect::CompactionUndo,
    Effect::InputsDelete,
    Effect::CompactedDelete,
    Effect::InputAppend,
    Effect::InputRemove,
];

/// JSON lines, Parquet and whole records.
const OUTPUTS: &str = "decode = { type = \"json\" }\n\
    [[archive.output]]\nname = \"json\"\nformat = { type = \"json\", compression = \"gzip\" }\ndestination = \"main\"\n\
    layout = { path = \"json/{topic}/hr=%H\" }\n\
    [[archive.output]]\nname = \"parquet\"\nformat = { type = \"parquet\", schema = \"infer\" }\ndestination = \"main\"\n\
    layout = { path = \"parquet/{topic}/hr=%H\" }\n\
    [[archive.output]]\nname = \"envelope\"\nformat = { type = \"envelope\" }\ndestination = \"main\"\n\
    layout = { path = \"envelope/{topic}/hr=%H\" }\n";
const NAMES: [&str; 3] = ["json", "parquet", "envelope"];

/// Compacts all that is there: of the tests nothing is on its way any more.
fn compact(trial: &Trial, arguments: &[&str]) -> Ended {
    compact_in(trial, &[], arguments)
}

fn compact_in(trial: &Trial, environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let mut all = vec!["--before", "0s", "--min-age", "0s", "--json"];
    all.extend_from_slice(arguments);
    trial.start_in(environment, "compact", &all).wait(DEADLINE)
}

fn summary(ended: &Ended) -> Value {
    serde_json::from_str(ended.out.lines().last().expect("a line")).expect("JSON")
}

/// What `cat` prints of each output.
fn printed(trial: &Trial, topic: &Topic, names: &[&str]) -> Vec<String> {
    let print = |name: &&str| {
        let arguments = ["--topic", topic.name.as_str(), "--output", name, "--order", "offset"];
        trial.command("cat", &arguments).expect(0).out
    };
    names.iter().map(print).collect()
}

/// Kinds and keys of what `verify --deep` finds, and whether it says that all is complete.
fn verified(trial: &Trial) -> (Vec<(String, String)>, bool) {
    let ended = trial.command("verify", &["--deep", "--json"]);
    let lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let complete = lines.last().expect("a summary")["complete"] == true;
    let findings = lines.iter().filter(|line| !matches!(line["kind"].as_str(), Some("note" | "summary")));
    let text = |of: &Value| of.as_str().unwrap_or_default().to_string();
    (findings.map(|found| (text(&found["kind"]), text(&found["key"]))).collect(), complete)
}

#[track_caller]
fn assert_complete(trial: &Trial, what: &str) {
    assert_eq!(verified(trial), (Vec::new(), true), "{what}");
}

fn data(archive: &Archive) -> BTreeSet<String> {
    archive.data_keys().into_iter().map(str::to_string).collect()
}

/// An archive of many small objects, all of one hour.
fn archived(topic: &Topic, partitions: u32, trial: Trial) -> Trial {
    let trial = trial.with(OUTPUTS);
    for part in 0..6 {
        let shape = |id: u64| {
            let at = BASE_MS + i64::try_from(id).expect("few") * 1_000;
            Shape { partition: i32::try_from(id % u64::from(partitions)).expect("few"), ..good(id).at(at) }
        };
        topic.send_all((part * 500..(part + 1) * 500).map(shape));
        trial.drained(topic);
    }
    trial
}

/// Goal: on S3, the archive reads the same before and afterwards, by `cat` and by readers that share nothing with it; verify, find and ls follow;
/// and an old object that comes back is found and swept.
#[test]
fn a_compacted_archive_reads_the_same_and_is_complete() {
    let topic = Topic::create(3);
    let trial = archived(&topic, 3, Trial::on_s3(&topic));
    let before = (printed(&trial, &topic, &NAMES), trial.archive());
    let done = summary(&compact(&trial, &[]).expect(0));
    assert_eq!((&done["stopped"], &done["left"]), (&json!(0), &json!(0)), "{done}");
    let after = trial.archive();
    let (old, new) = (data(&before.1), data(&after));
    assert!(old.len() >= 6 * 9, "six batches of three partitions and outputs: {old:?}");
    assert_eq!((new.len(), &done["inputs"]), (9, &json!(old.len())), "{new:?}");
    assert_eq!(printed(&trial, &topic, &NAMES), before.0);
    assert_eq!(after.ids("json/"), (0..3_000).collect::<Vec<_>>());
    for prefix in ["parquet/", "envelope/"] {
        let sorted = |archive: &Archive| {
            let mut rows: Vec<String> = archive.parquet(prefix).iter().map(Value::to_string).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(sorted(&after), sorted(&before.1), "{prefix}");
        assert_eq!(after.parquet(prefix).len(), 3_000);
    }
    assert_complete(&trial, "compacted");
    let found = trial.command("find", &[&format!("{}/1/456", topic.name), "--json"]).expect(0);
    let found: Value = serde_json::from_str(found.out.trim()).expect("JSON");
    for output in found["outputs"].as_array().expect("outputs") {
        let objects = output["objects"].as_array().expect("objects");
        assert!(objects.len() == 1 && new.contains(objects[0]["key"].as_str().expect("a key")), "{output}");
    }
    let listed = trial.command("ls", &["--json"]).expect(0);
    assert_eq!(listed.out.lines().count(), 10, "{}", listed.out);
    let back = old.first().expect("an old object");
    trial.put(back, before.1.objects[back].clone());
    assert_eq!(verified(&trial), (vec![("returned".to_string(), back.clone())], false));
    assert_eq!(summary(&compact(&trial, &["--sweep"]).expect(0))["deleted"], 1);
    assert_complete(&trial, "swept");
    // The group goes on, and a backfill has nothing to do.
    topic.send_good(3_000, 300, 3);
    trial.drain().expect(0);
    let backfill = trial.command("backfill", &["--topic", &topic.name, "--to-offset", "1000", "--json"]).expect(0);
    assert!(backfill.out.contains("\"skipped\":3000"), "{}", backfill.out);
    assert_complete(&trial, "gone on");
    assert_eq!(trial.archive().ids("json/"), (0..3_300).collect::<Vec<_>>());
}

/// Goal: JSON lines become Parquet whose rows are those of the lines.
#[test]
fn json_lines_become_parquet() {
    let topic = Topic::create(1);
    let trial = archived(&topic, 1, Trial::on_disk(&topic));
    let rows = |rows: Vec<Value>| {
        let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
        rows.sort_unstable();
        rows
    };
    let before = rows(trial.archive().rows("json/"));
    let done = summary(&compact(&trial, &["--to", "parquet", "--output", "json"]).expect(0));
    assert_eq!((&done["objects"], &done["left"]), (&json!(1), &json!(0)), "{done}");
    let archive = trial.archive();
    assert_eq!(archive.rows("json/").len(), 0);
    let after = archive.parquet("json/");
    assert_eq!(after.len(), 3_000);
    let ids: BTreeSet<u64> = after.iter().filter_map(|row| row["id"].as_u64()).collect();
    assert_eq!(ids, (0..3_000).collect());
    assert_complete(&trial, "Parquet");
    let printed: Vec<Value> = trial
        .command("cat", &["--topic", &topic.name, "--output", "json"])
        .expect(0)
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(rows(printed), before);
}

/// Goal: what was written a moment ago stays as it is; a compaction is taken back only when that is said twice, and then the old objects count.
#[test]
fn young_objects_stay_and_a_compaction_can_be_taken_back() {
    let topic = Topic::create(1);
    topic.send_all((0..400).map(|id| good(id).at(BASE_MS)));
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 100".to_string();
    let trial = trial.with(OUTPUTS);
    let before = trial.drained(&topic).objects;
    let young = trial.command("compact", &["--before", "0s", "--json"]).expect(0);
    assert_eq!(summary(&young)["compactions"], 0, "written a moment ago: {}", young.out);
    compact(&trial, &["--output", "json"]).expect(0);
    let compacted = data(&trial.archive());
    let key = compacted.iter().find(|key| key.contains("+compact-1")).expect("it").clone();
    // The compacted object is lost.
    trial.remove(&key);
    assert_eq!(verified(&trial), (vec![("missing".to_string(), key.clone())], false));
    trial.command("compact", &["--undo", &key]).expect(0).prints(&["would be taken back", "--yes"]);
    assert_eq!(verified(&trial).0.len(), 1);
    trial.command("compact", &["--undo", &key, "--yes"]).expect(0);
    let (missing, _) = verified(&trial);
    let old = before.keys().filter(|key| key.starts_with("json/")).count();
    assert!(old > 1 && missing.len() == old, "{old}: {missing:?}");
    for (kind, key) in missing {
        assert_eq!(kind, "missing");
        trial.put(&key, before[&key].clone());
    }
    assert_complete(&trial, "restored");
    assert_eq!(trial.archive().ids("json/"), (0..400).collect::<Vec<_>>());
    let again = summary(&compact(&trial, &["--output", "json"]).expect(0));
    assert_eq!(again["compactions"], 1);
    assert!(data(&trial.archive()).iter().any(|key| key.contains("+compact-3")));
    assert_complete(&trial, "compacted again");
}

/// Goal: of a batch some of whose objects were compacted, others are archived again; and after a compaction is taken back its old objects, while
/// what other compactions replaced stays replaced. Method: objects are deleted, and mended from Kafka.
#[test]
fn what_is_missing_beside_compacted_objects_is_archived_again() {
    let topic = Topic::create(1);
    topic.send_all((0..400).map(|id| good(id).at(BASE_MS)));
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 100".to_string();
    let trial = trial.with(OUTPUTS);
    let before = trial.drained(&topic);
    let rows = printed(&trial, &topic, &NAMES);
    compact(&trial, &["--output", "json"]).expect(0);
    compact(&trial, &["--output", "envelope"]).expect(0);
    let compacted = data(&trial.archive());
    let of = |kind: &str| compacted.iter().find(|key| key.starts_with(kind)).expect("an object").clone();
    let mend = |code| trial.command("backfill", &["--topic", &topic.name, "--missing", "--json"]).expect(code);
    let beside = of("parquet/");
    trial.remove(&beside);
    assert_eq!(verified(&trial), (vec![("missing".to_string(), beside.clone())], false));
    mend(0);
    assert_complete(&trial, "archived again");
    let now = trial.archive();
    assert_eq!(data(&now), compacted, "what was replaced does not come back");
    assert_eq!(now.objects[&beside], before.objects[&beside]);
    assert_eq!(printed(&trial, &topic, &NAMES), rows);
    // A compacted object is lost, and is taken back: only its own inputs are archived again.
    let lost = of("json/");
    trial.remove(&lost);
    mend(8);
    assert_eq!(verified(&trial), (vec![("missing".to_string(), lost.clone())], false), "no batch makes it");
    trial.command("compact", &["--undo", &lost, "--yes"]).expect(0);
    mend(0);
    assert_complete(&trial, "taken back");
    assert_eq!(printed(&trial, &topic, &NAMES), rows);
    let old = |archive: &Archive, kind: &str| {
        data(archive).into_iter().filter(|key| key.starts_with(kind)).collect::<Vec<_>>()
    };
    let now = trial.archive();
    assert_eq!((old(&now, "json/"), old(&now, "envelope/").len()), (old(&before, "json/"), 1));
    // A batch of which only the compacted object knows is not archived beside it, and keeps nothing else from being mended.
    let receipt = format!("_siltstone/receipts/v1/{}/00000/{:020}.json", topic.name, 100);
    let advice = ["holds rows of the batch [100, ", &receipt, "siltstone compact --undo"];
    trial.remove(&receipt);
    trial.remove(&beside);
    mend(8).prints(&advice);
    assert_eq!(data(&trial.archive()), data(&now), "only what else was missing is put");
    let named = ["--topic", &topic.name, "--from-offset", "100", "--to-offset", "101", "--json"];
    let refused = trial.command("backfill", &named).expect(5).says(&advice);
    trial.command("backfill", &["--topic", &topic.name, "--cancel", "--job", &job_of(&refused)]).expect(0);
    assert_eq!(data(&trial.archive()), data(&now), "nothing is put");
    trial.put(&receipt, now.objects[&receipt].clone());
    assert_complete(&trial, "its receipt is back");
}

/// The job that a backfill announced.
fn job_of(ended: &Ended) -> String {
    let events = crate::missing::events(ended);
    events["job"]["job"]["name"].as_str().expect("a name").to_string()
}

/// Goal: a compaction that is aborted at any effect, inside its process too, is finished by the same command, and nobody sees a row twice or not at all
/// meanwhile. Method: as in [`crate::failpoints`]; each abort begins with the same bare archive.
#[test]
fn a_compaction_that_is_aborted_at_any_effect_is_finished() {
    let topic = Topic::create(1);
    topic.send_all((0..400).map(|id| good(id).at(BASE_MS)));
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 100".to_string();
    let trial = trial.with(OUTPUTS);
    trial.drained(&topic);
    let bare = trial.archive().objects;
    let restore = || {
        let now = trial.archive().objects;
        now.keys().filter(|key| !bare.contains_key(*key)).for_each(|key| trial.remove(key));
        let gone = bare.iter().filter(|(key, bytes)| now.get(*key) != Some(bytes));
        gone.for_each(|(key, bytes)| trial.put(key, bytes.clone()));
    };
    let before = printed(&trial, &topic, &NAMES);
    let path = trial.dir().join("effects");
    compact_in(&trial, &[("SILTSTONE_EFFECTS", path.to_str().expect("UTF-8"))], &[]).expect(0);
    let end = data(&trial.archive());
    assert_eq!(end.len(), 3);
    let mut counted: BTreeMap<Effect, u64> = BTreeMap::new();
    for name in std::fs::read_to_string(&path).expect("effects").lines() {
        let effect = Effect::ALL.iter().find(|effect| effect.name() == name).expect("a known effect");
        *counted.entry(*effect).or_default() += 1;
    }
    let undo = [Effect::CompactionUndo, Effect::CompactedDelete];
    for effect in EFFECTS.iter().filter(|effect| !undo.contains(effect)) {
        assert!(counted.contains_key(effect), "{effect:?}: {counted:?}");
    }
    let meant = |effect: &Effect| effect.place() == Place::Store || EFFECTS.contains(effect);
    for (effect, count) in counted.into_iter().filter(|(effect, _)| meant(effect)) {
        for time in BTreeSet::from([1, count]) {
            for side in ["before", "after"] {
                restore();
                let failpoint = format!("{}:{side}:{time}", effect.name());
                let aborted = compact_in(&trial, &[("SILTSTONE_FAILPOINT", &failpoint)], &[]);
                assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
                assert_eq!(printed(&trial, &topic, &NAMES), before, "{failpoint}");
                assert_complete(&trial, &failpoint);
                compact(&trial, &[]).expect(0);
                assert_eq!(
                    (printed(&trial, &topic, &NAMES), data(&trial.archive())),
                    (before.clone(), end.clone()),
                    "{failpoint}"
                );
                assert_complete(&trial, &failpoint);
            }
        }
    }
    restore();
    compact(&trial, &[]).expect(0);
    let unit = end.first().expect("an object").clone();
    for effect in undo {
        // Nothing is deleted unless the old objects are there.
        let now = trial.archive().objects;
        let gone = bare.iter().filter(|(key, _)| !now.contains_key(*key));
        gone.for_each(|(key, bytes)| trial.put(key, bytes.clone()));
        let failpoint = format!("{}:after:1", effect.name());
        // Nobody else is at it, so that nothing has to rest before it is deleted.
        let arguments = ["--undo", unit.as_str(), "--yes", "--min-age", "0s"];
        let aborted = trial.start_in(&[("SILTSTONE_FAILPOINT", &failpoint)], "compact", &arguments).wait(DEADLINE);
        assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
        restore();
        compact(&trial, &[]).expect(0);
    }
}
