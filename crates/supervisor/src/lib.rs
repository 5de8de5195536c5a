//! The process beside each container: stdio, logs, exec, exit codes, and the protocol to drive it.

#![forbid(unsafe_code)]
