//! The builder's `Runner`: a step is a container without a row.
//!
//! 1. Details are made as for a container, with the step's directories, and a new layer as the overlay's upper directory.
//! 2. Network and supervisor come at the same time; the supervisor gets the specification and one end of a socket pair as an
//!    attached client, from which the output is read.
//! 3. The first process ends, and with it its PID namespace; or the build is cancelled, and it is killed.
//! 4. The supervisor closes its connection when nothing is left of the container. Only then is the upper directory looked at.
//! 5. What the mounts needed is taken away, and the upper directory becomes a layer.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palan_builder::backend::{Command, Runner, Snapshot, StepError, Stream};
use palan_builder::cancel::Cancel;
use palan_builder::graph::Run;
use palan_dockerfile::ast::{Network, Security};
use palan_store::NewLayer;
use palan_supervisor::client;
use palan_supervisor::journal::Event as JournalEvent;
use palan_supervisor::protocol::{self, Bytes, Framing, Message, Request, RootfsConfig};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::layers::{BuildLayers, inherit};
use super::mounts::{self, CacheMounts, Making, Mounts, Placeholders};
use super::output::Reading;
use super::request::{BuildClient, StepSettings, Terminal};
use super::shell::{Failed, Kept};
use super::ssh::Agents;
use crate::container::create::{cgroup_path, complete_host, write_files};
use crate::container::link::Link;
use crate::container::start::{abandon, attach_network, detach_network, spawn_supervisor};
use crate::container::{Details, OverlayDirs, oci, security};
use crate::engine::Engine;
use crate::error::Context as _;
use crate::network::endpoints;
use crate::spec::{Config, ContainerSpec, HostConfig};
use crate::{Error, Result, identifier};

/// What steps call their host.
const HOSTNAME: &str = "buildkitsandbox";

/// Runs the steps of one build.
pub(super) struct BuildRunner<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) layers: &'a BuildLayers<'a>,
    pub(super) client: &'a Arc<dyn BuildClient>,
    pub(super) caches: &'a Arc<CacheMounts>,
    pub(super) settings: &'a StepSettings,
    pub(super) runtime: Handle,
    /// What is left of the command that failed first.
    pub(super) failed: &'a Kept,
}

/// Directories of a step, which go with it.
pub(super) struct Directories {
    pub(super) files: PathBuf,
    run: PathBuf,
}

impl Directories {
    pub(super) fn new(engine: &Engine, id: &str) -> Result<Self, StepError> {
        let directories = Self { files: engine.container_dir(id), run: engine.run_dir(id) };
        palan_stdx::fs::create_dir(&directories.files, 0o710).map_err(StepError::other)?;
        Ok(directories)
    }
}

/// What a process is connected to.
pub(super) enum Streams<'a> {
    /// Its output is passed on.
    Output(&'a dyn Fn(Stream, &[u8])),
    /// A client's terminal.
    Terminal(Terminal),
}

impl Drop for Directories {
    fn drop(&mut self) {
        for path in [&self.files, &self.run] {
            if let Err(error) = palan_linux::path::remove_tree(path) {
                tracing::warn!(%error, "what a build's step needed stays until the next start");
            }
        }
    }
}

impl Runner for BuildRunner<'_> {
    fn run(&self, command: &Command<'_>, output: &dyn Fn(Stream, &[u8])) -> Result<Snapshot, StepError> {
        let run = command.run;
        super::emulation::check(&run.platform).map_err(report)?;
        let base = match command.base.layers.is_empty() {
            true => None,
            false => Some(self.layers.view(command.base)?),
        };
        let mut layer = self.layers.store.new_layer().map_err(StepError::other)?;
        inherit(base.as_ref(), layer.root())?;
        let id = identifier::new_id();
        let directories = Directories::new(self.engine, &id)?;
        let making = Making {
            layers: self.layers,
            client: &**self.client,
            caches: self.caches,
            directory: &directories.files,
            inputs: command.inputs,
            cancel: command.cancel,
        };
        let mounts = making.mounts(run)?;
        let overlay = self.overlay(command.base, &mut layer)?;
        let env = [&run.env[..], command.hidden_env, &mounts.env].concat();
        let details = self.details(&id, run, env.clone(), overlay, &directories).map_err(report)?;
        let prepared = self.prepare(&details, &mounts).map_err(report)?;
        let agents = Agents::listen(&directories.files, &mounts.agents, self.client, &self.runtime)?;
        let placeholders = Placeholders::look(base.as_ref(), layer.root(), &mounts.targets)?;
        let streams = Streams::Output(output);
        let code = self.runtime.block_on(self.execute(details, prepared, command.cancel, streams));
        drop(agents);
        let code = code?;
        if code != 0 {
            let (text, code) = (run.args.join(" "), u32::try_from(code).unwrap_or(255));
            if self.client.wants_shell() {
                let base = command.base.clone();
                let (run, directory) = (run.clone(), directories);
                self.failed.keep(Failed { code, run, env, base, layer, mounts, directory });
            }
            return Err(StepError::ExitCode { command: text, code });
        }
        drop((mounts, directories));
        placeholders.remove(layer.root(), base.as_ref());
        let empty;
        let below = match &base {
            Some(base) => base,
            None => {
                empty = self.layers.view(&Snapshot::default())?;
                &empty
            }
        };
        self.layers.keep(command.base, layer, Some(below))
    }
}

/// Refuses what the build was not allowed to do. Also asked before anything is done, so that a result of a build that was allowed is
/// no way around it.
pub(super) fn allowed(run: &Run, settings: &StepSettings) -> Result<()> {
    if run.network == Network::Host && !settings.allow_host_network && settings.network != "host" {
        return Err(Error::invalid(
            "network.host is not allowed: RUN --network=host needs a build with --allow network.host",
        ));
    }
    if run.security == Security::Insecure && !settings.allow_insecure {
        return Err(Error::invalid(
            "security.insecure is not allowed: RUN --security=insecure needs a build with --allow security.insecure",
        ));
    }
    match run.devices.iter().find(|(_, required)| *required) {
        Some((name, _)) => {
            Err(Error::invalid(format!("RUN --device={name} is not supported by this builder")))
        }
        None => Ok(()),
    }
}

/// What a start needs.
pub(super) struct Prepared {
    config: OwnedFd,
    seccomp: Option<OwnedFd>,
}

impl BuildRunner<'_> {
    pub(super) fn overlay(&self, base: &Snapshot, layer: &mut NewLayer) -> Result<OverlayDirs, StepError> {
        Ok(OverlayDirs {
            lowers: texts(&self.layers.directories(base)?),
            upper: layer.path().to_string_lossy().into_owned(),
            work: layer.work().map_err(StepError::other)?.to_string_lossy().into_owned(),
        })
    }

    pub(super) fn details(
        &self,
        id: &str,
        run: &Run,
        env: Vec<String>,
        overlay: OverlayDirs,
        directories: &Directories,
    ) -> Result<Details> {
        let (engine, settings) = (self.engine, self.settings);
        allowed(run, settings)?;
        let config = Config {
            hostname: HOSTNAME.to_owned(),
            user: run.user.clone(),
            env,
            working_dir: run.cwd.clone(),
            ..Config::default()
        };
        let network_mode = match run.network {
            Network::Default => settings.network.clone(),
            Network::None => "none".to_owned(),
            Network::Host => "host".to_owned(),
        };
        let host = HostConfig {
            network_mode,
            extra_hosts: settings.extra_hosts.clone(),
            shm_size: settings.shm_size,
            resources: settings.resources.clone(),
            privileged: run.security == Security::Insecure,
            // Process 1 is the command itself: when it ends, all do.
            init: Some(false),
            ..HostConfig::default()
        };
        let spec = ContainerSpec { config: config.clone(), host, ..ContainerSpec::default() };
        let mut host = complete_host(engine, &spec)?;
        host.log.driver = "none".to_owned();
        host.log.options.clear();
        let endpoints = endpoints::of_new_container(engine, &mut host, &spec.endpoints)?;
        let path_of = |file: &str| directories.files.join(file).to_string_lossy().into_owned();
        let parent = match host.resources.cgroup_parent.as_str() {
            "" => &engine.config.cgroup_parent,
            parent => parent,
        };
        let details = Details {
            id: id.to_owned(),
            name: id.to_owned(),
            path: run.args.first().cloned().unwrap_or_default(),
            args: run.args.iter().skip(1).cloned().collect(),
            endpoints,
            resolv_conf_path: path_of("resolv.conf"),
            hostname_path: path_of("hostname"),
            hosts_path: path_of("hosts"),
            cgroup_path: cgroup_path(parent, id),
            overlay,
            config,
            host,
            ..Details::default()
        };
        write_files(engine, &details)?;
        palan_stdx::fs::write(Path::new(&details.hosts_path), "")
            .context(|| "cannot write the hosts file".into())?;
        Ok(details)
    }

    pub(super) fn prepare(&self, details: &Details, mounts: &Mounts) -> Result<Prepared> {
        let engine = self.engine;
        let options = security::options(&details.host.security_opt, &engine.host, &engine.config)?;
        let runtime = engine.config.runtimes.for_supervisor(&details.host.runtime, &details.id)?;
        let mut spec = oci::spec(details, &options)?;
        let sources = mounts::sources(&mounts.list, spec.mounts.len());
        spec.mounts.extend(mounts.list.iter().map(|(mount, _)| mount.clone()));
        let mut seccomp = None;
        if runtime.is_some() {
            spec.linux.get_or_insert_default().seccomp = engine.seccomp.rules(&details.host, &options)?;
        } else {
            seccomp = engine.seccomp.descriptor(&details.host, &options)?;
        }
        let (user, groups) = oci::user_names(&details.config.user, &details.host);
        let lowers = details.overlay.lowers.iter().map(PathBuf::from);
        let config = protocol::Config {
            version: protocol::VERSION,
            spec,
            rootfs: RootfsConfig::Overlay {
                lowers: lowers.chain([crate::engine::base_layer(&engine.config)]).collect(),
                upper: PathBuf::from(&details.overlay.upper),
                work: PathBuf::from(&details.overlay.work),
                volatile: true,
            },
            user,
            groups,
            create_cwd: true,
            init: false,
            log: protocol::LogConfig::None,
            open_stdin: details.config.open_stdin,
            stdin_once: false,
            stop_signal: 9,
            stop_timeout_ms: 0,
            journal_after: 0,
            runtime,
            sources,
            health: None,
            restart: protocol::RestartConfig::default(),
        };
        let config = client::config_file(&config).context(|| "cannot hand over the configuration".into())?;
        Ok(Prepared { config, seccomp })
    }

    /// Runs the step to its end; its exit code.
    pub(super) async fn execute(
        &self,
        details: Details,
        prepared: Prepared,
        cancel: &Cancel,
        streams: Streams<'_>,
    ) -> Result<i32, StepError> {
        let details = Arc::new(details);
        let (attached, spawned) =
            tokio::join!(attach_network(self.engine, &details), spawn_supervisor(self.engine, &details));
        let (attached, spawned) = match (attached, spawned) {
            (Ok(attached), Ok(spawned)) => (attached, spawned),
            (Ok(attached), Err(error)) => {
                detach_network(self.engine, &attached.details).await;
                return Err(report(error));
            }
            (Err(error), Ok(spawned)) => {
                abandon(spawned);
                return Err(report(error));
            }
            (Err(error), Err(_)) => return Err(report(error)),
        };
        let with_network = attached.details.clone();
        let outcome = match Link::spawned(spawned) {
            Ok(link) => self.follow(link, attached, prepared, cancel, streams).await,
            Err(error) => Err(StepError::other(error)),
        };
        detach_network(self.engine, &with_network).await;
        outcome
    }

    async fn follow(
        &self,
        mut link: Link,
        attached: crate::container::start::Attached,
        prepared: Prepared,
        cancel: &Cancel,
        streams: Streams<'_>,
    ) -> Result<i32, StepError> {
        if attached.resolver.is_some() {
            self.engine.write_resolver_config(&attached.details).map_err(report)?;
        }
        let (output, theirs, mut size) = match streams {
            Streams::Output(output) => {
                let (ours, theirs) = UnixStream::pair().map_err(StepError::other)?;
                (Some((output, ours)), theirs, None)
            }
            Streams::Terminal(Terminal { socket, size }) => (None, socket, Some(size)),
        };
        let mut descriptors = vec![prepared.config];
        let request = Request::Start {
            seccomp: prepared.seccomp.is_some(),
            network_namespace: attached.netns.is_some(),
            joins: Vec::new(),
            shared_mounts: false,
            checkpoint: None,
            resolver: attached.resolver.is_some(),
            attach: vec![protocol::AttachOptions {
                stdin: size.is_some(),
                stdout: true,
                stderr: true,
                framing: if size.is_some() { Framing::Raw } else { Framing::Multiplexed },
                detach_keys: Bytes::default(),
                ..protocol::AttachOptions::default()
            }],
            waits: Vec::new(),
        };
        descriptors.extend(prepared.seccomp);
        descriptors.extend(attached.netns);
        if let Some(sockets) = attached.resolver {
            descriptors.extend([sockets.udp, sockets.tcp]);
        }
        theirs.set_nonblocking(true).map_err(StepError::other)?;
        descriptors.push(theirs.into());
        let lost = |error: client::ClientError| {
            StepError::other(format!(
                "the supervisor of the step was lost: {}",
                palan_stdx::error_chain::to_string(&error)
            ))
        };
        let hello = Request::Hello { version: protocol::VERSION, after_seq: 0 };
        link.send(hello, Vec::new()).map_err(lost)?;
        link.send(request, descriptors).map_err(lost)?;
        let mut output = output
            .map(|(output, socket)| Reading::new(output, socket))
            .transpose()
            .map_err(StepError::other)?;
        let stop = Arc::new(Notify::new());
        let told = Arc::clone(&stop);
        let _watch = cancel.watch(move || told.notify_one());
        let mut is_stopped = false;
        let mut is_open = output.is_some();
        let mut is_started = false;
        let mut exit = None;
        loop {
            tokio::select! {
                biased;
                () = stop.notified(), if !is_stopped => {
                    is_stopped = true;
                    // It may not run yet, or no more.
                    let kill = Request::Stop { signal: 9, timeout_ms: Some(0) };
                    link.send(kill, Vec::new()).map_err(lost)?;
                }
                more = Reading::next(&mut output), if is_open => {
                    is_open = more.map_err(StepError::other)?;
                }
                changed = resized(&mut size), if is_started && !is_stopped => {
                    let request = match changed {
                        Some((rows, columns)) => Request::Resize(protocol::TerminalSize { rows, columns }),
                        // Nobody is there any more.
                        None => {
                            is_stopped = true;
                            Request::Stop { signal: 9, timeout_ms: Some(0) }
                        }
                    };
                    link.send(request, Vec::new()).map_err(lost)?;
                }
                message = link.receive() => match message {
                    Ok(Message::Reply { result: Ok(protocol::Reply::Started { .. }), .. }) => is_started = true,
                    // A terminal that ends just now has no size any more.
                    Ok(Message::Reply { result: Err(failure), .. })
                        if exit.is_none() && !is_stopped && !is_started =>
                    {
                        link.linger();
                        return Err(start_failed(&failure));
                    }
                    Ok(Message::Journal(entry)) => match entry.event {
                        JournalEvent::Exit { code, .. } => exit = Some(code),
                        JournalEvent::StartFailed { kind, message } if !is_stopped => {
                            link.linger();
                            return Err(start_failed(&protocol::Failure { kind, message }));
                        }
                        _ => {}
                    },
                    Ok(_) => {}
                    Err(client::ClientError::Closed) => break,
                    Err(error) => return Err(lost(error)),
                },
            }
        }
        while is_open {
            is_open = Reading::next(&mut output).await.map_err(StepError::other)?;
        }
        link.linger();
        match exit {
            _ if is_stopped => Err(StepError::Cancelled),
            Some(code) => Ok(code),
            None => Err(StepError::other("the supervisor of the step ended before the step did")),
        }
    }
}

/// The next size of a terminal; none: it is gone.
async fn resized(size: &mut Option<tokio::sync::watch::Receiver<(u16, u16)>>) -> Option<(u16, u16)> {
    let Some(size) = size else { return std::future::pending().await };
    size.changed().await.ok()?;
    Some(*size.borrow_and_update())
}

fn start_failed(failure: &protocol::Failure) -> StepError {
    StepError::other(format!("failed to run the command: {}", failure.message))
}

pub(super) fn report(error: Error) -> StepError {
    StepError::other(error.report())
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}
