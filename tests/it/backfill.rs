//! Ranges archived beside the live group: once, whoever is killed, and nothing that is vouched for again.

use crate::support::archive::Archive;
use crate::support::configuration::Trial;
use crate::support::kafka::{BASE_MS, Shape, Topic, committed, good};
use crate::support::process::Running;
use crate::support::{DEADLINE, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use siltstone::effect::{Effect, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A live group that began at the end of what was there, and has archived nothing of it.
fn begun_late(topic: &Topic, mut trial: Trial) -> Trial {
    trial.kafka = "start = \"latest\"\n[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    trial.drain().expect(0);
    assert!(trial.archive().receipts().is_empty());
    for (partition, end) in topic.ends() {
        assert_eq!(committed(&trial.group, topic, i32::try_from(partition).unwrap()).unwrap().0, end);
    }
    trial
}

fn backfill(trial: &Trial, topic: &Topic, arguments: &[&str]) -> Running {
    let mut all = vec!["--topic", topic.name.as_str(), "--json", "--log-level", "info"];
    all.extend_from_slice(arguments);
    trial.start_in(&[], "backfill", &all)
}

/// The last line that it printed.
fn last_line(out: &str) -> Value {
    serde_json::from_str(out.lines().last().expect("a line")).expect("JSON")
}

/// First offsets and ends of all receipts of a Kafka partition, in order.
fn ranges(archive: &Archive, partition: i64) -> Vec<(i64, i64)> {
    let of = archive.receipts();
    let of = of.iter().filter(|receipt| receipt["partition"] == partition);
    let range = |receipt: &Value| (receipt["first"].as_i64().unwrap(), receipt["end"].as_i64().unwrap());
    let mut ranges: Vec<_> = of.map(range).collect();
    ranges.sort_unstable();
    ranges
}

/// Goal: while the live group goes on, three processes of one job archive what is older, two of them are killed in the middle and one is added;
/// every record is archived once, batches end where the job says, and to run the job again changes nothing.
#[test]
fn a_job_of_several_processes_that_are_killed_archives_each_offset_once() {
    let topic = Topic::create(3);
    topic.send_good(0, 24_000, 3);
    let mut trial = begun_late(&topic, Trial::on_s3(&topic));
    trial.rotate = "records = 500\nage = \"1s\"".to_string();
    let live = trial.start(&[]);
    topic.send_good(24_000, 1_000, 3);
    let arguments = ["--chunk", "1000", "--job", "older", "--to-offset", "8000"];
    let start = || backfill(&trial, &topic, &arguments);
    let mut processes = vec![start(), start(), start()];
    for round in 0..2 {
        until("a batch of the job is committed", DEADLINE, || {
            processes.iter().any(|one| one.err().contains("batch committed")).then_some(())
        });
        topic.send_good(25_000 + round * 500, 500, 3);
        processes.remove(0).signal(Signal::KILL);
        processes.push(start());
    }
    for process in processes {
        let ended = process.wait(Duration::from_secs(120)).expect(0);
        let balance = last_line(&ended.out);
        assert_eq!(balance["event"], "balance", "{balance}");
        let balance = &balance["balance"];
        assert_eq!(
            (&balance["offsets"], &balance["read"], &balance["left"]),
            (&json!(24_000), &json!(24_000), &json!(0))
        );
        assert_eq!((&balance["absent"], &balance["batches"]), (&json!(0), &json!(24)));
    }
    trial.until_all_committed(&topic);
    live.stop().expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..26_000).collect::<Vec<_>>());
    for partition in 0..3 {
        let job: Vec<_> = ranges(&archive, partition).into_iter().filter(|&(first, _)| first < 8_000).collect();
        assert_eq!(job, (0..8).map(|chunk| (chunk * 1000, (chunk + 1) * 1000)).collect::<Vec<_>>());
    }
    let again = backfill(&trial, &topic, &arguments).wait(DEADLINE).expect(0);
    assert_eq!(last_line(&again.out)["balance"]["read"], 24_000);
    assert!(again.out.contains("\"ended\":true"), "{}", again.out);
    assert_eq!(trial.archive().objects, archive.objects);
}

/// Goal: only what no receipt vouches for is archived, and it gets the names it had.
#[test]
fn what_receipts_vouch_for_is_skipped_and_counted() {
    let topic = Topic::create(1);
    topic.send_good(0, 5_000, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 1000".to_string();
    let before = trial.drained(&topic);
    assert_eq!(ranges(&before, 0).len(), 5);
    let all = backfill(&trial, &topic, &[]).wait(DEADLINE).expect(0);
    assert!(all.out.contains("\"skipped\":5000"), "{}", all.out);
    let lost = |first: i64| {
        let gone = |key: &&String| key.contains(&format!("+{first:020}-")) || key.contains(&format!("/{first:020}."));
        let keys: Vec<String> = before.objects.keys().filter(gone).cloned().collect();
        assert!(keys.len() >= 3, "{keys:?}");
        keys.iter().for_each(|key| trial.remove(key));
    };
    let (first, end) = ranges(&before, 0)[2];
    lost(first);
    let dry = backfill(&trial, &topic, &["--job", "hole", "--dry-run", "--chunk", "1000000"]).wait(DEADLINE).expect(0);
    let line = last_line(&dry.out);
    assert_eq!(line["job"]["ranges"], json!([{"partition": 0, "first": first, "end": end}]));
    assert_eq!(line["estimate"]["offsets"], end - first);
    assert!(trial.archive().objects.keys().all(|key| !key.contains("/jobs/")), "a dry run stores no job");
    backfill(&trial, &topic, &["--job", "hole", "--chunk", "1000000"]).wait(DEADLINE).expect(0);
    let after = trial.archive();
    after.assert_even(&topic);
    let data =
        |archive: &Archive| -> BTreeSet<String> { archive.data_keys().into_iter().map(str::to_string).collect() };
    assert_eq!(data(&after), data(&before));
}

/// Goal: a job goes only where nobody else does: not beyond the live group, and not into another job.
#[test]
fn a_job_that_others_could_meet_is_refused() {
    let topic = Topic::create(2);
    topic.send_good(0, 4_000, 2);
    let trial = begun_late(&topic, Trial::on_disk(&topic));
    topic.send_good(4_000, 100, 2);
    let run = |arguments: &[&str]| backfill(&trial, &topic, arguments).wait(DEADLINE);
    run(&["--to-offset", "2001"]).expect(2).says(&["--to-offset 2001", "2000", trial.group.as_str()]);
    run(&["--from-offset", "2000"]).expect(2).says(&["--from-offset 2000", trial.group.as_str()]);
    run(&["--partition", "0-2"]).expect(2).says(&["not 2"]);
    run(&["--job", "a/b"]).expect(2).says(&["letters, digits"]);
    // Its process cannot upload, so it has not ended.
    let way = trial.block(&topic);
    let mut stuck = backfill(&trial, &topic, &["--job", "one", "--partition", "0", "--chunk", "1000"]);
    stuck.until_says("batch sealed");
    run(&["--job", "two", "--from-offset", "1000"]).expect(5).says(&["one", "two", "--cancel"]);
    run(&["--job", "one", "--partition", "1"]).expect(2).says(&["was made for"]);
    run(&["--job", "three", "--cancel"]).expect(2).says(&["no job three"]);
    run(&["--job", "one", "--partition", "0", "--cancel"]).expect(0).prints(&["cancelled"]);
    stuck.signal(Signal::KILL);
    std::fs::remove_file(way).unwrap();
    run(&["--job", "one", "--partition", "0", "--chunk", "5000"]).expect(5).says(&[
        "job one has ended",
        "2000 offsets",
        "cancelled",
    ]);
    // It begins inside the claim that the cancelled job has left, which is finished whole.
    run(&["--job", "inside", "--partition", "0", "--from-offset", "500", "--to-offset", "700", "--chunk", "5000"])
        .expect(0);
    assert_eq!(ranges(&trial.archive(), 0), [(0, 1000)]);
    // What was refused has spent no name.
    run(&["--job", "two", "--parallel", "1"]).expect(0);
    trial.drained(&topic);
    run(&["--from-offset", "2000", "--to-offset", "1000"]).expect(2).says(&["--from-offset 2000", "--to-offset 1000"]);
}

/// Goal: a process that goes on with a job that was cancelled meets no other job: it finishes what it has claimed, and claims nothing more.
#[test]
fn a_cancelled_job_stops_at_its_next_batch() {
    let topic = Topic::create(1);
    topic.send_good(0, 4_000, 1);
    let trial = begun_late(&topic, Trial::on_disk(&topic));
    let way = trial.block(&topic);
    let stuck = backfill(&trial, &topic, &["--job", "one", "--chunk", "1000"]);
    let claim = trial.root().join(format!("_siltstone/receipts/v1/{}/00000/{:020}.claim", topic.name, 0));
    until("a batch is claimed", DEADLINE, || claim.exists().then_some(()));
    backfill(&trial, &topic, &["--job", "one", "--cancel"]).wait(DEADLINE).expect(0).prints(&["cancelled"]);
    std::fs::remove_file(way).unwrap();
    stuck.wait(DEADLINE).expect(5).says(&["job one was cancelled"]);
    assert_eq!(ranges(&trial.archive(), 0), [(0, 1000)]);
    backfill(&trial, &topic, &["--job", "two", "--chunk", "1500"]).wait(DEADLINE).expect(0);
    assert_eq!(ranges(&trial.archive(), 0), [(0, 1000), (1000, 1500), (1500, 3000), (3000, 4000)]);
    trial.drained(&topic);
}

/// Goal: a range of times takes every record of that time, whatever the order in which they lie. Method: the last one of the hour lies behind a
/// record of the next hour, which Kafka's own look-up finds first.
#[test]
fn a_range_of_times_takes_records_that_are_out_of_order() {
    let topic = Topic::create(1);
    let minutes = [0_i64, 10, 59, 61, 70, 58, 90, 120];
    topic.send_all(minutes.iter().enumerate().map(|(id, minute)| good(id as u64).at(BASE_MS + minute * 60_000)));
    let trial = begun_late(&topic, Trial::on_disk(&topic));
    let time = |minute: i64| {
        let at = chrono::DateTime::from_timestamp_millis(BASE_MS + minute * 60_000).unwrap();
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    let (from, to) = (time(5), time(60));
    let ended = backfill(&trial, &topic, &["--from-time", &from, "--to-time", &to]).wait(DEADLINE).expect(0);
    assert_eq!(last_line(&ended.out)["balance"]["read"], 5);
    assert_eq!(ranges(&trial.archive(), 0), [(1, 6)]);
}

/// Goal: what Kafka has deleted meanwhile is absent: told, counted, and vouched for as such.
#[test]
fn what_kafka_has_no_more_is_absent() {
    let topic = Topic::create(1);
    topic.send_good(0, 3_000, 1);
    let trial = begun_late(&topic, Trial::on_disk(&topic));
    topic.delete_to(0, 1_500);
    let arguments = ["--from-offset", "0", "--chunk", "1000"];
    let ended = backfill(&trial, &topic, &arguments).wait(DEADLINE).expect(0);
    let balance = &last_line(&ended.out)["balance"];
    assert_eq!((&balance["offsets"], &balance["absent"], &balance["read"]), (&json!(3000), &json!(1500), &json!(1500)));
    assert_eq!(ranges(&trial.archive(), 0), [(0, 1000), (1000, 2000), (2000, 3000)]);
}

/// Goal: a process that archives one Kafka partition at a time infers its schema from all that it holds, not from the first one's records alone.
#[test]
fn a_schema_is_inferred_from_partitions_that_wait_for_their_turn() {
    let topic = Topic::create(3);
    let fields = ["first", "second", "third"];
    topic.send_all(fields.iter().zip(0..).flat_map(|(field, partition)| {
        let record = move |id: i32| Shape::of(format!(r#"{{"id":{},"{field}":true}}"#, partition * 100 + id));
        (0..50).map(move |id| Shape { partition, ..record(id).at(BASE_MS) })
    }));
    let inferring = "[[archive.output]]\nformat = { type = \"parquet\", schema = \"infer\" }";
    let trial = begun_late(&topic, Trial::on_disk(&topic).with(inferring));
    backfill(&trial, &topic, &["--parallel", "1"]).wait(DEADLINE).expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    let rows = archive.parquet(&topic.name);
    for field in fields {
        assert_eq!(rows.iter().filter(|row| row[field] == true).count(), 50, "{field}");
    }
}

const SIGABRT: i32 = 6;

/// Effects that only backfills have: the scenes of [`crate::failpoints`] have all others.
pub(crate) const EFFECTS: [Effect; 2] = [Effect::JobPut, Effect::JobEnd];

/// Goal: a backfill that is aborted at any effect outside of its process is finished by the same command, with each id once. Method: as in
/// [`crate::failpoints`]; each abort has a job of its own on the same bare archive.
#[test]
fn a_backfill_that_is_aborted_at_any_effect_is_finished() {
    let topic = Topic::create(1);
    topic.send_good(0, 2_500, 1);
    let mut trial = begun_late(&topic, Trial::on_disk(&topic));
    // Whoever comes next takes the place of the one that was aborted at once, and waits for no session to end.
    trial.kafka = format!("instance_id = \"one\"\n{}", trial.kafka);
    let bare = trial.archive().objects;
    let restore = || {
        let now = trial.archive();
        now.objects.keys().filter(|key| !bare.contains_key(*key)).for_each(|key| trial.remove(key));
    };
    let run = |name: &str, environment: &[(&str, &str)]| {
        let arguments = ["--topic", topic.name.as_str(), "--json", "--chunk", "1000", "--job", name];
        trial.start_in(environment, "backfill", &arguments).wait(DEADLINE)
    };
    let all_there = |what: &str| {
        let archive = trial.archive();
        assert_eq!(archive.ids(&topic.name), (0..2_500).collect::<Vec<_>>(), "{what}");
        assert_eq!(ranges(&archive, 0), [(0, 1000), (1000, 2000), (2000, 2500)], "{what}");
    };
    let path = trial.dir().join("effects");
    run("undisturbed", &[("SILTSTONE_EFFECTS", path.to_str().expect("UTF-8"))]).expect(0);
    all_there("undisturbed");
    let mut counted: BTreeMap<Effect, u64> = BTreeMap::new();
    for name in std::fs::read_to_string(&path).expect("effects").lines() {
        let effect = Effect::ALL.iter().find(|effect| effect.name() == name).expect("a known effect");
        *counted.entry(*effect).or_default() += 1;
    }
    let kept = [Effect::StartCommit, Effect::PlanCommit, Effect::ClaimPut, Effect::ReceiptPut, Effect::EndCommit];
    EFFECTS.iter().chain(&kept).for_each(|effect| assert!(counted.contains_key(effect), "{effect:?}: {counted:?}"));
    let outside = |effect: &Effect| matches!(effect.place(), Place::Kafka | Place::Store);
    for (effect, count) in counted.into_iter().filter(|(effect, _)| outside(effect)) {
        for time in BTreeSet::from([1, count]) {
            for side in ["before", "after"] {
                restore();
                let failpoint = format!("{}:{side}:{time}", effect.name());
                let name = failpoint.replace(':', "-");
                let aborted = run(&name, &[("SILTSTONE_FAILPOINT", &failpoint)]);
                assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
                run(&name, &[]).expect(0);
                all_there(&failpoint);
            }
        }
    }
}
