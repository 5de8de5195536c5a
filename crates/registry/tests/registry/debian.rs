//! The registry that others run: `docker-registry` as Debian ships it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use palan_registry::PullStatus;
use palan_test_support::image::{Compression, Flavour, Image, ImageBuilder};

use crate::fixture::{Fixture, noise_layer, password, text};

struct Server {
    child: Child,
    host: String,
    storage: PathBuf,
    _directory: tempfile::TempDir,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "the peer is a program of its own")]
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let storage = directory.path().join("storage");
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, host, storage, _directory: directory };
        server.wait();
        server
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let address = self.host.parse().unwrap();
        while std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes the image where the registry's file system driver looks for it.
    fn push(&self, repository: &str, tag: &str, image: &Image) {
        let root = self.storage.join("docker/registry/v2");
        let repository = root.join("repositories").join(repository);
        let link = |path: PathBuf, digest: &str| write(&path.join("link"), digest.as_bytes());
        let mut blobs = image.blobs();
        blobs.push((image.manifest_digest.clone(), image.manifest.clone()));
        for (digest, bytes) in &blobs {
            let hex = digest.trim_start_matches("sha256:");
            write(&root.join("blobs/sha256").join(&hex[..2]).join(hex).join("data"), bytes);
            link(repository.join("_layers/sha256").join(hex), digest);
        }
        let hex = image.manifest_digest.trim_start_matches("sha256:");
        let manifests = repository.join("_manifests");
        link(manifests.join("revisions/sha256").join(hex), &image.manifest_digest);
        link(manifests.join("tags").join(tag).join("current"), &image.manifest_digest);
        link(manifests.join("tags").join(tag).join("index/sha256").join(hex), &image.manifest_digest);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_from_docker_registry() {
    if !Path::new("/usr/bin/docker-registry").exists() {
        palan_test_support::skip::note("pulls_from_docker_registry", "needs the program docker-registry");
        return;
    }
    let server = Server::start();
    let fixture = Fixture::new();
    for (flavour, compression) in [(Flavour::Docker, Compression::Gzip), (Flavour::Oci, Compression::Zstd)] {
        let image = ImageBuilder::new()
            .flavour(flavour)
            .compression(compression)
            .layer(noise_layer("large", 3_000_000, 9))
            .file("small", 0o644, "x")
            .build();
        server.push("team/app", "1", &image);
        let name = format!("{}/team/app:1", server.host);
        let outcome = fixture.pull(&name).await.unwrap();
        assert_eq!(outcome.image.digest().to_string(), image.config_digest);
        assert_eq!(fixture.read(&outcome, "large").unwrap().len(), 3_000_000);
        assert_eq!(fixture.pull(&name).await.unwrap().status, PullStatus::UpToDate);
    }
    let name = format!("{}/team/app:2", server.host);
    let error = fixture.pull(&name).await.unwrap_err();
    assert_eq!(text(&error), format!("manifest for {name} not found: manifest unknown: manifest unknown"));
    let error = fixture.pull(&format!("{}/none:1", server.host)).await.unwrap_err();
    assert!(text(&error).contains("not found"), "{}", text(&error));
    fixture.client.login(&server.host, &password("me", "secret")).await.unwrap();
}
