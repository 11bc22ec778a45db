//! Waiting on a shared channel: who looks by itself is woken by nobody, who sleeps is, and counters tell which it was.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::fault::{page, publish};
use common::*;
use recordfd::event::Received;
use recordfd::fault::{self, FaultCompletion, ResponseCode};
use recordfd::uapi::{AcpiOst, PgFault};
use recordfd::{DrainError, Error, Options, TryRecvError, TrySendError};

const SHARED: [Make; 2] = [common::shared, common::shared_made_by_receiver];
/// Longer than any test takes: whoever looks so long never sleeps.
const ALWAYS: Duration = Duration::from_secs(3600);

/// How often a receiver was found something for by looking, and how often only after a sleep.
fn waits(rx: &Rx) -> (u64, u64) {
    (rx.counters().busy_polls, rx.counters().sleeps)
}

/// Runs `wait` in a thread; calls `act` when that has begun, and gives it time to get where it waits.
fn meanwhile<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static, act: impl FnOnce()) -> T {
    let waiter = thread::spawn(wait);
    thread::sleep(Duration::from_millis(20));
    act();
    soon(move || waiter.join().unwrap())
}

#[test]
fn what_is_there_already_is_no_wait() {
    for make in SHARED {
        for busy_poll in [Duration::ZERO, ALWAYS] {
            let (tx, mut rx) = make(&Options::new());
            rx.set_busy_poll(busy_poll);
            (0..3).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
            rx.recv().unwrap();
            rx.recv_timeout(SOON).unwrap();
            assert!(rx.wait(None).unwrap() && rx.wait(Some(Duration::ZERO)).unwrap());
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(2)), "a wait takes nothing");
            drop(tx);
            assert!(rx.wait(None).unwrap(), "the end is something, too");
            assert_eq!(waits(&rx), (0, 0));
        }
    }
}

#[test]
fn counters_tell_a_look_from_a_sleep() {
    // Several times, for a busy machine may be late with the waiting thread, and a wake-up come for nothing, once.
    let tell = |busy_poll: Duration, expected: fn((u64, u64)) -> bool| {
        until(|| {
            SHARED.iter().all(|make| {
                let (tx, mut rx) = make(&Options::new());
                rx.set_busy_poll(busy_poll);
                let wait = move || {
                    rx.recv_timeout(SOON).unwrap();
                    assert!(rx.wait(Some(SOON)).unwrap());
                    rx.recv().unwrap();
                    waits(&rx)
                };
                let waits = meanwhile(wait, || {
                    tx.try_send(notify(0x80, 0)).unwrap();
                    tx.wait_drained(Some(SOON)).unwrap();
                    thread::sleep(Duration::from_millis(20));
                    tx.try_send(notify(0x80, 1)).unwrap();
                });
                expected(waits)
            })
        })
    };
    assert!(tell(Duration::ZERO, |waits| waits == (0, 2)));
    assert!(tell(ALWAYS, |waits| waits == (2, 0)));
    // It looks first, then sleeps; once for nothing, which is what it left itself.
    assert!(tell(Duration::from_micros(100), |waits| waits == (0, 3)));
}

#[test]
fn receiver_that_looks_by_itself_is_never_woken() {
    const RECORDS: u32 = 20_000;
    for make in SHARED {
        let (tx, mut rx) = make(&Options::new().depth(64));
        rx.set_busy_poll(ALWAYS);
        let receiver = thread::spawn(move || {
            let (mut items, mut next) = ([Received::default(); 8], 0);
            while next < RECORDS {
                // By turns in both ways there are.
                if next % 3 == 0 {
                    assert_eq!(summary(rx.recv().unwrap()), (0, Some(next)));
                    next += 1;
                } else {
                    assert!(rx.wait(None).unwrap());
                    next += rx.recv_batch(&mut items).unwrap() as u32;
                }
            }
            rx.counters()
        });
        for data in 0..RECORDS {
            while let Err(TrySendError::Full(_)) = tx.try_send(notify(0x80, data)) {
                thread::yield_now();
            }
        }
        let counters = soon(move || receiver.join().unwrap());
        // The one that every new channel asks for, which then stays where it is.
        assert_eq!((tx.counters().wake_ups, counters.wake_ups, counters.sleeps), (1, 1, 0));
    }
}

#[test]
fn wake_up_left_for_a_busy_receiver_is_there_for_nothing_once_at_most() {
    for make in SHARED {
        let (tx, mut rx) = make(&Options::new());
        let for_nothing = |rx: &mut Rx| {
            let mut times = 0;
            for round in 0..50 {
                (0..=round % 3).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
                for data in 0..=round % 3 {
                    assert!(readable(&*rx), "a record waits behind an unreadable descriptor");
                    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
                }
                let left = readable(&*rx);
                times += u32::from(left);
                assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
                assert!(!readable(&*rx), "for nothing, twice");
            }
            times
        };
        rx.set_busy_poll(ALWAYS);
        assert_eq!(for_nothing(&mut rx), 50, "or this shows nothing");
        rx.set_busy_poll(Duration::ZERO);
        assert_eq!(for_nothing(&mut rx), 0);
        // Left by a receive, and no longer wanted: the next one that leaves nothing takes it out.
        rx.set_busy_poll(ALWAYS);
        tx.try_send(notify(0x80, 0)).unwrap();
        rx.recv().unwrap();
        rx.set_busy_poll(Duration::ZERO);
        tx.try_send(notify(0x80, 1)).unwrap();
        assert!(readable(&rx));
        rx.recv().unwrap();
        assert!(!readable(&rx));
    }
}

#[test]
fn looking_ends_in_time() {
    let timeout = Duration::from_millis(20);
    let in_time = |what: &mut dyn FnMut()| {
        let began = Instant::now();
        what();
        let took = began.elapsed();
        assert!(took >= timeout && took < SOON / 2, "{took:?}");
    };
    for make in SHARED {
        let (tx, mut rx) = make(&Options::new().busy_poll(ALWAYS));
        rx.set_busy_poll(ALWAYS);
        in_time(&mut || assert!(matches!(rx.recv_timeout(timeout), Err(TryRecvError::Empty))));
        in_time(&mut || assert!(!rx.wait(Some(timeout)).unwrap()));
        assert_eq!(waits(&rx), (0, 0), "nothing came of either");
        assert!(!readable(&rx));
        tx.try_send(notify(0x80, 0)).unwrap();
        in_time(&mut || assert!(matches!(tx.wait_drained(Some(timeout)), Err(DrainError::Timeout))));
        rx.recv_timeout(timeout).unwrap();
        tx.wait_drained(Some(timeout)).unwrap();
    }
    for make in [common::fault::shared, common::fault::shared_made_by_responder] {
        let (reporter, mut responder) = make(&fault::Options::new().busy_poll(ALWAYS));
        responder.set_busy_poll(ALWAYS);
        let mut pages = [PgFault::default()];
        let mut out = [FaultCompletion::default()];
        in_time(&mut || {
            assert!(matches!(responder.recv_group_timeout(&mut pages, timeout), Err(TryRecvError::Empty)));
        });
        in_time(&mut || assert!(!responder.wait(Some(timeout)).unwrap()));
        publish(&reporter, page(1, 0));
        in_time(&mut || {
            let outcome = reporter.wait_completions(&mut out, Some(timeout));
            assert!(matches!(outcome, Err(TryRecvError::Empty)), "{outcome:?}");
        });
        in_time(&mut || assert!(matches!(reporter.drain(1, timeout), Err(DrainError::Timeout))));
    }
}

#[test]
fn looking_ends_when_the_other_side_does() {
    for make in SHARED {
        let (tx, mut rx) = make(&Options::new());
        rx.set_busy_poll(ALWAYS);
        let outcome = meanwhile(move || (rx.wait(None).unwrap(), rx.recv()), || drop(tx));
        assert!(matches!(outcome, (true, Err(TryRecvError::Closed))), "{outcome:?}");
    }
}

#[test]
fn counters_of_page_faults_tell_a_look_from_a_sleep() {
    for make in [common::fault::shared, common::fault::shared_made_by_responder] {
        for busy_poll in [Duration::ZERO, ALWAYS] {
            let is_told = until(|| {
                let (reporter, mut responder) = make(&fault::Options::new().busy_poll(busy_poll));
                responder.set_busy_poll(busy_poll);
                let late = reporter.clone();
                let receive = move || {
                    let group = responder.recv_group(&mut [PgFault::default()]).unwrap();
                    (group, responder)
                };
                let (group, responder) = meanwhile(receive, || {
                    publish(&late, page(1, 0));
                });
                let collect = move || {
                    assert_eq!(
                        reporter.wait_completions(&mut [FaultCompletion::default()], None).unwrap(),
                        1
                    );
                    (reporter.counters().busy_polls, reporter.counters().sleeps)
                };
                let reporters = meanwhile(collect, || group.respond(ResponseCode::Success).unwrap());
                let expected = if busy_poll.is_zero() { (0, 1) } else { (1, 0) };
                responder.waits() == expected && reporters == expected
            });
            assert!(is_told, "busy_poll {busy_poll:?}");
        }
    }
}

/// Sends a record and waits for its reply, asleep in between, many times.
fn ping_pong(tx: &Tx, mut rx: Rx) {
    const TIMES: u32 = 3_000;
    let receiver = thread::spawn(move || {
        for data in 0..TIMES {
            let item = rx.recv_timeout(SOON).expect("a lost wake-up");
            assert_eq!(summary(item), (0, Some(data)));
            rx.reply(AcpiOst::new(data, 0, 0)).unwrap();
        }
        rx.counters().sleeps
    });
    for data in 0..TIMES {
        tx.try_send(notify(0x80, data)).unwrap();
        let reply = loop {
            match tx.try_recv_reply() {
                Err(TryRecvError::Empty) => assert!(wait_readable(tx), "a lost wake-up"),
                outcome => break outcome.unwrap(),
            }
        };
        assert_eq!(reply.cookie, data);
    }
    assert!(soon(move || receiver.join().unwrap()) > 0, "it never slept, so this shows nothing");
}

#[test]
fn no_wake_up_is_lost_whoever_fences() {
    for make in SHARED {
        for (sender_agrees, receiver_agrees) in [(true, true), (true, false), (false, true)] {
            let (tx, mut rx) = make(&Options::new());
            // One round before, so that the words are in every state when it begins.
            tx.try_send(notify(0x80, 0)).unwrap();
            rx.try_recv().unwrap();
            if sender_agrees {
                tx.use_asymmetric_fence().unwrap();
            }
            if receiver_agrees {
                rx.use_asymmetric_fence().unwrap();
            }
            ping_pong(&tx, rx);
        }
    }
}

#[test]
fn fences_can_be_left_to_the_other_side_in_shared_memory_alone() {
    let others: &[Make] = &[
        #[cfg(feature = "local")]
        common::local,
        common::socket,
    ];
    for make in others {
        let (tx, mut rx) = make(&Options::new());
        for outcome in [tx.use_asymmetric_fence(), rx.use_asymmetric_fence()] {
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
            assert_eq!(error.errno(), 95);
        }
    }
    let (reporter, mut responder) = common::fault::socket(&fault::Options::new());
    assert!(matches!(reporter.use_asymmetric_fence(), Err(Error::Unsupported { .. })));
    assert!(matches!(responder.use_asymmetric_fence(), Err(Error::Unsupported { .. })));
}

/// Several threads send and wait until all is read, while the receiver replies and another thread takes that.
fn drain_from_all_sides(make: Make, busy_poll: Duration) {
    const EACH: u32 = 400;
    const THREADS: u32 = 4;
    let (tx, mut rx) = make(&Options::new().depth(64).reply_depth(16));
    rx.set_busy_poll(busy_poll);
    let replies = AtomicU32::new(0);
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            for reply in 0..EACH * THREADS {
                rx.recv_timeout(SOON).expect("a lost wake-up");
                assert!(until(|| rx.reply(AcpiOst::new(reply, 0, 0)).is_ok()), "nobody takes replies");
            }
            rx
        });
        let senders = [(); THREADS as usize].map(|()| {
            scope.spawn(|| {
                for data in 0..EACH {
                    while let Err(TrySendError::Full(_)) = tx.try_send(notify(0x80, data)) {
                        thread::yield_now();
                    }
                    tx.wait_drained(Some(SOON)).expect("nobody tells that it is read");
                }
            })
        });
        scope.spawn(|| {
            while replies.load(Ordering::Relaxed) < EACH * THREADS {
                match tx.try_recv_reply() {
                    Ok(reply) => assert_eq!(reply.cookie, replies.fetch_add(1, Ordering::Relaxed)),
                    Err(TryRecvError::Empty) => {
                        assert!(wait_readable(&tx), "a reply behind an unreadable descriptor")
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        let _rx = receiver.join().unwrap();
        assert!(tx.is_drained().unwrap());
    });
    assert_eq!(replies.into_inner(), EACH * THREADS);
}

#[test]
fn threads_that_wait_for_drained_leave_replies_and_their_wake_ups_alone() {
    for make in SHARED {
        drain_from_all_sides(make, Duration::ZERO);
        drain_from_all_sides(make, Duration::from_micros(50));
    }
}

#[test]
fn descriptor_is_quiet_behind_waits_for_drained() {
    for make in SHARED {
        let (tx, mut rx) = make(&Options::new());
        for round in 0..200 {
            tx.try_send(notify(0x80, round)).unwrap();
            if round % 3 == 0 {
                assert!(matches!(tx.wait_drained(Some(Duration::ZERO)), Err(DrainError::Timeout)));
            }
            let receiver = thread::spawn(move || {
                assert_eq!(summary(rx.recv_timeout(SOON).unwrap()), (0, Some(round)));
                if round % 2 == 0 {
                    rx.reply(AcpiOst::new(round, 0, 0)).unwrap();
                }
                rx
            });
            tx.wait_drained(Some(SOON)).unwrap();
            rx = receiver.join().unwrap();
            if round % 2 == 0 {
                assert!(readable(&tx), "a reply behind an unreadable descriptor");
                assert_eq!(tx.try_recv_reply().unwrap().cookie, round);
            }
            // It may be for nothing once.
            assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
            assert!(!readable(&tx), "round {round}: for nothing, twice");
        }
    }
}
