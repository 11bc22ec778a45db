//! Page faults between processes: every group is answered, and when one side is killed every group still
//! completes once, at once.

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use common::fault::*;
use common::storm::{self, Random, Tally};
use common::way::{Way, on_every_way};
use common::*;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultGroup, FaultReporter, FaultResponder, Options, ReportError,
    RespondError, ResponseCode,
};
use recordfd::uapi::{Format, PageResponse, PgFault};
use recordfd::{Error, TryRecvError, UnattachedEnd, fd};

on_every_way! {
    child_answers_every_group
    child_that_reports_is_answered_every_group
    responder_received_over_a_socket_answers_every_group
    reporter_received_over_a_socket_is_answered_every_group
    responder_killed_with_groups_in_every_state_completes_them_all_at_once
    every_wait_of_the_reporter_ends_when_the_responder_is_killed
    every_wait_of_the_responder_ends_when_the_reporter_is_killed
}

const FORMAT: Format = Format::IOMMU_PGFAULT_V2;
const DEPTH: u32 = 64;
const FORMAT_V1: Format = Format::IOMMU_PGFAULT_V1;

fn options(way: Way) -> Options {
    // A socket counts groups here, a ring their pages: room for all that any test leaves unread.
    let depth = if way.is_shared() { 16 * DEPTH } else { DEPTH };
    Options::new().format(FORMAT).depth(depth).per_device(u32::MAX)
}

fn inherited_responder(way: Way) -> FaultResponder {
    way.inherited_responder(&options(way), (FORMAT, DEPTH))
}

fn inherited_reporter(way: Way) -> FaultReporter {
    way.inherited_reporter(&options(way), (FORMAT, DEPTH))
}

/// The answer to the group that is the number `prg_index` of its device.
fn code_of(prg_index: u32) -> ResponseCode {
    if prg_index % 3 == 0 { ResponseCode::Invalid } else { ResponseCode::Success }
}

/// How many pages it has.
fn size_of(prg_index: u32) -> u32 {
    1 + prg_index * 5 % 32
}

fn assert_whole(group: &FaultGroup, pages: &[PgFault]) {
    let pages = &pages[group.range()];
    let prg_index = pages[0].grpid;
    assert_eq!(pages.len() as u32, size_of(prg_index));
    for (index, page) in pages.iter().enumerate() {
        assert_eq!((page.grpid, page.cookie, page.addr), (prg_index, group.cookie(), index as u64));
    }
}

/// Answers every group until the reporter is gone, by turns in each way there is.
fn answer_all(mut responder: FaultResponder) {
    let mut pages = [PgFault::default(); 2048];
    let mut groups = [const { None }; 64];
    loop {
        match responder.recv_group(&mut pages) {
            Ok(group) => {
                assert_whole(&group, &pages);
                let code = code_of(pages[0].grpid);
                group.respond(code).unwrap();
            }
            Err(TryRecvError::Closed) => return,
            Err(error) => panic!("{error:?}"),
        }
        let count = responder.recv_groups(&mut pages, &mut groups).unwrap_or(0);
        let answers: Vec<_> = groups[..count]
            .iter_mut()
            .filter_map(Option::take)
            .map(|group| {
                assert_whole(&group, &pages);
                let code = code_of(pages[group.range()][0].grpid).into();
                PageResponse { cookie: group.into_cookie(), code }
            })
            .collect();
        assert_eq!(responder.respond_batch(&answers).unwrap(), count);
    }
}

/// Publishes the group that is the number `prg_index`, if there is room, and returns its cookie.
fn try_publish(reporter: &FaultReporter, prg_index: u32) -> Option<u32> {
    let pages = group(1, prg_index, size_of(prg_index));
    let (last, rest) = pages.split_last().unwrap();
    assert_eq!(reporter.report_batch(rest).unwrap(), rest.len());
    for _ in 0.. {
        match reporter.report(*last) {
            Ok(fault::Reported::Group { cookie }) => return Some(cookie),
            Err(ReportError::Full(_)) => thread::yield_now(),
            Err(ReportError::Closed(_)) => return None,
            other => panic!("{other:?}"),
        }
    }
    None
}

/// Publishes 512 groups to whoever answers all, and checks every answer.
fn assert_all_are_answered(reporter: &FaultReporter) {
    let mut open = std::collections::HashMap::new();
    let mut out = [FaultCompletion::default(); 16];
    let mut completed = 0;
    for prg_index in 0..512 {
        let cookie = try_publish(reporter, prg_index).expect("the responder lives");
        assert_eq!(open.insert(cookie, prg_index), None, "a cookie of an open group");
        while open.len() >= 40 || (prg_index == 511 && completed < 512) {
            let count = reporter.wait_completions(&mut out, Some(SOON)).unwrap();
            for ended in &out[..count] {
                assert_eq!(open.remove(&ended.cookie), Some(ended.prg_index));
                assert_eq!((ended.code, ended.cause), (code_of(ended.prg_index), Cause::Answered));
            }
            completed += count;
        }
    }
    assert!(open.is_empty());
    assert_eq!(reporter.counters().late_answers, 0);
}

fn child_answers_every_group(way: Way) {
    if in_child() {
        return answer_all(inherited_responder(way));
    }
    let (reporter, child) = way.responding_child("child_answers_every_group", &options(way));
    assert_all_are_answered(&reporter);
    drop(reporter);
    finish(child);
}

fn child_that_reports_is_answered_every_group(way: Way) {
    if in_child() {
        return assert_all_are_answered(&inherited_reporter(way));
    }
    let (responder, child) = way.reporting_child("child_that_reports_is_answered_every_group", &options(way));
    answer_all(responder);
    finish(child);
}

fn responder_received_over_a_socket_answers_every_group(way: Way) {
    if in_child() {
        return answer_all(way.responder_there(fd::take_stdin().unwrap(), &options(way)));
    }
    let (near, far) = UnixStream::pair().unwrap();
    let child = way.spawn("responder_received_over_a_socket_answers_every_group", far);
    let reporter = way.reporter_here(near, &options(way));
    assert_all_are_answered(&reporter);
    drop(reporter);
    finish(child);
}

fn reporter_received_over_a_socket_is_answered_every_group(way: Way) {
    if in_child() {
        return assert_all_are_answered(&way.reporter_there(fd::take_stdin().unwrap(), &options(way)));
    }
    let (near, far) = UnixStream::pair().unwrap();
    let child = way.spawn("reporter_received_over_a_socket_is_answered_every_group", far);
    let responder = way.responder_here(near, &options(way));
    answer_all(responder);
    finish(child);
}

/// What a hang-up may take until the last group has completed.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Reads 40 of 60 groups, answers 20 of those, and stops: the other 20 are half answered, the last 20
/// unread.
fn stop_in_the_middle(mut responder: FaultResponder) {
    let mut pages = [PgFault::default(); 64];
    let mut groups: Vec<_> = (0..40).map(|_| responder.recv_group(&mut pages).unwrap()).collect();
    for group in groups.drain(..20) {
        group.respond(ResponseCode::Success).unwrap();
    }
    raise(Signal::SIGSTOP).unwrap();
    unreachable!("killed while it was stopped");
}

/// A child that is killed at the latest when the test is over: it may be stopped.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills the responder of 60 groups of which it has read 40 and answered 20; how long it took until all
/// had completed. `collected`: the answers were taken in before.
fn killed_in_the_middle(way: Way, name: &str, collected: bool) -> Duration {
    let (reporter, child) = way.responding_child(name, &options(way));
    let child = Stopped(child);
    let pid = Pid::from_raw(child.0.id() as i32);
    let cookies: Vec<_> = (0..60).map(|prg_index| try_publish(&reporter, prg_index).unwrap()).collect();
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    let mut all = Vec::new();
    if collected {
        all = ended(&reporter);
        assert_eq!(all.len(), 20);
        assert!(!readable(&reporter));
    }
    let killer = thread::spawn(move || {
        // Time for the reporter to be asleep in its poll.
        thread::sleep(Duration::from_millis(5));
        let began = Instant::now();
        kill(pid, Signal::SIGKILL).unwrap();
        began
    });
    let mut out = [FaultCompletion::default(); 7];
    let told = loop {
        match reporter.completions(&mut out) {
            Ok(count) => {
                all.extend(out[..count].iter().map(|ended| (ended.cookie, ended.code, ended.cause)));
            }
            Err(TryRecvError::Empty) => assert!(wait_readable(&reporter), "not woken"),
            Err(error) => break error,
        }
    };
    let done = Instant::now();
    let took = done.duration_since(killer.join().unwrap());
    assert!(matches!(told, TryRecvError::Closed), "{told:?}");
    let each = |cookies: &[u32], code, cause| -> Vec<_> {
        cookies.iter().map(|cookie| (*cookie, code, cause)).collect()
    };
    // Answers in their order; the rest in any.
    assert_eq!(all[..20], each(&cookies[..20], ResponseCode::Success, Cause::Answered));
    let mut rest = all.split_off(20);
    rest.sort_unstable_by_key(|(cookie, ..)| cookies.iter().position(|published| published == cookie));
    assert_eq!(rest, each(&cookies[20..], ResponseCode::Invalid, Cause::HungUp));
    assert!(matches!(reporter.report(page(1, 1)), Err(ReportError::Closed(_))));
    assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Closed)));
    assert_eq!(reporter.counters().in_flight, 0);
    took
}

fn responder_killed_with_groups_in_every_state_completes_them_all_at_once(way: Way) {
    let name = "responder_killed_with_groups_in_every_state_completes_them_all_at_once";
    if in_child() {
        return stop_in_the_middle(inherited_responder(way));
    }
    for collected in [true, false] {
        // The kernel closes what a killed process had open, and wakes; a busy machine may take its time
        // for either. What is promised must be seen once in a few: a poll that is not woken, or a wait by
        // the clock, would be late each time.
        let times: Vec<_> = (0..5)
            .map(|_| killed_in_the_middle(way, name, collected))
            .scan(false, |done, took| {
                let before = std::mem::replace(done, took < AT_ONCE);
                (!before).then_some(took)
            })
            .collect();
        assert!(times.iter().any(|took| *took < AT_ONCE), "{times:?} after the kill");
    }
}

fn every_wait_of_the_reporter_ends_when_the_responder_is_killed(way: Way) {
    if in_child() {
        let mut responder = inherited_responder(way);
        let _kept = responder.recv_group(&mut [PgFault::default(); 64]).unwrap();
        raise(Signal::SIGKILL).unwrap();
    }
    let waits: [fn(FaultReporter); 3] = [
        |reporter| {
            let mut out = [FaultCompletion::default(); 4];
            assert_eq!(reporter.wait_completions(&mut out, None).unwrap(), 1);
            assert!(matches!(reporter.wait_completions(&mut out, None), Err(TryRecvError::Closed)));
        },
        |reporter| reporter.drain(1, SOON * 10).unwrap(),
        |reporter| reporter.reset(1, SOON * 10).unwrap(),
    ];
    for wait in waits {
        let (reporter, mut child) = way
            .responding_child("every_wait_of_the_reporter_ends_when_the_responder_is_killed", &options(way));
        try_publish(&reporter, 3).unwrap();
        soon(move || wait(reporter));
        child.wait().unwrap();
    }
}

fn every_wait_of_the_responder_ends_when_the_reporter_is_killed(way: Way) {
    if in_child() {
        let reporter = inherited_reporter(way);
        try_publish(&reporter, 0).unwrap();
        // A group that is never published.
        assert_eq!(reporter.report_batch(&group(1, 7, 3)[..2]).unwrap(), 2);
        raise(Signal::SIGKILL).unwrap();
    }
    let name = "every_wait_of_the_responder_ends_when_the_reporter_is_killed";
    let (mut responder, mut child) = way.reporting_child(name, &options(way));
    let (group, responder) = soon(move || {
        let mut pages = [PgFault::default(); 64];
        let group = responder.recv_group(&mut pages).unwrap();
        assert!(matches!(responder.recv_group(&mut pages), Err(TryRecvError::Closed)));
        (group, responder)
    });
    assert_eq!(responder.open_cookies(), [group.cookie()]);
    assert!(matches!(group.respond(ResponseCode::Success), Err(RespondError::Closed)));
    assert!(responder.open_cookies().is_empty());
    child.wait().unwrap();
}

/// A responder is killed with four groups open, and this process keeps its descriptor: no hang-up tells of it.
fn killed_with_its_descriptor_kept(
    make: fn(&Options) -> Result<(FaultReporter, UnattachedEnd), Error>,
    attach: impl Fn(OwnedFd) -> FaultResponder,
) -> (FaultReporter, OwnedFd, Vec<u32>) {
    let (reporter, end) = make(&Options::new().depth(8).per_device(8).deadline(SOON)).unwrap();
    let (kept, tally) = (OwnedFd::from(end), Tally::new());
    let child = storm::Child::start(|| {
        let mut responder = attach(kept.try_clone().unwrap());
        let mut pages = [PgFault::default(); 8];
        let _groups = [(); 4].map(|()| responder.recv_group(&mut pages).unwrap());
        tally.note(4);
        loop {
            thread::park();
        }
    });
    let cookies: Vec<_> = (0..4).map(|index| publish(&reporter, page(1, index))).collect();
    assert!(until(|| tally.read() == 4));
    child.kill(&mut Random(1));
    child.assert_killed();
    assert!(!reporter.is_closed() && collect(&reporter).is_empty());
    assert_eq!((reporter.counters().unanswered, reporter.counters().late_answers_pending), (4, 0));
    expire(&reporter, &cookies);
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.unanswered, counters.late_answers_pending), (4, 0, 4));
    (reporter, kept, cookies)
}

/// The deadline completes the groups, each once.
fn expire(reporter: &FaultReporter, cookies: &[u32]) {
    reporter.process(Instant::now() + SOON);
    let expected = cookies.iter().map(|cookie| (*cookie, ResponseCode::Invalid, Cause::Deadline));
    assert_eq!(ended(reporter), expected.collect::<Vec<_>>());
    assert_eq!(ended(reporter), []);
}

/// Uses all the room that is left, which is that of four groups.
fn fill(reporter: &FaultReporter) -> Vec<u32> {
    let cookies = (4..8).map(|index| publish(reporter, page(2, index))).collect();
    assert!(matches!(reporter.report(page(3, 8)), Err(ReportError::Full(_))));
    cookies
}

fn room_does_not_come_back(
    make: fn(&Options) -> Result<(FaultReporter, UnattachedEnd), Error>,
    attach: impl Fn(OwnedFd) -> FaultResponder,
) {
    let (reporter, kept, _) = killed_with_its_descriptor_kept(make, attach);
    let filled = fill(&reporter);
    expire(&reporter, &filled);
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.late_answers_pending, counters.deadline), (8, 8, 8));
    // The last copy is the hang-up.
    drop(kept);
    assert!(until(|| reporter.is_closed()));
    assert_eq!(ended(&reporter), []);
    assert_eq!((reporter.counters().in_flight, reporter.counters().late_answers_pending), (0, 0));
}

#[test]
fn killed_responder_whose_socket_is_kept_leaves_room_that_does_not_come_back() {
    room_does_not_come_back(fault::socket, |end| FaultResponder::from_socket(end, FORMAT_V1, 8).unwrap());
}

#[test]
fn killed_responder_whose_shared_end_is_kept_leaves_room_that_does_not_come_back() {
    room_does_not_come_back(fault::shared, |end| FaultResponder::from_shared(end).unwrap());
}
