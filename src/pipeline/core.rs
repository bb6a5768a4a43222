//! The pipeline's state and its reactions: events in, work out. One thread owns it.
//!
//! Everything that waits (stores, commits) runs as a task and reports back through a channel, so that this thread never
//! waits for anything but the next record.

mod complete;
mod fold;
mod gap;
mod hold;
mod pin;
mod relief;
mod room;
mod schema;
mod seal;
mod take;
mod tell;
mod watch;

use super::archive::Archive;
use super::context::{ArchiveContext, Context, Halt};
use super::finish::Finish;
use super::open_batch::Workspace;
use super::partition::Partition;
use super::sample::Sampler;
use super::takeover::Takeover;
use crate::clock::Clock;
use crate::complete::round::Completer;
use crate::consume::{Committed, Held, LogBounds};
use crate::decode::Schemas;
use crate::format::FormatError;
use crate::hook::follow::Follower;
use crate::layout::Column;
use crate::planted::{Bug, has};
use crate::record::TopicPartition;
use crate::spool::Spool;
use crate::spool::encode::EncodePool;
use crate::spool::part::{Block, Finished};
use crate::telemetry::health::Trouble;
use crate::telemetry::status::Status;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a task or an encoder reports back. Bounded in number by partitions and parts: each has at most one under way
/// (encoders: one a block in the pool).
pub(super) enum Completion {
    TakenOver { held: Held, result: Result<Takeover, Halt> },
    Encoded { held: Held, batch: u64, part: usize, result: Result<Option<Finished>, FormatError> },
    Finished { held: Held, batch: u64, result: Result<Finish, Halt> },
    Pinned { archive: usize, result: Result<BTreeMap<String, Vec<Column>>, String> },
    ReadBack { answers: Vec<(Held, i64, Option<Committed>)> },
    SchemaKnown { held: Held, question: u64, result: Result<Option<Arc<Archive>>, Halt> },
    OutOfRange { held: Held, result: Result<LogBounds, Halt> },
    LogEnds { ends: Result<Vec<(TopicPartition, LogBounds)>, String> },
    Folded { held: Held, again: bool },
    RoundDone { held: Held, completer: Box<Completer> },
    Told { held: Held, number: usize, follower: Box<Follower>, again_ms: Option<i64> },
    DrainCommitted { offsets: Option<BTreeMap<TopicPartition, i64>>, topic_ids: TopicIds },
}

/// What the source is asked to do once it is not being polled.
pub(super) enum Request {
    StartAt(Held),
    Pause(Held),
    Resume(Held),
    Rejoin,
}

/// Which questions to the coordinator are under way.
#[derive(Default)]
struct Asking {
    read_back: bool,
    log_ends: bool,
    drain: bool,
}

/// Ids of topics by name; `None` where the client cannot tell.
type TopicIds = BTreeMap<String, Option<String>>;

/// The pipeline's state.
pub struct Core {
    pub(super) context: Arc<Context>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) partitions: Vec<Partition>,
    /// Slot by topic and Kafka partition. Only looked up.
    index: HashMap<Arc<str>, HashMap<i32, usize>>,
    last: Option<usize>,
    pub(super) spool: Spool,
    pub(super) pool: EncodePool,
    tasks: Handle,
    completions: UnboundedReceiver<Completion>,
    report: UnboundedSender<Completion>,
    pub(super) requests: Vec<Request>,
    pub(super) samplers: Vec<Sampler>,
    /// By archive: its samples teach nothing so far.
    sampling_troubles: BTreeMap<usize, Trouble>,
    next_batch: u64,
    /// Questions to the schema registry so far.
    questions: u64,
    /// For `--drain`: where each partition ends.
    pub(super) drain_to: Option<BTreeMap<TopicPartition, i64>>,
    /// For `--drain`: what the whole group has committed.
    pub(super) drain_committed: BTreeMap<TopicPartition, i64>,
    /// For `--drain`: ids of topics, as far as they were asked for.
    drain_topic_ids: TopicIds,
    /// Something was taken over since the log ends were asked for: its lag is not known yet.
    pub(super) lag_unknown: bool,
    /// Questions under way: at most one of each kind.
    asking: Asking,
    pub(super) shutting_down: bool,
    /// Whether something open was thrown away since the shutdown began.
    pub(super) dropped_work: bool,
    pub(super) fatal: Option<String>,
    pub(super) status: Arc<Status>,
    blocks: Vec<(usize, Block)>,
    /// Lent to whichever batch takes a record.
    workspace: Workspace,
}

impl Core {
    /// A core that holds nothing yet.
    pub fn new(context: Arc<Context>, spool: Spool, pool: EncodePool, tasks: Handle, status: Arc<Status>) -> Self {
        let (report, completions) = unbounded_channel();
        let sampler = |archive: &Arc<ArchiveContext>| {
            let schemas = Schemas { registry: context.registry.clone(), ..Schemas::default() };
            Sampler::new(&archive.layout, &schemas)
        };
        let samplers = context.archives.iter().map(sampler).collect();
        Self {
            clock: context.clock.clone(),
            context,
            partitions: Vec::new(),
            index: HashMap::new(),
            last: None,
            spool,
            pool,
            tasks,
            completions,
            report,
            requests: Vec::new(),
            samplers,
            sampling_troubles: BTreeMap::new(),
            next_batch: 0,
            questions: 0,
            drain_to: None,
            drain_committed: BTreeMap::new(),
            drain_topic_ids: TopicIds::new(),
            lag_unknown: false,
            asking: Asking::default(),
            shutting_down: false,
            dropped_work: false,
            fatal: None,
            status,
            blocks: Vec::new(),
            workspace: Workspace::default(),
        }
    }

    /// Slot of a held partition. Records come in runs of one partition, so the last answer is tried first.
    fn slot(&mut self, topic: &str, partition: i32) -> Option<usize> {
        if let Some(slot) = self.last
            && let Some(found) = self.partitions.get(slot)
            && found.held.partition.partition == partition
            && &*found.held.partition.topic == topic
        {
            return Some(slot);
        }
        let slot = *self.index.get(topic)?.get(&partition)?;
        self.last = Some(slot);
        Some(slot)
    }

    fn slot_of(&mut self, held: &Held) -> Option<usize> {
        let slot = self.slot(&held.partition.topic, held.partition.partition)?;
        (self.partitions[slot].held == *held).then_some(slot)
    }

    fn rebuild_index(&mut self) {
        self.index.clear();
        self.last = None;
        for (slot, partition) in self.partitions.iter().enumerate() {
            let of_topic = self.index.entry(partition.held.partition.topic.clone()).or_default();
            of_topic.insert(partition.held.partition.partition, slot);
        }
    }

    /// Forgets partitions: their spool goes with their batches; tasks of theirs end at their next step (C-1).
    fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.context.health.released(partition);
        }
        let gone = |partition: &&Partition| partitions.contains(&partition.held.partition);
        self.dropped_work |=
            self.shutting_down && self.partitions.iter().filter(gone).any(|partition| !partition.is_idle());
        let keeps = has(Bug::OpenBatchKept);
        self.partitions.retain(|partition| keeps || !partitions.contains(&partition.held.partition));
        self.rebuild_index();
    }

    /// Handles what tasks and encoders have reported.
    pub(super) fn drain_completions(&mut self) -> bool {
        // Only what is there now: whoever reports again and again must not keep the source from being polled.
        let waiting = self.completions.len();
        for _ in 0..waiting {
            let Ok(completion) = self.completions.try_recv() else { break };
            match completion {
                Completion::TakenOver { held, result } => self.taken_over(&held, result),
                Completion::Encoded { held, batch, part, result } => self.encoded(&held, batch, part, result),
                Completion::Finished { held, batch, result } => self.finished(&held, batch, result),
                Completion::Pinned { archive, result } => self.pinned(archive, result),
                Completion::ReadBack { answers } => self.read_back(answers),
                Completion::LogEnds { ends } => self.log_ends(ends),
                Completion::SchemaKnown { held, question, result } => self.schema_known(&held, question, result),
                Completion::OutOfRange { held, result } => self.bounds_known(&held, result),
                Completion::Folded { held, again } => self.folded(&held, again),
                Completion::RoundDone { held, completer } => self.round_done(&held, completer),
                Completion::Told { held, number, follower, again_ms } => self.told(&held, number, follower, again_ms),
                Completion::DrainCommitted { offsets, topic_ids } => self.drain_checked(offsets, topic_ids),
            }
        }
        waiting > 0
    }

    /// A commit's answer is unknown: whoever it was for, this membership must end.
    fn rejoin(&mut self, held: &Held, reason: &str) {
        tracing::warn!(partition = %held.partition, reason, "a commit's answer is unknown; leaving the group and joining again");
        metrics::counter!("siltstone_rejoins_total").increment(1);
        self.requests.push(Request::Rejoin);
    }

    /// Publishes numbers for metrics, health and progress.
    pub(super) fn publish(&self) {
        self.status.publish(&self.partitions, &self.spool, &self.pool);
    }
}

#[cfg(test)]
mod tests;
