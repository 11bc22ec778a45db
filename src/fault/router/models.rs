//! Models of what races with a handle being attached, replaced or detached.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use recordfd_uapi::PgFaultPerm;

use super::*;

/// What the device was told.
#[derive(Default)]
struct Told {
    times: AtomicU32,
    detached: AtomicBool,
}

impl Told {
    fn note(&self, ended: FaultCompletion) {
        let of_handle = !matches!(ended.cause, Cause::NoHandle);
        assert!(!of_handle || !self.detached.load(Ordering::SeqCst), "told behind the detach");
        self.times.fetch_add(1, Ordering::SeqCst);
    }
}

const SOURCE: FaultSource = FaultSource::rid(1);

fn options() -> Options {
    Options::new().depth(2).half_made(1).max_group(1)
}

fn router() -> (FaultRouter, Arc<Told>) {
    let told = Arc::new(Told::default());
    let respond = {
        let told = told.clone();
        move |ended| told.note(ended)
    };
    (FaultRouter::new(&options(), respond).unwrap(), told)
}

fn request() -> FaultRequest {
    FaultRequest { dev_id: 1, perm: PgFaultPerm::READ, last: true, ..FaultRequest::default() }
}

#[test]
fn nothing_is_told_behind_the_detach_and_everything_once() {
    loom::model(|| {
        let (router, told) = router();
        let handle = router.inline(&options(), |_| ResponseCode::Success).unwrap();
        router.attach(SOURCE, &handle).unwrap();
        let reporter = router.clone();
        let thread = thread::spawn(move || reporter.report(request()).unwrap());
        router.detach(SOURCE).unwrap();
        told.detached.store(true, Ordering::SeqCst);
        thread.join().unwrap();
        assert_eq!(told.times.load(Ordering::SeqCst), 1, "each group is told of once");
        assert_eq!(handle.counters().in_flight, 0);
    });
}

#[test]
fn answer_of_an_executor_races_with_the_detach() {
    loom::model(|| {
        let (router, told) = router();
        let work = Arc::new(Mutex::new(None));
        let executor = {
            let work = work.clone();
            move |given| *work.lock().unwrap() = Some(given)
        };
        let handle = router.executor(&options(), executor).unwrap();
        router.attach(SOURCE, &handle).unwrap();
        router.report(request()).unwrap();
        let work: FaultWork = work.lock().unwrap().take().unwrap();
        let thread = thread::spawn(move || work.respond(ResponseCode::Success).is_ok());
        router.detach(SOURCE).unwrap();
        told.detached.store(true, Ordering::SeqCst);
        let in_time = thread.join().unwrap();
        let counters = handle.counters();
        assert_eq!(told.times.load(Ordering::SeqCst), 1, "each group is told of once");
        assert_eq!((counters.answered == 1, counters.detached == 1), (in_time, !in_time));
        assert_eq!(counters.in_flight, 0);
    });
}

#[test]
fn group_goes_to_one_side_of_a_replace() {
    loom::model(|| {
        let (router, told) = router();
        let handles = [(); 2].map(|()| router.inline(&options(), |_| ResponseCode::Success).unwrap());
        router.attach(SOURCE, &handles[0]).unwrap();
        let reporter = router.clone();
        let thread =
            thread::spawn(move || assert_eq!(reporter.report(request()).unwrap(), Routed::Delivered));
        router.replace(SOURCE, &handles[1]).unwrap();
        thread.join().unwrap();
        assert_eq!(told.times.load(Ordering::SeqCst), 1, "each group is told of once");
        let ended = handles.map(|handle| {
            let counters = handle.counters();
            counters.answered + counters.detached
        });
        assert_eq!(ended.iter().sum::<u64>(), 1);
    });
}

#[test]
fn of_two_who_switch_one_source_one_is_refused_or_comes_later() {
    loom::model(|| {
        let (router, told) = router();
        let handles = [(); 2].map(|()| router.inline(&options(), |_| ResponseCode::Success).unwrap());
        let (other, second) = (router.clone(), handles[1].clone());
        let thread = thread::spawn(move || other.attach(SOURCE, &second));
        let first = router.attach(SOURCE, &handles[0]);
        let second = thread.join().unwrap();
        let refused = [AttachError::AlreadyAttached, AttachError::Busy].map(Err);
        match (first, second) {
            (Ok(()), refusal) | (refusal, Ok(())) => assert!(refused.contains(&refusal)),
            both => panic!("{both:?}"),
        }
        assert_eq!(router.report(request()).unwrap(), Routed::Delivered);
        assert_eq!(told.times.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn process_overlooks_no_handle_that_stays_attached() {
    loom::model(|| {
        const LATE: Duration = Duration::from_secs(3600);
        let (router, told) = router();
        let work = Arc::new(Mutex::new(None));
        let executor = {
            let work = work.clone();
            move |given| *work.lock().unwrap() = Some(given)
        };
        let leaves = router.inline(&options(), |_| ResponseCode::Success).unwrap();
        let stays = router.executor(&options().deadline(LATE), executor).unwrap();
        router.attach(FaultSource::rid(2), &leaves).unwrap();
        router.attach(SOURCE, &stays).unwrap();
        router.report(request()).unwrap();
        let other = router.clone();
        let thread = thread::spawn(move || other.process(Instant::now() + 2 * LATE));
        router.detach(FaultSource::rid(2)).unwrap();
        thread.join().unwrap();
        assert_eq!(told.times.load(Ordering::SeqCst), 1, "a handle was overlooked");
        let work: FaultWork = work.lock().unwrap().take().unwrap();
        assert!(work.respond(ResponseCode::Success).is_err());
    });
}
