//! A record against the schema: what is accepted here can be encoded (F-3), and nothing of it is lost.
//!
//! The payload is parsed once, guided by the schema, and written as a row (see [`super::row`]) that holds only columns.
//! Nothing is guessed later:
//!
//! | column | takes | in the row |
//! |---|---|---|
//! | `Bool` | true, false | boolean |
//! | `Int64` | numbers whose value is an integer of 64 bits, `1.0` and `1e3` too | integer |
//! | `Float64` | numbers that a double tells back digit by digit; `"NaN"`, `"Infinity"`, `"-Infinity"` | double |
//! | `String` | strings; numbers and booleans as their JSON text | text |
//! | `Json` | anything, as it is written, but half surrogate pairs (`"\ud800"`): DuckDB refuses a file that holds one | text |
//! | `Bytes` | standard base64, padded or not | bytes |
//! | `Date` | `YYYY-MM-DD` | days since 1970-01-01 |
//! | `Timestamp` | numbers (epoch in the column's unit, else as [`crate::parse::timestamp`] tells it by size; 0 in any), RFC 3339; years 1 to 9999; finer than a microsecond is cut off downwards | microseconds |
//! | `Decimal` | numbers and numeric strings with no more digits than declared, trailing zeros aside | units of the last digit |
//! | `Struct`, `Map` | objects | fields, entries |
//! | `List` | arrays | elements |
//!
//! The rule behind the table: a value is taken where the column can tell it back, and else makes the record a dead letter.
//! Of a number only the way of writing may change (`1.0`, `1e3`, the sign of an integer zero). The one exception is what
//! the type itself says: a `Timestamp` has microseconds. Numbers, column by column (`—` is a dead letter):
//!
//! | number | `Int64` | `Float64` | `Decimal(5, 2)` | `Timestamp` in `s` | `Timestamp` | `String`, `Json` |
//! |---|---|---|---|---|---|---|
//! | `15`, `1.5e1` | 15 | 15 | 15.00 | 15 s | — | as written |
//! | `1.5` | — | 1.5 | 1.50 | 1.5 s | — | as written |
//! | `-0` | 0 | -0 | 0.00 | 1970 | 1970 | as written |
//! | `0.001` | — | 0.001 | — | 1 ms | — | as written |
//! | `1e-400` | — | — | — | 1970 | — | as written |
//! | `1e38` | — | 1e38 | — | — | — | as written |
//! | `1e400` | — | — | — | — | — | as written |
//! | `9007199254740993`, 2^53 + 1 | itself | — | — | — | 2255 (µs) | as written |
//! | `9223372036854775808`, 2^63 | — | itself | — | — | 2262 (ns) | as written |
//! | `0.30000000000000004`, a double's 17 digits | — | itself | — | 0.3 s | — | as written |
//! | `0.12345678901234567`, between two doubles | — | — | — | 0.123456 s | — | as written |
//! | `1763712000.123456789` | — | — | — | to the µs | to the µs | as written |
//!
//! `Bool`, `Date` and `Bytes` take no numbers. There are no columns of 32 bits.
//!
//! A null or missing field is null in the column; a required one makes the record a dead letter. So does a name that
//! an object has twice: no reader agrees on which of the two counts.
//!
//! A kept Kafka timestamp must lie in the years 1 to 9999 too: others make a file unreadable.
//!
//! `_rest` mirrors the payload with only what no column took: an unknown field inside a known struct stands under that
//! struct's name, inside a list under the element's index, inside a map under its key.
//!
//! A payload that does not pass is parsed a second time, value by value as text: only then an error can quote what it
//! found, and only so a number can become text. Both ways accept the same (the tests compare them).
//!
//! Error texts name the path and quote at most 40 characters of a value.

mod visit;

use super::kept::KeptColumns;
use super::row::{END, NULL, VALUE, push_bytes, push_field};
use super::scalar::{Scalar, json};
use crate::format::object::not_json;
use crate::format::{Row, RowError};
use crate::layout::{Column, ColumnKind, Keep, UnknownFields};
use crate::parse::text::{quote, write_json_string};
use serde::de::Deserializer as _;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use visit::{Elements, Entries, Members};

/// The schema as the walk needs it.
pub(super) struct RowCheck {
    fields: Fields,
    kept: KeptColumns,
    unknown: UnknownFields,
}

struct Fields {
    list: Vec<Field>,
    /// Looked up, never iterated.
    by_name: HashMap<String, usize>,
    has_required: bool,
    /// Number of the first of them in the row or struct.
    first: usize,
}

struct Field {
    name: String,
    nullable: bool,
    kind: Kind,
    /// Values of columns that one of it makes, whether they are there or not; elements of lists in it are not counted.
    cells: usize,
    /// A `String` column that was seen with other values: read as text at once. Decides the way, never the result.
    has_others: AtomicBool,
}

enum Kind {
    Scalar(Scalar),
    Struct(Fields),
    List(Box<Field>),
    Map(Box<Field>),
}

impl Fields {
    fn new(columns: &[Column], first: usize) -> Self {
        let list: Vec<Field> = columns.iter().map(Field::new).collect();
        let by_name = list.iter().enumerate().map(|(index, field)| (field.name.clone(), index)).collect();
        let has_required = list.iter().any(|field| !field.nullable);
        Self { list, by_name, has_required, first }
    }

    /// Index of `name`. Producers keep their order, so `expected` is nearly always right.
    fn position(&self, name: &str, expected: usize) -> Option<usize> {
        match self.list.get(expected) {
            Some(field) if field.name == name => Some(expected),
            _ => self.by_name.get(name).copied(),
        }
    }
}

impl Field {
    fn new(column: &Column) -> Self {
        let kind = match &column.kind {
            ColumnKind::Struct(columns) => Kind::Struct(Fields::new(columns, 0)),
            ColumnKind::List(element) => Kind::List(Box::new(Self::new(element))),
            ColumnKind::Map(value) => Kind::Map(Box::new(Self::new(value))),
            ColumnKind::Bool => Kind::Scalar(Scalar::Bool),
            ColumnKind::Int64 => Kind::Scalar(Scalar::Int64),
            ColumnKind::Float64 => Kind::Scalar(Scalar::Float64),
            ColumnKind::String => Kind::Scalar(Scalar::String),
            ColumnKind::Bytes => Kind::Scalar(Scalar::Bytes),
            ColumnKind::Json => Kind::Scalar(Scalar::Json),
            ColumnKind::Date => Kind::Scalar(Scalar::Date),
            ColumnKind::Timestamp { unit } => Kind::Scalar(Scalar::Timestamp(*unit)),
            ColumnKind::Decimal { precision, scale } => {
                Kind::Scalar(Scalar::Decimal { precision: *precision, scale: scale.unsigned_abs() })
            }
        };
        let cells = match &kind {
            Kind::Struct(fields) => fields.list.iter().map(|field| field.cells).sum::<usize>().max(1),
            Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => 1,
        };
        Self { name: column.name.clone(), nullable: column.nullable, kind, cells, has_others: AtomicBool::new(false) }
    }
}

impl RowCheck {
    /// Prepares the walk for columns that have passed [`super::schema::check_columns`].
    pub(super) fn new(columns: &[Column], keep: Option<&Keep>, unknown: UnknownFields) -> Self {
        let kept = KeptColumns::new(keep);
        Self { fields: Fields::new(columns, kept.len()), kept, unknown }
    }

    /// Adds the row of a record whose payload is `json` (`None`: a tombstone, all of its columns null), and returns
    /// the number of fields dropped. What it accepts is exactly one JSON value.
    ///
    /// # Errors
    /// The record does not fit the schema, or is no JSON. `rows` may then end in a broken row: the caller cuts it off.
    pub(super) fn append(&self, row: &Row<'_>, json: Option<&str>, rows: &mut Vec<u8>) -> Result<u32, RowError> {
        self.kept.write(row.record, rows)?;
        let start = rows.len();
        let dropped = match json {
            None => {
                let mut walk = Walk::new(self.unknown, true, 0, rows);
                walk.check_required(&self.fields, None, &Seen::default()).map_err(|Refused| walk.reason())?;
                0
            }
            Some(text) => {
                if !text.trim_ascii_start().starts_with('{') {
                    return Err(RowError(format!("the payload is no object but {}", quote(text))));
                }
                match self.payload(text, false, rows) {
                    Ok(dropped) => dropped,
                    Err(_) => {
                        rows.truncate(start);
                        self.payload(text, true, rows)?
                    }
                }
            }
        };
        rows.push(END);
        Ok(dropped)
    }

    /// Adds the fields of the object `text`, by type or all `as_text`, and returns how many were dropped.
    pub(super) fn payload(&self, text: &str, as_text: bool, rows: &mut Vec<u8>) -> Result<u32, RowError> {
        let mut walk = Walk::new(self.unknown, as_text, text.len(), rows);
        if walk.object(&self.fields, None, text).is_err() {
            return Err(walk.reason());
        }
        let Walk { mut rest, dropped, rows, .. } = walk;
        if !rest.is_empty() {
            rest.push('}');
            push_field(self.fields.first + self.fields.list.len(), rows);
            push_bytes(rest.as_bytes(), rows);
        }
        Ok(dropped)
    }
}

/// A step into the payload, from the object or array around it.
#[derive(Clone, Copy)]
enum Step<'p> {
    Name(&'p str),
    Index(usize),
}

/// A container on the way from the payload's root, which is none itself.
#[derive(Clone, Copy)]
struct Place<'p> {
    around: Option<&'p Place<'p>>,
    step: Step<'p>,
    /// Steps from the root to here.
    depth: usize,
}

impl<'p> Place<'p> {
    fn new(around: Option<&'p Place<'p>>, step: Step<'p>) -> Self {
        Self { around, step, depth: around.map_or(0, |around| around.depth) + 1 }
    }
}

/// Steps from the root to `place`.
fn steps<'p>(place: Option<&'p Place<'p>>) -> Vec<Step<'p>> {
    let mut steps: Vec<Step<'p>> = std::iter::successors(place, |place| place.around).map(|place| place.step).collect();
    steps.reverse();
    steps
}

/// The walk has ended; [`Walk::reason`] says why.
struct Refused;

/// One record's way through the schema.
struct Walk<'r> {
    rows: &'r mut Vec<u8>,
    unknown: UnknownFields,
    /// Every value is taken as text first.
    as_text: bool,
    /// `_rest` so far, without its last braces; empty as long as there is nothing to keep.
    rest: String,
    /// Steps of the current place that are open objects in `rest`.
    open: usize,
    dropped: u32,
    /// Values that elements may still make.
    cells_left: usize,
    reason: Option<RowError>,
}

/// Values of columns that the elements of lists and maps in a record may make: so many, and so many for each byte of it. An element that
/// leaves all of its fields out makes as many as it has fields, of a few bytes of payload.
const CELLS_MIN: usize = 1 << 18;
const CELLS_OF_A_BYTE: usize = 16;

impl<'r> Walk<'r> {
    fn new(unknown: UnknownFields, as_text: bool, bytes: usize, rows: &'r mut Vec<u8>) -> Self {
        let cells_left = bytes.saturating_mul(CELLS_OF_A_BYTE).max(CELLS_MIN);
        Self { rows, unknown, as_text, rest: String::new(), open: 0, dropped: 0, cells_left, reason: None }
    }

    /// Why the walk ended; where nobody said so it was the first walk, whose reasons nobody reads.
    fn reason(&mut self) -> RowError {
        self.reason.take().unwrap_or_else(|| RowError("the payload does not fit the schema".to_string()))
    }

    /// Reads `text`, an object, as fields of `fields`.
    fn object(&mut self, fields: &Fields, place: Option<&Place<'_>>, text: &str) -> Result<(), Refused> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let outcome = reader.deserialize_map(Members { walk: &mut *self, fields, place }).and_then(|()| reader.end());
        outcome.map_err(|broken| self.note(&broken))
    }

    /// Reads `text` as what `field` takes.
    fn value(
        &mut self,
        field: &Field,
        parent: Option<&Place<'_>>,
        step: Step<'_>,
        lead: Lead,
        text: &str,
    ) -> Result<(), Refused> {
        if text == "null" {
            return self.null(field, parent, step, lead);
        }
        let place = Place::new(parent, step);
        match (&field.kind, text.as_bytes().first()) {
            (Kind::Scalar(scalar), _) => {
                lead.value(self.rows);
                scalar.write(text, self.rows).map_err(|what| self.refuse(parent, step, &what))
            }
            (Kind::Struct(fields), Some(b'{')) => {
                lead.value(self.rows);
                self.object(fields, Some(&place), text)?;
                self.leave(&place);
                Ok(())
            }
            (Kind::Map(values), Some(b'{')) => {
                lead.value(self.rows);
                let mut reader = serde_json::Deserializer::from_str(text);
                let entries = Entries { walk: &mut *self, values, place: &place };
                let outcome = reader.deserialize_map(entries).and_then(|()| reader.end());
                outcome.map_err(|broken| self.note(&broken))?;
                self.leave(&place);
                Ok(())
            }
            (Kind::List(element), Some(b'[')) => {
                lead.value(self.rows);
                let mut reader = serde_json::Deserializer::from_str(text);
                let elements = Elements { walk: &mut *self, element, place: &place };
                let outcome = reader.deserialize_seq(elements).and_then(|()| reader.end());
                outcome.map_err(|broken| self.note(&broken))?;
                self.leave(&place);
                Ok(())
            }
            (Kind::Struct(_) | Kind::Map(_), _) => Err(self.refuse(parent, step, &expected("an object", text))),
            (Kind::List(_), _) => Err(self.refuse(parent, step, &expected("an array", text))),
        }
    }

    /// Counts one more element.
    fn element(&mut self, element: &Field, place: &Place<'_>, step: Step<'_>) -> Result<(), Refused> {
        match self.cells_left.checked_sub(element.cells) {
            Some(left) => {
                self.cells_left = left;
                Ok(())
            }
            None => Err(self.refuse(
                Some(place),
                step,
                "the elements before it make too many values for a record of its size",
            )),
        }
    }

    fn null(&mut self, field: &Field, parent: Option<&Place<'_>>, step: Step<'_>, lead: Lead) -> Result<(), Refused> {
        if !field.nullable {
            return Err(self.refuse(parent, step, "the column is required, the value is null"));
        }
        lead.null(self.rows);
        Ok(())
    }

    /// Leaves the container `place`, in the row and in `_rest`.
    fn leave(&mut self, place: &Place<'_>) {
        self.rows.push(END);
        if self.open >= place.depth {
            self.rest.push('}');
            self.open = place.depth - 1;
        }
    }

    /// What becomes of a field that has no column.
    fn put_aside(&mut self, place: Option<&Place<'_>>, name: &str, value: &str) -> Result<(), Refused> {
        match self.unknown {
            UnknownFields::DeadLetter => Err(self.refuse(place, Step::Name(name), "the schema has no such field")),
            UnknownFields::Drop => {
                self.dropped = self.dropped.saturating_add(1);
                Ok(())
            }
            UnknownFields::Rest => {
                json(value).map_err(|what| self.refuse(place, Step::Name(name), &what))?;
                if self.rest.is_empty() {
                    self.rest.push('{');
                }
                let steps = steps(place);
                for step in &steps[self.open..] {
                    match step {
                        Step::Name(name) => push_member(&mut self.rest, name, "{"),
                        Step::Index(index) => push_member(&mut self.rest, &index.to_string(), "{"),
                    }
                }
                self.open = steps.len();
                push_member(&mut self.rest, name, value);
                Ok(())
            }
        }
    }

    fn check_required(&mut self, fields: &Fields, place: Option<&Place<'_>>, seen: &Seen) -> Result<(), Refused> {
        if !fields.has_required {
            return Ok(());
        }
        for (index, field) in fields.list.iter().enumerate() {
            if !field.nullable && !seen.contains(index) {
                let what = "the column is required, the field is missing";
                return Err(self.refuse(place, Step::Name(&field.name), what));
            }
        }
        Ok(())
    }

    /// Ends the walk at `step` inside `parent`.
    #[cold]
    fn refuse(&mut self, parent: Option<&Place<'_>>, step: Step<'_>, what: &str) -> Refused {
        let mut path = String::new();
        for part in steps(parent).into_iter().chain([step]) {
            match part {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Name(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(quote(name).trim_matches('`'));
                }
            }
        }
        self.reason.get_or_insert(RowError(format!("field `{path}`: {what}")));
        Refused
    }

    /// Ends the walk where the text is no JSON, unless it has ended before.
    #[cold]
    fn note(&mut self, broken: &serde_json::Error) -> Refused {
        self.reason.get_or_insert_with(|| not_json(broken));
        Refused
    }
}

/// What stands in the row before a value.
#[derive(Clone, Copy)]
enum Lead {
    /// The field's number; a null is left out.
    Field(usize),
    /// Whether there is one.
    Element,
}

impl Lead {
    #[inline]
    fn value(self, rows: &mut Vec<u8>) {
        match self {
            Self::Field(number) => push_field(number, rows),
            Self::Element => rows.push(VALUE),
        }
    }

    fn null(self, rows: &mut Vec<u8>) {
        match self {
            Self::Field(_) => {}
            Self::Element => rows.push(NULL),
        }
    }
}

pub(super) fn expected(wanted: &str, text: &str) -> String {
    format!("expected {wanted}, found {}", quote(text))
}

/// Adds `"name":value` to an object without its closing brace.
fn push_member(object: &mut String, name: &str, value: &str) {
    if !object.ends_with('{') {
        object.push(',');
    }
    let mut text = Vec::new();
    write_json_string(name, &mut text);
    object.push_str(std::str::from_utf8(&text).expect("JSON of a string is UTF-8"));
    object.push(':');
    object.push_str(value);
}

/// The first of `names`, in their own order, that is there twice.
fn first_repeated<'a>(names: &mut [Cow<'a, str>]) -> Option<Cow<'a, str>> {
    if names.len() < 2 {
        return None;
    }
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
}

/// Fields of a struct that were there.
#[derive(Default)]
struct Seen {
    /// The first 64.
    low: u64,
    high: Vec<u64>,
}

impl Seen {
    /// Adds `index`; false where it was there.
    fn insert(&mut self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        let word = match (index / 64).checked_sub(1) {
            None => &mut self.low,
            Some(at) => {
                if self.high.len() <= at {
                    self.high.resize(at + 1, 0);
                }
                &mut self.high[at]
            }
        };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn contains(&self, index: usize) -> bool {
        let word = match (index / 64).checked_sub(1) {
            None => self.low,
            Some(at) => self.high.get(at).copied().unwrap_or_default(),
        };
        word & (1 << (index % 64)) != 0
    }
}
