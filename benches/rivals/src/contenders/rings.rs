//! Queues of one process that can wake nobody: the least that a record can cost.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::{Contender, Measure, batches, singles, trips};
use crate::carrier::{
    BATCH, BackOff, Carrier, Check, DEPTH, Payload, Receives, ReceivesBatches, Sends, SendsBatches, Waits,
    payload,
};

pub(super) const RTRB: &str = "rtrb";
pub(super) const RTRB_CHUNKS: &str = "rtrb, chunks";
pub(super) const ARRAY_QUEUE: &str = "crossbeam ArrayQueue";

pub(super) fn contenders() -> Vec<Contender> {
    vec![
        singles::<Rtrb>(RTRB),
        singles::<Crossbeam>(ARRAY_QUEUE),
        batches::<Rtrb>(RTRB_CHUNKS),
        trips::<Rtrb>(Measure::BusyPoll, "rtrb, which cannot sleep"),
    ]
}

/// One producer, one consumer.
struct Rtrb;

impl Carrier for Rtrb {
    type Tx = rtrb::Producer<Payload>;
    type Rx = rtrb::Consumer<Payload>;

    fn pair() -> (Self::Tx, Self::Rx) {
        rtrb::RingBuffer::new(DEPTH)
    }
}

impl Sends for rtrb::Producer<Payload> {
    #[inline]
    fn send(&mut self, number: u64) -> bool {
        self.push(payload(number)).is_ok()
    }
}

impl SendsBatches for rtrb::Producer<Payload> {
    fn send_batch(&mut self, first: u64, count: usize) -> usize {
        let room = self.slots().min(count);
        let chunk = self.write_chunk_uninit(room).expect("the slots are there");
        chunk.fill_from_iter((first..).map(payload))
    }
}

impl Receives for rtrb::Consumer<Payload> {
    #[inline]
    fn receive(&mut self, check: &mut Check) -> bool {
        let Ok(payload) = self.pop() else { return false };
        check.see(&payload);
        true
    }
}

impl ReceivesBatches for rtrb::Consumer<Payload> {
    fn receive_batch(&mut self, check: &mut Check) -> bool {
        let chunk = self.read_chunk(self.slots().min(BATCH)).expect("the slots are there");
        let (first, second) = chunk.as_slices();
        first.iter().chain(second).for_each(|payload| check.see(payload));
        let found = !chunk.is_empty();
        chunk.commit_all();
        found
    }
}

impl Waits for rtrb::Consumer<Payload> {
    fn receive_waiting(&mut self, check: &mut Check) {
        let mut back_off = BackOff::new();
        while !self.receive(check) {
            back_off.miss();
        }
    }
}

/// Many producers, many consumers.
struct Crossbeam;

impl Carrier for Crossbeam {
    type Tx = Arc<ArrayQueue<Payload>>;
    type Rx = Arc<ArrayQueue<Payload>>;

    fn pair() -> (Self::Tx, Self::Rx) {
        let queue = Arc::new(ArrayQueue::new(DEPTH));
        (queue.clone(), queue)
    }
}

impl Sends for Arc<ArrayQueue<Payload>> {
    #[inline]
    fn send(&mut self, number: u64) -> bool {
        self.push(payload(number)).is_ok()
    }
}

impl Receives for Arc<ArrayQueue<Payload>> {
    #[inline]
    fn receive(&mut self, check: &mut Check) -> bool {
        let Some(payload) = self.pop() else { return false };
        check.see(&payload);
        true
    }
}
