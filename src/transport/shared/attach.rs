//! How a shared channel comes about: one side makes memory and a pair of sockets, and writes an Offer with the
//! memory's descriptor into the socket that it gives away; whoever attaches that one reads it.
//!
//! What attaching takes is in the socket before it is handed on, so attaching never waits. The memory cannot be
//! made shorter under whoever maps it: the maker seals it, and who attaches it checks the seals.

use std::io::{ErrorKind, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{MsgFlags, recvmsg};
use nix::unistd::{Whence, ftruncate, lseek};
use recordfd_uapi::{Format, Offer, OfferFlags};
use zerocopy::IntoBytes;

use super::layout::Layout;
use super::port::Port;
use crate::error::Error;
use crate::fd::send_descriptor;
use crate::sys::{self, Mapping};
use crate::transport::socket;

/// The longest Offer that is looked at.
const MOST_OFFER: usize = 512;
/// What the memory must be sealed against. (Seals against writing would make it useless, and mapping it fails.)
const SEALS: [SealFlag; 3] = [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL];

/// What is made: this side's end, the other side's socket, and how many records there is room for.
pub(crate) type Made = (Arc<Port>, OwnedFd, u32);

/// Makes a channel of `format`. This side `produces` the records, or consumes them.
pub(crate) fn make(format: Format, produces: bool, depth: u32, reply_depth: u32) -> Result<Made, Error> {
    let layout = Layout::new(format, depth, reply_depth)?;
    let memory = memory(layout.map_size)?;
    let (near, far) = socket::pair()?;
    send_descriptor(&near, layout.offer(!produces).as_bytes(), memory.as_fd())?;
    let mapping = map(memory, &layout)?;
    let port = Port::new(near, &mapping, &layout, produces);
    // As of every new channel: the consumers want to be woken.
    port.arm();
    Ok((port, far, layout.records.depth))
}

/// Takes over the end that another process has made a channel for. This side is to produce the records, or to
/// consume them; returns the format and how many records there is room for, too.
pub(crate) fn attach(socket: OwnedFd, produces: bool) -> Result<(Arc<Port>, Format, u32), Error> {
    check_for_offer(&socket)?;
    let mut bytes = [0; MOST_OFFER];
    let received = sys::recv_descriptors(socket.as_fd(), &mut bytes, libc::MSG_DONTWAIT);
    let (length, memory, cut_off) = match received {
        Ok(received) => received,
        // Another one was quicker.
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Error::AlreadyAttached),
        Err(error) => return Err(Error::os("recvmsg", error)),
    };
    if cut_off {
        return Err(Error::DescriptorsCutOff);
    }
    let memory = memory.ok_or(Error::NoDescriptor)?;
    let offer = Offer::from_bytes(&bytes[..length]).map_err(Error::Offer)?;
    if offer.flags.contains(OfferFlags::PRODUCER) != produces {
        return Err(Error::WrongEnd);
    }
    let layout = Layout::checked(&offer)?;
    check_seals(memory.as_fd())?;
    let size = lseek(&memory, 0, Whence::SeekEnd).map_err(|errno| Error::os("lseek", errno))?;
    if u64::try_from(size) != Ok(layout.map_size) {
        return Err(Error::BadOffer { reason: "the memory is not as large as the offer says" });
    }
    let mapping = map(memory, &layout)?;
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| Error::os("fcntl", errno))?;
    Ok((Port::new(socket, &mapping, &layout, produces), layout.format, layout.records.depth))
}

/// Checks that an Offer is there, without taking anything out: what else there may be belongs to whoever has
/// attached the end.
fn check_for_offer(socket: &OwnedFd) -> Result<(), Error> {
    let mut bytes = [0; Offer::MIN_SIZE];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let mut buffer = [IoSliceMut::new(&mut bytes)];
    let peeked = recvmsg::<()>(socket.as_raw_fd(), &mut buffer, None, flags).map(|message| message.bytes);
    match peeked {
        Ok(0) | Err(Errno::ECONNRESET) => Err(Error::Closed),
        Ok(Offer::MIN_SIZE..) => Ok(()),
        Ok(_) | Err(Errno::EAGAIN) => Err(Error::AlreadyAttached),
        Err(errno @ Errno::ENOTSOCK) => Err(Error::NotASocket(errno.into())),
        Err(errno) => Err(Error::os("recvmsg", errno)),
    }
}

/// Memory of `size` bytes that stays as large as it is.
fn memory(size: u64) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = match memfd_create(c"recordfd", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        // Before Linux 6.3.
        Err(Errno::EINVAL) => memfd_create(c"recordfd", flags),
        outcome => outcome,
    };
    let memory = memory.map_err(|errno| Error::os("memfd_create", errno))?;
    ftruncate(&memory, size as libc::off_t).map_err(|errno| Error::os("ftruncate", errno))?;
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
