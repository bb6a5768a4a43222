//! `[[archive]]`: topics, decoding, event time, rotation and dead letters. Outputs are in [`super::output`].

use super::error::did_you_mean;
use super::interpolate::is_per_process;
use super::raw::{Field, Section};
use super::tree::{Node, Value, join};
use super::{
    ArchiveConfig, CompleteConfig, DestinationConfig, Rotate, TopicPatterns, decode, hook, load, output, place,
    program, registry, resolve, shape, time,
};
use crate::complete::calendars::calendars;
use crate::layout::preset::Preset;
use crate::layout::template::TemplateKind;
use crate::layout::{
    CodeRevision, DeadLetterFormat, DeadLetterLayout, Decode, LAYOUT_VERSION, Layout, OutputLayout, Place,
    TimestampSource, Tombstones,
};
use crate::load::table::tells_apart;
use regex::Regex;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// `archive.name` where none is given.
pub const DEFAULT_ARCHIVE: &str = "main";
/// `archive.max_future`: 1 s to 3650 d, default 1 h.
pub const DEFAULT_MAX_FUTURE: Duration = Duration::from_secs(3_600);

/// `archive.complete.allowed_lateness`: 0 s to 30 d, default 10 min.
pub const DEFAULT_ALLOWED_LATENESS: Duration = Duration::from_secs(600);
/// `archive.complete.idle_grace`: 0 s to 1 d, default 5 min.
pub const DEFAULT_IDLE_GRACE: Duration = Duration::from_secs(300);
/// `archive.complete.marker` where none is given.
pub const DEFAULT_MARKER: &str = "_SUCCESS";

/// `archive.complete.revise_after`: 0 s to 1 d, default 5 min.
pub const DEFAULT_REVISE_AFTER: Duration = Duration::from_secs(300);

const REVISE_AFTER: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const ALLOWED_LATENESS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);
const IDLE_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const MARKER: &str = "_ and up to 63 letters, digits, `.`, `-` or `_`: engines pass over files that begin so";
const MAX_FUTURE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_650 * 86_400);
const GENERATION: RangeInclusive<u64> = 1..=1_000_000;
/// Keys of an archive that decide neither names nor rows.
const FREE_KEYS: &[&str] =
    &["topics", "exclude", "rotate", "on_gap", "max_future", "complete", "load", "hook", "content_encoding"];
pub(super) const NAME: &str = "1 to 64 letters, digits, `.`, `-` or `_`, the first one a letter or digit";
const TOPICS: &str = "names of 1 to 249 letters, digits, `.`, `-`, `_`, or patterns that start with ^";

/// What an archive needs from the rest of the file.
pub(super) struct Surroundings<'a> {
    pub(super) base_dir: &'a Path,
    pub(super) destinations: &'a BTreeMap<String, DestinationConfig>,
    pub(super) rotate: Rotate,
    /// `memory.budget`, where it is right.
    pub(super) budget: Option<u64>,
    /// There is a section `[registry]`.
    pub(super) has_registry: bool,
}

/// An archive, and where it stands in the file.
pub(super) struct Placed<'f> {
    pub(super) config: ArchiveConfig,
    pub(super) field: Field<'f>,
    /// Its outputs in the order of the layout; `None` for the one that is not in the file.
    pub(super) outputs: Vec<Option<Field<'f>>>,
}

/// All archives in file order.
pub(super) fn resolve<'f>(root: &Section<'f>, surroundings: &Surroundings<'_>) -> Vec<Placed<'f>> {
    const NEEDED: &str = "at least one section [[archive]] with topics";
    let fields = match root.field("archive") {
        Some(field) => field.list(NEEDED).unwrap_or_default(),
        None => {
            if !root.has("archive") {
                root.missing("archive", "no archive is given", NEEDED);
            }
            return Vec::new();
        }
    };
    if let Some(field) = root.field("archive").filter(|field| field.is_empty_list()) {
        field.wrong::<()>("empty: nothing would be archived", NEEDED);
    }
    let mut archives = Vec::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    refuse_per_process_urls(root);
    for field in &fields {
        let Some(section) = field.section(&shape::ARCHIVE) else { continue };
        refuse_per_process(field);
        let (config, outputs) = archive(&section, surroundings);
        if let Some(other) = names.insert(config.name.clone(), section.path.clone()) {
            section.cross(
                "name",
                format!("the same name as {other}"),
                format!("another name for each archive; without one it is {DEFAULT_ARCHIVE}"),
            );
        }
        for (topic, item) in named_topics(&section) {
            if let Some(other) = owners.insert(topic, section.path.clone()).filter(|other| *other != section.path) {
                item.wrong::<()>(
                    format!("{other} claims this topic by name, too"),
                    "each topic in one archive; several outputs of one archive share one read",
                );
            }
        }
        archives.push(Placed { config, field: field.clone(), outputs });
    }
    archives
}

/// The topics that an archive names, with where they stand.
fn named_topics<'a>(section: &Section<'a>) -> Vec<(String, Field<'a>)> {
    let items = section.field("topics").map(|field| field.items()).unwrap_or_default();
    let text = |item: Field<'a>| match &item.node.value {
        Value::Text(text) if is_topic(text) => Some((text.clone(), item)),
        _ => None,
    };
    items.into_iter().filter_map(text).collect()
}

/// Refuses variables of one process in everything that decides names and rows.
fn refuse_per_process(archive: &Field<'_>) {
    let Value::Table(table) = &archive.node.value else { return };
    for (key, node) in table {
        if !FREE_KEYS.contains(&key.as_str()) {
            refuse_in(archive, &join(&archive.path, key), node);
        }
    }
}

/// The same for the URLs of destinations: they are part of the layout.
fn refuse_per_process_urls(root: &Section<'_>) {
    let Some(destinations) = root.field("destinations").filter(Field::is_table) else { return };
    for (_, destination) in destinations.hide().entries("").unwrap_or_default() {
        if let Some(url) = destination.peek("url") {
            refuse_in(&url, &url.path, url.node);
        }
    }
}

fn refuse_in(field: &Field<'_>, path: &str, node: &Node) {
    node.all_variables(path, &mut |path, node| {
        for variable in node.variables.iter().filter(|name| is_per_process(name)) {
            field.at(path, node).wrong::<()>(
                format!("the variable {variable} differs between processes, and this value decides names or rows"),
                "values that are equal in every process of the group and after every restart",
            );
        }
    });
}

fn archive<'f>(section: &Section<'f>, surroundings: &Surroundings<'_>) -> (ArchiveConfig, Vec<Option<Field<'f>>>) {
    let name = name(section, "name").unwrap_or(DEFAULT_ARCHIVE).to_string();
    let decode = section
        .field("decode")
        .and_then(|field| decode::decode(&field, surroundings.base_dir))
        .unwrap_or(decode::DEFAULT);
    registry::check_decode(section, &decode, surroundings.has_registry);
    let timestamp = time::rule(section);
    if decode == Decode::Raw && matches!(timestamp.source, TimestampSource::Field(_)) {
        section.cross(
            "timestamp",
            "a field, but decode = \"raw\" looks into no payload".to_string(),
            "a header, the Kafka timestamp, or decode = \"json\"".to_string(),
        );
    }
    let outputs = output::resolve(section, surroundings, &decode);
    let of_rows = (0..).zip(&outputs).filter(|(_, output)| !output.layout.format.takes_every_record());
    let of_rows: Vec<_> = of_rows.map(|(index, output)| (output.layout.name.clone(), index)).collect();
    let transform = program::transform(section, surroundings.base_dir, &decode, &of_rows);
    let mut destination_names: Vec<_> = outputs.iter().map(|output| output.destinations.clone()).collect();
    let first = destination_names.first().cloned().unwrap_or_default();
    let (dead_letters, dead_letter_names) = dead_letters(section, surroundings, first);
    destination_names.push(dead_letter_names);
    let (outputs, fields): (Vec<_>, Vec<_>) = outputs.into_iter().map(|output| (output.layout, output.field)).unzip();
    let layout = Layout {
        version: LAYOUT_VERSION,
        code: CodeRevision::current(),
        archive: name.clone(),
        generation: section
            .field("generation")
            .and_then(|field| field.count(GENERATION))
            .and_then(|generation| u32::try_from(generation).ok())
            .unwrap_or(1),
        transform,
        decode,
        timestamp,
        tombstones: section
            .field("tombstones")
            .and_then(|field| {
                field.choice(&[
                    ("keep", Tombstones::Keep),
                    ("dead_letter", Tombstones::DeadLetter),
                    ("drop", Tombstones::Drop),
                ])
            })
            .unwrap_or(Tombstones::Keep),
        outputs,
        dead_letters,
    };
    let topics = topics(section);
    let complete = complete(section, &layout, &topics);
    let loads = load::resolve(section, &layout, &topics, complete.as_ref(), &destination_names, surroundings);
    let hooks = hook::resolve(section, &topics, &loads, surroundings);
    let config = ArchiveConfig {
        name,
        topics,
        layout,
        destination_names,
        rotate: resolve::rotate(&section.section("rotate", &shape::ARCHIVE_ROTATE), surroundings.rotate),
        complete,
        loads,
        hooks,
        halt_on_gap: section
            .field("on_gap")
            .and_then(|field| field.choice(&[("continue", false), ("halt", true)]))
            .unwrap_or(false),
        max_future: section.field("max_future").and_then(|field| field.time(MAX_FUTURE)).unwrap_or(DEFAULT_MAX_FUTURE),
        content_encoding: section.field("content_encoding").and_then(|field| field.flag()).unwrap_or(false),
    };
    (config, fields)
}

/// When folders are complete; `None` where the section is not there.
fn complete(section: &Section<'_>, layout: &Layout, topics: &TopicPatterns) -> Option<CompleteConfig> {
    let field = section.field("complete")?;
    let complete = field.section(&shape::COMPLETE)?;
    if section.is_sound(&["output"]) && calendars(layout).is_empty() {
        field.wrong::<()>(
            "no output has a `path` that shows the event time, so no folder is ever complete",
            "strftime parts such as dt=%Y-%m-%d/hr=%H in the path of an output; `siltstone help layout`",
        );
    }
    if section.is_sound(&["output", "topics"]) {
        check_folders_of_one(&field, topics, layout);
    }
    let marker = || {
        let field = complete.field("marker")?;
        let marker = field.word(64, |c| c.is_ascii_alphanumeric() || "._-".contains(c), MARKER)?;
        if !marker.starts_with('_') {
            return field.wrong("it begins with something else than _", MARKER);
        }
        match ["_metadata", "_common_metadata", "_delta_log", "_temporary"].contains(&marker) {
            true => field.wrong("engines take a file of that name for something else", MARKER),
            false => Some(marker.to_string()),
        }
    };
    let time = |key, range, default| complete.field(key).and_then(|field| field.time(range)).unwrap_or(default);
    Some(CompleteConfig {
        allowed_lateness: time("allowed_lateness", ALLOWED_LATENESS, DEFAULT_ALLOWED_LATENESS),
        idle_grace: time("idle_grace", IDLE_GRACE, DEFAULT_IDLE_GRACE),
        revise_after: time("revise_after", REVISE_AFTER, DEFAULT_REVISE_AFTER),
        marker: marker().unwrap_or_else(|| DEFAULT_MARKER.to_string()),
    })
}

/// A folder is complete when all of its topic and output is: each has folders of its own.
fn check_folders_of_one(complete: &Field<'_>, topics: &TopicPatterns, layout: &Layout) {
    let timed = calendars(layout);
    let outputs: Vec<_> = layout.outputs.iter().filter(|output| timed.contains_key(&output.name)).collect();
    for (index, output) in outputs.iter().enumerate() {
        let path = &output.place.path;
        // Another piece may hold the date.
        let has_others = tells_apart(path).iter().any(|piece| piece != "{partition}");
        if timed[&output.name].comes_back() && !has_others {
            complete.wrong::<()>(
                format!("folders of output {:?} come back: path = {path:?} shows a time without its date, so no folder is ever complete", output.name),
                "year, month and day in the path, as in dt=%Y-%m-%d/hr=%H",
            );
        }
        if topics.only().is_none() && !path.contains("{topic}") {
            complete.wrong::<()>(
                format!("topics share folders: path = {path:?} of output {:?} does not tell them apart, so no folder is ever known to be complete", output.name),
                "{topic} in the path of every output, or one topic in the archive",
            );
        }
        let shares = |other: &&&OutputLayout| {
            other.place.path == *path
                && other.place.destinations.iter().any(|one| output.place.destinations.contains(one))
        };
        if let Some(other) = outputs[..index].iter().find(shares).filter(|_| !path.contains("{output}")) {
            complete.wrong::<()>(
                format!(
                    "outputs {:?} and {:?} share folders, so no folder is ever known to be complete",
                    other.name, output.name
                ),
                "a path of its own for every output, as with {output}",
            );
        }
    }
}

/// A name that can be part of a path.
pub(super) fn name<'a>(section: &Section<'a>, key: &'static str) -> Option<&'a str> {
    let field = section.field(key)?;
    let name = field.word(64, |c| c.is_ascii_alphanumeric() || "._-".contains(c), NAME)?;
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Some(name)
    } else {
        field.wrong("it starts with a punctuation mark", NAME)
    }
}

fn topics(section: &Section<'_>) -> TopicPatterns {
    let (names, patterns) = match section.field("topics") {
        Some(field) => selection(&field, false),
        None => {
            if !section.has("topics") {
                section.missing("topics", "missing", TOPICS);
            }
            (Vec::new(), Vec::new())
        }
    };
    let (exclude_names, exclude_patterns) =
        section.field("exclude").map(|field| selection(&field, true)).unwrap_or_default();
    let topics = TopicPatterns { names, patterns, exclude_names, exclude_patterns };
    if let Some(field) = section.field("topics") {
        refuse_hopeless_patterns(&field);
    }
    for (_, item) in named_topics(section).iter().filter(|(name, _)| !topics.matches(name)) {
        item.wrong::<()>("named here, but left out by `exclude`", "names that `exclude` does not match");
    }
    topics
}

/// Refuses patterns of `topics` that can match nothing. Only where that is sure: `^__?x` and `^__x|y` match other topics.
fn refuse_hopeless_patterns(topics: &Field<'_>) {
    for item in topics.items() {
        let Value::Text(text) = &item.node.value else { continue };
        let Some(rest) = text.strip_prefix("^__") else { continue };
        if !rest.starts_with(['?', '*', '{']) && !rest.contains('|') {
            item.wrong::<()>(
                "it can match nothing: topics that start with __ match no pattern",
                "such topics by their exact names",
            );
        }
    }
}

type Selection = (Vec<String>, Vec<(String, Regex)>);

fn selection(field: &Field<'_>, may_be_empty: bool) -> Selection {
    let mut selection: Selection = Default::default();
    let Some(items) = field.list(TOPICS) else { return selection };
    if items.is_empty() && !may_be_empty {
        field.wrong::<()>("empty: nothing would be archived", TOPICS);
    }
    for item in items {
        let Some(text) = item.text(TOPICS) else { continue };
        if text.starts_with('^') {
            match from_start(text) {
                Ok(pattern) => selection.1.push((text.to_string(), pattern)),
                Err(problem) => item.wrong(format!("not a pattern: {problem}"), TOPICS).unwrap_or(()),
            }
        } else if is_topic(text) {
            if selection.0.iter().any(|name| name == text) {
                item.wrong::<()>("named twice", TOPICS);
            }
            selection.0.push(text.to_string());
        } else {
            item.wrong::<()>("not a name of a topic", TOPICS);
        }
    }
    selection
}

pub(super) fn is_topic(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=249).contains(&text.len()) && text != "." && text != ".." && text.chars().all(legal)
}

/// Compiles a pattern, which matches from the start of a name as in Kafka's own clients; `$` at its end makes it match whole
/// names only.
fn from_start(text: &str) -> Result<Regex, String> {
    let last_line = |error: regex::Error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string()
    };
    Regex::new(text).map_err(last_line)?;
    Regex::new(&format!(r"\A(?:{text})")).map_err(last_line)
}

fn dead_letters(
    section: &Section<'_>,
    surroundings: &Surroundings<'_>,
    first_output: Vec<String>,
) -> (DeadLetterLayout, Vec<String>) {
    let section = section.section("dead_letters", &shape::DEAD_LETTERS);
    let names = match section.field("destination") {
        Some(field) => destinations(&field, surroundings),
        None => first_output,
    };
    let no_fields = "a field, but dead letters are kept as they came, without decoding: it would always be null";
    let place = place(&section, place::of_dead_letters(), Some(no_fields), urls(&names, surroundings));
    let formats = [("json", DeadLetterFormat::Json), ("parquet", DeadLetterFormat::Parquet)];
    let format = section.field("format").and_then(|field| field.choice(&formats)).unwrap_or_default();
    (DeadLetterLayout { place, format }, names)
}

/// Path, name and zone of `section` over those of a preset. `no_fields`: why there is no `{field.…}`, where there is none.
pub(super) fn place(section: &Section<'_>, base: Preset, no_fields: Option<&str>, destinations: Vec<String>) -> Place {
    let field = if no_fields.is_some() { "" } else { "{field.a.b}, " };
    let allowed = format!(
        "text with {{topic}}, {{topic[1]}}, {{partition}}, {{first}}, {{end}}, {{output}}, {{generation}}, {field}\
         {{header.x}}, {{key}} and strftime parts; `siltstone help layout`"
    );
    let template = |key, kind, base: &str| {
        let Some(field) = section.field(key) else { return base.to_string() };
        // A path may be empty: objects then lie in the destination's own folder.
        let text = match &field.node.value {
            Value::Text(text) => text,
            _ => return field.text(&allowed).unwrap_or(base).to_string(),
        };
        if let Err(problem) = place::check_template(text, kind, no_fields) {
            field.wrong::<()>(problem, &allowed);
        }
        text.to_string()
    };
    Place {
        path: template("path", TemplateKind::Path, base.path),
        name: template("name", TemplateKind::Name, base.name),
        zone: section.field("zone").and_then(|field| time::zone(&field)).unwrap_or_else(|| "UTC".to_string()),
        destinations,
        ending: base.ending,
    }
}

/// The destinations that an output or the dead letters name: known ones, each once.
pub(super) fn destinations(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Vec<String> {
    let known = || surroundings.destinations.keys().map(String::as_str);
    let allowed =
        format!("one or several of the sections [destinations.*]: {}", known().collect::<Vec<_>>().join(", "));
    let mut names: Vec<String> = Vec::new();
    let Some(items) = field.one_or_many(&allowed) else { return names };
    if items.is_empty() {
        field.wrong::<()>("empty", &allowed);
    }
    for item in items {
        let Some(name) = item.text(&allowed) else { continue };
        let Some(destination) = surroundings.destinations.get(name) else {
            item.wrong::<()>(format!("no such destination{}", did_you_mean(name, known())), &allowed);
            continue;
        };
        let same = |other: &&String| {
            surroundings
                .destinations
                .get(*other)
                .is_some_and(|other| other.url == destination.url && !other.url.is_empty())
        };
        if names.iter().any(|other| other == name) {
            item.wrong::<()>("named twice", &allowed);
        } else if let Some(other) = names.iter().find(same) {
            item.wrong::<()>(format!("the same URL as the destination {}", other), &allowed);
        }
        names.push(name.to_string());
    }
    names
}

/// The URLs of destinations.
pub(super) fn urls(names: &[String], surroundings: &Surroundings<'_>) -> Vec<String> {
    names.iter().filter_map(|name| surroundings.destinations.get(name)).map(|found| found.url.clone()).collect()
}
