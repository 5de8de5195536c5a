//! A start, step by step: network and supervisor at the same time, then the configuration, then the answer.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palan_network::files::{self, Hosts};
use palan_network::resolver::ResolverSockets;
use palan_network::{Container, Relay};
use palan_oci::runtime_spec::Spec;
use palan_supervisor::client::{self, SpawnRequest, Spawned};
use palan_supervisor::journal::{Entry, Event as JournalEvent};
use palan_supervisor::protocol::{
    self, Failure, FailureKind, HealthAction, Message, MountSource, MountWhole, Request, RestartPolicy,
    RootfsConfig,
};

use crate::cdi;
use crate::container::checkpoint::Checkpoint;
use crate::container::driver::{
    Driver, Pending, restore_failure_text, short, start_failure_text, wait_options,
};
use crate::container::link::Link;
use crate::container::namespaces::{Joined, SHARED_MEMORY};
use crate::container::{
    Details, MountPoint, Status, health, limits, logging, namespaces, oci, restart, security, validate,
};
use crate::db::Change;
use crate::engine::{Engine, blocking, waiting_for_client};
use crate::error::Context;
use crate::events::{Event, ObjectKind};
use crate::network::{endpoints, relay};
use crate::{Class, Error, Result};

/// How long a supervisor may take to end after its container before a new start gives up.
const PREVIOUS_RUN_PATIENCE: Duration = Duration::from_secs(10);

/// How often that supervisor is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a start may take: a mount of a slow file system is part of it.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// The same of a start from a checkpoint: gigabytes of memory may have to be read.
const RESTORE_PATIENCE: Duration = Duration::from_secs(600);

/// Exit code of a container whose start failed for a reason of ours.
const FAILED_TO_START: i32 = 128;

impl Driver {
    /// Starts the container, from a checkpoint if one is given. When this fails, nothing of the attempt is left but the reason in its
    /// state.
    pub(super) async fn start(&mut self, from: Option<Box<Checkpoint>>) -> Result<()> {
        self.await_start_of_earlier_daemon().await;
        let details = self.details();
        match details.state.status {
            Status::Created | Status::Exited => {}
            Status::Running | Status::Restarting => {
                return Err(Error::not_modified(format!(
                    "container {} is already running",
                    short(&details.id)
                )));
            }
            Status::Paused => {
                return Err(Error::conflict("cannot start a paused container, try unpause instead"));
            }
            Status::Removing | Status::Dead => {
                return Err(Error::conflict("container is marked for removal and cannot be started"));
            }
        }
        self.await_end_of_previous_run().await?;
        let _no_views = self.handle.views.end().await?;
        self.stays_for_restart = false;
        // Whoever starts it begins anew.
        let details =
            Arc::new(Details { restart_count: 0, restart_delay_ms: None, ..(*self.details()).clone() });
        match self.attempt(&details, from).await {
            Ok(()) => Ok(()),
            Err((exit_code, error)) => {
                self.record_failed_start(exit_code, &error).await;
                Err(error)
            }
        }
    }

    /// A start that was under way when an earlier daemon died, and may take long from a checkpoint, comes to its end: what its supervisor
    /// says would be lost on another start.
    async fn await_start_of_earlier_daemon(&mut self) {
        let is_under_way = |details: &Details| details.is_attached && !details.state.status.is_live();
        while is_under_way(&self.details())
            && let Some(link) = &mut self.link
        {
            let Ok(Ok(message)) = tokio::time::timeout(RESTORE_PATIENCE, link.receive()).await else {
                return;
            };
            let has_failed =
                matches!(&message, Message::Journal(Entry { event: JournalEvent::StartFailed { .. }, .. }));
            // What ends the container is told after its start.
            Box::pin(self.on_message(message)).await;
            if has_failed {
                let details = self.details();
                detach_network(&self.engine, &details).await;
                let error = Error::system(details.state.error.clone());
                return self.record_failed_start(details.state.exit_code, &error).await;
            }
        }
    }

    /// Whether a failed start means that the container goes: it was made to be removed.
    pub(super) fn gives_up_after_failed_start(&self, outcome: &Result<()>) -> bool {
        let details = self.details();
        // A start that is refused for the container's state changes nothing.
        let was_attempt = outcome.as_ref().is_err_and(|error| details.state.error == error.report());
        details.host.auto_remove && was_attempt && !details.state.status.is_live()
    }

    /// The last supervisor still flushes logs and removes cgroups when its exit is known already. It is waited for until it has
    /// left its place to the next one, not until its last clients have read all.
    pub(super) async fn await_end_of_previous_run(&mut self) -> Result<()> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        let run_dir = self.engine.run_dir(&self.handle.id);
        let ends = async { while link.receive().await.is_ok() {} };
        let leaves = async {
            while has_supervisor(&run_dir).await {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let is_gone = tokio::time::timeout(PREVIOUS_RUN_PATIENCE, async {
            tokio::select! {
                () = ends => {}
                () = leaves => {}
            }
        });
        if is_gone.await.is_err() {
            self.link = Some(link);
            return Err(Error::conflict(format!(
                "the supervisor of the last run of container {} has not ended yet; try again later",
                short(&self.handle.id)
            )));
        }
        link.linger();
        self.fail_pending().await;
        Ok(())
    }

    pub(super) async fn attempt(
        &mut self,
        details: &Arc<Details>,
        from: Option<Box<Checkpoint>>,
    ) -> Result<(), (i32, Error)> {
        let ours = |error: Error| (FAILED_TO_START, error);
        let mut prepared = Prepared::new(&self.engine, details).map_err(ours)?;
        prepared.checkpoint = from;
        prepared.joined = namespaces::join(&self.engine, details).map_err(ours)?;
        attach_volumes(&self.engine, details).await.map_err(ours)?;
        let started = self.attempt_with_volumes(details, prepared).await;
        if started.is_err() {
            self.detach_volumes().await;
        }
        started
    }

    async fn attempt_with_volumes(
        &mut self,
        details: &Arc<Details>,
        prepared: Prepared,
    ) -> Result<(), (i32, Error)> {
        let ours = |error: Error| (FAILED_TO_START, error);
        let attaching = attach_network(&self.engine, details);
        let spawning = spawn_supervisor(&self.engine, details);
        let (attachment, spawned) = tokio::join!(attaching, spawning);
        let (attachment, spawned) = match (attachment, spawned) {
            (Ok(attachment), Ok(spawned)) => (attachment, spawned),
            (Ok(attachment), Err(error)) => {
                detach_network(&self.engine, &attachment.details).await;
                return Err(ours(error));
            }
            (Err(error), Ok(spawned)) => {
                abandon(spawned);
                return Err(ours(error));
            }
            (Err(error), Err(_)) => return Err(ours(error)),
        };
        let attached = attachment.details.clone();
        match self.start_attached(details, prepared, attachment, spawned).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                if let Some(link) = self.link.take() {
                    link.abandon();
                }
                detach_network(&self.engine, &attached).await;
                Err(failure)
            }
        }
    }

    async fn start_attached(
        &mut self,
        details: &Arc<Details>,
        prepared: Prepared,
        attachment: Attached,
        spawned: Spawned,
    ) -> Result<(), (i32, Error)> {
        let ours = |error: Error| (FAILED_TO_START, error);
        let link = Link::spawned(spawned).context(|| "cannot watch the supervisor".into());
        self.link = Some(link.map_err(ours)?);
        let Attached { details: mut next, netns, resolver, relays } = attachment;
        next.state.error.clear();
        next.state.exit_code = 0;
        let events = start_events(&next, &self.engine);
        let networks = endpoints::network_ids(&next);
        if resolver.is_some() {
            let (engine, next) = (self.engine.clone(), next.clone());
            blocking(move || engine.write_resolver_config(&next)).await.map_err(ours)?;
        }
        // Recorded before the container can run, so that a daemon that dies now finds its endpoints again.
        self.commit_details(next, Change::new().events(events)).await;
        self.engine.publish_names(networks).await;
        let is_restored = prepared.checkpoint.is_some();
        let patience = if is_restored { RESTORE_PATIENCE } else { START_PATIENCE };
        let (request, descriptors) = self.start_request(prepared, netns, resolver).map_err(ours)?;
        self.request(
            Request::Hello { version: protocol::VERSION, after_seq: details.journal_seq },
            Vec::new(),
            Pending::Nobody,
        );
        self.start_outcome = None;
        self.request(request, descriptors, Pending::Start);
        self.relay(&[], relays);
        match tokio::time::timeout(patience, self.await_start()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => {
                // It has cleaned up; it only has to tell its clients yet.
                if let Some(link) = self.link.take() {
                    link.linger();
                }
                let text = if is_restored { restore_failure_text } else { start_failure_text };
                Err((failure.kind.exit_code(), start_error(&failure, text)))
            }
            Err(_) => Err(ours(Error::system(format!(
                "the supervisor of container {} did not start it within {} seconds",
                short(&details.id),
                patience.as_secs()
            )))),
        }
    }

    fn start_request(
        &mut self,
        prepared: Prepared,
        netns: Option<OwnedFd>,
        resolver: Option<ResolverSockets>,
    ) -> Result<(Request, Vec<OwnedFd>)> {
        let clients = std::mem::take(&mut self.early_clients);
        let duplicate = |fd: &OwnedFd| fd.try_clone().context(|| "cannot duplicate a descriptor".into());
        let mut descriptors = vec![prepared.config];
        let request = Request::Start {
            seccomp: prepared.seccomp.is_some(),
            network_namespace: netns.is_some(),
            joins: prepared.joined.namespaces.iter().map(|(kind, _)| *kind).collect(),
            shared_mounts: prepared.joined.mounts.is_some(),
            checkpoint: prepared.checkpoint.as_ref().map(|checkpoint| checkpoint.criu.clone()),
            resolver: resolver.is_some(),
            attach: clients.iter().map(|(options, _)| options.clone()).collect(),
            waits: self.holds.iter().map(|(key, hold)| wait_options(*key, hold)).collect(),
        };
        descriptors.extend(prepared.seccomp);
        descriptors.extend(netns);
        descriptors.extend(prepared.joined.namespaces.into_iter().map(|(_, namespace)| namespace));
        descriptors.extend(prepared.joined.mounts);
        descriptors.extend(prepared.checkpoint.map(|checkpoint| checkpoint.images));
        if let Some(sockets) = resolver {
            descriptors.extend([sockets.udp, sockets.tcp]);
        }
        descriptors.extend(clients.into_iter().map(|(_, socket)| socket));
        for hold in self.holds.values() {
            descriptors.push(duplicate(&hold.socket)?);
        }
        Ok((request, descriptors))
    }

    async fn record_failed_start(&mut self, exit_code: i32, error: &Error) {
        let mut next = (*self.details()).clone();
        let events = end_events(&next, &self.engine);
        let networks = endpoints::network_ids(&next);
        endpoints::forget(&mut next);
        next.state.exit_code = exit_code;
        next.state.error = error.report();
        next.state.pid = 0;
        self.commit_details(next, Change::new().events(events)).await;
        self.engine.publish_names(networks).await;
    }
}

/// Whether a supervisor has its place in the run directory: the socket goes last.
async fn has_supervisor(run_dir: &Path) -> bool {
    let socket = run_dir.join(protocol::SOCKET_NAME);
    blocking(move || Ok(socket.exists())).await.unwrap_or(true)
}

/// What a start needs, made before anything is changed.
pub(super) struct Prepared {
    pub(super) config: OwnedFd,
    pub(super) seccomp: Option<OwnedFd>,
    /// Where the processes come from, if they are not made anew.
    pub(super) checkpoint: Option<Box<Checkpoint>>,
    /// Open from before the start on, so that a container that ends meanwhile does no harm.
    joined: Joined,
}

impl Prepared {
    pub(super) fn new(engine: &Engine, details: &Details) -> Result<Self> {
        let options = security::options(&details.host.security_opt, &engine.host, &engine.config)?;
        let runtime = engine.config.runtimes.for_supervisor(&details.host.runtime, &details.id)?;
        limits::give_real_time(&engine.config, details)?;
        let mut spec = oci::spec(details, &options)?;
        cdi::inject(&details.host.resources.requested_devices, &engine.config.cdi_spec_dirs, &mut spec)?;
        let sources = sources(engine, details, &spec)?;
        let mut seccomp = None;
        if runtime.is_some() {
            // Another runtime compiles the profile itself.
            spec.linux.get_or_insert_default().seccomp = engine.seccomp.rules(&details.host, &options)?;
        } else {
            seccomp = engine.seccomp.descriptor(&details.host, &options)?;
        }
        let health = health::supervisor_config(details, &options)?;
        let restart = restart::supervisor_config(details);
        let restarts = restart.policy != RestartPolicy::Never
            || health.as_ref().is_some_and(|health| health.on_failure == HealthAction::Restart);
        let (user, groups) = oci::user_names(&details.config.user, &details.host);
        let config = protocol::Config {
            version: protocol::VERSION,
            spec,
            rootfs: RootfsConfig::Overlay {
                lowers: details
                    .overlay
                    .lowers
                    .iter()
                    .map(Into::into)
                    .chain([crate::engine::base_layer(&engine.config)])
                    .collect(),
                upper: Path::new(&details.overlay.upper).into(),
                work: Path::new(&details.overlay.work).into(),
                // A volatile overlay can't be mounted a second time.
                volatile: details.host.auto_remove && !restarts,
            },
            user,
            groups,
            create_cwd: true,
            // Another's process 1 reaps already.
            init: details.host.init.unwrap_or(engine.config.init) && namespaces::has_own_init(&details.host),
            log: logging::supervisor_config(details)?,
            open_stdin: details.config.open_stdin,
            stdin_once: details.config.stdin_once,
            stop_signal: stop_signal(details)?,
            stop_timeout_ms: stop_timeout(details)
                .map_or(u64::MAX, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            journal_after: details.journal_seq,
            runtime,
            sources,
            health,
            restart,
        };
        let config = client::config_file(&config).context(|| "cannot hand over the configuration".into())?;
        Ok(Self { config, seccomp, checkpoint: None, joined: Joined::default() })
    }
}

/// What mounts show that is no path of the host: parts of volumes, and images.
fn sources(engine: &Engine, details: &Details, spec: &Spec) -> Result<Vec<MountSource>> {
    let special = details.mounts.iter().filter(|mount| mount.kind == "image" || !mount.subpath.is_empty());
    let source = |mount: &MountPoint| {
        // The specification has the mounts of the container last.
        let index = spec.mounts.iter().rposition(|entry| entry.destination == mount.destination);
        let whole = if mount.kind == "image" {
            // An overlay has two layers at least; these are empty.
            let empty = ["proc", "sys"].map(|name| crate::engine::base_layer(&engine.config).join(name));
            MountWhole::Layers(mount.layers.iter().map(Into::into).chain(empty).collect())
        } else {
            MountWhole::Directory(Path::new(&mount.source).into())
        };
        let mount_index = index.ok_or_else(|| Error::system("a mount is missing in the specification"))?;
        Ok(MountSource { mount: mount_index, whole, subpath: Path::new(&mount.subpath).into() })
    };
    let mut sources = special.map(source).collect::<Result<Vec<_>>>()?;
    if namespaces::shares_memory(details) {
        let index = spec.mounts.iter().position(|entry| entry.destination == SHARED_MEMORY);
        sources.extend(index.map(|mount| MountSource {
            mount,
            whole: MountWhole::Shared(SHARED_MEMORY.into()),
            subpath: PathBuf::new(),
        }));
    }
    Ok(sources)
}

/// The signal of `stop`.
pub(crate) fn stop_signal(details: &Details) -> Result<i32> {
    match details.config.stop_signal.as_deref() {
        None | Some("") => Ok(15),
        Some(signal) => validate::signal(signal),
    }
}

/// How long `stop` waits; `None` for ever.
pub(crate) fn stop_timeout(details: &Details) -> Option<Duration> {
    const DEFAULT_SECONDS: i64 = 10;
    let seconds = details.config.stop_timeout.unwrap_or(DEFAULT_SECONDS);
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// A container whose network is ready.
pub(crate) struct Attached {
    /// With what the networks gave.
    pub(crate) details: Details,
    /// `None`: the host's.
    pub(crate) netns: Option<OwnedFd>,
    /// The sockets of the container's resolver, if it has one.
    pub(crate) resolver: Option<ResolverSockets>,
    /// Ports for the supervisor to relay.
    relays: Vec<Relay>,
}

impl Attached {
    /// Without endpoints of its own.
    fn elsewhere(details: Details, netns: Option<OwnedFd>) -> Self {
        Self { details, netns, resolver: None, relays: Vec::new() }
    }
}

pub(crate) async fn attach_network(engine: &Arc<Engine>, details: &Arc<Details>) -> Result<Attached> {
    let (engine, details) = (engine.clone(), details.clone());
    blocking(move || {
        let mut next = (*details).clone();
        next.is_attached = true;
        endpoints::refresh(&engine, &mut next)?;
        if let Some(other) = endpoints::shared_with(&details.host) {
            let netns = shared_namespace(&engine, other)?;
            return Ok(Attached::elsewhere(next, Some(netns)));
        }
        if details.host.network_mode == "host" {
            write_hosts(&engine, &next)?;
            return Ok(Attached::elsewhere(next, None));
        }
        let named = if endpoints::has_endpoints(&details) {
            endpoints::requests(&engine, &next)?
        } else {
            Vec::new()
        };
        let (names, requests): (Vec<String>, Vec<_>) = named.into_iter().unzip();
        let container = Container { id: &details.id, name: &details.name };
        let attachment = engine.network.attach(container, &requests).map_err(attach_error)?;
        for (name, record) in names.iter().zip(&attachment.records) {
            endpoints::note(&mut next, name, record);
        }
        let finish = || -> Result<Option<ResolverSockets>> {
            write_hosts(&engine, &next)?;
            let has_resolver = endpoints::has_resolver(&engine, &next);
            let sockets = has_resolver.then(|| attachment.sandbox.resolver()).transpose();
            sockets.context(|| "failed to set up container networking".into())
        };
        match finish() {
            Ok(resolver) => {
                let relays = relay::of(&engine, &next);
                Ok(Attached { details: next, netns: Some(attachment.into_descriptor()), resolver, relays })
            }
            Err(error) => {
                endpoints::release(&engine, &next);
                Err(error)
            }
        }
    })
    .await
}

fn attach_error(source: palan_network::AttachError) -> Error {
    let class = match &source {
        palan_network::AttachError::UnknownNetwork { .. } => Class::NotFound,
        palan_network::AttachError::Address { .. } => Class::Forbidden,
        _ => Class::System,
    };
    Error::new(class, "failed to set up container networking").with_source(source)
}

/// The network namespace of another container, which must run.
fn shared_namespace(engine: &Engine, other: &str) -> Result<OwnedFd> {
    let handle = engine.index.find(other)?;
    let other = handle.details();
    match other.state.status {
        status if status.has_process() => {}
        Status::Restarting => {
            return Err(Error::conflict(format!(
                "cannot join network of a restarting container: {}",
                other.id
            )));
        }
        _ => {
            return Err(Error::conflict(format!(
                "cannot join network of a non running container: {}",
                other.id
            )));
        }
    }
    let sandbox = crate::network::sandbox_of(&other)?;
    Ok(sandbox.into_descriptor())
}

impl Engine {
    /// What `host-gateway` means: the address of the default bridge.
    pub fn host_gateway(&self) -> Option<String> {
        let bridge = self.networks.find(crate::network::BRIDGE).ok()?;
        Some(bridge.ipam.first()?.gateway.clone())
    }
}

/// `--add-host`, with what `host-gateway` means filled in.
pub(crate) fn extra_hosts(engine: &Engine, details: &Details) -> Vec<(String, String)> {
    let gateway = engine.host_gateway().unwrap_or_default();
    let lines = details.host.extra_hosts.iter().filter_map(|line| line.split_once([':', '=']));
    lines
        .map(|(name, address)| {
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            (name.to_owned(), if bare == "host-gateway" { gateway.clone() } else { bare.to_owned() })
        })
        .collect()
}

fn write_hosts(engine: &Engine, details: &Details) -> Result<()> {
    let extra = extra_hosts(engine, details);
    let text = if details.host.network_mode == "host" {
        let host = palan_stdx::fs::read_to_string(Path::new("/etc/hosts")).unwrap_or_default();
        extra.iter().fold(host, |text, (name, address)| text + &format!("{address}\t{name}\n"))
    } else {
        let mut own = endpoints::own_hosts(details);
        own.extend(endpoints::linked_hosts(engine, details)?);
        files::hosts(&Hosts { own: &own, extra: &extra })
    };
    palan_stdx::fs::write(Path::new(&details.hosts_path), text)
        .context(|| "cannot write the hosts file".into())
}

/// Mounts what the container's volumes need; for most, nothing.
async fn attach_volumes(engine: &Arc<Engine>, details: &Arc<Details>) -> Result<()> {
    let spreads =
        |mount: &&MountPoint| mount.propagation.ends_with("shared") || mount.propagation.ends_with("slave");
    if details.volume_names().next().is_none() && !details.mounts.iter().any(|mount| spreads(&mount)) {
        return Ok(());
    }
    let (engine, details) = (engine.clone(), details.clone());
    let has_options = |name| engine.volumes.get(name).is_some_and(|volume| !volume.options.is_empty());
    let may_take_long = details.volume_names().any(has_options);
    let attach = move || {
        details.mounts.iter().filter(spreads).try_for_each(check_propagation)?;
        engine.attach_volumes(&details.id, details.volume_names())
    };
    // A server that does not answer is waited for.
    if may_take_long { waiting_for_client(attach).await } else { blocking(attach).await }
}

/// Docker's refusal of a bind that shall share with the host what the host shares with nobody.
fn check_propagation(mount: &MountPoint) -> Result<()> {
    let what = || format!("cannot look at the mount of {}", mount.source);
    // One that is missing is the start's to complain about.
    let Ok(source) = palan_stdx::fs::open(Path::new(&mount.source)) else { return Ok(()) };
    let Some(placed) = palan_linux::mount::placed(&source).context(what)? else { return Ok(()) };
    let wants_shared = mount.propagation.ends_with("shared");
    if placed.is_shared || (placed.is_slave && !wants_shared) {
        return Ok(());
    }
    let kinds = if wants_shared { "shared" } else { "shared or slave" };
    Err(Error::system(format!(
        "path {} is mounted on {} but it is not a {kinds} mount",
        mount.source,
        placed.place.display()
    )))
}

pub(crate) async fn spawn_supervisor(engine: &Arc<Engine>, details: &Arc<Details>) -> Result<Spawned> {
    let (engine, id) = (engine.clone(), details.id.clone());
    let was_volatile = details.host.auto_remove && details.run > 0;
    let work = std::path::PathBuf::from(&details.overlay.work);
    blocking(move || {
        let run_dir = engine.run_dir(&id);
        let cgroup = format!("{}/supervisors", engine.config.cgroup_parent.trim_end_matches('/'));
        if was_volatile {
            forget_volatile_mount(&work)?;
        }
        let request = SpawnRequest { program: engine.program()?, run_dir: &run_dir, cgroup: Some(&cgroup) };
        client::spawn(&request).context(|| format!("cannot start container {}", short(&id)))
    })
    .await
}

/// The kernel marks the work directory of a volatile overlay, so that nobody mounts it again after a crash without looking. A
/// container that is removed at its end has one, and is started again only within the life of its host.
fn forget_volatile_mount(work: &Path) -> Result<()> {
    let mark = work.join("work/incompat");
    palan_stdx::fs::if_exists(palan_stdx::fs::remove_dir_all(&mark))
        .map(drop)
        .context(|| "cannot prepare the container's root file system".into())
}

pub(crate) fn abandon(spawned: Spawned) {
    if let Ok(link) = Link::spawned(spawned) {
        link.abandon();
    }
}

/// Gives the endpoints back; a failure is reported and the rest goes on, the next start of the daemon cleans up.
pub(crate) async fn detach_network(engine: &Arc<Engine>, details: &Details) {
    if details.endpoints.values().all(|endpoint| endpoint.record.is_none()) {
        // Nothing outlives the namespace itself.
        return;
    }
    let (engine, details) = (engine.clone(), details.clone());
    let outcome = blocking(move || {
        endpoints::release(&engine, &details);
        Ok(())
    });
    if let Err(error) = outcome.await {
        tracing::warn!(error = error.report(), "a network endpoint was not released");
    }
}

fn start_events(details: &Details, engine: &Engine) -> Vec<Event> {
    let mounts = volume_events(details, "mount");
    mounts.chain(network_events(details, engine, "connect")).collect()
}

/// The events of a run's end beside `die`.
pub(super) fn end_events(details: &Details, engine: &Engine) -> Vec<Event> {
    network_events(details, engine, "disconnect")
        .into_iter()
        .chain(volume_events(details, "unmount"))
        .collect()
}

/// One for each network that the container is on; the host's and none are networks, too.
fn network_events(details: &Details, engine: &Engine, action: &str) -> Vec<Event> {
    let on_it = details.endpoints.values().filter(|endpoint| {
        details.is_attached && (!endpoint.endpoint_id.is_empty() || !endpoints::has_endpoints(details))
    });
    let networks = on_it.filter_map(|endpoint| engine.networks.by_id(&endpoint.network_id));
    networks.map(|network| network.container_event(action, &details.id)).collect()
}

fn volume_events<'a>(details: &'a Details, action: &'a str) -> impl Iterator<Item = Event> + 'a {
    details.mounts.iter().filter(|mount| mount.kind == "volume").map(move |mount| {
        let mut attributes = vec![("container", details.id.clone()), ("driver", mount.driver.clone())];
        if action == "mount" {
            attributes.push(("destination", mount.destination.clone()));
            attributes.push(("read/write", mount.writable.to_string()));
            attributes.push(("propagation", mount.propagation.clone()));
        }
        Event {
            time: jiff::Timestamp::now(),
            kind: ObjectKind::Volume,
            action: action.into(),
            actor: mount.name.clone(),
            attributes: attributes.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        }
    })
}

fn start_error(failure: &Failure, text: fn(&str) -> String) -> Error {
    let class = match failure.kind {
        FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::Invalid => Class::InvalidParameter,
        FailureKind::Unsupported => Class::NotImplemented,
        _ => Class::System,
    };
    Error::new(class, text(&failure.message))
}
