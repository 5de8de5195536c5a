//! `cargo xtask dockerfiles [PROJECT…]`: projects as people have them, built by three clients; the images must be equal and must work.
//!
//! 1. A Debian base is made of this machine's package sources, certificates and registries ([`machine`]), so that the Dockerfiles
//!    under `xtask/dockerfiles` say nothing of any machine.
//! 2. Each of the clients ([`clients`]) has a daemon with an empty store. They work side by side and share nothing, so that
//!    what is equal is equal because the steps did the same, and not because it came from one cache.
//! 3. Configurations, histories and file trees are compared ([`compare`]), and each image is run.
//!
//! It ends with an error if anything differs, and needs the network: compilers and libraries come from their registries.

mod clients;
mod compare;
pub(crate) mod machine;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clients::{CLIENTS, Client, Daemon};
use machine::Machine;

use crate::packages::Package;
use crate::process::{cargo, check, host_triple, root};
use crate::task_bench::say;
use crate::{Failure, packages, task_dist};

const PACKAGES: &[Package] = &[("docker.io", "docker"), ("mmdebstrap", "mmdebstrap"), ("tar", "tar")];

/// What the Dockerfiles stand on.
const BASE: &str = "debian:latest";

/// A directory under `xtask/dockerfiles`.
struct Project {
    name: &'static str,
    /// What a container of the image writes.
    prints: &'static str,
}

const PROJECTS: &[Project] = &[
    Project { name: "hello", prints: "hello, world\n" },
    Project { name: "debian", prints: "served\n42\napp\n" },
    Project { name: "python", prints: "a page by Flask\n" },
    Project { name: "node", prints: "2 hours\n" },
    Project { name: "rust", prints: "72757374\n" },
];

/// What came of one project by one client.
struct Made {
    took: Duration,
    image: compare::Image,
}

/// Builds the projects that are named, or all.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("containers need root here: run `sudo -E cargo xtask dockerfiles`".into());
    }
    if let Some(unknown) =
        arguments.iter().find(|name| !PROJECTS.iter().any(|project| project.name == **name))
    {
        let known: Vec<&str> = PROJECTS.iter().map(|project| project.name).collect();
        return Err(format!("no project is called {unknown:?}; there are {}", known.join(", ")).into());
    }
    let chosen =
        |project: &&Project| arguments.is_empty() || arguments.iter().any(|name| name == project.name);
    let projects: Vec<&Project> = PROJECTS.iter().filter(chosen).collect();
    packages::install(PACKAGES)?;
    let palan = match std::env::var_os("PALAN_BIN") {
        Some(path) => path.into(),
        None => task_dist::run()?,
    };
    let bollard = bollard()?;

    let scratch = Scratch::new()?;
    let machine = Machine::read(&scratch.0)?;
    say("Making a Debian base with this machine's package sources")?;
    let base = scratch.0.join("base.tar");
    machine.make_base(&base, &[])?;
    // One of them imports it, so that all have the same image.
    let archive = scratch.0.join("base-image.tar");
    {
        let daemon = Daemon::start(&palan, &scratch.0, 0)?;
        let change = [
            "--change",
            "CMD [\"bash\"]",
            "--change",
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ];
        daemon.quietly(daemon.ours(&["import"]).args(change).arg(&base).arg(BASE))?;
        daemon.quietly(daemon.ours(&["save", "-o"]).arg(&archive).arg(BASE))?;
    }
    std::fs::remove_file(&base)?;

    let work = |number: usize, client: Client| -> Result<Vec<Made>, Failure> {
        let daemon = Daemon::start(&palan, &scratch.0, number)?;
        daemon.quietly(daemon.ours(&["load", "-q", "-i"]).arg(&archive))?;
        let build = |project: &&Project| {
            make(&daemon, client, &bollard, &machine, project).map_err(|failure| {
                format!("{}, {}: {failure}\n{}", project.name, client.name(), daemon.log())
            })
        };
        projects.iter().map(build).collect::<Result<Vec<Made>, String>>().map_err(Failure::from)
    };
    let work = &work;
    let by_client = std::thread::scope(|scope| {
        let clients = CLIENTS.iter().enumerate();
        let workers: Vec<_> =
            clients.map(|(number, client)| scope.spawn(move || work(number, *client))).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Vec<Made>, Failure>>| {
            worker.join().unwrap_or_else(|_| Err("a client's thread panicked".into()))
        };
        workers.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut made = Vec::new();
    let mut failures = Vec::new();
    for outcome in by_client {
        match outcome {
            Ok(images) => made.push(images),
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    if !failures.is_empty() {
        return Err(failures.join("\n").into());
    }
    report(&projects, &made)
}

/// Builds, runs and describes an image.
fn make(
    daemon: &Daemon,
    client: Client,
    bollard: &Path,
    machine: &Machine,
    project: &Project,
) -> Result<Made, Failure> {
    let directory = root().join("xtask/dockerfiles").join(project.name);
    let begun = Instant::now();
    // Not one of the names that the Dockerfiles begin with.
    let image = format!("built-{}", project.name);
    client.build(daemon, bollard, &directory, &image, &machine.build_arguments)?;
    let took = begun.elapsed();
    let printed = crate::process::output(&mut daemon.ours(&["run", "--rm", &image]))?;
    if printed != project.prints {
        return Err(format!("the image prints {printed:?} instead of {:?}", project.prints).into());
    }
    let image = compare::Image::read(daemon, &image)?;
    say(&format!("{} by {}: built in {:.1} s, and works", project.name, client.name(), took.as_secs_f64()))?;
    Ok(Made { took, image })
}

/// The table, and an error if anything differs.
fn report(projects: &[&Project], made: &[Vec<Made>]) -> Result<(), Failure> {
    say("\nWhat may differ between two builds by one tool, and isn't compared:")?;
    for exception in compare::EXCEPTIONS {
        say(&format!("- {}: {}", exception.pattern, exception.reason))?;
    }
    let names: Vec<&str> = CLIENTS.iter().map(|client| client.name()).collect();
    say(&format!("\n| project | {} | configuration, history | files | differences |", names.join(" | ")))?;
    say(&format!("|---|{}---|---|---|", "---|".repeat(names.len())))?;
    let mut different = Vec::new();
    for (number, project) in projects.iter().enumerate() {
        let images: Vec<&Made> = made.iter().filter_map(|by_client| by_client.get(number)).collect();
        let Some((first, others)) = images.split_first() else { continue };
        let mut differences = Vec::new();
        for (other, name) in others.iter().zip(names.iter().skip(1)) {
            let found = first.image.differences(&other.image);
            differences.extend(found.into_iter().map(|line| format!("{}, {name}: {line}", project.name)));
        }
        let times: Vec<String> =
            images.iter().map(|made| format!("{:.1} s", made.took.as_secs_f64())).collect();
        let layers = first.image.facts.len();
        let files = first.image.files.len();
        let count = differences.len();
        say(&format!("| {} | {} | {layers} facts | {files} | {count} |", project.name, times.join(" | ")))?;
        different.extend(differences);
    }
    if different.is_empty() {
        return say("\nThe images are equal, and all work.");
    }
    const SHOWN: usize = 200;
    let more = different.len().saturating_sub(SHOWN);
    let list = different.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    Err(format!("the images differ:\n{list}\n({more} more)").into())
}

/// The program by which bollard builds.
fn bollard() -> Result<PathBuf, Failure> {
    check(cargo().args([
        "build",
        "--locked",
        "--quiet",
        "--package",
        "palan-tests",
        "--example",
        "bollard_build",
    ]))?;
    Ok(root().join("target").join(host_triple()).join("debug/examples/bollard_build"))
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("palan-dockerfiles-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
