//! Who the process is and what it may: limits, labels, credentials, capabilities, seccomp.

use std::os::fd::{AsFd, OwnedFd};

use palan_linux::capability::{self, CapabilitySet};
use palan_linux::path::RootDir;
use palan_linux::scheduling::{self, SchedulerAttributes};
use rustix::process::{Gid, Rlimit, Uid};

use super::{devices, write_proc};
use crate::error::{Context, Error};
use crate::handshake::Channel;
use crate::plan::kernel::MemoryPolicyPlan;
use crate::plan::process::{CapabilityPlan, RlimitPlan};
use crate::plan::{Plan, ProcessPlan, UserPlan};
use crate::seccomp::Program;
use crate::user::{self, ResolvedUser};

/// What takes the host's rights: limits above those of this process, as far as they can be had, and the score for the
/// out-of-memory killer. The limits themselves come with [`set_limits`], when nothing of ours can run into them.
pub(crate) fn raise_limits(process: &ProcessPlan, proc: impl AsFd, channel: &Channel) -> Result<(), Error> {
    let warn = |text: String| channel.warn(&text).context(|| "tell the caller".to_owned());
    for limit in &process.rlimits {
        if let Some(text) = raise_rlimit(limit)? {
            warn(text)?;
        }
    }
    if let Some(score) = process.oom_score_adj {
        match write_proc(proc, "self/oom_score_adj", &score.to_string()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                warn(format!(
                    "oom_score_adj {score} needs CAP_SYS_RESOURCE, which this process lacks; it was not set"
                ))?;
            }
            Err(error) => return Err(Error::system(format!("set process.oomScoreAdj to {score}"), error)),
        }
    }
    Ok(())
}

/// How the kernel schedules the process, where its memory comes from, which system it seems to be.
pub(crate) fn set_scheduling(plan: &Plan) -> Result<(), Error> {
    set_process_scheduling(&plan.process)?;
    set_memory(plan.memory_policy.as_ref(), plan.personality)
}

/// The part of it that is the container's.
pub(crate) fn set_memory(policy: Option<&MemoryPolicyPlan>, personality: Option<u32>) -> Result<(), Error> {
    if let Some(policy) = policy {
        scheduling::set_memory_policy(policy.mode, &policy.nodes)
            .context(|| format!("set linux.memoryPolicy for nodes {:?}", policy.nodes))?;
    }
    if let Some(domain) = personality {
        scheduling::set_personality(domain).context(|| "set linux.personality".to_owned())?;
    }
    Ok(())
}

/// The part of it that every process brings along.
pub(crate) fn set_process_scheduling(process: &ProcessPlan) -> Result<(), Error> {
    if let Some((class, priority)) = process.io_priority {
        scheduling::set_io_priority(class, priority)
            .context(|| format!("set process.ioPriority to priority {priority} of class {class}"))?;
    }
    if let Some(attributes) = &process.scheduler {
        scheduling::set_scheduler(0, attributes).context(|| setting_scheduler(attributes))?;
    }
    Ok(())
}

/// What is tried when a scheduler is set.
pub(crate) fn setting_scheduler(attributes: &SchedulerAttributes) -> String {
    const DEADLINE: u32 = 6;
    if attributes.policy == DEADLINE {
        // What the kernel's answer leaves open, sched_setattr(2).
        return "set process.scheduler (this process scheduler can't be used together with AllowedCPUs)"
            .to_owned();
    }
    "set process.scheduler".to_owned()
}

/// Raises the hard limit to what is wanted. When it may not be raised, the returned sentence tells what it stays at.
fn raise_rlimit(limit: &RlimitPlan) -> Result<Option<String>, Error> {
    let now = rustix::process::getrlimit(limit.resource);
    let hard = now.maximum.unwrap_or(u64::MAX);
    if limit.hard <= hard {
        return Ok(None);
    }
    let wanted = Rlimit { current: now.current, maximum: finite(limit.hard) };
    match rustix::process::setrlimit(limit.resource, wanted) {
        Ok(()) => return Ok(None),
        Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(Error::system(format!("set rlimit {}", limit.name), errno)),
    }
    Ok(Some(format!(
        "rlimit {} {}:{} needs CAP_SYS_RESOURCE, which this process lacks; it is {}:{hard}",
        limit.name,
        limit.soft,
        limit.hard,
        limit.soft.min(hard),
    )))
}

fn finite(number: u64) -> Option<u64> {
    (number != u64::MAX).then_some(number)
}

/// Sets the limits, as far as [`raise_limits`] has got.
pub(crate) fn set_limits(process: &ProcessPlan) -> Result<(), Error> {
    for limit in &process.rlimits {
        let most = rustix::process::getrlimit(limit.resource).maximum.unwrap_or(u64::MAX);
        let wanted = Rlimit { current: finite(limit.soft.min(most)), maximum: finite(limit.hard.min(most)) };
        rustix::process::setrlimit(limit.resource, wanted)
            .context(|| format!("set rlimit {}", limit.name))?;
    }
    Ok(())
}

/// Finds out who to run as.
pub(crate) fn resolve_user(root: &RootDir, process: &ProcessPlan) -> Result<ResolvedUser, Error> {
    let mut resolved = match &process.user {
        UserPlan::Named { user, group_names, groups } => {
            let mut resolved = user::resolve(root, user, group_names)?;
            resolved.groups.extend(groups);
            resolved
        }
        UserPlan::Numeric { uid, gid, groups } => {
            let wants_home =
                !process.environment.iter().any(|(name, value)| name == "HOME" && !value.is_empty());
            let home = if wants_home { user::home_of(root, *uid) } else { None };
            ResolvedUser {
                uid: *uid,
                gid: *gid,
                groups: groups.clone(),
                home: home.unwrap_or_else(|| "/".to_owned()),
            }
        }
    };
    // The primary group is a group too: one that is missing here makes a denial for it void (CVE-2022-36109).
    if !resolved.groups.contains(&resolved.gid) {
        resolved.groups.insert(0, resolved.gid);
    }
    Ok(resolved)
}

/// Gives the new terminal to the user.
pub(crate) fn own_terminal(terminal: Option<&OwnedFd>, uid: u32) -> Result<(), Error> {
    terminal.map_or(Ok(()), |peer| devices::set_terminal_owner(peer, uid))
}

/// AppArmor and SELinux: what the program will run as, told to the kernel for the coming exec.
pub(crate) fn set_labels(process: &ProcessPlan, proc: impl AsFd) -> Result<(), Error> {
    if let Some(profile) = &process.apparmor_profile {
        let value = format!("exec {profile}");
        write_proc(&proc, "thread-self/attr/apparmor/exec", &value)
            .or_else(|_| {
                // Kernels before 5.8 have one directory for all security modules. Another one that is active there
                // would take the value for its own, hence the check.
                let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
                if enabled.is_ok_and(|text| text.starts_with('Y')) {
                    write_proc(&proc, "thread-self/attr/exec", &value)
                } else {
                    Err(std::io::Error::new(
                        std::io::ErrorKind::Unsupported,
                        "AppArmor is not enabled on this host",
                    ))
                }
            })
            .context(|| format!("apply AppArmor profile {profile:?} of process.apparmorProfile"))?;
    }
    if let Some(label) = &process.selinux_label {
        write_proc(&proc, "thread-self/attr/exec", label).context(|| {
            format!("apply SELinux label {label:?} of process.selinuxLabel; is SELinux enabled on this host?")
        })?;
    }
    Ok(())
}

/// Changes to the user and narrows the bounding set. Capabilities stay until [`set_capabilities`].
pub(crate) fn become_user(process: &ProcessPlan, user: &ResolvedUser, proc: impl AsFd) -> Result<(), Error> {
    // Not readable and traceable for others of that user while host descriptors are open (CVE-2016-9962); the
    // exec makes it an ordinary process again.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context(|| "make this process undumpable".to_owned())?;
    capability::limit_bounding_set(process.capabilities.bounding)
        .context(|| "limit the bounding set".to_owned())?;
    rustix::thread::set_keep_capabilities(true).context(|| "keep capabilities".to_owned())?;
    let gid = id(user.gid).map(Gid::from_raw)?;
    let uid = id(user.uid).map(Uid::from_raw)?;
    let groups = user.groups.iter().map(|gid| id(*gid).map(Gid::from_raw)).collect::<Result<Vec<_>, _>>()?;
    // Who has mapped only themselves can't change the groups, and the primary one needs no call.
    let only_primary = groups == [gid];
    match rustix::thread::set_thread_groups(&groups) {
        Err(rustix::io::Errno::PERM) if only_primary && may_not_set_groups(proc) => {}
        result => result.context(|| format!("set groups {:?} (process.user.additionalGids)", user.groups))?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .context(|| format!("become group {} (process.user.gid)", user.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .context(|| format!("become user {} (process.user.uid)", user.uid))?;
    rustix::thread::set_keep_capabilities(false).context(|| "keep capabilities".to_owned())?;
    // Leaving user 0 emptied the effective set. What remains permitted is used until `set_capabilities`.
    let own = capability::current().context(|| "read capabilities".to_owned())?;
    capability::set(own.permitted, own.permitted, CapabilitySet::empty())
        .context(|| "raise capabilities".to_owned())
}

/// Whether this process's user namespace forbids setgroups(2).
fn may_not_set_groups(proc: impl AsFd) -> bool {
    let read = || -> std::io::Result<String> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(proc, "self/setgroups", flags, rustix::fs::Mode::empty())?;
        std::io::read_to_string(std::fs::File::from(file))
    };
    read().is_ok_and(|text| text.trim() == "deny")
}

/// -1 means "unchanged" to the kernel, so it is nobody's number.
fn id(number: u32) -> Result<u32, Error> {
    if number == u32::MAX {
        return Err(Error::Invalid(format!("{number} is no user or group")));
    }
    Ok(number)
}

/// The sets that the program gets.
pub(crate) fn set_capabilities(plan: &CapabilityPlan) -> Result<(), Error> {
    let own = capability::current().context(|| "read capabilities".to_owned())?;
    let plan = plan.within(own.permitted);
    capability::set(plan.effective, plan.permitted, plan.inheritable)
        .context(|| "set process.capabilities; is all that is inheritable in the bounding set?".to_owned())?;
    capability::set_ambient(plan.ambient).context(|| "set process.capabilities.ambient".to_owned())
}

/// Loads the filter; a listener goes to the caller.
pub(crate) fn load_filter(filter: &Program, channel: &Channel) -> Result<(), Error> {
    let listener = filter.load().context(|| "load the seccomp filter".to_owned())?;
    match listener {
        Some(listener) => {
            channel.listener(listener.as_fd()).context(|| "pass the seccomp listener".to_owned())
        }
        None => Ok(()),
    }
}
