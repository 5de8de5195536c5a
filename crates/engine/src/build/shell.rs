//! A shell at the command that failed (`--on-error=shell`).
//!
//! 1. The runner keeps what is left of the first command that fails: its layer in progress, its mounts with their claims, its directories.
//! 2. The solver ends all other steps. Only then the client is asked for its terminal: nothing else happens meanwhile.
//! 3. Another container is made on the same directories, with the command's environment, user, working directory, network and mounts, and
//!    with the shell of the place where the command stands as its process 1.
//! 4. Whichever comes first ends it: the shell's end, the client's, the build's cancellation. What was kept goes, and the build fails as it
//!    would have without.
//!
//! A command that another build runs at the same time fails there: it is that build whose client may have a shell.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use palan_builder::backend::{Snapshot, StepError};
use palan_builder::cancel::Cancel;
use palan_builder::graph::Run;
use palan_store::NewLayer;

use super::mounts::Mounts;
use super::request::{FailedStep, Terminal};
use super::ssh::Agents;
use super::step::{BuildRunner, Directories, Streams, report};
use crate::identifier;

/// What is left of a command.
pub(super) struct Failed {
    pub(super) code: u32,
    pub(super) run: Run,
    pub(super) env: Vec<String>,
    pub(super) base: Snapshot,
    pub(super) layer: NewLayer,
    pub(super) mounts: Mounts,
    pub(super) directory: Directories,
}

/// The command that failed first, of all platforms that are built.
#[derive(Default)]
pub(super) struct Kept(Mutex<Place>);

#[derive(Default)]
enum Place {
    #[default]
    Free,
    Taken(Box<Failed>),
    /// One shell is enough.
    Closed,
}

impl Kept {
    /// Keeps it, unless there is one.
    pub(super) fn keep(&self, failed: Failed) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*place, Place::Free) {
            *place = Place::Taken(Box::new(failed));
        }
    }

    /// Gives it away.
    pub(super) fn take(&self) -> Option<Failed> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::Closed) {
            Place::Taken(failed) => Some(*failed),
            Place::Free | Place::Closed => None,
        }
    }
}

impl BuildRunner<'_> {
    /// Opens a shell, and waits for its end. An error is that there is no terminal.
    pub(super) fn shell(&self, failed: Failed, cancel: &Cancel) -> Result<(), StepError> {
        let program = failed.run.shell.first().cloned().unwrap_or_else(|| "/bin/sh".to_owned());
        let step =
            FailedStep { command: failed.run.args.join(" "), code: failed.code, shell: program.clone() };
        let terminal = self.client.terminal(&step).map_err(report)?;
        let mut screen = terminal.socket.try_clone().map_err(StepError::other)?;
        if let Err(error) = self.run_shell(failed, &program, terminal, cancel) {
            let text = format!("cannot open {program}: {}\r\n", palan_stdx::error_chain::to_string(&error));
            // Where it can't be written nobody reads it.
            let _ = screen.write_all(text.as_bytes());
        }
        Ok(())
    }

    fn run_shell(
        &self,
        failed: Failed,
        program: &str,
        mut terminal: Terminal,
        cancel: &Cancel,
    ) -> Result<(), StepError> {
        let Failed { run, mut env, base, mut layer, mounts, directory, .. } = failed;
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        layer.renew_work().map_err(StepError::other)?;
        mounts.renew()?;
        let id = identifier::new_id();
        let directories = Directories::new(self.engine, &id)?;
        let overlay = self.overlay(&base, &mut layer)?;
        let shell = Run { args: vec![program.to_owned()], ..run };
        let mut details = self.details(&id, &shell, env, overlay, &directories).map_err(report)?;
        (details.config.tty, details.config.open_stdin) = (true, true);
        let (rows, columns) = *terminal.size.borrow_and_update();
        details.host.console_size = [rows.into(), columns.into()];
        let prepared = self.prepare(&details, &mounts).map_err(report)?;
        let agents = Agents::listen(&directory.files, &mounts.agents, self.client, &self.runtime)?;
        let streams = Streams::Terminal(terminal);
        let ended = self.runtime.block_on(self.execute(details, prepared, cancel, streams));
        drop(agents);
        // With what code it ends is nobody's concern.
        ended.map(drop)
    }
}
