//! `google/rpc/status.proto` and the well-known types: errors with details, time stamps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::wire::messages;

messages! {
    /// An error, with its details.
    Status {
        1 code: i32,
        2 message: String,
        3 details: Vec<Any>,
    }

    /// A message of any type.
    Any {
        1 type_url: String,
        2 value: Bytes,
    }

    /// A point in time since 1970.
    Timestamp {
        1 seconds: i64,
        2 nanos: i32,
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }
    }
}

impl From<&Timestamp> for SystemTime {
    fn from(stamp: &Timestamp) -> Self {
        let since = Duration::new(
            u64::try_from(stamp.seconds).unwrap_or_default(),
            u32::try_from(stamp.nanos).unwrap_or_default().min(999_999_999),
        );
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}
