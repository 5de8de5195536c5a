//! The engine: one value that owns all objects. The operations stand in the modules of the objects they are about.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use palan_network::{AddressPool, FirewallIntegration, HostConfig, Manager, Subnet};
use palan_registry::{Client as Registry, ClientConfig, Proxies};
use palan_store::Store;
use palan_supervisor::client::SupervisorProgram;
use palan_supervisor::runtime::cgroup::{Cgroup, Place};
use tokio::sync::Semaphore;

use crate::build::Builds;
use crate::config::{EngineConfig, SupervisorSource};
use crate::container::driver::Action;
use crate::container::exec::Sessions;
use crate::container::index::Index;
use crate::container::log_watch::DirectoryWatcher;
use crate::container::security::SeccompPrograms;
use crate::db::Database;
use crate::error::Context;
use crate::handover::Legacy;
use crate::host::HostFacts;
use crate::lock::DirectoryLock;
use crate::network::Networks;
use crate::volume::Volumes;
use crate::{Error, Result, identifier, restore};

/// The engine. Cheap to share; all methods take `&self`.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) host: HostFacts,
    /// Identity of the data root.
    pub(crate) daemon_id: String,
    /// When the data root was first used.
    pub(crate) first_start: jiff::Timestamp,
    pub(crate) db: Database,
    pub(crate) store: Store,
    pub(crate) network: Arc<Manager>,
    pub(crate) networks: Networks,
    pub(crate) registry: Registry,
    /// What supervisors are executed from; prepared when the first clients are served, or when the first supervisor is wanted.
    program: OnceLock<SupervisorProgram>,
    pub(crate) seccomp: SeccompPrograms,
    pub(crate) index: Index,
    pub(crate) sessions: Sessions,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) watcher: DirectoryWatcher,
    pub(crate) builds: Builds,
    /// Data root and run root are this daemon's alone.
    _locks: [DirectoryLock; 2],
    /// For the tasks that this starts.
    this: Weak<Self>,
}

impl Engine {
    /// Opens the data root, restores all containers and is ready to serve.
    pub async fn start(config: EngineConfig) -> Result<Arc<Self>> {
        Self::start_after(config, Legacy::default()).await
    }

    /// The same after a daemon that [handed over](Self::hand_over).
    pub async fn start_after(config: EngineConfig, legacy: Legacy) -> Result<Arc<Self>> {
        let (engine, remains) = blocking(move || Self::open(config)).await?;
        restore::restore(&engine, remains, legacy).await?;
        let preparing = Arc::clone(&engine);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = preparing.program() {
                tracing::error!(error = error.report(), "no container can be started");
            }
        });
        // Only now is it known what the containers hold.
        if !engine.config.keep_compressed_layers {
            engine.store.start_compaction(crate::storage::COMPACTION_DELAY);
        }
        if let Some(watermarks) = engine.config.image_gc {
            Self::start_image_gc(Weak::clone(&engine.this), watermarks);
        }
        Ok(engine)
    }

    fn open(config: EngineConfig) -> Result<(Arc<Self>, restore::Remains)> {
        // Settings first: what can't be used leaves nothing behind.
        let seccomp = SeccompPrograms::new(&config)?;
        let registry = Registry::new(registry_config(&config)).map_err(|source| {
            Error::invalid("the settings for registries can't be used").with_source(source)
        })?;
        let network = network_config(&config)?;
        make_directories(&config)?;
        let locks = [
            DirectoryLock::take(&config.data_root, "data root", "--data-root")?,
            DirectoryLock::take(&config.run_root, "run root", "--run-root")?,
        ];
        let (db, contents) = Database::open(&config.data_root)?;
        let store = Store::open(&config.data_root, palan_store::Limits::default())
            .context(|| format!("cannot open the images in {}", config.data_root.display()))?;
        let builds = Builds::open(&config.data_root)?;
        let unique_local = AddressPool::unique_local(random_bits(&contents.daemon_id));
        let network = Manager::open(HostConfig { unique_local, ..network })
            .context(|| "cannot set up the default network".into())?;
        let volumes = Volumes::new(contents.volumes);
        let engine = Arc::new_cyclic(|this| Self {
            config: Arc::new(config),
            host: HostFacts::read(),
            daemon_id: contents.daemon_id,
            first_start: contents.first_start,
            db,
            store,
            network,
            networks: Networks::default(),
            registry,
            program: OnceLock::new(),
            seccomp,
            index: Index::default(),
            sessions: Sessions::default(),
            volumes,
            watcher: DirectoryWatcher::default(),
            builds,
            _locks: locks,
            this: this.clone(),
        });
        engine.restore_networks(contents.networks)?;
        // The kernel tells of interfaces while the rows are still read.
        let survey = engine.network.survey().context(|| "cannot look at the network".into())?;
        Ok((engine, restore::Remains { containers: contents.containers.wait()?, survey }))
    }

    /// What supervisors are executed from. Blocking, the first time.
    pub(crate) fn program(&self) -> Result<&SupervisorProgram> {
        if let Some(program) = self.program.get() {
            return Ok(program);
        }
        let program = match &self.config.supervisor {
            SupervisorSource::Embedded(bytes) => SupervisorProgram::embedded(bytes),
            SupervisorSource::CurrentExecutable => SupervisorProgram::current_executable(),
            SupervisorSource::File(path) => SupervisorProgram::open(path),
        };
        let program = program.context(|| "cannot prepare the program of the supervisors".into())?;
        Ok(self.program.get_or_init(|| program))
    }

    /// Whether data root and run root are nobody's: the daemon that had them has let them go. Its last threads may take a moment for it.
    pub fn is_free(config: &EngineConfig) -> bool {
        let [data, run] = [&config.data_root, &config.run_root].map(|root| DirectoryLock::is_free(root));
        data && run && Store::is_free(&config.data_root)
    }

    /// Ends the daemon's work in order: containers go on, the trash is emptied, the database is flushed. Where no container
    /// runs, nothing of ours has a use any more, and the bridge, the rules and the parent cgroup go too.
    pub async fn shutdown(&self) {
        let handles = self.index.all();
        for handle in &handles {
            // A driver that is gone needs no telling.
            let _ = handle.send(Action::Quit).await;
        }
        let in_use = handles.iter().any(|handle| handle.details().state.status.is_live());
        if !in_use && let Err(error) = self.remove_host_traces().await {
            tracing::warn!(error = error.report(), "something of the default network stays on the host");
        }
        let engine = self.shared();
        let closing = blocking(move || {
            let known = handles.iter().map(|handle| handle.id.as_str()).collect();
            let cleaned = crate::restore::clean(&engine, &known);
            engine.db.close();
            cleaned
        });
        if let Err(error) = closing.await {
            tracing::warn!(error = error.report(), "the daemon did not end in order");
        }
    }

    /// Takes the bridge and the firewall's rules away, for uninstalling. Containers on the bridge lose their network.
    pub async fn remove_host_traces(&self) -> Result<()> {
        let engine = self.shared();
        blocking(move || {
            engine.network.remove_all().context(|| "cannot remove the default network".into())?;
            if let Ok(cgroup) = Cgroup::open(&Place::root(&engine.config.cgroup_parent)) {
                // Where containers still run in it, it stays.
                let _ = cgroup.remove();
            }
            Ok(())
        })
        .await
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub(crate) fn shared(&self) -> Arc<Self> {
        self.this.upgrade().expect("the engine lives while it is used")
    }

    /// Where a container's files are.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.data_root.join("containers").join(id)
    }

    /// Where a container's supervisor listens and keeps its journal.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.config.run_root.join("containers").join(id)
    }

    /// Where a volume's files are.
    pub(crate) fn volume_dir(&self, name: &str) -> PathBuf {
        self.config.data_root.join("volumes").join(name)
    }

    /// A place in the trash that is free.
    pub(crate) fn trash_name(&self) -> PathBuf {
        self.config.data_root.join("containers/.trash").join(identifier::new_id())
    }
}

/// Runs blocking code on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::system("an internal task failed").with_source(error)),
    }
}

/// The lowest layer of every container: empty places for what is mounted over, so that they need not be made in each
/// container's own layer, where they would cost time and show up as changes; and the file by which programs recognise
/// that they run in a container.
pub(crate) fn base_layer(config: &EngineConfig) -> PathBuf {
    config.data_root.join("base")
}

/// How many clients may be waited for at once; more wait for each other.
static PATIENCE: Semaphore = Semaphore::const_new(64);

/// Runs blocking code that waits for a client: for the body that it sends, or until it has read. Such a thread may stand
/// still for as long as the client likes, so it is none of the few that [`blocking`] has for everybody.
pub(crate) async fn waiting_for_client<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    const STACK: usize = 512 * 1024;
    let failed = || "an internal task failed".to_owned();
    let slot = PATIENCE.acquire().await.context(failed)?;
    let runtime = tokio::runtime::Handle::current();
    let (sender, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("client".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let _slot = slot;
            // For what it must ask of async code.
            let _runtime = runtime.enter();
            // Who asked may have gone.
            let _ = sender.send(work());
        })
        .context(|| "cannot start a thread".into())?;
    outcome.await.context(failed)?
}

fn make_directories(config: &EngineConfig) -> Result<()> {
    let (data, run) = (&config.data_root, &config.run_root);
    let directories = [
        (data.clone(), 0o710),
        (data.join("containers"), 0o710),
        (data.join("containers/.trash"), 0o700),
        (data.join("volumes"), 0o701),
        (base_layer(config), 0o755),
        (base_layer(config).join("dev"), 0o755),
        (base_layer(config).join("etc"), 0o755),
        (base_layer(config).join("proc"), 0o755),
        (base_layer(config).join("sys"), 0o755),
        // Members of the socket's group pass through; what lies inside is closed.
        (run.clone(), 0o711),
        (run.join("containers"), 0o700),
        (run.join("networks"), 0o700),
    ];
    for (path, mode) in directories {
        palan_stdx::fs::create_dir_all(&path, mode)
            .context(|| "cannot prepare the daemon's directories".into())?;
    }
    for name in [".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        let path = base_layer(config).join(name);
        palan_stdx::fs::append(&path, 0o644).context(|| "cannot prepare the daemon's directories".into())?;
    }
    for path in [data.join("containers"), data.join("volumes"), run.join("containers")] {
        let directory =
            palan_stdx::fs::open(&path).context(|| "cannot open the daemon's directories".into())?;
        palan_stdx::fs::spread_subdirectories(&directory);
    }
    Ok(())
}

/// Bits for unique local addresses: random, and the same after every restart.
fn random_bits(daemon_id: &str) -> [u8; 5] {
    let mut bits = [0; 5];
    for (index, byte) in bits.iter_mut().enumerate() {
        *byte = daemon_id
            .get(index * 2..index * 2 + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .unwrap_or(0);
    }
    bits
}

fn network_config(config: &EngineConfig) -> Result<HostConfig> {
    let subnet = |text: &str| {
        text.parse::<Subnet>()
            .map_err(|source| Error::invalid("an address setting can't be used").with_source(source))
    };
    let mut network = HostConfig::for_bridge(&config.bridge);
    network.table.clone_from(&config.firewall_table);
    if !config.default_address_pools.is_empty() {
        let pools = config.default_address_pools.iter();
        let pools = pools.map(|pool| Ok(AddressPool { base: subnet(&pool.base)?, size: pool.size }));
        network.pools = pools.collect::<Result<_>>()?;
    }
    if !config.firewall_integration {
        network.firewall_integration = FirewallIntegration::None;
    }
    Ok(network)
}

fn registry_config(config: &EngineConfig) -> ClientConfig {
    let mut registry = ClientConfig {
        mirrors: config.registry_mirrors.clone(),
        insecure_registries: config.insecure_registries.clone(),
        certificate_directories: config.certs_dirs.clone(),
        user_agent: format!("palan/{}", config.version),
        max_concurrent_downloads: usize::try_from(config.max_concurrent_downloads).unwrap_or(usize::MAX),
        max_concurrent_uploads: usize::try_from(config.max_concurrent_uploads).unwrap_or(usize::MAX),
        proxies: Proxies {
            http: config.proxies.http.clone(),
            https: config.proxies.https.clone(),
            exceptions: config.proxies.exceptions.clone(),
        },
        ..ClientConfig::default()
    };
    registry.timing.attempts = config.max_download_attempts;
    registry
}
