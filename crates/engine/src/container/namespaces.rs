//! Which namespaces a container has of its own, which are the host's, and which another container's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use palan_linux::namespace::{Kind, PinnedProcess};
use palan_oci::runtime_spec::{Namespace, NamespaceKind};

use crate::container::Details;
use crate::container::index::Handle;
use crate::engine::Engine;
use crate::spec::{ContainerSpec, HostConfig};
use crate::{Error, Result};

/// Where the shared memory of a container is.
pub(crate) const SHARED_MEMORY: &str = "/dev/shm";

/// Namespaces of other containers, open.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// What is joined.
    pub(crate) namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// The mount namespace in which the shared memory is found that belongs to a joined IPC namespace.
    pub(crate) mounts: Option<OwnedFd>,
}

/// The modes as such, and what can't go with them. Texts are Docker's.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let host = &spec.host;
    let modes = [
        ("IPC", &host.ipc_mode, &["", "private", "shareable", "none", "host"][..]),
        ("PID", &host.pid_mode, &["", "host"][..]),
        ("UTS", &host.uts_mode, &["", "host"][..]),
        ("cgroup namespace", &host.cgroupns_mode, &["", "private", "host"][..]),
        ("user namespace", &host.userns_mode, &["", "host"][..]),
    ];
    for (what, mode, known) in modes {
        let joins = matches!(what, "IPC" | "PID") && container(mode).is_some_and(|name| !name.is_empty());
        if !joins && !known.contains(&mode.as_str()) {
            return Err(Error::invalid(format!("invalid {what} mode: {mode}")));
        }
    }
    if host.uts_mode == "host" && !spec.config.hostname.is_empty() {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    if host.network_mode == "host" && !host.links.is_empty() {
        return Err(Error::invalid(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ));
    }
    network(spec)
}

/// Whether the network exists is for the engine to say.
fn network(spec: &ContainerSpec) -> Result<()> {
    let ContainerSpec { host, config, .. } = spec;
    let Some(other) = container(&host.network_mode) else { return Ok(()) };
    if other.is_empty() {
        return Err(Error::invalid("invalid network mode: invalid container format container:<name|id>"));
    }
    let conflicts = [
        ("conflicting options: hostname and the network mode", !config.hostname.is_empty()),
        (
            "conflicting options: container type network can't be used with links. This would result in undefined behavior",
            !host.links.is_empty(),
        ),
        ("conflicting options: dns and the network mode", !host.dns.is_empty()),
        ("conflicting options: custom host-to-IP mapping and the network mode", !host.extra_hosts.is_empty()),
        (
            "conflicting options: port publishing and the container type network mode",
            !host.port_bindings.is_empty() || host.publish_all_ports,
        ),
        (
            "conflicting options: port exposing and the container type network mode",
            !config.exposed_ports.is_empty(),
        ),
    ];
    match conflicts.iter().find(|(_, is_asked)| *is_asked) {
        Some((text, _)) => Err(Error::invalid(*text)),
        None => Ok(()),
    }
}

/// The other container of a mode `container:…`.
fn container(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:")
}

/// Whether process 1 of the container's PID namespace is its own.
pub(crate) fn has_own_init(host: &HostConfig) -> bool {
    host.pid_mode.is_empty()
}

/// Whether the container has a network namespace to itself.
pub(crate) fn has_own_network(host: &HostConfig) -> bool {
    host.network_mode != "host" && container(&host.network_mode).is_none()
}

/// Whether the container joins namespaces of another beside its network.
pub(crate) fn are_shared(host: &HostConfig) -> bool {
    [&host.pid_mode, &host.ipc_mode].into_iter().any(|mode| container(mode).is_some())
}

/// Replaces the names of other containers by their ids, which stay when a container gets another name.
pub(crate) fn settle_names(engine: &Engine, host: &mut HostConfig) -> Result<()> {
    for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
        if let Some(name) = container(mode) {
            *mode = format!("container:{}", find(engine, name)?.details().id);
        }
    }
    Ok(())
}

/// Another container that a mode names. A missing one is no object of the request's that was not found: clients would take
/// that for the image.
pub(crate) fn find(engine: &Engine, name: &str) -> Result<Arc<Handle>> {
    engine.index.find(name).map_err(|error| Error::invalid(error.report()))
}

/// The namespaces that are not the host's. Those of other containers are put in their places by the supervisor.
pub(crate) fn specification(host: &HostConfig) -> Vec<Namespace> {
    let own = [
        (NamespaceKind::Mount, true),
        (NamespaceKind::Network, host.network_mode != "host"),
        (NamespaceKind::Uts, host.uts_mode != "host"),
        (NamespaceKind::Pid, host.pid_mode != "host"),
        (NamespaceKind::Ipc, host.ipc_mode != "host"),
        (NamespaceKind::Cgroup, host.cgroupns_mode != "host"),
    ];
    own.into_iter()
        .filter(|(_, is_own)| *is_own)
        .map(|(kind, _)| Namespace { kind, path: String::new() })
        .collect()
}

/// Whether the container's shared memory is another's.
pub(crate) fn shares_memory(details: &Details) -> bool {
    container(&details.host.ipc_mode).is_some()
        && !details.mounts.iter().any(|mount| mount.destination == SHARED_MEMORY)
}

/// Opens the namespaces of other containers, which must run.
pub(crate) fn join(engine: &Engine, details: &Details) -> Result<Joined> {
    let mut joined = Joined::default();
    if let Some(other) = container(&details.host.pid_mode) {
        let process = init_of(engine, "PID", other)?;
        joined.namespaces.push((NamespaceKind::Pid, open(&process, "PID", other, Kind::Pid)?));
    }
    if let Some(other) = container(&details.host.ipc_mode) {
        let process = init_of(engine, "IPC", other)?;
        joined.namespaces.push((NamespaceKind::Ipc, open(&process, "IPC", other, Kind::Ipc)?));
        if shares_memory(details) {
            joined.mounts = Some(open(&process, "IPC", other, Kind::Mount)?);
        }
    }
    Ok(joined)
}

/// The first process of a running container. It may end at any moment: then what is asked of it fails, and never means
/// the process that has its number next.
fn init_of(engine: &Engine, what: &str, other: &str) -> Result<PinnedProcess> {
    let handle = engine
        .index
        .find(other)
        .map_err(|source| Error::invalid(format!("failed to join {what} namespace")).with_source(source))?;
    let other = handle.details();
    if !other.state.status.is_live() {
        return Err(not_running(what, &other.id));
    }
    if what == "IPC" && matches!(other.host.ipc_mode.as_str(), "private" | "none") {
        return Err(Error::invalid(format!(
            "failed to join IPC namespace: container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
             container)",
            other.id
        )));
    }
    let process = u32::try_from(other.state.pid).ok().and_then(|pid| PinnedProcess::open(pid).ok());
    // Its cgroup bears the container's name, and only what belongs to the container is in there.
    process
        .filter(|process| process.cgroups().is_ok_and(|text| text.contains(&other.id)))
        .ok_or_else(|| not_running(what, &other.id))
}

fn open(process: &PinnedProcess, what: &str, other: &str, kind: Kind) -> Result<OwnedFd> {
    process.namespace(kind).map_err(|source| not_running(what, other).with_source(source))
}

fn not_running(what: &str, id: &str) -> Error {
    Error::conflict(format!("cannot join {what} of a non running container: {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(change: impl FnOnce(&mut ContainerSpec)) -> String {
        let mut spec = ContainerSpec::default();
        change(&mut spec);
        check(&spec).map_or_else(|error| error.report(), |()| String::new())
    }

    #[test]
    fn modes() {
        for mode in ["", "private", "shareable", "none", "host", "container:a"] {
            assert_eq!(outcome(|spec| spec.host.ipc_mode = mode.into()), "");
        }
        for mode in ["", "host", "container:a"] {
            assert_eq!(outcome(|spec| spec.host.pid_mode = mode.into()), "");
        }
        assert_eq!(outcome(|spec| spec.host.ipc_mode = "x".into()), "invalid IPC mode: x");
        assert_eq!(outcome(|spec| spec.host.pid_mode = "container:".into()), "invalid PID mode: container:");
        assert_eq!(
            outcome(|spec| spec.host.uts_mode = "container:a".into()),
            "invalid UTS mode: container:a"
        );
        assert_eq!(
            outcome(|spec| spec.host.userns_mode = "private".into()),
            "invalid user namespace mode: private"
        );
        assert_eq!(
            outcome(|spec| spec.host.cgroupns_mode = "none".into()),
            "invalid cgroup namespace mode: none"
        );
    }

    #[test]
    fn conflicts() {
        let with_name = |host: HostConfig| {
            outcome(|spec| {
                spec.config.hostname = "h".into();
                spec.host = host;
            })
        };
        assert_eq!(
            with_name(HostConfig { uts_mode: "host".into(), ..HostConfig::default() }),
            "conflicting options: hostname and the UTS mode"
        );
        assert_eq!(
            with_name(HostConfig { network_mode: "container:a".into(), ..HostConfig::default() }),
            "conflicting options: hostname and the network mode"
        );
        assert_eq!(
            outcome(|spec| {
                spec.host.network_mode = "container:a".into();
                spec.config.exposed_ports.insert("80/tcp".into());
            }),
            "conflicting options: port exposing and the container type network mode"
        );
    }

    #[test]
    fn what_is_the_hosts_is_no_namespace() {
        let host = HostConfig {
            network_mode: "host".into(),
            pid_mode: "host".into(),
            ipc_mode: "container:a".into(),
            ..HostConfig::default()
        };
        let kinds: Vec<_> = specification(&host).iter().map(|namespace| namespace.kind).collect();
        let expected = [NamespaceKind::Mount, NamespaceKind::Uts, NamespaceKind::Ipc, NamespaceKind::Cgroup];
        assert_eq!(kinds, expected);
        assert!(!has_own_network(&host) && !has_own_init(&host));
    }
}
