/*
 * Loaded before the C library, so that fork(3) is a bare clone(2), as minijail and others call it: no handler of
 * pthread_atfork() runs.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

pid_t fork(void)
{
	return (pid_t)syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
}
