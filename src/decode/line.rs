//! Lines by their pattern: regular expressions and grok.

use super::text::{Values, line};
use super::{DecodeError, Decoder, Rows};
use crate::layout::TextFields;
use crate::parse::text::quote;
use crate::record::Record;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

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
    /// In the order of their names; each with what the library calls the groups that it stands at.
    names: BTreeMap<String, Vec<String>>,
    values: Values,
}

impl Grok {
    pub(super) fn new(source: &str, patterns: &BTreeMap<String, String>, fields: &TextFields) -> Result<Self, String> {
        let mut known = grok::Grok::with_default_patterns();
        for (name, pattern) in patterns {
            known.add_pattern(name.clone(), pattern.clone());
        }
        let pattern = known.compile(source, true).map_err(|error| last_line(&error.to_string()))?;
        if let Some((name, kind)) = pattern.capture_names().find_map(|name| Some((name, pattern.get_extract(name)?))) {
            return Err(format!(
                "the type of {name} stands in types = {{ {name} = … }}, not in the pattern (`:{kind}`)"
            ));
        }
        let names = by_field(&pattern);
        let texts: Vec<&str> = std::iter::once(source).chain(patterns.values().map(String::as_str)).collect();
        let has = |part: String| texts.iter().any(|text| text.contains(&part));
        // The library forgets all groups of a name but one where some are written `(?<name>…)`.
        let is_both = |name: &&String| {
            (has(format!("(?<{name}>")) || has(format!("(?P<{name}>")))
                && [":{name}}", ":{name}="].iter().any(|end| has(end.replace("{name}", name)))
        };
        if let Some(name) = names.keys().find(is_both) {
            return Err(format!(
                "the field {name} is both a group (?<{name}>…) and %{{…:{name}}}: one way for all of them"
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
        Some(self.names.keys().cloned().collect())
    }

    fn decode(&self, _: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let found = self.pattern.match_against(line(payload)?).ok_or_else(no_match)?;
        let mut fields = Vec::with_capacity(self.names.len());
        for (name, groups) in &self.names {
            let mut matched = groups.iter().filter_map(|group| found.get(group));
            let value = matched.next();
            if matched.next().is_some() {
                return Err(DecodeError(format!(
                    "the field {} is in the pattern more than once, and more than one of them matched",
                    quote(name)
                )));
            }
            fields.push((name.as_str(), value));
        }
        add(fields.into_iter(), &self.values, rows)
    }
}

/// The groups of `pattern` by the fields that they stand for. The library calls the ones behind the first `field[1]`,
/// `field[2]` and so on.
fn by_field(pattern: &grok::Pattern) -> BTreeMap<String, Vec<String>> {
    let groups: BTreeSet<&str> = pattern.capture_names().collect();
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for &group in &groups {
        let repeated = group.strip_suffix(']').and_then(|name| name.rsplit_once('[')).filter(|(name, count)| {
            groups.contains(name) && !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit())
        });
        let field = repeated.map_or(group, |(name, _)| name);
        fields.entry(field.to_string()).or_default().push(group.to_string());
    }
    fields
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
