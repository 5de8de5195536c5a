//! The requests that change a container's life: each finds the container and asks its driver.

use std::time::Duration;

use palan_supervisor::protocol::TerminalSize;

use crate::container::driver::Action;
use crate::container::exec::paused;
use crate::container::index::Life;
use crate::container::stop::is_restarting;
use crate::container::{ExecDetails, ExecSpec, RemoveOptions, Status, StopOptions, start, validate};
use crate::db::Change;
use crate::engine::Engine;
use crate::spec::Filters;
use crate::volume::Pruned;
use crate::{Class, Error, Result};

/// How long an inspection waits for the supervisor's latest word.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// Containers. `name` is a name, an id, or an unambiguous prefix of an id.
impl Engine {
    /// Starts a container. Class `NotModified` when it runs already.
    pub async fn start_container(&self, name: &str) -> Result<()> {
        let handle = self.index.find(name)?;
        handle.promises_settled().await;
        handle.ask(|reply| Action::Start { from: None, reply }).await
    }

    /// Stops a container: its signal, then SIGKILL. Class `NotModified` when it does not run.
    pub async fn stop(&self, name: &str, options: StopOptions) -> Result<()> {
        self.stop_for(name, options, false).await
    }

    async fn stop_for(&self, name: &str, options: StopOptions, again: bool) -> Result<()> {
        let handle = self.index.find(name)?;
        let details = handle.details();
        let signal = match options.signal.as_deref().filter(|signal| !signal.is_empty()) {
            Some(signal) => validate::signal(signal)?,
            None => start::stop_signal(&details)?,
        };
        let timeout = match options.timeout {
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            None => start::stop_timeout(&details),
        };
        handle.ask(|reply| Action::Stop { signal, timeout, again, reply }).await
    }

    /// Sends a signal (name or number; SIGKILL when absent). With SIGKILL, returns when the container has ended.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<()> {
        const SIGKILL: i32 = 9;
        let handle = self.index.find(name)?;
        let signal = match signal.filter(|signal| !signal.is_empty()) {
            Some(signal) => validate::signal(signal)?,
            None => SIGKILL,
        };
        let mut life = handle.life.subscribe();
        handle.ask(|reply| Action::Kill { signal, reply }).await?;
        if signal == SIGKILL {
            // Docker waits as long before it gives up.
            const PATIENCE: Duration = Duration::from_secs(10);
            let ended = life.wait_for(|life| !life.status.is_live() || life.removed);
            // A process that can't be killed is no error of the request: the signal was sent.
            let _ = tokio::time::timeout(PATIENCE, ended).await;
        }
        Ok(())
    }

    /// Stops and starts a container.
    pub async fn restart(&self, name: &str, options: StopOptions) -> Result<()> {
        let handle = self.index.find(name)?;
        let id = handle.id.clone();
        match self.stop_for(&id, options, true).await {
            Ok(()) => {}
            Err(error) if error.class() == Class::NotModified => {}
            Err(error) => return Err(error),
        }
        handle.promises_settled().await;
        match handle.ask(|reply| Action::Start { from: None, reply }).await {
            Ok(()) => {}
            Err(error) if error.class() == Class::NotModified => {}
            Err(error) => return Err(error),
        }
        handle.send(Action::Emit { action: "restart".into() }).await
    }

    /// Freezes the processes.
    pub async fn pause(&self, name: &str) -> Result<()> {
        self.index.find(name)?.ask(|reply| Action::Pause { reply }).await
    }

    /// Lets them go on.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        self.index.find(name)?.ask(|reply| Action::Unpause { reply }).await
    }

    /// Gives another name.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let handle = self.index.find(name)?;
        let new_name = new_name.strip_prefix('/').unwrap_or(new_name);
        if new_name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        validate::name(new_name)?;
        if handle.details().name == new_name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let name = self.index.reserve_name(Some(new_name), &handle.id)?;
        let outcome = handle.ask(|reply| Action::Rename { name: name.clone(), reply }).await;
        if outcome.is_err() && handle.details().name != name {
            self.index.release(&name, &handle.id);
        }
        outcome
    }

    /// Removes a container or, if that is asked for, the link that `name` is the path of: `container/alias`.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            let path = name.trim_start_matches('/');
            let Some((container, alias)) = path.rsplit_once('/') else {
                return Err(Error::conflict(
                    "Conflict, cannot remove the default link name of the container",
                ));
            };
            let handle = self.index.find(container)?;
            return handle.ask(|reply| Action::Unlink { alias: alias.to_owned(), reply }).await;
        }
        self.index.find(name)?.ask(|reply| Action::Remove { options, reply }).await
    }

    /// Removes all stopped containers. Filters: `label`, `label!`, `until`.
    pub async fn prune_containers(&self, filters: Filters) -> Result<Pruned> {
        filters.check(&["label", "label!", "until"])?;
        let until = filters.until()?;
        let mut pruned = Pruned::default();
        for handle in self.index.all() {
            let details = handle.details();
            let is_old = until.is_none_or(|until| details.created < until);
            let fits = filters.labels("label", &details.config.labels)
                && (!filters.has("label!") || !filters.labels("label!", &details.config.labels));
            let is_stopped = matches!(details.state.status, Status::Created | Status::Exited | Status::Dead);
            if !is_stopped || !is_old || !fits {
                continue;
            }
            let size = self.writable_size(&details).await.unwrap_or(0);
            match self.remove(&handle.id, RemoveOptions::default()).await {
                Ok(()) => {
                    pruned.deleted.push(handle.id.clone());
                    pruned.space_reclaimed += size;
                }
                // It was started or removed meanwhile: nothing to prune.
                Err(error) if matches!(error.class(), Class::NotFound | Class::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// Changes the size of the terminal.
    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        let handle = self.index.find(name)?;
        if !handle.details().state.status.has_process() {
            return Err(crate::container::driver::not_running(&handle.id));
        }
        let size = TerminalSize { rows: height, columns: width };
        handle.ask(|reply| Action::Resize { size, reply }).await?;
        let facts = [("height", height.to_string()), ("width", width.to_string())];
        let event = crate::container::driver::container_event(&handle.details(), "resize", facts);
        self.db.commit(Change::new().event(event)).await
    }

    /// Makes an exec session; returns its id.
    pub async fn exec_create(&self, name: &str, spec: ExecSpec) -> Result<String> {
        let handle = self.index.find(name)?;
        let details = handle.details();
        match details.state.status {
            Status::Running => {}
            Status::Paused => return Err(paused(name)),
            Status::Restarting => return Err(is_restarting(&details.id)),
            _ => return Err(crate::container::driver::not_running(&details.id)),
        }
        if spec.cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        if !spec.working_dir.is_empty() && !spec.working_dir.starts_with('/') {
            let path = &spec.working_dir;
            return Err(Error::invalid(format!(
                "OCI runtime exec failed: exec failed: unable to start container process: cwd must be an absolute path: {path}"
            )));
        }
        let texts = spec.cmd.iter().chain(&spec.env).chain([&spec.user, &spec.working_dir]);
        if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
            return Err(Error::invalid(format!("{text:?} contains a NUL byte")));
        }
        if let Some(keys) = &spec.detach_keys {
            validate::detach_keys(keys)?;
        }
        let command = crate::container::exec::shown(&spec.cmd);
        let session = self.sessions.create(&handle.id, spec)?;
        let facts = [("execID", session.id.clone())];
        let event =
            crate::container::driver::container_event(&details, &format!("exec_create: {command}"), facts);
        self.db.commit(Change::new().event(event)).await?;
        Ok(session.id.clone())
    }

    /// All about an exec session.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecDetails> {
        let session = self.sessions.find(id)?;
        let details = session.details();
        if details.running
            && let Ok(handle) = self.index.find(&details.container_id)
        {
            // The client's stream ends at the supervisor, so its end may be known to the client before it is known here.
            let sync = handle.ask(|reply| Action::Sync { reply });
            // A supervisor that has gone leaves what is known. One that is late may have an end to tell, which clients would take for success.
            if tokio::time::timeout(SYNC_PATIENCE, sync).await.is_err() {
                return Err(Error::system(format!(
                    "the supervisor of container {} does not answer; try again",
                    details.container_id
                )));
            }
        }
        Ok(session.details())
    }

    /// Changes the size of its terminal.
    pub async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let session = self.sessions.find(id)?;
        let details = session.details();
        if !details.running {
            return Err(Error::conflict(format!("exec process {id} is not running")));
        }
        let handle = self.index.find(&details.container_id)?;
        let size = TerminalSize { rows: height, columns: width };
        handle.ask(|reply| Action::ExecResize { id: id.to_owned(), size, reply }).await
    }
}

/// Whether a wait for the next exit is over.
pub(crate) fn has_exited_since(life: &Life, exits: u64) -> bool {
    life.exits > exits || life.removed
}
