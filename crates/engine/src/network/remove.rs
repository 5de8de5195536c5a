//! Removing networks: by name, or all that nobody uses.

use jiff::Timestamp;

use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::network::{Network, network_error, template};
use crate::spec::Filters;
use crate::{Class, Error, Result};

impl Engine {
    /// Removes a network that no running container is on.
    pub async fn remove_network(&self, reference: &str) -> Result<()> {
        let _changing = self.networks.changing.lock().await;
        let network = self.networks.find(reference)?;
        if network.is_predefined() {
            let text = format!("{} is a pre-defined network and cannot be removed", network.name);
            return Err(Error::new(Class::Forbidden, text));
        }
        template::check_unused(&network, &self.networks.all())?;
        self.remove_found(&network).await
    }

    /// Removes the networks that no container is on or will be on when it starts. Filters: `label`, `label!`, `until`. Returns
    /// their names.
    pub async fn prune_networks(&self, filters: Filters) -> Result<Vec<String>> {
        filters.check(&["label", "label!", "until"])?;
        let until = filters.until()?;
        let _changing = self.networks.changing.lock().await;
        let mut pruned = Vec::new();
        for network in self.networks.all() {
            let fits = !network.is_predefined()
                && !network.config_only
                && !self.is_in_use(&network)
                && filters.labels("label", &network.labels)
                && (!filters.has("label!") || !filters.labels("label!", &network.labels))
                && until.is_none_or(|until: Timestamp| network.created < until);
            if !fits {
                continue;
            }
            match self.remove_found(&network).await {
                Ok(()) => pruned.push(network.name.clone()),
                // Somebody uses it now.
                Err(error) if error.class() == Class::Forbidden => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    async fn remove_found(&self, network: &Network) -> Result<()> {
        let busy = || {
            let members = self.members(network);
            let shown: Vec<String> = members
                .iter()
                .map(|(id, member)| format!("name:\"{}\" id:\"{}\"", member.name, &id[..12.min(id.len())]))
                .collect();
            let who = if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) };
            let text =
                format!("error while removing network: network {} has active endpoints{who}", network.name);
            Error::new(Class::Forbidden, text)
        };
        if !self.members(network).is_empty() {
            return Err(busy());
        }
        let (engine, id) = (self.shared(), network.id.clone());
        let removed = blocking(move || {
            match engine.network.remove(&id) {
                // One that could not be made at the start has nothing on the host.
                Ok(()) | Err(palan_network::NetworkError::Unknown { .. }) => Ok(true),
                Err(palan_network::NetworkError::Busy { .. }) => Ok(false),
                Err(error) => Err(network_error(error, "cannot remove the network")),
            }
        });
        if !removed.await? {
            return Err(busy());
        }
        self.db.commit(Change::new().delete_network(&network.id).event(network.event("destroy"))).await?;
        self.networks.remove(&network.id);
        let path = self.names_path(&network.id);
        blocking(move || {
            // Without names on the network there is no file.
            let _ = palan_stdx::fs::if_exists(palan_stdx::fs::remove_file(&path));
            Ok(())
        })
        .await
    }
}
