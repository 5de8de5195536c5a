//! `cargo xtask dist`: one static, stripped binary with the supervisor embedded.
//!
//! The supervisor is built first, by itself, not relocatable: one runs for each container, so its start has no relocations
//! to apply and its pages stay shared. The main binary then takes it in (see `palan/build.rs`). Beside it lie the manual pages
//! (`man/`) and the shells' completion, which the binary writes itself.

use std::path::PathBuf;

use crate::Failure;
use crate::process::{cargo, check, command, host_triple, output, root};

/// Flags added to those of `.cargo/config.toml`: a fixed load address, so nothing is relocated when the program starts, and no
/// tables for unwinding, an eighth of the file, which nothing reads where a panic aborts and symbols are stripped.
fn flags() -> String {
    let flags = r#"["-C","relocation-model=static","-C","force-unwind-tables=no"]"#;
    format!("target.{}.rustflags={flags}", host_triple())
}

/// The same for what is written in C (SQLite, zstd, ring), under the name that the `cc` crate looks for.
fn c_flags() -> (String, &'static str) {
    let name = format!("CFLAGS_{}", host_triple().replace('-', "_"));
    (name, "-fno-asynchronous-unwind-tables -fno-unwind-tables")
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
            .args(["build", "--locked", "--package", "palan-supervisor", "--bin", "palan-supervisor"])
            .args(["--profile", "supervisor", "--config", &flags()])
            .arg("--target-dir")
            .arg(&target)
            .envs([c_flags()]),
    )?;
    let supervisor = target.join(host_triple()).join("supervisor/palan-supervisor");
    check(
        cargo()
            .args(["build", "--locked", "--package", "palan", "--release", "--config", &flags()])
            .arg("--target-dir")
            .arg(&target)
            .env("PALAN_SUPERVISOR_ELF", &supervisor)
            .envs([c_flags()])
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
