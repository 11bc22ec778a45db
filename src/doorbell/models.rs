//! Loom runs the doorbell in every order that its memory model allows.
//!
//! `tail` counts the records published so far; the record itself is of no interest. `tokens` is what
//! the descriptor holds: it is readable while there are any. Run with `ci/loom.sh`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::*};
use loom::thread;

use super::*;
use crate::drain::DrainGate;
use crate::sync::{Mutex, lock};

struct World {
    tail: AtomicUsize,
    /// 1 once the last sender is gone.
    closed: AtomicUsize,
    armed: AtomicU32,
    tokens: Descriptor,
    /// The senders' lock; records whose send has returned.
    returned: Mutex<usize>,
    /// Held by the consumer during a receive; records received by then.
    received: Mutex<usize>,
}

struct Descriptor(AtomicUsize);

impl Descriptor {
    fn is_readable(&self) -> bool {
        self.0.load(Acquire) > 0
    }
}

impl Tokens for Descriptor {
    fn put(&self) {
        self.0.fetch_add(1, AcqRel);
    }

    fn take(&self) -> bool {
        // Only the consumer takes tokens out, so none goes between the two.
        self.is_readable() && self.0.fetch_sub(1, AcqRel) > 0
    }
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            tail: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            armed: AtomicU32::new(ARMED),
            tokens: Descriptor(AtomicUsize::new(0)),
            returned: Mutex::new(0),
            received: Mutex::new(0),
        })
    }

    /// Sends a record as one of several senders, then checks the first half of the contract.
    fn send(&self) {
        let sent = self.send_unchecked();
        let received = lock(&self.received);
        assert!(*received >= sent || self.tokens.is_readable(), "a record waits behind an unreadable fd");
    }

    /// Sends a record; returns how many sends have returned then. Unchecked, for while the consumer
    /// looks by itself an unreadable descriptor is no fault.
    fn send_unchecked(&self) -> usize {
        let mut returned = lock(&self.returned);
        self.tail.store(*returned + 1, Release);
        ring(&self.armed, &self.tokens);
        *returned += 1;
        *returned
    }

    fn close(&self) {
        self.closed.store(1, Release);
        self.tokens.put();
    }
}

struct Consumer {
    world: Arc<World>,
    head: usize,
    waiter: Waiter,
}

/// What a receive of the model brings.
#[derive(Debug, PartialEq)]
enum Got {
    Records(usize),
    Closed,
}

impl Consumer {
    fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), head: 0, waiter: Waiter::new() }
    }

    /// A receive of at most `most` records, in the steps of the local transport.
    fn recv(&mut self, most: usize) -> Got {
        let world = self.world.clone();
        let mut received = lock(&world.received);
        self.waiter.enter(&world.armed);
        let mut got = 0;
        loop {
            let gone = world.closed.load(Acquire) == 1;
            let waiting = world.tail.load(Acquire) - self.head;
            let taken = waiting.min(most - got);
            self.head += taken;
            got += taken;
            *received = self.head;
            if gone && got == 0 {
                return Got::Closed;
            }
            let head = self.head;
            let has_work = || world.tail.load(Acquire) > head || world.closed.load(Acquire) == 1;
            if got > 0 && has_work() {
                self.waiter.keep_readable(&world.tokens);
                return Got::Records(got);
            }
            if self.waiter.try_sleep(&world.armed, &world.tokens, has_work) {
                // The second half of the contract: left empty is left unreadable, but for a token that
                // was under way or that a send since then has claimed.
                assert!(
                    !world.tokens.is_readable() || self.waiter.owned > 0 || self.is_claimed(),
                    "readable while empty"
                );
                return Got::Records(got);
            }
        }
    }

    /// Whether a producer has taken the arming, or closed, since.
    fn is_claimed(&self) -> bool {
        self.world.armed.load(Acquire) != ARMED || self.world.closed.load(Acquire) == 1
    }

    /// Receives as an event loop does, only when the descriptor is readable, until `total` records
    /// came or it has been found unreadable a few times.
    fn run(&mut self, total: usize, most: usize) -> usize {
        let (mut got, mut idle) = (0, 0);
        while idle < 2 && got < total {
            if !self.world.tokens.is_readable() {
                idle += 1;
                thread::yield_now();
            } else if let Got::Records(count) = self.recv(most) {
                got += count;
            }
        }
        got
    }

    /// With no send under way any more: everything comes out, with at most one wake-up in vain, and
    /// then the descriptor is unreadable.
    fn finish(&mut self, mut got: usize, total: usize, most: usize) {
        let mut in_vain = 0;
        while self.world.tokens.is_readable() {
            match self.recv(most) {
                Got::Records(0) => in_vain += 1,
                Got::Records(count) => got += count,
                Got::Closed => panic!("nobody closed"),
            }
            assert!(in_vain <= 1, "wakes again with nothing to read");
        }
        assert_eq!(got, total, "lost wake-up");
        assert_eq!(self.recv(most), Got::Records(0));
        assert!(!self.world.tokens.is_readable(), "readable while empty");
    }
}

/// `senders` threads send `each` records; the consumer takes `most` for each wake-up.
fn send_against_sleep(senders: usize, each: usize, most: usize) {
    loom::model(move || {
        let world = World::new();
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || (0..each).for_each(|_| world.send()))
            })
            .collect();
        let mut consumer = Consumer::new(&world);
        let got = consumer.run(senders * each, most);
        for thread in threads {
            thread.join().unwrap();
        }
        consumer.finish(got, senders * each, most);
    });
}

#[test]
fn doorbell_one_sender_one_record_per_wake_up() {
    for records in 1..=3 {
        send_against_sleep(1, records, 1);
    }
}

#[test]
fn doorbell_one_sender_two_records_per_wake_up() {
    send_against_sleep(1, 3, 2);
}

#[test]
fn doorbell_two_senders() {
    send_against_sleep(2, 1, 1);
}

#[test]
fn doorbell_last_sender_dropped() {
    loom::model(|| {
        let world = World::new();
        let sender = world.clone();
        let thread = thread::spawn(move || {
            sender.send();
            sender.close();
        });
        let mut consumer = Consumer::new(&world);
        let mut got = consumer.run(1, 1);
        thread.join().unwrap();
        for _ in 0..3 {
            assert!(world.tokens.is_readable(), "closed is readable for ever");
            match consumer.recv(1) {
                Got::Records(count) => got += count,
                Got::Closed => assert_eq!(got, 1, "closed before the last record"),
            }
        }
        assert_eq!(consumer.recv(1), Got::Closed);
        assert!(world.tokens.is_readable());
    });
}

#[test]
fn doorbell_busy_poll_takes_the_arming_back() {
    loom::model(|| {
        let world = World::new();
        let sender = world.clone();
        let thread = thread::spawn(move || (0..2).for_each(|_| _ = sender.send_unchecked()));
        let mut consumer = Consumer::new(&world);
        // One look without wanting tokens, then asleep as usual.
        consumer.waiter.enter(&world.armed);
        consumer.waiter.stay_awake(&world.armed);
        let got = match consumer.recv(2) {
            Got::Records(count) => count,
            Got::Closed => panic!("nobody closed"),
        };
        let got = got + consumer.run(2 - got, 1);
        thread.join().unwrap();
        consumer.finish(got, 2, 1);
    });
}

#[test]
fn drain_gate_wakes_the_waiter() {
    loom::model(|| {
        let gate = Arc::new(DrainGate::new());
        let unread = Arc::new(AtomicUsize::new(1));
        let (consumer_gate, consumer_unread) = (gate.clone(), unread.clone());
        let thread = thread::spawn(move || {
            consumer_unread.store(0, Release);
            consumer_gate.open();
        });
        // A lost notice is a deadlock, which loom reports.
        assert!(gate.wait(None, || unread.load(Acquire) == 0));
        thread.join().unwrap();
    });
}
