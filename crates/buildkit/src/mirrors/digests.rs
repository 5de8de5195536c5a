//! What is known of the content of a mirror's files, so that only what has changed is read again.
//!
//! A file beside the mirror, which is read when a build asks, and written when that build ends:
//!
//! ```text
//! "palan digests 1\n"
//! of the mirror: device, inode
//! of each file: inode, size, seconds and nanoseconds of its time (little endian), digest of its content
//! ```
//!
//! **Invariant:** an entry is of the file that has the inode. A mirror is the daemon's alone, and its files are never written again once they
//! are whole, so an entry could only become wrong by a new file that gets the number of one that is gone: of each file that is made, the entry is
//! forgotten ([`Changes::made`]) before anybody may ask for it. The change time says nothing: a link to a file changes it, too. Size and time are
//! compared all the same: what somebody did there by hand is mostly noticed.
//!
//! **Invariant:** what is on disk is true whenever the daemon is killed. It is removed before the first file is made ([`Changes::begin`]), and
//! written whole, under another name at first, when nobody makes any. A copy of the mirror has other inodes, and its own.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palan_linux::path::{Metadata, Time};
use palan_oci::Digest;

/// What ends the file's name, after that of the mirror.
pub(super) const SUFFIX: &str = ".digests";

/// What the file begins with.
const MAGIC: &[u8] = b"palan digests 1\n";

/// How long one entry is.
const ENTRY: usize = 8 + 8 + 8 + 4 + 32;

/// The longest file: more than the entries of the largest transfer.
const MAX_FILE: u64 = 1 << 28;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    size: u64,
    modified: Time,
    digest: Digest,
}

/// What is known of the files of one mirror.
#[derive(Debug)]
pub struct Digests {
    mirror: PathBuf,
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By inode. None: it is on disk, if anywhere.
    known: Option<HashMap<u64, Known>>,
    /// The file may be there.
    is_there: bool,
    /// It does not say everything.
    is_behind: bool,
    /// Files are being made.
    is_changing: bool,
}

impl State {
    fn known(&mut self, of: &Digests) -> &mut HashMap<u64, Known> {
        self.known.get_or_insert_with(|| of.read().unwrap_or_default())
    }

    /// Takes everything into memory alone.
    fn take(&mut self, of: &Digests) -> io::Result<()> {
        if self.is_there {
            self.known(of);
            match std::fs::remove_file(&of.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            (self.is_there, self.is_behind) = (false, true);
        }
        Ok(())
    }
}

impl Digests {
    /// What was known of a mirror.
    pub(super) fn new(mirror: PathBuf) -> Self {
        Self::with(mirror, None)
    }

    /// The same, for a mirror that has links to the files of this one.
    pub(super) fn copy(&self, mirror: PathBuf) -> Self {
        let known = self.state().known(self).clone();
        Self::with(mirror, Some(known))
    }

    fn with(mirror: PathBuf, known: Option<HashMap<u64, Known>>) -> Self {
        let mut file = mirror.as_os_str().to_owned();
        file.push(SUFFIX);
        let is_behind = known.is_some();
        let state = State { known, is_there: true, is_behind, is_changing: false };
        Self { mirror, file: file.into(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a file's content, if it is known.
    pub fn get(&self, file: &Metadata) -> Option<Digest> {
        let mut state = self.state();
        let known = state.known(self).get(&file.inode)?;
        ((known.size, known.modified) == (file.size, file.modified)).then_some(known.digest)
    }

    /// Keeps it. The file is whole.
    pub fn put(&self, file: &Metadata, digest: Digest) {
        let mut state = self.state();
        let known = Known { size: file.size, modified: file.modified, digest };
        state.known(self).insert(file.inode, known);
        state.is_behind = true;
    }

    /// Writes down what is only known here, and keeps nothing in memory.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        if state.is_changing {
            return;
        }
        let known = state.known.take();
        if let Some(known) = known.filter(|_| state.is_behind) {
            if let Err(error) = self.write(&known) {
                // Then it is the file before this one, or none; both are true.
                tracing::warn!(%error, "what is known of a directory that a client has sent is not kept");
            }
            (state.is_there, state.is_behind) = (true, false);
        }
    }

    /// Removes the file, after the mirror.
    pub(super) fn remove(&self) -> io::Result<()> {
        let mut state = self.state();
        // Not what it says.
        state.known = Some(HashMap::new());
        state.take(self)?;
        (state.known, state.is_behind) = (None, false);
        Ok(())
    }

    /// What the file begins with, as long as the mirror is where it was.
    fn head(&self) -> io::Result<Vec<u8>> {
        let mirror = std::fs::metadata(&self.mirror)?;
        Ok([MAGIC, &mirror.dev().to_le_bytes(), &mirror.ino().to_le_bytes()].concat())
    }

    /// Nothing where it is not what was written.
    fn read(&self) -> Option<HashMap<u64, Known>> {
        let mut bytes = Vec::new();
        File::open(&self.file).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        parse(bytes.strip_prefix(&self.head().ok()?[..])?)
    }

    fn write(&self, known: &HashMap<u64, Known>) -> io::Result<()> {
        let new = self.file.with_extension("new");
        let mut writer = BufWriter::new(File::create(&new)?);
        writer.write_all(&self.head()?)?;
        for (inode, known) in known {
            writer.write_all(&inode.to_le_bytes())?;
            writer.write_all(&known.size.to_le_bytes())?;
            writer.write_all(&known.modified.seconds.to_le_bytes())?;
            writer.write_all(&known.modified.nanoseconds.to_le_bytes())?;
            writer.write_all(known.digest.as_bytes())?;
        }
        writer.into_inner()?;
        std::fs::rename(&new, &self.file)
    }
}

/// A transfer that may change files of the mirror. Only one is under way at a time.
#[derive(Debug)]
pub(crate) struct Changes {
    digests: Arc<Digests>,
    is_done: bool,
}

impl Changes {
    pub(super) fn new(digests: Arc<Digests>) -> Self {
        Self { digests, is_done: false }
    }

    /// A file is about to be made.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut state = self.digests.state();
        state.is_changing = true;
        state.take(&self.digests)
    }

    /// It was made: what is known of its number was said of another file.
    pub(crate) fn made(&self, inode: u64) {
        self.digests.state().known(&self.digests).remove(&inode);
    }

    /// All files that there are now.
    pub(crate) fn end(&mut self, inodes: &HashSet<u64>) {
        self.is_done = true;
        let mut state = self.digests.state();
        if state.is_changing {
            state.known(&self.digests).retain(|inode, _| inodes.contains(inode));
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let has_begun = std::mem::take(&mut self.digests.state().is_changing);
        if has_begun && !self.is_done {
            // No build will.
            self.digests.settle();
        }
    }
}

/// What the entries of a file say.
fn parse(bytes: &[u8]) -> Option<HashMap<u64, Known>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY>();
    let entry = |entry: &[u8; ENTRY]| {
        let (inode, rest) = entry.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanoseconds, rest) = rest.split_first_chunk()?;
        let modified =
            Time { seconds: i64::from_le_bytes(*seconds), nanoseconds: u32::from_le_bytes(*nanoseconds) };
        let digest = Digest::from_bytes(rest.try_into().ok()?);
        Some((u64::from_le_bytes(*inode), Known { size: u64::from_le_bytes(*size), modified, digest }))
    };
    if rest.is_empty() { entries.iter().map(entry).collect() } else { None }
}

#[cfg(test)]
mod tests;
