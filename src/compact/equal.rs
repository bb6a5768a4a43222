//! Whether a row that was read back from Parquet is the JSON line that it was made of. Pure.
//!
//! | | equal |
//! |---|---|
//! | objects | the same names with equal values, in any order; a name that is there twice equals nothing |
//! | numbers | the same value, to the last digit: `1.50` and `1.5`, `1e2` and `100`; not `0` and `-0` |
//! | text | the same characters, however they are escaped |
//! | arrays | equal elements in the same order |
//! | `true`, `false`, `null` | themselves |
//!
//! A field that is null equals one that is not there only where that is asked for ([`Nulls::AsMissing`]), within arrays never. What is compared is what
//! readers of the file see: they show fields without a column beside those that have one ([`crate::reader::columns`]), and where that would name a field
//! twice the row equals nothing.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Deepest nesting that is compared; texts that are the same to the byte are equal at any depth.
const DEPTH_MAX: usize = 64;

/// What a field that is null is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// A value like others.
    AreValues,
    /// The same as no field.
    AsMissing,
}

/// Whether `back`, a row of a Parquet file as its reader shows it, is `line`.
pub fn is_equal(line: &[u8], back: &[u8], nulls: Nulls) -> bool {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let (Some(line), Some(back)) = (text(line), text(back)) else { return false };
    let (Some(line), Some(back)) = (fields(line.trim_ascii(), nulls), fields(back, nulls)) else { return false };
    same_fields(&line, &back, nulls, 1)
}

type Members<'a> = BTreeMap<Cow<'a, str>, &'a str>;

fn same_fields(one: &Members<'_>, other: &Members<'_>, nulls: Nulls, depth: usize) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((name, one), (other_name, other))| name == other_name && same_value(one, other, nulls, depth))
}

fn same_value(one: &str, other: &str, nulls: Nulls, depth: usize) -> bool {
    if one == other {
        // Whether it is valid JSON was decided when it was taken apart; a name that is there twice would be lost at the next rewriting,
        // but is not lost here.
        return true;
    }
    if depth > DEPTH_MAX {
        return false;
    }
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => match (fields(one, nulls), fields(other, nulls)) {
            (Some(one), Some(other)) => same_fields(&one, &other, nulls, depth + 1),
            _ => false,
        },
        (Some(b'['), Some(b'[')) => {
            let elements = |text| serde_json::from_str::<Vec<&RawValue>>(text).ok();
            let (Some(one), Some(other)) = (elements(one), elements(other)) else { return false };
            one.len() == other.len()
                && one.iter().zip(&other).all(|(one, other)| same_value(one.get(), other.get(), nulls, depth + 1))
        }
        (Some(b'"'), Some(b'"')) => {
            let text = |text| serde_json::from_str::<String>(text).ok();
            text(one).is_some_and(|one| text(other) == Some(one))
        }
        _ => number(one).is_some_and(|one| number(other) == Some(one)),
    }
}

/// The members of a JSON object; `None`: it is none, or a name is there twice.
fn fields(text: &str, nulls: Nulls) -> Option<Members<'_>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = reader.deserialize_map(Object).ok()?;
    reader.end().ok()?;
    let count = members.len();
    let mut members: Members<'_> = members.into_iter().collect();
    if members.len() != count {
        return None;
    }
    if nulls == Nulls::AsMissing {
        members.retain(|_, value| *value != "null");
    }
    Some(members)
}

struct Object;

impl<'a> Visitor<'a> for Object {
    type Value = Vec<(Cow<'a, str>, &'a str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let value: &'a RawValue = map.next_value()?;
            members.push((Cow::Owned(name), value.get()));
        }
        Ok(members)
    }
}

/// The value of a JSON number: whether it is negative, its digits from the first to the last that is not 0, and the power of ten that the
/// last one counts.
fn number(text: &str) -> Option<(bool, String, i64)> {
    let (is_negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let power = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let trimmed = digits.trim_end_matches('0');
    let power = power.checked_add(i64::try_from(digits.len() - trimmed.len()).ok()?)?;
    let significant = trimmed.trim_start_matches('0').to_string();
    let power = if significant.is_empty() { 0 } else { power };
    Some((is_negative, significant, power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_equal_by_value_and_by_nothing_less() {
        let cases = [
            (r#"{"a":1,"b":"x"}"#, r#"{"b":"x","a":1}"#, true),
            (r#"{"a":1.50}"#, r#"{"a":1.5}"#, true),
            (r#"{"a":1e2}"#, r#"{"a":100.0}"#, true),
            (r#"{"a":0.0}"#, r#"{"a":0}"#, true),
            (r#"{"a":-0.0}"#, r#"{"a":0.0}"#, false),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#, false),
            (r#"{"a":0.1}"#, r#"{"a":0.10000000000000001}"#, false),
            (r#"{"a":"\u00e4\/"}"#, "{\"a\":\"ä/\"}", true),
            (r#"{"a":"1"}"#, r#"{"a":1}"#, false),
            (r#"{"a":true}"#, r#"{"a":false}"#, false),
            (r#"{"a":[1,{"b":2.0}]}"#, r#"{"a":[1.0,{"b":2}]}"#, true),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false),
            (r#"{"a":[null]}"#, r#"{"a":[]}"#, false),
            (r#"{"a":1,"b":2}"#, r#"{"a":1,"_rest":{"b":2}}"#, false),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"a":{"b":1}}"#, false),
            (r#"{"_rest":{"a":1}}"#, r#"{"_rest":{"a":1}}"#, true),
            (r#"{"_rest":{"a":1}}"#, r#"{"a":1}"#, false),
            (r#"{"a":1,"a":1}"#, r#"{"a":1}"#, false),
            (r#"{"a":{"b":1,"b":2}}"#, r#"{"a":{"b":2}}"#, false),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#, false),
            (" {\"a\": 1 } ", r#"{"a":1}"#, true),
            ("[1]", "[1]", false),
            ("null", "{}", false),
            (r#"{"a":null}"#, "{}", false),
        ];
        for (line, back, expected) in cases {
            assert_eq!(is_equal(line.as_bytes(), back.as_bytes(), Nulls::AreValues), expected, "{line} {back}");
        }
        let missing = |line: &str, back: &str| is_equal(line.as_bytes(), back.as_bytes(), Nulls::AsMissing);
        assert!(missing(r#"{"a":null,"b":{"c":null}}"#, r#"{"b":{}}"#));
        assert!(!missing(r#"{"a":[null]}"#, r#"{"a":[]}"#) && !missing(r#"{"b":{"c":null}}"#, "{}"));
        assert!(!is_equal(b"{\"a\":\"\xff\"}", b"{\"a\":\"\xff\"}", Nulls::AreValues), "no text");
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |leaf: &str| format!("{{\"a\":{}{leaf}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(is_equal(deep("1").as_bytes(), deep("1").as_bytes(), Nulls::AreValues));
        assert!(!is_equal(deep("1").as_bytes(), deep("1.0").as_bytes(), Nulls::AreValues));
    }
}
