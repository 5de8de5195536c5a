//! Ignore files: without exceptions a path is left out or not, whether it is looked at alone or on the way down; what is left out
//! without a look has no exception in it.

#![no_main]

use palan_context::{Ignore, Matches};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let Ok(ignore) = Ignore::parse(&bytes[..end]) else { return };
    let path = String::from_utf8_lossy(bytes.get(end + 1..).unwrap_or_default());
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | "." | "..")).collect();
    if names.is_empty() {
        return;
    }
    let mut matches = Matches::default();
    let mut is_ignored = false;
    let mut skipped = false;
    for depth in 1..=names.len() {
        let path = names[..depth].join("/");
        (is_ignored, matches) = ignore.step(&path, &matches);
        assert!(!skipped || is_ignored, "{path} has an exception in a directory that may have none");
        skipped |= is_ignored && !ignore.may_have_exceptions_in(&path);
    }
    if !ignore.has_exceptions() {
        assert_eq!(is_ignored, ignore.is_ignored(&names.join("/")));
    }
});
