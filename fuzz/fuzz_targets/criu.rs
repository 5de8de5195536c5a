//! CRIU's answers and notifications.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    palan_runtime::checkpoint::read_answer(bytes);
});
