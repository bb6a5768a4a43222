//! Values from data, made safe for object keys.
//!
//! # Guarantees
//! - **E-1** Nothing is written but letters, digits, `.`, `_`, `-`, `%XX` (upper case) and, in cut values, `~`: no
//!   record can leave its folder, make a hidden one (unless the value is null) or a `.` or `..` segment.
//! - **E-2** At least one and at most `limit` bytes are written.
//! - **E-3** Distinct values that fit the limit give distinct text; longer ones end in 64 bits of their SHA-256.
//!   (Null and the empty value are one value here, as in Hive.)
//!
//! `~` is unreserved in RFC 3986 but encoded here, so that the mark of a cut value cannot be forged.
//! Readers: DuckDB, Athena and Python decode `%XX` as UTF-8; Hive and Spark decode each `%XX` to one character, so
//! that text outside ASCII looks odd there, but stays distinct.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Deserializer;
use serde::de::{Error, Visitor};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;

/// Stands for a value that is null, missing or empty: what Hive, Spark, Trino and DuckDB read as null.
pub const NULL_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// Most bytes of an encoded value.
pub const VALUE_BYTES_MAX: usize = 200;

/// Most bytes of a topic: keeps `{topic}+{partition:05}+{first:020}-{end:020}.<ext>` within a file name.
pub const TOPIC_BYTES_MAX: usize = 180;

/// Fewest bytes a limit may leave: [`NULL_VALUE`] must fit, and a cut value must stay recognisable.
pub const VALUE_BYTES_MIN: usize = 40;

/// Bytes kept of a value that is cut, where the limit leaves so many.
const CUT_BYTES: usize = 150;

/// `~` and 16 hex digits.
const CUT_MARK_BYTES: usize = 17;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// Appends `value` to `out`, percent-encoded, at most `limit` bytes (at least [`VALUE_BYTES_MIN`]).
///
/// `leads` says that the value stands at the start of a path segment: a first `.` or `_`, which would hide the
/// segment from Hive and Spark, is encoded too. A value that reads like [`NULL_VALUE`] has its first byte encoded.
pub fn encode_value(out: &mut String, value: Option<&[u8]>, leads: bool, limit: usize) {
    debug_assert!(limit >= VALUE_BYTES_MIN, "limit {limit} is too small for a value");
    let value = match value {
        Some(value) if !value.is_empty() => value,
        _ => return out.push_str(NULL_VALUE),
    };
    let start = out.len();
    let hides = leads && matches!(value[0], b'.' | b'_');
    let rest = if hides || value == NULL_VALUE.as_bytes() {
        out.push_str(if value[0] == b'.' { "%2E" } else { "%5F" });
        &value[1..]
    } else {
        value
    };
    // Nothing further back can be kept: a value of megabytes is not encoded in full.
    let rest = &rest[..rest.len().min(limit + 1)];
    out.extend(percent_encode(rest, ENCODED));
    if out.len() - start > limit {
        cut(out, start, value, limit);
    }
}

/// Replaces the encoded text from `start` by its first bytes and a digest of the whole value.
fn cut(out: &mut String, start: usize, value: &[u8], limit: usize) {
    let mut keep = CUT_BYTES.min(limit - CUT_MARK_BYTES);
    let text = &out.as_bytes()[start..];
    // Never inside a `%XX`.
    if text[keep - 1] == b'%' {
        keep -= 1;
    } else if text[keep - 2] == b'%' {
        keep -= 2;
    }
    out.truncate(start + keep);
    out.push('~');
    for byte in Sha256::digest(value).iter().take(8) {
        out.push_str(&format!("{byte:02x}"));
    }
}

/// The bytes that the raw JSON text of a value stands for in a key: strings unescaped (a lone surrogate as the three
/// bytes that WTF-8 gives it), objects and arrays without white space, the rest as written. `None` for `null`.
pub fn json_value_bytes(raw: &str) -> Option<Cow<'_, [u8]>> {
    let raw = raw.trim_ascii();
    match raw.as_bytes().first()? {
        b'n' => None,
        b'"' => Some(unescape(raw)),
        b'{' | b'[' => Some(compact(raw)),
        _ => Some(Cow::Borrowed(raw.as_bytes())),
    }
}

fn unescape(raw: &str) -> Cow<'_, [u8]> {
    if raw.len() >= 2 && !raw.contains('\\') {
        return Cow::Borrowed(&raw.as_bytes()[1..raw.len() - 1]);
    }
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(raw);
    // Text that is no JSON string can only come from a caller that did not parse: its bytes are as good as any name.
    Cow::Owned(reader.deserialize_bytes(Bytes).unwrap_or_else(|_| raw.as_bytes().to_vec()))
}

/// Drops white space outside strings.
fn compact(raw: &str) -> Cow<'_, [u8]> {
    let mut bytes = Vec::with_capacity(raw.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in raw.as_bytes() {
        if !in_string && matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        }
        bytes.push(byte);
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = in_string;
        } else if byte == b'"' {
            in_string = !in_string;
        }
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(value: &[u8], leads: bool) -> String {
        let mut out = String::new();
        encode_value(&mut out, Some(value), leads, VALUE_BYTES_MAX);
        out
    }

    #[test]
    fn values_become_segments() {
        let table: &[(&[u8], &str, &str)] = &[
            (b"web-1.example_x", "web-1.example_x", "web-1.example_x"),
            (b"", NULL_VALUE, NULL_VALUE),
            (b".", "%2E", "."),
            (b"..", "%2E.", ".."),
            (b"../../x", "%2E.%2F..%2Fx", "..%2F..%2Fx"),
            (b"_siltstone", "%5Fsiltstone", "_siltstone"),
            (b"__HIVE_DEFAULT_PARTITION__", "%5F_HIVE_DEFAULT_PARTITION__", "%5F_HIVE_DEFAULT_PARTITION__"),
            (b"a b+c=d:e", "a%20b%2Bc%3Dd%3Ae", "a%20b%2Bc%3Dd%3Ae"),
            (b"~%7E{}", "%7E%257E%7B%7D", "%7E%257E%7B%7D"),
            ("é".as_bytes(), "%C3%A9", "%C3%A9"),
            (b"\xff\x00\n\\", "%FF%00%0A%5C", "%FF%00%0A%5C"),
        ];
        for (value, leading, inside) in table {
            assert_eq!(encoded(value, true), *leading, "{:?} at the start", value.escape_ascii().to_string());
            assert_eq!(encoded(value, false), *inside, "{:?} inside", value.escape_ascii().to_string());
        }
        let mut out = String::from("x=");
        encode_value(&mut out, None, true, VALUE_BYTES_MAX);
        assert_eq!(out, "x=__HIVE_DEFAULT_PARTITION__");
    }

    #[test]
    fn long_values_are_cut_and_hashed() {
        assert_eq!(encoded(&[b'a'; 200], true).len(), 200);
        // The digest as sha256sum gives it.
        assert_eq!(encoded(&[b'a'; 201], true), format!("{}~a92efd82109373e5", "a".repeat(150)));
        let spaces = encoded(&[b' '; 2000], true);
        assert!(spaces.starts_with(&"%20".repeat(50)) && spaces.as_bytes()[150] == b'~', "{spaces}");
        let odd = encoded(&[&b"a"[..], &[b' '; 2000]].concat(), true);
        assert!(odd.starts_with(&format!("a{}~", "%20".repeat(49))), "{odd}");
        let odd = encoded(&[&b"aa"[..], &[b' '; 2000]].concat(), true);
        assert!(odd.starts_with(&format!("aa{}~", "%20".repeat(49))), "{odd}");
    }

    #[test]
    fn json_text_becomes_its_value() {
        let table: &[(&str, Option<&[u8]>)] = &[
            ("null", None),
            ("\"\"", Some(b"")),
            ("\"null\"", Some(b"null")),
            ("\"a\\u0062\\n\"", Some(b"ab\n")),
            ("\"\\ud83d\\ude00\"", Some("😀".as_bytes())),
            ("\"\\ud800\"", Some(b"\xed\xa0\x80")),
            ("12.50", Some(b"12.50")),
            ("true", Some(b"true")),
            ("{ \"a b\" : [ 1 , \"x \\\" y\" ] }", Some(b"{\"a b\":[1,\"x \\\" y\"]}")),
            ("[\"\\\\\", 1 ]", Some(b"[\"\\\\\",1]")),
        ];
        for (raw, value) in table {
            assert_eq!(json_value_bytes(raw).as_deref(), *value, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn encoded_text_stays_in_its_alphabet(value in prop::collection::vec(any::<u8>(), 0..600), leads: bool, limit in 40usize..=200) {
            let mut out = String::new();
            encode_value(&mut out, Some(&value), leads, limit);
            prop_assert!(!out.is_empty() && out.len() <= limit);
            prop_assert!(out.bytes().all(|byte| crate::layout::alphabet::ByteSet::ENCODED.contains(byte)), "{out}");
            prop_assert!(!leads || value.is_empty() || !out.starts_with(['.', '_']), "{out}");
            if out.len() < limit && !out.contains('~') && !value.is_empty() {
                let decoded: Vec<u8> = percent_encoding::percent_decode_str(&out).collect();
                prop_assert_eq!(decoded, value);
            }
        }

        #[test]
        fn json_text_never_panics(raw in ".{0,40}") {
            json_value_bytes(&raw);
        }

        #[test]
        fn json_strings_come_back(value in ".{0,40}") {
            let raw = serde_json::to_string(&value).unwrap();
            let bytes = json_value_bytes(&raw).unwrap();
            prop_assert_eq!(bytes.as_ref(), value.as_bytes());
        }
    }
}
