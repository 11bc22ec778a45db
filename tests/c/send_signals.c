/*
 * Has SIGIO sent to a process whenever something can be read from its standard input, a socket: send_signals PID UID.
 * Goes on as user UID first. Prints "set", and sleeps until the other side hangs up.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct pollfd hang_up = { .fd = 0 };

	if (argc != 3 || setresuid(atoi(argv[2]), atoi(argv[2]), atoi(argv[2])) ||
	    fcntl(0, F_SETOWN, atoi(argv[1])) || fcntl(0, F_SETFL, O_ASYNC))
		return 1;
	puts("set");
	fflush(stdout);
	poll(&hang_up, 1, -1);
	return 0;
}
