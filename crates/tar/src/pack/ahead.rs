//! Small files of a private tree are read by several threads before their turn comes, or known already.
//!
//! ```text
//! walk ──▶ batches, in order ──┬─▶ a reader takes one: opens, looks, reads ─▶ files in memory ─┐
//!                              └─▶ nobody took it until its turn ──────────────────────────────┴─▶ archive, in order
//! ```
//!
//! What is in memory already ([`Recent`]) is taken from there. What is written does not depend on who read it. A reader opens nothing but
//! regular files and never keeps one open; what is not small, or has holes or attributes, is left to its turn.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::Scope;

use palan_linux::path::{FileKind, Metadata};

use super::TreeError;
use super::recent::Recent;
use super::{Item, MAX_DEPTH, Packer, Regular, Walk, absolute, failed, has_attributes, is_gone};

/// Names in one batch; fewer are not worth a thread.
const BATCH: usize = 64;
/// Batches that are on their way.
const AHEAD: usize = 6;
/// Files of a batch that are not worth a hand-over.
const FEW: usize = 8;
/// Bytes of a file that is read ahead: with all batches full, these are 7 MiB.
const SMALL: u64 = 16 * 1024;
const MOST_READERS: usize = 3;

/// Writes what the walk has left.
pub(super) fn pack(packer: &mut Packer<'_>, walk: &mut Walk) -> Result<(), TreeError> {
    let recent = packer.recent;
    let first = batch(walk, recent)?;
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_READERS + 1) - 1;
    if readers == 0 || first.len() < BATCH {
        return in_turn(packer, walk, recent, first);
    }
    std::thread::scope(|scope| {
        let jobs = start(scope, readers);
        let mut turns = VecDeque::new();
        let mut next = first;
        loop {
            while !next.is_empty() && turns.len() < AHEAD {
                let turn = if next.iter().filter(|(item, file)| is_unread(item, file.as_ref())).count() < FEW
                {
                    Turn::Read(next)
                } else {
                    let (done, files) = mpsc::sync_channel(1);
                    let job = Arc::new(Mutex::new(Some(Job { files: next, done })));
                    // Without a reader it is still there at its turn.
                    let _ = jobs.send(Arc::clone(&job));
                    Turn::Open { job, files }
                };
                turns.push_back(turn);
                next = batch(walk, recent)?;
            }
            let Some(turn) = turns.pop_front() else { return Ok(()) };
            for (item, file) in turn.files(&mut turns)? {
                packer.item(&item, file)?;
            }
        }
    })
}

type Files = Vec<(Item, Option<Read>)>;

/// A batch, in its order.
enum Turn {
    /// A reader has it, or will.
    Open {
        job: Arc<Mutex<Option<Job>>>,
        files: mpsc::Receiver<Files>,
    },
    Read(Files),
}

impl Turn {
    /// What was read of it. While a reader is busy with it, the next ones that nobody has taken are read here.
    fn files(self, next: &mut VecDeque<Self>) -> Result<Files, TreeError> {
        let (job, files) = match self {
            Self::Read(files) => return Ok(files),
            Self::Open { job, files } => (job, files),
        };
        if let Some(job) = take(&job) {
            return Ok(job.files);
        }
        for turn in next {
            if let Ok(files) = files.try_recv() {
                return Ok(files);
            }
            if let Self::Open { job, .. } = turn
                && let Some(job) = take(job)
            {
                *turn = Self::Read(read_all(job.files));
            }
        }
        files.recv().map_err(|_| TreeError::Write(std::io::Error::other("a thread that reads ended")))
    }
}

fn take(job: &Mutex<Option<Job>>) -> Option<Job> {
    job.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn is_unread(item: &Item, file: Option<&Read>) -> bool {
    file.is_none() && item.kind == FileKind::Regular
}

fn read_all(mut files: Files) -> Files {
    for (item, file) in &mut files {
        if is_unread(item, file.as_ref()) {
            *file = read(item);
        }
    }
    files
}

fn in_turn(
    packer: &mut Packer<'_>,
    walk: &mut Walk,
    recent: Option<&Recent>,
    first: Files,
) -> Result<(), TreeError> {
    let mut next = first;
    while !next.is_empty() {
        for (item, file) in next {
            packer.item(&item, file)?;
        }
        next = batch(walk, recent)?;
    }
    Ok(())
}

/// The next names, directories with what is in them; none at the end.
fn batch(walk: &mut Walk, recent: Option<&Recent>) -> Result<Files, TreeError> {
    let mut files = Vec::new();
    while files.len() < BATCH
        && let Some(item) = walk.next()
    {
        if item.kind == FileKind::Directory {
            if walk.depth() >= MAX_DEPTH {
                return Err(TreeError::Depth { path: absolute(&item.path) });
            }
            let below = item.directory.open_dir(&item.name).map_err(failed("open", &item.path))?;
            walk.enter(below, item.path.clone())?;
        }
        let known =
            recent.filter(|_| item.kind == FileKind::Regular).and_then(|recent| recent.take(item.inode));
        files.push((item, known));
    }
    Ok(files)
}

/// A batch that nobody has taken.
struct Job {
    files: Files,
    done: mpsc::SyncSender<Files>,
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) metadata: Metadata,
    pub(super) content: Regular,
}

type Jobs = mpsc::Sender<Arc<Mutex<Option<Job>>>>;

fn start<'scope>(scope: &'scope Scope<'scope, '_>, readers: usize) -> Jobs {
    let (jobs, queue) = mpsc::channel::<Arc<Mutex<Option<Job>>>>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..readers {
        let queue = Arc::clone(&queue);
        let work = move || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = next else { return };
                if let Some(Job { files, done }) = take(&job) {
                    // Whoever waited for it may have failed.
                    let _ = done.send(read_all(files));
                }
            }
        };
        if std::thread::Builder::new().name("tar-read".into()).spawn_scoped(scope, work).is_err() {
            // Then it is done with those that there are.
            break;
        }
    }
    jobs
}

/// Reads a small regular file. What fails fails again in its turn, and is told then.
fn read(item: &Item) -> Option<Read> {
    let mut file = File::from(item.directory.open(&item.name, super::READING).ok()?);
    let metadata = Metadata::of(&file).ok()?;
    if metadata.size > SMALL || metadata.blocks.saturating_mul(512) < metadata.size {
        return None;
    }
    // They have no bound of their own.
    if has_attributes(&file).ok()? {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(metadata.size).ok()?];
    file.read_exact(&mut bytes).ok()?;
    Some(Read { metadata, content: Regular::Bytes(bytes) })
}

impl Packer<'_> {
    /// Writes what the walk found.
    fn item(&mut self, item: &Item, read: Option<Read>) -> Result<(), TreeError> {
        let Item { directory, name, path, kind, .. } = item;
        if let Some(Read { metadata, content }) = read {
            return self.entry(path, directory, name, &metadata, Some(content));
        }
        if *kind == FileKind::Regular {
            // Opened before it is looked at: that is a look less.
            let Some((file, metadata)) = self.open(path, directory, name)? else { return Ok(()) };
            return self.entry(path, directory, name, &metadata, Some(Regular::File(file)));
        }
        match directory.metadata(name) {
            Err(error) if is_gone(&error) => Ok(()),
            other => self.add(path, directory, name, &other.map_err(failed("inspect", path))?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use palan_linux::path::RootDir;

    use super::super::pack_below;
    use super::*;

    fn packed(root: &std::path::Path, is_private: bool, recent: Option<&Recent>) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut packer = Packer::new(&mut archive);
        if is_private {
            packer.set_private(recent);
        }
        let top = RootDir::open(root).expect("opens").as_directory().try_clone().expect("a handle");
        pack_below(&mut packer, top, None, &|_, _| false).expect("packs");
        packer.finish().expect("ends");
        archive
    }

    #[test]
    fn what_is_read_ahead_is_what_is_read_in_turn() {
        let root = tempfile::tempdir().expect("temporary");
        for directory in 0..20 {
            let path = root.path().join(format!("d{directory}/e"));
            fs::create_dir_all(&path).expect("creates");
            for file in 0..37 {
                fs::write(path.join(file.to_string()), "x".repeat(file * directory)).expect("writes");
            }
            fs::write(path.join("big"), vec![7; 40_000]).expect("writes");
            fs::File::create(path.join("hole")).and_then(|file| file.set_len(10_000)).expect("creates");
            symlink("5", path.join("link")).expect("links");
            fs::hard_link(path.join("6"), path.join("again")).expect("links");
            fs::hard_link(path.join("big"), path.join("0big")).expect("links");
        }
        let one_by_one = packed(root.path(), false, None);
        assert!(one_by_one.len() > 20 * 40_000);
        for _ in 0..10 {
            assert!(packed(root.path(), true, None) == one_by_one, "another archive");
        }
    }

    #[test]
    fn what_is_in_memory_is_not_read() {
        let root = tempfile::tempdir().expect("temporary");
        let recent = Recent::default();
        for number in 0..200 {
            let path = root.path().join(number.to_string());
            fs::write(&path, number.to_string()).expect("writes");
            // Every second one, and what was never written, so that it is seen where it comes from.
            if number % 2 == 0 {
                let metadata = Metadata::of(fs::File::open(&path).expect("opens")).expect("a look");
                recent.keep(metadata, "x".repeat(number.to_string().len()).into());
            }
        }
        let archive = packed(root.path(), true, Some(&recent));
        let shown = |number: usize| {
            let name = format!("{number}\0");
            let at = archive.chunks(512).position(|block| block.starts_with(name.as_bytes())).expect("there");
            String::from_utf8_lossy(&archive[(at + 1) * 512..][..number.to_string().len()]).into_owned()
        };
        assert_eq!(
            (shown(42), shown(43), shown(198), shown(199)),
            ("xx".into(), "43".into(), "xxx".into(), "199".into())
        );

        let recent = Recent::default();
        let look = |name: &str| {
            Metadata::of(fs::File::open(root.path().join(name)).expect("opens")).expect("a look")
        };
        recent.keep(look("7"), vec![b'x']);
        recent.close();
        recent.keep(look("8"), vec![b'x']);
        fs::hard_link(root.path().join("9"), root.path().join("nine")).expect("links");
        let several = Recent::default();
        several.keep(look("9"), vec![b'x']);
        several.keep(look("10"), vec![b'x']);
        let in_turn = packed(root.path(), true, None);
        assert!(packed(root.path(), true, Some(&recent)) == in_turn, "all is forgotten");
        assert!(packed(root.path(), true, Some(&several)) == in_turn, "several names, and another length");
    }

    #[test]
    fn a_failure_ends_it() {
        let root = tempfile::tempdir().expect("temporary");
        for file in 0..1000 {
            fs::write(root.path().join(format!("{file}")), "content").expect("writes");
        }
        struct Full(usize);
        impl std::io::Write for Full {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut full = Full(300_000);
        let mut packer = Packer::new(&mut full);
        packer.set_private(None);
        let top = RootDir::open(root.path()).expect("opens").as_directory().try_clone().expect("a handle");
        let failed = pack_below(&mut packer, top, None, &|_, _| false).expect_err("is full");
        assert!(
            matches!(&failed, TreeError::Write(error) if error.kind() == std::io::ErrorKind::StorageFull)
        );
    }
}
