//! Page faults of many devices and PASIDs, each to who is attached to it.

mod attach;
mod handle;
#[cfg(all(test, loom))]
mod models;
mod table;
mod tell;
mod worker;

pub use attach::{AttachError, SwitchError};
pub use handle::{FaultHandle, HandleCounters};
pub use table::FaultSource;
pub use worker::{Executor, FaultWork};

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::PgFault;

use self::handle::Kind;
use self::table::Table;
use self::tell::Held;
use self::worker::{MOST_PAGES, Worker};
use super::collect::{Collector, Refused};
use super::options::Options;
use super::request::{FaultCompletion, FaultRequest, Kind as RequestKind, ReportError, ResponseCode, Tag};
use super::stop::{StopMarkers, wait_for_marker};
use super::{Cause, FaultReporter};
use crate::answer::{Group, PublishError};
use crate::error::{DrainError, Error, Rejected};
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, RwLock, lock, read};
use crate::sys::{Owned, Release};

/// Takes the page faults of a device model to the handles that are attached to their sources, and tells the devices
/// how each group ended.
///
/// A handle is a [`queue`](Self::queue) to who answers in another thread or process, a function that is called
/// [`inline`](Self::inline), or work for an [`executor`](Self::executor). A group goes whole to the handle that is
/// attached when its last page is reported: that of its PASID, or else one that
/// [owns the device's PASID table](FaultHandle::owning_pasid_table), and if there is none it is answered INVALID at once.
/// How each group ends, once, `respond` is told, the function that the router was made with.
///
/// Clones share the router; with the last one goes `respond`, and what is in flight then is told to nobody. A function
/// or an executor that keeps a clone keeps the router for ever. Everything is thread-safe. No queue can hold up
/// another: who has no room gives the fault back.
///
/// (What Linux does in `drivers/iommu/io-pgfault.c` and `drivers/iommu/iommufd/fault.c`.)
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
///
/// use recordfd::fault::{FaultRequest, FaultRouter, FaultSource, Options, ResponseCode, Routed};
/// use recordfd::uapi::PgFaultPerm;
///
/// let (tx, responses) = mpsc::channel();
/// let router = FaultRouter::new(&Options::new(), move |ended| tx.send(ended).unwrap())?;
/// let mapped = router.inline(&Options::new(), |pages| match pages[0].addr {
///     ..0x10000 => ResponseCode::Success,
///     _ => ResponseCode::Invalid,
/// })?;
/// router.attach(FaultSource::pasid(1, 5), &mapped)?;
///
/// let perm = PgFaultPerm::READ;
/// let request = FaultRequest { dev_id: 1, pasid: Some(5), perm, last: true, addr: 0x1000, ..Default::default() };
/// assert_eq!(router.report(request)?, Routed::Delivered);
/// assert_eq!(responses.recv()?.code, ResponseCode::Success);
///
/// // Nobody is attached to this one:
/// assert_eq!(router.report(FaultRequest { pasid: Some(6), ..request })?, Routed::NoHandle);
/// assert_eq!(responses.recv()?.code, ResponseCode::Invalid);
/// router.detach(FaultSource::pasid(1, 5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FaultRouter(Arc<Owned<Shared>>);

static_assertions::assert_impl_all!(FaultRouter: Send, Sync, Clone);

struct Shared {
    /// Held for reading while a group is handed over, so that who has it for writing knows of no group under way.
    table: RwLock<Table>,
    intake: Mutex<Intake>,
    /// Something is kept in `intake` that a last page must be looked up in.
    intake_used: AtomicBool,
    stop_marker: Condvar,
    /// Told of completions under no lock.
    respond: Box<dyn Fn(FaultCompletion) + Send + Sync>,
    /// How many wait until an attachment has nothing in flight any more, and what tells them.
    settled: (Mutex<u32>, Condvar),
}

impl Release for Shared {
    /// What is in flight is told to nobody any more.
    fn release(&mut self) {}
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("table", &self.table).finish_non_exhaustive()
    }
}

/// What comes before a group is handed over.
#[derive(Debug)]
struct Intake {
    collector: Collector,
    markers: StopMarkers,
    counters: RouterCounters,
}

/// The intake, under its lock; says behind it whether something is kept there.
struct IntakeGuard<'a> {
    intake: MutexGuard<'a, Intake>,
    used: &'a AtomicBool,
}

impl Deref for IntakeGuard<'_> {
    type Target = Intake;

    fn deref(&self) -> &Intake {
        &self.intake
    }
}

impl DerefMut for IntakeGuard<'_> {
    fn deref_mut(&mut self) -> &mut Intake {
        &mut self.intake
    }
}

impl Drop for IntakeGuard<'_> {
    fn drop(&mut self) {
        let Intake { collector, markers, .. } = &*self.intake;
        // Relaxed: see where it is loaded.
        self.used.store(collector.len() > 0 || !markers.is_empty(), Ordering::Relaxed);
    }
}

/// What a router and its clones have seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterCounters {
    /// Groups that wait for their last page now.
    pub half_made: u32,
    /// Groups answered INVALID because nobody was attached to take them.
    pub no_handle: u64,
    /// Groups answered INVALID because the responder of their queue was gone.
    pub hung_up: u64,
    /// Groups answered INVALID because their last page did not come in time.
    pub unfinished: u64,
    /// Half-made groups forgotten with their device.
    pub discarded: u64,
    /// Executors that panicked while they were handed work.
    pub panicked: u64,
    /// Stop Markers reported.
    pub stop_markers: u64,
}

/// What became of a request that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// Its group waits for the last page.
    HalfMade,
    /// Its group was handed over, and perhaps answered already.
    Delivered,
    /// Nobody is attached: its group was answered INVALID.
    NoHandle,
    /// The responder of its queue is gone: its group was answered INVALID.
    HungUp,
    /// It was a Stop Marker, and is with whoever waits for it.
    StopMarker,
}

/// What a reported last page led to, to be acted on under no lock.
enum Outcome {
    Queued,
    Work(FaultWork),
    /// With the attachment it was counted on, if any.
    Refused(Routed, Cause, u32),
}

impl FaultRouter {
    /// A router that tells `respond` how each group ended.
    ///
    /// Of the options [`half_made`](Options::half_made), [`half_made_age`](Options::half_made_age) and
    /// [`max_group`](Options::max_group) count here.
    ///
    /// `respond` is called once for each group that was handed over, by whichever thread completes it: the one that
    /// reports, answers, detaches, or calls [`process`](Self::process). No lock is held, so it may report further
    /// faults; but [`detach`](Self::detach) and [`replace`](Self::replace) wait for it, and are refused within it, also
    /// those of other routers. A panic of it goes on in the call that told it, after everything else was told;
    /// unless that call is made in a panic itself.
    ///
    /// # Errors
    ///
    /// [`Error::Option`].
    pub fn new(
        options: &Options,
        respond: impl Fn(FaultCompletion) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        options.check()?;
        let max_group = options.max_group_of(MOST_PAGES);
        let intake = Intake {
            collector: Collector::new(options.half_made, max_group, options.half_made_age),
            markers: StopMarkers::new(),
            counters: RouterCounters::default(),
        };
        Ok(Self(Arc::new(Owned::new(Shared {
            table: RwLock::new(Table::new()),
            intake: Mutex::new(intake),
            intake_used: AtomicBool::new(false),
            stop_marker: Condvar::new(),
            respond: Box::new(respond),
            settled: (Mutex::new(0), Condvar::new()),
        }))))
    }

    /// A handle that puts groups into a reporter's queue, to be answered by its responder.
    ///
    /// The reporter is the router's from now on: [`process`](Self::process) collects its completions, whenever
    /// the [descriptor](FaultHandle::descriptor) is readable. Answers go to the queue that their group came from, also
    /// when another handle is attached by then.
    ///
    /// # Errors
    ///
    /// [`Rejected`], with the reporter: [`Error::Unsupported`] when the reporter has clones, which could take completions
    /// away, and when groups that were reported to it wait for their last page, or were not completed: no router knows
    /// of them.
    pub fn queue(&self, reporter: FaultReporter) -> Result<FaultHandle, Rejected<FaultReporter>> {
        let (reporter, ()) = Rejected::unless(reporter, |reporter| {
            self.0.get()?;
            if !reporter.is_sole() {
                return Err(Error::Unsupported {
                    reason: "the reporter has clones that could take completions",
                });
            }
            if reporter.has_groups()? {
                return Err(Error::Unsupported { reason: "the reporter has groups that no router knows of" });
            }
            Ok(())
        })?;
        Ok(FaultHandle::new(Arc::downgrade(&self.0), Kind::Queue(reporter)))
    }

    /// A handle that calls `function` in the thread that reports a group's last page, with its pages.
    ///
    /// No lock is held. If it panics the group is answered INVALID. Of the options
    /// [`depth`](Options::depth), how many calls may be under way at a time, [`per_device`](Options::per_device),
    /// [`max_group`](Options::max_group) and [`deadline`](Options::deadline) count. Room for as many groups as the
    /// depth says is set aside, 40 bytes for each page.
    ///
    /// # Errors
    ///
    /// [`Error::Option`].
    pub fn inline(
        &self,
        options: &Options,
        function: impl Fn(&[PgFault]) -> ResponseCode + Send + Sync + 'static,
    ) -> Result<FaultHandle, Error> {
        self.executor(options, move |work: FaultWork| {
            let code = function(work.pages());
            // Whether it was in time is of no matter here.
            let _ = work.respond(code);
        })
    }

    /// A handle that gives each group to `executor`, as [`FaultWork`] to be answered by any thread.
    ///
    /// Options count as with [`inline`](Self::inline); at most [`depth`](Options::depth) pieces of work are with the
    /// executor, so a queue of that length in front of its threads is never full.
    ///
    /// # Errors
    ///
    /// [`Error::Option`].
    pub fn executor(&self, options: &Options, executor: impl Executor) -> Result<FaultHandle, Error> {
        self.0.get()?;
        options.check()?;
        let worker = Worker::new(options, Box::new(executor));
        Ok(FaultHandle::new(Arc::downgrade(&self.0), Kind::Worker(Box::new(worker))))
    }

    /// Reports a page request: hands its group over if it is the last page, keeps it until then if not.
    ///
    /// Never waits for who answers.
    ///
    /// # Errors
    ///
    /// [`ReportError`], which gives the request back and leaves everything as it was, as with
    /// [`FaultReporter::report`].
    pub fn report(&self, request: FaultRequest) -> Result<Routed, ReportError> {
        let Ok(shared) = self.0.get() else { return Err(ReportError::NotThisProcess(request)) };
        shared.report(request)
    }

    /// Waits for the Stop Marker of a PASID, as [`FaultReporter::wait_stop_marker`] does.
    ///
    /// # Errors
    ///
    /// [`DrainError::Timeout`].
    pub fn wait_stop_marker(&self, dev_id: u32, pasid: u32, timeout: Duration) -> Result<(), DrainError> {
        let take = |intake: &mut Intake| intake.markers.take(dev_id, pasid);
        let shared = self.0.get()?;
        wait_for_marker(lock(&shared.intake), &shared.stop_marker, timeout, take)
    }

    /// Takes in the answers of every queue, completes what has waited too long by `now`, and tells
    /// `respond` of all of it.
    ///
    /// To be called when the [descriptor](FaultHandle::descriptor) of a queue is readable, and at
    /// [`next_deadline`](Self::next_deadline), which it returns.
    pub fn process(&self, now: Instant) -> Option<Instant> {
        self.0.get().ok()?.process(now)
    }

    /// Takes in the answers of one queue and tells `respond` of them: what [`process`](Self::process) does for all of
    /// them, for who has many and knows which descriptor is readable. Also of one that is attached nowhere any
    /// more, which [`process`](Self::process) leaves alone. Does nothing to another router's.
    pub fn collect(&self, handle: &FaultHandle) {
        if let (true, Ok(shared)) = (self.owns(handle), self.0.get()) {
            let mut held = Held::default();
            shared.deliver(&handle.inner, &mut held);
            held.go_on();
        }
    }

    fn owns(&self, handle: &FaultHandle) -> bool {
        handle.inner.router.as_ptr() == Arc::as_ptr(&self.0)
    }

    /// When [`process`](Self::process) is due next. A report may bring an earlier one.
    pub fn next_deadline(&self) -> Option<Instant> {
        let shared = self.0.get().ok()?;
        let half_made = lock(&shared.intake).collector.next_deadline();
        let table = read(&shared.table);
        let handles = (0..).map_while(|index| table.handle(index));
        handles.filter_map(|handle| handle.next_deadline()).chain(half_made).min()
    }

    /// What was seen so far; what handles have seen is in their own [counters](FaultHandle::counters).
    pub fn counters(&self) -> RouterCounters {
        let Ok(shared) = self.0.get() else { return RouterCounters::default() };
        let intake = lock(&shared.intake);
        RouterCounters { half_made: intake.collector.len(), ..intake.counters }
    }
}

impl Shared {
    /// See [`FaultRouter::report`].
    fn report(&self, request: FaultRequest) -> Result<Routed, ReportError> {
        let outcome = match request.kind()? {
            RequestKind::StopMarker { pasid } => return self.stop_marker(&request, pasid),
            RequestKind::Page if !request.last => return self.page(&request),
            RequestKind::Page => self.last_page(&request)?,
        };
        match outcome {
            Outcome::Queued => Ok(Routed::Delivered),
            Outcome::Work(work) => {
                self.execute(work);
                Ok(Routed::Delivered)
            }
            Outcome::Refused(routed, cause, via) => {
                let mut held = Held::default();
                self.tell(request.unpublished(cause), via, &mut held);
                held.go_on();
                Ok(routed)
            }
        }
    }

    /// A page that is not the last of its group.
    fn page(&self, request: &FaultRequest) -> Result<Routed, ReportError> {
        let now = Instant::now();
        let mut intake = self.intake();
        request.pasid.into_iter().for_each(|pasid| intake.markers.forget(request.dev_id, pasid));
        match intake.collector.add(request, now) {
            Ok(()) => Ok(Routed::HalfMade),
            Err(Refused::Full) => Err(ReportError::HalfMadeFull(*request)),
            Err(Refused::TooLarge) => {
                intake.collector.set_too_large(request, now);
                Err(ReportError::TooLarge(*request))
            }
        }
    }

    fn last_page(&self, request: &FaultRequest) -> Result<Outcome, ReportError> {
        // Relaxed: who reports a group's pages, or a Stop Marker and what follows it, does so in an order that
        // makes each visible to the next.
        if !self.intake_used.load(Ordering::Relaxed) {
            return self.hand_over(request, &[]);
        }
        let mut intake = self.intake();
        request.pasid.into_iter().for_each(|pasid| intake.markers.forget(request.dev_id, pasid));
        let Some(before) = intake.collector.pages_before(request) else {
            drop(intake);
            return self.hand_over(request, &[]);
        };
        let place = before.place;
        let outcome = if before.too_large {
            Err(ReportError::TooLarge(*request))
        } else {
            self.hand_over(request, before.pages)
        };
        if matches!(outcome, Ok(_) | Err(ReportError::TooLarge(_))) {
            intake.collector.remove(place);
        }
        outcome
    }

    /// Hands the group of `before` and the last page `request` over.
    fn hand_over(&self, request: &FaultRequest, before: &[PgFault]) -> Result<Outcome, ReportError> {
        let now = Instant::now();
        let table = read(&self.table);
        let Some(attachment) = table.find(request.dev_id, request.pasid) else {
            return Ok(Outcome::Refused(Routed::NoHandle, Cause::NoHandle, 0));
        };
        let handle = &attachment.handle.inner;
        let count = before.len() + 1;
        if count > handle.max_group() as usize {
            return Err(ReportError::TooLarge(*request));
        }
        let tag = Tag { via: attachment.id, ..request.tag() };
        let page = |index| before.get(index).copied().unwrap_or_else(|| request.fault());
        // Relaxed: who detaches takes the table for writing first. Before the group can complete.
        attachment.in_flight.fetch_add(1, Ordering::Relaxed);
        match handle.publish(&Group { dev_id: request.dev_id, tag }, count, page, now) {
            Ok(None) => Ok(Outcome::Queued),
            Ok(Some(work)) => Ok(Outcome::Work(work)),
            // Counted until it was told, as what is published.
            Err(PublishError::Closed) => Ok(Outcome::Refused(Routed::HungUp, Cause::HungUp, attachment.id)),
            Err(error) => {
                attachment.in_flight.fetch_sub(1, Ordering::Relaxed);
                Err(ReportError::new(*request, error))
            }
        }
    }

    /// A Stop Marker is taken only behind the groups of its PASID.
    fn stop_marker(&self, request: &FaultRequest, pasid: u32) -> Result<Routed, ReportError> {
        let mut intake = self.intake();
        if intake.collector.has_pasid(request.dev_id, pasid) {
            return Err(ReportError::StopMarkerInGroup(*request));
        }
        intake.markers.add(request.dev_id, pasid);
        intake.counters.stop_markers += 1;
        self.stop_marker.notify_all();
        Ok(Routed::StopMarker)
    }

    fn execute(&self, work: FaultWork) {
        let handle = work.handle().clone();
        let Ok(Kind::Worker(worker)) = handle.kind.get() else { return };
        // The work goes down with it, and is answered so; the device goes on.
        if tell::has_panicked(|| worker.executor.execute(work)) {
            lock(&self.intake).counters.panicked += 1;
        }
    }

    /// See [`FaultRouter::process`].
    fn process(&self, now: Instant) -> Option<Instant> {
        let mut held = Held::default();
        let mut next = self.expire(now, &mut held);
        let count = read(&self.table).handle_count();
        // From the last one on, for one that goes meanwhile has the last one take its place.
        for index in (0..count).rev() {
            // One by one, for `respond` is called under no lock.
            let Some(handle) = read(&self.table).handle(index) else { continue };
            next = [next, handle.process(now)].into_iter().flatten().min();
            self.deliver(&handle, &mut held);
        }
        held.go_on();
        next
    }

    /// Completes half-made groups that have waited too long; returns when that is due next.
    fn expire(&self, now: Instant, held: &mut Held) -> Option<Instant> {
        let expired = {
            let mut intake = self.intake();
            intake.counters.unfinished += intake.collector.expire(now);
            intake.collector.waiting()
        };
        // No more than those: what is reported meanwhile must not keep this call for ever.
        for _ in 0..expired {
            let unfinished = self.intake().collector.take();
            unfinished.into_iter().for_each(|unfinished| held.call(|| self.respond(unfinished)));
        }
        lock(&self.intake).collector.next_deadline()
    }

    fn intake(&self) -> IntakeGuard<'_> {
        IntakeGuard { intake: lock(&self.intake), used: &self.intake_used }
    }
}
