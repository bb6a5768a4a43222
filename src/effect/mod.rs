//! Effects: everything that a process does and a later one finds. Each has a name, and a failpoint before and after it.
//!
//! ```text
//! pipeline, bucket, upload ──▶ requests ──▶ Kafka's coordinator, stores, tables
//! spool, local folders     ──▶ files    ──▶ disk
//!                                 └── point: aborts here if it was told to
//! ```
//! # Guarantees
//! - Nothing else in these sources writes: [`requests`] and [`files`] are the only doors, and each call of them names its
//!   [`Effect`]. A test reads the sources and says so.
//! - A process aborts (`SIGABRT`, nothing is cleaned up) where the environment tells it to: `SILTSTONE_FAILPOINT` is
//!   `<effect>:<before|after>:<n>`, the nth time that it gets there. `SILTSTONE_EFFECTS` names a file that gets a line for each
//!   effect that was begun. A release build looks at neither and holds no code for them.
//!
//! What the demo writes for its own is not meant: it goes through no door.

pub mod files;
mod point;
pub mod requests;

/// What an effect is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The group's committed offsets, and what a restore produces.
    Kafka,
    /// Any destination.
    Store,
    /// The spool.
    Spool,
    /// Folders and files of a `file://` destination.
    Folder,
    /// Tables that other systems keep.
    Table,
    /// Whatever a hook calls.
    Hook,
}

/// One line is one effect, so that none can be without a name or missing in [`Effect::ALL`].
macro_rules! effects {
    ($($(#[$doc:meta])* $effect:ident = $name:literal at $place:ident,)*) => {
        /// Something that lasts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Effect {
            $($(#[$doc])* $effect,)*
        }

        impl Effect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$effect,)*];

            /// Its name in `SILTSTONE_FAILPOINT`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$effect => $name,)*
                }
            }

            /// What it is done to.
            pub const fn place(self) -> Place {
                match self {
                    $(Self::$effect => Place::$place,)*
                }
            }
        }
    };
}

effects! {
    /// The first position of a partition is committed.
    StartCommit = "start-commit" at Kafka,
    /// The end of receipts that chain from the committed offset is committed.
    ChainCommit = "chain-commit" at Kafka,
    /// The plan is committed.
    PlanCommit = "plan-commit" at Kafka,
    /// The end of an archived batch is committed.
    EndCommit = "end-commit" at Kafka,
    /// A transaction of restored records is committed, with how far its job is then.
    RestoreCommit = "restore-commit" at Kafka,
    /// A probe object is put.
    ProbePut = "probe-put" at Store,
    /// A probe object is deleted.
    ProbeDelete = "probe-delete" at Store,
    /// `archive.json` is created.
    IdentityPut = "identity-put" at Store,
    /// A layout is created.
    LayoutPut = "layout-put" at Store,
    /// A schema is pinned.
    SchemaPut = "schema-put" at Store,
    /// A claim is created.
    ClaimPut = "claim-put" at Store,
    /// A receipt is created.
    ReceiptPut = "receipt-put" at Store,
    /// A receipt is put over another.
    ReceiptReplace = "receipt-replace" at Store,
    /// A fold of receipts is created.
    FoldPut = "fold-put" at Store,
    /// A receipt that a fold has is deleted.
    FoldedDelete = "folded-delete" at Store,
    /// The claim of a replay is created.
    ReplayClaim = "replay-claim" at Store,
    /// The receipt of a replay is created.
    ReplayReceipt = "replay-receipt" at Store,
    /// The claim of a compaction is created.
    CompactionClaim = "compaction-claim" at Store,
    /// The receipt of a compaction is created.
    CompactionReceipt = "compaction-receipt" at Store,
    /// That the objects a compaction replaced are deleted is created.
    CompactionEnd = "compaction-end" at Store,
    /// That a compaction is taken back is created.
    CompactionUndo = "compaction-undo" at Store,
    /// Objects that a compaction replaced are deleted, many at once.
    InputsDelete = "inputs-delete" at Store,
    /// Objects that a compaction made, and that was taken back, are deleted, many at once.
    CompactedDelete = "compacted-delete" at Store,
    /// A backfill's job is created.
    JobPut = "job-put" at Store,
    /// That a backfill's job ended is created.
    JobEnd = "job-end" at Store,
    /// A revision of a completed folder is created.
    CompletedPut = "completed-put" at Store,
    /// The marker of a completed folder is created.
    MarkerPut = "marker-put" at Store,
    /// The marker of a folder that is complete again is put over the one before.
    MarkerReplace = "marker-replace" at Store,
    /// How far completion got is put.
    ProgressPut = "progress-put" at Store,
    /// That folders are to be looked at again is put.
    RecountPut = "recount-put" at Store,
    /// That folders are to be looked at again is deleted: they were.
    RecountDelete = "recount-delete" at Store,
    /// That a revision of a completed folder was loaded is created.
    LoadedPut = "loaded-put" at Store,
    /// Where a hook begins in a Kafka partition is created.
    HookBegin = "hook-begin" at Store,
    /// How far a hook was told of a Kafka partition is put.
    HookCursor = "hook-cursor" at Store,
    /// An object is put whole.
    ObjectPut = "object-put" at Store,
    /// An upload in pieces is begun.
    UploadBegin = "upload-begin" at Store,
    /// A piece is sent.
    UploadPiece = "upload-piece" at Store,
    /// Pieces are put together.
    UploadComplete = "upload-complete" at Store,
    /// Pieces are given up.
    UploadAbort = "upload-abort" at Store,
    /// The spool's folder and this process's slot are made.
    SpoolFolder = "spool-folder" at Spool,
    /// The slot's lock file is made.
    SpoolLock = "spool-lock" at Spool,
    /// Something that a dead process left in this process's slot is removed.
    SlotSweep = "slot-sweep" at Spool,
    /// Something that a dead process left in another slot is removed.
    DeadSlotSweep = "dead-slot-sweep" at Spool,
    /// The folder of a batch is made.
    BatchFolder = "batch-folder" at Spool,
    /// A piece of an object that is to be compacted is appended to its copy.
    InputAppend = "input-append" at Spool,
    /// The copy of an object that was to be compacted is deleted.
    InputRemove = "input-remove" at Spool,
    /// Finished blocks are appended to a part.
    BlockAppend = "block-append" at Spool,
    /// A part is sealed: its last bytes are appended.
    PartSeal = "part-seal" at Spool,
    /// Plain rows are spilled.
    RowsSpill = "rows-spill" at Spool,
    /// Spilled rows are set aside for the block that was cut.
    RowsAside = "rows-aside" at Spool,
    /// Spilled rows are deleted.
    RowsDelete = "rows-delete" at Spool,
    /// The folder of a batch is deleted.
    BatchDelete = "batch-delete" at Spool,
    /// Folders of a local destination are made.
    FolderMake = "folder-make" at Folder,
    /// A folder of a local destination is synced.
    FolderSync = "folder-sync" at Folder,
    /// A staged file is made.
    StageMake = "stage-make" at Folder,
    /// A staged file is written to.
    StageWrite = "stage-write" at Folder,
    /// A staged file is synced.
    StageSync = "stage-sync" at Folder,
    /// A staged file gets its final name, whatever had it before.
    StageRename = "stage-rename" at Folder,
    /// A staged file gets its final name, which nothing had.
    StageLink = "stage-link" at Folder,
    /// A staged file is removed.
    StageRemove = "stage-remove" at Folder,
    /// A staged file of a dead process is removed.
    StageSweep = "stage-sweep" at Folder,
    /// BigQuery is asked to load a set of ranges.
    LoadJob = "load-job" at Table,
    /// BigQuery is asked for a job that keeps an older set of ranges from being loaded.
    BarJob = "bar-job" at Table,
    /// BigQuery is asked for an external table.
    ExternalTable = "external-table" at Table,
    /// A Hive Metastore is asked to create or change a table.
    HiveTable = "hive-table" at Table,
    /// A Hive Metastore is asked to add or change a partition.
    HivePartition = "hive-partition" at Table,
    /// A command is run that is told of a batch or a folder.
    HookCommand = "hook-command" at Hook,
    /// A batch or a folder is told by an HTTP POST.
    HookPost = "hook-post" at Hook,
    /// A batch or a folder is told by a record in a Kafka topic.
    HookRecord = "hook-record" at Hook,
}

#[cfg(test)]
mod tests;
