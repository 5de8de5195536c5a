//! Caches of builds that are somewhere else: what one daemon made, another with an empty data root finds.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_test_support::daemon::{Daemon, Run};
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::requires;
use serde_json::{Value, json};

use crate::images::daemon;

const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

const DOCKERFILE: &str = "FROM bb AS made\nCOPY src /src/\nRUN cat /src/a > /made; echo left > /left\n\
                          FROM bb\nCOPY --from=made /made /made\nRUN echo b > /b; date > /now\nENV a=b\n";

/// The same directory for several daemons.
struct Context(tempfile::TempDir);

impl Context {
    fn new(dockerfile: &str) -> Self {
        let context = Self(tempfile::tempdir().unwrap());
        context.file("Dockerfile", dockerfile);
        context.file("src/a", "from the context");
        context
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn build(&self, daemon: &Daemon, flags: &[&str]) -> Run {
        let directory = self.path().display().to_string();
        let mut arguments = vec!["build", "--network", "none", "--progress", "plain", "-t", "app"];
        arguments.extend(flags);
        arguments.push(&directory);
        daemon.palan(arguments)
    }
}

fn cached(built: &Run) -> usize {
    built.stderr.matches(" CACHED\n").count()
}

#[track_caller]
fn id(daemon: &Daemon) -> String {
    daemon.palan(["image", "inspect", "-f", "{{.Id}}", "app"]).ok().line().to_owned()
}

#[track_caller]
fn content(daemon: &Daemon) -> String {
    daemon.palan(["run", "--rm", "--network", "none", "app", "sh", "-c", "cat /made /b"]).ok().stdout
}

fn manifest(registry: &Registry, repository: &str, tag: &str) -> (String, Value) {
    let (media_type, manifest) = registry.manifest(repository, tag).expect("a manifest");
    (media_type, serde_json::from_slice(&manifest).unwrap())
}

fn layers_of(cache: &Value) -> usize {
    cache["layers"].as_array().unwrap().len()
}

#[test]
fn what_one_daemon_made_another_finds_in_a_registry() {
    requires!(root);
    let (one, other, third) = (daemon(), daemon(), daemon());
    let registry = Registry::start();
    registry.separate_repositories();
    let context = Context::new(DOCKERFILE);
    let cache = format!("{}/team/cache:main", registry.host());
    let to = format!("type=registry,ref={cache},mode=max");
    let built = context.build(&one, &["--cache-to", &to]).ok();
    for text in [
        "exporting cache to registry\n",
        "preparing build cache for export",
        "writing layer sha256:",
        "writing config sha256:",
        "writing cache image manifest sha256:",
    ] {
        assert!(built.stderr.contains(text), "{text}: {built}");
    }
    let (media_type, document) = manifest(&registry, "team/cache", "main");
    assert_eq!(media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!((layers_of(&document), &document["config"]["mediaType"]), (5, &json!(CONFIG_TYPE)));
    for layer in document["layers"].as_array().unwrap() {
        assert!(layer["annotations"]["containerd.io/uncompressed"].as_str().unwrap().starts_with("sha256:"));
    }
    registry.forget_requests();
    let found = context.build(&other, &["--cache-from", &cache]).ok();
    assert!(found.stderr.contains(&format!("importing cache manifest from {cache}\n")), "{found}");
    assert_eq!((cached(&found), id(&other)), (5, id(&one)), "{found}");
    assert_eq!(content(&other), "from the contextb\n");
    // The configuration, and the two layers that the image has of its own: what is below is not needed.
    assert_eq!(registry.count("GET", "/blobs/"), 3);
    let again = context.build(&other, &[]).ok();
    assert_eq!((cached(&again), id(&other)), (5, id(&one)), "what was found is kept");
    // It goes on as a whole, also what was never here.
    let copy = format!("{}/team/copy:1", registry.host());
    registry.forget_requests();
    let to = format!("type=registry,ref={copy},mode=max,oci-mediatypes=false");
    context.build(&third, &["--cache-from", &cache, "--cache-to", &to]).ok();
    assert_eq!(registry.count("GET", "/blobs/"), 3, "what is missing is mounted");
    let (media_type, document) = manifest(&registry, "team/copy", "1");
    assert_eq!(media_type, "application/vnd.docker.distribution.manifest.list.v2+json");
    assert_eq!(document["manifests"].as_array().unwrap().len(), 6);
    let (before, after) = (config(&registry, "team/cache", "main"), config(&registry, "team/copy", "1"));
    assert_eq!(keys(&before), keys(&after), "nothing is lost on the way");
    // Of another last step, those before it are found.
    let fresh = daemon();
    context.file("Dockerfile", &DOCKERFILE.replace("echo b", "echo c"));
    let other_step = context.build(&fresh, &["--cache-from", &copy]).ok();
    assert_eq!(cached(&other_step), 4, "{other_step}");
    assert_eq!(content(&fresh), "from the contextc\n");
}

/// A cache's configuration.
fn config(registry: &Registry, repository: &str, tag: &str) -> Value {
    let (_, document) = manifest(registry, repository, tag);
    let mut entries = document["manifests"].as_array().into_iter().flatten().chain(document.get("config"));
    let config = entries.rfind(|entry| entry["mediaType"] == CONFIG_TYPE).unwrap();
    let config = registry.blob(config["digest"].as_str().unwrap()).expect("a configuration");
    serde_json::from_slice(&config).unwrap()
}

fn keys(config: &Value) -> Vec<String> {
    let records = config["records"].as_array().unwrap().iter();
    let mut keys: Vec<String> = records.map(|record| record["digest"].as_str().unwrap().to_owned()).collect();
    keys.sort();
    keys
}

#[test]
fn a_cache_has_what_the_image_is_made_of_unless_more_is_wanted() {
    requires!(root);
    let (one, other) = (daemon(), daemon());
    let registry = Registry::start();
    let context = Context::new(DOCKERFILE);
    let cache = format!("{}/cache:min", registry.host());
    context.build(&one, &["--cache-to", &format!("type=registry,ref={cache}")]).ok();
    let (_, document) = manifest(&registry, "cache", "min");
    assert_eq!(layers_of(&document), 3, "{document}");
    let found = context.build(&other, &["--cache-from", &format!("type=registry,ref={cache}")]).ok();
    assert_eq!((cached(&found), id(&other)), (5, id(&one)), "{found}");
    // The stage is not in it.
    let fresh = daemon();
    let stage = context.build(&fresh, &["--cache-from", &cache, "--target", "made"]).ok();
    assert_eq!(cached(&stage), 0, "{stage}");
}

#[test]
fn a_cache_in_a_directory_of_the_clients() {
    requires!(root);
    let (one, other) = (daemon(), daemon());
    let context = Context::new(DOCKERFILE);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache").display().to_string();
    let from = format!("type=local,src={path},tag=t");
    let first = context.build(
        &one,
        &["--cache-from", &from, "--cache-to", &format!("type=local,dest={path},tag=t,mode=max")],
    );
    let first = first.ok();
    assert!(first.stderr.contains(&format!("WARNING: local cache import at {path} skipped: ")), "{first}");
    assert!(first.stderr.contains("exporting cache to client directory\n"), "{first}");
    let index: Value = serde_json::from_slice(&fs::read(format!("{path}/index.json")).unwrap()).unwrap();
    let entry = &index["manifests"][0];
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "t");
    let blobs = || fs::read_dir(format!("{path}/blobs/sha256")).unwrap().count();
    assert_eq!(blobs(), 7, "five layers and two documents");
    assert_eq!(fs::read_dir(format!("{path}/ingest")).unwrap().count(), 0);
    let found = context.build(&other, &["--cache-from", &from]).ok();
    assert_eq!((cached(&found), id(&other)), (5, id(&one)), "{found}");
    assert_eq!(content(&other), "from the contextb\n");
    // The same again writes nothing, and an index is a form of it, too.
    context.build(&one, &["--cache-to", &format!("type=local,dest={path},tag=t,mode=max")]).ok();
    assert_eq!(blobs(), 7);
    let to = format!("type=local,dest={path},tag=list,mode=max,image-manifest=false");
    context.build(&one, &["--cache-to", &to]).ok();
    assert_eq!(blobs(), 8);
    let fresh = daemon();
    let found = context.build(&fresh, &["--cache-from", &format!("type=local,src={path},tag=list")]).ok();
    assert_eq!((cached(&found), id(&fresh)), (5, id(&one)), "{found}");
    // By its digest, as others name it; and what was damaged there is made.
    let digest = entry["digest"].as_str().unwrap();
    damage(&directory.path().join("cache/blobs/sha256"));
    let broken = daemon();
    let built =
        context.build(&broken, &["--cache-from", &format!("type=local,src={path},digest={digest}")]).ok();
    assert!(cached(&built) < 5 && built.stderr.contains("can't be used, its step is executed"), "{built}");
    assert_eq!(content(&broken), "from the contextb\n");
}

/// Changes a bit of every layer.
fn damage(blobs: &Path) {
    for blob in fs::read_dir(blobs).unwrap() {
        let path: PathBuf = blob.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        if content.starts_with(&[0x1f, 0x8b]) {
            let middle = content.len() / 2;
            content[middle] ^= 1;
            fs::write(path, content).unwrap();
        }
    }
}

#[test]
fn a_cache_in_an_image() {
    requires!(root);
    let (one, other) = (daemon(), daemon());
    let registry = Registry::start();
    let context = Context::new(DOCKERFILE);
    let name = format!("{}/team/app:1", registry.host());
    let inline = ["--build-arg", "BUILDKIT_INLINE_CACHE=1"];
    context.build(&one, &[&inline[..], &["-t", &name]].concat()).ok();
    one.palan(["push", &name]).ok();
    let (_, document) = manifest(&registry, "team/app", "1");
    let config = registry.blob(document["config"]["digest"].as_str().unwrap()).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let records = STANDARD.decode(config["moby.buildkit.cache.v0"].as_str().expect("a cache")).unwrap();
    let records: Vec<Value> = serde_json::from_slice(&records).unwrap();
    assert!(records.iter().all(|record| record["layers"][0]["layer"].as_i64().unwrap() < 3), "{records:?}");
    let found = context.build(&other, &[&inline[..], &["--cache-from", &name]].concat()).ok();
    assert_eq!((cached(&found), id(&other)), (5, id(&one)), "{found}");
    // It is no part of an image that is made from it.
    context.file("Dockerfile", &format!("FROM {name}\nLABEL c=d\n"));
    context.build(&other, &[]).ok();
    let saved = other.palan(["image", "inspect", "app"]).ok().stdout;
    assert!(!saved.contains("moby.buildkit.cache"), "{saved}");
}

#[test]
fn a_cache_in_an_image_that_was_pulled_for_the_classic_builder() {
    requires!(root);
    requires!(program "docker");
    let (one, other) = (daemon(), daemon());
    let registry = Registry::start();
    let context = Context::new(DOCKERFILE);
    let name = format!("{}/team/app:1", registry.host());
    context.build(&one, &["--cache-to", "type=inline", "-t", &name]).ok();
    one.palan(["push", &name]).ok();
    other.palan(["pull", "-q", &name]).ok();
    let directory = context.path().display().to_string();
    let mut command = other.docker_command();
    command.env("DOCKER_BUILDKIT", "0").args([
        "build",
        "--network",
        "none",
        "--cache-from",
        &name,
        "-t",
        "app",
    ]);
    let built = palan_test_support::daemon::finish(command.arg(&directory), None).ok();
    assert!(built.stdout.matches(" ---> Using cache\n").count() >= 4, "{built}");
    assert_eq!(content(&other), "from the contextb\n");
    assert_eq!(
        other.palan(["image", "inspect", "-f", "{{json .RootFS.Layers}}", "app"]).ok().stdout,
        other.palan(["image", "inspect", "-f", "{{json .RootFS.Layers}}", &name]).ok().stdout
    );
}

#[test]
fn a_cache_that_is_broken_is_none() {
    requires!(root);
    let one = daemon();
    let registry = Registry::start();
    let context = Context::new(DOCKERFILE);
    let cache = format!("{}/cache:1", registry.host());
    context.build(&one, &["--cache-to", &format!("type=registry,ref={cache},mode=max")]).ok();
    let (media_type, good) = manifest(&registry, "cache", "1");
    let config_digest = good["config"]["digest"].as_str().unwrap().to_owned();
    let good_config = registry.blob(&config_digest).unwrap();
    let put = |tag: &str, manifest: &Value| {
        registry.put_manifest("cache", tag, &media_type, manifest.to_string().as_bytes());
    };
    let with_config = |tag: &str, config: &[u8]| {
        let digest = palan_test_support::image::digest(config);
        registry.put_blob(&digest, config.to_vec());
        let mut manifest = good.clone();
        manifest["config"]["digest"] = json!(digest);
        manifest["config"]["size"] = json!(config.len());
        put(tag, &manifest);
    };
    let layer = good["layers"][0]["digest"].clone();
    with_config(
        "circle",
        json!({"layers": [{"blob": layer, "parent": 1}, {"blob": layer}]}).to_string().as_bytes(),
    );
    with_config("garbage", b"{");
    let mut huge = good.clone();
    huge["config"]["size"] = json!(1_u64 << 40);
    put("huge", &huge);
    let mut lying = good.clone();
    lying["config"]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    put("missing-config", &lying);
    registry.put_manifest("cache", "no-json", &media_type, b"no JSON");
    for tag in ["none", "circle", "garbage", "huge", "missing-config", "no-json"] {
        let daemon = daemon();
        let built =
            context.build(&daemon, &["--cache-from", &format!("{}/cache:{tag}", registry.host())]).ok();
        assert!(built.stderr.contains("can't be read, and is not used"), "{tag}: {built}");
        assert_eq!((cached(&built), content(&daemon).as_str()), (0, "from the contextb\n"), "{tag}");
    }
    // Documents are right, layers are not.
    let mut other_files = good.clone();
    for layer in other_files["layers"].as_array_mut().unwrap() {
        layer["annotations"]["containerd.io/uncompressed"] = json!(format!("sha256:{}", "1".repeat(64)));
    }
    put("other-files", &other_files);
    let mut gone = good.clone();
    let mut config = String::from_utf8(good_config).unwrap();
    for layer in gone["layers"].as_array_mut().unwrap() {
        let digest = layer["digest"].as_str().unwrap().to_owned();
        let other =
            format!("sha256:{}", digest.trim_start_matches("sha256:").chars().rev().collect::<String>());
        config = config.replace(&digest, &other);
        layer["digest"] = json!(other);
    }
    let config = config.into_bytes();
    let digest = palan_test_support::image::digest(&config);
    registry.put_blob(&digest, config.clone());
    (gone["config"]["digest"], gone["config"]["size"]) = (json!(digest), json!(config.len()));
    put("gone", &gone);
    for tag in ["other-files", "gone", "1"] {
        let daemon = daemon();
        if tag == "1" {
            for layer in good["layers"].as_array().unwrap() {
                registry.fault(
                    &format!("GET /v2/cache/blobs/{}", layer["digest"].as_str().unwrap()),
                    Fault::Corrupt(20),
                );
            }
        }
        let built =
            context.build(&daemon, &["--cache-from", &format!("{}/cache:{tag}", registry.host())]).ok();
        assert!(built.stderr.contains("can't be used, its step is executed"), "{tag}: {built}");
        assert_eq!((cached(&built), content(&daemon).as_str()), (0, "from the contextb\n"), "{tag}");
        assert_eq!(daemon.palan(["system", "fsck"]).ok().stdout, "", "{tag}");
    }
}

#[test]
fn what_buildkit_wrote_is_a_miss() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let context = Context::new("FROM bb\nRUN echo made > /made; echo b > /b\n");
    let layer = flate2_of(b"no tar");
    let blob = palan_test_support::image::digest(&layer);
    registry.put_blob(&blob, layer.clone());
    let config = json!({
        "layers": [{"blob": blob, "parent": -1}],
        "records": [
            {"digest": format!("sha256:{}", "a".repeat(64))},
            {
                "layers": [{"layer": 0, "createdAt": "2022-05-11T14:17:42.4Z"}],
                "digest": format!("sha256:{}", "b".repeat(64)),
                "inputs": [[{"link": 0}]],
            },
        ],
    });
    let config = config.to_string();
    let digest = palan_test_support::image::digest(config.as_bytes());
    registry.put_blob(&digest, config.clone().into_bytes());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": blob, "size": layer.len(),
             "annotations": {"containerd.io/uncompressed": format!("sha256:{}", "c".repeat(64))}},
            {"mediaType": CONFIG_TYPE, "digest": digest, "size": config.len()},
        ],
    });
    registry.put_manifest(
        "cache",
        "1",
        "application/vnd.oci.image.index.v1+json",
        index.to_string().as_bytes(),
    );
    let built = context.build(&daemon, &["--cache-from", &format!("{}/cache:1", registry.host())]).ok();
    assert!(!built.stderr.contains("is not used"), "{built}");
    assert_eq!(cached(&built), 0, "{built}");
}

fn flate2_of(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn caches_of_registries_that_want_a_password_and_of_those_that_refuse() {
    requires!(root);
    let (one, other) = (daemon(), daemon());
    let registry = Registry::start();
    registry.require_basic("user", "secret");
    let context = Context::new(DOCKERFILE);
    let cache = format!("{}/cache:1", registry.host());
    let to = format!("type=registry,ref={cache}");
    context.build(&one, &["--cache-to", &to]).fails(1, "ERROR: failed to build: failed to solve: ");
    let ignored = context.build(&one, &["--cache-to", &format!("{to},ignore-error=true")]).ok();
    assert!(ignored.stderr.contains("the cache was not exported: "), "{ignored}");
    for daemon in [&one, &other] {
        let login = ["login", "-u", "user", "--password-stdin", &registry.host()];
        daemon.palan_with_input(login, b"secret").ok();
    }
    context.build(&one, &["--cache-to", &to]).ok();
    let found = context.build(&other, &["--cache-from", &cache]).ok();
    assert_eq!((cached(&found), id(&other)), (5, id(&one)), "{found}");
    for (flag, text) in [
        ("type=gha", "cache type \"gha\" is not supported"),
        ("type=local,src=x", "dest is required"),
        ("type=registry,ref=x/y,compression=zstd", "the option compression=zstd"),
    ] {
        let refused = context.build(&one, &["--cache-to", flag]);
        assert!(refused.code != 0 && refused.stderr.contains(text), "{flag}: {refused}");
    }
}
