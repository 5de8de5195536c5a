//! Layers applied: what is written, what is refused, and that nothing outside is touched.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::*;
use crate::testing::{Header, Tar};

/// A layer's directory beside files that must stay as they are.
struct Scene {
    directory: tempfile::TempDir,
    root: RootDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary");
        std::fs::create_dir(directory.path().join("layer")).expect("creates");
        std::fs::create_dir(directory.path().join("outside")).expect("creates");
        std::fs::write(directory.path().join("outside/secret"), "secret").expect("writes");
        let root = RootDir::open(directory.path().join("layer")).expect("opens");
        Self { directory, root }
    }

    fn apply(&self, tar: Tar) -> Result<Applied, LayerError> {
        apply(&tar.finish()[..], &self.root, Form::Alone, &Limits::default())
    }

    fn host(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn content(&self, path: &str) -> Option<String> {
        self.root.read(path, 1 << 20).ok().map(|content| lossy(&content))
    }

    fn kind(&self, path: &str) -> Option<FileKind> {
        self.root.symlink_metadata(path).ok().map(|found| found.kind)
    }

    fn is_whiteout(&self, path: &str) -> bool {
        self.root.symlink_metadata(path).is_ok_and(|found| found.is_whiteout())
    }

    fn is_opaque(&self, path: &str) -> bool {
        let value = self.root.xattr(path, OsStr::new(OPAQUE)).expect("reads");
        value.as_deref() == Some(b"y")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let outside = self.host("outside");
        let names: Vec<_> = std::fs::read_dir(&outside).expect("lists").collect();
        assert_eq!(names.len(), 1, "nothing was created outside");
        let metadata = std::fs::metadata(outside.join("secret")).expect("still there");
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777 & !0o022, metadata.uid()), (1, 0o644, 0));
        assert_eq!(std::fs::read(outside.join("secret")).expect("reads"), b"secret");
    }
}

/// The later entry of a directory says all: what it does not name goes, but not the mark that it is opaque.
#[test]
fn a_directory_that_comes_again() {
    let scene = Scene::new();
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.user.one", b"1"), ("SCHILY.xattr.user.both", b"old")])
        .directory("d")
        .file("d/.wh..wh..opq", b"")
        .pax(&[("SCHILY.xattr.user.both", b"new")])
        .entry(&Header { mode: 0o711, ..Header::new("d", b'5') }, b"");
    scene.apply(tar).expect("applies");
    let xattr = |name: &str| scene.root.xattr("d", OsStr::new(name)).expect("reads");
    assert_eq!((xattr("user.one"), xattr("user.both")), (None, Some(b"new".to_vec())));
    assert!(scene.is_opaque("d"));
}

#[test]
fn owners_modes_times_and_attributes() {
    let scene = Scene::new();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set_id = Header { mode: 0o4750, owner: (12, 34), size: 2, ..Header::new("bin/su", b'0') };
    let applied = scene
        .apply(
            Tar::new()
                .entry(&Header { mode: 0o1777, modified: 1_000, ..Header::new("./", b'5') }, b"")
                .entry(
                    &Header { mode: 0o555, modified: 2_000, owner: (1, 2), ..Header::new("bin", b'5') },
                    b"",
                )
                .pax(&[
                    ("mtime", b"3000.25"),
                    ("SCHILY.xattr.user.x", b"y"),
                    ("SCHILY.xattr.security.capability", capability),
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ])
                .entry(&set_id, b"su")
                .entry(&Header { owner: (7, 8), link: b"su".to_vec(), ..Header::new("bin/sh", b'2') }, b"")
                .entry(&Header { mode: 0o620, device: (4, 5), ..Header::new("bin/tty", b'3') }, b"")
                .entry(&Header { mode: 0o600, ..Header::new("bin/fifo", b'6') }, b"")
                .hard_link("bin/su2", "./bin/su"),
        )
        .expect("applies");
    assert_eq!(applied, Applied { size: 4, ..Applied::default() });
    let su = scene.root.metadata("bin/su").expect("there");
    assert_eq!((su.mode, su.uid, su.gid, su.links), (0o4750, 12, 34, 2));
    assert_eq!(su.modified, Time { seconds: 3000, nanoseconds: 250_000_000 });
    let names = xattr::list_at(scene.root.open_dir("bin").expect("there"), OsStr::new("su")).expect("lists");
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("overlay")), "{names:?}");
    assert!(names.contains(&"user.x".into()) && names.contains(&"security.capability".into()), "{names:?}");
    let bin = scene.root.metadata("bin").expect("there");
    assert_eq!((bin.mode, bin.uid, bin.gid, bin.modified.seconds), (0o555, 1, 2, 2000));
    assert_eq!(
        scene.root.metadata("/").map(|root| (root.mode, root.modified.seconds)).expect("there"),
        (0o1777, 1000)
    );
    assert_eq!(scene.root.symlink_metadata("bin/sh").expect("there").uid, 7);
    let tty = scene.root.symlink_metadata("bin/tty").expect("there");
    assert_eq!((tty.kind, tty.node, tty.mode), (FileKind::CharacterDevice, (4, 5), 0o620));
    assert_eq!(scene.kind("bin/fifo"), Some(FileKind::Fifo));
}

#[test]
fn whiteouts_and_opaque_directories() {
    let scene = Scene::new();
    let applied = scene
        .apply(
            Tar::new()
                .directory("a/")
                .file("a/.wh.gone", b"")
                .file("a/.wh..wh..opq", b"")
                .directory("b/")
                .file("b/.wh.again", b"")
                .directory("b/again/")
                .file("b/again/new", b"1")
                .file("b/.wh.file", b"")
                .file("b/file", b"2")
                .directory("b/kept/")
                .file("b/kept/own", b"3")
                .file("b/.wh.kept", b"")
                .file(".wh..wh.plnk/1.2", b"bookkeeping")
                .entry(&Header::new("b/node", b'3'), b""),
        )
        .expect("applies");
    assert_eq!((applied.made_up_parents, applied.incomplete, applied.opaque_root), (false, None, false));
    assert!(scene.is_whiteout("a/gone") && scene.is_opaque("a"));
    assert!(scene.is_opaque("b/again"), "what was gone comes back empty");
    assert_eq!(scene.content("b/again/new").as_deref(), Some("1"));
    assert_eq!(scene.content("b/file").as_deref(), Some("2"));
    assert!(scene.is_opaque("b/kept"), "a whiteout hides the lower layers only");
    assert_eq!(scene.content("b/kept/own").as_deref(), Some("3"));
    assert!(scene.is_whiteout("b/node"));
    assert_eq!(scene.kind(".wh..wh.plnk"), None);
    assert!(!scene.is_opaque("b"));
    assert!(Scene::new().apply(Tar::new().file(".wh..wh..opq", b"")).expect("applies").opaque_root);
    for invalid in [".wh.", "a/.wh..", "a/.wh..."] {
        assert!(matches!(
            Scene::new().apply(Tar::new().file(invalid, b"")),
            Err(LayerError::InvalidWhiteout { .. })
        ));
    }
}

#[test]
fn later_entries_replace_earlier_ones_as_in_docker() {
    let scene = Scene::new();
    let applied = scene
        .apply(
            Tar::new()
                .file("file", b"first")
                .file("file", b"second!")
                .directory("dir/")
                .file("dir/kept", b"1")
                .entry(&Header { mode: 0o700, ..Header::new("dir/", b'5') }, b"")
                .directory("tree/")
                .file("tree/below", b"lost")
                .file("tree", b"file")
                .symlink("link", "/etc")
                .directory("link/")
                .file("link/in", b"2"),
        )
        .expect("applies");
    assert_eq!(scene.content("file").as_deref(), Some("second!"));
    assert_eq!(scene.content("dir/kept").as_deref(), Some("1"));
    assert_eq!(scene.root.metadata("dir").expect("there").mode, 0o700);
    assert_eq!(scene.content("tree").as_deref(), Some("file"));
    assert_eq!(scene.kind("link"), Some(FileKind::Directory));
    assert!(scene.is_opaque("link"));
    assert_eq!(applied.size, 7 + 1 + 4 + 1, "only what is left counts");
}

#[test]
fn symlinks_on_the_way_stay_inside() {
    let scene = Scene::new();
    let outside = scene.host("outside");
    let outside = outside.to_str().expect("a path");
    let layer = Tar::new()
        .symlink("absolute", outside)
        .symlink("relative", "../outside")
        .symlink("up", "../../../../../../..")
        .symlink("magic", "/proc/self/root")
        .file("absolute/secret", b"1")
        .file("relative/secret", b"2")
        .file("up/file", b"3")
        .file("magic/file", b"4")
        .symlink("secret", &format!("{outside}/secret"))
        .entry(
            &Header { mode: 0o4777, owner: (5, 5), link: b"x".to_vec(), ..Header::new("secret", b'2') },
            b"",
        );
    scene.apply(layer).expect("applies inside");
    assert_eq!(scene.content("up/file").as_deref(), Some("3"));
    assert_eq!(scene.content("file").as_deref(), Some("3"), "up is the root");
    // A whiteout, directory, node, link and file over a symlink all replace it.
    for kind in [b'0', b'2', b'3', b'5', b'6'] {
        let entry = Header {
            link: b"x".to_vec(),
            device: (1, 3),
            mode: 0o777,
            owner: (9, 9),
            ..Header::new("s", kind)
        };
        let scene = Scene::new();
        let layer =
            Tar::new().symlink("s", &scene.host("outside/secret").to_string_lossy()).entry(&entry, b"");
        scene.apply(layer).expect("replaces");
    }
}

#[test]
fn names_that_leave_the_layer_are_refused() {
    let check = |tar: Tar, expected: fn(&LayerError) -> bool| {
        let scene = Scene::new();
        let error = scene.apply(tar).expect_err("refused");
        assert!(expected(&error), "{error}");
        assert!(error.to_string().contains('"'), "names the entry: {error}");
    };
    for name in ["../outside/secret", "a/../../outside/secret", "/../outside/secret", ".."] {
        for kind in [b'0', b'2', b'5', b'3'] {
            let entry = Header { link: b"x".to_vec(), ..Header::new(name, kind) };
            check(Tar::new().entry(&entry, b""), |error| matches!(error, LayerError::Outside { .. }));
        }
        check(Tar::new().hard_link("a", name), |error| matches!(error, LayerError::HardLinkOutside { .. }));
    }
    let bad_target = |error: &LayerError| matches!(error, LayerError::HardLinkTarget { .. });
    check(Tar::new().directory("d").hard_link("a", "d"), bad_target);
    check(Tar::new().file("a", b"").hard_link("a", "a"), bad_target);
    check(Tar::new().hard_link("a", "/"), bad_target);
    check(Tar::new().file("./", b"x"), |error| matches!(error, LayerError::RootNotDirectory { .. }));
    check(Tar::new().file("f", b"").file("f/below", b""), |error| matches!(error, LayerError::Entry { .. }));
}

#[test]
fn hard_links_through_symlinks_stay_inside() {
    let scene = Scene::new();
    let outside = scene.host("outside").to_string_lossy().into_owned();
    let applied =
        scene.apply(Tar::new().symlink("out", &outside).hard_link("stolen", "out/secret")).expect("applies");
    assert!(applied.incomplete.is_some(), "there is no such file inside");
    assert_eq!(scene.kind("stolen"), None);
}

#[test]
fn what_a_layer_lacks_is_noticed() {
    let scene = Scene::new();
    let applied = scene.apply(Tar::new().file("usr/lib/x", b"1")).expect("applies");
    assert!(applied.made_up_parents);
    assert_eq!(scene.root.metadata("usr/lib").expect("made").mode, 0o755);
    let applied = Scene::new()
        .apply(Tar::new().directory("a").file("a/.wh.b", b"").file("a/b/c", b""))
        .expect("applies");
    assert!(applied.made_up_parents);
    let applied = Scene::new().apply(Tar::new().hard_link("new", "below")).expect("applies");
    assert_eq!(applied.incomplete.as_deref(), Some("hard link \"new\" leads to \"below\""));
}

#[test]
fn holes_are_kept() {
    let scene = Scene::new();
    let records = [("GNU.sparse.map", &b"1048576,3,4194304,2"[..]), ("GNU.sparse.size", b"8388608")];
    scene.apply(Tar::new().pax(&records).file("s", b"abcde")).expect("applies");
    let metadata = scene.root.metadata("s").expect("there");
    assert_eq!(metadata.size, 8 << 20);
    assert!(metadata.blocks < 200, "{} blocks", metadata.blocks);
    let content = scene.root.read("s", 8 << 20).expect("reads");
    assert_eq!(
        (&content[1 << 20..(1 << 20) + 4], &content[4 << 20..(4 << 20) + 2]),
        (&b"abc\0"[..], &b"de"[..])
    );
}

#[test]
fn hundreds_of_thousands_of_markers_take_linear_time() {
    // CVE-2026-95838: each opaque marker used to walk the whole directory.
    let marker = Header::new("d/.wh..wh..opq", b'0').bytes();
    let mut tar = Tar::new().directory("d/");
    for number in 0..1000 {
        tar = tar.file(&format!("d/{number}"), b"");
    }
    let start = tar.unfinished();
    let markers = std::io::Read::take(Repeat { block: marker, position: 0 }, 512 * 300_000);
    let source = std::io::Read::chain(&start[..], markers);
    for form in [Form::Alone, Form::Merged] {
        let scene = Scene::new();
        let source = std::io::Read::chain(
            &start[..],
            std::io::Read::take(Repeat { block: marker, position: 0 }, 512 * 100_000),
        );
        apply(source, &scene.root, form, &Limits::default()).expect("applies");
        assert_eq!(
            scene.root.read_dir("d").expect("there").len(),
            1000,
            "what the layer brings itself stays"
        );
    }
    let scene = Scene::new();
    apply(source, &scene.root, Form::Alone, &Limits::default()).expect("applies");
    assert!(scene.is_opaque("d"));
}

/// The same block for ever.
struct Repeat {
    block: [u8; 512],
    position: usize,
}

impl Read for Repeat {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(512 - self.position);
        buffer[..length].copy_from_slice(&self.block[self.position..self.position + length]);
        self.position = (self.position + length) % 512;
        Ok(length)
    }
}

#[test]
fn limits_stop_what_does_not_end() {
    let check = |limits: Limits, block: [u8; 512], expected: fn(&LayerError) -> bool| {
        let scene = Scene::new();
        let error =
            apply(Repeat { block, position: 0 }, &scene.root, Form::Alone, &limits).expect_err("stops");
        assert!(expected(&error), "{error}");
    };
    let file = Header::new("f", b'0').bytes();
    let few = Limits { entries: 1000, ..Limits::default() };
    check(few, file, |error| matches!(error, LayerError::Entries { limit: 1000 }));
    let little = Limits { remembered_bytes: 100_000, ..Limits::default() };
    check(little, Header::new("d", b'5').bytes(), |error| matches!(error, LayerError::Directories { .. }));
    let shallow = Limits { depth: 3, ..Limits::default() };
    check(shallow, Header::new("a/b/c/d", b'5').bytes(), |error| matches!(error, LayerError::Depth { .. }));
}

#[test]
fn a_directory_deeper_than_the_descriptors_can_follow() {
    let scene = Scene::new();
    let mut tar = Tar::new();
    let mut path = String::new();
    for _ in 0..800 {
        path.push_str("d/");
        tar = tar.pax(&[("path", path.as_bytes())]).directory("x");
    }
    scene.apply(tar.pax(&[("path", format!("{path}file").as_bytes())]).file("x", b"deep")).expect("applies");
    assert_eq!(scene.content(&format!("{path}file")).as_deref(), Some("deep"));
    scene.root.remove_all("d").expect("removes");
}
