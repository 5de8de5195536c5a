//! Which ends of a run are followed by another run, and after which time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first time between two runs.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run of this length has been a good one: the next delay is the first again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// How the container is started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartConfig {
    /// When.
    pub policy: RestartPolicy,
    /// How often it has been, before this supervisor.
    pub count: u32,
    /// The time before this run, in milliseconds, if it follows another.
    pub last_delay_ms: Option<u64>,
    /// The container may have changed its network, which only the daemon can make anew: the next run is the daemon's to
    /// start, if one is connected at the end of this one.
    pub by_daemon: bool,
}

/// After which ends of a run the container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// None.
    #[default]
    Never,
    /// Every one that nobody has asked for.
    Always,
    /// Those with an exit code other than 0.
    OnFailure {
        /// At most so many times in a row; `None`: any number.
        most: Option<u32>,
    },
}

impl RestartPolicy {
    /// Whether a run that ended with `code` is followed by another one; `count` are the restarts so far.
    pub fn wants(self, code: i32, count: u32) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::OnFailure { most } => code != 0 && most.is_none_or(|most| count < most),
        }
    }
}

/// The time between two runs: doubled each time, until a run was a good one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff(Option<Duration>);

impl Backoff {
    /// After a pause of this length.
    pub fn after(delay_ms: Option<u64>) -> Self {
        Self(delay_ms.map(Duration::from_millis))
    }

    /// The same, unless it knows better already.
    pub(crate) fn or_after(self, delay_ms: Option<u64>) -> Self {
        Self(self.0.or(delay_ms.map(Duration::from_millis)))
    }

    /// How long to wait now that a run has lasted `ran`.
    pub fn next(&mut self, ran: Duration) -> Duration {
        let delay = match self.0 {
            Some(last) if ran < GOOD_RUN => (last * 2).min(LONGEST_DELAY),
            _ => FIRST_DELAY,
        };
        *self.0.insert(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies() {
        let most_two = RestartPolicy::OnFailure { most: Some(2) };
        let any = RestartPolicy::OnFailure { most: None };
        assert!(!RestartPolicy::Never.wants(1, 0));
        assert!(RestartPolicy::Always.wants(0, 1000));
        assert!(!any.wants(0, 0) && any.wants(1, 1000));
        assert!(most_two.wants(137, 0) && most_two.wants(1, 1) && !most_two.wants(1, 2));
    }

    #[test]
    fn the_delay_doubles_to_a_minute_and_a_good_run_resets_it() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(9);
        let delays: Vec<u128> = (0..12).map(|_| backoff.next(short).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(backoff.next(Duration::from_secs(10)).as_millis(), 100);
        assert_eq!(backoff.next(Duration::ZERO).as_millis(), 200);
    }
}
