//! The payload of a Page Request message, and response codes.

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::pcie::{PageRequest, PageRequestMessage, Pasid, ResponseCode, StopMarker};

use crate::check::{self, REQUEST};
use crate::vectors::fields;

const PASID: Option<Pasid> = Some(Pasid { value: 5, exec: false, privileged: true });

#[test]
fn payload_vectors() {
    check::vectors("pcie.page_request_payload", 2, &["R"], |bytes| {
        let message = PageRequestMessage::decode(bytes, 0x100, PASID);
        let PageRequestMessage::Request(request) = message else { panic!("{message:?}") };
        assert_eq!((request.rid, request.pasid), (0x100, PASID));
        let found = fields([
            ("R", request.read.into()),
            ("W", request.write.into()),
            ("L", request.last.into()),
            ("PRGI", request.prgi.into()),
            ("ADDR", (request.addr >> 12).into()),
        ]);
        (found, message.encode())
    });
}

#[test]
fn every_payload_means_something() {
    for pasid in [None, PASID] {
        let decode = |bytes: &[u8; 8]| PageRequestMessage::decode(bytes, 0xffff, pasid);
        check::stable(|_, _| (), decode, PageRequestMessage::encode, |_| false);
    }
}

#[test]
fn stop_marker_has_a_pasid() {
    let payload = 0x4_u64.to_le_bytes();
    let marker = StopMarker { rid: 7, pasid: Some(5) };
    let message = PageRequestMessage::decode(&payload, 7, PASID);
    assert_eq!(message, PageRequestMessage::StopMarker(marker));
    assert_eq!(message.encode(), Ok(payload));
    let without = PageRequestMessage::StopMarker(StopMarker { pasid: None, ..marker });
    assert_eq!(without.encode(), Err(HwError::Missing { field: "PASID" }));

    let request = PageRequest { rid: 7, last: true, ..PageRequest::default() };
    let message = PageRequestMessage::decode(&payload, 7, None);
    assert_eq!(message, PageRequestMessage::Request(request));
    assert_eq!(message.encode(), Ok(payload));
    let marked = PageRequestMessage::Request(PageRequest { pasid: PASID, ..request });
    assert_eq!(marked.encode(), Err(HwError::StopMarker));
}

#[test]
fn what_does_not_fit_is_refused() {
    let encode = |request: &PageRequest| PageRequestMessage::Request(*request).encode();
    assert!(encode(&REQUEST).is_ok());
    let names = ["PASID", "PRGI", "PRGI", "ADDR", "ADDR"];
    let wide = check::wide_requests().into_iter().zip(names);
    check::refused(encode, wide.map(|((request, value), field)| (request, field, value)));
    check::refused(encode, [(PageRequest { rid: 0x1_0000, ..REQUEST }, "RID", 0x1_0000)]);
    let encode = |marker: &StopMarker| PageRequestMessage::StopMarker(*marker).encode();
    check::refused(
        encode,
        [
            (StopMarker { rid: 0x1_0000, pasid: Some(1) }, "RID", 0x1_0000),
            (StopMarker { rid: 1, pasid: Some(0x10_0000) }, "PASID", 0x10_0000),
        ],
    );
}

#[test]
fn unnamed_codes_mean_failure() {
    let meanings = [0, 1, 2, 3, 0xe, 0xf].map(|code| ResponseCode::new(code).meaning().get());
    assert_eq!(meanings, [0, 1, 0xf, 0xf, 0xf, 0xf]);
}
