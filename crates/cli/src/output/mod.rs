//! What the user sees: the standard streams, tables, templates, and the words for times, sizes and ports.

/// Where archives are written.
pub(crate) mod archive;
/// The progress of builds.
pub(crate) mod build;
/// Times, sizes and identifiers as people read them.
pub(crate) mod human;
/// JSON text and values in the daemon's order.
pub(crate) mod json;
/// Lists as tables, JSON or through a template.
pub(crate) mod list;
/// The PORTS column.
pub(crate) mod ports;
/// The progress of pulls and loads.
pub(crate) mod progress;
/// The standard streams; the only place that prints.
pub(crate) mod streams;
/// Columns aligned by tabs.
pub(crate) mod table;
/// Go templates with Docker's functions.
pub(crate) mod template;
