//! Tests of scoped paths: nothing outside the root is reachable, whatever the tree looks like.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A root beside a secret that must stay untouched: `<temporary>/root` and `<temporary>/outside`.
struct Scene {
    path: PathBuf,
    root: RootDir,
}

impl Scene {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("palan-path-{}-{number}", std::process::id()));
        std::fs::create_dir_all(path.join("root")).expect("creates");
        std::fs::create_dir(path.join("outside")).expect("creates");
        std::fs::write(path.join("outside/secret"), "secret").expect("writes");
        let root = RootDir::open(path.join("root")).expect("opens");
        Self { path, root }
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) {
        symlink(target, self.path.join("root").join(name)).expect("links");
    }

    fn outside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path.join("outside")).expect("lists");
        entries.map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        assert_eq!(self.outside(), ["secret"]);
        assert_eq!(std::fs::read(self.path.join("outside/secret")).expect("reads"), b"secret");
        std::fs::remove_dir_all(&self.path).expect("removes");
    }
}

#[test]
fn paths_mean_what_they_mean_inside() {
    let scene = Scene::new();
    let root = &scene.root;
    root.write("file", b"inside", 0o640).expect("writes");
    root.create_dir_all("a/b", 0o755).expect("creates");
    scene.link("/file", "absolute");
    scene.link("../../../file", "a/up");
    for path in ["file", "/file", "../../file", "absolute", "a/up", "a/b/../../file", "//./file"] {
        assert_eq!(root.read(path, 100).expect(path), b"inside", "{path}");
    }
    assert_eq!(root.read("file", 3).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
    assert!(root.open_file("a").is_err(), "a directory is no file");
}

#[test]
fn symlinks_lead_nowhere_else() {
    let scene = Scene::new();
    let root = &scene.root;
    scene.link(scene.path.join("outside"), "absolute");
    scene.link("../outside", "relative");
    scene.link("/proc/self/root", "magic");
    for link in ["absolute", "relative", "magic"] {
        assert!(root.read(format!("{link}/secret"), 100).is_err());
        assert!(root.create_file(format!("{link}/new"), 0o600).is_err());
        assert!(root.remove_file(format!("{link}/secret")).is_err());
        assert!(root.create_hard_link(format!("{link}/secret"), "stolen").is_err());
        assert!(root.set_mode(format!("{link}/secret"), 0o777).is_err());
        assert_eq!(root.symlink_metadata(link).expect("there").kind, FileKind::Symlink);
        assert_eq!(root.set_mode(link, 0o777).expect_err("a symlink").errno(), Some(Errno::LOOP));
    }
    // Replaced, not written through.
    root.write("absolute", b"mine", 0o600).expect("writes");
    assert_eq!(root.symlink_metadata("absolute").expect("there").kind, FileKind::Regular);
}

#[test]
fn files_are_made_where_dangling_links_point_inside() {
    let scene = Scene::new();
    scene.link("../run/a/b", "etc-link");
    scene.link("/etc-link", "twice");
    scene.link("loop", "loop");
    let root = &scene.root;
    root.ensure_file("/twice", 0o644).expect("creates the target");
    assert!(root.metadata("run/a/b").expect("there").is_file());
    root.ensure_file("/twice", 0o644).expect("finds it");
    assert_eq!(root.ensure_file("loop", 0o644).expect_err("endless").errno(), Some(Errno::LOOP));
}

#[test]
fn directories_are_made_where_dangling_links_point_inside() {
    let scene = Scene::new();
    let root = &scene.root;
    root.create_dir("var", 0o755).expect("creates");
    scene.link("/run", "var/run");
    scene.link("../../../outside/new", "up");
    root.create_dir_all("var/run/app/data", 0o755).expect("creates");
    assert!(root.metadata("run/app/data").expect("there").is_dir());
    root.create_dir_all("up/x", 0o755).expect("creates");
    assert!(root.metadata("outside/new/x").expect("inside").is_dir());
    root.create_dir_all("new/../other", 0o700).expect("creates");
    assert!(root.metadata("new").expect("there").is_dir() && root.metadata("other").expect("there").is_dir());
    scene.link("loop", "loop");
    assert_eq!(root.create_dir_all("loop/x", 0o755).expect_err("endless").errno(), Some(Errno::LOOP));
    root.write("file", b"", 0o600).expect("writes");
    assert!(root.create_dir_all("file/x", 0o755).is_err());
    assert!(root.create_dir_all("a/b", 0o755).expect("creates").entries().expect("lists").is_empty());
}

#[test]
fn single_names_only() {
    let scene = Scene::new();
    let directory = scene.root.as_directory();
    for name in ["", ".", "..", "a/b", "/", "../outside/secret"] {
        assert!(directory.metadata(OsStr::new(name)).is_err(), "{name}");
        assert!(directory.remove_all(OsStr::new(name)).is_err(), "{name}");
    }
    assert!(scene.root.remove_all("..").is_err());
    assert!(scene.root.remove_all("/").is_err());
}

#[test]
fn a_tree_of_any_depth_is_removed() {
    let scene = Scene::new();
    let root = &scene.root;
    let mut current = root.create_dir_all("deep", 0o755).expect("creates");
    for _ in 0..5000 {
        current.create_dir(OsStr::new("d"), 0o755).expect("creates");
        current.create_symlink(OsStr::new("outside"), OsStr::new("/outside")).expect("links");
        current = current.open_dir(OsStr::new("d")).expect("opens");
    }
    root.remove_all("deep").expect("removes");
    root.remove_all("deep").expect("absent is fine");
    scene.link("../outside", "link");
    root.remove_all("link").expect("removes the link");
    assert!(root.read_dir("/").expect("lists").is_empty());
}

#[test]
fn a_race_of_renames_never_leads_out() {
    let scene = Scene::new();
    let base = scene.path.join("root");
    scene.root.create_dir("dir", 0o755).expect("creates");
    scene.link("../outside", "swap");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let base = std::fs::File::open(&base).expect("opens");
            while !stop.load(Ordering::Relaxed) {
                let _ =
                    rustix::fs::renameat_with(&base, "dir", &base, "swap", rustix::fs::RenameFlags::EXCHANGE);
            }
        });
        for number in 0..300 {
            let name = format!("dir/{number}");
            let _ = scene.root.create_dir_all(&name, 0o755);
            let _ = scene.root.write(format!("dir/f{number}"), b"x", 0o600);
            assert!(scene.root.read("dir/secret", 100).is_err());
            let _ = scene.root.remove_all(name);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn attributes_of_every_kind_of_file() {
    let scene = Scene::new();
    let root = &scene.root;
    root.write("file", b"", 0o600).expect("writes");
    scene.link("nowhere", "link");
    root.create_node("fifo", FileKind::Fifo, 0o600, (0, 0)).expect("creates");
    assert!(root.open_file("fifo").is_err(), "and it does not block");
    let value = vec![7; 1000];
    for name in ["file", "link", "fifo"] {
        let attribute = OsStr::new("trusted.palan");
        root.set_xattr(name, attribute, &value).expect(name);
        assert_eq!(root.xattr(name, attribute).expect(name), Some(value.clone()));
        root.set_times(name, Time { seconds: 1, nanoseconds: 2 }, Time { seconds: -3, nanoseconds: 4 })
            .expect(name);
        assert_eq!(root.symlink_metadata(name).expect(name).modified, Time { seconds: -3, nanoseconds: 4 });
        root.set_owner(name, 5, 6).expect(name);
    }
    assert_eq!(root.xattr("file", OsStr::new("user.none")).expect("reads"), None);
    let names = crate::xattr::list_at(root, OsStr::new("link")).expect("lists");
    assert!(names.contains(&OsString::from("trusted.palan")));
}

#[test]
fn beneath_means_that_leading_out_is_an_error() {
    let scene = Scene::new();
    let root = &scene.root;
    root.create_dir_all("a/b", 0o755).expect("creates");
    for (target, link) in [("/etc", "absolute"), ("../..", "above"), ("b/../b", "a/inside")] {
        root.create_symlink(target, link).expect("links");
    }
    let errno = |path: &str| root.open_path_beneath(path).err().and_then(|error| error.errno());
    assert_eq!(errno("a/inside"), None);
    assert_eq!(errno("a/../a/b"), None);
    for path in ["absolute", "above", "a/../../x", "/a"] {
        assert_eq!(errno(path), Some(Errno::XDEV), "{path}");
    }
    assert_eq!(errno("missing"), Some(Errno::NOENT));
}
