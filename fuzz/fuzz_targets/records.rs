//! Any bytes as any item of the contract: they are refused for a true reason, or they are a value
//! that keeps what its format promises and encodes to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recordfd_uapi::acpi_genl::AcpiGenlEvent;
use recordfd_uapi::{
    AcpiNotify, AcpiOst, ChannelInfo, DeviceAck, DeviceRequest, Event, EventFlags, EventHeader, EventRecord,
    LinuxEvent, LinuxEvents, Mixed, MixedEvent, NoReply, PageResponse, Payload, PciError, PciErrorResult,
    PciErrorV2, PgFault, Record, RecordError, Sequenced, Smmuv3Event, Tegra241CmdqvEvent,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the vEVENTQ of the kernel's selftest carries: the shortest payload there is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Selftest {
    virt_id: u32,
}

impl Payload for Selftest {
    const FLAGS: EventFlags = EventFlags::all();
}

const LOST_EVENTS: u32 = 1;
const CANCELLED: u32 = 2;

/// What a format promises beyond its length, stated by byte offsets.
#[derive(Clone, Copy)]
struct Promise {
    /// Where flags and sequence number are, if the item has them.
    header: Option<usize>,
    /// Flags that are not refused.
    flags: u32,
    /// What is zero when the flags say `LOST_EVENTS`: name, start and end, where the end may lie
    /// behind that of the item.
    lost: &'static [(&'static str, usize, usize)],
    /// Where a u32 is that is always zero.
    zero: Option<usize>,
}

/// Any bytes of the right length are a value.
const PLAIN: Promise = Promise { header: None, flags: u32::MAX, lost: &[], zero: None };
/// A bare header: nothing can follow it.
const HEADER: Promise = Promise { header: Some(0), ..PLAIN };
/// An event with a payload that Linux defines.
const LINUX: Promise = Promise { lost: &[("payload", 8, usize::MAX)], ..HEADER };
/// An event of our own, which may be lost.
const OWN: Promise = Promise { flags: LOST_EVENTS, ..LINUX };
/// A record that must be answered, which may be taken back.
const MUST_ANSWER: Promise = Promise { flags: CANCELLED, ..LINUX };
const MIXED: Promise = Promise {
    header: Some(4),
    lost: &[("format", 0, 4), ("source", 12, 16), ("payload", 16, usize::MAX)],
    ..OWN
};

fn reserved_at(offset: usize) -> Promise {
    Promise { zero: Some(offset), ..PLAIN }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The only error that `bytes` deserve, by the promise alone.
fn expected_error<R: Record>(bytes: &[u8], promise: Promise) -> Option<RecordError> {
    if bytes.len() != R::SIZE {
        return Some(RecordError::Length { expected: R::SIZE, found: bytes.len() });
    }
    if let Some(at) = promise.header {
        let (flags, sequence) = (word(bytes, at), word(bytes, at + 4));
        if sequence > i32::MAX as u32 {
            return Some(RecordError::Sequence { found: sequence });
        }
        if flags & !promise.flags != 0 {
            return Some(RecordError::Flags { unknown: flags & !promise.flags });
        }
        for (field, start, end) in promise.lost {
            let zero = &bytes[*start..bytes.len().min(*end)];
            if flags & LOST_EVENTS != 0 && zero.iter().any(|byte| *byte != 0) {
                return Some(RecordError::Reserved { field });
            }
        }
    }
    let reserved = promise.zero.is_some_and(|at| word(bytes, at) != 0);
    reserved.then_some(RecordError::Reserved { field: "reserved" })
}

fn same_bytes<R: Record>(record: &R, bytes: &[u8]) {
    // On the stack: an allocation for each item of a walk takes most of the time. It is the longest record.
    let mut room = [0; Event::<PciErrorV2>::SIZE];
    let again = &mut room[..bytes.len()];
    // The complement, so that a byte left unwritten shows.
    again.iter_mut().zip(bytes).for_each(|(byte, found)| *byte = !found);
    record.encode(again);
    assert_eq!(again, bytes);
}

fn check<R: Record>(bytes: &[u8], promise: Promise) {
    match R::decode(bytes) {
        Ok(record) => {
            assert_eq!(expected_error::<R>(bytes, promise), None);
            same_bytes(&record, bytes);
        }
        Err(error) => {
            assert_eq!(Some(error), expected_error::<R>(bytes, promise));
            assert!(!error.to_string().is_empty());
            assert_eq!(error.errno(), 22);
        }
    }
}

fn check_no_reply(bytes: &[u8]) {
    assert_eq!(NoReply::decode(bytes), Err(RecordError::NoReply));
}

/// The inner record of a mixed one is judged as on its own channel, its padding besides.
fn check_inner<R: EventRecord + Payload>(bytes: &[u8], promise: Promise) {
    let Ok(mixed) = Mixed::decode(bytes) else { return };
    let event = MixedEvent { format: R::FORMAT, ..mixed.content() };
    let (inner, padding) = event.payload.split_at(Event::<R>::SIZE);
    let is_padded = padding.iter().all(|byte| *byte == 0);
    let expected = match expected_error::<Event<R>>(inner, promise) {
        _ if !is_padded => Some(RecordError::Reserved { field: "payload" }),
        expected => expected,
    };
    assert_eq!(event.known().err(), expected);
    match event.inner::<R>() {
        Ok(record) => {
            let record = record.expect("it is of this format");
            same_bytes(&record, inner);
            assert_eq!(MixedEvent::new(event.source, &record), event);
        }
        Err(error) => assert_eq!(Some(error), expected),
    }
}

fn check_mixed(bytes: &[u8]) {
    check::<Mixed>(bytes, MIXED);
    check_inner::<Smmuv3Event>(bytes, LINUX);
    check_inner::<Tegra241CmdqvEvent>(bytes, LINUX);
    check_inner::<AcpiNotify>(bytes, OWN);
    let Ok(mixed) = Mixed::decode(bytes) else { return };
    let event = mixed.content();
    if !mixed.is_lost() {
        assert_eq!(Mixed::new(mixed.sequence(), event), mixed);
    }
    // What is of an unknown format is never looked at.
    let known = [Smmuv3Event::FORMAT, Tegra241CmdqvEvent::FORMAT, AcpiNotify::FORMAT];
    assert!(known.contains(&event.format) || event.known() == Ok(None));
}

/// The only error that the first item of a Linux queue's bytes deserves.
fn expected_walk_error<T: Payload>(rest: &[u8], promise: Promise) -> Option<RecordError> {
    let head = &rest[..rest.len().min(EventHeader::SIZE)];
    if let Some(error) = expected_error::<EventHeader>(head, HEADER) {
        return Some(error);
    }
    if word(rest, 0) & LOST_EVENTS == 0 {
        return expected_error::<Event<T>>(&rest[..rest.len().min(Event::<T>::SIZE)], promise);
    }
    let unknown = word(rest, 0) & !promise.flags & !LOST_EVENTS;
    (unknown != 0).then_some(RecordError::Flags { unknown })
}

/// The items cover the buffer from its start without a gap, up to its end or to the one error.
fn walk<T: Payload>(buffer: &[u8], promise: Promise) {
    let mut rest = buffer;
    let mut events = LinuxEvents::<T>::new(buffer);
    while let Some(item) = events.next() {
        assert_eq!(item.as_ref().err().copied(), expected_walk_error::<T>(rest, promise));
        match item {
            Ok(LinuxEvent::Event(event)) => {
                assert!(!event.is_lost());
                let (head, tail) = rest.split_at(Event::<T>::SIZE);
                same_bytes(&event, head);
                rest = tail;
            }
            Ok(LinuxEvent::Lost(header)) => {
                assert!(header.flags.contains(EventFlags::LOST_EVENTS));
                let (head, tail) = rest.split_at(EventHeader::SIZE);
                same_bytes(&header, head);
                rest = tail;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(events.next().is_none());
                return;
            }
        }
    }
    assert!(rest.is_empty());
}

// The seeds are made for these numbers: a new type goes to the end.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 24 {
        0 => check::<PgFault>(bytes, PLAIN),
        1 => check::<PageResponse>(bytes, PLAIN),
        2 => check::<EventHeader>(bytes, HEADER),
        3 => check::<Event<PgFault>>(bytes, MUST_ANSWER),
        4 => check::<Event<Smmuv3Event>>(bytes, LINUX),
        5 => check::<Event<Tegra241CmdqvEvent>>(bytes, LINUX),
        6 => check::<Event<AcpiNotify>>(bytes, OWN),
        7 => check::<AcpiOst>(bytes, reserved_at(12)),
        8 => check::<Event<PciError>>(bytes, MUST_ANSWER),
        9 => check::<PciErrorResult>(bytes, PLAIN),
        10 => check::<Event<DeviceRequest>>(bytes, MUST_ANSWER),
        11 => check::<DeviceAck>(bytes, PLAIN),
        12 => check_mixed(bytes),
        13 => check::<ChannelInfo>(bytes, reserved_at(12)),
        14 => check::<AcpiGenlEvent>(bytes, PLAIN),
        15 => check::<Smmuv3Event>(bytes, PLAIN),
        16 => check::<Tegra241CmdqvEvent>(bytes, PLAIN),
        17 => check::<AcpiNotify>(bytes, PLAIN),
        18 => check::<PciError>(bytes, PLAIN),
        19 => check::<DeviceRequest>(bytes, PLAIN),
        20 => check::<Event<Selftest>>(bytes, LINUX),
        21 => check_no_reply(bytes),
        22 => check::<Event<PciErrorV2>>(bytes, MUST_ANSWER),
        _ => check::<PciErrorV2>(bytes, PLAIN),
    }
    walk::<Selftest>(bytes, LINUX);
    walk::<Smmuv3Event>(bytes, LINUX);
    walk::<Tegra241CmdqvEvent>(bytes, LINUX);
    walk::<PgFault>(bytes, MUST_ANSWER);
    walk::<AcpiNotify>(bytes, OWN);
});
