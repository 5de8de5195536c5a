//! What a call works with: the streams, the environment, the client's configuration, and the daemon.

use std::cell::OnceCell;
use std::path::PathBuf;

use palan_docker_api::client::{Client, ClientError, TlsFiles};
use palan_docker_api::host::Host;
use palan_docker_api::version::ApiVersion;
use palan_stdx::error_chain;

use crate::autostart;
use crate::config_file::ConfigFile;
use crate::context::store::Contexts;
use crate::context::{self, Asked, Known, Target};
use crate::environment::{DOCKER_API_VERSION, DOCKER_CERT_PATH, DOCKER_TLS, DOCKER_TLS_VERIFY, Environment};
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::output::streams::Streams;

/// What `-l` chooses between, as far as the client says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Debug,
    Warning,
    Error,
}

/// The key of `config.json` that names the context of Docker's client.
const CURRENT_CONTEXT: &str = "currentContext";

/// By which name this program was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Program {
    #[default]
    Palan,
    /// In Docker's place: its texts name `docker`, and its choice of a context counts.
    Docker,
}

impl Program {
    /// What the user types.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Palan => "palan",
            Self::Docker => "docker",
        }
    }
}

/// The surroundings of one call; what costs time is made when it is first asked for.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) streams: Streams,
    pub(crate) environment: Environment,
    pub(crate) program: Program,
    globals: OnceCell<Parsed>,
    config: OnceCell<ConfigFile>,
    client: OnceCell<Client>,
}

impl App {
    pub(crate) fn new(program: Program, streams: Streams, environment: Environment) -> Self {
        Self {
            streams,
            environment,
            program,
            globals: OnceCell::new(),
            config: OnceCell::new(),
            client: OnceCell::new(),
        }
    }

    /// Sets the global flags; once.
    pub(crate) fn set_globals(&self, globals: Parsed) {
        let _ = self.globals.set(globals);
    }

    fn globals(&self) -> &Parsed {
        self.globals.get_or_init(Parsed::default)
    }

    /// What the user called this program by.
    pub(crate) fn name(&self) -> &'static str {
        self.program.name()
    }

    /// `-D`.
    pub(crate) fn debug(&self) -> bool {
        self.globals().bool("debug")
    }

    /// `-l`: how much is said beside the data; `-D` is `-l debug`.
    fn says(&self, least: Level) -> bool {
        let level = match self.globals().string("log-level").to_ascii_lowercase().as_str() {
            _ if self.debug() => Level::Debug,
            "debug" | "trace" => Level::Debug,
            "error" | "fatal" | "panic" => Level::Error,
            _ => Level::Warning,
        };
        level <= least
    }

    /// The directory of the client's configuration.
    pub(crate) fn config_directory(&self) -> PathBuf {
        self.globals().given("config").map_or_else(|| self.environment.config_directory(), PathBuf::from)
    }

    /// The client's configuration file.
    pub(crate) fn config(&self) -> &ConfigFile {
        self.config.get_or_init(|| {
            let config = ConfigFile::load(&self.config_directory());
            if let Some(problem) = config.problem().filter(|_| self.says(Level::Warning)) {
                self.streams.say(&format!("WARNING: Error loading config file: {problem}"));
            }
            config
        })
    }

    /// The user's contexts.
    pub(crate) fn contexts(&self) -> Contexts {
        Contexts::of(&self.config_directory())
    }

    /// The context that was chosen for all commands; empty if none was.
    pub(crate) fn chosen_context(&self) -> String {
        match self.program {
            Program::Palan => self.contexts().current(),
            Program::Docker => self.config().text(CURRENT_CONTEXT).to_owned(),
        }
    }

    /// Chooses a context for all commands; an empty name chooses none.
    pub(crate) fn choose_context(&self, name: &str) -> Result<()> {
        match self.program {
            Program::Palan => self.contexts().set_current(name),
            Program::Docker => {
                let mut config = self.config().clone();
                config.set_text(CURRENT_CONTEXT, name);
                config.save()
            }
        }
    }

    /// Does `action` with what the command line says about the daemon, and what else is known of it.
    pub(crate) fn about_target<T>(&self, action: impl FnOnce(&Asked<'_>, &Known<'_>) -> T) -> T {
        let globals = self.globals();
        let asked = Asked {
            hosts: globals.list("host"),
            context: globals.given("context").filter(|context| !context.is_empty()),
            tls: self.tls_files(),
        };
        let (contexts, current) = (self.contexts(), self.chosen_context());
        let known = Known { environment: &self.environment, contexts: &contexts, current: &current };
        action(&asked, &known)
    }

    /// The daemon that the command line and the environment choose.
    pub(crate) fn target(&self) -> Result<Target> {
        self.about_target(context::choose)
    }

    /// The name of the context in use.
    pub(crate) fn context(&self) -> String {
        self.about_target(context::in_use)
    }

    /// The certificates for TLS, if it is asked for. As in Docker `--tlsverify` means TLS, whatever its value, and the files of the
    /// client's own certificate may be missing unless they are named.
    fn tls_files(&self) -> Option<TlsFiles> {
        let globals = self.globals();
        let verify = if globals.changed("tlsverify") {
            globals.bool("tlsverify")
        } else {
            self.environment.set(DOCKER_TLS_VERIFY).is_some()
        };
        let wanted = globals.bool("tls") || self.environment.set(DOCKER_TLS).is_some();
        if !wanted && !verify && !globals.changed("tlsverify") {
            return None;
        }
        let directory = match (self.environment.set(DOCKER_CERT_PATH), globals.given("config")) {
            (Some(directory), _) | (None, Some(directory)) => PathBuf::from(directory),
            (None, None) => self.environment.config_directory(),
        };
        let path = |flag: &str, name: &str| {
            globals
                .given(flag)
                .filter(|path| !path.is_empty())
                .map_or_else(|| directory.join(name), PathBuf::from)
        };
        let own = |flag: &str, name: &str| {
            let path = path(flag, name);
            (globals.changed(flag) || path.exists()).then_some(path)
        };
        Some(TlsFiles {
            authorities: verify.then(|| path("tlscacert", "ca.pem")),
            identity: own("tlscert", "cert.pem").zip(own("tlskey", "key.pem")),
        })
    }

    /// The daemon, which is started if nobody named another and none answers.
    pub(crate) fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let target = self.target()?;
        if self.says(Level::Debug) {
            let Target { host, context, .. } = &target;
            self.streams.say(&format!("level=debug msg=\"using the daemon at {host} of context {context}\""));
        }
        if let (true, Host::Unix(socket)) = (target.by_default, &target.host) {
            autostart::ensure(socket, &self.environment)?;
        }
        let version = self.environment.set(DOCKER_API_VERSION).map(str::parse::<ApiVersion>);
        let version = version.transpose().map_err(|error| CliError::new(error.to_string()))?;
        let client = target.client(version)?;
        Ok(self.client.get_or_init(|| client))
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Connect { host, source }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::new(format!(
                    "permission denied while trying to connect to the Palan daemon socket at {host}"
                ))
                .hint("Run the command as root, or as a member of the group that owns the socket (palan).")
            }
            ClientError::Connect { host, .. } => Self::new(no_daemon(&host.to_string())),
            _ => Self::new(error_chain::to_string(&error)),
        }
    }
}

/// Docker's text for a daemon that isn't there, with our name.
pub(crate) fn no_daemon(host: &str) -> String {
    format!("Cannot connect to the Palan daemon at {host}. Is the palan daemon running?")
}
