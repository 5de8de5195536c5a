//! The command line: an API client with Docker's commands, flags, output and exit codes.

#![forbid(unsafe_code)]
