//! `siltstone check`: everything that can be known before the first record is read.

use crate::bucket::Bucket;
use crate::cli::CheckArgs;
use crate::commands::run::{Connected, connect};
use crate::config::{self, Config, KafkaConfig, MemoryShares};
use crate::consume::Source;
use crate::destination::{Destination, StoreKind};
use crate::exit::{Exit, Failure};
use crate::kafka::{self, KafkaError};
use crate::pipeline::start::{StartError, chain};
use rustix::fs::Access;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Checks `config`, which has already been read; with `--connect` also Kafka and the destinations. Writes what it found to
/// `out`, one line each, and goes on after a failure so that all are seen at once.
///
/// # Errors
/// The first failure's exit code, when anything failed.
pub async fn check(args: &CheckArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut report = Report { out, worst: None };
    check_settings(config, &mut report).await?;
    let destinations = check_openings(config, &mut report)?;
    check_folder("spool.dir", &config.spool.dir, &mut report)?;
    if report.worst.is_none() {
        report.good(&format!("{}: the configuration is right", args.config.config.display()))?;
    }
    if args.verbose {
        report.text(&config::effective_toml(config))?;
    }
    if args.connect {
        check_machine(config, &mut report)?;
        check_destinations(destinations, &mut report).await?;
        check_kafka(config, &mut report).await?;
    }
    match report.worst {
        None => Ok(Exit::Done),
        Some(exit) => Err(Failure::new(exit, "check: something is wrong, see above")),
    }
}

struct Report<'a> {
    out: &'a mut dyn Write,
    worst: Option<Exit>,
}

impl Report<'_> {
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}")
            .map_err(|error| Failure::new(Exit::Failed, format!("write to the terminal: {error}")))
    }
    fn good(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&format!("ok    {text}"))
    }
    fn bad(&mut self, exit: Exit, text: &str) -> Result<(), Failure> {
        self.worst.get_or_insert(exit);
        self.text(&format!("FAIL  {text}"))
    }
}

/// Refuses a folder that cannot be one, because a file is in its way. It need not be there yet, nor on this machine.
fn check_folder(key: &str, folder: &Path, report: &mut Report<'_>) -> Result<(), Failure> {
    match folder.ancestors().find(|ancestor| ancestor.exists()) {
        Some(there) if !there.is_dir() => {
            report.bad(Exit::Config, &format!("{key} {}: {} is no folder", folder.display(), there.display()))
        }
        _ => Ok(()),
    }
}

/// What this machine and user must allow: a writable spool and the address to listen on.
fn check_machine(config: &Config, report: &mut Report<'_>) -> Result<(), Failure> {
    let dir = &config.spool.dir;
    if let Some(there) = dir.ancestors().find(|ancestor| ancestor.is_dir()) {
        match rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => report.good(&format!("spool.dir {}: this user may write there", dir.display()))?,
            Err(errno) => report
                .bad(Exit::Config, &format!("spool.dir {}: write in {}: {errno}", dir.display(), there.display()))?,
        }
    }
    let Some(address) = config.http else { return Ok(()) };
    match TcpListener::bind(address) {
        // Perhaps the very process that this configuration is for.
        Err(error) if error.kind() != ErrorKind::AddrInUse => {
            report.bad(Exit::Config, &format!("http.listen {address}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Lets librdkafka judge its settings and read the files that they name. Without brokers it contacts nobody.
async fn check_settings(config: &Config, report: &mut Report<'_>) -> Result<(), Failure> {
    let nowhere = KafkaConfig { brokers: String::new(), ..config.kafka.clone() };
    let memory = MemoryShares::of(config.memory.budget).kafka;
    let made = tokio::task::spawn_blocking(move || {
        let made = kafka::connect(&nowhere, memory, kafka::Wanted::of(Vec::new()));
        made.map(drop).map_err(|error| match error {
            KafkaError::Create { problem, .. } => (Exit::Config, format!("[kafka.client]: {problem}")),
            other => (other.exit(), chain(&other)),
        })
    });
    match made.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err((exit, problem))) => report.bad(exit, &problem),
        Err(error) => Err(Failure::new(Exit::Failed, format!("make a Kafka client: {error}"))),
    }
}

/// Opens every destination, which connects nowhere: logins, key files and what the environment adds.
fn check_openings(config: &Config, report: &mut Report<'_>) -> Result<Vec<Arc<Destination>>, Failure> {
    let mut destinations = Vec::new();
    for (name, section) in &config.destinations {
        match Destination::open(name, section) {
            Ok(destination) => {
                if destination.kind() == StoreKind::File {
                    let folder = Path::new("/").join(destination.prefix().as_ref());
                    check_folder(&format!("[destinations.{name}]"), &folder, report)?;
                }
                destinations.push(Arc::new(destination));
            }
            Err(error) => report.bad(Exit::Config, &format!("[destinations.{name}]: {}", chain(&error)))?,
        }
    }
    Ok(destinations)
}

async fn check_destinations(destinations: Vec<Arc<Destination>>, report: &mut Report<'_>) -> Result<(), Failure> {
    for destination in destinations {
        let url = destination.id().to_string();
        let creates = destination.conditional_put();
        let bucket = Bucket::new(destination);
        match bucket.probe().await {
            Ok(()) if creates => report.good(&format!("{url}: put, get, list, delete and create-if-absent work"))?,
            Ok(()) => report.good(&format!(
                "{url}: put, get, list and delete work; without create-if-absent the plan in Kafka is the only fence"
            ))?,
            Err(error) => {
                report.bad(error.exit().unwrap_or(Exit::Unreachable), &format!("{url}: {}", chain(&error)))?
            }
        }
    }
    Ok(())
}

async fn check_kafka(config: &Config, report: &mut Report<'_>) -> Result<(), Failure> {
    let Connected { mut source, topics, cluster, .. } = match connect(config).await {
        Ok(connected) => connected,
        Err(failure) => return report.bad(failure.exit, &failure.message),
    };
    report.good(&cluster)?;
    for archive in &config.archives {
        for name in archive.topics.names.iter().filter(|name| !topics.contains_key(*name)) {
            report.bad(
                Exit::Refused,
                &format!(
                    "archive {}: topic {name} does not exist; it would be found within 60 s of being created",
                    archive.name
                ),
            )?;
        }
    }
    for (topic, partitions) in &topics {
        let owner = config.archives.iter().find(|archive| archive.topics.matches(topic));
        let owner = owner.map_or("", |archive| archive.name.as_str());
        report.good(&format!("topic {topic}: {partitions} Kafka partitions, archive {owner}"))?;
    }
    if topics.is_empty() {
        report.bad(Exit::Refused, "no topic matches any archive")?;
    }
    let closed = tokio::task::spawn_blocking(move || source.close(Duration::from_secs(5))).await;
    closed.map_err(|error| Failure::new(Exit::Failed, format!("leave the group: {error}")))
}
