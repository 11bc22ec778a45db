//! Once its handles are attached, a router allocates nothing for a fault, whatever comes of it.

#[path = "common/allocation.rs"]
mod allocation;
mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use allocation::without;
use common::fault::*;
use common::router::{half, last_page};
use recordfd::fault::{FaultRouter, FaultSource, FaultWork, Options, ReportError, ResponseCode, Routed};
use recordfd::uapi::{PgFault, PgFaultPerm};

use ResponseCode::Success;

on_every_transport! {
    queue_allocates_nothing
}

const SOURCE: FaultSource = FaultSource::pasid(1, 5);
const DEPTH: u32 = 8;
const HOUR: Duration = Duration::from_secs(3600);

fn options() -> Options {
    Options::new().depth(DEPTH).per_device(4 * DEPTH).half_made(4).max_group(4).deadline(HOUR)
}

/// A router, and how often it has told.
fn router() -> (FaultRouter, Arc<AtomicU32>) {
    let told = Arc::new(AtomicU32::new(0));
    let respond = {
        let told = told.clone();
        move |_| {
            told.fetch_add(1, Ordering::SeqCst);
        }
    };
    (FaultRouter::new(&options(), respond).unwrap(), told)
}

/// Reports a group of `count` pages.
fn report(router: &FaultRouter, count: u32, routed: Routed) {
    without("report", || {
        (1..count).for_each(|_| assert!(matches!(router.report(half(1, Some(5))), Ok(Routed::HalfMade))));
        assert_eq!(router.report(last_page(1, Some(5))).unwrap(), routed);
    });
}

fn refused(router: &FaultRouter) {
    without("a refused report", || {
        assert!(matches!(router.report(last_page(1, Some(5))), Err(ReportError::Full(_))));
    });
}

fn looks(router: &FaultRouter) {
    without("the looks", || (router.counters(), router.next_deadline()));
}

fn queue_allocates_nothing(make: MakeFault) {
    let (router, told) = router();
    let (reporter, mut responder) = make(&options());
    let handle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    let mut pages = [PgFault::default(); 32];
    // Twice: the first use of anything may differ from the later ones.
    for _ in 0..2 {
        let before = told.load(Ordering::SeqCst);
        for count in [1, 4, 2] {
            report(&router, count, Routed::Delivered);
            let group = responder.try_recv_group(&mut pages).unwrap();
            group.respond(Success).unwrap();
            without("collect", || router.collect(&handle));
        }
        assert_eq!(told.load(Ordering::SeqCst), before + 3);
        (0..DEPTH).for_each(|_| report(&router, 1, Routed::Delivered));
        refused(&router);
        looks(&router);
        without("the looks", || (handle.counters(), handle.is_closed()));
        let next = without("process", || router.process(Instant::now()));
        assert!(next.is_some());
        without("process of what is late", || router.process(Instant::now() + 2 * HOUR));
        assert_eq!(told.load(Ordering::SeqCst), before + 3 + DEPTH);
        while let Ok(group) = responder.try_recv_group(&mut pages) {
            // Late.
            let _ = group.respond(Success);
        }
        without("process of late answers", || router.process(Instant::now()));
        assert_eq!(handle.counters().in_flight, 0);
    }
    report(&router, 2, Routed::Delivered);
    drop(responder);
    assert!(common::until(|| handle.is_closed()));
    report(&router, 2, Routed::HungUp);
    without("process of a hang-up", || router.process(Instant::now()));
}

#[test]
fn function_and_no_handle_allocate_nothing() {
    let (router, told) = router();
    for _ in 0..2 {
        report(&router, 3, Routed::NoHandle);
        let handle = router.inline(&options(), |_| Success).unwrap();
        router.attach(SOURCE, &handle.owning_pasid_table()).unwrap();
        router.attach(FaultSource::rid(1), &handle.owning_pasid_table()).unwrap();
        (1..=4).for_each(|count| report(&router, count, Routed::Delivered));
        without("a fault of another PASID", || router.report(last_page(1, Some(7)))).unwrap();
        let marker = recordfd::fault::FaultRequest { perm: PgFaultPerm::empty(), ..last_page(1, Some(5)) };
        without("a Stop Marker", || router.report(marker)).unwrap();
        without("wait_stop_marker", || router.wait_stop_marker(1, 5, Duration::ZERO)).unwrap();
        without("an unfinished group", || {
            router.report(half(1, Some(5))).unwrap();
            router.process(Instant::now() + 2 * HOUR);
        });
        looks(&router);
        assert_eq!(router.detach_device(1), Ok(2));
    }
    assert_eq!(told.load(Ordering::SeqCst), 14);
}

#[test]
fn executor_allocates_nothing() {
    let (router, told) = router();
    let kept = Arc::new(Mutex::new(Vec::<FaultWork>::with_capacity(DEPTH as usize)));
    let executor = {
        let kept = kept.clone();
        move |work| kept.lock().unwrap().push(work)
    };
    let handle = router.executor(&options(), executor).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    let take = || kept.lock().unwrap().remove(0);
    for _ in 0..2 {
        (1..=4).for_each(|count| report(&router, count, Routed::Delivered));
        (5..=DEPTH).for_each(|_| report(&router, 1, Routed::Delivered));
        refused(&router);
        without("respond", || (0..3).for_each(|_| take().respond(Success).unwrap()));
        without("a drop", || drop(take()));
        looks(&router);
        without("process of what is late", || router.process(Instant::now() + 2 * HOUR));
        without("a late answer", || {
            (5..=DEPTH).for_each(|_| assert!(take().respond(Success).is_err()));
        });
        assert_eq!(handle.counters().in_flight, 0);
    }
    assert_eq!(told.load(Ordering::SeqCst), 2 * DEPTH);
}

#[test]
fn work_that_is_never_in_time_allocates_nothing_however_often() {
    let (router, told) = router();
    let kept = Arc::new(Mutex::new(None::<FaultWork>));
    let executor = {
        let kept = kept.clone();
        move |work| *kept.lock().unwrap() = Some(work)
    };
    let handle = router.executor(&options(), executor).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    // More often than anything is deep.
    for _ in 0..10 * DEPTH {
        report(&router, 1, Routed::Delivered);
        without("process of what is late", || router.process(Instant::now() + 2 * HOUR));
        let late = kept.lock().unwrap().take().unwrap();
        without("a late answer", || late.respond(Success)).unwrap_err();
    }
    assert_eq!((told.load(Ordering::SeqCst), handle.counters().in_flight), (10 * DEPTH, 0));
}
