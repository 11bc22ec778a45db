//! Any values: what is encoded decodes to the same value, so that nothing was cut off.

use std::fmt::Debug;

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::amd::{
    self, AddressSpace, EventLogEntry, InvalidPprRequest, IoPageFault, IoPageFaultFlags, PageServiceRequest,
    PprLogEntry,
};
use recordfd_uapi::hw::pcie::{
    PageRequest, PageRequestMessage, Pasid, PrgResponse, ResponseCode, StopMarker,
};
use recordfd_uapi::hw::riscv::{self, AtsPrgr, PageRequestRecord};
use recordfd_uapi::hw::smmuv3::{
    self, Access, BadAtsTreq, Class, CmdResume, Event, EventRecord, Fetch, PageRequestHint, PriQueueEntry,
    ResumeAction, TlbConflict, TranslationFault, Uut, WalkEabt,
};
use recordfd_uapi::hw::virtio::{Fault, FaultFlags, FaultReason};
use recordfd_uapi::hw::vtd::{self, InvalidationDescriptor, PageRequestDescriptor};

use crate::Choices;
use crate::said::KINDS;

const PAGE: u64 = !0xfff;

pub(crate) fn encode(kind: usize, choices: &mut Choices<'_>) {
    match KINDS[kind].0 {
        "pcie.page_request_payload" => message(choices),
        "vtd.page_req_dsc" => {
            let descriptor = match choices.below(3) {
                0 => PageRequestDescriptor::Request(request(choices, 16)),
                1 => PageRequestDescriptor::StopMarker(stop_marker(choices, 16)),
                _ => PageRequestDescriptor::Unknown(words(choices)),
            };
            same(descriptor, PageRequestDescriptor::encode, PageRequestDescriptor::decode);
        }
        "vtd.qi_page_group_response" => {
            let descriptor = if choices.below(4) == 0 {
                InvalidationDescriptor::Unknown(words(choices))
            } else {
                InvalidationDescriptor::PageGroupResponse(response(choices, 16))
            };
            same(descriptor, InvalidationDescriptor::encode, InvalidationDescriptor::decode);
        }
        "vtd.frcd" => same(vtd_fault(choices), vtd::FaultRecord::encode, vtd::FaultRecord::decode),
        "smmuv3.event" => event(choices),
        "smmuv3.priq" => {
            let entry = if choices.below(4) == 0 {
                PriQueueEntry::StopMarker(stop_marker(choices, 32))
            } else {
                PriQueueEntry::Request(request(choices, 32))
            };
            same(entry, PriQueueEntry::encode, PriQueueEntry::decode);
        }
        "smmuv3.cmd_pri_resp" | "smmuv3.cmd_resume" => {
            let command = match choices.below(3) {
                0 => smmuv3::Command::PriResp(response(choices, 32)),
                1 => smmuv3::Command::Resume(resume(choices)),
                _ => smmuv3::Command::Unknown(words(choices)),
            };
            same(command, smmuv3::Command::encode, smmuv3::Command::decode);
        }
        "amd.ppr" => {
            let entry = match choices.below(3) {
                0 => PprLogEntry::StopMarker(stop_marker(choices, 16)),
                1 => PprLogEntry::Unknown(words(choices)),
                _ => {
                    let (request, reserved_set) = (request(choices, 16), choices.once());
                    // Bits 51, 52 and 59:57 of the flags 59:48.
                    let other = choices.address(0xe18) as u16;
                    PprLogEntry::Request(PageServiceRequest { request, reserved_set, other })
                }
            };
            same(entry, PprLogEntry::encode, PprLogEntry::decode);
        }
        "amd.complete_ppr" => {
            let command = if choices.below(4) == 0 {
                amd::Command::Unknown(words(choices))
            } else {
                amd::Command::CompletePprRequest(response(choices, 16))
            };
            same(command, amd::Command::encode, amd::Command::decode);
        }
        "amd.event" => same(event_log(choices), EventLogEntry::encode, EventLogEntry::decode),
        "riscv.pq_record" => {
            let record = if choices.below(4) == 0 {
                PageRequestRecord::StopMarker(stop_marker(choices, 24))
            } else {
                PageRequestRecord::Request(request(choices, 24))
            };
            same(record, PageRequestRecord::encode, PageRequestRecord::decode);
        }
        "riscv.ats_prgr" => {
            let command = if choices.below(4) == 0 {
                riscv::Command::Unknown(words(choices))
            } else {
                let (response, segment) = (response(choices, 16), choices.optional(|c| c.number(8) as u8));
                riscv::Command::AtsPrgr(AtsPrgr { response, segment })
            };
            same(command, riscv::Command::encode, riscv::Command::decode);
        }
        "riscv.fq_record" => {
            same(riscv_fault(choices), riscv::FaultRecord::encode, riscv::FaultRecord::decode)
        }
        "virtio_iommu.fault" => {
            let report = Fault {
                reason: FaultReason::new(choices.number(8) as u8),
                reserved: choices.bytes(),
                flags: FaultFlags::from_bits_retain(choices.number(32) as u32),
                endpoint: choices.number(32) as u32,
                reserved1: choices.number(32) as u32,
                address: choices.number(64),
            };
            assert_eq!(Fault::decode(&report.encode()), report);
        }
        format => panic!("no record is {format}"),
    }
}

/// What was encoded is the same when it is decoded.
fn same<T: PartialEq + Debug, const N: usize>(
    value: T,
    encode: impl Fn(&T) -> Result<[u8; N], HwError>,
    decode: impl Fn(&[u8; N]) -> T,
) {
    match encode(&value) {
        Ok(bytes) => assert_eq!(decode(&bytes), value),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn words<const N: usize>(choices: &mut Choices<'_>) -> [u64; N] {
    std::array::from_fn(|_| choices.number(64))
}

pub(crate) fn request(choices: &mut Choices<'_>, rid_bits: u32) -> PageRequest {
    PageRequest {
        rid: choices.number(rid_bits) as u32,
        pasid: choices.optional(|choices| Pasid {
            value: choices.number(20) as u32,
            exec: choices.once(),
            privileged: choices.once(),
        }),
        prgi: choices.number(9) as u16,
        read: choices.once(),
        write: choices.once(),
        last: choices.once(),
        addr: choices.address(PAGE),
    }
}

fn stop_marker(choices: &mut Choices<'_>, rid_bits: u32) -> StopMarker {
    let rid = choices.number(rid_bits) as u32;
    StopMarker { rid, pasid: choices.optional(|choices| choices.number(20) as u32) }
}

pub(crate) fn response(choices: &mut Choices<'_>, rid_bits: u32) -> PrgResponse {
    PrgResponse {
        rid: choices.number(rid_bits) as u32,
        pasid: choices.optional(|choices| choices.number(20) as u32),
        prgi: choices.number(9) as u16,
        code: ResponseCode::new(choices.number(4) as u8),
    }
}

pub(crate) fn resume(choices: &mut Choices<'_>) -> CmdResume {
    let action = [ResumeAction::Retry, ResumeAction::Abort, ResumeAction::RazWi];
    CmdResume {
        stream_id: choices.number(32) as u32,
        stag: choices.number(16) as u16,
        action: action[usize::from(choices.below(3))],
    }
}

fn message(choices: &mut Choices<'_>) {
    let (message, rid, pasid) = if choices.below(4) == 0 {
        let marker = stop_marker(choices, 16);
        let pasid = marker.pasid.map(|value| Pasid { value, ..Pasid::default() });
        (PageRequestMessage::StopMarker(marker), marker.rid, pasid)
    } else {
        let request = request(choices, 16);
        (PageRequestMessage::Request(request), request.rid, request.pasid)
    };
    let decode = |payload: &[u8; 8]| PageRequestMessage::decode(payload, rid as u16, pasid);
    same(message, PageRequestMessage::encode, decode);
}

fn vtd_fault(choices: &mut Choices<'_>) -> vtd::FaultRecord {
    vtd::FaultRecord {
        fault_info: choices.address(PAGE),
        source_id: choices.number(16) as u16,
        pasid: choices.optional(|choices| choices.number(20) as u32),
        exec: choices.once(),
        privileged: choices.once(),
        reason: vtd::FaultReason::new(choices.number(8) as u8),
        address_type: choices.number(2) as u8,
        t1: choices.once(),
        t2: choices.once(),
        fault: choices.once(),
    }
}

fn riscv_fault(choices: &mut Choices<'_>) -> riscv::FaultRecord {
    riscv::FaultRecord {
        cause: choices.number(12) as u16,
        pasid: choices.optional(|choices| choices.number(20) as u32),
        privileged: choices.once(),
        transaction_type: choices.number(6) as u8,
        did: choices.number(24) as u32,
        custom: choices.number(32) as u32,
        reserved: choices.number(32) as u32,
        iotval: choices.number(64),
        iotval2: choices.number(64),
    }
}

fn event_log(choices: &mut Choices<'_>) -> EventLogEntry {
    let device_id = choices.number(16) as u16;
    match choices.below(3) {
        0 => EventLogEntry::IoPageFault(IoPageFault {
            device_id,
            space: match choices.optional(|choices| choices.number(20) as u32) {
                Some(pasid) => AddressSpace::Pasid(pasid),
                None => AddressSpace::Domain(choices.number(16) as u16),
            },
            flags: IoPageFaultFlags::from_bits_retain(choices.address(0xe800_01fe) as u32),
            addr: choices.number(64),
        }),
        1 => EventLogEntry::InvalidPprRequest(InvalidPprRequest {
            device_id,
            pasid: choices.number(20) as u32,
            tag: choices.number(10) as u16,
            flags: choices.number(12) as u16,
            addr: choices.number(64),
        }),
        _ => EventLogEntry::Unknown(words(choices)),
    }
}

fn access(choices: &mut Choices<'_>) -> Access {
    Access { read: choices.once(), instruction: choices.once(), privileged: choices.once() }
}

pub(crate) fn translation_fault(choices: &mut Choices<'_>) -> TranslationFault {
    TranslationFault {
        stag: choices.optional(|choices| choices.number(16) as u16),
        access: access(choices),
        class: Class::new(choices.number(2) as u8),
        ttrnw: choices.once(),
        input_addr: choices.number(64),
        ipa: choices.optional(|choices| choices.address(0x00ff_ffff_ffff_f000)),
        other: if choices.once() { choices.address(0xffff_ec71_7fff_0000) } else { 0 },
    }
}

fn fetch(choices: &mut Choices<'_>) -> Fetch {
    Fetch {
        reason: choices.number(16) as u16,
        gpcf: choices.once(),
        fetch_addr: choices.address(0x00ff_ffff_ffff_fff8),
    }
}

fn event_kind(choices: &mut Choices<'_>) -> Event {
    match choices.below(20) {
        0 => {
            let (reason, access) = (choices.number(16) as u16, access(choices));
            Event::FUut(Uut { reason, access, input_addr: choices.number(64) })
        }
        1 => Event::CBadStreamid,
        2 => Event::FSteFetch(fetch(choices)),
        3 => Event::CBadSte,
        4 => Event::FBadAtsTreq(BadAtsTreq { other: choices.number(64), input_addr: choices.number(64) }),
        5 => Event::FStreamDisabled,
        6 => Event::FTranslForbidden { read: choices.once(), input_addr: choices.number(64) },
        7 => Event::CBadSubstreamid,
        8 => Event::FCdFetch(fetch(choices)),
        9 => Event::CBadCd,
        10 => {
            let Fetch { reason, gpcf, fetch_addr } = fetch(choices);
            let (access, class) = (access(choices), Class::new(choices.number(2) as u8));
            let (stage2, input_addr) = (choices.once(), choices.number(64));
            Event::FWalkEabt(WalkEabt { reason, gpcf, access, stage2, class, input_addr, fetch_addr })
        }
        11 => Event::FTranslation(translation_fault(choices)),
        12 => Event::FAddrSize(translation_fault(choices)),
        13 => Event::FAccess(translation_fault(choices)),
        14 => Event::FPermission(translation_fault(choices)),
        15 => Event::FTlbConflict(TlbConflict {
            reason: choices.number(16) as u16,
            access: access(choices),
            input_addr: choices.number(64),
            ipa: choices.optional(|choices| choices.address(0x00ff_ffff_ffff_f000)),
        }),
        16 => Event::FCfgConflict { reason: choices.number(16) as u16 },
        17 => Event::EPageRequest(PageRequestHint {
            user_exec: choices.once(),
            user_write: choices.once(),
            user_read: choices.once(),
            privileged_exec: choices.once(),
            privileged_write: choices.once(),
            privileged_read: choices.once(),
            span: choices.number(8) as u8,
            input_addr: choices.address(PAGE),
        }),
        18 => Event::FVmsFetch(fetch(choices)),
        _ => Event::Unknown(words(choices)),
    }
}

/// The first word of an unknown event comes back with its stream and substream in it.
fn event(choices: &mut Choices<'_>) {
    let record = EventRecord {
        stream_id: choices.number(32) as u32,
        substream_id: choices.optional(|choices| choices.number(20) as u32),
        event: event_kind(choices),
    };
    let Ok(bytes) = record.encode() else { return };
    let mut decoded = EventRecord::decode(&bytes);
    if let (Event::Unknown([from, ..]), Event::Unknown([w0, ..])) = (record.event, &mut decoded.event) {
        // All but stream, substream and what says that there is one.
        assert_eq!(from & 0x7ff, *w0 & 0x7ff);
        *w0 = from;
    }
    assert_eq!(decoded, record);
}
