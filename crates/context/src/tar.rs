//! The context as a tar stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use palan_linux::path::{FileKind, RootDir};
use palan_linux::xattr;

use crate::Ignore;
use crate::walk::{Entry, WalkError, walk};

const BLOCK: usize = 512;
/// What fits into the name's field of a header.
const NAME: usize = 100;
/// What fits into eleven octal digits.
const MAX_SIZE: u64 = 0o777_7777_7777;

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
    let mut packer = Packer { sink, packed: Packed::default(), buffer: vec![0; 256 * 1024] };
    walk(root, ignore, &mut |entry| packer.entry(entry))?;
    packer.write(&[0; 2 * BLOCK])?;
    packer.sink.flush().map_err(PackError::Write)?;
    Ok(packer.packed)
}

struct Packer<'a> {
    sink: &'a mut dyn Write,
    packed: Packed,
    buffer: Vec<u8>,
}

impl Packer<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.sink.write_all(bytes).map_err(PackError::Write)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), PackError> {
        let mut name = entry.path.as_os_str().as_bytes().to_vec();
        let mut header = Header {
            mode: entry.metadata.mode,
            modified: entry.metadata.modified.seconds,
            ..Header::default()
        };
        let mut file = None;
        header.kind = match entry.metadata.kind {
            FileKind::Directory => {
                name.push(b'/');
                b'5'
            }
            FileKind::Symlink => {
                header.link = entry.read_link()?.as_os_str().as_bytes().to_vec();
                b'2'
            }
            FileKind::Fifo => b'6',
            FileKind::CharacterDevice | FileKind::BlockDevice => {
                header.node = entry.metadata.node;
                if entry.metadata.kind == FileKind::CharacterDevice { b'3' } else { b'4' }
            }
            FileKind::Socket | FileKind::Unknown => return Ok(()),
            FileKind::Regular => {
                let opened = entry.open()?;
                header.size = entry.metadata.size;
                header.capability = xattr::get(&opened, "security.capability")
                    .map_err(|source| PackError::Content { path: entry.path.to_owned(), source })?;
                file = Some(opened);
                b'0'
            }
        };
        header.name = name;
        self.header(&header)?;
        self.packed.entries += 1;
        if let Some(file) = file {
            self.content(entry, file, header.size)?;
        }
        Ok(())
    }

    fn header(&mut self, header: &Header) -> Result<(), PackError> {
        let records = header.records();
        if !records.is_empty() {
            let extended = Header {
                name: b"PaxHeaders.0/context".to_vec(),
                kind: b'x',
                mode: 0o644,
                size: records.len() as u64,
                ..Header::default()
            };
            self.write(&extended.block())?;
            self.write(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.write(&header.block())
    }

    fn content(&mut self, entry: &Entry<'_>, mut file: File, size: u64) -> Result<(), PackError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let length = match file.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    buffer[..wanted].fill(0);
                    wanted
                }
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(PackError::Content { path: entry.path.to_owned(), source }),
            };
            self.write(&buffer[..length])?;
            left -= length as u64;
        }
        self.buffer = buffer;
        self.packed.bytes += size;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), PackError> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.write(&[0; BLOCK][..padding])
    }
}

/// What one header says.
#[derive(Default)]
struct Header {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    size: u64,
    modified: i64,
    link: Vec<u8>,
    node: (u32, u32),
    capability: Option<Vec<u8>>,
}

impl Header {
    /// What does not fit is 0 or cut; a record before it says what is right.
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..NAME], &self.name);
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], 0);
        octal(&mut block[116..124], 0);
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], u64::try_from(self.modified).unwrap_or(0));
        block[148..156].fill(b' ');
        block[156] = self.kind;
        text(&mut block[157..257], &self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], self.node.0.into());
        octal(&mut block[337..345], self.node.1.into());
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, NUL, space: the form that every reader knows.
        octal(&mut block[148..155], sum);
        block
    }

    /// The PAX records that the entry needs, in a fixed order.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if self.name.len() > NAME {
            record(&mut records, "path", &self.name);
        }
        if self.link.len() > NAME {
            record(&mut records, "linkpath", &self.link);
        }
        if self.size > MAX_SIZE {
            record(&mut records, "size", self.size.to_string().as_bytes());
        }
        if u64::try_from(self.modified).map_or(true, |seconds| seconds > MAX_SIZE) {
            record(&mut records, "mtime", self.modified.to_string().as_bytes());
        }
        if let Some(capability) = &self.capability {
            record(&mut records, "SCHILY.xattr.security.capability", capability);
        }
        records
    }
}

fn text(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// Octal digits with leading zeros and a NUL at the end; 0 for what does not fit.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let most = (1u64 << (3 * digits)) - 1;
    let value = if value > most { 0 } else { value };
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    field[digits] = 0;
}

/// `length key=value\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
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
        assert_eq!(first.len() % BLOCK, 0);
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
