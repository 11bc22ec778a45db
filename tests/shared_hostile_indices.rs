//! A peer of a shared channel whose indices and slots are lies: each is found, and no record comes twice or out of
//! nowhere.

mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::time::Duration;

use common::*;
use recordfd::event::Received;
use recordfd::uapi::{AcpiOst, Record, RecordError, Sequence};
use recordfd::{DrainError, TryRecvError, TrySendError, Violation};
use ring_ends::{RECEIVERS, REPLIES, SENDERS, violation};
use ring_peer::{LOSS, Word};

const DEPTH: u32 = 4;
const INDEX: Violation = Violation::RingIndex;

/// How far an index is set from where it could be.
fn distances() -> impl Iterator<Item = u32> {
    (-3..=9).chain([i32::MAX - 1, i32::MAX, i32::MIN, i32::MIN + 1, i32::MIN + 4]).map(|far| far as u32)
}

#[test]
fn producers_index_is_believed_within_the_depth_and_what_it_said_before() {
    for make in RECEIVERS {
        for read in 0..6 {
            for (known, distance) in (0..DEPTH).flat_map(|known| distances().map(move |far| (known, far))) {
                let (mut rx, peer) = make(DEPTH);
                let mut items = [Received::default(); 8];
                for number in 0..read {
                    peer.publish(&wire(number));
                    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
                }
                // One more, and those that are known to wait behind it.
                (read..=read + known).for_each(|number| peer.publish(&wire(number)));
                assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(read)));
                let head = read + 1;
                (0..DEPTH).for_each(|ahead| peer.produced.set_slot(head + ahead, &wire(head + ahead)));
                peer.produced.set(Word::Tail, head.wrapping_add(distance));
                let received = rx.recv_batch(&mut items);
                if (known..=DEPTH).contains(&distance) {
                    let count = received.unwrap_or_else(|error| match error {
                        TryRecvError::Empty => 0,
                        error => panic!("{error:?}"),
                    });
                    assert_eq!(count as u32, distance);
                    let numbers = items[..count].iter().map(|item| summary(*item));
                    assert!(numbers.eq((head..).take(count).map(|number| (0, Some(number)))));
                } else {
                    assert_eq!(violation(received), INDEX, "{known} known, {distance:#x} said");
                    // For ever, however right it is then.
                    peer.produced.set(Word::Tail, head + known);
                    assert_eq!(violation(rx.try_recv()), INDEX);
                    assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
                    assert_eq!(peer.produced.get(Word::Head), head, "nothing more is taken out");
                }
            }
        }
    }
}

#[test]
fn consumers_index_is_believed_between_what_it_said_before_and_what_was_sent() {
    for make in SENDERS {
        for read in 0..6 {
            for (unread, distance) in (0..=DEPTH).flat_map(|unread| distances().map(move |far| (unread, far)))
            {
                if (read, unread) == (0, 0) {
                    // Nothing was sent, so the index is not looked at.
                    continue;
                }
                let (mut tx, peer) = make(DEPTH);
                for number in 0..read {
                    assert_eq!(tx.send_batch(&[notify(0x80, number); 8]).unwrap(), DEPTH as usize);
                    peer.consumed.set(Word::Head, DEPTH * (number + 1));
                }
                let base = DEPTH * read;
                if unread > 0 {
                    tx.send_batch(&vec![notify(0x80, 0); unread as usize]).unwrap();
                }
                // This side has looked last when it wanted more room than it knew of.
                let known = if unread == 0 { DEPTH } else { unread };
                peer.consumed.set(Word::Head, base.wrapping_add(distance));
                let still_unread = unread.wrapping_sub(distance);
                let sent = tx.send_batch(&[notify(0x80, 0); 8]);
                if still_unread <= known {
                    match sent {
                        Ok(count) => assert_eq!(count as u32, DEPTH - still_unread),
                        Err(error) => {
                            assert!(matches!(error, TrySendError::Full(())) && still_unread == DEPTH)
                        }
                    }
                    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
                } else {
                    assert!(
                        matches!(sent, Err(TrySendError::Closed(()))),
                        "{unread} unread, {distance:#x} said"
                    );
                    assert_eq!(peer.consumed.get(Word::Tail), base + unread, "nothing is published");
                    assert_eq!(violation(tx.try_recv_reply()), INDEX);
                    assert!(tx.is_closed());
                }
            }
        }
    }
}

#[test]
fn indices_of_replies_are_believed_no_further() {
    for make in SENDERS {
        let (mut tx, peer) = make(DEPTH);
        peer.produced.set(Word::Tail, REPLIES + 1);
        assert_eq!(violation(tx.try_recv_reply()), INDEX);
        assert!(matches!(tx.try_send(notify(1, 1)), Err(TrySendError::Closed(_))));
    }
    for make in RECEIVERS {
        let (mut rx, peer) = make(DEPTH);
        (0..REPLIES).for_each(|cookie| rx.reply(AcpiOst::new(cookie, 0, 0)).unwrap());
        assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Full(_))));
        peer.consumed.set(Word::Head, REPLIES + 1);
        assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
        // The other direction tells why, behind what waits there.
        peer.publish(&wire(0));
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
        assert_eq!(violation(rx.try_recv()), INDEX);
    }
}

#[test]
fn index_of_this_side_that_the_peer_writes_over_is_not_read_back() {
    let timeout = Some(Duration::from_millis(1));
    for make in SENDERS {
        let (mut tx, peer) = make(DEPTH);
        (0..3).for_each(|number| tx.try_send(notify(0x80, number)).unwrap());
        for read in 0..3 {
            for lie in [read, 0, u32::MAX] {
                peer.consumed.set(Word::Head, read);
                peer.consumed.set(Word::Tail, lie);
                assert!(!tx.is_drained().unwrap(), "{read} of 3 were read");
                assert!(
                    matches!(tx.wait_drained(timeout), Err(DrainError::Timeout)),
                    "{read} of 3 were read"
                );
            }
        }
        peer.consumed.set(Word::Head, 3);
        assert!(tx.is_drained().unwrap(), "all were read");
        tx.wait_drained(timeout).unwrap();
    }
}

#[test]
fn slot_that_holds_no_record_is_a_violation_behind_those_in_front_of_it() {
    let with = |mut bytes: [u8; RECORD], offset: usize, value: u8| {
        bytes[offset] = value;
        bytes
    };
    let flags = |unknown| Violation::Record(RecordError::Flags { unknown });
    let cases = [
        (with(wire(2), 0, 0x04), flags(0x4)),
        (with(wire(2), 3, 0xff), flags(0xff00_0000)),
        (with(wire(2), 7, 0x80), Violation::Record(RecordError::Sequence { found: 0x8000_0002 })),
        ([0xff; RECORD], Violation::Record(RecordError::Sequence { found: u32::MAX })),
        (with(wire_lost(9), RECORD - 1, 1), Violation::Record(RecordError::Reserved { field: "payload" })),
        (wire_lost(1), Violation::NothingLost),
    ];
    for make in RECEIVERS {
        for (bad, expected) in cases {
            for most in [1, 2, 3, 8] {
                let (mut rx, peer) = make(DEPTH);
                [wire(0), wire(1), bad, wire(2)].iter().for_each(|record| peer.publish(record));
                let mut items = [Received::default(); 8];
                let mut good = 0;
                let found = loop {
                    match rx.recv_batch(&mut items[..most]) {
                        Ok(count) => good += count,
                        outcome => break violation(outcome),
                    }
                };
                assert_eq!((good, found), (2, expected));
                // The slot is not given back, and is not looked at again when it is mended.
                assert_eq!(peer.produced.get(Word::Head), 2);
                peer.produced.set_slot(2, &wire(2));
                assert_eq!(violation(rx.try_recv()), expected);
                assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
                assert_eq!(rx.counters().received, 2);
            }
        }
    }
}

#[test]
fn slot_that_holds_no_reply_is_a_violation() {
    for make in SENDERS {
        let (mut tx, peer) = make(DEPTH);
        let mut bytes = [0; AcpiOst::SIZE];
        AcpiOst::new(1, 2, 3).encode(&mut bytes);
        peer.publish(&bytes);
        bytes[15] = 1;
        peer.publish(&bytes);
        assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
        for _ in 0..3 {
            let expected = Violation::Record(RecordError::Reserved { field: "reserved" });
            assert_eq!(violation(tx.try_recv_reply()), expected);
        }
        assert!(matches!(tx.try_send(notify(1, 1)), Err(TrySendError::Closed(_))));
        assert!(tx.is_closed());
    }
}

#[test]
fn number_that_goes_backwards_is_a_violation_in_each_place_it_comes_in() {
    for make in RECEIVERS {
        for number in [3, 5, 7 + (1 << 30), Sequence::MAX.get()] {
            // As a record that is received alone, as one of a batch, and as the word of a loss.
            let (mut rx, peer) = make(8);
            [5, 6, number, number].iter().for_each(|number| peer.publish(&wire(*number)));
            assert_eq!(summary(rx.try_recv().unwrap()), (5, Some(5)));
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(6)));
            (0..3).for_each(|_| assert_eq!(violation(rx.try_recv()), Violation::SequenceBackwards));

            let (mut rx, peer) = make(8);
            [5, number, 6].iter().for_each(|number| peer.publish(&wire(*number)));
            assert_eq!(rx.recv_batch(&mut [Received::default(); 8]).unwrap(), 1);
            assert_eq!(violation(rx.try_recv()), Violation::SequenceBackwards);

            let (mut rx, peer) = make(8);
            peer.publish(&wire(6));
            peer.produced.set(Word::TailLoss, LOSS | number);
            assert_eq!(summary(rx.try_recv().unwrap()), (6, Some(6)));
            assert_eq!(violation(rx.try_recv()), Violation::SequenceBackwards);
            assert_eq!(rx.counters().dropped, 6);
        }
    }
}
