//! The files that resolvers answer from: one for each network with the names on it, one for each container with what concerns it
//! alone. The formats are `palan_dns`'s; who reads them is the supervisor of each container, at every query.
//!
//! **Invariant:** a file is replaced as a whole, after the change that it tells of was published in the index; so the last
//! one written is right, whoever wrote it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use palan_dns::config::Config;
use palan_dns::names::{self, Entry};
use palan_stdx::atomic_file::{Durability, write};
use palan_supervisor::protocol::RESOLVER_CONFIG_NAME;

use crate::container::Details;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::network::Network;
use crate::{Result, container};

impl Engine {
    /// The file with the names of a network.
    pub(crate) fn names_path(&self, id: &str) -> PathBuf {
        self.config.run_root.join("networks").join(id)
    }

    /// Writes the names of the networks that a container is on, or was.
    pub(crate) async fn publish_names(&self, ids: Vec<String>) {
        let networks: Vec<Arc<Network>> = ids.iter().filter_map(|id| self.networks.by_id(id)).collect();
        let engine = self.shared();
        let networks: Vec<Arc<Network>> =
            networks.into_iter().filter(|network| network.has_names()).collect();
        if networks.is_empty() {
            return;
        }
        let outcome = blocking(move || networks.iter().try_for_each(|network| engine.write_names(network)));
        if let Err(error) = outcome.await {
            tracing::error!(error = error.report(), "the names of a network are not up to date");
        }
    }

    /// The same for one network, on a blocking thread.
    pub(crate) fn write_names(&self, network: &Network) -> Result<()> {
        let _writing = self.networks.writing_names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::new();
        for handle in self.index.all() {
            let details = handle.details();
            let endpoints = details.endpoints.values();
            for endpoint in endpoints.filter(|endpoint| endpoint.network_id == network.id) {
                let texts = [&endpoint.ip_address, &endpoint.ipv6_address];
                let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
                if !addresses.is_empty() {
                    entries.push(Entry { addresses, names: names_of(&details, &endpoint.settings.aliases) });
                }
            }
        }
        let path = self.names_path(&network.id);
        let text = names::render(&network.name, &entries);
        write(&path, text.as_bytes(), 0o600, Durability::Process)
            .context(|| format!("cannot write the names of the network {}", network.name))
    }

    /// Writes what a container's resolver must know. Blocking.
    pub(crate) fn write_resolver_config(&self, details: &Details) -> Result<()> {
        let mut config = Config::default();
        for (name, endpoint) in &details.endpoints {
            let Some(network) = self.networks.by_id(&endpoint.network_id) else { continue };
            config.forward |= !network.internal;
            if network.has_names() {
                config.names.push(self.names_path(&network.id).to_string_lossy().into_owned());
            }
            let links = endpoint.settings.links.iter().chain(
                // `--link` of the container itself is meant for the network that it was made with.
                details.host.links.iter().filter(|_| *name == details.host.network_mode),
            );
            config.links.extend(links.filter_map(|link| linked(self, link)));
        }
        let servers = if details.host.dns.is_empty() { &self.config.dns } else { &details.host.dns };
        config.servers = servers.iter().filter_map(|server| server.parse().ok()).collect();
        let path = self.run_dir(&details.id).join(RESOLVER_CONFIG_NAME);
        write(&path, config.render().as_bytes(), 0o600, Durability::Process)
            .context(|| "cannot write the configuration of the container's resolver".into())
    }
}

/// The names of a container on a network: its own first, then its aliases and its short id.
pub(crate) fn names_of(details: &Details, aliases: &[String]) -> Vec<String> {
    let mut names = vec![details.name.clone()];
    let short = container::driver::short(&details.id).to_owned();
    for name in aliases.iter().cloned().chain([short, details.config.hostname.clone()]) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `container:alias` as the alias and the container's own name on the network, which is its name or, for an id, found by it.
fn linked(engine: &Engine, link: &str) -> Option<(String, String)> {
    let (target, alias) = split_link(link);
    let name =
        engine.index.find(target).map_or_else(|_| target.to_owned(), |handle| handle.details().name.clone());
    Some((alias.to_owned(), name.to_ascii_lowercase()))
}

/// `container[:alias]`, both without slash.
pub(crate) fn split_link(link: &str) -> (&str, &str) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    let target = target.trim_start_matches('/');
    // `inspect` shows an alias as a path: /db:/web/database.
    (target, alias.rsplit('/').next().unwrap_or(alias))
}
