//! The end of a run, and the end of a container.

use std::path::PathBuf;
use std::time::Duration;

use palan_supervisor::protocol::Request;
use palan_supervisor::runtime::cgroup::{Cgroup, Place};

use crate::container::driver::{Driver, Flow, Pending, container_event};
use crate::container::index::Reply;
use crate::container::restart::KILL;
use crate::container::start::{detach_network, end_events};
use crate::container::stop::SIGKILL;
use crate::container::{Details, RemoveOptions, Status, quota};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::events::Event;
use crate::network::endpoints;
use crate::{Error, Result};

impl Driver {
    /// Records the end of the container, of which `next` has everything but the network, and tells everyone. `events` are
    /// those that have led here.
    pub(super) async fn end(&mut self, mut next: Details, events: Vec<Event>) {
        let mut change = Change::new().events(events).events(end_events(&next, &self.engine));
        if !self.stoppers.is_empty() {
            change = change.event(container_event(&next, "stop", []));
        }
        let code = next.state.exit_code;
        let attached = next.clone();
        endpoints::forget(&mut next);
        // Ports must be free when a waiting client hears of the end.
        let (engine, details) = (self.engine.clone(), self.details());
        let detach = async {
            detach_network(&engine, &attached).await;
            detach_volumes(&engine, &details).await;
        };
        let commit = self.record(next, change);
        tokio::join!(detach, commit);
        self.engine.publish_names(endpoints::network_ids(&attached)).await;
        self.announce_exit(code, Status::Exited);
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
            None if self.stays_for_restart => Flow::Continue,
            None if details.host.auto_remove && details.state.status == Status::Exited => {
                self.remove_now(RemoveOptions { volumes: true, ..RemoveOptions::default() }, None).await
            }
            None => Flow::Continue,
        }
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
        if details.state.status == Status::Restarting {
            return self.stay_down(KILL).await;
        }
        let event = container_event(&details, "kill", [("signal", SIGKILL.to_string())]);
        self.commit_or_log(Change::new().event(event)).await;
        self.request(Request::StayDown, Vec::new(), Pending::Nobody);
        if details.state.status == Status::Paused {
            self.request(Request::Resume, Vec::new(), Pending::Nobody);
        }
        self.request(KILL, Vec::new(), Pending::Nobody);
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
            if let Err(error) = palan_linux::path::remove_tree(path) {
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
