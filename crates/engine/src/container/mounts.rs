//! Which mounts a container gets: `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes become one list.
//! Nothing is made here; creating volumes and directories follows when the whole list is known to be fine.

use std::collections::BTreeMap;

use crate::container::MountPoint;
use crate::container::validate::{NAME_CHARACTERS, is_name, unsupported};
use crate::spec::{BindOptions, ContainerSpec, Mount};
use crate::{Error, Result};

/// One mount with what its making needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// What `inspect` will show; a volume's source is still empty.
    pub(crate) point: MountPoint,
    /// Make a missing source of a bind mount as a directory.
    pub(crate) create_source: bool,
    /// Copy the image's content into a new volume.
    pub(crate) copy_up: bool,
    /// Labels for a volume that is created.
    pub(crate) labels: BTreeMap<String, String>,
    /// Options of the driver for a volume that is created.
    pub(crate) driver_options: BTreeMap<String, String>,
}

/// The list, without duplicates, in the order in which they must be mounted. `inherited` are the mounts of
/// `--volumes-from`; `image_volumes` are those of the merged configuration.
pub(crate) fn plan(
    spec: &ContainerSpec,
    image_volumes: impl Iterator<Item = String>,
    inherited: Vec<MountPoint>,
) -> Result<Vec<Planned>> {
    let mut by_destination: BTreeMap<String, Planned> = BTreeMap::new();
    for point in inherited {
        by_destination.insert(point.destination.clone(), Planned { point, ..Planned::default() });
    }
    let mut asked: BTreeMap<String, Planned> = BTreeMap::new();
    let from_binds = spec.host.binds.iter().map(|text| parse_bind(text));
    let from_mounts = spec.host.mounts.iter().map(parse_mount);
    let from_tmpfs = spec.host.tmpfs.iter().map(|(path, options)| parse_tmpfs(path, options));
    for planned in from_binds.chain(from_mounts).chain(from_tmpfs) {
        let planned = planned?;
        let destination = planned.point.destination.clone();
        if asked.insert(destination.clone(), planned).is_some() {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
        }
    }
    if spec.host.read_only_binds_non_recursive {
        let read_only = asked.values_mut().filter(|planned| !planned.point.writable);
        read_only.for_each(|planned| planned.point.read_only_non_recursive = planned.point.kind == "bind");
    }
    by_destination.extend(asked);
    for path in image_volumes {
        let destination = clean_destination(&path).map_err(|error| {
            Error::invalid(format!("invalid volume specification: '{path}'")).with_source(error)
        })?;
        by_destination.entry(destination.clone()).or_insert_with(|| anonymous_volume(destination));
    }
    // What is made by `--mount` names its driver itself.
    let makes_volume = |planned: &Planned| {
        planned.point.kind == "volume" && !planned.point.from_mounts && planned.point.source.is_empty()
    };
    if by_destination.values().any(makes_volume) {
        crate::volume::check_driver(&spec.host.volume_driver)?;
    }
    let mut list: Vec<Planned> = by_destination.into_values().collect();
    // A mount must come after those it lies in.
    list.sort_by_key(|planned| planned.point.destination.matches('/').count());
    Ok(list)
}

fn anonymous_volume(destination: String) -> Planned {
    let point = MountPoint {
        kind: "volume".into(),
        destination,
        driver: "local".into(),
        writable: true,
        anonymous: true,
        ..MountPoint::default()
    };
    Planned { point, copy_up: true, ..Planned::default() }
}

/// `[source:]destination[:mode]`.
fn parse_bind(text: &str) -> Result<Planned> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let (source, destination, mode) = match text.split(':').collect::<Vec<_>>()[..] {
        [destination] => ("", destination, ""),
        [_, mode] if parse_mode(mode).is_some() => return Err(invalid()),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(invalid()),
    };
    if source.is_empty() && text.contains(':') {
        return Err(invalid());
    }
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let wrapped = |error: Error| {
        let reason = Error::invalid(format!("invalid mount config for type \"{kind}\"")).with_source(error);
        invalid().with_source(reason)
    };
    let destination = clean_destination(destination).map_err(wrapped)?;
    let parsed = parse_mode(mode).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
    if kind == "volume" && !source.is_empty() {
        check_volume_name(source)?;
    }
    let mut planned = if source.is_empty() {
        anonymous_volume(destination)
    } else {
        plan_source(kind, source, destination)?
    };
    // A volume of this driver may be relabelled, says Docker, whether or not there is SELinux.
    planned.point.mode = if mode.is_empty() && kind == "volume" { "z" } else { mode }.into();
    planned.point.writable = !parsed.read_only;
    planned.copy_up = kind == "volume" && !parsed.no_copy;
    planned.create_source = kind == "bind";
    match (kind, parsed.propagation) {
        ("bind", propagation) => planned.point.propagation = propagation.unwrap_or("rprivate").into(),
        (_, Some(_)) => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        (_, None) => {}
    }
    if kind == "bind" && parsed.no_copy {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    Ok(planned)
}

fn plan_source(kind: &str, source: &str, destination: String) -> Result<Planned> {
    let mut point = MountPoint { kind: kind.into(), destination, writable: true, ..MountPoint::default() };
    if kind == "bind" {
        point.source = clean_source(source)?;
        point.propagation = "rprivate".into();
    } else {
        point.name = source.into();
        point.driver = "local".into();
    }
    Ok(Planned { point, ..Planned::default() })
}

/// Refuses names that are no names of volumes, in Docker's words.
pub(crate) fn check_volume_name(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"{NAME_CHARACTERS}\" are \
         allowed. If you intended to pass a host directory, use absolute path"
    )))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Mode<'a> {
    read_only: bool,
    no_copy: bool,
    propagation: Option<&'a str>,
}

/// `ro,z,rslave`; each kind of option at most once. SELinux labels are accepted: without SELinux they mean nothing.
fn parse_mode(text: &str) -> Option<Mode<'_>> {
    let mut mode = Mode::default();
    let (mut writes, mut labels, mut consistencies) = (0, 0, 0);
    for option in text.split(',').filter(|_| !text.is_empty()) {
        match option {
            "ro" | "rw" => {
                writes += 1;
                mode.read_only = option == "ro";
            }
            "z" | "Z" => labels += 1,
            "consistent" | "cached" | "delegated" => consistencies += 1,
            "nocopy" if !mode.no_copy => mode.no_copy = true,
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate"
                if mode.propagation.is_none() =>
            {
                mode.propagation = Some(option);
            }
            _ => return None,
        }
    }
    (writes < 2 && labels < 2 && consistencies < 2).then_some(mode)
}

fn parse_mount(mount: &Mount) -> Result<Planned> {
    let invalid = |reason: String| {
        Error::invalid(format!("invalid mount config for type \"{}\": {reason}", mount.kind))
    };
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty".into()));
    }
    let destination = clean_destination(&mount.target).map_err(|error| invalid(error.report()))?;
    let only = |present: bool, field: &str| match present {
        true => Err(invalid(format!("field {field} must not be specified"))),
        false => Ok(()),
    };
    let mut planned = match mount.kind.as_str() {
        "bind" => {
            only(mount.volume.is_some(), "VolumeOptions")?;
            only(mount.tmpfs.is_some(), "TmpfsOptions")?;
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty".into()));
            }
            plan_bind_mount(mount, destination).map_err(|error| invalid(error.report()))?
        }
        "volume" => {
            only(mount.bind.is_some(), "BindOptions")?;
            only(mount.tmpfs.is_some(), "TmpfsOptions")?;
            check_volume_mount(mount).map_err(|error| invalid(error.report()))?;
            plan_volume_mount(mount, destination)?
        }
        "tmpfs" => {
            only(mount.bind.is_some(), "BindOptions")?;
            only(mount.volume.is_some(), "VolumeOptions")?;
            only(!mount.source.is_empty(), "Source")?;
            plan_tmpfs_mount(mount, destination)?
        }
        "image" => {
            only(mount.bind.is_some(), "BindOptions")?;
            only(mount.volume.is_some(), "VolumeOptions")?;
            only(mount.tmpfs.is_some(), "TmpfsOptions")?;
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty".into()));
            }
            plan_image_mount(mount, destination).map_err(|error| invalid(error.report()))?
        }
        "npipe" | "cluster" => {
            return Err(unsupported(format!("a mount of type \"{}\"", mount.kind)));
        }
        _ => return Err(invalid("mount type unknown".into())),
    };
    planned.point.writable = !mount.read_only && mount.kind != "image";
    planned.point.from_mounts = true;
    Ok(planned)
}

fn plan_bind_mount(mount: &Mount, destination: String) -> Result<Planned> {
    if !mount.source.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{}' mount path must be absolute",
            mount.source
        )));
    }
    let options = mount.bind.clone().unwrap_or_default();
    let mut planned = plan_source("bind", &mount.source, destination)?;
    if !options.propagation.is_empty() {
        if parse_mode(&options.propagation).is_none_or(|mode| mode.propagation.is_none()) {
            return Err(Error::invalid(format!("invalid propagation mode: {}", options.propagation)));
        }
        planned.point.propagation = options.propagation;
    }
    let conflict = |what: &str| Err(Error::invalid(format!("mount options conflict: {what}")));
    let force = options.read_only_force_recursive;
    match options {
        BindOptions { read_only_non_recursive: true, .. } if !mount.read_only => {
            return conflict("!ReadOnly && BindOptions.ReadOnlyNonRecursive");
        }
        BindOptions { read_only_force_recursive: true, .. } if !mount.read_only => {
            return conflict("!ReadOnly && BindOptions.ReadOnlyForceRecursive");
        }
        BindOptions { read_only_non_recursive: true, read_only_force_recursive: true, .. } => {
            return conflict("ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive");
        }
        BindOptions { read_only_force_recursive: true, non_recursive: true, .. } => {
            return conflict("NonRecursive && BindOptions.ReadOnlyForceRecursive");
        }
        _ => {}
    }
    // What is mounted on the host later would come in writable.
    if force && !planned.point.propagation.ends_with("private") {
        return conflict("ReadOnlyForceRecursive needs the propagation rprivate");
    }
    planned.point.non_recursive = options.non_recursive;
    planned.point.read_only_non_recursive = options.read_only_non_recursive;
    planned.create_source = options.create_mountpoint;
    Ok(planned)
}

fn plan_volume_mount(mount: &Mount, destination: String) -> Result<Planned> {
    let options = mount.volume.clone().unwrap_or_default();
    crate::volume::check_driver(&options.driver)?;
    let mut planned = if mount.source.is_empty() {
        anonymous_volume(destination)
    } else {
        check_volume_name(&mount.source)?;
        plan_source("volume", &mount.source, destination)?
    };
    planned.copy_up = !options.no_copy;
    planned.labels = options.labels;
    planned.driver_options = options.driver_options;
    planned.point.subpath = options.subpath;
    planned.point.mode = "z".into();
    Ok(planned)
}

fn check_volume_mount(mount: &Mount) -> Result<()> {
    if mount.source.is_empty() && mount.read_only {
        return Err(Error::invalid("must not set ReadOnly mode when using anonymous volumes"));
    }
    let Some(options) = mount.volume.as_ref().filter(|options| !options.subpath.is_empty()) else {
        return Ok(());
    };
    if mount.source.is_empty() {
        return Err(Error::invalid("must not set Subpath when using anonymous volumes"));
    }
    check_subpath(&options.subpath)
}

/// A subpath is relative and does not lead out by its letters; whether it does by a symlink, the kernel says at the start.
fn check_subpath(path: &str) -> Result<()> {
    let mut depth = 0_usize;
    let is_inside = path.split('/').all(|name| match name {
        "" | "." => true,
        ".." => depth.checked_sub(1).is_some_and(|above| {
            depth = above;
            true
        }),
        _ => {
            depth += 1;
            true
        }
    });
    if path.starts_with('/') || !is_inside || path.contains('\0') {
        return Err(Error::invalid("subpath must be a relative path within the volume"));
    }
    Ok(())
}

fn plan_image_mount(mount: &Mount, destination: String) -> Result<Planned> {
    let subpath = mount.image.as_ref().map(|options| options.subpath.clone()).unwrap_or_default();
    check_subpath(&subpath)?;
    let point = MountPoint {
        kind: "image".into(),
        name: mount.source.clone(),
        destination,
        subpath,
        ..MountPoint::default()
    };
    Ok(Planned { point, ..Planned::default() })
}

fn plan_tmpfs_mount(mount: &Mount, destination: String) -> Result<Planned> {
    let options = mount.tmpfs.clone().unwrap_or_default();
    let mut words = Vec::new();
    if options.size_bytes < 0 || options.mode > 0o7777 {
        return Err(Error::invalid("invalid mount config for type \"tmpfs\": invalid size or mode"));
    }
    if options.size_bytes > 0 {
        words.push(format!("size={}", options.size_bytes));
    }
    if options.mode > 0 {
        words.push(format!("mode={:o}", options.mode));
    }
    words.extend(options.options.iter().map(|option| option.join("=")));
    let mut planned = parse_tmpfs(&destination, &words.join(","))?;
    planned.point.mode = String::new();
    Ok(planned)
}

/// `--tmpfs path[:options]`.
fn parse_tmpfs(path: &str, options: &str) -> Result<Planned> {
    const FLAGS: [&str; 22] = [
        "ro",
        "rw",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "atime",
        "noatime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "diratime",
        "nodiratime",
        "sync",
        "async",
        "dirsync",
        "mand",
        "nomand",
        "defaults",
    ];
    const VALUES: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    let destination = clean_destination(path)?;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let known = match option.split_once('=') {
            Some((name, value)) => VALUES.contains(&name) && !value.is_empty() && !value.contains('\0'),
            None => FLAGS.contains(&option),
        };
        if !known {
            return Err(Error::invalid(format!("invalid tmpfs option [\"{option}\"]")));
        }
    }
    let writable = !options.split(',').any(|option| option == "ro");
    let point = MountPoint {
        kind: "tmpfs".into(),
        destination,
        options: options.into(),
        writable,
        ..MountPoint::default()
    };
    Ok(Planned { point, ..Planned::default() })
}

/// An absolute path without `.`, `..` and doubled slashes, not the root.
fn clean_destination(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    let clean = clean_source(path)?;
    if clean == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean)
}

fn clean_source(path: &str) -> Result<String> {
    if path.contains('\0') {
        return Err(Error::invalid("a path contains a NUL byte"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::HostConfig;

    fn planned(host: HostConfig, volumes: &[&str]) -> Result<Vec<Planned>> {
        let spec = ContainerSpec { host, ..ContainerSpec::default() };
        plan(&spec, volumes.iter().map(|path| (*path).to_owned()), Vec::new())
    }

    fn binds(list: &[&str]) -> HostConfig {
        HostConfig { binds: list.iter().map(|text| (*text).to_owned()).collect(), ..HostConfig::default() }
    }

    fn refused(host: HostConfig, expected: &str) {
        assert_eq!(planned(host, &[]).expect_err("refused").report(), expected);
    }

    #[test]
    fn binds_and_volumes() {
        let list =
            planned(binds(&["/srv//a/../b:/data:ro,z", "cache:/data/cache", "/anon"]), &["/data", "/v"])
                .expect("fine");
        let shown: Vec<_> = list
            .iter()
            .map(|item| (item.point.kind.as_str(), item.point.destination.as_str(), item.copy_up))
            .collect();
        assert_eq!(
            shown,
            [
                ("volume", "/anon", true),
                ("bind", "/data", false),
                ("volume", "/v", true),
                ("volume", "/data/cache", true)
            ]
        );
        let bind = &list[1];
        assert_eq!(
            (bind.point.source.as_str(), bind.point.writable, bind.create_source),
            ("/srv/b", false, true)
        );
        assert!(list[0].point.anonymous && !list[3].point.anonymous);
    }

    #[test]
    fn bad_binds() {
        refused(
            binds(&["a1:b"]),
            "invalid volume specification: 'a1:b': invalid mount config for type \"volume\": invalid mount path: 'b' \
             mount path must be absolute",
        );
        refused(
            binds(&["/:/"]),
            "invalid volume specification: '/:/': invalid mount config for type \"bind\": invalid specification: \
             destination can't be '/'",
        );
        refused(binds(&["/a:ro"]), "invalid volume specification: '/a:ro'");
        refused(binds(&["/a:/b:c:d"]), "invalid volume specification: '/a:/b:c:d'");
        refused(binds(&["/a:/b:fast"]), "invalid mode: fast");
        refused(binds(&["/a:/x", "/b:/x/"]), "Duplicate mount point: /x");
        refused(
            binds(&["./a:/b"]),
            "create ./a: \"./a\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" \
             are allowed. If you intended to pass a host directory, use absolute path",
        );
    }

    #[test]
    fn long_form() {
        let mount = |kind: &str, source: &str, target: &str| HostConfig {
            mounts: vec![Mount {
                kind: kind.into(),
                source: source.into(),
                target: target.into(),
                ..Mount::default()
            }],
            ..HostConfig::default()
        };
        let list = planned(mount("bind", "/srv", "/data"), &[]).expect("fine");
        assert!(!list[0].create_source, "only -v makes a missing directory");
        refused(
            mount("bind", "", "/d"),
            "invalid mount config for type \"bind\": field Source must not be empty",
        );
        refused(
            mount("volume", "x1", ""),
            "invalid mount config for type \"volume\": field Target must not be empty",
        );
        refused(mount("sparse", "x1", "/d"), "invalid mount config for type \"sparse\": mount type unknown");
        refused(
            mount("bind", "srv", "/d"),
            "invalid mount config for type \"bind\": invalid mount path: 'srv' mount path must be absolute",
        );
    }

    #[test]
    fn volume_and_image_mounts() {
        use crate::spec::{ImageOptions, VolumeOptions};
        let mount = |mount: Mount| HostConfig { mounts: vec![mount], ..HostConfig::default() };
        let volume = |source: &str, subpath: &str| {
            mount(Mount {
                kind: "volume".into(),
                source: source.into(),
                target: "/d".into(),
                volume: Some(VolumeOptions { subpath: subpath.into(), ..VolumeOptions::default() }),
                ..Mount::default()
            })
        };
        let image = |source: &str, subpath: &str| {
            mount(Mount {
                kind: "image".into(),
                source: source.into(),
                target: "/d".into(),
                image: Some(ImageOptions { subpath: subpath.into() }),
                ..Mount::default()
            })
        };
        let list = planned(volume("data", "a/../b/."), &[]).expect("fine");
        assert_eq!((list[0].point.subpath.as_str(), list[0].point.mode.as_str()), ("a/../b/.", "z"));
        let list = planned(image("debian", "etc"), &[]).expect("fine");
        assert_eq!((list[0].point.name.as_str(), list[0].point.writable), ("debian", false));
        let outside = |kind: &str| {
            format!(
                "invalid mount config for type \"{kind}\": subpath must be a relative path within the volume"
            )
        };
        for subpath in ["/etc", "..", "a/../../b", "../../../../../../etc/passwd"] {
            refused(volume("data", subpath), &outside("volume"));
            refused(image("debian", subpath), &outside("image"));
        }
        refused(
            volume("", "a"),
            "invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes",
        );
        refused(image("", ""), "invalid mount config for type \"image\": field Source must not be empty");
        let anonymous =
            Mount { kind: "volume".into(), target: "/d".into(), read_only: true, ..Mount::default() };
        refused(
            mount(anonymous),
            "invalid mount config for type \"volume\": must not set ReadOnly mode when using anonymous volumes",
        );
    }

    #[test]
    fn how_far_read_only_goes() {
        let bind = |read_only: bool, options: BindOptions| HostConfig {
            mounts: vec![Mount {
                kind: "bind".into(),
                source: "/srv".into(),
                target: "/d".into(),
                read_only,
                bind: Some(options),
                ..Mount::default()
            }],
            ..HostConfig::default()
        };
        let non = BindOptions { read_only_non_recursive: true, ..BindOptions::default() };
        let force = BindOptions { read_only_force_recursive: true, ..BindOptions::default() };
        assert!(planned(bind(true, non.clone()), &[]).expect("fine")[0].point.read_only_non_recursive);
        assert!(!planned(bind(true, force.clone()), &[]).expect("fine")[0].point.read_only_non_recursive);
        let conflict = |host: HostConfig, what: &str| {
            refused(host, &format!("invalid mount config for type \"bind\": mount options conflict: {what}"));
        };
        conflict(bind(false, non.clone()), "!ReadOnly && BindOptions.ReadOnlyNonRecursive");
        conflict(bind(false, force.clone()), "!ReadOnly && BindOptions.ReadOnlyForceRecursive");
        conflict(
            bind(true, BindOptions { read_only_non_recursive: true, ..force.clone() }),
            "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        );
        conflict(
            bind(true, BindOptions { propagation: "rslave".into(), ..force }),
            "ReadOnlyForceRecursive needs the propagation rprivate",
        );
        let old =
            HostConfig { read_only_binds_non_recursive: true, ..binds(&["/a:/x:ro", "/b:/y", "v1:/z:ro"]) };
        let list = planned(old, &[]).expect("fine");
        let non_recursive: Vec<bool> = list.iter().map(|item| item.point.read_only_non_recursive).collect();
        assert_eq!(non_recursive, [true, false, false]);
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let pieces = [
            "", "/", "a1", ":", "ro", ",", "..", "\0", "rshared", "nocopy", "é", "/x", ":/y:", "z,Z", "=",
            "-",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..6 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let index = usize::try_from(state % pieces.len() as u64).expect("small");
                text.push_str(pieces[index]);
            }
            for point in planned(binds(&[&text]), &[&text]).into_iter().flatten().map(|item| item.point) {
                assert!(point.destination.starts_with('/') && point.destination != "/", "{text:?}");
                assert!(!point.destination.contains('\0') && !point.source.contains('\0'), "{text:?}");
                assert!(!point.destination.split('/').any(|name| name == ".." || name == "."), "{text:?}");
            }
        }
    }

    #[test]
    fn tmpfs() {
        let tmpfs = |options: &str| HostConfig {
            tmpfs: [("/run".to_owned(), options.to_owned())].into(),
            ..HostConfig::default()
        };
        let list = planned(tmpfs("size=64m,mode=1770,exec"), &["/run"]).expect("fine");
        assert_eq!((list.len(), list[0].point.kind.as_str()), (1, "tmpfs"));
        refused(tmpfs("colour"), "invalid tmpfs option [\"colour\"]");
    }
}
