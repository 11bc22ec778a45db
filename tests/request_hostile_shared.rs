//! Peers of a shared channel of requests that write what they like into the rings.

mod common;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::time::{Duration, Instant};

use common::request::*;
use common::until;
use recordfd::request::{self, Ack, Cause, Notice, Options, Reporter, Request, RespondError, Responder};
use recordfd::uapi::{DeviceRequest, EventFlags, PciError, RecordError};
use recordfd::{TryRecvError, Violation};
use ring_peer::{RingPeer, Word, good_offer};

const DEPTH: u32 = 8;
const NONE: EventFlags = EventFlags::empty();

/// Every way to have a reporter whose peer has the rings: this side makes the channel, or the peer does.
fn reporters<R: Request>() -> [(Reporter<R>, RingPeer); 2] {
    let options = Options::new().depth(DEPTH).per_device(DEPTH).deadline(None);
    let (reporter, end) = request::shared(&options).unwrap();
    let (peer, other) = RingPeer::make(&good_offer(R::FORMAT, true, DEPTH, DEPTH));
    [(reporter, RingPeer::attach(end)), (Reporter::from_shared(other, &options).unwrap(), peer)]
}

/// The same for a responder.
fn responders<R: Request>() -> [(Responder<R>, RingPeer); 2] {
    let (responder, end) = request::shared_responder(&Options::new().depth(DEPTH)).unwrap();
    let (peer, other) = RingPeer::make(&good_offer(R::FORMAT, false, DEPTH, DEPTH));
    [(responder, RingPeer::attach(end)), (Responder::from_shared(other).unwrap(), peer)]
}

fn violation<R: Request>(responder: &mut Responder<R>) -> Violation {
    match responder.try_recv() {
        Err(TryRecvError::PeerViolation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

fn records_that_break_the_format<R: Sample>() {
    let of = |cookie| R::of(1).under(cookie);
    let dirty = EventFlags::from_bits_retain(8);
    let cases = [
        (wire(1, NONE, of(0)), Violation::ZeroCookie),
        (wire(1, NONE, of(1)), Violation::CookieOpen { cookie: 1 }),
        (wire(2, NONE, of(2)), Violation::SequenceGap),
        (wire(1, dirty, of(2)), Violation::Record(RecordError::Flags { unknown: 8 })),
    ];
    for (bad, expected) in cases {
        for (mut responder, peer) in responders::<R>() {
            peer.publish(&wire(0, NONE, of(1)));
            peer.publish(&bad);
            peer.publish(&wire(2, NONE, of(3)));
            let pending = receive(&mut responder);
            for _ in 0..3 {
                assert_eq!(violation(&mut responder), expected);
            }
            drop(pending);
            assert_eq!(responder.received(), 1);
        }
    }
}

#[test]
fn record_that_breaks_the_format_is_refused_behind_those_in_front_of_it() {
    records_that_break_the_format::<PciError>();
    records_that_break_the_format::<DeviceRequest>();
}

#[test]
fn repeats_without_end_are_one_notice_and_no_call_waits_for_it() {
    for (mut responder, peer) in responders::<DeviceRequest>() {
        let of = |cookie| DeviceRequest::of(1).under(cookie);
        peer.publish(&wire(0, NONE, of(1)));
        let pending = receive(&mut responder);
        let mut count = 0;
        for _ in 0..50 {
            for _ in 0..DEPTH {
                count += 1;
                let flags = if count % 3 == 0 { EventFlags::CANCELLED } else { NONE };
                // Of one that is open, and of one that is not.
                let record = if flags == NONE { of(1) } else { of(9) };
                peer.publish(&wire(count, flags, record.asked(count)));
            }
            assert!(is_empty(&mut responder));
        }
        let Some(Notice::Repeated { cookie: 1, count: told }) = responder.next_notice() else { panic!() };
        assert!(told >= count - 1);
        assert_eq!((responder.next_notice(), responder.open_cookies()), (None, vec![1]));
        // The ring always has something, by its index.
        peer.produced.set(Word::Tail, count + 1 + DEPTH);
        assert!(matches!(violation(&mut responder), Violation::SequenceGap));
        // Nobody is there whom an answer could be given.
        assert!(matches!(pending.respond(Ack::Done), Err(RespondError::Closed)));
        assert_eq!(responder.open_cookies(), []);
    }
}

#[test]
fn repeat_that_is_changed_in_the_ring_behind_its_publication_is_read_once() {
    for (mut responder, peer) in responders::<DeviceRequest>() {
        let of = |cookie| DeviceRequest::of(1).under(cookie);
        peer.publish(&wire(0, NONE, of(1)));
        let pending = receive(&mut responder);
        peer.publish(&wire(1, NONE, of(1).asked(4)));
        // What was a repeat when it was published is a request when it is read, under a cookie that is open.
        peer.produced.set_slot(1, &wire(1, NONE, of(1)));
        assert_eq!(violation(&mut responder), Violation::CookieOpen { cookie: 1 });
        assert_eq!((pending.record().count, responder.next_notice()), (0, None));
    }
}

#[test]
fn index_that_cannot_be_ends_the_channel_and_completes_what_is_open() {
    for lie in [DEPTH + 1, u32::MAX, 1 << 31] {
        for (reporter, peer) in reporters::<DeviceRequest>() {
            let cookies = [1, 2].map(|dev_id| reporter.report(DeviceRequest::of(dev_id)).unwrap());
            peer.publish(&wire_answer::<DeviceRequest>(cookies[0], 0));
            assert_eq!(ended(&reporter), [(cookies[0], Ack::Done, Cause::Answered)]);
            peer.produced.set(Word::Tail, lie.wrapping_add(1));
            assert_eq!(ended(&reporter), [(cookies[1], Ack::Refused, Cause::HungUp)]);
            let (_, end) = collect_all(&reporter);
            assert!(matches!(end, TryRecvError::PeerViolation(Violation::RingIndex)), "{end:?}");
            assert_eq!(reporter.next_deadline(), None, "nothing is asked for again");
        }
        for (mut responder, peer) in responders::<DeviceRequest>() {
            peer.produced.set(Word::Tail, lie);
            assert_eq!(violation(&mut responder), Violation::RingIndex);
        }
    }
}

#[test]
fn index_of_what_was_taken_that_cannot_be_ends_the_repeats() {
    for (reporter, peer) in reporters::<DeviceRequest>() {
        let cookie = reporter.report(DeviceRequest::of(1)).unwrap();
        peer.consumed.set(Word::Head, DEPTH + 1);
        let now = Instant::now();
        for turn in 1..20 {
            reporter.process(now + turn * Duration::from_secs(11));
        }
        // Looked at when there seems to be no room.
        assert_eq!(peer.consumed.get(Word::Tail), DEPTH);
        assert_eq!(ended(&reporter), [(cookie, Ack::Refused, Cause::HungUp)]);
    }
}

#[test]
fn answers_of_any_kind_complete_each_request_once() {
    for (reporter, mut peer) in reporters::<PciError>() {
        let cookies: Vec<_> = (0..5).map(|dev_id| reporter.report(PciError::of(dev_id)).unwrap()).collect();
        let answers =
            [(cookies[1], 2), (cookies[1], 5), (0, 2), (cookies[0], 0), (u32::MAX, 3), (cookies[2], 3)];
        for (cookie, code) in answers {
            peer.publish(&wire_answer::<PciError>(cookie, code));
        }
        let ends: Vec<_> = ended(&reporter).iter().map(|(cookie, _, cause)| (*cookie, *cause)).collect();
        let answered =
            [(cookies[1], Cause::Answered), (cookies[0], Cause::BadAnswer), (cookies[2], Cause::Answered)];
        assert_eq!(ends, answered);
        assert_eq!(reporter.counters().late_answers, 3);
        peer.hang_up();
        assert!(until(|| reporter.is_closed()));
        assert_eq!(ended(&reporter).len(), 2);
    }
}
