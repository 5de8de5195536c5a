//! Whole command lines against a daemon of the test: flows, texts, exit codes.
