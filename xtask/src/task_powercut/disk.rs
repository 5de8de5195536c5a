//! A disk that forgets: QEMU's disk over NBD, whose writes are durable only when the machine has flushed them.
//!
//! Two files: what the machine sees, and what a power cut leaves. A write goes to the first and is remembered; a flush, or the
//! write itself with FUA, carries it over to the second. When the power is cut, each remembered write is kept, lost or torn at a
//! boundary of sectors, as a disk with a cache of its own may do in any order.
//!
//! The protocol is NBD's fixed newstyle with the options that QEMU needs (`doc/proto.md` of the nbd project). One client at a
//! time, one request at a time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Failure;
use crate::random::Random;

/// What a disk writes as one. ext4 trusts it with that much.
const SECTOR: usize = 512;

/// The disk's content and its cache.
#[derive(Debug)]
pub(super) struct Disk {
    seen: File,
    durable: File,
    size: u64,
    pending: Vec<Pending>,
    /// Whether a machine has it.
    pub(super) connected: bool,
    /// Counted for the report: writes and flushes since the start.
    pub(super) writes: u64,
    pub(super) flushes: u64,
}

/// A write that no flush has followed.
#[derive(Debug, Clone)]
struct Pending {
    offset: u64,
    content: Vec<u8>,
}

impl Pending {
    fn end(&self) -> u64 {
        self.offset + self.content.len() as u64
    }
}

/// What a cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cut {
    pub(super) kept: u64,
    pub(super) lost: u64,
    pub(super) torn: u64,
}

impl Disk {
    /// Both files hold the same at the start.
    pub(super) fn open(seen: &Path, durable: &Path) -> Result<Self, Failure> {
        let open = |path: &Path| File::options().read(true).write(true).open(path);
        let (seen, durable) = (open(seen)?, open(durable)?);
        let size = seen.metadata()?.len();
        Ok(Self { seen, durable, size, pending: Vec::new(), connected: false, writes: 0, flushes: 0 })
    }

    fn write(&mut self, offset: u64, content: Vec<u8>, durable: bool) -> io::Result<()> {
        self.writes += 1;
        self.seen.write_all_at(&content, offset)?;
        let write = Pending { offset, content };
        if durable {
            // What is older and in the same place must not come over it later.
            let (older, others) = std::mem::take(&mut self.pending)
                .into_iter()
                .partition::<Vec<_>, _>(|old| old.offset < write.end() && write.offset < old.end());
            self.pending = others;
            for old in older.iter().chain([&write]) {
                self.durable.write_all_at(&old.content, old.offset)?;
            }
        } else {
            self.pending.push(write);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        for write in self.pending.drain(..) {
            self.durable.write_all_at(&write.content, write.offset)?;
        }
        Ok(())
    }

    /// The machine is off. What it sees when it is on again is what is durable.
    pub(super) fn cut(&mut self, random: &mut Random) -> io::Result<Cut> {
        let pending = std::mem::take(&mut self.pending);
        let cut = spoil(&self.durable, &pending, random)?;
        for write in &pending {
            let mut content = vec![0; write.content.len()];
            self.durable.read_exact_at(&mut content, write.offset)?;
            self.seen.write_all_at(&content, write.offset)?;
        }
        Ok(cut)
    }

    /// What a cut at this moment would leave, as a file of its own.
    pub(super) fn picture(&self, path: &Path, random: &mut Random) -> Result<Cut, Failure> {
        let source =
            format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&self.durable));
        crate::process::check(crate::process::command("cp").arg("--sparse=always").arg(source).arg(path))?;
        let picture = File::options().read(true).write(true).open(path)?;
        Ok(spoil(&picture, &self.pending, random)?)
    }
}

/// Carries some of the writes over to `durable`.
fn spoil(durable: &File, pending: &[Pending], random: &mut Random) -> io::Result<Cut> {
    let mut cut = Cut::default();
    // Some disks lose their whole cache, some a part of it.
    let share = [0, 50, 50, 90, 100][usize::from(random.byte() % 5)];
    for write in pending {
        if random.byte().is_multiple_of(10) && write.content.len() > SECTOR {
            cut.torn += 1;
            for (index, sector) in write.content.chunks(SECTOR).enumerate() {
                if random.byte() % 100 < share {
                    durable.write_all_at(sector, write.offset + (index * SECTOR) as u64)?;
                }
            }
        } else if random.byte() % 100 < share {
            cut.kept += 1;
            durable.write_all_at(&write.content, write.offset)?;
        } else {
            cut.lost += 1;
        }
    }
    Ok(cut)
}

/// Serves the disk at `socket`, to one machine after the other, until the process ends.
pub(super) fn serve(disk: Arc<Mutex<Disk>>, socket: PathBuf) -> Result<(), Failure> {
    let listener = UnixListener::bind(&socket)?;
    std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let connected =
                |connected| disk.lock().unwrap_or_else(PoisonError::into_inner).connected = connected;
            connected(true);
            // It ends with the machine, in the middle of whatever that was doing.
            let _ = talk(&stream, &disk);
            connected(false);
        }
    })?;
    Ok(())
}

const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const ANSWER_MAGIC: u32 = 0x6744_6698;
/// `NBD_FLAG_HAS_FLAGS`, `SEND_FLUSH`, `SEND_FUA`.
const FLAGS: u16 = 1 | 4 | 8;
const MAX_LENGTH: usize = 64 << 20;

fn talk(mut stream: &UnixStream, disk: &Mutex<Disk>) -> io::Result<()> {
    let lock = || disk.lock().unwrap_or_else(PoisonError::into_inner);
    stream.write_all(b"NBDMAGICIHAVEOPT")?;
    // Fixed newstyle, no padding.
    stream.write_all(&3u16.to_be_bytes())?;
    number(stream, 4)?;
    loop {
        if number(stream, 8)? != OPTION_MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let option = u32::try_from(number(stream, 4)?).unwrap_or(u32::MAX);
        bytes(stream, number(stream, 4)?)?;
        let reply = |mut stream: &UnixStream, kind: u32, content: &[u8]| -> io::Result<()> {
            stream.write_all(&REPLY_MAGIC.to_be_bytes())?;
            stream.write_all(&option.to_be_bytes())?;
            stream.write_all(&kind.to_be_bytes())?;
            let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
            stream.write_all(&length.to_be_bytes())?;
            stream.write_all(content)
        };
        let export = [&lock().size.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
        match option {
            // NBD_OPT_EXPORT_NAME
            1 => {
                stream.write_all(&export)?;
                break;
            }
            // NBD_OPT_GO: NBD_REP_INFO with NBD_INFO_EXPORT, NBD_REP_ACK
            7 => {
                reply(stream, 3, &[&[0, 0], &export[..]].concat())?;
                reply(stream, 1, &[])?;
                break;
            }
            // NBD_OPT_ABORT
            2 => return reply(stream, 1, &[]),
            // NBD_REP_ERR_UNSUP
            _ => reply(stream, 0x8000_0001, &[])?,
        }
    }
    loop {
        if number(stream, 4)? != u64::from(REQUEST_MAGIC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (flags, kind, handle) = (number(stream, 2)?, number(stream, 2)?, number(stream, 8)?);
        let (offset, length) = (number(stream, 8)?, number(stream, 4)?);
        let mut answer = Vec::new();
        let done = match kind {
            0 => {
                answer = vec![0; usize::try_from(length).unwrap_or(MAX_LENGTH).min(MAX_LENGTH)];
                lock().seen.read_exact_at(&mut answer, offset)
            }
            1 => {
                let content = bytes(stream, length)?;
                lock().write(offset, content, flags & 1 != 0)
            }
            2 => return Ok(()),
            3 => lock().flush(),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        /// `EIO`
        const FAILED: u32 = 5;
        stream.write_all(&ANSWER_MAGIC.to_be_bytes())?;
        stream.write_all(&(if done.is_ok() { 0 } else { FAILED }).to_be_bytes())?;
        stream.write_all(&handle.to_be_bytes())?;
        if done.is_ok() {
            stream.write_all(&answer)?;
        }
    }
}

/// A big-endian number of so many bytes.
fn number(mut stream: &UnixStream, length: usize) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes[8 - length..])?;
    Ok(u64::from_be_bytes(bytes))
}

fn bytes(mut stream: &UnixStream, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_LENGTH {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (Disk, [PathBuf; 2]) {
        let paths = ["seen", "durable"].map(|name| {
            std::env::temp_dir().join(format!(
                "palan-powercut-{}-{:?}-{name}",
                std::process::id(),
                std::thread::current().id()
            ))
        });
        for path in &paths {
            std::fs::write(path, vec![0; 64 << 10]).unwrap();
        }
        (Disk::open(&paths[0], &paths[1]).unwrap(), paths)
    }

    fn at(file: &File, offset: u64) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        byte[0]
    }

    #[test]
    fn only_what_was_flushed_is_certain() {
        let (mut disk, paths) = disk();
        disk.write(0, vec![1; 4096], false).unwrap();
        disk.flush().unwrap();
        disk.write(0, vec![2; 4096], false).unwrap();
        disk.write(8192, vec![3; 4096], true).unwrap();
        let mut lost = 0;
        for seed in 0..50 {
            disk.write(0, vec![2; 4096], false).unwrap();
            let cut = disk.cut(&mut Random::new(seed * 7919 + 3)).unwrap();
            lost += cut.lost + cut.torn;
            assert_eq!((at(&disk.durable, 8192), at(&disk.seen, 8192)), (3, 3));
            assert!(matches!(at(&disk.durable, 0), 1 | 2));
            assert_eq!(at(&disk.durable, 0), at(&disk.seen, 0));
            disk.write(0, vec![1; 4096], true).unwrap();
        }
        assert!(lost > 5, "{lost}");
        for path in paths {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_forced_write_is_not_overtaken_by_an_older_one() {
        let (mut disk, paths) = disk();
        disk.write(4096, vec![1; 8192], false).unwrap();
        disk.write(8192, vec![2; 512], true).unwrap();
        disk.cut(&mut Random::new(11)).unwrap();
        assert_eq!((at(&disk.durable, 8192), at(&disk.durable, 4096)), (2, 1));
        for path in paths {
            std::fs::remove_file(path).unwrap();
        }
    }
}
