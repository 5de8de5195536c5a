//! Docker's Engine API: wire types, versions, stream framing, and a blocking client.

#![forbid(unsafe_code)]
