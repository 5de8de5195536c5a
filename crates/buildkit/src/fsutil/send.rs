//! The sending side.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::Bytes;
use palan_context::{Entry, Ignore, Pattern, WalkError, walk};
use palan_linux::path::{FileKind, RootDir};

use super::{on_thread, to_go};
use crate::grpc::{Batch, Code, Incoming, Outgoing, Status};
use crate::message::session::{Packet, Stat, packet};

/// How much of a file is in one packet.
const CHUNK: usize = 64 << 10;

/// How many symlinks are followed for one path.
const MAX_LINKS: usize = 64;

/// How many paths come of those that are to be followed.
const MAX_FOLLOWED: usize = 4096;

/// Which files of a directory are sent.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only what matches one of these, or lies in what does. None: everything.
    pub include: Vec<String>,
    /// Paths (with wildcards) that are included together with what symlinks on the way lead to.
    pub follow: Vec<String>,
    /// Lines of an ignore file.
    pub exclude: Vec<String>,
}

/// How a directory is sent.
#[derive(Debug, Clone, Default)]
pub struct Send {
    /// Which of its files.
    pub selection: Selection,
    /// Owners are root: files of a context belong to nobody.
    pub without_owners: bool,
    /// Everything is told to have this time, in nanoseconds since 1970.
    pub time: Option<i64>,
    /// The receiver gets all of it in a directory of this name.
    pub directory: Option<String>,
}

/// What a walk leaves.
struct Filter {
    ignore: Ignore,
    /// Lines that leave out, where they can't be told together with those that include.
    exclude: Option<Ignore>,
}

impl Selection {
    fn filter(&self, root: &RootDir) -> Result<Filter, Status> {
        let mut include = self.include.clone();
        for path in &self.follow {
            follow(root, path, &mut include)?;
        }
        let mut exclude = String::new();
        for line in &self.exclude {
            check_line(line)?;
            // Here it is a pattern, whatever it begins with.
            exclude.push_str(if line.starts_with('#') { "./" } else { "" });
            exclude.push_str(line);
            exclude.push('\n');
        }
        if self.include.is_empty() && self.follow.is_empty() {
            return Ok(Filter { ignore: parse(&exclude)?, exclude: None });
        }
        let mut lines = String::from("*\n");
        for pattern in &include {
            check_line(pattern)?;
            let pattern = pattern.trim_start_matches('/');
            lines.push_str(&format!("!{}\n", if pattern.is_empty() { "*" } else { pattern }));
        }
        let exclude = parse(&exclude)?;
        Ok(Filter { ignore: parse(&lines)?, exclude: (!exclude.is_empty()).then_some(exclude) })
    }
}

fn check_line(line: &str) -> Result<(), Status> {
    match line.contains(['\n', '\0']) {
        true => Err(Status::new(Code::InvalidArgument, format!("invalid pattern {line:?}"))),
        false => Ok(()),
    }
}

fn parse(lines: &str) -> Result<Ignore, Status> {
    Ignore::parse(lines.as_bytes()).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
}

/// Adds a path and, where symlinks are on the way, where they lead to.
fn follow(root: &RootDir, path: &str, found: &mut Vec<String>) -> Result<(), Status> {
    let split = |path: &str| path.split('/').rev().map(str::to_owned).collect::<Vec<_>>();
    // What is resolved, what is not (in reverse), and symlinks on the way.
    let mut pending = vec![(PathBuf::new(), split(path), 0)];
    while let Some((mut done, mut rest, links)) = pending.pop() {
        if found.len() > MAX_FOLLOWED || pending.len() > MAX_FOLLOWED {
            let error = format!("{path:?} stands for more than {MAX_FOLLOWED} paths");
            return Err(Status::new(Code::InvalidArgument, error));
        }
        let Some(part) = rest.pop() else {
            if let Some(text) = done.to_str() {
                found.push(text.to_owned());
            }
            continue;
        };
        match part.as_str() {
            "" | "." => {}
            ".." => {
                done.pop();
            }
            wild if wild.contains(['*', '?', '[', '\\']) => {
                let Some(pattern) = Pattern::new(wild) else {
                    return Err(Status::new(Code::InvalidArgument, format!("invalid pattern {path:?}")));
                };
                for entry in root.read_dir(&done).unwrap_or_default() {
                    if pattern.matches(&entry.name.to_string_lossy())
                        && let Some(name) = entry.name.to_str()
                    {
                        let mut rest = rest.clone();
                        // As a name and no pattern: what it is called does not matter any more.
                        let escaped = name.contains(['*', '?', '[', '\\']);
                        if escaped {
                            found.push(done.join(wild).to_string_lossy().into_owned());
                        } else {
                            rest.push(name.to_owned());
                            pending.push((done.clone(), rest, links));
                        }
                    }
                }
                continue;
            }
            name => {
                done.push(name);
                if let Ok(target) = root.read_link(&done) {
                    if let Some(text) = done.to_str() {
                        found.push(text.to_owned());
                    }
                    let Some(target) = target.to_str().filter(|_| links < MAX_LINKS) else { continue };
                    match target.starts_with('/') {
                        true => done = PathBuf::new(),
                        false => {
                            done.pop();
                        }
                    }
                    rest.extend(split(target));
                    pending.push((done, rest, links + 1));
                    continue;
                }
            }
        }
        pending.push((done, rest, links));
    }
    Ok(())
}

/// Regular files that were told and not yet asked for.
type Offered = Arc<Mutex<HashMap<u32, PathBuf>>>;

impl Send {
    /// Sends a directory over a call, until the receiver has what it wants.
    pub async fn run(self, root: RootDir, mut incoming: Incoming, outgoing: Outgoing) -> Result<(), Status> {
        let offered = Offered::default();
        let (wanted, requests) = mpsc::channel();
        let walker = {
            let root = root.try_clone().map_err(broken)?;
            let (offered, outgoing) = (Arc::clone(&offered), outgoing.clone());
            on_thread("build-walk", move || self.tell(&root, &offered, &outgoing))
        };
        let reader = {
            let outgoing = outgoing.clone();
            on_thread("build-send", move || send_files(&root, &requests, &outgoing))
        };
        let outcome = answer(&mut incoming, &offered, wanted).await;
        let finish = async {
            // Both end soon: what they send goes nowhere if the receiver is gone, and no request will come.
            let walked = walker.await;
            let read = reader.await;
            walked.and(read)
        };
        match outcome {
            // It said why.
            Err(status) => {
                drop(incoming);
                drop(outgoing);
                Err(status)
            }
            Ok(()) => {
                finish.await?;
                outgoing.send(&Packet { kind: packet::FIN, ..Packet::default() }).await?;
                drop(outgoing);
                // Whoever answers a call ends it: a receiver that has called waits for that, and one that is called is waited for.
                while incoming.is_answer() && incoming.next::<Packet>().await?.is_some() {}
                Ok(())
            }
        }
    }

    /// Tells of each file.
    fn tell(&self, root: &RootDir, offered: &Offered, outgoing: &Outgoing) -> Result<(), Status> {
        let told = self.selection.filter(root).and_then(|filter| {
            let mut next = 0_u32;
            let mut batch = Batch::default();
            if let Some(name) = &self.directory {
                let stat = Stat {
                    path: Bytes::copy_from_slice(name.as_bytes()),
                    mode: to_go(FileKind::Directory, 0o755),
                    mod_time: self.time.unwrap_or_default(),
                    ..Stat::default()
                };
                batch.push(&Packet { kind: packet::STAT, stat: Some(stat), ..Packet::default() });
                next = 1;
            }
            walk::<Stop>(root, &filter.ignore, &mut |entry| {
                if filter
                    .exclude
                    .as_ref()
                    .is_some_and(|ignore| ignore.is_ignored(&entry.path.to_string_lossy()))
                {
                    return Ok(());
                }
                let stat = self.stat(entry)?;
                if entry.metadata.is_file() {
                    lock(offered).insert(next, entry.path.to_owned());
                }
                next = next.checked_add(1).ok_or_else(|| Stop(too_many()))?;
                batch.push(&Packet { kind: packet::STAT, stat: Some(stat), ..Packet::default() });
                if batch.is_full() { outgoing.send_batch_blocking(&mut batch).map_err(Stop) } else { Ok(()) }
            })
            .map_err(|stop| stop.0)?;
            outgoing.send_batch_blocking(&mut batch)
        });
        if let Err(status) = &told {
            let text = status.to_string();
            let _ = outgoing.send_blocking(&Packet {
                kind: packet::ERR,
                data: Bytes::from(text),
                ..Packet::default()
            });
        }
        told?;
        outgoing.send_blocking(&Packet { kind: packet::STAT, ..Packet::default() })
    }

    fn stat(&self, entry: &Entry<'_>) -> Result<Stat, Stop> {
        let metadata = &entry.metadata;
        let link = match metadata.kind {
            FileKind::Symlink => entry.read_link()?.as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let (uid, gid) = if self.without_owners { (0, 0) } else { (metadata.uid, metadata.gid) };
        let size = if metadata.is_dir() { 0 } else { metadata.size };
        let modified = metadata.modified;
        let modified =
            modified.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(modified.nanoseconds));
        let path = match &self.directory {
            Some(name) => Bytes::from([name.as_bytes(), b"/", entry.path.as_os_str().as_bytes()].concat()),
            None => Bytes::copy_from_slice(entry.path.as_os_str().as_bytes()),
        };
        Ok(Stat {
            path,
            mode: to_go(metadata.kind, metadata.mode),
            uid,
            gid,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            mod_time: self.time.unwrap_or(modified),
            linkname: link.into(),
            devmajor: metadata.node.0.into(),
            devminor: metadata.node.1.into(),
            ..Stat::default()
        })
    }
}

/// Why a walk stopped.
struct Stop(Status);

impl From<WalkError> for Stop {
    fn from(error: WalkError) -> Self {
        use std::error::Error as _;
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self(Status::new(Code::Unknown, format!("{error}{cause}")))
    }
}

fn too_many() -> Status {
    Status::new(Code::ResourceExhausted, "the directory has more files than a transfer can number")
}

fn broken(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, error.to_string())
}

fn lock(offered: &Offered) -> std::sync::MutexGuard<'_, HashMap<u32, PathBuf>> {
    offered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes requests, until the receiver wants no more.
async fn answer(
    incoming: &mut Incoming,
    offered: &Offered,
    wanted: mpsc::Sender<(u32, PathBuf)>,
) -> Result<(), Status> {
    while let Some(packet) = incoming.next::<Packet>().await? {
        match packet.kind {
            packet::REQ => {
                let path = lock(offered).remove(&packet.id);
                let Some(path) = path else {
                    let error = format!("the receiver asks for file {}, which is none", packet.id);
                    return Err(Status::new(Code::InvalidArgument, error));
                };
                // A reader that has failed will say so.
                let _ = wanted.send((packet.id, path));
            }
            packet::FIN => return Ok(()),
            packet::ERR => {
                let text = String::from_utf8_lossy(&packet.data);
                return Err(Status::new(Code::Unknown, format!("error from receiver: {text}")));
            }
            _ => {}
        }
    }
    Err(Status::new(Code::Cancelled, "the receiver has ended the transfer before it was complete"))
}

/// Sends files as they are asked for.
fn send_files(
    root: &RootDir,
    requests: &mpsc::Receiver<(u32, PathBuf)>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let mut buffer = vec![0; CHUNK];
    let mut batch = Batch::default();
    loop {
        let (id, path) = match requests.try_recv() {
            Ok(request) => request,
            Err(mpsc::TryRecvError::Disconnected) => break,
            Err(mpsc::TryRecvError::Empty) => {
                outgoing.send_batch_blocking(&mut batch)?;
                let Ok(request) = requests.recv() else { break };
                request
            }
        };
        // What vanished or can't be read is empty, as with BuildKit: the transfer has begun.
        if let Some(mut file) = open(root, &path) {
            loop {
                let read = match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        let text = format!("cannot read {}: {error}", path.display());
                        let data = Bytes::from(text.clone());
                        let _ =
                            outgoing.send_blocking(&Packet { kind: packet::ERR, data, ..Packet::default() });
                        return Err(Status::new(Code::Unknown, text));
                    }
                };
                let data = Bytes::copy_from_slice(&buffer[..read]);
                batch.push(&Packet { kind: packet::DATA, id, data, ..Packet::default() });
                if batch.is_full() {
                    outgoing.send_batch_blocking(&mut batch)?;
                }
            }
        }
        batch.push(&Packet { kind: packet::DATA, id, ..Packet::default() });
        if batch.is_full() {
            outgoing.send_batch_blocking(&mut batch)?;
        }
    }
    outgoing.send_batch_blocking(&mut batch)
}

fn open(root: &RootDir, path: &Path) -> Option<std::fs::File> {
    let (directory, name) = root.parent_of(path).ok()?;
    directory.open_regular(OsStr::new(&name)).ok().flatten()
}
