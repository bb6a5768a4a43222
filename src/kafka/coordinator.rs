//! [`KafkaCoordinator`]: commits with metadata, one at a time, and everything else that the pipeline asks of Kafka.
//!
//! # How a commit ends
//! | answer | what it means | result |
//! |---|---|---|
//! | success | it happened | `Ok` |
//! | rebalance in progress, illegal generation, stale member epoch | the group moves; refused, not done | tried again once it has moved, while still held; after a minute as the next row |
//! | unknown member, fenced member epoch, fenced instance | this member is out | `Fenced`; everything held dies, the source joins again |
//! | metadata too large, no right on group or topic, bad size | will always be refused | `Refused` |
//! | anything else: timeouts, connections, no coordinator | nobody knows | `Unknown`; everything held dies (K-4) |
//!
//! librdkafka resends a commit by itself after a lost connection. So `Fenced` says that nothing more of it can happen
//! from now on: members and generations only go forward. An earlier copy may already have been carried out; whoever
//! takes over reads the committed offset anyway.

use super::group::list;
use super::membership::{GroupClient, Membership};
use super::meta::MetaClient;
use super::trouble::explain;
use crate::clock::{Clock, SystemClock};
use crate::consume::{CommitError, Committed, Coordinator, Held, LogBounds, PlannedGuard};
use crate::record::TopicPartition;
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Kafka's default limit (`offset.metadata.max.bytes`). Above it a commit is refused or even drops the connection.
pub const METADATA_MAX_BYTES: usize = 4096;
/// Commits waiting their turn.
const QUEUE: usize = 64;
/// How long a refused commit waits for the group to have moved.
const MOVE_WAIT_MS: i64 = 60_000;
/// With the new group protocol a member moves without a rebalance, so it is tried again at least this often.
const MOVE_SLICE: Duration = Duration::from_millis(500);

struct Job {
    held: Held,
    offset: i64,
    metadata: String,
    answer: oneshot::Sender<Result<(), CommitError>>,
}

/// Commits for the partitions that [`super::KafkaSource`] holds. Its async calls need a tokio runtime.
pub struct KafkaCoordinator {
    membership: Arc<Membership>,
    meta: Arc<MetaClient>,
    commits: mpsc::Sender<Job>,
}

impl KafkaCoordinator {
    pub(super) fn new(membership: Arc<Membership>, meta: Arc<MetaClient>) -> Self {
        let (commits, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let theirs = membership.clone();
        let work = move || {
            while let Some(job) = jobs.blocking_recv() {
                let result = commit(&theirs, &job);
                // The asking task may be gone; the outcome stands all the same.
                job.answer.send(result).ok();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("kafka-commit".into()).spawn(work) {
            // The channel is closed then, and every commit answers NotHeld without sending anything.
            tracing::error!(%error, "no thread to commit on");
        }
        Self { membership, meta, commits }
    }

    /// The client that asks the questions.
    pub fn meta(&self) -> &Arc<MetaClient> {
        &self.meta
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&MetaClient) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let meta = self.meta.clone();
        match tokio::task::spawn_blocking(move || question(&meta)).await {
            Ok(answer) => answer,
            Err(error) => Err(format!("the question to Kafka was not finished: {error}")),
        }
    }
}

/// Carries out one commit on the commit thread. No timeout of ours: an abandoned commit could still happen.
fn commit(membership: &Membership, job: &Job) -> Result<(), CommitError> {
    if job.metadata.len() > METADATA_MAX_BYTES {
        let found = job.metadata.len();
        return Err(CommitError::Refused(format!("{found} bytes of metadata, Kafka takes {METADATA_MAX_BYTES}")));
    }
    let offsets = single(job)?;
    let clock = SystemClock::new();
    loop {
        let gate = membership.ownership.gate();
        // The client first: what is held then is held by its member, or already dead.
        let client = membership.client().ok_or(CommitError::NotHeld)?;
        if membership.put_out.load(Ordering::SeqCst) || !membership.ownership.is_held(&job.held) {
            return Err(CommitError::NotHeld);
        }
        let seen = membership.ownership.moves();
        let Err(code) = send(&client, &offsets) else { return Ok(()) };
        let text = format!("{} at {}: {}", job.held.partition, job.offset, explain(code, ""));
        match verdict(code) {
            Verdict::Moving if clock.monotonic_ms() < MOVE_WAIT_MS => {
                // In this order: nobody but the holder of the gate refers to the client (G-1).
                drop(client);
                drop(gate);
                let waited = membership.ownership.wait_for_move(seen, wait_after(code));
                tracing::debug!(%text, waited, "the group was moving; the commit is tried again if the partition stays");
            }
            Verdict::Moving | Verdict::Out => {
                membership.end(&client);
                return Err(CommitError::Fenced(text));
            }
            Verdict::Refused => return Err(CommitError::Refused(text)),
            Verdict::Unknown => {
                membership.end(&client);
                return Err(CommitError::Unknown(text));
            }
        }
    }
}

/// With the classic protocol a refused generation is followed by a rebalance callback, and until that has run librdkafka
/// may have no generation at all: Kafka would take such a commit as one of nobody. So nothing is sent before it.
fn wait_after(code: Code) -> Duration {
    match code {
        Code::StaleMemberEpoch => MOVE_SLICE,
        _ => Duration::from_millis(MOVE_WAIT_MS.unsigned_abs()),
    }
}

fn single(job: &Job) -> Result<TopicPartitionList, CommitError> {
    let refused =
        |error: KafkaError| CommitError::Refused(format!("{} at {}: {error}", job.held.partition, job.offset));
    let mut offsets = list([&job.held.partition]);
    offsets.set_all_offsets(Offset::Offset(job.offset)).map_err(refused)?;
    if let Some(mut entry) = offsets.find_partition(&job.held.partition.topic, job.held.partition.partition) {
        entry.set_metadata(&job.metadata);
    }
    Ok(offsets)
}

fn send(client: &GroupClient, offsets: &TopicPartitionList) -> Result<(), Code> {
    client.commit(offsets, CommitMode::Sync).map_err(|error| error.rdkafka_error_code().unwrap_or(Code::Unknown))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Moving,
    Out,
    Refused,
    Unknown,
}

fn verdict(code: Code) -> Verdict {
    match code {
        Code::RebalanceInProgress | Code::IllegalGeneration | Code::StaleMemberEpoch => Verdict::Moving,
        Code::UnknownMemberId | Code::FencedMemberEpoch | Code::FencedInstanceId => Verdict::Out,
        Code::OffsetMetadataTooLarge
        | Code::InvalidCommitOffsetSize
        | Code::GroupAuthorizationFailed
        | Code::TopicAuthorizationFailed
        | Code::InvalidGroupId => Verdict::Refused,
        _ => Verdict::Unknown,
    }
}

impl Coordinator for KafkaCoordinator {
    fn planned(&self, held: &Held) -> PlannedGuard {
        let guard = self.membership.ownership.planned(held);
        PlannedGuard::new(move || drop(guard))
    }

    fn commit(&self, held: Held, offset: i64, metadata: String) -> BoxFuture<'_, Result<(), CommitError>> {
        async move {
            let (answer, answered) = oneshot::channel();
            if self.commits.send(Job { held, offset, metadata, answer }).await.is_err() {
                return Err(CommitError::NotHeld);
            }
            answered.await.unwrap_or_else(|_| Err(CommitError::Unknown("the commit thread ended".into())))
        }
        .boxed()
    }

    fn committed(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> BoxFuture<'_, Result<Vec<(TopicPartition, Option<Committed>)>, String>> {
        self.ask(move |meta| meta.committed(&partitions)).boxed()
    }

    fn log_bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        self.ask(move |meta| meta.log_bounds(&partition)).boxed()
    }

    fn offset_at_time(&self, partition: TopicPartition, time_ms: i64) -> BoxFuture<'_, Result<Option<i64>, String>> {
        self.ask(move |meta| meta.offset_at_time(&partition, time_ms)).boxed()
    }

    fn answers(&self) -> BoxFuture<'_, Result<(), String>> {
        self.ask(MetaClient::answers).boxed()
    }

    fn cluster_id(&self) -> BoxFuture<'_, Result<String, String>> {
        self.ask(MetaClient::cluster_id).boxed()
    }

    fn topic_id(&self, topic: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        let topic = topic.to_string();
        self.ask(move |meta| meta.topic_id(&topic)).boxed()
    }

    fn partitions(&self, topic: &str) -> BoxFuture<'_, Result<i32, String>> {
        let topic = topic.to_string();
        self.ask(move |meta| meta.partitions(&topic)).boxed()
    }

    fn is_held(&self, held: &Held) -> bool {
        self.membership.ownership.is_held(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_broker_answered_is_definite() {
        let cases = [
            (Code::RebalanceInProgress, Verdict::Moving),
            (Code::IllegalGeneration, Verdict::Moving),
            (Code::StaleMemberEpoch, Verdict::Moving),
            (Code::UnknownMemberId, Verdict::Out),
            (Code::FencedInstanceId, Verdict::Out),
            (Code::FencedMemberEpoch, Verdict::Out),
            (Code::OffsetMetadataTooLarge, Verdict::Refused),
            (Code::TopicAuthorizationFailed, Verdict::Refused),
            (Code::BrokerTransportFailure, Verdict::Unknown),
            (Code::OperationTimedOut, Verdict::Unknown),
            (Code::RequestTimedOut, Verdict::Unknown),
            (Code::CoordinatorNotAvailable, Verdict::Unknown),
            (Code::WaitingForCoordinator, Verdict::Unknown),
            (Code::NoOffset, Verdict::Unknown),
            (Code::Fatal, Verdict::Unknown),
        ];
        for (code, expected) in cases {
            assert_eq!(verdict(code), expected, "{code:?}");
        }
    }
}
