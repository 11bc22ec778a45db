//! After set-up no call of a page-fault channel allocates, whatever comes of it.

#[path = "common/allocation.rs"]
mod allocation;
mod common;

use std::thread;
use std::time::{Duration, Instant};

use allocation::without;
use common::SOON;
use common::fault::*;
use recordfd::TryRecvError;
use recordfd::fault::{
    Cause, FaultCompletion, FaultRequest, FaultResponder, Options, ReportError, RespondError, ResponseCode,
};
use recordfd::uapi::{Format, PageResponse, PageResponseCode, PgFault};

use ResponseCode::Success;

on_every_transport! {
    exchange_allocates_nothing
    refusals_allocate_nothing
    cancelling_allocates_nothing
    waiting_allocates_nothing
    end_of_a_channel_allocates_nothing
    many_devices_and_pasids_allocate_nothing
}

/// Runs `test` with options of each format, and whether it can say CANCELLED.
fn each_format(test: impl Fn(Options, bool)) {
    for (format, is_headed) in [(Format::IOMMU_PGFAULT_V1, false), (Format::IOMMU_PGFAULT_V2, true)] {
        test(Options::new().format(format).half_made(8).max_group(8), is_headed);
    }
}

const DEPTH: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// Receives everything and answers nothing.
fn receive_cookies(responder: &mut FaultResponder) -> Vec<u32> {
    let mut cookies = Vec::new();
    let mut pages = [PgFault::default(); 8];
    while let Ok(group) = responder.try_recv_group(&mut pages) {
        cookies.push(group.into_cookie());
    }
    cookies
}

fn exchange_allocates_nothing(make: MakeFault) {
    each_format(|options, _| {
        let (reporter, mut responder) = make(&options.depth(DEPTH as u32).per_device(DEPTH as u32));
        let mut out = [FaultCompletion::default(); DEPTH];
        let mut pages = [PgFault::default(); 128];
        let mut groups = [const { None }; DEPTH];
        let many = [page(1, 0); DEPTH];
        let pages_of_one = group(1, 1, 8);
        let mixed = [group(1, 1, 3), group(2, 2, 1), group(1, 3, 2), vec![stop_marker(1, 9)]].concat();
        let mut answers = [response(0, PageResponseCode::SUCCESS); DEPTH];
        // Twice: the first use of anything may differ from the later ones.
        for _ in 0..2 {
            without("report", || reporter.report(page(1, 0))).unwrap();
            let group = without("try_recv_group", || responder.try_recv_group(&mut pages)).unwrap();
            without("the looks at a group", || (group.cookie(), group.len(), group.range()));
            without("is_cancelled", || assert!(!group.is_cancelled()));
            without("respond", || group.respond(Success)).unwrap();
            without("completions", || assert_eq!(reporter.completions(&mut out).unwrap(), 1));

            without("report of many pages", || {
                pages_of_one.iter().for_each(|page| assert!(reporter.report(*page).is_ok()));
            });
            let group = without("recv_group", || responder.recv_group(&mut pages)).unwrap();
            assert_eq!(group.len(), 8);
            without("drop of a group", || drop(group));
            without("next_cancelled", || assert_eq!(responder.next_cancelled(), None));
            without("try_recv_group of nothing", || {
                assert!(matches!(responder.try_recv_group(&mut pages), Err(TryRecvError::Empty)));
            });
            without("completions", || assert_eq!(reporter.completions(&mut out).unwrap(), 1));
            without("completions of nothing", || {
                assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
            });

            for batch in [&many[..], &mixed[..]] {
                without("report_batch", || assert_eq!(reporter.report_batch(batch).unwrap(), batch.len()));
                let count =
                    without("recv_groups", || responder.recv_groups(&mut pages, &mut groups)).unwrap();
                let given_up = groups[..count].iter_mut().filter_map(Option::take);
                without("into_cookie", || {
                    for (answer, group) in answers.iter_mut().zip(given_up) {
                        answer.cookie = group.into_cookie();
                    }
                });
                let (first, others) = answers[..count].split_first().unwrap();
                without("respond by cookie", || responder.respond(*first)).unwrap();
                without("respond_batch", || {
                    assert_eq!(responder.respond_batch(others).unwrap(), others.len());
                });
                without("completions", || assert_eq!(reporter.completions(&mut out).unwrap(), count));
            }
            without("wait_stop_marker", || reporter.wait_stop_marker(1, 9, Duration::ZERO)).unwrap();
            without("drain of nothing", || reporter.drain(1, Duration::ZERO)).unwrap();
            without("detach of nothing", || assert_eq!(reporter.detach(1), 0));
            without("reset of nothing", || reporter.reset(1, Duration::ZERO)).unwrap();
            without("process of nothing", || assert_eq!(reporter.process(Instant::now()), 0));
            without("the looks", || (reporter.counters(), reporter.is_closed(), reporter.next_deadline()));
            without("the looks", || (reporter.depth(), reporter.max_group(), responder.received()));
            without("a clone", || drop(reporter.clone()));
        }
    });
}

fn refusals_allocate_nothing(make: MakeFault) {
    each_format(|options, _| {
        let (reporter, mut responder) = make(&options.depth(8).per_device(6));
        let half = |index| FaultRequest { last: false, ..page(3, index) };
        for _ in 0..2 {
            let refuse = |request: FaultRequest, errno: i32| {
                without("a refused report", || {
                    assert_eq!(reporter.report(request).unwrap_err().errno(), errno)
                });
                without("a refused batch", || {
                    assert_eq!(reporter.report_batch(&[request, request]).unwrap_err().errno(), errno);
                });
            };
            refuse(page(1, 512), 22);
            refuse(FaultRequest { pasid: Some(1 << 20), ..page(1, 0) }, 22);
            (0..4).for_each(|index| assert!(reporter.report(half(index)).is_ok()));
            refuse(half(4), 11);
            refuse(stop_marker(3, 1), 22);
            for _ in 0..6 {
                reporter.report(half(0)).unwrap();
            }
            refuse(half(0), 90);
            without("the end of a group that is too large", || {
                assert!(matches!(reporter.report(page(3, 0)), Err(ReportError::TooLarge(_))));
            });
            (0..6).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
            refuse(page(1, 6), 11);
            (0..2).for_each(|index| assert_ne!(publish(&reporter, page(2, index)), 0));
            refuse(page(2, 2), 11);
            refuse(page(3, 1), 11);
            let nothing = &mut [][..];
            without("a slice that is too small", || {
                assert!(matches!(
                    responder.try_recv_group(nothing),
                    Err(TryRecvError::BufferTooSmall { .. })
                ));
            });
            let cookies = receive_cookies(&mut responder);
            let bad =
                [response(0, PageResponseCode::SUCCESS), response(cookies[0], PageResponseCode::new(9))];
            without("refused answers", || {
                assert!(matches!(responder.respond(bad[0]), Err(RespondError::StaleCookie)));
                assert!(matches!(responder.respond(bad[1]), Err(RespondError::Code)));
                assert!(responder.respond_batch(&bad).is_err());
            });
            for cookie in cookies {
                responder.respond(response(cookie, PageResponseCode::SUCCESS)).unwrap();
            }
            reporter.detach(3);
            assert_eq!(collect(&reporter).len(), 8);
        }
    });
}

fn cancelling_allocates_nothing(make: MakeFault) {
    each_format(|options, is_headed| {
        let options = options.depth(16).per_device(8).deadline(HOUR).half_made_age(HOUR);
        let (reporter, mut responder) = make(&options);
        let mut out = [FaultCompletion::default(); 32];
        let later = || Instant::now() + 2 * HOUR;
        for _ in 0..2 {
            for by_time in [false, true] {
                for dev_id in [1, 2] {
                    (0..4).for_each(|index| assert_ne!(publish(&reporter, page(dev_id, index)), 0));
                }
                let mut pages = [PgFault::default(); 1];
                let groups = [0; 4].map(|_| responder.try_recv_group(&mut pages).unwrap());
                // Four are delivered and four unread, and two have only begun.
                for dev_id in [1, 2] {
                    reporter.report(FaultRequest { last: false, ..page(dev_id, 9) }).unwrap();
                }
                without("what cancels", || match by_time {
                    true => assert_eq!(reporter.process(later()), 10),
                    false => assert_eq!((reporter.detach(1), reporter.detach(2)), (4, 8)),
                });
                without("completions", || {
                    assert_eq!(reporter.completions(&mut out).unwrap(), if by_time { 10 } else { 8 });
                });
                let unread =
                    without("what was unread", || [0; 4].map(|_| responder.try_recv_group(&mut pages).ok()));
                without("nothing behind it", || {
                    assert!(matches!(responder.try_recv_group(&mut pages), Err(TryRecvError::Empty)));
                });
                let told =
                    without("next_cancelled", || std::iter::from_fn(|| responder.next_cancelled()).count());
                assert_eq!(told > 0, is_headed);
                let [first, second, third, fourth] = groups;
                without("late answers", || {
                    drop((first.respond(Success).is_ok(), second));
                    let answers = [third, fourth].map(|group| PageResponse {
                        cookie: group.into_cookie(),
                        code: PageResponseCode::INVALID,
                    });
                    // Refused or handed over, by transport.
                    let _ = responder.respond_batch(&answers);
                    let _ = responder.respond_batch(&answers[1..]);
                    drop(unread);
                });
                without("completions of nothing", || {
                    assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
                });
                assert_eq!((reporter.counters().in_flight, reporter.counters().half_made), (0, 0));
            }
        }
    });
}

fn waiting_allocates_nothing(make: MakeFault) {
    each_format(|options, _| {
        let (reporter, mut responder) = make(&options.half_made_age(HOUR));
        let mut out = [FaultCompletion::default(); 4];
        let mut pages = [PgFault::default(); 4];
        let short = Duration::from_millis(2);
        let pause = || thread::sleep(Duration::from_millis(10));
        for busy_poll in [Duration::ZERO, Duration::from_millis(1)] {
            responder.set_busy_poll(busy_poll);
            without("waits for nothing", || {
                assert!(responder.recv_group_timeout(&mut pages, short).is_err());
                assert!(!responder.wait(Some(short)).unwrap());
                assert!(reporter.wait_completions(&mut out, Some(short)).is_err());
                assert!(reporter.wait_stop_marker(1, 1, short).is_err());
            });
            let late = reporter.clone();
            let device = thread::spawn(move || {
                pause();
                publish(&late, page(1, 0));
            });
            let group = without("recv_group that waits", || responder.recv_group(&mut pages)).unwrap();
            device.join().unwrap();
            let answerer = thread::spawn(move || {
                pause();
                group.respond(Success).unwrap();
            });
            without("drain that waits", || reporter.drain(1, SOON)).unwrap();
            answerer.join().unwrap();
            without("wait_completions", || reporter.wait_completions(&mut out, None)).unwrap();

            publish(&reporter, page(1, 0));
            without("drain in vain", || assert!(reporter.drain(1, short).is_err()));
            let group = responder.try_recv_group(&mut pages).unwrap();
            let answerer = thread::spawn(move || {
                pause();
                group.respond(Success).unwrap();
            });
            without("wait_completions that waits", || reporter.wait_completions(&mut out, None)).unwrap();
            answerer.join().unwrap();
            let late = reporter.clone();
            let device = thread::spawn(move || {
                pause();
                late.report(stop_marker(1, 1)).unwrap();
            });
            without("wait_stop_marker that waits", || reporter.wait_stop_marker(1, 1, SOON)).unwrap();
            device.join().unwrap();
        }
    });
}

fn end_of_a_channel_allocates_nothing(make: MakeFault) {
    each_format(|options, _| {
        let (reporter, mut responder) = make(&options);
        (0..4).for_each(|index| assert_ne!(publish(&reporter, page(1, index)), 0));
        let cookies = receive_cookies(&mut responder);
        assert_eq!(cookies.len(), 4);
        drop(responder);
        let mut out = [FaultCompletion::default(); 2];
        assert!(common::until(|| reporter.is_closed()));
        without("completions of a gone responder", || {
            for _ in 0..2 {
                assert_eq!(reporter.completions(&mut out).unwrap(), 2);
                assert_eq!(out[1].cause, Cause::HungUp);
            }
            assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Closed)));
            assert!(matches!(reporter.report(page(1, 0)), Err(ReportError::Closed(_))));
        });
    });
}

/// Tables in which much is put in and taken out again grow, if they are not made for it.
fn many_devices_and_pasids_allocate_nothing(make: MakeFault) {
    let (reporter, mut responder) = make(&Options::new().depth(8).half_made(8));
    let mut pages = [PgFault::default(); 4];
    let mut out = [FaultCompletion::default(); 4];
    without("a thousand devices", || {
        for number in 0..1000 {
            let page = |last| FaultRequest { pasid: Some(number), last, ..page(number, number % 512) };
            reporter.report(page(false)).unwrap();
            reporter.report(page(true)).unwrap();
            let group = responder.try_recv_group(&mut pages).unwrap();
            group.respond(Success).unwrap();
            assert_eq!(reporter.completions(&mut out).unwrap(), 1);
            // Some are never finished.
            reporter.report(page(false)).unwrap();
            if number % 4 == 3 {
                (number - 3..=number).for_each(|dev_id| assert_eq!(reporter.detach(dev_id), 0));
            }
        }
    });
}

/// What only a shared channel has: fences that one side makes for both. And a reporter that looks by itself.
#[test]
fn exchange_allocates_nothing_whoever_fences() {
    for make in [shared, shared_made_by_responder] {
        for busy_poll in [Duration::ZERO, Duration::from_micros(100)] {
            let (reporter, mut responder) = make(&Options::new().busy_poll(busy_poll));
            responder.set_busy_poll(busy_poll);
            let mut pages = [PgFault::default(); 4];
            let mut out = [FaultCompletion::default(); 4];
            for asymmetric in [false, true] {
                if asymmetric {
                    without("use_asymmetric_fence", || {
                        reporter.use_asymmetric_fence().unwrap();
                        responder.use_asymmetric_fence().unwrap();
                    });
                }
                without("exchanges", || {
                    for index in 0..8 {
                        reporter.report(page(1, index)).unwrap();
                        assert!(responder.wait(None).unwrap());
                        responder.recv_group(&mut pages).unwrap().respond(Success).unwrap();
                        assert_eq!(reporter.wait_completions(&mut out, None).unwrap(), 1);
                    }
                    assert!(matches!(responder.try_recv_group(&mut pages), Err(TryRecvError::Empty)));
                    assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)));
                    (reporter.counters(), responder.waits())
                });
            }
        }
    }
}
