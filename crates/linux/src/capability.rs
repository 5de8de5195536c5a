//! Capabilities and their names.
