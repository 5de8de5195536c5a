//! The database of images.
