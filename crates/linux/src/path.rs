//! Paths below a directory handle, resolved by the kernel and never outside of it.
