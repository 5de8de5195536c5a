//! Images from files: `load`, `import`; and what is done with them: `images`, `tag`, `rmi`, `inspect`, `history`.

use palan_test_support::daemon::Daemon;
use palan_test_support::image::{Compression, Flavour, Index, TarBuilder};
use palan_test_support::requires;
use serde_json::Value;

use crate::images::{BUSYBOX, busybox, busybox_layer, daemon, load};

#[test]
fn load_takes_every_form() {
    requires!(root);
    let daemon = Daemon::start();
    let image = busybox().build();
    let archive = image.docker_archive(&["formed:plain"]);
    for (name, bytes) in [
        ("plain", archive.clone()),
        ("gzip", Compression::Gzip.pack(&image.docker_archive(&["formed:gzip"]))),
        ("zstd", Compression::Zstd.pack(&image.docker_archive(&["formed:zstd"]))),
    ] {
        let loaded = daemon.palan_with_input(["load"], &bytes).ok();
        assert_eq!(loaded.line(), format!("Loaded image: formed:{name}"));
    }
    let index = Index::new(Flavour::Oci, vec![image]);
    let loaded = daemon.palan_with_input(["load"], &index.oci_layout("formed:layout")).ok();
    assert_eq!(loaded.line(), "Loaded image: formed:layout");
    let tags = daemon.palan(["images", "--format", "{{.Tag}}", "formed"]).ok();
    let mut tags: Vec<&str> = tags.stdout.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["gzip", "layout", "plain", "zstd"]);
    assert_eq!(
        daemon.palan(["run", "--rm", "--network", "none", "formed:layout", "echo", "runs"]).ok().line(),
        "runs"
    );
    let unnamed =
        daemon.palan_with_input(["load"], &busybox().config("Cmd", "x".into()).build().docker_archive(&[]));
    assert!(unnamed.ok().line().starts_with("Loaded image ID: sha256:"));
}

#[test]
fn import_makes_an_image_of_a_tree() {
    requires!(root);
    let daemon = Daemon::start();
    let tree = Compression::Gzip.pack(&busybox_layer());
    let imported = daemon.palan_with_input(
        ["import", "-c", "CMD [\"echo\", \"imported\"]", "-c", "ENV A=b", "-m", "by hand", "-", "tree:1"],
        &tree,
    );
    assert!(imported.ok().line().starts_with("sha256:"));
    let path = "PATH=/bin";
    assert_eq!(
        daemon.palan(["run", "--rm", "-e", path, "--network", "none", "tree:1"]).ok().line(),
        "imported"
    );
    let env = daemon.palan(["inspect", "-f", "{{.Comment}} {{.Config.Env}}", "tree:1"]).ok();
    assert_eq!(env.line(), "by hand [A=b]");
}

#[test]
fn names_come_and_go() {
    requires!(root);
    let daemon = daemon();
    let id = daemon.palan(["images", "-q", "--no-trunc", BUSYBOX]).ok().line().to_owned();
    daemon.palan(["tag", BUSYBOX, "other/name:v1"]).ok();
    let table = daemon.palan(["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]).ok();
    let mut rows: Vec<&str> = table.stdout.lines().collect();
    rows.sort_unstable();
    let short = &id["sha256:".len()..][..12];
    assert_eq!(rows, [format!("bb:latest {short}"), format!("other/name:v1 {short}")]);
    assert_eq!(daemon.palan(["rmi", "other/name:v1"]).ok().line(), "Untagged: other/name:v1");
    // Used by a container: not without force.
    daemon.palan(["create", "--name", "user", "--network", "none", BUSYBOX]).ok();
    daemon
        .palan(["rmi", BUSYBOX])
        .fails(1, "conflict: unable to remove repository reference \"bb\" (must force) - container ");
    daemon.palan(["rm", "user"]).ok();
    let removed = daemon.palan(["rmi", BUSYBOX]).ok();
    assert!(removed.stdout.starts_with(&format!("Untagged: bb:latest\nDeleted: {id}\n")), "{removed}");
    let layers = std::fs::read_dir(daemon.data_root().join("layers")).unwrap();
    let left: Vec<_> = layers
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    daemon.palan(["rmi", BUSYBOX]).fails(1, "No such image: bb");
}

#[test]
fn inspect_shows_configuration_and_layers() {
    requires!(root);
    let daemon = daemon();
    let json: Value = serde_json::from_str(&daemon.palan(["image", "inspect", BUSYBOX]).ok().stdout).unwrap();
    let it = &json[0];
    assert_eq!(it["RepoTags"], serde_json::json!(["bb:latest"]));
    assert_eq!(it["Os"], "linux");
    assert_eq!(it["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(it["RootFS"]["Type"], "layers");
    assert_eq!(it["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert!(it["Size"].as_u64().unwrap() > 100_000);
}

/// Layers stack: later ones win, white-outs remove, opaque directories hide.
#[test]
fn layers_stack_as_the_specification_says() {
    requires!(root);
    let daemon = Daemon::start();
    let image = busybox()
        .layer(
            TarBuilder::new()
                .directory("d/", 0o755)
                .file("d/a", 0o644, "a1")
                .file("d/b", 0o644, "b1")
                .file("gone", 0o644, "x")
                .finish(),
        )
        .layer(TarBuilder::new().file("d/a", 0o600, "a2").whiteout("gone").finish())
        .layer(TarBuilder::new().directory("o/", 0o755).file("o/old", 0o644, "old").finish())
        .layer(TarBuilder::new().directory("o/", 0o755).opaque("o").file("o/new", 0o644, "new").finish());
    load(&daemon, image, "stacked");
    let script = "cat /d/a /d/b; stat -c ' %a' /d/a; ls / | grep -c gone; ls /o";
    let run = daemon.palan(["run", "--rm", "--network", "none", "stacked", "sh", "-c", script]);
    assert_eq!(run.ok().stdout, "a2b1 600\n0\nnew\n");
}
