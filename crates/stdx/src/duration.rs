//! Durations in Go's notation (`time.ParseDuration`, `Duration.String`), which Docker uses in flags, labels and JSON.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a sequence of numbers with units.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number has no unit behind it.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// The unit is none of `ns`, `us`, `µs`, `ms`, `s`, `m`, `h`.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// What stands in the place of a unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Parses `1h2m3.5s`. A negative duration, which Go allows and no option of ours means, is invalid.
pub fn parse(text: &str) -> Result<Duration, ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_length);
        let nanoseconds: u128 = match unit {
            "" => return Err(ParseError::MissingUnit(text.to_owned())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(ParseError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
        };
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole
            .checked_mul(nanoseconds)
            .and_then(|value| value.checked_add(fraction_of(fraction, nanoseconds)))
            .and_then(|value| total.checked_add(value))
            .filter(|value| i64::try_from(*value).is_ok())
            .ok_or_else(invalid)?;
        rest = next;
    }
    Ok(Duration::from_nanos(u64::try_from(total).map_err(|_| invalid())?))
}

/// `0.<digits>` of a unit, in nanoseconds; digits beyond the precision are dropped.
fn fraction_of(digits: &str, unit: u128) -> u128 {
    let mut scale = unit;
    let mut value = 0;
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale = scale.saturating_mul(10);
    }
    // scale is unit * 10^n, so value / 10^n * unit = value * unit * unit / scale.
    (value * unit).saturating_mul(unit) / scale
}

/// Formats as Go's `Duration.String`: `1h2m3.5s`, `1.5ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let trimmed = |whole: u128, fraction: u128, width: usize| {
        let mut digits = format!("{fraction:0width$}");
        digits.truncate(digits.trim_end_matches('0').len());
        if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", trimmed(nanoseconds / 1_000, nanoseconds % 1_000, 3)),
        1_000_000..1_000_000_000 => {
            format!("{}ms", trimmed(nanoseconds / 1_000_000, nanoseconds % 1_000_000, 6))
        }
        _ => {
            let seconds = nanoseconds / 1_000_000_000;
            let last = trimmed(seconds % 60, nanoseconds % 1_000_000_000, 9);
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{last}s"),
                (0, minutes) => format!("{minutes}m{last}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{last}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_go_parses() {
        let check = |text: &str, nanoseconds: u64| {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        };
        check("0", 0);
        check("5s", 5_000_000_000);
        check("1m30s", 90_000_000_000);
        check("1.5h", 5_400_000_000_000);
        check(".5s", 500_000_000);
        check("100ms", 100_000_000);
        check("3µs7ns", 3_007);
        check("1.000000001s", 1_000_000_001);
    }

    #[test]
    fn refuses_what_go_refuses_and_negatives() {
        for text in ["", "s", ".", "1", "1x", "1.2.3s", "-1s", "9999999999999h", "1s "] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(parse("3").unwrap_err().to_string(), "time: missing unit in duration \"3\"");
    }

    #[test]
    fn formats_as_go() {
        for text in ["0s", "1ns", "1.5µs", "2.25ms", "1s", "1m0s", "1h0m0.5s", "26h3m4s"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
