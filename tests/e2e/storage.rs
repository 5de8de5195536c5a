//! The image store's upkeep: `system fsck`, `image import-docker`.

use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

#[test]
fn fsck_finds_and_repairs_a_changed_layer() {
    requires!(root);
    let daemon = daemon();
    let clean = daemon.palan(["system", "fsck"]).ok();
    assert_eq!(clean.stdout, "");
    assert!(clean.stderr.contains("no problem"), "{}", clean.stderr);
    let layers = std::fs::read_dir(daemon.data_root().join("layers")).unwrap();
    let layer = layers.map(|entry| entry.unwrap().path()).find(|path| path.join("etc/passwd").exists());
    let layer = layer.expect("busybox's layer");
    std::fs::write(layer.join("etc/passwd"), "evil::0:0::/:/bin/sh\n").unwrap();
    std::fs::remove_file(layer.join("bin/wget")).unwrap();
    let found = daemon.palan(["system", "fsck"]);
    assert_eq!(found.code, 1, "{}", found.stdout);
    assert!(found.stdout.contains("layer "), "{}", found.stdout);
    let repaired = daemon.palan(["system", "fsck", "--repair"]).ok();
    assert!(repaired.stdout.contains("unpacked again from its blob"), "{}", repaired.stdout);
    assert_eq!(daemon.palan(["system", "fsck"]).ok().stdout, "");
    let whole =
        daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, "head", "-n1", "/etc/passwd"]).ok();
    assert_eq!(whole.line(), "root:x:0:0:root:/root:/bin/sh");
}

#[test]
fn import_docker_says_what_it_needs() {
    requires!(root);
    let daemon = daemon();
    let scratch = daemon.scratch().display().to_string();
    daemon.palan(["image", "import-docker", "--root", &scratch]).fails(1, "is no data root of Docker");
    daemon.palan(["image", "import-docker", "--root", "relative"]).fails(1, "must be absolute");
}
