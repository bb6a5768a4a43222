//! The fields of a JSON object, one level deep, without copying a value.
//!
//! Guarantees that the whole text was valid JSON once it returns without an error (escapes of surrogates inside values
//! aside, see [`unescape`]). Never builds a tree and never descends: nesting costs no stack here.

use super::RowError;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Calls `visit` with name and value text of each field of the object `text`, in order, repeats included.
///
/// # Errors
/// What `visit` says; or that `text` is no JSON object.
pub(crate) fn for_each_field<'a, F>(text: &'a str, visit: F) -> Result<(), RowError>
where
    F: FnMut(Cow<'a, str>, &'a str) -> Result<(), RowError>,
{
    let mut fields = Fields { visit, refused: None };
    let mut reader = serde_json::Deserializer::from_str(text);
    let outcome = reader.deserialize_map(&mut fields).and_then(|()| reader.end());
    match (fields.refused, outcome) {
        (Some(refused), _) => Err(refused),
        (None, Ok(())) => Ok(()),
        (None, Err(broken)) => Err(not_json(&broken)),
    }
}

/// The elements of the JSON array `text`, as texts.
///
/// # Errors
/// `text` is no JSON array.
pub(super) fn elements(text: &str) -> Result<Vec<&RawValue>, RowError> {
    serde_json::from_str(text).map_err(|broken| not_json(&broken))
}

/// The characters of the JSON string literal `text`; `None` where it is no string literal or holds a lone surrogate.
pub(super) fn unescape(text: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(text).ok().map(|found| found.0)
}

/// Whether the JSON text holds an escaped half of a surrogate pair: valid by JSON's grammar, and no character. Many
/// readers refuse it, some of them with the whole file.
pub(super) fn has_lone_surrogate(text: &str) -> bool {
    let mut unread = text.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', unread) {
        let escape = &unread[at..];
        unread = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(0xD800..0xDC00), Some(0xDC00..=0xDFFF)) => &escape[12..],
            (Some(_), _) => return true,
            (None, _) => escape.get(2..).unwrap_or_default(),
        };
    }
    false
}

/// The half of a surrogate pair that `text` begins with, escaped.
fn surrogate(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    let unit = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xD800..=0xDFFF).contains(&unit).then_some(unit)
}

/// Says where the JSON breaks, never with which bytes.
pub(super) fn not_json(broken: &serde_json::Error) -> RowError {
    let kind = if broken.is_eof() { "ends too early" } else { "breaks" };
    RowError(format!("the JSON {kind} at line {} column {}", broken.line(), broken.column()))
}

struct Fields<F> {
    visit: F,
    /// What `visit` said, past serde's own error type.
    refused: Option<RowError>,
}

impl<'a, F> Visitor<'a> for &mut Fields<F>
where
    F: FnMut(Cow<'a, str>, &'a str) -> Result<(), RowError>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'a>>()? {
            let value: &'a RawValue = map.next_value()?;
            if let Err(refused) = (self.visit)(name.0, value.get()) {
                self.refused = Some(refused);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// A string, borrowed where it holds no escape (serde's own `Cow` always copies).
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'a> Deserialize<'a> for Text<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'a> Visitor<'a> for TextVisitor {
    type Value = Text<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(text.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(text: &str) -> Result<Vec<(String, String)>, RowError> {
        let mut found = Vec::new();
        for_each_field(text, |name, value| {
            found.push((name.into_owned(), value.to_string()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn values_come_as_they_are_written() {
        let found = fields(" {\"a\" : 1.50 , \"b\\n\":[1, {\"x\":2}],\"a\":\"\\ud800\" } ").expect("valid");
        let expected = [("a", "1.50"), ("b\n", "[1, {\"x\":2}]"), ("a", "\"\\ud800\"")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_string(), value.to_string())));
    }

    #[test]
    fn broken_text_is_refused_without_quoting_it() {
        for text in
            ["", "{", "{\"secret\":1", "{\"secret\":}", "{\"secret\":1}x", "[1]", "\"secret\"", "{\"secret\":01}"]
        {
            let refused = fields(text).expect_err(text);
            assert!(!refused.0.contains("secret"), "{text}: {refused}");
        }
        // Nesting is walked without recursion.
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(fields(&deep).expect("valid").len(), 1);
    }

    #[test]
    fn lone_surrogates_are_no_text() {
        for (text, valid) in
            [("\"a\"", true), ("\"\\u00e4\"", true), ("\"\\ud83d\\ude00\"", true), ("\"\\ud83d\"", false)]
        {
            assert_eq!(unescape(text).is_some(), valid, "{text}");
            assert_eq!(has_lone_surrogate(text), !valid, "{text}");
        }
    }

    proptest! {
        /// What counts as half a pair is what serde_json cannot make a string of.
        #[test]
        fn lone_surrogates_are_found(pieces in prop::collection::vec("[a\\u{e4}]|\\\\\\\\|\\\\n|\\\\u(d8|dbf|dc|DFF|00|e0)[0-9]{2}", 0..6)) {
            let padded = pieces.iter().map(|piece| match piece.strip_prefix("\\u") {
                Some(digits) => format!("\\u{}", &format!("{digits}0")[..4]),
                None => piece.clone(),
            });
            let text = format!("\"{}\"", padded.collect::<String>());
            prop_assert_eq!(has_lone_surrogate(&text), unescape(&text).is_none(), "{}", text);
        }
    }
}
