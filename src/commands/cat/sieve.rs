//! Which rows of the objects that are read are printed.

use crate::cli::CatArgs;
use crate::exit::{Exit, Failure};
use crate::reader::merge::Item;
use crate::reader::plan::Wanted;
use crate::reader::row::Body;
use crate::transform::Filter;
use regex::bytes::{Regex, RegexBuilder};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Bytes that a compiled expression may take.
const REGEX_BYTES_MAX: usize = 16 << 20;

/// Takes rows or leaves them.
pub(super) struct Sieve {
    wanted: Wanted,
    grep: Option<Regex>,
    condition: Option<Filter>,
    /// Rows that are printed though their time is not known, and that of their object reaches beyond what is wanted.
    pub(super) untimed: u64,
    /// The same of offsets.
    pub(super) unplaced: u64,
    /// Rows of which the condition cannot say whether they meet it, and why the first one.
    pub(super) failing: (u64, String),
}

impl Sieve {
    /// # Errors
    /// [`Exit::Config`]: an expression or a condition that is none.
    pub(super) fn new(args: &CatArgs, wanted: &Wanted) -> Result<Self, Failure> {
        let wrong = |key: &str, what: String| Failure::new(Exit::Config, format!("{key}: {what}"));
        let compile = |pattern: &String| RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
        let grep = args.grep.as_ref().map(compile).transpose();
        let condition = args.condition.as_deref().map(Filter::compile).transpose();
        Ok(Self {
            wanted: wanted.clone(),
            grep: grep.map_err(|error| wrong("--grep", error.to_string()))?,
            condition: condition.map_err(|what| wrong("--where", what))?,
            untimed: 0,
            unplaced: 0,
            failing: (0, String::new()),
        })
    }

    /// Whether the row is one of the offsets and times that are meant, and meets the condition.
    pub(super) fn takes(&mut self, item: &Item) -> bool {
        let chosen = &item.source.chosen;
        if !self.wanted.takes_all_offsets_of(chosen.range) {
            let by_place = || chosen.is_dense.then(|| chosen.range.first + i64::try_from(item.row.index).unwrap_or(0));
            match item.told.offset.or_else(by_place) {
                Some(offset) if !self.wanted.offsets.contains(offset) => return false,
                Some(_) => {}
                None => self.unplaced += 1,
            }
        }
        if !self.wanted.takes_all_times_of(&chosen.object) {
            match item.told.event_ms {
                Some(event_ms) if !self.wanted.takes_time(event_ms) => return false,
                Some(_) => {}
                None => self.untimed += 1,
            }
        }
        self.condition.as_ref().is_none_or(|condition| match meets(condition, item) {
            Ok(meets) => meets,
            Err(why) => {
                if self.failing.0 == 0 {
                    self.failing.1 = why;
                }
                self.failing.0 += 1;
                false
            }
        })
    }

    /// Whether the printed line is one that is looked for.
    pub(super) fn matches(&self, line: &[u8]) -> bool {
        self.grep.as_ref().is_none_or(|regex| regex.is_match(line))
    }
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
