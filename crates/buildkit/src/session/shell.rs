//! The shell of a step that has failed: `palan.build.v1.OnError`.
//!
//! ```text
//! daemon ── Shell ──────────────▶ client    a call in the session, once a build
//!        ── {step} ─────────────▶           what failed, and which program is opened
//!        ◀───────────── {size} ──           the terminal's; from here on also whenever it changes
//!        ── {data}… ─▶◀─ {data}… ──         what the shell writes, and what is typed
//! ```
//! The daemon ends its side when the shell has ended: the client ends the call. When the client ends the call or is gone, the daemon kills
//! the shell. The client's offer of the call is its wish for a shell, so a daemon that does not know it builds as ever.

use std::sync::Arc;

use crate::grpc::{Call, Code, Handled, Incoming, Outgoing, Status};
use crate::message::session::{FailedStep, ShellOutput};

/// The label by which a worker says that it opens shells.
pub const SHELL_LABEL: &str = "palan.build.on-error.shell";

/// Who has a terminal.
pub trait Shell: Send + Sync {
    /// Connects the terminal until the shell has ended: [`ShellOutput`] comes, `ShellInput` goes.
    fn attach(self: Arc<Self>, step: FailedStep, incoming: Incoming, outgoing: Outgoing) -> Handled;
}

pub(super) async fn open(shell: Option<&Arc<dyn Shell>>, mut call: Call) -> Result<(), Status> {
    let Some(shell) = shell.map(Arc::clone) else { return Err(Status::unimplemented(&call.method)) };
    let first: ShellOutput = call.question().await?;
    let step = first.step.ok_or_else(|| {
        Status::new(Code::InvalidArgument, "the daemon does not say whose shell it would open")
    })?;
    shell.attach(step, call.incoming, call.outgoing).await
}
