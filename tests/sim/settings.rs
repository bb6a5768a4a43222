//! Configurations of the simulated archive: one topic, outputs in two buckets, and layouts that differ in everything that
//! names and rows follow from, their outputs and the order of these among it.

use crate::knobs::Knobs;
use siltstone::config::{self, Config};
use std::path::Path;
use std::time::Duration;

/// The topic.
pub(crate) const TOPIC: &str = "t";
/// URLs of the buckets, and their names in the simulation.
pub(crate) const BUCKETS: [(&str, &str); 2] = [("s3://a", "a"), ("s3://b", "b")];

/// JSON lines with Kafka's own columns.
pub(crate) const JSON: &str = "json";
/// Payloads as they are, one a line.
pub(crate) const RAW: &str = "raw";
/// JSON lines without anything added.
pub(crate) const PLAIN: &str = "plain";

/// One way to archive.
pub(crate) struct Layout {
    compression: &'static str,
    zone: &'static str,
    /// Outputs and their paths, in the order of the file.
    pub(crate) outputs: &'static [(&'static str, &'static str)],
}

/// What processes are configured with, one life after the other.
pub(crate) static LAYOUTS: [Layout; 5] = [
    Layout {
        compression: "gzip",
        zone: "UTC",
        outputs: &[(JSON, "json/{topic}/dt=%Y-%m-%d/hr=%H"), (RAW, "raw/{topic}/%Y/%m/%d")],
    },
    Layout {
        compression: "gzip",
        zone: "Asia/Tokyo",
        outputs: &[(RAW, "raw/{topic}/%Y/%m/%d/%H"), (JSON, "json/{topic}/dt=%Y-%m-%d")],
    },
    Layout {
        compression: "none",
        zone: "Europe/Berlin",
        outputs: &[(JSON, "json/other/{topic}/dt=%Y-%m-%d/hr=%H"), (RAW, "raw/{topic}/%Y/%m/%d")],
    },
    Layout {
        compression: "gzip",
        zone: "UTC",
        outputs: &[
            (PLAIN, "plain/{topic}/hr=%H"),
            (RAW, "raw/{topic}/%Y/%m/%d"),
            (JSON, "json/{topic}/dt=%Y-%m-%d/hr=%H"),
        ],
    },
    Layout { compression: "gzip", zone: "UTC", outputs: &[(PLAIN, "plain/{topic}/dt=%Y-%m-%d")] },
];

impl Layout {
    /// The first output goes where receipts and claims lie, which is the same bucket in all layouts.
    fn output(&self, index: usize, name: &str, path: &str) -> String {
        let zone = self.zone;
        let compression = if name == RAW { "none" } else { self.compression };
        let kind = if name == RAW { "raw" } else { "json" };
        let keep = if name == JSON { "keep = [\"topic\", \"partition\", \"offset\"]" } else { "" };
        let destination = if index == 0 { "a" } else { "b" };
        format!(
            r#"
[[archive.output]]
name = "{name}"
format = {{ type = "{kind}", compression = "{compression}" }}
{keep}
layout = {{ path = "{path}", zone = "{zone}" }}
destination = "{destination}"
"#
        )
    }

    fn text(&self, generation: u32) -> String {
        let outputs: String =
            (0..).zip(self.outputs).map(|(index, (name, path))| self.output(index, name, path)).collect();
        format!(
            r#"
[kafka]
brokers = "sim:9092"
group = "sim"
[spool]
dir = "/nowhere"
[destinations.a]
url = "s3://a"
[destinations.b]
url = "s3://b"
[[archive]]
name = "main"
topics = ["{TOPIC}"]
tombstones = "drop"
generation = {generation}
[archive.dead_letters]
destination = "a"
{outputs}"#
        )
    }
}

/// The configuration of a process that writes `layout`.
pub(crate) fn config(knobs: &Knobs, layout: usize, generation: u32, spool: &Path) -> Config {
    let parsed = config::parse(&LAYOUTS[layout].text(generation), Path::new(""), &|_| None);
    let mut config = parsed.unwrap_or_else(|errors| panic!("the simulation's own configuration: {errors}"));
    config.spool.dir = spool.to_path_buf();
    config.memory.threads = 0;
    config.memory.budget = knobs.memory;
    config.upload.part_size = knobs.part_size;
    config.shutdown_timeout = Duration::from_secs(20);
    for archive in &mut config.archives {
        archive.rotate.records = knobs.rotate_records;
        archive.rotate.age = Duration::from_secs(knobs.rotate_age_s);
    }
    config
}
