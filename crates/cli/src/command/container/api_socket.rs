//! `--use-api-socket`: the daemon's socket in the container, and what the user is logged in with.

use palan_docker_api::client::{ClientError, Query, Request};
use palan_docker_api::host::Host;
use palan_docker_api::types::{AuthConfig, BindOptions, CreateContainerRequest, Mount};
use serde_json::json;

use crate::app::App;
use crate::config_file::encode_auth;
use crate::context::DEFAULT_SOCKET;
use crate::credentials;
use crate::error::Result;

/// Where clients of Docker look for the socket.
const SOCKET: &str = "/var/run/docker.sock";
/// The configuration directory in the container.
const DIRECTORY: &str = "/run/secrets/docker";
/// tar counts in blocks of so many bytes.
const BLOCK: usize = 512;

/// What is given to the container once it is there.
#[derive(Debug)]
pub(crate) struct Credentials(Vec<AuthConfig>);

/// Adds the socket to the request. With a `DOCKER_CONFIG` of its own the container gets no credentials.
pub(crate) fn add(app: &App, request: &mut CreateContainerRequest) -> Result<Credentials> {
    // A daemon that is spoken to by TCP or SSH has its socket, if it has one, where it is by default.
    let source = match app.target()?.host {
        Host::Unix(path) => path.to_string_lossy().into_owned(),
        Host::Tcp { .. } | Host::Ssh(_) => DEFAULT_SOCKET.to_owned(),
    };
    request.host_config.mounts.push(Mount {
        kind: "bind".to_owned(),
        source,
        target: SOCKET.to_owned(),
        bind_options: Some(BindOptions::default()),
        ..Mount::default()
    });
    if request.config.env.iter().any(|variable| variable.starts_with("DOCKER_CONFIG=")) {
        return Ok(Credentials(Vec::new()));
    }
    let config = app.config();
    let mut known = Vec::new();
    for registry in config.registries() {
        known.extend(credentials::get(config, &app.environment, &registry)?);
    }
    if !known.is_empty() {
        request.config.env.push(format!("DOCKER_CONFIG={DIRECTORY}"));
    }
    Ok(Credentials(known))
}

impl Credentials {
    /// Puts them into the container, if there are any.
    pub(crate) fn give(&self, app: &App, container: &str) -> Result<(), ClientError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let archive = archive(&self.file());
        let path = format!("/containers/{container}/archive");
        let query = Query::new().with("path", "/");
        let mut reader = archive.as_slice();
        let request = Request::new("PUT", path, &query).stream(&mut reader, "application/x-tar");
        let client =
            app.client().map_err(|error| ClientError::Upload(std::io::Error::other(error.message)))?;
        client.send(request).map(drop)
    }

    fn file(&self) -> String {
        let entry = |auth: &AuthConfig| {
            let entry = if auth.identity_token.is_empty() {
                json!({"auth": encode_auth(auth)})
            } else {
                json!({"auth": encode_auth(auth), "identitytoken": auth.identity_token})
            };
            (auth.server_address.clone(), entry)
        };
        let entries: serde_json::Map<_, _> = self.0.iter().map(entry).collect();
        json!({"auths": entries}).to_string()
    }
}

/// A tar of the configuration file in its directories, for root's eyes only.
fn archive(content: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let directories = DIRECTORY.trim_start_matches('/');
    for (end, _) in directories.match_indices('/').chain([(directories.len(), "")]) {
        archive.extend(header(&format!("{}/", &directories[..end]), 0o755, 0, b'5'));
    }
    archive.extend(header(&format!("{directories}/config.json"), 0o600, content.len(), b'0'));
    archive.extend(content.as_bytes());
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}

/// A header of the format ustar.
fn header(name: &str, mode: u32, size: usize, kind: u8) -> [u8; BLOCK] {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    for at in [108, 116] {
        put(at, b"0000000");
    }
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(CHECKSUM.start, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_the_file_in_its_directories() {
        let credentials = Credentials(vec![AuthConfig {
            username: "u".into(),
            password: "p".into(),
            server_address: "registry.test".into(),
            ..AuthConfig::default()
        }]);
        let file = credentials.file();
        assert_eq!(file, r#"{"auths":{"registry.test":{"auth":"dTpw"}}}"#);
        let archive = archive(&file);
        assert_eq!(archive.len() % BLOCK, 0);
        let names: Vec<String> = (0..4)
            .map(|index| {
                let name = &archive[index * BLOCK..][..100];
                String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()
            })
            .collect();
        assert_eq!(names, ["run/", "run/secrets/", "run/secrets/docker/", "run/secrets/docker/config.json"]);
        assert!(archive[4 * BLOCK..].starts_with(file.as_bytes()));
    }
}
