//! Lines by their pattern: regular expressions and grok.

use super::text::{Values, line};
use super::{DecodeError, Decoder, Rows};
use crate::layout::TextFields;
use crate::record::Record;
use regex::Regex;
use std::collections::BTreeMap;

/// A regular expression with named groups. Matching takes time in proportion to the line, whatever the line.
pub(super) struct Regular {
    pattern: Regex,
    values: Values,
}

impl Regular {
    pub(super) fn new(pattern: &str, fields: &TextFields) -> Result<Self, String> {
        let pattern = Regex::new(pattern).map_err(|error| last_line(&error.to_string()))?;
        if pattern.capture_names().flatten().next().is_none() {
            return Err("no named group: (?<name>…) makes the field `name`".to_string());
        }
        Ok(Self { pattern, values: Values::new(fields) })
    }
}

impl Decoder for Regular {
    fn fields(&self) -> Option<Vec<String>> {
        Some(self.pattern.capture_names().flatten().map(str::to_string).collect())
    }

    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let found = self.pattern.captures(line(payload)?).ok_or_else(no_match)?;
        let groups =
            self.pattern.capture_names().flatten().map(|name| (name, found.name(name).map(|group| group.as_str())));
        add(groups, &self.values, rows)
    }
}

/// A grok pattern, as Logstash has them. Patterns may look around and back, so a line can take long to judge; one that takes
/// more steps than the engine allows is refused, always.
pub(super) struct Grok {
    pattern: grok::Pattern,
    /// In the order of their names.
    names: Vec<String>,
    values: Values,
}

impl Grok {
    pub(super) fn new(pattern: &str, patterns: &BTreeMap<String, String>, fields: &TextFields) -> Result<Self, String> {
        let mut known = grok::Grok::with_default_patterns();
        for (name, pattern) in patterns {
            known.add_pattern(name.clone(), pattern.clone());
        }
        let pattern = known.compile(pattern, true).map_err(|error| last_line(&error.to_string()))?;
        let mut names: Vec<String> = pattern.capture_names().map(str::to_string).collect();
        names.sort();
        names.dedup();
        if let Some((name, kind)) = names.iter().find_map(|name| Some((name, pattern.get_extract(name)?))) {
            return Err(format!(
                "the type of {name} stands in types = {{ {name} = … }}, not in the pattern (`:{kind}`)"
            ));
        }
        if names.is_empty() {
            return Err("no field: %{NAME:field} makes the field `field`".to_string());
        }
        Ok(Self { pattern, names, values: Values::new(fields) })
    }
}

impl Decoder for Grok {
    fn fields(&self) -> Option<Vec<String>> {
        Some(self.names.clone())
    }

    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let found = self.pattern.match_against(line(payload)?).ok_or_else(no_match)?;
        add(self.names.iter().map(|name| (name.as_str(), found.get(name))), &self.values, rows)
    }
}

/// Adds one row of the groups. One that took no part in the match is null.
fn add<'g>(
    groups: impl Iterator<Item = (&'g str, Option<&'g str>)>,
    values: &Values,
    rows: &mut Rows,
) -> Result<(), DecodeError> {
    rows.add(|out| {
        let mut members = out.object()?;
        for (name, value) in groups {
            out.name(&mut members, name)?;
            match value {
                Some(value) => values.write(name, value, out)?,
                None => out.raw("null"),
            }
        }
        out.end_object();
        Ok(())
    })
}

fn no_match() -> DecodeError {
    DecodeError("the payload does not match the pattern".to_string())
}

fn last_line(error: &str) -> String {
    error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string()
}
