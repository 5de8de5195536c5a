//! Limits hold, counters count, freezing freezes.

use std::time::{Duration, Instant};

use palan_linux::process as os;
use palan_oci::runtime_spec::{Cpu, DeviceRule, Memory, Pids, Resources};
use palan_runtime::Stdio;
use palan_runtime::cgroup::{Cgroup, Location, Place};

use super::cli::{Runtime, bundle};
use super::exec::Running;
use super::update::{directories, value};
use crate::support::Sandbox;

fn limited(arguments: &[&str], resources: Resources) -> Sandbox {
    let mut sandbox = Sandbox::new(arguments);
    sandbox.linux().resources = Some(resources);
    sandbox
}

pub(crate) fn memory_limit_kills() {
    let sandbox = limited(
        &["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"],
        Resources {
            memory: Some(Memory { limit: Some(32 << 20), swap: Some(32 << 20), ..Memory::default() }),
            ..Resources::default()
        },
    );
    let container = sandbox.start(Stdio::Null).unwrap_or_else(|error| panic!("{}", error.report()));
    let code = os::wait(&container.pidfd).unwrap().code();
    assert_eq!(code, 137);
    assert_eq!(container.cgroup.oom_kills().unwrap(), 1);
    assert_eq!(container.cgroup.stats().unwrap().memory.limit, 32 << 20);
    container.cgroup.remove().unwrap();
}

pub(crate) fn process_limit_holds() {
    let sandbox = limited(
        &["sh", "-c", "sleep 5 & sleep 5 & sleep 5 & sleep 5 & echo done"],
        Resources { pids: Some(Pids { limit: Some(3) }), ..Resources::default() },
    );
    let (code, output) = sandbox.run().unwrap();
    assert_ne!(code, 0);
    assert!(output.contains("can't fork"), "{output}");
}

pub(crate) fn processors_and_counters() {
    let begun = Instant::now();
    let mut running = Running::of(limited(
        &["sh", "-c", "while :; do :; done"],
        Resources {
            cpu: Some(Cpu {
                shares: Some(512),
                quota: Some(20_000),
                period: Some(100_000),
                cpus: "0".to_owned(),
                ..Cpu::default()
            }),
            ..Resources::default()
        },
    ));
    let stats = loop {
        std::thread::sleep(Duration::from_millis(500));
        let stats = running.container.cgroup.stats().unwrap();
        if stats.cpu.total > 10_000_000 && stats.cpu.throttled_periods > 0 {
            break stats;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", stats.cpu);
    };
    // Twice the quota, and something for its first period.
    let most = begun.elapsed().mul_f64(0.4) + Duration::from_millis(100);
    assert!(Duration::from_nanos(stats.cpu.total) < most, "{:?} in {:?}", stats.cpu, begun.elapsed());
    assert_eq!(stats.pids.current, 1);
    assert!(stats.memory.usage > 0);
    let (_, output) =
        running.exec(&running.process(&["grep", "Cpus_allowed_list", "/proc/self/status"]), None).unwrap();
    assert_eq!(output, "Cpus_allowed_list:\t0\n");
    // A limit that comes later.
    let later = Resources { pids: Some(Pids { limit: Some(1) }), ..Resources::default() };
    running.container.cgroup.apply(&later).unwrap();
    assert!(running.exec(&running.process(&["true"]), None).is_err());
}

pub(crate) fn freezing_stops_everything() {
    let running = Running::of(Sandbox::new(&["sh", "-c", "while :; do echo x >> /tmp/x; done"]));
    let file = running.sandbox.rootfs().join("tmp/x");
    let length = || std::fs::metadata(&file).map_or(0, |found| found.len());
    let wait_until = |condition: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_until(&|| length() > 0);
    let cgroup = &running.container.cgroup;
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let frozen_at = length();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(length(), frozen_at);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    wait_until(&|| length() > frozen_at);
    // Also what is frozen can be killed; `Running` does it.
    cgroup.freeze().unwrap();
}

pub(crate) fn devices_are_denied() {
    // A block device of the host is there, and can't be read.
    let script = "busybox mknod /tmp/disk b 254 0 && echo made; dd if=/tmp/disk of=/dev/null bs=512 count=1";
    let (code, output) = Sandbox::new(&["sh", "-c", script]).run().unwrap();
    assert_ne!(code, 0);
    assert!(output.starts_with("made\n") && output.contains("Operation not permitted"), "{output}");
    let everything = DeviceRule { allow: true, access: "rwm".to_owned(), ..DeviceRule::default() };
    let script = "busybox mknod /tmp/fuse c 10 229; cat < /tmp/fuse";
    let (_, output) = Sandbox::new(&["sh", "-c", script]).run().unwrap();
    assert!(output.contains("Operation not permitted"), "{output}");
    let (_, output) =
        limited(&["sh", "-c", script], Resources { devices: vec![everything], ..Resources::default() })
            .run()
            .unwrap();
    assert!(output.contains("Operation not permitted") == output.contains("read error"), "{output}");
}

pub(crate) fn paths_are_checked() {
    for bad in ["", "x", "/", "/a/../b", "/a//b", "/a/./b", "/a/"] {
        assert!(Cgroup::create(Location::Root(bad)).is_err(), "{bad}");
    }
    let sandbox = Sandbox::new(&["true"]);
    assert!(Cgroup::open(&Place::root(&sandbox.cgroup)).is_err());
    let running = Running::new();
    // Somebody else's group is not taken over.
    assert!(Cgroup::create(Location::Root(running.container.cgroup.path())).is_err());
}

/// Somebody else's group is not taken over, and an empty one that is left over is, unless it stands still.
pub(crate) fn groups_that_exist() {
    let sandbox = Sandbox::new(&["true"]);
    let location = Location::Root(&sandbox.cgroup);
    let left_over = Cgroup::create(location).unwrap();
    let again = Cgroup::create(location).unwrap();
    left_over.freeze().unwrap();
    let error = Cgroup::create(location).unwrap_err().to_string();
    assert!(error.contains("unexpectedly frozen"), "{error}");
    again.remove().unwrap();
    let running = Running::new();
    let error = Cgroup::create(Location::Root(running.container.cgroup.path())).unwrap_err().to_string();
    assert!(error.contains("container's cgroup is not empty"), "{error}");
}

/// The cgroups of a process that are not the root, by controller.
fn cgroups_of(pid: &str) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let wanted = |line: &&str| ["memory:", "pids:", "devices:", "0::"].iter().any(|name| line.contains(name));
    table.lines().filter(wanted).map(|line| line.split_once(':').unwrap().1.to_owned()).collect()
}

pub(crate) fn relative_paths_are_runcs() {
    let palan = Runtime::palan();
    let Some(runc) = Runtime::runc() else { return };
    let name = format!("palan-test-own-{}", std::process::id());
    for path in ["", &format!("{name}/a/b")] {
        let results = [&palan, &runc].map(|runtime| {
            let mut sandbox = bundle(&["sleep", "1000"]);
            path.clone_into(&mut sandbox.linux().cgroups_path);
            let json = serde_json::to_vec(&sandbox.spec).unwrap();
            std::fs::write(sandbox.directory.path().join("config.json"), json).unwrap();
            let pid_file = sandbox.directory.path().join("pid");
            let arguments = ["run", "-d", "--pid-file", pid_file.to_str().unwrap(), &name];
            assert!(runtime.call_detached(sandbox.directory.path(), &arguments));
            let groups = cgroups_of(&std::fs::read_to_string(pid_file).unwrap());
            // Every later command finds it again.
            runtime.text(sandbox.directory.path(), &["pause", &name]);
            assert!(runtime.text(sandbox.directory.path(), &["state", &name]).contains("paused"));
            runtime.text(sandbox.directory.path(), &["delete", "--force", &name]);
            groups
        });
        assert_eq!(results[0], results[1]);
        assert!(results[0].iter().any(|group| group.ends_with(if path.is_empty() { &name } else { path })));
    }
    for parent in [format!("{name}/a"), name] {
        let own = Location::Own { path: &parent, optional: false };
        Cgroup::create(own).unwrap().remove().unwrap();
    }
}

pub(crate) fn a_cgroup_is_given_away() {
    let sandbox = Sandbox::new(&["true"]);
    let cgroup = Cgroup::create(Location::Root(&sandbox.cgroup)).unwrap();
    cgroup.delegate(12_345).unwrap();
    let owner =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    for directory in directories(&sandbox.cgroup) {
        let v2 = !std::path::Path::new("/sys/fs/cgroup/unified").exists()
            && directory.join("cgroup.subtree_control").exists();
        let expected = if v2 { 12_345 } else { 0 };
        assert_eq!(owner(&directory), expected, "{}", directory.display());
        assert_eq!(owner(&directory.join("cgroup.procs")), expected);
        for limit in ["memory.max", "pids.max", "cgroup.freeze"] {
            let path = directory.join(limit);
            assert!(!path.exists() || owner(&path) == 0, "{}", path.display());
        }
    }
    cgroup.remove().unwrap();
}

pub(crate) fn limits_that_this_host_has_not() {
    let v2 = value("/", "cgroup.controllers").is_some() && value("/", "tasks").is_none();
    let run = |json: &str| {
        let resources = serde_json::from_str(json).unwrap();
        limited(&["true"], resources).run().map_err(|error| error.report())
    };
    let unified = run(r#"{"unified":{"pids.max":"7"}}"#);
    if v2 {
        unified.unwrap();
        for (json, text) in [
            (r#"{"unified":{"../pids.max":"7"}}"#, "must be a file name (no slashes)"),
            (r#"{"unified":{"pids":"7"}}"#, "must be in the form CONTROLLER.PARAMETER"),
            (r#"{"unified":{"nonsense.max":"7"}}"#, "controller \"nonsense\" not available"),
            (r#"{"unified":{"pids.nonsense":"7"}}"#, "unified resource \"pids.nonsense\""),
        ] {
            let error = run(json).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        run(r#"{"network":{"classID":1},"cpu":{"realtimePeriod":1000}}"#).unwrap();
    } else {
        assert!(unified.unwrap_err().contains("cannot use unified on cgroup v1"));
    }
    for json in [
        r#"{"hugepageLimits":[{"pageSize":"3PB","limit":1}]}"#,
        r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
        r#"{"rdma":{"nonsense0":{"hcaHandles":1}}}"#,
        r#"{"memory":{"limit":33554432,"swap":1048576}}"#,
        r#"{"memory":{"swappiness":101}}"#,
        r#"{"cpu":{"period":10}}"#,
        r#"{"blockIO":{"throttleReadBpsDevice":[{"major":4711,"minor":0,"rate":1}]}}"#,
    ] {
        run(json).unwrap_err();
    }
    run(r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"quota":-1,"shares":2}}"#).unwrap();
}

/// Limits of controllers that not every host has, each looked for in its file of v1 or v2.
pub(crate) fn limits_of_rare_controllers() {
    let disks = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path().join("dev"));
    let disk =
        disks.filter_map(|path| std::fs::read_to_string(path).ok()).find(|disk| !disk.starts_with("7:"));
    let disk = disk.unwrap_or_else(|| "0:0".to_owned()).trim().to_owned();
    let (major, minor) = disk.split_once(':').unwrap();
    let throttle = format!(
        r#"{{"blockIO":{{"throttleReadBpsDevice":[{{"major":{major},"minor":{minor},"rate":1048576}}]}}}}"#
    );
    let weight = r#"{"blockIO":{"weight":500}}"#;
    let pages = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}"#;
    let (read_v1, read_v2) =
        (format!("{disk} 1048576"), format!("{disk} rbps=1048576 wbps=max riops=max wiops=max"));
    for (json, file, expected) in [
        (pages, "hugetlb.2MB.limit_in_bytes", "2097152"),
        (pages, "hugetlb.2MB.rsvd.limit_in_bytes", "2097152"),
        (pages, "hugetlb.2MB.max", "2097152"),
        (pages, "hugetlb.2MB.rsvd.max", "2097152"),
        (r#"{"network":{"classID":1048577}}"#, "net_cls.classid", "1048577"),
        (r#"{"network":{"priorities":[{"name":"lo","priority":3}]}}"#, "net_prio.ifpriomap", "lo 3"),
        (&throttle, "blkio.throttle.read_bps_device", &read_v1),
        (&throttle, "io.max", &read_v2),
        (weight, "io.weight", "default 4950"),
        (r#"{"cpu":{"cpus":"0","mems":"0"}}"#, "cpuset.cpus", "0"),
        (r#"{"unified":{"memory.high":"1048576"}}"#, "memory.high", "1048576"),
    ] {
        // The root of v2 has no limits: a cgroup below it shows what there is.
        let probe = Sandbox::new(&["true"]);
        let mut empty = Cgroup::create(Location::Root(&probe.cgroup)).unwrap();
        let there = empty.apply(&serde_json::from_str(json).unwrap());
        let found = value(&probe.cgroup, file);
        empty.remove().unwrap();
        let Some(found) = found else {
            println!("SKIPPED {file}: this host has none");
            continue;
        };
        there.unwrap_or_else(|error| panic!("{json}: {error}"));
        let found = if file == "net_prio.ifpriomap" {
            found.lines().find(|line| line.starts_with("lo ")).unwrap_or_default().to_owned()
        } else {
            found
        };
        assert_eq!(found, expected, "{file}");
    }
}
