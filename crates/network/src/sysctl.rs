//! Kernel settings below `/proc/sys`, always those of the calling thread's network namespace.

use std::path::{Path, PathBuf};

use palan_stdx::fs::{self, PathError};

use crate::KernelError;

/// Lets the host pass packets on between its interfaces.
pub(crate) const FORWARDING: &str = "net/ipv4/ip_forward";
/// The same for IPv6.
pub(crate) const FORWARDING_IPV6: &str = "net/ipv6/conf/all/forwarding";
/// The ports that the kernel gives to sockets which ask for none.
pub(crate) const EPHEMERAL_PORTS: &str = "net/ipv4/ip_local_port_range";

/// Whether packets that pass a bridge pass the firewall's IPv4 chains; exists while `br_netfilter` is loaded.
pub(crate) const BRIDGED_FILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// The same for IPv6.
pub(crate) const BRIDGED_FILTER_IPV6: &str = "net/bridge/bridge-nf-call-ip6tables";

/// A setting's value without the line's end; `None` where the kernel doesn't have it (no IPv6, say).
pub(crate) fn read(name: &str) -> Result<Option<String>, KernelError> {
    let value = fs::read_to_string_if_exists(&path(name)).map_err(|source| failed("read", name, source))?;
    Ok(value.map(|value| value.trim_end().to_owned()))
}

/// Sets a value, unless the setting has it already or the kernel doesn't have the setting. Where `/proc/sys` is
/// read-only (in a container), the right value must simply be there.
pub(crate) fn ensure(name: &str, value: &str) -> Result<(), KernelError> {
    match read(name)? {
        Some(present) if present != value => write_if_exists(name, value),
        _ => Ok(()),
    }
}

/// Sets a value in a namespace that was just made and has the defaults, unless the kernel doesn't have the setting.
pub(crate) fn write_if_exists(name: &str, value: &str) -> Result<(), KernelError> {
    let written = fs::if_exists(fs::write(&path(name), value));
    written.map(|_| ()).map_err(|source| failed("change", name, source))
}

/// Sets a value; a setting that the kernel doesn't have is an error.
pub(crate) fn write(name: &str, value: &str) -> Result<(), KernelError> {
    fs::write(&path(name), value).map_err(|source| failed("change", name, source))
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn failed(verb: &str, name: &str, source: PathError) -> KernelError {
    KernelError::Sysctl { operation: format!("{verb} the kernel setting {}", name.replace('/', ".")), source }
}
