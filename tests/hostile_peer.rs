//! A peer that writes whatever it likes: whole records arrive, anything else is a typed error.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::*;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use recordfd::event::{Received, Receiver};
use recordfd::uapi::{AcpiOst, EventFlags, Format, Record, RecordError, Sequence};
use recordfd::{Options, TryRecvError, Violation};

/// Everything that can be received now, as (lost, data).
fn drain(rx: &mut Rx) -> Vec<(u32, Option<u32>)> {
    let mut all = Vec::new();
    loop {
        match rx.try_recv() {
            Ok(item) => all.push(summary(item)),
            Err(TryRecvError::Empty) => return all,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Fails unless the receiver says `violation`, now and for ever.
fn assert_broken(rx: &mut Rx, violation: Violation) {
    for _ in 0..3 {
        match rx.try_recv() {
            Err(error @ TryRecvError::PeerViolation(found)) => {
                assert_eq!(found, violation);
                assert_eq!(error.errno(), 71);
            }
            other => panic!("{other:?} instead of {violation:?}"),
        }
    }
}

fn concat(records: &[[u8; RECORD]]) -> Vec<u8> {
    records.concat()
}

#[test]
fn records_written_one_byte_at_a_time_arrive_whole() {
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    for number in 0..3 {
        let bytes = wire(number);
        for byte in &bytes[..RECORD - 1] {
            peer.write_all(&[*byte]).unwrap();
            assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
            assert!(!readable(&rx), "half a record keeps the descriptor readable");
        }
        peer.write_all(&bytes[RECORD - 1..]).unwrap();
        assert!(readable(&rx));
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(number)));
    }
}

#[test]
fn records_split_at_every_offset_arrive_whole() {
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    for split in 0..=3 * RECORD {
        let first = 3 * split as u32;
        let bytes = concat(&[wire(first), wire(first + 1), wire(first + 2)]);
        peer.write_all(&bytes[..split]).unwrap();
        let mut got = drain(&mut rx);
        assert_eq!(got.len(), split / RECORD, "split at {split}");
        peer.write_all(&bytes[split..]).unwrap();
        got.extend(drain(&mut rx));
        assert_eq!(got, [first, first + 1, first + 2].map(|data| (0, Some(data))), "split at {split}");
    }
}

#[test]
fn several_records_and_a_half_come_in_two_batches() {
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    let bytes = concat(&[wire(0), wire(1), wire(2), wire(3), wire(4)]);
    let mut items = [Received::default(); 8];
    peer.write_all(&bytes[..3 * RECORD + RECORD / 2]).unwrap();
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 3);
    peer.write_all(&bytes[3 * RECORD + RECORD / 2..]).unwrap();
    assert_eq!(rx.recv_batch(&mut items[3..]).unwrap(), 2);
    let got = items[..5].iter().map(|item| summary(*item));
    assert!(got.eq((0..5).map(|data| (0, Some(data)))));
}

#[test]
fn torn_record_at_the_end_is_a_violation_after_the_whole_ones() {
    for found in 1..RECORD {
        let (mut rx, mut peer) = receiver_and_peer(&Options::new());
        peer.write_all(&concat(&[wire(0), wire(1), wire(2)])[..2 * RECORD + found]).unwrap();
        drop(peer);
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
        assert_eq!(summary(rx.recv().unwrap()), (0, Some(1)));
        assert!(matches!(rx.recv(), Err(TryRecvError::PeerViolation(_))), "{found} bytes");
        assert_broken(&mut rx, Violation::TornRecord { found, size: RECORD });
    }
}

#[test]
fn broken_record_is_refused_for_ever_and_those_before_it_are_delivered() {
    let with = |mut bytes: [u8; RECORD], offset: usize, value: u8| {
        bytes[offset] = value;
        bytes
    };
    let flags = |unknown| Violation::Record(RecordError::Flags { unknown });
    let cases = [
        ("an unknown flag", with(wire(2), 0, 0x04), flags(0x4)),
        ("an unknown flag next to a known one", with(wire_lost(9), 3, 0x80), flags(0x8000_0000)),
        (
            "a number above INT_MAX",
            with(wire(2), 7, 0x80),
            Violation::Record(RecordError::Sequence { found: 0x8000_0002 }),
        ),
        (
            "a loss notice with a payload",
            with(wire_lost(9), RECORD - 1, 1),
            Violation::Record(RecordError::Reserved { field: "payload" }),
        ),
        ("a loss notice for nothing lost", wire_lost(1), Violation::NothingLost),
        ("a number that comes twice", wire(1), Violation::SequenceBackwards),
        ("a number that goes backwards", wire(0), Violation::SequenceBackwards),
        ("a number further than a channel loses", wire(2 + (1 << 30)), Violation::SequenceBackwards),
        ("a loss notice that goes backwards", wire_lost(0), Violation::SequenceBackwards),
        ("a loss notice of more than that", wire_lost(1 + (1 << 30)), Violation::SequenceBackwards),
    ];
    for (name, bad, violation) in cases {
        let (mut rx, mut peer) = receiver_and_peer(&Options::new());
        peer.write_all(&concat(&[wire(0), wire(1), bad, wire(2)])).unwrap();
        let mut items = [Received::default(); 8];
        assert_eq!(rx.recv_batch(&mut items).unwrap(), 2, "{name}");
        assert_eq!(summary(items[1]), (0, Some(1)));
        assert!(rx.wait(Some(Duration::ZERO)).unwrap(), "{name}: the next receive has something to return");
        assert_broken(&mut rx, violation);
        peer.write_all(&wire(3)).unwrap();
        assert_broken(&mut rx, violation);
        drop(peer);
        assert_broken(&mut rx, violation);
        assert_eq!(rx.counters().received, 2);
    }
}

#[test]
fn loss_notice_at_the_very_start_must_stand_for_a_loss() {
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    peer.write_all(&wire_lost(0x7fff_ffff)).unwrap();
    assert_broken(&mut rx, Violation::NothingLost);
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    peer.write_all(&wire_lost(0)).unwrap();
    assert_eq!(rx.try_recv().unwrap(), Received::Lost { count: 1 });
}

#[test]
fn sender_that_is_started_anew_on_a_kept_descriptor_is_a_violation_and_no_loss() {
    let (mut rx, peer) = receiver_and_peer(&Options::new());
    for life in 0..2 {
        let kept = OwnedFd::from(peer.try_clone().unwrap());
        let tx = Tx::from_socket(kept, Format::ACPI_NOTIFY_V1, 64).unwrap();
        (0..3).for_each(|data| tx.try_send(notify(life, data)).unwrap());
    }
    let mut items = [Received::default(); 8];
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 3);
    assert_broken(&mut rx, Violation::SequenceBackwards);
    assert_eq!((rx.counters().received, rx.counters().dropped), (3, 0));
}

#[test]
fn largest_loss_is_counted_also_round_the_circle() {
    let most = Sequence::LOSS_MAX;
    for (first, second) in [(wire(most), wire_lost(2 * most)), (wire_lost(most - 1), wire(2 * most))] {
        let (mut rx, mut peer) = receiver_and_peer(&Options::new());
        // Numbers: 2^30 - 1, 2^31 - 2, 2^31 - 1 and 2^30 - 1 after that.
        peer.write_all(&concat(&[first, second, wire(2 * most + 1), wire(most)])).unwrap();
        let lost: Vec<_> = drain(&mut rx).into_iter().map(|(lost, _)| lost).collect();
        assert_eq!(lost, [most, most, 0, most]);
        assert_eq!(rx.counters().dropped, lost.into_iter().map(u64::from).sum::<u64>());
    }
}

#[test]
fn broken_reply_is_refused_for_ever_and_those_before_it_are_delivered() {
    let (tx, mut peer) = sender_and_peer(&Options::new());
    let mut bytes = [0; 3 * AcpiOst::SIZE];
    AcpiOst::new(1, 2, 3).encode(&mut bytes[..AcpiOst::SIZE]);
    AcpiOst::new(4, 5, 6).encode(&mut bytes[AcpiOst::SIZE..2 * AcpiOst::SIZE]);
    bytes[2 * AcpiOst::SIZE + 12] = 1;
    for byte in &bytes {
        peer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(4, 5, 6));
    let violation = Violation::Record(RecordError::Reserved { field: "reserved" });
    for _ in 0..3 {
        let refused = tx.try_recv_reply();
        assert!(matches!(refused, Err(TryRecvError::PeerViolation(found)) if found == violation));
        peer.write_all(&bytes[..AcpiOst::SIZE]).unwrap();
    }
}

#[test]
fn torn_reply_at_the_end_is_a_violation() {
    let (tx, mut peer) = sender_and_peer(&Options::new());
    peer.write_all(&[0; 7]).unwrap();
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
    drop(peer);
    for _ in 0..3 {
        match tx.try_recv_reply() {
            Err(TryRecvError::PeerViolation(found)) => {
                assert_eq!(found, Violation::TornRecord { found: 7, size: AcpiOst::SIZE });
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A xorshift generator: what it gives is determined by a seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.next().to_ne_bytes()[..part.len()]));
    }
}

/// Writes `bytes` on another thread until the other side takes no more.
fn flood(mut peer: UnixStream, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let _ = peer.write_all(&bytes);
    })
}

#[test]
fn random_bytes_end_in_a_typed_error() {
    rounds::each_seed("receiver of random bytes", 96, |seed| {
        let (mut random, round) = (Random::new(seed), seed as usize % 96);
        let (mut rx, peer) = receiver_and_peer(&Options::new());
        let mut bytes = vec![0; 64 * 1024 + round];
        random.fill(&mut bytes);
        // In most rounds a number of headers is valid, so that the flood gets past the first record.
        for (number, record) in bytes.chunks_exact_mut(RECORD).take(20 * round).enumerate() {
            let flags = if random.next() % 64 == 0 { EventFlags::CANCELLED } else { EventFlags::empty() };
            record[..4].copy_from_slice(&flags.bits().to_ne_bytes());
            record[4..8].copy_from_slice(&(number as u32 * 3).to_ne_bytes());
        }
        let writer = flood(peer, bytes);
        let error = soon(move || {
            loop {
                match rx.recv() {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            }
        });
        assert!(matches!(error, TryRecvError::PeerViolation(_)), "round {round}: {error:?}");
        writer.join().unwrap();
    });
}

#[test]
fn flood_of_records_with_random_payloads_comes_through_untouched() {
    const COUNT: usize = 64 * 1024;
    let (mut rx, peer) = receiver_and_peer(&Options::new());
    let mut random = Random::new(0);
    let mut bytes = vec![0; COUNT * RECORD];
    random.fill(&mut bytes);
    for (number, record) in bytes.chunks_exact_mut(RECORD).enumerate() {
        record[..4].fill(0);
        record[4..8].copy_from_slice(&(number as u32).to_ne_bytes());
    }
    let writer = flood(peer, bytes.clone());
    let mut payloads = bytes.chunks_exact(RECORD).map(|record| &record[8..]);
    let mut items = [Received::default(); 300];
    let error = loop {
        match rx.recv_batch(&mut items) {
            Ok(count) => {
                for item in &items[..count] {
                    let mut payload = [0; RECORD - 8];
                    item.record().unwrap().encode(&mut payload);
                    assert_eq!((item.lost(), Some(&payload[..])), (0, payloads.next()));
                }
            }
            Err(TryRecvError::Empty) => assert!(wait_readable(&rx)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TryRecvError::Closed));
    assert_eq!(payloads.next(), None);
    writer.join().unwrap();
}

#[test]
fn random_replies_end_in_a_typed_error() {
    rounds::each_seed("sender whose replies are random bytes", 32, |seed| {
        let mut random = Random::new(seed);
        let (tx, peer) = sender_and_peer(&Options::new());
        let mut bytes = vec![0; 64 * 1024];
        random.fill(&mut bytes);
        let writer = flood(peer, bytes);
        let error = loop {
            match tx.try_recv_reply() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => assert!(wait_readable(&tx)),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, TryRecvError::PeerViolation(_)));
        drop(tx);
        writer.join().unwrap();
    });
}

#[test]
fn descriptors_attached_to_data_do_not_stay_open() {
    in_own_process("descriptors_attached_to_data_do_not_stay_open", || {
        let attach = |peer: &UnixStream, bytes: &[u8]| {
            let numbers = [0; 253];
            let rights = [ControlMessage::ScmRights(&numbers)];
            let bytes = [IoSlice::new(bytes)];
            sendmsg::<()>(peer.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
        };
        // What this side makes refuses descriptors, so the peer makes these.
        let [(near, peer), (far, reply_peer)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let mut rx = Rx::from_socket(near.into(), Format::ACPI_NOTIFY_V1).unwrap();
        let tx = Tx::from_socket(far.into(), Format::ACPI_NOTIFY_V1, 64).unwrap();
        let before = open_descriptors();
        for number in 0..20 {
            attach(&peer, &wire(number));
            assert_eq!(summary(rx.recv().unwrap()), (0, Some(number)));
            attach(&reply_peer, &[0; AcpiOst::SIZE]);
            tx.try_recv_reply().unwrap();
            assert_eq!(open_descriptors(), before);
        }
        // Also where attaching looks at what already waits.
        let (near, far) = UnixStream::pair().unwrap();
        attach(&far, &wire(0));
        let mut rx = Receiver::from_socket(near.into(), Format::ACPI_NOTIFY_V1).unwrap();
        assert_eq!(open_descriptors(), before + 2);
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
        assert_eq!(open_descriptors(), before + 2);
    });
}
