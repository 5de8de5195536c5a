//! Volumes as objects: made, listed, used, refused, removed; with options; across a killed daemon; and what Docker has no
//! commands for. How they are mounted is in `mounts`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::image::TarBuilder;
use palan_test_support::{requires, wait_until};
use serde_json::{Value, json};

use crate::images::{BUSYBOX, busybox, daemon, load, sh};

/// What stands in the directory of volumes.
pub(crate) fn directories(daemon: &Daemon) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.data_root().join("volumes")).unwrap();
    // What begins with a dot is on its way out.
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

fn data(daemon: &Daemon, volume: &str) -> PathBuf {
    daemon.data_root().join("volumes").join(volume).join("_data")
}

/// What is mounted below the directory of volumes, as the host sees it.
pub(crate) fn mounted(daemon: &Daemon) -> Vec<String> {
    let root = daemon.data_root().join("volumes").display().to_string();
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| place.starts_with(&root)).map(|place| place[root.len()..].to_owned()).collect()
}

pub(crate) fn inspect(daemon: &Daemon, object: &str) -> Value {
    let shown = daemon.palan(["inspect", object]).ok();
    serde_json::from_str::<Value>(&shown.stdout).unwrap()[0].take()
}

/// A container that waits, with these flags.
#[track_caller]
pub(crate) fn waiting(daemon: &Daemon, name: &str, flags: &[&str]) {
    let first = ["run", "-d", "--name", name, "--network", "none"];
    daemon.palan(first.iter().chain(flags).chain(&[BUSYBOX, "sleep", "600"])).ok();
}

#[test]
fn made_listed_inspected_and_removed() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    assert_eq!(
        daemon.palan(["volume", "create", "--label", "a=1", "--label", "b", "data"]).ok().line(),
        "data"
    );
    assert_eq!(daemon.docker(["volume", "create", "data"]).ok().line(), "data", "made once");
    let anonymous = daemon.docker(["volume", "create"]).ok().line().to_owned();
    assert_eq!(anonymous.len(), 64);
    for list in [["volume", "inspect", "data"], ["volume", "inspect", &anonymous]] {
        let (ours, theirs) = (daemon.palan(list).ok().stdout, daemon.docker(list).ok().stdout);
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(read(&ours), read(&theirs));
    }
    let shown = inspect(&daemon, "data");
    assert_eq!(shown["Labels"], json!({"a": "1", "b": ""}));
    assert_eq!(
        (&shown["Driver"], &shown["Scope"], &shown["Options"]),
        (&json!("local"), &json!("local"), &Value::Null)
    );
    assert_eq!(shown["Mountpoint"], data(&daemon, "data").to_str().unwrap());
    assert_eq!(inspect(&daemon, &anonymous)["Labels"], json!({"com.docker.volume.anonymous": ""}));

    waiting(&daemon, "user", &["-v", "data:/d"]);
    let list = |filter: &str| {
        let (ours, theirs) = (
            daemon.palan(["volume", "ls", "-q", "-f", filter]).ok().stdout,
            daemon.docker(["volume", "ls", "-q", "-f", filter]).ok().stdout,
        );
        assert_eq!(ours, theirs, "{filter}");
        ours.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(list("dangling=true"), [anonymous.as_str()]);
    assert_eq!(list("dangling=false"), ["data"]);
    assert_eq!(list("label=a=1"), ["data"]);
    assert_eq!(list("label=a=2"), [""; 0]);
    assert_eq!(list("name=at"), ["data"]);
    assert_eq!(list("driver=local").len(), 2);
    daemon.palan(["volume", "ls", "-f", "colour=red"]).fails(1, "invalid filter 'colour'");
    let table = |run: palan_test_support::daemon::Run| run.ok().stdout;
    // Docker's CLI shows several labels in no order; one of them at a time is compared.
    for words in
        [&["volume", "ls"][..], &["volume", "ls", "--format", "{{.Name}} {{.Label \"a\"}} {{.Mountpoint}}"]]
    {
        assert_eq!(table(daemon.palan(words)), table(daemon.docker(words)));
    }

    // In use, by one that runs and by one that is stopped.
    let id = inspect(&daemon, "user")["Id"].as_str().unwrap().to_owned();
    let text = format!("remove data: volume is in use - [{id}]");
    daemon.palan(["volume", "rm", "data"]).fails(1, &text);
    daemon.docker(["volume", "rm", "-f", "data"]).fails(1, &text);
    daemon.palan(["stop", "-t", "0", "user"]).ok();
    daemon.palan(["volume", "rm", "data"]).fails(1, &text);
    daemon.palan(["rm", "user"]).ok();
    assert_eq!(
        daemon.palan(["volume", "rm", "data", &anonymous]).ok().stdout,
        format!("data\n{anonymous}\n")
    );
    daemon.palan(["volume", "rm", "data"]).fails(1, "get data: no such volume");
    assert_eq!(daemon.docker(["volume", "rm", "-f", "data"]).ok().line(), "data");
    daemon.palan(["volume", "inspect", "data"]).fails(1, "no such volume");
    assert_eq!(directories(&daemon), [""; 0]);

    for (name, text) in
        [("..", "includes invalid characters"), ("a/b", "includes invalid characters"), ("x", "create x")]
    {
        daemon.palan(["volume", "create", name]).fails(1, text);
    }
    daemon.palan(["volume", "create", "-d", "nosuch", "vv"]).fails(1, "plugin \"nosuch\" not found");
    daemon.palan(["volume", "create", "plain"]).ok();
    for run in [daemon.palan(["volume", "update", "plain"]), daemon.docker(["volume", "update", "plain"])] {
        run.fails(1, "can only update cluster volumes");
    }
    // What only a swarm has, as an engine without one answers.
    let swarm = ["volume", "create", "--type", "mount", "--limit-bytes", "1g", "--secret", "a=b", "shared"];
    for run in [daemon.palan(swarm), daemon.docker(swarm)] {
        run.fails(1, "This node is not a swarm manager.");
    }
    for run in [daemon.palan(["volume", "ls", "--cluster"]), daemon.docker(["volume", "ls", "--cluster"])] {
        let head: Vec<String> = run.ok().line().split_whitespace().map(str::to_owned).collect();
        assert_eq!(head, ["VOLUME", "NAME", "GROUP", "DRIVER", "AVAILABILITY", "STATUS"]);
    }
    assert_eq!(daemon.palan(["volume", "ls", "--cluster", "-q"]).ok().stdout, "");
}

#[test]
fn anonymous_ones_go_with_their_container_and_prune_takes_the_rest() {
    requires!(root);
    let daemon = daemon();
    load(&daemon, busybox().config("Volumes", json!({"/data": {}})), "withvolume");
    let none = [""; 0];
    daemon.palan(["run", "--rm", "--network", "none", "-v", "/x", "withvolume", "true"]).ok();
    assert_eq!(directories(&daemon), none, "--rm takes them along");
    daemon
        .palan([
            "run",
            "--name",
            "c1",
            "--network",
            "none",
            "-v",
            "/x",
            "-v",
            "named:/n",
            "withvolume",
            "true",
        ])
        .ok();
    assert_eq!(directories(&daemon).len(), 3);
    // Another one that has them too keeps them.
    daemon.palan(["create", "--name", "c2", "--volumes-from", "c1", BUSYBOX, "true"]).ok();
    daemon.palan(["rm", "-v", "c1"]).ok();
    assert_eq!(directories(&daemon).len(), 3, "c2 uses them");
    daemon.palan(["rm", "-v", "c2"]).ok();
    assert_eq!(directories(&daemon).len(), 3, "they were not made for c2");
    daemon.palan(["run", "--name", "c3", "--network", "none", "withvolume", "true"]).ok();
    daemon.palan(["rm", "c3"]).ok();
    assert_eq!(directories(&daemon).len(), 4, "without -v they stay");
    daemon.palan(["volume", "create", "--label", "keep=yes", "empty"]).ok();

    let pruned = daemon.palan(["volume", "prune", "-f"]).ok();
    assert_eq!(pruned.stdout.lines().count(), 6, "title, three volumes, a blank line, the sum: {pruned}");
    assert_eq!(directories(&daemon), ["empty", "named"]);
    daemon.palan(["volume", "prune", "-f", "--filter", "label=keep=no", "-a"]).ok();
    assert_eq!(directories(&daemon), ["empty", "named"]);
    daemon.palan(["volume", "prune", "-f", "--filter", "label!=keep=yes", "-a"]).ok();
    assert_eq!(directories(&daemon), ["empty"]);
    daemon.palan(["volume", "prune", "-f", "--filter", "until=1h"]).fails(1, "until");
    daemon.palan(["volume", "prune", "-a", "-f"]).ok();
    assert_eq!(directories(&daemon), none);
}

#[test]
fn a_tmpfs_is_one_for_all_and_goes_with_the_last() {
    requires!(root);
    let daemon = daemon();
    let options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=1000,mode=750"];
    daemon.palan(["volume", "create"].iter().chain(&options).chain(&["fast"])).ok();
    assert_eq!(
        inspect(&daemon, "fast")["Options"],
        json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,mode=750"})
    );
    assert_eq!(mounted(&daemon), [""; 0]);
    waiting(&daemon, "one", &["-v", "fast:/f"]);
    waiting(&daemon, "two", &["-v", "fast:/f:ro"]);
    assert_eq!(mounted(&daemon), ["/fast/_data"]);
    daemon.palan(["exec", "one", "sh", "-c", "echo shared > /f/x"]).ok();
    assert_eq!(daemon.palan(["exec", "two", "cat", "/f/x"]).ok().line(), "shared");
    daemon.palan(["exec", "two", "touch", "/f/y"]).fails(1, "Read-only");
    assert_eq!(daemon.palan(["exec", "one", "stat", "-c", "%u %a", "/f"]).ok().line(), "1000 750");
    let full = "dd if=/dev/zero of=/f/big bs=1M count=2 2>&1 | grep -c 'No space'";
    assert_eq!(daemon.palan(["exec", "one", "sh", "-c", full]).ok().line(), "1");
    daemon.palan(["rm", "-f", "one"]).ok();
    assert_eq!(daemon.palan(["exec", "two", "cat", "/f/x"]).ok().line(), "shared");
    assert_eq!(mounted(&daemon), ["/fast/_data"]);
    daemon.palan(["volume", "rm", "fast"]).fails(1, "volume is in use");
    daemon.palan(["stop", "-t", "0", "two"]).ok();
    assert!(wait_until(Duration::from_secs(30), || mounted(&daemon).is_empty()), "{:?}", mounted(&daemon));
    // A new run, a new file system.
    daemon.palan(["start", "two"]).ok();
    daemon.palan(["exec", "two", "cat", "/f/x"]).fails(1, "No such file");
    daemon.palan(["rm", "-f", "two"]).ok();
    daemon.palan(["volume", "rm", "fast"]).ok();
    assert_eq!((mounted(&daemon).len(), directories(&daemon).len()), (0, 0));
}

#[test]
fn a_device_is_a_directory_of_the_host_which_no_removal_touches() {
    requires!(root);
    let daemon = daemon();
    let device = daemon.scratch().join("device");
    std::fs::create_dir(&device).unwrap();
    std::fs::write(device.join("mine"), "precious").unwrap();
    let option = format!("device={}", device.display());
    for (name, o) in [("plain", "o=bind"), ("readonly", "o=bind,ro"), ("missing", "o=bind")] {
        let option = if name == "missing" { "device=/palan/no/such/place" } else { &option };
        daemon.palan(["volume", "create", "-o", "type=none", "-o", option, "-o", o, name]).ok();
    }
    assert_eq!(sh(&daemon, &["-v", "plain:/d"], "echo more > /d/more; cat /d/mine"), "precious");
    assert_eq!(std::fs::read_to_string(device.join("more")).unwrap(), "more\n");
    assert!(sh(&daemon, &["-v", "readonly:/d"], "touch /d/x 2>&1; true").contains("Read-only"));
    let run =
        daemon.palan(["run", "--name", "fails", "--network", "none", "-v", "missing:/d", BUSYBOX, "true"]);
    let place = data(&daemon, "missing");
    run.fails(
        127,
        &format!(
            "error while mounting volume '{0}': failed to mount local volume: mount /palan/no/such/place:{0}, flags: 0x1000: \
             no such file or directory",
            place.display()
        ),
    );
    daemon.palan(["rm", "fails"]).ok();

    // Removed while the daemon is not looking, and while something of the host is mounted in it.
    waiting(&daemon, "user", &["-v", "plain:/d"]);
    assert_eq!(mounted(&daemon), ["/plain/_data"]);
    daemon.palan(["rm", "-f", "user"]).ok();
    daemon.palan(["volume", "rm", "plain", "readonly", "missing"]).ok();
    assert_eq!(std::fs::read_to_string(device.join("mine")).unwrap(), "precious");
    daemon.palan(["volume", "create", "host"]).ok();
    std::fs::create_dir(data(&daemon, "host").join("inside")).unwrap();
    let inside = data(&daemon, "host").join("inside");
    rustix::mount::mount_bind(&device, &inside).unwrap();
    let refused = daemon.palan(["volume", "rm", "host"]);
    rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::DETACH).unwrap();
    refused.fails(1, "something is mounted on");
    daemon.palan(["volume", "rm", "host"]).ok();
    assert_eq!(std::fs::read_to_string(device.join("mine")).unwrap(), "precious");
    assert_eq!((mounted(&daemon).len(), directories(&daemon).len()), (0, 0));
}

#[test]
fn options_that_are_none_are_refused() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    for (options, text) in [
        (&["-o", "colour=red"][..], "create bad: invalid option: \"colour\""),
        (&["-o", "type=tmpfs"], "create bad: missing required option: \"device\""),
        (&["-o", "device=/tmp"], "create bad: missing required option: \"type\""),
        (&["-o", "o=ro"], "create bad: missing required option: \"device\""),
        (&["-o", "size=10m"], "quota size requested but no quota support"),
        (&["-o", "size=big"], "create bad: invalid size: 'big'"),
    ] {
        daemon.docker(["volume", "create"].iter().chain(options).chain(&["bad"])).fails(1, text);
    }
    assert_eq!(directories(&daemon), [""; 0]);
    // What can only be known when it is mounted.
    for (name, options, text) in [
        (
            "unknown",
            ["type=palanfs", "device=x", "o=a=1"],
            "no such device (the kernel has no file system of type \"palanfs\")",
        ),
        ("word", ["type=tmpfs", "device=x", "o=colour=red"], "invalid argument"),
        ("relative", ["type=none", "device=tmp", "o=bind"], "not an absolute path"),
    ] {
        let words = options.iter().flat_map(|option| ["-o", option]);
        daemon.palan(["volume", "create"].into_iter().chain(words).chain([name])).ok();
        let volume = format!("{name}:/d");
        let run = daemon.palan(["run", "--name", "cc", "--network", "none", "-v", &volume, BUSYBOX, "true"]);
        assert!(run.code != 0 && run.stderr.contains(text), "{run}");
        daemon.palan(["rm", "cc"]).ok();
        daemon.palan(["volume", "rm", name]).ok();
    }
    // A kernel without NFS says so; with it, nobody answers at that address.
    let nfs = [
        "-o",
        "type=nfs",
        "-o",
        "device=:/x",
        "-o",
        "o=addr=127.0.0.1,nolock,soft,retrans=0,timeo=1,port=1,vers=4",
    ];
    daemon.palan(["volume", "create"].iter().chain(&nfs).chain(&["nfs"])).ok();
    let run = daemon.palan(["run", "--rm", "--network", "none", "-v", "nfs:/d", BUSYBOX, "true"]);
    assert!(run.code != 0 && run.stderr.contains("failed to mount local volume: mount :/x:"), "{run}");
    daemon.palan(["volume", "rm", "nfs"]).ok();
    assert_eq!((mounted(&daemon).len(), directories(&daemon).len()), (0, 0));
}

#[test]
fn a_killed_daemon_still_knows_who_uses_what() {
    requires!(root);
    let mut daemon = daemon();
    let tmpfs = ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs"];
    daemon.palan(tmpfs.iter().chain(&["live"])).ok();
    daemon.palan(tmpfs.iter().chain(&["ends"])).ok();
    daemon.palan(["volume", "create", "plain"]).ok();
    waiting(&daemon, "runs", &["-v", "live:/l", "-v", "plain:/p", "-v", "/anonymous"]);
    waiting(&daemon, "stops", &["-v", "ends:/e"]);
    daemon.palan(["exec", "runs", "sh", "-c", "echo kept > /l/x"]).ok();
    let pid = inspect(&daemon, "stops")["State"]["Pid"].as_i64().unwrap();
    daemon.kill();
    assert_eq!(mounted(&daemon).len(), 2);
    // Something half made, and a volume that was on its way to the trash.
    std::fs::create_dir_all(data(&daemon, "orphan")).unwrap();
    std::fs::create_dir_all(daemon.data_root().join("volumes/.half/_data")).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    daemon.restart();
    daemon.palan(["ps"]).ok();
    assert!(wait_until(Duration::from_secs(30), || mounted(&daemon).len() == 1));
    assert_eq!(mounted(&daemon), ["/live/_data"], "what nobody uses is taken off");
    assert!(!directories(&daemon).contains(&"orphan".to_owned()));
    assert!(!daemon.data_root().join("volumes/.half").exists());
    daemon.palan(["volume", "rm", "plain"]).fails(1, "volume is in use");
    daemon.palan(["volume", "rm", "live"]).fails(1, "volume is in use");
    assert_eq!(sh(&daemon, &["-v", "live:/l"], "cat /l/x"), "kept");
    daemon.palan(["volume", "prune", "-a", "-f"]).ok();
    assert_eq!(directories(&daemon).len(), 4, "all are used by a container: {:?}", directories(&daemon));
    daemon.palan(["rm", "-f", "-v", "runs", "stops"]).ok();
    assert!(wait_until(Duration::from_secs(30), || mounted(&daemon).is_empty()));
    assert_eq!(directories(&daemon), ["ends", "live", "plain"]);
}

#[test]
fn images_fill_what_is_empty() {
    requires!(root);
    let daemon = daemon();
    let content = TarBuilder::new()
        .directory("data/", 0o1770)
        .file("data/one", 0o640, "one")
        .hard_link("data/two", "data/one")
        .symlink("data/link", "/etc/passwd")
        .pax(&[("SCHILY.xattr.user.colour", b"red")])
        .file("data/coloured", 0o600, "x")
        .directory("data/below/", 0o711)
        .file("data/below/deep", 0o444, "deep")
        .finish();
    load(&daemon, busybox().layer(content), "full");
    let run = |flags: &[&str], script: &str| {
        let first = ["run", "--rm", "--network", "none"];
        let command = ["full", "sh", "-c", script];
        daemon.palan(first.iter().chain(flags).chain(&command)).ok().line().to_owned()
    };
    let look = "cd /data; stat -c '%a %h %u' . one two below below/deep; readlink link";
    let expected = "1770 3 0\n640 2 0\n640 2 0\n711 2 0\n444 1 0\n/etc/passwd";
    assert_eq!(run(&["-v", "fresh:/data"], look), expected);
    let mut colour = [0; 8];
    let length =
        rustix::fs::getxattr(data(&daemon, "fresh").join("coloured"), "user.colour", &mut colour[..]);
    assert_eq!(&colour[..length.unwrap()], b"red");
    // By `--mount`, with a volume that was made before, and into a part of one.
    daemon.palan(["volume", "create", "before"]).ok();
    assert_eq!(run(&["--mount", "src=before,dst=/data"], look), expected);
    daemon.palan(["volume", "create", "parts"]).ok();
    std::fs::create_dir(data(&daemon, "parts").join("sub")).unwrap();
    assert_eq!(run(&["--mount", "src=parts,dst=/data,volume-subpath=sub"], look), expected);
    assert_eq!(std::fs::read_dir(data(&daemon, "parts")).unwrap().count(), 1);
    // Not into one that has something, nor where it is not wanted; nor does a file get filled in for a directory.
    std::fs::create_dir(data(&daemon, "parts").join("used")).unwrap();
    std::fs::write(data(&daemon, "parts").join("used/mine"), "").unwrap();
    assert_eq!(run(&["--mount", "src=parts,dst=/data,volume-subpath=used"], "ls /data"), "mine");
    assert_eq!(run(&["-v", "empty:/data:nocopy"], "ls /data"), "");
    assert_eq!(run(&["--mount", "src=empty,dst=/data,volume-nocopy"], "ls /data"), "");
    assert_eq!(run(&["-v", "fresh:/data"], "rm -r /data/*; ls /data"), "");
    assert_eq!(run(&["-v", "fresh:/data"], "ls /data | head -1"), "below", "empty again, filled again");
    // A volume with a file system of its own.
    daemon.palan(["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"]).ok();
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "holds",
            "--network",
            "none",
            "-v",
            "memory:/m",
            BUSYBOX,
            "sleep",
            "600",
        ])
        .ok();
    assert_eq!(run(&["-v", "memory:/data"], look), expected);
    assert_eq!(
        daemon.palan(["exec", "holds", "ls", "-A", "/m"]).ok().stdout,
        "below\ncoloured\nlink\none\ntwo\n"
    );
    daemon.palan(["rm", "-f", "holds"]).ok();
    for volume in directories(&daemon) {
        let beside = std::fs::read_dir(daemon.data_root().join("volumes").join(&volume)).unwrap().count();
        assert_eq!(beside, 1, "nothing but _data in {volume}");
    }
}

#[test]
fn a_filling_that_was_cut_short_is_ended_or_undone() {
    requires!(root);
    let mut daemon = daemon();
    daemon.palan(["volume", "create", "half"]).ok();
    daemon.palan(["volume", "create", "whole"]).ok();
    daemon.kill();
    let make = |volume: &str, stage: &str| {
        let place = daemon.data_root().join("volumes").join(volume).join(stage);
        std::fs::create_dir_all(place.join("content/dir")).unwrap();
        std::fs::write(place.join("content/dir/file"), "content").unwrap();
        std::os::unix::fs::symlink(".", place.join("target")).unwrap();
        std::os::unix::fs::chown(place.join("content"), Some(7), Some(8)).unwrap();
    };
    make("half", ".palan-copy");
    make("whole", ".palan-copied");
    daemon.restart();
    daemon.palan(["ps"]).ok();
    let names = |volume: &str| -> Vec<String> {
        let found = std::fs::read_dir(data(&daemon, volume)).unwrap();
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names("half"), [""; 0]);
    assert_eq!(names("whole"), ["dir"]);
    let root = std::fs::metadata(data(&daemon, "whole")).unwrap();
    assert_eq!((root.uid(), root.gid()), (7, 8));
    for volume in ["half", "whole"] {
        assert_eq!(std::fs::read_dir(daemon.data_root().join("volumes").join(volume)).unwrap().count(), 1);
    }
}

#[test]
fn clones_archives_and_new_names() {
    requires!(root);
    requires!(program "tar");
    let mut daemon = daemon();
    daemon.palan(["volume", "create", "--label", "a=1", "old"]).ok();
    let script = "cd /d; echo x > file; ln file hard; ln -s /etc soft; mkfifo pipe 2>/dev/null || mknod pipe p; mkdir -m 700 dir; \
                  echo y > dir/.wh.odd; chmod 1711 .; chown 33:44 .";
    sh(&daemon, &["-v", "old:/d"], script);
    let look =
        "cd /d; stat -c '%n %a %u %g %h %F' . file hard dir pipe dir/.wh.odd; readlink soft; cat dir/.wh.odd";
    let expected = sh(&daemon, &["-v", "old:/d:ro"], look);
    assert!(expected.starts_with(". 1711 33 44 3 directory\nfile 644 0 0 2 regular file"), "{expected}");

    assert_eq!(daemon.palan(["volume", "clone", "--label", "b=2", "old", "copy"]).ok().line(), "copy");
    assert_eq!(sh(&daemon, &["-v", "copy:/d:ro"], look), expected);
    assert_eq!(inspect(&daemon, "copy")["Labels"], json!({"a": "1", "b": "2"}));
    daemon.palan(["volume", "clone", "old", "copy"]).fails(1, "a volume named copy exists already");
    daemon.palan(["volume", "clone", "nosuch", "x1"]).fails(1, "get nosuch: no such volume");
    daemon.palan(["volume", "clone", "old", "../x"]).fails(1, "invalid characters");

    let archive = daemon.scratch().join("old.tar");
    let path = archive.display().to_string();
    daemon.palan(["volume", "export", "-o", &path, "old"]).ok();
    daemon.palan(["volume", "import", "restored", &path]).ok();
    assert_eq!(sh(&daemon, &["-v", "restored:/d:ro"], look), expected);
    // Piped, and compressed by somebody else.
    let bytes = std::fs::read(&archive).unwrap();
    assert_eq!(
        daemon.palan_with_input(["volume", "import", "--label", "l=1", "piped", "-"], &bytes).ok().line(),
        "piped"
    );
    assert_eq!(sh(&daemon, &["-v", "piped:/d:ro"], look), expected);
    assert_eq!(inspect(&daemon, "piped")["Labels"], json!({"l": "1"}));
    daemon.palan(["volume", "export", "nosuch"]).fails(1, "no such volume");
    daemon.palan_with_input(["volume", "import", "old", "-"], &bytes).fails(1, "exists already");
    daemon
        .palan_with_input(["volume", "import", "broken", "-"], b"no archive at all")
        .fails(1, "cannot import the volume");
    let cut = &bytes[..bytes.len() / 2];
    let run = daemon.palan_with_input(["volume", "import", "broken", "-"], cut);
    assert_ne!(run.code, 0, "{run}");
    let outside = TarBuilder::new().file("../../outside", 0o644, "x").finish();
    daemon.palan_with_input(["volume", "import", "broken", "-"], &outside).fails(1, "outside");
    let link = TarBuilder::new().symlink("way", "/tmp").file("way/palan-escaped", 0o644, "x").finish();
    // The link is one of the volume's: it is replaced or followed inside, never on the host.
    daemon.palan_with_input(["volume", "import", "linked", "-"], &link);
    assert!(!Path::new("/tmp/palan-escaped").exists());
    daemon.palan(["volume", "inspect", "broken"]).fails(1, "no such volume");

    daemon.palan(["volume", "rename", "old", "new"]).ok();
    assert_eq!(sh(&daemon, &["-v", "new:/d:ro"], look), expected);
    assert_eq!(inspect(&daemon, "new")["Labels"], json!({"a": "1"}));
    daemon.palan(["volume", "inspect", "old"]).fails(1, "no such volume");
    daemon.palan(["volume", "rename", "new", "copy"]).fails(1, "exists already");
    daemon.palan(["volume", "rename", "nosuch", "x1"]).fails(1, "no such volume");
    daemon.palan(["create", "--name", "cc", "-v", "new:/d", BUSYBOX]).ok();
    daemon.palan(["volume", "rename", "new", "other"]).fails(1, "rename new: volume is in use");
    daemon.palan(["rm", "cc"]).ok();
    daemon.terminate();
    let entries = || std::fs::read_dir(daemon.data_root().join("volumes")).unwrap();
    let left: Vec<_> = entries().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
    daemon.restart();
    assert_eq!(sh(&daemon, &["-v", "new:/d:ro"], look), expected);
}

#[test]
fn killed_at_any_moment_no_volume_is_half() {
    requires!(root);
    const FILES: usize = 300;
    let mut daemon = daemon();
    let mut tar = TarBuilder::new().directory("data/", 0o755);
    for number in 0..FILES {
        tar = tar.file(&format!("data/{number}"), 0o644, vec![b'x'; 2000]);
    }
    load(&daemon, busybox().layer(tar.finish()), "full");
    daemon.palan(["run", "--rm", "--network", "none", "-v", "base:/data", "full", "true"]).ok();
    daemon.palan(["volume", "create", "empty"]).ok();
    daemon.palan(["volume", "clone", "base", "stable"]).ok();
    let archive = daemon.scratch().join("base.tar");
    daemon.palan(["volume", "export", "-o", archive.to_str().unwrap(), "base"]).ok();
    let mut name = "base".to_owned();
    for round in 0..12_u64 {
        let (new, copy, read) = (format!("base{round}"), format!("copy{round}"), format!("read{round}"));
        let filled = format!("filled{round}:/data");
        let archive = archive.display().to_string();
        let commands: [&[&str]; 5] = [
            &["volume", "rename", &name, &new],
            &["volume", "clone", "stable", &copy],
            &["volume", "import", &read, &archive],
            &["create", "--name", &copy, "-v", &filled, "full"],
            &["create", "-v", "empty:/data", "full"],
        ];
        let started = commands.map(|words| {
            let mut command = daemon.command();
            command.args(words).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            command.spawn().unwrap()
        });
        std::thread::sleep(Duration::from_millis(3 + round * round));
        daemon.kill();
        for mut child in started {
            child.wait().unwrap();
        }
        daemon.restart();
        let listed = daemon.palan(["volume", "ls", "-q"]).ok().stdout;
        let names: Vec<&str> = listed.lines().collect();
        assert_eq!(directories(&daemon), names, "rows and directories are the same");
        for volume in &names {
            let files = std::fs::read_dir(data(&daemon, volume)).unwrap().count();
            assert!(files == 0 || files == FILES, "{volume} has {files} files in round {round}");
            let beside = std::fs::read_dir(daemon.data_root().join("volumes").join(volume)).unwrap().count();
            assert_eq!(beside, 1, "nothing but _data in {volume}");
        }
        let is_new = names.contains(&new.as_str());
        assert!(is_new != names.contains(&name.as_str()), "it has one name: {names:?}");
        if is_new {
            name = new;
        }
        assert_eq!(std::fs::read_dir(data(&daemon, &name)).unwrap().count(), FILES);
    }
}
