//! How long to wait before trying again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::config::Timing;

/// The pause after `failed` attempts: it doubles each time, is scattered so that many clients of an ill registry do not
/// come back at once, and is at least what the registry asked for, within reason.
pub(crate) fn pause(timing: &Timing, failed: u32, asked: Option<Duration>) -> Duration {
    let exponent = failed.saturating_sub(1).min(16);
    let doubled = timing.first_pause.saturating_mul(1 << exponent);
    scattered(doubled).max(asked.unwrap_or_default()).min(timing.longest_pause)
}

/// Between half and the whole of `pause`.
fn scattered(pause: Duration) -> Duration {
    // The keys of a fresh hasher are random enough to scatter.
    let random = RandomState::new().build_hasher().finish() % 1024;
    let random = u32::try_from(random).unwrap_or(0);
    (pause / 2).saturating_add((pause / 2).saturating_mul(random) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_bounds() {
        let timing = Timing::default();
        for failed in 1..100 {
            let pause = pause(&timing, failed, None);
            assert!(pause >= timing.first_pause / 2 && pause <= timing.longest_pause, "{failed}: {pause:?}");
        }
        assert!(pause(&timing, 3, None) >= timing.first_pause * 2);
        assert_eq!(pause(&timing, 1, Some(Duration::from_secs(9))), Duration::from_secs(9));
        assert_eq!(pause(&timing, 1, Some(Duration::from_secs(86_400))), timing.longest_pause);
    }
}
