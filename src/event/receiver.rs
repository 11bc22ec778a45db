//! The end that takes events.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use recordfd_uapi::{EventRecord, Format, LossMeter, Sequence, Sequenced};

use super::check_format;
use crate::channel::{DEFAULT_MAX_DEPTH, UnattachedEnd};
use crate::error::{Error, Rejected, TryRecvError, TrySendError, Violation};
use crate::sys::{Owned, Release};
use crate::transport::{Remote, Rx, Tx};

/// What a receive brings: always one item of the stream, in order.
///
/// A loss in the middle of the stream comes with the record that reveals it, so that nothing is ever
/// held back behind a descriptor that no longer reads as readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<R> {
    /// The next record.
    Record {
        /// Records lost right before this one; mostly 0.
        lost: u32,
        /// Its number, which counts lost records too.
        sequence: Sequence,
        /// What happened.
        record: R,
    },
    /// Records were lost and none was accepted since.
    Lost {
        /// How many; 0 only where [`Receiver::try_recv_known`] has skipped something.
        count: u32,
    },
}

impl<R> Received<R> {
    /// Records lost at this place of the stream.
    pub fn lost(&self) -> u32 {
        match self {
            Self::Record { lost, .. } => *lost,
            Self::Lost { count } => *count,
        }
    }

    /// The record, if this is one.
    pub fn record(&self) -> Option<&R> {
        match self {
            Self::Record { record, .. } => Some(record),
            Self::Lost { .. } => None,
        }
    }
}

impl<R> Default for Received<R> {
    /// Nothing lost and no record: to fill a buffer with before the first receive.
    fn default() -> Self {
        Self::Lost { count: 0 }
    }
}

/// The receiving end of an event channel.
#[derive(Debug)]
pub struct Receiver<R: EventRecord>(pub(super) Owned<Inbox<R>>);

/// What it is in its process.
#[derive(Debug)]
pub(super) struct Inbox<R: EventRecord> {
    rx: Rx<R::Wire>,
    replies: Tx<R::Reply>,
    meter: LossMeter,
    /// The most records that can be lost in one place.
    most_lost: u32,
    busy_poll: Duration,
    pub(super) counters: ReceiverCounters,
}

static_assertions::assert_impl_all!(Receiver<recordfd_uapi::AcpiNotify>: Send);

/// What a receiver has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverCounters {
    /// Records received.
    pub received: u64,
    /// Those of them that were skipped, for their formats are not known: [`Receiver::try_recv_known`].
    pub unknown: u64,
    /// Records lost, as far as the stream has told yet.
    pub dropped: u64,
    /// Replies accepted.
    pub replies: u64,
    /// Times this end was woken: tokens it was sent on the local and the shared transport, blocking receives that
    /// had to sleep on a socket.
    pub wake_ups: u64,
    /// Waits that ended because this end, looking by itself, found something:
    /// [`Options::busy_poll`](crate::Options::busy_poll).
    pub busy_polls: u64,
    /// Waits that ended only after a sleep.
    pub sleeps: u64,
    /// The most items found waiting at once: the queue's length on the local transport, as much of it as was
    /// looked at on the shared one, what one read brought on a socket.
    pub high_water: u64,
}

impl<R: EventRecord> Receiver<R> {
    pub(super) fn new(rx: Rx<R::Wire>, replies: Tx<R::Reply>, busy_poll: Duration) -> Self {
        let (meter, counters) = (LossMeter::from_start(), ReceiverCounters::default());
        // Threads trust each other, and one that drops the oldest records counts without limit.
        let most_lost = if rx.is_local() { u32::MAX } else { Sequence::LOSS_MAX };
        let mut inbox = Inbox { rx, replies, meter, most_lost, busy_poll, counters };
        inbox.set_busy_poll(busy_poll);
        Self(Owned::new(inbox))
    }

    /// Attaches the receiver's end of a channel that another process has made, on whatever transport.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// As [`from_socket`](Self::from_socket) and [`from_shared`](Self::from_shared), with the end.
    pub fn attach(end: UnattachedEnd) -> Result<Self, Rejected<UnattachedEnd>> {
        end.attach_by(Self::from_shared_within, |socket, info| Self::from_socket(socket, info.format))
    }

    /// Attaches the receiver's end of a channel that another process has made.
    ///
    /// `format` is what the maker told; nothing is guessed from the descriptor.
    /// Calls sendmsg(2), recvmsg(2) and fcntl(2) only; mmap(2) for the first end of a process, and sometimes getpid(2), as
    /// docs/DESIGN.md says.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `R` is not of `format`, [`Error::NotAUnixStream`],
    /// [`Error::SharedEnd`], [`Error::Os`].
    pub fn from_socket(socket: OwnedFd, format: Format) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, ()) = Remote::socket(socket, || check_format::<R>(format))?;
        Ok(Self::new(remote.rx(), Tx::Remote(remote.tx(u32::MAX)), Duration::ZERO))
    }

    /// Attaches the receiver's end of a channel in shared memory that another process has made with
    /// [`event::shared`](super::shared).
    ///
    /// Format, depth and memory are what the end itself says; all of it is checked, and nothing is read from the
    /// shared memory again that was checked. Waits for no message. Calls sendmsg(2), recvmsg(2), fcntl(2),
    /// lseek(2), mmap(2), close(2) and getpid(2) only.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `R` is not of the channel's format, [`Error::WrongEnd`] for
    /// a sender's end, [`Error::AlreadyAttached`], [`Error::Closed`], [`Error::Offer`] and [`Error::BadOffer`] for what
    /// cannot be trusted, [`Error::TooDeep`] for a depth over 65,536 ([`attach`](Self::attach) can allow more),
    /// [`Error::NoDescriptor`], [`Error::DescriptorsCutOff`], [`Error::NotAUnixStream`], [`Error::Os`].
    ///
    /// Nothing is taken out of the socket before all of that was checked. If another process reads the socket while
    /// this one attaches it, nobody can attach the end any more; [`Error::Closed`] or [`Error::Os`] is returned.
    pub fn from_shared(socket: OwnedFd) -> Result<Self, Rejected<OwnedFd>> {
        Self::from_shared_within(socket, DEFAULT_MAX_DEPTH)
    }

    /// Fails in a child of fork that only inherited it.
    #[cfg(feature = "mio")]
    pub(crate) fn check_process(&self) -> Result<(), crate::error::NotThisProcess> {
        self.0.get().map(drop)
    }

    fn from_shared_within(socket: OwnedFd, max_depth: u32) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, ..) = Remote::shared(socket, max_depth, false, check_format::<R>)?;
        Ok(Self::new(remote.rx(), Tx::Remote(remote.tx(u32::MAX)), Duration::ZERO))
    }

    /// Sets how long a blocking receive looks for records before it sleeps; see
    /// [`Options::busy_poll`](crate::Options::busy_poll).
    pub fn set_busy_poll(&mut self, busy_poll: Duration) {
        if let Ok(inbox) = self.0.get_mut() {
            inbox.set_busy_poll(busy_poll);
        }
    }

    /// Makes the fences of both sides whenever this end is about to sleep, so that a sender that agreed to it
    /// needs none; see [`SoleSender::use_asymmetric_fence`](super::SoleSender::use_asymmetric_fence). That goes for
    /// replies, too: before you go quiet, receive until nothing is there, or [`wait`](Self::wait).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on other transports than the shared one, [`Error::Os`] when the kernel has no
    /// membarrier(2).
    pub fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        let inbox = self.0.get_mut()?;
        inbox.replies.leave_fences()?;
        inbox.rx.fence_for_both();
        Ok(())
    }

    /// Receives the next item without waiting.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when nothing is there, [`TryRecvError::Closed`] when the sender is gone
    /// and everything was received, [`TryRecvError::PeerViolation`] when the peer broke the format.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Received<R>, TryRecvError> {
        self.0.get_mut()?.try_recv()
    }

    /// Receives as many items as wait and fit into `items`, without waiting; returns how many.
    ///
    /// On a socket this is one read of up to 16 KiB. Records in front of a violation are delivered; the
    /// next call reports it, and poll may not tell of it before the peer acts again.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv), and only when there was no item.
    pub fn recv_batch(&mut self, items: &mut [Received<R>]) -> Result<usize, TryRecvError> {
        let mut slots = items.iter_mut();
        self.0.get_mut()?.receive(slots.len(), |item| {
            if let Some(slot) = slots.next() {
                *slot = item;
            }
            Ok(())
        })
    }

    /// Receives the next item; waits for it without limit, also when a signal comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv), but never [`TryRecvError::Empty`].
    pub fn recv(&mut self) -> Result<Received<R>, TryRecvError> {
        self.0.get_mut()?.recv_until(None, Inbox::try_recv)
    }

    /// Receives the next item; waits for it at most `timeout`, also when a signal comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv); [`TryRecvError::Empty`] when nothing came in time.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Received<R>, TryRecvError> {
        self.0.get_mut()?.recv_until(Instant::now().checked_add(timeout), Inbox::try_recv)
    }

    /// Waits until a receive may bring something, at most `timeout`; `None` waits without limit. False: nothing
    /// came in time.
    ///
    /// What poll(2) on the descriptor does, with [`Options::busy_poll`](crate::Options::busy_poll) before it: for
    /// who takes batches. To be followed by [`recv_batch`](Self::recv_batch), which may still find nothing.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Io`].
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::TryRecvError;
    /// use recordfd::event::{self, Received, Receiver};
    /// use recordfd::uapi::{Le64, Smmuv3Event};
    ///
    /// let (mut tx, end) = event::shared::<Smmuv3Event>(&recordfd::Options::new())?;
    /// let mut rx = Receiver::<Smmuv3Event>::from_shared(end.into())?;
    /// tx.send_batch(&[Smmuv3Event { evt: [Le64::new(4); 4] }; 100])?;
    /// drop(tx);
    ///
    /// let (mut items, mut events) = ([Received::default(); 64], 0);
    /// while rx.wait(None)? {
    ///     match rx.recv_batch(&mut items) {
    ///         Ok(count) => events += items[..count].iter().filter_map(Received::record).count(),
    ///         Err(TryRecvError::Empty) => {}
    ///         Err(TryRecvError::Closed) => break,
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// assert_eq!(events, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, TryRecvError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let inbox = self.0.get_mut()?;
        inbox.rx.wait(deadline, inbox.busy_poll).map_err(TryRecvError::Io)
    }

    /// Sends a reply on the same descriptor. Any number may be sent for one cookie.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] while the sender has too many unread, [`TrySendError::Closed`] when it is
    /// gone, [`TrySendError::Io`]; the reply is given back.
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::event;
    /// use recordfd::uapi::{AcpiNotify, AcpiOst, FixedText};
    ///
    /// let (tx, mut rx) = event::channel::<AcpiNotify>(&recordfd::Options::new())?;
    /// let (bus_id, device_class) = (FixedText::new("PCI0")?, FixedText::EMPTY);
    /// tx.try_send(AcpiNotify { dev_id: 0, value: 3, data: 0, cookie: 9, bus_id, device_class })?;
    /// if let Some(eject) = rx.recv()?.record() {
    ///     rx.reply(AcpiOst::new(eject.cookie, eject.value, 0x84))?; // ejection in progress
    ///     rx.reply(AcpiOst::new(eject.cookie, eject.value, 0))?; // done
    /// }
    /// assert_eq!((tx.try_recv_reply()?.status, tx.try_recv_reply()?.status), (0x84, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reply(&mut self, reply: R::Reply) -> Result<(), TrySendError<R::Reply>> {
        let sent = self.0.get_mut().map_err(TrySendError::from).and_then(|inbox| inbox.reply(reply));
        sent.map_err(|error| error.with(reply))
    }

    /// What was seen so far.
    pub fn counters(&self) -> ReceiverCounters {
        let Ok(inbox) = self.0.get() else { return ReceiverCounters::default() };
        let (busy_polls, sleeps) = inbox.rx.waits();
        ReceiverCounters { wake_ups: inbox.rx.wake_ups(), busy_polls, sleeps, ..inbox.counters }
    }
}

impl<R: EventRecord> Inbox<R> {
    fn set_busy_poll(&mut self, busy_poll: Duration) {
        self.busy_poll = busy_poll;
        self.rx.set_busy(!busy_poll.is_zero());
    }

    #[inline]
    fn try_recv(&mut self) -> Result<Received<R>, TryRecvError> {
        if let Some((item, found)) =
            self.rx.recv_known(|event| take(&mut self.meter, self.most_lost, event).ok())
        {
            self.counters.dropped += u64::from(item.lost());
            self.counters.received += u64::from(item.record().is_some());
            self.counters.high_water = self.counters.high_water.max(found as u64);
            return Ok(item);
        }
        let mut item = None;
        self.receive(1, |received| {
            item = Some(received);
            Ok(())
        })?;
        item.ok_or(TryRecvError::Empty)
    }

    /// Receives at most `most` items into `sink`, which may find one in violation of the format; returns how many.
    #[inline]
    pub(super) fn receive(
        &mut self,
        most: usize,
        mut sink: impl FnMut(Received<R>) -> Result<(), Violation>,
    ) -> Result<usize, TryRecvError> {
        let (meter, most_lost, counters) = (&mut self.meter, self.most_lost, &mut self.counters);
        let mut notices = 0;
        let received = self.rx.recv(most, |event| {
            let item = take(meter, most_lost, event)?;
            sink(item)?;
            // Rare: nothing is counted record by record.
            if item.lost() > 0 || item.record().is_none() {
                counters.dropped += u64::from(item.lost());
                notices += u64::from(item.record().is_none());
            }
            Ok(())
        })?;
        self.counters.received += received.count as u64 - notices;
        self.counters.high_water = self.counters.high_water.max(received.found as u64);
        let Some(sequence) = received.tail_loss else { return Ok(received.count) };
        let count = self.meter.lost_header(sequence);
        if count == 0 || count > self.most_lost {
            // A sender of this process never says so; the word of another one is not trusted.
            self.rx.break_off(if count == 0 { Violation::NothingLost } else { Violation::SequenceBackwards });
            return if received.count == 0 { self.receive(most, sink) } else { Ok(received.count) };
        }
        self.counters.dropped += u64::from(count);
        // What can be wrong is a record.
        let _ = sink(Received::Lost { count });
        Ok(received.items())
    }

    /// Waits until `try_recv` finds something, but not beyond `deadline`.
    pub(super) fn recv_until<T>(
        &mut self,
        deadline: Option<Instant>,
        try_recv: impl Fn(&mut Self) -> Result<T, TryRecvError>,
    ) -> Result<T, TryRecvError> {
        let mut slept = false;
        loop {
            // First, for a receive that finds nothing asks to be woken.
            self.rx.look(deadline, self.busy_poll).map_err(TryRecvError::Io)?;
            match try_recv(self) {
                Err(TryRecvError::Empty) => {}
                outcome => return outcome,
            }
            // A peer that keeps the descriptor readable without a record does not make this last longer.
            let is_over = slept && deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_over || !self.rx.sleep(deadline).map_err(TryRecvError::Io)? {
                return Err(TryRecvError::Empty);
            }
            slept = true;
        }
    }

    fn reply(&mut self, reply: R::Reply) -> Result<(), TrySendError<()>> {
        self.replies.send(1, |_| reply)?;
        self.counters.replies += 1;
        Ok(())
    }
}

impl<R: EventRecord> Release for Inbox<R> {
    fn release(&mut self) {
        self.rx.release();
        self.replies.release();
    }
}

/// The item that `event` is, after what `meter` has seen; a violation leaves `meter` as it was.
#[inline]
fn take<W: Sequenced>(
    meter: &mut LossMeter,
    most_lost: u32,
    event: &W,
) -> Result<Received<W::Content>, Violation> {
    let (sequence, mut next) = (event.sequence(), *meter);
    let lost = if event.is_lost() { next.lost_header(sequence) } else { next.record(sequence) };
    if lost > most_lost {
        return Err(Violation::SequenceBackwards);
    }
    if event.is_lost() {
        if lost == 0 {
            return Err(Violation::NothingLost);
        }
        *meter = next;
        return Ok(Received::Lost { count: lost });
    }
    *meter = next;
    Ok(Received::Record { lost, sequence, record: event.content() })
}

impl<R: EventRecord> AsFd for Receiver<R> {
    /// The descriptor to poll for records and for the sender's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.peek().rx.as_fd()
    }
}
