//! Page faults: what every transport promises of groups, answers and completions.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::far::{readable, wait_readable};
use common::far_fault::{AnyGroup, MakeAnyFault};
use common::fault::*;
use common::{SOON, until};
use recordfd::TryRecvError;
use recordfd::fault::{
    Cause, FaultCompletion, FaultModel, FaultReporter, FaultReporterCounters, FaultRequest, Options,
    ReportError, Reported, RespondError, ResponseCode,
};
use recordfd::uapi::{PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    answer_completes_its_group_with_its_code
    groups_arrive_whole_in_the_order_of_their_last_pages
    page_arrives_as_it_was_reported
    half_made_groups_do_not_mix
    open_groups_of_one_index_are_told_apart
    answers_are_taken_in_any_order_from_any_thread
    group_outlives_its_responder_and_is_answered
    dropped_group_is_answered_invalid
    group_given_up_for_its_cookie_is_answered_by_it
    completion_names_its_group
    gone_reporter_leaves_its_groups_and_then_closed
    gone_responder_leaves_its_answers_and_everything_else_hung_up
    groups_of_a_gone_responder_hang_up_with_the_last_token
    nothing_completes_behind_closed
    channel_lives_as_long_as_one_clone_of_the_reporter
    open_cookies_are_those_received_and_not_answered
    counters_tell_what_happened
    busy_channel_completes_every_group_once
}

/// The causes of what has completed, in order.
fn causes(reporter: &FaultReporter) -> Vec<Cause> {
    collect(reporter).iter().map(|completion| completion.cause).collect()
}

fn answer_completes_its_group_with_its_code(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let first = publish(&reporter, page(1, 3));
    let second = publish(&reporter, page(1, 3));
    assert_ne!(first, second);
    let (group, pages) = receive(&mut responder);
    assert_eq!((group.cookie(), group.len(), pages[0].grpid), (first, 1, 3));
    let (other, _) = receive(&mut responder);
    assert!(is_empty(&mut responder) && !readable(&responder) && !readable(&reporter));
    other.respond(Success).unwrap();
    assert!(readable(&reporter));
    group.respond(Invalid).unwrap();
    let answered = [(second, Success, Cause::Answered), (first, Invalid, Cause::Answered)];
    assert_eq!(ended(&reporter), answered);
    assert!(!readable(&reporter));
}

fn groups_arrive_whole_in_the_order_of_their_last_pages(make: MakeAnyFault) {
    const MOST: u32 = 40;
    let (reporter, mut responder) = make(&Options::new().depth(1024).per_device(1024).max_group(MOST));
    let mut published = Vec::new();
    for count in 1..=MOST {
        let requests = group(1, count, count);
        for request in &requests[..count as usize - 1] {
            assert_eq!(reporter.report(*request).unwrap(), Reported::HalfMade);
        }
        // What begins later and ends earlier arrives earlier.
        let between = publish(&reporter, page(2, count));
        let cookie = publish(&reporter, requests[count as usize - 1]);
        published.extend([(between, 1), (cookie, count)]);
    }
    for (cookie, count) in published {
        let (group, pages) = receive(&mut responder);
        assert_eq!((group.cookie(), group.len(), group.range()), (cookie, pages.len(), 0..count as usize));
        for (number, page) in pages.iter().enumerate() {
            assert_eq!(page.cookie, cookie);
            let is_last = number + 1 == count as usize;
            assert_eq!(page.flags.contains(PgFaultFlags::LAST_PAGE), is_last, "page {number} of {count}");
            if count > 1 {
                assert_eq!((page.addr, page.grpid), (number as u64, count), "pages keep their order");
            }
        }
        group.respond(Success).unwrap();
    }
    assert!(is_empty(&mut responder));
    assert_eq!(causes(&reporter), [Cause::Answered; 2 * MOST as usize]);
}

fn page_arrives_as_it_was_reported(make: MakeAnyFault) {
    use PgFaultPerm as P;
    let (reporter, mut responder) = make(&Options::new());
    let request = |pasid, prg_index, perm, addr, length| FaultRequest {
        dev_id: u32::MAX - prg_index,
        pasid,
        prg_index,
        perm,
        last: true,
        addr,
        length,
        ..FaultRequest::default()
    };
    let cases = [
        request(None, 0, P::READ, 0, 0),
        request(None, 511, P::READ | P::WRITE, u64::MAX, u32::MAX),
        request(Some(0), 1, P::WRITE, 0xffff_ffff_ffff_f000, 0x1000),
        request(Some(0xf_ffff), 2, P::READ | P::WRITE | P::EXEC | P::PRIV, 0x1234_5678_9abc_def0, 1),
        request(Some(5), 3, P::READ | P::EXEC, 7, 0),
        request(Some(5), 4, P::WRITE | P::PRIV, 8, 0),
    ];
    for request in cases {
        let cookie = publish(&reporter, request);
        let (group, pages) = receive(&mut responder);
        let mut flags = PgFaultFlags::LAST_PAGE;
        flags.set(PgFaultFlags::PASID_VALID, request.pasid.is_some());
        let expected = PgFault {
            flags,
            dev_id: request.dev_id,
            pasid: request.pasid.unwrap_or(0),
            grpid: request.prg_index,
            perm: request.perm,
            reserved: 0,
            addr: request.addr,
            length: request.length,
            cookie,
        };
        assert_eq!(pages, [expected]);
        assert_ne!(cookie, 0);
        group.respond(Success).unwrap();
        assert_eq!(collect(&reporter)[0].pasid, request.pasid, "no PASID is not PASID 0");
    }
}

fn half_made_groups_do_not_mix(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().max_group(8));
    // Of each pair of neighbours one thing alone is different.
    let keys = [(1, None, 3), (1, Some(0), 3), (1, Some(1), 3), (1, Some(1), 4), (2, Some(1), 4)];
    let request = |key: usize, number: u64| {
        let (dev_id, pasid, prg_index) = keys[key];
        let addr = 100 * key as u64 + number;
        FaultRequest { dev_id, pasid, last: number == 3, addr, ..page(1, prg_index) }
    };
    for number in 0..3 {
        for key in 0..keys.len() {
            assert_eq!(reporter.report(request(key, number)).unwrap(), Reported::HalfMade);
        }
    }
    assert_eq!(reporter.counters().half_made, 5);
    assert!(is_empty(&mut responder), "nothing is published before its last page");
    for key in (0..keys.len()).rev() {
        let cookie = publish(&reporter, request(key, 3));
        let (group, pages) = receive(&mut responder);
        assert_eq!(group.cookie(), cookie);
        let addresses: Vec<_> = pages.iter().map(|page| page.addr).collect();
        assert_eq!(addresses, [0, 1, 2, 3].map(|number| 100 * key as u64 + number));
        let (dev_id, pasid, prg_index) = keys[key];
        for page in pages {
            assert_eq!((page.dev_id, page.grpid, page.pasid), (dev_id, prg_index, pasid.unwrap_or(0)));
            assert_eq!(page.flags.contains(PgFaultFlags::PASID_VALID), pasid.is_some());
        }
        group.respond(Success).unwrap();
    }
    assert_eq!(reporter.counters().half_made, 0);
}

fn open_groups_of_one_index_are_told_apart(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let published: Vec<_> = (0..4).map(|_| publish(&reporter, page(1, 3))).collect();
    let mut groups: Vec<_> = (0..4).map(|_| receive(&mut responder).0).collect();
    let received: Vec<_> = groups.iter().map(|group| group.cookie()).collect();
    assert_eq!(received, published);
    groups.remove(2).respond(Invalid).unwrap();
    assert_eq!(ended(&reporter), [(published[2], Invalid, Cause::Answered)]);
    assert_eq!(reporter.counters().unanswered, 3);
    groups.remove(0).respond(Success).unwrap();
    assert_eq!(ended(&reporter), [(published[0], Success, Cause::Answered)]);
}

fn answers_are_taken_in_any_order_from_any_thread(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let published: Vec<_> = (0..24).map(|index| publish(&reporter, page(1, index))).collect();
    let mut groups: Vec<_> = (0..24).map(|_| receive(&mut responder).0).collect();
    groups.reverse();
    let (odd, even): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.cookie() % 2 == 1);
    let answer = |groups: Vec<AnyGroup>, code| {
        thread::spawn(move || groups.into_iter().for_each(|group| group.respond(code).unwrap()))
    };
    for thread in [answer(odd, Success), answer(even, Invalid)] {
        thread.join().unwrap();
    }
    let completions = collect(&reporter);
    for cookie in published {
        let of_it: Vec<_> = completions.iter().filter(|completion| completion.cookie == cookie).collect();
        let code = if cookie % 2 == 1 { Success } else { Invalid };
        assert!(matches!(of_it[..], [completion] if completion.code == code), "{of_it:?}");
    }
}

fn group_outlives_its_responder_and_is_answered(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = publish(&reporter, page(1, 3));
    let (group, _) = receive(&mut responder);
    drop(responder);
    assert!(matches!(reporter.completions(&mut [FaultCompletion::default()]), Err(TryRecvError::Empty)));
    assert!(!reporter.is_closed(), "its group can still be answered");
    thread::spawn(move || group.respond(Success).unwrap()).join().unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    assert!(until(|| reporter.is_closed()));
}

fn dropped_group_is_answered_invalid(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    drop(receive(&mut responder));
    let (group, _) = receive(&mut responder);
    thread::spawn(move || drop(group)).join().unwrap();
    assert_eq!(ended(&reporter), cookies.map(|cookie| (cookie, Invalid, Cause::Answered)));
    assert_eq!(responder.open_cookies(), []);
}

fn group_given_up_for_its_cookie_is_answered_by_it(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookie = publish(&reporter, page(1, 3));
    let kept = receive(&mut responder).0.into_cookie();
    assert_eq!((kept, ended(&reporter)), (cookie, vec![]), "nobody has answered");
    responder.respond(response(kept, PageResponseCode::INVALID)).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Invalid, Cause::Answered)]);
    // And by the cookie of a group that is still there, which then is answered and nothing more.
    let cookie = publish(&reporter, page(1, 3));
    let (group, _) = receive(&mut responder);
    responder.respond(response(cookie, SUCCESS)).unwrap();
    drop(group);
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
}

fn completion_names_its_group(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let request = FaultRequest { pasid: None, ..page(7, 300) };
    let cookie = publish(&reporter, request);
    receive(&mut responder).0.respond(Success).unwrap();
    let (code, cause) = (Success, Cause::Answered);
    let model = FaultModel::Pri;
    let completion = FaultCompletion { dev_id: 7, pasid: None, prg_index: 300, cookie, code, cause, model };
    assert_eq!(collect(&reporter), [completion]);
    let pages = group(8, 301, 3);
    assert_eq!(reporter.report_batch(&pages).unwrap(), 3);
    let (group, _) = receive(&mut responder);
    let cookie = group.cookie();
    reporter.detach(8);
    let (code, cause) = (Invalid, Cause::Detached);
    let completion =
        FaultCompletion { dev_id: 8, pasid: Some(1), prg_index: 301, cookie, code, cause, model };
    assert_eq!(collect(&reporter), [completion]);
}

fn gone_reporter_leaves_its_groups_and_then_closed(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    publish(&reporter, page(1, 0));
    let (open, _) = receive(&mut responder);
    let count = reporter.report_batch(&[group(1, 1, 3), group(1, 2, 1)].concat()).unwrap();
    assert_eq!(count, 4);
    // The beginning of a group that never ends goes with its reporter.
    reporter.report(FaultRequest { last: false, ..page(1, 3) }).unwrap();
    drop(reporter);
    assert!(matches!(open.respond(Success), Err(RespondError::Closed)));
    for count in [3, 1] {
        assert!(readable(&responder));
        assert_eq!(receive(&mut responder).0.len(), count);
    }
    for _ in 0..3 {
        assert!(readable(&responder), "closed is readable for ever");
        let closed = responder.try_recv_group(&mut [PgFault::default(); 4]);
        assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
        let mut groups = [const { None }; 4];
        let closed = responder.recv_groups(&mut [PgFault::default(); 4], &mut groups);
        assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
    }
}

fn gone_responder_leaves_its_answers_and_everything_else_hung_up(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies: Vec<_> = (0..6).map(|index| publish(&reporter, page(1, index))).collect();
    let mut groups: Vec<_> = (0..4).map(|_| receive(&mut responder).0).collect();
    groups.remove(3).respond(Success).unwrap();
    groups.remove(1).respond(Invalid).unwrap();
    for group in groups {
        group.into_cookie();
    }
    drop(responder);
    assert!(wait_readable(&reporter) && until(|| reporter.is_closed()));
    let mut one = [FaultCompletion::default()];
    let mut all = Vec::new();
    while let Ok(count) = reporter.completions(&mut one) {
        assert_eq!(count, 1);
        assert!(readable(&reporter));
        all.push((one[0].cookie, one[0].code, one[0].cause));
    }
    let answered = [(cookies[3], Success, Cause::Answered), (cookies[1], Invalid, Cause::Answered)];
    assert_eq!(all[..2], answered, "what was answered comes first");
    all[2..].sort_by_key(|(cookie, ..)| cookies.iter().position(|published| published == cookie));
    assert_eq!(all[2..], [0, 2, 4, 5].map(|index| (cookies[index], Invalid, Cause::HungUp)));
    for _ in 0..3 {
        assert!(matches!(reporter.completions(&mut one), Err(TryRecvError::Closed)));
        assert!(readable(&reporter), "closed is readable for ever");
    }
    let counters = reporter.counters();
    assert_eq!((counters.answered, counters.hung_up, counters.in_flight), (2, 4, 0));
    let refused = reporter.report(page(1, 9)).unwrap_err();
    assert_eq!((refused.errno(), refused.into_inner()), (32, page(1, 9)));
}

fn groups_of_a_gone_responder_hang_up_with_the_last_token(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    let (group, _) = receive(&mut responder);
    drop(responder);
    assert_eq!(ended(&reporter), []);
    drop(group);
    let first_answered = [(cookies[0], Invalid, Cause::Answered), (cookies[1], Invalid, Cause::HungUp)];
    assert!(until(|| reporter.is_closed()));
    assert_eq!(ended(&reporter), first_answered);
}

fn nothing_completes_behind_closed(make: MakeAnyFault) {
    let age = Duration::from_secs(3600);
    let (reporter, responder) = make(&Options::new().half_made_age(age));
    let cookie = publish(&reporter, page(1, 0));
    let pages = group(1, 1, 3);
    assert_eq!(reporter.report_batch(&pages[..2]).unwrap(), 2);
    drop(responder);
    assert!(until(|| reporter.is_closed()));
    assert_eq!(ended(&reporter), [(cookie, Invalid, Cause::HungUp)]);
    let closed = reporter.completions(&mut [FaultCompletion::default()]);
    assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
    let counters = reporter.counters();
    assert_eq!((counters.half_made, counters.discarded), (0, 1), "what has begun is forgotten");
    assert_eq!((reporter.next_deadline(), reporter.process(Instant::now() + 2 * age)), (None, 0));
    for request in [pages[1], pages[2], page(2, 0)] {
        let refused = reporter.report(request).unwrap_err();
        assert!(matches!(refused, ReportError::Closed(given_back) if given_back == request), "{refused:?}");
    }
    assert_eq!((reporter.detach(1), reporter.counters().half_made), (0, 0));
    reporter.drain(1, Duration::ZERO).unwrap();
}

fn channel_lives_as_long_as_one_clone_of_the_reporter(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let clone = reporter.clone();
    drop(reporter);
    let cookie = publish(&clone, page(1, 0));
    receive(&mut responder).0.respond(Success).unwrap();
    assert!(is_empty(&mut responder), "neither closed nor a group");
    let other = clone.clone();
    thread::spawn(move || assert_eq!(ended(&other), [(cookie, Success, Cause::Answered)])).join().unwrap();
    drop(clone);
    let closed = responder.recv_group(&mut [PgFault::default(); 4]);
    assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
}

fn open_cookies_are_those_received_and_not_answered(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let cookies: Vec<_> = (0..5).map(|index| publish(&reporter, page(1, index))).collect();
    assert_eq!(responder.open_cookies(), [], "none is received");
    let mut groups: Vec<_> = (0..4).map(|_| receive(&mut responder).0).collect();
    groups.remove(1).respond(Success).unwrap();
    drop(groups.remove(0));
    let kept = groups.remove(0).into_cookie();
    let mut open = responder.open_cookies();
    open.sort_by_key(|cookie| cookies.iter().position(|published| published == cookie));
    assert_eq!(open, [cookies[2], cookies[3]]);
    assert_eq!((kept, responder.received()), (cookies[2], 4));
}

fn counters_tell_what_happened(make: MakeAnyFault) {
    let deadline = Duration::from_secs(3600);
    let (reporter, mut responder) = make(&Options::new().deadline(deadline).half_made_age(deadline));
    assert_eq!(reporter.counters(), FaultReporterCounters::default());
    for index in 0..9 {
        publish(&reporter, page(index / 7 + 1, index));
    }
    reporter.report(FaultRequest { last: false, ..page(1, 8) }).unwrap();
    reporter.report(FaultRequest { last: false, ..page(3, 8) }).unwrap();
    reporter.report(stop_marker(1, 9)).unwrap();
    (0..3).for_each(|_| drop(reporter.report(page(1, 512)).unwrap_err()));
    thread::sleep(Duration::from_millis(5));
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.unanswered, counters.half_made), (9, 9, 2));
    assert!(counters.oldest.is_some_and(|age| age >= Duration::from_millis(5) && age < SOON));
    let mut groups: Vec<_> = (0..9).map(|_| receive(&mut responder).0).collect();
    assert_eq!(reporter.detach(2), 2);
    groups.drain(7..).for_each(drop);
    groups.drain(..3).for_each(|group| group.respond(Success).unwrap());
    assert_eq!(collect(&reporter).len(), 5);
    // Three answered, two detached and answered late: four are left, and two half-made groups.
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.unanswered), (4, 4));
    assert_eq!((counters.answered, counters.detached, counters.late_answers), (3, 2, 2));
    assert_eq!(reporter.detach(3), 0);
    let after = Instant::now() + deadline + SOON;
    assert_eq!(reporter.process(after), 5, "four groups and a half-made one");
    assert_eq!(reporter.counters().oldest, None);
    assert_eq!(collect(&reporter).len(), 5);
    drop((groups, responder));
    let expected = FaultReporterCounters {
        answered: 3,
        detached: 2,
        deadline: 4,
        unfinished: 1,
        discarded: 1,
        refused: 3,
        stop_markers: 1,
        late_answers: 6,
        ..Default::default()
    };
    assert!(until(|| reporter.is_closed()));
    collect(&reporter);
    assert_eq!(reporter.counters(), expected);
}

fn busy_channel_completes_every_group_once(make: MakeAnyFault) {
    const EACH: u32 = 1500;
    let (reporter, mut responder) = make(&Options::new().depth(64).max_group(4));
    let (done, answered) = mpsc::channel();
    let answerer = thread::spawn(move || {
        let mut pages = [PgFault::default(); 4];
        while let Ok(group) = responder.recv_group(&mut pages) {
            // The pages say what the answer is to be.
            let code = if pages[0].addr % 3 == 0 { Invalid } else { Success };
            assert!(pages[..group.len()].iter().all(|page| page.cookie == group.cookie()));
            group.respond(code).unwrap();
        }
    });
    let devices: Vec<_> = [1, 2, 3]
        .map(|dev_id| {
            let (reporter, done) = (reporter.clone(), done.clone());
            thread::spawn(move || {
                for number in 0..EACH {
                    let mut requests = group(dev_id, number % 512, number % 4 + 1);
                    requests.iter_mut().for_each(|request| request.addr = number.into());
                    let mut rest = &requests[..];
                    while rest.len() > 1 {
                        rest = &rest[reporter.report_batch(&rest[..rest.len() - 1]).unwrap()..];
                    }
                    let cookie = loop {
                        match reporter.report(rest[0]) {
                            Ok(Reported::Group { cookie }) => break cookie,
                            Err(error) => assert_eq!(error.errno(), 11, "{error}"),
                            other => panic!("{other:?}"),
                        }
                        thread::yield_now();
                    };
                    let code = if number % 3 == 0 { Invalid } else { Success };
                    done.send((dev_id, number % 512, cookie, code)).unwrap();
                }
            })
        })
        .into();
    drop(done);
    let mut out = [FaultCompletion::default(); 16];
    let mut completed = Vec::new();
    while completed.len() < 3 * EACH as usize {
        let count = reporter.wait_completions(&mut out, Some(SOON)).expect("a completion is lost");
        completed.extend(out[..count].iter().map(|completion| {
            assert_eq!(completion.cause, Cause::Answered);
            (completion.dev_id, completion.prg_index, completion.cookie, completion.code)
        }));
    }
    devices.into_iter().for_each(|device| device.join().unwrap());
    let mut published: Vec<_> = answered.into_iter().collect();
    let order = |group: &(u32, u32, u32, ResponseCode)| (group.0, group.1, group.2);
    published.sort_by_key(order);
    completed.sort_by_key(order);
    assert!(published == completed, "what was published and what completed differ");
    assert_eq!(collect(&reporter), []);
    assert_eq!(reporter.counters().in_flight, 0);
    drop(reporter);
    answerer.join().unwrap();
}
