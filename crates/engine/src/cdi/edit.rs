//! Edits of the Container Device Interface, laid over a runtime specification.

use std::path::Path;

use palan_oci::runtime_spec::{self as oci, Device, DeviceRule, Hooks, NetDevice, Spec};
use rustix::fs::FileType;

use super::document::{ContainerEdits, DeviceNode, IntelRdt};
use crate::error::Context;
use crate::{Error, Result};

/// Makes the edits. What is there already under the same name is replaced.
pub(super) fn apply(edits: &ContainerEdits, spec: &mut Spec) -> Result<()> {
    let process = spec.process.get_or_insert_default();
    crate::container::merge::override_environment(&mut process.env, &edits.env);
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !process.user.additional_gids.contains(gid) {
            process.user.additional_gids.push(*gid);
        }
    }
    let linux = spec.linux.get_or_insert_default();
    for node in &edits.device_nodes {
        let device = device(node)?;
        // "none" is what the vendor gives to nobody: the node is there, and no rule lets anybody open it.
        if matches!(device.kind.as_str(), "b" | "c") && node.permissions != "none" {
            linux.resources.get_or_insert_default().devices.push(rule(&device, node));
        }
        linux.devices.retain(|other| other.path != device.path);
        linux.devices.push(device);
    }
    for net in &edits.net_devices {
        let device = NetDevice { name: net.name.clone() };
        linux.net_devices.insert(net.host_interface_name.clone(), device);
    }
    if let Some(rdt) = &edits.intel_rdt {
        linux.intel_rdt = Some(resource_group(rdt));
    }
    for mount in &edits.mounts {
        spec.mounts.retain(|other| other.destination != mount.container_path);
        spec.mounts.push(oci::Mount {
            destination: mount.container_path.clone(),
            source: mount.host_path.clone(),
            kind: mount.kind.clone(),
            options: mount.options.clone(),
            ..oci::Mount::default()
        });
    }
    if !edits.mounts.is_empty() {
        // What lies deeper comes later; else the order stays.
        spec.mounts.sort_by_key(|mount| Path::new(&mount.destination).components().count());
    }
    for hook in &edits.hooks {
        list_of(spec.hooks.get_or_insert_default(), &hook.hook_name)?.push(oci::Hook {
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout,
        });
    }
    Ok(())
}

fn list_of<'a>(hooks: &'a mut Hooks, name: &str) -> Result<&'a mut Vec<oci::Hook>> {
    Ok(match name {
        "prestart" => &mut hooks.prestart,
        "createRuntime" => &mut hooks.create_runtime,
        "createContainer" => &mut hooks.create_container,
        "startContainer" => &mut hooks.start_container,
        "poststart" => &mut hooks.poststart,
        "poststop" => &mut hooks.poststop,
        _ => return Err(Error::invalid(format!("unknown hook name {name:?}"))),
    })
}

/// The node, with what the document leaves out looked up on the host.
fn device(node: &DeviceNode) -> Result<Device> {
    let on_host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let is_complete = !node.kind.is_empty() && (node.major != 0 || node.kind == "p");
    let mut device = Device {
        kind: node.kind.clone(),
        path: node.path.clone(),
        major: Some(node.major),
        minor: Some(node.minor),
        file_mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    };
    // The node itself counts, not what a link leads to.
    let stat = match rustix::fs::lstat(Path::new(on_host)) {
        Ok(stat) => stat,
        Err(_) if is_complete => return Ok(device),
        Err(errno) => {
            return Err(std::io::Error::from(errno))
                .context(|| format!("failed to stat CDI host device \"{on_host}\""));
        }
    };
    device.file_mode = device.file_mode.or(Some(stat.st_mode & 0o7777));
    if is_complete {
        return Ok(device);
    }
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        FileType::Fifo => "p",
        _ => return Err(Error::invalid(format!("CDI host device \"{on_host}\": not a device node"))),
    };
    if !node.kind.is_empty() && node.kind != kind {
        return Err(Error::invalid(format!(
            "CDI device (\"{}\", \"{on_host}\"), host type mismatch ({}, {kind})",
            node.path, node.kind
        )));
    }
    device.kind = kind.into();
    if kind != "p" {
        device.major = Some(rustix::fs::major(stat.st_rdev).into());
        device.minor = Some(rustix::fs::minor(stat.st_rdev).into());
    }
    Ok(device)
}

fn rule(device: &Device, node: &DeviceNode) -> DeviceRule {
    let access = match node.permissions.as_str() {
        "" => "rwm",
        letters => letters,
    };
    DeviceRule {
        allow: true,
        kind: device.kind.clone(),
        major: device.major,
        minor: device.minor,
        access: access.into(),
    }
}

fn resource_group(rdt: &IntelRdt) -> oci::IntelRdt {
    oci::IntelRdt {
        clos_id: rdt.clos_id.clone(),
        schemata: rdt.schemata.clone(),
        l3_cache_schema: rdt.l3_cache_schema.clone(),
        mem_bw_schema: rdt.mem_bw_schema.clone(),
        enable_monitoring: rdt.enable_monitoring,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives() {
        let edits: ContainerEdits = serde_json::from_str(
            r#"{"env": ["A=2", "B=3"], "additionalGids": [0, 7, 7],
                "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/null", "permissions": "r"},
                                {"path": "/dev/y", "type": "c", "major": 42, "minor": 7, "uid": 5}],
                "mounts": [{"hostPath": "/h", "containerPath": "/etc/x", "options": ["bind", "ro"]}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"]}],
                "netDevices": [{"hostInterfaceName": "eth7", "name": "e"}],
                "intelRdt": {"closID": "g"}}"#,
        )
        .expect("edits");
        let mut spec = Spec::default();
        spec.process.get_or_insert_default().env = vec!["A=1".into()];
        for destination in ["/etc/x", "/proc", "/a/b/c", "/z"] {
            spec.mounts.push(oci::Mount { destination: destination.into(), ..oci::Mount::default() });
        }
        apply(&edits, &mut spec).expect("edited");
        let process = spec.process.expect("process");
        assert_eq!((process.env, process.user.additional_gids), (vec!["A=2".into(), "B=3".into()], vec![7]));
        let order: Vec<&str> = spec.mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(order, ["/proc", "/z", "/etc/x", "/a/b/c"]);
        assert_eq!(spec.hooks.expect("hooks").create_container[0].args, ["true"]);
        let linux = spec.linux.expect("linux");
        let null = &linux.devices[0];
        assert_eq!((null.kind.as_str(), null.major, null.minor), ("c", Some(1), Some(3)));
        assert_eq!((linux.devices[1].major, linux.devices[1].uid), (Some(42), Some(5)));
        let rules = linux.resources.expect("resources").devices;
        assert_eq!((rules[0].access.as_str(), rules[1].access.as_str()), ("r", "rwm"));
        assert_eq!(linux.net_devices["eth7"].name, "e");
        assert_eq!(linux.intel_rdt.expect("group").clos_id, "g");
    }

    #[test]
    fn a_device_that_is_not_there() {
        let edits: ContainerEdits =
            serde_json::from_str(r#"{"deviceNodes": [{"path": "/dev/nonexist"}]}"#).expect("edits");
        let error = apply(&edits, &mut Spec::default()).expect_err("missing").report();
        assert!(error.starts_with("failed to stat CDI host device \"/dev/nonexist\""), "{error}");
        let edits: ContainerEdits =
            serde_json::from_str(r#"{"deviceNodes": [{"path": "/proc/self/status"}]}"#).expect("edits");
        assert!(
            apply(&edits, &mut Spec::default()).expect_err("a file").report().contains("not a device node")
        );
    }
}
