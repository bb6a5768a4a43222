//! Values between separators: CSV and LTSV.

use super::text::{Values, line, text};
use super::{DecodeError, Decoder, Rows};
use crate::layout::TextFields;
use crate::parse::text::quote;
use crate::record::Record;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use std::sync::{Mutex, PoisonError};

/// Labeled tab-separated values (<http://ltsv.org>): fields between tabs, each a label, a colon and a value.
pub(super) struct Ltsv {
    values: Values,
}

impl Ltsv {
    pub(super) fn new(fields: &TextFields) -> Self {
        Self { values: Values::new(fields) }
    }
}

impl Decoder for Ltsv {
    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let line = line(payload)?;
        if line.contains('\n') {
            return Err(DecodeError("the payload holds more than one line".to_string()));
        }
        rows.add(|out| {
            let mut members = out.object()?;
            for (index, field) in line.split('\t').enumerate() {
                let Some((label, value)) = field.split_once(':') else {
                    return Err(DecodeError(format!("field {} has no label: {}", index + 1, quote(field))));
                };
                out.name(&mut members, label)?;
                self.values.write(label, value, out)?;
            }
            out.end_object();
            Ok(())
        })
    }
}

/// Comma-separated values (RFC 4180) without a header.
pub(super) struct Csv {
    columns: Vec<String>,
    /// A machine with a state. A clone of one is no machine (csv-core 0.1.13), and making one takes longer than a line.
    reader: Mutex<Reader>,
    unfold: bool,
    values: Values,
}

impl Csv {
    pub(super) fn new(
        columns: &[String],
        delimiter: char,
        quote: Option<char>,
        unfold: bool,
        fields: &TextFields,
    ) -> Result<Self, String> {
        let ascii = |name, letter: char| {
            u8::try_from(letter).ok().filter(u8::is_ascii).ok_or(format!("{name} {letter:?} is not ASCII"))
        };
        let mut reader = ReaderBuilder::new();
        reader.delimiter(ascii("delimiter", delimiter)?).terminator(Terminator::CRLF);
        match quote {
            Some(quote) => reader.quote(ascii("quote", quote)?),
            None => reader.quoting(false),
        };
        Ok(Self { columns: columns.to_vec(), reader: Mutex::new(reader.build()), unfold, values: Values::new(fields) })
    }

    fn add(&self, line: usize, found: &str, ends: &[usize], rows: &mut Rows) -> Result<(), DecodeError> {
        if ends.len() != self.columns.len() {
            let (found, wanted) = (ends.len(), self.columns.len());
            return Err(DecodeError(format!("line {line} has {found} values, where columns has {wanted}")));
        }
        rows.add(|out| {
            let mut members = out.object()?;
            let mut start = 0;
            for (column, &end) in self.columns.iter().zip(ends) {
                out.name(&mut members, column)?;
                let value = found.get(start..end).ok_or_else(|| DecodeError(format!("line {line} splits a letter")))?;
                self.values.write(column, value, out)?;
                start = end;
            }
            out.end_object();
            Ok(())
        })
    }
}

impl Decoder for Csv {
    fn fields(&self) -> Option<Vec<String>> {
        Some(self.columns.clone())
    }

    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let mut unread = text(payload)?.as_bytes();
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.reset();
        // Values are never longer than what they are read from, and there is at most one more than delimiters.
        let (mut values, mut ends) = (vec![0; unread.len()], vec![0; unread.len() + 1]);
        let mut lines = 0;
        loop {
            let (mut written, mut ended) = (0, 0);
            let outcome = loop {
                let (outcome, read, wrote, fields) =
                    reader.read_record(unread, &mut values[written..], &mut ends[ended..]);
                unread = &unread[read..];
                written += wrote;
                ended += fields;
                match outcome {
                    // An empty input tells it that there is no more.
                    ReadRecordResult::InputEmpty => {}
                    outcome => break outcome,
                }
            };
            match outcome {
                ReadRecordResult::Record => {
                    lines += 1;
                    if lines > 1 && !self.unfold {
                        return Err(DecodeError(
                            "the payload holds more than one line, and unfold is not set".to_string(),
                        ));
                    }
                    let found = std::str::from_utf8(&values[..written])
                        .map_err(|_| DecodeError(format!("line {lines} splits a letter")))?;
                    self.add(lines, found, &ends[..ended], rows)?;
                }
                ReadRecordResult::End if lines == 0 => return Err(DecodeError("the payload is empty".to_string())),
                ReadRecordResult::End => return Ok(()),
                full => return Err(DecodeError(format!("line {} is larger than the payload: {full:?}", lines + 1))),
            }
        }
    }
}
