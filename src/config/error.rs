//! What is wrong with a configuration: every problem, each as one block of lines for the person who must mend it.
//!
//! Never holds a secret: values of secret keys are not kept at all, others as they stand in the file, with their `${…}`.

use std::cell::RefCell;
use std::fmt;

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the key, for example `archive[0].rotate.size`. Empty where the file as a whole is meant.
    pub key: String,
    /// Line in the file, from 1. `None` where something is missing that has no line.
    pub line: Option<usize>,
    /// The value as it stands in the file, `${…}` not replaced. `None` for secrets and missing keys.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub allowed: Option<String>,
}

impl fmt::Display for ConfigError {
    /// ```text
    /// line 12: archive[0].rotate.size = "10MB"
    ///     `MB` is not a unit of size
    ///     allowed: 1KiB to 1TiB
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = Vec::new();
        if let Some(line) = self.line {
            head.push(format!("line {line}:"));
        }
        if !self.key.is_empty() {
            head.push(self.key.clone());
        }
        if let Some(value) = &self.value {
            head.push(format!("= {value}"));
        }
        if head.is_empty() {
            write!(f, "{}", self.problem)?;
        } else {
            write!(f, "{}\n    {}", head.join(" "), self.problem)?;
        }
        if let Some(allowed) = &self.allowed {
            write!(f, "\n    allowed: {allowed}")?;
        }
        Ok(())
    }
}

/// Every problem of a configuration, in the order of the file. Never empty when it is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects problems while a file is read.
#[derive(Default)]
pub(super) struct Errors {
    list: RefCell<Vec<ConfigError>>,
}

impl Errors {
    /// Notes one more.
    pub(super) fn push(&self, error: ConfigError) {
        self.list.borrow_mut().push(error);
    }

    /// Whether a problem is known of `key` or of anything in it.
    pub(super) fn within(&self, key: &str) -> bool {
        let is_within = |error: &ConfigError| {
            error.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.list.borrow().iter().any(is_within)
    }

    /// Whether nothing was noted so far.
    pub(super) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// Whether a problem is known of `key` itself: checks that combine keys are then left out.
    pub(super) fn about(&self, key: &str) -> bool {
        self.list.borrow().iter().any(|error| error.key == key)
    }

    /// All of them, by line; those without a line come first.
    pub(super) fn into_errors(self) -> ConfigErrors {
        let mut list = self.list.into_inner();
        list.sort_by_key(|error| error.line);
        ConfigErrors(list)
    }
}

/// The name among `known` that `name` was probably meant to be.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let within = 1 + name.chars().count() / 3;
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let distance = strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
        if distance <= within && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `; did you mean …` where some known name is near, otherwise nothing.
pub(super) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|found| format!("; did you mean `{found}`")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_are_near() {
        let known = ["size", "age", "records", "grace"];
        for (typed, expected) in
            [("sise", Some("size")), ("record", Some("records")), ("Grace", Some("grace")), ("compression", None)]
        {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
    }
}
