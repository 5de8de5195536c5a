//! The last stretch: the working directory, the program and its environment, exec.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use palan_linux::path::RootDir;
use palan_linux::process as os;
use palan_linux::signal::{self, SignalSet};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::Never;
use crate::error::{Context, Error, ProgramProblem};
use crate::plan::ProcessPlan;
use crate::user::ResolvedUser;

/// The directory that the program starts in.
///
/// It is opened with a root-scoped `openat2`, which follows no magic link: `/proc/self/fd/7` leads nowhere
/// (CVE-2024-21626), whatever descriptors are open.
pub(crate) struct WorkingDirectory {
    root: RootDir,
    path: String,
    directory: Result<OwnedFd, palan_linux::path::PathError>,
}

impl WorkingDirectory {
    pub(crate) fn open(root: RootDir, path: &str, create: bool) -> Result<Self, Error> {
        if create && path != "/" {
            root.create_dir_all(path, 0o755)?;
        }
        let directory = root.open_with(path, OFlags::PATH | OFlags::DIRECTORY);
        Ok(Self { root, path: path.to_owned(), directory })
    }

    /// Goes there. Must come before descriptors are put into their places; on failure the user may have to try.
    pub(crate) fn enter(self) -> Result<(), EnterError> {
        let failure = match &self.directory {
            Ok(directory) => match rustix::process::fchdir(directory) {
                Ok(()) => return verify_inside(&self.path).map_err(EnterError::Final),
                Err(errno) => errno,
            },
            Err(error) => error.errno().unwrap_or(Errno::IO),
        };
        let error = Error::Invalid(format!(
            "chdir to cwd ({:?}) set in config.json failed: {}",
            self.path,
            describe(failure)
        ));
        drop(self.root);
        if matches!(failure, Errno::ACCESS | Errno::PERM) {
            Err(EnterError::AsUser { path: self.path, error })
        } else {
            Err(EnterError::Final(error))
        }
    }
}

/// Why the working directory could not be entered as root.
pub(crate) enum EnterError {
    Final(Error),
    /// Root may not (a network file system, say), the user perhaps may.
    AsUser {
        path: String,
        error: Error,
    },
}

impl EnterError {
    /// Another attempt, after the change of credentials.
    pub(crate) fn again_as_user(self) -> Result<(), Error> {
        match self {
            Self::Final(error) => Err(error),
            Self::AsUser { path, error } => {
                let root = super::own_root()?;
                let directory = root.open_with(&path, OFlags::PATH | OFlags::DIRECTORY).map_err(|_| error)?;
                rustix::process::fchdir(directory).context(|| format!("enter {path}"))?;
                verify_inside(&path)
            }
        }
    }
}

/// The kernel marks a working directory that can't be reached from the root.
fn verify_inside(path: &str) -> Result<(), Error> {
    let current = rustix::process::getcwd(Vec::new()).context(|| "find the working directory".to_owned())?;
    if current.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "current working directory {path:?} is outside of container mount namespace root"
        )))
    }
}

fn describe(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        other => other.to_string(),
    }
}

/// Finds the program with the rights of the user, as Go's `exec.LookPath` does: that is what runc's users know.
pub(crate) fn find(process: &ProcessPlan) -> Result<CString, Error> {
    let name = &process.name;
    let failed = |problem| Error::Program { name: name.clone(), problem };
    let found = if name.contains('/') {
        check(name).map_err(|errno| failed(problem(name, errno)))?;
        name.clone()
    } else {
        let path = process.environment.iter().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
        path.split(':')
            // A relative directory would make the result depend on where the process starts.
            .filter(|directory| directory.starts_with('/'))
            .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
            .find(|candidate| check(candidate).is_ok())
            .ok_or_else(|| failed(ProgramProblem::NotInPath))?
    };
    CString::new(found).map_err(|_| failed(ProgramProblem::Other("contains a NUL byte".to_owned())))
}

/// Whether the file can be executed. (Since the pivot every path starts at the container's root.)
fn check(path: &str) -> Result<(), Errno> {
    let found = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    if found.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    // With the capabilities that the program will have. A filter or kernel that does not know the call leaves it to exec.
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    match os::may_execute(&path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        other => other,
    }
}

fn problem(path: &str, errno: Errno) -> ProgramProblem {
    match errno {
        Errno::NOENT => ProgramProblem::Missing(path.to_owned()),
        Errno::ISDIR => ProgramProblem::IsDirectory,
        Errno::ACCESS => ProgramProblem::Permission,
        other => ProgramProblem::Other(format!("stat {path}: {}", describe(other))),
    }
}

/// The environment in exec's form.
pub(crate) fn environment(process: &ProcessPlan, user: &ResolvedUser) -> Vec<CString> {
    let mut entries: Vec<String> =
        process.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let home = process.environment.iter().position(|(name, _)| name == "HOME");
    match home {
        None => entries.push(format!("HOME={}", user.home)),
        Some(place) if process.environment[place].1.is_empty() => {
            entries[place] = format!("HOME={}", user.home);
        }
        Some(_) => {}
    }
    // Entries were checked for NUL; a home directory with one in it is not worth failing for.
    entries.into_iter().filter_map(|entry| CString::new(entry).ok()).collect()
}

/// Executes. What comes back is why it failed.
pub(crate) fn execute(
    program: &CString,
    arguments: &[CString],
    environment: &[CString],
) -> Result<Never, Error> {
    signal::set_mask(&SignalSet::empty()).context(|| "unblock signals".to_owned())?;
    let source = os::execute(program, arguments, environment);
    Err(Error::Execute { path: program.to_string_lossy().into_owned(), source })
}
