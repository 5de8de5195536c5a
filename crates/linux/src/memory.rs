//! The memory of this process, for those that want to stay small.

/// Gives the allocator's free pages back to the kernel (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call has no preconditions; it only returns pages that hold no live allocation.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back the pages of the main thread's stack that calls have used and left; does nothing in another thread.
#[inline(never)]
pub fn release_stack() {
    // Room for the frames of the call that does it.
    const MARGIN: usize = 4096;
    // Less than what the kernel maps at a program's start (128 KiB), so nothing but the stack is there.
    const DEPTH: usize = 96 * 1024;
    if rustix::thread::gettid() != rustix::process::getpid() {
        return;
    }
    let local = 0_u8;
    let here = (&raw const local).addr();
    let end = here.saturating_sub(MARGIN) & !(rustix::param::page_size() - 1);
    let Some(start) = end.checked_sub(DEPTH) else { return };
    // SAFETY: the range lies below this frame, by more than the frames of madvise(2)'s wrapper need, on the one stack that
    // this thread has: nothing that is alive is there, and reading it again finds zeros, which no code relies on not to.
    unsafe { libc::madvise(std::ptr::without_provenance_mut(start), DEPTH, libc::MADV_DONTNEED) };
}
