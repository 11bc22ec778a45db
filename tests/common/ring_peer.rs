//! A peer of a shared channel that has the memory and the socket, and writes what it likes into both.
//!
//! Where everything is in the memory is said here once more, from the text of the ring protocol and not from its
//! code: so whoever moves a word fails the tests. The memory is read and written with pread(2) and pwrite(2), which
//! are coherent with the mapping of the side under test.

#![allow(dead_code, reason = "no single test uses all of it")]
#![allow(unreachable_pub, reason = "compiled into each test")]

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::ftruncate;
use recordfd::UnattachedEnd;
use recordfd::fd::recv_descriptor;
use recordfd::uapi::{Format, Offer, OfferFlags};
use zerocopy::IntoBytes;

/// Marks that `TailLoss` holds a number.
pub const LOSS: u32 = 1 << 31;
/// The version of the ring protocol.
const ABI: u16 = 1;
/// Where a ring's slots begin.
const SLOTS: u64 = 384;
/// Rings begin at multiples of it.
const LINE: u64 = 128;

/// A word of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Tail,
    TailLoss,
    Gone,
    Head,
    Fences,
    Armed,
    Drain,
    Attached,
}

impl Word {
    pub const ALL: [Self; 8] = [
        Self::Tail,
        Self::TailLoss,
        Self::Gone,
        Self::Head,
        Self::Fences,
        Self::Armed,
        Self::Drain,
        Self::Attached,
    ];

    /// Bytes from the beginning of the ring: the producer's line, the consumer's, the bell's.
    const fn offset(self) -> u64 {
        match self {
            Self::Tail => 0,
            Self::TailLoss => 4,
            Self::Gone => 8,
            Self::Head => 128,
            Self::Fences => 264,
            Self::Armed => 256,
            Self::Drain => 260,
            Self::Attached => 268,
        }
    }
}

/// A ring in the memory, for who minds no rules.
#[derive(Clone, Debug)]
pub struct RawRing {
    memory: Arc<File>,
    offset: u64,
    size: usize,
    pub depth: u32,
}

impl RawRing {
    pub fn get(&self, word: Word) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, self.offset + word.offset()).unwrap();
        u32::from_ne_bytes(bytes)
    }

    pub fn set(&self, word: Word, value: u32) {
        self.memory.write_all_at(&value.to_ne_bytes(), self.offset + word.offset()).unwrap();
    }

    pub fn add(&self, word: Word, value: u32) {
        self.set(word, self.get(word).wrapping_add(value));
    }

    /// Every word in front of the slots that is not 0, but for the one that says that the end was attached: its
    /// bytes from the beginning of the ring, and its value.
    pub fn words_in_use(&self) -> Vec<(u64, u32)> {
        let mut bytes = [0; SLOTS as usize];
        self.memory.read_exact_at(&mut bytes, self.offset).unwrap();
        let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        let attached = Word::Attached.offset();
        (0..).step_by(4).zip(words).filter(|(at, word)| *word != 0 && *at != attached).collect()
    }

    /// Writes what is there first, up to a slot's length, into the slot of record `number`.
    pub fn set_slot(&self, number: u32, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.size)];
        self.memory.write_all_at(bytes, self.slot_offset(number)).unwrap();
    }

    /// Writes `bytes` into the slot of record `number`, after the header that an event has.
    pub fn set_payload(&self, number: u32, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.slot_offset(number) + 8).unwrap();
    }

    pub fn slot(&self, number: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        self.memory.read_exact_at(&mut bytes, self.slot_offset(number)).unwrap();
        bytes
    }

    fn slot_offset(&self, number: u32) -> u64 {
        let slot = number % self.depth.max(1);
        self.offset + SLOTS + u64::from(slot) * self.size as u64
    }
}

/// The peer of the side under test.
#[derive(Debug)]
pub struct RingPeer {
    /// What the maker has said of the memory.
    pub offer: Offer,
    /// The ring that this peer would produce, and the one that it would consume.
    pub produced: RawRing,
    pub consumed: RawRing,
    /// None when it has hung up.
    socket: Option<UnixStream>,
    memory: Arc<File>,
}

impl RingPeer {
    /// Takes the end that the side under test, the maker, gives away.
    pub fn attach(end: UnattachedEnd) -> Self {
        let socket = OwnedFd::from(end);
        let mut bytes = [0; 512];
        let (length, memory) = recv_descriptor(&socket, &mut bytes).unwrap();
        let offer = Offer::from_bytes(&bytes[..length]).unwrap();
        Self::new(socket.into(), memory.into(), offer, offer.flags.contains(OfferFlags::PRODUCER))
    }

    /// Makes a channel as `offer` says; the socket is for the side under test to attach.
    pub fn make(offer: &Offer) -> (Self, OwnedFd) {
        let (peer, end) = Self::make_with(offer, sealed_memory(offer.map_size));
        peer.arm();
        (peer, end)
    }

    /// Offers `memory` as `offer` says, which may be nonsense; no word is set.
    pub fn make_with(offer: &Offer, memory: OwnedFd) -> (Self, OwnedFd) {
        let (near, far) = UnixStream::pair().unwrap();
        send_with(&near, offer.as_bytes(), &[memory.as_raw_fd()]);
        let peer = Self::new(near, memory.into(), *offer, !offer.flags.contains(OfferFlags::PRODUCER));
        (peer, far.into())
    }

    /// As of every new channel: both sides want to be woken.
    pub fn arm(&self) {
        for ring in [&self.produced, &self.consumed] {
            ring.set(Word::Armed, 1);
        }
    }

    fn new(socket: UnixStream, memory: File, offer: Offer, produces: bool) -> Self {
        socket.set_nonblocking(true).unwrap();
        let memory = Arc::new(memory);
        let ring =
            |offset, size: u32, depth| RawRing { memory: memory.clone(), offset, size: size as usize, depth };
        let records = ring(offer.records_offset, offer.record_size, offer.depth);
        let replies = ring(offer.replies_offset, offer.reply_size, offer.reply_depth);
        let (produced, consumed) = if produces { (records, replies) } else { (replies, records) };
        Self { offer, produced, consumed, socket: Some(socket), memory }
    }

    /// Publishes a record by the rules.
    pub fn publish(&self, record: &[u8]) {
        let tail = self.produced.get(Word::Tail);
        self.produced.set_slot(tail, record);
        self.produced.set(Word::Tail, tail.wrapping_add(1));
        self.ring_bell();
    }

    /// Puts a token in by the rules: if one is wanted.
    pub fn ring_bell(&self) {
        if self.produced.get(Word::Armed) == 1 {
            self.produced.set(Word::Armed, 0);
            self.put(&[0]);
        }
    }

    /// Takes a record out by the rules.
    pub fn take_record(&self) -> Option<Vec<u8>> {
        let head = self.consumed.get(Word::Head);
        if head == self.consumed.get(Word::Tail) {
            return None;
        }
        let record = self.consumed.slot(head);
        self.consumed.set(Word::Head, head.wrapping_add(1));
        Some(record)
    }

    /// Puts bytes into the socket; returns how many there was room for.
    pub fn put(&self, bytes: &[u8]) -> usize {
        self.put_with(bytes, &[], MsgFlags::empty())
    }

    /// Puts bytes into the socket, with descriptors and flags.
    pub fn put_with(&self, bytes: &[u8], descriptors: &[RawFd], flags: MsgFlags) -> usize {
        let Some(socket) = &self.socket else { return 0 };
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[] } else { &rights[..] };
        let flags = flags | MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None).unwrap_or(0)
    }

    /// Takes everything out of the socket; returns how many bytes there were.
    pub fn take(&self) -> usize {
        let Some(mut socket) = self.socket.as_ref() else { return 0 };
        let (mut bytes, mut count) = ([0; 4096], 0);
        loop {
            match socket.read(&mut bytes) {
                Ok(0) => return count,
                Ok(more) => count += more,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset));
                    return count;
                }
            }
        }
    }

    /// The socket; there is one until this peer [hangs up](Self::hang_up).
    pub fn socket(&self) -> &UnixStream {
        self.socket.as_ref().unwrap()
    }

    /// Closes the socket; the memory stays.
    pub fn hang_up(&mut self) {
        self.socket = None;
    }

    pub fn has_hung_up(&self) -> bool {
        self.socket.is_none()
    }

    /// Gives pages of the memory back to the kernel: who looks there finds zeroes.
    pub fn punch_hole(&self, offset: u64, length: u64) {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&*self.memory, mode, offset as i64, length as i64).unwrap();
    }

    /// The memory's descriptor.
    pub fn memory(&self) -> &File {
        &self.memory
    }
}

/// An offer of a channel that can be; whoever attaches it `produces` the records, or consumes them.
pub fn good_offer(format: Format, produces: bool, depth: u32, reply_depth: u32) -> Offer {
    let layout = format.layout().unwrap();
    let end = |offset: u64, depth: u32, size: usize| {
        (offset + SLOTS + u64::from(depth) * size as u64).next_multiple_of(LINE)
    };
    let mut offer = Offer::new(format);
    offer.flags.set(OfferFlags::PRODUCER, produces);
    (offer.abi_min, offer.abi_max) = (ABI, ABI);
    (offer.depth, offer.record_size) = (depth, layout.record_size as u32);
    offer.reply_size = layout.reply_size as u32;
    offer.reply_depth = if layout.reply_size == 0 { 0 } else { reply_depth };
    offer.replies_offset = end(0, depth, layout.record_size);
    offer.map_size = end(offer.replies_offset, offer.reply_depth, layout.reply_size);
    if offer.map_size & 0xfff == 0 {
        // Whole pages might be huge ones.
        offer.map_size += LINE;
    }
    offer
}

/// The seals that the memory of a channel must have.
pub const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Memory of `size` bytes, sealed as it should be.
pub fn sealed_memory(size: u64) -> OwnedFd {
    let memory = memory(size, MFdFlags::MFD_ALLOW_SEALING);
    seal(&memory, SEALS);
    memory
}

/// Memory of `size` bytes without seals.
pub fn memory(size: u64, flags: MFdFlags) -> OwnedFd {
    let memory = memfd_create(c"hostile", flags | MFdFlags::MFD_CLOEXEC).unwrap();
    ftruncate(&memory, size as i64).unwrap();
    memory
}

pub fn seal(memory: impl AsFd, seals: SealFlag) {
    fcntl(memory.as_fd(), FcntlArg::F_ADD_SEALS(seals)).unwrap();
}

/// Sends bytes with any number of descriptors over a socket that has room for them.
pub fn send_with(socket: impl AsFd, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[] } else { &rights[..] };
    let socket = socket.as_fd().as_raw_fd();
    let sent = sendmsg::<()>(socket, &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None);
    assert_eq!(sent, Ok(bytes.len()));
}
