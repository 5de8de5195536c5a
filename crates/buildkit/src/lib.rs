//! BuildKit's wire protocol, as its clients and its daemon speak it. No builder is in here.
//!
//! ```text
//! client ── POST /grpc, upgraded ───▶ daemon     gRPC: Control (Solve, Status, …), LLBBridge for clients that drive a build
//! client ◀─ POST /session, upgraded ─ daemon     gRPC in the other direction: the daemon asks the client for files,
//!                                                secrets, credentials, its ssh agent, and sends it what was built
//! ```
//!
//! Both connections begin as an HTTP/1.1 request that is upgraded to HTTP/2 ([`upgrade`]). On the session, whoever accepted the
//! connection is the one that calls.
//!
//! - [`wire`]: protobuf's encoding, and the macro that messages are declared with.
//! - [`message`]: the messages, a module for each `.proto` file.
//! - [`grpc`]: calls over HTTP/2 on any stream, as client ([`grpc::Channel`]) and as server ([`grpc::serve`]).
//! - [`control`]: the calls a client makes, typed.
//! - [`session`]: the services a client offers: directories, outputs, secrets, credentials, ssh.
//! - [`fsutil`]: the transfer of a directory, of which only what has changed is sent.
//! - [`mirrors`]: on the daemon's side, directories that were sent before.
//! - [`errdefs`]: what an error tells besides its text: the place in a Dockerfile.
//!
//! # Why the codec is our own
//!
//! A generated client and server for these services are some thousand monomorphised functions. Here a message is a table of
//! field numbers that one loop works through, and what others could send to exhaust memory is bounded in one place.
//!
//! **Invariant:** nothing that a peer sends makes this crate panic, nest without bound, or keep more than [`grpc::MAX_MESSAGE`] for one
//! message; paths that it sends are used only through `linux::path`.
//!
//! *Absent:* what a build is; sockets (whoever calls brings a stream); the environment.

#![forbid(unsafe_code)]

pub mod control;
pub mod errdefs;
pub mod fsutil;
pub mod grpc;
pub mod message;
pub mod mirrors;
pub mod session;
pub mod upgrade;
pub mod wire;
