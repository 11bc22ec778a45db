//! Recorded bytes against their stated meaning: output of the Linux kernel, and vectors worked out by
//! hand from the header files.

// The bytes were recorded on a little-endian machine, and the values in them are host-endian.
#![cfg(target_endian = "little")]

#[path = "common/vectors.rs"]
mod vectors;

use std::collections::BTreeMap;

use recordfd_uapi::acpi_genl::{
    ATTR_EVENT, AcpiGenlError, AcpiGenlEvent, AcpiGenlMessage, AcpiGenlMessages, CMD_EVENT,
};
use recordfd_uapi::{
    EventFlags, EventHeader, LinuxEvent, LinuxEvents, LossMeter, PageResponse, PageResponseCode, Payload,
    PgFault, Record, Sequence, Tegra241CmdqvEvent,
};
use vectors::{Fields, Value, Vector, fields, hex, number};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `HEX|name|length|bytes` lines, each followed by lines that state what the kernel meant.
const KERNEL: &str = include_str!("../../tests/data/golden.txt");

/// Facts of the kernel log that come without bytes; any other line has to be checked.
const WITHOUT_BYTES: [&str; 7] =
    ["cpu_add", "cpus_present", "mem_add", "after_mem_add", "lid", "thermal.temp", "unknown_dev"];

/// What the vEVENTQ of the kernel's selftest carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Selftest {
    virt_id: u32,
}

impl Payload for Selftest {
    const FLAGS: EventFlags = EventFlags::all();
}

/// Parses `name=1 other=0x2 text='three'`.
fn stated(text: &str) -> Fields {
    let parse = |field: &str| {
        let (name, value) = field.split_once('=').unwrap_or_else(|| panic!("no field: {field:?}"));
        let value = match value.strip_prefix('\'') {
            Some(quoted) => Value::Text(quoted.strip_suffix('\'').expect("closing quote").to_owned()),
            None => Value::Number(number(value)),
        };
        (name.to_owned(), value)
    };
    text.split_whitespace().map(parse).collect()
}

fn encoded<R: Record>(record: &R) -> Vec<u8> {
    // Not zero, so that a byte left unwritten shows.
    let mut bytes = vec![0xa5; R::SIZE];
    record.encode(&mut bytes);
    bytes
}

fn round_trip<R: Record>(bytes: &[u8]) -> R {
    let record = R::decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:x?}"));
    assert_eq!(encoded(&record), bytes);
    record
}

fn pgfault(fault: PgFault, reserved: &str) -> Fields {
    fields([
        ("flags", fault.flags.bits().into()),
        ("dev_id", fault.dev_id.into()),
        ("pasid", fault.pasid.into()),
        ("grpid", fault.grpid.into()),
        ("perm", fault.perm.bits().into()),
        (reserved, fault.reserved.into()),
        ("addr", fault.addr.into()),
        ("length", fault.length.into()),
        ("cookie", fault.cookie.into()),
    ])
}

fn header(header: EventHeader) -> Fields {
    fields([("flags", header.flags.bits().into()), ("sequence", header.sequence.into())])
}

fn walk(bytes: &[u8]) -> Vec<LinuxEvent<Selftest>> {
    LinuxEvents::new(bytes).map(|item| item.unwrap_or_else(|error| panic!("{error}: {bytes:x?}"))).collect()
}

fn check_item(item: &LinuxEvent<Selftest>, meaning: &str) {
    match (item, meaning.strip_suffix(" (no data)")) {
        (LinuxEvent::Lost(lost), Some(meaning)) => assert_eq!(header(*lost), stated(meaning)),
        (LinuxEvent::Event(event), None) => {
            let mut found = header(event.header);
            found.insert("virt_id".to_owned(), event.payload.virt_id.into());
            assert_eq!(found, stated(meaning));
        }
        _ => panic!("{item:?} is not {meaning:?}"),
    }
}

/// Compares a netlink message and its event with the two halves of an `ACPI` line.
fn check_message(bytes: &[u8], netlink: &str, event: &str, family: &Value) {
    let (message, rest) = AcpiGenlMessage::parse(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:x?}"));
    assert!(rest.is_empty());
    assert_eq!(message.encode()[..], *bytes);
    let netlink = netlink.strip_prefix("nlmsg ").expect("a message").replace("/len ", " attr_len=");
    let found = fields([
        ("len", (AcpiGenlMessage::SIZE as u64).into()),
        ("type", u32::from(message.family).into()),
        ("flags", u32::from(message.flags).into()),
        ("seq", message.sequence.into()),
        ("pid", message.port.into()),
        ("cmd", u32::from(CMD_EVENT).into()),
        ("ver", u32::from(message.version).into()),
        ("attr", u32::from(ATTR_EVENT).into()),
        ("attr_len", (4 + AcpiGenlEvent::SIZE as u64).into()),
    ]);
    assert_eq!(found, stated(&netlink));
    assert_eq!(Value::from(u32::from(message.family)), *family);
    check_event(&message.event, event);
}

fn check_event(event: &AcpiGenlEvent, meaning: &str) {
    let found = fields([
        ("class", event.device_class.into()),
        ("bus", event.bus_id.into()),
        ("type", event.kind.into()),
        ("data", event.data.into()),
    ]);
    assert_eq!(found, stated(meaning));
    assert_eq!(event.pad, 0, "the kernel clears the hole");
}

fn kernel_lines() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    KERNEL.lines().map(|line| {
        let mut parts = line.splitn(3, '|');
        let mut part = || parts.next().unwrap_or_else(|| panic!("not a line of the log: {line:?}"));
        (part(), part(), part())
    })
}

/// The bytes of a `HEX` line, checked against the length it states.
fn kernel_bytes(rest: &str) -> Vec<u8> {
    let (length, digits) = rest.split_once('|').expect("length and bytes");
    let bytes = hex(digits);
    assert_eq!(bytes.len() as u64, number(length));
    bytes
}

#[test]
fn kernel_output_decodes_to_its_stated_meaning() {
    let mut lines = kernel_lines();
    let mut checked = BTreeMap::new();
    let (mut facts, mut family, mut last_event) = (0, None, None);
    while let Some((kind, name, rest)) = lines.next() {
        if kind == "ACPI" && name == "family" {
            // Generic netlink gave out this id at boot.
            family = stated(rest).remove("id");
            continue;
        } else if kind == "ACPI" && WITHOUT_BYTES.contains(&name) {
            facts += 1;
            continue;
        }
        assert_eq!(kind, "HEX", "line without bytes before it: {name} {rest}");
        let bytes = kernel_bytes(rest);
        let mut meaning = |wanted| {
            let (kind, of, text) = lines.next().expect("a line with the meaning");
            assert_eq!((kind, of), (wanted, name));
            text
        };
        let group = name.split('.').next().unwrap();
        let group = match (group, bytes.len()) {
            ("fault", _) => {
                assert_eq!(pgfault(round_trip(&bytes), "rsvd"), stated(meaning("PGF")), "{name}");
                group
            }
            ("response", _) => {
                let code = match name {
                    "response.success" => PageResponseCode::SUCCESS,
                    "response.invalid" => PageResponseCode::INVALID,
                    _ => panic!("no meaning is known for {name}"),
                };
                // Both answer cookie 1, the first group of their queue.
                assert_eq!(round_trip::<PageResponse>(&bytes), PageResponse { cookie: 1, code });
                group
            }
            ("vev", _) => {
                let mut again = Vec::new();
                for item in walk(&bytes) {
                    check_item(&item, meaning("VEV"));
                    again.extend(match item {
                        LinuxEvent::Event(event) => encoded(&event),
                        LinuxEvent::Lost(lost) => encoded(&lost),
                    });
                }
                assert_eq!(again, bytes, "{name}");
                group
            }
            ("acpi_genl_event", _) => {
                let event = round_trip(&bytes);
                check_event(&event, last_event.take().expect("a message before its event"));
                group
            }
            (_, 68) => {
                let (netlink, event) = meaning("ACPI").split_once('|').expect("message and event");
                check_message(&bytes, netlink, event, family.as_ref().expect("the family's id"));
                last_event = Some(event);
                "message"
            }
            _ => panic!("unknown line {name}"),
        };
        *checked.entry(group).or_insert(0) += 1;
    }
    assert_eq!(facts, WITHOUT_BYTES.len());
    let expected = [("acpi_genl_event", 13), ("fault", 15), ("message", 13), ("response", 2), ("vev", 14)];
    assert_eq!(checked, BTreeMap::from(expected));
    let all = KERNEL.lines().filter(|line| line.starts_with("HEX|")).count();
    assert_eq!((checked.values().sum::<usize>(), all), (57, 57));
}

#[test]
fn kernel_messages_are_walked_in_one_buffer() {
    let messages: Vec<Vec<u8>> = kernel_lines()
        .filter(|(kind, _, rest)| *kind == "HEX" && rest.starts_with("68|"))
        .map(|(_, _, rest)| kernel_bytes(rest))
        .collect();
    let mut buffer = messages.concat();
    let whole: Vec<_> = AcpiGenlMessages::new(&buffer).map(|item| item.unwrap().encode()).collect();
    assert_eq!(whole.concat(), buffer);
    // The first message's command, which is not an event's any more, and the last one's end.
    buffer[16] = 2;
    buffer.pop();
    let mut items: Vec<_> = AcpiGenlMessages::new(&buffer).collect();
    assert_eq!(items.len(), messages.len());
    assert_eq!(items.pop(), Some(Err(AcpiGenlError::Truncated { found: 67 })));
    assert_eq!(items.remove(0), Err(AcpiGenlError::Command { cmd: 2 }));
    assert!(items.iter().all(Result::is_ok));
}

#[test]
fn kernel_sequence_numbers_give_the_exact_losses() {
    let stream: Vec<u8> = kernel_lines()
        .filter(|(kind, name, _)| *kind == "HEX" && name.starts_with("vev."))
        .flat_map(|(_, _, rest)| kernel_bytes(rest))
        .collect();
    let mut queues = Vec::new();
    for item in walk(&stream) {
        let (sequence, is_lost) = match item {
            LinuxEvent::Event(event) => (event.sequence(), false),
            LinuxEvent::Lost(lost) => (Sequence::from_wire(lost.sequence).unwrap(), true),
        };
        // The log has two queues one after the other, and each counts from 0.
        if sequence == Sequence::ZERO {
            queues.push((LossMeter::from_start(), Vec::new(), 0, sequence));
        }
        let (meter, losses, events, last) = queues.last_mut().expect("numbers from 0");
        let lost = if is_lost { meter.lost_header(sequence) } else { meter.record(sequence) };
        *events += u32::from(!is_lost);
        *last = sequence;
        if lost != 0 {
            losses.push((sequence.get(), is_lost, lost));
        }
    }
    let losses: Vec<_> = queues.iter().map(|(_, losses, ..)| losses.as_slice()).collect();
    let first = [(9, true, 4), (15, true, 2), (21, false, 2), (26, false, 1), (28, true, 2)];
    assert_eq!(losses, [&first[..], &[(1, true, 1)]]);
    // Every number up to the last one is an event that came or one that was lost.
    for (_, losses, events, last) in &queues {
        assert_eq!(events + losses.iter().map(|(_, _, lost)| lost).sum::<u32>(), last.get() + 1);
    }
}

#[test]
fn vectors_decode_to_their_fields() {
    let mut checked = BTreeMap::new();
    for Vector { format, name, bytes, fields: expected, .. } in vectors::all() {
        let group = format.split('.').next().unwrap().to_owned();
        if !["iommufd", "tegra241", "acpi"].contains(&group.as_str()) {
            continue;
        }
        let found = match format.as_str() {
            "iommufd.pgfault" => pgfault(round_trip(&bytes), "__reserved"),
            "iommufd.page_response" => {
                let response: PageResponse = round_trip(&bytes);
                fields([("cookie", response.cookie.into()), ("code", response.code.get().into())])
            }
            "iommufd.vevent_header" => header(round_trip(&bytes)),
            "tegra241.vevent" => {
                let [map0, map1] = round_trip::<Tegra241CmdqvEvent>(&bytes).lvcmdq_err_map;
                fields([("lvcmdq_err_map0", map0.get().into()), ("lvcmdq_err_map1", map1.get().into())])
            }
            "acpi.genl_event" => {
                let event: AcpiGenlEvent = round_trip(&bytes);
                fields([
                    ("device_class", event.device_class.into()),
                    ("bus_id", event.bus_id.into()),
                    ("pad", u32::from(event.pad).into()),
                    ("type", event.kind.into()),
                    ("data", event.data.into()),
                ])
            }
            _ => panic!("no type reads {format}"),
        };
        assert_eq!(found, expected, "{format} {name}");
        *checked.entry(group).or_insert(0) += 1;
    }
    let expected = [("acpi", 2), ("iommufd", 7), ("tegra241", 2)];
    assert_eq!(checked, expected.map(|(group, count)| (group.to_owned(), count)).into());
}
