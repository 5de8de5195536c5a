//! The end of a run, and the end of a container.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use palan_supervisor::client;
use palan_supervisor::journal::Event as JournalEvent;
use palan_supervisor::protocol::Request;
use palan_supervisor::runtime::cgroup::{Cgroup, Place};

use crate::container::driver::{Driver, Flow, Pending, container_event, timestamp};
use crate::container::index::Reply;
use crate::container::start::{detach_network, end_events};
use crate::container::{Details, RemoveOptions, Status, health, quota};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::network::endpoints;
use crate::{Error, Result};

/// Exit code of a run whose supervisor died.
const KILLED: i32 = 137;
const SIGKILL: i32 = 9;

impl Driver {
    /// Records the end of a run, whose details (with the journal's number) are given, and tells everyone.
    pub(super) async fn on_exit(
        &mut self,
        mut next: Details,
        time: Timestamp,
        code: i32,
        oom: bool,
        error: String,
    ) {
        let started = next.state.started_at.unwrap_or(time);
        let seconds = time.duration_since(started).as_secs().max(0);
        let facts = [("exitCode", code.to_string()), ("execDuration", seconds.to_string())];
        let mut change = Change::new();
        if oom && !next.state.oom_killed {
            change = change.event(container_event(&next, "oom", []));
        }
        change = change.event(container_event(&next, "die", facts)).events(end_events(&next, &self.engine));
        if !self.stoppers.is_empty() {
            change = change.event(container_event(&next, "stop", []));
        }
        let attached = next.clone();
        endpoints::forget(&mut next);
        next.state.status = Status::Exited;
        next.state.pid = 0;
        next.state.exit_code = code;
        next.state.error = error;
        next.state.oom_killed |= oom;
        health::end(&mut next.state);
        next.state.finished_at = Some(time);
        self.engine.sessions.container_ended(&self.handle.id);
        // Ports must be free when a waiting client hears of the end.
        let (engine, details) = (self.engine.clone(), self.details());
        let detach = async {
            detach_network(&engine, &attached).await;
            detach_volumes(&engine, &details).await;
        };
        let commit = self.record(next, change);
        tokio::join!(detach, commit);
        self.engine.publish_names(endpoints::network_ids(&attached)).await;
        self.announce_exit(code);
        for reply in self.stoppers.drain(..) {
            // The caller may have gone.
            let _ = reply.send(Ok(()));
        }
    }

    /// Removes the container if that was asked for its exit.
    pub(super) async fn after_exit(&mut self) -> Flow {
        let details = self.details();
        if details.state.status.is_live() {
            return Flow::Continue;
        }
        match self.removal.take() {
            Some((options, reply)) => self.remove_now(options, Some(reply)).await,
            None if details.host.auto_remove && details.state.status == Status::Exited => {
                self.remove_now(RemoveOptions { volumes: true, ..RemoveOptions::default() }, None).await
            }
            None => Flow::Continue,
        }
    }

    /// The supervisor is gone without having said how the run ended: the journal may know, else its death killed the
    /// container (parent-death signal), of which the cgroup is the proof.
    pub(super) async fn settle_without_supervisor(&mut self) {
        let details = self.details();
        let (run_dir, after) = (self.engine.run_dir(&details.id), details.journal_seq);
        let cgroup = details.cgroup_path.clone();
        let entries = blocking(move || {
            let entries = client::read_journal(&run_dir, after).unwrap_or_default();
            kill_cgroup(&cgroup);
            Ok(entries)
        });
        let entries = entries.await.unwrap_or_default();
        let mut next = (*details).clone();
        let mut end = (Timestamp::now(), KILLED, false, "the supervisor of the container died".to_owned());
        let mut change = Change::new();
        for entry in entries {
            next.journal_seq = next.journal_seq.max(entry.seq);
            change = change.events(health::apply(&mut next, &entry).unwrap_or_default());
            match entry.event {
                JournalEvent::Exit { code, oom, .. } => {
                    end = (timestamp(entry.time_ns), code, oom, String::new())
                }
                JournalEvent::ExecExit { exec, code, .. } => {
                    self.engine.sessions.ended(&details.id, &exec, code)
                }
                _ => {}
            }
        }
        if !change.is_empty() {
            self.commit_or_log(change).await;
        }
        let (time, code, oom, error) = end;
        self.on_exit(next, time, code, oom, error).await;
    }

    pub(super) async fn remove(&mut self, options: RemoveOptions, reply: Reply<()>) -> Flow {
        let details = self.details();
        if !details.state.status.is_live() {
            return self.remove_now(options, Some(reply)).await;
        }
        if self.removal.is_some() {
            let text = format!("removal of container {} is already in progress", details.id);
            drop(reply.send(Err(Error::conflict(text))));
            return Flow::Continue;
        }
        if !options.force {
            let state = details.state.status.as_str();
            let text = format!(
                "cannot remove container \"{}\": container is {state}: stop the container before removing or force remove",
                details.name
            );
            drop(reply.send(Err(Error::conflict(text))));
            return Flow::Continue;
        }
        self.removal = Some((options, reply));
        let event = container_event(&details, "kill", [("signal", SIGKILL.to_string())]);
        self.commit_or_log(Change::new().event(event)).await;
        if details.state.status == Status::Paused {
            self.request(Request::Resume, Vec::new(), Pending::Nobody);
        }
        self.request(Request::Signal { signal: SIGKILL }, Vec::new(), Pending::Nobody);
        Flow::Continue
    }

    /// Removes the container, which does not run. The row goes first: what is left of files without a row is removed by the
    /// next start of the daemon at the latest.
    pub(super) async fn remove_now(&mut self, options: RemoveOptions, reply: Option<Reply<()>>) -> Flow {
        let details = self.details();
        let change =
            Change::new().delete_container(&details.id).event(container_event(&details, "destroy", []));
        self.handle.life.send_modify(|life| life.status = Status::Removing);
        let has_volumes = options.volumes && details.mounts.iter().any(|mount| mount.anonymous);
        let removed = if has_volumes {
            let (engine, details) = (self.engine.clone(), details.clone());
            blocking(move || engine.remove_with_volumes(&details, change)).await
        } else {
            self.engine.db.commit(change).await.map(|()| Vec::new())
        };
        let trash = match removed {
            Ok(trash) => trash,
            Err(error) => {
                self.handle.life.send_modify(|life| {
                    life.status = details.state.status;
                    life.removal_error = Some(error.report());
                });
                if let Some(reply) = reply {
                    drop(reply.send(Err(error)));
                }
                return Flow::Continue;
            }
        };
        self.engine.sessions.container_removed(&details.id);
        self.engine.index.remove(&details.id);
        for endpoint in details.endpoints.values() {
            self.engine.network.forget(&endpoint.network_id, &endpoint.lease);
        }
        discard(&self.engine, &details, trash).await;
        self.handle.life.send_modify(|life| life.removed = true);
        if let Some(reply) = reply {
            // The caller may have gone.
            let _ = reply.send(Ok(()));
        }
        Flow::End
    }
}

impl Driver {
    /// Takes off the file systems of volumes that were mounted for this container alone.
    pub(super) async fn detach_volumes(&self) {
        detach_volumes(&self.engine, &self.details()).await;
    }
}

/// See [`Driver::detach_volumes`].
pub(super) async fn detach_volumes(engine: &std::sync::Arc<Engine>, details: &Details) {
    if details.volume_names().next().is_none() {
        return;
    }
    let (engine, id) = (engine.clone(), details.id.clone());
    let detached = blocking(move || {
        engine.detach_volumes(&id);
        Ok(())
    });
    if let Err(error) = detached.await {
        tracing::warn!(error = error.report(), "the file systems of volumes stay mounted");
    }
}

/// Takes a container's files out of sight at once, and deletes them in the background, with what is in the trash already.
async fn discard(engine: &std::sync::Arc<Engine>, details: &Details, mut trash: Vec<PathBuf>) {
    let id = details.id.clone();
    let images = details.mounts.iter().filter(|mount| mount.kind == "image").count();
    let moving = engine.clone();
    let (upper, project) = (details.overlay.upper.clone(), details.quota_project);
    let outcome = blocking(move || {
        quota::release(&upper, project);
        let target = moving.trash_name();
        let outcome = palan_stdx::fs::rename(&moving.container_dir(&id), &target);
        trash.push(target);
        if let Err(error) = outcome {
            tracing::warn!(
                error = palan_stdx::error_chain::to_string(&error),
                "files of a container were left behind"
            );
        }
        for owner in std::iter::once(id.clone()).chain((0..images).map(|number| format!("{id}/{number}"))) {
            if let Err(error) = moving.store.release(&owner) {
                let error = palan_stdx::error_chain::to_string(&error);
                tracing::warn!(error, "the layers of a removed container are still held");
            }
        }
        Ok((trash, moving.run_dir(&id)))
    });
    match outcome.await {
        Ok((trash, run_dir)) => drop(tokio::spawn(empty_trash(trash, run_dir))),
        Err(error) => tracing::warn!(error = error.report(), "files of a container were left behind"),
    }
}

async fn empty_trash(trash: Vec<PathBuf>, run_dir: PathBuf) {
    // The supervisor may still be writing its last lines there.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let outcome = blocking(move || {
        for path in trash.iter().chain([&run_dir]) {
            if let Err(error) = palan_stdx::fs::remove_dir_all(path) {
                let error = palan_stdx::error_chain::to_string(&error);
                tracing::warn!(error, "the trash was not emptied, the next start of the daemon tries again");
            }
        }
        Ok(())
    });
    if let Err(error) = outcome.await {
        tracing::debug!(error = error.report(), "the trash is emptied later");
    }
}

/// Kills what is left in a container's cgroup, and removes it.
pub(crate) fn kill_cgroup(path: &str) {
    let outcome: Result<(), _> = Cgroup::open(&Place::root(path)).and_then(|cgroup| {
        cgroup.kill()?;
        cgroup.remove()
    });
    if let Err(error) = outcome {
        let error = palan_stdx::error_chain::to_string(&error);
        tracing::debug!(error, path, "the cgroup of a lost container is gone already or can't be removed");
    }
}
