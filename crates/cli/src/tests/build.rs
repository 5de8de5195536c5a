//! `build`: what is said without a daemon, and whole conversations with one that speaks BuildKit's protocol as the test says.

/// The daemon.
mod builder;
/// Where results go.
mod results;

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use palan_buildkit::errdefs;
use palan_buildkit::fsutil::{Devices, Owners, Receive};
use palan_buildkit::grpc::{Channel, Code, Metadata, Status, metadata};
use palan_buildkit::message::control::{
    SolveRequest, SolveResponse, StatusResponse, Vertex, VertexLog, VertexWarning,
};
use palan_buildkit::message::pb::{Position, Range, SourceInfo};
use palan_buildkit::message::session::{GetSecretRequest, GetSecretResponse};
use palan_buildkit::message::session::{metadata as session_metadata, method as session_method};
use palan_linux::path::RootDir;

use super::{Captured, Outcome, outcome};
use crate::app::Program;
use crate::environment::Environment;
use crate::output::streams::{Sink, Streams};
use builder::Builder;

/// A directory with files.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    directory
}

fn run_at(host: &str, line: &[&str], input: Vec<u8>, variables: &[(&str, &str)]) -> Outcome {
    let (out, err) = (Captured::default(), Captured::default());
    let streams = Streams::of_test(
        Cursor::new(input),
        Sink::new("stdout", out.clone()),
        Sink::new("stderr", err.clone()),
    );
    let all = [&[("DOCKER_HOST", host), ("HOME", "/nonexistent")], variables].concat();
    let code = crate::run(Program::Palan, line.iter().map(Into::into), streams, Environment::of(&all));
    Outcome { code, out: out.text(), err: err.text() }
}

/// Without any daemon.
fn alone(line: &[&str], input: &str) -> Outcome {
    run_at("unix:///nonexistent/daemon.sock", line, input.as_bytes().to_vec(), &[])
}

#[test]
fn mistakes_are_told_before_anybody_is_asked() {
    let check = |files: &[(&str, &str)], flags: &[&str], expected: &str| {
        let directory = tree(files);
        let path = directory.path().display().to_string();
        let line = [&["build"], flags, &[path.as_str()]].concat();
        let result = alone(&line, "");
        assert_eq!((result.code, result.out.as_str()), (1, ""), "{result:?}");
        assert!(result.err.replace(&path, "PATH").starts_with(expected), "{}", result.err);
    };
    check(
        &[("Dockerfile", "FROM scratch\nFRMO x\n")],
        &[],
        "Dockerfile:2\n--------------------\n   1 |     FROM scratch\n   2 | >>> FRMO x\n     |     ^^^^\n   3 |     \n\
         --------------------\nERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown \
         instruction: FRMO (did you mean FROM?)\n",
    );
    check(
        &[],
        &[],
        "ERROR: failed to build: failed to read dockerfile: open PATH/Dockerfile: no such file or directory\n",
    );
    check(
        &[("Containerfile", "FROM scratch")],
        &[],
        "ERROR: failed to build: failed to read dockerfile: open PATH/Dockerfile: no such file or directory\n\nThere is a PATH/Containerfile",
    );
    check(
        &[("Dockerfile", "FROM scratch AS build\n")],
        &["--target", "biuld"],
        "ERROR: failed to build: failed to solve: target stage \"biuld\" could not be found (did you mean build?)\n",
    );
    check(&[("Dockerfile", "# syntax=example/frontend\nFROM scratch\n")], &[], "Dockerfile:1\n");
    check(&[("Dockerfile", "FROM a AS b\nCOPY --from=b / /\n")], &[], "Dockerfile:2\n");
    let wrong = |line: &[&str], expected: &str| {
        let result = alone(line, "FROM scratch");
        assert!(result.err.contains(expected), "{}", result.err);
    };
    wrong(&["build", "/nonexistent"], "unable to prepare context: path \"/nonexistent\" not found");
    wrong(&["build"], "'palan build' requires 1 argument");
    wrong(&["build", "-f", "-", "-"], "can't use stdin for both build context and dockerfile");
    wrong(&["build", "-f", "x", "-"], "ambiguous Dockerfile source");
    wrong(&["build", "--memory", "1g", "."], "--memory is not supported yet");
    wrong(&["build", "--progress", "fancy", "."], "must be one of: auto, none, plain, quiet, rawjson, tty");
    wrong(&["build", "--on-error", "shell", "."], "--on-error=shell needs a terminal");
    wrong(&["build", "--on-error", "x", "."], "must be \"shell\"");
    wrong(&["build", "--rm=false", "."], "always removed");
    wrong(&["build", "-q", "--progress", "plain", "/"], "cannot be used together");
    wrong(&["buildx", "bake"], "'palan buildx bake' is not supported yet");
    wrong(&["build", "https://-x/a.git"], "its host begins with '-'");
    wrong(&["build", "--check", "https://example.com/a.git"], "--call needs the Dockerfile on this side");
}

#[test]
fn checks_are_answered_here() {
    let directory = tree(&[(
        "Dockerfile",
        "ARG VERSION=1\n# tools of the build\nFROM scratch AS tools\nRUN --mount=type=secret,id=token,required x\n\n# app what runs\nFROM tools AS app\nARG MODE\nCMD echo hi\n",
    )]);
    let path = directory.path().display().to_string();
    let result = alone(&["build", "--check", &path], "");
    assert_eq!(result.code, 1, "{result:?}");
    assert!(
        result.out.starts_with(
            "Check complete, 1 warning has been found!\n\nWARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n"
        ),
        "{}",
        result.out
    );
    assert!(result.out.contains("   9 | >>> CMD echo hi\n"), "{}", result.out);
    let clean = alone(&["build", "--check", "-"], "FROM scratch\nCOPY a /\n");
    assert_eq!(clean, outcome(0, "Check complete, no warnings found.\n", ""));
    let json = alone(&["build", "--call", "check,format=json", &path], "");
    assert!(json.out.contains(r#""ruleName":"JSONArgsRecommended""#), "{}", json.out);
    let targets = alone(&["build", "--call", "targets", &path], "");
    assert_eq!(
        targets,
        outcome(
            0,
            "TARGET          DESCRIPTION\ntools           of the build\napp (default)   what runs\n",
            ""
        )
    );
    let outline = alone(&["build", "--call", "outline", "--build-arg", "MODE=fast", &path], "");
    assert_eq!(
        outline,
        outcome(
            0,
            "TARGET:        app\nDESCRIPTION:   what runs\n\nBUILD ARG   VALUE     DESCRIPTION\nMODE        fast      \nVERSION     1         \n\nSECRET    REQUIRED\ntoken     true\n",
            ""
        )
    );
}

/// The content of a directory that the client offers.
async fn sync(session: &Channel, name: &str) -> Result<Vec<(String, String)>, Status> {
    let call = session
        .call(session_method::FILE_SYNC_DIFF_COPY, metadata(&[(session_metadata::DIR_NAME, name)]))
        .await?;
    let directory = tempfile::tempdir().unwrap();
    let root = RootDir::open(directory.path()).unwrap();
    let receive = Receive { mirror: false, owners: Owners::Mine, devices: Devices::Made, progress: None };
    receive.run(root, call.incoming, call.outgoing).await?;
    let mut found = Vec::new();
    collect(directory.path(), directory.path(), &mut found);
    found.sort();
    Ok(found)
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn at(milliseconds: u64) -> Option<palan_buildkit::message::status::Timestamp> {
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + milliseconds);
    Some(time.into())
}

fn vertex(digest: &str, name: &str, from: u64, to: Option<u64>, error: &str) -> StatusResponse {
    let vertex = Vertex {
        digest: digest.to_owned(),
        name: name.to_owned(),
        started: at(from),
        completed: to.and_then(at),
        error: error.to_owned(),
        ..Vertex::default()
    };
    StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
}

fn log(digest: &str, time: u64, text: &str) -> StatusResponse {
    let log = VertexLog {
        vertex: digest.to_owned(),
        timestamp: at(time),
        stream: 1,
        msg: text.as_bytes().to_vec().into(),
    };
    StatusResponse { logs: vec![log], ..StatusResponse::default() }
}

fn answers(pairs: &[(&str, &str)]) -> SolveResponse {
    let exporter_response =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    SolveResponse { exporter_response }
}

#[test]
fn a_build_from_its_flags_to_its_files() {
    let context = tree(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "content"), ("d/b", "more")]);
    let other = tree(&[("x", "of another context")]);
    let seen: Arc<Mutex<Option<SolveRequest>>> = Arc::default();
    let request_seen = Arc::clone(&seen);
    let updates = vec![
        vertex("sha256:aa", "[1/1] COPY a /", 0, None, ""),
        log("sha256:aa", 20, "working\n"),
        vertex("sha256:aa", "[1/1] COPY a /", 0, Some(300), ""),
    ];
    let builder = Builder::start(updates, move |request, session| {
        let seen = Arc::clone(&request_seen);
        Box::pin(async move {
            *seen.lock().unwrap() = Some(request);
            let texts = |files: &[(&str, &str)]| {
                files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<Vec<_>>()
            };
            let dockerfile = ("Dockerfile", "FROM scratch\nCOPY a /\n");
            assert_eq!(
                sync(&session, "context").await?,
                texts(&[dockerfile, ("a", "content"), ("d/b", "more")])
            );
            assert_eq!(sync(&session, "other").await?, texts(&[("x", "of another context")]));
            assert_eq!(sync(&session, "etc").await.unwrap_err().code, Code::NotFound);
            let secret: GetSecretResponse = session
                .unary(
                    session_method::GET_SECRET,
                    Metadata::new(),
                    &GetSecretRequest { id: "token".to_owned(), ..GetSecretRequest::default() },
                )
                .await?;
            assert_eq!(secret.data, "hidden");
            Ok(answers(&[
                ("containerimage.config.digest", "sha256:cc"),
                ("containerimage.digest", "sha256:dd"),
            ]))
        })
    });
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| files.path().join(name).display().to_string();
    let result = builder.run(
        &[
            "build",
            "-t",
            "app",
            "-t",
            "app:2",
            "--build-arg",
            "A=1",
            "--build-arg",
            "FROM_HERE",
            "--build-arg",
            "UNSET",
            "--label",
            "l=m",
            "--secret",
            "id=token,env=TOKEN",
            "--network",
            "host",
            "--add-host",
            "h:1.2.3.4",
            "--shm-size",
            "1m",
            "--ulimit",
            "nofile=1:2",
            "--no-cache",
            "--pull",
            "--platform",
            "linux/arm64,linux/amd64",
            "--iidfile",
            &file("id"),
            "--metadata-file",
            &file("metadata"),
            "--progress",
            "plain",
            "--cache-from",
            "cache:1",
            "--cache-to",
            "type=inline",
            "--allow",
            "security.insecure",
            "--build-context",
            &format!("other={}", other.path().display()),
            &context.path().display().to_string(),
        ],
        b"",
        &[("TOKEN", "hidden"), ("FROM_HERE", "x"), ("SOURCE_DATE_EPOCH", "0")],
    );
    assert_eq!(result, outcome(0, "", "#1 [1/1] COPY a /\n#1 0.020 working\n#1 DONE 0.3s\n"));
    let request = seen.lock().unwrap().take().unwrap();
    let attributes: Vec<String> =
        request.frontend_attrs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        attributes,
        [
            "add-hosts=h=1.2.3.4",
            "build-arg:A=1",
            "build-arg:FROM_HERE=x",
            "build-arg:SOURCE_DATE_EPOCH=0",
            "context:other=local:other",
            "filename=Dockerfile",
            "force-network-mode=host",
            "image-resolve-mode=pull",
            "label:l=m",
            "no-cache=",
            "platform=linux/arm64,linux/amd64",
            "shm-size=1048576",
            "ulimit=nofile=1:2",
        ]
    );
    assert_eq!(
        (request.frontend.as_str(), request.entitlements),
        ("dockerfile.v0", vec!["security.insecure".to_owned(), "network.host".to_owned()])
    );
    let exporter = &request.exporters[0];
    assert_eq!(
        (exporter.kind.as_str(), exporter.attrs["name"].as_str()),
        ("moby", "docker.io/library/app:latest,docker.io/library/app:2")
    );
    let cache = request.cache.unwrap();
    assert_eq!(
        (cache.imports[0].attrs["ref"].as_str(), cache.exports[0].kind.as_str()),
        ("docker.io/library/cache:1", "inline")
    );
    assert_eq!(std::fs::read_to_string(file("id")).unwrap(), "sha256:cc");
    assert!(
        std::fs::read_to_string(file("metadata"))
            .unwrap()
            .contains("\"containerimage.digest\": \"sha256:dd\"")
    );
    let head = builder.shared.session_head.lock().unwrap().clone();
    assert!(head.contains("X-Docker-Expose-Session-Sharedkey: "), "{head}");
}

#[test]
fn quiet_prints_the_image() {
    let builder = Builder::start(vec![vertex("sha256:aa", "x", 0, Some(1), "")], |_, session| {
        Box::pin(async move {
            assert_eq!(sync(&session, "context").await?, []);
            let dockerfile = ("Dockerfile".to_owned(), "FROM scratch\n".to_owned());
            assert_eq!(sync(&session, "dockerfile").await?, [dockerfile]);
            Ok(answers(&[("containerimage.digest", "sha256:dd")]))
        })
    });
    let temporary = tempfile::tempdir().unwrap();
    let variables = [("TMPDIR", temporary.path().to_str().unwrap())];
    let result = builder.run(&["image", "build", "-q", "-"], b"FROM scratch\n", &variables);
    assert_eq!(result, outcome(0, "sha256:dd\n", ""));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_context_comes_by_standard_input() {
    let mut writer = palan_tar::write::Writer::new(Vec::new());
    for (path, text) in [("sub/Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "content")] {
        let entry = palan_tar::Entry {
            size: text.len() as u64,
            mode: 0o644,
            ..palan_tar::Entry::plain(path.as_bytes().to_vec(), palan_tar::Kind::Regular)
        };
        writer.file(&entry, &mut text.as_bytes()).unwrap();
    }
    let archive = writer.finish().unwrap();
    let builder = Builder::start(Vec::new(), |request, session| {
        Box::pin(async move {
            assert_eq!(request.frontend_attrs["filename"], "sub/Dockerfile");
            assert_eq!(sync(&session, "context").await?.len(), 2);
            Ok(answers(&[]))
        })
    });
    let result = builder.run(&["build", "-f", "sub/Dockerfile", "-"], &archive, &[]);
    assert_eq!(result, outcome(0, "", ""));
    let wrong = builder.run(&["build", "-f", "../../etc/passwd", "-"], &archive, &[]);
    assert!(
        wrong.err.contains("failed to read dockerfile: open ../../etc/passwd: no such file or directory"),
        "{wrong:?}"
    );
}

#[test]
fn the_dockerfile_of_a_context_elsewhere_may_be_here() {
    const ADDRESS: &str = "https://example.com/a.git";
    let here = tree(&[("d/Dockerfile.x", "FROM scratch\n")]);
    let path = here.path().join("d/Dockerfile.x").display().to_string();
    let builder = Builder::start(Vec::new(), |request, session| {
        Box::pin(async move {
            let attributes = ["context", "dockerfilekey", "filename"]
                .map(|name| request.frontend_attrs.get(name).map_or("", String::as_str));
            assert_eq!(attributes, [ADDRESS, "dockerfile", "Dockerfile.x"]);
            let dockerfile = ("Dockerfile.x".to_owned(), "FROM scratch\n".to_owned());
            assert_eq!(sync(&session, "dockerfile").await?, [dockerfile]);
            Ok(answers(&[]))
        })
    });
    assert_eq!(builder.run(&["build", "-f", &path, ADDRESS], b"", &[]), outcome(0, "", ""));
    assert_eq!(
        alone(&["build", "--check", "-f", &path, ADDRESS], ""),
        outcome(0, "Check complete, no warnings found.\n", "")
    );
    let missing = alone(&["build", "-f", "/nonexistent/Dockerfile", ADDRESS], "");
    assert!(
        missing.err.contains("failed to read dockerfile: open /nonexistent/Dockerfile: no such file"),
        "{missing:?}"
    );
}

#[test]
fn raw_json_tells_where_a_warning_belongs() {
    let context = tree(&[("Dockerfile", "FROM scratch\n")]);
    let position = |line: i32, character: i32| Some(Position { line, character });
    let warning = VertexWarning {
        vertex: "sha256:aa".to_owned(),
        level: 1,
        short: "advice".as_bytes().into(),
        info: Some(SourceInfo {
            filename: "Dockerfile".to_owned(),
            data: "FROM x".as_bytes().into(),
            language: "Dockerfile".to_owned(),
            ..SourceInfo::default()
        }),
        ranges: vec![Range { start: position(1, 0), end: position(2, 3) }],
        ..VertexWarning::default()
    };
    let update = StatusResponse { warnings: vec![warning], ..StatusResponse::default() };
    let builder = Builder::start(vec![update], |_, _| Box::pin(async move { Ok(answers(&[])) }));
    let line = ["build", "--progress", "rawjson", context.path().to_str().unwrap()];
    assert_eq!(
        builder.run(&line, b"", &[]),
        outcome(
            0,
            "",
            concat!(
                r#"{"warnings":[{"vertex":"sha256:aa","level":1,"short":"YWR2aWNl","#,
                r#""sourceInfo":{"filename":"Dockerfile","data":"RlJPTSB4","language":"Dockerfile"},"#,
                r#""range":[{"start":{"line":1},"end":{"line":2,"character":3}}]}]}"#,
                "\n"
            )
        )
    );
}

#[test]
fn a_failure_ends_with_its_step_and_its_place() {
    let text = "FROM bb\nRUN exit 3\n";
    let context = tree(&[("Dockerfile", text)]);
    let error = "process \"/bin/sh -c exit 3\" did not complete successfully: exit code: 3";
    let updates = vec![
        vertex("sha256:aa", "[2/2] RUN exit 3", 0, None, ""),
        log("sha256:aa", 50, "oh no\n"),
        vertex("sha256:aa", "[2/2] RUN exit 3", 0, Some(100), error),
    ];
    let builder = Builder::start(updates, move |_, _| {
        Box::pin(async move {
            let position = |character: i32| Some(Position { line: 2, character });
            let info = SourceInfo {
                filename: "Dockerfile".to_owned(),
                data: text.as_bytes().into(),
                ..SourceInfo::default()
            };
            let ranges = vec![Range { start: position(0), end: position(0) }];
            let mut status = Status::new(Code::Unknown, error);
            errdefs::add_source(&mut status, &errdefs::Source { info, ranges });
            Err(status)
        })
    });
    let files = tempfile::tempdir().unwrap();
    let id = files.path().join("id");
    std::fs::write(&id, "of an earlier build").unwrap();
    let line = ["build", "--iidfile", id.to_str().unwrap(), context.path().to_str().unwrap()];
    let result = builder.run(&line, b"", &[]);
    assert_eq!(
        result,
        outcome(
            1,
            "",
            &format!(
                "#1 [2/2] RUN exit 3\n#1 0.050 oh no\n#1 ERROR: {error}\n------\n > [2/2] RUN exit 3:\n0.050 oh no\n------\n\
                 Dockerfile:2\n--------------------\n   1 |     FROM bb\n   2 | >>> RUN exit 3\n   3 |     \n--------------------\n\
                 ERROR: failed to build: failed to solve: {error}\n"
            )
        )
    );
    assert!(!id.exists());
    assert!(!*builder.shared.was_cancelled.lock().unwrap());
}
