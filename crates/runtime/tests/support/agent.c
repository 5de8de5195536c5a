/*
 * A seccomp agent for tests: `agent PATH`. Prints "ready", then the message of each connection as a line. Refuses mkdir
 * and mkdirat with ENOMEDIUM, and lets every other call go on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST 64

static int accept_listener(int server)
{
	static char text[65536];
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec vector = { text, sizeof(text) - 1 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int connection = accept4(server, NULL, NULL, SOCK_CLOEXEC), listener = -1;
	ssize_t length = recvmsg(connection, &message, MSG_CMSG_CLOEXEC), more;

	if (length <= 0)
		return -1;
	while ((more = read(connection, text + length, sizeof(text) - 1 - length)) > 0)
		length += more;
	text[length] = 0;
	if (CMSG_FIRSTHDR(&message) != NULL)
		memcpy(&listener, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	close(connection);
	printf("%s\n", text);
	fflush(stdout);
	return listener;
}

static void answer(int listener)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp response;

	memset(&request, 0, sizeof(request));
	memset(&response, 0, sizeof(response));
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) != 0)
		return;
	response.id = request.id;
	int number = request.data.nr;
	int refused = number == SYS_mkdirat;
#ifdef SYS_mkdir
	refused |= number == SYS_mkdir;
#endif
	if (refused)
		response.error = -ENOMEDIUM;
	else
		response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct pollfd polled[MOST];
	int count = 1, server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t length;

	if (argc != 2 || strlen(argv[1]) >= sizeof(address.sun_path))
		return 2;
	length = strlen(argv[1]);
	memcpy(address.sun_path, argv[1], length);
	if (argv[1][0] == '@')
		address.sun_path[0] = 0;
	if (bind(server, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + length) != 0 ||
	    listen(server, 16) != 0)
		return 1;
	puts("ready");
	fflush(stdout);
	polled[0] = (struct pollfd){ server, POLLIN, 0 };
	while (poll(polled, count, -1) > 0) {
		for (int i = count - 1; i > 0; i--) {
			if (polled[i].revents & POLLIN) {
				answer(polled[i].fd);
			} else if (polled[i].revents != 0) {
				close(polled[i].fd);
				polled[i] = polled[--count];
			}
		}
		if (polled[0].revents & POLLIN) {
			int listener = accept_listener(server);
			if (listener >= 0 && count < MOST)
				polled[count++] = (struct pollfd){ listener, POLLIN, 0 };
		}
	}
	return 0;
}
