//! Capabilities: the table of names, sets of them, and the calls that change those of the calling thread.

use std::io;

pub use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

/// Names by number, as in `capability.h`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// All names, lowest number first.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// The capability with this name (`CAP_CHOWN`, upper case, as the OCI specification writes it).
pub fn by_name(name: &str) -> Option<CapabilitySet> {
    let number = NAMES.iter().position(|known| *known == name)?;
    Some(CapabilitySet::from_bits_retain(1 << number))
}

/// The names of the capabilities in `set` that this table knows.
pub fn names_of(set: CapabilitySet) -> impl Iterator<Item = &'static str> {
    NAMES.iter().enumerate().filter(move |(number, _)| set.bits() & (1 << number) != 0).map(|(_, name)| *name)
}

/// Whether `capability` (one bit) is in the bounding set; `None` if the kernel does not know it.
pub fn in_bounding_set(capability: CapabilitySet) -> Option<bool> {
    rustix::thread::capability_is_in_bounding_set(capability).ok()
}

/// Drops from the bounding set everything that is not in `keep`.
pub fn limit_bounding_set(keep: CapabilitySet) -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel doesn't know ends the list.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The effective, permitted and inheritable sets of the calling thread.
pub fn current() -> io::Result<CapabilitySets> {
    Ok(rustix::thread::capabilities(None)?)
}

/// Sets the effective, permitted and inheritable sets of the calling thread.
pub fn set(effective: CapabilitySet, permitted: CapabilitySet, inheritable: CapabilitySet) -> io::Result<()> {
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?)
}

/// Makes the ambient set of the calling thread exactly `set`; each must be permitted and inheritable.
pub fn set_ambient(set: CapabilitySet) -> io::Result<()> {
    // Kernels before 4.3 have no ambient set: then there is nothing to clear.
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if set.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        assert_eq!(by_name("CAP_SYS_ADMIN"), Some(CapabilitySet::SYS_ADMIN));
        assert_eq!(by_name("CAP_CHECKPOINT_RESTORE"), Some(CapabilitySet::CHECKPOINT_RESTORE));
        assert_eq!(by_name("SYS_ADMIN"), None);
        let set = CapabilitySet::CHOWN | CapabilitySet::BPF;
        assert_eq!(names_of(set).collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_BPF"]);
    }
}
