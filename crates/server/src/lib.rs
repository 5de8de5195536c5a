//! The Engine API's front door: HTTP to engine calls and back.
//!
//! ```text
//! listen ─▶ connection ─▶ dispatch ─▶ router ─▶ route::* ─▶ engine
//!  sockets   hyper, one    version,    paths     one thin handler for each endpoint; convert::* translates
//!            task each     headers               the newest wire types, docker_api::versions what older ones had
//! ```
//!
//! - [`listen`]: unix sockets with their mode and group, inherited sockets, TCP; `tls`: its protection.
//! - `accept`: who is served, and how it ends; `connection`: limits and timeouts, and old clients that expect a raw stream without an
//!   upgrade; `exchange`: how far a connection is; [`handover`]: another daemon takes all of them.
//! - `dispatch`: the version prefix, the headers of every answer.
//! - `router`: which path is which handler; `route`: the handlers; `convert`: wire types ↔ engine types.
//! - `hijack`: attach and exec, whose socket leaves HTTP and goes to the supervisor; `websocket`: attach in frames.
//! - `buildkit`: the protocol of buildx, over connections that leave HTTP/1.1, too.
//! - `metrics`: what Prometheus scrapes.
//! - `error`: the class of an engine error becomes a status.

#![forbid(unsafe_code)]

mod accept;
mod buildkit;
mod connection;
mod convert;
mod dispatch;
mod error;
mod exchange;
mod extract;
pub mod handover;
mod hijack;
pub mod listen;
mod metrics;
mod route;
mod router;
mod streaming;
mod tls;
mod unread;
mod websocket;

pub use accept::serve;
pub use handover::{End, Handed, HandedNote, Handover};
pub use listen::{ListenError, Listeners, Offer, Protection};
pub use tls::{TlsError, TlsFiles};
