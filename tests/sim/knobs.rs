//! What a seed is about: how often each thing goes wrong, and in which setting.

use crate::payload::Odds;
use crate::rng::Rng;

/// Chances are in a thousand.
#[derive(Clone, Debug)]
pub(crate) struct Knobs {
    pub(crate) processes: usize,
    pub(crate) partitions: i32,
    pub(crate) records: i64,
    pub(crate) chaos_ms: i64,
    pub(crate) slow: u32,
    pub(crate) put_lost: u32,
    pub(crate) put_unanswered: u32,
    pub(crate) put_late: u32,
    pub(crate) read_lost: u32,
    /// A claim is on its way for long.
    pub(crate) slow_claims: u32,
    pub(crate) commit_lost: u32,
    pub(crate) commit_unanswered: u32,
    pub(crate) commit_late: u32,
    /// An answered commit is carried out a second time later.
    pub(crate) commit_twice: u32,
    /// A commit that is late or comes twice is carried out under the membership that its process has by then.
    pub(crate) commit_stamped_anew: u32,
    /// A commit is refused because the group moves.
    pub(crate) commit_moving: u32,
    pub(crate) crash_after_effect: u32,
    /// Longest pause between two events.
    pub(crate) pause_ms: i64,
    /// What the next event is, by weight.
    pub(crate) weights: Weights,
    /// The store creates only if absent.
    pub(crate) conditional: bool,
    pub(crate) write_once: bool,
    /// Objects larger than this go up in pieces.
    pub(crate) part_size: u64,
    pub(crate) rotate_records: u64,
    pub(crate) rotate_age_s: u64,
    pub(crate) memory: u64,
    pub(crate) session_ms: i64,
    /// How long stores may be down.
    pub(crate) outage_ms: i64,
    /// Every rebalance takes everything from everybody.
    pub(crate) eager: bool,
    /// Processes start with this layout or that one.
    pub(crate) layouts_change: bool,
    /// What payloads are like.
    pub(crate) odds: Odds,
    pub(crate) skips: u32,
    pub(crate) spool_kept: u32,
    /// Some processes have less room than others.
    pub(crate) small_spool: bool,
    /// When all faults are over, fresh processes archive up to the log ends and end by themselves.
    pub(crate) drain: bool,
    /// All processes share one spool folder.
    pub(crate) shared_spool: bool,
    /// How often processes look for receipts to fold, whatever their age; where they do.
    pub(crate) fold_every_ms: Option<i64>,
}

/// How often each event comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weights {
    pub(crate) crash: u32,
    pub(crate) restart: u32,
    pub(crate) sleep: u32,
    pub(crate) cut: u32,
    pub(crate) rebalance: u32,
    pub(crate) store_down: u32,
    pub(crate) clock: u32,
    pub(crate) trim: u32,
    pub(crate) compact: u32,
    pub(crate) reset: u32,
    pub(crate) expire: u32,
    pub(crate) recreate: u32,
    pub(crate) spool: u32,
}

impl Weights {
    pub(crate) fn list(&self) -> [(u32, &'static str); 13] {
        [
            (self.crash, "crash"),
            (self.restart, "restart"),
            (self.sleep, "sleep"),
            (self.cut, "cut"),
            (self.rebalance, "rebalance"),
            (self.store_down, "store down"),
            (self.clock, "clock"),
            (self.trim, "trim"),
            (self.compact, "compact"),
            (self.reset, "reset"),
            (self.expire, "expire"),
            (self.recreate, "recreate"),
            (self.spool, "spool"),
        ]
    }
}

impl Knobs {
    /// Each seed draws which things go wrong at all, so that every fault also comes without the others.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let often = |rng: &mut Rng, permille: i64| {
            if rng.chance(350) { rng.range(1, permille) as u32 } else { 0 }
        };
        let weight = |rng: &mut Rng| if rng.chance(300) { rng.range(1, 10) as u32 } else { 0 };
        let conditional = !rng.chance(120);
        let mut knobs = Self {
            processes: rng.range(1, 4) as usize,
            partitions: rng.range(1, 4) as i32,
            records: rng.range(30, 300),
            chaos_ms: rng.range(30_000, 200_000),
            slow: often(rng, 150),
            put_lost: often(rng, 100),
            put_unanswered: often(rng, 100),
            put_late: often(rng, 150),
            read_lost: often(rng, 40),
            slow_claims: often(rng, 600),
            commit_lost: often(rng, 100),
            commit_unanswered: often(rng, 100),
            commit_late: often(rng, 100),
            commit_twice: if conditional { often(rng, 150) } else { 0 },
            commit_stamped_anew: if conditional && rng.chance(200) { rng.range(1, 700) as u32 } else { 0 },
            commit_moving: often(rng, 150),
            crash_after_effect: often(rng, 30),
            pause_ms: rng.range(1_500, 40_000),
            weights: Weights {
                crash: weight(rng),
                restart: weight(rng),
                sleep: weight(rng),
                cut: weight(rng),
                rebalance: weight(rng),
                store_down: weight(rng),
                clock: weight(rng),
                trim: 0,
                compact: 0,
                reset: 0,
                expire: 0,
                recreate: 0,
                spool: weight(rng),
            },
            conditional,
            write_once: rng.chance(150),
            part_size: if rng.chance(300) { rng.range(60, 300) as u64 } else { 1 << 20 },
            rotate_records: if rng.chance(600) { rng.range(2, 20) as u64 } else { 1_000_000 },
            rotate_age_s: rng.range(1, 9) as u64,
            memory: if rng.chance(200) { 16 << 10 } else { 64 << 20 },
            outage_ms: 120_000,
            session_ms: rng.range(6_000, 40_000),
            eager: rng.chance(300),
            layouts_change: rng.chance(400),
            odds: Odds {
                broken: often(rng, 200),
                newline: often(rng, 200),
                collides: often(rng, 200),
                tombstones: often(rng, 200),
            },
            skips: if rng.chance(600) { rng.range(1, 700) as u32 } else { 0 },
            spool_kept: 700,
            small_spool: rng.chance(100),
            drain: rng.chance(200),
            shared_spool: rng.chance(200),
            fold_every_ms: None,
        };
        if rng.chance(300) {
            (knobs.weights.trim, knobs.weights.compact) = (weight(rng), weight(rng));
        }
        // Without create-only the plan is the only fence, and these take it away.
        if rng.chance(200) && conditional {
            (knobs.weights.reset, knobs.weights.expire) = (weight(rng) / 3, weight(rng) / 3);
        }
        if rng.chance(60) {
            knobs.weights.recreate = 1;
        }
        if rng.chance(100) {
            knobs.quarrel();
        }
        // A drain ends with an error where a person must decide.
        let weights = &knobs.weights;
        knobs.drain &= weights.reset + weights.expire + weights.recreate == 0 && !knobs.small_spool;
        if rng.chance(20) {
            (knobs.weights.store_down, knobs.outage_ms) = (5, 3 * 3_600_000);
            knobs.chaos_ms += knobs.outage_ms;
        }
        knobs
    }

    /// Some seeds fold. Drawn apart, so that it changes nothing else.
    pub(crate) fn draw_folds(&mut self, rng: &mut Rng) {
        if rng.chance(400) {
            self.fold_every_ms = Some(rng.range(2_000, 20_000));
        }
    }

    /// Two processes over one batch: plans are erased by commits that come twice, claims are on their way for long, and the
    /// group moves in between.
    pub(crate) fn quarrel(&mut self) {
        self.conditional = true;
        self.processes = self.processes.max(2);
        (self.commit_twice, self.slow_claims) = (400, 700);
        (self.weights.rebalance, self.weights.cut) = (9, 3);
        self.pause_ms = 3_000;
        // Pieces are put together without a condition, so a late one may replace what is richer: no store's client offers more.
        if self.weights.trim + self.weights.compact > 0 {
            self.part_size = 1 << 20;
        }
        // Kafka lets nobody change the offsets of a group that has members, and forgets none of them.
        (self.weights.reset, self.weights.expire) = (0, 0);
        self.rotate_age_s = 1 + self.rotate_age_s % 3;
        self.rotate_records = 1_000_000;
    }

    /// Nothing goes wrong.
    pub(crate) fn without_faults(&mut self) {
        for chance in [
            &mut self.slow,
            &mut self.put_lost,
            &mut self.put_unanswered,
            &mut self.put_late,
            &mut self.read_lost,
            &mut self.slow_claims,
            &mut self.commit_lost,
            &mut self.commit_unanswered,
            &mut self.commit_late,
            &mut self.commit_twice,
            &mut self.commit_moving,
            &mut self.crash_after_effect,
        ] {
            *chance = 0;
        }
        self.weights = Weights::default();
        self.layouts_change = false;
    }
}
