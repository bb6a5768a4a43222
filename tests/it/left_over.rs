//! What a backfill that mends cannot mend: left as it is, told, and told by the exit code, whoever goes on with the job.

use crate::missing::{Range, announced, backfill, backfill_in, data, document, events, objects, ranges, verified};
use crate::support::DEADLINE;
use crate::support::archive::Archive;
use crate::support::configuration::Trial;
use crate::support::kafka::Topic;
use crate::support::process::Ended;
use serde_json::{Value, json};

/// An archive of at least `batches` batches of one Kafka partition.
fn archived(topic: &Topic, trial: &mut Trial, batches: usize) -> (Archive, Vec<Range>) {
    trial.rotate = "records = 500".to_string();
    // Whoever comes next takes the place of the one that was aborted at once, and waits for no session to end.
    trial.kafka = "instance_id = \"one\"".to_string();
    let archive = trial.drained(topic);
    let all: Vec<Range> = ranges(&archive).into_iter().collect();
    assert!(all.len() >= batches, "{all:?}");
    (archive, all)
}

/// Deletes claim and receipt of a batch.
fn forget(trial: &Trial, topic: &Topic, range: Range) {
    ["json", "claim"].iter().for_each(|extension| trial.remove(&document(topic, range, extension)));
}

fn delete_objects(trial: &Trial, archive: &Archive, range: Range) {
    objects(archive, range).iter().for_each(|key| trial.remove(key));
}

/// Offsets that were left as they are, and where Kafka still has some of them.
fn kept(ended: &Ended) -> Vec<(i64, i64, Value)> {
    let kept = events(ended)["found"]["kept"].as_array().expect("a list").clone();
    let number = |one: &Value, key: &str| one[key].as_i64().expect("a number");
    kept.iter().map(|one| (number(one, "first"), number(one, "end"), one["in_kafka_from"].clone())).collect()
}

/// Goal: rows that lie there are never declared absent because Kafka has their records no more; everything else of the gaps is, and whoever goes on
/// with the job ends as the one before would have. Method: receipts and claims are deleted, of some batches the objects, too, and Kafka's log is cut
/// in the middle of a batch; the job is aborted and gone on with.
#[test]
fn objects_that_are_all_that_is_left_are_kept() {
    let topic = Topic::create(1);
    topic.send_good(0, 8_000, 1);
    let mut trial = Trial::on_s3(&topic);
    let (before, all) = archived(&topic, &mut trial, 7);
    let (alone, nowhere, half, gone, last) = (all[1], all[2], all[3], all[4], all[5]);
    [alone, nowhere, half].into_iter().for_each(|range| forget(&trial, &topic, range));
    [nowhere, gone, last].into_iter().for_each(|range| delete_objects(&trial, &before, range));
    let middle = (half.1 + half.2) / 2;
    topic.delete_to(0, middle);

    let failpoint = [("SILTSTONE_FAILPOINT", "end-commit:before:2")];
    let aborted = backfill_in(&failpoint, &trial, &topic, &["--missing"]).wait(DEADLINE);
    assert_eq!(aborted.signal, Some(6), "{}", aborted.err);
    let left = vec![(alone.1, alone.2, Value::Null), (half.1, half.2, json!(middle))];
    assert_eq!((announced(&aborted), kept(&aborted)), (vec![nowhere, gone, last], left.clone()));
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert!(mended.out.contains("\"resumed\":true"), "{}", mended.out);
    assert_eq!(events(&mended)["found"], events(&aborted)["found"]);
    let after = trial.archive();
    let kept_ranges = [alone, half];
    assert!(kept_ranges.iter().all(|range| !ranges(&after).contains(range)), "{:?}", ranges(&after));
    assert_eq!(ranges(&after).len(), all.len() - kept_ranges.len());
    assert!(data(&after).iter().all(|(key, bytes)| data(&before).get(key) == Some(bytes)));
    for range in kept_ranges {
        assert!(objects(&before, range).iter().all(|key| after.objects.contains_key(key)), "{range:?}");
    }
    let strangers = kept_ranges.iter().map(|&range| objects(&before, range).len()).sum::<usize>();
    assert_eq!(verified(&trial, 8, &[]), json!({"gap": 2, "unvouched": strangers}));

    // Nothing else is left to mend, and no job is made of it.
    let again = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!((events(&again).len(), kept(&again)), (1, left));
    let told = trial.command("backfill", &["--topic", &topic.name, "--missing"]).expect(8);
    let offsets = format!("offsets {} to {}", alone.1, alone.2);
    assert!(objects(&before, alone).iter().any(|key| told.out.contains(key.as_str())), "{}", told.out);
    told.prints(&[offsets.as_str(), "keep them", "Bring the receipts"]);
    let (first, end) = (alone.1.to_string(), alone.2.to_string());
    let named = ["--from-offset", first.as_str(), "--to-offset", end.as_str()];
    backfill(&trial, &topic, &named).wait(DEADLINE).expect(5).says(&["absent", "--missing", &end]);
    // What is to be done about it: one has its receipt again, the other one's objects are moved away.
    for extension in ["claim", "json"] {
        let key = document(&topic, alone, extension);
        trial.put(&key, before.objects[&key].clone());
    }
    delete_objects(&trial, &before, half);
    let absent = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!((announced(&absent), kept(&absent)), (vec![half], Vec::new()));
    assert_eq!(verified(&trial, 0, &[]), json!({}));
}

/// Goal: what Kafka deletes after the job was made is not declared absent either. Method: the job is aborted before it claims, the log cut, and the
/// job gone on with.
#[test]
fn what_kafka_deletes_while_a_job_waits_is_kept_too() {
    let topic = Topic::create(1);
    topic.send_good(0, 4_000, 1);
    let mut trial = Trial::on_disk(&topic);
    let (before, all) = archived(&topic, &mut trial, 4);
    let alone = all[1];
    forget(&trial, &topic, alone);
    let failpoint = [("SILTSTONE_FAILPOINT", "claim-put:before:1")];
    let aborted = backfill_in(&failpoint, &trial, &topic, &["--missing"]).wait(DEADLINE);
    assert_eq!((aborted.signal, announced(&aborted)), (Some(6), vec![alone]), "{}", aborted.err);
    topic.delete_to(0, alone.2 - 1);
    let offsets = format!("[{}, {})", alone.1, alone.2 - 1);
    let stopped = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(5);
    let name = events(&stopped)["job"]["job"]["name"].as_str().expect("a name").to_string();
    stopped.says(&[offsets.as_str(), "--cancel", name.as_str()]);
    assert!(!ranges(&trial.archive()).contains(&alone));
    backfill(&trial, &topic, &["--job", &name, "--cancel"]).wait(DEADLINE).expect(0);
    let left = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(kept(&left), [(alone.1, alone.2, json!(alone.2 - 1))]);
    assert_eq!(data(&trial.archive()), data(&before));
}

/// Goal: only what a job itself finds absent or lost makes it end with 8; what receipts said before is told.
#[test]
fn what_receipts_said_before_is_told_and_does_not_count() {
    let topic = Topic::create(1);
    topic.send_good(0, 3_000, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.kafka = "instance_id = \"one\"\nstart = \"latest\"".to_string();
    trial.drain().expect(0);
    topic.delete_to(0, 1_500);
    backfill(&trial, &topic, &["--from-offset", "0", "--chunk", "1000"]).wait(DEADLINE).expect(0);
    let before = trial.archive();
    let batch = (0, 1_000, 2_000);
    delete_objects(&trial, &before, batch);
    let balance = |ended: &Ended| {
        let balance = events(ended)["balance"]["balance"].clone();
        ["absent", "absent_before", "lost", "lost_before"].map(|key| balance[key].as_u64().expect("a number"))
    };
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(0);
    assert_eq!((announced(&mended), balance(&mended)), (vec![batch], [500, 500, 0, 0]));
    assert_eq!(data(&trial.archive()), data(&before));
    delete_objects(&trial, &before, batch);
    topic.delete_to(0, 2_000);
    let lost = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(balance(&lost), [500, 500, 500, 0]);
    assert_eq!(verified(&trial, 0, &[]), json!({}));
}

/// Goal: what is wrong and not mended by archiving again makes the command end as `verify` would, whether or not there is anything else to mend.
#[test]
fn what_lies_beside_counts() {
    let topic = Topic::create(1);
    topic.send_good(0, 3_000, 1);
    let mut trial = Trial::on_disk(&topic);
    let (before, all) = archived(&topic, &mut trial, 3);
    let original = objects(&before, all[0])[0].clone();
    let digits = |first: i64| format!("{first:020}-");
    let copy = original.replace(&digits(all[0].1), &digits(all[0].1 + 1));
    assert_ne!(copy, original);
    trial.put(&copy, before.objects[&original].clone());
    let told = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(events(&told)["found"]["besides"], json!({"unvouched": 1}));
    delete_objects(&trial, &before, all[1]);
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(announced(&mended), [all[1]]);
    assert_eq!(verified(&trial, 8, &[]), json!({"unvouched": 1}));
    trial.remove(&copy);
    backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(0);
    assert_eq!(data(&trial.archive()), data(&before));
}

/// Goal: a fold that cannot be read stops what it may vouch for, with its name and what to do, and nothing else of its Kafka partition. Method: two
/// batches lose their receipts to a fold that is no fold; batches before, behind and further on lose their objects.
#[test]
fn a_damaged_fold_stops_only_what_it_may_have() {
    let topic = Topic::create(1);
    topic.send_good(0, 7_000, 1);
    let mut trial = Trial::on_disk(&topic);
    let (before, all) = archived(&topic, &mut trial, 6);
    let (first, end) = (all[1].1, all[2].2);
    let fold = format!("_siltstone/receipts/v1/{}/00000/folded/{first:020}-{end:020}.jsonl.gz", topic.name);
    trial.put(&fold, b"no gzip".to_vec());
    [all[1], all[2]].into_iter().for_each(|range| trial.remove(&document(&topic, range, "json")));
    let gone = [all[0], all[3], all[5]];
    gone.into_iter().for_each(|range| delete_objects(&trial, &before, range));
    let mended = backfill(&trial, &topic, &["--missing"]).wait(DEADLINE).expect(8);
    assert_eq!(announced(&mended), gone);
    let blocked = events(&mended)["found"]["blocked"].to_string();
    assert!(blocked.contains(&fold) && blocked.contains("put it back"), "{blocked}");
    assert_eq!(data(&trial.archive()), data(&before));
    let run = |arguments: &[&str]| backfill(&trial, &topic, arguments).wait(DEADLINE);
    let (below, from) = (first.to_string(), end.to_string());
    run(&[]).expect(5).says(&[fold.as_str(), "put it back", "--from-offset", &below, &from]);
    run(&["--from-offset", &from]).expect(0).prints(&["\"ranges\":[]"]);
    // What no receipt vouches for behind it is archived, and no batch of it redone.
    let last = all[all.len() - 1];
    forget(&trial, &topic, last);
    delete_objects(&trial, &before, last);
    run(&["--from-offset", &from, "--chunk", "1000000"]).expect(0);
    trial.remove(&fold);
    for range in [all[1], all[2]] {
        let key = document(&topic, range, "json");
        trial.put(&key, before.objects[&key].clone());
    }
    assert_eq!(data(&trial.archive()), data(&before));
    assert_eq!(verified(&trial, 0, &["--deep"]), json!({}));
}
