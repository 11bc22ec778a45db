//! Detaching, draining and resetting a device: its groups complete, once, and nobody else's.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::far::readable;
use common::far_fault::{AnyGroup, AnyResponder, MakeAnyFault};
use common::fault::*;
use common::{SOON, until};
use recordfd::fault::{
    Cause, FaultCompletion, FaultReporter, FaultRequest, Options, ReportError, Reported, RespondError,
    ResponseCode,
};
use recordfd::uapi::{Format, PgFault};
use recordfd::{DrainError, TryRecvError};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    every {
        detach_completes_the_groups_of_its_device_alone
        detach_leaves_answers_that_came_before_it
        detach_tells_how_many_completions_wait
        detach_forgets_half_made_groups
        detach_of_a_device_without_groups_does_nothing
        drain_of_an_idle_device_returns_at_once
        drain_that_times_out_changes_nothing
        drain_waits_for_the_last_answer_of_its_device
        drain_ends_though_other_threads_take_the_completions
        drain_ends_when_another_thread_detaches_the_device
        drain_ends_when_the_responder_goes
        drain_ends_when_the_time_of_the_last_group_is_up
        reset_completes_what_was_not_answered_in_time
        reset_of_an_answering_device_loses_no_answer
        storm_of_detaches_completes_every_group_once
    }
    local {
        unread_groups_are_taken_back_and_their_room_is_free
        answer_to_a_detached_group_is_stale_and_frees_its_slot
        detach_makes_the_descriptor_readable
    }
    socket {
        unread_groups_are_still_delivered_and_answered_late
        late_answer_is_counted_and_frees_its_slot
        completion_behind_late_answers_is_found
    }
}

/// A channel with room for two groups, all of which one device may have.
fn of_two() -> Options {
    Options::new().depth(2).per_device(2)
}

/// A channel in which nothing is ever due, so that no wait ends for that.
fn that_never_looks_again() -> Options {
    Options::new().half_made_age(Duration::MAX)
}

fn assert_full(reporter: &FaultReporter, request: FaultRequest) {
    match reporter.report(request) {
        Err(ReportError::Full(given_back)) => assert_eq!(given_back, request),
        other => panic!("{other:?}"),
    }
}

fn detach_completes_the_groups_of_its_device_alone(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let delivered = [(1, 0), (2, 1), (1, 2)].map(|(dev_id, index)| publish(&reporter, page(dev_id, index)));
    let mut groups = delivered.map(|_| Some(receive(&mut responder).0));
    reporter.report_batch(&group(1, 3, 3)).unwrap();
    let unread = publish(&reporter, page(2, 4));
    assert_eq!(reporter.detach(1), 3);
    let completions = collect(&reporter);
    let mut detached: Vec<_> = completions.iter().map(|completion| completion.prg_index).collect();
    detached.sort();
    assert_eq!(detached, [0, 2, 3]);
    for completion in completions {
        assert_eq!((completion.dev_id, completion.code), (1, Invalid));
        assert_eq!(completion.cause, Cause::Detached);
    }
    // The other device's, delivered or not, are what they were.
    assert_eq!(reporter.counters().unanswered, 2);
    groups[1].take().unwrap().respond(Success).unwrap();
    let last = loop {
        let (group, pages) = receive(&mut responder);
        if pages[0].dev_id == 2 {
            break group;
        }
    };
    last.respond(Success).unwrap();
    let answered = [delivered[1], unread].map(|cookie| (cookie, Success, Cause::Answered));
    assert_eq!(ended(&reporter), answered);
}

fn detach_leaves_answers_that_came_before_it(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let (_open, _) = receive(&mut responder);
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(reporter.detach(1), 2);
    let ends = [(cookies[1], Success, Cause::Answered), (cookies[0], Invalid, Cause::Detached)];
    assert_eq!(ended(&reporter), ends);
}

fn detach_tells_how_many_completions_wait(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    (0..3).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
    publish(&reporter, page(2, 3));
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(reporter.detach(1), 3, "one of them answered");
    assert_eq!(reporter.detach(1), 3);
    assert_eq!(reporter.detach(2), 4);
    assert_eq!(reporter.completions(&mut [FaultCompletion::default(); 3]).unwrap(), 3);
    assert_eq!(reporter.detach(7), 1);
    assert_eq!(collect(&reporter).len(), 1);
    assert_eq!(reporter.detach(1), 0);
}

fn detach_forgets_half_made_groups(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let half = |dev_id, index| FaultRequest { last: false, addr: 77, ..page(dev_id, index) };
    for (dev_id, index) in [(1, 0), (1, 1), (1, 1), (2, 0)] {
        assert_eq!(reporter.report(half(dev_id, index)).unwrap(), Reported::HalfMade);
    }
    assert_eq!(reporter.detach(1), 0, "they were never published, so nothing completes");
    let counters = reporter.counters();
    assert_eq!((counters.half_made, counters.discarded, counters.in_flight), (1, 2, 0));
    assert!(is_empty(&mut responder));
    // The index is free for another group, and the other device's goes on.
    publish(&reporter, page(1, 1));
    assert_eq!(receive(&mut responder).0.len(), 1);
    publish(&reporter, page(2, 0));
    assert_eq!(receive(&mut responder).1[0].addr, 77);
}

fn detach_of_a_device_without_groups_does_nothing(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = publish(&reporter, page(1, 0));
    assert_eq!((reporter.detach(2), reporter.detach(2)), (0, 0));
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    assert_eq!(reporter.detach(1), 0);
    publish(&reporter, page(1, 0));
    assert_eq!(receive(&mut responder).0.len(), 1, "a device may come back");
}

#[cfg(feature = "local")]
fn unread_groups_are_taken_back_and_their_room_is_free() {
    let (reporter, mut responder) = local(&Options::new().depth(4).per_device(4));
    for _ in 0..3 {
        reporter.report_batch(&group(1, 0, 3)).unwrap();
        let other = group(2, 0, 4);
        assert_eq!(reporter.report_batch(&other[..3]).unwrap(), 3);
        assert_full(&reporter, other[3]);
        assert_eq!(reporter.detach(1), 1);
        assert!(is_empty(&mut responder) && !readable(&responder));
        // The queue has its room back before the completion is collected.
        publish(&reporter, other[3]);
        assert_eq!(receive(&mut responder).0.len(), 4);
        assert_eq!(collect(&reporter).len(), 2);
        let counters = reporter.counters();
        assert_eq!((counters.in_flight, counters.late_answers), (0, 0), "nobody holds a cookie of it");
    }
}

#[cfg(feature = "local")]
fn answer_to_a_detached_group_is_stale_and_frees_its_slot() {
    let (reporter, mut responder) = local(&of_two());
    for round in 0..3 {
        let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
        let groups = cookies.map(|_| receive(&mut responder).0);
        assert_eq!(reporter.detach(1), 2);
        assert_full(&reporter, page(1, 2));
        let [first, second] = groups;
        // One answer comes before its completion is collected, one behind it.
        assert!(matches!(first.respond(Success), Err(RespondError::StaleCookie)));
        assert_full(&reporter, page(1, 2));
        let detached = cookies.map(|cookie| (cookie, Invalid, Cause::Detached));
        assert_eq!(sorted(ended(&reporter)), sorted(detached));
        assert_eq!(reporter.counters().in_flight, 1, "the other is still held");
        match round {
            0 => assert!(matches!(second.respond(Success), Err(RespondError::StaleCookie))),
            1 => drop(second),
            _ => {
                let answer = response(second.into_cookie(), SUCCESS);
                assert!(matches!(responder.respond(answer), Err(RespondError::StaleCookie)));
            }
        }
        assert!(readable(&reporter), "who waits for room is told");
        assert_eq!(collect(&reporter), [], "nothing completes twice");
        let counters = reporter.counters();
        assert_eq!((counters.in_flight, counters.late_answers), (0, 2 * (round + 1)));
        assert!(!readable(&reporter));
    }
}

#[cfg(feature = "local")]
fn detach_makes_the_descriptor_readable() {
    let (reporter, mut responder) = local(&that_never_looks_again());
    for is_delivered in [true, false] {
        publish(&reporter, page(1, 0));
        let _held = is_delivered.then(|| receive(&mut responder));
        let waiting = reporter.clone();
        let waiter = thread::spawn(move || {
            let mut out = [FaultCompletion::default(); 4];
            waiting.wait_completions(&mut out, Some(SOON)).map(|count| (count, out[0].cause))
        });
        thread::sleep(Duration::from_millis(10));
        reporter.detach(1);
        assert_eq!(waiter.join().unwrap().unwrap(), (1, Cause::Detached));
        assert_eq!(collect(&reporter), []);
        publish(&reporter, page(1, 0));
        assert!(!readable(&reporter));
        reporter.detach(1);
        assert!(readable(&reporter));
        assert_eq!(collect(&reporter).len(), 1);
    }
}

fn unread_groups_are_still_delivered_and_answered_late(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&of_two());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    assert_eq!(reporter.detach(1), 2);
    let detached = cookies.map(|cookie| (cookie, Invalid, Cause::Detached));
    assert_eq!(sorted(ended(&reporter)), sorted(detached));
    assert_eq!(reporter.counters().in_flight, 2);
    for (index, cookie) in cookies.into_iter().enumerate() {
        let (group, pages) = receive(&mut responder);
        assert_eq!((group.cookie(), pages[0].grpid), (cookie, index as u32));
        group.respond(Success).unwrap();
    }
    assert!(is_empty(&mut responder));
    assert_eq!(collect(&reporter), []);
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.late_answers), (0, 2));
}

fn late_answer_is_counted_and_frees_its_slot(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&of_two());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let [first, second] = cookies.map(|_| receive(&mut responder).0);
    reporter.detach(1);
    assert_full(&reporter, page(1, 2));
    assert_eq!(collect(&reporter).len(), 2);
    assert_full(&reporter, page(1, 2));
    first.respond(Success).expect("it is handed over");
    assert!(readable(&reporter), "who waits for room is told");
    assert_eq!(collect(&reporter), []);
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.late_answers), (1, 1));
    let cookie = publish(&reporter, page(2, 0));
    assert!(!cookies.contains(&cookie));
    drop(second);
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)], "a late answer hides no other");
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.late_answers, counters.detached), (0, 2, 2));
}

fn completion_behind_late_answers_is_found(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    (0..3).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
    let cookie = publish(&reporter, page(2, 0));
    let groups = [0; 4].map(|_| receive(&mut responder).0);
    reporter.detach(1);
    assert_eq!(collect(&reporter).len(), 3);
    groups.into_iter().for_each(|group| group.respond(Success).unwrap());
    // Empty would mean that nothing has completed, and an edge-triggered loop would sleep on it.
    let mut one = [FaultCompletion::default()];
    assert_eq!(reporter.completions(&mut one).unwrap(), 1);
    assert_eq!((one[0].cookie, one[0].cause), (cookie, Cause::Answered));
    assert!(matches!(reporter.completions(&mut one), Err(TryRecvError::Empty)));
}

fn drain_of_an_idle_device_returns_at_once(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.drain(1, Duration::ZERO).unwrap();
    publish(&reporter, page(2, 0));
    reporter.report(FaultRequest { last: false, ..page(1, 0) }).unwrap();
    reporter.drain(1, Duration::ZERO).expect("a half-made group is not published");
    let cookie = publish(&reporter, page(1, 1));
    let _other = receive(&mut responder);
    receive(&mut responder).0.respond(Success).unwrap();
    reporter.drain(1, Duration::ZERO).expect("it is answered, though not collected");
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
}

fn drain_that_times_out_changes_nothing(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = publish(&reporter, page(1, 0));
    for timeout in [Duration::ZERO, Duration::from_millis(20)] {
        let began = Instant::now();
        let error = reporter.drain(1, timeout).unwrap_err();
        assert!(matches!(error, DrainError::Timeout) && error.errno() == 110);
        assert!(began.elapsed() >= timeout);
    }
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
}

fn drain_waits_for_the_last_answer_of_its_device(make: MakeAnyFault) {
    for timeout in [SOON, Duration::MAX] {
        let (reporter, mut responder) = make(&that_never_looks_again());
        let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
        publish(&reporter, page(2, 0));
        let [first, second, other] = [0; 3].map(|_| receive(&mut responder).0);
        let is_last = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(10));
                second.respond(Success).unwrap();
                thread::sleep(Duration::from_millis(10));
                is_last.store(true, Ordering::SeqCst);
                first.respond(Invalid).unwrap();
            });
            reporter.drain(1, timeout).unwrap();
            assert!(is_last.load(Ordering::SeqCst), "it returned too early");
        });
        let ends = [(cookies[1], Success, Cause::Answered), (cookies[0], Invalid, Cause::Answered)];
        assert_eq!(ended(&reporter), ends);
        drop(other);
    }
}

fn drain_ends_though_other_threads_take_the_completions(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&that_never_looks_again());
    let stop = AtomicBool::new(false);
    let all_began = Instant::now();
    let is_prompt = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) && all_began.elapsed() < 2 * SOON {
                collect(&reporter);
                thread::yield_now();
            }
        });
        let is_prompt = (0..40).all(|_| {
            (0..3).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
            let groups = [0; 3].map(|_| receive(&mut responder).0);
            scope.spawn(move || groups.into_iter().for_each(|group| group.respond(Success).unwrap()));
            let began = Instant::now();
            let is_prompt = reporter.drain(1, SOON / 4).is_ok() && began.elapsed() < SOON / 8;
            is_prompt && until(|| reporter.counters().in_flight == 0)
        });
        stop.store(true, Ordering::SeqCst);
        is_prompt
    });
    assert!(is_prompt, "it waits for an answer that another thread has taken in");
}

/// Drains device 1 of a channel with `options` and one group open, while `act` happens.
fn drain_while<T>(
    make: MakeAnyFault,
    options: &Options,
    act: impl FnOnce(FaultReporter, AnyResponder, AnyGroup) -> T,
) -> (FaultReporter, T) {
    let (reporter, mut responder) = make(options);
    publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    let drainer = reporter.clone();
    let drained = thread::spawn(move || drainer.drain(1, SOON / 4).map(|()| Instant::now()));
    thread::sleep(Duration::from_millis(10));
    let kept = act(reporter.clone(), responder, group);
    let acted = Instant::now();
    let drained = drained.join().unwrap().unwrap();
    assert!(drained < acted + SOON / 8, "it noticed only when its time was up");
    (reporter, kept)
}

fn drain_ends_when_another_thread_detaches_the_device(make: MakeAnyFault) {
    let (reporter, _kept) = drain_while(make, &that_never_looks_again(), |reporter, responder, group| {
        reporter.detach(1);
        (responder, group)
    });
    assert_eq!(collect(&reporter)[0].cause, Cause::Detached);
}

fn drain_ends_when_the_responder_goes(make: MakeAnyFault) {
    let (reporter, ()) = drain_while(make, &that_never_looks_again(), |_, responder, group| {
        group.into_cookie();
        drop(responder);
    });
    assert_eq!(collect(&reporter)[0].cause, Cause::HungUp);
}

fn drain_ends_when_the_time_of_the_last_group_is_up(make: MakeAnyFault) {
    let options = Options::new().deadline(Duration::from_millis(30));
    let (reporter, _kept) = drain_while(make, &options, |_, responder, group| (responder, group));
    assert_eq!(collect(&reporter)[0].cause, Cause::Deadline);
}

fn reset_completes_what_was_not_answered_in_time(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let other = publish(&reporter, page(2, 0));
    reporter.report(FaultRequest { last: false, ..page(1, 2) }).unwrap();
    receive(&mut responder).0.respond(Success).unwrap();
    let error = reporter.reset(1, Duration::from_millis(10)).unwrap_err();
    assert!(matches!(error, DrainError::Timeout));
    let ends = [(cookies[0], Success, Cause::Answered), (cookies[1], Invalid, Cause::Detached)];
    assert_eq!(ended(&reporter), ends);
    let counters = reporter.counters();
    assert_eq!((counters.discarded, counters.half_made, counters.unanswered), (1, 0, 1));
    assert_eq!(reporter.detach(2), 1);
    assert_eq!(ended(&reporter), [(other, Invalid, Cause::Detached)]);
}

fn reset_of_an_answering_device_loses_no_answer(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    let answerer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        group.respond(Success).unwrap();
    });
    reporter.reset(1, SOON).unwrap();
    answerer.join().unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    reporter.report(FaultRequest { last: false, ..page(1, 2) }).unwrap();
    reporter.reset(1, Duration::ZERO).unwrap();
    assert_eq!(reporter.counters().discarded, 1);
}

/// Reports groups of up to three pages, `count` of them; returns their cookies.
fn report_many(reporter: &FaultReporter, dev_id: u32, count: u32) -> Vec<u32> {
    let mut cookies = Vec::new();
    let began = Instant::now();
    while (cookies.len() as u32) < count {
        let number = cookies.len() as u32;
        // A detach in between may forget the pages before the last one, and that is all.
        for request in group(dev_id, number % 512, number % 3 + 1) {
            loop {
                match reporter.report(request) {
                    Ok(Reported::Group { cookie }) => cookies.push(cookie),
                    Ok(reported) => assert_eq!(reported, Reported::HalfMade),
                    Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => {
                        assert!(began.elapsed() < 2 * SOON, "no room comes back");
                        thread::yield_now();
                        continue;
                    }
                    Err(error) => panic!("{error:?}"),
                }
                break;
            }
        }
    }
    cookies
}

fn storm_of_detaches_completes_every_group_once(make: MakeAnyFault) {
    const EACH: u32 = 1000;
    for format in [Format::IOMMU_PGFAULT_V1, Format::IOMMU_PGFAULT_V2] {
        let (reporter, mut responder) = make(&Options::new().format(format).depth(32).max_group(3));
        let over = AtomicBool::new(false);
        let completed = thread::scope(|scope| {
            let answerer = scope.spawn(move || {
                let mut pages = [PgFault::default(); 3];
                loop {
                    match responder.recv_group(&mut pages) {
                        Ok(group) if group.cookie() % 5 == 0 => drop(group),
                        Ok(group) => match group.respond(Success) {
                            Ok(()) | Err(RespondError::StaleCookie | RespondError::Closed) => {}
                            Err(error) => panic!("{error:?}"),
                        },
                        Err(TryRecvError::Closed) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
            let devices = [1, 2].map(|dev_id| {
                let reporter = reporter.clone();
                scope.spawn(move || report_many(&reporter, dev_id, EACH))
            });
            let (detacher, over, began) = (reporter.clone(), &over, Instant::now());
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) && began.elapsed() < 2 * SOON {
                    detacher.detach(1);
                    thread::yield_now();
                }
            });
            let mut out = [FaultCompletion::default(); 8];
            let mut completed = [const { Vec::new() }; 2];
            while completed.iter().map(Vec::len).sum::<usize>() < 2 * EACH as usize {
                assert!(began.elapsed() < SOON, "{format}: completions are lost");
                match reporter.wait_completions(&mut out, Some(Duration::from_millis(1))) {
                    Ok(count) => {
                        for end in &out[..count] {
                            let of_other_cause = end.cause != Cause::Answered;
                            assert!(
                                !of_other_cause || (end.dev_id, end.cause) == (1, Cause::Detached),
                                "{end:?}"
                            );
                            completed[end.dev_id as usize - 1].push(end.cookie);
                        }
                    }
                    Err(error) => assert!(matches!(error, TryRecvError::Empty), "{error:?}"),
                }
            }
            over.store(true, Ordering::Relaxed);
            for (device, completed) in devices.into_iter().zip(&mut completed) {
                let mut published = device.join().unwrap();
                published.sort();
                completed.sort();
                assert!(published == *completed, "{format}: what was published and what completed differ");
            }
            drop(reporter);
            answerer.join().unwrap();
            completed
        });
        assert_eq!(completed.map(|cookies| cookies.len() as u32), [EACH; 2]);
    }
}
