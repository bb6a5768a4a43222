//! The world that all processes share: time, the queue of what is under way, brokers, buckets.
//!
//! Everything that a process asks of the outside is a request: its effect happens at one moment of the queue, its
//! answer at another, and a crash may fall between any two of them. Nothing else moves.

use crate::faults::Faults;
use crate::group::Group;
use crate::knobs::Knobs;
use crate::log::Log;
use crate::requests::{Request, UnderWay};
use crate::rng::Rng;
use crate::store::Buckets;
use crate::trace::Trace;
use siltstone::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One life of a process: from its start to its crash or end. Never used twice.
pub(crate) type Life = u32;

/// Hands an answer to whoever waits for it.
pub(crate) type Deliver = Box<dyn FnOnce() + Send>;

/// What happens at a moment.
pub(crate) enum Event {
    /// A request takes effect.
    Effect(Request),
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
    /// Requests under way.
    pub(crate) under_way: UnderWay,
    /// What has gone wrong so far.
    pub(crate) faults: Faults,
    /// What each life was configured with: an index among the layouts.
    pub(crate) layouts: BTreeMap<Life, usize>,
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
            under_way: UnderWay::default(),
            faults: Faults::default(),
            layouts: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
        };
        note!(state, "seed {seed}: {:?}", state.knobs);
        state
    }

    /// Counts that `what` has gone wrong with `with`, which may be empty.
    pub(crate) fn fault(&mut self, what: &'static str, with: &'static str) {
        self.faults.add(what, with);
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
}
