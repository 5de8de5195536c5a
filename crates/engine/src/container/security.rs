//! Capabilities, seccomp and the other security options of a container, resolved from what was asked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use palan_linux::capability::{self, CapabilitySet};
use palan_oci::runtime_spec;
use palan_supervisor::runtime::seccomp::{Conditions, Profile, Program, kernel_version};

use crate::config::EngineConfig;
use crate::container::validate::unsupported;
use crate::error::Context;
use crate::host::HostFacts;
use crate::spec::HostConfig;
use crate::{Error, Result};

/// What a container may do unless told otherwise: Docker's list.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The security options, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Set `no_new_privs`.
    pub(crate) no_new_privileges: bool,
    /// Seccomp: absent for the daemon's profile.
    pub(crate) seccomp: Option<Seccomp>,
    /// Neither masked nor read-only paths.
    pub(crate) system_paths_unconfined: bool,
    /// Whether the container may write to its cgroups; absent: if it is privileged.
    pub(crate) writable_cgroups: Option<bool>,
    /// AppArmor profile; absent for none.
    pub(crate) app_armor: Option<String>,
}

/// What `seccomp=` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// No filter.
    Unconfined,
    /// The profile of this program.
    Builtin,
    /// A profile as JSON.
    Json(String),
}

/// Parses `--security-opt`.
pub(crate) fn options(list: &[String], host: &HostFacts, config: &EngineConfig) -> Result<Options> {
    let mut options = Options { no_new_privileges: config.no_new_privileges, ..Options::default() };
    for text in list {
        match text.as_str() {
            "no-new-privileges" => {
                options.no_new_privileges = true;
                continue;
            }
            "writable-cgroups" => {
                options.writable_cgroups = Some(true);
                continue;
            }
            // An old way to say `label=disable`.
            "disable" => continue,
            _ => {}
        }
        let (key, value) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: \"{text}\"")))?;
        match (key, value) {
            ("no-new-privileges", value) => options.no_new_privileges = boolean(text, value)?,
            ("writable-cgroups", value) => options.writable_cgroups = Some(boolean(text, value)?),
            ("seccomp", "unconfined") => options.seccomp = Some(Seccomp::Unconfined),
            ("seccomp", "builtin") => options.seccomp = Some(Seccomp::Builtin),
            ("seccomp", profile) => {
                Profile::from_json(profile.as_bytes())
                    .map_err(|source| Error::invalid("invalid seccomp profile").with_source(source))?;
                options.seccomp = Some(Seccomp::Json(profile.into()));
            }
            ("systempaths", "unconfined") => options.system_paths_unconfined = true,
            ("apparmor", "unconfined") if !host.app_armor => {}
            ("apparmor", profile) if !host.app_armor => {
                return Err(Error::invalid(format!(
                    "--security-opt apparmor={profile}: AppArmor is not enabled in this host's kernel"
                )));
            }
            // Containers have no label here, as with a Docker daemon that was not told `selinux-enabled`.
            ("label", "disable") => {}
            ("label", _) if !host.selinux => {
                return Err(Error::invalid(format!(
                    "--security-opt {text}: SELinux is not enabled in this host's kernel"
                )));
            }
            ("apparmor", profile) => options.app_armor = Some(profile.into()),
            ("label", _) => return Err(unsupported(format!("--security-opt {text}"))),
            _ => return Err(Error::invalid(format!("invalid --security-opt 2: \"{text}\""))),
        }
    }
    Ok(options)
}

/// Go's `strconv.ParseBool`.
fn boolean(option: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid(format!("invalid --security-opt 2: \"{option}\""))),
    }
}

/// The bounding set, as the OCI names it.
pub(crate) fn capabilities(host: &HostConfig) -> Result<Vec<&'static str>> {
    let add = normalise(&host.cap_add, "CapAdd")?;
    let drop = normalise(&host.cap_drop, "CapDrop")?;
    let known = capability::names().iter().copied();
    let available = known.filter(|name| {
        let bit = capability::by_name(name);
        bit.is_some_and(|bit| capability::in_bounding_set(bit) == Some(true))
    });
    if host.privileged {
        return Ok(available.collect());
    }
    // As in Docker, one that is named in both lists is added, unless all are added.
    let wanted = |name: &str| {
        let dropped = drop.names.contains(&name);
        let default = DEFAULT_CAPABILITIES.contains(&name) && !drop.all;
        if add.all { !dropped } else { add.names.contains(&name) || default && !dropped }
    };
    Ok(available.filter(|name| wanted(name)).collect())
}

#[derive(Debug, Default)]
struct Names {
    all: bool,
    names: Vec<&'static str>,
}

fn normalise(list: &[String], field: &str) -> Result<Names> {
    let mut outcome = Names::default();
    for text in list {
        let upper = text.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if full == "CAP_ALL" {
            outcome.all = true;
            continue;
        }
        let known = capability::names().iter().find(|name| **name == full);
        let name = known
            .ok_or_else(|| Error::invalid(format!("invalid {field}: unknown capability: \"{full}\"")))?;
        outcome.names.push(name);
    }
    Ok(outcome)
}

/// Compiled seccomp programs by profile and capabilities: compiling takes longer than a container's start.
#[derive(Debug)]
pub(crate) struct SeccompPrograms {
    default: Option<Profile>,
    kernel: (u32, u32),
    compiled: Mutex<HashMap<u64, OwnedFd>>,
}

impl SeccompPrograms {
    /// Reads the daemon's profile and compiles it for the default capabilities.
    pub(crate) fn new(config: &EngineConfig) -> Result<Self> {
        let default = match config.seccomp_profile.as_str() {
            "unconfined" => None,
            "builtin" | "" => Some(Profile::builtin()),
            path => {
                let json = palan_stdx::fs::read(std::path::Path::new(path))
                    .context(|| "cannot read the seccomp profile of the daemon".into())?;
                let profile = Profile::from_json(&json).map_err(|source| {
                    Error::invalid(format!("the seccomp profile {path} is not valid")).with_source(source)
                })?;
                Some(profile)
            }
        };
        let programs = Self { default, kernel: kernel_version(), compiled: Mutex::new(HashMap::new()) };
        programs.descriptor(&HostConfig::default(), &Options::default())?;
        Ok(programs)
    }

    /// The profile for this container; `None` for no filter.
    fn profile(&self, host: &HostConfig, options: &Options) -> Result<Option<Cow<'_, Profile>>> {
        Ok(match (&options.seccomp, &self.default) {
            _ if host.privileged && options.seccomp.is_none() => None,
            (Some(Seccomp::Unconfined), _) | (None, None) => None,
            (Some(Seccomp::Json(json)), _) => {
                let profile = Profile::from_json(json.as_bytes())
                    .map_err(|source| Error::invalid("invalid seccomp profile").with_source(source))?;
                Some(Cow::Owned(profile))
            }
            (Some(Seccomp::Builtin), _) => Some(Cow::Owned(Profile::builtin())),
            (None, Some(profile)) => Some(Cow::Borrowed(profile)),
        })
    }

    /// The rules for this container, for a runtime that compiles them itself; `None` for no filter.
    pub(crate) fn rules(
        &self,
        host: &HostConfig,
        options: &Options,
    ) -> Result<Option<runtime_spec::Seccomp>> {
        let Some(profile) = self.profile(host, options)? else { return Ok(None) };
        let capabilities = set_of(&capabilities(host)?);
        Ok(Some(profile.resolve(&Conditions { capabilities, kernel: self.kernel })))
    }

    /// A descriptor of the program for this container; `None` for no filter.
    pub(crate) fn descriptor(&self, host: &HostConfig, options: &Options) -> Result<Option<OwnedFd>> {
        let Some(profile) = self.profile(host, options)? else { return Ok(None) };
        let set = set_of(&capabilities(host)?);
        if matches!(options.seccomp, Some(Seccomp::Json(_))) {
            return self.compile(&profile, set).map(Some);
        }
        // The explicit builtin profile differs from the daemon's only where the daemon has another one.
        let key = set.bits() | if options.seccomp.is_some() { 1 << 63 } else { 0 };
        if let Some(known) = self.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.try_clone().map(Some).context(|| "cannot duplicate a descriptor".into());
        }
        let program = self.compile(&profile, set)?;
        let copy = program.try_clone().context(|| "cannot duplicate a descriptor".into())?;
        const MOST: usize = 64;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.len() < MOST {
            compiled.insert(key, copy);
        }
        Ok(Some(program))
    }

    fn compile(&self, profile: &Profile, capabilities: CapabilitySet) -> Result<OwnedFd> {
        let rules = profile.resolve(&Conditions { capabilities, kernel: self.kernel });
        let program = Program::compile(&rules)
            .map_err(|source| Error::invalid("the seccomp profile can't be compiled").with_source(source))?;
        palan_linux::memfd::sealed("seccomp", &program.to_bytes())
            .context(|| "cannot keep a seccomp program".into())
    }
}

fn set_of(names: &[&str]) -> CapabilitySet {
    names
        .iter()
        .filter_map(|name| capability::by_name(name))
        .fold(CapabilitySet::empty(), CapabilitySet::union)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(add: &[&str], drop: &[&str]) -> Result<Vec<&'static str>> {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        capabilities(&HostConfig { cap_add: own(add), cap_drop: own(drop), ..HostConfig::default() })
    }

    #[test]
    fn capability_lists() {
        assert_eq!(caps(&["chown"], &["ALL"]).expect("fine"), ["CAP_CHOWN"]);
        assert!(!caps(&[], &["CAP_KILL"]).expect("fine").contains(&"CAP_KILL"));
        assert!(caps(&["ALL"], &["NET_RAW"]).expect("fine").iter().all(|name| *name != "CAP_NET_RAW"));
        let unknown = caps(&["FLY"], &[]).expect_err("unknown");
        assert_eq!(unknown.to_string(), "invalid CapAdd: unknown capability: \"CAP_FLY\"");
    }

    #[test]
    fn security_options() {
        let config = crate::EngineConfig::resolve(
            &crate::FileConfig::default(),
            "1",
            crate::SupervisorSource::Embedded(b""),
        )
        .expect("defaults");
        let parse = |text: &str| options(&[text.to_owned()], &HostFacts::default(), &config);
        assert!(parse("no-new-privileges").expect("fine").no_new_privileges);
        assert!(parse("no-new-privileges:true").expect("fine").no_new_privileges);
        assert!(!parse("no-new-privileges=0").expect("fine").no_new_privileges);
        assert_eq!(
            parse("no-new-privileges=maybe").expect_err("no boolean").to_string(),
            "invalid --security-opt 2: \"no-new-privileges=maybe\""
        );
        assert_eq!(parse("writable-cgroups").expect("fine").writable_cgroups, Some(true));
        assert_eq!(parse("writable-cgroups=false").expect("fine").writable_cgroups, Some(false));
        let facts = HostFacts { app_armor: true, ..HostFacts::default() };
        let confined = options(&["apparmor=x".to_owned()], &facts, &config).expect("there is AppArmor");
        assert_eq!(confined.app_armor.as_deref(), Some("x"));
        assert_eq!(parse("seccomp=unconfined").expect("fine").seccomp, Some(Seccomp::Unconfined));
        assert_eq!(parse("colour").expect_err("unknown").to_string(), "invalid --security-opt 1: \"colour\"");
        assert_eq!(parse("a=b").expect_err("unknown").to_string(), "invalid --security-opt 2: \"a=b\"");
        assert!(
            parse("apparmor=x").expect_err("no AppArmor").to_string().contains("AppArmor is not enabled")
        );
        assert!(parse("apparmor=unconfined").is_ok() && parse("label=disable").is_ok());
    }
}
