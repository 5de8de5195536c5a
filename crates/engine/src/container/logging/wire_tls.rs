//! The certificates of a receiver, and ours for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use palan_tls::AnyCertificate;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Result;
use crate::error::Context;

/// The files, in PEM.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) authorities: Option<PathBuf>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) verify: bool,
}

/// Where hosts keep the authorities that they trust.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

impl Files {
    pub(super) fn load(&self) -> Result<Arc<ClientConfig>> {
        let what = || "the TLS settings of the log driver can't be used".to_owned();
        let system = SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
        let authorities = self.authorities.clone().or(system);
        let mut roots = RootCertStore::empty();
        for certificate in
            authorities.iter().map(|path| certificates(path)).collect::<Result<Vec<_>>>()?.concat()
        {
            roots.add(certificate).context(what)?;
        }
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().context(what)?;
        let builder = if self.verify {
            builder.with_root_certificates(roots)
        } else {
            // `syslog-tls-skip-verify`
            builder.dangerous().with_custom_certificate_verifier(AnyCertificate::new(provider))
        };
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key).context(what)?;
                builder.with_client_auth_cert(certificates(certificate)?, key).context(what)?
            }
        };
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    palan_tls::certificates(path).context(|| format!("cannot read the certificates in {}", path.display()))
}
