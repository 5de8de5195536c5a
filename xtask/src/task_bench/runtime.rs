//! The OCI runtime by its command line: ours, runc's, crun's, and the kernel's floor with the same cgroups.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use palan_linux::process::{self, ForkOptions, Forked};

use super::floor::Floor;
use super::peers::Bench;
use super::report::{Contender, Report, say};
use super::subjects::quietly;
use crate::Failure;
use crate::process::{command, find, output};

/// How many containers are created at once, and the memory that they may take together.
const CROWD: u32 = 1000;
const CROWD_BUDGET: &str = "300";

/// A runtime: its name, its program, the words before its own arguments.
struct Runtime<'a> {
    name: &'static str,
    program: PathBuf,
    first: &'static [&'static str],
    bench: &'a Bench,
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

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.program);
        let root = self.bench.directory.join(format!("runtime-{}", self.name.replace(' ', "-")));
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
        self.call(&["run", "--bundle", &self.bundle(), &next_name()])
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
    let scratch = bench.directory.join("floor");
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
    crowd(&runtimes[0], report)
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

/// Creates a thousand containers at once, in a cgroup that counts what they and their creators take.
fn crowd(runtime: &Runtime<'_>, report: &mut Report) -> Result<(), Failure> {
    let name = format!("palan-bench-{}-crowd", std::process::id());
    let hierarchy = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
    let files = ["memory.max_usage_in_bytes", "memory.peak"];
    let counting = hierarchy.into_iter().zip(files).find(|(place, _)| place.join("cgroup.procs").exists());
    let Some((place, peak)) = counting else { return say("no memory controller counts a crowd") };
    let group = place.join(&name);
    std::fs::create_dir_all(group.join("creators"))?;
    let bundle = runtime.bench.directory.join("crowd");
    std::fs::create_dir_all(&bundle)?;
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(runtime.bench.bundle.join("config.json"))?)?;
    spec["root"]["path"] = runtime.bench.bundle.join("rootfs").to_string_lossy().into();
    let mut children = Vec::new();
    for number in 0..CROWD {
        let own = bundle.join(number.to_string());
        std::fs::create_dir_all(&own)?;
        spec["linux"]["cgroupsPath"] = format!("/{name}/{number}").into();
        std::fs::write(own.join("config.json"), serde_json::to_vec(&spec)?)?;
        let create = runtime.command(&["create", "--bundle", &own.to_string_lossy(), &number.to_string()]);
        let mut entered = command("/bin/sh");
        entered
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(group.join("creators/cgroup.procs"))
            .arg(create.get_program())
            .args(create.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        children.push(entered.spawn()?);
    }
    let mut failed = 0;
    for child in &mut children {
        failed += u32::from(!child.wait()?.success());
    }
    let bytes: u64 =
        std::fs::read_to_string(group.join(peak)).unwrap_or_default().trim().parse().unwrap_or(0);
    for number in 0..CROWD {
        // One that was not created is counted already.
        output(&mut runtime.command(&["delete", "--force", &number.to_string()])).ok();
    }
    for directory in ["creators", ""] {
        std::fs::remove_dir(group.join(directory))?;
    }
    remove_groups(&name);
    if failed > 0 {
        return Err(format!("{failed} of {CROWD} containers were not created").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
    let megabytes = bytes as f64 / 1e6;
    report.figure(&format!("{CROWD} containers created at once, memory"), megabytes, "MB", CROWD_BUDGET)
}

/// The parent of the crowd's cgroups in the hierarchies that do not count memory.
fn remove_groups(name: &str) {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
    for hierarchy in hierarchies.flatten() {
        // Not every entry is a hierarchy.
        let _ = std::fs::remove_dir(hierarchy.path().join(name));
    }
}
