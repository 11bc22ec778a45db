//! The tool's JSON of recordfd's own formats, and of what has no name.

mod common;

use std::array;

use common::{hex, hex_of, recordfd, unhex, vector};
use recordfd::uapi::{
    AcpiNotify, AcpiOst, DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind, Event, EventHeader,
    FixedText, Format, Le64, Mixed, MixedEvent, PciChannelState, PciError, PciErrorFlags, PciErrorResult,
    PciErrorStep, PciErrorV2, PciErsResult, PgFault, PgFaultFlags, PgFaultPerm, Record, Sequence, Sequenced,
    Smmuv3Event, Tegra241CmdqvEvent,
};
use serde_json::{Value, json};

fn notify() -> AcpiNotify {
    AcpiNotify {
        dev_id: 1,
        value: 0x81,
        data: 2,
        cookie: 7,
        bus_id: FixedText::new("PNP0C0A:00").unwrap(),
        device_class: FixedText::new("battery").unwrap(),
    }
}

fn notify_fields() -> Value {
    json!({
        "header": {"flags": 0, "sequence": 5}, "dev_id": 1, "value": 0x81, "data": 2, "cookie": 7,
        "bus_id": "PNP0C0A:00", "device_class": "battery",
    })
}

/// Every format of recordfd's own: its name, a record's bytes, and what they say.
fn own() -> Vec<(&'static str, String, Value)> {
    let at = Sequence::wrapping(5);
    let header = json!({"flags": 0, "sequence": 5});
    let fault = PgFault {
        flags: PgFaultFlags::LAST_PAGE,
        dev_id: 2,
        pasid: 3,
        grpid: 4,
        perm: PgFaultPerm::WRITE,
        reserved: 0,
        addr: u64::MAX - 0xfff,
        length: 6,
        cookie: u32::MAX,
    };
    let error = PciError {
        dev_id: 1,
        cookie: 9,
        step: PciErrorStep::SLOT_RESET,
        state: PciChannelState::IO_FROZEN,
        flags: PciErrorFlags::AER_VALID,
        status: 1 << 18,
        mask: 1,
        header_log: [0x4a00_0001, 2, 3, u32::MAX],
    };
    let request = DeviceRequest { dev_id: 1, cookie: 2, kind: DeviceRequestKind::RESET_DONE, count: 3 };
    let smmu = Smmuv3Event { evt: [1, 2, 3, u64::MAX].map(Le64::new) };
    let cmdqv = Tegra241CmdqvEvent { lvcmdq_err_map: [1, 1 << 63].map(Le64::new) };
    let mixed = Mixed::new(Sequence::wrapping(8), MixedEvent::new(3, &Event::new(at, notify())));
    vec![
        (
            "iommufd.pgfault_v2",
            hex_of(&Event::new(at, fault)),
            json!({
                "header": header, "flags": 2, "dev_id": 2, "pasid": 3, "grpid": 4, "perm": 2, "__reserved": 0,
                "addr": u64::MAX - 0xfff, "length": 6, "cookie": u32::MAX,
            }),
        ),
        (
            "viommu.arm_smmuv3",
            hex_of(&Event::new(at, smmu)),
            json!({"header": header, "evt": [1, 2, 3, u64::MAX]}),
        ),
        (
            "viommu.tegra241_cmdqv",
            hex_of(&Event::new(at, cmdqv)),
            json!({"header": header, "lvcmdq_err_map": [1, 1_u64 << 63]}),
        ),
        ("acpi.notify", hex_of(&Event::new(at, notify())), notify_fields()),
        (
            "acpi.notify",
            hex_of(&Event::<AcpiNotify>::lost(at)),
            json!({
                "header": {"flags": 1, "sequence": 5}, "dev_id": 0, "value": 0, "data": 0, "cookie": 0,
                "bus_id": "", "device_class": "",
            }),
        ),
        (
            "acpi.ost",
            hex_of(&AcpiOst::new(7, 3, 0x80)),
            json!({"cookie": 7, "source_event": 3, "status": 0x80, "reserved": 0}),
        ),
        (
            "pci.error",
            hex_of(&Event::new(at, error)),
            json!({
                "header": header, "dev_id": 1, "cookie": 9, "step": 3, "state": 2, "flags": 4,
                "status": 1 << 18, "mask": 1, "header_log": [0x4a00_0001, 2, 3, u32::MAX],
            }),
        ),
        (
            "pci.error_v2",
            hex_of(&Event::new(
                at,
                PciErrorV2 {
                    severity: 7,
                    prefix_len: 1,
                    tlp_log: array::from_fn(|at| at as u32),
                    ..error.into()
                },
            )),
            json!({
                "header": header, "dev_id": 1, "cookie": 9, "step": 3, "state": 2, "flags": 4, "status": 1 << 18,
                "mask": 1, "severity": 7, "header_len": 4, "prefix_len": 1,
                "tlp_log": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
            }),
        ),
        (
            "pci.error_result",
            hex_of(&PciErrorResult { cookie: 9, result: PciErsResult::NEED_RESET }),
            json!({"cookie": 9, "result": 3}),
        ),
        (
            "device.request",
            hex_of(&Event::new(at, request)),
            json!({"header": header, "dev_id": 1, "cookie": 2, "kind": 2, "count": 3}),
        ),
        (
            "device.ack",
            hex_of(&DeviceAck { cookie: 2, code: DeviceAckCode::REFUSED }),
            json!({"cookie": 2, "code": 1}),
        ),
        (
            "mixed",
            hex_of(&mixed),
            json!({
                "format": Format::ACPI_NOTIFY_V1.0, "flags": 0, "sequence": 8, "source": 3,
                "payload": notify_fields(),
            }),
        ),
        (
            "mixed",
            hex_of(&Mixed::lost(at)),
            json!({"format": 0, "flags": 1, "sequence": 5, "source": 0, "payload": ""}),
        ),
    ]
}

#[test]
fn own_formats_are_decoded_and_encoded() {
    for (format, hex, fields) in own() {
        let ran = recordfd(&format!("decode --format {format}"), &hex);
        assert_eq!((ran.json(), ran.status), (vec![fields.clone()], 0), "{format}");
        let ran = recordfd(&format!("encode --format {format}"), fields.to_string());
        assert_eq!(ran.quiet_lines(), [hex], "{format}");
    }
}

#[test]
fn codes_have_names_for_people() {
    let pretty =
        |format: &str, hex: &str| recordfd(&format!("decode --pretty --format {format}"), hex).stdout;
    let of_own = |name: &str| {
        let (format, hex, _) = own().into_iter().find(|(format, ..)| *format == name).unwrap();
        pretty(format, &hex)
    };
    assert!(of_own("acpi.notify").ends_with("device_class=\"battery\": Information Change\n"));
    assert!(of_own("pci.error").contains(" step=3 (SLOT_RESET) state=2 (IO_FROZEN) flags=4 (AER_VALID) "));
    assert!(of_own("iommufd.pgfault_v2").contains(" perm=2 (WRITE) "));
    let mixed = of_own("mixed");
    assert!(mixed.contains(" format=0x40001 (ACPI_NOTIFY v1) ") && mixed.contains("battery"), "{mixed}");
    let stall = vector("smmuv3.event", "f_translation_stall_read_user");
    assert!(pretty("smmuv3.event", &stall.hex).starts_with("smmuv3.event F_TRANSLATION ID=0x10 "));
    let behind_a_header = pretty("viommu.arm_smmuv3", &format!("{:016x}{}", 0, stall.hex));
    assert!(behind_a_header.contains(": smmuv3.event F_TRANSLATION "), "{behind_a_header}");
}

/// Decodes, and encodes what came of it.
fn round_trip(format: &str, given: &str) -> (Value, String) {
    let decoded = recordfd(&format!("decode --format {format}"), given);
    decoded.quiet_lines();
    let encoded = recordfd(&format!("encode --format {format}"), &decoded.stdout);
    (decoded.json().remove(0), encoded.quiet_lines().concat())
}

#[test]
fn bits_that_no_field_has_are_kept() {
    // An implementation's own event.
    let own_event = "e0".to_owned() + &"5a".repeat(31);
    let (fields, again) = round_trip("smmuv3.event", &own_event);
    assert_eq!((fields["ID"].clone(), again), (0xe0.into(), own_event));
    assert!(fields["other"].as_str().unwrap().starts_with("00"));

    // TTRnW, and a bit whose place is not confirmed.
    let mut permission = unhex(&vector("smmuv3.event", "f_translation_stall_read_user").hex);
    permission[0] = 0x13;
    permission[8 + 5] |= 0x30;
    let (fields, again) = round_trip("smmuv3.event", &hex(&permission));
    assert_eq!((fields["STAG"].clone(), again), (0x123.into(), hex(&permission)));

    // Other types, and a command that is none of the format's.
    for (format, record) in [
        ("vtd.page_req_dsc", format!("02{}", "a5".repeat(31))),
        ("vtd.qi_page_group_response", format!("03{}", "00".repeat(31))),
        ("smmuv3.cmd_pri_resp", vector("smmuv3.cmd_resume", "retry").hex),
        ("smmuv3.cmd_resume", vector("smmuv3.cmd_pri_resp", "success").hex),
        ("amd.ppr", "00".repeat(16)),
        ("amd.complete_ppr", format!("{}10{}", "00".repeat(7), "ff".repeat(8))),
        ("amd.event", format!("{}50{}", "00".repeat(7), "ff".repeat(8))),
        ("riscv.ats_prgr", format!("05{}", "00".repeat(15))),
    ] {
        let (_, again) = round_trip(format, &record);
        assert_eq!(again, record, "{format}");
    }
}

#[test]
fn reserved_bits_and_invalid_fields_are_ignored() {
    let clean = vector("vtd.page_req_dsc", "pasid_last_rw");
    let mut dirty = unhex(&clean.hex);
    dirty[7] |= 0xc0;
    dirty[16..].fill(0xff);
    let (fields, again) = round_trip("vtd.page_req_dsc", &hex(&dirty));
    assert_eq!((fields.as_object(), again), (Some(&clean.fields), clean.hex.clone()));
    // Without PP there is no PASID.
    dirty[1] = 0;
    let (fields, _) = round_trip("vtd.page_req_dsc", &hex(&dirty));
    assert_eq!((fields["PASID"].clone(), fields["PP"].clone()), (0.into(), 0.into()));
}

#[test]
fn texts_of_a_hostile_peer_are_kept() {
    // No UTF-8, something behind the NUL, a full field.
    let mut notify = notify();
    notify.bus_id = FixedText::from_padded(*b"a\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    notify.device_class = FixedText::from_padded(*b"x\0y\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let record = hex_of(&Event::new(Sequence::ZERO, notify));
    let (fields, again) = round_trip("acpi.notify", &record);
    assert_eq!((fields.get("bus_id"), fields.get("device_class"), again), (None, None, record));
    notify.bus_id = FixedText::new("0123456789abcdef").unwrap();
    let (fields, _) = round_trip("acpi.notify", &hex_of(&Event::new(Sequence::ZERO, notify)));
    assert_eq!(fields["bus_id"], "0123456789abcdef");
    // What a terminal would take for a command.
    notify.bus_id = FixedText::new("\x1b[2J").unwrap();
    let record = hex_of(&Event::new(Sequence::ZERO, notify));
    for words in ["decode --format acpi.notify", "decode --pretty --format acpi.notify"] {
        assert!(!recordfd(words, &record).stdout.contains('\x1b'));
    }
}

#[test]
fn mixed_payload_of_an_unknown_format_is_hex() {
    let mut payload = [0; 64];
    payload[1] = 0xab;
    let event = MixedEvent { format: Format::new(99, 1), source: 1, payload };
    let record = hex_of(&Mixed::new(Sequence::ZERO, event));
    let (fields, again) = round_trip("mixed", &record);
    assert_eq!((fields["payload"].clone(), again), ("00ab".into(), record));
    // A known format that is broken, and one with something behind it.
    for at in [0, 63] {
        let mut payload = [0; 64];
        payload[at] = 0x80;
        let event = MixedEvent { format: Format::VIOMMU_TEGRA241_CMDQV_V1, source: 1, payload };
        let record = hex_of(&Mixed::new(Sequence::ZERO, event));
        let (fields, again) = round_trip("mixed", &record);
        assert_eq!(again, record);
        assert_eq!(fields["payload"].is_string(), at == 63);
    }
}

#[test]
fn fields_that_are_left_out_are_zero_and_tags_are_known() {
    let encode =
        |format: &str, fields: Value| recordfd(&format!("encode --format {format}"), fields.to_string());
    let ran = encode("vtd.page_req_dsc", json!({"RID": "0x100", "RDR": 1}));
    assert_eq!(ran.quiet_lines(), ["0100000100000000".to_owned() + "0100000000000000" + &"00".repeat(16)]);
    assert_eq!(encode("iommufd.pgfault", json!({})).quiet_lines(), ["00".repeat(40)]);
    let header = EventHeader { flags: Default::default(), sequence: 3 };
    let ran = encode("device.request", json!({"header": {"sequence": 3}}));
    assert_eq!(ran.quiet_lines(), [hex_of(&header) + &"00".repeat(DeviceRequest::SIZE)]);
}

#[test]
fn what_cannot_be_said_is_refused() {
    for (format, fields, error) in [
        ("iommufd.pgfault", json!({"adr": 1}), "iommufd.pgfault has no field adr; it has flags, dev_id, "),
        ("iommufd.pgfault", json!({"flags": -1}), "flags is -1, not an integer from 0 to 2^64 - 1 or a text"),
        ("iommufd.pgfault", json!({"flags": 1.5}), "flags is 1.5, not an integer"),
        ("iommufd.pgfault", json!({"flags": "3x"}), "flags is \"3x\", not an integer"),
        ("iommufd.pgfault", json!({"flags": "0x100000000"}), "flags is 0x100000000, and has 32 bits"),
        ("iommufd.pgfault", json!([1]), "is [1], not an object"),
        (
            "vtd.page_req_dsc",
            json!({"PASID": 5, "RDR": 1}),
            "PASID cannot be 5 beside the other fields: a reader takes it for 0",
        ),
        ("vtd.page_req_dsc", json!({"PRGI": 512}), "PRGI is 0x200, and has 9 bits"),
        (
            "vtd.page_req_dsc",
            json!({"RDR": 1, "other": "00".repeat(8) + "01" + &"00".repeat(23)}),
            "other has bits of RDR",
        ),
        (
            "vtd.page_req_dsc",
            json!({"RDR": 1, "other": "00".repeat(31) + "01"}),
            "other has bits that are reserved",
        ),
        ("vtd.page_req_dsc", json!({"other": "00"}), "other has 1 bytes, and the record 32"),
        ("vtd.page_req_dsc", json!({"other": 1}), "other is 1, not hex"),
        ("smmuv3.event", json!({"StreamID": 1}), "ID is missing: it tells the kind of record"),
        ("smmuv3.event", json!({"ID": 4, "STAG": 1}), "smmuv3.event C_BAD_STE has no field STAG"),
        ("acpi.notify", json!({"bus_id": "01234567890123456"}), "bus_id has 17 bytes, and room for 16"),
        ("acpi.notify", json!({"bus_id": "a\u{0}"}), "bus_id has a NUL in it"),
        ("acpi.notify", json!({"bus_id": 1}), "bus_id is 1, not a text"),
        ("acpi.notify", json!({"header": {"flags": 2}}), "header flags 0x2 are not part of the format"),
        ("acpi.notify", json!({"header": {"flag": 2}}), "acpi.notify has no field header.flag"),
        ("acpi.notify", json!({"header": {"flags": 1}, "value": 1}), "reserved field payload is not zero"),
        (
            "iommufd.page_response",
            json!({"cookie": 1, "code": 2}),
            "the code PageResponseCode(0x2) is never sent",
        ),
        ("smmuv3.cmd_pri_resp", json!({"StreamID": 1, "Resp": 3}), "the Resp is that of an illegal command"),
        ("acpi.ost", json!({"reserved": 1}), "reserved field reserved is not zero"),
        ("pci.error", json!({"header_log": [1, 2, 3]}), "header_log is [1,2,3], not an array of 4 numbers"),
        (
            "iommufd.vevent_header",
            json!({"sequence": "0x80000000"}),
            "sequence number 0x80000000 is above INT_MAX",
        ),
        (
            "mixed",
            json!({"format": 5, "payload": {"x": 1}}),
            "payload is an object, of a format not known here",
        ),
        ("mixed", json!({"payload": "00".repeat(65)}), "payload has 65 bytes, and room for 64"),
    ] {
        let ran = recordfd(&format!("encode --format {format}"), fields.to_string());
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{fields}");
        assert!(ran.stderr.starts_with(&format!("recordfd: line 1: {error}")), "{fields}: {}", ran.stderr);
    }
}
