//! The end-to-end tests live in `tests/e2e`; this package only carries them.
