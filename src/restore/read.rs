//! The rows of source partitions, each in order, from where a job is.
//!
//! # Order and memory
//! Those of one source partition are put in order by [`super::walk`]; [`PARTITIONS_MAX`] of them are read at a time.
//!
//! # Beside a compaction
//! An object that gives way while it is to be read is not there any more. Then what counts is read again, and the reader goes on from where it stood:
//! behind the last rows that it gave, or with an error that says why that place is not known.

use super::order::Unread;
use super::position::Position;
use super::walk::{Given, Walk};
use crate::clock::Clock;
use crate::exit::Failure;
use crate::ledger::{Destinations, Site};
use crate::reader::merge::Item;
use crate::reader::plan::{Wanted, is_replaced};
use crate::record::TopicPartition;
use futures::stream::{self, LocalBoxStream, StreamExt, TryStreamExt};

/// Source partitions that are read at a time.
pub const PARTITIONS_MAX: usize = 4;

/// The next thing of a source partition.
pub enum Step {
    /// Rows that stay together: no transaction ends between them.
    Rows {
        /// The source partition.
        partition: i32,
        /// The rows.
        items: Vec<Item>,
        /// Where it is then.
        after: Position,
    },
    /// Everything up to there is done with.
    Passed {
        /// The source partition.
        partition: i32,
        /// Where it is.
        after: Position,
    },
}

/// Where rows are read.
#[derive(Clone, Copy)]
pub struct Archive<'s> {
    /// The archive.
    pub site: &'s Site<'s>,
    /// Its stores.
    pub destinations: &'s Destinations,
    /// The time.
    pub clock: &'s dyn Clock,
}

/// What is left of a source partition.
pub struct Left {
    /// The source partition.
    pub partition: TopicPartition,
    /// From here on.
    pub from: Position,
    /// The first offset that was asked for: an object that begins before it, and whose rows tell no offset, is not restored.
    pub begin: i64,
    /// Which objects: their output and times, and the offsets up to the end.
    pub wanted: Wanted,
    /// Most rows of a record that come together: where it has more, they come one such part after the other.
    pub rows_max: u64,
}

/// What cannot be read, and the source partition that ends with it.
pub type Stopped = (i32, Failure);

/// Everything that is left, each source partition in order, several of them side by side. One that fails ends there, without a step to its end;
/// the others do not.
pub fn steps<'s>(archive: Archive<'s>, left: &'s [Left]) -> LocalBoxStream<'s, Result<Step, Stopped>> {
    let each = left.iter().map(move |left| {
        let mut is_failed = false;
        let steps = of_partition(archive, left);
        let until_failed = steps.take_while(move |step| {
            let was_failed = is_failed;
            is_failed |= step.is_err();
            std::future::ready(!was_failed)
        });
        until_failed.map_err(|failure| (left.partition.partition, failure)).boxed_local()
    });
    stream::iter(each).flatten_unordered(PARTITIONS_MAX).boxed_local()
}

fn of_partition<'s>(archive: Archive<'s>, left: &'s Left) -> LocalBoxStream<'s, Result<Step, Failure>> {
    let reader = Partition { archive, left, at: left.from, walk: None };
    let partition = left.partition.partition;
    let steps = stream::try_unfold(reader, |mut reader| async move {
        let step = reader.next().await?;
        Ok::<_, Failure>(step.map(|step| (step, reader)))
    });
    let ended = stream::iter([Ok(Step::Passed { partition, after: Position::at(left.wanted.offsets.end) })]);
    steps.chain(ended).boxed_local()
}

/// One source partition on its way.
struct Partition<'s> {
    archive: Archive<'s>,
    left: &'s Left,
    /// Behind the last rows that were given.
    at: Position,
    walk: Option<Walk<'s>>,
}

impl Partition<'_> {
    async fn next(&mut self) -> Result<Option<Step>, Failure> {
        let partition = self.left.partition.partition;
        loop {
            let walk = match &mut self.walk {
                Some(walk) => walk,
                None => self.walk.insert(Walk::begin(self.archive, self.left, self.at).await?),
            };
            match walk.next().await {
                Ok(None) => return Ok(None),
                Ok(Some(Given { items, after })) => {
                    self.at = after;
                    return Ok(Some(Step::Rows { partition, items, after }));
                }
                Err(Unread { failure, gone }) => {
                    let Archive { site, clock, .. } = self.archive;
                    // What was replaced counts no more when it is looked at again, so this comes to an end.
                    let Some(gone) = gone else { return Err(failure) };
                    if !is_replaced(site, clock, &gone.chosen).await? {
                        return Err(failure);
                    }
                    tracing::info!(
                        key = gone.place.key,
                        "an object was compacted meanwhile: what counts is read again"
                    );
                    self.walk = None;
                }
            }
        }
    }
}
