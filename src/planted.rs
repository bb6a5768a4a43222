//! Bugs on purpose: each turns one rule of the delivery protocol off, to prove that the simulation sees it.
//!
//! Only with the feature `test-util`, which no release has: without it [`has`] is a constant `false` and its callers
//! compile to what they were. With it nothing is planted until somebody calls `plant`, which only the simulation does; one thread plants for
//! itself alone, so tests beside each other do not meet.

/// A rule that is turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The end is committed before the first upload.
    CommitBeforeUpload,
    /// The end is committed before the receipt is written.
    CommitBeforeReceipt,
    /// The end that is committed is one too far.
    CommitOneTooFar,
    /// A batch is sealed one offset short of what it holds.
    EndOneShort,
    /// Sealed without a plan.
    PlanSkipped,
    /// Uploaded without a claim.
    ClaimSkipped,
    /// Another's claim is found, and not followed.
    ClaimIgnored,
    /// Another's claim is followed, but the batch counts as archived.
    AdoptionForgotten,
    /// Work goes on under an assignment that is dead.
    StaleAssignment,
    /// An unfinished batch is cut anew.
    RedoCutsAnew,
    /// An unfinished batch is redone with this process's own layout.
    RedoWithOwnLayout,
    /// A redone batch replaces what is there.
    RedoReplaces,
    /// Claims and receipts are not looked at when a partition is taken over.
    ReceiptsIgnored,
    /// A commit without an answer counts as done.
    UnknownCommitIsDone,
    /// Committed offsets are never read back.
    ReadBackDropped,
    /// What is open stays when a partition is taken away.
    OpenBatchKept,
    /// Records that Kafka deleted are skipped silently.
    AbsentNotCounted,
    /// What a dead process left in the spool stays there.
    SpoolKept,
    /// An upload without an answer counts as done.
    UploadUnconfirmed,
    /// The end of a partition says nothing about offsets that hold no record.
    EndOfPartitionIgnored,
    /// An offset that is not ours is taken as it is.
    ForeignOffsetTrusted,
    /// Nobody looks whether a topic was deleted and created again while its records were read.
    RecreatedTopicMixed,
    /// A redone batch counts as the last word on what the source had covered.
    RedoEndsAll,
    /// An object with fewer rows than this try holds stays.
    PoorerObjectKept,
    /// A receipt is put over whatever is there.
    ReceiptOverwritten,
    /// What outputs refuse together comes behind what they refuse alone.
    DeadLettersUnordered,
    /// All dead letters of a record have the same index.
    DeadLettersNumberedAlike,
    /// Receipts are deleted before their fold is put.
    FoldDeletesFirst,
    /// Whoever looks for receipts looks into no fold.
    FoldsIgnored,
}

#[cfg(feature = "test-util")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread has `bug`, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.with(|planted| planted.set(bug));
    }

    /// Whether this thread has `bug`.
    pub fn has(bug: Bug) -> bool {
        PLANTED.with(|planted| planted.get() == Some(bug))
    }
}

#[cfg(feature = "test-util")]
pub use switch::{has, plant};

/// Never.
#[cfg(not(feature = "test-util"))]
#[inline(always)]
pub const fn has(_: Bug) -> bool {
    false
}
