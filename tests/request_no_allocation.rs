//! After set-up no call of a channel of requests allocates, whatever comes of it.

#[path = "common/allocation.rs"]
mod allocation;
mod common;

use std::time::{Duration, Instant};

use allocation::without;
use common::request::*;
use common::until;
use recordfd::TryRecvError;
use recordfd::request::{Completion, Options};

on_every_request_transport! {
    all
    exchange_allocates_nothing
    cancelling_and_asking_again_allocate_nothing
    many_devices_allocate_nothing
    end_of_a_channel_allocates_nothing
}

const DEPTH: usize = 16;
const HOUR: Duration = Duration::from_secs(3600);

fn options() -> Options {
    Options::new().depth(DEPTH as u32).per_device(DEPTH as u32)
}

fn exchange_allocates_nothing<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&options());
    let mut out = [Completion::default(); DEPTH];
    // Twice: the first use of anything may differ from the later ones.
    for _ in 0..2 {
        for dev_id in 0..DEPTH as u32 {
            without("report", || reporter.report(R::of(dev_id))).unwrap();
        }
        without("a refused report", || reporter.report(R::of(99))).unwrap_err();
        without("a report of nonsense", || reporter.report(R::default())).unwrap_err();
        for turn in 0..DEPTH {
            let pending = without("try_recv", || responder.try_recv()).unwrap();
            without("the looks at a request", || {
                (*pending.record(), pending.cookie(), pending.is_cancelled())
            });
            match turn % 4 {
                0 => without("respond", || pending.respond(R::NO)).unwrap(),
                1 => without("drop of a request", || drop(pending)),
                2 => {
                    let cookie = without("into_cookie", || pending.into_cookie());
                    let (no, bad) = (R::code(cookie, code_of_no::<R>()), R::code(cookie, 77));
                    without("respond by a bad code", || responder.respond(bad)).unwrap_err();
                    without("respond by cookie", || responder.respond(no)).unwrap();
                    without("respond twice", || responder.respond(no)).unwrap_err();
                }
                _ => without("respond", || pending.respond(R::NO)).unwrap(),
            }
        }
        without("try_recv of nothing", || assert!(is_empty(&mut responder)));
        without("next_notice of nothing", || assert_eq!(responder.next_notice(), None));
        without("drain", || reporter.drain(3, Duration::ZERO)).unwrap();
        without("completions", || assert_eq!(reporter.completions(&mut out).unwrap(), DEPTH));
        without("completions of nothing", || {
            assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
        });
        without("wait_completions", || {
            let told = reporter.wait_completions(&mut out, Some(Duration::from_millis(2)));
            assert!(matches!(told, Err(TryRecvError::Empty)));
        });
        without("waits of a responder", || {
            assert!(!responder.wait(Some(Duration::from_millis(2))).unwrap());
            assert!(responder.recv_timeout(Duration::from_millis(2)).is_err());
        });
        without("the looks", || (reporter.counters(), reporter.is_closed(), reporter.next_deadline()));
        without("a clone", || drop(reporter.clone()));
    }
}

fn code_of_no<R: Sample>() -> u32 {
    (0..8).find(|code| R::meaning(*code) == Some(R::NO)).unwrap()
}

fn cancelling_and_asking_again_allocate_nothing<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&options());
    let mut out = [Completion::default(); DEPTH];
    for _ in 0..3 {
        for dev_id in 0..DEPTH as u32 {
            reporter.report(R::of(dev_id)).unwrap();
        }
        let mut held = Vec::with_capacity(DEPTH);
        without("try_recv", || (0..DEPTH).for_each(|_| held.push(responder.try_recv().unwrap())));
        let now = Instant::now();
        for seconds in [11, 22, 33] {
            let now = now + Duration::from_secs(seconds);
            without("process of repeats", || assert_eq!(reporter.process(now), 0));
        }
        let notices = |responder: &mut recordfd::request::Responder<R>| {
            without("try_recv of notices", || assert!(is_empty(responder)));
            without("next_notice", || while responder.next_notice().is_some() {});
        };
        notices(&mut responder);
        without("detach", || assert_eq!(reporter.detach(5), 1));
        without("process of deadlines", || assert_eq!(reporter.process(now + HOUR), DEPTH));
        without("completions", || assert_eq!(reporter.completions(&mut out).unwrap(), DEPTH));
        notices(&mut responder);
        without("late answers", || held.drain(..).for_each(drop));
        without("completions", || assert!(reporter.completions(&mut out).is_err()));
        notices(&mut responder);
        assert_eq!(reporter.counters().in_flight, 0);
    }
}

fn many_devices_allocate_nothing<R: Sample>(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&options());
    let mut out = [Completion::default(); DEPTH];
    without("requests of many devices", || {
        for dev_id in 0..2000_u32 {
            reporter.report(R::of(dev_id.wrapping_mul(0x9e37_79b9))).unwrap();
            responder.try_recv().unwrap().respond(R::NO).unwrap();
            assert_eq!(reporter.completions(&mut out).unwrap(), 1);
        }
    });
}

fn end_of_a_channel_allocates_nothing<R: Sample>(make: MakeRequest<R>) {
    let mut out = [Completion::default(); DEPTH];
    let (reporter, responder) = make(&options());
    (0..4).for_each(|dev_id| assert!(reporter.report(R::of(dev_id)).is_ok()));
    drop(responder);
    assert!(until(|| reporter.is_closed()));
    without("completions of a hang-up", || assert_eq!(reporter.completions(&mut out).unwrap(), 4));
    without("completions behind it", || {
        assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Closed)));
    });
    without("a report to nobody", || reporter.report(R::of(1))).unwrap_err();
    let (reporter, mut responder) = make(&options());
    reporter.report(R::of(1)).unwrap();
    drop(reporter);
    let pending = without("recv", || responder.recv()).unwrap();
    without("recv of the end", || assert!(matches!(responder.recv(), Err(TryRecvError::Closed))));
    without("an answer to nobody", || drop(pending.respond(R::NO)));
}
