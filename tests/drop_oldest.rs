//! Dropping the oldest: the last state always arrives, and what it displaced is counted.

#![cfg(feature = "local")]

mod common;

use std::thread;

use common::*;
use recordfd::event::Received;
use recordfd::{Options, Overflow, TryRecvError, TrySendError};

fn channel(depth: u32) -> (Tx, Rx) {
    common::local(&Options::new().depth(depth).overflow(Overflow::DropOldest))
}

#[test]
fn newest_records_stay_and_the_first_of_them_tells_the_loss() {
    let (tx, mut rx) = channel(4);
    (0..10).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    assert_eq!((tx.counters().sent, tx.counters().dropped), (10, 6));
    let expected = [(6, Some(6)), (0, Some(7)), (0, Some(8)), (0, Some(9))];
    for item in expected {
        assert!(readable(&rx));
        assert_eq!(summary(rx.try_recv().unwrap()), item);
    }
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    assert!(!readable(&rx));
    assert_eq!((rx.counters().received, rx.counters().dropped), (4, 6));
}

#[test]
fn sending_otherwise_still_gives_back_what_does_not_fit() {
    let (tx, mut rx) = channel(2);
    (0..2).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
    assert!(matches!(tx.try_send(notify(0x80, 2)), Err(TrySendError::Full(_))));
    assert!(matches!(tx.send_batch(&[notify(0x80, 2)]), Err(TrySendError::Full(()))));
    tx.post(notify(0x80, 2)).unwrap();
    assert_eq!(summary(rx.try_recv().unwrap()), (1, Some(1)));
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(2)));
}

#[test]
fn nothing_is_taken_once_the_receiver_is_gone() {
    let (tx, rx) = channel(2);
    drop(rx);
    assert!(matches!(tx.post(notify(0x80, 7)), Err(TrySendError::Closed(record)) if record.data == 7));
    assert_eq!(tx.counters().sent, 0);
}

#[test]
fn last_record_arrives_and_the_sums_agree_while_both_sides_run() {
    const POSTED: u32 = 50_000;
    for (depth, most) in [(1, 1), (2, 8), (4, 1), (64, 16)] {
        let (tx, mut rx) = channel(depth);
        let sender = thread::spawn(move || {
            (0..POSTED).for_each(|data| tx.post(notify(0x80, data)).unwrap());
            tx.counters()
        });
        let (mut received, mut lost, mut last) = (0, 0, None);
        let mut items = [Received::default(); 16];
        loop {
            match rx.recv_batch(&mut items[..most]) {
                Ok(count) => {
                    for item in &items[..count] {
                        lost += item.lost();
                        let record = item.record().unwrap();
                        assert_eq!(record.data, received + lost, "in order, and the loss before it");
                        received += 1;
                        last = Some(record.data);
                    }
                }
                Err(TryRecvError::Empty) => assert!(wait_readable(&rx), "lost wake-up"),
                Err(TryRecvError::Closed) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        let counters = sender.join().unwrap();
        assert_eq!((received + lost, last), (POSTED, Some(POSTED - 1)), "depth {depth}");
        assert_eq!((counters.sent, counters.dropped), (POSTED.into(), lost.into()));
    }
}
