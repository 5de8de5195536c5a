//! Where the program begins: before libc, it may start again from a file that can't be written.
//!
//! A process of a container can get a handle on the file of whatever process enters the container (CVE-2019-5736), so the
//! OCI runtime executes itself from a detached, read-only copy of its own mount. To start twice costs, and most of that is
//! libc: it asks the processor about itself some thirty times, and in a virtual machine each answer is an exit to the
//! hypervisor of microseconds. So the first start ends before libc begins: `palan_entry` is the program's entry
//! point, has no stack frame, no thread pointer and no relocations to rely on, and makes five system calls or none.
//!
//! It acts for the runtime's commands that enter a container, and only decides what may be done twice: where it can't or
//! need not act it goes on to libc's `_start`, with every register and the stack as the kernel left them, and the runtime
//! looks at its file again (`palan_runtime::cli`). What it takes for such a command is a word `create`, `run`, `exec` or
//! `restore` among the arguments of `palan runtime`, or of a program whose name ends in `runc` or `-runtime`; one too many
//! costs 0.1 ms.
//!
//! The linker is told by `palan/build.rs`; elsewhere than on x86-64 the runtime does it all.

// Registers: r12 the stack pointer at entry (argc, argv, NULL, envp, NULL, auxv; x86-64 psABI, figure 3.9), r13 argv + 8 * i,
// r14 the descriptor, r15 what rdx held (psABI: a function for `atexit`, which the kernel sets to zero).
//
// Eight bytes are read at the start of an argument, however short it is: behind the last one come the environment, the
// program's file name and eight bytes of zero (fs/exec.c, `bprm->p`), so they are mapped.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.palan_entry,\"ax\",@progbits",
    ".globl palan_entry",
    ".type palan_entry,@function",
    "palan_entry:",
    "mov r12, rsp",
    "mov r15, rdx",
    "cmp qword ptr [r12], 2",
    "jb 90f",
    // Is it the runtime? `palan runtime`:
    "mov rsi, [r12 + 16]",
    "movabs rax, 0x00656d69746e7572", // "runtime\0"
    "cmp [rsi], rax",
    "je 20f",
    // or by its own name: find its end.
    "mov rsi, [r12 + 8]",
    "test rsi, rsi",
    "jz 90f",
    "mov rdi, rsi",
    "10: cmp byte ptr [rdi], 0",
    "je 11f",
    "inc rdi",
    "jmp 10b",
    "11: mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, 4",
    "jb 90f",
    "cmp dword ptr [rdi - 4], 0x636e7572", // "runc"
    "je 20f",
    "cmp rcx, 8",
    "jb 90f",
    "movabs rax, 0x656d69746e75722d", // "-runtime"
    "cmp [rdi - 8], rax",
    "jne 90f",
    // Does it enter a container?
    "20: lea r13, [r12 + 16]",
    "21: mov rsi, [r13]",
    "test rsi, rsi",
    "jz 90f",
    "add r13, 8",
    "mov rax, [rsi]",
    "cmp eax, 0x006e7572", // "run\0"
    "je 30f",
    "movabs rcx, 0x0065726f74736572", // "restore\0"
    "cmp rax, rcx",
    "je 30f",
    "shl rax, 8",                     // seven bytes of it
    "movabs rcx, 0x0065746165726300", // "create\0"
    "cmp rax, rcx",
    "je 30f",
    "shl rax, 16",                    // five
    "movabs rcx, 0x0063657865000000", // "exec\0"
    "cmp rax, rcx",
    "jne 21b",
    // statfs(2): struct statfs has 120 bytes, its flags at 80.
    "30: sub rsp, 136",
    "mov eax, 137",
    "lea rdi, [rip + 80f]",
    "mov rsi, rsp",
    "syscall",
    "test rax, rax",
    "jnz 90f",
    "test qword ptr [rsp + 80], 1", // ST_RDONLY
    "jnz 90f",
    // open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT)
    "mov eax, 428",
    "mov rdi, -100",
    "lea rsi, [rip + 80f]",
    "mov edx, 0x80801",
    "syscall",
    "test rax, rax",
    "js 90f",
    "mov r14, rax",
    // mount_setattr(copy, "", AT_EMPTY_PATH, { attr_set: MOUNT_ATTR_RDONLY }, 32)
    "mov qword ptr [rsp], 1",
    "mov qword ptr [rsp + 8], 0",
    "mov qword ptr [rsp + 16], 0",
    "mov qword ptr [rsp + 24], 0",
    "mov eax, 442",
    "mov rdi, r14",
    "lea rsi, [rip + 81f]",
    "mov edx, 0x1000",
    "mov r10, rsp",
    "mov r8d, 32",
    "syscall",
    "test rax, rax",
    "jnz 40f",
    // execveat(copy, "", argv, envp, AT_EMPTY_PATH): does not return where it succeeds.
    "mov eax, 322",
    "mov rdi, r14",
    "lea rsi, [rip + 81f]",
    "lea rdx, [r12 + 8]",
    "mov rcx, [r12]",
    "lea r10, [r12 + rcx * 8 + 16]",
    "mov r8d, 0x1000",
    "syscall",
    // close(copy)
    "40: mov eax, 3",
    "mov rdi, r14",
    "syscall",
    "90: mov rsp, r12",
    "mov rdx, r15",
    "jmp _start",
    "80: .asciz \"/proc/self/exe\"",
    "81: .byte 0",
    ".size palan_entry, . - palan_entry",
    ".popsection",
);
