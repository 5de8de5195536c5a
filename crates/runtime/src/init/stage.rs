//! The stage before a container with a user namespace: one process that enters the namespace, and a sibling of it that
//! becomes the container.
//!
//! 1. Limits are raised while the host's rights are there to do it.
//! 2. Namespaces that are given by path: before the user namespace for a caller with all rights, to whom they are open
//!    whoever owns them; after it for any other, who can enter only what that user namespace owns.
//! 3. The user namespace: joined, or made and then mapped by the caller, which alone can do it.
//! 4. Root's number in it: whatever is made from here on belongs to the namespace's root.
//! 5. The sibling, cloned with all namespaces that are new: so they belong to the user namespace.

use std::os::fd::{AsFd, OwnedFd};

use palan_linux::namespace::{self, Kind};
use palan_linux::process::{self as os, ForkOptions, Forked};
use rustix::process::{DumpableBehavior, Gid, Uid};

use super::{identity, join_all};
use crate::error::{Context, Error};
use crate::handshake::Channel;
use crate::plan::{Plan, UserNamespace, user_namespace};

/// Goes through the stages; returns only in the sibling.
pub(super) fn enter(
    plan: &mut Plan,
    user: &UserNamespace,
    proc: &OwnedFd,
    channel: &Channel,
) -> Result<(), Error> {
    identity::raise_limits(&plan.process, proc, channel)?;
    let privileged = user_namespace::is_privileged()?;
    let join = std::mem::take(&mut plan.namespaces.join);
    let join_others = || {
        join_all(&join)?;
        plan.namespaces.join_pid.as_ref().map_or(Ok(()), |pid| {
            namespace::join(pid, Kind::Pid).context(|| "join the PID namespace".to_owned())
        })
    };
    if privileged {
        join_others()?;
    }
    enter_user_namespace(user, channel)?;
    if !privileged {
        join_others()?;
    }
    let proof = os::single_threaded(Some(proc.as_fd()))?;
    let options =
        ForkOptions { namespaces: Some(plan.namespaces.new), sibling: true, ..ForkOptions::default() };
    match os::fork_again(&proof, &options)? {
        Forked::Child => channel.wait_until_known(),
        Forked::Parent(sibling) => {
            let told = channel.process(sibling.pidfd.as_fd());
            os::exit_now(i32::from(told.is_err()))
        }
    }
}

/// Joins the user namespace, or makes one and has it mapped, and becomes its root.
fn enter_user_namespace(user: &UserNamespace, channel: &Channel) -> Result<(), Error> {
    match user {
        UserNamespace::Join(namespace) => {
            namespace::join(namespace, Kind::User).context(|| "join the user namespace".to_owned())?;
        }
        UserNamespace::New { .. } => {
            namespace::unshare(Kind::User.bit()).context(|| "make a user namespace".to_owned())?;
            // The change of credentials has given this process's files in /proc to root, where a caller who is not root
            // could not write the maps.
            dumpable()?;
            channel.ask_for_mappings().context(|| "have the user namespace mapped".to_owned())?;
        }
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .context(|| "become root of the user namespace; is 0 mapped in it?".to_owned())?;
    dumpable()
}

/// Makes this process's own files in /proc its own again.
fn dumpable() -> Result<(), Error> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .context(|| "make this process dumpable".to_owned())
}
