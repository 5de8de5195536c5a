//! Descriptors of the host, and the runtime's own program, in reach of the container.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use palan_test_support::bundle::Bundle;
use palan_test_support::requires;
use serde_json::json;

/// CVE-2024-21626 (runc): a working directory through a descriptor that the runtime has left open is a directory of the host.
#[test]
fn no_working_directory_is_outside_of_the_root() {
    requires!(root);
    // What a container would see of the host from there, however deep the directory is.
    let look = "pwd -P; for up in . .. ../.. ../../.. ../../../.. ../../../../.. ../../../../../..; do
        test -e $up/bin/busybox || ls $up; done; cat ../../../../../../../../etc/hostname 2>/dev/null; true";
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    for number in 3..64 {
        for path in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../..")] {
            let mut bundle = Bundle::script(look);
            bundle.spec["process"]["cwd"] = json!(path);
            let run = bundle.run();
            assert_ne!(run.code, 0, "{path}: {run}");
        }
    }
    // The same as a link in the image, which a runtime finds only on its way.
    for number in 3..16 {
        let mut bundle = Bundle::script(look);
        symlink(format!("/proc/self/fd/{number}"), bundle.rootfs().join("work")).unwrap();
        bundle.spec["process"]["cwd"] = json!("/work");
        let run = bundle.run();
        assert!(run.code != 0 || run.stdout.starts_with("/work\n"), "{number}: {run}");
        assert!(host.is_empty() || !run.stdout.contains(&host), "{number}: {run}");
    }
}

/// CVE-2024-21626 (runc) by `exec --cwd`: also through process 1's descriptors, and a link made by the container.
#[test]
fn no_working_directory_of_exec_is_outside_of_the_root() {
    requires!(root);
    let bundle = Bundle::new(&["sleep", "1000"]);
    let running = bundle.start();
    for number in 3..64 {
        for path in [format!("/proc/self/fd/{number}"), format!("/proc/1/fd/{number}"), "/link".to_owned()] {
            let link = bundle.rootfs().join("link");
            std::fs::remove_file(&link).ok();
            symlink(format!("/proc/self/fd/{number}"), link).unwrap();
            let run = running.exec(&["--cwd", &path], &["pwd", "-P"]);
            assert_ne!(run.code, 0, "{path} to {number}: {run}");
        }
    }
}

/// CVE-2016-9962 (runc): a process that enters a container can be looked into, with CAP_SYS_PTRACE, before it has closed what it
/// has of the host.
#[test]
fn an_entering_process_shows_nothing_of_the_host() {
    requires!(root);
    // Its standard error is the harness's file of errors.
    let script = "while :; do for p in /proc/[0-9]*; do
            [ $p = /proc/1 ] || ls -l $p/fd $p/cwd $p/root $p/exe 2>/dev/null
        done; done | sed -n 's/.* -> //p' | grep -v '^pipe:\\|^/dev/null\\|^/proc/\\|^socket:\\|^/tmp/seen\\|/errors$' >> /tmp/seen";
    let mut bundle = Bundle::script(script);
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
    }
    let seen = bundle.rootfs().join("tmp/seen");
    let seen = || std::fs::read_to_string(&seen).unwrap_or_default();
    let running = bundle.start();
    let deadline = Instant::now() + Duration::from_secs(60);
    for number in 0.. {
        running.exec(&[], &["true"]).ok();
        if number >= 100 && (seen().contains("/bin/busybox\n") || Instant::now() > deadline) {
            break;
        }
    }
    drop(running);
    let seen = seen();
    // The watcher writes in blocks, so the last line may be half a line.
    let complete = seen.rsplit_once('\n').map_or("", |(complete, _)| complete);
    assert!(complete.contains("/bin/busybox\n"), "the watcher has seen nothing");
    let own = |target: &&str| !matches!(*target, "/" | "/bin/busybox");
    let foreign: Vec<_> = complete.lines().filter(own).collect();
    assert!(foreign.is_empty(), "{} lines, the first is {:?}", foreign.len(), foreign[0]);
}

/// The runtime's program as a file that nothing else depends on, should it be written to.
fn copy_of_the_runtime(bundle: &Bundle) -> PathBuf {
    let copy = bundle.path().join("runtime");
    std::fs::copy(bundle.command().get_program(), &copy).unwrap();
    copy
}

/// CVE-2019-5736 (runc): a container whose programs are `#!/proc/self/exe` makes the runtime execute itself inside, and a
/// process of the container gets hold of that file of the host by `/proc/<pid>/exe`, to write to it when it is no longer
/// busy.
#[test]
#[expect(clippy::disallowed_methods, reason = "a copy of the product, run as a user does")]
fn the_runtimes_program_is_not_written_to() {
    requires!(root);
    use std::process::Command;
    let bundle = Bundle::script(
        "printf '#!/proc/self/exe\\n' > /bin/trap; chmod 755 /bin/trap
        while :; do for p in /proc/[0-9]*; do
            case $p in /proc/1|/proc/$$) continue;; esac
            exe=$(readlink $p/exe 2>/dev/null) || continue
            case $exe in /bin/busybox) continue;; esac
            # A file that is not the image's: held open, and tried until nobody runs it. A shell that cannot open it ends.
            (
                exec 7<$p/exe
                echo \"held $exe\" >> /tmp/log
                for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
                    { echo overwritten > /proc/self/fd/7; } 2>/dev/null && echo wrote >> /tmp/log && break
                    usleep 5000
                done
            ) 2>/dev/null
        done; done",
    );
    let program = copy_of_the_runtime(&bundle);
    let before = std::fs::read(&program).unwrap();
    std::fs::write(bundle.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let call = |words: &[&str]| {
        let original = bundle.command();
        let mut command = Command::new(&program);
        command.args(original.get_args()).args(words).current_dir(bundle.path());
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null()).status()
    };
    assert!(call(&["run", "--detach", bundle.id()]).unwrap().success());
    for _ in 0..40 {
        // Fails when the program is no program any more.
        let _ = call(&["exec", bundle.id(), "/bin/trap"]);
        let _ = call(&["exec", bundle.id(), "true"]);
    }
    let log = std::fs::read_to_string(bundle.rootfs().join("tmp/log")).unwrap_or_default();
    let same = std::fs::read(&program).unwrap() == before;
    std::fs::write(&program, &before).unwrap();
    let _ = call(&["delete", "--force", bundle.id()]);
    assert!(same && !log.contains("wrote"), "{log}");
}

/// CVE-2019-5736 (runc) from the first process on: the image's entry point is the runtime itself.
#[test]
fn an_entry_point_does_not_run_the_runtime_again() {
    requires!(root);
    let bundle = Bundle::new(&["/entry"]);
    let entry = bundle.rootfs().join("entry");
    std::fs::write(&entry, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&entry, PermissionsExt::from_mode(0o755)).unwrap();
    let run = bundle.run();
    assert!(run.code != 0 && run.stdout.is_empty(), "{run}");
}

/// CVE-2024-21626: what a container starts with, and what a container that waits for its start holds meanwhile.
#[test]
fn no_descriptor_of_the_host_is_open() {
    requires!(root);
    let bundle = Bundle::new(&["ls", "/proc/self/fd"]);
    assert_eq!(bundle.run().ok().stdout, "0\n1\n2\n3\n");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let running = bundle.start();
    let open =
        running.exec(&[], &["sh", "-c", "ls /proc/1/fd; readlink /proc/1/cwd; readlink /proc/1/root"]).ok();
    assert_eq!(open.stdout, "0\n1\n2\n/\n/\n");
}
