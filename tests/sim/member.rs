//! The client's side of the group: what `KafkaSource` guarantees, without librdkafka.
//!
//! Kept from the real one: all state of a partition dies inside the callback and before the member can rejoin, and an
//! orderly revoke waits for planned batches up to its grace and for the commit under way.

use crate::group::GroupEvent;
use crate::requests::Kind;
use crate::state::{Life, Shared, note};
use siltstone::consume::{Held, Source, SourceSink};
use siltstone::kafka::held::Ownership;
use siltstone::record::TopicPartition;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a revoke waits for planned batches.
const GRACE_MS: i64 = 5_000;

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) member: Option<u64>,
    pub(crate) put_out: bool,
    pub(crate) commit_under_way: bool,
    /// The revoke callback runs: since when, and for what.
    revoking: Option<(i64, Vec<TopicPartition>)>,
}

/// What source and coordinator of a process share.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    pub(crate) ownership: Arc<Ownership>,
    inner: Mutex<Inner>,
}

impl Membership {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything held is dead at once, if the membership is still the one that `member` stands for.
    pub(crate) fn end(&self, member: u64) {
        let mut inner = self.inner();
        if inner.member == Some(member) {
            self.ownership.clear();
            inner.put_out = true;
        }
    }

    /// Whether the thread that polls is inside the revoke callback, waiting.
    pub(crate) fn blocks(&self, now_ms: i64) -> bool {
        let inner = self.inner();
        let Some((since_ms, partitions)) = &inner.revoking else { return false };
        let dead = partitions.iter().all(|partition| !self.ownership.partitions().contains(partition));
        if dead {
            return inner.commit_under_way;
        }
        now_ms - since_ms < GRACE_MS && !self.ownership.wait_planned(partitions, Duration::ZERO)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Running,
    Paused,
    Stalled,
}

#[derive(Debug)]
struct Reader {
    held: Held,
    next: i64,
    phase: Phase,
    /// The end of the partition was reported at this position.
    ended_at: Option<i64>,
}

/// Records and rebalances of one process.
pub(crate) struct SimSource {
    shared: Shared,
    life: Life,
    membership: Arc<Membership>,
    readers: BTreeMap<TopicPartition, Reader>,
    /// Partitions of a membership that ended, not reported yet.
    lost: Vec<TopicPartition>,
    join_not_before_ms: i64,
    closed: bool,
}

impl SimSource {
    pub(crate) fn new(shared: Shared, life: Life, membership: Arc<Membership>) -> Self {
        Self {
            shared,
            life,
            membership,
            readers: BTreeMap::new(),
            lost: Vec::new(),
            join_not_before_ms: 0,
            closed: false,
        }
    }

    fn leave(&mut self) {
        let mut inner = self.membership.inner();
        inner.put_out = false;
        inner.revoking = None;
        let Some(member) = inner.member.take() else { return };
        drop(inner);
        self.membership.ownership.clear();
        self.lost.extend(std::mem::take(&mut self.readers).into_keys());
        let mut state = self.shared.lock();
        if let Some(gone) = state.group.members.get_mut(&member) {
            gone.abandoned = true;
        }
        let delay_ms = if state.calm { 10 } else { state.rng.range(5, 6_000) };
        self.join_not_before_ms = state.now_ms + delay_ms;
        // A goodbye may be lost: then the coordinator notices by itself.
        if !state.is_cut(self.life) && (state.calm || !state.rng.chance(200)) {
            state.send_later(self.life, Kind::Goodbye, delay_ms, move |state| state.put_out(member, "it left"));
        }
    }

    /// Whether there is a member that the group knows.
    fn keep_membership(&mut self, sink: &mut dyn SourceSink) -> Option<u64> {
        if self.membership.inner().put_out {
            self.leave();
        }
        let member = self.membership.inner().member;
        if let Some(member) = member {
            let mut state = self.shared.lock();
            let known = state.group.members.contains_key(&member);
            let noticed = !state.is_cut(self.life) && (state.calm || state.rng.chance(300));
            drop(state);
            // The next heartbeat's answer says that the member is out, and nobody can say more than that.
            if !known && noticed {
                self.leave();
            }
        }
        let lost = std::mem::take(&mut self.lost);
        if !lost.is_empty() {
            let mut state = self.shared.lock();
            let last = state.under_way.last_effect(self.life);
            state.fault("partitions lost after", last);
            drop(state);
            sink.lost(&lost);
        }
        let member = self.membership.inner().member;
        if member.is_some() || self.closed {
            return member;
        }
        let mut state = self.shared.lock();
        if state.now_ms < self.join_not_before_ms || state.is_cut(self.life) {
            return None;
        }
        let member = state.join(self.life);
        drop(state);
        self.membership.inner().member = Some(member);
        Some(member)
    }

    fn serve_group(&mut self, member: u64, sink: &mut dyn SourceSink) {
        loop {
            let mut state = self.shared.lock();
            if state.is_cut(self.life) {
                return;
            }
            let now_ms = state.now_ms;
            let Some(inbox) = state.group.members.get_mut(&member).map(|member| &mut member.inbox) else { return };
            match inbox.front().cloned() {
                None => return,
                Some(GroupEvent::Assign(partitions)) => {
                    inbox.pop_front();
                    drop(state);
                    let held = self.membership.ownership.add(&partitions);
                    self.membership.ownership.moved();
                    for held in &held {
                        let reader = Reader { held: held.clone(), next: 0, phase: Phase::Idle, ended_at: None };
                        self.readers.insert(held.partition.clone(), reader);
                    }
                    sink.assigned(held);
                }
                Some(GroupEvent::Revoke(partitions)) => {
                    drop(state);
                    if !self.revoke(now_ms, &partitions) {
                        return;
                    }
                    let mut state = self.shared.lock();
                    if let Some(member) = state.group.members.get_mut(&member) {
                        member.inbox.pop_front();
                    }
                    let last = state.under_way.last_effect(self.life);
                    state.fault("partitions revoked after", last);
                    state.given_back(member, &partitions);
                    drop(state);
                    sink.revoked(&partitions);
                }
            }
        }
    }

    /// The revoke callback. False while it waits.
    fn revoke(&mut self, now_ms: i64, partitions: &[TopicPartition]) -> bool {
        let started = {
            let mut inner = self.membership.inner();
            let fresh = inner.revoking.is_none();
            inner.revoking.get_or_insert((now_ms, partitions.to_vec()));
            fresh
        };
        if started {
            self.membership.ownership.moved();
        }
        if self.membership.blocks(now_ms) {
            return false;
        }
        if !self.membership.ownership.wait_planned(partitions, Duration::ZERO) {
            self.shared.lock().fault("revoked before a planned batch was finished", "");
        }
        self.membership.ownership.remove(partitions);
        let mut inner = self.membership.inner();
        if inner.commit_under_way {
            return false;
        }
        inner.revoking = None;
        drop(inner);
        for partition in partitions {
            self.readers.remove(partition);
        }
        true
    }

    fn take_records(&mut self, sink: &mut dyn SourceSink) {
        let partitions: Vec<TopicPartition> = self.readers.keys().cloned().collect();
        for partition in partitions {
            let most = self.shared.lock().rng.range(1, 30);
            for _ in 0..most {
                if !self.read_one(&partition, sink) {
                    break;
                }
            }
        }
    }

    /// Hands over the next record or the end of the partition; false where there is neither.
    fn read_one(&mut self, partition: &TopicPartition, sink: &mut dyn SourceSink) -> bool {
        let Some(reader) = self.readers.get_mut(partition).filter(|reader| reader.phase == Phase::Running) else {
            return false;
        };
        let mut state = self.shared.lock();
        let Some(log) = state.logs.get(partition) else { return false };
        if reader.next < log.start || reader.next > log.end() {
            reader.phase = Phase::Stalled;
            drop(state);
            sink.out_of_range(partition, None);
            return false;
        }
        if let Some(record) = log.next_record(reader.next).cloned() {
            reader.next = record.offset + 1;
            reader.ended_at = None;
            drop(state);
            sink.record(&record.as_record());
            return true;
        }
        let stable = log.stable;
        if reader.ended_at != Some(stable) && reader.next <= stable {
            reader.ended_at = Some(stable);
            reader.next = stable;
            note!(state, "p{} has read {partition} to its end at {stable}", self.life);
            drop(state);
            sink.end_of_partition(partition, stable);
        }
        false
    }
}

impl Source for SimSource {
    fn poll(&mut self, _wait: Duration, take_records: bool, sink: &mut dyn SourceSink) {
        let Some(member) = self.keep_membership(sink) else { return };
        self.serve_group(member, sink);
        let cut = self.shared.lock().is_cut(self.life);
        if take_records && !cut {
            self.take_records(sink);
        }
    }

    fn start_at(&mut self, held: &Held, offset: i64) -> Result<(), String> {
        let Some(reader) = self.readers.get_mut(&held.partition).filter(|reader| reader.held == *held) else {
            return Err("no longer held".to_string());
        };
        (reader.next, reader.phase, reader.ended_at) = (offset, Phase::Running, None);
        let mut state = self.shared.lock();
        note!(state, "p{} reads {} from {offset}", self.life, held.partition);
        Ok(())
    }

    fn pause(&mut self, held: &Held) {
        if let Some(reader) = self.readers.get_mut(&held.partition)
            && reader.held == *held
            && reader.phase == Phase::Running
        {
            reader.phase = Phase::Paused;
            let mut state = self.shared.lock();
            note!(state, "p{} pauses {} at {}", self.life, held.partition, reader.next);
        }
    }

    fn resume(&mut self, held: &Held) {
        if let Some(reader) = self.readers.get_mut(&held.partition)
            && reader.held == *held
            && reader.phase == Phase::Paused
        {
            (reader.phase, reader.ended_at) = (Phase::Running, None);
            let mut state = self.shared.lock();
            note!(state, "p{} resumes {} at {}", self.life, held.partition, reader.next);
        }
    }

    fn rejoin(&mut self) {
        self.leave();
    }

    fn close(&mut self, _deadline: Duration) {
        self.closed = true;
        self.leave();
    }
}
