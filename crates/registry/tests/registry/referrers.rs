//! What refers to an image, by the API and by the tag that stands in for it.

use palan_oci::{Digest, Reference};
use palan_registry::Credentials;
use palan_test_support::registry::{Fault, Registry};
use serde_json::json;

use crate::fixture::{Fixture, sample};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn index(kinds: &[&str]) -> String {
    let entries: Vec<_> = kinds
        .iter()
        .map(|kind| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(kind).to_string(),
                "size": 7,
                "artifactType": kind,
            })
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
}

async fn found(registry: &Registry, digest: &Digest, kind: Option<&str>) -> Result<Vec<String>, String> {
    let reference = Reference::parse(&format!("{}/app", registry.host())).unwrap();
    let client = Fixture::new().client;
    let found = client.referrers(&reference, digest, kind, &Credentials::Anonymous).await;
    let kinds = |list: Vec<palan_oci::Descriptor>| {
        list.into_iter().map(|entry| entry.artifact_type.unwrap_or_default()).collect()
    };
    found.map(kinds).map_err(|error| crate::fixture::text(&error))
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_api_with_pages_and_filters() {
    let registry = Registry::start();
    let digest = Digest::of("image");
    let page = |next: &str, kinds: &[&str]| {
        let mut headers = vec![("Content-Type".to_owned(), INDEX.to_owned())];
        if !next.is_empty() {
            headers.push(("Link".to_owned(), format!("<{next}>; rel=\"next\"")));
        }
        Fault::Status(200, headers, index(kinds))
    };
    let second = format!("/v2/app/referrers/{digest}?last=1");
    registry.fault("last=1", page("", &["sig"]));
    registry.fault("/referrers/", page(&second, &["sbom", "sig"]));
    assert_eq!(found(&registry, &digest, None).await.unwrap(), ["sbom", "sig", "sig"]);
    assert_eq!(
        found(&registry, &digest, Some("sbom")).await.unwrap(),
        ["sbom"],
        "a registry need not filter"
    );
    assert!(registry.requests().iter().any(|request| request.path.contains("artifactType=sbom")));
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_tag_where_there_is_no_api() {
    let registry = Registry::start();
    registry.push("app", "1", &sample());
    let digest = Digest::of("image");
    assert_eq!(found(&registry, &digest, None).await.unwrap(), [""; 0]);
    let tag = format!("sha256-{}", digest.hex());
    registry.put_manifest("app", &tag, INDEX, index(&["sig", "sbom"]).as_bytes());
    assert_eq!(found(&registry, &digest, Some("sig")).await.unwrap(), ["sig"]);
    registry.put_manifest("app", &tag, INDEX, b"{}");
    assert!(found(&registry, &digest, None).await.unwrap_err().contains("invalid list of referrers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_elsewhere_are_not_asked_for() {
    let (registry, elsewhere) = (Registry::start(), Registry::start());
    let digest = Digest::of("image");
    let link = format!("<{}/v2/app/referrers/x>; rel=\"next\"", elsewhere.url());
    let headers = vec![("Content-Type".to_owned(), INDEX.to_owned()), ("Link".to_owned(), link)];
    registry.fault("/referrers/", Fault::Status(200, headers, index(&["sig"])));
    assert_eq!(found(&registry, &digest, None).await.unwrap(), ["sig"]);
    assert!(elsewhere.requests().is_empty());
}
