//! The journal: what happened to the container, one JSON line for each entry, append-only, in the run directory.
//!
//! The supervisor appends an entry before it tells the daemon, without fsync: the run root does not survive a reboot, and
//! neither does the container. Should the run root be full, the entry is sent all the same and written when there is room.
//! Numbers rise by one and never repeat for a container, also over several runs, so that a
//! daemon may commit entries as often as it sees them: it keeps the last number and skips what is not newer.
//!
//! A container that is started again may get its next supervisor before the last one has ended. The journal is locked by
//! the one that may use what belongs to the container by name: the journal, the socket, the cgroups.
//!
//! A line that is torn (the disk was full half-way) or malformed is skipped by readers; the writer starts a new line
//! after it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use palan_stdx::fs::{PathContext, PathError};
use rustix::fs::{FallocateFlags, FlockOperation};
use serde::{Deserialize, Serialize};

use crate::log::timestamp;
use crate::protocol::{FailureKind, HealthStatus, ProbeResult};

/// The journal's name in the run directory.
pub const FILE_NAME: &str = "journal";

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Rises by one with each entry.
    pub seq: u64,
    /// When, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// What.
    pub event: Event,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The container's program is being executed.
    Start {
        /// Init's process id on the host.
        pid: i32,
    },
    /// It could not be started, for the first time or again; nothing is left of it. The supervisor's last entry.
    StartFailed {
        /// Why.
        kind: FailureKind,
        /// The whole chain of causes.
        message: String,
    },
    /// Init has ended. Without a restart the supervisor's last entry but for `log_lost`.
    Exit {
        /// The exit code; 128 + n where signal n ended it.
        code: i32,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// Whether a process of the container was killed because memory ran out.
        oom: bool,
        /// It will be started again after so many milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_in_ms: Option<u64>,
        /// By the daemon, which this supervisor leaves it to ([`crate::protocol::RestartConfig::by_daemon`]).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_daemon: bool,
    },
    /// The restart that was announced will not come. The supervisor's last entry.
    RestartCanceled,
    /// A process of the container was killed because memory ran out.
    Oom,
    /// All processes were frozen.
    Pause,
    /// They were thawed.
    Resume,
    /// The container's processes were saved.
    Checkpoint {
        /// They are killed with this.
        stops: bool,
    },
    /// An exec session's program is being executed.
    ExecStart {
        /// The session.
        exec: String,
        /// Its process id on the host.
        pid: i32,
    },
    /// An exec session could not be started.
    ExecFailed {
        /// The session.
        exec: String,
        /// Why.
        kind: FailureKind,
        /// The whole chain of causes.
        message: String,
    },
    /// An exec session has ended.
    ExecExit {
        /// The session.
        exec: String,
        /// The exit code; 128 + n where signal n ended it.
        code: i32,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// A health check's probe is being executed.
    ProbeStart {
        /// Its name, as an exec session's.
        exec: String,
        /// Its process id on the host.
        pid: i32,
    },
    /// A probe has a result.
    Probe {
        /// Its name.
        exec: String,
        /// Its process's exit code, 128 + n where signal n ended it; `None`: there was no process.
        code: Option<i32>,
        /// What came of it.
        result: ProbeResult,
        /// How the container does from now on.
        status: HealthStatus,
        /// Failures in a row that count.
        failing_streak: u32,
    },
    /// A probe was ended by the container's end or pause: no result.
    ProbeAborted {
        /// Its name.
        exec: String,
        /// Its process's exit code.
        code: i32,
    },
    /// The last results, which were not journaled when they came, since nobody read the journal.
    Health {
        /// How the container does.
        status: HealthStatus,
        /// Failures in a row that count.
        failing_streak: u32,
        /// The results, oldest first.
        results: Vec<ProbeResult>,
    },
    /// A client detached itself by its keys.
    Detach {
        /// From this exec session; `None`: from the container.
        exec: Option<String>,
    },
    /// Output could not be written to the log.
    LogLost {
        /// How many lines.
        lines: u64,
        /// The error that was met.
        reason: String,
    },
    /// An event that this version does not know.
    #[serde(skip_serializing)]
    Unknown,
}

/// What every version of an entry has.
#[derive(Deserialize)]
struct Envelope {
    seq: u64,
    time_ns: u64,
}

impl Entry {
    /// Reads one entry; an event of a later version becomes [`Event::Unknown`].
    pub(crate) fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().or_else(|| {
            let Envelope { seq, time_ns } = serde_json::from_slice(json).ok()?;
            Some(Self { seq, time_ns, event: Event::Unknown })
        })
    }
}

/// Reads the entries after number `after` from the text of a journal.
pub(crate) fn parse(text: &[u8], after: u64) -> Vec<Entry> {
    text.split(|byte| *byte == b'\n').filter_map(Entry::from_json).filter(|entry| entry.seq > after).collect()
}

/// The number of the last entry: 0 if there is none, and nothing if it can't be read.
pub(crate) fn last_seq(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return Some(0);
    }
    let last = text.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    Some(Entry::from_json(last)?.seq)
}

/// Once all is committed, a file of this size is emptied: a container may see millions of exec sessions.
const EMPTIED_FROM: u64 = 64 * 1024;

/// Space that is set aside ahead of the entries, so that `exit` finds room on a run root that is full.
const RESERVED: u64 = 4096;

/// More is set aside when less than this is left.
const LEAST_RESERVED: u64 = 1024;

/// The journal that this supervisor writes.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    size: u64,
    /// Up to here space is set aside.
    reserved_to: u64,
    last_seq: u64,
    /// Entries that the file had no room for.
    unwritten: Vec<Entry>,
    /// The file may have a new writer.
    handed_over: bool,
}

impl Journal {
    /// Opens the journal in the run directory, once no earlier supervisor of the container holds it any more. Numbers go
    /// on after its last one.
    pub(crate) fn open(run_dir: &Path) -> Result<Self, PathError> {
        let path = run_dir.join(FILE_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .path_context("open the journal", &path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .path_context("lock the journal", &path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).path_context("read the journal", &path)?;
        let last_seq = parse(&text, 0).last().map_or(0, |entry| entry.seq);
        let mut journal = Self {
            file,
            size: text.len() as u64,
            reserved_to: 0,
            last_seq,
            unwritten: Vec::new(),
            handed_over: false,
        };
        if text.last().is_some_and(|byte| *byte != b'\n') {
            journal.end_torn_line();
        }
        journal.reserve();
        Ok(journal)
    }

    /// Numbers go on after `seq` at least.
    pub(crate) fn continue_after(&mut self, seq: u64) {
        self.last_seq = self.last_seq.max(seq);
    }

    /// Lets the container's next supervisor have the journal; nothing is appended from here on.
    pub(crate) fn hand_over(&mut self) {
        self.handed_over = true;
        // It can only fail for a file that was never locked.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }

    /// The newest entry's number.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Appends what has happened now.
    pub(crate) fn append(&mut self, event: Event) -> Entry {
        self.last_seq += 1;
        let entry = Entry { seq: self.last_seq, time_ns: timestamp::now(), event };
        self.unwritten.push(entry.clone());
        self.write_unwritten();
        entry
    }

    /// How large the file is.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether every entry is in the file.
    pub(crate) fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Tries again to write what the file had no room for.
    pub(crate) fn write_unwritten(&mut self) {
        while let Some(entry) = self.unwritten.first() {
            let Ok(mut line) = serde_json::to_vec(entry) else {
                self.unwritten.remove(0);
                continue;
            };
            line.push(b'\n');
            match self.file.write(&line) {
                Ok(length) if length == line.len() => {
                    self.size += line.len() as u64;
                    self.unwritten.remove(0);
                    self.reserve();
                }
                Ok(_) => {
                    // Shortening needs no space; where it fails all the same, readers skip the torn line.
                    if self.file.set_len(self.size).is_err() {
                        self.end_torn_line();
                    }
                    return;
                }
                Err(_) => return,
            }
        }
        self.unwritten = Vec::new();
    }

    /// The entries after number `after`, for a daemon that has just connected.
    pub(crate) fn entries(&self, after: u64) -> Vec<Entry> {
        let mut text = Vec::new();
        let mut reader = &self.file;
        if reader.seek(SeekFrom::Start(0)).is_err() || reader.read_to_end(&mut text).is_err() {
            text.clear();
        }
        let mut entries = parse(&text, after);
        entries.extend(self.unwritten.iter().filter(|entry| entry.seq > after).cloned());
        entries
    }

    /// The daemon has committed all up to `seq`.
    pub(crate) fn acknowledge(&mut self, seq: u64) {
        // What found no room and is known where it matters needs none any more. Numbers go on after it all the same: the
        // daemon says where, at the next start.
        self.unwritten.retain(|entry| entry.seq > seq);
        if seq >= self.last_seq
            && self.unwritten.is_empty()
            && !self.handed_over
            && self.size >= EMPTIED_FROM
            && self.file.set_len(0).is_ok()
        {
            self.size = 0;
            self.reserved_to = 0;
            self.reserve();
        }
    }

    /// Sets space aside, if little is left.
    fn reserve(&mut self) {
        if self.reserved_to < self.size + LEAST_RESERVED {
            // Not every file system can do that, and one that is full now may not be later.
            let flags = FallocateFlags::KEEP_SIZE;
            if rustix::fs::fallocate(&self.file, flags, self.size, RESERVED).is_ok() {
                self.reserved_to = self.size + RESERVED;
            }
        }
    }

    fn end_torn_line(&mut self) {
        if self.file.write_all(b"\n").is_ok() {
            self.size = self.file.metadata().map_or(self.size, |metadata| metadata.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detach() -> Event {
        Event::Detach { exec: None }
    }

    #[test]
    fn the_lines_on_file_are_these() {
        let entry = |event| serde_json::to_string(&Entry { seq: 3, time_ns: 5, event }).unwrap();
        assert_eq!(entry(Event::Oom), r#"{"seq":3,"time_ns":5,"event":"oom"}"#);
        assert_eq!(
            entry(Event::Exit {
                code: 137,
                signal: Some(9),
                oom: true,
                restart_in_ms: None,
                by_daemon: false
            }),
            r#"{"seq":3,"time_ns":5,"event":{"exit":{"code":137,"signal":9,"oom":true}}}"#
        );
        assert_eq!(
            entry(Event::Exit {
                code: 1,
                signal: None,
                oom: false,
                restart_in_ms: Some(100),
                by_daemon: false
            }),
            r#"{"seq":3,"time_ns":5,"event":{"exit":{"code":1,"signal":null,"oom":false,"restart_in_ms":100}}}"#
        );
    }

    #[test]
    fn numbers_go_on_after_a_reopen_and_a_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.append(detach()).seq, 1);
        assert_eq!(journal.append(Event::Oom).seq, 2);
        journal.file.write_all(b"{\"seq\":3,\"tim").unwrap();
        drop(journal);
        let mut journal = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.append(detach()).seq, 3);
        let seqs = |after| journal.entries(after).iter().map(|entry| entry.seq).collect::<Vec<_>>();
        assert_eq!((seqs(0), seqs(2), seqs(3)), (vec![1, 2, 3], vec![3], vec![]));
        journal.continue_after(10);
        assert_eq!(journal.append(detach()).seq, 11);
    }

    #[test]
    fn who_writes_is_seen_from_outside() {
        use crate::client::{Presence, presence};
        let directory = tempfile::tempdir().unwrap();
        let seen = |after| presence(directory.path(), after);
        assert_eq!(seen(0), Presence::Absent);
        let mut journal = Journal::open(directory.path()).unwrap();
        assert_eq!(seen(0), Presence::Quiet);
        journal.append(detach());
        journal.append(Event::Oom);
        assert_eq!((seen(1), seen(2), seen(3)), (Presence::Telling, Presence::Quiet, Presence::Quiet));
        // A line that is being written may be anything.
        journal.file.write_all(b"{\"seq\":3,\"tim").unwrap();
        assert_eq!(seen(2), Presence::Telling);
        journal.hand_over();
        assert_eq!(seen(2), Presence::Absent);
    }

    #[test]
    fn events_of_a_later_version_are_kept_as_unknown() {
        let text = br#"{"seq":1,"time_ns":2,"event":{"melted":{"degrees":400}},"more":1}
garbage
{"seq":2,"time_ns":3,"event":"oom"}"#;
        let events: Vec<_> = parse(text, 0).into_iter().map(|entry| entry.event).collect();
        assert_eq!(events, [Event::Unknown, Event::Oom]);
    }

    #[test]
    fn a_large_file_is_emptied_once_all_is_committed() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        while journal.size < EMPTIED_FROM {
            journal.append(detach());
        }
        let last = journal.last_seq();
        journal.acknowledge(last - 1);
        assert_eq!(journal.entries(last - 1).len(), 1);
        journal.acknowledge(last);
        assert_eq!(journal.entries(0).len(), 0);
        assert_eq!(journal.append(detach()).seq, last + 1);
        assert_eq!(journal.entries(0).len(), 1);
    }

    #[test]
    fn there_is_always_space_set_aside() {
        use std::os::unix::fs::MetadataExt;

        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        for number in 0..3000 {
            let entry = journal.append(detach());
            if number % 1000 == 999 {
                journal.acknowledge(entry.seq);
            }
            let metadata = journal.file.metadata().unwrap();
            assert!(metadata.blocks() * 512 >= metadata.len() + 512, "{number}: {metadata:?}");
        }
    }

    #[test]
    fn what_the_daemon_knows_needs_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        journal.file = OpenOptions::new().read(true).append(true).open("/dev/full").unwrap();
        journal.append(Event::Oom);
        let seq = journal.append(detach()).seq;
        journal.acknowledge(seq - 1);
        assert!(!journal.is_written());
        journal.acknowledge(seq);
        assert!(journal.is_written());
    }

    #[test]
    fn what_finds_no_room_is_kept_and_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        let full = OpenOptions::new().read(true).append(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut journal.file, full);
        journal.append(Event::Oom);
        journal.append(detach());
        assert!(!journal.is_written());
        journal.file = good;
        journal.write_unwritten();
        assert!(journal.is_written());
        assert_eq!(journal.entries(0).len(), 2);
    }
}
