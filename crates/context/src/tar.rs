//! The context as a tar stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use palan_linux::path::{FileKind, RootDir, Time};
use palan_linux::xattr;
use palan_tar::write::Writer;
use palan_tar::{Entry as Header, Kind};

use crate::Ignore;
use crate::walk::{Entry, WalkError, walk};

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

/// A context that can't be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It can't be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A file can't be read to its end.
    #[error("cannot read {} in the build context", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The stream's end doesn't take it.
    #[error("cannot send the build context")]
    Write(#[source] io::Error),
}

/// Writes what the ignore file leaves of a directory as a tar archive: ustar, with PAX records where a field is too small.
///
/// Owners are root and times are in seconds; of extended attributes only the capabilities of programs are kept. A file that
/// shrinks meanwhile is filled up with zeros, one that grows is cut.
pub fn pack(root: &RootDir, ignore: &Ignore, sink: &mut dyn Write) -> Result<Packed, PackError> {
    let mut packer = Packer { writer: Writer::new(sink), packed: Packed::default() };
    walk(root, ignore, &mut |entry| packer.entry(entry))?;
    let sink = packer.writer.finish().map_err(PackError::Write)?;
    sink.flush().map_err(PackError::Write)?;
    Ok(packer.packed)
}

struct Packer<'a> {
    writer: Writer<&'a mut dyn Write>,
    packed: Packed,
}

impl Packer<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), PackError> {
        let kind = match entry.metadata.kind {
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink => Kind::Symlink,
            FileKind::Fifo => Kind::Fifo,
            FileKind::CharacterDevice => Kind::CharacterDevice,
            FileKind::BlockDevice => Kind::BlockDevice,
            FileKind::Regular => Kind::Regular,
            FileKind::Socket | FileKind::Unknown => return Ok(()),
        };
        let mut header = Header::plain(entry.path.as_os_str().as_bytes().to_vec(), kind);
        header.mode = entry.metadata.mode;
        header.modified = Time { seconds: entry.metadata.modified.seconds, nanoseconds: 0 };
        match kind {
            Kind::Directory => header.path.push(b'/'),
            Kind::Symlink => header.link = entry.read_link()?.as_os_str().as_bytes().to_vec(),
            Kind::CharacterDevice | Kind::BlockDevice => header.device = entry.metadata.node,
            _ => {}
        }
        match kind {
            Kind::Regular => self.file(entry, header)?,
            _ => self.writer.entry(&header).map_err(PackError::Write)?,
        }
        self.packed.entries += 1;
        Ok(())
    }

    fn file(&mut self, entry: &Entry<'_>, mut header: Header) -> Result<(), PackError> {
        let failed = |source| PackError::Content { path: entry.path.to_owned(), source };
        let file = entry.open()?;
        header.size = entry.metadata.size;
        if let Some(capability) = xattr::get(&file, CAPABILITY).map_err(failed)? {
            header.xattrs.push((CAPABILITY.as_bytes().to_vec(), capability));
        }
        let mut source = Source { file, failure: None };
        let written = self.writer.file(&header, &mut source);
        match (written, source.failure) {
            (Err(_), Some(failure)) => Err(failed(failure)),
            (Err(error), None) => Err(PackError::Write(error)),
            (Ok(()), _) => {
                self.packed.bytes += header.size;
                Ok(())
            }
        }
    }
}

/// The attribute that a program's capabilities are in.
const CAPABILITY: &str = "security.capability";

/// A file whose failures are told apart from those of the archive.
struct Source {
    file: File,
    failure: Option<io::Error>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|error| {
            let told = io::Error::from(error.kind());
            // The writer tries again.
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            told
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn packed(root: &Path, ignore: &str) -> (Vec<u8>, Packed) {
        let root = RootDir::open(root).expect("the root");
        let ignore = Ignore::parse(ignore.as_bytes()).expect("an ignore file");
        let mut bytes = Vec::new();
        let packed = pack(&root, &ignore, &mut bytes).expect("an archive");
        (bytes, packed)
    }

    /// Sets every time below to the same one.
    fn settle(path: &Path, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for entry in fs::read_dir(path).expect("entries") {
            let entry = entry.expect("an entry").path();
            if entry.is_dir() && !entry.is_symlink() {
                settle(&entry, seconds);
            }
            if !entry.is_symlink() {
                fs::File::open(&entry).expect("a file").set_modified(time).expect("a time");
            }
        }
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let build = || {
            let root = tempfile::tempdir().expect("a directory");
            fs::create_dir(root.path().join("d")).expect("a directory");
            for name in ["d/b", "d/a", "c"] {
                fs::write(root.path().join(name), name).expect("a file");
            }
            settle(root.path(), 1_700_000_000);
            packed(root.path(), "").0
        };
        let first = build();
        assert_eq!(first, build());
        assert_eq!(first.len() % 512, 0);
    }

    #[test]
    fn another_program_reads_it() {
        let root = tempfile::tempdir().expect("a directory");
        let long = format!("{}/file", "directory-with-a-name/".repeat(8).trim_end_matches('/'));
        fs::create_dir_all(root.path().join(&long).parent().expect("a parent")).expect("directories");
        fs::write(root.path().join(&long), "long").expect("a file");
        fs::write(root.path().join("run.sh"), vec![b'x'; 1000]).expect("a file");
        fs::set_permissions(root.path().join("run.sh"), fs::Permissions::from_mode(0o4751)).expect("a mode");
        symlink("x".repeat(150), root.path().join("link")).expect("a link");
        fs::write(root.path().join("left-out"), "").expect("a file");
        settle(root.path(), 1_000_000_000);
        let (bytes, packed) = packed(root.path(), "left-out");
        assert_eq!(packed, Packed { entries: 11, bytes: 1004 });

        let archive = tempfile::NamedTempFile::new().expect("a file");
        fs::write(archive.path(), bytes).expect("an archive");
        #[allow(clippy::disallowed_methods, reason = "a test's witness, started with nothing of ours")]
        let listed = std::process::Command::new("tar")
            .env("TZ", "UTC")
            .args(["-tvf"])
            .arg(archive.path())
            .output()
            .expect("tar");
        assert!(listed.status.success());
        let text = String::from_utf8(listed.stdout).expect("text");
        assert!(text.contains("-rwsr-x--x 0/0            1000 2001-09-09 01:46 run.sh"), "{text}");
        assert!(text.contains(&format!("4 2001-09-09 01:46 {long}")), "{text}");
        assert!(text.contains(&format!("link -> {}", "x".repeat(150))), "{text}");
        assert!(!text.contains("left-out"), "{text}");
    }

    #[test]
    fn a_reader_that_goes_away_is_told() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let root = tempfile::tempdir().expect("a directory");
        let root = RootDir::open(root.path()).expect("the root");
        let error = pack(&root, &Ignore::default(), &mut Gone).expect_err("nobody reads");
        assert!(matches!(error, PackError::Write(_)), "{error}");
    }
}
