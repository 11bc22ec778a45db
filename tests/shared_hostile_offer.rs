//! Makers of shared channels that offer what cannot be, or memory that cannot be trusted: each is a typed error and
//! leaves nothing open.

mod common;
#[path = "common/offer_rules.rs"]
mod offer_rules;
#[path = "common/ring_peer.rs"]
mod ring_peer;
#[path = "common/rounds.rs"]
mod rounds;

use std::fmt::Debug;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use common::*;
use nix::errno::Errno;
use nix::fcntl::{OFlag, SealFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::{ftruncate, pipe};
use offer_rules::is_good;
use recordfd::event::{Receiver, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::uapi::{AcpiNotify, Format, Offer, OfferFlags};
use recordfd::{Error, TryRecvError, Violation};
use ring_peer::{RingPeer, SEALS, good_offer, memory, seal, sealed_memory, send_with};
use zerocopy::{FromBytes, IntoBytes};

const VERSION: &str = "no version of the ring protocol is known to both sides";
const SIZE: &str = "the records are not as long as those of the format";
const DEPTH: &str = "a depth is no power of two up to 1048576";
const ALIGNED: &str = "a ring is not aligned";
const WITHIN: &str = "a ring is not within the memory";
const OVERLAP: &str = "the rings overlap";
const HUGE: &str = "the memory may be of huge pages";
const LARGER: &str = "the memory is larger than its rings need";
const LENGTH: &str = "the memory is not as large as the offer says";
const SEALED: &str = "the memory is not sealed";

/// What attaching as each of the four ends says.
fn attach_receiver(socket: OwnedFd) -> Result<Receiver<AcpiNotify>, Error> {
    Ok(Receiver::from_shared(socket)?)
}

fn attach_sender(socket: OwnedFd) -> Result<SoleSender<AcpiNotify>, Error> {
    Ok(SoleSender::from_shared(socket)?)
}

fn attach_reporter(socket: OwnedFd) -> Result<FaultReporter, Error> {
    Ok(FaultReporter::from_shared(socket, &fault::Options::new())?)
}

fn attach_responder(socket: OwnedFd) -> Result<FaultResponder, Error> {
    Ok(FaultResponder::from_shared(socket)?)
}

/// An offer to a receiver that can be.
fn good() -> Offer {
    good_offer(Format::ACPI_NOTIFY_V1, false, 64, 64)
}

/// A socket that holds `bytes` and `descriptors`, and its other side.
fn holding(bytes: &[u8], descriptors: &[RawFd]) -> (UnixStream, OwnedFd) {
    let (near, far) = UnixStream::pair().unwrap();
    send_with(&near, bytes, descriptors);
    (near, far.into())
}

/// Why `bytes` with `memory` are refused; who sent them learns of it.
fn refused<T: Debug>(bytes: &[u8], memory: impl AsFd, attach: impl Fn(OwnedFd) -> Result<T, Error>) -> Error {
    let (near, far) = holding(bytes, &[memory.as_fd().as_raw_fd()]);
    let error = attach(far).unwrap_err();
    assert_closed(near);
    error
}

/// Fails unless the other side of `near` was closed; other tests that start processes have copies for a while.
fn assert_closed(mut near: UnixStream) {
    near.set_nonblocking(true).unwrap();
    assert!(until(|| match near.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("something was put in"),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }));
}

/// Fails unless `error` is a refusal of the offer for this reason.
fn assert_reason(error: &Error, expected: &str) {
    match error {
        Error::BadOffer { reason } => assert_eq!(*reason, expected),
        other => panic!("{other:?} instead of {expected:?}"),
    }
    assert_eq!(error.errno(), Errno::EINVAL as i32);
}

/// The call that failed, and how.
fn failed_call(error: &Error) -> (&str, Errno) {
    match error {
        Error::Os { call, source } => (call, Errno::from_raw(source.raw_os_error().unwrap())),
        other => panic!("{other:?}"),
    }
}

/// A change of a good offer, and why it is refused then.
type Case = (fn(&mut Offer), &'static str);

const CASES: [Case; 52] = [
    (|offer| offer.abi_max = 0, VERSION),
    (|offer| (offer.abi_min, offer.abi_max) = (0, 0), VERSION),
    (|offer| (offer.abi_min, offer.abi_max) = (2, 2), VERSION),
    (|offer| (offer.abi_min, offer.abi_max) = (2, 1), VERSION),
    (|offer| (offer.abi_min, offer.abi_max) = (u16::MAX, u16::MAX), VERSION),
    (|offer| offer.record_size = 0, SIZE),
    (|offer| offer.record_size = 1, SIZE),
    (|offer| offer.record_size = 56, SIZE),
    (|offer| offer.record_size = 65, SIZE),
    (|offer| offer.record_size = u32::MAX, SIZE),
    (|offer| offer.reply_size = 0, SIZE),
    (|offer| offer.reply_size = 8, SIZE),
    (|offer| offer.reply_size = u32::MAX, SIZE),
    (|offer| offer.depth = 0, DEPTH),
    (|offer| offer.depth = 3, DEPTH),
    (|offer| offer.depth = 63, DEPTH),
    (|offer| offer.depth = (1 << 20) + 1, DEPTH),
    (|offer| offer.depth = 1 << 21, DEPTH),
    (|offer| offer.depth = 1 << 31, DEPTH),
    (|offer| offer.depth = u32::MAX, DEPTH),
    (|offer| offer.reply_depth = 0, DEPTH),
    (|offer| offer.reply_depth = 48, DEPTH),
    (|offer| offer.reply_depth = 1 << 21, DEPTH),
    (|offer| offer.reply_depth = u32::MAX, DEPTH),
    (|offer| offer.depth = 1 << 20, WITHIN),
    (|offer| offer.reply_depth = 1 << 20, WITHIN),
    (|offer| offer.reply_depth = 128, WITHIN),
    (|offer| offer.records_offset = offer.map_size.next_multiple_of(128), WITHIN),
    (|offer| offer.records_offset = 1 << 63, WITHIN),
    (|offer| offer.records_offset = u64::MAX - 127, WITHIN),
    (|offer| offer.replies_offset += 128, WITHIN),
    (|offer| offer.replies_offset = 1 << 63, WITHIN),
    (|offer| offer.replies_offset = u64::MAX - 127, WITHIN),
    (|offer| offer.map_size = 1, WITHIN),
    (|offer| offer.map_size -= 1, WITHIN),
    (|offer| offer.records_offset = 1, ALIGNED),
    (|offer| offer.records_offset = 64, ALIGNED),
    (|offer| offer.records_offset = u64::MAX, ALIGNED),
    (|offer| offer.replies_offset += 8, ALIGNED),
    (|offer| offer.replies_offset = u64::MAX, ALIGNED),
    (|offer| offer.records_offset = 128, OVERLAP),
    (|offer| offer.replies_offset = 0, OVERLAP),
    (|offer| offer.replies_offset -= 128, OVERLAP),
    (|offer| offer.map_size = 0, HUGE),
    (|offer| offer.map_size = 2 << 20, HUGE),
    (|offer| offer.map_size += 4097, LARGER),
    (|offer| offer.map_size = (1 << 46) + 1, LARGER),
    (|offer| offer.map_size = u64::MAX, LARGER),
    (|offer| (offer.replies_offset, offer.map_size) = (1 << 40, (1 << 40) + 2048), LARGER),
    (|offer| (offer.records_offset, offer.map_size) = (1 << 40, (1 << 40) + 8191), LARGER),
    (|offer| offer.map_size += 1, LENGTH),
    (|offer| offer.map_size += 4096, LENGTH),
];

#[test]
fn offer_with_one_field_wrong_is_refused_for_that_field() {
    let memory = sealed_memory(good().map_size);
    for (number, (change, reason)) in CASES.into_iter().enumerate() {
        let mut offer = good();
        change(&mut offer);
        let error = refused(offer.as_bytes(), &memory, attach_receiver);
        eprintln!("number {number}: {error:?}");
        assert_reason(&error, reason);
    }
}

#[test]
fn offer_that_is_none_is_refused_for_what_is_wrong_with_its_bytes() {
    use recordfd::uapi::OfferError::{Reserved, TooShort, TrailingBytes, UnknownTail};
    let memory = sealed_memory(good().map_size);
    let with_size = |size: u32, length: usize| {
        let mut offer = good();
        offer.size = size;
        let mut bytes = offer.as_bytes().to_vec();
        bytes.resize(length, 0);
        bytes
    };
    let changed = |length: usize, at: usize, value: u8| {
        let mut bytes = with_size(length as u32, length);
        bytes[at] = value;
        bytes
    };
    let cases = [
        (with_size(0, 64), TooShort { found: 0, needed: 64 }),
        (with_size(1, 64), TooShort { found: 1, needed: 64 }),
        (with_size(63, 64), TooShort { found: 63, needed: 64 }),
        (with_size(65, 64), TooShort { found: 64, needed: 65 }),
        (with_size(u32::MAX, 64), TooShort { found: 64, needed: u32::MAX as usize }),
        (with_size(64, 65), TrailingBytes { found: 1 }),
        (with_size(64, 4096), TrailingBytes { found: 448 }),
        (with_size(4096, 4096), TooShort { found: 512, needed: 4096 }),
        (changed(65, 64, 1), UnknownTail { offset: 64 }),
        (changed(512, 511, 0x80), UnknownTail { offset: 511 }),
        (changed(64, 12, 2), Reserved { field: "flags" }),
        (changed(64, 15, 0x80), Reserved { field: "flags" }),
        (changed(64, 56, 1), Reserved { field: "reserved" }),
        (changed(64, 63, 0x80), Reserved { field: "reserved" }),
    ];
    for (bytes, expected) in cases {
        match refused(&bytes, &memory, attach_receiver) {
            Error::Offer(found) => assert_eq!(found, expected),
            other => panic!("{other:?} instead of {expected:?}"),
        }
    }
    // What a later version may send is taken, if it asks for nothing.
    for length in [64, 65, 80, 512] {
        let memory = sealed_memory(good().map_size);
        let (near, far) = holding(&with_size(length as u32, length), &[memory.as_raw_fd()]);
        assert!(matches!(attach_receiver(far).unwrap().try_recv(), Err(TryRecvError::Empty)), "{length}");
        drop(near);
    }
    // So are its versions, and less than there is room for.
    let changes: [fn(&mut Offer); 2] =
        [|offer| offer.abi_max = u16::MAX, |offer| (offer.depth, offer.reply_depth) = (1, 1)];
    for change in changes {
        let mut offer = good();
        change(&mut offer);
        let memory = sealed_memory(offer.map_size);
        let (_near, far) = holding(offer.as_bytes(), &[memory.as_raw_fd()]);
        attach_receiver(far).unwrap();
    }
}

#[test]
fn end_without_a_whole_offer_is_none_to_attach() {
    let memory = sealed_memory(good().map_size);
    for length in [1, 8, 63] {
        let (_near, far) = holding(&good().as_bytes()[..length], &[memory.as_raw_fd()]);
        let error = attach_receiver(far).unwrap_err();
        assert!(matches!(error, Error::AlreadyAttached), "{error:?}");
        assert_eq!(error.errno(), Errno::EBUSY as i32);
    }
    let (_near, far) = UnixStream::pair().unwrap();
    assert!(matches!(attach_sender(far.into()), Err(Error::AlreadyAttached)));
    let (near, far) = UnixStream::pair().unwrap();
    drop(near);
    assert!(until(|| !matches!(attach_sender(far.try_clone().unwrap().into()), Err(Error::AlreadyAttached))));
    assert!(matches!(attach_sender(far.into()), Err(Error::Closed)));
    for not_a_socket in [memory, pipe().unwrap().0, File::open("/dev/zero").unwrap().into()] {
        assert!(matches!(attach_reporter(not_a_socket), Err(Error::NotAUnixStream(_))));
    }
}

#[test]
fn descriptors_other_than_the_one_that_should_come() {
    let offer = good();
    let [memory, other] = [0, 1].map(|_| sealed_memory(offer.map_size));
    let (near, far) = holding(offer.as_bytes(), &[]);
    let error = attach_receiver(far).unwrap_err();
    assert!(matches!(error, Error::NoDescriptor), "{error:?}");
    assert_closed(near);
    // The first one counts.
    let short = sealed_memory(1);
    for more in [&[][..], &[other.as_raw_fd()], &[short.as_raw_fd(); 252]] {
        let memory = sealed_memory(offer.map_size);
        let (_near, far) = holding(offer.as_bytes(), &[&[memory.as_raw_fd()], more].concat());
        assert!(matches!(attach_receiver(far).unwrap().try_recv(), Err(TryRecvError::Empty)));
    }
    let (_near, far) = holding(offer.as_bytes(), &[short.as_raw_fd(), memory.as_raw_fd()]);
    assert_reason(&attach_receiver(far).unwrap_err(), LENGTH);
    // It must come with the offer, not behind it.
    let (near, far) = holding(offer.as_bytes(), &[]);
    send_with(&near, &[0], &[memory.as_raw_fd()]);
    assert!(matches!(attach_receiver(far), Err(Error::NoDescriptor | Error::Offer(_))));
}

#[test]
fn end_whose_maker_is_gone_still_gives_what_was_published() {
    let (mut peer, end) = RingPeer::make(&good());
    (0..2).for_each(|number| peer.publish(&wire(number)));
    peer.hang_up();
    let mut rx = attach_receiver(end).unwrap();
    for number in 0..2 {
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(number)));
    }
    assert!(until(|| matches!(rx.try_recv(), Err(TryRecvError::Closed))));
}

#[test]
fn second_offer_is_a_stray_wake_up_to_who_attached_the_first() {
    let offer = good();
    let memory = sealed_memory(offer.map_size);
    let (near, far) = holding(offer.as_bytes(), &[memory.as_raw_fd()]);
    send_with(&near, offer.as_bytes(), &[memory.as_raw_fd()]);
    let mut rx = attach_receiver(far).unwrap();
    let received = rx.try_recv();
    assert!(matches!(received, Err(TryRecvError::PeerViolation(Violation::StrayToken))), "{received:?}");
    // One offer is for one, and one memory.
    let (_near, copy) = holding(offer.as_bytes(), &[memory.as_raw_fd()]);
    assert!(matches!(attach_receiver(copy), Err(Error::AlreadyAttached)));
    let memory = sealed_memory(offer.map_size);
    let (_near, far) = holding(offer.as_bytes(), &[memory.as_raw_fd()]);
    let again = far.try_clone().unwrap();
    let _rx = attach_receiver(far).unwrap();
    assert!(matches!(attach_receiver(again), Err(Error::AlreadyAttached)));
}

#[test]
fn end_for_the_other_side_or_of_another_format_is_refused_as_such() {
    let offer = |format, produces| good_offer(format, produces, 64, 64);
    let (acpi, fault) = (Format::ACPI_NOTIFY_V1, Format::IOMMU_PGFAULT_V2);
    fn check<T: Debug>(right: Offer, other: Offer, attach: fn(OwnedFd) -> Result<T, Error>) {
        let memory = sealed_memory(right.map_size);
        let mut wrong = right;
        wrong.flags.toggle(OfferFlags::PRODUCER);
        let error = refused(wrong.as_bytes(), &memory, attach);
        assert!(matches!(error, Error::WrongEnd), "{error:?}");
        let error = refused(other.as_bytes(), sealed_memory(other.map_size), attach);
        assert!(matches!(error, Error::Format { found, .. } if found == other.format), "{error:?}");
        let (_near, far) = holding(right.as_bytes(), &[memory.as_raw_fd()]);
        attach(far).unwrap();
    }
    check(offer(acpi, false), offer(fault, false), attach_receiver);
    check(offer(acpi, true), offer(Format::MIXED_V1, true), attach_sender);
    check(offer(fault, true), offer(acpi, true), attach_reporter);
    check(offer(fault, false), offer(Format::VIOMMU_ARM_SMMUV3_V1, false), attach_responder);
}

#[test]
fn memory_that_may_change_its_size_is_refused() {
    let offer = good();
    let all = [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL];
    // Every choice of seals but all of them.
    for choice in 0..7 {
        let memory = memory(offer.map_size, MFdFlags::MFD_ALLOW_SEALING);
        // The one that forbids more last.
        for (number, one) in all.into_iter().enumerate() {
            if choice & 1 << number != 0 {
                seal(&memory, one);
            }
        }
        assert_reason(&refused(offer.as_bytes(), &memory, attach_receiver), SEALED);
    }
    assert_reason(
        &refused(offer.as_bytes(), memory(offer.map_size, MFdFlags::empty()), attach_receiver),
        SEALED,
    );
    for size in [0, 1, offer.map_size - 1, offer.map_size + 1, offer.map_size + 4096, 1 << 40] {
        assert_reason(&refused(offer.as_bytes(), sealed_memory(size), attach_receiver), LENGTH);
    }
}

#[test]
fn memory_that_is_larger_than_its_rings_is_refused() {
    // A page may be unused in front of each ring, and after the last one: so each may begin on a page.
    let mut offer = good();
    for spread in [0, 4096] {
        (offer.records_offset, offer.replies_offset) = (spread, good().replies_offset + 2 * spread);
        for (map_size, fits) in [(0, true), (4096, true), (4097, false), (64 << 40, false)] {
            offer.map_size = good().map_size + 2 * spread + map_size;
            let memory = sealed_memory(offer.map_size);
            let (_near, far) = holding(offer.as_bytes(), &[memory.as_raw_fd()]);
            match attach_receiver(far) {
                Ok(_) => assert!(fits, "{offer:?}"),
                Err(error) => {
                    assert!(!fits, "{offer:?}");
                    assert_reason(&error, LARGER);
                }
            }
        }
    }
}

#[test]
fn memory_that_cannot_be_written_cannot_be_mapped() {
    let offer = good();
    for more in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE] {
        let memory = memory(offer.map_size, MFdFlags::MFD_ALLOW_SEALING);
        seal(&memory, more);
        seal(&memory, SEALS);
        let error = refused(offer.as_bytes(), &memory, attach_receiver);
        assert_eq!(failed_call(&error), ("mmap", Errno::EPERM));
    }
    let memory = sealed_memory(offer.map_size);
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    for mode in [OFlag::O_RDONLY, OFlag::O_WRONLY] {
        let same = open(path.as_str(), mode | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let error = refused(offer.as_bytes(), &same, attach_receiver);
        assert_eq!(failed_call(&error), ("mmap", Errno::EACCES));
    }
    let place = open(path.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let error = refused(offer.as_bytes(), &place, attach_receiver);
    assert_eq!(failed_call(&error), ("fcntl", Errno::EBADF));
}

#[test]
fn descriptor_of_something_else_than_sealed_memory_is_refused() {
    let offer = good();
    let (read, write) = pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let files =
        ["/dev/zero", "/dev/null", "/proc/self/maps", "/"].map(|path| File::open(path).unwrap().into());
    for other in files.into_iter().chain([read, write, socket.into()]) {
        let error = refused(offer.as_bytes(), &other, attach_receiver);
        assert_eq!(failed_call(&error), ("fcntl", Errno::EINVAL));
    }
    // A file in memory, but of a file system: it has one seal, by which it can get no other.
    let path = format!("/dev/shm/recordfd-{}", std::process::id());
    match File::options().read(true).write(true).create_new(true).open(&path) {
        Ok(file) => {
            std::fs::remove_file(&path).unwrap();
            ftruncate(&file, offer.map_size as i64).unwrap();
            assert_reason(&refused(offer.as_bytes(), &file, attach_receiver), SEALED);
        }
        Err(error) => eprintln!("skipped: no file system in memory: {error}"),
    }
}

#[test]
fn memory_of_huge_pages_is_refused_whatever_is_said_of_its_size() {
    const HUGE_PAGE: u64 = 2 << 20;
    let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB | MFdFlags::MFD_ALLOW_SEALING;
    let memory = match memfd_create(c"huge", flags | MFdFlags::MFD_CLOEXEC) {
        Ok(memory) => memory,
        Err(errno) => return eprintln!("skipped: no huge pages: {errno}"),
    };
    ftruncate(&memory, HUGE_PAGE as i64).unwrap();
    seal(&memory, SEALS);
    for (size, reason) in [(HUGE_PAGE, HUGE), (HUGE_PAGE + 128, LARGER), (good().map_size, LENGTH)] {
        let mut offer = good();
        offer.map_size = size;
        assert_reason(&refused(offer.as_bytes(), &memory, attach_receiver), reason);
    }
    // It can have no other sizes, which is what it is known by.
    let unsealed = memfd_create(c"huge", flags | MFdFlags::MFD_CLOEXEC).unwrap();
    assert_eq!(ftruncate(&unsealed, 4224), Err(Errno::EINVAL));
}

#[test]
fn nothing_that_was_refused_stays_open() {
    in_own_process("nothing_that_was_refused_stays_open", || {
        let memory = sealed_memory(good().map_size);
        let before = open_descriptors();
        for (change, _) in CASES {
            let mut offer = good();
            change(&mut offer);
            refused(offer.as_bytes(), &memory, attach_receiver);
            assert_eq!(open_descriptors(), before);
        }
        for (bytes, count) in [(good().as_bytes(), 253), (&[0xff; 4096], 9), (&[0; 64], 1)] {
            let descriptors = vec![memory.as_raw_fd(); count];
            for attach in [
                |socket| attach_receiver(socket).map(drop),
                |socket| attach_sender(socket).map(drop),
                |socket| attach_reporter(socket).map(drop),
                |socket| attach_responder(socket).map(drop),
            ] {
                let (_near, far) = holding(bytes, &descriptors);
                let _ = attach(far);
                drop(_near);
                assert_eq!(open_descriptors(), before);
            }
        }
        refused(good().as_bytes(), File::open("/dev/zero").unwrap(), attach_receiver);
        refused(good().as_bytes(), sealed_memory(1), attach_receiver);
        refused(good().as_bytes(), &memory, attach_responder);
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn random_offers_are_taken_exactly_if_they_keep_the_rules() {
    let (mut taken, mut refused) = (0, 0);
    let rounds = rounds::each_seed("offers", 4000, |seed| {
        let mut random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 16) % bound
        };
        let mut bytes = good().as_bytes().to_vec();
        for _ in 0..below(3) {
            // A field of a power of two, near the old one, or of any bytes.
            let (at, width) =
                [(4, 2), (6, 2), (8, 4), (16, 4), (20, 4), (24, 4), (28, 4), (32, 8), (40, 8), (48, 8)]
                    [below(10) as usize];
            let mut field = [0; 8];
            field[..width].copy_from_slice(&bytes[at..at + width]);
            let old = u64::from_ne_bytes(field);
            let new = match below(5) {
                0 => 1 << below(64),
                1 => old.wrapping_add(128 * below(5)).wrapping_sub(256),
                2 => old >> below(8),
                3 => 128 * below(50),
                _ => below(u64::MAX),
            };
            bytes[at..at + width].copy_from_slice(&new.to_ne_bytes()[..width]);
        }
        let offer = Offer::read_from_bytes(&bytes).unwrap();
        let memory = sealed_memory(good().map_size);
        let (_near, far) = holding(&bytes, &[memory.as_raw_fd()]);
        let attached = attach_receiver(far);
        let expected = is_good(&offer, good().map_size);
        assert_eq!(attached.is_ok(), expected, "{offer:?}: {attached:?}");
        *(if expected { &mut taken } else { &mut refused }) += 1;
        if let Ok(mut rx) = attached {
            // It uses no more than what was said.
            let received = rx.try_recv();
            assert!(matches!(received, Err(TryRecvError::Empty)), "{received:?}");
        }
    });
    assert!(rounds.is_none() || taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
}
