//! JSON payloads that hold several rows, or rows that are arrays.

use super::{DecodeError, Decoder, Rows};
use crate::parse::json::{DEPTH_MAX, levels};
use crate::record::Record;
use serde_json::value::RawValue;

/// JSON with `unfold` or `names`. Always reads the whole payload.
pub(super) struct Json {
    unfold: bool,
    names: Vec<String>,
}

impl Json {
    pub(super) fn new(unfold: bool, names: &[String]) -> Self {
        Self { unfold, names: names.to_vec() }
    }

    fn add(&self, value: &str, rows: &mut Rows) -> Result<(), DecodeError> {
        if !self.names.is_empty() && !value.starts_with(['[', '{']) {
            return Err(no_entry());
        }
        if self.names.is_empty() || !value.starts_with('[') {
            return rows.add(|out| {
                out.raw(value);
                Ok(())
            });
        }
        let elements = elements(value)?;
        must_be_as_many(elements.len(), &self.names)?;
        rows.add(|out| {
            let mut members = out.object()?;
            for (name, element) in self.names.iter().zip(elements) {
                out.name(&mut members, name)?;
                out.raw(element.get());
            }
            out.end_object();
            Ok(())
        })
    }
}

impl Decoder for Json {
    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let text = super::text::text(payload)?;
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        let mut count = 0;
        for value in &mut values {
            let value = value.map_err(|error| not_json(&error))?.get();
            if levels(value) > DEPTH_MAX {
                return Err(DecodeError(format!("the payload nests arrays and objects deeper than {DEPTH_MAX}")));
            }
            if count > 0 && !self.unfold {
                return Err(DecodeError(
                    "the payload holds more than one JSON value, and unfold is not set".to_string(),
                ));
            }
            count += 1;
            if !self.unfold || !value.starts_with('[') {
                self.add(value, rows)?;
                continue;
            }
            let elements = elements(value)?;
            // With names, an array of anything but arrays and objects is no list of rows, but a row.
            let is_row = elements.first().is_some_and(|first| !first.get().starts_with(['[', '{']));
            if is_row && !self.names.is_empty() {
                self.add(value, rows)?;
            } else {
                elements.into_iter().try_for_each(|element| self.add(element.get(), rows))?;
            }
        }
        if count == 0 {
            return Err(DecodeError("the payload is empty".to_string()));
        }
        Ok(())
    }
}

/// A row that `names` say nothing of.
pub(super) fn no_entry() -> DecodeError {
    DecodeError("neither an array, whose elements names could name, nor an object".to_string())
}

/// Refuses an array that `names` do not fit.
pub(super) fn must_be_as_many(elements: usize, names: &[String]) -> Result<(), DecodeError> {
    match elements == names.len() {
        true => Ok(()),
        false => Err(DecodeError(format!("an array of {elements} elements, where names has {}", names.len()))),
    }
}

fn elements(array: &str) -> Result<Vec<&RawValue>, DecodeError> {
    serde_json::from_str(array).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> DecodeError {
    let what = if error.is_eof() { "ends inside a JSON value" } else { "is not JSON" };
    DecodeError(format!("the payload {what}, at line {} column {}", error.line(), error.column()))
}
