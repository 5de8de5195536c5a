//! Making a container: checks, the image, the mounts, the directories; then the row and the event in one transaction.
//! When a step fails, all before it are undone.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use palan_network::files::{self, DnsOptions};
use palan_oci::Platform;
use palan_store::Image;

use crate::cdi;
use crate::container::driver::{container_event, short};
use crate::container::index::Handle;
use crate::container::mounts::{self, Planned};
use crate::container::{
    Created, Details, MountPoint, OverlayDirs, driver, health, limits, logging, merge, namespaces, oci,
    quota, security, validate,
};
use crate::db::Change;
use crate::engine::{Engine, blocking, waiting_for_client};
use crate::error::Context;
use crate::network::{endpoints, ports};
use crate::spec::{ContainerSpec, HostConfig};
use crate::volume::{Fill, Volume};
use crate::{Error, Result, identifier, image, volume};

/// Version of [`Details`] as stored.
const DETAILS_VERSION: u32 = 1;

/// An empty file at the root of every container, under the name that Docker gave it.
pub(crate) const CONTAINER_MARK: &str = ".dockerenv";

impl Engine {
    /// Makes a container.
    pub async fn create(&self, mut spec: ContainerSpec) -> Result<Created> {
        let mut warnings = limits::complete(&mut spec.host.resources, &self.host);
        warnings.extend(limits::oom_score_warning(spec.host.oom_score_adj, &self.host));
        validate::spec(&spec, &self.host)?;
        let id = identifier::new_id();
        let name = self.index.reserve_name(spec.name.as_deref(), &id)?;
        let engine = self.shared();
        let (own_id, own_name) = (id.clone(), name.clone());
        // A volume that must be mounted to be filled may have a server that does not answer.
        let asks_for_options = |mount: &crate::spec::Mount| {
            mount.volume.as_ref().is_some_and(|volume| !volume.driver_options.is_empty())
        };
        let may_take_long = self.volumes.have_options() || spec.host.mounts.iter().any(asks_for_options);
        let make = move || Making::new(&engine, own_id).make(spec, own_name);
        let made = if may_take_long { waiting_for_client(make).await } else { blocking(make).await };
        let outcome = match made {
            Ok(mut made) => {
                warnings.append(&mut made.warnings);
                self.record(Made { warnings, ..made }).await
            }
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.index.release(&name, &id);
        }
        self.volumes.unpin(&id);
        outcome
    }

    async fn record(&self, made: Made) -> Result<Created> {
        let Made { details, volumes, warnings } = made;
        let id = details.id.clone();
        let mut change = Change::new();
        for (volume, is_new) in &volumes {
            change = change.put_volume(volume.clone());
            if *is_new {
                change = change.event(volume::event(&volume.name, "create"));
            }
        }
        let images = details.mounts.iter().filter(|mount| mount.kind == "image").count();
        let names: Vec<String> = volumes.iter().map(|(volume, _)| volume.name.clone()).collect();
        let change =
            change.put_container(Arc::new(details.clone())).event(container_event(&details, "create", []));
        if let Err(error) = self.db.commit(change).await {
            let engine = self.shared();
            let undo = blocking(move || {
                quota::release(&details.overlay.upper, details.quota_project);
                Undo { engine: &engine, id: &id, volumes: &volumes, images }.all();
                Ok(())
            });
            undo.await?;
            return Err(error);
        }
        self.volumes.recorded(names.iter().map(String::as_str));
        let (handle, inbox) = Handle::new(details);
        self.index.insert(handle.clone());
        driver::spawn(self.shared(), handle, inbox, driver::Supervisor::Absent, Vec::new());
        Ok(Created { id, warnings })
    }
}

struct Made {
    details: Details,
    /// Volumes that the database does not have yet, and whether they were made for this container.
    volumes: Vec<(Volume, bool)>,
    warnings: Vec<String>,
}

/// A container being made, on a blocking thread.
struct Making<'a> {
    engine: &'a Engine,
    id: String,
    volumes: Vec<(Volume, bool)>,
    /// How many images are held for its mounts.
    images: usize,
    /// See [`Details::quota_project`].
    quota_project: u32,
    warnings: Vec<String>,
}

impl<'a> Making<'a> {
    fn new(engine: &'a Engine, id: String) -> Self {
        Self { engine, id, volumes: Vec::new(), images: 0, quota_project: 0, warnings: Vec::new() }
    }

    fn make(mut self, spec: ContainerSpec, name: String) -> Result<Made> {
        match self.steps(spec, name) {
            Ok(details) => Ok(Made { details, volumes: self.volumes, warnings: self.warnings }),
            Err(error) => {
                let upper = self.engine.container_dir(&self.id).join("upper");
                quota::release(&upper.to_string_lossy(), self.quota_project);
                Undo { engine: self.engine, id: &self.id, volumes: &self.volumes, images: self.images }.all();
                Err(error)
            }
        }
    }

    fn steps(&mut self, spec: ContainerSpec, name: String) -> Result<Details> {
        let engine = self.engine;
        let image = self.image(&spec)?;
        let mut details = self.details(&spec, name, &image)?;
        let inherited = inherited_mounts(engine, &spec.host)?;
        let planned = mounts::plan(&spec, details.config.volumes.iter().cloned(), inherited)?;
        engine.store.hold(&self.id, &image.id).map_err(image::store_error)?;
        let lowers = engine.store.lower_dirs(&image.id).map_err(image::store_error)?;
        details.overlay.lowers = lowers.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        self.make_directories(&mut details)?;
        for planned in planned {
            let point = self.make_mount(planned, &image)?;
            details.mounts.push(point);
        }
        write_files(engine, &details)?;
        // What the start would refuse is refused now, when the user still looks.
        let options = security::options(&details.host.security_opt, &engine.host, &engine.config)?;
        let mut spec = oci::spec(&details, &options)?;
        cdi::inject(&details.host.resources.requested_devices, &engine.config.cdi_spec_dirs, &mut spec)?;
        details.app_armor_profile = options.app_armor.unwrap_or_default();
        ports::port_bindings(&details)?;
        Ok(details)
    }

    fn image(&mut self, spec: &ContainerSpec) -> Result<Image> {
        let image = self.engine.store.resolve(&spec.config.image).map_err(image::store_error)?;
        let actual = image.config.platform();
        match &spec.platform {
            Some(text) => {
                let wanted = parse_platform(text)?;
                if !wanted.matches(&actual) {
                    return Err(Error::not_found(format!(
                        "image with reference {} was found but its platform ({actual}) does not match the specified \
                         platform ({wanted})",
                        spec.config.image
                    )));
                }
            }
            None if !Platform::host().matches(&actual) => self.warnings.push(format!(
                "The requested image's platform ({actual}) does not match the detected host platform ({}) and no specific \
                 platform was requested",
                Platform::host()
            )),
            None => {}
        }
        Ok(image)
    }

    fn details(&mut self, spec: &ContainerSpec, name: String, image: &Image) -> Result<Details> {
        let engine = self.engine;
        let directory = engine.container_dir(&self.id);
        let path_of = |file: &str| directory.join(file).to_string_lossy().into_owned();
        let mut config = merge::merge(spec.config.clone(), &image.config.config);
        let (path, args) = merge::command_line(&config)?;
        self.warnings.extend(health::check_merged(&config)?);
        let mut host = complete_host(engine, spec)?;
        namespaces::settle_names(engine, &mut host)?;
        let endpoints = endpoints::of_new_container(engine, &mut host, &spec.endpoints)?;
        if config.hostname.is_empty() {
            config.hostname = if host.network_mode == "host" || host.uts_mode == "host" {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            } else {
                short(&self.id).to_owned()
            };
        }
        let log_path =
            if host.log.driver != "none" { path_of(&format!("{}-json.log", self.id)) } else { String::new() };
        // A container that shares another's network has its files about the network, too.
        let shared = match endpoints::shared_with(&host) {
            Some(other) => Some(namespaces::find(engine, other)?.details()),
            None => None,
        };
        if let Some(other) = &shared {
            host.network_mode = format!("container:{}", other.id);
            config.hostname.clone_from(&other.config.hostname);
            config.domainname.clone_from(&other.config.domainname);
        }
        let own_or_shared = |own: &str, of: &dyn Fn(&Details) -> &String| {
            shared.as_ref().map_or_else(|| path_of(own), |other| of(other).clone())
        };
        Ok(Details {
            version: DETAILS_VERSION,
            id: self.id.clone(),
            name,
            created: Timestamp::now(),
            image_id: image.id.to_string(),
            platform: image.config.platform().to_string(),
            image_manifest: Some(image.manifest.to_string()),
            path,
            args,
            endpoints,
            log_path,
            resolv_conf_path: own_or_shared("resolv.conf", &|other| &other.resolv_conf_path),
            hostname_path: own_or_shared("hostname", &|other| &other.hostname_path),
            hosts_path: own_or_shared("hosts", &|other| &other.hosts_path),
            cgroup_path: match host.resources.cgroup_parent.as_str() {
                "" => cgroup_path(&engine.config.cgroup_parent, &self.id),
                parent => cgroup_path(parent, &self.id),
            },
            overlay: OverlayDirs { lowers: Vec::new(), upper: path_of("upper"), work: path_of("work") },
            config,
            host,
            ..Details::default()
        })
    }

    fn make_directories(&mut self, details: &mut Details) -> Result<()> {
        let directory = self.engine.container_dir(&self.id);
        let directories = [
            (directory.as_path(), 0o710),
            (Path::new(&details.overlay.upper), 0o755),
            (Path::new(&details.overlay.work), 0o700),
        ];
        for (path, mode) in directories {
            palan_stdx::fs::create_dir(path, mode)
                .context(|| "cannot make the container's directories".into())?;
        }
        quota::limit(details)?;
        self.quota_project = details.quota_project;
        // What programs look for to learn that they run in a container.
        let mark = Path::new(&details.overlay.upper).join(CONTAINER_MARK);
        palan_stdx::fs::write(&mark, "").context(|| "cannot mark the container's root".into())?;
        if endpoints::shared_with(&details.host).is_some() {
            return Ok(());
        }
        // Until the first start, the hosts file exists so that it can be mounted over.
        palan_stdx::fs::write(Path::new(&details.hosts_path), "")
            .context(|| "cannot write the hosts file".into())
    }

    /// Makes what a mount needs: the volume with its content, or the missing source of a bind mount.
    fn make_mount(&mut self, planned: Planned, image: &Image) -> Result<MountPoint> {
        let mut point = planned.point;
        match point.kind.as_str() {
            "bind" => {
                let source = Path::new(&point.source);
                if !source.exists() {
                    if !planned.create_source {
                        return Err(Error::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path does not exist: {}",
                            point.source
                        )));
                    }
                    palan_stdx::fs::create_dir_all(source, 0o755)
                        .context(|| format!("error while creating mount source path '{}'", point.source))?;
                }
            }
            "volume" => {
                let spec = volume::checked(volume::VolumeSpec {
                    name: point.name.clone(),
                    labels: planned.labels,
                    options: planned.driver_options,
                    driver: String::new(),
                })?;
                let made = self.engine.ensure_volume(spec, &self.id)?;
                point.name.clone_from(&made.volume.name);
                point.source.clone_from(&made.volume.mountpoint);
                if made.is_unrecorded {
                    self.volumes.push((made.volume.clone(), made.is_new));
                }
                if planned.copy_up {
                    self.copy_up(image, &point, &made.volume)?;
                }
            }
            "image" => {
                let store = &self.engine.store;
                let shown = if point.image_id.is_empty() { &point.name } else { &point.image_id };
                let shown = store.resolve(shown).map_err(image::store_error)?;
                // The same as for the container's own image: the layers stay, whatever becomes of the image.
                store.hold(&format!("{}/{}", self.id, self.images), &shown.id).map_err(image::store_error)?;
                self.images += 1;
                let layers = store.lower_dirs(&shown.id).map_err(image::store_error)?;
                point.image_id = shown.id.to_string();
                point.layers = layers.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            }
            _ => {}
        }
        Ok(point)
    }

    /// Copies what the image has at a volume's place into the volume, if the volume is empty.
    fn copy_up(&self, image: &Image, point: &MountPoint, volume: &Volume) -> Result<()> {
        let view = self.engine.store.view(&image.id).map_err(image::store_error)?;
        let inside = Path::new(point.destination.trim_start_matches('/'));
        // Nothing, or no directory, at that place in the image: the volume stays empty.
        if !view.metadata(inside).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        self.engine.attach_volumes(&self.id, [volume.name.as_str()].into_iter())?;
        let is_mounted = !volume.options.is_empty();
        let filled = Fill::open(Path::new(&volume.mountpoint), is_mounted)
            .and_then(|fill| fill.copy_up(&view, inside, Path::new(&point.subpath)));
        self.engine.detach_volumes(&self.id);
        filled.map_err(|source| {
            Error::new(source.class(), format!("cannot fill the volume {}", volume.name)).with_source(source)
        })
    }
}

/// The host part with the daemon's defaults.
pub(crate) fn complete_host(engine: &Engine, spec: &ContainerSpec) -> Result<HostConfig> {
    let settings = &engine.config;
    let mut host = spec.host.clone();
    if host.log.driver.is_empty() {
        host.log.driver = settings.log.driver.clone();
    }
    if host.log.driver == settings.log.driver {
        for (key, value) in &settings.log.options {
            host.log.options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    logging::check(&host.log)?;
    if matches!(host.network_mode.as_str(), "" | "default") {
        host.network_mode = if spec.config.network_disabled { "none" } else { "bridge" }.into();
    }
    if host.shm_size == 0 {
        host.shm_size = settings.default_shm_size;
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode.clone_from(&settings.default_ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        // As in Docker: a privileged container expects to see all of an old hierarchy.
        let sees_all = host.privileged && engine.host.cgroup_version == 1;
        host.cgroupns_mode = if sees_all { "host" } else { settings.default_cgroupns_mode.as_str() }.into();
    }
    if host.restart_policy.name.is_empty() {
        host.restart_policy.name = "no".into();
    }
    if host.runtime.is_empty() {
        settings.runtimes.default_name().clone_into(&mut host.runtime);
    }
    settings.runtimes.find(&host.runtime)?;
    for (name, limit) in &settings.default_ulimits {
        if !host.resources.ulimits.iter().any(|own| own.name == *name) {
            host.resources.ulimits.push(limit.clone());
        }
    }
    let options = security::options(&host.security_opt, &engine.host, settings)?;
    let hidden = !host.privileged && !options.system_paths_unconfined;
    let paths = |list: &[&str]| -> Vec<String> {
        if hidden { list.iter().map(|path| (*path).to_owned()).collect() } else { Vec::new() }
    };
    let thermal = engine.host.thermal_paths.iter().map(String::as_str);
    let masked: Vec<&str> = oci::MASKED_PATHS.into_iter().chain(thermal).collect();
    host.masked_paths.get_or_insert_with(|| paths(&masked));
    host.readonly_paths.get_or_insert_with(|| paths(&oci::READONLY_PATHS));
    Ok(host)
}

/// A platform as typed, or an error in Docker's words.
pub(crate) fn parse_platform(text: &str) -> Result<Platform> {
    text.parse().map_err(|source: palan_oci::platform::PlatformError| {
        Error::invalid("invalid platform").with_source(source)
    })
}

/// The mounts of other containers, without those whose destination the caller names anew.
fn inherited_mounts(engine: &Engine, host: &HostConfig) -> Result<Vec<MountPoint>> {
    let mut inherited = Vec::new();
    for text in &host.volumes_from {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if text.is_empty() {
            return Err(Error::invalid("volumes-from specification cannot be an empty string"));
        }
        let writes = mode.split(',').filter(|option| matches!(*option, "ro" | "rw")).count();
        let labels = mode.split(',').filter(|option| matches!(*option, "z" | "Z")).count();
        if name.is_empty() || writes > 1 || labels > 1 || writes + labels != mode.split(',').count() {
            return Err(Error::invalid(format!("invalid mode: {mode}")));
        }
        let is_read_only = mode.split(',').any(|option| option == "ro");
        let other = engine.index.find(name)?.details();
        for mount in other.mounts.iter().filter(|mount| mount.kind != "tmpfs") {
            let writable = mount.writable && !is_read_only;
            inherited.push(MountPoint { writable, anonymous: false, mode: String::new(), ..mount.clone() });
        }
    }
    Ok(inherited)
}

/// The cgroup's path below each hierarchy. As in Docker, a parent that leads above the hierarchy's root is below it all the same.
pub(crate) fn cgroup_path(parent: &str, id: &str) -> String {
    let mut path: Vec<&str> = Vec::new();
    for part in parent.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path.iter().chain([&id]).map(|part| format!("/{part}")).collect()
}

pub(crate) fn write_files(engine: &Engine, details: &Details) -> Result<()> {
    if endpoints::shared_with(&details.host).is_some() {
        return Ok(());
    }
    write(&details.hostname_path, files::hostname(&details.config.hostname))?;
    write_resolv_conf(engine, details)
}

/// What the container finds in `/etc/resolv.conf`: its own resolver where it has one, else the host's servers.
pub(crate) fn write_resolv_conf(engine: &Engine, details: &Details) -> Result<()> {
    let (own, defaults) = (&details.host, &engine.config);
    let first =
        |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
    let servers: Vec<IpAddr> =
        first(&own.dns, &defaults.dns).iter().filter_map(|address| address.parse().ok()).collect();
    let search = first(&own.dns_search, &defaults.dns_search);
    let options = first(&own.dns_options, &defaults.dns_options);
    let dns = DnsOptions { servers: &servers, search: &search, options: &options };
    let is_plain = servers.is_empty() && search.is_empty() && options.is_empty();
    let text = if own.network_mode == "host" && is_plain {
        let host = palan_stdx::fs::read_to_string_if_exists(Path::new("/etc/resolv.conf"));
        host.context(|| "cannot read the host's name servers".into())?.unwrap_or_default()
    } else {
        let host = files::host_resolv_conf().context(|| "cannot read the host's name servers".into())?;
        if endpoints::has_resolver(engine, details) {
            files::resolv_conf_of_resolver(&host, &dns)
        } else {
            files::resolv_conf(&host, &dns)
        }
    };
    write(&details.resolv_conf_path, text)
}

fn write(path: &str, text: String) -> Result<()> {
    palan_stdx::fs::write(Path::new(path), text).context(|| "cannot write the container's files".into())
}

/// Takes back what a container's making has left.
struct Undo<'a> {
    engine: &'a Engine,
    id: &'a str,
    volumes: &'a [(Volume, bool)],
    images: usize,
}

impl Undo<'_> {
    fn all(&self) {
        let outcome = palan_linux::path::remove_tree(&self.engine.container_dir(self.id));
        let report = |error: &dyn std::error::Error| tracing::warn!(%error, "an unfinished container was not cleaned up");
        if let Err(error) = outcome {
            report(&error);
        }
        let images = (0..self.images).map(|number| format!("{}/{number}", self.id));
        for owner in std::iter::once(self.id.to_owned()).chain(images) {
            if let Err(error) = self.engine.store.release(&owner) {
                report(&error);
            }
        }
        for (volume, _) in self.volumes.iter().filter(|(_, is_new)| *is_new) {
            if let Err(error) = self.engine.unmake_volume(volume, self.id) {
                report(&error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_cgroup_never_leads_out() {
        for (parent, path) in [
            ("/palan", "/palan/i"),
            ("a/b/", "/a/b/i"),
            ("../../x", "/x/i"),
            ("/a/../../b/./c", "/b/c/i"),
            ("", "/i"),
        ] {
            assert_eq!(cgroup_path(parent, "i"), path, "{parent}");
        }
    }
}
