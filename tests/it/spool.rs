//! A spool without room: reading waits, nothing is lost.

use crate::support::configuration::Trial;
use crate::support::disk::Tmpfs;
use crate::support::kafka::{Shape, Topic};
use crate::support::{DEADLINE, until};

/// `count` records of hardly compressible JSON, about `bytes` each, over `partitions` and `hours`.
fn incompressible(topic: &Topic, count: u64, bytes: usize, partitions: i32, hours: u64) {
    let mut state = 1_u64;
    topic.send_all((0..count).map(|id| {
        let text: String = (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b' ' + 3 + ((state >> 33) % 56) as u8)
            })
            .collect();
        let time = crate::support::kafka::BASE_MS + (id / partitions as u64 % hours) as i64 * 3_600_000;
        Shape {
            partition: (id % partitions as u64) as i32,
            ..Shape::of(format!(r#"{{"id":{id},"text":"{}"}}"#, text.replace('\\', "/"))).at(time)
        }
    }));
}

#[test]
fn a_backlog_larger_than_the_spool_is_sealed_in_pieces() {
    let topic = Topic::create(2);
    // In each batch no part comes near rotate.size, but all of them together exceed the limit several times.
    incompressible(&topic, 3000, 10_000, 2, 24);
    let mut trial = Trial::on_disk(&topic);
    trial.rotate = "size = \"1MiB\"\nage = \"1d\"".to_string();
    trial.spool_limit = "2MiB".to_string();
    trial.sections = "[memory]\nbudget = \"64MiB\"".to_string();
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids(&topic.name), (0..3000).collect::<Vec<_>>());
    let reasons: Vec<String> = archive.receipts().iter().map(|one| one["reason"].to_string()).collect();
    assert!(reasons.iter().any(|reason| reason == "\"pressure\""), "{reasons:?}");
}

/// The least budget with the largest pieces and row groups that it allows, and parts of several of each.
#[test]
fn the_least_budget_archives_parts_of_many_pieces() {
    let topic = Topic::create(1);
    incompressible(&topic, 4000, 10_000, 1, 1);
    let mut trial = Trial::on_s3(&topic).with(
        "[[archive.output]]\nformat = { type = \"json\", level = 1 }\n\
         [[archive.output]]\nformat = { type = \"parquet\", row_group_bytes = \"8MiB\" }\n",
    );
    trial.rotate = "size = \"25MiB\"\nage = \"1d\"".to_string();
    trial.sections = "[memory]\nbudget = \"64MiB\"\n[upload]\npart_size = \"8MiB\"\nconcurrency = 256".to_string();
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids(&topic.name), (0..4000).collect::<Vec<_>>());
    let largest = archive.objects.values().map(Vec::len).max();
    assert!(largest.is_some_and(|bytes| bytes > 16 << 20), "an object of three pieces: {largest:?}");
}

/// The disk is smaller than `[spool] limit` says, and something else fills it.
#[test]
fn a_full_disk_is_said_and_waited_out() {
    let topic = Topic::create(2);
    incompressible(&topic, 2000, 4000, 2, 4);
    let mut trial = Trial::on_disk(&topic);
    let disk = Tmpfs::mount(&trial.spool, "6m");
    trial.rotate = "size = \"1MiB\"\nage = \"2s\"".to_string();
    trial.spool_limit = "1GiB".to_string();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0_u8; 5 << 20]).unwrap();
    let address = crate::support::process::free_address();
    trial.sections = format!("[memory]\nbudget = \"64MiB\"\n[http]\nlisten = \"{address}\"");
    let mut running = trial.start(&[]);
    running.until_says("the spool failed");
    let said = running.err();
    assert!(said.contains("No space left on device") && said.contains("will be read again"), "{said}");
    until("readiness says it", DEADLINE, || {
        let (status, text) = crate::support::process::get(&address, "/readyz");
        (status == 503 && text.contains("spool: ")).then_some(())
    });
    assert!(running.is_running());
    std::fs::remove_file(&ballast).expect("the ballast");
    until("ready again", DEADLINE, || {
        let (status, text) = crate::support::process::get(&address, "/readyz");
        assert!(status == 200 || text.contains("spool: "), "{text}");
        (status == 200).then_some(())
    });
    running.stop().expect(0);
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids(&topic.name), (0..2000).collect::<Vec<_>>());
}

/// The spool cannot be made at all.
#[test]
fn an_unusable_spool_is_an_error_at_the_start() {
    let topic = Topic::create(1);
    let mut trial = Trial::on_disk(&topic);
    let file = trial.dir().join("file");
    std::fs::write(&file, "").unwrap();
    trial.spool = file.join("spool");
    trial.drain().expect(2).says(&["spool folder", &trial.spool.display().to_string()]);
}
