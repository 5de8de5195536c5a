//! Archives loaded and imported.
