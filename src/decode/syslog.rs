//! Syslog lines, RFC 5424 and RFC 3164 as it is used.
//!
//! | field | value |
//! |---|---|
//! | `facility`, `severity` | names as in `syslog.h`: `auth`, `err` |
//! | `timestamp` | RFC 3339, UTC |
//! | `hostname`, `appname`, `msgid` | strings |
//! | `procid` | string, also where it is a number |
//! | `structured_data` | RFC 5424: an object by id of objects of strings; of an array of them where a name repeats |
//! | `message` | string: all that stands behind the header; without the byte order mark that RFC 5424 puts before UTF-8 |
//!
//! What a line does not tell is left out.
//!
//! The library tells what is what, generously: it passes over what it does not understand and over white space. So the
//! header is read once more here, for where it ends, and a line of which something would get lost is refused.

use super::rows::Writer;
use super::text::line;
use super::{DecodeError, Decoder, Rows};
use crate::parse::timestamp::local_to_ms;
use crate::record::Record;
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use regex::Regex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;
use syslog_loose::{IncompleteDate, Message, Protocol, StructuredElement, Variant};

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

    fn write(
        &self,
        line: &str,
        fraction: TimeDelta,
        message: &Message<&str>,
        header: &Header<'_>,
        out: &mut Writer<'_>,
    ) -> Result<(), DecodeError> {
        let mut members = out.object()?;
        let told = self.instant(line, message).map(|at| (at + fraction).to_rfc3339_opts(SecondsFormat::AutoSi, true));
        let fields = [
            ("facility", message.facility.map(|facility| facility.as_str())),
            ("severity", message.severity.map(|severity| severity.as_str())),
            ("timestamp", told.as_deref()),
            ("hostname", header.hostname),
            ("appname", header.appname),
            ("procid", header.procid),
            ("msgid", header.msgid),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                out.name(&mut members, name)?;
                out.string(value);
            }
        }
        if message.protocol != Protocol::RFC3164 && !message.structured_data.is_empty() {
            out.name(&mut members, "structured_data")?;
            write_elements(&message.structured_data, out)?;
        }
        out.name(&mut members, "message")?;
        out.string(header.message);
        out.end_object();
        Ok(())
    }
}

fn write_elements(elements: &[StructuredElement<&str>], out: &mut Writer<'_>) -> Result<(), DecodeError> {
    let mut ids = out.object()?;
    for element in elements {
        out.name(&mut ids, element.id)?;
        let mut params: Vec<(&str, Vec<String>)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (name, value) in &element.params {
            let place = *places.entry(name).or_insert(params.len());
            match params.get_mut(place) {
                Some((_, values)) => values.push(unescaped(value)),
                None => params.push((name, vec![unescaped(value)])),
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
    Ok(())
}

/// What a value of structured data stands for: a backslash before anything but `"`, `\` and `]` is one (RFC 5424, 6.3.3).
fn unescaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        match letters.next_if(|next| letter == '\\' && matches!(next, '"' | '\\' | ']')) {
            Some(escaped) => text.push(escaped),
            None => text.push(letter),
        }
    }
    text
}

impl Decoder for Syslog {
    fn decode(&self, record: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let (line, fraction) = without_fraction(line(payload)?)?;
        let timed = with_time(&line);
        let line = timed.as_deref().unwrap_or(&line);
        let kafka = record.timestamp.and_then(DateTime::from_timestamp_millis);
        let year = |date| kafka.and_then(|kafka| closest_year(date, kafka)).unwrap_or(NO_YEAR);
        let mut message = syslog_loose::parse_message_with_year_exact_tz(line, year, Some(Utc), Variant::Either)
            .map_err(|_| DecodeError("the payload is no syslog line, neither RFC 5424 nor RFC 3164".to_string()))?;
        message.timestamp = message.timestamp.filter(|_| timed.is_none());
        if message.timestamp.is_some_and(|at| at.year() == NO_YEAR) {
            return Err(DecodeError(
                "the line tells no year, and the record has no Kafka timestamp that would".to_string(),
            ));
        }
        if message.severity.is_some() && message.facility.is_none() {
            return Err(DecodeError("the priority of the line is above 191".to_string()));
        }
        let header = match message.protocol {
            Protocol::RFC3164 if timed.is_some() => {
                Err(DecodeError("the line begins like one of RFC 5424 without a time, and is none".to_string()))
            }
            Protocol::RFC3164 => Header::of_3164(line, &message),
            Protocol::RFC5424(_) => Header::of_5424(line, &message),
        }?;
        rows.add(|out| self.write(line, fraction, &message, &header, out))
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

/// The header of a line, as its text says it.
struct Header<'l> {
    hostname: Option<&'l str>,
    appname: Option<&'l str>,
    procid: Option<&'l str>,
    msgid: Option<&'l str>,
    /// What follows the header.
    message: &'l str,
}

impl<'l> Header<'l> {
    /// Of a line of RFC 5424 that the library has read as `message`.
    fn of_5424(line: &'l str, message: &Message<&'l str>) -> Result<Self, DecodeError> {
        let broken = || DecodeError("the structured data of the line is not as RFC 5424 says".to_string());
        let mut rest = behind_priority(line);
        let mut word = || {
            let (word, behind) = rest.split_at(rest.find(char::is_whitespace)?);
            rest = behind.trim_start_matches([' ', '\t']);
            Some(word)
        };
        let words = [(); 6].map(|()| word());
        let [_version, _time, hostname, appname, procid, msgid] = words.map(|word| word.filter(|word| *word != "-"));
        let behind = match rest.strip_prefix('-') {
            Some(behind) => behind,
            None => {
                let mut elements = 0;
                while rest.starts_with('[') {
                    rest = behind_element(rest).ok_or_else(broken)?;
                    elements += 1;
                }
                // The library passes over elements that it does not understand.
                if elements == 0 || elements != message.structured_data.len() {
                    return Err(broken());
                }
                rest
            }
        };
        if !(behind.is_empty() || behind.starts_with([' ', '\t'])) {
            return Err(broken());
        }
        let text = behind.strip_prefix(' ').unwrap_or(behind);
        if text.trim_start_matches([' ', '\t']).trim_end() != message.msg {
            return Err(broken());
        }
        Ok(Self { hostname, appname, procid, msgid, message: text.strip_prefix('\u{feff}').unwrap_or(text) })
    }

    /// Of a line of RFC 3164, or one with the time of RFC 3339 in its place: `TIME HOST TAG: MESSAGE`.
    fn of_3164(line: &'l str, message: &Message<&'l str>) -> Result<Self, DecodeError> {
        let behind = behind_priority(line);
        let rest = match TIME.find(behind) {
            Some(time) => {
                let rest = &behind[time.end()..];
                rest.strip_prefix(':').unwrap_or(rest)
            }
            None => behind.find(' ').map_or("", |end| &behind[end..]),
        };
        if rest.starts_with(|letter: char| !letter.is_whitespace()) {
            return Err(DecodeError(
                "what follows the time of the line is neither white space nor a colon".to_string(),
            ));
        }
        let (first, rest) = field(rest, |letter| letter.is_whitespace());
        // A colon at the end of the only word is the separator.
        let (first, rest) = match first.and_then(|word| word.strip_suffix(':')) {
            Some("") => (None, &behind[behind.len() - rest.len() - " :".len()..]),
            Some(word) => (Some(word), &behind[behind.len() - rest.len() - ":".len()..]),
            None => (first, rest),
        };
        let (second, rest) = field(rest, |letter| letter.is_whitespace() || letter == ':');
        let text = match rest.strip_prefix(':') {
            Some(rest) => rest.strip_prefix(' ').unwrap_or(rest),
            // Two spaces, or a colon between them, stand for a tag that is not there.
            None if second.is_none() && (rest == " :" || rest.starts_with(" : ")) => rest.get(3..).unwrap_or(""),
            None if second.is_none() => rest.strip_prefix("  ").or(rest.strip_prefix(' ')).unwrap_or(rest),
            None => rest.strip_prefix(' ').unwrap_or(rest),
        };
        // Where the library and the text disagree, neither is believed.
        if !text.trim_end().ends_with(message.msg) {
            return Err(DecodeError("where the header of the line ends cannot be told".to_string()));
        }
        let told = |word: &'l str| Some(word).filter(|word| *word != "-");
        let (hostname, appname, procid) = match (first, second) {
            (Some(host), Some(tag)) => match of_process(tag) {
                Some((name, id)) => (told(host), Some(name), Some(id)),
                None => (told(host), told(tag), None),
            },
            (Some(only), None) => match of_process(only) {
                Some((name, id)) => (None, Some(name), Some(id)),
                None => (told(only), None, None),
            },
            (None, _) => (None, None, None),
        };
        Ok(Self { hostname, appname, procid, msgid: None, message: text })
    }
}

/// The word behind one space, up to what `ends` it, and what follows.
fn field(text: &str, ends: impl Fn(char) -> bool) -> (Option<&str>, &str) {
    let Some(word) = text.strip_prefix(' ') else { return (None, text) };
    match word.split_at(word.find(ends).unwrap_or(word.len())) {
        ("", _) => (None, text),
        (word, rest) => (Some(word), rest),
    }
}

/// `cron[12]` as its two parts.
fn of_process(tag: &str) -> Option<(&str, &str)> {
    tag.strip_suffix(']')?.split_once('[').filter(|(_, id)| !id.is_empty() && !id.contains(']'))
}

/// What follows the element of structured data that `text` begins with.
fn behind_element(text: &str) -> Option<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ']' if !is_quoted => return Some(&text[at + 1..]),
            _ => {}
        }
    }
    None
}

/// A time of RFC 3164, with the year that some put into it and the fraction that others do.
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"^[A-Za-z]{3}[ \t]+[0-9]+[ \t]+(?:[0-9]+[ \t]+)?[0-9]+:[0-9]+:[0-9]+(?<fraction>\.[0-9]+)?";
    Regex::new(pattern).expect("a good pattern")
});

/// Most digits of a fraction: nanoseconds.
const FRACTION_DIGITS_MAX: usize = 9;

/// `line` without the fraction of its second, which RFC 3164 does not have and the library takes for the message; and that fraction.
fn without_fraction(line: &str) -> Result<(Cow<'_, str>, TimeDelta), DecodeError> {
    let behind = behind_priority(line);
    let Some(fraction) = TIME.captures(behind).and_then(|found| found.name("fraction")) else {
        return Ok((Cow::Borrowed(line), TimeDelta::zero()));
    };
    let digits = &fraction.as_str()[1..];
    if digits.len() > FRACTION_DIGITS_MAX {
        return Err(DecodeError(format!(
            "the time of the line has more than {FRACTION_DIGITS_MAX} digits of a second"
        )));
    }
    let nanos = format!("{digits:0<FRACTION_DIGITS_MAX$}").parse().map(TimeDelta::nanoseconds).unwrap_or_default();
    let begin = line.len() - behind.len();
    let without = [&line[..begin + fraction.start()], &line[begin + fraction.end()..]].concat();
    Ok((Cow::Owned(without), nanos))
}

/// `line` with a time in its place, where it is one of RFC 5424 that tells none: `-`, which the library does not know.
fn with_time(line: &str) -> Option<String> {
    static NO_TIME: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[0-9]{1,3} - ").expect("a good pattern"));
    let behind = behind_priority(line);
    let version = NO_TIME.find(behind)?.end() - "- ".len();
    let (before, rest) = line.split_at(line.len() - behind.len() + version);
    Some(format!("{before}1970-01-01T00:00:00Z{}", &rest["-".len()..]))
}

/// What follows `<13>`.
fn behind_priority(line: &str) -> &str {
    let line = line.trim_start();
    line.strip_prefix('<').and_then(|rest| rest.split_once('>')).map_or(line, |(_, rest)| rest).trim_start()
}
