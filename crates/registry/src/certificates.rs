//! The certificates that an administrator put aside for one registry, in the form that Docker reads:
//! `certs.d/<host:port>/*.crt` are authorities, `*.cert` with the `*.key` of the same name identify us.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use palan_stdx::fs::{self, PathError};
use reqwest::{Certificate, Identity};

/// The certificates for one host.
#[derive(Debug, Default)]
pub(crate) struct HostCertificates {
    pub(crate) authorities: Vec<Certificate>,
    pub(crate) identity: Option<Identity>,
}

/// The files that a client was made from; a change makes a new client.
pub(crate) type Stamp = Vec<(PathBuf, Option<SystemTime>, u64)>;

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
    let mut files: Stamp = fs::read_dir(&directory)
        .unwrap_or_default()
        .into_iter()
        .map(|entry| {
            let metadata = fs::metadata(&entry.path()).ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            (entry.path(), modified, metadata.map_or(0, |metadata| metadata.len()))
        })
        .collect();
    files.sort();
    files
}

/// Loads the files of a [`Stamp`].
pub(crate) fn load(files: &Stamp) -> Result<HostCertificates, CertificateError> {
    let mut found = HostCertificates::default();
    for (path, ..) in files {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.extend(load_authorities(path)?),
            Some("cert") if found.identity.is_none() => found.identity = Some(load_identity(path)?),
            Some("cert") => {
                tracing::warn!(path = %path.display(), "only the first client certificate of a registry is used");
            }
            _ => {}
        }
    }
    Ok(found)
}

fn load_authorities(path: &Path) -> Result<Vec<Certificate>, CertificateError> {
    let unusable = || CertificateError::Unusable { path: path.to_owned() };
    let certificates = Certificate::from_pem_bundle(&fs::read(path)?).map_err(|_| unusable())?;
    if certificates.is_empty() { Err(unusable()) } else { Ok(certificates) }
}

fn load_identity(path: &Path) -> Result<Identity, CertificateError> {
    let key = path.with_extension("key");
    if !key.is_file() {
        return Err(CertificateError::MissingKey { key, certificate: path.to_owned() });
    }
    let mut pem = fs::read(path)?;
    pem.push(b'\n');
    pem.extend_from_slice(&fs::read(&key)?);
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
