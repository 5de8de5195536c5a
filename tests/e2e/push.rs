//! `palan push` and `palan search`: to registries that behave, and to those that don't.

use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::image::{Compression, Flavour, Image, ImageBuilder, TarBuilder, noise};
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, busybox, daemon};
use crate::pull::DebianRegistry;

fn sample(flavour: Flavour, compression: Compression) -> Image {
    let large = TarBuilder::new().file("noise", 0o644, noise(3_000_000, 4)).finish();
    ImageBuilder::new()
        .flavour(flavour)
        .compression(compression)
        .layer(crate::images::busybox_layer())
        .layer(large)
        .config("Env", serde_json::json!(["PATH=/bin"]))
        .build()
}

/// Pulls the image from a registry and gives it a name in another one.
fn have(daemon: &Daemon, image: &Image, name: &str) {
    let source = Registry::start();
    let from = source.push("source/app", "1", image);
    daemon.palan(["pull", "-q", &from]).ok();
    daemon.palan(["tag", &from, name]).ok();
    daemon.palan(["rmi", &from]).ok();
}

#[test]
fn pull_push_pull_gives_the_same_digest() {
    requires!(root);
    let (daemon, other) = (Daemon::start(), Daemon::start());
    for (flavour, compression) in [
        (Flavour::Docker, Compression::Gzip),
        (Flavour::Oci, Compression::Gzip),
        (Flavour::Oci, Compression::Zstd),
    ] {
        let image = sample(flavour, compression);
        let registry = Registry::start();
        registry.separate_repositories();
        let name = format!("{}/team/app:2", registry.host());
        have(&daemon, &image, &name);
        let pushed = daemon.palan(["push", &name]).ok();
        let size = image.manifest.len();
        let last = format!("2: digest: {} size: {size}", image.manifest_digest);
        assert_eq!(
            pushed.stdout.lines().next(),
            Some(format!("The push refers to repository [{}/team/app]", registry.host()).as_str())
        );
        assert_eq!(pushed.stdout.lines().last(), Some(last.as_str()), "{pushed}");
        assert_eq!(pushed.stdout.matches(": Pushed\n").count(), 2, "{pushed}");
        assert_eq!(registry.manifest("team/app", "2").map(|(_, body)| body), Some(image.manifest.clone()));
        let again = daemon.palan(["push", &name]).ok();
        assert_eq!(again.stdout.matches(": Layer already exists\n").count(), 2, "{again}");
        assert_eq!(daemon.palan(["push", "-q", &name]).ok().line(), name);
        let pulled = other.palan(["pull", &name]).ok();
        assert!(pulled.stdout.contains(&format!("Digest: {}\n", image.manifest_digest)), "{pulled}");
        let shown = daemon.palan(["image", "inspect", "-f", "{{.RepoDigests}}", &name]).ok();
        let by_digest = format!("{}/team/app@{}", registry.host(), image.manifest_digest);
        assert!(shown.stdout.contains(&by_digest), "{shown}");
    }
}

#[test]
fn what_was_made_here_is_pushed_and_runs_elsewhere() {
    requires!(root);
    let (daemon, other) = (daemon(), Daemon::start());
    let registry = Registry::start();
    let name = format!("{}/made/here", registry.host());
    daemon.palan(["tag", BUSYBOX, &name]).ok();
    let pushed = daemon.palan(["push", &name]).ok();
    assert!(pushed.stdout.starts_with("Using default tag: latest\n"), "{pushed}");
    assert_eq!(other.palan(["run", "--rm", "--network", "none", &name, "echo", "ok"]).ok().line(), "ok");
    let digest = |daemon: &Daemon| {
        daemon.palan(["image", "inspect", "-f", "{{index .RepoDigests 0}}", &name]).ok().line().to_owned()
    };
    assert_eq!(digest(&daemon), digest(&other));
    let events = daemon.palan(["events", "--since", "1h", "--until", "0s", "--filter", "event=push"]).ok();
    assert!(events.stdout.contains(&format!("image push {name}:latest")), "{events}");
}

#[test]
fn all_tags_and_wrong_names() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let repository = format!("{}/many", registry.host());
    for tag in ["a", "b"] {
        daemon.palan(["tag", BUSYBOX, &format!("{repository}:{tag}")]).ok();
    }
    let pushed = daemon.palan(["push", "-a", &repository]).ok();
    assert!(pushed.stdout.contains("\na: digest: ") && pushed.stdout.contains("\nb: digest: "), "{pushed}");
    assert!(registry.manifest("many", "a").is_some() && registry.manifest("many", "b").is_some());
    daemon.palan(["push", "-a", &format!("{repository}:a")]).fails(1, "tag can't be used with --all-tags/-a");
    let missing = format!("An image does not exist locally with the tag: {}/none", registry.host());
    daemon.palan(["push", &format!("{}/none:1", registry.host())]).fails(1, &missing);
    daemon
        .palan(["push", "--platform", "linux/s390x", &format!("{repository}:a")])
        .fails(1, "does not match");
    // All of them come back at once.
    let other = Daemon::start();
    other.palan(["pull", "-a", &repository]).ok();
    let listed = other.palan(["images", "--format", "{{.Tag}}"]).ok();
    assert_eq!(listed.stdout.lines().count(), 2, "{listed}");
    other.palan(["pull", "-a", &format!("{repository}:a")]).fails(1, "tag can't be used with --all-tags/-a");
}

#[test]
fn dockers_client_pushes_and_pulls() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let registry = Registry::start();
    registry.require_basic("user", "secret");
    let name = format!("{}/by/docker:1", registry.host());
    daemon.docker(["tag", BUSYBOX, &name]).ok();
    let refused = daemon.docker(["push", &name]);
    assert_eq!(refused.code, 1, "{refused}");
    daemon.docker(["login", "-u", "user", "-p", "secret", &registry.host()]).ok();
    let pushed = daemon.docker(["push", &name]).ok();
    assert!(
        pushed.stdout.contains(": Pushed\n") && pushed.stdout.contains("\n1: digest: sha256:"),
        "{pushed}"
    );
    assert_eq!(daemon.docker(["push", "-q", &name]).ok().line(), name);
    daemon.docker(["push", "-a", name.strip_suffix(":1").unwrap_or(&name)]).ok();
    daemon.docker(["rmi", &name]).ok();
    daemon.docker(["pull", &name]).ok();
    daemon.docker(["logout", &registry.host()]).ok();
}

#[test]
fn debians_registry_takes_what_it_is_given() {
    requires!(root);
    requires!(program "docker-registry");
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let server = DebianRegistry::start(daemon.scratch());
    for (number, (flavour, compression)) in
        [(Flavour::Docker, Compression::Gzip), (Flavour::Oci, Compression::Zstd)].into_iter().enumerate()
    {
        let image = sample(flavour, compression);
        let name = format!("{}/team/app:{number}", server.host);
        have(&daemon, &image, &name);
        let pushed = daemon.palan(["push", &name]).ok();
        assert!(pushed.stdout.contains(&image.manifest_digest), "{pushed}");
        let pulled = other.palan(["pull", &name]).ok();
        assert!(pulled.stdout.contains(&format!("Digest: {}\n", image.manifest_digest)), "{pulled}");
        // The registry gives another repository what this one has.
        let second = format!("{}/mounted/app:{number}", server.host);
        daemon.palan(["tag", &name, &second]).ok();
        let mounted = daemon.palan(["push", &second]).ok();
        assert!(mounted.stdout.contains(": Mounted from team/app\n"), "{mounted}");
    }
}

#[test]
fn a_push_that_was_killed_is_made_up_for() {
    requires!(root);
    let mut daemon = Daemon::start();
    let registry = Registry::start();
    let name = format!("{}/big:1", registry.host());
    let image = sample(Flavour::Oci, Compression::Gzip);
    have(&daemon, &image, &name);
    registry.fault_times("PATCH", Fault::StallBody(1_000_000), 1);
    let mut pushing = daemon.command();
    pushing.args(["push", &name]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut pushing = pushing.spawn().unwrap();
    assert!(
        wait_until(Duration::from_secs(20), || registry.count("PATCH", "/uploads/") > 0),
        "{}",
        daemon.log()
    );
    daemon.kill();
    pushing.wait().unwrap();
    assert_eq!(registry.manifest("big", "1"), None);
    daemon.restart();
    daemon.palan(["push", &name]).ok();
    assert_eq!(registry.manifest("big", "1").map(|(_, body)| body), Some(image.manifest));
}

#[test]
fn an_image_that_is_removed_meanwhile_is_pushed_to_the_end() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    let name = format!("{}/going:1", registry.host());
    let image = sample(Flavour::Oci, Compression::Gzip);
    have(&daemon, &image, &name);
    registry.fault_times("HEAD", Fault::Delay(Duration::from_millis(700)), 3);
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| daemon.palan(["push", &name]));
        assert!(wait_until(Duration::from_secs(10), || !registry.requests().is_empty()));
        std::thread::sleep(Duration::from_millis(200));
        daemon.palan(["rmi", "-f", &name]).ok();
        pushing.join().unwrap().ok();
    });
    assert_eq!(registry.manifest("going", "1").map(|(_, body)| body), Some(image.manifest));
}

#[test]
fn registries_that_refuse_or_break() {
    requires!(root);
    let settings = r#""max-download-attempts": 2"#.to_owned();
    let daemon = Daemon::start_with(Options { settings: Some(settings), ..Options::default() });
    crate::images::load(&daemon, busybox(), BUSYBOX);
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let limit = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"rate exceeded"}]}"#;
    for (needle, fault, text) in [
        (
            "POST",
            Fault::Status(403, Vec::new(), denied.into()),
            "denied: requested access to the resource is denied",
        ),
        ("POST", Fault::Status(401, Vec::new(), String::new()), "unauthorized: authentication required"),
        ("POST", Fault::Status(429, Vec::new(), limit.into()), "toomanyrequests: rate exceeded"),
        ("/blobs/uploads/", Fault::Status(500, Vec::new(), String::new()), "500 Internal Server Error"),
        ("POST", Fault::Header("Location".into(), None), "Location"),
        ("POST", Fault::Redirect("http://169.254.169.254/x".into()), "link-local and metadata addresses"),
        (
            "POST",
            Fault::Header("Location".into(), Some("http://169.254.169.254/x".into())),
            "link-local and metadata",
        ),
        ("POST", Fault::Header("Location".into(), Some("file:///etc/shadow".into())), "not an HTTP URL"),
        (
            "PUT /v2/refuses/manifests",
            Fault::Header("Docker-Content-Digest".into(), Some("sha256:00".into())),
            "the registry stored",
        ),
    ] {
        let registry = Registry::start();
        registry.fault(needle, fault.clone());
        let name = format!("{}/refuses:1", registry.host());
        daemon.palan(["tag", BUSYBOX, &name]).ok();
        let failed = daemon.palan(["push", &name]);
        assert!(failed.stderr.len() < 2000, "{fault:?}: {failed}");
        let shown = format!("{fault:?}");
        assert!(failed.code == 1 && failed.stderr.contains(text), "{shown}: {failed}");
    }
}

/// Whatever a registry says, a user's secrets go to that registry and to the token service that it names, and into no log.
#[test]
fn credentials_go_nowhere_else() {
    requires!(root);
    let settings = r#""debug": true"#.to_owned();
    let daemon = Daemon::start_with(Options { settings: Some(settings), ..Options::default() });
    crate::images::load(&daemon, busybox(), BUSYBOX);
    let elsewhere = Registry::start_at([127, 0, 0, 2].into());
    let registry = Registry::start();
    registry.require_basic("user", "hunter2-secret");
    let login = ["login", "-u", "user", "--password-stdin", &registry.host()];
    daemon.palan_with_input(login, b"hunter2-secret").ok();
    let name = format!("{}/leaky:1", registry.host());
    daemon.palan(["tag", BUSYBOX, &name]).ok();
    registry.send_uploads_to(&elsewhere.url());
    daemon.palan(["push", &name]).fails(1, "");
    assert!(!elsewhere.requests().is_empty(), "the upload went where the registry said");
    let moved = Registry::start();
    moved.require_basic("user", "hunter2-secret");
    for fault in ["PUT", "PATCH", "POST", "HEAD"] {
        moved.fault(fault, Fault::Redirect(format!("{}{{path}}", elsewhere.url())));
    }
    daemon
        .palan_with_input(["login", "-u", "user", "--password-stdin", &moved.host()], b"hunter2-secret")
        .ok();
    let name = format!("{}/leaky:1", moved.host());
    daemon.palan(["tag", BUSYBOX, &name]).ok();
    // Nothing is to be had there; what matters is what was shown.
    let _ = daemon.palan(["push", &name]);
    for request in elsewhere.requests() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
        assert!(!request.body.contains("hunter2") && !request.path.contains("hunter2"), "{request:?}");
    }
    let log = daemon.log();
    for secret in ["hunter2", "dXNlcjpodW50ZXIyLXNlY3JldA"] {
        assert!(!log.contains(secret), "the log has a secret");
    }
}

#[test]
fn search_shows_what_an_index_finds() {
    requires!(root);
    let daemon = Daemon::start();
    let index = Registry::start();
    let results = serde_json::json!({"query": "app", "num_results": 3, "results": [
        {"name": "app", "description": "The first\nof its kind", "star_count": 120, "is_official": true, "is_automated": true},
        {"name": "me/app", "description": "d".repeat(60), "star_count": 3, "is_official": false, "is_automated": false},
        {"name": "other", "star_count": 0},
    ]});
    index.fault("/v1/search", Fault::Status(200, Vec::new(), results.to_string()));
    let term = format!("{}/app", index.host());
    let found = daemon.palan(["search", &term]).ok();
    let expected = format!(
        "NAME      DESCRIPTION                                     STARS     OFFICIAL\n\
         app       The first of its kind                           120       [OK]\n\
         me/app    {}…   3         \nother                                                     0         \n",
        "d".repeat(44)
    );
    assert_eq!(found.stdout, expected);
    assert_eq!(index.requests()[0].path, "/v1/search?q=app&n=25");
    let names = |arguments: &[&str]| {
        let line = [&["search", "--format", "{{.Name}}"], arguments, &[term.as_str()]].concat();
        daemon.palan(line).ok().stdout.replace('\n', " ")
    };
    assert_eq!(names(&["--filter", "stars=3"]), "app me/app ");
    assert_eq!(names(&["--filter", "is-official=true", "--limit", "7"]), "app ");
    assert!(index.requests().last().is_some_and(|request| request.path.ends_with("&n=7")));
    daemon.palan(["search", "--limit", "101", &term]).fails(1, "limit 101 is outside the range of [1, 100]");
    daemon.palan(["search", "--filter", "x=y", &term]).fails(1, "invalid filter 'x'");
    if palan_test_support::skip::has_program("docker") {
        for arguments in [&["search"][..], &["search", "--no-trunc"], &["search", "--format", "json"]] {
            let line = [arguments, &[term.as_str()]].concat();
            assert_eq!(daemon.docker(line.clone()).ok().stdout, daemon.palan(line).ok().stdout);
        }
    }
    index.heal();
    daemon.palan(["search", &term]).fails(1, "page not found");
}
