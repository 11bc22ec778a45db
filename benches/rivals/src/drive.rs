//! What is measured, for any carrier, between two threads or two processes.
//!
//! The clock is the receiver's: it runs from the arrival of the last record of a warm-up to that of the last record
//! of all. Thus neither the start of a thread or process nor its end is in it.

use std::thread;
use std::time::{Duration, Instant};

use crate::carrier::{
    BATCH, BackOff, Carrier, Check, Crossing, DEPTH, Receives, ReceivesBatches, Sends, SendsBatches, Waits,
};
use crate::process::{Peer, There, take_stdout};

/// Records before the clock starts, and round trips.
const WARM_UP: u64 = DEPTH as u64;
const WARM_UP_TRIPS: u64 = 20;

pub(crate) fn send_singles(tx: &mut impl Sends, count: u64) {
    let mut back_off = BackOff::new();
    for number in 1..=WARM_UP + count {
        while !tx.send(number) {
            back_off.miss();
        }
        back_off.hit();
    }
}

fn send_batches(tx: &mut impl SendsBatches, count: u64) {
    let mut back_off = BackOff::new();
    let mut sent = 0;
    while sent < WARM_UP + count {
        let wanted = (WARM_UP + count - sent).min(BATCH as u64);
        match tx.send_batch(sent + 1, wanted as usize) {
            0 => back_off.miss(),
            accepted => {
                sent += accepted as u64;
                back_off.hit();
            }
        }
    }
}

/// Receives until everything has come; returns the time for all but the warm-up.
fn receive_all(count: u64, mut receive: impl FnMut(&mut Check) -> bool) -> Duration {
    let mut check = Check::new();
    let mut receive_until = |seen: u64| {
        let mut back_off = BackOff::new();
        while check.seen() < seen {
            if receive(&mut check) {
                back_off.hit();
            } else {
                back_off.miss();
            }
        }
        check.seen() - seen
    };
    let too_many = receive_until(WARM_UP);
    let began = Instant::now();
    receive_until(WARM_UP + count);
    // Of a batch that the warm-up ended in, some belong to what is measured.
    began.elapsed().mul_f64(count as f64 / (count - too_many) as f64)
}

pub(crate) fn receive_singles(rx: &mut impl Receives, count: u64) -> Duration {
    receive_all(count, |check| rx.receive(check))
}

fn receive_batches(rx: &mut impl ReceivesBatches, count: u64) -> Duration {
    receive_all(count, |check| rx.receive_batch(check))
}

/// Sends and waits for the answer, again and again.
pub(crate) fn ask(tx: &mut impl Sends, rx: &mut impl Waits, count: u64) -> Duration {
    let mut check = Check::new();
    let mut trips = |from: u64, to: u64| {
        for number in from..=to {
            assert!(tx.send(number), "one record has room");
            rx.receive_waiting(&mut check);
        }
    };
    trips(1, WARM_UP_TRIPS);
    let began = Instant::now();
    trips(WARM_UP_TRIPS + 1, WARM_UP_TRIPS + count);
    began.elapsed()
}

pub(crate) fn answer(tx: &mut impl Sends, rx: &mut impl Waits, count: u64) {
    let mut check = Check::new();
    for number in 1..=WARM_UP_TRIPS + count {
        rx.receive_waiting(&mut check);
        assert!(tx.send(number), "one record has room");
    }
}

/// Runs `there` on a thread of its own and `here` on this one. Each owns its ends: borrowed from one frame, they would
/// share a cache line.
fn with_thread(there: impl FnOnce() + Send, here: impl FnOnce() -> Duration) -> Duration {
    thread::scope(|scope| {
        let other = scope.spawn(there);
        let time = here();
        other.join().expect("the other thread does not panic");
        time
    })
}

pub(crate) fn singles<C: Carrier<Tx: Sends, Rx: Receives>>(count: u64) -> Duration {
    let (mut tx, mut rx) = C::pair();
    with_thread(move || send_singles(&mut tx, count), move || receive_singles(&mut rx, count))
}

pub(crate) fn batches<C: Carrier<Tx: SendsBatches, Rx: ReceivesBatches>>(count: u64) -> Duration {
    let (mut tx, mut rx) = C::pair();
    with_thread(move || send_batches(&mut tx, count), move || receive_batches(&mut rx, count))
}

pub(crate) fn trips<C: Carrier<Tx: Sends, Rx: Waits>>(count: u64) -> Duration {
    let ((mut tx, mut far_rx), (mut far_tx, mut rx)) = (C::pair(), C::pair());
    with_thread(move || answer(&mut far_tx, &mut far_rx, count), move || ask(&mut tx, &mut rx, count))
}

pub(crate) fn singles_here<C: Crossing<Rx: Receives>>(peer: &Peer) -> Duration {
    let (mut rx, end) = C::make_receiver();
    let child = peer.start(end.into(), None, &[]);
    let time = receive_singles(&mut rx, peer.count);
    child.finish();
    time
}

pub(crate) fn singles_there<C: Crossing<Tx: Sends>>(there: &There) {
    send_singles(&mut C::attach_sender(there.stdin()), there.count);
}

pub(crate) fn batches_here<C: Crossing<Rx: ReceivesBatches>>(peer: &Peer) -> Duration {
    let (mut rx, end) = C::make_receiver();
    let child = peer.start(end.into(), None, &[]);
    let time = receive_batches(&mut rx, peer.count);
    child.finish();
    time
}

pub(crate) fn batches_there<C: Crossing<Tx: SendsBatches>>(there: &There) {
    send_batches(&mut C::attach_sender(there.stdin()), there.count);
}

pub(crate) fn trips_here<C: Crossing<Tx: Sends, Rx: Waits>>(peer: &Peer) -> Duration {
    let (mut rx, far_tx) = C::make_receiver();
    let (mut tx, far_rx) = C::make_sender();
    let child = peer.start(far_tx.into(), Some(far_rx.into()), &[]);
    let time = ask(&mut tx, &mut rx, peer.count);
    child.finish();
    time
}

pub(crate) fn trips_there<C: Crossing<Tx: Sends, Rx: Waits>>(there: &There) {
    let (mut tx, mut rx) = (C::attach_sender(there.stdin()), C::attach_receiver(take_stdout()));
    answer(&mut tx, &mut rx, there.count);
}
