//! HDFS as the destination, while its namenode is killed and started again under uploads. Nothing else may use HDFS meanwhile.

use crate::support::archive::Archive;
use crate::support::configuration::Trial;
use crate::support::kafka::{Topic, committed};
use crate::support::{DEADLINE, setting, unique, until};
use object_store::ObjectStoreExt;
use rustix::process::Signal;
use serde_json::Value;
use siltstone::config::DestinationConfig;
use siltstone::destination::Destination;
use siltstone::destination::fault::{Fault, Verdict};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const PARTITIONS: i32 = 3;
/// How often the namenode is killed.
const KILLS: usize = 3;

/// One test at a time kills the namenode.
static NAMENODE: Mutex<()> = Mutex::new(());

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
    let _alone = NAMENODE.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Goal: an upload in pieces whose namenode dies between two of them, for good or for a moment, is either whole in the end or one that failed
/// and may be tried again; nothing of it stays, and the next one to the same key succeeds. Method: blocks of 1 MiB, so that each piece asks
/// the namenode; WebHDFS shows what is there.
#[test]
fn an_upload_in_pieces_outlives_its_namenode_or_fails() {
    const PIECE: usize = 1_500_000;
    let _alone = NAMENODE.lock().unwrap_or_else(PoisonError::into_inner);
    let over = AtomicBool::new(false);
    let _ending = Ending(&over);
    let folder = unique("p");
    let url = format!("{}/{folder}", setting("HDFS_URL"));
    let config = DestinationConfig { url, options: BTreeMap::new() };
    let destination = Destination::open("main", &config).expect("a destination");
    let store = destination.store();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let piece = |seed: u8| -> Vec<u8> { (0..PIECE).map(|at| (at % 251) as u8 ^ seed).collect() };
    let whole = |seeds: [u8; 2]| seeds.map(piece).concat();
    for (is_back, key) in [(false, "data/gone.bin"), (true, "data/back.bin")] {
        let path = destination.path(key).expect("a key");
        let mut upload = runtime.block_on(store.put_multipart(&path)).expect("begun");
        runtime.block_on(upload.put_part(piece(1).into())).expect("a piece");
        services("kill", "hdfs-1");
        if is_back {
            services("start", "hdfs-1");
        }
        let sent = runtime.block_on(async {
            upload.put_part(piece(2).into()).await?;
            upload.complete().await
        });
        match &sent {
            Ok(_) => assert!(is_back, "nobody can have confirmed it"),
            Err(error) => assert_eq!(Fault::of(error).verdict(), Verdict::Retry, "{error}"),
        }
        drop(upload);
        services("start", "hdfs-1");
        assert!(runtime.block_on(destination.at_rest(DEADLINE)), "what was given up comes to an end");
        assert_eq!(stages(&format!("{folder}/data")), 0, "{key}");
        let there = Archive::on_hdfs(&folder).objects.remove(key);
        assert_eq!(there.is_some(), sent.is_ok(), "{key}: {sent:?}");
        assert!(there.is_none_or(|bytes| bytes == whole([1, 2])), "{key} is not whole");
        // The next one, as soon as the namenode has left safe mode.
        let put = || {
            let sent = runtime.block_on(async {
                let mut upload = store.put_multipart(&path).await?;
                upload.put_part(piece(3).into()).await?;
                upload.put_part(piece(4).into()).await?;
                upload.complete().await
            });
            match sent {
                Ok(_) => Some(()),
                Err(error) => {
                    assert_eq!(Fault::of(&error).verdict(), Verdict::Retry, "{error}");
                    None
                }
            }
        };
        until("it is put again", DEADLINE, put);
        assert!(Archive::on_hdfs(&folder).objects.remove(key) == Some(whole([3, 4])), "{key}");
    }
    assert!(runtime.block_on(destination.at_rest(Duration::from_secs(60))));
    assert_eq!(stages(&format!("{folder}/data")), 0);
}

/// How many files are on their way in a folder of the first level.
fn stages(folder: &str) -> usize {
    let url = format!("{}/{folder}/.siltstone-staging?op=LISTSTATUS", setting("HDFS_WEB"));
    let asked = Command::new("curl").args(["--silent", "--show-error", "--fail", &url]).output().expect("curl runs");
    assert!(asked.status.success(), "{url}: {}", String::from_utf8_lossy(&asked.stderr));
    let listed: Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    listed["FileStatuses"]["FileStatus"].as_array().expect("entries").len()
}
