//! What a registry may do to a push, and what must come of it.

use std::net::{IpAddr, Ipv4Addr};

use palan_registry::RegistryError;
use palan_test_support::image::ImageBuilder;
use palan_test_support::registry::{Fault, Registry};

use crate::fixture::{Fixture, noise_layer, password, sample, text};

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

async fn ready() -> (Registry, Fixture, String) {
    let (registry, fixture) = (Registry::start(), Fixture::impatient());
    let name = format!("{}/app:1", registry.host());
    fixture.have(&sample(), &name).await;
    (registry, fixture, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_sent_elsewhere_has_no_credentials() {
    let (registry, fixture, name) = ready().await;
    let elsewhere = Registry::start_at(ELSEWHERE);
    registry.require_basic("me", "secret");
    registry.send_uploads_to(&elsewhere.url());
    // It knows of no such upload.
    fixture.push_as(&name, password("me", "secret")).await.unwrap_err();
    let requests = elsewhere.requests();
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| request.header("authorization").is_none()), "{requests:?}");
    // Nor are they given to it when it asks.
    elsewhere.forget_requests();
    elsewhere.require_basic("me", "secret");
    fixture.push_as(&name, password("me", "secret")).await.unwrap_err();
    let requests = elsewhere.requests();
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| request.header("authorization").is_none()), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_of_writes_leave_credentials_behind() {
    for method in ["HEAD", "POST", "PUT", "PATCH"] {
        let (registry, fixture) = (Registry::start(), Fixture::new());
        let name = format!("{}/app:1", registry.host());
        let image = ImageBuilder::new().layer(noise_layer("large", 2_000_000, 3)).build();
        fixture.have(&image, &name).await;
        let elsewhere = Registry::start_at(ELSEWHERE);
        registry.require_token(Some(("me", "secret")));
        registry.fault(method, Fault::Redirect(format!("{}{{path}}", elsewhere.url())));
        drop(fixture.push_as(&name, password("me", "secret")).await);
        assert!(!elsewhere.requests().is_empty(), "{method}");
        for request in elsewhere.requests() {
            assert_eq!(request.header("authorization"), None, "{method}: {request:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_that_changes_the_method_is_not_followed_by_a_write() {
    let (registry, fixture, name) = ready().await;
    let elsewhere = Registry::start_at(ELSEWHERE);
    let moved = vec![("Location".to_owned(), format!("{}/x", elsewhere.url()))];
    registry.fault("PUT", Fault::Status(302, moved, String::new()));
    let error = fixture.push(&name).await.unwrap_err();
    assert!(text(&error).contains("302"), "{}", text(&error));
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_no_upload_goes_to() {
    for (place, why) in [
        ("http://169.254.169.254/latest/meta-data", "link-local and metadata addresses"),
        ("http://[fd00:ec2::254]/x", "link-local and metadata addresses"),
        ("http://metadata.google.internal/x", "link-local and metadata addresses"),
        ("file:///etc/shadow", "not an HTTP URL"),
        ("gopher://x/", "not an HTTP URL"),
        ("http://", "Location"),
    ] {
        let (registry, fixture, name) = ready().await;
        registry.fault("POST", Fault::Header("Location".into(), Some(place.into())));
        let error = fixture.push(&name).await.unwrap_err();
        assert!(text(&error).contains(why), "{place}: {}", text(&error));
    }
    let (registry, fixture, name) = ready().await;
    registry.fault("POST", Fault::Header("Location".into(), None));
    let error = fixture.push(&name).await.unwrap_err();
    assert!(text(&error).contains("without a usable Location"), "{}", text(&error));
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_elsewhere_gets_what_the_user_has_for_the_registry_and_no_more() {
    let (registry, fixture, name) = ready().await;
    // A token service on another host is usual; at a metadata service it is not.
    registry.require_token_from("http://169.254.169.254/token");
    let error = fixture.push_as(&name, password("me", "secret")).await.unwrap_err();
    assert!(text(&error).contains("link-local and metadata addresses"), "{}", text(&error));
    assert!(!text(&error).contains("secret"));
    assert!(registry.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_is_ours_whatever_a_challenge_asks_for() {
    let (registry, fixture, name) = ready().await;
    let challenge = format!(
        r#"Bearer realm="{}/token",service="test",scope="repository:somebody/else:pull,push,delete""#,
        registry.url()
    );
    let refusal = Fault::Status(401, vec![("WWW-Authenticate".into(), challenge)], String::new());
    registry.fault("/v2/app/", refusal);
    fixture.push_as(&name, password("me", "secret")).await.unwrap_err();
    let tokens: Vec<_> =
        registry.requests().into_iter().filter(|request| request.path.starts_with("/token")).collect();
    assert!(!tokens.is_empty());
    assert!(tokens.iter().all(|token| !token.path.contains("somebody")), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_how_far_an_upload_came() {
    let image = ImageBuilder::new().layer(noise_layer("large", 3_000_000, 9)).build();
    for range in ["0-99999999999", "5-10", "bytes=7-", "-1", "0-18446744073709551615", "x", "0-10"] {
        let (registry, fixture) = (Registry::start(), Fixture::new());
        let name = format!("{}/app:1", registry.host());
        fixture.have(&image, &name).await;
        registry.fault_times("PATCH", Fault::Header("Range".into(), Some(range.into())), 1);
        let outcome = fixture.push(&name).await;
        outcome.unwrap_or_else(|error| panic!("{range}: {}", text(&error)));
        assert_eq!(registry.blob(&image.layers[0].digest), Some(image.layers[0].blob.clone()), "{range}");
        let (registry, fixture) = (Registry::start(), Fixture::new());
        let name = format!("{}/app:1", registry.host());
        fixture.have(&image, &name).await;
        registry.fault("PATCH", Fault::Header("Range".into(), Some(range.into())));
        let error = fixture.push(&name).await.unwrap_err();
        assert!(matches!(error, RegistryError::UploadExhausted { .. }), "{range}: {}", text(&error));
        assert_eq!(registry.count("PUT", "/manifests/"), 0, "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_stored_must_be_what_was_sent() {
    for needle in ["PUT /v2/app/blobs", "PUT /v2/app/manifests", "HEAD /v2/app/blobs"] {
        let (registry, fixture, name) = ready().await;
        if needle.starts_with("HEAD") {
            fixture.push(&name).await.unwrap();
        }
        let other = Some(format!("sha256:{}", "0".repeat(64)));
        registry.fault(needle, Fault::Header("Docker-Content-Digest".into(), other));
        let error = fixture.push(&name).await.unwrap_err();
        assert!(matches!(error, RegistryError::Stored { .. }), "{needle}: {}", text(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_length_is_sent_again() {
    let (registry, fixture, name) = ready().await;
    let image = sample();
    registry.put_blob(&image.layers[0].digest, b"half".to_vec());
    fixture.push(&name).await.unwrap();
    assert_eq!(registry.blob(&image.layers[0].digest), Some(image.layers[0].blob.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_the_way_is_made_up_for_once() {
    let image = ImageBuilder::new().layer(noise_layer("large", 2_000_000, 9)).build();
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let name = format!("{}/app:1", registry.host());
    fixture.have(&image, &name).await;
    let invalid = r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}"#;
    registry.fault_times("PUT /v2/app/blobs", Fault::Status(400, Vec::new(), invalid.into()), 1);
    fixture.push(&name).await.unwrap();
    registry.fault("PUT /v2/app2/blobs", Fault::Status(400, Vec::new(), invalid.into()));
    let name = format!("{}/app2:1", registry.host());
    registry.separate_repositories();
    fixture.have(&image, &name).await;
    let error = fixture.push(&name).await.unwrap_err();
    assert!(text(&error).contains("digest invalid"), "{}", text(&error));
    assert!(registry.count("PATCH", "/v2/app2/") <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_end_or_sense_end() {
    for (needle, fault) in [
        ("POST", Fault::Endless),
        ("PUT", Fault::Endless),
        ("HEAD", Fault::StallAfter(0)),
        ("POST", Fault::Status(200, Vec::new(), "<html>please log in</html>".into())),
        ("POST", Fault::Status(599, Vec::new(), "x".repeat(1_000_000))),
        ("PUT /v2/app/manifests", Fault::Status(400, Vec::new(), "\u{1b}[2J".into())),
        ("/v2/", Fault::Status(404, Vec::new(), "nothing here".into())),
        ("PATCH", Fault::Status(416, Vec::new(), String::new())),
    ] {
        let (registry, fixture, name) = ready().await;
        let shown = format!("{needle} {fault:?}");
        registry.fault(needle, fault);
        let pushed = tokio::time::timeout(std::time::Duration::from_secs(60), fixture.push(&name)).await;
        assert!(pushed.is_ok(), "no end: {shown:.80}");
        if let Ok(Err(error)) = pushed {
            let told = text(&error);
            assert!(told.len() < 2_000 && !told.contains('\u{1b}'), "{told}");
        }
    }
}
