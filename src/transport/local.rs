//! Between threads of one process: a queue of crossbeam, and an eventfd that is a doorbell only.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use recordfd_uapi::{Record, Sequence};

use super::gone::{Gone, Unread, is_drained};
use super::{LOSS, Taken};
use crate::bell::Bell;
use crate::doorbell::{ARMED, Tokens, Waiter, ring};
use crate::drain::DrainGate;
use crate::error::{DrainError, Error, TryRecvError, TrySendError, Violation};
use crate::sync::{AtomicU32, Ordering};
use crate::wait::spin;

#[cfg(all(test, loom))]
mod models;

/// A word in a cache line of its own (two, for processors that fetch lines in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// What the two ends of one direction share.
#[derive(Debug)]
struct Direction<T> {
    queue: ArrayQueue<T>,
    /// The doorbell's word.
    armed: Apart<AtomicU32>,
    /// `LOSS | sequence`: records up to that number were lost and none was accepted since. 0: none.
    /// Written by the producer only.
    tail_loss: AtomicU32,
    producer_gone: Gone,
    consumer_gone: Gone,
    emptied: DrainGate,
    bell: Bell,
}

/// Makes one direction with room for `depth` items.
pub(crate) fn direction<T: Record>(depth: u32) -> Result<(Tx<T>, Rx<T>), Error> {
    let shared = Arc::new(Direction {
        queue: ArrayQueue::new(depth as usize),
        armed: Apart(AtomicU32::new(ARMED)),
        tail_loss: AtomicU32::new(0),
        producer_gone: Gone::new(),
        consumer_gone: Gone::new(),
        emptied: DrainGate::new(),
        bell: Bell::new()?,
    });
    let tx = Tx { shared: shared.clone(), announced: false, wake_ups: 0 };
    let rx = Rx { shared, waiter: Waiter::new(), seen_loss: 0 };
    Ok((tx, rx))
}

/// The producing end.
#[derive(Debug)]
pub(crate) struct Tx<T> {
    shared: Arc<Direction<T>>,
    /// `tail_loss` is set.
    announced: bool,
    wake_ups: u64,
}

impl<T: Record> Tx<T> {
    pub(crate) fn send(
        &mut self,
        count: usize,
        item: impl Fn(usize) -> T,
    ) -> Result<usize, TrySendError<()>> {
        if count == 0 {
            // Nothing follows that could tell an announced loss: the announcement must stay.
            return Ok(0);
        }
        self.check_open()?;
        let queue = &self.shared.queue;
        if queue.is_full() {
            return Err(TrySendError::Full(()));
        }
        if self.announced {
            // The next record's number tells the loss. It will be accepted, for only this end fills the
            // queue. Relaxed: the queue's own release of the record orders it.
            self.shared.tail_loss.store(0, Ordering::Relaxed);
            self.announced = false;
        }
        let accepted = (0..count).take_while(|index| queue.push(item(*index)).is_ok()).count();
        self.ring();
        Ok(accepted)
    }

    /// Sends `item` in any case; returns whether the oldest one had to make room.
    pub(crate) fn send_displacing(&mut self, item: T) -> Result<bool, TrySendError<()>> {
        self.check_open()?;
        let displaced = self.shared.queue.force_push(item).is_some();
        self.ring();
        Ok(displaced)
    }

    /// Tells the consumer, in order, that records up to `sequence` were lost.
    pub(crate) fn announce_loss(&mut self, sequence: Sequence) {
        // Release pairs with the load in `Rx::recv`: what was accepted before is seen before.
        self.shared.tail_loss.store(LOSS | sequence.get(), Ordering::Release);
        self.announced = true;
        self.ring();
    }

    pub(crate) fn watch(&self) -> Watch<T> {
        Watch(self.shared.clone())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.shared.queue.capacity()
    }

    pub(crate) fn wake_ups(&self) -> u64 {
        self.wake_ups
    }

    /// Nothing more is sent.
    pub(crate) fn release(&mut self) {
        self.shared.producer_gone.set();
        // Nobody owns this token, so it stays: closed is readable for ever.
        self.shared.bell.put();
    }

    fn check_open(&self) -> Result<(), TrySendError<()>> {
        if self.shared.consumer_gone.is_set() {
            return Err(TrySendError::Closed(()));
        }
        Ok(())
    }

    fn ring(&mut self) {
        self.wake_ups += u64::from(ring(&self.shared.armed.0, &self.shared.bell));
    }
}

/// The consuming end.
#[derive(Debug)]
pub(crate) struct Rx<T> {
    shared: Arc<Direction<T>>,
    waiter: Waiter,
    /// The announcement of a tail loss that was delivered last, and no record since.
    seen_loss: u32,
}

impl<T: Record> Rx<T> {
    pub(crate) fn recv(
        &mut self,
        most: usize,
        taken: &mut Taken,
        sink: &mut impl FnMut(&T) -> Result<(), Violation>,
    ) -> Result<(), TryRecvError> {
        if most == 0 {
            return Ok(());
        }
        self.waiter.enter(&self.shared.armed.0);
        loop {
            // Both before the queue, and again before each pop: only with the queue found empty after
            // them do they say what comes next. Acquire pairs with the store in `Tx::announce_loss`.
            let gone = self.shared.producer_gone.is_set();
            let loss = self.shared.tail_loss.load(Ordering::Acquire);
            // A tail loss ends the batch: what was accepted since then has numbers behind it.
            if taken.items() < most && taken.tail_loss.is_none() {
                if let Some(item) = self.shared.queue.pop() {
                    self.seen_loss = 0;
                    sink(&item).map_err(TryRecvError::PeerViolation)?;
                    taken.count += 1;
                    continue;
                }
                if loss != 0 && loss != self.seen_loss {
                    self.seen_loss = loss;
                    taken.tail_loss = Some(Sequence::wrapping(loss));
                    continue;
                }
                if gone && taken.items() == 0 {
                    return Err(TryRecvError::Closed);
                }
            }
            let left = self.shared.queue.len();
            taken.found = taken.items() + left;
            if taken.items() > 0 && (left > 0 || self.has_work()) {
                self.waiter.keep_readable(&self.shared.bell);
                if left == 0 {
                    // Every record was read, and what is left to tell is none.
                    self.shared.emptied.open();
                }
                return Ok(());
            }
            if self.fall_asleep() {
                self.shared.emptied.open();
                return if taken.items() > 0 { Ok(()) } else { Err(TryRecvError::Empty) };
            }
        }
    }

    /// Looks for work until `until`, without wanting tokens meanwhile; then wants them again.
    pub(crate) fn look(&mut self, until: Instant) -> bool {
        if Instant::now() >= until {
            return false;
        }
        self.waiter.enter(&self.shared.armed.0);
        self.waiter.stay_awake(&self.shared.armed.0);
        spin(until, || self.has_work()) || !self.fall_asleep()
    }

    pub(crate) fn watch(&self) -> Watch<T> {
        Watch(self.shared.clone())
    }

    pub(crate) fn wake_ups(&self) -> u64 {
        self.waiter.claims
    }

    /// Whether a receive would bring something other than `Empty`.
    pub(crate) fn has_work(&self) -> bool {
        has_work(&self.shared, self.seen_loss)
    }

    /// Nothing more is received.
    pub(crate) fn release(&mut self) {
        self.shared.consumer_gone.set();
        self.shared.emptied.open();
    }

    fn fall_asleep(&mut self) -> bool {
        let (shared, seen_loss) = (&self.shared, self.seen_loss);
        self.waiter.try_sleep(&shared.armed.0, &shared.bell, || has_work(shared, seen_loss))
    }
}

fn has_work<T>(shared: &Direction<T>, seen_loss: u32) -> bool {
    // Acquire pairs with the store in `Tx::announce_loss`.
    let loss = shared.tail_loss.load(Ordering::Acquire);
    !shared.queue.is_empty() || (loss != 0 && loss != seen_loss) || shared.producer_gone.is_set()
}

impl<T> AsFd for Rx<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

/// A look at a direction from outside.
#[derive(Debug)]
pub(crate) struct Watch<T>(Arc<Direction<T>>);

impl<T> Watch<T> {
    pub(crate) fn is_drained(&self) -> Result<bool, DrainError> {
        is_drained(Unread::Stays, || Ok(self.0.queue.is_empty()), || self.is_closed())
    }

    pub(crate) fn wait_drained(&self, deadline: Option<Instant>) -> Result<(), DrainError> {
        let mut outcome = Ok(false);
        self.0.emptied.wait(deadline, || {
            outcome = self.is_drained();
            !matches!(outcome, Ok(false))
        });
        if outcome? { Ok(()) } else { Err(DrainError::Timeout) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.consumer_gone.is_set()
    }
}

impl<T> AsFd for Watch<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use recordfd_uapi::PageResponse;

    #[test]
    fn tokens_never_exceed_one_beyond_the_owned_ones() -> std::io::Result<()> {
        let (mut tx, mut rx) = direction::<PageResponse>(8).expect("an eventfd can be made");
        let item = PageResponse { cookie: 1, code: recordfd_uapi::PageResponseCode::SUCCESS };
        for _ in 0..1000 {
            tx.send(1, |_| item).expect("there is room");
            let mut taken = Taken::default();
            rx.recv(8, &mut taken, &mut |_| Ok(())).expect("a record waits");
            assert_eq!(taken.count, 1);
            assert!(!super::super::wait_readable(rx.as_fd(), Some(Instant::now()))?);
        }
        assert_eq!((tx.wake_ups(), rx.wake_ups()), (1000, 1000));
        Ok(())
    }
}
