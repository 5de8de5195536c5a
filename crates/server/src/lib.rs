//! The Engine API's front door: HTTP to engine calls and back.

#![forbid(unsafe_code)]
