//! What verifying finds missing or damaged, archived again: those batches as they were, and no others; and a range archived again elsewhere.

use crate::support::DEADLINE;
use crate::support::archive::Archive;
use crate::support::configuration::{Trial, s3_section};
use crate::support::kafka::{Topic, committed};
use crate::support::process::{Ended, Running};
use crate::support::{setting, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

/// Partition, first offset, end.
pub(crate) type Range = (i64, i64, i64);

pub(crate) fn backfill(trial: &Trial, topic: &Topic, arguments: &[&str]) -> Running {
    backfill_in(&[], trial, topic, arguments)
}

pub(crate) fn backfill_in(environment: &[(&str, &str)], trial: &Trial, topic: &Topic, arguments: &[&str]) -> Running {
    let mut all = vec!["--topic", topic.name.as_str(), "--json", "--log-level", "info"];
    all.extend_from_slice(arguments);
    trial.start_in(environment, "backfill", &all)
}

/// Lines that it printed, by their `event`: the last one of each.
pub(crate) fn events(ended: &Ended) -> BTreeMap<String, Value> {
    let lines = ended.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.map(|line| (line["event"].as_str().expect("an event").to_string(), line)).collect()
}

/// Ranges of the job that it announced.
pub(crate) fn announced(ended: &Ended) -> Vec<Range> {
    let events = events(ended);
    let ranges = events["job"]["job"]["ranges"].as_array().expect("ranges").iter();
    let number = |range: &Value, key: &str| range[key].as_i64().expect("a number");
    ranges.map(|range| (number(range, "partition"), number(range, "first"), number(range, "end"))).collect()
}

pub(crate) fn ranges(archive: &Archive) -> BTreeSet<Range> {
    let number = |receipt: &Value, key: &str| receipt[key].as_i64().expect("a number");
    let receipts = archive.receipts();
    receipts.iter().map(|one| (number(one, "partition"), number(one, "first"), number(one, "end"))).collect()
}

/// Archives what the topic has in batches of some 500 records: what is there then, and its batches in order.
fn in_500s(trial: &mut Trial, topic: &Topic) -> (Archive, Vec<Range>) {
    trial.rotate = "records = 500".to_string();
    let archive = trial.drained(topic);
    let all = ranges(&archive).into_iter().collect();
    (archive, all)
}

/// Keys of the objects of a batch.
pub(crate) fn objects(archive: &Archive, (partition, first, _): Range) -> Vec<String> {
    let receipts = archive.receipts();
    let receipt = receipts.iter().find(|one| one["partition"] == partition && one["first"] == first);
    let objects = receipt.expect("a receipt")["objects"].as_array().expect("objects").iter();
    objects.map(|object| object["key"].as_str().expect("a key").to_string()).collect()
}

/// The key of a batch's claim or receipt.
pub(crate) fn document(topic: &Topic, (partition, first, _): Range, extension: &str) -> String {
    format!("_siltstone/receipts/v1/{}/{partition:05}/{first:020}.{extension}", topic.name)
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// What `verify` finds: kinds and how many.
pub(crate) fn verified(trial: &Trial, code: i32, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend_from_slice(arguments);
    let ended = trial.command("verify", &all).expect(code);
    let line = ended.out.lines().last().expect("a summary");
    serde_json::from_str::<Value>(line).expect("JSON")["findings"].clone()
}

fn jobs(archive: &Archive) -> Vec<&String> {
    archive.objects.keys().filter(|key| key.contains("/jobs/")).collect()
}

pub(crate) fn data(archive: &Archive) -> BTreeMap<&str, &Vec<u8>> {
    archive.data_keys().into_iter().map(|key| (key, &archive.objects[key])).collect()
}

/// Goal: each kind of damage is found, just its batches are archived again, exactly as they were, and nothing else is touched. Method: on S3, where
/// a damaged object keeps the metadata that its writer gave it.
#[test]
fn what_is_missing_or_damaged_is_mended_and_nothing_else_is_touched() {
    let topic = Topic::create(2);
    // Some batches take more than they should, as the one before is on its way: there are enough of them.
    topic.send_good(0, 14_000, 2);
    let mut trial = Trial::on_s3(&topic);
    let (before, all) = in_500s(&mut trial, &topic);
    let of = |partition: i64| all.iter().copied().filter(|range| range.0 == partition).collect::<Vec<_>>();
    let (zero, one) = (of(0), of(1));
    assert!(zero.len() >= 7 && one.len() >= 7, "{all:?}");
    let (gone, cut, flipped) = (zero[1], zero[2], zero[4]);
    let (unreceipted, vanished, stranded) = (one[1], one[3], one[4]);
    objects(&before, gone).iter().for_each(|key| trial.remove(key));
    let remove = |range, extension| trial.remove(&document(&topic, range, extension));
    trial.damage(&objects(&before, cut)[0], |bytes| bytes.truncate(bytes.len() - 7));
    trial.damage(&objects(&before, flipped)[0], |bytes| flip(bytes));
    remove(unreceipted, "json");
    for range in [vanished, stranded] {
        remove(range, "json");
        remove(range, "claim");
    }
    objects(&before, vanished).iter().for_each(|key| trial.remove(key));
    let damaged_times = trial.times();

    let lost = objects(&before, gone).len();
    let strangers = objects(&before, stranded).len();
    let shallow = json!({"gap": 1, "missing": lost, "size": 1, "unfinished": 1, "unvouched": strangers});
    assert_eq!(verified(&trial, 8, &[]), shallow);
    let deep = json!({"checksum": 1, "gap": 1, "missing": lost, "size": 1, "unfinished": 1, "unvouched": strangers});
    assert_eq!(verified(&trial, 8, &["--deep"]), deep);

    let dry = backfill(&trial, &topic, &["--missing", "--dry-run"]).wait(DEADLINE).expect(0);
    assert_eq!(announced(&dry), [gone, cut, unreceipted, vanished, stranded]);
    let dry = backfill(&trial, &topic, &["--missing", "--dry-run", "--partition", "1"]).wait(DEADLINE).expect(0);
    assert_eq!(announced(&dry), [unreceipted, vanished, stranded]);
    assert!(jobs(&trial.archive()).is_empty(), "a dry run stores no job");

    let mended = backfill(&trial, &topic, &["--missing", "--deep"]).wait(DEADLINE).expect(0);
    assert_eq!(announced(&mended), [gone, cut, flipped, unreceipted, vanished, stranded]);
    let said = events(&mended);
    assert_eq!(said["found"]["besides"], json!({"unvouched": strangers}));
    assert_eq!((&said["balance"]["balance"]["left"], &said["balance"]["balance"]["lost"]), (&json!(0), &json!(0)));
    let after = trial.archive();
    after.assert_even(&topic);
    assert_eq!(ranges(&after), ranges(&before));
    assert_eq!(data(&after), data(&before), "the same keys, the same bytes");
    assert_eq!(verified(&trial, 0, &["--deep", "--against-kafka"]), json!({}));
    let touched: BTreeSet<String> = [gone, cut, flipped, unreceipted, vanished, stranded]
        .iter()
        .flat_map(|&range| objects(&before, range))
        .collect();
    let times = trial.times();
    for (key, time) in &damaged_times {
        let is_control = key.starts_with("_siltstone/") && !key.starts_with("_siltstone/receipts/");
        if !touched.contains(key) && !is_control {
            assert_eq!(times.get(key), Some(time), "{key} was written again");
        }
    }
    // What was there and right is not put again, though its batch is.
    for key in objects(&before, stranded).into_iter().chain(objects(&before, unreceipted)) {
        assert_eq!(times.get(&key), damaged_times.get(&key), "{key}");
    }

    let again = backfill(&trial, &topic, &["--missing", "--deep"]).wait(DEADLINE).expect(0);
    assert_eq!(events(&again).keys().collect::<Vec<_>>(), ["found"]);
    assert_eq!(jobs(&trial.archive()), jobs(&after), "where nothing is missing no job is made");
    topic.send_good(8_000, 1_000, 2);
    trial.drained(&topic);
}

/// Goal: a job that mends is finished by whoever goes on with it, each batch mended once; and the same damage is mended a second time. Method: a
/// process is aborted before the commit of its second batch, others are killed.
#[test]
fn a_job_that_mends_is_gone_on_with_by_others() {
    let topic = Topic::create(1);
    topic.send_good(0, 6_000, 1);
    let mut trial = Trial::on_disk(&topic);
    // Whoever comes next takes the place of the one that was aborted at once, and waits for no session to end.
    trial.kafka = "instance_id = \"one\"".to_string();
    let (before, all) = in_500s(&mut trial, &topic);
    let damaged: Vec<Range> = all.iter().copied().skip(1).step_by(2).collect();
    assert!(damaged.len() >= 4, "{all:?}");
    let damage = |trial: &Trial| {
        for &range in &damaged {
            trial.damage(&objects(&before, range)[0], |bytes| flip(bytes));
        }
    };
    let redone = |ended: &Ended| ended.err.matches("redoing an unfinished batch").count();
    for round in 0..2 {
        damage(&trial);
        let failpoint = [("SILTSTONE_FAILPOINT", "end-commit:before:2")];
        let aborted = backfill_in(&failpoint, &trial, &topic, &["--missing", "--deep"]).wait(DEADLINE);
        assert_eq!(aborted.signal, Some(6), "{}", aborted.err);
        assert_eq!((announced(&aborted), redone(&aborted)), (damaged.clone(), 2));
        let finished = backfill(&trial, &topic, &["--missing", "--deep"]).wait(DEADLINE).expect(0);
        assert!(finished.out.contains("\"resumed\":true"), "{}", finished.out);
        assert_eq!(redone(&finished), damaged.len() - 2, "what was mended is not mended again");
        let after = trial.archive();
        after.assert_even(&topic);
        assert_eq!((ranges(&after), data(&after)), (ranges(&before), data(&before)));
        assert_eq!(jobs(&after).len(), 2 * (round + 1));
        assert_eq!(verified(&trial, 0, &["--deep"]), json!({}));
    }
    // The job of that name has ended, and what is found since is another one's.
    trial.kafka = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    let named = ["--missing", "--deep", "--job", "mine"];
    damage(&trial);
    let mut killed = backfill(&trial, &topic, &named);
    killed.until_says("batch committed");
    let others = [backfill(&trial, &topic, &named), backfill(&trial, &topic, &named)];
    killed.signal(Signal::KILL);
    drop(killed.wait(DEADLINE));
    others.into_iter().for_each(|other| drop(other.wait(DEADLINE).expect(0)));
    assert_eq!(data(&trial.archive()), data(&before));
    damage(&trial);
    backfill(&trial, &topic, &named).wait(DEADLINE).expect(5).says(&["job mine has ended", "give another --job"]);
    backfill(&trial, &topic, &["--missing", "--deep"]).wait(DEADLINE).expect(0);
    assert_eq!(data(&trial.archive()), data(&before));
    backfill(&trial, &topic, &named).wait(DEADLINE).expect(0).prints(&["\"ranges\":0"]);
}

/// Goal: what Kafka has no more is told beforehand, named as lost and absent, and then the archive says so itself; an object that is damaged is kept
/// where Kafka cannot give all of its rows again.
#[test]
fn what_kafka_has_no_more_is_told_and_named_as_lost() {
    let topic = Topic::create(1);
    topic.send_good(0, 4_000, 1);
    let mut trial = Trial::on_s3(&topic);
    let (before, all) = in_500s(&mut trial, &topic);
    let (lost, half, whole) = (all[0], all[2], all[4]);
    let middle = (half.1 + half.2) / 2;
    let half_key = objects(&before, half)[0].clone();
    objects(&before, lost).iter().for_each(|key| trial.remove(key));
    trial.damage(&half_key, |bytes| flip(bytes));
    trial.damage(&objects(&before, whole)[0], |bytes| flip(bytes));
    topic.delete_to(0, middle);

    let mended = backfill(&trial, &topic, &["--missing", "--deep"]).wait(DEADLINE).expect(8);
    assert_eq!(announced(&mended), [lost, half, whole]);
    let said = events(&mended);
    let gone = (lost.2 - lost.1) + (middle - half.1);
    assert_eq!(said["job"]["estimate"]["gone"], json!(gone));
    let rows = |range: Range| {
        let receipts = before.receipts();
        let receipt = receipts.iter().find(|one| one["first"] == range.1).expect("a receipt");
        let objects = receipt["objects"].as_array().expect("objects");
        objects.iter().map(|object| object["rows"].as_u64().expect("rows")).collect::<Vec<_>>()
    };
    let expected = rows(lost).iter().sum::<u64>() + rows(half)[0];
    assert_eq!(said["balance"]["balance"]["lost"], json!(expected));
    let after = trial.archive();
    assert_eq!(ranges(&after), ranges(&before));
    assert_ne!(after.objects[&half_key], before.objects[&half_key], "the damaged one is kept");
    let key = &objects(&before, whole)[0];
    assert_eq!(after.objects[key], before.objects[key], "what Kafka still has is mended");
    assert_eq!(verified(&trial, 0, &["--deep"]), json!({}));
    let again = backfill(&trial, &topic, &["--missing", "--deep"]).wait(DEADLINE).expect(0);
    assert_eq!(events(&again).keys().collect::<Vec<_>>(), ["found"]);
}

/// Goal: a receipt that a stopped process left beside the fold of its batch, and that knows less than the folded one, is in nobody's way: rows that Kafka
/// has no more are named as lost, where the folded receipt says that they were there. Method: the receipts of an archive are folded by the test.
#[test]
fn a_stale_receipt_beside_a_fold_keeps_nothing_from_being_mended() {
    let topic = Topic::create(1);
    topic.send_good(0, 4_000, 1);
    let mut trial = Trial::on_s3(&topic);
    let (before, all) = in_500s(&mut trial, &topic);
    let (gone, folded) = (all[1], &all[..4]);
    let bodies: Vec<&Vec<u8>> = folded.iter().map(|&range| &before.objects[&document(&topic, range, "json")]).collect();
    let (first, end) = (folded[0].1, folded[3].2);
    let header = json!({"version": 1, "topic": topic.name, "partition": 0, "generation": 1, "first": first, "end": end, "count": folded.len()});
    let lines = bodies.iter().map(|body| String::from_utf8_lossy(body).replace(['\n', '\r'], " "));
    let text: String = std::iter::once(header.to_string()).chain(lines).map(|line| line + "\n").collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).expect("memory takes everything");
    let fold = format!("_siltstone/receipts/v1/{}/00000/folded/{first:020}-{end:020}.jsonl.gz", topic.name);
    trial.put(&fold, gzip.finish().expect("memory takes everything"));
    folded.iter().for_each(|&range| trial.remove(&document(&topic, range, "json")));
    assert_eq!(verified(&trial, 0, &[]), json!({}), "folded");

    let mut stale: Value = serde_json::from_slice(bodies[1]).expect("JSON");
    stale["objects"] = json!([]);
    trial.put(&document(&topic, gone, "json"), stale.to_string().into_bytes());
    let keys = objects(&before, gone);
    keys.iter().for_each(|key| trial.remove(key));
    topic.delete_to(0, gone.2);
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(announced(&mended), [gone]);
    let receipts = before.receipts();
    let objects = receipts[1]["objects"].as_array().expect("objects");
    let rows: u64 = objects.iter().map(|object| object["rows"].as_u64().expect("rows")).sum();
    assert_eq!(events(&mended)["balance"]["balance"]["lost"], json!(rows));
    // From now on the archive says so itself.
    assert_eq!(verified(&trial, 0, &[]), json!({}), "mended");
    let again = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(0);
    assert_eq!(events(&again).keys().collect::<Vec<_>>(), ["found"]);
}

/// Goal: offsets that a job for a named range has yet to archive, and that objects hold without a receipt, are not declared absent where Kafka deletes them
/// before the job comes to them: what follows a batch that is redone, too.
#[test]
fn what_kafka_deletes_under_a_job_is_not_absent_where_objects_hold_it() {
    let topic = Topic::create(1);
    topic.send_good(0, 3_000, 1);
    let mut trial = Trial::on_disk(&topic);
    let (before, all) = in_500s(&mut trial, &topic);
    // Nobody vouches for anything any more; of the first batches the objects are gone, too.
    for &range in &all {
        ["json", "claim"].iter().for_each(|extension| trial.remove(&document(&topic, range, extension)));
    }
    let held = all.iter().copied().find(|range| range.1 >= 1_000).expect("a batch behind the first pieces");
    let gone = all.iter().copied().filter(|range| range.1 < held.1);
    gone.for_each(|range| objects(&before, range).iter().for_each(|key| trial.remove(key)));
    let arguments = ["--from-offset", "0", "--chunk", "1000", "--job", "older"];
    // Aborted with its first piece claimed and not uploaded: it is redone.
    let aborted =
        backfill_in(&[("SILTSTONE_FAILPOINT", "object-put:before:1")], &trial, &topic, &arguments).wait(DEADLINE);
    assert_eq!(aborted.signal, Some(6), "{}", aborted.err);
    assert!(aborted.err.contains("that no receipt names"), "{}", aborted.err);
    topic.delete_to(0, held.2 - 1);
    let stopped = backfill(&trial, &topic, &arguments).wait(DEADLINE).expect(5);
    stopped.says(&["Kafka has deleted the offsets", "objects that no receipt names hold rows of them", "--cancel"]);
    let vouched = ranges(&trial.archive());
    assert!(vouched.iter().all(|range| range.2 <= 1_000), "{vouched:?}");
    let now = trial.archive();
    objects(&before, held).iter().for_each(|key| assert_eq!(now.objects[key], before.objects[key]));
}

/// Goal: a receipt that cannot be read keeps its range from being mended, says so, and keeps nothing else from it.
#[test]
fn what_only_a_person_can_mend_is_left_out_and_told() {
    let topic = Topic::create(1);
    topic.send_good(0, 3_000, 1);
    let mut trial = Trial::on_disk(&topic);
    let (before, all) = in_500s(&mut trial, &topic);
    let (unreadable, gone) = (all[1], all[3]);
    let receipt = document(&topic, unreadable, "json");
    trial.put(&receipt, b"{".to_vec());
    objects(&before, gone).iter().for_each(|key| trial.remove(key));
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(announced(&mended), [gone]);
    let blocked = events(&mended)["found"]["blocked"].to_string();
    assert!(blocked.contains(&receipt) && blocked.contains("move it away"), "{blocked}");
    trial.remove(&receipt);
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(0);
    assert_eq!(announced(&mended), [unreadable]);
    let after = trial.archive();
    after.assert_even(&topic);
    assert_eq!((ranges(&after), data(&after)), (ranges(&before), data(&before)));
}

/// Goal: receipts that vanish while their job is under way do not keep it from ending, and are --missing's. Method: a job of three pieces is killed
/// behind the second, and the receipt of the first deleted.
#[test]
fn a_receipt_that_vanishes_under_a_job_is_told_and_mended() {
    let topic = Topic::create(1);
    topic.send_good(0, 3_000, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.kafka = "instance_id = \"one\"\nstart = \"latest\"".to_string();
    trial.drain().expect(0);
    let arguments = ["--chunk", "1000", "--job", "older"];
    let aborted =
        backfill_in(&[("SILTSTONE_FAILPOINT", "end-commit:after:2")], &trial, &topic, &arguments).wait(DEADLINE);
    assert_eq!(aborted.signal, Some(6), "{}", aborted.err);
    let first = (0, 0, 1000);
    trial.remove(&document(&topic, first, "json"));
    backfill(&trial, &topic, &arguments).wait(DEADLINE).expect(5).says(&["1000 offsets", "has ended", "--missing"]);
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(0);
    assert_eq!(announced(&mended), [first]);
    trial.archive().assert_even(&topic);
}

/// Goal: a range is archived again at another place, in another layout, once, whoever is killed; the live place is neither read nor touched, and the
/// new one is an archive like any other.
#[test]
fn a_range_is_archived_again_elsewhere_in_another_layout() {
    let topic = Topic::create(2);
    topic.send_good(0, 6_000, 2);
    let mut trial = Trial::on_s3(&topic);
    trial.kafka = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    trial.rotate = "records = 500".to_string();
    let live = trial.drained(&topic);
    let times = trial.times();
    let live_group = trial.group.clone();
    // What the live group has not archived yet is archived there, too.
    topic.send_good(6_000, 1_000, 2);
    trial.archive = "[[archive.output]]\nname = \"rows\"\nformat = { type = \"parquet\", schema = \"infer\" }\n\
                     layout = { path = \"again/{topic}/dt=%Y-%m-%d\" }"
        .to_string();
    let (bucket, prefix) = (setting("S3_BUCKET"), format!("{}/again", trial.s3_parent()));
    let into = format!("s3://{bucket}/{prefix}");
    let inside = format!("s3://{bucket}/{}/archive/again", trial.s3_parent());
    backfill(&trial, &topic, &["--into", &inside]).wait(DEADLINE).expect(2).says(&["inside"]);
    backfill(&trial, &topic, &["--into", "main"]).wait(DEADLINE).expect(2).says(&["main", "give a place"]);
    backfill(&trial, &topic, &["--into", &into, "--to-offset", "3501"])
        .wait(DEADLINE)
        .expect(2)
        .says(&["the log ends"]);
    let arguments = ["--into", into.as_str(), "--chunk", "1000", "--job", "again"];
    let start = || backfill(&trial, &topic, &arguments);
    let mut processes = vec![start(), start()];
    let first =
        until("a batch is sealed", DEADLINE, || processes.iter().position(|one| one.err().contains("batch sealed")));
    processes.remove(first).signal(Signal::KILL);
    processes.push(start());
    for process in processes {
        let ended = process.wait(Duration::from_secs(180)).expect(0);
        let balance = events(&ended)["balance"]["balance"].clone();
        assert_eq!((&balance["read"], &balance["left"]), (&json!(7_000), &json!(0)), "{balance}");
    }
    let again = Archive::on_s3(&prefix);
    again.assert_even(&topic);
    let mut ids: Vec<u64> = again.parquet("again/").iter().map(|row| row["id"].as_u64().expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..7_000).collect::<Vec<_>>());
    assert_eq!(trial.archive().objects, live.objects, "the live place");
    assert_eq!(trial.times(), times);
    for (partition, _) in topic.ends() {
        assert_eq!(committed(&live_group, &topic, i32::try_from(partition).unwrap()).unwrap().0, 3_000);
    }
    start().wait(DEADLINE).expect(0).prints(&["\"ended\":true"]);
    assert_eq!(Archive::on_s3(&prefix).objects, again.objects);
    // The new place, with the job's group as its own.
    let identity: Value = serde_json::from_slice(&again.objects["_siltstone/archive.json"]).expect("JSON");
    trial.group = identity["group"].as_str().expect("a group").to_string();
    // Another one than a job of that name has at the archive's own place.
    assert!(trial.group.starts_with(&format!("{live_group}-backfill-again.")), "{}", trial.group);
    trial.destination = s3_section(&bucket, &prefix, &setting("AWS_SECRET_ACCESS_KEY"));
    assert_eq!(verified(&trial, 0, &["--deep", "--against-kafka"]), json!({}));
}
