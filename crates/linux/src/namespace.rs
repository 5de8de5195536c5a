//! Namespaces: kinds, joining, opening.
