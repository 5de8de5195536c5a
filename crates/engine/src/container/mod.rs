//! Containers: what is known about one ([`Details`]), what a list shows ([`Summary`]), and the requests about them.
//! The life of one is driven by `driver`; the steps stand beside it, one file each.
//! A request arrives in `create`, `lifecycle`, `update`, `attach`, `wait`, `logs`, `list` or `top`.

pub(crate) mod attach;
pub(crate) mod checkpoint;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) use create::parse_platform;
pub(crate) mod driver;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod journal;
mod lifecycle;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod list;
mod log_files;
mod log_reader;
pub(crate) mod log_watch;
pub(crate) mod logging;
pub(crate) mod logs;
pub(crate) mod merge;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod oci;
pub(crate) mod quota;
pub(crate) mod restart;
pub(crate) mod security;
pub(crate) mod start;
pub(crate) mod stop;
mod top;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod view;
pub(crate) mod wait;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use checkpoint::CheckpointSpec;
pub use copy::{CopyOptions, PathStat};
pub use files::{Change, ChangeKind};
pub use health::{Health, HealthResult};
pub use palan_linux::path::FileKind;
pub use palan_supervisor::protocol::HealthStatus;
pub use update::Update;

use crate::spec::{Config, EndpointSettings, Filters, HostConfig};

/// Where a container is in its life. See `driver` for the transitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started (or its only start failed).
    #[default]
    Created,
    /// Its first process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It has ended and will be started again in a moment.
    Restarting,
    /// Its first process is gone.
    Exited,
    /// It is being removed.
    Removing,
    /// Its removal failed half-way; only removing it again is possible.
    Dead,
}

impl Status {
    /// The word of Docker's `State.Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// Whether it runs, or is between two runs: it has not ended.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// Whether it has a process.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// The changing part of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Host process id of its first process; 0 when there is none.
    pub pid: i32,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Why the last start failed, or how the last run was lost; empty otherwise.
    pub error: String,
    /// The kernel killed a process of the last run for lack of memory.
    pub oom_killed: bool,
    /// Start of the last run.
    pub started_at: Option<Timestamp>,
    /// End of the last run.
    pub finished_at: Option<Timestamp>,
    /// `stop` or `kill` ended the last run, or is about to.
    pub stopped_by_user: bool,
    /// What its health check has found; absent without one, or before the first start.
    pub health: Option<Health>,
}

/// One mount as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub kind: String,
    /// Name of the volume, or the image as written; empty otherwise.
    pub name: String,
    /// Path on the host; empty for a tmpfs or image.
    pub source: String,
    /// Path inside.
    pub destination: String,
    /// Driver of the volume; empty otherwise.
    pub driver: String,
    /// The mode as written, such as `ro,z`.
    pub mode: String,
    /// Writable.
    pub writable: bool,
    /// Propagation of a bind mount; empty otherwise.
    pub propagation: String,
    /// Made for this container without a name (removed with it when asked).
    pub anonymous: bool,
    /// Leave out the mounts below a bind's source.
    pub non_recursive: bool,
    /// What is mounted below a read-only bind's source stays writable.
    pub read_only_non_recursive: bool,
    /// Directory or file inside the volume or image.
    pub subpath: String,
    /// Id of the image; empty otherwise.
    pub image_id: String,
    /// Layers of the image, topmost first.
    pub layers: Vec<String>,
    /// Options of a tmpfs.
    pub options: String,
    /// Comes from the long form (`HostConfig.Mounts`).
    pub from_mounts: bool,
}

/// One endpoint as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// What was asked.
    pub settings: EndpointSettings,
    /// Id of the network.
    pub network_id: String,
    /// Id of the endpoint; empty while not running.
    pub endpoint_id: String,
    /// Gateway; empty when there is none.
    pub gateway: String,
    /// Address; empty while not running.
    pub ip_address: String,
    /// Length of the address's prefix.
    pub ip_prefix_len: u8,
    /// MAC address; empty while not running.
    pub mac_address: String,
    /// IPv6 gateway; empty when there is none.
    pub ipv6_gateway: String,
    /// IPv6 address; empty while not running or without one.
    pub ipv6_address: String,
    /// Length of the IPv6 address's prefix.
    pub ipv6_prefix_len: u8,
    /// The addresses of this or the last run: the next one gets them again while nobody else needs them.
    pub lease: Vec<std::net::IpAddr>,
    /// The network's own record of the running endpoint, kept to release it.
    pub record: Option<EndpointNote>,
}

/// An [`EndpointRecord`](palan_network::EndpointRecord) as text, read when it is needed: one that this version can't read must not keep a
/// container from being read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointNote(Box<serde_json::value::RawValue>);

impl EndpointNote {
    pub(crate) fn new(record: &palan_network::EndpointRecord) -> Option<Self> {
        serde_json::value::to_raw_value(record).ok().map(Self)
    }

    pub(crate) fn read(&self) -> Option<palan_network::EndpointRecord> {
        serde_json::from_str(self.0.get()).ok()
    }
}

impl PartialEq for EndpointNote {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Ports as published now, by `port/protocol`; a declared port without binding has `None`.
pub type PublishedPorts = BTreeMap<String, Option<Vec<crate::spec::PortBinding>>>;

/// Everything about one container: what `inspect` shows and what the database stores.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Version of this stored form.
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name without slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Configuration with the image's merged in.
    pub config: Config,
    /// Host part with defaults filled in.
    pub host: HostConfig,
    /// Id of the image, `sha256:…`; empty for none.
    pub image_id: String,
    /// `os/architecture[/variant]` of the image.
    pub platform: String,
    /// Digest of the image's manifest, when it is known.
    pub image_manifest: Option<String>,
    /// Program that runs.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Mounts made at start.
    pub mounts: Vec<MountPoint>,
    /// Where it is in its life.
    pub state: State,
    /// Endpoints by network name.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Ports as published now.
    pub ports: PublishedPorts,
    /// How many times it was restarted by policy.
    pub restart_count: u32,
    /// The last pause between two runs, in milliseconds; none since somebody started it.
    pub restart_delay_ms: Option<u64>,
    /// Where the log file is; empty when the driver has none.
    pub log_path: String,
    /// Path of its `resolv.conf`.
    pub resolv_conf_path: String,
    /// Path of its `hostname`.
    pub hostname_path: String,
    /// Path of its `hosts`.
    pub hosts_path: String,
    /// Cgroup path below each hierarchy.
    pub cgroup_path: String,
    /// AppArmor profile in force; empty where the kernel has none.
    pub app_armor_profile: String,
    /// Directories of the root filesystem.
    pub overlay: OverlayDirs,
    /// The project whose quota limits them; 0 for none.
    pub quota_project: u32,
    /// The network was set up for a run whose end is not recorded yet.
    pub is_attached: bool,
    /// Sequence number of the last journal entry that is in the database.
    pub journal_seq: u64,
    /// Identifies one run; the journal of another run is not replayed.
    pub run: u64,
    /// Ids of exec sessions that still exist (filled for `inspect`, not stored).
    #[serde(skip)]
    pub exec_ids: Vec<String>,
}

impl Details {
    /// The names by which others find the container on a network; none on the networks that have no names.
    pub fn dns_names(&self, network: &str) -> Vec<String> {
        match self.endpoints.get(network).filter(|_| !matches!(network, "bridge" | "host" | "none")) {
            Some(endpoint) => crate::network::names::names_of(self, &endpoint.settings.aliases),
            None => Vec::new(),
        }
    }

    /// Its links on the default bridge in the form that Docker shows, which also names the container: `/db:/web/database`.
    /// Those on other networks are the endpoint's.
    pub fn link_paths(&self) -> Vec<String> {
        let links = self.host.links.iter().filter(|_| self.host.network_mode == "bridge");
        let path = |link: &String| {
            let (target, alias) = crate::network::names::split_link(link);
            format!("/{target}:/{}/{alias}", self.name)
        };
        links.map(path).collect()
    }

    /// Names of the volumes that it mounts.
    pub(crate) fn volume_names(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter(|mount| mount.kind == "volume").map(|mount| mount.name.as_str())
    }
}

/// Directories of the root filesystem's overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OverlayDirs {
    /// Layers, topmost first.
    pub lowers: Vec<String>,
    /// Changes.
    pub upper: String,
    /// Work directory.
    pub work: String,
}

/// One line of a list.
#[derive(Debug, Clone)]
pub struct Summary {
    /// All that is known, shared with the engine's index.
    pub details: std::sync::Arc<Details>,
    /// The image as a list shows it: as written, or the id when the name now means another image.
    pub image: String,
    /// Docker's sentence, such as `Up 2 minutes` or `Exited (0) 3 days ago`.
    pub status: String,
    /// Bytes in the writable layer, when asked.
    pub size_rw: Option<u64>,
    /// Bytes of image and writable layer, when asked.
    pub size_root_fs: Option<u64>,
}

/// Which containers a list shows.
///
/// Filters: `ancestor`, `before`, `exited`, `expose`, `health`, `id`, `is-task`, `label`, `name`, `network`, `publish`,
/// `since`, `status`, `volume`.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Stopped ones too.
    pub all: bool,
    /// At most so many, newest first; 0 means no limit. Implies `all`.
    pub limit: usize,
    /// Compute sizes.
    pub size: bool,
    /// Filters.
    pub filters: Filters,
}

/// A container that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

/// How `stop` and `restart` end the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Signal; the container's own when absent.
    pub signal: Option<String>,
    /// Seconds until it is killed, negative for never; the container's own when absent.
    pub timeout: Option<i64>,
}

/// What `remove` takes along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it when it runs.
    pub force: bool,
    /// Remove its anonymous volumes.
    pub volumes: bool,
    /// Remove a legacy link instead (always an error: there are none).
    pub link: bool,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// Not running now.
    #[default]
    NotRunning,
    /// The next exit.
    NextExit,
    /// Its removal.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaitOutcome {
    /// Exit code.
    pub exit_code: i32,
    /// Why waiting failed or why the container could not be removed.
    pub error: Option<String>,
}

/// A connection that waits for an exit, given so that the supervisor can answer when the daemon has died.
#[derive(Debug)]
pub struct WaitHold {
    /// A duplicate of the client's socket (HTTP/1.1, chunked answer begun).
    pub socket: OwnedFd,
    /// What the answer's body says before the exit code in decimal.
    pub body_prefix: String,
    /// What it says after the exit code.
    pub body_suffix: String,
    /// It waits for the end of the container, not for that of a run which another follows.
    pub for_good: bool,
}

/// How output is framed on an attached connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// Bytes as they are (terminal).
    Raw,
    /// Eight-byte headers with stream number and length.
    #[default]
    Multiplexed,
}

/// What an attached client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Send input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
    /// Receive new output (and send input) until the end.
    pub stream: bool,
    /// Receive the log so far first.
    pub logs: bool,
    /// Keys that detach, such as `ctrl-p,ctrl-q`; the default when absent, none when empty.
    pub detach_keys: Option<String>,
    /// No frames, even without a terminal: nothing tells output from errors.
    pub raw: bool,
}

/// A connection that speaks raw bytes in both directions, after its response head was flushed.
#[derive(Debug)]
pub struct ClientStream {
    /// The socket (or one end of a pair that the front door relays).
    pub socket: OwnedFd,
    /// Bytes the client sent that were read already.
    pub buffered: Vec<u8>,
}

impl ClientStream {
    /// How long a client may take for the head of its answer.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// Waits until the client has read the response head, but not for long. Clients that read it through a buffer and then go on with
    /// the bare socket, as Python's `http.client` under docker-py does, lose what comes in the same read.
    pub async fn wait_for_head_to_be_read(&self) {
        let begun = Instant::now();
        while palan_linux::socket::unread_by_peer(&self.socket).is_ok_and(|unread| unread > 0) {
            match begun.elapsed() {
                // Most are there at once, and a timer takes a millisecond.
                waited if waited < Duration::from_micros(300) => tokio::task::yield_now().await,
                waited if waited < Self::PATIENCE => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => return,
            }
        }
    }
}

/// Which log lines to read.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on with new lines until the container ends.
    pub follow: bool,
    /// From this time.
    pub since: Option<Timestamp>,
    /// Up to this time.
    pub until: Option<Timestamp>,
    /// Put the time in front of each line.
    pub timestamps: bool,
    /// Put the line's attributes in front of each line.
    pub details: bool,
    /// Only the last lines; all when absent.
    pub tail: Option<u64>,
    /// No frames, even without a terminal.
    pub raw: bool,
}

/// A new process for a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Send input.
    pub attach_stdin: bool,
    /// Receive standard output.
    pub attach_stdout: bool,
    /// Receive standard error.
    pub attach_stderr: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Height and width of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Keys that detach.
    pub detach_keys: Option<String>,
    /// Additional variables.
    pub env: Vec<String>,
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// All capabilities.
    pub privileged: bool,
    /// `user[:group]`; the container's when empty.
    pub user: String,
    /// Working directory; the container's when empty.
    pub working_dir: String,
}

/// How an exec session is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecStartOptions {
    /// Don't attach.
    pub detach: bool,
    /// The client reads raw bytes and no frames. Whether there is a terminal was said when the session was made.
    pub tty: bool,
    /// Height and width of the terminal.
    pub console_size: Option<(u16, u16)>,
}

/// An exec session as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecDetails {
    /// Its id.
    pub id: String,
    /// Its container.
    pub container_id: String,
    /// What was asked.
    pub spec: ExecSpec,
    /// Whether its process runs.
    pub running: bool,
    /// Exit code, when it has ended.
    pub exit_code: Option<i32>,
    /// Host process id; 0 when there is none.
    pub pid: i32,
    /// Its stdin is still open to a client.
    pub open_stdin: bool,
    /// Its stdout reaches a client.
    pub open_stdout: bool,
    /// Its stderr reaches a client.
    pub open_stderr: bool,
    /// It may be removed.
    pub can_remove: bool,
}

/// The processes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// Column titles.
    pub titles: Vec<String>,
    /// One row for each process.
    pub processes: Vec<Vec<String>>,
}
