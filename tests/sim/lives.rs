//! Lives of processes in the world: how they start, work, end and crash.

use crate::process::{Beginning, Process};
use crate::settings::{self, LAYOUTS};
use crate::state::{Event, Life, note};
use crate::world::World;

/// Whether a process came as far as its pipeline before it ended like this.
fn process_ran(ended: &str) -> bool {
    ended.starts_with("shut down") || ended.starts_with("done") || ended.starts_with("fatal")
}

impl World {
    pub(crate) fn turn(&mut self, life: Life) {
        if self.shared.lock().asleep.contains_key(&life) {
            return;
        }
        let Some(process) = self.processes.get_mut(&life) else { return };
        let Some(ended) = process.turn() else { return };
        let health = process.health().join("; ");
        let mut state = self.shared.lock();
        note!(state, "p{life} ended: {ended} {health}");
        let calm = state.calm;
        drop(state);
        let is_running = process_ran(&ended);
        self.check_completeness(life, &ended);
        if ended == "done" {
            self.done += 1;
        }
        self.bury(life);
        let stranger = self.strangers.contains(&life);
        if stranger && is_running {
            self.troubled(format!("p{life} has another group's name and was let in: {ended}"));
        } else if stranger {
            self.shared.lock().fault("another group on the same prefix", "turned away");
        } else if ended.starts_with("fatal") || (calm && ended.starts_with("it did not start")) {
            self.troubled(format!("p{life} ended: {ended} {health}"));
        }
    }

    /// Who says that everything open was committed must not leave a plan of its last moments behind.
    fn check_completeness(&mut self, life: Life, ended: &str) {
        let state = self.shared.lock();
        let knobs = &state.knobs;
        // A commit that came late or twice may have brought the plan back.
        let certain = knobs.commit_lost + knobs.commit_unanswered + knobs.commit_late + knobs.commit_twice == 0;
        let told_ms = self.told_to_end_ms.get(&life).copied();
        if !certain || !ended.ends_with("complete: true") || state.cut.contains_key(&life) {
            return;
        }
        let left = state.group.last_commit.iter().find(|(partition, (by, at_ms))| {
            let plan = state.group.offsets.get(*partition).is_some_and(|found| found.metadata.contains(r#""plan""#));
            plan && *by == life && Some(*at_ms) >= told_ms
        });
        let left = left.map(|(partition, _)| partition.clone());
        drop(state);
        if let Some(partition) = left {
            self.troubled(format!("p{life} ended with everything committed, but {partition} has its plan"));
        }
    }

    pub(crate) fn start(&mut self, slot: usize) {
        let place = &mut self.slots[slot];
        if place.life.is_some() {
            return;
        }
        self.lives += 1;
        let life = self.lives;
        place.life = Some(life);
        let mut state = self.shared.lock();
        let before = place.layout;
        if state.knobs.layouts_change && state.rng.chance(300) {
            place.layout = state.rng.range(0, LAYOUTS.len() as i64) as usize;
        }
        if place.begun && place.layout != before {
            let outputs = |layout: usize| LAYOUTS[layout].outputs.iter().map(|(name, _)| *name);
            let same = outputs(before).eq(outputs(place.layout));
            state.fault("configuration changed between runs", if same { "paths" } else { "outputs" });
        }
        place.begun = true;
        if !state.alive.is_empty() {
            state.fault("started beside another process", "");
        }
        let wall_shift_ms = if state.rng.chance(200) { state.rng.range(-7_200_000, 7_200_000) } else { 0 };
        note!(state, "p{life} starts in slot {slot} with layout {}", place.layout);
        state.alive.insert(life);
        let layout = place.layout;
        state.layouts.insert(life, layout);
        state.after(0, Event::Turn { life });
        let mut config = settings::config(&state.knobs, place.layout, self.generation, &place.spool);
        // Somebody points another group at the archive: it must be turned away.
        let begun = state.buckets.objects.contains_key(&("a", "_siltstone/archive.json".to_string()));
        let stranger = begun && !state.calm && state.rng.chance(30);
        if stranger {
            note!(state, "p{life} has the name of another group");
            config.kafka.group = "stranger".to_string();
        }
        self.strangers.extend(stranger.then_some(life));
        let shrinks = self.spool_may_be_small && state.knobs.small_spool && !state.calm && state.rng.chance(300);
        self.spool_is_small |= shrinks;
        if self.spool_is_small {
            state.fault("started with a smaller spool", "");
            config.spool.limit = 300;
        }
        let drains = state.calm && state.knobs.drain;
        // As a backfill would that takes all there is: what is archived is skipped, batches end at multiples.
        let chunk = (drains && state.rng.chance(500)).then(|| state.rng.range(1, 40));
        if chunk.is_some() {
            state.fault("drained by a schedule", "");
        }
        let beginning = Beginning {
            life,
            config,
            partitions: state.knobs.partitions,
            conditional: state.knobs.conditional,
            wall_shift_ms,
            resume_from_receipts: self.resume_from_receipts,
            chunk,
            drain_to: drains
                .then(|| state.logs.iter().map(|(partition, log)| (partition.clone(), log.stable)).collect()),
        };
        drop(state);
        self.processes.insert(life, Process::start(&self.shared, beginning));
    }

    /// The process is gone in the middle of whatever it did. Its spool stays, or goes with it.
    pub(crate) fn crash(&mut self, life: Life) {
        let Some(slot) = self.slots.iter().position(|slot| slot.life == Some(life)) else { return };
        let mut state = self.shared.lock();
        let last = state.under_way.last_effect(life);
        state.fault("crash after", last);
        for kind in state.under_way.durable(life) {
            state.fault("crash during", kind.name());
        }
        let kept = state.knobs.spool_kept;
        let keeps = state.rng.chance(kept);
        let spool_is = if keeps { "stays" } else { "is gone" };
        state.fault("spool of a crashed process", spool_is);
        note!(state, "p{life} crashes, its spool {spool_is}");
        drop(state);
        let spool = &self.slots[slot].spool;
        let aside = spool.with_extension("aside");
        let shared = self.slots.iter().filter(|other| other.spool == *spool).count() > 1;
        // A process that is killed cleans nothing up, so what its values do when they are dropped must not count.
        let moved = !shared && std::fs::rename(spool, &aside).is_ok();
        self.processes.remove(&life);
        if moved && keeps {
            std::fs::rename(&aside, spool).expect("the spool was just moved aside");
        } else if moved {
            std::fs::remove_dir_all(&aside).expect("nobody else works in the spool");
        }
        self.bury(life);
    }

    fn bury(&mut self, life: Life) {
        drop(self.processes.remove(&life));
        let mut state = self.shared.lock();
        state.alive.remove(&life);
        state.asleep.remove(&life);
        if let Some(slot) = self.slots.iter_mut().position(|slot| slot.life == Some(life)) {
            self.slots[slot].life = None;
            let pause_ms = if state.calm { 1_000 } else { state.rng.range(100, 6_000) };
            if !(state.knobs.drain && self.done > 0) {
                state.after(pause_ms, Event::Start { slot });
            }
        }
    }
}
