//! Stopping: what `stop` and `kill` do, and who is told of an end.
//!
//! Whoever stops a container by hand wants it to stay so: the supervisor is told first that the next end is the last
//! (`StayDown`), then the signal is sent. Between two runs the first is all, and the signal finds nothing; but both are sent, since the
//! next run may have begun a moment ago.

use std::time::Duration;

use palan_supervisor::protocol::Request;

use crate::Error;
use crate::container::driver::{Driver, Flow, Pending, container_event, not_running, short};
use crate::container::index::{Life, Reply};
use crate::container::{Details, Status, start};
use crate::db::Change;

pub(super) const SIGKILL: i32 = 9;

impl Driver {
    /// `again`: a start will follow, so that a container that is removed at its end stays.
    pub(super) async fn stop(
        &mut self,
        signal: i32,
        timeout: Option<Duration>,
        again: bool,
        reply: Reply<()>,
    ) -> Flow {
        let details = self.details();
        if !details.state.status.is_live() {
            self.is_kept_down = !again;
            let error =
                Error::not_modified(format!("container {} is already stopped", short(&self.handle.id)));
            drop(reply.send(Err(error)));
            return Flow::Continue;
        }
        let timeout_ms = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.stays_for_restart = again;
        self.stoppers.push(reply);
        if details.state.status == Status::Restarting {
            self.mark_stopped_by_user(&details, true, None).await;
            return self.stay_down(Request::Stop { signal, timeout_ms }).await;
        }
        self.mark_stopped_by_user(&details, true, Some(signal)).await;
        self.request(Request::StayDown, Vec::new(), Pending::Nobody);
        if details.state.status == Status::Paused {
            // A frozen process can't act on a signal.
            self.request(Request::Resume, Vec::new(), Pending::Nobody);
        }
        self.request(Request::Stop { signal, timeout_ms }, Vec::new(), Pending::Nobody);
        Flow::Continue
    }

    pub(super) async fn kill(&mut self, signal: i32, reply: Reply<()>) -> Flow {
        let details = self.details();
        if !details.state.status.is_live() {
            let id = short(&self.handle.id);
            let error = Error::conflict(format!(
                "cannot kill container: {id}: container {} is not running",
                self.handle.id
            ));
            drop(reply.send(Err(error)));
            return Flow::Continue;
        }
        let stops = is_meant_to_stop(&details, signal);
        if details.state.status == Status::Restarting {
            self.mark_stopped_by_user(&details, stops, None).await;
            let request = Request::Signal { signal };
            let flow = if stops { self.stay_down(request).await } else { Flow::Continue };
            // The caller may have gone.
            let _ = reply.send(Ok(()));
            return flow;
        }
        self.mark_stopped_by_user(&details, stops, Some(signal)).await;
        if stops {
            self.request(Request::StayDown, Vec::new(), Pending::Nobody);
        }
        if details.state.status == Status::Paused && signal == SIGKILL {
            self.request(Request::Resume, Vec::new(), Pending::Nobody);
        }
        self.request(Request::Signal { signal }, Vec::new(), Pending::Signal(reply));
        Flow::Continue
    }

    async fn mark_stopped_by_user(&mut self, details: &Details, stops: bool, signal: Option<i32>) {
        let mut next = details.clone();
        next.state.stopped_by_user |= stops;
        let event = signal.map(|signal| container_event(details, "kill", [("signal", signal.to_string())]));
        self.commit_details(next, Change::new().events(event)).await;
    }

    /// The container that is between two runs ends with this: at once, or when its supervisor says so. `request` is what ends a run
    /// that has just begun.
    pub(super) async fn stay_down(&mut self, request: Request) -> Flow {
        if self.restart_at.take().is_none() && self.link.is_some() {
            self.request(Request::StayDown, Vec::new(), Pending::Nobody);
            self.request(request, Vec::new(), Pending::Nobody);
            return Flow::Continue;
        }
        let mut next = (*self.details()).clone();
        next.state.status = Status::Exited;
        self.end(next, Vec::new()).await;
        self.after_exit().await
    }

    /// Tells all that wait for an exit. The supervisor is told first that it need not answer for the daemon.
    pub(super) fn announce_exit(&mut self, code: i32, status: Status) {
        let is_over = status != Status::Restarting;
        let holds = std::mem::take(&mut self.holds);
        let (answered, kept) = holds.into_iter().partition(|(_, hold)| is_over || !hold.for_good);
        self.holds = kept;
        for key in std::collections::BTreeMap::into_keys(answered) {
            self.request(Request::ReleaseWait { key }, Vec::new(), Pending::Nobody);
        }
        self.handle.life.send_modify(|life: &mut Life| {
            life.status = status;
            life.exits += 1;
            life.exit_code = code;
        });
    }

    /// An error unless there is a process.
    pub(super) fn live(&self) -> crate::Result<()> {
        match self.details().state.status {
            Status::Running | Status::Paused => Ok(()),
            Status::Restarting => Err(is_restarting(&self.handle.id)),
            _ => Err(not_running(&self.handle.id)),
        }
    }
}

/// Whether who sends this signal wants the container to stop, as Docker sees it: any signal is meant so, unless the
/// container has one for that.
fn is_meant_to_stop(details: &Details, signal: i32) -> bool {
    let has_own = details.config.stop_signal.as_deref().is_some_and(|signal| !signal.is_empty());
    signal == SIGKILL || !has_own || start::stop_signal(details).is_ok_and(|own| own == signal)
}

/// The container has no process for a moment.
pub(crate) fn is_restarting(id: &str) -> Error {
    Error::conflict(format!("Container {id} is restarting, wait until the container is running"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_stop() {
        let mut details = Details::default();
        assert!(is_meant_to_stop(&details, 1) && is_meant_to_stop(&details, SIGKILL));
        details.config.stop_signal = Some("SIGQUIT".into());
        assert!(!is_meant_to_stop(&details, 1) && !is_meant_to_stop(&details, 15));
        assert!(is_meant_to_stop(&details, 3) && is_meant_to_stop(&details, SIGKILL));
    }
}
