//! A source that floods, and whose handle answers nothing, harms no other source of the same router.
#![cfg(feature = "local")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::fault::*;
use common::router::{Kept, last_page};
use common::{SOON, wait_readable};
use recordfd::fault::{
    Cause, FaultCompletion, FaultResponder, FaultRouter, FaultSource, Options, ReportError, ResponseCode,
    Routed,
};
use recordfd::uapi::PgFault;

use ResponseCode::Success;

const VICTIM: (u32, Option<u32>) = (1, Some(1));
const FLOODING: [(u32, Option<u32>); 2] = [(1, Some(2)), (2, None)];
const ROUND_TRIPS: usize = 5000;

/// Answers everything, until the router is gone.
fn serve(mut responder: FaultResponder) {
    let mut pages = [PgFault::default(); 8];
    while let Ok(group) = responder.recv_group(&mut pages) {
        group.respond(Success).unwrap();
    }
}

/// How long each round trip of the victim takes, in order of length.
fn round_trips(router: &FaultRouter, told: &Receiver<FaultCompletion>) -> Vec<Duration> {
    let mut times: Vec<_> = (0..ROUND_TRIPS)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(
                router.report(last_page(VICTIM.0, VICTIM.1)).unwrap(),
                Routed::Delivered,
                "none is refused"
            );
            let ended = told.recv_timeout(SOON).expect("it is answered");
            assert_eq!((ended.pasid, ended.code, ended.cause), (VICTIM.1, Success, Cause::Answered));
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn show(make: &str, what: &str, times: &[Duration]) {
    let at = |percent| times[times.len() * percent / 100];
    println!("{make}, {what}: p50 {:?}, p99 {:?}", at(50), at(99));
}

fn flood_harms_no_other_source(name: &str, make: MakeFault) {
    let (tx, told) = channel();
    let tx = Mutex::new(tx);
    let flood_told = Arc::new(AtomicU64::new(0));
    let respond = {
        let flood_told = flood_told.clone();
        move |ended: FaultCompletion| match (ended.dev_id, ended.pasid) {
            VICTIM => tx.lock().unwrap().send(ended).unwrap(),
            _ => {
                flood_told.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let router = FaultRouter::new(&Options::new(), respond).unwrap();
    let options = Options::new().per_device(256);
    let (reporter, responder) = make(&options);
    let victim = router.queue(reporter).unwrap();
    router.attach(FaultSource::pasid(1, 1), &victim).unwrap();
    // Nobody reads this one, and nobody answers that one.
    let (reporter, _unread) = make(&options);
    let flooded = router.queue(reporter).unwrap();
    router.attach(FaultSource::pasid(1, 2), &flooded).unwrap();
    let kept = Kept::default();
    let silent = kept.handle(&router, &options);
    router.attach(FaultSource::rid(2), &silent).unwrap();

    let [over, calm] = [(); 2].map(|()| AtomicBool::new(false));
    let attempts = AtomicU64::new(0);
    let server = thread::spawn(move || serve(responder));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                if wait_readable(victim.descriptor().unwrap()) {
                    router.process(Instant::now());
                }
            }
        });
        show(name, "alone", &round_trips(&router, &told));
        let flood = scope.spawn(|| {
            let mut taken = 0;
            while !calm.load(Ordering::SeqCst) {
                for (dev_id, pasid) in FLOODING {
                    match router.report(last_page(dev_id, pasid)) {
                        Ok(routed) => taken += u64::from(routed == Routed::Delivered),
                        Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    attempts.fetch_add(1, Ordering::SeqCst);
                }
            }
            taken
        });
        // Both are full by then.
        assert!(common::until(|| attempts.load(Ordering::SeqCst) > 10_000));
        show(name, "beside the flood", &round_trips(&router, &told));
        calm.store(true, Ordering::SeqCst);
        let taken = flood.join().unwrap();
        println!("{name}: {attempts:?} faults of the flood, {taken} of them taken");
        assert_eq!(flood_told.load(Ordering::SeqCst), 0);
        assert!(taken > 256 && taken <= 512 && kept.len() == 256, "{taken}, {}", kept.len());
        over.store(true, Ordering::SeqCst);
        router.report(last_page(VICTIM.0, VICTIM.1)).unwrap();
        assert_eq!(router.detach_device(2), Ok(1));
        router.detach(FaultSource::pasid(1, 2)).unwrap();
        assert_eq!(flood_told.load(Ordering::SeqCst), taken);
    });
    while kept.len() > 0 {
        assert!(kept.take().respond(Success).is_err(), "late");
    }
    assert_eq!(silent.counters().in_flight, 0);
    drop((victim, router));
    server.join().unwrap();
}

#[test]
fn flood_harms_no_other_source_between_threads() {
    flood_harms_no_other_source("between threads", local);
}

#[test]
fn flood_harms_no_other_source_on_a_socket() {
    flood_harms_no_other_source("socket", socket);
}

#[test]
fn flood_harms_no_other_source_in_shared_memory() {
    flood_harms_no_other_source("shared memory", shared);
}
