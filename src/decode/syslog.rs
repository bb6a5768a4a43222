//! Syslog lines, RFC 5424 and RFC 3164 as it is used.
//!
//! | field | value |
//! |---|---|
//! | `facility`, `severity` | names as in `syslog.h`: `auth`, `err` |
//! | `timestamp` | RFC 3339, UTC |
//! | `hostname`, `appname`, `msgid` | strings |
//! | `procid` | string, also where it is a number |
//! | `structured_data` | RFC 5424: an object by id of objects of strings; of an array of them where a name repeats |
//! | `message` | string; without the byte order mark that RFC 5424 puts before UTF-8 |
//!
//! What a line does not tell is left out.

use super::rows::Writer;
use super::text::line;
use super::{DecodeError, Decoder, Rows};
use crate::parse::timestamp::local_to_ms;
use crate::record::Record;
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};
use chrono_tz::Tz;
use syslog_loose::{IncompleteDate, Message, Protocol, Variant};

/// Syslog. The year that RFC 3164 leaves out is the one that brings the time closest to the record's Kafka timestamp.
pub(super) struct Syslog {
    zone: Tz,
}

impl Syslog {
    pub(super) fn new(zone: &str) -> Result<Self, String> {
        let zone = zone.parse().map_err(|_| format!("{zone:?} is no time zone"))?;
        Ok(Self { zone })
    }

    /// The instant that a message tells.
    fn instant(&self, line: &str, message: &Message<&str>) -> Option<DateTime<Utc>> {
        let told = message.timestamp?;
        // Read as UTC where it is a local time: one that begins with the name of a month.
        let is_local = behind_priority(line).starts_with(|letter: char| letter.is_ascii_alphabetic());
        if message.protocol == Protocol::RFC3164 && is_local {
            return DateTime::from_timestamp_millis(local_to_ms(told.naive_utc(), self.zone));
        }
        Some(told.to_utc())
    }

    fn write(&self, line: &str, message: &Message<&str>, out: &mut Writer<'_>) -> Result<(), DecodeError> {
        let mut members = out.object()?;
        let procid = message.procid.as_ref().map(ToString::to_string);
        let told = self.instant(line, message).map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        let fields = [
            ("facility", message.facility.map(|facility| facility.as_str())),
            ("severity", message.severity.map(|severity| severity.as_str())),
            ("timestamp", told.as_deref()),
            ("hostname", message.hostname),
            ("appname", message.appname),
            ("procid", procid.as_deref()),
            ("msgid", message.msgid),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                out.name(&mut members, name)?;
                out.string(value);
            }
        }
        if !message.structured_data.is_empty() {
            out.name(&mut members, "structured_data")?;
            let mut ids = out.object()?;
            for element in &message.structured_data {
                out.name(&mut ids, element.id)?;
                let mut params: Vec<(&str, Vec<String>)> = Vec::new();
                for (name, value) in element.params() {
                    match params.iter_mut().find(|(known, _)| known == name) {
                        Some((_, values)) => values.push(value),
                        None => params.push((name, vec![value])),
                    }
                }
                let mut members = out.object()?;
                for (name, values) in params {
                    out.name(&mut members, name)?;
                    match values.as_slice() {
                        [value] => out.string(value),
                        values => out.array(values, |out, value| {
                            out.string(value);
                            Ok(())
                        })?,
                    }
                }
                out.end_object();
            }
            out.end_object();
        }
        out.name(&mut members, "message")?;
        out.string(message.msg.trim_start_matches('\u{feff}'));
        out.end_object();
        Ok(())
    }
}

impl Decoder for Syslog {
    fn decode(&self, record: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let line = line(payload)?;
        let kafka = record.timestamp.and_then(DateTime::from_timestamp_millis);
        let year = |date| kafka.and_then(|kafka| closest_year(date, kafka)).unwrap_or(NO_YEAR);
        let message = syslog_loose::parse_message_with_year_exact_tz(line, year, Some(Utc), Variant::Either)
            .map_err(|_| DecodeError("the payload is no syslog line, neither RFC 5424 nor RFC 3164".to_string()))?;
        if message.timestamp.is_some_and(|at| at.year() == NO_YEAR) {
            return Err(DecodeError(
                "the line tells no year, and the record has no Kafka timestamp that would".to_string(),
            ));
        }
        rows.add(|out| self.write(line, &message, out))
    }
}

/// Stands for a year that nobody knows. A leap year, so that every day is in it.
const NO_YEAR: i32 = -400;

/// The year that brings a date without one closest to `kafka`, to which its zone is at most half a day.
fn closest_year((month, day, hour, minute, second): IncompleteDate, kafka: DateTime<Utc>) -> Option<i32> {
    let in_year = |year| NaiveDate::from_ymd_opt(year, month, day)?.and_hms_opt(hour, minute, second);
    // Leap years are at most eight apart.
    (kafka.year() - 8..=kafka.year() + 8)
        .filter_map(|year| Some((in_year(year)?.and_utc().signed_duration_since(kafka).abs(), year)))
        .min()
        .map(|(_, year)| year)
}

/// What follows `<13>` or `<13>1 `.
fn behind_priority(line: &str) -> &str {
    let line = line.trim_start();
    line.strip_prefix('<').and_then(|rest| rest.split_once('>')).map_or(line, |(_, rest)| rest).trim_start()
}
