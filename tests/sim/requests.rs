//! Requests: what processes ask of stores and of Kafka, how each fares, and in which order they take effect.

use crate::state::{Deliver, Event, Life, State};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// What an effect does to the world, and the answer that follows.
type Effect = Box<dyn FnOnce(&mut State) -> Option<Deliver> + Send>;

/// What a request is about: decides what can go wrong with it, and is what a fault is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The commit of a first position.
    Start,
    Plan,
    Claim,
    /// A whole object.
    Object,
    /// An upload in pieces: its begin, a piece, its end.
    Piece,
    Receipt,
    /// The commit of a batch's end.
    Commit,
    /// What else is written to a bucket: layouts, the archive's identity.
    Document,
    Fold,
    /// A receipt that a fold has is deleted.
    Delete,
    StoreRead,
    KafkaRead,
    /// A member leaves.
    Goodbye,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "first position",
            Self::Plan => "plan",
            Self::Claim => "claim",
            Self::Object => "object",
            Self::Piece => "piece",
            Self::Receipt => "receipt",
            Self::Commit => "commit",
            Self::Document => "document",
            Self::Fold => "fold",
            Self::Delete => "delete",
            Self::StoreRead => "read of a store",
            Self::KafkaRead => "read of Kafka",
            Self::Goodbye => "goodbye",
        }
    }

    fn asks_store(self) -> bool {
        self.writes_store() || self == Self::StoreRead
    }

    fn writes_store(self) -> bool {
        matches!(
            self,
            Self::Claim | Self::Object | Self::Piece | Self::Receipt | Self::Document | Self::Fold | Self::Delete
        )
    }

    pub(crate) fn commits(self) -> bool {
        matches!(self, Self::Start | Self::Plan | Self::Commit)
    }

    fn is_durable(self) -> bool {
        self.writes_store() || self.commits()
    }
}

/// How a request fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It happens, and its answer comes.
    Done,
    /// It never happens, and its sender learns that nothing is known.
    Lost,
    /// It happens, but its sender learns that nothing is known; `late`: after that.
    Unanswered { late: bool },
}

/// A request on its way.
pub(crate) struct Request {
    life: Life,
    kind: Kind,
    /// Counts requests as they are sent.
    number: u64,
    effect: Effect,
    /// How long after the effect its answer arrives.
    reply_ms: i64,
    /// It outlived its sender by longer than it takes anyway.
    moved: bool,
}

/// What is on its way, and what each life has done last.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    count: BTreeMap<(Life, Kind), usize>,
    last_number: u64,
    /// The newest write to a store that has taken effect.
    newest_write: BTreeMap<Life, u64>,
    last_effect: BTreeMap<Life, Kind>,
}

impl UnderWay {
    pub(crate) fn total(&self) -> usize {
        self.count.values().sum()
    }

    /// What `life` has on its way that would stay.
    pub(crate) fn durable(&self, life: Life) -> Vec<Kind> {
        self.count.keys().filter(|(of, kind)| *of == life && kind.is_durable()).map(|(_, kind)| *kind).collect()
    }

    /// The last thing that `life` has done for good.
    pub(crate) fn last_effect(&self, life: Life) -> &'static str {
        self.last_effect.get(&life).map_or("nothing", |kind| kind.name())
    }

    fn arrived(&mut self, life: Life, kind: Kind) {
        if let Some(count) = self.count.get_mut(&(life, kind)) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&(life, kind));
            }
        }
    }
}

impl State {
    /// How a request of `kind` fares now.
    fn fate(&mut self, life: Life, kind: Kind) -> Fate {
        if self.calm {
            return Fate::Done;
        }
        if kind.asks_store() && self.now_ms < self.stores_down_until_ms {
            self.fault("the store is down", kind.name());
            return Fate::Lost;
        }
        if !kind.asks_store() && self.is_cut(life) {
            self.fault("Kafka cannot be reached", kind.name());
            return if kind.commits() && self.rng.chance(300) { Fate::Unanswered { late: true } } else { Fate::Lost };
        }
        let (lost, unanswered, late) = match kind {
            Kind::StoreRead | Kind::KafkaRead => (self.knobs.read_lost, 0, 0),
            _ if kind.commits() => (self.knobs.commit_lost, self.knobs.commit_unanswered, self.knobs.commit_late),
            _ => (self.knobs.put_lost, self.knobs.put_unanswered, self.knobs.put_late),
        };
        match self.rng.range(0, 1000) as u32 {
            drawn if drawn < lost => {
                self.fault("request lost", kind.name());
                Fate::Lost
            }
            drawn if drawn < lost + unanswered => Fate::Unanswered { late: false },
            drawn if drawn < lost + unanswered + late => Fate::Unanswered { late: true },
            _ => Fate::Done,
        }
    }

    fn latency_ms(&mut self, kind: Kind) -> i64 {
        if self.calm {
            return self.rng.range(1, 20);
        }
        let slow = self.knobs.slow;
        if self.rng.chance(slow) {
            self.fault("slow", kind.name());
            return self.rng.range(200, 20_000);
        }
        self.rng.range(1, 60)
    }

    /// Sends a request: `effect` happens later, once or never; the answer is its result, or `lost` where none comes.
    pub(crate) fn ask<T: Send + 'static>(
        &mut self,
        life: Life,
        kind: Kind,
        lost: T,
        effect: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, answer) = oneshot::channel();
        let (mut effect_ms, reply_ms) = (self.latency_ms(kind), self.latency_ms(kind));
        let slow_claims = self.knobs.slow_claims;
        if kind == Kind::Claim && !self.calm && self.rng.chance(slow_claims) {
            self.fault("on its way for long", kind.name());
            effect_ms = self.rng.range(500, 40_000);
        }
        match self.fate(life, kind) {
            Fate::Done => {
                let effect = move |state: &mut State| {
                    let answer = effect(state);
                    let deliver: Deliver = Box::new(move || drop(sender.send(answer)));
                    Some(deliver)
                };
                self.send(life, kind, effect_ms, reply_ms, Box::new(effect));
            }
            Fate::Lost => {
                let deliver: Deliver = Box::new(move || drop(sender.send(lost)));
                self.after(effect_ms + reply_ms, Event::Reply { life, deliver });
            }
            Fate::Unanswered { late } => {
                let deliver: Deliver = Box::new(move || drop(sender.send(lost)));
                let more_ms = if late { self.rng.range(500, 90_000) } else { 0 };
                let effect = move |state: &mut State| {
                    let what = if late { "done after its sender gave up" } else { "done, but the answer is lost" };
                    state.fault(what, kind.name());
                    drop(effect(state));
                    None
                };
                self.send(life, kind, effect_ms + more_ms, 0, Box::new(effect));
                self.after(effect_ms + reply_ms, Event::Reply { life, deliver });
            }
        }
        answer
    }

    /// An effect that nobody waits for.
    pub(crate) fn send_later(
        &mut self,
        life: Life,
        kind: Kind,
        delay_ms: i64,
        effect: impl FnOnce(&mut State) + Send + 'static,
    ) {
        let effect = move |state: &mut State| {
            effect(state);
            None
        };
        self.send(life, kind, delay_ms, 0, Box::new(effect));
    }

    fn send(&mut self, life: Life, kind: Kind, effect_ms: i64, reply_ms: i64, effect: Effect) {
        *self.under_way.count.entry((life, kind)).or_insert(0) += 1;
        self.under_way.last_number += 1;
        let number = self.under_way.last_number;
        self.after(effect_ms, Event::Effect(Request { life, kind, number, effect, reply_ms, moved: false }));
    }

    /// Carries a request out. What a dead process had sent may be on the wire still, for long, or never have left it.
    pub(crate) fn carry_out(&mut self, request: Request) {
        let Request { life, kind, .. } = request;
        let is_alive = self.alive.contains(&life);
        if !is_alive && !request.moved {
            if self.rng.chance(400) {
                self.fault("dies with its sender", kind.name());
                return self.under_way.arrived(life, kind);
            }
            if !self.calm && self.rng.chance(400) {
                let later_ms = self.rng.range(100, 60_000);
                return self.after(later_ms, Event::Effect(Request { moved: true, ..request }));
            }
        }
        self.under_way.arrived(life, kind);
        if !is_alive {
            self.fault("outlives its sender", kind.name());
        } else if kind.writes_store() && self.is_zombie(life) {
            self.fault("written by a process that was put out", kind.name());
        }
        if kind.writes_store() {
            let newest = self.under_way.newest_write.entry(life).or_default();
            if *newest > request.number {
                self.fault("overtaken by a later write", kind.name());
            } else {
                *newest = request.number;
            }
        }
        if kind.is_durable() {
            self.under_way.last_effect.insert(life, kind);
        }
        if let Some(deliver) = (request.effect)(self) {
            self.after(request.reply_ms, Event::Reply { life, deliver });
        }
        let crash = self.knobs.crash_after_effect;
        if !self.calm && self.alive.contains(&life) && self.rng.chance(crash) {
            self.condemned = Some(life);
        }
    }
}
