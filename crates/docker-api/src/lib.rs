//! Docker's Engine API: wire types, versions, stream framing, and a blocking client.
//!
//! Read in this order:
//! - [`types`]: the newest version's JSON, one file per resource, with Docker's exact zero values.
//! - [`version`], [`versions`]: negotiation, and what older versions of each answer looked like.
//! - [`json`]: decoding as Go decodes (keys in any case, `null` as zero value), and serialiser helpers.
//! - [`filters`]: the `filters=` query parameter.
//! - [`stream`]: the framing of attach and logs, and the JSON messages of pull and load.
//! - [`auth`]: the `X-Registry-Auth` header.
//! - [`timestamp`]: `since` and `until` as the API writes them.
//! - [`host`]: `unix://` and `tcp://` addresses.
//! - [`client`]: a small blocking HTTP client; no async runtime, so a command starts fast.

#![forbid(unsafe_code)]

pub mod auth;
pub mod client;
pub mod filters;
pub mod host;
pub mod json;
pub mod stream;
pub mod timestamp;
pub mod types;
pub mod version;
pub mod versions;
