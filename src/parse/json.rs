//! Finds fields in JSON payloads without building a value: the hot path of every JSON archive.
//!
//! # Guarantees
//! - **J-1** With `validate`, what is accepted is exactly one JSON value (RFC 8259) in valid UTF-8, at most
//!   [`DEPTH_MAX`] levels deep, with nothing but white space around it. Numbers may be of any size and `\u` escapes
//!   may be lone surrogates, as the RFC's grammar has it: the text is kept, not converted.
//! - **J-2** Without, the payload is still valid UTF-8 and not too deep, and is checked up to the last wanted field.
//! - **J-3** Of names that repeat in one object, the first counts. Escapes in names count as what they stand for.
//! - **J-4** No allocation for a good payload, unless more than [`INLINE_CAPTURES`] fields are wanted, names have escapes,
//!   or reading stops before the end.
//!
//! Why serde_json: for the whole of a 392-byte access log it takes 215 ns, sonic-rs 0.5.10 (SSE2, no native CPU) 212. On a
//! slower day, side by side: the whole check 400 ns, one field and the whole check here 530 (620 with names read as raw
//! values and brackets counted byte by byte); of these 55 are UTF-8, which simdutf8 does not do faster at that length.

use super::ParseError;
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::fmt;

/// Most levels of arrays and objects. serde_json's own limit, here also for what is only passed over: whoever decodes
/// the text later needs no stack for more.
pub const DEPTH_MAX: usize = 127;

/// Fields captured without an allocation.
pub const INLINE_CAPTURES: usize = 8;

/// Which fields to find, compiled. Shared by all threads.
#[derive(Clone, Debug)]
pub struct JsonScan {
    root: Level,
    fields: usize,
    validate: bool,
}

/// The names of interest in one object.
#[derive(Clone, Debug, Default)]
struct Level {
    names: Vec<Name>,
}

#[derive(Clone, Debug)]
struct Name {
    name: String,
    /// The field itself is wanted, under these indexes.
    captures: Vec<usize>,
    /// Fields below it are wanted.
    below: Option<Level>,
}

/// The raw JSON text of each wanted field of one payload, in the order in which they were asked for.
#[derive(Clone, Debug)]
pub struct Captures<'a> {
    inline: [Option<&'a str>; INLINE_CAPTURES],
    /// All of them, where there are more than fit inline.
    spilled: Vec<Option<&'a str>>,
    len: usize,
}

impl<'a> Captures<'a> {
    /// Room for nothing; [`JsonScan::scan`] makes the room it needs.
    pub fn new() -> Self {
        Self { inline: [None; INLINE_CAPTURES], spilled: Vec::new(), len: 0 }
    }

    /// The raw text of each field, white space around it removed; `None` where the payload has no such field.
    /// Strings come with their quotes and escapes, an explicit `null` as `null`.
    pub fn as_slice(&self) -> &[Option<&'a str>] {
        if self.len <= INLINE_CAPTURES { &self.inline[..self.len] } else { &self.spilled }
    }

    fn reset(&mut self, len: usize) {
        self.len = len;
        self.inline = [None; INLINE_CAPTURES];
        self.spilled.clear();
        if len > INLINE_CAPTURES {
            self.spilled.resize(len, None);
        }
    }

    fn slot(&mut self, index: usize) -> &mut Option<&'a str> {
        if self.len <= INLINE_CAPTURES { &mut self.inline[index] } else { &mut self.spilled[index] }
    }
}

impl Default for Captures<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonScan {
    /// Looks for `fields`, each a path of names from the outermost object inwards; arrays are not entered. With
    /// `validate` payloads are checked to their end (J-1), else only as far as the fields are found (J-2).
    pub fn new(fields: &[Vec<String>], validate: bool) -> Self {
        let mut root = Level::default();
        for (index, path) in fields.iter().enumerate() {
            root.add(path, index);
        }
        Self { root, fields: fields.len(), validate }
    }

    /// Checks `payload` and finds the fields. Returns its JSON text without white space around it; `found` then holds
    /// each field's raw text in the order given to [`JsonScan::new`]. A payload that is no object has no fields.
    ///
    /// # Errors
    /// [`ParseError`]: the record is a dead letter; `found` is meaningless.
    pub fn scan<'a>(&self, payload: &'a [u8], found: &mut Captures<'a>) -> Result<&'a str, ParseError> {
        found.reset(self.fields);
        let text = match std::str::from_utf8(payload) {
            Ok(text) => text,
            Err(error) => return Err(ParseError::NotUtf8 { at: error.valid_up_to() }),
        };
        let (start, text) = trim(text);
        if text.is_empty() {
            return Err(ParseError::Empty);
        }
        let mut result = self.root.scan(text, found, self.validate, NamesAs::Strings);
        if result.is_err() {
            // A name that is no string, with a lone surrogate, is still a name.
            found.reset(self.fields);
            result = self.root.scan(text, found, self.validate, NamesAs::Raw);
        }
        // Brackets are counted before depth is: hardly any payload has so many.
        let too_deep = if opening_brackets(text) > DEPTH_MAX { first_too_deep(text) } else { None };
        match (result, too_deep) {
            (Err(error), None) => Err(position(error, text, start)),
            (_, Some(at)) => Err(ParseError::TooDeep { at: start + at, depth_max: DEPTH_MAX }),
            (Ok(()), None) => Ok(text),
        }
    }
}

impl Level {
    fn add(&mut self, path: &[String], index: usize) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = self.names.iter().position(|known| known.name == *first).unwrap_or_else(|| {
            self.names.push(Name { name: first.clone(), captures: Vec::new(), below: None });
            self.names.len() - 1
        });
        let name = &mut self.names[at];
        if rest.is_empty() {
            name.captures.push(index);
        } else {
            name.below.get_or_insert_default().add(rest, index);
        }
    }

    /// Reads one JSON text. With `to_end` false, stops once every name was seen.
    fn scan<'a>(
        &self,
        text: &'a str,
        found: &mut Captures<'a>,
        to_end: bool,
        names_as: NamesAs,
    ) -> Result<(), serde_json::Error> {
        let is_object = text.starts_with('{');
        let mut reader = serde_json::Deserializer::from_str(text);
        if self.names.is_empty() || !is_object {
            if !to_end {
                return Ok(());
            }
            reader.deserialize_ignored_any(IgnoredAny)?;
            return reader.end();
        }
        let mut stopped = false;
        let fields = Fields { level: self, found, to_end, names_as, stopped: &mut stopped };
        match reader.deserialize_map(fields) {
            Ok(()) if to_end => reader.end(),
            // A visitor that stops early is an error to serde_json.
            Err(_) if stopped => Ok(()),
            result => result,
        }
    }

    /// Which of the names `name` is.
    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|wanted| wanted.name == name)
    }

    /// The same for a name as it stands in the payload; one with a lone surrogate is none of them.
    fn raw_position(&self, raw_name: &str) -> Option<usize> {
        self.position(&serde_json::from_str::<String>(raw_name).ok()?)
    }
}

/// How names are read.
#[derive(Clone, Copy, Debug)]
enum NamesAs {
    /// As strings: quick, and refuses lone surrogates.
    Strings,
    /// As they stand in the payload.
    Raw,
}

/// Reads a name as a string, and tells which of a level's names it is.
struct Position<'l>(&'l Level);

impl<'a> DeserializeSeed<'a> for Position<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, name: D) -> Result<Option<usize>, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Position<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.position(name))
    }
}

/// Walks through the members of one object.
struct Fields<'l, 'f, 'a> {
    level: &'l Level,
    found: &'f mut Captures<'a>,
    to_end: bool,
    names_as: NamesAs,
    /// Set when the walk ended before the object did.
    stopped: &'f mut bool,
}

impl<'a> Visitor<'a> for Fields<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<(), M::Error> {
        let mut seen = Seen::new(self.level.names.len());
        while let Some(position) = match self.names_as {
            NamesAs::Strings => members.next_key_seed(Position(self.level))?,
            NamesAs::Raw => members.next_key::<&'a RawValue>()?.map(|raw_name| self.level.raw_position(raw_name.get())),
        } {
            let Some(position) = position.filter(|position| seen.first_time(*position)) else {
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = members.next_value::<&'a RawValue>()?.get();
            let name = &self.level.names[position];
            for index in &name.captures {
                *self.found.slot(*index) = Some(value);
            }
            if let Some(below) = &name.below {
                // The value has just been checked, so this only finds.
                below.scan(value, self.found, false, self.names_as).map_err(serde::de::Error::custom)?;
            }
            if !self.to_end && seen.all() {
                *self.stopped = true;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Which names of a level have been seen.
struct Seen {
    left: usize,
    first_64: u64,
    more: Vec<bool>,
}

impl Seen {
    fn new(names: usize) -> Self {
        Self { left: names, first_64: 0, more: vec![false; names.saturating_sub(64)] }
    }

    /// Notes that name `position` was seen; whether it had not been before.
    fn first_time(&mut self, position: usize) -> bool {
        let before = match position.checked_sub(64) {
            None => {
                let before = self.first_64 >> position & 1 == 1;
                self.first_64 |= 1 << position;
                before
            }
            Some(position) => std::mem::replace(&mut self.more[position], true),
        };
        self.left -= usize::from(!before);
        !before
    }

    fn all(&self) -> bool {
        self.left == 0
    }
}

/// `text` without JSON's white space around it, and where that starts.
fn trim(text: &str) -> (usize, &str) {
    const WHITE: [char; 4] = [' ', '\t', '\n', '\r'];
    let rest = text.trim_start_matches(WHITE);
    (text.len() - rest.len(), rest.trim_end_matches(WHITE))
}

/// How many `[` and `{` there are, wherever: at least as many as levels. Stops counting where depth must be looked at.
fn opening_brackets(text: &str) -> usize {
    memchr::memchr2_iter(b'[', b'{', text.as_bytes()).take(DEPTH_MAX + 1).count()
}

/// Levels of arrays and objects in `text`, which is valid JSON.
pub fn levels(text: &str) -> usize {
    let mut most = 0;
    nesting(text, |_, depth| {
        most = most.max(depth);
        true
    });
    most
}

/// The first bracket that opens more than [`DEPTH_MAX`] levels.
fn first_too_deep(text: &str) -> Option<usize> {
    let mut found = None;
    nesting(text, |at, depth| {
        found = (depth > DEPTH_MAX).then_some(at);
        found.is_none()
    });
    found
}

/// Calls `opened` with each bracket that opens a level, and that level from 1, until it says no.
fn nesting(text: &str, mut opened: impl FnMut(usize, usize) -> bool) {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if !opened(at, depth) {
                    return;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// Where and why serde_json stopped reading `text`, which starts at byte `start` of the payload.
fn position(error: serde_json::Error, text: &str, start: usize) -> ParseError {
    if error.classify() == Category::Eof {
        return ParseError::Truncated { bytes: start + text.len() };
    }
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let at = start + (line_start + error.column().saturating_sub(1)).min(text.len());
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    if what == "trailing characters" {
        return ParseError::Trailing { at };
    }
    ParseError::Syntax { at, what: what.to_string() }
}

#[cfg(test)]
mod tests;
