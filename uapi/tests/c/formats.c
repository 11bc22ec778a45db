/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A second decoder of the records of IOMMU hardware, in bit-fields, to which the crate's is held. It
 * shares nothing with it: the structs are the tables of the specifications, bit 0 of a word first.
 *
 * formats_decode() writes what a record says as numbers, in an order that uapi/tests/hw/said.rs has too:
 * first which kind of record it is (0 unknown, 1 and 2 as listed there), then its fields.
 *
 * With FORMATS_MAIN it is a program: records of a kind and 32 bytes on its input, FIELDS numbers for each
 * on its output.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FIELDS 20

typedef uint64_t u64;

/* What a record says; the fields that it does not have are 0. */
struct said {
	u64 *fields;
	size_t count;
};

static void say(struct said *said, u64 value)
{
	said->fields[said->count++] = value;
}

/* Words that are kept whole. */
static void say_unknown(struct said *said, const uint8_t *bytes, size_t words)
{
	u64 word;
	size_t i;

	say(said, 0);
	for (i = 0; i < words; i++) {
		memcpy(&word, bytes + 8 * i, 8);
		say(said, word);
	}
}

struct request {
	u64 rid, has_pasid, pasid, exec, privileged, read, write, last, prgi, page;
};

/* A request is 1, a Stop Marker 2. Without a PASID nothing is executed or privileged. */
static void say_request(struct said *said, const struct request *request, int marker_without_pasid)
{
	u64 pasid = request->has_pasid ? request->pasid : 0;

	if (request->last && !request->read && !request->write &&
	    (request->has_pasid || marker_without_pasid)) {
		say(said, 2);
		say(said, request->rid);
		say(said, request->has_pasid);
		say(said, pasid);
		return;
	}
	say(said, 1);
	say(said, request->rid);
	say(said, request->has_pasid);
	say(said, pasid);
	say(said, request->has_pasid && request->exec);
	say(said, request->has_pasid && request->privileged);
	say(said, request->read);
	say(said, request->write);
	say(said, request->last);
	say(said, request->prgi);
	say(said, request->page << 12);
}

/* A page group response is 1. */
static void say_response(struct said *said, u64 rid, u64 has_pasid, u64 pasid, u64 prgi, u64 code)
{
	say(said, 1);
	say(said, rid);
	say(said, has_pasid);
	say(said, has_pasid ? pasid : 0);
	say(said, prgi);
	say(said, code);
}

/* The last two words of a PCIe page request, as VT-d and RISC-V have it too. */
struct payload {
	u64 r : 1, w : 1, l : 1, prgi : 9, addr_63_12 : 52;
};

struct vtd_page_request {
	u64 type : 8, pp : 1, pdp : 1, rsvd_15_10 : 6, rid : 16, pasid : 20, exr : 1, pmr : 1, rsvd_63_54 : 10;
	struct payload payload;
	u64 rsvd[2];
};

static void vtd_page_request(struct said *said, const uint8_t *bytes)
{
	struct vtd_page_request r;

	memcpy(&r, bytes, sizeof(r));
	if (r.type != 1) {
		say_unknown(said, bytes, 4);
		return;
	}
	say_request(said,
		    &(struct request){ r.rid, r.pp, r.pasid, r.exr, r.pmr, r.payload.r, r.payload.w,
				       r.payload.l, r.payload.prgi, r.payload.addr_63_12 },
		    1);
}

struct vtd_page_group_response {
	u64 type_3_0 : 4, pp : 1, rsvd_8_5 : 4, type_6_4 : 3, rc : 4, rid : 16, pasid : 20, rsvd_63_52 : 12;
	u64 rsvd_66_64 : 3, prgi : 9, rsvd_127_76 : 52;
	u64 rsvd[2];
};

static void vtd_page_group_response(struct said *said, const uint8_t *bytes)
{
	struct vtd_page_group_response r;

	memcpy(&r, bytes, sizeof(r));
	if (r.type_3_0 != 9 || r.type_6_4 != 0) {
		say_unknown(said, bytes, 4);
		return;
	}
	say_response(said, r.rid, r.pp, r.pasid, r.prgi, r.rc);
}

struct vtd_fault_record {
	u64 rsvd_11_0 : 12, fi_63_12 : 52;
	u64 sid : 16, rsvd_91_80 : 12, t2 : 1, priv : 1, exe : 1, pp : 1, fr : 8, pasid : 20, at : 2, t1 : 1, f : 1;
};

static void vtd_fault_record(struct said *said, const uint8_t *bytes)
{
	struct vtd_fault_record r;

	memcpy(&r, bytes, sizeof(r));
	say(said, 1);
	say(said, (u64)r.fi_63_12 << 12);
	say(said, r.sid);
	say(said, r.pp);
	say(said, r.pp ? r.pasid : 0);
	say(said, r.exe);
	say(said, r.priv);
	say(said, r.fr);
	say(said, r.at);
	say(said, r.t1);
	say(said, r.t2);
	say(said, r.f);
}

/* The first word of all events but two. */
struct smmu_event_head {
	u64 id : 8, rsvd_10_8 : 3, ssv : 1, substream : 20, stream : 32;
};

/* F_UUT, F_TRANSL_FORBIDDEN, F_WALK_EABT, F_TLB_CONFLICT, F_CFG_CONFLICT and the failed fetches. */
struct smmu_event_reason {
	u64 head;
	u64 reason : 16, gpcf : 1, rsvd_96_81 : 16, pnu : 1, ind : 1, rnw : 1, rsvd_102_100 : 3, s2 : 1,
		class : 2, rsvd_127_106 : 22;
	u64 input_addr;
	union {
		struct {
			u64 rsvd_194_192 : 3, addr_55_3 : 53, rsvd_255_248 : 8;
		} fetch;
		struct {
			u64 rsvd_203_192 : 12, addr_55_12 : 44, rsvd_255_248 : 8;
		} ipa;
	} at;
};

/* F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION. */
struct smmu_event_fault {
	u64 head;
	u64 stag : 16, other_94_80 : 15, stall : 1, other_96 : 1, pnu : 1, ind : 1, rnw : 1, other_102_100 : 3,
		s2 : 1, class : 2, other_107_106 : 2, ttrnw : 1, other_127_109 : 19;
	u64 input_addr;
	u64 rsvd_203_192 : 12, ipa_55_12 : 44, rsvd_255_248 : 8;
};

struct smmu_event_hint {
	u64 head;
	u64 rsvd_96_64 : 33, ux : 1, uw : 1, ur : 1, rsvd_100 : 1, px : 1, pw : 1, pr : 1, rsvd_107_104 : 4,
		span : 8, rsvd_127_116 : 12;
	u64 rsvd_139_128 : 12, addr_63_12 : 52;
	u64 rsvd;
};

static void say_fault(struct said *said, struct smmu_event_fault r)
{
	u64 words[4];

	say(said, r.stall);
	say(said, r.stall ? r.stag : 0);
	say(said, r.rnw);
	say(said, r.ind);
	say(said, r.pnu);
	say(said, r.class);
	say(said, r.ttrnw);
	say(said, r.input_addr);
	say(said, r.s2);
	say(said, r.s2 ? (u64)r.ipa_55_12 << 12 : 0);
	r.stag = r.stall = r.pnu = r.ind = r.rnw = r.s2 = r.class = r.ttrnw = 0;
	memcpy(words, &r, sizeof(words));
	say(said, words[1]);
}

static void smmu_event(struct said *said, const uint8_t *bytes)
{
	struct smmu_event_head head;
	struct smmu_event_reason r;
	struct smmu_event_fault fault;
	struct smmu_event_hint hint;
	u64 words[4], has_substream, fetch;

	memcpy(&head, bytes, sizeof(head));
	memcpy(&r, bytes, sizeof(r));
	memcpy(&fault, bytes, sizeof(fault));
	memcpy(&hint, bytes, sizeof(hint));
	memcpy(words, bytes, sizeof(words));
	/* C_BAD_SUBSTREAMID always has one, F_STREAM_DISABLED never. */
	has_substream = head.id == 0x08 || (head.ssv && head.id != 0x06);
	fetch = (u64)r.at.fetch.addr_55_3 << 3;

	say(said, head.id);
	say(said, head.stream);
	say(said, has_substream);
	say(said, has_substream ? head.substream : 0);
	switch (head.id) {
	case 0x01:
		say(said, r.reason);
		say(said, r.rnw);
		say(said, r.ind);
		say(said, r.pnu);
		say(said, r.input_addr);
		break;
	case 0x02:
	case 0x04:
	case 0x06:
	case 0x08:
	case 0x0a:
		break;
	case 0x03:
	case 0x09:
	case 0x25:
		say(said, r.reason);
		say(said, r.gpcf);
		say(said, fetch);
		break;
	case 0x05:
		say(said, words[1]);
		say(said, r.input_addr);
		break;
	case 0x07:
		say(said, r.rnw);
		say(said, r.input_addr);
		break;
	case 0x0b:
		say(said, r.reason);
		say(said, r.gpcf);
		say(said, r.rnw);
		say(said, r.ind);
		say(said, r.pnu);
		say(said, r.s2);
		say(said, r.class);
		say(said, r.input_addr);
		say(said, fetch);
		break;
	case 0x10:
	case 0x11:
	case 0x12:
	case 0x13:
		say_fault(said, fault);
		break;
	case 0x20:
		say(said, r.reason);
		say(said, r.rnw);
		say(said, r.ind);
		say(said, r.pnu);
		say(said, r.input_addr);
		say(said, r.s2);
		say(said, r.s2 ? (u64)r.at.ipa.addr_55_12 << 12 : 0);
		break;
	case 0x21:
		say(said, r.reason);
		break;
	case 0x24:
		say(said, hint.ux);
		say(said, hint.uw);
		say(said, hint.ur);
		say(said, hint.px);
		say(said, hint.pw);
		say(said, hint.pr);
		say(said, hint.span);
		say(said, (u64)hint.addr_63_12 << 12);
		break;
	default:
		say_unknown(said, bytes, 4);
	}
}

struct smmu_pri_entry {
	u64 stream : 32, substream : 20, rsvd_57_52 : 6, priv : 1, x : 1, r : 1, w : 1, last : 1, ssv : 1;
	u64 prg_index : 9, rsvd_75_73 : 3, address_63_12 : 52;
};

static void smmu_pri_entry(struct said *said, const uint8_t *bytes)
{
	struct smmu_pri_entry r;

	memcpy(&r, bytes, sizeof(r));
	say_request(said,
		    &(struct request){ r.stream, r.ssv, r.substream, r.x, r.priv, r.r, r.w, r.last,
				       r.prg_index, r.address_63_12 },
		    0);
}

struct smmu_pri_resp {
	u64 op : 8, rsvd_10_8 : 3, ssv : 1, substream : 20, stream : 32;
	u64 prg_index : 9, rsvd_75_73 : 3, resp : 2, rsvd_127_78 : 50;
};

struct smmu_resume {
	u64 op : 8, rsvd_9_8 : 2, ssec : 1, rsvd_11 : 1, ac : 1, ab : 1, rsvd_31_14 : 18, stream : 32;
	u64 stag : 16, rsvd_127_80 : 48;
};

/* CMD_PRI_RESP is 1, its code in PCIe's numbers. CMD_RESUME is 2: 0 RAZ/WI, 1 abort, 2 retry. */
static void smmu_command(struct said *said, const uint8_t *bytes)
{
	static const u64 codes[3] = { 0xf, 1, 0 };
	struct smmu_pri_resp p;
	struct smmu_resume r;

	memcpy(&p, bytes, sizeof(p));
	memcpy(&r, bytes, sizeof(r));
	if (p.op == 0x41 && p.resp != 3) {
		say_response(said, p.stream, p.ssv, p.substream, p.prg_index, codes[p.resp]);
	} else if (r.op == 0x44 && !r.ssec) {
		say(said, 2);
		say(said, r.stream);
		say(said, r.stag);
		say(said, r.ac ? 2 : r.ab);
	} else {
		say_unknown(said, bytes, 2);
	}
}

struct amd_ppr {
	u64 device_id : 16, pasid_15_0 : 16, prgi : 9, last : 1, pasid_19_16 : 4, rsvd_48_46 : 3, exec : 1, read : 1,
		other_52_51 : 2, write : 1, us : 1, rvsd : 1, gn : 1, other_59_57 : 3, code : 4;
	u64 rsvd_75_64 : 12, address_63_12 : 52;
};

static void amd_ppr(struct said *said, const uint8_t *bytes)
{
	struct amd_ppr r;

	memcpy(&r, bytes, sizeof(r));
	if (r.code != 1) {
		say_unknown(said, bytes, 2);
		return;
	}
	say_request(said,
		    &(struct request){ r.device_id, r.gn, r.pasid_15_0 | (u64)r.pasid_19_16 << 16, r.exec,
				       !r.us, r.read, r.write, r.last, r.prgi, r.address_63_12 },
		    0);
	if (said->fields[0] == 1) {
		say(said, r.rvsd);
		say(said, (u64)r.other_52_51 << 3 | (u64)r.other_59_57 << 9);
	}
}

struct amd_complete_ppr {
	u64 device_id : 16, rsvd_31_16 : 16, pasid : 20, rsvd_59_52 : 8, op : 4;
	u64 rsvd_65_64 : 2, gn : 1, rsvd_95_67 : 29, prgi : 9, rsvd_107_105 : 3, status : 4, rsvd_127_112 : 16;
};

static void amd_command(struct said *said, const uint8_t *bytes)
{
	struct amd_complete_ppr r;

	memcpy(&r, bytes, sizeof(r));
	if (r.op == 7)
		say_response(said, r.device_id, r.gn, r.pasid, r.prgi, r.status);
	else
		say_unknown(said, bytes, 2);
}

struct amd_page_fault {
	u64 device_id : 16, pasid_19_16 : 4, rsvd_26_20 : 7, vnr : 1, rsvd_28 : 1, vevent : 1, vptr : 1, vcmd : 1,
		domain_or_pasid : 16, gn : 1, nx : 1, us : 1, i : 1, pr : 1, rw : 1, pe : 1, rz : 1, tr : 1,
		rsvd_59_57 : 3, code : 4;
	u64 address;
};

struct amd_invalid_ppr {
	u64 device_id : 16, pasid_15_0 : 16, tag : 10, pasid_19_16 : 4, rsvd_47_46 : 2, flags : 12, code : 4;
	u64 address;
};

/* IO_PAGE_FAULT is 1, INVALID_PPR_REQUEST 2. */
static void amd_event(struct said *said, const uint8_t *bytes)
{
	struct amd_page_fault f;
	struct amd_invalid_ppr p;

	memcpy(&f, bytes, sizeof(f));
	memcpy(&p, bytes, sizeof(p));
	if (f.code == 2) {
		say(said, 1);
		say(said, f.device_id);
		say(said, f.gn);
		say(said, f.domain_or_pasid | (f.gn ? (u64)f.pasid_19_16 << 16 : 0));
		say(said, f.vnr);
		say(said, f.vevent);
		say(said, f.vptr);
		say(said, f.vcmd);
		say(said, f.nx);
		say(said, f.us);
		say(said, f.i);
		say(said, f.pr);
		say(said, f.rw);
		say(said, f.pe);
		say(said, f.rz);
		say(said, f.tr);
		say(said, f.address);
	} else if (p.code == 9) {
		say(said, 2);
		say(said, p.device_id);
		say(said, p.pasid_15_0 | (u64)p.pasid_19_16 << 16);
		say(said, p.tag);
		say(said, p.flags);
		say(said, p.address);
	} else {
		say_unknown(said, bytes, 2);
	}
}

struct riscv_page_request {
	u64 rsvd_11_0 : 12, pid : 20, pv : 1, priv : 1, exec : 1, rsvd_39_35 : 5, did : 24;
	struct payload payload;
};

static void riscv_page_request(struct said *said, const uint8_t *bytes)
{
	struct riscv_page_request r;

	memcpy(&r, bytes, sizeof(r));
	say_request(said,
		    &(struct request){ r.did, r.pv, r.pid, r.exec, r.priv, r.payload.r, r.payload.w,
				       r.payload.l, r.payload.prgi, r.payload.addr_63_12 },
		    1);
}

struct riscv_prgr {
	u64 opcode : 7, func3 : 3, rsvd_11_10 : 2, pid : 20, pv : 1, dsv : 1, rsvd_39_34 : 6, rid : 16, dseg : 8;
	u64 zero_95_64 : 32, prgi : 9, zero_107_105 : 3, code : 4, zero_127_112 : 16;
};

static void riscv_command(struct said *said, const uint8_t *bytes)
{
	struct riscv_prgr r;

	memcpy(&r, bytes, sizeof(r));
	if (r.opcode != 4 || r.func3 != 1) {
		say_unknown(said, bytes, 2);
		return;
	}
	say_response(said, r.rid, r.pv, r.pid, r.prgi, r.code);
	say(said, r.dsv);
	say(said, r.dsv ? r.dseg : 0);
}

struct riscv_fault {
	u64 cause : 12, pid : 20, pv : 1, priv : 1, ttyp : 6, did : 24;
	u64 custom : 32, rsvd_127_96 : 32;
	u64 iotval;
	u64 iotval2;
};

static void riscv_fault(struct said *said, const uint8_t *bytes)
{
	struct riscv_fault r;

	memcpy(&r, bytes, sizeof(r));
	say(said, 1);
	say(said, r.cause);
	say(said, r.pv);
	say(said, r.pv ? r.pid : 0);
	say(said, r.priv);
	say(said, r.ttyp);
	say(said, r.did);
	say(said, r.custom);
	say(said, r.rsvd_127_96);
	say(said, r.iotval);
	say(said, r.iotval2);
}

struct virtio_fault {
	uint8_t reason;
	uint8_t reserved[3];
	uint32_t flags;
	uint32_t endpoint;
	uint32_t reserved1;
	u64 address;
};

static void virtio_fault(struct said *said, const uint8_t *bytes)
{
	struct virtio_fault r;

	memcpy(&r, bytes, sizeof(r));
	say(said, 1);
	say(said, r.reason);
	say(said, r.reserved[0]);
	say(said, r.reserved[1]);
	say(said, r.reserved[2]);
	say(said, r.flags);
	say(said, r.endpoint);
	say(said, r.reserved1);
	say(said, r.address);
}

/* The payload, and behind it what travels beside it: the requester, and the PASID prefix if bit 95 is set. */
struct pcie_page_request {
	struct payload payload;
	u64 rid : 16, rsvd_94_80 : 15, has_prefix : 1, pasid : 20, er : 1, pmr : 1, rsvd_127_118 : 10;
};

static void pcie_page_request(struct said *said, const uint8_t *bytes)
{
	struct pcie_page_request r;

	memcpy(&r, bytes, sizeof(r));
	say_request(said,
		    &(struct request){ r.rid, r.has_prefix, r.pasid, r.er, r.pmr, r.payload.r, r.payload.w,
				       r.payload.l, r.payload.prgi, r.payload.addr_63_12 },
		    0);
}

_Static_assert(sizeof(struct vtd_page_request) == 32, "size");
_Static_assert(sizeof(struct vtd_page_group_response) == 32, "size");
_Static_assert(sizeof(struct vtd_fault_record) == 16, "size");
_Static_assert(sizeof(struct smmu_event_head) == 8, "size");
_Static_assert(sizeof(struct smmu_event_reason) == 32, "size");
_Static_assert(sizeof(struct smmu_event_fault) == 32, "size");
_Static_assert(sizeof(struct smmu_event_hint) == 32, "size");
_Static_assert(sizeof(struct smmu_pri_entry) == 16, "size");
_Static_assert(sizeof(struct smmu_pri_resp) == 16, "size");
_Static_assert(sizeof(struct smmu_resume) == 16, "size");
_Static_assert(sizeof(struct amd_ppr) == 16, "size");
_Static_assert(sizeof(struct amd_complete_ppr) == 16, "size");
_Static_assert(sizeof(struct amd_page_fault) == 16, "size");
_Static_assert(sizeof(struct amd_invalid_ppr) == 16, "size");
_Static_assert(sizeof(struct riscv_page_request) == 16, "size");
_Static_assert(sizeof(struct riscv_prgr) == 16, "size");
_Static_assert(sizeof(struct riscv_fault) == 32, "size");
_Static_assert(sizeof(struct virtio_fault) == 24, "size");
_Static_assert(sizeof(struct pcie_page_request) == 16, "size");

/* In the order of KINDS in uapi/tests/hw/said.rs. */
static void (*const decoders[])(struct said *, const uint8_t *) = {
	pcie_page_request, vtd_page_request, vtd_page_group_response, vtd_fault_record, smmu_event,
	smmu_pri_entry,	   smmu_command,     smmu_command,	      amd_ppr,		amd_command,
	amd_event,	   riscv_page_request, riscv_command,	      riscv_fault,	virtio_fault,
};

/* Takes 32 bytes of a record of this kind apart, into FIELDS numbers. */
void formats_decode(uint32_t kind, const uint8_t *bytes, u64 *fields);

void formats_decode(uint32_t kind, const uint8_t *bytes, u64 *fields)
{
	struct said said = { fields, 0 };

	memset(fields, 0, FIELDS * sizeof(*fields));
	if (kind < sizeof(decoders) / sizeof(*decoders))
		decoders[kind](&said, bytes);
}

#ifdef FORMATS_MAIN
#include <stdio.h>

int main(void)
{
	uint8_t record[33];
	u64 fields[FIELDS];

	while (fread(record, sizeof(record), 1, stdin) == 1) {
		formats_decode(record[0], record + 1, fields);
		fwrite(fields, sizeof(fields), 1, stdout);
	}
	return ferror(stdin) || fflush(stdout);
}
#endif
