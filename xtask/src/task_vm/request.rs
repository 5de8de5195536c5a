//! What the host asks of a machine: a file in its first root, read by the program that boots it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One command and the machine around it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// The command's whole environment.
    pub(super) environment: Vec<(String, String)>,
    /// Its working directory.
    pub(super) directory: PathBuf,
    /// The terminal's lines and columns, if the command is to have one.
    pub(super) terminal: Option<(u16, u16)>,
    /// Where the kernel's modules lie in the host's tree: `…/lib/modules/VERSION`.
    pub(super) modules: PathBuf,
    /// The directory that is shared for writing.
    pub(super) out: PathBuf,
    /// Whether there is a network card.
    pub(super) network: bool,
    /// Whether systemd is the machine's init.
    pub(super) systemd: bool,
}

impl Request {
    /// Reads the request that the host has left at `path`.
    pub(super) fn read(path: &str) -> Result<Self, crate::Failure> {
        let text = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        Ok(serde_json::from_slice(&text)?)
    }
}
