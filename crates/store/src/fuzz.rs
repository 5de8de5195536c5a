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

/// Reads what a recipe file makes of a layer with a file or two.
pub fn recipe(bytes: &[u8], directory: &Path) {
    use std::io::{Read as _, Write as _};
    let layer = directory.join("layer");
    if std::fs::create_dir_all(layer.join("d")).is_err()
        || std::fs::write(layer.join("d/f"), [7; 3000]).is_err()
    {
        return;
    }
    let Ok(root) = RootDir::open(&layer) else { return };
    let header = |form: &str| {
        let blob = palan_oci::Digest::of(bytes);
        let json = format!(r#"{{"version":1,"blob":"{blob}","size":1,"form":"{form}","layer":"layer"}}"#);
        let length = u32::try_from(json.len()).unwrap_or_default().to_le_bytes();
        [&b"palanrcp"[..], &length, json.as_bytes()].concat()
    };
    // Mutations of the header are mostly refused, so most of the input goes behind a good one.
    let frame = |tag: u8, part: &[u8]| {
        let length = u32::try_from(part.len()).unwrap_or_default().to_le_bytes();
        [&[tag][..], &length, part].concat()
    };
    let (tar, gzip) = bytes.split_at(bytes.len() / 2);
    let compressed = zstd::encode_all(tar, 1).unwrap_or_default();
    let framed = [frame(b't', &compressed), frame(b'z', gzip)].concat();
    for content in
        [bytes.to_vec(), [header("plain"), framed.clone()].concat(), [header("gzip"), framed].concat()]
    {
        let path = directory.join("recipe");
        let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(&content));
        let (Ok(()), Ok(recipe)) = (written, crate::recipe::Recipe::open(&path)) else { continue };
        let Ok(layer) = root.try_clone() else { continue };
        if let Ok(stream) = crate::recipe::rebuild::stream_of(&recipe, layer) {
            let _ = stream.take(4 << 20).read_to_end(&mut Vec::new());
        }
    }
}

/// Applies a layer, compressed or not, to an empty directory.
pub fn apply(bytes: &[u8], directory: &Path) {
    let Ok(root) = RootDir::open(directory) else { return };
    // No ratio stops a bomb here as it does in a pull, so the bytes are counted instead.
    let source = std::io::Read::take(Decoder::new(bytes), 4 << 20);
    let _ = apply_layer(source, &root, Form::Alone, &limits());
}
