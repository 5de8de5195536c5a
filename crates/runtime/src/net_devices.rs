//! Network interfaces of the host that become a container's (`linux.netDevices`): moved into its network namespace with
//! their addresses, under another name if one is given, and set up.

use palan_linux::namespace::{self, Kind};
use palan_linux::netlink::link::{self, Target};
use palan_linux::netlink::{Batch, NetlinkError, Protocol, Socket, route};

use crate::error::{Context, Error};
use crate::plan::invalid;

/// Longest name of an interface (`IFNAMSIZ` with its end).
const MAX_NAME: usize = 15;

/// An interface to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetDevicePlan {
    host_name: String,
    container_name: String,
}

impl NetDevicePlan {
    pub(crate) fn new(host_name: &str, container_name: &str) -> Result<Self, Error> {
        let check = |name: &str| {
            let valid = !name.is_empty()
                && name.len() <= MAX_NAME
                && !matches!(name, "." | "..")
                && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte <= b' ' || byte == 0x7f);
            if valid {
                Ok(())
            } else {
                Err(invalid(format!("linux.netDevices.{host_name}: invalid device name {name:?}")))
            }
        };
        check(host_name)?;
        let container_name = if container_name.is_empty() { host_name } else { container_name };
        // A pattern such as eth%d would be the kernel's to fill.
        if container_name.contains('%') {
            return Err(invalid(format!(
                "linux.netDevices.{host_name}: invalid device name {container_name:?}"
            )));
        }
        check(container_name)?;
        Ok(Self { host_name: host_name.to_owned(), container_name: container_name.to_owned() })
    }
}

/// Moves all into the network namespace of process `pid`.
pub(crate) fn move_all(devices: &[NetDevicePlan], pid: i32) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let own = namespace::open(0, Kind::Network).context(|| "open this process's namespaces".to_owned())?;
    let theirs = namespace::open(pid.unsigned_abs(), Kind::Network)
        .context(|| "open the container's network namespace".to_owned())?;
    let mut host = Socket::open(Protocol::Route).map_err(|error| failed("talk to the kernel", error))?;
    // A socket belongs to the namespace that it was opened in.
    namespace::join(&theirs, Kind::Network)
        .context(|| "enter the container's network namespace".to_owned())?;
    let inside = Socket::open(Protocol::Route);
    namespace::join(&own, Kind::Network)
        .context(|| "return to this process's network namespace".to_owned())?;
    let mut inside = inside.map_err(|error| failed("talk to the kernel", error))?;
    for device in devices {
        move_one(device, &mut host, &mut inside, &theirs).map_err(|error| {
            failed(
                &format!("move network device {:?} of linux.netDevices into the container", device.host_name),
                error,
            )
        })?;
    }
    Ok(())
}

fn failed(what: &str, error: NetlinkError) -> Error {
    match error.errno() {
        Some(errno) => Error::system(what, errno),
        None => Error::Invalid(format!("cannot {what}: {}", palan_stdx::error_chain::to_string(&error))),
    }
}

fn move_one(
    device: &NetDevicePlan,
    host: &mut Socket,
    inside: &mut Socket,
    namespace: &std::os::fd::OwnedFd,
) -> Result<(), NetlinkError> {
    let no_device =
        || NetlinkError::Refused { message: 0, errno: rustix::io::Errno::NODEV, explanation: None };
    let index = link::get(host, Target::Name(&device.host_name))?.ok_or_else(no_device)?.index;
    let addresses: Vec<_> =
        route::global_addresses(host)?.into_iter().filter(|address| address.index == index).collect();
    let mut batch = Batch::new();
    link::move_to(&mut batch, index, namespace, &device.container_name);
    host.execute(&mut batch)?;
    // It may have another number there.
    let index = link::get(inside, Target::Name(&device.container_name))?.ok_or_else(no_device)?.index;
    let mut batch = Batch::new();
    for mut address in addresses {
        address.index = index;
        route::restore_address(&mut batch, &address);
    }
    link::set_up(&mut batch, Target::Index(index));
    inside.execute(&mut batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(NetDevicePlan::new("eth0", "").unwrap().container_name, "eth0");
        for (host, container) in
            [("", ""), ("a/b", ""), ("eth0", "0123456789abcdef"), ("eth0", "x%d"), (".", "")]
        {
            assert!(NetDevicePlan::new(host, container).is_err(), "{host:?} {container:?}");
        }
    }
}
