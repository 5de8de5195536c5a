//! `WWW-Authenticate` and `Content-Range` of a registry.

#![no_main]

libfuzzer_sys::fuzz_target!(|header: &str| {
    palan_registry::fuzz::challenge(header);
    palan_registry::fuzz::content_range(header);
});
