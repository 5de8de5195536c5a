//! Client tests against a hand-made server.
