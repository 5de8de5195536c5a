/*
 * A 32-bit program without a library: opens sockets by both ways that i386 has, and prints "WAY FAMILY ERROR" for each.
 * Compile with -m32 -nostdlib.
 */

static int call(int number, int first, int second, int third)
{
	int result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third) : "memory");
	return result;
}

static void print(const char *text)
{
	int length = 0;

	while (text[length] != 0)
		length++;
	call(4, 1, (int)text, length);
}

static void tell(const char *what, int result)
{
	char digits[12];
	int place = 11, value = result < 0 ? -result : 0;

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
	/* family, type, protocol */
	int inet[3] = { 2, 2, 0 }, alg[3] = { 38, 5, 0 }, vsock[3] = { 40, 1, 0 };

	tell("socket inet", call(359, 2, 2, 0));
	tell("socketcall inet", call(102, 1, (int)inet, 0));
	tell("socket alg", call(359, 38, 5, 0));
	tell("socket vsock", call(359, 40, 1, 0));
	tell("socketcall alg", call(102, 1, (int)alg, 0));
	tell("socketcall vsock", call(102, 1, (int)vsock, 0));
	tell("unshare user", call(310, 0x10000000, 0, 0));
	tell("keyctl", call(288, 0, 0, 0));
	call(252, 0, 0, 0);
	for (;;)
		;
}
