//! `siltstone run`: archive until told to stop, or with `--drain` up to the log ends seen at the start.

use super::drive::{Stop, drive, exit_of, stop_on_signals};
use crate::cli::RunArgs;
use crate::clock::{Clock, SystemClock};
use crate::complete::round::{Completer, Seams};
use crate::config::{Config, MemoryShares};
use crate::consume::Coordinator;
use crate::exit::{Exit, Failure};
use crate::hook::{self, follow};
use crate::kafka;
use crate::pipeline::Ended;
use crate::pipeline::context::{Context, Folding};
use crate::pipeline::start::{Parts, chain, first_bounds, open_destinations, pipeline, prepare};
use crate::record::TopicPartition;
use crate::spool::process_number;
use crate::telemetry::health::Health;
use crate::telemetry::http::{self, Heartbeat, Shown};
use crate::telemetry::progress::Progress;
use crate::telemetry::status::Status;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Runs it. `progress`: where the live lines go, on a terminal.
///
/// # Errors
/// A [`Failure`] with its exit code.
pub async fn run(args: &RunArgs, config: Config, progress: Option<Progress>) -> Result<Exit, Failure> {
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
    let metrics = http::metrics_recorder().map_err(|reason| Failure::new(Exit::Failed, reason))?;
    for archive in &config.archives {
        // There from the start, as the counters without labels: alerts on it see the first record, too.
        metrics::counter!("siltstone_time_fallbacks_total", "archive" => archive.layout.archive.clone()).increment(0);
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let health = Health::new();
    let heartbeat = Arc::new(Heartbeat::default());
    if let Some(address) = config.http {
        let shown = Shown { health: health.clone(), heartbeat: heartbeat.clone(), clock: clock.clone(), metrics };
        let bound = http::serve(address, shown).await.map_err(|reason| Failure::new(Exit::Config, reason))?;
        tracing::info!(%bound, "http listener: /metrics /healthz /readyz");
    }
    let destinations = open_destinations(&config)?;
    let opened: Vec<_> = destinations.values().cloned().collect();
    let Connected { source, coordinator, topics, cluster } = connect(&config).await?;
    tracing::info!("{cluster}");
    let parts = Parts {
        coordinator: coordinator.clone(),
        clock: clock.clone(),
        destinations,
        topics: topics.clone(),
        health,
        resume_from_receipts: args.resume_from_receipts,
        folding: Folding::default(),
        schedule: None,
        owner: None,
        process: process_number(),
    };
    let context = prepare(&config, parts).await?;
    let shared = context.clone();
    let status = Arc::new(Status::default());
    let mut pipeline = pipeline(&config, context, source, Handle::current(), status.clone())?;
    if args.drain {
        let named = config.archives.iter().flat_map(|archive| &archive.topics.names);
        let missing: Vec<&str> = named.filter(|name| !topics.contains_key(*name)).map(String::as_str).collect();
        if !missing.is_empty() || topics.is_empty() {
            let what = if missing.is_empty() {
                "no topic matches any archive".to_string()
            } else {
                format!("no such topic: {}", missing.join(", "))
            };
            return Err(Failure::new(
                Exit::Refused,
                format!("--drain: {what}; `siltstone check --connect` shows what is there"),
            ));
        }
        let ends = drain_ends(&*clock, &*coordinator, &topics).await?;
        tracing::info!(partitions = ends.len(), "draining to the log ends seen now");
        pipeline.drain_to(ends);
    }
    let live = progress.map(|progress| progress.follow(status));
    let ended = drive(pipeline, stop.clone(), heartbeat, clock).await;
    if let Some(live) = live {
        live.end().await;
    }
    let ended = ended?;
    let completed = match args.drain && ended == Ended::Done {
        // Nobody comes after it for a while.
        true => {
            let completed = complete_all(&shared, topics.keys(), &stop).await;
            completed.and(tell_all(&shared, &topics, &stop).await)
        }
        false => Ok(()),
    };
    // What the shutdown cut short is aborted, not left in the bucket.
    let at_rest = join_all(opened.iter().map(|destination| destination.at_rest(AT_REST_MAX))).await;
    if at_rest.contains(&false) {
        tracing::warn!(
            "pieces of uploads that were given up may be left in the bucket; its rule for unfinished uploads removes them"
        );
    }
    tracing::info!(?ended, "ended");
    completed.and_then(|()| exit_of(ended))
}

/// Completes the folders of these topics that are over.
///
/// # Errors
/// A store or Kafka refuses or does not answer; everything is archived all the same.
async fn complete_all(context: &Context, topics: impl Iterator<Item = &String>, stop: &Stop) -> Result<(), Failure> {
    let mut failed = None;
    for topic in topics {
        let Some((_, archive)) = context.archive_of(topic) else { continue };
        let Some(complete) = &archive.complete else { continue };
        let goes_on = || !stop.is_asked();
        // Whatever came late comes with this drain.
        let seams = Seams { revise_after_ms: 0, ..context.seams(archive, complete, topic, &goes_on) };
        let mut completer = Completer::default();
        // What is refused, or has no room, keeps nothing else from being completed; where there is no room, a round that does nothing may come before one
        // that does.
        let mut idle = 0;
        while idle < 2 && goes_on() {
            let before = completer.looked_at();
            let (outcome, failure) = completer.round(&seams).await;
            let has_done =
                outcome.completed + outcome.revised + outcome.recounted > 0 || completer.looked_at() != before;
            idle = if has_done { 0 } else { idle + 1 };
            if !outcome.has_more {
                if let Some(failure) = failure {
                    tracing::error!("{}", failure.message);
                    failed.get_or_insert(failure);
                }
                break;
            }
            if let Some(failure) = failure.filter(|_| idle == 2) {
                tracing::error!("{}", failure.message);
                failed.get_or_insert(failure);
            }
        }
        // What was not counted anew is not in the last round.
        if let Some((exit, message)) = completer.recount_failed.take() {
            tracing::error!("{message}");
            failed.get_or_insert(Failure::new(exit, message));
        }
        let asked = stop.clone();
        let load = context.load_seams(archive, topic, Arc::new(move || !asked.is_asked()));
        if let Err(failure) = completer.load_all(&seams, &load).await {
            tracing::error!("{}", failure.message);
            failed.get_or_insert(failure);
        }
    }
    let told = |failure: Failure| {
        Failure::new(failure.exit, format!("everything is archived and committed, but {}", failure.message))
    };
    failed.map_or(Ok(()), |failure| Err(told(failure)))
}

/// Tells hooks of all receipts that they were not told of.
///
/// # Errors
/// Kafka, a store or a hook refuses or does not answer; everything is archived all the same.
async fn tell_all(context: &Context, topics: &BTreeMap<String, i32>, stop: &Stop) -> Result<(), Failure> {
    let mut failed: Option<(u64, Failure)> = None;
    let mut fail = |failure: Failure| {
        tracing::error!("{}", failure.message);
        failed.get_or_insert((0, failure)).0 += 1;
    };
    let goes_on = || !stop.is_asked();
    for (topic, &count) in topics {
        let Some((_, archive)) = context.archive_of(topic) else { continue };
        let hooks: Vec<_> = archive.hooks.iter().filter(|hook| hook.on_batch).collect();
        if hooks.is_empty() || !goes_on() {
            continue;
        }
        let partitions = (0..count).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
        let committed = match context.coordinator.committed(partitions).await {
            Ok(committed) => committed,
            Err(reason) => {
                let what = format!("archive {}, topic {topic}: ask Kafka what is committed: {reason}", archive.name);
                fail(Failure::new(Exit::Unreachable, what));
                continue;
            }
        };
        let committed: Vec<_> = committed
            .iter()
            .filter_map(|(partition, committed)| Some((partition, committed.as_ref()?.offset)))
            .collect();
        let all = hooks.iter().flat_map(|hook| committed.iter().map(move |of| (*hook, of)));
        let told = stream::iter(all).map(|(hook, &(partition, committed))| async move {
            follow::tell_all(hook, &context.tell_seams(archive, partition, committed, &goes_on)).await
        });
        let told: Vec<Result<(), Failure>> = told.buffer_unordered(hook::AT_ONCE * hooks.len()).collect().await;
        told.into_iter().filter_map(Result::err).for_each(&mut fail);
    }
    let Some((count, Failure { exit, message })) = failed else { return Ok(()) };
    let more = if count > 1 { format!(" ({} more fail)", count - 1) } else { String::new() };
    let what = format!("everything is archived and committed, but {message}{more}; the next run tells what is left");
    Err(Failure::new(exit, what))
}

/// How long a process that ends waits for the aborts of uploads that it gave up: pieces on their way come first.
const AT_REST_MAX: Duration = Duration::from_secs(12);

/// How long a broker may be out of reach when a process starts.
const KAFKA_PATIENCE: Duration = Duration::from_secs(30);

/// A connection to Kafka for every topic that an archive wants, and what the cluster holds.
pub struct Connected {
    /// Records and rebalances.
    pub source: kafka::KafkaSource,
    /// Offsets.
    pub coordinator: Arc<kafka::KafkaCoordinator>,
    /// Wanted topics with their partition counts.
    pub topics: BTreeMap<String, i32>,
    /// The cluster in one line.
    pub cluster: String,
}

/// Connects to Kafka; the group is not joined before the source is polled.
///
/// # Errors
/// [`Exit::Config`] for settings the client refuses, [`Exit::Unreachable`] when no broker answers or lets us in.
pub async fn connect(config: &Config) -> Result<Connected, Failure> {
    let failed = |error: kafka::KafkaError| Failure::new(error.exit(), chain(&error));
    let patterns: Vec<_> = config.archives.iter().map(|archive| archive.topics.clone()).collect();
    let memory = MemoryShares::of(config.memory.budget).kafka;
    let wanted = kafka::Wanted::of(patterns.clone());
    let (source, coordinator) = kafka::connect(&config.kafka, memory, wanted).map_err(failed)?;
    let meta = coordinator.meta().clone();
    let asked = tokio::task::spawn_blocking(move || meta.wait_for_cluster(KAFKA_PATIENCE)).await;
    let cluster = asked
        .map_err(|error| Failure::new(Exit::Failed, format!("ask the Kafka cluster: {error}")))?
        .map_err(failed)?;
    let wanted = cluster.topics.iter().filter(|topic| patterns.iter().any(|patterns| patterns.matches(&topic.name)));
    let topics =
        wanted.map(|topic| (topic.name.clone(), i32::try_from(topic.partitions).unwrap_or(i32::MAX))).collect();
    Ok(Connected { source, coordinator, topics, cluster: cluster.describe() })
}

/// Where each Kafka partition's readable log ends now.
///
/// # Errors
/// The broker does not answer.
async fn drain_ends(
    clock: &dyn Clock,
    coordinator: &dyn Coordinator,
    topics: &BTreeMap<String, i32>,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let mut ends = BTreeMap::new();
    for (topic, &count) in topics {
        for number in 0..count {
            let partition = TopicPartition::new(topic.as_str(), number);
            let bounds = first_bounds(clock, coordinator, &partition).await?;
            ends.insert(partition, bounds.readable_end);
        }
    }
    Ok(ends)
}
