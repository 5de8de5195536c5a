//! `cargo xtask chaos [--minutes N] [--containers N] [--seed N]`: many containers with health checks and restart policies, clients
//! that do at random what clients do, a daemon that is killed every few seconds, and now and then a supervisor. At the end
//!
//! - what the daemon says, what its supervisors are and what the kernel has must agree ([`check::agrees`]);
//! - no end of a run, no event and no line of a log may be missing ([`check::complete`]): each container says in its log which
//!   run it is and which line, and ends with a code that follows from the run;
//! - with the containers everything else must be gone: processes, mounts, cgroups, interfaces, tables, files.
//!
//! The seed decides what the clients do and when the daemon is killed; what comes of it depends on the machine, too.
//! `PALAN_BIN` is the program; without it one is built.

mod check;
mod clients;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use palan_test_support::daemon::Daemon;
use palan_test_support::image::{ImageBuilder, TarBuilder};
use serde_json::json;

use self::clients::Clients;
use crate::process::{check, command};
use crate::random::Random;
use crate::{Failure, task_dist};

/// The task that does the work, with `PALAN_BIN` in its environment.
pub(crate) const WORK: &str = "chaos-work";
/// The image that all containers run.
const IMAGE: &str = "bb";
/// How many clients there are.
const CLIENTS: u64 = 4;

struct Options {
    minutes: u64,
    containers: u64,
    seed: u64,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.subsec_nanos().into());
        let mut options = Self { minutes: 5, containers: 50, seed: now };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let field = match name.as_str() {
                "--minutes" => &mut options.minutes,
                "--containers" => &mut options.containers,
                "--seed" => &mut options.seed,
                other => {
                    let known = "--minutes N, --containers N, --seed N";
                    return Err(format!("no option is called {other:?}: {known}").into());
                }
            };
            let value = rest.next().ok_or_else(|| format!("{name} needs a number"))?;
            *field = value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))?;
        }
        Ok(options)
    }
}

/// Finds the program, and lets another process of this one work with it.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let Options { minutes, containers, seed } = Options::parse(arguments)?;
    let palan = match std::env::var_os("PALAN_BIN") {
        Some(path) => PathBuf::from(path),
        None => task_dist::run()?,
    };
    let numbers = [("--minutes", minutes), ("--containers", containers), ("--seed", seed)];
    let words = numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]);
    check(command(std::env::current_exe()?).arg(WORK).args(words).env("PALAN_BIN", palan))
}

/// The work.
pub(crate) fn work(arguments: &[String]) -> Result<(), Failure> {
    let options = Options::parse(arguments)?;
    say(&format!("{} minutes, {} containers, --seed {}", options.minutes, options.containers, options.seed));
    let mut random = Random::new(options.seed);
    let mut daemon = Daemon::start();
    load(&daemon)?;
    let stop = AtomicBool::new(false);
    let clients = Clients::new(&daemon, options.containers, &stop);
    clients.create_all(&mut random);
    say("all containers have been made");
    let until = Instant::now() + Duration::from_secs(options.minutes * 60);
    let (mut kills, mut supervisors) = (0, 0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (clients, mut random) = (&clients, Random::new(random.next()));
            scope.spawn(move || clients.work(&mut random));
        }
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(random.between(1000, 6000)));
            let kills_before = random.between(0, 3);
            if kills_before == 0 {
                supervisors += check::kill_a_supervisor(&daemon, &mut random);
            }
            daemon.kill();
            std::thread::sleep(Duration::from_millis(random.between(0, 1500)));
            if kills_before == 1 {
                supervisors += check::kill_a_supervisor(&daemon, &mut random);
            }
            daemon.restart();
            kills += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    say(&format!("the daemon was killed {kills} times, {supervisors} supervisors; {}", clients.summary()));
    let mut wrong = clients.complaints();
    wrong.extend(check::agrees(&daemon));
    wrong.extend(check::complete(&daemon, &clients));
    let log = daemon.log();
    wrong.extend(log.lines().filter(|line| line.contains("panicked")).map(|line| format!("daemon: {line}")));
    if wrong.is_empty() {
        // Dropped, it is searched for leaks.
        drop(daemon);
        say("nothing is lost, nothing is left");
        return Ok(());
    }
    Err(format!("with --seed {}:\n{}\n--- the daemon's log ---\n{log}", options.seed, wrong.join("\n"))
        .into())
}

fn load(daemon: &Daemon) -> Result<(), Failure> {
    let mut tar = TarBuilder::new().directory("bin/", 0o755).directory("tmp/", 0o1777).file(
        "bin/busybox",
        0o755,
        std::fs::read("/usr/bin/busybox")?,
    );
    for applet in ["cat", "echo", "false", "mv", "rm", "sh", "sleep", "test", "true"] {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    let image = ImageBuilder::new().layer(tar.finish()).config("Env", json!(["PATH=/bin"]));
    let archive = daemon.scratch().join("image.tar");
    std::fs::write(&archive, image.build().docker_archive(&["bb:latest"]))?;
    daemon.palan(["load", "-i", &archive.display().to_string()]).ok();
    Ok(())
}

#[expect(clippy::print_stdout, reason = "tasks talk to the person at the terminal")]
fn say(text: &str) {
    println!("{text}");
}
