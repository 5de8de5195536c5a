//! `palan run`: what a container sees of its flags.

use std::time::Duration;

use palan_test_support::{requires, wait_until};
use serde_json::json;

use crate::images::{BUSYBOX, busybox, daemon, load, sh};

#[test]
fn output_exit_code_and_input() {
    requires!(root);
    let daemon = daemon();
    let run = daemon.palan([
        "run",
        "--rm",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.code), ("out\n", "err\n", 3), "{run}");
    let run =
        daemon.palan_with_input(["run", "--rm", "-i", "--network", "none", BUSYBOX, "cat"], b"line\nlast");
    assert_eq!(run.ok().stdout, "line\nlast");
    // Nothing is there after --rm.
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
}

#[test]
fn large_input_and_output_arrive_whole() {
    requires!(root);
    let daemon = daemon();
    let input: Vec<u8> =
        (0..3_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut command = daemon.command();
    command.args(["run", "--rm", "-i", "--network", "none", BUSYBOX, "cat"]);
    let file = daemon.scratch().join("input");
    std::fs::write(&file, &input).unwrap();
    command.stdin(std::fs::File::open(&file).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
}

#[test]
fn exit_codes_of_what_cannot_start() {
    requires!(root);
    let daemon = daemon();
    let run = |command: &str| daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, command]);
    run("nosuch").fails(127, "exec: \"nosuch\": executable file not found in $PATH");
    run("/nosuch").fails(127, "no such file or directory");
    run("/etc").fails(126, "is a directory");
    run("/etc/passwd").fails(126, "permission denied");
    daemon.palan(["run", "--nosuchflag", BUSYBOX]).fails(125, "unknown flag: --nosuchflag");
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
}

#[test]
fn environment_directory_user_and_host_name() {
    requires!(root);
    let daemon = daemon();
    let file = daemon.scratch().join("env");
    std::fs::write(&file, "# comment\nFROM_FILE=yes\n").unwrap();
    let file = file.display().to_string();
    let flags = ["-e", "A=1", "--env-file", &file, "-w", "/made/here", "-h", "box"];
    assert_eq!(
        sh(&daemon, &flags, "echo $A $FROM_FILE $PWD $(hostname) $HOME"),
        "1 yes /made/here box /root"
    );
    assert_eq!(sh(&daemon, &["-u", "alice"], "id -u; id -g; echo $HOME"), "1000\n1000\n/home/alice");
    assert_eq!(sh(&daemon, &["-u", "1000:50"], "id"), "uid=1000(alice) gid=50(staff) groups=50(staff)");
    assert_eq!(sh(&daemon, &["-u", "4242"], "id -u; id -g"), "4242\n0");
    let run = daemon.palan(["run", "--rm", "--network", "none", "-u", "nobodyhere", BUSYBOX, "true"]);
    run.fails(125, "unable to find user nobodyhere: no matching entries in passwd file");
}

#[test]
fn the_images_configuration_and_what_overrides_it() {
    requires!(root);
    let daemon = daemon();
    let image = busybox()
        .config("Entrypoint", json!(["/bin/echo", "entry"]))
        .config("Cmd", json!(["default"]))
        .config("WorkingDir", json!("/work"))
        .config("User", json!("alice:staff"));
    load(&daemon, image, "configured");
    let run = |arguments: &[&str]| {
        let all = ["run", "--rm", "--network", "none"].iter().chain(arguments);
        daemon.palan(all).ok().line().to_owned()
    };
    assert_eq!(run(&["configured"]), "entry default");
    assert_eq!(run(&["configured", "given"]), "entry given");
    assert_eq!(run(&["--entrypoint", "pwd", "configured"]), "/work");
    assert_eq!(
        run(&["--entrypoint", "/bin/id", "configured"]),
        "uid=1000(alice) gid=50(staff) groups=50(staff)"
    );
}

#[test]
fn resources_are_limited() {
    requires!(root);
    let daemon = daemon();
    let flags = ["-m", "64m", "--pids-limit", "20", "--cpus", "0.5"];
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max \
                  /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/memory.max \
                  /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max";
    let seen = sh(&daemon, &flags, script);
    let words: Vec<&str> = seen.split_whitespace().take(3).collect();
    assert_eq!(words, ["67108864", "20", "50000"]);
    // More memory than allowed ends in the out-of-memory killer, and the engine says so.
    let eater = ["run", "--name", "eater", "--network", "none", "-m", "16m", "--memory-swap", "16m", BUSYBOX];
    let run = daemon.palan(eater.into_iter().chain(["sh", "-c", "x=a; while :; do x=$x$x; done"]));
    assert_eq!(run.code, 137, "{run}");
    let state = daemon.palan(["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "eater"]).ok();
    assert_eq!(state.line(), "true 137");
}

#[test]
fn file_systems() {
    requires!(root);
    let daemon = daemon();
    let shared = daemon.scratch().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();
    let bind = format!("{}:/mnt", shared.display());
    assert_eq!(sh(&daemon, &["-v", &bind], "cat /mnt/file; echo back > /mnt/new"), "from the host");
    assert_eq!(std::fs::read_to_string(shared.join("new")).unwrap(), "back\n");
    let read_only = format!("{bind}:ro");
    assert_eq!(sh(&daemon, &["-v", &read_only], "touch /mnt/x 2>/dev/null || echo refused"), "refused");
    assert_eq!(sh(&daemon, &["--read-only"], "touch /x 2>/dev/null || echo refused"), "refused");
    let tmpfs = ["--read-only", "--tmpfs", "/scratch:size=1m,mode=1777"];
    assert_eq!(
        sh(
            &daemon,
            &tmpfs,
            "echo ok > /scratch/f; cat /scratch/f; df -k /scratch | tail -1 | awk '{print $2}'"
        ),
        "ok\n1024"
    );
    // -v makes a missing source, as Docker's does.
    let missing = format!("{}/made:/m", shared.display());
    assert_eq!(sh(&daemon, &["-v", &missing], "ls -d /m"), "/m");
    assert!(shared.join("made").is_dir());
}

#[test]
fn volumes_of_the_image_are_filled_and_removed() {
    requires!(root);
    let daemon = daemon();
    let layer = palan_test_support::image::TarBuilder::new()
        .directory("data/", 0o750)
        .file("data/seed", 0o640, "seed")
        .finish();
    load(&daemon, busybox().layer(layer).config("Volumes", json!({"/data": {}})), "volume");
    let run = daemon.palan([
        "run",
        "--rm",
        "--network",
        "none",
        "volume",
        "sh",
        "-c",
        "cat /data/seed; stat -c ' %a' /data",
    ]);
    assert_eq!(run.ok().line(), "seed 750");
    assert_eq!(daemon.palan(["volume", "ls", "-q"]).ok().stdout, "");
    // Its content is deleted in the background.
    let left = || std::fs::read_dir(daemon.data_root().join("volumes")).unwrap().count();
    assert!(wait_until(Duration::from_secs(30), || left() == 0));
    // Without --rm the volume stays until `rm -v`.
    daemon
        .palan([
            "run",
            "--name",
            "keeper",
            "--network",
            "none",
            "volume",
            "sh",
            "-c",
            "echo more > /data/more",
        ])
        .ok();
    assert_eq!(std::fs::read_dir(daemon.data_root().join("volumes")).unwrap().count(), 1);
    daemon.palan(["rm", "-v", "keeper"]).ok();
    assert!(wait_until(Duration::from_secs(30), || left() == 0));
}

#[test]
fn privileges() {
    requires!(root);
    let daemon = daemon();
    let status = |flags: &[&str], field: &str| {
        sh(&daemon, flags, &format!("grep {field}: /proc/self/status | cut -f 2"))
    };
    // Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
    // sys_chroot, mknod, audit_write, setfcap.
    assert_eq!(status(&[], "CapEff"), "00000000a80425fb");
    assert_eq!(status(&[], "CapBnd"), "00000000a80425fb");
    assert_eq!(status(&[], "CapInh"), "0000000000000000");
    assert_eq!(status(&["--cap-drop", "ALL"], "CapEff"), "0000000000000000");
    assert_eq!(status(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], "CapEff"), "0000000000001000");
    assert_eq!(status(&["-u", "alice"], "CapEff"), "0000000000000000");
    assert_eq!(status(&[], "NoNewPrivs"), "0");
    assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    assert_eq!(status(&[], "Seccomp"), "2");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
    assert_eq!(status(&["--privileged"], "Seccomp"), "0");
    assert_eq!(sh(&daemon, &[], "unshare -U true 2>/dev/null || echo refused"), "refused");
    assert_eq!(sh(&daemon, &[], "mount -t tmpfs x /tmp 2>/dev/null || echo refused"), "refused");
    assert_eq!(
        sh(&daemon, &[], "echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused"),
        "refused"
    );
    assert_eq!(sh(&daemon, &[], "cat /proc/kcore | wc -c"), "0");
}

#[test]
fn init_reaps_and_forwards() {
    requires!(root);
    let daemon = daemon();
    let script = "(sleep 0.1 &); sleep 0.5; \
                  for n in $(seq 50); do ps -o stat | grep -q Z || break; sleep 0.1; done; ps -o pid,stat,comm";
    let seen = sh(&daemon, &["--init"], script);
    assert!(!seen.contains('Z'), "a zombie is left:\n{seen}");
    assert_eq!(sh(&daemon, &["--init"], "echo $$ | grep -vx 1 >/dev/null && echo not first"), "not first");
    daemon.palan(["run", "-d", "--name", "ii", "--init", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon.palan(["stop", "-t", "10", "ii"]).ok();
    let code = daemon.palan(["inspect", "-f", "{{.State.ExitCode}}", "ii"]).ok();
    assert_eq!(code.line(), "143");
}

#[test]
fn container_id_file_labels_and_names() {
    requires!(root);
    let daemon = daemon();
    let file = daemon.scratch().join("cid");
    let cidfile = file.display().to_string();
    let run = daemon.palan([
        "run",
        "-d",
        "--cidfile",
        &cidfile,
        "--label",
        "a=b",
        "--network",
        "none",
        BUSYBOX,
        "sleep",
        "100",
    ]);
    let id = run.ok().line().to_owned();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id);
    assert_eq!(id.len(), 64);
    let label = daemon.palan(["inspect", "--format", "{{index .Config.Labels \"a\"}}", &id[..12]]).ok();
    assert_eq!(label.line(), "b");
    let listed = daemon.palan(["ps", "--filter", "label=a=b", "--format", "{{.ID}}"]).ok();
    assert_eq!(listed.line(), &id[..12]);
    let again = daemon.palan(["run", "-d", "--cidfile", &cidfile, "--network", "none", BUSYBOX, "true"]);
    again.fails(125, "container ID file found, make sure the other container isn't running or delete");
}
