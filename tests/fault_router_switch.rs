//! Attaching, replacing and detaching: what is refused leaves everything as it was, and what is not goes wholly to
//! one side.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use common::router::*;
use common::soon;
use recordfd::fault::{
    AttachError, Cause, FaultRequest, FaultRouter, FaultSource, Options, ReportError, ResponseCode, Routed,
    SwitchError,
};
use recordfd::uapi::PgFaultPerm;

use AttachError::*;
use ResponseCode::{Invalid, Success};

const SOURCE: FaultSource = FaultSource::pasid(1, 5);

#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let (router, told) = router();
    let (other_router, _) = common::router::router();
    let kept = Kept::default();
    let (first, second) = (success(&router), kept.handle(&router, &Options::new()));
    let foreign = success(&other_router);

    assert_eq!(router.replace(SOURCE, &first), Err(NotAttached));
    assert_eq!(router.detach(SOURCE), Err(NotAttached));
    assert_eq!(router.detach_device(1), Ok(0));
    assert_eq!(router.attach(SOURCE, &foreign), Err(Foreign));
    router.attach(SOURCE, &first).unwrap();
    assert_eq!(router.attach(SOURCE, &first), Err(AlreadyAttached));
    assert_eq!(router.attach(SOURCE, &second), Err(AlreadyAttached));
    assert_eq!(router.replace(SOURCE, &foreign), Err(Foreign));
    let never = || -> Result<(), ()> { unreachable!("nothing was set aside") };
    for switched in [router.attach_with(SOURCE, &second, never), router.attach_with(SOURCE, &foreign, never)]
    {
        assert!(matches!(switched, Err(SwitchError::Attach(AlreadyAttached | Foreign))));
    }
    let absent = FaultSource::rid(1);
    assert_eq!(router.replace_with(absent, &second, never), Err(SwitchError::Attach(NotAttached)));
    assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::Delivered);
    assert_eq!(ends(&told), [(1, Some(5), Success, Cause::Answered)]);
    let errors = [AlreadyAttached, NotAttached, Busy, Foreign, Pasid, WithinRespond];
    let errnos = [libc::EEXIST, libc::ENOENT, libc::EBUSY, libc::EINVAL, libc::EINVAL, libc::EDEADLK];
    assert_eq!(errors.map(|error| error.errno()), errnos);
}

#[test]
fn pasid_of_more_than_20_bits_is_no_source_and_nobody_elses() {
    let (router, told) = router();
    let handle = success(&router);
    // What a PASID of 32 bits would come out as if its upper bits were taken for the device's.
    let victims = [FaultSource::pasid(1, 0), FaultSource::rid(1), FaultSource::pasid(0, 0)];
    victims.iter().for_each(|victim| router.attach(*victim, &handle).unwrap());
    for pasid in [1 << 20, 1 << 31, u32::MAX] {
        for dev_id in [0, 1] {
            let source = FaultSource::pasid(dev_id, pasid);
            assert_eq!(router.attach(source, &handle), Err(Pasid));
            assert_eq!(router.replace(source, &handle), Err(Pasid));
            assert_eq!(router.detach(source), Err(Pasid));
            let request = last_page(dev_id, Some(pasid));
            assert!(matches!(router.report(request), Err(ReportError::Pasid(back)) if back == request));
        }
    }
    assert!(ends(&told).is_empty());
    assert_eq!(victims.map(|victim| router.detach(victim)), [Ok(()); 3]);
    router.attach(FaultSource::pasid(u32::MAX, (1 << 20) - 1), &handle).unwrap();
    assert_eq!(router.report(last_page(u32::MAX, Some((1 << 20) - 1))).unwrap(), Routed::Delivered);
    assert_eq!(router.detach_device(u32::MAX), Ok(1));
}

#[test]
fn source_is_busy_while_it_is_switched_and_its_faults_go_on() {
    let (router, told) = router();
    let [first, second] = [(); 2].map(|()| success(&router));
    let neighbour = FaultSource::rid(1);
    let busy = || {
        assert_eq!(router.attach(SOURCE, &first), Err(Busy));
        assert_eq!(router.replace(SOURCE, &first), Err(Busy));
        assert_eq!(router.detach(SOURCE), Err(Busy));
        assert_eq!(router.attach_with(SOURCE, &first, || Ok::<_, ()>(())), Err(Busy.into()));
    };
    let attached = router.attach_with(SOURCE, &first, || {
        busy();
        assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::NoHandle);
        // Another source is not.
        router.attach(neighbour, &second)
    });
    assert_eq!(attached, Ok(()));
    let replaced = router.replace_with(SOURCE, &second, || {
        busy();
        assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::Delivered);
        assert_eq!((first.counters().answered, second.counters().answered), (1, 0));
        assert_eq!(router.detach_device(1), Err(Busy));
        Ok::<_, ()>(())
    });
    assert_eq!(replaced, Ok(()));
    assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::Delivered);
    assert_eq!((first.counters().answered, second.counters().answered), (1, 1));
    let ended: Vec<_> = ends(&told).into_iter().map(|(.., cause)| cause).collect();
    assert_eq!(ended, [Cause::NoHandle, Cause::Answered, Cause::Answered]);
}

#[test]
fn thousands_of_switches_that_come_to_nothing_leave_nothing_behind() {
    const ROUNDS: usize = 5000;
    let (router, told) = router();
    let [old, new] = [(); 2].map(|()| router.inline(&Options::new().depth(2), |_| Success).unwrap());
    // A failure or a panic of the caller's part, of an attach or of a replace.
    let fail = |router: &FaultRouter, replaces, panics| {
        let set = || if panics { panic_silently() } else { Err("failed") };
        let switch = || match replaces {
            false => router.attach_with(SOURCE, &new, set),
            true => router.replace_with(SOURCE, &new, set),
        };
        match catch_unwind(AssertUnwindSafe(switch)) {
            Ok(outcome) => assert_eq!(outcome, Err(SwitchError::Switch("failed"))),
            Err(_) => assert!(panics),
        }
    };
    let round = |number: usize| {
        fail(&router, false, number % 2 == 0);
        assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::NoHandle);
        router.attach(SOURCE, &old).unwrap();
        fail(&router, true, number % 2 == 0);
        assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::Delivered, "to the old one");
        router.replace(SOURCE, &old).unwrap();
        router.detach(SOURCE).unwrap();
        assert_eq!(router.detach(SOURCE), Err(NotAttached));
        assert_eq!(ends(&told).len(), 2);
    };
    round(0);
    // What it keeps by number, too, is in this.
    let size = format!("{router:?}").len();
    (1..ROUNDS).for_each(round);
    assert!(format!("{router:?}").len() <= size, "{router:?}");
    assert_eq!((old.counters().answered, new.counters().answered), (ROUNDS as u64, 0));
    assert_eq!((router.counters().no_handle, router.counters().panicked), (ROUNDS as u64, 0));
    assert_eq!((old.counters().in_flight, router.counters().half_made), (0, 0));
}

#[test]
fn detaching_one_source_completes_only_its_groups() {
    let (router, told) = router();
    let kept = Kept::default();
    let handle = kept.handle(&router, &Options::new());
    let sources =
        [FaultSource::rid(1), FaultSource::pasid(1, 1), FaultSource::pasid(1, 2), FaultSource::rid(2)];
    sources.iter().for_each(|source| router.attach(*source, &handle).unwrap());
    let report = || {
        for request in [last_page(1, None), last_page(1, Some(1)), last_page(1, Some(2)), last_page(2, None)]
        {
            assert_eq!(router.report(request).unwrap(), Routed::Delivered);
        }
    };
    report();
    report();
    router.detach(sources[1]).unwrap();
    assert_eq!(ends(&told), [(1, Some(1), Invalid, Cause::Detached); 2]);
    // By itself: to the handle it is another attachment.
    router.replace(sources[3], &handle).unwrap();
    assert_eq!(ends(&told), [(2, None, Invalid, Cause::Detached); 2]);
    assert_eq!(handle.counters().unanswered, 4);
    assert_eq!(router.detach_device(1), Ok(2));
    assert_eq!(ends(&told).len(), 4);
    assert_eq!((handle.counters().unanswered, handle.counters().in_flight), (0, 8), "it holds the work");
    while kept.len() > 0 {
        assert!(kept.take().respond(Success).is_err(), "late");
    }
    assert_eq!((handle.counters().in_flight, handle.counters().late_answers), (0, 8));
    assert!(ends(&told).is_empty());
    assert_eq!(router.report(last_page(2, None)).unwrap(), Routed::Delivered);
    kept.take().respond(Success).unwrap();
    assert_eq!(ends(&told), [(2, None, Success, Cause::Answered)]);
}

#[test]
fn half_made_group_goes_to_who_is_attached_at_its_last_page() {
    let (router, told) = router();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let [first, second] = ["first", "second"].map(|name| {
        let seen = seen.clone();
        let options = Options::new();
        router
            .inline(&options, move |pages| {
                seen.lock().unwrap().push((name, pages.iter().map(|page| page.addr).collect::<Vec<_>>()));
                Success
            })
            .unwrap()
    });
    let page = |addr, last| FaultRequest { addr, last, ..half(1, Some(5)) };
    // Begun with nobody attached.
    assert_eq!(router.report(page(1, false)).unwrap(), Routed::HalfMade);
    router.attach(SOURCE, &first).unwrap();
    assert_eq!(router.report(page(2, true)).unwrap(), Routed::Delivered);
    router.report(page(3, false)).unwrap();
    router.replace(SOURCE, &second).unwrap();
    router.report(page(4, false)).unwrap();
    assert_eq!(router.report(page(5, true)).unwrap(), Routed::Delivered);
    assert_eq!(*seen.lock().unwrap(), [("first", vec![1, 2]), ("second", vec![3, 4, 5])]);
    router.report(page(6, false)).unwrap();
    router.detach(SOURCE).unwrap();
    assert_eq!(router.counters().half_made, 1, "a PASID that is detached may be attached again");
    assert_eq!(router.report(page(7, true)).unwrap(), Routed::NoHandle);
    assert_eq!(router.counters().half_made, 0);
    let causes: Vec<_> = ends(&told).into_iter().map(|(.., cause)| cause).collect();
    assert_eq!(causes, [Cause::Answered, Cause::Answered, Cause::NoHandle]);
}

#[test]
fn device_that_is_detached_is_forgotten_with_all_it_has() {
    let (router, told) = router();
    let handle = success(&router).owning_pasid_table();
    for source in
        [FaultSource::rid(1), FaultSource::pasid(1, 0), FaultSource::pasid(1, 7), FaultSource::rid(2)]
    {
        router.attach(source, &handle).unwrap();
    }
    router.report(half(1, Some(7))).unwrap();
    router.report(half(2, Some(7))).unwrap();
    let marker = |dev_id| FaultRequest { perm: PgFaultPerm::empty(), ..last_page(dev_id, Some(9)) };
    assert_eq!([1, 2].map(|dev_id| router.report(marker(dev_id)).unwrap()), [Routed::StopMarker; 2]);
    assert_eq!(router.detach_device(1), Ok(3));
    assert_eq!((router.counters().half_made, router.counters().discarded), (1, 1));
    assert!(router.wait_stop_marker(1, 9, Duration::ZERO).is_err());
    assert!(router.wait_stop_marker(2, 9, Duration::ZERO).is_ok());
    for pasid in [None, Some(0), Some(7), Some(8)] {
        assert_eq!(router.report(last_page(1, pasid)).unwrap(), Routed::NoHandle);
        assert_eq!(router.report(last_page(2, pasid)).unwrap(), Routed::Delivered);
    }
    assert_eq!(ends(&told).len(), 8);
}

#[test]
fn device_with_a_busy_source_is_not_detached_at_all() {
    let (router, told) = router();
    let (kept, other) = (Kept::default(), success(&router));
    let handle = kept.handle(&router, &Options::new());
    let sources = [FaultSource::rid(1), SOURCE, FaultSource::pasid(1, 6)];
    sources.iter().for_each(|source| router.attach(*source, &handle).unwrap());
    let pasids = [None, Some(5), Some(6)];
    let half_made = FaultRequest { last: false, prg_index: 9, ..last_page(1, None) };
    assert_eq!(router.report(half_made).unwrap(), Routed::HalfMade);
    // Of a PASID that nothing else is reported of: a page of the same one would discard it.
    let report_stop_marker = || {
        let stop = FaultRequest { perm: PgFaultPerm::empty(), ..last_page(1, Some(9)) };
        assert_eq!(router.report(stop).unwrap(), Routed::StopMarker);
    };
    report_stop_marker();

    // One of its sources is switched meanwhile: each in turn is replaced, then one is attached anew.
    let is_as_it_was = || {
        assert_eq!(router.detach_device(1), Err(Busy));
        assert!(ends(&told).is_empty(), "no group is completed");
        for pasid in pasids {
            assert_eq!(router.report(last_page(1, pasid)).unwrap(), Routed::Delivered);
        }
        assert_eq!((router.counters().half_made, router.counters().discarded), (1, 0));
        router.wait_stop_marker(1, 9, Duration::ZERO).expect("the Stop Marker is kept");
        report_stop_marker();
        Err("after all not")
    };
    for source in sources {
        let switched = router.replace_with(source, &other, is_as_it_was);
        assert_eq!(switched, Err(SwitchError::Switch("after all not")));
    }
    let switched = router.attach_with(FaultSource::pasid(1, 7), &other, is_as_it_was);
    assert_eq!(switched, Err(SwitchError::Switch("after all not")));
    // Another device's is none of it.
    assert_eq!(router.attach_with(FaultSource::rid(2), &other, || router.detach_device(1).map(drop)), Ok(()));
    assert_eq!(ends(&told).len(), 12);
    assert_eq!(router.counters().half_made, 0);
    assert_eq!(router.wait_stop_marker(1, 9, Duration::ZERO).unwrap_err().errno(), libc::ETIMEDOUT);
    pasids.iter().for_each(|pasid| {
        assert_eq!(router.report(last_page(1, *pasid)).unwrap(), Routed::NoHandle);
    });
}

#[test]
fn every_attach_is_counted_by_one_detach_of_its_device() {
    const ROUNDS: u32 = 2000;
    let (router, _told) = router();
    let handle = success(&router);
    let is_over = AtomicBool::new(false);
    let (mut attached, mut detached) = (0, 0);
    thread::scope(|scope| {
        let attaching = scope.spawn(|| {
            let mut attached = 0;
            for round in 0..ROUNDS {
                for source in [FaultSource::rid(1), FaultSource::pasid(1, round % 3)] {
                    // Some are slow, and keep their source busy.
                    let set = || {
                        (0..round % 50).for_each(|_| thread::yield_now());
                        Ok::<_, ()>(())
                    };
                    attached += usize::from(router.attach_with(source, &handle, set).is_ok());
                    let _ = router.replace_with(source, &handle, set);
                }
            }
            is_over.store(true, Ordering::Relaxed);
            attached
        });
        while !is_over.load(Ordering::Relaxed) {
            detached += router.detach_device(1).unwrap_or(0);
        }
        attached = attaching.join().unwrap();
    });
    detached += router.detach_device(1).unwrap();
    assert_eq!(detached, attached);
}

#[test]
fn pasid_with_a_handle_of_its_own_is_not_the_owners_of_the_table() {
    let (router, _told) = router();
    let [owner, own] = [(); 2].map(|()| success(&router));
    router.attach(FaultSource::rid(1), &owner.owning_pasid_table()).unwrap();
    let report = || router.report(last_page(1, Some(3))).unwrap();
    let answered = || (owner.counters().answered, own.counters().answered);
    assert_eq!((report(), answered()), (Routed::Delivered, (1, 0)));
    router.attach(FaultSource::pasid(1, 3), &own).unwrap();
    assert_eq!((report(), answered()), (Routed::Delivered, (1, 1)));
    router.detach(FaultSource::pasid(1, 3)).unwrap();
    assert_eq!((report(), answered()), (Routed::Delivered, (2, 1)));
    // Who owns the table is the attachment's matter, not the handle's.
    router.replace(FaultSource::rid(1), &owner).unwrap();
    assert_eq!((report(), answered()), (Routed::NoHandle, (2, 1)));
    router.attach(FaultSource::pasid(1, 3), &own.owning_pasid_table()).unwrap();
    let other = router.report(last_page(1, Some(4))).unwrap();
    assert_eq!((other, report(), answered()), (Routed::NoHandle, Routed::Delivered, (2, 2)));
}

#[test]
fn respond_cannot_detach_but_attach_and_report() {
    let (outer, _) = router();
    let outer_handle = success(&outer);
    outer.attach(SOURCE, &outer_handle).unwrap();
    let me = Arc::new(OnceLock::<FaultRouter>::new());
    let log = Arc::new(Mutex::new(Vec::new()));
    let respond = {
        let (me, log) = (me.clone(), log.clone());
        move |ended: recordfd::fault::FaultCompletion| {
            let router = me.get().unwrap();
            log.lock().unwrap().push((ended.dev_id, ended.code));
            if ended.dev_id < 4 {
                let handle = success(router);
                let next = FaultSource::rid(ended.dev_id + 1);
                router.attach(next, &handle).unwrap();
                assert_eq!(router.replace(next, &handle), Err(WithinRespond));
                assert_eq!(router.detach(next), Err(WithinRespond));
                assert_eq!(router.detach_device(1), Err(WithinRespond));
                assert_eq!(outer.detach(SOURCE), Err(WithinRespond), "nor another router's");
                assert_eq!(router.report(last_page(next.dev_id(), None)).unwrap(), Routed::Delivered);
            }
        }
    };
    let router = FaultRouter::new(&Options::new(), respond).unwrap();
    me.set(router.clone()).unwrap();
    assert_eq!(router.report(last_page(1, None)).unwrap(), Routed::NoHandle);
    assert_eq!(*log.lock().unwrap(), [(1, Invalid), (2, Success), (3, Success), (4, Success)]);
    assert_eq!(router.detach_device(2), Ok(1), "it is within it no more");
}

#[test]
fn function_can_switch_its_own_source_and_report() {
    let (router, told) = router();
    let second = success(&router);
    let weak = Arc::new(OnceLock::<FaultRouter>::new());
    let first = {
        let (weak, second) = (weak.clone(), second.clone());
        let function = move |pages: &[recordfd::uapi::PgFault]| {
            let router = weak.get().unwrap();
            match pages[0].addr {
                0 => router.detach(SOURCE).unwrap(),
                1 => router.replace(SOURCE, &second).unwrap(),
                2 => assert_eq!(router.detach_device(1), Ok(1)),
                _ => {
                    router.replace(SOURCE, &second).unwrap();
                    assert_eq!(router.report(last_page(1, Some(5))).unwrap(), Routed::Delivered);
                }
            }
            Success
        };
        router.inline(&Options::new(), function).unwrap()
    };
    weak.set(router.clone()).unwrap();
    let first_counters = soon(move || {
        for addr in 0..4 {
            router.attach(SOURCE, &first).unwrap();
            let request = FaultRequest { addr, ..last_page(1, Some(5)) };
            assert_eq!(router.report(request).unwrap(), Routed::Delivered);
            let _ = router.detach(SOURCE);
        }
        first.counters()
    });
    let late = (1, Some(5), Invalid, Cause::Detached);
    assert_eq!(ends(&told), [late, late, late, late, (1, Some(5), Success, Cause::Answered)]);
    assert_eq!((first_counters.detached, first_counters.late_answers, first_counters.in_flight), (4, 4, 0));
    assert_eq!(second.counters().answered, 1);
}

#[test]
fn two_routers_know_nothing_of_each_other() {
    let [(one, told_of_one), (two, told_of_two)] = [(); 2].map(|()| router());
    let kept = [(); 2].map(|()| Kept::default());
    let handles = [kept[0].handle(&one, &Options::new()), kept[1].handle(&two, &Options::new())];
    one.attach(SOURCE, &handles[0]).unwrap();
    two.attach(SOURCE, &handles[1]).unwrap();
    for router in [&one, &two] {
        router.report(last_page(1, Some(5))).unwrap();
    }
    one.detach(SOURCE).unwrap();
    assert_eq!(ends(&told_of_one), [(1, Some(5), Invalid, Cause::Detached)]);
    assert!(ends(&told_of_two).is_empty());
    kept[1].take().respond(Success).unwrap();
    assert_eq!(ends(&told_of_two), [(1, Some(5), Success, Cause::Answered)]);
    assert!(kept[0].take().respond(Success).is_err());
    assert!(ends(&told_of_one).is_empty());
}

#[test]
fn answers_of_a_foreign_queue_are_left_to_its_router() {
    let [(one, told_of_one), (two, told_of_two)] = [(); 2].map(|()| router());
    let (reporter, mut responder) = common::fault::socket(&Options::new());
    let queue = one.queue(reporter).unwrap();
    one.attach(SOURCE, &queue).unwrap();
    two.attach(SOURCE, &success(&two)).unwrap();
    one.report(last_page(1, Some(5))).unwrap();
    responder.try_recv_group(&mut [Default::default(); 8]).unwrap().respond(Success).unwrap();
    two.collect(&queue);
    assert!(ends(&told_of_two).is_empty());
    one.collect(&queue);
    assert_eq!(ends(&told_of_one), [(1, Some(5), Success, Cause::Answered)]);
    soon(move || [one, two].map(|router| router.detach(SOURCE).unwrap()));
}
