//! Published attacks on container runtimes and engines, replayed. Each test is named after what must not happen, and its
//! documentation says where it did.
//!
//! One file for each class: [`paths`] lead elsewhere, or change while they are used; [`procfs`] is replaced, or is to be
//! covered; [`terminals`] and their console; [`descriptors`] of the host leak; [`identity`] is more than was asked for;
//! [`volumes`] change while parts of them are used, and so do paths of [`copies`]; [`cgroups`] can be written to; [`kernel`] interfaces are open; [`hooks`] load an image's code; [`specification`]s are
//! absurd; [`daemon`] is everything that an image does to the engine.
//!
//! What concerns the runtime runs without a daemon, and `PALAN_TEST_RUNTIME=/path/to/runc` runs it with another runtime. A
//! test that passes with a release that was vulnerable replays nothing.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod cgroups;
mod copies;
mod daemon;
mod descriptors;
mod hooks;
mod host;
mod identity;
mod kernel;
mod paths;
mod procfs;
mod specification;
mod terminals;
mod volumes;
