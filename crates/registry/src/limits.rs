//! What a registry says about how much it will serve: `RateLimit-Limit` and `RateLimit-Remaining` (as Docker Hub sends
//! them), `Retry-After` (RFC 9110, section 10.2.3).

use std::fmt;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// At this many requests left a user is warned.
const FEW: u64 = 10;

/// So many requests in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// How many requests the registry serves.
    pub limit: u64,
    /// How many of them are left.
    pub remaining: u64,
    /// In which time.
    pub window: Option<Duration>,
}

impl RateLimit {
    /// Reads an answer's headers; `None` where the registry says nothing.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let (limit, window) = parse(text(headers, "ratelimit-limit")?)?;
        let (remaining, _) = parse(text(headers, "ratelimit-remaining")?)?;
        Some(Self { limit, remaining, window })
    }

    /// Whether a user should know.
    pub(crate) fn is_low(&self) -> bool {
        self.remaining < FEW
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} requests left", self.remaining, self.limit)?;
        match self.window {
            Some(window) => write!(formatter, " in {}", palan_stdx::duration::format(window)),
            None => Ok(()),
        }
    }
}

/// `100;w=21600`: the number, and the seconds that it is for.
fn parse(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok()).map(Duration::from_secs);
    Some((number, window))
}

/// When to come back: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, RETRY_AFTER.as_str())?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let left = moment.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    u64::try_from(left).ok().map(Duration::from_secs)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn limits_are_read() {
        let limit = RateLimit::of(&headers(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "7;w=21600"),
        ]));
        let limit = limit.unwrap();
        assert_eq!(limit.to_string(), "7 of 100 requests left in 6h0m0s");
        assert!(limit.is_low());
        assert_eq!(RateLimit::of(&headers(&[("ratelimit-limit", "100")])), None);
        for wrong in ["", "x", "-1", "99999999999999999999"] {
            let limit = RateLimit::of(&headers(&[("ratelimit-limit", wrong), ("ratelimit-remaining", "1")]));
            assert_eq!(limit, None, "{wrong}");
        }
    }

    #[test]
    fn a_registry_may_name_seconds_or_a_date() {
        let after = |text: &str| retry_after(&headers(&[("retry-after", text)]));
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), None, "that is over");
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&soon).unwrap();
        let left = after(&date).unwrap().as_secs();
        assert!((95..=100).contains(&left), "{left}");
        for wrong in ["", "soon", "-5"] {
            assert_eq!(after(wrong), None, "{wrong}");
        }
    }
}
