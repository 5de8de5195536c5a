//! A start, step by step: network and supervisor at the same time, then the configuration, then the answer.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palan_network::files::{self, Hosts};
use palan_network::{AttachRequest, Attachment, EndpointId, EndpointRecord, Mode};
use palan_supervisor::client::{self, SpawnRequest, Spawned};
use palan_supervisor::protocol::{self, Failure, FailureKind, Request, RootfsConfig};

use crate::container::driver::{Driver, Pending, short, start_failure_text, wait_options};
use crate::container::link::Link;
use crate::container::{Details, Endpoint, Status, health, logging, oci, security, validate};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::events::{Event, ObjectKind};
use crate::spec::PortBinding;
use crate::{Class, Error, Result, network};

/// How long a supervisor may take to end after its container before a new start gives up.
const PREVIOUS_RUN_PATIENCE: Duration = Duration::from_secs(10);

/// How long a start may take: a mount of a slow file system is part of it.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// Exit code of a container whose start failed for a reason of ours.
const FAILED_TO_START: i32 = 128;

impl Driver {
    /// Starts the container. When this fails, nothing of the attempt is left but the reason in its state.
    pub(super) async fn start(&mut self) -> Result<()> {
        let details = self.details();
        match details.state.status {
            Status::Created | Status::Exited => {}
            Status::Running => {
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
        match self.attempt(&details).await {
            Ok(()) => Ok(()),
            Err((exit_code, error)) => {
                self.record_failed_start(exit_code, &error).await;
                Err(error)
            }
        }
    }

    /// Whether a failed start means that the container goes: it was made to be removed.
    pub(super) fn gives_up_after_failed_start(&self, outcome: &Result<()>) -> bool {
        let details = self.details();
        let was_attempt = outcome
            .as_ref()
            .is_err_and(|error| !matches!(error.class(), Class::NotModified | Class::Conflict));
        details.host.auto_remove && was_attempt && !details.state.status.is_live()
    }

    /// The last supervisor still flushes logs and removes cgroups when its exit is known already.
    async fn await_end_of_previous_run(&mut self) -> Result<()> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        match tokio::time::timeout(PREVIOUS_RUN_PATIENCE, link.drain()).await {
            Ok(()) => Ok(()),
            Err(_) => {
                self.link = Some(link);
                Err(Error::conflict(format!(
                    "the supervisor of the last run of container {} has not ended yet; try again later",
                    short(&self.handle.id)
                )))
            }
        }
    }

    async fn attempt(&mut self, details: &Arc<Details>) -> Result<(), (i32, Error)> {
        let ours = |error: Error| (FAILED_TO_START, error);
        let prepared = Prepared::new(&self.engine, details).map_err(ours)?;
        let attaching = attach_network(&self.engine, details);
        let spawning = spawn_supervisor(&self.engine, details);
        let (attachment, spawned) = tokio::join!(attaching, spawning);
        let (attachment, spawned) = match (attachment, spawned) {
            (Ok(attachment), Ok(spawned)) => (attachment, spawned),
            (Ok(attachment), Err(error)) => {
                detach_network(&self.engine, &attachment.record).await;
                return Err(ours(error));
            }
            (Err(error), Ok(spawned)) => {
                abandon(spawned);
                return Err(ours(error));
            }
            (Err(error), Err(_)) => return Err(ours(error)),
        };
        let record = attachment.record.clone();
        match self.start_attached(details, prepared, attachment, spawned).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                if let Some(link) = self.link.take() {
                    link.abandon();
                }
                detach_network(&self.engine, &record).await;
                Err(failure)
            }
        }
    }

    async fn start_attached(
        &mut self,
        details: &Arc<Details>,
        prepared: Prepared,
        attachment: Attachment,
        spawned: Spawned,
    ) -> Result<(), (i32, Error)> {
        let ours = |error: Error| (FAILED_TO_START, error);
        let link = Link::spawned(spawned).context(|| "cannot watch the supervisor".into());
        self.link = Some(link.map_err(ours)?);
        let mut next = (**details).clone();
        next.state.error.clear();
        next.state.exit_code = 0;
        note_endpoint(&mut next, &attachment.record, &self.engine);
        let events = start_events(&next);
        // Recorded before the container can run, so that a daemon that dies now finds its endpoint again.
        self.commit_details(next, Change::new().events(events)).await;
        let (request, descriptors) = self.start_request(prepared, attachment.netns).map_err(ours)?;
        self.request(
            Request::Hello { version: protocol::VERSION, after_seq: details.journal_seq },
            Vec::new(),
            Pending::Nobody,
        );
        self.start_outcome = None;
        self.request(request, descriptors, Pending::Start);
        match tokio::time::timeout(START_PATIENCE, self.await_start()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => {
                // It has cleaned up; it only has to tell its clients yet.
                if let Some(link) = self.link.take() {
                    link.linger();
                }
                Err((failure.kind.exit_code(), start_error(&failure)))
            }
            Err(_) => Err(ours(Error::system(format!(
                "the supervisor of container {} did not start it within {} seconds",
                short(&details.id),
                START_PATIENCE.as_secs()
            )))),
        }
    }

    fn start_request(
        &mut self,
        prepared: Prepared,
        netns: Option<OwnedFd>,
    ) -> Result<(Request, Vec<OwnedFd>)> {
        let clients = std::mem::take(&mut self.early_clients);
        let duplicate = |fd: &OwnedFd| fd.try_clone().context(|| "cannot duplicate a descriptor".into());
        let mut descriptors = vec![prepared.config];
        let request = Request::Start {
            seccomp: prepared.seccomp.is_some(),
            network_namespace: netns.is_some(),
            attach: clients.iter().map(|(options, _)| options.clone()).collect(),
            waits: self.holds.iter().map(|(key, hold)| wait_options(*key, hold)).collect(),
        };
        descriptors.extend(prepared.seccomp);
        descriptors.extend(netns);
        descriptors.extend(clients.into_iter().map(|(_, socket)| socket));
        for hold in self.holds.values() {
            descriptors.push(duplicate(&hold.socket)?);
        }
        Ok((request, descriptors))
    }

    async fn record_failed_start(&mut self, exit_code: i32, error: &Error) {
        let mut next = (*self.details()).clone();
        let events = end_events(&next);
        forget_endpoint(&mut next);
        next.state.exit_code = exit_code;
        next.state.error = error.report();
        next.state.pid = 0;
        self.commit_details(next, Change::new().events(events)).await;
    }
}

/// What a start needs, made before anything is changed.
struct Prepared {
    config: OwnedFd,
    seccomp: Option<OwnedFd>,
}

impl Prepared {
    fn new(engine: &Engine, details: &Details) -> Result<Self> {
        let options = security::options(&details.host.security_opt, &engine.host, &engine.config)?;
        let runtime = engine.config.runtimes.for_supervisor(&details.host.runtime, &details.id)?;
        let mut spec = oci::spec(details, &options)?;
        let mut seccomp = None;
        if runtime.is_some() {
            // Another runtime compiles the profile itself.
            spec.linux.get_or_insert_default().seccomp = engine.seccomp.rules(&details.host, &options)?;
        } else {
            seccomp = engine.seccomp.descriptor(&details.host, &options)?;
        }
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
                volatile: details.host.auto_remove,
            },
            user: Some(details.config.user.clone()).filter(|user| !user.is_empty()),
            create_cwd: true,
            init: details.host.init.unwrap_or_default(),
            log: logging::supervisor_config(details)?,
            open_stdin: details.config.open_stdin,
            stdin_once: details.config.stdin_once,
            stop_signal: stop_signal(details)?,
            stop_timeout_ms: stop_timeout(details)
                .map_or(u64::MAX, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            journal_after: details.journal_seq,
            runtime,
            health: health::supervisor_config(details, &options)?,
        };
        let config = client::config_file(&config).context(|| "cannot hand over the configuration".into())?;
        Ok(Self { config, seccomp })
    }
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

async fn attach_network(engine: &Arc<Engine>, details: &Arc<Details>) -> Result<Attachment> {
    let (engine, details) = (engine.clone(), details.clone());
    blocking(move || {
        let ports = network::port_bindings(&details)?;
        let asked = details.endpoints.values().next();
        let mac = asked.map(|endpoint| endpoint.settings.mac_address.as_str()).filter(|mac| !mac.is_empty());
        let mac =
            mac.map(str::parse).transpose().map_err(|source: palan_network::record::InvalidMacAddress| {
                Error::invalid("invalid endpoint settings").with_source(source)
            })?;
        let request = AttachRequest {
            mode: mode(&details),
            container_id: &details.id,
            container_name: &details.name,
            endpoint_id: EndpointId::from(crate::identifier::random_bytes()),
            address: None,
            mac,
            ports: &ports,
        };
        let attachment = engine
            .network
            .attach(&request)
            .map_err(|source| Error::system("failed to set up container networking").with_source(source))?;
        if let Err(error) = write_hosts(&engine, &details, &attachment.record) {
            release(&engine, &attachment.record);
            return Err(error);
        }
        Ok(attachment)
    })
    .await
}

/// How the container is connected.
pub(crate) fn mode(details: &Details) -> Mode {
    match details.host.network_mode.as_str() {
        "host" => Mode::Host,
        "none" => Mode::None,
        _ if details.config.network_disabled => Mode::None,
        _ => Mode::Bridge,
    }
}

fn write_hosts(engine: &Engine, details: &Details, record: &EndpointRecord) -> Result<()> {
    let gateway = engine.network.gateway().address().to_string();
    let extra: Vec<(String, String)> = details
        .host
        .extra_hosts
        .iter()
        .filter_map(|line| line.split_once([':', '=']))
        .map(|(name, address)| {
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            (name.to_owned(), if bare == "host-gateway" { gateway.clone() } else { bare.to_owned() })
        })
        .collect();
    let config = &details.config;
    let full = format!("{}.{}", config.hostname, config.domainname);
    let names: Vec<&str> =
        if config.domainname.is_empty() { vec![&config.hostname] } else { vec![&full, &config.hostname] };
    let own = record.bridge.as_ref().map(|bridge| (IpAddr::V4(bridge.address), names.as_slice()));
    let text = if record.mode == Mode::Host {
        let host = palan_stdx::fs::read_to_string(Path::new("/etc/hosts")).unwrap_or_default();
        extra.iter().fold(host, |text, (name, address)| text + &format!("{address}\t{name}\n"))
    } else {
        files::hosts(&Hosts { own, extra: &extra })
    };
    palan_stdx::fs::write(Path::new(&details.hosts_path), text)
        .context(|| "cannot write the hosts file".into())
}

async fn spawn_supervisor(engine: &Arc<Engine>, details: &Arc<Details>) -> Result<Spawned> {
    let (engine, id) = (engine.clone(), details.id.clone());
    blocking(move || {
        let run_dir = engine.run_dir(&id);
        let cgroup = format!("{}/supervisors", engine.config.cgroup_parent.trim_end_matches('/'));
        let request = SpawnRequest { program: &engine.program, run_dir: &run_dir, cgroup: Some(&cgroup) };
        client::spawn(&request).context(|| format!("cannot start container {}", short(&id)))
    })
    .await
}

fn abandon(spawned: Spawned) {
    if let Ok(link) = Link::spawned(spawned) {
        link.abandon();
    }
}

/// Gives an endpoint back; a failure is reported and the rest goes on, the next start of the daemon cleans up.
pub(crate) async fn detach_network(engine: &Arc<Engine>, record: &EndpointRecord) {
    if record.mode != Mode::Bridge {
        // Nothing outlives the namespace itself.
        return;
    }
    let (engine, record) = (engine.clone(), record.clone());
    let outcome = blocking(move || {
        release(&engine, &record);
        Ok(())
    });
    if let Err(error) = outcome.await {
        tracing::warn!(error = error.report(), "a network endpoint was not released");
    }
}

fn release(engine: &Engine, record: &EndpointRecord) {
    if let Err(error) = engine.network.detach(record) {
        let error = palan_stdx::error_chain::to_string(&error);
        tracing::warn!(error, endpoint = record.endpoint_id.as_str(), "a network endpoint was not released");
    }
}

/// Puts what the network gave into the details.
fn note_endpoint(details: &mut Details, record: &EndpointRecord, engine: &Engine) {
    details.endpoint_record = serde_json::to_value(record).ok();
    let name = network::name_of(record.mode);
    let endpoint: &mut Endpoint = details.endpoints.entry(name.into()).or_default();
    endpoint.network_id = network::id_of(&engine.daemon_id, name);
    endpoint.endpoint_id = record.endpoint_id.as_str().into();
    if let Some(bridge) = &record.bridge {
        endpoint.gateway = bridge.gateway.to_string();
        endpoint.ip_address = bridge.address.to_string();
        endpoint.ip_prefix_len = bridge.prefix;
        endpoint.mac_address = bridge.mac.to_string();
        for port in &bridge.ports {
            let key = format!("{}/{}", port.container_port, port.protocol);
            let binding =
                PortBinding { host_ip: port.host_address.to_string(), host_port: port.host_port.to_string() };
            details.ports.entry(key).or_default().get_or_insert_default().push(binding);
        }
        for port in &details.config.exposed_ports {
            details.ports.entry(port.clone()).or_default();
        }
    }
}

/// Takes out what only a running container has.
pub(super) fn forget_endpoint(details: &mut Details) {
    details.endpoint_record = None;
    details.ports.clear();
    for endpoint in details.endpoints.values_mut() {
        *endpoint = Endpoint {
            settings: std::mem::take(&mut endpoint.settings),
            network_id: std::mem::take(&mut endpoint.network_id),
            ..Endpoint::default()
        };
    }
}

fn start_events(details: &Details) -> Vec<Event> {
    let mounts = volume_events(details, "mount");
    mounts.chain(network_events(details, "connect")).collect()
}

/// The events of a run's end beside `die`.
pub(super) fn end_events(details: &Details) -> Vec<Event> {
    network_events(details, "disconnect").chain(volume_events(details, "unmount")).collect()
}

fn network_events<'a>(details: &'a Details, action: &'a str) -> impl Iterator<Item = Event> + 'a {
    details.endpoints.iter().filter(|(_, endpoint)| !endpoint.endpoint_id.is_empty()).map(
        move |(name, endpoint)| {
            let kind = network::driver_of(name);
            let attributes = [("container", details.id.as_str()), ("name", name), ("type", kind)];
            Event {
                time: jiff::Timestamp::now(),
                kind: ObjectKind::Network,
                action: action.into(),
                actor: endpoint.network_id.clone(),
                attributes: attributes.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            }
        },
    )
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

fn start_error(failure: &Failure) -> Error {
    let class = match failure.kind {
        FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::Invalid => Class::InvalidParameter,
        _ => Class::System,
    };
    Error::new(class, start_failure_text(&failure.message))
}
