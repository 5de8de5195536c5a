//! How long the phases of a container's start take: `start_time <bundle> [count]`, medians and minima in microseconds.
//!
//! The bundle's `config.json` and `rootfs` are used as `palan runtime run` would; the program should end at once.

#![allow(clippy::print_stdout, reason = "this is its purpose")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use palan_linux::process;
use palan_oci::runtime_spec::Spec;
use palan_runtime::{CreateRequest, Rootfs, Stdio, create};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let bundle = PathBuf::from(arguments.next().ok_or("usage: start_time <bundle> [count]")?);
    let count: usize = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let spec = Spec::from_json(&std::fs::read(bundle.join("config.json"))?)?;
    let rootfs = Rootfs::Directory(bundle.join("rootfs"));
    let cgroup = format!("/palan-bench-{}", std::process::id());
    let names = ["create", "start", "run and reap", "remove cgroups", "all"];
    let mut samples = vec![Vec::new(); names.len()];
    for _ in 0..count {
        let mut times = vec![Instant::now()];
        let created = create(&CreateRequest {
            id: "example",
            no_pivot: false,
            keep_keyring: false,
            sources: &[],
            spec: &spec,
            bundle: &bundle,
            rootfs: &rootfs,
            user: None,
            groups: &[],
            create_cwd: false,
            network_namespace: None,
            seccomp: None,
            stdio: Stdio::Null,
            cgroup: palan_runtime::cgroup::Location::Root(&cgroup),
            parent_death_signal: true,
            init: false,
            extra_descriptors: &[],
            start_fifo: None,
        })?;
        times.push(Instant::now());
        let container = created.start()?;
        times.push(Instant::now());
        process::wait(&container.pidfd)?;
        times.push(Instant::now());
        container.cgroup.remove()?;
        times.push(Instant::now());
        for (phase, pair) in times.windows(2).enumerate() {
            samples[phase].push((pair[1] - pair[0]).as_micros());
        }
        samples[names.len() - 1].push((times[times.len() - 1] - times[0]).as_micros());
    }
    for (name, mut sample) in names.into_iter().zip(samples) {
        sample.sort_unstable();
        println!("{name:<16} median {:>6} minimum {:>6}", sample[sample.len() / 2], sample[0]);
    }
    Ok(())
}
