//! Small pieces of JSON text, and how errors quote a payload.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Most characters of a value or name that an error text quotes.
const QUOTED_CHARS_MAX: usize = 40;

/// `text` in quotes, cut to what an error may show.
pub fn quote(text: &str) -> String {
    let mut characters = text.chars();
    let shown: String = characters.by_ref().take(QUOTED_CHARS_MAX).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("`{}{more}`", shown.escape_debug())
}

/// A character as a terminal may be given it: a control character would move its cursor.
pub fn printable(letter: char) -> Vec<char> {
    if letter.is_control() { letter.escape_debug().collect() } else { vec![letter] }
}

/// Writes `text` as a JSON string.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is JSON, and a Vec takes every byte");
}

/// Standard base64, padded.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Text, or the base64 of what is none.
pub fn text_or_base64(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    let Some(bytes) = bytes else { return (None, None) };
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

/// Writes the standard base64 of `bytes`, padded, as a JSON string.
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_printable() {
        assert_eq!(quote("a\nb"), "`a\\nb`");
        assert_eq!(quote(&"ä".repeat(41)), format!("`{}…`", "ä".repeat(40)));
    }
}
