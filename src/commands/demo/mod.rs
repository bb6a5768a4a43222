//! `siltstone demo`: the very same pipeline over a Kafka inside this process and a local folder, in under a minute.

mod logs;
mod tour;

use super::drive::{Stop, drive};
use super::run::Connected;
use crate::cli::DemoArgs;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::kafka::demo::{DemoCluster, DemoCoordinator, DemoProducer};
use crate::pipeline::context::Folding;
use crate::pipeline::start::{Parts, open_destinations, pipeline, prepare};
use crate::pipeline::{Ended, start};
use crate::spool::process_number;
use crate::telemetry::health::Health;
use crate::telemetry::http::Heartbeat;
use crate::telemetry::progress::Progress;
use crate::telemetry::status::Status;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Kafka partitions of the demo's topic.
const PARTITIONS: i32 = 4;
/// The demo's topic.
const TOPIC: &str = "access";
/// Records that may be in the mock cluster and not yet read: it keeps about 13,000 a partition.
const AHEAD_MAX: u64 = 16_000;
/// How long the demo may take in all.
const DEADLINE_MS: i64 = 55_000;

fn failed(reason: impl Into<String>) -> Failure {
    Failure::new(Exit::Failed, reason)
}

/// Runs the demo and writes what it shows to `out`.
///
/// # Errors
/// Anything that did not work.
pub async fn demo(args: &DemoArgs, progress: Option<Progress>, out: &mut dyn Write) -> Result<Exit, Failure> {
    let dir = folder(args)?;
    let say = |out: &mut dyn Write, text: &str| {
        writeln!(out, "{text}").map_err(|error| failed(format!("write to the terminal: {error}")))
    };
    say(
        out,
        &format!(
            "A Kafka inside this process, {} access logs over four hours, an archive in {}\n",
            args.records,
            dir.display()
        ),
    )?;
    let cluster = DemoCluster::start(TOPIC, PARTITIONS).map_err(failed)?;
    let text = configuration(&dir, &cluster.brokers());
    write_file(&dir.join("demo.toml"), &text)?;
    let config = config::parse(&text, &dir, &|_| None).map_err(|errors| failed(errors.to_string()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let started_ms = clock.monotonic_ms();
    archive(&config, args.records, clock.clone(), progress, &cluster).await?;
    let seconds = (clock.monotonic_ms() - started_ms) as f64 / 1000.0;
    say(out, &format!("{} records archived in {seconds:.1} s. The objects:\n", args.records))?;
    let root = dir.join("archive");
    tour::show(&root, args.records, out)?;
    tour::what_next(&dir, out)?;
    Ok(Exit::Done)
}

/// The folder that the demo works in: given, or a fresh one below the system's folder for temporary files.
fn folder(args: &DemoArgs) -> Result<PathBuf, Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("siltstone-demo-{}", std::process::id())),
    };
    let taken = dir.join("archive");
    if taken.exists() {
        return Err(Failure::new(
            Exit::Config,
            format!("{} is there already; give the demo another --dir, or delete it", taken.display()),
        ));
    }
    std::fs::create_dir_all(&dir).map_err(|error| failed(format!("make the folder {}: {error}", dir.display())))?;
    std::path::absolute(&dir).map_err(|error| failed(format!("{}: {error}", dir.display())))
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| failed(format!("write {}: {error}", path.display())))
}

/// What the demo archives, as a file that the user can read and change.
fn configuration(dir: &Path, brokers: &str) -> String {
    let dir = dir.display();
    format!(
        r#"# What the demo ran. For a real Kafka change `brokers` and take `isolation` out, for a real bucket change `url`.
[kafka]
brokers = "{brokers}"
group = "siltstone-demo"
# For a real Kafka take this line out: with it records of aborted transactions are archived too. The Kafka inside the demo's
# process knows no transactions.
isolation = "read_uncommitted"

[spool]
dir = "{dir}/spool"

[destinations.main]
url = "file://{dir}/archive"

[[archive]]
name = "access"
topics = ["{TOPIC}"]
decode = {{ type = "json", validate = true }}
timestamp = {{ field = "time", unit = "ms", fallback = "kafka" }}
rotate = {{ age = "5s", size = "4MiB" }}

[[archive.output]]
format = {{ type = "json", compression = "gzip", level = 6 }}
layout = {{ path = "json/{{topic}}/dt=%Y-%m-%d/hr=%H" }}

[[archive.output]]
format = {{ type = "parquet", compression = "zstd", schema = "infer" }}
layout = {{ path = "parquet/{{topic}}/dt=%Y-%m-%d/hr=%H" }}
"#
    )
}

/// Produces and archives at the same time, then shuts the pipeline down as SIGTERM would.
async fn archive(
    config: &Config,
    records: u64,
    clock: Arc<dyn Clock>,
    progress: Option<Progress>,
    cluster: &DemoCluster,
) -> Result<(), Failure> {
    let destinations = open_destinations(config)?;
    let Connected { source, coordinator, topics, .. } = super::run::connect(config).await?;
    let parts = Parts {
        coordinator: Arc::new(DemoCoordinator(coordinator)),
        clock: clock.clone(),
        destinations,
        topics,
        health: Health::new(),
        resume_from_receipts: false,
        folding: Folding::default(),
        schedule: None,
        owner: None,
        process: process_number(),
    };
    let context = prepare(config, parts).await?;
    let status = Arc::new(Status::default());
    let pipeline = pipeline(config, context, source, Handle::current(), status.clone())?;
    let live = progress.map(|progress| progress.follow(status.clone()));
    let stop = Stop::default();
    let driven = tokio::spawn(drive(pipeline, stop.clone(), Arc::new(Heartbeat::default()), clock.clone()));
    let producer = DemoProducer::new(&cluster.brokers()).map_err(failed)?;
    let produced = produce(&producer, records, &status, &*clock).await;
    stop.ask();
    let ended = driven.await;
    if let Some(live) = live {
        live.end().await;
    }
    let ended = ended.map_err(|error| failed(format!("drive the pipeline: {error}")))??;
    produced?;
    match ended {
        Ended::Shutdown { complete: true, .. } | Ended::Done => Ok(()),
        other => Err(failed(format!("the pipeline ended early: {other:?}"))),
    }
}

/// Produces `records` records, never further ahead of the reader than the mock cluster can hold, and waits until all are read.
async fn produce(producer: &DemoProducer, records: u64, status: &Status, clock: &dyn Clock) -> Result<(), Failure> {
    let deadline = clock.monotonic_ms() + DEADLINE_MS;
    let mut logs = logs::AccessLogs::new(clock.wall_ms());
    let mut produced = 0;
    loop {
        let read: u64 = status.topics().get(TOPIC).map_or(0, |topic| topic.read);
        if produced >= records && read >= records {
            return Ok(());
        }
        while produced < records && produced < read + AHEAD_MAX {
            let log = logs.line(produced, records);
            let partition = i32::try_from(produced % PARTITIONS as u64).unwrap_or(0);
            producer.send(TOPIC, partition, log.event_ms, &log.user, &log.json).map_err(failed)?;
            produced += 1;
        }
        if produced >= records {
            producer.finish().map_err(failed)?;
        }
        if clock.monotonic_ms() > deadline {
            return Err(failed(format!(
                "the demo did not finish: {produced} of {records} records produced, {read} read"
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An error of the demo with everything below it.
fn explain(what: &str, error: &dyn std::error::Error) -> Failure {
    failed(format!("{what}: {}", start::chain(error)))
}
