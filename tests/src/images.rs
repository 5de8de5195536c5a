//! The images that the tests run, made from what Debian has.

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::image::{ImageBuilder, TarBuilder};
use serde_json::json;

/// The name of the small image that [`daemon`] loads.
pub const BUSYBOX: &str = "bb";

/// Debian's static busybox with a link for each of its programs.
pub fn busybox_layer() -> Vec<u8> {
    let program = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"));
    let program = program.expect("busybox-static is installed");
    let mut tar = TarBuilder::new()
        .directory("bin/", 0o755)
        .directory("etc/", 0o755)
        .directory("root/", 0o700)
        .directory("tmp/", 0o1777)
        .directory("var/", 0o755)
        .file("bin/busybox", 0o755, program)
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nalice:x:1000:1000::/home/alice:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nalice:x:1000:\nstaff:x:50:alice\n");
    for applet in [
        "awk", "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "grep", "head",
        "hostname", "id", "ifconfig", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "nc",
        "nslookup", "ping", "printf", "ps", "pwd", "readlink", "rm", "route", "sed", "seq", "sh", "sleep",
        "sort", "stat", "stty", "tail", "test", "touch", "tr", "true", "tty", "umount", "uname", "unshare",
        "wc", "wget", "whoami", "yes",
    ] {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar.finish()
}

/// Starts from busybox, with a path.
pub fn busybox() -> ImageBuilder {
    ImageBuilder::new()
        .layer(busybox_layer())
        .config("Env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]))
        .config("Cmd", json!(["sh"]))
}

/// Loads an image under a name.
#[track_caller]
pub fn load(daemon: &Daemon, image: ImageBuilder, name: &str) {
    let archive = daemon.scratch().join("image.tar");
    let full = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
    std::fs::write(&archive, image.build().docker_archive(&[&full])).expect("the archive written");
    let loaded = daemon.palan(["load", "-i", &archive.display().to_string()]).ok();
    assert_eq!(loaded.line(), format!("Loaded image: {full}"));
    std::fs::remove_file(archive).expect("the archive removed");
}

/// A daemon that has busybox.
#[track_caller]
pub fn daemon() -> Daemon {
    daemon_with(Options::default())
}

/// A daemon with these settings that has busybox.
#[track_caller]
pub fn daemon_with(options: Options) -> Daemon {
    let daemon = Daemon::start_with(options);
    load(&daemon, busybox(), BUSYBOX);
    daemon
}

/// Runs a shell script in a fresh container without a network and returns what it printed.
#[track_caller]
pub fn sh(daemon: &Daemon, flags: &[&str], script: &str) -> String {
    let mut arguments = vec!["run", "--rm", "--network", "none"];
    arguments.extend(flags);
    arguments.extend([BUSYBOX, "sh", "-c", script]);
    daemon.palan(arguments).ok().line().to_owned()
}
