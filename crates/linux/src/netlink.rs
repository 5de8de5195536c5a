//! Netlink sockets: rtnetlink, nftables, conntrack.
//!
//! **Why no crate.** Palan needs a dozen kinds of messages. The generated bindings cover thousands, the older crates stop
//! short of nat, masquerade and fib expressions, and both build a tree of objects for each message. Here a message is
//! written straight into the buffer that is sent, many to one `sendmsg`, and an answer is read in place.
//!
//! **The protocol.** Requests of one [`Batch`] are handled by the kernel in order and before `sendmsg` returns, so only
//! the last one asks for an acknowledgement; a refused one answers in any case:
//!
//! 1. the messages get consecutive sequence numbers, the last one the flag `NLM_F_ACK`;
//! 2. one `sendmsg`;
//! 3. answers are read until the last message's arrives; the first refusal among them is the result. It carries the
//!    kernel's own explanation (extended acknowledgement) where there is one.
//!
//! An rtnetlink batch goes on after a refused message: the caller undoes what it may have done. An nftables batch
//! (between `BATCH_BEGIN` and `BATCH_END`, see [`nftables::Transaction`]) is all or nothing.
//!
//! A socket belongs to the network namespace in which it was opened and stays there, whatever its thread does later: it
//! is a door into a namespace that nobody has to enter again.

pub mod conntrack;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod link;
mod message;
pub mod nftables;
pub mod route;
mod socket;

pub use message::{Attributes, Batch, Parsed, attribute};
pub use socket::{NetlinkError, Protocol, Socket};
