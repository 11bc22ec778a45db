//! A peer of a shared channel that misuses the socket: what it puts in, withholds and closes is an error or a wait
//! that ends, and holds nothing.

mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::MsgFlags;
use recordfd::event::SoleSender;
use recordfd::uapi::{AcpiNotify, AcpiOst, Format, Record};
use recordfd::{DrainError, TryRecvError, TrySendError, Violation};
use ring_ends::{RECEIVERS, REPLIES, SENDERS, violation};
use ring_peer::{RingPeer, Word, good_offer};

const STRAY: Violation = Violation::StrayToken;

/// Receives as often as it takes; fails if it is not broken after `most` receives. How many brought nothing.
fn broken_after(rx: &mut Rx, most: usize) -> (usize, Violation) {
    for count in 0..most {
        match rx.try_recv() {
            Err(TryRecvError::Empty) => {}
            other => return (count, violation(other)),
        }
    }
    panic!("{most} receives say nothing of what is in the socket");
}

#[test]
fn byte_that_stands_for_no_wake_up_is_a_violation_of_the_first_receive_that_looks() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
        peer.put(&[0]);
        assert_eq!(broken_after(&mut rx, 1), (0, STRAY));
        // For ever, whatever comes.
        peer.publish(&wire(0));
        assert_eq!(violation(rx.try_recv()), STRAY);
        assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
    }
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        peer.put(&[0]);
        assert_eq!(violation(tx.try_recv_reply()), STRAY);
        assert!(matches!(tx.try_send(notify(1, 1)), Err(TrySendError::Closed(_))));
        assert!(matches!(tx.post(notify(1, 1)), Err(TrySendError::Closed(_))));
        assert!(tx.is_closed());
        assert!(matches!(tx.is_drained(), Ok(true)), "nothing was sent");
    }
}

#[test]
fn byte_that_comes_after_many_empty_receives_is_found_before_long() {
    let (mut rx, peer) = RECEIVERS[0](4);
    for _ in 0..1000 {
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    }
    peer.put(&[0]);
    assert_eq!(broken_after(&mut rx, 64).1, STRAY);
    // At once by one who was woken by it.
    let (mut rx, peer) = RECEIVERS[0](4);
    for _ in 0..1000 {
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    }
    let receiver = thread::spawn(move || violation(rx.recv()));
    while peer.put(&[0]) == 1 && !receiver.is_finished() {
        thread::yield_now();
    }
    assert_eq!(receiver.join().unwrap(), STRAY);
}

#[test]
fn flood_of_bytes_hides_no_record_and_is_then_a_violation() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        // As much as the socket takes.
        while peer.put(&[0x55; 4096]) > 0 {}
        (0..3).for_each(|number| peer.publish(&wire(number)));
        for number in 0..3 {
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
        }
        assert_eq!(broken_after(&mut rx, 1), (0, STRAY));
    }
}

#[test]
fn claims_without_tokens_hide_a_flood_only_as_long_as_it_takes_to_read_it() {
    let (mut rx, peer) = RECEIVERS[1](4);
    // The word is taken, so a token must be under way.
    for _ in 0..100 {
        peer.produced.set(Word::Armed, 0);
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    }
    assert_eq!(rx.counters().wake_ups, 100);
    assert_eq!(peer.put(&[0; 1000]), 1000);
    // 100 are tokens, the others are not.
    assert_eq!(broken_after(&mut rx, 1), (0, STRAY));
}

#[test]
fn byte_sent_out_of_band_is_as_stray_as_any() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        if peer.put_with(&[7], &[], MsgFlags::MSG_OOB) == 0 {
            return eprintln!("skipped: the kernel takes no such byte on these sockets");
        }
        assert_eq!(soon(move || violation(rx.recv())), STRAY);
        // Nor does it reach the tokens behind it.
        let (mut rx, peer) = make(4);
        peer.put_with(&[7], &[], MsgFlags::MSG_OOB);
        peer.publish(&wire(0));
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty | TryRecvError::PeerViolation(STRAY))));
    }
}

#[test]
fn withheld_token_hides_a_record_from_poll_only() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        assert!(matches!(rx.recv_timeout(Duration::from_millis(5)), Err(TryRecvError::Empty)));
        peer.produced.set_slot(0, &wire(0));
        peer.produced.set(Word::Tail, 1);
        assert!(!readable(&rx), "the token was withheld");
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    }
}

#[test]
fn tokens_for_nothing_do_not_make_a_timed_receive_last() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        let ring = peer.produced.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, peer) = (stop.clone(), Arc::new(peer));
        // Takes the wish for a token whenever there is one, and keeps the socket full.
        let clearing = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                ring.set(Word::Armed, 0);
            }
        });
        let (stopped, putting) = (stop.clone(), peer.clone());
        let flooding = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                putting.put(&[0; 64]);
            }
        });
        let received = soon(move || rx.recv_timeout(Duration::from_millis(100)));
        stop.store(true, Ordering::Relaxed);
        clearing.join().unwrap();
        flooding.join().unwrap();
        assert!(
            matches!(received, Err(TryRecvError::Empty | TryRecvError::PeerViolation(STRAY))),
            "{received:?}"
        );
    }
}

#[test]
fn sender_that_is_asked_for_tokens_for_ever_puts_in_what_there_is_room_for() {
    for make in SENDERS {
        let (mut tx, peer) = make(8);
        let mut sent = 0;
        for _ in 0..20_000 {
            peer.consumed.set(Word::Armed, 1);
            match tx.try_send(notify(0x80, sent)) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(_)) => peer.consumed.add(Word::Head, 8),
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(sent > 17_000);
        assert_eq!(tx.counters().wake_ups, u64::from(sent), "one for each wish");
        let put = peer.take();
        assert!(put > 0 && 2 * put < sent as usize, "{put}");
        // Then it goes on as ever.
        peer.consumed.set(Word::Armed, 1);
        peer.consumed.set(Word::Head, sent);
        tx.try_send(notify(0x80, sent)).unwrap();
        assert_eq!(peer.take(), 1);
    }
}

#[test]
fn threads_that_owe_a_token_each_put_in_no_more_than_that() {
    for make in SENDERS {
        let (tx, peer) = make(8);
        let tx = tx.into_shared();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver, stopped) = (tx.clone(), tx, [stop.clone(), stop.clone()]);
        let [done, also_done] = [mpsc::channel(), mpsc::channel()];
        thread::spawn(move || {
            while !stopped[0].load(Ordering::Relaxed) {
                sender.post(notify(0x80, 0)).unwrap();
            }
            done.0.send(()).unwrap();
        });
        let other_stop = stop.clone();
        thread::spawn(move || {
            while !other_stop.load(Ordering::Relaxed) {
                let _ = receiver.try_recv_reply();
            }
            also_done.0.send(()).unwrap();
        });
        // Both are asked for a token with each thing that they do: for a record, and for having read a reply.
        let (mut wishes, mut tokens) = (0, 0);
        for _ in 0..100_000 {
            peer.consumed.set(Word::Armed, 1);
            peer.produced.set(Word::Drain, 1);
            wishes += 2;
            let tail = peer.produced.get(Word::Tail);
            if peer.produced.get(Word::Head) == tail {
                peer.produced.set(Word::Tail, tail.wrapping_add(1));
            }
            tokens += peer.take();
        }
        stop.store(true, Ordering::Relaxed);
        for done in [done.1, also_done.1] {
            assert!(done.recv_timeout(SOON).is_ok(), "a thread puts tokens in without end");
        }
        tokens += peer.take();
        assert!(tokens > 0 && tokens <= wishes, "{tokens} tokens for {wishes} wishes");
    }
}

#[test]
fn descriptors_attached_to_tokens_do_not_stay_open() {
    in_own_process("descriptors_attached_to_tokens_do_not_stay_open", || {
        // What this side makes refuses descriptors, so the peer makes this.
        let (mut rx, peer) = RECEIVERS[1](4);
        let before = open_descriptors();
        for number in 0..20 {
            peer.produced.set_slot(number, &wire(number));
            peer.produced.set(Word::Tail, number + 1);
            peer.produced.set(Word::Armed, 0);
            assert_eq!(peer.put_with(&[0], &[0; 253], MsgFlags::empty()), 1);
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
            assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
            assert_eq!(open_descriptors(), before);
        }
        // Also on a byte that is only looked at.
        assert_eq!(peer.put_with(&[0], &[0; 253], MsgFlags::empty()), 1);
        assert_eq!(violation(rx.try_recv()), STRAY);
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn socket_shut_down_for_writing_is_a_hang_up_behind_what_was_published() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        (0..2).for_each(|number| peer.publish(&wire(number)));
        peer.socket().shutdown(Shutdown::Write).unwrap();
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(0)));
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(1)));
        for _ in 0..3 {
            assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
            assert!(readable(&rx));
        }
        assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
    }
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        tx.try_send(notify(1, 1)).unwrap();
        peer.socket().shutdown(Shutdown::Write).unwrap();
        assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
        assert!(matches!(tx.try_send(notify(1, 1)), Err(TrySendError::Closed(_))));
        assert!(matches!(tx.is_drained(), Err(DrainError::Closed)));
        assert!(matches!(tx.wait_drained(None), Err(DrainError::Closed)));
    }
}

#[test]
fn socket_shut_down_for_reading_is_noticed_with_the_next_token() {
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        peer.socket().shutdown(Shutdown::Read).unwrap();
        tx.try_send(notify(1, 1)).unwrap();
        assert!(matches!(tx.try_send(notify(1, 2)), Err(TrySendError::Closed(_))));
        assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
    }
}

#[test]
fn memory_that_outlives_the_socket_still_gives_what_was_published() {
    for make in RECEIVERS {
        let (mut rx, mut peer) = make(4);
        (0..2).for_each(|number| peer.publish(&wire(number)));
        peer.hang_up();
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(0)));
        // Who has hung up and goes on publishing is read until nothing is there, and not again.
        peer.publish(&wire(2));
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(1)));
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(2)));
        assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
        peer.publish(&wire(3));
        assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
        assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
    }
    for make in SENDERS {
        let (mut tx, mut peer) = make(4);
        tx.try_send(notify(1, 1)).unwrap();
        peer.hang_up();
        // The memory goes on to say that there is room.
        let sent = (0..1000).take_while(|_| {
            peer.consumed.set(Word::Head, peer.consumed.get(Word::Tail));
            peer.consumed.set(Word::Armed, 1);
            tx.try_send(notify(1, 1)).is_ok()
        });
        assert_eq!(sent.count(), 1, "the wake-up finds out");
        assert!(tx.is_closed());
        assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
    }
}

#[test]
fn wait_for_a_drain_that_is_told_and_never_comes_keeps_its_time() {
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        tx.try_send(notify(1, 1)).unwrap();
        // The socket is readable all the time, and each wish is taken back as if it had been met.
        peer.put(&[0]);
        let stop = Arc::new(AtomicBool::new(false));
        let (ring, stopped) = (peer.consumed.clone(), stop.clone());
        let clearing = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                ring.set(Word::Drain, 0);
            }
        });
        let (outcome, waited) = soon(move || {
            let began = Instant::now();
            (tx.wait_drained(Some(Duration::from_millis(100))), began.elapsed())
        });
        stop.store(true, Ordering::Relaxed);
        clearing.join().unwrap();
        assert!(matches!(outcome, Err(DrainError::Timeout)), "{outcome:?}");
        assert!(waited >= Duration::from_millis(100));
    }
}

/// How often poll says that `tx` has something to receive, though it has not, until `stop`.
fn polls_for_nothing(tx: &Tx, stop: &AtomicBool) -> u32 {
    let mut polls = 0;
    while !stop.load(Ordering::Relaxed) {
        while tx.try_recv_reply().is_ok() {}
        let mut fds = [PollFd::new(tx.as_fd(), PollFlags::POLLIN)];
        polls += u32::from(poll(&mut fds, 10u16).unwrap() > 0);
    }
    polls
}

/// The peer takes the wish to be notified of a drain back and puts one byte in, each time anew, and reads nothing,
/// while two threads wait. With `replies`, there is one to receive each time, too. How often a third thread, which
/// polls for replies, is woken for nothing, for each byte.
fn polls_for_each_byte(make: fn(u32) -> (SoleSender<AcpiNotify>, RingPeer), replies: bool) -> usize {
    let (tx, peer) = make(4);
    let tx = tx.into_shared();
    tx.try_send(notify(1, 1)).unwrap();
    let (stop, wait, began) = (AtomicBool::new(false), Duration::from_millis(600), Instant::now());
    let mut bytes = 0;
    let polls = thread::scope(|scope| {
        let waiters = [(); 2].map(|()| scope.spawn(|| tx.wait_drained(Some(wait))));
        let polls = scope.spawn(|| polls_for_nothing(&tx, &stop));
        while began.elapsed() < wait / 2 || bytes == 0 {
            if peer.consumed.get(Word::Drain) == 1 {
                if replies {
                    peer.publish(&[0; AcpiOst::SIZE]);
                }
                peer.consumed.set(Word::Drain, 0);
                bytes += peer.put(&[0]);
            }
            thread::sleep(Duration::from_millis(60));
        }
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Err(DrainError::Timeout)));
        }
        stop.store(true, Ordering::Relaxed);
        polls.join().unwrap()
    });
    eprintln!("{polls} polls for {bytes} bytes");
    polls as usize / bytes
}

#[test]
fn pretended_drain_does_not_make_another_poller_spin() {
    for make in SENDERS {
        for replies in [false, true] {
            // Once is enough: on a busy machine the thread that takes the byte out may be late.
            assert!(until(|| polls_for_each_byte(make, replies) < 10_000));
        }
    }
}

#[test]
fn wish_to_be_told_of_a_drain_costs_one_token_each_time() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        for number in 0..100 {
            peer.produced.set(Word::Drain, 1);
            peer.publish(&wire(number));
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
            assert_eq!(peer.produced.get(Word::Drain), 0);
            // Set again while nothing is read, it is not answered.
            peer.produced.set(Word::Drain, 1);
            assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
            assert_eq!((peer.produced.get(Word::Drain), peer.take()), (1, 1));
        }
        // What is no such wish is none.
        peer.produced.set(Word::Drain, 2);
        peer.publish(&wire(100));
        rx.try_recv().unwrap();
        assert_eq!((peer.produced.get(Word::Drain), peer.take()), (2, 0));
    }
}

#[test]
fn words_of_both_sides_tell_whether_it_was_drained_and_nothing_else_does() {
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        tx.try_send(notify(1, 1)).unwrap();
        let timeout = Some(Duration::from_millis(5));
        assert!(matches!(tx.wait_drained(timeout), Err(DrainError::Timeout)));
        // The wish is there. Taken back without reading, and a token put in, it says nothing.
        assert_eq!(peer.consumed.get(Word::Drain), 1);
        peer.consumed.set(Word::Drain, 0);
        peer.put(&[0]);
        assert!(matches!(tx.wait_drained(timeout), Err(DrainError::Timeout)));
        assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)), "the token was counted");
        assert!(peer.take_record().is_some());
        tx.wait_drained(timeout).unwrap();
    }
}

#[test]
fn copy_of_this_sides_socket_that_the_maker_kept_takes_wake_ups_and_nothing_else() {
    let (mut peer, end) = RingPeer::make(&good_offer(Format::ACPI_NOTIFY_V1, false, 4, REPLIES));
    let mut copy = UnixStream::from(end.try_clone().unwrap());
    let mut rx = Rx::from_shared(end).unwrap();
    for number in 0..20 {
        // In any mode: it is that of both.
        copy.set_nonblocking(number % 2 == 0).unwrap();
        rx = soon(move || {
            assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
            rx
        });
        peer.publish(&wire(number));
        if number % 3 == 0 {
            assert_eq!(copy.read(&mut [0; 8]).unwrap(), 1);
            assert!(!readable(&rx));
        } else {
            assert!(readable(&rx));
        }
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
    }
    // Nor does it keep the channel open.
    peer.hang_up();
    assert!(matches!(soon(move || rx.recv()), Err(TryRecvError::Closed)));
}

#[test]
fn replies_and_records_at_once_are_told_by_one_socket() {
    for make in SENDERS {
        let (mut tx, peer): (_, RingPeer) = make(4);
        for cookie in 0..50 {
            tx.try_send(notify(1, cookie)).unwrap();
            peer.take();
            assert!(peer.take_record().is_some());
            peer.consumed.set(Word::Armed, 1);
            for part in 0..REPLIES {
                let reply: Vec<_> = [cookie, part, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
                peer.publish(&reply);
            }
            for part in 0..REPLIES {
                assert!(readable(&tx), "a reply waits");
                assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(cookie, part, 0));
            }
            assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
            assert!(!readable(&tx));
        }
    }
}
