//! Waiting ends when it should: in time, and with what was waited for.

mod common;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::far::EVERY_MAKE_ANY;
use common::*;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
#[cfg(feature = "local")]
use recordfd::event::Received;
use recordfd::{DrainError, Options, TryRecvError};

#[test]
fn far_end() {
    common::far::far_end();
}

#[test]
fn receive_with_a_timeout_ends_in_time_though_urgent_bytes_keep_coming() {
    let (mut rx, peer) = receiver_and_peer(&Options::new());
    if send(peer.as_raw_fd(), b"!", MsgFlags::MSG_OOB) == Err(Errno::EOPNOTSUPP) {
        eprintln!("skipped: this kernel has no urgent bytes on AF_UNIX");
        return;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = thread::spawn(move || {
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            sent +=
                u32::from(send(peer.as_raw_fd(), b"!", MsgFlags::MSG_OOB | MsgFlags::MSG_DONTWAIT).is_ok());
        }
        sent
    });
    let (outcome, took) = soon(move || {
        let began = Instant::now();
        // The urgent bytes are no part of the stream, or else they are one that is no record.
        (rx.recv_timeout(Duration::from_millis(50)), began.elapsed())
    });
    stop.store(true, Ordering::Relaxed);
    assert!(flood.join().unwrap() > 0);
    assert!(matches!(outcome, Err(TryRecvError::Empty | TryRecvError::PeerViolation(_))), "{outcome:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn longest_times_are_no_overflow() {
    for make in EVERY_MAKE_ANY {
        let (tx, mut rx) = make(&Options::new().busy_poll(Duration::MAX));
        assert!(matches!(rx.recv_timeout(Duration::from_millis(1)), Err(TryRecvError::Empty)));
        let receiver = thread::spawn(move || {
            let first = rx.recv_timeout(Duration::MAX);
            rx.set_busy_poll(Duration::ZERO);
            (first, rx.recv_timeout(Duration::from_secs(u64::MAX / 4)), rx)
        });
        for data in 0..2 {
            tx.try_send(notify(0x80, data)).unwrap();
            tx.wait_drained(Some(Duration::MAX)).unwrap();
        }
        let (first, second, _rx) = soon(move || receiver.join().unwrap());
        assert_eq!([first, second].map(|item| summary(item.unwrap())), [(0, Some(0)), (0, Some(1))]);
    }
}

#[test]
fn receive_with_no_time_at_all_still_takes_what_is_there() {
    for make in EVERY_MAKE_ANY {
        let (tx, mut rx) = make(&Options::new());
        assert!(matches!(rx.recv_timeout(Duration::ZERO), Err(TryRecvError::Empty)));
        tx.try_send(notify(0x80, 7)).unwrap();
        assert_eq!(summary(rx.recv_timeout(Duration::ZERO).unwrap()), (0, Some(7)));
    }
}

#[cfg(feature = "local")]
#[test]
fn drained_is_told_when_the_last_record_is_read_though_a_loss_is_not() {
    let (tx, mut rx) = common::local(&Options::new().depth(4));
    (0..7).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    let waiter = {
        let tx = tx.clone();
        thread::spawn(move || tx.wait_drained(None))
    };
    // So that the waiter sleeps, most of the time: only then is there something to tell it.
    thread::sleep(Duration::from_millis(50));
    let mut items = [Received::default(); 4];
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 4);
    assert!(tx.is_drained().unwrap());
    soon(move || waiter.join().unwrap()).unwrap();
    assert_eq!(rx.try_recv().unwrap(), Received::Lost { count: 3 });
}

#[test]
fn waiting_for_a_peer_that_never_reads_ends_in_time() {
    let (tx, _peer) = sender_and_peer(&Options::new());
    tx.try_send(notify(0x80, 0)).unwrap();
    let began = Instant::now();
    let outcome = soon(move || tx.wait_drained(Some(Duration::from_millis(30))));
    assert!(matches!(outcome, Err(DrainError::Timeout)));
    assert!(began.elapsed() >= Duration::from_millis(30));
}
