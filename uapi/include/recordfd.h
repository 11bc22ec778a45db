/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT OR Apache-2.0 */
/*
 * recordfd: typed device events over one file descriptor.
 *
 * A channel is one descriptor. A device side writes records into it, a consumer polls it, reads
 * the records and, where the format has replies, sends them back on the same descriptor. All
 * records of a channel have the one format it was made with, so they all have the same size.
 *
 * Reading:
 *  - A buffer that is a multiple of the record size gets whole records, as many as fit. A record
 *    that does not fit stays where it is; nothing is lost by a short buffer.
 *  - On a socket read() == 0 is hang-up: the other side is gone and everything has been read.
 *    ECONNRESET means the same. On the iommufd descriptors of Linux read() == 0 is "empty": poll
 *    and read again.
 *  - Lost records are told, never hidden: by a gap in the sequence numbers, or by a record with
 *    RECORDFD_EVENT_FLAG_LOST_EVENTS when nothing came after the loss. On a recordfd descriptor
 *    that record has full size and a zero payload; a Linux vEVENTQ sends the bare 8-byte header.
 *
 * Sending replies:
 *  - Use send(2) with MSG_NOSIGNAL | MSG_DONTWAIT. write(2) would raise SIGPIPE after a hang-up.
 *    (On the iommufd descriptors of Linux, which are not sockets, use write(2).)
 *  - Never rely on O_NONBLOCK: whoever shares this end of the channel can clear it.
 *  - Send whole replies, at most RECORDFD_WRITE_MAX bytes at once.
 *
 * Values are in host byte order, except the words of vendor records, which are little-endian.
 * Reserved fields: write 0; a reader refuses anything else in the structs that are not Linux' own.
 */
#ifndef RECORDFD_H
#define RECORDFD_H

#include <linux/types.h>

#ifdef __KERNEL__
#include <linux/errno.h>
#include <linux/stddef.h>
#include <linux/string.h>
#else
#include <errno.h>
#include <stddef.h>
#include <string.h>
#endif

#ifdef __cplusplus
#define RECORDFD_STATIC_ASSERT(condition, message) static_assert(condition, message)
#else
#define RECORDFD_STATIC_ASSERT(condition, message) _Static_assert(condition, message)
#endif

#define RECORDFD_ASSERT_SIZE(type, size) \
	RECORDFD_STATIC_ASSERT(sizeof(type) == (size), "size of " #type)
#define RECORDFD_ASSERT_OFFSET(type, field, offset) \
	RECORDFD_STATIC_ASSERT(offsetof(type, field) == (offset), "offset of " #field " in " #type)

/*
 * Formats: an id in the high half, a version in the low half. A format never changes; what must
 * change gets a new version, and ids are never reused.
 */
#define RECORDFD_FORMAT(id, version) ((__u32)(id) << 16 | (__u32)(version))
#define RECORDFD_FORMAT_ID(format) ((__u32)(format) >> 16)
#define RECORDFD_FORMAT_VERSION(format) ((__u32)(format) & 0xffff)

/* struct recordfd_pgfault, answered by struct recordfd_page_response */
#define RECORDFD_FORMAT_IOMMU_PGFAULT_V1 RECORDFD_FORMAT(1, 1)
/* struct recordfd_pgfault_v2, answered by struct recordfd_page_response */
#define RECORDFD_FORMAT_IOMMU_PGFAULT_V2 RECORDFD_FORMAT(1, 2)
/* struct recordfd_viommu_arm_smmuv3, no reply */
#define RECORDFD_FORMAT_VIOMMU_ARM_SMMUV3_V1 RECORDFD_FORMAT(2, 1)
/* struct recordfd_viommu_tegra241_cmdqv, no reply */
#define RECORDFD_FORMAT_VIOMMU_TEGRA241_CMDQV_V1 RECORDFD_FORMAT(3, 1)
/* struct recordfd_acpi_notify_event, any number of struct recordfd_acpi_ost for each cookie */
#define RECORDFD_FORMAT_ACPI_NOTIFY_V1 RECORDFD_FORMAT(4, 1)
/* struct recordfd_pci_error_event, answered by struct recordfd_pci_error_result */
#define RECORDFD_FORMAT_PCI_ERROR_V1 RECORDFD_FORMAT(5, 1)
/* struct recordfd_pci_error_v2_event, answered by struct recordfd_pci_error_result */
#define RECORDFD_FORMAT_PCI_ERROR_V2 RECORDFD_FORMAT(5, 2)
/* struct recordfd_device_request_event, answered by struct recordfd_device_ack */
#define RECORDFD_FORMAT_DEVICE_REQUEST_V1 RECORDFD_FORMAT(6, 1)
/* struct recordfd_mixed, no reply */
#define RECORDFD_FORMAT_MIXED_V1 RECORDFD_FORMAT(7, 1)

/*
 * The most bytes of one write to a socket channel: AF_UNIX takes such a write whole or not at all.
 * It may take a longer one in parts, and this one too where SO_SNDBUF was made smaller than about
 * twice its length.
 */
#define RECORDFD_WRITE_MAX 16384

/* The largest sequence number, INT_MAX; the next one is 0. */
#define RECORDFD_SEQUENCE_MAX 0x7fffffffU
/*
 * The most records that a recordfd channel loses between two that arrive. A larger count means that
 * the sequence number went backwards: stop reading, the sender was started anew. Linux' own
 * descriptors have no such limit.
 */
#define RECORDFD_LOSS_MAX 0x3fffffffU

/*
 * No data, but the news that every record up to this sequence number was lost. Only on formats
 * whose records need no answer: the others lose none.
 */
#define RECORDFD_EVENT_FLAG_LOST_EVENTS 0x1
/*
 * The group with the payload's cookie was completed without its answer, which comes too late now. The
 * group is still to be answered: until then it takes up room in the channel, and a reader that leaves
 * such groups alone blocks it in the end. Only on formats whose records must be answered:
 * IOMMU_PGFAULT v2, PCI_ERROR and DEVICE_REQUEST.
 */
#define RECORDFD_EVENT_FLAG_CANCELLED 0x2

/**
 * struct recordfd_event_header - The first 8 bytes of most records
 * @flags: RECORDFD_EVENT_FLAG_*. The formats that Linux defines (VIOMMU_*) may get more of them.
 * @sequence: Number of the record, 0 to RECORDFD_SEQUENCE_MAX. It counts the records that were
 *            dropped too, so a gap is a loss; see recordfd_lost_before().
 *
 * Byte-identical to Linux' struct iommufd_vevent_header.
 */
struct recordfd_event_header {
	__u32 flags;
	__u32 sequence;
};
RECORDFD_ASSERT_SIZE(struct recordfd_event_header, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_event_header, flags, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_event_header, sequence, 4);

#define RECORDFD_PGFAULT_FLAG_PASID_VALID 0x1
#define RECORDFD_PGFAULT_FLAG_LAST_PAGE 0x2
/*
 * The device expects the PASID in the answer that Linux sends to it. Linux sets it on every fault of
 * Intel and AMD that has a PASID, and has no name for it in its uapi. A responder ignores it: struct
 * recordfd_page_response names the cookie alone.
 */
#define RECORDFD_PGFAULT_FLAG_NEEDS_PASID 0x4

#define RECORDFD_PGFAULT_PERM_READ 0x1
#define RECORDFD_PGFAULT_PERM_WRITE 0x2
/*
 * A PCIe page request has EXEC and PRIV only together with a PASID (PCIe Base Specification, 10.4.1:
 * Execute Requested and Privileged Mode Requested). A stall of SMMUv3 has them without one, too.
 */
#define RECORDFD_PGFAULT_PERM_EXEC 0x4
#define RECORDFD_PGFAULT_PERM_PRIV 0x8

/**
 * struct recordfd_pgfault - One IO page fault
 * @flags: RECORDFD_PGFAULT_FLAG_*
 * @dev_id: The device
 * @pasid: Process address space, 20 bits, when PASID_VALID is set
 * @grpid: The hardware's group index. Two open groups may carry the same one: only @cookie tells
 *         them apart.
 * @perm: The accesses asked for, RECORDFD_PGFAULT_PERM_*
 * @reserved: Not ours but Linux': ignore it, it may get a meaning
 * @addr: The faulting address
 * @length: A hint how many bytes the device will touch; 0 is no hint
 * @cookie: What the answer names
 *
 * The faults of one group follow each other, carry the same cookie, and the last one has LAST_PAGE
 * set. A group may be spread over two reads, and one answer is due for all of it; see struct
 * recordfd_group. Byte-identical to Linux' struct iommu_hwpt_pgfault.
 */
struct recordfd_pgfault {
	__u32 flags;
	__u32 dev_id;
	__u32 pasid;
	__u32 grpid;
	__u32 perm;
	__u32 reserved;
	__aligned_u64 addr;
	__u32 length;
	__u32 cookie;
};
RECORDFD_ASSERT_SIZE(struct recordfd_pgfault, 40);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, flags, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, dev_id, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, pasid, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, grpid, 12);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, perm, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, reserved, 20);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, addr, 24);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, length, 32);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault, cookie, 36);

/**
 * struct recordfd_pgfault_v2 - A page fault that can say CANCELLED
 * @header: Flags and number
 * @fault: The fault
 */
struct recordfd_pgfault_v2 {
	struct recordfd_event_header header;
	struct recordfd_pgfault fault;
};
RECORDFD_ASSERT_SIZE(struct recordfd_pgfault_v2, 48);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault_v2, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pgfault_v2, fault, 8);

/* The pages are there, the device may retry. */
#define RECORDFD_PAGE_RESPONSE_SUCCESS 0
/* The access is refused. */
#define RECORDFD_PAGE_RESPONSE_INVALID 1

/**
 * struct recordfd_page_response - The answer to a group of page faults
 * @cookie: The cookie of the group
 * @code: RECORDFD_PAGE_RESPONSE_*; nothing else is accepted
 *
 * Byte-identical to Linux' struct iommu_hwpt_page_response.
 */
struct recordfd_page_response {
	__u32 cookie;
	__u32 code;
};
RECORDFD_ASSERT_SIZE(struct recordfd_page_response, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_page_response, cookie, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_page_response, code, 4);

/**
 * struct recordfd_viommu_arm_smmuv3 - An SMMUv3 event of a virtual IOMMU
 * @header: Flags and number
 * @evt: The event queue entry (Arm IHI 0070), its StreamID replaced by the virtual one;
 *       little-endian. As Linux' struct iommu_vevent_arm_smmuv3.
 */
struct recordfd_viommu_arm_smmuv3 {
	struct recordfd_event_header header;
	__aligned_le64 evt[4];
};
RECORDFD_ASSERT_SIZE(struct recordfd_viommu_arm_smmuv3, 40);
RECORDFD_ASSERT_OFFSET(struct recordfd_viommu_arm_smmuv3, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_viommu_arm_smmuv3, evt, 8);

/**
 * struct recordfd_viommu_tegra241_cmdqv - An error of a Tegra241 virtual command queue
 * @header: Flags and number
 * @lvcmdq_err_map: Bit n of the 128 is set when logical VCMDQ n is in error; little-endian. As
 *                  Linux' struct iommu_vevent_tegra241_cmdqv.
 */
struct recordfd_viommu_tegra241_cmdqv {
	struct recordfd_event_header header;
	__aligned_le64 lvcmdq_err_map[2];
};
RECORDFD_ASSERT_SIZE(struct recordfd_viommu_tegra241_cmdqv, 24);
RECORDFD_ASSERT_OFFSET(struct recordfd_viommu_tegra241_cmdqv, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_viommu_tegra241_cmdqv, lvcmdq_err_map, 8);

/**
 * struct recordfd_acpi_notify - An ACPI device notification
 * @dev_id: The device, as the two sides of the channel number devices; 0 when only the names tell
 * @value: The notification value; 0 (Bus Check) is a value like any other
 * @data: Detail that the host's driver added
 * @cookie: What an _OST report names; 0 when none is wanted
 * @bus_id: Name on the ACPI bus, such as PNP0C0A:00
 * @device_class: Class of the device, such as battery
 *
 * The text fields are padded with NUL and not necessarily terminated by one: a text may fill its
 * field. Use recordfd_text_len(), never strlen(), and mind that the bytes are the peer's choice.
 */
struct recordfd_acpi_notify {
	__u32 dev_id;
	__u32 value;
	__u32 data;
	__u32 cookie;
	char bus_id[16];
	char device_class[24];
};
RECORDFD_ASSERT_SIZE(struct recordfd_acpi_notify, 56);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify, dev_id, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify, value, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify, data, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify, cookie, 12);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify, bus_id, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify, device_class, 32);

/**
 * struct recordfd_acpi_notify_event - An ACPI notification on the wire, one cache line
 * @header: Flags and number
 * @notify: The notification
 */
struct recordfd_acpi_notify_event {
	struct recordfd_event_header header;
	struct recordfd_acpi_notify notify;
};
RECORDFD_ASSERT_SIZE(struct recordfd_acpi_notify_event, 64);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify_event, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_notify_event, notify, 8);

/* Error Disconnect Recover: the port has recovered, or has not. */
#define RECORDFD_ACPI_OST_EDR_SUCCESS 0x80
#define RECORDFD_ACPI_OST_EDR_FAILURE 0x81

/**
 * struct recordfd_acpi_ost - An _OST report on a notification
 * @cookie: The cookie of the notification
 * @source_event: What is reported on, mostly the notification value
 * @status: How it went; 0 is success. Of Error Disconnect Recover (notification value 0xf) it is the
 *          requester id of the port in the upper half, RECORDFD_ACPI_OST_EDR_* in the lower one.
 * @reserved: Must be 0
 *
 * Several reports may follow one notification, to tell of progress.
 */
struct recordfd_acpi_ost {
	__u32 cookie;
	__u32 source_event;
	__u32 status;
	__u32 reserved;
};
RECORDFD_ASSERT_SIZE(struct recordfd_acpi_ost, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_ost, cookie, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_ost, source_event, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_ost, status, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_ost, reserved, 12);

/* The step of recovery that a PCI error is. */
#define RECORDFD_PCI_STEP_ERROR_DETECTED 1
#define RECORDFD_PCI_STEP_MMIO_ENABLED 2
#define RECORDFD_PCI_STEP_SLOT_RESET 3
#define RECORDFD_PCI_STEP_RESUME 4

/* Whether the device can be reached; Linux' pci_channel_state_t. */
#define RECORDFD_PCI_STATE_IO_NORMAL 1
#define RECORDFD_PCI_STATE_IO_FROZEN 2
#define RECORDFD_PCI_STATE_IO_PERM_FAILURE 3

#define RECORDFD_PCI_ERROR_FLAG_FATAL 0x1
#define RECORDFD_PCI_ERROR_FLAG_CORRECTABLE 0x2
#define RECORDFD_PCI_ERROR_FLAG_AER_VALID 0x4
/* The TLP was logged in Flit mode. Only struct recordfd_pci_error_v2 has it. */
#define RECORDFD_PCI_ERROR_FLAG_FLIT 0x8

/**
 * struct recordfd_pci_error - A PCI error, or the next step of its recovery
 * @dev_id: The device, as the two sides of the channel number devices
 * @cookie: What the result names
 * @step: RECORDFD_PCI_STEP_*
 * @state: RECORDFD_PCI_STATE_*
 * @flags: RECORDFD_PCI_ERROR_FLAG_*
 * @status: AER error status, when AER_VALID is set
 * @mask: The mask register that belongs to @status
 * @header_log: The TLP header of the first error
 */
struct recordfd_pci_error {
	__u32 dev_id;
	__u32 cookie;
	__u16 step;
	__u16 state;
	__u32 flags;
	__u32 status;
	__u32 mask;
	__u32 header_log[4];
};
RECORDFD_ASSERT_SIZE(struct recordfd_pci_error, 40);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, dev_id, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, cookie, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, step, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, state, 10);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, flags, 12);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, status, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, mask, 20);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error, header_log, 24);

/**
 * struct recordfd_pci_error_event - A PCI error on the wire
 * @header: Flags and number
 * @error: The error
 */
struct recordfd_pci_error_event {
	struct recordfd_event_header header;
	struct recordfd_pci_error error;
};
RECORDFD_ASSERT_SIZE(struct recordfd_pci_error_event, 48);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_event, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_event, error, 8);

#define RECORDFD_PCI_TLP_LOG_MAX 14

/**
 * struct recordfd_pci_error_v2 - A PCI error, with the whole log of the TLP
 * @dev_id: The device, as the two sides of the channel number devices
 * @cookie: What the result names
 * @step: RECORDFD_PCI_STEP_*
 * @state: RECORDFD_PCI_STATE_*
 * @flags: RECORDFD_PCI_ERROR_FLAG_*
 * @status: AER error status, when AER_VALID is set
 * @mask: The mask register that belongs to @status
 * @severity: The severity register that belongs to @status: bits that are set are fatal errors
 * @header_len: How many dwords at the beginning of @tlp_log are the TLP's header: at most 4 without
 *              FLIT. A value above RECORDFD_PCI_TLP_LOG_MAX stands for all of the log.
 * @prefix_len: How many dwords after the header are TLP prefixes: at most 4, and 0 with FLIT. A value
 *              above what is left of the log stands for all that is left.
 * @tlp_log: The log of the first error's TLP: its header, then its prefixes. As Linux' struct
 *           pcie_tlp_log.
 */
struct recordfd_pci_error_v2 {
	__u32 dev_id;
	__u32 cookie;
	__u16 step;
	__u16 state;
	__u32 flags;
	__u32 status;
	__u32 mask;
	__u32 severity;
	__u16 header_len;
	__u16 prefix_len;
	__u32 tlp_log[RECORDFD_PCI_TLP_LOG_MAX];
};
RECORDFD_ASSERT_SIZE(struct recordfd_pci_error_v2, 88);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, dev_id, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, cookie, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, step, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, state, 10);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, flags, 12);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, status, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, mask, 20);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, severity, 24);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, header_len, 28);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, prefix_len, 30);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2, tlp_log, 32);

/**
 * struct recordfd_pci_error_v2_event - A PCI error with the whole log on the wire
 * @header: Flags and number
 * @error: The error
 */
struct recordfd_pci_error_v2_event {
	struct recordfd_event_header header;
	struct recordfd_pci_error_v2 error;
};
RECORDFD_ASSERT_SIZE(struct recordfd_pci_error_v2_event, 96);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2_event, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_v2_event, error, 8);

/*
 * What a driver makes of an error; Linux' enum pci_ers_result. NONE is no opinion: the other functions
 * of the slot decide.
 */
#define RECORDFD_PCI_RESULT_NONE 1
#define RECORDFD_PCI_RESULT_CAN_RECOVER 2
#define RECORDFD_PCI_RESULT_NEED_RESET 3
#define RECORDFD_PCI_RESULT_DISCONNECT 4
#define RECORDFD_PCI_RESULT_RECOVERED 5

/**
 * struct recordfd_pci_error_result - The answer to a PCI error
 * @cookie: The cookie of the error
 * @result: RECORDFD_PCI_RESULT_*
 */
struct recordfd_pci_error_result {
	__u32 cookie;
	__u32 result;
};
RECORDFD_ASSERT_SIZE(struct recordfd_pci_error_result, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_result, cookie, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_pci_error_result, result, 4);

/* Let go of the device: it is to be unplugged. */
#define RECORDFD_DEVICE_REQUEST_RELEASE 1
/* The device was reset; take note. */
#define RECORDFD_DEVICE_REQUEST_RESET_DONE 2

/**
 * struct recordfd_device_request - A request of a device to its user
 * @dev_id: The device, as the two sides of the channel number devices
 * @cookie: What the acknowledgement names
 * @kind: RECORDFD_DEVICE_REQUEST_*
 * @count: How often this was asked before: 0 for a new request
 *
 * A RELEASE that is not answered comes again, under the same cookie and with a growing @count, and is
 * still one request with one answer. A record with @count above 0 whose cookie is not open has
 * crossed the answer: ignore it.
 *
 * A producer sends a request first with @count 0. It asks again, with nothing but @count changed,
 * only while it has neither read the answer nor sent CANCELLED under this cookie; whatever else it
 * sends with @count 0 needs another cookie until the answer has come. In a RESET_DONE and with
 * CANCELLED, @count is 0.
 */
struct recordfd_device_request {
	__u32 dev_id;
	__u32 cookie;
	__u32 kind;
	__u32 count;
};
RECORDFD_ASSERT_SIZE(struct recordfd_device_request, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_request, dev_id, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_request, cookie, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_request, kind, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_request, count, 12);

/**
 * struct recordfd_device_request_event - A device's request on the wire
 * @header: Flags and number
 * @request: The request
 */
struct recordfd_device_request_event {
	struct recordfd_event_header header;
	struct recordfd_device_request request;
};
RECORDFD_ASSERT_SIZE(struct recordfd_device_request_event, 24);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_request_event, header, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_request_event, request, 8);

#define RECORDFD_DEVICE_ACK_DONE 0
#define RECORDFD_DEVICE_ACK_REFUSED 1

/**
 * struct recordfd_device_ack - The answer to a device's request
 * @cookie: The cookie of the request
 * @code: RECORDFD_DEVICE_ACK_*
 */
struct recordfd_device_ack {
	__u32 cookie;
	__u32 code;
};
RECORDFD_ASSERT_SIZE(struct recordfd_device_ack, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_ack, cookie, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_device_ack, code, 4);

/**
 * struct recordfd_mixed - A record of any event format on a channel of several
 * @format: Format of the inner record, whose size is recordfd_format_record_size(); 0 when @flags say
 *          LOST_EVENTS. Skip records of formats that you do not know.
 * @flags: RECORDFD_EVENT_FLAG_LOST_EVENTS or 0, of the mixed channel
 * @sequence: Number on the mixed channel, 0 to RECORDFD_SEQUENCE_MAX
 * @source: Where the record comes from, as the two sides of the channel number sources; 0 when
 *          @flags say LOST_EVENTS
 * @payload: The inner record, header and all, padded with zeroes; all zero when @flags say
 *           LOST_EVENTS. Its alignment is 4: copy the record out with memcpy() before looking at
 *           it.
 */
struct recordfd_mixed {
	__u32 format;
	__u32 flags;
	__u32 sequence;
	__u32 source;
	__u8 payload[64];
};
RECORDFD_ASSERT_SIZE(struct recordfd_mixed, 80);
RECORDFD_ASSERT_OFFSET(struct recordfd_mixed, format, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_mixed, flags, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_mixed, sequence, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_mixed, source, 12);
RECORDFD_ASSERT_OFFSET(struct recordfd_mixed, payload, 16);

/* Bytes of the first version of struct recordfd_offer, the least a reader accepts. */
#define RECORDFD_OFFER_MIN_SIZE 64

/*
 * Who reads the offer produces the records and consumes the replies; without it, the other way
 * round.
 */
#define RECORDFD_OFFER_FLAG_PRODUCER 0x1

/**
 * struct recordfd_offer - Layout of a shared-memory channel
 * @size: Bytes of the struct as its writer knows it, at least RECORDFD_OFFER_MIN_SIZE
 * @abi_min: The oldest version of the ring protocol the maker speaks
 * @abi_max: The newest version of the ring protocol the maker speaks
 * @format: What the records are, RECORDFD_FORMAT_*
 * @flags: RECORDFD_OFFER_FLAG_*
 * @depth: Records in the ring, a power of two
 * @record_size: Bytes of one record
 * @reply_depth: Replies in the ring, a power of two; 0 when the format has none
 * @reply_size: Bytes of one reply; 0 when the format has none
 * @records_offset: Where the record ring begins in the mapping, in bytes
 * @replies_offset: Where the reply ring begins in the mapping, in bytes
 * @map_size: Length of the mapping, in bytes
 * @reserved: Must be 0
 *
 * New fields come only at the end. A reader refuses a struct that is shorter than the first
 * version (EINVAL), accepts a longer one whose unknown tail is zero, and refuses any other (E2BIG).
 * It also refuses bytes behind the end that @size gives, and @flags it does not know (EINVAL).
 */
struct recordfd_offer {
	__u32 size;
	__u16 abi_min;
	__u16 abi_max;
	__u32 format;
	__u32 flags;
	__u32 depth;
	__u32 record_size;
	__u32 reply_depth;
	__u32 reply_size;
	__aligned_u64 records_offset;
	__aligned_u64 replies_offset;
	__aligned_u64 map_size;
	__aligned_u64 reserved;
};
RECORDFD_ASSERT_SIZE(struct recordfd_offer, RECORDFD_OFFER_MIN_SIZE);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, size, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, abi_min, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, abi_max, 6);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, format, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, flags, 12);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, depth, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, record_size, 20);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, reply_depth, 24);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, reply_size, 28);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, records_offset, 32);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, replies_offset, 40);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, map_size, 48);
RECORDFD_ASSERT_OFFSET(struct recordfd_offer, reserved, 56);

/* Threads of one process. */
#define RECORDFD_TRANSPORT_LOCAL 1
/* An AF_UNIX stream socket: the one for read(2) and send(2). */
#define RECORDFD_TRANSPORT_SOCKET 2
/* Rings in shared memory, a socket as doorbell. */
#define RECORDFD_TRANSPORT_SHARED 3
/* A descriptor of Linux' iommufd. */
#define RECORDFD_TRANSPORT_KERNEL 4

/**
 * struct recordfd_channel_info - What goes along with a channel's descriptor, out of band
 * @format: What the records are, RECORDFD_FORMAT_*
 * @transport: How they travel, RECORDFD_TRANSPORT_*
 * @depth: How many records the queue takes before it is full
 * @reserved: Must be 0
 */
struct recordfd_channel_info {
	__u32 format;
	__u32 transport;
	__u32 depth;
	__u32 reserved;
};
RECORDFD_ASSERT_SIZE(struct recordfd_channel_info, 16);
RECORDFD_ASSERT_OFFSET(struct recordfd_channel_info, format, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_channel_info, transport, 4);
RECORDFD_ASSERT_OFFSET(struct recordfd_channel_info, depth, 8);
RECORDFD_ASSERT_OFFSET(struct recordfd_channel_info, reserved, 12);

/* Linux' ACPI events on generic netlink. The family's id is given out at run time. */
#define RECORDFD_ACPI_GENL_FAMILY_NAME "acpi_event"
#define RECORDFD_ACPI_GENL_GROUP_NAME "acpi_mc_group"
#define RECORDFD_ACPI_GENL_FAMILY_VERSION 1
#define RECORDFD_ACPI_GENL_CMD_EVENT 1
#define RECORDFD_ACPI_GENL_ATTR_EVENT 1

/**
 * struct recordfd_acpi_genl_event - The attribute RECORDFD_ACPI_GENL_ATTR_EVENT
 * @device_class: Class of the device, such as button/power
 * @bus_id: Name on the ACPI bus, such as LNXPWRBN:00
 * @pad: The hole that the compiler leaves in Linux' struct
 * @kind: The notification value; its helper in Linux narrows it to 8 bits
 * @data: Detail from the driver
 *
 * What Linux has as struct acpi_genl_event and shows in no header.
 */
struct recordfd_acpi_genl_event {
	char device_class[20];
	char bus_id[15];
	__u8 pad;
	__u32 kind;
	__u32 data;
};
RECORDFD_ASSERT_SIZE(struct recordfd_acpi_genl_event, 44);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_genl_event, device_class, 0);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_genl_event, bus_id, 20);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_genl_event, pad, 35);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_genl_event, kind, 36);
RECORDFD_ASSERT_OFFSET(struct recordfd_acpi_genl_event, data, 40);

/**
 * recordfd_format_record_size() - Bytes of one record
 * @format: RECORDFD_FORMAT_*
 *
 * Return: The size, or 0 when this header does not know the format.
 */
static inline size_t recordfd_format_record_size(__u32 format)
{
	switch (format) {
	case RECORDFD_FORMAT_IOMMU_PGFAULT_V1:
		return sizeof(struct recordfd_pgfault);
	case RECORDFD_FORMAT_IOMMU_PGFAULT_V2:
		return sizeof(struct recordfd_pgfault_v2);
	case RECORDFD_FORMAT_VIOMMU_ARM_SMMUV3_V1:
		return sizeof(struct recordfd_viommu_arm_smmuv3);
	case RECORDFD_FORMAT_VIOMMU_TEGRA241_CMDQV_V1:
		return sizeof(struct recordfd_viommu_tegra241_cmdqv);
	case RECORDFD_FORMAT_ACPI_NOTIFY_V1:
		return sizeof(struct recordfd_acpi_notify_event);
	case RECORDFD_FORMAT_PCI_ERROR_V1:
		return sizeof(struct recordfd_pci_error_event);
	case RECORDFD_FORMAT_PCI_ERROR_V2:
		return sizeof(struct recordfd_pci_error_v2_event);
	case RECORDFD_FORMAT_DEVICE_REQUEST_V1:
		return sizeof(struct recordfd_device_request_event);
	case RECORDFD_FORMAT_MIXED_V1:
		return sizeof(struct recordfd_mixed);
	default:
		return 0;
	}
}

/**
 * recordfd_format_reply_size() - Bytes of one reply
 * @format: RECORDFD_FORMAT_*
 *
 * Return: The size, or 0 when the format has no reply or this header does not know it.
 */
static inline size_t recordfd_format_reply_size(__u32 format)
{
	switch (format) {
	case RECORDFD_FORMAT_IOMMU_PGFAULT_V1:
	case RECORDFD_FORMAT_IOMMU_PGFAULT_V2:
		return sizeof(struct recordfd_page_response);
	case RECORDFD_FORMAT_ACPI_NOTIFY_V1:
		return sizeof(struct recordfd_acpi_ost);
	case RECORDFD_FORMAT_PCI_ERROR_V1:
	case RECORDFD_FORMAT_PCI_ERROR_V2:
		return sizeof(struct recordfd_pci_error_result);
	case RECORDFD_FORMAT_DEVICE_REQUEST_V1:
		return sizeof(struct recordfd_device_ack);
	default:
		return 0;
	}
}

/**
 * recordfd_text_len() - Length of a text field
 * @text: The field
 * @size: Its size, sizeof(field)
 *
 * Return: The number of bytes before the first NUL, @size when there is none.
 */
static inline size_t recordfd_text_len(const char *text, size_t size)
{
	const char *end = (const char *)memchr(text, 0, size);

	return end ? (size_t)(end - text) : size;
}

/**
 * recordfd_lost_through() - What a LOST_EVENTS header stands for
 * @last: Sequence number read before; RECORDFD_SEQUENCE_MAX for the first reader of a new channel
 * @sequence: Sequence number of the header
 *
 * Return: The number of records lost, exact modulo 2^31. On a recordfd descriptor, a number above
 * RECORDFD_LOSS_MAX means that the sequence number went backwards.
 */
static inline __u32 recordfd_lost_through(__u32 last, __u32 sequence)
{
	return (sequence - last) & RECORDFD_SEQUENCE_MAX;
}

/**
 * recordfd_lost_before() - What a gap before a data record stands for
 * @last: Sequence number read before; RECORDFD_SEQUENCE_MAX for the first reader of a new channel
 * @sequence: Sequence number of the record
 *
 * Return: The number of records lost between the two, exact modulo 2^31. On a recordfd descriptor, a
 * number above RECORDFD_LOSS_MAX means that the sequence number did not grow.
 */
static inline __u32 recordfd_lost_before(__u32 last, __u32 sequence)
{
	return (sequence - last - 1) & RECORDFD_SEQUENCE_MAX;
}

/* The buffer is from a Linux vEVENTQ, where LOST_EVENTS is a header without data. */
#define RECORDFD_ITER_LINUX 0x1

/**
 * struct recordfd_iter - A walk over the bytes that one read returned
 * @next: The first byte not yet walked over
 * @rest: How many bytes there are from @next on
 * @record_size: Bytes of one record
 * @flags: RECORDFD_ITER_*
 *
 * For the formats whose records begin with struct recordfd_event_header: all but IOMMU_PGFAULT v1,
 * which is an array of struct recordfd_pgfault, and MIXED, one of struct recordfd_mixed.
 */
struct recordfd_iter {
	const unsigned char *next;
	size_t rest;
	size_t record_size;
	__u32 flags;
};

/**
 * recordfd_iter_init() - Begin a walk
 * @it: The walk
 * @buffer: What was read; need not be aligned
 * @length: How many bytes were read
 * @record_size: Bytes of one record, such as sizeof(struct recordfd_acpi_notify_event)
 * @flags: RECORDFD_ITER_LINUX or 0
 */
static inline void recordfd_iter_init(struct recordfd_iter *it, const void *buffer, size_t length,
				      size_t record_size, __u32 flags)
{
	it->next = (const unsigned char *)buffer;
	it->rest = length;
	it->record_size = record_size;
	it->flags = flags;
}

/**
 * recordfd_iter_next() - The next record
 * @it: The walk
 * @header: Filled with a copy of the record's header
 * @payload: Set to what follows the header in the buffer, NULL behind a header without data. It is
 *           as aligned as the buffer is: copy it out with memcpy() if in doubt.
 *
 * After an error the walk stands still: @it->rest bytes are left, less than a record when the last
 * one was cut off.
 *
 * What the record holds is not checked. The reader in Rust does check it, and refuses:
 *  - a full-size record with LOST_EVENTS whose payload is not all zero;
 *  - flags that the format does not have, except on the formats that Linux defines (VIOMMU_*). Only
 *    event formats have LOST_EVENTS, only formats that must be answered have CANCELLED.
 *
 * Return: 1 for a record, 0 at the end, -EINVAL when the rest is not a whole record or the
 *         sequence number is above RECORDFD_SEQUENCE_MAX.
 */
static inline int recordfd_iter_next(struct recordfd_iter *it,
				     struct recordfd_event_header *header, const void **payload)
{
	size_t size = it->record_size;
	int bare;

	if (it->rest == 0)
		return 0;
	if (it->rest < sizeof(*header) || size < sizeof(*header))
		return -EINVAL;
	memcpy(header, it->next, sizeof(*header));
	bare = (it->flags & RECORDFD_ITER_LINUX) &&
	       (header->flags & RECORDFD_EVENT_FLAG_LOST_EVENTS);
	if (bare)
		size = sizeof(*header);
	if (it->rest < size || header->sequence > RECORDFD_SEQUENCE_MAX)
		return -EINVAL;
	*payload = bare ? NULL : it->next + sizeof(*header);
	it->next += size;
	it->rest -= size;
	return 1;
}

/**
 * struct recordfd_group - Collects the page faults of one group in the caller's memory
 * @pages: Where the faults go
 * @room: How many faults fit there
 * @count: How many there are
 * @cookie: What the answer names; 0 before the first fault
 * @complete: Not 0 when the last fault of the group has come
 */
struct recordfd_group {
	struct recordfd_pgfault *pages;
	size_t room;
	size_t count;
	__u32 cookie;
	__u32 complete;
};

/**
 * recordfd_group_init() - Begin with no fault
 * @group: The collector
 * @pages: Where the faults go
 * @room: How many faults fit there
 */
static inline void recordfd_group_init(struct recordfd_group *group, struct recordfd_pgfault *pages,
				       size_t room)
{
	group->pages = pages;
	group->room = room;
	group->count = 0;
	group->cookie = 0;
	group->complete = 0;
}

/**
 * recordfd_group_add() - Take in the next fault
 * @group: The collector
 * @fault: The fault, as read
 *
 * The first fault after a complete group begins a new one in the same memory. A fault that is
 * refused is not taken in: -EINVAL means that the producer broke the contract, and so does -E2BIG
 * when @group->room is the most that the channel allows. recordfd_group_init() begins afresh.
 * Records with CANCELLED or LOST_EVENTS in their header are no faults: do not pass them here.
 *
 * Return: 0 when more faults are to come, 1 when the group is complete and can be answered,
 *         -EINVAL for cookie 0 or another cookie in the middle of a group, -E2BIG when the group
 *         has more faults than fit.
 */
static inline int recordfd_group_add(struct recordfd_group *group,
				     const struct recordfd_pgfault *fault)
{
	__u32 open = group->complete ? 0 : group->cookie;

	if (fault->cookie == 0 || (open != 0 && fault->cookie != open))
		return -EINVAL;
	if (open == 0) {
		group->count = 0;
		group->cookie = fault->cookie;
		group->complete = 0;
	}
	if (group->count == group->room)
		return -E2BIG;
	group->pages[group->count++] = *fault;
	if (!(fault->flags & RECORDFD_PGFAULT_FLAG_LAST_PAGE))
		return 0;
	group->complete = 1;
	return 1;
}

/**
 * recordfd_group_response() - The answer to a group
 * @group: The collector, before the next group begins
 * @code: RECORDFD_PAGE_RESPONSE_*
 *
 * Return: The answer, to be sent once.
 */
static inline struct recordfd_page_response
recordfd_group_response(const struct recordfd_group *group, __u32 code)
{
	struct recordfd_page_response response;

	response.cookie = group->cookie;
	response.code = code;
	return response;
}

/*
 * The code of a PCIe PRG Response: what VT-d has as RC, AMD as the status of COMPLETE_PPR_REQUEST,
 * RISC-V as the code of ATS.PRGR. 2 to 0xe mean a failure too, and are never sent.
 */
#define RECORDFD_PRI_SUCCESS 0x0
#define RECORDFD_PRI_INVALID_REQUEST 0x1
#define RECORDFD_PRI_RESPONSE_FAILURE 0xf

/* Resp of SMMUv3's CMD_PRI_RESP, which counts the other way round. 3 makes the command illegal. */
#define RECORDFD_SMMUV3_PRI_RESPONSE_FAILURE 0
#define RECORDFD_SMMUV3_PRI_INVALID_REQUEST 1
#define RECORDFD_SMMUV3_PRI_SUCCESS 2

/* Ac and Ab of SMMUv3's CMD_RESUME, bits 13:12. */
#define RECORDFD_SMMUV3_RESUME_RAZ_WI 0
#define RECORDFD_SMMUV3_RESUME_RETRY 1
#define RECORDFD_SMMUV3_RESUME_ABORT 2

/**
 * recordfd_response_to_pri() - The code of a PRG Response for an answer to page faults
 * @code: RECORDFD_PAGE_RESPONSE_*, or 2, the FAILURE that exists inside of Linux only
 *
 * Return: RECORDFD_PRI_*, or -EINVAL for any other code.
 */
static inline int recordfd_response_to_pri(__u32 code)
{
	switch (code) {
	case RECORDFD_PAGE_RESPONSE_SUCCESS:
		return RECORDFD_PRI_SUCCESS;
	case RECORDFD_PAGE_RESPONSE_INVALID:
		return RECORDFD_PRI_INVALID_REQUEST;
	case 2:
		return RECORDFD_PRI_RESPONSE_FAILURE;
	default:
		return -EINVAL;
	}
}

/**
 * recordfd_pri_to_response() - The answer to page faults for the code of a PRG Response
 * @pri: The 4-bit code, as a guest gave it
 * @pri_disabled: Set to 1 when it was a failure, else to 0. A failure cannot be told to the host: it
 *                gets INVALID. It disables the page request interface of the function, and that is
 *                the VMM's to model: set Response Failure in the PRI status (bit 0), clear the
 *                enable, answer later requests likewise.
 *
 * Return: RECORDFD_PAGE_RESPONSE_*.
 */
static inline __u32 recordfd_pri_to_response(__u32 pri, int *pri_disabled)
{
	*pri_disabled = pri != RECORDFD_PRI_SUCCESS && pri != RECORDFD_PRI_INVALID_REQUEST;
	return pri == RECORDFD_PRI_SUCCESS ? RECORDFD_PAGE_RESPONSE_SUCCESS :
					     RECORDFD_PAGE_RESPONSE_INVALID;
}

/**
 * recordfd_response_to_smmuv3() - Resp of CMD_PRI_RESP for an answer to page faults
 * @code: As for recordfd_response_to_pri()
 *
 * Return: RECORDFD_SMMUV3_PRI_*, or -EINVAL for any other code.
 */
static inline int recordfd_response_to_smmuv3(__u32 code)
{
	switch (code) {
	case RECORDFD_PAGE_RESPONSE_SUCCESS:
		return RECORDFD_SMMUV3_PRI_SUCCESS;
	case RECORDFD_PAGE_RESPONSE_INVALID:
		return RECORDFD_SMMUV3_PRI_INVALID_REQUEST;
	case 2:
		return RECORDFD_SMMUV3_PRI_RESPONSE_FAILURE;
	default:
		return -EINVAL;
	}
}

/**
 * recordfd_smmuv3_to_response() - The answer to page faults for Resp of CMD_PRI_RESP
 * @resp: The 2-bit code, as a guest gave it
 * @pri_disabled: As for recordfd_pri_to_response(); untouched when the command is illegal
 *
 * Return: RECORDFD_PAGE_RESPONSE_*, or -EINVAL when the command is illegal.
 */
static inline int recordfd_smmuv3_to_response(__u32 resp, int *pri_disabled)
{
	if (resp > RECORDFD_SMMUV3_PRI_SUCCESS)
		return -EINVAL;
	*pri_disabled = resp == RECORDFD_SMMUV3_PRI_RESPONSE_FAILURE;
	return resp == RECORDFD_SMMUV3_PRI_SUCCESS ? RECORDFD_PAGE_RESPONSE_SUCCESS :
						     RECORDFD_PAGE_RESPONSE_INVALID;
}

/**
 * recordfd_response_to_resume() - Ac and Ab of CMD_RESUME for an answer to a stall
 * @code: As for recordfd_response_to_pri()
 *
 * Return: RECORDFD_SMMUV3_RESUME_RETRY or _ABORT, or -EINVAL for any other code.
 */
static inline int recordfd_response_to_resume(__u32 code)
{
	if (code > 2)
		return -EINVAL;
	return code == RECORDFD_PAGE_RESPONSE_SUCCESS ? RECORDFD_SMMUV3_RESUME_RETRY :
							RECORDFD_SMMUV3_RESUME_ABORT;
}

/**
 * recordfd_resume_to_response() - The answer to a stall for Ac and Ab of CMD_RESUME
 * @action: Bits 13:12 of the command, as a guest gave it. Retry (Ac) goes before abort; that reads
 *          shall give zero and writes be ignored (RAZ_WI) cannot be told, so that it is INVALID too.
 *
 * Return: RECORDFD_PAGE_RESPONSE_*.
 */
static inline __u32 recordfd_resume_to_response(__u32 action)
{
	return action & RECORDFD_SMMUV3_RESUME_RETRY ? RECORDFD_PAGE_RESPONSE_SUCCESS :
						       RECORDFD_PAGE_RESPONSE_INVALID;
}

#endif /* RECORDFD_H */
