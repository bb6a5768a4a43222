//! JSON numbers, exactly: decimal text in, integers out, without a detour over doubles.
//!
//! Never rounds without saying so, and takes constant memory whatever the exponent.

/// Most decimal digits of an integer here: all of them fit `i128`.
const DIGITS_MAX: i64 = 38;

/// A number as it is written: `(-1)^negative × int.frac × 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number<'a> {
    negative: bool,
    int: &'a str,
    frac: &'a str,
    exponent: i64,
    /// Neither a point nor an exponent.
    pub(super) is_integer_literal: bool,
}

/// A number times a power of ten, as an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scaled {
    /// The largest integer that is not above it.
    pub(super) floor: i128,
    /// Whether nothing was cut off.
    pub(super) is_exact: bool,
}

impl<'a> Number<'a> {
    /// Reads `text` by JSON's grammar; `None` where it does not fit.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (int, frac) = match mantissa.split_once('.') {
            Some((int, frac)) => (int, Some(frac)),
            None => (mantissa, None),
        };
        let has_leading_zero = int.len() > 1 && int.starts_with('0');
        if !is_digits(int) || has_leading_zero || !frac.is_none_or(is_digits) {
            return None;
        }
        Some(Self {
            negative,
            int,
            frac: frac.unwrap_or_default(),
            exponent: exponent.map_or(Some(0), parse_exponent)?,
            is_integer_literal: frac.is_none() && exponent.is_none(),
        })
    }

    /// The number times `10^places`; `None` where that has more than 38 digits.
    pub(super) fn scaled(&self, places: i32) -> Option<Scaled> {
        let significant = self.significant();
        let shift = significant.exponent.saturating_add(i64::from(places));
        let kept = significant.count.saturating_add(shift);
        if significant.count == 0 {
            return Some(Scaled { floor: 0, is_exact: true });
        }
        if kept > DIGITS_MAX {
            return None;
        }
        let is_exact = shift >= 0;
        let taken = if is_exact { significant.count } else { kept.max(0) };
        let mut magnitude: i128 = 0;
        for digit in self.digits().skip(significant.skipped).take(usize::try_from(taken).ok()?) {
            magnitude = magnitude * 10 + i128::from(digit - b'0');
        }
        if is_exact {
            magnitude *= 10_i128.pow(u32::try_from(shift).ok()?);
        }
        let floor = match (self.negative, is_exact) {
            (false, _) => magnitude,
            (true, true) => -magnitude,
            (true, false) => -magnitude - 1,
        };
        Some(Scaled { floor, is_exact })
    }

    /// Whether it is 0, however it is written.
    pub(super) fn is_zero(&self) -> bool {
        self.significant().count == 0
    }

    /// Digits that matter: without zeros on either side.
    pub(super) fn significant_digits(&self) -> i64 {
        self.significant().count
    }

    /// Whether both numbers are equal.
    fn equals(&self, other: &Number<'_>) -> bool {
        let (a, b) = (self.significant(), other.significant());
        let digits_of = |number: &Number<'_>, found: &Significant| -> Vec<u8> {
            let count = usize::try_from(found.count).unwrap_or(usize::MAX);
            number.digits().skip(found.skipped).take(count).collect()
        };
        let both_zero = a.count == 0 && b.count == 0;
        let same_scale = a.count == b.count && a.exponent == b.exponent && self.negative == other.negative;
        both_zero || (same_scale && digits_of(self, &a) == digits_of(other, &b))
    }

    fn digits(&self) -> impl DoubleEndedIterator<Item = u8> {
        self.int.bytes().chain(self.frac.bytes())
    }

    fn significant(&self) -> Significant {
        let total = self.int.len() + self.frac.len();
        let skipped = self.digits().take_while(|&digit| digit == b'0').count();
        if skipped == total {
            return Significant { skipped, count: 0, exponent: 0 };
        }
        let trailing = self.digits().rev().take_while(|&digit| digit == b'0').count();
        let point = as_i64(trailing) - as_i64(self.frac.len());
        Significant {
            skipped,
            count: as_i64(total - skipped - trailing),
            exponent: self.exponent.saturating_add(point),
        }
    }
}

/// `digits × 10^exponent` with no zero at either end of the digits.
struct Significant {
    /// Zeros in front.
    skipped: usize,
    /// Digits.
    count: i64,
    exponent: i64,
}

/// Most digits that are compared with a double's: no double has more when it is written out in full.
const DOUBLE_DIGITS_MAX: i64 = 767;

/// The double nearest to `text`, where it tells the number back: rounded to as many digits as were written it gives
/// the same digits. `None` where digits would be lost, the number is out of range, or it is so small that only 0 is left.
///
/// Every double that a program has written passes, be it in its shortest form, with 17 digits, or in full.
pub(super) fn lossless_double(text: &str, number: &Number<'_>) -> Option<f64> {
    let double: f64 = text.parse().ok()?;
    let digits = number.significant_digits();
    if digits == 0 {
        return Some(double);
    }
    if !double.is_finite() || double == 0.0 || digits > DOUBLE_DIGITS_MAX {
        return None;
    }
    // 15 digits always survive a double that has all of its bits.
    if digits <= 15 && double.is_normal() {
        return Some(double);
    }
    let tells = |told: &str| told == text || Number::parse(told).is_some_and(|told| told.equals(number));
    // The shortest form is what most doubles come as, and cheaper than digits by count.
    let is_told = tells(&serde_json::to_string(&double).ok()?)
        || tells(&format!("{double:.behind_point$e}", behind_point = usize::try_from(digits - 1).ok()?))
        || is_midway(double, number);
    is_told.then_some(double)
}

/// Whether `double` lies exactly between `number` and a neighbour with as many digits: writers differ in which of the two
/// they choose.
#[cold]
fn is_midway(double: f64, number: &Number<'_>) -> bool {
    let text = format!("{double:.767e}");
    let Some(exact) = Number::parse(&text) else { return false };
    let has_one_digit_more = exact.significant_digits() == number.significant_digits() + 1;
    let Ok(places) = i32::try_from(-exact.significant().exponent) else { return false };
    match (exact.scaled(places), number.scaled(places)) {
        (Some(exact), Some(written)) if has_one_digit_more && written.is_exact => {
            (exact.floor - written.floor).abs() == 5
        }
        _ => false,
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Exponents past what any number here can use saturate: they are out of range, or their digits are all zero.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if !is_digits(digits) {
        return None;
    }
    let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    Some(if negative { -magnitude } else { magnitude })
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scaled(text: &str, places: i32) -> Option<(i128, bool)> {
        Number::parse(text).expect(text).scaled(places).map(|scaled| (scaled.floor, scaled.is_exact))
    }

    #[test]
    fn numbers_scale_exactly_or_say_so() {
        let cases = [
            ("0", 0, Some((0, true))),
            ("-0.000e99999999999999999999", 5, Some((0, true))),
            ("12", 0, Some((12, true))),
            ("1.0", 0, Some((1, true))),
            ("1e3", 0, Some((1000, true))),
            ("1500e-3", 1, Some((15, true))),
            ("1.5", 0, Some((1, false))),
            ("-1.5", 0, Some((-2, false))),
            ("-0.0001", 3, Some((-1, false))),
            ("0.0001", 3, Some((0, false))),
            ("1763712000.123456789", 6, Some((1_763_712_000_123_456, false))),
            ("1763712000123456789", -3, Some((1_763_712_000_123_456, false))),
            ("1e-9223372036854775807", 38, Some((0, false))),
            ("99999999999999999999999999999999999999", 0, Some((10_i128.pow(38) - 1, true))),
            ("100000000000000000000000000000000000000", 0, None),
            ("1e38", 0, None),
            ("1e9223372036854775807", 0, None),
        ];
        for (text, places, expected) in cases {
            assert_eq!(scaled(text, places), expected, "{text} by 10^{places}");
        }
    }

    #[test]
    fn only_json_numbers_are_numbers() {
        for text in ["", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x1", "NaN", "1 ", "--1", "1e1.5", "1.2.3"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn doubles_keep_what_they_can_tell_back() {
        let cases = [
            ("0.1", true),
            ("0", true),
            ("-0.0", true),
            ("9007199254740993", false),
            ("9007199254740992", true),
            ("1152921504606846976", true), // 2^60 exactly
            ("1152921504606847000", true), // how JavaScript writes it
            ("1152921504606847001", false),
            ("0.10000000000000000001", false),
            ("0.1000000000000000055", false),
            ("0.1000000000000000055511151231257827", true),
            ("0.1000000000000000055511151231257827021181583404541015625", true), // All digits that the double has.
            ("0.1000000000000000055511151231257827021181583404541015626", false),
            ("1763712000.123456", true),
            ("1763712000.123456789", false),
            ("2.2250738585072014e-308", true),
            ("2244541587341761.2", true), // The double ends in .25: some round it up, some to even digits.
            ("2244541587341761.3", true),
            ("2244541587341761.1", false),
            ("4.9E-324", true),            // How Java writes the smallest.
            ("0.10000000000000001", true), // How C writes it with %.17g.
            ("0.12345678901234567", false),
            ("0.30000000000000004", true),
            ("1e308", true),
            ("1e309", false),
            ("1e-400", false),
            ("5e-324", true),
            ("4e-324", false),
        ];
        for (text, kept) in cases {
            let number = Number::parse(text).expect(text);
            assert_eq!(lossless_double(text, &number).is_some(), kept, "{text}");
        }
    }

    proptest! {
        #[test]
        fn integers_come_back(value: i64, zeros in 0_usize..4) {
            let text = format!("{value}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(scaled(&text, 0), Some((i128::from(value), true)));
            prop_assert_eq!(scaled(&format!("{value}e-3"), 3), Some((i128::from(value), true)));
        }

        #[test]
        fn every_double_is_kept(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let shortest = serde_json::to_string(&value).expect("finite");
            for text in [shortest, format!("{value:e}"), format!("{value:.16e}"), format!("{value:.767e}")] {
                let number = Number::parse(&text).expect("JSON");
                prop_assert_eq!(lossless_double(&text, &number), Some(value), "{}", text);
            }
        }

        /// What is kept is no further from its double than half of the last digit that was written.
        #[test]
        fn what_is_kept_is_told_back(int in 0_u64.., frac in "[0-9]{0,20}", exponent in -30_i32..30) {
            let text = format!("{int}.{frac}0e{exponent}");
            let number = Number::parse(&text).expect("JSON");
            let Some(double) = lossless_double(&text, &number) else { return Ok(()) };
            let exact = format!("{double:.767e}");
            let exact = Number::parse(&exact).expect("JSON");
            // In units of a tenth of the last digit, where they fit.
            let places = i32::try_from(1 - number.significant().exponent).expect("small");
            if let (Some(written), Some(kept)) = (number.scaled(places), exact.scaled(places)) {
                let off = written.floor - kept.floor;
                prop_assert!((-5..=5).contains(&off), "{} is {} off", text, off);
            }
        }
    }
}
