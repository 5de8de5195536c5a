//! What of the host an attack aims at.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use palan_test_support::skip;
use rustix::fs::inotify;

/// A directory of the host with files in it that containers have business with, if they are their own.
pub(crate) struct Target {
    directory: tempfile::TempDir,
    watch: OwnedFd,
}

const SECRET: &str = "of the host";

impl Target {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        for name in ["secret", "passwd", "group", "hosts", "null", "console"] {
            std::fs::write(directory.path().join(name), SECRET).unwrap();
        }
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let events = inotify::WatchFlags::ACCESS
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::OPEN;
        inotify::add_watch(&watch, directory.path(), events).unwrap();
        Self { directory, watch }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Ways to it that a symlink in a root file system may take.
    pub(crate) fn ways(&self) -> [PathBuf; 2] {
        let up = "../".repeat(24);
        [self.path().to_owned(), Path::new(&up).join(self.path().strip_prefix("/").unwrap())]
    }

    /// Nothing was made, removed, changed, or so much as opened, but by way of a `/proc/<pid>/root` or the like.
    #[track_caller]
    pub(crate) fn is_untouched(&self) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        if let Ok(event) = events.next() {
            panic!("{:?} of {:?} in the host's directory", event.events(), event.file_name());
        }
        let names = std::fs::read_dir(self.path()).unwrap().count();
        assert_eq!(names, 6, "something was made or removed in the host's directory");
        // This opens them: events from here on are our own.
        for name in ["secret", "passwd", "group", "hosts", "null", "console"] {
            assert_eq!(std::fs::read_to_string(self.path().join(name)).unwrap(), SECRET, "{name}");
        }
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        while events.next().is_ok() {}
    }
}

/// Compiles a program in C that needs no library. `None`, said aloud, where there is no compiler.
#[expect(clippy::disallowed_methods, reason = "test code; the compiler is a program of its own")]
pub(crate) fn compile(source: &str, flags: &[&str], directory: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("security").join(source);
    let program = directory.join(source.file_stem().unwrap());
    if !skip::has_program("cc") {
        skip::note(source.to_str().unwrap(), "needs the program cc");
        return None;
    }
    let mut compiler = std::process::Command::new("cc");
    let status = compiler.args(["-O1", "-o"]).arg(&program).arg(source).args(flags).status();
    assert!(status.unwrap().success());
    Some(program)
}
