//! The start of a run: the first, which the daemon asks for, and those that follow by the restart policy.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use palan_linux::event::Interest;
use palan_oci::runtime_spec::{Namespace, NamespaceKind, Spec};
use palan_runtime::seccomp::Program;

use crate::health::Health;
use crate::journal::Event;
use crate::launch::{self, Checkpoint, Created, Given};
use crate::log::Log;
use crate::oom::OomWatch;
use crate::protocol::{
    AttachOptions, Config, CriuProgram, Failure, FailureKind, Reply, VERSION, WaitOptions,
};
use crate::requests::number;
use crate::resolver::Resolver;
use crate::serve::{Life, Running, Supervisor};
use crate::session::InputEnd;
use crate::watch::{INIT, Token};

/// The largest configuration; the daemon's own limits are far below.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// Which descriptors come with a start.
pub(crate) struct StartFlags {
    pub(crate) seccomp: bool,
    pub(crate) network_namespace: bool,
    pub(crate) joins: Vec<NamespaceKind>,
    pub(crate) shared_mounts: bool,
    pub(crate) checkpoint: Option<CriuProgram>,
    pub(crate) resolver: bool,
}

/// Descriptors that came with a request, taken in their order.
pub(crate) struct Descriptors(VecDeque<OwnedFd>);

impl Descriptors {
    pub(crate) fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into())
    }

    pub(crate) fn take(&mut self, what: &str) -> Result<OwnedFd, Failure> {
        self.0
            .pop_front()
            .ok_or_else(|| Failure::new(FailureKind::Invalid, format!("the request lacks {what}")))
    }

    pub(crate) fn take_if(&mut self, wanted: bool, what: &str) -> Result<Option<OwnedFd>, Failure> {
        wanted.then(|| self.take(what)).transpose()
    }
}

/// What a run is made from.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The [`Config`] as JSON.
    pub(crate) config: Option<File>,
    /// The seccomp program.
    pub(crate) seccomp: Option<File>,
    /// Where it takes place. `None`: where the run before did.
    pub(crate) namespaces: Option<Namespaces>,
}

/// Namespaces that came with the start.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// The container's network namespace.
    network: Option<OwnedFd>,
    /// Those of other containers, which take the place of new ones of their kinds.
    joined: Vec<(NamespaceKind, OwnedFd)>,
    /// The mount namespace of the container whose mounts are shared.
    mounts: Option<OwnedFd>,
}

impl Namespaces {
    fn take(flags: &StartFlags, descriptors: &mut Descriptors) -> Result<Self, Failure> {
        let network = descriptors.take_if(flags.network_namespace, "the network namespace")?;
        let joins = flags.joins.iter();
        let joined = joins.map(|kind| Ok((*kind, descriptors.take("a namespace of another container")?)));
        let joined = joined.collect::<Result<_, Failure>>()?;
        let mounts = descriptors.take_if(flags.shared_mounts, "a mount namespace")?;
        Ok(Self { network, joined, mounts })
    }

    /// Names the joined ones in the specification, by paths that live as long as their descriptors, and gives copies of the
    /// others.
    fn give(&self, spec: &mut Spec) -> Result<Given, Failure> {
        for (kind, namespace) in &self.joined {
            let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
            let namespaces = &mut spec.linux.get_or_insert_default().namespaces;
            namespaces.retain(|namespace| namespace.kind != *kind);
            namespaces.push(Namespace { kind: *kind, path });
        }
        let copy = |namespace: &Option<OwnedFd>| namespace.as_ref().map(OwnedFd::try_clone).transpose();
        let failed = |error| Failure::cannot("duplicate a descriptor", &error);
        Ok(Given {
            network_namespace: copy(&self.network).map_err(failed)?,
            shared_mounts: copy(&self.mounts).map_err(failed)?,
        })
    }
}

impl Origin {
    /// Keeps only what no later configuration brings: the namespaces in which processes are.
    pub(crate) fn let_go(&mut self) {
        (self.config, self.seccomp) = (None, None);
        if let Some(namespaces) = &mut self.namespaces {
            namespaces.mounts = None;
        }
    }

    fn config(&self) -> Result<Config, Failure> {
        let missing = || Failure::new(FailureKind::Invalid, "the request lacks the configuration");
        read_config(self.config.as_ref().ok_or_else(missing)?)
    }

    fn seccomp(&self) -> Result<Option<Program>, Failure> {
        self.seccomp.as_ref().map(read_program).transpose()
    }

    /// See [`Namespaces::give`].
    pub(crate) fn namespaces(&self, spec: &mut Spec) -> Result<Given, Failure> {
        self.namespaces.as_ref().map_or_else(|| Ok(Given::default()), |namespaces| namespaces.give(spec))
    }
}

impl Supervisor {
    /// The first run.
    pub(crate) fn start(
        &mut self,
        flags: StartFlags,
        attach: &[AttachOptions],
        waits: Vec<WaitOptions>,
        descriptors: Descriptors,
    ) -> Result<Reply, Failure> {
        if !matches!(self.life, Life::Waiting) {
            return Err(Failure::new(FailureKind::WrongState, "the container has been started already"));
        }
        let started = self.try_start(flags, attach, waits, descriptors);
        match &started {
            Ok(Reply::Started { pid, .. }) => self.record(Event::Start { pid: *pid }),
            Ok(_) => {}
            Err(failure) => {
                self.abandon_start();
                self.record(Event::StartFailed { kind: failure.kind, message: failure.message.clone() });
            }
        }
        started
    }

    fn try_start(
        &mut self,
        flags: StartFlags,
        attach: &[AttachOptions],
        waits: Vec<WaitOptions>,
        mut descriptors: Descriptors,
    ) -> Result<Reply, Failure> {
        let origin = Origin {
            config: Some(descriptors.take("the configuration")?.into()),
            seccomp: descriptors.take_if(flags.seccomp, "the seccomp program")?.map(File::from),
            namespaces: Some(Namespaces::take(&flags, &mut descriptors)?),
        };
        let checkpoint = flags.checkpoint.clone().map(|criu| {
            let images = descriptors.take("the directory of the checkpoint")?;
            Ok::<_, Failure>(Checkpoint { images, criu })
        });
        let checkpoint = checkpoint.transpose()?;
        let mut config = origin.config()?;
        let seccomp = origin.seccomp()?;
        let given = origin.namespaces(&mut config.spec)?;
        self.journal.continue_after(config.journal_after);
        self.restarts.adopt(&config, origin);
        if flags.resolver {
            self.serve_names(&mut descriptors)?;
        }
        self.log = Log::open(config.log.clone()).map_err(|error| Failure {
            kind: if error.kind() == std::io::ErrorKind::StorageFull {
                FailureKind::NoSpace
            } else {
                FailureKind::Other
            },
            message: palan_stdx::error_chain::to_string(&error),
        })?;
        if config.runtime.is_some() {
            self.adopt_orphans()?;
        }
        let created = self.create(&config, seccomp.as_ref(), given, checkpoint)?;
        for options in attach {
            let client = descriptors.take("a client's connection")?;
            self.attach_client(client, options)?;
        }
        for options in waits {
            let connection = descriptors.take("a waiting connection")?;
            self.hold_wait(connection, options);
        }
        self.execute(created, config, seccomp)
    }

    /// The run that follows another by the restart policy. On failure nothing of it is left.
    pub(crate) fn try_start_again(&mut self) -> Result<i32, Failure> {
        let origin = self.restarts.origin();
        let mut config = origin.config()?;
        let seccomp = origin.seccomp()?;
        let given = origin.namespaces(&mut config.spec)?;
        self.stdio.renew();
        let created = self.create(&config, seccomp.as_ref(), given, None)?;
        match self.execute(created, config, seccomp)? {
            Reply::Started { pid, .. } => Ok(pid),
            _ => Err(Failure::new(FailureKind::Other, "the start was not one")),
        }
    }

    /// The process before its program is executed, or as a checkpoint has it, with its stdio watched.
    fn create(
        &mut self,
        config: &Config,
        seccomp: Option<&Program>,
        given: Given,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Box<dyn Created>, Failure> {
        let (created, ends) = match checkpoint {
            None => launch::create(config, &self.run_dir, seccomp, given)?,
            Some(checkpoint) => launch::restore(config, &self.run_dir, given, &checkpoint)?,
        };
        let terminal = ends.stdout.is_some() && ends.stderr.is_none();
        let input_end = if config.stdin_once && !terminal { InputEnd::Closes } else { InputEnd::Detaches };
        self.stdio.connect(ends, terminal, input_end)?;
        Ok(created)
    }

    fn execute(
        &mut self,
        created: Box<dyn Created>,
        mut config: Config,
        seccomp: Option<Program>,
    ) -> Result<Reply, Failure> {
        let stop_signal = number(config.stop_signal)?;
        self.epoll.add(created.pidfd(), Token::Process(INIT).encode(), Interest::READ)?;
        let container = created.start()?;
        let reply = Reply::Started {
            pid: container.pid(),
            time_ns: crate::log::timestamp::now(),
            warnings: container.warnings(),
        };
        let now = Instant::now();
        self.life = Life::Running(Box::new(Running {
            container,
            paused: false,
            kill_at: None,
            stop_signal,
            stop_timeout: Duration::from_millis(config.stop_timeout_ms),
            oom: OomWatch::new(now),
            started: now,
            restart_asked: false,
        }));
        let health = config.health.take();
        self.health = health.map(|health| Box::new(Health::new(health, seccomp, now)));
        self.restarts.let_go_unless_wanted();
        self.idle_work = true;
        Ok(reply)
    }

    /// Begins to answer on the resolver's sockets.
    pub(crate) fn serve_names(&mut self, descriptors: &mut Descriptors) -> Result<(), Failure> {
        let udp = descriptors.take("the resolver's UDP socket")?;
        let tcp = descriptors.take("the resolver's TCP socket")?;
        // The old one's descriptors go first, as the new ones have the same tokens.
        self.resolver = None;
        let resolver = Resolver::new(&self.epoll, &self.run_dir, udp, tcp)
            .map_err(|errno| Failure::cannot("watch the resolver's sockets", &std::io::Error::from(errno)))?;
        self.resolver = Some(Box::new(resolver));
        Ok(())
    }
}

/// Reads a configuration that came as a descriptor.
pub(crate) fn read_config(file: &File) -> Result<Config, Failure> {
    let bytes = read_all(file).map_err(|error| Failure::cannot("read the configuration", &error))?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(FailureKind::Invalid, format!("cannot understand the configuration: {error}"))
    })?;
    // What a later version has added would be ignored here, and the container not be what was asked for.
    if config.version > VERSION {
        let message =
            format!("the configuration has version {}, this supervisor knows {VERSION}", config.version);
        return Err(Failure::new(FailureKind::Unsupported, message));
    }
    Ok(config)
}

/// The same for a seccomp program.
pub(crate) fn read_program(file: &File) -> Result<Program, Failure> {
    let bytes = read_all(file).map_err(|error| Failure::cannot("read the seccomp program", &error))?;
    Program::from_bytes(&bytes)
        .map_err(|error| Failure::new(FailureKind::Invalid, palan_stdx::error_chain::to_string(&error)))
}

/// Reads a file by position: the offset is shared with the daemon, which may have handed it to others, too.
fn read_all(file: &File) -> std::io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX_CONFIG {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
