//! What cgroup hierarchies the host has mounted, and making a path in one of them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use palan_stdx::fs;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{CgroupError, collect_processes, open_directory, read_file, write_file};

/// Which layout the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller; perhaps v2 beside them without controllers (hybrid).
    V1,
    /// One hierarchy.
    V2,
}

/// All hierarchies of the host.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) version: Version,
    pub(super) hierarchies: Vec<Hierarchy>,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// Controllers as the mount names them, `name=…` included; for v2 those of its root.
    pub(super) controllers: Vec<String>,
    pub(super) unified: bool,
    /// Where it is mounted.
    pub(super) place: PathBuf,
    /// What of it is mounted there; `/` is all.
    pub(super) mounted: String,
    pub(super) root: OwnedFd,
}

/// v1 controllers that every container joins: those with counters to show or with a default to enforce.
///
/// cpuset is among them although most containers leave it as it is: programs such as the JVM look for it where they look
/// for their other limits, and without it believe that they have none. So is the freezer, also where v2 freezes: a container
/// engine in the container looks for it.
const ALWAYS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids", "blkio", "name=systemd"];

const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The host's layout.
pub fn version() -> Result<Version, CgroupError> {
    Layout::detect().map(|layout| layout.version)
}

impl Layout {
    /// Whether there is nothing but v2.
    pub(super) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    pub(super) fn detect() -> Result<Self, CgroupError> {
        let v2 = rustix::fs::statfs("/sys/fs/cgroup")
            .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|magic| magic == CGROUP2_MAGIC));
        if v2 {
            let root = Hierarchy::open(CgroupMount::v2()).ok_or(CgroupError::NoCgroups)?;
            return Ok(Self { version: Version::V2, hierarchies: vec![root] });
        }
        let table = fs::read_generated_at("/proc/self/mountinfo".as_ref());
        let table = table.map_err(|_| CgroupError::NoCgroups)?;
        let hierarchies = from_mount_table(&table);
        let version = if hierarchies.iter().any(|hierarchy| !hierarchy.unified) {
            Version::V1
        } else if hierarchies.is_empty() {
            return Err(CgroupError::NoCgroups);
        } else {
            Version::V2
        };
        Ok(Self { version, hierarchies })
    }
}

/// Opens each hierarchy of a `mountinfo` table once, where it is mounted first.
fn from_mount_table(table: &str) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for mount in table.lines().filter_map(parse_mount) {
        let seen = hierarchies
            .iter()
            .any(|known| known.unified == mount.unified && known.controllers == mount.controllers);
        if !seen {
            hierarchies.extend(Hierarchy::open(mount));
        }
    }
    hierarchies
}

#[derive(Debug, PartialEq, Eq)]
struct CgroupMount {
    place: String,
    root: String,
    controllers: Vec<String>,
    unified: bool,
}

impl CgroupMount {
    /// Where v2 is on hosts that have nothing else.
    fn v2() -> Self {
        let (place, root) = ("/sys/fs/cgroup".to_owned(), "/".to_owned());
        Self { place, root, controllers: Vec::new(), unified: true }
    }
}

/// Reads one line of `mountinfo`; `None` if it is no cgroup mount.
fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let unified = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = right.nth(1).unwrap_or("");
    let mut left = left.split(' ').skip(3);
    let (root, place) = (unescape(left.next()?), unescape(left.next()?));
    let is_controller = |option: &&str| {
        !matches!(*option, "rw" | "ro" | "xattr" | "noprefix" | "clone_children")
            && !option.starts_with("release_agent=")
            && !option.starts_with("cpuset_v2_mode")
    };
    let controllers = if unified {
        Vec::new()
    } else {
        options.split(',').filter(is_controller).map(str::to_owned).collect()
    };
    Some(CgroupMount { place, root, controllers, unified })
}

/// Undoes the octal escapes of mount tables (`\040` for a space).
pub(crate) fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Hierarchy {
    fn open(mount: CgroupMount) -> Option<Self> {
        let CgroupMount { place, root: mounted, mut controllers, unified } = mount;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&place, flags, Mode::empty()).ok()?;
        if unified {
            let names = read_file(&root, "cgroup.controllers").unwrap_or_default();
            controllers = names.split_whitespace().map(str::to_owned).collect();
        }
        Some(Self { controllers, unified, place: PathBuf::from(place), mounted, root })
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// How users know it: `cpu,cpuacct`, `systemd`, `unified`.
    pub(super) fn name(&self) -> String {
        if self.unified {
            return "unified".to_owned();
        }
        let names: Vec<_> =
            self.controllers.iter().map(|name| name.strip_prefix("name=").unwrap_or(name)).collect();
        names.join(",")
    }

    /// Whether every container is in this hierarchy.
    pub(super) fn always_joined(&self) -> bool {
        self.unified || ALWAYS.iter().any(|controller| self.has(controller))
    }

    /// Makes the cgroup with its missing parents and opens it. An existing one is refused if it is in use (`EEXIST`) or
    /// frozen (`EBUSY`), unless it is to be adopted.
    pub(super) fn make(&self, relative: &str, adopt: bool) -> Result<OwnedFd, Errno> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(&self.root, relative, mode) {
            Ok(()) => self.prepare(relative, true)?,
            Err(Errno::NOENT) => {
                let ends = relative.match_indices('/').map(|(end, _)| end).chain([relative.len()]);
                for end in ends {
                    match rustix::fs::mkdirat(&self.root, &relative[..end], mode) {
                        Ok(()) => self.prepare(&relative[..end], true)?,
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                }
            }
            Err(Errno::EXIST) if adopt => {}
            Err(Errno::EXIST) => {
                // Left over from a container that was killed with its supervisor, or made by an administrator.
                let existing = open_directory(&self.root, relative)?;
                if collect_processes(&existing).is_ok_and(|found| !found.is_empty()) {
                    return Err(Errno::EXIST);
                }
                let state = |file| read_file(&existing, file).unwrap_or_default();
                if state("cgroup.freeze").starts_with('1') || state("freezer.state").starts_with('F') {
                    return Err(Errno::BUSY);
                }
            }
            Err(errno) => return Err(errno),
        }
        let directory = open_directory(&self.root, relative)?;
        if self.unified {
            self.distribute_controllers(relative, &directory)?;
        }
        Ok(directory)
    }

    /// A new v1 cpuset is empty and lets no process in: it gets what its parent has, which may be a new one that nobody has
    /// filled.
    fn prepare(&self, relative: &str, is_new: bool) -> Result<(), Errno> {
        if self.unified || !self.has("cpuset") {
            return Ok(());
        }
        let directory = open_directory(&self.root, relative)?;
        let parent = match relative.rsplit_once('/') {
            Some((parent, _)) => open_directory(&self.root, parent)?,
            None => rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?,
        };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !is_new && !read_file(&directory, file)?.trim().is_empty() {
                continue;
            }
            let mut inherited = read_file(&parent, file)?;
            if let Some((above, _)) = relative.rsplit_once('/')
                && inherited.trim().is_empty()
            {
                self.prepare(above, false)?;
                inherited = read_file(&parent, file)?;
            }
            write_file(&directory, file, inherited.trim())?;
        }
        Ok(())
    }

    /// v2: a cgroup has a controller only if every ancestor passes it down.
    fn distribute_controllers(&self, relative: &str, directory: &OwnedFd) -> Result<(), Errno> {
        let present = read_file(directory, "cgroup.controllers")?;
        let all = self.controllers.iter().map(String::as_str);
        let missing: Vec<_> = all.filter(|name| !lists(&present, name)).collect();
        self.pass_down_to(relative, &missing);
        Ok(())
    }

    /// Lets the cgroup have one more controller. Whether it has it now.
    pub(super) fn pass_down(&self, relative: &str, directory: &OwnedFd, controller: &str) -> bool {
        let present = || read_file(directory, "cgroup.controllers").is_ok_and(|all| lists(&all, controller));
        if !present() {
            self.pass_down_to(relative, &[controller]);
        }
        present()
    }

    fn pass_down_to(&self, relative: &str, controllers: &[&str]) {
        let ends = relative.match_indices('/').map(|(end, _)| end + 1);
        for end in [0].into_iter().chain(ends) {
            let file = format!("{}cgroup.subtree_control", &relative[..end]);
            for name in controllers {
                // Where a controller can't be passed down, only a limit that needs it fails, with its name.
                let _ = write_file(&self.root, &file, &format!("+{name}"));
            }
        }
    }
}

/// Whether a list of controllers has this one.
fn lists(controllers: &str, name: &str) -> bool {
    controllers.split_whitespace().any(|have| have == name)
}

#[cfg(test)]
impl Hierarchy {
    /// One whose files nobody looks at.
    pub(super) fn for_test(controllers: &[&str], unified: bool, mounted: &str) -> Self {
        Self {
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            unified,
            place: PathBuf::from("/nowhere"),
            mounted: mounted.to_owned(),
            root: std::fs::File::open("/").unwrap().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_lines() {
        let line =
            "36 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.controllers, ["cpu", "cpuacct"]);
        assert_eq!((mount.place.as_str(), mount.root.as_str()), ("/sys/fs/cgroup/cpu,cpuacct", "/"));
        let line = "37 25 0:32 / /a\\040b rw - cgroup none rw,xattr,release_agent=/x,name=systemd";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.place.as_str(), mount.controllers.len()), ("/a b", 1));
        assert!(parse_mount("38 25 0:33 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").unwrap().unified);
        for bad in ["", " - ", "1 2 3 - cgroup", "x - tmpfs tmpfs rw", "a b c d e - cgroup"] {
            let _ = parse_mount(bad);
        }
        assert_eq!(unescape("\\"), "\\");
        assert_eq!(unescape("\\9é"), "\\9é");
    }
}
