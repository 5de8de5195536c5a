//! What a thousand containers that were created and not started keep in memory, counted by a cgroup of version 1 or 2.
//!
//! The kernel charges a process for what it makes for it: namespaces, cgroups, mounts, page tables. No runtime can do without
//! these, so a crowd of bare processes in the same namespaces and cgroups is counted beside ours, and of what is ours the memory of
//! processes stands apart.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use palan_linux::namespace::Kinds;
use palan_linux::process::{self, ForkOptions, Forked};
use serde_json::Value;

use super::floor::hierarchies;
use super::report::{Report, say};
use super::runtime::Runtime;
use crate::Failure;
use crate::process::{command, output};

/// How many containers are created at once, and the memory in MB that their processes may take together.
const CROWD: u32 = 1000;
const BUDGET: &str = "300";

/// The cgroup that counts, and its parents in the other hierarchies.
struct Counter {
    name: String,
    group: PathBuf,
}

/// What was counted, in bytes.
struct Counted {
    processes: u64,
    all: u64,
}

impl Counter {
    fn new() -> Result<Option<Self>, Failure> {
        let name = format!("palan-bench-{}-crowd", std::process::id());
        let mut places = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].into_iter().map(Path::new);
        let Some(place) = places.find(|place| place.join("cgroup.procs").exists()) else { return Ok(None) };
        let group = place.join(&name);
        std::fs::create_dir_all(group.join("creators"))?;
        Ok(Some(Self { name, group }))
    }

    fn creators(&self) -> PathBuf {
        self.group.join("creators/cgroup.procs")
    }

    fn read(&self) -> Result<Counted, Failure> {
        let stat = std::fs::read_to_string(self.group.join("memory.stat"))?;
        let value = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<u64>().ok())
        };
        let processes =
            value("total_rss").or_else(|| value("anon")).ok_or("memory.stat counts no processes")?;
        let all = ["memory.max_usage_in_bytes", "memory.peak", "memory.current"];
        let all = all.iter().find_map(|file| std::fs::read_to_string(self.group.join(file)).ok());
        Ok(Counted { processes, all: all.ok_or("the cgroup does not count its memory")?.trim().parse()? })
    }

    fn remove(self) -> Result<(), Failure> {
        for directory in ["creators", ""] {
            std::fs::remove_dir(self.group.join(directory))?;
        }
        for hierarchy in hierarchies() {
            // A hierarchy that the runtime did not use has none.
            let _ = std::fs::remove_dir(hierarchy.join(&self.name));
        }
        Ok(())
    }
}

/// Counts the crowds and says what they take.
pub(super) fn measure(runtime: &Runtime<'_>, report: &mut Report) -> Result<(), Failure> {
    for name in [runtime.name, "bare processes"] {
        let Some(counter) = Counter::new()? else { return say("no memory controller counts a crowd") };
        let counted = if name == runtime.name { ours(runtime, &counter) } else { bare(&counter) };
        counter.remove()?;
        let counted = counted?;
        let title = |what: &str| format!("{CROWD} created at once, {name}: {what}");
        report.figure(&title("memory of the processes"), megabytes(counted.processes), "MB", BUDGET)?;
        report.figure(&title("with all that the kernel keeps"), megabytes(counted.all), "MB", "none")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Creates a thousand containers, all at once.
fn ours(runtime: &Runtime<'_>, counter: &Counter) -> Result<Counted, Failure> {
    let bundles = runtime.bench.directory.join("crowd");
    let config = std::fs::read(runtime.bench.bundle.join("config.json"))?;
    let mut spec: Value = serde_json::from_slice(&config)?;
    spec["root"]["path"] = runtime.bench.bundle.join("rootfs").to_string_lossy().into();
    let mut children = Vec::new();
    for number in 0..CROWD {
        let bundle = bundles.join(number.to_string());
        std::fs::create_dir_all(&bundle)?;
        spec["linux"]["cgroupsPath"] = format!("/{}/{number}", counter.name).into();
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
        let create = runtime.command(&["create", "--bundle", &bundle.to_string_lossy(), &number.to_string()]);
        let mut entered = command("/bin/sh");
        entered.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(counter.creators());
        entered.arg(create.get_program()).args(create.get_args());
        entered.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        children.push(entered.spawn()?);
    }
    let mut failed = 0;
    for child in &mut children {
        failed += u32::from(!child.wait()?.success());
    }
    let counted = counter.read();
    for number in 0..CROWD {
        // One that was not created is counted already.
        output(&mut runtime.command(&["delete", "--force", &number.to_string()])).ok();
    }
    if failed > 0 {
        return Err(format!("{failed} of {CROWD} containers were not created").into());
    }
    counted
}

/// A thousand processes that wait in namespaces and cgroups like those of the containers.
fn bare(counter: &Counter) -> Result<Counted, Failure> {
    let (ready, mut told) = std::io::pipe()?;
    let (waited, hold) = std::io::pipe()?;
    match process::fork(&ForkOptions::default())? {
        Forked::Child => {
            drop((ready, hold));
            let made = make_bare(counter, waited);
            let said = told.write_all(&[u8::from(made.is_ok())]);
            drop(told);
            if let (Ok((mut waited, children)), Ok(())) = (made, said) {
                // Its end is the word to go.
                waited.read_to_end(&mut Vec::new()).ok();
                for child in children {
                    process::wait(child).ok();
                }
            }
            process::exit_now(0)
        }
        Forked::Parent(creator) => {
            drop((told, waited));
            let mut word = [0];
            let heard = (&ready).read_exact(&mut word);
            let counted = counter.read();
            drop(hold);
            process::wait(&creator.pidfd)?;
            for hierarchy in hierarchies() {
                for number in 0..CROWD {
                    std::fs::remove_dir(hierarchy.join(&counter.name).join(number.to_string())).ok();
                }
            }
            heard?;
            if word == [1] { counted } else { Err("the bare processes were not made".into()) }
        }
    }
}

/// Makes them, in the cgroup of creators; they end when the writing side of `wait` is closed.
fn make_bare(
    counter: &Counter,
    wait: std::io::PipeReader,
) -> Result<(std::io::PipeReader, Vec<std::os::fd::OwnedFd>), Failure> {
    std::fs::write(counter.creators(), "0")?;
    let kinds = Kinds::MOUNT
        | Kinds::PROCESS_ID
        | Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kinds::INTER_PROCESS_COMMUNICATION
        | Kinds::NETWORK;
    let mut children = Vec::new();
    for number in 0..CROWD {
        let mut groups = Vec::new();
        for hierarchy in hierarchies() {
            let group = hierarchy.join(&counter.name).join(number.to_string());
            std::fs::create_dir_all(&group)?;
            groups.push(group);
        }
        match process::fork(&ForkOptions { namespaces: Some(kinds), ..ForkOptions::default() })? {
            Forked::Child => {
                // The sets of CPUs and memory are empty in a new cpuset: it stays in its parent's.
                let joined = groups.iter().filter(|group| !group.to_string_lossy().contains("/cpuset/"));
                let joined = joined.map(|group| std::fs::write(group.join("cgroup.procs"), "0"));
                let joined = joined.collect::<std::io::Result<Vec<()>>>();
                (&wait).read_to_end(&mut Vec::new()).ok();
                process::exit_now(i32::from(joined.is_err()))
            }
            Forked::Parent(child) => children.push(child.pidfd),
        }
    }
    Ok((wait, children))
}
