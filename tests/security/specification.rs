//! Specifications, and files of an image, that are absurd: an error, soon, and nothing else.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use palan_test_support::bundle::Bundle;
use palan_test_support::requires;
use serde_json::{Value, json};

use crate::host::Target;

/// A refusal in words, within the time that a person waits.
#[track_caller]
fn is_refused(bundle: &Bundle, what: &str) -> String {
    let begun = Instant::now();
    let run = bundle.run();
    assert!(begun.elapsed() < Duration::from_secs(10), "{what} took {:?}", begun.elapsed());
    assert!((1..128).contains(&run.code) && run.stdout.is_empty(), "{what}: {run}");
    assert!(!run.stderr.is_empty() && !run.stderr.contains("panicked"), "{what}: {run}");
    run.stderr
}

/// CVE-2021-43784 (runc): the message with which a container's new process was told of its namespaces had lengths of 16 bits; what
/// was longer came out as other attributes, of the attacker's writing.
#[test]
fn nothing_long_is_cut_off_and_taken_for_something_else() {
    requires!(root);
    // 64 KiB and a little, so that what is cut off is the little.
    for length in [4096, 65_536 + 8, 262_144] {
        let long = "x/".repeat(length / 2);
        let mut bundle = Bundle::new(&["true"]);
        bundle.mount(&format!("/{long}"), "tmpfs", "tmpfs", &[]);
        is_refused(&bundle, "the destination of a mount");
        let mut bundle = Bundle::new(&["true"]);
        bundle.mount("/mnt", "bind", &format!("/{long}"), &["rbind"]);
        is_refused(&bundle, "the source of a mount");
        for kind in ["network", "pid", "user"] {
            let mut bundle = Bundle::new(&["true"]);
            bundle.share(kind);
            let namespace = json!({"type": kind, "path": format!("/{long}")});
            bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
            is_refused(&bundle, "the path of a namespace");
        }
        let mut bundle = Bundle::new(&["true"]);
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{long}"));
        is_refused(&bundle, "the path of the cgroup");
    }
    // A mapping of more lines than the kernel takes, of which the last ones map root.
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let lines: Vec<Value> = (0..20_000)
        .map(|number| json!({"containerID": number + 1, "hostID": 100_000 + number, "size": 1}))
        .chain([json!({"containerID": 0, "hostID": 0, "size": 1})])
        .collect();
    bundle.spec["linux"]["uidMappings"] = json!(lines);
    bundle.spec["linux"]["gidMappings"] = json!(lines);
    is_refused(&bundle, "the mapping of users");
}

/// A namespace is joined by a file that is one. A fifo makes who opens it wait for a writer, a device may take it for an order,
/// and another kind of namespace is not the one that was meant.
#[test]
fn no_fifo_is_waited_for_in_the_place_of_a_namespace() {
    requires!(root);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::fs::write(path("file"), "x").unwrap();
    symlink("fifo", path("link")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let files = ["fifo", "file", "link", "socket", "."].map(|name| path(name).display().to_string());
    let others =
        ["/dev/null", "/dev/tty", "/proc/self/status", "/proc/self/ns", "/nosuch"].map(str::to_owned);
    let mut bundle = Bundle::new(&["true"]);
    let usual = bundle.spec.clone();
    for kind in ["network", "pid", "ipc", "uts", "mount", "cgroup", "user", "time"] {
        for file in files.iter().chain(&others) {
            bundle.spec = usual.clone();
            bundle.share(kind);
            bundle.spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": kind, "path": file}));
            let error = is_refused(&bundle, &format!("{kind} at {file}"));
            assert!(error.contains(file.as_str()), "{error}");
        }
        let other = if kind == "uts" { "ipc" } else { "uts" };
        bundle.spec = usual.clone();
        bundle.share(kind);
        let namespace = json!({"type": kind, "path": format!("/proc/self/ns/{other}")});
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        is_refused(&bundle, &format!("{kind} at an {other} namespace"));
    }
}

/// CVE-2025-24965 (crun): a configuration of the runtime's that lies in the image is looked for by its path, which a link there
/// leads out of the root file system. Nothing of the host is opened, whatever the image has.
#[test]
fn no_file_of_the_host_is_opened_for_the_image() {
    requires!(root);
    let target = Target::new();
    for way in target.ways() {
        let mut bundle = Bundle::new(&["true"]);
        let root = bundle.rootfs();
        for (name, file) in [
            ("etc/passwd", "passwd"),
            ("etc/group", "group"),
            ("etc/hosts", "hosts"),
            (".krun_config.json", "secret"),
            ("krun_config.json", "secret"),
            ("config.json", "secret"),
            (".dockerenv", "secret"),
        ] {
            std::fs::remove_file(root.join(name)).ok();
            symlink(way.join(file), root.join(name)).unwrap();
        }
        for annotations in
            [json!({}), json!({"run.oci.handler": "krun", "krun.config": "/.krun_config.json"})]
        {
            bundle.spec["annotations"] = annotations;
            bundle.run().ok();
            target.is_untouched();
        }
        let running_bundle = {
            bundle.spec["process"]["args"] = json!(["sleep", "1000"]);
            bundle.start()
        };
        let run = running_bundle.exec(&["--user", "1000"], &["true"]);
        assert!((0..128).contains(&run.code), "{run}");
        target.is_untouched();
    }
}
