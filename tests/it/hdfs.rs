//! HDFS as the destination, while its namenode is killed and started again under uploads. Nothing else may use HDFS meanwhile.

use crate::support::configuration::Trial;
use crate::support::kafka::{Topic, committed};
use crate::support::{DEADLINE, until};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PARTITIONS: i32 = 3;
/// How often the namenode is killed.
const KILLS: usize = 3;

fn services(action: &str, name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services.sh");
    let done = Command::new(script).args([action, name]).output().expect("scripts/services.sh runs");
    assert!(done.status.success(), "{action} {name}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Whatever happens, the namenode is there again for whoever comes next, and the load ends.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        services("start", "hdfs-1");
    }
}

/// Goal: a namenode that dies in the middle of uploads, and an archiver that is killed as well, lose and double nothing. Method: a load that
/// never rests; SIGKILL for the namenode, three times; what is there in the end is read through WebHDFS and by siltstone itself.
#[test]
fn a_namenode_that_is_killed_under_uploads_loses_and_doubles_nothing() {
    let topic = Topic::create(PARTITIONS);
    let mut trial = Trial::on_hdfs(&topic).with(
        "[[archive.output]]\nformat = \"json\"\n[[archive.output]]\nformat = \"parquet\"\n\
         layout = { path = \"parquet/{topic}\" }\n",
    );
    trial.rotate = "records = 100\nage = \"1s\"".to_string();
    trial.sections = "[kafka.client]\n\"session.timeout.ms\" = \"6000\"".to_string();
    let (over, produced) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _ending = Ending(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let first = produced.fetch_add(30, Ordering::Relaxed);
                topic.send_good(first, 30, PARTITIONS);
                for _ in 0..5 {
                    crate::support::pause();
                }
            }
        });
        let archived = || -> i64 {
            let ends = (0..PARTITIONS).filter_map(|partition| committed(&trial.group, &topic, partition));
            ends.map(|(end, _)| end).sum()
        };
        let more_is_archived = || {
            let before = archived();
            until("more is archived", DEADLINE, || (archived() > before + 500).then_some(()));
        };
        let mut archiver = trial.start(&[]);
        for round in 0..KILLS {
            more_is_archived();
            services("kill", "hdfs-1");
            if round == 1 {
                archiver.signal(Signal::KILL);
                assert_eq!(archiver.wait(DEADLINE).code, None);
                services("start", "hdfs-1");
                archiver = trial.start(&[]);
                continue;
            }
            // Long enough that uploads fail and are tried again.
            until("it was felt", DEADLINE, || archiver.err().contains("no connection").then_some(()));
            services("start", "hdfs-1");
        }
        more_is_archived();
        over.store(true, Ordering::Relaxed);
        archiver.stop().expect(0);
    });
    let count = produced.load(Ordering::Relaxed);
    let archive = trial.drained(&topic);
    let all: Vec<u64> = (0..count).collect();
    assert_eq!(archive.ids(&topic.name), all);
    let mut ids: Vec<u64> = archive.parquet("parquet/").iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, all);
    // And with our own readers.
    trial.command("verify", &[]).expect(0);
    let printed = trial.command("cat", &["--topic", &topic.name]).expect(0).out;
    let row = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let mut ids: Vec<u64> = printed.lines().map(row).map(|row| row["id"].as_u64().expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, all);
}
