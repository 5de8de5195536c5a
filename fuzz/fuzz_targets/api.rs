//! Bodies and headers of the API: create, exec, credentials, the address of a daemon.

#![no_main]

use palan_docker_api::host::Host;
use palan_docker_api::types::CreateContainerRequest;
use palan_docker_api::{auth, json};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(create) = CreateContainerRequest::from_slice(bytes) {
        CreateContainerRequest::from_slice(&json::to_vec(&create)).expect("what was written can be read");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        auth::decode(text);
        let _ = text.parse::<Host>();
    }
});
