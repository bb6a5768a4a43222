//! `[[archive.hook]]`: who is told of batches and of complete folders.

use super::archive::{self, Surroundings};
use super::raw::{Field, Section};
use super::shape::{self, Shape};
use super::{HookConfig, HookOn, HookTo, LoadConfig, Secret, TopicPatterns};
use std::ops::RangeInclusive;
use std::time::Duration;
use url::Url;

/// `archive.hook.timeout`: 1 s to 1 h, default 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

const TYPES: &[(&str, &Shape)] =
    &[("command", &shape::HOOK_COMMAND), ("http", &shape::HOOK_HTTP), ("kafka", &shape::HOOK_KAFKA)];
const COMMAND: &str = "a program and its arguments: [\"program\", \"argument\", …]; nothing is given to a shell";
const URL: &str = "http://… or https://…, without user, password or fragment";
const TOPIC: &str = "a topic that the archive does not take: 1 to 249 letters, digits, `.`, `-`, `_`";
const ON: &str = "batch, folder, or a list of both";

/// What the archive has of them.
pub(super) fn resolve(
    archive: &Section<'_>,
    topics: &TopicPatterns,
    loads: &[LoadConfig],
    surroundings: &Surroundings<'_>,
) -> Vec<HookConfig> {
    const NEEDED: &str = "sections [[archive.hook]]";
    let fields = archive.field("hook").map(Field::hide).and_then(|field| field.list(NEEDED)).unwrap_or_default();
    let mut hooks: Vec<HookConfig> = Vec::new();
    for field in fields {
        let kinds: Vec<_> = TYPES.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
        let Some(kind) = field.peek("type").and_then(|kind| kind.show().choice(&kinds)) else {
            if field.is_table() && field.peek("type").is_none() {
                field.wrong::<()>("it has no type", "type = \"command\", \"http\" or \"kafka\"");
            }
            continue;
        };
        let Some(section) = field.section(TYPES[kind].1) else { continue };
        let to = match TYPES[kind].0 {
            "command" => command(&section, surroundings),
            "http" => http(&section),
            _ => kafka(&section, topics),
        };
        let name = archive::name(&section, "name").unwrap_or(TYPES[kind].0).to_string();
        let on = on(&section, archive.has("complete"));
        let timeout = section.field("timeout").and_then(|field| field.show().time(TIMEOUT)).unwrap_or(DEFAULT_TIMEOUT);
        if hooks.iter().any(|other| other.name == name) || loads.iter().any(|other| other.name == name) {
            section.cross(
                "name",
                "the same name as another hook or loader of this archive".to_string(),
                "another name for each hook; without one it is the type".to_string(),
            );
        }
        hooks.extend(to.map(|to| HookConfig { name, to, on, timeout }));
    }
    hooks
}

/// What is told. Without a word of it: batches, and folders where they are completed.
fn on(section: &Section<'_>, completes: bool) -> HookOn {
    let all = HookOn { batch: true, folder: completes };
    let Some(field) = section.field("on").map(Field::show) else { return all };
    let Some(items) = field.one_or_many(ON) else { return all };
    let mut on = HookOn { batch: false, folder: false };
    for item in &items {
        match item.choice(&[("batch", true), ("folder", false)]) {
            Some(true) => on.batch = true,
            Some(false) => on.folder = true,
            None => {}
        }
    }
    if items.is_empty() {
        field.wrong::<()>("empty: nothing would be told", ON);
    }
    if on.folder && !completes {
        field.wrong::<()>(
            "folders are told when they are complete, and nothing completes them",
            "a section [archive.complete], which may be empty, or on = \"batch\"",
        );
    }
    on
}

fn needed<'a>(section: &Section<'a>, key: &'static str, allowed: &str) -> Option<Field<'a>> {
    if !section.has(key) {
        section.missing(key, "missing", allowed);
    }
    section.field(key)
}

fn command(section: &Section<'_>, surroundings: &Surroundings<'_>) -> Option<HookTo> {
    let field = needed(section, "command", COMMAND)?;
    let items = field.one_or_many(COMMAND)?;
    let mut words = Vec::new();
    for item in &items {
        let text = match &item.node.value {
            // An argument may be empty.
            super::tree::Value::Text(text) if text.is_empty() && !words.is_empty() => "",
            _ => item.text(COMMAND)?,
        };
        if text.contains('\0') {
            return item.wrong("a zero byte cannot stand in a command", COMMAND);
        }
        words.push(text.to_string());
    }
    let Some((program, arguments)) = words.split_first() else { return field.wrong("empty", COMMAND) };
    let program = match program.contains('/') {
        true => surroundings.base_dir.join(program).to_string_lossy().to_string(),
        false => program.clone(),
    };
    Some(HookTo::Command { program, arguments: arguments.iter().map(Secret::new).collect() })
}

fn http(section: &Section<'_>) -> Option<HookTo> {
    let token = section.field("token").and_then(|field| {
        let token = field.word(4_096, |c| c.is_ascii_graphic(), "a token of printable letters without blanks")?;
        Some(Secret::new(token))
    });
    let field = needed(section, "url", URL)?;
    let text = field.text(URL)?;
    let is_right = |url: &Url| {
        let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        ["http", "https"].contains(&url.scheme()) && url.has_host() && is_bare
    };
    match Url::parse(text).ok().filter(is_right) {
        Some(url) => Some(HookTo::Http { url: Secret::new(url.as_str()), token }),
        None => field.wrong("not a URL to post to; it is not shown, because it may hold a secret", URL),
    }
}

fn kafka(section: &Section<'_>, topics: &TopicPatterns) -> Option<HookTo> {
    let field = needed(section, "topic", TOPIC)?.show();
    let topic = field.text(TOPIC)?;
    if !archive::is_topic(topic) {
        return field.wrong("not a name of a topic", TOPIC);
    }
    if topics.matches(topic) {
        return field.wrong("the archive takes this topic: each receipt would make another one, for ever", TOPIC);
    }
    Some(HookTo::Kafka { topic: topic.to_string() })
}
