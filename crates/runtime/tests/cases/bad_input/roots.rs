//! Root file systems that are none, or that want to lead elsewhere.

use std::os::unix::fs::symlink;

use super::*;

fn replace(place: &Path, make: impl FnOnce(&Path)) {
    match std::fs::symlink_metadata(place) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(place).unwrap(),
        Ok(_) => std::fs::remove_file(place).unwrap(),
        Err(_) => {}
    }
    make(place);
}

/// Everything below a directory, with sizes and targets: what must not change.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            let about = entry.metadata().unwrap();
            found.push(format!("{} {:?} {}", entry.path().display(), about.file_type(), about.len()));
            if about.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// `root.path` itself.
pub(crate) fn roots_that_are_none() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        let config = runnable(&sandbox);
        let root = sandbox.rootfs();
        let kept = sandbox.directory.path().join("kept");
        std::fs::rename(&root, &kept).unwrap();
        for make in [
            (|_: &Path| {}) as fn(&Path),
            |place| std::fs::write(place, "").unwrap(),
            |place| symlink("nowhere", place).unwrap(),
            |place| symlink("rootfs", place).unwrap(),
            |place| symlink("/dev/null", place).unwrap(),
        ] {
            replace(&root, make);
            let outcome = run(&runtime, &sandbox, &config.to_string());
            assert!(outcome.error().contains("root.path: "), "{outcome:?}");
        }
        // Empty: no program, and the mount points are made.
        replace(&root, |place| std::fs::create_dir(place).unwrap());
        let outcome = run(&runtime, &sandbox, &config.to_string());
        assert!(outcome.error().contains("executable file not found"), "{outcome:?}");
        // The directory of the operator's choice, whatever leads there.
        replace(&root, |place| symlink("kept", place).unwrap());
        let outcome = run(&runtime, &sandbox, &config.to_string());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    });
}

/// On a file system that can't be written to: it runs if all places are there, otherwise the missing one is told.
pub(crate) fn roots_that_are_read_only() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        let config = runnable(&sandbox);
        let root = sandbox.rootfs();
        let read_only = || {
            let tree = palan_linux::mount::clone_of(std::fs::File::open(&root).unwrap(), false).unwrap();
            let change = palan_linux::mount::Change {
                set: palan_linux::mount::Attributes::MOUNT_ATTR_RDONLY,
                ..palan_linux::mount::Change::default()
            };
            palan_linux::mount::change(&tree, &change, false).unwrap();
            palan_linux::mount::attach(&tree, std::fs::File::open(&root).unwrap()).unwrap();
        };
        let path = std::ffi::CString::new(root.to_str().unwrap()).unwrap();
        read_only();
        let outcome = run(&runtime, &sandbox, &config.to_string());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        palan_linux::mount::detach(&path).unwrap();
        for (directory, words) in [("data", "mounts[5] (/data)"), ("proc", "mounts[0] (/proc)")] {
            std::fs::remove_dir(root.join(directory)).unwrap();
            read_only();
            let outcome = run(&runtime, &sandbox, &config.to_string());
            palan_linux::mount::detach(&path).unwrap();
            assert!(outcome.error().contains(words), "{outcome:?}");
            assert!(outcome.error().contains("read-only file system"), "{outcome:?}");
        }
    });
}

/// An image in which a directory of the system is something else: it works inside of the image, or it is refused; nothing
/// outside changes, and nothing hangs.
pub(crate) fn system_directories_that_are_something_else() {
    apart(|| {
        let runtime = Runtime::palan();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("directory")).unwrap();
        std::fs::write(outside.path().join("passwd"), "x:x:1000:1000::/outside:/bin/sh\n").unwrap();
        let before = listing(outside.path());
        let up = Path::new("../../../../../..").join(outside.path().strip_prefix("/").unwrap());
        let targets = [
            outside.path().to_owned(),
            outside.path().join("directory"),
            up,
            PathBuf::from("/tmp"),
            PathBuf::from("tmp"),
            PathBuf::from("/proc/1/root"),
            PathBuf::from("/proc/self/cwd"),
            PathBuf::from("nowhere"),
            PathBuf::from("/no/where"),
            PathBuf::from("."),
            PathBuf::from(".."),
        ];
        let (mut ran, mut refused) = (0, 0);
        for name in
            ["dev", "proc", "sys", "etc", "etc/passwd", "etc/group", "dev/pts", "dev/shm", "data", "tmp"]
        {
            // With nothing mounted there the image's own directory is used.
            for bare in [false, true] {
                let sandbox = sandbox();
                let mut config = runnable(&sandbox);
                if bare {
                    let mounts = config["mounts"].as_array_mut().unwrap();
                    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
                }
                let place = sandbox.rootfs().join(name);
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                let mut check = |outcome: Outcome, what: &str| {
                    if outcome.code == Some(0) {
                        ran += 1;
                    } else {
                        refused += 1;
                        let words = [name, "null device", "mounts["];
                        assert!(
                            words.iter().any(|word| outcome.error().contains(word)),
                            "{name} {what}: {outcome:?}"
                        );
                    }
                    assert_eq!(listing(outside.path()), before, "{name} {what}");
                };
                for target in &targets {
                    replace(&place, |place| symlink(target, place).unwrap());
                    check(run(&runtime, &sandbox, &config.to_string()), &target.display().to_string());
                }
                // Itself: a loop.
                replace(&place, |place| symlink(place.file_name().unwrap(), place).unwrap());
                check(run(&runtime, &sandbox, &config.to_string()), "a loop");
                replace(&place, |place| std::fs::write(place, "x").unwrap());
                check(run(&runtime, &sandbox, &config.to_string()), "a file");
                replace(&place, |place| {
                    let mode = rustix::fs::Mode::from_raw_mode(0o666);
                    rustix::fs::mknodat(rustix::fs::CWD, place, rustix::fs::FileType::Fifo, mode, 0).unwrap();
                });
                check(run(&runtime, &sandbox, &config.to_string()), "a fifo");
            }
        }
        println!("{ran} ran, {refused} were refused");
        assert!(ran > 50 && refused > 50, "{ran} {refused}");
    });
}
