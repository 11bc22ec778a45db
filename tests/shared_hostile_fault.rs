//! The peer of a shared channel of page faults that breaks the rules of the ring: every published group completes
//! exactly once, and a responder gets whole groups or an error.

mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::time::{Duration, Instant};

use common::fault::*;
use common::*;
use recordfd::fault::{
    self,
    Cause::{self, Answered, BadAnswer, Detached, HungUp},
    FaultCompletion, FaultReporter, FaultResponder, Options, ReportError, RespondError,
    ResponseCode::{self, Invalid, Success},
};
use recordfd::uapi::{EventFlags, Format, PageResponse, PgFault, Record};
use recordfd::{DrainError, TryRecvError, Violation};
use ring_ends::{REPORTERS, RESPONDERS, violation};
use ring_peer::{LOSS, RingPeer, Word, good_offer};

const DEPTH: u32 = 8;
const INDEX: Violation = Violation::RingIndex;
const STRAY: Violation = Violation::StrayToken;

type Ended = (u32, ResponseCode, Cause);

/// Publishes groups of one page and returns their cookies.
fn publish_all(reporter: &FaultReporter, count: u32) -> Vec<u32> {
    (0..count).map(|index| publish(reporter, page(1, index))).collect()
}

fn each(cookies: &[u32], code: ResponseCode, cause: Cause) -> Vec<Ended> {
    cookies.iter().map(|cookie| (*cookie, code, cause)).collect()
}

fn completions(reporter: &FaultReporter) -> Result<usize, TryRecvError> {
    reporter.completions(&mut [FaultCompletion::default(); 16])
}

/// Fails unless everything was told and the reporter says `violation` from now on.
fn assert_broken(reporter: &FaultReporter, expected: Violation) {
    for _ in 0..3 {
        assert_eq!(violation(completions(reporter)), expected);
        assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
    }
    assert!(reporter.is_closed());
    assert_eq!((reporter.counters().in_flight, reporter.counters().unanswered), (0, 0));
}

fn try_group(responder: &mut FaultResponder) -> Result<fault::FaultGroup, TryRecvError> {
    responder.try_recv_group(&mut [PgFault::default(); 409])
}

/// What a peer that keeps the rules finds in the slots that were published to it.
fn cookies(peer: &RingPeer) -> Vec<u32> {
    let records = std::iter::from_fn(|| peer.take_record());
    records.map(|bytes| PgFault::decode(&bytes).unwrap().cookie).collect()
}

#[test]
fn answers_of_any_kind_complete_each_group_once() {
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let published = publish_all(&reporter, 4);
        assert_eq!(cookies(&peer), published);
        let [good, bad, twice, none] = published[..] else { panic!() };
        for (cookie, code) in [
            (good, 0),
            (bad, 2),
            (twice, 1),
            (twice, 0),
            (0, 0),
            (u32::MAX, 0),
            (none ^ 1 << 31, 0),
            (good, 0),
        ] {
            peer.publish(&wire_response(cookie, code));
        }
        let expected = [(good, Success, Answered), (bad, Invalid, BadAnswer), (twice, Invalid, Answered)];
        assert_eq!(ended(&reporter), expected);
        assert_eq!((reporter.counters().late_answers, reporter.counters().unanswered), (5, 1));
        reporter.detach(1);
        assert_eq!(ended(&reporter), [(none, Invalid, Detached)]);
    }
}

#[test]
fn index_of_answers_that_cannot_be_completes_what_is_open() {
    for make in REPORTERS {
        for lie in [DEPTH + 3, u32::MAX, 1 << 31, 0] {
            let (reporter, peer) = make(DEPTH);
            let published = publish_all(&reporter, 6);
            (0..2).for_each(|index| peer.publish(&wire_response(published[index], 0)));
            assert_eq!(ended(&reporter), each(&published[..2], Success, Answered));
            peer.produced.set(Word::Tail, lie);
            assert_eq!(ended(&reporter), each(&published[2..], Invalid, HungUp));
            assert_broken(&reporter, INDEX);
            peer.produced.set(Word::Tail, 2);
            peer.publish(&wire_response(published[3], 0));
            assert_broken(&reporter, INDEX);
        }
    }
}

#[test]
fn index_of_groups_taken_that_cannot_be_completes_what_is_open() {
    for make in REPORTERS {
        for lie in [DEPTH + 1, u32::MAX, 1 << 31] {
            let (reporter, peer) = make(DEPTH);
            let published = publish_all(&reporter, DEPTH - 1);
            (0..4).for_each(|index| peer.publish(&wire_response(published[index], 0)));
            assert_eq!(reporter.completions(&mut [FaultCompletion::default(); 3]).unwrap(), 3);
            peer.consumed.set(Word::Head, lie);
            // Looked at when there seems to be no room.
            let [first, last] = group(1, 9, 2)[..] else { panic!() };
            reporter.report(first).unwrap();
            assert!(matches!(reporter.report(last), Err(ReportError::Closed(request)) if request == last));
            // The answer that was there counts, and nothing is told twice.
            let told = ended(&reporter);
            assert_eq!(told[0], (published[3], Success, Answered));
            assert_eq!(told[1..], each(&published[4..], Invalid, HungUp));
            assert_broken(&reporter, INDEX);
        }
    }
}

#[test]
fn responder_that_says_it_is_gone_is_gone_for_good() {
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let published = publish_all(&reporter, 4);
        peer.publish(&wire_response(published[2], 0));
        peer.produced.set(Word::Gone, 1);
        let told = ended(&reporter);
        assert_eq!(told[0], (published[2], Success, Answered));
        assert_eq!(
            sorted(&told[1..]),
            sorted(each(&[published[0], published[1], published[3]], Invalid, HungUp))
        );
        // What it takes back, and goes on to answer, changes nothing.
        peer.produced.set(Word::Gone, 0);
        peer.publish(&wire_response(published[0], 0));
        for _ in 0..3 {
            assert!(matches!(completions(&reporter), Err(TryRecvError::Closed)));
            assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
        }
        assert_eq!(reporter.counters().in_flight, 0);
    }
}

#[test]
fn stray_wake_up_completes_what_is_open() {
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let published = publish_all(&reporter, 3);
        peer.put(&[0; 3]);
        assert_eq!(ended(&reporter), each(&published, Invalid, HungUp));
        assert_broken(&reporter, STRAY);
    }
}

#[test]
fn hole_under_the_groups_and_answers_completes_what_is_open() {
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let published = publish_all(&reporter, 3);
        peer.publish(&wire_response(published[0], 0));
        assert_eq!(ended(&reporter), each(&published[..1], Success, Answered));
        peer.punch_hole(0, peer.offer.map_size);
        // The index of the answers went back.
        assert_eq!(ended(&reporter), each(&published[1..], Invalid, HungUp));
        assert_broken(&reporter, INDEX);
    }
}

#[test]
fn waits_of_a_reporter_keep_their_time_without_tokens() {
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let published = publish_all(&reporter, 1);
        let mut out = [FaultCompletion::default(); 4];
        let timeout = Duration::from_millis(20);
        let began = Instant::now();
        let waited = reporter.wait_completions(&mut out, Some(timeout));
        assert!(matches!(waited, Err(TryRecvError::Empty)), "{waited:?}");
        assert!(matches!(reporter.drain(1, timeout), Err(DrainError::Timeout)));
        assert!(began.elapsed() >= 2 * timeout);
        // An answer whose token is withheld is found by who looks.
        peer.produced.set_slot(0, &wire_response(published[0], 0));
        peer.produced.set(Word::Tail, 1);
        reporter.drain(1, timeout).unwrap();
        assert_eq!(ended(&reporter), each(&published, Success, Answered));
    }
}

#[test]
fn pages_that_break_the_format_are_refused_behind_the_groups_in_front_of_them() {
    let mut zero = wire_page(0, true);
    zero[36..40].fill(0);
    let mut other_device = wire_page(7, true);
    other_device[4] = 9;
    let cases: [(&[[u8; 40]], Violation); 6] = [
        (&[zero], Violation::ZeroCookie),
        (&[wire_page(1, true)], Violation::CookieOpen { cookie: 1 }),
        (&[wire_page(7, false), wire_page(8, true)], Violation::GroupNotEnded),
        (&[wire_page(7, false), other_device], Violation::GroupMixed),
        (&[wire_page(7, false), wire_page(1, true)], Violation::GroupNotEnded),
        (&[wire_page(7, false), zero], Violation::GroupNotEnded),
    ];
    for make in RESPONDERS {
        for (bad, expected) in cases {
            let (mut responder, peer) = make(DEPTH);
            peer.publish(&wire_page(1, true));
            bad.iter().for_each(|page| peer.publish(page));
            let group = try_group(&mut responder).unwrap();
            assert_eq!((group.cookie(), group.len()), (1, 1));
            for _ in 0..3 {
                assert_eq!(violation(try_group(&mut responder)), expected);
            }
            // Nobody is there whom an answer could be given.
            assert!(matches!(group.respond(Success), Err(RespondError::Closed)));
            assert_eq!(responder.open_cookies(), []);
            assert_eq!(peer.consumed.get(Word::Tail), 0);
        }
    }
}

#[test]
fn more_open_groups_than_the_depth_are_refused() {
    for make in RESPONDERS {
        let (mut responder, peer) = make(DEPTH);
        let mut groups = Vec::new();
        for cookie in 1..=DEPTH {
            peer.publish(&wire_page(cookie, true));
            groups.push(try_group(&mut responder).unwrap());
        }
        peer.publish(&wire_page(DEPTH + 1, true));
        assert_eq!(violation(try_group(&mut responder)), Violation::TooManyOpen);
    }
}

#[test]
fn group_longer_than_the_ring_is_refused_when_it_can_be_known() {
    for make in RESPONDERS {
        for depth in [1, 2, 4, 64] {
            // As many as fit, in pieces as they come.
            let (mut responder, peer) = make(depth);
            for number in 1..=depth {
                peer.publish(&wire_page(3, number == depth));
                if number < depth {
                    assert!(
                        matches!(try_group(&mut responder), Err(TryRecvError::Empty)),
                        "{number} of {depth}"
                    );
                }
            }
            assert_eq!(try_group(&mut responder).unwrap().len(), depth as usize);
            // The last that fits, and it is not the last.
            let (mut responder, peer) = make(depth);
            for number in 1..=depth {
                peer.publish(&wire_page(3, false));
                let received = try_group(&mut responder);
                match number == depth {
                    true => assert_eq!(violation(received), Violation::GroupTooLarge),
                    false => assert!(matches!(received, Err(TryRecvError::Empty))),
                }
            }
        }
    }
}

#[test]
fn group_that_its_reporter_leaves_unfinished_is_refused() {
    for make in RESPONDERS {
        for by_word in [false, true] {
            let (mut responder, mut peer) = make(DEPTH);
            peer.publish(&wire_page(1, true));
            peer.publish(&wire_page(2, false));
            if by_word {
                peer.produced.set(Word::Gone, 1);
            } else {
                peer.hang_up();
            }
            assert_eq!(try_group(&mut responder).unwrap().cookie(), 1);
            assert!(until(|| !matches!(try_group(&mut responder), Err(TryRecvError::Empty))));
            assert_eq!(violation(try_group(&mut responder)), Violation::GroupNotEnded);
        }
    }
}

#[test]
fn index_of_groups_that_cannot_be_is_refused_and_ends_what_is_open() {
    for make in RESPONDERS {
        for lie in [0, DEPTH + 2, u32::MAX, 1 << 31] {
            let (mut responder, peer) = make(DEPTH);
            peer.publish(&wire_page(1, true));
            let group = try_group(&mut responder).unwrap();
            peer.produced.set(Word::Tail, lie);
            assert_eq!(violation(try_group(&mut responder)), INDEX);
            drop(group);
            assert_eq!(responder.open_cookies(), [], "owed to nobody");
        }
    }
}

#[test]
fn index_of_answers_taken_that_cannot_be_ends_the_answering() {
    for make in RESPONDERS {
        let (mut responder, peer) = make(DEPTH);
        for cookie in 1..=2 * DEPTH {
            peer.publish(&wire_page(cookie, true));
            let group = try_group(&mut responder).unwrap();
            if cookie <= DEPTH {
                group.respond(Success).unwrap();
                continue;
            }
            peer.consumed.set(Word::Head, DEPTH + 1);
            assert!(matches!(group.respond(Success), Err(RespondError::Closed)));
            break;
        }
        assert_eq!(peer.consumed.get(Word::Tail), DEPTH);
        assert_eq!(violation(try_group(&mut responder)), INDEX);
    }
}

#[test]
fn reporter_with_little_room_for_answers_holds_up_its_own_answers_only() {
    // One that has made the channel so.
    let (peer, end) = RingPeer::make(&good_offer(Format::IOMMU_PGFAULT_V1, false, DEPTH, 1));
    let mut responder = FaultResponder::from_shared(end).unwrap();
    (1..=4).for_each(|cookie| peer.publish(&wire_page(cookie, true)));
    let mut groups: Vec<_> = (0..4).map(|_| try_group(&mut responder).unwrap()).collect();
    groups.remove(0).respond(Success).unwrap();
    let group = match groups.remove(0).respond(Success) {
        Err(RespondError::WouldBlock(group)) => group,
        other => panic!("{other:?}"),
    };
    drop(groups);
    let answer = |cookie, code| Some(wire_response(cookie, code).to_vec());
    assert_eq!(peer.take_record(), answer(1, 0));
    // What was dropped is answered before anything else, as far as there is room.
    assert!(matches!(try_group(&mut responder), Err(TryRecvError::Empty)));
    assert_eq!((peer.take_record(), peer.take_record()), (answer(3, 1), None));
    assert!(matches!(try_group(&mut responder), Err(TryRecvError::Empty)));
    assert_eq!(peer.take_record(), answer(4, 1));
    group.respond(Success).unwrap();
    assert_eq!(peer.take_record(), answer(2, 0));
    assert_eq!(responder.open_cookies(), []);
    assert!(matches!(
        responder.respond(PageResponse { cookie: 2, code: SUCCESS }),
        Err(RespondError::StaleCookie)
    ));
}

#[test]
fn word_of_a_loss_where_nothing_can_be_lost_brings_nothing() {
    for make in RESPONDERS {
        let (mut responder, peer) = make(DEPTH);
        for word in [LOSS, LOSS | 5, u32::MAX, 5] {
            peer.produced.set(Word::TailLoss, word);
            assert!(matches!(try_group(&mut responder), Err(TryRecvError::Empty)));
        }
        peer.publish(&wire_page(1, true));
        assert_eq!(try_group(&mut responder).unwrap().cookie(), 1);
    }
    for make in REPORTERS {
        let (reporter, peer) = make(DEPTH);
        let published = publish_all(&reporter, 1);
        peer.produced.set(Word::TailLoss, LOSS | 5);
        assert!(matches!(completions(&reporter), Err(TryRecvError::Empty)));
        peer.publish(&wire_response(published[0], 0));
        assert_eq!(ended(&reporter), each(&published, Success, Answered));
    }
}

#[test]
fn numbered_groups_must_follow_each_other() {
    let none = EventFlags::empty();
    let cases = [
        (wire_event(1, none, 5, true), Violation::SequenceGap),
        (wire_event(0x7fff_ffff, none, 5, true), Violation::SequenceGap),
        (
            wire_event(0, EventFlags::LOST_EVENTS, 5, true),
            Violation::Record(recordfd::uapi::RecordError::Flags { unknown: 1 }),
        ),
    ];
    for (bad, expected) in cases {
        let (responder, end) = fault::shared_responder(&v2().depth(DEPTH)).unwrap();
        let (mut responder, peer) = (responder, RingPeer::attach(end));
        peer.publish(&bad);
        assert_eq!(violation(try_group(&mut responder)), expected);
    }
    // Notices in any number are no groups, and end.
    let (peer, end) = RingPeer::make(&good_offer(Format::IOMMU_PGFAULT_V2, false, 64, 64));
    let mut responder = FaultResponder::from_shared(end).unwrap();
    peer.publish(&wire_event(0, none, 5, true));
    let group = try_group(&mut responder).unwrap();
    for number in 1..500 {
        peer.publish(&wire_cancelled(number, 1 + number % 7));
        assert!(matches!(try_group(&mut responder), Err(TryRecvError::Empty)));
    }
    assert!(group.is_cancelled());
    assert_eq!((responder.next_cancelled(), responder.next_cancelled()), (Some(5), None));
}

#[test]
fn waits_of_a_responder_keep_their_time() {
    for make in RESPONDERS {
        let (mut responder, peer) = make(DEPTH);
        let timeout = Duration::from_millis(20);
        let mut pages = [PgFault::default(); 16];
        let received = responder.recv_group_timeout(&mut pages, timeout);
        assert!(matches!(received, Err(TryRecvError::Empty)), "{received:?}");
        assert!(!responder.wait(Some(timeout)).unwrap());
        // Half a group, with its tokens, and nothing behind it.
        peer.publish(&wire_page(1, false));
        let began = Instant::now();
        let received = responder.recv_group_timeout(&mut pages, timeout);
        assert!(matches!(received, Err(TryRecvError::Empty)), "{received:?}");
        assert!(began.elapsed() >= timeout);
        peer.put(&[0]);
        let received = responder.recv_group_timeout(&mut pages, SOON);
        assert_eq!(violation(received), STRAY);
    }
}

#[test]
fn bounds_of_the_reporter_are_its_own_whatever_the_offer_says() {
    let options = Options::new().depth(2).per_device(3);
    let (peer, end) = RingPeer::make(&good_offer(Format::IOMMU_PGFAULT_V1, true, 16, 2));
    let reporter = FaultReporter::from_shared(end, &options).unwrap();
    assert_eq!((reporter.depth(), reporter.max_group()), (16, 16));
    let published = publish_all(&reporter, 3);
    assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::DeviceFull(_))));
    // Answers through a ring that is smaller than it should be, one behind the other.
    for cookie in &published {
        peer.publish(&wire_response(*cookie, 0));
        assert_eq!(ended(&reporter), [(*cookie, Success, Answered)]);
    }
}
