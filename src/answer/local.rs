//! What carries a must-answer channel between threads: one lock around what is unread, who holds which
//! cookie, and the answers.
//!
//! An answer is applied when the call that gives it returns: from then on nothing else can complete its
//! group. A group that is unread when it is withdrawn is never received. The lock is held for copying
//! records and answers, no longer; the ledger is the reporter's alone.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use recordfd_uapi::WRITE_MAX;

use super::ledger::{slot_bits, slot_of};
use super::{AnswerError, MustAnswer, Withdrawn};
use crate::bell::Bell;
use crate::doorbell::{ARMED, Tokens, Waiter, ring};
use crate::error::{Error, TryRecvError, TrySendError};
use crate::sync::{AtomicBool, AtomicU32, Condvar, Mutex, Ordering, lock};
use crate::transport::Owner;

#[cfg(all(test, loom))]
mod models;

/// What the two sides share.
#[derive(Debug)]
pub(crate) struct Exchange<A: MustAnswer> {
    state: Mutex<State<A>>,
    /// Wakes who waits for answers without the descriptor.
    answered: Condvar,
    records_bell: Chime,
    answers_bell: Chime,
    depth: usize,
    slot_bits: u32,
    /// The format can say CANCELLED.
    headed: bool,
}

/// A doorbell and its word.
#[derive(Debug)]
struct Chime {
    armed: AtomicU32,
    bell: Bell,
    /// There is something to take out, or the other side is gone: for who spins, without the lock. It is
    /// written under the lock, which orders what it stands for.
    work: AtomicBool,
}

impl Chime {
    fn new() -> Result<Self, Error> {
        Ok(Self { armed: AtomicU32::new(ARMED), bell: Bell::new()?, work: AtomicBool::new(false) })
    }

    fn ring(&self) {
        ring(&self.armed, &self.bell);
    }

    /// Under the lock: says whether there is work.
    fn set_work(&self, work: bool) {
        // Relaxed: a hint; who finds it set takes the lock.
        self.work.store(work, Ordering::Relaxed);
    }

    /// Looks for work until `until`.
    fn spin(&self, until: Instant) -> bool {
        while Instant::now() < until {
            for _ in 0..64 {
                // Relaxed: as above.
                if self.work.load(Ordering::Relaxed) {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Consumer: wants no tokens, for it looks by itself.
    fn stay_awake(&self, waiter: &mut Waiter) {
        waiter.enter(&self.armed);
        waiter.stay_awake(&self.armed);
    }

    /// Consumer, behind each look: the descriptor is readable if there is `more`, or if `has_work` finds
    /// that something has come; else it is not, and true is returned.
    fn rest(&self, waiter: &mut Waiter, more: bool, has_work: impl FnOnce() -> bool) -> bool {
        if !more && waiter.try_sleep(&self.armed, &self.bell, has_work) {
            return true;
        }
        waiter.keep_readable(&self.bell);
        false
    }
}

#[derive(Debug)]
struct State<A: MustAnswer> {
    /// Records not read yet, at most as many as there are slots.
    unread: VecDeque<A>,
    /// For each slot, what the responder holds.
    held: Box<[Held]>,
    /// Answers not taken in yet: at most one for each slot.
    answers: VecDeque<A::Answer>,
    /// Cancelled groups that the responder has not asked for yet.
    untold: usize,
    reporter_gone: bool,
    responder_gone: bool,
    /// Threads in [`Exchange::wait_answers`].
    waiting: u32,
}

/// A cookie that the responder has received and not answered; 0 for none.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    cookie: u32,
    /// The reporter has completed the group without its answer.
    cancelled: bool,
    /// The responder is to be told of that, and has not been.
    untold: bool,
}

impl<A: MustAnswer> Exchange<A> {
    /// Makes the two sides of a channel of `depth` groups.
    pub(crate) fn pair(depth: u32, headed: bool) -> Result<(LocalReporter<A>, LocalReader<A>), Error> {
        let slots = depth as usize;
        let state = State {
            unread: VecDeque::with_capacity(slots),
            held: vec![Held::default(); slots].into_boxed_slice(),
            answers: VecDeque::with_capacity(slots),
            untold: 0,
            reporter_gone: false,
            responder_gone: false,
            waiting: 0,
        };
        let exchange = Arc::new(Self {
            state: Mutex::new(state),
            answered: Condvar::new(),
            records_bell: Chime::new()?,
            answers_bell: Chime::new()?,
            depth: slots,
            slot_bits: slot_bits(depth),
            headed,
        });
        let reporter =
            LocalReporter { exchange: exchange.clone(), waiter: Waiter::new(), owner: Owner::this_process() };
        let responder = Arc::new(LocalResponder { exchange, owner: Owner::this_process() });
        Ok((reporter, LocalReader { responder, waiter: Waiter::new() }))
    }

    /// Waits until there are answers to take in, the responder is gone, or it is `until`.
    pub(crate) fn wait_answers(&self, until: Option<Instant>) {
        let mut state = lock(&self.state);
        state.waiting += 1;
        while state.answers.is_empty() && !state.responder_gone {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.answered.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.answered.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.waiting -= 1;
    }

    /// Looks for answers until `until`.
    pub(crate) fn spin(&self, until: Instant) -> bool {
        self.answers_bell.spin(until)
    }

    /// Whether the responder is gone.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).responder_gone
    }

    /// Whether a read would bring something, or the end.
    fn has_unread(&self) -> bool {
        let state = lock(&self.state);
        !state.unread.is_empty() || state.reporter_gone
    }

    /// Whether there are answers to take in, or their end.
    fn has_answers(&self) -> bool {
        let state = lock(&self.state);
        !state.answers.is_empty() || state.responder_gone
    }

    fn slot_of(&self, cookie: u32) -> usize {
        slot_of(cookie, self.slot_bits) as usize
    }
}

impl<A: MustAnswer> AsFd for Exchange<A> {
    /// The descriptor that the reporter polls.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answers_bell.bell.as_fd()
    }
}

/// The reporter's end.
#[derive(Debug)]
pub(crate) struct LocalReporter<A: MustAnswer> {
    exchange: Arc<Exchange<A>>,
    waiter: Waiter,
    owner: Owner,
}

impl<A: MustAnswer> LocalReporter<A> {
    pub(crate) fn exchange(&self) -> &Arc<Exchange<A>> {
        &self.exchange
    }

    /// The most records that are sent together.
    pub(crate) fn most(&self) -> usize {
        self.exchange.depth.min(WRITE_MAX / size_of::<A>())
    }

    /// Sends the records of whole groups, as many groups as fit; returns how many records.
    pub(crate) fn send(&self, records: &[A]) -> Result<usize, TrySendError<()>> {
        let mut state = lock(&self.exchange.state);
        if state.responder_gone {
            return Err(TrySendError::Closed(()));
        }
        let room = records.len().min(self.exchange.depth - state.unread.len());
        let Some(last) = records[..room].iter().rposition(A::is_last) else {
            return Err(TrySendError::Full(()));
        };
        let count = last + 1;
        state.unread.extend(&records[..count]);
        self.exchange.records_bell.set_work(true);
        drop(state);
        self.exchange.records_bell.ring();
        Ok(count)
    }

    /// Takes back a group that is to complete without its answer.
    pub(crate) fn withdraw(&self, cookie: u32) -> Withdrawn {
        let state = &mut *lock(&self.exchange.state);
        let held = &mut state.held[self.exchange.slot_of(cookie)];
        if held.cookie == cookie {
            held.cancelled = true;
            return Withdrawn::Held;
        }
        let unread = state.unread.len();
        state.unread.retain(|record| record.cookie() != cookie);
        if state.unread.len() < unread { Withdrawn::Unread } else { Withdrawn::Answered }
    }

    /// Has the responder told that the group, which it holds, was withdrawn; if the format can say so.
    pub(crate) fn tell_cancelled(&self, cookie: u32) {
        if !self.exchange.headed {
            return;
        }
        let state = &mut *lock(&self.exchange.state);
        let held = &mut state.held[self.exchange.slot_of(cookie)];
        if held.cookie == cookie && !held.untold {
            held.untold = true;
            state.untold += 1;
            self.exchange.records_bell.ring();
        }
    }

    /// Takes in the answers.
    pub(crate) fn recv(&mut self, sink: impl FnMut(&A::Answer)) -> Result<(), TryRecvError> {
        self.waiter.enter(&self.exchange.answers_bell.armed);
        let state = &mut *lock(&self.exchange.state);
        if state.answers.is_empty() {
            return Err(if state.responder_gone { TryRecvError::Closed } else { TryRecvError::Empty });
        }
        state.answers.iter().for_each(sink);
        state.answers.clear();
        self.exchange.answers_bell.set_work(state.responder_gone);
        Ok(())
    }

    /// Behind each look: the descriptor is readable while there are completions (`more`) or answers; else
    /// it is not, and true is returned.
    pub(crate) fn rest(&mut self, more: bool) -> bool {
        let exchange = &*self.exchange;
        let chime = &exchange.answers_bell;
        let asleep = chime.rest(&mut self.waiter, more, || exchange.has_answers());
        if more {
            // Completions that no answer brought wake whoever sleeps.
            chime.ring();
        }
        asleep
    }

    /// Wants no tokens, for [`Exchange::spin`] looks for answers until the next [`rest`](Self::rest).
    pub(crate) fn stay_awake(&mut self) {
        self.exchange.answers_bell.stay_awake(&mut self.waiter);
    }
}

impl<A: MustAnswer> Drop for LocalReporter<A> {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            let mut state = lock(&self.exchange.state);
            state.reporter_gone = true;
            self.exchange.records_bell.set_work(true);
            drop(state);
            // Nobody owns this token, so it stays: closed is readable for ever.
            self.exchange.records_bell.bell.put();
        }
    }
}

/// What answers: the responder's end and its open groups share it. The last one dropped, nobody answers
/// any more.
#[derive(Debug)]
pub(crate) struct LocalResponder<A: MustAnswer> {
    exchange: Arc<Exchange<A>>,
    owner: Owner,
}

impl<A: MustAnswer> LocalResponder<A> {
    /// Applies answers in order, up to the first bad one; returns how many.
    pub(crate) fn respond_batch(&self, batch: &[A::Answer]) -> Result<usize, AnswerError> {
        let mut guard = lock(&self.exchange.state);
        let state = &mut *guard;
        if state.reporter_gone {
            return Err(AnswerError::Closed);
        }
        let (mut count, mut outcome) = (0, Ok(0));
        for answer in batch {
            let (cookie, verdict) = A::verdict(answer);
            if verdict.is_none() {
                outcome = Err(AnswerError::Code);
                break;
            }
            let held = state.held.get_mut(self.exchange.slot_of(cookie));
            let Some(held) = held.filter(|held| cookie != 0 && held.cookie == cookie) else {
                outcome = Err(AnswerError::Stale);
                break;
            };
            let Held { cancelled, untold, .. } = std::mem::take(held);
            state.untold -= usize::from(untold);
            // The late answer, too, for it frees the group's slot.
            state.answers.push_back(*answer);
            if cancelled {
                outcome = Err(AnswerError::Stale);
                break;
            }
            count += 1;
        }
        let waiting = state.waiting > 0;
        let any = !state.answers.is_empty();
        self.exchange.answers_bell.set_work(any);
        drop(guard);
        if any {
            self.exchange.answers_bell.ring();
            if waiting {
                self.exchange.answered.notify_all();
            }
        }
        if count > 0 { Ok(count) } else { outcome }
    }

    /// Gives the group its negative answer.
    pub(crate) fn give_up(&self, cookie: u32) {
        if self.owner.is_this_process() {
            let _ = self.respond_batch(&[A::answer(cookie, A::NEGATIVE)]);
        }
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        let held = lock(&self.exchange.state).held[self.exchange.slot_of(cookie)];
        self.exchange.headed && held.cookie == cookie && held.cancelled
    }

    /// The cookie of an open group that the reporter has completed; each is told once.
    pub(crate) fn next_cancelled(&self) -> Option<u32> {
        let state = &mut *lock(&self.exchange.state);
        if state.untold == 0 {
            return None;
        }
        let held = state.held.iter_mut().find(|held| held.untold)?;
        held.untold = false;
        state.untold -= 1;
        Some(held.cookie)
    }

    pub(crate) fn open_cookies(&self) -> Vec<u32> {
        let state = lock(&self.exchange.state);
        state.held.iter().map(|held| held.cookie).filter(|cookie| *cookie != 0).collect()
    }
}

impl<A: MustAnswer> AsFd for LocalResponder<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exchange.records_bell.bell.as_fd()
    }
}

impl<A: MustAnswer> Drop for LocalResponder<A> {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            let mut state = lock(&self.exchange.state);
            state.responder_gone = true;
            self.exchange.answers_bell.set_work(true);
            drop(state);
            self.exchange.answered.notify_all();
            // Nobody owns this token, so it stays: closed is readable for ever.
            self.exchange.answers_bell.bell.put();
        }
    }
}

/// The responder's end.
#[derive(Debug)]
pub(crate) struct LocalReader<A: MustAnswer> {
    pub(crate) responder: Arc<LocalResponder<A>>,
    waiter: Waiter,
}

impl<A: MustAnswer> LocalReader<A> {
    /// Takes at most `most` groups, which go to `pages`, one behind the other; `sink` is told of each:
    /// its cookie and its place.
    pub(crate) fn read(
        &mut self,
        pages: &mut [A],
        most: usize,
        mut sink: impl FnMut(u32, Range<usize>),
    ) -> Result<(), TryRecvError> {
        let exchange = &*self.responder.exchange;
        self.waiter.enter(&exchange.records_bell.armed);
        let mut guard = lock(&exchange.state);
        let state = &mut *guard;
        let (mut count, mut filled) = (0, 0);
        while count < most {
            let Some(last) = state.unread.iter().position(A::is_last) else { break };
            let place = filled..filled + last + 1;
            if place.end > pages.len() {
                break;
            }
            for (page, record) in pages[place.clone()].iter_mut().zip(state.unread.drain(..=last)) {
                *page = record;
            }
            let cookie = pages[filled].cookie();
            state.held[exchange.slot_of(cookie)] = Held { cookie, ..Held::default() };
            filled = place.end;
            count += 1;
            sink(cookie, place);
        }
        let left = state.unread.iter().position(A::is_last);
        let gone = state.reporter_gone;
        exchange.records_bell.set_work(gone || left.is_some());
        drop(guard);
        exchange.records_bell.rest(&mut self.waiter, gone || left.is_some(), || exchange.has_unread());
        match (count, left) {
            _ if count > 0 || most == 0 => Ok(()),
            (_, Some(last)) => Err(TryRecvError::BufferTooSmall { needed: last + 1 }),
            _ if gone => Err(TryRecvError::Closed),
            _ => Err(TryRecvError::Empty),
        }
    }

    /// Looks for groups until `until`; true when there are some.
    pub(crate) fn spin(&mut self, until: Instant) -> bool {
        let exchange = &*self.responder.exchange;
        let chime = &exchange.records_bell;
        chime.stay_awake(&mut self.waiter);
        chime.spin(until) || !chime.rest(&mut self.waiter, false, || exchange.has_unread())
    }
}
