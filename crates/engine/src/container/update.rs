//! Other limits and another restart policy for a container that exists.
//!
//! What is asked for is merged into the container's settings and checked as at creation. If it runs, the supervisor is given the
//! whole configuration that a start would be given: it sets the limits at once and keeps the rest for the next run. Only
//! then is the change recorded; so what the database says is in force, and a refusal leaves everything as it was.

use std::collections::VecDeque;

use palan_supervisor::protocol::{Failure, FailureKind, Request};

use crate::container::driver::{Driver, Pending, container_event};
use crate::container::index::Reply;
use crate::container::start::Prepared;
use crate::container::{Details, Status, limits, restart, validate};
use crate::db::Change;
use crate::engine::Engine;
use crate::spec::{HostConfig, Resources, RestartPolicy};
use crate::{Class, Error, Result};

/// What is to change. What is 0, empty or absent stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Limits; a limit of processes of 0 or less is none.
    pub resources: Resources,
    /// Restart policy.
    pub restart_policy: RestartPolicy,
}

/// A change that the supervisor has been asked to carry out.
pub(crate) struct Updating {
    host: HostConfig,
    warnings: Vec<String>,
    pub(super) reply: Reply<Vec<String>>,
}

impl Engine {
    /// Changes limits and restart policy; returns what could not be done as asked.
    pub async fn update(&self, name: &str, update: Update) -> Result<Vec<String>> {
        validate::resources(&update.resources, &self.host, true)?;
        restart::check(&update.restart_policy, false)?;
        let handle = self.index.find(name)?;
        handle.ask(|reply| super::driver::Action::Update { update: Box::new(update), reply }).await
    }
}

/// Changes are made one after the other, since each builds on what the last one has left.
#[derive(Default)]
pub(crate) struct Updates {
    pub(super) is_busy: bool,
    waiting: VecDeque<(Update, Reply<Vec<String>>)>,
}

impl Driver {
    pub(super) async fn update(&mut self, update: Update, reply: Reply<Vec<String>>) {
        self.updates.waiting.push_back((update, reply));
        self.continue_updates().await;
    }

    async fn continue_updates(&mut self) {
        while !self.updates.is_busy
            && let Some((update, reply)) = self.updates.waiting.pop_front()
        {
            self.start_update(&update, reply).await;
        }
    }

    /// Carries out the change, or asks the supervisor to.
    async fn start_update(&mut self, update: &Update, reply: Reply<Vec<String>>) {
        match self.begin_update(update) {
            Err(error) => drop(reply.send(Err(cannot(&self.handle.id, &error)))),
            Ok((host, warnings)) => {
                let updating = Updating { host, warnings, reply };
                let details = self.details();
                if self.link.is_none() || !details.state.status.is_live() {
                    return self.record_update(updating, Ok(())).await;
                }
                let next = Details { host: updating.host.clone(), ..(*details).clone() };
                match self.update_request(&next) {
                    Ok((request, descriptors)) => {
                        self.updates.is_busy = true;
                        self.request(request, descriptors, Pending::Update(Box::new(updating)));
                    }
                    Err(error) => drop(updating.reply.send(Err(cannot(&self.handle.id, &error)))),
                }
            }
        }
    }

    fn begin_update(&self, update: &Update) -> Result<(HostConfig, Vec<String>)> {
        let details = self.details();
        if matches!(details.state.status, Status::Removing | Status::Dead) || self.removal.is_some() {
            return Err(Error::system("container is marked for removal and cannot be \"update\""));
        }
        let mut host = details.host.clone();
        merge(&mut host, update)?;
        validate::resources(&host.resources, &self.engine.host, true)?;
        let warnings = limits::complete(&mut host.resources, &self.engine.host);
        Ok((host, warnings))
    }

    fn update_request(&self, next: &Details) -> Result<(Request, Vec<std::os::fd::OwnedFd>)> {
        let Prepared { config, seccomp, .. } = Prepared::new(&self.engine, next)?;
        let request = Request::Update { limits: true, seccomp: seccomp.is_some() };
        Ok((request, std::iter::once(config).chain(seccomp).collect()))
    }

    /// The supervisor has answered.
    pub(super) async fn updated(&mut self, updating: Updating, outcome: std::result::Result<(), Failure>) {
        self.record_update(updating, outcome).await;
        self.updates.is_busy = false;
        self.continue_updates().await;
    }

    async fn record_update(&mut self, updating: Updating, outcome: std::result::Result<(), Failure>) {
        let Updating { host, warnings, reply } = updating;
        let details = self.details();
        match outcome {
            Err(failure) if failure.kind != FailureKind::WrongState => {
                // Some limits may have been set.
                if let Ok((request, descriptors)) = self.update_request(&details) {
                    self.request(request, descriptors, Pending::Nobody);
                }
                let class = match failure.kind {
                    FailureKind::Unsupported => Class::NotImplemented,
                    _ => Class::System,
                };
                drop(reply.send(Err(cannot(&self.handle.id, &Error::new(class, failure.message)))));
            }
            // It has ended meanwhile: the next start has it.
            Ok(()) | Err(_) => {
                let event = container_event(&details, "update", []);
                let next = Details { host, ..(*details).clone() };
                self.record(next, Change::new().event(event)).await;
                // The caller may have gone.
                let _ = reply.send(Ok(warnings));
            }
        }
    }
}

fn cannot(id: &str, error: &Error) -> Error {
    Error::new(error.class(), format!("Cannot update container {id}: {}", error.report()))
}

/// Merges what is asked into what the container has; Docker's conflicts.
fn merge(host: &mut HostConfig, update: &Update) -> Result<()> {
    let (known, asked) = (&mut host.resources, &update.resources);
    let conflicts = [
        (
            asked.nano_cpus > 0 && known.cpu_period > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            asked.nano_cpus > 0 && known.cpu_quota > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            asked.cpu_period > 0 && known.nano_cpus > 0,
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            asked.cpu_quota > 0 && known.nano_cpus > 0,
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            known.memory_swap > 0 && asked.memory > known.memory_swap && asked.memory_swap == 0,
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
    ];
    if let Some((_, text)) = conflicts.iter().find(|(conflict, _)| *conflict) {
        return Err(Error::conflict(*text));
    }
    let numbers = [
        (&mut known.cpu_shares, asked.cpu_shares),
        (&mut known.nano_cpus, asked.nano_cpus),
        (&mut known.cpu_period, asked.cpu_period),
        (&mut known.cpu_quota, asked.cpu_quota),
        (&mut known.cpu_realtime_period, asked.cpu_realtime_period),
        (&mut known.cpu_realtime_runtime, asked.cpu_realtime_runtime),
        (&mut known.memory, asked.memory),
        (&mut known.memory_swap, asked.memory_swap),
        (&mut known.memory_reservation, asked.memory_reservation),
    ];
    for (known, asked) in numbers {
        if asked != 0 {
            *known = asked;
        }
    }
    for (known, asked) in
        [(&mut known.cpuset_cpus, &asked.cpuset_cpus), (&mut known.cpuset_mems, &asked.cpuset_mems)]
    {
        if !asked.is_empty() {
            known.clone_from(asked);
        }
    }
    if asked.blkio_weight != 0 {
        known.blkio_weight = asked.blkio_weight;
    }
    if let Some(limit) = asked.pids_limit {
        known.pids_limit = Some(limit.max(0));
    }
    if !update.restart_policy.name.is_empty() {
        restart::check(&update.restart_policy, false)?;
        // The first run of one without a policy has a root file system that can't be mounted again.
        let is_allowed = match update.restart_policy.name.as_str() {
            "no" => true,
            "on-failure" => host.restart_policy.name == "on-failure",
            _ => false,
        };
        if host.auto_remove && !is_allowed {
            return Err(Error::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy = update.restart_policy.clone();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(known: &Resources, asked: Resources, expected: std::result::Result<&Resources, &str>) {
        let mut host = HostConfig { resources: known.clone(), ..HostConfig::default() };
        let update = Update { resources: asked, ..Update::default() };
        match (merge(&mut host, &update), expected) {
            (Ok(()), Ok(expected)) => assert_eq!(&host.resources, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        let known = Resources { memory: 64 << 20, cpu_shares: 7, ..Resources::default() };
        check(&known, Resources::default(), Ok(&known));
        let asked = Resources { cpu_shares: 9, pids_limit: Some(-1), ..Resources::default() };
        let expected = Resources { cpu_shares: 9, pids_limit: Some(0), ..known.clone() };
        check(&known, asked, Ok(&expected));
    }

    #[test]
    fn halves_that_exclude_each_other() {
        let nano = Resources { nano_cpus: 1, ..Resources::default() };
        let quota = Resources { cpu_quota: 5000, ..Resources::default() };
        check(&nano, quota.clone(), Err("CPU Quota cannot be updated as NanoCPUs"));
        check(&quota, nano, Err("Nano CPUs cannot be updated as CPU Quota"));
        let swap = Resources { memory: 10, memory_swap: 20, ..Resources::default() };
        check(&swap, Resources { memory: 30, ..Resources::default() }, Err("already set memoryswap"));
        let unlimited = Resources { memory: 10, memory_swap: -1, ..Resources::default() };
        let expected = Resources { memory: 30, memory_swap: -1, ..Resources::default() };
        check(&unlimited, Resources { memory: 30, ..Resources::default() }, Ok(&expected));
    }

    #[test]
    fn policies_of_containers_that_remove_themselves() {
        let mut host = HostConfig { auto_remove: true, ..HostConfig::default() };
        let mut update = Update::default();
        for name in ["always", "unless-stopped", "on-failure"] {
            update.restart_policy.name = name.into();
            assert!(merge(&mut host, &update).expect_err("refused").to_string().contains("AutoRemove"));
        }
        host.restart_policy.name = "on-failure".into();
        merge(&mut host, &update).expect("fine");
        update.restart_policy.name = "no".into();
        merge(&mut host, &update).expect("fine");
    }
}
