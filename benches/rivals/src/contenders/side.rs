//! What is written by hand today: a queue between threads, and an eventfd beside it to wake who polls.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Contender, Measure, batches, singles, trips};
use crate::carrier::{
    BATCH, Carrier, Check, DEPTH, Payload, Receives, ReceivesBatches, Sends, SendsBatches, Waits, payload,
};

pub(super) const LIST: &str = "eventfd + Mutex<VecDeque>";
const CHANNEL: &str = "eventfd + crossbeam-channel";

pub(super) fn contenders() -> Vec<Contender> {
    vec![
        singles::<Side<List>>(LIST),
        singles::<Side<Channel>>(CHANNEL),
        batches::<Side<List>>(LIST),
        batches::<Side<Channel>>(CHANNEL),
        trips::<Side<List>>(Measure::Asleep, LIST),
        trips::<Side<Channel>>(Measure::Asleep, CHANNEL),
    ]
}

/// The queue.
trait Queue: Send + Sync {
    fn new() -> Self;
    /// Takes in as many of `payloads` as there is room for; returns how many.
    fn push(&self, payloads: impl Iterator<Item = Payload>) -> usize;
    /// Gives one out.
    fn pop(&self) -> Option<Payload>;
    /// Gives at most [`BATCH`] out; returns how many.
    fn pop_batch(&self, sink: impl FnMut(&Payload)) -> usize;
}

struct List(Mutex<VecDeque<Payload>>);

impl Queue for List {
    fn new() -> Self {
        Self(Mutex::new(VecDeque::with_capacity(DEPTH)))
    }

    fn push(&self, payloads: impl Iterator<Item = Payload>) -> usize {
        let mut list = self.0.lock().expect("not poisoned");
        let before = list.len();
        list.extend(payloads.take(DEPTH - before));
        list.len() - before
    }

    fn pop(&self) -> Option<Payload> {
        self.0.lock().expect("not poisoned").pop_front()
    }

    fn pop_batch(&self, sink: impl FnMut(&Payload)) -> usize {
        let mut list = self.0.lock().expect("not poisoned");
        let count = list.len().min(BATCH);
        // What is done with a record is done without the lock, as one who minds the sender does it.
        let mut taken = [[0; 5]; BATCH];
        list.drain(..count).zip(&mut taken).for_each(|(payload, slot)| *slot = payload);
        drop(list);
        taken[..count].iter().for_each(sink);
        count
    }
}

struct Channel(crossbeam_channel::Sender<Payload>, crossbeam_channel::Receiver<Payload>);

impl Queue for Channel {
    fn new() -> Self {
        let (tx, rx) = crossbeam_channel::bounded(DEPTH);
        Self(tx, rx)
    }

    fn push(&self, payloads: impl Iterator<Item = Payload>) -> usize {
        payloads.take_while(|payload| self.0.try_send(*payload).is_ok()).count()
    }

    fn pop(&self) -> Option<Payload> {
        self.1.try_recv().ok()
    }

    fn pop_batch(&self, mut sink: impl FnMut(&Payload)) -> usize {
        self.1.try_iter().take(BATCH).map(|payload| sink(&payload)).count()
    }
}

/// The queue and the eventfd; both sides have it.
struct Side<Q> {
    queue: Q,
    eventfd: EventFd,
}

impl<Q: Queue> Carrier for Side<Q> {
    type Tx = Arc<Self>;
    type Rx = Arc<Self>;

    fn pair() -> (Self::Tx, Self::Rx) {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_flags(flags).expect("an eventfd");
        let side = Arc::new(Self { queue: Q::new(), eventfd });
        (side.clone(), side)
    }
}

impl<Q: Queue> Side<Q> {
    /// As a sender must that does not know whether the receiver sleeps: writes the eventfd each time.
    fn send(&self, payloads: impl Iterator<Item = Payload>) -> usize {
        let count = self.queue.push(payloads);
        if count > 0 {
            self.eventfd.write(1).expect("the counter has room");
        }
        count
    }

    /// As a receiver must that may sleep next: clears the eventfd before it finds the queue empty.
    fn receive(&self, mut pop: impl FnMut(&Q) -> bool) -> bool {
        pop(&self.queue) || self.eventfd.read().is_ok() && pop(&self.queue)
    }
}

impl<Q: Queue> Sends for Arc<Side<Q>> {
    fn send(&mut self, number: u64) -> bool {
        Side::send(self, std::iter::once(payload(number))) == 1
    }
}

impl<Q: Queue> SendsBatches for Arc<Side<Q>> {
    fn send_batch(&mut self, first: u64, count: usize) -> usize {
        Side::send(self, (first..).map(payload).take(count))
    }
}

impl<Q: Queue> Receives for Arc<Side<Q>> {
    fn receive(&mut self, check: &mut Check) -> bool {
        Side::receive(self, |queue| {
            queue.pop().is_some_and(|payload| {
                check.see(&payload);
                true
            })
        })
    }
}

impl<Q: Queue> ReceivesBatches for Arc<Side<Q>> {
    fn receive_batch(&mut self, check: &mut Check) -> bool {
        Side::receive(self, |queue| queue.pop_batch(|payload| check.see(payload)) > 0)
    }
}

impl<Q: Queue> Waits for Arc<Side<Q>> {
    fn receive_waiting(&mut self, check: &mut Check) {
        while !Receives::receive(self, check) {
            let mut fds = [PollFd::new(self.eventfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).expect("an eventfd can be polled");
        }
    }
}
