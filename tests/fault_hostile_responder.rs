//! A responder that writes whatever it likes: every group completes exactly once, with its first answer or
//! without one, and the reporter's other groups know nothing of it.

mod common;

use std::io::{IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::fault::*;
use common::*;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use recordfd::fault::{
    Cause::{self, Answered, BadAnswer, Deadline, Detached, HungUp, Unfinished},
    FaultCompletion, FaultReporter, Options, ReportError, ResponseCode,
    ResponseCode::{Invalid, Success},
};
use recordfd::{DrainError, TryRecvError, Violation};

/// Beyond any deadline of these tests, none of which comes by itself.
const HOUR: Duration = Duration::from_secs(3600);

fn with_deadline(options: Options) -> Options {
    options.deadline(HOUR)
}

fn after_the_deadline() -> Instant {
    Instant::now() + 2 * HOUR
}

/// Publishes `count` groups and returns their cookies.
fn publish_all(reporter: &FaultReporter, count: u32) -> Vec<u32> {
    (0..count).map(|index| publish(reporter, page(1 + index % 2, index))).collect()
}

fn each(cookies: &[u32], code: ResponseCode, cause: Cause) -> Vec<(u32, ResponseCode, Cause)> {
    cookies.iter().map(|cookie| (*cookie, code, cause)).collect()
}

/// What the reporter says when nothing has completed.
fn nothing(reporter: &FaultReporter) -> TryRecvError {
    reporter.completions(&mut [FaultCompletion::default(); 4]).unwrap_err()
}

/// Fails unless nothing but `Closed` can be had any more.
fn assert_closed(reporter: &FaultReporter) {
    for _ in 0..3 {
        assert!(matches!(nothing(reporter), TryRecvError::Closed));
        assert!(
            matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(request)) if request == page(1, 1))
        );
        assert!(readable(reporter));
    }
    assert_eq!((reporter.counters().in_flight, reporter.counters().unanswered), (0, 0));
}

#[test]
fn answers_to_nothing_are_counted_and_harm_no_group() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new().depth(16));
    let cookies = publish_all(&reporter, 4);
    // 0, slots beyond the depth, free slots, other generations of the slots that are taken.
    let unknown =
        [0, 1, 15, 31, 0xffff_ffff, 0x8000_0000, cookies[0] + 16, cookies[1] ^ 0x8000_0000, cookies[3] + 1];
    for (index, cookie) in unknown.iter().enumerate() {
        for code in [0, 1, 2] {
            peer.write_all(&wire_response(*cookie, code)).unwrap();
            assert!(readable(&reporter));
            assert!(matches!(nothing(&reporter), TryRecvError::Empty), "{cookie:#x}");
            assert!(!readable(&reporter));
        }
        assert_eq!(reporter.counters().late_answers, 3 * (index as u64 + 1));
    }
    assert_eq!((reporter.counters().unanswered, reporter.counters().in_flight), (4, 4));
    cookies.iter().for_each(|cookie| peer.write_all(&wire_response(*cookie, 0)).unwrap());
    assert_eq!(ended(&reporter), each(&cookies, Success, Answered));
}

#[test]
fn only_the_first_answer_counts() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    for (first, then) in [(0, 1), (1, 0), (0, 0), (2, 0), (0, 2)] {
        let cookies = publish_all(&reporter, 4);
        let late = reporter.counters().late_answers;
        for cookie in &cookies {
            peer.write_all(&[wire_response(*cookie, first), wire_response(*cookie, then)].concat()).unwrap();
        }
        let ended = ended(&reporter);
        match first {
            0 => assert_eq!(ended, each(&cookies, Success, Answered)),
            1 => assert_eq!(ended, each(&cookies, Invalid, Answered)),
            _ => assert_eq!(ended, each(&cookies, Invalid, BadAnswer)),
        }
        // And a third time, after the completion was collected and while the slot has another group.
        publish_all(&reporter, 4);
        cookies.iter().for_each(|cookie| peer.write_all(&wire_response(*cookie, 0)).unwrap());
        assert!(matches!(nothing(&reporter), TryRecvError::Empty));
        assert_eq!(reporter.counters().late_answers, late + 8);
        assert_eq!((reporter.detach(1), reporter.detach(2)), (2, 4));
        assert_eq!(collect(&reporter).len(), 4);
    }
}

#[test]
fn answers_to_groups_that_were_never_read_are_answers() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new().per_device(256));
    let cookies = publish_all(&reporter, 5);
    let backwards: Vec<_> = cookies.iter().rev().copied().collect();
    backwards.iter().for_each(|cookie| peer.write_all(&wire_response(*cookie, 0)).unwrap());
    assert_eq!(ended(&reporter), each(&backwards, Success, Answered));
    // The next cookies of these slots are easy to guess; an answer before its group is to nobody.
    let guesses: Vec<_> = cookies.iter().map(|cookie| cookie + 256).collect();
    guesses.iter().for_each(|cookie| peer.write_all(&wire_response(*cookie, 0)).unwrap());
    assert_eq!(ended(&reporter), []);
    assert_eq!(reporter.counters().late_answers, 5);
    assert_eq!(available(&mut peer).len(), 5 * 40);
    let slots: Vec<_> = (0..256).map(|_| publish(&reporter, page(1, 0))).collect();
    assert!(guesses.iter().all(|guess| slots.contains(guess)), "no guess was right: this shows nothing");
    assert_eq!(ended(&reporter), []);
}

#[test]
fn bad_code_completes_its_group_with_invalid_and_no_other() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    for code in [2, 3, 0xff, 0x100, 0x0100_0000, 0x8000_0000, 0x8000_0001, 0xffff_ffff] {
        let cookies = publish_all(&reporter, 3);
        let answers = [
            wire_response(cookies[0], 0),
            wire_response(cookies[1], code),
            wire_response(0x00ff_0000, code),
            wire_response(cookies[2], 1),
        ];
        peer.write_all(&answers.concat()).unwrap();
        let expected = [
            (cookies[0], Success, Answered),
            (cookies[1], Invalid, BadAnswer),
            (cookies[2], Invalid, Answered),
        ];
        assert_eq!(ended(&reporter), expected, "{code:#x}");
    }
    let counters = reporter.counters();
    assert_eq!((counters.answered, counters.bad_answer, counters.late_answers), (16, 8, 8));
    assert!(matches!(nothing(&reporter), TryRecvError::Empty), "the channel goes on");
}

#[test]
fn answers_split_at_every_byte_are_answers() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    for split in 0..=24 {
        let cookies = publish_all(&reporter, 3);
        let bytes: Vec<u8> = cookies.iter().flat_map(|cookie| wire_response(*cookie, 0)).collect();
        let mut got = Vec::new();
        peer.write_all(&bytes[..split]).unwrap();
        got.extend(ended(&reporter));
        assert_eq!(got.len(), split / 8);
        assert!(!readable(&reporter), "a part of an answer keeps the descriptor readable");
        peer.write_all(&bytes[split..]).unwrap();
        got.extend(ended(&reporter));
        assert_eq!(got, each(&cookies, Success, Answered));
    }
    let cookie = publish(&reporter, page(1, 1));
    for byte in &wire_response(cookie, 1)[..7] {
        peer.write_all(&[*byte]).unwrap();
        assert_eq!(reporter.process(Instant::now()), 0);
        assert!(matches!(nothing(&reporter), TryRecvError::Empty));
    }
    peer.write_all(&wire_response(cookie, 1)[7..]).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Invalid, Answered)]);
}

#[test]
fn hang_up_at_any_byte_applies_the_whole_answers_and_completes_the_rest() {
    for length in 0..=40 {
        for (read, collect_in) in [(false, 1), (true, 1), (false, 3), (true, 64)] {
            let (reporter, mut peer) = reporter_and_peer(&Options::new());
            let cookies = publish_all(&reporter, 8);
            let bytes: Vec<u8> = cookies[..5].iter().flat_map(|cookie| wire_response(*cookie, 0)).collect();
            if read {
                assert_eq!(available(&mut peer).len(), 8 * 40);
            }
            peer.write_all(&bytes[..length]).unwrap();
            drop(peer);
            assert!(wait_readable(&reporter));
            let mut all = Vec::new();
            let mut out = [FaultCompletion::default(); 64];
            let told = loop {
                match reporter.completions(&mut out[..collect_in]) {
                    Ok(count) => all.extend_from_slice(&out[..count]),
                    // The part of an answer before the end.
                    Err(TryRecvError::Empty) => assert!(readable(&reporter), "{length} bytes"),
                    Err(error) => break error,
                }
            };
            let all: Vec<_> = all.iter().map(|ended| (ended.cookie, ended.code, ended.cause)).collect();
            let (answered, rest) = cookies.split_at(length / 8);
            let expected = [each(answered, Success, Answered), each(rest, Invalid, HungUp)].concat();
            assert_eq!(all, expected, "{length} bytes");
            match length % 8 {
                0 => assert!(matches!(told, TryRecvError::Closed), "{told:?}"),
                found => {
                    let torn = Violation::TornRecord { found, size: 8 };
                    for told in [told, nothing(&reporter), nothing(&reporter)] {
                        assert!(matches!(told, TryRecvError::PeerViolation(violation) if violation == torn));
                    }
                }
            }
            assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
            assert_eq!(reporter.counters().in_flight, 0);
        }
    }
}

#[test]
fn closed_is_told_only_after_the_last_completion() {
    let (reporter, peer) = reporter_and_peer(&Options::new());
    let cookies = publish_all(&reporter, 2);
    drop(peer);
    assert_eq!(reporter.detach(9), 2, "the hang-up is found by a look for answers to another device");
    assert!(matches!(reporter.completions(&mut []), Ok(0)), "two completions wait");
    assert_eq!(ended(&reporter), each(&cookies, Invalid, HungUp));
    assert_closed(&reporter);
}

#[test]
fn late_answers_do_not_hide_the_one_behind_them() {
    // `Empty` is the word on which an edge-triggered consumer waits for the next edge.
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let cookies = publish_all(&reporter, 9);
    assert_eq!(reporter.detach(1), 5);
    assert_eq!(ended(&reporter).len(), 5);
    // In the order of the groups, so that a late one is first.
    cookies.iter().for_each(|cookie| peer.write_all(&wire_response(*cookie, 0)).unwrap());
    let mut got = Vec::new();
    let mut out = [FaultCompletion::default(); 1];
    while reporter.completions(&mut out).is_ok() {
        got.push(out[0].cookie);
    }
    assert_eq!(got, [cookies[1], cookies[3], cookies[5], cookies[7]]);
    assert!(!readable(&reporter));
}

#[test]
fn hang_up_is_found_by_every_call_that_looks_at_answers() {
    let finders: [fn(&FaultReporter); 6] = [
        |reporter| assert_eq!(reporter.detach(1), 4),
        |reporter| assert_eq!(reporter.process(after_the_deadline()), 4),
        |reporter| reporter.drain(1, HOUR).unwrap(),
        |reporter| reporter.reset(1, HOUR).unwrap(),
        |reporter| {
            let mut out = [FaultCompletion::default(); 1];
            assert_eq!(reporter.wait_completions(&mut out, None).unwrap(), 1);
            assert_eq!((out[0].code, out[0].cause), (Success, Answered));
        },
        |reporter| assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_)))),
    ];
    for (which, find) in finders.into_iter().enumerate() {
        let (reporter, mut peer) = reporter_and_peer(&with_deadline(Options::new()));
        let cookies = publish_all(&reporter, 4);
        // With an answer that is there already, for the device that is detached.
        peer.write_all(&wire_response(cookies[2], 0)).unwrap();
        drop(peer);
        find(&reporter);
        let mut ended = ended(&reporter);
        if which != 4 {
            assert_eq!(ended.remove(0), (cookies[2], Success, Answered), "{which}");
        }
        // Whether the hang-up or the detach came first is the kernel's word.
        assert!(
            ended.iter().all(|(_, code, cause)| (*code, *cause) == (Invalid, HungUp)),
            "{which}: {ended:?}"
        );
        assert_eq!(ended.len(), 3, "{which}");
        assert_closed(&reporter);
    }
}

#[test]
fn half_closed_stream_ends_what_it_must_and_no_more() {
    // It writes no more: no answer will come.
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let cookies = publish_all(&reporter, 3);
    peer.write_all(&wire_response(cookies[1], 0)).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(readable(&reporter));
    let expected =
        [(cookies[1], Success, Answered), (cookies[0], Invalid, HungUp), (cookies[2], Invalid, HungUp)];
    assert_eq!(ended(&reporter), expected);
    assert_closed(&reporter);

    // It reads no more: what it has may still be answered.
    let (reporter, mut peer) = reporter_and_peer(&with_deadline(Options::new()));
    let cookies = publish_all(&reporter, 3);
    peer.shutdown(Shutdown::Read).unwrap();
    assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
    assert!(matches!(nothing(&reporter), TryRecvError::Empty));
    peer.write_all(&wire_response(cookies[1], 0)).unwrap();
    assert_eq!(ended(&reporter), [(cookies[1], Success, Answered)]);
    assert_eq!(reporter.detach(1), 2);
    assert_eq!(ended(&reporter), each(&[cookies[0], cookies[2]], Invalid, Detached));
    peer.shutdown(Shutdown::Write).unwrap();
    assert_closed(&reporter);
}

#[test]
fn responder_that_never_answers_fills_the_channel_until_the_deadline_and_then_with_its_own_debts() {
    for options in [Options::new(), v2()] {
        let headed = options.clone();
        let (reporter, mut peer) = reporter_and_peer(&with_deadline(headed.depth(8).per_device(8)));
        let cookies = publish_all(&reporter, 8);
        let mut read = available(&mut peer).len();
        assert!(matches!(reporter.report(page(1, 9)), Err(ReportError::Full(_))));
        assert_eq!(reporter.process(Instant::now()), 0);
        assert!(matches!(reporter.drain(1, Duration::from_millis(2)), Err(DrainError::Timeout)));
        assert_eq!(reporter.process(after_the_deadline()), 8);
        assert!(matches!(reporter.report(page(1, 9)), Err(ReportError::Full(_))));
        assert_eq!(ended(&reporter), each(&cookies, Invalid, Deadline));
        // Completed and collected, but it still has the cookies.
        assert!(matches!(reporter.report(page(1, 9)), Err(ReportError::Full(_))));
        assert_eq!((reporter.counters().in_flight, reporter.counters().unanswered), (8, 0));
        read += available(&mut peer).len();
        match options.format(recordfd::uapi::Format::IOMMU_PGFAULT_V1) {
            _ if read == 8 * 40 => {}
            _ => assert_eq!(read, 16 * 48, "eight groups and eight notices"),
        }
        for (index, cookie) in cookies.iter().enumerate() {
            peer.write_all(&wire_response(*cookie, 0)).unwrap();
            assert!(matches!(nothing(&reporter), TryRecvError::Empty));
            assert_eq!(reporter.counters().late_answers, index as u64 + 1);
            let next = publish(&reporter, page(1, 9));
            assert!(!cookies.contains(&next));
            assert!(matches!(reporter.report(page(1, 9)), Err(ReportError::Full(_))));
        }
    }
}

#[test]
fn responder_that_never_reads_holds_up_reports_and_nothing_else() {
    for options in [Options::new(), v2()] {
        let options = with_deadline(options.depth(64).per_device(u32::MAX));
        let (reporter, mut peer) = reporter_and_peer(&options);
        let mut cookies = Vec::new();
        // Groups of all sizes, until there is no room.
        let refused = loop {
            let prg_index = cookies.len() as u32;
            let pages = group(1 + prg_index % 2, prg_index, 1 + prg_index % 32);
            match reporter.report_batch(&pages) {
                Ok(count) if count == pages.len() => cookies.push(prg_index),
                Ok(count) => {
                    assert_eq!(count, pages.len() - 1, "only the last page is published");
                    break reporter.report(pages[count]).unwrap_err();
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, ReportError::Full(_)), "{refused:?}");
        let half = cookies.len() / 2;
        assert!(half >= 2);
        assert!(matches!(nothing(&reporter), TryRecvError::Empty));
        assert!(matches!(reporter.drain(1, Duration::from_millis(2)), Err(DrainError::Timeout)));
        assert_eq!(reporter.detach(2), half);
        reporter.process(after_the_deadline());
        let mut completions = collect(&reporter);
        // The group that was refused its last page.
        completions.retain(|ended| ended.cause != Unfinished);
        let mut completed: Vec<_> = completions.iter().map(|ended| ended.prg_index).collect();
        completed.sort_unstable();
        assert_eq!(completed, cookies);
        for ended in &completions {
            let cause = if ended.dev_id == 2 { Detached } else { Deadline };
            assert_eq!((ended.code, ended.cause), (Invalid, cause));
        }
        assert!(matches!(reporter.report(page(3, 1)), Err(ReportError::Full(_))));
        assert!(matches!(nothing(&reporter), TryRecvError::Empty));
        // It reads at last: notices, where the format has them, come as far as it makes room.
        let mut read = available(&mut peer);
        for _ in 0..cookies.len() {
            assert!(matches!(nothing(&reporter), TryRecvError::Empty));
            read.extend(available(&mut peer));
        }
        if read.len() % 48 == 0 && read[0] == 0 {
            let notices = read.chunks(48).filter(|event| event[0] == 2).count();
            assert_eq!(notices, cookies.len(), "each is told once");
        }
    }
}

#[test]
fn urgent_bytes_are_no_answer_and_hold_nobody_up() {
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let cookies = publish_all(&reporter, 2);
    let mut got = Vec::new();
    for part in [wire_response(cookies[0], 0), wire_response(cookies[1], 1)].concat().chunks(3) {
        peer.write_all(part).unwrap();
        match sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(b"!")], &[], MsgFlags::MSG_OOB, None) {
            Err(Errno::EOPNOTSUPP) => return eprintln!("skipped: this kernel has no urgent bytes here"),
            outcome => assert_eq!(outcome.unwrap(), 1),
        }
        // A read ends before it, and one that finds nothing else takes it away.
        assert!(until(|| {
            got.extend(ended(&reporter));
            !readable(&reporter)
        }));
    }
    assert_eq!(got, [(cookies[0], Success, Answered), (cookies[1], Invalid, Answered)]);
}
