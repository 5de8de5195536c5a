//! Names, records and removal.
