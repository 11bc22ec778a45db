//! What every contender can do, each in its own way: carry numbered records of 40 bytes from a sender to a receiver.
//!
//! Numbers begin at 1, for an eventfd cannot carry a 0. Each contender builds its records from the number and takes
//! them apart again, so that nobody pays for another one's layout.

use std::hint::{black_box, spin_loop};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

/// Records to a call, where a call takes several.
pub(crate) const BATCH: usize = 64;
/// Records that wait unread at most, where that can be chosen.
pub(crate) const DEPTH: usize = 1024;
/// Nothing takes that long but what has died.
const TOO_LONG: Duration = Duration::from_secs(10);

/// The 40 bytes that rivals carry; recordfd carries an SMMUv3 event of 32 bytes behind its header of 8.
pub(crate) type Payload = [u64; 5];

/// The record with this number.
pub(crate) fn payload(number: u64) -> Payload {
    [number; 5]
}

/// Sees to it that every record arrives once, in order, and whole.
#[derive(Debug)]
pub(crate) struct Check {
    next: u64,
}

impl Check {
    pub(crate) fn new() -> Self {
        Self { next: 1 }
    }

    /// How many have arrived.
    pub(crate) fn seen(&self) -> u64 {
        self.next - 1
    }

    #[inline]
    pub(crate) fn see(&mut self, payload: &Payload) {
        // All of it must have been brought here, also what is not looked at.
        black_box(payload);
        self.see_number(payload[0], payload[4]);
    }

    /// As [`see`](Self::see), for who has other records: their first and last word.
    #[inline]
    pub(crate) fn see_number(&mut self, first: u64, last: u64) {
        assert!(first == self.next && last == self.next, "{first} and {last} in place of {}", self.next);
        self.next += 1;
    }
}

/// What everyone does who finds nothing, or no room: looks again after pauses that grow to eight, and gives way
/// after a hundred looks.
#[derive(Debug)]
pub(crate) struct BackOff {
    misses: u32,
    since: Instant,
}

impl BackOff {
    pub(crate) fn new() -> Self {
        Self { misses: 0, since: Instant::now() }
    }

    #[inline]
    pub(crate) fn hit(&mut self) {
        self.misses = 0;
    }

    pub(crate) fn miss(&mut self) {
        if self.misses < 100 {
            (0..1 << self.misses.min(3)).for_each(|_| spin_loop());
        } else {
            thread::yield_now();
            if self.misses == 100 {
                self.since = Instant::now();
            } else if self.misses.is_multiple_of(1024) {
                assert!(self.since.elapsed() < TOO_LONG, "the other side is gone");
            }
        }
        self.misses = self.misses.saturating_add(1);
    }
}

pub(crate) trait Sends {
    /// Sends the record with this number; false when there is no room.
    fn send(&mut self, number: u64) -> bool;
}

pub(crate) trait SendsBatches {
    /// Sends the records numbered from `first`, as many of `count` as there is room for; returns how many. `count` is
    /// at most [`BATCH`].
    fn send_batch(&mut self, first: u64, count: usize) -> usize;
}

pub(crate) trait Receives {
    /// Receives a record, if one is there.
    fn receive(&mut self, check: &mut Check) -> bool;
}

pub(crate) trait ReceivesBatches {
    /// Receives what is there, at most [`BATCH`] records; false when there is nothing.
    fn receive_batch(&mut self, check: &mut Check) -> bool;
}

pub(crate) trait Waits {
    /// Receives a record; waits for it in whatever way this receiver waits.
    fn receive_waiting(&mut self, check: &mut Check);
}

/// A way to carry records between threads.
pub(crate) trait Carrier {
    type Tx: Send;
    type Rx: Send;
    fn pair() -> (Self::Tx, Self::Rx);
}

/// A way to carry records between processes, the other of which is given one descriptor.
pub(crate) trait Crossing {
    type Tx: Send;
    type Rx: Send;
    /// A receiver, and what the other process makes a sender of.
    fn make_receiver() -> (Self::Rx, OwnedFd);
    fn attach_sender(end: OwnedFd) -> Self::Tx;
    /// A sender, and what the other process makes a receiver of.
    fn make_sender() -> (Self::Tx, OwnedFd);
    fn attach_receiver(end: OwnedFd) -> Self::Rx;
}

impl<C: Crossing> Carrier for C {
    type Tx = C::Tx;
    type Rx = C::Rx;

    fn pair() -> (Self::Tx, Self::Rx) {
        let (tx, end) = C::make_sender();
        (tx, C::attach_receiver(end))
    }
}
