//! Values of text formats: strings, unless the layout says otherwise.

use super::DecodeError;
use super::rows::Writer;
use crate::layout::{TextFields, TextType};
use crate::parse::text::quote;
use serde::de::IgnoredAny;
use std::collections::HashMap;

/// [`TextFields`], compiled.
pub(super) struct Values {
    types: HashMap<String, TextType>,
    nulls: Vec<String>,
}

impl Values {
    pub(super) fn new(fields: &TextFields) -> Self {
        Self {
            types: fields.types.iter().map(|(name, kind)| (name.clone(), *kind)).collect(),
            nulls: fields.nulls.clone(),
        }
    }

    /// Writes `text`, the value of the field `name`.
    pub(super) fn write(&self, name: &str, text: &str, out: &mut Writer<'_>) -> Result<(), DecodeError> {
        if self.nulls.iter().any(|null| null == text) {
            out.raw("null");
            return Ok(());
        }
        let refused = |kind| DecodeError(format!("{} of the field {} is no {kind}", quote(text), quote(name)));
        match self.types.get(name) {
            None => out.string(text),
            Some(TextType::Int) => out.raw(&int(text).ok_or_else(|| refused("whole number"))?),
            Some(TextType::Float) => out.raw(&float(text).ok_or_else(|| refused("number"))?),
            Some(TextType::Bool) if matches!(text, "true" | "false") => out.raw(text),
            Some(TextType::Bool) => return Err(refused("true or false")),
            Some(TextType::Json) => out.json(text).map_err(|_| refused("JSON"))?,
        }
        Ok(())
    }
}

/// A whole number in JSON's form: no plus, no zeros in front.
fn int(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    Some(if significant.is_empty() { "0".to_string() } else { format!("{sign}{significant}") })
}

/// A number in JSON's form; its digits are kept where it has that form already.
fn float(text: &str) -> Option<String> {
    let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) if text.bytes().all(|byte| !byte.is_ascii_whitespace()) => Some(text.to_string()),
        _ => serde_json::to_string(&value).ok(),
    }
}

/// The payload as text without the line end behind it.
pub(super) fn line(payload: &[u8]) -> Result<&str, DecodeError> {
    let text = text(payload)?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(DecodeError("the payload is empty".to_string()));
    }
    Ok(text)
}

/// The payload as text.
pub(super) fn text(payload: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(payload)
        .map_err(|error| DecodeError(format!("the payload is not UTF-8 at byte {}", error.valid_up_to())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_numbers_keep_their_digits() {
        for (text, found) in [
            ("0", Some("0")),
            ("-0", Some("0")),
            ("007", Some("7")),
            ("+12", Some("12")),
            ("-12", Some("-12")),
            ("123456789012345678901234567890", Some("123456789012345678901234567890")),
            ("", None),
            ("-", None),
            ("1.0", None),
            ("1 ", None),
            ("٣", None),
        ] {
            assert_eq!(int(text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn numbers_keep_their_digits_where_json_has_them() {
        for (text, found) in [
            ("0.10", Some("0.10")),
            ("1e3", Some("1e3")),
            (".5", Some("0.5")),
            ("+1", Some("1.0")),
            ("00.5", Some("0.5")),
            ("inf", None),
            ("NaN", None),
            ("1e999", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(float(text).as_deref(), found, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_number_is_json(text in "[-+.0-9eE ]{0,12}") {
            for json in [int(&text), float(&text)].into_iter().flatten() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON").is_number(), "{} {}", text, json);
            }
        }
    }
}
