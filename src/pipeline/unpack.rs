//! From a record to its rows: the decoder, then the user's transform.

use crate::decode::{self, ByRegistry, Decoder, KEPT_BYTES_MAX, Rows, Schemas};
use crate::format::dead_letter::DeadLetterStage;
use crate::layout::{Decode, Layout};
use crate::record::Record;
use crate::transform::{Shaped, Transform};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Why a record is not a row: the stage and the reason of its dead letter.
pub type Refusal = (DeadLetterStage, String);

/// What a record holds, as far as it was looked into.
pub enum Unpacked {
    /// The payload itself is its one row, or is not decoded: [`super::archive::Archive::decode`] says the rest.
    AsItIs,
    /// Rows, perhaps none: they stand in [`Scratch::found`], and [`super::archive::Archive::decode_row`] says the rest of each.
    Rows,
    /// Nothing that it should.
    Refused(Refusal),
}

/// Room for the rows of one record, kept for the next one.
#[derive(Default)]
pub struct Scratch {
    decoded: Rows,
    shaped: Rows,
    /// The rows as they are archived, with those between them that are not: a row's number is its place here.
    pub found: Vec<What>,
}

/// What became of a row.
pub enum What {
    /// The row with this index, see [`Scratch::row`], for all outputs or for these.
    Row(usize, Option<BTreeSet<usize>>),
    /// The transform dropped it.
    Dropped,
    /// It is a dead letter.
    Refused(Refusal),
}

impl Scratch {
    /// The text of a row.
    pub fn row(&self, index: usize) -> Option<&str> {
        if self.shaped.is_empty() { self.decoded.get(index) } else { self.shaped.get(index) }
    }

    /// Forgets the rows, and gives back what one record needed and most do not: of each of its three parts a megabyte is kept.
    pub(super) fn clear(&mut self) {
        self.decoded.clear();
        self.shaped.clear();
        self.found.clear();
        self.found.shrink_to(KEPT_BYTES_MAX / size_of::<What>());
    }

    /// Bytes that it holds, used or not, what single refusals say apart.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.decoded.bytes() + self.shaped.bytes() + self.found.capacity() * size_of::<What>()
    }
}

/// What a layout makes rows with.
pub struct Unpacker {
    /// `None`: payloads are their own rows.
    decoder: Option<Box<dyn Decoder>>,
    /// The decoder where it reads by a registry.
    by_registry: Option<Arc<ByRegistry>>,
    transform: Option<Transform>,
    /// No record is more than one row.
    one_row: bool,
}

impl Unpacker {
    /// Compiles what `layout` says. `schemas`: what it needs beside that where a registry has its schemas.
    ///
    /// # Errors
    /// What cannot be used of it, for the person who wrote it.
    pub fn compile(layout: &Layout, schemas: &Schemas) -> Result<Self, String> {
        let failed = |error: String| format!("decode: {error}");
        let by_registry = decode::by_registry(&layout.decode, schemas).map_err(failed)?;
        let mut decoder = match &by_registry {
            Some(decoder) => Some(Box::new(decoder.clone()) as Box<dyn Decoder>),
            None => decode::compile(&layout.decode).map_err(failed)?,
        };
        if layout.transform.is_some() && matches!(layout.decode, Decode::Json { .. }) {
            decoder = decoder.or_else(|| Some(decode::one_json()));
        }
        let of_rows = (0..).zip(&layout.outputs).filter(|(_, output)| !output.format.takes_every_record());
        let of_rows: Vec<_> = of_rows.map(|(index, output)| (output.name.clone(), index)).collect();
        let transform = layout.transform.as_ref().map(|source| Transform::compile(source, &of_rows)).transpose();
        let transform = transform.map_err(|error| format!("transform: {error}"))?;
        let one_row = !layout.decode.unfolds() && !transform.as_ref().is_some_and(Transform::spreads);
        Ok(Self { decoder, by_registry, transform, one_row })
    }

    /// Whether no record is more than one row.
    pub fn makes_one_row(&self) -> bool {
        self.one_row
    }

    /// Whether payloads are their own rows, or not looked into.
    pub fn leaves_as_is(&self) -> bool {
        self.decoder.is_none()
    }

    /// The decoder where it reads by a registry.
    pub fn by_registry(&self) -> Option<&ByRegistry> {
        self.by_registry.as_deref()
    }

    /// Finds the rows of `record`. They stand in `scratch` afterwards, and nothing else does.
    pub fn unpack(&self, record: &Record<'_>, scratch: &mut Scratch) -> Unpacked {
        scratch.clear();
        let (Some(decoder), Some(payload)) = (&self.decoder, record.value) else { return Unpacked::AsItIs };
        let decoded = unharmed(DeadLetterStage::Decode, || decoder.decode(record, payload, &mut scratch.decoded))
            .and_then(|decoded| decoded.map_err(|error| (DeadLetterStage::Decode, error.to_string())));
        if let Err(refusal) = decoded {
            return Unpacked::Refused(refusal);
        }
        for (index, text) in scratch.decoded.iter().enumerate() {
            let Some(transform) = &self.transform else {
                scratch.found.push(What::Row(index, None));
                continue;
            };
            let first = scratch.shaped.len();
            let shaped = unharmed(DeadLetterStage::Transform, || transform.run(record, text, &mut scratch.shaped));
            match shaped {
                Ok(Shaped::Rows(routes)) => {
                    scratch.found.extend((first..).zip(routes).map(|(index, route)| What::Row(index, route)));
                }
                Ok(Shaped::Dropped) => scratch.found.push(What::Dropped),
                Ok(Shaped::Refused(reason)) => {
                    scratch.found.push(What::Refused((DeadLetterStage::Transform, reason)));
                }
                Err(refusal) => {
                    scratch.shaped.truncate(first);
                    scratch.found.push(What::Refused(refusal));
                }
            }
        }
        Unpacked::Rows
    }
}

/// What `run` gives, or that it panicked: a bug of it, of which a record must not become a victim.
pub(super) fn unharmed<T>(stage: DeadLetterStage, run: impl FnOnce() -> T) -> Result<T, Refusal> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        (stage, "reading it ended in a panic, which is a bug: please report it with this record".to_string())
    })
}
