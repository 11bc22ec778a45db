//! Page faults to records and back: they are the same but for what the loss names.

use recordfd_uapi::hw::amd::{PageServiceRequest, PprLogEntry};
use recordfd_uapi::hw::pcie::{PageRequest, PageRequestMessage};
use recordfd_uapi::hw::riscv::PageRequestRecord;
use recordfd_uapi::hw::smmuv3::{EventRecord, PriQueueEntry};
use recordfd_uapi::hw::virtio::Fault;
use recordfd_uapi::hw::vtd::PageRequestDescriptor;
use recordfd_uapi::hw::{GuestPolicy, HwError, Loss};
use recordfd_uapi::{PgFault, PgFaultFlags, PgFaultPerm};

use crate::said::KINDS;
use crate::{Choices, values};

const KNOWN_FLAGS: u32 = 0x3;
const KNOWN_PERM: u32 = 0xf;

pub(crate) fn there_and_back(kind: usize, choices: &mut Choices<'_>) {
    let fault = fault(choices);
    let policy = [GuestPolicy::AsIs, GuestPolicy::Strip, GuestPolicy::Refuse][usize::from(choices.below(3))];
    match KINDS[kind].0 {
        "vtd.page_req_dsc" => {
            let rid = choices.number(16) as u16;
            let converted = PageRequestDescriptor::from_fault(&fault, rid, policy);
            judge(&fault, converted, |descriptor| {
                let decoded = PageRequestDescriptor::decode(&descriptor.encode().unwrap());
                let PageRequestDescriptor::Request(request) = decoded else { panic!("{decoded:?}") };
                let pasid = request.pasid.unwrap_or_default();
                if policy != GuestPolicy::AsIs {
                    assert!(!(pasid.privileged && (request.read || request.write)));
                    assert!(!(pasid.exec && request.read));
                }
                assert_eq!(request.rid, u32::from(rid));
                request.to_fault(fault.dev_id, 0)
            });
        }
        "amd.ppr" => {
            let converted = PprLogEntry::from_fault(&fault, choices.number(16) as u16, policy);
            judge(&fault, converted, |entry| {
                let decoded = PprLogEntry::decode(&entry.encode().unwrap());
                let PprLogEntry::Request(PageServiceRequest { request, reserved_set: false, other: 0 }) =
                    decoded
                else {
                    panic!("{decoded:?}")
                };
                assert!(policy == GuestPolicy::AsIs || request.pasid.is_some_and(|pasid| pasid.value != 0));
                request.to_fault(fault.dev_id, 0)
            });
        }
        "smmuv3.event" => {
            judge(&fault, EventRecord::from_fault(&fault, choices.number(32) as u32), |record| {
                let (back, loss) =
                    EventRecord::decode(&record.encode().unwrap()).to_fault(fault.dev_id, 0).unwrap();
                assert_eq!(loss, Loss::empty());
                back
            });
            stalled(choices);
        }
        "virtio_iommu.fault" => {
            let converted = Ok(Fault::from_fault(&fault, choices.number(32) as u32));
            judge(&fault, converted, |report| {
                let (back, loss) = Fault::decode(&report.encode()).to_fault(fault.dev_id, 0).unwrap();
                assert_eq!(loss, Loss::empty());
                back
            });
            reported(&choices.bytes());
        }
        format => {
            let converted = PageRequest::from_fault(&fault, choices.number(16) as u32 & 0xffff);
            judge(&fault, converted, |request| {
                carried(format, request);
                request.to_fault(fault.dev_id, 0)
            });
            asked(choices);
        }
    }
}

fn fault(choices: &mut Choices<'_>) -> PgFault {
    PgFault {
        flags: PgFaultFlags::from_bits_retain(choices.number(3) as u32),
        dev_id: choices.number(32) as u32,
        pasid: choices.number(20) as u32,
        grpid: choices.number(9) as u32,
        perm: PgFaultPerm::from_bits_retain(choices.number(4) as u32),
        reserved: choices.optional(|choices| choices.number(32) as u32).unwrap_or(0),
        addr: choices.address(!0xfff),
        length: choices.optional(|choices| choices.number(32) as u32).unwrap_or(0),
        cookie: choices.optional(|choices| choices.number(32) as u32).unwrap_or(0),
    }
}

/// What cannot be converted is refused for a true reason, and the rest comes back but for the loss.
fn judge<T>(fault: &PgFault, converted: Result<(T, Loss), HwError>, back: impl FnOnce(&T) -> PgFault) {
    let (flags, perm) = (fault.flags, fault.perm);
    let (read, write) = (perm.contains(PgFaultPerm::READ), perm.contains(PgFaultPerm::WRITE));
    let has_pasid = flags.contains(PgFaultFlags::PASID_VALID);
    let last = flags.contains(PgFaultFlags::LAST_PAGE);
    match converted {
        Ok((record, loss)) => {
            assert!(!loss.contains(Loss::COOKIE) || fault.cookie != 0);
            assert_eq!(but(back(&record), loss), but(*fault, loss), "{loss:?}");
        }
        Err(HwError::StopMarker) => assert!(last && !read && !write),
        Err(HwError::DoesNotFit { field: "PASID" | "SubstreamID", value }) => {
            assert!(has_pasid && value == u64::from(fault.pasid) && value > 0xf_ffff);
        }
        Err(HwError::DoesNotFit { field: "PRGI", value }) => {
            assert!(value == u64::from(fault.grpid) && value > 0x1ff);
        }
        Err(HwError::DoesNotFit { field: "STAG", value }) => {
            assert!(value == u64::from(fault.grpid) && value > 0xffff);
        }
        Err(HwError::Contradiction { field, .. }) => match field {
            "RnW" => assert_eq!(read, write),
            "Stall" => assert!(!last),
            _ => panic!("{field}"),
        },
        Err(HwError::GuestRefuses { what }) => match what {
            Loss::PASID => assert!(!has_pasid || fault.pasid == 0),
            _ => assert!(has_pasid && (Loss::EXEC | Loss::PRIV).contains(what) && !what.is_empty()),
        },
        Err(error) => panic!("{error}"),
    }
}

/// The fault without what the loss names.
fn but(fault: PgFault, loss: Loss) -> PgFault {
    let unless = |what: Loss, value: u32, instead: u32| if loss.contains(what) { instead } else { value };
    // NEEDS_PASID is of the answer: no record has it, and nothing is lost with it.
    let mut flags = fault.flags.bits() & !PgFaultFlags::NEEDS_PASID.bits();
    let mut perm = fault.perm.bits();
    flags = unless(Loss::UNKNOWN, flags, flags & KNOWN_FLAGS);
    flags = unless(Loss::PASID, flags, flags & !PgFaultFlags::PASID_VALID.bits());
    flags = unless(Loss::LAST, flags, flags | PgFaultFlags::LAST_PAGE.bits());
    perm = unless(Loss::UNKNOWN, perm, perm & KNOWN_PERM);
    perm = unless(Loss::EXEC, perm, perm & !PgFaultPerm::EXEC.bits());
    perm = unless(Loss::PRIV, perm, perm & !PgFaultPerm::PRIV.bits());
    PgFault {
        flags: PgFaultFlags::from_bits_retain(flags),
        dev_id: fault.dev_id,
        // Says nothing without its flag.
        pasid: if flags & PgFaultFlags::PASID_VALID.bits() != 0 { fault.pasid } else { 0 },
        grpid: unless(Loss::GROUP, fault.grpid, 0),
        perm: PgFaultPerm::from_bits_retain(perm),
        reserved: unless(Loss::UNKNOWN, fault.reserved, 0),
        addr: if loss.contains(Loss::ADDR) { fault.addr & !0xfff } else { fault.addr },
        length: unless(Loss::LENGTH, fault.length, 0),
        cookie: unless(Loss::COOKIE, fault.cookie, 0),
    }
}

/// A request that a fault became is carried as it is.
fn carried(format: &str, request: &PageRequest) {
    match format {
        "smmuv3.priq" => {
            let entry = PriQueueEntry::Request(*request);
            assert_eq!(PriQueueEntry::decode(&entry.encode().unwrap()), entry);
        }
        "riscv.pq_record" => {
            let record = PageRequestRecord::Request(*request);
            assert_eq!(PageRequestRecord::decode(&record.encode().unwrap()), record);
        }
        _ => {
            let message = PageRequestMessage::Request(*request);
            let payload = message.encode().unwrap();
            assert_eq!(PageRequestMessage::decode(&payload, request.rid as u16, request.pasid), message);
        }
    }
}

/// A request as its queue has it: the fault becomes the same request.
fn asked(choices: &mut Choices<'_>) {
    let Ok(bytes) = PriQueueEntry::Request(values::request(choices, 32)).encode() else { return };
    let PriQueueEntry::Request(request) = PriQueueEntry::decode(&bytes) else { panic!("it was a request") };
    match PageRequest::from_fault(&request.to_fault(1, 0), request.rid) {
        Ok(again) => assert_eq!(again, (request, Loss::empty())),
        Err(HwError::StopMarker) => assert!(request.last && !request.read && !request.write),
        Err(error) => panic!("{error}"),
    }
}

/// An event, stalled or not: the fault becomes the same event unless the loss tells of more.
fn stalled(choices: &mut Choices<'_>) {
    let record = EventRecord::decode(&choices.bytes());
    let stag = record.event.translation_fault().and_then(|fault| fault.stag);
    match record.to_fault(7, 9) {
        Ok((fault, loss)) => {
            assert_eq!((fault.dev_id, fault.cookie, Some(fault.grpid)), (7, 9, stag.map(u32::from)));
            let (again, lost) = EventRecord::from_fault(&fault, record.stream_id).unwrap();
            assert_eq!(lost, Loss::COOKIE);
            assert_eq!(again == record, loss.is_empty());
            assert!(Loss::DETAIL.contains(loss));
        }
        Err(error) => assert_eq!((error, stag), (HwError::NoPageFault, None)),
    }
}

/// A report of any bytes: likewise.
fn reported(bytes: &[u8; 24]) {
    let report = Fault::decode(bytes);
    match report.to_fault(7, 9) {
        Ok((fault, loss)) => {
            let (again, lost) = Fault::from_fault(&fault, report.endpoint);
            assert_eq!(lost, Loss::COOKIE);
            assert_eq!(again == report, loss.is_empty());
            assert!(Loss::DETAIL.contains(loss));
        }
        // Bit 8 of the flags is ADDRESS.
        Err(error) => {
            assert_eq!(error, HwError::NoPageFault);
            assert!(bytes[1..4] != [0; 3] || bytes[5] & 1 == 0);
        }
    }
}
