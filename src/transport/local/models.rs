//! Loom checks in which order a loss at the end of the stream is told. Run with `ci/loom.sh`.
//!
//! The queue is a row of slots and a tail, ordered no more strongly than release and acquire; producer
//! and consumer take the steps of `Tx` and `Rx` around it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::*};
use loom::thread;
use recordfd_uapi::{LossMeter, Sequence};

use super::LOSS;
use crate::sync::AtomicU32;

struct World {
    numbers: [AtomicU32; 2],
    tail: AtomicUsize,
    tail_loss: AtomicU32,
}

impl World {
    fn accept(&self, number: u32) {
        // As in `Tx::send`: withdrawn first, without an order of its own.
        self.tail_loss.store(0, Relaxed);
        let tail = self.tail.load(Relaxed);
        self.numbers[tail].store(number, Relaxed);
        self.tail.store(tail + 1, Release);
    }

    fn drop_one(&self, number: u32) {
        self.tail_loss.store(LOSS | number, Release);
    }
}

struct Consumer {
    world: Arc<World>,
    head: usize,
    seen_loss: u32,
    meter: LossMeter,
    /// Records received and counted as lost.
    told: u32,
}

impl Consumer {
    /// At most `most` items, in the steps of `Rx::recv` and of the receiver above it; how many.
    fn recv(&mut self, most: usize) -> usize {
        let (mut items, mut tail_loss) = (0, None);
        while items < most && tail_loss.is_none() {
            let loss = self.world.tail_loss.load(Acquire);
            if self.head < self.world.tail.load(Acquire) {
                let number = self.world.numbers[self.head].load(Relaxed);
                self.head += 1;
                self.seen_loss = 0;
                self.told += 1 + self.meter.record(Sequence::wrapping(number));
            } else if loss != 0 && loss != self.seen_loss {
                self.seen_loss = loss;
                tail_loss = Some(loss);
            } else {
                break;
            }
            items += 1;
        }
        if let Some(loss) = tail_loss {
            self.told += self.meter.lost_header(Sequence::wrapping(loss));
        }
        assert!(self.told <= 5, "told of a loss that was none, or twice");
        items
    }
}

/// Two receives of at most `most` items against two accepted and three dropped records.
fn loss_at_the_end(most: usize) {
    loom::model(move || {
        let world = Arc::new(World {
            numbers: [AtomicU32::new(99), AtomicU32::new(99)],
            tail: AtomicUsize::new(0),
            tail_loss: AtomicU32::new(0),
        });
        let producer = world.clone();
        let thread = thread::spawn(move || {
            producer.accept(0);
            producer.drop_one(1);
            producer.drop_one(2);
            producer.accept(3);
            producer.drop_one(4);
        });
        let meter = LossMeter::from_start();
        let mut consumer = Consumer { world, head: 0, seen_loss: 0, meter, told: 0 };
        for _ in 0..2 {
            consumer.recv(most);
        }
        thread.join().unwrap();
        while consumer.recv(most) > 0 {}
        assert_eq!((consumer.told, consumer.head), (5, 2), "a loss was not told");
    });
}

#[test]
fn loss_at_the_end_is_told_once_and_in_its_place() {
    loss_at_the_end(1);
}

#[test]
fn loss_at_the_end_of_a_batch_is_told_once_and_in_its_place() {
    loss_at_the_end(3);
}
