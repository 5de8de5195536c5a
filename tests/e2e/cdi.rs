//! Devices that a vendor describes (Container Device Interface): `--device vendor.com/class=name` and `--gpus`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::requires;
use serde_json::json;

use crate::images::{BUSYBOX, daemon_with, sh};

/// A hook as vendors have them: it finds the root file system by the bundle's configuration, and says that it was there.
const HOOK: &str = "#!/bin/sh\n\
    state=$(cat)\n\
    bundle=$(echo \"$state\" | sed -n 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/p')\n\
    root=$(sed -n 's/.*\"root\":{\"path\":\"\\([^\"]*\\)\".*/\\1/p' \"$bundle/config.json\")\n\
    case $root in /*) ;; *) root=$bundle/$root ;; esac\n\
    echo \"$1 $2\" >> \"$root/etc/hooked\"\n";

/// A daemon that looks for specifications in its own directory, and that directory.
fn daemon() -> (tempfile::TempDir, Daemon) {
    let directory = tempfile::tempdir().unwrap();
    let hook = directory.path().join("hook");
    std::fs::write(&hook, HOOK).unwrap();
    std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    let settings = format!(
        r#""cdi-spec-dirs": ["{}"], "runtimes": {{"runc": {{"path": "runc"}}}}"#,
        directory.path().display()
    );
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    (directory, daemon)
}

fn describe(directory: &Path) {
    std::fs::write(directory.join("file"), "the vendor's library\n").unwrap();
    let hook = directory.join("hook").display().to_string();
    let toys = json!({
        "cdiVersion": "0.7.0", "kind": "vendor.test/toy",
        "containerEdits": {
            "env": ["TOYS=all"],
            "mounts": [{"hostPath": directory.join("file"), "containerPath": "/opt/vendor/library",
                        "options": ["ro", "nosuid", "bind"]}],
            "hooks": [{"hookName": "createContainer", "path": hook, "args": ["hook", "create", "container"]},
                      {"hookName": "poststop", "path": "/bin/sh",
                       "args": ["sh", "-c", format!("cat > {}", directory.join("stopped").display())]}],
        },
        "devices": [
            {"name": "null", "containerEdits": {
                "deviceNodes": [{"path": "/dev/toy", "hostPath": "/dev/null", "permissions": "rw"}]}},
            {"name": "numbers", "containerEdits": {
                "deviceNodes": [{"path": "/dev/numbers", "type": "c", "major": 10, "minor": 200, "fileMode": 384}],
                "env": ["NUMBERS=yes"], "additionalGids": [50]}},
        ],
    });
    std::fs::write(directory.join("toys.json"), toys.to_string()).unwrap();
    let gpus = "cdiVersion: 0.5.0\n\
        kind: nvidia.com/gpu\n\
        containerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n\
        devices:\n\
        - name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n      hostPath: /dev/zero\n\
        - name: \"1\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia1\n      hostPath: /dev/zero\n\
        - name: all\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n      hostPath: /dev/zero\n    - path: /dev/nvidia1\n      hostPath: /dev/zero\n";
    std::fs::write(directory.join("nvidia.yaml"), gpus).unwrap();
}

#[test]
fn devices_by_name() {
    requires!(root);
    let (directory, daemon) = daemon();
    let unknown = ["run", "--rm", "--network", "none", "--device", "vendor.test/toy=null", BUSYBOX, "true"];
    let text = "CDI device injection failed: unresolvable CDI devices vendor.test/toy=null";
    daemon.palan(unknown).fails(125, text);
    describe(directory.path());
    let script = "stat -c '%F %t:%T' /dev/toy; echo word > /dev/toy && echo written; echo $TOYS; cat /opt/vendor/library; \
                  touch /opt/vendor/library 2>/dev/null || echo read-only; cat /etc/hooked";
    let expected =
        "character special file 1:3\nwritten\nall\nthe vendor's library\nread-only\ncreate container";
    assert_eq!(sh(&daemon, &["--device", "vendor.test/toy=null"], script), expected);
    // The hook after the end was told that it is over; and nothing is left of the bundle.
    let stopped = std::fs::read_to_string(directory.path().join("stopped")).unwrap();
    assert!(stopped.contains(r#""status":"stopped""#), "{stopped}");
    let both = [
        "--device",
        "vendor.test/toy=null",
        "--device",
        "vendor.test/toy=numbers",
        "--device",
        "/dev/full:/dev/f",
    ];
    let seen = sh(&daemon, &both, "stat -c '%t:%T %a' /dev/numbers; echo $NUMBERS; id -G; ls /dev/f");
    assert_eq!(seen, "a:c8 600\nyes\n0 50\n/dev/f");
    if palan_test_support::skip::has_program("runc") {
        let theirs = ["--runtime", "runc", "--device", "vendor.test/toy=null"];
        assert_eq!(sh(&daemon, &theirs, script), expected);
    }
    let inspected = ["create", "--name", "toy", "--device", "vendor.test/toy=null", BUSYBOX];
    daemon.palan(inspected).ok();
    let requests = daemon.palan(["inspect", "-f", "{{json .HostConfig.DeviceRequests}}", "toy"]).ok();
    assert_eq!(
        requests.line(),
        r#"[{"Driver":"cdi","Count":0,"DeviceIDs":["vendor.test/toy=null"],"Capabilities":null,"Options":null}]"#
    );
    let known = daemon.palan(["info", "-f", "{{json .DiscoveredDevices}}"]).ok();
    assert!(known.line().contains(r#"{"Source":"cdi","ID":"vendor.test/toy=numbers"}"#), "{known}");
    let shown = daemon.palan(["info"]).ok();
    assert!(shown.stdout.contains(" Discovered Devices:\n  cdi: nvidia.com/gpu=0\n"), "{shown}");
}

#[test]
fn gpus() {
    requires!(root);
    let (directory, daemon) = daemon();
    let all = ["run", "--rm", "--network", "none", "--gpus", "all", BUSYBOX, "true"];
    daemon.palan(all).fails(125, "could not select device driver \"\" with capabilities: [[gpu]]");
    describe(directory.path());
    let list = "ls /dev | grep nvidia; echo $NVIDIA_VISIBLE_DEVICES";
    assert_eq!(sh(&daemon, &["--gpus", "all"], list), "nvidia0\nnvidia1\nvoid");
    assert_eq!(sh(&daemon, &["--gpus", "1"], list), "nvidia0\nvoid");
    assert_eq!(sh(&daemon, &["--gpus", "device=1"], list), "nvidia1\nvoid");
    assert_eq!(
        sh(&daemon, &["--gpus", "driver=nvidia,count=all,\"capabilities=utility\""], list),
        "nvidia0\nnvidia1\nvoid"
    );
    let third = ["run", "--rm", "--network", "none", "--gpus", "device=3", BUSYBOX, "true"];
    daemon.palan(third).fails(125, "unresolvable CDI devices nvidia.com/gpu=3");
    // A file that is no specification is named where a device is missing, and in `info`.
    std::fs::write(directory.path().join("broken.json"), "{").unwrap();
    daemon.palan(third).fails(125, "broken.json");
    assert!(daemon.palan(["info"]).ok().stderr.contains("broken.json"));
    assert_eq!(sh(&daemon, &["--gpus", "device=1"], list), "nvidia1\nvoid");
}
