//! Sizes, durations and time stamps as people write them.

#![no_main]

use std::time::Duration;

use palan_docker_api::timestamp;
use palan_stdx::{duration, size};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(bytes) = size::parse_memory(text) {
        size::format_decimal(bytes);
        size::format_decimal_short(bytes);
        size::format_binary(bytes);
    }
    if let Ok(parsed) = duration::parse(text) {
        assert_eq!(duration::parse(&duration::format(parsed)), Ok(parsed));
    }
    if let Ok(Some(moment)) = timestamp::parse(text) {
        let after = moment.duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        if !after.is_zero() {
            assert_eq!(timestamp::parse(&timestamp::format(moment)), Ok(Some(moment)));
        }
    }
});
