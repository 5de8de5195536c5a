//! Signals: numbers with their names, masks, and dispositions.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::str::FromStr;

/// A signal number that exists on Linux (1 to 64).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(i32);

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

macro_rules! signals {
    ($($name:ident = $value:expr;)*) => {
        impl Signal {
            $(#[doc = concat!("`SIG", stringify!($name), "`")] pub const $name: Self = Self($value);)*
        }
        /// Names (without `SIG`) and numbers of the classic signals.
        const NAMES: &[(&str, i32)] = &[$((stringify!($name), $value)),*];
    };
}

signals! {
    HUP = libc::SIGHUP; INT = libc::SIGINT; QUIT = libc::SIGQUIT; ILL = libc::SIGILL; TRAP = libc::SIGTRAP;
    ABRT = libc::SIGABRT; BUS = libc::SIGBUS; FPE = libc::SIGFPE; KILL = libc::SIGKILL; USR1 = libc::SIGUSR1;
    SEGV = libc::SIGSEGV; USR2 = libc::SIGUSR2; PIPE = libc::SIGPIPE; ALRM = libc::SIGALRM; TERM = libc::SIGTERM;
    STKFLT = libc::SIGSTKFLT; CHLD = libc::SIGCHLD; CONT = libc::SIGCONT; STOP = libc::SIGSTOP;
    TSTP = libc::SIGTSTP; TTIN = libc::SIGTTIN; TTOU = libc::SIGTTOU; URG = libc::SIGURG; XCPU = libc::SIGXCPU;
    XFSZ = libc::SIGXFSZ; VTALRM = libc::SIGVTALRM; PROF = libc::SIGPROF; WINCH = libc::SIGWINCH;
    IO = libc::SIGIO; PWR = libc::SIGPWR; SYS = libc::SIGSYS;
}

impl Signal {
    /// The signal with this number.
    pub fn from_raw(number: i32) -> Option<Self> {
        (1..=RTMAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            number if number > RTMIN => write!(f, "SIGRTMIN+{}", number - RTMIN),
            number => write!(f, "signal {number}"),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid signal: {0}")]
pub struct InvalidSignal(pub String);

impl FromStr for Signal {
    type Err = InvalidSignal;

    /// Reads `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3` and `RTMAX-1`.
    fn from_str(text: &str) -> Result<Self, InvalidSignal> {
        let invalid = || InvalidSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_raw(number).ok_or_else(invalid);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let alias = match name {
            "CLD" => "CHLD",
            "IOT" => "ABRT",
            "POLL" => "IO",
            other => other,
        };
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == alias) {
            return Ok(Self(*number));
        }
        let offset = |rest: &str, sign: char| match rest {
            "" => Some(0),
            _ => rest.strip_prefix(sign).and_then(|digits| digits.parse::<u8>().ok()).map(i32::from),
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest, '+').map(|n| RTMIN + n)
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest, '-').map(|n| RTMAX - n)
        } else {
            None
        };
        number.filter(|n| (RTMIN..=RTMAX).contains(n)).map(Self).ok_or_else(invalid)
    }
}

/// A set of signals, for masks and signalfd.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((1..=RTMAX).map(Signal).filter(|signal| self.contains(*signal))).finish()
    }
}

impl SignalSet {
    /// No signal.
    pub fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the whole set it is given and cannot fail for a valid pointer.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// Every signal.
    pub fn all() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the whole set it is given and cannot fail for a valid pointer.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// The set with `signal` in it.
    #[must_use]
    pub fn with(mut self, signal: Signal) -> Self {
        // SAFETY: the set is initialised by every constructor; sigaddset writes within it.
        unsafe { libc::sigaddset(&raw mut self.0, signal.0) };
        self
    }

    /// Whether `signal` is in the set.
    pub fn contains(&self, signal: Signal) -> bool {
        // SAFETY: the set is initialised by every constructor; sigismember only reads it.
        unsafe { libc::sigismember(&raw const self.0, signal.0) == 1 }
    }

    /// The C form.
    pub fn as_raw(&self) -> &libc::sigset_t {
        &self.0
    }
}

/// Replaces the calling thread's signal mask and returns the old one.
pub fn set_mask(mask: &SignalSet) -> io::Result<SignalSet> {
    let mut old = SignalSet::empty();
    // SAFETY: both pointers refer to initialised sets that live through the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_raw(), &raw mut old.0) } {
        0 => Ok(old),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Puts every signal's disposition back to the default: what a freshly executed program should find.
///
/// Ignored signals survive exec (Rust's runtime ignores SIGPIPE), so a process that becomes a container's calls
/// this before. Async-signal-safe.
pub fn reset_dispositions() {
    // All zero is SIG_DFL without flags or mask, in a buffer larger than any architecture's kernel structure.
    let default = [0u64; 8];
    for number in 1..=RTMAX {
        // By system call, since the C library does not let its own two signals be touched, and those may have been
        // inherited as ignored.
        // SAFETY: the kernel reads a structure of at most 64 bytes, writes nothing (null), and SIG_DFL installs no
        // handler; it refuses KILL and STOP without effect.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Waits for a signal out of `set`, which must be blocked, and takes it.
pub fn wait_for(set: &SignalSet) -> io::Result<Signal> {
    // SAFETY: the set is initialised; a null pointer says that no details are wanted.
    let number = unsafe { libc::sigwaitinfo(set.as_raw(), std::ptr::null_mut()) };
    Signal::from_raw(number).ok_or_else(io::Error::last_os_error)
}

/// Ignores `signal` in this process.
pub fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal.0, libc::SIG_IGN) };
}

/// Whether this process ignores `signal`, by itself or because whoever started it wants so (`nohup`).
pub fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null pointer changes nothing; the structure, which is read only if it was filled in, is large enough.
    unsafe {
        libc::sigaction(signal.0, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_are_told() {
        // Which nobody else here handles.
        assert!(!is_ignored(Signal::URG));
        ignore(Signal::URG);
        assert!(is_ignored(Signal::URG));
    }

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("RTMAX", 64),
            ("IOT", 6),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().as_raw(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN+99", "RTMAX-40", "RTMIN-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!(Signal(37).to_string(), "SIGRTMIN+3");
    }
}
