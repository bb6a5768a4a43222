//! Refuses templates whose object keys could collide: between topics, Kafka partitions, outputs or batches.
//!
//! # What must never be equal
//! The keys of two parts that differ in topic, Kafka partition, first offset, window, output, archive or generation.
//! (`end` need not tell anything apart: the protocol fixes one end for every first offset.) And no data object may lie
//! under [`CONTROL_FOLDER`].
//!
//! # Why what is accepted cannot collide
//! Values never hold a `/` ([`super::encode`]), so a key falls into as many segments as its template, and each segment
//! can be taken by itself.
//!
//! *One output.* A segment is read from its left: text and parts of a fixed width are passed over; so is a part that
//! is followed by a byte which it cannot hold itself, or by the end; so is a part whose value another segment has
//! already told. The same from its right. What is passed over on either side is a function of the key alone, and so is
//! what remains in the middle, as a whole; a single part that remains is therefore told too. Accepted is: topic
//! (unless the archive has exactly one), Kafka partition, first offset and, where shown, generation are told by some
//! segment, and no offset remains in an undivided middle. Then equal keys have equal topic, partition and first
//! offset, and the text around the offsets is equal, which is to say: the window.
//!
//! *Two outputs.* Either no text at all is in both sets of keys, computed with every placeholder widened to all it
//! can hold (`language.rs`). Or the two belong to different archives, and one segment is the same template in
//! both, at the same depth, and tells the topic by itself: an equal key would mean an equal topic, and a topic
//! belongs to one archive.
//!
//! *Two generations of one archive.* A shown generation is told as above. One that is prefixed (`g2-`) either makes
//! the two sets of keys disjoint, or everything behind the prefix is told from the right, with the topic known from a
//! folder: then equal keys would have equal text behind different prefixes.
//!
//! All of this takes two topics or values whose texts end in the same 64 bits of a SHA-256 for equal. Templates that
//! an archive had before are not looked at.

use super::Place;
use super::alphabet::ByteSet;
use super::encode::NULL_VALUE;
use super::language::Language;
use super::telling::{fixed_width, held_bytes, last_bytes, passes, tell};
use super::template::TemplateError;
use super::window::{KeyTemplate, Part, Segment};
use percent_encoding::percent_decode_str;
use std::fmt;

/// Folder of claims, receipts, layouts and schemas, under each destination.
pub const CONTROL_FOLDER: &str = "_siltstone";

/// One output, or the dead letters, of one archive.
#[derive(Clone, Debug)]
pub struct Claimant<'a> {
    /// Name of the archive.
    pub archive: &'a str,
    /// Name of the output, unique in the archive.
    pub output: &'a str,
    /// Its templates.
    pub place: &'a Place,
    /// What its names end in, without the first dot.
    pub extension: &'a str,
    /// The topic, if the archive can only ever have this one.
    pub topic: Option<&'a str>,
    /// The archive's generation, from 1.
    pub generation: u32,
    /// Where the objects go.
    pub spots: Vec<Spot>,
}

/// A prefix in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Whatever names the store and bucket: two spots of one bucket have equal ones.
    pub store: String,
    /// The prefix inside, without slashes at its ends; may be empty.
    pub prefix: String,
}

impl Spot {
    /// Splits a destination's URL; what is percent-encoded in it is a prefix of keys as it stands in the store. `endpoint` keeps servers apart that serve buckets of the same name.
    pub fn from_url(url: &str, endpoint: Option<&str>) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = percent_decode_str(path).decode_utf8_lossy();
        let prefix: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        Self { store: format!("{scheme}://{host} {}", endpoint.unwrap_or_default()), prefix: prefix.join("/") }
    }
}

/// Why a set of outputs is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Collision {
    /// A template is not valid in itself.
    #[error("{who}: {error}")]
    Template {
        /// Whose.
        who: Who,
        /// What is wrong.
        error: TemplateError,
    },
    /// Something that tells parts apart is not in the templates.
    #[error("{who}: {what} could get equal keys; add {placeholder} to {place}")]
    Missing {
        /// Whose.
        who: Who,
        /// What would collide.
        what: &'static str,
        /// What to add.
        placeholder: &'static str,
        /// Where.
        place: &'static str,
    },
    /// Something that tells parts apart is there, but runs into its neighbours.
    #[error(
        "{who}: {what} could get equal keys, because {placeholder} runs into its neighbours; put a character between that \
         neither side can hold (+ or =), or make {placeholder} a folder of its own"
    )]
    Undelimited {
        /// Whose.
        who: Who,
        /// What would collide.
        what: &'static str,
        /// Which.
        placeholder: &'static str,
    },
    /// Objects of an earlier generation could have equal keys.
    #[error("{who}: objects of another generation could get equal keys; add {{generation}}+ to the start of `name`")]
    Generations {
        /// Whose.
        who: Who,
    },
    /// Two outputs of one archive.
    #[error(
        "{one} and {other} could get equal keys; start `path` of each with a folder of its own, or with {{output}}/"
    )]
    Outputs {
        /// The first.
        one: Who,
        /// The second.
        other: Who,
    },
    /// Outputs of two archives.
    #[error(
        "{one} and {other} could get equal keys; start `path` of each with a folder of its own, or make {{topic}} the \
         same folder of both"
    )]
    Archives {
        /// The first.
        one: Who,
        /// The second.
        other: Who,
    },
    /// Objects could land among claims and receipts.
    #[error(
        "{who}: objects could land in `{CONTROL_FOLDER}/` of a destination, which holds claims and receipts; start `path` with another folder"
    )]
    ControlFolder {
        /// Whose.
        who: Who,
    },
}

/// Names an output in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Archive.
    pub archive: String,
    /// Output.
    pub output: String,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "archive `{}`, output `{}`", self.archive, self.output)
    }
}

/// Checks that no two parts of these outputs can ever have one key. Give it every output and the dead letters of every
/// archive of a configuration.
///
/// # Errors
/// Every [`Collision`] that is possible, in the order of `claimants`. Some of them may never happen with the data at hand.
pub fn check(claimants: &[Claimant<'_>]) -> Result<(), Vec<Collision>> {
    let mut problems = Vec::new();
    let mut compiled = Vec::new();
    for claimant in claimants {
        match KeyTemplate::compile(claimant.place, claimant.output, claimant.extension, claimant.generation) {
            Ok(template) => compiled.push(Compiled::new(claimant, &template)),
            Err(error) => problems.push(Collision::Template { who: claimant.who(), error }),
        }
    }
    for (index, one) in compiled.iter().enumerate() {
        one.check_alone(&mut problems);
        one.check_control(&compiled, &mut problems);
        for other in &compiled[index + 1..] {
            one.check_pair(other, &mut problems);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

impl Claimant<'_> {
    fn who(&self) -> Who {
        Who { archive: self.archive.to_string(), output: self.output.to_string() }
    }
}

struct Compiled<'a> {
    claimant: &'a Claimant<'a>,
    segments: Vec<Segment>,
    /// The same without the prefix of the generation; `None` where there is none.
    without_prefix: Option<Vec<Segment>>,
}

/// Most languages in a union; beyond that a value is widened instead of told apart from null.
const UNION_MAX: usize = 16;

/// Parts of the prefix `g2-`.
const PREFIX_PARTS: usize = 3;

impl<'a> Compiled<'a> {
    fn new(claimant: &'a Claimant<'a>, template: &KeyTemplate) -> Self {
        let segments = template.segments().to_vec();
        let mut without_prefix = None;
        if template.prefixes_generation() {
            let mut shorter = segments.clone();
            if let Some(name) = shorter.last_mut() {
                name.parts.drain(..PREFIX_PARTS);
            }
            without_prefix = Some(shorter);
        }
        Self { claimant, segments, without_prefix }
    }

    /// The templates under which objects of this output may lie in the bucket: this generation's and, where the name
    /// is prefixed, the first one's.
    fn variants(&self) -> impl Iterator<Item = &[Segment]> {
        std::iter::once(self.segments.as_slice()).chain(self.without_prefix.as_deref())
    }

    fn check_alone(&self, problems: &mut Vec<Collision>) {
        let who = || self.claimant.who();
        let shows = |wanted: fn(&Part) -> bool| self.segments.iter().flat_map(|segment| &segment.parts).any(wanted);
        let several_topics = self.claimant.topic.is_none();
        let (told, offsets_told) = tell(&self.segments, !several_topics);
        let name = "`name`";
        let wanted = [
            (several_topics, told.topic, shows(|part| *part == Part::Topic), "topics", "{topic}", "`path`"),
            (
                true,
                told.partition,
                shows(|part| matches!(part, Part::Partition(_))),
                "Kafka partitions",
                "{partition}",
                name,
            ),
            (
                true,
                told.first && offsets_told,
                shows(|part| matches!(part, Part::First(_))),
                "batches",
                "{first}",
                name,
            ),
        ];
        for (needed, is_told, is_shown, what, placeholder, place) in wanted {
            if needed && !is_shown {
                problems.push(Collision::Missing { who: who(), what, placeholder, place });
            } else if needed && !is_told {
                problems.push(Collision::Undelimited { who: who(), what, placeholder });
            }
        }
        let shows_generation = shows(|part| matches!(part, Part::Generation(_)));
        let generations_told = match &self.without_prefix {
            Some(plain) => prefix_tells(&self.segments, plain, !several_topics),
            None => !shows_generation || told.generation,
        };
        if !generations_told {
            problems.push(Collision::Generations { who: who() });
        }
    }

    fn check_control(&self, all: &[Self], problems: &mut Vec<Collision>) {
        let meets = |own: &Spot, spot: &Spot| {
            let mut exact = Language::default();
            exact.text(&format!("{}{CONTROL_FOLDER}", slashed(&spot.prefix)));
            let mut below = exact.clone();
            below.text("/");
            below.some(ByteSet::ANY, ByteSet::ANY);
            let control = [exact, below];
            own.store == spot.store && self.variants().any(|segments| meet(&languages(own, segments), &control))
        };
        let spots = || all.iter().flat_map(|compiled| &compiled.claimant.spots);
        if self.claimant.spots.iter().any(|own| spots().any(|spot| meets(own, spot))) {
            problems.push(Collision::ControlFolder { who: self.claimant.who() });
        }
    }

    fn check_pair(&self, other: &Self, problems: &mut Vec<Collision>) {
        for spot in &self.claimant.spots {
            for there in other.claimant.spots.iter().filter(|there| there.store == spot.store) {
                let apart = self.variants().all(|ours| {
                    other.variants().all(|theirs| {
                        !meet(&languages(spot, ours), &languages(there, theirs))
                            || (self.claimant.archive != other.claimant.archive
                                && topic_tells(spot, ours, there, theirs))
                    })
                });
                if !apart {
                    let (one, other_who) = (self.claimant.who(), other.claimant.who());
                    problems.push(if one.archive == other_who.archive {
                        Collision::Outputs { one, other: other_who }
                    } else {
                        Collision::Archives { one, other: other_who }
                    });
                    return;
                }
            }
        }
    }
}

fn slashed(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
}

/// Every key that segments under a spot can have, and possibly more, as the union of some languages. Generations are
/// any number: keys of earlier and later ones are meant too.
fn languages(spot: &Spot, segments: &[Segment]) -> Vec<Language> {
    let mut keys = Language::default();
    keys.text(&slashed(&spot.prefix));
    let mut union = vec![keys];
    for (depth, segment) in segments.iter().enumerate() {
        if depth > 0 {
            union.iter_mut().for_each(|keys| keys.text("/"));
        }
        for (index, part) in segment.parts.iter().enumerate() {
            append_part(&mut union, part, index == 0);
        }
    }
    union
}

fn append_part(union: &mut Vec<Language>, part: &Part, leads: bool) {
    let held = held_bytes(part);
    let splits = leads && union.len() < UNION_MAX;
    let mut all = |add: &dyn Fn(&mut Language)| union.iter_mut().for_each(add);
    match (part, fixed_width(part)) {
        (Part::Text(text) | Part::Output(text), _) => all(&|keys| keys.text(text)),
        (_, Some(width)) => all(&|keys| keys.exactly(width, held)),
        // What leads a segment never starts with a dot or an underscore, unless it is null.
        (Part::Topic, None) if leads => all(&|keys| keys.some(held.without(ByteSet::of(b"._~")), held)),
        (Part::TopicWord(_) | Part::Field(_) | Part::FieldWord(..) | Part::Header(_) | Part::Key, None) if splits => {
            let mut nulls = union.clone();
            nulls.iter_mut().for_each(|keys| keys.text(NULL_VALUE));
            union.iter_mut().for_each(|keys| keys.some(held.without(ByteSet::of(b"._~")), held));
            union.append(&mut nulls);
        }
        _ => all(&|keys| keys.some(held, held)),
    }
}

/// Whether some text is in both unions.
fn meet(ours: &[Language], theirs: &[Language]) -> bool {
    ours.iter().any(|one| theirs.iter().any(|other| one.meets(other)))
}

/// Whether a key of both would have one topic: some segment is the same in both, at one depth, and tells it.
fn topic_tells(spot: &Spot, ours: &[Segment], there: &Spot, theirs: &[Segment]) -> bool {
    let depth = |spot: &Spot| slashed(&spot.prefix).matches('/').count();
    depth(spot) == depth(there)
        && ours.iter().zip(theirs).any(|(one, other)| one == other && tell(std::slice::from_ref(one), false).0.topic)
}

/// Whether `prefixed` (behind a prefix `g2-`) and `plain` (the same without) never give one key.
fn prefix_tells(prefixed: &[Segment], plain: &[Segment], topic_known: bool) -> bool {
    let spot = Spot { store: String::new(), prefix: String::new() };
    if !meet(&languages(&spot, prefixed), &languages(&spot, plain)) {
        return true;
    }
    let Some((name, folders)) = plain.split_last() else { return false };
    let (mut told, _) = tell(folders, topic_known);
    // Read the name from its right; the first part has a prefix or nothing before it, so it may not rely on either.
    let mut right = name.parts.len();
    while right > 0 {
        let before = if right >= 2 { last_bytes(&name.parts[right - 2]) } else { ByteSet::ANY };
        if !passes(&name.parts[right - 1], Some(before), told) {
            return false;
        }
        match name.parts[right - 1] {
            Part::Topic => told.topic = true,
            Part::Partition(_) => told.partition = true,
            Part::First(_) => told.first = true,
            _ => {}
        }
        right -= 1;
    }
    true
}

#[cfg(test)]
mod tests;
