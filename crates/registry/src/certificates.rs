//! The certificates that an administrator put aside for one registry, in the form that Docker reads:
//! `certs.d/<host:port>/*.crt` are authorities, `*.cert` with the `*.key` of the same name identify us.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use palan_stdx::fs::{self, PathError};
use reqwest::{Certificate, Identity};

use crate::hosts::Extras;

/// The certificates for one host.
#[derive(Debug, Default)]
pub(crate) struct HostCertificates {
    pub(crate) authorities: Vec<Certificate>,
    pub(crate) identity: Option<Identity>,
}

/// The files that a client is made from; a change makes a new client.
pub(crate) type Stamp = Vec<StampedFile>;

/// A file, and what tells versions of it apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StampedFile {
    path: PathBuf,
    role: Role,
    modified: Option<SystemTime>,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Role {
    /// Authorities.
    Authority,
    /// Our certificate, whose key is in the next file.
    Certificate,
    /// Our certificate with its key.
    Both,
    /// A key, or what is of no meaning here.
    Other,
}

impl StampedFile {
    fn new(path: PathBuf, role: Role) -> Self {
        let metadata = fs::metadata(&path).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        Self { role, modified, size: metadata.map_or(0, |metadata| metadata.len()), path }
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error(transparent)]
    File(#[from] PathError),
    #[error("{} holds no usable certificate", path.display())]
    Unusable { path: PathBuf },
    #[error(
        "missing key {} for client certificate {}; authorities' certificates must use the extension .crt",
        key.display(), certificate.display()
    )]
    MissingKey { key: PathBuf, certificate: PathBuf },
}

/// The directory for `authority` below the first of `directories` that has one.
fn directory(directories: &[PathBuf], authority: &str) -> Option<PathBuf> {
    // The name comes from an image reference or a registry; it must stay one component.
    if authority.is_empty() || authority.starts_with('.') || authority.contains(['/', '\0']) {
        return None;
    }
    directories.iter().map(|parent| parent.join(authority)).find(|path| path.is_dir())
}

/// The files for `authority` with what tells versions of them apart.
pub(crate) fn stamp(directories: &[PathBuf], authority: &str) -> Stamp {
    let Some(directory) = directory(directories, authority) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&directory).unwrap_or_default().into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Stamp::new();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => files.push(StampedFile::new(path, Role::Authority)),
            Some("cert") => {
                let key = path.with_extension("key");
                files.push(StampedFile::new(path, Role::Certificate));
                files.push(StampedFile::new(key, Role::Other));
            }
            _ => {}
        }
    }
    files
}

/// The files that `hosts.toml` names.
pub(crate) fn stamp_named(extras: &Extras) -> Stamp {
    let mut files: Stamp =
        extras.authorities.iter().map(|path| StampedFile::new(path.clone(), Role::Authority)).collect();
    for (certificate, key) in &extras.clients {
        match key {
            Some(key) => {
                files.push(StampedFile::new(certificate.clone(), Role::Certificate));
                files.push(StampedFile::new(key.clone(), Role::Other));
            }
            None => files.push(StampedFile::new(certificate.clone(), Role::Both)),
        }
    }
    files
}

/// Loads the files of a [`Stamp`].
pub(crate) fn load(files: &Stamp) -> Result<HostCertificates, CertificateError> {
    let mut found = HostCertificates::default();
    for (index, StampedFile { path, role, .. }) in files.iter().enumerate() {
        match role {
            Role::Authority => found.authorities.extend(load_authorities(path)?),
            Role::Certificate | Role::Both if found.identity.is_none() => {
                let key = files.get(index + 1).filter(|_| *role == Role::Certificate);
                found.identity = Some(load_identity(path, key.map(|key| key.path.as_path()))?);
            }
            Role::Certificate | Role::Both => {
                tracing::warn!(path = %path.display(), "only the first client certificate of a registry is used");
            }
            Role::Other => {}
        }
    }
    Ok(found)
}

fn load_authorities(path: &Path) -> Result<Vec<Certificate>, CertificateError> {
    let unusable = || CertificateError::Unusable { path: path.to_owned() };
    let certificates = Certificate::from_pem_bundle(&fs::read(path)?).map_err(|_| unusable())?;
    if certificates.is_empty() { Err(unusable()) } else { Ok(certificates) }
}

fn load_identity(path: &Path, key: Option<&Path>) -> Result<Identity, CertificateError> {
    if let Some(key) = key.filter(|key| !key.is_file()) {
        return Err(CertificateError::MissingKey { key: key.to_owned(), certificate: path.to_owned() });
    }
    let mut pem = fs::read(path)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend_from_slice(&fs::read(key)?);
    }
    Identity::from_pem(&pem).map_err(|_| CertificateError::Unusable { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_stays_one_component() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::create_dir(parent.path().join("r.example.com:5000")).unwrap();
        let directories = [parent.path().to_owned()];
        assert!(directory(&directories, "r.example.com:5000").is_some());
        for bad in ["..", ".", "", "a/b", "../x", "other"] {
            assert_eq!(directory(&directories, bad), None, "{bad}");
        }
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let parent = tempfile::tempdir().unwrap();
        let host = parent.path().join("h");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("client.cert"), "x").unwrap();
        let error = load(&stamp(&[parent.path().to_owned()], "h")).unwrap_err();
        assert!(matches!(error, CertificateError::MissingKey { .. }));
        std::fs::write(host.join("ca.crt"), "not a certificate").unwrap();
        let error = load(&stamp(&[parent.path().to_owned()], "h")).unwrap_err();
        assert!(error.to_string().ends_with("ca.crt holds no usable certificate"), "{error}");
    }
}
