//! Intel VT-d.

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::pcie::{PageRequest, Pasid, PrgResponse, StopMarker};
use recordfd_uapi::hw::vtd::{FaultReason, FaultRecord, InvalidationDescriptor, PageRequestDescriptor};

use crate::check::{self, REQUEST, RESPONSE};
use crate::random::Random;
use crate::vectors::{Fields, fields};

fn request_fields(descriptor: &PageRequestDescriptor) -> Fields {
    let request = match *descriptor {
        PageRequestDescriptor::Request(request) => request,
        PageRequestDescriptor::StopMarker(StopMarker { rid, pasid }) => {
            let pasid = pasid.map(|value| Pasid { value, ..Pasid::default() });
            PageRequest { rid, pasid, last: true, ..PageRequest::default() }
        }
        PageRequestDescriptor::Unknown(words) => panic!("{words:x?}"),
    };
    let pasid = request.pasid.unwrap_or_default();
    fields([
        ("TYPE", 1_u8.into()),
        ("PP", request.pasid.is_some().into()),
        ("RID", request.rid.into()),
        ("PASID", pasid.value.into()),
        ("EXR", pasid.exec.into()),
        ("PMR", pasid.privileged.into()),
        ("RDR", request.read.into()),
        ("WRR", request.write.into()),
        ("LPIG", request.last.into()),
        ("PRGI", request.prgi.into()),
        ("ADDR", (request.addr >> 12).into()),
    ])
}

#[test]
fn page_request_vectors() {
    // The index and the address of a Stop Marker are reserved.
    let fixed = ["TYPE", "PP", "EXR", "PMR", "RDR", "WRR", "LPIG", "PRGI", "ADDR"];
    check::vectors("vtd.page_req_dsc", 3, &fixed, |bytes| {
        let descriptor = PageRequestDescriptor::decode(bytes);
        (request_fields(&descriptor), descriptor.encode())
    });
}

#[test]
fn response_vectors() {
    let fixed = ["TYPE_3_0", "TYPE_6_4", "PP", "RC", "PASID"];
    check::vectors("vtd.qi_page_group_response", 3, &fixed, |bytes| {
        let descriptor = InvalidationDescriptor::decode(bytes);
        let InvalidationDescriptor::PageGroupResponse(response) = descriptor else {
            panic!("{descriptor:?}")
        };
        let found = fields([
            ("TYPE_3_0", 9_u8.into()),
            ("PP", response.pasid.is_some().into()),
            ("TYPE_6_4", 0_u8.into()),
            ("RC", response.code.get().into()),
            ("RID", response.rid.into()),
            ("PASID", response.pasid.unwrap_or(0).into()),
            ("PRGI", response.prgi.into()),
        ]);
        (found, descriptor.encode())
    });
}

#[test]
fn fault_vectors() {
    check::vectors("vtd.frcd", 3, &["PP", "PV"], |bytes| {
        let record = FaultRecord::decode(bytes);
        let found = fields([
            ("FI", (record.fault_info >> 12).into()),
            ("SID", record.source_id.into()),
            ("T2", record.t2.into()),
            ("PRIV", record.privileged.into()),
            ("EXE", record.exec.into()),
            ("PP", record.pasid.is_some().into()),
            ("FR", record.reason.get().into()),
            ("PV", record.pasid.unwrap_or(0).into()),
            ("AT", record.address_type.into()),
            ("T1", record.t1.into()),
            ("F", record.fault.into()),
        ]);
        (found, record.encode())
    });
}

#[test]
fn reasons_have_the_names_of_linux_and_qemu() {
    for (number, name) in [
        (0x01, "ROOT_NOT_PRESENT"),
        (0x06, "NO_READ"),
        (0x0d, "BLOCKED_BY_TYPE"),
        (0x0e, "INTERRUPT_RANGE"),
        (0x20, "IR_REQUEST_RESERVED"),
        (0x26, "IR_SOURCE_ID"),
        (0x31, "SM_TTM_PASID"),
        (0x47, "SM_NO_PAGE_REQUESTS"),
        (0x50, "PASID_DIRECTORY_ACCESS"),
        (0x58, "PASID_TABLE_ACCESS"),
        (0x59, "PASID_NOT_PRESENT"),
        (0x5a, "PASID_RESERVED"),
        (0x5b, "PASID_INVALID"),
        (0x71, "FS_NOT_PRESENT"),
        (0x80, "FS_NOT_CANONICAL"),
        (0x87, "SM_INTERRUPT_RANGE"),
        (0x90, "FS_BIT_UPDATE"),
        (0x0f, "FaultReason(0xf)"),
        (0x91, "FaultReason(0x91)"),
    ] {
        assert_eq!(format!("{:?}", FaultReason::new(number)), name);
    }
    let named = (0..=u8::MAX).filter(|number| !format!("{:?}", FaultReason::new(*number)).contains('('));
    // 14 of legacy mode, 7 of interrupt remapping, 46 of scalable mode.
    assert_eq!(named.count(), 67);
}

#[test]
fn every_record_means_something() {
    check::stable(
        |bytes, _| bytes[0] = 1,
        PageRequestDescriptor::decode,
        PageRequestDescriptor::encode,
        |item| matches!(item, PageRequestDescriptor::Unknown(_)),
    );
    check::stable(
        |bytes, kind| {
            bytes[0] = bytes[0] & 0xf0 | 9;
            // Response code and the rest of the type.
            bytes[1] = [0x00, 0x10, 0xf0, 0x21][kind as usize % 4];
        },
        InvalidationDescriptor::decode,
        InvalidationDescriptor::encode,
        |item| matches!(item, InvalidationDescriptor::Unknown(_)),
    );
    check::stable(|_, _| (), FaultRecord::decode, FaultRecord::encode, |_| false);
}

#[test]
fn linux_takes_a_stop_marker_without_a_pasid() {
    let mut bytes = [0; 32];
    (bytes[0], bytes[2], bytes[8]) = (1, 0x34, 4);
    let marker = PageRequestDescriptor::StopMarker(StopMarker { rid: 0x34, pasid: None });
    assert_eq!(PageRequestDescriptor::decode(&bytes), marker);
    assert_eq!(marker.encode(), Ok(bytes));
    let request = PageRequest { last: true, ..PageRequest::default() };
    assert_eq!(PageRequestDescriptor::Request(request).encode(), Err(HwError::StopMarker));
}

#[test]
fn every_bit_of_a_request_counts() {
    let mut random = Random::new();
    for _ in 0..1000 {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&random.bytes::<16>());
        // TYPE and PP; a read; no bit that is reserved.
        (bytes[0], bytes[1], bytes[8]) = (1, 1, bytes[8] | 1);
        (bytes[6], bytes[7]) = (bytes[6] & 0x3f, 0);
        assert_eq!(PageRequestDescriptor::decode(&bytes).encode(), Ok(bytes));
    }
}

#[test]
fn private_data_and_other_reserved_bits_are_ignored() {
    let clean = PageRequestDescriptor::Request(REQUEST).encode().unwrap();
    let mut dirty = clean;
    dirty[1] |= 0xfe;
    dirty[7] |= 0xff;
    dirty[16..].fill(0xff);
    assert_eq!(PageRequestDescriptor::decode(&dirty), PageRequestDescriptor::Request(REQUEST));
}

#[test]
fn both_parts_of_the_type_tell_a_response() {
    for (low, high) in [(9, 0x02), (9, 0x0e), (0xa, 0), (0, 0)] {
        let mut bytes = [0; 32];
        (bytes[0], bytes[1]) = (low, high);
        assert!(matches!(InvalidationDescriptor::decode(&bytes), InvalidationDescriptor::Unknown(_)));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let encode = |request: &PageRequest| PageRequestDescriptor::Request(*request).encode();
    assert!(encode(&REQUEST).is_ok());
    let names = ["PASID", "PRGI", "PRGI", "ADDR", "ADDR"];
    let wide = check::wide_requests().into_iter().zip(names);
    check::refused(encode, wide.map(|((request, value), field)| (request, field, value)));
    check::refused(encode, [(PageRequest { rid: 0x1_0000, ..REQUEST }, "RID", 0x1_0000)]);
    let encode = |marker: &StopMarker| PageRequestDescriptor::StopMarker(*marker).encode();
    check::refused(
        encode,
        [
            (StopMarker { rid: 0x1_0000, pasid: None }, "RID", 0x1_0000),
            (StopMarker { rid: 1, pasid: Some(u32::MAX) }, "PASID", u32::MAX.into()),
        ],
    );

    let encode = |response: &PrgResponse| InvalidationDescriptor::PageGroupResponse(*response).encode();
    let wide = check::wide_responses().into_iter().zip(["PASID", "PRGI"]);
    check::refused(encode, wide.map(|((response, value), field)| (response, field, value)));
    check::refused(encode, [(PrgResponse { rid: 0x1_0000, ..RESPONSE }, "RID", 0x1_0000)]);
    check::codes(|response| encode(&response));

    let fault = FaultRecord::default();
    check::refused(
        FaultRecord::encode,
        [
            (FaultRecord { fault_info: 0x800, ..fault }, "FI", 0x800),
            (FaultRecord { pasid: Some(0x10_0000), ..fault }, "PV", 0x10_0000),
            (FaultRecord { address_type: 4, ..fault }, "AT", 4),
        ],
    );
}

#[test]
fn unknown_does_not_disguise_a_known_record() {
    let words = [1, 0, 0, 0];
    assert_eq!(PageRequestDescriptor::Unknown(words).encode(), Err(HwError::Known));
    // Nor a code that is never sent.
    assert_eq!(InvalidationDescriptor::Unknown([0x2009, 4, 0, 0]).encode(), Err(HwError::Known));
}
