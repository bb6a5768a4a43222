//! The way back from an object's key to what it is of: topic, Kafka partition, offsets.
//!
//! Works on every template that [`super::collide`] accepts, as those tell topic (but for an archive of one topic), Kafka partition
//! and first offset. What a name does not show is `None`: Secor's names have no end. Pure.

use super::Place;
use super::alphabet::ByteSet;
use super::encode::{TOPIC_BYTES_MAX, encode_value};
use super::telling::{fixed_width, held_bytes};
use super::template::{TemplateError, Width};
use super::window::{KeyTemplate, Part, Segment};
use crate::record::OffsetRange;
use regex::Regex;
use std::fmt::Write;
use std::ops::Range;

/// What a key tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'k> {
    /// The topic as it stands in the key, see [`Recogniser::topic_text`]; `None` where names have none.
    pub topic: Option<&'k str>,
    /// Kafka partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
    /// One past the last offset, where names show it.
    pub end: Option<i64>,
    /// Which replay of its batch, where it is one's.
    pub replay: Option<u32>,
    /// Which compaction, where it is one's.
    pub compaction: Option<u32>,
}

/// Reads the keys of one output.
#[derive(Clone, Debug)]
pub struct Recogniser {
    shape: Regex,
    /// How a topic is written where the key tells it: at the start of a segment or not, and its most bytes.
    topic: Option<(bool, usize)>,
    folders: Vec<Segment>,
    /// Where offsets stand.
    offsets: Vec<Number>,
}

/// A group of the expression that is an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Number {
    group: String,
    is_first: bool,
    width: Width,
}

impl Recogniser {
    /// For the keys that [`KeyTemplate::compile`] with the same arguments makes, and for those that replays
    /// ([`super::window::replay_key`]) and compactions ([`super::window::compaction_key`]) make of them.
    ///
    /// # Errors
    /// As [`KeyTemplate::compile`].
    pub fn compile(place: &Place, output: &str, extension: &str, generation: u32) -> Result<Self, TemplateError> {
        let template = KeyTemplate::compile(place, output, extension, generation)?;
        let segments = template.segments();
        let mut writer = Writer::default();
        let ending = if extension.is_empty() { String::new() } else { format!(".{extension}") };
        for (depth, segment) in segments.iter().enumerate() {
            if depth > 0 {
                writer.text.push('/');
            }
            let is_name = depth + 1 == segments.len();
            let mut parts = segment.parts.as_slice();
            // The extension is a part of its own at the end of the name, behind what a replay adds.
            if is_name && !ending.is_empty() {
                parts = &parts[..parts.len() - 1];
            }
            writer.segment(segment.value_limit, parts);
            if is_name {
                let ending = regex::escape(&ending);
                let more =
                    r"(?:\+replay-(?P<replay>[0-9]{1,10}))?(?P<compacted>\+compact-(?P<compaction>[0-9]{1,10}))?";
                writer.text += &format!("{more}{ending}");
            }
        }
        let shape = Regex::new(&format!("^(?s:{})$", writer.text)).expect("only escaped text and fixed shapes");
        let folders = segments[..segments.len() - 1].to_vec();
        Ok(Self { shape, topic: writer.topic, folders, offsets: writer.offsets })
    }

    /// Whether both read the same keys.
    pub fn is_same(&self, other: &Self) -> bool {
        self.shape.as_str() == other.shape.as_str() && self.topic == other.topic
    }

    /// Whether keys tell where their batch ends.
    pub fn tells_end(&self) -> bool {
        self.shape.capture_names().flatten().any(|name| name == "end")
    }

    /// What `key` tells; `None`: it is no such key.
    pub fn read<'k>(&self, key: &'k str) -> Option<Told<'k>> {
        let found = self.shape.captures(key)?;
        let text = |name| found.name(name).map(|found| found.as_str());
        Some(Told {
            topic: text("topic"),
            partition: text("partition")?.parse().ok()?,
            first: text("first")?.parse().ok()?,
            end: text("end").and_then(|end| end.parse().ok()),
            replay: text("replay").and_then(|n| n.parse().ok()),
            compaction: text("compaction").and_then(|n| n.parse().ok()),
        })
    }

    /// `key` as it would be of a batch that covers `range`, and of no compaction; `None`: it is no such key. Keys that are equal then
    /// tell the same but for offsets.
    pub fn with_range(&self, key: &str, range: OffsetRange) -> Option<String> {
        let found = self.shape.captures(key)?;
        let mut places: Vec<(Range<usize>, String)> = Vec::new();
        for Number { group, is_first, width } in &self.offsets {
            let number = if *is_first { range.first } else { range.end };
            places.push((found.name(group)?.range(), format!("{number:0width$}", width = *width)));
        }
        places.extend(found.name("compacted").map(|found| (found.range(), String::new())));
        places.sort_unstable_by_key(|(range, _)| range.start);
        let mut renamed = key.to_string();
        for (range, text) in places.into_iter().rev() {
            renamed.replace_range(range, &text);
        }
        Some(renamed)
    }

    /// How `topic` is written where [`Told::topic`] comes from; `None`: keys do not tell it.
    pub fn topic_text(&self, topic: &str) -> Option<String> {
        let (leads, limit) = self.topic?;
        let mut text = String::new();
        encode_value(&mut text, Some(topic.as_bytes()), leads, limit);
        Some(text)
    }

    /// The folder that all keys of `topic` share, without a slash at its ends, possibly empty; and how many folders lie
    /// between it and them.
    pub fn folder_of(&self, topic: &str) -> (String, usize) {
        let mut folder = String::new();
        for (depth, segment) in self.folders.iter().enumerate() {
            let Some(name) = fixed_segment(segment, topic) else { return (folder, self.folders.len() - depth) };
            if depth > 0 {
                folder.push('/');
            }
            folder.push_str(&name);
        }
        (folder, 0)
    }
}

/// The segment, where it depends on nothing but the topic.
fn fixed_segment(segment: &Segment, topic: &str) -> Option<String> {
    let mut name = String::new();
    for (index, part) in segment.parts.iter().enumerate() {
        match part {
            Part::Text(text) | Part::Output(text) | Part::Generation(text) => name.push_str(text),
            Part::Topic => {
                let limit = segment.value_limit.min(TOPIC_BYTES_MAX);
                encode_value(&mut name, Some(topic.as_bytes()), index == 0, limit);
            }
            Part::TopicWord(word) => {
                let word = topic.split('.').nth(*word).map(str::as_bytes);
                encode_value(&mut name, word, index == 0, segment.value_limit);
            }
            _ => return None,
        }
    }
    Some(name)
}

/// Writes the regular expression. Of each value only the first place is read; equal values stand at the others.
#[derive(Default)]
struct Writer {
    text: String,
    topic: Option<(bool, usize)>,
    partition: bool,
    first: bool,
    end: bool,
    offsets: Vec<Number>,
}

impl Writer {
    fn segment(&mut self, value_limit: usize, parts: &[Part]) {
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Text(text) | Part::Output(text) | Part::Generation(text) => {
                    self.text.push_str(&regex::escape(text))
                }
                Part::Topic if self.topic.is_none() => {
                    self.topic = Some((index == 0, value_limit.min(TOPIC_BYTES_MAX)));
                    write!(self.text, "(?P<topic>{}+)", class(ByteSet::ENCODED)).expect("a string takes everything");
                }
                Part::Partition(width) => {
                    let again = std::mem::replace(&mut self.partition, true);
                    let group = if again { "?:" } else { "?P<partition>" };
                    let (least, most) = ((*width).max(1), (*width).max(10));
                    write!(self.text, "({group}[0-9]{{{least},{most}}})").expect("a string takes everything");
                }
                Part::First(width) => {
                    let again = std::mem::replace(&mut self.first, true);
                    self.number("first", *width, 19, again);
                }
                Part::End(width) => {
                    let again = std::mem::replace(&mut self.end, true);
                    self.number("end", *width, 19, again);
                }
                other => {
                    let class = class(held_bytes(other));
                    match fixed_width(other) {
                        Some(width) => write!(self.text, "{class}{{{width}}}"),
                        None => write!(self.text, "{class}+"),
                    }
                    .expect("a string takes everything");
                }
            }
        }
    }

    fn number(&mut self, name: &str, width: usize, digits_max: usize, again: bool) {
        let (least, most) = (width.max(1), width.max(digits_max));
        let group = if again { format!("{name}_{}", self.offsets.len()) } else { name.to_string() };
        write!(self.text, "(?P<{group}>[0-9]{{{least},{most}}})").expect("a string takes everything");
        self.offsets.push(Number { group, is_first: name == "first", width });
    }
}

/// A class of the regular expression with the ASCII bytes of `set`.
fn class(set: ByteSet) -> String {
    let bytes = (0x20..0x7f_u8).filter(|byte| *byte != b'/' && set.contains(*byte));
    let escaped: String = bytes.map(|byte| format!(r"\x{byte:02x}")).collect();
    format!("[{escaped}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Ending;
    use crate::layout::preset::{NAMES, preset};
    use crate::layout::window::{WindowValues, compaction_key, replay_key};
    use proptest::prelude::*;

    fn place(path: &str, name: &str) -> Place {
        let destinations = vec!["file:///x".to_string()];
        Place { path: path.into(), name: name.into(), zone: "UTC".into(), destinations, ending: Ending::Whole }
    }

    fn values(topic: &str, partition: i32, event_ms: i64) -> WindowValues<'_> {
        WindowValues { topic, partition, event_ms, fields: &[], headers: &[], key: None }
    }

    proptest! {
        /// Goal: whatever a preset makes is read back, its replays too.
        #[test]
        fn keys_are_read_back(
            topic in "[a-zA-Z0-9._-]{1,249}", partition in 0..i32::MAX, first in 0..i64::MAX - 1_000_000, count in 0..1_000_000_i64,
            event_ms in 0..4_000_000_000_000_i64, generation in 1..3_u32, replay in prop::option::of(1..9_999_u32),
        ) {
            let end = first + count;
            for name in NAMES {
                let preset = preset(name).expect("a preset");
                let place = place(preset.path, preset.name);
                let recogniser = Recogniser::compile(&place, "json", "json.gz", generation).expect("valid");
                let template = KeyTemplate::compile(&place, "json", "json.gz", generation).expect("valid");
                let window = template.window(&values(&topic, partition, event_ms));
                let mut key = window.key(OffsetRange::new(first, end));
                if let Some(n) = replay {
                    let Some(renamed) = replay_key(&key, "json.gz", n) else { continue };
                    key = renamed;
                }
                let told = recogniser.read(&key).expect(&key);
                let text = recogniser.topic_text(&topic);
                prop_assert_eq!((told.topic, told.partition, told.first), (text.as_deref(), partition, first), "{}", key);
                prop_assert_eq!(told.end, (name != "secor").then_some(end), "{}", key);
                prop_assert_eq!((told.replay, told.compaction), (replay, None), "{}", key);
                let wider = window.key(OffsetRange::new(first, end + 7));
                if replay.is_none() {
                    prop_assert_eq!(recogniser.with_range(&key, OffsetRange::new(first, end + 7)), Some(wider.clone()));
                    if let Some(compacted) = compaction_key(&wider, "json.gz", "json.gz", 3) {
                        let told = recogniser.read(&compacted).expect(&compacted);
                        prop_assert_eq!((told.first, told.compaction), (first, Some(3)));
                        prop_assert_eq!(recogniser.with_range(&compacted, OffsetRange::new(first, end)), Some(key.clone()));
                    }
                }
                let (folder, depth) = recogniser.folder_of(&topic);
                prop_assert!(folder.is_empty() || key.starts_with(&format!("{folder}/")), "{}", key);
                let folders = key.split('/').count() - 1;
                prop_assert_eq!(depth, folders - folder.split('/').filter(|name| !name.is_empty()).count());
            }
        }

        #[test]
        fn any_text_is_read_or_refused(key in ".{0,60}") {
            let recogniser = Recogniser::compile(&place("{topic}/%H", "{partition}+{first}"), "o", "", 1).expect("valid");
            recogniser.read(&key);
        }
    }

    #[test]
    fn names_of_others_tell_nothing() {
        let hive = preset("hive").expect("a preset");
        let recogniser = Recogniser::compile(&place(hive.path, hive.name), "json", "json.gz", 1).expect("valid");
        let good = "t/dt=2025-11-21/hr=03/t+00003+00000000000000001000-00000000000000002000.json.gz";
        assert_eq!(recogniser.read(good).map(|told| told.first), Some(1000));
        for other in [
            "t/dt=2025-11-21/hr=03/_SUCCESS".to_string(),
            good.replace(".json.gz", ".json"),
            good.replace("+00003", "+x0003"),
            good.replace("dt=2025", "dt=x025"),
            good.replace("hr=03/", ""),
            format!("{good}.tmp"),
            format!("x/{good}"),
            good.replace(".json.gz", "+replay-x.json.gz"),
            good.replace("00000000000000001000", "99999999999999999999"),
        ] {
            assert_eq!(recogniser.read(&other), None, "{other}");
        }
        assert_eq!(recogniser.folder_of("t"), ("t".to_string(), 2));
    }

    #[test]
    fn fields_and_words_are_passed_over() {
        let place = place("{topic[0]}/{field.a}/%Y", "{header.h}={partition}+{first}-{end}");
        let recogniser = Recogniser::compile(&place, "json", "json", 1).expect("valid");
        let told = recogniser.read("app/x%20y/2025/v=3+10-20.json").expect("one of its keys");
        assert_eq!((told.topic, told.partition, told.first, told.end), (None, 3, 10, Some(20)));
        assert_eq!(recogniser.folder_of("app.access"), ("app".to_string(), 2));
        assert_eq!(recogniser.topic_text("app.access"), None);
    }
}
