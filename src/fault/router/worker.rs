//! Groups that a function or an executor answers: no queue, but the same protocol.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use recordfd_uapi::{PgFault, Record, WRITE_MAX};

use super::handle::{Handle, Kind};
use super::tell::Held;
use crate::answer::{Completion, Group, Ledger, MustAnswer, PublishError, Withdrawn};
use crate::error::RespondError;
use crate::fault::{Options, ResponseCode};
use crate::sync::{Mutex, lock};
use crate::sys::{Owned, Release};

/// The most pages of a group: as many as a queue can have.
pub(super) const MOST_PAGES: usize = WRITE_MAX / PgFault::SIZE;

/// What runs the work of a handle, on whatever thread it wants.
///
/// Implemented for every function that takes [`FaultWork`]. For a pool of std threads see the example
/// `fault_threads`.
pub trait Executor: Send + Sync + 'static {
    /// Takes work over, to be answered now or later.
    ///
    /// It is called by the thread that reported the fault, which holds no lock. Work that it drops, or that goes
    /// down in a panic, is answered INVALID ([`Cause::Dropped`](super::super::Cause::Dropped)).
    fn execute(&self, work: FaultWork);
}

impl<F: Fn(FaultWork) + Send + Sync + 'static> Executor for F {
    fn execute(&self, work: FaultWork) {
        self(work);
    }
}

/// The groups of one handle.
pub(super) struct Worker {
    pub(super) executor: Box<dyn Executor>,
    state: Mutex<State>,
    max_group: u32,
}

#[derive(Debug)]
struct State {
    ledger: Ledger<PgFault>,
    /// Room for the pages of each group that may still be opened.
    free: Vec<Vec<PgFault>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Worker {
    /// For options that were checked.
    pub(super) fn new(options: &Options, executor: Box<dyn Executor>) -> Self {
        let depth = options.depth;
        let max_group = options.max_group_of(MOST_PAGES);
        let free = (0..depth).map(|_| Vec::with_capacity(max_group as usize)).collect();
        let ledger = Ledger::new(depth, options.per_device_of(depth), options.deadline);
        Self { executor, state: Mutex::new(State { ledger, free }), max_group }
    }

    pub(super) fn max_group(&self) -> u32 {
        self.max_group
    }

    /// Opens a group of `count` pages, at most [`max_group`](Self::max_group); returns its cookie and pages.
    pub(super) fn open(
        &self,
        group: &Group<PgFault>,
        count: usize,
        page: impl Fn(usize) -> PgFault,
        now: Instant,
    ) -> Result<(u32, Vec<PgFault>), PublishError> {
        let mut state = lock(&self.state);
        let cookie = state.ledger.open(group, count as u32, now)?;
        // There is one for each slot; a slot is not free before its pages are back.
        let mut pages = state.free.pop().unwrap_or_default();
        pages.extend((0..count).map(|index| page(index).grouped(cookie, index + 1 == count)));
        Ok((cookie, pages))
    }

    pub(super) fn cancel(&self, attachment: u32) {
        // Whoever has the work keeps its slot until it is answered.
        lock(&self.state).ledger.detach(|_, tag| tag.via == attachment, |_| Withdrawn::Kept);
    }

    pub(super) fn process(&self, now: Instant) -> Option<Instant> {
        let ledger = &mut lock(&self.state).ledger;
        ledger.expire(now, |_| Withdrawn::Kept);
        ledger.next_deadline()
    }

    pub(super) fn take(&self, most: usize, sink: impl FnMut(Completion<PgFault>)) -> usize {
        let ledger = &mut lock(&self.state).ledger;
        let count = ledger.waiting().min(most);
        std::iter::from_fn(|| ledger.take()).take(count).for_each(sink);
        count
    }

    pub(super) fn with_ledger<T>(&self, look: impl FnOnce(&Ledger<PgFault>) -> T) -> T {
        look(&lock(&self.state).ledger)
    }
}

/// A group of page faults that a function or an executor answers.
///
/// Dropping it, also in a panic, answers INVALID. It may be kept, moved to other threads and answered in any order;
/// if its source is detached meanwhile, it was completed then.
#[must_use = "work must be answered; dropping it answers INVALID"]
pub struct FaultWork(Owned<Work>);

/// What it is in its process.
#[derive(Debug)]
struct Work {
    handle: Arc<Handle>,
    /// 0, which is no cookie, when nothing is to be answered any more.
    cookie: u32,
    pages: Vec<PgFault>,
}

static_assertions::assert_impl_all!(FaultWork: Send, Sync);

impl fmt::Debug for FaultWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultWork").field("pages", &self.pages()).finish_non_exhaustive()
    }
}

impl FaultWork {
    pub(super) fn new(handle: &Arc<Handle>, cookie: u32, pages: Vec<PgFault>) -> Self {
        Self(handle.kind.own(Work { handle: handle.clone(), cookie, pages }))
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.0.peek().handle
    }

    /// The page faults of the group, at least one.
    pub fn pages(&self) -> &[PgFault] {
        &self.0.peek().pages
    }

    /// Answers the group, and tells the device in the same call.
    ///
    /// # Errors
    ///
    /// [`RespondError::StaleCookie`] when it was completed without its answer, [`RespondError::NotThisProcess`].
    pub fn respond(mut self, code: ResponseCode) -> Result<(), RespondError<()>> {
        if self.0.get_mut()?.finish(|ledger, cookie| ledger.answer(cookie, Some(code))) {
            Ok(())
        } else {
            Err(RespondError::StaleCookie)
        }
    }
}

impl Work {
    /// Settles the group and gives the room for its pages back; false when it was completed before.
    fn finish(&mut self, settle: impl FnOnce(&mut Ledger<PgFault>, u32) -> bool) -> bool {
        let cookie = std::mem::take(&mut self.cookie);
        let Ok(Kind::Worker(worker)) = self.handle.kind.get() else { return false };
        let mut pages = std::mem::take(&mut self.pages);
        pages.clear();
        let in_time = {
            let state = &mut *lock(&worker.state);
            state.free.push(pages);
            settle(&mut state.ledger, cookie)
        };
        let router = self.handle.router.upgrade();
        if let Some(router) = router.as_deref().and_then(|router| router.get().ok()) {
            let mut held = Held::default();
            router.deliver(&self.handle, &mut held);
            held.go_on();
        }
        in_time
    }
}

impl Release for Work {
    fn release(&mut self) {
        if self.cookie != 0 {
            self.finish(Ledger::give_up);
        }
    }
}
