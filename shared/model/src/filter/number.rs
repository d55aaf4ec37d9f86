//! A number by its exact decimal value, read from the text of the JSON. No float is involved: an id above 2^53 differs
//! from its neighbours, and `10.10`, `10.1` and `101e-1` are the same price.

use std::cmp::Ordering;

/// Exponents are held to this. It is far beyond what a filter may ask for, so a number of the resource that is held
/// still compares as it should with every number of a filter.
const FARTHEST: i64 = 1 << 40;

/// The sign, and `0.<digits>` × 10^`magnitude`. Neither the first nor the last digit is a zero; zero has no digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Number {
    sign: i8,
    magnitude: i64,
    digits: String,
}

impl Number {
    /// Reads what JSON calls a number; the JSON parser has seen to the grammar.
    pub(super) fn parse(json: &str) -> Self {
        let (sign, unsigned) = json.strip_prefix('-').map_or((1, json), |unsigned| (-1, unsigned));
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let written = format!("{whole}{fraction}");
        let significant = written.trim_start_matches('0');
        let digits = significant.trim_end_matches('0');
        if digits.is_empty() {
            return Self { sign: 0, magnitude: 0, digits: String::new() };
        }
        let held = if exponent.starts_with('-') { -FARTHEST } else { FARTHEST };
        let exponent = exponent.parse().unwrap_or(held).clamp(-FARTHEST, FARTHEST);
        let magnitude = exponent + length(whole) - (length(&written) - length(significant));
        Self { sign, magnitude, digits: digits.to_owned() }
    }

    /// Whether its exponent in scientific notation lies within ±`exponent`. Zero has none.
    pub(super) fn is_within(&self, exponent: i64) -> bool {
        self.sign == 0 || (-exponent..=exponent).contains(&(self.magnitude - 1))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sign.cmp(&other.sign).then_with(|| {
            let size = self.magnitude.cmp(&other.magnitude).then_with(|| self.digits.cmp(&other.digits));
            if self.sign < 0 { size.reverse() } else { size }
        })
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(FARTHEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_compare_by_their_exact_value() {
        for (a, order, b) in [
            ("10.10", Ordering::Equal, "10.1"),
            ("101e-1", Ordering::Equal, "10.1"),
            ("1E+2", Ordering::Equal, "100"),
            ("0.001e5", Ordering::Equal, "100.0"),
            ("-0", Ordering::Equal, "0.00e99999999999999999999"),
            ("9007199254740993", Ordering::Greater, "9007199254740992"),
            ("12345678901234567890123", Ordering::Less, "12345678901234567890124"),
            ("0.1", Ordering::Less, "0.10000000000000000001"),
            ("9", Ordering::Less, "10"),
            ("0.9", Ordering::Less, "1"),
            ("0.09", Ordering::Less, "0.1"),
            ("-1", Ordering::Less, "0"),
            ("-2", Ordering::Less, "-1.5"),
            ("-10", Ordering::Less, "-9"),
            ("-1", Ordering::Less, "1e-400"),
            ("1e400", Ordering::Less, "1e401"),
            ("1e99999999999999999999", Ordering::Greater, "1e1000"),
            ("1e-99999999999999999999", Ordering::Less, "1e-1000"),
            ("1e-99999999999999999999", Ordering::Greater, "0"),
            ("-1e99999999999999999999", Ordering::Less, "-1e1000"),
            ("1e9223372036854775807", Ordering::Greater, "1e1000"),
        ] {
            assert_eq!(Number::parse(a).cmp(&Number::parse(b)), order, "{a} {b}");
            assert_eq!(Number::parse(b).cmp(&Number::parse(a)), order.reverse(), "{b} {a}");
        }
    }

    proptest! {
        #[test]
        fn integers_compare_as_integers(a: i64, b: i64, small in -20i64..20, other in -20i64..20) {
            for (a, b) in [(a, b), (a, a.wrapping_add(1)), (small, other)] {
                prop_assert_eq!(Number::parse(&a.to_string()).cmp(&Number::parse(&b.to_string())), a.cmp(&b));
            }
        }

        #[test]
        fn a_number_may_be_written_in_many_ways(units: i64, zeros in 0usize..6, shift in 0i64..30) {
            let written = format!("{units}{}.{}E-{:02}", "0".repeat(shift as usize), "0".repeat(zeros + 1), shift);
            prop_assert_eq!(Number::parse(&written), Number::parse(&units.to_string()), "{}", written);
        }
    }
}
