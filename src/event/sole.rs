//! The end that makes events on a shared channel, for one thread: no lock.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use recordfd_uapi::EventRecord;

use super::check_format;
use super::sender::{Sender, recv_reply};
use super::stream::{SenderCounters, Stream};
use crate::channel::{DEFAULT_MAX_DEPTH, Overflow};
use crate::error::{DrainError, Error, NotThisProcess, Rejected, TryRecvError, TrySendError};
use crate::sys::{Owned, Release};
use crate::transport::{Remote, Rx, Tx, Watch};

/// The only sender of a channel in shared memory; it takes no lock.
///
/// [`into_shared`](Self::into_shared) makes a [`Sender`] of it that can be cloned. Dropping it closes the channel.
#[derive(Debug)]
pub struct SoleSender<R: EventRecord>(Owned<Sole<R>>);

/// What it is in its process.
#[derive(Debug)]
pub(super) struct Sole<R: EventRecord> {
    pub(super) stream: Stream<R>,
    pub(super) replies: Rx<R::Reply>,
    watch: Watch<R::Wire>,
}

impl<R: EventRecord> Release for Sole<R> {
    fn release(&mut self) {
        self.stream.release();
        self.replies.release();
    }
}

static_assertions::assert_impl_all!(SoleSender<recordfd_uapi::AcpiNotify>: Send);

impl<R: EventRecord> SoleSender<R> {
    pub(super) fn new(port: &Remote) -> Self {
        let stream = Stream::new(Tx::Remote(port.tx(u32::MAX)), Overflow::DropNewest);
        Self(Owned::new(Sole { watch: stream.tx.watch(), stream, replies: port.rx() }))
    }

    /// Attaches the sender's end of a channel in shared memory that another process has made with
    /// [`event::shared_receiver`](super::shared_receiver).
    ///
    /// Waits for no message. Calls sendmsg(2), recvmsg(2), fcntl(2), lseek(2), mmap(2), close(2) and getpid(2) only.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// As [`Receiver::from_shared`](super::Receiver::from_shared).
    pub fn from_shared(socket: OwnedFd) -> Result<Self, Rejected<OwnedFd>> {
        Self::from_shared_within(socket, DEFAULT_MAX_DEPTH)
    }

    pub(super) fn from_shared_within(socket: OwnedFd, max_depth: u32) -> Result<Self, Rejected<OwnedFd>> {
        let (port, ..) = Remote::shared(socket, max_depth, true, check_format::<R>)?;
        Ok(Self::new(&port))
    }

    /// Fails in a child of fork that only inherited it.
    #[cfg(feature = "mio")]
    pub(crate) fn check_process(&self) -> Result<(), NotThisProcess> {
        self.0.get().map(drop)
    }

    #[inline]
    fn stream(&mut self) -> Result<&mut Stream<R>, NotThisProcess> {
        Ok(&mut self.0.get_mut()?.stream)
    }

    /// A sender that can be cloned: its clones take turns by a lock.
    pub fn into_shared(self) -> Sender<R> {
        Sender::of(self.0)
    }

    /// Sends one record, or gives it back.
    ///
    /// Never waits for the receiver. A record given back was not numbered: it is no loss. That the receiver's
    /// process was killed is learned when it should be woken, when the ring has been full for a while, or by
    /// [`is_closed`](Self::is_closed).
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] when the ring is full, [`TrySendError::Closed`] when the receiver is gone or broke
    /// the rules of the ring, which [`try_recv_reply`](Self::try_recv_reply) tells.
    #[inline]
    pub fn try_send(&mut self, record: R) -> Result<(), TrySendError<R>> {
        match self.stream().map_err(TrySendError::from).and_then(|stream| stream.send(&[record])) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.with(record)),
        }
    }

    /// Sends as many of `records` as fit, in order; returns how many were accepted. They are published together.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send), and only when none was accepted: otherwise the count is short
    /// and the next call tells why.
    #[inline]
    pub fn send_batch(&mut self, records: &[R]) -> Result<usize, TrySendError<()>> {
        self.stream()?.send(records)
    }

    /// Sends one record; drops it when the ring is full.
    ///
    /// The receiver learns of the loss in its place in the stream: by the next record's number, or at once by a
    /// notice of its own. The number of a loss saturates at 2^30 - 1.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send), but never [`TrySendError::Full`].
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::event::{self, Received, Receiver};
    /// use recordfd::uapi::{Le64, Smmuv3Event};
    ///
    /// let (mut tx, end) = event::shared::<Smmuv3Event>(&recordfd::Options::new().depth(2))?;
    /// let mut rx = Receiver::<Smmuv3Event>::from_shared(end.into())?;
    /// for number in 0..5 {
    ///     tx.post(Smmuv3Event { evt: [Le64::new(number); 4] })?;
    /// }
    /// assert_eq!((rx.recv()?.lost(), rx.recv()?.lost()), (0, 0));
    /// assert_eq!(rx.recv()?, Received::Lost { count: 3 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post(&mut self, record: R) -> Result<(), TrySendError<R>> {
        let posted = self.stream().map_err(TrySendError::from).and_then(|stream| stream.post(record));
        posted.map_err(|error| error.with(record))
    }

    /// Receives the next reply. Poll the sender's descriptor to wait for one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`], [`TryRecvError::Closed`] when the receiver is gone and its last reply
    /// was received, [`TryRecvError::PeerViolation`] when it broke the rules.
    pub fn try_recv_reply(&mut self) -> Result<R::Reply, TryRecvError> {
        // A wake-up that the kernel had no memory for.
        let Sole { stream, replies, .. } = self.0.get_mut()?;
        let _ = stream.flush();
        let reply = recv_reply(replies)?;
        stream.counters.replies += 1;
        Ok(reply)
    }

    /// Whether every accepted record has been read: reading is the acknowledgement.
    ///
    /// # Errors
    ///
    /// [`DrainError::Closed`] when the receiver is gone and had not read everything.
    pub fn is_drained(&self) -> Result<bool, DrainError> {
        self.0.get()?.watch.is_drained()
    }

    /// Waits until every accepted record has been read; `None` waits without limit.
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`], or as [`is_drained`](Self::is_drained).
    pub fn wait_drained(&mut self, timeout: Option<Duration>) -> Result<(), DrainError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let Sole { watch, replies, .. } = self.0.get_mut()?;
        let outcome = watch.wait_drained(deadline, || true);
        replies.settle();
        outcome
    }

    /// How many records are accepted while nobody reads: the depth.
    pub fn capacity(&self) -> usize {
        self.0.peek().stream.tx.capacity()
    }

    /// Whether the receiver is gone. It may still have been there when the last record was accepted.
    pub fn is_closed(&self) -> bool {
        self.0.get().map_or(true, |sole| sole.watch.is_closed())
    }

    /// Wakes a receiver that an earlier send has not woken, which only one with an
    /// [asymmetric fence](Self::use_asymmetric_fence) may have failed to; and tells of a loss.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    pub fn flush(&mut self) -> Result<(), TrySendError<()>> {
        self.stream()?.flush()
    }

    /// Leaves the full fence that each call to send takes to a receiver that makes it for both sides.
    ///
    /// For channels whose sides each have a processor of their own. A sender that need not fence takes a fraction
    /// of the time for a record; a receiver about to sleep then calls membarrier(2), which interrupts every
    /// processor that runs a thread of a registered process and takes some 15 us. It takes effect once
    /// both sides have called it: this one registers its process, which lasts until exec, the receiver says
    /// that it fences for both. It cannot be taken back.
    ///
    /// **Call [`flush`](Self::flush) before you go quiet.** Linux has a hole here (seen on 6.18; `exit_mm` in
    /// `kernel/exit.c`): when a thread of the process ends, it forgets that the processor that the thread ran on is to be interrupted, and
    /// does not notice if another thread of the same process comes next. A record that is sent from there may wake nobody. What makes
    /// up for it are the next send, `flush`, [`wait_drained`](Self::wait_drained) and a receive of replies that finds
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] when the kernel has no membarrier(2), or a filter forbids it.
    pub fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        let Sole { stream, replies, .. } = self.0.get_mut()?;
        stream.tx.leave_fences()?;
        replies.fence_for_both();
        Ok(())
    }

    /// What was done so far.
    pub fn counters(&self) -> SenderCounters {
        self.0.get().map(|sole| sole.stream.counters()).unwrap_or_default()
    }
}

impl<R: EventRecord> AsFd for SoleSender<R> {
    /// The descriptor to poll for replies and for the receiver's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.peek().replies.as_fd()
    }
}
