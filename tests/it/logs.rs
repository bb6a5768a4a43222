//! What happens to Kafka's side under a running process: retention, a topic made again, offsets that somebody sets,
//! transactions, and a store that takes longer than Kafka lets a member be silent.

use crate::support::configuration::Trial;
use crate::support::kafka::{Shape, Topic, committed, good};
use crate::support::member::{commit_as_member, members};
use crate::support::process::{Running, free_address, get};
use crate::support::proxy::Proxy;
use crate::support::{DEADLINE, Stopwatch, pause, until};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Batches of a second, and a listener.
fn busy(topic: &Topic) -> (Trial, String) {
    let mut trial = Trial::on_disk(topic);
    trial.rotate = "age = \"1s\"".to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    (trial, address)
}

/// A process that has archived everything that is in the topic so far.
fn at_rest(trial: &Trial, topic: &Topic) -> Running {
    let mut running = trial.start(&[]);
    running.until_says("partition taken over");
    trial.until_all_committed(topic);
    running
}

#[test]
fn what_retention_took_is_counted_logged_and_in_the_receipt() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let (trial, address) = busy(&topic);
    trial.drained(&topic);
    topic.send_good(100, 200, 1);
    topic.delete_to(0, 250);
    let mut running = trial.start(&[]);
    running.until_says("Kafka deleted these offsets before they were read");
    trial.until_all_committed(&topic);
    until("the gap is counted", DEADLINE, || {
        get(&address, "/metrics").1.lines().any(|line| line == "siltstone_absent_offsets_total 150").then_some(())
    });
    running.stop().expect(0);
    let archive = trial.archive();
    archive.assert_as_named();
    let gaps: Vec<_> =
        archive.receipts().iter().filter_map(|receipt| receipt["balance"].get("absent").cloned()).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((&gaps[0][0]["first"], &gaps[0][0]["end"]), (&json!(100), &json!(250)));
    assert_eq!(archive.ids(&topic.name), (0..100).chain(250..300).collect::<Vec<_>>());
}

/// Goal: a topic that is deleted and made again under a running process, with a longer log than before, stops; no record of
/// the new one is taken for one of the old.
#[test]
fn a_topic_created_again_under_a_running_process_stops_until_the_generation_is_raised() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let (mut trial, address) = busy(&topic);
    let mut running = at_rest(&trial, &topic);
    let before = trial.archive().objects;
    let topic = topic.created_again();
    topic.send_good(100, 130, 1);
    running.until_says("was deleted and created again");
    let (status, text) = get(&address, "/readyz");
    assert!(
        status == 503 && text.contains(&format!("stopped {}/0", topic.name)) && text.contains("`generation`"),
        "{text}"
    );
    running.stop().expect(5).says(&["partition stopped", "stays stopped", "`generation`"]);
    assert_eq!(trial.archive().objects.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "mixed");
    trial.archive = "generation = 2".to_string();
    trial.drain().expect(0);
    let archive = trial.archive();
    archive.assert_as_named();
    assert_eq!(archive.ids(&topic.name), (0..230).collect::<Vec<_>>());
    assert!(before.iter().all(|(key, bytes)| archive.objects.get(key) == Some(bytes)), "the old one stays");
}

/// Goal: an offset that somebody sets under a running process, ahead or back, skips and doubles nothing, and is said.
#[test]
fn offsets_set_under_a_running_process_are_said_before_they_are_overwritten() {
    let topic = Topic::create(2);
    topic.send_good(0, 200, 2);
    let (trial, _) = busy(&topic);
    let mut running = at_rest(&trial, &topic);
    commit_as_member(&trial.group, &topic, &[(0, 150, ""), (1, 30, "by hand")]);
    assert_eq!(committed(&trial.group, &topic, 0), Some((150, String::new())), "Kafka takes it");
    topic.send_good(200, 200, 2);
    let said = |partition: i32, found: i64| format!("partition={}/{partition} first=100 found={found}", topic.name);
    running.until_says(&said(0, 150));
    running.until_says(&said(1, 30));
    // Both are below what was read, so only the archiver's own commit brings them there.
    (0..2).for_each(|partition| trial.until_committed(&topic, partition, 200, DEADLINE));
    running.stop().expect(0).says(&["somebody has set it", "stop every process of the group first"]);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..400).collect::<Vec<_>>());
}

/// Goal: where nothing is archived at the moment, an offset that somebody sets is found when it is read back, within about a
/// minute: one set ahead is said, one set back by a person stops the partition, one set back by an old commit of ours is
/// repaired. Three archives wait for that minute beside each other.
#[test]
fn offsets_set_at_rest_are_found_within_a_minute() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let topic = Topic::create(1);
            topic.send_good(0, 100, 1);
            let (trial, _) = busy(&topic);
            let mut running = at_rest(&trial, &topic);
            commit_as_member(&trial.group, &topic, &[(0, 150, "")]);
            running.until_says("set the group's committed offset ahead");
            topic.send_good(100, 100, 1);
            trial.until_committed(&topic, 0, 200, DEADLINE);
            running.stop().expect(0).says(&["expected=100 found=150"]);
            trial.archive().assert_even(&topic);
        });
        scope.spawn(|| {
            let topic = Topic::create(1);
            topic.send_good(0, 100, 1);
            let (trial, _) = busy(&topic);
            let mut running = at_rest(&trial, &topic);
            commit_as_member(&trial.group, &topic, &[(0, 30, "by hand")]);
            running.until_says("the committed offset has fallen behind");
            running.until_says("partition stopped");
            topic.send_good(100, 100, 1);
            running.stop().expect(5).says(&["committed offset 30", "reach offset 100", "--resume-from-receipts"]);
            assert_eq!(
                committed(&trial.group, &topic, 0),
                Some((30, "by hand".to_string())),
                "the operator's is left alone"
            );
            trial.start(&["--drain", "--resume-from-receipts"]).wait(DEADLINE).expect(0);
            trial.archive().assert_even(&topic);
        });
        scope.spawn(|| {
            let topic = Topic::create(1);
            topic.send_good(0, 60, 1);
            let (trial, address) = busy(&topic);
            let mut running = at_rest(&trial, &topic);
            let (offset, old) = committed(&trial.group, &topic, 0).unwrap();
            assert_eq!(offset, 60);
            topic.send_good(60, 60, 1);
            trial.until_committed(&topic, 0, 120, DEADLINE);
            commit_as_member(&trial.group, &topic, &[(0, 60, &old)]);
            running.until_says("receipts prove finished batches above the committed offset");
            trial.until_committed(&topic, 0, 120, DEADLINE);
            assert!(get(&address, "/metrics").1.lines().any(|line| line == "siltstone_offsets_behind_total 1"));
            topic.send_good(120, 30, 1);
            trial.until_all_committed(&topic);
            running.stop().expect(0).says(&["expected=120 found=Some(60)"]);
            trial.archive().assert_even(&topic);
        });
    });
}

/// Both isolations read one topic: transactions that end and are aborted in both partitions, the last marker at the log's
/// end, records without a transaction between them.
#[test]
fn both_isolations_archive_what_they_see_up_to_the_last_marker() {
    let topic = Topic::create(2);
    let both = |ids: std::ops::Range<u64>| ids.map(|id| Shape { partition: (id % 2) as i32, ..good(id) });
    topic.send_good(0, 20, 2);
    topic.transaction(both(20..60), true);
    topic.transaction(both(60..90), false);
    topic.send_good(90, 11, 2);
    topic.transaction(both(101..141), false);
    topic.transaction(both(141..161), true);
    topic.transaction([Shape { partition: 1, ..good(161) }], false);
    let committed_ids: Vec<u64> = (0..60).chain(90..101).chain(141..161).collect();
    let ends = BTreeMap::from([(0, 85), (1, 86)]);
    assert_eq!(topic.ends(), ends, "with four and five markers");
    for (isolation, sent, ids) in [
        ("read_committed", topic.sent(), committed_ids),
        ("read_uncommitted", topic.written(), (0..162).collect::<Vec<_>>()),
    ] {
        let mut trial = Trial::on_disk(&topic);
        trial.rotate = "records = 17".to_string();
        trial.kafka = format!("isolation = \"{isolation}\"");
        trial.drain().expect(0);
        let archive = trial.archive();
        archive.assert_even_with(&topic, &sent);
        assert_eq!(archive.ids(&topic.name), ids, "{isolation}");
        assert!(archive.receipts().len() >= 4, "several batches");
        for (&partition, &end) in &ends {
            let found = committed(&trial.group, &topic, i32::try_from(partition).unwrap());
            assert_eq!(found.map(|(offset, _)| offset), Some(end), "{isolation}: the marker at the end is covered");
        }
        let again = trial.drain().expect(0);
        assert!(!again.err.contains("batch sealed"), "{}", again.err);
    }
}

/// A transaction that is open holds `read_committed` back, also a drain's end; what is behind it comes when it is over.
#[test]
fn a_running_process_waits_behind_an_open_transaction() {
    let topic = Topic::create(1);
    topic.send_good(0, 50, 1);
    let (trial, _) = busy(&topic);
    let running = at_rest(&trial, &topic);
    topic.transaction_with([good(50), good(51)], true, || {
        topic.send_good(52, 48, 1);
        // Longer than a batch lasts.
        let watch = Stopwatch::start();
        while watch.elapsed() < Duration::from_secs(3) {
            assert_eq!(committed(&trial.group, &topic, 0).map(|(offset, _)| offset), Some(50), "read past an open one");
            pause();
        }
    });
    trial.until_all_committed(&topic);
    running.stop().expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..100).collect::<Vec<_>>());
}

/// Goal: uploads that take several times `max.poll.interval.ms` cost the process no partition: it is polled all the time.
/// Method: what it sends to the store is held back.
#[test]
fn a_store_slower_than_the_poll_interval_costs_no_membership() {
    let topic = Topic::create(2);
    let proxy = Proxy::to_s3();
    let mut trial = Trial::on_s3(&topic);
    trial.destination = trial.destination.replace(&crate::support::setting("S3_ENDPOINT"), &proxy.endpoint());
    trial.rotate = "records = 50\nage = \"1s\"".to_string();
    let interval = Duration::from_secs(6);
    // At most half of the interval.
    trial.kafka = "revoke_grace = \"2s\"".to_string();
    let client =
        ["session.timeout.ms", "max.poll.interval.ms"].map(|key| format!("\"{key}\" = \"{}\"\n", interval.as_millis()));
    trial.sections = format!("[kafka.client]\n{}", client.concat());
    topic.send_good(0, 200, 2);
    let mut running = at_rest(&trial, &topic);
    let before = members(&trial.group, 1);
    proxy.hold();
    // More than the batches that wait, so that reading is paused, too.
    topic.send_good(200, 400, 2);
    proxy.until_waiting();
    let watch = Stopwatch::start();
    while watch.elapsed() < interval * 5 / 2 {
        assert!(running.is_running(), "{}", running.err());
        pause();
    }
    assert_eq!(members(&trial.group, 1), before, "another member than before");
    for partition in 0..2 {
        let (offset, _) = committed(&trial.group, &topic, partition).expect("an offset");
        assert!((100..300).contains(&offset), "something went past the proxy: {offset}");
    }
    proxy.release();
    trial.until_all_committed(&topic);
    assert_eq!(members(&trial.group, 1), before, "another member than before");
    let ended = running.stop().expect(0).hides(&["partition lost", "partition revoked"]);
    assert_eq!(ended.err.matches("partition assigned").count(), 2, "{}", ended.err);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..600).collect::<Vec<_>>());
}
