//! Certificates for a daemon with TLS and its clients, as PEM files.

use std::path::Path;

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
