//! The end that makes events.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::{EventRecord, Format, Record};

use super::sole::Sole;
use super::stream::{SenderCounters, Stream};
use super::{SoleSender, check_format};
use crate::channel::{Overflow, UnattachedEnd};
use crate::error::{DrainError, Error, NotThisProcess, Rejected, TryRecvError, TrySendError};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::sys::{Owned, Release};
use crate::transport::{Remote, Rx, Tx, Watch};

/// The sending end of an event channel; clones share it.
///
/// Senders are serialised by one lock around number, room, queue and doorbell: records are numbered in
/// the order in which they are queued. Dropping the last clone closes the channel.
#[derive(Debug)]
pub struct Sender<R: EventRecord>(Arc<Owned<Shared<R>>>);

static_assertions::assert_impl_all!(Sender<recordfd_uapi::AcpiNotify>: Send, Sync, Clone);

#[derive(Debug)]
struct Shared<R: EventRecord> {
    stream: Mutex<Stream<R>>,
    replies: Mutex<Rx<R::Reply>>,
    /// Looks that take no lock, so that who waits for a drained queue holds up nobody.
    records_watch: Watch<R::Wire>,
    replies_watch: Watch<R::Reply>,
    capacity: usize,
}

impl<R: EventRecord> Sender<R> {
    pub(super) fn new(tx: Tx<R::Wire>, replies: Rx<R::Reply>, overflow: Overflow) -> Self {
        Self(Arc::new(Owned::new(Shared::new(Stream::new(tx, overflow), replies))))
    }

    /// The sender that takes turns with its clones where `sole` was the only one.
    pub(super) fn of(sole: Owned<Sole<R>>) -> Self {
        Self(Arc::new(sole.map(|sole| Shared::new(sole.stream, sole.replies))))
    }

    /// Fails in a child of fork that only inherited it.
    #[cfg(feature = "mio")]
    pub(crate) fn check_process(&self) -> Result<(), NotThisProcess> {
        self.0.get().map(drop)
    }

    fn stream(&self) -> Result<MutexGuard<'_, Stream<R>>, NotThisProcess> {
        Ok(lock(&self.0.get()?.stream))
    }

    /// Attaches the sender's end of a channel that another process has made, on whatever transport, with the depth that
    /// its maker told.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// As [`from_socket`](Self::from_socket) and [`SoleSender::from_shared`], with the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::event::{self, Sender};
    /// use recordfd::uapi::{Le64, Smmuv3Event};
    ///
    /// let (mut rx, end) = event::shared_receiver::<Smmuv3Event>(&recordfd::Options::new())?;
    /// // `end` goes to the other process, with `send_over` and `recv_from`:
    /// let tx = Sender::<Smmuv3Event>::attach(end)?;
    /// tx.try_send(Smmuv3Event { evt: [Le64::new(4); 4] })?;
    /// assert_eq!(rx.try_recv()?.lost(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attach(end: UnattachedEnd) -> Result<Self, Rejected<UnattachedEnd>> {
        end.attach_by(
            |socket, most| SoleSender::from_shared_within(socket, most).map(SoleSender::into_shared),
            |socket, info| Self::from_socket(socket, info.format, info.depth),
        )
    }

    /// Attaches the sender's end of a channel that another process has made.
    ///
    /// `format` and `depth` are what the maker told ([`UnattachedEnd::info`](crate::UnattachedEnd::info)).
    /// The depth keeps one write of the maker's send buffer free for a notice of loss; told too high, a
    /// loss at the very end of the stream may go unreported.
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
    pub fn from_socket(socket: OwnedFd, format: Format, depth: u32) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, ()) = Remote::socket(socket, || check_format::<R>(format))?;
        Ok(Self::new(Tx::Remote(remote.tx(depth.max(1))), remote.rx(), Overflow::DropNewest))
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
        match self.stream().map_err(TrySendError::from).and_then(|mut stream| stream.send(&[record])) {
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
        self.stream()?.send(records)
    }

    /// Sends one record; drops one when the queue is full, as [`Options::overflow`] says.
    ///
    /// The receiver learns of the loss in its place in the stream: exactly, by the next record's number,
    /// or by a notice of its own when nothing follows. On the local transport the notice is there at
    /// once. On a socket it is written at the next call that finds room, by [`flush`](Self::flush), or
    /// when the last sender is dropped; the number of a loss saturates at 2^30 - 1.
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
        let posted = self.stream().map_err(TrySendError::from).and_then(|mut stream| stream.post(record));
        posted.map_err(|error| error.with(record))
    }

    /// Writes the notice of a loss that nothing was accepted after, if there is one to write, and the
    /// rest of a record of which the kernel took only a part; and wakes a receiver that an earlier send has not woken:
    /// see [`SoleSender::use_asymmetric_fence`](super::SoleSender::use_asymmetric_fence).
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] while there is no room for it, else as [`try_send`](Self::try_send).
    pub fn flush(&self) -> Result<(), TrySendError<()>> {
        self.stream()?.flush()
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
        let shared = self.0.get()?;
        // No room, or nobody there: the notice stays pending, and the receive below tells the rest.
        let _ = lock(&shared.stream).flush();
        let reply = recv_reply(&mut lock(&shared.replies))?;
        lock(&shared.stream).counters.replies += 1;
        Ok(reply)
    }

    /// Whether every accepted record has been read: reading is the acknowledgement.
    ///
    /// After the receiver is gone, local and shared channels still answer: `Ok(true)` if it had read everything. On a
    /// socket the kernel frees what was not read, so that the answer is [`DrainError::Closed`] in any case.
    ///
    /// # Errors
    ///
    /// [`DrainError::Closed`] when the receiver is gone and is not known to have read everything, [`DrainError::Io`].
    pub fn is_drained(&self) -> Result<bool, DrainError> {
        let shared = self.0.get()?;
        Ok(shared.is_written() && shared.records_watch.is_drained()?)
    }

    /// Waits until every accepted record has been read; `None` waits without limit.
    ///
    /// On a socket the kernel does not notify the sender, so this checks again every 50 us to 2 ms; on a shared channel
    /// only while replies wait to be received.
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`], or as [`is_drained`](Self::is_drained).
    pub fn wait_drained(&self, timeout: Option<Duration>) -> Result<(), DrainError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let shared = self.0.get()?;
        let outcome = shared.records_watch.wait_drained(deadline, || shared.is_written());
        lock(&shared.replies).settle();
        outcome
    }

    /// How many records are accepted one by one while nobody reads. A socket takes more in batches.
    pub fn capacity(&self) -> usize {
        self.0.peek().capacity
    }

    /// Whether the receiver is gone. It may still have been there when the last record was accepted.
    pub fn is_closed(&self) -> bool {
        self.0.get().map_or(true, |shared| shared.records_watch.is_closed())
    }

    /// Leaves the full fence that each call to send takes on a shared channel to a receiver that makes it for both
    /// sides; see [`SoleSender::use_asymmetric_fence`](super::SoleSender::use_asymmetric_fence), and call
    /// [`flush`](Self::flush) before you go quiet.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on other transports, [`Error::Os`] when the kernel has no membarrier(2).
    pub fn use_asymmetric_fence(&self) -> Result<(), Error> {
        let shared = self.0.get()?;
        lock(&shared.stream).tx.leave_fences()?;
        lock(&shared.replies).fence_for_both();
        Ok(())
    }

    /// What was done so far, by this sender and its clones.
    pub fn counters(&self) -> SenderCounters {
        self.stream().map(|stream| stream.counters()).unwrap_or_default()
    }
}

/// The next reply.
pub(super) fn recv_reply<T: Record>(replies: &mut Rx<T>) -> Result<T, TryRecvError> {
    let mut reply = None;
    replies.recv(1, |item| {
        reply = Some(*item);
        Ok(())
    })?;
    reply.ok_or(TryRecvError::Empty)
}

impl<R: EventRecord> Shared<R> {
    fn new(stream: Stream<R>, replies: Rx<R::Reply>) -> Self {
        Self {
            records_watch: stream.tx.watch(),
            replies_watch: replies.watch(),
            capacity: stream.tx.capacity(),
            stream: Mutex::new(stream),
            replies: Mutex::new(replies),
        }
    }

    /// Whether every accepted record is with the transport, the rest of a cut one included.
    fn is_written(&self) -> bool {
        !matches!(lock(&self.stream).tx.finish(), Err(TrySendError::Full(())))
    }
}

impl<R: EventRecord> Release for Shared<R> {
    fn release(&mut self) {
        lock(&self.stream).release();
        lock(&self.replies).release();
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
        self.0.peek().replies_watch.as_fd()
    }
}
