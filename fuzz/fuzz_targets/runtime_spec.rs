//! `config.json` of a bundle.

#![no_main]

use palan_oci::runtime_spec::Spec;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(spec) = Spec::from_json(bytes) {
        let written = serde_json::to_vec(&spec).expect("a specification can be written");
        Spec::from_json(&written).expect("what was written can be read");
        if let Some(rules) = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
            let _ = palan_runtime::seccomp::Program::compile(rules);
        }
    }
});
