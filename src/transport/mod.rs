//! What carries a channel: one direction at a time, knowing nothing of what the records mean.
//!
//! A channel has two directions, records and replies. [`Tx`] is the producing end of one, [`Rx`] the
//! consuming end, [`Watch`] what both may look at without being either.

#[cfg(feature = "local")]
pub(crate) mod local;
pub(crate) mod socket;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use recordfd_uapi::{Record, Sequence};

use crate::error::{DrainError, TryRecvError, TrySendError, Violation};

/// Beyond any use, and short enough to be added to a point in time.
const MOST_BUSY_POLL: Duration = Duration::from_secs(1 << 30);

/// The process that made an end. In another one, a child of fork, dropping the end must do nothing
/// but close descriptors: the parent still uses the channel.
#[derive(Debug)]
pub(crate) struct Owner(u32);

impl Owner {
    pub(crate) fn this_process() -> Self {
        Self(std::process::id())
    }

    pub(crate) fn is_this_process(&self) -> bool {
        self.0 == std::process::id()
    }
}

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

/// The producing end of one direction.
#[derive(Debug)]
pub(crate) enum Tx<T: Record> {
    #[cfg(feature = "local")]
    Local(local::Tx<T>),
    Socket(socket::Tx<T>),
}

impl<T: Record> Tx<T> {
    /// Sends `item(0)` to `item(count - 1)`, as many as fit; returns how many were accepted.
    ///
    /// An error means that none was.
    pub(crate) fn send(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<usize, TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.send(count, item),
            Self::Socket(tx) => tx.send(count, item),
        }
    }

    /// Writes what is left of an accepted item, if someone's change of the send buffer cut it.
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Ok(()),
            Self::Socket(tx) => tx.finish(),
        }
    }

    /// Tells the consumer, in order, that records up to `sequence` were lost and none was accepted
    /// since. False: this transport cannot amend what is queued, a record must tell.
    pub(crate) fn announce_loss(&mut self, sequence: Sequence) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => {
                tx.announce_loss(sequence);
                true
            }
            Self::Socket(_) => {
                let _ = sequence;
                false
            }
        }
    }

    /// A look at this direction from outside.
    pub(crate) fn watch(&self) -> Watch<T> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => Watch::Local(tx.watch()),
            Self::Socket(tx) => Watch::Socket(tx.watch()),
        }
    }

    /// How many items are accepted, sent one by one, while nobody reads.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.capacity(),
            Self::Socket(tx) => tx.capacity(),
        }
    }

    /// How often a sleeping consumer was woken, where this end does that itself.
    pub(crate) fn wake_ups(&self) -> u64 {
        match self {
            #[cfg(feature = "local")]
            Self::Local(tx) => tx.wake_ups(),
            Self::Socket(_) => 0,
        }
    }
}

/// The consuming end of one direction.
#[derive(Debug)]
pub(crate) struct Rx<T: Record> {
    carrier: RxCarrier<T>,
    /// What the peer did wrong: nothing more is read from it.
    broken: Option<Violation>,
    /// Sleeps that ended with something to receive.
    sleeps: u64,
}

#[derive(Debug)]
pub(crate) enum RxCarrier<T: Record> {
    #[cfg(feature = "local")]
    Local(local::Rx<T>),
    Socket(socket::Rx<T>),
}

impl<T: Record> Rx<T> {
    pub(crate) fn new(carrier: RxCarrier<T>) -> Self {
        Self { carrier, broken: None, sleeps: 0 }
    }

    /// Receives at most `most` items into `sink`, which may find one in violation of the protocol.
    ///
    /// Items before a violation are still delivered; the violation is reported by the next call.
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
        };
        if let Err(TryRecvError::PeerViolation(violation)) = outcome {
            self.broken = Some(violation);
        }
        match outcome {
            Err(error) if taken.items() == 0 => Err(error),
            _ => Ok(taken),
        }
    }

    /// Looks for `busy_poll`, then sleeps, until a receive may bring something; false when `deadline`
    /// came first.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<bool> {
        let spin_until = spin_until(deadline, busy_poll);
        let woken = match &mut self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => {
                if spin_until.is_some_and(|until| rx.spin(until)) {
                    return Ok(true);
                }
                wait_readable(rx.as_fd(), deadline)?
            }
            RxCarrier::Socket(rx) => {
                if spin_readable(rx.as_fd(), spin_until)? {
                    return Ok(true);
                }
                wait_readable(rx.as_fd(), deadline)?
            }
        };
        self.sleeps += u64::from(woken);
        Ok(woken)
    }

    /// A look at this direction from outside.
    pub(crate) fn watch(&self) -> Watch<T> {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => Watch::Local(rx.watch()),
            RxCarrier::Socket(rx) => Watch::Socket(rx.watch()),
        }
    }

    /// How often this end was woken: by tokens, or from a sleep of its own on a socket.
    pub(crate) fn wake_ups(&self) -> u64 {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.wake_ups(),
            RxCarrier::Socket(_) => self.sleeps,
        }
    }
}

impl<T: Record> AsFd for Rx<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.carrier {
            #[cfg(feature = "local")]
            RxCarrier::Local(rx) => rx.as_fd(),
            RxCarrier::Socket(rx) => rx.as_fd(),
        }
    }
}

/// What may be known of a direction without being one of its ends.
#[derive(Debug)]
pub(crate) enum Watch<T: Record> {
    #[cfg(feature = "local")]
    Local(local::Watch<T>),
    Socket(socket::Watch<T>),
}

impl<T: Record> Watch<T> {
    /// Whether every item accepted so far has been read.
    pub(crate) fn is_drained(&self) -> Result<bool, DrainError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(watch) => watch.is_drained(),
            Self::Socket(watch) => watch.is_drained(),
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
        }
    }

    /// Whether the consumer is gone.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(watch) => watch.is_closed(),
            Self::Socket(watch) => watch.is_closed(),
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
        }
    }
}

/// When a wait that may last until `deadline` stops to look for `busy_poll`; `None` when it does not look.
pub(crate) fn spin_until(deadline: Option<Instant>, busy_poll: Duration) -> Option<Instant> {
    if busy_poll.is_zero() {
        return None;
    }
    let until = Instant::now() + busy_poll.min(MOST_BUSY_POLL);
    Some(deadline.map_or(until, |deadline| deadline.min(until)))
}

/// Looks until `until` whether `fd` is readable or hung up. Each look is a system call, but no sleep: the
/// wake-up is what is saved.
pub(crate) fn spin_readable(fd: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<bool> {
    while until.is_some_and(|until| Instant::now() < until) {
        if wait_readable(fd, Some(Instant::now()))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until `fd` is readable or hung up; false when `deadline` came first.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    wait_for(fd, PollFlags::POLLIN, deadline)
}

/// Waits until one of `events`, or a hang-up, is there; false when `deadline` came first.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left =
            deadline.map(|deadline| TimeSpec::from(deadline.saturating_duration_since(Instant::now())));
        match ppoll(&mut [PollFd::new(fd, events)], left, None) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
