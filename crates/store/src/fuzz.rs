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

/// The input with a right checksum in every block: a mutation of a header is mostly refused for its checksum alone, and
/// nothing behind that check would be seen.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.as_chunks_mut::<512>().0 {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
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
