//! The receiving side: a directory becomes what the sender has, or what the sender has is put into it.
//!
//! A thread writes; it holds one frame for each open directory on the way to the current entry:
//!
//! ```text
//! STAT d/   ─▶ frame d: its handle, what was in it and was not told yet
//! STAT d/x  ─▶ x is compared, and made anew if it differs; of files the content is asked for
//! STAT e    ─▶ frame d is closed: what nobody told of is removed (mirror)
//! the end   ─▶ the last files come in; then modes and times of directories, the deepest first
//! ```
//!
//! **What a hostile sender can do:** fill the disk. A path must be a plain name in the directory that was told before, in order,
//! so `..`, absolute paths and ways through symlinks are errors; each name is used in an open directory without following it; hard
//! links lead to regular files of the same transfer only; devices are refused where nobody asked for them. How many files there are,
//! how long their paths are together and how many are open are limited; of what else is told of a file nothing is kept.
//!
//! **Crash:** a file gets its time last, so what a broken transfer leaves is sent again by the next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use palan_linux::path::{Directory, FileKind, Metadata, RootDir, Time};
use rustix::fs::{OFlags, Timespec, Timestamps};
use tokio::sync::mpsc;

use super::{from_go, on_thread};
use crate::grpc::{Batch, Code, Incoming, Outgoing, Status};
use crate::message::session::{Packet, Stat, packet};
use crate::mirrors::digests::Changes;

/// The most files of a transfer.
const MAX_FILES: usize = 1 << 22;

/// How deep directories may be nested. Each one holds a descriptor.
const MAX_DEPTH: usize = 256;

/// The longest target of a symlink (`PATH_MAX`).
const MAX_LINK: usize = 4095;

/// How long all paths of a transfer are together: they are kept until its end.
const MAX_PATHS: usize = 256 << 20;

/// Files that are open at a time. A sender that sends more of them at once only makes them be opened again.
const MAX_OPEN: usize = 256;

/// Packets on their way to the thread that writes, in groups that came together.
const QUEUE: usize = 8;

/// Answers that are sent together.
const ANSWERS: usize = 256;

/// Told how many bytes have come, now and then.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Who owns what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whom the sender says.
    Kept,
    /// Whoever the process is.
    Mine,
}

/// What becomes of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are an error.
    Refused,
    /// They are made, if the process may.
    Made,
}

/// How a directory is received.
#[derive(Clone)]
pub struct Receive {
    /// What the sender does not have is removed, and what is the same is not sent.
    pub mirror: bool,
    /// Who owns the files.
    pub owners: Owners,
    /// What becomes of devices.
    pub devices: Devices,
    /// Who wants to know.
    pub progress: Option<Progress>,
}

impl std::fmt::Debug for Receive {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Receive").field("mirror", &self.mirror).finish_non_exhaustive()
    }
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Files, directories and links that the sender has.
    pub entries: usize,
    /// Files whose content was sent.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Something of the directory is different now.
    pub is_changed: bool,
}

impl Receive {
    /// Receives over a call.
    pub async fn run(
        self,
        root: RootDir,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> Result<Received, Status> {
        self.run_holding(root, incoming, outgoing, None, ()).await
    }

    /// The same. Nobody writes any more once `held` is dropped: when this future is, the thread that writes goes on for a moment.
    pub(crate) async fn run_holding(
        self,
        root: RootDir,
        mut incoming: Incoming,
        outgoing: Outgoing,
        changes: Option<Changes>,
        held: impl Send + 'static,
    ) -> Result<Received, Status> {
        let (packets_in, packets) = mpsc::channel(QUEUE);
        // Without a bound: a sender may stop taking requests until its files are taken. There are no more than files.
        let (answers, mut answers_out) = mpsc::unbounded_channel::<Packet>();
        let writing = on_thread("build-receive", move || {
            let written = self.write(root, packets, changes, &answers);
            drop(held);
            written
        });
        let reading = async move {
            loop {
                tokio::select! {
                    // The writer has what it wants, or has failed.
                    () = packets_in.closed() => return Ok(()),
                    packet = incoming.next::<Packet>() => match packet {
                        Ok(Some(packet)) => {
                            let mut group = vec![packet];
                            while let Some(packet) = incoming.ready()? {
                                group.push(packet);
                            }
                            drop(packets_in.send(group).await);
                        }
                        Ok(None) => return Ok(()),
                        Err(status) => return Err(status),
                    }
                }
            }
        };
        let answering = async move {
            let (mut group, mut batch) = (Vec::new(), Batch::default());
            while answers_out.recv_many(&mut group, ANSWERS).await > 0 {
                group.drain(..).for_each(|packet| batch.push(&packet));
                if outgoing.send_batch(&mut batch).await.is_err() {
                    break;
                }
            }
        };
        let (read, (), written) = tokio::join!(reading, answering, writing);
        // Why the sender ended says more than that it did.
        read.and(written)
    }

    /// What a sender that sends these packets, and then goes, brings about.
    #[cfg(feature = "fuzz")]
    pub fn replay(self, root: RootDir, packets: Vec<Packet>) -> Result<Received, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let _ = sender.try_send(packets);
        drop(sender);
        let (answers, _kept) = mpsc::unbounded_channel();
        self.write(root, receiver, None, &answers)
    }

    fn write(
        self,
        root: RootDir,
        mut packets: mpsc::Receiver<Vec<Packet>>,
        changes: Option<Changes>,
        answers: &mpsc::UnboundedSender<Packet>,
    ) -> Result<Received, Status> {
        let written = Writer::new(root, self, changes, answers).and_then(|writer| writer.run(&mut packets));
        if let Err(status) = &written {
            let data = Bytes::from(status.to_string());
            let _ = answers.send(Packet { kind: packet::ERR, data, ..Packet::default() });
        }
        written
    }
}

struct Writer<'a> {
    options: Receive,
    root: RootDir,
    answers: &'a mpsc::UnboundedSender<Packet>,
    stack: Vec<Frame>,
    /// Regular files of this transfer: what hard links may lead to.
    regular: HashSet<Bytes>,
    /// What is known of the content of files, and the inodes of those that there are.
    changes: Option<Changes>,
    inodes: HashSet<u64>,
    /// Files that were asked for.
    pending: HashMap<u32, Pending>,
    /// Those of them that are open, the first opened first. Some may be whole by now.
    open: VecDeque<u32>,
    /// How long all paths are.
    paths: usize,
    /// Whose modes and times come last.
    directories: Vec<Stat>,
    next_id: u32,
    received: Received,
    progress_told: u64,
}

/// A directory on the way down.
struct Frame {
    directory: Directory,
    path: Vec<u8>,
    /// The last name that was told of.
    last: OsString,
    /// What was in it and was not told of yet (mirror).
    unknown: HashSet<OsString>,
}

/// A file whose content comes.
struct Pending {
    stat: Stat,
    file: Option<File>,
}

fn invalid(path: &[u8], what: &str) -> Status {
    Status::new(Code::InvalidArgument, format!("{:?}: {what}", String::from_utf8_lossy(path)))
}

/// A failed operation.
fn failed(path: &[u8], error: &io::Error) -> Status {
    Status::new(Code::Unknown, format!("cannot write {:?}: {error}", String::from_utf8_lossy(path)))
}

impl<'a> Writer<'a> {
    fn new(
        root: RootDir,
        options: Receive,
        changes: Option<Changes>,
        answers: &'a mpsc::UnboundedSender<Packet>,
    ) -> Result<Self, Status> {
        let top = root.as_directory().try_clone().map_err(|error| failed(b".", &error))?;
        let top = Frame::new(top, Vec::new(), options.mirror).map_err(|error| failed(b".", &error))?;
        Ok(Self {
            options,
            root,
            answers,
            stack: vec![top],
            regular: HashSet::new(),
            changes,
            inodes: HashSet::new(),
            pending: HashMap::new(),
            open: VecDeque::new(),
            paths: 0,
            directories: Vec::new(),
            next_id: 0,
            received: Received::default(),
            progress_told: 0,
        })
    }

    fn run(mut self, packets: &mut mpsc::Receiver<Vec<Packet>>) -> Result<Received, Status> {
        let mut group = Vec::new().into_iter();
        let mut is_all_told = false;
        let mut is_done = false;
        loop {
            if is_all_told && self.pending.is_empty() && !is_done {
                self.finish_directories()?;
                if let Some(changes) = &mut self.changes {
                    changes.end(&self.inodes);
                }
                let _ = self.answers.send(Packet { kind: packet::FIN, ..Packet::default() });
                is_done = true;
            }
            let next = group.next().or_else(|| {
                group = packets.blocking_recv()?.into_iter();
                group.next()
            });
            let Some(packet) = next else {
                // After our FIN a sender may as well end the call.
                let error = "the sender has ended the transfer before it was complete";
                return if is_done { Ok(self.received) } else { Err(Status::new(Code::Cancelled, error)) };
            };
            match (packet.kind, packet.stat) {
                (packet::STAT, Some(stat)) if !is_all_told => self.entry(stat)?,
                (packet::STAT, None) if !is_all_told => {
                    self.close_to(0)?;
                    if let Some(top) = self.stack.first_mut() {
                        self.received.is_changed |= top.remove_unknown()?;
                    }
                    is_all_told = true;
                }
                (packet::STAT, _) => return Err(invalid(b"", "a file after the last one")),
                (packet::DATA, _) => self.data(packet.id, &packet.data)?,
                (packet::FIN, _) if is_done => return Ok(self.received),
                (packet::ERR, _) => {
                    let text = String::from_utf8_lossy(&packet.data);
                    return Err(Status::new(Code::Unknown, format!("error from sender: {text}")));
                }
                _ => return Err(invalid(b"", "an unexpected packet")),
            }
        }
    }

    /// Something that the sender has.
    fn entry(&mut self, told: Stat) -> Result<(), Status> {
        let stat = kept(&told);
        let id = self.next_id;
        self.next_id += 1;
        self.received.entries += 1;
        if self.received.entries > MAX_FILES {
            return Err(invalid(&stat.path, &format!("more than {MAX_FILES} files")));
        }
        self.paths += stat.path.len();
        if self.paths > MAX_PATHS {
            return Err(invalid(&stat.path, "the paths of all files are too long"));
        }
        let name = self.place(&stat.path)?;
        let (kind, mode) = from_go(stat.mode);
        let frame = &self.stack[self.stack.len() - 1];
        let there = frame.directory.metadata_if_exists(&name).map_err(|error| failed(&stat.path, &error))?;
        let is_link = kind == FileKind::Regular && !stat.linkname.is_empty();
        if is_link {
            self.received.is_changed = true;
            return self.hard_link(&stat, &name, there.as_ref());
        }
        if kind == FileKind::Regular {
            self.regular.insert(stat.path.clone());
        }
        let can_keep = self.options.mirror || kind == FileKind::Directory;
        let same = there.as_ref().filter(|there| can_keep && self.is_same(there, kind, mode, &stat, &name));
        if let Some(there) = same.filter(|_| kind != FileKind::Directory) {
            self.note(kind, there.inode);
            return Ok(());
        }
        self.received.is_changed |= same.is_none();
        let made = self.make(&stat, &name, kind, mode, there.as_ref(), same.is_some());
        let inode = made.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => invalid(&stat.path, &error.to_string()),
            _ => failed(&stat.path, &error),
        })?;
        match kind {
            FileKind::Directory => self.enter(stat, &name),
            FileKind::Regular => {
                self.note(kind, inode);
                let _ = self.answers.send(Packet { kind: packet::REQ, id, ..Packet::default() });
                self.pending.insert(id, Pending { stat, file: None });
                self.received.files += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A file that there is.
    fn note(&mut self, kind: FileKind, inode: u64) {
        if self.changes.is_some() && kind == FileKind::Regular {
            self.inodes.insert(inode);
        }
    }

    /// Checks a path, closes the directories that it is not in, and gives its name in the one that it is in.
    fn place(&mut self, path: &[u8]) -> Result<OsString, Status> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        if path.starts_with(b"/")
            || matches!(name, b"" | b"." | b"..")
            || name.contains(&0)
            || name.len() > 255
        {
            return Err(invalid(path, "no path of a file in the directory"));
        }
        let level = self.stack.iter().rposition(|frame| frame.path == parent);
        let Some(level) = level else {
            return Err(invalid(path, "its directory was not told of before it"));
        };
        self.close_to(level)?;
        let name = OsString::from_vec(name.to_vec());
        let frame = &mut self.stack[level];
        if name <= frame.last {
            return Err(invalid(path, "out of order"));
        }
        frame.last.clone_from(&name);
        frame.unknown.remove(&name);
        Ok(name)
    }

    fn close_to(&mut self, level: usize) -> Result<(), Status> {
        while self.stack.len() > level + 1 {
            if let Some(mut frame) = self.stack.pop() {
                self.received.is_changed |= frame.remove_unknown()?;
            }
        }
        Ok(())
    }

    fn is_same(&self, there: &Metadata, kind: FileKind, mode: u32, stat: &Stat, name: &OsStr) -> bool {
        let owners = self.options.owners == Owners::Mine || (there.uid, there.gid) == (stat.uid, stat.gid);
        let directory = &self.stack[self.stack.len() - 1].directory;
        there.kind == kind
            && match kind {
                // What it has besides is set at the end.
                FileKind::Directory => true,
                FileKind::Regular => {
                    owners
                        && there.mode == mode
                        && i64::try_from(there.size).is_ok_and(|size| size == stat.size)
                        && there.modified == time(stat.mod_time)
                }
                FileKind::Symlink => {
                    owners
                        && directory
                            .read_link(name)
                            .is_ok_and(|target| target.as_os_str().as_bytes() == stat.linkname)
                }
                _ => owners && there.mode == mode && Some(there.node) == node(stat),
            }
    }

    /// The inode, if it is a file that was made.
    fn make(
        &self,
        stat: &Stat,
        name: &OsStr,
        kind: FileKind,
        mode: u32,
        there: Option<&Metadata>,
        is_same: bool,
    ) -> io::Result<u64> {
        if is_same {
            return Ok(0);
        }
        let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
        let directory = &self.stack[self.stack.len() - 1].directory;
        let is_device = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
        match kind {
            _ if is_device && self.options.devices == Devices::Refused => {
                return refuse("a device, which no build context can have");
            }
            FileKind::Symlink if stat.linkname.is_empty() || stat.linkname.len() > MAX_LINK => {
                return refuse("a symlink without a possible target");
            }
            FileKind::Unknown | FileKind::Socket => return refuse("a file of an unknown kind"),
            _ => {}
        }
        if there.is_some() {
            directory.remove_all(name)?;
        }
        match kind {
            FileKind::Directory => return directory.create_dir(name, 0o700).map(|()| 0),
            FileKind::Regular => {
                let Some(changes) = &self.changes else {
                    return directory.create_file(name, 0o600).map(|_| 0);
                };
                changes.begin()?;
                let inode = Metadata::of(directory.create_file(name, 0o600)?)?.inode;
                changes.made(inode);
                return Ok(inode);
            }
            FileKind::Symlink => directory.create_symlink(name, OsStr::from_bytes(&stat.linkname))?,
            _ => {
                let Some(node) = node(stat) else { return refuse("a device with an impossible number") };
                directory.create_node(name, kind, 0o600, node)?;
            }
        }
        self.set_owner(directory, name, stat)?;
        if kind != FileKind::Symlink {
            directory.set_mode(name, mode)?;
        }
        directory.set_times(name, time(stat.mod_time), time(stat.mod_time))?;
        Ok(0)
    }

    fn set_owner(&self, directory: &Directory, name: &OsStr, stat: &Stat) -> io::Result<()> {
        match self.options.owners {
            Owners::Kept => directory.set_owner(name, stat.uid, stat.gid),
            Owners::Mine => Ok(()),
        }
    }

    fn enter(&mut self, stat: Stat, name: &OsStr) -> Result<(), Status> {
        if self.stack.len() > MAX_DEPTH {
            return Err(invalid(&stat.path, &format!("more than {MAX_DEPTH} directories in each other")));
        }
        let opened = self.stack[self.stack.len() - 1]
            .directory
            .open_dir(name)
            .and_then(|directory| Frame::new(directory, stat.path.to_vec(), self.options.mirror));
        self.stack.push(opened.map_err(|error| failed(&stat.path, &error))?);
        self.directories.push(stat);
        Ok(())
    }

    /// Another name of a file that came before.
    fn hard_link(&self, stat: &Stat, name: &OsStr, there: Option<&Metadata>) -> Result<(), Status> {
        if !self.regular.contains(&stat.linkname) {
            return Err(invalid(&stat.path, "a hard link to what is no file of the same transfer"));
        }
        let link = || {
            let target = Path::new(OsStr::from_bytes(&stat.linkname));
            let (source, source_name) = self.root.parent_of(target)?;
            let target = source.metadata(&source_name)?;
            let directory = &self.stack[self.stack.len() - 1].directory;
            match there {
                Some(there) if (there.device, there.inode) == (target.device, target.inode) => return Ok(()),
                Some(_) => directory.remove_all(name)?,
                None => {}
            }
            directory.create_hard_link(name, &source, &source_name)
        };
        link().map_err(|error: io::Error| failed(&stat.path, &error))
    }

    /// Content of a file that was asked for; nothing is its end.
    fn data(&mut self, id: u32, data: &Bytes) -> Result<(), Status> {
        let Some(pending) = self.pending.get_mut(&id) else {
            return Err(invalid(b"", &format!("content of file {id}, which was not asked for")));
        };
        let path = pending.stat.path.clone();
        if !data.is_empty() {
            self.received.bytes += data.len() as u64;
            let is_opened = pending.file.is_none();
            write(&self.root, pending, data).map_err(|error| failed(&path, &error))?;
            if is_opened {
                self.opened(id);
            }
        } else if let Some(pending) = self.pending.remove(&id) {
            self.finish_file(&pending).map_err(|error| failed(&path, &error))?;
        }
        let is_news = self.received.bytes - self.progress_told >= 1 << 20 || data.is_empty();
        if let Some(progress) = self.options.progress.as_ref().filter(|_| is_news) {
            self.progress_told = self.received.bytes;
            progress(self.received.bytes);
        }
        Ok(())
    }

    /// Closes the file that was opened first, if too many are open.
    fn opened(&mut self, id: u32) {
        self.open.push_back(id);
        while self.open.len() > MAX_OPEN {
            let first = self.open.pop_front().and_then(|first| self.pending.get_mut(&first));
            if let Some(pending) = first {
                pending.file = None;
            }
        }
    }

    fn finish_file(&self, pending: &Pending) -> io::Result<()> {
        let stat = &pending.stat;
        if let Some(file) = pending.file.as_ref().filter(|_| self.options.owners == Owners::Mine) {
            rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(from_go(stat.mode).1))?;
            let time = time(stat.mod_time);
            let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
            let times = Timestamps { last_access: time, last_modification: time };
            return Ok(rustix::fs::futimens(file, &times)?);
        }
        let (directory, name) = self.root.parent_of(OsStr::from_bytes(&stat.path))?;
        self.set_owner(&directory, &name, stat)?;
        directory.set_mode(&name, from_go(stat.mode).1)?;
        directory.set_times(&name, time(stat.mod_time), time(stat.mod_time))
    }

    fn finish_directories(&mut self) -> Result<(), Status> {
        for stat in std::mem::take(&mut self.directories).into_iter().rev() {
            let mut is_changed = false;
            let mut finish = || {
                let (directory, name) = self.root.parent_of(OsStr::from_bytes(&stat.path))?;
                let there = directory.metadata(&name)?;
                let is_mine = self.options.owners == Owners::Mine;
                if !is_mine && (there.uid, there.gid) != (stat.uid, stat.gid) {
                    is_changed = true;
                    self.set_owner(&directory, &name, &stat)?;
                }
                let mode = from_go(stat.mode).1;
                if there.mode != mode {
                    is_changed = true;
                    directory.set_mode(&name, mode)?;
                }
                let modified = time(stat.mod_time);
                if there.modified != modified {
                    directory.set_times(&name, modified, modified)?;
                }
                Ok(())
            };
            finish().map_err(|error: io::Error| failed(&stat.path, &error))?;
            self.received.is_changed |= is_changed;
        }
        Ok(())
    }
}

impl Frame {
    fn new(directory: Directory, path: Vec<u8>, mirror: bool) -> io::Result<Self> {
        let unknown = match mirror {
            true => directory.entries()?.into_iter().map(|entry| entry.name).collect(),
            false => HashSet::new(),
        };
        Ok(Self { directory, path, last: OsString::new(), unknown })
    }

    /// Whether there was anything.
    fn remove_unknown(&mut self) -> Result<bool, Status> {
        let any = !self.unknown.is_empty();
        for name in self.unknown.drain() {
            self.directory.remove_all(&name).map_err(|error| failed(name.as_bytes(), &error))?;
        }
        Ok(any)
    }
}

/// What of a file's description is needed to the end, in memory of its own: the rest of the message it came in goes.
fn kept(told: &Stat) -> Stat {
    let is_link = from_go(told.mode).0 != FileKind::Directory;
    Stat {
        path: Bytes::copy_from_slice(&told.path),
        mode: told.mode,
        uid: told.uid,
        gid: told.gid,
        size: told.size,
        mod_time: told.mod_time,
        linkname: if is_link { told.linkname.clone() } else { Bytes::new() },
        devmajor: told.devmajor,
        devminor: told.devminor,
        ..Stat::default()
    }
}

/// Opened with the first bytes: a transfer has many files that nobody has begun to send. It may have been closed meanwhile.
fn write(root: &RootDir, pending: &mut Pending, data: &[u8]) -> io::Result<()> {
    if pending.file.is_none() {
        let path = PathBuf::from(OsStr::from_bytes(&pending.stat.path));
        let (directory, name) = root.parent_of(&path)?;
        pending.file = Some(File::from(directory.open(&name, OFlags::WRONLY | OFlags::APPEND)?));
    }
    match &mut pending.file {
        Some(file) => file.write_all(data),
        None => Ok(()),
    }
}

fn time(nanoseconds: i64) -> Time {
    Time {
        seconds: nanoseconds.div_euclid(1_000_000_000),
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default(),
    }
}

fn node(stat: &Stat) -> Option<(u32, u32)> {
    Some((u32::try_from(stat.devmajor).ok()?, u32::try_from(stat.devminor).ok()?))
}
