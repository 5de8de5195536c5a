//! Hooks are programs of the host: nothing of the image decides how they run.

use std::os::unix::fs::PermissionsExt;

use palan_test_support::bundle::Bundle;
use palan_test_support::requires;
use serde_json::json;

use crate::host::compile;

/// CVE-2025-23266 (nvidia-ctk), of the kind of CVE-2024-0132 and CVE-2025-23359: a `createContainer` hook starts in the root file
/// system with the image's environment, in which `LD_PRELOAD=./evil.so` loads the image's code into a process of the host.
#[test]
fn a_hook_does_not_load_code_of_the_image() {
    requires!(root);
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let mut bundle = Bundle::new(&["true"]);
        let Some(evil) = compile("evil.c", &["-shared", "-fPIC"], bundle.path()) else { return };
        let marker = bundle.path().join("loaded");
        std::fs::copy(evil, bundle.rootfs().join("evil.so")).unwrap();
        let output = bundle.path().join("output");
        let hook = bundle.path().join("hook");
        std::fs::write(&hook, format!("#!/bin/sh\nenv > {}\n", output.display())).unwrap();
        std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
        bundle.spec["process"]["env"] = json!([
            "PATH=/evil:/bin",
            "LD_PRELOAD=./evil.so /evil.so",
            "LD_LIBRARY_PATH=.",
            "ENV=./evil",
            "EVIL=1",
            format!("EVIL_MARKER={}", marker.display()),
        ]);
        bundle.spec["hooks"] = json!({kind: [{"path": hook}]});
        bundle.run().ok();
        let environment = std::fs::read_to_string(&output).unwrap();
        assert!(!environment.contains("EVIL") && !environment.contains("LD_"), "{kind}: {environment}");
        assert!(!environment.contains("/evil:"), "{kind}: {environment}");
        assert!(!marker.exists(), "{kind}: the image's code was run");
    }
}
