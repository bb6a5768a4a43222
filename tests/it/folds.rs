//! Receipts that are folded: by the command, which needs no Kafka, aborted at each of its effects.

use crate::support::DEADLINE;
use crate::support::process::{Ended, Running};
use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};
use siltstone::effect::Effect;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

const SIGABRT: i32 = 6;

/// Effects that only folding has: the scenes of [`crate::failpoints`] have all others.
pub(crate) const EFFECTS: [Effect; 2] = [Effect::FoldPut, Effect::FoldedDelete];

/// Receipts of the archive: a thousand are folded, and a thousand stay.
const RECEIPTS: i64 = 2_000;

/// An archive made up: batches of ten offsets without an object, all of their records dropped.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        let text = format!(
            "[kafka]\nbrokers = \"127.0.0.1:1\"\ngroup = \"g\"\n[spool]\ndir = \"spool\"\n[destinations.main]\nurl = \"file://{}\"\n\
             [[archive]]\nname = \"a\"\ntopics = [\"t\"]\n",
            site.root().display()
        );
        std::fs::write(site.config(), text).unwrap();
        std::fs::create_dir_all(site.receipts()).unwrap();
        let identity = json!({"format": 1, "cluster_id": "c", "group": "g"});
        std::fs::write(site.root().join("_siltstone/archive.json"), identity.to_string()).unwrap();
        site
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("x.toml")
    }

    fn receipts(&self) -> PathBuf {
        self.root().join("_siltstone/receipts/v1/t/00000")
    }

    fn receipt(number: i64) -> Value {
        json!({
            "version": 1, "topic": "t", "partition": 0, "first": number * 10, "end": number * 10 + 10, "cluster_id": "c", "archive": "a",
            "generation": 1, "fingerprint": "f", "writer": "0", "reason": "age", "objects": [],
            "balance": {"consumed": 10, "outputs": {"json": {"archived": 0, "rows": 0, "dropped": {"tombstones": 10}}}},
            "of_a_later_release": number,
        })
    }

    /// The archive as it was before anybody folded.
    fn reset(&self) {
        let folder = self.receipts();
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..RECEIPTS {
            let receipt = Self::receipt(number).to_string();
            std::fs::write(folder.join(format!("{:020}.json", number * 10)), receipt).unwrap();
        }
    }

    fn fold(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
        let config = self.config().display().to_string();
        let all = [&["fold", "-c", &config, "--min-age", "0s"][..], arguments].concat();
        Running::start(&all, environment).wait(DEADLINE)
    }

    /// Receipts by first offset that are documents of their own, and those in folds.
    fn found(&self) -> (BTreeMap<i64, Value>, BTreeMap<i64, Value>) {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let (mut beside, mut folded) = (BTreeMap::new(), BTreeMap::new());
        let first = |receipt: &Value| receipt["first"].as_i64().unwrap();
        for entry in std::fs::read_dir(self.receipts()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let receipt: Value = serde_json::from_slice(&read(&path)).unwrap();
                beside.insert(first(&receipt), receipt);
            }
        }
        let folds = std::fs::read_dir(self.receipts().join("folded")).into_iter().flatten();
        for path in
            folds.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|of| of == "gz"))
        {
            let mut text = String::new();
            MultiGzDecoder::new(&read(&path)[..]).read_to_string(&mut text).unwrap();
            for line in text.lines().skip(1) {
                let receipt: Value = serde_json::from_str(line).unwrap();
                assert!(folded.insert(first(&receipt), receipt).is_none(), "twice in folds");
            }
        }
        (beside, folded)
    }

    /// Every receipt is there, as it was, at least once.
    fn assert_whole(&self, what: &str) -> (usize, usize) {
        let (beside, folded) = self.found();
        for number in 0..RECEIPTS {
            let first = number * 10;
            let receipt = beside.get(&first).or(folded.get(&first));
            assert_eq!(receipt, Some(&Self::receipt(number)), "{what}: the receipt of {first}");
        }
        (beside.len(), folded.len())
    }
}

/// Goal: whoever dies while receipts are folded leaves each of them, and the next one finishes. Method: abort the command before and after each
/// of its effects, read the folder without siltstone's code, and run it again.
#[test]
fn folding_that_is_aborted_at_any_effect_is_finished() {
    let site = Site::new();
    site.reset();
    site.fold(&[], &["--dry-run"]).expect(0).prints(&["1000", "nothing was written"]);
    assert_eq!(site.assert_whole("dry run"), (2_000, 0));
    let path = site.dir.path().join("effects");
    let done = site.fold(&[("SILTSTONE_EFFECTS", path.to_str().unwrap())], &["--json"]).expect(0);
    let line: Value = serde_json::from_str(done.out.lines().last().unwrap()).unwrap();
    assert_eq!((&line["folds"], &line["receipts"], &line["deleted"]), (&json!(1), &json!(1000), &json!(1000)));
    assert_eq!(site.assert_whole("undisturbed"), (1_000, 1_000));
    let names = std::fs::read_to_string(&path).unwrap();
    let count = |effect: Effect| names.lines().filter(|name| *name == effect.name()).count();
    assert_eq!((count(Effect::FoldPut), count(Effect::FoldedDelete)), (1, 1_000));
    for effect in EFFECTS {
        for time in BTreeSet::from([1, count(effect)]) {
            for side in ["before", "after"] {
                site.reset();
                let failpoint = format!("{}:{side}:{time}", effect.name());
                let aborted = site.fold(&[("SILTSTONE_FAILPOINT", &failpoint)], &[]);
                assert_eq!(aborted.signal, Some(SIGABRT), "not aborted at {failpoint}:\n{}", aborted.err);
                site.assert_whole(&failpoint);
                site.fold(&[], &[]).expect(0);
                assert_eq!(site.assert_whole(&failpoint), (1_000, 1_000), "{failpoint}");
            }
        }
    }
}
