//! How sections and values of the file are read, with all their errors.
//!
//! A [`Section`] reports unknown keys as soon as it is opened; a [`Field`] reports whatever is wrong with its value and
//! then counts as not given. So a whole file is read in one go and every problem is found.

use super::error::{ConfigError, Errors, did_you_mean, nearest};
use super::shape::{ROOT, Shape};
use super::tree::{Node, Table, Value, join};
use super::units::{SIZE_FORM, TIME_FORM, parse_size, parse_time, show_size, show_time};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A section that is being read.
pub(super) struct Section<'a> {
    table: &'a [(String, Node)],
    shape: &'static Shape,
    errors: &'a Errors,
    /// Path of the section, empty for the file itself.
    pub(super) path: String,
    /// Its line; `None` for a section that is not in the file.
    pub(super) line: Option<usize>,
    hidden: bool,
    /// It stands in the file, but is no section: that nothing is in it has been reported.
    broken: bool,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a Table, errors: &'a Errors) -> Self {
        let section =
            Self { table, shape: &ROOT, errors, path: String::new(), line: None, hidden: false, broken: false };
        section.refuse_unknown();
        section
    }

    /// The section `key`, as if empty where it is not given or not a table.
    pub(super) fn section(&self, key: &'static str, shape: &'static Shape) -> Section<'a> {
        self.field(key).and_then(|field| field.section(shape)).unwrap_or_else(|| self.nothing(key, shape))
    }

    /// The section `key` as if it were not in the file. What is missing in it is reported at the line of this one.
    pub(super) fn nothing(&self, key: &'static str, shape: &'static Shape) -> Section<'a> {
        Section {
            table: &[],
            shape,
            errors: self.errors,
            path: join(&self.path, key),
            line: self.line,
            hidden: self.hidden,
            broken: self.has(key),
        }
    }

    /// The value of `key`, where it is given and not already reported.
    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        debug_assert!(self.shape.keys.contains(&key), "{key} is missing in the shape of {}", self.shape.at);
        let (_, node) = self.table.iter().find(|(name, _)| name == key)?;
        let field = Field { node, path: join(&self.path, key), errors: self.errors, hidden: self.hidden };
        (!matches!(node.value, Value::Broken)).then_some(field)
    }

    /// Whether `key` stands in the file, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name == key)
    }

    /// Whether nothing wrong is known of these keys and what is in them.
    pub(super) fn is_sound(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.errors.within(&join(&self.path, key)))
    }

    /// Reports that something is missing here, if it cannot be the misspelt key that was reported already.
    pub(super) fn missing(&self, key: &'static str, problem: &str, allowed: &str) {
        let keys = || self.shape.keys.iter().copied();
        let is_misspelt = |name: &str| !self.shape.keys.contains(&name) && nearest(name, keys()) == Some(key);
        if self.broken || self.table.iter().any(|(name, _)| is_misspelt(name)) {
            return;
        }
        self.errors.push(ConfigError {
            key: join(&self.path, key),
            line: self.line,
            value: None,
            problem: problem.to_string(),
            allowed: Some(allowed.to_string()),
        });
    }

    /// Reports a problem between `key`, given or not, and other keys.
    pub(super) fn cross(&self, key: &'static str, problem: String, allowed: String) {
        match self.field(key) {
            Some(field) => field.wrong(problem, allowed).unwrap_or(()),
            None => self.missing(key, &problem, &allowed),
        }
    }

    fn unknown(&self, key: &str) -> String {
        let elsewhere = self.shape.elsewhere(key);
        if elsewhere.is_empty() {
            return format!("unknown key{}", did_you_mean(key, self.shape.keys.iter().copied()));
        }
        format!("not a key of {}, only of {}", self.shape.of, elsewhere.join(", "))
    }

    fn refuse_unknown(&self) {
        for (key, node) in self.table {
            if !self.shape.keys.contains(&key.as_str()) {
                self.errors.push(ConfigError {
                    key: join(&self.path, key),
                    line: Some(node.line),
                    value: None,
                    problem: self.unknown(key),
                    allowed: Some(self.shape.keys.join(", ")),
                });
            }
        }
    }
}

/// A value that is being read.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
    errors: &'a Errors,
    hidden: bool,
}

impl<'a> Field<'a> {
    /// The same value, never shown: it may be a secret.
    pub(super) fn hide(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// The same value, shown after all.
    pub(super) fn show(mut self) -> Self {
        self.hidden = false;
        self
    }

    /// Another value of the same file.
    pub(super) fn at<'b>(&self, path: &str, node: &'b Node) -> Field<'b>
    where
        'a: 'b,
    {
        Field { node, path: path.to_string(), errors: self.errors, hidden: self.hidden }
    }

    /// Reports what is wrong. Gives `None`, so that a caller can return it.
    pub(super) fn wrong<T>(&self, problem: impl Into<String>, allowed: impl Into<String>) -> Option<T> {
        self.errors.push(ConfigError {
            key: self.path.clone(),
            line: Some(self.node.line),
            value: (!self.hidden).then(|| self.node.shown()),
            problem: problem.into(),
            allowed: Some(allowed.into()),
        });
        None
    }

    /// A table whose keys are those of `shape`.
    pub(super) fn section(&self, shape: &'static Shape) -> Option<Section<'a>> {
        let Value::Table(table) = &self.node.value else {
            return self.wrong(format!("{}, where a section is needed", self.node.kind()), shape.keys.join(", "));
        };
        let section = self.over(table, shape);
        section.refuse_unknown();
        Some(section)
    }

    /// The section of `shape` as if it were empty: for a value that stands for one.
    pub(super) fn nothing(&self, shape: &'static Shape) -> Section<'a> {
        self.over(&[], shape)
    }

    fn over(&self, table: &'a [(String, Node)], shape: &'static Shape) -> Section<'a> {
        Section {
            table,
            shape,
            errors: self.errors,
            path: self.path.clone(),
            line: Some(self.node.line),
            hidden: self.hidden,
            broken: false,
        }
    }

    /// A table whose keys are the user's own.
    pub(super) fn entries(&self, needed: &str) -> Option<Vec<(&'a str, Field<'a>)>> {
        let Value::Table(table) = &self.node.value else {
            return self.wrong(format!("{}, where a section is needed", self.node.kind()), needed);
        };
        let field = |(key, node): &'a (String, Node)| {
            let path = join(&self.path, key);
            (key.as_str(), Field { node, path, errors: self.errors, hidden: self.hidden })
        };
        Some(table.iter().map(field).filter(|(_, field)| !matches!(field.node.value, Value::Broken)).collect())
    }

    /// Whether it is a table with this key, for tables whose other keys depend on it.
    pub(super) fn peek(&self, key: &str) -> Option<Field<'a>> {
        let Value::Table(table) = &self.node.value else { return None };
        let (_, node) = table.iter().find(|(name, _)| name == key)?;
        (!matches!(node.value, Value::Broken)).then(|| Field {
            node,
            path: join(&self.path, key),
            errors: self.errors,
            hidden: self.hidden,
        })
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    /// The items of a list.
    pub(super) fn list(&self, needed: &str) -> Option<Vec<Field<'a>>> {
        let Value::List(items) = &self.node.value else {
            return self.wrong(format!("{}, where a list is needed", self.node.kind()), needed);
        };
        Some(self.fields(items))
    }

    /// The items of a list, none where it is something else.
    pub(super) fn items(&self) -> Vec<Field<'a>> {
        if let Value::List(items) = &self.node.value { self.fields(items) } else { Vec::new() }
    }

    /// Whether it is a list without items.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    fn fields(&self, items: &'a [Node]) -> Vec<Field<'a>> {
        let field = |(index, node): (usize, &'a Node)| Field {
            node,
            path: format!("{}[{index}]", self.path),
            errors: self.errors,
            hidden: self.hidden,
        };
        items.iter().enumerate().map(field).filter(|field| !matches!(field.node.value, Value::Broken)).collect()
    }

    /// The items of a list, or the one value itself.
    pub(super) fn one_or_many(&self, needed: &str) -> Option<Vec<Field<'a>>> {
        if matches!(self.node.value, Value::Text(_)) { Some(vec![self.clone()]) } else { self.list(needed) }
    }

    /// A string that is not empty.
    pub(super) fn text(&self, needed: &str) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            Value::Text(_) => self.wrong("empty", needed),
            _ => self.wrong(format!("{}, where a string is needed", self.node.kind()), needed),
        }
    }

    /// A string of printable characters, all of them among `allowed`.
    pub(super) fn word(&self, most: usize, allowed: impl Fn(char) -> bool, needed: &str) -> Option<&'a str> {
        let text = self.text(needed)?;
        if let Some(odd) = text.chars().find(|c| !allowed(*c)) {
            let odd = if self.hidden || !self.node.variables.is_empty() {
                "a character".to_string()
            } else {
                format!("the character {odd:?}")
            };
            return self.wrong(format!("{odd} cannot stand here"), needed);
        }
        if text.len() > most {
            return self.wrong(format!("{} bytes long", text.len()), needed);
        }
        Some(text)
    }

    /// One of the given words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        let allowed = names().collect::<Vec<_>>().join(", ");
        let text = self.text(&allowed)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let hint = did_you_mean(text, names());
        self.wrong(format!("not one of the choices{hint}"), allowed)
    }

    /// `true` or `false`; as text where it came from a variable.
    pub(super) fn flag(&self) -> Option<bool> {
        match &self.node.value {
            Value::Flag(flag) => Some(*flag),
            Value::Text(text) if !self.node.variables.is_empty() && text == "true" => Some(true),
            Value::Text(text) if !self.node.variables.is_empty() && text == "false" => Some(false),
            _ => self.wrong(format!("{}, where true or false is needed", self.node.kind()), "true, false"),
        }
    }

    /// A whole number; as text where it came from a variable.
    pub(super) fn count(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let allowed = format!("{} to {}", grouped(*range.start()), grouped(*range.end()));
        let number = match &self.node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if !self.node.variables.is_empty() => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            return self.wrong(format!("{}, where a whole number is needed", self.node.kind()), allowed);
        };
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => self.wrong("out of range", allowed),
        }
    }

    /// Bytes with their unit.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let allowed = format!("{} to {}: {SIZE_FORM}", show_size(*range.start()), show_size(*range.end()));
        let bytes = self.with_unit(&allowed, |text| parse_size(text).map_err(|error| error.to_string()))?;
        if range.contains(&bytes) { Some(bytes) } else { self.wrong("out of range", allowed) }
    }

    /// A span of time with its unit.
    pub(super) fn time(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let allowed = format!("{} to {}: {TIME_FORM}", show_time(*range.start()), show_time(*range.end()));
        let time = self.with_unit(&allowed, |text| parse_time(text).map_err(|error| error.to_string()))?;
        if range.contains(&time) { Some(time) } else { self.wrong("out of range", allowed) }
    }

    fn with_unit<T>(&self, allowed: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match &self.node.value {
            Value::Integer(_) | Value::Float(_) => self.wrong("a bare number, its unit is missing", allowed),
            _ => match parse(self.text(allowed)?) {
                Ok(value) => Some(value),
                Err(problem) => self.wrong(problem, allowed),
            },
        }
    }

    /// Whether it is the word `off`.
    pub(super) fn is_off(&self) -> bool {
        matches!(&self.node.value, Value::Text(text) if text == "off")
    }
}

/// `5_000_000` for 5000000.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
}
