//! The world that all processes share: time, the queue of what is under way, brokers, buckets.
//!
//! Everything that a process asks of the outside is a request: its effect happens at one moment of the queue, its
//! answer at another, and a crash may fall between any two of them. Nothing else moves.

use crate::group::Group;
use crate::knobs::Knobs;
use crate::log::Log;
use crate::rng::Rng;
use crate::store::Buckets;
use crate::trace::Trace;
use siltstone::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// One life of a process: from its start to its crash or end. Never used twice.
pub(crate) type Life = u32;

/// Hands an answer to whoever waits for it.
pub(crate) type Deliver = Box<dyn FnOnce() + Send>;

/// What an effect does to the world, and the answer that follows.
pub(crate) type Effect = Box<dyn FnOnce(&mut State) -> Option<Deliver> + Send>;

/// What happens at a moment.
pub(crate) enum Event {
    /// A request of `life` takes effect; its answer follows `reply_ms` later.
    Effect { life: Life, effect: Effect, reply_ms: i64, moved: bool },
    /// An answer arrives.
    Reply { life: Life, deliver: Deliver },
    /// A process gets the processor; another turn follows.
    Turn { life: Life },
    /// Something that the seed has in store.
    Chaos,
    /// The group's coordinator looks for members that are silent.
    Sessions,
    /// A process is started, for the first time or again.
    Start { slot: usize },
    /// Records are produced.
    Produce { records: i64 },
    /// All faults are over.
    Calm,
    /// Whether everything is archived.
    Check,
    /// A stopped process goes on.
    Wake { life: Life },
}

/// What a request is about: decides what can go wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    StoreWrite,
    Claim,
    StoreRead,
    KafkaRead,
    Commit,
}

/// How a request fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It happens, and its answer comes.
    Done,
    /// It never happens, and its sender learns that nothing is known.
    Lost,
    /// It happens, but its sender learns that nothing is known; `late`: after that.
    Unanswered { late: bool },
}

pub(crate) struct State {
    pub(crate) now_ms: i64,
    pub(crate) rng: Rng,
    pub(crate) knobs: Knobs,
    pub(crate) trace: Trace,
    pub(crate) logs: BTreeMap<TopicPartition, Log>,
    /// Logs of topics that were deleted.
    pub(crate) deleted_logs: Vec<(TopicPartition, Log)>,
    /// How often the topic was made.
    pub(crate) incarnation: u32,
    pub(crate) group: Group,
    pub(crate) buckets: Buckets,
    /// Faults are over.
    pub(crate) calm: bool,
    /// Until when the stores do not answer.
    pub(crate) stores_down_until_ms: i64,
    /// Lives that cannot reach Kafka, and until when.
    pub(crate) cut: BTreeMap<Life, i64>,
    pub(crate) alive: BTreeSet<Life>,
    /// Lives that are stopped by a signal, and since when.
    pub(crate) asleep: BTreeMap<Life, i64>,
    /// A process that the seed wants to die right after an effect of its own.
    pub(crate) condemned: Option<Life>,
    /// Effects under way.
    pub(crate) under_way: usize,
    /// Faults injected so far, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    queue: BTreeMap<(i64, u64), Event>,
    next: u64,
}

/// The state, shared by the world and everything that its processes were handed.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line of the trace.
macro_rules! note {
    ($state:expr, $($what:tt)*) => {{
        let now_ms = $state.now_ms;
        $state.trace.line(now_ms, format_args!($($what)*));
    }};
}
pub(crate) use note;

impl State {
    pub(crate) fn new(seed: u64, knobs: Knobs, rng: Rng) -> Self {
        let mut state = Self {
            now_ms: 0,
            rng,
            knobs,
            trace: Trace::new(),
            logs: BTreeMap::new(),
            deleted_logs: Vec::new(),
            incarnation: 1,
            group: Group::default(),
            buckets: Buckets::default(),
            calm: false,
            stores_down_until_ms: 0,
            cut: BTreeMap::new(),
            alive: BTreeSet::new(),
            asleep: BTreeMap::new(),
            condemned: None,
            under_way: 0,
            faults: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
        };
        note!(state, "seed {seed}: {:?}", state.knobs);
        state
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_insert(0) += 1;
    }

    pub(crate) fn after(&mut self, delay_ms: i64, event: Event) {
        self.next += 1;
        self.queue.insert((self.now_ms + delay_ms.max(0), self.next), event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let ((at_ms, _), event) = self.queue.pop_first()?;
        self.now_ms = at_ms;
        Some(event)
    }

    pub(crate) fn is_cut(&self, life: Life) -> bool {
        !self.calm && self.cut.get(&life).is_some_and(|&until_ms| self.now_ms < until_ms)
    }

    /// How a request of `kind` fares now.
    fn fate(&mut self, life: Life, kind: Kind) -> Fate {
        if self.calm {
            return Fate::Done;
        }
        let store = matches!(kind, Kind::StoreRead | Kind::StoreWrite | Kind::Claim);
        if store && self.now_ms < self.stores_down_until_ms {
            return Fate::Lost;
        }
        if !store && self.is_cut(life) {
            return if kind == Kind::Commit && self.rng.chance(300) {
                Fate::Unanswered { late: true }
            } else {
                Fate::Lost
            };
        }
        let (lost, unanswered, late) = match kind {
            Kind::StoreWrite | Kind::Claim => (self.knobs.put_lost, self.knobs.put_unanswered, self.knobs.put_late),
            Kind::StoreRead => (self.knobs.read_lost, 0, 0),
            Kind::KafkaRead => (self.knobs.read_lost, 0, 0),
            Kind::Commit => (self.knobs.commit_lost, self.knobs.commit_unanswered, self.knobs.commit_late),
        };
        match self.rng.range(0, 1000) as u32 {
            drawn if drawn < lost => Fate::Lost,
            drawn if drawn < lost + unanswered => Fate::Unanswered { late: false },
            drawn if drawn < lost + unanswered + late => Fate::Unanswered { late: true },
            _ => Fate::Done,
        }
    }

    fn latency_ms(&mut self) -> i64 {
        if self.calm {
            return self.rng.range(1, 20);
        }
        let slow = self.knobs.slow;
        if self.rng.chance(slow) { self.rng.range(200, 20_000) } else { self.rng.range(1, 60) }
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
        let (mut effect_ms, reply_ms) = (self.latency_ms(), self.latency_ms());
        let slow_claims = self.knobs.slow_claims;
        if kind == Kind::Claim && !self.calm && self.rng.chance(slow_claims) {
            self.fault("claim on its way for long");
            effect_ms = self.rng.range(500, 40_000);
        }
        let nobody = |_: &mut State| None;
        match self.fate(life, kind) {
            Fate::Done => {
                let effect = move |state: &mut State| {
                    let answer = effect(state);
                    let deliver: Deliver = Box::new(move || drop(sender.send(answer)));
                    Some(deliver)
                };
                self.send(life, effect_ms, reply_ms, Box::new(effect));
            }
            Fate::Lost => {
                self.fault("request lost");
                let deliver: Deliver = Box::new(move || drop(sender.send(lost)));
                self.after(effect_ms + reply_ms, Event::Reply { life, deliver });
            }
            Fate::Unanswered { late } => {
                self.fault(if late { "effect after a lost answer" } else { "answer lost" });
                let deliver: Deliver = Box::new(move || drop(sender.send(lost)));
                let more_ms = if late { self.rng.range(500, 90_000) } else { 0 };
                let effect = move |state: &mut State| {
                    drop(effect(state));
                    nobody(state)
                };
                self.send(life, effect_ms + more_ms, 0, Box::new(effect));
                self.after(effect_ms + reply_ms, Event::Reply { life, deliver });
            }
        }
        answer
    }

    /// An effect that nobody waits for.
    pub(crate) fn send_later(&mut self, life: Life, delay_ms: i64, effect: impl FnOnce(&mut State) + Send + 'static) {
        let effect = move |state: &mut State| {
            effect(state);
            None
        };
        self.send(life, delay_ms, 0, Box::new(effect));
    }

    fn send(&mut self, life: Life, effect_ms: i64, reply_ms: i64, effect: Effect) {
        self.under_way += 1;
        self.after(effect_ms, Event::Effect { life, effect, reply_ms, moved: false });
    }

    /// Carries an effect out. What a dead process had sent may be on the wire still, for long, or never have left it.
    pub(crate) fn carry_out(&mut self, life: Life, effect: Effect, reply_ms: i64, moved: bool) {
        if !self.alive.contains(&life) && !moved {
            if self.rng.chance(400) {
                self.under_way -= 1;
                return;
            }
            if !self.calm && self.rng.chance(400) {
                let later_ms = self.rng.range(100, 60_000);
                return self.after(later_ms, Event::Effect { life, effect, reply_ms, moved: true });
            }
        }
        self.under_way -= 1;
        if let Some(deliver) = effect(self) {
            self.after(reply_ms, Event::Reply { life, deliver });
        }
        let crash = self.knobs.crash_after_effect;
        if !self.calm && self.alive.contains(&life) && self.rng.chance(crash) {
            self.condemned = Some(life);
        }
    }
}
