//! Docker's profile format: rules with conditions on capabilities, architecture and kernel.

use palan_linux::capability;
use palan_oci::runtime_spec::{Seccomp, SeccompArg, SeccompSyscall};
use serde::{Deserialize, Deserializer};

use super::{Architecture, Conditions, SeccompError};

/// Largest profile that is read.
const MAX_SIZE: usize = 4 << 20;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    architectures: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    arch_map: Vec<ArchitectureMap>,
    flags: Option<Vec<String>>,
    listener_path: String,
    listener_metadata: String,
    #[serde(deserialize_with = "nullable")]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArchitectureMap {
    architecture: String,
    #[serde(deserialize_with = "nullable")]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    /// Old profiles have one name for each rule.
    name: String,
    #[serde(deserialize_with = "nullable")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    args: Vec<SeccompArg>,
    #[serde(deserialize_with = "nullable")]
    includes: Filter,
    #[serde(deserialize_with = "nullable")]
    excludes: Filter,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    #[serde(deserialize_with = "nullable")]
    caps: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl DockerProfile {
    pub(super) fn from_json(json: &[u8]) -> Result<Self, SeccompError> {
        if json.len() > MAX_SIZE {
            return Err(SeccompError::Invalid(format!(
                "it has {} bytes, {MAX_SIZE} are possible",
                json.len()
            )));
        }
        let profile: Self = serde_json::from_slice(json).map_err(SeccompError::Json)?;
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return Err(SeccompError::Invalid(
                "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'".to_owned(),
            ));
        }
        for rule in &profile.syscalls {
            if !rule.name.is_empty() && !rule.names.is_empty() {
                return Err(SeccompError::Invalid(
                    "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'".to_owned(),
                ));
            }
            for version in [&rule.includes.min_kernel, &rule.excludes.min_kernel].into_iter().flatten() {
                if parse_version(version).is_none() {
                    return Err(SeccompError::Invalid(format!("invalid kernel version {version:?}")));
                }
            }
        }
        Ok(profile)
    }

    pub(super) fn resolve(&self, conditions: &Conditions) -> Seccomp {
        let native = Architecture::NATIVE.name();
        let mut architectures = self.architectures.clone();
        if let Some(map) = self.arch_map.iter().find(|map| map.architecture == native) {
            architectures = vec![map.architecture.clone()];
            architectures.extend(map.sub_architectures.iter().cloned());
        }
        let applies =
            |rule: &&Rule| rule.includes.includes(conditions) && !rule.excludes.excludes(conditions);
        let syscalls = self.syscalls.iter().filter(applies).map(|rule| SeccompSyscall {
            names: if rule.names.is_empty() { vec![rule.name.clone()] } else { rule.names.clone() },
            action: rule.action.clone(),
            errno_ret: rule.errno_ret,
            args: rule.args.clone(),
        });
        Seccomp {
            default_action: self.default_action.clone(),
            default_errno_ret: self.default_errno_ret,
            architectures,
            flags: self.flags.clone(),
            listener_path: self.listener_path.clone(),
            listener_metadata: self.listener_metadata.clone(),
            syscalls: syscalls.collect(),
        }
    }
}

/// The native architecture in Go's words.
const fn go_architecture() -> &'static str {
    match Architecture::NATIVE {
        Architecture::Aarch64 => "arm64",
        _ => "amd64",
    }
}

fn has_capability(conditions: &Conditions, name: &str) -> bool {
    capability::by_name(name).is_some_and(|capability| conditions.capabilities.contains(capability))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Filter {
    fn is_native(&self) -> bool {
        self.arches.iter().any(|name| name == go_architecture())
    }

    fn is_new_enough(&self, conditions: &Conditions) -> bool {
        let minimum = self.min_kernel.as_deref().and_then(parse_version);
        minimum.is_some_and(|minimum| conditions.kernel >= minimum)
    }

    /// All that is asked for is there.
    fn includes(&self, conditions: &Conditions) -> bool {
        (self.arches.is_empty() || self.is_native())
            && self.caps.iter().all(|name| has_capability(conditions, name))
            && (self.min_kernel.is_none() || self.is_new_enough(conditions))
    }

    /// Anything that is named is there.
    fn excludes(&self, conditions: &Conditions) -> bool {
        self.is_native()
            || self.caps.iter().any(|name| has_capability(conditions, name))
            || self.is_new_enough(conditions)
    }
}
