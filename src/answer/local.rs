//! Both sides in one process: they share the ledger behind one lock, so that an answer is applied when
//! the call that gives it returns.
//!
//! The lock is a queue's, a ledger's and a doorbell's at once; that is what lets a group that is unread
//! be taken back when its device is detached. Whoever wants speed takes many groups for each lock.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{AnswerError, Completion, Group, Ledger, MustAnswer, PublishError};
use crate::doorbell::{ARMED, Tokens, Waiter, ring};
use crate::error::{Error, TryRecvError};
use crate::sync::{AtomicU32, Condvar, Mutex, MutexGuard, lock};
use crate::transport::Owner;
use crate::transport::local::Bell;

/// What the two sides share.
#[derive(Debug)]
pub(crate) struct Core<A: MustAnswer> {
    state: Mutex<State<A>>,
    /// Wakes who waits for a device's groups to complete.
    completed: Condvar,
    groups: Chime,
    completions: Chime,
}

/// A doorbell and its word.
#[derive(Debug)]
struct Chime {
    armed: AtomicU32,
    bell: Bell,
}

impl Chime {
    fn new() -> Result<Self, Error> {
        Ok(Self { armed: AtomicU32::new(ARMED), bell: Bell::new()? })
    }

    fn ring(&self) {
        ring(&self.armed, &self.bell);
    }
}

#[derive(Debug)]
struct State<A: MustAnswer> {
    ledger: Ledger<A>,
    /// Records not read yet; never more than the ledger has slots.
    queue: VecDeque<A>,
    /// The format can say CANCELLED.
    headed: bool,
    reporter_gone: bool,
    responder_gone: bool,
    reporter: Waiter,
    responder: Waiter,
    /// Threads in [`Core::wait_completed`].
    drainers: u32,
}

impl<A: MustAnswer> Core<A> {
    /// Makes the two sides of a channel.
    pub(crate) fn pair(
        ledger: Ledger<A>,
        headed: bool,
    ) -> Result<(LocalReporter<A>, LocalResponder<A>), Error> {
        let state = State {
            queue: VecDeque::with_capacity(ledger.depth() as usize),
            ledger,
            headed,
            reporter_gone: false,
            responder_gone: false,
            reporter: Waiter::new(),
            responder: Waiter::new(),
            drainers: 0,
        };
        let core = Arc::new(Self {
            state: Mutex::new(state),
            completed: Condvar::new(),
            groups: Chime::new()?,
            completions: Chime::new()?,
        });
        let reporter = LocalReporter { core: core.clone(), owner: Owner::this_process() };
        Ok((reporter, LocalResponder { core, owner: Owner::this_process() }))
    }

    /// Looks at the ledger.
    pub(crate) fn with_ledger<T>(&self, look: impl FnOnce(&Ledger<A>) -> T) -> T {
        look(&lock(&self.state).ledger)
    }

    /// Waits until no group of `dev_id` is open, or until `until`.
    pub(crate) fn wait_completed(&self, dev_id: u32, until: Option<Instant>) {
        let mut state = lock(&self.state);
        state.drainers += 1;
        while state.ledger.has_open(dev_id) {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.completed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.completed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.drainers -= 1;
    }

    /// Whether the responder is gone.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).responder_gone
    }

    /// Lets go of the lock after groups were completed, and tells who waits for that.
    fn announce_completions(&self, state: MutexGuard<'_, State<A>>) {
        let drainers = state.drainers;
        drop(state);
        self.completions.ring();
        if drainers > 0 {
            self.completed.notify_all();
        }
    }
}

/// The reporter's handle: dropped, the channel has no reporter any more.
#[derive(Debug)]
pub(crate) struct LocalReporter<A: MustAnswer> {
    core: Arc<Core<A>>,
    owner: Owner,
}

impl<A: MustAnswer> LocalReporter<A> {
    pub(crate) fn core(&self) -> &Arc<Core<A>> {
        &self.core
    }

    /// Begins to publish groups, which the responder sees together at the end.
    pub(crate) fn publish(&self) -> Publication<'_, A> {
        Publication { state: Some(lock(&self.core.state)), core: &self.core, count: 0 }
    }

    /// Takes completions out, at most `most`, of which `sink` is given each.
    pub(crate) fn collect(
        &self,
        most: usize,
        mut sink: impl FnMut(Completion<A>),
    ) -> Result<usize, TryRecvError> {
        let state = &mut *lock(&self.core.state);
        let chime = &self.core.completions;
        state.reporter.enter(&chime.armed);
        let count = state.ledger.waiting().min(most);
        std::iter::from_fn(|| state.ledger.take()).take(count).for_each(&mut sink);
        if state.ledger.waiting() == 0 && !state.responder_gone {
            // Under the lock nothing comes in between the look and the arming.
            state.reporter.try_sleep(&chime.armed, &chime.bell, || false);
        }
        match (count, state.responder_gone) {
            (0, true) => Err(TryRecvError::Closed),
            (0, false) if most > 0 => Err(TryRecvError::Empty),
            _ => Ok(count),
        }
    }

    pub(crate) fn detach(&self, dev_id: u32) {
        self.cancel(|ledger| ledger.detach(dev_id));
    }

    pub(crate) fn process(&self, now: Instant) {
        self.cancel(|ledger| ledger.expire(now));
    }

    /// Completes groups without their answer and takes back those that are unread.
    fn cancel(&self, complete: impl FnOnce(&mut Ledger<A>)) {
        let mut guard = lock(&self.core.state);
        let state = &mut *guard;
        let before = state.ledger.waiting();
        complete(&mut state.ledger);
        if state.ledger.waiting() == before {
            return;
        }
        let ledger = &state.ledger;
        state.queue.retain(|record| ledger.is_open(record.cookie()));
        let tell = state.headed && ledger.untold().is_some();
        self.core.announce_completions(guard);
        if tell {
            self.core.groups.ring();
        }
    }
}

impl<A: MustAnswer> AsFd for Core<A> {
    /// The descriptor that the reporter polls.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.completions.bell.as_fd()
    }
}

impl<A: MustAnswer> Drop for LocalReporter<A> {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            lock(&self.core.state).reporter_gone = true;
            // Nobody owns this token, so it stays: closed is readable for ever.
            self.core.groups.bell.put();
        }
    }
}

/// Groups on their way into the queue.
#[derive(Debug)]
pub(crate) struct Publication<'a, A: MustAnswer> {
    state: Option<MutexGuard<'a, State<A>>>,
    core: &'a Core<A>,
    count: usize,
}

impl<A: MustAnswer> Publication<'_, A> {
    /// Publishes a group of `count` records, whole or not at all.
    pub(crate) fn add(
        &mut self,
        group: &Group<A>,
        count: usize,
        record: impl Fn(usize) -> A,
        now: Instant,
    ) -> Result<u32, PublishError> {
        let Some(state) = self.state.as_mut() else { return Err(PublishError::Closed) };
        if state.responder_gone {
            return Err(PublishError::Closed);
        }
        if state.queue.len() + count > state.ledger.depth() as usize {
            return Err(PublishError::Full);
        }
        // The responder can answer it once it has read it, not before.
        let cookie = state.ledger.open(group.dev_id, group.tag, now, false)?;
        state.queue.extend((0..count).map(|index| record(index).grouped(cookie, index + 1 == count)));
        self.count += 1;
        Ok(cookie)
    }
}

impl<A: MustAnswer> Drop for Publication<'_, A> {
    fn drop(&mut self) {
        self.state = None;
        if self.count > 0 {
            self.core.groups.ring();
        }
    }
}

/// The responder's handle, which its open groups share: the last one dropped, nobody answers any more.
#[derive(Debug)]
pub(crate) struct LocalResponder<A: MustAnswer> {
    core: Arc<Core<A>>,
    owner: Owner,
}

impl<A: MustAnswer> LocalResponder<A> {
    /// Takes at most `most` groups, which go to `pages`, one behind the other; `sink` is told of each:
    /// its cookie and its place.
    pub(crate) fn read(
        &self,
        pages: &mut [A],
        most: usize,
        mut sink: impl FnMut(u32, Range<usize>),
    ) -> Result<(), TryRecvError> {
        let state = &mut *lock(&self.core.state);
        let chime = &self.core.groups;
        state.responder.enter(&chime.armed);
        let (mut count, mut filled) = (0, 0);
        while count < most {
            let Some(last) = state.queue.iter().position(A::is_last) else { break };
            let place = filled..filled + last + 1;
            if place.end > pages.len() {
                if count == 0 {
                    return Err(TryRecvError::BufferTooSmall { needed: last + 1 });
                }
                break;
            }
            for (page, record) in pages[place.clone()].iter_mut().zip(state.queue.drain(..=last)) {
                *page = record;
            }
            let cookie = pages[filled].cookie();
            state.ledger.deliver(cookie);
            filled = place.end;
            count += 1;
            sink(cookie, place);
        }
        if state.queue.is_empty() && !state.reporter_gone {
            // Under the lock nothing comes in between the look and the arming.
            state.responder.try_sleep(&chime.armed, &chime.bell, || false);
        }
        match (count, state.reporter_gone) {
            (0, true) if state.queue.is_empty() => Err(TryRecvError::Closed),
            (0, _) if most > 0 => Err(TryRecvError::Empty),
            _ => Ok(()),
        }
    }

    pub(crate) fn respond(&self, cookie: u32, verdict: A::Verdict) -> Result<(), AnswerError> {
        self.respond_batch(&[A::answer(cookie, verdict)]).map(|_| ())
    }

    /// Applies answers in order, up to the first bad one; returns how many.
    pub(crate) fn respond_batch(&self, batch: &[A::Answer]) -> Result<usize, AnswerError> {
        let mut state = lock(&self.core.state);
        if state.reporter_gone {
            return Err(AnswerError::Closed);
        }
        let (mut count, mut outcome) = (0, Ok(()));
        for answer in batch {
            let (cookie, verdict) = A::verdict(answer);
            if verdict.is_none() {
                outcome = Err(AnswerError::Code);
            } else if !state.ledger.answer(cookie, verdict) {
                outcome = Err(AnswerError::Stale);
            }
            if outcome.is_err() {
                break;
            }
            count += 1;
        }
        if count > 0 {
            self.core.announce_completions(state);
            return Ok(count);
        }
        outcome.map(|()| 0)
    }

    /// Gives the group its negative answer.
    pub(crate) fn give_up(&self, cookie: u32) {
        if self.owner.is_this_process() {
            let _ = self.respond(cookie, A::NEGATIVE);
        }
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        let state = lock(&self.core.state);
        state.headed && state.ledger.is_cancelled(cookie)
    }

    /// The cookie of an open group that the reporter has completed; each is told once.
    pub(crate) fn next_cancelled(&self) -> Option<u32> {
        let mut state = lock(&self.core.state);
        if !state.headed {
            return None;
        }
        let (_, cookie) = state.ledger.untold()?;
        state.ledger.told(cookie);
        Some(cookie)
    }

    pub(crate) fn open_cookies(&self) -> Vec<u32> {
        lock(&self.core.state).ledger.held_cookies().collect()
    }
}

impl<A: MustAnswer> AsFd for LocalResponder<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.groups.bell.as_fd()
    }
}

impl<A: MustAnswer> Drop for LocalResponder<A> {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            let mut state = lock(&self.core.state);
            state.responder_gone = true;
            state.ledger.hang_up();
            state.queue.clear();
            self.core.announce_completions(state);
            // Nobody owns this token, so it stays: closed is readable for ever.
            self.core.completions.bell.put();
        }
    }
}
