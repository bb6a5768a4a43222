//! Configurations of the simulated archive: one topic, two outputs in two buckets, and layouts that differ in everything
//! that names and rows follow from.

use crate::knobs::Knobs;
use siltstone::config::{self, Config};
use std::path::Path;
use std::time::Duration;

/// The topic.
pub(crate) const TOPIC: &str = "t";
/// URLs of the buckets, and their names in the simulation.
pub(crate) const BUCKETS: [(&str, &str); 2] = [("s3://a", "a"), ("s3://b", "b")];

/// Format of the first output, and the paths and zone of both, by layout.
const LAYOUTS: [(&str, &str, &str, &str); 3] = [
    ("gzip", "json/{topic}/dt=%Y-%m-%d/hr=%H", "raw/{topic}/%Y/%m/%d", "UTC"),
    ("gzip", "json/{topic}/dt=%Y-%m-%d", "raw/{topic}/%Y/%m/%d/%H", "Asia/Tokyo"),
    ("none", "json/other/{topic}/dt=%Y-%m-%d/hr=%H", "raw/{topic}/%Y/%m/%d", "Europe/Berlin"),
];

fn text(layout: usize, generation: u32) -> String {
    let (compression, json_path, raw_path, zone) = LAYOUTS[layout];
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
[[archive.output]]
name = "json"
format = {{ type = "json", compression = "{compression}" }}
keep = ["topic", "partition", "offset"]
layout = {{ path = "{json_path}", zone = "{zone}" }}
destination = "a"
[[archive.output]]
name = "raw"
format = {{ type = "raw", compression = "none" }}
layout = {{ path = "{raw_path}", zone = "{zone}" }}
destination = "b"
"#
    )
}

/// The configuration of a process that writes `layout`.
pub(crate) fn config(knobs: &Knobs, layout: usize, generation: u32, spool: &Path) -> Config {
    let parsed = config::parse(&text(layout, generation), Path::new(""), &|_| None);
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
