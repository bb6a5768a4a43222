//! Keys as patterns: what a statement reads, what else there is, and whether the two can meet.

use super::folders::Folders;
use super::store::Store;
use super::{Beside, Source};
use crate::layout::collide::CONTROL_FOLDER;
use crate::layout::{OutputFormat, Place};

/// The usual name of the marker of a complete window, and what Hadoop's own writers leave.
const MARKER: &str = "_SUCCESS";

/// What helps against most of what else could be read.
const OWN_PATH: &str = "give this output a path of its own (layout.path)";
/// What helps against markers that look like objects.
const OTHER_MARKER: &str = "call the marker otherwise (archive.complete.marker)";

/// A piece of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// That character.
    Char(char),
    /// One digit.
    Digit,
    /// One character, but a slash.
    One,
    /// Any number of characters, but slashes.
    Run,
    /// The same, not starting with `_` or `.`, and at least one.
    Visible,
    /// Any number of any characters.
    All,
}

impl Token {
    fn repeats(self) -> bool {
        matches!(self, Self::Run | Self::All)
    }

    /// Whether there is a character that both can be.
    fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Char(one), Self::Char(other)) => one == other,
            (Self::Char(c), Self::Digit) | (Self::Digit, Self::Char(c)) => c.is_ascii_digit(),
            (Self::Char('/'), any) | (any, Self::Char('/')) => any == Self::All,
            (Self::Char(c), Self::Visible) | (Self::Visible, Self::Char(c)) => !matches!(c, '_' | '.'),
            _ => true,
        }
    }
}

/// `text` as a pattern.
pub fn text(text: &str) -> Vec<Token> {
    text.chars().map(Token::Char).collect()
}

/// Whether there is a key that both patterns are of.
pub fn meets(one: &[Token], other: &[Token]) -> bool {
    let (one, other) = (unfolded(one), unfolded(other));
    // reach[j]: one[i..] and other[j..] have a key in common; filled from the ends.
    let width = other.len() + 1;
    let mut below = vec![false; width];
    for i in (0..=one.len()).rev() {
        let mut row = vec![false; width];
        for j in (0..width).rev() {
            let (a, b) = (one.get(i).copied(), other.get(j).copied());
            let skips = a.is_some_and(Token::repeats) && below[j] || b.is_some_and(Token::repeats) && row[j + 1];
            row[j] = skips
                || match (a, b) {
                    (None, None) => true,
                    (Some(a), Some(b)) if a.meets(b) => {
                        // Each takes the character; those that repeat may stay.
                        let next = below[j + 1];
                        let stays = a.repeats() && row[j + 1] || b.repeats() && below[j];
                        next || stays
                    }
                    _ => false,
                };
        }
        below = row;
    }
    below[0]
}

/// With one character that is visible, and a run, for each [`Token::Visible`].
fn unfolded(tokens: &[Token]) -> Vec<Token> {
    let mut unfolded = Vec::with_capacity(tokens.len() + 4);
    for token in tokens {
        unfolded.push(*token);
        if *token == Token::Visible {
            unfolded.push(Token::Run);
        }
    }
    unfolded
}

/// Something else in the bucket.
#[derive(Clone, Debug)]
pub struct Other {
    /// What it is, as the object of a sentence.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
    /// Its folders and its name, from the bucket's root.
    segments: Vec<Vec<Token>>,
}

impl Other {
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.segments.join(&Token::Char('/'))
    }

    /// Whether a folder or name more than `depth` levels down starts with `_` or `.`.
    pub(super) fn is_hidden_below(&self, depth: usize) -> bool {
        let hidden = |segment: &Vec<Token>| matches!(segment.first(), Some(Token::Char('_' | '.')));
        self.segments.iter().skip(depth).any(hidden)
    }
}

/// Everything in the bucket of `source` that is not of its output.
pub(super) fn others(source: &Source<'_>, folders: &Folders) -> Vec<Other> {
    let store = &source.store;
    let mut others = Vec::new();
    for beside in source.all {
        let layout = beside.layout;
        for output in &layout.outputs {
            let mut add = |what: String, advice, name| {
                of_place((what, advice), beside, &output.place, &output.name, name, store, &mut others);
            };
            let is_own = layout.archive == source.layout.archive && output.name == source.output.name;
            if !is_own {
                let what = format!("the objects of output {} of archive {}", output.name, layout.archive);
                add(what, OWN_PATH, ending_in(&output.place.extension(&output.format)));
            }
            // Its own rows are there only once; but nobody else's table has them.
            if !is_own && matches!(output.format, OutputFormat::Json { .. }) {
                let what = format!(
                    "the Parquet that `siltstone compact --to parquet` makes of output {} of archive {}",
                    output.name, layout.archive
                );
                let mut name = vec![Token::Run];
                name.extend(text("+compact-"));
                name.extend(ending_in("parquet"));
                add(what, OWN_PATH, name);
            }
            if let Some(marker) = beside.marker {
                add(format!("the markers of complete windows ({marker})"), OTHER_MARKER, text(marker));
            }
        }
        let dead = &layout.dead_letters;
        let what = format!("the dead letters of archive {}", layout.archive);
        let name = ending_in(&dead.extension());
        of_place((what, OWN_PATH), beside, &dead.place, "dead_letters", name, store, &mut others);
    }
    let mut prefixes: Vec<String> = Vec::new();
    for place in source.all.iter().flat_map(|beside| beside.layout.outputs.iter().map(|output| &output.place)) {
        for url in place.destinations.iter().filter(|url| store.has(url)) {
            let prefix = Store::new(url, |_| None).prefix;
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
    }
    for prefix in &prefixes {
        for extension in [".json", ".jsonl.gz", ".claim", "start", ".done"] {
            let mut segments: Vec<_> = prefix.split('/').filter(|segment| !segment.is_empty()).map(text).collect();
            segments.push(text(CONTROL_FOLDER));
            let mut name = vec![Token::All];
            name.extend(text(extension));
            segments.push(name);
            let what = format!("siltstone's own documents in {CONTROL_FOLDER}");
            others.push(Other { what, advice: OWN_PATH, segments });
        }
    }
    let mut segments: Vec<_> = store.prefix_segments().map(text).collect();
    segments.extend(folders.fixed.iter().map(|segment| text(segment)));
    segments.extend(folders.levels.iter().map(|level| level.tokens()));
    segments.push(text(MARKER));
    others.push(Other { what: format!("the markers of complete windows ({MARKER})"), advice: OWN_PATH, segments });
    others
}

/// A name that ends in `extension`.
fn ending_in(extension: &str) -> Vec<Token> {
    let mut name = vec![Token::Run];
    if !extension.is_empty() {
        name.extend(text(&format!(".{extension}")));
    }
    name
}

/// The objects of `place` whose names are `name`, at each of its destinations that is in the bucket of `store`.
fn of_place(
    (what, advice): (String, &'static str),
    beside: &Beside<'_>,
    place: &Place,
    output: &str,
    name: Vec<Token>,
    store: &Store,
    others: &mut Vec<Other>,
) {
    let (layout, topics) = (beside.layout, beside.topics);
    for url in place.destinations.iter().filter(|url| store.has(url)) {
        let prefix = Store::new(url, |_| None).prefix;
        let one = topics.iter().map(|topic| Some(topic.as_str()));
        let each: Vec<Option<&str>> = if topics.is_empty() { vec![None] } else { one.collect() };
        for topic in each {
            let mut segments: Vec<_> = prefix.split('/').filter(|segment| !segment.is_empty()).map(text).collect();
            segments.extend(super::folders::patterns(&place.path, output, layout.generation, topic));
            segments.push(name.clone());
            others.push(Other { what: what.clone(), advice, segments });
        }
    }
}
