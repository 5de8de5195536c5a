//! Points in time as Go's `time.RFC3339Nano` in UTC: `2026-01-02T03:04:05.678Z`, without trailing zeros.

use std::time::{SystemTime, UNIX_EPOCH};

/// The longest text that [`Clock::write`] appends.
pub(crate) const MAX_LENGTH: usize = "2026-01-02T03:04:05.123456789Z".len();

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes timestamps; keeps the text of the second that it wrote last, since a busy log writes many in one.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    second: u64,
    text: [u8; 20],
    length: usize,
}

impl Clock {
    /// Appends the text for `nanoseconds` since the epoch.
    pub(crate) fn write(&mut self, nanoseconds: u64, out: &mut Vec<u8>) {
        let (second, mut fraction) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
        if second != self.second || self.length == 0 {
            self.set_second(second);
        }
        out.extend_from_slice(&self.text[..self.length]);
        if fraction != 0 {
            let mut digits = *b".000000000";
            let mut length = 1;
            for (index, digit) in digits.iter_mut().enumerate().skip(1).rev() {
                let value = fraction % 10;
                *digit = b'0' + u8::try_from(value).unwrap_or(0);
                fraction /= 10;
                if value != 0 {
                    length = length.max(index + 1);
                }
            }
            out.extend_from_slice(&digits[..length]);
        }
        out.push(b'Z');
    }

    fn set_second(&mut self, second: u64) {
        let (days, time) = (second / 86_400, second % 86_400);
        let (year, month, day) = civil(days);
        let text = format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            time / 3600,
            time / 60 % 60,
            time % 60
        );
        self.length = text.len().min(self.text.len());
        self.text[..self.length].copy_from_slice(&text.as_bytes()[..self.length]);
        self.second = second;
    }
}

/// Turns the text of one nanosecond into that of the next. `false`: that would take more than a change of its last digit; it
/// is as before then.
pub(crate) fn count_on(text: &mut [u8]) -> bool {
    if text.len() != MAX_LENGTH {
        return false;
    }
    match &mut text[MAX_LENGTH - 3..] {
        // The last digit of a time with all its digits is not 0, which would not have been written.
        [_, last @ b'1'..=b'8', _] => *last += 1,
        _ => return false,
    }
    true
}

/// Year, month and day of the proleptic Gregorian calendar, `days` after 1970-01-01.
///
/// Counts in years that begin on 1 March, so that the leap day is the last of its year, and in eras of 400 years, which
/// all have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nanoseconds: u64, expected: &str) {
        let mut out = Vec::new();
        Clock::default().write(nanoseconds, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn writes_what_go_writes() {
        check(0, "1970-01-01T00:00:00Z");
        check(1, "1970-01-01T00:00:00.000000001Z");
        check(1_500_000_000, "1970-01-01T00:00:01.5Z");
        check(951_782_400_000_000_000, "2000-02-29T00:00:00Z");
        check(951_868_799_999_999_999, "2000-02-29T23:59:59.999999999Z");
        check(1_709_164_800_123_000_000, "2024-02-29T00:00:00.123Z");
        check(1_767_225_599_000_000_010, "2025-12-31T23:59:59.00000001Z");
        check(4_107_542_400_000_000_000, "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_clock_moves_on_and_back() {
        let mut clock = Clock::default();
        let mut out = Vec::new();
        for second in [5, 5, 6, 5] {
            clock.write(second * 1_000_000_000, &mut out);
        }
        let expected = ["05", "05", "06", "05"].map(|second| format!("1970-01-01T00:00:{second}Z")).concat();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_longest_text_has_the_stated_length() {
        let mut out = Vec::new();
        Clock::default().write(u64::MAX, &mut out);
        assert_eq!(out.len(), MAX_LENGTH);
    }
}
