//! What records of every kind say, as numbers in the order in which `c/formats.c` has them.

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::amd::{self, AddressSpace, EventLogEntry, IoPageFaultFlags, PprLogEntry};
use recordfd_uapi::hw::pcie::{PageRequest, PageRequestMessage, Pasid, PrgResponse, StopMarker};
use recordfd_uapi::hw::riscv::{self, PageRequestRecord};
use recordfd_uapi::hw::smmuv3::{self, Access, Event, EventRecord, PriQueueEntry, ResumeAction};
use recordfd_uapi::hw::virtio::Fault;
use recordfd_uapi::hw::vtd::{self, InvalidationDescriptor, PageRequestDescriptor};

/// The formats by their number, as the vectors name them, and the bytes of a record.
pub(crate) const KINDS: [(&str, usize); 15] = [
    // With what travels beside it; see `pcie`.
    ("pcie.page_request_payload", 16),
    ("vtd.page_req_dsc", 32),
    ("vtd.qi_page_group_response", 32),
    ("vtd.frcd", 16),
    ("smmuv3.event", 32),
    ("smmuv3.priq", 16),
    ("smmuv3.cmd_pri_resp", 16),
    ("smmuv3.cmd_resume", 16),
    ("amd.ppr", 16),
    ("amd.complete_ppr", 16),
    ("amd.event", 16),
    ("riscv.pq_record", 16),
    ("riscv.ats_prgr", 16),
    ("riscv.fq_record", 32),
    ("virtio_iommu.fault", 24),
];

/// The bytes of any record: those behind its own are not looked at.
pub(crate) type Bytes = [u8; 32];

/// Numbers that a record says at most.
pub(crate) const FIELDS: usize = 20;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) fields: [u64; FIELDS],
    count: usize,
}

impl Said {
    fn new<const N: usize>(fields: [u64; N]) -> Self {
        Self { fields: [0; FIELDS], count: 0 }.and(fields)
    }

    fn and<const N: usize>(mut self, fields: [u64; N]) -> Self {
        self.fields[self.count..self.count + N].copy_from_slice(&fields);
        self.count += N;
        self
    }

    /// Words that are kept whole.
    fn unknown<const N: usize>(words: [u64; N]) -> Self {
        Self::new([0]).and(words)
    }

    fn request(request: &PageRequest) -> Self {
        let PageRequest { rid, pasid, prgi, read, write, last, addr } = *request;
        let Pasid { value, exec, privileged } = pasid.unwrap_or_default();
        Self::new([1, rid.into(), pasid.is_some().into(), value.into(), exec.into(), privileged.into()])
            .and([read.into(), write.into(), last.into(), prgi.into(), addr])
    }

    fn stop_marker(marker: &StopMarker) -> Self {
        Self::new([2, marker.rid.into()]).and(optional(marker.pasid))
    }

    fn response(response: &PrgResponse) -> Self {
        let PrgResponse { rid, pasid, prgi, code } = *response;
        Self::new([1, rid.into()]).and(optional(pasid)).and([prgi.into(), code.get().into()])
    }
}

/// Whether there is a value, and which.
fn optional(value: Option<impl Into<u64>>) -> [u64; 2] {
    value.map_or([0; 2], |value| [1, value.into()])
}

fn access(access: &Access) -> [u64; 3] {
    [access.read.into(), access.instruction.into(), access.privileged.into()]
}

/// What a record of this kind says, and what it is encoded to.
pub(crate) fn decode(kind: usize, bytes: &Bytes) -> (Said, Result<Bytes, HwError>) {
    match KINDS[kind].0 {
        "pcie.page_request_payload" => pcie(bytes),
        "vtd.page_req_dsc" => taken(bytes, PageRequestDescriptor::decode, PageRequestDescriptor::encode, prd),
        "vtd.qi_page_group_response" => {
            taken(bytes, InvalidationDescriptor::decode, InvalidationDescriptor::encode, invalidation)
        }
        "vtd.frcd" => taken(bytes, vtd::FaultRecord::decode, vtd::FaultRecord::encode, vtd_fault),
        "smmuv3.event" => taken(bytes, EventRecord::decode, EventRecord::encode, event),
        "smmuv3.priq" => taken(bytes, PriQueueEntry::decode, PriQueueEntry::encode, |entry| match entry {
            PriQueueEntry::Request(request) => Said::request(request),
            PriQueueEntry::StopMarker(marker) => Said::stop_marker(marker),
        }),
        "smmuv3.cmd_pri_resp" | "smmuv3.cmd_resume" => {
            taken(bytes, smmuv3::Command::decode, smmuv3::Command::encode, smmuv3_command)
        }
        "amd.ppr" => taken(bytes, PprLogEntry::decode, PprLogEntry::encode, ppr),
        "amd.complete_ppr" => {
            taken(bytes, amd::Command::decode, amd::Command::encode, |command| match command {
                amd::Command::CompletePprRequest(response) => Said::response(response),
                amd::Command::Unknown(words) => Said::unknown(*words),
            })
        }
        "amd.event" => taken(bytes, EventLogEntry::decode, EventLogEntry::encode, event_log),
        "riscv.pq_record" => {
            taken(bytes, PageRequestRecord::decode, PageRequestRecord::encode, |record| match record {
                PageRequestRecord::Request(request) => Said::request(request),
                PageRequestRecord::StopMarker(marker) => Said::stop_marker(marker),
            })
        }
        "riscv.ats_prgr" => {
            taken(bytes, riscv::Command::decode, riscv::Command::encode, |command| match command {
                riscv::Command::AtsPrgr(prgr) => Said::response(&prgr.response).and(optional(prgr.segment)),
                riscv::Command::Unknown(words) => Said::unknown(*words),
            })
        }
        "riscv.fq_record" => {
            taken(bytes, riscv::FaultRecord::decode, riscv::FaultRecord::encode, riscv_fault)
        }
        "virtio_iommu.fault" => taken(bytes, Fault::decode, |report| Ok(report.encode()), virtio_fault),
        format => panic!("no record is {format}"),
    }
}

fn taken<const N: usize, T: PartialEq + std::fmt::Debug>(
    bytes: &Bytes,
    decode: impl Fn(&[u8; N]) -> T,
    encode: impl Fn(&T) -> Result<[u8; N], HwError>,
    say: impl Fn(&T) -> Said,
) -> (Said, Result<Bytes, HwError>) {
    let record = decode(bytes.first_chunk().expect("it is shorter"));
    let encoded = encode(&record).map(|again| {
        assert_eq!(decode(&again), record, "{bytes:02x?}");
        let mut whole = Bytes::default();
        whole[..N].copy_from_slice(&again);
        whole
    });
    (say(&record), encoded)
}

/// Behind the payload: the requester id in bits 79:64; if bit 95 is set, a PASID in 115:96, whether it
/// executes in 116 and whether it is privileged in 117.
fn pcie(bytes: &Bytes) -> (Said, Result<Bytes, HwError>) {
    let beside = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
    let pasid = (beside >> 31 & 1 != 0).then_some(Pasid {
        value: (beside >> 32) as u32 & 0xf_ffff,
        exec: beside >> 52 & 1 != 0,
        privileged: beside >> 53 & 1 != 0,
    });
    let decode = |payload: &[u8; 8]| PageRequestMessage::decode(payload, beside as u16, pasid);
    let (said, encoded) = taken(bytes, decode, PageRequestMessage::encode, |message| match message {
        PageRequestMessage::Request(request) => Said::request(request),
        PageRequestMessage::StopMarker(marker) => Said::stop_marker(marker),
    });
    let encoded = encoded.map(|mut whole| {
        whole[8..16].copy_from_slice(&bytes[8..16]);
        whole
    });
    (said, encoded)
}

fn prd(descriptor: &PageRequestDescriptor) -> Said {
    match descriptor {
        PageRequestDescriptor::Request(request) => Said::request(request),
        PageRequestDescriptor::StopMarker(marker) => Said::stop_marker(marker),
        PageRequestDescriptor::Unknown(words) => Said::unknown(*words),
    }
}

fn invalidation(descriptor: &InvalidationDescriptor) -> Said {
    match descriptor {
        InvalidationDescriptor::PageGroupResponse(response) => Said::response(response),
        InvalidationDescriptor::Unknown(words) => Said::unknown(*words),
    }
}

fn vtd_fault(record: &vtd::FaultRecord) -> Said {
    Said::new([1, record.fault_info, record.source_id.into()])
        .and(optional(record.pasid))
        .and([record.exec.into(), record.privileged.into(), record.reason.get().into()])
        .and([record.address_type.into(), record.t1.into(), record.t2.into(), record.fault.into()])
}

fn event(record: &EventRecord) -> Said {
    let said =
        Said::new([record.event.id().into(), record.stream_id.into()]).and(optional(record.substream_id));
    match record.event {
        Event::FUut(uut) => said.and([uut.reason.into()]).and(access(&uut.access)).and([uut.input_addr]),
        Event::CBadStreamid
        | Event::CBadSte
        | Event::FStreamDisabled
        | Event::CBadSubstreamid
        | Event::CBadCd => said,
        Event::FSteFetch(fetch) | Event::FCdFetch(fetch) | Event::FVmsFetch(fetch) => {
            said.and([fetch.reason.into(), fetch.gpcf.into(), fetch.fetch_addr])
        }
        Event::FBadAtsTreq(request) => said.and([request.other, request.input_addr]),
        Event::FTranslForbidden { read, input_addr } => said.and([read.into(), input_addr]),
        Event::FWalkEabt(abort) => said
            .and([abort.reason.into(), abort.gpcf.into()])
            .and(access(&abort.access))
            .and([abort.stage2.into(), abort.class.get().into(), abort.input_addr, abort.fetch_addr]),
        Event::FTranslation(fault)
        | Event::FAddrSize(fault)
        | Event::FAccess(fault)
        | Event::FPermission(fault) => said
            .and(optional(fault.stag))
            .and(access(&fault.access))
            .and([fault.class.get().into(), fault.ttrnw.into(), fault.input_addr])
            .and(optional(fault.ipa))
            .and([fault.other]),
        Event::FTlbConflict(conflict) => said
            .and([conflict.reason.into()])
            .and(access(&conflict.access))
            .and([conflict.input_addr])
            .and(optional(conflict.ipa)),
        Event::FCfgConflict { reason } => said.and([reason.into()]),
        Event::EPageRequest(hint) => said
            .and([hint.user_exec.into(), hint.user_write.into(), hint.user_read.into()])
            .and([hint.privileged_exec.into(), hint.privileged_write.into(), hint.privileged_read.into()])
            .and([hint.span.into(), hint.input_addr]),
        Event::Unknown(words) => said.and([0]).and(words),
    }
}

fn smmuv3_command(command: &smmuv3::Command) -> Said {
    match command {
        smmuv3::Command::PriResp(response) => Said::response(response),
        smmuv3::Command::Resume(resume) => {
            let action = match resume.action {
                ResumeAction::RazWi => 0,
                ResumeAction::Abort => 1,
                ResumeAction::Retry => 2,
            };
            Said::new([2, resume.stream_id.into(), resume.stag.into(), action])
        }
        smmuv3::Command::Unknown(words) => Said::unknown(*words),
    }
}

fn ppr(entry: &PprLogEntry) -> Said {
    match entry {
        PprLogEntry::Request(entry) => {
            Said::request(&entry.request).and([entry.reserved_set.into(), entry.other.into()])
        }
        PprLogEntry::StopMarker(marker) => Said::stop_marker(marker),
        PprLogEntry::Unknown(words) => Said::unknown(*words),
    }
}

fn event_log(entry: &EventLogEntry) -> Said {
    match entry {
        EventLogEntry::IoPageFault(fault) => {
            let space = match fault.space {
                AddressSpace::Domain(domain) => [0, domain.into()],
                AddressSpace::Pasid(pasid) => [1, pasid.into()],
            };
            let flags = [
                IoPageFaultFlags::VNR,
                IoPageFaultFlags::VEVENT,
                IoPageFaultFlags::VPTR,
                IoPageFaultFlags::VCMD,
                IoPageFaultFlags::NX,
                IoPageFaultFlags::US,
                IoPageFaultFlags::I,
                IoPageFaultFlags::PR,
                IoPageFaultFlags::RW,
                IoPageFaultFlags::PE,
                IoPageFaultFlags::RZ,
                IoPageFaultFlags::TR,
            ];
            assert_eq!(fault.flags.difference(flags.into_iter().collect()).bits(), 0);
            Said::new([1, fault.device_id.into()])
                .and(space)
                .and(flags.map(|flag| fault.flags.contains(flag).into()))
                .and([fault.addr])
        }
        EventLogEntry::InvalidPprRequest(request) => Said::new([2, request.device_id.into()]).and([
            request.pasid.into(),
            request.tag.into(),
            request.flags.into(),
            request.addr,
        ]),
        EventLogEntry::Unknown(words) => Said::unknown(*words),
    }
}

fn riscv_fault(record: &riscv::FaultRecord) -> Said {
    Said::new([1, record.cause.into()])
        .and(optional(record.pasid))
        .and([record.privileged.into(), record.transaction_type.into(), record.did.into()])
        .and([record.custom.into(), record.reserved.into(), record.iotval, record.iotval2])
}

fn virtio_fault(report: &Fault) -> Said {
    Said::new([1, report.reason.get().into()]).and(report.reserved.map(u64::from)).and([
        report.flags.bits().into(),
        report.endpoint.into(),
        report.reserved1.into(),
        report.address,
    ])
}
