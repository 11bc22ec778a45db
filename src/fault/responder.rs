//! The end that takes groups of page faults and answers them.

use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use recordfd_uapi::{Format, PageResponse, PgFault, Record, WRITE_MAX};

use super::options::headed;
use super::request::ResponseCode;
use crate::answer::ends::{Answerer, Responder, Token};
use crate::channel::{DEFAULT_MAX_DEPTH, UnattachedEnd, check_depth};
use crate::error::{Error, Rejected, RespondError, TryRecvError};
use crate::sys::{Owned, Release};
use crate::transport::Remote;

/// The most page faults of a group: what one write holds.
const MOST_OF_GROUP: usize = WRITE_MAX / PgFault::SIZE;

/// The answering end of a channel of page faults.
///
/// Every group that it receives must be answered; the groups may be kept, moved to other threads and
/// answered in any order. On a socket the reporter is not trusted: what it sends is checked, and what
/// it does not read holds up nobody but its own answers.
pub struct FaultResponder(Owned<Inbox>);

/// What it is in its process.
struct Inbox {
    responder: Responder<PgFault>,
    answerer: Answerer<PgFault>,
    /// As many reads bring a group if there is one: those of all its pages, behind a notice for each group
    /// that an honest reporter may have open.
    most_reads: usize,
    busy_poll: Duration,
    received: u64,
}

static_assertions::assert_impl_all!(FaultResponder: Send);

impl fmt::Debug for FaultResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultResponder").field("received", &self.received()).finish_non_exhaustive()
    }
}

impl FaultResponder {
    pub(super) fn new(responder: Responder<PgFault>, depth: u32, busy_poll: Duration) -> Self {
        let most_reads = MOST_OF_GROUP + depth as usize + 1;
        let answerer = responder.answerer();
        let mut inbox = Inbox { answerer, responder, most_reads, busy_poll, received: 0 };
        inbox.set_busy_poll(busy_poll);
        Self(Owned::new(inbox))
    }

    /// Attaches the responder's end of a channel that another process has made, on whatever transport, with the format
    /// and depth that its maker told. Room for as many groups is set aside, at most
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
    /// ([`UnattachedEnd::info`](crate::UnattachedEnd::info)); a reporter that has more groups open than
    /// `depth` is taken for a hostile one. Room for `depth` groups is set aside: bound what a maker that is
    /// not trusted tells.
    /// Calls sendmsg(2), recvmsg(2) and fcntl(2) only; mmap(2) for the first end of a process, and sometimes getpid(2), as
    /// docs/DESIGN.md says.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `format` is none of page faults, [`Error::Option`] for a
    /// depth out of range, [`Error::NotAUnixStream`], [`Error::SharedEnd`], [`Error::Os`].
    pub fn from_socket(socket: OwnedFd, format: Format, depth: u32) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, headed) = Remote::socket(socket, || {
            check_depth("depth", depth)?;
            headed(format)
        })?;
        Ok(Self::new(Responder::remote(&remote, depth, headed), depth, Duration::ZERO))
    }

    /// Attaches the responder's end of a channel in shared memory that another process has made with
    /// [`fault::shared`](super::shared).
    ///
    /// Format and depth are what the end itself says; all that is told is checked. Waits for no message. Calls
    /// sendmsg(2), recvmsg(2), fcntl(2), lseek(2), mmap(2), close(2) and getpid(2) only.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when the channel is none of page faults, and as
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
        let (remote, headed, depth) = Remote::shared(socket, max_depth, false, headed)?;
        Ok(Self::new(Responder::remote(&remote, depth, headed), depth, Duration::ZERO))
    }

    /// Receives the next group into `pages` without waiting.
    ///
    /// The group is whole, its last page has LAST_PAGE, and all carry its cookie, device, PASID and group
    /// index. What else they say is the reporter's word. On a socket each page takes a read; [`recv_groups`](Self::recv_groups) takes many with one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when no group is there, [`TryRecvError::Closed`] when the reporter is gone
    /// and everything was received, [`TryRecvError::PeerViolation`] when it broke the format,
    /// [`TryRecvError::BufferTooSmall`] when the group has more pages than `pages`: call again with
    /// more room (Linux says `EINVAL` then, and keeps the group, too).
    pub fn try_recv_group(&mut self, pages: &mut [PgFault]) -> Result<FaultGroup, TryRecvError> {
        let inbox = self.0.get_mut()?;
        let group = try_recv_group(&mut inbox.responder, pages, inbox.most_reads)?;
        inbox.received += 1;
        Ok(group)
    }

    /// Receives the next group into `pages`; waits for it without limit, also when a signal or a notice
    /// ([`next_cancelled`](Self::next_cancelled)) comes in between.
    ///
    /// # Errors
    ///
    /// As [`try_recv_group`](Self::try_recv_group), but never [`TryRecvError::Empty`].
    pub fn recv_group(&mut self, pages: &mut [PgFault]) -> Result<FaultGroup, TryRecvError> {
        self.recv_until(pages, None)
    }

    /// Receives the next group into `pages`; waits for it at most `timeout`, also when a signal comes in
    /// between.
    ///
    /// # Errors
    ///
    /// As [`try_recv_group`](Self::try_recv_group); [`TryRecvError::Empty`] when nothing came in time.
    pub fn recv_group_timeout(
        &mut self,
        pages: &mut [PgFault],
        timeout: Duration,
    ) -> Result<FaultGroup, TryRecvError> {
        self.recv_until(pages, Instant::now().checked_add(timeout))
    }

    fn recv_until(
        &mut self,
        pages: &mut [PgFault],
        deadline: Option<Instant>,
    ) -> Result<FaultGroup, TryRecvError> {
        let Inbox { responder, most_reads, busy_poll, received, .. } = self.0.get_mut()?;
        let try_recv = |responder: &mut _| try_recv_group(responder, pages, *most_reads);
        let group = responder.recv_until(deadline, *busy_poll, try_recv)?;
        *received += 1;
        Ok(group)
    }

    /// Waits until a receive may bring something, at most `timeout`; `None` waits without limit. False:
    /// nothing came in time.
    ///
    /// What poll(2) on the descriptor does, with [`Options::busy_poll`](super::Options::busy_poll) before
    /// it; to be followed by [`recv_groups`](Self::recv_groups), which may still find nothing.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Io`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, TryRecvError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let inbox = self.0.get_mut()?;
        inbox.responder.wait(deadline, inbox.busy_poll).map_err(TryRecvError::Io)
    }

    /// Sets how long waits look for groups before they sleep; see
    /// [`Options::busy_poll`](super::Options::busy_poll).
    pub fn set_busy_poll(&mut self, busy_poll: Duration) {
        if let Ok(inbox) = self.0.get_mut() {
            inbox.set_busy_poll(busy_poll);
        }
    }

    /// Makes the fences of both sides whenever this end is about to sleep, so that a reporter that agreed to it
    /// needs none; see
    /// [`event::SoleSender::use_asymmetric_fence`](crate::event::SoleSender::use_asymmetric_fence). Before you go
    /// quiet, receive until nothing is there, or [`wait`](Self::wait): that makes up for a wake-up that was missed.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on other transports than the shared one, [`Error::Os`] when the kernel has no
    /// membarrier(2).
    pub fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        self.0.get_mut()?.responder.use_asymmetric_fence()
    }

    /// Receives as many groups as wait and fit, without waiting; returns how many.
    ///
    /// Their pages follow each other in `pages`, [`FaultGroup::range`] tells where; the groups are put
    /// into the first places of `groups` that are `None`. On a socket this is one read of at most as many
    /// pages as `groups` has such places, and more only if that brings no whole group.
    ///
    /// # Errors
    ///
    /// As [`try_recv_group`](Self::try_recv_group), and only when there was no group.
    ///
    /// # Examples
    ///
    /// ```
    /// # use recordfd::fault::{self, FaultGroup, FaultResponder, Options};
    /// # use recordfd::uapi::{PageResponse, PageResponseCode, PgFault};
    /// # fn serve(mut responder: FaultResponder) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut pages = [PgFault::default(); 256];
    /// let mut groups = [const { None }; 64];
    /// let count = responder.recv_groups(&mut pages, &mut groups)?;
    /// let mut answers = Vec::with_capacity(64);
    /// for group in groups[..count].iter_mut().filter_map(Option::take) {
    ///     println!("{} pages from {:#x}", group.len(), pages[group.range()][0].addr);
    ///     answers.push(PageResponse { cookie: group.into_cookie(), code: PageResponseCode::SUCCESS });
    /// }
    /// responder.respond_batch(&answers)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn recv_groups(
        &mut self,
        pages: &mut [PgFault],
        groups: &mut [Option<FaultGroup>],
    ) -> Result<usize, TryRecvError> {
        let most = groups.iter().filter(|group| group.is_none()).count();
        // Empty ones only: dropping a group would answer it.
        let mut slots = groups.iter_mut().filter(|group| group.is_none());
        let mut count = 0;
        // A read may bring a part of a group, or a notice.
        let inbox = self.0.get_mut()?;
        for _ in 0..inbox.most_reads {
            inbox.responder.read(pages, most, |token| {
                if let Some(slot) = slots.next() {
                    *slot = Some(FaultGroup(token));
                    count += 1;
                }
            })?;
            if count > 0 || most == 0 {
                inbox.received += count as u64;
                return Ok(count);
            }
        }
        Err(TryRecvError::Empty)
    }

    /// Answers a group by its cookie; see [`FaultGroup::into_cookie`].
    ///
    /// # Errors
    ///
    /// As [`FaultGroup::respond`]; [`RespondError::Code`] for anything but SUCCESS and INVALID, which
    /// leaves the group open (as Linux does).
    pub fn respond(&self, response: PageResponse) -> Result<(), RespondError<()>> {
        self.respond_batch(&[response]).map(|_| ())
    }

    /// Answers groups by their cookies, in order, up to the first that cannot be answered; returns how
    /// many.
    ///
    /// Between threads one lock and one wake-up for up to 64 answers, on a socket one write for up to 16 KiB.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond), and only when the first one was bad: otherwise the count is short
    /// and a call that begins there tells why. (As write(2) on Linux' fault queue.)
    pub fn respond_batch(&self, responses: &[PageResponse]) -> Result<usize, RespondError<()>> {
        self.0.get()?.answerer.respond_batch(responses)
    }

    /// The cookie of an open group that the reporter has completed without its answer; each is told once.
    ///
    /// Nothing is to be done about its pages any more, but the group is still to be answered or dropped:
    /// until then it takes up room in the channel. In format v2 only. A notice makes the descriptor
    /// readable, but no receive returns it: look after each receive that found nothing, or that said `Closed`, before sleeping.
    /// (Linux has no such notice: there the answer fails.)
    pub fn next_cancelled(&self) -> Option<u32> {
        self.0.get().ok()?.answerer.next_notice().map(|(cookie, _)| cookie)
    }

    /// The cookies of all groups that were received and not answered, in no order: what to answer before a
    /// snapshot is taken. (Linux cannot list them.)
    pub fn open_cookies(&self) -> Vec<u32> {
        self.0.get().map(|inbox| inbox.answerer.open_cookies()).unwrap_or_default()
    }

    /// Groups received so far.
    pub fn received(&self) -> u64 {
        self.0.peek().received
    }

    /// How often a wait ended because this end, looking by itself, found something
    /// ([`Options::busy_poll`](super::Options::busy_poll)), and how often only after a sleep.
    pub fn waits(&self) -> (u64, u64) {
        self.0.peek().responder.waits()
    }
}

impl Inbox {
    fn set_busy_poll(&mut self, busy_poll: Duration) {
        self.busy_poll = busy_poll;
        self.responder.set_busy(!busy_poll.is_zero());
    }
}

impl Release for Inbox {
    /// The answerer tells it, which open groups share.
    fn release(&mut self) {}
}

fn try_recv_group(
    responder: &mut Responder<PgFault>,
    pages: &mut [PgFault],
    most_reads: usize,
) -> Result<FaultGroup, TryRecvError> {
    // A read may bring a part of a group, or a notice.
    for _ in 0..most_reads {
        let mut group = None;
        responder.read(pages, 1, |token| group = Some(FaultGroup(token)))?;
        if let Some(group) = group {
            return Ok(group);
        }
    }
    Err(TryRecvError::Empty)
}

impl AsFd for FaultResponder {
    /// The descriptor to poll for groups and for the reporter's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.peek().responder.as_fd()
    }
}

/// A group of page faults that must be answered.
///
/// Dropping it answers INVALID: at once, or at the responder's next call if there is no room for the
/// answer. (Linux answers INVALID when the device is detached.)
///
/// It may outlive the responder. As long as it does the reporter sees no hang-up, though nobody receives
/// what it reports meanwhile: that completes when the last group is answered or dropped.
#[must_use = "a group of page faults must be answered; dropping it answers INVALID"]
pub struct FaultGroup(Token<PgFault>);

static_assertions::assert_impl_all!(FaultGroup: Send, Sync);

impl fmt::Debug for FaultGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cookie, range) = (self.cookie(), self.range());
        f.debug_struct("FaultGroup").field("cookie", &cookie).field("range", &range).finish_non_exhaustive()
    }
}

impl FaultGroup {
    /// What the answer names; opaque.
    pub fn cookie(&self) -> u32 {
        self.0.cookie()
    }

    /// How many page faults it has, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "no group is empty")]
    pub fn len(&self) -> usize {
        self.0.place().len()
    }

    /// Where its page faults are in the slice that the receive was given.
    pub fn range(&self) -> Range<usize> {
        self.0.place()
    }

    /// Whether the reporter has completed it without its answer; in format v2 only.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Answers the group.
    ///
    /// Between threads the answer is applied when this returns; on a socket it is handed over, and may
    /// still come too late.
    ///
    /// # Errors
    ///
    /// [`RespondError::WouldBlock`], [`RespondError::Io`] and [`RespondError::NotThisProcess`] give the group back;
    /// [`RespondError::StaleCookie`] when it was completed without its answer, which only the local
    /// transport tells; [`RespondError::Closed`] when the reporter is gone.
    pub fn respond(self, code: ResponseCode) -> Result<(), RespondError<Self>> {
        self.0.respond(code).map_err(|error| error.map(Self))
    }

    /// Gives up the group for its cookie, to be answered with [`FaultResponder::respond`]: for those
    /// who keep open faults in a table of their own. Nobody answers for it then if they forget.
    pub fn into_cookie(self) -> u32 {
        self.0.into_cookie()
    }
}
