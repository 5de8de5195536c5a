//! The flags of `run` that tune a container: limits, devices, kernel parameters, security options; asked of the container
//! itself. Namespaces are in [`crate::shared`], devices that vendors describe in [`crate::cdi`].

use std::path::{Path, PathBuf};

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::{PATIENCE, requires, wait_until};
use serde_json::{Value, json};

use crate::images::{BUSYBOX, daemon, daemon_with, sh};

/// Whether the host has the old control groups, with a hierarchy for each controller.
fn has_old_cgroups() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[track_caller]
fn host_config(daemon: &Daemon, name: &str) -> Value {
    let text = daemon.palan(["inspect", "-f", "{{json .HostConfig}}", name]).ok().stdout;
    serde_json::from_str(&text).expect("JSON")
}

/// What `create` warns of, without its prefix.
#[track_caller]
fn warnings(daemon: &Daemon, flags: &[&str]) -> Vec<String> {
    let created = daemon.palan(["create"].iter().chain(flags).chain(&[BUSYBOX])).ok();
    created.stderr.lines().map(|line| line.trim_start_matches("WARNING: ").to_owned()).collect()
}

#[track_caller]
fn refused(daemon: &Daemon, flags: &[&str], text: &str) {
    daemon.palan(["run", "--rm", "--network", "none"].iter().chain(flags).chain(&[BUSYBOX])).fails(125, text);
}

/// As [`refused`], by the kernel.
#[track_caller]
fn refused_to_start(daemon: &Daemon, flags: &[&str], text: &str) {
    let run =
        daemon.palan(["run", "--rm", "--network", "none"].iter().chain(flags).chain(&[BUSYBOX, "true"]));
    assert!(run.code != 0 && run.stderr.contains(text), "{run}");
    // With --rm nothing is left of it.
    assert!(wait_until(PATIENCE, || daemon.palan(["ps", "-aq"]).ok().stdout.is_empty()));
}

#[test]
fn processor_time_and_memory() {
    requires!(root);
    requires!(has_old_cgroups(), "the files of cgroup v1 are looked at");
    let daemon = daemon();
    let read = |flags: &[&str], file: &str| sh(&daemon, flags, &format!("cat /sys/fs/cgroup/{file}"));
    let cfs = ["--cpu-period", "50000", "--cpu-quota", "20000"];
    assert_eq!(read(&cfs, "cpu/cpu.cfs_period_us /sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "50000\n20000");
    assert_eq!(read(&["--cpu-quota", "-1"], "cpu/cpu.cfs_quota_us"), "-1");
    assert_eq!(read(&["--cpuset-mems", "0"], "cpuset/cpuset.mems"), "0");
    assert_eq!(read(&["--memory-swappiness", "7"], "memory/memory.swappiness"), "7");
    let killer = ["-m", "64m", "--oom-kill-disable"];
    assert!(read(&killer, "memory/memory.oom_control").starts_with("oom_kill_disable 1"));
    assert_eq!(
        warnings(&daemon, &["--oom-kill-disable"]),
        [
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running \
          out of resources."
        ]
    );
    let spared = warnings(&daemon, &["--oom-score-adj", "-500"]);
    let adjustment = sh(&daemon, &["--oom-score-adj", "-500"], "cat /proc/self/oom_score_adj");
    match spared.as_slice() {
        [] => assert_eq!(adjustment, "-500"),
        [text] => assert_eq!(
            (text.as_str(), adjustment.as_str()),
            ("The daemon lacks CAP_SYS_RESOURCE. The OOM score adjustment -500 has no effect.", "0")
        ),
        more => panic!("{more:?}"),
    }
    refused(&daemon, &["--cpu-period", "999"], "CPU cfs period can not be less than 1ms");
    refused(&daemon, &["--cpu-quota", "999"], "CPU cfs quota can not be less than 1ms (i.e. 1000)");
    refused(&daemon, &["--cpus", "1", "--cpu-period", "5000"], "Nano CPUs and CPU Period cannot both be set");
    refused(
        &daemon,
        &["--cpuset-mems", "7"],
        "Requested memory nodes are not available - requested 7, available: 0",
    );
    refused(
        &daemon,
        &["--cpu-rt-runtime", "2000", "--cpu-rt-period", "1000"],
        "cpu real-time runtime cannot be higher than cpu real-time period",
    );
}

#[test]
fn limits_of_cgroup_v2() {
    requires!(root);
    requires!(kernel !has_old_cgroups(), "cgroup v2 alone");
    let daemon = daemon();
    let read = |flags: &[&str], file: &str| sh(&daemon, flags, &format!("cat /sys/fs/cgroup/{file}"));
    assert_eq!(read(&["--cpu-period", "50000", "--cpu-quota", "20000"], "cpu.max"), "20000 50000");
    assert_eq!(read(&["--cpu-quota", "-1"], "cpu.max"), "max 100000");
    assert_eq!(read(&["--cpuset-mems", "0"], "cpuset.mems"), "0");
    if let Some((path, numbers)) = block_device() {
        let limits = [format!("{path}:1mb"), format!("{path}:50")];
        let seen = read(&["--device-read-bps", &limits[0], "--device-write-iops", &limits[1]], "io.max");
        assert_eq!(seen, format!("{numbers} rbps=1048576 wbps=max riops=max wiops=50"));
    }
    assert_eq!(
        warnings(&daemon, &["--memory-swappiness", "5", "--oom-kill-disable"]),
        [
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness \
             discarded.",
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        ]
    );
    refused(&daemon, &["--cpu-rt-runtime", "5000"], "kernel does not support CPU real-time scheduler");
}

/// Path and numbers of some block device.
fn block_device() -> Option<(String, String)> {
    std::fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let path = Path::new("/dev").join(entry.file_name());
        let numbers = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        path.exists().then(|| (path.display().to_string(), numbers.trim().to_owned()))
    })
}

#[test]
fn real_time_and_the_parent_of_the_cgroup() {
    requires!(root);
    let parent = PathBuf::from(format!("/sys/fs/cgroup/cpu/palan-test-rt-{}", std::process::id()));
    requires!(
        parent.parent().is_some_and(|cpu| cpu.join("cpu.rt_runtime_us").exists()),
        "no real-time groups"
    );
    let daemon = daemon();
    let name = format!("/{}", parent.file_name().unwrap().to_str().unwrap());
    std::fs::create_dir(&parent).unwrap();
    std::fs::write(parent.join("cpu.rt_runtime_us"), "50000").unwrap();
    let flags = [
        "--cgroup-parent",
        &name,
        "--cgroupns",
        "host",
        "--cpu-rt-runtime",
        "3000",
        "--cpu-rt-period",
        "500000",
    ];
    let script =
        "cd /sys/fs/cgroup/cpu; grep :cpu: /proc/self/cgroup; cat cpu.rt_runtime_us cpu.rt_period_us";
    let seen = sh(&daemon, &flags, script);
    assert!(seen.contains(&format!(":cpu:{name}/")) && seen.ends_with("\n3000\n500000"), "{seen}");
    drop(daemon);
    // Or the daemon sees to it.
    let settings = r#""cpu-rt-runtime": 40000, "cpu-rt-period": 1000000"#.to_owned();
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    assert_eq!(
        sh(&daemon, &["--cpu-rt-runtime", "2000"], "cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us"),
        "2000"
    );
    // Like Docker, Palan leaves a parent that somebody named.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        std::fs::remove_dir(hierarchy.path().join(name.trim_start_matches('/'))).ok();
    }
}

#[test]
fn rates_of_block_devices() {
    requires!(root);
    requires!(has_old_cgroups(), "the files of cgroup v1 are looked at");
    let device = block_device();
    requires!(device.is_some(), "there is no block device");
    let (path, numbers) = device.unwrap();
    let daemon = daemon();
    let limits = [
        ("--device-read-bps", "1mb", "read_bps", "1048576"),
        ("--device-write-bps", "2kb", "write_bps", "2048"),
        ("--device-read-iops", "100", "read_iops", "100"),
        ("--device-write-iops", "50", "write_iops", "50"),
    ];
    let flags: Vec<String> =
        limits.iter().flat_map(|(flag, value, ..)| [(*flag).to_owned(), format!("{path}:{value}")]).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let files = limits.map(|(_, _, file, _)| format!("/sys/fs/cgroup/blkio/blkio.throttle.{file}_device"));
    let expected = limits.map(|(.., value)| format!("{numbers} {value}"));
    assert_eq!(sh(&daemon, &flags, &format!("cat {}", files.join(" "))), expected.join("\n"));
    refused(
        &daemon,
        &["--device-read-bps", "/dev/null:1mb"],
        "cannot limit the block device /dev/null: it is none",
    );
    refused(&daemon, &["--device-read-bps", "/dev/nosuch:1mb"], "/dev/nosuch");
    refused(&daemon, &["--device-read-bps", "x"], "bad format: x");
    // A kernel without weights says so and does without.
    if !Path::new("/sys/fs/cgroup/blkio/blkio.weight").exists() {
        let weights = ["--blkio-weight", "300", "--blkio-weight-device", &format!("{path}:100")];
        assert_eq!(
            warnings(&daemon, &weights),
            [
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
                "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device \
                 discarded.",
            ]
        );
    }
}

#[test]
fn device_rules_and_renamed_devices() {
    requires!(root);
    let daemon = daemon();
    let make = "mknod /tmp/d c 10 200 && { cat /tmp/d 2>&1 | head -1; }";
    assert!(sh(&daemon, &[], make).contains("Operation not permitted"));
    let allowed = sh(&daemon, &["--device-cgroup-rule", "c 10:200 rwm"], make);
    assert!(!allowed.contains("Operation not permitted"), "{allowed}");
    refused(&daemon, &["--device-cgroup-rule", "c 10:200"], "invalid device cgroup format 'c 10:200'");
    let renamed = ["--privileged", "--device", "/dev/null:/dev/nothing"];
    assert_eq!(sh(&daemon, &renamed, "stat -c %F /dev/nothing"), "character special file");
}

#[test]
fn kernel_parameters_names_and_groups() {
    requires!(root);
    let daemon = daemon();
    let sysctls = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shmmax=4096"];
    assert_eq!(sh(&daemon, &sysctls, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax"), "1\n4096");
    refused(&daemon, &["--sysctl", "kernel.panic=1"], "sysctl 'kernel.panic=1' is not allowed");
    let names = ["--domainname", "corp.test", "-h", "web"];
    assert_eq!(sh(&daemon, &names, "cat /proc/sys/kernel/domainname; hostname"), "corp.test\nweb");
    let groups = ["--group-add", "staff", "--group-add", "4242", "-u", "1000"];
    assert_eq!(sh(&daemon, &groups, "id -G"), "1000 50 4242");
    assert_eq!(sh(&daemon, &["--group-add", "staff"], "id -G"), "0 50");
    refused(
        &daemon,
        &["--group-add", "nosuch"],
        "unable to find group nosuch: no matching entries in group file",
    );
    // Others come along with an exec.
    daemon.palan(["run", "-d", "--name", "grouped", "--group-add", "staff", BUSYBOX, "sleep", "60"]).ok();
    assert_eq!(daemon.palan(["exec", "-u", "1", "grouped", "id", "-G"]).ok().line(), "1 50");
}

#[test]
fn security_options() {
    requires!(root);
    let daemon = daemon();
    let cgroup = if has_old_cgroups() { "/sys/fs/cgroup/cpu" } else { "/sys/fs/cgroup" };
    let make = format!("mkdir {cgroup}/x 2>/dev/null && echo made; rmdir {cgroup}/x 2>/dev/null; echo done");
    assert_eq!(sh(&daemon, &[], &make), "done");
    assert_eq!(sh(&daemon, &["--security-opt", "writable-cgroups=true"], &make), "made\ndone");
    let status =
        |flags: &[&str], line: &str| sh(&daemon, flags, &format!("grep {line}: /proc/self/status | cut -f2"));
    assert_eq!(status(&["--security-opt", "no-new-privileges=1"], "NoNewPrivs"), "1");
    assert_eq!(status(&["--security-opt", "no-new-privileges=false"], "NoNewPrivs"), "0");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
    assert_eq!(status(&["--security-opt", "seccomp=builtin"], "Seccomp"), "2");
    let profile = daemon.scratch().join("profile.json");
    let rule = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    std::fs::write(&profile, rule.to_string()).unwrap();
    let flag = format!("seccomp={}", profile.display());
    let seen = sh(&daemon, &["--security-opt", &flag], "mkdir /tmp/x 2>&1 || true");
    assert!(seen.contains("Function not implemented"), "{seen}");
    assert_eq!(sh(&daemon, &["--security-opt", "label=disable"], "echo fine"), "fine");
    if std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
    {
        let profile = sh(&daemon, &["--security-opt", "apparmor=unconfined"], "cat /proc/self/attr/current");
        assert_eq!(profile, "unconfined");
        refused_to_start(&daemon, &["--security-opt", "apparmor=nosuch"], "nosuch");
    }
    let unmasked = ["--security-opt", "systempaths=unconfined"];
    assert_eq!(sh(&daemon, &unmasked, "mount | grep -c ' /proc/'; true"), "0");
    refused(&daemon, &["--security-opt", "no-new-privileges=perhaps"], "invalid --security-opt 2");
}

#[test]
fn annotations_and_what_inspect_says_of_all_that() {
    requires!(root);
    let daemon = daemon();
    let flags = [
        "create",
        "--name",
        "all",
        "--annotation",
        "com.example.a=b",
        "--cpu-period",
        "100000",
        "--ipc",
        "shareable",
        "--cgroupns",
        "host",
        "--domainname",
        "d",
        "--userns",
        "host",
        "--uts",
        "host",
        "--pid",
        "host",
        "--device-cgroup-rule",
        "c 1:3 r",
        BUSYBOX,
    ];
    daemon.palan(flags).ok();
    let host = host_config(&daemon, "all");
    let expected = json!({
        "Annotations": {"com.example.a": "b"}, "CpuPeriod": 100_000, "IpcMode": "shareable", "CgroupnsMode": "host",
        "UsernsMode": "host", "UTSMode": "host", "PidMode": "host", "DeviceCgroupRules": ["c 1:3 r"],
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&host[key], value, "{key}");
    }
    // What was not asked for has the values that Docker shows.
    daemon.palan(["create", "--name", "none", BUSYBOX]).ok();
    let host = host_config(&daemon, "none");
    let expected = json!({
        "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0,
        "CpuRealtimePeriod": 0, "CpusetMems": "", "DeviceCgroupRules": null, "DeviceRequests": null, "IpcMode": "private",
        "PidMode": "", "UTSMode": "", "UsernsMode": "", "MemorySwappiness": null, "Isolation": "", "CpuCount": 0,
        "IOMaximumIOps": 0,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&host[key], value, "{key}");
    }
    assert_eq!(host["OomKillDisable"], if has_old_cgroups() { json!(false) } else { Value::Null });
    refused(
        &daemon,
        &["--io-maxiops", "5"],
        "\"--io-maxiops\" is only supported on a Docker daemon running on windows, but the Docker daemon is running on \
         linux",
    );
    refused(&daemon, &["--isolation", "hyperv"], "invalid isolation (hyperv): linux only supports 'default'");
    let ran =
        daemon.palan(["run", "--rm", "--kernel-memory", "50m", "--network", "none", BUSYBOX, "true"]).ok();
    assert!(ran.stderr.contains("Flag --kernel-memory has been deprecated"), "{ran}");
}

#[test]
fn the_api_for_the_container() {
    requires!(root);
    let daemon = daemon();
    let script = "test -S /var/run/docker.sock && printf 'GET /_ping HTTP/1.0\\r\\n\\r\\n' | nc local:/var/run/docker.sock \
                  2>/dev/null | head -1; ls -l /var/run/docker.sock | cut -c1";
    let seen = sh(&daemon, &["--use-api-socket"], script);
    assert!(seen.ends_with('s'), "{seen}");
    let mounts = ["run", "-d", "--use-api-socket", "--name", "api", BUSYBOX, "sleep", "60"];
    daemon.palan(mounts).ok();
    let source = daemon.palan(["inspect", "-f", "{{(index .Mounts 0).Source}}", "api"]).ok();
    assert_eq!(source.line(), daemon.socket().display().to_string());
}

/// A file system with project quotas, on a file of its own.
struct Limited(PathBuf);

impl Limited {
    fn mount(directory: &Path) -> Option<Self> {
        let file = directory.join("limited.img");
        std::fs::File::create(&file).ok()?.set_len(128 << 20).ok()?;
        let place = directory.join("limited");
        std::fs::create_dir(&place).ok()?;
        let run = |program: &str, words: &[&str]| {
            #[expect(
                clippy::disallowed_methods,
                reason = "the test prepares the host from outside of the product"
            )]
            let status =
                std::process::Command::new(program).args(words).stdout(std::process::Stdio::null()).status();
            status.is_ok_and(|status| status.success()).then_some(())
        };
        let (file, at) = (file.to_str()?, place.to_str()?);
        run("mkfs.ext4", &["-q", "-O", "quota,project", "-E", "quotatype=prjquota", file])?;
        run("mount", &["-o", "loop,prjquota", file, at])?;
        Some(Self(place))
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

#[test]
fn the_size_of_the_root_file_system() {
    requires!(root);
    let directory = tempfile::tempdir().unwrap();
    let limited = Limited::mount(directory.path());
    requires!(kernel limited.is_some(), "project quotas");
    let limited = limited.unwrap();
    let root = limited.0.join("data");
    std::fs::create_dir(&root).unwrap();
    let with_quota = daemon_with(Options { data_root: Some(root), ..Options::default() });
    let write =
        "dd if=/dev/zero of=/file bs=64k count=160 2>&1 | grep -v records; ls -l /file | awk '{print $5}'";
    let seen = sh(&with_quota, &["--storage-opt", "size=4m"], write);
    let written: u64 = seen.lines().last().unwrap().parse().unwrap();
    assert!(seen.contains("No space left") || seen.contains("quota exceeded"), "{seen}");
    assert!((3 << 20..=4 << 20).contains(&written), "{seen}");
    assert!(sh(&with_quota, &[], write).ends_with("10485760"));
    assert_eq!(
        sh(&with_quota, &["--storage-opt", "size=4m"], "df -k / | tail -1 | awk '{print $2}'"),
        "4096"
    );
    refused(&with_quota, &["--storage-opt", "colour=red"], "Unknown option colour");
    refused(&with_quota, &["--storage-opt", "size=x"], "invalid size: 'x'");
    drop(with_quota);
    // Where the file system keeps none, that is said.
    let without = daemon();
    refused(
        &without,
        &["--storage-opt", "size=4m"],
        "--storage-opt size is supported only where the file system",
    );
}
