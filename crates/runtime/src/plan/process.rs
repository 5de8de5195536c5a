//! `process`, checked: for the first process of a container and for further ones alike.

use std::collections::HashMap;
use std::ffi::CString;

use palan_linux::capability::{self, CapabilitySet};
use palan_linux::scheduling::SchedulerAttributes;
use palan_linux::tty::WindowSize;
use palan_oci::runtime_spec::{Capabilities, ConsoleSize, Process, Seccomp, User};
use rustix::process::Resource;

use crate::error::{Error, InField};
use crate::seccomp::Program;

use super::invalid;
use super::kernel::{self, AffinityPlan};

/// What a process executes, as whom, with which rights.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    /// The program's name as it was asked for.
    pub(crate) name: String,
    pub(crate) arguments: Vec<CString>,
    /// Names and values in order, without duplicates.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) user: UserPlan,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) rlimits: Vec<RlimitPlan>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) seccomp: Option<Program>,
    pub(crate) scheduler: Option<SchedulerAttributes>,
    /// Class and priority.
    pub(crate) io_priority: Option<(u16, u16)>,
    pub(crate) affinity: AffinityPlan,
    /// What was asked for and is not known here, one sentence each.
    pub(crate) warnings: Vec<String>,
    /// Size of the terminal.
    pub(crate) console_size: Option<(u16, u16)>,
}

/// Who to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UserPlan {
    /// By number.
    Numeric { uid: u32, gid: u32, groups: Vec<u32> },
    /// To look up in the container.
    Named { user: String, group_names: Vec<String>, groups: Vec<u32> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RlimitPlan {
    pub(crate) name: &'static str,
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl ProcessPlan {
    pub(crate) fn new(
        process: &Process,
        user: Option<&str>,
        group_names: &[String],
        seccomp: Option<Program>,
    ) -> Result<Self, Error> {
        let name = process.args.first().filter(|name| !name.is_empty());
        let name = name
            .ok_or_else(|| invalid("process.args must not be empty: there is no command to run"))?
            .clone();
        let arguments = process.args.iter().enumerate();
        let arguments = arguments
            .map(|(index, argument)| {
                CString::new(argument.as_str())
                    .map_err(|_| invalid(format!("process.args[{index}]: {argument:?} contains a NUL byte")))
            })
            .collect::<Result<_, _>>()?;
        if process.cwd.contains('\0') || !process.cwd.starts_with('/') {
            return Err(invalid(format!("process.cwd: {:?} is no absolute path", process.cwd)));
        }
        check_user(&process.user)?;
        let groups = process.user.additional_gids.clone();
        let user = match user {
            Some(user) => {
                UserPlan::Named { user: user.to_owned(), group_names: group_names.to_vec(), groups }
            }
            None => UserPlan::Numeric { uid: process.user.uid, gid: process.user.gid, groups },
        };
        let mut warnings = Vec::new();
        let capabilities = capabilities(process.capabilities.as_ref(), &mut warnings);
        Ok(Self {
            name,
            arguments,
            environment: environment(&process.env)?,
            cwd: process.cwd.clone(),
            user,
            umask: process.user.umask.unwrap_or(0o022),
            capabilities,
            rlimits: rlimits(process)?,
            no_new_privileges: process.no_new_privileges,
            oom_score_adj: process.oom_score_adj.map(oom_score_adj).transpose()?,
            apparmor_profile: text("process.apparmorProfile", &process.apparmor_profile)?,
            selinux_label: text("process.selinuxLabel", &process.selinux_label)?,
            seccomp,
            scheduler: process.scheduler.as_ref().map(kernel::scheduler).transpose()?,
            io_priority: process.io_priority.as_ref().map(kernel::io_priority).transpose()?,
            affinity: process
                .exec_cpu_affinity
                .as_ref()
                .map(kernel::affinity)
                .transpose()?
                .unwrap_or_default(),
            warnings,
            // Without a terminal the specification wants it ignored.
            console_size: process.console_size.filter(|_| process.terminal).map(console_size).transpose()?,
        })
    }
}

impl ProcessPlan {
    /// The size that the specification gives the terminal.
    pub(crate) fn window_size(&self) -> Option<WindowSize> {
        self.console_size.map(|(rows, columns)| WindowSize { rows, columns })
    }
}

pub(super) fn text(field: &str, value: &str) -> Result<Option<String>, Error> {
    if value.contains('\0') {
        return Err(invalid(format!("{field}: {value:?} contains a NUL byte")));
    }
    Ok(Some(value.to_owned()).filter(|value| !value.is_empty()))
}

/// Numbers that can be somebody's. The highest means "unchanged" to the kernel, so it is nobody's.
fn check_user(user: &User) -> Result<(), Error> {
    let check = |field: &str, number: u32| match number {
        u32::MAX => Err(invalid(format!("process.user.{field}: {number} is no user or group"))),
        _ => Ok(()),
    };
    check("uid", user.uid)?;
    check("gid", user.gid)?;
    for (index, gid) in user.additional_gids.iter().enumerate() {
        check(&format!("additionalGids[{index}]"), *gid)?;
    }
    match user.umask {
        Some(umask) if umask > 0o777 => {
            Err(invalid(format!("process.user.umask: {umask} is more than {} (octal 777)", 0o777)))
        }
        _ => Ok(()),
    }
}

/// How willingly the kernel kills the process, from `OOM_SCORE_ADJ_MIN` to `OOM_SCORE_ADJ_MAX`.
fn oom_score_adj(score: i32) -> Result<i32, Error> {
    if (-1000..=1000).contains(&score) {
        Ok(score)
    } else {
        Err(invalid(format!("process.oomScoreAdj: {score} is not within -1000 and 1000")))
    }
}

fn console_size(size: ConsoleSize) -> Result<(u16, u16), Error> {
    let side = |field: &str, length: u32| {
        u16::try_from(length)
            .map_err(|_| invalid(format!("process.consoleSize.{field}: {length} is more than {}", u16::MAX)))
    };
    Ok((side("height", size.height)?, side("width", size.width)?))
}

/// The filter to load: the given one, or else the specification's.
pub(crate) fn seccomp(given: Option<&Program>, rules: Option<&Seccomp>) -> Result<Option<Program>, Error> {
    match (given, rules) {
        (Some(program), _) => Ok(Some(program.clone())),
        // As runc has it, an empty profile is none.
        (None, Some(rules)) if rules.default_action.is_empty() && rules.syscalls.is_empty() => Ok(None),
        (None, Some(rules)) => Ok(Some(Program::compile(rules).in_field("linux.seccomp")?)),
        (None, None) => Ok(None),
    }
}

/// Names with values; the last of a name wins, in the place of the first.
fn environment(entries: &[String]) -> Result<Vec<(String, String)>, Error> {
    let mut result: Vec<(String, String)> = Vec::with_capacity(entries.len() + 1);
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let refuse = |why: &str| {
            Err(invalid(format!("process.env[{index}]: invalid environment variable {entry:?}: {why}")))
        };
        if entry.contains('\0') {
            return refuse("contains nul byte");
        }
        let Some((name, value)) = entry.split_once('=') else { return refuse("missing '='") };
        if name.is_empty() {
            return refuse("name is empty");
        }
        match places.get(name) {
            Some(place) => value.clone_into(&mut result[*place].1),
            None => {
                places.insert(name, result.len());
                result.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(result)
}

/// The sets of these names. A name that nobody knows or that this kernel lacks is left out, with a warning, as runc does:
/// a container made for a newer kernel is still the safer for it.
fn capabilities(names: Option<&Capabilities>, warnings: &mut Vec<String>) -> CapabilityPlan {
    let mut left_out = Vec::new();
    let none = Capabilities::default();
    let names = names.unwrap_or(&none);
    let mut set = |names: &[String]| {
        let mut set = CapabilitySet::empty();
        for name in names {
            match capability::by_name(name) {
                Some(capability) if capability::in_bounding_set(capability).is_some() => set |= capability,
                _ => left_out.push(name.clone()),
            }
        }
        set
    };
    let mut plan = CapabilityPlan {
        bounding: set(&names.bounding),
        effective: set(&names.effective),
        permitted: set(&names.permitted),
        inheritable: set(&names.inheritable),
        ambient: set(&names.ambient),
    };
    let impossible = plan.effective - plan.permitted;
    plan.effective -= impossible;
    for name in capability::names_of(impossible) {
        warnings.push(format!("can't make capability {name} effective: it is not permitted"));
    }
    // Ambient ones must be permitted and inheritable.
    let impossible = plan.ambient - (plan.permitted & plan.inheritable);
    plan.ambient -= impossible;
    for name in capability::names_of(impossible) {
        warnings.push(format!("can't raise ambient capability {name}: it is not permitted and inheritable"));
    }
    left_out.sort_unstable();
    left_out.dedup();
    if !left_out.is_empty() {
        warnings.push(format!("ignoring unknown or unavailable capabilities: {left_out:?}"));
    }
    plan
}

impl CapabilityPlan {
    /// What a process with the capabilities `own` can give: the kernel refuses a whole set for one that it lacks.
    pub(crate) fn within(self, own: CapabilitySet) -> Self {
        Self {
            bounding: self.bounding,
            effective: self.effective & own,
            permitted: self.permitted & own,
            inheritable: self.inheritable & own,
            ambient: self.ambient & own,
        }
    }
}

fn rlimits(process: &Process) -> Result<Vec<RlimitPlan>, Error> {
    const KNOWN: [(&str, Resource); 16] = [
        ("RLIMIT_CPU", Resource::Cpu),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_DATA", Resource::Data),
        ("RLIMIT_STACK", Resource::Stack),
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_RSS", Resource::Rss),
        ("RLIMIT_NPROC", Resource::Nproc),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_AS", Resource::As),
        ("RLIMIT_LOCKS", Resource::Locks),
        ("RLIMIT_SIGPENDING", Resource::Sigpending),
        ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        ("RLIMIT_NICE", Resource::Nice),
        ("RLIMIT_RTPRIO", Resource::Rtprio),
        ("RLIMIT_RTTIME", Resource::Rttime),
    ];
    let mut result: Vec<RlimitPlan> = Vec::new();
    for (index, rlimit) in process.rlimits.iter().enumerate() {
        let refuse = |what: String| invalid(format!("process.rlimits[{index}]: {what}"));
        let (name, resource) = KNOWN
            .into_iter()
            .find(|(name, _)| *name == rlimit.kind)
            .ok_or_else(|| refuse(format!("invalid rlimit type {:?}", rlimit.kind)))?;
        if result.iter().any(|other| other.resource == resource) {
            return Err(refuse(format!("duplicate rlimit {name}")));
        }
        if rlimit.soft > rlimit.hard {
            return Err(refuse(format!(
                "soft limit {} of {name} exceeds its hard limit {}",
                rlimit.soft, rlimit.hard
            )));
        }
        result.push(RlimitPlan { name, resource, soft: rlimit.soft, hard: rlimit.hard });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(entries: &[&str]) -> Result<Vec<(String, String)>, Error> {
        environment(&entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_value_of_a_name_wins() {
        let result = env(&["A=1", "B=", "A=2=3"]).unwrap();
        assert_eq!(result, [("A".into(), "2=3".into()), ("B".into(), String::new())]);
    }

    /// CVE-2026-57231: an entry without a value must never take one from the host.
    #[test]
    fn malformed_environment_is_refused() {
        for bad in ["FOO", "*", "=", "=x", "A=\0", ""] {
            assert!(env(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unknown_names_are_left_out_with_a_warning() {
        let names = Capabilities { bounding: vec!["CAP_NONSENSE".into()], ..Capabilities::default() };
        let mut warnings = Vec::new();
        assert_eq!(capabilities(Some(&names), &mut warnings).bounding, CapabilitySet::empty());
        assert_eq!(warnings, [r#"ignoring unknown or unavailable capabilities: ["CAP_NONSENSE"]"#]);
    }
}
