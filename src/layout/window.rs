//! Windows and object keys: what a [`Place`] makes of a record.
//!
//! ```text
//! Place ──compile──▶ KeyTemplate ──window(values of a record)──▶ Window ──key(offsets of the batch)──▶ object key
//! ```
//! A *window* is the rendered key with everything but the batch's offsets filled in. Two records lie in one window
//! exactly if their [`Window::pattern`]s are equal.
//!
//! # Guarantees
//! - **K-1** Patterns and keys are a pure function of the place, the output's name and extension, the generation and
//!   the values: nothing of the clock, the host or the attempt.
//! - **K-2** Whatever the values are: no segment of a key is empty, starts with `.` or is longer than
//!   [`SEGMENT_BYTES_MAX`]; no byte is a control character, a backslash or outside ASCII; a key is at most
//!   [`KEY_BYTES_MAX`] bytes, and has as many segments as its templates.
//! - **K-3** With a generation above 1 the name starts with `g<generation>-`, unless a template shows it.

use super::Place;
use super::calendar::Calendar;
use super::encode::{self, TOPIC_BYTES_MAX, VALUE_BYTES_MAX, VALUE_BYTES_MIN};
use super::template::{Piece, Template, TemplateError, TemplateKind, TemplateProblem, Width};
use crate::record::OffsetRange;
use chrono::format::Item;
use chrono_tz::Tz;
use std::fmt::Write;
use std::sync::Arc;

/// Longest segment of a key: a file name on every common file system.
pub const SEGMENT_BYTES_MAX: usize = 255;

/// Longest key, without the destination's prefix: stores take 1,024 bytes, so a prefix may have 123 and its slash.
pub const KEY_BYTES_MAX: usize = 900;

/// `g`, the longest generation, `-`.
const GENERATION_PREFIX_BYTES: usize = 12;

/// Most bytes of an output's name.
const OUTPUT_BYTES_MAX: usize = 64;

/// What a template has to be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Paths of the payload fields, each once, in the order of [`WindowValues::fields`].
    pub fields: Vec<Vec<String>>,
    /// Names of the headers, each once, in the order of [`WindowValues::headers`].
    pub headers: Vec<String>,
    /// Whether the record's key is used.
    pub key: bool,
    /// Whether the event time is used.
    pub time: bool,
}

/// The values of one record that decide its window.
#[derive(Clone, Copy, Debug)]
pub struct WindowValues<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Kafka partition, from 0.
    pub partition: i32,
    /// Event time, milliseconds UTC. Times outside the years 1 to 9999 are rendered like the nearest one inside.
    pub event_ms: i64,
    /// The raw JSON text of each field in the order of [`Needs::fields`] (or of [`KeyTemplate::bind`]); `None`: missing.
    pub fields: &'a [Option<&'a str>],
    /// The value of each header in the order of [`Needs::headers`] (or of [`KeyTemplate::bind`]); `None`: missing or null.
    pub headers: &'a [Option<&'a [u8]>],
    /// The record's key.
    pub key: Option<&'a [u8]>,
}

/// A window of one Kafka partition and output.
#[derive(Clone, Debug)]
pub struct Window {
    /// The rendered path, without a slash at either end; empty where the path template is.
    pub folder: Arc<str>,
    /// Folder and name as a template in which only `{first}` and `{end}` are open. Equal patterns are one window.
    pub pattern: Arc<str>,
    /// The first instant behind the window, as reached by local time without a break: right on days of 23 and 25
    /// hours. Not before the end of any record's window with the same pattern on that day; windows of templates that
    /// repeat (`%H` without a day) come back later. `None` where the template shows no time.
    pub end_ms: Option<i64>,
}

impl Window {
    /// The object's key, relative to the destination's prefix.
    pub fn key(&self, range: OffsetRange) -> String {
        key_of(&self.pattern, range)
    }
}

/// A part of a segment, ready to render.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Text(String),
    /// The output's name, already encoded.
    Output(String),
    Generation(String),
    Time {
        items: Vec<Item<'static>>,
        width: Option<usize>,
        bytes: super::alphabet::ByteSet,
    },
    Topic,
    TopicWord(usize),
    Partition(Width),
    First(Width),
    End(Width),
    /// Index into the fields given.
    Field(usize),
    /// The same, and which part of it.
    FieldWord(usize, usize),
    /// Index into the headers given.
    Header(usize),
    Key,
}

/// A segment with the room its values have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) parts: Vec<Part>,
    /// Most bytes of a value, [`VALUE_BYTES_MIN`] to [`VALUE_BYTES_MAX`].
    pub(super) value_limit: usize,
}

/// The compiled form of a [`Place`] for one output. Cheap to share; holds no state.
#[derive(Clone, Debug)]
pub struct KeyTemplate {
    /// The last one is the name with its extension.
    segments: Vec<Segment>,
    calendar: Calendar,
    needs: Needs,
    /// Whether the name starts with `g<generation>-`: three parts.
    prefixes_generation: bool,
}

impl KeyTemplate {
    /// Compiles the templates of `place`. `output` is the output's name, `extension` what the name ends in, without
    /// its first dot (may be empty), `generation` the archive's, from 1.
    ///
    /// # Errors
    /// [`TemplateError`]: a template or the zone is not valid, or keys could get too long for some store.
    pub fn compile(place: &Place, output: &str, extension: &str, generation: u32) -> Result<Self, TemplateError> {
        let zone: Tz = place.zone.parse().map_err(|_| TemplateError {
            template: place.path.clone(),
            problem: TemplateProblem::UnknownZone(place.zone.clone()),
        })?;
        let path = Template::parse(&place.path, TemplateKind::Path)?;
        let name = Template::parse(&place.name, TemplateKind::Name)?;
        let in_name = |problem| TemplateError { template: place.name.clone(), problem };
        if !is_extension(extension) {
            return Err(in_name(TemplateProblem::BadExtension(extension.to_string())));
        }

        let mut needs = Needs::default();
        let mut segments = Vec::new();
        for pieces in path.segments.iter().chain(&name.segments) {
            let parts = pieces.iter().map(|piece| part(piece, output, generation, &mut needs)).collect();
            segments.push(Segment { parts, value_limit: VALUE_BYTES_MAX });
        }
        let shows_generation = path.pieces().chain(name.pieces()).any(|piece| matches!(piece, Piece::Generation(_)));
        if !extension.is_empty() {
            let last = segments.last_mut().expect("a name template has one segment");
            last.parts.push(Part::Text(format!(".{extension}")));
        }
        let prefix_bytes = if shows_generation { 0 } else { GENERATION_PREFIX_BYTES };
        fit(&mut segments, prefix_bytes).map_err(in_name)?;
        let prefixes_generation = generation > 1 && !shows_generation;
        if prefixes_generation {
            let prefix = [Part::Text("g".into()), Part::Generation(generation.to_string()), Part::Text("-".into())];
            segments.last_mut().expect("a name template has one segment").parts.splice(0..0, prefix);
        }

        let directives = path.pieces().chain(name.pieces()).filter_map(|piece| match piece {
            Piece::Time(directive) => Some(directive),
            _ => None,
        });
        let calendar = Calendar::new(zone, directives);
        needs.time = calendar.shows_time();
        Ok(Self { segments, calendar, needs, prefixes_generation })
    }

    /// What [`KeyTemplate::window`] has to be given.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Reads fields and headers from lists shared with other templates instead: afterwards
    /// [`WindowValues::fields`] and [`WindowValues::headers`] are in the order of `fields` and `headers`, and so are
    /// [`KeyTemplate::needs`].
    ///
    /// # Panics
    /// If `fields` or `headers` lack something that the template needs: the lists are made from the needs.
    pub fn bind(&mut self, fields: &[Vec<String>], headers: &[String]) {
        for part in self.segments.iter_mut().flat_map(|segment| &mut segment.parts) {
            match part {
                Part::Field(slot) | Part::FieldWord(slot, _) => {
                    let wanted = &self.needs.fields[*slot];
                    *slot = fields.iter().position(|path| path == wanted).expect("shared fields hold every need");
                }
                Part::Header(slot) => {
                    let wanted = &self.needs.headers[*slot];
                    *slot = headers.iter().position(|name| name == wanted).expect("shared headers hold every need");
                }
                _ => {}
            }
        }
        self.needs.fields = fields.to_vec();
        self.needs.headers = headers.to_vec();
    }

    /// Names the granule of `event_ms`: with equal other values, records of one granule have equal windows. A minute
    /// or less; see [`Calendar::granule`]. What a caller keys its cache of windows with.
    pub fn time_granule(&self, event_ms: i64) -> i64 {
        self.calendar.granule(event_ms)
    }

    /// The first instant behind the window of `event_ms`, as [`Window::end_ms`] has it.
    pub fn end_of_window(&self, event_ms: i64) -> Option<i64> {
        self.calendar.end_of_window(event_ms)
    }

    /// The window of a record. Total: there is a window for every value.
    ///
    /// # Panics
    /// If `values` has fewer fields or headers than needed.
    pub fn window(&self, values: &WindowValues<'_>) -> Window {
        let (name, folders) = self.segments.split_last().expect("a key template has a name");
        let local = if self.needs.time { Some(self.calendar.local(values.event_ms)) } else { None };
        let mut folder = String::with_capacity(64);
        for (index, segment) in folders.iter().enumerate() {
            if index > 0 {
                folder.push('/');
            }
            render(&mut folder, segment, values, local.as_ref(), str::to_string);
        }
        let mut pattern = escape_braces(&folder);
        pattern.reserve(128);
        if !folders.is_empty() {
            pattern.push('/');
        }
        render(&mut pattern, name, values, local.as_ref(), escape_braces);
        Window { folder: folder.into(), pattern: pattern.into(), end_ms: self.calendar.end_of_window(values.event_ms) }
    }

    /// The object's key for the part of `window` in the batch that covers `range`, relative to the destination's prefix.
    pub fn key(&self, window: &Window, range: OffsetRange) -> String {
        window.key(range)
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the first three parts of the name are `g`, the generation and `-`.
    pub(super) fn prefixes_generation(&self) -> bool {
        self.prefixes_generation
    }
}

/// Fills the offsets of a batch into a [`Window::pattern`].
///
/// # Panics
/// If `pattern` is not one that [`KeyTemplate::window`] made.
pub fn key_of(pattern: &str, range: OffsetRange) -> String {
    let mut key = String::with_capacity(pattern.len() + 40);
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        key.push_str(&rest[..at]);
        let open = &rest[at..];
        if open.starts_with("{{") || open.starts_with("}}") {
            key.push_str(&open[..1]);
            rest = &open[2..];
            continue;
        }
        let (body, behind) = open[1..].split_once('}').expect("a pattern's braces are paired");
        let (name, width) = body.split_once(":0").unwrap_or((body, "0"));
        let number = match name {
            "first" => range.first,
            "end" => range.end,
            _ => unreachable!("a pattern leaves only offsets open"),
        };
        push_number(&mut key, number, width.parse().expect("a pattern's widths are numbers"));
        rest = behind;
    }
    key.push_str(rest);
    key
}

/// `key`, whose name ends in `extension`, as replay `n` of its batch calls the object: `…+replay-1.json.gz`. No value in a name has a
/// `+`, so that no batch's own object is called like this unless a template says so. `None`: no store would take a name that long. With
/// generation 1 there is room for 9,999 replays in every name, as a generation's prefix has room in it.
pub fn replay_key(key: &str, extension: &str, n: u32) -> Option<String> {
    marked_key(key, extension, &format!("+replay-{n}"), extension)
}

/// `key`, whose name ends in `extension`, as compaction `n` of its unit calls an object of the format that names end in `new_extension` for:
/// `…+compact-1.json.gz`. `None`: no store would take a name that long, or that key.
pub fn compaction_key(key: &str, extension: &str, new_extension: &str, n: u32) -> Option<String> {
    marked_key(key, extension, &format!("+compact-{n}"), new_extension).filter(|key| key.len() <= KEY_BYTES_MAX)
}

fn marked_key(key: &str, extension: &str, mark: &str, new_extension: &str) -> Option<String> {
    let stem = match extension {
        "" => key,
        _ => key.strip_suffix(extension)?.strip_suffix('.')?,
    };
    let dot = if new_extension.is_empty() { "" } else { "." };
    let key = format!("{stem}{mark}{dot}{new_extension}");
    let name = key.rsplit('/').next().unwrap_or(&key);
    (name.len() <= SEGMENT_BYTES_MAX).then_some(key)
}

fn is_extension(extension: &str) -> bool {
    extension.is_empty()
        || extension.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn part(piece: &Piece, output: &str, generation: u32, needs: &mut Needs) -> Part {
    match piece {
        Piece::Text(text) => Part::Text(text.clone()),
        Piece::Time(directive) => {
            Part::Time { items: directive.items.clone(), width: directive.width, bytes: directive.bytes }
        }
        Piece::Topic => Part::Topic,
        Piece::TopicWord(index) => Part::TopicWord(*index),
        Piece::Partition(width) => Part::Partition(*width),
        Piece::First(width) => Part::First(*width),
        Piece::End(width) => Part::End(*width),
        Piece::Generation(width) => Part::Generation(format!("{generation:0width$}")),
        Piece::Output => {
            let mut encoded = String::new();
            encode::encode_value(&mut encoded, Some(output.as_bytes()), true, OUTPUT_BYTES_MAX);
            Part::Output(encoded)
        }
        Piece::Field(path) => Part::Field(slot(&mut needs.fields, path)),
        Piece::FieldWord(path, word) => Part::FieldWord(slot(&mut needs.fields, path), *word),
        Piece::Header(name) => Part::Header(slot(&mut needs.headers, name)),
        Piece::Key => {
            needs.key = true;
            Part::Key
        }
    }
}

/// The place of `wanted` in `list`, which grows where it is new.
fn slot<T: PartialEq + Clone>(list: &mut Vec<T>, wanted: &T) -> usize {
    list.iter().position(|known| known == wanted).unwrap_or_else(|| {
        list.push(wanted.clone());
        list.len() - 1
    })
}

/// Shares the room among values, so that no segment and no key can be too long. `prefix_bytes` are kept free for a
/// prefix of the name: what a value renders to must not change with the generation.
fn fit(segments: &mut [Segment], prefix_bytes: usize) -> Result<(), TemplateProblem> {
    let name = segments.len() - 1;
    let reserved = |depth: usize| if depth == name { prefix_bytes } else { 0 };
    let mut smallest = 0;
    for (depth, segment) in segments.iter().enumerate() {
        let bytes = bytes_max(segment, VALUE_BYTES_MIN) + reserved(depth);
        smallest += bytes + 1;
        if bytes > SEGMENT_BYTES_MAX {
            return Err(TemplateProblem::TooLong { what: "a folder or name", bytes, bytes_max: SEGMENT_BYTES_MAX });
        }
    }
    if smallest > KEY_BYTES_MAX {
        return Err(TemplateProblem::TooLong { what: "a key", bytes: smallest, bytes_max: KEY_BYTES_MAX });
    }
    for limit in (VALUE_BYTES_MIN..=VALUE_BYTES_MAX).rev() {
        let mut key_bytes = 0;
        for (depth, segment) in segments.iter_mut().enumerate() {
            let bytes = |limit: usize| bytes_max(segment, limit) + reserved(depth);
            let fits = |limit: &usize| bytes(*limit) <= SEGMENT_BYTES_MAX;
            let own = (VALUE_BYTES_MIN..=limit).rev().find(fits).expect("the smallest limit was seen to fit");
            key_bytes += bytes(own) + 1;
            segment.value_limit = own;
        }
        if key_bytes <= KEY_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// Longest rendering of a segment whose values have at most `limit` bytes.
fn bytes_max(segment: &Segment, limit: usize) -> usize {
    let part_bytes = |part: &Part| match part {
        Part::Text(text) | Part::Output(text) => text.len(),
        Part::Generation(text) => text.len().max(10),
        Part::Time { width, .. } => width.unwrap_or(super::directive::VARIABLE_WIDTH_MAX),
        Part::Topic => limit.min(TOPIC_BYTES_MAX),
        Part::TopicWord(_) | Part::Field(_) | Part::FieldWord(..) | Part::Header(_) | Part::Key => limit,
        Part::Partition(width) => (*width).max(10),
        Part::First(width) | Part::End(width) => (*width).max(19),
    };
    segment.parts.iter().map(part_bytes).sum()
}

fn render(
    out: &mut String,
    segment: &Segment,
    values: &WindowValues<'_>,
    local: Option<&chrono::DateTime<Tz>>,
    text: impl Fn(&str) -> String,
) {
    let limit = segment.value_limit;
    for (index, part) in segment.parts.iter().enumerate() {
        let leads = index == 0;
        match part {
            Part::Text(literal) => out.push_str(&text(literal)),
            Part::Output(fixed) | Part::Generation(fixed) => out.push_str(fixed),
            Part::Time { items, .. } => {
                let local = local.expect("a template with directives needs time");
                write!(out, "{}", local.format_with_items(items.iter()))
                    .expect("directives were checked when compiled");
            }
            Part::Topic => {
                encode::encode_value(out, Some(values.topic.as_bytes()), leads, limit.min(TOPIC_BYTES_MAX));
            }
            Part::TopicWord(number) => {
                encode::encode_value(out, values.topic.split('.').nth(*number).map(str::as_bytes), leads, limit);
            }
            Part::Partition(width) => push_number(out, i64::from(values.partition), *width),
            Part::First(width) => push_open(out, "first", *width),
            Part::End(width) => push_open(out, "end", *width),
            Part::Field(slot) => {
                let value = values.fields[*slot].and_then(encode::json_value_bytes);
                encode::encode_value(out, value.as_deref(), leads, limit);
            }
            Part::FieldWord(slot, word) => {
                let value = values.fields[*slot].and_then(encode::json_value_bytes);
                let word = value.as_deref().and_then(|value| value.split(|byte| *byte == b'.').nth(*word));
                encode::encode_value(out, word, leads, limit);
            }
            Part::Header(slot) => encode::encode_value(out, values.headers[*slot], leads, limit),
            Part::Key => encode::encode_value(out, values.key, leads, limit),
        }
    }
}

fn push_number(out: &mut String, number: i64, width: Width) {
    write!(out, "{number:0width$}").expect("a string takes everything");
}

fn push_open(out: &mut String, name: &str, width: Width) {
    match width {
        0 => write!(out, "{{{name}}}"),
        _ => write!(out, "{{{name}:0{width}}}"),
    }
    .expect("a string takes everything");
}

fn escape_braces(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests;
