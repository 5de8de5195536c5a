//! What the daemon may ask us for: the directories, secrets and agents of the command line, credentials for registries, and where its
//! outputs go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palan_buildkit::session::{Credentials, Directory, Output, Services};
use palan_linux::path::RootDir;
use palan_oci::Digest;
use palan_stdx::atomic_file::Durability;
use palan_stdx::error_chain;

use super::export::Destination;
use super::request::Request;
use super::source::{Context, Source};
use super::unpacked::Layout;
use super::{cache, destination};
use crate::app::App;
use crate::config_file::ConfigFile;
use crate::credentials;
use crate::environment::Environment;
use crate::error::{CliError, Result};

/// What a build offers.
pub(super) fn of(app: &App, request: &Request) -> Result<Services> {
    let known = Known { config: app.config().clone(), environment: app.environment.clone() };
    let mut services = Services::new().credentials(Arc::new(known));
    for (name, path) in &request.directories {
        let root = RootDir::open(path).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
        services = services.directory(name, Directory::new(root));
    }
    for secret in &request.secrets {
        services = services.secret(&secret.id, secret.offered());
    }
    for agent in &request.agents {
        services = services.agent(&agent.id, agent.socket.clone());
    }
    for (number, export) in (0..).zip(&request.exports) {
        let output = match &export.destination {
            Destination::Daemon => continue,
            Destination::Directory(path) => {
                let mirror = export.attributes.iter().any(|(key, value)| key == "mode" && value == "delete");
                Output::Directory { path: path.clone(), mirror }
            }
            Destination::File(path) => {
                let path = path.clone();
                Output::File(Arc::new(move |_| match destination::through(&path)? {
                    Some(file) => Ok(Box::new(file)),
                    None => Ok(Box::new(Archive::new(&path)?)),
                }))
            }
            Destination::Layout(path) => {
                let path = path.clone();
                Output::File(Arc::new(move |_| Ok(Box::new(Layout::new(path.clone())?))))
            }
            Destination::Stdout => {
                let out = app.streams.output();
                Output::File(Arc::new(move |_| Ok(Box::new(out.clone()))))
            }
        };
        services = services.output(number, output);
    }
    Ok(cache::offer(services, request.cache_from.iter().chain(&request.cache_to)))
}

/// The name of the session, for the daemon's log.
pub(super) fn name(source: &Source) -> String {
    match &source.context {
        Context::Directory(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            // It travels in a header.
            name.unwrap_or_default().chars().filter(|c| c.is_ascii_graphic()).collect()
        }
        Context::Remote(_) => String::new(),
    }
}

/// A key that is the same for every build of the same directory of this host: the daemon keeps what it got and asks for what has changed.
/// Nobody else can know it, for what the daemon does not ask for would say what it has. Without a place for the secret, nothing is kept.
pub(super) fn shared_key(app: &App, source: &Source) -> String {
    let Context::Directory(path) = &source.context else { return String::new() };
    let Some(secret) = secret(&app.config_directory()) else { return String::new() };
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    Digest::of(format!("{secret}\n{host}\n{}", path.display())).hex()
}

/// What makes the keys of this user's directories hard to guess: drawn once, and kept beside the configuration.
fn secret(config: &Path) -> Option<String> {
    let directory = config.join("palan");
    let path = directory.join("build-id");
    let known = || {
        let text = palan_stdx::fs::read_to_string_if_exists(&path).ok()??;
        let text = text.trim();
        (text.len() >= 25 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| text.to_owned())
    };
    known().or_else(|| {
        // A home that does not exist is not made: it is the mark of users who have none.
        for directory in [config, &directory] {
            palan_stdx::fs::create_dir(directory, 0o700).ok()?;
        }
        let new = palan_buildkit::session::new_id().ok()?;
        palan_stdx::atomic_file::write(&path, new.as_bytes(), 0o600, Durability::Process).ok()?;
        // Or that of another build, which came at the same time.
        known()
    })
}

/// The credentials of the user.
#[derive(Debug)]
struct Known {
    config: ConfigFile,
    environment: Environment,
}

impl Credentials for Known {
    fn credentials(&self, host: &str) -> std::result::Result<Option<(String, String)>, String> {
        // Docker Hub's registry has another address than its name.
        let domain = if host == "registry-1.docker.io" { "docker.io" } else { host };
        let auth = credentials::get(&self.config, &self.environment, domain);
        let auth = auth.map_err(|error| error.message)?;
        Ok(auth.map(|auth| match auth.identity_token.as_str() {
            "" => (auth.username, auth.password),
            token => (String::new(), token.to_owned()),
        }))
    }
}

/// A file that gets its name when all of it is there.
#[derive(Debug)]
struct Archive {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Archive {
    fn new(path: &Path) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".tmp-");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        Ok(Self { file, temporary, path: path.to_owned() })
    }
}

impl Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    /// It is called once, at the end.
    fn flush(&mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // There is none any more if it was complete.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_drawn_once() {
        let directory = tempfile::tempdir().unwrap();
        let first = secret(directory.path()).unwrap();
        assert_eq!(secret(directory.path()), Some(first.clone()));
        let path = directory.path().join("palan/build-id");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "").unwrap();
        let second = secret(directory.path()).unwrap();
        assert_ne!(first, second, "what was left of the file was nothing");
        let other = tempfile::tempdir().unwrap();
        assert_ne!(secret(other.path()), Some(second));
        assert!(secret(&directory.path().join("new")).is_some());
        let nobodys = directory.path().join("no-home/.docker");
        assert_eq!(secret(&nobodys), None);
        assert!(!directory.path().join("no-home").exists());
        assert_eq!(secret(Path::new("/dev/null")), None);
    }

    #[test]
    fn an_archive_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar");
        let count = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut archive = Archive::new(&path).unwrap();
        archive.write_all(b"half").unwrap();
        drop(archive);
        assert_eq!(count(), 0);
        let mut archive = Archive::new(&path).unwrap();
        archive.write_all(b"whole").unwrap();
        archive.flush().unwrap();
        drop(archive);
        assert_eq!((count(), std::fs::read(&path).unwrap()), (1, b"whole".to_vec()));
    }
}
