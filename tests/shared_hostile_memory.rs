//! Nothing that a peer of a shared channel does makes the other side take more memory.

#[path = "common/allocation.rs"]
mod allocation;
mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use allocation::without;
use common::fault::*;
use common::*;
use recordfd::event::Received;
use recordfd::fault::{FaultCompletion, FaultReporter, FaultResponder, Options};
use recordfd::uapi::{AcpiOst, ChannelInfo, Format, PgFault, Transport};
use recordfd::{TryRecvError, UnattachedEnd};
use ring_ends::{RECEIVERS, REPORTERS, RESPONDERS, SENDERS};
use ring_peer::{LOSS, RingPeer, Word, good_offer};

const DEPTH: u32 = 8;
const ROUNDS: u32 = 2000;

/// What a peer does around the records that it publishes: nothing of it is a violation.
fn pester(peer: &RingPeer, round: u32) {
    peer.produced.set(Word::Armed, round % 2);
    peer.produced.set(Word::Drain, 1);
    peer.consumed.set(Word::Armed, 1);
    peer.consumed.set(Word::Fences, round);
    peer.produced.set(Word::Fences, round);
    if round % 7 == 0 {
        peer.take();
    }
}

#[test]
fn receiver_takes_no_memory_for_what_comes() {
    for make in RECEIVERS {
        let (mut rx, peer) = make(DEPTH);
        let mut items = [Received::default(); 16];
        let mut count = 0;
        for round in 0..ROUNDS {
            pester(&peer, round);
            for ahead in 0..round % (DEPTH + 1) {
                // Any gap before each.
                peer.publish(&wire(round * 1000 + ahead * 3));
            }
            peer.produced.set(Word::TailLoss, LOSS | (round * 1000 + 999));
            without("recv_batch", || {
                loop {
                    match rx.recv_batch(&mut items) {
                        Ok(more) => count += more,
                        Err(TryRecvError::Empty) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
            without("reply", || drop(rx.reply(AcpiOst::new(1, 2, 3))));
            peer.take_record();
        }
        assert!(count > ROUNDS as usize);
        while peer.put(&[0; 4096]) > 0 {}
        without("recv_batch", || {
            assert!(matches!(rx.recv_batch(&mut items), Err(TryRecvError::PeerViolation(_))))
        });
    }
}

#[test]
fn sender_takes_no_memory_for_what_is_not_read() {
    for make in SENDERS {
        let (mut tx, peer) = make(DEPTH);
        let record = notify(0x80, 0);
        for round in 0..ROUNDS {
            pester(&peer, round);
            without("post", || (0..round % 5).for_each(|_| tx.post(record).unwrap()));
            without("try_recv_reply", || drop(tx.try_recv_reply()));
            if round % 3 == 0 {
                peer.take_record();
            }
        }
        assert!(tx.counters().dropped > 1000 && tx.counters().sent > 100);
    }
}

#[test]
fn reporter_takes_no_memory_for_answers_of_any_kind() {
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let mut out = [FaultCompletion::default(); 4];
        let mut completed = 0;
        for round in 0..ROUNDS {
            pester(&peer, round);
            let cookie = without("report", || reporter.report(page(1, round % 512)).ok());
            let cookie = match cookie {
                Some(recordfd::fault::Reported::Group { cookie }) => cookie,
                _ => round,
            };
            peer.publish(&wire_response(cookie, round % 3));
            peer.publish(&wire_response(round, 0));
            without("completions", || {
                while let Ok(count) = reporter.completions(&mut out) {
                    completed += count;
                }
            });
            peer.take_record();
        }
        assert!(completed > 1000 && reporter.counters().late_answers > 1000);
    }
}

#[test]
fn responder_takes_no_memory_for_groups_that_it_does_not_answer() {
    for make in RESPONDERS {
        let (mut responder, peer) = make(DEPTH);
        let mut pages = [PgFault::default(); 16];
        let mut kept = [const { None }; DEPTH as usize];
        for round in 0..ROUNDS {
            pester(&peer, round);
            // In the place of the one that was kept longest.
            let place = round as usize % kept.len();
            without("drop", || kept[place] = None);
            peer.publish(&wire_page(round + 1, false));
            without("try_recv_group", || drop(responder.try_recv_group(&mut pages)));
            peer.publish(&wire_page(round + 1, true));
            let group = without("try_recv_group", || responder.try_recv_group(&mut pages)).unwrap();
            assert_eq!(group.len(), 2);
            kept[place] = Some(group);
            peer.take_record();
        }
        assert_eq!(responder.open_cookies().len(), kept.len());
    }
}

#[test]
fn largest_depth_that_can_be_offered_takes_bounded_memory() {
    const LARGEST: u32 = 1 << 20;
    const MOST: u64 = 128 << 20;
    for format in [Format::IOMMU_PGFAULT_V1, Format::IOMMU_PGFAULT_V2] {
        // The process that attaches allows it: by default it would be refused.
        let told = ChannelInfo::new(format, Transport::SHARED, 1);
        let allowed = |end| UnattachedEnd::from_parts(end, told).max_depth(LARGEST);
        let (_peer, end) = RingPeer::make(&good_offer(format, false, LARGEST, LARGEST));
        let heap = allocation_counter::measure(|| drop(FaultResponder::attach(allowed(end)).unwrap()));
        assert!(heap.bytes_max <= MOST, "{format}, responder: {} bytes", heap.bytes_max);
        let (_peer, end) = RingPeer::make(&good_offer(format, true, LARGEST, LARGEST));
        // The depth is that of the offer.
        let options = Options::new().depth(8);
        let heap =
            allocation_counter::measure(|| drop(FaultReporter::attach(allowed(end), &options).unwrap()));
        assert!(heap.bytes_max <= MOST, "{format}, reporter: {} bytes", heap.bytes_max);
    }
}
