//! What runc's callers rely on beyond the specification.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use palan_linux::mount::{Attributes, Change, FileSystem};
use palan_oci::runtime_spec::{IdMapping, Mount, Rlimit};
use palan_runtime::cgroup::{self, Version};

use super::cli::{Runtime, bundle, written};
use super::namespaces::with_user_namespace;
use crate::support::Sandbox;

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

/// A source below the rootfs is what earlier entries have mounted there, also where nothing was before.
pub(crate) fn binds_show_what_was_mounted_before() {
    for user_namespace in [false, true] {
        let script = ["sh", "-c", "cat /final/file /final/deep/file; stat -f -c %T /run"];
        let mut sandbox = if user_namespace { with_user_namespace(&script) } else { Sandbox::new(&script) };
        let root = sandbox.rootfs().to_string_lossy().into_owned();
        let host = tempfile::tempdir().unwrap();
        std::fs::set_permissions(host.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for (directory, content) in [("a", "first\n"), ("b", "second\n")] {
            std::fs::create_dir_all(host.path().join(directory).join("deep")).unwrap();
            std::fs::write(host.path().join(directory).join("file"), content).unwrap();
        }
        let source = |name: &str| host.path().join(name).to_string_lossy().into_owned();
        sandbox.spec.mounts.extend([
            mount("/mnt", "bind", &source("a"), &["bind"]),
            mount("/mnt/deep", "bind", &source("b"), &["bind"]),
            // The destination, too, may be written as a path of the host.
            mount(&format!("{root}/final"), "bind", &format!("{root}/mnt"), &["rbind"]),
            mount("/run", "bind", &format!("{root}/dev/shm"), &["bind"]),
        ]);
        assert_eq!(sandbox.output(), "first\nsecond\ntmpfs\n");
    }
}

/// The table of mounts has them in the order of the specification, the upper before the lower: newer kernels sort it by when a
/// mount was made, and not attached. What shows the whole host shows nothing of the container.
pub(crate) fn mounts_are_listed_in_order() {
    let mut sandbox = Sandbox::new(&["cat", "/proc/self/mountinfo"]);
    let host = tempfile::tempdir().unwrap();
    let source = host.path().to_string_lossy().into_owned();
    std::fs::write(host.path().join("file"), "").unwrap();
    sandbox.spec.mounts.extend([
        mount("/first", "tmpfs", "tmpfs", &[]),
        mount("/first/bind", "bind", &source, &["bind"]),
        mount("/second", "tmpfs", "tmpfs", &[]),
        mount("/second/rbind", "bind", &source, &["rbind"]),
        mount("/third", "tmpfs", "tmpfs", &[]),
        mount("/third/file", "bind", &format!("{source}/file"), &["rbind", "ro"]),
        mount("/host", "bind", "/", &["rbind", "rprivate"]),
    ]);
    let output = sandbox.output();
    let places: Vec<_> = output.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let inside = ["/first", "/second", "/third"];
    let listed: Vec<_> =
        places.iter().filter(|place| inside.iter().any(|name| place.starts_with(name))).collect();
    let expected = ["/first", "/first/bind", "/second", "/second/rbind", "/third", "/third/file"];
    assert!(listed.iter().copied().eq(expected.iter()), "{output}");
    let root = format!("/host{}", sandbox.rootfs().display());
    assert!(places.contains(&"/host") && !places.iter().any(|place| place.starts_with(&root)), "{output}");
}

/// The same with ids of its own. In a user namespace only the caller may give it them.
pub(crate) fn binds_of_the_root_can_be_mapped() {
    for user_namespace in [false, true] {
        let script = ["stat", "-c", "%u", "/mapped"];
        let mut sandbox = if user_namespace { with_user_namespace(&script) } else { Sandbox::new(&script) };
        let root = sandbox.rootfs().to_string_lossy().into_owned();
        let host = tempfile::tempdir().unwrap();
        std::fs::set_permissions(host.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(host.path(), Some(5), None).unwrap();
        sandbox.spec.mounts.push(mount("/mnt", "bind", &host.path().to_string_lossy(), &["bind"]));
        let mut mapped = mount("/mapped", "bind", &format!("{root}/mnt"), &["rbind", "idmap"]);
        if !user_namespace {
            mapped.uid_mappings = vec![IdMapping { container_id: 0, host_id: 1000, size: 1000 }];
            mapped.gid_mappings.clone_from(&mapped.uid_mappings);
        }
        sandbox.spec.mounts.push(mapped);
        // With the container's own mapping it shows the numbers that the host sees.
        let expected = if user_namespace { "5\n" } else { "1005\n" };
        match sandbox.run() {
            Ok(result) => assert_eq!(result, (0, expected.to_owned())),
            Err(error) if error.report().contains("may not support it") && !user_namespace => {
                println!("SKIPPED id-mapped mounts: {}", error.report());
                return;
            }
            Err(error) => panic!("{}", error.report()),
        }
    }
}

/// A bind has the flags of its entry and no others, unless it has none; in a user namespace the source's stay.
pub(crate) fn flags_of_binds_are_exact() {
    let source = tempfile::tempdir().unwrap();
    let place = std::fs::File::open(source.path()).unwrap();
    let set = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOATIME;
    let tmpfs = FileSystem::new("tmpfs").unwrap().mount(set).unwrap();
    palan_linux::mount::attach(&tmpfs, &place).unwrap();
    let path = source.path().to_string_lossy().into_owned();
    let flags = |sandbox: &mut Sandbox, options: &[&str]| {
        sandbox.spec.mounts.retain(|mount| mount.destination != "/data");
        sandbox.spec.mounts.push(mount("/data", "bind", &path, options));
        let (code, output) = sandbox.run().map_err(|error| error.report())?;
        assert_eq!(code, 0, "{output}");
        let known = ["ro", "nosuid", "nodev", "noexec", "noatime", "relatime"];
        let words: Vec<_> =
            output.trim().split(',').filter(|word| known.contains(word)).map(str::to_owned).collect();
        Ok::<_, String>(words.join(","))
    };
    let script = [
        "sh",
        "-c",
        "while read a place c options e; do [ $place = /data ] && echo $options; done < /proc/mounts; true",
    ];
    let mut plain = Sandbox::new(&script);
    for (options, expected) in [
        (&["bind"][..], "nosuid,nodev,noatime"),
        (&["bind", "rprivate"], "nosuid,nodev,noatime"),
        (&["bind", "ro"], "ro,noatime"),
        (&["bind", "exec"], "noatime"),
        (&["bind", "atime", "nodev"], "nodev,noatime"),
        (&["bind", "relatime"], "relatime"),
    ] {
        assert_eq!(flags(&mut plain, options).unwrap(), expected, "{options:?}");
    }
    let mut mapped = with_user_namespace(&script);
    for (options, expected) in [
        (&["bind"][..], "nosuid,nodev,noatime"),
        (&["bind", "ro", "exec"], "ro,nosuid,nodev,noatime"),
        (&["bind", "noexec", "rw"], "nosuid,nodev,noexec,noatime"),
    ] {
        assert_eq!(flags(&mut mapped, options).unwrap(), expected, "{options:?}");
    }
    for refused in ["suid", "dev", "relatime", "strictatime"] {
        let error = flags(&mut mapped, &["bind", refused]).unwrap_err();
        assert!(error.contains("locked flags"), "{refused}: {error}");
    }
    let read_only = Change { set: Attributes::MOUNT_ATTR_RDONLY, ..Change::default() };
    palan_linux::mount::change(&tmpfs, &read_only, false).unwrap();
    assert_eq!(flags(&mut plain, &["bind", "rw"]).unwrap(), "noatime");
    assert!(flags(&mut mapped, &["bind", "rw"]).unwrap_err().contains("locked flags"));
    let target = std::ffi::CString::new(path.clone()).unwrap();
    palan_linux::mount::detach(&target).unwrap();
}

pub(crate) fn masked_directories_are_one_file_system() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "stat -c %d /a /b; grep -c ' /a ' /proc/mounts; ls /a /b"]);
    for name in ["a", "b"] {
        std::fs::create_dir(sandbox.rootfs().join(name)).unwrap();
        std::fs::write(sandbox.rootfs().join(name).join("secret"), "").unwrap();
    }
    sandbox.linux().masked_paths.extend(["/a", "/b", "/a/", "/./a"].map(str::to_owned));
    let output = sandbox.output();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[2..], ["1", "/a:", "", "/b:"]);
}

/// Limits are the container's, not those of its making.
pub(crate) fn few_descriptors_are_enough() {
    for user_namespace in [false, true] {
        let script = ["sh", "-c", "ulimit -n; ulimit -Hn"];
        let mut sandbox = if user_namespace { with_user_namespace(&script) } else { Sandbox::new(&script) };
        let source = tempfile::tempdir().unwrap();
        let path = source.path().to_string_lossy().into_owned();
        sandbox
            .spec
            .mounts
            .extend((0..20).map(|number| mount(&format!("/m{number}"), "bind", &path, &["bind"])));
        sandbox.process().rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 15, hard: 20 }];
        assert_eq!(sandbox.output(), "15\n20\n");
    }
}

/// v1: a cpuset above the container's that somebody has made and not filled.
pub(crate) fn cpusets_that_nobody_has_filled() {
    let parent = std::path::Path::new("/sys/fs/cgroup/cpuset/palan-test-empty");
    if std::fs::create_dir(parent).is_err() {
        println!("SKIPPED empty cpusets: this host has none of v1");
        return;
    }
    let mut sandbox = Sandbox::new(&["echo", "ran"]);
    sandbox.cgroup = "/palan-test-empty/c".to_owned();
    assert_eq!(sandbox.output(), "ran\n");
    drop(sandbox);
    assert!(!parent.exists());
}

/// v1: what a container engine in the container needs to pause others.
pub(crate) fn the_freezer_is_the_containers_own() {
    if cgroup::version().unwrap() == Version::V2 || !std::path::Path::new("/sys/fs/cgroup/freezer").exists() {
        println!("SKIPPED the freezer of v1: this host has none");
        return;
    }
    let output = Sandbox::new(&["sh", "-c", "cat /sys/fs/cgroup/freezer/freezer.state; cat /sys/fs/cgroup/freezer/tasks; grep freezer /proc/self/cgroup"]).output();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..2], ["THAWED", "1"]);
    assert!(lines.last().unwrap().ends_with(":freezer:/"), "{output}");
}

/// `exec --cgroup`: into one below the container's, by controller where each has a hierarchy.
pub(crate) fn executed_processes_go_into_sub_cgroups() {
    let palan = Runtime::palan();
    let sandbox = bundle(&["sleep", "1000"]);
    let path = sandbox.directory.path();
    palan.quiet(path, &["run", "--detach", "sub"]);
    let v1 = cgroup::version().unwrap() == Version::V1;
    let hierarchies = if v1 { &["memory", "pids"][..] } else { &["."] };
    let made: Vec<_> = hierarchies
        .iter()
        .map(|name| {
            std::path::Path::new("/sys/fs/cgroup").join(name).join(&sandbox.cgroup[1..]).join("below")
        })
        .collect();
    made.iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
    let exec = |options: &[&str]| {
        let words = [&["exec"], options, &["sub", "cat", "/proc/self/cgroup"]].concat();
        let output = palan.call(path, &words);
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let refused = |options: &[&str], why: &str| {
        let (code, text) = exec(options);
        assert!(code == Some(255) && text.contains(why), "{options:?}: {text}");
    };
    if v1 {
        let (_, text) = exec(&["--cgroup", "memory,pids:below"]);
        assert!(text.contains(":memory:/below\n") && text.contains(":pids:/below\n"), "{text}");
        assert!(text.contains(":devices:/\n"), "{text}");
        // Where one hierarchy lacks it the process must not run outside of the container's limits.
        refused(&["--cgroup", "below"], "cannot open it");
        refused(&["--cgroup", "cpu:nowhere"], "cannot open it");
    } else {
        assert_eq!(exec(&["--cgroup", "below"]), (Some(0), "0::/below\n".to_owned()));
    }
    assert_eq!(exec(&["--cgroup", "/"]), exec(&[]));
    refused(&["--cgroup", ".."], "bad sub cgroup path");
    refused(&["--cgroup", "whaaat:/"], "unknown controller whaaat");
    palan.text(path, &["delete", "--force", "sub"]);
    assert!(made.iter().all(|directory| !directory.exists()));
}

/// v2: a container that has moved to another cgroup, after which its own is removed.
pub(crate) fn a_container_may_leave_its_cgroup() {
    if cgroup::version().unwrap() == Version::V1 {
        println!("SKIPPED leaving a cgroup of v2: this host has v1");
        return;
    }
    let palan = Runtime::palan();
    let sandbox = bundle(&["sleep", "1000"]);
    let path = sandbox.directory.path();
    palan.quiet(path, &["run", "--detach", "left"]);
    let place = |cgroup: &str| std::path::Path::new("/sys/fs/cgroup").join(&cgroup[1..]);
    let elsewhere = format!("{}-elsewhere", sandbox.cgroup);
    std::fs::create_dir(place(&elsewhere)).unwrap();
    let state: serde_json::Value = serde_json::from_str(&palan.text(path, &["state", "left"])).unwrap();
    std::fs::write(place(&elsewhere).join("cgroup.procs"), state["pid"].to_string()).unwrap();
    std::fs::remove_dir(place(&sandbox.cgroup)).unwrap();
    assert!(palan.text(path, &["state", "left"]).contains("\"running\""));
    let output = palan.text(path, &["exec", "left", "cat", "/proc/self/cgroup"]);
    assert!(output.trim_end().ends_with("-elsewhere"), "{output}");
    palan.text(path, &["delete", "--force", "left"]);
    // Not ours to remove.
    std::fs::remove_dir(place(&elsewhere)).unwrap();
}

/// `NOTIFY_SOCKET`: the container says that it is ready, and whoever has started it is told, with the PID to watch.
#[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
pub(crate) fn readiness_is_passed_on() {
    let palan = Runtime::palan();
    let host = tempfile::tempdir().unwrap();
    let name = host.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let mut buffer = [0; 256];
    let mut hear = || {
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    // busybox has no client: this very program is one.
    let mut sandbox = Sandbox::new(&["sh", "-c", "/notify notify-ready $NOTIFY_SOCKET; sleep 1000"]);
    std::fs::copy(std::env::current_exe().unwrap(), sandbox.rootfs().join("notify")).unwrap();
    sandbox.process().user.uid = 1000;
    let sandbox = written(sandbox);
    let path = sandbox.directory.path();
    let start = |arguments: &[&str]| {
        let mut command = palan.command(path, arguments);
        command.env("NOTIFY_SOCKET", &name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let pid_of = || {
        let state: serde_json::Value = serde_json::from_str(&palan.text(path, &["state", "ready"])).unwrap();
        state["pid"].as_i64().unwrap()
    };

    assert!(start(&["create", "ready"]).wait().unwrap().success());
    let mut starting = start(&["start", "ready"]);
    assert_eq!(hear(), "READY=1\n");
    assert_eq!(hear(), format!("MAINPID={}\n", pid_of()));
    // The descriptor of the barrier is not taken, so it is closed with the message.
    assert_eq!(hear(), "BARRIER=1");
    assert!(starting.wait().unwrap().success());
    // A further process has nothing to announce.
    assert!(!palan.text(path, &["exec", "ready", "env"]).contains("NOTIFY"));
    palan.text(path, &["delete", "--force", "ready"]);

    let mut running = start(&["run", "ready"]);
    assert_eq!(hear(), "READY=1\n");
    assert_eq!(hear(), format!("MAINPID={}\n", running.id()));
    palan.text(path, &["kill", "ready", "KILL"]);
    assert_eq!(running.wait().unwrap().code(), Some(137));

    // One that ends before it is ready keeps nobody waiting.
    let json = std::fs::read_to_string(path.join("config.json")).unwrap();
    std::fs::write(
        path.join("config.json"),
        json.replace("sleep 1000", "true").replace("/notify notify", "true notify"),
    )
    .unwrap();
    assert!(start(&["run", "--detach", "ready"]).wait().unwrap().success());
    palan.text(path, &["delete", "--force", "ready"]);
}

/// `LISTEN_FDS`: sockets that systemd has opened for the runtime are the container's, before those of `--preserve-fds`.
#[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
pub(crate) fn sockets_of_systemd_are_passed_on() {
    let palan = Runtime::palan();
    let script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; ls /proc/self/fd | wc -l";
    let sandbox = bundle(&["sh", "-c", script]);
    let path = sandbox.directory.path();
    for (name, content) in [("first", "activated\n"), ("second", "preserved\n")] {
        std::fs::write(path.join(name), content).unwrap();
    }
    let run = |pid: &str, options: &str| {
        let own = palan.command(path, &[]);
        let words: Vec<_> = own.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let program = own.get_program().to_string_lossy().into_owned();
        let line = format!(
            "exec 3<first 4<second; export LISTEN_FDS=1 LISTEN_PID={pid}; exec {program} {} run {options} x",
            words.join(" ")
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &line])
            .current_dir(path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("$$", "--preserve-fds 1"), "1 1\nactivated\npreserved\n6\n");
    // Those of another process are none of ours.
    assert_eq!(run("1", "--preserve-fds 2"), "\nactivated\npreserved\n6\n");
}

/// Whoever reads only the first line gets no complaint.
#[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
pub(crate) fn a_reader_that_goes_away_is_no_failure() {
    let palan = Runtime::palan();
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["--version"], &["features"], &["run", "--help"]] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let output = palan
            .command(directory.path(), arguments)
            .stdout(write)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    let version = palan.text(directory.path(), &["--version"]);
    let words: Vec<_> = version.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["palan", "commit:", "spec:"]);
}
