//! The truth is what the kernel shows: an overlay is mounted, changed, and looked at.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use palan_linux::mount::{OverlayOptions, overlay};
use palan_linux::path::{FileKind, Metadata, RootDir, Time};

use super::*;
use crate::Limits;
use crate::layer::apply::{Form, apply};
use crate::layer::tar::{Reader, lossy};

/// A lower directory, what is written over it, and the two together.
struct Lab {
    root: tempfile::TempDir,
    merged: RootDir,
}

impl Lab {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        fill(&root.path().join("lower"));
        let path = |name: &str| root.path().join(name);
        let mount = overlay(&OverlayOptions {
            lowers: vec![path("lower")],
            upper: Some(path("upper")),
            work: Some(path("work")),
            ..OverlayOptions::default()
        });
        let merged = RootDir::from_fd(mount.unwrap());
        Self { root, merged }
    }

    /// A path to the merged tree, for changing it with the standard library.
    fn path(&self) -> PathBuf {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        format!("/proc/self/fd/{}", self.merged.as_fd().as_raw_fd()).into()
    }

    fn overlaid(&self) -> Overlaid {
        let side = |name: &str| RootDir::open(self.root.path().join(name)).unwrap();
        Overlaid::new(side("upper"), side("lower"), ".mark")
    }

    fn changes(&self) -> Vec<String> {
        let line = |change: Change| {
            let kind = match change.kind {
                ChangeKind::Modified => 'C',
                ChangeKind::Added => 'A',
                ChangeKind::Deleted => 'D',
            };
            format!("{kind} {}", change.path)
        };
        self.overlaid().changes().unwrap().into_iter().map(line).collect()
    }

    fn layer(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        self.overlaid().write_layer(&mut tar).unwrap();
        tar
    }
}

/// All that makes a file what it is.
#[derive(Debug, PartialEq, Eq)]
struct Fact {
    kind: FileKind,
    mode: u32,
    owner: (u32, u32),
    node: (u32, u32),
    modified: Time,
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of the same inode.
    first: String,
}

fn facts(root: &RootDir) -> BTreeMap<String, Fact> {
    let mut facts = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut pending = vec![(String::new(), root.open_dir(".").unwrap())];
    let mut found: Vec<(String, Metadata, Directory, OsString)> = Vec::new();
    while let Some((path, directory)) = pending.pop() {
        for entry in directory.entries().unwrap() {
            let name = format!("{path}/{}", entry.name.to_string_lossy());
            let metadata = directory.metadata(&entry.name).unwrap();
            if metadata.is_dir() {
                pending.push((name.clone(), directory.open_dir(&entry.name).unwrap()));
            }
            found.push((name, metadata, directory.try_clone().unwrap(), entry.name));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    for (path, metadata, directory, name) in found {
        let content = match metadata.kind {
            FileKind::Regular => root.read(&path, 1 << 30).unwrap(),
            FileKind::Symlink => directory.read_link(&name).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        let mut xattrs = Vec::new();
        for attribute in xattr::list_at(&directory, &name).unwrap() {
            if !attribute.to_string_lossy().starts_with("trusted.overlay") {
                let value = xattr::get_at(&directory, &name, &attribute).unwrap().unwrap();
                xattrs.push((attribute.as_bytes().to_vec(), value));
            }
        }
        xattrs.sort();
        let fact = Fact {
            kind: metadata.kind,
            mode: metadata.mode,
            owner: (metadata.uid, metadata.gid),
            node: metadata.node,
            modified: metadata.modified,
            content,
            xattrs,
            first: first.entry((metadata.device, metadata.inode)).or_insert(path.clone()).clone(),
        };
        facts.insert(path, fact);
    }
    facts
}

fn write(path: PathBuf, content: &str) {
    std::fs::write(path, content).unwrap();
}

fn fill(lower: &Path) {
    std::fs::create_dir_all(lower.join("etc/deep/er")).unwrap();
    std::fs::create_dir_all(lower.join("old/sub")).unwrap();
    std::fs::create_dir(lower.join("swap")).unwrap();
    for name in ["etc/a", "etc/b", "etc/deep/er/c", "old/x", "old/sub/y", "swap/in", "file", "same", "empty"]
    {
        write(lower.join(name), name);
    }
    symlink("a", lower.join("etc/link")).unwrap();
}

fn change(root: &Path) {
    write(root.join("etc/a"), "changed");
    write(root.join("etc/new"), "new");
    std::fs::remove_file(root.join("etc/b")).unwrap();
    std::fs::remove_dir_all(root.join("old")).unwrap();
    std::fs::create_dir(root.join("old")).unwrap();
    write(root.join("old/x"), "again");
    std::fs::remove_dir_all(root.join("swap")).unwrap();
    write(root.join("swap"), "now a file");
    std::fs::remove_file(root.join("file")).unwrap();
    std::fs::create_dir_all(root.join("file/inside")).unwrap();
    std::fs::set_permissions(root.join("etc/deep"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::create_dir_all(root.join("new/dir")).unwrap();
    write(root.join("new/dir/one"), "linked");
    std::fs::hard_link(root.join("new/dir/one"), root.join("new/two")).unwrap();
    symlink("/somewhere/else", root.join("new/link")).unwrap();
    let sparse = std::fs::File::create(root.join("new/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"end", (2 << 20) + 5).unwrap();
    drop(sparse);
    write(root.join(".mark"), "");
}

fn decorate(merged: &RootDir) {
    merged.create_node("new/device", FileKind::CharacterDevice, 0o600, (1, 3)).unwrap();
    merged.create_node("new/fifo", FileKind::Fifo, 0o640, (0, 0)).unwrap();
    merged.create_node("new/socket", FileKind::Socket, 0o600, (0, 0)).unwrap();
    merged.set_owner("new/two", 12, 3_000_000).unwrap();
    merged.set_mode("new/two", 0o4750).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    merged.set_xattr("new/two", OsStr::new("security.capability"), &capability).unwrap();
    merged.set_xattr("etc/deep", OsStr::new("trusted.note"), b"kept").unwrap();
    merged.set_times("new/link", Time::default(), Time { seconds: 1_000, nanoseconds: 7 }).unwrap();
}

#[test]
fn changes_are_told_as_docker_tells_them() {
    let lab = Lab::new(fill);
    assert_eq!(lab.changes(), [""; 0]);
    change(&lab.path());
    decorate(&lab.merged);
    let expected = "C /etc\nC /etc/a\nD /etc/b\nC /etc/deep\nA /etc/new\nC /file\nA /file/inside\nA /new\n\
        A /new/device\nA /new/dir\nA /new/dir/one\nA /new/fifo\nA /new/link\nA /new/socket\nA /new/sparse\n\
        A /new/two\nC /old\nD /old/sub\nC /old/x\nC /swap";
    assert_eq!(lab.changes().join("\n"), expected);
}

#[test]
fn what_is_put_back_is_no_change() {
    let lab = Lab::new(fill);
    let root = lab.path();
    let before = lab.merged.metadata("same").unwrap().modified;
    write(root.join("same"), "same");
    lab.merged.set_times("same", before, before).unwrap();
    // Copied up and not changed, and a directory whose time alone is new.
    std::fs::set_permissions(root.join("empty"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(root.join("empty"), std::fs::Permissions::from_mode(0o644)).unwrap();
    write(root.join("etc/deep/passing"), "");
    std::fs::remove_file(root.join("etc/deep/passing")).unwrap();
    assert_eq!(lab.changes(), [""; 0]);
}

/// The layer over what was below it shows what the container saw, with all metadata.
#[test]
fn a_layer_holds_all_that_changed() {
    let lab = Lab::new(fill);
    change(&lab.path());
    decorate(&lab.merged);
    let tar = lab.layer();
    assert_eq!(lab.layer(), tar, "the same tree gives the same bytes");
    let layer = lab.root.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    let root = RootDir::open(&layer).unwrap();
    let applied = apply(&tar[..], &root, Form::Alone, &Limits::default()).unwrap();
    assert!(!applied.made_up_parents && applied.incomplete.is_none(), "{applied:?}");
    let again = overlay(&OverlayOptions {
        lowers: vec![layer, lab.root.path().join("lower")],
        ..OverlayOptions::default()
    });
    let again = RootDir::from_fd(again.unwrap());
    let mut expected = facts(&lab.merged);
    expected.remove("/.mark");
    expected.remove("/new/socket");
    assert_eq!(facts(&again), expected);
    assert!(again.metadata("new/sparse").unwrap().blocks < 2048, "holes stay holes");
}

#[test]
fn the_whole_tree_is_what_the_container_sees() {
    let lab = Lab::new(fill);
    change(&lab.path());
    decorate(&lab.merged);
    let mut tar = Vec::new();
    lab.overlaid().write_all(&mut tar).unwrap();
    let target = lab.root.path().join("whole");
    std::fs::create_dir(&target).unwrap();
    let root = RootDir::open(&target).unwrap();
    apply(&tar[..], &root, Form::Alone, &Limits::default()).unwrap();
    let mut expected = facts(&lab.merged);
    expected.remove("/new/socket");
    expected.remove("/.mark");
    assert_eq!(facts(&root), expected);
}

#[test]
fn nothing_changed_is_an_empty_layer() {
    let lab = Lab::new(fill);
    write(lab.path().join(".mark"), "");
    let mut tar = Vec::new();
    assert!(!lab.overlaid().write_layer(&mut tar).unwrap());
    assert_eq!(tar, vec![0; 1024]);
    // A mark that somebody wrote to is a file as any other.
    write(lab.path().join(".mark"), "content");
    assert_eq!(lab.changes(), ["A /.mark"]);
    assert!(lab.overlaid().write_layer(&mut tar).unwrap());
}

#[test]
fn markers_stand_where_something_is_hidden() {
    let lab = Lab::new(fill);
    change(&lab.path());
    let tar = lab.layer();
    let limits = Limits::default();
    let mut reader = Reader::new(&tar[..], &limits);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(lossy(&entry.path));
    }
    let markers: Vec<&String> = names.iter().filter(|name| name.contains(".wh.")).collect();
    // The new directories are opaque, too, but hide nothing.
    assert_eq!(markers, ["etc/.wh.b", "old/.wh..wh..opq"]);
}

/// A container can nest deeper than a path may be long: an error, no overflow.
#[test]
fn deep_trees_are_refused() {
    let lab = Lab::new(fill);
    let mut directory = lab.merged.open_dir(".").unwrap();
    for _ in 0..MAX_DEPTH + 10 {
        directory.create_dir(OsStr::new("d"), 0o755).unwrap();
        directory = directory.open_dir(OsStr::new("d")).unwrap();
    }
    let error = lab.overlaid().changes().unwrap_err();
    assert!(matches!(error, TreeError::Depth { .. }), "{error}");
    lab.merged.remove_all("d").unwrap();
}

/// A file of a whiteout's name would remove another from the image, without a word.
#[test]
fn names_that_mean_removal_are_refused() {
    let lab = Lab::new(fill);
    write(lab.path().join("etc/.wh.a"), "");
    let error = lab.overlaid().write_layer(&mut Vec::new()).unwrap_err();
    assert!(matches!(&error, TreeError::Name { path } if path == "/etc/.wh.a"), "{error}");
    lab.overlaid().write_all(&mut Vec::new()).unwrap();
}
