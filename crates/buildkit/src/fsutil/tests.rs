//! A directory from one end to the other, and senders that want more than that.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use palan_linux::path::{FileKind, RootDir};

use super::*;
use crate::grpc::{Call, Channel, ClientCall, Code, Handled, Metadata, Service, Status, serve};
use crate::message::session::{Packet, Stat, packet};

fn root(path: &Path) -> RootDir {
    RootDir::open(path).expect("a directory")
}

fn mirror() -> Receive {
    Receive { mirror: true, owners: Owners::Kept, devices: Devices::Refused, progress: None }
}

/// Sends a directory.
struct Sender {
    root: RootDir,
    send: Send,
}

impl Service for Sender {
    fn call(self: Arc<Self>, call: Call) -> Handled {
        let root = self.root.try_clone().expect("a handle");
        let send = self.send.clone();
        Box::pin(send.run(root, call.incoming, call.outgoing))
    }
}

/// Sends packets, whatever is asked.
struct Script(Vec<Packet>);

impl Service for Script {
    fn call(self: Arc<Self>, mut call: Call) -> Handled {
        Box::pin(async move {
            for packet in &self.0 {
                call.outgoing.send(packet).await?;
            }
            while let Some(packet) = call.incoming.next::<Packet>().await? {
                if packet.kind == packet::ERR {
                    break;
                }
                if packet.kind == packet::FIN {
                    call.outgoing.send(&packet).await?;
                }
            }
            Ok(())
        })
    }
}

async fn call(service: Arc<dyn Service>) -> ClientCall {
    let (client, server) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(server, service));
    let (channel, driver) = Channel::connect(client).await.expect("a connection");
    tokio::spawn(driver);
    channel.call("/x/DiffCopy", Metadata::new()).await.expect("a call")
}

async fn transfer(from: &Path, to: &Path, selection: Selection) -> Result<Received, Status> {
    let send = Send { selection, without_owners: true, time: None, directory: None };
    let ClientCall { incoming, outgoing } = call(Arc::new(Sender { root: root(from), send })).await;
    mirror().run(root(to), incoming, outgoing).await
}

async fn hostile(packets: Vec<Packet>, to: &Path) -> Result<Received, Status> {
    let ClientCall { incoming, outgoing } = call(Arc::new(Script(packets))).await;
    mirror().run(root(to), incoming, outgoing).await
}

fn listing(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    palan_context::walk::<palan_context::WalkError>(
        &root(path),
        &palan_context::Ignore::default(),
        &mut |entry| {
            found.push(entry.path.to_string_lossy().into_owned());
            Ok(())
        },
    )
    .expect("a walk");
    found
}

fn selection(include: &[&str], follow: &[&str], exclude: &[&str]) -> Selection {
    let list = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Selection { include: list(include), follow: list(follow), exclude: list(exclude) }
}

#[tokio::test]
async fn only_what_changed_is_sent_again() {
    let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (from, to) = (from.path(), to.path());
    fs::create_dir_all(from.join("d/e")).expect("directories");
    fs::write(from.join("d/x"), "x").expect("a file");
    fs::write(from.join("d/e/large"), vec![3; 300_000]).expect("a file");
    fs::write(from.join("empty"), "").expect("a file");
    fs::write(from.join("d.txt"), "sorted after what is in d").expect("a file");
    symlink("/etc/passwd", from.join("link")).expect("a link");
    fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o1555)).expect("a mode");
    fs::set_permissions(from.join("d/x"), fs::Permissions::from_mode(0o4711)).expect("a mode");
    let first = transfer(from, to, Selection::default()).await.expect("a transfer");
    assert_eq!(first, Received { entries: 7, files: 4, bytes: 300_026, is_changed: true });
    assert_eq!(listing(to), listing(from));
    assert_eq!(fs::read(to.join("d/e/large")).expect("a file"), vec![3; 300_000]);
    assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("/etc/passwd"));
    for path in ["d", "d/x", "d/e", "empty"] {
        let [left, right] = [from, to].map(|root| fs::symlink_metadata(root.join(path)).expect(path));
        assert_eq!((left.mode(), left.mtime_nsec()), (right.mode(), right.mtime_nsec()), "{path}");
        assert_eq!(right.uid(), 0);
    }
    let again = transfer(from, to, Selection::default()).await.expect("a transfer");
    assert_eq!(again, Received { entries: 7, files: 0, bytes: 0, is_changed: false });

    fs::write(from.join("d/x"), "y!").expect("a file");
    fs::remove_file(from.join("link")).expect("removed");
    fs::create_dir(from.join("link")).expect("a directory");
    fs::remove_dir_all(from.join("d/e")).expect("removed");
    fs::write(from.join("d/e"), "a file now").expect("a file");
    fs::write(to.join("stray"), "").expect("a file");
    fs::create_dir_all(to.join("d/stray/below")).expect("directories");
    let third = transfer(from, to, Selection::default()).await.expect("a transfer");
    assert_eq!(third, Received { entries: 6, files: 2, bytes: 12, is_changed: true });
    assert_eq!(listing(to), listing(from));
}

#[tokio::test]
async fn many_files_at_once() {
    let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    for directory in 0..20 {
        let directory = from.path().join(directory.to_string());
        fs::create_dir(&directory).expect("a directory");
        for file in 0..300 {
            fs::write(directory.join(file.to_string()), file.to_string()).expect("a file");
        }
    }
    let received = transfer(from.path(), to.path(), Selection::default()).await.expect("a transfer");
    assert_eq!((received.entries, received.files), (6020, 6000));
    assert_eq!(fs::read(to.path().join("19/299")).expect("a file"), b"299");
}

#[tokio::test]
async fn a_selection() {
    let from = tempfile::tempdir().expect("a directory");
    for file in ["a/b/c", "a/b/d", "a/e", "f", "#g", "sub/Dockerfile", "node_modules/x/y"] {
        let path = from.path().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, file).expect("a file");
    }
    symlink("sub/Dockerfile", from.path().join("Dockerfile")).expect("a link");
    symlink("../a/b", from.path().join("sub/out")).expect("a link");
    symlink("Loop", from.path().join("Loop")).expect("a link");
    let check = async |wanted: Selection, expected: &[&str]| {
        let to = tempfile::tempdir().expect("a directory");
        transfer(from.path(), to.path(), wanted.clone()).await.expect("a transfer");
        assert_eq!(listing(to.path()), expected, "{wanted:?}");
    };
    check(
        selection(&[], &["Dockerfile", "Dockerfile.dockerignore", "Loop"], &[]),
        &["Dockerfile", "Loop", "sub", "sub/Dockerfile"],
    )
    .await;
    check(selection(&[], &["sub/out/c"], &[]), &["a", "a/b", "a/b/c", "sub", "sub/out"]).await;
    check(selection(&[], &["a/b/*"], &["**/d"]), &["a", "a/b", "a/b/c"]).await;
    check(selection(&["a", "/f"], &[], &["a/b"]), &["a", "a/e", "f"]).await;
    check(selection(&[], &[], &["*", "!a/b/c", "#g"]), &["a", "a/b", "a/b/c"]).await;
    check(selection(&[], &[], &["#g", "a", "node_modules", "sub", "Loop", "Dockerfile"]), &["f"]).await;
    let to = tempfile::tempdir().expect("a directory");
    let error = transfer(from.path(), to.path(), selection(&[], &[], &["a["])).await.expect_err("no pattern");
    assert!(error.message.contains("syntax error in pattern"), "{error}");
}

#[tokio::test]
async fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let name = std::ffi::OsStr::from_bytes(b"\xff\n");
    fs::write(from.path().join(name), "x").expect("a file");
    transfer(from.path(), to.path(), Selection::default()).await.expect("a transfer");
    assert_eq!(fs::read(to.path().join(name)).expect("a file"), b"x");
}

fn file(path: &str, kind: FileKind, link: &str) -> Packet {
    let stat = Stat {
        path: Bytes::copy_from_slice(path.as_bytes()),
        mode: to_go(kind, 0o755),
        linkname: Bytes::copy_from_slice(link.as_bytes()),
        devmajor: 1,
        devminor: 3,
        ..Stat::default()
    };
    Packet { kind: packet::STAT, stat: Some(stat), ..Packet::default() }
}

fn data(id: u32, bytes: &'static str) -> Packet {
    Packet { kind: packet::DATA, id, data: Bytes::from_static(bytes.as_bytes()), ..Packet::default() }
}

fn last() -> Packet {
    Packet { kind: packet::STAT, ..Packet::default() }
}

#[tokio::test]
async fn hostile_senders() {
    use FileKind::{CharacterDevice, Directory, Regular, Symlink};
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("victim"), "safe").expect("a file");
    let to = outside.path().join("to");
    fs::create_dir(&to).expect("a directory");
    let check = async |packets: Vec<Packet>, expected: &str| {
        let error = hostile(packets, &to).await.expect_err(expected);
        assert!(error.message.contains(expected), "{error} instead of {expected}");
        assert_eq!(fs::read(outside.path().join("victim")).expect("the victim"), b"safe");
        assert_eq!(fs::read_dir(outside.path()).expect("the outside").count(), 2);
    };
    for path in ["", ".", "..", "/x", "a\0b", "x/", "/"] {
        check(vec![file(path, Regular, "")], "no path of a file").await;
    }
    for path in ["../victim", "a/../../victim", "a//b", "d/."] {
        let expected = if path == "d/." { "no path of a file" } else { "its directory was not told of" };
        check(vec![file(path, Regular, "")], expected).await;
    }
    check(vec![file("l", Symlink, ".."), file("l/victim", Regular, "")], "its directory was not told of")
        .await;
    check(vec![file("l", Symlink, "/"), file("l", Directory, "")], "out of order").await;
    check(vec![file("b", Regular, ""), file("a", Regular, "")], "out of order").await;
    check(vec![file("h", Regular, "../victim")], "a hard link to what is no file").await;
    check(vec![file("a", Symlink, "../victim"), file("h", Regular, "a")], "a hard link to what is no file")
        .await;
    check(vec![file("n", CharacterDevice, "")], "a device").await;
    check(vec![file("s", FileKind::Unknown, "")], "unknown kind").await;
    check(vec![file("s", Symlink, "")], "without a possible target").await;
    check(vec![file("a", Regular, ""), data(1, "x")], "was not asked for").await;
    check(vec![file("d", Directory, ""), data(0, "x")], "was not asked for").await;
    check(vec![file("a", Regular, ""), data(0, "x"), data(0, ""), data(0, "y")], "was not asked for").await;
    check(vec![last(), file("a", Regular, "")], "a file after the last one").await;
    check(vec![Packet { kind: packet::FIN, ..Packet::default() }], "an unexpected packet").await;
    check(
        vec![Packet { kind: packet::ERR, data: "no".into(), ..Packet::default() }],
        "error from sender: no",
    )
    .await;
    let mut deep = vec![];
    let mut path = String::from("d");
    for _ in 0..300 {
        deep.push(file(&path, Directory, ""));
        path.push_str("/d");
    }
    check(deep, "directories in each other").await;
}

/// A sender may begin with all files before it ends one.
#[tokio::test]
async fn few_files_are_open_at_once() {
    const FILES: u32 = 600;
    struct Counting(u32);
    impl Service for Counting {
        fn call(self: Arc<Self>, mut call: Call) -> Handled {
            Box::pin(async move {
                for number in 0..self.0 {
                    let told = file(&format!("{number:04}"), FileKind::Regular, "");
                    call.outgoing.send(&told).await?;
                }
                for round in ["a", "b", ""] {
                    for number in 0..self.0 {
                        call.outgoing.send(&data(number, round)).await?;
                    }
                    if round == "b" {
                        let of_ours = fs::read_dir("/proc/self/fd").expect("descriptors").filter(|entry| {
                            let target =
                                entry.as_ref().ok().and_then(|entry| fs::read_link(entry.path()).ok());
                            target.is_some_and(|target| target.to_string_lossy().contains("/few-open/"))
                        });
                        let count = of_ours.count();
                        assert!(count < 300, "{count} files are open");
                    }
                }
                call.outgoing.send(&last()).await?;
                while call.incoming.next::<Packet>().await?.is_some_and(|packet| packet.kind != packet::FIN) {
                }
                call.outgoing.send(&Packet { kind: packet::FIN, ..Packet::default() }).await
            })
        }
    }
    let to = tempfile::tempdir().expect("a directory");
    let to = to.path().join("few-open");
    fs::create_dir(&to).expect("a directory");
    let ClientCall { incoming, outgoing } = call(Arc::new(Counting(FILES))).await;
    let received = mirror().run(root(&to), incoming, outgoing).await.expect("a transfer");
    assert_eq!(received.files, FILES as usize);
    for number in 0..FILES {
        assert_eq!(fs::read(to.join(format!("{number:04}"))).expect("a file"), b"ab");
    }
}

/// Receivers in Go end their side of a call when the sender has ended it.
#[tokio::test]
async fn a_receiver_may_wait_for_the_sender_to_end_the_call() {
    let from = tempfile::tempdir().expect("a directory");
    let send = Send { selection: Selection::default(), without_owners: true, time: None, directory: None };
    let ClientCall { mut incoming, outgoing } =
        call(Arc::new(Sender { root: root(from.path()), send })).await;
    outgoing.send(&Packet { kind: packet::FIN, ..Packet::default() }).await.expect("a call");
    let waited = async { while incoming.next::<Packet>().await.expect("a packet").is_some() {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), waited).await.expect("the end of the call");
    drop(outgoing);
}

#[tokio::test]
async fn hard_links_are_made_and_kept() {
    let to = tempfile::tempdir().expect("a directory");
    let packets = || {
        vec![
            file("a", FileKind::Regular, ""),
            file("b", FileKind::Regular, "a"),
            last(),
            data(0, "x"),
            data(0, ""),
        ]
    };
    hostile(packets(), to.path()).await.expect("a transfer");
    let inode = |name: &str| fs::metadata(to.path().join(name)).expect(name).ino();
    assert_eq!(inode("a"), inode("b"));
    assert_eq!(fs::read(to.path().join("b")).expect("a file"), b"x");
    hostile(packets(), to.path()).await.expect("a transfer");
    assert_eq!(inode("a"), inode("b"));
}

#[tokio::test]
async fn a_sender_that_goes_is_an_error() {
    struct Gone;
    impl Service for Gone {
        fn call(self: Arc<Self>, call: Call) -> Handled {
            Box::pin(async move {
                call.outgoing.send(&file("a", FileKind::Regular, "")).await?;
                call.outgoing.send(&last()).await?;
                Ok(())
            })
        }
    }
    let to = tempfile::tempdir().expect("a directory");
    let ClientCall { incoming, outgoing } = call(Arc::new(Gone)).await;
    let error = mirror().run(root(to.path()), incoming, outgoing).await.expect_err("incomplete");
    assert_eq!(error.code, Code::Cancelled);
}
