//! End-to-end tests; see `tests/` for the suites.
