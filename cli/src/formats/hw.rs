//! The formats of IOMMU hardware, with the names and the places that the specifications give their fields.

use recordfd::uapi::hw::{amd, pcie, riscv, smmuv3, virtio, vtd};

use super::own::word_of;
use super::{Format, Reading, Shape, hardware};
use crate::convert::{request, response};
use crate::field::Field;

/// The shape of the only kind of record.
const fn sole(fields: &'static [Field]) -> Shape {
    kind("", &[], fields)
}

const fn kind(name: &'static str, tags: &'static [(&'static str, u64)], fields: &'static [Field]) -> Shape {
    Shape { name, tags, fields }
}

/// The shape of what is of no kind that is known here.
const fn unknown(fields: &'static [Field]) -> Shape {
    kind("unknown", &[], fields)
}

/// The code of a PRG response, for people.
fn response_code(code: u64) -> String {
    format!("{:?}", pcie::ResponseCode::new(code as u8).meaning())
}

// The fields that tell the kind.
const VTD_TYPE: Field = Field::bits("TYPE", 7, 0);
const VTD_TYPE_LOW: Field = Field::bits("TYPE_3_0", 3, 0);
const VTD_TYPE_HIGH: Field = Field::bits("TYPE_6_4", 11, 9);
const ARM_OP: Field = Field::bits("OP", 7, 0);
const AMD_CODE: Field = Field::bits("CODE", 63, 60);
const AMD_OP: Field = Field::bits("OP", 63, 60);
const RISCV_OPCODE: Field = Field::bits("OPCODE", 6, 0);
const RISCV_FUNC3: Field = Field::bits("FUNC3", 9, 7);

// Of every SMMUv3 event.
const ID: Field = Field::bits("ID", 7, 0);
const SSV: Field = Field::bit("SSV", 11);
const SUBSTREAM: Field = Field::bits("SubstreamID", 31, 12);
const STREAM: Field = Field::bits("StreamID", 63, 32);
// Of some.
const REASON: Field = Field::bits("Reason", 79, 64);
const GPCF: Field = Field::bit("GPCF", 80);
const PNU: Field = Field::bit("PnU", 97);
const IND: Field = Field::bit("InD", 98);
const RNW: Field = Field::bit("RnW", 99);
const S2: Field = Field::bit("S2", 103);
const CLASS: Field =
    Field::bits("CLASS", 105, 104).means(|class| format!("{:?}", smmuv3::Class::new(class as u8)));
const INPUT_ADDR: Field = Field::bits("InputAddr", 191, 128);
const FETCH_ADDR: Field = Field::bits("FetchAddr_55_3", 247, 195);
const IPA: Field = Field::bits("IPA_55_12", 247, 204);

const STREAM_ONLY: &[Field] = &[ID, SSV, SUBSTREAM, STREAM];
const FETCH: &[Field] = &[ID, SSV, SUBSTREAM, STREAM, REASON, GPCF, FETCH_ADDR];
const FAULT: &[Field] = &[
    ID,
    SSV,
    SUBSTREAM,
    STREAM,
    Field::bits("STAG", 79, 64),
    Field::bit("Stall", 95),
    PNU,
    IND,
    RNW,
    S2,
    CLASS,
    INPUT_ADDR,
    IPA,
];

const SMMUV3_EVENTS: &[Shape] = &[
    kind("F_UUT", &[("ID", 0x01)], &[ID, SSV, SUBSTREAM, STREAM, REASON, PNU, IND, RNW, INPUT_ADDR]),
    kind("C_BAD_STREAMID", &[("ID", 0x02)], STREAM_ONLY),
    kind("F_STE_FETCH", &[("ID", 0x03)], FETCH),
    kind("C_BAD_STE", &[("ID", 0x04)], STREAM_ONLY),
    kind("F_BAD_ATS_TREQ", &[("ID", 0x05)], &[ID, SSV, SUBSTREAM, STREAM, INPUT_ADDR]),
    kind("F_STREAM_DISABLED", &[("ID", 0x06)], STREAM_ONLY),
    kind("F_TRANSL_FORBIDDEN", &[("ID", 0x07)], &[ID, SSV, SUBSTREAM, STREAM, RNW, INPUT_ADDR]),
    kind("C_BAD_SUBSTREAMID", &[("ID", 0x08)], STREAM_ONLY),
    kind("F_CD_FETCH", &[("ID", 0x09)], FETCH),
    kind("C_BAD_CD", &[("ID", 0x0a)], STREAM_ONLY),
    kind(
        "F_WALK_EABT",
        &[("ID", 0x0b)],
        &[ID, SSV, SUBSTREAM, STREAM, REASON, GPCF, PNU, IND, RNW, S2, CLASS, INPUT_ADDR, FETCH_ADDR],
    ),
    kind("F_TRANSLATION", &[("ID", 0x10)], FAULT),
    kind("F_ADDR_SIZE", &[("ID", 0x11)], FAULT),
    kind("F_ACCESS", &[("ID", 0x12)], FAULT),
    kind("F_PERMISSION", &[("ID", 0x13)], FAULT),
    kind(
        "F_TLB_CONFLICT",
        &[("ID", 0x20)],
        &[ID, SSV, SUBSTREAM, STREAM, REASON, PNU, IND, RNW, S2, INPUT_ADDR, IPA],
    ),
    kind("F_CFG_CONFLICT", &[("ID", 0x21)], &[ID, SSV, SUBSTREAM, STREAM, REASON]),
    kind(
        "E_PAGE_REQUEST",
        &[("ID", 0x24)],
        &[
            ID,
            SSV,
            SUBSTREAM,
            STREAM,
            Field::bit("uX", 97),
            Field::bit("uW", 98),
            Field::bit("uR", 99),
            Field::bit("pX", 101),
            Field::bit("pW", 102),
            Field::bit("pR", 103),
            Field::bits("Span", 115, 108),
            Field::bits("InputAddr_63_12", 191, 140),
        ],
    ),
    kind("F_VMS_FETCH", &[("ID", 0x25)], FETCH),
    unknown(STREAM_ONLY),
];

/// The requester of an AMD record.
const DEV_ID: Field = Field::bits("DevID", 15, 0);

pub(super) const FORMATS: &[Format] = &[
    Format::new(
        "pcie.page_request_payload",
        8,
        // Requester and PASID travel beside it.
        |bytes| {
            let decode = |bytes: &_| pcie::PageRequestMessage::decode(bytes, 0, None);
            hardware(bytes, decode, pcie::PageRequestMessage::encode)
        },
        "PCIe Page Request, the payload as a little-endian number",
    )
    .shapes(&[sole(&[
        Field::bit("R", 0),
        Field::bit("W", 1),
        Field::bit("L", 2),
        Field::bits("PRGI", 11, 3),
        Field::bits("ADDR", 63, 12),
    ])])
    .converts(request::PCIE),
    Format::new(
        "vtd.page_req_dsc",
        32,
        |bytes| hardware(bytes, vtd::PageRequestDescriptor::decode, vtd::PageRequestDescriptor::encode),
        "VT-d page request descriptor",
    )
    .shapes(&[
        kind(
            "",
            &[("TYPE", 1)],
            &[
                VTD_TYPE,
                Field::bit("PP", 8),
                Field::bits("RID", 31, 16),
                Field::bits("PASID", 51, 32),
                Field::bit("EXR", 52),
                Field::bit("PMR", 53),
                Field::bit("RDR", 64),
                Field::bit("WRR", 65),
                Field::bit("LPIG", 66),
                Field::bits("PRGI", 75, 67),
                Field::bits("ADDR", 127, 76),
            ],
        ),
        unknown(&[VTD_TYPE]),
    ])
    .reply("vtd.qi_page_group_response")
    .converts(request::VTD),
    Format::new(
        "vtd.qi_page_group_response",
        32,
        |bytes| hardware(bytes, vtd::InvalidationDescriptor::decode, vtd::InvalidationDescriptor::encode),
        "VT-d page group response descriptor",
    )
    .shapes(&[
        kind(
            "",
            &[("TYPE_3_0", 9), ("TYPE_6_4", 0)],
            &[
                VTD_TYPE_LOW,
                Field::bit("PP", 4),
                VTD_TYPE_HIGH,
                Field::bits("RC", 15, 12).means(response_code),
                Field::bits("RID", 31, 16),
                Field::bits("PASID", 51, 32),
                Field::bits("PRGI", 75, 67),
            ],
        ),
        unknown(&[VTD_TYPE_LOW, VTD_TYPE_HIGH]),
    ])
    .converts(response::VTD),
    Format::new(
        "vtd.frcd",
        16,
        |bytes| hardware(bytes, vtd::FaultRecord::decode, vtd::FaultRecord::encode),
        "VT-d fault recording register",
    )
    .shapes(&[sole(&[
        Field::bits("FI", 63, 12),
        Field::bits("SID", 79, 64),
        Field::bit("T2", 92),
        Field::bit("PRIV", 93),
        Field::bit("EXE", 94),
        Field::bit("PP", 95),
        Field::bits("FR", 103, 96).means(|reason| word_of(vtd::FaultReason::new(reason as u8))),
        Field::bits("PV", 123, 104),
        Field::bits("AT", 125, 124),
        Field::bit("T1", 126),
        Field::bit("F", 127),
    ])]),
    Format::new(
        "smmuv3.event",
        32,
        |bytes| hardware(bytes, smmuv3::EventRecord::decode, smmuv3::EventRecord::encode),
        "SMMUv3 event record",
    )
    .shapes(SMMUV3_EVENTS)
    .reply("smmuv3.cmd_resume")
    .converts(request::SMMUV3_EVENT),
    Format::new(
        "smmuv3.priq",
        16,
        |bytes| hardware(bytes, smmuv3::PriQueueEntry::decode, smmuv3::PriQueueEntry::encode),
        "SMMUv3 PRI queue entry",
    )
    .shapes(&[sole(&[
        Field::bits("StreamID", 31, 0),
        Field::bits("SubstreamID", 51, 32),
        Field::bit("Priv", 58),
        Field::bit("X", 59),
        Field::bit("R", 60),
        Field::bit("W", 61),
        Field::bit("Last", 62),
        Field::bit("SSV", 63),
        Field::bits("PRGIndex", 72, 64),
        Field::bits("ADDR", 127, 76),
    ])])
    .reply("smmuv3.cmd_pri_resp")
    .converts(request::SMMUV3_PRIQ),
    Format::new("smmuv3.cmd_pri_resp", 16, smmuv3_command, "SMMUv3 CMD_PRI_RESP")
        .shapes(&[
            kind(
                "",
                &[("OP", 0x41)],
                &[
                    ARM_OP,
                    SSV,
                    SUBSTREAM,
                    STREAM,
                    Field::bits("PRGIndex", 72, 64),
                    Field::bits("Resp", 77, 76)
                        .means(|resp| format!("{:?}", smmuv3::PriResp::new(resp as u8))),
                ],
            ),
            unknown(&[ARM_OP]),
        ])
        .converts(response::SMMUV3_PRI),
    Format::new("smmuv3.cmd_resume", 16, smmuv3_command, "SMMUv3 CMD_RESUME")
        .shapes(&[
            kind(
                "",
                &[("OP", 0x44)],
                &[
                    ARM_OP,
                    Field::bit("SSec", 10),
                    Field::bit("Ac", 12),
                    Field::bit("Ab", 13),
                    STREAM,
                    Field::bits("STAG", 79, 64),
                ],
            ),
            unknown(&[ARM_OP]),
        ])
        .converts(response::SMMUV3_RESUME),
    Format::new(
        "amd.ppr",
        16,
        |bytes| hardware(bytes, amd::PprLogEntry::decode, amd::PprLogEntry::encode),
        "AMD IOMMU PPR log entry",
    )
    .shapes(&[
        kind(
            "",
            &[("CODE", 1)],
            &[
                DEV_ID,
                Field::bits("PASID_15_0", 31, 16),
                Field::bits("PRGI", 40, 32),
                Field::bit("LAST", 41),
                Field::bits("PASID_19_16", 45, 42),
                Field::bit("EX", 49),
                Field::bit("RD", 50),
                Field::bit("WR", 53),
                Field::bit("US", 54),
                Field::bit("RZ", 55),
                Field::bit("GN", 56),
                AMD_CODE,
                Field::bits("ADDR", 127, 76),
            ],
        ),
        unknown(&[AMD_CODE]),
    ])
    .reply("amd.complete_ppr")
    .converts(request::AMD),
    Format::new(
        "amd.complete_ppr",
        16,
        |bytes| hardware(bytes, amd::Command::decode, amd::Command::encode),
        "AMD IOMMU COMPLETE_PPR_REQUEST",
    )
    .shapes(&[
        kind(
            "",
            &[("OP", 7)],
            &[
                DEV_ID,
                Field::bits("PASID", 51, 32),
                AMD_OP,
                Field::bit("GN", 66),
                Field::bits("PRGI", 104, 96),
                Field::bits("STATUS", 111, 108).means(response_code),
            ],
        ),
        unknown(&[AMD_OP]),
    ])
    .converts(response::AMD),
    Format::new(
        "amd.event",
        16,
        |bytes| hardware(bytes, amd::EventLogEntry::decode, amd::EventLogEntry::encode),
        "AMD IOMMU event log entry",
    )
    .shapes(&[
        kind(
            "IO_PAGE_FAULT",
            &[("CODE", 2)],
            &[
                DEV_ID,
                Field::bits("PASID_19_16", 19, 16),
                Field::bits("DomainID", 47, 32),
                Field::bit("GN", 48),
                Field::bit("NX", 49),
                Field::bit("US", 50),
                Field::bit("I", 51),
                Field::bit("PR", 52),
                Field::bit("RW", 53),
                Field::bit("PE", 54),
                Field::bit("RZ", 55),
                Field::bit("TR", 56),
                AMD_CODE,
                Field::bits("ADDR", 127, 64),
            ],
        ),
        kind(
            "INVALID_PPR_REQUEST",
            &[("CODE", 9)],
            &[
                DEV_ID,
                Field::bits("PASID_15_0", 31, 16),
                Field::bits("TAG", 41, 32),
                Field::bits("PASID_19_16", 45, 42),
                Field::bits("FLAGS", 59, 48),
                AMD_CODE,
                Field::bits("ADDR", 127, 64),
            ],
        ),
        unknown(&[AMD_CODE.means(|code| format!("{:?}", amd::EventCode::new(code as u8)))]),
    ]),
    Format::new(
        "riscv.pq_record",
        16,
        |bytes| hardware(bytes, riscv::PageRequestRecord::decode, riscv::PageRequestRecord::encode),
        "RISC-V IOMMU page-request record",
    )
    .shapes(&[sole(&[
        Field::bits("PID", 31, 12),
        Field::bit("PV", 32),
        Field::bit("PRIV", 33),
        Field::bit("EXEC", 34),
        Field::bits("DID", 63, 40),
        Field::bit("R", 64),
        Field::bit("W", 65),
        Field::bit("L", 66),
        Field::bits("PRGI", 75, 67),
        Field::bits("ADDR", 127, 76),
    ])])
    .reply("riscv.ats_prgr")
    .converts(request::RISCV),
    Format::new(
        "riscv.ats_prgr",
        16,
        |bytes| hardware(bytes, riscv::Command::decode, riscv::Command::encode),
        "RISC-V IOMMU ATS.PRGR",
    )
    .shapes(&[
        kind(
            "",
            &[("OPCODE", 4), ("FUNC3", 1)],
            &[
                RISCV_OPCODE,
                RISCV_FUNC3,
                Field::bits("PID", 31, 12),
                Field::bit("PV", 32),
                Field::bit("DSV", 33),
                Field::bits("RID", 55, 40),
                Field::bits("DSEG", 63, 56),
                Field::bits("PRGI", 104, 96),
                Field::bits("CODE", 111, 108).means(response_code),
            ],
        ),
        unknown(&[RISCV_OPCODE, RISCV_FUNC3]),
    ])
    .converts(response::RISCV),
    Format::new(
        "riscv.fq_record",
        32,
        |bytes| hardware(bytes, riscv::FaultRecord::decode, riscv::FaultRecord::encode),
        "RISC-V IOMMU fault record",
    )
    .shapes(&[sole(&[
        Field::bits("CAUSE", 11, 0),
        Field::bits("PID", 31, 12),
        Field::bit("PV", 32),
        Field::bit("PRIV", 33),
        Field::bits("TTYP", 39, 34),
        Field::bits("DID", 63, 40),
        Field::bits("CUSTOM", 95, 64),
        Field::bits("RSVD", 127, 96),
        Field::bits("iotval", 191, 128),
        Field::bits("iotval2", 255, 192),
    ])]),
    Format::new(
        "virtio_iommu.fault",
        24,
        |bytes| hardware(bytes, virtio::Fault::decode, |fault| Ok(fault.encode())),
        "virtio-iommu fault report",
    )
    .shapes(&[sole(&[
        Field::bits("reason", 7, 0).means(|reason| format!("{:?}", virtio::FaultReason::new(reason as u8))),
        Field::bits("reserved", 31, 8),
        Field::bits("flags", 63, 32),
        Field::bits("endpoint", 95, 64),
        Field::bits("reserved1", 127, 96),
        Field::bits("address", 191, 128),
    ])])
    .converts(request::VIRTIO),
];

/// CMD_PRI_RESP, whose Resp 3 is an illegal command.
const CMD_PRI_RESP: u8 = 0x41;

fn smmuv3_command(bytes: &[u8]) -> Reading {
    let is_illegal = |bytes: &[u8; 16]| {
        bytes[0] == CMD_PRI_RESP && matches!(smmuv3::Command::decode(bytes), smmuv3::Command::Unknown(_))
    };
    if bytes.try_into().is_ok_and(is_illegal) {
        return Reading::Unsendable("the Resp is that of an illegal command".to_owned());
    }
    hardware(bytes, smmuv3::Command::decode, smmuv3::Command::encode)
}
