//! Reads event times: epochs, RFC 3339 and strftime patterns.
//!
//! # Guarantees
//! - **R-1** A value is read as an instant of the years 1 to 9999, in milliseconds UTC (finer parts are cut off), or is
//!   an error. What is missing, unset or unclear is never read as 1970: the numbers 0 and -1, which stand for *unset* in
//!   most producers, are errors too, and so is every other number that lands in 1970 (UTC), be its unit declared or told
//!   by its size: seconds that are read as milliseconds lie there. Dates of 1970 that are written out are honoured.
//! - **R-2** Numbers are exact: no floating point on the way.
//! - **R-3** Nothing depends on the machine's zone, locale or clock.
//!
//! # Epochs
//! Integers, decimals and exponents, as JSON numbers or as text. Without a declared unit the size tells it, where that
//! is clear; the borders are Secor's, and what would be a guess is refused. The same table ([`unit_by_size`]) reads the
//! numbers of a Parquet `Timestamp` column:
//!
//! | value | is |
//! |---|---|
//! | 10^8 to 10^10 | seconds, 1973 to 2286 |
//! | 10^12 to 10^13 | milliseconds, 2001 to 2286 |
//! | 10^15 to 10^16 | microseconds, 2001 to 2286 |
//! | 10^18 to 10^19 | nanoseconds, 2001 to 2286 |
//! | anything else, negative numbers too | unclear |
//!
//! # Local times
//! A pattern without an offset is read in the rule's zone. A local time that comes twice when clocks go back means the
//! earlier instant. One that is skipped when they go forward means the instant as far behind the gap's start as it says:
//! 02:30 becomes 03:30. A leap second counts as the first second of the next minute. A pattern without a time of day
//! means midnight, one without minutes the full hour. `%Z` is passed over: names such as CST do not tell a zone.

use crate::layout::{TimeFormat, TimeUnit, TimestampRule};
use chrono::format::{Item, Parsed, StrftimeItems, parse};
use chrono::{DateTime, FixedOffset, NaiveDateTime, NaiveTime, TimeDelta, TimeZone};
use chrono_tz::Tz;
use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

/// 0001-01-01T00:00:00Z, the earliest event time.
pub const TIME_MS_MIN: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z, the latest.
pub const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// Longest number or text that is looked at, bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Why a value is not an event time. The value itself is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Null or an empty text.
    #[error("the time is null or empty")]
    Missing,
    /// 0 or -1, which stand for "no time".
    #[error("the time is 0 or -1, which stands for an unset one")]
    Unset,
    /// A number that lies in 1970: another unit than the one declared, or no time at all.
    #[error("the number lies in 1970, which stands for another `unit` than the one declared or for no time at all")]
    In1970,
    /// A type that cannot be a time: true, an object, an array, a number where text is expected.
    #[error("the time has the wrong JSON type; expected is {0}")]
    WrongType(&'static str),
    /// Text or a number that does not read as declared.
    #[error("the time cannot be read as {0}")]
    Unreadable(&'static str),
    /// A number whose unit its size does not tell.
    #[error("the size of the number does not tell its unit (s, ms, us or ns); declare `unit`")]
    UnitUnclear,
    /// Not within the years 1 to 9999.
    #[error("the time is outside the years 1 to 9999")]
    OutOfRange,
}

/// Reads event times by one rule. Shared by all threads.
#[derive(Clone, Debug)]
pub struct TimeReader {
    format: Format,
    zone: Tz,
}

#[derive(Clone, Debug)]
enum Format {
    Auto,
    Epoch(TimeUnit),
    Rfc3339,
    Pattern(Vec<Item<'static>>),
}

impl TimeReader {
    /// Compiles a rule.
    ///
    /// # Errors
    /// For the configuration: the zone is unknown, or the pattern is none of chrono's or cannot tell an instant.
    pub fn new(rule: &TimestampRule) -> Result<Self, String> {
        let zone: Tz = rule.zone.parse().map_err(|_| {
            format!("unknown time zone `{}`; write an IANA name such as UTC or Europe/Berlin", rule.zone)
        })?;
        let format = match &rule.format {
            TimeFormat::Auto => Format::Auto,
            TimeFormat::Epoch(unit) => Format::Epoch(*unit),
            TimeFormat::Rfc3339 => Format::Rfc3339,
            TimeFormat::Pattern(pattern) => Format::Pattern(compile(pattern)?),
        };
        Ok(Self { format, zone })
    }

    /// Reads the raw JSON text of a field, milliseconds UTC.
    ///
    /// # Errors
    /// [`TimeError`]: the rule's fallback decides what becomes of the record.
    pub fn read_json(&self, raw: &str) -> Result<i64, TimeError> {
        let raw = raw.trim_ascii();
        match raw.as_bytes().first() {
            None | Some(b'n') => Err(TimeError::Missing),
            Some(b'"') => self.read_str(&unquote(raw)?),
            Some(b'-' | b'0'..=b'9') => match &self.format {
                Format::Rfc3339 => Err(TimeError::WrongType("RFC 3339 text")),
                Format::Auto => read_epoch(raw, None),
                Format::Epoch(unit) => read_epoch(raw, Some(*unit)),
                // Such as 20251121 for %Y%m%d.
                Format::Pattern(_) => self.read_str(raw),
            },
            Some(_) => Err(TimeError::WrongType("a number or a string")),
        }
    }

    /// Reads a text, such as a header's value, milliseconds UTC.
    ///
    /// # Errors
    /// [`TimeError`]: the rule's fallback decides what becomes of the record.
    pub fn read_text(&self, text: &[u8]) -> Result<i64, TimeError> {
        match std::str::from_utf8(text) {
            Ok(text) => self.read_str(text),
            Err(_) => Err(TimeError::Unreadable("text: it is not UTF-8")),
        }
    }

    fn read_str(&self, text: &str) -> Result<i64, TimeError> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(TimeError::Missing);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(TimeError::Unreadable("a time: it is too long"));
        }
        match &self.format {
            Format::Epoch(unit) => read_epoch(text, Some(*unit)),
            Format::Rfc3339 => read_rfc3339(text),
            Format::Pattern(items) => read_pattern(text, items, self.zone),
            // Every RFC 3339 text has a `-` behind its year; a number that has one there is too small for a time.
            Format::Auto if text.as_bytes().get(4) == Some(&b'-') => read_rfc3339(text),
            Format::Auto => match read_epoch(text, None) {
                Err(TimeError::Unreadable(_)) => Err(TimeError::Unreadable("an epoch or as RFC 3339")),
                result => result,
            },
        }
    }
}

/// RFC 3339 in UTC with milliseconds, `2025-11-21T03:04:05.678Z`: how times are shown everywhere. Total: what chrono
/// cannot hold is shown as its number.
pub fn render_instant(ms: i64) -> String {
    match DateTime::from_timestamp_millis(ms) {
        Some(instant) => instant.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => format!("{ms} ms since 1970-01-01T00:00:00Z"),
    }
}

/// The text inside a JSON string.
fn unquote(raw: &str) -> Result<Cow<'_, str>, TimeError> {
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        _ => serde_json::from_str(raw).map(Cow::Owned).map_err(|_| TimeError::Unreadable("a JSON string")),
    }
}

fn in_range(ms: i64) -> Result<i64, TimeError> {
    if (TIME_MS_MIN..=TIME_MS_MAX).contains(&ms) { Ok(ms) } else { Err(TimeError::OutOfRange) }
}

// Epochs.

/// A number: `mantissa` × 10^`exponent`, exactly.
#[derive(Clone, Copy)]
struct Decimal {
    mantissa: i128,
    exponent: i32,
}

/// Digits behind the point of a second that event times keep.
const MS_PLACES: i32 = 3;

/// The unit of an epoch whose whole part is `whole`, where its size tells it: the table of the module.
pub fn unit_by_size(whole: i128) -> Option<TimeUnit> {
    /// From one power of ten up to another.
    const SIZES: [(u32, u32, TimeUnit); 4] =
        [(8, 10, TimeUnit::S), (12, 13, TimeUnit::Ms), (15, 16, TimeUnit::Us), (18, 19, TimeUnit::Ns)];
    let ten_to = |power: u32| 10_i128.pow(power);
    SIZES.into_iter().find(|(from, to, _)| (ten_to(*from)..ten_to(*to)).contains(&whole)).map(|(.., unit)| unit)
}

/// Digits that are kept: a number that is in range in some unit has fewer before the last that counts.
const DIGITS_MAX: usize = 36;

fn read_epoch(text: &str, unit: Option<TimeUnit>) -> Result<i64, TimeError> {
    let number = match fast_integer(text) {
        Some(integer) => Decimal { mantissa: i128::from(integer), exponent: 0 },
        None if text.len() > TEXT_BYTES_MAX => return Err(TimeError::Unreadable("an epoch number: it is too long")),
        None => Decimal::parse(text).ok_or(TimeError::Unreadable("an epoch number"))?,
    };
    if number.is(0) || number.is(-1) {
        return Err(TimeError::Unset);
    }
    let unit = match unit {
        Some(unit) => unit,
        None => number.floor_times_ten_to(0).and_then(unit_by_size).ok_or(TimeError::UnitUnclear)?,
    };
    let ms = number.floor_times_ten_to(unit.power_of_ten() + MS_PLACES).ok_or(TimeError::OutOfRange)?;
    plausible(i64::try_from(ms).map_err(|_| TimeError::OutOfRange)?)
}

/// 1970 in UTC, milliseconds.
const YEAR_1970_MS: Range<i64> = 0..365 * 86_400_000;

/// The instant of a number, which is never 1970.
fn plausible(ms: i64) -> Result<i64, TimeError> {
    if YEAR_1970_MS.contains(&ms) { Err(TimeError::In1970) } else { in_range(ms) }
}

/// Plain digits that fit: nearly every epoch there is.
fn fast_integer(text: &str) -> Option<i64> {
    let plain = text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { Some(text.bytes().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))) } else { None }
}

impl Decimal {
    /// Reads an optional sign, digits, an optional fraction and an optional exponent.
    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let complete = !whole.is_empty() && (digits.len() == whole.len() || !fraction.is_empty());
        if !complete || !numeric(whole) || !numeric(fraction) {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let (kept, cut) = digits.split_at(digits.len().min(DIGITS_MAX));
        let mantissa: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
        let moved = i32::try_from(cut.len()).ok()? - i32::try_from(fraction.len()).ok()?;
        Some(Self { mantissa: if negative { -mantissa } else { mantissa }, exponent: exponent + moved })
    }

    fn is(self, number: i128) -> bool {
        self.floor_times_ten_to(0) == Some(number) && (self.mantissa == 0 || self.is_whole())
    }

    fn is_whole(self) -> bool {
        let divisor = u32::try_from(-self.exponent).ok().map(|places| 10_i128.checked_pow(places));
        match divisor {
            None => true,
            Some(divisor) => divisor.is_some_and(|divisor| self.mantissa % divisor == 0),
        }
    }

    /// The largest integer not above the number × 10^`places`; `None` where it does not fit.
    fn floor_times_ten_to(self, places: i32) -> Option<i128> {
        if self.mantissa == 0 {
            return Some(0);
        }
        let exponent = self.exponent + places;
        match u32::try_from(exponent) {
            Ok(up) => self.mantissa.checked_mul(10_i128.checked_pow(up)?),
            Err(_) => Some(match 10_i128.checked_pow(exponent.unsigned_abs()) {
                Some(divisor) => self.mantissa.div_euclid(divisor),
                // So small that only the sign is left.
                None if self.mantissa < 0 => -1,
                None => 0,
            }),
        }
    }
}

/// An exponent of up to three digits: more is no time in any unit.
fn parse_exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let exponent: i32 = if plain { digits.parse().ok()? } else { return None };
    Some(if text.starts_with('-') { -exponent } else { exponent })
}

// Text.

/// See [`rfc3339`].
fn read_rfc3339(text: &str) -> Result<i64, TimeError> {
    match rfc3339(text) {
        Some(instant) => in_range(instant.timestamp_millis()),
        None => Err(TimeError::Unreadable("RFC 3339, such as 2025-11-21T03:04:05.678Z; an offset is required")),
    }
}

/// The instant of RFC 3339 text; also with a space for the `T`, in lower case, and with an offset without its colon.
pub fn rfc3339(text: &str) -> Option<DateTime<FixedOffset>> {
    let colon_added = || DateTime::parse_from_rfc3339(&with_colon(text)?).ok();
    DateTime::parse_from_rfc3339(text).ok().or_else(colon_added)
}

/// `…+0130` as `…+01:30`.
fn with_colon(text: &str) -> Option<String> {
    let (time, minutes) = text.split_at_checked(text.len().checked_sub(2)?)?;
    let [.., b'+' | b'-', hour_tens, hour_ones] = time.as_bytes() else { return None };
    let digits = [hour_tens, hour_ones].iter().all(|byte| byte.is_ascii_digit());
    if digits && text.len() > 19 { Some(format!("{time}:{minutes}")) } else { None }
}

/// Reads a pattern, and proves with two instants that a text of it can be read back to an instant.
fn compile(pattern: &str) -> Result<Vec<Item<'static>>, String> {
    let items = StrftimeItems::new(pattern)
        .parse_to_owned()
        .map_err(|_| format!("time pattern `{pattern}`: not one of chrono's strftime patterns"))?;
    if items.is_empty() {
        return Err("time pattern: it is empty".to_string());
    }
    for probe in ["2000-10-10T13:55:36+00:00", "2024-02-29T23:05:06+00:00"] {
        let instant = DateTime::parse_from_rfc3339(probe).expect("the probes are RFC 3339");
        let mut text = String::new();
        let written = write!(text, "{}", instant.format_with_items(writable(&items).iter()));
        if written.is_err() || read_pattern(text.trim_ascii(), &items, Tz::UTC).is_err() {
            return Err(format!(
                "time pattern `{pattern}`: it cannot tell an instant; it needs a year, a month and a day (or %s), and for %I also %p"
            ));
        }
    }
    Ok(items)
}

/// The same items with `%z` for `%#z`, which chrono reads but does not write.
fn writable(items: &[Item<'static>]) -> Vec<Item<'static>> {
    let (read_only, plain) = (StrftimeItems::new("%#z").next(), StrftimeItems::new("%z").next());
    let swap = |item: &Item<'static>| if Some(item) == read_only.as_ref() { plain.clone() } else { Some(item.clone()) };
    items.iter().filter_map(swap).collect()
}

fn read_pattern(text: &str, items: &[Item<'static>], zone: Tz) -> Result<i64, TimeError> {
    const UNREADABLE: TimeError = TimeError::Unreadable("the declared pattern");
    let mut parsed = Parsed::new();
    parse(&mut parsed, text, items.iter()).map_err(|_| UNREADABLE)?;
    if parsed.timestamp().is_some() {
        let utc = parsed.to_naive_datetime_with_offset(0).map_err(|_| UNREADABLE)?;
        let ms = utc.and_utc().timestamp_millis();
        // `%s` reads a number, not a date that somebody wrote out.
        return if ms == 0 { Err(TimeError::Unset) } else { plausible(ms) };
    }
    let date = parsed.to_naive_date().map_err(|_| UNREADABLE)?;
    let has_time = parsed.hour_mod_12().is_some() || parsed.minute().is_some() || parsed.second().is_some();
    if has_time && parsed.minute().is_none() {
        parsed.set_minute(0).map_err(|_| UNREADABLE)?;
    }
    let time = if has_time { parsed.to_naive_time().map_err(|_| UNREADABLE)? } else { NaiveTime::MIN };
    let local = date.and_time(time);
    match parsed.offset() {
        Some(offset) => in_range(local.and_utc().timestamp_millis() - i64::from(offset) * 1_000),
        None => in_range(local_to_ms(local, zone)),
    }
}

/// The instant of a local time, milliseconds UTC; see the module for times that come twice or never.
pub fn local_to_ms(local: NaiveDateTime, zone: Tz) -> i64 {
    if let Some(instant) = zone.from_local_datetime(&local).earliest() {
        return instant.timestamp_millis();
    }
    // In a gap: read with the offset before it. No zone changes its offset twice within two days of a gap.
    let before = local.checked_sub_signed(TimeDelta::hours(24)).unwrap_or(local);
    let offset_s = chrono::Offset::fix(&zone.offset_from_utc_datetime(&before)).local_minus_utc();
    local.and_utc().timestamp_millis() - i64::from(offset_s) * 1_000
}

#[cfg(test)]
mod tests;
