//! The simulated group coordinator.
//!
//! As measured on real brokers: it fences members, never partitions, and never a lower offset. Whoever is a member may
//! commit any partition; whoever is not is refused. That holds for both group protocols. A request takes effect whenever it arrives.

use crate::requests::Kind;
use crate::state::{Life, State, note};
use siltstone::consume::Committed;
use siltstone::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a member is told, in order.
#[derive(Clone, Debug)]
pub(crate) enum GroupEvent {
    Assign(Vec<TopicPartition>),
    Revoke(Vec<TopicPartition>),
}

/// A member of the group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) life: Life,
    pub(crate) inbox: VecDeque<GroupEvent>,
    /// It said goodbye, or its process made another member since: nobody sends heartbeats.
    pub(crate) abandoned: bool,
    silent_since_ms: Option<i64>,
}

/// Why a commit did not happen, as the broker says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The group moves.
    Moving,
    /// No such member.
    Out,
    /// No answer came.
    Unknown,
}

/// A commit as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) life: Life,
    pub(crate) member: u64,
    pub(crate) kind: Kind,
    /// Counts commits as they are sent.
    pub(crate) number: u64,
    pub(crate) partition: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
}

/// Members, owners, offsets.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) owners: BTreeMap<TopicPartition, u64>,
    pub(crate) offsets: BTreeMap<TopicPartition, Committed>,
    /// Who committed last, and when.
    pub(crate) last_commit: BTreeMap<TopicPartition, (Life, i64)>,
    /// The newest commit that was carried out, by its number.
    newest: BTreeMap<TopicPartition, u64>,
    /// Lives that were put out and have not joined since.
    silenced: BTreeSet<Life>,
    last_member: u64,
    last_commit_number: u64,
}

impl Group {
    fn is_leaving(&self, partition: &TopicPartition, member: u64) -> bool {
        self.members.get(&member).is_some_and(|member| {
            member.inbox.iter().any(|event| matches!(event, GroupEvent::Revoke(given) if given.contains(partition)))
        })
    }
}

impl State {
    /// The number of a commit that is sent now.
    pub(crate) fn commit_number(&mut self) -> u64 {
        self.group.last_commit_number += 1;
        self.group.last_commit_number
    }

    /// Whether the coordinator has put that process out and it has not come back.
    pub(crate) fn is_zombie(&self, life: Life) -> bool {
        self.group.silenced.contains(&life)
    }

    /// A new member, and with it a rebalance.
    pub(crate) fn join(&mut self, life: Life) -> u64 {
        self.group.last_member += 1;
        let id = self.group.last_member;
        note!(self, "p{life} joins as member {id}");
        let member = Member { life, inbox: VecDeque::new(), abandoned: false, silent_since_ms: None };
        self.group.members.insert(id, member);
        self.group.silenced.remove(&life);
        self.rebalance();
        id
    }

    /// The member is out: whatever it sends from now on is refused.
    pub(crate) fn put_out(&mut self, member: u64, why: &str) {
        let Some(gone) = self.group.members.remove(&member) else { return };
        note!(self, "member {member} of p{} is out: {why}", gone.life);
        self.group.owners.retain(|_, owner| *owner != member);
        self.rebalance();
    }

    /// Partitions are moved about: a few, or with `eager` all of them.
    pub(crate) fn rebalance(&mut self) {
        let eager = self.knobs.eager;
        let partitions: Vec<TopicPartition> = self.logs.keys().cloned().collect();
        let mut taken: BTreeMap<u64, Vec<TopicPartition>> = BTreeMap::new();
        for partition in partitions {
            let Some(&owner) = self.group.owners.get(&partition) else { continue };
            let moves = eager || (self.group.members.len() > 1 && self.rng.chance(350));
            if moves && !self.group.is_leaving(&partition, owner) {
                taken.entry(owner).or_default().push(partition);
            }
        }
        for (member, partitions) in taken {
            let owned = self.group.owners.values().filter(|owner| **owner == member).count();
            let what = if owned == partitions.len() { "all partitions" } else { "some partitions" };
            self.fault("taken away by a rebalance", what);
            note!(self, "member {member} must give {}", names(&partitions));
            if let Some(member) = self.group.members.get_mut(&member) {
                member.inbox.push_back(GroupEvent::Revoke(partitions));
            }
        }
        self.assign_free();
    }

    fn assign_free(&mut self) {
        let live: Vec<u64> =
            self.group.members.iter().filter(|(_, member)| !member.abandoned).map(|(&id, _)| id).collect();
        if live.is_empty() {
            return;
        }
        let free: Vec<TopicPartition> =
            self.logs.keys().filter(|partition| !self.group.owners.contains_key(*partition)).cloned().collect();
        let mut given: BTreeMap<u64, Vec<TopicPartition>> = BTreeMap::new();
        for partition in free {
            let member = *self.rng.pick(&live);
            self.group.owners.insert(partition.clone(), member);
            given.entry(member).or_default().push(partition);
        }
        for (id, partitions) in given {
            note!(self, "member {id} gets {}", names(&partitions));
            if let Some(member) = self.group.members.get_mut(&id) {
                member.inbox.push_back(GroupEvent::Assign(partitions));
            }
        }
    }

    /// The member has given partitions back.
    pub(crate) fn given_back(&mut self, member: u64, partitions: &[TopicPartition]) {
        note!(self, "member {member} gave back {}", names(partitions));
        for partition in partitions {
            if self.group.owners.get(partition) == Some(&member) {
                self.group.owners.remove(partition);
            }
        }
        self.assign_free();
    }

    /// The member that a commit is carried out under: its sender's, or rarely the one that its process became since, as of a
    /// client that asks again by itself and stamps the request anew.
    fn member_of(&mut self, commit: &Commit) -> u64 {
        let stamped_anew = self.knobs.commit_stamped_anew;
        if self.calm || self.group.members.contains_key(&commit.member) || !self.rng.chance(stamped_anew) {
            return commit.member;
        }
        let is_now = |(_, member): &(&u64, &Member)| member.life == commit.life && !member.abandoned;
        let Some((&member, _)) = self.group.members.iter().find(is_now) else { return commit.member };
        self.fault("carried out under a later membership", commit.kind.name());
        member
    }

    /// A commit arrives.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<(), Refusal> {
        let Commit { life, kind, number, partition, offset, metadata, .. } = commit;
        let member = self.member_of(commit);
        if !self.group.members.contains_key(&member) {
            note!(self, "commit {partition} at {offset} of member {member}: refused, no such member");
            self.fault("refused, no such member", kind.name());
            return Err(Refusal::Out);
        }
        let moving = self.knobs.commit_moving;
        if !self.calm && (self.rng.chance(moving) || (self.group.is_leaving(partition, member) && self.rng.chance(200)))
        {
            note!(self, "commit {partition} at {offset} of member {member}: refused, the group moves");
            self.fault("refused, the group moves", kind.name());
            return Err(Refusal::Moving);
        }
        if self.group.owners.get(partition) != Some(&member) {
            self.fault("of a partition not owned, and taken", kind.name());
        }
        note!(self, "commit {partition} at {offset} of member {member}: {metadata}");
        let newest = self.group.newest.entry(partition.clone()).or_default();
        if number < newest {
            self.fault("carried out over a newer commit", kind.name());
        } else {
            *newest = *number;
        }
        let committed = Committed { offset: *offset, metadata: metadata.clone() };
        self.group.last_commit.insert(partition.clone(), (*life, self.now_ms));
        let before = self.group.offsets.insert(partition.clone(), committed);
        if before.is_some_and(|before| before.offset > *offset) {
            self.fault("offset went back", kind.name());
        }
        Ok(())
    }

    /// Members that have been silent for too long are put out.
    pub(crate) fn check_sessions(&mut self) {
        let now_ms = self.now_ms;
        let mut out = Vec::new();
        let ids: Vec<u64> = self.group.members.keys().copied().collect();
        for id in ids {
            let life = self.group.members[&id].life;
            let reachable = self.alive.contains(&life) && !self.asleep.contains_key(&life) && !self.is_cut(life);
            let Some(member) = self.group.members.get_mut(&id) else { continue };
            if reachable && !member.abandoned {
                member.silent_since_ms = None;
            } else if now_ms - *member.silent_since_ms.get_or_insert(now_ms) >= self.knobs.session_ms {
                out.push(id);
            }
        }
        for id in out {
            if let Some(member) = self.group.members.get(&id).filter(|member| !member.abandoned) {
                self.group.silenced.insert(member.life);
            }
            self.fault("session timed out", "");
            self.put_out(id, "silent for too long");
        }
    }
}

fn names(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(TopicPartition::to_string).collect::<Vec<_>>().join(" ")
}
