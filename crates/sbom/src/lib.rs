//! Which packages a root file system has, and the list of them as SPDX.
//!
//! ```text
//! root ─▶ scan ─┬─ os          whose distribution it is
//!               ├─ dpkg, apk   the distribution's packages, from its own records
//!               └─ walk ─▶ python, npm   packages of languages, wherever they lie
//!                      │
//!                      └▶ Found ─▶ spdx   the document
//! ```
//! Everything that is read is what somebody else has written: files are read to a limit, through a handle that no path leaves, and a
//! record that can't be understood is left out. A database that is there and can't be read at all is an error: a list without it would
//! say that there is nothing.
//!
//! *Absent:* RPM's database, licences beyond what packages declare, files.

#![forbid(unsafe_code)]

mod apk;
mod dpkg;
mod npm;
mod os;
mod package;
mod python;
mod scan;
mod spdx;
mod stanza;

pub use package::{Distribution, Kind, Package};
pub use scan::{Found, ScanError, scan};
pub use spdx::{Document, PREDICATE, document};

/// Parsers for fuzzing.
pub mod parse {
    pub use crate::apk::parse as apk;
    pub use crate::dpkg::parse as dpkg;
    pub use crate::npm::parse as npm;
    pub use crate::os::parse as os;
    pub use crate::python::parse as python;
}
