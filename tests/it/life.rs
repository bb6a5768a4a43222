//! Starting, sharing, growing, stopping.

use crate::support::archive::counts;
use crate::support::configuration::Trial;
use crate::support::kafka::{Shape, Topic, committed, good};
use crate::support::process::{Running, free_address, get};
use crate::support::{DEADLINE, unique, until};
use rustix::process::Signal;
use std::time::Duration;

/// A batch that is never due by itself.
const NEVER: &str = "age = \"1d\"\ngrace = \"off\"";

#[test]
fn a_second_drain_archives_nothing() {
    let topic = Topic::create(2);
    topic.send_good(0, 200, 2);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 30".to_string();
    let first = trial.drained(&topic);
    assert!(first.receipts().len() > 2, "several batches");
    let again = trial.drain().expect(0);
    assert!(!again.err.contains("batch sealed"), "{}", again.err);
    assert!(trial.archive().objects == first.objects, "the second drain changed the archive");
}

#[test]
fn sigterm_archives_and_commits_what_is_open() {
    let topic = Topic::create(2);
    topic.send_good(0, 500, 2);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = NEVER.to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let mut running = trial.start(&[]);
    running.until_says("partition taken over");
    // Only what was read can be archived: wait for the first records of both partitions.
    until("parts are open", DEADLINE, || {
        let (_, text) = get(&address, "/metrics");
        let line = format!("siltstone_open_parts{{topic=\"{}\"}} ", topic.name);
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<f64>().ok()).filter(|&parts| parts >= 2.0)
    });
    assert_eq!(trial.archive().receipts().len(), 0, "nothing was due");
    let ended = running.stop().expect(0);
    assert!(ended.err.contains("batch committed"), "{}", ended.err);
    let archive = trial.archive();
    for receipt in archive.receipts() {
        assert_eq!(receipt["reason"], "shutdown");
        let (partition, end) = (receipt["partition"].as_i64().unwrap(), receipt["end"].as_i64());
        let found = committed(&trial.group, &topic, i32::try_from(partition).unwrap());
        assert_eq!(found.map(|(offset, _)| offset), end);
    }
    assert!(!archive.receipts().is_empty());
    trial.drained(&topic);
}

#[test]
fn a_second_signal_leaves_at_once_and_the_next_run_has_everything() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 60".to_string();
    // The process does not leave the group: the next one waits until it is counted out.
    trial.sections = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    let blocked = trial.block(&topic);
    let mut running = trial.start(&[]);
    running.until_says("upload an object failed");
    running.signal(Signal::TERM);
    running.until_says("shutting down");
    assert!(running.is_running(), "an upload still waits");
    running.signal(Signal::TERM);
    let ended = running.wait(Duration::from_secs(2)).expect(7);
    assert!(ended.err.contains("second signal"), "{}", ended.err);
    std::fs::remove_file(blocked).unwrap();
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids(&topic.name), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_shutdown_that_takes_too_long_says_that_it_is_incomplete() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 60".to_string();
    trial.sections = "[shutdown]\ntimeout = \"1s\"".to_string();
    let blocked = trial.block(&topic);
    let mut running = trial.start(&[]);
    running.until_says("upload an object failed");
    running.stop().expect(6).says(&["nothing is lost"]);
    std::fs::remove_file(blocked).unwrap();
    trial.drained(&topic);
}

/// Health says what is wrong while it is, and is well again afterwards.
#[test]
fn a_store_that_fails_degrades_and_recovers() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 50".to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let blocked = trial.block(&topic);
    let running = trial.start(&[]);
    until("readiness says what is retried", DEADLINE, || {
        let (status, text) = get(&address, "/readyz");
        (status == 503 && text.contains("retrying: upload an object")).then_some(())
    });
    assert_eq!(get(&address, "/healthz").0, 200);
    std::fs::remove_file(blocked).unwrap();
    trial.until_committed(&topic, 0, 100, DEADLINE);
    until("ready again", DEADLINE, || (get(&address, "/readyz").0 == 200).then_some(()));
    running.stop().expect(0);
    trial.archive().assert_even(&topic);
}

#[test]
fn two_processes_share_a_group_a_spool_and_a_bucket() {
    let topic = Topic::create(4);
    topic.send_good(0, 1000, 4);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 70\nage = \"1s\"".to_string();
    let mut first = trial.start(&[]);
    first.until_says("partition assigned");
    topic.send_good(1000, 1000, 4);
    let mut second = trial.start(&[]);
    second.until_says("partition assigned");
    topic.send_good(2000, 1000, 4);
    (0..4).for_each(|partition| trial.until_committed(&topic, partition, 750, DEADLINE));
    let errors = [first.stop().expect(0).err, second.stop().expect(0).err];
    assert!(errors.iter().all(|err| err.contains("batch committed")), "one of them did nothing");
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..3000).collect::<Vec<_>>());
}

#[test]
fn topics_by_pattern_and_new_partitions_are_found_within_a_minute() {
    let prefix = unique("app");
    let topic = |name: &str| Topic::named(&format!("{prefix}.{name}"), 1);
    let (old, debug, other) = (topic("old"), topic("debug.x"), Topic::named(&format!("x{prefix}.no"), 1));
    for topic in [&old, &debug, &other] {
        topic.send_good(0, 10, 1);
    }
    let later = unique("later");
    let mut trial = Trial::on_disk(&old);
    trial.topics = format!("[\"^{prefix}\\\\..*\", \"{later}\"]\nexclude = [\"^{prefix}\\\\.debug\\\\..*\"]");
    trial.rotate = "age = \"1s\"".to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let mut running = trial.start(&[]);
    running.until_says(&format!("topic {later} does not exist"));
    trial.until_committed(&old, 0, 10, DEADLINE);
    let minute = Duration::from_secs(60);
    let new = topic("new");
    let later = Topic::named(&later, 1);
    new.send_good(0, 10, 1);
    later.send_good(0, 10, 1);
    trial.until_committed(&new, 0, 10, minute);
    trial.until_committed(&later, 0, 10, minute);
    // Alone: the topics that appear would make the group look at the old ones, too.
    old.grow(2);
    old.send_all((100..105).map(|id| Shape { partition: 1, ..good(id) }));
    trial.until_committed(&old, 1, 5, minute);
    until("the missing topic is forgotten", DEADLINE, || (get(&address, "/readyz").0 == 200).then_some(()));
    running.stop().expect(0);
    let archive = trial.archive();
    archive.assert_even(&old);
    archive.assert_even(&new);
    archive.assert_even(&later);
    assert_eq!(archive.counts("json"), counts(35, 0, 0));
    assert_eq!(committed(&trial.group, &debug, 0), None);
    assert_eq!(committed(&trial.group, &other, 0), None);
}

#[test]
fn the_listener_serves_metrics_health_and_readiness() {
    let topic = Topic::create(1);
    topic.send_good(0, 50, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "age = \"1s\"".to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let running = trial.start(&["--log-format", "json"]);
    trial.until_committed(&topic, 0, 50, DEADLINE);
    assert_eq!(get(&address, "/healthz"), (200, "alive\n".to_string()));
    until("ready", DEADLINE, || (get(&address, "/readyz") == (200, "ready\n".to_string())).then_some(()));
    assert_eq!(get(&address, "/elsewhere").0, 404);
    let archived = "siltstone_records_total{archive=\"it\",output=\"json\",outcome=\"archived\"} 50";
    until("fifty records are counted", DEADLINE, || {
        get(&address, "/metrics").1.lines().any(|line| line == archived).then_some(())
    });
    let (status, text) = get(&address, "/metrics");
    assert_eq!(status, 200);
    assert_metrics(&text);
    assert!(
        text.contains("# HELP siltstone_records_total ") && text.contains("# TYPE siltstone_records_total counter")
    );
    let ended = running.stop().expect(0);
    for line in ended.err.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
}

/// Every line is a comment, or `name{label="value",…} number`; every sample's family has a type.
fn assert_metrics(text: &str) {
    let sample = regex::Regex::new(
        r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(\\.|[^"\\])*"(,[a-zA-Z_][a-zA-Z0-9_]*="(\\.|[^"\\])*")*\})? (\S+)$"#,
    )
    .unwrap();
    let mut typed = std::collections::BTreeSet::new();
    let mut samples = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            assert!(matches!(words[0], "HELP" | "TYPE") && words.len() == 3, "{line}");
            if words[0] == "TYPE" {
                assert!(typed.insert(words[1].to_string()), "two types: {line}");
            }
            continue;
        }
        let found = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
        assert!(typed.contains(&found[1]), "no type: {line}");
        assert!(found[6].parse::<f64>().is_ok(), "{line}");
        samples += 1;
    }
    assert!(samples > 5, "{text}");
}

/// An unknown topic does not keep a process from starting, and is found when it comes.
#[test]
fn a_process_without_topics_runs_and_stops() {
    let topic = Topic::create(1);
    let mut trial = Trial::on_disk(&topic);
    trial.topics = format!("[\"{}\"]", unique("nothing"));
    let mut running: Running = trial.start(&[]);
    // The archive is begun before the group is joined.
    until("the archive is begun", DEADLINE, || trial.root().join("_siltstone/archive.json").exists().then_some(()));
    assert!(running.is_running());
    running.stop().expect(0);
    // A drain of nothing is a mistyped name, not a success.
    let topics = trial.topics.trim_matches(['[', ']', '"']).to_string();
    trial.drain().expect(3).says(&["no such topic", &topics]);
}
