//! `USER` and `--user` against the `passwd` and `group` of an image. The input is three parts separated by NUL bytes.

#![no_main]

use std::sync::LazyLock;

use palan_linux::path::RootDir;
use palan_runtime::user;

static ROOT: LazyLock<(tempfile::TempDir, RootDir)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(directory.path().join("etc")).expect("its etc");
    let root = RootDir::open(directory.path()).expect("the directory opened");
    (directory, root)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let Some(Ok(wanted)) = parts.next().map(std::str::from_utf8) else { return };
    let (directory, root) = &*ROOT;
    for name in ["etc/passwd", "etc/group"] {
        std::fs::write(directory.path().join(name), parts.next().unwrap_or_default()).expect("written");
    }
    if let Ok(resolved) = user::resolve(root, wanted, &[]) {
        let limit = i32::MAX.unsigned_abs();
        assert!(resolved.uid <= limit && resolved.gid <= limit);
        assert!(resolved.groups.iter().all(|group| *group <= limit));
        // A number is that number, whatever the files say; it never becomes another.
        if let Ok(uid) = wanted.split(':').next().unwrap_or_default().parse::<u32>() {
            assert_eq!(resolved.uid, uid);
        }
        user::home_of(root, resolved.uid);
    }
    let _ = user::resolve(root, "0", &[wanted.to_owned()]);
});
