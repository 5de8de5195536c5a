//! What a registry may do to us, and what must come of it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use palan_registry::{RegistryError, RequestError};
use palan_test_support::image::{Flavour, Image, ImageBuilder, Index, Layer, digest};
use palan_test_support::registry::{Fault, Registry};
use serde_json::json;

use crate::fixture::{Fixture, noise_layer, password, sample, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry with the sample image, on whose large layer the fault is planted.
fn registry_with(fault: Fault, times: usize) -> (Registry, Image, String) {
    let registry = Registry::start();
    let image = sample();
    let name = registry.push("app", "1", &image);
    registry.fault_times(&image.layers[0].digest, fault, times);
    (registry, image, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_is_resumed() {
    for fault in [Fault::CloseAfter(300_000), Fault::StallAfter(300_000)] {
        let (registry, image, name) = registry_with(fault, 1);
        let fixture = Fixture::impatient();
        let outcome = fixture.pull(&name).await.unwrap();
        assert!(fixture.read(&outcome, "large").is_some());
        let ranges = registry.ranges(&image.layers[0].digest);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0], None);
        assert_eq!(ranges[1].as_deref(), Some("bytes=300000-"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_bad_at_ranges_are_borne() {
    for second in [Fault::IgnoreRange, Fault::WrongRange] {
        let (registry, image, name) = registry_with(Fault::CloseAfter(300_000), 1);
        registry.fault_times(&image.layers[0].digest, second, 1);
        let fixture = Fixture::new();
        let outcome = fixture.pull(&name).await.unwrap();
        assert_eq!(fixture.read(&outcome, "large").unwrap().len(), 900_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_waited_for() {
    let overloaded = Fault::Status(503, vec![("Retry-After".into(), "1".into())], "later".into());
    for fault in [overloaded, Fault::Drop] {
        let (registry, image, name) = registry_with(fault, 2);
        let fixture = Fixture::new();
        let (outcome, lines) = fixture.pull_telling(&name).await;
        outcome.unwrap();
        assert_eq!(registry.count("GET", &image.layers[0].digest), 3);
        assert!(lines.iter().any(|line| line.contains("Retrying in 1 second")), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_ends() {
    for fault in
        [Fault::StallAfter(1000), Fault::CloseAfter(0), Fault::Status(500, Vec::new(), String::new())]
    {
        let (registry, image, name) = registry_with(fault, usize::MAX);
        let fixture = Fixture::impatient();
        let began = Instant::now();
        let error = fixture.pull(&name).await.unwrap_err();
        assert!(matches!(error.unshared(), RegistryError::Exhausted { attempts: 3, .. }), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(registry.count("GET", &image.layers[0].digest), 3);
        // The registry heals; what came is not fetched again.
        registry.heal();
        fixture.pull(&name).await.unwrap();
        for layer in &image.layers[1..] {
            assert_eq!(registry.count("GET", &layer.digest), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_told_at_once() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    let body =
        r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
    let headers =
        [("Retry-After", "3600"), ("RateLimit-Limit", "100;w=21600"), ("RateLimit-Remaining", "0;w=21600")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let refusal = Fault::Status(429, headers, body.into());
    registry.fault("/manifests/", refusal);
    let error = Fixture::new().pull(&name).await.unwrap_err();
    assert!(
        text(&error).ends_with(
            "toomanyrequests: You have reached your pull rate limit. (0 of 100 requests left in 6h0m0s)"
        ),
        "{}",
        text(&error)
    );
    assert_eq!(registry.count("GET", "/manifests/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_is_no_progress() {
    let (_registry, _, name) = registry_with(Fault::Slow(1, Duration::from_millis(50)), usize::MAX);
    let error = Fixture::impatient().pull(&name).await.unwrap_err();
    assert!(text(&error).contains("sent nothing of use"), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_refused_and_not_kept() {
    let (_, image, _) = registry_with(Fault::Drop, 0);
    let blob = &image.layers[0].blob;
    let mut longer = blob.clone();
    longer.extend_from_slice(b"more");
    for fault in [
        Fault::Corrupt(blob.len() - 100_000),
        Fault::Body(blob[..blob.len() - 5].to_vec()),
        Fault::Body(longer),
        Fault::Body(vec![0; blob.len()]),
        Fault::Body(Vec::new()),
    ] {
        let (registry, image, name) = registry_with(fault.clone(), 1);
        let fixture = Fixture::new();
        let error = fixture.pull(&name).await.unwrap_err();
        let shown = text(&error);
        assert!(shown.contains(&image.layers[0].digest), "{shown}");
        assert_eq!(registry.count("GET", &image.layers[0].digest), 1, "nothing to hope for: {shown}");
        // The other layers' parts may be there, this one's may not.
        fixture.pull(&name).await.unwrap();
        assert_eq!(registry.ranges(&image.layers[0].digest), [None, None], "{shown}");
        assert_eq!(fixture.parts(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_ends() {
    let registry = Registry::start();
    let image = sample();
    let name = registry.push("app", "1", &image);
    let fixture = Fixture::new();
    registry.fault("/manifests/", Fault::Endless);
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(text(&error).contains("larger than 4194304 bytes"), "{}", text(&error));
    registry.heal();
    // Longer than promised: filler follows half of the layer.
    registry.put_blob(&image.layers[0].digest, image.layers[0].blob[..1000].to_vec());
    registry.fault(&image.layers[0].digest, Fault::Endless);
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(text(&error).contains(&image.layers[0].digest), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let mut layer = sample().layers[1].clone();
    layer.diff_id = digest(b"something else");
    let image = ImageBuilder::new().packed_layer(layer).build();
    let error = fixture.pull(&registry.push("app", "1", &image)).await.unwrap_err();
    assert!(text(&error).contains("unpacks to"), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_lie() {
    let image = sample();
    let manifest = |patch: fn(ImageBuilder) -> ImageBuilder| {
        let mut builder = ImageBuilder::new();
        for layer in &image.layers {
            builder = builder.packed_layer(layer.clone());
        }
        patch(builder).build()
    };
    let both = manifest(|builder| builder.manifest_key("manifests", json!([])));
    let artifact = manifest(|builder| {
        builder.manifest_key(
            "config",
            json!({"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(b"{}"), "size": 2}),
        )
    });
    let fewer = manifest(|builder| builder.manifest_key("layers", json!([])));
    let negative = manifest(|builder| {
        builder.manifest_key("layers", json!([{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(b""), "size": -1}]))
    });
    let strange = manifest(|builder| {
        builder.manifest_key(
            "layers",
            json!([{"mediaType": "text/html", "digest": digest(b""), "size": 0}, 1, 2]),
        )
    });
    for (image, expected) in [
        (both, "ambiguous"),
        (artifact, "not an image that can run"),
        (fewer, "layers from manifest don't match image configuration"),
        (negative, "invalid manifest"),
        (strange, "invalid manifest"),
    ] {
        let registry = Registry::start();
        let error = Fixture::new().pull(&registry.push("app", "1", &image)).await.unwrap_err();
        assert!(text(&error).contains(expected), "{expected}: {}", text(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_lie_about_themselves() {
    let image = sample();
    let plant = |media_type: &str, body: &[u8]| {
        let registry = Registry::start();
        registry.push("app", "other", &image);
        registry.put_manifest("app", "1", media_type, body);
        registry
    };
    let index = Index::new(Flavour::Oci, vec![image.clone()]);
    let huge = format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "x".repeat(5 << 20));
    let deep = "[".repeat(100_000);
    let schema1 = r#"{"schemaVersion":1,"name":"app","tag":"1","fsLayers":[],"history":[]}"#;
    for (media_type, body, expected) in [
        (index.media_type.as_str(), image.manifest.as_slice(), "invalid manifest"),
        (MANIFEST, index.body.as_slice(), "invalid manifest"),
        (
            "application/vnd.docker.distribution.manifest.v2+json",
            image.manifest.as_slice(),
            "invalid manifest",
        ),
        (MANIFEST, huge.as_bytes(), "larger than 4194304 bytes"),
        (MANIFEST, deep.as_bytes(), "invalid manifest"),
        (MANIFEST, b"", "invalid manifest"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", schema1.as_bytes(), "schema 1"),
    ] {
        let registry = plant(media_type, body);
        let error = Fixture::new().pull(&format!("{}/app:1", registry.host())).await.unwrap_err();
        assert!(text(&error).contains(expected), "{expected}: {}", text(&error));
    }
    // Behind an index the manifest must be what the index says.
    let registry = Registry::start();
    let name = registry.push_index("app", "1", &index);
    registry.fault(&image.manifest_digest, Fault::Corrupt(20));
    let error = Fixture::new().pull(&name).await.unwrap_err();
    assert!(text(&error).contains("manifest verification failed for digest"), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_checked_on_every_document() {
    let registry = Registry::start();
    let image = sample();
    registry.push("app", "1", &image);
    let fixture = Fixture::new();
    registry.fault_times("/manifests/", Fault::Corrupt(30), 1);
    let name = format!("{}/app@{}", registry.host(), image.manifest_digest);
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Digest { what: "manifest", .. }), "{error:?}");
    registry.fault_times(&image.config_digest, Fault::Corrupt(30), 1);
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Digest { what: "image configuration", .. }), "{error:?}");
    assert_eq!(registry.count("GET", &image.layers[0].digest), 0);
    fixture.pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_head_changes_nothing() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let (first, second) = (sample(), ImageBuilder::new().file("x", 0o644, "y").build());
    let name = registry.push("app", "1", &first);
    fixture.pull(&name).await.unwrap();
    registry.push("app", "1", &second);
    let lie = Fault::Status(200, vec![("Docker-Content-Digest".into(), "sha256:zz".into())], String::new());
    registry.fault_times("HEAD", lie, 1);
    assert_eq!(fixture.pull(&name).await.unwrap().image.digest().to_string(), second.config_digest);
    registry.fault("HEAD", Fault::NoDigest);
    let outcome = fixture.pull(&name).await.unwrap();
    assert_eq!(outcome.status, palan_registry::PullStatus::UpToDate);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_carry_no_credentials_to_another_host() {
    let registry = Registry::start();
    let storage = Registry::start_at(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
    let image = sample();
    let name = registry.push("app", "1", &image);
    storage.push("app", "1", &image);
    registry.require_basic("me", "secret");
    registry.fault("/blobs/", Fault::Redirect(format!("{}{{path}}?signature=1", storage.url())));
    let fixture = Fixture::new();
    let outcome = fixture.pull_as(&name, password("me", "secret")).await.unwrap();
    assert!(fixture.read(&outcome, "large").is_some());
    assert!(!storage.requests().is_empty());
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None, "{}", request.path);
    }
    // The same host's other port is another place, too.
    let neighbour = Registry::start();
    neighbour.push("app", "1", &image);
    registry.heal();
    registry.fault("/blobs/", Fault::Redirect(format!("{}{{path}}", neighbour.url())));
    Fixture::new().pull_as(&name, password("me", "secret")).await.unwrap();
    assert!(neighbour.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_asks_for_credentials_gets_none() {
    let registry = Registry::start();
    let storage = Registry::start_at(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
    let image = sample();
    let name = registry.push("app", "1", &image);
    storage.require_basic("me", "secret");
    registry.require_basic("me", "secret");
    registry.fault(&image.layers[0].digest, Fault::Redirect(format!("{}{{path}}", storage.url())));
    let error = Fixture::new().pull_as(&name, password("me", "secret")).await.unwrap_err();
    assert!(text(&error).contains("authentication required"), "{}", text(&error));
    assert_ne!(error.class(), palan_registry::Class::Unauthorized);
    assert!(storage.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_services_are_out_of_reach() {
    for target in
        ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://2852039166/", "file:///etc/shadow"]
    {
        let registry = Registry::start();
        let name = registry.push("app", "1", &sample());
        registry.fault("/manifests/", Fault::Redirect(target.to_owned()));
        let error = Fixture::new().pull(&name).await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::Request { source: RequestError::Refused(_), .. }),
            "{target}: {error:?}"
        );
        // The token service is such a place, too.
        let registry = Registry::start();
        let name = registry.push("app", "1", &sample());
        registry.require_token_from(target);
        let error = Fixture::new().pull_as(&name, password("me", "secret")).await.unwrap_err();
        assert!(text(&error).contains("refused to follow"), "{target}: {}", text(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_are_fetched_without_credentials() {
    let registry = Registry::start();
    let elsewhere = Registry::start_at(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
    let mut layer =
        Layer::new(noise_layer("f", 1000, 3), Flavour::Oci, palan_test_support::image::Compression::Gzip);
    layer.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned();
    layer.urls =
        vec!["http://169.254.169.254/x".into(), format!("{}/v2/x/blobs/{}", elsewhere.url(), layer.digest)];
    elsewhere.put_blob(&layer.digest, layer.blob.clone());
    let image = ImageBuilder::new().packed_layer(layer.clone()).build();
    registry.put_blob(&image.config_digest, image.config.clone());
    registry.put_manifest("app", "1", MANIFEST, &image.manifest);
    registry.require_basic("me", "secret");
    let fixture = Fixture::new();
    let name = format!("{}/app:1", registry.host());
    let outcome = fixture.pull_as(&name, password("me", "secret")).await.unwrap();
    assert!(fixture.read(&outcome, "f").is_some());
    assert_eq!(elsewhere.requests().len(), 1);
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_part_that_went_bad_is_fetched_again() {
    let (registry, image, name) = registry_with(Fault::CloseAfter(500_000), 1);
    let fixture = Fixture::new();
    // The first answer brings half, the others of this pull nothing.
    registry.fault(&image.layers[0].digest, Fault::Drop);
    fixture.pull(&name).await.unwrap_err();
    for _ in 0..300 {
        if fixture.parts() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let directory = fixture.root.path().join("blobs/sha256/.ingest");
    let parts: Vec<_> = std::fs::read_dir(directory).unwrap().flatten().collect();
    let part = parts.iter().find(|part| part.metadata().unwrap().len() == 500_000).unwrap();
    let mut bytes = std::fs::read(part.path()).unwrap();
    bytes[250_000] ^= 1;
    std::fs::write(part.path(), bytes).unwrap();
    registry.heal();
    registry.forget_requests();
    fixture.pull(&name).await.unwrap();
    let ranges = registry.ranges(&image.layers[0].digest);
    assert_eq!(ranges, [Some("bytes=500000-".to_owned()), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_useless_answer_costs_no_kept_part() {
    let (registry, image, name) = registry_with(Fault::CloseAfter(500_000), 1);
    let page = Fault::Status(200, Vec::new(), "<html>please log in</html>".into());
    registry.fault_times(&image.layers[0].digest, page, 1);
    let fixture = Fixture::new();
    let error = fixture.pull(&name).await.unwrap_err();
    assert!(text(&error).contains("the registry served 26 bytes"), "{}", text(&error));
    fixture.pull(&name).await.unwrap();
    let last = registry.ranges(&image.layers[0].digest).pop().unwrap();
    assert_eq!(last.as_deref(), Some("bytes=500000-"));
}
