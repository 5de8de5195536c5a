//! The firewall: our own nftables table, our rules in other people's tables, and the watch over both.
//!
//! **Invariants.**
//! - Each change of [`table`] is one transaction; between two of them nothing is half open.
//! - The kernel setting `route_localnet` of the bridge is on only while a port is published on a loopback address *and* the
//!   table with its `guard` chain is in force. It goes on after the table and the ports are written, and off
//!   before the last such port or the table is removed; when somebody else removes the table, off comes first.
//!   What is left is the moment between somebody's flush and the watch's reaction, and a flush while no daemon runs,
//!   which the next start repairs.
//! - An `accept` in our table doesn't override a `drop` in another, but our `drop`s hold whatever others accept. So
//!   [`foreign`] may accept broadly for our bridge: what is forbidden is decided in our table alone.

pub(crate) mod foreign;
pub(crate) mod table;
pub(crate) mod watch;

pub(crate) use table::Table;
