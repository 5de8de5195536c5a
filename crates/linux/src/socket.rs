//! Unix sockets: passing file descriptors and asking for the peer's credentials.
