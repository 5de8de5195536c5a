//! One machine on the host's side: its files, QEMU, and their end.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use palan_linux::process::{self, Program, Spawn};
use palan_linux::signal::Signal;
use rustix::fs::FlockOperation;
use rustix::pipe::{PipeFlags, pipe_with};

use super::initramfs::Archive;
use super::kernel::Kernel;
use super::options::Options;
use super::request::Request;
use crate::Failure;
use crate::process::{check, command, find};

/// The disk's size; it takes only the space that is written.
const DISK: u64 = 16 << 30;

/// A machine that runs. Dropping it switches it off and removes its files.
#[derive(Debug)]
pub(super) struct Machine {
    _emulator: Emulator,
    /// What comes from the machine's port; it ends when QEMU does.
    pub(super) output: File,
    /// What goes to it. The port counts as connected as long as this is open.
    pub(super) input: File,
    directory: RunDirectory,
}

impl Machine {
    /// Starts a machine that carries out `request`. `home` is our directory below `target`.
    pub(super) fn start(
        home: &Path,
        kernel: &Kernel,
        options: &Options,
        request: &Request,
    ) -> Result<Self, Failure> {
        let directory = RunDirectory::create(home)?;
        if options.disk.is_none() {
            make_disk(&directory.path.join("disk.img"))?;
        }
        std::fs::write(directory.path.join("initramfs"), initramfs(kernel, request)?)?;

        let (input, to_machine) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_machine, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let log = directory.file("qemu.log")?;
        let emulator = Emulator::start(
            emulator_command(kernel, options, request)?,
            &directory.path,
            vec![input.as_fd(), output.as_fd(), log.as_fd()],
        )?;
        Ok(Self { _emulator: emulator, output: from_machine.into(), input: to_machine.into(), directory })
    }

    /// The last words of the kernel and of QEMU, for a machine that did not do what it was asked for.
    pub(super) fn last_words(&self) -> String {
        let read = |name: &str| {
            let bytes = std::fs::read(self.directory.path.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines.iter().skip(lines.len().saturating_sub(40));
            last.map(|line| format!("  {name}: {line}\n")).collect::<String>()
        };
        read("console.log") + &read("qemu.log")
    }
}

/// A running QEMU, killed when dropped.
#[derive(Debug)]
struct Emulator {
    pidfd: OwnedFd,
}

impl Emulator {
    /// Starts it in a session of its own: the terminal's Ctrl-C is for us alone. It does not outlive us.
    fn start(
        command: Vec<String>,
        directory: &Path,
        descriptors: Vec<BorrowedFd<'_>>,
    ) -> Result<Self, Failure> {
        let wrapper = find("setpriv").ok_or("there is no setpriv")?;
        let wrapped = ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned).into_iter().chain(command);
        let child = process::spawn(&Spawn {
            program: Program::Path(&c_path(&wrapper)?),
            arguments: wrapped.map(CString::new).collect::<Result<_, _>>()?,
            environment: vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            descriptors,
            directory: &c_path(directory)?,
            new_session: true,
            cgroup_procs: None,
            umask: 0o022,
            bound: false,
        })
        .map_err(|error| format!("cannot start QEMU: {error}"))?;
        Ok(Self { pidfd: child.pidfd })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        process::send_signal(&self.pidfd, Signal::KILL).ok();
        process::wait(&self.pidfd).ok();
    }
}

fn c_path(path: &Path) -> Result<CString, Failure> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The emulator and its arguments; paths are relative to the run's directory.
fn emulator_command(kernel: &Kernel, options: &Options, request: &Request) -> Result<Vec<String>, Failure> {
    let emulator = find("qemu-system-x86_64").ok_or("there is no qemu-system-x86_64")?;
    let mut line = "console=ttyS0 quiet panic=-1 apparmor=1 security=apparmor mitigations=off \
        random.trust_cpu=on rdinit=/init"
        .to_owned();
    for argument in &options.kernel_arguments {
        line.push(' ');
        line.push_str(argument);
    }
    // What stands behind `--` is the first program's arguments.
    line.push_str(" -- ");
    line.push_str(super::GUEST);
    let words = format!(
        "-nodefaults -no-user-config -display none -no-reboot \
         -machine q35 -accel tcg -cpu max -smp {} -m {} \
         -initrd initramfs \
         -chardev file,id=console,path=console.log -serial chardev:console \
         -device virtio-rng-pci \
         -device virtio-blk-pci,drive=disk \
         -device virtio-9p-pci,fsdev=host,mount_tag=host -device virtio-9p-pci,fsdev=out,mount_tag=out \
         -device virtio-serial-pci -chardev stdio,id=port,signal=off \
         -device virtserialport,chardev=port,name={}",
        options.cpus,
        options.memory,
        super::PORT
    );
    let mut command = vec![path_text(&emulator)?];
    command.extend(words.split_whitespace().map(str::to_owned));
    command.extend(["-drive".to_owned(), drive(options)?]);
    command.extend(["-kernel".to_owned(), path_text(&kernel.image)?, "-append".to_owned(), line]);
    // Files of several file systems of the host may have equal numbers; the machine sees one file system.
    let host = "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap".to_owned();
    // QEMU reads two commas as one that belongs to the path.
    let out =
        format!("local,id=out,path={},security_model=none", path_text(&request.out)?.replace(',', ",,"));
    command.extend(["-fsdev".to_owned(), host, "-fsdev".to_owned(), out]);
    if options.network {
        let words = "-netdev user,id=net -device virtio-net-pci,netdev=net";
        command.extend(words.split_whitespace().map(str::to_owned));
    }
    Ok(command)
}

/// The disk: a file that nobody needs afterwards, or one whose server decides what a flush means.
fn drive(options: &Options) -> Result<String, Failure> {
    Ok(match &options.disk {
        None => "if=none,id=disk,file=disk.img,format=raw,cache=unsafe,discard=unmap".to_owned(),
        Some(socket) => {
            let socket = path_text(socket)?.replace(',', ",,");
            format!("if=none,id=disk,file=nbd:unix:{socket},format=raw,cache=writeback")
        }
    })
}

fn path_text(path: &Path) -> Result<String, Failure> {
    Ok(path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// The first root: this program as its init, the modules it loads, and the request.
fn initramfs(kernel: &Kernel, request: &Request) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "modules"] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, &std::fs::read(std::env::current_exe()?)?);
    archive.file("request.json", 0o644, &serde_json::to_vec(request)?);
    for (index, module) in kernel.early_modules()?.iter().enumerate() {
        let extension = module.extension().unwrap_or_default().to_string_lossy();
        // Loaded in the order of their names.
        archive.file(&format!("modules/{index:02}.{extension}"), 0o644, &std::fs::read(module)?);
    }
    Ok(archive.finish())
}

/// An empty ext4 file system in a sparse file.
fn make_disk(path: &Path) -> Result<(), Failure> {
    File::create(path)?.set_len(DISK)?;
    let lazily = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    check(command("mkfs.ext4").args(["-q", "-F", "-E", lazily]).arg(path))
}

/// The files of one run, which are gone after it. A lock tells those of a run that was killed from those of one that is
/// going on.
#[derive(Debug)]
struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    fn create(home: &Path) -> Result<Self, Failure> {
        let runs = home.join("run");
        std::fs::create_dir_all(&runs)?;
        let everybody = super::lock(home)?;
        for entry in std::fs::read_dir(&runs)? {
            let path = entry?.path();
            let lock = File::create(path.join("lock"))?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                std::fs::remove_dir_all(&path)?;
            }
        }
        let path = runs.join(std::process::id().to_string());
        std::fs::create_dir(&path)?;
        let lock = File::create(path.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // The newest run's console is always found at the same place.
        let console = home.join("console.log");
        File::create(path.join("console.log"))?;
        std::fs::remove_file(&console).ok();
        std::fs::hard_link(path.join("console.log"), &console)?;
        drop(everybody);
        Ok(Self { path, _lock: lock })
    }

    fn file(&self, name: &str) -> Result<File, Failure> {
        Ok(File::options().append(true).create(true).open(self.path.join(name))?)
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}
