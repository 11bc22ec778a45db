//! Requests: what every transport promises of them, their answers and their completions.

mod common;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use common::request::*;
use common::{SOON, readable, until, wait_readable};
use recordfd::request::{
    Cause, Completion, Notice, Options, ReportError, Reporter, ReporterCounters, RespondError, Responder,
};
use recordfd::{DrainError, Error, TryRecvError};

on_every_request_transport! {
    all
    answer_completes_its_request_with_its_code
    record_arrives_as_it_was_reported_under_its_cookie
    answers_are_taken_in_any_order_from_any_thread
    request_outlives_its_responder_and_is_answered
    dropped_request_is_answered_no
    request_given_up_for_its_cookie_is_answered_by_it
    unanswered_request_completes_at_its_deadline_and_its_late_answer_frees_the_slot
    default_deadline_is_a_minute
    detach_completes_one_device_only
    gone_reporter_leaves_its_requests_and_then_closed
    gone_responder_leaves_its_answers_and_everything_else_hung_up
    refusal_gives_the_record_back_and_changes_nothing
    completion_that_is_taken_one_at_a_time_keeps_the_descriptor_readable
    drain_waits_for_one_device
    drain_meets_a_deadline
    wait_completions_acts_on_deadlines
    open_cookies_are_those_received_and_not_answered
    busy_channel_completes_every_request_once
}

const MINUTE: Duration = Duration::from_secs(60);

fn report<R: Sample>(reporter: &Reporter<R>, dev_id: u32) -> u32 {
    reporter.report(R::of(dev_id)).unwrap_or_else(|error| panic!("{error:?}"))
}

fn answer_completes_its_request_with_its_code<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let [first, second, third] = [1, 2, 3].map(|dev_id| report(&reporter, dev_id));
    assert!(first != 0 && first != second && readable(&responder));
    let [one, two, three] = [(); 3].map(|()| receive(&mut responder));
    assert_eq!([one.cookie(), two.cookie(), three.cookie()], [first, second, third]);
    assert!(is_empty(&mut responder) && !readable(&responder) && !readable(&reporter));
    two.respond(R::YES).unwrap();
    assert!(readable(&reporter));
    one.respond(R::NO).unwrap();
    let answered = [(second, R::YES, Cause::Answered), (first, R::NO, Cause::Answered)];
    assert_eq!(ended(&reporter), answered);
    assert!(!readable(&reporter) && !three.is_cancelled());
    assert_eq!((reporter.counters().in_flight, responder.received()), (1, 3));
}

fn record_arrives_as_it_was_reported_under_its_cookie<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    for dev_id in [0, 1, u32::MAX] {
        let record = R::of(dev_id);
        // What the caller puts there is of no effect.
        let cookie = reporter.report(record.under(77)).unwrap();
        let pending = receive(&mut responder);
        assert_eq!((*pending.record(), pending.cookie()), (record.under(cookie), cookie));
        pending.respond(R::YES).unwrap();
        let mut out = [Completion::default(); 2];
        assert_eq!(reporter.wait_completions(&mut out, Some(SOON)).unwrap(), 1);
        let expected = Completion { record: record.under(cookie), verdict: R::YES, cause: Cause::Answered };
        assert_eq!(out, [expected, Completion::default()]);
    }
}

fn answers_are_taken_in_any_order_from_any_thread<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies: BTreeSet<_> = (0..32).map(|dev_id| report(&reporter, dev_id)).collect();
    assert_eq!(cookies.len(), 32, "cookies of open requests differ");
    let mut pending: Vec<_> = (0..32).map(|_| receive(&mut responder)).collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mine = pending.split_off(pending.len() - 8);
            thread::spawn(move || mine.into_iter().rev().for_each(|one| one.respond(R::YES).unwrap()))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let completed: BTreeSet<_> = ended(&reporter).iter().map(|(cookie, ..)| *cookie).collect();
    assert_eq!((completed, reporter.counters().answered), (cookies, 32));
}

fn request_outlives_its_responder_and_is_answered<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = report(&reporter, 1);
    let pending = receive(&mut responder);
    drop(responder);
    assert!(ended(&reporter).is_empty() && !reporter.is_closed(), "a hang-up too early");
    pending.respond(R::YES).unwrap();
    assert_eq!(ended(&reporter), [(cookie, R::YES, Cause::Answered)]);
    assert!(until(|| reporter.is_closed()));
    assert!(matches!(collect_all(&reporter).1, TryRecvError::Closed));
}

fn dropped_request_is_answered_no<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [1, 2].map(|dev_id| report(&reporter, dev_id));
    drop(receive(&mut responder));
    let thread = thread::spawn(move || {
        let _pending = receive(&mut responder);
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert_eq!(ended(&reporter), cookies.map(|cookie| (cookie, R::NO, Cause::Answered)));
    assert!(until(|| reporter.is_closed()));
}

fn request_given_up_for_its_cookie_is_answered_by_it<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = report(&reporter, 1);
    // Unread, and by a code that there is not.
    assert!(matches!(responder.respond(R::code(cookie, R::CODE)), Err(RespondError::StaleCookie)));
    assert_eq!(receive(&mut responder).into_cookie(), cookie);
    for code in [77, u32::MAX] {
        assert!(matches!(responder.respond(R::code(cookie, code)), Err(RespondError::Code)));
    }
    for wrong in [0, cookie ^ 1, cookie.wrapping_add(1 << 20), u32::MAX] {
        assert!(matches!(responder.respond(R::code(wrong, R::CODE)), Err(RespondError::StaleCookie)));
    }
    assert!(ended(&reporter).is_empty() && responder.open_cookies() == [cookie]);
    responder.respond(R::code(cookie, R::CODE)).unwrap();
    assert!(matches!(responder.respond(R::code(cookie, R::CODE)), Err(RespondError::StaleCookie)));
    assert_eq!(ended(&reporter), [(cookie, R::YES, Cause::Answered)]);
    assert_eq!(reporter.counters().late_answers, 0);
}

/// Fails unless the notice is the only one, and told once.
fn assert_cancelled<R: Sample>(responder: &mut Responder<R>, cookie: u32) {
    assert!(readable(&*responder), "a notice wakes");
    assert!(is_empty(responder));
    assert_eq!(responder.next_notice(), Some(Notice::Cancelled { cookie }));
    assert_eq!(responder.next_notice(), None);
    assert!(is_empty(responder) && !readable(&*responder));
}

fn unanswered_request_completes_at_its_deadline_and_its_late_answer_frees_the_slot<R: Sample>(
    make: MakeRequest<R>,
) {
    let deadline = Duration::from_secs(7);
    let (reporter, mut responder) = make(&Options::new().deadline(Some(deadline)).repeat_every(None));
    let before = Instant::now();
    let cookie = report(&reporter, 1);
    let due = reporter.next_deadline().unwrap();
    assert!(due >= before + deadline && due <= Instant::now() + deadline);
    let pending = receive(&mut responder);
    assert!(is_empty(&mut responder));
    assert_eq!(reporter.process(due - Duration::from_nanos(1)), 0);
    assert_eq!(reporter.process(due), 1);
    assert_eq!(ended(&reporter), [(cookie, R::NO, Cause::Deadline)]);
    assert_cancelled(&mut responder, cookie);
    assert!(pending.is_cancelled() && reporter.next_deadline().is_none());
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.unanswered, counters.deadline), (1, 0, 1), "it is held");
    assert_eq!(counters.late_answers_pending, 1);
    match pending.respond(R::YES) {
        Ok(()) | Err(RespondError::StaleCookie) => {}
        other => panic!("{other:?}"),
    }
    assert!(ended(&reporter).is_empty());
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.late_answers), (0, 1));
    assert_eq!(counters.late_answers_pending, 0);
}

fn default_deadline_is_a_minute<R: Sample>(make: MakeRequest<R>) {
    let (reporter, _responder) = make(&Options::new().repeat_every(None));
    let before = Instant::now();
    let cookie = report(&reporter, 1);
    let due = reporter.next_deadline().unwrap();
    assert!(due >= before + MINUTE && due <= Instant::now() + MINUTE);
    assert_eq!(reporter.process(due), 1);
    assert_eq!(ended(&reporter), [(cookie, R::NO, Cause::Deadline)]);
    let (reporter, _responder) = make(&Options::new().deadline(None).repeat_every(None));
    report(&reporter, 1);
    assert_eq!((reporter.next_deadline(), reporter.process(Instant::now() + 1000 * MINUTE)), (None, 0));
}

fn detach_completes_one_device_only<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let [held, other, _] = [1, 2, 3].map(|dev_id| report(&reporter, dev_id));
    let [pending, untouched] = [(); 2].map(|()| receive(&mut responder));
    assert_eq!(reporter.detach(9), 0);
    assert_eq!(reporter.detach(1), 1);
    assert_eq!(ended(&reporter), [(held, R::NO, Cause::Detached)]);
    // Behind the third request where that is on its way already.
    let third = receive(&mut responder);
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_notice(), Some(Notice::Cancelled { cookie: held }));
    assert!(responder.next_notice().is_none() && pending.is_cancelled() && !untouched.is_cancelled());
    assert!(is_empty(&mut responder) && !readable(&responder));
    drop((pending, third));
    untouched.respond(R::YES).unwrap();
    let ends = ended(&reporter);
    assert_eq!((ends.len(), ends[1]), (2, (other, R::YES, Cause::Answered)));
    assert_eq!((reporter.counters().in_flight, reporter.counters().late_answers), (0, 1));
    // The device comes back.
    let again = report(&reporter, 1);
    receive(&mut responder).respond(R::YES).unwrap();
    assert_eq!(ended(&reporter), [(again, R::YES, Cause::Answered)]);
}

fn gone_reporter_leaves_its_requests_and_then_closed<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let clone = reporter.clone();
    let cookie = report(&reporter, 1);
    drop(reporter);
    let other = report(&clone, 2);
    drop(clone);
    let [one, two] = [(); 2].map(|()| responder.recv().unwrap());
    assert_eq!([one.cookie(), two.cookie()], [cookie, other]);
    for _ in 0..2 {
        assert!(wait_readable(&responder));
        assert!(matches!(responder.recv(), Err(TryRecvError::Closed)));
        assert!(matches!(responder.recv_timeout(SOON), Err(TryRecvError::Closed)));
    }
    // Between threads the end is known at once; a socket may still take one.
    let _ = one.respond(R::YES);
    assert!(matches!(two.respond(R::YES), Err(RespondError::Closed) | Ok(())));
}

fn gone_responder_leaves_its_answers_and_everything_else_hung_up<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let [answered, given_up, unread] = [1, 2, 3].map(|dev_id| report(&reporter, dev_id));
    receive(&mut responder).respond(R::YES).unwrap();
    assert_eq!(receive(&mut responder).into_cookie(), given_up);
    drop(responder);
    assert!(wait_readable(&reporter) && until(|| reporter.is_closed()));
    let mut out = [Completion::default(); 1];
    let mut all = Vec::new();
    while reporter.wait_completions(&mut out, Some(SOON)).is_ok() {
        all.push((out[0].record, out[0].verdict, out[0].cause));
        assert!(readable(&reporter));
    }
    let hung_up = |dev_id, cookie| (R::of(dev_id).under(cookie), R::NO, Cause::HungUp);
    let first = (R::of(1).under(answered), R::YES, Cause::Answered);
    assert_eq!(all, [first, hung_up(2, given_up), hung_up(3, unread)]);
    let record = R::of(9).under(5);
    match reporter.report(record) {
        Err(error @ ReportError::Closed(_)) => {
            assert_eq!(error.errno(), 32);
            assert_eq!(error.into_inner(), record);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(collect_all(&reporter).1, TryRecvError::Closed));
    assert_eq!((reporter.counters().hung_up, reporter.counters().in_flight), (2, 0));
}

fn refusal_gives_the_record_back_and_changes_nothing<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new().depth(4).per_device(1).repeat_every(None));
    assert_eq!(reporter.depth(), 4);
    // A device whose request was cancelled, but is still held: a recovery of it may begin again.
    report(&reporter, 1);
    let zombie = receive(&mut responder);
    reporter.detach(1);
    assert_eq!(ended(&reporter).len(), 1);
    assert!(is_empty(&mut responder) && responder.next_notice().is_some());
    let look = |reporter: &Reporter<R>| ReporterCounters { oldest: None, ..reporter.counters() };
    let mut refused = 0;
    let mut refuse = |dev_id: u32, is_full: bool| {
        let (before, due) = (look(&reporter), reporter.next_deadline());
        let error = reporter.report(R::of(dev_id).under(3)).unwrap_err();
        match &error {
            ReportError::Full(_) => assert!(is_full, "{error:?}"),
            ReportError::DeviceFull(_) => assert!(!is_full, "{error:?}"),
            error => panic!("{error:?}"),
        }
        assert_eq!((error.errno(), error.into_inner()), (11, R::of(dev_id).under(3)));
        refused += 1;
        let expected = ReporterCounters { refused, ..before };
        assert_eq!((look(&reporter), reporter.next_deadline()), (expected, due));
    };
    refuse(1, false);
    let cookies: Vec<_> = (2..5).map(|dev_id| report(&reporter, dev_id)).collect();
    for _ in 0..3 {
        refuse(9, true);
    }
    let got: Vec<_> = (0..3).map(|_| receive(&mut responder)).collect();
    assert!(is_empty(&mut responder), "nothing of what was refused");
    assert_eq!(got.iter().map(|one| one.cookie()).collect::<Vec<_>>(), cookies);
    drop(zombie);
    assert!(ended(&reporter).is_empty());
    report(&reporter, 1);
}

fn completion_that_is_taken_one_at_a_time_keeps_the_descriptor_readable<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies: Vec<_> = (0..9).map(|dev_id| report(&reporter, dev_id)).collect();
    for cookie in &cookies {
        assert!(wait_readable(&responder), "a request waits");
        let pending = receive(&mut responder);
        assert_eq!(pending.cookie(), *cookie);
        pending.respond(R::YES).unwrap();
    }
    assert!(is_empty(&mut responder) && !readable(&responder));
    let mut out = [Completion::default(); 1];
    for cookie in cookies {
        assert!(wait_readable(&reporter), "a completion waits");
        assert_eq!(reporter.completions(&mut out).unwrap(), 1);
        assert_eq!(out[0].record.cookie(), cookie);
    }
    assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
    assert!(!readable(&reporter));
    assert!(matches!(reporter.completions(&mut []), Ok(0)));
}

fn drain_waits_for_one_device<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.drain(1, Duration::ZERO).unwrap();
    let [cookie, other] = [1, 2].map(|dev_id| report(&reporter, dev_id));
    assert!(matches!(reporter.drain(1, Duration::ZERO), Err(DrainError::Timeout)));
    let draining = {
        let reporter = reporter.clone();
        thread::spawn(move || reporter.drain(1, SOON))
    };
    let [one, two] = [(); 2].map(|()| responder.recv().unwrap());
    one.respond(R::YES).unwrap();
    draining.join().unwrap().unwrap();
    assert_eq!(ended(&reporter), [(cookie, R::YES, Cause::Answered)]);
    drop(two);
    reporter.drain(2, SOON).unwrap();
    assert_eq!(ended(&reporter), [(other, R::NO, Cause::Answered)]);
}

fn drain_meets_a_deadline<R: Sample>(make: MakeRequest<R>) {
    let (reporter, _responder) = make(&Options::new().deadline(Some(Duration::from_millis(5))));
    let cookie = report(&reporter, 1);
    reporter.drain(1, SOON).unwrap();
    assert_eq!(ended(&reporter), [(cookie, R::NO, Cause::Deadline)]);
}

fn wait_completions_acts_on_deadlines<R: Sample>(make: MakeRequest<R>) {
    let (reporter, _responder) = make(&Options::new().deadline(Some(Duration::from_millis(5))));
    let waiting = {
        let reporter = reporter.clone();
        thread::spawn(move || {
            let mut out = [Completion::default(); 4];
            let count = reporter.wait_completions(&mut out, Some(SOON)).unwrap();
            (count, out[0])
        })
    };
    // Reported while the other thread waits already, most of the time.
    let cookie = report(&reporter, 1);
    let (count, first) = waiting.join().unwrap();
    assert_eq!((count, first.record.cookie(), first.cause), (1, cookie, Cause::Deadline));
}

fn open_cookies_are_those_received_and_not_answered<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [1, 2, 3].map(|dev_id| report(&reporter, dev_id));
    assert!(responder.open_cookies().is_empty());
    let [one, two] = [(); 2].map(|()| receive(&mut responder));
    let sorted = |mut cookies: Vec<u32>| {
        cookies.sort_unstable();
        cookies
    };
    assert_eq!(sorted(responder.open_cookies()), sorted(cookies[..2].to_vec()));
    one.respond(R::YES).unwrap();
    assert_eq!(responder.open_cookies(), [cookies[1]]);
    assert_eq!(two.into_cookie(), cookies[1]);
    assert_eq!(responder.open_cookies(), [cookies[1]], "nobody has answered it");
}

fn busy_channel_completes_every_request_once<R: Sample>(make: MakeRequest<R>) {
    const COUNT: usize = 3000;
    let (reporter, mut responder) = make(&Options::new().depth(16).busy_poll(Duration::from_micros(20)));
    let answering = thread::spawn(move || {
        let mut held = Vec::new();
        loop {
            match responder.try_recv() {
                Ok(pending) => held.push(pending),
                // Nothing more may come before these are answered.
                Err(TryRecvError::Empty) if held.is_empty() => assert!(responder.wait(Some(SOON)).unwrap()),
                Err(TryRecvError::Empty) => held.drain(..).for_each(|one| one.respond(R::NO).unwrap()),
                Err(TryRecvError::Closed) => return responder.received(),
                Err(error) => panic!("{error}"),
            }
            // In another order than they came.
            if held.len() > 3 {
                held.swap_remove(1).respond(R::NO).unwrap();
            }
        }
    });
    let mut open = BTreeSet::new();
    let (mut reported, mut completed) = (0, 0);
    let mut out = [Completion::default(); 5];
    while completed < COUNT {
        while reported < COUNT {
            match reporter.report(R::of(reported as u32)) {
                Ok(cookie) => assert!(open.insert(cookie)),
                // The queue, or as many recoveries as it is deep.
                Err(error) => {
                    assert_eq!(error.errno(), 11, "{error:?}");
                    break;
                }
            }
            reported += 1;
        }
        let count = reporter.wait_completions(&mut out, Some(SOON)).unwrap();
        for ended in &out[..count] {
            assert!(open.remove(&ended.record.cookie()), "completed twice");
            assert_eq!((ended.verdict, ended.cause), (R::NO, Cause::Answered));
        }
        completed += count;
    }
    drop(reporter);
    assert_eq!(answering.join().unwrap(), COUNT as u64);
}

fn refuses_wrong_formats<R: Sample>(wrong: recordfd::uapi::Format) {
    let (_, end) = recordfd::request::socket::<R>(&Options::new()).unwrap();
    let descriptor = std::os::fd::OwnedFd::from(end);
    let other = descriptor.try_clone().unwrap();
    let errors = [
        Reporter::<R>::from_socket(descriptor, wrong, &Options::new()).map(drop).unwrap_err(),
        Responder::<R>::from_socket(other, wrong, 64).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.error(), Error::Format { found, .. } if *found == wrong), "{error:?}");
    }
}

#[test]
fn channel_of_another_record_is_refused() {
    use recordfd::uapi::{DeviceRequest, Format, PciError, PciErrorV2};
    refuses_wrong_formats::<PciError>(Format::DEVICE_REQUEST_V1);
    refuses_wrong_formats::<DeviceRequest>(Format::PCI_ERROR_V1);
    refuses_wrong_formats::<PciError>(Format::PCI_ERROR_V2);
    refuses_wrong_formats::<PciErrorV2>(Format::PCI_ERROR_V1);
    let (_reporter, end) = recordfd::request::shared::<PciError>(&Options::new()).unwrap();
    let error = Responder::<DeviceRequest>::from_shared(end.into()).unwrap_err();
    assert!(matches!(error.error(), Error::Format { .. }), "{error:?}");
    let (_responder, end) = recordfd::request::shared_responder::<DeviceRequest>(&Options::new()).unwrap();
    let error = Reporter::<PciError>::from_shared(end.into(), &Options::new()).unwrap_err();
    assert!(matches!(error.error(), Error::Format { .. }), "{error:?}");
}

#[test]
fn options_out_of_range_are_refused() {
    use recordfd::uapi::PciError;
    let cases = [
        (Options::new().depth(0), "depth"),
        (Options::new().depth((1 << 20) + 1), "depth"),
        (Options::new().per_device(0), "per_device"),
        (Options::new().deadline(Some(Duration::ZERO)), "deadline"),
        (Options::new().repeat_every(Some(Duration::ZERO)), "repeat_every"),
    ];
    for (options, expected) in cases {
        let told = recordfd::request::socket::<PciError>(&options).map(drop);
        assert!(matches!(told, Err(Error::Option { name, .. }) if name == expected), "{told:?}");
    }
}
