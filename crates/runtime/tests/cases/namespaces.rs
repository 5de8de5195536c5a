//! User and time namespaces, and joining those of another container.

use palan_linux::process as os;
use palan_oci::runtime_spec::{IdMapping, Mount, Namespace, NamespaceKind, TimeOffset};
use palan_runtime::Stdio;

use super::exec::Running;
use crate::support::Sandbox;

/// A container whose root is user 100000 of the host, and whose files belong to it.
pub(crate) fn with_user_namespace(arguments: &[&str]) -> Sandbox {
    let mut sandbox = Sandbox::new(arguments);
    give_to_mapped_root(&sandbox);
    let mapping = IdMapping { container_id: 0, host_id: 100_000, size: 65536 };
    let linux = sandbox.linux();
    linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: String::new() });
    linux.uid_mappings = vec![mapping];
    linux.gid_mappings = vec![mapping];
    sandbox
}

fn give_to_mapped_root(sandbox: &Sandbox) {
    let status = std::fs::metadata(sandbox.directory.path()).unwrap().permissions();
    let mut open = status;
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o711);
    std::fs::set_permissions(sandbox.directory.path(), open).unwrap();
    let mut left = vec![sandbox.rootfs()];
    while let Some(path) = left.pop() {
        std::os::unix::fs::lchown(&path, Some(100_000), Some(100_000)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

pub(crate) fn root_is_nobody_on_the_host() {
    let script = "cat /proc/self/uid_map; id -u; touch /new; stat -c '%u %t:%T %n' /dev/null /new; \
                  ls /dev; grep CapEff /proc/self/status; cat /proc/sys/kernel/hostname; mount | grep -c sysfs";
    let sandbox = with_user_namespace(&["sh", "-c", script]);
    let output = sandbox.output();
    let mut lines = output.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!(lines.next(), Some("0"));
    // Bound from the host: its owner has no number here.
    assert_eq!(lines.next(), Some("65534 1:3 /dev/null"));
    assert_eq!(lines.next(), Some("0 0:0 /new"));
    assert!(output.contains("CapEff:\t00000000a80425fb\nbox\n1\n"), "{output}");
    assert!(output.contains("\nfull\n") && output.contains("\nurandom\n"), "{output}");
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(sandbox.rootfs().join("new")).unwrap());
    assert_eq!(owner, 100_000);
}

pub(crate) fn users_and_terminals_in_a_user_namespace() {
    let mut sandbox = with_user_namespace(&["sh", "-c", "id; cat /proc/self/setgroups"]);
    sandbox.process().user.uid = 1000;
    sandbox.process().user.gid = 1001;
    sandbox.process().user.additional_gids = vec![50];
    let output = sandbox.output();
    assert_eq!(output, "uid=1000(alice) gid=1001 groups=50(staff),1001\nallow\n");
    sandbox.process().user.uid = 70_000;
    let error = sandbox.error().report();
    assert!(error.contains("70000"), "{error}");
}

pub(crate) fn sources_of_binds_need_no_rights_of_the_mapped_root() {
    let mut sandbox =
        with_user_namespace(&["sh", "-c", "cat /data/file; touch /data/x 2>&1; mount | grep /data"]);
    let secret = sandbox.directory.path().join("private");
    std::fs::create_dir_all(secret.join("inner")).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(secret.join("inner/file"), "content\n").unwrap();
    sandbox.spec.mounts.push(Mount {
        destination: "/data".into(),
        source: secret.join("inner").to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "ro".into(), "nosuid".into()],
        ..Mount::default()
    });
    let output = sandbox.output();
    assert!(output.starts_with("content\ntouch: /data/x: Read-only file system\n"), "{output}");
}

pub(crate) fn id_mapped_mounts() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "stat -c '%u:%g' /data/file; touch /data/new"]);
    let data = sandbox.directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(5), Some(6)).unwrap();
    let map = |container_id, host_id| vec![IdMapping { container_id, host_id, size: 1000 }];
    sandbox.spec.mounts.push(Mount {
        destination: "/data".into(),
        source: data.to_string_lossy().into_owned(),
        options: vec!["bind".into(), "idmap".into()],
        uid_mappings: map(0, 1000),
        gid_mappings: map(0, 2000),
        ..Mount::default()
    });
    let (code, output) = match sandbox.run() {
        Ok(result) => result,
        Err(error) if error.report().contains("may not support it") => {
            println!("SKIPPED id-mapped mounts: {}", error.report());
            return;
        }
        Err(error) => panic!("{}", error.report()),
    };
    // On the mount 5 is 1005; nobody maps to the container's root, so it can own nothing there.
    assert_eq!((code, output.lines().next()), (1, Some("1005:2006")), "{output}");
    // The container's own mapping: what belongs to the host's 0 belongs to its root.
    let mut sandbox = with_user_namespace(&["sh", "-c", "stat -c '%u:%g' /data/file; touch /data/new"]);
    let data = sandbox.directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(5), Some(6)).unwrap();
    sandbox.spec.mounts.push(Mount {
        destination: "/data".into(),
        source: data.to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "ridmap".into()],
        ..Mount::default()
    });
    assert_eq!(sandbox.output(), "5:6\n");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(data.join("new")).unwrap()), 0);
}

pub(crate) fn processes_enter_a_user_namespace() {
    let running = Running::of(with_user_namespace(&["sleep", "100"]));
    let process = running.process(&[
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; hostname; readlink /proc/self/ns/user",
    ]);
    let (code, output) = running.exec(&process, None).unwrap();
    let words: Vec<_> = output.split_whitespace().collect();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/user", running.pid())).unwrap();
    assert_eq!(words, ["0", "0", "100000", "65536", "box", theirs.to_str().unwrap()]);
    assert_eq!(code, 0);
}

pub(crate) fn another_containers_namespaces_can_be_joined() {
    let first = Running::of(with_user_namespace(&["sleep", "100"]));
    let mut second =
        with_user_namespace(&["sh", "-c", "readlink /proc/self/ns/user; hostname; ps | grep -c sleep"]);
    second.spec.hostname.clear();
    let pid = first.pid();
    let linux = second.linux();
    linux.uid_mappings.clear();
    linux.gid_mappings.clear();
    for namespace in &mut linux.namespaces {
        let name = match namespace.kind {
            NamespaceKind::User => "user",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Network => "net",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Pid => "pid",
            _ => continue,
        };
        namespace.path = format!("/proc/{pid}/ns/{name}");
    }
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let output = second.output();
    assert!(output.starts_with(&format!("{}\nbox\n", theirs.display())), "{output}");
}

pub(crate) fn contradictory_mappings_are_refused() {
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.linux().uid_mappings = vec![IdMapping { container_id: 0, host_id: 1, size: 1 }];
    assert!(sandbox.error().report().contains("need a user namespace"));
    let mut sandbox = with_user_namespace(&["true"]);
    sandbox.linux().gid_mappings.clear();
    assert!(sandbox.error().report().contains("linux.gidMappings"));
    let mut sandbox = with_user_namespace(&["true"]);
    sandbox.linux().uid_mappings[0].container_id = 5;
    assert!(sandbox.error().report().contains("process.user.uid: 0 is not mapped"));
    sandbox.process().user.uid = 5;
    let error = sandbox.error().report();
    assert!(error.contains("is 0 mapped in it?"), "{error}");
}

pub(crate) fn clocks_have_their_offsets() {
    let mut sandbox = Sandbox::new(&["cat", "/proc/uptime"]);
    let linux = sandbox.linux();
    linux.namespaces.push(Namespace { kind: NamespaceKind::Time, path: String::new() });
    linux.time_offsets.insert("boottime".into(), TimeOffset { secs: 1_000_000, nanosecs: 5 });
    let output = sandbox.output();
    let uptime: f64 = output.split_whitespace().next().unwrap().parse().unwrap();
    assert!(uptime > 1_000_000.0, "{output}");
    // Together with a user namespace too.
    let mut sandbox = with_user_namespace(&["cat", "/proc/uptime"]);
    let linux = sandbox.linux();
    linux.namespaces.push(Namespace { kind: NamespaceKind::Time, path: String::new() });
    linux.time_offsets.insert("boottime".into(), TimeOffset { secs: 2_000_000, nanosecs: 0 });
    let output = sandbox.output();
    let uptime: f64 = output.split_whitespace().next().unwrap().parse().unwrap();
    assert!(uptime > 2_000_000.0, "{output}");
    sandbox.linux().time_offsets.insert("realtime".into(), TimeOffset::default());
    assert!(sandbox.error().report().contains("realtime"));
}

pub(crate) fn a_terminal_in_a_user_namespace() {
    let mut sandbox = with_user_namespace(&["sh", "-c", "tty; stat -c %u /dev/pts/0; echo x > /dev/console"]);
    sandbox.process().terminal = true;
    let mut container = sandbox.start(Stdio::Terminal { size: None, translate_newlines: true }).unwrap();
    let output = super::exec::read_terminal(container.console_master.take().unwrap());
    os::wait(&container.pidfd).unwrap();
    container.cgroup.remove().unwrap();
    assert_eq!(output.replace('\r', ""), "/dev/pts/0\n0\nx\n");
}

pub(crate) fn a_shared_root_is_shared() {
    let mut sandbox = Sandbox::new(&["cat", "/proc/self/mountinfo"]);
    sandbox.linux().rootfs_propagation = "shared".into();
    let output = sandbox.output();
    let root = output.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.contains(" shared:"), "{root}");
    sandbox.linux().rootfs_propagation = "unbindable".into();
    let output = sandbox.output();
    let root = output.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.contains(" unbindable "), "{root}");
}

pub(crate) fn an_empty_home_is_the_users() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "echo $HOME"]);
    sandbox.process().env.push("HOME=".into());
    assert_eq!(sandbox.output(), "/root\n");
}
