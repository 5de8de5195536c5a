//! Certificates for a daemon with TLS and its clients, as PEM files.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Writes into `directory`: `ca.pem`; `server-cert.pem` and `server-key.pem` for 127.0.0.1 and localhost; `cert.pem` and `key.pem`
/// for a client.
pub fn write(directory: &Path) {
    let key = || rcgen::KeyPair::generate().expect("keys can be made");
    let ca_key = key();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no names are valid names");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let file = |name: &str, text: &str| std::fs::write(directory.join(name), text).expect("written");
    file("ca.pem", &ca.self_signed(&ca_key).expect("the authority signs itself").pem());
    let issuer = rcgen::Issuer::new(ca, ca_key);
    for (names, certificate, key_file) in [
        (&["localhost", "127.0.0.1"][..], "server-cert.pem", "server-key.pem"),
        (&["client"][..], "cert.pem", "key.pem"),
    ] {
        let own = key();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let parameters = rcgen::CertificateParams::new(names).expect("the names are valid");
        file(certificate, &parameters.signed_by(&own, &issuer).expect("the authority signs").pem());
        file(key_file, &own.serialize_pem());
    }
}

/// Takes one connection as the server whose files [`write`] made; what the client sends.
pub fn accept(listener: &TcpListener, directory: &Path) -> impl Read + use<> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder =
        builder.with_safe_default_protocol_versions().expect("ring knows TLS").with_no_client_auth();
    let chain = CertificateDer::pem_file_iter(directory.join("server-cert.pem")).expect("there");
    let chain = chain.map(|certificate| certificate.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(directory.join("server-key.pem")).expect("a key");
    let config = builder.with_single_cert(chain, key).expect("they belong together");
    let (stream, _) = listener.accept().expect("somebody comes");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let connection = rustls::ServerConnection::new(Arc::new(config)).expect("made");
    rustls::StreamOwned::new(connection, stream)
}
