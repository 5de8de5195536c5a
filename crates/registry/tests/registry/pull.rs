//! What a regular registry can serve.

use palan_oci::{Platform, Reference};
use palan_registry::{Class, Credentials, PullStatus};
use palan_test_support::image::{Compression, Flavour, ImageBuilder, Index, host_architecture};
use palan_test_support::registry::Registry;
use serde_json::json;

use crate::fixture::{Fixture, line, request, sample, text};

#[tokio::test(flavor = "multi_thread")]
async fn images_of_every_kind() {
    let registry = Registry::start();
    for (flavour, compression) in [
        (Flavour::Docker, Compression::Gzip),
        (Flavour::Docker, Compression::Plain),
        (Flavour::Oci, Compression::Gzip),
        (Flavour::Oci, Compression::Zstd),
        (Flavour::Oci, Compression::Plain),
    ] {
        let fixture = Fixture::new();
        let image = ImageBuilder::new()
            .flavour(flavour)
            .compression(compression)
            .file("a", 0o644, "below")
            .file("b", 0o600, "above")
            .build();
        let name = registry.push("library/app", "1", &image);
        let outcome = fixture.pull(&name).await.unwrap();
        assert_eq!(outcome.image.digest().to_string(), image.config_digest);
        assert_eq!(outcome.digest.to_string(), image.manifest_digest);
        assert_eq!(outcome.status, PullStatus::Downloaded);
        assert_eq!(fixture.read(&outcome, "a").unwrap(), b"below", "{flavour:?} {compression:?}");
        assert_eq!(fixture.read(&outcome, "b").unwrap(), b"above");
        assert_eq!(fixture.parts(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_a_pull() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let image = ImageBuilder::new().file("a", 0o644, "content").build();
    let name = registry.push("team/app", "1", &image);
    let (outcome, lines) = fixture.pull_telling(&name).await;
    outcome.unwrap();
    let id = &image.layers[0].digest["sha256:".len()..][..12];
    assert_eq!(lines[0], "1: Pulling from team/app");
    assert_eq!(lines[1], format!("{id}: Pulling fs layer"));
    let tail: Vec<&str> = lines.iter().rev().take(3).rev().map(String::as_str).collect();
    let status = format!("Status: Downloaded newer image for {name}");
    let digest = format!("Digest: {}", image.manifest_digest);
    assert_eq!(tail, [&format!("{id}: Pull complete"), digest.as_str(), status.as_str()]);
    for phase in ["Verifying Checksum", "Download complete"] {
        assert!(lines.contains(&format!("{id}: {phase}")), "{phase} in {lines:?}");
    }

    registry.forget_requests();
    let (outcome, lines) = fixture.pull_telling(&name).await;
    assert_eq!(outcome.unwrap().status, PullStatus::UpToDate);
    assert_eq!(
        lines,
        ["1: Pulling from team/app", digest.as_str(), &format!("Status: Image is up to date for {name}")]
    );
    let requests: Vec<String> = registry.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(requests, ["HEAD"], "up to date costs one request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_news_and_shared_layers_are_not() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let base = sample();
    let mut next = ImageBuilder::new();
    for layer in &base.layers {
        next = next.packed_layer(layer.clone());
    }
    let next = next.file("more", 0o644, "more").build();
    let name = registry.push("app", "latest", &base);
    fixture.pull(&name).await.unwrap();
    registry.push("app", "latest", &next);
    registry.forget_requests();
    let (outcome, lines) = fixture.pull_telling(&name).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.status, PullStatus::Downloaded);
    assert_eq!(outcome.image.digest().to_string(), next.config_digest);
    assert_eq!(lines.iter().filter(|line| line.ends_with("Already exists")).count(), 3);
    assert_eq!(registry.count("GET", "/blobs/"), 2, "the configuration and the new layer");
    assert_eq!(fixture.read(&outcome, "top").unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_name_of_a_known_image_has_no_layers_to_tell_of() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let first = registry.push("app", "1", &sample());
    let second = registry.push("app", "2", &sample());
    fixture.pull(&first).await.unwrap();
    let (outcome, lines) = fixture.pull_telling(&second).await;
    assert_eq!(outcome.unwrap().status, PullStatus::Downloaded);
    assert!(!lines.iter().any(|line| line.ends_with("Already exists")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_a_choice() {
    let registry = Registry::start();
    let foreign = if host_architecture() == "amd64" { "arm64" } else { "amd64" };
    let host = ImageBuilder::new().file("a", 0o644, "host").build();
    let other = ImageBuilder::new().architecture(foreign, None).file("a", 0o644, "other").build();
    for flavour in [Flavour::Docker, Flavour::Oci] {
        let fixture = Fixture::new();
        let (host, other) = match flavour {
            Flavour::Oci => (host.clone(), other.clone()),
            Flavour::Docker => (
                ImageBuilder::new().flavour(flavour).file("a", 0o644, "host").build(),
                ImageBuilder::new()
                    .flavour(flavour)
                    .architecture(foreign, None)
                    .file("a", 0o644, "other")
                    .build(),
            ),
        };
        let index = Index::new(flavour, vec![other.clone(), host.clone()]);
        let name = registry.push_index("multi", "1", &index);
        let outcome = fixture.pull(&name).await.unwrap();
        assert_eq!(outcome.digest.to_string(), index.digest);
        assert_eq!(outcome.image.digest().to_string(), host.config_digest);

        let mut wanted = request(&name, Credentials::Anonymous);
        wanted.platform = Some(format!("linux/{foreign}").parse::<Platform>().unwrap());
        let outcome = fixture.client.pull(&wanted, &fixture.store, |_| {}).await.unwrap();
        assert_eq!(outcome.image.digest().to_string(), other.config_digest);
        assert_eq!(fixture.read(&outcome, "a").unwrap(), b"other");

        wanted.platform = Some("linux/s390x".parse().unwrap());
        let error = fixture.client.pull(&wanted, &fixture.store, |_| {}).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        assert_eq!(
            text(&error),
            "no matching manifest for linux/s390x in the manifest list entries: no match for platform in manifest: not found"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_platform_comes_with_a_warning() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let foreign = if host_architecture() == "amd64" { "arm64" } else { "amd64" };
    let image = ImageBuilder::new().file("a", 0o644, "x").build();
    let name = registry.push("app", "1", &image);
    let mut wanted = request(&name, Credentials::Anonymous);
    wanted.platform = Some(format!("linux/{foreign}").parse().unwrap());
    let told = std::sync::Mutex::new(Vec::new());
    let listener = |event| told.lock().unwrap().push(line(&event));
    fixture.client.pull(&wanted, &fixture.store, listener).await.unwrap();
    let lines = told.lock().unwrap().clone();
    assert!(lines.iter().any(|line| line.starts_with("WARNING: image with reference")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_digest_with_or_without_a_tag() {
    let registry = Registry::start();
    let image = sample();
    registry.push("app", "1", &image);
    for name in [
        format!("{}/app@{}", registry.host(), image.manifest_digest),
        format!("{}/app:other@{}", registry.host(), image.manifest_digest),
    ] {
        let fixture = Fixture::new();
        let outcome = fixture.pull(&name).await.unwrap();
        assert_eq!(outcome.digest.to_string(), image.manifest_digest);
        let stored = fixture.store.image(&outcome.image).unwrap().unwrap();
        assert_eq!(stored.tags, []);
        assert_eq!(stored.digests.len(), 1);
        registry.forget_requests();
        assert_eq!(fixture.pull(&name).await.unwrap().status, PullStatus::UpToDate);
        assert_eq!(registry.requests().len(), 0, "a digest never moves");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    registry.push("app", "1", &sample());
    let missing = format!("{}/app:2", registry.host());
    let error = fixture.pull(&missing).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(text(&error), format!("manifest for {missing} not found: manifest unknown: manifest unknown"));
    let error = fixture.pull(&format!("{}/none:1", registry.host())).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(
        text(&error).starts_with(&format!("repository {}/none not found", registry.host())),
        "{}",
        text(&error)
    );
    let error = fixture.pull("127.0.0.1:1/app:1").await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert_eq!(
        text(&error),
        r#"Get "http://127.0.0.1:1/v2/app/manifests/1": cannot connect to 127.0.0.1:1: Connection refused (os error 111)"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_of_a_repository() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    for tag in ["1", "2"] {
        registry.push("app", tag, &ImageBuilder::new().file("tag", 0o644, tag).build());
    }
    let name = format!("{}/app", registry.host());
    let wanted = request(&name, Credentials::Anonymous);
    let outcomes = fixture.client.pull_all_tags(&wanted, &fixture.store, |_| {}).await.unwrap();
    assert_eq!(outcomes.len(), 2);
    for tag in ["1", "2"] {
        let reference = Reference::parse(&format!("{name}:{tag}")).unwrap();
        assert!(fixture.store.find(&reference).unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_twice_and_no_layer_at_all() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let layer = sample().layers[0].clone();
    let twice = ImageBuilder::new().packed_layer(layer.clone()).packed_layer(layer.clone()).build();
    let outcome = fixture.pull(&registry.push("twice", "1", &twice)).await.unwrap();
    assert_eq!(registry.count("GET", &layer.digest), 1);
    assert!(fixture.read(&outcome, "large").is_some());
    let empty = ImageBuilder::new().config("Labels", json!({"a": "b"})).build();
    fixture.pull(&registry.push("empty", "1", &empty)).await.unwrap();
}
