/*
 * Tries system calls that no default container needs, and prints "NAME ERROR" for each. Needs no library: compile it with -static
 * -nostdlib, with -m32 for those of i386.
 */

#ifdef __x86_64__
enum { WRITE = 1, EXIT = 231, SOCKET = 41, MOUNT = 165, UNSHARE = 272, KEYCTL = 250, ADD_KEY = 248, BPF = 321,
       USERFAULTFD = 323, PERF = 298, CLONE = 56, SETNS = 308, HANDLE = 304, PIVOT = 155,
       KEXEC = 246, INIT_MODULE = 175, SWAPON = 167, REBOOT = 169, SETTIME = 227, IOPERM = 173, ACCT = 163 };

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = 0;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#else
enum { WRITE = 4, EXIT = 252, SOCKET = 359, MOUNT = 21, UNSHARE = 310, KEYCTL = 288, ADD_KEY = 286, BPF = 357,
       USERFAULTFD = 374, PERF = 336, CLONE = 120, SETNS = 346, HANDLE = 342, PIVOT = 217, KEXEC = 283, INIT_MODULE = 128,
       SWAPON = 87, REBOOT = 88, SETTIME = 264, IOPERM = 101, ACCT = 51 };

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}
#endif

static void print(const char *text)
{
	long length = 0;

	while (text[length] != 0)
		length++;
	call(WRITE, 1, (long)text, length, 0, 0);
}

static void tell(const char *what, long result)
{
	char digits[24];
	int place = 23;
	long value = result < 0 ? -result : 0;

	digits[place] = 0;
	do {
		digits[--place] = (char)('0' + value % 10);
		value /= 10;
	} while (value != 0);
	print(what);
	print(" ");
	print(digits + place);
	print("\n");
}

void _start(void)
{
	/* Arguments with which the kernel itself would go on, or fail otherwise than by EPERM. */
	tell("unshare-user", call(UNSHARE, 0x10000000, 0, 0, 0, 0));
	tell("unshare-mount", call(UNSHARE, 0x00020000, 0, 0, 0, 0));
	tell("clone-user", call(CLONE, 0x10000000, 0, 0, 0, 0));
	tell("clone3", call(435, 0, 0, 0, 0, 0));
	tell("setns", call(SETNS, -1, 0, 0, 0, 0));
	tell("mount", call(MOUNT, 0, 0, 0, 0, 0));
	tell("pivot_root", call(PIVOT, 0, 0, 0, 0, 0));
	tell("fsopen", call(430, 0, 0, 0, 0, 0));
	tell("fsconfig", call(431, -1, 0, 0, 0, 0));
	tell("fsmount", call(432, -1, 0, 0, 0, 0));
	tell("open_tree", call(428, -1, 0, 0, 0, 0));
	tell("move_mount", call(429, -1, 0, -1, 0, 0));
	tell("mount_setattr", call(442, -1, 0, 0, 0, 0));
	tell("keyctl", call(KEYCTL, 0, 0, 0, 0, 0));
	tell("add_key", call(ADD_KEY, 0, 0, 0, 0, 0));
	tell("bpf", call(BPF, 0, 0, 0, 0, 0));
	tell("userfaultfd", call(USERFAULTFD, 0, 0, 0, 0, 0));
	tell("io_uring_setup", call(425, 1, 0, 0, 0, 0));
	tell("io_uring_enter", call(426, -1, 0, 0, 0, 0));
	tell("io_uring_register", call(427, -1, 0, 0, 0, 0));
	tell("perf_event_open", call(PERF, 0, 0, -1, -1, 0));
	tell("open_by_handle_at", call(HANDLE, -1, 0, 0, 0, 0));
	tell("kexec_load", call(KEXEC, 0, 0, 0, 0, 0));
	tell("init_module", call(INIT_MODULE, 0, 0, 0, 0, 0));
	tell("swapon", call(SWAPON, 0, 0, 0, 0, 0));
	tell("reboot", call(REBOOT, 0, 0, 0, 0, 0));
	tell("clock_settime", call(SETTIME, 0, 0, 0, 0, 0));
	tell("ioperm", call(IOPERM, 0, 1, 0, 0, 0));
	tell("acct", call(ACCT, 0, 0, 0, 0, 0));
	tell("socket-alg", call(SOCKET, 38, 5, 0, 0, 0));
	tell("socket-vsock", call(SOCKET, 40, 1, 0, 0, 0));
	tell("socket-inet", call(SOCKET, 2, 1, 0, 0, 0));
	tell("socket-unix", call(SOCKET, 1, 1, 0, 0, 0));
#ifdef __x86_64__
	/* The same by the numbers of x32. */
	tell("x32-socket-alg", call(0x40000000 | 41, 38, 5, 0, 0, 0));
	tell("x32-unshare-user", call(0x40000000 | 272, 0x10000000, 0, 0, 0, 0));
#else
	{
		/* Family, type and protocol behind a pointer, which is what libraries for i386 use. */
		long alg[3] = { 38, 5, 0 }, inet[3] = { 2, 1, 0 }, unix_[3] = { 1, 1, 0 };

		tell("socketcall-alg", call(102, 1, (long)alg, 0, 0, 0));
		tell("socketcall-inet", call(102, 1, (long)inet, 0, 0, 0));
		tell("socketcall-unix", call(102, 1, (long)unix_, 0, 0, 0));
	}
#endif
	call(EXIT, 0, 0, 0, 0, 0);
	for (;;)
		;
}
