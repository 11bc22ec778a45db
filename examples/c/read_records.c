// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Reads ACPI notifications (ACPI_NOTIFY v1) from an inherited descriptor and prints them.
 *
 *   cc -std=c11 -I uapi/include -o read_records examples/c/read_records.c
 */
#define _POSIX_C_SOURCE 200809L

#include <recordfd.h>

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_SIZE sizeof(struct recordfd_acpi_notify_event)

static const char usage[] =
	"usage: read_records FD [--raw]\n"
	"\n"
	"Reads ACPI notifications from descriptor FD until the other side hangs up. Prints a line for\n"
	"each:\n"
	"\n"
	"    CLASS BUS_ID VALUE data DATA seq SEQUENCE\n"
	"\n"
	"and \"lost COUNT\" where records are missing. Spaces and unprintable bytes of a name are\n"
	"escaped, an empty name is \"-\".\n"
	"\n"
	"  --raw   write each record's bytes to standard output instead\n"
	"  --help  print this text\n";

/* The text is the peer's choice, so nothing of it may reach the terminal as a control character. */
static void print_text(const char *text, size_t size)
{
	size_t length = recordfd_text_len(text, size);
	size_t i;

	if (length == 0)
		putchar('-');
	for (i = 0; i < length; i++) {
		unsigned char byte = (unsigned char)text[i];

		if (byte > 0x20 && byte < 0x7f && byte != '\\')
			putchar(byte);
		else
			printf("\\x%02x", byte);
	}
	putchar(' ');
}

/* A record, or a loss; -1 when the sequence number went backwards. */
static int print_record(const struct recordfd_event_header *header, const void *payload, __u32 *last)
{
	struct recordfd_acpi_notify notify;
	int is_notice = header->flags & RECORDFD_EVENT_FLAG_LOST_EVENTS;
	__u32 lost = is_notice ? recordfd_lost_through(*last, header->sequence) :
				 recordfd_lost_before(*last, header->sequence);

	if (lost > RECORDFD_LOSS_MAX)
		return -1;
	if (lost)
		printf("lost %u\n", lost);
	if (!is_notice) {
		memcpy(&notify, payload, sizeof(notify));
		print_text(notify.device_class, sizeof(notify.device_class));
		print_text(notify.bus_id, sizeof(notify.bus_id));
		printf("0x%02x data %u seq %u\n", notify.value, notify.data, header->sequence);
	}
	*last = header->sequence;
	return 0;
}

/* Walks over whole records. */
static int print_records(const unsigned char *buffer, size_t length, int raw, __u32 *last)
{
	struct recordfd_event_header header;
	struct recordfd_iter it;
	const void *payload;
	int result;

	recordfd_iter_init(&it, buffer, length, RECORD_SIZE, 0);
	while ((result = recordfd_iter_next(&it, &header, &payload)) == 1) {
		if (raw)
			fwrite((const unsigned char *)payload - sizeof(header), RECORD_SIZE, 1, stdout);
		else if ((result = print_record(&header, payload, last)) < 0)
			break;
	}
	if (result < 0)
		fprintf(stderr, "read_records: bad sequence number %#x\n", header.sequence);
	/* A reader at the other end of a pipe shall see each record when it comes. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("read_records: standard output");
		return -1;
	}
	return result;
}

/* read(2) that waits also when the descriptor is non-blocking; 0 is hang-up. */
static ssize_t read_some(int fd, unsigned char *buffer, size_t room)
{
	struct pollfd pollfd;
	ssize_t got;

	pollfd.fd = fd;
	pollfd.events = POLLIN;
	for (;;) {
		got = read(fd, buffer, room);
		if (got >= 0)
			return got;
		if (errno == ECONNRESET)
			return 0;
		if (errno == EAGAIN && poll(&pollfd, 1, -1) >= 0)
			continue;
		if (errno != EINTR)
			return -1;
	}
}

static int read_records(int fd, int raw)
{
	/* The first reader of a channel expects number 0, the one after the largest. */
	__u32 last = RECORDFD_SEQUENCE_MAX;
	unsigned char buffer[64 * RECORD_SIZE];
	size_t have = 0, whole;
	ssize_t got;

	while ((got = read_some(fd, buffer + have, sizeof(buffer) - have)) > 0) {
		have += (size_t)got;
		whole = have - have % RECORD_SIZE;
		if (print_records(buffer, whole, raw, &last) < 0)
			return EXIT_FAILURE;
		/* No sender splits a record, but a relay between the two may. */
		have -= whole;
		memmove(buffer, buffer + whole, have);
	}
	if (got < 0) {
		perror("read_records: read");
		return EXIT_FAILURE;
	}
	if (have) {
		fprintf(stderr, "read_records: record cut off after %lu bytes\n", (unsigned long)have);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	int fd = -1, raw = 0, i;

	for (i = 1; i < argc; i++) {
		char *end;
		long number;

		if (strcmp(argv[i], "--help") == 0) {
			fputs(usage, stdout);
			return EXIT_SUCCESS;
		}
		if (strcmp(argv[i], "--raw") == 0) {
			raw = 1;
			continue;
		}
		number = strtol(argv[i], &end, 10);
		if (fd >= 0 || end == argv[i] || *end || number < 0 || number > INT_MAX) {
			fputs(usage, stderr);
			return 2;
		}
		fd = (int)number;
	}
	if (fd < 0) {
		fputs(usage, stderr);
		return 2;
	}
	return read_records(fd, raw);
}
