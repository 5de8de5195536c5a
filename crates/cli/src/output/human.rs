//! Times, sizes and identifiers as people read them, in Docker's words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `About a minute`, `3 hours`, `2 weeks`: how long something took or is ago.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded to the nearest, as docker/go-units does.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago, in seconds since 1970, something happened: `3 hours ago`.
pub(crate) fn ago(created: i64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let created = Duration::from_secs(u64::try_from(created).unwrap_or(0));
    format!("{} ago", duration(now.saturating_sub(created)))
}

/// Go's `time.Time.String` of a time in seconds since 1970: `2006-01-02 15:04:05 -0700 MST`.
pub(crate) fn local_time(seconds: i64, zone: &TimeZone) -> String {
    let Ok(timestamp) = Timestamp::from_second(seconds) else { return String::new() };
    timestamp.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// RFC 3339 with all nine digits of the nanoseconds, in local time: how `events` prints times.
pub(crate) fn rfc3339_nano(nanoseconds: i64, zone: &TimeZone) -> String {
    let Ok(timestamp) = Timestamp::from_nanosecond(i128::from(nanoseconds)) else { return String::new() };
    let zoned = timestamp.to_zoned(zone.clone());
    let offset = zoned.strftime("%:z").to_string();
    let offset = if offset == "+00:00" { "Z" } else { &offset };
    format!("{}.{:09}{offset}", zoned.strftime("%Y-%m-%dT%H:%M:%S"), zoned.subsec_nanosecond())
}

/// The first twelve digits of an identifier, without the algorithm of a digest.
pub(crate) fn truncate_id(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(_, hex)| hex);
    id.get(..12).unwrap_or(id)
}

/// At most `width` columns of a text; `…` says that some are missing.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if super::table::width(text) <= width {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += super::table::char_width(c);
        if used > width.saturating_sub(1) {
            break;
        }
        shown.push(c);
    }
    if width > 1 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_dockers_words() {
        let check =
            |seconds: u64, expected: &str| assert_eq!(duration(Duration::from_secs(seconds)), expected);
        check(0, "Less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(60, "About a minute");
        check(119, "About a minute");
        check(120, "2 minutes");
        check(59 * 60, "59 minutes");
        check(3600, "About an hour");
        check(89 * 60, "About an hour");
        check(91 * 60, "2 hours");
        check(47 * 3600, "47 hours");
        check(48 * 3600, "2 days");
        check(13 * 86400, "13 days");
        check(14 * 86400, "2 weeks");
        check(60 * 86400, "2 months");
        check(800 * 86400, "2 years");
        assert_eq!(ago(100, UNIX_EPOCH + Duration::from_secs(103)), "3 seconds ago");
        assert_eq!(ago(100, UNIX_EPOCH), "Less than a second ago");
    }

    #[test]
    fn times_as_go_prints_them() {
        assert_eq!(local_time(0, &TimeZone::UTC), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(rfc3339_nano(1_000_000_123, &TimeZone::UTC), "1970-01-01T00:00:01.000000123Z");
    }

    #[test]
    fn identifiers_and_commands_are_cut() {
        assert_eq!(truncate_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(truncate_id("abc"), "abc");
        assert_eq!(ellipsis("sleep infinity and more", 20), "sleep infinity and …");
        assert_eq!(ellipsis("short", 20), "short");
        assert_eq!(ellipsis("世界世界", 5), "世界…");
    }
}
