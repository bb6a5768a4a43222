//! Schema inference: the first records of an archive decide the columns of its `schema = "infer"` outputs, once.
//!
//! While no schema is pinned, partitions only feed the sampler; then the schema is created in the bucket if absent (who
//! comes second takes what is there) and every partition starts again at its `first`. So every row of the archive,
//! also the sampled ones, is judged by the same schema.

use super::context::ArchiveContext;
use super::unpack::{Scratch, Unpacked, Unpacker, What};
use crate::decode::{Needs, Schemas};
use crate::destination::fault::Verdict;
use crate::format::parquet::infer::Inference;
use crate::layout::{Column, Layout, OutputLayout, RegistryFormat, SchemaSource};
use crate::record::Record;
use std::collections::BTreeMap;

/// Records that make a sample. Records before the first one with a field (broken ones, tombstones) teach nothing and do not
/// count.
pub const SAMPLE_RECORDS: u64 = 10_000;

/// Collects the sample of one archive.
pub struct Sampler {
    /// `None` where no schema is inferred, or the layout does not compile, which the configuration would have refused.
    unpacker: Option<Unpacker>,
    scratch: Scratch,
    outputs: Vec<(String, Inference)>,
    /// Records that taught something.
    records: u64,
    /// All records.
    seen: u64,
    first_monotonic_ms: Option<i64>,
}

/// Names of the outputs of `layout` that infer their schema.
pub fn inferring(layout: &Layout) -> impl Iterator<Item = &str> {
    let infers = |output: &&OutputLayout| output.format.schema() == Some(&SchemaSource::Infer);
    layout.outputs.iter().filter(infers).map(|output| output.name.as_str())
}

impl Sampler {
    /// A sampler for the outputs of `layout` that need one. `schemas`: see [`Unpacker::compile`].
    pub fn new(layout: &Layout, schemas: &Schemas) -> Self {
        let keep = |name: &str| {
            layout.outputs.iter().find(|output| output.name == name).and_then(|output| output.keep.clone())
        };
        let outputs: Vec<_> =
            inferring(layout).map(|name| (name.to_string(), Inference::new(keep(name).as_ref()))).collect();
        let unpacker = if outputs.is_empty() { None } else { Unpacker::compile(layout, schemas).ok() };
        Self { unpacker, scratch: Scratch::default(), outputs, records: 0, seen: 0, first_monotonic_ms: None }
    }

    /// The id of a schema that must be asked for before `payload` can be read, and what it describes.
    pub fn asks_for(&self, payload: &[u8]) -> Option<(u32, RegistryFormat)> {
        let by_registry = self.unpacker.as_ref()?.by_registry()?;
        match by_registry.needs(payload) {
            Needs::Ask(id) => Some((id, by_registry.format())),
            _ => None,
        }
    }

    /// Whether nothing was sampled yet.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// Records sampled in vain: none of them has a field that a column could be made of. `None`: that is not so.
    pub fn in_vain(&self) -> Option<u64> {
        (self.seen > 0 && self.records == 0 && !self.outputs.is_empty()).then_some(self.seen)
    }

    /// Adds a record to the sample.
    pub fn add(&mut self, record: &Record<'_>, monotonic_ms: i64) {
        if self.records >= SAMPLE_RECORDS {
            return;
        }
        self.seen += 1;
        self.first_monotonic_ms.get_or_insert(monotonic_ms);
        let (Some(unpacker), Some(value)) = (&self.unpacker, record.value) else { return };
        // Every output learns from all rows, also of those that are for others: one that seldom gets a row holds nobody up.
        // What does not decode becomes a dead letter later and says nothing about columns.
        let teaches = match unpacker.unpack(record, &mut self.scratch) {
            Unpacked::AsItIs => learn(&mut self.outputs, value),
            Unpacked::Refused(_) => false,
            Unpacked::Rows => {
                let mut any = false;
                for what in &self.scratch.found {
                    if let What::Row(index, _) = *what
                        && let Some(row) = self.scratch.row(index)
                    {
                        any |= learn(&mut self.outputs, row.as_bytes());
                    }
                }
                any
            }
        };
        self.records += u64::from(teaches);
    }

    /// The inferred schemas once the sample is large enough, or nothing more is there to read (`exhausted`) and the first
    /// record came `patience_ms` ago. Gives them once.
    pub fn take_if_enough(
        &mut self,
        monotonic_ms: i64,
        patience_ms: i64,
        exhausted: bool,
    ) -> Option<BTreeMap<String, Vec<Column>>> {
        let waited = monotonic_ms - self.first_monotonic_ms? >= patience_ms;
        if self.outputs.is_empty() || !(self.records >= SAMPLE_RECORDS || (exhausted && waited)) {
            return None;
        }
        let inferred: BTreeMap<_, _> =
            self.outputs.iter().map(|(name, inference)| (name.clone(), inference.clone().finish())).collect();
        // A sample without a single field (broken records, tombstones) teaches nothing: wait for one that does.
        if patience_ms > 0 && inferred.values().any(Vec::is_empty) {
            return None;
        }
        self.outputs.clear();
        Some(inferred)
    }
}

/// Whether every output has learned a column from `row` or those before it.
fn learn(outputs: &mut [(String, Inference)], row: &[u8]) -> bool {
    outputs.iter_mut().fold(true, |all, (_, inference)| inference.add(row).is_ok() && inference.has_columns() && all)
}

/// Pins `inferred` in the bucket, or takes what another process pinned first.
///
/// # Errors
/// Why no schema can be had.
pub async fn pin(
    archive: &ArchiveContext,
    inferred: BTreeMap<String, Vec<Column>>,
) -> Result<BTreeMap<String, Vec<Column>>, String> {
    let mut pinned = BTreeMap::new();
    for (output, columns) in inferred {
        let mut pause = std::time::Duration::from_millis(200);
        let columns = loop {
            match archive.bucket.pin_schema(&archive.name, &output, 1, &columns).await {
                Ok(columns) => break columns,
                Err(error) if error.verdict() == Verdict::Retry => {
                    tracing::warn!(archive = archive.name, output, "pin the schema: {error}; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(std::time::Duration::from_secs(20));
                }
                Err(error) => return Err(format!("output {output}: {error}")),
            }
        };
        pinned.insert(output, columns);
    }
    Ok(pinned)
}
