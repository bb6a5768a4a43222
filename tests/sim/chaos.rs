//! What a seed has in store for its processes, and what a person does about it.

use crate::log::Log;
use crate::state::{Event, Life, note};
use crate::world::World;
use siltstone::consume::Committed;
use siltstone::record::TopicPartition;

/// Shortest pause between two events.
const PAUSE_MS: i64 = 200;

impl World {
    /// One event of the seed's choice, and the time of the next.
    pub(crate) fn chaos(&mut self) {
        let mut state = self.shared.lock();
        if state.calm {
            return;
        }
        let longest_ms = state.knobs.pause_ms;
        let pause_ms = state.rng.range(PAUSE_MS, longest_ms);
        state.after(pause_ms, Event::Chaos);
        let weights = state.knobs.weights.list();
        let total: u32 = weights.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            return;
        }
        let mut drawn = state.rng.range(0, i64::from(total)) as u32;
        let Some((_, what)) = weights.into_iter().find(|(weight, _)| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        }) else {
            return;
        };
        let awake: Vec<Life> = state.alive.iter().filter(|life| !state.asleep.contains_key(life)).copied().collect();
        let victim = if awake.is_empty() { None } else { Some(*state.rng.pick(&awake)) };
        drop(state);
        match (what, victim) {
            ("crash", Some(life)) => self.crash(life),
            ("restart", Some(life)) => self.restart(life),
            ("clock", Some(life)) => self.jump(life),
            ("spool", Some(life)) => self.delete_spool(life),
            ("sleep" | "cut", Some(life)) => self.silence(what, life),
            ("crash" | "restart" | "clock" | "spool" | "sleep" | "cut", None) => {}
            ("rebalance" | "store down", _) => self.shake(what),
            ("recreate", _) => self.recreate(),
            _ => self.tamper(what),
        }
    }

    pub(crate) fn restart(&mut self, life: Life) {
        let mut state = self.shared.lock();
        note!(state, "p{life} is told to end");
        let now_ms = state.now_ms;
        drop(state);
        if let Some(process) = self.processes.get_mut(&life) {
            process.shut_down();
            self.told_to_end_ms.entry(life).or_insert(now_ms);
        }
    }

    fn jump(&mut self, life: Life) {
        let mut state = self.shared.lock();
        let by_ms = state.rng.range(-86_400_000, 86_400_000);
        state.fault("clock jumps", if by_ms < 0 { "back" } else { "ahead" });
        note!(state, "the wall clock of p{life} jumps by {by_ms} ms");
        drop(state);
        if let Some(process) = self.processes.get(&life) {
            process.jump(by_ms);
        }
    }

    fn delete_spool(&mut self, life: Life) {
        let Some(slot) = self.slots.iter().find(|slot| slot.life == Some(life)) else { return };
        let Ok(folders) = std::fs::read_dir(slot.spool.join("slot-0")) else { return };
        let mut state = self.shared.lock();
        state.fault("spool deleted under a process", "");
        note!(state, "the spool of p{life} is emptied under its hands");
        for folder in folders.flatten().filter(|folder| folder.file_name() != "lock") {
            std::fs::remove_dir_all(folder.path()).expect("a folder of a batch");
        }
    }

    /// The process is stopped by a signal, or cut off from Kafka: a zombie in the making.
    fn silence(&mut self, what: &str, life: Life) {
        let mut state = self.shared.lock();
        let now_ms = state.now_ms;
        let for_ms = state.rng.range(1_000, 90_000);
        if what == "sleep" {
            state.fault("process stopped for a while", "");
            note!(state, "p{life} is stopped for {for_ms} ms");
            state.asleep.insert(life, now_ms);
            state.after(for_ms, Event::Wake { life });
        } else {
            state.fault("process cut off from Kafka", "");
            note!(state, "p{life} is cut off from Kafka for {for_ms} ms");
            state.cut.insert(life, now_ms + for_ms);
        }
    }

    fn shake(&mut self, what: &str) {
        let mut state = self.shared.lock();
        if what == "rebalance" {
            state.fault("rebalance without a cause", "");
            note!(state, "the group moves");
            return state.rebalance();
        }
        let longest_ms = state.knobs.outage_ms;
        let long = state.rng.chance(100);
        let for_ms = if long { state.rng.range(20_000, longest_ms) } else { state.rng.range(500, 15_000) };
        let how_long = if for_ms > 3_600_000 { "for more than an hour" } else { "for a while" };
        state.fault("stores down", how_long);
        note!(state, "the stores are down for {for_ms} ms");
        state.stores_down_until_ms = state.now_ms + for_ms;
    }

    /// Retention, compaction, and people at the group's offsets.
    fn tamper(&mut self, what: &str) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let partitions: Vec<TopicPartition> = state.logs.keys().cloned().collect();
        let partition = state.rng.pick(&partitions).clone();
        let open = state.group.offsets.get(&partition).and_then(open_batch);
        let Some(log) = state.logs.get_mut(&partition) else { return };
        match what {
            "trim" => {
                let start = state.rng.range(log.start, log.stable + 1);
                let before = log.start;
                log.trim(start);
                let start = log.start;
                state.fault("retention", of_open_batch(open, |offset| before <= offset && offset < start));
                note!(state, "retention moves {partition} to {start}");
            }
            "compact" => {
                let chosen: Vec<i64> = (0..6).map(|_| state.rng.range(log.start, log.stable)).collect();
                let gone: Vec<i64> = chosen.into_iter().filter(|&offset| log.compact(offset)).collect();
                state.fault("compaction", of_open_batch(open, |offset| gone.contains(&offset)));
                note!(state, "compaction takes {gone:?} of {partition}");
            }
            "reset" => {
                let Some(committed) = state.group.offsets.get(&partition) else { return };
                // Nobody sets an offset beyond the end of a log that was made anew since.
                let offset = state.rng.range(0, committed.offset.min(log.stable) + 1);
                self.offsets_touched = true;
                state.group.offsets.insert(partition.clone(), Committed { offset, metadata: String::new() });
                state.fault("offset reset by a person", "");
                note!(state, "somebody resets {partition} to {offset}");
            }
            "expire" => {
                self.offsets_touched = true;
                state.group.offsets.remove(&partition);
                state.fault("offset expired", "");
                note!(state, "the offset of {partition} expires");
            }
            other => note!(state, "nothing happens: {other}"),
        }
    }

    /// The topic is deleted and made again: the same offsets, other records.
    fn recreate(&mut self) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        // Twice is no other case than once. A raised generation begins anew in every partition, so each must have been
        // archived before.
        let begun = |partition: &TopicPartition| {
            let folder = format!("_siltstone/receipts/v1/{}/{:05}/", partition.topic, partition.partition);
            state.buckets.objects.keys().any(|(_, key)| key.starts_with(&folder) && key.ends_with(".json"))
        };
        if state.incarnation > 1 || !state.logs.keys().all(begun) {
            return;
        }
        state.incarnation += 1;
        let incarnation = state.incarnation;
        self.recreated = true;
        state.fault("topic deleted and created again", "");
        note!(state, "the topic is deleted and created again");
        for (partition, log) in &mut state.logs {
            log.delete();
            let fresh = Log::new(&partition.topic, partition.partition, incarnation);
            state.deleted_logs.push((partition.clone(), std::mem::replace(log, fresh)));
            // Brokers forget the offsets of deleted topics, sooner or later. What a person set for the old topic is gone with it:
            // nobody could tell it from what is set for the new one.
            let is_ours = |committed: &Committed| !committed.metadata.is_empty();
            if state.rng.chance(500) || !state.group.offsets.get(partition).is_some_and(is_ours) {
                state.group.offsets.remove(partition);
            }
        }
    }

    /// All faults are over; whoever sleeps wakes up, late, or never.
    pub(crate) fn calm(&mut self) {
        let mut state = self.shared.lock();
        note!(state, "calm");
        state.calm = true;
        state.stores_down_until_ms = 0;
        for log in state.logs.values_mut() {
            log.stabilise();
        }
        let asleep: Vec<Life> = state.asleep.keys().copied().collect();
        for &life in &asleep {
            let late_ms = state.rng.range(0, 60_000);
            state.after(late_ms, Event::Wake { life });
        }
        let drain = state.knobs.drain;
        let all: Vec<Life> = state.alive.iter().copied().collect();
        let never = if drain { all } else { asleep.into_iter().filter(|_| state.rng.chance(300)).collect() };
        drop(state);
        never.into_iter().for_each(|life| self.crash(life));
    }
}

/// The batch that a committed offset's plan says is open.
fn open_batch(committed: &Committed) -> Option<(i64, i64)> {
    let document: serde_json::Value = serde_json::from_str(&committed.metadata).ok()?;
    Some((committed.offset, document["end"].as_i64().filter(|_| document["state"] == "plan")?))
}

/// Whether Kafka deletes records of a batch that has a plan and is not finished.
fn of_open_batch(open: Option<(i64, i64)>, is_gone: impl Fn(i64) -> bool) -> &'static str {
    let hit = open.is_some_and(|(first, end)| (first..end).any(is_gone));
    if hit { "within an open plan" } else { "elsewhere" }
}
