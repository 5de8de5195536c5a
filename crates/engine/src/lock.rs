//! One daemon for each data root and each run root.
//!
//! What a daemon finds in either without a row of its database it takes for the remains of an earlier one and removes; a
//! second daemon would end the containers of the first. The kernel frees the lock however its holder ends, so a
//! file that was left means nothing by itself.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::Context;
use crate::{Error, Result};

/// A directory that is this process's own as long as this lives.
#[derive(Debug)]
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "held for its lock alone")] File);

impl DirectoryLock {
    /// Takes `directory`; `what` and `option` say in the error what it is and how another one is given.
    pub(crate) fn take(directory: &Path, what: &str, option: &str) -> Result<Self> {
        let path = directory.join("lock");
        let failed = || format!("cannot lock the {what} with {}", path.display());
        // Not truncated before it is ours: the holder's number stands there.
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).context(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(directory, &path, what, option)),
            Err(error) => return Err(error).context(failed),
        }
        // For people and for the error above; the lock itself doesn't need it, so a full disk is no obstacle.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

impl DirectoryLock {
    /// Whether nobody has `directory`.
    pub(crate) fn is_free(directory: &Path) -> bool {
        let file = palan_stdx::fs::open(&directory.join("lock"));
        file.is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
    }
}

fn in_use(directory: &Path, path: &Path, what: &str, option: &str) -> Error {
    let holder = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let holder = holder.map(|pid| format!(" with process id {pid}")).unwrap_or_default();
    Error::conflict(format!(
        "the {what} {} is in use by another daemon{holder}; stop that one, or give this one a {what} of its own with {option}",
        directory.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_free_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let take = || DirectoryLock::take(directory.path(), "data root", "--data-root");
        // What a killed daemon left is no obstacle.
        std::fs::write(directory.path().join("lock"), "4194304000\n").unwrap();
        let held = take().unwrap();
        let error = take().unwrap_err().report();
        let expected = format!(
            "the data root {} is in use by another daemon with process id {}; stop that one, or give this one a data \
             root of its own with --data-root",
            directory.path().display(),
            std::process::id()
        );
        assert_eq!(error, expected);
        assert!(!DirectoryLock::is_free(directory.path()));
        drop(held);
        assert!(DirectoryLock::is_free(directory.path()));
        take().unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_locked_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("lock")).unwrap();
        let error = DirectoryLock::take(directory.path(), "run root", "--run-root").unwrap_err().report();
        let path = directory.path().join("lock").display().to_string();
        assert_eq!(error, format!("cannot lock the run root with {path}: Is a directory (os error 21)"));
    }
}
