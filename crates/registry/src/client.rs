//! The client: what all pulls and logins of the process share.

use std::sync::Arc;

use crate::auth::Authenticator;
use crate::config::{ClientConfig, ConfigError, parse_mirrors};
use crate::endpoint::Endpoints;
use crate::flight::Flights;
use crate::slots::Slots;
use crate::transport::Transport;

/// A client of all registries. Clones share connections, tokens and downloads in progress; make one for each store.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) slots: Arc<Slots>,
}

impl Client {
    /// A client with these settings. No connection is made, and no certificate is read, before it is needed.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let mirrors = parse_mirrors(&config.mirrors)?;
        let slots = Slots::new(config.max_concurrent_downloads);
        Ok(Self {
            transport: Arc::new(Transport::new(config)?),
            authenticator: Arc::default(),
            endpoints: Arc::new(Endpoints::new(mirrors)),
            flights: Arc::default(),
            slots: Arc::new(slots),
        })
    }
}
