//! Removal of what nothing points to.
