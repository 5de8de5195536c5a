//! Platforms: what was accepted reads back as itself.

#![no_main]

use palan_oci::Platform;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(platform) = text.parse::<Platform>() {
        let normal = platform.normalised();
        assert_eq!(normal.normalised(), normal);
        assert_eq!(normal.to_string().parse::<Platform>().expect("its own text").normalised(), normal);
        assert!(platform.matches(&platform));
        Platform::host().rank(&platform);
    }
});
