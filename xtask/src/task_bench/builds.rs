//! Builds: steps, contexts, stages; beside Docker's two builders and buildah.
//!
//! Cold is with an empty cache over the same base image, with the files of the context in memory. Many small files are cold when no builder
//! has seen them, each time others: where a cache of them was removed, ext4 looks at each of the removed inodes for every file that is
//! made in the next minute, which takes longer than all else and says nothing of the builder. Cached is the same build again. Buildah runs its steps in a chroot, with neither namespaces nor cgroups: its way with containers needs more of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use palan_test_support::image::noise;

use super::peers::Bench;
use super::report::{Contender, Report, say};
use super::subjects::quietly;
use crate::Failure;
use crate::process::command;

/// What the images are called that are built.
const TAG: &str = "bench-built";

/// How a command of a builder is begun.
type Call<'a> = dyn Fn(&[&str]) -> Command + 'a;

struct Builder<'a> {
    name: &'static str,
    call: Box<Call<'a>>,
    /// The arguments that build.
    build: &'static [&'static str],
    /// What empties its cache; without it, a cold build is one that uses none.
    prune: Option<&'static [&'static str]>,
    /// The arguments that take in an archive of `save`, whose path comes last.
    load: &'static [&'static str],
    /// What stands before that path.
    transport: &'static str,
}

impl Builder<'_> {
    fn build(&self, place: &Path, more: &[&str]) -> Result<(), Failure> {
        let mut command = (self.call)(self.build);
        command.args(more).args(["-q", "-t", TAG]).arg(place);
        quietly(command)
    }

    fn load(&self, archive: &Path) -> Result<(), Failure> {
        let from = format!("{}{}", self.transport, archive.display());
        quietly((self.call)(&[self.load, &[&from]].concat()))
    }

    /// Forgets what it has built.
    fn forget(&self) -> Result<(), Failure> {
        // It may not be there.
        quietly((self.call)(&["rmi", "-f", TAG])).ok();
        self.prune.map_or(Ok(()), |prune| quietly((self.call)(prune)))
    }

    fn cold(&self, place: &Path) -> Result<(), Failure> {
        self.build(place, if self.prune.is_some() { &[] } else { &["--no-cache"] })
    }
}

const PRUNE: &[&str] = &["builder", "prune", "-af"];
const LOAD: &[&str] = &["load", "-q", "-i"];

fn builders<'a>(bench: &'a Bench) -> Result<Vec<Builder<'a>>, Failure> {
    let ours = Builder {
        name: "palan",
        call: Box::new(|arguments| bench.ours(arguments)),
        build: &["build"],
        prune: Some(PRUNE),
        load: LOAD,
        transport: "",
    };
    let mut builders = vec![ours];
    let probe = bench.directory.join("probe");
    std::fs::create_dir_all(&probe)?;
    std::fs::write(probe.join("Dockerfile"), "FROM bb\nRUN true\n")?;
    // Whether it works here.
    let try_it = |builder: &Builder<'a>| builder.build(&probe, &[]).map_err(|failure| failure.to_string());
    if let Some(socket) = bench.docker_socket() {
        for buildkit in [true, false] {
            // Newer clients need a plugin for BuildKit; an older one may be beside them.
            let mut failures = Vec::new();
            for program in programs("docker") {
                let call = move |arguments: &[&str]| {
                    let mut command = command(&program);
                    command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
                    command.env("DOCKER_BUILDKIT", if buildkit { "1" } else { "0" }).args(arguments);
                    command
                };
                let builder = Builder {
                    name: if buildkit { "docker, BuildKit" } else { "docker, classic" },
                    call: Box::new(call),
                    build: &["build"],
                    prune: buildkit.then_some(PRUNE),
                    load: LOAD,
                    transport: "",
                };
                match try_it(&builder) {
                    Ok(()) => {
                        builders.push(builder);
                        failures.clear();
                        break;
                    }
                    Err(failure) => failures.push(format!("{} takes no part: {failure}", builder.name)),
                }
            }
            failures.iter().try_for_each(|failure| say(failure))?;
        }
    }
    if let Some(buildah) = programs("buildah").into_iter().next() {
        let directory = bench.directory.clone();
        let call = move |arguments: &[&str]| {
            let mut command = command(&buildah);
            command.arg("--root").arg(directory.join("buildah"));
            command.arg("--runroot").arg(directory.join("buildah-run"));
            command.args(["--storage-driver", "overlay"]).args(arguments);
            command
        };
        let build: &[&str] = &["bud", "--isolation", "chroot", "--layers"];
        let builder = Builder {
            name: "buildah, chroot",
            call: Box::new(call),
            build,
            prune: None,
            load: &["pull", "-q"],
            transport: "docker-archive:",
        };
        let loaded = builder.load(&bench.directory.join("bb.tar")).map_err(|failure| failure.to_string());
        match loaded.and_then(|()| try_it(&builder)) {
            Ok(()) => builders.push(builder),
            Err(failure) => say(&format!("buildah takes no part: {failure}"))?,
        }
    }
    Ok(builders)
}

/// Every program of this name, in the order in which they are looked for.
fn programs(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).filter(|path| path.is_file()).collect()
}

/// What is built, and by whom.
pub(super) struct Yard<'a> {
    builders: Vec<Builder<'a>>,
    pub(super) place: PathBuf,
}

impl<'a> Yard<'a> {
    pub(super) fn prepare(bench: &'a Bench, dockerfile: &str) -> Result<Self, Failure> {
        let builders = builders(bench)?;
        let place = bench.directory.join("context");
        std::fs::create_dir_all(&place)?;
        std::fs::write(place.join("Dockerfile"), dockerfile)?;
        Ok(Self { builders, place })
    }

    /// Gives every builder an image to build upon; who can't take it or can't build then takes no part.
    pub(super) fn load(&mut self, archive: &Path) -> Result<(), Failure> {
        let place = &self.place;
        let mut told = Ok(());
        self.builders.retain(|builder| {
            let tried = builder.load(archive).and_then(|()| builder.build(place, &[]));
            if let Err(failure) = &tried {
                told = say(&format!("{} takes no part: {failure}", builder.name));
            }
            tried.is_ok()
        });
        if self.builders.first().is_none_or(|builder| builder.name != "palan") {
            return Err("palan does not build it".into());
        }
        told
    }

    pub(super) fn cold(&self, report: &mut Report, title: &str, rounds: usize) -> Result<(), Failure> {
        let contenders = self.builders.iter().map(|builder| {
            Contender::new(builder.name, || builder.cold(&self.place)).before(|| builder.forget())
        });
        report.compare(title, rounds, contenders.collect())
    }

    /// Builds of contexts that nobody has seen. The classic builder and buildah, which remove as many files as they make, come last.
    fn unseen(&self, report: &mut Report, title: &str, places: &[PathBuf]) -> Result<(), Failure> {
        let contenders = self.builders.iter().map(|builder| {
            let mut places = places.iter();
            Contender::new(builder.name, move || builder.cold(places.next().ok_or("too few contexts")?))
        });
        // One is for the round of warm-up.
        report.compare_in_rows(title, places.len().saturating_sub(1), contenders.collect())
    }

    pub(super) fn cached(&self, report: &mut Report, title: &str, rounds: usize) -> Result<(), Failure> {
        self.after(report, title, rounds, || Ok(()))
    }

    /// The same build again, after a change.
    pub(super) fn after(
        &self,
        report: &mut Report,
        title: &str,
        rounds: usize,
        change: impl Fn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // Of two builds in a row the second would wait for what the first one left to be written.
        let change = &|| {
            rustix::fs::sync();
            change()
        };
        let contenders = self
            .builders
            .iter()
            .map(|builder| Contender::new(builder.name, || builder.build(&self.place, &[])).before(change));
        report.compare_in_rows(title, rounds, contenders.collect())
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        self.builders.iter().try_for_each(Builder::forget)?;
        Ok(std::fs::remove_dir_all(&self.place)?)
    }
}

/// Ten commands that do nothing.
pub(super) fn steps(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let yard = Yard::prepare(bench, &format!("FROM bb\n{}", "RUN true\n".repeat(10)))?;
    yard.cold(report, "build, 10 × RUN true, cold (goal 0.4 s)", 5)?;
    yard.cached(report, "build, 10 × RUN true, cached (goal 40 ms)", 10)?;
    yard.end()
}

/// Until ext4 no longer looks at what was removed before: a minute after the removal, if it is on the disk.
fn rest() {
    rustix::fs::sync();
    std::thread::sleep(std::time::Duration::from_secs(65));
}

/// Many small files.
pub(super) fn files(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let dockerfile = "FROM bb\nCOPY files /files\n";
    let mut yard = Yard::prepare(bench, dockerfile)?;
    let mut places = Vec::new();
    for round in 0..6_u64 {
        let place = yard.place.join(round.to_string());
        for directory in 0..100_u64 {
            let path = place.join("files").join(directory.to_string());
            std::fs::create_dir_all(&path)?;
            for file in 0..100_u64 {
                let number = directory * 100 + file + 1;
                let size = usize::try_from(number * 7919 % 4096)?;
                std::fs::write(path.join(file.to_string()), noise(size, round * 10_000 + number))?;
            }
        }
        std::fs::write(place.join("Dockerfile"), dockerfile)?;
        places.push(place);
    }
    rustix::fs::sync();
    rest();
    yard.unseen(report, "COPY of 10,000 files, cold (goal 1.2 s)", &places)?;
    let all = yard.place.clone();
    yard.place = yard.place.join("0");
    yard.cached(report, "COPY of 10,000 files, cached (goal 0.12 s)", 5)?;
    let changed = yard.place.join("files/50/50");
    let changes = std::cell::Cell::new(0_u32);
    rest();
    yard.after(report, "COPY of 10,000 files, one changed (goal 0.3 s)", 5, || {
        changes.set(changes.get() + 1);
        Ok(std::fs::write(&changed, format!("change {}", changes.get()))?)
    })?;
    yard.place = all;
    yard.end()
}

/// One big file.
pub(super) fn big(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let yard = Yard::prepare(bench, "FROM bb\nCOPY big /big\n")?;
    std::fs::write(yard.place.join("big"), noise(500_000_000, 1))?;
    yard.cold(report, "COPY of 500 MB, cold (goal 1.5 s)", 3)?;
    yard.cached(report, "COPY of 500 MB, cached (goal 0.1 s)", 5)?;
    yard.end()
}

/// Two stages that need nothing of each other.
pub(super) fn stages(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let dockerfile = "FROM bb AS one\nRUN sleep 3 && echo > /one\nFROM bb AS two\nRUN sleep 3 && echo > /two\n\
                      FROM bb\nCOPY --from=one /one /\nCOPY --from=two /two /\n";
    let yard = Yard::prepare(bench, dockerfile)?;
    yard.cold(report, "build, two stages that sleep 3 s (goal 3.15 s)", 3)?;
    yard.end()
}
