//! What the tests of all formats share.

use super::{Assembler, EncodedBlock, Format, FormatError, Row};
use crate::record::OwnedRecord;
use std::io::Write;
use std::sync::{Arc, Mutex};

/// A record to append, with all that is around it.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) record: OwnedRecord,
}

impl Sample {
    /// Record 17 of access/3 with that payload.
    pub(super) fn new(value: Option<&[u8]>) -> Self {
        Self {
            record: OwnedRecord {
                topic: "access".to_string(),
                partition: 3,
                offset: 17,
                timestamp: Some(1_763_712_000_000),
                value: value.map(<[u8]>::to_vec),
                ..OwnedRecord::default()
            },
        }
    }

    /// Calls `then` with its row; the payload counts as JSON where it is text.
    pub(super) fn json_row<T>(&self, then: impl FnOnce(&Row<'_>) -> T) -> T {
        let record = self.record.as_record();
        let json = record.value.and_then(|value| std::str::from_utf8(value).ok());
        then(&Row { record: &record, json, event_ms: 1_763_712_000_000 })
    }
}

/// Calls `then` with the row of a record with that payload and that JSON.
pub(super) fn row_of<T>(value: Option<&[u8]>, json: Option<&str>, then: impl FnOnce(&Row<'_>) -> T) -> T {
    let sample = Sample::new(value);
    let record = sample.record.as_record();
    then(&Row { record: &record, json, event_ms: 1_763_712_000_000 })
}

/// The file that `blocks` of plain rows, each with its count, make.
pub(crate) fn file_of(format: &dyn Format, blocks: &[(Vec<u8>, u32)], metadata: &[(String, String)]) -> Vec<u8> {
    let encode = |(rows, count): &(Vec<u8>, u32)| format.encode_block(rows, *count).expect("append_row accepted them");
    assembled(|out| format.assemble(out), blocks.iter().map(encode), metadata)
}

/// The file that encoded blocks make.
pub(super) fn assembled(
    assemble: impl FnOnce(Box<dyn Write + Send>) -> Result<Box<dyn Assembler>, FormatError>,
    blocks: impl Iterator<Item = EncodedBlock>,
    metadata: &[(String, String)],
) -> Vec<u8> {
    let out = Shared::default();
    let mut assembler = assemble(Box::new(out.clone())).expect("memory takes every byte");
    for block in blocks {
        assembler.append(block).expect("memory takes every byte");
    }
    assembler.finish(metadata).expect("memory takes every byte");
    out.0.lock().map(|bytes| bytes.clone()).expect("no writer panicked")
}

/// Bytes that outlive the box they are written through.
#[derive(Clone, Default)]
pub(super) struct Shared(pub(super) Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
