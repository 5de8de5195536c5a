//! Archives loaded and imported.

use palan_oci::media_type;

use super::*;
use crate::testing::{Tar, TestStore, gzip};

fn layer(text: &str) -> Vec<u8> {
    Tar::new().directory("etc/").file("etc/hello", text.as_bytes()).finish()
}

fn config(layers: &[&[u8]], note: &str) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(Digest::of).collect();
    let diff_ids = serde_json::to_string(&diff_ids).expect("serializes");
    format!(r#"{{"architecture":"amd64","os":"linux","comment":"{note}","rootfs":{{"type":"layers","diff_ids":{diff_ids}}}}}"#)
        .into_bytes()
}

/// As Docker saved images before version 25: layers first, what they mean last.
fn docker_archive(tags: &str) -> Tar {
    let (one, two) = (layer("1"), layer("2"));
    let config = config(&[&one, &two, &one], "x");
    let name = format!("{}.json", Digest::of(&config).hex());
    let manifest = format!(
        r#"[{{"Config":"{name}","RepoTags":{tags},"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#
    );
    Tar::new()
        .directory("a/")
        .file("a/VERSION", b"1.0")
        .file("a/json", b"{}")
        .file("a/layer.tar", &one)
        .file("b/layer.tar", &two)
        .symlink("c/layer.tar", "../a/layer.tar")
        .file(&name, &config)
        .file("manifest.json", manifest.as_bytes())
        .file("repositories", b"{}")
}

fn blob(content: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(content).hex())
}

/// An OCI layout with a gzip layer, in an index of two platforms.
fn layout(annotations: &str) -> (Tar, Vec<u8>) {
    let tar = layer("oci");
    let compressed = gzip(&tar);
    let config = config(&[&tar], "oci");
    let json = |descriptor: &Descriptor| serde_json::to_string(descriptor).expect("serializes");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        json(&Descriptor::of(media_type::OCI_CONFIG, &config)),
        json(&Descriptor::of(media_type::OCI_LAYER_GZIP, &compressed)),
    );
    let mut ours = Descriptor::of(media_type::OCI_MANIFEST, manifest.as_bytes());
    ours.platform = Some(Platform::host());
    let mut other = Descriptor::of(media_type::OCI_MANIFEST, b"not here");
    other.platform = Some("linux/s390x".parse().expect("a platform"));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, json(&other), json(&ours));
    let mut top = Descriptor::of(media_type::OCI_INDEX, index.as_bytes());
    top.annotations = serde_json::from_str(annotations).expect("a map");
    let top = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, json(&top));
    let tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file(&blob(&compressed), &compressed)
        .file(&blob(&config), &config)
        .file(&blob(manifest.as_bytes()), manifest.as_bytes())
        .file(&blob(index.as_bytes()), index.as_bytes())
        .file("index.json", top.as_bytes());
    (tar, manifest.into_bytes())
}

fn load(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>> {
    store.load(&mut &*archive, &mut |_| {})
}

#[test]
fn a_docker_archive_in_all_compressions() {
    let archive = docker_archive(r#"["app:1","localhost:5000/app"]"#).finish();
    let zstd = zstd::stream::encode_all(&archive[..], 1).expect("compresses");
    let mut ids = Vec::new();
    for packed in [archive.clone(), gzip(&archive), zstd] {
        let store = TestStore::new();
        let mut finished = 0;
        let loaded = store
            .load(&mut &packed[..], &mut |LoadProgress::Layer { current, total, .. }| {
                finished += u64::from(current == total)
            })
            .expect("loads");
        assert_eq!(finished, 2, "two different layers");
        let names: Vec<String> = loaded[0].names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["app:1", "localhost:5000/app:latest"]);
        assert_eq!(
            store.file(&loaded[0].image, "etc/hello"),
            Some(b"1".to_vec()),
            "the third layer is the first again"
        );
        ids.push(loaded[0].image);
        assert_eq!(store.names("blobs/sha256/.ingest"), [""; 0]);
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_oci_layout() {
    let store = TestStore::new();
    let (tar, manifest) = layout(
        r#"{"io.containerd.image.name":"docker.io/library/oci:2","org.opencontainers.image.ref.name":"2"}"#,
    );
    let loaded = load(&store, &tar.finish()).expect("loads");
    assert_eq!(loaded[0].names, ["oci:2".parse().expect("a name")]);
    let image = store.resolve("oci:2").expect("there");
    assert_eq!(image.manifest, Digest::of(manifest), "as it was in the archive");
    assert_eq!(store.file(&image.id, "etc/hello"), Some(b"oci".to_vec()));
    let (tar, _) = layout(r#"{"org.opencontainers.image.ref.name":"latest"}"#);
    assert_eq!(load(&store, &tar.finish()).expect("loads")[0].names, [], "a tag alone is no name");
    let (tar, _) = layout(r#"{"org.opencontainers.image.ref.name":"other.io/oci:3"}"#);
    assert_eq!(load(&store, &tar.finish()).expect("loads")[0].names.len(), 1);
}

#[test]
fn a_name_is_taken_from_the_image_that_had_it() {
    let store = TestStore::new();
    let old = store.make("app:1", &[layer("old")]).expect("commits");
    let loaded = load(&store, &docker_archive(r#"["app:1"]"#).finish()).expect("loads");
    assert_eq!(loaded[0].replaced, [("app:1".parse().expect("a name"), old.id)]);
    let again = load(&store, &docker_archive("null").finish()).expect("loads");
    assert_eq!((again[0].image, &again[0].names[..]), (loaded[0].image, &[][..]));
    assert_eq!(again[0].replaced, []);
}

#[test]
fn bad_archives_leave_nothing() {
    let check = |archive: &[u8], expected: &str| {
        let store = TestStore::new();
        let error = load(&store, archive).expect_err(expected);
        let text = palan_stdx::error_chain::to_string(&error);
        assert!(text.contains(expected), "{text}");
        store.settle();
        assert_eq!((store.names("layers"), store.names("blobs/sha256")), (Vec::new(), Vec::new()));
        assert!(store.images().expect("lists").is_empty());
    };
    check(b"", "holds no image");
    check(b"no archive at all", "truncated");
    check(&layer("x"), "holds no image");
    let good = docker_archive(r#"["app:1"]"#).finish();
    check(&good[..4000], "truncated");
    check(&gzip(&good)[..300], "cannot read");
    check(&docker_archive(r#"["Upper:1"]"#).finish(), "must be lowercase");
    check(&Tar::new().file("manifest.json", b"[{").finish(), "manifest.json in the archive is not valid");
    check(&Tar::new().file("manifest.json", b"[{\"Config\":\"x\"}]").finish(), "refers to \"x\"");
    let config_only = br#"[{"Config":"x","Layers":["y"]}]"#;
    check(
        &Tar::new().file("x", b"{}").file("y", b"{}").file("manifest.json", config_only).finish(),
        "used as a layer",
    );
    check(
        &Tar::new().file("x", b"{}").file("y", b"yy").file("manifest.json", config_only).finish(),
        "has 1 layers",
    );
    check(&Tar::new().symlink("manifest.json", "manifest.json").finish(), "holds no image");
    check(&Tar::new().symlink("index.json", "/etc/passwd").finish(), "holds no image");
    // Names that promise a digest are held to it.
    check(&Tar::new().file(&blob(b"a"), b"b").finish(), "does not match its digest");
    check(&Tar::new().file(&blob(b"a"), b"{}").finish(), "does not match its digest");
    // A layer that is another than the configuration says.
    let config = config(&[&layer("1")], "x");
    let lying = Tar::new()
        .file("config", &config)
        .file("layer.tar", &layer("2"))
        .file("manifest.json", br#"[{"Config":"config","Layers":["layer.tar"]}]"#);
    check(&lying.finish(), "but the image's configuration says");
    let (tar, _) = layout("{}");
    let confused = tar.file("index.json", br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#).finish();
    check(&confused, "ambiguous");
}

#[test]
fn a_root_file_system_is_imported() {
    let store = TestStore::new();
    let options = ImportOptions {
        name: Some("base".parse().expect("a name")),
        changes: vec!["CMD [\"/bin/sh\"]".to_owned(), "ENV A=b".to_owned()],
        message: "Imported from -".to_owned(),
        platform: Some("linux/arm64".parse().expect("a platform")),
        created: "2026-01-02T03:04:05Z".to_owned(),
    };
    for packed in [layer("x"), gzip(&layer("x"))] {
        let id = store.import(&mut &packed[..], &options).expect("imports");
        let image = store.resolve("base").expect("named");
        assert_eq!(image.id, id);
        assert_eq!(image.config.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!(image.config.platform().to_string(), "linux/arm64");
        assert_eq!(store.history(&id).expect("there")[0].comment, "Imported from -");
        assert_eq!(store.file(&id, "etc/hello"), Some(b"x".to_vec()));
    }
    let refused = ImportOptions { changes: vec!["RUN x".to_owned()], ..ImportOptions::default() };
    let error = store.import(&mut &layer("y")[..], &refused).expect_err("refused");
    assert_eq!(error.to_string(), "RUN is not a valid change command");
    assert!(store.import(&mut &b"not a tar"[..], &ImportOptions::default()).is_err());
    assert_eq!(store.names("blobs/sha256/.ingest"), [""; 0]);
}
