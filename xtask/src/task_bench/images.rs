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
    /// Where it keeps layers, if it removes them in the background.
    layers: Option<PathBuf>,
}

impl Keeper<'_> {
    fn call(&self, arguments: &[&str]) -> Result<(), Failure> {
        quietly((self.command)(arguments))
    }

    /// Removes the image. What the keeper removes behind the caller's back must not be in the next sample.
    fn forget(&self, image: &str) {
        // It may not be there.
        quietly((self.command)(&["rmi", "-f", image])).ok();
        if let Some(layers) = &self.layers {
            let is_trash =
                |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".trash-");
            let is_clean = || {
                std::fs::read_dir(layers)
                    .is_ok_and(|mut entries| !entries.any(|entry| entry.is_ok_and(is_trash)))
            };
            wait_until(Duration::from_secs(60), is_clean);
        }
    }
}

/// The keepers that can pull from the loopback.
fn keepers<'a>(bench: &'a Bench, docker: Option<&'a PullDocker>) -> Vec<Keeper<'a>> {
    let mut keepers = vec![Keeper {
        name: "palan",
        command: Box::new(|arguments| bench.ours(arguments)),
        layers: Some(bench.directory.join("data/layers")),
    }];
    if let Some(docker) = docker {
        keepers.push(Keeper {
            name: "docker",
            command: Box::new(|arguments| docker.command(arguments)),
            layers: None,
        });
    }
    if find("podman").is_some() {
        let insecure = |arguments: &[&str]| {
            let mut podman = bench.podman(arguments);
            if matches!(arguments.first(), Some(&("pull" | "push"))) {
                podman.arg("--tls-verify=false");
            }
            podman
        };
        keepers.push(Keeper { name: "podman", command: Box::new(insecure), layers: None });
    }
    keepers
}

/// A registry, those who pull from it, and what is pulled.
struct Field {
    registry: Registry,
    docker: Option<PullDocker>,
    six: String,
}

impl Field {
    fn prepare(bench: &Bench) -> Result<Self, Failure> {
        let registry = Registry::start();
        registry.push("bench/six", "latest", &six());
        let six = format!("{}/bench/six:latest", registry.host());
        Ok(Self { docker: PullDocker::start(bench)?, registry, six })
    }

    fn keepers<'a>(&'a self, bench: &'a Bench) -> Vec<Keeper<'a>> {
        keepers(bench, self.docker.as_ref())
    }
}

const SIX: &str = "pull, six layers, 524 MB unpacked, loopback";
const SMALL: &str = "pull, one layer with 100,000 files, loopback";

/// The pull that everybody waits for, and what it costs.
pub(super) fn pull(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field::prepare(bench)?;
    let keepers = field.keepers(bench);
    let contenders = keepers.iter().map(|keeper| {
        Contender::new(keeper.name, || keeper.call(&["pull", "-q", &field.six])).before(|| {
            keeper.forget(&field.six);
            Ok(())
        })
    });
    report.compare(SIX, 5, contenders.collect())?;
    daemon_figures(bench, &keepers[0], report, SIX, &field.six)?;
    compare(&keepers, report, "pull again, up to date", 10, |keeper| keeper.call(&["pull", "-q", &field.six]))
}

/// One sample each and nothing before it: removing 100,000 files takes the others minutes.
pub(super) fn small(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field::prepare(bench)?;
    field.registry.push("bench/small", "latest", &ImageBuilder::new().layer(small_files()).build());
    let image = format!("{}/bench/small:latest", field.registry.host());
    let keepers = field.keepers(bench);
    let contenders =
        keepers.iter().map(|keeper| Contender::new(keeper.name, || keeper.call(&["pull", "-q", &image])));
    report.once(SMALL, contenders.collect())?;
    let contenders =
        keepers.iter().map(|keeper| Contender::new(keeper.name, || keeper.call(&["rmi", "-f", &image])));
    report.once("rmi of the image with 100,000 files", contenders.collect())?;
    daemon_figures(bench, &keepers[0], report, SMALL, &image)
}

/// What the six-layer image takes on the disk when nobody is at work on it any more.
pub(super) fn disk(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field::prepare(bench)?;
    let keepers = field.keepers(bench);
    measure_disk(bench, &keepers, report, &field.six)
}

/// Out to an empty registry.
pub(super) fn push(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field::prepare(bench)?;
    let keepers = field.keepers(bench);
    for keeper in &keepers {
        keeper.call(&["pull", "-q", &field.six])?;
    }
    pushes(bench, &keepers, report, &field.registry.host(), &field.six)
}

/// Out to a file and in from it, and removed.
pub(super) fn archive(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field::prepare(bench)?;
    let keepers = field.keepers(bench);
    for keeper in &keepers {
        keeper.call(&["pull", "-q", &field.six])?;
    }
    archives(bench, &keepers, report, &field.six)
}

/// Removed.
pub(super) fn remove(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field::prepare(bench)?;
    let keepers = field.keepers(bench);
    let contenders = keepers.iter().map(|keeper| {
        Contender::new(keeper.name, || keeper.call(&["rmi", "-f", &field.six]))
            .before(|| keeper.call(&["pull", "-q", &field.six]))
    });
    report.compare("rmi of the six-layer image", 3, contenders.collect())
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

/// Each keeper's whole data root with nothing else in it but `bb`, beside what the image is: compressed and unpacked bytes.
fn measure_disk(
    bench: &Bench,
    keepers: &[Keeper<'_>],
    report: &mut Report,
    name: &str,
) -> Result<(), Failure> {
    let roots = [("palan", "data"), ("docker", "docker-pull/data"), ("podman", "podman")];
    let mut empty = Vec::new();
    for keeper in keepers {
        let root =
            roots.iter().find(|(name, _)| *name == keeper.name).map(|(_, root)| bench.directory.join(root));
        let root = root.ok_or("a keeper without a root")?;
        empty.push((keeper, disk_usage(&root)?, root));
    }
    for keeper in keepers {
        keeper.call(&["pull", "-q", name])?;
    }
    // Our store replaces compressed layers in the background, a minute later.
    let image = six();
    let recipes = bench.directory.join("data/recipes");
    let is_done =
        || std::fs::read_dir(&recipes).is_ok_and(|entries| entries.flatten().count() >= image.layers.len());
    if !wait_until(Duration::from_secs(240), is_done) {
        say("the store is still at work after four minutes")?;
    }
    std::thread::sleep(Duration::from_secs(3));
    #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
    let whole =
        image.layers.iter().map(|layer| layer.blob.len() + layer.tar.len()).sum::<usize>() as f64 / 1e6;
    report.figure("compressed and unpacked bytes of the six-layer image", whole, "MB", "none")?;
    for (keeper, before, root) in empty {
        let megabytes = (disk_usage(&root)? - before) / 1e6;
        report.figure(&format!("disk for the six-layer image, {}", keeper.name), megabytes, "MB", "none")?;
        let budget = if keeper.name == "palan" { "78" } else { "none" };
        let title = format!("{}'s share of compressed and unpacked bytes", keeper.name);
        report.figure(&title, megabytes / whole * 100.0, "%", budget)?;
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
    report.compare("push of the six-layer image to an empty registry", 2, contenders)?;
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
    compare(keepers, report, "save of the six-layer image", 2, |keeper| {
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
    report.compare("load of the six-layer image", 2, contenders.collect())?;
    for keeper in keepers {
        std::fs::remove_file(file(keeper))?;
    }
    Ok(())
}

/// `images` with a thousand, which come in one archive.
pub(super) fn many(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let field = Field { docker: PullDocker::start(bench)?, registry: Registry::start(), six: String::new() };
    let keepers = field.keepers(bench);
    let layer = TarBuilder::new().file("same", 0o644, "same").finish();
    let mut archive = TarBuilder::new().file("layer.tar", 0o644, &layer);
    let mut items = Vec::new();
    for number in 0..1000 {
        let labels = serde_json::json!({"number": number.to_string()});
        let image = ImageBuilder::new().layer(layer.clone()).config("Labels", labels).build();
        let name = format!("{}.json", image.config_digest.trim_start_matches("sha256:"));
        archive = archive.file(&name, 0o644, &image.config);
        let tags = [format!("bench/many:{number}")];
        items.push(serde_json::json!({"Config": name, "RepoTags": tags, "Layers": ["layer.tar"]}));
    }
    let path = bench.directory.join("many.tar");
    let manifest = serde_json::Value::from(items).to_string();
    std::fs::write(&path, archive.file("manifest.json", 0o644, manifest).finish())?;
    let contenders = keepers.iter().map(|keeper| {
        let path = path.display().to_string();
        Contender::new(keeper.name, move || keeper.call(&["load", "-q", "-i", &path]))
    });
    report.once("load of 1,000 images that share a layer", contenders.collect())?;
    std::fs::remove_file(&path)?;
    // Podman takes minutes for one.
    let (quick, slow): (Vec<_>, Vec<_>) = keepers.into_iter().partition(|keeper| keeper.name != "podman");
    compare(&quick, report, "images, with 1,000 of them", 5, |keeper| keeper.call(&["images"]))?;
    let slow = slow.iter().map(|keeper| Contender::new(keeper.name, move || keeper.call(&["images"])));
    report.once("images, with 1,000 of them, once", slow.collect())
}

/// The six-layer image.
fn six() -> palan_test_support::image::Image {
    (0..6u64).fold(ImageBuilder::new(), |image, number| image.layer(layer(number))).build()
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
