//! Networks that are nothing but a configuration for others (`--config-only`), and those made from one (`--config-from`).
//!
//! A template has subnets, driver options and labels, of any driver's: they are checked when a network is made of them. It has
//! no part on the host, and no container can be on it.

use std::sync::Arc;

use crate::network::{Network, NetworkSpec, Networks};
use crate::{Class, Error, Result};

/// The driver that templates are shown with.
pub(crate) const DRIVER: &str = "null";

/// A template may say only what belongs to a network in itself.
pub(crate) fn check(spec: &NetworkSpec) -> Result<()> {
    if !spec.config_from.is_empty() {
        return Err(forbidden("a configuration network cannot depend on another configuration network"));
    }
    if spec.internal || spec.attachable {
        return Err(forbidden(
            "configuration network can only contain network specific fields. Network operator fields like \
             [ ingress | internal | attachable | scope ] are not supported.",
        ));
    }
    Ok(())
}

/// Fills in what the template says. Whoever uses one may say nothing of that.
pub(crate) fn apply(spec: &mut NetworkSpec, networks: &Networks) -> Result<()> {
    if spec.config_from.is_empty() {
        return Ok(());
    }
    let is_configured = !matches!(spec.ipam_driver.as_str(), "" | "default")
        || spec.enable_ipv4 == Some(false)
        || spec.enable_ipv6 == Some(true)
        || !spec.labels.is_empty()
        || !spec.ipam_options.is_empty()
        || !spec.ipam.is_empty();
    if is_configured {
        return Err(forbidden(
            "user-specified configurations are not supported if the network depends on a configuration network",
        ));
    }
    if !spec.options.is_empty() {
        return Err(forbidden(
            "network driver options are not supported if the network depends on a configuration network",
        ));
    }
    let template = networks.all().into_iter().find(|one| one.config_only && one.name == spec.config_from);
    let Some(template) = template else {
        let text = format!("configuration network \"{}\" does not exist", spec.config_from);
        return Err(Error::not_found(text));
    };
    spec.enable_ipv4 = Some(template.enable_ipv4);
    spec.enable_ipv6 = Some(template.enable_ipv6);
    spec.ipam.clone_from(&template.ipam);
    spec.options.clone_from(&template.options);
    spec.labels.clone_from(&template.labels);
    Ok(())
}

/// A template stays as long as a network names it.
pub(crate) fn check_unused(network: &Network, all: &[Arc<Network>]) -> Result<()> {
    if network.config_only && all.iter().any(|other| other.config_from == network.name) {
        return Err(forbidden(&format!("configuration network \"{}\" is in use", network.name)));
    }
    Ok(())
}

fn forbidden(text: &str) -> Error {
    Error::new(Class::Forbidden, text)
}
