//! A peer that floods, or never reads: every call takes a bounded time, timed ones keep their time, and
//! what others are owed is kept for them.

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::fault::*;
use common::*;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use recordfd::fault::Cause::{Answered, Deadline, Detached};
use recordfd::fault::ResponseCode::{Invalid, Success};
use recordfd::fault::{FaultCompletion, FaultGroup, FaultReporter, Options, ReportError, RespondError};
use recordfd::uapi::{EventFlags, PgFault};
use recordfd::{DrainError, TryRecvError, Violation};

/// How long a flood goes on that nobody stops.
const FLOOD: Duration = Duration::from_secs(3);

/// A thread that writes to a socket, which it keeps full, until told to stop.
struct Flood {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    writer: JoinHandle<UnixStream>,
}

impl Flood {
    /// Writes what `next` gives, one after the other; returns when the socket was full once.
    fn start(peer: UnixStream, mut next: impl FnMut() -> Vec<u8> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let bytes = Arc::new(AtomicU64::new(0));
        let (stopped, written) = (stop.clone(), bytes.clone());
        let is_full = Arc::new(AtomicBool::new(false));
        let was_full = is_full.clone();
        peer.set_nonblocking(true).unwrap();
        let writer = thread::spawn(move || {
            let mut peer = peer;
            let began = Instant::now();
            let is_over = || stopped.load(Relaxed) || began.elapsed() > FLOOD;
            'flood: loop {
                let part = next();
                let mut rest = &part[..];
                while !rest.is_empty() {
                    match peer.write(rest) {
                        Ok(count) => {
                            rest = &rest[count..];
                            written.fetch_add(count as u64, Relaxed);
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                            is_full.store(true, Relaxed);
                            // What was begun is finished, so that the stream is whole where it ends.
                            if is_over() && rest.len() == part.len() {
                                break 'flood;
                            }
                        }
                        Err(_) => break 'flood,
                    }
                }
                if is_over() {
                    break;
                }
            }
            peer.set_nonblocking(false).unwrap();
            peer
        });
        assert!(until(|| was_full.load(Relaxed)));
        Self { stop, bytes, writer }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn tell_to_stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// Notices of groups that nobody knows, numbered from 0.
fn notices() -> impl FnMut() -> Vec<u8> + Send {
    let mut bytes = wire_cancelled(0, 7).repeat(2048);
    let mut sequence = 0_u32;
    move || {
        for notice in bytes.chunks_exact_mut(48) {
            notice[4..8].copy_from_slice(&sequence.to_ne_bytes());
            sequence += 1;
        }
        bytes.clone()
    }
}

#[test]
fn flood_of_notices_does_not_keep_a_receive_from_returning() {
    let (mut responder, peer) = responder_and_peer(&v2());
    let flood = Flood::start(peer, notices());
    let mut pages = [PgFault::default(); 64];
    let mut groups = [const { None::<FaultGroup> }; 64];
    for _ in 0..50 {
        assert!(matches!(responder.try_recv_group(&mut pages), Err(TryRecvError::Empty)));
        assert!(matches!(responder.recv_groups(&mut pages, &mut groups), Err(TryRecvError::Empty)));
        assert_eq!(responder.next_cancelled(), None);
    }
    flood.tell_to_stop();
    let responder = soon(move || {
        while is_empty(&mut responder) && readable(&responder) {}
        responder
    });
    let mut peer = flood.writer.join().unwrap();
    // The flood was no violation: nothing is broken by it.
    drop(responder);
    assert!(peer.write_all(b"x").is_err());
}

#[test]
fn flood_of_notices_does_not_keep_a_timed_receive_beyond_its_time() {
    let (mut responder, mut peer) = responder_and_peer(&v2());
    let mut pages = [PgFault::default(); 64];
    // As many as the socket takes: more than a call looks at when no time is left.
    peer.set_nonblocking(true).unwrap();
    assert!(peer.write(&notices()()).unwrap() > 2000 * 48);
    let told = responder.recv_group_timeout(&mut pages, Duration::ZERO);
    assert!(matches!(told, Err(TryRecvError::Empty)), "{told:?}");
    assert!(readable(&responder), "it has taken in everything that was there, and so would a flood be");

    let (mut responder, peer) = responder_and_peer(&v2());
    let flood = Flood::start(peer, notices());
    let before = flood.bytes();
    let began = Instant::now();
    let told = responder.recv_group_timeout(&mut pages, Duration::from_millis(50));
    let took = began.elapsed();
    assert!(matches!(told, Err(TryRecvError::Empty)), "{told:?}");
    assert!(flood.bytes() > before, "there was no flood");
    assert!(took < FLOOD / 2, "50 ms became {took:?}");
    drop(responder);
    flood.tell_to_stop();
    flood.writer.join().unwrap();
}

#[test]
fn flood_of_answers_keeps_no_call_from_returning_and_no_group_from_its_answer() {
    let (reporter, peer) = reporter_and_peer(&Options::new().depth(64).deadline(Duration::from_secs(3600)));
    let cookies: Vec<_> = (0..60).map(|index| publish(&reporter, page(1 + index % 3, index))).collect();
    let (of_1, of_2): (Vec<_>, Vec<_>) =
        (cookies.iter().step_by(3).copied().collect(), cookies.iter().skip(1).step_by(3).copied().collect());
    // Garbage, and a long way behind each other the answers to the third device, which is the last one.
    let mut valid: Vec<_> = cookies.iter().skip(2).step_by(3).copied().collect();
    let third = valid.clone();
    let mut random = 0x1234_5678_u32;
    let mut rounds = 0_u32;
    let flood = Flood::start(peer, move || {
        rounds += 1;
        let mut bytes = Vec::with_capacity(16 * 1024);
        for _ in 0..2000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Never a cookie of this channel: its slots are the lower six bits.
            bytes.extend(wire_response(random | 63, random >> 16));
        }
        if rounds % 4 == 0 {
            bytes.extend(valid.pop().map(|cookie| wire_response(cookie, 0)).into_iter().flatten());
        }
        bytes
    });
    let mut out = [FaultCompletion::default(); 64];
    let began = Instant::now();
    let mut got = Vec::new();
    for _ in 0..20 {
        if let Ok(count) = reporter.completions(&mut out) {
            got.extend(out[..count].iter().map(|ended| (ended.cookie, ended.code, ended.cause)));
        }
        reporter.process(Instant::now());
    }
    assert!(matches!(reporter.drain(1, Duration::from_millis(2)), Err(DrainError::Timeout)));
    reporter.detach(1);
    reporter.process(Instant::now());
    while got.len() < 40 {
        match reporter.wait_completions(&mut out, Some(Duration::from_millis(20))) {
            Ok(count) => {
                got.extend(out[..count].iter().map(|ended| (ended.cookie, ended.code, ended.cause)));
            }
            Err(TryRecvError::Empty) => assert!(began.elapsed() < SOON, "{got:?}"),
            Err(error) => panic!("{error:?}"),
        }
    }
    let told = reporter.wait_completions(&mut out, Some(Duration::from_millis(20)));
    assert!(matches!(told, Err(TryRecvError::Empty)), "{told:?}");
    flood.tell_to_stop();
    let reporter = soon(move || {
        while !flood.writer.is_finished() || readable(&reporter) {
            let mut out = [FaultCompletion::default(); 64];
            assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
        }
        let counters = reporter.counters();
        assert_eq!(counters.late_answers + counters.answered, flood.bytes() / 8);
        assert_eq!((counters.answered, counters.detached, counters.bad_answer), (20, 20, 0));
        (reporter, flood.writer.join().unwrap())
    });
    got.sort_unstable_by_key(|(cookie, ..)| *cookie);
    let mut expected: Vec<_> = of_1.iter().map(|cookie| (*cookie, Invalid, Detached)).collect();
    expected.extend(third.iter().map(|cookie| (*cookie, Success, Answered)));
    expected.sort_unstable_by_key(|(cookie, ..)| *cookie);
    assert_eq!(got, expected);
    // The second device knows nothing of all that.
    let (reporter, mut peer) = reporter;
    of_2.iter().for_each(|cookie| peer.write_all(&wire_response(*cookie, 1)).unwrap());
    assert_eq!(ended(&reporter), of_2.iter().map(|cookie| (*cookie, Invalid, Answered)).collect::<Vec<_>>());
}

#[test]
fn deadline_comes_also_under_a_flood_of_answers() {
    let limit = Duration::from_millis(30);
    let (reporter, peer) = reporter_and_peer(&Options::new().deadline(limit));
    let flood = Flood::start(peer, || wire_response(0, 0).repeat(2048));
    let cookie = publish(&reporter, page(1, 1));
    let mut out = [FaultCompletion::default(); 4];
    let began = Instant::now();
    let count = reporter.wait_completions(&mut out, Some(SOON)).unwrap();
    assert!(began.elapsed() >= limit / 2 && began.elapsed() < SOON);
    assert_eq!((count, out[0].cookie, out[0].code, out[0].cause), (1, cookie, Invalid, Deadline));
    drop(reporter);
    flood.tell_to_stop();
    flood.writer.join().unwrap();
}

/// Publishes groups of 32 pages of device 1 until there is no room; returns how many.
fn fill(reporter: &FaultReporter) -> u32 {
    for prg_index in 0..256 {
        for page in group(1, prg_index, 32) {
            match reporter.report(page) {
                Ok(_) => {}
                Err(ReportError::Full(_)) => return prg_index,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    panic!("there is always room")
}

#[test]
fn batch_without_room_counts_no_group_that_was_not_published() {
    let singles: Vec<_> = (0..450).map(|prg_index| page(2, prg_index)).collect();
    let groups: Vec<_> = (0..40).flat_map(|prg_index| group(2, prg_index, 32)).collect();
    let mixed: Vec<_> = (0..90).flat_map(|prg_index| group(2, prg_index, 1 + prg_index % 9)).collect();
    for make in common::fault::EVERY_MAKE {
        for batch in [&singles, &groups, &mixed] {
            let (reporter, mut responder) = make(&Options::new().per_device(u32::MAX).half_made(64));
            let filled = fill(&reporter);
            let mut rest = &batch[..];
            let (mut published, mut answered) = (0, 0);
            let began = Instant::now();
            while !rest.is_empty() || reporter.counters().unanswered > 0 {
                assert!(began.elapsed() < SOON);
                let before = reporter.counters().unanswered;
                // Several writes long, where there is room for none, or for some.
                let count = reporter.report_batch(rest).unwrap_or(0);
                let (taken, left) = rest.split_at(count);
                let groups = taken.iter().filter(|request| request.last).count() as u32;
                assert_eq!(reporter.counters().unanswered, before + groups, "counted and published");
                published += groups;
                rest = left;
                // Then there is room for a few more.
                for _ in 0..5 {
                    let mut pages = [PgFault::default(); 32];
                    let Ok(group) = responder.try_recv_group(&mut pages) else { break };
                    let pages = &pages[group.range()];
                    if pages[0].dev_id == 2 {
                        let expected: Vec<_> =
                            batch.iter().filter(|request| request.prg_index == pages[0].grpid).collect();
                        assert_eq!(pages.len(), expected.len());
                        assert!(pages.iter().zip(expected).all(|(page, request)| page.addr == request.addr));
                    }
                    group.respond(Success).unwrap();
                    answered += 1;
                }
                assert!(collect(&reporter).iter().all(|ended| ended.code == Success));
            }
            let last_pages = batch.iter().filter(|request| request.last).count() as u32;
            assert_eq!((published, answered), (last_pages, filled + last_pages));
        }
    }
}

#[test]
fn reporter_that_never_reads_its_answers_gets_them_all_when_it_does() {
    for headed in [false, true] {
        let options = if headed { v2() } else { Options::new() };
        let (mut responder, mut peer) = responder_and_peer(&options.depth(8));
        let mut next = 0;
        let mut write = |peer: &mut UnixStream| {
            next += 1;
            if headed {
                peer.write_all(&wire_event(next - 1, EventFlags::empty(), next, true)).unwrap();
            } else {
                peer.write_all(&wire_page(next, true)).unwrap();
            }
            next
        };
        let mut answered = Vec::new();
        let refused = loop {
            let cookie = write(&mut peer);
            let (group, _) = receive(&mut responder);
            assert_eq!(group.cookie(), cookie);
            match group.respond(Success) {
                Ok(()) => answered.push((cookie, 0)),
                Err(RespondError::WouldBlock(group)) => break group,
                Err(error) => panic!("{:?}", error.errno()),
            }
            assert!(answered.len() < 1000, "there is always room");
        };
        assert!(answered.len() >= 8, "the depth's answers have room");
        // Given back, it is still open, and refused again.
        let cookie = refused.cookie();
        assert_eq!(responder.open_cookies(), [cookie]);
        let Err(RespondError::WouldBlock(refused)) = refused.respond(Success) else { panic!("accepted") };
        let by_cookie = refused.into_cookie();
        let told = responder.respond(response(by_cookie, SUCCESS));
        assert!(matches!(told, Err(RespondError::WouldBlock(()))));
        let told = responder.respond_batch(&[response(by_cookie, SUCCESS); 3]);
        assert!(matches!(told, Err(RespondError::WouldBlock(()))));
        // Groups dropped meanwhile are owed, and stay open: what bounds those bounds what is owed.
        let mut owed = Vec::new();
        for _ in 0..7 {
            owed.push(write(&mut peer));
            drop(receive(&mut responder));
        }
        let mut open = responder.open_cookies();
        open.sort_unstable();
        assert_eq!(open, [&[by_cookie], &owed[..]].concat());
        assert!(is_empty(&mut responder) && !readable(&responder));
        write(&mut peer);
        for _ in 0..2 {
            let told = responder.try_recv_group(&mut [PgFault::default(); 4]);
            assert!(matches!(told, Err(TryRecvError::PeerViolation(Violation::TooManyOpen))));
        }
        // It reads at last. What is owed goes out at the next call, also after the violation.
        let mut read = answers(&mut peer);
        assert_eq!(read, answered);
        assert!(responder.try_recv_group(&mut [PgFault::default(); 4]).is_err());
        assert_eq!(responder.open_cookies(), [by_cookie]);
        responder.respond(response(by_cookie, SUCCESS)).unwrap();
        read = answers(&mut peer);
        let expected: Vec<_> = owed.iter().map(|cookie| (*cookie, 1)).chain([(by_cookie, 0)]).collect();
        assert_eq!(read, expected);
        assert!(matches!(responder.respond(response(by_cookie, SUCCESS)), Err(RespondError::StaleCookie)));
    }
}

#[test]
fn owed_answers_go_out_before_any_later_one_and_only_once() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new().depth(64));
    peer.write_all(&(1..=64).flat_map(|cookie| wire_page(cookie, true)).collect::<Vec<_>>()).unwrap();
    let mut groups: Vec<_> = (0..64).map(|_| receive(&mut responder).0).collect();
    // The least the kernel allows: room for a few answers.
    setsockopt(&responder, SndBuf, &0).unwrap();
    let mut expected = Vec::new();
    let mut got = Vec::new();
    for round in 0..16 {
        // Three are dropped, then one is answered as often as it takes.
        for group in groups.drain(..3) {
            expected.push((group.cookie(), 1));
        }
        let mut group = groups.remove(0);
        expected.push((group.cookie(), 0));
        while let Err(RespondError::WouldBlock(again)) = group.respond(Success) {
            group = again;
            got.extend(answers(&mut peer));
            assert!(got.len() < expected.len(), "answered, and given back");
        }
        assert_eq!(responder.open_cookies().len(), 60 - 4 * round);
    }
    got.extend(answers(&mut peer));
    assert_eq!(got, expected);
}

#[test]
fn dropping_everything_while_the_reporter_never_reads_hangs_nobody() {
    let (mut responder, mut peer) = responder_and_peer(&Options::new().depth(64));
    setsockopt(&responder, SndBuf, &0).unwrap();
    peer.write_all(&(1..=64).flat_map(|cookie| wire_page(cookie, true)).collect::<Vec<_>>()).unwrap();
    let groups: Vec<_> = (0..64).map(|_| receive(&mut responder).0).collect();
    let (first, rest) = soon(move || {
        let mut groups = groups.into_iter();
        let first = groups.next();
        groups.by_ref().take(40).for_each(drop);
        drop(responder);
        (first, groups.collect::<Vec<_>>())
    });
    // Open groups outlive their responder, and keep the channel open for their answers.
    let mut got = answers(&mut peer);
    assert!(got.len() < 40, "there was room for all, so this test shows nothing");
    first.unwrap().respond(Success).unwrap();
    got.extend(answers(&mut peer));
    assert_eq!(got.len(), 41);
    drop(rest);
    got.extend(answers(&mut peer));
    // What still was owed when the last of them went is a hang-up.
    assert!(
        got.iter()
            .enumerate()
            .all(|(index, (cookie, _))| got[..index].iter().all(|other| other.0 != *cookie))
    );
    assert!(until(|| peer.write_all(b"x").is_err()));
}
