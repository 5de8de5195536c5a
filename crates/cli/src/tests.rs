//! Whole command lines against a daemon of the test: flows, texts, exit codes.

/// Builds.
mod build;
/// The daemon of a test.
mod daemon;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::Program;
use crate::environment::Environment;
use crate::output::streams::{Sink, Streams};
use daemon::{Answer, Daemon, Seen};

/// What a command line did.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: u8,
    out: String,
    err: String,
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output that nobody reads any more.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run_with(daemon: &Daemon, line: &[&str], input: impl Read + Send + 'static) -> Outcome {
    let (out, err) = (Captured::default(), Captured::default());
    let streams = Streams::of_test(input, Sink::new("stdout", out.clone()), Sink::new("stderr", err.clone()));
    let home = daemon.home();
    let environment = Environment::of(&[("DOCKER_HOST", &daemon.address()), ("HOME", &home)]);
    let code = crate::run(Program::Palan, line.iter().map(Into::into), streams, environment);
    Outcome { code, out: out.text(), err: err.text() }
}

fn run(daemon: &Daemon, line: &[&str]) -> Outcome {
    run_with(daemon, line, io::empty())
}

fn outcome(code: u8, out: &str, err: &str) -> Outcome {
    Outcome { code, out: out.to_owned(), err: err.to_owned() }
}

/// A frame of multiplexed output.
fn frame(stream: u8, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&[stream, 0, 0, 0][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

const CREATED: &str = r#"{"Id":"c0ffee","Warnings":["something is odd"]}"#;

#[test]
fn run_pulls_attaches_waits_and_starts_in_this_order() {
    let daemon = Daemon::start(|seen: &Seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/containers/create") if seen.count == 0 => {
            Answer::error(404, "No such image: debian:latest")
        }
        ("POST", "/containers/create") => Answer::json(201, CREATED),
        ("POST", "/images/create") => Answer::json(
            200,
            "{\"status\":\"Pulling from library/debian\",\"id\":\"latest\"}\r\n{\"status\":\"Status: Downloaded\"}\r\n",
        ),
        ("POST", "/containers/c0ffee/attach") => {
            Answer::Upgrade([frame(1, "hello\n"), frame(2, "trouble\n")].concat())
        }
        ("POST", "/containers/c0ffee/wait") => Answer::json(200, r#"{"StatusCode":3}"#),
        _ => Answer::empty(204),
    });
    let result = run(&daemon, &["run", "--rm", "-e", "A=1", "debian", "ls"]);
    assert_eq!(
        result,
        outcome(
            3,
            "hello\n",
            "Unable to find image 'debian:latest' locally\nlatest: Pulling from library/debian\nStatus: Downloaded\n\
             WARNING: something is odd\ntrouble\n"
        )
    );
    assert_eq!(
        daemon.requests(),
        [
            "POST /containers/create",
            "POST /images/create?fromImage=debian&tag=latest",
            "POST /containers/create",
            "POST /containers/c0ffee/attach?stream=1&stdout=1&stderr=1",
            "POST /containers/c0ffee/wait?condition=removed",
            "POST /containers/c0ffee/start",
        ]
    );
    assert!(daemon.bodies()[0].contains(r#""Env":["A=1"]"#), "{:?}", daemon.bodies());
}

#[test]
fn run_in_the_background_prints_the_id() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/create" => Answer::json(201, r#"{"Id":"c0ffee","Warnings":[]}"#),
        _ => Answer::empty(204),
    });
    let file = format!("{}/id", daemon.home());
    let result = run(&daemon, &["container", "run", "-d", "--name", "web", "--cidfile", &file, "debian"]);
    assert_eq!(result, outcome(0, "c0ffee\n", ""));
    assert_eq!(daemon.requests(), ["POST /containers/create?name=web", "POST /containers/c0ffee/start"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "c0ffee");
    let again = run(&daemon, &["run", "-d", "--cidfile", &file, "debian"]);
    assert_eq!(again.code, 125);
    assert!(
        again.err.starts_with("palan: container ID file found, make sure the other container"),
        "{again:?}"
    );
}

#[test]
fn refusals_have_their_exit_codes_and_leave_no_id_file() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/create" if seen.body.contains("conflict") => Answer::error(409, "Conflict."),
        "/containers/create" => Answer::json(201, r#"{"Id":"c0ffee","Warnings":[]}"#),
        "/containers/c0ffee/start" => {
            Answer::error(400, "exec: \"nope\": executable file not found in $PATH: unknown")
        }
        _ => Answer::empty(204),
    });
    let file = format!("{}/id", daemon.home());
    let result = run(&daemon, &["run", "-d", "--cidfile", &file, "conflict"]);
    assert_eq!(
        result,
        outcome(
            125,
            "",
            "palan: Error response from daemon: Conflict.\n\nRun 'palan run --help' for more information\n"
        )
    );
    assert!(!std::path::Path::new(&file).exists());
    let result = run(&daemon, &["run", "-d", "debian", "nope"]);
    assert_eq!((result.code, result.out.as_str()), (127, "c0ffee\n"));
}

#[test]
fn input_is_sent_and_its_end_too() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/create" => Answer::json(201, r#"{"Id":"c0ffee","Warnings":[]}"#),
        "/containers/c0ffee/attach" => Answer::Echo,
        "/containers/c0ffee/wait" => Answer::json(200, r#"{"StatusCode":0}"#),
        _ => Answer::empty(204),
    });
    let input = io::Cursor::new(b"one\ntwo\n".to_vec());
    let result = run_with(&daemon, &["run", "-i", "debian", "cat"], input);
    assert_eq!(result, outcome(0, "one\ntwo\n", ""));
    assert!(daemon.bodies()[0].contains(r#""StdinOnce":true"#));
    let result = run(&daemon, &["run", "-it", "debian"]);
    assert_eq!(result, outcome(1, "", "the input device is not a TTY\n"));
}

#[test]
fn a_wait_that_breaks_is_asked_again() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/create" => Answer::json(201, r#"{"Id":"c0ffee","Warnings":[]}"#),
        "/containers/c0ffee/attach" => Answer::Upgrade(frame(1, "x")),
        "/containers/c0ffee/wait" if seen.count == 0 => Answer::Break,
        "/containers/c0ffee/wait" => Answer::json(200, r#"{"StatusCode":9}"#),
        _ => Answer::empty(204),
    });
    assert_eq!(run(&daemon, &["run", "debian"]), outcome(9, "x", ""));
    let waits: Vec<String> = daemon.requests().into_iter().filter(|line| line.contains("/wait")).collect();
    assert_eq!(
        waits,
        [
            "POST /containers/c0ffee/wait?condition=next-exit",
            "POST /containers/c0ffee/wait?condition=not-running"
        ]
    );
}

#[test]
fn the_code_of_a_container_that_is_gone_comes_from_its_event() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/create" => Answer::json(201, r#"{"Id":"c0ffee","Warnings":[]}"#),
        "/containers/c0ffee/attach" => Answer::Upgrade(Vec::new()),
        "/containers/c0ffee/wait" if seen.count == 0 => Answer::Break,
        "/containers/c0ffee/wait" => Answer::error(404, "No such container: c0ffee"),
        "/events" => Answer::json(
            200,
            r#"{"Type":"container","Action":"die","Actor":{"ID":"c0ffee","Attributes":{"exitCode":"17"}}}"#,
        ),
        _ => Answer::empty(204),
    });
    assert_eq!(run(&daemon, &["run", "--rm", "debian"]), outcome(17, "", ""));
}

#[test]
fn exec_takes_the_exit_code_of_its_process() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/web/exec" => Answer::json(201, r#"{"Id":"e1"}"#),
        "/exec/e1/start" => Answer::Upgrade(frame(1, "root\n")),
        "/exec/e1/json" => Answer::json(200, r#"{"ID":"e1","Running":false,"ExitCode":2}"#),
        _ => Answer::error(404, "page not found"),
    });
    assert_eq!(run(&daemon, &["exec", "-u", "0", "web", "id", "-un"]), outcome(2, "root\n", ""));
    assert!(daemon.bodies()[0].contains(r#""Cmd":["id","-un"]"#));
}

#[test]
fn logs_go_to_their_streams() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/web/json" => Answer::json(200, r#"{"Id":"c0ffee","Config":{"Tty":false}}"#),
        _ => Answer::Raw([frame(1, "out\n"), frame(2, "err\n")].concat()),
    });
    assert_eq!(run(&daemon, &["logs", "-t", "--since", "1", "web"]), outcome(0, "out\n", "err\n"));
    assert_eq!(
        daemon.requests()[1],
        "GET /containers/c0ffee/logs?stdout=1&stderr=1&since=1&timestamps=1&tail=all"
    );
}

#[test]
fn nobody_reads_the_output() {
    let daemon = Daemon::start(|_: &Seen| Answer::json(200, "[]"));
    let err = Captured::default();
    let streams =
        Streams::of_test(io::empty(), Sink::new("stdout", Closed), Sink::new("stderr", err.clone()));
    let environment = Environment::of(&[("DOCKER_HOST", &daemon.address())]);
    let code = crate::run(Program::Palan, ["ps"].iter().map(Into::into), streams, environment);
    assert_eq!((code, err.text().as_str()), (141, ""));
}

#[test]
fn inspect_prints_what_is_there_and_says_what_is_not() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/images/img/json" => {
            Answer::json(200, r#"{"Id":"sha256:1","RepoTags":[],"Config":{"Env":["A=<1>"]}}"#)
        }
        path => Answer::error(404, &format!("no such object: {path}")),
    });
    assert_eq!(
        run(&daemon, &["inspect", "img", "nope"]),
        outcome(
            1,
            "[\n    {\n        \"Id\": \"sha256:1\",\n        \"RepoTags\": [],\n        \"Config\": {\n            \
             \"Env\": [\n                \"A=<1>\"\n            ]\n        }\n    }\n]\n",
            "Error: No such object: nope\n"
        )
    );
    assert_eq!(run(&daemon, &["inspect", "-f", "{{json .Config}}", "img"]).out, "{\"Env\":[\"A=<1>\"]}\n");
    assert_eq!(run(&daemon, &["inspect", "-f", "{{.Nope", "img"]).code, 64);
}

#[test]
fn many_objects_are_removed_and_failures_told_last() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/b" => Answer::error(404, "No such container: b"),
        _ => Answer::empty(204),
    });
    assert_eq!(
        run(&daemon, &["rm", "a", "b", "c"]),
        outcome(1, "a\nc\n", "Error response from daemon: No such container: b\n")
    );
    assert_eq!(
        run(&daemon, &["rm", "-f", "b"]),
        outcome(0, "", "Error response from daemon: No such container: b\n")
    );
    assert_eq!(run(&daemon, &["stop", "-t", "3", "a"]), outcome(0, "a\n", ""));
    assert_eq!(daemon.requests().last().unwrap(), "POST /containers/a/stop?t=3");
}

#[test]
fn pulls_show_their_progress_and_send_credentials() {
    let daemon = Daemon::start(|seen: &Seen| match seen.query.as_str() {
        "fromImage=localhost%3A5000%2Fx&tag=1" | "fromImage=localhost:5000/x&tag=1" => Answer::json(
            200,
            "{\"status\":\"Digest: sha256:0\"}\n{\"status\":\"Status: Image is up to date\"}\n",
        ),
        _ => Answer::json(
            200,
            "{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"manifest unknown\"}",
        ),
    });
    std::fs::create_dir_all(format!("{}/.docker", daemon.home())).unwrap();
    std::fs::write(
        format!("{}/.docker/config.json", daemon.home()),
        r#"{"auths":{"localhost:5000":{"auth":"dTpw"}}}"#,
    )
    .unwrap();
    assert_eq!(
        run(&daemon, &["pull", "localhost:5000/x:1"]),
        outcome(0, "Digest: sha256:0\nStatus: Image is up to date\nlocalhost:5000/x:1\n", "")
    );
    assert!(daemon.heads()[0].to_lowercase().contains("x-registry-auth: "), "{}", daemon.heads()[0]);
    assert_eq!(run(&daemon, &["pull", "-q", "localhost:5000/x:1"]).out, "localhost:5000/x:1\n");
    assert_eq!(
        run(&daemon, &["pull", "nope"]),
        outcome(1, "Using default tag: latest\n", "manifest unknown\n")
    );
}

#[test]
fn a_login_is_kept_and_forgotten() {
    let daemon =
        Daemon::start(|_: &Seen| Answer::json(200, r#"{"Status":"Login Succeeded","IdentityToken":""}"#));
    let file = format!("{}/.docker/config.json", daemon.home());
    let line = ["login", "-u", "me", "--password-stdin", "https://localhost:5000/"];
    let result = run_with(&daemon, &line, io::Cursor::new(b"secret\n".to_vec()));
    assert_eq!((result.code, result.out.as_str()), (0, "Login Succeeded\n"));
    assert!(result.err.contains(&format!("stored unencrypted in '{file}'")), "{}", result.err);
    assert!(daemon.bodies()[0].contains(r#""serveraddress":"localhost:5000""#), "{:?}", daemon.bodies());
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"auth\": \"bWU6c2VjcmV0\""));
    let result = run(&daemon, &["logout", "localhost:5000"]);
    assert_eq!(result, outcome(0, "Removing login credentials for localhost:5000\n", ""));
    assert!(!std::fs::read_to_string(&file).unwrap().contains("localhost"));
}

#[test]
fn a_container_gets_the_socket_and_the_credentials() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.as_str() {
        "/containers/create" => Answer::json(201, r#"{"Id":"c0ffee","Warnings":["first"]}"#),
        "/containers/c0ffee/archive" if seen.count == 0 => Answer::json(200, ""),
        _ => Answer::json(500, r#"{"message":"no archives"}"#),
    });
    let directory = std::path::Path::new(&daemon.home()).join(".docker");
    std::fs::create_dir_all(&directory).unwrap();
    let auths = r#"{"auths": {"registry.test": {"auth": "dTpw"}}}"#;
    std::fs::write(directory.join("config.json"), auths).unwrap();
    let line = ["create", "--use-api-socket", "image"];
    assert_eq!(run(&daemon, &line), outcome(0, "c0ffee\n", "WARNING: first\n"));
    assert_eq!(daemon.requests(), ["POST /containers/create", "PUT /containers/c0ffee/archive?path=%2F"]);
    let bodies = daemon.bodies();
    assert!(bodies[0].contains(r#""DOCKER_CONFIG=/run/secrets/docker""#), "{}", bodies[0]);
    assert!(bodies[0].contains(r#""Target":"/var/run/docker.sock""#), "{}", bodies[0]);
    assert!(bodies[1].contains(r#"{"auths":{"registry.test":{"auth":"dTpw"}}}"#), "{}", bodies[1]);
    // Docker makes do without them, too.
    let again = run(&daemon, &line);
    assert!(
        again.code == 0 && again.err.contains("injecting docker config.json into container failed: "),
        "{again:?}"
    );
    // Where the container has a configuration of its own, it gets none.
    run(&daemon, &["create", "--use-api-socket", "-e", "DOCKER_CONFIG=/x", "image"]);
    assert_eq!(daemon.requests().len(), 5);
}

#[test]
fn lists_ask_for_what_they_show() {
    let daemon = Daemon::start(|_: &Seen| Answer::json(200, "[]"));
    run(&daemon, &["ps", "-a", "-n", "3", "-f", "status=exited", "--format", "{{.Size}}"]);
    assert_eq!(
        daemon.requests()[0],
        "GET /containers/json?all=1&size=1&limit=3&filters=%7B%22status%22%3A%7B%22exited%22%3Atrue%7D%7D"
    );
    assert_eq!(run(&daemon, &["images"]).out, "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
}

#[test]
fn the_line_is_checked_before_anything_is_asked() {
    let daemon = Daemon::start(|_: &Seen| Answer::empty(500));
    let check = |line: &[&str], code: u8, err: &str| assert_eq!(run(&daemon, line), outcome(code, "", err));
    check(&["foo"], 1, "palan: unknown command: palan foo\n\nRun 'palan --help' for more information\n");
    check(&["compose", "up"], 1, "palan: 'palan compose' is not supported yet\n");
    check(
        &["run"],
        1,
        "palan: 'palan run' requires at least 1 argument\n\nUsage:  palan run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n\
         See 'palan run --help' for more information\n",
    );
    check(
        &["run", "--foo", "x"],
        125,
        "unknown flag: --foo\n\nUsage:  palan run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n\
         Run 'palan run --help' for more information\n",
    );
    check(
        &["run", "--gpus", "a=b", "x"],
        125,
        "invalid argument \"a=b\" for \"--gpus\" flag: unexpected key 'a' in 'a=b'\n\nUsage:  palan run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n\
         Run 'palan run --help' for more information\n",
    );
    check(
        &["run", "-p", "99999:1", "x"],
        125,
        "palan: invalid hostPort: 99999\n\nRun 'palan run --help' for more information\n",
    );
    check(
        &["run", "UPPER"],
        125,
        "palan: invalid reference format: repository name (library/UPPER) must be lowercase\n\n\
         Run 'palan run --help' for more information\n",
    );
    check(
        &["--tlsverify", "--tlscacert", "/nonexistent/ca.pem", "ps"],
        1,
        "cannot use the TLS authorities /nonexistent/ca.pem: I/O error: No such file or directory (os error 2)\n",
    );
    assert!(daemon.requests().is_empty());
    let streams =
        Streams::of_test(io::empty(), Sink::new("stdout", io::sink()), Sink::new("stderr", io::sink()));
    let environment = Environment::of(&[("DOCKER_HOST", "unix:///nonexistent/socket")]);
    assert_eq!(crate::run(Program::Palan, ["run", "x"].iter().map(Into::into), streams, environment), 125);
    assert!(run(&daemon, &["--version"]).out.starts_with("Palan version 0.1.0, build "));
}

/// Contexts as Docker's client has them: made, listed, used, shown, changed, removed.
#[test]
fn contexts_are_kept_and_used() {
    let daemon = Daemon::start(|_: &Seen| Answer::json(200, "[]"));
    let home = daemon.home();
    let call = |program, variables: &[(&str, &str)], line: &[&str]| {
        let (out, err) = (Captured::default(), Captured::default());
        let streams =
            Streams::of_test(io::empty(), Sink::new("stdout", out.clone()), Sink::new("stderr", err.clone()));
        let variables: Vec<_> =
            [("HOME", home.as_str())].into_iter().chain(variables.iter().copied()).collect();
        let code = crate::run(program, line.iter().map(Into::into), streams, Environment::of(&variables));
        Outcome { code, out: out.text(), err: err.text() }
    };
    let palan = |line: &[&str]| call(Program::Palan, &[], line);
    let docker = format!("host={}", daemon.address());
    assert_eq!(
        palan(&["context", "create", "far", "--description", "the other one", "--docker", &docker]),
        outcome(0, "far\n", "Successfully created context \"far\"\n")
    );
    assert_eq!(palan(&["context", "create", "far"]), outcome(1, "", "context \"far\" already exists\n"));
    assert_eq!(
        palan(&["context", "create", "x2", "--docker", "hots=1"]).err,
        "unable to create docker endpoint config: unrecognized config key: hots\n"
    );
    assert_eq!(palan(&["context", "show"]), outcome(0, "default\n", ""));
    assert_eq!(palan(&["context", "use", "lost"]), outcome(1, "", "context \"lost\": context not found\n"));
    assert_eq!(palan(&["context", "use", "far"]), outcome(0, "far\n", "Current context is now \"far\"\n"));
    assert_eq!(palan(&["ps", "-q"]), outcome(0, "", ""));
    assert_eq!(daemon.requests().len(), 1, "the daemon of the context was asked");
    let address = daemon.address();
    let width = address.len().max("unix:///run/palan/palan.sock".len()) + 3;
    assert_eq!(
        palan(&["context", "ls"]).out,
        format!(
            "NAME      DESCRIPTION                               {:width$}ERROR\n\
             default   Current DOCKER_HOST based configuration   {:width$}\n\
             far *     the other one                             {:width$}\n",
            "DOCKER ENDPOINT", "unix:///run/palan/palan.sock", address
        )
    );
    assert_eq!(palan(&["context", "ls", "-q"]).out, "default\nfar\n");
    assert_eq!(
        palan(&[
            "context",
            "inspect",
            "far",
            "-f",
            "{{.Name}} {{.Metadata.Description}} {{.Endpoints.docker.Host}}"
        ])
        .out,
        format!("far the other one {address}\n")
    );
    // What was chosen for `palan` is not chosen for `docker`, and the other way round.
    let as_docker = |line: &[&str]| call(Program::Docker, &[], line);
    assert_eq!(as_docker(&["context", "show"]).out, "default\n");
    as_docker(&["context", "use", "far"]);
    let file = std::fs::read_to_string(format!("{home}/.docker/config.json")).unwrap();
    assert_eq!(file, "{\n\t\"currentContext\": \"far\"\n}");
    let named = call(Program::Palan, &[("DOCKER_HOST", &address)], &["context", "show"]);
    assert_eq!(named, outcome(0, "default\n", ""));
    assert_eq!(
        palan(&["context", "update", "far", "--description", "near"]),
        outcome(0, "far\n", "Successfully updated context \"far\"\n")
    );
    assert_eq!(
        palan(&["context", "rm", "far"]),
        outcome(1, "", "context \"far\" is in use, set -f flag to force remove\n")
    );
    assert_eq!(palan(&["context", "rm", "-f", "far"]), outcome(0, "far\n", ""));
    assert_eq!(palan(&["context", "rm", "far"]), outcome(1, "", "context \"far\" does not exist\n"));
    assert_eq!(palan(&["context", "rm", "default"]).err, "context \"default\" cannot be removed\n");
    assert_eq!(palan(&["context", "show"]).out, "default\n");
}

/// Under the name `docker` the texts say `docker`.
#[test]
fn it_is_called_docker() {
    let (out, err) = (Captured::default(), Captured::default());
    let streams =
        Streams::of_test(io::empty(), Sink::new("stdout", out.clone()), Sink::new("stderr", err.clone()));
    let line = ["container", "ls", "--help"];
    let code = crate::run(Program::Docker, line.iter().map(Into::into), streams, Environment::of(&[]));
    let text = out.text();
    assert_eq!(code, 0);
    assert!(text.starts_with("Usage:  docker container ls [OPTIONS]\n"), "{text}");
    assert!(text.contains("docker container ls, docker container list"), "{text}");
}

/// `system prune` asks for everything that it names, in Docker's order, and adds up what came free.
#[test]
fn the_whole_system_is_pruned() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.split('?').next().unwrap_or_default() {
        "/containers/prune" => Answer::json(200, r#"{"ContainersDeleted":["c1"],"SpaceReclaimed":1000}"#),
        "/networks/prune" => Answer::json(200, r#"{"NetworksDeleted":["n1"]}"#),
        "/volumes/prune" => Answer::json(200, r#"{"VolumesDeleted":null,"SpaceReclaimed":0}"#),
        "/build/prune" => Answer::json(200, r#"{"CachesDeleted":["b1"],"SpaceReclaimed":200}"#),
        _ => Answer::json(
            200,
            r#"{"ImagesDeleted":[{"Untagged":"i:1"},{"Deleted":"sha256:1"}],"SpaceReclaimed":500}"#,
        ),
    });
    let asked = run_with(&daemon, &["system", "prune", "--volumes"], io::Cursor::new("n\n"));
    assert_eq!(
        asked,
        outcome(
            1,
            "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
             container\n  - all anonymous volumes not used by at least one container\n  - all dangling images\n  \
             - unused build cache\n\nAre you sure you want to continue? [y/N] ",
            "system prune has been cancelled\n"
        )
    );
    assert!(daemon.requests().is_empty());
    let pruned = run(&daemon, &["system", "prune", "-af", "--volumes"]);
    assert_eq!(
        pruned,
        outcome(
            0,
            "Deleted Containers:\nc1\n\nDeleted Networks:\nn1\n\nDeleted Images:\nuntagged: i:1\ndeleted: \
             sha256:1\n\nDeleted build cache objects:\nb1\n\nTotal reclaimed space: 1.7kB\n",
            ""
        )
    );
    let paths = daemon.requests();
    assert_eq!(paths.len(), 5, "{paths:?}");
    assert!(paths[3].contains("/images/prune") && paths[3].contains("false"), "{paths:?}");
    assert!(paths[4].contains("/build/prune?all=1"), "{paths:?}");
    run(&daemon, &["system", "prune", "-f", "--filter", "label=x"]);
    assert_eq!(daemon.requests().len(), 8, "results of builds have no labels");
    assert_eq!(
        run(&daemon, &["system", "prune", "-f", "--volumes", "--filter", "until=1h"]).err,
        "ERROR: The \"until\" filter is not supported with \"--volumes\"\n"
    );
}

/// A shell asks for candidates in the protocol of Docker's client.
#[test]
fn shells_are_given_candidates() {
    let daemon = Daemon::start(|seen: &Seen| match seen.path.split('?').next().unwrap_or_default() {
        "/containers/json" => {
            Answer::json(200, r#"[{"Id":"1","Names":["/web","/other/web"]},{"Id":"2","Names":["/wide"]}]"#)
        }
        "/images/json" => {
            Answer::json(200, r#"[{"Id":"3","RepoTags":["debian:latest","debian:12","<none>:<none>"]}]"#)
        }
        "/networks" => Answer::json(200, r#"[{"Name":"front"},{"Name":"back"}]"#),
        _ => Answer::json(200, r#"{"Volumes":[{"Name":"data"}]}"#),
    });
    let check = |words: &[&str], expected: &str| {
        let line: Vec<&str> = ["__completeNoDesc"].iter().chain(words).copied().collect();
        assert_eq!(run(&daemon, &line), outcome(0, expected, ""), "{words:?}");
    };
    check(&["container", "l"], "logs\nls\n:4\n");
    check(&["stop", "w"], "web\nwide\n:4\n");
    check(&["stop", "web", "w"], "wide\n:4\n");
    check(&["-H", &daemon.address(), "rm", "-f", "wi"], "wide\n:4\n");
    check(&["run", "--rm", "deb"], "debian\ndebian:latest\ndebian:12\n:4\n");
    check(&["run", "-it", "debian", "/b"], ":0\n");
    check(&["run", "--network", ""], "front\nback\n:4\n");
    check(&["run", "--network=f"], "--network=front\n:4\n");
    check(&["run", "-v", "d"], "data:\n:6\n");
    check(&["run", "-v", "/"], ":0\n");
    check(&["run", "--restart", "on"], "on-failure\n:4\n");
    check(&["network", "create", "f"], ":4\n");
    check(&["network", "connect", "front", "we"], "web\n:4\n");
    check(&["rmi", "--no"], "--no-prune\n:4\n");
    check(&["ima"], "image\nimages\n:4\n");
    check(&["context", "use", ""], "default\n:4\n");
    check(&["import", "x"], ":0\n");
    let described = run(&daemon, &["__complete", "pus"]);
    assert_eq!(described.out, "push\tUpload an image to a registry\n:4\n");
    assert!(run(&daemon, &["completion", "bash"]).out.contains("complete -F _palan palan"));
    assert_eq!(run(&daemon, &["completion", "csh"]).code, 1);
}
