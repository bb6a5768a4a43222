//! What a key tells by itself: reading segments from both ends, as argued in [`super::collide`].

use super::alphabet::ByteSet;
use super::window::{Part, Segment};
use std::ops::Range;

/// Which values can be read off a key of an output, whatever the other values are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) topic: bool,
    pub(super) partition: bool,
    pub(super) first: bool,
    pub(super) generation: bool,
}

/// What the whole key tells, and whether every offset in it is told where it stands.
pub(super) fn tell(segments: &[Segment], topic_known: bool) -> (Told, bool) {
    let mut told = Told { topic: topic_known, ..Told::default() };
    loop {
        let mut now = told;
        let mut offsets_told = true;
        for segment in segments {
            let middle = middle(&segment.parts, told);
            let in_middle = |index: usize| middle.contains(&index) && middle.len() > 1;
            for (index, part) in segment.parts.iter().enumerate() {
                match part {
                    Part::Topic => now.topic |= !in_middle(index),
                    Part::Partition(_) => now.partition |= !in_middle(index),
                    Part::Generation(_) => now.generation |= !in_middle(index),
                    Part::First(_) => now.first |= !in_middle(index),
                    _ => {}
                }
                offsets_told &= !(matches!(part, Part::First(_) | Part::End(_)) && in_middle(index));
            }
        }
        if now == told {
            return (told, offsets_told);
        }
        told = now;
    }
}

/// Which parts of a segment can be passed over neither from its left nor from its right.
fn middle(parts: &[Part], told: Told) -> Range<usize> {
    let mut left = 0;
    while left < parts.len() && passes(&parts[left], parts.get(left + 1).map(first_bytes), told) {
        left += 1;
    }
    let mut right = parts.len();
    while right > left && passes(&parts[right - 1], right.checked_sub(2).map(|before| last_bytes(&parts[before])), told)
    {
        right -= 1;
    }
    left..right
}

/// Whether the extent of `part` is known, reading towards a neighbour that begins with one of `neighbour` (`None`: the
/// segment's end).
pub(super) fn passes(part: &Part, neighbour: Option<ByteSet>, told: Told) -> bool {
    let known = match part {
        Part::Text(_) | Part::Output(_) => true,
        Part::Topic | Part::TopicWord(_) => told.topic,
        Part::Partition(_) => told.partition,
        Part::First(_) => told.first,
        Part::Generation(_) => told.generation,
        Part::Time { .. } | Part::End(_) | Part::Field(_) | Part::FieldWord(..) | Part::Header(_) | Part::Key => false,
    };
    known || fixed_width(part).is_some() || neighbour.is_none_or(|bytes| !bytes.meets(held_bytes(part)))
}

/// The number of bytes of a part whose length never varies.
pub(super) fn fixed_width(part: &Part) -> Option<usize> {
    match part {
        Part::Text(text) | Part::Output(text) => Some(text.len()),
        Part::Time { width, .. } => *width,
        Part::Partition(width) if *width >= 10 => Some(*width),
        Part::First(width) | Part::End(width) if *width >= 19 => Some(*width),
        _ => None,
    }
}

/// Every byte that a part can hold.
pub(super) fn held_bytes(part: &Part) -> ByteSet {
    match part {
        Part::Text(text) | Part::Output(text) => ByteSet::of(text.as_bytes()),
        Part::Time { bytes, .. } => *bytes,
        Part::Partition(_) | Part::First(_) | Part::End(_) | Part::Generation(_) => ByteSet::DIGITS,
        Part::TopicWord(_) | Part::FieldWord(..) => ByteSet::ENCODED.without(ByteSet::of(b".")),
        Part::Topic | Part::Field(_) | Part::Header(_) | Part::Key => ByteSet::ENCODED,
    }
}

fn first_bytes(part: &Part) -> ByteSet {
    match part {
        Part::Text(text) | Part::Output(text) => ByteSet::of(&text.as_bytes()[..1]),
        _ => held_bytes(part),
    }
}

pub(super) fn last_bytes(part: &Part) -> ByteSet {
    match part {
        Part::Text(text) | Part::Output(text) => ByteSet::of(&text.as_bytes()[text.len() - 1..]),
        _ => held_bytes(part),
    }
}
