//! `socketcall` and `ipc` of i386: one call for a whole family, whose first argument says which is meant. A profile
//! that speaks of `socket` means `socketcall(SYS_SOCKET, …)` too.

use super::rules::{Comparison, Condition};

const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// From linux/net.h and linux/ipc.h.
#[rustfmt::skip]
const CALLS: &[(&str, u32, u64)] = &[
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

/// The call through which `name` can be reached as well, and what its first argument is then.
pub(super) fn of(name: &str) -> Option<(u32, Condition)> {
    let place = CALLS.binary_search_by(|call| call.0.cmp(name)).ok()?;
    let (_, number, value) = CALLS[place];
    // `ipc` has a version in the upper half, which most of its calls don't look at: it must not make another call.
    let mask = if number == IPC { 0xffff } else { 0xffff_ffff };
    Some((number, Condition { argument: 0, comparison: Comparison::Equal, mask, value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(CALLS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(of("socket").map(|(number, selector)| (number, selector.value)), Some((102, 1)));
        assert_eq!(of("shmctl").map(|(number, selector)| (number, selector.value)), Some((117, 24)));
        assert!(of("read").is_none());
    }
}
