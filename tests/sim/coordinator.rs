//! The client's side of committed offsets: what `KafkaCoordinator` guarantees, without librdkafka.
//!
//! Kept from the real one: commits are sent one at a time and only while their assignment is alive, what is refused because
//! the group moves is tried again once it has moved, and after an answer that did not come the whole membership ends.

use crate::group::{Commit, Refusal};
use crate::member::Membership;
use crate::requests::Kind;
use crate::state::{Life, Shared, State};
use futures::FutureExt;
use futures::future::BoxFuture;
use siltstone::consume::{CommitError, CommittedOffsets, Coordinator, Held, LogBounds, PlannedGuard};
use siltstone::planted::{Bug, has};
use siltstone::record::TopicPartition;
use std::sync::Arc;
use std::time::Duration;

/// How long a refused commit is tried again.
const MOVE_WAIT_MS: i64 = 60_000;
const MOVE_SLICE_MS: i64 = 200;

/// Offsets and questions of one process.
pub(crate) struct SimCoordinator {
    shared: Shared,
    life: Life,
    membership: Arc<Membership>,
    /// Commits are sent one at a time, as by the one thread that does it in earnest.
    turn: tokio::sync::Mutex<()>,
}

impl SimCoordinator {
    pub(crate) fn new(shared: Shared, life: Life, membership: Arc<Membership>) -> Self {
        Self { shared, life, membership, turn: tokio::sync::Mutex::new(()) }
    }

    async fn send(&self, member: u64, held: &Held, offset: i64, metadata: &str) -> Result<(), Refusal> {
        let (life, kind) = (self.life, kind_of(metadata));
        let answer = {
            let mut state = self.shared.lock();
            let (partition, metadata) = (held.partition.clone(), metadata.to_string());
            let commit = Commit { life, member, kind, number: state.commit_number(), partition, offset, metadata };
            let effect = move |state: &mut State| {
                let answer = state.commit(&commit);
                let twice = state.knobs.commit_twice;
                if answer.is_ok() && !state.calm && state.rng.chance(twice) {
                    state.fault("sent again by the client itself", kind.name());
                    let longest_ms = if state.rng.chance(500) { 3_000 } else { 40_000 };
                    let delay_ms = state.rng.range(10, longest_ms);
                    state.send_later(life, kind, delay_ms, move |state| {
                        // Nobody hears the answer.
                        state.commit(&commit).ok();
                    });
                }
                answer
            };
            state.ask(life, kind, Err(Refusal::Unknown), effect)
        };
        self.membership.inner().commit_under_way = true;
        let answer = answer.await.unwrap_or(Err(Refusal::Unknown));
        self.membership.inner().commit_under_way = false;
        answer
    }

    async fn carry_out(&self, held: Held, offset: i64, metadata: String) -> Result<(), CommitError> {
        let _turn = self.turn.lock().await;
        let mut waited_ms = 0;
        loop {
            let member = {
                let inner = self.membership.inner();
                inner.member.filter(|_| !inner.put_out && self.membership.ownership.is_held(&held))
            };
            let member = member.ok_or(CommitError::NotHeld)?;
            let seen = self.membership.ownership.moves();
            match self.send(member, &held, offset, &metadata).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Moving) if waited_ms < MOVE_WAIT_MS => {
                    // In earnest nothing is sent before the group has moved, or a slice has passed.
                    for _ in 0..10 {
                        if self.membership.ownership.moves() != seen {
                            break;
                        }
                        waited_ms += MOVE_SLICE_MS;
                        tokio::time::sleep(Duration::from_millis(MOVE_SLICE_MS.unsigned_abs())).await;
                    }
                }
                Err(Refusal::Moving | Refusal::Out) => {
                    self.membership.end(member);
                    return Err(CommitError::Fenced("put out of the group".to_string()));
                }
                Err(Refusal::Unknown) => {
                    if !has(Bug::UnknownCommitIsDone) {
                        self.membership.end(member);
                    }
                    return Err(CommitError::Unknown("no answer".to_string()));
                }
            }
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&State) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let lost = || Err("no answer".to_string());
        let answer = self.shared.lock().ask(self.life, Kind::KafkaRead, lost(), move |state| question(state));
        answer.await.unwrap_or_else(|_| lost())
    }
}

/// What a commit says of itself.
fn kind_of(metadata: &str) -> Kind {
    let document: serde_json::Value = serde_json::from_str(metadata).expect("metadata of ours");
    match document["state"].as_str() {
        Some("start") => Kind::Start,
        Some("plan") => Kind::Plan,
        Some("done") => Kind::Commit,
        _ => panic!("the archiver commits {metadata}"),
    }
}

impl Coordinator for SimCoordinator {
    fn commit(&self, held: Held, offset: i64, metadata: String) -> BoxFuture<'_, Result<(), CommitError>> {
        self.carry_out(held, offset, metadata).boxed()
    }

    fn committed(&self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<CommittedOffsets, String>> {
        let read = move |state: &State| {
            let found = |partition: TopicPartition| {
                let committed = state.group.offsets.get(&partition).cloned();
                (partition, committed)
            };
            Ok(partitions.into_iter().map(found).collect())
        };
        self.ask(read).boxed()
    }

    fn log_bounds(&self, partition: TopicPartition) -> BoxFuture<'_, Result<LogBounds, String>> {
        let read = move |state: &State| {
            let log = state.logs.get(&partition).ok_or("no such partition")?;
            Ok(LogBounds { start: log.start, end: log.end(), readable_end: log.stable })
        };
        self.ask(read).boxed()
    }

    fn offset_at_time(&self, _partition: TopicPartition, _time_ms: i64) -> BoxFuture<'_, Result<Option<i64>, String>> {
        async { Err("no seed starts at a time".to_string()) }.boxed()
    }

    fn cluster_id(&self) -> BoxFuture<'_, Result<String, String>> {
        self.ask(|_| Ok("cluster".to_string())).boxed()
    }

    fn topic_id(&self, _topic: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        self.ask(|state| Ok(Some(format!("id-{}", state.incarnation)))).boxed()
    }

    fn partitions(&self, topic: &str) -> BoxFuture<'_, Result<i32, String>> {
        let topic = topic.to_string();
        let count =
            move |state: &State| Ok(state.logs.keys().filter(|partition| *partition.topic == *topic).count() as i32);
        self.ask(count).boxed()
    }

    fn planned(&self, held: &Held) -> PlannedGuard {
        let guard = self.membership.ownership.planned(held);
        PlannedGuard::new(move || drop(guard))
    }

    fn is_held(&self, held: &Held) -> bool {
        self.membership.ownership.is_held(held)
    }
}
