//! The files of a log: the current one, rotated ones `.1`, `.2` …, and those of them that were compressed, `.1.gz` ….
//!
//! Who follows a log knows the file that he is at by a number: its inode, which another file may have afterwards, and the time of its
//! making. A compressed file is another one, so it says in its header which it was, and goes by that number.
//!
//! **Invariant:** the supervisor gives files other numbers, the daemon compresses; both do so with a lock on the directory (flock(2)), so
//! that a number means the same file throughout. The supervisor never waits for it: it rotates with a later line.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder, read::GzDecoder};
use palan_stdx::fs::{self, PathError};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, StatxFlags};

/// Rotated files looked for.
const MOST_FILES: u32 = 1000;
/// What stands before the identity in the header of a compressed file.
const WAS: &str = "was ";

/// One file.
#[derive(Debug)]
pub(crate) struct LogFile {
    /// The number that it is known by.
    pub(crate) identity: u64,
    /// What earlier versions knew it by.
    pub(crate) inode: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Lines(File),
    /// With the directory where there is room for the lines.
    Compressed(File, PathBuf),
}

impl LogFile {
    /// A file with the lines. A compressed one is decompressed with the first call.
    pub(crate) fn lines(&mut self) -> io::Result<&File> {
        if let Content::Compressed(file, directory) = &self.content {
            let mut lines = nameless_file(directory)?;
            let mut file = file;
            file.seek(SeekFrom::Start(0))?;
            io::copy(&mut MultiGzDecoder::new(io::BufReader::new(file)), &mut lines)?;
            self.content = Content::Lines(lines);
        }
        match &self.content {
            Content::Lines(file) => Ok(file),
            Content::Compressed(..) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The same, for whoever keeps it.
    pub(crate) fn into_lines(mut self) -> io::Result<File> {
        self.lines()?.try_clone()
    }
}

/// The number that a file is known by.
pub(crate) fn identity(file: impl AsFd) -> io::Result<u64> {
    Ok(identity_and_permanence(file)?.0)
}

/// The same, and whether no later file gets it. One that is its inode alone must not be kept for a file that has gone.
fn identity_and_permanence(file: impl AsFd) -> io::Result<(u64, bool)> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    // Where a file system does not tell when it made a file, both are zero.
    let made = found.stx_btime.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000);
    let made = made.wrapping_add(found.stx_btime.tv_nsec.into());
    let told = StatxFlags::from_bits_retain(found.stx_mask);
    let identity = found.stx_ino ^ made.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Ok((identity, told.contains(StatxFlags::BTIME)))
}

/// A file that is gone with its descriptor.
fn nameless_file(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(rustix::fs::CWD, directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Not every file system has them.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            Ok(rustix::fs::memfd_create("palan-log", rustix::fs::MemfdFlags::CLOEXEC)?.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a file, or what it was compressed to.
fn open(path: PathBuf) -> Result<Option<LogFile>, PathError> {
    let failed = |path: &Path, source| PathError::new("read", path, source);
    if let Some(file) = fs::if_exists(fs::open(&path))? {
        let inode = file.metadata().map_err(|source| failed(&path, source))?.ino();
        let identity = identity(&file).map_err(|source| failed(&path, source))?;
        return Ok(Some(LogFile { identity, inode, content: Content::Lines(file) }));
    }
    let path = compressed_path(&path);
    let Some(file) = fs::if_exists(fs::open(&path))? else { return Ok(None) };
    let inode = file.metadata().map_err(|source| failed(&path, source))?.ino();
    let header = GzDecoder::new(&file);
    let comment = header.header().and_then(|header| std::str::from_utf8(header.comment()?).ok());
    let was = comment.and_then(|comment| comment.strip_prefix(WAS)?.parse().ok());
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    let own = identity(&file).map_err(|source| failed(&path, source))?;
    Ok(Some(LogFile { identity: was.unwrap_or(own), inode, content: Content::Compressed(file, directory) }))
}

/// The files of a log, oldest first; none once the container is gone.
///
/// A rotation meanwhile hides none but the newest: it moves file by file to the next number, the highest first, and what is
/// ahead of this look, which goes the same way, stays ahead of it. At any time one number in between is vacant.
pub(crate) fn files(path: &Path) -> Result<Vec<LogFile>, PathError> {
    let mut found: Vec<LogFile> = Vec::new();
    let mut is_vacant = false;
    for number in 0..MOST_FILES {
        let name = if number == 0 { path.to_owned() } else { rotated_path(path, number) };
        let Some(file) = open(name)? else {
            if is_vacant {
                break;
            }
            is_vacant = true;
            continue;
        };
        is_vacant = false;
        // Met again, it was moved in between: the later number is the true one.
        found.retain(|other| other.identity != file.identity);
        found.push(file);
    }
    found.reverse();
    Ok(found)
}

/// The files after the one with this identity; all, if that was rotated away, which two looks must agree on.
pub(crate) fn files_after(path: &Path, identity: u64) -> Result<Vec<LogFile>, PathError> {
    /// A log that rotates faster is not caught up with.
    const LOOKS: usize = 10;
    let mut found = files(path)?;
    for _ in 1..LOOKS {
        if let Some(own) = found.iter().position(|other| other.identity == identity) {
            return Ok(found.split_off(own + 1));
        }
        let again = files(path)?;
        let is_settled = found.iter().map(|file| file.identity).eq(again.iter().map(|file| file.identity));
        found = again;
        if is_settled {
            break;
        }
    }
    // Without a current file it is the container that goes, file by file: what is left is older.
    let is_whole = fs::if_exists(fs::metadata(path))?.is_some();
    Ok(if is_whole { found } else { Vec::new() })
}

pub(crate) fn rotated_path(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn compressed_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Compresses the rotated files that are not.
pub(crate) fn compress(path: &Path) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut number = 1;
    while number < MOST_FILES {
        let plain = rotated_path(path, number);
        match File::open(&plain) {
            Ok(file) => {
                let (identity, is_permanent) = identity_and_permanence(&file)?;
                let written = write_compressed(&file, is_permanent.then_some(identity), &part);
                if let Err(error) = written.and_then(|()| put(path, identity, &part)) {
                    // Mostly the disk is full, which half a file would make worse. That it can't be removed says nothing new.
                    let _ = std::fs::remove_file(&part);
                    return Err(error);
                }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // One number may be vacant while files move on.
            Err(_) if number > 1 && fs::metadata(&compressed_path(&plain)).is_err() => break,
            Err(_) => {}
        }
        number += 1;
    }
    Ok(())
}

/// Compresses a file that goes by its number afterwards if there is one.
fn write_compressed(mut file: &File, identity: Option<u64>, part: &Path) -> io::Result<()> {
    // What a killed daemon left is written over.
    let target = File::options().write(true).create(true).truncate(true).open(part)?;
    target.set_permissions(file.metadata()?.permissions())?;
    let builder = match identity {
        Some(identity) => GzBuilder::new().comment(format!("{WAS}{identity}")),
        None => GzBuilder::new(),
    };
    let mut encoder = builder.write(io::BufWriter::new(target), Compression::default());
    io::copy(&mut file, &mut encoder)?;
    let target = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    // The lines themselves may have been on the disk for long.
    target.sync_data()
}

/// Gives the compressed file the place of the one with this identity, if that has one still.
fn put(path: &Path, was: u64, part: &Path) -> io::Result<()> {
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
    let plain = (1..MOST_FILES).map(|number| rotated_path(path, number));
    let is_it = |plain: &PathBuf| File::open(plain).and_then(identity).is_ok_and(|found| found == was);
    let mut plain = plain.filter(is_it);
    match plain.next() {
        Some(plain) => {
            std::fs::rename(part, compressed_path(&plain))?;
            // Killed here, both are there: the lines win.
            std::fs::remove_file(plain)
        }
        None => std::fs::remove_file(part),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn texts(path: &Path) -> Vec<String> {
        let read = |file: LogFile| {
            let mut text = String::new();
            let mut file = file.into_lines().expect("lines");
            file.seek(SeekFrom::Start(0)).expect("the start");
            file.read_to_string(&mut text).expect("text");
            text
        };
        files(path).expect("readable").into_iter().map(read).collect()
    }

    #[test]
    fn what_is_compressed_is_the_same_file() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        std::fs::write(&path, "c").expect("written");
        std::fs::write(rotated_path(&path, 1), "b").expect("written");
        std::fs::write(rotated_path(&path, 2), "a".repeat(100_000)).expect("written");
        let inodes = || files(&path).expect("readable").iter().map(|file| file.identity).collect::<Vec<_>>();
        let before = (inodes(), texts(&path));
        compress(&path).expect("compressed");
        let names = || {
            let entries = std::fs::read_dir(directory.path()).expect("readable").flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["log", "log.1.gz", "log.2.gz"]);
        assert_eq!((inodes(), texts(&path)), before);
        let after = files_after(&path, before.0[0]).expect("readable");
        assert_eq!(after.iter().map(|file| file.identity).collect::<Vec<_>>(), before.0[1..]);
        // Killed between the two steps, and while writing.
        std::fs::write(rotated_path(&path, 1), "b").expect("written");
        std::fs::write(directory.path().join("log.part"), "half").expect("written");
        assert_eq!(texts(&path), before.1);
        compress(&path).expect("compressed");
        assert_eq!(names(), ["log", "log.1.gz", "log.2.gz"]);
        assert_eq!(texts(&path), before.1);
    }

    #[test]
    fn a_file_that_was_rotated_meanwhile_keeps_its_place() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        let name = |number| rotated_path(&path, number);
        std::fs::write(&path, "current").expect("written");
        std::fs::write(name(1), "one").expect("written");
        let file = File::open(name(1)).expect("there");
        let identity = identity(&file).expect("there");
        let part = directory.path().join("log.part");
        write_compressed(&file, Some(identity), &part).expect("written");
        std::fs::rename(name(1), name(2)).expect("moved");
        std::fs::write(name(1), "newer").expect("written");
        put(&path, identity, &part).expect("put");
        assert_eq!(texts(&path), ["one", "newer", "current"]);
        // One that is gone comes back under no name.
        write_compressed(&file, Some(identity), &part).expect("written");
        put(&path, identity, &part).expect("put");
        assert!(!part.exists());
        assert_eq!(texts(&path), ["one", "newer", "current"]);
    }
    #[test]
    fn a_number_that_another_file_may_get_is_not_kept() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        std::fs::write(&path, "current").expect("written");
        std::fs::write(rotated_path(&path, 1), "one").expect("written");
        let current = identity(File::open(&path).expect("there")).expect("there");
        let file = File::open(rotated_path(&path, 1)).expect("there");
        // As if the current file had got the inode of the one that was compressed.
        let compressed = compressed_path(&rotated_path(&path, 1));
        write_compressed(&file, Some(current), &compressed).expect("written");
        std::fs::remove_file(rotated_path(&path, 1)).expect("removed");
        assert_eq!(texts(&path), ["one"]);
        let mut file = file;
        file.seek(SeekFrom::Start(0)).expect("the start");
        write_compressed(&file, None, &compressed).expect("written");
        assert_eq!(texts(&path), ["one", "current"]);
    }

    #[test]
    fn what_could_not_be_put_in_place_is_not_left() {
        let directory = tempfile::tempdir().expect("temporary");
        let path = directory.path().join("log");
        std::fs::write(&path, "current").expect("written");
        std::fs::write(rotated_path(&path, 1), "one").expect("written");
        // A directory is in the way.
        std::fs::create_dir(compressed_path(&rotated_path(&path, 1))).expect("made");
        compress(&path).expect_err("a directory");
        assert!(!directory.path().join("log.part").exists());
        assert!(rotated_path(&path, 1).exists());
    }
}
