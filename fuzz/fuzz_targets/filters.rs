//! `filters` of the API: what was accepted reads back as itself.

#![no_main]

use palan_docker_api::filters::Filters;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(filters) = Filters::from_json(text) {
        let written = filters.to_json().unwrap_or_default();
        assert_eq!(
            Filters::from_json(&written).expect("its own text").to_json().unwrap_or_default(),
            written
        );
        let _ = filters.boolean("dangling");
        let _ = filters.validate(&["label"]);
    }
});
