//! A ring in this process's own memory: for tests, and for loom, whose atomics cannot be anywhere else.

use std::sync::Arc;

use super::*;

#[derive(Debug)]
pub(super) struct Heap {
    tail: AtomicU32,
    head: AtomicU32,
    words: Box<[AtomicUsize]>,
}

impl Heap {
    /// Room for `depth` of `T`, a power of two; the indices begin at `first`.
    pub(super) fn new<T: Record>(depth: usize, first: u32) -> Arc<Self> {
        let words = (0..depth * words_of::<T>()).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { tail: AtomicU32::new(first), head: AtomicU32::new(first), words })
    }
}

impl Storage for Arc<Heap> {
    fn tail(&self) -> &AtomicU32 {
        &self.tail
    }

    fn head(&self) -> &AtomicU32 {
        &self.head
    }

    fn words(&self) -> &[AtomicUsize] {
        &self.words
    }
}

type Sides<T> = (Producer<Arc<Heap>, T>, Consumer<Arc<Heap>, T>, Arc<Heap>);

/// Both sides of a ring whose indices begin at `first`.
pub(super) fn ring<T: Record>(depth: usize, first: u32) -> Sides<T> {
    let heap = Heap::new::<T>(depth, first);
    let mut producer = Producer::new(heap.clone());
    let mut consumer = Consumer::new(heap.clone());
    (producer.tail, producer.head) = (first, first);
    (consumer.tail, consumer.head) = (first, first);
    (producer, consumer, heap)
}

#[cfg(not(loom))]
mod tests {
    use super::*;
    use recordfd_uapi::{PageResponse, PageResponseCode};

    fn item(cookie: u32) -> PageResponse {
        PageResponse { cookie, code: PageResponseCode::SUCCESS }
    }

    fn store(index: &AtomicU32, value: u32) {
        index.store(value, Ordering::Relaxed);
    }

    #[test]
    fn records_come_out_in_order_while_the_indices_wrap() {
        for depth in [1, 2, 8] {
            let (mut producer, mut consumer, _) = ring::<PageResponse>(depth, u32::MAX - 20);
            let (mut sent, mut received) = (0, 0);
            for round in 0..100 {
                let room = producer.room(depth as u32).unwrap();
                let count = (round % 3 + 1).min(room);
                (0..count).for_each(|ahead| producer.put(ahead, &item(sent + ahead)));
                producer.publish(count);
                sent += count;
                let waiting = consumer.look().unwrap();
                assert_eq!(waiting, sent - received);
                let count = waiting.min(round % 2 + 1);
                for ahead in 0..count {
                    assert_eq!(consumer.get(ahead).unwrap(), item(received + ahead));
                }
                consumer.release(count);
                received += count;
            }
            assert!(received > 40, "the indices have gone round");
        }
    }

    #[test]
    fn full_ring_has_no_room_until_a_slot_is_given_back() {
        let (mut producer, mut consumer, _) = ring::<PageResponse>(4, 0);
        assert_eq!(producer.room(4), Ok(4));
        (0..4).for_each(|ahead| producer.put(ahead, &item(ahead)));
        producer.publish(4);
        assert_eq!(producer.room(1), Ok(0));
        assert_eq!(consumer.look(), Ok(4));
        assert_eq!(consumer.get(0).unwrap(), item(0));
        consumer.release(1);
        assert_eq!((producer.room(1), consumer.known()), (Ok(1), 3));
    }

    #[test]
    fn index_of_the_consumer_that_cannot_be_is_refused() {
        let (mut producer, _, heap) = ring::<PageResponse>(4, 0);
        producer.publish(3);
        store(&heap.head, 2);
        assert_eq!(producer.room(4), Ok(3));
        for lie in [1, 0, 4, u32::MAX, 1 << 31] {
            store(&heap.head, lie);
            assert_eq!(producer.room(4), Err(Violation::RingIndex), "{lie}");
        }
        store(&heap.head, 3);
        assert_eq!(producer.room(4), Ok(4));
    }

    #[test]
    fn index_of_the_producer_that_cannot_be_is_refused() {
        let (_, mut consumer, heap) = ring::<PageResponse>(4, 10);
        store(&heap.tail, 13);
        assert_eq!(consumer.look(), Ok(3));
        consumer.release(1);
        for lie in [12, 10, 16, 9, u32::MAX] {
            store(&heap.tail, lie);
            assert_eq!(consumer.look(), Err(Violation::RingIndex), "{lie}");
            assert_eq!(consumer.known(), 2);
        }
        store(&heap.tail, 15);
        assert_eq!(consumer.look(), Ok(4));
    }

    #[test]
    fn own_index_is_never_read_back() {
        let (mut producer, mut consumer, heap) = ring::<PageResponse>(4, 0);
        store(&heap.tail, 99);
        store(&heap.head, 77);
        producer.put(0, &item(5));
        producer.publish(1);
        store(&heap.head, 0);
        assert_eq!(producer.room(4), Ok(3));
        assert_eq!(consumer.look(), Ok(1));
        assert_eq!(consumer.get(0).unwrap(), item(5));
        consumer.release(1);
        assert_eq!((consumer.head(), consumer.look()), (1, Ok(0)));
    }

    #[test]
    fn ring_of_replies_that_do_not_exist_is_empty_and_full() {
        let (mut producer, mut consumer, heap) = ring::<recordfd_uapi::NoReply>(4, 0);
        assert_eq!((producer.room(1), consumer.look()), (Ok(0), Ok(0)));
        store(&heap.tail, 1);
        assert_eq!(consumer.look(), Err(Violation::RingIndex));
        store(&heap.head, 1);
        assert_eq!(producer.room(1), Err(Violation::RingIndex));
    }
}

#[cfg(loom)]
mod models {
    use loom::thread;
    use recordfd_uapi::AcpiOst;

    use super::*;

    /// A record of whose words each tells the number.
    fn item(number: u32) -> AcpiOst {
        AcpiOst::new(number, !number, number)
    }

    /// Groups of these sizes, each published by one store, against a consumer that copies out at most `most` before
    /// it gives the slots back. The indices pass the largest number.
    fn pass_groups(depth: u32, groups: &'static [u32], most: u32) {
        loom::model(move || {
            let (mut producer, mut consumer, _) = ring::<AcpiOst>(depth as usize, u32::MAX);
            let thread = thread::spawn(move || {
                let mut sent = 0;
                for count in groups {
                    while producer.room(*count).unwrap() < *count {
                        thread::yield_now();
                    }
                    (0..*count).for_each(|ahead| producer.put(ahead, &item(sent + ahead)));
                    producer.publish(*count);
                    sent += count;
                }
            });
            let (mut got, mut ends) = (
                0,
                groups.iter().scan(0, |sum, count| {
                    *sum += count;
                    Some(*sum)
                }),
            );
            let total: u32 = groups.iter().sum();
            while got < total {
                if consumer.known() == 0 {
                    if consumer.look().unwrap() == 0 {
                        thread::yield_now();
                        continue;
                    }
                    // What is seen is whole groups.
                    let seen = got + consumer.known();
                    assert!(ends.any(|end| end == seen), "half a group");
                }
                let count = consumer.known().min(most);
                for ahead in 0..count {
                    assert_eq!(consumer.get(ahead).unwrap(), item(got + ahead), "not what was published");
                }
                consumer.release(count);
                got += count;
            }
            thread.join().unwrap();
        });
    }

    #[test]
    fn ring_passes_groups_around_its_end() {
        pass_groups(2, &[1, 2, 1, 2], 2);
        pass_groups(4, &[3, 2, 3], 4);
    }

    #[test]
    fn ring_of_one_is_full_and_empty_in_turn() {
        pass_groups(1, &[1, 1, 1, 1], 1);
    }

    #[test]
    fn ring_gives_slots_back_one_by_one() {
        pass_groups(2, &[2, 1, 2], 1);
    }
}
