//! Build contexts: which files of a directory belong to a build, an archive of them, and addresses of contexts elsewhere.
//!
//! [`Ignore`] reads `.dockerignore`, [`walk`] visits what it leaves, [`pack`] writes that as a tar stream. The same directory
//! gives the same bytes, on whatever host and as whoever it is packed: entries come in the order of their names, owners are
//! root, and of times there is only the modification time in seconds.
//!
//! **Invariant:** nothing outside of the directory is read. Every name is opened from the handle of the directory that it was
//! listed in, and a symlink is an entry, never a way.
//!
//! *Absent:* the network; what a builder does with the files.

#![forbid(unsafe_code)]

mod ignore;
mod pattern;
pub mod refs;
pub mod remote;
mod tar;
mod walk;

pub use ignore::{Ignore, IgnoreError, Matches, candidates};
pub use pattern::Pattern;
pub use tar::{PackError, Packed, pack};
pub use walk::{Entry, WalkError, walk};
