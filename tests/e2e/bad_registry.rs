//! Registries that lie, stall or attack, seen from the command line: one error, and nothing of the image stays.

use std::path::Path;

use palan_test_support::daemon::{Daemon, Options, Run};
use palan_test_support::image::{
    Compression, Flavour, Image, ImageBuilder, Layer, TarBuilder, digest, noise,
};
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::{PATIENCE, requires, wait_until};
use serde_json::{Value, json};

/// A daemon that tries each layer twice and no more.
fn daemon() -> Daemon {
    let settings = r#""max-download-attempts": 2"#.to_owned();
    Daemon::start_with(Options { settings: Some(settings), ..Options::default() })
}

fn pull(daemon: &Daemon, registry: &Registry) -> Run {
    daemon.palan(["pull", &format!("{}/liar", registry.host())])
}

/// Fails as it should, and leaves neither image nor layer nor anything to unpack it from.
#[track_caller]
fn refused(daemon: &Daemon, run: Run, text: &str) {
    assert!(run.stderr.len() < 2000, "{run}");
    run.fails(1, text);
    assert_eq!(daemon.palan(["images", "-aq"]).ok().stdout, "");
    for directory in ["layers", "blobs/sha256"] {
        let directory = daemon.data_root().join(directory);
        // Of several layers others may still be on their way when the first has failed.
        wait_until(PATIENCE, || names(&directory).is_empty());
        let left = names(&directory);
        assert!(left.is_empty(), "left in {}: {left:?}", directory.display());
    }
}

/// What a directory holds, but for the parts of downloads that could be resumed and the layer of nothing.
fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".ingest" && name != ".empty")
        .collect()
}

fn image() -> ImageBuilder {
    ImageBuilder::new().compression(Compression::Gzip).file("noise", 0o644, noise(200_000, 1))
}

/// Pushes an image whose manifest was changed after it was made.
fn push_changed(registry: &Registry, image: &Image, change: impl FnOnce(&mut Value)) {
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    change(&mut manifest);
    for (digest, bytes) in image.blobs() {
        registry.put_blob(&digest, bytes);
    }
    registry.put_manifest("liar", "latest", image.media_type(), manifest.to_string().as_bytes());
}

#[test]
fn descriptors_that_lie() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let good = image().build();
    let name = &good.layers[0].digest;
    let size = good.layers[0].blob.len();
    for claimed in [size - 1, size + 1] {
        push_changed(&registry, &good, |manifest| manifest["layers"][0]["size"] = json!(claimed));
        let text = format!("the registry served {size} bytes, the manifest promises {claimed}");
        refused(&daemon, pull(&daemon, &registry), &text);
    }
    for claimed in [json!(-1), json!(u64::MAX), json!("7"), json!(null)] {
        push_changed(&registry, &good, |manifest| manifest["layers"][0]["size"] = claimed);
        refused(&daemon, pull(&daemon, &registry), "");
    }
    for claimed in ["sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e", "../../../etc/passwd", ""] {
        push_changed(&registry, &good, |manifest| manifest["layers"][0]["digest"] = json!(claimed));
        refused(&daemon, pull(&daemon, &registry), "");
    }
    // Other bytes than the digest says, of the right length.
    registry.push("liar", "latest", &good);
    registry.put_blob(name, noise(size, 2));
    refused(&daemon, pull(&daemon, &registry), name);
    // The configuration is another one.
    registry.push("liar", "latest", &good);
    registry.put_blob(&good.config_digest, b"{}".to_vec());
    refused(&daemon, pull(&daemon, &registry), "");
}

#[test]
fn layers_that_lie() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let tar = TarBuilder::new().file("noise", 0o644, noise(200_000, 1)).finish();
    let honest = Layer::new(tar, Flavour::Oci, Compression::Gzip);
    let packed = |blob: Vec<u8>| Layer { digest: digest(&blob), blob, ..honest.clone() };
    let cut = packed(honest.blob[..honest.blob.len() / 2].to_vec());
    let longer = packed([honest.blob.as_slice(), b"something behind it"].concat());
    let other = Layer { diff_id: digest(b"another tar"), ..honest.clone() };
    let plain = packed(b"neither compressed nor a tar".repeat(100));
    for layer in [cut, longer, other, plain] {
        let name = layer.digest.clone();
        registry.push("liar", "latest", &ImageBuilder::new().packed_layer(layer).build());
        refused(&daemon, pull(&daemon, &registry), &name);
    }
    registry.push("liar", "latest", &ImageBuilder::new().packed_layer(honest).build());
    pull(&daemon, &registry).ok();
}

/// Five gigabytes of zeros behind the end of an archive, in less than a megabyte: they are read, as they belong to what is
/// hashed, but not for long.
#[test]
fn a_decompression_bomb_is_stopped() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let start = Compression::Zstd.pack(&TarBuilder::new().file("small", 0o644, "x").finish());
    let zeros = Compression::Zstd.pack(&vec![0; 64 << 20]);
    let blob = [start, zeros.repeat(80)].concat();
    assert!(blob.len() < 1 << 20);
    let layer =
        Layer { digest: digest(&blob), blob, ..Layer::new(Vec::new(), Flavour::Oci, Compression::Zstd) };
    let name = layer.digest.clone();
    registry.push("liar", "latest", &ImageBuilder::new().packed_layer(layer).build());
    let run = pull(&daemon, &registry);
    assert!(run.stderr.contains(&name), "{run}");
    refused(&daemon, run, "times");
}

/// CVE-2021-41190: one document, two meanings.
#[test]
fn an_index_that_is_also_a_manifest() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let image = image().build();
    let entry = json!({"mediaType": image.media_type(), "digest": image.manifest_digest,
        "size": image.manifest.len(), "platform": {"architecture": "amd64", "os": "linux"}});
    push_changed(&registry, &image, |manifest| manifest["manifests"] = json!([entry]));
    refused(&daemon, pull(&daemon, &registry), "both");
    // The same, delivered as the other kind.
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["manifests"] = json!([entry]);
    registry.put_manifest("liar", "latest", Flavour::Oci.index(), manifest.to_string().as_bytes());
    refused(&daemon, pull(&daemon, &registry), "");
    // A manifest that calls itself something else than the registry does.
    registry.put_manifest("liar", "latest", Flavour::Docker.manifest(), &image.manifest);
    refused(&daemon, pull(&daemon, &registry), "");
}

#[test]
fn a_registry_that_stalls() {
    requires!(root);
    let settings = r#""max-download-attempts": 1"#.to_owned();
    let daemon = Daemon::start_with(Options { settings: Some(settings), ..Options::default() });
    let registry = Registry::start();
    registry.push("liar", "latest", &image().build());
    registry.fault("/blobs/", Fault::StallAfter(1000));
    // Who does not want to wait can go, and takes the pull along.
    let mut waiting = daemon.command();
    waiting.args(["pull", &format!("{}/liar", registry.host())]);
    waiting.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut waiting = waiting.spawn().unwrap();
    assert!(wait_until(PATIENCE, || registry.count("GET", "/blobs/") > 0));
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    waiting.wait().unwrap();
    // Who waits is told.
    refused(&daemon, pull(&daemon, &registry), &registry.host());
    registry.heal();
    pull(&daemon, &registry).ok();
}
