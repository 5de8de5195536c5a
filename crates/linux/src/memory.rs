//! The memory of this process, for those that want to stay small.

/// Lets the allocator have at most `count` arenas (mallopt(3)); each keeps free pages of its own, so many of them cost a
/// long-lived process with few busy threads more than they save. Call it before the first thread starts.
pub fn limit_arenas(count: u16) {
    // SAFETY: the call only sets a parameter of the allocator, which is safe to change at any time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, libc::c_int::from(count)) };
}

/// Gives the allocator's free pages back to the kernel (malloc_trim(3)).
pub fn trim() {
    // SAFETY: the call has no preconditions; it only returns pages that hold no live allocation.
    unsafe { libc::malloc_trim(0) };
}

/// Tells the kernel that this memory will hardly be read again: it may take the pages back and keeps what they hold, in
/// the file that they come from or in swap (madvise(2), MADV_PAGEOUT; older kernels than 5.4 do nothing).
pub fn page_out(memory: &[u8]) {
    let page = rustix::param::page_size();
    let Some(start) = memory.as_ptr().addr().checked_next_multiple_of(page) else { return };
    let end = memory.as_ptr().addr().saturating_add(memory.len()) & !(page - 1);
    if start < end {
        // SAFETY: the range lies inside of `memory`, which is borrowed, and the call changes no content.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_PAGEOUT) };
    }
}

/// Takes this program's code out of its own page tables (madvise(2), MADV_DONTNEED): what is executed again comes back with minor faults
/// from the page cache, what ran once is no longer this process's, and the kernel can have the pages when it wants them.
pub fn release_code() -> std::io::Result<()> {
    let here = release_code as *const () as usize;
    let table = std::fs::read_to_string("/proc/self/maps")?;
    for line in table.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights), _, _, Some(inode)) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some((start, end)) = range.split_once('-').and_then(|(start, end)| {
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        }) else {
            continue;
        };
        // Never written and never writable, so each page is what the file has.
        if (start..end).contains(&here) && rights == "r-xp" && inode != "0" {
            // SAFETY: the range is a private mapping of a file from which code is executed. Nothing writes to it, for this program has no
            // relocations there, so that a page that is read again from the file is the same.
            let result = unsafe {
                libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED)
            };
            return if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_released_is_executed_all_the_same() {
        release_code().unwrap();
        assert_eq!((1..=10).sum::<u32>(), 55);
        release_code().unwrap();
    }

    #[test]
    fn memory_that_was_paged_out_keeps_its_content() {
        let memory: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        page_out(&memory[1..]);
        page_out(&[]);
        assert!(memory.iter().enumerate().all(|(at, byte)| *byte == at.to_le_bytes()[0]));
    }
}
