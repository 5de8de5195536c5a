//! `palan daemon`: reads flags and `daemon.json`, opens the sockets, starts the engine, serves, and leaves in order.
//!
//! A flag is a key of `daemon.json` written on the command line, so there is one reader of settings (the engine's). As in
//! Docker, a key that is given in both places is an error: nobody should have to guess which one wins. Only runtimes may be
//! added to those of the file.

mod replace;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palan_engine::handover::Legacy;
use palan_engine::{Engine, EngineConfig, FileConfig, SupervisorSource};
use palan_server::{End, Handed, Handover, Listeners, Protection, TlsFiles};
use palan_stdx::{error_chain, fs};
use serde_json::Value;

use replace::{Control, Predecessor, Successor};

/// Where the settings are read from unless `--config-file` says otherwise.
const SETTINGS: &str = "/etc/palan/daemon.json";
/// The API's socket unless `-H` or `hosts` says otherwise.
const SOCKET: &str = "unix:///run/palan/palan.sock";
/// Where Docker's clients look by themselves.
const DOCKER_SOCKET: &str = "unix:///run/docker.sock";

/// The program that supervisors run: the small ELF that `cargo xtask dist` embedded.
#[cfg(embedded_supervisor)]
fn supervisor_program() -> std::io::Result<SupervisorSource> {
    static PROGRAM: &[u8] = include_bytes!(env!("PALAN_SUPERVISOR_ELF"));
    Ok(SupervisorSource::Embedded(PROGRAM))
}

/// The program that supervisors run: in a development build, this one with another first argument.
#[cfg(not(embedded_supervisor))]
fn supervisor_program() -> std::io::Result<SupervisorSource> {
    Ok(SupervisorSource::File(std::env::current_exe()?))
}

const USAGE: &str = "\
Usage:  palan daemon [OPTIONS]

The container engine. Each option but the first five is a key of daemon.json.

Options:
      --config-file string             Settings file (default \"/etc/palan/daemon.json\")
      --docker-socket                  Listen on /run/docker.sock too
      --replace                        Take the place of the daemon that runs, without a lost request
      --validate                       Check the settings and exit
      --help                           Print usage
      --add-runtime map                Register an OCI runtime (name=path)
      --bip string                     Address and prefix length of the default bridge
      --bridge string                  Name of the default bridge (default \"palan0\")
      --cdi-spec-dir list              CDI specifications (default \"/etc/cdi\", \"/var/run/cdi\")
      --cgroup-parent string           cgroup below which the containers' lie (default \"/palan\")
      --cpu-rt-period int              Period of real-time processes in microseconds
      --cpu-rt-runtime int             Real-time of all containers in each such period
      --data-root string               Images, containers, volumes (default \"/var/lib/palan\")
      --default-cgroupns-mode string   \"private\" or \"host\" (default \"private\")
      --default-ipc-mode string        \"private\" or \"shareable\" (default \"private\")
      --default-runtime string         Runtime of containers that name none (default \"palan\")
  -D, --debug                          Log more
      --dns list                       DNS server for containers
      --dns-opt list                   DNS option for containers
      --dns-search list                DNS search domain for containers
      --firewall-integration string    \"auto\", or \"none\" to leave other tables alone
      --fixed-cidr string              Part of the default bridge's subnet to take addresses from
      --group string                   Group that may use the socket (default \"palan\")
  -H, --host list                      Where to listen (default \"unix:///run/palan/palan.sock\")
      --http-proxy string              Proxy for registries by HTTP (default: HTTP_PROXY)
      --https-proxy string             Proxy for registries by HTTPS (default: HTTPS_PROXY)
      --init                           Run an init in every container
      --insecure-registry list         Registries to be reached without verified TLS
      --label list                     Label of this daemon
      --log-driver string              Default log driver (default \"json-file\")
      --log-opt map                    Default option of the log driver
  -l, --log-level string               debug, info, warn, error (default \"info\")
      --max-concurrent-downloads int   Layers downloaded at once (default 3)
      --max-concurrent-uploads int     Layers uploaded at once (default 5)
      --max-download-attempts int      Attempts for each transfer (default 5)
      --metrics-addr string            Address of the metrics for Prometheus, such as 127.0.0.1:9323
      --mtu int                        MTU of the default bridge (default: the default route's)
      --no-new-privileges              Set no_new_privs in every container
      --no-proxy string                Hosts that no proxy is asked for (default: NO_PROXY)
  -p, --pidfile string                 File for the daemon's process id
      --registry-mirror list           Mirror of Docker Hub
      --run-root string                Sockets and journals (default \"/run/palan\")
      --seccomp-profile string         File with another default profile
      --tls                            Serve TCP with TLS; clients need a certificate unless --tlsverify=false
      --tlscacert string               Authorities of clients' certificates (default \"/etc/palan/ca.pem\")
      --tlscert string                 The daemon's certificate (default \"/etc/palan/cert.pem\")
      --tlskey string                  Its key (default \"/etc/palan/key.pem\")
      --tlsverify                      Serve TCP with TLS, and clients with a certificate of tlscacert only
";

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Switch,
    Number,
    List,
    Map,
    Runtime,
}

/// Flag, short form, key of `daemon.json`, kind of its value.
const FLAGS: &[(&str, Option<char>, &str, Kind)] = &[
    ("add-runtime", None, RUNTIMES, Kind::Runtime),
    ("bip", None, "bip", Kind::Text),
    ("bridge", None, "bridge", Kind::Text),
    ("cdi-spec-dir", None, "cdi-spec-dirs", Kind::List),
    ("cgroup-parent", None, "cgroup-parent", Kind::Text),
    ("cpu-rt-period", None, "cpu-rt-period", Kind::Number),
    ("cpu-rt-runtime", None, "cpu-rt-runtime", Kind::Number),
    ("data-root", None, "data-root", Kind::Text),
    ("debug", Some('D'), "debug", Kind::Switch),
    ("default-cgroupns-mode", None, "default-cgroupns-mode", Kind::Text),
    ("default-ipc-mode", None, "default-ipc-mode", Kind::Text),
    ("default-runtime", None, "default-runtime", Kind::Text),
    ("dns", None, "dns", Kind::List),
    ("dns-opt", None, "dns-opts", Kind::List),
    ("dns-search", None, "dns-search", Kind::List),
    ("exec-root", None, "run-root", Kind::Text),
    ("firewall-integration", None, "firewall-integration", Kind::Text),
    ("fixed-cidr", None, "fixed-cidr", Kind::Text),
    ("group", None, "group", Kind::Text),
    ("host", Some('H'), "hosts", Kind::List),
    ("http-proxy", None, "http-proxy", Kind::Text),
    ("https-proxy", None, "https-proxy", Kind::Text),
    ("init", None, "init", Kind::Switch),
    ("insecure-registry", None, "insecure-registries", Kind::List),
    ("label", None, "labels", Kind::List),
    ("log-driver", None, "log-driver", Kind::Text),
    ("log-level", Some('l'), "log-level", Kind::Text),
    ("log-opt", None, "log-opts", Kind::Map),
    ("max-concurrent-downloads", None, "max-concurrent-downloads", Kind::Number),
    ("max-concurrent-uploads", None, "max-concurrent-uploads", Kind::Number),
    ("max-download-attempts", None, "max-download-attempts", Kind::Number),
    ("metrics-addr", None, "metrics-addr", Kind::Text),
    ("mtu", None, "mtu", Kind::Number),
    ("no-new-privileges", None, "no-new-privileges", Kind::Switch),
    ("no-proxy", None, "no-proxy", Kind::Text),
    ("pidfile", Some('p'), "pidfile", Kind::Text),
    ("registry-mirror", None, "registry-mirrors", Kind::List),
    ("run-root", None, "run-root", Kind::Text),
    ("seccomp-profile", None, "seccomp-profile", Kind::Text),
    ("tls", None, "tls", Kind::Switch),
    ("tlscacert", None, "tlscacert", Kind::Text),
    ("tlscert", None, "tlscert", Kind::Text),
    ("tlskey", None, "tlskey", Kind::Text),
    ("tlsverify", None, "tlsverify", Kind::Switch),
];

/// The one key that may stand in both places: as in Docker, the flag adds to what the file has.
const RUNTIMES: &str = "runtimes";

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Object = serde_json::Map<String, Value>;

/// What the command line asks for.
#[derive(Default)]
struct Arguments {
    config_file: Option<PathBuf>,
    docker_socket: bool,
    replace: bool,
    validate: bool,
    help: bool,
    settings: Object,
}

/// Runs the daemon to its end.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the daemon's command line talks to whoever starts it"
)]
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("palan daemon: {problem}\nSee 'palan daemon --help'.");
            return ExitCode::from(125);
        }
    };
    if arguments.help {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("palan daemon: {}", error_chain::to_string(&*failure));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    // Let go of last of all: the daemon on its other side goes on when it ends.
    let mut predecessor = None;
    // Without a limit each thread would get one. All but the first grow by a page at a time, each with a system call of its own.
    palan_linux::memory::limit_arenas(1);
    let file = read_settings(&arguments)?;
    let supervisor = supervisor_program()?;
    let mut config = EngineConfig::resolve(&file, env!("CARGO_PKG_VERSION"), supervisor)?;
    if let Ok(path) = std::env::var("PATH") {
        config.runtimes.set_search_path(path);
    }
    config.proxies.or_environment(|name| std::env::var(name).ok());
    if arguments.validate {
        writeln!(std::io::stdout(), "configuration OK")?;
        return Ok(());
    }
    init_logging(file.debug.unwrap_or(false), file.log_level.as_deref());
    if let Err(error) = palan_linux::process::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let mut hosts = file.hosts.clone().unwrap_or_default();
    if hosts.is_empty() {
        hosts.push(SOCKET.to_owned());
    }
    if arguments.docker_socket {
        hosts.push(DOCKER_SOCKET.to_owned());
    }
    let protection = protection(&file)?;
    if arguments.replace {
        predecessor = Predecessor::ask(&config)?;
    }
    let old = predecessor.as_mut();
    let (offers, metrics_offers) = old
        .map(|old| (std::mem::take(&mut old.sockets), std::mem::take(&mut old.metrics)))
        .unwrap_or_default();
    let mut listeners = Listeners::with_offers(offers);
    listen(&mut listeners, &hosts, file.group.as_deref(), &protection)?;
    let mut metrics = Listeners::with_offers(metrics_offers);
    if let Some(address) = file.metrics_addr {
        metrics.add_metrics(address)?;
    }
    let replaced = predecessor.as_ref().map(|predecessor| predecessor.pid);
    let pid_file = file.pid_file.as_deref().map(|path| PidFile::create(path, replaced)).transpose()?;
    let mut doors = Doors { listeners, metrics, signals: None, control: None };
    let mut left = Left::default();
    if let Some(predecessor) = &mut predecessor {
        left.connections = std::mem::take(&mut predecessor.connections);
        left.legacy = std::mem::take(&mut predecessor.legacy);
    }
    loop {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .thread_keep_alive(Duration::from_secs(2))
            .thread_stack_size(STACK)
            .enable_all()
            .build()?;
        let Some(mut leaving) = runtime.block_on(serve(&config, &mut doors, left, &mut predecessor))? else {
            return Ok(());
        };
        runtime.shutdown_timeout(RELEASE_PATIENCE);
        match leaving.give(&config, &doors) {
            Ok(()) => {
                tracing::info!(pid = leaving.successor.pid, "another daemon has taken over");
                doors.listeners.leave_files();
                if let Some(pid_file) = pid_file {
                    pid_file.leave();
                }
                return Ok(notify(&format!("MAINPID={}", leaving.successor.pid))?);
            }
            Err(error) => {
                let pid = leaving.successor.pid;
                tracing::error!(pid, %error, "another daemon wanted to take over and could not; this one goes on");
                leaving.successor.refuse("it took its place back");
                // The other one may need a moment to end.
                if !is_free_within(&config, RETURN_PATIENCE) {
                    tracing::warn!(pid, "the other daemon has not ended");
                }
                if let Some(Err(error)) = pid_file.as_ref().map(PidFile::write) {
                    tracing::warn!("{}", error_chain::to_string(&*error));
                }
                left = Left { connections: leaving.connections, legacy: leaving.legacy };
            }
        }
    }
}

/// Without optimisation a start's frames alone have more than the half megabyte that they need with it.
const STACK: usize = if cfg!(debug_assertions) { 4 << 20 } else { 512 << 10 };

/// How long this daemon's last threads may take to let go of what another one needs.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// How long another daemon that could not take over may take to end. Without an end to it there would be no daemon either.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

/// What the daemon listens on.
struct Doors {
    listeners: Listeners,
    metrics: Listeners,
    signals: Option<EndSignals>,
    /// Where other daemons wait that want to replace this one.
    control: Option<OwnedFd>,
}

/// What another daemon has left, or this one before it went on.
#[derive(Default)]
struct Left {
    connections: Vec<Handed>,
    legacy: Legacy,
}

/// What another daemon is to get.
struct Leaving {
    successor: Successor,
    connections: Vec<Handed>,
    legacy: Legacy,
}

impl Leaving {
    fn give(&mut self, config: &EngineConfig, doors: &Doors) -> std::io::Result<()> {
        let is_free = is_free_soon(config);
        self.successor.give(&doors.listeners, &doors.metrics, &self.connections, &self.legacy)?;
        if is_free {
            return self.successor.begins();
        }
        // Neither could this one go on: a client that takes nothing holds what it waits for. It lets go when this process ends.
        tracing::warn!("some work did not end in time and is broken off for another daemon to take over");
        Ok(())
    }
}

/// Waits until nobody has the data root and the run root, but not for long.
fn is_free_soon(config: &EngineConfig) -> bool {
    is_free_within(config, RELEASE_PATIENCE)
}

fn is_free_within(config: &EngineConfig, patience: Duration) -> bool {
    let begun = Instant::now();
    while !Engine::is_free(config) {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Serves until the daemon ends, or another one is to take its place.
async fn serve(
    config: &EngineConfig,
    doors: &mut Doors,
    left: Left,
    predecessor: &mut Option<Predecessor>,
) -> Result<Option<Leaving>, Failure> {
    if predecessor.is_some() {
        // If it could not let go of everything, it ends now.
        is_free_soon(config);
    }
    let engine = Engine::start_after(config.clone(), left.legacy).await?;
    let control = Control::open(config)?;
    doors.control = Some(control.queue()?);
    if let Some(replaced) = predecessor {
        replaced.succeed()?;
        *predecessor = None;
        doors.listeners.own_offers();
        doors.metrics.own_offers();
    }
    let mut signals = match &doors.signals {
        Some(signals) => signals.clone(),
        None => doors.signals.insert(EndSignals::listen()?).clone(),
    };
    let (end, ended) = tokio::sync::watch::channel(End::None);
    let handover = Handover::new();
    tracing::info!("the daemon is ready");
    notify("READY=1")?;
    let metrics = if doors.metrics.is_empty() { None } else { Some(&mut doors.metrics) };
    let serving = palan_server::serve(
        Arc::clone(&engine),
        &mut doors.listeners,
        metrics,
        Arc::clone(&handover),
        left.connections,
        ended,
    );
    let mut serving = std::pin::pin!(serving);
    tokio::spawn(stay_small(Arc::downgrade(&handover)));
    let successor = tokio::select! {
        // It ends by itself for an error only.
        served = serving.as_mut() => return served.map(|()| None).map_err(Into::into),
        () = signals.came() => None,
        successor = quiet_successor(&control, &handover) => Some(successor),
    };
    end.send_replace(if successor.is_some() { End::Leaving } else { End::Ending });
    serving.await?;
    let Some(successor) = successor else {
        engine.shutdown().await;
        return Ok(None);
    };
    let broken_off = handover.under_way();
    if broken_off > 0 {
        tracing::warn!(
            broken_off,
            "requests that took too long are broken off for another daemon to take over"
        );
    }
    let legacy = engine.hand_over().await;
    handover.settled().await;
    Ok(Some(Leaving { successor, connections: handover.take(), legacy }))
}

/// How long nobody must have asked anything, and how often that is looked at.
const IDLE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(10);

/// Whenever the daemon has had nothing to do for a while, lets go of the memory that it had for what it did. Most of it is code that ran
/// once, at the start above all.
async fn stay_small(handover: std::sync::Weak<Handover>) {
    let (mut seen, mut is_small, mut since) = (0, false, Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(requests) = handover.upgrade().map(|handover| handover.requests()) else { return };
        if requests != std::mem::replace(&mut seen, requests) {
            (is_small, since) = (false, Instant::now());
        } else if since.elapsed() >= IDLE && !std::mem::replace(&mut is_small, true) {
            palan_linux::memory::trim();
            if let Err(error) = palan_linux::memory::release_code() {
                tracing::debug!(%error, "the daemon's code stays mapped");
            }
        }
    }
}

/// Waits for another daemon that wants this one's place, and then for a moment that is good for it.
async fn quiet_successor(control: &Control, handover: &Handover) -> Successor {
    loop {
        let successor = control.successor().await;
        tracing::info!(pid = successor.pid, "another daemon is to take over");
        handover.quiet().await;
        if successor.waits() {
            return successor;
        }
        tracing::warn!(pid = successor.pid, "the other daemon has gone");
    }
}

/// How TCP is to be protected. As in Docker, TLS means that clients must have a certificate unless `tlsverify` is false, and whoever
/// speaks of `tlsverify` at all wants TLS. To say nothing is not the same as to say no.
fn protection(file: &FileConfig) -> Result<Protection, Failure> {
    let tls = &file.tls;
    match (tls.enabled, tls.verify) {
        (None, None) => return Ok(Protection::Unsaid),
        (Some(false), None) => return Ok(Protection::None),
        (_, Some(_)) | (Some(true), None) => {}
    }
    let verify = tls.verify.unwrap_or(true);
    if !verify {
        tracing::warn!(
            "TLS asks for no certificates of clients: whoever can connect to a TCP address of the API has the rights of root"
        );
    }
    let path = |given: &Option<PathBuf>, name: &str| {
        given.clone().unwrap_or_else(|| Path::new("/etc/palan").join(name))
    };
    let files = TlsFiles {
        client_authorities: verify.then(|| path(&tls.ca, "ca.pem")),
        certificate: path(&tls.certificate, "cert.pem"),
        key: path(&tls.key, "key.pem"),
    };
    Ok(Protection::Tls(files.load()?))
}

/// Opens the sockets; `fd://` stands for those that the service manager opened.
fn listen(
    listeners: &mut Listeners,
    hosts: &[String],
    group: Option<&str>,
    protection: &Protection,
) -> Result<(), Failure> {
    for host in hosts {
        if host.starts_with("fd://") {
            let mut sockets = listeners.take_inherited_offers();
            if sockets.is_empty() {
                sockets = inherited_sockets()?;
            }
            listeners.add_inherited(sockets, protection)?;
            continue;
        }
        if host == SOCKET {
            fs::create_dir_all(Path::new("/run/palan"), 0o710)?;
        }
        listeners.add_host(host, group, protection)?;
    }
    Ok(())
}

/// The sockets passed by the service manager (sd_listen_fds(3)): they begin at descriptor 3.
fn inherited_sockets() -> Result<Vec<OwnedFd>, Failure> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count: u32 =
        std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or_default();
    if !ours || count == 0 {
        return Err("-H fd:// was given, but the service manager passed no socket (LISTEN_FDS)".into());
    }
    (3..3 + count.min(64)).map(|number| Ok(palan_linux::process::inherited_descriptor(number)?)).collect()
}

/// Tells the service manager how things are (sd_notify(3)); nothing where there is none.
fn notify(state: &str) -> std::io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    let address = match name.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

/// The signals that ask for the daemon's end. They are listened to by a thread with a runtime of its own, since one may come while the
/// daemon gives its place away and has none; it counts if the daemon goes on.
#[derive(Clone)]
struct EndSignals(tokio::sync::watch::Receiver<bool>);

impl EndSignals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let guard = runtime.enter();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(guard);
        let (came, receiver) = tokio::sync::watch::channel(false);
        let listening = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            came.send_replace(true);
        };
        std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(listening)?;
        Ok(Self(receiver))
    }

    async fn came(&mut self) {
        // An error means that nobody listens any more.
        if self.0.wait_for(|came| *came).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Reads flags in pflag's manner: `--key value`, `--key=value`, `-k value`, `-kvalue`.
fn parse(arguments: Vec<OsString>) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let argument =
            argument.into_string().map_err(|raw| format!("an argument is not UTF-8: {}", raw.display()))?;
        let (name, mut value) = match argument.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (long.to_owned(), None),
            },
            None => short(&argument)?,
        };
        let mut next = |value: &mut Option<String>| {
            value.take().map_or_else(
                || {
                    let next = rest.next().ok_or(format!("flag needs an argument: --{name}"))?;
                    next.into_string().map_err(|raw| format!("an argument is not UTF-8: {}", raw.display()))
                },
                Ok,
            )
        };
        match name.as_str() {
            "help" => parsed.help = true,
            "validate" => parsed.validate = switch(&name, value)?,
            "replace" => parsed.replace = switch(&name, value)?,
            "docker-socket" => parsed.docker_socket = switch(&name, value)?,
            "config-file" => parsed.config_file = Some(next(&mut value)?.into()),
            _ => {
                let Some((_, _, key, kind)) = FLAGS.iter().find(|(flag, ..)| *flag == name) else {
                    return Err(format!("unknown flag: --{name}"));
                };
                let text = match kind {
                    Kind::Switch => {
                        parsed.settings.insert((*key).to_owned(), switch(&name, value)?.into());
                        continue;
                    }
                    _ => next(&mut value)?,
                };
                store(&mut parsed.settings, key, *kind, text)
                    .map_err(|problem| format!("invalid argument for \"--{name}\" flag: {problem}"))?;
            }
        }
    }
    Ok(parsed)
}

fn short(argument: &str) -> Result<(String, Option<String>), String> {
    let mut letters = argument.strip_prefix('-').unwrap_or_default().chars();
    let letter = letters.next().ok_or(format!("unknown argument: {argument:?}"))?;
    if letter == 'h' {
        return Ok(("help".to_owned(), None));
    }
    let (name, ..) = FLAGS
        .iter()
        .find(|(_, short, ..)| *short == Some(letter))
        .ok_or(format!("unknown shorthand flag: '{letter}' in {argument}"))?;
    let value = letters.as_str();
    let value = value.strip_prefix('=').unwrap_or(value);
    Ok(((*name).to_owned(), (!value.is_empty()).then(|| value.to_owned())))
}

fn switch(name: &str, value: Option<String>) -> Result<bool, String> {
    match value.as_deref() {
        None | Some("true" | "1" | "t") => Ok(true),
        Some("false" | "0" | "f") => Ok(false),
        Some(other) => {
            Err(format!("invalid argument {other:?} for \"--{name}\" flag: it takes true or false"))
        }
    }
}

fn store(settings: &mut Object, key: &str, kind: Kind, text: String) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::Switch => {
            settings.insert(key.to_owned(), text.into());
        }
        Kind::Number => {
            let number: u32 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
            settings.insert(key.to_owned(), number.into());
        }
        Kind::List => {
            if let Value::Array(items) = settings.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                items.push(text.into());
            }
        }
        Kind::Map | Kind::Runtime => {
            let (name, value) = text.split_once('=').ok_or(format!("{text:?} is not key=value"))?;
            let value = match kind {
                Kind::Runtime => serde_json::json!({ "path": value }),
                _ => value.into(),
            };
            if let Value::Object(items) = settings.entry(key).or_insert_with(|| Value::Object(Object::new()))
            {
                items.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// The settings of the file and of the flags together.
fn read_settings(arguments: &Arguments) -> Result<FileConfig, Failure> {
    let path = arguments.config_file.as_deref();
    let text = match path {
        // A file that was named must be there.
        Some(path) => fs::read_to_string(path)?,
        None => fs::read_to_string_if_exists(Path::new(SETTINGS))?.unwrap_or_default(),
    };
    let path = path.unwrap_or(Path::new(SETTINGS));
    let in_file =
        |error: palan_engine::Error| format!("{}: {}", path.display(), error_chain::to_string(&error));
    if arguments.settings.is_empty() {
        return FileConfig::parse(&text).map_err(|error| in_file(error).into());
    }
    FileConfig::parse(&text).map_err(in_file)?;
    let mut merged: Object =
        if text.trim().is_empty() { Object::new() } else { serde_json::from_str(&text)? };
    for (key, value) in &arguments.settings {
        if key == RUNTIMES
            && let (Some(Value::Object(file)), Value::Object(flags)) = (merged.get_mut(key), value)
        {
            add_runtimes(file, flags)?;
            continue;
        }
        if let Some(other) = merged.insert(key.clone(), value.clone()) {
            return Err(format!(
                "unable to configure the daemon with file {}: the following directives are specified both as a flag \
                 and in the configuration file: {key}: (from flag: {value}, from file: {other})",
                path.display()
            )
            .into());
        }
    }
    Ok(FileConfig::parse(&serde_json::to_string(&merged)?)?)
}

fn add_runtimes(file: &mut Object, flags: &Object) -> Result<(), Failure> {
    for (name, runtime) in flags {
        if file.insert(name.clone(), runtime.clone()).is_some() {
            return Err(format!(
                "the runtime {name} is specified both as a flag and in the configuration file"
            )
            .into());
        }
    }
    Ok(())
}

fn init_logging(debug: bool, level: Option<&str>) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match level {
        _ if debug => LevelFilter::DEBUG,
        Some("debug") => LevelFilter::DEBUG,
        Some("warn") => LevelFilter::WARN,
        Some("error" | "fatal") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let colour =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colour).init();
}

/// The file that names the daemon's process; removed when the daemon leaves in order.
struct PidFile(PathBuf);

impl PidFile {
    /// `replaced` is the daemon whose place this one takes.
    fn create(path: &Path, replaced: Option<i32>) -> Result<Self, Failure> {
        if let Some(text) = fs::read_to_string_if_exists(path)? {
            let pid = text.trim();
            if !pid.is_empty()
                && Path::new("/proc").join(pid).exists()
                && pid != std::process::id().to_string()
                && Some(pid) != replaced.map(|pid| pid.to_string()).as_deref()
            {
                return Err(format!(
                    "process with PID {pid} is still running; if it is not a daemon, delete {}",
                    path.display()
                )
                .into());
            }
        }
        let file = Self(path.to_owned());
        file.write()?;
        Ok(file)
    }

    fn write(&self) -> Result<(), Failure> {
        Ok(fs::write(&self.0, std::process::id().to_string())?)
    }

    /// It is another daemon's now.
    fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another daemon may have written its own there.
        let own = std::process::id().to_string();
        if fs::read_to_string_if_exists(&self.0).is_ok_and(|text| text.is_none_or(|text| text.trim() != own))
        {
            return;
        }
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!("{}", error_chain::to_string(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Arguments, String> {
        parse(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn flags_become_settings() {
        let arguments = parsed(&[
            "--data-root",
            "/d",
            "-H",
            "unix:///a",
            "-Hunix:///b",
            "--host=unix:///c",
            "-D",
            "--init=false",
            "--mtu",
            "1400",
            "--log-opt",
            "max-size=1m",
            "--docker-socket",
        ]);
        let arguments = arguments.unwrap();
        assert!(arguments.docker_socket);
        let settings = serde_json::to_string(&arguments.settings).unwrap();
        assert_eq!(
            settings,
            r#"{"data-root":"/d","debug":true,"hosts":["unix:///a","unix:///b","unix:///c"],"init":false,"log-opts":{"max-size":"1m"},"mtu":1400}"#
        );
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        let check = |arguments: &[&str], text: &str| {
            assert_eq!(parsed(arguments).err().unwrap_or_default(), text);
        };
        check(&["--flavour", "x"], "unknown flag: --flavour");
        check(&["-x"], "unknown shorthand flag: 'x' in -x");
        check(&["--bip"], "flag needs an argument: --bip");
        check(&["--mtu", "large"], "invalid argument for \"--mtu\" flag: \"large\" is not a number");
        check(&["run"], "unknown argument: \"run\"");
    }

    /// Reads the settings of a file with this text and of these flags.
    fn settings(name: &str, text: &str, flags: &[&str]) -> Result<FileConfig, Failure> {
        let directory = std::env::temp_dir().join(format!("palan-settings-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory, 0o700).unwrap();
        let path = directory.join("daemon.json");
        fs::write(&path, text).unwrap();
        let mut arguments = parsed(flags).unwrap();
        arguments.config_file = Some(path);
        let settings = read_settings(&arguments);
        fs::remove_dir_all(&directory).unwrap();
        settings
    }

    #[test]
    fn a_key_in_both_places_is_an_error() {
        let problem = settings("both", r#"{"bip": "10.1.0.1/24"}"#, &["--bip", "10.2.0.1/24"]).unwrap_err();
        let problem = problem.to_string();
        assert!(problem.contains("specified both as a flag and in the configuration file: bip"), "{problem}");
    }

    #[test]
    fn runtimes_are_added_to_those_of_the_file() {
        let file = r#"{"runtimes": {"one": {"path": "/1", "runtimeArgs": ["-x"]}}}"#;
        let settings = |flags: &[&str]| settings("runtimes", file, flags);
        let both = settings(&["--add-runtime", "two=/2", "--add-runtime=three=crun"]).unwrap();
        let both = both.runtimes.unwrap();
        let paths: Vec<_> = both.iter().map(|(name, runtime)| (&**name, &*runtime.path)).collect();
        assert_eq!(paths, [("one", "/1"), ("three", "crun"), ("two", "/2")]);
        let twice = settings(&["--add-runtime", "one=/2"]).unwrap_err().to_string();
        assert!(twice.contains("the runtime one is specified both as a flag and in"), "{twice}");
    }
}
