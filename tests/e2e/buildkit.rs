//! BuildKit's protocol: our own client of it, bollard's, and clients that nobody should have.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use palan_buildkit::control::Control;
use palan_buildkit::errdefs;
use palan_buildkit::grpc::{Call, Channel, Code, Handled, Service, Status, serve};
use palan_buildkit::message::control::{
    CacheOptions, CacheOptionsEntry, Exporter, PruneRequest, SolveRequest, StatusResponse,
};
use palan_buildkit::message::session::{Packet, Stat, method, packet};
use palan_buildkit::session::{ContentStore, Directory, Output, Secret, Services, Upload, header, new_id};
use palan_buildkit::upgrade::{UpgradeError, Upgraded, upgrade};
use palan_test_support::daemon::Daemon;
use palan_test_support::image::TarBuilder;
use palan_test_support::{PATIENCE, requires, wait_until};
use tokio::net::UnixStream;

use crate::images::daemon;

/// Runs what is asynchronous.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("an end") })
}

async fn connect(
    daemon: &Daemon,
    path: &str,
    headers: &[(String, String)],
) -> Result<Upgraded<UnixStream>, UpgradeError> {
    upgrade(UnixStream::connect(daemon.socket()).await.unwrap(), path, headers).await
}

async fn control(daemon: &Daemon) -> Control {
    let stream = connect(daemon, "/grpc", &[]).await.expect("an upgrade");
    let (channel, driver) = Channel::connect(stream).await.expect("a connection");
    tokio::spawn(driver);
    Control::new(channel)
}

/// A build, with all that it told.
struct Built {
    outcome: Result<BTreeMap<String, String>, Status>,
    news: Vec<StatusResponse>,
}

impl Built {
    #[track_caller]
    fn ok(&self) -> &BTreeMap<String, String> {
        self.outcome.as_ref().expect("a build")
    }

    #[track_caller]
    fn error(&self) -> &Status {
        self.outcome.as_ref().expect_err("a failure")
    }

    /// What steps wrote.
    fn output(&self) -> String {
        let logs = self.news.iter().flat_map(|news| &news.logs);
        logs.map(|log| String::from_utf8_lossy(&log.msg).into_owned()).collect()
    }

    /// How many instructions were in the cache.
    fn cached(&self) -> usize {
        let vertexes = self.news.iter().flat_map(|news| &news.vertexes);
        let steps = vertexes.filter(|vertex| vertex.name.contains("] COPY"));
        let cached = steps.filter(|vertex| vertex.cached).map(|vertex| &vertex.digest);
        cached.collect::<std::collections::BTreeSet<_>>().len()
    }

    /// How many bytes of the main context came.
    fn transferred(&self) -> i64 {
        let vertexes = self.news.iter().flat_map(|news| &news.vertexes);
        let context = vertexes.filter(|vertex| vertex.name == "[internal] load build context");
        let digests: Vec<_> = context.map(|vertex| vertex.digest.clone()).collect();
        let statuses = self.news.iter().flat_map(|news| &news.statuses);
        statuses
            .filter(|status| digests.contains(&status.vertex))
            .map(|status| status.current)
            .max()
            .unwrap_or(0)
    }
}

fn attrs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn exporter(kind: &str, entries: &[(&str, &str)]) -> Exporter {
    Exporter { kind: kind.to_owned(), attrs: attrs(entries) }
}

/// Builds as buildx would without its gateway.
async fn solve(
    daemon: &Daemon,
    services: Services,
    shared_key: &str,
    attributes: &[(&str, &str)],
    exporters: Vec<Exporter>,
) -> Built {
    solve_with(daemon, services, shared_key, attributes, exporters, CacheOptions::default()).await
}

/// The same with caches elsewhere.
async fn solve_with(
    daemon: &Daemon,
    services: Services,
    shared_key: &str,
    attributes: &[(&str, &str)],
    exporters: Vec<Exporter>,
    cache: CacheOptions,
) -> Built {
    let (session, reference) = (new_id().unwrap(), new_id().unwrap());
    let headers = services.headers(&session, "test", shared_key);
    let stream = connect(daemon, "/session", &headers).await.expect("a session");
    let serving = tokio::spawn(services.serve(stream));
    let control = control(daemon).await;
    let mut status = control.status(&reference).await.expect("the status");
    let telling = tokio::spawn(async move {
        let mut news = Vec::new();
        while let Ok(Some(more)) = status.next().await {
            news.push(more);
        }
        news
    });
    let request = SolveRequest {
        reference,
        session,
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attrs(attributes),
        exporters,
        cache: Some(cache),
        ..SolveRequest::default()
    };
    let outcome = control.solve(&request).await;
    serving.abort();
    Built { outcome: outcome.map(|response| response.exporter_response), news: telling.await.unwrap() }
}

/// A directory with a Dockerfile.
struct Context(PathBuf);

impl Context {
    fn new(daemon: &Daemon, name: &str, dockerfile: &str) -> Self {
        let context = Self(daemon.scratch().join(name));
        fs::create_dir_all(&context.0).unwrap();
        context.file("Dockerfile", dockerfile);
        context
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::create_dir_all(self.0.join(name).parent().unwrap()).unwrap();
        fs::write(self.0.join(name), content).unwrap();
        self
    }

    fn services(&self) -> Services {
        let directory = || Directory::open(&self.0).unwrap();
        Services::new().directory("context", directory()).directory("dockerfile", directory())
    }
}

fn run(daemon: &Daemon, image: &str, script: &str) -> String {
    daemon.palan(["run", "--rm", "--network", "none", image, "sh", "-c", script]).ok().stdout
}

#[test]
fn a_build_with_everything_a_session_has() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb\nARG A=1\nRUN --mount=type=secret,id=token echo \"A=$A $(cat /run/secrets/token)\"\n\
         COPY . /c\nCOPY --from=other x /x\nRUN find /c | sort\nLABEL a=b\n",
    );
    context
        .file("d/kept", "k")
        .file("d/left.o", "l")
        .file("secret.key", "s")
        .file(".dockerignore", "**/*.o\n/secret.key\n");
    symlink("/etc/passwd", context.0.join("link")).unwrap();
    let other = daemon.scratch().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("x"), "from the other").unwrap();
    let services = context
        .services()
        .directory("other", Directory::open(&other).unwrap())
        .secret("token", Secret::Value(Bytes::from_static(b"geheim")));
    let attributes = [("build-arg:A", "2"), ("label:c", "d"), ("context:other", "local:other")];
    let built =
        wait(solve(&daemon, services, "", &attributes, vec![exporter("moby", &[("name", "made:1,made:2")])]));
    let id = built.ok()["containerimage.config.digest"].clone();
    assert!(built.ok()["image.name"].contains("docker.io/library/made:1"), "{:?}", built.ok());
    assert!(built.output().contains("A=2 geheim"), "{}", built.output());
    let paths = ["/c", "/c/.dockerignore", "/c/Dockerfile", "/c/d", "/c/d/kept", "/c/link"];
    assert!(built.output().contains(&paths.join("\n")), "{}", built.output());
    assert_eq!(
        run(&daemon, "made:2", "cat /x; readlink /c/link; stat -c %a /c"),
        "from the other/etc/passwd\n755\n"
    );
    let inspected = daemon.palan(["image", "inspect", "made:1"]).ok().stdout;
    assert!(inspected.contains(&id) && inspected.contains("\"c\": \"d\""), "{inspected}");
    let history = daemon.palan(["history", "--no-trunc", "made:1"]).ok().stdout;
    assert!(!history.contains("geheim"), "{history}");
}

#[test]
fn only_what_has_changed_is_sent() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, "context", "FROM bb\nCOPY large /large\nCOPY small /small\n");
    context.file("large", vec![7; 3 << 20]).file("small", "1");
    let build = |key: &str| {
        let exporters = vec![exporter("moby", &[("name", "made")])];
        wait(solve(&daemon, context.services(), key, &[], exporters))
    };
    let first = build("key");
    first.ok();
    assert!(first.transferred() > 3 << 20, "{}", first.transferred());
    let again = build("key");
    again.ok();
    assert_eq!((again.transferred(), again.cached()), (0, 2));
    context.file("small", "changed");
    let third = build("key");
    third.ok();
    assert_eq!((third.transferred(), third.cached()), (7, 1));
    assert_eq!(run(&daemon, "made", "cat /small; wc -c < /large"), "changed3145728\n");
    // Mode and nothing else.
    fs::set_permissions(context.0.join("small"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(build("key").cached(), 1);
    // Another key knows nothing of it; the cache of steps does.
    let other = build("other");
    assert!(other.transferred() > 3 << 20);
    assert_eq!(other.cached(), 2);
    // Pruned, all comes again.
    wait(async {
        let control = control(&daemon).await;
        let mut removed =
            control.prune(&PruneRequest { all: true, ..PruneRequest::default() }).await.unwrap();
        while removed.next().await.expect("a record").is_some() {}
    });
    let pruned = build("key");
    assert!(pruned.transferred() > 3 << 20);
    assert_eq!(pruned.cached(), 0);
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn results_go_where_they_are_wanted() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb AS b\nRUN mkdir -p /o/d; echo 1 > /o/f; chmod 741 /o /o/d\nFROM scratch\nCOPY --from=b /o /o\n",
    );
    let target = daemon.scratch().join("target");
    let archives = [Shared::default(), Shared::default()];
    let output = |shared: &Shared| {
        let shared = shared.clone();
        Output::File(Arc::new(move |_| Ok(Box::new(shared.clone()))))
    };
    let services = context
        .services()
        .output(0, Output::Directory { path: target.clone(), mirror: false })
        .output(1, output(&archives[0]))
        .output(2, output(&archives[1]));
    let exporters =
        vec![exporter("local", &[]), exporter("tar", &[]), exporter("docker", &[("name", "saved:1")])];
    let built = wait(solve(&daemon, services, "", &[], exporters));
    built.ok();
    assert_eq!(fs::read(target.join("o/f")).unwrap(), b"1\n");
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("o"), mode("o/d")), (0o755, 0o741), "a destination is a new directory");
    let tar = archives[0].0.lock().unwrap().clone();
    assert!(tar.windows(3).any(|part| part == b"o/f"), "{} bytes", tar.len());
    let saved = daemon.scratch().join("saved.tar");
    fs::write(&saved, &*archives[1].0.lock().unwrap()).unwrap();
    assert!(!daemon.palan(["images"]).ok().stdout.contains("saved"));
    daemon.palan(["load", "-i", &saved.display().to_string()]).ok();
    assert!(daemon.palan(["images"]).ok().stdout.contains("saved"));
    // Nobody takes it.
    let built = wait(solve(&daemon, context.services(), "", &[], vec![exporter("local", &[])]));
    assert!(built.error().message.contains("not supported by the client"), "{}", built.error());
}

#[test]
fn failures_name_the_place() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, "context", "FROM bb\nRUN echo before; exit 7\n");
    let fail =
        |attributes: &[(&str, &str)]| wait(solve(&daemon, context.services(), "", attributes, Vec::new()));
    let built = fail(&[]);
    let error = built.error();
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Code::Unknown,
            "process \"/bin/sh -c echo before; exit 7\" did not complete successfully: exit code: 7"
        )
    );
    assert!(built.output().contains("before"));
    let vertex = errdefs::vertex(error).expect("the step");
    assert!(
        built
            .news
            .iter()
            .flat_map(|news| &news.vertexes)
            .any(|one| one.digest == vertex && !one.error.is_empty())
    );
    let sources = errdefs::sources(error);
    assert_eq!(sources[0].info.filename, "Dockerfile");
    assert_eq!(sources[0].ranges[0].start.as_ref().map(|start| start.line), Some(2));
    for (attributes, expected) in [
        (&[("filename", "nosuch")][..], "failed to read dockerfile: open nosuch: no such file or directory"),
        (&[("nonsense", "x")], "the frontend attribute \"nonsense\" is not supported"),
        (&[("target", "nosuch")], "nosuch"),
        (&[("contextkey", "nosuch")], "no access allowed to dir \"nosuch\""),
    ] {
        let message = fail(attributes).error().message.clone();
        assert!(message.contains(expected), "{message} instead of {expected}");
    }
    // A session that never comes.
    let request = SolveRequest {
        reference: new_id().unwrap(),
        frontend: "dockerfile.v0".to_owned(),
        ..SolveRequest::default()
    };
    let error = wait(async { control(&daemon).await.solve(&request).await }).expect_err("no session");
    assert!(error.message.contains("the build has no session"), "{error}");
}

#[test]
fn a_client_that_goes_ends_its_build() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, "context", "FROM bb\nRUN echo started; sleep 31415; echo ended\n");
    // No other process has this argument.
    let is_running = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        commands.into_iter().any(|command| command == b"sleep\x0031415\0")
    };
    wait(async {
        let solving = {
            let services = context.services();
            let (session, reference) = (new_id().unwrap(), new_id().unwrap());
            let headers = services.headers(&session, "test", "");
            let stream = connect(&daemon, "/session", &headers).await.unwrap();
            tokio::spawn(services.serve(stream));
            let control = control(&daemon).await;
            let mut status = control.status(&reference).await.unwrap();
            let request = SolveRequest {
                reference,
                session,
                frontend: "dockerfile.v0".to_owned(),
                ..SolveRequest::default()
            };
            let solving = tokio::spawn(async move { control.solve(&request).await });
            loop {
                let news = status.next().await.unwrap().unwrap();
                if news.logs.iter().any(|log| log.msg.starts_with(b"started")) {
                    break;
                }
            }
            solving
        };
        assert!(wait_until(PATIENCE, is_running), "the step does not run");
        solving.abort();
    });
    assert!(wait_until(PATIENCE, || !is_running()), "the step goes on");
    assert!(wait_until(PATIENCE, || {
        fs::read_dir(daemon.data_root().join("build/work")).unwrap().next().is_none()
    }));
}

#[test]
fn a_build_that_its_client_drives() {
    use palan_buildkit::grpc::metadata;
    use palan_buildkit::message::gateway as bridge;
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, "context", "FROM bb\nRUN echo driven > /x\n");
    let drive = |returns: Result<(), Status>| {
        let (services, daemon) = (context.services(), &daemon);
        wait(async move {
            let (session, reference) = (new_id().unwrap(), new_id().unwrap());
            let stream = connect(daemon, "/session", &services.headers(&session, "test", "")).await.unwrap();
            tokio::spawn(services.serve(stream));
            let stream = connect(daemon, "/grpc", &[]).await.unwrap();
            let (channel, driver) = Channel::connect(stream).await.unwrap();
            tokio::spawn(driver);
            let request = SolveRequest {
                reference: reference.clone(),
                session,
                exporters: vec![exporter("moby", &[("name", "driven")])],
                ..SolveRequest::default()
            };
            let named = metadata(&[(bridge::BUILD_ID, &reference)]);
            // Before the build is known: it waits.
            let ping = tokio::spawn({
                let (channel, named) = (channel.clone(), named.clone());
                async move {
                    channel
                        .unary::<_, bridge::PongResponse>(
                            bridge::method::PING,
                            named,
                            &bridge::PingRequest {},
                        )
                        .await
                }
            });
            let control = Control::new(channel.clone());
            let solving = tokio::spawn(async move { control.solve(&request).await });
            let pong = ping.await.unwrap().expect("a pong");
            assert!(pong.frontend_api_caps.iter().any(|cap| cap.id == "return" && cap.enabled));
            let wanted = bridge::SolveRequest {
                frontend: "dockerfile.v0".to_owned(),
                allow_result_return: true,
                allow_result_array_ref: true,
                ..bridge::SolveRequest::default()
            };
            let solved: bridge::SolveResponse =
                channel.unary(bridge::method::SOLVE, named.clone(), &wanted).await.expect("a result");
            let container = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";
            let refused = channel.unary::<_, bridge::PingRequest>(container, named.clone(), &wanted).await;
            assert_eq!(refused.expect_err("not here").code, Code::Unimplemented);
            let returned = match returns {
                Ok(()) => bridge::ReturnRequest { result: solved.result, error: None },
                Err(status) => bridge::ReturnRequest { result: None, error: Some(status.to_wire()) },
            };
            channel
                .unary::<_, bridge::ReturnResponse>(bridge::method::RETURN, named, &returned)
                .await
                .expect("heard");
            solving.await.unwrap()
        })
    };
    let error = drive(Err(Status::new(Code::Unknown, "my own reason"))).expect_err("given up");
    assert_eq!(error.message, "my own reason");
    assert!(!daemon.palan(["images"]).ok().stdout.contains("driven"));
    drive(Ok(())).expect("a build");
    assert_eq!(run(&daemon, "driven", "cat /x"), "driven\n");
}

/// A session that sends packets of its own.
struct Hostile(Vec<Packet>);

impl Service for Hostile {
    fn call(self: Arc<Self>, mut call: Call) -> Handled {
        Box::pin(async move {
            if call.method != method::FILE_SYNC_DIFF_COPY {
                return Err(Status::unimplemented(&call.method));
            }
            for packet in &self.0 {
                call.outgoing.send(packet).await?;
            }
            while let Some(packet) = call.incoming.next::<Packet>().await? {
                if packet.kind == packet::ERR {
                    break;
                }
            }
            Ok(())
        })
    }
}

#[test]
fn hostile_sessions() {
    requires!(root);
    let daemon = daemon();
    let victim = daemon.data_root().join("build/victim");
    fs::write(&victim, "safe").unwrap();
    let stat = |path: &str, mode: u32, link: &str| Packet {
        kind: packet::STAT,
        stat: Some(Stat {
            path: Bytes::copy_from_slice(path.as_bytes()),
            mode,
            linkname: Bytes::copy_from_slice(link.as_bytes()),
            ..Stat::default()
        }),
        ..Packet::default()
    };
    let (regular, link, device) = (0o644, 1 << 27 | 0o777, 1 << 26 | 1 << 21 | 0o666);
    for (packets, expected) in [
        (vec![stat("../victim", regular, "")], "was not told of before it"),
        (vec![stat("/etc/passwd", regular, "")], "no path of a file"),
        (vec![stat("a", link, "../.."), stat("a/victim", regular, "")], "was not told of before it"),
        (vec![stat("a", regular, "../../victim")], "a hard link to what is no file"),
        (vec![stat("a", device, "")], "a device"),
        (
            vec![Packet { kind: packet::DATA, id: 3, data: "x".into(), ..Packet::default() }],
            "was not asked for",
        ),
    ] {
        let error = wait(async {
            let session = new_id().unwrap();
            let headers = [
                (header::ID.to_owned(), session.clone()),
                (header::METHOD.to_owned(), method::FILE_SYNC_DIFF_COPY.to_owned()),
            ];
            let stream = connect(&daemon, "/session", &headers).await.unwrap();
            tokio::spawn(serve(stream, Arc::new(Hostile(packets))));
            let request = SolveRequest {
                reference: new_id().unwrap(),
                session,
                frontend: "dockerfile.v0".to_owned(),
                ..SolveRequest::default()
            };
            control(&daemon).await.solve(&request).await.expect_err(expected)
        });
        assert!(error.message.contains(expected), "{error} instead of {expected}");
        assert_eq!(fs::read(&victim).unwrap(), b"safe");
    }
    fs::remove_file(victim).unwrap();
    // Sessions that are none.
    wait(async {
        let id = (header::ID.to_owned(), "one".to_owned());
        let first = connect(&daemon, "/session", std::slice::from_ref(&id)).await.unwrap();
        let refused = connect(&daemon, "/session", &[id]).await.expect_err("taken").to_string();
        assert!(refused.contains("session one already exists"), "{refused}");
        drop(first);
        let refused = connect(&daemon, "/session", &[]).await.expect_err("no id").to_string();
        assert!(refused.contains(header::ID), "{refused}");
        // What speaks no HTTP/2 after the upgrade harms nobody.
        let mut stream = connect(&daemon, "/grpc", &[]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xff; 4096]).await.unwrap();
        assert!(control(&daemon).await.info().await.is_ok());
    });
}

/// An archive with a Dockerfile.
fn archive(files: &[(&str, &str)]) -> Bytes {
    let tar = files.iter().fold(TarBuilder::new(), |tar, (name, content)| tar.file(name, 0o644, content));
    tar.finish().into()
}

#[test]
fn an_archive_that_is_uploaded() {
    requires!(root);
    let daemon = daemon();
    let tar = archive(&[("Dockerfile", "FROM bb\nCOPY x /x\n"), ("x", "of the archive"), ("y", "z")]);
    let build = |tar: Bytes| {
        let services = Services::new().upload("abc", Upload::new(std::io::Cursor::new(tar)));
        let attributes = [("context", "http://buildkit-session/abc")];
        wait(solve(&daemon, services, "", &attributes, vec![exporter("moby", &[("name", "made")])]))
    };
    build(tar.clone()).ok();
    assert_eq!(run(&daemon, "made", "cat /x"), "of the archive");
    let error = build(tar.slice(..600)).error().message.clone();
    assert!(error.contains("context"), "{error}");
}

#[test]
fn bollard_builds() {
    use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput, SecretSource};
    use bollard::grpc::driver::{Build as _, moby::Moby};
    requires!(root);
    let daemon = daemon();
    let secret = daemon.scratch().join("secret");
    fs::write(&secret, "geheim").unwrap();
    let build = |dockerfile: &str, secret: &Path| {
        let tar = archive(&[("Dockerfile", dockerfile), ("x", "of bollard")]);
        let options = ImageBuildFrontendOptions::builder()
            .buildarg("A", "5")
            .set_secret("token", &SecretSource::File(secret.to_owned()))
            .build();
        wait(async {
            let socket = daemon.socket().display().to_string();
            let docker =
                bollard::Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION).unwrap();
            let input = ImageBuildLoadInput::Upload(tar);
            Moby::new(&docker).docker_build("by-bollard:1", options, input, None, None).await
        })
    };
    build(
        "FROM bb\nARG A\nCOPY x /x\nRUN --mount=type=secret,id=token echo $A $(wc -c < /run/secrets/token) > /y\n",
        &secret,
    )
    .expect("a build");
    assert_eq!(run(&daemon, "by-bollard:1", "cat /x /y"), "of bollard5 6\n");
    let error = build("FROM bb\nRUN false\n", &secret).expect_err("a failure").to_string();
    assert!(error.contains("did not complete successfully: exit code: 1"), "{error}");
}

#[test]
fn caches_at_the_clients() {
    requires!(root);
    let (daemon, other) = (daemon(), daemon());
    let context = Context::new(&daemon, "context", "FROM bb\nCOPY a /a\nRUN cat /a > /b; date > /now\n");
    context.file("a", "content");
    let store = daemon.scratch().join("cache");
    let entry = |kind: &str, entries: &[(&str, &str)]| CacheOptionsEntry {
        kind: kind.to_owned(),
        attrs: attrs(entries),
    };
    let exported =
        |entries: Vec<CacheOptionsEntry>| CacheOptions { exports: entries, ..CacheOptions::default() };
    let imported =
        |entries: Vec<CacheOptionsEntry>| CacheOptions { imports: entries, ..CacheOptions::default() };
    let build = |daemon: &Daemon, services: Services, attributes: &[(&str, &str)], cache: CacheOptions| {
        wait(solve_with(daemon, services, "", attributes, vec![exporter("moby", &[("name", "made")])], cache))
    };
    let offered = || context.services().store("local:c", ContentStore::new(&store));
    let to = entry("local", &[("dest", "c"), ("mode", "max")]);
    let built = build(&daemon, offered(), &[], exported(vec![to.clone()]));
    let manifest: serde_json::Value = serde_json::from_str(&built.ok()["cache.manifest"]).unwrap();
    let digest = manifest["digest"].as_str().unwrap().to_owned();
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    // A client's library names each import twice.
    let from = entry("local", &[("src", "c"), ("digest", &digest)]);
    let json = format!(r#"[{{"Type":"local","Attrs":{{"src":"c","digest":"{digest}"}}}}]"#);
    let found = build(&other, offered(), &[("cache-imports", &json)], imported(vec![from.clone()]));
    assert_eq!(found.ok()["containerimage.config.digest"], built.ok()["containerimage.config.digest"]);
    let vertexes = || found.news.iter().flat_map(|news| &news.vertexes);
    let imports: std::collections::BTreeSet<_> = vertexes()
        .filter(|vertex| vertex.name.starts_with("importing cache"))
        .map(|vertex| &vertex.digest)
        .collect();
    assert_eq!((found.cached(), imports.len()), (1, 1));
    // Without the store nothing can go there; what can't come from there is made.
    let error = build(&daemon, context.services(), &[], exported(vec![to.clone()]));
    assert!(error.error().message.contains("does not offer"), "{}", error.error());
    let nameless = build(&daemon, offered(), &[], exported(vec![entry("local", &[("dest", "d")])]));
    assert!(nameless.error().message.contains("unknown store local:d"), "{}", nameless.error());
    let twice = build(&daemon, offered(), &[], exported(vec![to.clone(), to]));
    assert!(twice.error().message.contains("duplicate cache exports [local]"), "{}", twice.error());
    for from in [
        entry("local", &[("src", "c"), ("digest", "sha256:x")]),
        entry("local", &[("src", "d"), ("digest", &digest)]),
        entry("gha", &[]),
    ] {
        let built = build(&daemon, offered(), &[], imported(vec![from.clone()]));
        built.ok();
        let mut warnings = built.news.iter().flat_map(|news| &news.warnings);
        let is_told = warnings.any(|warning| String::from_utf8_lossy(&warning.short).contains("is not used"));
        assert!(is_told, "{from:?}");
    }
}
