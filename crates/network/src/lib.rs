//! Bridges, endpoints, addresses, NAT and published ports, by netlink only.

#![forbid(unsafe_code)]
