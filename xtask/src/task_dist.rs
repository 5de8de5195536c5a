//! `cargo xtask dist`: one static, stripped binary with the supervisor embedded.
//!
//! The supervisor is built first, by itself, not relocatable: one runs for each container, so its start has no relocations
//! to apply and its pages stay shared. The main binary then takes it in (see `palan/build.rs`). Beside it lie the manual pages
//! (`man/`) and the shells' completion, which the binary writes itself.

use std::path::PathBuf;

use crate::Failure;
use crate::process::{cargo, check, command, host_triple, output, root};

/// Flags added to those of `.cargo/config.toml`: a fixed load address, so nothing is relocated when the program starts.
fn static_position() -> String {
    format!("target.{}.rustflags=[\"-C\",\"relocation-model=static\"]", host_triple())
}

/// Flags for the linker: no tables for unwinding, a tenth of the file. A panic aborts, and a trace of addresses without names says
/// nothing.
fn without_tables() -> [String; 5] {
    let script = root().join("xtask/no-unwind.ld");
    let argument = |text: &str| format!("link-arg=-Wl,{text}");
    let script = argument(&format!("-T,{}", script.display()));
    ["--".into(), "-C".into(), argument("--no-eh-frame-hdr"), "-C".into(), script]
}

/// The commit that `version` will show, where this is a checkout.
fn commit() -> Option<String> {
    let commit = output(command("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root())).ok()?;
    Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
}

/// Builds `target/dist/palan` and returns its path.
pub(crate) fn run() -> Result<PathBuf, Failure> {
    let target = root().join("target/dist-build");
    check(
        cargo()
            .args(["rustc", "--locked", "--package", "palan-supervisor", "--bin", "palan-supervisor"])
            .args(["--profile", "supervisor", "--config", &static_position()])
            .arg("--target-dir")
            .arg(&target)
            .args(without_tables()),
    )?;
    let supervisor = target.join(host_triple()).join("supervisor/palan-supervisor");
    check(
        cargo()
            .args(["rustc", "--locked", "--package", "palan", "--bin", "palan", "--release"])
            .args(["--config", &static_position(), "--target-dir"])
            .arg(&target)
            .args(without_tables())
            .env("PALAN_SUPERVISOR_ELF", &supervisor)
            .envs(commit().map(|commit| ("PALAN_BUILD", commit))),
    )?;
    let dist = root().join("target/dist");
    std::fs::create_dir_all(&dist)?;
    let palan = dist.join("palan");
    // Replaced by rename: a daemon that runs from the old file keeps its text.
    let fresh = dist.join("palan.new");
    std::fs::copy(target.join(host_triple()).join("release/palan"), &fresh)?;
    std::fs::rename(&fresh, &palan)?;
    let manual = dist.join("man");
    // Pages of commands that are gone are not to stay.
    let _ = std::fs::remove_dir_all(&manual);
    std::fs::create_dir_all(&manual)?;
    check(command(&palan).arg("__man").arg(&manual))?;
    for (shell, file) in [("bash", "palan.bash"), ("zsh", "_palan"), ("fish", "palan.fish")] {
        std::fs::write(dist.join(file), output(command(&palan).args(["completion", shell]))?)?;
    }
    Ok(palan)
}
