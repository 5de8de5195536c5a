//! `cargo xtask powercut [--cuts N] [--pictures N] [--seed N]`: the power of a virtual machine is cut while its daemon pulls, loads,
//! commits, removes and compacts images; after each boot every image must be whole or absent.
//!
//! 1. The data root is an ext4 on a disk that keeps what was flushed and forgets, at random, what was not ([`disk`]).
//! 2. The machine boots, checks what it finds (`system fsck`, and every image is saved, which makes each byte of it again),
//!    prints `at work` and works ([`work`]).
//! 3. After a random time QEMU is killed. The disk forgets. The next boot is step 2 again.
//! 4. The last boot checks, removes everything, and finds the disk free again.
//!
//! A boot takes half a minute, so each session also gives *pictures*: what a cut at other moments would have left, each a copy of
//! the disk. They are checked on the host, in a mount namespace of their own in which the kernel's boot id is another one.
//!
//! `PALAN_BIN` is the program; without it one is built.

mod disk;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use palan_test_support::wait_until;

use self::disk::Disk;
use crate::process::{check, command, output, root};
use crate::random::Random;
use crate::task_vm::{Said, Session};
use crate::{Failure, task_dist};

pub(crate) use work::run as guest;

/// The task that works in the machine, and checks pictures on the host.
pub(crate) const GUEST: &str = "powercut-guest";
const SIZE: u64 = 2 << 30;
/// Booting and checking, on an emulated processor of a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

struct Options {
    cuts: u64,
    pictures: u64,
    seed: u64,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.subsec_nanos().into());
        let mut options = Self { cuts: 10, pictures: 4, seed: now };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let field = match name.as_str() {
                "--cuts" => &mut options.cuts,
                "--pictures" => &mut options.pictures,
                "--seed" => &mut options.seed,
                other => {
                    return Err(
                        format!("no option is called {other:?}: --cuts N, --pictures N, --seed N").into()
                    );
                }
            };
            let value = rest.next().ok_or_else(|| format!("{name} needs a number"))?;
            *field = value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))?;
        }
        Ok(options)
    }
}

/// Everything of one run, in a directory that is removed at the end.
struct Run {
    directory: PathBuf,
    disk: Arc<Mutex<Disk>>,
    random: Random,
    pictures: Vec<PathBuf>,
    /// What was going on when the power went, and how often.
    cut_in: BTreeMap<String, u64>,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let options = Options::parse(arguments)?;
    say(&format!(
        "{} cuts, {} pictures of each session, --seed {}",
        options.cuts, options.pictures, options.seed
    ))?;
    let palan = match std::env::var_os("PALAN_BIN") {
        Some(path) => PathBuf::from(path),
        None => task_dist::run()?,
    };
    let mut run = Run::prepare(options.seed)?;
    let outcome = (0..options.cuts)
        .try_for_each(|number| run.session(&palan, number, options.pictures))
        .and_then(|()| run.last(&palan))
        .and_then(|()| run.check_pictures(&palan));
    match &outcome {
        Ok(()) => std::fs::remove_dir_all(&run.directory)?,
        Err(_) => say(&format!("the disk is kept: {}", run.directory.display()))?,
    }
    outcome
}

impl Run {
    fn prepare(seed: u64) -> Result<Self, Failure> {
        let directory = root().join("target/powercut").join(std::process::id().to_string());
        std::fs::create_dir_all(&directory)?;
        let [seen, durable] = ["seen.img", "durable.img"].map(|name| directory.join(name));
        std::fs::File::create(&durable)?.set_len(SIZE)?;
        check(command("mkfs.ext4").args(["-q", "-F"]).arg(&durable))?;
        check(command("cp").arg("--sparse=always").arg(&durable).arg(&seen))?;
        let disk = Arc::new(Mutex::new(Disk::open(&seen, &durable)?));
        disk::serve(Arc::clone(&disk), directory.join("socket"))?;
        Ok(Self { directory, disk, random: Random::new(seed), pictures: Vec::new(), cut_in: BTreeMap::new() })
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot(&mut self, palan: &Path, mode: &str) -> Result<Session, Failure> {
        let seed = self.random.next().to_string();
        let program = std::env::current_exe()?.display().to_string();
        let command = [&program, GUEST, crate::task_vm::DISK, &seed, mode].map(str::to_owned);
        let environment = [format!("PALAN_BIN={}", palan.display())];
        Session::start(command.into(), environment.into(), self.directory.join("socket"))
    }

    /// One boot, and the end of it.
    fn session(&mut self, palan: &Path, number: u64, pictures: u64) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut session = self.boot(palan, "work")?;
        let mut checked = String::new();
        let mut operation = None;
        let mut listen = |said: Option<Said>| match said {
            Some(Said::Line(line)) => {
                if line == "at work" {
                    operation = Some("nothing".to_owned());
                } else if let Some(name) = line.strip_prefix("begins: ") {
                    operation = Some(name.to_owned());
                } else {
                    checked = line;
                }
                Ok(operation.clone())
            }
            Some(Said::Ended(code)) => Err(Failure::from(format!("the machine's check ended with {code}"))),
            None => Ok(operation.clone()),
        };
        while listen(session.next(begun + BOOT_LIMIT)?)?.is_none() {
            if begun.elapsed() > BOOT_LIMIT {
                return Err("the machine does not begin to work".into());
            }
        }
        let booted = begun.elapsed();
        // Compaction begins a minute after a layer is on the disk.
        let longest = if number % 4 == 3 { 100_000 } else { 25_000 };
        let mut moments: Vec<u64> = (0..=pictures).map(|_| self.random.between(500, longest)).collect();
        moments.sort_unstable();
        let cut_at = moments.pop().unwrap_or_default();
        let start = Instant::now();
        for (index, moment) in moments.iter().enumerate() {
            while let Some(said) = session.next(start + Duration::from_millis(*moment))? {
                listen(Some(said))?;
            }
            let path = self.directory.join(format!("picture-{number}-{index}.img"));
            let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.picture(&path, &mut self.random)?;
            self.pictures.push(path);
        }
        let mut last = None;
        while let Some(said) = session.next(start + Duration::from_millis(cut_at))? {
            last = listen(Some(said))?;
        }
        drop(session);
        let quiet = wait_until(Duration::from_secs(30), || !self.disk().connected);
        if !quiet {
            return Err("QEMU still has its disk".into());
        }
        let cut = {
            let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.cut(&mut self.random)?
        };
        let last = last.or_else(|| listen(None).ok().flatten()).unwrap_or_default();
        say(&format!(
            "boot {number}: {checked}, {} s; power cut after {:.1} s in {last}: of {} unflushed writes {} kept, {} lost, {} torn",
            booted.as_secs(),
            cut_at as f64 / 1000.0,
            cut.kept + cut.lost + cut.torn,
            cut.kept,
            cut.lost,
            cut.torn
        ))?;
        *self.cut_in.entry(last).or_default() += 1;
        Ok(())
    }

    /// Checks, removes everything.
    fn last(&mut self, palan: &Path) -> Result<(), Failure> {
        let until = Instant::now() + BOOT_LIMIT;
        let mut session = self.boot(palan, "last")?;
        loop {
            match session.next(until)? {
                Some(Said::Line(line)) => say(&format!("last boot: {line}"))?,
                Some(Said::Ended(0)) => break,
                Some(Said::Ended(code)) => return Err(format!("the last boot ended with {code}").into()),
                None => return Err("the last boot takes too long".into()),
            }
        }
        drop(session);
        let (writes, flushes) = {
            let disk = self.disk();
            (disk.writes, disk.flushes)
        };
        say(&format!("cut in: {:?}; {writes} writes and {flushes} flushes in all", self.cut_in))
    }

    fn check_pictures(&mut self, palan: &Path) -> Result<(), Failure> {
        let place = self.directory.join("mount");
        std::fs::create_dir_all(&place)?;
        let boot_id = self.directory.join("boot_id");
        let script = "mount -o loop,noatime \"$1\" \"$2\"; mount --bind \"$3\" /proc/sys/kernel/random/boot_id; shift 3; exec \"$@\"";
        let mut found = BTreeMap::new();
        for path in std::mem::take(&mut self.pictures) {
            std::fs::write(&boot_id, format!("{:032x}\n", self.random.next()))?;
            let mut inside = command("unshare");
            inside.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
            inside.args([&path, &place, &boot_id]).arg(std::env::current_exe()?);
            inside
                .arg(GUEST)
                .arg(&place)
                .arg(self.random.next().to_string())
                .arg("last")
                .env("PALAN_BIN", palan);
            // Sockets have short names.
            inside.env("TMPDIR", "/tmp");
            let text = output(&mut inside)?;
            *found.entry(text.lines().next().unwrap_or_default().to_owned()).or_insert(0) += 1;
            std::fs::remove_file(path)?;
        }
        let count: u64 = found.values().sum();
        say(&format!("{count} pictures are whole: {found:?}"))
    }
}

#[expect(clippy::print_stdout, reason = "tasks talk to the person at the terminal")]
fn say(text: &str) -> Result<(), Failure> {
    println!("{text}");
    Ok(std::io::Write::flush(&mut std::io::stdout())?)
}
