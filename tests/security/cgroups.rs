//! Cgroup file systems that a container could write to.

use std::path::Path;

use palan_test_support::bundle::Bundle;
use palan_test_support::requires;
use palan_tests::images::{BUSYBOX, daemon};
use serde_json::json;

/// Says every cgroup file system, below any of the directories, in which a cgroup could be made; takes it away again.
const PROBE: &str = "grep -e ' - cgroup' /proc/self/mountinfo | cut -d' ' -f5 | while read m; do
        if mkdir $m/palan-probe 2>/dev/null; then echo writable $m; rmdir $m/palan-probe; fi
        for f in release_agent notify_on_release cgroup.procs; do
            test -e $m/$f && touch -c $m/$f 2>/dev/null && echo open $m/$f
        done
    done; grep -c -e ' - cgroup' /proc/self/mountinfo";

/// The number of cgroup file systems that it saw, none of which it could write to.
#[track_caller]
fn seen(bundle: &Bundle) -> usize {
    let run = bundle.run();
    let line = run.stdout.trim();
    line.parse().unwrap_or_else(|_| panic!("a cgroup file system can be written to: {run}"))
}

/// CVE-2023-25809 (runc): who binds the host's /sys read-only, as `spec --rootless` has it, got cgroups below it that could be
/// written to.
#[test]
fn a_read_only_bind_of_sys_does_not_open_cgroups() {
    requires!(root);
    let places = ["/sys", "/sys/fs", "/sys/fs/cgroup"];
    for share_cgroups in [false, true] {
        for place in places {
            for destination in [place, "/mnt"] {
                let mut bundle = Bundle::script(PROBE);
                bundle.unmount("/sys");
                bundle.bind(Path::new(place), destination, &["nosuid", "noexec", "nodev", "ro"]);
                if share_cgroups {
                    bundle.share("cgroup");
                }
                assert!(seen(&bundle) > 0, "{place} on {destination}");
            }
        }
    }
    // With everything else of the host, too.
    let mut bundle = Bundle::script(PROBE);
    bundle.unmount("/sys");
    bundle.bind(Path::new("/"), "/mnt", &["ro"]);
    assert!(seen(&bundle) > 0);
    // Who wants it otherwise has to say so.
    let mut bundle = Bundle::script(PROBE);
    bundle.unmount("/sys");
    bundle.bind(Path::new("/sys"), "/mnt", &["ro", "rrw"]);
    let run = bundle.run();
    assert!(std::env::var_os("PALAN_TEST_RUNTIME").is_some() || run.stdout.contains("writable"), "{run}");
}

/// CVE-2023-25809 (runc) in a user namespace, whose root may own cgroups of the host.
#[test]
fn a_user_namespace_does_not_open_cgroups() {
    requires!(root);
    for share_cgroups in [false, true] {
        for bind_sys in [false, true] {
            let mut bundle = Bundle::script(PROBE);
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            bundle.spec["linux"]["uidMappings"] = map.clone();
            bundle.spec["linux"]["gidMappings"] = map;
            if bind_sys {
                bundle.unmount("/sys");
                bundle.bind(Path::new("/sys"), "/sys", &["nosuid", "noexec", "nodev", "ro"]);
            }
            if share_cgroups {
                bundle.share("cgroup");
            }
            assert!(seen(&bundle) > 0, "own cgroup namespace: {}, /sys bound: {bind_sys}", !share_cgroups);
        }
    }
}

/// CVE-2022-0492 (Linux): a hierarchy of version 1 names a program that the host runs as root when a cgroup is empty.
#[test]
fn no_container_names_a_release_agent() {
    requires!(root);
    let daemon = daemon();
    let script = format!(
        "{PROBE}
        for type in cgroup cgroup2; do for option in memory rdma devices none,name=palan; do
            mkdir -p /tmp/m; mount -t $type -o $option x /tmp/m 2>/dev/null && echo mounted $type $option
        done; done; true"
    );
    for flags in [
        &[][..],
        &["-v", "/sys:/sys:ro"],
        &["-v", "/sys/fs/cgroup:/mnt:ro"],
        &["-v", "/:/mnt:ro"],
        &["--mount", "type=bind,source=/sys,target=/mnt,readonly"],
    ] {
        let words = ["run", "--rm", "--network", "none"].iter().chain(flags);
        let run = daemon.palan(words.chain(&[BUSYBOX, "sh", "-c", &script])).ok();
        assert!(run.line().parse::<u32>().is_ok_and(|seen| seen > 0), "{flags:?}: {run}");
    }
}

/// A read-only volume is so all the way down, as in Docker since 25.0.
#[test]
fn a_read_only_volume_has_nothing_writable_below_it() {
    requires!(root);
    let daemon = daemon();
    let script = "for d in /mnt /mnt/dev /mnt/dev/shm /mnt/sys /mnt/proc; do
        touch -c $d 2>/dev/null && echo writable $d; done; true";
    let run = ["run", "--rm", "--network", "none", "-v", "/:/mnt:ro", BUSYBOX, "sh", "-c", script];
    assert_eq!(daemon.palan(run).ok().stdout, "");
}
