//! Format v2: numbered records, and notices of groups that were completed without their answer.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::far::readable;
use common::far_fault::MakeAnyFault;
use common::fault::*;
use common::until;
use recordfd::fault::{Cause, Options, ResponseCode};
use recordfd::uapi::{Event, EventFlags, EventHeader, Format, PgFault, PgFaultFlags, Record, RecordError};
use recordfd::{TryRecvError, Violation};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    every {
        exchange_is_that_of_v1
        cancelled_group_is_told_once
        cancelled_group_must_still_be_answered_or_dropped
        group_answered_before_its_notice_is_looked_for_is_not_told
        answered_group_has_no_notice
        deadline_is_told_too
        many_notices_do_not_hide_a_group
        first_format_says_nothing_of_cancellation
    }
    local {
        unread_group_is_taken_back_without_a_notice
        answer_to_a_cancelled_group_is_stale
    }
    socket {
        unread_group_is_delivered_and_then_cancelled
        answer_and_notice_may_cross
        notice_waits_for_room_and_follows_what_is_unread
    }
}

const RECORD: usize = Event::<PgFault>::SIZE;
const HOUR: Duration = Duration::from_secs(3600);

fn options() -> Options {
    Options::new().format(Format::IOMMU_PGFAULT_V2)
}

/// Every notice that can be had now.
fn told(responder: &mut impl Responds) -> Vec<u32> {
    assert!(is_empty(responder));
    std::iter::from_fn(|| responder.next_cancelled()).collect()
}

fn exchange_is_that_of_v1(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options());
    reporter.report_batch(&[group(1, 0, 3), group(2, 1, 1)].concat()).unwrap();
    let (first, pages) = receive(&mut responder);
    assert_eq!(pages.iter().map(|page| page.addr).collect::<Vec<_>>(), [0, 1, 2]);
    let (second, _) = receive(&mut responder);
    assert!(is_empty(&mut responder) && !readable(&responder));
    let cookies = [second.cookie(), first.cookie()];
    second.respond(Success).unwrap();
    drop(first);
    let ends = [(cookies[0], Success, Cause::Answered), (cookies[1], Invalid, Cause::Answered)];
    assert_eq!(ended(&reporter), ends);
    assert_eq!(told(&mut responder), []);
}

fn cancelled_group_is_told_once(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options());
    let cookies = [(1, 0), (2, 0), (1, 1)].map(|(dev_id, index)| publish(&reporter, page(dev_id, index)));
    let groups = cookies.map(|_| receive(&mut responder).0);
    assert_eq!(told(&mut responder), []);
    assert!(!readable(&responder));
    reporter.detach(1);
    assert!(readable(&responder), "it wakes the responder");
    let mut notices = told(&mut responder);
    notices.sort();
    let mut expected = vec![cookies[0], cookies[2]];
    expected.sort();
    assert_eq!(notices, expected);
    assert_eq!(groups.each_ref().map(|group| group.is_cancelled()), [true, false, true]);
    // Neither again by itself nor by another detach.
    reporter.detach(1);
    assert_eq!(told(&mut responder), []);
    assert!(!readable(&responder));
    reporter.detach(2);
    assert_eq!(told(&mut responder), [cookies[1]]);
}

fn cancelled_group_must_still_be_answered_or_dropped(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options().depth(2).per_device(2));
    for round in 0..6 {
        let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
        let [first, second] = cookies.map(|_| receive(&mut responder).0);
        reporter.detach(1);
        assert_eq!(collect(&reporter).len(), 2);
        if round % 2 == 0 {
            assert_eq!(told(&mut responder).len(), 2);
        }
        assert_eq!(reporter.counters().in_flight, 2, "it takes up room until then");
        drop(first);
        let _ = second.respond(Success);
        assert_eq!(collect(&reporter), []);
        assert_eq!((reporter.counters().in_flight, told(&mut responder)), (0, vec![]));
    }
}

fn group_answered_before_its_notice_is_looked_for_is_not_told(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let [first, second] = cookies.map(|_| receive(&mut responder).0);
    reporter.detach(1);
    assert!(is_empty(&mut responder), "the notices are here");
    let _ = first.respond(Success);
    assert_eq!(responder.next_cancelled(), Some(cookies[1]));
    assert_eq!(responder.next_cancelled(), None);
    drop(second);
}

fn answered_group_has_no_notice(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options());
    publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    assert!(!group.is_cancelled());
    group.respond(Success).unwrap();
    reporter.detach(1);
    assert_eq!(ended(&reporter)[0].2, Cause::Answered);
    assert_eq!(told(&mut responder), []);
}

fn deadline_is_told_too(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options().deadline(HOUR));
    let cookie = publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 1);
    assert_eq!(told(&mut responder), [cookie]);
    assert!(group.is_cancelled());
}

fn many_notices_do_not_hide_a_group(make: MakeAnyFault) {
    const MANY: u32 = 1000;
    let (reporter, mut responder) = make(&options().depth(MANY + 1).per_device(MANY));
    let batch = [page(1, 0); MANY as usize];
    assert_eq!(reporter.report_batch(&batch).unwrap() as u32, MANY);
    for _ in 0..MANY {
        receive(&mut responder).0.into_cookie();
    }
    assert_eq!(reporter.detach(1) as u32, MANY);
    let cookie = publish(&reporter, page(2, 0));
    // Empty would mean that nothing is there, and an edge-triggered loop would sleep on it.
    let mut pages = [PgFault::default(); 1];
    let group = responder.try_recv_group(&mut pages).expect("a group is there");
    assert_eq!(group.cookie(), cookie);
    assert_eq!(told(&mut responder).len() as u32, MANY);
}

fn first_format_says_nothing_of_cancellation(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().deadline(HOUR));
    let cookies = [1, 2].map(|dev_id| publish(&reporter, page(dev_id, 0)));
    let groups = cookies.map(|_| receive(&mut responder).0);
    assert!(is_empty(&mut responder));
    reporter.detach(1);
    reporter.process(Instant::now() + 2 * HOUR);
    assert!(!readable(&responder));
    assert_eq!(told(&mut responder), []);
    assert_eq!(groups.each_ref().map(|group| group.is_cancelled()), [false; 2]);
    assert_eq!(responder.open_cookies().len(), 2);
}

#[cfg(feature = "local")]
fn unread_group_is_taken_back_without_a_notice() {
    let (reporter, mut responder) = local(&options());
    publish(&reporter, page(1, 0));
    reporter.detach(1);
    assert_eq!((told(&mut responder), responder.received()), (vec![], 0));
    assert!(!readable(&responder));
}

#[cfg(feature = "local")]
fn answer_to_a_cancelled_group_is_stale() {
    let (reporter, mut responder) = local(&options());
    for looks_before in [true, false] {
        let cookie = publish(&reporter, page(1, 0));
        let (group, _) = receive(&mut responder);
        reporter.detach(1);
        let expected = if looks_before { vec![cookie] } else { vec![] };
        if looks_before {
            assert_eq!(told(&mut responder), expected);
        }
        assert!(matches!(group.respond(Success), Err(recordfd::fault::RespondError::StaleCookie)));
        assert_eq!((told(&mut responder), collect(&reporter).len()), (vec![], 1));
    }
}

fn unread_group_is_delivered_and_then_cancelled(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options());
    reporter.report_batch(&group(1, 0, 3)).unwrap();
    reporter.detach(1);
    let (group, pages) = receive(&mut responder);
    assert!(pages.len() == 3 && !group.is_cancelled(), "its notice is behind it");
    assert_eq!(told(&mut responder), [group.cookie()]);
    assert!(group.is_cancelled());
    group.respond(Success).expect("it is handed over");
    assert_eq!(ended(&reporter), [(pages[0].cookie, Invalid, Cause::Detached)]);
    assert_eq!(collect(&reporter), []);
    assert_eq!((reporter.counters().late_answers, reporter.counters().in_flight), (1, 0));
}

fn answer_and_notice_may_cross(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options().depth(4));
    for round in 1..=10 {
        let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
        let [first, second] = cookies.map(|_| receive(&mut responder).0);
        reporter.detach(1);
        // The responder has not looked yet.
        first.respond(Success).unwrap();
        let detached = cookies.map(|cookie| (cookie, Invalid, Cause::Detached));
        assert_eq!(sorted(ended(&reporter)), sorted(detached));
        assert_eq!(collect(&reporter), []);
        // Behind the notices comes another group.
        let next = publish(&reporter, page(2, 9));
        let (group, _) = receive(&mut responder);
        assert_eq!((group.cookie(), group.is_cancelled(), second.is_cancelled()), (next, false, true));
        assert_eq!(told(&mut responder), [cookies[1]], "of the other nobody wants to know");
        group.respond(Success).unwrap();
        drop(second);
        assert_eq!(ended(&reporter), [(next, Success, Cause::Answered)]);
        assert_eq!(collect(&reporter), []);
        assert_eq!(reporter.counters().late_answers, 2 * round);
    }
}

fn notice_waits_for_room_and_follows_what_is_unread(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&options().depth(4).per_device(4));
    let cookies = [0, 1, 2, 3].map(|index| publish(&reporter, page(1, index)));
    assert_eq!(reporter.detach(1), 4);
    assert_eq!(collect(&reporter).len(), 4, "completing waits for nobody");
    let groups = cookies.map(|cookie| {
        let (group, _) = receive(&mut responder);
        assert_eq!(group.cookie(), cookie);
        group
    });
    assert_eq!(told(&mut responder), [], "there was no room");
    // The next call of the reporter writes them.
    assert_eq!(collect(&reporter), []);
    let mut notices = told(&mut responder);
    notices.sort();
    let mut expected = cookies.to_vec();
    expected.sort();
    assert_eq!(notices, expected);
    assert_eq!(groups.each_ref().map(|group| group.is_cancelled()), [true; 4]);
    // With some of them answered before there is room, only the others are told.
    groups.into_iter().for_each(drop);
    assert_eq!(collect(&reporter), []);
    let cookies = [0, 1, 2, 3].map(|index| publish(&reporter, page(1, index)));
    reporter.detach(1);
    let [first, second, third, fourth] = cookies.map(|_| receive(&mut responder).0);
    [first, third].into_iter().for_each(drop);
    assert_eq!(collect(&reporter).len(), 4);
    let mut notices = told(&mut responder);
    notices.sort();
    let mut expected = vec![second.cookie(), fourth.cookie()];
    expected.sort();
    assert_eq!(notices, expected);
}

/// Every record that `peer` can read now.
fn records(peer: &mut UnixStream) -> Vec<Event<PgFault>> {
    let mut bytes = Vec::new();
    peer.set_nonblocking(true).unwrap();
    match peer.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    assert_eq!(bytes.len() % RECORD, 0, "records are written whole");
    bytes.chunks(RECORD).map(|bytes| Event::decode(bytes).unwrap()).collect()
}

#[test]
fn records_are_numbered_page_by_page() {
    let (reporter, mut peer) = reporter_and_peer(&options());
    reporter
        .report_batch(&[group(1, 0, 3), group(1, 1, 1), group(1, 2, 1), group(1, 3, 2)].concat())
        .unwrap();
    let records = records(&mut peer);
    assert_eq!(records.len(), 7);
    for (number, record) in records.iter().enumerate() {
        let header = EventHeader { flags: EventFlags::empty(), sequence: number as u32 };
        assert_eq!(record.header, header);
    }
    let lasts = records.iter().map(|record| record.payload.flags.contains(PgFaultFlags::LAST_PAGE));
    assert!(lasts.eq([false, false, true, true, true, false, true]));
}

#[test]
fn notice_is_a_record_of_its_own() {
    let (reporter, mut peer) = reporter_and_peer(&options());
    let cookie = publish(&reporter, page(0x0102_0304, 7));
    assert_eq!(records(&mut peer).len(), 1);
    reporter.detach(0x0102_0304);
    let mut bytes = [0xff; RECORD + 1];
    assert_eq!(peer.read(&mut bytes).unwrap(), RECORD);
    // Header: CANCELLED, number 1. Payload: LAST_PAGE, the device and the cookie, and nothing else.
    let mut expected = [0; RECORD];
    expected[0..4].copy_from_slice(&2u32.to_ne_bytes());
    expected[4..8].copy_from_slice(&1u32.to_ne_bytes());
    expected[8..12].copy_from_slice(&2u32.to_ne_bytes());
    expected[12..16].copy_from_slice(&0x0102_0304u32.to_ne_bytes());
    expected[44..48].copy_from_slice(&cookie.to_ne_bytes());
    assert_eq!(bytes[..RECORD], expected);
    // And what follows is numbered behind it.
    publish(&reporter, page(1, 0));
    assert_eq!(records(&mut peer)[0].header.sequence, 2);
}

#[test]
fn first_format_writes_nothing_on_cancellation() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new().deadline(HOUR));
    assert_eq!(reporter.report_batch(&[page(1, 0), page(2, 0)]).unwrap(), 2);
    let mut bytes = [0; 4096];
    assert_eq!(peer.read(&mut bytes).unwrap(), 2 * PgFault::SIZE);
    reporter.detach(1);
    reporter.process(Instant::now() + 2 * HOUR);
    assert_eq!(collect(&reporter).len(), 2);
    assert!(records(&mut peer).is_empty());
}

/// Bytes of a v2 record: a page of a group of its own, or the notice of its cancellation.
fn wire(sequence: u32, cookie: u32, flags: EventFlags) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    EventHeader { flags, sequence }.encode(&mut bytes[..8]);
    bytes[8..].copy_from_slice(&wire_page(cookie, true));
    bytes
}

/// What the responder takes in of these records before it says that the peer broke the format, if so.
fn received(records: &[[u8; RECORD]]) -> (usize, Option<Violation>) {
    let (mut responder, mut peer) = responder_and_peer(&options());
    peer.write_all(&records.concat()).unwrap();
    let mut groups = Vec::new();
    loop {
        match responder.try_recv_group(&mut [PgFault::default(); 2]) {
            Ok(group) => groups.push(group),
            Err(TryRecvError::Empty) => return (groups.len(), None),
            Err(TryRecvError::PeerViolation(violation)) => {
                let again = responder.try_recv_group(&mut [PgFault::default(); 2]);
                assert!(matches!(again, Err(TryRecvError::PeerViolation(found)) if found == violation));
                return (groups.len(), Some(violation));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn gap_in_the_numbers_is_a_violation() {
    let page = |sequence, cookie| wire(sequence, cookie, EventFlags::empty());
    let notice = |sequence, cookie| wire(sequence, cookie, EventFlags::CANCELLED);
    assert_eq!(received(&[page(0, 5), page(1, 6), notice(2, 5), page(3, 7)]), (3, None));
    let gap = Some(Violation::SequenceGap);
    assert_eq!(received(&[page(0, 5), page(2, 6)]), (1, gap), "one is missing");
    assert_eq!(received(&[page(0, 5), page(0, 6)]), (1, gap), "the same again");
    assert_eq!(received(&[page(0, 5), page(1, 6), page(0, 7)]), (2, gap), "backwards");
    assert_eq!(received(&[page(0, 5), notice(2, 5)]), (1, gap), "notices are numbered, too");
    assert_eq!(received(&[page(0, 5), notice(1, 5), page(1, 6)]), (1, gap));
}

#[test]
fn first_number_of_a_channel_is_zero() {
    let page = |sequence, cookie| wire(sequence, cookie, EventFlags::empty());
    assert_eq!(received(&[page(1, 5), page(2, 6)]), (0, Some(Violation::SequenceGap)));
    assert_eq!(received(&[page(0x7fff_ffff, 5), page(0, 6)]), (0, Some(Violation::SequenceGap)));
}

#[test]
fn notices_of_nothing_are_no_harm_and_other_flags_are() {
    let page = |sequence, cookie| wire(sequence, cookie, EventFlags::empty());
    let notice = |sequence, cookie| wire(sequence, cookie, EventFlags::CANCELLED);
    // Their groups may be answered by now.
    assert_eq!(received(&[notice(0, 9), notice(1, 9), page(2, 5), notice(3, 5), notice(4, 5)]), (1, None));
    assert_eq!(received(&[notice(0, 0)]), (0, Some(Violation::ZeroCookie)));
    for flags in [EventFlags::LOST_EVENTS, EventFlags::from_bits_retain(4)] {
        let unknown = flags.bits();
        let violation = Violation::Record(RecordError::Flags { unknown });
        assert_eq!(received(&[page(0, 5), wire(1, 6, flags)]), (1, Some(violation)));
    }
}

#[test]
fn responder_that_goes_leaves_nothing_to_be_told() {
    let (reporter, peer) = reporter_and_peer(&options().depth(2).per_device(2));
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    reporter.detach(1);
    drop(peer);
    assert!(until(|| reporter.is_closed()));
    let detached = cookies.map(|cookie| (cookie, Invalid, Cause::Detached));
    assert_eq!(sorted(ended(&reporter)), sorted(detached));
    assert_eq!(reporter.counters().in_flight, 0);
}
