//! The reader of layers: whatever the bytes, it ends with entries or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    palan_store::fuzz::tar(bytes);
    palan_store::fuzz::tar(&palan_store::fuzz::with_checksums(bytes));
});
