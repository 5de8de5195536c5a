//! Restart policies: what the supervisor is told, and what the daemon does itself.
//!
//! It is the supervisor that starts a container again (its module `restart` has the state machine). The daemon does it where
//! there is no supervisor any more:
//!
//! - One that died takes its container along. That is an end like others: the policy says whether another run follows, in a
//!   network made anew.
//! - A daemon that starts looks after the containers that have ended without anybody looking, for example with the host, and as
//!   Docker's does starts those that are to run always, or unless they were stopped.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use palan_supervisor::client;
use palan_supervisor::protocol::{Backoff, Request, RestartConfig, RestartPolicy};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::container::driver::{Action, Driver, Flow};
use crate::container::exit::{detach_volumes, kill_cgroup};
use crate::container::index::{Handle, Reply};
use crate::container::journal::run_ended;
use crate::container::start::{detach_network, end_events};
use crate::container::stop::SIGKILL;
use crate::container::{Details, Status, namespaces};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::events::Event;
use crate::network::endpoints;
use crate::{Error, Result, spec};

/// Exit code of a run whose supervisor died.
pub(crate) const KILLED: i32 = 137;

/// What ends a run for certain.
pub(super) const KILL: Request = Request::Signal { signal: SIGKILL };

/// How many containers a daemon that has just started starts at once.
const STARTS_AT_ONCE: usize = 8;

/// After what time a restart is tried again that had to wait for the supervisor of the run before.
const RETRY: Duration = Duration::from_secs(1);

/// What the supervisor shall do.
pub(crate) fn supervisor_config(details: &Details) -> RestartConfig {
    RestartConfig {
        policy: policy(&details.host.restart_policy),
        count: details.restart_count,
        last_delay_ms: details.restart_delay_ms,
        by_daemon: may_change_its_network(&details.host) || joins_another(&details.host),
    }
}

/// Whether the container is in namespaces of another, which has new ones when it was started anew.
fn joins_another(host: &spec::HostConfig) -> bool {
    endpoints::shared_with(host).is_some() || namespaces::are_shared(host)
}

/// Whether the container has a network namespace of its own, in which it may do what it likes.
fn may_change_its_network(host: &spec::HostConfig) -> bool {
    let is_own = host.network_mode != "host" && endpoints::shared_with(host).is_none();
    let names = |list: &[String], all: bool| {
        let is_meant = |name: &String| {
            let name = name.to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            name == "NET_ADMIN" || all && name == "ALL"
        };
        list.iter().any(is_meant)
    };
    is_own && (host.privileged || names(&host.cap_add, true) && !names(&host.cap_drop, false))
}

fn policy(asked: &spec::RestartPolicy) -> RestartPolicy {
    match asked.name.as_str() {
        "always" | "unless-stopped" => RestartPolicy::Always,
        "on-failure" => {
            let most = u32::try_from(asked.maximum_retry_count).ok().filter(|most| *most > 0);
            RestartPolicy::OnFailure { most }
        }
        _ => RestartPolicy::Never,
    }
}

/// Checks what a caller asks, with Docker's texts.
pub(crate) fn check(asked: &spec::RestartPolicy, auto_remove: bool) -> Result<()> {
    let count = asked.maximum_retry_count;
    match asked.name.as_str() {
        "always" | "unless-stopped" if auto_remove => {
            Err(Error::invalid("can't create 'AutoRemove' container with restart policy"))
        }
        "" | "no" | "always" | "unless-stopped" if count != 0 => {
            let hint = if count < 0 { " and cannot be negative" } else { "" };
            Err(Error::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{hint}"
            )))
        }
        "on-failure" if count < 0 => {
            Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"))
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        other => Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

/// After how many milliseconds another run follows one that was lost with this exit code; `None`: none does.
pub(crate) fn after_lost_run(details: &Details, code: i32) -> Option<u64> {
    let config = supervisor_config(details);
    if details.state.stopped_by_user || !config.policy.wants(code, config.count) {
        return None;
    }
    let ran = details.state.started_at.map(|started| Timestamp::now().duration_since(started));
    let ran = ran.and_then(|ran| Duration::try_from(ran).ok()).unwrap_or_default();
    let delay = Backoff::after(config.last_delay_ms).next(ran);
    Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a daemon that starts starts a container that has ended in order.
fn is_started_with_daemon(details: &Details) -> bool {
    let wanted = match details.host.restart_policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !details.state.stopped_by_user,
        _ => false,
    };
    wanted && details.state.status == Status::Exited
}

/// Whether there is something to do for a container that was found without a supervisor.
pub(crate) fn is_to_start(details: &Details) -> bool {
    details.state.status == Status::Restarting || is_started_with_daemon(details)
}

/// Starts what a daemon that has just started found ended, in the background. One that shares another's namespaces comes
/// after that one.
pub(crate) fn start_found(engine: &Arc<Engine>, handles: Vec<Arc<Handle>>) {
    let (sharing, alone): (Vec<_>, Vec<_>) =
        handles.into_iter().partition(|handle| joins_another(&handle.details().host));
    // The engine may be gone before all are started.
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        for handles in [alone, sharing] {
            let slots = Arc::new(Semaphore::new(STARTS_AT_ONCE));
            let mut starting = tokio::task::JoinSet::new();
            for handle in handles {
                if engine.strong_count() == 0 {
                    return;
                }
                let slots = slots.clone();
                starting.spawn(async move {
                    let Ok(_slot) = slots.acquire_owned().await else { return };
                    if let Err(error) = handle.ask(|reply| Action::StartByPolicy { reply }).await {
                        let error = error.report();
                        tracing::warn!(container = handle.id, error, "a container was not started again");
                    }
                });
            }
            while starting.join_next().await.is_some() {}
        }
    });
}

impl Driver {
    /// See [`start_found`]. Answered when the container runs or has ended for good, since others may wait to join it.
    pub(super) async fn start_by_policy(&mut self, reply: Reply<()>) -> Flow {
        let details = self.details();
        let (outcome, flow) = match details.state.status {
            Status::Restarting if self.link.is_some() => (Ok(()), Flow::Continue),
            Status::Restarting if self.is_to_stay_down() => (Ok(()), self.stay_down(KILL).await),
            Status::Restarting => (Ok(()), self.restart_now().await),
            _ if is_started_with_daemon(&details) && !self.is_kept_down => {
                (self.start(None).await, Flow::Continue)
            }
            _ => (Ok(()), Flow::Continue),
        };
        // The caller may have gone.
        let _ = reply.send(outcome);
        flow
    }

    /// Whether somebody has asked for the end of a container that is between two runs.
    pub(super) fn is_to_stay_down(&self) -> bool {
        self.removal.is_some() || !self.stoppers.is_empty() || self.details().state.stopped_by_user
    }

    /// The supervisor is gone without having said that it has ended: what its journal knows is applied, and then, if the
    /// container was running, its supervisor's death was its end (parent-death signal).
    pub(super) async fn settle_without_supervisor(&mut self) -> Flow {
        let details = self.details();
        let (run_dir, after) = (self.engine.run_dir(&details.id), details.journal_seq);
        let cgroup = details.cgroup_path.clone();
        let entries = blocking(move || {
            kill_cgroup(&cgroup);
            Ok(client::read_journal(&run_dir, after).unwrap_or_default())
        });
        for entry in entries.await.unwrap_or_default() {
            if self.on_entry(entry).await == Flow::End {
                return Flow::End;
            }
        }
        let details = self.details();
        match details.state.status {
            Status::Running | Status::Paused => {
                let is_wanted = self.stoppers.is_empty() && self.removal.is_none();
                let delay = after_lost_run(&details, KILLED).filter(|_| is_wanted);
                let mut next = (*details).clone();
                let mut events = run_ended(&mut next, Timestamp::now(), KILLED, false, delay);
                next.state.error = "the supervisor of the container died".into();
                self.engine.sessions.container_ended(&self.handle.id);
                if delay.is_none() {
                    self.end(next, events).await;
                    return self.after_exit().await;
                }
                let networks = endpoints::network_ids(&next);
                events.extend(self.release_for_restart(&mut next).await);
                self.record(next, Change::new().events(events)).await;
                self.engine.publish_names(networks).await;
                self.announce_exit(KILLED, Status::Restarting);
            }
            Status::Restarting => {
                let mut next = (*details).clone();
                let networks = endpoints::network_ids(&next);
                let events = self.release_for_restart(&mut next).await;
                self.commit_details(next, Change::new().events(events)).await;
                self.engine.publish_names(networks).await;
            }
            _ => return Flow::Continue,
        }
        if self.is_to_stay_down() {
            return self.stay_down(KILL).await;
        }
        let delay = self.details().restart_delay_ms.unwrap_or_default();
        self.restart_at = Some(Instant::now() + Duration::from_millis(delay));
        Flow::Continue
    }

    /// Gives back what the next run will be given anew; returns the events of it. The networks' names are to be published once
    /// it is recorded.
    pub(super) async fn release_for_restart(&self, next: &mut Details) -> Vec<Event> {
        let events = end_events(next, &self.engine);
        detach_network(&self.engine, next).await;
        detach_volumes(&self.engine, next).await;
        endpoints::forget(next);
        events
    }

    /// It is time for the run that follows one whose supervisor is gone.
    pub(super) async fn restart_now(&mut self) -> Flow {
        self.restart_at = None;
        if self.details().state.status != Status::Restarting {
            return Flow::Continue;
        }
        if let Err(error) = self.await_end_of_previous_run().await {
            tracing::info!(container = self.handle.id, error = error.report(), "a restart is put off");
            self.restart_at = Some(Instant::now() + RETRY);
            return Flow::Continue;
        }
        let details = self.details();
        let Err((_, error)) = self.attempt(&details, None).await else { return Flow::Continue };
        let mut next = (*self.details()).clone();
        next.state.status = Status::Exited;
        next.state.exit_code = details.state.exit_code;
        next.state.error = error.report();
        self.end(next, Vec::new()).await;
        self.after_exit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(policy: &str, most: i64) -> Details {
        let mut details = Details::default();
        details.host.restart_policy = spec::RestartPolicy { name: policy.into(), maximum_retry_count: most };
        details.state.status = Status::Exited;
        details
    }

    #[test]
    fn what_is_refused() {
        let refused = |name: &str, count: i64, auto_remove: bool| {
            let asked = spec::RestartPolicy { name: name.into(), maximum_retry_count: count };
            check(&asked, auto_remove).map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        for name in ["", "no", "always", "on-failure", "unless-stopped"] {
            assert_eq!(refused(name, 0, false), "");
        }
        assert_eq!(refused("on-failure", 3, true), "");
        assert!(refused("always", 0, true).contains("AutoRemove"));
        assert!(refused("always", 1, false).contains("can only be used with 'on-failure'"));
        assert!(refused("on-failure", -1, false).contains("cannot be negative"));
        assert!(refused("sometimes", 0, false).contains("unknown policy 'sometimes'"));
    }

    #[test]
    fn lost_runs() {
        let follows = |details: &Details, code: i32| after_lost_run(details, code).is_some();
        assert!(follows(&details("always", 0), 255));
        assert!(!follows(&details("no", 0), 255));
        let mut on_failure = details("on-failure", 2);
        assert!(follows(&on_failure, KILLED));
        on_failure.restart_count = 2;
        assert!(!follows(&on_failure, KILLED));
        let mut stopped = details("always", 0);
        stopped.state.stopped_by_user = true;
        assert!(!follows(&stopped, KILLED));
    }

    #[test]
    fn who_may_change_its_network() {
        let may = |change: &dyn Fn(&mut spec::HostConfig)| {
            let mut host = spec::HostConfig { network_mode: "bridge".into(), ..Default::default() };
            change(&mut host);
            may_change_its_network(&host)
        };
        assert!(!may(&|_| ()));
        assert!(may(&|host| host.privileged = true) && may(&|host| host.cap_add = vec!["all".into()]));
        assert!(may(&|host| host.cap_add = vec!["cap_net_admin".into()]));
        assert!(!may(&|host| {
            host.cap_add = vec!["ALL".into()];
            host.cap_drop = vec!["NET_ADMIN".into()];
        }));
        assert!(!may(&|host| (host.privileged, host.network_mode) = (true, "host".into())));
    }

    #[test]
    fn who_joins_another_is_left_to_the_daemon() {
        let joins = |change: &dyn Fn(&mut spec::HostConfig)| {
            let mut details = details("always", 0);
            change(&mut details.host);
            supervisor_config(&details).by_daemon
        };
        assert!(!joins(&|_| ()) && !joins(&|host| host.network_mode = "host".into()));
        assert!(joins(&|host| host.network_mode = "container:a".into()));
        assert!(joins(&|host| host.pid_mode = "container:a".into()));
        assert!(joins(&|host| host.ipc_mode = "container:a".into()));
    }

    #[test]
    fn with_the_daemon() {
        let mut always = details("always", 0);
        let mut unless = details("unless-stopped", 0);
        assert!(is_to_start(&always) && is_to_start(&unless) && !is_to_start(&details("on-failure", 0)));
        for details in [&mut always, &mut unless] {
            details.state.stopped_by_user = true;
        }
        assert!(is_to_start(&always) && !is_to_start(&unless));
        always.state.status = Status::Created;
        assert!(!is_to_start(&always));
    }
}
