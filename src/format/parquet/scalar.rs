//! One JSON value into one column that is no container. See the table of [`super::check`].

use super::check::expected;
use super::number::{Number, lossless_double};
use super::row::push_bytes;
use crate::format::object::{quote, unescape};
use crate::layout::TimeUnit;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Datelike, NaiveDate};

/// Standard alphabet, padding optional, bits that mean nothing refused.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z in microseconds: what every reader of Parquet can show.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
const MICROS_MAX: i64 = 253_402_300_799_999_999;

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
            Self::Json => push_bytes(text.as_bytes(), rows),
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
    let refuse = || expected("a number that a double can hold", text);
    let is_integer_literal = match text.as_bytes() {
        [b'-' | b'0'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => return Err(expected("a number", text)),
    };
    // 15 digits are exact in a double, whatever they are.
    if is_integer_literal && text.len() > 15 {
        let number = Number::parse(text).ok_or_else(|| expected("a number", text))?;
        return lossless_double(text, &number).ok_or_else(refuse);
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(refuse)
}

fn write_string(text: &str, rows: &mut Vec<u8>) -> Result<(), String> {
    match text.as_bytes().first() {
        Some(b'"') => match unescape(text) {
            Some(characters) => push_bytes(characters.as_bytes(), rows),
            None => return Err(format!("half a surrogate pair is no character: {}", quote(text))),
        },
        Some(b'{' | b'[') | None => return Err(expected("a string", text)),
        // Numbers and booleans.
        Some(_) => push_bytes(text.as_bytes(), rows),
    }
    Ok(())
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
        let parsed = unescape(text).and_then(|characters| DateTime::parse_from_rfc3339(&characters).ok());
        parsed.ok_or_else(|| expected("a time as RFC 3339", text))?.timestamp_micros()
    } else {
        let number = Number::parse(text).ok_or_else(|| expected("a time, as number or RFC 3339", text))?;
        let unit = match unit {
            Some(unit) => unit,
            None => unit_by_size(&number).ok_or_else(|| expected("a time", text))?,
        };
        let scaled = number.scaled(digits_to_micros(unit)).ok_or_else(|| expected("a time", text))?;
        i64::try_from(scaled.floor).map_err(|_| expected("a time of the years 1 to 9999", text))?
    };
    if !(MICROS_MIN..=MICROS_MAX).contains(&micros) {
        return Err(expected("a time of the years 1 to 9999", text));
    }
    Ok(micros)
}

/// Power of ten from `unit` to microseconds.
fn digits_to_micros(unit: TimeUnit) -> i32 {
    match unit {
        TimeUnit::S => 6,
        TimeUnit::Ms => 3,
        TimeUnit::Us => 0,
        TimeUnit::Ns => -3,
    }
}

/// Unit of an epoch by its size: below 10^11 seconds (until the year 5138), below 10^14 milliseconds (from 1973 on),
/// below 10^17 microseconds, else nanoseconds. Times before 1970 alike, by magnitude.
fn unit_by_size(number: &Number<'_>) -> Option<TimeUnit> {
    Some(match number.scaled(0)?.floor.unsigned_abs() {
        0..100_000_000_000 => TimeUnit::S,
        100_000_000_000..100_000_000_000_000 => TimeUnit::Ms,
        100_000_000_000_000..100_000_000_000_000_000 => TimeUnit::Us,
        _ => TimeUnit::Ns,
    })
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
        let cases = [
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
            (Scalar::Float64, "1.50", Some("1.5")),
            (Scalar::Float64, "1e999", None),
            (Scalar::Float64, "9007199254740993", None),
            (Scalar::Float64, "\"1\"", None),
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
            (decimal, "1.5", Some("150")),
            (decimal, "\"-0.050\"", Some("-5")),
            (decimal, "999.99", Some("99999")),
            (decimal, "1e3", None),
            (decimal, "0.001", None),
            (decimal, "\"one\"", None),
            (decimal, "\" 1\"", None),
            (whole, "-99999999999999999999999999999999999999", Some("-99999999999999999999999999999999999999")),
            (whole, "1e38", None),
        ];
        for (scalar, text, expected) in cases {
            assert_eq!(written(scalar, text).as_deref(), expected, "{scalar:?} {text}");
        }
    }

    #[test]
    fn refusals_quote_no_more_than_they_may() {
        let long = format!("\"{}\"", "x".repeat(1000));
        let refused = Scalar::Int64.write(&long, &mut Vec::new()).expect_err("a string");
        assert!(refused.chars().count() < 80, "{refused}");
    }
}
