//! Directories that are sent again.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::*;
use crate::grpc::{Channel, metadata};
use crate::message::session::{metadata as name, method};
use crate::session::{Directory as Offered, Services};

struct Sent {
    files: usize,
    path: PathBuf,
    lent: Option<Lent>,
}

impl Sent {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).expect(name)
    }

    fn stamp(&self) -> u64 {
        self.lent.as_ref().expect("a mirror").stamp()
    }
}

async fn receive(mirrors: &Mirrors, key: &str, from: &Path) -> Sent {
    let services =
        Services::new().directory("context", Offered::new(RootDir::open(from).expect("a directory")));
    let (client, daemon) = tokio::io::duplex(1 << 16);
    tokio::spawn(services.serve(client));
    let (channel, driver) = Channel::connect(daemon).await.expect("a session");
    tokio::spawn(driver);
    let wanted = metadata(&[(name::DIR_NAME, "context")]);
    let call = channel.call(method::FILE_SYNC_DIFF_COPY, wanted);
    let into = tempfile::tempdir().expect("a directory").keep();
    let root = RootDir::open(&into).expect("a root");
    let (received, lent) = mirrors.receive(key, call, root, None).await.expect("a transfer");
    let path = match &lent {
        Some(lent) => {
            fs::remove_dir(&into).expect("an empty directory");
            lent.path().to_owned()
        }
        None => into,
    };
    Sent { files: received.files, path, lent }
}

fn tree(root: &Path) -> (PathBuf, Mirrors) {
    let from = root.join("from");
    fs::create_dir_all(from.join("d")).expect("directories");
    fs::write(from.join("d/a"), "1").expect("a file");
    fs::write(from.join("b"), "2").expect("a file");
    std::os::unix::fs::symlink("b", from.join("l")).expect("a link");
    (from, Mirrors::open(root.join("sent")).expect("mirrors"))
}

fn clear(mirrors: &Mirrors) {
    for kept in mirrors.list().expect("a list") {
        assert_eq!(mirrors.forget(&kept.name).expect("removed"), !kept.in_use);
    }
}

#[tokio::test]
async fn builds_have_what_they_were_sent() {
    let root = tempfile::tempdir().expect("a directory");
    let (from, mirrors) = tree(root.path());
    let first = receive(&mirrors, "key", &from).await;
    assert_eq!(first.files, 2);
    fs::write(from.join("b"), "changed").expect("a file");
    let second = receive(&mirrors, "key", &from).await;
    assert_eq!(second.files, 1);
    // The first build goes on, and its file is as it was.
    assert_eq!((first.read("b"), second.read("b")), ("2".to_owned(), "changed".to_owned()));
    let inode = |sent: &Sent| fs::metadata(sent.path.join("d/a")).expect("a file").ino();
    assert_eq!(inode(&first), inode(&second));
    assert_eq!(fs::read_link(second.path.join("l")).expect("a link"), Path::new("b"));
    let old = first.path.clone();
    drop(first);
    assert!(!old.exists(), "it has gone with its build");
    let kept = second.path.clone();
    drop(second);
    let third = receive(&mirrors, "key", &from).await;
    assert_eq!((third.files, &third.path), (0, &kept));
    // In use, it stays.
    clear(&mirrors);
    assert_eq!(third.read("b"), "changed");
    drop(third);
    // Others have nothing of it, and without a key nothing is kept.
    assert_eq!(receive(&mirrors, "other", &from).await.files, 2);
    for _ in 0..2 {
        let sent = receive(&mirrors, "", &from).await;
        assert_eq!(sent.files, 2);
        fs::remove_dir_all(sent.path).expect("removed");
    }
    clear(&mirrors);
    assert_eq!(receive(&mirrors, "key", &from).await.files, 2);
}

#[tokio::test]
async fn a_stamp_is_the_same_while_the_files_are() {
    let root = tempfile::tempdir().expect("a directory");
    let (from, mirrors) = tree(root.path());
    let first = receive(&mirrors, "key", &from).await.stamp();
    assert_eq!(receive(&mirrors, "key", &from).await.stamp(), first);
    let mut stamps = vec![first];
    let run: [(&str, &dyn Fn()); 7] = [
        ("content", &|| fs::write(from.join("b"), "changed").expect("a file")),
        ("one more", &|| fs::write(from.join("d/new"), "").expect("a file")),
        ("one less", &|| fs::remove_file(from.join("d/new")).expect("no file")),
        ("a directory less", &|| fs::remove_dir_all(from.join("d")).expect("no directory")),
        ("a directory more", &|| fs::create_dir(from.join("d")).expect("a directory")),
        ("a directory's mode", &|| {
            fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o700)).expect("a mode");
        }),
        ("a file's mode", &|| {
            fs::set_permissions(from.join("b"), fs::Permissions::from_mode(0o600)).expect("a mode");
        }),
    ];
    for (what, change) in run {
        change();
        let stamp = receive(&mirrors, "key", &from).await.stamp();
        assert!(!stamps.contains(&stamp), "{what}");
        assert_eq!(receive(&mirrors, "key", &from).await.stamp(), stamp, "after {what}");
        stamps.push(stamp);
    }
    let sent = receive(&mirrors, "key", &from).await;
    sent.lent.as_ref().expect("a mirror").altered();
    drop(sent);
    let stamp = receive(&mirrors, "key", &from).await.stamp();
    assert!(!stamps.contains(&stamp), "somebody else has altered it");
}

#[tokio::test]
async fn an_older_mirror_is_not_trusted() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("sent");
    Mirrors::open(path.clone()).expect("mirrors");
    fs::create_dir(path.join("x")).expect("a mirror");
    Mirrors::open(path.clone()).expect("mirrors");
    assert!(path.join("x").exists());
    fs::write(path.join("boot-id"), "another").expect("written");
    Mirrors::open(path.clone()).expect("mirrors");
    assert!(!path.join("x").exists());
}

#[test]
fn the_longest_unused_goes() {
    let root = tempfile::tempdir().expect("a directory");
    for number in 0..MAX_MIRRORS + 3 {
        let path = root.path().join(number.to_string());
        fs::create_dir(&path).expect("a mirror");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
        fs::File::open(&path)
            .and_then(|file| file.set_times(fs::FileTimes::new().set_accessed(time)))
            .expect("a time");
    }
    let mirrors = Mirrors { directory: root.path().to_owned(), known: Mutex::default() };
    mirrors.make_room("0").expect("room");
    let left: Vec<bool> = (0..6).map(|number| root.path().join(number.to_string()).exists()).collect();
    assert_eq!(left, [true, false, false, false, true, true]);
}

fn look(sent: &Sent, name: &str) -> Metadata {
    RootDir::open(&sent.path).expect("a root").metadata(name).expect(name)
}

/// What a build does that reads its files.
fn learn(sent: &Sent) {
    let digests = sent.lent.as_ref().expect("a mirror").digests();
    ["b", "d/a"].iter().for_each(|name| digests.put(&look(sent, name), Digest::of(sent.read(name))));
}

fn known(sent: &Sent) -> [bool; 2] {
    let digests = sent.lent.as_ref().expect("a mirror").digests();
    ["b", "d/a"].map(|name| digests.get(&look(sent, name)) == Some(Digest::of(sent.read(name))))
}

#[tokio::test]
async fn only_what_has_changed_is_not_known() {
    let root = tempfile::tempdir().expect("a directory");
    let (from, mirrors) = tree(root.path());
    let first = receive(&mirrors, "key", &from).await;
    assert_eq!(known(&first), [false, false]);
    learn(&first);
    drop(first);
    assert_eq!(known(&receive(&mirrors, "key", &from).await), [true, true]);
    // As long and as old: all that would tell them apart is that it was sent.
    let time = fs::metadata(from.join("b")).expect("a file").modified().expect("a time");
    fs::remove_file(from.join("b")).expect("no file");
    receive(&mirrors, "key", &from).await;
    fs::write(from.join("b"), "3").expect("a file");
    fs::File::options()
        .write(true)
        .open(from.join("b"))
        .and_then(|file| file.set_modified(time))
        .expect("a time");
    let changed = receive(&mirrors, "key", &from).await;
    assert_eq!(known(&changed), [false, true]);
    learn(&changed);
    drop(changed);
    // A daemon that begins knows it, too, and so does who takes the place of a mirror in use.
    let mirrors = Mirrors::open(root.path().join("sent")).expect("mirrors");
    let before = receive(&mirrors, "key", &from).await;
    let beside = receive(&mirrors, "key", &from).await;
    assert_ne!(before.path, beside.path);
    assert_eq!((known(&before), known(&beside)), ([true, true], [true, true]));
    drop((before, beside));
    let left: Vec<String> = fs::read_dir(root.path().join("sent"))
        .expect("entries")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left.len(), 3, "the mirror, what is known of it, and the start of the host: {left:?}");
}

#[tokio::test]
async fn files_that_somebody_removed_are_sent_again() {
    let root = tempfile::tempdir().expect("a directory");
    let (from, mirrors) = tree(root.path());
    let first = receive(&mirrors, "key", &from).await;
    learn(&first);
    let path = first.path.clone();
    drop(first);
    fs::remove_file(path.join("b")).expect("no file");
    let second = receive(&mirrors, "key", &from).await;
    assert_eq!((second.files, second.read("b"), known(&second)), (1, "2".to_owned(), [false, true]));
    drop(second);
    fs::remove_dir_all(&path).expect("no mirror");
    let third = receive(&mirrors, "key", &from).await;
    assert_eq!((third.files, known(&third)), (2, [false, false]));
}

#[tokio::test]
async fn what_is_kept_can_be_seen_and_removed() {
    let root = tempfile::tempdir().expect("a directory");
    let (from, mirrors) = tree(root.path());
    fs::write(from.join("b"), [0; 1000]).expect("a file");
    let sent = receive(&mirrors, "key", &from).await;
    let [kept] = &mirrors.list().expect("a list")[..] else { panic!("one") };
    assert_eq!((kept.size, kept.in_use), (1001, true));
    assert!(!mirrors.forget(&kept.name).expect("nothing"), "a build has it");
    fs::hard_link(sent.path.join("b"), root.path().join("layer")).expect("a link");
    learn(&sent);
    drop(sent);
    let [kept] = &mirrors.list().expect("a list")[..] else { panic!("one") };
    assert_eq!((kept.size, kept.in_use), (1, false));
    for name in ["", ".", "..", "boot-id", "x", "../from"] {
        assert!(!mirrors.forget(name).expect("nothing"), "{name}");
    }
    assert!(mirrors.forget(&kept.name).expect("removed"));
    assert_eq!(mirrors.list().expect("a list"), []);
    let left = fs::read_dir(root.path().join("sent")).expect("entries").count();
    assert_eq!(left, 1, "nothing but the start of the host");
    assert!(from.join("b").exists());
}

#[test]
fn what_an_earlier_daemon_left_is_removed() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("sent");
    Mirrors::open(path.clone()).expect("mirrors");
    for name in ["a", "a.3", "gone.1"] {
        fs::create_dir(path.join(name)).expect("a directory");
    }
    for name in ["a.digests", "a.new", "a.3.digests", "b.digests"] {
        fs::write(path.join(name), "").expect("a file");
    }
    Mirrors::open(path.clone()).expect("mirrors");
    let names = || {
        let entries = fs::read_dir(&path).expect("entries");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let begun = std::time::Instant::now();
    while names() != ["a", "a.digests", "boot-id"] {
        assert!(begun.elapsed().as_secs() < 10, "{:?}", names());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
