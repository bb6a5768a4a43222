//! Objects that no receipt names, and the offsets that their names reach into: to declare these absent would be to give their rows up.

use crate::bucket::jobs::JobKept;
use crate::pipeline::schedule::union;
use crate::record::OffsetRange;
use crate::verify::finding::Finding;
use std::collections::BTreeMap;

/// Objects of one Kafka partition that no receipt names.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    /// By the offsets that their names tell.
    pub(super) known: BTreeMap<OffsetRange, Named>,
    /// By first offset: their names do not tell the end.
    endless: BTreeMap<i64, Named>,
}

/// Objects whose names tell the same offsets.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    pub(super) objects: u64,
    /// Of them those that a batch of these offsets would put.
    pub(super) of_batch: u64,
    /// Destination and key of one.
    example: String,
}

impl Strangers {
    /// `is_of_batch`: a batch of the offsets that its name tells would put an object of that name.
    pub(super) fn add(&mut self, finding: &Finding, is_of_batch: bool) {
        let named = match finding.end {
            Some(end) => self.known.entry(OffsetRange::new(finding.first, end)).or_default(),
            None => self.endless.entry(finding.first).or_default(),
        };
        named.objects += 1;
        named.of_batch += u64::from(is_of_batch);
        if let (true, Some((destination, key))) = (named.example.is_empty(), &finding.place) {
            named.example = format!("{destination}/{key}");
        }
    }

    /// What of `range` names reach into. One that does not tell its end reaches to the end of a range in which it begins.
    pub(super) fn reaching(&self, range: OffsetRange) -> Vec<OffsetRange> {
        self.reaching_from(range, range.first)
    }

    /// The same where nobody vouches for the offsets from `from` on.
    pub(super) fn reaching_from(&self, range: OffsetRange, from: i64) -> Vec<OffsetRange> {
        union(self.met_from(range, from, range.end).into_iter().map(|(met, _)| met).collect())
    }

    /// Whether a name that does not tell its end begins below `offset`.
    pub(super) fn may_reach_over(&self, offset: i64) -> bool {
        self.endless.range(..offset).next().is_some()
    }

    /// What of `range` is left as it is where the log begins at `start`, as names reach into what Kafka holds no more: disjoint, in order.
    pub(super) fn kept(&self, number: i32, range: OffsetRange, start: i64) -> Vec<JobKept> {
        self.kept_from(number, range, range.first, start)
    }

    /// The same where nobody vouches for the offsets from `from` on.
    pub(super) fn kept_from(&self, number: i32, range: OffsetRange, from: i64, start: i64) -> Vec<JobKept> {
        let met = self.met_from(range, from, start);
        let stretches = union(met.iter().map(|(met, _)| *met).collect());
        kept_of(number, stretches, &met, start)
    }

    /// The same of a batch, which is finished whole or not at all.
    pub(super) fn kept_whole(&self, number: i32, batch: OffsetRange, start: i64) -> Option<JobKept> {
        let met = self.met_from(batch, batch.first, start);
        if met.is_empty() { None } else { kept_of(number, vec![batch], &met, start).pop() }
    }

    /// What of `range` is reached into by names that share an offset with it below `below`: all of a name that tells its end, of others what lies
    /// below. Nobody vouches for the offsets from `from` on, which is not behind `range`: names that begin there may reach into it.
    fn met_from(&self, range: OffsetRange, from: i64, below: i64) -> Vec<(OffsetRange, &Named)> {
        let gone = OffsetRange::new(range.first, range.end.min(below));
        let known = self.known.iter().filter(|(name, _)| {
            let met = OffsetRange::new(name.first.max(gone.first), name.end.min(gone.end));
            met.first < met.end
        });
        let clipped =
            known.map(|(name, named)| (OffsetRange::new(name.first.max(range.first), name.end.min(range.end)), named));
        let endless =
            self.endless.iter().filter(|(first, _)| (from..gone.end).contains(*first) && gone.first < gone.end);
        let endless = endless.map(|(&first, named)| (OffsetRange::new(first.max(range.first), gone.end), named));
        clipped.chain(endless).collect()
    }

    /// The batches inside `gap` that names of objects tell: archived again they get these names again. Those that share an offset with another one
    /// tell nothing, and neither do objects of compactions, of replays, and with names of another layout: no batch puts them again.
    pub(super) fn told(&self, gap: OffsetRange) -> Vec<OffsetRange> {
        let (from, to) = (OffsetRange::new(gap.first, gap.first), OffsetRange::new(gap.end, gap.end));
        let inside = self.known.range(from..to).filter(|(_, named)| named.of_batch > 0).map(|(name, _)| *name);
        let mut inside = inside.filter(|name| name.first < name.end && name.end <= gap.end).peekable();
        let (mut told, mut end) = (Vec::new(), i64::MIN);
        while let Some(name) = inside.next() {
            let is_alone = end <= name.first && inside.peek().is_none_or(|next| name.end <= next.first);
            told.extend(is_alone.then_some(name));
            end = end.max(name.end);
        }
        told
    }
}

/// `stretches`, which are disjoint, in order and hold all of `met`, as they are told.
fn kept_of(number: i32, stretches: Vec<OffsetRange>, met: &[(OffsetRange, &Named)], start: i64) -> Vec<JobKept> {
    let kept = |stretch: &OffsetRange| JobKept {
        partition: number,
        first: stretch.first,
        end: stretch.end,
        objects: 0,
        example: String::new(),
        in_kafka_from: (start < stretch.end).then_some(start),
    };
    let mut all: Vec<JobKept> = stretches.iter().map(kept).collect();
    for (met, named) in met {
        let at = stretches.partition_point(|stretch| stretch.end <= met.first);
        if let Some(kept) = all.get_mut(at) {
            kept.objects += named.objects;
            if kept.example.is_empty() {
                kept.example.clone_from(&named.example);
            }
        }
    }
    all
}
