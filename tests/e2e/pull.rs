//! `palan pull` from registries that behave and from those that don't.

use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::image::{Compression, Flavour, ImageBuilder, Index, TarBuilder, noise};
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::{free_port, requires, wait_until};

use crate::images::busybox;

/// An image of several layers that don't compress.
fn large(layers: u64, bytes: usize) -> ImageBuilder {
    (0..layers).fold(busybox(), |image, number| {
        image.layer(TarBuilder::new().file(&format!("noise{number}"), 0o644, noise(bytes, number)).finish())
    })
}

fn pull(daemon: &Daemon, registry: &Registry, name: &str) -> palan_test_support::daemon::Run {
    daemon.palan(["pull", &format!("{}/{name}", registry.host())])
}

#[test]
fn every_media_type_runs() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    for (number, (flavour, compression)) in [
        (Flavour::Oci, Compression::Gzip),
        (Flavour::Oci, Compression::Zstd),
        (Flavour::Oci, Compression::Plain),
        (Flavour::Docker, Compression::Gzip),
    ]
    .into_iter()
    .enumerate()
    {
        let mark = format!("number {number}");
        let image = ImageBuilder::new()
            .flavour(flavour)
            .compression(compression)
            .layer(crate::images::busybox_layer())
            .file("mark", 0o644, &mark)
            .config("Env", serde_json::json!(["PATH=/bin"]))
            .build();
        let tag = format!("t{number}");
        registry.push("library/kinds", &tag, &image);
        let name = format!("{}/library/kinds:{tag}", registry.host());
        let pulled = daemon.palan(["pull", &name]).ok();
        assert!(
            pulled.stdout.ends_with(&format!("Status: Downloaded newer image for {name}\n{name}\n")),
            "{pulled}"
        );
        assert_eq!(
            daemon.palan(["run", "--rm", "--network", "none", &name, "cat", "/mark"]).ok().line(),
            mark
        );
    }
}

#[test]
fn an_index_gives_this_machines_platform() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    let here = busybox().build();
    let other = busybox().architecture("s390x", None).file("other", 0o644, "x").build();
    let index = Index::new(Flavour::Oci, vec![other, here]);
    let digest = index.digest.clone();
    registry.push_index("multi", "latest", &index);
    let pulled = pull(&daemon, &registry, "multi").ok();
    assert!(pulled.stdout.contains(&format!("Digest: {digest}\n")), "{pulled}");
    assert!(pulled.stdout.starts_with("Using default tag: latest\n"), "{pulled}");
    let name = format!("{}/multi", registry.host());
    assert_eq!(daemon.palan(["run", "--rm", "--network", "none", &name, "echo", "ok"]).ok().line(), "ok");
    let again = pull(&daemon, &registry, "multi").ok();
    assert!(again.stdout.contains(&format!("Status: Image is up to date for {name}:latest\n")), "{again}");
    let by_digest = format!("{name}@{digest}");
    daemon.palan(["pull", &by_digest]).ok();
    let missing = daemon.palan(["pull", "--platform", "linux/riscv64", &name]);
    missing.fails(1, "no matching manifest for linux/riscv64");
}

#[test]
fn a_mirror_serves_docker_hubs_names() {
    requires!(root);
    let registry = Registry::start();
    registry.push("library/debian", "bookworm", &busybox().build());
    let settings = format!(r#""registry-mirrors": ["{}"]"#, registry.url());
    let daemon = Daemon::start_with(Options { settings: Some(settings), ..Options::default() });
    let run =
        daemon.palan(["run", "--rm", "--network", "none", "debian:bookworm", "echo", "from the mirror"]).ok();
    assert_eq!(run.line(), "from the mirror");
    assert!(run.stderr.starts_with("Unable to find image 'debian:bookworm' locally\n"), "{run}");
    let listed = daemon.palan(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert_eq!(listed.line(), "debian:bookworm");
}

#[test]
fn ten_pulls_fetch_each_blob_once() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    let image = large(4, 2_000_000).build();
    registry.push("shared", "latest", &image);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| pull(&daemon, &registry, "shared").ok());
        }
    });
    for (digest, _) in image.blobs() {
        assert_eq!(registry.count("GET", &format!("/blobs/{digest}")), 1, "{digest}");
    }
}

#[test]
fn a_pull_that_was_killed_resumes_with_ranges() {
    requires!(root);
    let mut daemon = Daemon::start();
    let registry = Registry::start();
    registry.push("big", "latest", &large(2, 8_000_000).build());
    registry.fault_times("/blobs/", Fault::Slow(64 * 1024, Duration::from_millis(100)), 100);
    let mut pulling = daemon.command();
    pulling.args(["pull", &format!("{}/big", registry.host())]).stdout(std::process::Stdio::null());
    pulling.stderr(std::process::Stdio::null());
    let mut pulling = pulling.spawn().unwrap();
    let kept = daemon.data_root().join("blobs");
    let begun = wait_until(Duration::from_secs(20), || bytes_below(&kept) > 3_000_000);
    assert!(begun, "{}", daemon.log());
    daemon.kill();
    pulling.wait().unwrap();
    registry.heal();
    registry.forget_requests();
    daemon.restart();
    pull(&daemon, &registry, "big").ok();
    let ranges: Vec<String> = registry.ranges("/blobs/").into_iter().flatten().collect();
    assert!(!ranges.is_empty(), "no range was asked for");
    let name = format!("{}/big", registry.host());
    let sum =
        daemon.palan(["run", "--rm", "--network", "none", &name, "wc", "-c", "/noise0", "/noise1"]).ok();
    assert_eq!(sum.stdout.matches("8000000").count(), 2, "{sum}");
}

fn bytes_below(directory: &std::path::Path) -> u64 {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() })
        })
        .sum()
}

#[test]
fn a_broken_connection_is_taken_up_again() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    registry.push("flaky", "latest", &large(1, 4_000_000).build());
    registry.fault_times("/blobs/", Fault::CloseAfter(100_000), 3);
    pull(&daemon, &registry, "flaky").ok();
}

#[test]
fn credentials() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    registry.push("private", "latest", &busybox().build());
    registry.require_basic("user", "secret");
    pull(&daemon, &registry, "private").fails(1, "");
    let login = |password: &str| {
        daemon.palan_with_input(
            ["login", "-u", "user", "--password-stdin", &registry.host()],
            password.as_bytes(),
        )
    };
    login("wrong").fails(1, "unauthorized");
    assert!(login("secret").ok().stdout.contains("Login Succeeded"));
    pull(&daemon, &registry, "private").ok();
    daemon.palan(["logout", &registry.host()]).ok();
    daemon.palan(["rmi", &format!("{}/private", registry.host())]).ok();
    pull(&daemon, &registry, "private").fails(1, "");
}

#[test]
fn tokens() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    registry.push("public", "latest", &busybox().build());
    registry.require_token(None);
    pull(&daemon, &registry, "public").ok();
}

#[test]
fn what_lies_is_refused_and_leaves_nothing() {
    requires!(root);
    let settings = r#""max-download-attempts": 2"#.to_owned();
    let daemon = Daemon::start_with(Options { settings: Some(settings), ..Options::default() });
    let registry = Registry::start();
    registry.push("liar", "latest", &large(1, 300_000).build());
    let cases = [
        (Fault::Corrupt(1000), "/blobs/"),
        (Fault::CloseAfter(1000), "/blobs/"),
        (Fault::Endless, "/blobs/"),
        (Fault::Body(b"not a layer".to_vec()), "/blobs/"),
        (Fault::Body(b"{}".to_vec()), "/manifests/"),
        (Fault::Status(401, Vec::new(), String::new()), "/manifests/"),
        (Fault::Status(404, Vec::new(), String::new()), "/manifests/"),
        (Fault::Redirect("http://169.254.169.254/latest/meta-data".into()), "/blobs/"),
    ];
    for (fault, needle) in cases {
        let shown = format!("{fault:?}");
        registry.fault(needle, fault);
        let failed = pull(&daemon, &registry, "liar");
        assert_eq!(failed.code, 1, "{shown}: {failed}");
        assert!(!failed.stderr.trim().is_empty() && failed.stderr.len() < 2000, "{shown}: {failed}");
        assert_eq!(daemon.palan(["images", "-q"]).ok().stdout, "", "{shown}");
        registry.heal();
    }
    pull(&daemon, &registry, "liar").ok();
}

#[test]
fn debians_registry() {
    requires!(root);
    requires!(program "docker-registry");
    requires!(program "skopeo");
    let daemon = Daemon::start();
    let server = DebianRegistry::start(daemon.scratch());
    let archive = daemon.scratch().join("push.tar");
    std::fs::write(&archive, busybox().build().docker_archive(&["x:latest"])).unwrap();
    let target = format!("docker://{}/team/app:1", server.host);
    let source = format!("docker-archive:{}", archive.display());
    run("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", &source, &target]);
    let name = format!("{}/team/app:1", server.host);
    assert_eq!(
        daemon.palan(["run", "--rm", "--network", "none", &name, "echo", "pulled"]).ok().line(),
        "pulled"
    );
}

/// Debian's `docker-registry` on a free port of the loopback.
pub(crate) struct DebianRegistry {
    pub(crate) host: String,
    child: std::process::Child,
}

impl DebianRegistry {
    #[expect(clippy::disallowed_methods, reason = "a peer, started as its users do")]
    pub(crate) fn start(directory: &std::path::Path) -> Self {
        let port = free_port();
        let root = directory.join("registry");
        std::fs::create_dir(&root).unwrap();
        let config = directory.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        // Another version of it may be tried: `PALAN_TEST_REGISTRY` is its program.
        let program = std::env::var_os("PALAN_TEST_REGISTRY").unwrap_or_else(|| "docker-registry".into());
        let child = std::process::Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let server = Self { host: address.to_string(), child };
        assert!(wait_until(Duration::from_secs(10), || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        }));
        server
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[expect(clippy::disallowed_methods, reason = "a peer, run as its users do")]
fn run(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
