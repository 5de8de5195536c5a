//! The options of the driver `local`: `type`, `device` and `o` are what mount(8) would be given, checked when the volume is
//! made and used when the first container wants it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use palan_linux::mount::{self, Attributes, Change, FileSystem, Propagation};
use rustix::fs::{CWD, Mode, OFlags};

use crate::{Error, Result};

/// What is mounted on a volume's directory while somebody uses the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalMount {
    kind: String,
    device: String,
    /// As written.
    options: String,
}

/// What a list of mount options means.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    /// Bind instead of mounting a file system; true: with what is mounted below.
    bind: Option<bool>,
    set: Attributes,
    clear: Attributes,
    propagation: Option<(Propagation, bool)>,
    /// Flags of the file system as a whole.
    of_file_system: Vec<&'static str>,
    /// What the file system itself must understand.
    data: Vec<String>,
    /// The flags as mount(2) would be given them, for messages.
    number: u32,
}

/// The word, its flag of mount(2), the attribute that it is, and whether it switches it off.
const FLAGS: [(&str, u32, Attributes, bool); 16] = [
    ("ro", 1, Attributes::MOUNT_ATTR_RDONLY, false),
    ("rw", 1, Attributes::MOUNT_ATTR_RDONLY, true),
    ("nosuid", 2, Attributes::MOUNT_ATTR_NOSUID, false),
    ("suid", 2, Attributes::MOUNT_ATTR_NOSUID, true),
    ("nodev", 4, Attributes::MOUNT_ATTR_NODEV, false),
    ("dev", 4, Attributes::MOUNT_ATTR_NODEV, true),
    ("noexec", 8, Attributes::MOUNT_ATTR_NOEXEC, false),
    ("exec", 8, Attributes::MOUNT_ATTR_NOEXEC, true),
    ("noatime", 0x400, Attributes::MOUNT_ATTR_NOATIME, false),
    ("atime", 0x400, Attributes::MOUNT_ATTR_NOATIME, true),
    ("nodiratime", 0x800, Attributes::MOUNT_ATTR_NODIRATIME, false),
    ("diratime", 0x800, Attributes::MOUNT_ATTR_NODIRATIME, true),
    ("strictatime", 0x0100_0000, Attributes::MOUNT_ATTR_STRICTATIME, false),
    ("nostrictatime", 0x0100_0000, Attributes::MOUNT_ATTR_STRICTATIME, true),
    // The kernel's default.
    ("relatime", 0x0020_0000, Attributes::empty(), false),
    ("norelatime", 0x0020_0000, Attributes::empty(), true),
];
/// Flags that belong to the file system and not to one mount of it.
const FILE_SYSTEM_FLAGS: [(&str, u32); 3] = [("sync", 0x10), ("mand", 0x40), ("dirsync", 0x80)];
const PROPAGATIONS: [(&str, Propagation, bool); 8] = [
    ("private", Propagation::Private, false),
    ("rprivate", Propagation::Private, true),
    ("shared", Propagation::Shared, false),
    ("rshared", Propagation::Shared, true),
    ("slave", Propagation::Slave, false),
    ("rslave", Propagation::Slave, true),
    ("unbindable", Propagation::Unbindable, false),
    ("runbindable", Propagation::Unbindable, true),
];

impl Meaning {
    fn of(options: &str) -> Self {
        let mut meaning = Self {
            bind: None,
            set: Attributes::empty(),
            clear: Attributes::empty(),
            propagation: None,
            of_file_system: Vec::new(),
            data: Vec::new(),
            number: 0,
        };
        // A later word wins over an earlier one.
        options.split(',').for_each(|option| meaning.add(option));
        meaning
    }

    fn add(&mut self, option: &str) {
        if let Some((_, number, attribute, clears)) = FLAGS.into_iter().find(|(word, ..)| *word == option) {
            (self.set, self.clear) = (self.set - attribute, self.clear - attribute);
            if clears {
                (self.clear, self.number) = (self.clear | attribute, self.number & !number);
            } else {
                (self.set, self.number) = (self.set | attribute, self.number | number);
            }
        } else if let Some((word, number)) = FILE_SYSTEM_FLAGS.into_iter().find(|(word, _)| *word == option) {
            self.of_file_system.push(word);
            self.number |= number;
        } else if let Some((_, kind, all)) = PROPAGATIONS.into_iter().find(|(word, ..)| *word == option) {
            self.propagation = Some((kind, all));
        } else {
            match option {
                "bind" => (self.bind, self.number) = (Some(self.bind == Some(true)), self.number | 0x1000),
                "rbind" => (self.bind, self.number) = (Some(true), self.number | 0x5000),
                // The absence of others.
                "" | "defaults" | "async" | "nomand" => {}
                other => self.data.push(other.to_owned()),
            }
        }
    }
}

impl LocalMount {
    /// Checks the options of a volume in Docker's words; `None` for a plain directory.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        const REQUIRED: [(&str, &[&str]); 3] =
            [("device", &["type"]), ("o", &["device", "type"]), ("type", &["device"])];
        if let Some(unknown) =
            options.keys().find(|key| !matches!(key.as_str(), "type" | "o" | "device" | "size"))
        {
            return Err(Error::invalid(format!("invalid option: {unknown:?}")));
        }
        if let Some((key, _)) = options.iter().find(|(_, value)| value.contains('\0')) {
            return Err(Error::invalid(format!("invalid option: {key:?} contains a NUL byte")));
        }
        if let Some(size) = options.get("size") {
            let size = palan_stdx::size::parse_memory(size)
                .map_err(|_| Error::invalid(format!("invalid size: '{size}'")))?;
            if size > 0 {
                return Err(Error::invalid(
                    "quota size requested but no quota support; a limited volume is a tmpfs: type=tmpfs, device=tmpfs, \
                     o=size=…",
                ));
            }
        }
        for (option, needed) in REQUIRED {
            let missing = needed.iter().find(|needed| !options.contains_key(**needed));
            if let Some(missing) = missing.filter(|_| options.contains_key(option)) {
                return Err(Error::invalid(format!("missing required option: {missing:?}")));
            }
        }
        let text = |key: &str| options.get(key).cloned().unwrap_or_default();
        let mount = Self { kind: text("type"), device: text("device"), options: text("o") };
        Ok(Some(mount).filter(|mount| !mount.kind.is_empty() || !mount.device.is_empty()))
    }

    /// The host name that stands for the server of a network file system, if it is a name.
    pub(crate) fn host_name(&self) -> Option<&str> {
        if !matches!(self.kind.as_str(), "nfs" | "nfs4" | "cifs") {
            return None;
        }
        let address = self.options.split(',').find_map(|option| option.strip_prefix("addr="))?;
        let is_name = !address.is_empty() && address.parse::<IpAddr>().is_err();
        is_name.then_some(address)
    }

    /// The same with the server's address in place of its name: the kernel knows no names.
    pub(crate) fn with_address(mut self, address: IpAddr) -> Self {
        if let Some(name) = self.host_name() {
            self.options = self.options.replacen(&format!("addr={name}"), &format!("addr={address}"), 1);
        }
        self
    }

    /// Mounts it on the directory `place`.
    pub(crate) fn mount(&self, place: &Path) -> Result<()> {
        let meaning = Meaning::of(&self.options);
        let mounted = self.make(&meaning).and_then(|mounted| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(CWD, place, flags, Mode::empty()).map_err(io_text)?;
            mount::attach(&mounted, &target).map_err(|error| io_text(errno_of(&error)))?;
            if let Some((propagation, all)) = meaning.propagation {
                let change = Change { propagation: Some(propagation), ..Change::default() };
                mount::change(&mounted, &change, all).map_err(|error| io_text(errno_of(&error)))?;
            }
            Ok(())
        });
        mounted.map_err(|reason| self.failure(&meaning, place, &reason))
    }

    /// The detached mount, or why there is none.
    fn make(&self, meaning: &Meaning) -> std::result::Result<OwnedFd, String> {
        let Some(recursive) = meaning.bind else { return self.make_file_system(meaning) };
        if let Some(option) = meaning.data.first() {
            return Err(format!("a bind mount has no option {option:?}"));
        }
        if !self.device.starts_with('/') {
            return Err(format!("the device {:?} is not an absolute path", self.device));
        }
        let source =
            rustix::fs::openat(CWD, self.device.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let copy = mount::clone_of(source.map_err(io_text)?, recursive)
            .map_err(|error| io_text(errno_of(&error)))?;
        if !(meaning.set | meaning.clear).is_empty() {
            let change = Change { set: meaning.set, clear: meaning.clear, ..Change::default() };
            mount::change(&copy, &change, false).map_err(|error| io_text(errno_of(&error)))?;
        }
        Ok(copy)
    }

    fn make_file_system(&self, meaning: &Meaning) -> std::result::Result<OwnedFd, String> {
        let make = || -> std::result::Result<OwnedFd, mount::MountError> {
            let mut context = FileSystem::new(&self.kind)?;
            if !self.device.is_empty() {
                context = context.set("source", &self.device)?;
            }
            for flag in &meaning.of_file_system {
                context = context.set_flag(flag)?;
            }
            if meaning.set.contains(Attributes::MOUNT_ATTR_RDONLY) {
                context = context.set_flag("ro")?;
            }
            for option in &meaning.data {
                context = context.set_option(option)?;
            }
            context.mount(meaning.set)
        };
        make().map_err(|error| {
            let mut text = io_text(errno_of(&error.source));
            if error.source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) {
                text += &format!(" (the kernel has no file system of type {:?})", self.kind);
            }
            for message in &error.messages {
                text += &format!(" ({message})");
            }
            text
        })
    }

    /// Docker's sentence, with what a user may have to hide hidden.
    fn failure(&self, meaning: &Meaning, place: &Path, reason: &str) -> Error {
        let mut text = format!("failed to mount local volume: mount {}:{}", self.device, place.display());
        if meaning.number != 0 {
            text += &format!(", flags: {:#x}", meaning.number);
        }
        if !meaning.data.is_empty() {
            let hidden = |option: &String| match option.split_once('=') {
                Some((key @ ("password" | "pass"), _)) => format!("{key}=********"),
                _ => option.clone(),
            };
            text += &format!(", data: {}", meaning.data.iter().map(hidden).collect::<Vec<_>>().join(","));
        }
        Error::system(format!("{text}: {reason}"))
    }
}

fn errno_of(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}

/// What the kernel said, in the words of Go's table, which clients know.
fn io_text(errno: rustix::io::Errno) -> String {
    match errno {
        rustix::io::Errno::NOENT => "no such file or directory".into(),
        rustix::io::Errno::NOTDIR => "not a directory".into(),
        rustix::io::Errno::NODEV => "no such device".into(),
        rustix::io::Errno::INVAL => "invalid argument".into(),
        rustix::io::Errno::PERM => "operation not permitted".into(),
        rustix::io::Errno::NOTBLK => "block device required".into(),
        rustix::io::Errno::CONNREFUSED => "connection refused".into(),
        other => std::io::Error::from(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Option<LocalMount>> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        LocalMount::parse(&options.collect())
    }

    fn refused(options: &[(&str, &str)], expected: &str) {
        assert_eq!(parse(options).expect_err("refused").report(), expected);
    }

    #[test]
    fn options_are_checked_as_docker_does() {
        assert_eq!(parse(&[]).expect("fine"), None);
        assert_eq!(parse(&[("size", "0")]).expect("fine"), None);
        refused(&[("colour", "red")], "invalid option: \"colour\"");
        refused(&[("type", "tmpfs")], "missing required option: \"device\"");
        refused(&[("device", "/x")], "missing required option: \"type\"");
        refused(&[("o", "ro"), ("type", "tmpfs")], "missing required option: \"device\"");
        refused(&[("size", "much")], "invalid size: 'much'");
        let error = parse(&[("size", "10m")]).expect_err("refused").report();
        assert!(error.starts_with("quota size requested but no quota support"), "{error}");
        assert!(parse(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]).expect("fine").is_some());
    }

    #[test]
    fn words_mean_what_mount_says() {
        let meaning = Meaning::of("rw,nosuid,ro,rbind,rslave,sync,size=1m,suid,defaults");
        assert_eq!(meaning.set, Attributes::MOUNT_ATTR_RDONLY);
        assert_eq!(meaning.clear, Attributes::MOUNT_ATTR_NOSUID);
        assert_eq!((meaning.bind, meaning.propagation), (Some(true), Some((Propagation::Slave, true))));
        assert_eq!((meaning.of_file_system, meaning.number), (vec!["sync"], 0x5011));
        assert_eq!(meaning.data, ["size=1m"]);
    }

    #[test]
    fn a_server_is_named_by_its_address() {
        let nfs = |options: &str| {
            parse(&[("type", "nfs"), ("device", ":/srv"), ("o", options)]).expect("fine").expect("a mount")
        };
        assert_eq!(nfs("addr=10.0.0.1,rw").host_name(), None);
        let named = nfs("vers=4,addr=nas.example,rw");
        assert_eq!(named.host_name(), Some("nas.example"));
        assert_eq!(named.with_address([10, 0, 0, 7].into()), nfs("vers=4,addr=10.0.0.7,rw"));
        let tmpfs = parse(&[("type", "tmpfs"), ("device", "x"), ("o", "addr=a")]).expect("fine");
        assert_eq!(tmpfs.expect("a mount").host_name(), None);
    }

    #[test]
    fn failures_say_what_was_tried_and_hide_passwords() {
        let mount = parse(&[
            ("type", "palan-no-such-type"),
            ("device", "//nas/x"),
            ("o", "ro,user=me,password=secret"),
        ]);
        let error =
            mount.expect("fine").expect("a mount").mount(Path::new("/tmp")).expect_err("fails").report();
        assert_eq!(
            error,
            "failed to mount local volume: mount //nas/x:/tmp, flags: 0x1, data: user=me,password=********: no such \
             device (the kernel has no file system of type \"palan-no-such-type\")"
        );
        let bind = parse(&[("type", "none"), ("device", "/palan/missing"), ("o", "bind")]);
        let error =
            bind.expect("fine").expect("a mount").mount(Path::new("/tmp")).expect_err("fails").report();
        assert_eq!(
            error,
            "failed to mount local volume: mount /palan/missing:/tmp, flags: 0x1000: no such file or directory"
        );
    }
}
