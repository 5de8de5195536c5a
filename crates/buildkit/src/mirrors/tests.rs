//! Directories that are sent again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::*;
use crate::grpc::{Channel, metadata};
use crate::message::session::{metadata as name, method};
use crate::session::{Directory as Offered, Services};

async fn receive(mirrors: &Mirrors, key: &str, from: &Path, into: &Path) -> Received {
    let services =
        Services::new().directory("context", Offered::new(RootDir::open(from).expect("a directory")));
    let (client, daemon) = tokio::io::duplex(1 << 16);
    tokio::spawn(services.serve(client));
    let (channel, driver) = Channel::connect(daemon).await.expect("a session");
    tokio::spawn(driver);
    let wanted = metadata(&[(name::DIR_NAME, "context")]);
    let call = channel.call(method::FILE_SYNC_DIFF_COPY, wanted);
    fs::create_dir(into).expect("a directory");
    mirrors.receive(key, call, RootDir::open(into).expect("a root"), None).await.expect("a transfer")
}

#[tokio::test]
async fn builds_have_what_they_were_sent() {
    let root = tempfile::tempdir().expect("a directory");
    let from = root.path().join("from");
    fs::create_dir_all(from.join("d")).expect("directories");
    fs::write(from.join("d/a"), "1").expect("a file");
    fs::write(from.join("b"), "2").expect("a file");
    std::os::unix::fs::symlink("b", from.join("l")).expect("a link");
    let mirrors = Mirrors::open(root.path().join("sent")).expect("mirrors");
    let into = |name: &str| root.path().join(name);
    assert_eq!(receive(&mirrors, "key", &from, &into("1")).await.files, 2);
    fs::write(from.join("b"), "changed").expect("a file");
    assert_eq!(receive(&mirrors, "key", &from, &into("2")).await.files, 1);
    // The first build's file is as it was.
    assert_eq!(fs::read(into("1").join("b")).expect("a file"), b"2");
    assert_eq!(fs::read(into("2").join("b")).expect("a file"), b"changed");
    let inode = |path: &str| fs::metadata(root.path().join(path)).expect(path).ino();
    assert_eq!(inode("1/d/a"), inode("2/d/a"));
    assert_eq!(fs::read_link(into("2").join("l")).expect("a link"), Path::new("b"));
    // Others have nothing of it, and without a key nothing is kept.
    assert_eq!(receive(&mirrors, "other", &from, &into("3")).await.files, 2);
    assert_eq!(receive(&mirrors, "", &from, &into("4")).await.files, 2);
    assert_eq!(receive(&mirrors, "", &from, &into("5")).await.files, 2);
    for mirror in mirrors.list().expect("a list") {
        assert!(!mirror.in_use && mirrors.remove(&mirror.name).expect("removed"));
    }
    assert_eq!(receive(&mirrors, "key", &from, &into("6")).await.files, 2);
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
fn the_longest_unused_goes_and_none_in_use() {
    let root = tempfile::tempdir().expect("a directory");
    let mirrors = Mirrors::open(root.path().join("sent")).expect("mirrors");
    let path = |number: usize| root.path().join("sent").join(number.to_string());
    for number in 0..MAX_MIRRORS + 3 {
        fs::create_dir(path(number)).expect("a mirror");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
        fs::File::open(path(number)).and_then(|file| file.set_modified(time)).expect("a time");
    }
    // What is received into the second takes long.
    let slow = mirrors.lock("1");
    let _locked = slow.try_lock().expect("a lock");
    mirrors.make_room("0");
    let left: Vec<bool> = (0..7).map(|number| path(number).exists()).collect();
    assert_eq!(left, [true, true, false, false, false, true, true]);
    assert!(!mirrors.remove("1").expect("a refusal"));
    assert!(mirrors.list().expect("a list").iter().any(|mirror| mirror.name == "1" && mirror.in_use));
}

/// Two builds of one directory share a connection: what the second was sent unread would stop the first.
#[tokio::test]
async fn a_client_is_asked_when_it_is_its_turn() {
    let root = tempfile::tempdir().expect("a directory");
    let mirrors = Mirrors::open(root.path().join("sent")).expect("mirrors");
    let lock = mirrors.lock(&Digest::of("key").hex());
    let first = lock.lock().await;
    let asked = std::sync::atomic::AtomicBool::new(false);
    let call = async {
        asked.store(true, std::sync::atomic::Ordering::Relaxed);
        Err(Status::new(Code::Unknown, "asked"))
    };
    let second = mirrors.receive("key", call, RootDir::open(root.path()).expect("a root"), None);
    tokio::pin!(second);
    let moment = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(moment, &mut second).await.is_err());
    assert!(!asked.load(std::sync::atomic::Ordering::Relaxed));
    drop(first);
    assert_eq!(second.await.expect_err("no call").message, "asked");
}
