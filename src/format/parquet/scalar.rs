//! One JSON value into one column that is no container. See the table of [`super::check`].

use super::check::expected;
use super::number::{Number, lossless_double};
use super::row::push_bytes;
use crate::format::object::{has_lone_surrogate, unescape};
use crate::layout::TimeUnit;
use crate::parse::text::quote;
use crate::parse::timestamp::{rfc3339, unit_by_size};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{Datelike, NaiveDate};

/// Standard alphabet, padding optional, bits that mean nothing refused.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z in microseconds: what every reader of Parquet can show.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
const MICROS_MAX: i64 = 253_402_300_799_999_999;

/// Digits behind the point of a second that a column keeps.
const MICROS_PLACES: i32 = 6;

/// Days from 0001-01-01 (as chrono counts, from 1) to 1970-01-01.
const EPOCH_DAY: i32 = 719_163;

/// Integers of up to that many digits fit 64 bits without a look at their value.
const PLAIN_DIGITS_MAX: usize = 18;

/// Type of a column that is no container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Bool,
    Int64,
    Float64,
    String,
    Bytes,
    Json,
    Date,
    Timestamp(Option<TimeUnit>),
    Decimal { precision: u8, scale: u8 },
}

impl Scalar {
    /// Adds the value of `text`, a JSON value other than null, to a row.
    ///
    /// # Errors
    /// What was expected, and the first characters of what was found. Nothing is added then.
    pub(super) fn write(self, text: &str, rows: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Bool => match text {
                "true" => rows.push(1),
                "false" => rows.push(0),
                _ => return Err(expected("true or false", text)),
            },
            Self::Int64 => rows.extend_from_slice(&integer(text)?.to_le_bytes()),
            Self::Float64 => rows.extend_from_slice(&double(text)?.to_le_bytes()),
            Self::String => write_string(text, rows)?,
            Self::Bytes => write_bytes(text, rows)?,
            Self::Json => push_bytes(json(text)?.as_bytes(), rows),
            Self::Date => rows.extend_from_slice(&date(text)?.to_le_bytes()),
            Self::Timestamp(unit) => rows.extend_from_slice(&timestamp(text, unit)?.to_le_bytes()),
            Self::Decimal { precision, scale } => {
                rows.extend_from_slice(&decimal(text, precision, scale)?.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// The value of `text`, where it is an integer literal short enough to fit 64 bits without a closer look.
#[inline]
fn plain_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = digits.len() <= PLAIN_DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

fn integer(text: &str) -> Result<i64, String> {
    if let Some(value) = plain_integer(text) {
        return Ok(value);
    }
    let number = Number::parse(text).ok_or_else(|| expected("an integer", text))?;
    match number.scaled(0) {
        Some(scaled) if !scaled.is_exact => Err(expected("an integer", text)),
        Some(scaled) => i64::try_from(scaled.floor).map_err(|_| expected("an integer of 64 bits", text)),
        None => Err(expected("an integer of 64 bits", text)),
    }
}

fn double(text: &str) -> Result<f64, String> {
    // 15 digits without an exponent survive a double, whatever they are.
    if text.len() <= 15 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.')) {
        return text.parse().map_err(|_| expected("a number", text));
    }
    if let Some(value) = no_number(text) {
        return Ok(value);
    }
    let number = Number::parse(text).ok_or_else(|| expected("a number", text))?;
    lossless_double(text, &number)
        .ok_or_else(|| expected("a number that a double can hold (else DECIMAL, STRING or JSON)", text))
}

/// The doubles that JSON has no number for, as decoders and Protocol Buffers write them.
fn no_number(text: &str) -> Option<f64> {
    match text {
        "\"NaN\"" => Some(f64::NAN),
        "\"Infinity\"" => Some(f64::INFINITY),
        "\"-Infinity\"" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn write_string(text: &str, rows: &mut Vec<u8>) -> Result<(), String> {
    match text.as_bytes().first() {
        Some(b'"') => match unescape(text) {
            Some(characters) => push_bytes(characters.as_bytes(), rows),
            None => return Err(half_a_pair(text)),
        },
        Some(b'{' | b'[') | None => return Err(expected("a string", text)),
        // Numbers and booleans.
        Some(_) => push_bytes(text.as_bytes(), rows),
    }
    Ok(())
}

/// The JSON text, as it is written. One that readers cannot read would take the whole file with it.
pub(super) fn json(text: &str) -> Result<&str, String> {
    if has_lone_surrogate(text) { Err(half_a_pair(text)) } else { Ok(text) }
}

fn half_a_pair(text: &str) -> String {
    format!("half a surrogate pair is no character: {}", quote(text))
}

fn write_bytes(text: &str, rows: &mut Vec<u8>) -> Result<(), String> {
    let bytes = unescape(text).and_then(|characters| BASE64.decode(characters.as_bytes()).ok());
    push_bytes(&bytes.ok_or_else(|| expected("bytes as base64", text))?, rows);
    Ok(())
}

/// Days since 1970-01-01.
fn date(text: &str) -> Result<i32, String> {
    let parsed = unescape(text).and_then(|characters| {
        let date: NaiveDate = characters.parse().ok()?;
        // The library is lenient about blanks and leading zeros; a date that we take has one form only.
        (date.to_string() == characters.as_ref()).then_some(date)
    });
    match parsed {
        Some(date) if (1..=9999).contains(&date.year()) => Ok(date.num_days_from_ce() - EPOCH_DAY),
        _ => Err(expected("a date as YYYY-MM-DD", text)),
    }
}

/// Microseconds since 1970-01-01 UTC.
fn timestamp(text: &str, unit: Option<TimeUnit>) -> Result<i64, String> {
    let micros = if text.starts_with('"') {
        let parsed = unescape(text).and_then(|characters| rfc3339(&characters));
        parsed.ok_or_else(|| expected("a time as RFC 3339", text))?.timestamp_micros()
    } else {
        let number = Number::parse(text).ok_or_else(|| expected("a time, as number or RFC 3339", text))?;
        let unit = match unit {
            Some(unit) => unit,
            // The same instant in every unit.
            None if number.is_zero() => TimeUnit::S,
            None => number
                .scaled(0)
                .and_then(|scaled| unit_by_size(scaled.floor))
                .ok_or_else(|| expected("a time whose size tells its unit (else declare `unit`)", text))?,
        };
        let scaled = number.scaled(unit.power_of_ten() + MICROS_PLACES);
        let micros = scaled.and_then(|scaled| i64::try_from(scaled.floor).ok());
        micros.ok_or_else(|| expected("a time of the years 1 to 9999", text))?
    };
    if !(MICROS_MIN..=MICROS_MAX).contains(&micros) {
        return Err(expected("a time of the years 1 to 9999", text));
    }
    Ok(micros)
}

/// The number times `10^scale`.
fn decimal(text: &str, precision: u8, scale: u8) -> Result<i128, String> {
    let refuse = |what: &str| format!("{what} decimal({precision}, {scale}): {}", quote(text));
    let characters = if text.starts_with('"') { unescape(text) } else { Some(text.into()) };
    let scaled = characters
        .as_deref()
        .and_then(Number::parse)
        .ok_or_else(|| refuse("no number for"))?
        .scaled(i32::from(scale))
        .ok_or_else(|| refuse("too large for"))?;
    if !scaled.is_exact {
        return Err(refuse("too many digits behind the point for"));
    }
    if scaled.floor.unsigned_abs() >= 10_u128.pow(u32::from(precision)) {
        return Err(refuse("too large for"));
    }
    Ok(scaled.floor)
}

#[cfg(test)]
mod tests {
    use super::super::row::RowReader;
    use super::*;
    use crate::layout::{TimeFormat, TimestampFallback, TimestampRule, TimestampSource};
    use crate::parse::timestamp::TimeReader;

    /// The value that was written, in words.
    fn written(scalar: Scalar, text: &str) -> Option<String> {
        let mut rows = Vec::new();
        scalar.write(text, &mut rows).ok()?;
        let mut reader = RowReader::new(&rows);
        let value = match scalar {
            Scalar::Bool => (reader.byte() == Ok(1)).to_string(),
            Scalar::Int64 | Scalar::Timestamp(_) => i64::from_le_bytes(reader.fixed().expect("written")).to_string(),
            Scalar::Float64 => f64::from_le_bytes(reader.fixed().expect("written")).to_string(),
            Scalar::Date => i32::from_le_bytes(reader.fixed().expect("written")).to_string(),
            Scalar::Decimal { .. } => i128::from_le_bytes(reader.fixed().expect("written")).to_string(),
            Scalar::Bytes => format!("{:?}", reader.bytes().expect("written")),
            Scalar::String | Scalar::Json => {
                String::from_utf8(reader.bytes().expect("written").to_vec()).expect("text stays text")
            }
        };
        assert_eq!(reader.left(), 0, "{scalar:?} {text}");
        Some(value)
    }

    #[test]
    fn each_type_takes_its_values_and_no_others() {
        let decimal = Scalar::Decimal { precision: 5, scale: 2 };
        let whole = Scalar::Decimal { precision: 38, scale: 0 };
        let seconds = Scalar::Timestamp(Some(TimeUnit::S));
        let auto = Scalar::Timestamp(None);
        let cases: &[(Scalar, &str, Option<&str>)] = &[
            (Scalar::Bool, "true", Some("true")),
            (Scalar::Bool, "1", None),
            (Scalar::Bool, "\"true\"", None),
            (Scalar::Int64, "-12", Some("-12")),
            (Scalar::Int64, "1.0", Some("1")),
            (Scalar::Int64, "1e3", Some("1000")),
            (Scalar::Int64, "9223372036854775807", Some("9223372036854775807")),
            (Scalar::Int64, "9223372036854775808", None),
            (Scalar::Int64, "1.5", None),
            (Scalar::Int64, "\"1\"", None),
            (Scalar::Int64, "true", None),
            (Scalar::Int64, "1e99", None),
            (Scalar::Int64, "-0", Some("0")),
            (Scalar::Int64, "1e-400", None),
            (Scalar::Int64, "-9223372036854775808", Some("-9223372036854775808")),
            (Scalar::Int64, "9223372036854775807.5", None),
            (Scalar::Float64, "1.50", Some("1.5")),
            (Scalar::Float64, "1e999", None),
            (Scalar::Float64, "-0", Some("-0")),
            (Scalar::Float64, "0e-999", Some("0")),
            (Scalar::Float64, "1e3", Some("1000")),
            (Scalar::Float64, "1e308", Some(&format!("1{}", "0".repeat(308)))),
            (Scalar::Float64, "1e-400", None),
            (Scalar::Float64, "-1e-400", None),
            (Scalar::Float64, "0.0000000000000001", Some("0.0000000000000001")),
            (Scalar::Float64, "5e-324", Some(&format!("0.{}5", "0".repeat(323)))),
            (Scalar::Float64, "4e-324", None),
            (Scalar::Float64, "2.5e-324", None),
            (Scalar::Float64, "9007199254740992", Some("9007199254740992")),
            (Scalar::Float64, "9007199254740993", None),
            (Scalar::Float64, "9007199254740993.0", None),
            (Scalar::Float64, "123456789012345.6", Some("123456789012345.6")),
            (Scalar::Float64, "0.30000000000000004", Some("0.30000000000000004")),
            (Scalar::Float64, "0.12345678901234567", None),
            (Scalar::Float64, "1763712000.123456", Some("1763712000.123456")),
            (Scalar::Float64, "1763712000.123456789", None),
            (Scalar::Float64, "true", None),
            (Scalar::Float64, "\"1\"", None),
            (Scalar::Float64, "\"NaN\"", Some("NaN")),
            (Scalar::Float64, "\"Infinity\"", Some("inf")),
            (Scalar::Float64, "\"-Infinity\"", Some("-inf")),
            (Scalar::Float64, "\"nan\"", None),
            (Scalar::Float64, "[1]", None),
            (Scalar::String, "\"a\\n\"", Some("a\n")),
            (Scalar::String, "1.50", Some("1.50")),
            (Scalar::String, "false", Some("false")),
            (Scalar::String, "\"\\udc00\"", None),
            (Scalar::String, "{}", None),
            (Scalar::String, "[]", None),
            (Scalar::Bytes, "\"AP8=\"", Some("[0, 255]")),
            (Scalar::Bytes, "\"AP8\"", Some("[0, 255]")),
            (Scalar::Bytes, "\"\"", Some("[]")),
            (Scalar::Bytes, "\"AP9=\"", None),
            (Scalar::Bytes, "\"_w==\"", None),
            (Scalar::Bytes, "1", None),
            (Scalar::Json, "{\"a\": [1]}", Some("{\"a\": [1]}")),
            (Scalar::Date, "\"1970-01-02\"", Some("1")),
            (Scalar::Date, "\"0001-01-01\"", Some("-719162")),
            (Scalar::Date, "\"2025-02-29\"", None),
            (Scalar::Date, "\"2025-1-1\"", None),
            (Scalar::Date, "\"+12025-01-01\"", None),
            (Scalar::Date, "20000", None),
            (seconds, "1.5", Some("1500000")),
            (seconds, "-0.0000001", Some("-1")),
            (seconds, "\"1970-01-01T01:00:00.0000019+01:00\"", Some("1")),
            (seconds, "\"1970-01-01T00:00:00\"", None),
            (seconds, "\"9999-12-31T23:59:59.9999999Z\"", Some("253402300799999999")),
            (seconds, "253402300800", None),
            (seconds, "true", None),
            (auto, "1763712000", Some("1763712000000000")),
            (auto, "1763712000123", Some("1763712000123000")),
            (auto, "1763712000123456", Some("1763712000123456")),
            (auto, "1763712000123456789", Some("1763712000123456")),
            (auto, "1e38", None),
            (auto, "1763712000.1234567", Some("1763712000123456")),
            (auto, "0", Some("0")),
            (auto, "-0.0", Some("0")),
            (auto, "0.5", None),
            (auto, "1", None),
            (auto, "-1763712000", None),
            (auto, "99999999", None),
            (auto, "100000000", Some("100000000000000")),
            (auto, "10000000000", None),
            (auto, "999999999999", None),
            (auto, "10000000000000", None),
            (auto, "1e-400", None),
            (auto, "\"1763712000\"", None),
            (seconds, "0", Some("0")),
            (seconds, "1e-400", Some("0")),
            (seconds, "\"2025-11-21 12:04:05+0900\"", Some("1763694245000000")),
            (decimal, "1.5", Some("150")),
            (decimal, "\"-0.050\"", Some("-5")),
            (decimal, "999.99", Some("99999")),
            (decimal, "1e3", None),
            (decimal, "0.001", None),
            (decimal, "\"one\"", None),
            (decimal, "\" 1\"", None),
            (whole, "-99999999999999999999999999999999999999", Some("-99999999999999999999999999999999999999")),
            (whole, "1e38", None),
            (decimal, "-0", Some("0")),
            (decimal, "1e-400", None),
            (decimal, "1.500", Some("150")),
            (decimal, "15e-1", Some("150")),
            (decimal, "1000", None),
            (decimal, "999.995", None),
            (Scalar::Bool, "0", None),
            (Scalar::String, "1e-400", Some("1e-400")),
            (Scalar::String, "-0", Some("-0")),
            (Scalar::Json, "1e400", Some("1e400")),
            (Scalar::Bytes, "1e400", None),
            (Scalar::Date, "1e-400", None),
        ];
        for (scalar, text, expected) in cases {
            assert_eq!(written(*scalar, text).as_deref(), *expected, "{scalar:?} {text}");
        }
    }

    /// The table of numbers in the documentation of `check.rs`, row by row.
    #[test]
    fn numbers_are_kept_or_refused_as_documented() {
        let decimal = Scalar::Decimal { precision: 5, scale: 2 };
        let seconds = Scalar::Timestamp(Some(TimeUnit::S));
        let e38 = format!("1{}", "0".repeat(38));
        let columns = [Scalar::Int64, Scalar::Float64, decimal, seconds, Scalar::Timestamp(None)];
        let rows: [(&str, [&str; 5]); 13] = [
            ("15", ["15", "15", "1500", "15000000", "—"]),
            ("1.5e1", ["15", "15", "1500", "15000000", "—"]),
            ("1.5", ["—", "1.5", "150", "1500000", "—"]),
            ("-0", ["0", "-0", "0", "0", "0"]),
            ("0.001", ["—", "0.001", "—", "1000", "—"]),
            ("1e-400", ["—", "—", "—", "0", "—"]),
            ("1e38", ["—", &e38, "—", "—", "—"]),
            ("1e400", ["—", "—", "—", "—", "—"]),
            ("9007199254740993", ["9007199254740993", "—", "—", "—", "9007199254740993"]),
            ("9223372036854775808", ["—", "9223372036854776000", "—", "—", "9223372036854775"]), // 2^63, shown short.
            ("0.30000000000000004", ["—", "0.30000000000000004", "—", "300000", "—"]),
            ("0.12345678901234567", ["—", "—", "—", "123456", "—"]),
            ("1763712000.123456789", ["—", "—", "—", "1763712000123456", "1763712000123456"]),
        ];
        for (number, expected) in rows {
            let found = columns.map(|column| written(column, number).unwrap_or("—".to_string()));
            assert_eq!(found, expected, "{number}");
            for column in [Scalar::String, Scalar::Json] {
                assert_eq!(written(column, number).as_deref(), Some(number));
            }
            for column in [Scalar::Bool, Scalar::Date, Scalar::Bytes] {
                assert_eq!(written(column, number), None, "{column:?} {number}");
            }
        }
    }

    /// Numbers of a column without a unit are read as event times are, wherever both take them.
    #[test]
    fn columns_and_event_times_tell_units_alike() {
        let rule = TimestampRule {
            source: TimestampSource::Kafka,
            format: TimeFormat::Auto,
            zone: "UTC".to_string(),
            fallback: TimestampFallback::DeadLetter,
        };
        let event_time = TimeReader::new(&rule).expect("a valid rule");
        for power in 1..22_usize {
            for first in ["1", "9", "-1"] {
                let text = format!("{first}{}", first.trim_start_matches('-').repeat(power));
                let column = timestamp(&text, None).map(|micros| micros.div_euclid(1000)).ok();
                assert_eq!(column, event_time.read_json(&text).ok(), "{text}");
            }
        }
    }

    #[test]
    fn refusals_quote_no_more_than_they_may() {
        let long = format!("\"{}\"", "x".repeat(1000));
        let refused = Scalar::Int64.write(&long, &mut Vec::new()).expect_err("a string");
        assert!(refused.chars().count() < 80, "{refused}");
    }
}
