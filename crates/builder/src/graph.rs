//! The graph of a build: what is to be done, and on what.

use palan_context::remote;
use palan_dockerfile::Span;
use palan_dockerfile::ast::{Network, Security};
use palan_dockerfile::mount::Sharing;
use palan_oci::image_config::ImageConfig;
use palan_oci::{Digest, digest};
use serde::Serialize;

/// The number of a vertex in its plan.
pub type VertexId = usize;

/// What a build comes to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Every vertex stands behind those it depends on.
    pub vertices: Vec<Vertex>,
    /// Where the image's files are.
    pub target: Input,
    /// What the image says, but for the layers.
    pub config: ImageConfig,
    /// The instructions of the stages that are needed, stage by stage, in their order: what each says, and the vertex that does
    /// it, if there is one.
    pub steps: Vec<(String, Option<VertexId>)>,
}

/// A step.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What a user is shown: `[build 2/3] RUN make`.
    pub name: String,
    /// The instruction's place in the Dockerfile.
    pub span: Span,
    /// What is done.
    pub op: Op,
    /// On what: first what it starts with, then where files come from, in the order in which the op numbers them.
    pub inputs: Vec<Input>,
    /// The cache is not asked, but the result is put into it.
    pub ignore_cache: bool,
    /// Variables of a `RUN` that are in no key: proxies.
    pub hidden_env: Vec<String>,
}

/// What a vertex depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Nothing: an empty root.
    Scratch,
    /// Another vertex's result.
    Vertex(VertexId),
    /// A context by its name; the main one has the empty name.
    Context(String),
}

/// What a vertex does. Its JSON is part of the vertex's keys: a change of meaning needs a new [`KEY_VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Op {
    /// Has an image's files.
    Image {
        /// Its manifest.
        digest: Digest,
        /// How it was named; the digest decides.
        #[serde(skip)]
        name: String,
    },
    /// Has the files of a repository, or a downloaded file. What they are, the network says: it is asked for each build.
    Remote(Remote),
    /// Runs a command.
    Run(Run),
    /// Copies files.
    Copy(Copy),
    /// Makes a directory and what is missing above it, with mode 0755.
    MakeDirectory {
        /// Absolute.
        path: String,
        /// The user that gets what is made, in the image's terms; empty for root.
        user: String,
    },
}

/// Files that are somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Remote {
    /// A file, under this name.
    Http {
        /// Where.
        url: String,
        /// Its name in the result.
        name: String,
        /// `--checksum`: what its digest must be.
        checksum: Option<Digest>,
    },
    /// A directory of a repository.
    Git {
        /// What `git` calls the remote.
        remote: String,
        /// A branch, tag or commit; the remote's default if none.
        reference: Option<String>,
        /// The commit that it must be, or its first digits.
        checksum: Option<String>,
        /// The directory; empty for all of it.
        subdirectory: String,
        /// `.git` is kept.
        keep_git_dir: bool,
        /// Submodules are fetched.
        submodules: bool,
        /// Files are as old as their commit.
        commit_times: bool,
        /// The checksum is believed.
        fetch_by_commit: bool,
    },
}

impl Remote {
    /// What an address says, where nothing else is said.
    pub fn of_git(git: remote::Git) -> Self {
        Self::Git {
            remote: git.remote,
            reference: git.reference,
            checksum: git.checksum,
            subdirectory: git.subdirectory,
            keep_git_dir: git.keep_git_dir.unwrap_or(false),
            submodules: git.submodules.unwrap_or(true),
            commit_times: git.commit_times.unwrap_or(false),
            fetch_by_commit: git.fetch_by_commit,
        }
    }

    /// It without what only says how it is found: that is pinned, and what is found is a commit, by whatever name it was asked for. With
    /// `.git` the name is part of the files.
    fn found(&self) -> Self {
        let mut found = self.clone();
        if let Self::Git { reference, checksum, keep_git_dir, fetch_by_commit, .. } = &mut found {
            (*checksum, *fetch_by_commit) = (None, false);
            if !*keep_git_dir {
                *reference = None;
            }
        }
        found
    }
}

/// The version of what keys are made of.
pub const KEY_VERSION: &str = "palan.build.2";

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// The user, in the image's terms; empty for root.
    pub user: String,
    /// A program that is given to the command at `/dev/pipes/<name>`: name and content.
    pub program: Option<(String, String)>,
    /// What is mounted, in this order.
    pub mounts: Vec<Mount>,
    /// The network.
    #[serde(serialize_with = "network_name")]
    pub network: Network,
    /// What [`Network::Default`] comes to: the build's mode, or the name of a network. Empty is the daemon's default, and also
    /// stands where the instruction says which.
    pub default_network: String,
    /// `NAME:ADDRESS`: what the build adds to the names of hosts.
    pub extra_hosts: Vec<String>,
    /// How much it may do.
    #[serde(serialize_with = "security_name")]
    pub security: Security,
    /// Devices: name, and whether the build fails without it.
    pub devices: Vec<(String, bool)>,
    /// The shell of the place where it stands, for those who want to look around when it fails. In no key: what it does is in `args`.
    #[serde(skip)]
    pub shell: Vec<String>,
    /// What its program is for. In no key: the files that it runs on are.
    #[serde(skip)]
    pub platform: String,
}

/// A mount of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where, absolute. None for a secret that is only a variable.
    pub target: Option<String>,
    /// Writes are refused.
    pub read_only: bool,
    /// What.
    pub kind: MountKind,
}

/// The kind of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum MountKind {
    /// Files of an input. Writes are lost.
    Bind {
        /// The number of the vertex's input.
        input: usize,
        /// A path there.
        source: String,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its name: any text, no path.
        id: String,
        /// Who may use it at the same time.
        #[serde(serialize_with = "sharing_name")]
        sharing: Sharing,
        /// What it starts with: the number of the vertex's input, and a path there.
        seed: Option<(usize, String)>,
        /// Mode, user and group of a new one.
        owner: Owner,
    },
    /// A directory in memory.
    Tmpfs {
        /// Its size in bytes.
        size: Option<u64>,
    },
    /// A secret. Its value is in no key.
    Secret {
        /// Its name.
        id: String,
        /// The variable that gets it.
        env: Option<String>,
        /// The build fails without it.
        required: bool,
        /// Mode, user and group of the file.
        owner: Owner,
    },
    /// The client's ssh agent.
    Ssh {
        /// Its name.
        id: String,
        /// The build fails without it.
        required: bool,
        /// Mode, user and group of the socket.
        owner: Owner,
    },
}

/// Mode, user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Owner {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A file or directory to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The number of the vertex's input that it is in.
    pub input: usize,
    /// A path or pattern, relative to the input's root.
    pub path: String,
    /// Archives are unpacked.
    pub unpack: bool,
}

/// A copy. Input 0 is what it is copied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// What is copied.
    pub sources: Vec<Source>,
    /// Files with their content, which come from no input.
    pub inline: Vec<(String, String)>,
    /// Absolute; with a `/` at the end it is a directory.
    pub destination: String,
    /// `user[:group]` in the image's terms; none: as it is there, and root's for files of a context or the Dockerfile.
    pub owner: Option<String>,
    /// `--chmod`.
    pub mode: Option<String>,
    /// Directories above a source are made, too.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// The files don't depend on what they are copied to.
    pub link: bool,
}

impl Op {
    /// A digest of what it says.
    pub fn digest(&self) -> Digest {
        let mut hasher = digest::Hasher::new();
        hasher.update(KEY_VERSION.as_bytes());
        // Structures of strings and numbers always have a JSON.
        let json = match self {
            Self::Remote(remote) => serde_json::to_vec(&Self::Remote(remote.found())),
            other => serde_json::to_vec(other),
        };
        hasher.update(&json.unwrap_or_default());
        hasher.finish()
    }

    /// Paths that it reads of an input: patterns for a copy, one path for a mount.
    pub fn reads(&self, input: usize) -> Vec<&str> {
        match self {
            Self::Copy(copy) => {
                let here = copy.sources.iter().filter(|source| source.input == input);
                here.map(|source| source.path.as_str()).collect()
            }
            Self::Run(run) => run.mounts.iter().filter_map(|mount| mount.kind.source(input)).collect(),
            _ => Vec::new(),
        }
    }
}

impl MountKind {
    fn source(&self, wanted: usize) -> Option<&str> {
        match self {
            Self::Bind { input, source } | Self::Cache { seed: Some((input, source)), .. } => {
                (*input == wanted).then_some(source.as_str())
            }
            _ => None,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn network_name<S: serde::Serializer>(network: &Network, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    })
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn security_name<S: serde::Serializer>(security: &Security, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match security {
        Security::Sandbox => "sandbox",
        Security::Insecure => "insecure",
    })
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn sharing_name<S: serde::Serializer>(sharing: &Sharing, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
        Sharing::Locked => "locked",
    })
}
