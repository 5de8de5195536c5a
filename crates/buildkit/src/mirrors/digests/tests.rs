//! What is known survives a daemon, and nothing wrong does.

use std::fs;
use std::path::Path;

use super::*;

fn metadata(path: &Path) -> Metadata {
    Metadata::of(File::open(path).expect("a file")).expect("metadata")
}

struct Case {
    root: tempfile::TempDir,
    file: PathBuf,
    kept: PathBuf,
}

impl Case {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let (file, kept) = (root.path().join("file"), root.path().join("m.digests"));
        fs::create_dir(root.path().join("m")).expect("a mirror");
        fs::write(&file, "content").expect("a file");
        Self { root, file, kept }
    }

    fn open(&self) -> Arc<Digests> {
        Arc::new(Digests::new(self.root.path().join("m")))
    }
}

#[test]
fn a_new_process_knows_what_was_known() {
    let case = Case::new();
    let digest = Digest::of("content");
    let digests = case.open();
    let file = metadata(&case.file);
    assert_eq!(digests.get(&file), None);
    digests.put(&file, digest);
    digests.settle();
    for digests in [digests, case.open()] {
        assert_eq!(digests.get(&file), Some(digest));
        assert_eq!(digests.get(&Metadata { size: 8, ..file }), None);
        let modified = Time { seconds: 1, ..file.modified };
        assert_eq!(digests.get(&Metadata { modified, ..file }), None);
        assert_eq!(digests.get(&Metadata { inode: file.inode + 1, ..file }), None);
    }
    assert_eq!(fs::read_dir(case.root.path()).expect("entries").count(), 3);
    fs::rename(case.root.path().join("m"), case.root.path().join("other")).expect("a name");
    fs::create_dir(case.root.path().join("m")).expect("a mirror");
    assert_eq!(case.open().get(&file), None, "it is another's");
}

#[test]
fn a_number_is_forgotten_before_it_is_another_files() {
    let case = Case::new();
    let digests = case.open();
    let file = metadata(&case.file);
    digests.put(&file, Digest::of("content"));
    digests.put(&Metadata { inode: 1, ..file }, Digest::of("other"));
    digests.settle();
    let mut changes = Changes::new(Arc::clone(&digests));
    assert!(case.kept.exists(), "nothing was made yet");
    changes.begin().expect("a change");
    assert!(!case.kept.exists(), "a daemon that is killed here leaves nothing");
    // Its build ends at this moment.
    digests.settle();
    assert!(!case.kept.exists());
    changes.made(file.inode);
    assert_eq!(digests.get(&file), None);
    changes.end(&HashSet::from([file.inode]));
    drop(changes);
    digests.settle();
    let digests = case.open();
    assert_eq!(digests.get(&file), None);
    assert_eq!(digests.get(&Metadata { inode: 1, ..file }), None, "it is not there any more");
}

#[test]
fn a_transfer_that_breaks_off_keeps_what_is_true() {
    let case = Case::new();
    let digests = case.open();
    let file = metadata(&case.file);
    digests.put(&file, Digest::of("content"));
    let changes = Changes::new(Arc::clone(&digests));
    changes.begin().expect("a change");
    changes.made(1);
    drop(changes);
    assert_eq!(case.open().get(&file), Some(Digest::of("content")));
}

#[test]
fn whoever_takes_a_place_knows_the_same() {
    let case = Case::new();
    let digests = case.open();
    let file = metadata(&case.file);
    digests.put(&file, Digest::of("content"));
    fs::create_dir(case.root.path().join("m.2")).expect("a mirror");
    let other = digests.copy(case.root.path().join("m.2"));
    digests.remove().expect("removed");
    assert_eq!(other.get(&file), Some(Digest::of("content")));
    other.settle();
    assert!(case.root.path().join("m.2.digests").exists() && !case.kept.exists());
}

#[test]
fn what_is_not_whole_says_nothing() {
    let case = Case::new();
    let digests = case.open();
    let file = metadata(&case.file);
    digests.put(&file, Digest::of("content"));
    digests.settle();
    let whole = fs::read(&case.kept).expect("the file");
    for length in 0..whole.len() {
        fs::write(&case.kept, &whole[..length]).expect("a part");
        assert_eq!(case.open().get(&file), None, "{length}");
    }
    fs::write(&case.kept, [&b"palan digests 2\n"[..], &whole[MAGIC.len()..]].concat()).expect("another");
    assert_eq!(case.open().get(&file), None);
    fs::write(&case.kept, &whole).expect("all of it");
    assert_eq!(case.open().get(&file), Some(Digest::of("content")));
}
