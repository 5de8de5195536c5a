//! The core: containers, images and volumes as objects with a lifecycle, durable across restarts.
//!
//! A front door (the HTTP server) translates its requests into calls of [`Engine`] and its answers back; it finds here
//! no wire format. In reading order:
//!
//! - [`spec`]: what a caller asks a container to be;
//! - [`container`]: what is known about one, and its life;
//! - [`image`], [`distribution`], [`volume`], [`network`], [`storage`], [`stats`], [`events`], [`info`], [`usage`]: the
//!   other objects and readings;
//! - [`build`]: images made of Dockerfiles;
//! - [`stream`]: streams in and out;
//! - `cdi`: devices that vendors describe;
//! - [`config`]: the settings; [`runtimes`]: who makes processes; [`error`]: class and text of every failure.

#![forbid(unsafe_code)]

pub mod build;
mod cdi;
pub mod config;
pub mod container;
mod db;
pub mod distribution;
mod engine;
pub mod error;
pub mod events;
pub mod handover;
mod host;
mod identifier;
pub mod image;
pub mod info;
mod lock;
mod names;
pub mod network;
pub mod proxies;
mod reactor;
mod restore;
pub mod runtimes;
pub mod spec;
pub mod stats;
pub mod storage;
pub mod stream;
pub mod usage;
pub mod volume;

pub use config::{EngineConfig, FileConfig, SupervisorSource};
pub use container::attach::{AttachTicket, ExecTicket};
pub use container::logs::{LogChunk, LogStream};
pub use container::wait::{WaitProspect, WaitTicket};
pub use engine::Engine;
pub use error::{Class, Error, Result};
pub use runtimes::Runtimes;
