//! The end that reports requests and is told how each ended.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::Format;

use super::course::Course;
use super::recovery::Refusal;
use super::{Completion, Options, Request, check_format};
use crate::answer::desk::{Desk, Keeper, Way};
use crate::answer::reporter::Reporter as Engine;
use crate::answer::{Group, Ledger, PublishError};
use crate::channel::{DEFAULT_MAX_DEPTH, UnattachedEnd};
use crate::error::{DrainError, Error, NotThisProcess, Rejected, TryRecvError};
use crate::sync::MutexGuard;
use crate::sys::{Owned, Release};
use crate::transport::Remote;

/// The reporting end of a channel of requests; clones share it.
///
/// Dropping the last clone closes the channel: the responder reads what is left, then
/// [`Closed`](crate::TryRecvError::Closed).
pub struct Reporter<R: Request>(Arc<Owned<Shared<R>>>);

static_assertions::assert_impl_all!(Reporter<recordfd_uapi::PciError>: Send, Sync, Clone);

#[derive(Debug)]
struct Shared<R: Request> {
    desk: Desk<R, State<R>>,
    depth: u32,
}

impl<R: Request> Release for Shared<R> {
    fn release(&mut self) {
        self.desk.lock().reporter.release();
    }
}

impl<R: Request> Clone for Reporter<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Request> fmt::Debug for Reporter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("depth", &self.0.peek().depth).finish_non_exhaustive()
    }
}

/// What a reporter and its clones have seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReporterCounters {
    /// Requests on their way now, those whose late answer may still come included: what is held against the depth.
    pub in_flight: u32,
    /// Requests published and not completed now.
    pub unanswered: u32,
    /// Requests completed without their answer that still take up room now, for it may still come: a part of
    /// [`in_flight`](Self::in_flight). See
    /// [page faults](crate::fault#room-that-does-not-come-back).
    pub late_answers_pending: u32,
    /// How long the oldest unanswered request has been published.
    pub oldest: Option<Duration>,
    /// Requests completed by their answer.
    pub answered: u64,
    /// Requests completed because their device was detached.
    pub detached: u64,
    /// Requests completed because the responder was gone, or broke the format.
    pub hung_up: u64,
    /// Requests completed because no answer came in time.
    pub deadline: u64,
    /// Requests completed because the answer had a code that the format does not have.
    pub bad_answer: u64,
    /// Answers that named no open request: late, repeated or made up.
    pub late_answers: u64,
    /// Requests given back.
    pub refused: u64,
    /// Times a release was asked for again; not counted where there was no room for it.
    pub repeats: u64,
    /// Waits for completions that ended by looking: [`Options::busy_poll`].
    pub busy_polls: u64,
    /// Waits for completions that ended only after a sleep.
    pub sleeps: u64,
}

impl<R: Request> Reporter<R> {
    pub(super) fn new(way: Way<R>, options: &Options) -> Self {
        let depth = way.depth;
        let ledger = Ledger::new(depth, options.per_device_of(depth), options.deadline);
        let course = R::Course::new(depth, options);
        let desk = way.desk(options.shortest(), |link| {
            let reporter = Engine::new(ledger, link);
            State { reporter, course, refused: 0, repeats: 0 }
        });
        Self(Arc::new(Owned::new(Shared { desk, depth })))
    }

    /// Attaches the reporter's end of a channel that another process has made, on whatever transport, with the depth
    /// that its maker told; the other options are the caller's. Room for as many requests is set aside, at
    /// most [`UnattachedEnd::max_depth`].
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// As [`from_socket`](Self::from_socket) and [`from_shared`](Self::from_shared), with the end.
    pub fn attach(end: UnattachedEnd, options: &Options) -> Result<Self, Rejected<UnattachedEnd>> {
        end.attach_by(
            |socket, most| Self::from_shared_within(socket, most, options),
            |socket, info| Self::from_socket(socket, info.format, &options.clone().depth(info.depth)),
        )
    }

    /// Attaches the reporter's end of a channel that another process has made.
    ///
    /// `format` is what the maker told, and the options' depth must be what it told
    /// ([`UnattachedEnd::info`](crate::UnattachedEnd::info)); the other options are the caller's.
    /// Calls sendmsg(2), recvmsg(2) and fcntl(2) only; mmap(2) for the first end of a process, and sometimes getpid(2), as
    /// docs/DESIGN.md says.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `R` is not of `format`, [`Error::Option`],
    /// [`Error::NotAUnixStream`], [`Error::SharedEnd`], [`Error::Os`].
    pub fn from_socket(
        socket: OwnedFd,
        format: Format,
        options: &Options,
    ) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, ()) = Remote::socket(socket, || {
            options.check()?;
            check_format::<R>(format)
        })?;
        Ok(Self::new(Way::remote(&remote, options.depth, true, options.busy_poll), options))
    }

    /// Attaches the reporter's end of a channel in shared memory that another process has made with
    /// [`request::shared_responder`](super::shared_responder).
    ///
    /// The depth is what the end itself says, whatever the options'; the other options are the caller's.
    /// Everything that is told is checked. Waits for no message. Calls sendmsg(2), recvmsg(2), fcntl(2), lseek(2),
    /// mmap(2), close(2) and getpid(2) only.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Option`], and as
    /// [`event::Receiver::from_shared`](crate::event::Receiver::from_shared).
    pub fn from_shared(socket: OwnedFd, options: &Options) -> Result<Self, Rejected<OwnedFd>> {
        Self::from_shared_within(socket, DEFAULT_MAX_DEPTH, options)
    }

    /// Fails in a child of fork that only inherited it.
    #[cfg(feature = "mio")]
    pub(crate) fn check_process(&self) -> Result<(), NotThisProcess> {
        self.0.get().map(drop)
    }

    fn from_shared_within(
        socket: OwnedFd,
        max_depth: u32,
        options: &Options,
    ) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, (), depth) = Remote::shared(socket, max_depth, true, |format| {
            options.check()?;
            check_format::<R>(format)
        })?;
        Ok(Self::new(Way::remote(&remote, depth, true, options.busy_poll), options))
    }

    fn lock(&self) -> Result<MutexGuard<'_, State<R>>, NotThisProcess> {
        Ok(self.0.get()?.desk.lock())
    }

    /// Leaves fences to a responder that makes them for both sides; see
    /// [`FaultReporter::use_asymmetric_fence`](crate::fault::FaultReporter::use_asymmetric_fence).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on other transports than the shared one, [`Error::Os`] when the kernel has no
    /// membarrier(2).
    pub fn use_asymmetric_fence(&self) -> Result<(), Error> {
        self.lock()?.reporter.use_asymmetric_fence()
    }

    /// Reports a request and returns the cookie that its completion will name; never waits for the responder.
    ///
    /// The record's cookie, and a device request's count, are the channel's: what the caller has put there is
    /// of no effect. A PCI error must follow its device's last answered step ([`Recovery`](super::Recovery)) as its
    /// completion was collected.
    ///
    /// # Errors
    ///
    /// [`ReportError`], which gives the record back; everything is as it was.
    pub fn report(&self, record: R) -> Result<u32, ReportError<R>> {
        let Ok(mut state) = self.lock() else { return Err(ReportError::NotThisProcess(record)) };
        state.report(record)
    }

    /// Takes as many completions as there are and fit into `out`; returns how many.
    ///
    /// Each request that was published completes exactly once: first the answers in the order in which they came;
    /// when the responder is gone everything else. The descriptor is readable while answers wait, also for one that
    /// takes one completion for each wake-up.
    ///
    /// What [`detach`](Self::detach), [`process`](Self::process) and [`drain`](Self::drain) complete is there at
    /// once, and the descriptor of a socket or a shared channel does not tell of it: collect it behind such a call,
    /// until `Empty`.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when nothing has completed, [`TryRecvError::Closed`] when the responder is
    /// gone and everything was collected, [`TryRecvError::PeerViolation`] likewise when it broke the
    /// format.
    pub fn completions(&self, out: &mut [Completion<R>]) -> Result<usize, TryRecvError> {
        self.lock()?.collect_into(out)
    }

    /// Waits for completions and takes them; `None` waits without limit. Acts on deadlines and repeats meanwhile.
    ///
    /// # Errors
    ///
    /// As [`completions`](Self::completions); [`TryRecvError::Empty`] when nothing came in time.
    pub fn wait_completions(
        &self,
        out: &mut [Completion<R>],
        timeout: Option<Duration>,
    ) -> Result<usize, TryRecvError> {
        self.0.get()?.desk.wait_completions(timeout, |state| state.collect_into(out))
    }

    /// Completes a device's requests that are not answered, with their negative answer, before it returns, and
    /// forgets its recovery. Returns how many completions wait to be collected now.
    ///
    /// Other devices are untouched. Between threads, what was unread is taken back; to another process it is
    /// still delivered, with a notice that it was cancelled behind it.
    pub fn detach(&self, dev_id: u32) -> usize {
        let Ok(mut state) = self.lock() else { return 0 };
        state.course.detached(dev_id);
        state.reporter.detach(|of, _| of == dev_id);
        state.rest();
        state.waiting()
    }

    /// Waits until every published request of a device has completed, by whatever cause; acts on deadlines and
    /// repeats meanwhile. It takes in what has been answered, of other devices, too: collect that behind it, also
    /// after an error.
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`], [`DrainError::Io`].
    pub fn drain(&self, dev_id: u32, timeout: Duration) -> Result<(), DrainError> {
        self.0.get()?.desk.drain(dev_id, timeout)
    }

    /// When [`process`](Self::process) is due next: what bounds the timeout of a poll. A report may bring an
    /// earlier one.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lock().ok()?.next_deadline()
    }

    /// Completes what has waited too long by `now`, and asks again for releases that are due. Answers that have
    /// come by then are applied first. Returns how many completions wait to be collected now, besides those that
    /// the descriptor tells of.
    pub fn process(&self, now: Instant) -> usize {
        let Ok(mut state) = self.lock() else { return 0 };
        state.process(now);
        state.waiting()
    }

    /// What was seen so far; answers count once a call has taken them in.
    pub fn counters(&self) -> ReporterCounters {
        let Ok(state) = self.lock() else { return ReporterCounters::default() };
        let ledger = state.reporter.ledger();
        let ended = ledger.counters();
        ReporterCounters {
            in_flight: ledger.in_flight(),
            unanswered: ledger.unanswered(),
            late_answers_pending: ledger.late_pending(),
            oldest: ledger.oldest().map(|since| since.elapsed()),
            answered: ended.answered,
            detached: ended.detached,
            hung_up: ended.hung_up,
            deadline: ended.deadline,
            bad_answer: ended.bad_answer,
            late_answers: ended.late_answers,
            refused: state.refused,
            repeats: state.repeats,
            busy_polls: state.reporter.waits.0,
            sleeps: state.reporter.waits.1,
        }
    }

    /// How many requests may be on their way.
    pub fn depth(&self) -> u32 {
        self.0.peek().depth
    }

    /// Whether the responder is gone. Its last answers may still wait to be collected.
    pub fn is_closed(&self) -> bool {
        self.0.get().map_or(true, |shared| shared.desk.is_closed())
    }
}

impl<R: Request> AsFd for Reporter<R> {
    /// The descriptor to poll for completions.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.peek().desk.as_fd()
    }
}

/// What the reporter's lock guards.
#[derive(Debug)]
struct State<R: Request> {
    reporter: Engine<R>,
    course: R::Course,
    refused: u64,
    repeats: u64,
}

impl<R: Request> State<R> {
    fn report(&mut self, record: R) -> Result<u32, ReportError<R>> {
        let published = self.publish(&record);
        self.refused += u64::from(published.is_err());
        published
    }

    fn publish(&mut self, record: &R) -> Result<u32, ReportError<R>> {
        self.course.admit(record).map_err(|refusal| ReportError::Refused(*record, refusal))?;
        if !self.course.has_room(record) && !self.reporter.has_ended() {
            return Err(ReportError::Full(*record));
        }
        let group = Group { dev_id: record.dev_id(), tag: *record };
        let published = self.reporter.publish(&group, 1, |_| *record, Instant::now());
        let cookie = published.map_err(|error| ReportError::new(*record, error))?;
        self.course.published(&record.grouped(cookie, true));
        Ok(cookie)
    }

    fn collect_into(&mut self, out: &mut [Completion<R>]) -> Result<usize, TryRecvError> {
        let mut slots = out.iter_mut();
        let course = &mut self.course;
        let collected = self.reporter.collect(slots.len(), |ended| {
            let record = ended.tag.grouped(ended.cookie, true);
            let completion = Completion { record, verdict: ended.verdict, cause: ended.cause };
            course.completed(&completion);
            if let Some(slot) = slots.next() {
                *slot = completion;
            }
        });
        self.rest();
        collected
    }

    /// Sends what is due again, unless it was answered.
    fn repeat(&mut self, now: Instant) {
        self.reporter.read_every_answer();
        while let Some(record) = self.course.take_due(now) {
            if self.reporter.ledger().is_open(record.cookie()) {
                // Without room it is sent the next time.
                self.repeats += u64::from(self.reporter.repeat(&record).is_ok());
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.reporter.ledger().next_deadline(), self.course.next_due()].into_iter().flatten().min()
    }
}

impl<R: Request> Keeper<R> for State<R> {
    fn reporter(&mut self) -> &mut Engine<R> {
        &mut self.reporter
    }

    fn process(&mut self, now: Instant) -> Option<Instant> {
        // First, for what expires is not sent again.
        let expired = self.reporter.process(now);
        let is_due = self.course.next_due().is_some_and(|due| due <= now);
        if is_due {
            self.repeat(now);
        }
        if expired || is_due {
            self.rest();
        }
        self.next_deadline()
    }

    fn waiting(&self) -> usize {
        self.reporter.ledger().waiting()
    }

    fn rest(&mut self) -> bool {
        self.reporter.rest(false)
    }
}

/// A request was not taken; it is given back, and everything is as it was before.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReportError<R> {
    /// The queue is full, or as many requests are on their way, or as many devices in the middle of a recovery, as
    /// the depth says (`EAGAIN`).
    Full(R),
    /// The device has as many requests on their way as one may have (`EAGAIN`).
    DeviceFull(R),
    /// The record cannot be, or cannot come now.
    Refused(R, Refusal),
    /// The responder is gone, or broke the format (`EPIPE`).
    Closed(R),
    /// This process has only inherited the reporter, by fork (`EPERM`): attach it after the fork.
    NotThisProcess(R),
    /// The system call failed for another reason.
    Io(R, io::Error),
}

impl<R> ReportError<R> {
    fn new(record: R, error: PublishError) -> Self {
        match error {
            PublishError::Full => Self::Full(record),
            PublishError::DeviceFull => Self::DeviceFull(record),
            PublishError::Closed => Self::Closed(record),
            PublishError::NotThisProcess => Self::NotThisProcess(record),
            PublishError::Io(source) => Self::Io(record, source),
        }
    }

    /// The record that was not taken.
    pub fn into_inner(self) -> R {
        match self {
            Self::Full(record)
            | Self::DeviceFull(record)
            | Self::Refused(record, _)
            | Self::Closed(record)
            | Self::NotThisProcess(record)
            | Self::Io(record, _) => record,
        }
    }

    /// The errno of send(2) in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Full(_) | Self::DeviceFull(_) => libc::EAGAIN,
            Self::Refused(_, refusal) => refusal.errno(),
            Self::Closed(_) => libc::EPIPE,
            Self::NotThisProcess(_) => libc::EPERM,
            Self::Io(_, source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl<R> fmt::Display for ReportError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "too many requests are on their way",
            Self::DeviceFull(_) => "the device has too many requests on their way",
            Self::Refused(..) => "the request is refused",
            Self::Closed(_) => "the responder is gone",
            Self::NotThisProcess(_) => NotThisProcess::TEXT,
            Self::Io(..) => "reporting failed",
        })
    }
}

impl<R: fmt::Debug> std::error::Error for ReportError<R> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_, refusal) => Some(refusal),
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}
