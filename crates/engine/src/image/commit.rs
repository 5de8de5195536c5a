//! Images made of containers.
//!
//! ```text
//! note written ─▶ frozen ─▶ changes read ─▶ thawed ─▶ note removed
//! ```
//!
//! The note, a file beside the supervisor's socket, tells a daemon that starts after this one was killed that nobody but
//! us froze the container ([`thaw_forgotten`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use palan_oci::Reference;
use palan_oci::image_config::{Empty, ExecutionConfig};
use palan_store::archive::{CommitOptions, apply_changes};

use super::{event, reference_error, store_error};
use crate::container::driver::{Action, container_event};
use crate::container::files::{check_alive, check_still_there};
use crate::container::index::Handle;
use crate::container::{Status, merge};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::spec;
use crate::{Class, Error, Result};

/// What to make of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitSpec {
    /// Name, id or prefix of the container's id.
    pub container: String,
    /// Name for the image; none when empty.
    pub reference: String,
    /// Who makes it.
    pub author: String,
    /// The remark in its history.
    pub comment: String,
    /// Freeze a running container meanwhile.
    pub pause: bool,
    /// Dockerfile instructions applied to the configuration.
    pub changes: Vec<String>,
    /// Settings that replace those of the container; absent for none.
    pub config: Option<spec::Config>,
}

/// Commits.
impl Engine {
    /// Makes an image of a container: its image's layers and one more with what it changed, its settings with those asked
    /// for. Returns the image's id.
    pub async fn commit_container(&self, spec: CommitSpec) -> Result<String> {
        let name = match spec.reference.as_str() {
            "" => None,
            text => Some(Reference::parse(text).map_err(reference_error)?.or_latest()),
        };
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(Error::invalid("cannot import digest reference"));
        }
        let handle = self.index.find(&spec.container)?;
        let engine = self.shared();
        // To its end even if the client goes, so that the container goes on whatever happens.
        let task = tokio::spawn(async move { engine.commit_frozen(&handle, spec, name).await });
        task.await.map_err(|error| Error::system("an internal task failed").with_source(error))?
    }

    async fn commit_frozen(
        &self,
        handle: &Arc<Handle>,
        spec: CommitSpec,
        name: Option<Reference>,
    ) -> Result<String> {
        check_alive(&handle.details(), "commit")?;
        let config = configuration(&spec, &handle.details().config)?;
        let is_frozen = spec.pause && self.freeze_in_turn(handle).await?;
        let details = handle.details();
        let options = CommitOptions {
            name: name.clone(),
            config,
            author: spec.author,
            comment: spec.comment.clone(),
            created_by: details.config.cmd.as_deref().unwrap_or_default().join(" "),
            created: Timestamp::now().to_string(),
        };
        let (engine, committed_details, same) = (self.shared(), details.clone(), handle.clone());
        let committed = blocking(move || {
            let parent = committed_details
                .image_id
                .parse()
                .map_err(|_| Error::system(format!("container {} has no image", committed_details.name)))?;
            let tree = engine.overlaid(&committed_details)?;
            let id = engine.store.commit_container(&parent, &tree, options).map_err(store_error)?;
            if let Err(error) = check_still_there(&same, "committed") {
                // Nobody has seen it yet; a container made of it meanwhile keeps it.
                let _ = engine.store.remove_image(&id.to_string(), true, &|id| engine.containers_of(id));
                return Err(error);
            }
            Ok(id.to_string())
        })
        .await;
        if is_frozen {
            self.thaw(&details.id).await?;
        }
        let id = committed?;
        let label = name.map(|name| name.familiar()).unwrap_or_default();
        let facts = [("comment", spec.comment), ("imageID", id.clone()), ("imageRef", label.clone())];
        let mut change = Change::new().event(container_event(&details, "commit", facts));
        if !label.is_empty() {
            change = change.event(event("tag", &id, &label));
        }
        self.db.commit(change).await?;
        Ok(id)
    }
}

/// Freezing.
impl Engine {
    /// Freezes a container for the time of a commit; false where it does not run, or a user froze it. What another commit froze, perhaps one
    /// of a daemon before this one, would go on in the middle of ours: that is waited for.
    async fn freeze_in_turn(&self, handle: &Handle) -> Result<bool> {
        loop {
            if let Some(is_frozen) = self.freeze(handle).await? {
                return Ok(is_frozen);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same, with nothing where another commit has it frozen.
    async fn freeze(&self, handle: &Handle) -> Result<Option<bool>> {
        let id = &handle.id;
        let note = self.note(id);
        let what = || format!("cannot note that container {id} is frozen");
        match palan_stdx::fs::create_new(&note, 0o600) {
            Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            // One that never ran has no such directory.
            Err(_) if handle.details().state.status != Status::Running => return Ok(Some(false)),
            other => drop(other.context(what)?),
        }
        let outcome = match handle.details().state.status {
            Status::Running => self.pause(id).await.map(|()| true),
            _ => Ok(false),
        };
        if !matches!(outcome, Ok(true)) {
            palan_stdx::fs::remove_file(&note).context(what)?;
        }
        match outcome {
            Err(error) if error.class() == Class::Conflict => Ok(Some(false)),
            other => other.map(Some),
        }
    }

    async fn thaw(&self, id: &str) -> Result<()> {
        match self.unpause(id).await {
            // It was killed, or thawed by somebody else.
            Err(error) if error.class() != Class::Conflict => return Err(error),
            _ => {}
        }
        let forgotten = palan_stdx::fs::remove_file(&self.note(id));
        forgotten.context(|| format!("cannot forget that container {id} was frozen"))
    }

    fn note(&self, id: &str) -> PathBuf {
        self.run_dir(id).join("frozen-for-commit")
    }
}

/// Lets containers go on that a commit had frozen when the daemon was killed.
pub(crate) fn thaw_forgotten(engine: &Arc<Engine>) {
    for handle in engine.index.all().into_iter().filter(|handle| engine.note(&handle.id).exists()) {
        let engine = engine.clone();
        tokio::spawn(async move {
            // The supervisor's word that it is frozen may still be on its way, and it may take its time.
            for attempt in 0_u32.. {
                let synced = handle.ask(|reply| Action::Sync { reply }).await;
                let is_gone = synced.as_ref().is_err_and(|error| error.class() == Class::NotFound);
                if is_gone || !handle.details().state.status.is_live() {
                    break;
                }
                if synced.is_ok() {
                    match handle.details().state.status {
                        Status::Paused => match engine.unpause(&handle.id).await {
                            Ok(()) => break,
                            Err(error) if attempt == 50 => tracing::warn!(
                                container = handle.id,
                                error = error.report(),
                                "cannot let a container go on that a commit froze; trying on"
                            ),
                            Err(_) => {}
                        },
                        _ => break,
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if let Err(error) = palan_stdx::fs::remove_file(&engine.note(&handle.id)) {
                tracing::warn!(container = handle.id, %error, "a note about a commit stays");
            }
        });
    }
}

/// The container's settings, or those given over them, with the instructions applied. By Docker's rules, what they leave
/// empty is the container's.
fn configuration(spec: &CommitSpec, own: &spec::Config) -> Result<ExecutionConfig> {
    let own = in_image_terms(own);
    let mut config = spec.config.as_ref().map_or_else(|| own.clone(), in_image_terms);
    let failed = |error: palan_store::archive::ChangeError| store_error(error.into());
    apply_changes(&mut config, &spec.changes).map_err(failed)?;
    let merged = merge::merge(in_container_terms(config), &own);
    Ok(in_image_terms(&merged))
}

/// What of a container's settings belongs in an image.
fn in_image_terms(config: &spec::Config) -> ExecutionConfig {
    let set = |names: &std::collections::BTreeSet<String>| {
        names.iter().map(|name| (name.clone(), Empty {})).collect()
    };
    ExecutionConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        // An entry without a value took a variable away from the image's.
        env: config.env.iter().filter(|entry| entry.contains('=')).cloned().collect(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.as_ref().map(Into::into),
        shell: config.shell.clone(),
        on_build: config.on_build.clone(),
        args_escaped: config.args_escaped,
    }
}

fn in_container_terms(config: ExecutionConfig) -> spec::Config {
    spec::Config {
        user: config.user,
        exposed_ports: config.exposed_ports.into_keys().collect(),
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        volumes: config.volumes.into_keys().collect(),
        working_dir: config.working_dir,
        labels: config.labels,
        stop_signal: Some(config.stop_signal).filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.as_ref().map(Into::into),
        shell: config.shell,
        on_build: config.on_build,
        args_escaped: config.args_escaped,
        ..spec::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn instructions_come_over_the_containers_settings() {
        let own = spec::Config {
            cmd: Some(words(&["sh"])),
            env: words(&["A=1", "GONE"]),
            user: "app".into(),
            labels: [("a".into(), "own".into())].into(),
            hostname: "box".into(),
            tty: true,
            ..spec::Config::default()
        };
        let changes = words(&["CMD [\"serve\"]", "ENV B=2", "LABEL a=new", "EXPOSE 80"]);
        let spec = CommitSpec { changes, ..CommitSpec::default() };
        let config = configuration(&spec, &own).expect("valid");
        assert_eq!(config.cmd, Some(words(&["serve"])));
        assert_eq!(config.env, ["A=1", "B=2"]);
        assert_eq!(config.labels["a"], "new");
        assert_eq!(config.user, "app");
        assert!(config.exposed_ports.contains_key("80/tcp"));

        // A new entrypoint forgets the old arguments.
        let spec = CommitSpec { changes: words(&["ENTRYPOINT [\"/init\"]"]), ..CommitSpec::default() };
        let config = configuration(&spec, &own).expect("valid");
        assert_eq!((config.entrypoint, config.cmd), (Some(words(&["/init"])), None));

        // Settings of the request win, the container's fill the rest.
        let given = spec::Config { user: "other".into(), env: words(&["A=9"]), ..spec::Config::default() };
        let spec = CommitSpec { config: Some(given), ..CommitSpec::default() };
        let config = configuration(&spec, &own).expect("valid");
        assert_eq!((config.user.as_str(), config.cmd), ("other", Some(words(&["sh"]))));
        assert_eq!(config.env, ["A=9"]);
    }

    #[test]
    fn what_is_no_instruction_for_it_is_refused() {
        let spec = CommitSpec { changes: words(&["RUN true"]), ..CommitSpec::default() };
        let error = configuration(&spec, &spec::Config::default()).expect_err("refused");
        assert_eq!(error.class(), Class::InvalidParameter);
        assert_eq!(error.report(), "RUN is not a valid change command");
    }
}
