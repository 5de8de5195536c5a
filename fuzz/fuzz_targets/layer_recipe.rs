//! Recipe files of layers: whatever is in one, reading what it makes ends with bytes or an error, within the layer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(directory) = tempfile::tempdir() else { return };
    palan_store::fuzz::recipe(bytes, directory.path());
});
