//! Where `save` and `export` write: standard output, or a file that is there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::app::App;
use crate::error::{CliError, Result};

/// A checked place for an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Absent for standard output.
    path: Option<PathBuf>,
}

impl Target {
    /// Checks the place before anything is asked of the daemon; `failure` begins the error, as in Docker.
    pub(crate) fn new(app: &App, output: &str, failure: &str) -> Result<Self> {
        if output.is_empty() {
            if app.streams.output_is_terminal() {
                return Err(CliError::new(
                    "cowardly refusing to save to a terminal. Use the -o flag or redirect",
                ));
            }
            return Ok(Self { path: None });
        }
        match check(Path::new(output)) {
            Ok(()) => Ok(Self { path: Some(output.into()) }),
            Err(why) => Err(CliError::new(format!("{failure}: {why}"))),
        }
    }

    /// Takes the archive to its end. A file gets its name when all is there.
    pub(crate) fn take(&self, app: &App, mut archive: impl Read) -> Result<()> {
        let Some(path) = &self.path else {
            let copied = io::copy(&mut archive, &mut app.streams.output());
            return copied.map(drop).map_err(|error| CliError::of_output(&error));
        };
        let mut name = std::ffi::OsString::from(".tmp-");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let create = || -> io::Result<File> {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)
        };
        let mut file = create().map_err(|error| CliError::io("create the archive", &error))?;
        let written = io::copy(&mut archive, &mut file).and_then(|_| std::fs::rename(&temporary, path));
        let written = written.map_err(|error| CliError::io("write the archive", &error));
        if written.is_err() {
            // The error to tell is the one at hand.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

/// What Docker refuses to write to, in its words.
fn check(path: &Path) -> std::result::Result<(), String> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory
        && !directory.exists()
    {
        return Err(format!("invalid output path: stat {}: no such file or directory", directory.display()));
    }
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err("cannot write to a directory".to_owned());
    }
    if kind.is_char_device() {
        return Err("cannot write to a character device file".to_owned());
    }
    if kind.is_block_device() {
        return Err("cannot write to a block device file".to_owned());
    }
    if kind.is_fifo() {
        return Err("cannot write to a named pipe file".to_owned());
    }
    if kind.is_socket() {
        return Err("cannot write to a socket file".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_no_archive_goes_to() {
        let check = |path: &str| check(Path::new(path));
        assert_eq!(
            check("/nonexist/x").unwrap_err(),
            "invalid output path: stat /nonexist: no such file or directory"
        );
        assert_eq!(check("/tmp").unwrap_err(), "cannot write to a directory");
        assert_eq!(check("/dev/null").unwrap_err(), "cannot write to a character device file");
        assert_eq!(check("/tmp/some-new-file"), Ok(()));
        assert_eq!(check("relative"), Ok(()));
    }
}
