//! Telling devices how their groups ended.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::panicking;

use super::Shared;
use super::handle::{Handle, Kind};
use crate::fault::{Cause, FaultCompletion};
use crate::sync::{Ordering, lock, read, thread_local};

/// Completions told at a time.
const BATCH: usize = 16;

thread_local! {
    #[cfg_attr(not(loom), expect(clippy::missing_const_for_thread_local, reason = "loom's has no const"))]
    /// How many calls of `respond` this thread is in.
    static RESPONDING: Cell<u32> = Cell::new(0);
    #[cfg_attr(not(loom), expect(clippy::missing_const_for_thread_local, reason = "loom's has no const"))]
    /// How many calls of `respond` have panicked in this thread.
    static PANICS: Cell<u32> = Cell::new(0);
}

/// Whether this thread is in a call of `respond`.
pub(super) fn is_responding() -> bool {
    RESPONDING.with(|depth| depth.get()) > 0
}

/// Whether `work` has panicked itself; a panic of `respond` within it goes on.
pub(super) fn has_panicked(work: impl FnOnce()) -> bool {
    let panics = || PANICS.with(Cell::get);
    let before = panics();
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => false,
        Err(panic) if panics() != before => resume_unwind(panic),
        Err(_) => true,
    }
}

/// The first panic of `respond`, held until everything else was told.
#[derive(Default)]
pub(super) struct Held(Option<Box<dyn Any + Send>>);

impl Held {
    pub(super) fn call(&mut self, tell: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(tell)) {
            self.0.get_or_insert(panic);
        }
    }

    pub(super) fn go_on(self) {
        // A second panic would end the process.
        if let Some(panic) = self.0.filter(|_| !panicking()) {
            resume_unwind(panic);
        }
    }
}

/// A call of `respond`; leaves it, also by a panic.
struct Within {
    was_panicking: bool,
}

impl Within {
    fn enter() -> Self {
        RESPONDING.with(|depth| depth.set(depth.get() + 1));
        Self { was_panicking: panicking() }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        RESPONDING.with(|depth| depth.set(depth.get() - 1));
        if panicking() && !self.was_panicking {
            PANICS.with(|panics| panics.set(panics.get().wrapping_add(1)));
        }
    }
}

impl Shared {
    /// Tells how a group ended.
    pub(super) fn respond(&self, ended: FaultCompletion) {
        match ended.cause {
            Cause::NoHandle => lock(&self.intake).counters.no_handle += 1,
            Cause::HungUp if ended.cookie == 0 => lock(&self.intake).counters.hung_up += 1,
            _ => {}
        }
        let _within = Within::enter();
        (self.respond)(ended);
    }

    /// Tells how a group ended that was counted on the attachment `via`, if any.
    pub(super) fn tell(&self, ended: FaultCompletion, via: u32, held: &mut Held) {
        held.call(|| self.respond(ended));
        self.settle(via);
    }

    /// Tells of everything that has completed on a handle by now.
    pub(super) fn deliver(&self, handle: &Handle, held: &mut Held) {
        // No more than can have completed by now: what completes meanwhile must not keep this call for ever.
        let mut left = handle.depth() as usize;
        while left > 0 {
            let mut batch = [const { None }; BATCH];
            let most = left.min(BATCH);
            let count = handle.take(&mut batch[..most]);
            // Work that completes from now on is told by whoever completes it; a queue may bring more.
            let is_all = count < most && matches!(handle.kind.peek(), Kind::Worker(_));
            left = if count == 0 || is_all { 0 } else { left - count };
            for completion in batch.into_iter().flatten() {
                let via = completion.tag.via;
                self.tell(completion.into(), via, held);
            }
        }
    }

    /// Takes note that a group of the attachment `via` was told of.
    fn settle(&self, via: u32) {
        let table = read(&self.table);
        let Some(attachment) = table.by_id(via) else { return };
        // Release pairs with the load of who waits: `respond` has returned.
        let is_settled = attachment.in_flight.fetch_sub(1, Ordering::Release) == 1;
        // Mostly nobody waits, and a notification is a system call.
        if is_settled && *lock(&self.settled.0) > 0 {
            self.settled.1.notify_all();
        }
    }
}
