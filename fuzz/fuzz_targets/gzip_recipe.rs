//! Recipes of gzip streams: a stream that is accepted is made again byte by byte; a recipe of anything makes something or fails.

#![no_main]

use std::io::Read;

use palan_redeflate::{Recorder, Rebuilder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut recorder = Recorder::new(bytes);
    let mut content = Vec::new();
    // Content is bounded, since deflate makes a thousand bytes of one.
    if recorder.by_ref().take(8 << 20).read_to_end(&mut content).is_ok() && content.len() < 8 << 20 {
        let recipe = recorder.finish();
        let mut stream = Vec::new();
        let rebuilder = Rebuilder::new(&content[..], &recipe[..]);
        rebuilder.expect("has a recipe").read_to_end(&mut stream).expect("is made again");
        assert!(stream == bytes, "another stream");
    }
    let (content, recipe) = bytes.split_at(bytes.len() / 2);
    if let Ok(rebuilder) = Rebuilder::new(content, recipe) {
        let mut stream = Vec::new();
        let _ = rebuilder.take(8 << 20).read_to_end(&mut stream);
    }
});
