//! The handlers, one file for each resource: take the request apart, call the engine, put the answer together.

pub(crate) mod archive;
pub(crate) mod build;
pub(crate) mod checkpoint;
pub(crate) mod container;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod storage;
pub(crate) mod system;
pub(crate) mod unsupported;
pub(crate) mod usage;
pub(crate) mod volume;
