//! Streams of many compressors are made again; what is broken is refused.

use std::io::{Read as _, Write as _};

use flate2::Compression;

use crate::{Rebuilder, Recorder};

/// Made by Debian's gzip 1.12, Go 1.19's `compress/gzip` and klauspost's pgzip 1.2.5 from the same 22,000 bytes.
const FIXTURES: [(&str, &[u8]); 5] = [
    ("gzip -1", include_bytes!("../testdata/gzip1.gz")),
    ("gzip -6", include_bytes!("../testdata/gzip6.gz")),
    ("gzip -9", include_bytes!("../testdata/gzip9.gz")),
    ("Go", include_bytes!("../testdata/go.gz")),
    ("pgzip", include_bytes!("../testdata/pgzip.gz")),
];

fn record(stream: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut recorder = Recorder::new(stream);
    let mut content = Vec::new();
    recorder.read_to_end(&mut content)?;
    Ok((content, recorder.finish()))
}

fn rebuild(content: &[u8], recipe: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = Vec::new();
    // No recipe at hand makes more than this; a broken one may try.
    Rebuilder::new(content, recipe)?.take(64 << 20).read_to_end(&mut stream)?;
    Ok(stream)
}

/// The share of the stream that the recipe has.
#[track_caller]
fn check(what: &str, stream: &[u8], expected: Option<&[u8]>) -> f64 {
    let (content, recipe) = record(stream).expect(what);
    if let Some(expected) = expected {
        assert!(content == expected, "{what}: the content differs");
    }
    assert!(rebuild(&content, &recipe).expect(what) == stream, "{what}: the stream differs");
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = recipe.len() as f64 / stream.len() as f64;
    share
}

fn gzip(content: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(content).expect("writes to memory");
    encoder.finish().expect("writes to memory")
}

/// Words, noise and zeros.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 12
    };
    let mut content = Vec::new();
    while content.len() < length {
        match next() % 100 {
            0 => content.extend((0..next() % 400).map(|_| next().to_le_bytes()[0])),
            1 => content.resize(content.len() + (next() % 3000) as usize, 0),
            _ => content.extend(format!("{:x} ", (next() % 1000) * (next() % 50)).into_bytes()),
        }
    }
    content.truncate(length);
    content
}

#[test]
fn recipes_of_this_version() {
    let mut found = Vec::new();
    for (what, stream) in FIXTURES {
        check(what, stream, None);
        let (_, recipe) = record(stream).expect(what);
        // FNV-1a. A changed number means a changed format: see VERSION.
        let hash = recipe.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        found.push(format!("{what}: {} bytes, {hash:016x}", recipe.len()));
    }
    let expected = [
        "gzip -1: 222 bytes, 6ce840adfc180891",
        "gzip -6: 235 bytes, 77ba6b6dc0c2d8c1",
        "gzip -9: 235 bytes, 804cc75c3e9eae8d",
        "Go: 229 bytes, b555fc4d08f1dbde",
        "pgzip: 769 bytes, bebf5cf9a7d5c145",
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_level_of_another_compressor() {
    let content = content(1 << 20);
    for level in 0..=9 {
        let share = check(&format!("level {level}"), &gzip(&content, level), Some(&content));
        assert!(share < 0.2, "level {level}: {share}");
    }
}

#[test]
fn small_and_strange_streams() {
    for length in [0, 1, 2, 3, 4, 5, 300] {
        check("a short one", &gzip(&content(length), 6), Some(&content(length)));
    }
    check("zeros", &gzip(&[0; 1 << 20], 6), Some(&[0; 1 << 20]));
    let members = [gzip(&content(5000), 9), gzip(b"", 6), gzip(&content(100_000), 1)].concat();
    check("three members", &members, Some(&[content(5000), content(100_000)].concat()));
    check("zeros behind its end", &[members, vec![0; 512]].concat(), None);
    let mut named = gzip(b"named", 6);
    named[3] = 4 | 8 | 16 | 2;
    named.splice(10..10, *b"\x03\0xyzname\0comment\0CC");
    check("every part of a header", &named, Some(b"named"));
    // A fixed block: literal a, then 258 of it in both ways to write that, and bits set where none are used.
    let mut bits = crate::bits::BitWriter::default();
    bits.bytes(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    bits.put(3, 0b011);
    let mut code = |count: u32, code: u16| bits.put(count, code.reverse_bits() >> (16 - count));
    code(8, 0x30 + 97);
    code(8, 0b1100_0101);
    code(5, 0);
    code(8, 0b1100_0100);
    bits.put(5, 31);
    bits.put(5, 0);
    bits.put(7, 0);
    bits.align(0x55);
    bits.bytes(&[0; 8]);
    check("258 in two ways", &bits.take(), Some(&[b'a'; 517]));
}

#[test]
fn distances_of_the_whole_window() {
    let mut content = content(32768);
    content.extend_from_within(..300);
    check("a whole window back", &gzip(&content, 9), Some(&content));
}

#[test]
fn what_is_broken_is_refused_and_nothing_panics() {
    for refused in [&b""[..], b"\x1f", b"\x1f\x8b\x08", b"no gzip at all", &gzip(b"cut off", 6)[..20]] {
        record(refused).expect_err("refused");
    }
    let (content, recipe) = record(FIXTURES[1].1).expect("a stream");
    rebuild(&content, &[&[9], &recipe[1..]].concat()).expect_err("of another version");
    rebuild(&content, b"\x01").expect_err("cut off");
    let mut state = 7u32;
    let mut next = |limit: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % limit
    };
    for _ in 0..400 {
        let mut broken = FIXTURES[next(5)].1.to_vec();
        for _ in 0..=next(3) {
            let place = next(broken.len());
            broken[place] ^= 1 << next(8);
        }
        // Broken or not: what is accepted is made again.
        if let Ok((content, recipe)) = record(&broken) {
            assert!(rebuild(&content, &recipe).expect("made again") == broken);
        }
        let mut broken = recipe.clone();
        let place = 2 + next(broken.len() - 2);
        broken[place] ^= 1 << next(8);
        broken.truncate(broken.len() - next(broken.len() / 2));
        let _ = rebuild(&content[..content.len() - next(20)], &broken);
    }
}
