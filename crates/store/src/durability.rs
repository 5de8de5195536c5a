//! What survives a power loss, and why no pull waits for the disk.
