//! Which rows of the objects that are read are taken.

use super::merge::Item;
use super::plan::Wanted;
use super::row::Body;
use crate::exit::{Exit, Failure};
use crate::transform::Filter;
use regex::bytes::{Regex, RegexBuilder};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Bytes that a compiled expression may take.
const REGEX_BYTES_MAX: usize = 16 << 20;

/// Takes rows or leaves them.
pub struct Sieve {
    wanted: Wanted,
    grep: Option<Regex>,
    condition: Option<Filter>,
    /// Rows that are taken though their time is not known, and that of their object reaches beyond what is wanted.
    pub untimed: u64,
    /// The same of offsets.
    pub unplaced: u64,
    /// Rows of which the condition cannot say whether they meet it, and why the first one.
    pub failing: (u64, String),
}

impl Sieve {
    /// Takes rows of `wanted` whose line has `grep`, a regular expression, and that meet `condition`.
    ///
    /// # Errors
    /// [`Exit::Config`]: an expression or a condition that is none.
    pub fn new(wanted: &Wanted, grep: Option<&str>, condition: Option<&str>) -> Result<Self, Failure> {
        let wrong = |key: &str, what: String| Failure::new(Exit::Config, format!("{key}: {what}"));
        let compile = |pattern: &str| RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
        let grep = grep.map(compile).transpose();
        let condition = condition.map(Filter::compile).transpose();
        Ok(Self {
            wanted: wanted.clone(),
            grep: grep.map_err(|error| wrong("--grep", error.to_string()))?,
            condition: condition.map_err(|what| wrong("--where", what))?,
            untimed: 0,
            unplaced: 0,
            failing: (0, String::new()),
        })
    }

    /// Whether the row is one of the offsets and times that are meant, and what of them it does not tell; `None`: it is none of them.
    pub fn in_range(&self, item: &Item) -> Option<Untold> {
        let chosen = &item.source.chosen;
        let mut untold = Untold::default();
        if !self.wanted.takes_all_offsets_of(chosen.range) {
            match item.told.offset.or_else(|| chosen.offset_by_place(item.row.index)) {
                Some(offset) if !self.wanted.offsets.contains(offset) => return None,
                Some(_) => {}
                None => untold.offset = true,
            }
        }
        if !self.wanted.takes_all_times_of(&chosen.object) {
            match item.told.event_ms {
                Some(event_ms) if !self.wanted.takes_time(event_ms) => return None,
                Some(_) => {}
                None => untold.time = true,
            }
        }
        Some(untold)
    }

    /// What it has counted so far.
    pub fn counted(&self) -> Counted {
        Counted { untimed: self.untimed, unplaced: self.unplaced, failing: self.failing.0 }
    }

    /// Counts again from there on, as rows since then are to be looked at again.
    pub fn back_to(&mut self, counted: Counted) {
        (self.untimed, self.unplaced, self.failing.0) = (counted.untimed, counted.unplaced, counted.failing);
    }

    /// Whether its line has what is looked for, and it meets the condition; the line first, which costs less.
    pub fn takes(&mut self, item: &Item, line: &[u8], untold: Untold) -> bool {
        if !self.grep.as_ref().is_none_or(|regex| regex.is_match(line)) {
            return false;
        }
        let meets = self.condition.as_ref().map_or(Ok(true), |condition| meets(condition, item));
        if let Err(why) = &meets {
            if self.failing.0 == 0 {
                self.failing.1.clone_from(why);
            }
            self.failing.0 += 1;
        }
        let takes = meets.unwrap_or(false);
        self.unplaced += u64::from(takes && untold.offset);
        self.untimed += u64::from(takes && untold.time);
        takes
    }
}

/// How many rows a sieve has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    untimed: u64,
    unplaced: u64,
    failing: u64,
}

/// What a row does not tell, where it would have to be known whether it is meant.
#[derive(Clone, Copy, Default)]
pub struct Untold {
    offset: bool,
    time: bool,
}

/// Whether a row meets a condition; of payloads their JSON is asked, or the text of one that is none.
fn meets(condition: &Filter, item: &Item) -> Result<bool, String> {
    let row: Cow<'_, str> = match &item.row.body {
        Body::Json(line) => String::from_utf8_lossy(line),
        Body::Payload(_) | Body::Record(_) => match item.row.body.payload().flatten() {
            None => "null".into(),
            Some(payload) => {
                let text = String::from_utf8_lossy(payload);
                match serde_json::from_str::<IgnoredAny>(&text) {
                    Ok(_) => text,
                    Err(_) => serde_json::Value::from(text).to_string().into(),
                }
            }
        },
    };
    let record = item.source.shape.teller.record(&item.source.chosen.partition, &item.row);
    condition.passes(&record.as_record(), &row).map_err(|error| error.0)
}
