//! What carries a channel: one direction at a time, knowing nothing of what the records mean.
//!
//! A channel has two directions, records and replies. [`Tx`] is the producing end of one, [`Rx`] the
//! consuming end, [`Watch`] what both may look at without being either.

mod gone;
#[cfg(feature = "local")]
pub(crate) mod local;
pub(crate) mod shared;
pub(crate) mod socket;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::{Format, Record, Sequence};

use crate::error::{DrainError, Error, Rejected, TryRecvError, TrySendError, Violation};
use crate::wait::{spin_readable, spin_until, wait_readable};

/// Marks that a word that tells of a loss at the end of the stream holds a sequence number, which has 31 bits.
pub(crate) const LOSS: u32 = 1 << 31;

/// Why there is nothing to leave to the other side.
pub(crate) const NO_FENCES: Error =
    Error::Unsupported { reason: "only shared channels have fences that can be asymmetric" };

/// What one receive brought.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Items handed to the sink.
    pub(crate) count: usize,
    /// Records up to this number were lost and nothing was accepted since. Takes the place of an item,
    /// always the last.
    pub(crate) tail_loss: Option<Sequence>,
    /// Items that were there to receive, as far as this end can know.
    pub(crate) found: usize,
}

impl Taken {
    /// Items received, a tail loss counted as one.
    pub(crate) fn items(&self) -> usize {
        self.count + usize::from(self.tail_loss.is_some())
    }
}

/// An end towards another process, which is not trusted: what its two directions are made of.
#[derive(Clone, Debug)]
pub(crate) enum Remote {
    Socket(Arc<OwnedFd>),
    Shared(Arc<shared::Port>),
}

impl Remote {
    /// The end of a channel on a socket. What is refused is given back untouched.
    pub(crate) fn socket<F>(
        socket: OwnedFd,
        check: impl FnOnce() -> Result<F, Error>,
    ) -> Result<(Self, F), Rejected<OwnedFd>> {
        let (socket, known) = Rejected::unless(socket, |socket| {
            let known = check()?;
            socket::adopt(socket)?;
            Ok(known)
        })?;
        Ok((Self::Socket(Arc::new(socket)), known))
    }

    /// The end of a shared channel; see [`shared::attach`].
    pub(crate) fn shared<F>(
        socket: OwnedFd,
        max_depth: u32,
        produces: bool,
        knows: impl FnOnce(Format) -> Result<F, Error>,
    ) -> Result<(Self, F, u32), Rejected<OwnedFd>> {
        let (port, known, depth) = shared::attach(socket, max_depth, produces, knows)?;
        Ok((Self::Shared(port), known, depth))
    }

    /// The producing end of what this end sends. On a socket it keeps to `depth`; a ring is as deep as it is.
    pub(crate) fn tx<T: Record>(&self, depth: u32) -> RemoteTx<T> {
        match self {
            Self::Socket(socket) => RemoteTx::Socket(socket::Tx::new(socket.clone(), depth)),
            Self::Shared(port) => RemoteTx::Shared(shared::Tx::new(port.clone())),
        }
    }

    /// A look at what this end receives, from outside.
    pub(crate) fn watch<T: Record>(&self) -> Watch<T> {
        match self {
            Self::Socket(socket) => Watch::Socket(socket::Watch::new(socket.clone())),
            Self::Shared(port) => Watch::Shared(shared::Watch::new(port.clone())),
        }
    }

    /// The consuming end of what this end receives.
    pub(crate) fn rx<T: Record>(&self) -> Rx<T> {
        Rx::new(match self {
            Self::Socket(socket) => RxCarrier::Socket(socket::Rx::new(socket.clone())),
            Self::Shared(port) => RxCarrier::Shared(shared::Rx::new(port.clone())),
        })
    }
}

/// The producing end of one direction.
#[derive(Debug)]
pub(crate) enum Tx<T: Record> {
    #[cfg(feature = "local")]
    Local(local::Tx<T>),
    Remote(RemoteTx<T>),
}

impl<T: Record> Tx<T> {
    /// Sends `item(0)` to `item(count - 1)`, as many as fit; returns how many were accepted.
    ///
    /// An error means that none was.
    #[inline]
    pub(crate) fn send(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<usize, TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.send(count, item),
            Self::Remote(tx) => tx.send(count, item),
        }
    }

    /// See [`RemoteTx::finish`].
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Ok(()),
            Self::Remote(tx) => tx.finish(),
        }
    }

    /// Tells the consumer, in order, that records up to `sequence` were lost and none was accepted
    /// since. False: this transport cannot amend what is queued, a record must tell.
    pub(crate) fn announce_loss(&mut self, sequence: Sequence) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.announce_loss(sequence),
            Self::Remote(RemoteTx::Shared(tx)) => tx.announce_loss(sequence),
            Self::Remote(RemoteTx::Socket(_)) => return false,
        }
        true
    }

    /// A look at this direction from outside.
    pub(crate) fn watch(&self) -> Watch<T> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => Watch::Local(tx.watch()),
            Self::Remote(RemoteTx::Socket(tx)) => Watch::Socket(tx.watch()),
            Self::Remote(RemoteTx::Shared(tx)) => Watch::Shared(tx.watch()),
        }
    }

    /// How many items are accepted, sent one by one, while nobody reads.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.capacity(),
            Self::Remote(RemoteTx::Socket(tx)) => tx.capacity(),
            Self::Remote(RemoteTx::Shared(tx)) => tx.capacity(),
        }
    }

    /// How often a sleeping consumer was woken, where this end does that itself.
    pub(crate) fn wake_ups(&self) -> u64 {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.wake_ups(),
            Self::Remote(RemoteTx::Socket(_)) => 0,
            Self::Remote(RemoteTx::Shared(tx)) => tx.wake_ups(),
        }
    }

    /// Nothing more is sent. On a socket the close of the descriptor says so.
    pub(crate) fn release(&mut self) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.release(),
            Self::Remote(tx) => tx.release(),
        }
    }

    /// See [`RemoteTx::leave_fences`].
    pub(crate) fn leave_fences(&mut self) -> Result<(), Error> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Err(NO_FENCES),
            Self::Remote(tx) => tx.leave_fences(),
        }
    }

    /// Wakes a consumer that sleeps though something was sent to it, where that can be.
    pub(crate) fn ring_again(&self) {
        if let Self::Remote(RemoteTx::Shared(tx)) = self {
            tx.ring_again();
        }
    }
}

/// The producing end of one direction, towards another process.
#[derive(Debug)]
pub(crate) enum RemoteTx<T> {
    Socket(socket::Tx<T>),
    Shared(shared::Tx<T>),
}

impl<T: Record> RemoteTx<T> {
    /// As [`Tx::send`].
    #[inline]
    pub(crate) fn send(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<usize, TrySendError<()>> {
        match self {
            Self::Socket(tx) => tx.send(count, item),
            Self::Shared(tx) => tx.send(count, item),
        }
    }

    /// Sends `count` items together: all of them are accepted, or none.
    pub(crate) fn send_whole(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<(), TrySendError<()>> {
        match self {
            Self::Socket(tx) => tx.send_whole(count, item),
            Self::Shared(tx) => tx.send_whole(count, item),
        }
    }

    /// The most items that [`send_whole`](Self::send_whole) takes.
    pub(crate) fn most_whole(&self) -> usize {
        match self {
            Self::Socket(tx) => tx.most_whole(),
            Self::Shared(tx) => tx.most_whole(),
        }
    }

    /// How many of `wanted` items, which are no more than [`most_whole`](Self::most_whole), can be sent together.
    pub(crate) fn room(&mut self, wanted: usize) -> Result<usize, TrySendError<()>> {
        match self {
            // Where one record has room, a whole write has.
            Self::Socket(_) => Ok(wanted),
            Self::Shared(tx) => tx.room(wanted).map(|room| room.min(wanted)),
        }
    }

    /// See [`Tx::release`].
    pub(crate) fn release(&mut self) {
        if let Self::Shared(tx) = self {
            tx.release();
        }
    }

    /// Leaves fences to a consumer that makes them for both.
    pub(crate) fn leave_fences(&mut self) -> Result<(), Error> {
        match self {
            Self::Socket(_) => Err(NO_FENCES),
            Self::Shared(tx) => tx.leave_fences(),
        }
    }

    /// Writes what is left of an accepted item, if someone's change of the send buffer cut it, and wakes whom the
    /// kernel had no memory to wake.
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        match self {
            Self::Socket(tx) => tx.finish(),
            Self::Shared(tx) => {
                tx.finish();
                Ok(())
            }
        }
    }
}

/// The consuming end of one direction.
#[derive(Debug)]
pub(crate) struct Rx<T: Record> {
    carrier: RxCarrier<T>,
    /// What the peer did wrong: nothing more is read from it.
    broken: Option<Violation>,
    /// How often this end looked by itself until something came.
    busy_polls: u64,
    /// Sleeps that ended with something to receive.
    sleeps: u64,
}

#[derive(Debug)]
pub(crate) enum RxCarrier<T: Record> {
    #[cfg(feature = "local")]
    Local(local::Rx<T>),
    Socket(socket::Rx<T>),
    Shared(shared::Rx<T>),
}

impl<T: Record> Rx<T> {
    pub(crate) fn new(carrier: RxCarrier<T>) -> Self {
        Self { carrier, broken: None, busy_polls: 0, sleeps: 0 }
    }

    /// Receives at most `most` items into `sink`, which may find one in violation of the protocol.
    ///
    /// Items before a violation are still delivered; the violation is reported by the next call.
    #[inline]
    pub(crate) fn recv(
        &mut self,
        most: usize,
        mut sink: impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<Taken, TryRecvError> {
        let mut taken = Taken::default();
        let outcome = match (self.broken, &mut self.carrier) {
            (Some(violation), _) => Err(TryRecvError::PeerViolation(violation)),
            #[cfg(feature = "local")]
            (None, RxCarrier::Local(rx)) => rx.recv(most, &mut taken, &mut sink),
            (None, RxCarrier::Socket(rx)) => rx.recv(most, &mut taken, &mut sink),
            (None, RxCarrier::Shared(rx)) => rx.recv(most, &mut taken, &mut sink),
        };
        // Only an error is looked at and moved: it is large beside a record.
        let Err(error) = outcome else { return Ok(taken) };
        if let TryRecvError::PeerViolation(violation) = error {
            self.broken = Some(violation);
        }
        if taken.items() == 0 { Err(error) } else { Ok(taken) }
    }

    /// The next item as `take` takes it, where it can be had at once, and how many are there: a way for one item that
    /// moves no more than that. What it does not bring, also what is wrong with an item, [`recv`](Self::recv) does.
    #[inline(always)]
    pub(crate) fn recv_known<U>(&mut self, take: impl FnOnce(&T) -> Option<U>) -> Option<(U, usize)> {
        match &mut self.carrier {
            RxCarrier::Shared(rx) if self.broken.is_none() => rx.recv_known(take),
            _ => None,
        }
    }

    /// Nothing more is received. On a socket the close of the descriptor says so.
    pub(crate) fn release(&mut self) {
        match &mut self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.release(),
            RxCarrier::Socket(_) => {}
            RxCarrier::Shared(rx) => rx.release(),
        }
    }

    /// Receives nothing more, for the peer has done wrong: what, the next receive tells.
    pub(crate) fn break_off(&mut self, violation: Violation) {
        self.broken = Some(violation);
    }

    /// What comes in front of a receive behind which this end [`sleep`](Self::sleep)s if it brings nothing: looks
    /// for `busy_poll` whether there is something to receive, but not beyond `deadline`.
    pub(crate) fn look(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<()> {
        if let RxCarrier::Shared(rx) = &mut self.carrier {
            rx.expect_sleep();
        }
        if busy_poll.is_zero() || self.broken.is_some() {
            return Ok(());
        }
        if self.has_work() {
            return Ok(());
        }
        let Some(until) = spin_until(deadline, busy_poll) else { return Ok(()) };
        let found = match &mut self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.look(until),
            RxCarrier::Socket(rx) => spin_readable(rx.as_fd(), until)?,
            RxCarrier::Shared(rx) => rx.look(until),
        };
        self.busy_polls += u64::from(found);
        Ok(())
    }

    /// Sleeps until a receive may bring something; false when `deadline` came first.
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let woken = wait_readable(self.as_fd(), deadline)?;
        if let RxCarrier::Shared(rx) = &mut self.carrier {
            rx.note_sleep();
        }
        self.sleeps += u64::from(woken);
        Ok(woken)
    }

    /// [`look`](Self::look)s, then [`sleep`](Self::sleep)s; neither if the next receive returns a violation.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<bool> {
        if self.broken.is_some() {
            return Ok(true);
        }
        let before = self.busy_polls;
        self.look(deadline, busy_poll)?;
        if self.busy_polls > before || self.has_work() { Ok(true) } else { self.sleep(deadline) }
    }

    /// Says whether this end looks by itself before it sleeps, so that it need not be woken meanwhile.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        if let RxCarrier::Shared(rx) = &mut self.carrier {
            rx.set_parks(busy);
        }
    }

    /// Takes out the tokens that tell of nothing to receive, where there are such.
    pub(crate) fn settle(&mut self) {
        if let RxCarrier::Shared(rx) = &mut self.carrier {
            rx.settle();
        }
    }

    /// Fences for both sides, from now on.
    pub(crate) fn fence_for_both(&mut self) {
        if let RxCarrier::Shared(rx) = &mut self.carrier {
            rx.fence_for_both();
        }
    }

    /// Whether what it receives comes from a thread of this process.
    pub(crate) fn is_local(&self) -> bool {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(_) => true,
            RxCarrier::Socket(_) | RxCarrier::Shared(_) => false,
        }
    }

    /// The most items that are ever there to receive.
    pub(crate) fn most(&self) -> usize {
        match &self.carrier {
            RxCarrier::Shared(rx) => rx.most(),
            _ => usize::MAX,
        }
    }

    /// A look at this direction from outside.
    pub(crate) fn watch(&self) -> Watch<T> {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => Watch::Local(rx.watch()),
            RxCarrier::Socket(rx) => Watch::Socket(rx.watch()),
            RxCarrier::Shared(rx) => Watch::Shared(rx.watch()),
        }
    }

    /// How often this end was woken: by tokens, or from a sleep of its own on a socket.
    pub(crate) fn wake_ups(&self) -> u64 {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.wake_ups(),
            RxCarrier::Socket(_) => self.sleeps,
            RxCarrier::Shared(rx) => rx.wake_ups(),
        }
    }

    /// How often a wait ended by looking, and how often by a sleep.
    pub(crate) fn waits(&self) -> (u64, u64) {
        (self.busy_polls, self.sleeps)
    }

    fn has_work(&mut self) -> bool {
        match &mut self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.has_work(),
            // A sleep finds out at once.
            RxCarrier::Socket(_) => false,
            RxCarrier::Shared(rx) => rx.has_work(),
        }
    }
}

impl<T: Record> AsFd for Rx<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.as_fd(),
            RxCarrier::Socket(rx) => rx.as_fd(),
            RxCarrier::Shared(rx) => rx.as_fd(),
        }
    }
}

/// What may be known of a direction without being one of its ends.
#[derive(Debug)]
pub(crate) enum Watch<T: Record> {
    #[cfg(feature = "local")]
    Local(local::Watch<T>),
    Socket(socket::Watch<T>),
    Shared(shared::Watch),
}

impl<T: Record> Watch<T> {
    /// Whether every item accepted so far has been read.
    pub(crate) fn is_drained(&self) -> Result<bool, DrainError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(watch) => watch.is_drained(),
            Self::Socket(watch) => watch.is_drained(),
            Self::Shared(watch) => watch.is_drained(),
        }
    }

    /// Waits until every item accepted so far has been read; `is_written` tells whether all of them
    /// are with the carrier, and tries to have it so.
    pub(crate) fn wait_drained(
        &self,
        deadline: Option<Instant>,
        is_written: impl FnMut() -> bool,
    ) -> Result<(), DrainError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(watch) => watch.wait_drained(deadline),
            Self::Socket(watch) => watch.wait_drained(deadline, is_written),
            Self::Shared(watch) => watch.wait_drained(deadline),
        }
    }

    /// Whether the consumer is gone.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(watch) => watch.is_closed(),
            Self::Socket(watch) => watch.is_closed(),
            Self::Shared(watch) => watch.is_closed(),
        }
    }

    /// Looks until `until` whether the end of this direction that this process has can receive something.
    pub(crate) fn look(&self, until: Instant) -> io::Result<bool> {
        match self {
            Self::Shared(watch) => Ok(watch.look(until)),
            _ => spin_readable(self.as_fd(), until),
        }
    }
}

impl<T: Record> AsFd for Watch<T> {
    /// The descriptor that the consumer of this direction polls.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(watch) => watch.as_fd(),
            Self::Socket(watch) => watch.as_fd(),
            Self::Shared(watch) => watch.as_fd(),
        }
    }
}
