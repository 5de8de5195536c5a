//! The multiplexed stream of `attach` and `logs`, and the JSON messages of `pull`, as a client reads them from a daemon.

#![no_main]

use palan_docker_api::stream::{self, JsonMessages, ProgressMessage};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let _ = stream::copy(bytes, &mut stdout, &mut stderr);
    assert!(stdout.len() + stderr.len() <= bytes.len());
    for message in JsonMessages::<ProgressMessage, _>::new(bytes) {
        if message.is_err() {
            break;
        }
    }
});
