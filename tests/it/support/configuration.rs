//! One archive under test: its folder, its configuration, its runs.

use super::archive::Archive;
use super::kafka::{Topic, committed};
use super::process::{Ended, Running};
use super::{DEADLINE, setting, unique, until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything of a configuration that tests change, with what most of them want.
pub(crate) struct Trial {
    dir: tempfile::TempDir,
    pub(crate) brokers: String,
    pub(crate) group: String,
    /// Further lines of `[kafka]`.
    pub(crate) kafka: String,
    pub(crate) spool: PathBuf,
    pub(crate) spool_limit: String,
    /// Lines of `[rotate]`.
    pub(crate) rotate: String,
    /// Sections before the archives, such as `[http]` or a second destination.
    pub(crate) sections: String,
    /// The section `[destinations.main]`.
    pub(crate) destination: String,
    /// The value of `topics`, and further lines of `[[archive]]` with its outputs.
    pub(crate) topics: String,
    pub(crate) archive: String,
    /// What S3 keys start with, where `main` is there.
    s3_prefix: Option<String>,
    /// The folder in HDFS, where `main` is there.
    hdfs_folder: Option<String>,
}

impl Trial {
    /// Archives `topic` into a folder of its own.
    pub(crate) fn on_disk(topic: &Topic) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let destination = format!("url = \"file://{}/outside/archive\"", dir.path().display());
        Self {
            brokers: setting("KAFKA_BROKERS"),
            group: unique("g"),
            kafka: String::new(),
            spool: dir.path().join("spool"),
            spool_limit: "1GiB".to_string(),
            rotate: "size = \"1MiB\"".to_string(),
            sections: String::new(),
            destination,
            topics: format!("[\"{}\"]", topic.name),
            archive: String::new(),
            s3_prefix: None,
            hdfs_folder: None,
            dir,
        }
    }

    /// Archives `topic` under a prefix of its own on the S3 server.
    pub(crate) fn on_s3(topic: &Topic) -> Self {
        let prefix = format!("{}/archive", unique("p"));
        let destination = s3_section(&setting("S3_BUCKET"), &prefix, &setting("AWS_SECRET_ACCESS_KEY"));
        Self { destination, s3_prefix: Some(prefix), ..Self::on_disk(topic) }
    }

    /// Archives `topic` into a folder of its own in HDFS.
    pub(crate) fn on_hdfs(topic: &Topic) -> Self {
        let folder = format!("{}/archive", unique("p"));
        let destination = format!("url = \"{}/{folder}\"", setting("HDFS_URL"));
        Self { destination, hdfs_folder: Some(folder), ..Self::on_disk(topic) }
    }

    /// What all keys on S3 start with, one level above the archive.
    pub(crate) fn s3_parent(&self) -> &str {
        self.s3_prefix.as_deref().and_then(|prefix| prefix.strip_suffix("/archive")).expect("an archive on S3")
    }

    /// With these lines in `[[archive]]`.
    pub(crate) fn with(mut self, archive: &str) -> Self {
        self.archive = archive.to_string();
        self
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of `file://` destinations.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("outside/archive")
    }

    fn text(&self) -> String {
        format!(
            "[kafka]\nbrokers = \"{}\"\ngroup = \"{}\"\n{}\n[spool]\ndir = \"{}\"\nlimit = \"{}\"\n[rotate]\n{}\n\
             [destinations.main]\n{}\n{}\n[[archive]]\nname = \"it\"\ntopics = {}\n{}\n",
            self.brokers,
            self.group,
            self.kafka,
            self.spool.display(),
            self.spool_limit,
            self.rotate,
            self.destination,
            self.sections,
            self.topics,
            self.archive
        )
    }

    /// Writes the configuration and gives its path.
    pub(crate) fn write(&self) -> String {
        self.write_as("siltstone.toml")
    }

    /// The same under another name, for processes that start before others have read theirs.
    fn write_as(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        // At once, and not twice the same: a process that was just started may be reading it.
        let text = self.text();
        if std::fs::read_to_string(&path).is_ok_and(|written| written == text) {
            return path.display().to_string();
        }
        let new = path.with_extension("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, &path).expect("renamed");
        path.display().to_string()
    }

    /// `siltstone run` with further arguments.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.start_in(&[], "run", arguments)
    }

    /// Any command with `-c` and further arguments, in an environment that has these as well.
    pub(crate) fn start_in(&self, environment: &[(&str, &str)], command: &str, arguments: &[&str]) -> Running {
        let config = self.write();
        let mut all = vec![command, "-c", &config];
        all.extend_from_slice(arguments);
        Running::start(&all, environment)
    }

    /// `siltstone run` with a configuration file of its own, and with these variables.
    pub(crate) fn start_from(&self, name: &str, environment: &[(&str, &str)]) -> Running {
        Running::start(&["run", "-c", &self.write_as(name)], environment)
    }

    /// `siltstone run --drain`, to its end.
    #[track_caller]
    pub(crate) fn drain(&self) -> Ended {
        self.start(&["--drain"]).wait(DEADLINE)
    }

    /// Any other command with `-c`.
    #[track_caller]
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Ended {
        self.start_in(&[], command, arguments).wait(DEADLINE)
    }

    /// What is in the archive now.
    pub(crate) fn archive(&self) -> Archive {
        match (&self.s3_prefix, &self.hdfs_folder) {
            (Some(prefix), _) => Archive::on_s3(prefix),
            (None, Some(folder)) => Archive::on_hdfs(folder),
            (None, None) => Archive::on_disk(&self.root()),
        }
    }

    /// Waits until the group has committed `end` in a partition.
    pub(crate) fn until_committed(&self, topic: &Topic, partition: i32, end: i64, deadline: Duration) {
        until(&format!("{}/{partition} is committed to {end}", topic.name), deadline, || {
            committed(&self.group, topic, partition).filter(|(offset, _)| *offset == end)
        });
    }

    /// Waits until everything in the topic is committed.
    pub(crate) fn until_all_committed(&self, topic: &Topic) {
        for (partition, end) in topic.ends() {
            self.until_committed(topic, i32::try_from(partition).unwrap(), end, DEADLINE);
        }
    }

    /// A file where the topic's folder must be: every upload fails until the file is deleted.
    pub(crate) fn block(&self, topic: &Topic) -> PathBuf {
        std::fs::create_dir_all(self.root()).unwrap();
        let path = self.root().join(&topic.name);
        std::fs::write(&path, "in the way").unwrap();
        path
    }

    /// Deletes an object behind siltstone's back.
    pub(crate) fn remove(&self, key: &str) {
        match (&self.s3_prefix, &self.hdfs_folder) {
            (Some(prefix), _) => Archive::remove_from_s3(&format!("{prefix}/{key}")),
            (None, Some(folder)) => Archive::remove_from_hdfs(&format!("{folder}/{key}")),
            (None, None) => std::fs::remove_file(self.root().join(key)).expect("removed"),
        }
    }

    /// Changes the bytes of an object behind siltstone's back; what the store shows beside them stays.
    pub(crate) fn damage(&self, key: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        match &self.s3_prefix {
            Some(prefix) => Archive::damage_on_s3(&format!("{prefix}/{key}"), damage),
            None => {
                let path = self.root().join(key);
                let mut bytes = std::fs::read(&path).expect("read");
                damage(&mut bytes);
                std::fs::write(path, bytes).expect("written");
            }
        }
    }

    /// When each object of an archive on S3 was written last, by key.
    pub(crate) fn times(&self) -> BTreeMap<String, i64> {
        Archive::times_on_s3(self.s3_prefix.as_deref().expect("an archive on S3"))
    }

    /// Puts an object behind siltstone's back.
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        match &self.s3_prefix {
            Some(prefix) => Archive::put_to_s3(&format!("{prefix}/{key}"), bytes),
            None => {
                let path = self.root().join(key);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                std::fs::write(path, bytes).expect("written");
            }
        }
    }

    /// A drain that goes well, and the archive after it, in which every record of `topic` is accounted for.
    #[track_caller]
    pub(crate) fn drained(&self, topic: &Topic) -> Archive {
        self.drain().expect(0);
        let archive = self.archive();
        archive.assert_even(topic);
        archive
    }

    /// The cluster or group that `archive.json` names, replaced.
    pub(crate) fn edit_identity(&self, key: &str, value: &str) {
        let path = self.root().join("_siltstone/archive.json");
        let text = std::fs::read_to_string(&path).expect("archive.json");
        let mut identity: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(identity[key].is_string(), "{identity}");
        identity[key] = value.into();
        std::fs::write(&path, identity.to_string()).expect("written");
    }
}

/// The lines of an S3 destination.
pub(crate) fn s3_section(bucket: &str, prefix: &str, secret: &str) -> String {
    let (endpoint, id) = (setting("S3_ENDPOINT"), setting("AWS_ACCESS_KEY_ID"));
    format!(
        "url = \"s3://{bucket}/{prefix}\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\naccess_key_id = \"{id}\"\n\
         secret_access_key = \"{secret}\""
    )
}
