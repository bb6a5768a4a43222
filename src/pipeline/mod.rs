//! The pipeline: consume, append, seal, plan, claim, upload, receipt, commit. Read this file first, then [`core`].
//!
//! ```text
//!  Source ──records──▶ Core ──blocks──▶ EncodePool ──parts──▶ finish (a task per batch) ──▶ Coordinator, stores
//!    ▲                  │ ▲                                        │
//!    └── start, pause ──┘ └──────────────── Completion ────────────┘
//! ```
//! One thread turns the crank ([`Pipeline::turn`]): it hands out what the source brings, looks at the clock, and never
//! waits for a store or a commit. The same code runs under librdkafka and under the simulation: source,
//! coordinator, clock and stores are all handed in.

pub mod archive;
pub mod context;
pub mod core;
pub mod earlier;
pub mod finish;
pub mod open_batch;
pub mod partition;
pub mod sample;
pub mod schedule;
pub mod start;
pub mod takeover;
#[cfg(test)]
pub(crate) mod testing;
pub mod unpack;

use self::core::{Core, Request};
use self::partition::Phase;
use crate::batch::rotation::SealReason;
use crate::consume::Source;
use crate::record::TopicPartition;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the clock is looked at.
const TICK_MS: i64 = 100;
/// How often committed offsets are read back.
const READ_BACK_MS: i64 = 60_000;
/// How often log ends are asked for.
const LOG_ENDS_MS: i64 = 10_000;
/// How long a turn may wait for the source while there is no room for records.
const NO_ROOM_WAIT: Duration = Duration::from_millis(2);
/// How often numbers are published.
const PUBLISH_MS: i64 = 500;
/// How often a drain asks what other processes have committed.
const DRAIN_CHECK_MS: i64 = 1_000;

/// How a pipeline ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything asked for is archived and committed.
    Done,
    /// Shut down in time; partitions that could not be finished are re-read by their next owner.
    Shutdown {
        /// Whether everything open was committed.
        complete: bool,
        /// Why a partition was stopped, if one was: it stays so until a person decides.
        stopped: Option<String>,
    },
    /// It cannot go on.
    Fatal(String),
}

/// Bounds of a pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of plain rows in memory before they are spilled.
    pub rows: usize,
    /// How long a shutdown may take.
    pub shutdown: Duration,
}

/// A source and the core that it feeds.
pub struct Pipeline<S: Source> {
    source: S,
    core: Core,
    bounds: Bounds,
    next_tick_ms: i64,
    next_read_back_ms: i64,
    next_log_ends_ms: i64,
    next_publish_ms: i64,
    next_drain_check_ms: i64,
    shutdown_deadline_ms: Option<i64>,
}

impl<S: Source> Pipeline<S> {
    /// Joins the two.
    pub fn new(source: S, core: Core, bounds: Bounds) -> Self {
        let now_ms = core.clock.monotonic_ms();
        Self {
            source,
            core,
            bounds,
            next_tick_ms: now_ms,
            next_read_back_ms: now_ms + READ_BACK_MS,
            next_log_ends_ms: now_ms,
            next_publish_ms: now_ms,
            next_drain_check_ms: now_ms,
            shutdown_deadline_ms: None,
        }
    }

    /// From now on archive up to these offsets only; [`Pipeline::turn`] then ends with [`Ended::Done`]. A pipeline with a
    /// [`schedule`] has them from there.
    pub fn drain_to(&mut self, ends: BTreeMap<TopicPartition, i64>) {
        self.core.drain_to = Some(ends);
    }

    /// The core, for a driver that looks inside.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Seals, uploads and commits what is open, then ends. Reading stops at once.
    pub fn shut_down(&mut self) {
        if self.core.shutting_down {
            return;
        }
        tracing::info!("shutting down: sealing open batches");
        self.core.shutting_down = true;
        let deadline = i64::try_from(self.bounds.shutdown.as_millis()).unwrap_or(i64::MAX);
        self.shutdown_deadline_ms = Some(self.core.clock.monotonic_ms().saturating_add(deadline));
        for slot in 0..self.core.partitions.len() {
            let partition = &self.core.partitions[slot];
            // A cut that was decided is made there or not at all.
            if partition.open.is_some() && !self.core.cut_is_decided(partition) {
                self.core.seal_or_wait(slot, SealReason::Shutdown);
            }
        }
    }

    /// One turn: completions, clock, then at most `wait` for the source. `None`: go on.
    pub fn turn(&mut self, wait: Duration) -> Option<Ended> {
        let busy = self.core.drain_completions();
        let now_ms = self.core.clock.monotonic_ms();
        if now_ms >= self.next_tick_ms {
            self.next_tick_ms = now_ms + TICK_MS;
            self.tick(now_ms);
        }
        self.carry_out_requests();
        if let Some(reason) = self.core.fatal.take() {
            return Some(Ended::Fatal(reason));
        }
        if let Some(ended) = self.ended(now_ms) {
            return Some(ended);
        }
        let spool_room = !self.core.spool.is_full() || self.core.only_one_redo_is_open();
        let room = spool_room && !self.core.is_crowded(self.bounds.rows);
        let take_records = !self.core.shutting_down && self.core.pool.has_room() && room;
        let wait = match (busy, take_records) {
            (true, _) => Duration::ZERO,
            (false, true) => wait,
            // Waiting for an encoder, not for a record.
            (false, false) => wait.min(NO_ROOM_WAIT),
        };
        self.source.poll(wait, take_records, &mut self.core);
        self.core.spill(self.bounds.rows);
        self.carry_out_requests();
        None
    }

    fn tick(&mut self, now_ms: i64) {
        self.core.check_time();
        self.core.check_samples();
        match self.core.spool.is_full() {
            true => self.core.relieve_spool(),
            false => self.core.end_yielding(self.bounds.rows),
        }
        if now_ms >= self.next_read_back_ms {
            self.next_read_back_ms = now_ms + READ_BACK_MS;
            self.core.start_read_back();
        }
        if now_ms >= self.next_log_ends_ms || self.core.lag_unknown {
            self.next_log_ends_ms = now_ms + LOG_ENDS_MS;
            self.core.start_log_ends();
        }
        self.core.start_folds(now_ms);
        self.core.start_rounds(now_ms);
        self.core.start_telling(now_ms);
        if self.core.drain_to.is_some() && now_ms >= self.next_drain_check_ms {
            self.next_drain_check_ms = now_ms + DRAIN_CHECK_MS;
            self.core.start_drain_check();
        }
        if now_ms >= self.next_publish_ms {
            self.next_publish_ms = now_ms + PUBLISH_MS;
            self.core.publish();
        }
    }

    /// Tells the source what the core wants of it.
    fn carry_out_requests(&mut self) {
        let requests = std::mem::take(&mut self.core.requests);
        let rejoin = requests.iter().any(|request| matches!(request, Request::Rejoin));
        for request in requests {
            match request {
                Request::StartAt(held) => {
                    let Some(offset) = self.core.start_offset(&held) else { continue };
                    let result = self.source.start_at(&held, offset);
                    self.core.started(&held, result);
                }
                Request::Pause(held) => self.source.pause(&held),
                Request::Resume(held) => self.source.resume(&held),
                Request::Rejoin => {}
            }
        }
        if rejoin {
            self.source.rejoin();
        }
    }

    /// Whether the pipeline is through.
    fn ended(&mut self, now_ms: i64) -> Option<Ended> {
        let idle = self.core.partitions.iter().all(|partition| partition.is_idle());
        if self.core.shutting_down {
            let late = self.shutdown_deadline_ms.is_some_and(|deadline| now_ms >= deadline);
            let only_decided_open = self.core.partitions.iter().all(|partition| {
                let decided = self.core.cut_is_decided(partition);
                partition.sealed.is_none() && partition.settling.is_none() && (partition.open.is_none() || decided)
            });
            let complete = only_decided_open && !self.core.dropped_work;
            return (only_decided_open || late).then(|| Ended::Shutdown { complete, stopped: self.stopped() });
        }
        let ends = self.core.drain_to.as_ref()?;
        let stopped = self.stopped();
        // A schedule is carried out as far as it can be.
        if self.core.context.schedule.is_none()
            && let Some(reason) = stopped
        {
            return Some(Ended::Fatal(reason));
        }
        let committed = &self.core.drain_committed;
        // A partition without any record up to its end has nothing to commit.
        let drained = |partition: &TopicPartition| {
            let mut held = self.core.partitions.iter();
            let is_through = |phase: &Phase| matches!(phase, Phase::Drained | Phase::Stopped(_));
            held.any(|held| held.held.partition == *partition && is_through(&held.phase) && held.is_idle())
        };
        let done = ends.iter().all(|(partition, &end)| {
            committed.get(partition).is_some_and(|&offset| offset >= end) || drained(partition)
        });
        (idle && done).then(|| stopped.map_or(Ended::Done, Ended::Fatal))
    }

    /// Why a partition is stopped, if one is.
    fn stopped(&self) -> Option<String> {
        self.core.partitions.iter().find_map(|partition| match &partition.phase {
            Phase::Stopped(reason) => Some(reason.clone()),
            _ => None,
        })
    }

    /// Leaves the group.
    pub fn close(mut self, deadline: Duration) {
        self.source.close(deadline);
    }
}
