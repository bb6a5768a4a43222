//! Kafka deletes records that were not archived yet, or that a redo would want again: what was read stays, what is in the
//! bucket stays, and what is gone is named. Also: a cut that another process decided, and samples without a schema.

use crate::support::archive::{Archive, counts};
use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic, commit, committed, good};
use crate::support::process::{Running, free_address, get};
use crate::support::{DEADLINE, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A batch that is never due by itself.
const NEVER: &str = "age = \"1d\"\ngrace = \"off\"";

/// A record in a window of its own: once its part is open, everything before it was read.
fn mark(id: u64, hour: i64) -> Shape {
    good(id).at(BASE_MS + hour * 3_600_000)
}

/// Waits until so many parts are open.
fn until_parts(address: &str, topic: &Topic, wanted: f64) {
    until(&format!("{wanted} parts are open"), DEADLINE, || {
        let (_, text) = get(address, "/metrics");
        let line = format!("siltstone_open_parts{{topic=\"{}\"}} ", topic.name);
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<f64>().ok()).filter(|&parts| parts >= wanted)
    });
}

fn listening(topic: &Topic) -> (Trial, String) {
    let mut trial = Trial::on_disk(topic);
    trial.rotate = NEVER.to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    (trial, address)
}

/// Has read 1000 records and holds them open, stands still while 1000 more come and the first 1500 of all are deleted, and
/// then goes on.
fn overtaken(trial: &Trial, address: &str, topic: &Topic) -> Running {
    topic.send_good(0, 999, 1);
    topic.send_all([mark(999, 10)]);
    let running = trial.start(&[]);
    // The four hours of good records, and the mark's.
    until_parts(address, topic, 5.0);
    running.signal(Signal::STOP);
    // Answers the fetch that is under way; another is only asked for by a process that runs.
    topic.send_good(1000, 1, 1);
    topic.send_good(1001, 998, 1);
    topic.send_all([mark(1999, 11)]);
    topic.delete_to(0, 1500);
    running.signal(Signal::CONT);
    running
}

fn only_receipt(archive: &Archive) -> Value {
    let receipts = archive.receipts();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    receipts.into_iter().next().unwrap()
}

#[test]
fn what_was_read_before_retention_overtook_the_position_is_archived() {
    let topic = Topic::create(1);
    let (trial, address) = listening(&topic);
    let mut running = overtaken(&trial, &address, &topic);
    running.until_says("outside the log");
    until_parts(&address, &topic, 6.0);
    running.stop().expect(0);
    let archive = trial.archive();
    archive.assert_as_named();
    let receipt = only_receipt(&archive);
    assert_eq!((&receipt["first"], &receipt["end"]), (&json!(0), &json!(2000)));
    let absent = receipt["balance"]["absent"].as_array().unwrap();
    assert_eq!(absent.len(), 1, "{absent:?}");
    let (read, start) = (absent[0]["first"].as_u64().unwrap(), absent[0]["end"].as_u64().unwrap());
    assert!((1000..1500).contains(&read) && start == 1500, "{absent:?}");
    assert_eq!(archive.ids(&topic.name), (0..read).chain(1500..2000).collect::<Vec<_>>());
    assert_eq!(receipt["balance"]["consumed"], read + 500);
    assert_eq!(committed(&trial.group, &topic, 0).map(|(offset, _)| offset), Some(2000));
}

#[test]
fn on_gap_halt_archives_what_was_read_and_then_stops() {
    let topic = Topic::create(1);
    let (mut trial, address) = listening(&topic);
    trial.archive = "on_gap = \"halt\"".to_string();
    let mut running = overtaken(&trial, &address, &topic);
    running.until_says("partition stopped");
    let (status, text) = get(&address, "/readyz");
    assert_eq!(status, 503);
    assert!(text.contains("to 1500 were deleted by Kafka") && text.contains("on_gap = \"continue\""), "{text}");
    running.stop().expect(5).says(&["batch committed", "stays stopped", "were deleted by Kafka"]);
    let archive = trial.archive();
    archive.assert_as_named();
    let receipt = only_receipt(&archive);
    let read = receipt["end"].as_u64().unwrap();
    assert!((1000..1500).contains(&read), "{receipt}");
    assert_eq!(receipt["balance"].get("absent"), None, "{receipt}");
    assert_eq!(archive.ids(&topic.name), (0..read).collect::<Vec<_>>());
    // It stays stopped, and goes on where a person says so.
    trial.drain().expect(5).says(&["were deleted by Kafka"]);
    trial.archive = "on_gap = \"continue\"".to_string();
    trial.drain().expect(0);
    let archive = trial.archive();
    archive.assert_as_named();
    assert_eq!(archive.ids(&topic.name), (0..read).chain(1500..2000).collect::<Vec<_>>());
}

/// Sixty records in each of two hours, archived as one batch; then the group's offset is what a process leaves that dies
/// before its commit.
fn unfinished(trial: &Trial, topic: &Topic) -> Value {
    topic.send_good(0, 120, 1);
    let archive = trial.drained(topic);
    let receipt = only_receipt(&archive);
    let rows: Vec<&Value> = receipt["objects"].as_array().unwrap().iter().map(|one| &one["rows"]).collect();
    assert_eq!(rows, [60, 60]);
    let (_, done) = committed(&trial.group, topic, 0).unwrap();
    let mut plan: Value = serde_json::from_str(&done).unwrap();
    plan.as_object_mut().unwrap().remove("prev");
    plan["state"] = "plan".into();
    plan["end"] = 120.into();
    plan["layout"] = receipt["fingerprint"].clone();
    plan["spool"] = 1000.into();
    commit(&trial.group, topic, 0, 0, &plan.to_string());
    receipt
}

/// The key of the object of that hour.
fn key_of(receipt: &Value, hour: &str) -> String {
    let mut keys = receipt["objects"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap());
    keys.find(|key| key.contains(&format!("/hr={hour}/"))).unwrap().to_string()
}

/// The receipt's entry of that key.
fn entry<'a>(receipt: &'a Value, key: &str) -> Option<&'a Value> {
    receipt["objects"].as_array().unwrap().iter().find(|one| one["key"] == key)
}

/// One of two objects is gone, and so are the records 0 to 90 in Kafka; `left` records can be brought back.
#[track_caller]
fn assert_repaired(removed: &str, intact: &str, left: std::ops::Range<u64>) {
    let topic = Topic::create(1);
    let trial = Trial::on_disk(&topic);
    let before = unfinished(&trial, &topic);
    let (gone, stays) = (key_of(&before, removed), key_of(&before, intact));
    let untouched = trial.archive().objects[&stays].clone();
    trial.remove(&gone);
    topic.delete_to(0, 90);
    trial.drain().expect(0).says(&["redoing the batch", "the receipt names them as lost"]);
    let archive = trial.archive();
    archive.assert_as_named();
    let after = only_receipt(&archive);
    assert!(archive.objects[&stays] == untouched, "the intact object was replaced");
    assert_eq!(entry(&after, &stays), entry(&before, &stays));
    let found = entry(&after, &gone).map_or(0, |one| one["rows"].as_u64().unwrap());
    assert_eq!(found, left.end - left.start, "{after}");
    assert_eq!(archive.ids(gone.rsplit_once('/').unwrap().0), left.collect::<Vec<_>>());
    let lost = after["lost"].as_array().unwrap();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((&lost[0]["key"], lost[0]["rows"].as_u64()), (&json!(gone), Some(60 - found)));
    assert_eq!(after["balance"], before["balance"], "what became of the records when they were all there");
    assert_eq!(committed(&trial.group, &topic, 0).map(|(offset, _)| offset), Some(120));
    // The repaired batch is a finished one.
    trial.drain().expect(0);
    assert!(trial.archive().objects == archive.objects, "the next run changed the archive");
}

#[test]
fn a_repair_brings_back_what_kafka_has_and_names_the_rest() {
    assert_repaired("09", "08", 90..120);
}

#[test]
fn a_repair_leaves_an_intact_object_that_kafka_has_half_of() {
    assert_repaired("08", "09", 0..0);
}

/// An object that is not what its receipt says is replaced where Kafka has all of its records, and only there.
#[test]
fn a_damaged_object_is_replaced_only_by_as_many_rows() {
    for (start, replaced) in [(60, true), (90, false)] {
        let topic = Topic::create(1);
        let trial = Trial::on_disk(&topic);
        let before = unfinished(&trial, &topic);
        let damaged = key_of(&before, "09");
        let whole = trial.archive().objects;
        std::fs::write(trial.root().join(&damaged), "damaged").unwrap();
        topic.delete_to(0, start);
        trial.drain().expect(0).says(&["redoing the batch"]);
        let archive = trial.archive();
        let after = only_receipt(&archive);
        let first = key_of(&before, "08");
        assert!(archive.objects[&first] == whole[&first], "the intact object was replaced");
        assert_eq!(entry(&after, &first), entry(&before, &first));
        if replaced {
            assert!(archive.objects[&damaged] == whole[&damaged], "not as it was");
            archive.assert_even(&topic);
        } else {
            assert_eq!(archive.objects[&damaged], b"damaged");
            assert!(entry(&after, &damaged).unwrap()["kept"].is_string(), "{after}");
        }
    }
}

/// A flipped bit changes neither the size nor the number of rows that can be counted, and is repaired nevertheless.
#[test]
fn a_flipped_bit_in_a_finished_object_is_repaired() {
    let topic = Topic::create(1);
    let trial =
        Trial::on_disk(&topic).with("[[archive.output]]\nformat = { type = \"json\", compression = \"none\" }\n");
    let before = unfinished(&trial, &topic);
    let whole = trial.archive().objects;
    let damaged = key_of(&before, "09");
    let mut bytes = whole[&damaged].clone();
    let letter = bytes.iter().position(|&byte| byte == b'r').unwrap();
    bytes[letter] ^= 1;
    std::fs::write(trial.root().join(&damaged), bytes).unwrap();
    trial.drain().expect(0).says(&["redoing the batch"]);
    let archive = trial.archive();
    assert!(archive.objects[&damaged] == whole[&damaged], "not as it was");
    assert_eq!(only_receipt(&archive)["objects"], before["objects"]);
}

/// The process died between its uploads and its receipt, and Kafka has deleted 90 of the 120 records since.
#[test]
fn a_redo_keeps_claimed_objects_that_kafka_has_no_records_for() {
    let topic = Topic::create(1);
    let trial = Trial::on_s3(&topic);
    let before = unfinished(&trial, &topic);
    let whole = trial.archive().objects;
    let key = whole.keys().find(|key| key.starts_with("_siltstone/receipts/") && key.ends_with(".json")).unwrap();
    trial.remove(key);
    topic.delete_to(0, 90);
    trial.drain().expect(0).says(&["redoing an unfinished batch"]);
    let archive = trial.archive();
    archive.assert_as_named();
    assert_eq!(archive.ids(&topic.name), (0..120).collect::<Vec<_>>());
    let after = only_receipt(&archive);
    for (hour, says) in [("08", "no longer holds any of its records"), ("09", "may no longer hold all of its records")]
    {
        let key = key_of(&before, hour);
        assert!(archive.objects[&key] == whole[&key], "{key} was replaced");
        let kept = entry(&after, &key).unwrap_or_else(|| panic!("{key} is not in {after}"));
        assert_eq!((&kept["records"], &kept["rows"]), (&json!(60), &json!(60)), "{kept}");
        assert!(kept["kept"].as_str().is_some_and(|text| text.contains(says)), "{kept}");
    }
    // What this process read, beside what it found.
    assert_eq!(after["balance"]["consumed"], 30);
    let absent = after["balance"]["absent"].as_array().unwrap();
    assert_eq!(absent.len(), 1, "{absent:?}");
    assert_eq!((&absent[0]["first"], &absent[0]["end"]), (&json!(0), &json!(90)));
}

/// Ten thousand broken records are a full sample by number, and teach nothing.
#[test]
fn a_schema_is_inferred_from_the_first_records_that_have_fields() {
    let topic = Topic::create(1);
    topic.send_all((0..10_500).map(|_| Shape::of("not json")));
    let (mut trial, address) = listening(&topic);
    trial.archive = "[[archive.output]]\nformat = { type = \"parquet\", schema = \"infer\" }".to_string();
    trial.rotate = "age = \"1s\"".to_string();
    let running = trial.start(&[]);
    until("readiness says that nothing can be inferred", DEADLINE, || {
        let (status, text) = get(&address, "/readyz");
        let says = text.contains("infer a schema for archive it") && text.contains("is a JSON object with a field");
        (status == 503 && says).then_some(())
    });
    assert!(trial.archive().data_keys().is_empty(), "archived without a schema");
    topic.send_good(0, 300, 1);
    let end = i64::try_from(topic.count()).unwrap();
    until("all is committed", DEADLINE, || committed(&trial.group, &topic, 0).filter(|(offset, _)| *offset == end));
    until("ready again", DEADLINE, || (get(&address, "/readyz").0 == 200).then_some(()));
    running.stop().expect(0).says(&["schema pinned"]);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.counts("parquet"), counts(300, 10_500, 0));
    let mut ids: Vec<u64> = archive.parquet(&topic.name).iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
}

/// A shutdown that gives its batch up because another process claimed another cut has not archived everything.
#[test]
fn a_shutdown_that_meets_another_cut_is_incomplete() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let (trial, address) = listening(&topic);
    let running = trial.start(&[]);
    // The record with id 60 is in the second hour: more than the claim's fifty are read.
    until_parts(&address, &topic, 2.0);
    let archive = trial.archive();
    let layout = archive.objects.keys().find_map(|key| key.strip_prefix("_siltstone/layouts/")?.strip_suffix(".json"));
    let claim = json!({
        "version": 1, "topic": topic.name, "partition": 0, "first": 0, "end": 50, "fingerprint": layout.unwrap(),
        "generation": 1, "spool_bytes": 1000
    });
    let folder = trial.root().join(format!("_siltstone/receipts/v1/{}/00000", topic.name));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{:020}.claim", 0)), claim.to_string()).unwrap();
    running.stop().expect(6).says(&["claimed another end", "nothing is lost"]);
    assert!(trial.archive().data_keys().is_empty(), "uploaded against the claim");
    let archive = trial.drained(&topic);
    assert_eq!(archive.receipts()[0]["end"], 50);
    assert_eq!(archive.ids(&topic.name), (0..100).collect::<Vec<_>>());
}
