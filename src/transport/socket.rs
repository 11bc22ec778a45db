//! Between processes, in any language: whole records over an AF_UNIX stream socket.
//!
//! Nothing queues behind the socket: an accepted record has been written. The mode of the open file
//! description is never relied upon, for the peer shares it: every call says MSG_DONTWAIT itself.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recvmsg, sendmsg, setsockopt, socketpair,
    sockopt::SndBuf,
};
use recordfd_uapi::{Offer, Record, WRITE_MAX};

use super::Taken;
use super::gone::{self, Unread};
use crate::error::{DrainError, Error, TryRecvError, TrySendError, Violation};
use crate::fd::send_descriptor;
use crate::sys;
use crate::wait::wait_for;

/// The longest Offer that is read.
pub(super) const MOST_OFFER: usize = 512;
/// What one small write takes of the send buffer: a 512-byte data area and the kernel's `sk_buff`.
const WRITE_COST: u32 = 768;

/// The most that a write of `bytes` takes of the send buffer: the kernel rounds the data and its
/// bookkeeping up to a power of two or to whole pages.
const fn cost_bound(bytes: usize) -> u32 {
    2 * bytes as u32 + 1024
}

/// Records in the longest write of a direction with room for `depth`.
fn batch_of<T: Record>(depth: u32) -> usize {
    (WRITE_MAX / T::SIZE).min(depth as usize).max(1)
}

/// Makes a connected pair of sockets, both close-on-exec. The first one sends `offer`, if there is one, to the second.
///
/// After that both refuse descriptors, where Linux can (6.16): the kernel drops an attached descriptor in the call that
/// reads the byte it came with, and dropping it takes as long as the peer likes.
pub(crate) fn pair(offer: Option<(&[u8], BorrowedFd<'_>)>) -> Result<(OwnedFd, OwnedFd), Error> {
    let (near, far) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::os("socketpair", errno))?;
    if let Some((bytes, descriptor)) = offer {
        send_descriptor(&near, bytes, descriptor)?;
    }
    sys::refuse_descriptors(near.as_fd());
    sys::refuse_descriptors(far.as_fd());
    Ok((near, far))
}

/// Gives `socket` room for `depth` single writes of `T`, and for one last write beyond the largest
/// batch; returns the depth it really has.
pub(crate) fn set_depth<T: Record>(socket: &OwnedFd, depth: u32) -> Result<u32, Error> {
    // With one write the level at which poll reports room again would lie above the full queue.
    let depth = depth.max(2);
    let overshoot = cost_bound(batch_of::<T>(depth) * T::SIZE);
    let wanted = depth.saturating_mul(WRITE_COST).saturating_add(overshoot) as usize;
    // The kernel doubles what it is given.
    setsockopt(socket, SndBuf, &wanted.div_ceil(2)).map_err(|errno| Error::os("setsockopt", errno))?;
    let granted = getsockopt(socket, SndBuf).map_err(|errno| Error::os("getsockopt", errno))?;
    let room = u32::try_from(granted).unwrap_or(u32::MAX).saturating_sub(overshoot) / WRITE_COST;
    if room < 2 {
        let reason = "net.core.wmem_max is too small for it";
        return Err(Error::Option { name: "depth", value: depth.into(), reason });
    }
    Ok(depth.min(room))
}

/// Fails unless `socket` is a connected AF_UNIX stream socket. A message socket tears records, and closing a socket of
/// another family may wait for its peer.
pub(crate) fn check(socket: &OwnedFd) -> Result<(), Error> {
    sys::check_unix_stream(socket.as_fd()).map_err(|errno| match errno {
        Errno::ENOTSOCK | Errno::EPROTOTYPE | Errno::ENOTCONN => Error::NotAUnixStream(errno.into()),
        _ => Error::os("sendmsg", errno),
    })
}

/// Takes `socket` for a channel, and makes it close-on-exec. It must be a connected AF_UNIX stream socket, and no end of
/// a shared channel.
pub(crate) fn adopt(socket: &OwnedFd) -> Result<(), Error> {
    check(socket)?;
    let mut bytes = [0; MOST_OFFER];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let peeked = recvmsg::<()>(socket.as_raw_fd(), &mut [IoSliceMut::new(&mut bytes)], None, flags)
        .map(|message| (message.flags.contains(MsgFlags::MSG_CTRUNC), message.bytes));
    match peeked {
        // A descriptor comes with an Offer. (The flag alone may stand for credentials.)
        Ok((true, length)) if Offer::from_bytes(&bytes[..length]).is_ok() => return Err(Error::SharedEnd),
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNRESET) => {}
        Err(errno) => return Err(Error::os("recvmsg", errno)),
    }
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| Error::os("fcntl", errno))?;
    Ok(())
}

/// The producing end.
#[derive(Debug)]
pub(crate) struct Tx<T> {
    socket: Arc<OwnedFd>,
    /// Where records are put together for a write.
    stage: Box<[u8]>,
    /// The rest of a record of which the kernel took only a part: an accepted record, written first.
    owed: std::ops::Range<usize>,
    /// How many single writes may be unread, if the kernel takes as many.
    depth: u32,
    /// At most this much of the send buffer is taken.
    taken: u32,
    item: PhantomData<T>,
}

impl<T: Record> Tx<T> {
    /// A producer that keeps to `depth`. Below the size of the send buffer, a last write always finds
    /// room; with `u32::MAX`, the kernel alone says when there is none.
    pub(crate) fn new(socket: Arc<OwnedFd>, depth: u32) -> Self {
        let stage = vec![0; batch_of::<T>(depth) * T::SIZE].into_boxed_slice();
        Self { socket, stage, owed: 0..0, depth, taken: 0, item: PhantomData }
    }

    pub(crate) fn send(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<usize, TrySendError<()>> {
        let mut accepted = 0;
        while accepted < count {
            let outcome = match self.has_room() {
                Ok(true) => self.write(count - accepted, |index| item(accepted + index)),
                Ok(false) => Err(TrySendError::Full(())),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(written) => accepted += written,
                Err(_) if accepted > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(accepted)
    }

    /// The most items that [`send_whole`](Self::send_whole) takes.
    pub(crate) fn most_whole(&self) -> usize {
        self.stage.len() / T::SIZE
    }

    /// Sends `count` items in one write: all of them are accepted, or none.
    pub(crate) fn send_whole(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<(), TrySendError<()>> {
        if !self.has_room()? {
            return Err(TrySendError::Full(()));
        }
        let written = self.write_staged(count, item)?;
        // What the kernel did not take goes first next time.
        self.owed = written..count * T::SIZE;
        Ok(())
    }

    /// Sends `item` beyond the depth, with the write that is kept free for it.
    pub(crate) fn send_last(&mut self, item: T) -> Result<(), TrySendError<()>> {
        self.write(1, |_| item).map(|_| ())
    }

    /// Writes the rest of a record of which the kernel took only a part, if there is one.
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        if !self.owed.is_empty() {
            let written = self.write_bytes(self.owed.clone())?;
            self.owed.start += written;
            if !self.owed.is_empty() {
                return Err(TrySendError::Full(()));
            }
        }
        Ok(())
    }

    pub(crate) fn watch(&self) -> Watch<T> {
        Watch::new(self.socket.clone())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.depth as usize
    }

    /// Whether a write stays within the depth. Asks the kernel what was read only when the bound says
    /// no.
    fn has_room(&mut self) -> Result<bool, TrySendError<()>> {
        let limit = self.depth.saturating_mul(WRITE_COST);
        if self.taken >= limit {
            self.taken =
                sys::unread_bytes(self.socket.as_fd()).map_err(|error| TrySendError::Io((), error))?;
        }
        Ok(self.taken < limit)
    }

    /// Writes as many of `count` items as one write holds; returns how many the kernel took.
    fn write(&mut self, count: usize, item: impl Fn(usize) -> T) -> Result<usize, TrySendError<()>> {
        let written = self.write_staged(count.min(self.most_whole()), item)?;
        // The kernel takes a write whole unless someone has shrunk the send buffer meanwhile. A record
        // it took a part of is accepted: its rest goes first next time.
        let accepted = written.div_ceil(T::SIZE);
        self.owed = written..accepted * T::SIZE;
        Ok(accepted)
    }

    /// Writes `count` items that one write holds; returns how many bytes the kernel took.
    fn write_staged(&mut self, count: usize, item: impl Fn(usize) -> T) -> Result<usize, TrySendError<()>> {
        self.finish()?;
        for (index, slot) in self.stage.chunks_exact_mut(T::SIZE).take(count).enumerate() {
            item(index).encode(slot);
        }
        self.write_bytes(0..count * T::SIZE)
    }

    fn write_bytes(&mut self, range: std::ops::Range<usize>) -> Result<usize, TrySendError<()>> {
        let bytes = &self.stage[range];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], &[], flags, None) {
                Err(Errno::EINTR) => {}
                outcome => break outcome,
            }
        };
        match sent {
            Ok(written) => {
                self.taken = self.taken.saturating_add(cost_bound(bytes.len()));
                Ok(written)
            }
            Err(Errno::EAGAIN) => Err(TrySendError::Full(())),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(TrySendError::Closed(())),
            Err(errno) => Err(TrySendError::Io((), errno.into())),
        }
    }
}

/// The consuming end.
#[derive(Debug)]
pub(crate) struct Rx<T> {
    socket: Arc<OwnedFd>,
    /// What was read: the part of a record that came so far, then what one read brings.
    stage: Box<[u8]>,
    /// Bytes of that part, fewer than a record has.
    part: usize,
    item: PhantomData<T>,
}

impl<T: Record> Rx<T> {
    pub(crate) fn new(socket: Arc<OwnedFd>) -> Self {
        let stage = vec![0; batch_of::<T>(u32::MAX) * T::SIZE].into_boxed_slice();
        Self { socket, stage, part: 0, item: PhantomData }
    }

    pub(crate) fn watch(&self) -> Watch<T> {
        Watch::new(self.socket.clone())
    }

    /// One read of at most `most` records. What it takes out of the socket is delivered, so that the
    /// socket is readable while records wait; only the beginning of a record is kept back.
    pub(crate) fn recv(
        &mut self,
        most: usize,
        taken: &mut Taken,
        sink: &mut impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        let wanted = most.min(self.stage.len() / T::SIZE) * T::SIZE;
        if wanted == 0 {
            return Ok(());
        }
        // A part of a record is no reason to stop: what is behind it may be there, or the end.
        while self.part < T::SIZE {
            let count = self.read(wanted)?;
            if count == 0 {
                return Err(match self.part {
                    0 => TryRecvError::Closed,
                    found => TryRecvError::PeerViolation(Violation::TornRecord { found, size: T::SIZE }),
                });
            }
            self.part += count;
        }
        let filled = self.part;
        let mut records = self.stage[..filled].chunks_exact(T::SIZE);
        taken.found = records.len();
        for bytes in &mut records {
            let item = T::decode(bytes).map_err(|error| TryRecvError::PeerViolation(error.into()))?;
            sink(&item).map_err(TryRecvError::PeerViolation)?;
            taken.count += 1;
        }
        self.part = records.remainder().len();
        self.stage.copy_within(filled - self.part..filled, 0);
        if taken.count == 0 { Err(TryRecvError::Empty) } else { Ok(()) }
    }

    /// Reads behind the part, up to `end`; 0 at the end of the stream.
    fn read(&mut self, end: usize) -> Result<usize, TryRecvError> {
        loop {
            let mut buffer = [IoSliceMut::new(&mut self.stage[self.part..end])];
            // Without a control buffer the kernel drops every descriptor that a peer attaches.
            let outcome = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut buffer,
                None,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
            );
            return match outcome {
                Ok(message) => Ok(message.bytes),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(TryRecvError::Empty),
                // A peer that went with unread bytes: the same as the end of the stream. Linux gives
                // it only after everything readable was read.
                Err(Errno::ECONNRESET) => Ok(0),
                Err(errno) => Err(TryRecvError::Io(errno.into())),
            };
        }
    }
}

impl<T> AsFd for Rx<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A look at the socket from outside.
#[derive(Debug)]
pub(crate) struct Watch<T>(Arc<OwnedFd>, PhantomData<T>);

impl<T> Watch<T> {
    pub(crate) fn new(socket: Arc<OwnedFd>) -> Self {
        Self(socket, PhantomData)
    }

    pub(crate) fn is_drained(&self) -> Result<bool, DrainError> {
        let is_empty = || sys::unread_bytes(self.0.as_fd()).map(|unread| unread == 0);
        gone::is_drained(Unread::IsFreed, is_empty, || self.is_closed())
    }

    /// The kernel tells nobody that a socket was read empty, so this looks again at growing intervals.
    pub(crate) fn wait_drained(
        &self,
        deadline: Option<Instant>,
        mut is_written: impl FnMut() -> bool,
    ) -> Result<(), DrainError> {
        let mut interval = Duration::from_micros(50);
        while !(is_written() && self.is_drained()?) {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(DrainError::Timeout);
            }
            let until = deadline.map_or(now + interval, |deadline| deadline.min(now + interval));
            wait_for(self.0.as_fd(), PollFlags::empty(), Some(until)).map_err(DrainError::Io)?;
            interval = (interval * 2).min(Duration::from_millis(2));
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        gone::has_hung_up(self.0.as_fd())
    }
}

impl<T> AsFd for Watch<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_bound_covers_what_the_kernel_charges() {
        for bytes in (1..=WRITE_MAX).step_by(61).chain([192, 193, 704, 705, 1728, 1729, 3776, 3777]) {
            let (near, _far) = pair(None).expect("a socketpair can be made");
            let data = vec![0; bytes];
            let sent =
                sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(&data)], &[], MsgFlags::MSG_DONTWAIT, None);
            assert_eq!(sent, Ok(bytes));
            let charged = sys::unread_bytes(near.as_fd()).expect("SIOCOUTQ works on a socket");
            assert!(charged <= cost_bound(bytes), "{bytes} bytes are charged {charged}");
        }
    }
}
