/*
 * What libseccomp makes of a profile, used as runc uses it. Reads words from stdin, writes to stdout:
 *
 *   number ARCHITECTURE NAME                     -> the number in decimal, or -1
 *   profile DEFAULT COUNT ARCHITECTURE...        a new profile; actions are the words of a filter's return
 *   rule ACTION NAME COUNT {INDEX OPERATOR A B}  one rule; OPERATOR as in enum scmp_compare
 *   export                                       -> the number of instructions, then each as "code jt jf k";
 *                                                   or -errno where libseccomp has refused a rule
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t action_of(uint32_t answer)
{
	/* Numbers are the kernel's but for one action, which has another name there too. */
	return answer == 0 ? SCMP_ACT_KILL_THREAD : answer;
}

static void export(scmp_filter_ctx filter, int refused)
{
	struct sock_filter instruction;
	int fd = memfd_create("filter", 0);

	if (refused == 0)
		refused = seccomp_export_bpf(filter, fd);
	if (refused != 0) {
		printf("%d\n", refused);
	} else {
		printf("%zu\n", (size_t)(lseek(fd, 0, SEEK_CUR) / sizeof(instruction)));
		lseek(fd, 0, SEEK_SET);
		while (read(fd, &instruction, sizeof(instruction)) == sizeof(instruction))
			printf("%u %u %u %u\n", instruction.code, instruction.jt, instruction.jf, instruction.k);
	}
	fflush(stdout);
	close(fd);
}

int main(void)
{
	char word[128], name[128];
	scmp_filter_ctx filter = NULL;
	uint32_t fallback = 0, answer;
	int refused = 0, count, iter;

	while (scanf("%127s", word) == 1) {
		if (strcmp(word, "number") == 0) {
			if (scanf("%127s %127s", word, name) != 2)
				return 1;
			int number = seccomp_syscall_resolve_name_arch(seccomp_arch_resolve_name(word), name);
			printf("%d\n", number < 0 ? -1 : number);
			fflush(stdout);
		} else if (strcmp(word, "profile") == 0) {
			if (scanf("%" SCNu32 " %d", &fallback, &count) != 2)
				return 1;
			seccomp_release(filter);
			filter = seccomp_init(action_of(fallback));
			refused = 0;
			for (iter = 0; iter < count; iter++) {
				if (scanf("%127s", word) != 1)
					return 1;
				int rc = seccomp_arch_add(filter, seccomp_arch_resolve_name(word));
				if (rc != 0 && rc != -EEXIST)
					refused = rc;
			}
		} else if (strcmp(word, "rule") == 0) {
			struct scmp_arg_cmp args[6];
			if (scanf("%" SCNu32 " %127s %d", &answer, name, &count) != 3 || count > 6)
				return 1;
			for (iter = 0; iter < count; iter++) {
				int op;
				if (scanf("%u %d %" SCNu64 " %" SCNu64, &args[iter].arg, &op, &args[iter].datum_a,
					  &args[iter].datum_b) != 4)
					return 1;
				args[iter].op = op;
			}
			int number = seccomp_syscall_resolve_name(name);
			if (answer == fallback || number == __NR_SCMP_ERROR)
				continue;
			int rc = seccomp_rule_add_array(filter, action_of(answer), number, count, args);
			if (rc != 0 && refused == 0)
				refused = rc;
		} else if (strcmp(word, "export") == 0) {
			export(filter, refused);
		}
	}
	return 0;
}
