//! The client: what all pulls, pushes and logins of the process share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use palan_oci::Digest;
use tokio::sync::OnceCell;

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
    pub(crate) upload_slots: Arc<Slots>,
    pub(crate) configurations: Arc<Configurations>,
}

/// Image configurations that are being fetched or held by a pull: concurrent pulls fetch each once.
#[derive(Debug, Default)]
pub(crate) struct Configurations(Mutex<HashMap<Digest, Weak<OnceCell<Bytes>>>>);

impl Configurations {
    /// The place of one configuration; it lasts as long as somebody holds it. A fetch that fails leaves it empty, and the
    /// next who waits tries at its own registry.
    pub(crate) fn of(&self, digest: Digest) -> Arc<OnceCell<Bytes>> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(&digest).and_then(Weak::upgrade) {
            return cell;
        }
        cells.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(OnceCell::new());
        cells.insert(digest, Arc::downgrade(&cell));
        cell
    }
}

impl Client {
    /// A client with these settings. No connection is made, and no certificate is read, before it is needed.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let mirrors = parse_mirrors(&config.mirrors)?;
        let slots = Slots::new(config.max_concurrent_downloads);
        let upload_slots = Slots::new(config.max_concurrent_uploads);
        Ok(Self {
            transport: Arc::new(Transport::new(config)?),
            authenticator: Arc::default(),
            endpoints: Arc::new(Endpoints::new(mirrors)),
            flights: Arc::default(),
            slots: Arc::new(slots),
            upload_slots: Arc::new(upload_slots),
            configurations: Arc::default(),
        })
    }
}
