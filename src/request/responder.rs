//! The end that takes requests and answers them.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use recordfd_uapi::Format;

use super::{Request, check_format};
use crate::answer;
use crate::answer::ends::{self, Answerer, Token};
use crate::channel::{DEFAULT_MAX_DEPTH, UnattachedEnd, check_depth};
use crate::error::{Error, Rejected, RespondError, TryRecvError};
use crate::sys::{Owned, Release};
use crate::transport::Remote;

/// The answering end of a channel of requests.
///
/// Every request that it receives must be answered; the requests may be kept, moved to other threads and answered
/// in any order. The reporter of another process is not trusted: what it sends is checked, and what it does not
/// read holds up nobody but its own answers. What a record says is its word, though: for PCI errors see
/// [`Recovery`](super::Recovery).
pub struct Responder<R: Request>(Owned<Inbox<R>>);

/// What it is in its process.
struct Inbox<R: Request> {
    responder: ends::Responder<R>,
    answerer: Answerer<R>,
    /// As many reads bring a request if there is one, behind a notice for each that an honest reporter may have
    /// open.
    most_reads: usize,
    busy_poll: Duration,
    received: u64,
}

static_assertions::assert_impl_all!(Responder<recordfd_uapi::PciError>: Send);

impl<R: Request> fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("received", &self.received()).finish_non_exhaustive()
    }
}

/// What a responder is told of a request that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The reporter has completed it without its answer: nothing is to be done about it any more, but it is still to
    /// be answered or dropped, and until then takes up room in the channel.
    Cancelled {
        /// The request's cookie.
        cookie: u32,
    },
    /// The reporter has asked for it again.
    Repeated {
        /// The request's cookie.
        cookie: u32,
        /// How often it was asked before.
        count: u32,
    },
}

impl<R: Request> Responder<R> {
    pub(super) fn new(responder: ends::Responder<R>, depth: u32, busy_poll: Duration) -> Self {
        let answerer = responder.answerer();
        let most_reads = depth as usize + 2;
        let mut inbox = Inbox { responder, answerer, most_reads, busy_poll, received: 0 };
        inbox.set_busy_poll(busy_poll);
        Self(Owned::new(inbox))
    }

    /// Attaches the responder's end of a channel that another process has made, on whatever transport, with the depth
    /// that its maker told. Room for as many requests is set aside, at most
    /// [`UnattachedEnd::max_depth`].
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// As [`from_socket`](Self::from_socket) and [`from_shared`](Self::from_shared), with the end.
    pub fn attach(end: UnattachedEnd) -> Result<Self, Rejected<UnattachedEnd>> {
        end.attach_by(Self::from_shared_within, |socket, info| {
            Self::from_socket(socket, info.format, info.depth)
        })
    }

    /// Attaches the responder's end of a channel that another process has made.
    ///
    /// `format` and `depth` are what the maker told
    /// ([`UnattachedEnd::info`](crate::UnattachedEnd::info)); a reporter that has more requests open than
    /// `depth` is taken for a hostile one. Room for `depth` requests is set aside: bound what a maker that is
    /// not trusted tells.
    /// Calls sendmsg(2), recvmsg(2) and fcntl(2) only; mmap(2) for the first end of a process, and sometimes getpid(2), as
    /// docs/DESIGN.md says.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `R` is not of `format`, [`Error::Option`] for a depth out
    /// of range, [`Error::NotAUnixStream`], [`Error::SharedEnd`], [`Error::Os`].
    pub fn from_socket(socket: OwnedFd, format: Format, depth: u32) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, ()) = Remote::socket(socket, || {
            check_depth("depth", depth)?;
            check_format::<R>(format)
        })?;
        Ok(Self::new(ends::Responder::remote(&remote, depth, true), depth, Duration::ZERO))
    }

    /// Attaches the responder's end of a channel in shared memory that another process has made with
    /// [`request::shared`](super::shared).
    ///
    /// The depth is what the end itself says; all that is told is checked. Waits for no message. Calls sendmsg(2),
    /// recvmsg(2), fcntl(2), lseek(2), mmap(2), close(2) and getpid(2) only.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `R` is not of the channel's format, and as
    /// [`event::Receiver::from_shared`](crate::event::Receiver::from_shared).
    pub fn from_shared(socket: OwnedFd) -> Result<Self, Rejected<OwnedFd>> {
        Self::from_shared_within(socket, DEFAULT_MAX_DEPTH)
    }

    /// Fails in a child of fork that only inherited it.
    #[cfg(feature = "mio")]
    pub(crate) fn check_process(&self) -> Result<(), crate::error::NotThisProcess> {
        self.0.get().map(drop)
    }

    fn from_shared_within(socket: OwnedFd, max_depth: u32) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, (), depth) = Remote::shared(socket, max_depth, false, check_format::<R>)?;
        Ok(Self::new(ends::Responder::remote(&remote, depth, true), depth, Duration::ZERO))
    }

    /// Receives the next request without waiting.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when none is there, [`TryRecvError::Closed`] when the reporter is gone and
    /// everything was received, [`TryRecvError::PeerViolation`] when it broke the format.
    pub fn try_recv(&mut self) -> Result<Pending<R>, TryRecvError> {
        let inbox = self.0.get_mut()?;
        let pending = try_recv(&mut inbox.responder, inbox.most_reads)?;
        inbox.received += 1;
        Ok(pending)
    }

    /// Receives the next request; waits for it without limit, also when a signal or a notice
    /// ([`next_notice`](Self::next_notice)) comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv), but never [`TryRecvError::Empty`].
    pub fn recv(&mut self) -> Result<Pending<R>, TryRecvError> {
        self.recv_until(None)
    }

    /// Receives the next request; waits for it at most `timeout`, also when a signal comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv); [`TryRecvError::Empty`] when nothing came in time.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Pending<R>, TryRecvError> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Pending<R>, TryRecvError> {
        let inbox = self.0.get_mut()?;
        let most_reads = inbox.most_reads;
        let try_recv = |responder: &mut _| try_recv(responder, most_reads);
        let pending = inbox.responder.recv_until(deadline, inbox.busy_poll, try_recv)?;
        inbox.received += 1;
        Ok(pending)
    }

    /// Waits until a receive may bring something, at most `timeout`; `None` waits without limit. False: nothing
    /// came in time. What poll(2) on the descriptor does, with [`Options::busy_poll`](super::Options::busy_poll)
    /// before it.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Io`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, TryRecvError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let inbox = self.0.get_mut()?;
        inbox.responder.wait(deadline, inbox.busy_poll).map_err(TryRecvError::Io)
    }

    /// Sets how long waits look for requests before they sleep; see
    /// [`Options::busy_poll`](super::Options::busy_poll).
    pub fn set_busy_poll(&mut self, busy_poll: Duration) {
        if let Ok(inbox) = self.0.get_mut() {
            inbox.set_busy_poll(busy_poll);
        }
    }

    /// Makes the fences of both sides whenever this end is about to sleep; see
    /// [`FaultResponder::use_asymmetric_fence`](crate::fault::FaultResponder::use_asymmetric_fence).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on other transports than the shared one, [`Error::Os`] when the kernel has no
    /// membarrier(2).
    pub fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        self.0.get_mut()?.responder.use_asymmetric_fence()
    }

    /// Answers a request by its cookie; see [`Pending::into_cookie`].
    ///
    /// # Errors
    ///
    /// As [`Pending::respond`]; [`RespondError::Code`] for a code that the format does not have, which leaves the
    /// request open.
    pub fn respond(&self, answer: R::Answer) -> Result<(), RespondError<()>> {
        self.0.get()?.answerer.respond_batch(&[answer]).map(|_| ())
    }

    /// The next notice of an open request; each is told once, and of several to one request the last.
    ///
    /// A notice makes the descriptor readable, but no receive returns it: look after each receive that found
    /// nothing, or that said `Closed`, before sleeping.
    pub fn next_notice(&self) -> Option<Notice> {
        let (cookie, notice) = self.0.get().ok()?.answerer.next_notice()?;
        Some(match notice {
            answer::Notice::Cancelled => Notice::Cancelled { cookie },
            answer::Notice::Repeated(count) => Notice::Repeated { cookie, count },
        })
    }

    /// The cookies of all requests that were received and not answered, in no order.
    pub fn open_cookies(&self) -> Vec<u32> {
        self.0.get().map(|inbox| inbox.answerer.open_cookies()).unwrap_or_default()
    }

    /// Requests received so far.
    pub fn received(&self) -> u64 {
        self.0.peek().received
    }
}

impl<R: Request> Inbox<R> {
    fn set_busy_poll(&mut self, busy_poll: Duration) {
        self.busy_poll = busy_poll;
        self.responder.set_busy(!busy_poll.is_zero());
    }
}

impl<R: Request> Release for Inbox<R> {
    /// The answerer tells it, which open requests share.
    fn release(&mut self) {}
}

fn try_recv<R: Request>(
    responder: &mut ends::Responder<R>,
    most_reads: usize,
) -> Result<Pending<R>, TryRecvError> {
    let mut record = [R::default()];
    // A read may bring a notice.
    for _ in 0..most_reads {
        let mut received = None;
        responder.read(&mut record, 1, |token| received = Some(token))?;
        if let Some(token) = received {
            return Ok(Pending { token, record: record[0] });
        }
    }
    Err(TryRecvError::Empty)
}

impl<R: Request> AsFd for Responder<R> {
    /// The descriptor to poll for requests and for the reporter's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.peek().responder.as_fd()
    }
}

/// A request that must be answered.
///
/// Dropping it gives it its negative answer: at once, or at the responder's next call if there is no room for
/// the answer. It may outlive the responder; as long as it does the reporter sees no hang-up.
#[must_use = "a request must be answered; dropping it gives it its negative answer"]
pub struct Pending<R: Request> {
    token: Token<R>,
    record: R,
}

static_assertions::assert_impl_all!(Pending<recordfd_uapi::PciError>: Send, Sync);

impl<R: Request> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.record).finish()
    }
}

impl<R: Request> Pending<R> {
    /// What was received.
    pub fn record(&self) -> &R {
        &self.record
    }

    /// What the answer names; opaque.
    pub fn cookie(&self) -> u32 {
        self.token.cookie()
    }

    /// Whether the reporter has completed it without its answer.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Answers the request.
    ///
    /// Between threads the answer is applied when this returns; to another process it is handed over, and may
    /// still come too late.
    ///
    /// # Errors
    ///
    /// [`RespondError::WouldBlock`], [`RespondError::Io`] and [`RespondError::NotThisProcess`] give the request back;
    /// [`RespondError::StaleCookie`] when it was completed without its answer, which only the local
    /// transport tells; [`RespondError::Closed`] when the reporter is gone.
    pub fn respond(self, verdict: R::Verdict) -> Result<(), RespondError<Self>> {
        let Self { token, record } = self;
        token.respond(verdict).map_err(|error| error.map(|token| Self { token, record }))
    }

    /// Gives up the request for its cookie, to be answered with [`Responder::respond`]. Nobody answers for it
    /// then if that is forgotten.
    pub fn into_cookie(self) -> u32 {
        self.token.into_cookie()
    }
}
