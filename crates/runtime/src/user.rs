//! Users as images and command lines name them, looked up in a container's own `passwd` and `group`.
//!
//! Those files come from an image or a volume: they are read through the root handle, only if regular, and within
//! limits. What is written like a number is a number and never somebody's name (CVE-2026-46680, CVE-2024-40635).

use std::io::{BufRead, BufReader, Read};

use palan_linux::path::{PathError, RootDir};

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory; `/` if unknown.
    pub home: String,
}

/// A user that can't be resolved. Texts are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number that is no ID.
    #[error("uids and gids must be in range 0-2147483647, not {0}")]
    OutOfRange(String),
    /// The file can't be used.
    #[error("cannot use the container's {file}: {problem}")]
    File {
        /// Which one.
        file: &'static str,
        /// Why.
        problem: String,
    },
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// How much of such a file is read; about 200,000 users.
const MAX_FILE: u64 = 16 << 20;
/// A longer line names nobody.
const MAX_LINE: usize = 64 << 10;
/// More groups than the kernel takes (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// A name or a number, told apart by its form alone.
#[derive(Debug, PartialEq, Eq)]
enum Identity<'a> {
    Number(u32),
    Name(&'a str),
}

fn identity(text: &str) -> Result<Identity<'_>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Identity::Name(text));
    }
    match text.parse::<i32>() {
        Ok(number) if number >= 0 && digits.len() == text.len() => {
            Ok(Identity::Number(number.unsigned_abs()))
        }
        _ => Err(UserError::OutOfRange(text.to_owned())),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn passwd_entry(line: &str) -> Option<PasswdEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = id(fields.nth(1)?)?;
    let gid = id(fields.next()?)?;
    let home = fields.nth(1).unwrap_or_default().to_owned();
    Some(PasswdEntry { name, uid, gid, home })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entry(line: &str) -> Option<GroupEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = id(fields.nth(1)?)?;
    Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
}

fn id(text: &str) -> Option<u32> {
    text.trim().parse::<u32>().ok().filter(|id| *id <= i32::MAX.unsigned_abs())
}

/// Looks `user` up: `name`, `uid`, `name:group`, `uid:gid` and mixtures; empty is user 0. `additional` are names or
/// numbers of further groups.
pub fn resolve(root: &RootDir, user: &str, additional: &[String]) -> Result<ResolvedUser, UserError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (user, ""),
    };
    let wanted = if user.is_empty() { Identity::Number(0) } else { identity(user)? };
    let mut found = None;
    let searched = search(root, PASSWD, |line| {
        let Some(entry) = passwd_entry(line) else { return true };
        let matches = match wanted {
            Identity::Number(uid) => entry.uid == uid,
            Identity::Name(name) => entry.name == name,
        };
        if matches {
            found = Some(entry);
        }
        !matches
    });
    let (mut resolved, name) = match (found, wanted) {
        (Some(entry), _) => {
            let home = if entry.home.is_empty() { "/".to_owned() } else { entry.home };
            (ResolvedUser { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home }, Some(entry.name))
        }
        (None, Identity::Number(uid)) => {
            (ResolvedUser { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() }, None)
        }
        (None, Identity::Name(name)) => {
            searched?;
            return Err(UserError::UnknownUser(name.to_owned()));
        }
    };
    if group.is_empty() {
        if let Some(name) = &name {
            resolved.groups = memberships(root, name);
        }
    } else {
        resolved.gid = group_id(root, group)?;
    }
    for group in additional {
        let gid = group_id(root, group)?;
        if !resolved.groups.contains(&gid) {
            resolved.groups.push(gid);
        }
    }
    Ok(resolved)
}

/// The home directory of a numeric user, if the container's passwd knows one.
pub fn home_of(root: &RootDir, uid: u32) -> Option<String> {
    let mut home = None;
    let searched = search(root, PASSWD, |line| match passwd_entry(line) {
        Some(entry) if entry.uid == uid && !entry.home.is_empty() => {
            home = Some(entry.home);
            false
        }
        _ => true,
    });
    // A file that can't be read knows nobody.
    searched.ok().and(home)
}

/// The name of a numeric user, if passwd knows one.
pub fn name_of(root: &RootDir, uid: u32) -> Option<String> {
    let mut name = None;
    let searched = search(root, PASSWD, |line| {
        name = passwd_entry(line).filter(|entry| entry.uid == uid).map(|entry| entry.name);
        name.is_none()
    });
    // A file that can't be read knows nobody.
    searched.ok().and(name)
}

/// The groups that have `name` among their members.
fn memberships(root: &RootDir, name: &str) -> Vec<u32> {
    let mut groups = Vec::new();
    // A file that can't be read has no members.
    let _ = search(root, GROUP, |line| {
        if let Some(entry) = group_entry(line) {
            let member = entry.members.split(',').any(|member| member.trim() == name);
            if member && !groups.contains(&entry.gid) {
                groups.push(entry.gid);
            }
        }
        groups.len() < MAX_GROUPS
    });
    groups
}

fn group_id(root: &RootDir, group: &str) -> Result<u32, UserError> {
    let name = match identity(group)? {
        Identity::Number(gid) => return Ok(gid),
        Identity::Name(name) => name,
    };
    let mut found = None;
    search(root, GROUP, |line| {
        found = group_entry(line).filter(|entry| entry.name == name).map(|entry| entry.gid);
        found.is_none()
    })?;
    found.ok_or_else(|| UserError::UnknownGroup(group.to_owned()))
}

/// Gives each line to `visit` until that says false. A missing file has no lines.
fn search(root: &RootDir, path: &'static str, visit: impl FnMut(&str) -> bool) -> Result<(), UserError> {
    let failed = |problem: String| UserError::File { file: path, problem };
    let open = || -> Result<_, PathError> {
        // Looked at before it is opened: opening a device can already do something.
        let found = root.metadata(path)?;
        if found.is_file() { root.open_file(path).map(Some) } else { Ok(None) }
    };
    match open() {
        Ok(Some(file)) => each_line(file, visit).map_err(failed),
        Ok(None) => Err(failed("it is not a regular file".to_owned())),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(error.source.to_string())),
    }
}

fn each_line(file: impl Read, mut visit: impl FnMut(&str) -> bool) -> Result<(), String> {
    let mut reader = BufReader::new(file.take(MAX_FILE));
    let mut line = Vec::new();
    let mut total = 0;
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        if length == 0 {
            return if total >= MAX_FILE {
                Err(format!("it is larger than {MAX_FILE} bytes"))
            } else {
                Ok(())
            };
        }
        total += length as u64;
        if line.len() > MAX_LINE {
            continue;
        }
        if let Ok(text) = std::str::from_utf8(&line) {
            let text = text.trim();
            if !text.is_empty() && !text.starts_with('#') && !visit(text) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nalice:x:1000:1001::/home/alice:/bin/sh\n\
                         1000:x:0:0::/evil:/bin/sh\n-1:x:0:0::/:/\nbig:x:99999999999:0::/:/\nnohome:x:7:8:::\n";
    const GROUPS: &str = "root:x:0:\nwheel:x:10:root,alice\nstaff:x:50:alice, bob\n77:x:0:\n";

    fn root() -> (tempfile::TempDir, RootDir) {
        let directory = tempfile::tempdir().unwrap();
        let root = RootDir::open(directory.path()).unwrap();
        root.create_dir_all("/etc", 0o755).unwrap();
        root.write("/etc/passwd", USERS.as_bytes(), 0o644).unwrap();
        root.write("/etc/group", GROUPS.as_bytes(), 0o644).unwrap();
        (directory, root)
    }

    fn check(user: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let (_keep, root) = root();
        let result = resolve(&root, user, &[]);
        match (result, expected) {
            (Ok(user), Ok((uid, gid, groups, home))) => {
                assert_eq!((user.uid, user.gid, &*user.groups, &*user.home), (uid, gid, groups, home));
            }
            (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
            (result, _) => panic!("{user}: {result:?}"),
        }
    }

    #[test]
    fn names_and_numbers() {
        check("", Ok((0, 0, &[10], "/root")));
        check("root", Ok((0, 0, &[10], "/root")));
        check("alice", Ok((1000, 1001, &[10, 50], "/home/alice")));
        check("alice:staff", Ok((1000, 50, &[], "/home/alice")));
        check("alice:5", Ok((1000, 5, &[], "/home/alice")));
        check("5", Ok((5, 0, &[], "/")));
        check("5:6", Ok((5, 6, &[], "/")));
        check(":6", Ok((0, 6, &[], "/root")));
        check("nohome", Ok((7, 8, &[], "/")));
        check("nobody", Err("unable to find user nobody: no matching entries in passwd file"));
        check("alice:none", Err("unable to find group none: no matching entries in group file"));
    }

    /// CVE-2026-46680: a user named `1000` with uid 0 changes nothing, and no number becomes 0 by overflow.
    #[test]
    fn numbers_are_never_names() {
        check("1000", Ok((1000, 1001, &[10, 50], "/home/alice")));
        check("0:77", Ok((0, 77, &[], "/root")));
        for number in ["4294967296", "1000000000000", "2147483648", "-1", "+1", "99999999999999999999999"] {
            check(number, Err(&format!("uids and gids must be in range 0-2147483647, not {number}")));
            let (_keep, root) = root();
            assert!(resolve(&root, &format!("0:{number}"), &[]).is_err());
        }
        check("0x0", Err("unable to find user 0x0: no matching entries in passwd file"));
        check("big", Err("unable to find user big: no matching entries in passwd file"));
    }

    #[test]
    fn additional_groups() {
        let (_keep, root) = root();
        let user = resolve(&root, "alice", &["wheel".into(), "99".into()]).unwrap();
        assert_eq!(user.groups, [10, 50, 99]);
        assert!(resolve(&root, "alice", &["nope".into()]).is_err());
    }

    /// CVE-2024-9676: a fifo, a device, a symlink out, a directory, an endless file.
    #[test]
    fn hostile_files() {
        let (directory, root) = root();
        let passwd = directory.path().join("etc/passwd");
        let replace = |make: &dyn Fn()| {
            if std::fs::remove_file(&passwd).is_err() {
                std::fs::remove_dir(&passwd).unwrap();
            }
            make();
            assert!(matches!(
                resolve(&root, "root", &[]),
                Err(UserError::File { .. } | UserError::UnknownUser(_))
            ));
            assert_eq!(resolve(&root, "0", &[]).unwrap().uid, 0);
        };
        replace(&|| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &passwd,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap();
        });
        // Outside the root this file exists and has a root.
        replace(&|| std::os::unix::fs::symlink("../../../../../../../etc/passwd", &passwd).unwrap());
        replace(&|| std::os::unix::fs::symlink("/proc/self/fd/0", &passwd).unwrap());
        replace(&|| std::fs::create_dir(&passwd).unwrap());
        replace(&|| std::fs::File::create(&passwd).unwrap().set_len(10 << 30).unwrap());
    }

    #[test]
    fn long_lines_are_skipped() {
        let mut text = "x".repeat(MAX_LINE + 1);
        text.push_str("\nlast:x:3:4::/l:/\n");
        let mut seen = Vec::new();
        each_line(text.as_bytes(), |line| {
            seen.push(line.to_owned());
            true
        })
        .unwrap();
        assert_eq!(seen, ["last:x:3:4::/l:/"]);
    }
}
