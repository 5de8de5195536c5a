//! A sender of a directory: whatever it sends, nothing outside of the directory changes.

#![no_main]

use bytes::Bytes;
use palan_buildkit::fsutil::{Devices, Owners, Receive};
use palan_buildkit::message::session::Packet;
use palan_buildkit::wire::Message;
use palan_linux::path::RootDir;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Packets with a byte of length each.
    let mut packets = Vec::new();
    let mut rest = bytes;
    while let Some((length, more)) = rest.split_first() {
        let (packet, more) = more.split_at(usize::from(*length).min(more.len()));
        packets.extend(Packet::decode(Bytes::copy_from_slice(packet)));
        rest = more;
    }
    let outside = tempfile::tempdir().expect("a directory");
    let inside = outside.path().join("inside");
    std::fs::create_dir(&inside).expect("a directory");
    std::fs::write(outside.path().join("victim"), "safe").expect("a file");
    let receive = Receive { mirror: true, owners: Owners::Mine, devices: Devices::Refused, progress: None };
    let root = RootDir::open(&inside).expect("a root");
    let _ = receive.replay(root, packets);
    assert_eq!(std::fs::read(outside.path().join("victim")).expect("the victim"), b"safe");
    assert_eq!(std::fs::read_dir(outside.path()).expect("the outside").count(), 2);
    std::fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a mode");
});
