//! What the daemon reads from a supervisor and a supervisor from the daemon: frames, their bodies, journals, and the
//! keys that detach.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    palan_supervisor::fuzz::frames(bytes);
    palan_supervisor::fuzz::bodies(bytes);
    palan_supervisor::fuzz::journal(bytes);
    palan_supervisor::fuzz::detach_keys(bytes);
});
