//! Seccomp profiles in Docker's JSON, compiled for containers with few and with many capabilities; compiled programs.

#![no_main]

use palan_linux::capability::CapabilitySet;
use palan_runtime::seccomp::{Conditions, Profile, Program};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = Profile::from_json(bytes) {
        for capabilities in [CapabilitySet::empty(), CapabilitySet::all()] {
            for kernel in [(4, 0), (6, 18)] {
                if let Ok(program) = profile.compile(&Conditions { capabilities, kernel }) {
                    assert_eq!(Program::from_bytes(&program.to_bytes()).expect("its own bytes"), program);
                }
            }
        }
    }
    if let Ok(program) = Program::from_bytes(bytes) {
        assert_eq!(program.to_bytes().len(), bytes.len());
    }
});
