//! One file of the Container Device Interface: its form and its rules.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// A specification. A field that is not known makes all of it unusable, as the interface demands.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    cdi_version: String,
    /// `vendor.com/class`.
    pub(crate) kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) devices: Vec<Device>,
    /// What every device changes.
    #[serde(default)]
    pub(crate) container_edits: ContainerEdits,
}

/// A device that can be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) container_edits: ContainerEdits,
}

/// Changes of a runtime specification.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ContainerEdits {
    pub(crate) env: Vec<String>,
    pub(crate) device_nodes: Vec<DeviceNode>,
    pub(crate) net_devices: Vec<NetDevice>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) intel_rdt: Option<IntelRdt>,
    pub(crate) additional_gids: Vec<u32>,
}

/// A device node; what is absent is as on the host.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    pub(crate) host_path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    pub(crate) permissions: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A network interface of the host.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct NetDevice {
    pub(crate) host_interface_name: String,
    pub(crate) name: String,
}

/// A program to run at some step.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Hook {
    pub(crate) hook_name: String,
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) timeout: Option<u32>,
}

/// A mount.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Mount {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    pub(crate) options: Vec<String>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// A group of the kernel's resctrl file system.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(crate) clos_id: String,
    pub(crate) l3_cache_schema: String,
    pub(crate) mem_bw_schema: String,
    pub(crate) schemata: Vec<String>,
    pub(crate) enable_monitoring: bool,
}

/// Versions of the interface, oldest first.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

impl Document {
    /// Reads YAML, of which JSON is a part.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document: Self = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()))?
        };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        let position = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let version = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        let is = position(version).ok_or_else(|| format!("invalid version {:?}", self.cdi_version))?;
        let needed = self.needed_version();
        if position(needed) > Some(is) {
            return Err(format!("the spec version must be at least v{needed}"));
        }
        let (vendor, class) = self.kind.split_once('/').unwrap_or(("", &self.kind));
        for (what, name) in [("vendor", vendor), ("class", class)] {
            if !(name.starts_with(|first: char| first.is_ascii_alphabetic()) && is_name(name, "_-.")) {
                return Err(format!("invalid {what} {name:?}"));
            }
        }
        self.container_edits.check()?;
        let mut names = BTreeSet::new();
        for device in &self.devices {
            let Device { name, container_edits, .. } = device;
            if !(name.starts_with(|first: char| first.is_ascii_alphanumeric()) && is_name(name, "_-.:")) {
                return Err(format!("invalid device name {name:?}"));
            }
            if !names.insert(name) {
                return Err(format!("invalid spec, multiple device {name:?}"));
            }
            if *container_edits == ContainerEdits::default() {
                return Err(format!("device {name:?}: invalid device, empty device edits"));
            }
            container_edits.check().map_err(|problem| format!("device {name:?}: {problem}"))?;
        }
        if self.devices.is_empty() { Err("invalid spec, no devices".into()) } else { Ok(()) }
    }

    /// The version that has all that is used here.
    fn needed_version(&self) -> &'static str {
        let devices = self.devices.iter().map(|device| &device.container_edits);
        let edits: Vec<&ContainerEdits> = devices.chain([&self.container_edits]).collect();
        let uses = |what: fn(&ContainerEdits) -> bool| edits.iter().any(|edits| what(edits));
        let is_new_rdt = |rdt: &IntelRdt| !rdt.schemata.is_empty() || rdt.enable_monitoring;
        if !edits.iter().all(|edits| edits.net_devices.is_empty())
            || edits.iter().any(|edits| edits.intel_rdt.as_ref().is_some_and(is_new_rdt))
        {
            "1.1.0"
        } else if uses(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty()) {
            "0.7.0"
        } else if !self.annotations.is_empty()
            || self.devices.iter().any(|device| !device.annotations.is_empty())
            || self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'))
        {
            "0.6.0"
        } else if self.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit()))
            || uses(|edits| edits.device_nodes.iter().any(|node| !node.host_path.is_empty()))
        {
            "0.5.0"
        } else if uses(|edits| edits.mounts.iter().any(|mount| !mount.kind.is_empty())) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }
}

/// What is wrong and where; the rest shows the text around it.
fn first_line(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Letters, digits and `others`, of which none is the last.
fn is_name(name: &str, others: &str) -> bool {
    name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        const HOOKS: [&str; 6] =
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
        let variable = |text: &String| {
            let is_one = text.split_once('=').is_some_and(|(name, _)| !name.is_empty());
            if is_one { Ok(()) } else { Err(format!("invalid environment variable {text:?}")) }
        };
        self.env.iter().try_for_each(variable)?;
        for node in &self.device_nodes {
            if node.path.is_empty() {
                return Err("invalid (empty) device path".into());
            }
            if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!("device {:?}: invalid type {:?}", node.path, node.kind));
            }
            if node.major < 0 || node.minor < 0 {
                return Err(format!("device {:?}: invalid number {}:{}", node.path, node.major, node.minor));
            }
            if node.permissions != "none" && !node.permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(format!("device {:?}: invalid permissions {:?}", node.path, node.permissions));
            }
        }
        for hook in &self.hooks {
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!("invalid hook name {:?}", hook.hook_name));
            }
            if !hook.path.starts_with('/') {
                return Err(format!("hook {:?}: the path {:?} is not absolute", hook.hook_name, hook.path));
            }
            hook.env.iter().try_for_each(variable)?;
        }
        if self.mounts.iter().any(|mount| mount.host_path.is_empty() || mount.container_path.is_empty()) {
            return Err("invalid mount, empty host or container path".into());
        }
        if self.net_devices.iter().any(|net| net.host_interface_name.is_empty() || net.name.is_empty()) {
            return Err("invalid linux net device, empty HostInterfaceName or Name".into());
        }
        let is_wrong = |id: &str| id != "/" && (matches!(id, "." | "..") || id.contains(['/', '\n']));
        match &self.intel_rdt {
            Some(rdt) if is_wrong(&rdt.clos_id) => Err("invalid ClosID".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `nvidia-ctk cdi generate` writes them.
    const YAML: &str = "---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/bin/nvidia-smi
    hostPath: /usr/bin/nvidia-smi
    options:
    - ro
    - nosuid
    - bind
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      fileMode: 438
  name: \"0\"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
kind: nvidia.com/gpu
";

    fn outcome(text: &str) -> String {
        Document::parse(text).map_or_else(|problem| problem, |_| "fine".to_owned())
    }

    #[test]
    fn yaml_as_vendors_write_it() {
        let document = Document::parse(YAML).expect("valid");
        assert_eq!((document.kind.as_str(), document.devices.len()), ("nvidia.com/gpu", 2));
        assert_eq!(document.devices[0].name, "0");
        assert_eq!(document.devices[0].container_edits.device_nodes[0].file_mode, Some(0o666));
        assert_eq!(document.container_edits.hooks[0].args.len(), 4);
        assert_eq!(document.container_edits.mounts[0].options, ["ro", "nosuid", "bind"]);
    }

    #[test]
    fn rules() {
        let with = |version: &str, kind: &str, name: &str, edits: &str| {
            outcome(&format!(
                r#"{{"cdiVersion": "{version}", "kind": "{kind}",
                     "devices": [{{"name": "{name}", "containerEdits": {edits}}}]}}"#
            ))
        };
        let env = r#"{"env": ["A=b"]}"#;
        assert_eq!(with("0.3.0", "v.com/c", "d", env), "fine");
        assert_eq!(with("2.0.0", "v.com/c", "d", env), "invalid version \"2.0.0\"");
        assert_eq!(with("0.4.0", "v.com/c", "0", env), "the spec version must be at least v0.5.0");
        assert_eq!(with("0.5.0", "v.com/c.d", "d", env), "the spec version must be at least v0.6.0");
        assert_eq!(with("0.3.0", "vendor", "d", env), "invalid vendor \"\"");
        assert_eq!(with("0.3.0", "v.com/c", "d-", env), "invalid device name \"d-\"");
        assert_eq!(with("0.3.0", "v.com/c", "d", "{}"), "device \"d\": invalid device, empty device edits");
        assert_eq!(
            with("0.3.0", "v.com/c", "d", r#"{"env": ["A"]}"#),
            "device \"d\": invalid environment variable \"A\""
        );
        assert!(with("1.0.0", "v.com/c", "d", r#"{"colour": 1}"#).contains("unknown field `colour`"));
        let hook = r#"{"hooks": [{"hookName": "createContainer", "path": "bin/x"}]}"#;
        assert!(with("1.0.0", "v.com/c", "d", hook).contains("is not absolute"));
        assert_eq!(outcome(r#"{"cdiVersion": "0.3.0", "kind": "v.com/c"}"#), "invalid spec, no devices");
        assert_eq!(outcome("  \n"), "line 2 column 1: unexpected end of input");
        assert_ne!(outcome(""), "fine");
        assert!(outcome("kind: [a\nb: c").starts_with("line "), "one line says what is wrong");
    }
}
