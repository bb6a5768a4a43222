//! Archives that are proven complete, or told what they lack: against the bucket, and against the real Kafka.

use crate::support::archive::Archive;
use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic, good};
use crate::support::process::Ended;
use crate::support::{DEADLINE, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What `verify --json` prints: findings and notes, and the summary.
struct Told {
    findings: Vec<Value>,
    notes: Vec<Value>,
    summary: Value,
}

fn told(ended: &Ended) -> Told {
    let lines = ended.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut lines: Vec<Value> = lines.collect();
    let summary = lines.pop().expect("a summary");
    let (notes, findings) = lines.into_iter().partition(|line| line["kind"] == "note");
    Told { findings, notes, summary }
}

fn verify(trial: &Trial, arguments: &[&str]) -> Ended {
    trial.command("verify", &[&["--json"], arguments].concat())
}

/// Kinds of findings, with how many there are.
fn kinds(told: &Told) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for finding in &told.findings {
        *kinds.entry(finding["kind"].as_str().expect("a kind").to_string()).or_default() += 1;
    }
    kinds
}

/// Several batches of two Kafka partitions, as another archiver would have named them.
fn with_preset(preset: &str) -> (Topic, Trial) {
    let topic = Topic::create(2);
    topic.send_good(0, 2_000, 2);
    let layout = format!("layout = {{ preset = \"{preset}\" }}");
    let mut trial = Trial::on_s3(&topic).with(&format!(
        "timestamp = {{ field = \"time\" }}\n[[archive.output]]\nname = \"json\"\n{layout}\nkeep = [\"offset\"]\n\
         [[archive.output]]\nname = \"parquet\"\nformat = \"parquet\"\n{layout}\n"
    ));
    trial.rotate = "records = 300".to_string();
    (topic, trial)
}

fn ids(ended: &Ended) -> Vec<u64> {
    let of = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_u64().expect("an id");
    ended.out.lines().map(of).collect()
}

/// Goal: names that others chose are no hindrance: what is archived under them is listed, read, searched and verified, and what
/// such names cannot prove is said.
#[test]
fn archives_with_the_names_of_others_are_read_and_verified() {
    for preset in ["secor", "fluentd"] {
        let (topic, trial) = with_preset(preset);
        let before = trial.drained(&topic);
        let name = topic.name.as_str();
        let all = told(&verify(&trial, &["--deep", "--against-kafka"]).expect(0));
        assert!(all.summary["complete"] == true && all.findings.is_empty(), "{preset}: {:?}", all.findings);
        let objects = before.data_keys().len();
        assert_eq!(
            (all.summary["objects"].as_u64(), all.summary["read_back"].as_u64()),
            (Some(objects as u64), Some(objects as u64))
        );
        let says_names = all.notes.iter().any(|note| note["note"] == "names");
        assert_eq!(says_names, preset == "secor", "{:?}", all.notes);
        trial.command("verify", &[]).expect(0).prints(&["complete"]);

        let listed = trial.command("ls", &["--output", "json", "--json"]).expect(0);
        let total: Value = serde_json::from_str(listed.out.lines().last().expect("a total")).expect("JSON");
        assert_eq!(total["total"]["rows"], 2_000, "{preset}");
        for output in ["json", "parquet"] {
            let mut found = ids(&trial.command("cat", &["--topic", name, "--output", output]).expect(0));
            found.sort_unstable();
            assert_eq!(found, (0..2_000).collect::<Vec<_>>(), "{preset}, {output}");
        }
        // Event times are a minute apart and begin anew after four hours.
        let (since, until) = (BASE_MS + 3_600_000, BASE_MS + 3_600_000 + 300_000);
        let instant = |ms: i64| chrono::DateTime::from_timestamp_millis(ms).expect("a time").to_rfc3339();
        let times = ["--topic", name, "--output", "json", "--since", &instant(since), "--until", &instant(until)];
        let found: BTreeSet<u64> = ids(&trial.command("cat", &times).expect(0)).into_iter().collect();
        assert_eq!(found, (0..2_000).filter(|id| (60..65).contains(&(id % 240))).collect(), "{preset}");
        let range =
            ["--topic", name, "--output", "json", "--partition", "1", "--from-offset", "310", "--to-offset", "320"];
        let found = ids(&trial.command("cat", &range).expect(0));
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (310..320).map(|offset| offset * 2 + 1).collect());
        let found = trial.command("find", &[&format!("{name}/1/777"), "--json"]).expect(0);
        let found: Value = serde_json::from_str(&found.out).expect("JSON");
        assert!(found.to_string().contains("\"archived\""), "{found}");
        trial.command("find", &[&format!("{name}/1/1000")]).expect(1).prints(&["not archived yet"]);

        plant(preset, &trial, &before, name);
    }
}

/// An object is gone, one has other bytes, one is cut short, one is a stranger: each is told, and nothing else.
fn plant(preset: &str, trial: &Trial, before: &Archive, topic: &str) {
    let keys = before.data_keys();
    let mut lines = keys.iter().filter(|key| key.ends_with(".gz"));
    let (gone, cut) = (lines.next().expect("an object"), lines.next().expect("another"));
    let damaged = keys.iter().find(|key| key.ends_with(".parquet")).expect("one of Parquet");
    trial.remove(gone);
    let bytes = &before.objects[*cut];
    trial.put(cut, bytes[..bytes.len() - 1].to_vec());
    let mut bytes = before.objects[*damaged].clone();
    bytes[20] ^= 1;
    trial.put(damaged, bytes);
    let (folder, name) = damaged.rsplit_once('/').expect("a folder");
    let stranger = match preset {
        "secor" => format!("{folder}/1_1_00000000000000000007.parquet"),
        // One of another batch of that partition.
        _ => format!("{folder}/{}_{topic}_1_7-9.parquet", name.split_once('_').expect("a time").0),
    };
    trial.put(&stranger, b"?".to_vec());
    let shallow = told(&verify(trial, &[]).expect(8));
    let expected = |deep: bool| -> BTreeMap<String, usize> {
        let found = ["missing", "size", "unvouched"].into_iter().chain(deep.then_some("checksum"));
        found.map(|kind| (kind.to_string(), 1)).collect()
    };
    assert_eq!(kinds(&shallow), expected(false), "{preset}: {:?}", shallow.findings);
    let deep = told(&verify(trial, &["--deep"]).expect(8));
    assert_eq!(kinds(&deep), expected(true), "{preset}: {:?}", deep.findings);
    let of = |kind: &str| deep.findings.iter().find(|finding| finding["kind"] == kind).expect("told")["key"].clone();
    assert_eq!(
        (of("missing"), of("size"), of("checksum"), of("unvouched")),
        ((*gone).into(), (*cut).into(), (*damaged).into(), stranger.into())
    );
}

/// Goal: no false alarm where there are fewer records than offsets: transactions, committed, aborted and open, under both isolations.
#[test]
fn transactions_are_no_faults() {
    let topic = Topic::create(1);
    let mut trials = Vec::new();
    for isolation in ["read_committed", "read_uncommitted"] {
        let mut trial = Trial::on_disk(&topic);
        trial.kafka = format!("isolation = \"{isolation}\"");
        trial.rotate = "records = 7".to_string();
        trials.push(trial);
    }
    for round in 0..6 {
        topic.transaction((0..5).map(|id| good(round * 10 + id)), round % 3 != 1);
        topic.send_good(round * 10 + 5, 3, 1);
    }
    for trial in &trials {
        trial.drain().expect(0);
        let found = told(&verify(trial, &["--against-kafka", "--deep"]).expect(0));
        assert!(found.findings.is_empty(), "{:?}", found.findings);
    }
    let open = (0..5).map(|id| good(100 + id));
    topic.transaction_with(open, false, || {
        for trial in &trials {
            trial.drain().expect(0);
            let found = told(&verify(trial, &["--against-kafka"]).expect(0));
            assert!(found.findings.is_empty(), "{:?}", found.findings);
        }
    });
    for trial in &trials {
        let found = told(&verify(trial, &["--against-kafka"]).expect(0));
        assert!(found.findings.is_empty(), "{:?}", found.findings);
    }
}

/// Goal: no false alarm where Kafka has compacted the log, before it was archived or after it, or has deleted its beginning.
#[test]
fn compaction_and_retention_are_no_faults() {
    let topic = Topic::compacted(1);
    let keyed = |id: u64| Shape { key: Some(format!("key {}", id % 10).into_bytes()), ..good(id) };
    topic.send_all((0..1_000).map(keyed));
    let mut early = Trial::on_disk(&topic);
    early.rotate = "records = 90".to_string();
    early.drain().expect(0);
    assert_eq!(early.archive().ids(&topic.name), (0..1_000).collect::<Vec<_>>());
    let mut id = 1_000;
    until("the log is compacted", 4 * DEADLINE, || {
        // Only segments that nobody writes to any more are compacted, and a later record begins a new one.
        let later = BASE_MS + 86_400_000 + i64::try_from(id).expect("few") * 1_000;
        topic.send_all([keyed(id).at(later)]);
        id += 1;
        (topic.kept().len() < 500).then_some(())
    });
    let mut late = Trial::on_disk(&topic);
    late.rotate = "records = 5".to_string();
    for trial in [&early, &late] {
        trial.drain().expect(0);
        let found = told(&verify(trial, &["--against-kafka", "--deep"]).expect(0));
        assert!(found.findings.is_empty(), "{:?}", found.findings);
    }
    // Without a compacted log that would be one fault for each batch.
    let receipts = early.archive().receipts();
    assert!(receipts.len() > 1, "{receipts:?}");
}

/// Goal: with Kafka beside it, what nobody has a receipt of is found at the archive's end, and a wrong count in its midst.
#[test]
fn kafka_tells_what_the_bucket_cannot() {
    let topic = Topic::create(2);
    topic.send_good(0, 6_000, 2);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 200".to_string();
    let before = trial.drained(&topic);
    let ranges = |partition: i64| {
        let receipts = before.receipts().into_iter().filter(|receipt| receipt["partition"] == partition);
        let range = |receipt: Value| {
            (receipt["first"].as_i64().expect("an offset"), receipt["end"].as_i64().expect("an offset"))
        };
        receipts.map(range).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let (counted, cut) = (ranges(0), ranges(1));
    assert!(counted.len() > 2 && cut.len() > 2, "{counted:?}, {cut:?}");
    let ((first, _), (begin, end)) = (counted[1], cut[cut.len() - 1]);
    // The last batch of a Kafka partition, as if it had never been.
    let receipts = format!("_siltstone/receipts/v1/{}", topic.name);
    let of = |part: &str, at: &str| -> Vec<String> {
        let keys = before.objects.keys().filter(|key| key.contains(part) && key.contains(at));
        keys.cloned().collect()
    };
    let mut last = of(&format!("{receipts}/00001/"), &format!("{begin:020}."));
    last.extend(of(&format!("{}+00001+", topic.name), &format!("+{begin:020}-")));
    assert!(last.len() >= 3, "{last:?}");
    last.iter().for_each(|key| trial.remove(key));
    // A receipt that has counted a record less.
    let key = format!("{receipts}/00000/{first:020}.json");
    let mut receipt: Value = serde_json::from_slice(&before.objects[&key]).expect("JSON");
    receipt["balance"]["consumed"] = (receipt["balance"]["consumed"].as_u64().expect("a number") - 1).into();
    for output in receipt["balance"]["outputs"].as_object_mut().expect("outputs").values_mut() {
        output["archived"] = (output["archived"].as_u64().expect("a number") - 1).into();
    }
    trial.put(&key, receipt.to_string().into_bytes());
    let alone = told(&verify(&trial, &[]).expect(8));
    assert_eq!(kinds(&alone).into_keys().collect::<Vec<_>>(), ["unbalanced"], "{:?}", alone.findings);
    let beside = told(&verify(&trial, &["--against-kafka"]).expect(8));
    let kinds = kinds(&beside);
    assert_eq!(
        kinds.keys().collect::<Vec<_>>(),
        ["gap", "unbalanced", "count"].iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    let gap = beside.findings.iter().find(|finding| finding["kind"] == "gap").expect("a gap");
    assert_eq!((&gap["partition"], &gap["first"], &gap["end"]), (&1.into(), &begin.into(), &end.into()));
}
