//! What comes by standard input, and the directories that it is put in.

use std::fs::DirBuilder;
use std::io::{self, BufReader, Cursor, Read};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use palan_dockerfile::MAX_FILE;
use palan_linux::path::RootDir;
use palan_stdx::{error_chain, fs};
use palan_tar::xz::XzReader;

use super::super::super::container::cp::unpack::Unpacking;
use crate::app::App;
use crate::environment::TMPDIR;
use crate::error::{CliError, Result};

/// Enough to see that it is an archive.
const HEAD: usize = 512;
/// Names of directories that are tried.
const ATTEMPTS: u32 = 1000;

/// What it was.
#[derive(Debug)]
pub(super) enum Input {
    /// A context, unpacked.
    Archive(OwnDirectory),
    /// A Dockerfile.
    Text(Vec<u8>),
}

/// Takes all of standard input.
pub(super) fn read(app: &App) -> Result<Input> {
    let mut input = app.streams.take_input();
    let mut head = Vec::with_capacity(HEAD);
    input.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(|error| failed(&error))?;
    let kind = Kind::of(&head)?;
    let whole = Cursor::new(head).chain(input);
    let reader: Box<dyn Read> = match kind {
        Kind::Text => return limited(whole).map(Input::Text),
        Kind::Tar => Box::new(whole),
        Kind::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Kind::Zstd => Box::new(zstd::Decoder::new(whole).map_err(|error| failed(&error))?),
        Kind::Bzip2 => Box::new(MultiBzDecoder::new(whole)),
        Kind::Xz => Box::new(XzReader::new(BufReader::new(whole))),
    };
    let own = OwnDirectory::new(app)?;
    unpack(reader, own.path())?;
    Ok(Input::Archive(own))
}

/// Takes a Dockerfile from standard input.
pub(super) fn text(app: &App) -> Result<Vec<u8>> {
    limited(app.streams.take_input())
}

fn limited(input: impl Read) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    input.take(MAX_FILE as u64 + 1).read_to_end(&mut text).map_err(|error| failed(&error))?;
    if text.is_empty() {
        return Err(CliError::new("standard input is empty: there is no Dockerfile in it"));
    }
    Ok(text)
}

fn failed(error: &io::Error) -> CliError {
    CliError::io("read the build's input", error)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Tar,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Kind {
    fn of(head: &[u8]) -> Result<Self> {
        let unsupported = |name: &str| {
            Err(CliError::new(format!("a context compressed by {name} is not supported"))
                .hint("Send it plain, or compressed by gzip, zstd, bzip2 or xz."))
        };
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Ok(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [b'P', b'K', 3, 4, ..] => unsupported("zip"),
            _ if head.get(257..262) == Some(b"ustar") => Ok(Self::Tar),
            _ => Ok(Self::Text),
        }
    }
}

fn unpack(mut archive: impl Read, path: &Path) -> Result<()> {
    let root = RootDir::open(path).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
    let unpacking = Unpacking {
        root: &root,
        shown: "the build context",
        from: Vec::new(),
        to: Vec::new(),
        keep_owners: true,
    };
    match unpacking.run(&mut archive)? {
        0 => Ok(()),
        _ => {
            Err(CliError::new("the build context on standard input has a device, which no context may have"))
        }
    }
}

/// A directory that nobody else can enter, gone when it is dropped.
#[derive(Debug)]
pub(super) struct OwnDirectory {
    path: PathBuf,
}

impl OwnDirectory {
    /// Makes one where temporary files are.
    pub(super) fn new(app: &App) -> Result<Self> {
        let parent = PathBuf::from(app.environment.set(TMPDIR).unwrap_or("/tmp"));
        for attempt in 0..ATTEMPTS {
            let path = parent.join(format!("palan-build-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // Somebody's; it is not entered, whosever it is.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(CliError::io(&format!("create directory {}", path.display()), &error));
                }
            }
        }
        Err(CliError::new(format!("no directory can be made in {}: all names are taken", parent.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        // What can't be removed is in the directory for temporary files, where it is found.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![b'a'; HEAD];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(Kind::of(&tar), Ok(Kind::Tar));
        assert_eq!(Kind::of(b"\x1f\x8b\x08"), Ok(Kind::Gzip));
        assert_eq!(Kind::of(b"\x28\xb5\x2f\xfd"), Ok(Kind::Zstd));
        for text in [&b""[..], b"FROM x", b"B", &[b'F'; HEAD]] {
            assert_eq!(Kind::of(text), Ok(Kind::Text));
        }
        assert_eq!(Kind::of(b"BZh91"), Ok(Kind::Bzip2));
        assert_eq!(Kind::of(b"\xfd7zXZ\x00"), Ok(Kind::Xz));
        Kind::of(b"PK\x03\x04").unwrap_err();
    }
}
