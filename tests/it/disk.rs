//! A spool that goes wrong under the process: read-only, deleted, changed, another one. It is a cache: what it loses is read
//! again, and nothing of it that was changed reaches the bucket.

use crate::support::configuration::Trial;
use crate::support::disk::{Tmpfs, spooled};
use crate::support::kafka::{BASE_MS, Shape, Topic, good};
use crate::support::process::{free_address, get};
use crate::support::{DEADLINE, until};
use rustix::process::Signal;
use std::fs;

/// A read-only disk is an outage like a full one, and nothing is left on it afterwards.
#[test]
fn a_disk_that_turns_read_only_is_said_and_waited_out() {
    let topic = Topic::create(2);
    topic.send_good(0, 200, 2);
    let mut trial = Trial::on_disk(&topic);
    let disk = Tmpfs::mount(&trial.spool, "64m");
    trial.rotate = "age = \"1s\"".to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let mut running = trial.start(&[]);
    trial.until_all_committed(&topic);
    disk.remount("ro");
    topic.send_good(200, 200, 2);
    running.until_says("the spool failed");
    let said = running.err();
    assert!(said.contains("Read-only file system") && said.contains("will be read again"), "{said}");
    until("readiness says it", DEADLINE, || {
        let (status, text) = get(&address, "/readyz");
        (status == 503 && text.contains("spool: ")).then_some(())
    });
    assert!(running.is_running());
    disk.remount("rw");
    trial.until_all_committed(&topic);
    until("ready again", DEADLINE, || (get(&address, "/readyz").0 == 200).then_some(()));
    running.stop().expect(0);
    assert_eq!(spooled(disk.path()), Vec::<std::path::PathBuf>::new(), "left behind");
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..400).collect::<Vec<_>>());
}

/// Goal: a process whose spool was deleted as a whole, and another that starts into the folder of the same name, never share a
/// slot. Method: both work on after it, each in a slot of its own, and neither meets a file of the other.
#[test]
fn a_spool_deleted_under_a_process_is_not_shared_with_the_next_one() {
    let topic = Topic::create(4);
    topic.send_good(0, 400, 4);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 40\nage = \"1s\"".to_string();
    let first = trial.start(&[]);
    trial.until_all_committed(&topic);
    // At rest: nothing of a batch is deleted with it, so nothing needs to be read again.
    fs::remove_dir_all(&trial.spool).expect("deleted");
    let mut second = trial.start(&[]);
    second.until_says("partition taken over");
    let mut sent = 400;
    until("the first has taken a slot of its own", DEADLINE, || {
        topic.send_good(sent, 40, 4);
        sent += 40;
        first.err().contains("the spool was deleted or replaced under this process").then_some(())
    });
    assert!(trial.spool.join("slot-0/lock").exists() && trial.spool.join("slot-1/lock").exists());
    topic.send_good(sent, 400, 4);
    trial.until_all_committed(&topic);
    let ended = [first.stop().expect(0), second.stop().expect(0)];
    for ended in ended {
        assert!(ended.err.contains("batch committed"), "it did nothing:\n{}", ended.err);
        ended.hides(&["the spool failed", "could not delete"]);
    }
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..sent + 400).collect::<Vec<_>>());
}

/// Goal: what lies in the spool and is not what was sealed is noticed before anything of it is uploaded, and the batch is read
/// again as it was cut. Method: three batches wait for their store while one of them is cut short, one flipped, one deleted.
#[test]
fn parts_changed_between_seal_and_upload_are_read_again() {
    let topic = Topic::create(3);
    // All in one hour: one part a batch.
    topic.send_all((0..150).map(|id| Shape { partition: (id % 3) as i32, ..good(id).at(BASE_MS) }));
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 50".to_string();
    let address = free_address();
    trial.sections = format!("[http]\nlisten = \"{address}\"");
    let blocked = trial.block(&topic);
    let mut running = trial.start(&[]);
    until("three batches wait", DEADLINE, || {
        let waits = |partition: i32| {
            let tells = format!("partition={}/{partition} ", topic.name);
            running.err().lines().any(|line| line.contains("upload an object failed") && line.contains(&tells))
        };
        (0..3).all(waits).then_some(())
    });
    let parts = spooled(&trial.spool);
    assert_eq!(parts.len(), 3, "{parts:?}");
    let whole: Vec<Vec<u8>> = parts.iter().map(|part| fs::read(part).unwrap()).collect();
    let length = whole[0].len();
    fs::write(&parts[0], &whole[0][..length - 1]).unwrap();
    let mut flipped = whole[1].clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&parts[1], flipped).unwrap();
    fs::remove_file(&parts[2]).unwrap();
    let says = [
        format!("sealed with {length} bytes and is not the same any more: it has {} bytes", length - 1),
        "is not the same any more: its SHA-256 is another".to_string(),
        format!("read spool file {}: No such file", parts[2].display()),
    ];
    says.iter().for_each(|says| running.until_says(says));
    assert!(running.err().matches("the batch will be read again").count() >= 3);
    assert!(trial.archive().data_keys().iter().all(|key| *key == topic.name), "uploaded");
    fs::remove_file(blocked).unwrap();
    trial.until_all_committed(&topic);
    let failures = "siltstone_spool_failures_total 3";
    assert!(get(&address, "/metrics").1.lines().any(|line| line == failures), "not {failures}");
    running.stop().expect(0).says(&["redoing an unfinished batch"]);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.ids(&topic.name), (0..150).collect::<Vec<_>>());
    assert_eq!(archive.receipts().len(), 3, "each as it was cut");
}

/// The spool is a cache: who is killed over an open plan and comes back with another one redoes the plan from Kafka.
#[test]
fn a_process_restarted_with_another_spool_redoes_its_plan() {
    let topic = Topic::create(1);
    topic.send_good(0, 100, 1);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "records = 60".to_string();
    trial.sections = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    let blocked = trial.block(&topic);
    let mut running = trial.start(&[]);
    running.until_says("upload an object failed");
    running.signal(Signal::KILL);
    assert_eq!(running.wait(DEADLINE).code, None, "killed");
    let old = spooled(&trial.spool);
    assert!(!old.is_empty(), "the killed one leaves its part");
    fs::remove_file(blocked).unwrap();
    trial.spool = trial.dir().join("another/spool");
    trial.drain().expect(0).says(&["redoing an unfinished batch"]);
    let archive = trial.archive();
    archive.assert_even(&topic);
    assert_eq!(archive.receipts()[0]["end"], 60, "as it was cut");
    assert_eq!(archive.ids(&topic.name), (0..100).collect::<Vec<_>>());
    assert_eq!(spooled(&trial.dir().join("spool")), old, "nobody touches a spool that is not its own");
    assert_eq!(spooled(&trial.spool), Vec::<std::path::PathBuf>::new());
}
