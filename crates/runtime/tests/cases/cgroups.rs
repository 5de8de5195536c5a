//! Limits hold, counters count, freezing freezes.

use std::time::{Duration, Instant};

use palan_linux::process as os;
use palan_oci::runtime_spec::{Cpu, DeviceRule, Memory, Pids, Resources};
use palan_runtime::Stdio;
use palan_runtime::cgroup::Cgroup;

use super::exec::Running;
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
    std::thread::sleep(Duration::from_millis(500));
    let stats = running.container.cgroup.stats().unwrap();
    assert!(stats.cpu.total > 10_000_000 && stats.cpu.total < 400_000_000, "{:?}", stats.cpu);
    assert!(stats.cpu.throttled_periods > 0);
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
            assert!(start.elapsed() < Duration::from_secs(5));
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
        assert!(Cgroup::create(bad).is_err(), "{bad}");
    }
    let sandbox = Sandbox::new(&["true"]);
    assert!(Cgroup::open(&sandbox.cgroup).is_err());
    let running = Running::new();
    // Somebody else's group is not taken over.
    assert!(Cgroup::create(running.container.cgroup.path()).is_err());
}
