//! What is mounted into containers: the forms of `-v`, `--mount` and `--tmpfs`, parts of volumes, images, how far read-only goes,
//! and what is refused.

use std::os::unix::fs::symlink;
use std::path::Path;

use palan_test_support::daemon::{Daemon, Options, Run};
use palan_test_support::image::TarBuilder;
use palan_test_support::requires;
use serde_json::{Value, json};

use crate::images::{BUSYBOX, busybox, daemon, daemon_with, load, sh};
use crate::volumes::{directories, inspect, waiting};

/// `run --rm` with these flags and this script.
fn run(daemon: &Daemon, flags: &[&str], script: &str) -> Run {
    let first = ["run", "--rm", "--network", "none"];
    daemon.palan(first.iter().chain(flags).chain(&[BUSYBOX, "sh", "-c", script]))
}

/// A volume with what leads out of it and what does not.
fn maze(daemon: &Daemon) {
    let script = "cd /v; echo foo > bar.txt; mkdir bin subdir hack; echo world > subdir/hello.txt; ln -s / hack/root; \
                  ln -s ../subdir hack/good; ln -s root hack/bad; ln -s ../../../../../../etc hack/up; ln -s /proc/self/root hack/magic";
    sh(daemon, &["-v", "maze:/v"], script);
}

#[test]
fn a_part_of_a_volume() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    maze(&daemon);
    let part = |subpath: &str, command: &[&str]| {
        let mount = format!("type=volume,src=maze,dst=/volume,volume-subpath={subpath}");
        let first = ["run", "--rm", "--network", "none", "--mount", &mount, BUSYBOX];
        let ours = daemon.palan(first.iter().chain(command));
        let theirs = daemon.docker(first.iter().chain(command));
        assert_eq!((&ours.stdout, ours.code), (&theirs.stdout, theirs.code), "{ours}{theirs}");
        ours
    };
    assert_eq!(part("subdir", &["ls", "/volume"]).ok().line(), "hello.txt");
    assert_eq!(part("hack/good", &["ls", "/volume"]).ok().line(), "hello.txt");
    assert_eq!(part("subdir/hello.txt", &["cat", "/volume"]).ok().line(), "world");
    assert_eq!(part("subdir/../bar.txt", &["cat", "/volume"]).ok().line(), "foo");
    for subpath in ["../../../../../../etc/passwd", "/etc/passwd", ".."] {
        part(subpath, &["cat", "/volume"]).fails(125, "subpath must be a relative path within the volume");
    }
    for subpath in ["hack/root", "hack/bad", "hack/up", "hack/magic", "hack/root/etc"] {
        let run = part(subpath, &["ls", "/volume"]);
        assert!(
            run.code != 0 && run.stderr.contains("path concatenation escapes the base directory"),
            "{run}"
        );
    }
    part("some-path/that/doesnt-exist", &["ls"]).fails(127, "cannot access path ");
    // What is written there is in the volume.
    let mount = "type=volume,src=maze,dst=/p,volume-subpath=subdir";
    sh(&daemon, &["--mount", mount], "echo new > /p/new");
    assert_eq!(sh(&daemon, &["-v", "maze:/v"], "cat /v/subdir/new"), "new");
    let readonly = format!("{mount},readonly");
    assert!(sh(&daemon, &["--mount", &readonly], "touch /p/x 2>&1; true").contains("Read-only"));
    let old = daemon
        .docker_command()
        .env("DOCKER_API_VERSION", "1.44")
        .args(["run", "--rm", "--mount", mount, BUSYBOX])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&old.stderr).contains("needs API v1.45 or newer"), "{old:?}");
}

fn shown_image() -> palan_test_support::image::ImageBuilder {
    let tar = TarBuilder::new()
        .file("foo", 0o644, "bar")
        .directory("subdir/", 0o755)
        .file("subdir/hello", 0o755, "world")
        .directory("hack/", 0o755)
        .symlink("hack/good", "../subdir")
        .symlink("hack/bad", "../../../../../docker")
        .finish();
    palan_test_support::image::ImageBuilder::new().layer(tar)
}

#[test]
fn an_image_as_a_mount() {
    requires!(root);
    let mut daemon = daemon();
    load(&daemon, shown_image(), "shown");
    let image = |more: &str, command: &[&str]| {
        let mount = format!("type=image,source=shown,target=/image{more}");
        let first = ["run", "--rm", "--network", "none", "--mount", &mount, BUSYBOX];
        daemon.palan(first.iter().chain(command))
    };
    assert_eq!(image("", &["cat", "/image/foo"]).ok().line(), "bar");
    assert_eq!(image("", &["ls", "-A", "/image"]).ok().stdout, "foo\nhack\nsubdir\n");
    image("", &["touch", "/image/x"]).fails(1, "Read-only");
    assert_eq!(image(",image-subpath=subdir", &["ls", "/image"]).ok().line(), "hello");
    assert_eq!(image(",image-subpath=hack/good", &["ls", "/image"]).ok().line(), "hello");
    assert_eq!(image(",image-subpath=subdir/hello", &["cat", "/image"]).ok().line(), "world");
    let run = image(",image-subpath=hack/bad", &["ls", "/image"]);
    assert!(run.code != 0 && run.stderr.contains("path concatenation escapes the base directory"), "{run}");
    image(",image-subpath=../../etc", &["ls"])
        .fails(125, "subpath must be a relative path within the volume");
    image(",image-subpath=nothing", &["ls"]).fails(127, "cannot access path ");
    let nosuch = ["run", "--rm", "--pull", "never", "--mount", "type=image,src=nosuch,dst=/i", BUSYBOX];
    daemon.palan(nosuch).fails(125, "No such image: nosuch");

    // Twice, and the image may go.
    let (one, two) =
        ("type=image,src=shown,dst=/etc/one", "type=image,src=shown,dst=/etc/two,image-subpath=subdir");
    waiting(&daemon, "user", &["--mount", one, "--mount", two]);
    let script = "cat /etc/one/foo /etc/two/hello";
    assert_eq!(daemon.palan(["exec", "user", "sh", "-c", script]).ok().line(), "barworld");
    let mut mounts = inspect(&daemon, "user")["Mounts"].as_array().unwrap().clone();
    mounts.sort_by_key(|mount| mount["Destination"].to_string());
    assert_eq!(
        (&mounts[0]["Type"], &mounts[0]["Name"], &mounts[0]["RW"], mounts.len()),
        (&json!("image"), &json!("shown"), &json!(false), 2)
    );
    let id = inspect(&daemon, "user")["Id"].as_str().unwrap()[..12].to_owned();
    daemon.palan(["rmi", "shown"]).fails(1, &format!("container {id} is using its referenced image"));
    daemon.palan(["image", "prune", "-a", "-f"]).ok();
    daemon.palan(["stop", "-t", "0", "user"]).ok();
    daemon.palan(["rmi", "-f", "shown"]).ok();
    daemon.terminate();
    daemon.restart();
    daemon.palan(["start", "user"]).ok();
    assert_eq!(daemon.palan(["exec", "user", "sh", "-c", script]).ok().line(), "barworld");
    daemon.palan(["rm", "-f", "user"]).ok();
}

#[test]
fn another_runtime_gets_the_same() {
    requires!(root);
    requires!(program "runc");
    let settings = r#""runtimes": {"runc": {"path": "runc"}}"#.to_owned();
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    maze(&daemon);
    load(&daemon, shown_image(), "shown");
    let flags = [
        "--runtime",
        "runc",
        "--mount",
        "src=maze,dst=/part,volume-subpath=subdir",
        "--mount",
        "type=image,src=shown,dst=/image",
        "--mount",
        "type=image,src=shown,dst=/file,image-subpath=foo",
        "--mount",
        "src=maze,dst=/bar,volume-subpath=bar.txt,readonly",
    ];
    let script =
        "cat /part/hello.txt /image/foo /file /bar; echo; touch /image/x /bar 2>&1 | grep -c Read-only";
    assert_eq!(sh(&daemon, &flags, script), "world\nbarbarfoo\n\n2");
    let bad = ["--runtime", "runc", "--mount", "src=maze,dst=/part,volume-subpath=hack/bad"];
    let run = run(&daemon, &bad, "true");
    assert!(run.code != 0 && run.stderr.contains("path concatenation escapes the base directory"), "{run}");
}

#[test]
fn how_far_read_only_goes() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let host = daemon.scratch().join("host");
    std::fs::create_dir_all(host.join("below")).unwrap();
    let below = host.join("below");
    rustix::mount::mount("tmpfs", &below, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    std::fs::write(below.join("file"), "").unwrap();
    let outcome = std::panic::catch_unwind(|| {
        let bind = format!("type=bind,src={},dst=/h", host.display());
        let look = |flags: &[&str]| {
            let script = "touch /h/x 2>/dev/null && echo -n rw || echo -n ro; touch /h/below/y 2>/dev/null && echo ' rw' || echo ' ro'; \
                          ls /h/below | grep -c file; true";
            sh(&daemon, flags, script).replace('\n', " ")
        };
        let mount = |more: &str| look(&["--mount", &format!("{bind}{more}")]);
        assert_eq!(mount(""), "rw rw 1");
        assert_eq!(mount(",readonly"), "ro ro 1");
        assert_eq!(mount(",readonly,bind-recursive=enabled"), "ro ro 1");
        assert_eq!(mount(",readonly,bind-recursive=writable"), "ro rw 1");
        assert_eq!(mount(",readonly,bind-recursive=readonly,bind-propagation=rprivate"), "ro ro 1");
        assert_eq!(mount(",readonly,bind-recursive=disabled"), "ro ro 0");
        assert_eq!(mount(",bind-recursive=disabled"), "rw rw 0");
        let short = format!("{}:/h:ro", host.display());
        assert_eq!(look(&["-v", &short]), "ro ro 1");
        // Clients of before API 1.44 know of no other way.
        let old = |version: &str, flag: &str, value: &str| {
            let script = "touch /h/below/y 2>/dev/null && echo rw || echo ro";
            let mut command = daemon.docker_command();
            command.env("DOCKER_API_VERSION", version);
            let output = command
                .args(["run", "--rm", "--network", "none", flag, value, BUSYBOX, "sh", "-c", script])
                .output();
            let output = output.unwrap();
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        };
        let long = format!("{bind},readonly");
        for (flag, value) in [("-v", short.as_str()), ("--mount", long.as_str())] {
            assert_eq!(old("1.43", flag, value), "rw\n");
            assert_eq!(old("1.44", flag, value), "ro\n");
        }
    });
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
    for (text, error) in [
        ("bind-recursive=writable", "requires 'readonly'"),
        ("readonly,bind-recursive=readonly", "requires 'bind-propagation=rprivate'"),
        ("bind-recursive=never", "must be \"enabled\""),
    ] {
        let mount = format!("type=bind,src=/tmp,dst=/h,{text}");
        run(&daemon, &["--mount", &mount], "true").fails(125, error);
    }
}

#[test]
fn what_is_mounted_on_the_host_later_comes_in_where_it_is_asked_for() {
    requires!(root);
    let daemon = daemon();
    let host = daemon.scratch().join("shared");
    std::fs::create_dir(&host).unwrap();
    rustix::mount::mount_bind(&host, &host).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        rustix::mount::mount_change(&host, rustix::mount::MountPropagationFlags::PRIVATE).unwrap();
        for (mode, kinds) in [("rshared", "shared"), ("slave", "shared or slave")] {
            let volume = format!("{}:/h:{mode}", host.display());
            let text = format!("path {0} is mounted on {0} but it is not a {kinds} mount", host.display());
            let refused = run(&daemon, &["-v", &volume], "true");
            assert!(refused.code != 0 && refused.stderr.contains(&text), "{refused}");
        }
        rustix::mount::mount_change(&host, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        std::fs::create_dir(host.join("later")).unwrap();
        let source = host.display().to_string();
        waiting(&daemon, "private", &["-v", &format!("{source}:/h")]);
        waiting(&daemon, "slave", &["-v", &format!("{source}:/h:rslave,ro")]);
        waiting(
            &daemon,
            "shared",
            &["--mount", &format!("type=bind,src={source},dst=/h,bind-propagation=rshared")],
        );
        rustix::mount::mount("tmpfs", host.join("later"), "tmpfs", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        std::fs::write(host.join("later/seen"), "").unwrap();
        let sees = |name: &str| daemon.palan(["exec", name, "test", "-e", "/h/later/seen"]).code == 0;
        assert_eq!((sees("private"), sees("slave"), sees("shared")), (false, true, true));
        for name in ["private", "slave", "shared"] {
            let propagation = inspect(&daemon, name)["Mounts"][0]["Propagation"].clone();
            let expected = if name == "private" { "rprivate".to_owned() } else { format!("r{name}") };
            assert_eq!(propagation, json!(expected));
            daemon.palan(["rm", "-f", name]).ok();
        }
    });
    rustix::mount::unmount(host.join("later"), rustix::mount::UnmountFlags::DETACH).ok();
    rustix::mount::unmount(&host, rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}

#[test]
fn sources_that_are_missing() {
    requires!(root);
    let daemon = daemon();
    let scratch = daemon.scratch().to_owned();
    let at = |name: &str| scratch.join(name).display().to_string();
    assert_eq!(sh(&daemon, &["-v", &format!("{}:/d", at("made/for/it"))], "ls -d /d"), "/d");
    assert!(scratch.join("made/for/it").is_dir());
    let mount = format!("type=bind,src={},dst=/d", at("missing"));
    let text =
        format!("invalid mount config for type \"bind\": bind source path does not exist: {}", at("missing"));
    run(&daemon, &["--mount", &mount], "true").fails(125, &text);
    assert!(!scratch.join("missing").exists());
    sh(&daemon, &["--mount", &format!("{mount},bind-create-src")], "true");
    assert!(scratch.join("missing").is_dir());
    // A link of the host's is followed, as the kernel does; one to nothing is no place for a directory.
    std::fs::write(scratch.join("file"), "content").unwrap();
    symlink("file", scratch.join("link")).unwrap();
    assert_eq!(sh(&daemon, &["-v", &format!("{}:/f", at("link"))], "cat /f"), "content");
    symlink("nothing", scratch.join("dangling")).unwrap();
    let dangling = run(&daemon, &["-v", &format!("{}:/f", at("dangling"))], "true");
    assert!(
        dangling.code != 0 && dangling.stderr.contains("error while creating mount source path"),
        "{dangling}"
    );
    // One that went after the container was made.
    daemon.palan(["create", "--name", "late", "-v", &format!("{}:/d", at("missing")), BUSYBOX, "true"]).ok();
    std::fs::remove_dir(scratch.join("missing")).unwrap();
    let late = daemon.palan(["start", "late"]);
    assert!(late.code != 0 && late.stderr.contains(&at("missing")), "{late}");
    daemon.palan(["rm", "late"]).ok();
    // A relative one, from where the user stands.
    let mut command = daemon.command();
    let relative = ["run", "--rm", "--network", "none", "-v", "./made:/m", BUSYBOX, "ls", "/m"];
    let output = command.current_dir(&scratch).args(relative).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "for\n", "{output:?}");
}

#[test]
fn inspect_shows_mounts_as_docker_does() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    load(&daemon, busybox().config("Volumes", json!({"/image": {}})), "withvolume");
    let host = daemon.scratch().join("host");
    std::fs::create_dir(&host).unwrap();
    let bind = format!("{}:/bind:ro,z", host.display());
    let long = format!("type=bind,src={},dst=/long,readonly", host.display());
    let flags = [
        "create",
        "--name",
        "cc",
        "-v",
        &bind,
        "-v",
        "named:/named",
        "-v",
        "named:/again:ro",
        "-v",
        "/anonymous",
        "--mount",
        &long,
        "--mount",
        "src=other,dst=/other",
        "--tmpfs",
        "/tmpfs:size=1m",
        "--mount",
        "type=tmpfs,dst=/memory,tmpfs-size=1m",
        "withvolume",
    ];
    daemon.docker(flags).ok();
    let details = inspect(&daemon, "cc");
    let mut mounts = details["Mounts"].as_array().unwrap().clone();
    mounts.sort_by_key(|mount| mount["Destination"].to_string());
    let source =
        |volume: &str| daemon.data_root().join("volumes").join(volume).join("_data").display().to_string();
    let anonymous: Vec<(String, String)> = mounts
        .iter()
        .filter(|mount| mount["Name"].as_str().is_some_and(|name| name.len() == 64))
        .map(|mount| (mount["Destination"].as_str().unwrap().into(), mount["Name"].as_str().unwrap().into()))
        .collect();
    assert_eq!(
        anonymous.iter().map(|(place, _)| place.as_str()).collect::<Vec<_>>(),
        ["/anonymous", "/image"]
    );
    let volume = |name: &str, destination: &str, mode: &str, rw: bool| {
        json!({"Type": "volume", "Name": name, "Source": source(name), "Destination": destination, "Driver": "local",
               "Mode": mode, "RW": rw, "Propagation": ""})
    };
    let expected = json!([
        volume("named", "/again", "ro", false),
        volume(&anonymous[0].1, "/anonymous", "", true),
        {"Type": "bind", "Source": host, "Destination": "/bind", "Mode": "ro,z", "RW": false, "Propagation": "rprivate"},
        volume(&anonymous[1].1, "/image", "", true),
        {"Type": "bind", "Source": host, "Destination": "/long", "Mode": "", "RW": false, "Propagation": "rprivate"},
        {"Type": "tmpfs", "Source": "", "Destination": "/memory", "Mode": "", "RW": true, "Propagation": ""},
        volume("named", "/named", "z", true),
        volume("other", "/other", "z", true),
    ]);
    assert_eq!(Value::Array(mounts), expected);
    assert_eq!(details["HostConfig"]["Tmpfs"], json!({"/tmpfs": "size=1m"}));
    assert_eq!(details["HostConfig"]["Binds"].as_array().unwrap().len(), 3);
    // Those of another container.
    daemon.palan(["create", "--name", "from", "--volumes-from", "cc:ro", BUSYBOX]).ok();
    let inherited = inspect(&daemon, "from")["Mounts"].as_array().unwrap().clone();
    assert!(inherited.iter().all(|mount| mount["RW"] == false), "{inherited:?}");
    assert!(inherited.iter().any(|mount| mount["Destination"] == "/named" && mount["Name"] == "named"));
    daemon.palan(["create", "--volumes-from", "nosuch", BUSYBOX]).fails(1, "No such container: nosuch");
    daemon.palan(["create", "--volumes-from", "cc:fast", BUSYBOX]).fails(1, "invalid mode: fast");
    assert_eq!(
        daemon.palan(["ps", "-aq", "--no-trunc", "-f", "volume=named"]).ok().stdout.lines().count(),
        2
    );
}

#[test]
fn volumes_of_another_container() {
    requires!(root);
    let daemon = daemon();
    waiting(&daemon, "keeps", &["-v", "data:/data", "-v", "/own"]);
    daemon.palan(["exec", "keeps", "sh", "-c", "echo d > /data/f; echo o > /own/f"]).ok();
    assert_eq!(sh(&daemon, &["--volumes-from", "keeps"], "cat /data/f /own/f"), "d\no");
    assert!(sh(&daemon, &["--volumes-from", "keeps:ro"], "touch /data/x 2>&1; true").contains("Read-only"));
    // What is asked for by name wins.
    assert_eq!(sh(&daemon, &["--volumes-from", "keeps", "-v", "fresh:/data"], "ls /data; cat /own/f"), "o");
    daemon.palan(["rm", "-f", "-v", "keeps"]).ok();
    assert_eq!(directories(&daemon), ["data", "fresh"]);
}

#[test]
fn memory_as_a_mount() {
    requires!(root);
    let daemon = daemon();
    let flags = [
        "--tmpfs",
        "/a:size=64k,mode=1770,exec",
        "--mount",
        "type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=0700",
    ];
    let script = "stat -c %a /a /b; grep -E ' /(a|b) ' /proc/mounts";
    let shown = sh(&daemon, &flags, script);
    assert!(shown.starts_with("1770\n700\n"), "{shown}");
    assert!(shown.contains("size=64k") && shown.contains("size=1024k"), "{shown}");
    assert_eq!(shown.matches("noexec").count(), 1, "/a may execute: {shown}");
    assert!(
        sh(&daemon, &["--mount", "type=tmpfs,dst=/t,readonly"], "touch /t/x 2>&1; true")
            .contains("Read-only")
    );
}

#[test]
fn what_contradicts_itself_is_refused_and_leaves_nothing() {
    requires!(root);
    let daemon = daemon();
    let names = || daemon.palan(["ps", "-aq"]).ok().stdout;
    for (flags, text) in [
        (&["-v", "a1:/x", "-v", "b1:/x"][..], "Duplicate mount point: /x"),
        (&["-v", "a1:/x", "--mount", "src=b1,dst=/x"], "Duplicate mount point: /x"),
        (&["-v", "a1:/x", "--tmpfs", "/x"], "Duplicate mount point: /x"),
        (&["-v", "a1:/x:ro,rw"], "invalid mode: ro,rw"),
        (&["-v", "a1:/x:rshared"], "invalid mode: rshared"),
        (&["-v", "/tmp:/x:nocopy"], "invalid mode: nocopy"),
        (&["-v", "/tmp:/x:fast"], "invalid mode: fast"),
        (&["-v", "a1:relative"], "mount path must be absolute"),
        (&["-v", "/tmp:/"], "destination can't be '/'"),
        (&["-v", "a/b:/x"], "includes invalid characters for a local volume name"),
        (
            &["--mount", "type=volume,dst=/x,readonly"],
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            &["--mount", "type=volume,dst=/x,volume-subpath=a"],
            "must not set Subpath when using anonymous volumes",
        ),
        (&["--mount", "type=volume,src=a1,dst=/x,volume-driver=nosuch"], "plugin \"nosuch\" not found"),
        (&["--mount", "type=volume,src=a1,dst=/x,volume-opt=colour=red"], "invalid option: \"colour\""),
        (&["--mount", "type=bind,dst=/x"], "field Source must not be empty"),
        (&["--mount", "type=tmpfs,dst=/x,src=y"], "field Source must not be specified"),
        (&["--mount", "type=bind,src=/tmp,dst=/x,volume-nocopy"], "cannot mix"),
        (&["--mount", "type=sparse,dst=/x"], "mount type unknown"),
        (&["--mount", "type=image,dst=/x"], "field Source must not be empty"),
        (&["--volume-driver", "nosuch", "-v", "a1:/x"], "plugin \"nosuch\" not found"),
    ] {
        let run = run(&daemon, flags, "true");
        assert!(run.code == 125 && run.stderr.contains(text), "{flags:?}: {run}");
        assert_eq!(names(), "", "{flags:?}");
        assert_eq!(directories(&daemon), [""; 0], "{flags:?}");
    }
    // Labels and options of a volume that the mount makes.
    let mount = "src=made,dst=/x,volume-label=a=1,\"volume-opt=type=tmpfs\",volume-opt=device=tmpfs,\"volume-opt=o=size=1m,mode=700\"";
    assert_eq!(sh(&daemon, &["--mount", mount], "stat -c %a /x"), "700");
    let made = inspect(&daemon, "made");
    assert_eq!((&made["Labels"], &made["Options"]["o"]), (&json!({"a": "1"}), &json!("size=1m,mode=700")));
    assert!(Path::new(made["Mountpoint"].as_str().unwrap()).is_dir());
}
