//! What the fuzz targets see of this crate (feature `fuzz`; docs/fuzzing.md).

use std::path::Path;

use palan_linux::path::RootDir;

use crate::Limits;
use crate::layer::apply::{Form, apply as apply_layer};
use crate::layer::decode::Decoder;
use crate::layer::tar::Reader;

/// Small enough that no input takes long.
fn limits() -> Limits {
    Limits { entries: 10_000, header_bytes: 1 << 16, sparse_segments: 1 << 10, ..Limits::default() }
}

/// Reads an archive to its end or its first error.
pub fn tar(bytes: &[u8]) {
    let limits = limits();
    let mut reader = Reader::new(bytes, &limits);
    let mut delivered = 0;
    while let Ok(Some(entry)) = reader.next_entry() {
        let _ = format!("{entry:?}");
        while let Ok(Some(chunk)) = reader.next_chunk() {
            delivered += chunk.len();
        }
    }
    assert!(delivered <= bytes.len(), "content came from nowhere");
    let _ = reader.drain();
}

/// Applies a layer, compressed or not, to an empty directory.
pub fn apply(bytes: &[u8], directory: &Path) {
    let Ok(root) = RootDir::open(directory) else { return };
    // No ratio stops a bomb here as it does in a pull, so the bytes are counted instead.
    let source = std::io::Read::take(Decoder::new(bytes), 4 << 20);
    let _ = apply_layer(source, &root, Form::Alone, &limits());
}
