//! A peer of a shared channel that writes its words as it likes: where they are, which of them count, and that the
//! words of this side are never read back.

mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::os::unix::fs::MetadataExt;

use common::*;
use nix::errno::Errno;
use nix::unistd::ftruncate;
use recordfd::event::{self, Received, Receiver};
use recordfd::uapi::{AcpiOst, Le64, Record, Sequence, Smmuv3Event};
use recordfd::{DrainError, Options, TryRecvError, TrySendError, Violation};
use ring_ends::{RECEIVERS, REPORTERS, RESPONDERS, SENDERS, violation};
use ring_peer::{LOSS, RingPeer, Word};

const INDEX: Violation = Violation::RingIndex;

/// A reply on the wire.
fn wire_reply(reply: AcpiOst) -> Vec<u8> {
    let mut bytes = vec![0; AcpiOst::SIZE];
    reply.encode(&mut bytes);
    bytes
}

#[test]
fn every_word_that_a_sender_writes_is_where_the_protocol_says() {
    for make in SENDERS {
        let (mut tx, peer) = make(2);
        assert_eq!((tx.capacity(), peer.consumed.depth), (2, 2));
        assert_eq!(peer.consumed.words_in_use(), [(256, 1)], "both bells are armed, and nothing else");
        assert_eq!(peer.produced.words_in_use(), [(256, 1)]);

        tx.try_send(notify(0x80, 0)).unwrap();
        assert_eq!(peer.consumed.words_in_use(), [(0, 1)]);
        assert_eq!(peer.consumed.slot(0), wire(0));
        assert_eq!(peer.take(), 1, "one token for the arming");
        tx.send_batch(&[notify(0x80, 1); 9]).unwrap();
        assert_eq!(peer.consumed.slot(1), wire(1));
        (2..5).for_each(|data| tx.post(notify(0x80, data)).unwrap());
        assert_eq!(peer.consumed.words_in_use(), [(0, 2), (4, 0x8000_0004)]);
        assert_eq!(peer.take(), 0, "no token is wanted");

        assert_eq!(peer.take_record(), Some(wire(0).to_vec()));
        peer.consumed.set(Word::Armed, 1);
        tx.try_send(notify(0x80, 5)).unwrap();
        assert_eq!(peer.consumed.words_in_use(), [(0, 3), (128, 1)]);
        assert_eq!((peer.consumed.slot(2), peer.take()), (wire(5).to_vec(), 1));

        assert!(matches!(tx.wait_drained(Some(std::time::Duration::ZERO)), Err(DrainError::Timeout)));
        assert_eq!(peer.consumed.words_in_use(), [(0, 3), (128, 1), (260, 1)]);
        drop(tx);
        assert_eq!(peer.consumed.words_in_use(), [(0, 3), (8, 1), (128, 1), (260, 1)]);
        assert_eq!(peer.produced.words_in_use(), [(256, 1)]);
    }
}

#[test]
fn every_word_that_a_receiver_writes_is_where_the_protocol_says() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(2);
        assert_eq!(peer.produced.depth, 2);
        (0..2).for_each(|number| peer.publish(&wire(number)));
        assert_eq!(peer.produced.words_in_use(), [(0, 2)]);
        for number in 0..2 {
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
            assert_eq!(peer.produced.get(Word::Head), number + 1);
        }
        assert_eq!(peer.produced.words_in_use(), [(0, 2), (128, 2), (256, 1)], "the bell is armed again");
        let answers = [AcpiOst::new(1, 2, 3), AcpiOst::new(4, 5, 6)];
        for (number, answer) in (0..).zip(answers) {
            rx.reply(answer).unwrap();
            assert_eq!(peer.consumed.slot(number), wire_reply(answer));
        }
        assert_eq!(peer.consumed.words_in_use(), [(0, 2)]);
        assert_eq!(peer.take(), 1);
        if rx.use_asymmetric_fence().is_ok() {
            assert_eq!(peer.produced.words_in_use(), [(0, 2), (128, 2), (256, 1), (264, 1)]);
        }
        drop(rx);
        assert_eq!(peer.consumed.words_in_use(), [(0, 2), (8, 1)]);
    }
}

#[test]
fn words_of_this_side_are_never_read_back() {
    const LIES: [u32; 6] = [0, 1, 77, 1 << 31, u32::MAX - 1, u32::MAX];
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        for (number, lie) in (0..60).zip(LIES.into_iter().cycle()) {
            for word in [Word::Tail, Word::TailLoss, Word::Gone] {
                peer.consumed.set(word, lie);
            }
            peer.produced.set(Word::Head, lie);
            peer.produced.set(Word::Fences, lie);
            tx.try_send(notify(0x80, number)).unwrap();
            assert_eq!(
                (peer.consumed.get(Word::Tail), peer.consumed.slot(number)),
                (number + 1, wire(number).into())
            );
            peer.consumed.set(Word::Head, number + 1);
            peer.produced.set_slot(number, &wire_reply(AcpiOst::new(number, 0, 0)));
            peer.produced.set(Word::Tail, number + 1);
            assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(number, 0, 0));
            assert_eq!(peer.produced.get(Word::Head), number + 1);
        }
        assert!(!tx.is_closed());
    }
}

#[test]
fn end_of_the_peer_is_told_behind_what_it_published_and_closes_what_goes_to_it() {
    for gone in [1, 2, 1 << 31, u32::MAX] {
        for make in RECEIVERS {
            let (mut rx, peer) = make(4);
            (0..2).for_each(|number| peer.publish(&wire(number)));
            peer.produced.set(Word::Gone, gone);
            assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
            assert_eq!(summary(rx.recv().unwrap()), (0, Some(0)));
            assert_eq!(summary(rx.recv().unwrap()), (0, Some(1)));
            assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
            // Whatever it publishes and takes back then.
            (2..5).for_each(|number| peer.publish(&wire(number)));
            assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
            peer.produced.set(Word::Gone, 0);
            assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
            assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
            assert!(rx.wait(None).unwrap(), "there is the end to receive");
            // Also behind a look, which has seen several records.
            assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
        }
        for make in SENDERS {
            let (mut tx, peer) = make(4);
            tx.try_send(notify(1, 1)).unwrap();
            peer.produced.set(Word::Gone, gone);
            assert!(matches!(tx.try_send(notify(1, 1)), Err(TrySendError::Closed(_))));
            assert!(matches!(tx.send_batch(&[notify(1, 1)]), Err(TrySendError::Closed(()))));
            assert!(matches!(tx.post(notify(1, 1)), Err(TrySendError::Closed(_))));
            assert!(matches!(tx.is_drained(), Err(DrainError::Closed)));
            assert!(matches!(tx.wait_drained(None), Err(DrainError::Closed)));
            assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
            peer.produced.set(Word::Gone, 0);
            assert!(matches!(tx.try_send(notify(1, 1)), Err(TrySendError::Closed(_))));
            assert!(tx.is_closed());
        }
    }
}

#[test]
fn word_of_a_loss_counts_as_the_numbers_say_and_once() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(4);
        let mut tell = |word: u32| {
            peer.produced.set(Word::TailLoss, word);
            rx.try_recv()
        };
        // Without the mark it is none.
        for word in [1, 5, LOSS - 1] {
            assert!(matches!(tell(word), Err(TryRecvError::Empty)), "{word:#x}");
        }
        assert_eq!(tell(LOSS | 2).unwrap(), Received::Lost { count: 3 });
        assert!(matches!(tell(LOSS | 2), Err(TryRecvError::Empty)), "told already");
        assert_eq!(tell(LOSS | 7).unwrap(), Received::Lost { count: 5 });
        // As far as a channel can lose, and round the circle.
        let most = Sequence::LOSS_MAX;
        assert_eq!(tell(LOSS | (7 + most)).unwrap(), Received::Lost { count: most });
        assert_eq!(tell(LOSS | 5).unwrap(), Received::Lost { count: most });
        assert_eq!(tell(LOSS | 6).unwrap(), Received::Lost { count: 1 });
        let told = 3 + 5 + 2 * u64::from(most) + 1;
        assert_eq!(rx.counters().dropped, told);
        // A record makes it news again; here it stands for nothing.
        peer.produced.set(Word::TailLoss, 0);
        peer.publish(&wire(7));
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)));
        peer.produced.set(Word::TailLoss, LOSS | 7);
        for _ in 0..3 {
            assert_eq!(violation(rx.try_recv()), Violation::NothingLost);
        }
        assert_eq!((rx.counters().dropped, rx.counters().received), (told, 1));
    }
}

#[test]
fn word_of_a_loss_behind_records_ends_their_batch() {
    let (mut rx, peer) = RECEIVERS[1](4);
    let mut items = [Received::default(); 8];
    (0..3).for_each(|number| peer.publish(&wire(number)));
    peer.produced.set(Word::TailLoss, LOSS | 9);
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 4);
    assert_eq!(items[3], Received::Lost { count: 7 });
    // One that stands for nothing lets the records in front of it through.
    (3..5).for_each(|number| peer.publish(&wire(number + 7)));
    peer.produced.set(Word::TailLoss, LOSS | 11);
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 2);
    assert_eq!(violation(rx.recv_batch(&mut items)), Violation::NothingLost);
}

#[test]
fn replies_of_a_format_that_has_none_are_a_violation() {
    let send = |tx: &mut event::SoleSender<Smmuv3Event>| tx.try_send(Smmuv3Event { evt: [Le64::new(4); 4] });
    let (mut tx, end) = event::shared::<Smmuv3Event>(&Options::new().depth(4)).unwrap();
    let peer = RingPeer::attach(end);
    assert_eq!((peer.offer.reply_depth, peer.offer.reply_size), (0, 0));
    send(&mut tx).unwrap();
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
    peer.produced.set(Word::Head, 5);
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
    peer.produced.set(Word::Tail, 1);
    assert_eq!(violation(tx.try_recv_reply()), INDEX);
    assert!(matches!(send(&mut tx), Err(TrySendError::Closed(_))));
}

#[test]
fn memory_of_a_new_channel_has_all_its_pages() {
    for depth in [1, 64, 1 << 16] {
        let peers =
            [SENDERS[0](depth).1, RECEIVERS[0](depth).1, REPORTERS[0](depth).1, RESPONDERS[0](depth).1];
        for peer in peers {
            let (reserved, size) = (peer.memory().metadata().unwrap().blocks() * 512, peer.offer.map_size);
            assert!(reserved >= size, "{reserved} bytes of {size} are there");
        }
    }
}

#[test]
fn hole_in_the_memory_reads_as_zeroes_and_kills_nobody() {
    const PAGE: u64 = 4096;
    for make in RECEIVERS {
        // Over all of it, before anything and behind something.
        for read in [0, 1, 5] {
            let (mut rx, peer) = make(1024);
            (0..8).for_each(|number| peer.publish(&wire(number)));
            for number in 0..read {
                assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(number)));
            }
            peer.punch_hole(0, peer.offer.map_size);
            assert_eq!(peer.produced.words_in_use(), []);
            match read {
                // The indices are those of the beginning.
                0 => assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty))),
                // What was known to wait is read, as zeroes: its number is 0, which goes backwards.
                _ => assert_eq!(violation(rx.try_recv()), Violation::SequenceBackwards),
            }
        }
        // Over slots only.
        let (mut rx, peer) = make(1024);
        (0..200).for_each(|number| peer.publish(&wire(number)));
        peer.punch_hole(PAGE, 2 * PAGE);
        let mut items = [Received::default(); 200];
        // 64 bytes each, from 384 on.
        let whole = (PAGE - 384) / 64;
        assert_eq!(rx.recv_batch(&mut items).unwrap() as u64, whole);
        for (number, item) in (0..).zip(&items[..whole as usize]) {
            assert_eq!(summary(*item), (0, Some(number)));
        }
        assert_eq!(violation(rx.recv_batch(&mut items)), Violation::SequenceBackwards);
    }
    for make in SENDERS {
        let (mut tx, peer) = make(1024);
        (0..1000).for_each(|number| tx.try_send(notify(0x80, number)).unwrap());
        peer.consumed.set(Word::Head, 900);
        assert_eq!(tx.send_batch(&[notify(0x80, 0); 100]).unwrap(), 100);
        peer.punch_hole(0, peer.offer.map_size);
        assert!(matches!(tx.send_batch(&[notify(0x80, 0); 1024]), Err(TrySendError::Closed(()))));
        assert_eq!(violation(tx.try_recv_reply()), INDEX);
    }
}

#[test]
fn memory_cannot_be_made_shorter_or_longer_under_either_side() {
    let shorter_and_longer = |peer: &RingPeer| {
        for size in [0, 1, peer.offer.map_size - 1, peer.offer.map_size + 1, 1 << 30] {
            assert_eq!(ftruncate(peer.memory(), size as i64), Err(Errno::EPERM));
        }
    };
    for make in SENDERS {
        let (mut tx, peer) = make(4);
        shorter_and_longer(&peer);
        tx.try_send(notify(0x80, 0)).unwrap();
    }
    for make in RECEIVERS {
        let (mut rx, peer): (Receiver<_>, _) = make(4);
        shorter_and_longer(&peer);
        peer.publish(&wire(0));
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
    }
}
