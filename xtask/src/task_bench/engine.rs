//! The engine at work: many containers, long logs, big copies, a restart among a thousand; beside Docker.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::peers::Bench;
use super::report::{Contender, Report, say};
use super::subjects::{clear, pss, quietly, supervisors};
use crate::Failure;
use crate::process::output;

/// How an engine is called.
type Call<'a> = dyn Fn(&[&str]) -> Command + Sync + 'a;

/// One of the engines that are compared.
struct Side<'a> {
    name: &'static str,
    call: Box<Call<'a>>,
}

impl Side<'_> {
    fn do_it(&self, arguments: &[&str]) -> Result<(), Failure> {
        quietly((self.call)(arguments))
    }

    fn say(&self, arguments: &[&str]) -> Result<String, Failure> {
        Ok(output(&mut (self.call)(arguments))?.trim().to_owned())
    }

    /// `count` times the same command, by ten clients at once.
    fn by_ten(&self, count: usize, arguments: &[&str]) -> Result<(), Failure> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..10)
                .map(|_| {
                    scope.spawn(|| {
                        (0..count / 10)
                            .try_for_each(|_| self.do_it(arguments))
                            .map_err(|failure| failure.to_string())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| match client.join() {
                Ok(result) => result.map_err(Failure::from),
                Err(_) => Err("a client panicked".into()),
            })
        })
    }
}

fn sides(bench: &Bench) -> Vec<Side<'_>> {
    let mut sides = vec![Side { name: "palan", call: Box::new(|arguments| bench.ours(arguments)) }];
    if bench.docker(&[]).is_some() {
        // There is one: asked a line above.
        let call =
            |arguments: &[&str]| bench.docker(arguments).unwrap_or_else(|| crate::process::command("docker"));
        sides.push(Side { name: "docker", call: Box::new(call) });
    }
    sides
}

fn compare(
    sides: &[Side<'_>],
    report: &mut Report,
    title: &str,
    rounds: usize,
    action: impl Fn(&Side<'_>) -> Result<(), Failure>,
    before: impl Fn(&Side<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (action, before) = (&action, &before);
    let contenders =
        sides.iter().map(|side| Contender::new(side.name, move || action(side)).before(move || before(side)));
    report.compare(title, rounds, contenders.collect())
}

fn nothing(_: &Side<'_>) -> Result<(), Failure> {
    Ok(())
}

/// `cp` of one big file and of many small ones.
pub(super) fn files(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let place = bench.directory.join("files");
    let (big, many, back) = (place.join("big"), place.join("many"), place.join("back"));
    std::fs::create_dir_all(&many)?;
    std::fs::write(&big, palan_test_support::image::noise(500_000_000, 1))?;
    for number in 0..10_000u32 {
        std::fs::write(many.join(number.to_string()), number.to_string())?;
    }
    let sides = sides(bench);
    for side in &sides {
        side.do_it(&["create", "--name", "files", "--network", "none", "bb", "true"])?;
    }
    let path = |path: &PathBuf| path.display().to_string();
    compare(
        &sides,
        report,
        "cp of 500 MB in",
        5,
        |side| side.do_it(&["cp", &path(&big), "files:/big"]),
        nothing,
    )?;
    let out = |side: &Side<'_>| side.do_it(&["cp", "files:/big", &path(&back)]);
    compare(&sides, report, "cp of 500 MB out", 5, out, |_| {
        std::fs::remove_file(&back).ok();
        Ok(())
    })?;
    // Always to a new place: ext4 looks long for an inode where many were freed a moment ago, whoever asks.
    let number = std::cell::Cell::new(0);
    let many_in =
        |side: &Side<'_>| side.do_it(&["cp", &path(&many), &format!("files:/many{}", number.get())]);
    compare(&sides, report, "cp of 10,000 files in", 5, many_in, |_| {
        number.set(number.get() + 1);
        Ok(())
    })?;
    std::fs::remove_dir_all(&place)?;
    clear(bench)
}

/// A gigabyte of lines, written and read. Without a limit of the log's size, which only Docker lacks by default.
pub(super) fn logs(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let sides = sides(bench);
    let script = "yes 'a line of one hundred bytes, as a server might write it to say what it has just done for a client' | head -c 1000000000";
    let write = |side: &Side<'_>| {
        side.do_it(&[
            "run",
            "-d",
            "--name",
            "logs",
            "--network",
            "none",
            "--log-opt",
            "max-size=4g",
            "bb",
            "sh",
            "-c",
            script,
        ])?;
        side.do_it(&["wait", "logs"])
    };
    let contenders = sides.iter().map(|side| Contender::new(side.name, move || write(side))).collect();
    report.once("1 GB of log lines, written", contenders)?;
    let read = |side: &Side<'_>| {
        let mut command = (side.call)(&["logs", "logs"]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err("logs failed".into()) }
    };
    let contenders = sides.iter().map(|side| Contender::new(side.name, move || read(side))).collect();
    report.once("1 GB of log lines, read", contenders)?;
    clear(bench)
}

/// Fifty at once, and what asks about a hundred.
pub(super) fn crowd(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let sides = sides(bench);
    let run = ["run", "-d", "--network", "none", "bb", "sleep", "10000"];
    let remove = |side: &Side<'_>| -> Result<(), Failure> {
        let ids = side.say(&["ps", "-aq"])?;
        let arguments: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.split_whitespace()).collect();
        if arguments.len() > 2 { side.do_it(&arguments) } else { Ok(()) }
    };
    compare(&sides, report, "50 × run -d by 10 clients", 3, |side| side.by_ten(50, &run), remove)?;
    compare(&sides, report, "rm -f of 50 running", 3, remove, |side| {
        remove(side)?;
        side.by_ten(50, &run)
    })?;
    for side in &sides {
        remove(side)?;
        side.by_ten(100, &run)?;
    }
    compare(&sides, report, "ps with 100 running", 10, |side| side.do_it(&["ps"]), nothing)?;
    compare(
        &sides,
        report,
        "stats --no-stream of 100",
        3,
        |side| side.do_it(&["stats", "--no-stream"]),
        nothing,
    )?;
    clear(bench)
}

/// A thousand containers: created ones beside Docker's, running ones of ours.
pub(super) fn thousand(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let sides = sides(bench);
    for side in &sides {
        side.by_ten(1000, &["create", "--network", "none", "bb", "sleep", "10000"])?;
    }
    compare(&sides, report, "ps -a with 1,000", 5, |side| side.do_it(&["ps", "-a"]), nothing)?;
    let restart = |side: &Side<'_>| {
        let time = if side.name == "palan" { bench.restart_ours() } else { bench.restart_docker() };
        time.map(drop)
    };
    // The end of the daemon before is in it: a kill for ours, an orderly end for Docker's.
    compare(&sides, report, "daemon ended and started with 1,000 created", 3, restart, nothing)?;
    clear(bench)?;

    let Some(ours) = sides.first() else { return Ok(()) };
    let begun = Instant::now();
    ours.by_ten(1000, &["run", "-d", "bb", "sleep", "10000"])?;
    report.figure(
        "1,000 × run -d on the bridge by 10 clients",
        begun.elapsed().as_secs_f64(),
        "s",
        "none",
    )?;
    let running = ours.say(&["ps", "-q"])?.lines().count();
    say(&format!("- running: {running}"))?;
    let mut memory = 0.0;
    for pid in supervisors(bench)? {
        memory += pss(pid)?;
    }
    report.figure("1,000 supervisors, PSS", memory, "MiB", "350")?;
    report.figure("daemon with 1,000 running, PSS", pss(bench.daemon_pid())?, "MiB", "none")?;
    compare(&sides[..1], report, "ps with 1,000 running", 5, |side| side.do_it(&["ps"]), nothing)?;
    let mut starts = Vec::new();
    for _ in 0..5 {
        starts.push(bench.restart_ours()?);
    }
    starts.sort_unstable();
    let middle = starts.get(2).copied().unwrap_or_else(Duration::default);
    report.figure("kill -9 to answer, 1,000 running", middle.as_secs_f64() * 1e3, "ms", "50")?;
    let still = ours.say(&["ps", "-q"])?.lines().count();
    say(&format!("- running after five kills: {still}"))?;
    let begun = Instant::now();
    clear(bench)?;
    report.figure("rm -f of 1,000", begun.elapsed().as_secs_f64(), "s", "none")
}
