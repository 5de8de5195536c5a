//! The clients: each does one thing after the other to a container of its choice, whether a daemon is there or not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use palan_test_support::daemon::{Daemon, Run, finish, program};

use super::IMAGE;
use crate::process::command;
use crate::random::Random;

/// What a container runs: it says which run it is, then so many lines, and ends with a code that follows from the run.
const SCRIPT: &str = "n=$(cat /n 2>/dev/null || echo 0); n=$((n+1)); echo run $n; echo $n > /m; mv /m /n; i=0; \
                      while test $i -lt LINES; do echo line $n $i; i=$((i+1)); sleep 0.05; done; \
                      echo end $n; exit $((1 + n % 100))";

/// Answers that are no fault: the daemon is away, or the container is in another state than the client thought.
const EXPECTED: &[&str] = &[
    "annot connect to the", // the daemon is away
    "is the daemon running",
    "unexpected end of file",
    "onnection reset",
    "roken pipe",
    "onnection refused",
    "No such container",
    "No such object",
    // The daemon that made it was killed before it was started.
    "No such exec instance",
    // Its container ended before it was started.
    "has already run",
    "is not running",
    "is restarting",
    "already in progress",
    "already paused",
    "is not paused",
    "is paused",
    "already stopped",
    "already in use",
    "cannot remove container",
    "marked for removal",
    "being removed",
    "has ended",
    "connection to the supervisor",
    "the supervisor of the last run",
    "cannot start a paused container",
    "closed the connection",
    "failed to get the exit code",
];

/// What all clients share.
pub(super) struct Clients<'a> {
    host: String,
    config: PathBuf,
    containers: u64,
    stop: &'a AtomicBool,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    done: BTreeMap<&'static str, u64>,
    complaints: Vec<String>,
    /// Containers and the codes that `wait` has told.
    codes: Vec<(String, i32)>,
}

impl<'a> Clients<'a> {
    pub(super) fn new(daemon: &Daemon, containers: u64, stop: &'a AtomicBool) -> Self {
        let config = daemon.scratch().join("docker-config");
        Self { host: daemon.host(), config, containers, stop, told: Mutex::default() }
    }

    /// Runs `palan` to its end.
    fn palan(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), None)
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = command(program());
        command.args(words).env("PALAN_HOST", &self.host).env("DOCKER_CONFIG", &self.config);
        command.env("PALAN_NO_AUTOSTART", "1").env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        command
    }

    pub(super) fn create_all(&self, random: &mut Random) {
        for number in 0..self.containers {
            self.create(&format!("c{number}"), random);
        }
    }

    fn create(&self, name: &str, random: &mut Random) {
        let policies = ["no", "always", "unless-stopped", "on-failure", "on-failure:3", "always"];
        let script = SCRIPT.replace("LINES", &random.between(5, 200).to_string());
        let mut words = vec!["run", "-d", "--name", name, "--restart", pick(&policies, random)];
        match random.between(0, 5) {
            0 => words.extend(["--network", "none"]),
            1 => words.extend(["-p", "80"]),
            2 => words.extend(["--cap-add", "NET_ADMIN"]),
            _ => {}
        }
        let check = if random.between(0, 3) == 0 { "false" } else { "true" };
        if random.between(0, 1) == 0 {
            words.extend(["--health-cmd", check, "--health-interval", "300ms", "--health-retries", "3"]);
            words.extend(["--health-on-failure", pick(&["none", "kill", "restart", "stop"], random)]);
        }
        words.extend([IMAGE, "sh", "-c", &script]);
        self.note("run", &self.palan(&words));
    }

    /// One thing after the other until it is told to stop.
    pub(super) fn work(&self, random: &mut Random) {
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(random.between(0, 150)));
            let name = format!("c{}", random.between(0, self.containers - 1));
            let name = name.as_str();
            let signal = pick(&["KILL", "TERM", "HUP"], random);
            let policy = pick(&["no", "always", "unless-stopped", "on-failure:2"], random);
            let words: &[&str] = match random.between(0, 99) {
                0..20 => &["start", name],
                20..28 => &["stop", "-t", pick(&["0", "1"], random), name],
                28..36 => &["kill", "-s", signal, name],
                36..44 => &["restart", "-t", "0", name],
                44..50 => &["pause", name],
                50..60 => &["unpause", name],
                60..70 => &["exec", name, "true"],
                70..75 => &["logs", "--tail", "5", name],
                75..80 => &["inspect", name],
                80..85 => &["update", "--restart", policy, name],
                85..88 => &["update", "--pids-limit", "100", name],
                88..92 => &["ps", "-a"],
                92..97 => {
                    self.wait(name, random);
                    continue;
                }
                _ => {
                    self.note("rm", &self.palan(&["rm", "-f", name]));
                    self.create(name, random);
                    continue;
                }
            };
            let word =
                ["start", "stop", "kill", "restart", "pause", "unpause", "exec", "logs", "inspect", "update"];
            let word = word.into_iter().find(|word| *word == words[0]).unwrap_or("ps");
            self.note(word, &self.palan(words));
        }
    }

    /// Waits for an end, but not for long; what it is told must be an exit code of the container.
    fn wait(&self, name: &str, random: &mut Random) {
        let id = self.palan(&["inspect", "-f", "{{.Id}}", name]);
        let mut command = self.command(&["wait", id.line()]);
        let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else { return };
        let until = Instant::now() + Duration::from_millis(random.between(500, 8000));
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if matches!(child.try_wait(), Ok(None)) {
            child.kill().ok();
        }
        if let Ok(output) = child.wait_with_output()
            && let Ok(code) = String::from_utf8_lossy(&output.stdout).trim().parse()
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.codes.push((id.line().to_owned(), code));
            *told.done.entry("wait").or_default() += 1;
        }
    }

    fn note(&self, word: &'static str, run: &Run) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told.done.entry(word).or_default() += 1;
        // A process that ended with its container, or came too late for it, which is told on its output.
        let was_killed = word == "exec" && matches!(run.code, 126 | 128 | 137);
        if run.code != 0 && !was_killed && !EXPECTED.iter().any(|text| run.stderr.contains(text)) {
            told.complaints.push(format!("{} ({}): {}", run.command, run.code, run.stderr.trim()));
        }
    }

    /// What was done how often.
    pub(super) fn summary(&self) -> String {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = told.done.iter().map(|(word, count)| format!("{word} {count}"));
        counts.collect::<Vec<_>>().join(", ")
    }

    /// Answers that nobody expects.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).complaints.clone()
    }

    /// Codes that `wait` has told of this container.
    pub(super) fn codes(&self, id: &str) -> Vec<i32> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.codes.iter().filter(|(of, _)| of == id).map(|(_, code)| *code).collect()
    }
}

fn pick<'a>(list: &[&'a str], random: &mut Random) -> &'a str {
    let last = list.len().saturating_sub(1) as u64;
    usize::try_from(random.between(0, last)).ok().and_then(|at| list.get(at)).copied().unwrap_or_default()
}
