//! Pushes: what goes where, how often, and that it is byte for byte what came.

use std::time::Duration;

use palan_oci::{Platform, Reference};
use palan_registry::{ClientConfig, Credentials, PullRequest, PushOutcome, PushRequest, RegistryError};
use palan_test_support::image::{Compression, Flavour, Image, ImageBuilder, Index};
use palan_test_support::registry::{Fault, Registry};

use crate::fixture::{Fixture, line, noise_layer, password, sample, settings, text};

impl Fixture {
    /// Pulls an image from a registry of its own and gives it a name elsewhere.
    pub(crate) async fn have(&self, image: &Image, name: &str) {
        let source = Registry::start();
        let outcome = self.pull(&source.push("source", "1", image)).await.unwrap();
        self.store.tag(&outcome.image, &Reference::parse(name).unwrap()).unwrap();
    }

    pub(crate) async fn push(&self, name: &str) -> Result<PushOutcome, RegistryError> {
        self.push_as(name, Credentials::Anonymous).await
    }

    pub(crate) async fn push_as(
        &self,
        name: &str,
        credentials: Credentials,
    ) -> Result<PushOutcome, RegistryError> {
        self.client.push(&push_request(name, credentials), &self.store, |_| {}).await
    }

    /// Pushes and returns the told lines.
    pub(crate) async fn push_telling(&self, name: &str) -> (Result<PushOutcome, RegistryError>, Vec<String>) {
        let told = std::sync::Mutex::new(Vec::new());
        let request = push_request(name, Credentials::Anonymous);
        let tell = |event| told.lock().unwrap().push(line(&event));
        let outcome = self.client.push(&request, &self.store, tell).await;
        (outcome, told.into_inner().unwrap())
    }
}

fn push_request(name: &str, credentials: Credentials) -> PushRequest {
    PushRequest { reference: Reference::parse(name).unwrap(), platform: None, credentials }
}

fn short(image: &Image, layer: usize) -> String {
    image.layers[layer].diff_id["sha256:".len()..][..12].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_pushed_byte_for_byte() {
    for (flavour, compression) in [
        (Flavour::Docker, Compression::Gzip),
        (Flavour::Oci, Compression::Gzip),
        (Flavour::Oci, Compression::Zstd),
        (Flavour::Oci, Compression::Plain),
    ] {
        let image = ImageBuilder::new()
            .flavour(flavour)
            .compression(compression)
            .layer(noise_layer("large", 3_000_000, 7))
            .file("small", 0o644, "x")
            .build();
        let target = Registry::start();
        target.separate_repositories();
        let name = format!("{}/team/app:2", target.host());
        let fixture = Fixture::new();
        fixture.have(&image, &name).await;
        let outcome = fixture.push(&name).await.unwrap();
        assert_eq!(outcome.digest.to_string(), image.manifest_digest);
        let (media_type, body) = target.manifest("team/app", "2").unwrap();
        assert_eq!((media_type.as_str(), body), (image.media_type(), image.manifest.clone()));
        for (digest, bytes) in image.blobs() {
            assert_eq!(target.blob(&digest), Some(bytes));
        }
        assert_eq!(target.open_uploads(), 0);
        // Somebody else gets the same.
        let other = Fixture::new();
        let pulled = other.pull(&name).await.unwrap();
        assert_eq!(pulled.digest.to_string(), image.manifest_digest);
        let by_digest = format!("{}/team/app@{}", target.host(), image.manifest_digest);
        let known = fixture.store.find(&Reference::parse(&by_digest).unwrap()).unwrap();
        assert_eq!(known.map(|id| id.to_string()), Some(image.config_digest.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_in_dockers_words() {
    let (registry, image, fixture) = (Registry::start(), sample(), Fixture::new());
    registry.separate_repositories();
    let name = format!("{}/app:1", registry.host());
    fixture.have(&image, &name).await;
    let (outcome, lines) = fixture.push_telling(&name).await;
    outcome.unwrap();
    assert_eq!(lines[0], format!("The push refers to repository [{}/app]", registry.host()));
    let (bottom, top) = (short(&image, 0), short(&image, 2));
    assert_eq!(lines[1], format!("{top}: Preparing"));
    assert!(lines.contains(&format!("{bottom}: Pushed")), "{lines:?}");
    let size = image.manifest.len();
    let last = format!("1: digest: {} size: {size}", image.manifest_digest);
    assert_eq!(lines[lines.len() - 2..], [last.clone(), format!("aux 1 {} {size}", image.manifest_digest)]);
    let (_, again) = fixture.push_telling(&name).await;
    assert!(again.contains(&format!("{bottom}: Layer already exists")), "{again:?}");
    assert_eq!(registry.count("POST", "/uploads/"), 4, "nothing is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_another_repository_are_mounted() {
    let (registry, image, fixture) = (Registry::start(), sample(), Fixture::new());
    registry.separate_repositories();
    registry.require_token(None);
    let pulled = fixture.pull(&registry.push("base/app", "1", &image)).await.unwrap();
    let name = format!("{}/mine/app:1", registry.host());
    fixture.store.tag(&pulled.image, &Reference::parse(&name).unwrap()).unwrap();
    registry.forget_requests();
    let (outcome, lines) = fixture.push_telling(&name).await;
    outcome.unwrap();
    assert!(lines.contains(&format!("{}: Mounted from base/app", short(&image, 0))), "{lines:?}");
    // Those that come before the token are asked again.
    let mounts = registry.count("POST", "from=base%2Fapp");
    assert!((3..=6).contains(&mounts), "{mounts}");
    let sent: Vec<_> = registry.requests().into_iter().filter(|request| request.length > 0).collect();
    assert_eq!(sent.len(), 2, "configuration and manifest: {sent:?}");
    // A registry that won't mount gets the bytes.
    let stubborn = Registry::start();
    stubborn.separate_repositories();
    let pulled = fixture.pull(&stubborn.push("base/app", "1", &image)).await.unwrap();
    let name = format!("{}/mine/app:1", stubborn.host());
    fixture.store.tag(&pulled.image, &Reference::parse(&name).unwrap()).unwrap();
    stubborn.fault("mount=", Fault::Status(403, Vec::new(), String::new()));
    fixture.push(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_the_registry_is() {
    let image = ImageBuilder::new().layer(noise_layer("large", 5_000_000, 3)).build();
    for fault in [Fault::CutBody(2_000_000), Fault::StallBody(2_000_000)] {
        let (registry, fixture) = (Registry::start(), Fixture::impatient());
        let name = format!("{}/app:1", registry.host());
        fixture.have(&image, &name).await;
        registry.fault_times("PATCH", fault, 1);
        let (outcome, lines) = fixture.push_telling(&name).await;
        outcome.unwrap();
        assert!(lines.iter().any(|line| line.contains("Retrying in 1 second")), "{lines:?}");
        let patches: Vec<_> =
            registry.requests().into_iter().filter(|request| request.method == "PATCH").collect();
        let last = image.layers[0].blob.len() - 1;
        assert_eq!(patches[1].header("content-range"), Some(format!("2000000-{last}").as_str()));
        assert_eq!(registry.count("POST", "/uploads/"), 2, "the session goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_waited_for() {
    let (image, body) = (sample(), String::new());
    for (needle, fault) in [
        ("PATCH", Fault::Status(503, vec![("Retry-After".into(), "1".into())], body.clone())),
        ("PUT /v2/app/blobs", Fault::Status(500, Vec::new(), body.clone())),
        ("POST", Fault::Status(429, Vec::new(), body.clone())),
        ("HEAD", Fault::Status(502, Vec::new(), body.clone())),
        ("POST", Fault::Drop),
        ("PUT /v2/app/manifests", Fault::Status(503, Vec::new(), body.clone())),
        ("PUT /v2/app/manifests", Fault::Drop),
        ("PUT /v2/app/blobs", Fault::CutBody(10)),
        // Stored, but the answer was lost.
        ("PUT /v2/app/blobs", Fault::CloseAfter(0)),
    ] {
        let (registry, fixture) = (Registry::start(), Fixture::new());
        let name = format!("{}/app:1", registry.host());
        fixture.have(&image, &name).await;
        let shown = format!("{needle} {fault:?}");
        registry.fault_times(needle, fault, 2);
        let outcome = fixture.push(&name).await.unwrap_or_else(|error| panic!("{shown}: {}", text(&error)));
        assert_eq!(outcome.digest.to_string(), image.manifest_digest, "{shown}");
        assert_eq!(registry.manifest("app", "1").unwrap().1, image.manifest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_ends_and_the_tag_stays() {
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let name = format!("{}/app:1", registry.host());
    fixture.have(&sample(), &name).await;
    let old = ImageBuilder::new().file("old", 0o644, "old").build();
    registry.push("app", "1", &old);
    registry.fault("/uploads/", Fault::Status(500, Vec::new(), String::new()));
    let error = fixture.push(&name).await.unwrap_err();
    assert!(matches!(error, RegistryError::UploadExhausted { attempts: 3, .. }), "{error:?}");
    assert!(text(&error).contains("500 Internal Server Error"), "{}", text(&error));
    assert_eq!(registry.manifest("app", "1").unwrap().1, old.manifest);
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_cut_where_a_registry_wants_it() {
    let image = ImageBuilder::new().layer(noise_layer("large", 40_000_000, 5)).build();
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let name = format!("{}/app:1", registry.host());
    fixture.have(&image, &name).await;
    registry.limit_bodies(6_000_000);
    fixture.push(&name).await.unwrap();
    let largest = registry
        .requests()
        .iter()
        .filter(|request| request.method == "PATCH")
        .map(|request| request.length)
        .min();
    assert!(largest.is_some_and(|length| length <= 6_000_000));
    assert_eq!(registry.blob(&image.layers[0].digest), Some(image.layers[0].blob.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_gone_is_begun_anew() {
    let image = ImageBuilder::new().layer(noise_layer("large", 3_000_000, 3)).build();
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let name = format!("{}/app:1", registry.host());
    fixture.have(&image, &name).await;
    registry.fault_times("PATCH", Fault::CutBody(1_500_000), 1);
    let gone = r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown"}]}"#;
    registry.fault_times("GET /v2/app/blobs/uploads/", Fault::Status(404, Vec::new(), gone.into()), 1);
    fixture.push(&name).await.unwrap();
    assert_eq!(registry.blob(&image.layers[0].digest), Some(image.layers[0].blob.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_of_a_repository() {
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let image = sample();
    let pulled = fixture.pull(&registry.push("from", "1", &image)).await.unwrap();
    for tag in ["a", "b", "c"] {
        let name = Reference::parse(&format!("{}/all:{tag}", registry.host())).unwrap();
        fixture.store.tag(&pulled.image, &name).unwrap();
    }
    let request = push_request(&format!("{}/all", registry.host()), Credentials::Anonymous);
    let outcomes = fixture.client.push_all_tags(&request, &fixture.store, |_| {}).await.unwrap();
    let tags: Vec<&str> = outcomes.iter().map(|outcome| outcome.tag.as_str()).collect();
    assert_eq!(tags, ["a", "b", "c"]);
    let request = push_request(&format!("{}/none", registry.host()), Credentials::Anonymous);
    let error = fixture.client.push_all_tags(&request, &fixture.store, |_| {}).await.unwrap_err();
    let expected = format!("An image does not exist locally with the tag: {}/none", registry.host());
    assert_eq!(text(&error), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_images_are_all_here_is_pushed_as_it_came() {
    let (source, target, fixture) = (Registry::start(), Registry::start(), Fixture::new());
    target.separate_repositories();
    let here = ImageBuilder::new().layer(noise_layer("a", 300_000, 1)).file("here", 0o644, "x").build();
    let there = ImageBuilder::new()
        .layer(noise_layer("a", 300_000, 1))
        .file("there", 0o644, "x")
        .architecture("s390x", None)
        .build();
    let index = Index::new(Flavour::Oci, vec![here.clone(), there.clone()]);
    let from = source.push_index("multi", "1", &index);
    let name = format!("{}/multi:1", target.host());
    let pulled = fixture.pull(&from).await.unwrap();
    fixture.store.tag(&pulled.image, &Reference::parse(&name).unwrap()).unwrap();
    let single = fixture.push(&name).await.unwrap();
    assert_eq!(single.digest.to_string(), here.manifest_digest, "the other platform is not here");

    let other = PullRequest {
        platform: Some("linux/s390x".parse::<Platform>().unwrap()),
        ..crate::fixture::request(&from, Credentials::Anonymous)
    };
    fixture.client.pull(&other, &fixture.store, |_| {}).await.unwrap();
    let both = fixture.push(&name).await.unwrap();
    assert_eq!(both.digest.to_string(), index.digest);
    let (media_type, body) = target.manifest("multi", "1").unwrap();
    assert_eq!((media_type.as_str(), body), (Flavour::Oci.index(), index.body.clone()));
    let fresh = Fixture::new();
    assert_eq!(fresh.pull(&name).await.unwrap().digest.to_string(), index.digest);
    // One of them alone.
    let request = PushRequest {
        platform: Some("linux/s390x".parse::<Platform>().unwrap()),
        ..push_request(&name, Credentials::Anonymous)
    };
    let alone = fixture.client.push(&request, &fixture.store, |_| {}).await.unwrap();
    assert_eq!(alone.digest.to_string(), there.manifest_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pushed() {
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let error = fixture.push(&format!("{}/none:1", registry.host())).await.unwrap_err();
    let expected = format!("An image does not exist locally with the tag: {}/none", registry.host());
    assert_eq!(text(&error), expected);
    let name = format!("{}/app:1", registry.host());
    fixture.have(&sample(), &name).await;
    let request = PushRequest {
        platform: Some("linux/s390x".parse::<Platform>().unwrap()),
        ..push_request(&name, Credentials::Anonymous)
    };
    let error = fixture.client.push(&request, &fixture.store, |_| {}).await.unwrap_err();
    assert!(text(&error).contains("does not match the specified platform (linux/s390x)"), "{}", text(&error));
    assert_eq!(registry.count("PUT", "/"), 0);
    let dead = "127.0.0.1:1/app:1";
    fixture.have(&sample(), dead).await;
    let error = fixture.push(dead).await.unwrap_err();
    assert!(text(&error).contains("cannot connect to 127.0.0.1:1"), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_push() {
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let name = format!("{}/team/app:1", registry.host());
    fixture.have(&sample(), &name).await;
    registry.require_basic("me", "secret");
    let error = fixture.push(&name).await.unwrap_err();
    assert!(text(&error).ends_with(": no basic auth credentials"), "{}", text(&error));
    let error = fixture.push_as(&name, password("me", "wrong")).await.unwrap_err();
    assert_eq!(text(&error), "unauthorized: authentication required");
    fixture.push_as(&name, password("me", "secret")).await.unwrap();

    let registry = Registry::start();
    let name = format!("{}/team/app:1", registry.host());
    fixture.have(&sample(), &name).await;
    registry.require_token(Some(("me", "secret")));
    fixture.push_as(&name, password("me", "secret")).await.unwrap();
    let tokens: Vec<_> =
        registry.requests().into_iter().filter(|request| request.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "one token serves the whole push");
    assert!(tokens[0].path.contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"), "{}", tokens[0].path);

    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    registry.fault("POST", Fault::Status(403, Vec::new(), denied.into()));
    let other = format!("{}/theirs/app:1", registry.host());
    fixture.have(&sample(), &other).await;
    registry.separate_repositories();
    let error = fixture.push_as(&other, password("me", "secret")).await.unwrap_err();
    assert_eq!(text(&error), "denied: requested access to the resource is denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_configured_number_goes_at_once() {
    let image = (0..6).fold(ImageBuilder::new(), |image, seed| {
        image.layer(noise_layer(&format!("f{seed}"), 300_000, seed))
    });
    let image = image.build();
    let registry = Registry::start();
    let fixture = Fixture::with(ClientConfig { max_concurrent_uploads: 2, ..settings() });
    let name = format!("{}/app:1", registry.host());
    fixture.have(&image, &name).await;
    registry.fault("PUT", Fault::Delay(Duration::from_millis(50)));
    let (outcome, lines) = fixture.push_telling(&name).await;
    outcome.unwrap();
    assert!(lines.iter().any(|line| line.ends_with(": Waiting")), "{lines:?}");
    // Two uploads and the manifest's; one that is closed counts until the registry has seen its end. Without a limit it would be six.
    assert!(registry.peak_connections() <= 4, "{}", registry.peak_connections());
}

/// Two images with one layer, packed differently: each keeps its own bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_unpacked_from_other_bytes_is_pushed_as_it_came() {
    let build = |compression| {
        let layer = noise_layer("large", 500_000, 11);
        ImageBuilder::new().compression(compression).layer(layer).file("x", 0o644, "x").build()
    };
    let fixture = Fixture::new();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Plain] {
        let image = build(compression);
        let registry = Registry::start();
        registry.separate_repositories();
        let name = format!("{}/app:1", registry.host());
        fixture.have(&image, &name).await;
        let outcome = fixture.push(&name).await.unwrap();
        assert_eq!(outcome.digest.to_string(), image.manifest_digest, "{compression:?}");
    }
    // The bytes must still be those of the layer that the configuration names.
    let (good, other) = (build(Compression::Gzip), ImageBuilder::new().file("other", 0o644, "y").build());
    let registry = Registry::start();
    let name = registry.push("liar", "1", &good);
    let lie = String::from_utf8(good.manifest.clone())
        .unwrap()
        .replace(&good.layers[1].digest, &other.layers[0].digest)
        .replace(
            &format!("\"size\":{}", good.layers[1].blob.len()),
            &format!("\"size\":{}", other.layers[0].blob.len()),
        );
    registry.push("liar", "2", &other);
    registry.put_manifest("liar", "1", good.media_type(), lie.as_bytes());
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(text(&error).contains(&other.layers[0].digest), "{}", text(&error));
}
