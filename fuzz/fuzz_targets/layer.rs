//! Applying a layer to a directory, compressed or not: nothing appears beside the directory.

#![no_main]

use std::sync::LazyLock;

static SCRATCH: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    attempt(bytes);
    attempt(&palan_store::fuzz::with_checksums(bytes));
});

fn attempt(bytes: &[u8]) {
    let layer = SCRATCH.path().join("layer");
    std::fs::create_dir(&layer).expect("the directory of the layer");
    palan_store::fuzz::apply(bytes, &layer);
    std::fs::remove_dir_all(&layer).expect("the layer can be removed");
    let beside = std::fs::read_dir(SCRATCH.path()).expect("the directory around it").count();
    assert_eq!(beside, 0, "the layer left its directory");
}
