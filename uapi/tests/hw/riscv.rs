//! RISC-V IOMMU.

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::pcie::{PageRequest, Pasid, PrgResponse, StopMarker};
use recordfd_uapi::hw::riscv::{AtsPrgr, Command, FaultRecord, PageRequestRecord};

use crate::check::{self, REQUEST, RESPONSE};
use crate::vectors::fields;

#[test]
fn page_request_vectors() {
    let fixed = ["PID", "PV", "PRIV", "EXEC", "R", "W", "L", "PRGI", "ADDR"];
    check::vectors("riscv.pq_record", 4, &fixed, |bytes| {
        let record = PageRequestRecord::decode(bytes);
        let is_marker = matches!(record, PageRequestRecord::StopMarker(_));
        let request = match record {
            PageRequestRecord::Request(request) => request,
            PageRequestRecord::StopMarker(StopMarker { rid, pasid }) => {
                let pasid = pasid.map(|value| Pasid { value, ..Pasid::default() });
                PageRequest { rid, pasid, last: true, ..PageRequest::default() }
            }
        };
        assert_eq!(is_marker, request.last && !request.read && !request.write, "whatever PV says");
        let pasid = request.pasid.unwrap_or_default();
        let found = fields([
            ("PID", pasid.value.into()),
            ("PV", request.pasid.is_some().into()),
            ("PRIV", pasid.privileged.into()),
            ("EXEC", pasid.exec.into()),
            ("DID", request.rid.into()),
            ("R", request.read.into()),
            ("W", request.write.into()),
            ("L", request.last.into()),
            ("PRGI", request.prgi.into()),
            ("ADDR", (request.addr >> 12).into()),
        ]);
        (found, record.encode())
    });
}

#[test]
fn response_vectors() {
    let fixed = ["OPCODE", "FUNC3", "PV", "PID", "DSV", "DSEG", "CODE"];
    check::vectors("riscv.ats_prgr", 2, &fixed, |bytes| {
        let command = Command::decode(bytes);
        let Command::AtsPrgr(AtsPrgr { response, segment }) = command else { panic!("{command:?}") };
        let found = fields([
            ("OPCODE", 4_u8.into()),
            ("FUNC3", 1_u8.into()),
            ("PID", response.pasid.unwrap_or(0).into()),
            ("PV", response.pasid.is_some().into()),
            ("DSV", segment.is_some().into()),
            ("RID", response.rid.into()),
            ("DSEG", segment.unwrap_or(0).into()),
            ("PRGI", response.prgi.into()),
            ("CODE", response.code.get().into()),
        ]);
        (found, command.encode())
    });
}

#[test]
fn fault_vectors() {
    check::vectors("riscv.fq_record", 2, &["PV", "PID"], |bytes| {
        let record = FaultRecord::decode(bytes);
        let found = fields([
            ("CAUSE", record.cause.into()),
            ("PID", record.pasid.unwrap_or(0).into()),
            ("PV", record.pasid.is_some().into()),
            ("PRIV", record.privileged.into()),
            ("TTYP", record.transaction_type.into()),
            ("DID", record.did.into()),
            ("CUSTOM", record.custom.into()),
            ("RSVD", record.reserved.into()),
            ("iotval", record.iotval.into()),
            ("iotval2", record.iotval2.into()),
        ]);
        (found, record.encode())
    });
}

#[test]
fn every_record_means_something() {
    check::stable(|_, _| (), PageRequestRecord::decode, PageRequestRecord::encode, |_| false);
    check::stable(
        |bytes, kind| {
            (bytes[0], bytes[1]) = (0x84, bytes[1] & 0xfc);
            bytes[13] = [0, 0x10, 0xf0, 0x20][kind as usize % 4];
        },
        Command::decode,
        Command::encode,
        |item| matches!(item, Command::Unknown(_)),
    );
    check::stable(|_, _| (), FaultRecord::decode, FaultRecord::encode, |_| false);
}

#[test]
fn opcode_and_function_tell_a_response() {
    for word in [0x04, 0x104, 0x85, 0x80] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&u16::to_le_bytes(word));
        assert!(matches!(Command::decode(&bytes), Command::Unknown(_)), "{word:#x}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let encode = |request: &PageRequest| PageRequestRecord::Request(*request).encode();
    assert!(encode(&PageRequest { rid: 0xff_ffff, ..REQUEST }).is_ok());
    let names = ["PID", "PRGI", "PRGI", "ADDR", "ADDR"];
    let wide = check::wide_requests().into_iter().zip(names);
    check::refused(encode, wide.map(|((request, value), field)| (request, field, value)));
    check::refused(encode, [(PageRequest { rid: 0x100_0000, ..REQUEST }, "DID", 0x100_0000)]);
    for pasid in [None, REQUEST.pasid] {
        let marked = PageRequest { pasid, read: false, write: false, ..REQUEST };
        assert_eq!(encode(&marked), Err(HwError::StopMarker));
    }

    let encode = |response: &PrgResponse| {
        Command::AtsPrgr(AtsPrgr { response: *response, segment: Some(0xff) }).encode()
    };
    let wide = check::wide_responses().into_iter().zip(["PID", "PRGI"]);
    check::refused(encode, wide.map(|((response, value), field)| (response, field, value)));
    check::refused(encode, [(PrgResponse { rid: 0x1_0000, ..RESPONSE }, "RID", 0x1_0000)]);
    check::codes(|response| encode(&response));
    assert_eq!(Command::Unknown([0x84, 0]).encode(), Err(HwError::Known));

    let fault = FaultRecord::default();
    check::refused(
        FaultRecord::encode,
        [
            (FaultRecord { cause: 0x1000, ..fault }, "CAUSE", 0x1000),
            (FaultRecord { pasid: Some(0x10_0000), ..fault }, "PID", 0x10_0000),
            (FaultRecord { transaction_type: 0x40, ..fault }, "TTYP", 0x40),
            (FaultRecord { did: 0x100_0000, ..fault }, "DID", 0x100_0000),
        ],
    );
}
