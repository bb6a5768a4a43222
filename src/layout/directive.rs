//! The strftime directives that templates may use: those of chrono's that are a pure function of instant and zone,
//! never render to nothing, and never to a space or a slash.

use super::alphabet::ByteSet;
use chrono::format::{Item, StrftimeItems};

/// The step after which a directive may render differently, finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Instants are no finer.
    Millisecond,
    /// Of local time, as all that follow.
    Second,
    /// 60 seconds.
    Minute,
    /// Also for halves of a day.
    Hour,
    /// Also for weeks.
    Day,
    /// Also for quarters.
    Month,
    /// Also for centuries.
    Year,
}

/// One strftime directive, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Directive {
    /// As written, `%` included.
    pub text: String,
    /// chrono's form.
    pub items: Vec<Item<'static>>,
    /// `None` for the UTC offset, which has no step of its own.
    pub unit: Option<Unit>,
    /// Whether it shows more than local time: the UTC offset, or the epoch.
    pub shows_offset: bool,
    /// Bytes it renders to for years 1 to 9999; `None` where that varies (at least 1, at most [`Directive::width_max`]).
    pub width: Option<usize>,
    /// What those bytes can be.
    pub bytes: ByteSet,
}

/// Longest rendering of a directive without a fixed width: a zone's abbreviation, an epoch, `Wednesday`.
pub(super) const VARIABLE_WIDTH_MAX: usize = 16;

impl Directive {
    /// Most bytes it renders to.
    pub fn width_max(&self) -> usize {
        self.width.unwrap_or(VARIABLE_WIDTH_MAX)
    }

    /// Reads the directive at the start of `rest`, which begins with `%`.
    ///
    /// # Errors
    /// The directive as written, and why it cannot be used.
    pub fn parse(rest: &str) -> Result<Self, (String, &'static str)> {
        let text = extent(rest);
        let refuse = |why| Err((text.to_string(), why));
        let (modifier, letter) = match text.as_bytes() {
            [b'%', modifier @ (b'-' | b'0' | b'_'), letter] => (Some(*modifier), *letter),
            [b'%', letter] => (None, *letter),
            _ => (None, 0),
        };
        let Some(kind) = kind(&text[1..], letter) else { return refuse(why_not(&text[1..], letter)) };
        let padded_by_spaces = matches!(letter, b'e' | b'k' | b'l');
        match modifier {
            Some(b'_') => return refuse("it pads with spaces; leave the `_` out"),
            None if padded_by_spaces => return refuse("it pads with spaces; write a 0 or a - behind the %"),
            _ => {}
        }
        let Ok(items) = StrftimeItems::new(text).parse_to_owned() else {
            return refuse("chrono does not know it in this form");
        };
        let width = if modifier == Some(b'-') { None } else { kind.width };
        Ok(Self {
            text: text.to_string(),
            items,
            unit: kind.unit,
            shows_offset: kind.shows_offset,
            width,
            bytes: kind.bytes,
        })
    }
}

/// The part of `rest` that is one directive, known or not.
fn extent(rest: &str) -> &str {
    const LONG: [&str; 9] = ["%:::z", "%::z", "%:z", "%.3f", "%.6f", "%.9f", "%3f", "%6f", "%9f"];
    if let Some(long) = LONG.iter().find(|long| rest.starts_with(**long)) {
        return &rest[..long.len()];
    }
    let mut chars = rest.char_indices().skip(1);
    let end = match chars.next() {
        Some((_, '-' | '_' | '0' | '.' | '#' | ':')) => chars.next().map(|(at, c)| at + c.len_utf8()),
        Some((at, c)) => Some(at + c.len_utf8()),
        None => None,
    };
    &rest[..end.unwrap_or(rest.len())]
}

struct Kind {
    unit: Option<Unit>,
    shows_offset: bool,
    width: Option<usize>,
    bytes: ByteSet,
}

/// What is known of a directive, from its text behind the `%` (long forms) or its last letter.
fn kind(body: &str, letter: u8) -> Option<Kind> {
    use Unit::{Day, Hour, Millisecond, Minute, Month, Second, Year};
    let digits =
        |unit, width| Kind { unit: Some(unit), shows_offset: false, width: Some(width), bytes: ByteSet::DIGITS };
    let text = |unit, width, bytes| Kind { unit: Some(unit), shows_offset: false, width, bytes };
    let offset = |width, bytes| Kind { unit: None, shows_offset: true, width, bytes };
    const FRACTION: ByteSet = ByteSet::DIGITS.or(ByteSet::of(b"."));
    const OFFSET: ByteSet = ByteSet::DIGITS.or(ByteSet::of(b"+-"));
    const OFFSET_COLON: ByteSet = OFFSET.or(ByteSet::of(b":"));
    const CLOCK: ByteSet = ByteSet::DIGITS.or(ByteSet::of(b":"));
    const DATE: ByteSet = ByteSet::DIGITS.or(ByteSet::of(b"-"));
    Some(match body {
        ":::z" => offset(Some(3), OFFSET_COLON),
        "::z" => offset(Some(9), OFFSET_COLON),
        ":z" => offset(Some(6), OFFSET_COLON),
        ".3f" => text(Millisecond, Some(4), FRACTION),
        ".6f" => text(Millisecond, Some(7), FRACTION),
        ".9f" => text(Millisecond, Some(10), FRACTION),
        "3f" => digits(Millisecond, 3),
        "6f" => digits(Millisecond, 6),
        "9f" => digits(Millisecond, 9),
        _ => match letter {
            b'Y' | b'G' => digits(if letter == b'Y' { Year } else { Day }, 4),
            b'C' | b'y' => digits(Year, 2),
            b'g' | b'U' | b'W' | b'V' | b'd' | b'e' => digits(Day, 2),
            b'q' => digits(Month, 1),
            b'm' => digits(Month, 2),
            b'b' | b'h' => text(Month, Some(3), ByteSet::LETTERS),
            b'B' => text(Month, None, ByteSet::LETTERS),
            b'a' => text(Day, Some(3), ByteSet::LETTERS),
            b'A' => text(Day, None, ByteSet::LETTERS),
            b'w' | b'u' => digits(Day, 1),
            b'j' => digits(Day, 3),
            b'F' => text(Day, Some(10), DATE),
            b'H' | b'k' | b'I' | b'l' => digits(Hour, 2),
            b'P' | b'p' => text(Hour, Some(2), ByteSet::LETTERS),
            b'M' => digits(Minute, 2),
            b'R' => text(Minute, Some(5), CLOCK),
            b'S' => digits(Second, 2),
            b'T' => text(Second, Some(8), CLOCK),
            b's' => Kind { unit: Some(Second), shows_offset: true, width: None, bytes: DATE },
            b'f' => text(Millisecond, None, ByteSet::DIGITS),
            b'z' => offset(Some(5), OFFSET),
            b'Z' => offset(None, OFFSET.or(ByteSet::LETTERS)),
            _ => return None,
        },
    })
}

fn why_not(body: &str, letter: u8) -> &'static str {
    match (body, letter) {
        ("", _) => "a directive needs a letter; write %% for a percent sign",
        (_, b'c' | b'x' | b'X' | b'r') => "it depends on a locale; spell the parts out, such as %Y-%m-%d",
        (_, b'n' | b't') => "white space does not belong in object keys",
        (_, b'D') => "it contains slashes; write %Y-%m-%d",
        (_, b'v') => "it pads with spaces; write %0e-%b-%Y",
        (".f", _) => "it can be empty; write %.3f",
        ("+", _) => "its length varies; write %Y-%m-%dT%H:%M:%S",
        _ => "it is not one of chrono's strftime directives",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeZone};

    /// Every directive that is accepted.
    const ALLOWED: &[&str] = &[
        "%Y", "%C", "%y", "%q", "%m", "%b", "%B", "%h", "%d", "%0e", "%-e", "%a", "%A", "%w", "%u", "%U", "%W", "%G",
        "%g", "%V", "%j", "%F", "%H", "%0k", "%-k", "%I", "%0l", "%-l", "%P", "%p", "%M", "%S", "%f", "%.3f", "%.6f",
        "%.9f", "%3f", "%6f", "%9f", "%R", "%T", "%Z", "%z", "%:z", "%::z", "%:::z", "%s", "%-m", "%-d", "%-H", "%0m",
        "%-j", "%-y", "%-C", "%-Y",
    ];

    #[test]
    fn refused_directives_say_why() {
        let table = [
            ("%c", "%c", "locale"),
            ("%x/", "%x", "locale"),
            ("%X", "%X", "locale"),
            ("%r", "%r", "locale"),
            ("%n", "%n", "white space"),
            ("%t", "%t", "white space"),
            ("%D", "%D", "slashes"),
            ("%v", "%v", "spaces"),
            ("%e", "%e", "spaces"),
            ("%k", "%k", "spaces"),
            ("%_d", "%_d", "spaces"),
            ("%.f", "%.f", "empty"),
            ("%+", "%+", "varies"),
            ("%-b", "%-b", "this form"),
            ("%Q", "%Q", "not one of"),
            ("%é", "%é", "not one of"),
            ("%#z", "%#z", "not one of"),
            ("%-", "%-", "not one of"),
            ("%", "%", "needs a letter"),
        ];
        for (rest, text, why) in table {
            let (found, reason) = Directive::parse(rest).expect_err(rest);
            assert_eq!(found, text);
            assert!(reason.contains(why), "{rest}: {reason}");
        }
    }

    #[test]
    fn directives_render_as_declared() {
        let zones =
            [chrono_tz::UTC, chrono_tz::Europe::Berlin, chrono_tz::Asia::Kathmandu, chrono_tz::America::Caracas];
        for text in ALLOWED {
            let directive = Directive::parse(&format!("{text}rest")).unwrap_or_else(|why| panic!("{text}: {why:?}"));
            assert_eq!(directive.text, *text);
            let mut ms = crate::layout::calendar::EVENT_MS_MIN;
            while ms <= crate::layout::calendar::EVENT_MS_MAX {
                for zone in zones {
                    let local = zone.from_utc_datetime(&DateTime::from_timestamp_millis(ms).unwrap().naive_utc());
                    let rendered = local.format_with_items(directive.items.iter()).to_string();
                    assert!(!rendered.is_empty() && rendered.len() <= directive.width_max(), "{text}: {rendered:?}");
                    assert!(directive.width.is_none_or(|width| width == rendered.len()), "{text}: {rendered:?}");
                    assert!(rendered.bytes().all(|byte| directive.bytes.contains(byte)), "{text}: {rendered:?}");
                }
                ms += 190_000_000_000_123; // some 1,600 instants over the years 1 to 9999
            }
        }
    }
}
