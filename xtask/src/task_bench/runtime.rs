//! The OCI runtime by its command line: ours, runc's, crun's, and the kernel's floor with the same cgroups.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use palan_linux::mount::{self, Attributes, FileSystem, Propagation};
use palan_linux::namespace::{self, Kind, Kinds};
use palan_linux::process::{self, ForkOptions, Forked};
use serde_json::Value;

use super::floor::Floor;
use super::peers::Bench;
use super::report::{Contender, Report, say};
use super::subjects::quietly;
use crate::Failure;
use crate::process::{check, command, find, output};

/// A runtime: its name, its program, the words before its own arguments.
pub(super) struct Runtime<'a> {
    pub(super) name: &'static str,
    program: PathBuf,
    first: &'static [&'static str],
    pub(super) bench: &'a Bench,
}

thread_local! {
    static NUMBER: RefCell<u32> = const { RefCell::new(0) };
}

/// A name that no container had before.
fn next_name() -> String {
    NUMBER.with_borrow_mut(|number| {
        *number += 1;
        format!("palan-bench-{}-{number}", std::process::id())
    })
}

impl<'a> Runtime<'a> {
    fn ours(bench: &'a Bench) -> Self {
        Self { name: "palan runtime", program: bench.palan.clone(), first: &["runtime"], bench }
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.program);
        let root = state_root(self.bench).join(self.name.replace(' ', "-"));
        command.args(self.first).arg("--root").arg(root).args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<(), Failure> {
        quietly(self.command(arguments))
    }

    fn bundle(&self) -> String {
        self.bench.bundle.to_string_lossy().into_owned()
    }

    fn run(&self) -> Result<(), Failure> {
        self.run_bundle(&self.bench.bundle)
    }

    fn run_bundle(&self, bundle: &Path) -> Result<(), Failure> {
        self.call(&["run", "--bundle", &bundle.to_string_lossy(), &next_name()])
    }

    fn create_start_delete(&self) -> Result<(), Failure> {
        let name = next_name();
        self.create(&name)?;
        self.call(&["start", &name])?;
        self.call(&["delete", "--force", &name])
    }

    /// Creates a container. Its process has our streams and outlives the command, so these must not be pipes to wait on.
    fn create(&self, name: &str) -> Result<(), Failure> {
        let mut create = self.command(&["create", "--bundle", &self.bundle(), name]);
        let status = create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(format!("{create:?}: {status}").into()) }
    }
}

/// All of it.
pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let filtered = filtered_bundle(bench)?;
    let _view = View::enter(bench)?;
    let scratch = state_root(bench).join("floor");
    let rootfs = bench.bundle.join("rootfs");
    for name in ["proc", "dev", "sys"] {
        std::fs::create_dir_all(rootfs.join(name))?;
    }
    let mut runtimes = vec![Runtime::ours(bench)];
    for name in ["runc", "crun"] {
        let Some(program) = find(name) else { continue };
        let peer = Runtime { name, program, first: &[], bench };
        match peer.run() {
            Ok(()) => runtimes.push(peer),
            Err(failure) => say(&format!("{name} takes no part: {failure}"))?,
        }
    }
    let floors = [
        ("floor: namespaces, netns, overlay, pivot, exec, cgroups", Floor { network: true, cgroups: true }),
        ("floor without cgroups", Floor { network: true, cgroups: false }),
        ("floor without cgroups and netns", Floor { network: false, cgroups: false }),
    ];
    let (rootfs, scratch) = (&rootfs, &scratch);
    let mut contenders: Vec<_> =
        runtimes.iter().map(|runtime| Contender::new(runtime.name, || runtime.run())).collect();
    for (name, floor) in floors {
        contenders.push(Contender::new(name, move || floor.run(rootfs, scratch)));
    }
    report.compare("OCI runtime: run `true`", 40, contenders)?;
    let contenders =
        runtimes.iter().map(|runtime| Contender::new(runtime.name, || runtime.run_bundle(&filtered)));
    report.compare("OCI runtime: run `true` under the default seccomp profile", 20, contenders.collect())?;
    let contenders =
        runtimes.iter().map(|runtime| Contender::new(runtime.name, || runtime.create_start_delete()));
    report.compare("OCI runtime: create, start, delete", 20, contenders.collect())?;

    let names: Vec<String> = runtimes.iter().map(|_| next_name()).collect();
    for (runtime, name) in runtimes.iter().zip(&names) {
        runtime.create(name)?;
    }
    let contenders = runtimes
        .iter()
        .zip(&names)
        .map(|(runtime, name)| Contender::new(runtime.name, || runtime.call(&["exec", name, "/bin/true"])));
    let compared = report.compare("OCI runtime: exec `true`", 20, contenders.collect());
    for (runtime, name) in runtimes.iter().zip(&names) {
        runtime.call(&["delete", "--force", name])?;
    }
    compared?;
    for runtime in &runtimes {
        let peak = peak_memory(|| runtime.run())?;
        report.figure(&format!("peak memory of `run`, {}", runtime.name), peak, "MiB", "none")?;
    }
    super::crowd::measure(&runtimes[0], report)
}

/// The bundle with the seccomp profile that an engine gives a default container.
fn filtered_bundle(bench: &Bench) -> Result<PathBuf, Failure> {
    let runtime = find("runc").or_else(|| find("crun")).ok_or("neither runc nor crun is installed")?;
    let runtime = runtime.to_string_lossy();
    let run = ["run", "--detach", "--network", "none", "--runtime", &runtime, "bb", "sleep", "60"];
    let id = output(&mut bench.ours(&run))?.trim().to_owned();
    let made = bench.directory.join("run/containers").join(&id).join("bundle/config.json");
    let read = std::fs::read(&made);
    check(bench.ours(&["rm", "--force", &id]).stdout(Stdio::null()))?;
    let made: Value = serde_json::from_slice(&read?)?;
    let mut spec: Value = serde_json::from_slice(&std::fs::read(bench.bundle.join("config.json"))?)?;
    spec["root"]["path"] = bench.bundle.join("rootfs").to_string_lossy().into();
    spec["linux"]["seccomp"] = made["linux"]["seccomp"].clone();
    let bundle = bench.directory.join("filtered");
    std::fs::create_dir_all(&bundle)?;
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
    Ok(bundle)
}

/// Where the runtimes keep their state: a tmpfs, as /run is where they are used. (Making a file on ext4 costs more the more files
/// were removed there in the last seconds.)
fn state_root(bench: &Bench) -> PathBuf {
    bench.directory.join("state")
}

/// A mount namespace with what the contenders need alike: a tmpfs for their state, and no unified hierarchy beside those of
/// version 1, which crun refuses together. Dropped, it gives the view of before back.
struct View {
    before: OwnedFd,
    directory: PathBuf,
}

impl View {
    fn enter(bench: &Bench) -> Result<Self, Failure> {
        let state = state_root(bench);
        std::fs::create_dir_all(&state)?;
        let view = Self { before: namespace::open(0, Kind::Mount)?, directory: std::env::current_dir()? };
        namespace::unshare(Kinds::MOUNT)?;
        mount::set_root_propagation(Propagation::Private)?;
        let tmpfs = FileSystem::new("tmpfs")?.mount(Attributes::empty())?;
        mount::attach(&tmpfs, std::fs::File::open(&state)?)?;
        if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
            mount::detach(c"/sys/fs/cgroup/unified")?;
        }
        Ok(view)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let back = namespace::join(&self.before, Kind::Mount);
        if back.is_err() || std::env::set_current_dir(&self.directory).is_err() {
            // What follows would be measured in another view than it says.
            std::process::abort();
        }
    }
}

/// The largest resident set, in MiB, of the processes that `action` waits for.
fn peak_memory(action: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let (mut read, mut write) = std::io::pipe()?;
    // The kernel counts the largest of all children of a process: it takes a process that has had no others.
    match process::fork(&ForkOptions::default())? {
        Forked::Child => {
            let peak = action().and_then(|()| Ok(process::usage_of_children()?.peak_memory));
            let told = peak.and_then(|peak| Ok(write.write_all(&peak.to_le_bytes())?));
            process::exit_now(i32::from(told.is_err()))
        }
        Forked::Parent(child) => {
            drop(write);
            let mut bytes = [0; 8];
            let heard = read.read_exact(&mut bytes);
            process::wait(&child.pidfd)?;
            heard?;
            #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
            let peak = u64::from_le_bytes(bytes) as f64 / f64::from(1 << 20);
            Ok(peak)
        }
    }
}
