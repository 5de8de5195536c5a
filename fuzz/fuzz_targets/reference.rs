//! Names of images, and digests: what was accepted reads back as itself.

#![no_main]

use palan_oci::{Digest, Reference};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let canonical = reference.to_string();
        assert_eq!(Reference::parse(&canonical).expect("its own text"), reference);
        let familiar = reference.familiar();
        assert_eq!(Reference::parse(&familiar).expect("its short text"), reference);
        let _ = reference.with_tag(text);
        assert!(reference.or_latest().tag().is_some() || canonical.contains('@'));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
});
