//! The path template as folders of a table: a fixed beginning, then levels that differ from window to window, and the partition columns that
//! they are.
//!
//! | path | |
//! |---|---|
//! | `{topic}/dt=%Y-%m-%d/hr=%H` | fixed: the topic; columns `dt` and `hr`, which every engine finds by itself |
//! | `tag/%Y/%m/%d/%H` | fixed: `tag`; levels without names, which together are one column `datehour` for those that can be told so |
//! | `dt=%F/{field.x}` | a column `dt`, and one called `x` |

use super::Source;
use super::pattern::{self, Token};
use crate::layout::directive::{Directive, Unit};
use crate::layout::encode::{VALUE_BYTES_MAX, encode_value};
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::layout::window::{KeyTemplate, WindowValues};
use chrono::{NaiveDate, NaiveDateTime};
use percent_encoding::percent_decode_str;

/// The folders of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Folders {
    /// Below the destination's prefix.
    pub fixed: Vec<String>,
    /// Below these.
    pub levels: Vec<Level>,
    /// All topics that there can be, as they stand in the path, where they are known.
    pub topics: Vec<String>,
    /// A folder that is of one of several topics or generations stands below one that changes: whoever looks through everything below the fixed ones
    /// finds the others, too.
    pub chosen_below: bool,
    /// A folder is of the generation.
    pub of_generation: bool,
    /// Names of columns in the rows, which no folder without a name is called after.
    pub taken: Vec<String>,
}

/// A level of folders.
#[derive(Clone, Debug, PartialEq)]
pub enum Level {
    /// One folder of that name.
    Fixed(String),
    /// `name=value`.
    Keyed(String, Value),
    /// A value alone.
    Bare(Value),
}

/// A value in a path.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What it is.
    pub kind: ValueKind,
    /// What it is called where the path has no name for it.
    label: String,
    /// The text that it can be.
    tokens: Vec<Token>,
}

/// What a value in a path is.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// A part of the event time.
    Time(Time),
    /// The topic.
    Topic,
    /// Something that is made of the topic: a word of it, or more than the topic alone.
    OfTopic,
    /// A number that is no time: a Kafka partition. Whether it is padded with zeros.
    Number {
        /// With zeros in front.
        padded: bool,
    },
    /// Anything: a field, a header, a key.
    Text,
}

/// A part of the event time.
#[derive(Clone, Debug, PartialEq)]
pub struct Time {
    /// As strftime has it.
    strftime: String,
    /// As Java's `DateTimeFormatter` has it, where it can.
    pub java: Option<String>,
    /// The step between two.
    pub unit: Option<Unit>,
    /// The one number that it is, where it is one.
    pub number: Option<Number>,
}

/// A number that is a part of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// First and last; `None`: it has no end.
    pub range: Option<(u32, u32)>,
    /// Digits, where zeros pad it to so many.
    pub digits: Option<usize>,
}

impl Time {
    /// Whether it is a day, as `2025-11-21`.
    pub fn is_date(&self) -> bool {
        matches!(self.strftime.as_str(), "%Y-%m-%d" | "%F")
    }

    /// Whether its text begins with a year of four digits.
    pub(super) fn begins_with_year(&self) -> bool {
        self.strftime.starts_with("%Y") || self.strftime.starts_with("%F")
    }

    /// That part of `instant`.
    pub fn of(&self, instant: NaiveDateTime) -> String {
        instant.format(&self.strftime).to_string()
    }
}

/// A partition column.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionColumn {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: ValueKind,
}

/// What a partition column is in a language that has these types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionType {
    /// A calendar day.
    Date,
    /// A whole number; whether it is written with zeros in front.
    Int {
        /// With zeros in front.
        padded: bool,
    },
    /// Text.
    Text,
}

impl PartitionColumn {
    /// Its type.
    pub fn of_type(&self) -> PartitionType {
        match &self.kind {
            ValueKind::Time(time) if time.is_date() => PartitionType::Date,
            ValueKind::Time(Time { number: Some(number), .. }) => {
                PartitionType::Int { padded: number.digits.is_some_and(|digits| digits < 4) }
            }
            ValueKind::Number { padded } => PartitionType::Int { padded: *padded },
            ValueKind::Time(_) | ValueKind::Topic | ValueKind::OfTopic | ValueKind::Text => PartitionType::Text,
        }
    }
}

impl Level {
    /// Whether it is a value alone that any text can begin: null, which begins with `_`, among them.
    pub(super) fn can_be_hidden(&self) -> bool {
        matches!(self, Self::Bare(value) if value.tokens.first() == Some(&Token::Run))
    }

    /// What a folder of this level can be called.
    pub(super) fn tokens(&self) -> Vec<Token> {
        match self {
            Self::Fixed(text) => pattern::text(text),
            Self::Keyed(name, _) => {
                let mut tokens = pattern::text(&format!("{name}="));
                tokens.push(Token::Run);
                tokens
            }
            Self::Bare(value) => value.tokens.clone(),
        }
    }
}

impl Folders {
    /// The folders of an output.
    ///
    /// # Errors
    /// The path has the topic in a place where only one topic can be, and none is given; or one is given that no folder keeps apart from others.
    pub(super) fn new(source: &Source<'_>) -> Result<Self, String> {
        let (place, layout) = (&source.output.place, source.layout);
        let template = Template::parse(&place.path, TemplateKind::Path).map_err(|error| error.to_string())?;
        let rendered = rendered(source, source.topic)?;
        let mut folders = Self {
            fixed: Vec::new(),
            levels: Vec::new(),
            topics: in_path(source.topics),
            chosen_below: false,
            of_generation: false,
            taken: Vec::new(),
        };
        // The places of fixed folders in the path, and whether one of them is of the topic alone.
        let (mut fixed, mut tells_topic) = (Vec::new(), false);
        let shows_topic = template.segments.iter().flatten().any(|piece| matches!(piece, Piece::Topic));
        for (index, (pieces, text)) in template.segments.iter().zip(&rendered).enumerate() {
            let has = |wanted: fn(&Piece) -> bool| pieces.iter().any(wanted);
            let names_topic = has(|piece| matches!(piece, Piece::Topic));
            let is_of_topic = names_topic || has(|piece| matches!(piece, Piece::TopicWord(_)));
            let is_of_generation = has(|piece| matches!(piece, Piece::Generation(_)));
            folders.of_generation |= is_of_generation;
            let level = level(pieces, text.clone(), source);
            match &level {
                Level::Bare(Value { kind: ValueKind::Topic | ValueKind::OfTopic, .. }) if shows_topic => {
                    return Err(format!(
                        "a table is of one topic under layout.path = {:?}, and archive {} takes topics by pattern: name one with --topic",
                        place.path, layout.archive
                    ));
                }
                Level::Bare(Value { kind: ValueKind::OfTopic, .. }) => {
                    return Err(format!(
                        "the topics of archive {} share folders without a name under layout.path = {:?}: write {{topic}} in it, or name={{topic[0]}}",
                        layout.archive, place.path
                    ));
                }
                Level::Fixed(_) => {
                    let is_of_one = is_of_topic && !tells_topic && source.topics.len() != 1;
                    let is_chosen = is_of_one || is_of_generation && layout.generation > 1;
                    folders.chosen_below |= is_chosen && !folders.levels.is_empty();
                    tells_topic |= names_topic;
                    fixed.push(index);
                }
                _ => {}
            }
            match level {
                Level::Fixed(text) if folders.levels.is_empty() => folders.fixed.push(text),
                level => folders.levels.push(level),
            }
        }
        match source.topic {
            Some(topic) if !tells_topic && !is_alone(source, topic, &rendered, &fixed)? => {
                let way = match (source.one_topic, shows_topic) {
                    (true, _) => ", or leave --topic out where one table of all topics is meant",
                    (false, true) => ", or name one with --topic",
                    (false, false) => "",
                };
                Err(format!(
                    "layout.path = {:?} has no folder of topic {topic} alone, so the table would have rows of other topics of archive {}: write {{topic}} \
                     in it as a folder of its own{way}",
                    place.path, layout.archive
                ))
            }
            _ => Ok(folders),
        }
    }

    /// The key of the location: fixed folders behind `prefix`.
    pub(super) fn location<'a>(&'a self, prefix: impl Iterator<Item = &'a str>) -> String {
        prefix.chain(self.fixed.iter().map(String::as_str)).collect::<Vec<_>>().join("/")
    }

    /// Whether all levels are `name=value`, each name once.
    pub(crate) fn are_hive_style(&self) -> bool {
        let mut names = Vec::new();
        self.levels.iter().all(|level| match level {
            Level::Keyed(name, _) => {
                let name = name.to_ascii_lowercase();
                let is_new = !names.contains(&name);
                names.push(name);
                is_new
            }
            Level::Fixed(_) | Level::Bare(_) => false,
        })
    }

    /// The partition columns: one for each named level, and one for each run of times without names.
    pub(crate) fn columns(&self) -> Vec<PartitionColumn> {
        self.columns_and_template().0
    }

    /// The same, and the folders with `${column}` for each.
    pub(super) fn columns_and_template(&self) -> (Vec<PartitionColumn>, String) {
        let mut columns: Vec<PartitionColumn> = Vec::new();
        let mut parts: Vec<String> = Vec::new();
        let mut levels = self.levels.iter().peekable();
        while let Some(level) = levels.next() {
            let (name, kind) = match level {
                Level::Fixed(text) => {
                    parts.push(text.clone());
                    continue;
                }
                Level::Keyed(name, value) => (name.clone(), value.kind.clone()),
                Level::Bare(value) => {
                    let mut kind = value.kind.clone();
                    let mut label = value.label.clone();
                    while let (ValueKind::Time(time), Some(Level::Bare(Value { kind: ValueKind::Time(next), .. }))) =
                        (&kind, levels.peek())
                    {
                        let joined = time.joined(next);
                        label = joined.label();
                        kind = ValueKind::Time(joined);
                        levels.next();
                    }
                    (self.free(&label, &columns), kind)
                }
            };
            let value = format!("${{{name}}}");
            parts.push(if matches!(level, Level::Keyed(..)) { format!("{name}={value}") } else { value });
            columns.push(PartitionColumn { name, kind });
        }
        (columns, parts.join("/"))
    }

    /// The values of [`Folders::columns`] in `folder`, below the destination, with their names; `None` where it is no such folder.
    pub(crate) fn values(&self, folder: &str) -> Option<Vec<(String, String)>> {
        let mut segments = folder.split('/').filter(|segment| !segment.is_empty());
        for fixed in &self.fixed {
            segments.next().filter(|segment| segment == fixed)?;
        }
        let mut values: Vec<String> = Vec::new();
        // Times one below the other are one column.
        let mut is_time = false;
        for level in &self.levels {
            let segment = segments.next()?;
            let was_time = std::mem::take(&mut is_time);
            match level {
                Level::Fixed(text) => drop((segment == text).then_some(())?),
                Level::Keyed(name, _) => values.push(decoded(segment.strip_prefix(name.as_str())?.strip_prefix('=')?)?),
                Level::Bare(value) => {
                    is_time = matches!(value.kind, ValueKind::Time(_));
                    match values.last_mut().filter(|_| was_time && is_time) {
                        Some(last) => *last = format!("{last}/{segment}"),
                        None => values.push(decoded(segment)?),
                    }
                }
            }
        }
        let names = self.columns().into_iter().map(|column| column.name);
        segments.next().is_none().then(|| names.zip(values).collect())
    }

    /// `label`, or the same with a number that no column has, of the path or of the rows.
    fn free(&self, label: &str, columns: &[PartitionColumn]) -> String {
        let names = columns.iter().map(|column| &column.name).chain(&self.taken);
        let taken = |name: &str| names.clone().any(|other| other.eq_ignore_ascii_case(name));
        let mut name = label.to_string();
        let mut number = 2;
        while taken(&name) {
            name = format!("{label}_{number}");
            number += 1;
        }
        name
    }

    /// The folders of one window, for an example, and the values of the columns there.
    pub(super) fn example(&self) -> (Vec<String>, String) {
        let instant =
            NaiveDate::from_ymd_opt(2025, 11, 21).and_then(|day| day.and_hms_opt(3, 0, 0)).unwrap_or_default();
        let (columns, mut folder) = self.columns_and_template();
        let mut values = Vec::new();
        for column in &columns {
            let value = match &column.kind {
                ValueKind::Time(time) => time.of(instant),
                ValueKind::Number { .. } => "0".to_string(),
                ValueKind::Topic | ValueKind::OfTopic | ValueKind::Text => "VALUE".to_string(),
            };
            folder = folder.replace(&format!("${{{}}}", column.name), &value);
            values.push(value);
        }
        (values, folder)
    }
}

impl Time {
    /// This and, in a folder below, `next`.
    fn joined(&self, next: &Self) -> Self {
        let java = match (&self.java, &next.java) {
            (Some(java), Some(next)) => Some(format!("{java}/{next}")),
            _ => None,
        };
        let unit = match (self.unit, next.unit) {
            (Some(unit), Some(next)) => Some(unit.min(next)),
            (unit, next) => unit.or(next),
        };
        Self { strftime: format!("{}/{}", self.strftime, next.strftime), java, unit, number: None }
    }

    fn label(&self) -> String {
        let label = match self.unit {
            Some(Unit::Hour) => "datehour",
            Some(Unit::Day) => "day",
            Some(Unit::Month) => "month",
            Some(Unit::Year) => "year",
            _ => "datetime",
        };
        label.to_string()
    }
}

/// A value as it was before it was written into a path; `None` where that is no text.
fn decoded(value: &str) -> Option<String> {
    percent_decode_str(value).decode_utf8().ok().map(|text| text.into_owned())
}

/// Topics as they stand in a path, not at the start of a folder.
fn in_path(topics: &[String]) -> Vec<String> {
    let encoded = |topic: &String| {
        let mut text = String::new();
        encode_value(&mut text, Some(topic.as_bytes()), false, VALUE_BYTES_MAX);
        text
    };
    topics.iter().map(encoded).collect()
}

/// Whether `topic` is known to be the only one in its folders: those at the places `fixed` of the path, `rendered` for it, are other folders for each
/// other topic.
fn is_alone(source: &Source<'_>, topic: &str, rendered: &[String], fixed: &[usize]) -> Result<bool, String> {
    for other in source.topics.iter().filter(|other| *other != topic) {
        let folders = self::rendered(source, Some(other))?;
        if fixed.iter().all(|index| folders.get(*index) == rendered.get(*index)) {
            return Ok(false);
        }
    }
    Ok(!source.topics.is_empty())
}

/// The folders as they are called for that topic and some time.
fn rendered(source: &Source<'_>, topic: Option<&str>) -> Result<Vec<String>, String> {
    let (output, generation) = (source.output, source.layout.generation);
    let key = KeyTemplate::compile(&output.place, &output.name, "", generation).map_err(|error| error.to_string())?;
    let fields = vec![None; key.needs().fields.len()];
    let headers = vec![None; key.needs().headers.len()];
    let values = WindowValues {
        topic: topic.unwrap_or_default(),
        partition: 0,
        event_ms: 0,
        fields: &fields,
        headers: &headers,
        key: None,
    };
    let window = key.window(&values);
    Ok(window.folder.split('/').filter(|segment| !segment.is_empty()).map(str::to_string).collect())
}

/// The level that `pieces` are. `text`: what they render to for the topic of `source`.
fn level(pieces: &[Piece], text: String, source: &Source<'_>) -> Level {
    let keyed = match pieces.first() {
        Some(Piece::Text(first)) => first.split_once('='),
        _ => None,
    };
    let is_keyed = keyed.is_some_and(|(name, _)| !name.is_empty());
    // One topic of several is a column where the path names it, unless it was asked for.
    let topic_is_fixed = source.topic.is_some() && (source.one_topic || !is_keyed);
    let is_fixed = pieces.iter().all(|piece| match piece {
        Piece::Text(_) | Piece::Output | Piece::Generation(_) => true,
        Piece::Topic | Piece::TopicWord(_) => topic_is_fixed,
        _ => false,
    });
    match keyed {
        _ if is_fixed => Level::Fixed(text),
        Some((name, rest)) if !name.is_empty() => {
            let mut inner = pieces[1..].to_vec();
            if !rest.is_empty() {
                inner.insert(0, Piece::Text(rest.to_string()));
            }
            Level::Keyed(name.to_string(), value(&inner))
        }
        _ => Level::Bare(value(pieces)),
    }
}

fn value(pieces: &[Piece]) -> Value {
    let tokens = tokens(pieces);
    let (kind, label) = match pieces {
        [Piece::Topic] => (ValueKind::Topic, "topic".to_string()),
        [Piece::Partition(width)] => (ValueKind::Number { padded: *width > 1 }, "kafka_partition".to_string()),
        [Piece::Field(path) | Piece::FieldWord(path, _)] => (ValueKind::Text, path.join("_")),
        [Piece::Header(name)] => (ValueKind::Text, name.clone()),
        [Piece::Key] => (ValueKind::Text, "key".to_string()),
        _ => match time(pieces) {
            Some(time) => {
                let label = time.label();
                (ValueKind::Time(time), label)
            }
            None if pieces.iter().all(|piece| {
                matches!(
                    piece,
                    Piece::Text(_) | Piece::Topic | Piece::TopicWord(_) | Piece::Output | Piece::Generation(_)
                )
            }) =>
            {
                (ValueKind::OfTopic, "topic".to_string())
            }
            None => (ValueKind::Text, "value".to_string()),
        },
    };
    let label = label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    Value { kind, label, tokens }
}

/// The time that `pieces` are, where they are nothing else.
fn time(pieces: &[Piece]) -> Option<Time> {
    let mut strftime = String::new();
    let mut java = Some(String::new());
    let mut units = Vec::new();
    for piece in pieces {
        let (format, in_java) = match piece {
            Piece::Text(text) => {
                let quoted = text.chars().any(|c| c.is_ascii_alphabetic());
                (
                    text.replace('%', "%%"),
                    (!quoted && !text.contains(['\'', '{', '}', '[', ']', '#'])).then(|| text.clone()),
                )
            }
            Piece::Time(directive) => {
                units.extend(directive.unit);
                (directive.text.clone(), in_java(&directive.text).map(str::to_string))
            }
            _ => return None,
        };
        strftime.push_str(&format);
        java = java.zip(in_java).map(|(java, more)| java + &more);
    }
    if !pieces.iter().any(|piece| matches!(piece, Piece::Time(_))) {
        return None;
    }
    let number = match pieces {
        [Piece::Time(directive)] => number(directive),
        _ => None,
    };
    Some(Time { strftime, java, unit: units.into_iter().min(), number })
}

/// A directive as Java's `DateTimeFormatter` has it.
fn in_java(directive: &str) -> Option<&'static str> {
    Some(match directive {
        "%Y" => "yyyy",
        "%y" => "yy",
        "%m" => "MM",
        "%-m" => "M",
        "%b" => "MMM",
        "%d" => "dd",
        "%-d" => "d",
        "%j" => "DDD",
        "%F" => "yyyy-MM-dd",
        "%H" => "HH",
        "%-H" => "H",
        "%M" => "mm",
        "%S" => "ss",
        "%R" => "HH:mm",
        "%T" => "HH:mm:ss",
        _ => return None,
    })
}

/// The number that a directive is alone.
fn number(directive: &Directive) -> Option<Number> {
    let range = match directive.text.trim_start_matches(['%', '-', '0']) {
        "Y" => None,
        "m" => Some((1, 12)),
        "d" => Some((1, 31)),
        "j" => Some((1, 366)),
        "H" => Some((0, 23)),
        "M" | "S" => Some((0, 59)),
        _ => return None,
    };
    Some(Number { range, digits: directive.width })
}

/// What `pieces` can render to.
fn tokens(pieces: &[Piece]) -> Vec<Token> {
    let mut tokens = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => tokens.extend(pattern::text(text)),
            Piece::Time(directive) => match (directive.width, directive.text.trim_start_matches(['%', '-', '0'])) {
                (Some(width), "Y" | "m" | "d" | "j" | "H" | "M" | "S" | "y" | "G" | "V") => {
                    tokens.extend(std::iter::repeat_n(Token::Digit, width));
                }
                (_, "F") => {
                    tokens.extend("0000-00-00".chars().map(|c| if c == '0' { Token::Digit } else { Token::Char(c) }))
                }
                _ => tokens.push(Token::Run),
            },
            _ => tokens.push(Token::Run),
        }
    }
    tokens
}

/// The folders of a path template as patterns, of that topic or of any, whatever record. A template that is none has no folders.
pub(super) fn patterns(path: &str, output: &str, generation: u32, topic: Option<&str>) -> Vec<Vec<Token>> {
    let Ok(template) = Template::parse(path, TemplateKind::Path) else { return Vec::new() };
    let of_segment = |pieces: &Vec<Piece>| {
        let constant = |(index, piece): (usize, &Piece)| match (piece, topic) {
            (Piece::Output, _) => Piece::Text(output.to_string()),
            (Piece::Generation(width), _) => Piece::Text(format!("{generation:0width$}")),
            (Piece::Topic, Some(topic)) => {
                let mut text = String::new();
                encode_value(&mut text, Some(topic.as_bytes()), index == 0, VALUE_BYTES_MAX);
                Piece::Text(text)
            }
            (other, _) => other.clone(),
        };
        tokens(&pieces.iter().enumerate().map(constant).collect::<Vec<_>>())
    };
    template.segments.iter().map(of_segment).collect()
}
