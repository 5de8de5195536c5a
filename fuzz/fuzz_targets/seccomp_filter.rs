//! Seccomp filters against their profiles: rules made from the input are compiled, and the program is run beside a reading of the
//! profile rule by rule. Both give the same answer to every call.

#![no_main]

use palan_oci::runtime_spec::{Seccomp, SeccompArg, SeccompSyscall};

const ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

const ACTIONS: [&str; 8] = ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "TRACE", "LOG"];

const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

/// Of every sort: on all architectures and on few, first and last numbers, behind a multiplexer, and unknown.
const CALLS: [&str; 24] = [
    "read",
    "write",
    "restart_syscall",
    "io_setup",
    "clone",
    "clone3",
    "socket",
    "socketcall",
    "connect",
    "recvfrom",
    "ipc",
    "semop",
    "shmat",
    "msgctl",
    "mmap2",
    "personality",
    "modify_ldt",
    "arch_prctl",
    "arm_fadvise64_64",
    "clock_settime64",
    "futex_waitv",
    "map_shadow_stack",
    "uretprobe",
    "no_such_call",
];

/// Reads small choices from the input, zeros when it is over.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[usize::from(self.byte()) % from.len()]
    }

    /// Small numbers, those around 32 bits, and any.
    fn value(&mut self) -> u64 {
        let kind = self.byte();
        let low = u64::from(self.byte());
        match kind % 5 {
            0 => low,
            1 => low << 32,
            2 => 0xffff_ffff - low,
            3 => u64::MAX - low,
            _ => (0..8).fold(low, |value, _| value << 8 | u64::from(self.byte())),
        }
    }

    fn action(&mut self) -> (String, Option<u32>) {
        let action = format!("SCMP_ACT_{}", self.pick(&ACTIONS));
        (action, Some(u32::from(self.byte())).filter(|number| number % 2 == 1))
    }

    fn argument(&mut self) -> SeccompArg {
        SeccompArg {
            index: u32::from(self.byte() % 6),
            value: self.value(),
            value_two: self.value(),
            op: format!("SCMP_CMP_{}", self.pick(&OPERATORS)),
        }
    }

    fn rule(&mut self) -> SeccompSyscall {
        let (action, errno_ret) = self.action();
        let names = (0..=self.byte() % 3).map(|_| (*self.pick(&CALLS)).to_owned()).collect();
        let args = (0..self.byte() % 4).map(|_| self.argument()).collect();
        SeccompSyscall { names, action, errno_ret, args }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let named = choices.byte();
    let (default_action, default_errno_ret) = choices.action();
    let architectures = ARCHITECTURES
        .iter()
        .enumerate()
        .filter(|(place, _)| named >> place & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let seed = choices.value();
    let syscalls = (0..choices.byte() % 8).map(|_| choices.rule()).collect();
    let profile =
        Seccomp { default_action, default_errno_ret, architectures, syscalls, ..Seccomp::default() };
    palan_runtime::seccomp::fuzz::filter_follows_profile(&profile, &[seed]);
});
