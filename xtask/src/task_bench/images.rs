//! Images: pulled, pushed, loaded, saved, listed and removed, beside Docker, podman and skopeo.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use palan_test_support::image::{ImageBuilder, TarBuilder};
use palan_test_support::registry::Registry;
use palan_test_support::wait_until;

use super::peers::Bench;
use super::report::{Contender, Report, say};
use super::subjects::quietly;
use crate::Failure;
use crate::process::{command, find, output};

/// How a keeper is called.
type Call<'a> = dyn Fn(&[&str]) -> Command + 'a;

/// Someone who keeps images.
struct Keeper<'a> {
    name: &'static str,
    command: Box<Call<'a>>,
}

impl Keeper<'_> {
    fn call(&self, arguments: &[&str]) -> Result<(), Failure> {
        quietly((self.command)(arguments))
    }

    fn forget(&self, image: &str) {
        // It may not be there.
        quietly((self.command)(&["rmi", "-f", image])).ok();
    }
}

/// The keepers that can pull from the loopback.
fn keepers<'a>(bench: &'a Bench, docker: Option<&'a PullDocker>) -> Vec<Keeper<'a>> {
    let mut keepers = vec![Keeper { name: "palan", command: Box::new(|arguments| bench.ours(arguments)) }];
    if let Some(docker) = docker {
        keepers.push(Keeper { name: "docker", command: Box::new(|arguments| docker.command(arguments)) });
    }
    if find("podman").is_some() {
        let insecure = |arguments: &[&str]| {
            let mut podman = bench.podman(arguments);
            if matches!(arguments.first(), Some(&("pull" | "push"))) {
                podman.arg("--tls-verify=false");
            }
            podman
        };
        keepers.push(Keeper { name: "podman", command: Box::new(insecure) });
    }
    keepers
}

/// All of it.
pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let registry = Registry::start();
    let docker = PullDocker::start(bench)?;
    let keepers = keepers(bench, docker.as_ref());
    let six = (0..6u64).fold(ImageBuilder::new(), |image, number| image.layer(layer(number)));
    registry.push("bench/six", "latest", &six.build());
    registry.push("bench/small", "latest", &ImageBuilder::new().layer(small_files()).build());
    let host = registry.host();
    let (six, small) = (format!("{host}/bench/six:latest"), format!("{host}/bench/small:latest"));

    for (title, image, rounds) in [
        ("pull, six layers, 524 MB unpacked, loopback", &six, 5),
        // One round and its warm-up: removing 100,000 files takes the others minutes.
        ("pull, one layer with 100,000 files, loopback", &small, 1),
    ] {
        pulls(&keepers, report, title, image, rounds)?;
        daemon_figures(bench, &keepers[0], report, title, image)?;
    }
    disk(bench, &keepers, report, &six, &small)?;
    compare(&keepers, report, "pull again, up to date", 10, |keeper| keeper.call(&["pull", "-q", &six]))?;
    pushes(bench, &keepers, report, &host, &six)?;
    archives(bench, &keepers, report, &six)?;
    let contenders = keepers.iter().map(|keeper| {
        Contender::new(keeper.name, || keeper.call(&["rmi", "-f", &six]))
            .before(|| keeper.call(&["pull", "-q", &six]))
    });
    report.compare("rmi of the six-layer image", 3, contenders.collect())?;
    many(&keepers, report)
}

fn compare(
    keepers: &[Keeper<'_>],
    report: &mut Report,
    title: &str,
    rounds: usize,
    action: impl Fn(&Keeper<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let action = &action;
    let contenders = keepers.iter().map(|keeper| Contender::new(keeper.name, move || action(keeper)));
    report.compare(title, rounds, contenders.collect())
}

fn pulls(
    keepers: &[Keeper<'_>],
    report: &mut Report,
    title: &str,
    image: &str,
    rounds: usize,
) -> Result<(), Failure> {
    let contenders = keepers.iter().map(|keeper| {
        Contender::new(keeper.name, || keeper.call(&["pull", "-q", image])).before(|| {
            keeper.forget(image);
            Ok(())
        })
    });
    report.compare(title, rounds, contenders.collect())
}

/// What one pull costs our daemon.
fn daemon_figures(
    bench: &Bench,
    ours: &Keeper<'_>,
    report: &mut Report,
    title: &str,
    image: &str,
) -> Result<(), Failure> {
    ours.forget(image);
    let pid = bench.daemon_pid();
    // Resets the peak: proc_pid_clear_refs(5).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let before = cpu_seconds(pid)?;
    ours.call(&["pull", "-q", image])?;
    let used = cpu_seconds(pid)? - before;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .ok_or("the daemon has no VmHWM")?;
    report.figure(&format!("{title}: CPU of the daemon"), used, "s", "3")?;
    report.figure(&format!("{title}: peak memory of the daemon"), peak / 1024.0, "MiB", "64")
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): utime and stime are fields 14 and 15, in ticks of 10 ms; the name before may hold anything.
    let fields = stat.rsplit_once(") ").ok_or("no stat")?.1;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// What the two images take on the disk, each keeper's whole data root with nothing else in it but `bb`.
fn disk(
    bench: &Bench,
    keepers: &[Keeper<'_>],
    report: &mut Report,
    six: &str,
    small: &str,
) -> Result<(), Failure> {
    let roots = [("palan", "data"), ("docker", "docker-pull/data"), ("podman", "podman")];
    let mut empty = Vec::new();
    for keeper in keepers {
        keeper.forget(six);
        keeper.forget(small);
    }
    // Removed content goes in the background.
    std::thread::sleep(Duration::from_secs(5));
    for keeper in keepers {
        let root =
            roots.iter().find(|(name, _)| *name == keeper.name).map(|(_, root)| bench.directory.join(root));
        let root = root.ok_or("a keeper without a root")?;
        empty.push((keeper, disk_usage(&root)?, root));
    }
    for keeper in keepers {
        keeper.call(&["pull", "-q", six])?;
    }
    // Our store replaces compressed layers in the background.
    let settled = wait_until(Duration::from_secs(120), || {
        let before = disk_usage(&bench.directory.join("data"));
        std::thread::sleep(Duration::from_secs(5));
        matches!((before, disk_usage(&bench.directory.join("data"))), (Ok(before), Ok(after)) if before == after)
    });
    if !settled {
        say("the store is still at work after two minutes")?;
    }
    for (keeper, before, root) in empty {
        let megabytes = (disk_usage(&root)? - before) / 1e6;
        report.figure(&format!("disk for the six-layer image, {}", keeper.name), megabytes, "MB", "none")?;
    }
    Ok(())
}

/// Bytes that a directory tree takes on its file system, by `du`, which counts hard links once.
fn disk_usage(root: &Path) -> Result<f64, Failure> {
    let told =
        output(command("du").args(["-s", "-B1", "--one-file-system"]).arg(root).stderr(Stdio::null()))?;
    Ok(told.split_whitespace().next().unwrap_or_default().parse()?)
}

/// Each round pushes under a name that the registry has no blob of yet.
fn pushes(
    bench: &Bench,
    keepers: &[Keeper<'_>],
    report: &mut Report,
    host: &str,
    six: &str,
) -> Result<(), Failure> {
    let targets: Vec<Registry> = keepers.iter().map(|_| Registry::start()).collect();
    let copied = Registry::start();
    let layout = bench.directory.join("skopeo");
    let mut contenders = Vec::new();
    for (keeper, target) in keepers.iter().zip(&targets) {
        let name = format!("{}/bench/pushed:latest", target.host());
        let wanted = name.clone();
        let before = move || {
            target.forget_content();
            keeper.call(&["tag", six, &wanted])
        };
        contenders
            .push(Contender::new(keeper.name, move || keeper.call(&["push", "-q", &name])).before(before));
    }
    if find("skopeo").is_some() {
        let local = format!("oci:{}:latest", layout.display());
        let to = format!("docker://{}/bench/pushed:latest", copied.host());
        skopeo(&format!("docker://{host}/bench/six:latest"), &local)?;
        let before = || {
            copied.forget_content();
            Ok(())
        };
        contenders.push(Contender::new("skopeo", move || skopeo(&local, &to)).before(before));
    }
    report.compare("push of the six-layer image to an empty registry", 3, contenders)?;
    // It is not there if skopeo is not.
    std::fs::remove_dir_all(layout).ok();
    Ok(())
}

fn skopeo(from: &str, to: &str) -> Result<(), Failure> {
    let mut copy = command("skopeo");
    copy.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]);
    quietly(copy)
}

fn archives(bench: &Bench, keepers: &[Keeper<'_>], report: &mut Report, six: &str) -> Result<(), Failure> {
    let file =
        |keeper: &Keeper<'_>| bench.directory.join(format!("{}.tar", keeper.name)).display().to_string();
    compare(keepers, report, "save of the six-layer image", 3, |keeper| {
        // Podman refuses to write over an archive.
        std::fs::remove_file(file(keeper)).ok();
        keeper.call(&["save", "-o", &file(keeper), six])
    })?;
    let contenders = keepers.iter().map(|keeper| {
        let from = file(keeper);
        Contender::new(keeper.name, move || keeper.call(&["load", "-q", "-i", &from])).before(|| {
            keeper.forget(six);
            Ok(())
        })
    });
    report.compare("load of the six-layer image", 3, contenders.collect())?;
    for keeper in keepers {
        std::fs::remove_file(file(keeper))?;
    }
    Ok(())
}

/// `images` with a thousand.
fn many(keepers: &[Keeper<'_>], report: &mut Report) -> Result<(), Failure> {
    let archive = std::env::temp_dir().join(format!("palan-bench-{}-many.tar", std::process::id()));
    for number in 0..1000 {
        let image = ImageBuilder::new()
            .layer(TarBuilder::new().file("same", 0o644, "same").finish())
            .config("Labels", serde_json::json!({"number": number.to_string()}));
        std::fs::write(&archive, image.build().docker_archive(&[&format!("bench/many:{number}")]))?;
        for keeper in keepers {
            keeper.call(&["load", "-q", "-i", &archive.to_string_lossy()])?;
        }
    }
    std::fs::remove_file(&archive)?;
    compare(keepers, report, "images, with 1,000 of them", 10, |keeper| keeper.call(&["images"]))
}

/// About 87 MB in 2,000 files that compress to a bit less than half.
fn layer(number: u64) -> Vec<u8> {
    let mut tar = TarBuilder::new().directory(&format!("layer{number}/"), 0o755);
    for file in 0..2000u64 {
        let mut content = palan_test_support::image::noise(16_000, number * 10_000 + file);
        content.extend(std::iter::repeat_n(b"all work and no play ".as_slice(), 1320).flatten());
        tar = tar.file(&format!("layer{number}/{file}"), 0o644, content);
    }
    tar.finish()
}

/// 100,000 files of some hundred bytes in 1,000 directories.
fn small_files() -> Vec<u8> {
    let mut tar = TarBuilder::new();
    for directory in 0..1000u64 {
        tar = tar.directory(&format!("d{directory}/"), 0o755);
        for file in 0..100u64 {
            let content = palan_test_support::image::noise(300, directory * 100 + file);
            tar = tar.file(&format!("d{directory}/{file}"), 0o644, content);
        }
    }
    tar.finish()
}

/// Docker's daemon in the host's network namespace, where the registry is, without a bridge and without rules.
struct PullDocker {
    child: std::process::Child,
    socket: PathBuf,
}

impl PullDocker {
    fn start(bench: &Bench) -> Result<Option<Self>, Failure> {
        if find("dockerd").is_none() || find("docker").is_none() {
            return Ok(None);
        }
        let root = bench.directory.join("docker-pull");
        std::fs::create_dir_all(&root)?;
        let socket = root.join("docker.sock");
        let log = std::fs::File::create(root.join("log"))?;
        let child = command("unshare")
            .args(["--mount", "--", "dockerd", "--bridge=none", "--iptables=false", "--ip-forward=false"])
            .arg("--data-root")
            .arg(root.join("data"))
            .arg("--exec-root")
            .arg(root.join("run"))
            .arg("--pidfile")
            .arg(root.join("pid"))
            .args(["--storage-driver", "overlay2", "-H", &format!("unix://{}", socket.display())])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let docker = Self { child, socket };
        if wait_until(Duration::from_secs(20), || {
            output(docker.command(&["version"]).stderr(Stdio::null())).is_ok()
        }) {
            return Ok(Some(docker));
        }
        Err("Docker's daemon for pulling does not answer".into())
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut docker = command("docker");
        docker.env("DOCKER_HOST", format!("unix://{}", self.socket.display())).args(arguments);
        docker
    }
}

impl Drop for PullDocker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.child.wait().ok();
    }
}
