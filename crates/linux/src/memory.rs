//! The memory of this process, for those that want to stay small.

/// Gives the allocator's free pages back to the kernel (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call has no preconditions; it only returns pages that hold no live allocation.
    unsafe { libc::malloc_trim(0) };
}
