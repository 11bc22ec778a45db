//! Which groups are open, what each came to, and who still owes an answer: the protocol itself.
//!
//! A group takes a slot. Its cookie is the slot's number and a generation, and never 0. The life of a
//! slot:
//!
//! | state | meaning | leaves it by |
//! |---|---|---|
//! | free | no group | [`open`](Ledger::open) |
//! | open | published, not answered | an answer, or a completion without one |
//! | done | completed, the completion not collected yet | [`take`](Ledger::take) |
//! | zombie | collected, but the responder still holds the cookie | its late answer, or hang-up |
//!
//! A done slot may be held, too: it then becomes a zombie when it is collected, a free one otherwise. So
//! a slot gets its next cookie only when nobody can answer the old one any more: the generation alone
//! would come round within seconds. (Linux hands out the lowest free cookie at once.)

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::devices::DeviceCounts;
use super::list::{Linked, Links, List};
use super::{Cause, Group, MustAnswer, PublishError};

/// How far a group had come that was to be taken back from the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// It was unread, and will never be read.
    #[cfg_attr(not(feature = "local"), allow(dead_code))]
    Unread,
    /// The responder has it, or will, and may still answer; it is to be told.
    Held,
    /// The same, but it finds out by itself when it answers.
    Kept,
    /// Its answer was applied, and is on the way here.
    #[cfg_attr(not(feature = "local"), allow(dead_code))]
    Answered,
}

/// What a group came to.
#[derive(Debug)]
pub(crate) struct Completion<A: MustAnswer> {
    pub(crate) cookie: u32,
    pub(crate) dev_id: u32,
    pub(crate) tag: A::Tag,
    pub(crate) verdict: A::Verdict,
    pub(crate) cause: Cause,
}

/// How groups have completed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LedgerCounters {
    pub(crate) answered: u64,
    pub(crate) detached: u64,
    pub(crate) hung_up: u64,
    pub(crate) deadline: u64,
    pub(crate) bad_answer: u64,
    pub(crate) dropped: u64,
    /// Answers to cookies that were not open any more, or never.
    pub(crate) late_answers: u64,
}

#[derive(Clone, Copy, Debug)]
enum State<V> {
    Free,
    Open,
    Done(V, Cause),
    Zombie,
}

#[derive(Debug)]
struct Slot<A: MustAnswer> {
    links: Links,
    state: State<A::Verdict>,
    /// Of the present group, or the last one.
    cookie: u32,
    dev_id: u32,
    tag: A::Tag,
    /// Records.
    count: u32,
    /// When it was published.
    since: Instant,
    /// The responder has the cookie, or will have it, and has not answered.
    held: bool,
    /// Completed while held, and the responder has not been told.
    untold: bool,
}

impl<A: MustAnswer> Linked for Slot<A> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
pub(crate) struct Ledger<A: MustAnswer> {
    slots: Box<[Slot<A>]>,
    free: List,
    /// In the order of publication, which with one time limit for all is that of their deadlines.
    open: List,
    /// In the order of completion.
    done: List,
    /// Bits of a cookie that name the slot.
    slot_bits: u32,
    devices: DeviceCounts,
    deadline: Option<Duration>,
    /// Slots whose group the responder is to be told of, and some that have been answered since. They are
    /// told before any slot is used again, so there are no more than slots.
    untold: VecDeque<u32>,
    /// Slots that are held and whose group is completed.
    late_pending: u32,
    counters: LedgerCounters,
}

impl<A: MustAnswer> Ledger<A> {
    /// A ledger for `depth` groups, from 1 to 2^20, of which one device may have
    /// `per_device` records. Groups
    /// not answered within `deadline` complete without an answer.
    pub(crate) fn new(depth: u32, per_device: u32, deadline: Option<Duration>) -> Self {
        let slot = |cookie| Slot {
            links: Links::LONE,
            state: State::Free,
            cookie,
            dev_id: 0,
            tag: A::Tag::default(),
            count: 0,
            since: Instant::now(),
            held: false,
            untold: false,
        };
        let mut slots: Box<[_]> = (0..depth).map(slot).collect();
        let mut free = List::new();
        (0..depth).for_each(|slot| free.push(&mut slots, slot));
        Self {
            slots,
            free,
            open: List::new(),
            done: List::new(),
            slot_bits: slot_bits(depth),
            devices: DeviceCounts::new(depth, per_device),
            deadline,
            untold: VecDeque::with_capacity(depth as usize),
            late_pending: 0,
            counters: LedgerCounters::default(),
        }
    }

    /// Opens a group of `count` records and returns its cookie.
    pub(crate) fn open(&mut self, group: &Group<A>, count: u32, now: Instant) -> Result<u32, PublishError> {
        let Group { dev_id, tag } = *group;
        let Some(index) = self.free.first() else { return Err(PublishError::Full) };
        if !self.devices.add(dev_id, count) {
            return Err(PublishError::DeviceFull);
        }
        self.free.remove(&mut self.slots, index);
        self.open.push(&mut self.slots, index);
        let slot = &mut self.slots[index as usize];
        slot.cookie = next_cookie(slot.cookie, self.slot_bits);
        (slot.state, slot.dev_id, slot.tag, slot.since) = (State::Open, dev_id, tag, now);
        (slot.count, slot.held, slot.untold) = (count, true, false);
        Ok(slot.cookie)
    }

    /// Takes back an [`open`](Self::open) that came to nothing: nobody has seen the cookie.
    pub(crate) fn undo(&mut self, cookie: u32) {
        if let Some(index) = self.find(cookie) {
            self.open.remove(&mut self.slots, index);
            self.set_free(index);
        }
    }

    /// Notes the answer to a group; false when it is open no more, or never was: the answer is late.
    pub(crate) fn answer(&mut self, cookie: u32, verdict: Option<A::Verdict>) -> bool {
        match verdict {
            Some(verdict) => self.settle(cookie, verdict, Cause::Answered),
            None => self.settle(cookie, A::NEGATIVE, Cause::BadAnswer),
        }
    }

    /// Notes that who held a group has dropped it; as [`answer`](Self::answer).
    pub(crate) fn give_up(&mut self, cookie: u32) -> bool {
        self.settle(cookie, A::NEGATIVE, Cause::Dropped)
    }

    fn settle(&mut self, cookie: u32, verdict: A::Verdict, cause: Cause) -> bool {
        let Some(index) = self.held_by(cookie) else {
            self.counters.late_answers += 1;
            return false;
        };
        let slot = &mut self.slots[index as usize];
        (slot.held, slot.untold) = (false, false);
        match slot.state {
            State::Open => {
                self.complete(index, verdict, cause);
                true
            }
            state => {
                self.late_pending -= 1;
                self.counters.late_answers += 1;
                if matches!(state, State::Zombie) {
                    self.set_free(index);
                }
                false
            }
        }
    }

    /// Completes every open group that `is_meant`, by its device and tag, without its answer, each after
    /// `withdraw` has taken it back. False: some have an answer that is to be taken in first.
    pub(crate) fn detach(
        &mut self,
        is_meant: impl Fn(u32, &A::Tag) -> bool,
        mut withdraw: impl FnMut(u32) -> Withdrawn,
    ) -> bool {
        let (mut all, mut at) = (true, self.open.first());
        while let Some(index) = at {
            at = self.open.next(&mut self.slots, index);
            let slot = &self.slots[index as usize];
            if is_meant(slot.dev_id, &slot.tag) {
                all &= self.cancel(index, Cause::Detached, &mut withdraw);
            }
        }
        all
    }

    /// Completes every open group whose time is up, as [`detach`](Self::detach) does those of a device.
    pub(crate) fn expire(&mut self, now: Instant, mut withdraw: impl FnMut(u32) -> Withdrawn) -> bool {
        while let Some(index) = self.open.first() {
            if self.next_deadline().is_none_or(|deadline| deadline > now) {
                return true;
            }
            if !self.cancel(index, Cause::Deadline, &mut withdraw) {
                return false;
            }
        }
        true
    }

    /// Completes every open group, for nobody will answer any more, and frees the zombies.
    pub(crate) fn hang_up(&mut self) {
        while let Some(index) = self.open.first() {
            self.complete(index, A::NEGATIVE, Cause::HungUp);
        }
        for index in 0..self.slots.len() as u32 {
            let slot = &mut self.slots[index as usize];
            (slot.held, slot.untold) = (false, false);
            if matches!(slot.state, State::Zombie) {
                self.set_free(index);
            }
        }
        self.late_pending = 0;
    }

    /// Takes the next completion out.
    pub(crate) fn take(&mut self) -> Option<Completion<A>> {
        let index = self.done.pop(&mut self.slots)?;
        let slot = &mut self.slots[index as usize];
        let State::Done(verdict, cause) = slot.state else { unreachable!("it is in the list of the done") };
        let completion =
            Completion { cookie: slot.cookie, dev_id: slot.dev_id, tag: slot.tag, verdict, cause };
        if slot.held {
            slot.state = State::Zombie;
        } else {
            self.set_free(index);
        }
        Some(completion)
    }

    /// Completions to take.
    pub(crate) fn waiting(&self) -> usize {
        self.done.len() as usize
    }

    /// A group that was completed while the responder held its cookie, which it is to be told of: its
    /// device and cookie. [`told`](Self::told) says that it was.
    pub(crate) fn untold(&mut self) -> Option<(u32, u32)> {
        while let Some(index) = self.untold.front() {
            let slot = &self.slots[*index as usize];
            if slot.untold {
                return Some((slot.dev_id, slot.cookie));
            }
            self.untold.pop_front();
        }
        None
    }

    /// Takes note that the responder was told of the group that [`untold`](Self::untold) named.
    pub(crate) fn told(&mut self) {
        if let Some(index) = self.untold.pop_front() {
            self.slots[index as usize].untold = false;
        }
    }

    /// Whether `dev_id` has a group that is not completed.
    pub(crate) fn has_open(&mut self, dev_id: u32) -> bool {
        // Most devices have none, and then no slot is looked at.
        self.devices.has(dev_id)
            && self.slots.iter().any(|slot| slot.dev_id == dev_id && matches!(slot.state, State::Open))
    }

    /// When the oldest open group's time is up.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.oldest()?.checked_add(self.deadline?)
    }

    /// When the oldest open group was published.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.open.first().map(|index| self.slots[index as usize].since)
    }

    /// Groups published and not completed.
    pub(crate) fn unanswered(&self) -> u32 {
        self.open.len()
    }

    /// Slots taken: open, completed and not collected, and zombies.
    pub(crate) fn in_flight(&self) -> u32 {
        self.slots.len() as u32 - self.free.len()
    }

    /// Slots of groups that were completed without their answer and may still get it: done and held, and zombies.
    pub(crate) fn late_pending(&self) -> u32 {
        self.late_pending
    }

    pub(crate) fn depth(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn counters(&self) -> LedgerCounters {
        self.counters
    }

    /// Whether a group is published and not completed.
    pub(crate) fn is_open(&self, cookie: u32) -> bool {
        self.find(cookie).is_some()
    }

    /// The slot of an open group.
    fn find(&self, cookie: u32) -> Option<u32> {
        self.slot_of(cookie).filter(|index| matches!(self.slots[*index as usize].state, State::Open))
    }

    /// The slot whose present cookie this is, if the responder holds it.
    fn held_by(&self, cookie: u32) -> Option<u32> {
        self.slot_of(cookie).filter(|index| self.slots[*index as usize].held)
    }

    fn slot_of(&self, cookie: u32) -> Option<u32> {
        let index = slot_of(cookie, self.slot_bits);
        let slot = self.slots.get(index as usize)?;
        (slot.cookie == cookie && !matches!(slot.state, State::Free)).then_some(index)
    }

    /// Completes an open group that gets no answer; false when it has one.
    fn cancel(&mut self, index: u32, cause: Cause, withdraw: impl FnOnce(u32) -> Withdrawn) -> bool {
        let slot = &mut self.slots[index as usize];
        match withdraw(slot.cookie) {
            Withdrawn::Answered => return false,
            Withdrawn::Unread => slot.held = false,
            Withdrawn::Kept => {}
            Withdrawn::Held => {
                slot.untold = true;
                self.untold.push_back(index);
            }
        }
        self.complete(index, A::NEGATIVE, cause);
        true
    }

    fn complete(&mut self, index: u32, verdict: A::Verdict, cause: Cause) {
        self.open.remove(&mut self.slots, index);
        self.done.push(&mut self.slots, index);
        let slot = &mut self.slots[index as usize];
        slot.state = State::Done(verdict, cause);
        self.late_pending += u32::from(slot.held);
        let counters = &mut self.counters;
        match cause {
            Cause::Answered => counters.answered += 1,
            Cause::Detached => counters.detached += 1,
            Cause::HungUp => counters.hung_up += 1,
            Cause::Deadline => counters.deadline += 1,
            Cause::BadAnswer => counters.bad_answer += 1,
            Cause::Dropped => counters.dropped += 1,
            // Of groups that were never opened.
            Cause::Unfinished | Cause::NoHandle => {}
        }
    }

    /// Frees a slot that is in no list.
    fn set_free(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Free;
        slot.held = false;
        let (dev_id, count) = (slot.dev_id, slot.count);
        self.free.push(&mut self.slots, index);
        self.devices.remove(dev_id, count);
    }
}

/// Bits of a cookie that name one of `depth` slots.
pub(crate) fn slot_bits(depth: u32) -> u32 {
    u32::BITS - (depth - 1).leading_zeros()
}

/// The next cookie of the slot that had `cookie`: the generation in the upper bits is never 0.
fn next_cookie(cookie: u32, slot_bits: u32) -> u32 {
    let one = 1 << slot_bits;
    match cookie.wrapping_add(one) {
        next if next < one => next + one,
        next => next,
    }
}

/// The slot that a cookie names.
pub(crate) fn slot_of(cookie: u32, slot_bits: u32) -> u32 {
    cookie & ((1 << slot_bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{FaultRequest, ResponseCode};
    use recordfd_uapi::PgFault;

    const ANSWER: Option<ResponseCode> = Some(ResponseCode::Success);

    fn ledger(depth: u32) -> Ledger<PgFault> {
        Ledger::new(depth, depth, Some(Duration::from_secs(1)))
    }

    fn open(ledger: &mut Ledger<PgFault>, dev_id: u32) -> u32 {
        ledger.open(&group(dev_id), 1, Instant::now()).unwrap()
    }

    fn group(dev_id: u32) -> Group<PgFault> {
        Group { dev_id, tag: FaultRequest::default().tag() }
    }

    #[test]
    fn cookie_is_never_zero_and_differs_until_the_generations_have_come_round() {
        for depth in [1, 2, 3, 64, 1 << 20] {
            let bits = slot_bits(depth);
            for slot in [0, depth / 2, depth - 1] {
                let last = u32::MAX << bits | slot;
                let first = next_cookie(slot, bits);
                assert_eq!(next_cookie(last, bits), first, "the generation 0 is left out");
                assert_eq!((slot_of(first, bits), slot_of(last, bits)), (slot, slot));
                assert_ne!((first, next_cookie(first, bits)), (0, first), "depth {depth}");
            }
        }
    }

    #[test]
    fn late_answer_is_recognised_when_the_generations_have_come_round() {
        let mut ledger = ledger(2);
        let held = open(&mut ledger, 1);
        assert!(ledger.detach(|dev_id, _| dev_id == 1, |_| Withdrawn::Held));
        assert_eq!(ledger.take().unwrap().cause, Cause::Detached);
        // The other slot goes round; that of the zombie is not handed out meanwhile.
        ledger.slots[slot_of(held, 1) as usize ^ 1].cookie |= !1;
        for _ in 0..1000 {
            let cookie = open(&mut ledger, 2);
            assert!(cookie != 0 && slot_of(cookie, 1) != slot_of(held, 1));
            assert!(ledger.open(&group(2), 1, Instant::now()).is_err(), "it counts");
            assert!(ledger.answer(cookie, ANSWER));
            assert_eq!(ledger.take().unwrap().cookie, cookie);
        }
        assert!(!ledger.answer(held, ANSWER), "late");
        assert_eq!((ledger.counters().late_answers, ledger.in_flight()), (1, 0));
        assert!(!ledger.answer(held, ANSWER), "it is nobody's any more");
        assert_eq!(ledger.counters().late_answers, 2);
    }

    #[test]
    fn late_answer_before_the_completion_was_collected_frees_the_slot_with_it() {
        let mut ledger = ledger(1);
        let cookie = open(&mut ledger, 1);
        ledger.detach(|dev_id, _| dev_id == 1, |_| Withdrawn::Held);
        assert!(!ledger.answer(cookie, ANSWER));
        assert_eq!(ledger.in_flight(), 1);
        let completion = ledger.take().unwrap();
        assert_eq!((completion.cause, completion.verdict), (Cause::Detached, ResponseCode::Invalid));
        assert_eq!((ledger.in_flight(), ledger.take().is_none()), (0, true));
    }

    #[test]
    fn hang_up_completes_what_is_open_and_frees_zombies() {
        let mut ledger = ledger(4);
        let [zombie, answered, _open] = [1, 2, 2].map(|dev_id| open(&mut ledger, dev_id));
        ledger.detach(|dev_id, _| dev_id == 1, |_| Withdrawn::Held);
        assert_eq!(ledger.take().unwrap().cookie, zombie);
        assert_eq!(ledger.untold(), Some((1, zombie)));
        assert!(ledger.answer(answered, None));
        ledger.hang_up();
        assert_eq!(ledger.untold(), None);
        let causes: Vec<_> = std::iter::from_fn(|| ledger.take()).map(|ended| ended.cause).collect();
        assert_eq!(causes, [Cause::BadAnswer, Cause::HungUp]);
        assert_eq!(ledger.in_flight(), 0);
    }

    #[test]
    fn groups_expire_in_the_order_in_which_they_were_opened() {
        let mut ledger = ledger(4);
        let first = open(&mut ledger, 1);
        let due = ledger.next_deadline().unwrap();
        let second = open(&mut ledger, 1);
        assert!(ledger.expire(due - Duration::from_nanos(1), |_| Withdrawn::Held));
        assert_eq!(ledger.waiting(), 0);
        assert!(!ledger.expire(due, |_| Withdrawn::Answered), "its answer is on the way");
        assert!(ledger.expire(due, |cookie| {
            assert_eq!(cookie, first);
            Withdrawn::Unread
        }));
        assert_eq!((ledger.take().unwrap().cookie, ledger.in_flight()), (first, 1));
        assert!(ledger.next_deadline().unwrap() > due && ledger.find(second).is_some());
    }
}
