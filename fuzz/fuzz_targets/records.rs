//! Any bytes as any item of the contract: they are refused for a true reason, or they are a value
//! that keeps what its format promises and encodes to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recordfd_uapi::acpi_genl::AcpiGenlEvent;
use recordfd_uapi::{
    AcpiNotify, AcpiOst, ChannelInfo, DeviceAck, DeviceRequest, Event, EventFlags, EventHeader, LinuxEvent,
    LinuxEvents, Mixed, NoReply, PageResponse, Payload, PciError, PciErrorResult, PgFault, Record,
    RecordError, Smmuv3Event, Tegra241CmdqvEvent,
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

/// What a format promises beyond its length, stated by byte offsets.
#[derive(Clone, Copy)]
struct Promise {
    /// Where flags and sequence number are, if the item has them.
    header: Option<usize>,
    /// Whether flags that we do not know are refused.
    own_flags: bool,
    /// Where the part begins that is zero when the flags say `LOST_EVENTS`.
    lost_payload: usize,
    /// Where a u32 is that is always zero.
    zero: Option<usize>,
}

/// Any bytes of the right length are a value.
const PLAIN: Promise = Promise { header: None, own_flags: false, lost_payload: usize::MAX, zero: None };
/// An event with a payload that Linux defines.
const LINUX: Promise = Promise { header: Some(0), lost_payload: 8, ..PLAIN };
/// A bare header: nothing can follow it.
const HEADER: Promise = Promise { header: Some(0), ..PLAIN };
/// An event of our own.
const OWN: Promise = Promise { own_flags: true, ..LINUX };
const MIXED: Promise = Promise { header: Some(4), lost_payload: 16, ..OWN };

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
        if promise.own_flags && flags & !3 != 0 {
            return Some(RecordError::Flags { unknown: flags & !3 });
        }
        let payload = bytes.get(promise.lost_payload..).unwrap_or(&[]);
        if flags & 1 != 0 && payload.iter().any(|byte| *byte != 0) {
            return Some(RecordError::Reserved { field: "payload" });
        }
    }
    let reserved = promise.zero.is_some_and(|at| word(bytes, at) != 0);
    reserved.then_some(RecordError::Reserved { field: "reserved" })
}

fn same_bytes<R: Record>(record: &R, bytes: &[u8]) {
    // On the stack: an allocation for each item of a walk takes most of the time.
    let mut room = [0; Mixed::SIZE];
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
    let error = NoReply::decode(bytes).expect_err("nothing is a reply where there is none");
    assert!(!error.to_string().is_empty());
}

/// The inner record of a mixed one is judged as on its own channel, its padding besides.
fn check_inner<R: Record>(bytes: &[u8], promise: Promise) {
    let Ok(mixed) = Mixed::decode(bytes) else { return };
    let (inner, padding) = mixed.payload.split_at(R::SIZE);
    if padding.iter().any(|byte| *byte != 0) {
        assert_eq!(mixed.inner::<R>().err(), Some(RecordError::Reserved { field: "payload" }));
        return;
    }
    match mixed.inner::<R>() {
        Ok(record) => same_bytes(&record, inner),
        Err(error) => assert_eq!(Some(error), expected_error::<R>(inner, promise)),
    }
}

fn check_mixed(bytes: &[u8]) {
    check::<Mixed>(bytes, MIXED);
    check_inner::<PgFault>(bytes, PLAIN);
    check_inner::<Event<PgFault>>(bytes, LINUX);
    check_inner::<Event<Smmuv3Event>>(bytes, LINUX);
    check_inner::<Event<Tegra241CmdqvEvent>>(bytes, LINUX);
    check_inner::<Event<AcpiNotify>>(bytes, OWN);
    check_inner::<Event<PciError>>(bytes, OWN);
    check_inner::<Event<DeviceRequest>>(bytes, OWN);
}

/// The items cover the buffer from its start without a gap, up to its end or to the one error.
fn walk<T: Payload>(buffer: &[u8]) {
    let mut rest = buffer;
    let mut events = LinuxEvents::<T>::new(buffer);
    while let Some(item) = events.next() {
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
                assert!(!rest.is_empty());
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
    match kind % 22 {
        0 => check::<PgFault>(bytes, PLAIN),
        1 => check::<PageResponse>(bytes, PLAIN),
        2 => check::<EventHeader>(bytes, HEADER),
        3 => check::<Event<PgFault>>(bytes, LINUX),
        4 => check::<Event<Smmuv3Event>>(bytes, LINUX),
        5 => check::<Event<Tegra241CmdqvEvent>>(bytes, LINUX),
        6 => check::<Event<AcpiNotify>>(bytes, OWN),
        7 => check::<AcpiOst>(bytes, reserved_at(12)),
        8 => check::<Event<PciError>>(bytes, OWN),
        9 => check::<PciErrorResult>(bytes, PLAIN),
        10 => check::<Event<DeviceRequest>>(bytes, OWN),
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
        _ => check_no_reply(bytes),
    }
    walk::<Selftest>(bytes);
    walk::<Smmuv3Event>(bytes);
    walk::<Tegra241CmdqvEvent>(bytes);
    walk::<PgFault>(bytes);
    walk::<AcpiNotify>(bytes);
});
