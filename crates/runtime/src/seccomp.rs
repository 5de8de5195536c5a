//! Seccomp: profiles, and compiling them to classic BPF.
//!
//! ```text
//! Docker's profile JSON ──Profile::from_json──▶ Profile ──resolve(capabilities, …)──▶ spec::Seccomp ──compile──▶ Program
//!                       built-in default ──────────┘                    linux.seccomp ─────┘
//! ```
//! A [`Program`] depends on the profile, the capabilities and the kernel version only, so callers keep it.

use palan_linux::capability::CapabilitySet;
use palan_oci::runtime_spec::Seccomp;

/// A profile that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The JSON can't be read.
    #[error("the seccomp profile is not valid")]
    Json(#[source] serde_json::Error),
    /// It says something that does not exist.
    #[error("the seccomp profile is not valid: {0}")]
    Invalid(String),
    /// The program does not fit.
    #[error("the seccomp profile needs {0} instructions, 4096 are possible")]
    TooLarge(usize),
    /// The bytes are no program.
    #[error("not a compiled seccomp program")]
    Corrupt,
}

/// A profile with conditions, as Docker writes them.
#[derive(Debug, Clone)]
pub struct Profile;

/// What a profile's conditions look at.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// The container's bounding set.
    pub capabilities: CapabilitySet,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
}

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {}

impl Profile {
    /// Palan's default profile.
    pub fn builtin() -> Self {
        Self
    }

    /// Reads a profile in Docker's JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, SeccompError> {
        let _ = json;
        todo!()
    }

    /// The rules that apply under `conditions`.
    pub fn resolve(&self, conditions: &Conditions) -> Seccomp {
        let _ = conditions;
        todo!()
    }
}

impl Program {
    /// Compiles resolved rules.
    pub fn compile(rules: &Seccomp) -> Result<Self, SeccompError> {
        let _ = rules;
        todo!()
    }

    /// Loads it for the calling thread; returns the listener if it has `notify` actions.
    pub(crate) fn load(&self) -> std::io::Result<Option<std::os::fd::OwnedFd>> {
        todo!()
    }

    /// A form to hand to another process of the same machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`Program::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SeccompError> {
        let _ = bytes;
        todo!()
    }
}

/// Major and minor version of the running kernel.
pub fn kernel_version() -> (u32, u32) {
    todo!()
}
