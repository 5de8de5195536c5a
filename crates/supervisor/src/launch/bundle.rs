//! The bundle that another runtime, or CRIU, is given: `config.json` and the root file system, in the container's run directory.
//!
//! ```text
//! <run directory>/bundle/   config.json  rootfs/  source-<n>  pid  runtime.log  exec.json  palan-init
//!                 state/    what the runtime keeps (--root)
//! ```
//!
//! **Invariant:** the root file system is mounted in a mount namespace of the supervisor's own. It is seen by the runtime,
//! which is executed there, and by the container; not by the host, where nothing can keep it busy, and it vanishes with
//! the supervisor. All other mounts of that namespace stay shared with the host's: what a user binds with `rshared` does
//! what it should. Only the mount that the run directory lies on must not let the new mount out.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use palan_linux::mount::{self, Attributes, Change, OverlayOptions, Propagation};
use palan_linux::namespace::{self, Kind};
use palan_linux::path::{FileKind, Metadata, RootDir};
use palan_oci::runtime_spec::{Mount, Namespace, NamespaceKind, Process, Spec};
use palan_runtime::user::{self, ResolvedUser};
use palan_stdx::fs;
use rustix::fs::{CWD, Mode, OFlags};

use super::{Given, sources};
use crate::protocol::{Config, Failure, FailureKind, RootfsConfig};

/// The directory in the run directory.
const NAME: &str = "bundle";
/// Where the runtime keeps its state.
const STATE_NAME: &str = "state";
/// The version of the specification that the runtime is told. Nothing that a later one added changes what a field means,
/// and crun up to 1.8 refuses all others.
const OCI_VERSION: &str = "1.0.2";
/// Where our init is seen in a container that asked for one.
const INIT_PATH: &str = "/sbin/palan-init";

/// Where a container's bundle and its runtime's state are.
#[derive(Debug)]
pub(super) struct Paths {
    run_dir: PathBuf,
    pub(super) bundle: PathBuf,
    pub(super) state: PathBuf,
}

impl Paths {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned(), bundle: run_dir.join(NAME), state: run_dir.join(STATE_NAME) }
    }

    /// Whether an earlier run has left something.
    pub(super) fn exist(&self) -> bool {
        self.bundle.exists() || self.state.exists()
    }

    /// Removes what a run has left: this one, after [`Bundle::unmount`], or an earlier one, before [`Bundle::make`], when the
    /// supervisor is in a namespace that has never seen a mount there.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        for directory in [&self.bundle, &self.state] {
            fs::if_exists(fs::remove_dir_all(directory))
                .map_err(|error| Failure::cannot("remove the bundle", &error))?;
        }
        Ok(())
    }
}

/// A bundle that is ready for `create`.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    pub(super) directory: OwnedFd,
    /// The root file system as mounted here, until [`Self::unmount`].
    root: Option<RootDir>,
    /// Where it is mounted.
    place: Option<PathBuf>,
    /// Where parts of volumes and images are mounted.
    sources: Vec<PathBuf>,
    /// Named by its path in `config.json`.
    network_namespace: Option<OwnedFd>,
}

impl Bundle {
    /// Makes the bundle of a container. This process is in a mount namespace of its own afterwards.
    pub(super) fn make(paths: &Paths, config: &Config, given: Given) -> Result<Self, Failure> {
        let failed = |error: fs::PathError| Failure::cannot("make the bundle", &error);
        enter_own_namespace(&paths.run_dir)?;
        let path = paths.bundle.clone();
        fs::create_dir_all(&path, 0o700).map_err(failed)?;
        let directory = OwnedFd::from(fs::open(&path).map_err(failed)?);
        let (rootfs, place) = match &config.rootfs {
            RootfsConfig::Directory(directory) => (directory.clone(), None),
            RootfsConfig::Overlay { lowers, upper, work, volatile } => {
                let place = path.join("rootfs");
                fs::create_dir(&place, 0o755).map_err(failed)?;
                let overlay = mount::overlay(&OverlayOptions {
                    lowers: lowers.clone(),
                    upper: Some(upper.clone()),
                    work: Some(work.clone()),
                    volatile: *volatile,
                    attributes: Attributes::empty(),
                })
                .map_err(|error| Failure::cannot("mount the root file system", &error))?;
                attach(&overlay, &place)?;
                (place.clone(), Some(place))
            }
        };
        // From here on there is something to take off.
        let sources = Vec::new();
        let Given { network_namespace, shared_mounts } = given;
        let mut bundle = Self { path, directory, root: None, place, sources, network_namespace };
        let root = RootDir::open(&rootfs);
        bundle.root = Some(root.map_err(|error| Failure::cannot("open the root file system", &error))?);
        bundle.fill(paths, config, rootfs, shared_mounts.as_ref())?;
        Ok(bundle)
    }

    fn fill(
        &mut self,
        paths: &Paths,
        config: &Config,
        rootfs: PathBuf,
        shared_mounts: Option<&OwnedFd>,
    ) -> Result<(), Failure> {
        let mut spec = config.spec.clone();
        self.add_sources(&mut spec, config, shared_mounts)?;
        name_domain_by_sysctl(&mut spec);
        OCI_VERSION.clone_into(&mut spec.oci_version);
        refuse_sharing_into_run_directory(&spec, &paths.run_dir)?;
        let root = spec.root.get_or_insert_default();
        root.path = rootfs
            .into_os_string()
            .into_string()
            .map_err(|path| Failure::new(FailureKind::Invalid, format!("{} is not UTF-8", path.display())))?;
        let Some(process) = &mut spec.process else {
            return Err(Failure::new(FailureKind::Invalid, "the specification has no process"));
        };
        self.settle_user(process, config.user.as_deref(), &config.groups)?;
        if config.create_cwd {
            self.root()?.create_dir_all(&process.cwd, 0o755).map_err(|error| {
                Failure::new(
                    FailureKind::Invalid,
                    format!(
                        "cannot make the working directory: {}",
                        palan_stdx::error_chain::to_string(&error)
                    ),
                )
            })?;
        }
        if let Some(namespace) = &self.network_namespace {
            join_network(&mut spec, namespace);
        }
        if config.init {
            self.add_init(&mut spec)?;
        }
        self.write("config.json", &spec)
    }

    /// Writes a file of the bundle as JSON and returns its path.
    pub(super) fn write(&self, name: &str, content: &impl serde::Serialize) -> Result<(), Failure> {
        let json = serde_json::to_vec(content)
            .map_err(|error| Failure::cannot(&format!("write the bundle's {name}"), &error))?;
        fs::write(&self.path.join(name), json)
            .map_err(|error| Failure::cannot(&format!("write the bundle's {name}"), &error))
    }

    /// Replaces the user as written by numbers, which are all that the specification knows. Names are those of the root
    /// file system, as in Docker: what is mounted over it is not seen here.
    pub(super) fn settle_user(
        &self,
        process: &mut Process,
        user: Option<&str>,
        groups: &[String],
    ) -> Result<(), Failure> {
        let wanted = &mut process.user;
        let resolved = match user {
            Some(user) => user::resolve(self.root()?, user, groups).map_err(palan_runtime::Error::from)?,
            None => ResolvedUser {
                uid: wanted.uid,
                gid: wanted.gid,
                groups: Vec::new(),
                home: user::home_of(self.root()?, wanted.uid).unwrap_or_else(|| "/".to_owned()),
            },
        };
        (wanted.uid, wanted.gid) = (resolved.uid, resolved.gid);
        // The primary group is a group too: one that is missing here makes a denial for it void (CVE-2022-36109).
        let mut groups = vec![resolved.gid];
        for gid in resolved.groups.into_iter().chain(wanted.additional_gids.iter().copied()) {
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        wanted.additional_gids = groups;
        if !process.env.iter().any(|entry| entry.starts_with("HOME=")) {
            process.env.push(format!("HOME={}", resolved.home));
        }
        Ok(())
    }

    /// Puts a copy of this program into the container as its process 1 (see [`crate::init`]).
    fn add_init(&self, spec: &mut Spec) -> Result<(), Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::cannot("provide the init", error);
        let place = self.path.join("palan-init");
        // The program may be a memfd, which can't be bound.
        let mut program = fs::open(Path::new("/proc/self/exe")).map_err(|error| failed(&error))?;
        let mut copy: File = fs::create_new(&place, 0o555).map_err(|error| failed(&error))?;
        std::io::copy(&mut program, &mut copy).map_err(|error| failed(&error))?;
        spec.mounts.push(Mount {
            destination: INIT_PATH.to_owned(),
            kind: "bind".to_owned(),
            source: place.to_string_lossy().into_owned(),
            options: ["bind", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec(),
            ..Mount::default()
        });
        if let Some(process) = &mut spec.process {
            let words = [INIT_PATH, "supervisor", "init", "--"].map(str::to_owned);
            process.args = words.into_iter().chain(std::mem::take(&mut process.args)).collect();
        }
        Ok(())
    }

    /// Mounts what has no path of the host that could be trusted, where only this namespace sees it, and names that place as the
    /// mount's source.
    fn add_sources(
        &mut self,
        spec: &mut Spec,
        config: &Config,
        shared_mounts: Option<&OwnedFd>,
    ) -> Result<(), Failure> {
        for (index, source) in sources::open(&config.sources, &self.path, shared_mounts)? {
            let failed =
                |error: std::io::Error| Failure::cannot("provide a part of a volume or image", &error);
            let wanted = spec.mounts.get_mut(index);
            let wanted =
                wanted.ok_or_else(|| Failure::new(FailureKind::Invalid, "a source is given for no mount"))?;
            let place = self.path.join(format!("source-{index}"));
            let kind = Metadata::of(&source).map_err(failed)?.kind;
            if kind == FileKind::Directory {
                fs::create_dir(&place, 0o700).map_err(|error| failed(std::io::Error::other(error)))?;
            } else {
                fs::create_new(&place, 0o600).map_err(|error| failed(std::io::Error::other(error)))?;
            }
            mount::attach(&source, open_path(&place).map_err(failed)?).map_err(failed)?;
            wanted.source = place.to_string_lossy().into_owned();
            self.sources.push(place);
        }
        Ok(())
    }

    fn root(&self) -> Result<&RootDir, Failure> {
        self.root.as_ref().ok_or_else(|| Failure::new(FailureKind::WrongState, "the container has ended"))
    }

    /// Takes the root file system off, once no process of the container is left, and its empty place away: where that is
    /// done, the bundle may be removed with all that is in it.
    pub(super) fn unmount(&mut self) -> Result<(), Failure> {
        // An open directory would keep the file system alive.
        self.root = None;
        for place in std::mem::take(&mut self.sources) {
            // The removal of the bundle must not find it mounted.
            detach(&place).map_err(|error| Failure::cannot("unmount a part of a volume or image", &error))?;
        }
        let Some(place) = self.place.take() else { return Ok(()) };
        let failed = |error: std::io::Error| Failure::cannot("unmount the root file system", &error);
        detach(&place).map_err(failed)?;
        rustix::fs::rmdir(&place).map_err(|errno| failed(errno.into()))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // What can't be taken off goes with this process.
        let _ = self.unmount();
    }
}

fn detach(place: &Path) -> std::io::Result<()> {
    let path = std::ffi::CString::new(place.as_os_str().as_bytes())?;
    mount::detach(&path)
}

fn enter_own_namespace(run_dir: &Path) -> Result<(), Failure> {
    let enter = || -> std::io::Result<()> {
        namespace::unshare(Kind::Mount.bit())?;
        let directory = open_path(run_dir)?;
        let change = Change { propagation: Some(Propagation::Slave), ..Change::default() };
        mount::change(mount::root_of(&directory)?, &change, false)
    };
    enter().map_err(|error| Failure::cannot("make a mount namespace", &error))
}

fn attach(overlay: &OwnedFd, place: &Path) -> Result<(), Failure> {
    let attach = || mount::attach(overlay, open_path(place)?);
    attach().map_err(|error| Failure::cannot("attach the root file system", &error))
}

fn open_path(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// A bind mount of what lies beside the run directory can't share with the host: see the module's invariant.
fn refuse_sharing_into_run_directory(spec: &Spec, run_dir: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::cannot("look at the mounts of the host", &error);
    let own = mount::id_of(open_path(run_dir).map_err(failed)?).map_err(failed)?;
    let shares =
        |mount: &&Mount| mount.options.iter().any(|option| option == "shared" || option == "rshared");
    for mount in spec.mounts.iter().filter(shares) {
        // A source that is missing is the runtime's to complain about.
        let Ok(source) = open_path(Path::new(&mount.source)) else { continue };
        if mount::id_of(&source).map_err(failed)? == own {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!(
                    "the bind mount of {} can't share with the host under this runtime: it is on the same mount as \
                     the daemon's run root; give the run root a mount of its own, or use the runtime \"palan\"",
                    mount.source
                ),
            ));
        }
    }
    Ok(())
}

/// Says the domain name as Docker does: runtimes before version 1.1 of the specification ignore its field.
fn name_domain_by_sysctl(spec: &mut Spec) {
    let name = std::mem::take(&mut spec.domainname);
    if !name.is_empty() {
        let sysctl = &mut spec.linux.get_or_insert_default().sysctl;
        sysctl.entry("kernel.domainname".to_owned()).or_insert(name);
    }
}

/// Makes the container join the network namespace, by a path that lives as long as this process.
fn join_network(spec: &mut Spec, namespace: &OwnedFd) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
    let namespaces = &mut spec.linux.get_or_insert_default().namespaces;
    namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
    namespaces.push(Namespace { kind: NamespaceKind::Network, path });
}
