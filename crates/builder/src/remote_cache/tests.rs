//! What is written is read again; what others write is read or refused, never worse.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_oci::media_type;
use palan_oci::{Descriptor, Digest};
use serde_json::{Value, json};

use super::read::{CacheError, Place, RemoteCache};
use super::write::{Form, Results};
use super::{CONFIG_TYPE, Layer};
use crate::backend::Snapshot;

fn layer(name: &str) -> Layer {
    Layer {
        descriptor: Descriptor::of(media_type::OCI_LAYER_GZIP, format!("{name} compressed").as_bytes()),
        diff_id: Digest::of(name),
        created: Some("2026-01-02T03:04:05Z".to_owned()),
    }
}

fn results(entries: &[(&str, &[&str])]) -> Results {
    let mut results = Results::default();
    for (key, layers) in entries {
        let layers: Vec<Layer> = layers.iter().map(|name| layer(name)).collect();
        results.add(Digest::of(key), &layers);
    }
    results
}

fn names(cache: &RemoteCache, key: &str) -> Option<Vec<Layer>> {
    cache.find(&Digest::of(key)).map(|layers| layers.into_iter().cloned().collect())
}

const FORMS: [Form; 3] = [
    Form { image_manifest: true, oci: true },
    Form { image_manifest: false, oci: true },
    Form { image_manifest: false, oci: false },
];

#[test]
fn what_is_written_is_read() {
    let results = results(&[("one", &["a"]), ("two", &["a", "b"]), ("other", &["c", "b"]), ("nothing", &[])]);
    for form in FORMS {
        let written = results.write(form);
        assert_eq!(written.layers.len(), 3, "each blob once");
        let Place::Cache { config, layers } = Place::read(&written.manifest).expect("a place") else {
            panic!("{form:?} is no cache")
        };
        assert_eq!(config, Descriptor::of(CONFIG_TYPE, &written.config));
        let is_docker = layers.iter().all(|layer| layer.media_type == media_type::DOCKER_LAYER_GZIP);
        assert_eq!(is_docker, !form.oci);
        let cache = RemoteCache::read(&written.config, &layers).expect("a cache");
        let mut expected = vec![layer("c"), layer("b")];
        if !form.oci {
            for layer in &mut expected {
                media_type::DOCKER_LAYER_GZIP.clone_into(&mut layer.descriptor.media_type);
            }
        }
        assert_eq!(names(&cache, "other"), Some(expected));
        assert_eq!(names(&cache, "one").expect("known").len(), 1);
        assert_eq!(names(&cache, "unknown"), None);
        let snapshot = Snapshot { layers: ["a", "b"].map(Digest::of).to_vec() };
        assert_eq!(cache.keys_of(&snapshot).into_iter().collect::<Vec<_>>(), [Digest::of("two")]);
        // Blobs that the manifest does not name can't be had.
        let cache = RemoteCache::read(&written.config, &layers[..0]).expect("a cache");
        assert_eq!(names(&cache, "one"), None);
    }
}

#[test]
fn the_configuration_is_what_buildkit_reads() {
    let written = results(&[("one", &["a"]), ("two", &["a", "b"])]).write(FORMS[0]);
    let config: Value = serde_json::from_slice(&written.config).expect("JSON");
    let blob = |name: &str| layer(name).descriptor.digest.to_string();
    // A parent of 0 is left out there, too.
    assert_eq!(config["layers"], json!([{"blob": blob("a"), "parent": -1}, {"blob": blob("b")}]));
    let mut records: Vec<Value> = config["records"].as_array().expect("records").clone();
    records.sort_by_key(|record| record["layers"][0]["layer"].as_i64());
    let record = |key: &str, top: i64| json!({"digest": Digest::of(key).to_string(), "layers": [{"layer": top, "createdAt": "2026-01-02T03:04:05Z"}]});
    assert_eq!(records, [record("one", 0), record("two", 1)]);
    let manifest: Value = serde_json::from_slice(&written.manifest).expect("JSON");
    assert_eq!(manifest["config"]["mediaType"], CONFIG_TYPE);
    assert_eq!(
        manifest["layers"][0]["annotations"]["containerd.io/uncompressed"],
        Digest::of("a").to_string()
    );
}

#[test]
fn a_cache_in_an_image() {
    let results = results(&[("one", &["a"]), ("two", &["a", "b"]), ("mixed", &["b"]), ("stage", &["x"])]);
    let image = Snapshot { layers: ["a", "b", "c"].map(Digest::of).to_vec() };
    let cache = results.inline(&image).expect("a cache");
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>()},
        "history": [{"created": "2026-01-02T03:04:05Z"}, {"empty_layer": true}, {}, {}],
        "moby.buildkit.cache.v0": cache,
    });
    let descriptors: Vec<Descriptor> = ["a", "b", "c"].map(|name| layer(name).descriptor).to_vec();
    let read =
        RemoteCache::inline(config.to_string().as_bytes(), &descriptors).expect("read").expect("a cache");
    assert_eq!(names(&read, "one"), Some(vec![layer("a")]));
    assert_eq!(names(&read, "two").expect("known")[1].descriptor, descriptors[1]);
    assert_eq!(names(&read, "mixed").expect("known").len(), 1);
    assert_eq!(names(&read, "stage"), None);
    assert!(RemoteCache::inline(config.to_string().as_bytes(), &descriptors[..2]).is_err());
    assert_eq!(RemoteCache::inline(b"{}", &[]).expect("read"), None);
    assert_eq!(results.inline(&Snapshot::default()), None);
}

#[test]
fn what_buildkit_writes_is_read_and_leads_nowhere() {
    let config = json!({
        "layers": [
            {"blob": layer("a").descriptor.digest.to_string(), "parent": -1},
            {"blob": layer("b").descriptor.digest.to_string()},
        ],
        "records": [
            {"digest": "sha256:dd12f5ba0f0bd6b4d2ad06d9a3a23ae4c5a5c1f6de25f4f7a3a8c0b4fe1b07cd"},
            {"digest": "random:1", "layers": null},
            {
                "layers": [{"layer": 1, "createdAt": "2022-05-11T14:17:42.4Z"}],
                "digest": Digest::of("linked").to_string(),
                "inputs": [[{"selector": "sha256:00", "link": 0}], [{"link": 1}]],
            },
        ],
    });
    let descriptors = [layer("a").descriptor, layer("b").descriptor];
    let cache = RemoteCache::read(config.to_string().as_bytes(), &descriptors).expect("a cache");
    assert_eq!((names(&cache, "linked"), cache.is_empty()), (None, true));
}

#[test]
fn hostile_caches_are_refused() {
    let blob = || layer("a").descriptor.digest.to_string();
    let descriptors = [layer("a").descriptor];
    let read = |config: Value| RemoteCache::read(config.to_string().as_bytes(), &descriptors);
    let record = |top: i64| json!([{"digest": Digest::of("k").to_string(), "layers": [{"layer": top}]}]);
    let circle = json!({"layers": [{"blob": blob(), "parent": 1}, {"blob": blob()}], "records": record(0)});
    assert!(matches!(read(circle), Err(CacheError::Circle { .. })));
    let itself = json!({"layers": [{"blob": blob()}]});
    assert!(matches!(read(itself), Err(CacheError::Circle { .. })));
    for parent in [-2, 1, i64::MAX] {
        let config = json!({"layers": [{"blob": blob(), "parent": parent}]});
        assert!(matches!(read(config), Err(CacheError::NoLayer { .. })), "{parent}");
    }
    for top in [-1, 1, i64::MIN] {
        let config = json!({"layers": [{"blob": blob(), "parent": -1}], "records": record(top)});
        assert!(matches!(read(config), Err(CacheError::NoLayer { .. })), "{top}");
    }
    let deep: Vec<Value> = (0..600).map(|number| json!({"blob": blob(), "parent": number - 1})).collect();
    assert!(matches!(read(json!({"layers": deep})), Err(CacheError::TooDeep { .. })));
    let upwards: Vec<Value> = (0..600)
        .map(|number| json!({"blob": blob(), "parent": if number == 599 { -1 } else { number + 1 }}))
        .collect();
    assert!(matches!(read(json!({"layers": upwards})), Err(CacheError::TooDeep { .. })));
    let many: Vec<Value> = (0..70_000).map(|_| json!({})).collect();
    assert!(matches!(read(json!({"records": many})), Err(CacheError::TooMany { .. })));
    // A layer that is named often, and would be large each time.
    let mut large = layer("a").descriptor;
    large.urls = vec!["x".repeat(1000)];
    large.annotations.insert("containerd.io/uncompressed".to_owned(), Digest::of("a").to_string());
    large.annotations.insert("buildkit/createdat".to_owned(), "x".repeat(1000));
    let config = json!({"layers": [{"blob": blob(), "parent": -1}], "records": record(0)});
    let cache = RemoteCache::read(config.to_string().as_bytes(), &[large]).expect("a cache");
    assert_eq!(names(&cache, "k"), Some(vec![Layer { created: None, ..layer("a") }]));
    // A long list of layers leads nowhere.
    let long = json!({"layers": [{"blob": blob(), "parent": -1}], "records": [
        {"digest": Digest::of("k").to_string(), "chains": [{"layers": vec![0; 600]}]}]});
    assert_eq!(names(&read(long).expect("a cache"), "k"), None);
    for text in ["", "7", "{\"layers\":[{\"blob\":\"sha256:../\"}]}", "{\"records\":7}"] {
        RemoteCache::read(text.as_bytes(), &descriptors).expect_err(text);
    }
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
    assert!(matches!(Place::read(both.to_string().as_bytes()), Err(CacheError::Ambiguous)));
    assert!(matches!(Place::read(&vec![b' '; (4 << 20) + 1]), Err(CacheError::TooLarge { .. })));
    let inline = json!({"moby.buildkit.cache.v0": STANDARD.encode("{")});
    RemoteCache::inline(inline.to_string().as_bytes(), &[]).expect_err("no JSON");
    let inline = json!({"moby.buildkit.cache.v0": "%"});
    assert!(matches!(RemoteCache::inline(inline.to_string().as_bytes(), &[]), Err(CacheError::Base64)));
}
