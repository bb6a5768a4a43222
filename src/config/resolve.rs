//! From the tree to [`Config`]: every default, every range, every check that needs more than one key.

use super::archive::Placed;
use super::error::Errors;
use super::memory::{check_destinations, check_pieces};
use super::raw::{Field, Section};
use super::tree::{Node, Value};
use super::units::{show_size, show_time};
use super::{
    Config, GroupProtocol, Isolation, KafkaConfig, MemoryConfig, Rotate, SpoolConfig, Start, UploadConfig, archive,
    client, destination, load, place, registry, shape,
};
use crate::destination::StoreKind;
use crate::destination::url::StoreUrl;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// `kafka.group` where none is given.
pub const DEFAULT_GROUP: &str = "siltstone";
/// `kafka.revoke_grace`: 0 s to 30 s, default 10 s.
pub const DEFAULT_REVOKE_GRACE: Duration = Duration::from_secs(10);
/// `spool.dir` where none is given.
pub const DEFAULT_SPOOL_DIR: &str = "/var/lib/siltstone";
/// `spool.limit`: 1 MiB to 1024 TiB and at least twice `rotate.size`, default 20 GiB.
pub const DEFAULT_SPOOL_LIMIT: u64 = 20 * GIB;
/// `memory.budget`: 64 MiB to 1 TiB, default 256 MiB.
pub const DEFAULT_BUDGET: u64 = 256 * MIB;
/// `upload.concurrency`: 1 to 256 for each destination, default 8.
pub const DEFAULT_UPLOADS: u64 = 8;
/// `upload.part_size`: 5 MiB to 5 GiB and at most an eighth of `memory.budget`, default 8 MiB.
pub const DEFAULT_PART_SIZE: u64 = 8 * MIB;
/// `shutdown.timeout`: 1 s to 1 h, default 60 s.
pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = MINUTE;
/// `rotate.*`: size 1 KiB to 1 TiB, age 1 s to 7 d, records 1 to 10^12, bytes 1 KiB to 1024 TiB, grace 0 s to 7 d.
pub const DEFAULT_ROTATE: Rotate = Rotate {
    size: 128 * MIB,
    age: Duration::from_secs(600),
    records: 5_000_000,
    bytes: None,
    grace: Some(Duration::from_secs(120)),
};

/// The pipeline's thread waits for it: `/healthz` counts a thread that is silent for a minute as hung.
const REVOKE_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30);
const SPOOL_LIMIT: RangeInclusive<u64> = MIB..=1024 * TIB;
const BUDGET: RangeInclusive<u64> = 64 * MIB..=TIB;
const THREADS: RangeInclusive<u64> = 1..=1024;
const UPLOADS: RangeInclusive<u64> = 1..=256;
const PART_SIZE: RangeInclusive<u64> = 5 * MIB..=5 * GIB;
const SHUTDOWN: RangeInclusive<Duration> = SECOND..=HOUR;
const ROTATE_SIZE: RangeInclusive<u64> = KIB..=TIB;
const ROTATE_AGE: RangeInclusive<Duration> = SECOND..=Duration::from_secs(7 * DAY.as_secs());
const ROTATE_RECORDS: RangeInclusive<u64> = 1..=1_000_000_000_000;
const ROTATE_BYTES: RangeInclusive<u64> = KIB..=1024 * TIB;
const ROTATE_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(7 * DAY.as_secs());

/// Resolves the whole file. What it gives is only good if `errors` stayed empty.
pub(super) fn resolve(root: &Node, base_dir: &Path, errors: &Errors) -> Option<Config> {
    let Value::Table(table) = &root.value else { return None };
    let root = Section::root(table, errors);
    let base_rotate = rotate(&root.section("rotate", &shape::ROTATE), DEFAULT_ROTATE);
    let destinations = destination::resolve(&root, base_dir);
    let memory_section = root.section("memory", &shape::MEMORY);
    let memory = memory(&memory_section);
    let budget = (!errors.about("memory.budget")).then_some(memory.budget);
    let registry = registry::resolve(&root, base_dir);
    let surroundings = archive::Surroundings {
        base_dir,
        destinations: &destinations,
        rotate: base_rotate,
        budget,
        has_registry: root.has("registry"),
    };
    let spool_section = root.section("spool", &shape::SPOOL);
    let upload_section = root.section("upload", &shape::UPLOAD);
    let kafka_section = root.section("kafka", &shape::KAFKA);
    let kafka = kafka(&kafka_section);
    let archives = archive::resolve(&root, &surroundings);
    let mut config = Config {
        kafka,
        spool: spool(&spool_section, base_dir),
        memory,
        http: http(&root.section("http", &shape::HTTP)),
        upload: upload(&upload_section),
        registry,
        shutdown_timeout: root
            .section("shutdown", &shape::SHUTDOWN)
            .field("timeout")
            .and_then(|field| field.time(SHUTDOWN))
            .unwrap_or(DEFAULT_SHUTDOWN_TIMEOUT),
        archives: Vec::new(),
        destinations: destinations.clone(),
    };
    check_grace(&config.kafka, &kafka_section, errors);
    check_spool(&config, &archives, &spool_section, errors);
    check_folders(&config, &spool_section);
    check_destinations(&config, &memory_section, errors);
    check_pieces(&config, &archives, &upload_section, errors);
    place::check_collisions(&archives, &destinations, errors);
    load::check_tables(&root, archives.iter().map(|archive| &archive.config));
    config.archives = archives.into_iter().map(|archive| archive.config).collect();
    Some(config)
}

fn kafka(section: &Section<'_>) -> KafkaConfig {
    const GROUP: &str = "1 to 255 printable characters without spaces";
    let brokers = match section.field("brokers") {
        Some(field) => brokers(&field),
        None => {
            if !section.has("brokers") {
                section.missing("brokers", "missing", BROKERS);
            }
            None
        }
    };
    let protocol = section
        .field("protocol")
        .and_then(|field| field.choice(&[("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)]))
        .unwrap_or(GroupProtocol::Classic);
    KafkaConfig {
        brokers: brokers.unwrap_or_default(),
        group: section
            .field("group")
            .and_then(|field| field.word(255, |c| c.is_ascii_graphic(), GROUP))
            .unwrap_or(DEFAULT_GROUP)
            .to_string(),
        start: section.field("start").and_then(|field| start(&field)).unwrap_or(Start::Earliest),
        isolation: section
            .field("isolation")
            .and_then(|field| {
                field.choice(&[
                    ("read_committed", Isolation::ReadCommitted),
                    ("read_uncommitted", Isolation::ReadUncommitted),
                ])
            })
            .unwrap_or(Isolation::ReadCommitted),
        protocol,
        instance_id: section
            .field("instance_id")
            .and_then(|field| {
                let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                field.word(249, legal, "1 to 249 letters, digits, `.`, `_`, `-`; another one for each process")
            })
            .map(str::to_string),
        revoke_grace: section
            .field("revoke_grace")
            .and_then(|field| field.time(REVOKE_GRACE))
            .unwrap_or(DEFAULT_REVOKE_GRACE),
        client: section.field("client").map(|field| client::settings(&field, protocol)).unwrap_or_default(),
    }
}

const BROKERS: &str = "host:port of one or more brokers, separated by commas; the port is 9092 where none is given";

fn brokers(field: &Field<'_>) -> Option<String> {
    let text = field.text(BROKERS)?;
    for broker in text.split(',') {
        let broker = broker.trim();
        // librdkafka takes a protocol in front, and an IPv6 address in brackets.
        let address = broker.split_once("://").map_or(broker, |(_, address)| address);
        let after_brackets = address.rsplit(']').next().unwrap_or(address);
        let port_is_right = match after_brackets.split_once(':') {
            Some((_, port)) => port.parse::<u16>().is_ok_and(|port| port > 0),
            None => true,
        };
        let host_is_right = !address.is_empty()
            && !address.starts_with(':')
            && broker.chars().all(|c| c.is_ascii_graphic() && !"@?#\"'\\".contains(c));
        if !host_is_right || !port_is_right {
            // What holds an @ may be a password in the wrong place.
            let field = if text.contains('@') { field.clone().hide() } else { field.clone() };
            return field.wrong("not a list of brokers", BROKERS);
        }
    }
    Some(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
}

fn start(field: &Field<'_>) -> Option<Start> {
    const NEEDED: &str = "earliest, latest, or a time after 1970 as in 2025-11-21T00:00:00Z";
    let text = match &field.node.value {
        Value::Time(time) => time,
        _ => field.text(NEEDED)?,
    };
    match text {
        "earliest" => return Some(Start::Earliest),
        "latest" => return Some(Start::Latest),
        _ => {}
    }
    match chrono::DateTime::parse_from_rfc3339(text) {
        Ok(time) if time.timestamp_millis() >= 0 => Some(Start::Time(time.timestamp_millis())),
        Ok(_) => field.wrong("before 1970", NEEDED),
        Err(_) => field.wrong("not a start: neither one of the words nor RFC 3339 with its offset from UTC", NEEDED),
    }
}

fn spool(section: &Section<'_>, base_dir: &Path) -> SpoolConfig {
    let dir = section.field("dir").and_then(|field| path(&field, base_dir, "a folder of this process alone"));
    SpoolConfig {
        dir: dir.unwrap_or_else(|| DEFAULT_SPOOL_DIR.into()),
        limit: section.field("limit").and_then(|field| field.size(SPOOL_LIMIT)).unwrap_or(DEFAULT_SPOOL_LIMIT),
    }
}

/// A path of the file system; relative ones start at the folder of the configuration.
pub(super) fn path(field: &Field<'_>, base_dir: &Path, needed: &str) -> Option<std::path::PathBuf> {
    let text = field.text(needed)?;
    if text.contains('\0') {
        field.wrong("a zero byte cannot stand in a path", needed)
    } else {
        Some(base_dir.join(text))
    }
}

fn memory(section: &Section<'_>) -> MemoryConfig {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = section.field("threads").and_then(|field| field.count(THREADS)).unwrap_or(cores);
    MemoryConfig {
        budget: section.field("budget").and_then(|field| field.size(BUDGET)).unwrap_or(DEFAULT_BUDGET),
        threads: usize::try_from(threads).unwrap_or(usize::MAX),
    }
}

fn http(section: &Section<'_>) -> Option<SocketAddr> {
    const NEEDED: &str = "an address and a port, as in 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
    let field = section.field("listen")?;
    let text = field.text(NEEDED)?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => field.wrong("not an address with a port (names of hosts are not looked up)", NEEDED),
    }
}

fn upload(section: &Section<'_>) -> UploadConfig {
    let concurrency = section.field("concurrency").and_then(|field| field.count(UPLOADS)).unwrap_or(DEFAULT_UPLOADS);
    UploadConfig {
        concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
        part_size: section.field("part_size").and_then(|field| field.size(PART_SIZE)).unwrap_or(DEFAULT_PART_SIZE),
    }
}

/// `[rotate]` over the defaults, `[archive.rotate]` over `[rotate]`: key by key.
pub(super) fn rotate(section: &Section<'_>, base: Rotate) -> Rotate {
    let age = section.field("age").and_then(|field| field.time(ROTATE_AGE));
    let records = section.field("records").and_then(|field| field.count(ROTATE_RECORDS));
    let bytes = match section.field("bytes") {
        Some(field) if field.is_off() => None,
        Some(field) => field.size(ROTATE_BYTES),
        None => base.bytes,
    };
    let grace = match section.field("grace") {
        Some(field) if field.is_off() => None,
        Some(field) => field.time(ROTATE_GRACE),
        None => base.grace,
    };
    Rotate {
        size: section.field("size").and_then(|field| field.size(ROTATE_SIZE)).unwrap_or(base.size),
        age: age.unwrap_or(base.age),
        records: records.unwrap_or(base.records),
        bytes,
        grace,
    }
}

/// Refuses a grace after which the broker may count this member as gone: nothing is polled while it lasts.
fn check_grace(config: &KafkaConfig, kafka: &Section<'_>, errors: &Errors) {
    const INTERVAL: &str = "max.poll.interval.ms";
    let interval = config.client.get(INTERVAL).and_then(|value| value.reveal().parse().ok()).map(Duration::from_millis);
    let Some(interval) = interval.filter(|interval| config.revoke_grace > *interval / 2) else { return };
    if !errors.about("kafka.revoke_grace") {
        kafka.cross(
            "revoke_grace",
            format!("{} is more than half of {INTERVAL}, {} ms", show_time(config.revoke_grace), interval.as_millis()),
            format!("at most {} ms, or a larger {INTERVAL}", interval.as_millis() / 2),
        );
    }
}

/// Refuses a spool that one batch fills.
fn check_spool(config: &Config, archives: &[Placed<'_>], spool: &Section<'_>, errors: &Errors) {
    if errors.about("spool.limit") || errors.about("rotate.size") {
        return;
    }
    for archive in archives {
        let (path, size) = (&archive.field.path, archive.config.rotate.size);
        if config.spool.limit < 2 * size && !errors.about(&format!("{path}.rotate.size")) {
            spool.cross(
                "limit",
                format!("smaller than twice the rotate.size of {path}, {}", show_size(size)),
                format!("at least {}: one batch uploads while the next one fills", show_size(2 * size)),
            );
        }
    }
}

/// Refuses a spool inside of a destination's folder, or around it: a start empties what dead processes left in the spool, and
/// readers of the archive would find half-written files.
fn check_folders(config: &Config, spool: &Section<'_>) {
    let Ok(dir) = std::path::absolute(&config.spool.dir) else { return };
    let dir = without_dots(&dir);
    for (name, destination) in &config.destinations {
        let Ok(url) = StoreUrl::parse(&destination.url) else { continue };
        let folder = Path::new("/").join(url.prefix());
        if url.kind() == StoreKind::File && (dir.starts_with(&folder) || folder.starts_with(&dir)) {
            spool.cross(
                "dir",
                format!("one of this folder and that of [destinations.{name}] is inside of the other, or both are one"),
                "a folder beside that of every destination".to_string(),
            );
        }
    }
}

/// `path` with `..` resolved by its names alone.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}
