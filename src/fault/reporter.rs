//! The end that reports page faults and is told how each group ended.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::{Format, PgFault};

use super::collect::Collector;
use super::options::{Options, headed};
use super::request::{FaultCompletion, FaultRequest, ReportError, Reported};
use super::state::{Counters, State};
use super::stop::{StopMarkers, wait_for_marker};
use crate::answer::desk::{Desk, Keeper, Way};
use crate::answer::reporter::Reporter;
use crate::answer::{Completion, Group, Ledger, PublishError};
use crate::channel::{DEFAULT_MAX_DEPTH, UnattachedEnd};
use crate::error::{DrainError, Error, NotThisProcess, Rejected, TryRecvError};
use crate::sync::{Condvar, MutexGuard};
use crate::sys::{Owned, Release};
use crate::transport::Remote;

/// The reporting end of a channel of page faults; clones share it.
///
/// Groups are published in the order in which their last pages are reported. Dropping the last clone
/// closes the channel: the responder reads what is left, then
/// [`Closed`](crate::TryRecvError::Closed).
#[derive(Clone)]
pub struct FaultReporter(Arc<Owned<Shared>>);

static_assertions::assert_impl_all!(FaultReporter: Send, Sync, Clone);

impl fmt::Debug for FaultReporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultReporter").field("depth", &self.0.peek().depth).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    desk: Desk<PgFault, State>,
    stop_marker: Condvar,
    depth: u32,
    max_group: u32,
}

impl Release for Shared {
    fn release(&mut self) {
        self.desk.lock().reporter.release();
    }
}

/// What a reporter and its clones have seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultReporterCounters {
    /// Groups on their way now, those included whose late answer may still come: what is held against the depth.
    pub in_flight: u32,
    /// Groups published and not completed now.
    pub unanswered: u32,
    /// Groups completed without their answer that still take up room now, for it may still come: a part of
    /// [`in_flight`](Self::in_flight). See [Room that does not come back](super#room-that-does-not-come-back).
    pub late_answers_pending: u32,
    /// How long the oldest unanswered group has been published.
    pub oldest: Option<Duration>,
    /// Groups that wait for their last page now.
    pub half_made: u32,
    /// Groups completed by their answer.
    pub answered: u64,
    /// Groups completed because their device was detached.
    pub detached: u64,
    /// Groups completed because the responder was gone, or broke the format.
    pub hung_up: u64,
    /// Groups completed because no answer came in time.
    pub deadline: u64,
    /// Groups completed because the answer had a code that the format does not have.
    pub bad_answer: u64,
    /// Groups completed because their last page did not come in time.
    pub unfinished: u64,
    /// Half-made groups forgotten with their device, or with the responder.
    pub discarded: u64,
    /// Answers that named no open group: late, repeated or made up.
    pub late_answers: u64,
    /// Requests given back.
    pub refused: u64,
    /// Stop Markers reported.
    pub stop_markers: u64,
    /// Waits for completions that ended by looking: [`Options::busy_poll`](super::Options::busy_poll).
    pub busy_polls: u64,
    /// Waits for completions that ended only after a sleep.
    pub sleeps: u64,
}

impl FaultReporter {
    pub(super) fn new(way: Way<PgFault>, options: &Options) -> Self {
        let depth = way.depth;
        let ledger = Ledger::new(depth, options.per_device_of(depth), options.deadline);
        let shortest = options.deadline.into_iter().chain([options.half_made_age]).min();
        let mut max_group = 0;
        let desk = way.desk(shortest, |link| {
            let reporter = Reporter::new(ledger, link);
            max_group = options.max_group_of(reporter.most());
            let collector = Collector::new(options.half_made, max_group, options.half_made_age);
            State { reporter, collector, markers: StopMarkers::new(), counters: Counters::default() }
        });
        Self(Arc::new(Owned::new(Shared { desk, stop_marker: Condvar::new(), depth, max_group })))
    }

    /// Attaches the reporter's end of a channel that another process has made, on whatever transport, with the format
    /// and depth that its maker told; the other options are the caller's. Room for as many groups is set aside, at
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
    /// `format` is what the maker told, whatever the options' format, and the options' depth must be what
    /// it told ([`UnattachedEnd::info`](crate::UnattachedEnd::info)); the other options are the caller's.
    /// Calls sendmsg(2), recvmsg(2) and fcntl(2) only; mmap(2) for the first end of a process, and sometimes getpid(2), as
    /// docs/DESIGN.md says.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Format`] when `format` is none of page faults, [`Error::Option`],
    /// [`Error::NotAUnixStream`], [`Error::SharedEnd`], [`Error::Os`].
    pub fn from_socket(
        socket: OwnedFd,
        format: Format,
        options: &Options,
    ) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, headed) = Remote::socket(socket, || {
            options.check()?;
            headed(format)
        })?;
        Ok(Self::new(Way::remote(&remote, options.depth, headed, options.busy_poll), options))
    }

    /// Attaches the reporter's end of a channel in shared memory that another process has made with
    /// [`fault::shared_responder`](super::shared_responder).
    ///
    /// Format and depth are what the end itself says, whatever the options'; the other options are the caller's.
    /// Everything that is told is checked. Waits for no message. Calls sendmsg(2), recvmsg(2), fcntl(2), lseek(2),
    /// mmap(2), close(2) and getpid(2) only.
    ///
    /// **Pitfall:** a hostile maker can stop this process, while it attaches or receives, for as long as it likes
    /// (SECURITY.md). The side that must not be stopped makes the channel.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the socket: [`Error::Option`], [`Error::Format`] when the channel is none of page faults, and as
    /// [`event::Receiver::from_shared`](crate::event::Receiver::from_shared).
    pub fn from_shared(socket: OwnedFd, options: &Options) -> Result<Self, Rejected<OwnedFd>> {
        Self::from_shared_within(socket, DEFAULT_MAX_DEPTH, options)
    }

    fn from_shared_within(
        socket: OwnedFd,
        max_depth: u32,
        options: &Options,
    ) -> Result<Self, Rejected<OwnedFd>> {
        let (remote, headed, depth) = Remote::shared(socket, max_depth, true, |format| {
            options.check()?;
            headed(format)
        })?;
        Ok(Self::new(Way::remote(&remote, depth, headed, options.busy_poll), options))
    }

    /// Fails in a child of fork that only inherited it.
    #[cfg(feature = "mio")]
    pub(crate) fn check_process(&self) -> Result<(), NotThisProcess> {
        self.0.get().map(drop)
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, NotThisProcess> {
        Ok(self.0.get()?.desk.lock())
    }

    /// Leaves the full fence that each call to report takes on a shared channel to a responder that makes it for
    /// both sides; see [`event::SoleSender::use_asymmetric_fence`](crate::event::SoleSender::use_asymmetric_fence).
    /// Before you go quiet, collect until nothing is there: that makes up for a wake-up that was missed.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on other transports, [`Error::Os`] when the kernel has no membarrier(2).
    pub fn use_asymmetric_fence(&self) -> Result<(), Error> {
        self.lock()?.reporter.use_asymmetric_fence()
    }

    /// Reports a page request: publishes its group if it is the last page, keeps it until then if not.
    ///
    /// Never waits for the responder. A group is published whole, and only when its last page came, as
    /// Linux does (`drivers/iommu/io-pgfault.c`, `report_partial_fault()`).
    ///
    /// # Errors
    ///
    /// [`ReportError`], which gives the request back.
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::fault::{FaultRequest, Options, Reported, ResponseCode, socket};
    /// # use recordfd::fault::FaultResponder;
    /// use recordfd::uapi::{PgFault, PgFaultPerm};
    ///
    /// let (reporter, end) = socket(&Options::new())?;
    /// # let format = end.info().format;
    /// # let mut responder = FaultResponder::from_socket(end.into(), format, 256)?;
    /// let page = FaultRequest {
    ///     dev_id: 1,
    ///     pasid: Some(5),
    ///     prg_index: 3,
    ///     perm: PgFaultPerm::READ,
    ///     addr: 0x1000,
    ///     ..FaultRequest::default()
    /// };
    /// assert_eq!(reporter.report(page)?, Reported::HalfMade);
    /// let Reported::Group { cookie } = reporter.report(FaultRequest { last: true, addr: 0x2000, ..page })?
    /// else {
    ///     unreachable!("the last page completes the group")
    /// };
    /// # let mut pages = [PgFault::default(); 32];
    /// # responder.recv_group(&mut pages)?.respond(ResponseCode::Success)?;
    /// let mut completions = [Default::default(); 16];
    /// assert_eq!(reporter.wait_completions(&mut completions, None)?, 1);
    /// assert_eq!((completions[0].cookie, completions[0].code), (cookie, ResponseCode::Success));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn report(&self, request: FaultRequest) -> Result<Reported, ReportError> {
        let mut reported = Reported::HalfMade;
        self.report_each(&[request], |what| reported = what)?;
        Ok(reported)
    }

    /// Reports page requests in order, up to the first that is not taken; returns how many were.
    ///
    /// One lock and one wake-up; on a socket groups that follow each other go out in one
    /// write.
    ///
    /// # Errors
    ///
    /// As [`report`](Self::report), and only when none was taken: otherwise the count is short and the
    /// next call tells why.
    pub fn report_batch(&self, requests: &[FaultRequest]) -> Result<usize, ReportError> {
        self.report_each(requests, |_| {})
    }

    fn report_each(
        &self,
        requests: &[FaultRequest],
        mut told: impl FnMut(Reported),
    ) -> Result<usize, ReportError> {
        let Some(first) = requests.first() else { return Ok(0) };
        let Ok(shared) = self.0.get() else { return Err(ReportError::NotThisProcess(*first)) };
        let mut state = shared.desk.lock();
        let markers = state.counters.stop_markers;
        // Requests whose effect is final. Behind them are those that wait for a flush.
        let mut taken = 0;
        let outcome = state.report(requests, &mut taken, &mut told);
        if state.counters.stop_markers > markers {
            shared.stop_marker.notify_all();
        }
        match outcome {
            Err(error) if taken == 0 => {
                state.counters.refused += 1;
                Err(error)
            }
            _ => Ok(taken),
        }
    }

    /// Takes as many completions as there are and fit into `out`; returns how many.
    ///
    /// Each group that was published completes exactly once, and so does one whose last page did not
    /// come in time: first the answers in the order in which they came; when the responder is gone
    /// everything else. The descriptor is readable while answers wait, also for one that takes one
    /// completion for each wake-up. (Linux completes inside `iommufd_fault_fops_write()`.)
    ///
    /// What [`detach`](Self::detach), [`process`](Self::process), [`drain`](Self::drain) and
    /// [`reset`](Self::reset) complete is there at once, and a socket's descriptor does not tell of it:
    /// collect it behind such a call, until `Empty`, and so behind
    /// [`wait_completions`](Self::wait_completions), which processes, too.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] when nothing has completed, [`TryRecvError::Closed`] when the responder is
    /// gone and everything was collected, [`TryRecvError::PeerViolation`] likewise when it broke the
    /// format.
    pub fn completions(&self, out: &mut [FaultCompletion]) -> Result<usize, TryRecvError> {
        collect_into(&mut *self.lock()?, out)
    }

    /// Waits for completions and takes them; `None` waits without limit. Acts on deadlines meanwhile, and
    /// looks for [`Options::busy_poll`](super::Options::busy_poll) before it sleeps.
    ///
    /// # Errors
    ///
    /// As [`completions`](Self::completions); [`TryRecvError::Empty`] when nothing came in time.
    pub fn wait_completions(
        &self,
        out: &mut [FaultCompletion],
        timeout: Option<Duration>,
    ) -> Result<usize, TryRecvError> {
        self.0.get()?.desk.wait_completions(timeout, |state| collect_into(state, out))
    }

    /// Completes the groups of a device that are not answered, with INVALID, before it returns; forgets
    /// its half-made ones. Returns how many completions wait to be collected now.
    ///
    /// Other devices are untouched. Between threads, what was unread is taken back; over a socket it is
    /// still delivered, and its answer will be late. (As Linux does when a device is detached,
    /// `drivers/iommu/iommufd/fault.c`, `iommufd_auto_response_faults()`, and
    /// `drivers/iommu/io-pgfault.c`, `iopf_queue_remove_device()`.)
    pub fn detach(&self, dev_id: u32) -> usize {
        let Ok(mut state) = self.lock() else { return 0 };
        state.detach(dev_id);
        state.waiting()
    }

    /// Waits until every published group of a device has completed, by whatever cause; acts on deadlines
    /// meanwhile. It takes in what has been answered, of other devices, too: collect that behind it, also
    /// after an error. (Linux: `drivers/iommu/io-pgfault.c`,
    /// `iopf_queue_flush_dev()`, which waits for the handlers only, not for user space.)
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`], [`DrainError::Io`].
    pub fn drain(&self, dev_id: u32, timeout: Duration) -> Result<(), DrainError> {
        self.0.get()?.desk.drain(dev_id, timeout)
    }

    /// What a function level reset (FLR) takes: [`drain`](Self::drain), then [`detach`](Self::detach) whatever
    /// is left.
    ///
    /// # Errors
    ///
    /// As [`drain`](Self::drain); the device is detached in any case.
    pub fn reset(&self, dev_id: u32, timeout: Duration) -> Result<(), DrainError> {
        let drained = self.drain(dev_id, timeout);
        self.detach(dev_id);
        drained
    }

    /// Waits for the Stop Marker of a PASID: behind it the device requests no page of it any more.
    ///
    /// A marker that came before is taken, unless the PASID has requested pages since. The latest eight
    /// of a device are kept, 64 in all. (Linux drops them, `drivers/iommu/intel/prq.c`, and drains the
    /// hardware's queue instead.)
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`], also when the device was detached or the responder is gone meanwhile: what
    /// a marker tells of is the device alone.
    pub fn wait_stop_marker(&self, dev_id: u32, pasid: u32, timeout: Duration) -> Result<(), DrainError> {
        let take = |state: &mut State| state.markers.take(dev_id, pasid);
        let shared = self.0.get()?;
        wait_for_marker(shared.desk.lock(), &shared.stop_marker, timeout, take)
    }

    /// When [`process`](Self::process) is due next: what bounds the timeout of a poll. A report may
    /// bring an earlier one.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lock().ok()?.next_deadline()
    }

    /// Completes what has waited too long by `now`: groups for their answer, half-made ones for their
    /// last page. Answers that have come by then are applied first. Returns how many completions wait to
    /// be collected now, besides those that the descriptor tells of. (Linux waits for ever.)
    pub fn process(&self, now: Instant) -> usize {
        let Ok(mut state) = self.lock() else { return 0 };
        state.process(now);
        state.waiting()
    }

    /// What was seen so far; answers count once a call has taken them in. (Linux counts nothing.)
    pub fn counters(&self) -> FaultReporterCounters {
        let Ok(state) = self.lock() else { return FaultReporterCounters::default() };
        let counters = &state.counters;
        let ledger = state.reporter.ledger();
        let ended = ledger.counters();
        FaultReporterCounters {
            in_flight: ledger.in_flight(),
            unanswered: ledger.unanswered(),
            late_answers_pending: ledger.late_pending(),
            oldest: ledger.oldest().map(|since| since.elapsed()),
            half_made: state.collector.len(),
            answered: ended.answered,
            detached: ended.detached,
            hung_up: ended.hung_up,
            deadline: ended.deadline,
            bad_answer: ended.bad_answer,
            unfinished: counters.unfinished,
            discarded: counters.discarded,
            late_answers: ended.late_answers,
            refused: counters.refused,
            stop_markers: counters.stop_markers,
            busy_polls: state.reporter.waits.0,
            sleeps: state.reporter.waits.1,
        }
    }

    /// How many groups may be on their way.
    pub fn depth(&self) -> u32 {
        self.0.peek().depth
    }

    /// The most faults of a group.
    pub fn max_group(&self) -> u32 {
        self.0.peek().max_group
    }

    /// Whether the responder is gone. Its last answers may still wait to be collected.
    pub fn is_closed(&self) -> bool {
        self.0.get().map_or(true, |shared| shared.desk.is_closed())
    }
}

/// What a router does with a reporter that is one of its queues.
impl FaultReporter {
    /// Whether there is no other clone, which could take completions away.
    pub(super) fn is_sole(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Whether it has groups that wait for their last page, for an answer, or to be collected.
    pub(super) fn has_groups(&self) -> Result<bool, NotThisProcess> {
        let state = self.lock()?;
        let unanswered = state.reporter.ledger().unanswered();
        Ok(state.collector.len() > 0 || unanswered > 0 || state.waiting() > 0)
    }

    /// Publishes a group of `count` pages, at most [`max_group`](Self::max_group).
    pub(super) fn publish(
        &self,
        group: &Group<PgFault>,
        count: usize,
        page: impl Fn(usize) -> PgFault,
        now: Instant,
    ) -> Result<u32, PublishError> {
        self.lock()?.reporter.publish(group, count, page, now)
    }

    /// Completes the groups that went `via` an attachment and are not answered.
    pub(super) fn cancel(&self, via: u32) {
        let Ok(mut state) = self.lock() else { return };
        state.reporter.detach(|_, tag| tag.via == via);
        state.rest();
    }

    /// Takes completions out, at most `most`, of which `sink` is given each; returns how many.
    pub(super) fn take(&self, most: usize, sink: impl FnMut(Completion<PgFault>)) -> usize {
        let Ok(mut state) = self.lock() else { return 0 };
        // No error is lost: it comes again, and a responder that is gone completes everything.
        let count = state.reporter.collect(most, sink).unwrap_or(0);
        state.rest();
        count
    }

    pub(super) fn with_ledger<T: Default>(&self, look: impl FnOnce(&Ledger<PgFault>) -> T) -> T {
        self.lock().map(|state| look(state.reporter.ledger())).unwrap_or_default()
    }
}

/// Takes completions into `out`, as many as there are and fit; returns how many.
fn collect_into(state: &mut State, out: &mut [FaultCompletion]) -> Result<usize, TryRecvError> {
    let mut slots = out.iter_mut();
    state.collect(slots.len(), |completion| {
        if let Some(slot) = slots.next() {
            *slot = completion;
        }
    })
}

impl AsFd for FaultReporter {
    /// The descriptor to poll for completions.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.peek().desk.as_fd()
    }
}
