//! How a shared channel comes about: one side makes memory and a pair of sockets, and writes an Offer with the
//! memory's descriptor into the socket that it gives away; whoever attaches that one reads it.
//!
//! What attaching takes is in the socket before it is handed on, so attaching never waits. The memory cannot be
//! made shorter under whoever maps it: the maker seals it, and who attaches it checks the seals.

use std::io::IoSliceMut;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{MsgFlags, recvmsg};
use nix::unistd::{Whence, ftruncate, lseek};
use recordfd_uapi::{Format, Offer, OfferFlags};
use zerocopy::IntoBytes;

use super::layout::{ATTACHED, CONTROL_WORDS, Layout};
use super::port::Port;
use crate::channel::check_told_depth;
use crate::error::{Error, Rejected};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::{self, Mapping, View};
use crate::transport::socket::{self, MOST_OFFER};

/// What the memory must be sealed against. (Seals against writing would make it useless, and mapping it fails.)
const SEALS: [SealFlag; 3] = [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL];

/// How much memory is reserved by one call. A signal undoes what the call it interrupts has done, so that a large one
/// may never end.
const RESERVED_AT_ONCE: u64 = 1 << 20;

/// What is made: this side's end, the other side's socket, and how many records there is room for.
pub(crate) type Made = (Arc<Port>, OwnedFd, u32);

/// Makes a channel of `format`. This side `produces` the records, or consumes them.
pub(crate) fn make(format: Format, produces: bool, depth: u32, reply_depth: u32) -> Result<Made, Error> {
    let layout = Layout::new(format, depth, reply_depth)?;
    let memory = memory(layout.map_size)?;
    let offer = layout.offer(!produces);
    let (near, far) = socket::pair(Some((offer.as_bytes(), memory.as_fd())))?;
    let mapping = map(memory, &layout)?;
    let port = Port::new(near, &mapping, &layout, produces);
    // As of every new channel: the consumers want to be woken.
    port.arm();
    Ok((port, far, layout.records.depth))
}

/// Attaches the end that another process has made a channel for. This side is to produce the records, or to
/// consume them, of a format that it `knows`; returns what it knows of it and how many records there is room for, too.
///
/// A ring deeper than `max_depth` is refused. What is refused is given back untouched: the Offer is peeked at, and taken
/// out only once nothing else can fail.
pub(crate) fn attach<F>(
    socket: OwnedFd,
    max_depth: u32,
    produces: bool,
    knows: impl FnOnce(Format) -> Result<F, Error>,
) -> Result<(Arc<Port>, F, u32), Rejected<OwnedFd>> {
    let (socket, (mapping, layout, known)) =
        Rejected::unless(socket, |socket| take_offer(socket, max_depth, produces, knows))?;
    Ok((Port::new(socket, &mapping, &layout, produces), known, layout.records.depth))
}

/// Checks and takes the Offer; returns the memory, where everything is in it, and what is known of its format.
fn take_offer<F>(
    socket: &OwnedFd,
    max_depth: u32,
    produces: bool,
    knows: impl FnOnce(Format) -> Result<F, Error>,
) -> Result<(Arc<Mapping>, Layout, F), Error> {
    socket::check(socket)?;
    let (bytes, length, memory) = peek_offer(socket)?;
    let offer = Offer::from_bytes(&bytes[..length]).map_err(Error::Offer)?;
    if offer.flags.contains(OfferFlags::PRODUCER) != produces {
        return Err(Error::WrongEnd);
    }
    let known = knows(offer.format)?;
    let layout = Layout::checked(&offer)?;
    check_told_depth(layout.records.depth.max(layout.replies.depth), max_depth)?;
    check_seals(memory.as_fd())?;
    let size = lseek(&memory, 0, Whence::SeekEnd).map_err(|errno| Error::os("lseek", errno))?;
    if u64::try_from(size) != Ok(layout.map_size) {
        return Err(Error::BadOffer { reason: "the memory is not as large as the offer says" });
    }
    let mapping = map(memory, &layout)?;
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| Error::os("fcntl", errno))?;
    // Of several processes that look at copies of one end, one has it. Relaxed: the word alone says so.
    let control: View<[AtomicU32; CONTROL_WORDS]> = mapping.view(layout.records.offset);
    if control[ATTACHED].swap(1, Ordering::Relaxed) != 0 {
        return Err(Error::AlreadyAttached);
    }
    // This fails only if a process that has not exchanged the word reads the socket: then nobody can attach the end.
    take_out(socket, length)?;
    Ok((mapping, layout, known))
}

/// Looks at the Offer and its descriptor. Nothing is taken out: what else there may be belongs to whoever has
/// attached the end.
fn peek_offer(socket: &OwnedFd) -> Result<([u8; MOST_OFFER], usize, OwnedFd), Error> {
    let mut bytes = [0; MOST_OFFER];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let (length, memory, cut_off) =
        sys::recv_descriptor(socket.as_fd(), &mut bytes, flags).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EAGAIN) => Error::AlreadyAttached,
                Some(libc::ECONNRESET) => Error::Closed,
                _ => Error::os("recvmsg", error),
            }
        })?;
    match length {
        0 => Err(Error::Closed),
        Offer::MIN_SIZE.. => match memory {
            Some(memory) => Ok((bytes, length, memory)),
            None if cut_off => Err(Error::DescriptorsCutOff),
            None => Err(Error::NoDescriptor),
        },
        _ => Err(Error::AlreadyAttached),
    }
}

/// Takes the Offer out, which was looked at; the descriptor on it goes with it.
fn take_out(socket: &OwnedFd, length: usize) -> Result<(), Error> {
    let mut bytes = [0; MOST_OFFER];
    let mut left = &mut bytes[..length];
    while !left.is_empty() {
        let mut buffer = [IoSliceMut::new(left)];
        match recvmsg::<()>(socket.as_raw_fd(), &mut buffer, None, MsgFlags::MSG_DONTWAIT) {
            Ok(message) if message.bytes > 0 => {
                let taken = message.bytes;
                left = &mut left[taken..];
            }
            Err(Errno::EINTR) => {}
            Ok(_) => return Err(Error::Closed),
            Err(errno) => return Err(Error::os("recvmsg", errno)),
        }
    }
    Ok(())
}

/// Memory of `size` bytes that stays as large as it is, with all its pages: without memory for them making the channel
/// fails, and not a later write into it (`SIGBUS`).
fn memory(size: u64) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = match memfd_create(c"recordfd", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        // Before Linux 6.3.
        Err(Errno::EINVAL) => memfd_create(c"recordfd", flags),
        outcome => outcome,
    };
    let memory = memory.map_err(|errno| Error::os("memfd_create", errno))?;
    ftruncate(&memory, size as libc::off_t).map_err(|errno| Error::os("ftruncate", errno))?;
    for offset in (0..size).step_by(RESERVED_AT_ONCE as usize) {
        let length = RESERVED_AT_ONCE.min(size - offset);
        while let Err(errno) =
            fallocate(&memory, FallocateFlags::empty(), offset as libc::off_t, length as libc::off_t)
        {
            if errno != Errno::EINTR {
                return Err(Error::os("fallocate", errno));
            }
        }
    }
    let seals = SEALS.into_iter().collect();
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| Error::os("fcntl", errno))?;
    Ok(memory)
}

fn check_seals(memory: BorrowedFd<'_>) -> Result<(), Error> {
    // Only memory that can be sealed has seals: this also refuses files on other file systems.
    let seals = fcntl(memory, FcntlArg::F_GET_SEALS).map_err(|errno| Error::os("fcntl", errno))?;
    if SealFlag::from_bits_retain(seals).contains(SEALS.into_iter().collect()) {
        Ok(())
    } else {
        Err(Error::BadOffer { reason: "the memory is not sealed" })
    }
}

fn map(memory: OwnedFd, layout: &Layout) -> Result<Arc<Mapping>, Error> {
    let length = usize::try_from(layout.map_size).ok().and_then(NonZeroUsize::new);
    let length = length.ok_or(Error::BadOffer { reason: "the memory is larger than can be mapped" })?;
    Mapping::new(memory, length).map_err(|source| Error::os("mmap", source))
}
