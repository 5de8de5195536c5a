//! Palan's default profile, for containers that ask for no other.
//!
//! Allowed is what ordinary programs use; refused, with `EPERM`, what only reaches kernel code of no use inside of a
//! container: new user namespaces, keyrings, `bpf`, `io_uring`, `userfaultfd`, the mount API, modules, `AF_ALG` and
//! `AF_VSOCK` sockets. A capability brings the calls that are its purpose. The lists follow Docker's default, so
//! that what runs there runs here; three decisions are stricter or other:
//! - the family of a socket is compared as the kernel reads it, in 32 bits: a comparison of the whole register lets
//!   `AF_ALG` through when a bit above is set;
//! - refused families answer `EAFNOSUPPORT`, as a kernel without them does, so that programs fall back;
//! - `clone3` answers `ENOSYS`, since its flags are in memory and can't be looked at: C libraries fall back to `clone`.

use palan_linux::capability;
use palan_oci::runtime_spec::{Seccomp, SeccompArg, SeccompSyscall};

use super::{Architecture, Conditions};

/// Allowed for everybody.
const ALWAYS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod \
    chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range \
    creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents \
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid \
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 \
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get \
    ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr \
    lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat \
    mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal \
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
    open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect \
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv \
    process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink \
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl \
    semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid \
    setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid \
    setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 \
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat \
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask \
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";

/// Allowed for holders of a capability.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    (
        "CAP_DAC_READ_SEARCH",
        "\
        open_by_handle_at",
    ),
    (
        "CAP_SYS_ADMIN",
        "\
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open \
        quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (
        "CAP_SYS_BOOT",
        "\
        reboot",
    ),
    (
        "CAP_SYS_CHROOT",
        "\
        chroot",
    ),
    (
        "CAP_SYS_MODULE",
        "\
        delete_module finit_module init_module",
    ),
    (
        "CAP_SYS_PACCT",
        "\
        acct",
    ),
    (
        "CAP_SYS_PTRACE",
        "\
        kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (
        "CAP_SYS_RAWIO",
        "\
        ioperm iopl",
    ),
    (
        "CAP_SYS_TIME",
        "\
        clock_settime clock_settime64 settimeofday stime",
    ),
    (
        "CAP_SYS_TTY_CONFIG",
        "\
        vhangup",
    ),
    (
        "CAP_SYS_NICE",
        "\
        get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (
        "CAP_SYSLOG",
        "\
        syslog",
    ),
    (
        "CAP_BPF",
        "\
        bpf",
    ),
    (
        "CAP_PERFMON",
        "\
        perf_event_open",
    ),
];

/// Only of use on x86.
const X86: &str = "arch_prctl modify_ldt";

/// Only of use on ARM.
const ARM: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls";

/// Socket families that reach kernel code without use in a container: the kernel's cryptography, virtual machine
/// sockets.
const REFUSED_FAMILIES: [u64; 2] = [38, 40];

/// All families below 64 but those, as masks and what must remain. (45 is the highest so far.) No two answers overlap:
/// which of two would win is not specified.
const FAMILIES: [(u64, u64); 8] =
    [(!31, 0), (!3, 32), (!1, 36), (!0, 39), (!0, 41), (!1, 42), (!3, 44), (!15, 48)];

const EAFNOSUPPORT: u32 = 97;
const ENOSYS: u32 = 38;

/// The execution domains of Linux itself: native, 32-bit, with and without the addresses of old kernels, and asking.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

const LOW_HALF: u64 = 0xffff_ffff;

pub(super) fn resolve(conditions: &Conditions) -> Seccomp {
    let has = |name: &str| {
        capability::by_name(name).is_some_and(|capability| conditions.capabilities.contains(capability))
    };
    let mut allowed: Vec<String> = words(ALWAYS);
    for (name, calls) in WITH_CAPABILITY {
        if has(name) {
            allowed.extend(words(calls));
        }
    }
    allowed.extend(words(if Architecture::NATIVE == Architecture::Aarch64 { ARM } else { X86 }));
    // First, since libseccomp takes `socketcall` as a whole only before it has seen a rule about `socket`.
    let mut rules = vec![SeccompSyscall { names: allowed, ..rule("", ALLOW, None) }];
    if !has("CAP_SYS_ADMIN") {
        rules.push(SeccompSyscall { args: vec![masked(NAMESPACE_FLAGS, 0)], ..rule("clone", ALLOW, None) });
        rules.push(rule("clone3", ERRNO, Some(ENOSYS)));
    }
    for (mask, family) in FAMILIES {
        let args = vec![masked(mask & LOW_HALF, family)];
        rules.push(SeccompSyscall { args, ..rule("socket", ALLOW, None) });
    }
    for family in REFUSED_FAMILIES {
        let args = vec![masked(LOW_HALF, family)];
        rules.push(SeccompSyscall { args, ..rule("socket", ERRNO, Some(EAFNOSUPPORT)) });
    }
    for personality in PERSONALITIES {
        rules.push(SeccompSyscall {
            args: vec![masked(LOW_HALF, personality)],
            ..rule("personality", ALLOW, None)
        });
    }
    Seccomp {
        default_action: ERRNO.to_owned(),
        default_errno_ret: Some(1),
        architectures: Architecture::of_host().map(|architecture| architecture.name().to_owned()).collect(),
        syscalls: rules,
        ..Seccomp::default()
    }
}

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn rule(name: &str, action: &str, errno: Option<u32>) -> SeccompSyscall {
    SeccompSyscall {
        names: vec![name.to_owned()],
        action: action.to_owned(),
        errno_ret: errno,
        args: Vec::new(),
    }
}

/// The first argument, as far as `mask` lets it be seen, is `value`.
fn masked(mask: u64, value: u64) -> SeccompArg {
    SeccompArg { index: 0, value: mask, value_two: value, op: "SCMP_CMP_MASKED_EQ".to_owned() }
}
