//! The file as a tree of values with lines, variables filled in. Knows nothing of what the keys mean.

use super::error::{ConfigError, Errors};
use super::interpolate::{self, interpolate};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Line in the file, from 1: of the key, or of the value inside a list.
    pub(super) line: usize,
    pub(super) value: Value,
    /// Names of the variables filled in here.
    pub(super) variables: Vec<String>,
    /// As it stood in the file, where variables were filled in.
    written: Option<String>,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(String),
    Flag(bool),
    Time(String),
    List(Vec<Node>),
    Table(Table),
    /// Was wrong already, and has been reported.
    Broken,
}

/// Keys and values, in file order.
pub(super) type Table = Vec<(String, Node)>;

impl Node {
    /// A value that was given as plain data, for example in a schema file.
    pub(super) fn plain(line: usize, value: Value) -> Self {
        Self { line, value, variables: Vec::new(), written: None }
    }

    /// The value as it stands in the file, shortened: never what a variable was replaced by.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Text(text) => quoted(self.written.as_deref().unwrap_or(text)),
            Value::Integer(number) => number.to_string(),
            Value::Float(text) | Value::Time(text) => text.clone(),
            Value::Flag(flag) => flag.to_string(),
            Value::List(_) => "[…]".to_string(),
            Value::Table(_) => "{…}".to_string(),
            Value::Broken => "?".to_string(),
        }
    }

    /// What kind of value it is, for error texts.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Flag(_) => "true or false",
            Value::Time(_) => "a date or time",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Broken => "broken",
        }
    }

    /// The names of all variables in this value and everything below it, with their lines.
    pub(super) fn all_variables(&self, path: &str, found: &mut dyn FnMut(&str, &Node)) {
        found(path, self);
        match &self.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.all_variables(&format!("{path}[{index}]"), found);
                }
            }
            Value::Table(table) => {
                for (key, node) in table {
                    node.all_variables(&join(path, key), found);
                }
            }
            _ => {}
        }
    }
}

/// `text` in quotes, control characters escaped, at most 100 characters of it.
pub(super) fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(100).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

/// `key` below `path`, in quotes where TOML needs them.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if bare { key.to_string() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Reads TOML and fills in the variables.
///
/// Syntax errors are all reported and end it; variables that cannot be filled in are reported, their values become
/// [`Value::Broken`].
pub(super) fn read(text: &str, env: &dyn Fn(&str) -> Option<String>, errors: &Errors) -> Option<Node> {
    let reader = Reader { starts: line_starts(text), env, errors };
    let (document, problems) = DeTable::parse_recoverable(text);
    for problem in &problems {
        let line = problem.span().map(|span| reader.line(span.start));
        let problem = format!("this is not TOML: {}", problem.message());
        errors.push(ConfigError { key: String::new(), line, value: None, problem, allowed: None });
    }
    problems.is_empty().then(|| Node::plain(1, Value::Table(reader.table("", document.get_ref()))))
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

struct Reader<'a> {
    /// Where each line begins, so that a file of many values does not count its lines for each.
    starts: Vec<usize>,
    env: &'a dyn Fn(&str) -> Option<String>,
    errors: &'a Errors,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    fn table(&self, path: &str, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, value)| (key.span().start, value.span().start));
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.to_string(), self.node(&join(path, name), self.line(key.span().start), value.get_ref()))
        };
        entries.into_iter().map(entry).collect()
    }

    fn node(&self, path: &str, line: usize, value: &DeValue<'_>) -> Node {
        let value = match value {
            DeValue::String(text) => return self.text(path, line, text),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => self.broken(path, line, "too large a number".to_string(), None),
            },
            DeValue::Float(number) => Value::Float(number.as_str().to_string()),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(time) => Value::Time(time.to_string()),
            DeValue::Array(items) => {
                let item = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
                    self.node(&format!("{path}[{index}]"), self.line(item.span().start), item.get_ref())
                };
                Value::List(items.iter().enumerate().map(item).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(path, table)),
        };
        Node::plain(line, value)
    }

    fn text(&self, path: &str, line: usize, text: &str) -> Node {
        match interpolate(text, self.env) {
            Ok(done) => {
                let written = (!done.variables.is_empty()).then(|| text.to_string());
                Node { line, value: Value::Text(done.text), variables: done.variables, written }
            }
            Err(problems) => {
                for problem in problems {
                    self.broken(path, line, problem.to_string(), Some(interpolate::FORM.to_string()));
                }
                Node::plain(line, Value::Broken)
            }
        }
    }

    /// Reports without the value: nobody knows yet whether it is a secret.
    fn broken(&self, path: &str, line: usize, problem: String, allowed: Option<String>) -> Value {
        self.errors.push(ConfigError { key: path.to_string(), line: Some(line), value: None, problem, allowed });
        Value::Broken
    }
}
