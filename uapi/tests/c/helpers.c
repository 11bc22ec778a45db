// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Runs the helpers of recordfd.h on the commands of standard input, one a line, and prints one line
 * for each:
 *
 *   loss LAST SEQUENCE                 lost before, lost through
 *   sizes FORMAT                       record size, reply size
 *   text HEX                           length of the text
 *   iter SIZE FLAGS SHIFT HEX          FLAGS/SEQUENCE/PAYLOAD ..., last result twice, bytes left
 *   room COUNT                         new group collector
 *   add FLAGS COOKIE ADDRESS           result, count, complete, address of the last page kept
 *   respond CODE                       cookie, code
 *   codes CODE                         the code as an answer to page faults: PRI, Resp, Ac and Ab;
 *                                      as each of these three: the answer, and PRI disabled or 9
 */
#include "recordfd.h"

#include <stdio.h>
#include <stdlib.h>

static struct recordfd_pgfault pages[8];
static struct recordfd_group group;

/*
 * The bytes in memory of their own and at its very end, so that a sanitizer sees a read beyond them.
 * SHIFT puts them at an odd address.
 */
static unsigned char *from_hex(const char *hex, size_t shift, size_t *length)
{
	unsigned char *bytes;
	unsigned int byte;
	size_t i;

	*length = strlen(hex) / 2;
	bytes = (unsigned char *)malloc(shift + *length + !(shift + *length));
	if (!bytes)
		abort();
	for (i = 0; i < *length && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++)
		bytes[shift + i] = (unsigned char)byte;
	return bytes;
}

static void text(const char *hex)
{
	size_t length;
	unsigned char *bytes = from_hex(hex, 0, &length);

	printf("%lu\n", (unsigned long)recordfd_text_len((const char *)bytes, length));
	free(bytes);
}

static void walk(size_t size, __u32 flags, size_t shift, const char *hex)
{
	struct recordfd_event_header header;
	struct recordfd_iter it;
	unsigned char *bytes;
	const void *payload;
	size_t length, i;
	int result;

	bytes = from_hex(hex, shift, &length);
	recordfd_iter_init(&it, bytes + shift, length, size, flags);
	while ((result = recordfd_iter_next(&it, &header, &payload)) == 1) {
		printf("%x/%x/", header.flags, header.sequence);
		if (!payload)
			printf("none");
		for (i = 0; payload && i < size - sizeof(header); i++)
			printf("%02x", ((const unsigned char *)payload)[i]);
		printf(" ");
	}
	printf("%d %d %lu\n", result, recordfd_iter_next(&it, &header, &payload), (unsigned long)it.rest);
	free(bytes);
}

static void add(__u32 flags, __u32 cookie, __u64 address)
{
	struct recordfd_pgfault fault;
	int result;

	memset(&fault, 0, sizeof(fault));
	fault.flags = flags;
	fault.cookie = cookie;
	fault.addr = address;
	result = recordfd_group_add(&group, &fault);
	printf("%d %lu %x %llx\n", result, (unsigned long)group.count, group.complete,
	       group.count ? (unsigned long long)pages[group.count - 1].addr : 0ULL);
}

static void codes(__u32 code)
{
	int pri_disabled = 9, smmuv3_disabled = 9;
	__u32 from_pri = recordfd_pri_to_response(code, &pri_disabled);
	int from_smmuv3 = recordfd_smmuv3_to_response(code, &smmuv3_disabled);

	printf("%d %d %d ", recordfd_response_to_pri(code), recordfd_response_to_smmuv3(code),
	       recordfd_response_to_resume(code));
	printf("%u/%d %d/%d %u\n", from_pri, pri_disabled, from_smmuv3, smmuv3_disabled,
	       recordfd_resume_to_response(code));
}

int main(void)
{
	static char line[8192 + 64], hex[8192 + 1];
	struct recordfd_page_response response;
	unsigned long long c;
	unsigned int a, b;

	while (fgets(line, sizeof(line), stdin)) {
		hex[0] = 0;
		if (sscanf(line, "loss %x %x", &a, &b) == 2) {
			printf("%x %x\n", recordfd_lost_before(a, b), recordfd_lost_through(a, b));
		} else if (sscanf(line, "sizes %x", &a) == 1) {
			printf("%lu %lu\n", (unsigned long)recordfd_format_record_size(a),
			       (unsigned long)recordfd_format_reply_size(a));
		} else if (sscanf(line, "text %8192s", hex) == 1) {
			text(hex);
		} else if (sscanf(line, "iter %u %x %llu %8192s", &a, &b, &c, hex) >= 3) {
			walk(a, b, (size_t)c, hex);
		} else if (sscanf(line, "room %u", &a) == 1 && a <= sizeof(pages) / sizeof(pages[0])) {
			recordfd_group_init(&group, pages, a);
			printf("%lu %x\n", (unsigned long)group.count, group.complete);
		} else if (sscanf(line, "add %x %x %llx", &a, &b, &c) == 3) {
			add(a, b, c);
		} else if (sscanf(line, "respond %x", &a) == 1) {
			response = recordfd_group_response(&group, a);
			printf("%x %x\n", response.cookie, response.code);
		} else if (sscanf(line, "codes %x", &a) == 1) {
			codes(a);
		} else {
			fprintf(stderr, "unknown command: %s", line);
			return EXIT_FAILURE;
		}
	}
	return EXIT_SUCCESS;
}
