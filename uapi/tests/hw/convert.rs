//! Page faults to every record and back.

use recordfd_uapi::hw::amd::{self, PageServiceRequest, PprLogEntry};
use recordfd_uapi::hw::pcie::{PageRequest, PageRequestMessage, Pasid, PrgResponse, ResponseCode};
use recordfd_uapi::hw::riscv::PageRequestRecord;
use recordfd_uapi::hw::smmuv3::{
    Access, Class, CmdResume, Event, EventRecord, PriQueueEntry, ResumeAction, TranslationFault,
};
use recordfd_uapi::hw::virtio::{Fault, FaultFlags, FaultReason};
use recordfd_uapi::hw::vtd::PageRequestDescriptor;
use recordfd_uapi::hw::{GuestPolicy, HwError, Loss};
use recordfd_uapi::{PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm};

use crate::random::Random;
use crate::vectors;

const READ: PgFaultPerm = PgFaultPerm::READ;
const WRITE: PgFaultPerm = PgFaultPerm::WRITE;
const EXEC: PgFaultPerm = PgFaultPerm::EXEC;
const PRIV: PgFaultPerm = PgFaultPerm::PRIV;
const LAST: PgFaultFlags = PgFaultFlags::LAST_PAGE;
const PASID: PgFaultFlags = PgFaultFlags::PASID_VALID;

/// A fault that PCIe can say without loss.
const FAULT: PgFault = PgFault {
    flags: PASID.union(LAST),
    dev_id: 7,
    pasid: 0xf_ffff,
    grpid: 0x1ff,
    perm: READ,
    reserved: 0,
    addr: 0x7f12_3456_7000,
    length: 0,
    cookie: 0,
};

/// What a record says of a page fault, with `generic`'s requester.
fn fault_of(format: &str, bytes: &[u8]) -> (u32, PgFault) {
    fn sized<const N: usize>(bytes: &[u8]) -> &[u8; N] {
        bytes.try_into().unwrap()
    }
    let request = match format {
        "vtd.page_req_dsc" => match PageRequestDescriptor::decode(sized(bytes)) {
            PageRequestDescriptor::Request(request) => request,
            other => panic!("{other:?}"),
        },
        "smmuv3.priq" => match PriQueueEntry::decode(sized(bytes)) {
            PriQueueEntry::Request(request) => request,
            other => panic!("{other:?}"),
        },
        "amd.ppr" => match PprLogEntry::decode(sized(bytes)) {
            PprLogEntry::Request(PageServiceRequest { request, .. }) => request,
            other => panic!("{other:?}"),
        },
        "riscv.pq_record" => match PageRequestRecord::decode(sized(bytes)) {
            PageRequestRecord::Request(request) => request,
            other => panic!("{other:?}"),
        },
        "smmuv3.event" => {
            let record = EventRecord::decode(sized(bytes));
            let (fault, loss) = record.to_fault(7, 0).unwrap();
            assert_eq!(loss, Loss::empty());
            return (record.stream_id, fault);
        }
        _ => panic!("no page request is {format}"),
    };
    (request.rid, request.to_fault(7, 0))
}

/// The bytes of the record that a fault becomes.
fn bytes_of(format: &str, fault: &PgFault, rid: u32) -> Vec<u8> {
    let request = || {
        let (request, loss) = PageRequest::from_fault(fault, rid).unwrap();
        assert_eq!(loss, Loss::empty());
        request
    };
    let as_is = GuestPolicy::AsIs;
    match format {
        "vtd.page_req_dsc" => {
            let (descriptor, _) = PageRequestDescriptor::from_fault(fault, rid as u16, as_is).unwrap();
            descriptor.encode().unwrap().to_vec()
        }
        "smmuv3.priq" => PriQueueEntry::Request(request()).encode().unwrap().to_vec(),
        "amd.ppr" => {
            let (entry, _) = PprLogEntry::from_fault(fault, rid as u16, as_is).unwrap();
            entry.encode().unwrap().to_vec()
        }
        "riscv.pq_record" => PageRequestRecord::Request(request()).encode().unwrap().to_vec(),
        "smmuv3.event" => EventRecord::from_fault(fault, rid).unwrap().0.encode().unwrap().to_vec(),
        _ => panic!("no page request is {format}"),
    }
}

#[test]
fn vectors_are_the_faults_they_state() {
    let mut checked = 0;
    for vector in vectors::all() {
        let Some(generic) = vector.generic else { continue };
        let number = |key: &str| u32::try_from(generic[key].as_u64().unwrap()).unwrap();
        let flags = generic["flags"].as_array().unwrap().iter();
        let flags = flags.map(|flag| PgFaultFlags::from_name(flag.as_str().unwrap()).unwrap());
        let perm = generic["perm"].as_str().unwrap().chars().map(|perm| match perm {
            'r' => READ,
            'w' => WRITE,
            'x' => EXEC,
            'p' => PRIV,
            _ => panic!("{perm}"),
        });
        let expected = PgFault {
            flags: flags.collect(),
            dev_id: 7,
            pasid: number("pasid"),
            grpid: number("grpid"),
            perm: perm.collect(),
            reserved: 0,
            addr: vectors::number(generic["addr"].as_str().unwrap()),
            length: number("length"),
            cookie: number("cookie"),
        };
        let rid = u32::from_str_radix(generic["rid"].as_str().unwrap(), 16).unwrap();
        let name = format!("{} {}", vector.format, vector.name);
        assert_eq!(fault_of(&vector.format, &vector.bytes), (rid, expected), "{name}");
        let again = bytes_of(&vector.format, &expected, rid);
        assert_eq!(again, vector.bytes, "{name}");
        checked += 1;
    }
    assert_eq!(checked, 10);
}

/// The fault with what the loss names taken out on both sides.
fn without(mut fault: PgFault, loss: Loss) -> PgFault {
    if loss.contains(Loss::ADDR) {
        fault.addr &= !0xfff;
    }
    for (what, perm) in [(Loss::EXEC, EXEC), (Loss::PRIV, PRIV)] {
        if loss.contains(what) {
            fault.perm -= perm;
        }
    }
    if loss.contains(Loss::LENGTH) {
        fault.length = 0;
    }
    if loss.contains(Loss::COOKIE) {
        fault.cookie = 0;
    }
    if loss.contains(Loss::PASID) {
        fault.flags -= PASID;
    }
    if loss.contains(Loss::LAST) {
        fault.flags |= LAST;
    }
    if loss.contains(Loss::GROUP) {
        fault.grpid = 0;
    }
    if loss.contains(Loss::UNKNOWN) {
        fault.flags &= PASID | LAST;
        fault.perm &= READ | WRITE | EXEC | PRIV;
        fault.reserved = 0;
    }
    // It is of the answer, and no record has it.
    fault.flags -= PgFaultFlags::NEEDS_PASID;
    // Says nothing without its flag.
    if !fault.flags.contains(PASID) {
        fault.pasid = 0;
    }
    fault
}

/// A fault of mostly plausible fields.
fn random_fault(random: &mut Random) -> PgFault {
    let mut sometimes = |value: u64| if random.next() >> 40 & 7 == 0 { value } else { 0 };
    let (unknown, length, cookie) = (sometimes(0xf0), sometimes(64), sometimes(9));
    let (wide, low) = (sometimes(0x10_0000), sometimes(0xabc));
    let (narrow, bits) = (random.next() >> 20, random.next() >> 20);
    PgFault {
        flags: PgFaultFlags::from_bits_retain((bits & 3 | bits >> 10 & 4 | unknown) as u32),
        dev_id: 7,
        pasid: (narrow & 0xf_ffff | wide) as u32,
        grpid: (narrow >> 20 & 0x3ff) as u32,
        perm: PgFaultPerm::from_bits_retain((bits >> 2 & 0xf | unknown) as u32),
        reserved: unknown as u32,
        addr: random.next() & !0xfff | low,
        length: length as u32,
        cookie: cookie as u32,
    }
}

#[test]
fn there_and_back_is_the_same_but_for_the_loss() {
    let mut random = Random::new();
    let (mut requests, mut stalls, mut lossless) = (0, 0, 0);
    for _ in 0..100_000 {
        let fault = random_fault(&mut random);
        let same = |back: PgFault, loss: Loss| {
            assert_eq!(without(back, loss), without(fault, loss), "{fault:?}");
        };
        match PageRequest::from_fault(&fault, 0x100) {
            Ok((request, loss)) => {
                same(request.to_fault(7, 0), loss);
                // Every queue carries it as it is.
                let record = PageRequestDescriptor::Request(request);
                assert_eq!(PageRequestDescriptor::decode(&record.encode().unwrap()), record);
                let record = PriQueueEntry::Request(request);
                assert_eq!(PriQueueEntry::decode(&record.encode().unwrap()), record);
                let record = PageRequestRecord::Request(request);
                assert_eq!(PageRequestRecord::decode(&record.encode().unwrap()), record);
                let entry = PageServiceRequest { request, reserved_set: false, other: 0 };
                let record = PprLogEntry::Request(entry);
                assert_eq!(PprLogEntry::decode(&record.encode().unwrap()), record);
                let record = PageRequestMessage::Request(request);
                let payload = record.encode().unwrap();
                assert_eq!(PageRequestMessage::decode(&payload, 0x100, request.pasid), record);
                requests += 1;
                lossless += u32::from(loss.is_empty());
            }
            Err(HwError::StopMarker) => {
                assert!(fault.flags.contains(LAST) && !fault.perm.intersects(READ | WRITE), "{fault:?}");
            }
            Err(HwError::DoesNotFit { field: "PASID", value }) => assert!(value > 0xf_ffff),
            Err(HwError::DoesNotFit { field: "PRGI", value }) => assert!(value > 0x1ff),
            Err(error) => panic!("{error}: {fault:?}"),
        }
        match EventRecord::from_fault(&fault, 0x100) {
            Ok((record, loss)) => {
                let decoded = EventRecord::decode(&record.encode().unwrap());
                assert_eq!(decoded, record);
                let (back, back_loss) = decoded.to_fault(7, 0).unwrap();
                assert_eq!(back_loss, Loss::empty());
                assert!(!loss.intersects(Loss::ADDR | Loss::PRIV | Loss::EXEC | Loss::GROUP));
                same(back, loss);
                stalls += 1;
            }
            Err(HwError::Contradiction { .. }) => {
                let both = fault.perm.contains(READ) == fault.perm.contains(WRITE);
                assert!(both || !fault.flags.contains(LAST), "{fault:?}");
            }
            Err(HwError::DoesNotFit { field: "SubstreamID", value }) => assert!(value > 0xf_ffff),
            Err(error) => panic!("{error}: {fault:?}"),
        }
        let (report, loss) = Fault::from_fault(&fault, 0x100);
        let (back, back_loss) = Fault::decode(&report.encode()).to_fault(7, 0).unwrap();
        assert_eq!(back_loss, Loss::empty());
        same(back, loss);
    }
    assert!(requests > 20_000 && stalls > 5_000 && lossless > 1_000, "{requests} {stalls} {lossless}");
}

#[test]
fn loss_is_named() {
    let losses = |fault| PageRequest::from_fault(&fault, 1).unwrap().1;
    assert_eq!(losses(FAULT), Loss::empty());
    assert_eq!(losses(PgFault { addr: 0x1001, ..FAULT }), Loss::ADDR);
    assert_eq!(losses(PgFault { length: 1, cookie: 2, ..FAULT }), Loss::LENGTH | Loss::COOKIE);
    assert_eq!(losses(PgFault { perm: READ | EXEC | PRIV, ..FAULT }), Loss::empty());
    let no_pasid = PgFault { flags: LAST, perm: READ | EXEC | PRIV, ..FAULT };
    assert_eq!(losses(no_pasid), Loss::EXEC | Loss::PRIV);
    for unknown in [
        PgFault { reserved: 1, ..FAULT },
        PgFault { flags: FAULT.flags | PgFaultFlags::from_bits_retain(8), ..FAULT },
        PgFault { perm: READ | PgFaultPerm::from_bits_retain(0x10), ..FAULT },
    ] {
        assert_eq!(losses(unknown), Loss::UNKNOWN);
    }
    // Linux sets it with every PASID of Intel and AMD.
    let needs_pasid = PgFault { flags: PASID | LAST | PgFaultFlags::NEEDS_PASID, ..FAULT };
    assert_eq!(losses(needs_pasid), Loss::empty());
    assert_eq!(EventRecord::from_fault(&needs_pasid, 1).unwrap().1, Loss::empty());
    assert_eq!(Fault::from_fault(&needs_pasid, 1).1, Loss::PASID | Loss::GROUP);
    let fault = PgFault { flags: PASID, perm: WRITE | PRIV, ..FAULT };
    let (_, loss) = Fault::from_fault(&fault, 1);
    assert_eq!(loss, Loss::PASID | Loss::PRIV | Loss::LAST | Loss::GROUP);
}

#[test]
fn what_no_request_can_say_is_refused() {
    let refused = |fault| PageRequest::from_fault(&fault, 1).unwrap_err();
    // The tag of a stall, one above the index's 9 bits.
    let wide = PgFault { grpid: 0x200, ..FAULT };
    assert_eq!(refused(wide), HwError::DoesNotFit { field: "PRGI", value: 0x200 });
    let wide = PgFault { pasid: 0x10_0000, ..FAULT };
    assert_eq!(refused(wide), HwError::DoesNotFit { field: "PASID", value: 0x10_0000 });
    for perm in [PgFaultPerm::empty(), EXEC, PRIV] {
        for flags in [LAST, LAST | PASID] {
            assert_eq!(refused(PgFault { flags, perm, ..FAULT }), HwError::StopMarker);
        }
        assert!(PageRequest::from_fault(&PgFault { flags: PASID, perm, ..FAULT }, 1).is_ok());
    }
    let stall = |fault| EventRecord::from_fault(&fault, 1).map(|(record, _)| record);
    assert!(stall(PgFault { grpid: 0xffff, ..FAULT }).is_ok());
    let wide = PgFault { grpid: 0x1_0000, ..FAULT };
    assert_eq!(stall(wide), Err(HwError::DoesNotFit { field: "STAG", value: 0x1_0000 }));
    // As Linux reads it: an instruction fetch that writes.
    assert!(stall(PgFault { perm: WRITE | EXEC, ..FAULT }).is_ok());
    for perm in [PgFaultPerm::empty(), READ | WRITE, EXEC] {
        let result = stall(PgFault { perm, ..FAULT });
        assert!(matches!(result, Err(HwError::Contradiction { .. })), "{perm:?}: {result:?}");
    }
    let more = stall(PgFault { flags: PASID, ..FAULT });
    assert!(matches!(more, Err(HwError::Contradiction { field: "Stall", .. })), "{more:?}");
}

#[test]
fn vtd_guest_is_spared_what_it_refuses() {
    let convert = |perm, policy| {
        let fault = PgFault { perm, ..FAULT };
        PageRequestDescriptor::from_fault(&fault, 1, policy).map(|(descriptor, loss)| match descriptor {
            PageRequestDescriptor::Request(PageRequest { pasid: Some(pasid), .. }) => {
                (pasid.exec, pasid.privileged, loss)
            }
            other => panic!("{other:?}"),
        })
    };
    let none = Loss::empty();
    for (perm, objected) in [
        (READ, none),
        (READ | WRITE, none),
        (WRITE | EXEC, none),
        (READ | EXEC, Loss::EXEC),
        (READ | PRIV, Loss::PRIV),
        (WRITE | PRIV, Loss::PRIV),
        (WRITE | EXEC | PRIV, Loss::PRIV),
        (READ | EXEC | PRIV, Loss::EXEC | Loss::PRIV),
    ] {
        let (exec, privileged) = (perm.contains(EXEC), perm.contains(PRIV));
        assert_eq!(convert(perm, GuestPolicy::AsIs), Ok((exec, privileged, none)));
        let (no_exec, no_priv) = (objected.contains(Loss::EXEC), objected.contains(Loss::PRIV));
        let stripped = (exec && !no_exec, privileged && !no_priv, objected);
        assert_eq!(convert(perm, GuestPolicy::Strip), Ok(stripped), "{perm:?}");
        let refused = if objected.is_empty() {
            Ok((exec, privileged, none))
        } else {
            Err(HwError::GuestRefuses { what: objected })
        };
        assert_eq!(convert(perm, GuestPolicy::Refuse), refused, "{perm:?}");
    }
    // Without a PASID there is nothing left to object to.
    let fault = PgFault { flags: LAST, perm: READ | EXEC | PRIV, ..FAULT };
    let (_, loss) = PageRequestDescriptor::from_fault(&fault, 1, GuestPolicy::Refuse).unwrap();
    assert_eq!(loss, Loss::EXEC | Loss::PRIV);
}

#[test]
fn amd_guest_is_spared_what_it_refuses() {
    let refused = Err(HwError::GuestRefuses { what: Loss::PASID });
    for (flags, pasid, expected) in
        [(PASID | LAST, 1, Ok(Loss::empty())), (PASID | LAST, 0, refused), (LAST, 0, refused)]
    {
        let fault = PgFault { flags, pasid, ..FAULT };
        let convert = |policy| amd::PprLogEntry::from_fault(&fault, 1, policy).map(|(_, loss)| loss);
        assert_eq!(convert(GuestPolicy::AsIs), Ok(Loss::empty()));
        assert_eq!(convert(GuestPolicy::Strip), expected);
        assert_eq!(convert(GuestPolicy::Refuse), expected);
    }
}

#[test]
fn event_that_is_no_plain_stall_says_so() {
    let fault = TranslationFault {
        stag: Some(1),
        access: Access { read: true, ..Access::default() },
        input_addr: 0x1234,
        ..TranslationFault::default()
    };
    let convert = |event| {
        let record = EventRecord { stream_id: 1, substream_id: None, event };
        record.to_fault(7, 9).map(|(fault, loss)| (fault.perm, fault.cookie, loss))
    };
    assert_eq!(convert(Event::FTranslation(fault)), Ok((READ, 9, Loss::empty())));
    for event in [
        Event::FPermission(fault),
        Event::FTranslation(TranslationFault { class: Class::TT, ..fault }),
        Event::FTranslation(TranslationFault { ipa: Some(0), ..fault }),
        Event::FTranslation(TranslationFault { other: 1 << 36, ..fault }),
    ] {
        assert_eq!(convert(event), Ok((READ, 9, Loss::DETAIL)));
    }
    let no_stall = TranslationFault { stag: None, ..fault };
    assert_eq!(convert(Event::FTranslation(no_stall)), Err(HwError::NoPageFault));
    assert_eq!(convert(Event::CBadSte), Err(HwError::NoPageFault));
}

#[test]
fn virtio_report_that_says_more_or_less() {
    let (report, _) = Fault::from_fault(&FAULT, 1);
    let convert = |report: Fault| report.to_fault(7, 0).map(|(fault, loss)| (fault.addr, loss));
    assert_eq!(convert(report), Ok((FAULT.addr, Loss::empty())));
    for more in [
        Fault { reason: FaultReason::DOMAIN, ..report },
        Fault { flags: report.flags | FaultFlags::from_bits_retain(8), ..report },
        Fault { reserved1: 1, ..report },
    ] {
        assert_eq!(convert(more), Ok((FAULT.addr, Loss::DETAIL)));
    }
    let no_address = Fault { flags: FaultFlags::READ, ..report };
    assert_eq!(convert(no_address), Err(HwError::NoPageFault));
    assert_eq!(convert(Fault { reserved: [0, 0, 1], ..report }), Err(HwError::NoPageFault));
}

#[test]
fn answers_there_and_back() {
    let (success, invalid) = (PageResponseCode::SUCCESS, PageResponseCode::INVALID);
    let failure = PageResponseCode::new(2);
    for (answer, code, action) in [
        (success, ResponseCode::SUCCESS, ResumeAction::Retry),
        (invalid, ResponseCode::INVALID_REQUEST, ResumeAction::Abort),
        (failure, ResponseCode::RESPONSE_FAILURE, ResumeAction::Abort),
    ] {
        let response = PageResponse { cookie: 3, code: answer };
        let expected = PrgResponse { rid: 1, pasid: Some(2), prgi: 4, code };
        assert_eq!(PrgResponse::from_response(&response, 1, Some(2), 4), Ok(expected));
        let expected = CmdResume { stream_id: 1, stag: 4, action };
        assert_eq!(CmdResume::from_response(&response, 1, 4), Ok(expected));
    }
    for code in [3, 0xf, u32::MAX] {
        let response = PageResponse { cookie: 3, code: PageResponseCode::new(code) };
        assert_eq!(PrgResponse::from_response(&response, 1, None, 4), Err(HwError::Code { code }));
        assert_eq!(CmdResume::from_response(&response, 1, 4), Err(HwError::Code { code }));
    }
    for code in 0..=0xf {
        let response = PrgResponse { rid: 1, pasid: None, prgi: 4, code: ResponseCode::new(code) };
        let (code, loss) = match code {
            0 => (success, Loss::empty()),
            1 => (invalid, Loss::empty()),
            _ => (invalid, Loss::PRI_DISABLED),
        };
        assert_eq!(response.to_response(9), (PageResponse { cookie: 9, code }, loss));
    }
    for (action, code, loss) in [
        (ResumeAction::Retry, success, Loss::empty()),
        (ResumeAction::Abort, invalid, Loss::empty()),
        (ResumeAction::RazWi, invalid, Loss::RAZ_WI),
    ] {
        let resume = CmdResume { stream_id: 1, stag: 2, action };
        assert_eq!(resume.to_response(9), (PageResponse { cookie: 9, code }, loss));
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let request =
        PageRequest { pasid: Some(Pasid { value: 1 << 20, ..Pasid::default() }), ..Default::default() };
    let error = PageRequestRecord::Request(request).encode().unwrap_err();
    assert_eq!((error.to_string().as_str(), error.errno()), ("0x100000 does not fit field PID", 22));
    let refused = HwError::GuestRefuses { what: Loss::EXEC | Loss::PRIV };
    assert_eq!(refused.to_string(), "guest refuses Loss(EXEC | PRIV)");
}
