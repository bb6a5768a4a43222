//! The rows of one record, and how values are written into them.

use super::DecodeError;
use crate::parse::json::{DEPTH_MAX, levels};
use crate::parse::text::{quote, write_base64, write_json_string};
use serde::de::IgnoredAny;
use std::collections::HashSet;
use std::ops::Range;

/// Most bytes of room that are kept for the next record: one that needed more does not decide for all that follow.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// Most bytes of all rows of a record: a small payload can unfold to very much.
pub(super) const ROWS_BYTES_MAX: usize = 64 << 20;

/// The rows of a record are more than that.
pub(super) fn too_large() -> DecodeError {
    DecodeError(format!("its rows are more than {ROWS_BYTES_MAX} bytes"))
}

/// JSON texts in order. Kept from record to record.
#[derive(Debug, Default)]
pub struct Rows {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Rows {
    /// Forgets all rows. Keeps the room that they took, as far as it is not more than [`KEPT_BYTES_MAX`].
    pub fn clear(&mut self) {
        if self.bytes() > KEPT_BYTES_MAX {
            *self = Self::default();
        }
        self.text.clear();
        self.ends.clear();
    }

    /// Bytes of room, used or not.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let row = &self.text[start..end];
            start = end;
            std::str::from_utf8(row).expect("decoders write text")
        })
    }

    /// Row `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        Some(std::str::from_utf8(&self.text[start..*self.ends.get(index)?]).expect("decoders write text"))
    }

    /// Forgets all but the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Adds the row that `write` writes, or none where that fails.
    ///
    /// # Errors
    /// What `write` says.
    pub fn add(&mut self, write: impl FnOnce(&mut Writer<'_>) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        let written = write(&mut Writer { out: &mut self.text, depth: 0 });
        let written = written.and_then(|()| match self.text.len() > ROWS_BYTES_MAX {
            true => Err(too_large()),
            false => Ok(()),
        });
        match written {
            Ok(()) => self.ends.push(self.text.len()),
            Err(_) => self.truncate(self.ends.len()),
        }
        written
    }
}

/// Writes JSON values and refuses what [`super`]'s D-4 does not allow.
pub struct Writer<'r> {
    out: &'r mut Vec<u8>,
    depth: usize,
}

/// The members of an object that is being written.
pub struct Members {
    names: Names,
    any: bool,
}

/// Names seen: few are compared, many are looked up.
enum Names {
    Few(Vec<String>),
    Many(HashSet<String>),
}

/// From so many names on, looking up is quicker than comparing.
const NAMES_FEW: usize = 24;

impl Names {
    /// Whether `name` is new.
    fn add(&mut self, name: &str) -> bool {
        match self {
            Self::Few(seen) => {
                let is_new = !seen.iter().any(|known| known == name);
                seen.push(name.to_string());
                if seen.len() > NAMES_FEW {
                    *self = Self::Many(seen.drain(..).collect());
                }
                is_new
            }
            Self::Many(seen) => seen.insert(name.to_string()),
        }
    }
}

impl<'r> Writer<'r> {
    fn deeper(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(too_deep());
        }
        Ok(())
    }

    /// Begins an object.
    pub fn object(&mut self) -> Result<Members, DecodeError> {
        self.deeper()?;
        self.out.push(b'{');
        Ok(Members { names: Names::Few(Vec::new()), any: false })
    }

    /// Writes the name of the next member; its value follows.
    pub fn name(&mut self, members: &mut Members, name: &str) -> Result<(), DecodeError> {
        if !members.names.add(name) {
            return Err(DecodeError(format!("the name {} comes twice", quote(name))));
        }
        if std::mem::replace(&mut members.any, true) {
            self.out.push(b',');
        }
        write_json_string(name, self.out);
        self.out.push(b':');
        Ok(())
    }

    /// Bytes written so far, those of other rows of the record with them.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no more may be written: [`Rows::add`] refuses it then, but a few bytes can stand for very many.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() > ROWS_BYTES_MAX
    }

    /// Puts the members of the object that is being written, all of them, in the order of their names: each with its name and
    /// where it stands, as it was written after the one before.
    pub(super) fn sort(&mut self, mut members: Vec<(String, Range<usize>)>) {
        let Some(begin) =
            members.first().map(|(_, place)| place.start).filter(|_| !members.is_sorted_by_key(|(name, _)| name))
        else {
            return;
        };
        let text = self.out.split_off(begin);
        members.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (index, (_, place)) in members.into_iter().enumerate() {
            let member = &text[place.start - begin..place.end - begin];
            if index > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(member.strip_prefix(b",").unwrap_or(member));
        }
    }

    /// Ends the object.
    pub fn end_object(&mut self) {
        self.depth -= 1;
        self.out.push(b'}');
    }

    /// Writes an array; `each` writes the element that it is given.
    pub fn array<T>(
        &mut self,
        elements: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.begin_array()?;
        for (index, element) in elements.into_iter().enumerate() {
            if index > 0 {
                self.raw(",");
            }
            each(self, element)?;
        }
        self.end_array();
        Ok(())
    }

    /// Begins an array whose elements come one by one, with commas between them.
    pub(super) fn begin_array(&mut self) -> Result<(), DecodeError> {
        self.deeper()?;
        self.out.push(b'[');
        Ok(())
    }

    pub(super) fn end_array(&mut self) {
        self.depth -= 1;
        self.out.push(b']');
    }

    /// Writes a string.
    pub fn string(&mut self, text: &str) {
        write_json_string(text, self.out);
    }

    /// Writes bytes as a string of their base64.
    pub fn base64(&mut self, bytes: &[u8]) {
        write_base64(bytes, self.out);
    }

    /// Writes a JSON text of which nothing is known yet.
    pub fn json(&mut self, text: &str) -> Result<(), DecodeError> {
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| DecodeError("not JSON".to_string()))?;
        if self.depth + levels(text) > DEPTH_MAX {
            return Err(too_deep());
        }
        self.raw(text);
        Ok(())
    }

    /// Writes what is JSON already.
    pub fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    /// Writes a number, or what Protocol Buffers write for what JSON has no number for: `"NaN"`, `"Infinity"`, `"-Infinity"`.
    pub fn float(&mut self, value: f64) {
        match (value.is_nan(), value.is_infinite(), value > 0.0) {
            (true, ..) => self.raw("\"NaN\""),
            (_, true, true) => self.raw("\"Infinity\""),
            (_, true, false) => self.raw("\"-Infinity\""),
            _ => serde_json::to_writer(&mut *self.out, &value).expect("a finite number is JSON"),
        }
    }

    /// The same with the digits that a single needs.
    pub fn single(&mut self, value: f32) {
        match value.is_finite() {
            true => serde_json::to_writer(&mut *self.out, &value).expect("a finite number is JSON"),
            false => self.float(f64::from(value)),
        }
    }
}

fn too_deep() -> DecodeError {
    DecodeError(format!("values nest deeper than {DEPTH_MAX}"))
}
