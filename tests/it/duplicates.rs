//! Daemons that are started twice: they share the work or idle, or are refused. The archive is never inflated.

use crate::support::archive::Archive;
use crate::support::configuration::Trial;
use crate::support::kafka::{Topic, committed};
use crate::support::member::members;
use crate::support::unique;
use crate::support::{DEADLINE, until};
use rustix::process::Signal;

const SOON: &str = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"";

/// Goal: the same configuration started twice at the same moment, on a prefix and a spool that nobody used before, archives
/// everything once. (Two collectors that were doubled by mistake once made an archive of 18/16 of its input.)
#[test]
fn the_same_configuration_started_twice_at_once_archives_everything_once() {
    let topic = Topic::create(4);
    topic.send_good(0, 1000, 4);
    let mut trial = Trial::on_s3(&topic);
    trial.rotate = "records = 60\nage = \"1s\"".to_string();
    let twins = [trial.start(&[]), trial.start(&[])];
    members(&trial.group, 2);
    topic.send_good(1000, 1000, 4);
    trial.until_all_committed(&topic);
    assert!(trial.spool.join("slot-0/lock").exists() && trial.spool.join("slot-1/lock").exists());
    for twin in twins {
        twin.stop().expect(0).hides(&["the spool failed", "partition stopped"]);
    }
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..2000).collect::<Vec<_>>());
}

/// Goal: where there is nothing to share the second one idles, and takes over when the first dies over an open batch.
#[test]
fn a_second_process_without_partitions_idles_until_the_first_dies() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 60\nage = \"1s\"".to_string();
    trial.sections = SOON.to_string();
    let mut first = trial.start(&[]);
    first.until_says("partition assigned");
    trial.until_all_committed(&topic);
    let mut second = trial.start(&[]);
    members(&trial.group, 2);
    topic.send_good(100, 100, 1);
    trial.until_all_committed(&topic);
    let [working, idle] = match second.err().contains("partition taken over") {
        // The assignor may have moved the partition.
        true => [&mut second, &mut first],
        false => [&mut first, &mut second],
    };
    assert!(idle.is_running() && working.is_running());
    let sealed = idle.err().matches("batch sealed").count();
    topic.send_good(200, 100, 1);
    trial.until_all_committed(&topic);
    assert_eq!(idle.err().matches("batch sealed").count(), sealed, "the idle one worked");
    topic.send_good(300, 30, 1);
    working.signal(Signal::KILL);
    topic.send_good(330, 70, 1);
    trial.until_all_committed(&topic);
    assert!(idle.err().contains("partition taken over"));
    let idle_is_second = second.is_running();
    let idle = if idle_is_second { second } else { first };
    idle.stop().expect(0);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..400).collect::<Vec<_>>());
}

/// Goal: of two daemons with different groups that start on one new prefix at the same moment one is refused before it writes
/// anything, and the other archives everything once.
#[test]
fn two_groups_started_at_once_on_one_prefix_are_one_too_many() {
    let topic = Topic::create(2);
    topic.send_good(0, 300, 2);
    for mut trial in [Trial::on_disk(&topic), Trial::on_s3(&topic)] {
        trial.rotate = "records = 50\nage = \"1s\"".to_string();
        let groups = [trial.group.clone(), unique("g")];
        let mut daemons: Vec<_> = groups
            .iter()
            .map(|group| {
                trial.group.clone_from(group);
                let name = format!("{group}.toml");
                trial.start_from(&name, &[])
            })
            .collect();
        let refused =
            until("one of them is refused", DEADLINE, || daemons.iter_mut().position(|one| !one.is_running()));
        let ended = daemons.remove(refused).wait(DEADLINE).expect(5);
        let [loser, winner] = [&groups[refused], &groups[1 - refused]];
        let ended = ended.says(&["group", loser, winner]);
        assert!(!ended.err.contains("partition assigned"), "{}", ended.err);
        trial.group.clone_from(winner);
        trial.until_all_committed(&topic);
        daemons.remove(0).stop().expect(0);
        let archive: Archive = trial.archive();
        archive.assert_even(&topic);
        assert_eq!(archive.ids(&topic.name), (0..300).collect::<Vec<_>>());
        trial.group.clone_from(loser);
        assert_eq!(committed(&trial.group, &topic, 0), None, "the refused one committed nothing");
    }
}
