//! The end that makes events.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::{Event, EventRecord, Format, Sequence};

use super::adopt;
use crate::channel::Overflow;
use crate::error::{DrainError, Error, TryRecvError, TrySendError};
use crate::sync::{Mutex, lock};
use crate::transport::{Owner, Rx, RxCarrier, Tx, Watch, socket as carrier};

/// The sending end of an event channel; clones share it.
///
/// Senders are serialised by one lock around number, room, queue and doorbell: records are numbered in
/// the order in which they are queued. Dropping the last clone closes the channel.
#[derive(Debug)]
pub struct Sender<R: EventRecord>(Arc<Shared<R>>);

static_assertions::assert_impl_all!(Sender<recordfd_uapi::AcpiNotify>: Send, Sync, Clone);

#[derive(Debug)]
struct Shared<R: EventRecord> {
    stream: Mutex<Stream<R>>,
    replies: Mutex<Rx<R::Reply>>,
    /// Looks that take no lock, so that who waits for a drained queue holds up nobody.
    records_watch: Watch<Event<R>>,
    replies_watch: Watch<R::Reply>,
    capacity: usize,
    owner: Owner,
}

/// What the lock guards.
#[derive(Debug)]
struct Stream<R: EventRecord> {
    tx: Tx<Event<R>>,
    /// What to drop; only the local transport has the choice.
    #[cfg_attr(not(feature = "local"), expect(dead_code))]
    overflow: Overflow,
    /// Number of the next record, dropped or not.
    next: Sequence,
    /// Records dropped since the last accepted one or the last notice of loss.
    pending: u32,
    /// The transport has told the receiver of them.
    announced: bool,
    counters: SenderCounters,
}

/// What a sender and its clones have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderCounters {
    /// Records accepted.
    pub sent: u64,
    /// Records dropped by [`Sender::post`], the displaced ones included.
    pub dropped: u64,
    /// Replies received.
    pub replies: u64,
    /// Times a sleeping receiver was woken; 0 on a socket, where the kernel does that.
    pub wake_ups: u64,
}

impl<R: EventRecord> Sender<R> {
    pub(super) fn new(tx: Tx<Event<R>>, replies: Rx<R::Reply>, overflow: Overflow) -> Self {
        let (records_watch, replies_watch) = (tx.watch(), replies.watch());
        let capacity = tx.capacity();
        let stream = Stream {
            tx,
            overflow,
            next: Sequence::ZERO,
            pending: 0,
            announced: false,
            counters: SenderCounters::default(),
        };
        Self(Arc::new(Shared {
            stream: Mutex::new(stream),
            replies: Mutex::new(replies),
            records_watch,
            replies_watch,
            capacity,
            owner: Owner::this_process(),
        }))
    }

    /// Attaches the sender's end of a channel that another process has made.
    ///
    /// `format` and `depth` are what the maker told ([`UnattachedEnd::info`](crate::UnattachedEnd::info)).
    /// The depth keeps one write of the maker's send buffer free for a notice of loss; told too high, a
    /// loss at the very end of the stream may go unreported. Calls fcntl(2), recvmsg(2) and getpid(2) only.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] when `R` is not of `format`, [`Error::NotASocket`], [`Error::Os`].
    pub fn from_socket(socket: OwnedFd, format: Format, depth: u32) -> Result<Self, Error> {
        let socket = adopt::<R>(socket, format)?;
        let replies = Rx::new(RxCarrier::Socket(carrier::Rx::new(socket.clone())));
        let tx = Tx::Socket(carrier::Tx::new(socket, depth.max(1)));
        Ok(Self::new(tx, replies, Overflow::DropNewest))
    }

    /// Sends one record, or gives it back.
    ///
    /// Never waits for the receiver. A record given back was not numbered: it is no loss.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] when the queue is full, [`TrySendError::Closed`] when the receiver is
    /// gone, [`TrySendError::Io`] when the system call fails otherwise.
    pub fn try_send(&self, record: R) -> Result<(), TrySendError<R>> {
        match lock(&self.0.stream).send(&[record]) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.with(record)),
        }
    }

    /// Sends as many of `records` as fit, in order; returns how many were accepted.
    ///
    /// One lock, one wake-up, and on a socket one write for up to 16 KiB.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send), and only when none was accepted: otherwise the count is short
    /// and the next call tells why.
    pub fn send_batch(&self, records: &[R]) -> Result<usize, TrySendError<()>> {
        lock(&self.0.stream).send(records)
    }

    /// Sends one record; drops one when the queue is full, as [`Options::overflow`] says.
    ///
    /// The receiver learns of the loss in its place in the stream: exactly, by the next record's number,
    /// or by a notice of its own when nothing follows. On the local transport the notice is there at
    /// once. On a socket it is written at the next call that finds room, by [`flush`](Self::flush), or
    /// when the last sender is dropped; the number of a loss saturates at 2^31 - 1.
    ///
    /// [`Options::overflow`]: crate::Options::overflow
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send), but never [`TrySendError::Full`].
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::event::{self, Received};
    /// use recordfd::uapi::{Le64, Smmuv3Event};
    ///
    /// let (tx, end) = event::socket::<Smmuv3Event>(&recordfd::Options::new().depth(2))?;
    /// let format = end.info().format;
    /// let mut rx = event::Receiver::<Smmuv3Event>::from_socket(end.into(), format)?;
    /// for number in 0..5 {
    ///     tx.post(Smmuv3Event { evt: [Le64::new(number); 4] })?;
    /// }
    /// drop(tx);
    /// assert_eq!((rx.recv()?.lost(), rx.recv()?.lost()), (0, 0));
    /// assert_eq!(rx.recv()?, Received::Lost { count: 3 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post(&self, record: R) -> Result<(), TrySendError<R>> {
        lock(&self.0.stream).post(record).map_err(|error| error.with(record))
    }

    /// Writes the notice of a loss that nothing was accepted after, if there is one to write, and the
    /// rest of a record of which the kernel took only a part.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] while there is no room for it, else as [`try_send`](Self::try_send).
    pub fn flush(&self) -> Result<(), TrySendError<()>> {
        lock(&self.0.stream).flush()
    }

    /// Receives the next reply. Also writes a notice of loss, as [`flush`](Self::flush) does.
    ///
    /// Poll the sender's descriptor to wait for replies. Where the format has none, this tells when the
    /// receiver is gone or has written what it must not.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`], [`TryRecvError::Closed`] when the receiver is gone and its last reply
    /// was received, [`TryRecvError::PeerViolation`] when it wrote what is no reply.
    pub fn try_recv_reply(&self) -> Result<R::Reply, TryRecvError> {
        // No room, or nobody there: the notice stays pending, and the receive below tells the rest.
        let _ = self.flush();
        let mut reply = None;
        lock(&self.0.replies).recv(1, |item| {
            reply = Some(*item);
            Ok(())
        })?;
        let reply = reply.ok_or(TryRecvError::Empty)?;
        lock(&self.0.stream).counters.replies += 1;
        Ok(reply)
    }

    /// Whether every accepted record has been read: reading is the acknowledgement.
    ///
    /// # Errors
    ///
    /// [`DrainError::Closed`] when the receiver is gone and it is not known to have read everything.
    pub fn is_drained(&self) -> Result<bool, DrainError> {
        Ok(self.is_written() && self.0.records_watch.is_drained()?)
    }

    /// Waits until every accepted record has been read; `None` waits without limit.
    ///
    /// On a socket the kernel does not tell, so this looks again every 50 us to 2 ms.
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`], or as [`is_drained`](Self::is_drained).
    pub fn wait_drained(&self, timeout: Option<Duration>) -> Result<(), DrainError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.0.records_watch.wait_drained(deadline, || self.is_written())
    }

    /// Whether every accepted record is with the transport, the rest of a cut one included.
    fn is_written(&self) -> bool {
        !matches!(lock(&self.0.stream).tx.finish(), Err(TrySendError::Full(())))
    }

    /// How many records are accepted one by one while nobody reads. A socket takes more in batches.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Whether the receiver is gone. It may still have been there when the last record was accepted.
    pub fn is_closed(&self) -> bool {
        self.0.records_watch.is_closed()
    }

    /// What was done so far, by this sender and its clones.
    pub fn counters(&self) -> SenderCounters {
        let stream = lock(&self.0.stream);
        SenderCounters { wake_ups: stream.tx.wake_ups(), ..stream.counters }
    }
}

impl<R: EventRecord> Stream<R> {
    fn send(&mut self, records: &[R]) -> Result<usize, TrySendError<()>> {
        let first = self.next;
        let accepted =
            self.tx.send(records.len(), |index| Event::new(first.plus(index as u32), records[index]))?;
        if accepted > 0 {
            self.next = first.plus(accepted as u32);
            self.forget_loss();
            self.counters.sent += accepted as u64;
        }
        Ok(accepted)
    }

    fn post(&mut self, record: R) -> Result<(), TrySendError<()>> {
        #[cfg(feature = "local")]
        if let (Overflow::DropOldest, Tx::Local(tx)) = (self.overflow, &mut self.tx) {
            let displaced = tx.send_displacing(Event::new(self.next, record))?;
            self.next = self.next.plus(1);
            self.counters.sent += 1;
            self.counters.dropped += u64::from(displaced);
            return Ok(());
        }
        match self.send(&[record]) {
            Err(TrySendError::Full(())) => {
                self.counters.dropped += 1;
                // At the limit the number stands still, so that the receiver is told of too few rather
                // than, by a number that went round, of none.
                if self.pending < Sequence::MAX.get() {
                    self.announced = self.tx.announce_loss(self.next);
                    self.next = self.next.plus(1);
                    self.pending += 1;
                }
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    fn flush(&mut self) -> Result<(), TrySendError<()>> {
        self.tx.finish()?;
        if let Some(notice) = self.unwritten_notice() {
            self.tx.send(1, |_| notice)?;
            self.forget_loss();
        }
        Ok(())
    }

    /// The notice the receiver needs, unless the transport has told it or there was no loss.
    fn unwritten_notice(&self) -> Option<Event<R>> {
        let last_lost = self.next.plus(Sequence::MAX.get());
        (self.pending > 0 && !self.announced).then(|| Event::lost(last_lost))
    }

    fn forget_loss(&mut self) {
        self.pending = 0;
        self.announced = false;
    }
}

impl<R: EventRecord> Drop for Shared<R> {
    fn drop(&mut self) {
        if !self.owner.is_this_process() {
            return;
        }
        let mut stream = lock(&self.stream);
        // These fail only when nobody is there to read, or when someone has shrunk the send buffer.
        let _ = stream.tx.finish();
        if let (Some(notice), Tx::Socket(tx)) = (stream.unwritten_notice(), &mut stream.tx) {
            let _ = tx.send_last(notice);
        }
    }
}

impl<R: EventRecord> Clone for Sender<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: EventRecord> AsFd for Sender<R> {
    /// The descriptor to poll for replies and for the receiver's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.replies_watch.as_fd()
    }
}
