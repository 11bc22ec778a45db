//! What is due when: deadlines of answers, the age of half-made groups, and whom a late answer blocks.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::far::readable;
use common::far_fault::{AnyResponder, MakeAnyFault};
use common::fault::*;
use common::{SOON, soon};
use recordfd::TryRecvError;
use recordfd::fault::{
    Cause, FaultCompletion, FaultModel, FaultReporter, FaultRequest, Options, ReportError, Reported,
    RespondError, ResponseCode,
};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    every {
        nothing_is_due_without_limits_or_groups
        unanswered_group_completes_at_its_deadline_and_not_before
        groups_are_due_in_the_order_of_their_publication
        answers_that_came_by_then_are_applied_first
        half_made_group_completes_at_its_age_and_not_before
        half_made_groups_are_due_in_the_order_of_their_first_pages
        next_deadline_is_the_earlier_of_both
        last_page_behind_the_age_is_a_group_of_its_own
        process_tells_how_many_completions_wait
        uncollected_unfinished_groups_take_up_room
        wait_for_completions_acts_on_what_is_due
        longest_times_are_no_overflow
        zombies_take_up_room_until_they_are_answered
        hang_up_frees_zombies
    }
    local {
        answer_behind_the_deadline_is_stale
        descriptor_is_readable_for_what_time_has_completed
    }
    socket {
        answer_behind_the_deadline_is_counted_as_late
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_nanos(1);

fn half(dev_id: u32, prg_index: u32) -> FaultRequest {
    FaultRequest { last: false, ..page(dev_id, prg_index) }
}

fn report_half(reporter: &FaultReporter, dev_id: u32, prg_index: u32) {
    assert_eq!(reporter.report(half(dev_id, prg_index)).unwrap(), Reported::HalfMade);
}

/// What `report` made due, which must lie `after` it.
fn due_after(reporter: &FaultReporter, after: Duration, report: impl FnOnce()) -> Instant {
    let before = Instant::now();
    report();
    let due = reporter.next_deadline().unwrap();
    assert!(due >= before + after && due <= Instant::now() + after);
    // So that what comes next is later.
    while Instant::now() <= due - after {}
    due
}

fn nothing_is_due_without_limits_or_groups(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().half_made_age(HOUR));
    assert_eq!(reporter.next_deadline(), None);
    let cookie = publish(&reporter, page(1, 0));
    assert_eq!(reporter.next_deadline(), None, "a group may wait for ever");
    let later = Instant::now() + 1000 * HOUR;
    assert_eq!(reporter.process(later), 0);
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    report_half(&reporter, 1, 0);
    publish(&reporter, page(1, 0));
    assert_eq!(reporter.next_deadline(), None, "its last page has come");
}

fn unanswered_group_completes_at_its_deadline_and_not_before(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().deadline(HOUR));
    for delivered in [false, true] {
        let mut cookie = 0;
        let due = due_after(&reporter, HOUR, || cookie = publish(&reporter, page(1, 0)));
        let group = delivered.then(|| receive(&mut responder));
        assert_eq!(reporter.process(due - MOMENT), 0);
        assert_eq!(reporter.process(due), 1);
        assert_eq!(ended(&reporter), [(cookie, Invalid, Cause::Deadline)]);
        assert_eq!((reporter.next_deadline(), reporter.process(due + HOUR)), (None, 0));
        drop(group);
        while !is_empty(&mut responder) {}
    }
    assert_eq!(reporter.counters().deadline, 2);
}

fn groups_are_due_in_the_order_of_their_publication(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().deadline(HOUR));
    let mut cookies = [0; 2];
    let first = due_after(&reporter, HOUR, || cookies[0] = publish(&reporter, page(1, 0)));
    cookies[1] = publish(&reporter, page(2, 0));
    assert_eq!(reporter.next_deadline(), Some(first));
    let groups = [0; 2].map(|_| receive(&mut responder).0);
    assert_eq!(reporter.process(first), 1);
    assert_eq!(ended(&reporter), [(cookies[0], Invalid, Cause::Deadline)]);
    let second = reporter.next_deadline().unwrap();
    assert!(second > first);
    drop(groups);
    assert_eq!(ended(&reporter), [(cookies[1], Invalid, Cause::Answered)]);
    assert_eq!(reporter.next_deadline(), None, "it is answered");
    publish(&reporter, page(2, 0));
    assert!(reporter.next_deadline().unwrap() > second);
    assert_eq!((reporter.process(second), reporter.process(second + HOUR)), (0, 1));
}

fn answers_that_came_by_then_are_applied_first(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().deadline(HOUR));
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let (_open, _) = receive(&mut responder);
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 2);
    let ends = [(cookies[1], Success, Cause::Answered), (cookies[0], Invalid, Cause::Deadline)];
    assert_eq!(ended(&reporter), ends);
}

fn half_made_group_completes_at_its_age_and_not_before(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().half_made_age(HOUR));
    let due = due_after(&reporter, HOUR, || report_half(&reporter, 1, 3));
    report_half(&reporter, 1, 3);
    assert_eq!(reporter.next_deadline(), Some(due), "a further page does not prolong it");
    assert_eq!(reporter.process(due - MOMENT), 0);
    assert_eq!(reporter.process(due), 1);
    let (code, cause, model) = (Invalid, Cause::Unfinished, FaultModel::Pri);
    let unfinished =
        FaultCompletion { dev_id: 1, pasid: Some(1), prg_index: 3, cookie: 0, code, cause, model };
    assert_eq!(collect(&reporter), [unfinished]);
    let counters = reporter.counters();
    assert_eq!((counters.unfinished, counters.half_made, counters.in_flight), (1, 0, 0));
    assert!(is_empty(&mut responder), "it is never published");
    assert_eq!((reporter.next_deadline(), reporter.process(due + HOUR)), (None, 0));
}

fn half_made_groups_are_due_in_the_order_of_their_first_pages(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new().half_made_age(HOUR));
    let first = due_after(&reporter, HOUR, || report_half(&reporter, 1, 0));
    reporter.report(FaultRequest { pasid: None, ..half(2, 1) }).unwrap();
    report_half(&reporter, 1, 0);
    assert_eq!(reporter.process(first), 1);
    assert_eq!(collect(&reporter)[0].prg_index, 0);
    let second = reporter.next_deadline().unwrap();
    assert!(second > first);
    assert_eq!(reporter.process(second), 1);
    let end = collect(&reporter)[0];
    assert_eq!((end.dev_id, end.pasid, end.prg_index), (2, None, 1));
}

fn next_deadline_is_the_earlier_of_both(make: MakeAnyFault) {
    for (deadline, age) in [(HOUR, 2 * HOUR), (2 * HOUR, HOUR)] {
        let (reporter, mut responder) = make(&Options::new().deadline(deadline).half_made_age(age));
        let before = Instant::now();
        report_half(&reporter, 1, 0);
        publish(&reporter, page(1, 1));
        let due = reporter.next_deadline().unwrap();
        assert!(due >= before + HOUR && due <= Instant::now() + HOUR);
        assert_eq!(reporter.process(due), 1);
        let cause = if deadline < age { Cause::Deadline } else { Cause::Unfinished };
        assert_eq!(collect(&reporter)[0].cause, cause);
        assert!(reporter.next_deadline().unwrap() >= before + 2 * HOUR);
        drop(responder.try_recv_group(&mut [Default::default()]));
    }
}

fn last_page_behind_the_age_is_a_group_of_its_own(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().half_made_age(HOUR));
    report_half(&reporter, 1, 3);
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 1);
    publish(&reporter, page(1, 3));
    assert_eq!(receive(&mut responder).0.len(), 1);
    // Without a look at the time its group is still there.
    report_half(&reporter, 1, 3);
    publish(&reporter, page(1, 3));
    assert_eq!(receive(&mut responder).0.len(), 2);
}

fn process_tells_how_many_completions_wait(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().deadline(2 * HOUR).half_made_age(HOUR));
    publish(&reporter, page(1, 0));
    report_half(&reporter, 2, 0);
    publish(&reporter, page(1, 1));
    let now = Instant::now();
    assert_eq!([now, now + HOUR].map(|now| reporter.process(now)), [0, 1]);
    // What is answered by then is among them when a group is due.
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(reporter.process(now + 2 * HOUR), 3);
    assert_eq!((reporter.detach(2), collect(&reporter).len(), reporter.process(now)), (3, 3, 0));
}

fn uncollected_unfinished_groups_take_up_room(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new().half_made(2).half_made_age(HOUR));
    report_half(&reporter, 1, 0);
    report_half(&reporter, 2, 0);
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 2);
    for _ in 0..2 {
        let refused = reporter.report(half(3, 0));
        assert!(matches!(refused, Err(ReportError::HalfMadeFull(_))), "{refused:?}");
    }
    assert_eq!(reporter.completions(&mut [FaultCompletion::default()]).unwrap(), 1);
    report_half(&reporter, 3, 0);
    assert!(matches!(reporter.report(half(4, 0)), Err(ReportError::HalfMadeFull(_))));
}

fn wait_for_completions_acts_on_what_is_due(make: MakeAnyFault) {
    let short = Duration::from_millis(20);
    let (reporter, mut responder) = make(&Options::new().deadline(short).half_made_age(HOUR));
    let (other, _kept) = make(&Options::new().half_made_age(short));
    soon(move || {
        let mut out = [FaultCompletion::default(); 4];
        let began = Instant::now();
        publish(&reporter, page(1, 0));
        let (group, _) = receive(&mut responder);
        assert_eq!(reporter.wait_completions(&mut out, None).unwrap(), 1);
        assert!(out[0].cause == Cause::Deadline && began.elapsed() >= short);
        // Also of a group that is reported when the wait has begun.
        let late = other.clone();
        let device = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            late.report(half(1, 0)).unwrap();
        });
        assert_eq!(other.wait_completions(&mut out, Some(SOON)).unwrap(), 1);
        assert_eq!(out[0].cause, Cause::Unfinished);
        device.join().unwrap();
        drop(group);
    });
}

fn longest_times_are_no_overflow(make: MakeAnyFault) {
    let (reporter, mut responder) =
        make(&Options::new().deadline(Duration::MAX).half_made_age(Duration::MAX));
    publish(&reporter, page(1, 0));
    report_half(&reporter, 1, 1);
    assert_eq!(reporter.next_deadline(), None);
    assert_eq!(reporter.process(Instant::now() + 1000 * HOUR), 0);
    let mut out = [FaultCompletion::default(); 4];
    let nothing = reporter.wait_completions(&mut out, Some(Duration::from_millis(1)));
    assert!(matches!(nothing, Err(TryRecvError::Empty)));
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(reporter.wait_completions(&mut out, Some(Duration::MAX)).unwrap(), 1);
}

/// A channel with room for two groups, both of which are zombies: their cookies are with the responder,
/// their completions collected.
fn with_zombies(make: MakeAnyFault) -> (FaultReporter, AnyResponder, Vec<u32>) {
    let (reporter, mut responder) = make(&Options::new().depth(2).per_device(2).deadline(HOUR));
    let zombies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let cookies: Vec<_> = zombies.iter().map(|_| receive(&mut responder).0.into_cookie()).collect();
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 2);
    assert_eq!(ended(&reporter), zombies.map(|cookie| (cookie, Invalid, Cause::Deadline)));
    (reporter, responder, cookies)
}

fn zombies_take_up_room_until_they_are_answered(make: MakeAnyFault) {
    let (reporter, mut responder, cookies) = with_zombies(make);
    let assert_full = || match reporter.report(page(2, 2)) {
        Err(ReportError::Full(request)) => assert_eq!(request, page(2, 2)),
        other => panic!("{other:?}"),
    };
    assert_full();
    // Neither time nor a detach makes an answer impossible.
    assert_eq!((reporter.process(Instant::now() + 1000 * HOUR), reporter.detach(1)), (0, 0));
    assert_full();
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.unanswered, counters.oldest), (2, 0, None));
    assert_eq!(reporter.next_deadline(), None);
    let mut held = [responder.open_cookies(), cookies.clone()];
    held.iter_mut().for_each(|cookies| cookies.sort());
    assert_eq!(held[0], held[1]);
    for (answered, cookie) in (1..).zip(cookies) {
        // Refused or handed over, by transport; either way the slot is free behind it.
        let _ = responder.respond(response(cookie, SUCCESS));
        assert!(readable(&reporter), "who waits for room is told");
        assert_eq!(collect(&reporter), []);
        let counters = reporter.counters();
        assert_eq!((counters.in_flight, counters.late_answers), (2 - answered, answered.into()));
        for _ in 0..2 {
            let free: Vec<_> = (0..answered).map(|_| publish(&reporter, page(2, 2))).collect();
            assert!(!free.contains(&cookie));
            assert_full();
            free.iter().for_each(|_| receive(&mut responder).0.respond(Success).unwrap());
            assert_eq!(ended(&reporter).len(), free.len());
        }
    }
}

fn hang_up_frees_zombies(make: MakeAnyFault) {
    let (reporter, responder, _) = with_zombies(make);
    drop(responder);
    assert!(common::until(|| reporter.is_closed()));
    assert_eq!(collect(&reporter), [], "they have completed before");
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.hung_up, counters.deadline), (0, 0, 2));
    assert!(matches!(reporter.report(page(1, 0)), Err(ReportError::Closed(_))));
}

#[cfg(feature = "local")]
fn answer_behind_the_deadline_is_stale() {
    let (reporter, mut responder) = local(&Options::new().deadline(HOUR));
    publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 1);
    assert!(matches!(group.respond(Success), Err(RespondError::StaleCookie)));
    publish(&reporter, page(1, 1));
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 2);
    assert!(is_empty(&mut responder), "what is unread is taken back");
    assert_eq!(collect(&reporter).len(), 2);
    assert_eq!((reporter.counters().in_flight, reporter.counters().late_answers), (0, 1));
}

/// On a socket the call that completes says how many there are, and the descriptor does not.
#[cfg(feature = "local")]
fn descriptor_is_readable_for_what_time_has_completed() {
    let (reporter, _responder) = local(&Options::new().deadline(HOUR).half_made_age(HOUR));
    let mut one = [FaultCompletion::default()];
    for groups in [true, false] {
        for index in 0..2 {
            match groups {
                true => assert_ne!(publish(&reporter, page(1, index)), 0),
                false => report_half(&reporter, 1, index),
            }
        }
        assert!(!readable(&reporter));
        assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 2);
        for _ in 0..2 {
            assert!(readable(&reporter), "published: {groups}");
            assert_eq!(reporter.completions(&mut one).unwrap(), 1);
        }
        assert!(matches!(reporter.completions(&mut one), Err(TryRecvError::Empty)));
        assert!(!readable(&reporter));
    }
}

fn answer_behind_the_deadline_is_counted_as_late(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().deadline(HOUR));
    let cookie = publish(&reporter, page(1, 0));
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 1);
    let (group, _) = receive(&mut responder);
    assert_eq!(group.cookie(), cookie, "what is written is still delivered");
    let outcome: Result<(), RespondError<_>> = group.respond(Success);
    outcome.unwrap();
    assert_eq!(ended(&reporter), [(cookie, Invalid, Cause::Deadline)]);
    assert_eq!(collect(&reporter), []);
    assert_eq!((reporter.counters().in_flight, reporter.counters().late_answers), (0, 1));
}
