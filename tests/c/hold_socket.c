/*
 * Holds the lock of the socket that is its standard input: it receives into a page whose fault is never answered. Prints
 * "held" when it does, or why it cannot, and sleeps until it is killed. Something must be in the socket.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *receive(void *page)
{
	recv(0, page, 1, MSG_PEEK | MSG_DONTWAIT);
	return NULL;
}

int main(void)
{
	long size = sysconf(_SC_PAGESIZE);
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffd_msg fault;
	pthread_t thread;
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	range.range.start = (unsigned long)page;
	range.range.len = size;
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &range)) {
		puts("no faults of the kernel can be held up here");
		return 0;
	}
	pthread_create(&thread, NULL, receive, page);
	if (read(faults, &fault, sizeof(fault)) == sizeof(fault))
		puts("held");
	fflush(stdout);
	pause();
	return 0;
}
