//! Whoever shares an end's open socket turns its knobs: no call waits, no group or answer tears, nothing
//! is lost.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::fault::*;
use common::*;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use recordfd::fault::{
    FaultCompletion, FaultGroup, FaultReporter, FaultResponder, Options, ReportError, Reported, RespondError,
    ResponseCode,
};
use recordfd::uapi::{Event, Format, PgFault, PgFaultFlags, Record};
use recordfd::{DrainError, TryRecvError};

/// Room for groups of most sizes that one write holds.
fn wide() -> Options {
    Options::new().depth(512).per_device(u32::MAX).max_group(400).half_made(1)
}

/// The same open socket as `end`, as someone has it who once passed it on.
fn shared(end: impl AsFd) -> UnixStream {
    UnixStream::from(end.as_fd().try_clone_to_owned().unwrap())
}

/// Publishes a group of `count` pages and returns its cookie.
fn publish_group(reporter: &FaultReporter, count: u32) -> u32 {
    let pages = group(1, 7, count);
    let (last, rest) = pages.split_last().unwrap();
    assert_eq!(reporter.report_batch(rest).unwrap(), rest.len());
    publish(reporter, *last)
}

/// Cookie and size of a group.
type Whole = (u32, usize);

/// The whole groups in `bytes`, and how many bytes are left behind them.
fn whole_groups(bytes: &[u8], headed: bool) -> (Vec<Whole>, usize) {
    let size = if headed { 48 } else { 40 };
    let (mut groups, mut count, mut end) = (Vec::new(), 0, 0);
    for (number, record) in bytes.chunks_exact(size).enumerate() {
        let page = if headed {
            let event = Event::<PgFault>::decode(record).unwrap();
            assert_eq!((event.sequence().get() as usize, event.header.flags.bits()), (number, 0));
            event.payload
        } else {
            PgFault::decode(record).unwrap()
        };
        assert_eq!(page.addr, count as u64, "the pages of a group follow each other");
        count += 1;
        if page.flags.contains(PgFaultFlags::LAST_PAGE) {
            groups.push((page.cookie, count));
            (count, end) = (0, (number + 1) * size);
        }
    }
    (groups, bytes.len() - end)
}

/// Publishes groups in a way that the kernel takes one up to the middle of a page only; returns them, and
/// what of them could be read.
fn tear(reporter: &FaultReporter, peer: &mut UnixStream, headed: bool) -> (Vec<Whole>, Vec<u8>) {
    let ours = shared(reporter);
    let (mut published, mut bytes) = (Vec::new(), Vec::new());
    for room in (2401..9000).step_by(500) {
        setsockopt(&ours, SndBuf, &room).unwrap();
        published.push((publish_group(reporter, 300), 300));
        bytes.extend(available(peer));
        if whole_groups(&bytes, headed).1 % 40 != 0 {
            return (published, bytes);
        }
        // The rest of a group that was cut between two pages.
        assert!(matches!(reporter.completions(&mut []), Ok(0)));
        bytes.extend(available(peer));
    }
    panic!("no write was cut inside a page, so this test shows nothing");
}

#[test]
fn send_buffer_shrunk_in_the_middle_of_a_group_tears_no_group() {
    // Whatever the reporter does next, the rest of the torn group goes first.
    let nexts: [fn(&FaultReporter) -> Option<Whole>; 6] = [
        |reporter| match reporter.report(page(3, 0)) {
            Ok(Reported::Group { cookie }) => Some((cookie, 1)),
            Err(ReportError::Full(_)) => None,
            other => panic!("{other:?}"),
        },
        |reporter| {
            let told = reporter.completions(&mut [FaultCompletion::default(); 1]);
            assert!(matches!(told, Err(TryRecvError::Empty)));
            None
        },
        |reporter| {
            assert_eq!(reporter.process(Instant::now()), 0);
            None
        },
        |reporter| {
            assert_eq!(reporter.detach(9), 0);
            None
        },
        |reporter| {
            assert!(matches!(reporter.drain(1, Duration::ZERO), Err(DrainError::Timeout)));
            None
        },
        |reporter| {
            let told = reporter.wait_completions(&mut [FaultCompletion::default(); 1], Some(Duration::ZERO));
            assert!(matches!(told, Err(TryRecvError::Empty)));
            None
        },
    ];
    for headed in [false, true] {
        for (which, next) in nexts.iter().enumerate() {
            let format = if headed { Format::IOMMU_PGFAULT_V2 } else { Format::IOMMU_PGFAULT_V1 };
            let (reporter, mut peer) = reporter_and_peer(&wide().max_group(300).format(format));
            let (mut published, mut bytes) = tear(&reporter, &mut peer, headed);
            published.extend(next(&reporter));
            // More than once: the buffer is still small.
            for _ in 0..8 {
                bytes.extend(available(&mut peer));
                let _ = reporter.completions(&mut []);
            }
            bytes.extend(available(&mut peer));
            assert_eq!(whole_groups(&bytes, headed), (published, 0), "step {which}");
        }
    }
}

#[test]
fn torn_group_does_not_let_the_next_one_in_before_it_is_whole() {
    let (reporter, mut peer) = reporter_and_peer(&wide());
    let (mut published, mut bytes) = tear(&reporter, &mut peer, false);
    // No room: the rest takes it all.
    setsockopt(&shared(&reporter), SndBuf, &0).unwrap();
    let refused = loop {
        match reporter.report(page(3, 0)) {
            Ok(Reported::Group { cookie }) => published.push((cookie, 1)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ReportError::Full(_)));
    assert!(until(|| {
        bytes.extend(available(&mut peer));
        let _ = reporter.completions(&mut []);
        bytes.len() >= published.iter().map(|(_, count)| 40 * count).sum()
    }));
    assert_eq!(whole_groups(&bytes, false), (published, 0));
}

#[test]
fn send_buffers_that_change_all_the_time_lose_and_tear_nothing() {
    rounds::each_seed("page faults whose buffers change", 1, |_| {
        const COUNT: u32 = 1500;
        let (reporter, mut responder) = common::fault::socket(&wide());
        let knobs = (shared(&reporter), shared(&responder));
        let answerer = thread::spawn(move || {
            let mut pages = [PgFault::default(); 409];
            let mut number = 0;
            loop {
                match responder.recv_group_timeout(&mut pages, SOON) {
                    Ok(mut group) => {
                        let pages = &pages[group.range()];
                        assert_eq!(pages.len() as u32, 1 + number * 7 % 400, "group {number}");
                        assert!(pages.iter().zip(0..).all(|(page, addr)| page.addr == addr));
                        setsockopt(&knobs.1, SndBuf, &[0, 2401, 60_000][number as usize % 3]).unwrap();
                        while let Err(RespondError::WouldBlock(again)) = group.respond(ResponseCode::Success)
                        {
                            group = again;
                            thread::yield_now();
                        }
                        number += 1;
                    }
                    Err(TryRecvError::Closed) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert_eq!(number, COUNT);
        });
        let mut completed = Vec::new();
        let mut open = Vec::new();
        let mut number = 0;
        let mut pages = group(1, 7, 1);
        let mut out = [FaultCompletion::default(); 64];
        let began = Instant::now();
        while completed.len() < COUNT as usize {
            assert!(began.elapsed() < SOON);
            if number < COUNT {
                setsockopt(&knobs.0, SndBuf, &[1_000, 2_600, 3_101, 120_000][number as usize % 4]).unwrap();
                match reporter.report_batch(&pages) {
                    Ok(count) if count == pages.len() => {
                        number += 1;
                        pages = group(1, 7, 1 + number * 7 % 400);
                    }
                    Ok(count) => drop(pages.drain(..count)),
                    Err(ReportError::Full(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            open.push(reporter.counters().unanswered);
            match reporter.completions(&mut out) {
                Ok(count) => completed.extend_from_slice(&out[..count]),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(open.iter().any(|open| *open > 1), "never more than one group was under way");
        assert!(completed.iter().all(|ended| ended.code == ResponseCode::Success));
        drop((reporter, knobs.0));
        answerer.join().unwrap();
    });
}

/// A responder that has `count` groups open, and its peer.
fn with_open_groups(count: u32) -> (FaultResponder, Vec<FaultGroup>, UnixStream) {
    let (near, mut peer) = UnixStream::pair().unwrap();
    let mut responder = FaultResponder::from_socket(near.into(), Format::IOMMU_PGFAULT_V1, 4096).unwrap();
    let mut open = Vec::new();
    for cookie in 1..=count {
        std::io::Write::write_all(&mut peer, &wire_page(cookie, true)).unwrap();
        open.push(receive(&mut responder).0);
    }
    (responder, open, peer)
}

#[test]
fn send_buffer_shrunk_in_the_middle_of_a_batch_tears_no_answer() {
    // Whatever the responder does next, the rest of the torn answer goes first.
    let nexts: [fn(&mut FaultResponder, FaultGroup) -> Option<FaultGroup>; 3] = [
        |_, group| {
            group.respond(ResponseCode::Invalid).unwrap();
            None
        },
        |_, group| {
            drop(group);
            None
        },
        |responder, group| {
            assert!(is_empty(responder));
            Some(group)
        },
    ];
    for (which, next) in nexts.into_iter().enumerate() {
        let (mut responder, mut open, mut peer) = with_open_groups(3000);
        let one = open.pop().unwrap();
        let cookies: Vec<_> = open.into_iter().map(FaultGroup::into_cookie).collect();
        let mut batch: Vec<_> = cookies.iter().map(|cookie| response(*cookie, SUCCESS)).collect();
        let ours = shared(&responder);
        let (mut accepted, mut bytes) = (0, Vec::new());
        for room in (2401..).step_by(250) {
            setsockopt(&ours, SndBuf, &room).unwrap();
            let count = responder.respond_batch(&batch).expect("everything was read");
            accepted += count;
            batch.drain(..count);
            let read = available(&mut peer);
            bytes.extend(read);
            if bytes.len() % 8 != 0 {
                break;
            }
            assert!(!batch.is_empty(), "no write was cut inside an answer, so this test shows nothing");
        }
        let kept = next(&mut responder, one);
        accepted += usize::from(kept.is_none());
        bytes.extend(available(&mut peer));
        assert_eq!(bytes.len(), 8 * accepted, "step {which}");
        for (number, answer) in bytes.chunks(8).take(accepted - 1).enumerate() {
            assert_eq!(answer, wire_response(cookies[number], 0));
        }
        assert_eq!(responder.open_cookies().len(), 3000 - accepted);
    }
}

#[test]
fn no_call_waits_whatever_mode_the_shared_description_is_in() {
    for nonblocking in [false, true] {
        let (reporter, peer) = reporter_and_peer(&Options::new().depth(8).per_device(8));
        let (mut responder, other) = responder_and_peer(&Options::new().depth(8));
        for stream in [&shared(&reporter), &shared(&responder), &peer, &other] {
            stream.set_nonblocking(nonblocking).unwrap();
        }
        for cookie in 1..=8 {
            std::io::Write::write_all(&mut &other, &wire_page(cookie, true)).unwrap();
        }
        setsockopt(&responder, SndBuf, &0).unwrap();
        soon(move || {
            let mut out = [FaultCompletion::default(); 4];
            assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
            while reporter.report(page(1, 1)).is_ok() {}
            assert!(matches!(reporter.report_batch(&[page(1, 1); 9]), Err(ReportError::Full(_))));
            assert!(matches!(reporter.drain(1, Duration::ZERO), Err(DrainError::Timeout)));
            assert_eq!((reporter.detach(1), reporter.process(Instant::now())), (8, 8));
            // And what is meant to wait waits.
            assert_eq!(collect(&reporter).len(), 8);
            let began = Instant::now();
            let told = reporter.wait_completions(&mut out, Some(Duration::from_millis(20)));
            assert!(matches!(told, Err(TryRecvError::Empty)));
            assert!(began.elapsed() >= Duration::from_millis(20));

            let groups: Vec<_> = (0..8).map(|_| receive(&mut responder).0).collect();
            let blocked = groups.into_iter().filter_map(|group| group.respond(ResponseCode::Success).err());
            assert!(blocked.count() > 0, "there was room for all, so this shows nothing");
            assert!(is_empty(&mut responder));
            let began = Instant::now();
            let mut pages = [PgFault::default(); 4];
            let told = responder.recv_group_timeout(&mut pages, Duration::from_millis(20));
            assert!(matches!(told, Err(TryRecvError::Empty)));
            assert!(began.elapsed() >= Duration::from_millis(20));
        });
        drop((peer, other));
    }
}
