//! Caches of builds that are somewhere else: documents, configurations, and what images say. Whatever is read can be asked, and leads to
//! bounded results.

#![no_main]

use palan_builder::backend::Snapshot;
use palan_builder::remote_cache::read::{Place, RemoteCache};
use palan_oci::manifest::MAX_LAYERS;
use palan_oci::{Descriptor, Digest, media_type};

fn ask(cache: &RemoteCache) {
    assert_eq!(cache.is_empty(), cache.len() == 0);
    for keys in [cache.keys_of(&Snapshot::default()), cache.keys_of(&Snapshot { layers: vec![Digest::of("a")] })] {
        for key in keys {
            assert!(cache.find(&key).expect("it leads there").len() <= MAX_LAYERS);
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let plain = Descriptor::of(media_type::OCI_LAYER, b"a");
    let layers = match Place::read(bytes) {
        Ok(Place::Cache { layers, .. }) => layers,
        Ok(Place::Image(manifest)) => manifest.layers,
        _ => vec![plain],
    };
    if let Ok(cache) = RemoteCache::read(bytes, &layers) {
        ask(&cache);
    }
    if let Ok(Some(cache)) = RemoteCache::inline(bytes, &layers) {
        ask(&cache);
    }
});
