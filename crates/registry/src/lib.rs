//! The client of OCI distribution registries: resolve, authenticate, pull, push.
//!
//! A [`Client`] lives as long as the daemon. [`Client::pull`] brings one image into the store, [`Client::login`] checks
//! credentials. What happens on a pull, in order:
//!
//! 1. `endpoint` lists where to ask: the mirrors of `docker.io`, then the registry itself by HTTPS, then by HTTP where
//!    the host is insecure by configuration. The first that answers serves the whole pull; a later one is asked only
//!    when an earlier one failed.
//! 2. `repository` fetches the manifest (and, behind an index, the one for the platform), answering challenges of `auth`;
//!    `transport` follows redirects by the rules of `guard`.
//! 3. `flight` gives every missing layer one download in this process, whoever else wants it; `layer` streams it through
//!    a bounded channel to a thread that owns the store's writer, and resumes it when the connection breaks.
//! 4. `pull` records the image and its tag in the store.
//!
//! [`Client::push`] goes the other way: `upload` finds out for each blob whether the registry has it, mounts it from another
//! repository or sends it (`session`, `payload`); then `push` stores the manifest's exact bytes under the tag.
//!
//! What has layers and is no image, a cache of builds, is read and written piece by piece ([`Artifact`], [`ArtifactPush`]).
//!
//! Invariants: no byte of a layer is kept in memory but what the channel's budget allows; nothing that a registry says
//! is believed without its digest; credentials go to the registry and the token service it names, never elsewhere.

#![forbid(unsafe_code)]

mod address;
mod artifact;
mod assemble;
mod auth;
mod certificates;
mod challenge;
mod chosen;
mod client;
mod config;
mod credentials;
mod download;
mod endpoint;
mod error;
mod flight;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod guard;
mod hosts;
mod inspect;
mod layer;
mod limits;
mod login;
mod payload;
mod places;
mod progress;
mod proxy;
mod pull;
mod push;
mod referrers;
mod repository;
mod resolver;
mod retry;
mod search;
mod session;
mod slots;
mod transport;
mod upload;

pub use artifact::{Artifact, ArtifactPush, ArtifactRequest};
pub use assemble::ListPush;
pub use client::Client;
pub use config::{ClientConfig, ConfigError, Proxies, Timing};
pub use credentials::Credentials;
pub use download::Download;
pub use error::{ApiError, Class, RegistryError, RequestError};
pub use inspect::Inspected;
pub use limits::RateLimit;
pub use login::LoginOutcome;
pub use progress::{LayerStatus, ProgressEvent, UploadStatus};
pub use pull::{PullOutcome, PullRequest, PullStatus};
pub use push::{PushOutcome, PushRequest};
pub use search::SearchResult;

/// The addresses of a host name by this host's configuration, for others who may not use the C library's resolver either.
pub async fn lookup_host(name: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
    resolver::SystemResolver::default().lookup(name).await.map_err(std::io::Error::other)
}
