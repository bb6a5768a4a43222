//! Life as in Kubernetes: replicas replaced one by one under load, each time with an empty spool, some without warning.

use crate::support::configuration::Trial;
use crate::support::kafka::Topic;
use crate::support::member::members;
use crate::support::process::Running;
use crate::support::{DEADLINE, Stopwatch, until};
use rustix::process::Signal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const REPLICAS: usize = 3;
const PARTITIONS: i32 = 6;
/// What a pod is given between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(30);

/// A pod: the same configuration, a spool of its own that did not exist before.
fn pod(trial: &Trial, folder: &Path, number: usize) -> Running {
    let spool = folder.join(format!("pod-{number}"));
    assert!(!spool.exists());
    trial.start_from(&format!("pod-{number}.toml"), &[("POD_SPOOL", spool.to_str().unwrap())])
}

/// Two roll-outs of all replicas one by one, and between them one that is killed and comes back with an empty disk.
#[test]
fn a_rolling_update_under_load_loses_and_doubles_nothing() {
    let topic = Topic::create(PARTITIONS);
    let mut trial = Trial::on_s3(&topic).with(
        "[[archive.output]]\nformat = \"json\"\n[[archive.output]]\nformat = \"parquet\"\n\
         layout = { path = \"parquet/{topic}\" }\n",
    );
    let folder = tempfile::tempdir().unwrap();
    trial.spool = "${POD_SPOOL}".into();
    trial.rotate = "records = 150\nage = \"1s\"".to_string();
    trial.sections = format!(
        "[shutdown]\ntimeout = \"{}s\"\n[kafka.client]\n\"session.timeout.ms\" = \"6000\"",
        GRACE.as_secs() - 5
    );
    let (over, produced) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let first = produced.fetch_add(30, Ordering::Relaxed);
                topic.send_good(first, 30, PARTITIONS);
                crate::support::pause();
            }
        });
        // Whatever fails below, the load ends with it.
        let _ended = Ending(&over);
        let mut pods: Vec<Running> = (0..REPLICAS).map(|number| pod(&trial, folder.path(), number)).collect();
        let mut number = REPLICAS;
        members(&trial.group, REPLICAS);
        for round in 0..2 {
            for replica in 0..REPLICAS {
                let watch = Stopwatch::start();
                let old = pods.remove(0);
                let ended = old.stop().expect(0);
                assert!(watch.elapsed() < GRACE, "round {round}, replica {replica}: {:?}", watch.elapsed());
                ended.hides(&["partition stopped"]);
                pods.push(pod(&trial, folder.path(), number));
                number += 1;
                members(&trial.group, REPLICAS);
            }
            if round == 0 {
                // `kill -9 1` in the container: nothing is handed over, and the next one starts before the group knows.
                let before = members(&trial.group, REPLICAS);
                let killed = pods.remove(0);
                killed.signal(Signal::KILL);
                assert_eq!(killed.wait(DEADLINE).code, None);
                pods.push(pod(&trial, folder.path(), number));
                number += 1;
                until("the new one is a member", DEADLINE, || {
                    (members(&trial.group, REPLICAS) != before).then_some(())
                });
            }
        }
        over.store(true, Ordering::Relaxed);
        // One by one: of two that end at the same time one may be given what the other leaves.
        for old in pods {
            old.stop().expect(0);
        }
    });
    let count = produced.load(Ordering::Relaxed);
    trial.spool = folder.path().join("last");
    let archive = trial.drained(&topic);
    assert_eq!(archive.ids(&topic.name), (0..count).collect::<Vec<_>>());
    let mut ids: Vec<u64> = archive.parquet("parquet/").iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..count).collect::<Vec<_>>());
}

/// Ends the load.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
