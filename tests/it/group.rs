//! Group, bucket and cluster that contradict each other: stop and say so, never archive twice.

use crate::support::archive::counts;
use crate::support::configuration::Trial;
use crate::support::kafka::{Topic, commit, committed, delete_group};
use crate::support::unique;

/// A topic whose ten records were archived.
fn archived() -> (Topic, Trial) {
    let topic = Topic::create(1);
    topic.send_good(0, 10, 1);
    let trial = Trial::on_disk(&topic);
    trial.drained(&topic);
    (topic, trial)
}

#[test]
fn a_second_cluster_on_one_prefix_is_refused() {
    let (topic, trial) = archived();
    let before = trial.archive().objects;
    let own = serde_json::from_slice::<serde_json::Value>(&before["_siltstone/archive.json"]).expect("JSON");
    let own = own["cluster_id"].as_str().expect("an id");
    trial.edit_identity("cluster_id", "another-cluster-id");
    topic.send_good(10, 10, 1);
    trial.drain().expect(5).says(&["cluster", "another-cluster-id", own, "another prefix"]);
    trial.edit_identity("cluster_id", own);
    assert_eq!(trial.archive().data_keys().len(), before.keys().filter(|key| !key.starts_with('_')).count());
    assert_eq!(trial.drained(&topic).ids(&topic.name), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_renamed_group_is_refused() {
    let (topic, mut trial) = archived();
    let before = trial.archive().objects;
    let old = std::mem::replace(&mut trial.group, unique("renamed"));
    trial.drain().expect(5).says(&["group", &old, &trial.group, "set [kafka] group back"]);
    assert!(trial.archive().objects == before, "something was written");
    trial.group = old;
    topic.send_good(10, 5, 1);
    assert_eq!(trial.drained(&topic).counts("json"), counts(15, 0, 0));
}

#[test]
fn a_forgotten_group_does_not_double_what_receipts_vouch_for() {
    let (topic, trial) = archived();
    delete_group(&trial.group);
    topic.send_good(10, 10, 1);
    trial.drain().expect(5).says(&["the group has no committed offset", "reach offset 10", "--resume-from-receipts"]);
    assert_eq!(trial.archive().ids(&topic.name), (0..10).collect::<Vec<_>>());
    trial.start(&["--drain", "--resume-from-receipts"]).wait(crate::support::DEADLINE).expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..20).collect::<Vec<_>>());
    assert_eq!(trial.drained(&topic).objects, archive.objects);
}

#[test]
fn a_group_reset_by_hand_stops_with_both_offsets() {
    let (topic, trial) = archived();
    topic.send_good(10, 10, 1);
    commit(&trial.group, &topic, 0, 3, "");
    trial.drain().expect(5).says(&["committed offset 3", "reach offset 10", "--resume-from-receipts"]);
    assert_eq!(committed(&trial.group, &topic, 0), Some((3, String::new())), "the operator's offset is left alone");
    trial.start(&["--drain", "--resume-from-receipts"]).wait(crate::support::DEADLINE).expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..20).collect::<Vec<_>>());
}

/// Goal: who sets the offset ahead decides to skip records, and that is said; it is not taken for archived records.
#[test]
fn an_offset_set_ahead_by_hand_is_followed_and_said() {
    let (topic, trial) = archived();
    topic.send_good(10, 10, 1);
    commit(&trial.group, &topic, 0, 20, "");
    trial.drain().expect(0).says(&["committed offset 20 was set by hand", "archived_to=10"]);
    topic.send_good(20, 5, 1);
    trial.drain().expect(0).hides(&["set by hand"]);
    assert_eq!(trial.archive().ids(&topic.name), (0..10).chain(20..25).collect::<Vec<_>>());
}

#[test]
fn a_topic_created_again_stops_until_the_generation_is_raised() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let mut trial = Trial::on_disk(&topic);
    let before = trial.drained(&topic);
    let topic = topic.created_again();
    topic.send_good(100, 30, 1);
    trial.drain().expect(5).says(&["was deleted and created again", "`generation`"]);
    assert!(trial.archive().objects == before.objects, "nothing may be mixed");
    trial.archive = "generation = 2".to_string();
    trial.drain().expect(0);
    let archive = trial.archive();
    archive.assert_as_named();
    assert_eq!(archive.ids(&topic.name), (0..130).collect::<Vec<_>>());
    assert!(before.objects.iter().all(|(key, bytes)| archive.objects.get(key) == Some(bytes)), "the old one stays");
    // And from the old number there is no way back.
    trial.archive = "generation = 1".to_string();
    trial.drain().expect(5).says(&["raise `generation`"]);
}

/// One Kafka partition that waits for a person does not hold up another.
#[test]
fn a_stopped_partition_leaves_the_others_alone() {
    let topic = Topic::create(2);
    topic.send_good(0, 20, 2);
    let mut trial = Trial::on_disk(&topic);
    trial.drained(&topic);
    commit(&trial.group, &topic, 0, 3, "by hand");
    topic.send_good(20, 20, 2);
    trial.rotate = "age = \"1s\"".to_string();
    let address = crate::support::process::free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let mut running = trial.start(&[]);
    running.until_says("partition stopped");
    crate::support::until("partition 1 is archived", crate::support::DEADLINE, || {
        committed(&trial.group, &topic, 1).filter(|(offset, text)| *offset == 20 && text.contains("done"))
    });
    let (status, text) = crate::support::process::get(&address, "/readyz");
    assert_eq!(status, 503);
    assert!(text.contains(&format!("stopped {}/0", topic.name)) && text.contains("--resume-from-receipts"), "{text}");
    running.stop().expect(5).says(&["stays stopped", "--resume-from-receipts"]);
    trial.start(&["--drain", "--resume-from-receipts"]).wait(crate::support::DEADLINE).expect(0);
    trial.archive().assert_even(&topic);
}

/// The batch that an unfinished plan names is finished as it was planned, whatever the configuration says now.
#[test]
fn a_changed_layout_finishes_the_old_plan_first() {
    let topic = Topic::create(1);
    topic.send_good(0, 10, 1);
    let output =
        |folder: &str| format!("[[archive.output]]\nformat = \"json\"\nlayout = {{ path = \"{folder}/{{topic}}\" }}");
    let mut trial = Trial::on_disk(&topic).with(&output("old"));
    let archive = trial.drained(&topic);
    let prefix = "_siltstone/layouts/";
    let layouts: Vec<&String> = archive.objects.keys().filter(|key| key.starts_with(prefix)).collect();
    assert_eq!(layouts.len(), 1);
    let fingerprint = layouts[0].strip_prefix(prefix).unwrap().strip_suffix(".json").unwrap();
    let (offset, done) = committed(&trial.group, &topic, 0).expect("an offset");
    assert_eq!(offset, 10);
    // What a process leaves that dies right after its plan.
    let mut plan: serde_json::Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!(plan["state"], "done");
    plan["state"] = "plan".into();
    plan["end"] = 17.into();
    plan["layout"] = fingerprint.into();
    plan["spool"] = 1000.into();
    topic.send_good(10, 10, 1);
    commit(&trial.group, &topic, 0, 10, &plan.to_string());
    let shown = trial.command("inspect", &[]).expect(0);
    assert!(shown.out.contains("batch planned to 17"), "{}", shown.out);
    trial.archive = output("new");
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids("old/"), (0..17).collect::<Vec<_>>());
    assert_eq!(archive.ids("new/"), (17..20).collect::<Vec<_>>());
    let keys = archive.data_keys();
    let ends = |part: &str| keys.iter().filter(|key| key.ends_with(part)).count();
    assert_eq!(ends("+00000+00000000000000000010-00000000000000000017.json.gz"), 1, "{keys:?}");
    assert_eq!(ends("+00000+00000000000000000017-00000000000000000020.json.gz"), 1, "{keys:?}");
}

/// Claims and receipts lie at the first destination of the first output: another order of outputs does not leave them behind.
#[test]
fn another_first_destination_stops_until_it_is_put_back() {
    let topic = Topic::create(1);
    topic.send_good(0, 10, 1);
    let output = |name: &str, destination: &str| {
        format!("[[archive.output]]\nname = \"{name}\"\nformat = \"json\"\ndestination = \"{destination}\"\n")
    };
    let mut trial = Trial::on_disk(&topic);
    let second = trial.dir().join("second");
    trial.sections = format!("[destinations.second]\nurl = \"file://{}\"", second.display());
    let [first, other] = [output("a", "main") + &output("b", "second"), output("b", "second") + &output("a", "main")];
    trial.archive = first.clone();
    trial.drained(&topic);
    topic.send_good(10, 10, 1);
    trial.archive = other;
    trial.drain().expect(5).says(&["claims and receipts lie at file://", "/outside/archive", "/second", "first again"]);
    assert_eq!(trial.archive().ids(&topic.name), (0..10).collect::<Vec<_>>());
    trial.archive = first;
    assert_eq!(trial.drained(&topic).ids(&topic.name), (0..20).collect::<Vec<_>>());
}

/// A plan that this spool cannot hold is not begun.
#[test]
fn a_plan_larger_than_the_spool_stops_with_both_numbers() {
    let (topic, mut trial) = archived();
    let (_, done) = committed(&trial.group, &topic, 0).expect("an offset");
    let archive = trial.archive();
    let fingerprint = archive.receipts()[0]["fingerprint"].clone();
    let mut plan: serde_json::Value = serde_json::from_str(&done).expect("JSON");
    plan["state"] = "plan".into();
    plan["end"] = 20.into();
    plan["layout"] = fingerprint;
    plan["spool"] = 5_000_000_000_u64.into();
    topic.send_good(10, 10, 1);
    commit(&trial.group, &topic, 0, 10, &plan.to_string());
    trial.spool_limit = "1GiB".to_string();
    trial.drain().expect(5).says(&["5000000000", "1073741824", "[spool] limit"]);
    trial.spool_limit = "5GiB".to_string();
    trial.drained(&topic);
}
