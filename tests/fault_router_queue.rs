//! Queues as handles of a router, over every transport.

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::fault::*;
use common::router::*;
use common::{SOON, readable, soon, until, wait_readable};
use recordfd::fault::{
    Cause, FaultCompletion, FaultRequest, FaultRouter, FaultSource, Options, ReportError, RespondError,
    ResponseCode, Routed,
};
use recordfd::uapi::{Format, PgFault, PgFaultPerm, Record};
use recordfd::{Error, TryRecvError};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    groups_and_their_answers_go_through_the_queue
    refused_last_page_completes_the_whole_group_when_it_is_repeated
    late_answer_frees_its_place_and_tells_nothing
    queue_without_a_responder_answers_invalid
    queue_has_its_own_deadline
    reporter_with_clones_or_groups_is_no_queue
    answers_that_came_before_the_detach_count
    queue_with_notices_tells_its_responder_of_a_detach
    detach_waits_for_who_is_told_of_a_hang_up
    queue_closes_when_it_is_attached_nowhere_and_nobodys
}

const SOURCE: FaultSource = FaultSource::pasid(1, 1);
const HOUR: Duration = Duration::from_secs(3600);

fn groups_and_their_answers_go_through_the_queue(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new());
    let handle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    router.attach(FaultSource::rid(2), &handle.owning_pasid_table()).unwrap();
    assert!(!readable(handle.descriptor().unwrap()) && !handle.is_closed());
    for request in [half(1, Some(1)), last_page(2, Some(9)), last_page(1, Some(1)), last_page(2, None)] {
        router.report(request).unwrap();
    }
    let shapes: Vec<_> = (0..3)
        .map(|number| {
            let (group, pages) = receive(&mut responder);
            let code = if number == 1 { Invalid } else { Success };
            group.respond(code).unwrap();
            (pages[0].dev_id, pages.len())
        })
        .collect();
    assert_eq!(shapes, [(2, 1), (1, 2), (2, 1)]);
    assert!(is_empty(&mut responder) && ends(&told).is_empty());
    assert!(wait_readable(handle.descriptor().unwrap()));
    router.process(Instant::now());
    let answered = |dev_id, pasid, code| (dev_id, pasid, code, Cause::Answered);
    let expected = [answered(2, Some(9), Success), answered(1, Some(1), Invalid), answered(2, None, Success)];
    assert_eq!(ends(&told), expected);
    assert!(!readable(handle.descriptor().unwrap()));
    assert_eq!((handle.counters().answered, handle.counters().in_flight), (3, 0));
}

fn refused_last_page_completes_the_whole_group_when_it_is_repeated(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new().depth(4).per_device(2));
    let handle = router.queue(reporter).unwrap();
    for dev_id in 1..=3 {
        router.attach(FaultSource::pasid(dev_id, 1), &handle).unwrap();
    }
    let mut refused = Vec::new();
    // Of a device that has what it may have, and when nobody may have more.
    for (dev_id, before, full) in [(1, [1, 1], false), (3, [2, 2], true)] {
        before.iter().for_each(|dev_id| drop(router.report(last_page(*dev_id, Some(1)))));
        let pages = [7, 8].map(|addr| FaultRequest { addr, prg_index: 3, ..half(dev_id, Some(1)) });
        pages.iter().for_each(|page| assert_eq!(router.report(*page).unwrap(), Routed::HalfMade));
        let last = FaultRequest { addr: 9, last: true, ..pages[0] };
        for _ in 0..2 {
            match router.report(last).unwrap_err() {
                ReportError::Full(back) => assert!(full && back == last),
                ReportError::DeviceFull(back) => assert!(!full && back == last),
                other => panic!("{other}"),
            }
        }
        refused.push(last);
    }
    let open = handle.counters().unanswered;
    for _ in 0..open {
        receive(&mut responder).0.respond(Success).unwrap();
    }
    router.collect(&handle);
    assert_eq!(ends(&told).len(), open as usize);
    for last in refused {
        assert_eq!(router.report(last).unwrap(), Routed::Delivered);
        let (group, pages) = receive(&mut responder);
        assert_eq!(pages.iter().map(|page| page.addr).collect::<Vec<_>>(), [7, 8, 9]);
        group.respond(Success).unwrap();
        router.collect(&handle);
        assert_eq!(ends(&told), [(last.dev_id, Some(1), Success, Cause::Answered)]);
    }
    assert_eq!(router.counters().half_made, 0);
}

fn late_answer_frees_its_place_and_tells_nothing(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new());
    let handle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    router.report(last_page(1, Some(1))).unwrap();
    let (held, _) = receive(&mut responder);
    router.detach(SOURCE).unwrap();
    assert_eq!(ends(&told), [(1, Some(1), Invalid, Cause::Detached)]);
    assert_eq!((handle.counters().unanswered, handle.counters().in_flight), (0, 1));
    assert_eq!(handle.counters().late_answers_pending, 1);
    match held.respond(Success) {
        Ok(()) | Err(RespondError::StaleCookie) => {}
        Err(error) => panic!("{error}"),
    }
    // Nobody is attached, so it is left to who polls the descriptor.
    assert!(wait_readable(handle.descriptor().unwrap()));
    router.collect(&handle);
    assert!(!readable(handle.descriptor().unwrap()));
    assert_eq!((handle.counters().late_answers, handle.counters().in_flight), (1, 0));
    assert_eq!(handle.counters().late_answers_pending, 0);
    assert!(ends(&told).is_empty());
}

fn queue_without_a_responder_answers_invalid(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new());
    let handle = router.queue(reporter).unwrap();
    let neighbour = success(&router);
    router.attach(SOURCE, &handle).unwrap();
    router.attach(FaultSource::rid(2), &neighbour).unwrap();
    for _ in 0..3 {
        router.report(last_page(1, Some(1))).unwrap();
    }
    let held = receive(&mut responder).0;
    receive(&mut responder).0.respond(Success).unwrap();
    drop((held, responder));
    assert!(until(|| handle.is_closed()));
    assert_eq!(router.report(half(1, Some(1))).unwrap(), Routed::HalfMade);
    assert_eq!(router.report(last_page(1, Some(1))).unwrap(), Routed::HungUp);
    assert_eq!(router.report(last_page(2, None)).unwrap(), Routed::Delivered);
    assert_eq!(ends(&told), [(1, Some(1), Invalid, Cause::HungUp), (2, None, Success, Cause::Answered)]);
    router.process(Instant::now());
    let mut causes: Vec<_> = ends(&told).into_iter().map(|end| (end.2, end.3)).collect();
    causes.sort_by_key(|(_, cause)| *cause as u32);
    // What was dropped unanswered may have been answered so before the hang-up.
    assert!(causes.contains(&(Success, Cause::Answered)) && causes.len() == 3, "{causes:?}");
    assert!(causes.contains(&(Invalid, Cause::HungUp)), "{causes:?}");
    assert_eq!((router.counters().hung_up, router.counters().half_made), (1, 0));
    soon(move || router.detach(SOURCE).unwrap());
    assert!(ends(&told).is_empty());
    assert_eq!((handle.counters().unanswered, handle.counters().in_flight), (0, 0));
}

fn queue_has_its_own_deadline(make: MakeFault) {
    let (router, told) = router();
    let (patient, _patient_end) = make(&Options::new());
    let (hasty, mut hasty_end) = make(&Options::new().deadline(HOUR));
    let [patient, hasty] = [patient, hasty].map(|reporter| router.queue(reporter).unwrap());
    router.attach(SOURCE, &patient).unwrap();
    router.attach(FaultSource::rid(2), &hasty).unwrap();
    router.report(last_page(1, Some(1))).unwrap();
    assert_eq!(router.next_deadline(), None);
    router.report(last_page(2, None)).unwrap();
    thread::sleep(Duration::from_millis(1));
    router.report(last_page(2, None)).unwrap();
    let due = router.next_deadline().unwrap();
    receive(&mut hasty_end).0.respond(Success).unwrap();
    let next = router.process(due).unwrap();
    assert!(next > due && router.next_deadline() == Some(next));
    assert_eq!(ends(&told), [(2, None, Success, Cause::Answered)], "what is there in time counts");
    assert_eq!(router.process(next), None);
    assert_eq!(ends(&told), [(2, None, Invalid, Cause::Deadline)]);
    assert_eq!((hasty.counters().deadline, patient.counters().unanswered), (1, 1));
}

fn reporter_with_clones_or_groups_is_no_queue(make: MakeFault) {
    let (router, _told) = router();
    let (reporter, _responder) = make(&Options::new());
    let clone = reporter.clone();
    assert!(matches!(router.queue(reporter).map_err(Error::from), Err(Error::Unsupported { .. })));
    clone.report(half(1, None)).unwrap();
    assert!(matches!(router.queue(clone).map_err(Error::from), Err(Error::Unsupported { .. })));
    let (reporter, _responder) = make(&Options::new().half_made_age(HOUR));
    reporter.report(half(1, None)).unwrap();
    assert_eq!(reporter.process(Instant::now() + 2 * HOUR), 1);
    assert!(matches!(router.queue(reporter).map_err(Error::from), Err(Error::Unsupported { .. })));
    let (reporter, _responder) = make(&Options::new());
    reporter.report(last_page(1, None)).unwrap();
    assert!(
        matches!(router.queue(reporter).map_err(Error::from), Err(Error::Unsupported { .. })),
        "nobody would complete it"
    );
}

fn answers_that_came_before_the_detach_count(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new());
    let handle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    router.attach(FaultSource::rid(2), &handle).unwrap();
    for request in [last_page(1, Some(1)), last_page(2, None), last_page(1, Some(1)), last_page(2, None)] {
        router.report(request).unwrap();
    }
    // The first of each.
    let answered = [(); 2].map(|()| receive(&mut responder).0);
    answered.into_iter().for_each(|group| group.respond(Success).unwrap());
    router.detach(SOURCE).unwrap();
    let ended = ends(&told);
    assert!(ended.contains(&(1, Some(1), Success, Cause::Answered)), "{ended:?}");
    assert!(ended.contains(&(1, Some(1), Invalid, Cause::Detached)), "{ended:?}");
    // Answers of others were taken in with them, which no descriptor tells of.
    assert!(ended.contains(&(2, None, Success, Cause::Answered)) && ended.len() == 3, "{ended:?}");
    assert_eq!(handle.counters().unanswered, 1);
}

fn queue_with_notices_tells_its_responder_of_a_detach(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new().format(Format::IOMMU_PGFAULT_V2));
    let handle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    router.attach(FaultSource::rid(2), &handle).unwrap();
    router.report(last_page(1, Some(1))).unwrap();
    router.report(last_page(2, None)).unwrap();
    let [of_detached, other] = [(); 2].map(|()| receive(&mut responder).0);
    router.detach(SOURCE).unwrap();
    assert_eq!(ends(&told).len(), 1);
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_cancelled(), Some(of_detached.cookie()));
    assert!(of_detached.is_cancelled() && !other.is_cancelled());
    other.respond(Success).unwrap();
    router.process(Instant::now());
    assert_eq!(ends(&told), [(2, None, Success, Cause::Answered)]);
    drop(of_detached);
}

fn detach_waits_for_who_is_told_of_a_hang_up(make: MakeFault) {
    let [is_told, was_told] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let respond = {
        let (is_told, was_told) = (is_told.clone(), was_told.clone());
        move |ended: FaultCompletion| {
            assert_eq!(ended.cause, Cause::HungUp);
            is_told.store(true, SeqCst);
            thread::sleep(Duration::from_millis(20));
            was_told.store(true, SeqCst);
        }
    };
    let router = FaultRouter::new(&Options::new(), respond).unwrap();
    let (reporter, responder) = make(&Options::new());
    let handle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    drop(responder);
    assert!(until(|| handle.is_closed()));
    let device = {
        let router = router.clone();
        thread::spawn(move || assert_eq!(router.report(last_page(1, Some(1))).unwrap(), Routed::HungUp))
    };
    assert!(until(|| is_told.load(SeqCst)));
    router.detach(SOURCE).unwrap();
    assert!(was_told.load(SeqCst), "nothing is told behind the detach");
    device.join().unwrap();
}

fn queue_closes_when_it_is_attached_nowhere_and_nobodys(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&Options::new());
    router.attach(SOURCE, &router.queue(reporter).unwrap()).unwrap();
    router.report(last_page(1, Some(1))).unwrap();
    receive(&mut responder).0.respond(Success).unwrap();
    router.process(Instant::now());
    assert!(is_empty(&mut responder));
    router.replace(SOURCE, &success(&router)).unwrap();
    assert!(until(|| matches!(
        responder.try_recv_group(&mut [PgFault::default(); 8]),
        Err(TryRecvError::Closed)
    )));
    assert_eq!(router.report(last_page(1, Some(1))).unwrap(), Routed::Delivered);
    assert_eq!(ends(&told), [(1, Some(1), Success, Cause::Answered); 2]);
}

#[test]
fn responder_that_answers_nonsense_harms_its_queue_alone() {
    let (router, told) = router();
    let (reporter, mut peer) = reporter_and_peer(&Options::new());
    let queue = router.queue(reporter).unwrap();
    router.attach(SOURCE, &queue).unwrap();
    router.attach(FaultSource::rid(2), &success(&router)).unwrap();
    [(); 2].iter().for_each(|()| drop(router.report(last_page(1, Some(1)))));
    // A code that there is none of, then cookies that nobody was given, as many as the kernel takes.
    let cookie = PgFault::decode(&available(&mut peer)[..40]).unwrap().cookie;
    peer.write_all(&wire_response(cookie, 7)).unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while peer.write_all(&wire_response(0xffff_ffff, 0)).is_ok() {
        sent += 1;
    }
    let router = soon(move || {
        router.process(Instant::now());
        router
    });
    assert_eq!(ends(&told), [(1, Some(1), Invalid, Cause::BadAnswer)]);
    assert!(until(|| {
        router.collect(&queue);
        queue.counters().late_answers == sent
    }));
    assert_eq!(router.report(last_page(2, None)).unwrap(), Routed::Delivered);
    let router = soon(move || {
        router.detach(SOURCE).unwrap();
        router
    });
    let expected = [(2, None, Success, Cause::Answered), (1, Some(1), Invalid, Cause::Detached)];
    assert_eq!(ends(&told), expected);
    drop(router);
}

#[test]
fn half_made_groups_are_bounded_and_grow_old() {
    let (router, told) = router_with(&Options::new().half_made(4).half_made_age(HOUR).max_group(3));
    let handle = success(&router);
    router.attach(SOURCE, &handle).unwrap();
    let page = |dev_id, prg_index| FaultRequest { prg_index, ..half(dev_id, Some(1)) };
    for (dev_id, prg_index) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        assert_eq!(router.report(page(dev_id, prg_index)).unwrap(), Routed::HalfMade);
    }
    for refused in [page(1, 2), page(3, 0)] {
        let error = router.report(refused).unwrap_err();
        assert!(matches!(error, ReportError::HalfMadeFull(back) if back == refused));
    }
    // Single pages go past it.
    assert_eq!(router.report(FaultRequest { last: true, ..page(1, 9) }).unwrap(), Routed::Delivered);
    let due = router.next_deadline().unwrap();
    assert_eq!(router.process(due - HOUR), Some(due));
    assert_eq!(ends(&told).len(), 1);
    assert_eq!(router.process(due + HOUR), None);
    let ended = ends(&told);
    assert!(ended.iter().all(|end| (end.2, end.3) == (Invalid, Cause::Unfinished)), "{ended:?}");
    assert_eq!((ended.len(), router.counters().unfinished, router.counters().half_made), (4, 4, 0));
    // A last page that comes later is a group by itself.
    assert_eq!(router.report(FaultRequest { last: true, ..page(1, 0) }).unwrap(), Routed::Delivered);
    assert_eq!(router.report(page(3, 0)).unwrap(), Routed::HalfMade);
    assert_eq!(ends(&told).len(), 1);
}

#[test]
fn stop_marker_wakes_who_waits_behind_the_groups_of_its_pasid() {
    let (router, told) = router();
    let marker = FaultRequest { perm: PgFaultPerm::empty(), ..last_page(1, Some(1)) };
    let wait = |timeout| router.wait_stop_marker(1, 1, timeout);
    router.report(half(1, Some(1))).unwrap();
    assert!(matches!(router.report(marker), Err(ReportError::StopMarkerInGroup(back)) if back == marker));
    assert_eq!(router.report(last_page(1, Some(1))).unwrap(), Routed::NoHandle);
    assert!(wait(Duration::ZERO).is_err());
    assert_eq!(router.report(marker).unwrap(), Routed::StopMarker);
    assert!(wait(Duration::ZERO).is_ok() && wait(Duration::ZERO).is_err(), "it is taken once");
    // A request behind it, of one page or of several, shows that they go on.
    for later in [last_page(1, Some(1)), half(1, Some(1))] {
        router.report(marker).unwrap();
        router.report(later).unwrap();
        assert!(wait(Duration::ZERO).is_err());
    }
    router.report(last_page(1, Some(1))).unwrap();
    router.report(marker).unwrap();
    router.report(last_page(1, Some(2))).unwrap();
    assert!(wait(Duration::ZERO).is_ok(), "another PASID's requests are none of its");
    let waiter = {
        let router = router.clone();
        thread::spawn(move || router.wait_stop_marker(1, 1, SOON).unwrap())
    };
    thread::sleep(Duration::from_millis(20));
    router.report(marker).unwrap();
    soon(move || waiter.join().unwrap());
    assert_eq!(ends(&told).len(), 4);
    assert_eq!((router.counters().stop_markers, router.counters().half_made), (5, 0));
}
