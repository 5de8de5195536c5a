//! A directory that is no layer, a volume say, as a tar and back: every name means itself, and the directory's own owner, mode
//! and attributes are part of it.

use std::io::{Read, Write};

use palan_linux::path::{RootDir, Time};
use palan_tar::pack::{Packer, failed, pack_below, root_entry};

use super::TreeError;
use crate::Limits;
use crate::layer::LayerError;
use crate::layer::apply::{Form, apply};
use crate::layer::decode::Decoder;

/// Why an archive can't be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("the archive can't be unpacked")]
pub struct UnpackError(#[from] pub(super) LayerError);

impl UnpackError {
    /// Whether it is the archive's fault and not this host's.
    pub fn is_bad_archive(&self) -> bool {
        !matches!(self.0, LayerError::Entry { .. })
    }

    /// The refusal to replace a directory by a file or the other way round, as Docker words it.
    pub fn kept_kind(&self) -> Option<String> {
        matches!(self.0, LayerError::OtherKind { .. }).then(|| self.0.to_string())
    }
}

/// Writes all that is in `root` as a tar, in the order of the names: the same tree gives the same bytes. With a `time` everything has that.
pub fn pack(root: &RootDir, time: Option<Time>, sink: &mut dyn Write) -> Result<(), TreeError> {
    pack_several(&[(None, root)], time, sink)
}

/// Writes several such trees as one tar, each in a directory of this name if it has one.
pub fn pack_several(
    trees: &[(Option<&str>, &RootDir)],
    time: Option<Time>,
    sink: &mut dyn Write,
) -> Result<(), TreeError> {
    let mut packer = Packer::new(sink);
    if let Some(time) = time {
        packer.set_time(time);
    }
    for (name, root) in trees {
        let top = root.open_dir(".").map_err(|error| failed("open", b"/")(error.source))?;
        let mut entry = root_entry(&top)?;
        if let Some(name) = name {
            entry.path = format!("{name}/").into_bytes();
        }
        entry.modified = time.unwrap_or(entry.modified);
        packer.bare(&entry)?;
        pack_below(&mut packer, top, name.map(|name| name.as_bytes().to_vec()), &|_, _| false)?;
    }
    packer.finish().map(drop)
}

/// Unpacks a tar, which may be compressed, into the empty directory `root`, which nothing in it can leave.
pub fn unpack(source: &mut dyn Read, root: &RootDir, limits: &Limits) -> Result<(), UnpackError> {
    apply(Decoder::new(source), root, Form::Plain, limits)?;
    Ok(())
}

/// Whether it is a tar, compressed or not, as [`unpack`] takes it: told by the first block of what is inside. An error names a
/// compression that is not known here.
pub fn is_archive(source: &mut dyn Read) -> std::io::Result<bool> {
    let mut block = Vec::new();
    let read = Decoder::new(source).take(512).read_to_end(&mut block);
    match read {
        Ok(_) => Ok(is_tar(&block)),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Err(error),
        // It only begins like something compressed.
        Err(_) => Ok(false),
    }
}

/// Whether it is a block that begins a tar: its sum is right.
fn is_tar(block: &[u8]) -> bool {
    let Some(block) = block.first_chunk::<512>().filter(|block| block.iter().any(|byte| *byte != 0)) else {
        return false;
    };
    let sum_place = 148..156;
    let digits = block[sum_place.clone()].iter().filter(|byte| matches!(byte, b'0'..=b'7'));
    let told = digits.fold(0u64, |sum, digit| sum * 8 + u64::from(digit - b'0'));
    let sum = block.iter().enumerate();
    let sum = sum.map(|(place, byte)| u64::from(if sum_place.contains(&place) { b' ' } else { *byte }));
    sum.sum::<u64>() == told
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;

    use palan_linux::path::FileKind;

    use super::*;

    #[test]
    fn archives_are_told_by_their_content() {
        let tar = crate::testing::Tar::new().file("f", b"x").finish();
        let is = |bytes: &[u8]| is_archive(&mut &*bytes);
        assert!(is(&tar).expect("reads") && is(&crate::testing::gzip(&tar)).expect("reads"));
        for other in
            [&b""[..], &[0; 1024], b"#!/bin/sh\n", &crate::testing::gzip(b"text"), &[0x1f, 0x8b, 8, 1]]
        {
            assert!(!is(other).expect("reads"), "{other:?}");
        }
        // One that only begins like xz is none; lzma is not known.
        assert!(!is(b"\xfd7zXZ\0rest").expect("reads") && is(b"\x5d\0\0\x80rest").is_err());
    }

    #[test]
    fn a_volume_survives_the_way_there_and_back() {
        let (from, to) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
        let root = RootDir::open(from.path()).expect("opens");
        root.create_dir("data", 0o750).expect("creates");
        root.write("data/.wh.file", b"means itself", 0o640).expect("writes");
        root.create_hard_link("data/.wh.file", "link").expect("links");
        root.create_symlink("/etc/passwd", "symlink").expect("links");
        root.create_node("zero", FileKind::CharacterDevice, 0o600, (0, 0)).expect("creates");
        root.create_node("fifo", FileKind::Fifo, 0o622, (0, 0)).expect("creates");
        root.set_xattr("data", OsStr::new("user.x"), b"1").expect("sets");
        root.set_owner("data", 12, 34).expect("owns");
        root.set_owner(".", 999, 998).expect("owns");
        root.set_mode(".", 0o3700).expect("sets");
        let mut archive = Vec::new();
        pack(&root, None, &mut archive).expect("packs");

        let target = RootDir::open(to.path()).expect("opens");
        unpack(&mut archive.as_slice(), &target, &Limits::default()).expect("unpacks");
        let top = target.metadata("/").expect("there");
        assert_eq!((top.uid, top.gid, top.mode), (999, 998, 0o3700));
        let data = target.metadata("data").expect("there");
        assert_eq!((data.uid, data.gid, data.mode), (12, 34, 0o750));
        assert_eq!(target.xattr("data", OsStr::new("user.x")).expect("reads").as_deref(), Some(&b"1"[..]));
        assert_eq!(target.read("data/.wh.file", 100).expect("there"), b"means itself");
        assert_eq!(target.metadata("link").expect("there").links, 2);
        assert_eq!(target.read_link("symlink").expect("there"), Path::new("/etc/passwd"));
        assert!(target.symlink_metadata("zero").expect("there").is_whiteout());
        assert_eq!(target.symlink_metadata("fifo").expect("there").kind, FileKind::Fifo);
        let mut again = Vec::new();
        pack(&target, None, &mut again).expect("packs");
        assert!(again == archive, "the same tree gives the same bytes");
    }
}
