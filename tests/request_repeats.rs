//! Releases that are asked for again until they are answered: one request under one cookie, whatever crosses.

mod common;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::request::*;
use common::{SOON, readable};
use recordfd::TryRecvError;
use recordfd::request::{
    Ack, Cause, Completion, Notice, Options, ReportError, Reporter, RespondError, Responder,
};
use recordfd::uapi::{DeviceRequest, DeviceRequestKind, EventFlags};

on_every_request_transport! {
    device_requests of DeviceRequest:
    held_release_is_told_of_with_its_count
    only_a_release_is_asked_for_again
    unread_release_is_still_one_request
    nothing_is_asked_for_again_once_it_was_answered
    nothing_is_asked_for_again_once_its_device_was_detached
    nothing_is_asked_for_again_behind_its_deadline
    cancelled_release_is_told_of_as_cancelled_only
    releases_are_asked_for_in_the_order_in_which_they_are_due
    what_is_due_later_does_not_hold_up_what_is_due_now
    release_that_is_late_by_many_turns_is_asked_for_once
    cookie_that_is_used_again_begins_to_count_anew
    wait_completions_asks_again
    drain_asks_again
    full_queue_skips_repeats_and_counts_them
    notice_wakes_a_responder_that_holds_the_release
    hang_up_ends_the_repeats
    repeat_that_crossed_its_answer_opens_nothing
    request_behind_as_many_repeats_as_fit_is_received_at_once
}

const EVERY: Duration = Duration::from_secs(10);
const INSTANT: Duration = Duration::from_nanos(1);

type Make = MakeRequest<DeviceRequest>;

fn release(reporter: &Reporter<DeviceRequest>, dev_id: u32) -> u32 {
    reporter.report(DeviceRequest::of(dev_id)).unwrap()
}

/// Whether the channel is between threads, where what is unread can be amended.
fn is_local(make: Make) -> bool {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    release(&reporter, 1);
    reporter.detach(1);
    is_empty(&mut responder)
}

/// Every notice that there is, behind every request.
fn notices(responder: &mut Responder<DeviceRequest>) -> Vec<Notice> {
    assert!(is_empty(responder), "a repeat opens nothing");
    let notices: Vec<_> = std::iter::from_fn(|| responder.next_notice()).collect();
    assert!(is_empty(responder) && !readable(&*responder));
    notices
}

/// Has what is due next done; when that was.
fn process_next(reporter: &Reporter<DeviceRequest>) -> Instant {
    let due = reporter.next_deadline().unwrap();
    assert_eq!(reporter.process(due - INSTANT), 0);
    assert_eq!(reporter.process(due), 0);
    assert!(reporter.next_deadline().unwrap() > due);
    due
}

fn repeated(cookie: u32, count: u32) -> Notice {
    Notice::Repeated { cookie, count }
}

fn held_release_is_told_of_with_its_count(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let before = Instant::now();
    let cookie = release(&reporter, 1);
    let first = reporter.next_deadline().unwrap();
    assert!(first >= before + EVERY && first <= Instant::now() + EVERY);
    let pending = receive(&mut responder);
    assert_eq!(pending.record().count, 0);
    let mut last = first - EVERY;
    for count in 1..5 {
        assert!(notices(&mut responder).is_empty());
        let due = process_next(&reporter);
        assert_eq!(due, last + EVERY);
        last = due;
        assert!(readable(&responder));
        assert_eq!(notices(&mut responder), [repeated(cookie, count)]);
    }
    // Of several the last.
    for _ in 0..3 {
        process_next(&reporter);
    }
    assert_eq!(notices(&mut responder), [repeated(cookie, 7)]);
    assert!(!pending.is_cancelled() && responder.open_cookies() == [cookie]);
    assert_eq!((reporter.counters().in_flight, responder.received()), (1, 1));
    pending.respond(Ack::Done).unwrap();
    let record = DeviceRequest::of(1).under(cookie);
    let completion = Completion { record, verdict: Ack::Done, cause: Cause::Answered };
    assert_eq!(collect_all(&reporter).0, [completion]);
}

fn only_a_release_is_asked_for_again(make: Make) {
    let record = DeviceRequest { kind: DeviceRequestKind::RESET_DONE, ..DeviceRequest::of(1) };
    for (options, record) in
        [(Options::new(), record), (Options::new().repeat_every(None), DeviceRequest::of(1))]
    {
        let (reporter, mut responder) = make(&options.deadline(None));
        reporter.report(record).unwrap();
        let _pending = receive(&mut responder);
        assert_eq!(reporter.next_deadline(), None);
        assert_eq!(reporter.process(Instant::now() + 100 * EVERY), 0);
        assert!(notices(&mut responder).is_empty());
    }
}

fn unread_release_is_still_one_request(make: Make) {
    let is_local = is_local(make);
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let [first, second] = [1, 2].map(|dev_id| release(&reporter, dev_id));
    for _ in 0..6 {
        process_next(&reporter);
    }
    let [one, two] = [(); 2].map(|()| receive(&mut responder));
    assert_eq!([one.cookie(), two.cookie()], [first, second]);
    let counts = [one.record().count, two.record().count];
    if is_local {
        // What is not read yet is amended.
        assert_eq!((counts, notices(&mut responder)), ([3, 3], vec![]));
    } else {
        assert_eq!(counts, [0, 0]);
        assert_eq!(notices(&mut responder), [repeated(first, 3), repeated(second, 3)]);
    }
    process_next(&reporter);
    assert_eq!(notices(&mut responder), [repeated(first, 4)]);
    one.respond(Ack::Done).unwrap();
    two.respond(Ack::Refused).unwrap();
    assert_eq!(ended(&reporter).len(), 2);
}

fn nothing_is_asked_for_again_once_it_was_answered(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let cookies = [1, 2].map(|dev_id| release(&reporter, dev_id));
    let [one, two] = [(); 2].map(|()| receive(&mut responder));
    process_next(&reporter);
    one.respond(Ack::Done).unwrap();
    // Collected or not.
    assert_eq!(reporter.process(Instant::now() + 2 * EVERY), 1);
    assert_eq!(notices(&mut responder), [repeated(cookies[1], 1)]);
    assert_eq!(reporter.process(Instant::now() + 4 * EVERY), 1);
    assert_eq!(ended(&reporter), [(cookies[0], Ack::Done, Cause::Answered)]);
    assert_eq!(reporter.process(Instant::now() + 6 * EVERY), 0);
    assert_eq!(notices(&mut responder), [repeated(cookies[1], 3)]);
    drop(two);
    assert_eq!(ended(&reporter).len(), 1);
    assert_eq!(reporter.next_deadline(), None);
    assert_eq!(reporter.process(Instant::now() + 20 * EVERY), 0);
    assert!(notices(&mut responder).is_empty());
}

fn nothing_is_asked_for_again_once_its_device_was_detached(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let [cookie, other] = [1, 2].map(|dev_id| release(&reporter, dev_id));
    let [one, two] = [(); 2].map(|()| receive(&mut responder));
    reporter.detach(1);
    for turn in 1..4 {
        reporter.process(Instant::now() + 2 * turn * EVERY);
    }
    let told = notices(&mut responder);
    assert_eq!(told.len(), 2);
    assert!(told.contains(&Notice::Cancelled { cookie }) && told.contains(&repeated(other, 3)), "{told:?}");
    assert_eq!(ended(&reporter), [(cookie, Ack::Refused, Cause::Detached)]);
    // Also while the slot waits for the late answer.
    reporter.process(Instant::now() + 20 * EVERY);
    assert_eq!(notices(&mut responder), [repeated(other, 4)]);
    drop((one, two));
    assert_eq!((ended(&reporter).len(), reporter.counters().late_answers), (1, 1));
    assert_eq!(reporter.next_deadline(), None);
}

fn nothing_is_asked_for_again_behind_its_deadline(make: Make) {
    // Both are due at once: what expires is not asked for.
    let (reporter, mut responder) = make(&Options::new().deadline(Some(3 * EVERY)));
    let cookie = release(&reporter, 1);
    let pending = receive(&mut responder);
    process_next(&reporter);
    assert_eq!(notices(&mut responder), [repeated(cookie, 1)]);
    assert_eq!(reporter.process(Instant::now() + 4 * EVERY), 1);
    assert_eq!(notices(&mut responder), [Notice::Cancelled { cookie }]);
    assert_eq!(reporter.process(Instant::now() + 40 * EVERY), 1);
    assert_eq!(ended(&reporter), [(cookie, Ack::Refused, Cause::Deadline)]);
    assert_eq!(reporter.next_deadline(), None);
    drop(pending);
    assert!(ended(&reporter).is_empty() && notices(&mut responder).is_empty());
}

fn cancelled_release_is_told_of_as_cancelled_only(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let cookie = release(&reporter, 1);
    let pending = receive(&mut responder);
    process_next(&reporter);
    process_next(&reporter);
    reporter.detach(1);
    assert_eq!(notices(&mut responder), [Notice::Cancelled { cookie }]);
    assert!(pending.is_cancelled());
    assert_eq!(ended(&reporter), [(cookie, Ack::Refused, Cause::Detached)]);
    let other = release(&reporter, 1);
    let again = receive(&mut responder);
    process_next(&reporter);
    assert_eq!(notices(&mut responder), [repeated(other, 1)]);
    // A notice that nobody asked for goes with its request.
    process_next(&reporter);
    drop(again);
    assert!(notices(&mut responder).is_empty());
}

fn releases_are_asked_for_in_the_order_in_which_they_are_due(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let cookies: Vec<_> = (0..20).map(|dev_id| release(&reporter, dev_id)).collect();
    let _pending: Vec<_> = (0..20).map(|_| receive(&mut responder)).collect();
    for count in 1..4 {
        let mut last = None;
        for cookie in &cookies {
            let due = process_next(&reporter);
            assert!(last.is_none_or(|last| last <= due));
            last = Some(due);
            // Those of the same instant come together.
            for notice in notices(&mut responder) {
                assert_eq!(notice, repeated(*cookie, count));
            }
        }
    }
}

fn what_is_due_later_does_not_hold_up_what_is_due_now(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let early = release(&reporter, 1);
    let now = Instant::now();
    // Asked for again by a time that is still to come, and so due next behind what is reported meanwhile.
    assert_eq!(reporter.process(now + 100 * EVERY), 0);
    let late = release(&reporter, 2);
    let due = reporter.next_deadline().unwrap();
    assert!(due <= Instant::now() + EVERY, "the later one hides the earlier one");
    let _pending = [(); 2].map(|()| receive(&mut responder));
    let _ = notices(&mut responder);
    reporter.process(due);
    assert_eq!(notices(&mut responder), [repeated(late, 1)]);
    reporter.process(due + EVERY);
    assert_eq!(notices(&mut responder), [repeated(late, 2)]);
    reporter.process(now + 102 * EVERY);
    let told = notices(&mut responder);
    assert!(told.contains(&repeated(early, 2)) && told.contains(&repeated(late, 3)), "{told:?}");
}

fn release_that_is_late_by_many_turns_is_asked_for_once(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let cookie = release(&reporter, 1);
    let _pending = receive(&mut responder);
    let now = Instant::now() + 1000 * EVERY;
    reporter.process(now);
    assert_eq!(notices(&mut responder), [repeated(cookie, 1)]);
    assert_eq!(reporter.next_deadline(), Some(now + EVERY));
}

fn cookie_that_is_used_again_begins_to_count_anew(make: Make) {
    let (reporter, mut responder) = make(&Options::new().depth(2).deadline(None));
    for _ in 0..50 {
        let cookie = release(&reporter, 1);
        let pending = receive(&mut responder);
        assert_eq!(pending.record().count, 0);
        process_next(&reporter);
        process_next(&reporter);
        assert_eq!(notices(&mut responder), [repeated(cookie, 2)]);
        process_next(&reporter);
        pending.respond(Ack::Done).unwrap();
        assert_eq!(ended(&reporter), [(cookie, Ack::Done, Cause::Answered)]);
    }
    // A slot without repeats next.
    reporter.report(DeviceRequest { kind: DeviceRequestKind::RESET_DONE, ..DeviceRequest::of(1) }).unwrap();
    assert_eq!(reporter.next_deadline(), None);
    assert_eq!(receive(&mut responder).record().count, 0);
}

/// Asks for a release every few milliseconds.
fn hasty() -> Options {
    Options::new().deadline(None).repeat_every(Some(Duration::from_millis(2)))
}

/// Answers once the release was asked for `times` times.
fn answer_after(mut responder: Responder<DeviceRequest>, times: u32) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let pending = responder.recv().unwrap();
        let mut count = pending.record().count;
        while count < times {
            assert!(responder.wait(Some(SOON)).unwrap(), "not asked again");
            assert!(is_empty(&mut responder));
            while let Some(notice) = responder.next_notice() {
                let Notice::Repeated { count: told, .. } = notice else { panic!("{notice:?}") };
                assert!(told > count, "counts grow");
                count = told;
            }
        }
        pending.respond(Ack::Done).unwrap();
    })
}

fn wait_completions_asks_again(make: Make) {
    let (reporter, responder) = make(&hasty());
    let answering = answer_after(responder, 5);
    let cookie = release(&reporter, 1);
    let mut out = [Completion::default(); 2];
    assert_eq!(reporter.wait_completions(&mut out, Some(SOON)).unwrap(), 1);
    assert_eq!((out[0].record.cookie, out[0].verdict), (cookie, Ack::Done));
    answering.join().unwrap();
}

fn drain_asks_again(make: Make) {
    let (reporter, responder) = make(&hasty());
    let answering = answer_after(responder, 5);
    let cookie = release(&reporter, 1);
    reporter.drain(1, SOON).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Ack::Done, Cause::Answered)]);
    answering.join().unwrap();
}

fn full_queue_skips_repeats_and_counts_them(make: Make) {
    let is_local = is_local(make);
    let (reporter, mut responder) = make(&Options::new().depth(4).per_device(4).deadline(None));
    // Of 4 places the releases take 2; repeats take the others, and then there is no room.
    let cookies = [1, 2].map(|dev_id| release(&reporter, dev_id));
    for _ in 0..9 {
        process_next(&reporter);
        process_next(&reporter);
    }
    if !is_local {
        let error = reporter.report(DeviceRequest::of(3)).unwrap_err();
        assert!(matches!(error, ReportError::Full(_)), "{error:?}");
    }
    let pending = [(); 2].map(|()| receive(&mut responder));
    assert_eq!([pending[0].cookie(), pending[1].cookie()], cookies);
    let told = notices(&mut responder);
    assert!(is_local || told == cookies.map(|cookie| repeated(cookie, 1)), "{told:?}");
    // What was skipped is counted, and room is room again.
    process_next(&reporter);
    assert_eq!(notices(&mut responder), [repeated(cookies[0], 10)]);
    release(&reporter, 3);
    assert_eq!(receive(&mut responder).record().dev_id, 3);
}

fn notice_wakes_a_responder_that_holds_the_release(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let cookie = release(&reporter, 1);
    let _pending = receive(&mut responder);
    assert!(is_empty(&mut responder));
    let asking = thread::spawn(move || {
        reporter.process(Instant::now() + EVERY);
        reporter
    });
    assert!(responder.wait(Some(SOON)).unwrap(), "not woken");
    assert_eq!(notices(&mut responder), [repeated(cookie, 1)]);
    // A receive that waits for a request does not return for a notice, and does not overlook its end.
    let reporter = asking.join().unwrap();
    reporter.process(Instant::now() + 3 * EVERY);
    let told = responder.recv_timeout(Duration::from_millis(20));
    assert!(matches!(told, Err(TryRecvError::Empty)), "{told:?}");
    assert_eq!(responder.next_notice(), Some(repeated(cookie, 2)));
}

fn hang_up_ends_the_repeats(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None));
    let cookie = release(&reporter, 1);
    assert_eq!(receive(&mut responder).into_cookie(), cookie);
    drop(responder);
    assert!(common::until(|| reporter.is_closed()));
    assert_eq!(reporter.process(Instant::now() + 2 * EVERY), 1, "it is found out by asking");
    assert_eq!(ended(&reporter), [(cookie, Ack::Refused, Cause::HungUp)]);
    assert_eq!(reporter.next_deadline(), None);
}

#[test]
fn answer_that_crosses_a_repeat_ends_the_request_at_both_sides() {
    let (reporter, mut peer) = reporter_and_peer::<DeviceRequest>(&Options::new().deadline(None));
    let cookie = release(&reporter, 1);
    let mut next = 0;
    let record = DeviceRequest::of(1).under(cookie);
    assert_eq!(records(&mut peer, &mut next), [(EventFlags::empty(), record)]);
    process_next(&reporter);
    // Answered before the repeat is read.
    peer.write_all(&wire_answer::<DeviceRequest>(cookie, 0)).unwrap();
    let again = DeviceRequest { count: 1, ..record };
    assert_eq!(records(&mut peer, &mut next), [(EventFlags::empty(), again)]);
    // The answer is there when the next repeat is due.
    assert_eq!(reporter.process(Instant::now() + 5 * EVERY), 1);
    assert_eq!(ended(&reporter), [(cookie, Ack::Done, Cause::Answered)]);
    assert!(records::<DeviceRequest>(&mut peer, &mut next).is_empty());
    assert_eq!(reporter.counters().late_answers, 0);
}

fn repeat_that_crossed_its_answer_opens_nothing(make: Make) {
    let (reporter, mut responder) = make(&Options::new().deadline(None).depth(4));
    for _ in 0..30 {
        let cookie = release(&reporter, 1);
        let pending = receive(&mut responder);
        // It is on its way when the answer is given.
        process_next(&reporter);
        pending.respond(Ack::Done).unwrap();
        assert!(is_empty(&mut responder), "the repeat is no request");
        assert_eq!((responder.next_notice(), responder.open_cookies()), (None, vec![]));
        let told = responder.respond(DeviceRequest::code(cookie, 0));
        assert!(matches!(told, Err(RespondError::StaleCookie)));
        assert_eq!(ended(&reporter), [(cookie, Ack::Done, Cause::Answered)]);
    }
    assert_eq!(reporter.counters().late_answers, 0);
}

fn request_behind_as_many_repeats_as_fit_is_received_at_once(make: Make) {
    for depth in [2, 4, 64] {
        let (reporter, mut responder) = make(&Options::new().depth(depth).per_device(depth).deadline(None));
        let cookie = release(&reporter, 1);
        let _pending = receive(&mut responder);
        // One more would leave no room for it.
        for _ in 1..depth {
            process_next(&reporter);
        }
        let behind = release(&reporter, 2);
        assert_eq!(receive(&mut responder).into_cookie(), behind, "a receive that finds only notices");
        assert_eq!(notices(&mut responder), [repeated(cookie, depth - 1)]);
    }
}
