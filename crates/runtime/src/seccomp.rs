//! Seccomp: profiles, and compiling them to classic BPF.
//!
//! ```text
//! Docker's profile JSON ──Profile::from_json──▶ Profile ──resolve(capabilities, …)──▶ spec::Seccomp ──compile──▶ Program
//!                       built-in default ──────────┘                    linux.seccomp ─────┘
//! ```
//! A [`Program`] depends on the profile, the capabilities and the kernel version only, so callers keep it.

mod compile;
mod default_profile;
mod profile;
mod table;

use std::os::fd::OwnedFd;

use palan_linux::capability::CapabilitySet;
use palan_linux::seccomp::{Instruction, LoadFlags, MAX_INSTRUCTIONS, load};
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

/// An architecture whose system calls a filter knows. The number is the column in the table of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    X86_64 = 0,
    X86 = 1,
    X32 = 2,
    Aarch64 = 3,
}

impl Architecture {
    #[cfg(target_arch = "aarch64")]
    const NATIVE: Self = Self::Aarch64;
    #[cfg(not(target_arch = "aarch64"))]
    const NATIVE: Self = Self::X86_64;

    /// Those that processes of this host can have.
    fn of_host() -> impl Iterator<Item = Self> {
        let all: &[Self] = if Self::NATIVE == Self::Aarch64 {
            &[Self::Aarch64]
        } else {
            &[Self::X86_64, Self::X86, Self::X32]
        };
        all.iter().copied()
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }
}

/// A profile with conditions.
#[derive(Debug, Clone)]
pub struct Profile(Source);

#[derive(Debug, Clone)]
enum Source {
    Builtin,
    Docker(profile::DockerProfile),
}

/// What a profile's conditions look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// The container's bounding set.
    pub capabilities: CapabilitySet,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
}

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: LoadFlags,
}

impl Profile {
    /// Palan's default profile.
    pub fn builtin() -> Self {
        Self(Source::Builtin)
    }

    /// Reads a profile in Docker's JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, SeccompError> {
        profile::DockerProfile::from_json(json).map(|profile| Self(Source::Docker(profile)))
    }

    /// The rules that apply under `conditions`.
    pub fn resolve(&self, conditions: &Conditions) -> Seccomp {
        match &self.0 {
            Source::Builtin => default_profile::resolve(conditions),
            Source::Docker(profile) => profile.resolve(conditions),
        }
    }

    /// The filter for a container.
    pub fn compile(&self, conditions: &Conditions) -> Result<Program, SeccompError> {
        Program::compile(&self.resolve(conditions))
    }
}

impl Program {
    /// Compiles resolved rules.
    pub fn compile(rules: &Seccomp) -> Result<Self, SeccompError> {
        compile::compile(rules)
    }

    /// Loads it for the calling thread; returns the listener if it has `notify` actions.
    pub(crate) fn load(&self) -> std::io::Result<Option<OwnedFd>> {
        load(&self.instructions, self.flags)
    }

    /// A form to hand to another process of the same machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let LoadFlags { log, speculation_allowed, new_listener, wait_killable } = self.flags;
        let flags = [log, speculation_allowed, new_listener, wait_killable];
        let mut bytes: Vec<u8> = flags.map(u8::from).to_vec();
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Program::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SeccompError> {
        let (head, body) = bytes.split_at_checked(4).ok_or(SeccompError::Corrupt)?;
        if body.is_empty() || body.len() % 8 != 0 || body.len() / 8 > MAX_INSTRUCTIONS {
            return Err(SeccompError::Corrupt);
        }
        let flags = LoadFlags {
            log: head[0] == 1,
            speculation_allowed: head[1] == 1,
            new_listener: head[2] == 1,
            wait_killable: head[3] == 1,
        };
        let instruction = |chunk: &[u8]| Instruction {
            code: u16::from_le_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        };
        Ok(Self { instructions: body.chunks_exact(8).map(instruction).collect(), flags })
    }
}

/// Major and minor version of the running kernel.
pub fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let mut numbers = name
        .release()
        .to_str()
        .unwrap_or_default()
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests;
