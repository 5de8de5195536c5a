//! The builder's `Runner`: a step is a container without a row.
//!
//! 1. Details are made as for a container, with the step's directories, and a new layer as the overlay's upper directory.
//! 2. Network and supervisor come at the same time; the supervisor gets the specification and one end of a socket pair as an
//!    attached client, from which the output is read.
//! 3. The first process ends, and with it its PID namespace; or the build is cancelled, and it is killed.
//! 4. The supervisor closes its connection when nothing is left of the container. Only then is the upper directory looked at.
//! 5. What the mounts needed is taken away, and the upper directory becomes a layer.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palan_builder::backend::{Command, Runner, Snapshot, StepError, Stream};
use palan_builder::graph::Run;
use palan_dockerfile::ast::{Network, Security};
use palan_supervisor::client;
use palan_supervisor::journal::Event as JournalEvent;
use palan_supervisor::protocol::{self, Bytes, Framing, Message, Request, RootfsConfig};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::layers::{BuildLayers, inherit};
use super::mounts::{self, CacheMounts, Making, Mounts, Placeholders};
use super::request::{BuildClient, StepSettings};
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
}

/// Directories of a step, which go with it.
struct Directories {
    files: PathBuf,
    run: PathBuf,
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
        let base = match command.base.layers.is_empty() {
            true => None,
            false => Some(self.layers.view(command.base)?),
        };
        let mut layer = self.layers.store.new_layer().map_err(StepError::other)?;
        inherit(base.as_ref(), layer.root())?;
        let id = identifier::new_id();
        let directories =
            Directories { files: self.engine.container_dir(&id), run: self.engine.run_dir(&id) };
        palan_stdx::fs::create_dir(&directories.files, 0o710).map_err(StepError::other)?;
        let making = Making {
            layers: self.layers,
            client: &**self.client,
            caches: self.caches,
            directory: &directories.files,
            inputs: command.inputs,
            cancel: command.cancel,
        };
        let mounts = making.mounts(run)?;
        let overlay = OverlayDirs {
            lowers: texts(&self.layers.directories(command.base)?),
            upper: layer.path().to_string_lossy().into_owned(),
            work: layer.work().map_err(StepError::other)?.to_string_lossy().into_owned(),
        };
        let env = [&run.env[..], command.hidden_env, &mounts.env].concat();
        let details = self.details(&id, run, env, overlay, &directories).map_err(report)?;
        let prepared = self.prepare(&details, &mounts).map_err(report)?;
        let agents = Agents::listen(&directories.files, &mounts.agents, self.client, &self.runtime)?;
        let placeholders = Placeholders::look(base.as_ref(), layer.root(), &mounts.targets)?;
        let code = self.runtime.block_on(self.execute(details, prepared, command, output));
        drop(agents);
        let code = code?;
        drop((mounts, directories));
        if code != 0 {
            let text = run.args.join(" ");
            return Err(StepError::ExitCode { command: text, code: u32::try_from(code).unwrap_or(255) });
        }
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
struct Prepared {
    config: OwnedFd,
    seccomp: Option<OwnedFd>,
}

impl BuildRunner<'_> {
    fn details(
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

    fn prepare(&self, details: &Details, mounts: &Mounts) -> Result<Prepared> {
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
            open_stdin: false,
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
    async fn execute(
        &self,
        details: Details,
        prepared: Prepared,
        command: &Command<'_>,
        output: &dyn Fn(Stream, &[u8]),
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
            Ok(link) => self.follow(link, attached, prepared, command, output).await,
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
        command: &Command<'_>,
        output: &dyn Fn(Stream, &[u8]),
    ) -> Result<i32, StepError> {
        if attached.resolver.is_some() {
            self.engine.write_resolver_config(&attached.details).map_err(report)?;
        }
        let (ours, theirs) = UnixStream::pair().map_err(StepError::other)?;
        let mut descriptors = vec![prepared.config];
        let request = Request::Start {
            seccomp: prepared.seccomp.is_some(),
            network_namespace: attached.netns.is_some(),
            joins: Vec::new(),
            shared_mounts: false,
            checkpoint: None,
            resolver: attached.resolver.is_some(),
            attach: vec![protocol::AttachOptions {
                stdout: true,
                stderr: true,
                framing: Framing::Multiplexed,
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
        ours.set_nonblocking(true).map_err(StepError::other)?;
        let ours = crate::reactor::register(ours, tokio::io::Interest::READABLE).map_err(StepError::other)?;
        let stop = Arc::new(Notify::new());
        let told = Arc::clone(&stop);
        let _watch = command.cancel.watch(move || told.notify_one());
        let mut frames = Frames::default();
        let mut is_stopped = false;
        let mut is_open = true;
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
                more = read(&ours, &mut frames, output), if is_open => {
                    is_open = more.map_err(StepError::other)?;
                }
                message = link.receive() => match message {
                    Ok(Message::Reply { result: Err(failure), .. }) if exit.is_none() && !is_stopped => {
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
            is_open = read(&ours, &mut frames, output).await.map_err(StepError::other)?;
        }
        link.linger();
        match exit {
            _ if is_stopped => Err(StepError::Cancelled),
            Some(code) => Ok(code),
            None => Err(StepError::other("the supervisor of the step ended before the step did")),
        }
    }
}

/// Reads what there is; false at the end.
async fn read(
    socket: &tokio::io::unix::AsyncFd<UnixStream>,
    frames: &mut Frames,
    output: &dyn Fn(Stream, &[u8]),
) -> io::Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
            Err(_) => {}
            Ok(Ok(0)) => return Ok(false),
            Ok(Ok(length)) => {
                frames.take(&buffer[..length], output);
                return Ok(true);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// Takes the supervisor's frames apart: stream, three zeros, length, bytes.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    left: usize,
    is_error: bool,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], output: &dyn Fn(Stream, &[u8])) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (now, later) = bytes.split_at(self.left.min(bytes.len()));
                output(if self.is_error { Stream::Stderr } else { Stream::Stdout }, now);
                self.left -= now.len();
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at((8 - self.header.len()).min(bytes.len()));
            self.header.extend_from_slice(now);
            bytes = later;
            if let [stream, _, _, _, length @ ..] = &self.header[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.is_error = *stream == 2;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.header.clear();
            }
        }
    }
}

fn start_failed(failure: &protocol::Failure) -> StepError {
    StepError::other(format!("failed to run the command: {}", failure.message))
}

fn report(error: Error) -> StepError {
    StepError::other(error.report())
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn output_is_told_by_stream_however_it_is_cut() {
        let bytes = [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"out", &[2, 0, 0, 0, 0, 0, 0, 2], b"er"].concat();
        for size in 1..=bytes.len() {
            let heard = RefCell::new((String::new(), String::new()));
            let mut frames = Frames::default();
            for piece in bytes.chunks(size) {
                frames.take(piece, &|stream, bytes| {
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    match stream {
                        Stream::Stdout => heard.borrow_mut().0.push_str(&text),
                        Stream::Stderr => heard.borrow_mut().1.push_str(&text),
                    }
                });
            }
            assert_eq!(heard.into_inner(), ("out".to_owned(), "er".to_owned()), "{size}");
        }
    }
}
