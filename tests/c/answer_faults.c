/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Answers page faults (IOMMU_PGFAULT v2) on the socket that is its standard input, as recordfd.h
 * says. It keeps every third group until the reporter has given it up, and answers it then. Compiled
 * with SKIP_CANCELLED it does not answer those.
 *
 * When the reporter hangs up it prints how many groups came, and how many of them were cancelled.
 */
#include "recordfd.h"
#include <stdio.h>
#include <sys/socket.h>

#define RECORD sizeof(struct recordfd_pgfault_v2)
#define MOST 64

static int answer(__u32 cookie)
{
	struct recordfd_page_response response = { cookie, RECORDFD_PAGE_RESPONSE_SUCCESS };

	return send(0, &response, sizeof(response), MSG_NOSIGNAL) == sizeof(response);
}

/* The groups that are not answered yet. */
static __u32 kept[MOST];
static size_t kept_count;

/* Whether the group was kept; it is no longer. */
static int take_out(__u32 cookie)
{
	size_t i;

	for (i = 0; i < kept_count; i++) {
		if (kept[i] == cookie) {
			kept[i] = kept[--kept_count];
			return 1;
		}
	}
	return 0;
}

int main(void)
{
	struct recordfd_pgfault pages[MOST];
	struct recordfd_group group;
	unsigned char buffer[MOST * RECORD];
	unsigned long groups = 0, cancelled = 0;

	recordfd_group_init(&group, pages, MOST);
	for (;;) {
		struct recordfd_event_header header;
		struct recordfd_iter it;
		const void *payload;
		ssize_t length = recv(0, buffer, sizeof(buffer), 0);

		if (length == 0)
			break;
		if (length < 0)
			return 1;
		recordfd_iter_init(&it, buffer, (size_t)length, RECORD, 0);
		while (recordfd_iter_next(&it, &header, &payload) == 1) {
			struct recordfd_pgfault fault;

			memcpy(&fault, payload, sizeof(fault));
			if (header.flags & RECORDFD_EVENT_FLAG_CANCELLED) {
				cancelled++;
				if (!take_out(fault.cookie))
					continue; /* The notice crossed the answer. */
#ifndef SKIP_CANCELLED
				if (!answer(fault.cookie))
					return 1;
#endif
				continue;
			}
			switch (recordfd_group_add(&group, &fault)) {
			case 0:
				break;
			case 1:
				if (groups++ % 3 == 2 && kept_count < MOST)
					kept[kept_count++] = group.cookie;
				else if (!answer(group.cookie))
					return 1;
				break;
			default:
				return 1;
			}
		}
		if (it.rest != 0)
			return 1;
	}
	printf("%lu groups, %lu cancelled\n", groups, cancelled);
	return 0;
}
