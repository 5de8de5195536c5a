//! Images that were built here go to registries with compressed layers, and come back as the same images.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::{requires, wait_until};
use serde_json::Value;

use crate::images::{BUSYBOX, daemon};
use crate::pull::DebianRegistry;

/// So much text that its tar is far larger than what goes over the wire.
fn text(seed: u32, length: usize) -> String {
    let mut state = seed;
    let mut words = String::with_capacity(length + 16);
    while words.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words.push_str(&format!("{:03x} word\n", state >> 20));
    }
    words
}

/// Builds what the Dockerfile says of these files.
#[track_caller]
fn build(daemon: &Daemon, name: &str, dockerfile: &str, files: &[(&str, &str)]) {
    let context = daemon.scratch().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    for (file, content) in files {
        std::fs::write(context.join(file), content).unwrap();
    }
    daemon.palan(["build", "-q", "-t", name, &context.display().to_string()]).ok();
    std::fs::remove_dir_all(context).unwrap();
}

fn layers(registry: &Registry, repository: &str, tag: &str) -> Vec<Value> {
    let (_, manifest) = registry.manifest(repository, tag).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["layers"].as_array().unwrap().clone()
}

fn size(layer: &Value) -> u64 {
    layer["size"].as_u64().unwrap()
}

#[track_caller]
fn inspect(daemon: &Daemon, name: &str, format: &str) -> String {
    daemon.palan(["image", "inspect", "-f", format, name]).ok().line().to_owned()
}

#[track_caller]
fn assert_sound(daemon: &Daemon) {
    // What a push does not need any more goes behind its back.
    let mut checked = daemon.palan(["system", "fsck"]);
    wait_until(Duration::from_secs(30), || {
        checked = daemon.palan(["system", "fsck"]);
        checked.code == 0
    });
    assert!(checked.code == 0 && checked.stdout.is_empty(), "{checked}{}", daemon.log());
}

fn sum(daemon: &Daemon, name: &str) -> String {
    let script = "cat /big /made; ls -ln /big /made";
    daemon.palan(["run", "--rm", "--network", "none", name, "sh", "-c", script]).ok().stdout
}

const DOCKERFILE: &str = "FROM bb\nCOPY big /big\nRUN head -c 200000 /big > /made\n";

#[test]
fn layers_are_compressed_and_the_image_is_the_same() {
    requires!(root);
    let (daemon, other) = (daemon(), Daemon::start());
    let registry = Registry::start();
    registry.separate_repositories();
    let name = format!("{}/team/app:1", registry.host());
    build(&daemon, &name, DOCKERFILE, &[("big", &text(1, 3_000_000))]);
    let id = inspect(&daemon, &name, "{{.Id}}");
    let pushed = daemon.palan(["push", &name]).ok();
    assert_eq!(pushed.stdout.matches(": Pushed\n").count(), 3, "{pushed}");
    let own = layers(&registry, "team/app", "1");
    for layer in &own {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let blob = registry.blob(layer["digest"].as_str().unwrap()).unwrap();
        assert!(blob.starts_with(&[0x1f, 0x8b]) && blob.len() as u64 == size(layer));
    }
    let sent: u64 = own[1..].iter().map(size).sum();
    assert!(sent * 3 < 3_200_000, "{sent} bytes for 3.2 MB");
    let digest = palan_test_support::image::digest(&registry.manifest("team/app", "1").unwrap().1);
    assert!(pushed.stdout.contains(&format!("\n1: digest: {digest} size: ")), "{pushed}");
    let by_digest = format!("{}/team/app@{digest}", registry.host());
    assert_eq!(inspect(&daemon, &name, "{{index .RepoDigests 0}}"), by_digest);
    assert_eq!(inspect(&daemon, &name, "{{.Id}}"), id);
    // Nothing is compressed or sent again, whoever asks.
    registry.forget_requests();
    let again = daemon.palan(["push", &name]).ok();
    assert_eq!(again.stdout.matches(": Layer already exists\n").count(), 3, "{again}");
    assert_eq!(registry.count("POST", "/uploads/"), 0);
    build(&daemon, &name, DOCKERFILE, &[("big", &text(1, 3_000_000))]);
    assert_eq!(inspect(&daemon, &name, "{{.Id}}"), id);
    daemon.palan(["push", &name]).ok();
    assert_eq!(registry.count("POST", "/uploads/"), 0);
    assert_eq!(layers(&registry, "team/app", "1"), own);
    // What is built upon it shares its layers there, too.
    let above = format!("{}/team/above:1", registry.host());
    build(&daemon, &above, &format!("FROM {name}\nRUN echo 1 > /above\n"), &[]);
    let pushed = daemon.palan(["push", &above]).ok();
    assert_eq!(pushed.stdout.matches(": Mounted from team/app\n").count(), 3, "{pushed}");
    assert_eq!(layers(&registry, "team/above", "1")[..3], own[..]);
    other.palan(["pull", &name]).ok();
    assert_eq!(inspect(&other, &name, "{{.Id}}"), id);
    assert_eq!(sum(&other, &name), sum(&daemon, &name));
    // A base that is pulled is not compressed anew.
    let derived = format!("{}/derived:1", registry.host());
    build(&other, &derived, &format!("FROM {name}\nRUN echo 2 > /above\n"), &[]);
    other.palan(["push", &derived]).ok();
    assert_eq!(layers(&registry, "derived", "1")[..3], own[..]);
    for daemon in [&daemon, &other] {
        assert_sound(daemon);
    }
}

#[test]
fn a_layer_is_what_its_files_are_however_they_came() {
    requires!(root);
    let (daemon, other) = (daemon(), Daemon::start());
    let context = daemon.scratch().join("files");
    let write = |path: String, content: String| {
        let path = context.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    for number in 0..300 {
        write(format!("many/{}/{number}", number % 3), format!("{number}\n").repeat(number));
    }
    for number in 0..60 {
        write(format!("other/{}/{number}", number % 3), format!("another {number}"));
    }
    write("many/big".into(), "big".repeat(20_000));
    // The same name, and its file replaced within one step.
    let dockerfile = format!(
        "FROM {BUSYBOX}\nCOPY many /one/\nCOPY many other /two/\nCOPY --chmod=4710 --chown=7:8 many /three/\nCOPY many /two/\n"
    );
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let directory = context.display().to_string();
    daemon.palan(["build", "--network", "none", "-t", "files:1", &directory]).ok();
    assert_sound(&daemon);
    // Whoever takes them in looks at their digests.
    let archive = daemon.scratch().join("files.tar").display().to_string();
    daemon.palan(["save", "-o", &archive, "files:1"]).ok();
    other.palan(["load", "-i", &archive]).ok();
    let seen = |daemon: &Daemon| {
        let script = "find /one /two /three -type f | sort | xargs ls -ln; find /one /two /three -type f | sort | xargs md5sum";
        daemon.palan(["run", "--rm", "--network", "none", "files:1", "sh", "-c", script]).ok().stdout
    };
    let here = seen(&daemon);
    assert_eq!(here, seen(&other));
    assert_eq!(
        here.lines().filter(|line| line.starts_with("-rws--x---    1 7        8 ")).count(),
        301,
        "{here}"
    );
}

#[test]
fn what_was_not_made_here_and_archives_stay() {
    requires!(root);
    let (daemon, other) = (daemon(), Daemon::start());
    let registry = Registry::start();
    build(&daemon, "app:1", DOCKERFILE, &[("big", &text(2, 1_000_000))]);
    let archive = daemon.scratch().join("saved.tar").display().to_string();
    daemon.palan(["save", "-o", &archive, "app:1"]).ok();
    other.palan(["load", "-i", &archive]).ok();
    let id = inspect(&daemon, "app:1", "{{.Id}}");
    assert_eq!(inspect(&other, "app:1", "{{.Id}}"), id);
    let name = format!("{}/loaded:1", registry.host());
    other.palan(["tag", "app:1", &name]).ok();
    other.palan(["push", &name]).ok();
    let kinds: Vec<Value> =
        layers(&registry, "loaded", "1").iter().map(|layer| layer["mediaType"].clone()).collect();
    assert_eq!(kinds[1..], ["application/vnd.oci.image.layer.v1.tar"; 2], "as it was in the archive");
    // An image of a container, over layers that were built.
    let made = format!("{}/committed:1", registry.host());
    daemon.palan(["run", "--name", "work", "--network", "none", "app:1", "sh", "-c", "echo 1 > /x"]).ok();
    daemon.palan(["commit", "work", &made]).ok();
    daemon.palan(["push", &made]).ok();
    for layer in layers(&registry, "committed", "1") {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    daemon.palan(["rm", "work"]).ok();
    assert_sound(&daemon);
}

#[expect(clippy::disallowed_methods, reason = "a peer, run as its users do")]
fn outside(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn debians_registry_skopeo_and_docker_take_it() {
    requires!(root);
    requires!(program "docker-registry");
    requires!(program "skopeo");
    requires!(program "docker");
    let (daemon, other) = (daemon(), Daemon::start());
    let server = DebianRegistry::start(daemon.scratch());
    let name = format!("{}/team/app:1", server.host);
    build(&daemon, &name, DOCKERFILE, &[("big", &text(3, 1_000_000))]);
    daemon.docker(["push", &name]).ok();
    let again = daemon.docker(["push", &name]).ok();
    assert_eq!(again.stdout.matches(": Layer already exists\n").count(), 3, "{again}");
    let source = format!("docker://{name}");
    let shown = outside("skopeo", &["inspect", "--raw", "--tls-verify=false", &source]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let layers = shown["layers"].as_array().unwrap();
    assert!(
        layers.len() == 3
            && layers.iter().all(|layer| layer["mediaType"].as_str().unwrap().ends_with("gzip"))
    );
    outside("skopeo", &["inspect", "--tls-verify=false", &source]);
    let copy = format!("dir:{}", daemon.scratch().join("copy").display());
    outside("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &source, &copy]);
    other.docker(["pull", &name]).ok();
    assert_eq!(inspect(&other, &name, "{{.Id}}"), inspect(&daemon, &name, "{{.Id}}"));
    assert_eq!(sum(&other, &name), sum(&daemon, &name));
    assert_sound(&daemon);
}

/// The files of the layers that are compressed.
fn inodes(daemon: &Daemon, layers: &[Value]) -> Vec<u64> {
    let blob = |layer: &Value| {
        let hex = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        daemon.data_root().join("blobs/sha256").join(hex)
    };
    layers.iter().filter_map(|layer| std::fs::metadata(blob(layer)).ok()).map(|file| file.ino()).collect()
}

#[test]
fn a_push_that_was_killed_compresses_nothing_again() {
    requires!(root);
    let mut daemon = daemon();
    let registry = Registry::start();
    let name = format!("{}/big:1", registry.host());
    build(&daemon, &name, DOCKERFILE, &[("big", &text(4, 6_000_000))]);
    registry.fault_times("PATCH", Fault::StallBody(100_000), 1);
    let mut pushing = daemon.command();
    pushing.args(["push", &name]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut pushing = pushing.spawn().unwrap();
    let begun = || registry.count("PATCH", "/uploads/") > 0;
    assert!(wait_until(Duration::from_secs(20), begun), "{}", daemon.log());
    let blobs = |daemon: &Daemon| {
        let entries = std::fs::read_dir(daemon.data_root().join("blobs/sha256")).unwrap();
        let inodes = entries.map(|entry| entry.unwrap().metadata().unwrap());
        inodes.filter(|metadata| metadata.is_file()).map(|metadata| metadata.ino()).collect::<Vec<_>>()
    };
    let before = blobs(&daemon);
    daemon.kill();
    pushing.wait().unwrap();
    assert!(registry.manifest("big", "1").is_none());
    daemon.restart();
    assert_sound(&daemon);
    daemon.palan(["push", &name]).ok();
    let layers = layers(&registry, "big", "1");
    let after = inodes(&daemon, &layers);
    assert!(after.len() == 3 && after.iter().all(|inode| before.contains(inode)));
    // At any moment: of the compression, of what is written about it, of the upload.
    for number in 0..6u32 {
        let name = format!("{}/moment:{number}", registry.host());
        build(&daemon, &name, DOCKERFILE, &[("big", &text(10 + number, 6_000_000))]);
        let mut pushing = daemon.command();
        pushing.args(["push", &name]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pushing = pushing.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(number) * 120 + 30));
        daemon.kill();
        pushing.wait().unwrap();
        daemon.restart();
        assert_sound(&daemon);
        daemon.palan(["push", &name]).ok();
        let left = || std::fs::read_dir(daemon.data_root().join("blobs/sha256/.ingest")).unwrap().count();
        assert!(wait_until(Duration::from_secs(30), || left() == 0), "{} lie beside the layers", left());
        assert_sound(&daemon);
    }
}

#[test]
fn images_that_share_layers_are_pushed_at_once() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let names: Vec<String> = (0..4).map(|number| format!("{}/shared/i{number}:1", registry.host())).collect();
    for (number, name) in names.iter().enumerate() {
        let dockerfile = format!("{DOCKERFILE}RUN echo {number} > /own\n");
        build(&daemon, name, &dockerfile, &[("big", &text(5, 3_000_000))]);
    }
    std::thread::scope(|scope| {
        let pushes: Vec<_> = names.iter().map(|name| scope.spawn(|| daemon.palan(["push", name]))).collect();
        for push in pushes {
            push.join().unwrap().ok();
        }
    });
    let first = layers(&registry, "shared/i0", "1");
    for number in 1..4 {
        let other = layers(&registry, &format!("shared/i{number}"), "1");
        assert_eq!(other[..3], first[..3]);
        assert_ne!(other[3], first[3]);
    }
    assert_sound(&daemon);
    daemon
        .palan([&["rmi", "-f", BUSYBOX][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        .ok();
    daemon.palan(["builder", "prune", "-af"]).ok();
    let is_empty = |path: &Path| {
        std::fs::read_dir(path).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count() == 0
    };
    let root = daemon.data_root();
    assert!(wait_until(Duration::from_secs(10), || is_empty(&root.join("blobs/sha256"))
        && is_empty(&root.join("recipes"))));
}

#[test]
fn a_build_pushes_what_it_has_built() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    registry.require_basic("user", "secret");
    let name = format!("{}/team/app:1", registry.host());
    let context = daemon.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM bb\nRUN echo 1 > /made\n").unwrap();
    let metadata = daemon.scratch().join("metadata.json");
    let arguments = [
        "build",
        "--push",
        "-t",
        &name,
        "--metadata-file",
        &metadata.display().to_string(),
        &context.display().to_string(),
    ];
    assert_eq!(daemon.palan(arguments).code, 1, "nobody has logged in");
    daemon.palan_with_input(["login", "-u", "user", "--password-stdin", &registry.host()], b"secret").ok();
    daemon.palan(arguments).ok();
    let told: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let digest = palan_test_support::image::digest(&registry.manifest("team/app", "1").unwrap().1);
    assert_eq!(told["containerimage.digest"], Value::from(digest));
    for layer in layers(&registry, "team/app", "1") {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    // An archive in the form of a layout has them so, too.
    let archive = daemon.scratch().join("layout.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let dockerfile = "FROM bb\nRUN echo 2 > /made\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    daemon.palan(["build", "-o", &output, &context.display().to_string()]).ok();
    let archive = String::from_utf8_lossy(&std::fs::read(archive).unwrap()).into_owned();
    assert_eq!(archive.matches("application/vnd.oci.image.layer.v1.tar+gzip").count(), 2);
    let output = "type=image,compression=zstd";
    let refused = daemon.palan(["build", "-t", "x", "-o", output, &context.display().to_string()]);
    assert!(refused.code != 0 && refused.stderr.contains("compression=zstd"), "{refused}");
}
