//! What carries a must-answer channel between threads: one lock around what is unread, who holds which
//! cookie, and the answers.
//!
//! An answer is applied when the call that gives it returns: from then on nothing else can complete its
//! group. A group that is unread when it is withdrawn is never received. The ledger is the reporter's
//! alone, so that the lock is held for little more than copying records and answers. It is not held while memory of
//! the caller is read or written, which may be a page whose fault waits.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use recordfd_uapi::WRITE_MAX;

use super::ledger::{slot_bits, slot_of};
use super::link::whole_groups;
use super::{MustAnswer, Notice, Withdrawn};
use crate::bell::Bell;
use crate::doorbell::{ARMED, Tokens, Waiter, ring};
use crate::error::{Error, RespondError, TryRecvError, TrySendError};
use crate::sync::{AtomicBool, AtomicU32, Condvar, Mutex, MutexGuard, Ordering, lock, wait};
use crate::sys::{Owned, Release};
use crate::wait::spin;

#[cfg(all(test, loom))]
mod models;
mod reader;
#[cfg(all(test, loom))]
mod repeat_models;

pub(crate) use reader::LocalReader;

/// The most answers that are applied under one lock.
const ANSWERS: usize = 64;

/// What the two sides share.
#[derive(Debug)]
pub(crate) struct Exchange<A: MustAnswer> {
    state: Mutex<State<A>>,
    /// Wakes who waits without the descriptor.
    changed: Condvar,
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
        // Relaxed: as above.
        spin(until, || self.work.load(Ordering::Relaxed))
    }

    /// Consumer: wants no tokens, for it looks by itself.
    fn stay_awake(&self, waiter: &mut Waiter) {
        waiter.enter(&self.armed);
        waiter.stay_awake(&self.armed);
    }

    /// Consumer, behind each look: the descriptor is readable if there is `more`, or if `has_work` finds
    /// that something has come; else it is not, and true is returned.
    fn rest(&self, waiter: &mut Waiter, more: bool, has_work: impl FnOnce() -> bool) -> bool {
        // A claim since the last look, or a token of it would stay.
        waiter.enter(&self.armed);
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
    /// For each slot, its group until it is answered or taken back.
    places: Box<[Place]>,
    /// Answers not taken in yet: at most one for each slot.
    answers: VecDeque<A::Answer>,
    /// Slots of groups with a notice that the responder has not asked for yet, and some that it has answered
    /// since.
    untold: VecDeque<u32>,
    /// A notice has come since the responder read last.
    noticed: bool,
    reporter_gone: bool,
    responder_gone: bool,
    /// How often completions have come about.
    changes: u64,
    /// Threads in [`Exchange::wait_change`].
    waiting: u32,
}

/// A group on its way, or none: then its cookie is 0.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    cookie: u32,
    /// How many records it has.
    records: u32,
    stage: Stage,
    /// How often the reporter has sent it again.
    repeats: u32,
    /// The responder is to be told that it was cancelled, or sent again.
    untold: bool,
    /// Its slot is in the list of the untold; groups come and go meanwhile.
    listed: bool,
}

/// How far a group is.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// In the queue.
    #[default]
    Unread,
    /// The responder has it.
    Held,
    /// The responder has it, and the reporter has completed it without its answer.
    Cancelled,
}

impl<A: MustAnswer> State<A> {
    fn note_change(&mut self, changed: &Condvar) {
        self.changes += 1;
        if self.waiting > 0 {
            changed.notify_all();
        }
    }
}

impl Place {
    fn clear(&mut self) {
        *self = Self { listed: self.listed, ..Self::default() };
    }
}

impl<A: MustAnswer> Exchange<A> {
    /// Makes the two sides of a channel of `depth` groups.
    pub(crate) fn pair(depth: u32, headed: bool) -> Result<(LocalReporter<A>, LocalReader<A>), Error> {
        let slots = depth as usize;
        let state = State {
            unread: VecDeque::with_capacity(slots),
            places: vec![Place::default(); slots].into_boxed_slice(),
            answers: VecDeque::with_capacity(slots),
            untold: VecDeque::with_capacity(slots),
            noticed: false,
            reporter_gone: false,
            responder_gone: false,
            changes: 0,
            waiting: 0,
        };
        let exchange = Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            records_bell: Chime::new()?,
            answers_bell: Chime::new()?,
            depth: slots,
            slot_bits: slot_bits(depth),
            headed,
        });
        let reporter = LocalReporter { exchange: exchange.clone(), waiter: Waiter::new() };
        let responder = Arc::new(Owned::new(LocalResponder { exchange }));
        let most = reporter.most();
        Ok((reporter, LocalReader::new(responder, most)))
    }

    /// How often completions have come about, for [`wait_change`](Self::wait_change).
    pub(crate) fn changes(&self) -> u64 {
        lock(&self.state).changes
    }

    /// Waits until there are answers to take in, someone has taken some in or completed groups otherwise
    /// since `seen`, the responder is gone, or it is `until`.
    pub(crate) fn wait_change(&self, seen: u64, until: Option<Instant>) {
        let mut state = lock(&self.state);
        state.waiting += 1;
        while state.answers.is_empty()
            && state.changes == seen
            && !state.responder_gone
            && until.is_none_or(|until| Instant::now() < until)
        {
            state = wait(&self.changed, state, until);
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

    /// Whether a read would bring something, a notice has come, or the end.
    fn has_unread(&self) -> bool {
        let state = lock(&self.state);
        !state.unread.is_empty() || state.noticed || state.reporter_gone
    }

    /// Whether there are answers to take in, or their end.
    fn has_answers(&self) -> bool {
        let state = lock(&self.state);
        !state.answers.is_empty() || state.responder_gone
    }

    /// Takes the reporter's hint of work back, unless there is some.
    fn forget_work(&self) {
        let state = lock(&self.state);
        self.answers_bell.set_work(!state.answers.is_empty() || state.responder_gone);
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
        let count = whole_groups(&records[..room]);
        if count == 0 {
            return Err(TrySendError::Full(()));
        }
        let State { unread, places, .. } = &mut *state;
        let mut length = 0;
        for record in &records[..count] {
            unread.push_back(*record);
            length += 1;
            if record.is_last() {
                let cookie = record.cookie();
                let place = &mut places[self.exchange.slot_of(cookie)];
                (place.cookie, place.records) = (cookie, std::mem::take(&mut length));
            }
        }
        self.exchange.records_bell.set_work(true);
        drop(state);
        self.exchange.records_bell.ring();
        Ok(count)
    }

    /// Begins to take back groups that are to complete without their answer.
    pub(crate) fn withdrawal(&self) -> Withdrawal<'_, A> {
        let exchange = &*self.exchange;
        Withdrawal { state: lock(&exchange.state), exchange, unread: false }
    }

    /// Has the responder told that the group, which it holds, was withdrawn; if the format can say so.
    pub(crate) fn tell_cancelled(&self, cookie: u32) {
        if self.exchange.headed {
            self.tell(cookie, |place, _| {
                place.stage = Stage::Cancelled;
                true
            });
        }
    }

    /// Sends an open group's record again: an unread one becomes `record`, of one that the responder holds it is
    /// told.
    pub(crate) fn repeat(&self, record: &A) {
        self.tell(record.cookie(), |place, unread| {
            place.repeats = record.repeats();
            if let Stage::Unread = place.stage {
                if let Some(found) = unread.iter_mut().find(|found| found.cookie() == record.cookie()) {
                    *found = *record;
                }
            }
            matches!(place.stage, Stage::Held)
        });
    }

    /// Has the responder told of the group `cookie`, unless it has answered, if `note` says so.
    fn tell(&self, cookie: u32, note: impl FnOnce(&mut Place, &mut VecDeque<A>) -> bool) {
        let slot = self.exchange.slot_of(cookie);
        let mut guard = lock(&self.exchange.state);
        let State { places, unread, untold, noticed, .. } = &mut *guard;
        let place = &mut places[slot];
        if place.cookie == cookie && note(place, unread) {
            place.untold = true;
            if !std::mem::replace(&mut place.listed, true) {
                untold.push_back(slot as u32);
            }
            *noticed = true;
            self.exchange.records_bell.set_work(true);
            drop(guard);
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
        state.note_change(&self.exchange.changed);
        Ok(())
    }

    /// Tells who waits that groups have completed by other means than answers.
    pub(crate) fn note_completions(&self) {
        lock(&self.exchange.state).note_change(&self.exchange.changed);
    }

    /// Behind each look: the descriptor is readable while there are completions (`more`) or answers; else
    /// it is not, and true is returned.
    pub(crate) fn rest(&mut self, more: bool) -> bool {
        let exchange = &*self.exchange;
        let chime = &exchange.answers_bell;
        let mut closed = false;
        if more {
            // Completions that no answer brought wake whoever sleeps, or looks by itself.
            let state = lock(&exchange.state);
            closed = state.responder_gone;
            chime.set_work(true);
        }
        let asleep = chime.rest(&mut self.waiter, more, || exchange.has_answers());
        // The responder's end leaves a token in for good: another one would only be one more edge.
        if more && !closed {
            chime.ring();
        } else if asleep {
            exchange.forget_work();
        }
        asleep
    }

    /// Nothing more is reported.
    pub(crate) fn release(&mut self) {
        let mut state = lock(&self.exchange.state);
        state.reporter_gone = true;
        self.exchange.records_bell.set_work(true);
        drop(state);
        // Nobody owns this token, so it stays: closed is readable for ever.
        self.exchange.records_bell.bell.put();
    }

    /// Wants no tokens, for [`Exchange::spin`] looks for answers until the next [`rest`](Self::rest).
    pub(crate) fn stay_awake(&mut self) {
        self.exchange.answers_bell.stay_awake(&mut self.waiter);
    }
}

/// Groups being taken back, under one lock.
#[derive(Debug)]
pub(crate) struct Withdrawal<'a, A: MustAnswer> {
    state: MutexGuard<'a, State<A>>,
    exchange: &'a Exchange<A>,
    /// Some were unread: their records are to be taken out of the queue.
    unread: bool,
}

impl<A: MustAnswer> Withdrawal<'_, A> {
    pub(crate) fn take_back(&mut self, cookie: u32) -> Withdrawn {
        let place = &mut self.state.places[self.exchange.slot_of(cookie)];
        match place.stage {
            _ if place.cookie != cookie => Withdrawn::Answered,
            Stage::Unread => {
                place.clear();
                self.unread = true;
                Withdrawn::Unread
            }
            Stage::Held | Stage::Cancelled => {
                (place.stage, place.untold) = (Stage::Cancelled, false);
                Withdrawn::Held
            }
        }
    }
}

impl<A: MustAnswer> Drop for Withdrawal<'_, A> {
    fn drop(&mut self) {
        if self.unread {
            let State { unread, places, .. } = &mut *self.state;
            let is_kept =
                |record: &A| places[self.exchange.slot_of(record.cookie())].cookie == record.cookie();
            unread.retain(is_kept);
        }
    }
}

/// What answers: the responder's end and its open groups share it. The last one dropped, nobody answers
/// any more.
#[derive(Debug)]
pub(crate) struct LocalResponder<A: MustAnswer> {
    exchange: Arc<Exchange<A>>,
}

impl<A: MustAnswer> LocalResponder<A> {
    /// Applies answers in order, up to the first bad one; returns how many.
    ///
    /// They are read without the lock: the caller's memory may be a page whose fault waits.
    pub(crate) fn respond_batch(&self, batch: &[A::Answer]) -> Result<usize, RespondError<()>> {
        let Some(first) = batch.first() else { return self.apply(&[]) };
        let (mut copies, mut count) = ([*first; ANSWERS], 0);
        for answers in batch.chunks(ANSWERS) {
            copies[..answers.len()].copy_from_slice(answers);
            match self.apply(&copies[..answers.len()]) {
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
                Ok(applied) => count += applied,
            }
            if count % ANSWERS != 0 {
                break;
            }
        }
        Ok(count)
    }

    /// Applies answers as [`respond_batch`](Self::respond_batch), from memory that is there.
    pub(crate) fn apply(&self, answers: &[A::Answer]) -> Result<usize, RespondError<()>> {
        let mut guard = lock(&self.exchange.state);
        let state = &mut *guard;
        if state.reporter_gone {
            return Err(RespondError::Closed);
        }
        let (mut count, mut outcome) = (0, Ok(0));
        for answer in answers {
            let (cookie, verdict) = A::verdict(answer);
            if verdict.is_none() {
                outcome = Err(RespondError::Code);
                break;
            }
            let place = state.places.get_mut(self.exchange.slot_of(cookie));
            let stage = match place {
                Some(place) if cookie != 0 && place.cookie == cookie => place.stage,
                _ => Stage::Unread,
            };
            if !matches!(stage, Stage::Unread) {
                // The late answer, too, for it frees the group's slot.
                state.answers.push_back(*answer);
                state.places[self.exchange.slot_of(cookie)].clear();
            }
            if !matches!(stage, Stage::Held) {
                outcome = Err(RespondError::StaleCookie);
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
                self.exchange.changed.notify_all();
            }
        }
        if count > 0 { Ok(count) } else { outcome }
    }

    /// Gives the group its negative answer.
    pub(crate) fn give_up(&self, cookie: u32) {
        let _ = self.apply(&[A::answer(cookie, A::NEGATIVE)]);
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        let place = lock(&self.exchange.state).places[self.exchange.slot_of(cookie)];
        let is_cancelled = matches!(place.stage, Stage::Cancelled);
        self.exchange.headed && place.cookie == cookie && is_cancelled
    }

    /// The next notice and whose it is; each is told once, and of several to a group the last one.
    pub(crate) fn next_notice(&self) -> Option<(u32, Notice)> {
        let State { untold, places, .. } = &mut *lock(&self.exchange.state);
        while let Some(slot) = untold.pop_front() {
            let place = &mut places[slot as usize];
            place.listed = false;
            if std::mem::replace(&mut place.untold, false) {
                let cancelled = matches!(place.stage, Stage::Cancelled);
                let notice = if cancelled { Notice::Cancelled } else { Notice::Repeated(place.repeats) };
                return Some((place.cookie, notice));
            }
        }
        None
    }

    pub(crate) fn open_cookies(&self) -> Vec<u32> {
        let state = lock(&self.exchange.state);
        let held = state.places.iter().filter(|place| !matches!(place.stage, Stage::Unread));
        held.map(|place| place.cookie).collect()
    }
}

impl<A: MustAnswer> AsFd for LocalResponder<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exchange.records_bell.bell.as_fd()
    }
}

impl<A: MustAnswer> Release for LocalResponder<A> {
    fn release(&mut self) {
        let mut state = lock(&self.exchange.state);
        state.responder_gone = true;
        self.exchange.answers_bell.set_work(true);
        drop(state);
        self.exchange.changed.notify_all();
        // Nobody owns this token, so it stays: closed is readable for ever.
        self.exchange.answers_bell.bell.put();
    }
}
