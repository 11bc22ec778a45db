//! Between processes that both link this library: rings in shared memory, and a socket that is the descriptor to
//! poll, the doorbell and the hang-up.
//!
//! No system call is made while both sides are busy. The peer is not trusted: see `ring.rs` for the indices and
//! slots, `shared/layout.rs` and `shared/attach.rs` for the memory, `shared/port.rs` for what goes over the socket.

mod attach;
mod drain;
mod layout;
#[cfg(all(test, loom))]
mod models;
mod order;
mod port;
#[cfg(all(test, not(loom)))]
mod stress;
mod watch;

pub(crate) use attach::{Made, attach, make};
pub(crate) use port::Port;
pub(crate) use watch::Watch;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recordfd_uapi::{Record, Sequence, WRITE_MAX};

use super::{LOSS, Taken};
use crate::doorbell::Waiter;
use crate::error::{Error, TryRecvError, TrySendError, Violation};
use crate::ring::{Consumer, Producer, Storage};
use crate::sync::Ordering;
use crate::wait::spin;
use port::{Direction, SocketTokens};

/// How often a sender that finds no room asks whether the consumer is still there: each time it has found none
/// this often.
const ASK_EVERY: u32 = 64;
/// After so many receives in a row that brought nothing, the socket is looked at each [`ASK_EVERY`] times only.
const ASK_FIRST: u32 = 8;
/// How long a receive that looks by itself goes without asking whether the peer is still there.
const ASK_AFTER: Duration = Duration::from_millis(1);

/// The producing end.
#[derive(Debug)]
pub(crate) struct Tx<T> {
    port: Arc<Port>,
    ring: Producer<Direction, T>,
    /// `TAIL_LOSS` is set.
    announced: bool,
    /// Sends that found no room.
    full: u32,
}

impl<T: Record> Tx<T> {
    pub(crate) fn new(port: Arc<Port>) -> Self {
        let ring = Producer::new(port.produced.clone());
        Self { port, ring, announced: false, full: 0 }
    }

    #[inline]
    pub(crate) fn send(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<usize, TrySendError<()>> {
        if count == 0 {
            // Nothing follows that could tell an announced loss: the announcement must stay.
            return Ok(0);
        }
        let room = self.room(count)?;
        let accepted = count.min(room);
        if accepted == 0 {
            return Err(self.no_room());
        }
        if self.announced {
            // The next record's number tells the loss. Relaxed: the release of the record orders it.
            self.port.produced.tail_loss().store(0, Ordering::Relaxed);
            self.announced = false;
        }
        for index in 0..accepted {
            self.ring.put(index as u32, &item(index));
        }
        // Before the record is published: who sees that the peer has read it sees this index, too. Relaxed: the release
        // of the record orders it.
        self.port.produced_tail.store(self.ring.tail().wrapping_add(accepted as u32), Ordering::Relaxed);
        self.ring.publish(accepted as u32);
        self.port.ring();
        Ok(accepted)
    }

    /// Sends `count` items that are published together: all of them are accepted, or none.
    pub(crate) fn send_whole(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<(), TrySendError<()>> {
        if self.room(count)? < count {
            return Err(self.no_room());
        }
        self.send(count, item).map(|_| ())
    }

    /// The most items that [`send_whole`](Self::send_whole) takes.
    pub(crate) fn most_whole(&self) -> usize {
        self.capacity().min(WRITE_MAX / T::SIZE)
    }

    /// How many items there is room for, if fewer than `wanted`.
    #[inline]
    pub(crate) fn room(&mut self, wanted: usize) -> Result<usize, TrySendError<()>> {
        if self.port.is_peer_gone() || self.port.violation().is_some() {
            return Err(TrySendError::Closed(()));
        }
        match self.ring.room(wanted.min(self.capacity()) as u32) {
            Ok(room) => Ok(room as usize),
            Err(violation) => {
                // Who receives on this end is told what it was.
                self.port.note_violation(violation);
                Err(TrySendError::Closed(()))
            }
        }
    }

    /// Tells the consumer, in order, that records up to `sequence` were lost.
    pub(crate) fn announce_loss(&mut self, sequence: Sequence) {
        // Release pairs with the load in `Rx::recv`: what was accepted before is seen before.
        self.port.produced.tail_loss().store(LOSS | sequence.get(), Ordering::Release);
        self.announced = true;
        self.port.ring();
    }

    /// Puts in the tokens that the kernel had no memory for.
    pub(crate) fn finish(&mut self) {
        self.port.put_owed_tokens();
    }

    /// From now on leaves the fences to a consumer that says it makes them for both.
    pub(crate) fn leave_fences(&mut self) -> Result<(), Error> {
        self.port.leave_fences()
    }

    /// See [`Port::ring_again`].
    pub(crate) fn ring_again(&self) {
        self.port.ring_again();
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.port.clone())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.ring.depth() as usize
    }

    pub(crate) fn wake_ups(&self) -> u64 {
        self.port.wake_ups()
    }

    /// See [`Port::release`].
    pub(crate) fn release(&mut self) {
        self.port.release();
    }

    #[cold]
    fn no_room(&mut self) -> TrySendError<()> {
        self.full = self.full.wrapping_add(1);
        self.finish();
        if self.full % ASK_EVERY == 0 && self.port.has_hung_up() {
            return TrySendError::Closed(());
        }
        TrySendError::Full(())
    }
}

/// Whether a receive that brings nothing has to ask whether the peer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    /// As often as seems good.
    No,
    /// The caller sleeps behind it, which a hang-up ends.
    Follows,
    /// What has ended a sleep has to be found.
    Ended,
}

/// The consuming end.
#[derive(Debug)]
pub(crate) struct Rx<T> {
    port: Arc<Port>,
    ring: Consumer<Direction, T>,
    waiter: Waiter,
    /// The announcement of a tail loss that was delivered last, and no record since.
    seen_loss: u32,
    /// Receives in a row that brought nothing and owned no token.
    idle: u32,
    sleep: Sleep,
    /// A receive that brings something leaves a token in, and producers in peace.
    parks: bool,
    /// This end fences for both sides.
    fences: bool,
    /// The end was told: nothing comes behind it, whatever the peer goes on to do.
    ended: bool,
}

impl<T: Record> Rx<T> {
    pub(crate) fn new(port: Arc<Port>) -> Self {
        let ring = Consumer::new(port.consumed.clone());
        Self {
            port,
            ring,
            waiter: Waiter::new(),
            seen_loss: 0,
            idle: 0,
            sleep: Sleep::No,
            parks: false,
            fences: false,
            ended: false,
        }
    }

    #[inline]
    pub(crate) fn recv(
        &mut self,
        most: usize,
        taken: &mut Taken,
        sink: &mut impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        if most == 0 {
            return Ok(());
        }
        if self.ended {
            return Err(TryRecvError::Closed);
        }
        self.enter();
        let outcome = if self.ring.known() as usize >= most {
            self.take_known(most, taken, sink)
        } else {
            self.take(most, taken, sink)
        };
        self.port.consumed_head.store(self.ring.head(), Ordering::Relaxed);
        // Only an error is looked at and moved: it is large beside a record.
        let Err(error) = outcome else { return Ok(()) };
        if let TryRecvError::PeerViolation(violation) = error {
            self.port.note_violation(violation);
        }
        Err(error)
    }

    /// The next item, as `take` takes it, if it is known of and another one is: nothing else has to be looked at
    /// then. And how many are there.
    #[inline(always)]
    pub(crate) fn recv_known<U>(&mut self, take: impl FnOnce(&T) -> Option<U>) -> Option<(U, usize)> {
        let found = self.ring.known() as usize;
        if found < 2 || self.ended {
            return None;
        }
        self.enter();
        let item = take(&self.ring.get(0).ok()?)?;
        self.ring.release(1);
        self.port.consumed_head.store(self.ring.head(), Ordering::Relaxed);
        (self.idle, self.seen_loss) = (0, 0);
        Some((item, found))
    }

    /// With as many known of as are wanted nothing else matters, and the line that the producer writes with each
    /// record is left alone.
    #[inline]
    fn take_known(
        &mut self,
        most: usize,
        taken: &mut Taken,
        sink: &mut impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        self.idle = 0;
        self.copy_out(most, taken, sink)?;
        if self.ring.known() == 0 { self.leave_empty() } else { Ok(()) }
    }

    fn take(
        &mut self,
        most: usize,
        taken: &mut Taken,
        sink: &mut impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        for _ in 0..4 {
            // Both before the ring is looked at: only with the ring found empty after them do they say what comes
            // next. Acquire pairs with the store in `Tx::announce_loss`.
            let gone = self.port.is_peer_gone();
            let mut loss = self.port.consumed.tail_loss().load(Ordering::Acquire);
            self.ring.look().map_err(TryRecvError::PeerViolation)?;
            self.copy_out(most, taken, sink)?;
            if (1..most).contains(&taken.count) && is_news(loss, self.seen_loss) {
                // One of these records may have come after the loss, and have told of it: once more, with the ring
                // found empty behind it.
                loss = self.port.consumed.tail_loss().load(Ordering::Acquire);
                self.ring.look().map_err(TryRecvError::PeerViolation)?;
            }
            if self.ring.known() > 0 {
                self.idle = 0;
                return Ok(());
            }
            // A tail loss ends the batch: what was accepted since then has numbers behind it.
            if taken.count < most && is_news(loss, self.seen_loss) {
                self.seen_loss = loss;
                taken.tail_loss = Some(Sequence::wrapping(loss));
            }
            if taken.items() > 0 {
                self.idle = 0;
                return self.leave_empty();
            }
            if let Some(violation) = self.port.violation() {
                return Err(TryRecvError::PeerViolation(violation));
            }
            if gone {
                self.port.note_gone();
                self.ended = true;
                return Err(TryRecvError::Closed);
            }
            if self.fall_asleep()? && !self.has_news()? {
                return Err(TryRecvError::Empty);
            }
        }
        // An honest peer takes nothing back: what made this look again would have been found.
        Err(TryRecvError::PeerViolation(Violation::RingIndex))
    }

    /// Copies records out, up to `most` items in all.
    #[inline]
    fn copy_out(
        &mut self,
        most: usize,
        taken: &mut Taken,
        sink: &mut impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        let count = (self.ring.known() as usize).min(most - taken.items()) as u32;
        if count == 0 {
            return Ok(());
        }
        let (mut good, mut outcome) = (0, Ok(()));
        while good < count {
            outcome = self.ring.get(good).map_err(Violation::from).and_then(|item| sink(&item));
            if outcome.is_err() {
                break;
            }
            good += 1;
        }
        if good > 0 {
            self.seen_loss = 0;
            taken.count += good as usize;
            self.ring.release(good);
        }
        taken.found = taken.count + self.ring.known() as usize;
        outcome.map_err(TryRecvError::PeerViolation)
    }

    /// Behind a receive that brought something and left the ring empty, as far as it knows.
    fn leave_empty(&mut self) -> Result<(), TryRecvError> {
        self.sleep = Sleep::No;
        // A look spares the arming if there is more. Unless the bell is armed, a token is there or on its way, and
        // may be left there: the producer then puts none in.
        if !self.has_work() && !self.parks {
            self.fall_asleep()?;
        }
        if self.ring.known() == 0 && drain::tell(&self.port.consumed) {
            self.port.put_token();
        }
        Ok(())
    }

    /// Looks at the socket, now and then, when nothing woke this side; true when that tells of something to
    /// receive, or of the end.
    fn has_news(&mut self) -> Result<bool, TryRecvError> {
        if self.port.is_peer_gone() {
            return Ok(true);
        }
        if !self.waiter.owns_none() {
            return Ok(false);
        }
        let asks = match std::mem::replace(&mut self.sleep, Sleep::No) {
            Sleep::No => self.idle < ASK_FIRST || self.idle % ASK_EVERY == 0,
            Sleep::Follows => false,
            Sleep::Ended => true,
        };
        self.idle = self.idle.wrapping_add(1);
        if !asks {
            return Ok(false);
        }
        let (is_readable, is_drain_token) = self.port.drain.peek(&self.port);
        if is_readable {
            // A token is put in after its claim, or after the word of the end, which is seen now; a byte without
            // either is none.
            self.enter();
            if self.port.is_peer_gone() {
                return Ok(true);
            }
            if self.waiter.owns_none() && !is_drain_token {
                return Err(TryRecvError::PeerViolation(Violation::StrayToken));
            }
        }
        Ok(self.has_work())
    }

    /// Looks for something to receive until `until`; false when there was nothing.
    pub(crate) fn look(&mut self, until: Instant) -> bool {
        let mut now = Instant::now();
        while now < until {
            if spin(until.min(now + ASK_AFTER), || self.has_work()) || self.port.has_hung_up() {
                return true;
            }
            now = Instant::now();
        }
        false
    }

    /// Whether a receive would bring something other than `Empty`, as far as the memory tells.
    #[inline]
    pub(crate) fn has_work(&mut self) -> bool {
        self.ring.known() > 0 || has_work(&self.port, &mut self.ring, self.seen_loss)
    }

    /// Whether a receive that brings something leaves a token in the descriptor.
    pub(crate) fn set_parks(&mut self, parks: bool) {
        self.parks = parks;
    }

    /// Notes that a sleep follows a receive that brings nothing.
    pub(crate) fn expect_sleep(&mut self) {
        self.port.ring_again();
        if self.sleep == Sleep::No {
            self.sleep = Sleep::Follows;
        }
    }

    /// Notes that this side has slept.
    pub(crate) fn note_sleep(&mut self) {
        self.sleep = Sleep::Ended;
    }

    /// Takes out the tokens that are this side's if there is nothing to receive.
    pub(crate) fn settle(&mut self) {
        self.enter();
        if !self.has_work() {
            // What goes wrong is found again by the next receive.
            let _ = self.fall_asleep();
        }
    }

    /// From now on fences for both sides, so that a producer of a registered process need not.
    pub(crate) fn fence_for_both(&mut self) {
        self.fences = true;
        self.port.fence_for_both();
    }

    pub(crate) fn most(&self) -> usize {
        self.port.consumed.words().len() * size_of::<usize>() / T::SIZE
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.port.clone())
    }

    pub(crate) fn wake_ups(&self) -> u64 {
        self.waiter.claims
    }

    /// See [`Port::release`].
    pub(crate) fn release(&mut self) {
        self.port.release();
    }

    #[inline]
    fn enter(&mut self) {
        self.waiter.enter(self.port.consumed.armed());
        self.waiter.note_tokens(self.port.drain.take_tokens(&self.port.produced));
    }

    /// Arms the bell and takes out the tokens, unless there is work. True: the descriptor is unreadable.
    fn fall_asleep(&mut self) -> Result<bool, TryRecvError> {
        // What this side waits for may be the answer to something that the peer sleeps on.
        self.port.ring_again();
        let tokens = SocketTokens::new(&self.port, self.fences);
        let (port, ring, seen_loss) = (&self.port, &mut self.ring, self.seen_loss);
        let asleep =
            self.waiter.try_sleep(port.consumed.armed(), &tokens, || has_work(port, ring, seen_loss));
        tokens.failure().map_or(Ok(asleep), |error| Err(TryRecvError::Io(error)))
    }
}

/// Whether there is something to receive; an index that is a lie is found by the receive.
#[inline]
fn has_work<T: Record>(port: &Port, ring: &mut Consumer<Direction, T>, seen_loss: u32) -> bool {
    // Acquire pairs with the store in `Tx::announce_loss`.
    ring.look() != Ok(0)
        || is_news(port.consumed.tail_loss().load(Ordering::Acquire), seen_loss)
        || port.is_peer_gone()
        || port.violation().is_some()
}

/// Whether `loss` announces a loss that was not delivered yet. The word is the peer's.
#[inline]
fn is_news(loss: u32, seen_loss: u32) -> bool {
    loss & LOSS != 0 && loss != seen_loss
}

impl<T> AsFd for Rx<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}
