//! Pulls side by side, and pulls that are cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use palan_registry::Credentials;
use palan_test_support::image::ImageBuilder;
use palan_test_support::registry::{Fault, Registry};

use crate::fixture::{Fixture, noise_layer, password, request, sample};

#[tokio::test(flavor = "multi_thread")]
async fn ten_pulls_fetch_each_blob_once() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let image = sample();
    let name = registry.push("app", "1", &image);
    registry.fault("/blobs/", Fault::Delay(Duration::from_secs(1)));
    let told = Arc::new(AtomicUsize::new(0));
    let pulls: Vec<_> = (0..10)
        .map(|_| {
            let (client, store, told) = (fixture.client.clone(), fixture.store.clone(), Arc::clone(&told));
            let wanted = request(&name, Credentials::Anonymous);
            tokio::spawn(async move {
                let listener = |event: palan_registry::ProgressEvent| {
                    if crate::fixture::line(&event).ends_with("Pull complete") {
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                };
                client.pull(&wanted, &store, listener).await
            })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().image.digest().to_string(), image.config_digest);
    }
    for layer in &image.layers {
        assert_eq!(registry.count("GET", &layer.digest), 1);
    }
    assert_eq!(told.load(Ordering::Relaxed), 30, "everybody hears of every layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_share_the_download_of_a_common_layer() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let base = sample().layers[0].clone();
    registry.fault(&base.digest, Fault::Delay(Duration::from_secs(1)));
    let mut pulls = Vec::new();
    for n in 0..5 {
        let image = ImageBuilder::new().packed_layer(base.clone()).file("n", 0o644, n.to_string()).build();
        let wanted = request(&registry.push(&format!("app{n}"), "1", &image), Credentials::Anonymous);
        let (client, store) = (fixture.client.clone(), fixture.store.clone());
        pulls.push(tokio::spawn(async move { client.pull(&wanted, &store, |_| {}).await }));
    }
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(registry.count("GET", &base.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_three_layers_at_once() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let mut builder = ImageBuilder::new();
    for n in 0..12 {
        builder = builder.layer(noise_layer(&format!("f{n}"), 50_000, n));
    }
    let name = registry.push("app", "1", &builder.build());
    registry.fault("/blobs/", Fault::Slow(10_000, Duration::from_millis(10)));
    fixture.pull(&name).await.unwrap();
    assert!(registry.peak_connections() <= 4, "{}", registry.peak_connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_a_part_that_is_resumed() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let image = sample();
    let name = registry.push("app", "1", &image);
    let large = &image.layers[0];
    registry.fault_times(&large.digest, Fault::StallAfter(500_000), 1);
    let wanted = request(&name, Credentials::Anonymous);
    tokio::select! {
        _ = fixture.client.pull(&wanted, &fixture.store, |_| {}) => panic!("the pull ends"),
        () = wait_until(|| fixture.lengths_of_parts() == [500_000]) => {}
    }
    fixture.pull(&name).await.unwrap();
    let ranges = registry.ranges(&large.digest);
    assert_eq!(ranges.len(), 2);
    assert_eq!(ranges[1].as_deref(), Some("bytes=500000-"));
    assert_eq!(fixture.parts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pulls_that_stay_are_not_disturbed_by_those_that_go() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let image = sample();
    let name = registry.push("app", "1", &image);
    registry.fault(&image.layers[0].digest, Fault::Slow(10_000, Duration::from_millis(50)));
    let start = || {
        let (client, store) = (fixture.client.clone(), fixture.store.clone());
        let wanted = request(&name, Credentials::Anonymous);
        tokio::spawn(async move { client.pull(&wanted, &store, |_| {}).await })
    };
    let first = start();
    wait_until(|| registry.count("GET", &image.layers[0].digest) == 1).await;
    let second = start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    second.await.unwrap().unwrap();
    assert_eq!(registry.ranges(&image.layers[0].digest), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_at_once_after_a_cancelled_one_waits_for_its_thread() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let image = sample();
    let name = registry.push("app", "1", &image);
    registry.fault(&image.layers[0].digest, Fault::Slow(50_000, Duration::from_millis(10)));
    for _ in 0..5 {
        let pull = fixture.pull(&name);
        drop(tokio::time::timeout(Duration::from_millis(60), pull).await);
    }
    let outcome = fixture.pull(&name).await.unwrap();
    assert_eq!(fixture.read(&outcome, "large").unwrap().len(), 900_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_failure_is_not_ours() {
    let good = Registry::start();
    let bad = Registry::start();
    let fixture = Fixture::new();
    let image = sample();
    let good_name = good.push("app", "1", &image);
    let bad_name = bad.push("app", "1", &image);
    bad.fault("/blobs/", Fault::Delay(Duration::from_millis(300)));
    bad.put_blob(&image.layers[0].digest, vec![0; image.layers[0].blob.len()]);
    let failing = {
        let (client, store) = (fixture.client.clone(), fixture.store.clone());
        let wanted = request(&bad_name, password("a", "b"));
        tokio::spawn(async move { client.pull(&wanted, &store, |_| {}).await })
    };
    // The bad registry's flight is under way when the good one's pull joins it.
    wait_until(|| bad.count("GET", &image.layers[0].digest) == 1).await;
    let (outcome, other) = tokio::join!(fixture.pull(&good_name), failing);
    outcome.unwrap();
    assert!(other.unwrap().is_err());
    assert_eq!(good.count("GET", &image.layers[0].digest), 1);
}

async fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(condition(), "waited 30 s in vain");
}
