//! AMD IOMMU.

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::amd::{
    AddressSpace, Command, EventCode, EventLogEntry, InvalidPprRequest, IoPageFault, IoPageFaultFlags,
    PageServiceRequest, PprLogEntry,
};
use recordfd_uapi::hw::pcie::{PageRequest, Pasid, PrgResponse, StopMarker};

use crate::check::{self, REQUEST, RESPONSE};
use crate::vectors::fields;

#[test]
fn ppr_vectors() {
    let fixed = ["CODE", "GN", "RD"];
    check::vectors("amd.ppr", 2, &fixed, |bytes| {
        let entry = PprLogEntry::decode(bytes);
        let PprLogEntry::Request(PageServiceRequest { request, reserved_set, .. }) = entry else {
            panic!("{entry:?}")
        };
        let pasid = request.pasid.unwrap();
        let found = fields([
            ("DevID", request.rid.into()),
            ("PASID_15_0", (pasid.value & 0xffff).into()),
            ("PRGI", request.prgi.into()),
            ("LAST", request.last.into()),
            ("PASID_19_16", (pasid.value >> 16).into()),
            ("EX", pasid.exec.into()),
            ("RD", request.read.into()),
            ("WR", request.write.into()),
            ("US", (!pasid.privileged).into()),
            ("RZ", reserved_set.into()),
            ("GN", request.pasid.is_some().into()),
            ("CODE", 1_u8.into()),
            ("ADDR", (request.addr >> 12).into()),
        ]);
        (found, entry.encode())
    });
}

#[test]
fn response_vectors() {
    check::vectors("amd.complete_ppr", 4, &["OP", "GN", "PASID", "STATUS"], |bytes| {
        let command = Command::decode(bytes);
        let Command::CompletePprRequest(response) = command else { panic!("{command:?}") };
        let found = fields([
            ("DevID", response.rid.into()),
            ("PASID", response.pasid.unwrap_or(0).into()),
            ("OP", 7_u8.into()),
            ("GN", response.pasid.is_some().into()),
            ("PRGI", response.prgi.into()),
            ("STATUS", response.code.get().into()),
        ]);
        (found, command.encode())
    });
}

#[test]
fn event_vectors() {
    let fixed = ["CODE", "GN", "PASID_19_16"];
    check::vectors("amd.event", 2, &fixed, |bytes| {
        let entry = EventLogEntry::decode(bytes);
        let found = match entry {
            EventLogEntry::IoPageFault(IoPageFault { device_id, space, flags, addr }) => {
                let AddressSpace::Domain(domain) = space else { panic!("{space:?}") };
                let has = |flag| flags.contains(flag).into();
                fields([
                    ("DevID", device_id.into()),
                    ("PASID_19_16", 0_u8.into()),
                    ("DomainID", domain.into()),
                    ("GN", false.into()),
                    ("NX", has(IoPageFaultFlags::NX)),
                    ("US", has(IoPageFaultFlags::US)),
                    ("I", has(IoPageFaultFlags::I)),
                    ("PR", has(IoPageFaultFlags::PR)),
                    ("RW", has(IoPageFaultFlags::RW)),
                    ("PE", has(IoPageFaultFlags::PE)),
                    ("RZ", has(IoPageFaultFlags::RZ)),
                    ("TR", has(IoPageFaultFlags::TR)),
                    ("CODE", entry.code().get().into()),
                    ("ADDR", addr.into()),
                ])
            }
            EventLogEntry::InvalidPprRequest(InvalidPprRequest { device_id, pasid, tag, flags, addr }) => {
                fields([
                    ("DevID", device_id.into()),
                    ("PASID_15_0", (pasid & 0xffff).into()),
                    ("TAG", tag.into()),
                    ("PASID_19_16", (pasid >> 16).into()),
                    ("FLAGS", flags.into()),
                    ("CODE", entry.code().get().into()),
                    ("ADDR", addr.into()),
                ])
            }
            EventLogEntry::Unknown(words) => panic!("{words:x?}"),
        };
        (found, entry.encode())
    });
}

#[test]
fn every_record_means_something() {
    let code = |bytes: &mut [u8; 16], code: u8| bytes[7] = bytes[7] & 0xf | code << 4;
    check::stable(
        |bytes, _| code(bytes, 1),
        PprLogEntry::decode,
        PprLogEntry::encode,
        |item| matches!(item, PprLogEntry::Unknown(_)),
    );
    check::stable(
        |bytes, status| {
            code(bytes, 7);
            bytes[13] = [0, 0x10, 0xf0, 0x20][status as usize % 4];
        },
        Command::decode,
        Command::encode,
        |item| matches!(item, Command::Unknown(_)),
    );
    check::stable(
        |bytes, kind| code(bytes, [2, 9][kind as usize % 2]),
        EventLogEntry::decode,
        EventLogEntry::encode,
        |item| matches!(item, EventLogEntry::Unknown(_)),
    );
}

#[test]
fn stop_marker_has_a_pasid() {
    let marker = PprLogEntry::StopMarker(StopMarker { rid: 0x100, pasid: Some(0xa_bcde) });
    let words = [0x1140_2a00_bcde_0100_u64, 0];
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    assert_eq!(marker.encode(), Ok(bytes));
    assert_eq!(PprLogEntry::decode(&bytes), marker);
    let without = PprLogEntry::StopMarker(StopMarker { rid: 0x100, pasid: None });
    assert_eq!(without.encode(), Err(HwError::Missing { field: "PASID" }));
    let request = PageRequest { read: false, write: false, ..REQUEST };
    let entry = PageServiceRequest { request, ..PageServiceRequest::default() };
    assert_eq!(PprLogEntry::Request(entry).encode(), Err(HwError::StopMarker));
}

#[test]
fn without_a_pasid_a_request_is_a_users() {
    let request = PageRequest { pasid: None, ..REQUEST };
    let entry = PprLogEntry::Request(PageServiceRequest { request, ..PageServiceRequest::default() });
    let bytes = entry.encode().unwrap();
    // RD, WR, US.
    assert_eq!((bytes[6], bytes[7]), (0x64, 0x10));
    // Nor does a supervisor's bit or an execute bit say anything then.
    let mut other = bytes;
    other[6] = 0x26;
    assert_eq!(PprLogEntry::decode(&other), entry);
}

#[test]
fn unconfirmed_flags_are_kept() {
    let entry = PageServiceRequest { request: REQUEST, reserved_set: true, other: 0xe18 };
    let bytes = PprLogEntry::Request(entry).encode().unwrap();
    assert_eq!(PprLogEntry::decode(&bytes), PprLogEntry::Request(entry));
    assert_eq!((bytes[6], bytes[7]), (0xbe, 0x1f));
}

#[test]
fn io_page_fault_of_a_process_has_its_pasid_in_two_parts() {
    let fault = IoPageFault {
        device_id: 0x100,
        space: AddressSpace::Pasid(0xa_bcde),
        flags: IoPageFaultFlags::VCMD | IoPageFaultFlags::VNR | IoPageFaultFlags::TR,
        addr: 0x1234,
    };
    let bytes = EventLogEntry::IoPageFault(fault).encode().unwrap();
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()), 0x2101_bcde_880a_0100);
    assert_eq!(EventLogEntry::decode(&bytes), EventLogEntry::IoPageFault(fault));
}

#[test]
fn other_events_have_their_code() {
    let entry = EventLogEntry::Unknown([0xd000_0000_0000_0001, 7]);
    assert_eq!(entry.code(), EventCode::RMP_FAULT);
    assert_eq!(EventLogEntry::decode(&entry.encode().unwrap()), entry);
}

#[test]
fn what_does_not_fit_is_refused() {
    let encode = |request: &PageRequest| {
        let entry = PageServiceRequest { request: *request, ..PageServiceRequest::default() };
        PprLogEntry::Request(entry).encode()
    };
    assert!(encode(&REQUEST).is_ok());
    let names = ["PASID", "PRGI", "PRGI", "ADDR", "ADDR"];
    let wide = check::wide_requests().into_iter().zip(names);
    check::refused(encode, wide.map(|((request, value), field)| (request, field, value)));
    let wide_pasid = Some(Pasid { value: u32::MAX, ..Pasid::default() });
    check::refused(
        encode,
        [
            (PageRequest { rid: 0x1_0000, ..REQUEST }, "DeviceID", 0x1_0000),
            (PageRequest { pasid: wide_pasid, ..REQUEST }, "PASID", u32::MAX.into()),
        ],
    );
    let encode = |other: &u16| {
        let entry = PageServiceRequest { request: REQUEST, reserved_set: false, other: *other };
        PprLogEntry::Request(entry).encode()
    };
    check::refused(encode, [0x1, 0x4, 0x100, 0x1000].map(|other| (other, "other", other.into())));

    let encode = |response: &PrgResponse| Command::CompletePprRequest(*response).encode();
    let wide = check::wide_responses().into_iter().zip(["PASID", "PRGI"]);
    check::refused(encode, wide.map(|((response, value), field)| (response, field, value)));
    check::refused(encode, [(PrgResponse { rid: 0x1_0000, ..RESPONSE }, "DeviceID", 0x1_0000)]);
    check::codes(|response| encode(&response));

    let fault = |space, flags| {
        let flags = IoPageFaultFlags::from_bits_retain(flags);
        EventLogEntry::IoPageFault(IoPageFault { device_id: 0, space, flags, addr: 0 })
    };
    let request = InvalidPprRequest::default();
    let invalid = EventLogEntry::InvalidPprRequest;
    check::refused(
        EventLogEntry::encode,
        [
            (fault(AddressSpace::Pasid(0x10_0000), 0), "PASID", 0x10_0000),
            (fault(AddressSpace::Domain(1), 0x1), "FLAGS", 0x1),
            (fault(AddressSpace::Domain(1), 0x1000_0000), "FLAGS", 0x1000_0000),
            (invalid(InvalidPprRequest { pasid: 0x10_0000, ..request }), "PASID", 0x10_0000),
            (invalid(InvalidPprRequest { tag: 0x400, ..request }), "TAG", 0x400),
            (invalid(InvalidPprRequest { flags: 0x1000, ..request }), "FLAGS", 0x1000),
        ],
    );
}

#[test]
fn unknown_does_not_disguise_a_known_record() {
    assert_eq!(PprLogEntry::Unknown([1 << 60, 0]).encode(), Err(HwError::Known));
    assert_eq!(Command::Unknown([7 << 60, 0x2000_0000_0000]).encode(), Err(HwError::Known));
    assert_eq!(EventLogEntry::Unknown([9 << 60, 0]).encode(), Err(HwError::Known));
}
