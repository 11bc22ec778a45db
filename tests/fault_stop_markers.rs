//! Stop Markers: the end of a PASID's requests reaches who waits for it, and nobody else.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::far::readable;
use common::far_fault::MakeAnyFault;
use common::fault::*;
use common::{SOON, soon};
use recordfd::DrainError;
use recordfd::fault::{
    Cause, FaultModel, FaultReporter, FaultRequest, FaultRouter, Options, ReportError, Reported,
    ResponseCode::Success, Routed,
};
use recordfd::uapi::PgFaultPerm;

on_every_transport! {
    here_and_far
    marker_wakes_who_waits_for_it
    marker_in_a_batch_wakes_who_waits_for_it
    marker_that_came_before_the_wait_is_taken_once
    wait_ends_in_time
    waiters_take_their_own_markers
    marker_of_another_device_or_pasid_is_not_taken
    marker_is_forgotten_when_its_pasid_requests_pages_again
    marker_is_forgotten_with_its_device
    marker_is_a_last_page_without_an_access_of_a_pasid
    marker_is_neither_published_nor_answered
    marker_in_a_group_leaves_the_group_unharmed
    latest_markers_are_kept
}

/// Whether the marker has come; takes it.
fn has_marker(reporter: &FaultReporter, dev_id: u32, pasid: u32) -> bool {
    match reporter.wait_stop_marker(dev_id, pasid, Duration::ZERO) {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error, DrainError::Timeout) && error.errno() == 110, "{error:?}");
            false
        }
    }
}

fn mark(reporter: &FaultReporter, dev_id: u32, pasid: u32) {
    assert_eq!(reporter.report(stop_marker(dev_id, pasid)).unwrap(), Reported::StopMarker);
}

/// Waits for the marker of PASID 5 of device 1 in another thread, while `act` happens.
fn wait_while(reporter: &FaultReporter, timeout: Duration, act: impl FnOnce()) {
    let waiting = reporter.clone();
    let waiter = thread::spawn(move || soon(move || waiting.wait_stop_marker(1, 5, timeout)));
    thread::sleep(Duration::from_millis(10));
    act();
    waiter.join().unwrap().unwrap();
    assert!(!has_marker(reporter, 1, 5), "the waiter has it");
}

fn marker_wakes_who_waits_for_it(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    for timeout in [SOON, Duration::MAX] {
        wait_while(&reporter, timeout, || mark(&reporter, 1, 5));
    }
}

fn marker_in_a_batch_wakes_who_waits_for_it(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    // Also if the batch goes no further than behind it.
    for (behind, taken) in [(page(1, 1), 3), (page(1, 512), 2)] {
        wait_while(&reporter, SOON, || {
            let batch = [page(1, 0), stop_marker(1, 5), behind];
            assert_eq!(reporter.report_batch(&batch).unwrap(), taken);
        });
    }
}

fn marker_that_came_before_the_wait_is_taken_once(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    assert!(!has_marker(&reporter, 1, 5));
    mark(&reporter, 1, 5);
    reporter.wait_stop_marker(1, 5, SOON).unwrap();
    assert!(!has_marker(&reporter, 1, 5));
    // Two of the same are one.
    mark(&reporter, 1, 5);
    mark(&reporter, 1, 5);
    assert!(has_marker(&reporter, 1, 5) && !has_marker(&reporter, 1, 5));
}

fn wait_ends_in_time(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    let began = Instant::now();
    let timeout = Duration::from_millis(20);
    assert!(matches!(reporter.wait_stop_marker(1, 5, timeout), Err(DrainError::Timeout)));
    assert!(began.elapsed() >= timeout);
}

fn waiters_take_their_own_markers(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    thread::scope(|scope| {
        let waiters = [5, 6, 7].map(|pasid| {
            let reporter = &reporter;
            scope.spawn(move || reporter.wait_stop_marker(1, pasid, SOON))
        });
        for pasid in [7, 5, 6] {
            mark(&reporter, 1, pasid);
        }
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(reporter.counters().stop_markers, 3);
}

fn marker_of_another_device_or_pasid_is_not_taken(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    mark(&reporter, 1, 5);
    mark(&reporter, 2, 0);
    for (dev_id, pasid) in [(1, 6), (2, 5), (1, 0), (5, 1)] {
        assert!(!has_marker(&reporter, dev_id, pasid), "{dev_id} {pasid}");
    }
    assert!(has_marker(&reporter, 2, 0) && has_marker(&reporter, 1, 5));
}

fn marker_is_forgotten_when_its_pasid_requests_pages_again(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    let of = |dev_id, pasid, last| FaultRequest { pasid, last, ..page(dev_id, 7) };
    for last in [true, false] {
        mark(&reporter, 1, 5);
        // Requests of others are none of its business, nor are those that no device can make.
        for other in [of(2, Some(5), last), of(1, Some(6), last), of(1, None, last)] {
            reporter.report(other).unwrap();
        }
        reporter.report(FaultRequest { prg_index: 512, ..of(1, Some(5), last) }).unwrap_err();
        assert!(has_marker(&reporter, 1, 5));
        mark(&reporter, 1, 5);
        reporter.report(of(1, Some(5), last)).unwrap();
        assert!(!has_marker(&reporter, 1, 5), "pages came behind it");
    }
}

fn marker_is_forgotten_with_its_device(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    for (dev_id, pasid) in [(1, 5), (1, 6), (2, 5)] {
        mark(&reporter, dev_id, pasid);
    }
    assert_eq!(reporter.detach(1), 0);
    assert!(!has_marker(&reporter, 1, 5) && !has_marker(&reporter, 1, 6));
    assert!(has_marker(&reporter, 2, 5));
    mark(&reporter, 2, 5);
    reporter.reset(2, Duration::ZERO).unwrap();
    assert!(!has_marker(&reporter, 2, 5));
}

fn marker_is_neither_published_nor_answered(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().depth(2).per_device(1));
    publish(&reporter, page(1, 0));
    receive(&mut responder).0.respond(Success).unwrap();
    // They take no room either.
    for pasid in 0..4 {
        mark(&reporter, 1, pasid);
    }
    assert!(is_empty(&mut responder) && !readable(&responder));
    assert_eq!(collect(&reporter).len(), 1);
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.half_made, counters.stop_markers), (0, 0, 4));
    assert!(is_empty(&mut responder) && responder.open_cookies().is_empty());
}

fn marker_in_a_group_leaves_the_group_unharmed(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let pages = group(1, 3, 3);
    assert_eq!(reporter.report_batch(&pages[..2]).unwrap(), 2);
    let marker = FaultRequest { prg_index: 9, addr: 0x5000, ..stop_marker(1, 1) };
    match reporter.report(marker) {
        Err(error @ ReportError::StopMarkerInGroup(_)) => {
            assert_eq!((error.errno(), error.into_inner()), (22, marker));
        }
        other => panic!("{other:?}"),
    }
    assert!(!has_marker(&reporter, 1, 1));
    // Groups of others do not stand in the way.
    mark(&reporter, 1, 2);
    mark(&reporter, 2, 1);
    let cookie = publish(&reporter, pages[2]);
    mark(&reporter, 1, 1);
    let (group, received) = receive(&mut responder);
    assert_eq!(received.iter().map(|page| page.addr).collect::<Vec<_>>(), [0, 1, 2]);
    group.respond(Success).unwrap();
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
    let counters = reporter.counters();
    assert_eq!((counters.refused, counters.stop_markers), (1, 3));
    // One that a group without a PASID is no part of.
    reporter.report(FaultRequest { pasid: None, last: false, ..page(1, 4) }).unwrap();
    mark(&reporter, 1, 0);
}

/// Requests for no access, and whether each is a Stop Marker; what is none is refused.
fn requests_for_no_access() -> impl Iterator<Item = (FaultRequest, bool)> {
    use PgFaultPerm as P;
    let reserved = [P::empty(), P::EXEC, P::PRIV, P::EXEC | P::PRIV];
    let unknown = [P::from_bits_retain(0x10), P::from_bits_retain(0x14)];
    let perms = reserved.into_iter().chain(unknown);
    perms.flat_map(move |perm| {
        // Without a PASID there is nothing that could be at its end, and a stall always has an access.
        let ways = [(true, Some(5), FaultModel::Pri), (true, None, FaultModel::Pri)]
            .into_iter()
            .chain([(false, Some(5), FaultModel::Pri), (false, None, FaultModel::Pri)])
            .chain([(true, Some(5), FaultModel::Stall), (true, None, FaultModel::Stall)]);
        ways.map(move |(last, pasid, model)| {
            let is_marker = last && pasid.is_some() && model == FaultModel::Pri && reserved.contains(&perm);
            (FaultRequest { pasid, perm, last, model, ..page(1, 3) }, is_marker)
        })
    })
}

fn marker_is_a_last_page_without_an_access_of_a_pasid(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    for (request, is_marker) in requests_for_no_access() {
        match reporter.report(request) {
            Ok(Reported::StopMarker) if is_marker => assert!(has_marker(&reporter, 1, 5), "{request:?}"),
            Err(ReportError::Permission(refused)) if !is_marker => assert_eq!(refused, request),
            other => panic!("{other:?}: {request:?}"),
        }
        assert!(!has_marker(&reporter, 1, 5));
    }
    assert!(is_empty(&mut responder));
}

#[test]
fn marker_is_the_same_to_a_router() {
    let router = FaultRouter::new(&Options::new(), |ended| panic!("{ended:?}")).unwrap();
    for (request, is_marker) in requests_for_no_access() {
        match router.report(request) {
            Ok(Routed::StopMarker) if is_marker => {
                router.wait_stop_marker(1, 5, Duration::ZERO).unwrap();
            }
            Err(ReportError::Permission(refused)) if !is_marker => assert_eq!(refused, request),
            other => panic!("{other:?}: {request:?}"),
        }
        router.wait_stop_marker(1, 5, Duration::ZERO).unwrap_err();
    }
}

fn latest_markers_are_kept(make: MakeAnyFault) {
    let (reporter, _responder) = make(&Options::new());
    mark(&reporter, 2, 99);
    for pasid in 0..20 {
        mark(&reporter, 1, pasid);
    }
    let kept: Vec<_> = (0..20).filter(|pasid| has_marker(&reporter, 1, *pasid)).collect();
    assert_eq!(kept, (12..20).collect::<Vec<_>>());
    assert!(has_marker(&reporter, 2, 99), "a flood of one device leaves another's");
    for dev_id in 0..100 {
        mark(&reporter, dev_id, 5);
    }
    let kept: Vec<_> = (0..100).filter(|dev_id| has_marker(&reporter, *dev_id, 5)).collect();
    assert_eq!(kept, (36..100).collect::<Vec<_>>());
}
