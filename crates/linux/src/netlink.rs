//! Netlink sockets: rtnetlink, nftables, conntrack.
