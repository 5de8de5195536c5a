//! Seccomp: profiles, and compiling them to classic BPF.
//!
//! ```text
//! Docker's profile JSON ──Profile::from_json──▶ Profile ──resolve(capabilities, …)──▶ spec::Seccomp ──compile──▶ Program
//!                       built-in default ──────────┘                    linux.seccomp ─────┘
//! ```
//! A [`Program`] depends on the profile, the capabilities and the kernel version only, so callers keep it. One with
//! `notify` actions carries the [`agent`]'s address.

pub(crate) mod agent;

mod compile;
mod default_profile;
mod multiplexer;
mod profile;
#[cfg(any(test, feature = "fuzz"))]
mod reference;
mod rules;
mod table;

use std::os::fd::OwnedFd;

use palan_linux::capability::CapabilitySet;
use palan_linux::seccomp::{Instruction, LoadFlags, MAX_INSTRUCTIONS, load};
use palan_oci::runtime_spec::Seccomp;

use self::agent::Agent;

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
    Arm = 4,
}

/// All names of the runtime specification.
pub(crate) const KNOWN_ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

impl Architecture {
    #[cfg(target_arch = "aarch64")]
    const NATIVE: Self = Self::Aarch64;
    #[cfg(not(target_arch = "aarch64"))]
    const NATIVE: Self = Self::X86_64;

    /// Those that processes of this host can have.
    fn of_host() -> impl Iterator<Item = Self> {
        let all: &[Self] = if Self::NATIVE == Self::Aarch64 {
            &[Self::Aarch64, Self::Arm]
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
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// `AUDIT_ARCH_*` of linux/audit.h, by which the kernel tells a filter who calls.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits. (On x32 the registers have, but its types don't; libseccomp sees it so, too.)
    fn is_wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
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
    /// Who answers `notify` actions, if there are any.
    agent: Option<Agent>,
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

    /// Who answers its `notify` actions.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// A form to hand to another process of the same machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let LoadFlags { log, speculation_allowed, new_listener, wait_killable } = self.flags;
        let flags = [log, speculation_allowed, new_listener, wait_killable];
        let mut bytes: Vec<u8> = flags.map(u8::from).to_vec();
        let agent = self.agent.as_ref();
        for text in [agent.map_or("", |agent| &agent.path), agent.map_or("", |agent| &agent.metadata)] {
            // Both have been checked to be shorter than that.
            bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Program::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SeccompError> {
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or(SeccompError::Corrupt)?;
        let (path, rest) = text(rest)?;
        let (metadata, body) = text(rest)?;
        if body.is_empty() || body.len() % 8 != 0 || body.len() / 8 > MAX_INSTRUCTIONS {
            return Err(SeccompError::Corrupt);
        }
        let [log, speculation_allowed, new_listener, wait_killable] = head.map(|flag| flag == 1);
        if new_listener == path.is_empty() || (path.is_empty() && !metadata.is_empty()) {
            return Err(SeccompError::Corrupt);
        }
        let agent = new_listener.then(|| Agent::new(path, metadata)).transpose()?;
        let instruction = |chunk: &[u8]| Instruction {
            code: u16::from_le_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        };
        Ok(Self {
            instructions: body.chunks_exact(8).map(instruction).collect(),
            flags: LoadFlags { log, speculation_allowed, new_listener, wait_killable },
            agent,
        })
    }
}

/// A text with its length before it, and what follows.
fn text(bytes: &[u8]) -> Result<(&str, &[u8]), SeccompError> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(SeccompError::Corrupt)?;
    let (text, rest) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(SeccompError::Corrupt)?;
    Ok((std::str::from_utf8(text).map_err(|_| SeccompError::Corrupt)?, rest))
}

/// Names of system calls in `rules` that no architecture of this host has, as far as this version knows; rules about
/// them say nothing.
pub fn unknown_calls(rules: &Seccomp) -> impl Iterator<Item = &str> {
    let known = |name: &str| {
        let has = |row: [Option<u32>; 5]| Architecture::of_host().any(|one| row[one as usize].is_some());
        table::numbers(name).is_some_and(has) || multiplexer::of(name).is_some()
    };
    rules.syscalls.iter().flat_map(|rule| &rule.names).map(String::as_str).filter(move |name| !known(name))
}

/// For the fuzz targets.
#[cfg(feature = "fuzz")]
pub mod fuzz {
    use super::{Seccomp, reference};

    /// Panics where the filter of `profile` answers otherwise than the profile says. `seeds` choose arguments.
    pub fn filter_follows_profile(profile: &Seccomp, seeds: &[u64]) {
        reference::check(profile, seeds);
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
