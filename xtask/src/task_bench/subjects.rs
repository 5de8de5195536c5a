//! What is measured.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use super::peers::Bench;
use super::report::{Contender, Report, say};
use crate::Failure;
use crate::process::{check, find, output};

type Subject = fn(&Bench, &mut Report) -> Result<(), Failure>;

/// All subjects, in the order in which they run.
pub(crate) const ALL: &[(&str, Subject)] = &[
    ("runtime", super::runtime::measure),
    ("run", run),
    ("commands", commands),
    ("images-pull", super::images::pull),
    ("images-small", super::images::small),
    ("images-disk", super::images::disk),
    ("images-push", super::images::push),
    ("images-archive", super::images::archive),
    ("images-remove", super::images::remove),
    ("images-many", super::images::many),
    ("build-steps", super::builds::steps),
    ("build-files", super::builds::files),
    ("build-big", super::builds::big),
    ("build-stages", super::builds::stages),
    ("build-debian", super::debian::packages),
    ("build-python", super::debian::python),
    ("network-traffic", super::network::traffic),
    ("network-many", super::network::many),
    ("engine-files", super::engine::files),
    ("engine-logs", super::engine::logs),
    ("engine-crowd", super::engine::crowd),
    ("engine-thousand", super::engine::thousand),
    ("memory", memory),
];

pub(super) fn quietly(mut command: std::process::Command) -> Result<(), Failure> {
    command.stdout(Stdio::null());
    let result = command.stderr(Stdio::piped()).output()?;
    if result.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&result.stderr).trim()).into())
}

/// `run --rm` of `true`, without a network and on the bridge.
fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    for (title, network) in
        [("run --rm --network none bb true", &["--network", "none"][..]), ("run --rm bb true (bridge)", &[])]
    {
        let arguments: Vec<&str> =
            ["run", "--rm"].iter().chain(network).chain(&["bb", "true"]).copied().collect();
        let mut contenders = vec![Contender::new("palan", || quietly(bench.ours(&arguments)))];
        if let Some(works) = bench.docker(&arguments) {
            quietly(works)?;
            contenders
                .push(Contender::new("docker", || quietly(bench.docker(&arguments).ok_or("no docker")?)));
        }
        // Podman's bridge would put rules into the host's tables.
        if find("podman").is_some() && !network.is_empty() {
            match quietly(bench.podman(&arguments)) {
                Ok(()) => contenders.push(Contender::new("podman", || quietly(bench.podman(&arguments)))),
                Err(failure) => say(&format!("podman takes no part: {failure}"))?,
            }
        }
        report.compare(title, 20, contenders)?;
    }
    Ok(())
}

/// The commands of a working day.
fn commands(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let sleeper = ["run", "-d", "--network", "none", "bb", "sleep", "1000"];
    let ours: RefCell<VecDeque<String>> = RefCell::default();
    let theirs: RefCell<VecDeque<String>> = RefCell::default();
    let start_ours = || -> Result<(), Failure> {
        ours.borrow_mut().push_back(output(&mut bench.ours(&sleeper))?.trim().to_owned());
        Ok(())
    };
    let start_theirs = || -> Result<(), Failure> {
        let mut start = bench.docker(&sleeper).ok_or("no docker")?;
        theirs.borrow_mut().push_back(output(&mut start)?.trim().to_owned());
        Ok(())
    };
    let has_docker = bench.docker(&[]).is_some();
    let rounds = 15;

    let mut contenders = vec![Contender::new("palan", start_ours)];
    if has_docker {
        contenders.push(Contender::new("docker", start_theirs));
    }
    report.compare("run -d --network none bb sleep", rounds, contenders)?;

    let first_ours = ours.borrow().front().cloned().unwrap_or_default();
    let first_theirs = theirs.borrow().front().cloned().unwrap_or_default();
    for (title, arguments) in
        [("exec C true", &["exec", "", "true"][..]), ("ps", &["ps"]), ("inspect C", &["inspect", ""])]
    {
        let filled = |id: &str| -> Vec<String> {
            arguments
                .iter()
                .map(|word| if word.is_empty() { id.to_owned() } else { (*word).to_owned() })
                .collect()
        };
        let (mine, other) = (filled(&first_ours), filled(&first_theirs));
        let mine: Vec<&str> = mine.iter().map(String::as_str).collect();
        let other: Vec<&str> = other.iter().map(String::as_str).collect();
        let mut contenders = vec![Contender::new("palan", || quietly(bench.ours(&mine)))];
        if has_docker {
            contenders.push(Contender::new("docker", || quietly(bench.docker(&other).ok_or("no docker")?)));
        }
        report.compare(title, rounds, contenders)?;
    }

    let last = |ids: &RefCell<VecDeque<String>>| ids.borrow().back().cloned().unwrap_or_default();
    let mut contenders =
        vec![Contender::new("palan", || quietly(bench.ours(&["rm", "-f", &last(&ours)]))).before(start_ours)];
    if has_docker {
        let remove = || quietly(bench.docker(&["rm", "-f", &last(&theirs)]).ok_or("no docker")?);
        contenders.push(Contender::new("docker", remove).before(start_theirs));
    }
    report.compare("rm -f C", rounds, contenders)?;

    let polite = ["run", "-d", "--network", "none", "--init", "bb", "sleep", "1000"];
    let plain = RefCell::new(String::new());
    let plain_theirs = RefCell::new(String::new());
    let stop_ours = || quietly(bench.ours(&["stop", &plain.borrow()]));
    let mut contenders = vec![Contender::new("palan", stop_ours).before(|| {
        *plain.borrow_mut() = output(&mut bench.ours(&polite))?.trim().to_owned();
        Ok(())
    })];
    if has_docker && find("docker-init").is_some() {
        let stop_theirs = || quietly(bench.docker(&["stop", &plain_theirs.borrow()]).ok_or("no docker")?);
        contenders.push(Contender::new("docker", stop_theirs).before(|| {
            let mut start = bench.docker(&polite).ok_or("no docker")?;
            *plain_theirs.borrow_mut() = output(&mut start)?.trim().to_owned();
            Ok(())
        }));
    }
    report.compare("stop C (with --init)", rounds.min(8), contenders)?;

    clear(bench)
}

pub(super) fn clear(bench: &Bench) -> Result<(), Failure> {
    let mine = output(&mut bench.ours(&["ps", "-aq"]))?;
    let mine: Vec<&str> = ["rm", "-f"].into_iter().chain(mine.split_whitespace()).collect();
    if mine.len() > 2 {
        quietly(bench.ours(&mine))?;
    }
    if let Some(mut list) = bench.docker(&["ps", "-aq"]) {
        let other = output(&mut list)?;
        let other: Vec<&str> = ["rm", "-f"].into_iter().chain(other.split_whitespace()).collect();
        if other.len() > 2 {
            quietly(bench.docker(&other).ok_or("no docker")?)?;
        }
    }
    Ok(())
}

/// Memory of the daemon and of the supervisors, and the size of the binary.
fn memory(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    for _ in 0..100 {
        quietly(bench.ours(&["run", "--rm", "--network", "none", "bb", "true"]))?;
    }
    report.figure("daemon at once after 100 runs, PSS", pss(bench.daemon_pid())?, "MiB", "none")?;
    // After half a minute without a request it lets go of code that it ran.
    std::thread::sleep(Duration::from_secs(45));
    report.figure("daemon idle after 100 runs, PSS", pss(bench.daemon_pid())?, "MiB", "15")?;
    for _ in 0..20 {
        quietly(bench.ours(&["run", "-d", "--network", "none", "bb", "sleep", "1000"]))?;
    }
    let supervisors = supervisors(bench)?;
    let mut sum = 0.0;
    for pid in &supervisors {
        sum += pss(*pid)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "twenty")]
    let mean = sum / supervisors.len() as f64;
    report.figure(&format!("supervisor, PSS, mean of {}", supervisors.len()), mean, "MiB", "0.35")?;
    #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
    let size = std::fs::metadata(&bench.palan)?.len() as f64 / 1e6;
    report.figure("the binary", size, "MB", "25")?;
    check(bench.ours(&["version", "--format", "{{.Client.Version}}"]).stdout(Stdio::null()))?;
    clear(bench)
}

/// The children of the daemon.
pub(super) fn supervisors(bench: &Bench) -> Result<Vec<u32>, Failure> {
    let pid = bench.daemon_pid();
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = std::fs::read_to_string(task?.path().join("children"))?;
        found.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    if found.is_empty() { Err("the daemon has no supervisors".into()) } else { Ok(found) }
}

/// Proportional set size in MiB.
pub(super) fn pss(pid: u32) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .ok_or_else(|| format!("no Pss of process {pid}"))?;
    Ok(kilobytes / 1024.0)
}
