//! That the doors are the only ones.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What changes files or folders, asks a store to, or commits, as it is written in a source.
const WRITES: &[&str] = &[
    "fs::create_dir",
    "fs::remove_",
    "fs::rename",
    "fs::hard_link",
    "fs::write",
    "fs::copy",
    "fs::set_permissions",
    "fs::renameat",
    "fs::unlink",
    "fs::mkdir",
    "fs::symlink",
    "DirBuilder",
    "OFlags::CREATE",
    "OpenOptions",
    "File::options",
    "File::create",
    ".set_len(",
    ".set_modified(",
    ".write_at(",
    ".write_all_at(",
    ".sync_all(",
    ".sync_data(",
    ".put(",
    ".put_opts(",
    ".put_multipart",
    ".put_part(",
    ".complete(",
    ".abort(",
    ".delete(",
    ".delete_stream(",
    ".copy(",
    ".copy_opts(",
    ".copy_if_not_exists(",
    ".rename(",
    ".rename_opts(",
    ".commit(",
    ".commit_consumer_state(",
    ".store_offset",
    "CommitMode",
    "commit_transaction(",
    "abort_transaction(",
    ".insert_job(",
    ".insert_table(",
    "Method::POST",
    "process.spawn(",
    "FutureProducer<",
];

/// Sources that may say so: how often, and why.
const ALLOWED: &[(&str, &str, usize, &str)] = &[
    ("destination/local.rs", ".delete_stream(", 1, "this is a store: behind the door"),
    ("bucket/recounts.rs", "self.put(", 1, "a method of the bucket itself, which goes through the door"),
    ("bucket/completions.rs", "self.put(", 1, "a method of the bucket itself, which goes through the door"),
    ("bucket/hooks.rs", "self.put(", 1, "the same"),
    ("destination/hdfs/mod.rs", ".delete(", 2, "the same; what is swept is nobody's any more"),
    ("destination/hdfs/stage.rs", ".delete(", 1, "the same: a file that was given up"),
    ("destination/hdfs/stage.rs", ".rename(", 1, "the same"),
    ("destination/hdfs/mod.rs", "upload.put_part(", 1, "the same: its own upload, for one put"),
    ("destination/hdfs/mod.rs", "upload.complete(", 1, "the same"),
    ("bucket/mod.rs", "self.put(", 3, "a method of the module itself, which goes through the door"),
    ("kafka/coordinator.rs", ".commit(", 1, "this is a coordinator: behind the door"),
    ("kafka/coordinator.rs", "CommitMode", 2, "the same"),
    ("kafka/demo.rs", ".commit(", 1, "the same"),
    ("kafka/producing.rs", "shared.commit(", 1, "this is a target of restores: behind the door"),
    ("kafka/producing.rs", "commit_transaction(", 1, "the same"),
    ("kafka/producing.rs", "abort_transaction(", 1, "the same; and nothing of what is aborted stays"),
    (
        "restore/produce.rs",
        "target.abort(",
        1,
        "nothing of what is aborted stays: a process that dies instead leaves the same",
    ),
    ("restore/produce.rs", "target.put(", 1, "a record of an open transaction, which counts once that is committed"),
    ("pipeline/takeover.rs", "context.commit(", 2, "through the door"),
    ("pipeline/takeover/scheduled.rs", "context.commit(", 1, "through the door"),
    ("pipeline/finish.rs", "context.commit(", 4, "through the door"),
    ("spool/mod.rs", "room.delete(", 2, "a method of the module itself, which goes through the door"),
    (
        "commands/preview.rs",
        "fs::remove_dir_all(",
        1,
        "a temporary folder of the preview's own, which archives nothing",
    ),
    ("complete/loads.rs", ".abort(", 1, "a task that loads"),
    ("reader/rows.rs", ".abort(", 1, "a task that reads"),
    ("pipeline/partition.rs", ".abort(", 1, "a task that asks a registry"),
    ("load/bigquery/api.rs", ".insert_job(", 1, "through the door"),
    ("load/bigquery/api.rs", ".insert_table(", 1, "the same"),
    ("hook/call.rs", "Method::POST", 1, "behind the door: a call of a hook"),
    ("hook/call.rs", "process.spawn(", 1, "the same"),
    ("kafka/telling.rs", "FutureProducer<", 1, "the same"),
    ("upload/send.rs", "pieces.complete(", 1, "a method of the module itself, which goes through the door"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a source: without comments, and without its tests, which stand at its end.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().expect("a first part");
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every source but the doors themselves, the demo's own and files of tests, by path below `src`.
fn guarded() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let named = found.into_iter().map(|path| {
        let name = path.strip_prefix(&root).expect("below").display().to_string();
        (name, code(&std::fs::read_to_string(path).expect("a source")))
    });
    let outside = |name: &str| {
        let test = name.ends_with("tests.rs") || name.contains("/tests/") || name.contains("roundtrip");
        !(test || name.starts_with("effect/") || name.starts_with("commands/demo/"))
    };
    named.filter(|(name, _)| outside(name)).collect()
}

/// Goal: no effect without failpoints. Method: read the sources for whatever writes.
#[test]
fn nothing_is_written_but_through_a_door() {
    let mut wrong = Vec::new();
    let sources = guarded();
    assert!(sources.len() > 80, "{} sources", sources.len());
    for (name, text) in &sources {
        let mut text = text.clone();
        for &(_, allowed, count, why) in ALLOWED.iter().filter(|(source, ..)| source == name) {
            assert_eq!(text.matches(allowed).count(), count, "{allowed} in {name}: {why}");
            text = text.replace(allowed, "");
        }
        let found = WRITES.iter().filter(|write| text.contains(**write));
        wrong.extend(found.map(|write| format!("{name}: {write}")));
    }
    assert!(wrong.is_empty(), "these go through no door, so no failpoint covers them: {wrong:#?}");
}

/// Goal: each effect is one place in the protocol, not a name for several, and none is a leftover.
#[test]
fn every_effect_is_used_and_has_a_name_of_its_own() {
    let all: String = guarded().into_values().collect();
    for effect in Effect::ALL {
        assert!(all.contains(&format!("Effect::{effect:?}")), "{effect:?} is used nowhere");
    }
    let names: BTreeSet<_> = Effect::ALL.iter().map(|effect| effect.name()).collect();
    assert_eq!(names.len(), Effect::ALL.len(), "two effects of one name");
}
