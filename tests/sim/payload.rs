//! Payloads of the simulated records, and what must become of each: the truth that the oracle holds the archive against.

use crate::rng::Rng;
use crate::rows::{Place, What};
use crate::settings::{JSON, RAW};

/// How often payloads are not plain, in a thousand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds {
    /// JSON that ends too early: no output that decodes takes it.
    pub(crate) broken: u32,
    /// A newline inside: the raw output refuses it.
    pub(crate) newline: u32,
    /// A field of the name that a kept column has: the output with such columns refuses it.
    pub(crate) collides: u32,
    /// No payload at all: dropped by rule.
    pub(crate) tombstones: u32,
}

/// Draws the payload of the record `id`.
pub(crate) fn draw(rng: &mut Rng, odds: Odds, id: &str) -> Option<Vec<u8>> {
    if rng.chance(odds.tombstones) {
        return None;
    }
    let newline = if rng.chance(odds.newline) { "\n" } else { "" };
    let field = if rng.chance(odds.collides) { ",\"_kafka_offset\":1" } else { "" };
    let end = if rng.chance(odds.broken) { "," } else { "}" };
    Some(format!("{{\"id\":\"{id}\"{newline}{field}{end}").into_bytes())
}

/// What an output says of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Takes,
    /// It refuses what does not decode, as all do that decode.
    RefusesWithOthers,
    /// For a reason of its own.
    RefusesAlone,
}

fn answer(output: &str, payload: &[u8]) -> Answer {
    let has = |text: &[u8]| payload.windows(text.len()).any(|window| window == text);
    match output {
        RAW if has(b"\n") => Answer::RefusesAlone,
        RAW => Answer::Takes,
        _ if !payload.ends_with(b"}") => Answer::RefusesWithOthers,
        JSON if has(b"_kafka_offset") => Answer::RefusesAlone,
        _ => Answer::Takes,
    }
}

/// Whether `output` must refuse the payload.
pub(crate) fn is_refused(output: &str, payload: &[u8]) -> bool {
    answer(output, payload) != Answer::Takes
}

/// Every row that a record with this payload must have under a layout with `outputs`, in the layout's order.
pub(crate) fn rows_wanted(outputs: &[(&'static str, &str)], payload: Option<&[u8]>) -> Vec<(What, Place)> {
    let Some(payload) = payload else { return Vec::new() };
    let mut rows = Vec::new();
    let mut letters: Vec<Vec<String>> = Vec::new();
    let mut shared = None;
    for (output, _) in outputs {
        match (answer(output, payload), shared) {
            (Answer::Takes, _) => rows.push((What::Output(output), Place::default())),
            (Answer::RefusesWithOthers, Some(letter)) => {
                let together: &mut Vec<String> = &mut letters[letter];
                together.push(output.to_string());
            }
            (refuses, _) => {
                if refuses == Answer::RefusesWithOthers {
                    shared = Some(letters.len());
                }
                letters.push(vec![output.to_string()]);
            }
        }
    }
    for (index, missing_in) in (0..).zip(letters) {
        rows.push((What::DeadLetters, Place { index, missing_in }));
    }
    rows
}
