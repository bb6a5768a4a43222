//! One seed, from its first process to the moment when everything produced is archived.

use crate::faults::Faults;
use crate::knobs::Knobs;
use crate::log::Log;
use crate::oracle::{self, Count, Reached};
use crate::payload;
use crate::process::{Process, WALL_MS};
use crate::rng::Rng;
use crate::settings::{LAYOUTS, TOPIC};
use crate::state::{Event, Life, Shared, State, note};
use siltstone::record::{OwnedRecord, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// How long a process waits for its next turn when nothing happens.
const TURN_MS: i64 = 400;
/// How often the coordinator looks for silent members.
const SESSIONS_MS: i64 = 2_000;
/// How often it is looked whether everything is archived, and whether somebody must act.
const CHECK_MS: i64 = 1_000;
/// How long what still moves is given once something stands still.
const SETTLING_MS: i64 = 120_000;
/// How long everything may take to be archived once all faults are over.
const PATIENCE_MS: i64 = 1_200_000;

/// A place where a process runs, one life after the other.
pub(crate) struct Slot {
    pub(crate) life: Option<Life>,
    pub(crate) layout: usize,
    /// A process ran here before.
    pub(crate) begun: bool,
    pub(crate) spool: PathBuf,
}

/// What is wrong with a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The oracle says so: records, objects, receipts or offsets are not as they must be.
    Oracle(String),
    /// Nothing of that, but something stands still or has ended that no fault excuses.
    Standstill(String),
}

/// What a seed came to.
pub(crate) struct Outcome {
    pub(crate) verdict: Result<Count, Finding>,
    pub(crate) trace: String,
    pub(crate) lines: usize,
    pub(crate) faults: Faults,
    pub(crate) lives: Life,
    pub(crate) virtual_ms: i64,
}

pub(crate) struct World {
    pub(crate) shared: Shared,
    pub(crate) slots: Vec<Slot>,
    pub(crate) processes: BTreeMap<Life, Process>,
    pub(crate) lives: Life,
    root: PathBuf,
    /// Processes that have archived everything up to the log ends, and have ended.
    pub(crate) done: usize,
    /// When processes were told to end.
    pub(crate) told_to_end_ms: BTreeMap<Life, i64>,
    /// Processes that must be turned away.
    pub(crate) strangers: BTreeSet<Life>,
    /// Processes are started with less room than a batch may take.
    pub(crate) spool_is_small: bool,
    /// Until a person has given them more.
    pub(crate) spool_may_be_small: bool,
    /// The operator has decided that receipts count where the group has forgotten.
    pub(crate) resume_from_receipts: bool,
    /// A group's offsets were touched: partitions may stop and ask for a decision.
    pub(crate) offsets_touched: bool,
    /// The topic was deleted and made again.
    pub(crate) recreated: bool,
    /// The generation that the operator has decided on.
    pub(crate) generation: u32,
    /// What stands still without a reason, and since when.
    pub(crate) trouble: Option<(i64, String)>,
    /// Processes up to this one run without the operator's last decision.
    pub(crate) decided_after: Life,
}

/// Runs one seed. `root`: a folder of its own for the spools.
pub(crate) fn run(seed: u64, root: PathBuf, tune: &dyn Fn(&mut Knobs)) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut knobs = Knobs::draw(&mut rng);
    knobs.draw_folds(&mut Rng::new(seed ^ 0xF01D));
    tune(&mut knobs);
    let shared = Shared::new(State::new(seed, knobs, rng));
    let mut world = World {
        shared,
        slots: Vec::new(),
        processes: BTreeMap::new(),
        lives: 0,
        root,
        done: 0,
        told_to_end_ms: BTreeMap::new(),
        strangers: BTreeSet::new(),
        spool_is_small: false,
        spool_may_be_small: true,
        resume_from_receipts: false,
        offsets_touched: false,
        recreated: false,
        generation: 1,
        trouble: None,
        decided_after: 0,
    };
    world.prepare();
    let ended = world.turn_until_drained();
    let mut state = world.shared.lock();
    (0..state.buckets.unfinished_uploads()).for_each(|_| state.fault("upload in pieces never completed", ""));
    let reached = if ended.is_ok() { Reached::End } else { Reached::Standstill };
    let verdict = match (oracle::check(&state, reached), ended) {
        (Err(why), _) => Err(Finding::Oracle(why)),
        (Ok(_), Err(why)) => Err(Finding::Standstill(why)),
        (Ok(count), Ok(())) => Ok(count),
    };
    Outcome {
        verdict,
        trace: state.trace.text().to_string(),
        lines: state.trace.lines(),
        faults: state.faults.clone(),
        lives: world.lives,
        virtual_ms: state.now_ms,
    }
}

impl World {
    fn prepare(&mut self) {
        let mut state = self.shared.lock();
        let (partitions, processes) = (state.knobs.partitions, state.knobs.processes);
        for partition in 0..partitions {
            state.logs.insert(TopicPartition::new(TOPIC, partition), Log::new(TOPIC, partition, 1));
        }
        let (records, chaos_ms) = (state.knobs.records, state.knobs.chaos_ms);
        let mut left = records;
        while left > 0 {
            let some = state.rng.range(1, 9).min(left);
            left -= some;
            // A third is there before anybody reads.
            let at_ms = if state.rng.chance(333) { 0 } else { state.rng.range(0, chaos_ms) };
            state.after(at_ms, Event::Produce { records: some });
        }
        for slot in 0..processes {
            let at_ms = if slot == 0 { 0 } else { state.rng.range(0, 10_000) };
            let layout = if state.knobs.layouts_change { state.rng.range(0, LAYOUTS.len() as i64) as usize } else { 0 };
            state.after(at_ms, Event::Start { slot });
            self.slots.push(Slot {
                life: None,
                layout,
                begun: false,
                spool: self.root.join(format!("spool-{}", if state.knobs.shared_spool { 0 } else { slot })),
            });
        }
        state.after(SESSIONS_MS, Event::Sessions);
        state.after(500, Event::Chaos);
        state.after(CHECK_MS, Event::Check);
        state.after(chaos_ms, Event::Calm);
    }

    fn turn_until_drained(&mut self) -> Result<(), String> {
        loop {
            let event = self.shared.lock().pop();
            let Some(event) = event else { return Err("nothing is left to happen".to_string()) };
            if matches!(event, Event::Check) && self.is_over()? {
                return Ok(());
            }
            self.handle(event);
            let condemned = self.shared.lock().condemned.take();
            if let Some(life) = condemned {
                self.crash(life);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Effect(request) => self.shared.lock().carry_out(request),
            Event::Reply { life, deliver } => {
                deliver();
                self.turn(life);
            }
            Event::Turn { life } => {
                self.turn(life);
                let mut state = self.shared.lock();
                if state.alive.contains(&life) && !state.asleep.contains_key(&life) {
                    state.after(TURN_MS, Event::Turn { life });
                }
            }
            Event::Wake { life } => {
                let mut state = self.shared.lock();
                if state.asleep.remove(&life).is_some() && state.alive.contains(&life) {
                    let late = if state.is_zombie(life) { "after it was put out" } else { "in time" };
                    state.fault("stopped process wakes", late);
                    note!(state, "p{life} wakes");
                    state.after(0, Event::Turn { life });
                }
            }
            Event::Sessions => {
                let mut state = self.shared.lock();
                state.check_sessions();
                state.after(SESSIONS_MS, Event::Sessions);
            }
            Event::Start { slot } => self.start(slot),
            Event::Produce { records } => self.produce(records),
            Event::Chaos => self.chaos(),
            Event::Calm => self.calm(),
            Event::Check => {
                self.shared.lock().after(CHECK_MS, Event::Check);
                self.operate();
            }
        }
    }

    fn produce(&mut self, records: i64) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let partition = state.rng.range(0, i64::from(state.knobs.partitions)) as i32;
        let (odds, skips) = (state.knobs.odds, state.knobs.skips);
        let Some(log) = state.logs.get_mut(&TopicPartition::new(TOPIC, partition)) else { return };
        let mut skipped = 0;
        for _ in 0..records {
            let hours = if state.rng.chance(150) { state.rng.range(-3, 2) } else { 0 };
            let timestamp = WALL_MS + state.now_ms + hours * 3_600_000;
            let id = format!("{TOPIC}/{partition}/{}/{}", log.end(), log.incarnation);
            let value = payload::draw(&mut state.rng, odds, &id);
            log.produce(OwnedRecord { timestamp: Some(timestamp), value, ..OwnedRecord::default() });
            if state.rng.chance(skips) {
                let offsets = state.rng.range(1, 4);
                (0..offsets).for_each(|_| log.skip());
                skipped += offsets;
            }
        }
        let end = log.end();
        // An open transaction holds readers back for a while.
        let is_open = !state.calm && !state.rng.chance(800);
        if !is_open {
            log.stabilise();
        }
        (0..skipped).for_each(|_| state.faults.add("offset without a record", ""));
        if is_open {
            state.fault("open transaction", "");
        }
        note!(state, "{records} records produced to {TOPIC}/{partition}, which ends at {end}");
    }

    /// Whether everything is archived; an error where it does not come to that.
    fn is_over(&mut self) -> Result<bool, String> {
        let mut state = self.shared.lock();
        let committed = state.logs.iter().all(|(partition, log)| {
            state.group.offsets.get(partition).is_some_and(|committed| {
                // An offset of the deleted topic says nothing of this one.
                committed.offset == log.stable && committed.metadata.contains(&format!("id-{}", log.incarnation))
            })
        });
        let through = !state.knobs.drain || (self.done > 0 && state.alive.is_empty());
        let at_rest = state.calm && state.under_way.total() == 0 && state.asleep.is_empty();
        let calm_for_ms = state.now_ms - state.knobs.chaos_ms;
        // A commit of a dead process took effect after the drain had ended: whoever comes next repairs it.
        let moved_back = self.done > 0 && state.alive.is_empty() && state.under_way.total() == 0 && !committed;
        if moved_back && state.knobs.drain {
            self.done = 0;
            note!(state, "the committed offset has fallen behind; once more");
            (0..self.slots.len()).for_each(|slot| state.after(0, Event::Start { slot }));
        }
        let now_ms = state.now_ms;
        drop(state);
        match &self.trouble {
            // What else is under way may come to its end before it is looked at.
            Some((since_ms, what)) if at_rest && calm_for_ms.min(now_ms - since_ms) > SETTLING_MS => {
                return Err(what.clone());
            }
            Some((_, what)) if calm_for_ms > PATIENCE_MS => return Err(what.clone()),
            None if calm_for_ms > PATIENCE_MS => return Err(format!("STUCK: {}", self.what_is_open())),
            None if at_rest && through && committed => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn what_is_open(&self) -> String {
        let state = self.shared.lock();
        let mut text = format!("{} requests under way", state.under_way.total());
        for (partition, log) in &state.logs {
            let committed = state.group.offsets.get(partition).map(|committed| committed.offset);
            let owner = state.group.owners.get(partition);
            text += &format!("; {partition} is committed at {committed:?} of {}, owner {owner:?}", log.stable);
        }
        drop(state);
        for (life, process) in &self.processes {
            text += &format!("; p{life}: {}", process.health().join(", "));
        }
        text
    }
}
