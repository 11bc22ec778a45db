//! Records that must be answered on a descriptor: bare ones, as Linux' first format has them, or with the
//! header that can say CANCELLED.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use recordfd_uapi::{Event, EventFlags, EventHeader, Record, Sequence, WRITE_MAX};

use super::MustAnswer;
use crate::error::{Error, TryRecvError, TrySendError, Violation};
use crate::transport::{Remote, RemoteTx, Rx};

/// The producing end of the records.
#[derive(Debug)]
pub(crate) enum RecordTx<A: MustAnswer> {
    Bare(RemoteTx<A>),
    /// With the number of the next record.
    Headed(RemoteTx<Event<A>>, Sequence),
}

impl<A: MustAnswer> RecordTx<A> {
    pub(crate) fn new(remote: &Remote, depth: u32, headed: bool) -> Self {
        if headed { Self::Headed(remote.tx(depth), Sequence::ZERO) } else { Self::Bare(remote.tx(depth)) }
    }

    /// The most records that are sent whole.
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Bare(tx) => tx.most_whole(),
            Self::Headed(tx, _) => tx.most_whole(),
        }
    }

    /// How many of `wanted` records, at most [`most`](Self::most), can be sent whole now.
    pub(crate) fn room(&mut self, wanted: usize) -> Result<usize, TrySendError<()>> {
        match self {
            Self::Bare(tx) => tx.room(wanted),
            Self::Headed(tx, _) => tx.room(wanted),
        }
    }

    /// Sends `count` records, at most [`most`](Self::most) and all of them or none.
    pub(crate) fn send(&mut self, count: usize, record: impl Fn(usize) -> A) -> Result<(), TrySendError<()>> {
        match self {
            Self::Bare(tx) => tx.send_whole(count, record),
            Self::Headed(tx, next) => {
                let first = *next;
                tx.send_whole(count, |index| Event::new(first.plus(index as u32), record(index)))?;
                *next = first.plus(count as u32);
                Ok(())
            }
        }
    }

    /// Tells that the group `cookie` was completed without its answer, if the format can say so.
    pub(crate) fn send_cancelled(&mut self, dev_id: u32, cookie: u32) -> Result<(), TrySendError<()>> {
        if let Self::Headed(tx, next) = self {
            let header = EventHeader { flags: EventFlags::CANCELLED, sequence: next.get() };
            let notice = Event { header, payload: A::cancelled(dev_id, cookie) };
            tx.send_whole(1, |_| notice)?;
            *next = next.plus(1);
        }
        Ok(())
    }

    /// See [`RemoteTx::leave_fences`].
    pub(crate) fn leave_fences(&mut self) -> Result<(), Error> {
        match self {
            Self::Bare(tx) => tx.leave_fences(),
            Self::Headed(tx, _) => tx.leave_fences(),
        }
    }

    /// See [`RemoteTx::finish`].
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        match self {
            Self::Bare(tx) => tx.finish(),
            Self::Headed(tx, _) => tx.finish(),
        }
    }
}

/// The consuming end of the records.
#[derive(Debug)]
pub(crate) enum RecordRx<A: MustAnswer> {
    Bare(Rx<A>),
    /// With the number of the next record.
    Headed(Rx<Event<A>>, Sequence),
}

impl<A: MustAnswer> RecordRx<A> {
    /// The consuming end, starting with the channel's first record.
    pub(crate) fn new(remote: &Remote, headed: bool) -> Self {
        if headed { Self::Headed(remote.rx(), Sequence::ZERO) } else { Self::Bare(remote.rx()) }
    }

    /// The most records of a group: what is sent together.
    pub(crate) fn most_of_group(&self) -> usize {
        match self {
            Self::Bare(rx) => rx.most().min(WRITE_MAX / A::SIZE),
            Self::Headed(rx, _) => rx.most().min(WRITE_MAX / Event::<A>::SIZE),
        }
    }

    /// Receives at most `most` records into `sink`, which is told, too, whether one is a notice that its
    /// group was cancelled.
    pub(crate) fn recv(
        &mut self,
        most: usize,
        mut sink: impl FnMut(&A, bool) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        match self {
            Self::Bare(rx) => rx.recv(most, |record| sink(record, false))?,
            Self::Headed(rx, next) => rx.recv(most, |event| {
                // Nothing is ever lost on such a channel.
                let sequence = event.sequence();
                if *next != sequence {
                    return Err(Violation::SequenceGap);
                }
                *next = sequence.plus(1);
                sink(&event.payload, event.header.flags.contains(EventFlags::CANCELLED))
            })?,
        };
        Ok(())
    }

    /// See [`Rx::look`].
    pub(crate) fn look(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<()> {
        match self {
            Self::Bare(rx) => rx.look(deadline, busy_poll),
            Self::Headed(rx, _) => rx.look(deadline, busy_poll),
        }
    }

    /// See [`Rx::sleep`].
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        match self {
            Self::Bare(rx) => rx.sleep(deadline),
            Self::Headed(rx, _) => rx.sleep(deadline),
        }
    }

    /// See [`Rx::wait`].
    pub(crate) fn wait(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<bool> {
        match self {
            Self::Bare(rx) => rx.wait(deadline, busy_poll),
            Self::Headed(rx, _) => rx.wait(deadline, busy_poll),
        }
    }

    /// See [`Rx::set_busy`].
    pub(crate) fn set_busy(&mut self, busy: bool) {
        match self {
            Self::Bare(rx) => rx.set_busy(busy),
            Self::Headed(rx, _) => rx.set_busy(busy),
        }
    }

    /// See [`Rx::fence_for_both`].
    pub(crate) fn fence_for_both(&mut self) {
        match self {
            Self::Bare(rx) => rx.fence_for_both(),
            Self::Headed(rx, _) => rx.fence_for_both(),
        }
    }

    /// See [`Rx::waits`].
    pub(crate) fn waits(&self) -> (u64, u64) {
        match self {
            Self::Bare(rx) => rx.waits(),
            Self::Headed(rx, _) => rx.waits(),
        }
    }
}

impl<A: MustAnswer> AsFd for RecordRx<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Bare(rx) => rx.as_fd(),
            Self::Headed(rx, _) => rx.as_fd(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use recordfd_uapi::PgFault;

    use super::*;
    use crate::transport::socket;

    #[test]
    fn sequence_wraps_from_int_max_to_zero_wherever_that_falls() {
        // Three records, then a CANCELLED notice: the wrap comes after each of the four in turn.
        for before in 0..4 {
            let first = Sequence::wrapping(Sequence::MAX.get() - before);
            let (near, far) = socket::pair(None).unwrap();
            let mut tx = RecordTx::Headed(Remote::Socket(near.into()).tx(8), first);
            let mut rx = RecordRx::Headed(Remote::Socket(far.into()).rx(), first);
            tx.send(3, |index| PgFault::default().grouped(index as u32, true)).unwrap();
            tx.send_cancelled(1, 0).unwrap();
            let mut received = Vec::new();
            rx.recv(8, |fault: &PgFault, cancelled| {
                received.push((fault.cookie, cancelled));
                Ok(())
            })
            .unwrap();
            assert_eq!(received, [(0, false), (1, false), (2, false), (0, true)], "first {first:?}");
            let (RecordTx::Headed(_, to_send), RecordRx::Headed(_, expected)) = (tx, rx) else {
                unreachable!("both were made with headers");
            };
            // Both sides could be wrong alike.
            assert_eq!([to_send.get(), expected.get()], [3 - before; 2], "first {first:?}");
        }
    }
}
