//! Mirrors of Docker's registry. The origin is never reached here: a mirror answers, or the test fails.

use palan_registry::ClientConfig;
use palan_test_support::registry::{Fault, Registry};

use crate::fixture::{Fixture, password, sample, settings};

fn with_mirrors(mirrors: &[String]) -> Fixture {
    Fixture::with(ClientConfig { mirrors: mirrors.to_vec(), ..settings() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_mirror_that_can_serves_and_gets_no_credentials() {
    let (empty, broken, good) = (Registry::start(), Registry::start(), Registry::start());
    let image = sample();
    broken.push("library/app", "1", &image);
    broken.fault("/manifests/", Fault::Status(500, Vec::new(), "ill".into()));
    good.push("library/app", "1", &image);
    let dead = "http://127.0.0.1:1".to_owned();
    let fixture = with_mirrors(&[dead, empty.url(), broken.url(), good.url()]);
    let outcome = fixture.pull_as("app:1", password("me", "secret")).await.unwrap();
    assert_eq!(outcome.image.digest().to_string(), image.config_digest);
    assert!(empty.count("GET", "/manifests/1") >= 1 && broken.count("GET", "/manifests/1") >= 1);
    for registry in [&empty, &broken, &good] {
        assert!(registry.requests().iter().all(|request| request.header("authorization").is_none()));
    }
    let stored = fixture.store.image(&outcome.image).unwrap().unwrap();
    assert_eq!(stored.tags[0].familiar(), "app:1", "the name is the origin's, not the mirror's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_loses_a_layer_is_left() {
    let (bad, good) = (Registry::start(), Registry::start());
    let image = sample();
    for registry in [&bad, &good] {
        registry.push("library/app", "1", &image);
    }
    bad.fault(&image.layers[2].digest, Fault::Status(404, Vec::new(), String::new()));
    let fixture = with_mirrors(&[bad.url(), good.url()]);
    fixture.pull("app:1").await.unwrap();
    assert_eq!(good.count("GET", &image.layers[2].digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_may_lie_below_a_path() {
    let registry = Registry::start();
    registry.push("library/app", "1", &sample());
    // The test registry knows no prefixes; that it is asked there is enough.
    let fixture = with_mirrors(&[format!("{}/hub", registry.url()), registry.url()]);
    fixture.pull("app:1").await.unwrap();
    assert_eq!(registry.requests()[0].path, "/hub/v2/library/app/manifests/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_for_docker_io_alone() {
    let (mirror, registry) = (Registry::start(), Registry::start());
    let name = registry.push("app", "1", &sample());
    with_mirrors(&[mirror.url()]).pull(&name).await.unwrap();
    assert!(mirror.requests().is_empty());
}
