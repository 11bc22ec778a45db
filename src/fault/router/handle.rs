//! What takes the faults of a source: a queue, or work for a function or an executor.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Instant;

use recordfd_uapi::PgFault;

use super::Shared;
use super::worker::{FaultWork, Worker};
use crate::answer::{Completion, Group, Ledger, PublishError};
use crate::error::NotThisProcess;
use crate::fault::FaultReporter;
use crate::sys::{Owned, Release};

/// What takes faults, made by [`FaultRouter::queue`](super::FaultRouter::queue),
/// [`inline`](super::FaultRouter::inline) or [`executor`](super::FaultRouter::executor); clones are the same one.
///
/// It may be attached to any number of sources of its router.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    pub(super) inner: Arc<Handle>,
    pub(super) owns_pasid_table: bool,
}

static_assertions::assert_impl_all!(FaultHandle: Send, Sync, Clone);

#[derive(Debug)]
pub(super) struct Handle {
    pub(super) router: Weak<Owned<Shared>>,
    pub(super) kind: Owned<Kind>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "each is in an Arc of its own")]
pub(super) enum Kind {
    Queue(FaultReporter),
    Worker(Box<Worker>),
}

impl Release for Kind {
    /// A queue tells it itself; work has no other side.
    fn release(&mut self) {}
}

/// What a handle has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandleCounters {
    /// Groups it holds now, those included whose late answer may still come: what is held against the depth.
    pub in_flight: u32,
    /// Groups that it was handed and that are not completed now.
    pub unanswered: u32,
    /// Groups completed without their answer that still take up room now, for it may still come: a part of
    /// [`in_flight`](Self::in_flight). See
    /// [Room that does not come back](crate::fault#room-that-does-not-come-back).
    pub late_answers_pending: u32,
    /// Groups completed by their answer.
    pub answered: u64,
    /// Groups completed because it was detached or replaced.
    pub detached: u64,
    /// Groups completed because the responder was gone, or broke the format.
    pub hung_up: u64,
    /// Groups completed because no answer came in time.
    pub deadline: u64,
    /// Groups completed because the answer had a code that the format does not have.
    pub bad_answer: u64,
    /// Groups completed because the work that was to answer them panicked or was dropped.
    pub dropped: u64,
    /// Answers that named no open group: late, repeated or made up.
    pub late_answers: u64,
}

impl FaultHandle {
    pub(super) fn new(router: Weak<Owned<Shared>>, kind: Kind) -> Self {
        let kind = Owned::new(kind);
        Self { inner: Arc::new(Handle { router, kind }), owns_pasid_table: false }
    }

    /// The same handle, as the owner of the device's whole PASID table: attached to a
    /// [`Rid`](super::FaultSource::Rid), it also takes the faults of PASIDs that have no handle.
    ///
    /// (In Linux: a nested domain whose PASID table is the guest's, `drivers/iommu/io-pgfault.c`,
    /// `find_fault_handler()`.)
    #[must_use]
    pub fn owning_pasid_table(&self) -> Self {
        Self { owns_pasid_table: true, ..self.clone() }
    }

    /// The descriptor of a queue, readable when [`FaultRouter::process`](super::FaultRouter::process) has
    /// something to do for it; `None` for work, which completes by itself.
    ///
    /// It stays readable when the responder is gone: see [`is_closed`](Self::is_closed). Late answers make it readable,
    /// too, also when the handle is attached nowhere any more: [`FaultRouter::collect`](super::FaultRouter::collect)
    /// takes those in.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self.inner.kind.peek() {
            Kind::Queue(reporter) => Some(reporter.as_fd()),
            Kind::Worker(_) => None,
        }
    }

    /// Whether the responder of a queue is gone, or broke the format: what is routed here is answered INVALID at once.
    pub fn is_closed(&self) -> bool {
        match self.inner.kind.get() {
            Ok(Kind::Queue(reporter)) => reporter.is_closed(),
            Ok(Kind::Worker(_)) => false,
            Err(NotThisProcess) => true,
        }
    }

    /// What was seen so far; answers of a queue count once they were taken in.
    pub fn counters(&self) -> HandleCounters {
        match self.inner.kind.get() {
            Ok(Kind::Queue(reporter)) => reporter.with_ledger(HandleCounters::of),
            Ok(Kind::Worker(worker)) => worker.with_ledger(HandleCounters::of),
            Err(NotThisProcess) => HandleCounters::default(),
        }
    }
}

impl HandleCounters {
    fn of(ledger: &Ledger<PgFault>) -> Self {
        let ended = ledger.counters();
        Self {
            in_flight: ledger.in_flight(),
            unanswered: ledger.unanswered(),
            late_answers_pending: ledger.late_pending(),
            answered: ended.answered,
            detached: ended.detached,
            hung_up: ended.hung_up,
            deadline: ended.deadline,
            bad_answer: ended.bad_answer,
            dropped: ended.dropped,
            late_answers: ended.late_answers,
        }
    }
}

impl Handle {
    /// The most faults of a group.
    pub(super) fn max_group(&self) -> u32 {
        match self.kind.peek() {
            Kind::Queue(reporter) => reporter.max_group(),
            Kind::Worker(worker) => worker.max_group(),
        }
    }

    /// How many groups it can hold.
    pub(super) fn depth(&self) -> u32 {
        match self.kind.get() {
            Ok(Kind::Queue(reporter)) => reporter.depth(),
            Ok(Kind::Worker(worker)) => worker.with_ledger(Ledger::depth),
            Err(NotThisProcess) => 0,
        }
    }

    /// Hands a group over; what comes back is to be run without any lock.
    pub(super) fn publish(
        self: &Arc<Self>,
        group: &Group<PgFault>,
        count: usize,
        page: impl Fn(usize) -> PgFault,
        now: Instant,
    ) -> Result<Option<FaultWork>, PublishError> {
        match self.kind.get()? {
            Kind::Queue(reporter) => reporter.publish(group, count, page, now).map(|_| None),
            Kind::Worker(worker) => {
                let (cookie, pages) = worker.open(group, count, page, now)?;
                Ok(Some(FaultWork::new(self, cookie, pages)))
            }
        }
    }

    /// Completes every group that went through `attachment` and is not answered.
    pub(super) fn cancel(&self, attachment: u32) {
        match self.kind.get() {
            Ok(Kind::Queue(reporter)) => reporter.cancel(attachment),
            Ok(Kind::Worker(worker)) => worker.cancel(attachment),
            Err(NotThisProcess) => {}
        }
    }

    /// Completes what has waited too long by `now`; returns when that is due next.
    pub(super) fn process(&self, now: Instant) -> Option<Instant> {
        match self.kind.get().ok()? {
            Kind::Queue(reporter) => {
                reporter.process(now);
                reporter.next_deadline()
            }
            Kind::Worker(worker) => worker.process(now),
        }
    }

    /// When [`process`](Self::process) is due next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.kind.get().ok()? {
            Kind::Queue(reporter) => reporter.next_deadline(),
            Kind::Worker(worker) => worker.with_ledger(|ledger| ledger.next_deadline()),
        }
    }

    /// Takes completions out, as many as there are and fit; returns how many.
    pub(super) fn take(&self, batch: &mut [Option<Completion<PgFault>>]) -> usize {
        let mut places = batch.iter_mut();
        let most = places.len();
        let sink = |completion| {
            if let Some(place) = places.next() {
                *place = Some(completion);
            }
        };
        match self.kind.get() {
            Ok(Kind::Queue(reporter)) => reporter.take(most, sink),
            Ok(Kind::Worker(worker)) => worker.take(most, sink),
            Err(NotThisProcess) => 0,
        }
    }
}
