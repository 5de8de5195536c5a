//! `config.json` of a bundle: read, checked and planned as far as nothing exists yet.

#![no_main]

use std::path::{Path, PathBuf};

use palan_oci::runtime_spec::Spec;
use palan_runtime::cgroup::{Location, Manager, UnitRequest};
use palan_runtime::{CreateRequest, Rootfs, Stdio};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = Spec::from_json(bytes) else { return };
    let written = serde_json::to_vec(&spec).expect("a specification can be written");
    assert_eq!(Spec::from_json(&written).expect("what was written can be read"), spec);
    let path = spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    let checked = palan_runtime::check(&CreateRequest {
        id: "id",
        spec: &spec,
        bundle: Path::new("/bundle"),
        rootfs: &Rootfs::Directory(PathBuf::from("/bundle/rootfs")),
        user: None,
        create_cwd: true,
        network_namespace: None,
        seccomp: None,
        stdio: Stdio::Null,
        cgroup: Location::of(path, "id", false),
        parent_death_signal: true,
        init: false,
        extra_descriptors: &[],
        start_fifo: None,
        no_pivot: false,
        keep_keyring: false,
        sources: &[],
    });
    if let Err(error) = checked {
        assert!(!error.report().is_empty());
    }
    let _ = UnitRequest::of(&spec, "id", Manager::System(None));
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    if let Some(resources) = resources {
        palan_runtime::cgroup::fuzz::device_rules(&resources.devices);
    }
});
