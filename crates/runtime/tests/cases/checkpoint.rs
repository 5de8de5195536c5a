//! Checkpoints, by the command line: what runs goes on where it was. The cases are those of runc's own tests
//! (`checkpoint.bats`) and what else users do; each that Palan fails must fail with runc on this machine too.

pub(crate) mod bench;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use palan_linux::signal::Signal;
use palan_linux::{process, socket};
use palan_oci::runtime_spec::{Mount, NamespaceKind};

use palan_runtime::cgroup::{Cgroup, Place};

use crate::support::pipe;
use bench::{Bench, Verdict, check, missing, program, round_trips, until};

pub(crate) fn memory_survives() {
    check(|bench| {
        bench.write(|_| {});
        round_trips(bench)
    });
}

/// The same without a cgroup namespace of its own, where its cgroup mounts show the host's directories.
pub(crate) fn without_a_cgroup_namespace() {
    check(|bench| {
        bench.write(|sandbox| {
            sandbox.linux().namespaces.retain(|namespace| namespace.kind != NamespaceKind::Cgroup);
        });
        round_trips(bench)
    });
}

pub(crate) fn leaves_running() {
    check(|bench| {
        bench.write(|_| {});
        bench.run()?;
        let pid = bench.pid();
        bench.checkpoint(&["--leave-running"])?;
        let before = bench.count();
        bench.counts_on(before)?;
        if bench.pid() != pid {
            return Err("it is another process".to_owned());
        }
        // It goes on to far more than the images know, ends, and is restored to what they know.
        until(|| bench.count() > before + 200)?;
        bench.quiet(&["delete", "--force", "c"])?;
        std::fs::write(bench.sandbox.rootfs().join("tmp/count"), "0").unwrap();
        bench.restore(&[])?;
        until(|| bench.count() > 0)?;
        let restored = bench.count();
        if restored >= before.saturating_sub(100) && restored < before + 100 {
            Ok(())
        } else {
            Err(format!("it was saved at {before} and goes on from {restored}"))
        }
    });
}

/// Waits for a line and answers it, after the checkpoint with pipes that did not exist before.
pub(crate) fn pipes_are_replaced() {
    check(|bench| {
        bench.write(|sandbox| {
            let script = "read line; echo got $line; read line; echo then $line >&2";
            sandbox.process().args = vec!["sh".into(), "-c".into(), script.into()];
        });
        piped(bench, &[])
    });
}

/// Starts with three pipes, checkpoints with `options` and restores with three others.
fn piped(bench: &Bench, options: &[&str]) -> Verdict {
    let (first_output, mut first_input) = start_with_pipes(bench, &["run", "-d", "c"])?;
    first_input.write_all(b"one\n").unwrap();
    expect_text(first_output, "got one\n", false)?;
    bench.checkpoint(options)?;
    bench.expect(None)?;
    drop(first_input);
    let arguments = bench.with_images("restore", &bench.images(), &["-d"], "c");
    let (output, mut input) = start_with_pipes(bench, &arguments)?;
    bench.expect(Some("running"))?;
    input.write_all(b"two\n").unwrap();
    expect_text(output, "then two\n", true)
}

/// Runs a command with pipes as its streams; returns their other ends, of output and errors the same.
fn start_with_pipes(bench: &Bench, arguments: &[impl AsRef<str>]) -> Result<(File, File), String> {
    let (input, input_end) = pipe();
    let (output_end, output) = pipe();
    // The container must not share its pipes' open files with others, as CRIU wants it.
    let errors = output.try_clone().unwrap();
    let mut command = bench.command(arguments);
    command.stdin(input).stdout(output).stderr(errors);
    let done = bench.succeeds(command);
    let mut output = File::from(output_end);
    if let Err(error) = done {
        let mut text = String::new();
        let _ = output.read_to_string(&mut text);
        return Err(format!("{error}: {text}"));
    }
    Ok((output, File::from(input_end)))
}

fn expect_text(mut output: File, expected: &str, whole: bool) -> Verdict {
    let mut bytes = vec![0; expected.len()];
    output.read_exact(&mut bytes).map_err(|error| format!("instead of {expected:?}: {error}"))?;
    if whole {
        output.read_to_end(&mut bytes).unwrap();
    }
    let text = String::from_utf8_lossy(&bytes);
    if text == expected { Ok(()) } else { Err(format!("{text:?} instead of {expected:?}")) }
}

pub(crate) fn terminals_are_passed_on() {
    check(|bench| {
        bench.write(|sandbox| {
            sandbox.process().terminal = true;
            let script = "while read line; do echo got $line; done";
            sandbox.process().args = vec!["sh".into(), "-c".into(), script.into()];
        });
        let path = bench.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let socket = path.to_str().unwrap();
        bench.quiet(&["run", "-d", "--console-socket", socket, "c"])?;
        let mut first = accept_terminal(&listener);
        answers(&mut first, "one")?;
        bench.checkpoint(&[])?;
        drop(first);
        bench.restore(&["--console-socket", socket])?;
        let mut second = accept_terminal(&listener);
        answers(&mut second, "two")
    });
}

fn accept_terminal(listener: &UnixListener) -> File {
    let (stream, _) = listener.accept().unwrap();
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    socket::receive_with_descriptors(&stream, &mut [0; 64], &mut descriptors).unwrap();
    File::from(descriptors.remove(0))
}

fn answers(terminal: &mut File, word: &str) -> Verdict {
    terminal.write_all(format!("{word}\n").as_bytes()).unwrap();
    let expected = format!("got {word}");
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.contains(&expected) {
        match terminal.read(&mut buffer) {
            Ok(length) if length > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
            other => return Err(format!("the terminal says {text:?}, then {other:?}")),
        }
    }
    Ok(())
}

pub(crate) fn a_pre_dump_saves_work() {
    check(|bench| {
        bench.write(|_| {});
        bench.run()?;
        let parent = bench.path().join("parent");
        bench.quiet(&bench.with_images("checkpoint", &parent, &["--pre-dump"], "c"))?;
        let before = bench.count();
        bench.counts_on(before)?;
        bench.checkpoint(&["--parent-path", "../parent"])?;
        bench.expect(None)?;
        if !bench.images().join("parent").exists() {
            return Err("the images have no parent".to_owned());
        }
        let before = bench.count();
        std::fs::write(bench.sandbox.rootfs().join("tmp/count"), "0").unwrap();
        bench.restore(&[])?;
        bench.counts_on(before)
    });
}

/// The container is restored beside the one that it was, which ends when the last page has been fetched.
///
/// Not compared with runc: where CRIU can't do it, its part in the restore never ends.
pub(crate) fn memory_is_fetched_lazily() {
    if let Some(reason) = missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    let bench = Bench::palan();
    bench.write(|_| {});
    bench.run().unwrap();
    let (images, work) = (bench.images(), bench.path().join("work"));
    let work_path = ["--work-path", work.to_str().unwrap()];
    let (ready, status) = pipe();
    let serving = ["--lazy-pages", "--page-server", "127.0.0.1:27279", "--status-fd", "0"];
    let arguments = bench.with_images("checkpoint", &images, &[&serving[..], &work_path].concat(), "c");
    let mut command = bench.command(&arguments);
    command.stdin(status);
    let mut saving = command.spawn().unwrap();
    drop(command);
    let mut byte = Vec::new();
    File::from(ready).read_to_end(&mut byte).unwrap();
    assert_eq!(byte, [0]);
    let before = bench.count();
    let mut fetching = limited("criu");
    fetching.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", "27279", "-D"]);
    let mut fetching = fetching.arg(&images).arg("-W").arg(&work).spawn().unwrap();
    let socket = |place: &Path| place.join("lazy-pages.socket").exists();
    until(|| socket(&images) || socket(&work)).unwrap();

    bench.write(|sandbox| sandbox.linux().cgroups_path.push_str("-2"));
    let options = [&["-d", "--lazy-pages"], &work_path[..]].concat();
    let restore = bench.command(&bench.with_images("restore", &images, &options, "other"));
    let mut command = limited(restore.get_program().to_str().unwrap());
    let mut restoring = command.args(restore.get_args()).current_dir(bench.path()).spawn().unwrap();
    let failed = || {
        let log = std::fs::read_to_string(work.join("dump.log")).unwrap_or_default();
        log.contains("Lazy pages transfer FAILED")
    };
    until(|| restoring.try_wait().unwrap().is_some() || failed()).unwrap();
    if failed() {
        println!("SKIPPED: this CRIU can't serve pages with this kernel");
        // It waits for a page that nobody will bring.
        process::kill(restoring.id().cast_signed(), Signal::TERM).unwrap();
        restoring.wait().unwrap();
        saving.wait().unwrap();
        fetching.wait().unwrap();
        return;
    }
    assert!(restoring.wait().unwrap().success());
    assert!(fetching.wait().unwrap().success() && saving.wait().unwrap().success());
    until(|| bench.count() > before + 5).unwrap();
    assert_eq!(bench.status(), None);
}

/// A program that gets a minute, without streams.
fn limited(name: &str) -> Command {
    let mut command = program("timeout");
    command.args(["60", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A network namespace, until dropped.
struct NetworkNamespace(String);

impl NetworkNamespace {
    fn new(bench: &Bench) -> Self {
        let name = bench.sandbox.cgroup.trim_matches('/').replace('/', "-");
        assert!(program("ip").args(["netns", "add", &name]).status().unwrap().success());
        Self(name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        let _ = program("ip").args(["netns", "delete", &self.0]).status();
    }
}

pub(crate) fn network_namespaces_of_others() {
    check(|bench| {
        let network = NetworkNamespace::new(bench);
        bench.write(|sandbox| {
            for namespace in &mut sandbox.linux().namespaces {
                if namespace.kind == NamespaceKind::Network {
                    namespace.path = network.path();
                }
            }
        });
        let inode =
            |path: &str| std::fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::ino(&found));
        round_trips(bench)?;
        let theirs = inode(&format!("/proc/{}/ns/net", bench.pid())).map_err(|error| error.to_string())?;
        let expected = inode(&network.path()).unwrap();
        if theirs == expected { Ok(()) } else { Err("it is in another network namespace".to_owned()) }
    });
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: "bind".into(),
        source: source.into(),
        options: options.iter().chain(&["bind"]).map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

/// Mount points that were made for the container have gone when it is restored.
pub(crate) fn nested_binds() {
    check(|bench| {
        for name in ["outer", "inner"] {
            std::fs::create_dir(bench.path().join(name)).unwrap();
        }
        std::fs::write(bench.path().join("inner/mark"), "here").unwrap();
        bench.write(|sandbox| {
            sandbox.spec.mounts.push(bind("outer", "/test", &[]));
            sandbox.spec.mounts.push(bind("inner", "/test/for/nested", &["ro"]));
            sandbox.spec.mounts.push(bind("inner/mark", "/etc/mark", &[]));
        });
        bench.run()?;
        bench.checkpoint(&[])?;
        std::fs::remove_dir_all(bench.path().join("outer/for")).unwrap();
        std::fs::remove_file(bench.sandbox.rootfs().join("etc/mark")).unwrap();
        let before = bench.count();
        bench.restore(&[])?;
        bench.counts_on(before)?;
        let marks = bench.exec("cat /test/for/nested/mark /etc/mark; touch /test/for/nested/x || echo no")?;
        // Nothing of this is mounted on the host.
        let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        if marks == "herehereno" && !host.contains(bench.path().to_str().unwrap()) {
            Ok(())
        } else {
            Err(format!("{marks:?}"))
        }
    });
}

pub(crate) fn binds_on_symlinks() {
    check(|bench| {
        let root = bench.sandbox.rootfs();
        std::fs::create_dir_all(root.join("real/conf")).unwrap();
        std::os::unix::fs::symlink("/real/conf", root.join("conf")).unwrap();
        bench.write(|sandbox| sandbox.spec.mounts.push(bind(".", "/conf", &[])));
        round_trips(bench)?;
        bench.exec("cat /real/conf/config.json").map(drop)
    });
}

/// An image whose link leads out of it gets its mount points inside.
pub(crate) fn mount_points_stay_inside() {
    check(|bench| {
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), bench.sandbox.rootfs().join("out")).unwrap();
        std::fs::create_dir(bench.path().join("data")).unwrap();
        bench.write(|sandbox| sandbox.spec.mounts.push(bind("data", "/out/x", &[])));
        bench.run()?;
        bench.checkpoint(&[])?;
        // Where the link leads inside: it has to be made again.
        let inside = bench.sandbox.rootfs().join(outside.path().strip_prefix("/").unwrap());
        std::fs::remove_dir_all(&inside).map_err(|error| format!("{}: {error}", inside.display()))?;
        bench.restore(&[])?;
        if !inside.join("x").is_dir() {
            return Err("the mount point is missing".to_owned());
        }
        match std::fs::read_dir(outside.path()).unwrap().count() {
            0 => Ok(()),
            _ => Err("something was made outside of the root file system".to_owned()),
        }
    });
}

pub(crate) fn another_cgroup() {
    check(|bench| {
        bench.write(|_| {});
        bench.run()?;
        bench.checkpoint(&[])?;
        let moved = format!("{}-moved", bench.sandbox.cgroup);
        bench.write(|sandbox| sandbox.linux().cgroups_path.clone_from(&moved));
        let pid_file = bench.path().join("pid");
        bench.restore(&["--pid-file", pid_file.to_str().unwrap()])?;
        bench.expect(Some("running"))?;
        let pid = std::fs::read_to_string(pid_file).unwrap();
        let table =
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
        let inside = table.lines().any(|line| line.ends_with(&moved));
        let left = table.lines().any(|line| line.ends_with(&bench.sandbox.cgroup));
        if inside && !left { Ok(()) } else { Err(table) }
    });
}

/// What `exec` starts in a restored container can be saved with it.
pub(crate) fn executed_processes_survive() {
    check(|bench| {
        bench.write(|_| {});
        bench.run()?;
        let mut others = Vec::new();
        for _ in 0..2 {
            bench.checkpoint(&[])?;
            bench.restore(&[])?;
            for other in &others {
                bench.exec(&format!("ls -d /proc/{other}"))?;
            }
            others.push(bench.exec("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!")?);
        }
        Ok(())
    });
}

pub(crate) fn options_of_one_container() {
    check(|bench| {
        let file = bench.path().join("criu.conf");
        std::fs::write(&file, "log-file=own.log\n").unwrap();
        let name = file.to_str().unwrap().to_owned();
        bench.write(|sandbox| drop(sandbox.spec.annotations.insert("org.criu.config".into(), name)));
        bench.run()?;
        let work = bench.path().join("work");
        for command in [Bench::checkpoint, Bench::restore] {
            command(bench, &["--work-path", work.to_str().unwrap()])?;
            std::fs::remove_file(work.join("own.log")).map_err(|error| format!("own.log: {error}"))?;
        }
        bench.expect(Some("running"))
    });
}

/// A container that CRIU refuses, here for an open file that is not its own, goes on; the reason is told.
pub(crate) fn a_refused_container_goes_on() {
    check(|bench| {
        bench.write(|_| {});
        let mut command = bench.command(&["run", "-d", "c"]);
        command.stderr(File::create(bench.path().join("errors")).unwrap());
        bench.succeeds(command)?;
        bench.counts_on(0)?;
        match bench.checkpoint(&[]) {
            Ok(()) => return Err("a file of the host was left out".to_owned()),
            Err(error) if error.contains("errors") => {}
            Err(error) => return Err(format!("the reason is missing: {error}")),
        }
        let before = bench.count();
        bench.counts_on(before)
    });
}

/// CRIU saves and restores the cgroup too, where it does not change what is the host's with that (criu#3029).
pub(crate) fn cgroups_are_managed() {
    if palan_runtime::cgroup::version().unwrap() == palan_runtime::cgroup::Version::V2 {
        println!("SKIPPED: with cgroup v2 it would change the options of the host's mount");
        return;
    }
    check(|bench| {
        bench.write(|_| {});
        for mode in ["soft", "full"] {
            bench.run()?;
            let images = bench.path().join(mode);
            let places = ["--manage-cgroups-mode", mode, "--image-path", images.to_str().unwrap()];
            bench.quiet(&[&["checkpoint"], &places[..], &["c"]].concat())?;
            let before = bench.count();
            std::fs::write(bench.sandbox.rootfs().join("tmp/count"), "0").unwrap();
            bench.quiet(&[&["restore", "-d"], &places[..], &["c"]].concat())?;
            bench.counts_on(before)?;
            bench.quiet(&["delete", "--force", "c"])?;
        }
        Ok(())
    });
}

pub(crate) fn paused_containers() {
    check(|bench| {
        bench.write(|_| {});
        bench.run()?;
        bench.quiet(&["pause", "c"])?;
        bench.expect(Some("paused"))?;
        bench.checkpoint(&[])?;
        bench.expect(None)?;
        let before = bench.count();
        bench.restore(&[])?;
        if bench.status().as_deref() == Some("paused") {
            bench.quiet(&["resume", "c"])?;
        }
        bench.counts_on(before)
    });
}

/// In the foreground `restore` ends as the container does.
pub(crate) fn the_exit_code_is_passed_on() {
    check(|bench| {
        bench.write(|sandbox| {
            let script = "while ! test -e /tmp/go; do sleep 0.02; done; exit 7";
            sandbox.process().args = vec!["sh".into(), "-c".into(), script.into()];
        });
        bench.quiet(&["run", "-d", "c"])?;
        bench.checkpoint(&[])?;
        std::fs::write(bench.sandbox.rootfs().join("tmp/go"), "").unwrap();
        let arguments = bench.with_images("restore", &bench.images(), &[], "c");
        let code = bench.command(&arguments).status().unwrap().code();
        bench.expect(None)?;
        if code == Some(7) { Ok(()) } else { Err(format!("{code:?}")) }
    });
}

/// A restore that fails leaves nothing: no state, no process, no cgroup, no mount, and the bundle as it was.
pub(crate) fn failed_restores_leave_nothing() {
    check(|bench| {
        bench.write(|_| {});
        bench.run()?;
        bench.checkpoint(&[])?;
        let cgroup_is_gone = || Cgroup::open(&Place::root(&bench.sandbox.cgroup)).is_err();
        let refused = |options: &[&str]| -> Verdict {
            if bench.restore(options).is_ok() {
                return Err(format!("{options:?} was restored"));
            }
            bench.expect(None)?;
            if cgroup_is_gone() && bench.sandbox.rootfs().join("bin/busybox").exists() {
                Ok(())
            } else {
                Err(format!("{options:?}: a cgroup is left, or the rootfs is gone"))
            }
        };
        refused(&["--pid-file", "/nonexistent/pid"])?;
        let images = bench.images();
        let inventory = std::fs::read(images.join("inventory.img")).unwrap();
        std::fs::write(images.join("inventory.img"), "nonsense").unwrap();
        refused(&[])?;
        std::fs::write(images.join("inventory.img"), inventory).unwrap();
        std::fs::rename(images.join("descriptors.json"), images.join("d")).unwrap();
        refused(&[])?;
        std::fs::rename(images.join("d"), images.join("descriptors.json")).unwrap();
        let before = bench.count();
        bench.restore(&[])?;
        bench.counts_on(before)
    });
}

/// What needs no CRIU to be refused, with the words for it.
pub(crate) fn refusals_say_why() {
    let bench = Bench::palan();
    bench.write(|_| {});
    let says = |arguments: &[&str], words: &str| {
        let output = bench.output(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{arguments:?}: {text}");
    };
    says(&["checkpoint", "c"], "container does not exist");
    says(&["--criu", "/nonexistent/criu", "restore", "c"], "/nonexistent/criu");
    assert!(bench.quiet(&["create", "c"]).is_ok());
    says(&["checkpoint", "c"], "cannot be checkpointed in created state");
    assert!(bench.quiet(&["start", "c"]).is_ok());
    says(&["checkpoint", "--parent-path", "/parent", "c"], "--parent-path must be relative");
    says(&["checkpoint", "--parent-path", "./parent", "c"], "invalid --parent-path");
    says(&["checkpoint", "--manage-cgroups-mode", "all", "c"], "invalid manage-cgroups-mode");
    says(&["checkpoint", "--empty-ns", "pid", "c"], "namespace \"pid\" is not supported");
    says(&["checkpoint", "--page-server", "nonsense", "c"], "ADDRESS:PORT");
    says(&["checkpoint", "--status-fd", "77", "c"], "--status-fd");
    // The tests' /dev/null as input.
    says(&["checkpoint", "--status-fd", "0", "c"], "not writable");
    says(&["--criu", "/nonexistent/criu", "checkpoint", "c"], "package criu");
    says(&["restore", "--no-pivot", "other"], "--no-pivot");
    says(&["restore", "--console-socket", "x", "other"], "console socket");
    assert_eq!(bench.status().as_deref(), Some("running"));
}
