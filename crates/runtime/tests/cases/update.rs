//! `update`, beside runc where that is installed: the same options must leave the same limits.

use std::path::{Path, PathBuf};

use palan_oci::runtime_spec::{Cpu, Memory, Pids, Resources};

use super::cli::{Runtime, bundle};
use crate::support::Sandbox;

/// Files that limits go to, of v1 and of v2. Not `cpu.weight`, which runc computes in another way since 1.3.
const FILES: &[&str] = &[
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "cpu.shares",
    "cpu.idle",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.cfs_burst_us",
    "cpu.max",
    "cpu.max.burst",
    "cpu.rt_runtime_us",
    "pids.max",
    "cpuset.cpus",
    "blkio.weight",
    "io.weight",
    "devices.list",
];

/// The directories of a cgroup in all hierarchies.
pub(super) fn directories(cgroup: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let below = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path());
    let roots = [top.to_owned()].into_iter().chain(below);
    roots.map(|root| root.join(&cgroup[1..])).filter(|path| path.is_dir()).collect()
}

/// A file of a cgroup, from whichever hierarchy has it.
pub(super) fn value(cgroup: &str, file: &str) -> Option<String> {
    let paths = directories(cgroup).into_iter().map(|directory| directory.join(file));
    paths.into_iter().find_map(|path| std::fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
}

fn limits(cgroup: &str) -> Vec<(&'static str, Option<String>)> {
    let sorted = |text: String| {
        // Old versions of runc allow /dev/net/tun to everybody.
        let mut lines: Vec<_> = text.lines().filter(|line| *line != "c 10:200 rwm").collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    // Without a limit we leave a container in the cpuset that it was born into.
    let own = |file: &str| value(cgroup, file).or_else(|| value("/", file).filter(|_| file == "cpuset.cpus"));
    FILES.iter().map(|file| (*file, own(file).map(sorted))).collect()
}

/// A container that runs, with limits that the tests change.
pub(super) struct Limited<'a> {
    runtime: &'a Runtime,
    pub(super) sandbox: Sandbox,
}

impl<'a> Limited<'a> {
    pub(super) fn of(runtime: &'a Runtime) -> Self {
        Self::running(runtime, &["sleep", "1000"])
    }

    pub(super) fn running(runtime: &'a Runtime, arguments: &[&str]) -> Self {
        let mut sandbox = bundle(arguments);
        sandbox.linux().resources = Some(Resources {
            memory: Some(Memory { limit: Some(32 << 20), reservation: Some(24 << 20), ..Memory::default() }),
            cpu: Some(Cpu {
                shares: Some(100),
                quota: Some(500_000),
                period: Some(1_000_000),
                ..Cpu::default()
            }),
            pids: Some(Pids { limit: Some(20) }),
            ..Resources::default()
        });
        let json = serde_json::to_vec(&sandbox.spec).unwrap();
        std::fs::write(sandbox.directory.path().join("config.json"), json).unwrap();
        assert!(runtime.call_detached(sandbox.directory.path(), &["run", "-d", "limited"]));
        Self { runtime, sandbox }
    }

    pub(super) fn path(&self) -> &Path {
        self.sandbox.directory.path()
    }

    /// Whether `update` succeeded with these options, and what it said.
    fn update(&self, options: &str) -> (bool, String) {
        let mut arguments = vec!["update", "limited"];
        arguments.extend(options.split_whitespace());
        let output = self.runtime.call(self.path(), &arguments);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    fn update_from(&self, json: &str) -> (bool, String) {
        std::fs::write(self.path().join("resources.json"), json).unwrap();
        self.update("-r resources.json")
    }
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        self.runtime.call(self.path(), &["delete", "--force", "limited"]);
    }
}

pub(crate) fn same_limits_as_runc() {
    let palan = Runtime::palan();
    let Some(runc) = Runtime::runc() else { return };
    let containers = [Limited::of(&palan), Limited::of(&runc)];
    let compare = |what: &str, results: [(bool, String); 2]| {
        assert_eq!(results[0].0, results[1].0, "{what}: {results:?}");
        assert_eq!(limits(&containers[0].sandbox.cgroup), limits(&containers[1].sandbox.cgroup), "{what}");
    };
    for options in [
        // On v2 runc forgets the other half of these with the first update that is about something else.
        "--cpu-period 900000",
        "--cpu-quota 600000",
        "--cpu-quota -1",
        "",
        "--memory 67108864",
        "--memory 50M",
        "--memory-reservation 33554432",
        "--memory-swap -1",
        "--memory 52428800 --memory-swap 96468992",
        "--memory -1",
        "--pids-limit 10",
        "--pids-limit -1",
        "--memory 30M --memory-swap 50M",
        "--memory 60M --memory-swap 80M",
        "--memory 20M --memory-swap 30M",
        "--memory 1g --memory-swap 1g",
        "--cpu-share 200",
        "--cpu-quota 500000 --cpu-period 1000000",
        "--cpu-period 900000 --cpu-quota 600000 --cpu-share 200 --memory 64M --memory-swap 80M --pids-limit 10",
        "--cpu-quota -1 --cpu-period 100000",
        "--cpu-period 10",
        "--cpuset-cpus 0",
        "--cpuset-cpus 4711",
        "--memory nonsense",
        "--cpu-quota nonsense",
        "--kernel-memory 100M",
        "--nonsense",
    ] {
        compare(options, containers.each_ref().map(|container| container.update(options)));
    }
    // On v2 runc remembers the other half of memory and swap only since 1.2.
    if value(&containers[0].sandbox.cgroup, "memory.limit_in_bytes").is_some() {
        for options in
            ["--memory 50M --memory-swap 90M", "--memory-swap 96468993", "--memory 200M", "--memory-swap -1"]
        {
            compare(options, containers.each_ref().map(|container| container.update(options)));
        }
    }
    for json in [
        r#"{"memory":{"limit":33554432,"reservation":25165824,"swap":50331648},"cpu":{"shares":100,"quota":500000,
            "period":1000000,"cpus":"0"},"pids":{"limit":20}}"#,
        r#"{"memory":{"swap":-1}}"#,
        "{}",
        "[",
    ] {
        compare(json, containers.each_ref().map(|container| container.update_from(json)));
    }
}

pub(crate) fn update_remembers() {
    let palan = Runtime::palan();
    let container = Limited::of(&palan);
    let cgroup = &container.sandbox.cgroup;
    let state = || {
        let text = palan.text(container.path(), &["state", "limited"]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let before = state();
    // The half of a pair that is not given is from the update before the last.
    assert!(container.update("--cpu-period 50000 --cpu-quota 20000").0);
    assert!(container.update("--memory 64M").0);
    assert!(container.update("--cpu-quota 30000").0);
    let quota = |v1: &str, v2: &str| value(cgroup, v2).unwrap_or_else(|| value(cgroup, v1).unwrap());
    assert!(["30000", "30000 50000"].contains(&&*quota("cpu.cfs_quota_us", "cpu.max")));
    assert!(container.update("--memory-swap 96M").0);
    assert!(container.update("--memory 80M").0);
    if let Some(swap) = value(cgroup, "memory.swap.max") {
        assert_eq!(swap, (16 << 20).to_string());
    }
    let (done, said) = container.update("--memory 97M");
    assert!(!done && !said.is_empty());
    // What is refused halfway leaves everything as it was.
    let limits_before = limits(cgroup);
    let (done, said) = container.update("--pids-limit 7 --memory 48M --cpu-quota 5");
    assert!(!done && !said.is_empty());
    assert_eq!(limits(cgroup), limits_before);
    if value(cgroup, "cpu.shares").is_some() {
        let (done, said) = container.update("--cpu-share 1");
        assert!(!done && said.contains("the minimum allowed cpu-shares is 2"), "{said}");
        assert_eq!(limits(cgroup), limits_before);
    }
    // A paused container can be changed and stays paused.
    palan.text(container.path(), &["pause", "limited"]);
    assert!(container.update("--pids-limit 30").0);
    assert_eq!(value(cgroup, "pids.max").as_deref(), Some("30"));
    assert_eq!(state()["status"], "paused");
    palan.text(container.path(), &["resume", "limited"]);
    assert_eq!(state(), before);
    // Zero processes are one.
    assert!(container.update("--pids-limit 0").0);
    assert_eq!(value(cgroup, "pids.max").as_deref(), Some("1"));
    let (done, said) = container.update("--kernel-memory 1m");
    assert!(done && said.contains("Kernel memory settings are ignored"), "{said}");
    let (done, said) = container.update("--l3-cache-schema L3:0=f");
    assert!(!done && said.contains("l3 cache schema is not enabled"), "{said}");
}

pub(crate) fn idle_and_bursts() {
    let palan = Runtime::palan();
    let container = Limited::of(&palan);
    let cgroup = &container.sandbox.cgroup;
    if value(cgroup, "cpu.idle").is_some() {
        for idle in ["1", "0", "1"] {
            assert!(container.update(&format!("--cpu-idle {idle}")).0);
            assert_eq!(value(cgroup, "cpu.idle").as_deref(), Some(idle));
        }
        for bad in ["-1", "2"] {
            assert!(!container.update(&format!("--cpu-idle {bad}")).0);
            assert_eq!(value(cgroup, "cpu.idle").as_deref(), Some("1"));
        }
        assert!(container.update_from(r#"{"cpu":{"idle":0,"shares":512}}"#).0);
        assert_eq!(value(cgroup, "cpu.idle").as_deref(), Some("0"));
    } else {
        println!("SKIPPED idle cgroups: this kernel has none");
    }
    let burst = |cgroup: &str| value(cgroup, "cpu.cfs_burst_us").or_else(|| value(cgroup, "cpu.max.burst"));
    assert!(container.update("--cpu-burst 100000").0);
    assert_eq!(burst(cgroup).as_deref(), Some("100000"));
    // More than the old quota allows, with a quota that allows it.
    assert!(container.update("--cpu-burst 900000 --cpu-quota 950000").0);
    assert_eq!(burst(cgroup).as_deref(), Some("900000"));
    assert!(container.update("--cpu-burst 0").0);
    assert_eq!(burst(cgroup).as_deref(), Some("0"));
}

pub(crate) fn devices_change_without_a_gap() {
    let palan = Runtime::palan();
    // Opens /dev/null and the like all the time and says when it may not.
    let script =
        "while :; do : > /dev/null || echo denied >> /tmp/denied; head -c 1 /dev/zero > /dev/null; done";
    let container = Limited::running(&palan, &["sh", "-c", script]);
    let rule = |minor: u32| {
        format!(
            r#"{{"devices":[{{"allow":false,"access":"rwm"}},
                {{"allow":true,"type":"c","major":10,"minor":{minor},"access":"rw"}}]}}"#
        )
    };
    for minor in [229, 200, 229, 200] {
        let (done, said) = container.update_from(&rule(minor));
        assert!(done, "{said}");
        if let Some(list) = value(&container.sandbox.cgroup, "devices.list") {
            assert!(list.contains(&format!("c 10:{minor} rw")), "{list}");
            assert!(
                list.contains("c 1:3 rwm") && !list.contains(&format!("c 10:{} ", 429 - minor)),
                "{list}"
            );
        }
    }
    // To everything and back the list has to be started anew, while nobody looks.
    for json in [r#"{"devices":[{"allow":true,"access":"rwm"}]}"#.to_owned(), rule(200)] {
        let (done, said) = container.update_from(&json);
        assert!(done, "{said}");
    }
    for _ in 0..20 {
        assert!(container.update("--pids-limit 20").0);
    }
    assert!(!container.sandbox.rootfs().join("tmp/denied").exists());
}

pub(crate) fn only_what_runs_is_updated() {
    let palan = Runtime::palan();
    let container = Limited::running(&palan, &["true"]);
    for _ in 0..500 {
        if palan.text(container.path(), &["state", "limited"]).contains("stopped") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (done, said) = container.update("--pids-limit 1");
    assert!(!done && said.contains("container not running"), "{said}");
    assert!(!palan.call(container.path(), &["update", "nobody", "--pids-limit", "1"]).status.success());
}
