//! Functions and executors as handles: whatever they do, each group is told of once, and the router goes on.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::router::*;
use common::{SOON, fault::socket, soon};
use recordfd::fault::{
    Cause, FaultCompletion, FaultHandle, FaultRequest, FaultRouter, FaultSource, FaultWork, Options,
    ReportError, RespondError, ResponseCode, Routed,
};
use recordfd::uapi::PgFault;

use ResponseCode::{Invalid, Success};

const SOURCE: FaultSource = FaultSource::rid(1);
const HOUR: Duration = Duration::from_secs(3600);

fn delivered(router: &FaultRouter, dev_id: u32) {
    assert_eq!(router.report(last_page(dev_id, None)).unwrap(), Routed::Delivered);
}

#[test]
fn executor_that_panics_or_drops_the_work_answers_invalid() {
    let (router, told) = router();
    let handle = router
        .executor(&Options::new().depth(1), |work: FaultWork| match work.pages()[0].addr {
            0 => panic_silently(),
            1 => drop(work),
            2 => {
                work.respond(Success).unwrap();
                panic_silently()
            }
            _ => work.respond(Success).unwrap(),
        })
        .unwrap();
    router.attach(SOURCE, &handle).unwrap();
    for addr in [0, 1, 2, 3, 0, 3] {
        let request = FaultRequest { addr, ..last_page(1, None) };
        assert_eq!(router.report(request).unwrap(), Routed::Delivered);
    }
    let (dropped, answered) = ((Invalid, Cause::Dropped), (Success, Cause::Answered));
    let ended: Vec<_> = ends(&told).into_iter().map(|(.., code, cause)| (code, cause)).collect();
    assert_eq!(ended, [dropped, dropped, answered, answered, dropped, answered]);
    let counters = handle.counters();
    assert_eq!((counters.dropped, counters.answered, counters.in_flight), (3, 3, 0));
    assert_eq!(router.counters().panicked, 3);
}

#[test]
fn function_that_panics_answers_invalid() {
    let (router, told) = router();
    let handle = router.inline(&Options::new(), |_| panic_silently()).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    delivered(&router, 1);
    assert_eq!(ends(&told), [(1, None, Invalid, Cause::Dropped)]);
    assert_eq!((router.counters().panicked, handle.counters().dropped), (1, 1));
}

#[test]
fn work_is_answered_by_any_thread_in_any_order() {
    const GROUPS: usize = 200;
    let (router, told) = router();
    let (tx, work) = mpsc::channel::<FaultWork>();
    let options = Options::new().depth(GROUPS as u32).per_device(GROUPS as u32);
    let handle = router.executor(&options, move |work| tx.send(work).unwrap()).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    (0..GROUPS).for_each(|_| delivered(&router, 1));
    assert!(matches!(router.report(last_page(1, None)), Err(ReportError::Full(_))));
    let mut all: Vec<_> = work.try_iter().collect();
    let second = all.split_off(GROUPS / 2);
    let workers = [all, second].map(|works| {
        thread::spawn(move || works.into_iter().rev().for_each(|work| work.respond(Success).unwrap()))
    });
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(ends(&told), [(1, None, Success, Cause::Answered); GROUPS]);
    assert_eq!(handle.counters().in_flight, 0);
}

#[test]
fn late_work_keeps_its_place_until_it_is_answered() {
    let (router, told) = router();
    let kept = Kept::default();
    let options = Options::new().depth(2).per_device(2).deadline(HOUR);
    let handle = kept.handle(&router, &options);
    router.attach(SOURCE, &handle).unwrap();
    [1, 1].iter().for_each(|dev_id| delivered(&router, *dev_id));
    assert!(router.next_deadline().is_some_and(|due| due > Instant::now()));
    assert_eq!(router.process(Instant::now() + 2 * HOUR), None);
    assert_eq!(ends(&told), [(1, None, Invalid, Cause::Deadline); 2]);
    assert_eq!((handle.counters().unanswered, handle.counters().in_flight), (0, 2));
    assert_eq!(handle.counters().late_answers_pending, 2);
    let request = last_page(1, None);
    assert!(matches!(router.report(request), Err(ReportError::Full(back)) if back == request));
    assert!(matches!(kept.take().respond(Success), Err(RespondError::StaleCookie)));
    drop(kept.take());
    assert_eq!((handle.counters().late_answers, handle.counters().in_flight), (2, 0));
    assert_eq!(handle.counters().late_answers_pending, 0);
    delivered(&router, 1);
    kept.take().respond(Success).unwrap();
    assert_eq!(ends(&told), [(1, None, Success, Cause::Answered)]);
}

#[test]
fn work_outlives_its_attachment_and_its_router() {
    let (router, told) = router();
    let (tx, work) = mpsc::channel::<FaultWork>();
    let handle = router.executor(&Options::new(), move |work| tx.send(work).unwrap()).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    delivered(&router, 1);
    router.detach(SOURCE).unwrap();
    assert_eq!(ends(&told), [(1, None, Invalid, Cause::Detached)]);
    router.attach(SOURCE, &handle).unwrap();
    delivered(&router, 1);
    drop((router, handle));
    let [late, orphan] = [(); 2].map(|()| work.recv().unwrap());
    assert_eq!(late.pages().len(), 1);
    assert!(matches!(late.respond(Success), Err(RespondError::StaleCookie)));
    let _ = orphan.respond(Success);
    assert!(told.recv().is_err(), "nobody is told, and nobody can be");
    assert!(work.recv().is_err(), "the executor is gone with them");
}

#[test]
fn work_of_a_full_handle_is_refused_and_a_repeated_last_page_completes_the_whole_group() {
    let (router, told) = router();
    let kept = Kept::default();
    let handle = kept.handle(&router, &Options::new().depth(3).per_device(2));
    router.attach(SOURCE, &handle).unwrap();
    router.attach(FaultSource::rid(2), &handle).unwrap();
    router.attach(FaultSource::rid(3), &handle).unwrap();
    let group = |dev_id, errors: &mut Vec<ReportError>| {
        let pages = [1, 2].map(|addr| FaultRequest { addr, prg_index: 4, ..half(dev_id, None) });
        pages.iter().for_each(|page| assert_eq!(router.report(*page).unwrap(), Routed::HalfMade));
        let last = FaultRequest { last: true, addr: 3, ..pages[0] };
        for _ in 0..3 {
            let error = router.report(last).unwrap_err();
            errors.push(error);
        }
        last
    };
    [1, 1].iter().for_each(|dev_id| delivered(&router, *dev_id));
    let mut errors = Vec::new();
    let of_device = group(1, &mut errors);
    assert!(
        errors.drain(..).all(|error| matches!(error, ReportError::DeviceFull(back) if back == of_device))
    );
    delivered(&router, 2);
    let of_all = group(3, &mut errors);
    assert!(errors.drain(..).all(|error| matches!(error, ReportError::Full(back) if back == of_all)));
    assert_eq!(router.counters().half_made, 2);
    while kept.len() > 0 {
        kept.take().respond(Success).unwrap();
    }
    for last in [of_device, of_all] {
        assert_eq!(router.report(last).unwrap(), Routed::Delivered);
        let work = kept.take();
        assert_eq!(work.pages().iter().map(|page| page.addr).collect::<Vec<_>>(), [1, 2, 3]);
        work.respond(Success).unwrap();
    }
    assert_eq!((ends(&told).len(), router.counters().half_made), (5, 0));
}

#[test]
fn group_has_no_more_pages_than_its_router_and_its_handle_take() {
    let (router, told) = router_with(&Options::new().max_group(u32::MAX).half_made(2));
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let handle = |most| {
        let sizes = sizes.clone();
        let options = Options::new().max_group(most).depth(4);
        let function = move |pages: &[PgFault]| {
            sizes.lock().unwrap().push(pages.len());
            Success
        };
        router.inline(&options, function).unwrap()
    };
    router.attach(FaultSource::rid(1), &handle(3)).unwrap();
    // As many as one write holds, whatever the options say.
    router.attach(FaultSource::rid(2), &handle(u32::MAX)).unwrap();
    let report = |dev_id, count: usize| {
        for _ in 1..count {
            match router.report(half(dev_id, None)) {
                Ok(routed) => assert_eq!(routed, Routed::HalfMade),
                Err(error) => assert!(matches!(error, ReportError::TooLarge(_)), "{error}"),
            }
        }
        router.report(last_page(dev_id, None))
    };
    for (dev_id, count, fits) in [(1, 3, true), (1, 4, false), (1, 1, true), (2, 409, true), (2, 410, false)]
    {
        match report(dev_id, count) {
            Ok(routed) => assert!(fits && routed == Routed::Delivered),
            Err(error) => assert!(!fits && matches!(error, ReportError::TooLarge(_)), "{error}"),
        }
        assert_eq!(router.counters().half_made, 0, "forgotten with its last page");
    }
    assert_eq!(*sizes.lock().unwrap(), [3, 1, 409]);
    // There is nobody to whom it could be too large.
    assert_eq!(report(3, 300).unwrap(), Routed::NoHandle);
    assert_eq!(ends(&told).len(), 4);
}

/// A router whose `respond` panics when a device of `fatal` or above is told; and what was told in spite of it.
fn panicking_router(fatal: u32) -> (FaultRouter, mpsc::Receiver<FaultCompletion>) {
    let (tx, told) = mpsc::channel();
    let respond = move |ended: FaultCompletion| {
        tx.send(ended).unwrap();
        if ended.dev_id >= fatal {
            panic_silently();
        }
    };
    (FaultRouter::new(&Options::new(), respond).unwrap(), told)
}

fn panics<T>(call: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_err()
}

#[test]
fn panic_of_respond_goes_on_in_the_call_that_told_it() {
    let (router, told) = panicking_router(2);
    let inline = success(&router);
    let kept = Kept::default();
    let executor = kept.handle(&router, &Options::new());
    let source = FaultSource::rid(2);
    assert!(panics(|| router.report(last_page(2, None))), "nobody is attached");
    router.attach(source, &inline).unwrap();
    assert!(panics(|| router.report(last_page(2, None))), "through the function");
    router.replace(source, &executor).unwrap();
    delivered(&router, 2);
    assert!(panics(|| kept.take().respond(Success)));
    delivered(&router, 2);
    assert!(panics(|| drop(kept.take())));
    delivered(&router, 2);
    assert!(panics(|| router.replace(source, &inline).unwrap()));
    assert_eq!(ends(&told).len(), 5);
    assert_eq!(router.counters().panicked, 0, "no executor has");
    // It has taken place.
    assert_eq!(executor.counters().unanswered, 0);
    let answered = inline.counters().answered;
    assert!(panics(|| router.report(last_page(2, None))));
    assert_eq!(inline.counters().answered, answered + 1);
    router.detach(source).unwrap();
    router.attach(source, &executor).unwrap();
    delivered(&router, 2);
    assert!(panics(|| router.detach(source).unwrap()));
    assert!(router.detach(source).is_err());
    assert_eq!(router.attach(source, &inline), Ok(()));
}

#[test]
fn everything_else_is_told_before_a_panic_of_respond_goes_on() {
    let (router, told) = panicking_router(1);
    let (handles, mut responders): (Vec<_>, Vec<_>) = (1..=3)
        .map(|dev_id| {
            let (reporter, responder) = socket(&Options::new());
            let handle = router.queue(reporter).unwrap();
            router.attach(FaultSource::rid(dev_id), &handle).unwrap();
            (handle, responder)
        })
        .unzip();
    let kept = Kept::default();
    let work = kept.handle(&router, &Options::new().deadline(HOUR));
    router.attach(FaultSource::pasid(1, 1), &work).unwrap();
    router.report(last_page(1, Some(1))).unwrap();
    [4, 5]
        .iter()
        .for_each(|dev_id| assert_eq!(router.report(half(*dev_id, None)).unwrap(), Routed::HalfMade));
    for (dev_id, responder) in (1..).zip(&mut responders) {
        for _ in 0..20 {
            delivered(&router, dev_id);
            responder.try_recv_group(&mut [PgFault::default(); 8]).unwrap().respond(Success).unwrap();
        }
        delivered(&router, dev_id);
    }
    assert!(panics(|| router.process(Instant::now() + 2 * HOUR)));
    let ended = ends(&told);
    let of = |cause| ended.iter().filter(|end| end.3 == cause).count();
    assert_eq!((of(Cause::Unfinished), of(Cause::Answered), of(Cause::Deadline)), (2, 60, 1));
    router.attach(FaultSource::pasid(1, 2), &handles[2]).unwrap();
    router.report(last_page(1, Some(2))).unwrap();
    let counters = soon(move || {
        assert!(panics(|| router.detach_device(1)));
        assert_eq!(router.detach_device(1), Ok(0), "all of it is gone");
        router.counters()
    });
    assert_eq!(ends(&told).len(), 2);
    assert_eq!((counters.panicked, counters.unfinished), (0, 2));
    assert!(handles.iter().zip([0, 1, 1]).all(|(handle, open)| handle.counters().unanswered == open));
}

#[test]
fn panic_of_respond_in_a_panic_of_an_executor_ends_nothing() {
    let (router, told) = panicking_router(1);
    let handle = router.executor(&Options::new(), |_: FaultWork| panic_silently()).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    delivered(&router, 1);
    assert_eq!(ends(&told), [(1, None, Invalid, Cause::Dropped)]);
    assert_eq!(router.counters().panicked, 1);
}

#[test]
fn function_and_respond_can_report_further_faults() {
    let me = Arc::new(OnceLock::<FaultRouter>::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let respond = {
        let (me, told) = (me.clone(), told.clone());
        move |ended: FaultCompletion| {
            told.lock().unwrap().push(ended.dev_id);
            if ended.dev_id % 2 == 1 && ended.dev_id < 9 {
                delivered(me.get().unwrap(), ended.dev_id + 1);
            }
        }
    };
    let router = FaultRouter::new(&Options::new(), respond).unwrap();
    me.set(router.clone()).unwrap();
    let function = {
        let me = me.clone();
        move |pages: &[PgFault]| {
            if pages[0].dev_id % 2 == 0 {
                delivered(me.get().unwrap(), pages[0].dev_id + 1);
            }
            Success
        }
    };
    let handle = router.inline(&Options::new(), function).unwrap();
    (1..=9).for_each(|dev_id| router.attach(FaultSource::rid(dev_id), &handle).unwrap());
    soon(move || delivered(&router, 1));
    let mut told = told.lock().unwrap().clone();
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(handle.counters().in_flight, 0);
}

#[test]
fn detach_waits_for_respond_in_another_thread_and_for_no_executor() {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    static LEFT: AtomicBool = AtomicBool::new(false);
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let respond = move |ended: FaultCompletion| {
        if ended.cause == Cause::Answered {
            ENTERED.store(true, Ordering::SeqCst);
            gone.lock().unwrap().recv_timeout(SOON).unwrap();
            thread::sleep(Duration::from_millis(30));
            LEFT.store(true, Ordering::SeqCst);
        }
    };
    let router = FaultRouter::new(&Options::new(), respond).unwrap();
    let kept = Kept::default();
    let handle = kept.handle(&router, &Options::new());
    router.attach(SOURCE, &handle).unwrap();
    [1, 1].iter().for_each(|dev_id| delivered(&router, *dev_id));
    let work = kept.take();
    let answering = thread::spawn(move || work.respond(Success).unwrap());
    assert!(common::until(|| ENTERED.load(Ordering::SeqCst)));
    let detaching = thread::spawn(move || {
        router.detach(SOURCE).unwrap();
        assert!(LEFT.load(Ordering::SeqCst), "it is told of still");
    });
    thread::sleep(Duration::from_millis(30));
    assert!(!detaching.is_finished());
    go.send(()).unwrap();
    soon(move || detaching.join().unwrap());
    answering.join().unwrap();
    assert_eq!((handle.counters().answered, handle.counters().detached), (1, 1));
}

#[test]
fn device_that_faults_again_at_once_keeps_no_call_for_ever() {
    // Each answer brings the next fault, and the responder answers before the router looks again.
    let me = Arc::new(OnceLock::<(FaultRouter, Mutex<recordfd::fault::FaultResponder>)>::new());
    let told = Arc::new(AtomicU32::new(0));
    let respond = {
        let (me, told) = (me.clone(), told.clone());
        move |ended: FaultCompletion| {
            if ended.cause != Cause::Answered || told.fetch_add(1, Ordering::SeqCst) >= 1000 {
                return;
            }
            let (router, responder) = me.get().unwrap();
            delivered(router, 1);
            let mut responder = responder.lock().unwrap();
            responder.try_recv_group(&mut [PgFault::default(); 8]).unwrap().respond(Success).unwrap();
        }
    };
    let router = FaultRouter::new(&Options::new(), respond).unwrap();
    let (reporter, responder) = socket(&Options::new().depth(8));
    let handle: FaultHandle = router.queue(reporter).unwrap();
    router.attach(SOURCE, &handle).unwrap();
    me.set((router.clone(), Mutex::new(responder))).unwrap();
    delivered(&router, 1);
    me.get()
        .unwrap()
        .1
        .lock()
        .unwrap()
        .try_recv_group(&mut [PgFault::default(); 8])
        .unwrap()
        .respond(Success)
        .unwrap();
    router.process(Instant::now());
    assert!((1..=32).contains(&told.load(Ordering::SeqCst)), "{told:?}");
    assert!(common::readable(handle.descriptor().unwrap()), "it tells of the rest");
}
