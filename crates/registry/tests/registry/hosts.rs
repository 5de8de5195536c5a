//! `hosts.toml`: which host is asked for what, with which certificates and headers.

use std::path::Path;

use palan_oci::Reference;
use palan_registry::ClientConfig;
use palan_test_support::registry::{Fault, Registry};

use crate::fixture::{Fixture, password, sample, settings, text};

/// A client that reads what is written about registries in a directory of its own.
fn with_file(parent: &Path, registry: &str, content: &str) -> Fixture {
    let directory = parent.join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), content).unwrap();
    Fixture::with(ClientConfig { certificate_directories: vec![parent.to_owned()], ..settings() })
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_asked_in_order_for_any_registry() {
    let parent = tempfile::tempdir().unwrap();
    let (empty, mirror) = (Registry::start(), Registry::start());
    let image = sample();
    mirror.push("team/app", "1", &image);
    let file = format!("[host.\"{}\"]\n[host.\"{}\"]\n", empty.url(), mirror.url());
    let fixture = with_file(parent.path(), "registry.example.invalid", &file);
    let name = "registry.example.invalid/team/app:1";
    let outcome = fixture.pull_as(name, password("me", "secret")).await.unwrap();
    assert_eq!(outcome.digest.to_string(), image.manifest_digest);
    for registry in [&empty, &mirror] {
        let requests = registry.requests();
        assert!(!requests.is_empty());
        for request in requests {
            assert_eq!(request.header("authorization"), None, "{request:?}");
            assert!(request.path.ends_with("?ns=registry.example.invalid"), "{request:?}");
        }
    }
    let stored = fixture.store.image(&outcome.image).unwrap().unwrap();
    assert_eq!(stored.tags[0].familiar(), name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_may_not_resolve_serves_content_alone() {
    let parent = tempfile::tempdir().unwrap();
    let (cache, origin) = (Registry::start(), Registry::start());
    let (image, other) =
        (sample(), palan_test_support::image::ImageBuilder::new().file("evil", 0o644, "x").build());
    cache.push("app", "by-digest", &image);
    cache.push("app", "1", &other);
    let name = origin.push("app", "1", &image);
    let file = format!("[host.\"{}\"]\ncapabilities = [\"pull\"]\n", cache.url());
    let fixture = with_file(parent.path(), &origin.host(), &file);
    let outcome = fixture.pull(&name).await.unwrap();
    assert_eq!(outcome.digest.to_string(), image.manifest_digest, "the cache has no say in what a tag is");
    assert_eq!(cache.count("GET", "/manifests/1"), 0);
    assert_eq!((cache.count("GET", "/blobs/"), origin.count("GET", "/blobs/")), (4, 0));
    // What it serves for the digest is checked.
    let fixture = with_file(parent.path(), &origin.host(), &file);
    cache.fault("/manifests/sha256", Fault::Body(other.manifest.clone()));
    fixture.pull(&name).await.unwrap();
    assert_eq!(origin.count("GET", "/blobs/"), 4, "the registry itself was asked then");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_client_certificates_and_headers_are_the_hosts_own() {
    let parent = tempfile::tempdir().unwrap();
    let mirror = Registry::start_mutual_tls();
    // On loopback certificates need not be valid, so that the name must be another for that to be seen; what is shown to
    // the server is seen all the same.
    mirror.push("hub/app", "1", &sample());
    let (certificate, key) = mirror.client_pem();
    let directory = parent.path().join("registry.example.invalid");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, content) in [("ca.pem", mirror.ca_pem()), ("c.pem", certificate), ("k.pem", key)] {
        std::fs::write(directory.join(name), content).unwrap();
    }
    let file = format!(
        "[host.\"{}\"]\nca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"]]\nskip_verify = true\n[host.\"{0}\".header]\nx-team = [\"blue\"]\n",
        mirror.url()
    );
    let fixture = with_file(parent.path(), "registry.example.invalid", &file);
    fixture.pull("registry.example.invalid/hub/app:1").await.unwrap();
    assert!(mirror.requests().iter().all(|request| request.header("x-team") == Some("blue")));
    // Where the host sends us, neither goes along.
    let elsewhere = Registry::start();
    elsewhere.push("hub/other", "1", &sample());
    mirror.push("hub/other", "1", &sample());
    let plain = Registry::start();
    plain.push("hub/other", "1", &sample());
    let file = format!("[host.\"{}\"]\nheader = {{ x-team = \"blue\" }}\n", plain.url());
    plain.fault("/blobs/", Fault::Redirect(format!("{}{{path}}", elsewhere.url())));
    let fixture = with_file(parent.path(), "registry.example.invalid", &file);
    fixture.pull("registry.example.invalid/hub/other:1").await.unwrap();
    assert!(elsewhere.requests().iter().all(|request| request.header("x-team").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_go_to_hosts_that_take_them() {
    let parent = tempfile::tempdir().unwrap();
    let (cache, origin) = (Registry::start(), Registry::start());
    let file = format!("[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", cache.url());
    let fixture = with_file(parent.path(), &origin.host(), &file);
    let source = Registry::start();
    let pulled = fixture.pull(&source.push("source", "1", &sample())).await.unwrap();
    let name = format!("{}/app:1", origin.host());
    fixture.store.tag(&pulled.image, &Reference::parse(&name).unwrap()).unwrap();
    origin.require_basic("me", "secret");
    fixture.push_as(&name, password("me", "secret")).await.unwrap();
    assert!(cache.requests().is_empty() && origin.manifest("app", "1").is_some());
    let file = format!("server = \"{}\"\ncapabilities = [\"pull\"]\n", origin.url());
    let fixture = with_file(parent.path(), &origin.host(), &file);
    let pulled = fixture.pull(&source.push("source", "1", &sample())).await.unwrap();
    fixture.store.tag(&pulled.image, &Reference::parse(&name).unwrap()).unwrap();
    let error = fixture.push(&name).await.unwrap_err();
    assert!(text(&error).contains("has the capability \"push\""), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_makes_no_sense_is_said() {
    let parent = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    let fixture = with_file(parent.path(), &registry.host(), "server = 5");
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(text(&error).contains("hosts.toml: server must be a string"), "{}", text(&error));
    assert!(registry.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_may_be_the_root_of_the_api() {
    let parent = tempfile::tempdir().unwrap();
    let registry = Registry::start();
    registry.push("app", "1", &sample());
    let file = format!("[host.\"{0}/cache\"]\n[host.\"{0}/v2\"]\noverride_path = true\n", registry.url());
    let fixture = with_file(parent.path(), "registry.example.invalid", &file);
    fixture.pull("registry.example.invalid/app:1").await.unwrap();
    assert!(registry.requests()[0].path.starts_with("/cache/v2/app/manifests/1?ns="));
}
