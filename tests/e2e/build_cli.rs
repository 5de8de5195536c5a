//! `palan build`: from the command line to the image or files, with our own daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Run};
use palan_test_support::image::TarBuilder;
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{daemon, sh};
use crate::tty::Terminal;

/// A directory with files.
struct Context(PathBuf);

impl Context {
    fn new(daemon: &Daemon, files: &[(&str, &str)]) -> Self {
        let context = Self(daemon.scratch().join(format!("context-{}", files.len())));
        for (name, content) in files {
            context.file(name, content);
        }
        context
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn build(&self, daemon: &Daemon, flags: &[&str]) -> Run {
        let directory = self.0.display().to_string();
        let mut arguments = vec!["build", "--network", "none"];
        arguments.extend(flags);
        arguments.push(&directory);
        daemon.palan(arguments)
    }
}

/// Nothing of a build; the rest is looked for when the daemon is dropped.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    let work = daemon.data_root().join("build/work");
    let is_clean = || fs::read_dir(&work).unwrap().next().is_none();
    assert!(wait_until(PATIENCE, is_clean), "a build's directory is left");
}

#[test]
fn stages_arguments_labels_and_files_about_the_result() {
    requires!(root);
    let daemon = daemon();
    let dockerfile = "ARG BASE=bb\nFROM $BASE AS tools\nARG WORD\nCOPY src /src\nRUN echo \"$WORD $(cat /src/a)\" > /made\n\
                      FROM bb\nCOPY --from=tools /made /made\nLABEL kind=app\nCMD [\"cat\", \"/made\"]\n";
    let context = Context::new(
        &daemon,
        &[
            ("Dockerfile", dockerfile),
            ("src/a", "content"),
            (".dockerignore", "left-out\n"),
            ("left-out", "x"),
        ],
    );
    let file = |name: &str| daemon.scratch().join(name).display().to_string();
    let (id, metadata) = (file("id"), file("metadata"));
    let flags = [
        "-t",
        "app:1",
        "--build-arg",
        "WORD=said",
        "--label",
        "more=here",
        "--iidfile",
        &id,
        "--metadata-file",
        &metadata,
    ];
    let built = context.build(&daemon, &flags).ok();
    assert_eq!(built.stdout, "");
    assert!(built.stderr.contains("RUN echo \"$WORD $(cat /src/a)\" > /made\n"), "{built}");
    assert!(built.stderr.contains("naming to docker.io/library/app:1"), "{built}");
    assert_eq!(daemon.palan(["run", "--rm", "--network", "none", "app:1"]).ok().line(), "said content");
    let labels = daemon.palan(["inspect", "-f", "{{json .Config.Labels}} {{.Id}}", "app:1"]).ok();
    let id = fs::read_to_string(id).unwrap();
    assert_eq!(labels.line(), format!("{{\"kind\":\"app\",\"more\":\"here\"}} {id}"));
    assert!(fs::read_to_string(metadata).unwrap().contains(&id));
    // The same again does nothing; a touched file is the same file.
    fs::File::open(context.0.join("src/a")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let again = context.build(&daemon, &["--build-arg", "WORD=said", "--label", "more=here"]).ok();
    assert_eq!(again.stderr.matches(" CACHED\n").count(), 4, "{again}");
    let quiet = context.build(&daemon, &["-q", "--build-arg", "WORD=said", "--label", "more=here"]).ok();
    assert_eq!((quiet.line(), quiet.stderr.as_str()), (id.as_str(), ""));
    nothing_is_left(&daemon);
}

#[test]
fn secrets_and_agents_reach_steps_and_no_image() {
    requires!(root);
    let daemon = daemon();
    let dockerfile = "FROM bb\nRUN --mount=type=secret,id=token,required cat /run/secrets/token > /dev/null && test -s /run/secrets/token\n\
                      RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\"\nRUN ls /run > /left; find / -xdev -name token >> /left || true\n";
    let context = Context::new(&daemon, &[("Dockerfile", dockerfile)]);
    let secret = daemon.scratch().join("secret");
    fs::write(&secret, "hidden").unwrap();
    let socket = daemon.scratch().join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let secret = format!("id=token,src={}", secret.display());
    let agent = format!("default={}", socket.display());
    context.build(&daemon, &["-t", "app", "--secret", &secret, "--ssh", &agent]).ok();
    let left = daemon.palan(["run", "--rm", "--network", "none", "app", "cat", "/left"]).ok();
    assert!(!left.stdout.contains("secrets"), "{left}");
    context.build(&daemon, &["--no-cache", "--ssh", &agent]).fails(1, "secret token: not found");
    nothing_is_left(&daemon);
}

#[test]
fn outputs() {
    requires!(root);
    let daemon = daemon();
    let context =
        Context::new(&daemon, &[("Dockerfile", "FROM scratch\nCOPY a d/ /\n"), ("a", "1"), ("d/b", "2")]);
    let place = |name: &str| daemon.scratch().join(name).display().to_string();
    context.build(&daemon, &["-o", &place("out")]).ok();
    assert_eq!(fs::read_to_string(place("out/b")).unwrap(), "2");
    context.build(&daemon, &["-o", &format!("type=tar,dest={}", place("x.tar"))]).ok();
    let listed = daemon.palan_with_input(["import", "-"], &fs::read(place("x.tar")).unwrap()).ok();
    assert!(listed.line().starts_with("sha256:"), "{listed}");
    for kind in ["oci", "docker"] {
        let archive = place(&format!("{kind}.tar"));
        context.build(&daemon, &["-t", "made", "-o", &format!("type={kind},dest={archive}")]).ok();
        assert!(daemon.palan(["images", "-q", "made"]).ok().line().is_empty());
        let loaded = daemon.palan(["load", "-i", &archive]).ok();
        assert!(loaded.stdout.contains("made"), "{loaded}");
        daemon.palan(["rmi", "made"]).ok();
    }
    context.build(&daemon, &["-o", "type=cacheonly"]).ok();
    nothing_is_left(&daemon);
}

#[test]
fn standard_input_and_named_contexts() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, &[("a", "of the context")]);
    let other = Context::new(&daemon, &[("a", "of the other"), ("b", "")]);
    let directory = context.0.display().to_string();
    let dockerfile = b"FROM bb\nCOPY a /a\nCOPY --from=other a /b\n";
    let named = format!("other={}", other.0.display());
    let flags = ["build", "--network", "none", "-t", "app", "-f", "-", "--build-context", &named, &directory];
    daemon.palan_with_input(flags, dockerfile).ok();
    let shown = daemon.palan(["run", "--rm", "--network", "none", "app", "cat", "/a", "/b"]).ok();
    assert_eq!(shown.line(), "of the contextof the other");
    let archive =
        TarBuilder::new().file("Dockerfile", 0o644, "FROM bb\nCOPY x /x\n").file("x", 0o640, "y").finish();
    let id = daemon.palan_with_input(["build", "-q", "-"], &archive).ok();
    let shown =
        daemon.palan(["run", "--rm", "--network", "none", id.line(), "stat", "-c", "%a %u", "/x"]).ok();
    assert_eq!(shown.line(), "640 0");
    let id = daemon.palan_with_input(["build", "-q", "-"], b"FROM bb\nENV A=b\n").ok();
    let shown = daemon.palan(["run", "--rm", "--network", "none", id.line(), "sh", "-c", "echo $A"]).ok();
    assert_eq!(shown.line(), "b");
    let hostile =
        TarBuilder::new().file("Dockerfile", 0o644, "FROM bb\n").file("../../x", 0o644, "y").finish();
    daemon.palan_with_input(["build", "-"], &hostile).fails(1, "is outside of");
    nothing_is_left(&daemon);
}

#[test]
fn a_failure_shows_its_step_and_its_place() {
    requires!(root);
    let daemon = daemon();
    let context =
        Context::new(&daemon, &[("Dockerfile", "FROM bb\nRUN echo working; echo oh no >&2; exit 3\n")]);
    let failed = context
        .build(&daemon, &["-t", "app"])
        .fails(1, "------\n > [2/2] RUN echo working; echo oh no >&2; exit 3:\n");
    let place = "Dockerfile:2\n--------------------\n   1 |     FROM bb\n   2 | >>> RUN echo working; echo oh no >&2; exit 3\n   3 |     \n--------------------\n\
                 ERROR: failed to build: failed to solve: process \"/bin/sh -c echo working; echo oh no >&2; exit 3\" did not complete successfully: exit code: 3\n";
    assert!(failed.stderr.ends_with(place), "{failed}");
    assert!(failed.stderr.contains(" oh no\n------\n"), "{failed}");
    context.file("Dockerfile", "FROM bb\nCOPY nothing /\n");
    context.build(&daemon, &[]).fails(1, "   2 | >>> COPY nothing /\n");
    context.file("Dockerfile", "FROM bb\nRUNN x\n");
    context.build(&daemon, &[]).fails(1, "unknown instruction: RUNN (did you mean RUN?)");
    nothing_is_left(&daemon);
}

/// A daemon that is there, and takes no build.
fn deaf_daemon() -> (UnixListener, std::sync::mpsc::Receiver<String>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("daemon.sock")).unwrap();
    let (sender, asked) = std::sync::mpsc::channel();
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = accepting.accept() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!(stream.read(&mut byte), Ok(1)) {
                    return;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            if head.contains("/_ping") {
                let answer = b"HTTP/1.1 200 OK\r\nApi-Version: 1.56\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).unwrap();
            }
            held.push(stream);
            if sender.send(head).is_err() {
                return;
            }
        }
    });
    (listener, asked, directory)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a client that is sent signals")]
fn a_build_ends_when_asked_before_the_daemon_answers() {
    use rustix::process::{Pid, Signal, kill_process};

    let (_listener, asked, directory) = deaf_daemon();
    fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    // As `nohup` starts it; and not as a shell's `&` may have started this test.
    let mut client = std::process::Command::new("env")
        .args(["--ignore-signal=HUP", "--default-signal=INT"])
        .arg(palan_test_support::daemon::program())
        .arg("-H")
        .arg(format!("unix://{}", directory.path().join("daemon.sock").display()))
        .arg("build")
        .arg(directory.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !asked
        .recv_timeout(Duration::from_secs(10))
        .expect("nobody asks for a session")
        .contains("/session")
    {}
    let pid = Pid::from_child(&client);
    kill_process(pid, Signal::HUP).unwrap();
    let hung_up = wait_until(Duration::from_millis(500), || client.try_wait().unwrap().is_some());
    kill_process(pid, Signal::INT).unwrap();
    let ended = wait_until(PATIENCE, || client.try_wait().unwrap().is_some());
    if !ended {
        client.kill().unwrap();
    }
    let output = client.wait_with_output().unwrap();
    assert!(!hung_up, "SIGHUP was ignored when it began, and ended it: {output:?}");
    assert!(ended, "SIGINT does not end it");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with("Canceled: context canceled\n"), "{told}");
}

#[test]
fn a_cache_of_nothing_is_not_exported() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, &[("Dockerfile", "FROM bb\nLABEL a=b\n")]);
    for flags in [
        ["--build-arg", "BUILDKIT_INLINE_CACHE=1"],
        ["--cache-to", "type=inline"],
        ["--cache-to", "type=registry,ref=127.0.0.1:1/x/y"],
    ] {
        context.build(&daemon, &[&flags[..], &["-t", "app"]].concat()).ok();
    }
    nothing_is_left(&daemon);
}

#[test]
fn a_build_on_a_terminal_is_a_table_and_ends_when_asked() {
    requires!(root);
    requires!(program "tmux");
    let daemon = daemon();
    let context = Context::new(&daemon, &[("Dockerfile", "FROM bb\nRUN echo begun; sleep 300\n")]);
    let terminal = Terminal::open(&daemon);
    terminal.type_line(&format!("palan build --network none {}", context.0.display()));
    terminal.shows(" => => # begun");
    terminal.shows("[+] Building ");
    terminal.keys(&["C-c"]);
    terminal.shows(" => CANCELED [2/2] RUN echo begun; sleep 300");
    terminal.shows("ERROR: failed to build: failed to solve: Canceled: context canceled");
    terminal.back_at_the_host();
    terminal.shows("code=130");
    assert_eq!(sh(&daemon, &[], "echo alive"), "alive");
    nothing_is_left(&daemon);
}

#[test]
fn cache_is_pruned() {
    requires!(root);
    let daemon = daemon();
    let context =
        Context::new(&daemon, &[("Dockerfile", "FROM bb\nRUN dd if=/dev/zero of=/x bs=1k count=100\n")]);
    context.build(&daemon, &["-o", "type=cacheonly"]).ok();
    let pruned = daemon.palan(["builder", "prune", "-af"]).ok();
    assert!(pruned.stdout.starts_with("Deleted build cache objects:\n"), "{pruned}");
    assert!(pruned.stdout.contains("Total reclaimed space: "), "{pruned}");
    let again = context.build(&daemon, &["-t", "app"]).ok();
    assert!(!again.stderr.contains("RUN dd if=/dev/zero of=/x bs=1k count=100\n#4 CACHED"), "{again}");
    nothing_is_left(&daemon);
}
