//! Peers that are none of ours, on the socket of a channel of requests: typed errors, nothing else.

mod common;

use std::ffi::c_int;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::request::*;
use common::{SOON, in_own_process, open_descriptors, readable, soon, until};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt::SndBuf};
use recordfd::request::{Ack, Cause, Next, Notice, Options, Reporter, Responder};
use recordfd::uapi::{DeviceAck, DeviceRequest, Event, EventFlags, Format, PciError, Record, RecordError};
use recordfd::{TryRecvError, Violation};

const NONE: EventFlags = EventFlags::empty();
const CANCELLED: EventFlags = EventFlags::CANCELLED;

/// A responder, and a peer that may write more than an honest one can have on its way.
fn responder_and_writer<R: Sample>(depth: u32) -> (Responder<R>, UnixStream) {
    let (responder, peer) = responder_and_peer::<R>(&Options::new().depth(depth));
    setsockopt(&peer, SndBuf, &200_000).unwrap();
    (responder, peer)
}

/// Fails unless every way to receive says `violation`, now and for ever.
fn assert_broken<R: Sample>(responder: &mut Responder<R>, violation: Violation) {
    for _ in 0..3 {
        let errors = [
            responder.try_recv().unwrap_err(),
            responder.recv().unwrap_err(),
            responder.recv_timeout(SOON).unwrap_err(),
        ];
        for error in errors {
            match error {
                TryRecvError::PeerViolation(found) => assert_eq!((found, error.errno()), (violation, 71)),
                other => panic!("{other:?} instead of {violation:?}"),
            }
        }
    }
}

fn violations_are_told_for_ever<R: Sample>() {
    let of = |cookie| R::of(7).under(cookie);
    let flags = EventFlags::from_bits_retain;
    let dirty = |unknown| Violation::Record(RecordError::Flags { unknown });
    let cases = [
        ("cookie 0", wire(1, NONE, of(0)), Violation::ZeroCookie),
        ("cookie 0 cancelled", wire(1, CANCELLED, of(0)), Violation::ZeroCookie),
        ("cookie that is open", wire(1, NONE, of(1)), Violation::CookieOpen { cookie: 1 }),
        ("a gap", wire(2, NONE, of(3)), Violation::SequenceGap),
        ("a number twice", wire(0, NONE, of(3)), Violation::SequenceGap),
        ("a gap before a notice", wire(2, CANCELLED, of(1)), Violation::SequenceGap),
        ("a loss", wire(1, EventFlags::LOST_EVENTS, of(3)), dirty(1)),
        ("dirty flags", wire(1, flags(1 << 31), of(3)), dirty(1 << 31)),
        ("dirty flags of a notice", wire(1, flags(6), of(1)), dirty(4)),
    ];
    for (name, bad, violation) in cases {
        let (mut responder, mut peer) = responder_and_writer::<R>(64);
        peer.write_all(&[wire(0, NONE, of(1)), bad, wire(2, NONE, of(9))].concat()).unwrap();
        let pending = receive(&mut responder);
        assert_eq!(pending.cookie(), 1, "{name}");
        assert_broken(&mut responder, violation);
        assert_eq!((responder.received(), responder.next_notice()), (1, None), "{name}");
        // What came before it can still be answered.
        pending.respond(R::YES).unwrap();
        assert_eq!(common::fault::available(&mut peer), wire_answer::<R>(1, R::CODE));
        drop(peer);
        assert_broken(&mut responder, violation);
    }
    let number = wire(0x8000_0000, NONE, of(1));
    let (mut responder, mut peer) = responder_and_writer::<R>(64);
    peer.write_all(&number).unwrap();
    assert!(matches!(
        responder.try_recv(),
        Err(TryRecvError::PeerViolation(Violation::Record(RecordError::Sequence { .. })))
    ));
}

#[test]
fn violation_of_a_reporter_is_told_for_ever_and_what_came_before_it_can_be_answered() {
    violations_are_told_for_ever::<PciError>();
    violations_are_told_for_ever::<DeviceRequest>();
}

#[test]
fn hang_up_at_any_byte_leaves_the_whole_requests_and_says_what_was_torn() {
    let records = [DeviceRequest::of(1).under(1), DeviceRequest::of(1).under(1).asked(1)];
    let bytes = stream(0, &[records[0], records[1], DeviceRequest::of(2).under(2)]);
    let size = Event::<DeviceRequest>::SIZE;
    for length in 0..=bytes.len() {
        let (mut responder, mut peer) = responder_and_writer::<DeviceRequest>(64);
        for byte in &bytes[..length] {
            peer.write_all(&[*byte]).unwrap();
        }
        drop(peer);
        let mut cookies = Vec::new();
        let end = loop {
            match responder.try_recv() {
                Ok(pending) => cookies.push(pending.into_cookie()),
                Err(TryRecvError::Empty) => panic!("nothing more can come"),
                Err(error) => break error,
            }
        };
        let expected: &[u32] = [&[][..], &[1], &[1], &[1, 2]][length / size];
        assert_eq!(cookies, expected, "{length} bytes");
        let count = (length / size >= 2).then_some(Notice::Repeated { cookie: 1, count: 1 });
        assert_eq!(responder.next_notice(), count);
        match (length % size, end) {
            (0, TryRecvError::Closed) => {}
            (found, TryRecvError::PeerViolation(violation)) => {
                assert_eq!(violation, Violation::TornRecord { found, size });
            }
            (found, end) => panic!("{found}: {end:?}"),
        }
    }
}

#[test]
fn more_open_requests_than_the_depth_are_refused_and_repeats_are_none() {
    let (mut responder, mut peer) = responder_and_writer::<DeviceRequest>(2);
    let of = |cookie| DeviceRequest::of(cookie).under(cookie);
    peer.write_all(&stream(0, &[of(1), of(2), of(1).asked(1), of(2).asked(7), of(3).asked(1), of(3)]))
        .unwrap();
    let pending = [(); 2].map(|()| receive(&mut responder));
    assert_broken(&mut responder, Violation::TooManyOpen);
    let told = [(); 3].map(|()| responder.next_notice());
    let repeated = |cookie, count| Some(Notice::Repeated { cookie, count });
    assert_eq!(told, [repeated(1, 1), repeated(2, 7), None]);
    drop(pending);
}

#[test]
fn repeats_and_notices_of_what_is_not_open_are_ignored() {
    let (mut responder, mut peer) = responder_and_writer::<DeviceRequest>(4);
    let of = |cookie| DeviceRequest::of(9).under(cookie);
    let mut sequence = 0;
    let mut write = |flags, record| {
        peer.write_all(&wire(sequence, flags, record)).unwrap();
        sequence += 1;
    };
    for count in [1, 2, u32::MAX] {
        write(NONE, of(5).asked(count));
        write(CANCELLED, of(5));
        write(CANCELLED, of(6).asked(count));
    }
    assert!(is_empty(&mut responder));
    assert_eq!((responder.next_notice(), responder.open_cookies()), (None, vec![]));
    // It may still open, and with any kind: that is the device's word.
    write(NONE, DeviceRequest { kind: recordfd::uapi::DeviceRequestKind::new(77), ..of(5) });
    let pending = receive(&mut responder);
    assert_eq!((pending.cookie(), pending.record().kind.get()), (5, 77));
    // Counts that do not grow say nothing; one that is cancelled is not asked for again.
    for count in [3, 3, 2] {
        write(NONE, of(5).asked(count));
    }
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_notice(), Some(Notice::Repeated { cookie: 5, count: 3 }));
    write(NONE, of(5).asked(2));
    write(CANCELLED, of(5));
    write(CANCELLED, of(5));
    write(NONE, of(5).asked(9));
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_notice(), Some(Notice::Cancelled { cookie: 5 }));
    assert!(pending.is_cancelled() && responder.next_notice().is_none());
    drop(pending);
    write(NONE, of(5).asked(10));
    write(NONE, of(5));
    assert_eq!(receive(&mut responder).record().count, 0);
}

#[test]
fn flood_of_repeats_keeps_no_call_from_returning() {
    let (mut responder, peer) = responder_and_writer::<DeviceRequest>(8);
    let flood = {
        let mut peer = peer.try_clone().unwrap();
        std::thread::spawn(move || {
            let of = |cookie| DeviceRequest::of(1).under(cookie);
            let mut count = 0_u32;
            if peer.write_all(&stream(0, &[of(1)])).is_err() {
                return;
            }
            loop {
                let batch: Vec<_> = (count..count + 64)
                    .flat_map(|count| wire(count + 1, NONE, of(1 + count % 2).asked(count + 1)))
                    .collect();
                count += 64;
                if peer.write_all(&batch).is_err() {
                    return;
                }
            }
        })
    };
    let responder = soon(move || {
        let pending = responder.recv().unwrap();
        for _ in 0..200 {
            assert!(matches!(responder.try_recv(), Err(TryRecvError::Empty)), "none of these is a request");
        }
        let began = Instant::now();
        let told = responder.recv_timeout(Duration::from_millis(30));
        assert!(matches!(told, Err(TryRecvError::Empty)), "{told:?}");
        assert!(began.elapsed() < SOON / 2);
        // However many came: one notice.
        assert!(matches!(responder.next_notice(), Some(Notice::Repeated { cookie: 1, .. })));
        assert_eq!((responder.next_notice(), responder.open_cookies()), (None, vec![1]));
        pending.respond(Ack::Done).unwrap();
        responder
    });
    drop(responder);
    peer.shutdown(std::net::Shutdown::Both).unwrap();
    flood.join().unwrap();
}

fn bad_answers_complete_negatively<R: Sample>() {
    let (reporter, mut peer) = reporter_and_peer::<R>(&Options::new());
    let cookies: Vec<_> = (0..6).map(|dev_id| reporter.report(R::of(dev_id)).unwrap()).collect();
    let codes = [u32::MAX, 77, 6, R::CODE];
    for (cookie, code) in cookies.iter().zip(codes) {
        peer.write_all(&wire_answer::<R>(*cookie, code)).unwrap();
    }
    // To nothing, and twice.
    for cookie in [0, u32::MAX, cookies[0] ^ 0x4000_0000, cookies[3]] {
        peer.write_all(&wire_answer::<R>(cookie, R::CODE)).unwrap();
    }
    let ends = ended(&reporter);
    let bad = cookies[..3].iter().map(|cookie| (*cookie, R::NO, Cause::BadAnswer));
    assert_eq!(ends, bad.chain([(cookies[3], R::YES, Cause::Answered)]).collect::<Vec<_>>());
    let counters = reporter.counters();
    assert_eq!((counters.bad_answer, counters.late_answers, counters.unanswered), (3, 4, 2));
    // A torn one ends the channel, and completes what is open.
    peer.write_all(&wire_answer::<R>(cookies[4], R::CODE)[..5]).unwrap();
    assert!(ended(&reporter).is_empty());
    drop(peer);
    assert!(until(|| reporter.is_closed()));
    assert_eq!(ended(&reporter), [4, 5].map(|place| (cookies[place], R::NO, Cause::HungUp)));
    let torn = Violation::TornRecord { found: 5, size: 8 };
    assert!(matches!(collect_all(&reporter).1, TryRecvError::PeerViolation(found) if found == torn));
    assert_eq!(reporter.report(R::of(9)).unwrap_err().errno(), 32);
}

#[test]
fn no_vote_of_a_driver_is_an_answer() {
    let (reporter, mut peer) = reporter_and_peer::<PciError>(&Options::new());
    let cookie = reporter.report(PciError::of(1)).unwrap();
    // PCI_ERS_RESULT_NONE, which some of Linux' drivers return.
    peer.write_all(&wire_answer::<PciError>(cookie, 1)).unwrap();
    let completion = collect_all(&reporter).0[0];
    assert_eq!((completion.cause, completion.next()), (Cause::Answered, Next::MmioEnabled));
}

#[test]
fn bad_answer_completes_its_request_negatively_and_no_other() {
    bad_answers_complete_negatively::<PciError>();
    bad_answers_complete_negatively::<DeviceRequest>();
}

#[test]
fn responder_that_never_reads_holds_up_reports_and_nothing_else() {
    let options = Options::new().depth(8).per_device(8).deadline(Some(Duration::from_secs(50)));
    let (reporter, mut peer) = reporter_and_peer::<DeviceRequest>(&options);
    let cookies: Vec<_> = (0..4).map(|dev_id| reporter.report(DeviceRequest::of(dev_id)).unwrap()).collect();
    let began = Instant::now();
    for turn in 1..5 {
        assert_eq!(reporter.process(began + turn * Duration::from_secs(11)), 0);
    }
    // The queue is full of repeats; a device is detached and the rest expires all the same.
    assert_eq!(reporter.detach(0), 1);
    assert_eq!(reporter.process(began + Duration::from_secs(70)), 4);
    assert_eq!(ended(&reporter).len(), 4);
    assert_eq!((reporter.counters().in_flight, reporter.next_deadline()), (4, None));
    // What was queued is read, then what found no room.
    let mut next = 0;
    let mut told = records::<DeviceRequest>(&mut peer, &mut next);
    reporter.process(Instant::now());
    assert!(ended(&reporter).is_empty());
    told.extend(records(&mut peer, &mut next));
    let cancelled: Vec<_> = told.iter().filter(|(flags, _)| *flags == CANCELLED).collect();
    assert_eq!(cancelled.len(), 4, "each is told once, when there is room");
    for (_, record) in &cancelled {
        assert!(cookies.contains(&record.cookie));
        assert_eq!(*record, DeviceRequest::notice(record.dev_id, record.cookie));
    }
    let last_repeat = told.iter().rposition(|(flags, _)| *flags == NONE).unwrap();
    let first_notice = told.iter().position(|(flags, _)| *flags == CANCELLED).unwrap();
    assert!(last_repeat < first_notice, "nothing is asked for again once it was cancelled");
}

#[test]
fn descriptors_attached_to_requests_and_answers_do_not_stay_open() {
    in_own_process("descriptors_attached_to_requests_and_answers_do_not_stay_open", || {
        use std::io::IoSlice;
        // What this side makes refuses descriptors, so the peer makes these.
        let [(near, peer), (far, answering)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let format = Format::DEVICE_REQUEST_V1;
        let mut responder = Responder::<DeviceRequest>::from_socket(near.into(), format, 64).unwrap();
        let reporter = Reporter::<DeviceRequest>::from_socket(far.into(), format, &Options::new()).unwrap();
        let before = open_descriptors();
        let attach = |socket: c_int, bytes: &[u8]| {
            let numbers = [0; 100];
            let rights = [nix::sys::socket::ControlMessage::ScmRights(&numbers)];
            nix::sys::socket::sendmsg::<()>(socket, &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None)
                .unwrap();
        };
        attach(peer.as_raw_fd(), &wire(0, NONE, DeviceRequest::of(1).under(1)));
        drop(receive(&mut responder));
        let cookie = reporter.report(DeviceRequest::of(1)).unwrap();
        attach(answering.as_raw_fd(), &wire_answer::<DeviceRequest>(cookie, 0));
        assert_eq!(ended(&reporter), [(cookie, Ack::Done, Cause::Answered)]);
        assert_eq!(open_descriptors(), before);
    });
}

/// As a program in C has it: read(2) and send(2), a record after the other.
#[test]
fn peer_in_c_reads_requests_and_answers_them() {
    let (reporter, peer) = reporter_and_peer::<DeviceRequest>(&Options::new().deadline(None));
    let cookie = reporter.report(DeviceRequest::of(7)).unwrap();
    reporter.process(Instant::now() + Duration::from_secs(11));
    let words: Vec<[u32; 6]> = [(); 2].map(|()| read_words(&peer)).to_vec();
    assert_eq!(words, [[0, 0, 7, cookie, 1, 0], [0, 1, 7, cookie, 1, 1]]);
    let answer = [cookie, 0].map(u32::to_le_bytes).concat();
    assert_eq!(send(peer.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL), Ok(8));
    assert!(readable(&reporter));
    assert_eq!(ended(&reporter), [(cookie, Ack::Done, Cause::Answered)]);
    let again = reporter.report(DeviceRequest::of(7)).unwrap();
    assert_eq!(read_words(&peer)[1..4], [2, 7, again]);
    assert_eq!(reporter.detach(7), 1);
    assert_eq!(read_words(&peer), [2, 3, 7, again, 1, 0]);
    drop(reporter);
    assert_eq!(nix::unistd::read(&peer, &mut [0; 24]), Ok(0));
}

/// One record of read(2), as words.
fn read_words(peer: &UnixStream) -> [u32; 6] {
    let mut bytes = [0; 24];
    assert_eq!(nix::unistd::read(peer, &mut bytes), Ok(24));
    let mut words = [0; 6];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap());
    }
    words
}

#[test]
fn peer_in_c_that_produces_asks_again_under_the_same_cookie() {
    let (mut responder, peer) = responder_and_writer::<DeviceRequest>(64);
    let mut sequence = 0_u32;
    let mut tell = |flags: u32, cookie: u32, count: u32| {
        let bytes = [flags, sequence, 7, cookie, 1, count].map(u32::to_le_bytes).concat();
        sequence += 1;
        send(peer.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)
    };
    assert_eq!([tell(0, 5, 0), tell(0, 5, 1)], [Ok(24); 2]);
    let pending = receive(&mut responder);
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_notice(), Some(Notice::Repeated { cookie: 5, count: 1 }));
    pending.respond(Ack::Refused).unwrap();
    // It had not read the answer yet.
    tell(0, 5, 2).unwrap();
    assert!(is_empty(&mut responder) && responder.next_notice().is_none());
    let mut answer = [0; 8];
    assert_eq!(nix::unistd::read(&peer, &mut answer), Ok(8));
    assert_eq!(DeviceAck::decode(&answer).unwrap(), DeviceRequest::code(5, 1));
    // Answered, so the cookie may come again.
    tell(0, 5, 0).unwrap();
    drop(receive(&mut responder));
    assert_eq!(nix::unistd::read(&peer, &mut answer), Ok(8));
    drop(responder);
    assert_eq!(tell(0, 6, 0), Err(Errno::EPIPE));
}
