//! What goes on in the machine: `powercut-guest DIRECTORY SEED work|last`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options, finish};
use palan_test_support::image::{Compression, Flavour, Image, ImageBuilder, TarBuilder, noise};
use palan_test_support::registry::Registry;
use palan_test_support::wait_until;

use super::say;
use crate::Failure;
use crate::random::Random;

/// As many images; neighbours share a layer, and all of them the lowest.
const IMAGES: u64 = 5;

/// Checks what is there, then works until the power goes, or removes everything.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let [directory, seed, mode] = arguments else {
        return Err("three arguments: DIRECTORY SEED work|last".into());
    };
    let data_root = PathBuf::from(directory).join("data");
    let daemon = Daemon::start_with(Options { data_root: Some(data_root.clone()), ..Options::default() });
    check(&daemon)?;
    if mode == "last" {
        return remove_all(&daemon, &data_root);
    }
    let registry = Registry::start();
    let mut names = Vec::new();
    for number in 0..IMAGES {
        let image = image(number)?;
        names.push(registry.push("cut/app", &number.to_string(), &image));
        let archive = image.docker_archive(&[&format!("loaded:{number}")]);
        std::fs::write(daemon.scratch().join(format!("{number}.tar")), archive)?;
    }
    daemon.palan(["pull", "-q", &names[0]]).ok();
    daemon.palan(["tag", &names[0], "bb"]).ok();
    daemon.palan(["rm", "-f", "work"]);
    daemon
        .palan([
            "run",
            "--name",
            "work",
            "--network",
            "none",
            "bb",
            "sh",
            "-c",
            "dd if=/dev/urandom of=/made bs=64k count=9; rm -r /d",
        ])
        .ok();
    say("at work")?;
    let mut random = Random::new(seed.parse()?);
    loop {
        let number = random.next() % IMAGES;
        let archive = daemon.scratch().join(format!("{number}.tar")).display().to_string();
        let (loaded, made) = (format!("loaded:{number}"), format!("made:{number}"));
        let name = &names[usize::try_from(number)?];
        let operation: &[&str] = match random.next() % 16 {
            0..=4 => &["pull", "-q", name],
            5..=7 => &["load", "-q", "-i", &archive],
            8 | 9 => &["rmi", "-f", name],
            10 => &["rmi", "-f", &loaded],
            11 => &["commit", "work", &made],
            12 => &["rmi", "-f", &made],
            13 => &["tag", "bb", &made],
            14 => &["image", "prune", "-af"],
            _ => {
                say("begins: nothing")?;
                std::thread::sleep(Duration::from_millis(random.next() % 5000));
                continue;
            }
        };
        say(&format!(
            "begins: {}",
            operation
                .iter()
                .take(if operation[0] == "image" { 2 } else { 1 })
                .copied()
                .collect::<Vec<_>>()
                .join(" ")
        ))?;
        let done = daemon.palan(operation);
        if done.code != 0 && operation[0] != "rmi" {
            return Err(format!("{done}\n{}", daemon.log()).into());
        }
    }
}

/// Every image is whole: its blobs, its layers, and the bytes that they give.
fn check(daemon: &Daemon) -> Result<(), Failure> {
    let fsck = daemon.palan(["system", "fsck"]);
    if fsck.code != 0 || !fsck.stdout.is_empty() {
        return Err(format!("{fsck}\n{}", daemon.log()).into());
    }
    let images = daemon.palan(["images", "-aq", "--no-trunc"]).ok().stdout;
    let images: std::collections::BTreeSet<&str> = images.lines().collect();
    for image in &images {
        let saved = finish(daemon.command().args(["save", image]), None);
        if saved.code != 0 {
            return Err(format!("image {image}: {}\n{}", saved.stderr, daemon.log()).into());
        }
    }
    say(&format!("{} images are whole", images.len()))
}

fn remove_all(daemon: &Daemon, data_root: &Path) -> Result<(), Failure> {
    daemon.palan(["rm", "-f", "work"]);
    daemon.palan(["image", "prune", "-af"]).ok();
    let left = |directory: &str| std::fs::read_dir(data_root.join(directory)).map_or(0, Iterator::count);
    // The empty layer and the place of unfinished transfers stay.
    let is_free = || (left("layers"), left("blobs/sha256"), left("recipes")) == (1, 1, 0);
    if !wait_until(Duration::from_secs(30), is_free) {
        return Err(format!("something is left below {}", data_root.display()).into());
    }
    say("all is removed and the disk is free")
}

fn image(number: u64) -> Result<Image, Failure> {
    let layer = |seed: u64| {
        let mut tar = TarBuilder::new().directory("d/", 0o755);
        for file in 0..40 {
            let content = [noise(9_000, seed * 100 + file), b"all work and no play ".repeat(300)].concat();
            tar = tar.file(&format!("d/{seed}-{file}"), 0o644, content);
        }
        tar.finish()
    };
    let program = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"))?;
    let mut tar = TarBuilder::new().directory("bin/", 0o755).file("bin/busybox", 0o755, program);
    for applet in ["dd", "rm", "sh"] {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    let flavour = if number.is_multiple_of(2) { Flavour::Oci } else { Flavour::Docker };
    let image = ImageBuilder::new().flavour(flavour).compression(Compression::Gzip).layer(tar.finish());
    let image = image.config("Env", serde_json::json!(["PATH=/bin"]));
    Ok(image.layer(layer(number)).layer(layer(number + 1)).build())
}
