//! `cargo xtask bench [SUBJECT]`: our figures beside those of every peer that is installed and beside the kernel's floor,
//! measured in one run and printed as ratios.
//!
//! Each round measures every contender once, in turn, so that a noisy minute of the machine hits all of them; the median
//! and the minimum are printed. Raw results stay under `target/bench/`. Peers run on private data roots, sockets and
//! cgroups; the Docker daemon runs in a network namespace of its own, so that it can have its bridge and its rules.

mod builds;
mod crowd;
mod debian;
mod engine;
mod floor;
mod images;
mod network;
mod peers;
mod report;
mod runtime;
mod subjects;

pub(crate) use report::say;

use crate::{Failure, task_dist};

/// Runs the subjects whose name contains the argument, or all.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("the benchmarks need root".into());
    }
    // A binary that was built before is measured as it is.
    let palan = match std::env::var_os("PALAN_BIN") {
        Some(path) => path.into(),
        None => task_dist::run()?,
    };
    let filter = arguments.first().map(String::as_str).unwrap_or_default();
    let bench = peers::Bench::set_up(palan)?;
    let mut report = report::Report::new();
    for (name, subject) in subjects::ALL {
        if name.contains(filter) {
            report::say(&format!("\n## {name}\n"))?;
            subject(&bench, &mut report)?;
        }
    }
    report.save()
}
