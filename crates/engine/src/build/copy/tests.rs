//! What was copied, and what a layer of it says.

use std::fs;

use palan_linux::xattr;
use palan_store::{Limits, Store};

use super::*;

/// What an access control list looks like as an attribute (version 2): one user more may do everything.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// The digest of a layer into which these directories and files were copied, one after the other.
fn copied(store: &Store, from: &RootDir, sources: &[(&str, &str)], has_acl: bool, keeps: bool) -> String {
    let lease = store.lease();
    let layer = store.new_layer().expect("begins");
    layer.root().create_dir("to", 0o755).expect("creates");
    if has_acl {
        layer.root().set_xattr("to", OsStr::new("system.posix_acl_default"), &acl()).expect("sets");
    }
    let cancel = Cancel::default();
    let mut copier = Copier::new(None, layer.root(), &cancel);
    if keeps {
        copier.set_recent(layer.recent());
    }
    for (source, to) in sources {
        let is_directory = from.metadata(source).expect("is there").is_dir();
        let placed =
            Placed { from: source.into(), to: Path::new("/").join(to), is_directory, parents: Vec::new() };
        copier.source(from, &placed, Path::new(to), &Ignore::default(), &Looks::default()).expect("copies");
    }
    copier.finish().expect("ends");
    // Made anew, its time is now.
    layer.root().set_times("to", Time::default(), Time::default()).expect("sets");
    store.keep_layer(layer, None, &lease).expect("keeps").diff_id.to_string()
}

#[test]
fn what_is_kept_in_memory_is_what_is_on_the_disk() {
    let root = tempfile::tempdir().expect("temporary");
    let store = Store::open(root.path(), Limits::default()).expect("opens");
    let files = tempfile::tempdir().expect("temporary");
    for directory in ["a/sub", "b/sub"] {
        fs::create_dir_all(files.path().join(directory)).expect("creates");
        for number in 0..200 {
            let name = files.path().join(directory).join(number.to_string());
            fs::write(name, format!("{directory} {number}").repeat(number)).expect("writes");
        }
    }
    let from = RootDir::open(files.path()).expect("opens");
    from.set_mode("a/sub/7", 0o4711).expect("sets");
    from.create_hard_link("a/sub/8", "a/sub/eight").expect("links");
    let acl_of = |path: &str| {
        let handle = from.open_dir(path).expect("opens");
        xattr::set(&handle, "system.posix_acl_default", &acl()).expect("sets");
    };
    let all: [&[(&str, &str)]; 4] = [
        &[("a", "to")],
        &[("a/sub/3", "to/3"), ("a/sub/9", "to/9")],
        &[("a", "to"), ("b", "to")],
        &[("a/sub/3", "to/sub/4"), ("b", "to")],
    ];
    for with_acl_below in [false, true] {
        if with_acl_below {
            acl_of("b/sub");
        }
        for has_acl in [false, true] {
            for sources in all {
                let [kept, read] = [true, false].map(|keeps| copied(&store, &from, sources, has_acl, keeps));
                assert_eq!(kept, read, "{sources:?} {has_acl} {with_acl_below}");
            }
        }
    }
    let problems = store.check(false).expect("checks").problems;
    assert!(problems.is_empty(), "{problems:?}");
}
