//! A data root as dockerd 20.10 leaves it, written by hand.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use palan_oci::{ChainId, Digest, ImageConfig};

use crate::testing::{Tar, TestStore, gzip};

fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
    std::fs::write(path, content).expect("writes");
}

/// A layer: its tar, and what tar-split makes of it, by the places of its files' content.
struct Layer {
    tar: Vec<u8>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Layer {
    fn new(files: &[(&'static str, &[u8])]) -> Self {
        let tar =
            files.iter().fold(Tar::new().directory("d"), |tar, (name, content)| tar.file(name, content));
        let files = files.iter().map(|(name, content)| (*name, content.to_vec())).collect();
        Self { tar: tar.symlink("d/link", "/etc").file("d/.wh.gone", b"").finish(), files }
    }

    fn split(&self) -> Vec<u8> {
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let (mut lines, mut done, mut position) = (String::new(), 0, 0);
        for (name, content) in &self.files {
            let place = self.tar[done..].windows(content.len()).position(|bytes| bytes == content);
            let start = done + place.expect("is in the tar");
            let header = base64(&self.tar[done..start]);
            lines += &format!("{{\"type\":2,\"payload\":\"{header}\",\"position\":{position}}}\n");
            let size = content.len();
            let crc = base64(&[0; 8]);
            position += 2;
            lines += &format!(
                "{{\"type\":1,\"name\":\"{name}\",\"size\":{size},\"payload\":\"{crc}\",\"position\":{}}}\n",
                position - 1
            );
            done = start + size;
        }
        lines += &format!(
            "{{\"type\":2,\"payload\":\"{}\",\"position\":{position}}}\n",
            base64(&self.tar[done..])
        );
        gzip(lines.as_bytes())
    }
}

/// Writes an image; its id.
fn image(root: &Path, layers: &[&Layer]) -> Digest {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&layer.tar)).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":{}}}}}"#,
        serde_json::to_string(&diff_ids).expect("serializes")
    );
    let id = Digest::of(config.as_bytes());
    let database = root.join("image/overlay2");
    write(&database.join("imagedb/content/sha256").join(id.hex()), config.as_bytes());
    let chains = ImageConfig::parse(config.as_bytes()).expect("a configuration").chain_ids();
    for (layer, chain) in layers.iter().zip(chains) {
        let chain: ChainId = chain;
        let cache_id = format!("{}-cache", chain.digest().short());
        let directory = database.join("layerdb/sha256").join(chain.digest().hex());
        write(&directory.join("cache-id"), cache_id.as_bytes());
        write(&directory.join("tar-split.json.gz"), &layer.split());
        for (name, content) in &layer.files {
            write(&root.join("overlay2").join(&cache_id).join("diff").join(name), content);
        }
    }
    id
}

fn docker_root() -> (tempfile::TempDir, Vec<Digest>) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let bottom = Layer::new(&[("d/one", b"content of one"), ("d/two", &[7; 3000])]);
    let top = Layer::new(&[("d/three", b"content of three")]);
    let base = image(root, &[&bottom]);
    let named = image(root, &[&bottom, &top]);
    let dangling = image(root, &[&top]);
    let parent = root.join("image/overlay2/imagedb/metadata/sha256").join(named.hex()).join("parent");
    write(&parent, base.to_string().as_bytes());
    let names = format!(
        r#"{{"Repositories":{{"thing":{{"thing:1":"{named}","thing:2":"{named}",
            "thing@sha256:{}":"{named}"}},"gone":{{"gone:latest":"sha256:{}"}}}}}}"#,
        "1".repeat(64),
        "2".repeat(64)
    );
    write(&root.join("image/overlay2/repositories.json"), names.as_bytes());
    (directory, vec![base, named, dangling])
}

#[test]
fn images_come_with_their_ids_and_names() {
    let (docker, ids) = docker_root();
    let store = TestStore::new();
    let taken = store.import_docker(docker.path()).expect("imports");
    let found = |id: &Digest| taken.iter().find(|image| image.id.digest() == *id);
    assert_eq!(found(&ids[0]), None, "a step of the builder is no image");
    let named = found(&ids[1]).expect("is there");
    assert_eq!(named.error, None);
    assert_eq!(
        named.names.iter().map(palan_oci::Reference::familiar).collect::<Vec<_>>(),
        ["thing:1", "thing:2"]
    );
    assert_eq!(found(&ids[2]).expect("is there").error, None);
    let gone = taken.iter().find(|image| image.error.is_some()).expect("the one that is gone");
    assert!(gone.error.as_deref().is_some_and(|error| error.contains("imagedb")), "{gone:?}");

    let image = store.resolve("thing:2").expect("resolves");
    assert_eq!(image.id.digest(), ids[1]);
    assert_eq!(store.file(&image.id, "d/two").expect("a file"), [7; 3000]);
    assert_eq!(store.file(&image.id, "d/three").expect("a file"), b"content of three");
    assert_eq!(store.check(false).expect("checks").problems, []);
    // Once more changes nothing.
    let again = store.import_docker(docker.path()).expect("imports");
    assert_eq!(again, taken);
}

#[test]
fn what_was_changed_is_refused_and_leaves_nothing() {
    let (docker, ids) = docker_root();
    let store = TestStore::new();
    for entry in std::fs::read_dir(docker.path().join("overlay2")).expect("lists") {
        let path = entry.expect("an entry").path().join("diff/d/two");
        if path.exists() {
            let mut file = std::fs::File::options().write(true).open(path).expect("opens");
            file.write_all(b"other content").expect("writes");
        }
    }
    let taken = store.import_docker(docker.path()).expect("imports");
    let named = taken.iter().find(|image| image.id.digest() == ids[1]).expect("is there");
    assert!(named.error.is_some(), "{named:?}");
    assert_eq!(store.images().expect("lists").len(), 1, "the dangling one");
    store.settle();
    assert_eq!(store.check(false).expect("checks").problems, []);
    let error = store.import_docker(Path::new("/proc")).expect_err("no data root");
    assert!(error.to_string().contains("docker save"), "{error}");
}
