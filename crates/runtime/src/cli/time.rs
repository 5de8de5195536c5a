//! Points in time as RFC 3339 text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, with nanoseconds, in UTC.
pub(super) fn now() -> String {
    // A clock before 1970 is broken; what it shows does not matter.
    format(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn format(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    // Go drops zeros at the end of a fraction.
    let nanoseconds = format!("{:09}", since_epoch.subsec_nanos());
    let fraction = match nanoseconds.trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counted in eras of 400 years that start on the first of March, so that the leap day is the last of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000005Z"),
            (951_782_400, "2000-02-29T00:00:00.000000005Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000005Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000000005Z"),
        ] {
            assert_eq!(format(Duration::new(seconds, 5)), text);
        }
        assert_eq!(format(Duration::from_millis(1_120)), "1970-01-01T00:00:01.12Z");
        assert_eq!(format(Duration::from_secs(1)), "1970-01-01T00:00:01Z");
    }
}
