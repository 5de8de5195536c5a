//! `since` and `until` as the API writes them: Unix seconds with an optional fraction.

use std::time::{Duration, SystemTime};

/// A moment that is no `SECONDS[.FRACTION]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse value as a unix timestamp: {0:?} is not SECONDS[.NANOSECONDS]")]
pub struct ParseTimestampError(pub String);

/// Reads a query parameter; an empty one and `0` are no limit.
pub fn parse(text: &str) -> Result<Option<SystemTime>, ParseTimestampError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || ParseTimestampError(text.to_owned());
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| wrong())?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    // "0.5" means 500,000,000 ns: the digits are the leading ones of nine.
    let nanoseconds: u32 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    if seconds == 0 && nanoseconds == 0 {
        return Ok(None);
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = SystemTime::UNIX_EPOCH;
    let moment = if seconds < 0 { base.checked_sub(whole) } else { base.checked_add(whole) };
    moment.and_then(|m| m.checked_add(Duration::from_nanos(nanoseconds.into()))).map(Some).ok_or_else(wrong)
}

/// Writes a query parameter, as Docker's client does.
pub fn format(moment: SystemTime) -> String {
    match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(d) => format!("{}.{:09}", d.as_secs(), d.subsec_nanos()),
        Err(_) => "0.000000000".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        let at = |s, n| SystemTime::UNIX_EPOCH + Duration::new(s, n);
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("0"), Ok(None));
        assert_eq!(parse("1136073600"), Ok(Some(at(1_136_073_600, 0))));
        assert_eq!(parse("1136073600.000000001"), Ok(Some(at(1_136_073_600, 1))));
        assert_eq!(parse("1.5"), Ok(Some(at(1, 500_000_000))));
        assert_eq!(format(at(1, 500_000_000)), "1.500000000");
        for text in ["x", "1.x", "1.0000000001", "10m", "99999999999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
