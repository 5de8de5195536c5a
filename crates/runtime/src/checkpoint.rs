//! Checkpoints: a container's processes saved to files and made anew from them, by CRIU.
//!
//! ```text
//! running ──save(PreDump)──▶ running          memory only; a later save with these as parent has less to write
//!    │ ├────save(LeaveRunning)─▶ running
//!    │ └────save(Stop)──▶ ended: the caller deletes it
//!    ▲
//!    └──────restore()──── images, a bundle, and a cgroup made as for a new container
//! ```
//!
//! Saving:
//! 1. What is external to the container is listed ([`external`]): CRIU refuses to save what it does not know how to
//!    restore.
//! 2. CRIU stops the processes by the cgroup's freezer, reads them, and kills them or lets them go on.
//! 3. `descriptors.json` beside the images tells what the standard streams were: a pipe's other end is not saved.
//!
//! Restoring:
//! 1. This process gets a mount namespace of its own. Nothing that is mounted for CRIU reaches the host, and nothing is
//!    left behind whatever happens.
//! 2. Mount points that are missing in the root file system are made there, with the bind mounts in place that they may
//!    lie in, as on creation; then these mounts go again, for CRIU mounts for itself.
//! 3. The cgroup is made and limited, and CRIU put into it: what it makes is born there.
//! 4. CRIU makes the processes, the first one as our child, says so when they stand before going on
//!    (`post-restore`; now the state is recorded), and ends.

mod criu;
mod external;
mod rpc;

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use palan_linux::mount::{self, Propagation};
use palan_linux::namespace::{self, Kind as NamespaceKind};
use palan_linux::path::RootDir;
use palan_linux::process::{self, ExitStatus};
use palan_oci::runtime_spec::Spec;
use palan_stdx::fs;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::process::Pid;

use crate::cgroup::{Cgroup, Location, Place};
use crate::container::{Container, CreateRequest, Rootfs, Stdio, limit, told};
use crate::error::{Context, Error};
use crate::hooks::HookState;
use crate::init;
use crate::plan::Plan;

pub use criu::{Criu, CriuError, Version};
pub use external::External;
pub use rpc::{CgroupMode, Malformed};

use criu::{Said, Worker, text};
use rpc::{Features, Kind, Options, Request};

/// What saving and restoring have in common.
#[derive(Debug, Default)]
pub struct Settings {
    /// Directory of the images.
    pub images: PathBuf,
    /// Directory of CRIU's log and statistics; that of the images if there is none.
    pub work: Option<PathBuf>,
    /// A file of CRIU options, which win over everything else.
    pub configuration: Option<String>,
    /// What to do about cgroups.
    pub cgroup_mode: CgroupMode,
    /// Allow processes whose session leader is outside of the container.
    pub shell_job: bool,
    /// Allow open TCP connections.
    pub tcp_established: bool,
    /// Allow unix sockets whose other end is outside.
    pub external_unix_sockets: bool,
    /// Handle file locks.
    pub file_locks: bool,
    /// Drop what is in parent images too.
    pub auto_dedup: bool,
    /// Leave memory where it was, for a page server to hand out.
    pub lazy_pages: bool,
}

/// What happens to the container when it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saving {
    /// Its processes are killed.
    Stop,
    /// They go on.
    LeaveRunning,
    /// They go on, and nothing but memory is saved.
    PreDump,
}

/// A container to save.
#[derive(Debug)]
pub struct SaveRequest<'a> {
    /// Its first process, which must not be reaped meanwhile.
    pub pid: i32,
    /// Its root file system.
    pub rootfs: &'a Path,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
    /// What it has from outside.
    pub external: &'a External,
    /// What becomes of it.
    pub saving: Saving,
    /// Where and how.
    pub settings: &'a Settings,
    /// Earlier images that these build upon, relative to the directory of the images.
    pub parent_images: Option<&'a str>,
    /// Leave out connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Give deleted files a name again where possible.
    pub link_remap: bool,
    /// Where memory is sent to, or, with lazy pages, fetched from.
    pub page_server: Option<(String, u16)>,
    /// Gets a zero byte when memory can be fetched.
    pub status: Option<OwnedFd>,
}

/// A container to restore.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    /// What takes the place of the pipes that it had as its standard streams; without a terminal only. `None`: the streams of this
    /// process.
    pub streams: Option<[BorrowedFd<'a>; 3]>,
    /// The container's ID.
    pub id: &'a str,
    /// Its specification.
    pub spec: &'a Spec,
    /// Directory that relative paths of bind mounts start from.
    pub bundle: &'a Path,
    /// Its root file system.
    pub rootfs: &'a Path,
    /// The cgroup's path below the root of each hierarchy.
    pub cgroup: Location<'a>,
    /// Where from and how.
    pub settings: &'a Settings,
    /// A security profile, `type:name`, instead of the saved one.
    pub lsm_profile: Option<&'a str>,
    /// A security context for mounts.
    pub lsm_mount_context: Option<&'a str>,
}

const DESCRIPTORS: &str = "descriptors.json";

/// CRIU's level of detail in its logs: as runc has it.
const LOG_LEVEL: u8 = 4;

/// Descriptors from this one on are ours to give to CRIU: before it stand its streams and its socket.
const FIRST_DESCRIPTOR: i32 = 4;

/// Saves a container.
pub fn save(criu: &Criu, request: SaveRequest<'_>) -> Result<(), Error> {
    let mut save = Save::begin(criu, request)?;
    while !save.advance(&mut || Ok(()))? {}
    Ok(())
}

/// A container that is being saved, for callers that have more to do meanwhile. Dropped before it is done, CRIU undoes what it has
/// begun, and is waited for.
#[derive(Debug)]
pub struct Save {
    worker: Option<Worker>,
    kind: Kind,
    log: PathBuf,
    status: Option<OwnedFd>,
    /// CRIU finds them by our numbers for them.
    _directories: Directories,
}

impl Save {
    /// Asks CRIU to save a container.
    pub fn begin(criu: &Criu, mut request: SaveRequest<'_>) -> Result<Self, Error> {
        let settings = request.settings;
        check_features(criu, &request)?;
        let directories = Directories::open(settings, "dump.log")?;
        let pre_dump = request.saving == Saving::PreDump;
        let mut options = options(settings, &directories)?;
        options.pid = Some(request.pid);
        options.root = text(request.rootfs)?;
        options.leave_running = request.saving == Saving::LeaveRunning;
        options.tcp_skip_in_flight = request.tcp_skip_in_flight;
        options.link_remap = request.link_remap;
        options.page_server = request.page_server.take();
        options.parent_images = request.parent_images.map(str::to_owned);
        if let Some(freezer) = request.cgroup.freezer().filter(|_| criu.has(Version(31_400))) {
            options.freeze_cgroup = Some(text(freezer)?);
        }
        options.external = request.external.namespaces_to_save()?;
        if !options.external.is_empty() {
            criu.require(Version(31_500), "a namespace with a path")?;
        }
        if !pre_dump {
            options.external.extend(request.external.to_save(request.pid, request.cgroup)?);
            let descriptors = serde_json::to_vec(&request.external.descriptors)
                .map_err(|error| Error::system(format!("write {DESCRIPTORS}"), error))?;
            fs::write(&settings.images.join(DESCRIPTORS), descriptors).map_err(|error| {
                Error::system(format!("write {DESCRIPTORS}"), std::io::Error::other(error))
            })?;
        }
        let kind = if pre_dump { Kind::PreDump } else { Kind::Dump };
        let worker = criu.start([directories.null.as_fd(); 3], &[])?;
        worker.send(&Request::Act(kind, &options))?;
        let log = directories.log.clone();
        Ok(Self { worker: Some(worker), kind, log, status: request.status, _directories: directories })
    }

    /// Readable when CRIU has something to say.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.worker.as_ref().and_then(Worker::descriptor)
    }

    /// Waits for CRIU's next word and answers it. `true`: that was the last. `complete` is called when everything is saved and no
    /// process was killed yet or goes on; if it fails, all go on.
    pub fn advance(&mut self, complete: &mut dyn FnMut() -> std::io::Result<()>) -> Result<bool, Error> {
        let Some(worker) = &self.worker else { return Ok(true) };
        match worker.next(self.kind, &self.log)? {
            Said::Notification(notification, _) => {
                let mut outcome = Ok(());
                match notification.name.as_str() {
                    // Closed with this: whoever waits at its other end waits no longer, read or not.
                    "status-ready" => {
                        if let Some(status) = self.status.take() {
                            let _ = rustix::io::write(status, &[0]);
                        }
                    }
                    "post-dump" => outcome = complete(),
                    _ => {}
                }
                worker.send(&Request::Notified(outcome.is_ok()))?;
                if let Err(error) = outcome {
                    // It lets all go on and then calls our refusal a failure, of which we know better.
                    while let Ok(Said::Notification(..)) = worker.next(self.kind, &self.log) {
                        worker.send(&Request::Notified(true))?;
                    }
                    return Err(Error::system("complete the checkpoint".to_owned(), error));
                }
                Ok(false)
            }
            Said::Done => {
                let Some(worker) = self.worker.take() else { return Ok(true) };
                match worker.finish()? {
                    ExitStatus::Exited(0) => Ok(true),
                    // It would go on with further pre-dumps of this conversation, and calls our leaving a failure.
                    _ if self.kind == Kind::PreDump => Ok(true),
                    status => Err(CriuError::Ended(criu::describe(status)).into()),
                }
            }
        }
    }

    /// Ends a CRIU that has no container any more, whatever it does.
    pub fn kill(&self) {
        if let Some(worker) = &self.worker {
            worker.kill();
        }
    }
}

/// Asks for what not every kernel or CRIU has, before anything is done.
fn check_features(criu: &Criu, request: &SaveRequest<'_>) -> Result<(), Error> {
    if request.status.is_some() {
        criu.require(Version(31_500), "--status-fd")?;
    }
    let wanted = Features {
        memory_tracking: request.saving == Saving::PreDump,
        lazy_pages: request.settings.lazy_pages,
    };
    if wanted == Features::default() {
        return Ok(());
    }
    let found = criu.features(wanted)?;
    if wanted.memory_tracking && !found.memory_tracking {
        return Err(CriuError::Unsupported("a pre-dump (mem_dirty_track)").into());
    }
    if wanted.lazy_pages && !found.lazy_pages {
        return Err(CriuError::Unsupported("--lazy-pages (uffd-noncoop)").into());
    }
    Ok(())
}

/// Restores a container. `restored` is called with the PID of its first process, a child of this one, and its cgroup's place when everything
/// is made and nothing runs yet; if it fails, nothing will.
///
/// This process is in a mount namespace of its own afterwards. When it fails, no process and no cgroup is left.
pub fn restore(
    criu: &Criu,
    request: &RestoreRequest<'_>,
    restored: &mut dyn FnMut(i32, &Place) -> std::io::Result<()>,
) -> Result<Container, Error> {
    let settings = request.settings;
    for (given, what) in
        [(request.lsm_profile, "--lsm-profile"), (request.lsm_mount_context, "--lsm-mount-context")]
    {
        if given.is_some() {
            // Before, it did not change what it should.
            criu.require(Version(31_600), what)?;
        }
    }
    let plan = plan(request)?;
    let root = prepare_root(&plan, request.rootfs)?;
    // Only now: CRIU mounts in these, which it can't in those of the host's mount namespace.
    let directories = Directories::open(settings, "restore.log")?;
    let mut options = options(settings, &directories)?;
    options.sibling = true;
    options.evasive_devices = true;
    options.lsm_profile = request.lsm_profile.map(str::to_owned);
    options.lsm_mount_context = request.lsm_mount_context.map(str::to_owned);
    let namespaces = external::namespaces_to_restore(request.spec)?;
    if !namespaces.open.is_empty() {
        criu.require(Version(31_500), "a namespace with a path")?;
    }
    options.join_namespaces = namespaces.join;
    options.inherited = pipes(&settings.images)?;
    let keys = namespaces.open.iter().map(|(key, _)| (*key).to_owned());
    options.inherited.extend(keys.zip(FIRST_DESCRIPTOR..));
    options.root = text(&root)?;

    let state = HookState {
        oci_version: &request.spec.oci_version,
        id: request.id,
        bundle: request.bundle,
        annotations: &request.spec.annotations,
    };
    let mut cgroup = Cgroup::create(request.cgroup)?;
    let made = limit(&mut cgroup, request.spec).and_then(|warnings| {
        options.external = external::mounts_to_restore(request.spec, &plan.mounts, &cgroup)?;
        let terminal = request.spec.process.as_ref().is_some_and(|process| process.terminal);
        let streams = match request.streams {
            _ if terminal => [directories.null.as_fd(); 3],
            Some(streams) => streams,
            None => own_streams(),
        };
        let descriptors: Vec<_> = namespaces.open.iter().map(|(_, namespace)| namespace.as_fd()).collect();
        let worker = criu.start(streams, &descriptors)?;
        cgroup.add(worker.pid())?;
        options.cgroup_roots = cgroups_of(worker.pid())?;
        worker.send(&Request::Act(Kind::Restore, &options))?;
        let mut made = Made::default();
        let mut steps = Steps {
            prepared: &mut |pid| plan.hooks.run_in_caller(&state, pid),
            restored: &mut |pid| restored(pid, cgroup.place()),
        };
        match attend(worker, &directories.log, &mut made, &mut steps) {
            Ok(()) => Ok((warnings, made)),
            Err(error) => {
                made.discard(&cgroup);
                Err(error)
            }
        }
    });
    match made {
        Ok((warnings, Made { first: Some((pid, pidfd)), console_master })) => {
            cgroup.settle();
            Ok(Container {
                pid,
                pidfd,
                console_master,
                state: told(request.id, request.spec, request.bundle).at("running", pid),
                cgroup,
                resource_group: None,
                warnings,
            })
        }
        Ok(_) => Err(CriuError::Unexpected(Kind::Restore.name()).into()),
        Err(error) => {
            // The failure is the error to tell.
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// What CRIU has made and told of so far.
#[derive(Debug, Default)]
struct Made {
    first: Option<(i32, OwnedFd)>,
    console_master: Option<OwnedFd>,
}

impl Made {
    /// Ends what CRIU may have left of a container that nobody wants any more.
    fn discard(&self, cgroup: &Cgroup) {
        // Processes that end by themselves need neither.
        let _ = cgroup.kill();
        if let Some((_, pidfd)) = &self.first {
            let _ = process::wait(pidfd);
        }
    }
}

/// What is to be done while CRIU restores, each with the PID of the first process.
struct Steps<'a> {
    /// Its namespaces are made: the moment for the hooks of the caller.
    prepared: &'a mut dyn FnMut(i32) -> Result<(), Error>,
    /// All is made and nothing runs yet.
    restored: &'a mut dyn FnMut(i32) -> std::io::Result<()>,
}

/// Listens to a CRIU that restores until it is done.
fn attend(worker: Worker, log: &Path, made: &mut Made, steps: &mut Steps<'_>) -> Result<(), Error> {
    let mut refused = None;
    loop {
        let (notification, mut descriptors) = match worker.next(Kind::Restore, log) {
            Ok(Said::Done) => break,
            Ok(Said::Notification(notification, descriptors)) => (notification, descriptors),
            // It fails because we have refused: our reason is the one to tell.
            Err(error) => return Err(refused.unwrap_or_else(|| error.into())),
        };
        match notification.name.as_str() {
            "setup-namespaces" => refused = (steps.prepared)(notification.pid).err(),
            "orphan-pts-master" => made.console_master = descriptors.pop(),
            "post-restore" => {
                let pidfd = Pid::from_raw(notification.pid).ok_or(rustix::io::Errno::SRCH.into());
                let recorded = pidfd.and_then(process::open_pidfd).and_then(|pidfd| {
                    made.first = Some((notification.pid, pidfd));
                    (steps.restored)(notification.pid)
                });
                refused = recorded.err().map(|error| Error::system("record the restored container", error));
            }
            _ => {}
        }
        worker.send(&Request::Notified(refused.is_none()))?;
    }
    match worker.finish()? {
        ExitStatus::Exited(0) => Ok(()),
        status => Err(CriuError::Ended(criu::describe(status)).into()),
    }
}

/// Checks the specification as for a new container.
fn plan(request: &RestoreRequest<'_>) -> Result<Plan, Error> {
    Plan::new(&CreateRequest {
        id: request.id,
        spec: request.spec,
        bundle: request.bundle,
        rootfs: &Rootfs::Directory(request.rootfs.to_owned()),
        user: None,
        groups: &[],
        create_cwd: false,
        network_namespace: None,
        seccomp: None,
        stdio: Stdio::Inherit,
        cgroup: request.cgroup,
        parent_death_signal: false,
        init: false,
        extra_descriptors: &[],
        start_fifo: None,
        no_pivot: false,
        keep_keyring: false,
        sources: &[],
    })
}

/// Leaves the host's mount namespace and makes of the root file system what CRIU wants: every mount point is there, and
/// it is itself a mount. Returns its path without symlinks.
fn prepare_root(plan: &Plan, rootfs: &Path) -> Result<PathBuf, Error> {
    let path = std::fs::canonicalize(rootfs).context(|| format!("find the rootfs {}", rootfs.display()))?;
    namespace::unshare(NamespaceKind::Mount.bit()).context(|| "make a mount namespace".to_owned())?;
    mount::set_root_propagation(Propagation::Slave)
        .context(|| "change the propagation of the host's mounts".to_owned())?;
    let place = RootDir::open(&path)?;
    let bind = || mount::clone_of(&place, true).and_then(|root| mount::attach(&root, &place).map(|()| root));
    let what = || format!("bind the rootfs {}", path.display());

    let root = RootDir::from_fd(bind().context(what)?);
    init::make_places(&root, &plan.mounts)?;
    drop(root);
    CString::new(path.as_os_str().as_bytes())
        .map_err(std::io::Error::other)
        .and_then(|path| mount::detach(&path))
        .context(|| format!("take the mounts off {}", path.display()))?;

    let found = rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .context(|| format!("inspect {}", path.display()))?;
    // A mount on a mount would hide from CRIU what it has to restore on.
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        bind().context(what)?;
    }
    Ok(path)
}

/// Where CRIU reads and writes, kept open: it takes the directories by our numbers for them.
#[derive(Debug)]
struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
    log: PathBuf,
    log_name: &'static str,
    null: OwnedFd,
}

impl Directories {
    fn open(settings: &Settings, log_name: &'static str) -> Result<Self, Error> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
        };
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .context(|| "open /dev/null".to_owned())?;
        Ok(Self {
            images: open(&settings.images)?,
            work: settings.work.as_deref().map(open).transpose()?,
            log: settings.work.as_ref().unwrap_or(&settings.images).join(log_name),
            log_name,
            null,
        })
    }
}

fn options(settings: &Settings, directories: &Directories) -> Result<Options, Error> {
    Ok(Options {
        images_directory: directories.images.as_raw_fd(),
        work_directory: directories.work.as_ref().map(AsRawFd::as_raw_fd),
        log_file: directories.log_name,
        log_level: LOG_LEVEL,
        configuration_file: settings.configuration.clone(),
        external_unix_sockets: settings.external_unix_sockets,
        tcp_established: settings.tcp_established,
        shell_job: settings.shell_job,
        file_locks: settings.file_locks,
        auto_dedup: settings.auto_dedup,
        lazy_pages: settings.lazy_pages,
        notify: true,
        orphan_terminal_master: true,
        cgroup_mode: settings.cgroup_mode,
        // What is in a network namespace is its maker's, for whom it is restored as new ones are made.
        empty_namespaces: NamespaceKind::Network.bit().bits(),
        ..Options::default()
    })
}

fn own_streams() -> [BorrowedFd<'static>; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
}

/// What the fuzz target sees: reads bytes as an answer of CRIU.
#[cfg(feature = "fuzz")]
pub fn read_answer(bytes: &[u8]) {
    if let Ok(answer) = rpc::Response::decode(bytes) {
        let _ = format!("{answer:?}");
    }
}

/// The pipes among the standard streams of a saved container, whose place ours take.
fn pipes(images: &Path) -> Result<Vec<(String, i32)>, Error> {
    const LIMIT: u64 = 64 * 1024;
    let path = images.join(DESCRIPTORS);
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .context(|| format!("read {}", path.display()))?;
    let all: Vec<String> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Invalid(format!("{} is not valid: {error}", path.display())))?;
    Ok(all.into_iter().take(3).zip(0..).filter(|(key, _)| key.starts_with("pipe:")).collect())
}

/// Where a process is, by controller, in `/proc/<pid>/cgroup`. cgroup v2 has the name "".
fn cgroups_of(pid: i32) -> Result<Vec<(String, String)>, Error> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .context(|| "find the cgroups of criu".to_owned())?;
    let mut found = Vec::new();
    for line in table.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        found.extend(controllers.split(',').map(|name| (name.to_owned(), path.to_owned())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_take_the_place_of_pipes() {
        let directory = tempfile::tempdir().unwrap();
        assert!(pipes(directory.path()).is_err());
        let file = directory.path().join(DESCRIPTORS);
        std::fs::write(&file, r#"["/dev/null","pipe:[7]","pipe:[8]","pipe:[9]"]"#).unwrap();
        let expected = [("pipe:[7]".to_owned(), 1), ("pipe:[8]".to_owned(), 2)];
        assert_eq!(pipes(directory.path()).unwrap(), expected);
        for bad in ["", "{}", "[1]", "nonsense"] {
            std::fs::write(&file, bad).unwrap();
            assert!(pipes(directory.path()).is_err(), "{bad}");
        }
    }
}
