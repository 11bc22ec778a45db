//! Page requests and answers of one format as those of another.

// The bytes were recorded on a little-endian machine, and the values of some are host-endian.
#![cfg(target_endian = "little")]

mod common;

use common::{Ran, Vector, hex_of, recordfd, vector, vectors};
use recordfd::uapi::{
    Event, PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm, Record, Sequence,
};
use serde_json::Value;

/// The requests that are a page fault of device 7, whose requester id is 0x100.
fn requests() -> Vec<Vector> {
    let requests: Vec<_> = vectors().into_iter().filter(|vector| vector.generic.is_some()).collect();
    assert_eq!(requests.len(), 10);
    requests
}

/// The page fault that the vector states.
fn fault(vector: &Vector, cookie: u32) -> PgFault {
    let generic = vector.generic.as_ref().unwrap();
    let number = |name: &str| generic[name].as_u64().unwrap() as u32;
    assert_eq!(
        (&generic["rid"], &generic["flags"]),
        (&"0100".into(), &["PASID_VALID", "LAST_PAGE"][..].into())
    );
    let addr = generic["addr"].as_str().unwrap().trim_start_matches("0x");
    let perm = |perm, letter| match letter {
        'r' => perm | PgFaultPerm::READ,
        'w' => perm | PgFaultPerm::WRITE,
        'x' => perm | PgFaultPerm::EXEC,
        'p' => perm | PgFaultPerm::PRIV,
        _ => panic!("{letter}"),
    };
    PgFault {
        flags: PgFaultFlags::PASID_VALID | PgFaultFlags::LAST_PAGE,
        dev_id: 7,
        pasid: number("pasid"),
        grpid: number("grpid"),
        perm: generic["perm"].as_str().unwrap().chars().fold(PgFaultPerm::empty(), perm),
        addr: u64::from_str_radix(addr, 16).unwrap(),
        cookie,
        ..PgFault::default()
    }
}

fn convert(from: &str, to: &str, more: &str, record: &str) -> Ran {
    recordfd(&format!("convert --from {from} --to {to} {more}"), record)
}

fn lost(ran: &Ran) -> &str {
    match ran.stderr.as_str() {
        "" => "",
        told => told.strip_prefix("recordfd: line 1: lost ").expect(told).trim_end(),
    }
}

#[test]
fn every_request_is_a_page_fault_and_comes_back() {
    for vector in requests() {
        let (name, fault) = (format!("{} {}", vector.format, vector.name), fault(&vector, 0));
        let behind_a_header = hex_of(&Event::new(Sequence::ZERO, fault));
        for (own, record) in [("iommufd.pgfault", hex_of(&fault)), ("iommufd.pgfault_v2", behind_a_header)] {
            let ran = convert(&vector.format, own, "--rid 7=0x100", &vector.hex);
            assert_eq!(ran.quiet_lines(), [record.as_str()], "{name}");
            let ran = convert(own, &vector.format, "--rid 3=0x700 --rid 7=0x100", &record);
            assert_eq!(ran.quiet_lines(), [vector.hex.as_str()], "{name}");
        }
    }
}

#[test]
fn every_queue_becomes_every_other() {
    let mut pairs = 0;
    for from in requests() {
        for to in requests().iter().filter(|to| to.generic == from.generic) {
            let ran = convert(&from.format, &to.format, "", &from.hex);
            assert_eq!(ran.quiet_lines(), [to.hex.as_str()], "{} to {}", from.format, to.format);
            pairs += 1;
        }
    }
    assert_eq!(pairs, 4 * 4 + 4 * 4 + 1 + 1);
}

#[test]
fn losses_are_told_by_line() {
    let read = PgFault {
        flags: PgFaultFlags::PASID_VALID,
        dev_id: 7,
        pasid: 5,
        grpid: 3,
        perm: PgFaultPerm::READ | PgFaultPerm::EXEC | PgFaultPerm::PRIV,
        addr: 0x1234,
        length: 64,
        cookie: 17,
        ..PgFault::default()
    };
    let last = PgFault { flags: PgFaultFlags::PASID_VALID | PgFaultFlags::LAST_PAGE, ..read };
    for (to, fault, loss) in [
        ("vtd.page_req_dsc", read, "ADDR LENGTH COOKIE"),
        ("amd.ppr", read, "ADDR LENGTH COOKIE"),
        ("riscv.pq_record", PgFault { cookie: 0, length: 0, ..read }, "ADDR"),
        ("smmuv3.priq", PgFault { flags: PgFaultFlags::empty(), ..read }, "ADDR LENGTH COOKIE EXEC PRIV"),
        ("smmuv3.event", last, "LENGTH COOKIE"),
        ("viommu.arm_smmuv3", last, "LENGTH COOKIE"),
        ("virtio_iommu.fault", read, "LENGTH COOKIE PASID PRIV LAST GROUP"),
        ("pcie.page_request_payload", read, "ADDR LENGTH COOKIE PASID EXEC PRIV"),
        ("iommufd.pgfault_v2", read, ""),
    ] {
        let ran = convert("iommufd.pgfault", to, "", &hex_of(&fault));
        assert_eq!((ran.status, ran.lines().len(), lost(&ran)), (0, 1, loss), "{to}");
    }
    let record = hex_of(&PgFault { cookie: 0, length: 0, ..read });
    let ran = convert("iommufd.pgfault", "vtd.page_req_dsc", "", &format!("\n{record}\n{record}\n"));
    assert_eq!(ran.stderr, "recordfd: line 2: lost ADDR\nrecordfd: line 3: lost ADDR\n");
}

#[test]
fn policy_is_the_guests() {
    let vector = vector("vtd.page_req_dsc", "pasid_last_r_exec_priv");
    let fault = hex_of(&fault(&vector, 0));
    let to_vtd = |policy: &str| convert("iommufd.pgfault", "vtd.page_req_dsc", policy, &fault);
    assert_eq!(to_vtd("--rid 7=256").quiet_lines(), [vector.hex.as_str()]);
    let ran = to_vtd("--policy strip");
    assert_eq!((ran.status, lost(&ran)), (0, "EXEC PRIV"));
    let ran = to_vtd("--policy refuse");
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.starts_with("recordfd: line 1: guest refuses "), "{}", ran.stderr);
    let of_no_pasid = hex_of(&PgFault { perm: PgFaultPerm::READ, ..PgFault::default() });
    let ran = convert("iommufd.pgfault", "amd.ppr", "--policy strip", &of_no_pasid);
    assert!(ran.status == 1 && ran.stderr.contains("guest refuses"), "{}", ran.stderr);
}

#[test]
fn what_a_request_cannot_be_is_told() {
    let fault = PgFault { dev_id: 0x12345, perm: PgFaultPerm::READ, ..PgFault::default() };
    let last = PgFaultFlags::LAST_PAGE;
    let marker = vector("vtd.page_req_dsc", "stop_marker").hex;
    let not_stalled = vector("smmuv3.event", "c_bad_ste").hex;
    let no_address = vector("virtio_iommu.fault", "unknown_no_address").hex;
    let both = PgFaultPerm::READ | PgFaultPerm::WRITE;
    let payload = vector("pcie.page_request_payload", "rw_last").hex;
    for (from, to, more, record, error) in [
        (
            "iommufd.pgfault",
            "vtd.page_req_dsc",
            "",
            hex_of(&fault),
            "requester id 0x12345 has more than 16 bits: give --rid DEV=RID",
        ),
        (
            "iommufd.pgfault",
            "vtd.page_req_dsc",
            "--rid 1=2",
            hex_of(&fault),
            "device 74565 has no requester id: give --rid 74565=RID",
        ),
        (
            "vtd.page_req_dsc",
            "iommufd.pgfault",
            "--rid 1=2",
            vector("vtd.page_req_dsc", "pasid_last_rw").hex,
            "requester id 0x100 is of no device: give --rid DEV=0x100",
        ),
        (
            "iommufd.pgfault",
            "riscv.pq_record",
            "",
            hex_of(&PgFault { grpid: 512, ..fault }),
            "0x200 does not fit field PRGI",
        ),
        (
            "iommufd.pgfault",
            "smmuv3.priq",
            "",
            hex_of(&PgFault { perm: PgFaultPerm::empty(), flags: last, ..fault }),
            "last page without read and write is a Stop Marker",
        ),
        (
            "iommufd.pgfault",
            "smmuv3.event",
            "",
            hex_of(&PgFault { perm: both, flags: last, ..fault }),
            "RnW cannot be said together with read and write",
        ),
        (
            "iommufd.pgfault",
            "smmuv3.event",
            "",
            hex_of(&fault),
            "Stall cannot be said together with more pages to come",
        ),
        ("vtd.page_req_dsc", "amd.ppr", "", marker, "is a Stop Marker and no page fault"),
        (
            "riscv.pq_record",
            "iommufd.pgfault",
            "",
            vector("riscv.pq_record", "stop_marker_nopasid").hex,
            "is a Stop Marker and no page fault",
        ),
        ("vtd.page_req_dsc", "amd.ppr", "", "00".repeat(32), "is no page request that is known here"),
        ("smmuv3.event", "iommufd.pgfault", "", not_stalled, "record is no page fault"),
        ("virtio_iommu.fault", "iommufd.pgfault", "", no_address, "record is no page fault"),
        (
            "pcie.page_request_payload",
            "iommufd.pgfault",
            "",
            payload,
            "the payload does not say who asks: give --requester RID",
        ),
        ("amd.ppr", "iommufd.pgfault", "", "00".to_owned(), "1 bytes where the record has 16"),
    ] {
        let ran = convert(from, to, more, &record);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{from} to {to}");
        assert!(
            ran.stderr.starts_with(&format!("recordfd: line 1: {error}")),
            "{from} to {to}: {}",
            ran.stderr
        );
    }
}

#[test]
fn payload_takes_requester_and_pasid_from_the_user() {
    let payload = vector("pcie.page_request_payload", "rw_last").hex;
    let given = "--requester 0x100 --pasid 0xabcde";
    let expected = vector("vtd.page_req_dsc", "pasid_last_rw").hex;
    assert_eq!(
        convert("pcie.page_request_payload", "vtd.page_req_dsc", given, &payload).quiet_lines(),
        [expected]
    );
    let ran = convert("pcie.page_request_payload", "iommufd.pgfault", "--requester 7 --cookie 9", &payload);
    let fault = PgFault::decode(&common::unhex(ran.quiet_lines()[0])).unwrap();
    assert_eq!((fault.dev_id, fault.cookie, fault.flags), (7, 9, PgFaultFlags::LAST_PAGE));
}

#[test]
fn flag_that_linux_sets_with_every_pasid_is_no_loss() {
    let needs_pasid = vector("iommufd.pgfault", "needs_pasid").hex;
    for (to, lost_too) in [
        ("iommufd.pgfault_v2", ""),
        ("vtd.page_req_dsc", ""),
        ("smmuv3.priq", ""),
        ("amd.ppr", ""),
        ("riscv.pq_record", ""),
        ("pcie.page_request_payload", "PASID"),
        ("virtio_iommu.fault", "PASID GROUP"),
    ] {
        let ran = convert("iommufd.pgfault", to, "--cookie 0", &needs_pasid);
        assert_eq!((ran.status, lost(&ran)), (0, lost_too), "{to}: {ran:?}");
    }
    // A record of a channel keeps it, and so does one for people.
    let ran = convert("iommufd.pgfault", "iommufd.pgfault", "", &needs_pasid);
    assert_eq!(ran.quiet_lines(), [needs_pasid.as_str()]);
    let ran = recordfd("decode --pretty --format iommufd.pgfault", &needs_pasid);
    assert!(ran.stdout.contains("PASID_VALID LAST_PAGE NEEDS_PASID"), "{ran:?}");
}

/// The answers of the hardware: SUCCESS to requester 0x100, PASID 0xabcde, index 0x155.
const ANSWERS: [(&str, &str); 4] = [
    ("vtd.qi_page_group_response", "success"),
    ("smmuv3.cmd_pri_resp", "success"),
    ("amd.complete_ppr", "success"),
    ("riscv.ats_prgr", "success"),
];

#[test]
fn every_answer_becomes_every_other() {
    let response = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::SUCCESS });
    let key = "--requester 0x100 --pasid 0xabcde --prgi 0x155";
    for (from, name) in ANSWERS {
        let hex = vector(from, name).hex;
        assert_eq!(
            convert(from, "iommufd.page_response", "--cookie 17", &hex).quiet_lines(),
            [response.as_str()]
        );
        assert_eq!(convert("iommufd.page_response", from, key, &response).quiet_lines(), [hex.as_str()]);
        for (to, name) in ANSWERS {
            assert_eq!(convert(from, to, "", &hex).quiet_lines(), [vector(to, name).hex], "{from} to {to}");
        }
    }
    // AMD's need not have the PASID of the request: requester, index and cookie do without.
    let without = vector("amd.complete_ppr", "success_nopasid").hex;
    let ran = convert("amd.complete_ppr", "iommufd.page_response", "--cookie 17", &without);
    assert_eq!(ran.quiet_lines(), [response.as_str()]);
    let ran =
        convert("iommufd.page_response", "amd.complete_ppr", "--requester 0x100 --prgi 0x155", &response);
    assert_eq!(ran.quiet_lines(), [without.as_str()]);
    // What the user gives goes before what the record says.
    let other = convert(
        "amd.complete_ppr",
        "vtd.qi_page_group_response",
        "--prgi 1 --requester 2",
        &vector("amd.complete_ppr", "success").hex,
    );
    let fields = recordfd("decode --format vtd.qi_page_group_response", &other.stdout).json().remove(0);
    assert_eq!(
        (&fields["PRGI"], &fields["RID"], &fields["PASID"]),
        (&Value::from(1), &2.into(), &0xabcde.into())
    );
}

#[test]
fn stalls_are_resumed() {
    let retry = vector("smmuv3.cmd_resume", "retry").hex;
    let success = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::SUCCESS });
    let ran =
        convert("iommufd.page_response", "smmuv3.cmd_resume", "--requester 0x100 --prgi 0x123", &success);
    assert_eq!(ran.quiet_lines(), [retry.as_str()]);
    let ran = convert("smmuv3.cmd_resume", "iommufd.page_response", "--cookie 17", &retry);
    assert_eq!(ran.quiet_lines(), [success]);
    let ran = convert(
        "smmuv3.cmd_resume",
        "iommufd.page_response",
        "--cookie 17",
        &vector("smmuv3.cmd_resume", "terminate_razwi").hex,
    );
    let invalid = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::INVALID });
    assert_eq!((ran.status, ran.lines(), lost(&ran)), (0, vec![invalid.as_str()], "RAZ_WI"));
    let ran =
        convert("iommufd.page_response", "smmuv3.cmd_resume", "--requester 0 --prgi 0 --pasid 1", &invalid);
    assert_eq!((ran.status, lost(&ran)), (0, "PASID"));
}

#[test]
fn failure_of_the_interface_is_told() {
    let invalid = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::INVALID });
    for (format, name) in [
        ("vtd.qi_page_group_response", "response_failure_nopasid"),
        ("vtd.qi_page_group_response", "decode_only_code2_means_failure"),
        ("smmuv3.cmd_pri_resp", "response_failure_nopasid"),
        ("amd.complete_ppr", "failure_nopasid"),
        ("amd.complete_ppr", "decode_only_code2_means_failure"),
    ] {
        let ran = convert(format, "iommufd.page_response", "--cookie 17", &vector(format, name).hex);
        assert_eq!(
            (ran.status, ran.lines(), lost(&ran)),
            (0, vec![invalid.as_str()], "PRI_DISABLED"),
            "{name}"
        );
    }
    let with_segment = vector("riscv.ats_prgr", "response_failure_nopasid_seg2").hex;
    let ran = convert("riscv.ats_prgr", "iommufd.page_response", "--cookie 17", &with_segment);
    assert_eq!((ran.status, lost(&ran)), (0, "DETAIL PRI_DISABLED"));
    // FAILURE, as the kernel has it inside: no host takes it, and the segment comes back.
    let failure = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::new(2) });
    let ran = convert("iommufd.page_response", "iommufd.page_response", "", &failure);
    assert_eq!((ran.status, ran.lines(), lost(&ran)), (0, vec![invalid.as_str()], "PRI_DISABLED"));
    let ran =
        convert("iommufd.page_response", "riscv.ats_prgr", "--requester 256 --prgi 1 --segment 2", &failure);
    assert_eq!(ran.quiet_lines(), [with_segment]);
}

#[test]
fn pasid_has_20_bits() {
    let ran = convert("pcie.page_request_payload", "iommufd.pgfault", "--requester 1 --pasid 0x100000", "");
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("more than 20 bits"), "{}", ran.stderr);
}

#[test]
fn what_an_answer_lacks_is_asked_for() {
    let response = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::SUCCESS });
    let success = vector("amd.complete_ppr", "success").hex;
    let of_code_3 = hex_of(&PageResponse { cookie: 17, code: PageResponseCode::new(3) });
    for (from, to, more, record, error) in [
        (
            "iommufd.page_response",
            "amd.complete_ppr",
            "",
            &response,
            "the answer does not say whom it is for: give --requester RID",
        ),
        (
            "iommufd.page_response",
            "amd.complete_ppr",
            "--requester 1",
            &response,
            "the answer does not name a group by its index: give --prgi INDEX",
        ),
        (
            "iommufd.page_response",
            "amd.complete_ppr",
            "--requester 1 --prgi 512",
            &response,
            "0x200 does not fit field PRGI",
        ),
        (
            "iommufd.page_response",
            "amd.complete_ppr",
            "--requester 0x10000 --prgi 1",
            &response,
            "0x10000 does not fit field DeviceID",
        ),
        (
            "iommufd.page_response",
            "amd.complete_ppr",
            "--requester 1 --prgi 1",
            &of_code_3,
            "response code 0x3 is never sent",
        ),
        (
            "amd.complete_ppr",
            "iommufd.page_response",
            "",
            &success,
            "the answer has no cookie, by which the host names the group: give --cookie COOKIE",
        ),
        (
            "amd.complete_ppr",
            "iommufd.page_response",
            "--cookie 1",
            &"00".repeat(16),
            "is no answer that is known here",
        ),
    ] {
        let ran = convert(from, to, more, record);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{from} to {to} {more}");
        assert!(
            ran.stderr.starts_with(&format!("recordfd: line 1: {error}")),
            "{from} to {to}: {}",
            ran.stderr
        );
    }
}
