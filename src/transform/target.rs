//! What a program runs on: the row and its record, and what of the row it must not lose.

use crate::decode::DecodeError;
use crate::parse::text::quote;
use vrl::compiler::{SecretTarget, Target, TargetValue};
use vrl::path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix};
use vrl::value::{Secrets, Value};

/// A row while a program runs on it.
#[derive(Debug)]
pub(super) struct Row {
    target: TargetValue,
    is_assigned: bool,
    lost: Option<String>,
}

impl Row {
    pub(super) fn new(row: Value, record: Value) -> Self {
        let target = TargetValue { value: row, metadata: record, secrets: Secrets::default() };
        Self { target, is_assigned: false, lost: None }
    }

    /// What the program made of it, and whether it assigned `.` as a whole.
    ///
    /// # Errors
    /// VRL would have made an object or an array of what was none, without a word: the program assigned a part of it.
    pub(super) fn finish(self) -> Result<(Value, bool), DecodeError> {
        match self.lost {
            None => Ok((self.target.value, self.is_assigned)),
            Some(reason) => Err(DecodeError(reason)),
        }
    }
}

/// Of `path` the place of a value that has no parts, where assigning `path` would put something with parts in its place.
fn in_the_way<'v>(root: &'v Value, path: &OwnedValuePath) -> Option<(String, &'v Value)> {
    let mut value = root;
    for (depth, segment) in path.segments.iter().enumerate() {
        let inner = match (segment, value) {
            (OwnedSegment::Field(name), Value::Object(fields)) => fields.get(name),
            (OwnedSegment::Index(index), Value::Array(elements)) => match usize::try_from(*index) {
                Ok(index) => elements.get(index),
                Err(_) => elements.len().checked_sub(index.unsigned_abs()).and_then(|index| elements.get(index)),
            },
            // Null is what is not there; a row of null is a row.
            (_, Value::Null) if depth > 0 => return None,
            _ => {
                let place = OwnedValuePath { segments: path.segments[..depth].to_vec() };
                return Some((place.to_string(), value));
            }
        };
        value = inner?;
    }
    None
}

impl Target for Row {
    fn target_insert(&mut self, path: &OwnedTargetPath, value: Value) -> Result<(), String> {
        if path.prefix == PathPrefix::Event {
            self.is_assigned |= path.path.is_root();
            // The row is refused: a loop that goes on need not look at values again.
            if self.lost.is_some() {
                return Err("a value was in the way".to_string());
            }
            if let Some((place, found)) = in_the_way(&self.target.value, &path.path) {
                let shown = quote(&found.to_string());
                // VRL drops the error of an assignment.
                self.lost = Some(format!("the transform assigns {path}, but .{place} is {shown}, which would be lost"));
                return Err("a value is in the way".to_string());
            }
        }
        self.target.target_insert(path, value)
    }
    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        self.target.target_get(path)
    }
    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        self.target.target_get_mut(path)
    }
    fn target_remove(&mut self, path: &OwnedTargetPath, compact: bool) -> Result<Option<Value>, String> {
        self.target.target_remove(path, compact)
    }
}

impl SecretTarget for Row {
    fn get_secret(&self, key: &str) -> Option<&str> {
        self.target.get_secret(key)
    }
    fn insert_secret(&mut self, key: &str, value: &str) {
        self.target.insert_secret(key, value);
    }
    fn remove_secret(&mut self, key: &str) {
        self.target.remove_secret(key);
    }
}
