//! A peer of a shared channel that writes the memory while this side reads it: what comes out was in it, or is an
//! error, and no call waits longer than it was told to.

mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;
#[path = "common/rounds.rs"]
mod rounds;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::fault::*;
use common::*;
use recordfd::event::Received;
use recordfd::fault::{Cause, ResponseCode};
use recordfd::uapi::{AcpiOst, PgFault, Record};
use recordfd::{TryRecvError, TrySendError, Violation};
use ring_ends::{RECEIVERS, REPORTERS, RESPONDERS, SENDERS};
use ring_peer::{LOSS, RawRing, Word};

/// How long each peer goes on.
const LONG: Duration = Duration::from_millis(300);
/// No call that waits, or is to wait for a millisecond, takes longer, however busy the machine is.
const MOST: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(1);

/// Another thread that does `work` with a ring again and again.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Busy {
    fn with(ring: &RawRing, mut work: impl FnMut(&RawRing, u32) + Send + 'static) -> Self {
        let (ring, stop) = (ring.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                work(&ring, count);
                count += 1;
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops; returns how often it was done.
    fn stop(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What `call` returns; it may not take long.
fn timed<T>(call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = call();
    assert!(began.elapsed() < MOST, "{:?}", began.elapsed());
    result
}

#[test]
fn records_that_change_while_they_are_read_are_made_of_what_was_there() {
    rounds::each_seed("records that change", 1, |_| {
        const DEPTH: u32 = 4;
        for make in RECEIVERS {
            let (mut rx, peer) = make(DEPTH);
            // A payload of one byte over and over, and then of another.
            let [some, others] = [0x11, 0x77].map(|value| [value; RECORD - 8]);
            (0..DEPTH).for_each(|number| peer.produced.set_payload(number, &some));
            let busy = Busy::with(&peer.produced, move |ring, count| {
                ring.set_payload(count / 2, if count % 2 == 0 { &some } else { &others });
            });
            let (began, mut received, mut mixed) = (Instant::now(), 0, 0);
            let mut items = [Received::default(); 8];
            while began.elapsed() < LONG {
                (received..received + DEPTH)
                    .for_each(|number| peer.produced.set_slot(number, &wire(number)[..8]));
                peer.produced.set(Word::Tail, received + DEPTH);
                let count = rx.recv_batch(&mut items).unwrap();
                assert_eq!(count, DEPTH as usize);
                received += DEPTH;
                for item in &items[..count] {
                    let mut bytes = [0; RECORD - 8];
                    item.record().unwrap().encode(&mut bytes);
                    assert!(bytes.iter().all(|byte| [0x11, 0x77].contains(byte)), "{bytes:x?}");
                    mixed += u32::from(bytes.iter().any(|byte| *byte != bytes[0]));
                }
            }
            let written = busy.stop();
            eprintln!("{received} received, {mixed} of them mixed, {written} written");
            assert_eq!(peer.produced.get(Word::Head), received);
        }
    });
}

#[test]
fn records_that_change_into_nonsense_are_records_or_a_violation() {
    rounds::each_seed("records that change into nonsense", 1, |_| {
        for make in RECEIVERS {
            let (mut broken, began) = (0, Instant::now());
            while began.elapsed() < LONG || broken == 0 {
                assert!(began.elapsed() < SOON, "no record was found out");
                let (mut rx, peer) = make(4);
                let busy = Busy::with(&peer.produced, |ring, count| match count % 3 {
                    0 => ring.set_slot(count / 3, &[0xff; RECORD]),
                    _ => ring.set_payload(count / 3, &[0; RECORD - 8]),
                });
                for tail in 1..500 {
                    peer.produced.set_slot(tail - 1, &wire(tail - 1)[..8]);
                    peer.produced.set(Word::Tail, tail);
                    match rx.try_recv() {
                        Ok(item) => {
                            // Whatever its number is: none above the greatest comes through.
                            let Received::Record { sequence, .. } = item else { panic!("{item:?}") };
                            assert!(sequence.get() <= i32::MAX as u32);
                        }
                        Err(TryRecvError::PeerViolation(Violation::Record(_) | Violation::NothingLost)) => {
                            broken += 1;
                            break;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                busy.stop();
            }
        }
    });
}

#[test]
fn groups_that_change_while_they_are_read_are_whole_or_a_violation() {
    rounds::each_seed("groups that change", 1, |_| {
        for make in RESPONDERS {
            let began = Instant::now();
            let (mut whole, mut broken) = (0, 0);
            // Until it has come to both, which depends on who runs when.
            while began.elapsed() < LONG || whole == 0 || broken == 0 {
                assert!(began.elapsed() < SOON, "{whole} whole groups, {broken} violations");
                let (mut responder, peer) = make(4);
                (0..4).for_each(|number| peer.produced.set_slot(number, &wire_page(1 + number, true)));
                let busy = Busy::with(&peer.produced, |ring, count| {
                    ring.set_slot(count, &wire_page(1 + count % 7, count % 3 != 0));
                });
                let mut pages = [PgFault::default(); 16];
                for tail in 1..200 {
                    peer.produced.set(Word::Tail, tail);
                    match responder.try_recv_group(&mut pages) {
                        Ok(group) => {
                            let of = &pages[group.range()];
                            assert!(of.len() <= 4 && of.iter().all(|page| page.cookie == group.cookie()));
                            assert!((1..8).contains(&group.cookie()));
                            whole += 1;
                        }
                        Err(TryRecvError::Empty) => {}
                        Err(TryRecvError::PeerViolation(_)) => {
                            broken += 1;
                            break;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                    peer.consumed.set(Word::Head, peer.consumed.get(Word::Tail));
                }
                assert!(responder.open_cookies().len() <= 4);
                busy.stop();
            }
        }
    });
}

#[test]
fn words_that_change_all_the_time_hold_no_receive_up() {
    rounds::each_seed("words of a receiver that change", 1, |_| {
        let peers: [fn(&RawRing, u32); 5] = [
            |ring, count| {
                ring.set(Word::TailLoss, if count % 2 == 0 { LOSS | ((count / 2) & 0xff) } else { 0 })
            },
            |ring, count| ring.set(Word::Armed, count % 2),
            |ring, count| ring.set(Word::Drain, count % 2),
            |ring, count| ring.set(Word::Fences, count),
            |ring, count| ring.set(Word::Head, count),
        ];
        for make in RECEIVERS {
            for work in peers {
                let (mut rx, peer) = make(4);
                let busy = Busy::with(&peer.produced, work);
                let (began, mut number, mut lost) = (Instant::now(), 0, 0);
                while began.elapsed() < LONG / 4 {
                    if number % 3 != 2 {
                        peer.publish(&wire(number));
                    }
                    number += 1;
                    match timed(|| rx.recv_timeout(SHORT)) {
                        Ok(item) => lost += u64::from(item.lost()),
                        Err(TryRecvError::Empty) => {}
                        // Of a loss that was told and taken back while it was looked for.
                        Err(TryRecvError::PeerViolation(
                            Violation::NothingLost
                            | Violation::SequenceBackwards
                            | Violation::RingIndex
                            | Violation::StrayToken,
                        )) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                    peer.take();
                }
                assert_eq!(rx.counters().dropped, lost);
                busy.stop();
            }
        }
    });
}

#[test]
fn words_that_change_all_the_time_hold_no_send_up() {
    rounds::each_seed("words of a sender that change", 1, |_| {
        let peers: [fn(&RawRing, u32); 7] = [
            |ring, count| ring.set(Word::Armed, count % 2),
            |ring, count| ring.set(Word::Fences, count % 3),
            |ring, count| ring.set(Word::Tail, count),
            |ring, count| ring.set(Word::TailLoss, LOSS | count),
            |ring, count| ring.set(Word::Drain, count % 2),
            |ring, count| ring.set(Word::Head, ring.get(Word::Tail).wrapping_sub(count % 2)),
            |ring, count| ring.set(Word::Head, count),
        ];
        for make in SENDERS {
            for work in peers {
                let (mut tx, peer) = make(4);
                // Where there is no membarrier(2) it fences by itself.
                let _ = tx.use_asymmetric_fence();
                let busy = Busy::with(&peer.consumed, work);
                let (began, mut sent, mut tokens) = (Instant::now(), 0, 0);
                while began.elapsed() < LONG / 4 {
                    match timed(|| tx.post(notify(0x80, 0))) {
                        Ok(()) => sent += 1,
                        Err(TrySendError::Closed(_)) => {
                            // Found out, and told.
                            let told = tx.try_recv_reply();
                            assert!(
                                matches!(told, Err(TryRecvError::PeerViolation(Violation::RingIndex))),
                                "{told:?}"
                            );
                            break;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                    let _ = timed(|| tx.wait_drained(Some(Duration::ZERO)));
                    tokens += peer.take();
                }
                let counters = tx.counters();
                assert_eq!(counters.sent + counters.dropped, sent);
                assert!(tokens as u64 <= counters.wake_ups + 1, "{tokens} tokens for {counters:?}");
                busy.stop();
            }
        }
    });
}

#[test]
fn end_that_is_said_and_taken_back_all_the_time_is_the_end_once() {
    rounds::each_seed("an end that is taken back", 1, |_| {
        for make in RECEIVERS {
            let (mut rx, peer) = make(4);
            let busy = Busy::with(&peer.produced, |ring, count| ring.set(Word::Gone, count % 2));
            for number in 0..4 {
                peer.publish(&wire(number));
            }
            for number in 0..4 {
                assert_eq!(summary(timed(|| rx.recv()).unwrap()), (0, Some(number)));
            }
            let told = until(|| matches!(timed(|| rx.recv_timeout(SHORT)), Err(TryRecvError::Closed)));
            assert!(told, "it is not told");
            for _ in 0..1000 {
                assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
                assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
            }
            busy.stop();
        }
    });
}

#[test]
fn answers_that_change_while_they_are_read_complete_each_group_once() {
    rounds::each_seed("answers that change", 1, |_| {
        for make in REPORTERS {
            let (reporter, peer) = make(8);
            let published: Vec<_> = (0..8).map(|index| publish(&reporter, page(1, index))).collect();
            let cookies = published.clone();
            let busy = Busy::with(&peer.produced, move |ring, count| {
                let cookie = cookies[count as usize % 8];
                ring.set_slot(count / 3, &wire_response(cookie, count % 3));
            });
            let mut told = Vec::new();
            for tail in 1..2000 {
                peer.produced.set(Word::Tail, tail);
                told.extend(timed(|| ended(&reporter)));
            }
            busy.stop();
            reporter.detach(1);
            told.extend(ended(&reporter));
            let told = sorted(told);
            let mut expected = published;
            expected.sort_unstable();
            assert!(told.iter().map(|(cookie, ..)| *cookie).eq(expected), "{told:?}");
            for (_, code, cause) in told {
                assert!(code == ResponseCode::Invalid || cause == Cause::Answered);
            }
        }
    });
}
