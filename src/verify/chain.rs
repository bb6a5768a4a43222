//! How the batches of one Kafka partition follow each other. Pure: batches in offset order in, what is wrong out.
//!
//! - A gap is told once, whatever is around it; so is what a claim without receipt, or a document that cannot be read, leaves open.
//! - Fewer records than offsets are no fault: a range is what was covered.

use crate::record::OffsetRange;

/// A batch, as its documents tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// It has a receipt.
    Vouched {
        /// What it covers.
        range: OffsetRange,
        /// It is looked at: see [`Chain`].
        selected: bool,
    },
    /// It has a claim, and no receipt.
    Claimed {
        /// What it is to cover.
        range: OffsetRange,
    },
    /// Its receipt, or a claim without one, cannot be read.
    Unreadable {
        /// First offset, as the name says.
        first: i64,
        /// One past the last offset, where a claim tells.
        end: Option<i64>,
        /// Its key.
        key: String,
        /// What is wrong.
        what: String,
        /// A newer release can read it.
        newer: bool,
    },
}

impl Batch {
    /// First offset.
    pub fn first(&self) -> i64 {
        match self {
            Self::Vouched { range, .. } | Self::Claimed { range } => range.first,
            Self::Unreadable { first, .. } => *first,
        }
    }
}

/// What is wrong between batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// Nobody covers these offsets.
    Gap(OffsetRange),
    /// The second receipt covers these offsets, and so does the first.
    Overlap(OffsetRange, OffsetRange),
    /// A claim without receipt, and what it leaves open.
    Unfinished(OffsetRange),
    /// A document that cannot be read, and what it leaves open, where that is known.
    Unreadable {
        /// First offset.
        first: i64,
        /// One past the last offset.
        end: Option<i64>,
        /// Its key.
        key: String,
        /// What is wrong.
        what: String,
        /// A newer release can read it.
        newer: bool,
    },
}

/// Where the batches end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// One past the last offset that a receipt covers; `None`: there is no receipt.
    pub vouched: Option<i64>,
    /// The newest claim, without a receipt: a batch on its way.
    pub open: Option<OffsetRange>,
}

/// Follows the batches of one Kafka partition, in offset order.
///
/// Gaps and overlaps are told between neighbours that are both selected: with a window of time only those that it has batches on
/// both sides of.
#[derive(Debug, Default)]
pub struct Chain {
    /// The last receipt, and whether it is selected.
    last: Option<(OffsetRange, bool)>,
    /// One past the last offset that a receipt covers.
    vouched: Option<i64>,
    /// One past the last offset that is covered, or told already.
    told: Option<i64>,
    /// What the next batch decides on.
    pending: Option<Batch>,
}

impl Chain {
    /// The offsets that nothing covers if `first` is the next batch: worth another look before they are a gap.
    pub fn gap_before(&self, first: i64) -> Option<OffsetRange> {
        let told = match &self.pending {
            Some(Batch::Claimed { range }) => self.told.max(Some(range.end)),
            // It may reach as far as that.
            Some(Batch::Unreadable { end, .. }) => self.told.max(Some(end.unwrap_or(first))),
            Some(Batch::Vouched { .. }) | None => self.told,
        };
        told.filter(|&told| told < first).map(|told| OffsetRange::new(told, first))
    }

    /// The batch that was claimed last, while nothing is decided on it.
    pub fn claimed(&self) -> Option<OffsetRange> {
        match &self.pending {
            Some(Batch::Claimed { range }) => Some(*range),
            Some(Batch::Vouched { .. } | Batch::Unreadable { .. }) | None => None,
        }
    }

    /// Takes the batch that was claimed last out, as there is something else of it by now: to be pushed in its place.
    pub fn forget_claimed(&mut self) {
        if self.claimed().is_some() {
            self.pending = None;
        }
    }

    /// The next batch.
    pub fn push(&mut self, batch: Batch, breaks: &mut Vec<Break>) {
        let first = batch.first();
        let gap = self.gap_before(first);
        self.settle(first, breaks);
        let selected = match batch {
            Batch::Vouched { selected, .. } => selected,
            Batch::Claimed { .. } | Batch::Unreadable { .. } => true,
        };
        let both = selected && self.last.is_none_or(|(_, selected)| selected);
        breaks.extend(gap.filter(|_| both).map(Break::Gap));
        let Batch::Vouched { range, .. } = batch else {
            self.told = self.told.max(Some(first));
            self.pending = Some(batch);
            return;
        };
        if let (Some((last, _)), Some(vouched)) = (self.last, self.vouched) {
            let twice = OffsetRange::new(first, range.end.min(vouched));
            if twice.first < twice.end && both {
                breaks.push(Break::Overlap(last, twice));
            }
        }
        let reaches_further = self.vouched.is_none_or(|vouched| range.end >= vouched);
        if reaches_further {
            self.last = Some((range, selected));
        }
        self.vouched = self.vouched.max(Some(range.end));
        self.told = self.told.max(Some(range.end));
    }

    /// Tells what the pending batch leaves open, now that the next one begins at `next`.
    fn settle(&mut self, next: i64, breaks: &mut Vec<Break>) {
        match self.pending.take() {
            Some(Batch::Claimed { range }) => {
                let end = range.end.min(next).max(range.first);
                breaks.push(Break::Unfinished(OffsetRange::new(range.first, end)));
                self.told = self.told.max(Some(end));
            }
            Some(Batch::Unreadable { first, end, key, what, newer }) => {
                let end = end.unwrap_or(next).min(next).max(first);
                breaks.push(Break::Unreadable { first, end: Some(end), key, what, newer });
                self.told = self.told.max(Some(end));
            }
            Some(Batch::Vouched { .. }) | None => {}
        }
    }

    /// No more batches.
    pub fn end(mut self, breaks: &mut Vec<Break>) -> Reach {
        let mut open = None;
        match self.pending.take() {
            Some(Batch::Claimed { range }) => open = Some(range),
            Some(Batch::Unreadable { first, end, key, what, newer }) => {
                breaks.push(Break::Unreadable { first, end, key, what, newer });
            }
            Some(Batch::Vouched { .. }) | None => {}
        }
        Reach { vouched: self.vouched, open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: i64, end: i64) -> OffsetRange {
        OffsetRange::new(first, end)
    }

    fn vouched(first: i64, end: i64) -> Batch {
        Batch::Vouched { range: range(first, end), selected: true }
    }

    fn claimed(first: i64, end: i64) -> Batch {
        Batch::Claimed { range: range(first, end) }
    }

    fn unreadable(first: i64, end: Option<i64>) -> Batch {
        Batch::Unreadable { first, end, key: "k".to_string(), what: "x".to_string(), newer: false }
    }

    fn told(first: i64, end: Option<i64>) -> Break {
        Break::Unreadable { first, end, key: "k".to_string(), what: "x".to_string(), newer: false }
    }

    fn follow(batches: &[Batch]) -> (Vec<Break>, Reach) {
        let (mut chain, mut breaks) = (Chain::default(), Vec::new());
        for batch in batches {
            chain.push(batch.clone(), &mut breaks);
        }
        let reach = chain.end(&mut breaks);
        (breaks, reach)
    }

    #[test]
    fn each_break_is_told_once() {
        let (gap, unfinished) =
            (|first, end| Break::Gap(range(first, end)), |first, end| Break::Unfinished(range(first, end)));
        let reach =
            |vouched, open: Option<(i64, i64)>| Reach { vouched, open: open.map(|(first, end)| range(first, end)) };
        let cases = [
            (vec![], vec![], reach(None, None)),
            (vec![vouched(5, 10), vouched(10, 20)], vec![], reach(Some(20), None)),
            (vec![vouched(0, 10), vouched(12, 20)], vec![gap(10, 12)], reach(Some(20), None)),
            (
                vec![vouched(0, 10), vouched(8, 20)],
                vec![Break::Overlap(range(0, 10), range(8, 10))],
                reach(Some(20), None),
            ),
            // One that lies within another does not shorten it.
            (
                vec![vouched(0, 30), vouched(8, 20), vouched(30, 40)],
                vec![Break::Overlap(range(0, 30), range(8, 20))],
                reach(Some(40), None),
            ),
            (vec![vouched(0, 10), vouched(10, 10), vouched(10, 20)], vec![], reach(Some(20), None)),
            (vec![vouched(0, 10), claimed(10, 20)], vec![], reach(Some(10), Some((10, 20)))),
            (vec![claimed(10, 20)], vec![], reach(None, Some((10, 20)))),
            (vec![vouched(0, 10), claimed(10, 20), vouched(20, 30)], vec![unfinished(10, 20)], reach(Some(30), None)),
            (
                vec![vouched(0, 10), claimed(10, 20), vouched(25, 30)],
                vec![unfinished(10, 20), gap(20, 25)],
                reach(Some(30), None),
            ),
            (vec![vouched(0, 10), claimed(10, 20), vouched(15, 30)], vec![unfinished(10, 15)], reach(Some(30), None)),
            (
                vec![vouched(0, 10), claimed(12, 20), claimed(20, 30)],
                vec![gap(10, 12), unfinished(12, 20)],
                reach(Some(10), Some((20, 30))),
            ),
            (
                vec![vouched(0, 10), unreadable(10, None), vouched(20, 30)],
                vec![told(10, Some(20))],
                reach(Some(30), None),
            ),
            (
                vec![vouched(0, 10), unreadable(10, Some(15)), vouched(20, 30)],
                vec![told(10, Some(15)), gap(15, 20)],
                reach(Some(30), None),
            ),
            (vec![vouched(0, 10), unreadable(10, None)], vec![told(10, None)], reach(Some(10), None)),
        ];
        for (batches, breaks, reach) in cases {
            assert_eq!(follow(&batches), (breaks, reach), "{batches:?}");
        }
    }

    /// Goal: a batch whose receipt comes while its successors are read is one as others, and one of which nothing is left is a gap.
    #[test]
    fn a_claimed_batch_gives_way_to_what_comes_in_its_place() {
        for (instead, expected) in [
            (Some(vouched(10, 20)), vec![]),
            (Some(unreadable(10, Some(20))), vec![told(10, Some(20))]),
            (None, vec![Break::Gap(range(10, 20))]),
        ] {
            let (mut chain, mut breaks) = (Chain::default(), Vec::new());
            chain.push(vouched(0, 10), &mut breaks);
            assert_eq!(chain.claimed(), None);
            chain.push(claimed(10, 20), &mut breaks);
            assert_eq!(chain.claimed(), Some(range(10, 20)));
            chain.forget_claimed();
            instead.into_iter().for_each(|batch| chain.push(batch, &mut breaks));
            chain.push(vouched(20, 30), &mut breaks);
            assert_eq!(chain.end(&mut breaks), Reach { vouched: Some(30), open: None });
            assert_eq!(breaks, expected);
        }
    }

    #[test]
    fn between_batches_that_are_not_selected_nothing_is_told() {
        let unselected = |first, end| Batch::Vouched { range: range(first, end), selected: false };
        assert_eq!(
            follow(&[unselected(0, 10), vouched(12, 20), vouched(22, 30), unselected(35, 40)]).0,
            [Break::Gap(range(20, 22))]
        );
    }

    proptest! {
        /// Goal: of receipts at random places, exactly the uncovered and the doubly covered offsets are told.
        #[test]
        fn offsets_are_covered_once_or_told(parts in prop::collection::vec((0..6_i64, 0..6_i64), 1..30)) {
            let mut at = 3;
            let mut batches = Vec::new();
            for (skip, count) in &parts {
                // Two back or on: gaps, neighbours and overlaps.
                let first = (at + skip - 2).max(batches.last().map_or(0, |last: &OffsetRange| last.first + 1));
                batches.push(range(first, first + count));
                at = at.max(first + count);
            }
            let steps: Vec<Batch> = batches.iter().map(|range| vouched(range.first, range.end)).collect();
            let (breaks, reach) = follow(&steps);
            prop_assert_eq!(reach.vouched, batches.iter().map(|range| range.end).max());
            let begin = batches[0].first;
            for offset in begin..reach.vouched.unwrap_or(begin) {
                let covered = batches.iter().filter(|range| range.contains(offset)).count();
                let gaps = breaks.iter().filter(|told| matches!(told, Break::Gap(range) if range.contains(offset))).count();
                let twice = breaks.iter().filter(|told| matches!(told, Break::Overlap(_, range) if range.contains(offset))).count();
                prop_assert_eq!(gaps, usize::from(covered == 0), "offset {}: {:?}", offset, breaks);
                prop_assert_eq!(twice, covered.saturating_sub(1), "offset {}: {:?}", offset, breaks);
            }
        }
    }
}
