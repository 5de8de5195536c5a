//! What must be true in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::wait_until;
use serde_json::Value;

use super::clients::Clients;
use crate::random::Random;

/// The code of a run that was killed.
const KILLED: i64 = 137;
/// How long what is in motion may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether daemon, supervisors and kernel say the same of every container. The containers go on meanwhile, so what differs is
/// looked at again.
pub(super) fn agrees(daemon: &Daemon) -> Vec<String> {
    let mut wrong = Vec::new();
    wait_until(PATIENCE, || {
        wrong = differences(daemon);
        wrong.is_empty()
    });
    wrong
}

fn differences(daemon: &Daemon) -> Vec<String> {
    let mut wrong = Vec::new();
    let supervisors = supervisors(daemon);
    let containers = containers(daemon);
    let mut on_bridge = 0;
    for container in &containers {
        let id = container["Id"].as_str().unwrap_or_default();
        let (name, state) = (&container["Name"], &container["State"]);
        let mut complain = |text: &str| wrong.push(format!("{name}: {text}: {state}"));
        let pid = state["Pid"].as_i64().unwrap_or_default();
        let is_live = state["Running"] == true;
        let own: Vec<i64> = supervisors.get(id).into_iter().flatten().copied().collect();
        match state["Status"].as_str() {
            Some("running" | "paused") => {
                if parent(pid).is_none_or(|parent| !own.contains(&parent)) {
                    complain("its process is no child of its supervisor");
                }
                if own.len() != 1 {
                    complain(&format!("it has {} supervisors", own.len()));
                }
            }
            // A supervisor, or none when the daemon starts the next run.
            Some("restarting") if own.len() <= 1 => {}
            Some("exited" | "created") => {
                if !own.is_empty() {
                    complain("it has a supervisor");
                }
                if cgroups(daemon, id) > 0 {
                    complain("it has a cgroup");
                }
            }
            _ => complain("a strange state"),
        }
        let address = container["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].as_str();
        on_bridge += usize::from(is_live && address.is_some_and(|address| !address.is_empty()));
    }
    let ids: BTreeSet<&str> = containers.iter().filter_map(|container| container["Id"].as_str()).collect();
    for id in supervisors.keys().filter(|id| !ids.contains(id.as_str())) {
        wrong.push(format!("a supervisor of {id}, which does not exist"));
    }
    let ports = std::fs::read_dir(Path::new("/sys/class/net").join(daemon.bridge()).join("brif"));
    let ports = ports.map_or(0, Iterator::count);
    if ports != on_bridge {
        wrong.push(format!("the bridge has {ports} interfaces, {on_bridge} containers are on it"));
    }
    let spaces = namespaces(i64::from(daemon.pid()));
    // One may be in reserve.
    if spaces > 1 {
        wrong.push(format!("the daemon holds {spaces} network namespaces"));
    }
    wrong
}

/// Whether each container's events and log tell of the same runs, and nobody was told what they don't.
pub(super) fn complete(daemon: &Daemon, clients: &Clients<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let ids: Vec<String> =
        containers(daemon).iter().filter_map(|one| Some(one["Id"].as_str()?.to_owned())).collect();
    let lives = ids.iter().map(|id| (id, inspect(daemon, id)["Name"].to_string()));
    for (id, name) in lives.collect::<Vec<_>>() {
        // It shall not go on while it is looked at.
        daemon.palan(["unpause", id]);
        daemon.palan(["stop", "-t", "0", id]);
        let inspected = inspect(daemon, id);
        let mut told = Vec::new();
        let mut actions = events(daemon, id);
        // The daemon keeps the last events only: then the story begins with the first start that is known.
        let is_whole = actions.first().is_some_and(|(action, _)| action == "create");
        if !is_whole {
            let begin = actions.iter().position(|(action, _)| action == "start").unwrap_or(actions.len());
            actions.drain(..begin);
        }
        let mut is_running = false;
        let mut codes = Vec::new();
        for (action, code) in &actions {
            match action.as_str() {
                "start" if is_running => told.push("two starts without an end".to_owned()),
                "start" => is_running = true,
                "die" if !is_running => told.push("an end without a start".to_owned()),
                "die" => {
                    is_running = false;
                    codes.extend(*code);
                }
                _ => {}
            }
        }
        if is_running {
            told.push("a start without an end".to_owned());
        }
        let last = inspected["State"]["ExitCode"].as_i64();
        if codes.last().is_some() && codes.last().copied() != last {
            told.push(format!("the last end is not that of the state, {last:?}"));
        }
        for code in clients.codes(id) {
            if is_whole && !codes.contains(&i64::from(code)) && code != 0 {
                told.push(format!("a wait was told {code}"));
            }
        }
        told.extend(log_differs(&daemon.palan(["logs", id]).stdout, &codes, is_whole));
        if !told.is_empty() {
            let log = daemon.palan(["logs", "--tail", "20", id]).stdout;
            let state = &inspected["State"];
            wrong.push(format!("{name} ({id}): {}\n{state}\n{actions:?}\n{log}", told.join("; ")));
        }
    }
    wrong
}

/// Every line is followed by the one that comes next, and every run that says that it ends has ended with its code. `codes` are
/// those of all runs, or of the last ones.
fn log_differs(log: &str, codes: &[i64], is_whole: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut run, mut line, mut ends) = (0_i64, 0_i64, Vec::new());
    for text in log.lines() {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok()).unwrap_or(-1);
        match words.first() {
            // One that was killed before it had written its number down comes again.
            Some(&"run") if number(1) == run + 1 || number(1) == run => (run, line) = (number(1), 0),
            Some(&"line") if number(1) == run && number(2) == line => line += 1,
            Some(&"end") if number(1) == run => ends.push(1 + run % 100),
            _ => wrong.push(format!("{text:?} after line {line} of run {run}")),
        }
    }
    let natural: Vec<i64> = codes.iter().copied().filter(|code| *code != KILLED).collect();
    if natural != ends && (is_whole || !ends.ends_with(&natural)) {
        wrong.push(format!("runs ended with {natural:?}, the log says {ends:?}"));
    }
    wrong
}

fn containers(daemon: &Daemon) -> Vec<Value> {
    let ids = daemon.palan(["ps", "-aq", "--no-trunc"]).ok();
    ids.stdout.lines().map(|id| inspect(daemon, id)).filter(|one| !one.is_null()).collect()
}

fn inspect(daemon: &Daemon, id: &str) -> Value {
    serde_json::from_str(&daemon.palan(["inspect", "-f", "{{json .}}", id]).stdout).unwrap_or_default()
}

fn events(daemon: &Daemon, id: &str) -> Vec<(String, Option<i64>)> {
    let container = format!("container={id}");
    let words =
        ["events", "--since", "24h", "--until", "0s", "--filter", &container, "--format", "{{json .}}"];
    let told = daemon.palan(words).ok().stdout;
    let told = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let parts = told.map(|event| {
        let code = event["Actor"]["Attributes"]["exitCode"].as_str().and_then(|code| code.parse().ok());
        (event["Action"].as_str().unwrap_or_default().to_owned(), code)
    });
    parts.filter(|(action, _)| !action.starts_with("exec_")).collect()
}

/// Kills one that is chosen at random; returns how many.
pub(super) fn kill_a_supervisor(daemon: &Daemon, random: &mut Random) -> u64 {
    let pids: Vec<i64> = supervisors(daemon).into_values().flatten().collect();
    let last = pids.len().saturating_sub(1) as u64;
    let chosen = usize::try_from(random.between(0, last)).ok().and_then(|at| pids.get(at));
    let pid = chosen.and_then(|pid| i32::try_from(*pid).ok()).and_then(rustix::process::Pid::from_raw);
    let killed = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
    u64::from(killed.is_some_and(|outcome| outcome.is_ok()))
}

/// The supervisors by container, of all processes.
fn supervisors(daemon: &Daemon) -> BTreeMap<String, Vec<i64>> {
    let prefix = format!("{}/containers/", daemon.run_root().display());
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let directory = line.split('\0').find_map(|word| word.strip_prefix(prefix.as_str()));
        if let Some(id) = directory {
            found.entry(id.trim_end_matches('/').to_owned()).or_default().push(pid);
        }
    }
    found
}

fn parent(pid: i64) -> Option<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// In how many hierarchies a container has a cgroup.
fn cgroups(daemon: &Daemon, id: &str) -> usize {
    let group = format!("{}/{id}", daemon.cgroup().trim_start_matches('/'));
    let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    roots.chain(["/sys/fs/cgroup".into()]).filter(|root| root.join(&group).is_dir()).count()
}

/// The network namespaces that a process holds.
fn namespaces(pid: i64) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("net:[")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_a_log_is_seen() {
        let good = "run 1\nline 1 0\nend 1\nrun 2\nline 2 0\nline 2 1\nrun 2\nline 2 0\n";
        assert!(log_differs(good, &[2, KILLED, KILLED], true).is_empty());
        assert_eq!(log_differs(good, &[KILLED], true).len(), 1);
        assert!(log_differs(good, &[KILLED], false).is_empty());
        assert_eq!(log_differs("run 1\nline 1 1\n", &[KILLED], true).len(), 1);
        assert_eq!(log_differs("run 1\nline 1 0\nline 1 0\n", &[KILLED], true).len(), 1);
        assert_eq!(log_differs("run 3\n", &[], true).len(), 1);
    }
}
