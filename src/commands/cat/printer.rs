//! Rows on their way to the pipe.

use super::super::Unprinted;
use super::Streams;
use crate::cli::CatArgs;
use crate::exit::{Exit, Failure};
use crate::layout::Newlines;
use crate::parse::text::text_or_base64;
use crate::parse::timestamp::render_instant;
use crate::reader::merge::Item;
use crate::reader::plan::Wanted;
use crate::reader::row::{Body, ShownRecord};
use crate::reader::shape::Shape;
use crate::reader::sieve::Sieve;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::io::{BufWriter, Write};

/// Bytes of rows that wait to be written.
const OUT_BYTES: usize = 64 << 10;

/// Prints what a [`Sieve`] takes.
pub(super) struct Printer<'o> {
    out: BufWriter<&'o mut dyn Write>,
    notes: &'o mut dyn Write,
    noted: HashSet<String>,
    sieve: Sieve,
    form: Form,
    /// How many more may be printed.
    left: u64,
    line: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    AsItIs,
    Json,
    Raw,
}

/// `--json`.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<String>,
    object: &'a str,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<ShownRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'o> Printer<'o> {
    /// # Errors
    /// As [`Sieve::new`].
    pub(super) fn new(args: &CatArgs, wanted: &Wanted, streams: Streams<'o>) -> Result<Self, Failure> {
        let form = match (args.json, args.raw) {
            (true, _) => Form::Json,
            (false, true) => Form::Raw,
            (false, false) => Form::AsItIs,
        };
        Ok(Self {
            out: BufWriter::with_capacity(OUT_BYTES, streams.out),
            notes: streams.notes,
            noted: HashSet::new(),
            sieve: Sieve::new(wanted, args.grep.as_deref(), args.condition.as_deref())?,
            form,
            left: args.count.unwrap_or(u64::MAX),
            line: Vec::new(),
        })
    }

    /// Whether rows of `shape` can be printed as it is asked.
    ///
    /// # Errors
    /// [`Exit::Config`]: payloads are wanted where there are none.
    pub(super) fn check(&self, shape: &Shape) -> Result<(), Failure> {
        if self.form == Form::Raw && shape.has_columns() {
            let what = "--raw: rows of Avro and Parquet are no payloads; outputs of type raw and envelope have them (--output)";
            return Err(Failure::new(Exit::Config, what));
        }
        Ok(())
    }

    /// Prints a row, if it is one that is meant; `true`: enough are printed.
    pub(super) fn print(&mut self, item: &Item) -> Result<bool, Unprinted> {
        let Some(untold) = self.sieve.in_range(item) else { return Ok(false) };
        self.line.clear();
        let newlines = item.source.shape.newlines();
        match self.form {
            Form::Raw if matches!(item.row.body, Body::Record(_)) => {
                self.line.extend_from_slice(item.row.body.payload().flatten().unwrap_or_default());
                self.line.push(b'\n');
            }
            Form::AsItIs | Form::Raw => item.row.body.append(newlines, &mut self.line),
            Form::Json => json(item, &mut self.line),
        }
        let is_framed = newlines == Newlines::Length && self.form != Form::Json;
        let searched = match item.row.body.payload() {
            Some(payload) if is_framed => payload.unwrap_or_default(),
            _ => self.line.strip_suffix(b"\n").unwrap_or(&self.line),
        };
        if !self.sieve.takes(item, searched, untold) {
            return Ok(false);
        }
        self.out.write_all(&self.line)?;
        self.left -= 1;
        Ok(self.left == 0)
    }

    /// Hands on what was printed.
    pub(super) fn flush(&mut self) -> Result<(), Unprinted> {
        Ok(self.out.flush()?)
    }

    /// Says something beside the rows.
    pub(super) fn note(&mut self, text: &str) -> Result<(), Unprinted> {
        // Nobody reads standard error any more: rows are what was asked for.
        drop(writeln!(self.notes, "siltstone: {text}"));
        Ok(())
    }

    /// The same, unless it was said before.
    pub(super) fn note_once(&mut self, text: &str) -> Result<(), Unprinted> {
        if self.noted.insert(text.to_string()) { self.note(text) } else { Ok(()) }
    }

    /// Hands on what was printed, and says what is to be known of it.
    pub(super) fn finish(&mut self) -> Result<(), Unprinted> {
        let flushed = self.flush();
        let (untimed, unplaced) = (self.sieve.untimed, self.sieve.unplaced);
        if untimed > 0 {
            self.note(&format!(
                "{untimed} rows do not tell their time, and are of objects that reach beyond --since or --until: all of them are here"
            ))?;
        }
        if unplaced > 0 {
            self.note(&format!(
                "{unplaced} rows do not tell their offset, and are of batches that reach beyond --from-offset or --to-offset: all of them are here"
            ))?;
        }
        let (failing, why) = self.sieve.failing.clone();
        if failing > 0 {
            self.note(&format!("--where failed for {failing} rows, which are left out; for the first: {why}"))?;
        }
        flushed
    }
}

fn json(item: &Item, out: &mut Vec<u8>) {
    let chosen = &item.source.chosen;
    let row = match &item.row.body {
        Body::Json(line) => serde_json::from_slice::<&RawValue>(line).ok(),
        Body::Payload(_) | Body::Record(_) => None,
    };
    let (value, value_base64) = match &item.row.body {
        Body::Json(line) if row.is_none() => text_or_base64(Some(line)),
        Body::Payload(payload) => text_or_base64(payload.as_deref()),
        Body::Json(_) | Body::Record(_) => (None, None),
    };
    let record = match &item.row.body {
        Body::Record(record) => Some(ShownRecord::of(record)),
        Body::Json(_) | Body::Payload(_) => None,
    };
    let line = Line {
        topic: &chosen.partition.topic,
        partition: chosen.partition.partition,
        offset: item.told.offset,
        event_time: item.told.event_ms.map(render_instant),
        object: &chosen.object.key,
        index: item.row.index,
        row,
        record,
        value,
        value_base64,
    };
    serde_json::to_writer(&mut *out, &line).expect("text, numbers and JSON, and a Vec");
    out.push(b'\n');
}
