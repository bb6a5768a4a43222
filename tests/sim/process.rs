//! One life of one process: the real pipeline on a runtime of its own, driven by hand.
//!
//! The runtime has one thread and a paused clock. Dropping the process drops its tasks in the middle of whatever they
//! wait for: that is a crash. What it had sent is the world's.

use crate::coordinator::SimCoordinator;
use crate::member::{Membership, SimSource};
use crate::settings::{BUCKETS, TOPIC};
use crate::state::{Life, Shared};
use crate::store::SimStore;
use siltstone::bucket::folding::Rules;
use siltstone::clock::{Clock, ManualClock};
use siltstone::config::Config;
use siltstone::destination::{Destination, StoreKind};
use siltstone::exit::Failure;
use siltstone::pipeline::context::{Context, Folding};
use siltstone::pipeline::schedule::Schedule;
use siltstone::pipeline::start::{Parts, pipeline, prepare};
use siltstone::pipeline::{Ended, Pipeline};
use siltstone::record::{OffsetRange, TopicPartition};
use siltstone::telemetry::health::Health;
use siltstone::telemetry::status::Status;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Wall time at the begin of every seed: 2025-11-21T22:10:00Z, so that windows of hours and days end soon.
pub(crate) const WALL_MS: i64 = 1_763_763_000_000;
/// Leaving the group is not waited for.
const CLOSE: Duration = Duration::ZERO;
/// How often the runtime's tasks are let run before the world goes on.
const ROUNDS: usize = 4;

enum Doing {
    Preparing(JoinHandle<Result<Arc<Context>, Failure>>),
    Running(Box<Pipeline<SimSource>>),
    Over,
}

/// What a process is started with.
pub(crate) struct Beginning {
    pub(crate) life: Life,
    pub(crate) config: Config,
    pub(crate) partitions: i32,
    pub(crate) conditional: bool,
    pub(crate) wall_shift_ms: i64,
    pub(crate) resume_from_receipts: bool,
    /// Up to where it archives, as with `--drain`.
    pub(crate) drain_to: Option<BTreeMap<TopicPartition, i64>>,
    /// It does so by a schedule, in pieces of so many offsets.
    pub(crate) chunk: Option<i64>,
}

/// So many receipts a fold, and how often it is looked for some; few, often and of any age, where a seed folds: no day passes in a seed, and what
/// a day keeps apart (a process that wakes, a delete that is on its way) meets here.
pub(crate) fn folding(every_ms: Option<i64>) -> Folding {
    let Some(every_ms) = every_ms else { return Folding::default() };
    Folding { rules: Rules { fold: 3, kept: 2, min_age_ms: i64::MIN / 4 }, first_ms: every_ms / 2, again_ms: every_ms }
}

pub(crate) struct Process {
    life: Life,
    shared: Shared,
    config: Config,
    drain_to: Option<BTreeMap<TopicPartition, i64>>,
    is_scheduled: bool,
    clock: Arc<ManualClock>,
    at_ms: i64,
    membership: Arc<Membership>,
    health: Arc<Health>,
    // Dropped in this order: the pipeline gives its spool back before its tasks go.
    doing: Doing,
    runtime: Runtime,
}

impl Process {
    pub(crate) fn start(shared: &Shared, beginning: Beginning) -> Self {
        let Beginning { life, config, partitions, conditional, wall_shift_ms, resume_from_receipts, drain_to, chunk } =
            beginning;
        let at_ms = shared.lock().now_ms;
        let folding = folding(shared.lock().knobs.fold_every_ms);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads");
        let clock = Arc::new(ManualClock::at(WALL_MS + at_ms + wall_shift_ms));
        let membership = Arc::new(Membership::default());
        let health = Health::new();
        let mut destinations = BTreeMap::new();
        for (url, bucket) in BUCKETS {
            let store = Arc::new(SimStore::new(shared.clone(), life, bucket));
            let destination = Destination::from_store(bucket, url, store, StoreKind::Memory);
            let destination = if conditional { destination } else { destination.without_conditional_put() };
            destinations.insert(url.to_string(), Arc::new(destination));
        }
        let schedule = chunk.zip(drain_to.as_ref()).map(|(chunk, ends)| {
            let all = ends.iter().map(|(partition, &end)| (partition.clone(), OffsetRange::new(0, end)));
            Schedule::new(all, chunk, None)
        });
        let parts = Parts {
            folding,
            coordinator: Arc::new(SimCoordinator::new(shared.clone(), life, membership.clone())),
            clock: clock.clone(),
            destinations,
            topics: BTreeMap::from([(TOPIC.to_string(), partitions)]),
            health: health.clone(),
            resume_from_receipts,
            schedule,
            owner: None,
            process: life.into(),
        };
        let prepared = config.clone();
        let preparing = runtime.spawn(async move { prepare(&prepared, parts).await });
        let shared = shared.clone();
        let doing = Doing::Preparing(preparing);
        let is_scheduled = chunk.is_some();
        Self { life, shared, config, drain_to, is_scheduled, clock, at_ms, membership, health, doing, runtime }
    }

    /// Sets the wall clock alone.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.clock.jump_to(self.clock.wall_ms() + by_ms);
    }

    /// What stands in the way, as the process itself says it.
    pub(crate) fn health(&self) -> Vec<String> {
        self.health.lines().iter().map(|line| self.without_paths(line)).collect()
    }

    /// What a process says without the paths of its spool, which are others in each run: all that is told must follow from
    /// the seed alone.
    fn without_paths(&self, text: &str) -> String {
        let spool = self.config.spool.dir.display().to_string();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, path)) = rest.split_once(&spool) {
            plain += before;
            plain += "(a path of the spool)";
            rest = path.trim_start_matches(|letter: char| letter.is_alphanumeric() || "/-_.".contains(letter));
        }
        plain + rest
    }

    /// Asks for an orderly end.
    pub(crate) fn shut_down(&mut self) {
        match &mut self.doing {
            Doing::Running(pipeline) => pipeline.shut_down(),
            Doing::Preparing(_) | Doing::Over => self.doing = Doing::Over,
        }
    }

    /// Lets the process work until it waits for something. Gives why it has ended, if it has.
    pub(crate) fn turn(&mut self) -> Option<String> {
        let now_ms = self.shared.lock().now_ms;
        let passed_ms = now_ms - std::mem::replace(&mut self.at_ms, now_ms);
        self.clock.advance(passed_ms);
        self.runtime.block_on(tokio::time::advance(Duration::from_millis(passed_ms.unsigned_abs())));
        self.settle();
        self.begin_running();
        let ended = match &mut self.doing {
            Doing::Preparing(_) => None,
            Doing::Running(_) if self.membership.blocks(now_ms) => None,
            Doing::Running(pipeline) => pipeline.turn(Duration::ZERO).map(|ended| match ended {
                Ended::Done => "done".to_string(),
                Ended::Shutdown { complete, .. } => format!("shut down, complete: {complete}"),
                Ended::Fatal(reason) => format!("fatal: {reason}"),
            }),
            Doing::Over => Some("over".to_string()),
        };
        if ended.is_some()
            && let Doing::Running(pipeline) = std::mem::replace(&mut self.doing, Doing::Over)
        {
            pipeline.close(CLOSE);
        }
        self.settle();
        if let (None, Doing::Over) = (&ended, &self.doing) {
            return Some("it did not start".to_string());
        }
        ended.map(|ended| self.without_paths(&ended))
    }

    fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..ROUNDS {
                tokio::task::yield_now().await;
            }
        });
    }

    fn begin_running(&mut self) {
        let Doing::Preparing(preparing) = &mut self.doing else { return };
        if !preparing.is_finished() {
            return;
        }
        let prepared = self.runtime.block_on(preparing);
        let context = match prepared {
            Ok(Ok(context)) => context,
            Ok(Err(failure)) => {
                self.health.kafka_trouble(&format!("start: {failure:?}"));
                self.doing = Doing::Over;
                return;
            }
            Err(error) => panic!("p{}: a task of the start panicked: {error}", self.life),
        };
        let source = SimSource::new(self.shared.clone(), self.life, self.membership.clone());
        let tasks = self.runtime.handle().clone();
        let pipeline = pipeline(&self.config, context, source, tasks, Arc::new(Status::default()));
        self.doing = match pipeline {
            Ok(mut pipeline) => {
                // A schedule brings its own ends.
                if let Some(ends) = self.drain_to.take().filter(|_| !self.is_scheduled) {
                    pipeline.drain_to(ends);
                }
                Doing::Running(Box::new(pipeline))
            }
            Err(failure) => panic!("p{}: the spool of the simulation: {failure:?}", self.life),
        };
    }
}
