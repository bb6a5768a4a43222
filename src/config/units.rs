//! Sizes and times with their units, and back.
//!
//! A size is a whole number and `KiB`, `MiB`, `GiB` or `TiB`; a time a whole number and `s`, `m`, `h` or `d`.
//! A bare number is refused: nobody at 3 a.m. should have to guess its unit.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const TIME_UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Form of a size, for error texts.
pub(super) const SIZE_FORM: &str = "a whole number with KiB, MiB, GiB or TiB";
/// Form of a time, for error texts.
pub(super) const TIME_FORM: &str = "a whole number with s, m, h or d";

/// Why a text is no size or time. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    #[error("a bare number, its unit is missing")]
    NoUnit,
    #[error("not a whole number followed by a unit")]
    NoNumber,
    #[error("the unit is not known")]
    UnknownUnit,
    #[error("units of 1000 are not used here; write KiB, MiB, GiB or TiB")]
    Decimal,
    #[error("too large")]
    TooLarge,
}

/// Bytes of `128MiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    if ["kB", "KB", "MB", "GB", "TB", "k", "K", "M", "G", "T"].contains(&unit) {
        return Err(UnitError::Decimal);
    }
    scale(number, unit, &SIZE_UNITS)
}

/// Duration of `10m`.
pub(super) fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    scale(number, unit, &TIME_UNITS).map(Duration::from_secs)
}

/// `bytes` in the largest unit that holds it exactly.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS).unwrap_or_else(|| format!("{bytes} bytes"))
}

/// `time` in the largest unit that holds it exactly.
pub(super) fn show_time(time: Duration) -> String {
    show(time.as_secs(), &TIME_UNITS).unwrap_or_else(|| "0s".to_string())
}

/// Bytes of a size such as `256MiB`; `None`: it is none.
pub fn size_of(text: &str) -> Option<u64> {
    parse_size(text).ok()
}

/// A time such as `24h`; `None`: it is none.
pub fn time_of(text: &str) -> Option<Duration> {
    parse_time(text).ok()
}

fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.replace('_', "");
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    if !unit.chars().all(char::is_alphabetic) {
        return Err(UnitError::NoNumber);
    }
    let number = number.parse().map_err(|_| UnitError::TooLarge)?;
    Ok((number, unit))
}

fn scale(number: u64, unit: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit)?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

fn show(amount: u64, units: &[(&str, u64)]) -> Option<String> {
    let (name, factor) = units.iter().find(|(_, factor)| amount > 0 && amount.is_multiple_of(*factor))?;
    Some(format!("{}{name}", amount / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("128MiB", Ok(128 << 20)),
            ("1 KiB", Ok(1024)),
            ("1_000KiB", Ok(1_024_000)),
            ("2TiB", Ok(2 << 40)),
            ("128", Err(UnitError::NoUnit)),
            ("128MB", Err(UnitError::Decimal)),
            ("1.5GiB", Err(UnitError::NoNumber)),
            ("-1MiB", Err(UnitError::NoNumber)),
            ("MiB", Err(UnitError::NoNumber)),
            ("", Err(UnitError::NoNumber)),
            ("_", Err(UnitError::NoNumber)),
            ("1mib", Err(UnitError::UnknownUnit)),
            ("99999999999TiB", Err(UnitError::TooLarge)),
            ("99999999999999999999999KiB", Err(UnitError::TooLarge)),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("10m", Ok(600)),
            ("0s", Ok(0)),
            ("2d", Ok(172_800)),
            ("10", Err(UnitError::NoUnit)),
            ("10ms", Err(UnitError::UnknownUnit)),
            ("10 min", Err(UnitError::UnknownUnit)),
        ] {
            assert_eq!(parse_time(text), expected.map(Duration::from_secs), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _either = (parse_size(&text).is_ok(), parse_time(&text).is_ok());
        }

        #[test]
        fn what_is_shown_is_read_back(kib in 1u64..1 << 40, seconds in 0u64..1 << 40) {
            prop_assert_eq!(parse_size(&show_size(kib << 10)), Ok(kib << 10));
            let time = Duration::from_secs(seconds);
            prop_assert_eq!(parse_time(&show_time(time)), Ok(time));
        }
    }
}
