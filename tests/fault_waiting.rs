//! Waiting for groups and completions, and when the descriptors are readable.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::far::{readable, wait_readable};
use common::far_fault::MakeAnyFault;
use common::fault::*;
use common::{SOON, soon};
use recordfd::TryRecvError;
use recordfd::fault::{Cause, FaultCompletion, FaultRequest, Options, ResponseCode};
use recordfd::uapi::{Format, PgFault};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    receive_waits_for_a_group_and_no_longer_than_it_should
    wait_for_completions_ends_with_one_or_in_time
    descriptor_is_readable_for_one_completion_per_wake_up
    descriptor_is_readable_for_one_group_per_wake_up
    empty_slice_of_completions_takes_none
    wait_of_the_responder_ends_with_a_group_or_in_time
    wait_that_is_not_followed_by_a_receive_finds_the_group_again
    busy_poll_finds_groups_and_answers_and_leaves_the_descriptors_right
    notice_of_a_cancelled_group_ends_a_wait
    closed_ends_every_wait
}

fn receive_waits_for_a_group_and_no_longer_than_it_should(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let mut pages = [PgFault::default(); 4];
    let began = Instant::now();
    let timeout = Duration::from_millis(20);
    assert!(matches!(responder.recv_group_timeout(&mut pages, timeout), Err(TryRecvError::Empty)));
    assert!(began.elapsed() >= timeout);
    assert!(matches!(responder.recv_group_timeout(&mut pages, Duration::ZERO), Err(TryRecvError::Empty)));
    let device = thread::spawn(move || {
        for (index, pause) in [(0, 10), (1, 10)] {
            // The first page of a group alone wakes nobody for good.
            let pages = group(1, index, 2);
            reporter.report(pages[0]).unwrap();
            thread::sleep(Duration::from_millis(pause));
            reporter.report(pages[1]).unwrap();
        }
        thread::sleep(Duration::from_millis(10));
        drop(reporter);
    });
    soon(move || {
        let group = responder.recv_group(&mut pages).unwrap();
        assert_eq!((group.range(), pages[0].grpid), (0..2, 0));
        let group = responder.recv_group_timeout(&mut pages, Duration::MAX).unwrap();
        assert_eq!((group.range(), pages[0].grpid), (0..2, 1));
        assert!(matches!(responder.recv_group(&mut pages), Err(TryRecvError::Closed)));
        assert!(matches!(responder.recv_group_timeout(&mut pages, SOON), Err(TryRecvError::Closed)));
    });
    device.join().unwrap();
}

fn wait_for_completions_ends_with_one_or_in_time(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let mut out = [FaultCompletion::default(); 4];
    let cookie = publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    for timeout in [Duration::ZERO, Duration::from_millis(20)] {
        let began = Instant::now();
        assert!(matches!(reporter.wait_completions(&mut out, Some(timeout)), Err(TryRecvError::Empty)));
        assert!(began.elapsed() >= timeout);
    }
    let answerer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        group.respond(Success).unwrap();
        thread::sleep(Duration::from_millis(20));
        drop(responder);
    });
    soon(move || {
        assert_eq!(reporter.wait_completions(&mut out, None).unwrap(), 1);
        assert_eq!(out[0].cookie, cookie);
        let closed = reporter.wait_completions(&mut out, Some(Duration::MAX));
        assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
    });
    answerer.join().unwrap();
}

fn descriptor_is_readable_for_one_completion_per_wake_up(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let mut one = [FaultCompletion::default()];
    for round in 0..30 {
        let burst = round % 5 + 1;
        let cookies: Vec<_> = (0..burst).map(|index| publish(&reporter, page(1, index))).collect();
        let groups: Vec<_> = (0..burst).map(|_| receive(&mut responder).0).collect();
        assert!(!readable(&reporter), "readable without an answer");
        groups.into_iter().for_each(|group| group.respond(Success).unwrap());
        for cookie in cookies {
            assert!(readable(&reporter), "a completion waits behind an unreadable descriptor");
            assert_eq!(reporter.completions(&mut one).unwrap(), 1);
            assert_eq!(one[0].cookie, cookie);
        }
        assert!(matches!(reporter.completions(&mut one), Err(TryRecvError::Empty)));
        assert!(!readable(&reporter), "readable while empty");
    }
}

fn descriptor_is_readable_for_one_group_per_wake_up(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    for round in 0..30 {
        let burst = round % 5 + 1;
        assert!(!readable(&responder), "readable while empty");
        (0..burst).for_each(|index| {
            assert_eq!(reporter.report_batch(&group(1, index, index % 3 + 1)).unwrap() as u32, index % 3 + 1);
        });
        for index in 0..burst {
            assert!(readable(&responder), "group {index} waits behind an unreadable descriptor");
            let (group, pages) = receive(&mut responder);
            assert_eq!((pages[0].grpid, pages.len() as u32), (index, index % 3 + 1));
            group.respond(Success).unwrap();
        }
        assert!(is_empty(&mut responder));
        assert_eq!(collect(&reporter).len() as u32, burst);
    }
    reporter.report(FaultRequest { last: false, ..page(1, 0) }).unwrap();
    assert!(!readable(&responder), "readable for a group that is not complete");
}

fn empty_slice_of_completions_takes_none(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    assert_eq!(reporter.completions(&mut []).unwrap(), 0);
    let cookie = publish(&reporter, page(1, 0));
    receive(&mut responder).0.respond(Success).unwrap();
    assert_eq!(reporter.completions(&mut []).unwrap(), 0);
    assert_eq!(reporter.wait_completions(&mut [], None).unwrap(), 0);
    assert_eq!(ended(&reporter), [(cookie, Success, Cause::Answered)]);
}

fn wait_of_the_responder_ends_with_a_group_or_in_time(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    for busy_poll in [Duration::ZERO, Duration::from_millis(5)] {
        responder.set_busy_poll(busy_poll);
        for timeout in [Duration::ZERO, Duration::from_millis(20)] {
            let began = Instant::now();
            assert!(!responder.wait(Some(timeout)).unwrap());
            assert!(began.elapsed() >= timeout);
        }
        let late = reporter.clone();
        let device = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            publish(&late, page(1, 0));
        });
        assert!(responder.wait(Some(SOON)).unwrap());
        assert_eq!(receive(&mut responder).0.len(), 1);
        device.join().unwrap();
        publish(&reporter, page(1, 0));
        assert!(responder.wait(None).unwrap(), "it is there already");
        assert_eq!(receive(&mut responder).0.len(), 1);
    }
}

fn wait_that_is_not_followed_by_a_receive_finds_the_group_again(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new().busy_poll(SOON));
    responder.set_busy_poll(SOON);
    // The receive that finds nothing asks to be woken; the wait takes that back, for it looks by itself.
    assert!(responder.try_recv_group(&mut [PgFault::default(); 4]).is_err());
    let late = reporter.clone();
    let device = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        publish(&late, page(1, 0));
    });
    for _ in 0..3 {
        assert!(responder.wait(Some(SOON)).unwrap());
    }
    device.join().unwrap();
    assert_eq!(receive(&mut responder).0.len(), 1);
}

fn busy_poll_finds_groups_and_answers_and_leaves_the_descriptors_right(make: MakeAnyFault) {
    const ROUNDS: u32 = 150;
    let options = Options::new().busy_poll(Duration::from_millis(1));
    let (reporter, mut responder) = make(&options);
    responder.set_busy_poll(Duration::from_millis(1));
    let answerer = thread::spawn(move || {
        let mut pages = [PgFault::default(); 4];
        for number in 0..2 * ROUNDS {
            // By turns a receive that looks by itself and one group per wake-up of an event loop.
            let group = if number % 2 == 0 {
                responder.recv_group_timeout(&mut pages, SOON).unwrap()
            } else {
                assert!(wait_readable(&responder), "group {number} waits behind an unreadable descriptor");
                receive(&mut responder).0
            };
            thread::sleep(Duration::from_micros(20 * u64::from(number % 100)));
            group.respond(Success).unwrap();
        }
        assert!(is_empty(&mut responder) && !readable(&responder));
        responder
    });
    let mut out = [FaultCompletion::default()];
    for round in 0..ROUNDS {
        reporter.report_batch(&[page(1, round), page(1, round)]).unwrap();
        assert_eq!(reporter.wait_completions(&mut out, Some(SOON)).unwrap(), 1);
        assert_eq!((out[0].prg_index, out[0].cause), (round, Cause::Answered));
        while matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)) {
            assert!(wait_readable(&reporter), "an answer waits behind an unreadable descriptor");
        }
        assert_eq!((out[0].prg_index, out[0].cause), (round, Cause::Answered));
        thread::sleep(Duration::from_micros(20 * u64::from(round % 100)));
    }
    let _responder = answerer.join().unwrap();
    assert_eq!(collect(&reporter), []);
    assert!(!readable(&reporter));
}

fn notice_of_a_cancelled_group_ends_a_wait(make: MakeAnyFault) {
    for busy_poll in [Duration::ZERO, Duration::from_millis(500)] {
        let (reporter, mut responder) = make(&Options::new().format(Format::IOMMU_PGFAULT_V2));
        responder.set_busy_poll(busy_poll);
        let cookie = publish(&reporter, page(1, 0));
        let (group, _) = receive(&mut responder);
        assert!(is_empty(&mut responder));
        let waiter = thread::spawn(move || {
            let began = Instant::now();
            let woken = responder.wait(Some(SOON / 4)).unwrap();
            // As documented: what was received first, then the notices.
            assert!(is_empty(&mut responder));
            (woken, began.elapsed(), responder.next_cancelled(), responder)
        });
        thread::sleep(Duration::from_millis(20));
        reporter.detach(1);
        let (woken, took, told, _responder) = waiter.join().unwrap();
        assert_eq!((woken, told), (true, Some(cookie)), "busy_poll {busy_poll:?}");
        assert!(took < SOON / 8, "{took:?}");
        drop(group);
    }
}

fn closed_ends_every_wait(make: MakeAnyFault) {
    for busy_poll in [Duration::ZERO, Duration::from_millis(500)] {
        let (reporter, mut responder) = make(&Options::new().busy_poll(busy_poll));
        responder.set_busy_poll(busy_poll);
        let waiter = thread::spawn(move || {
            soon(move || (responder.wait(None).unwrap(), responder.recv_group(&mut [PgFault::default()])))
        });
        thread::sleep(Duration::from_millis(20));
        drop(reporter);
        let (woken, outcome) = waiter.join().unwrap();
        assert!(woken && matches!(outcome, Err(TryRecvError::Closed)), "{outcome:?}");

        let (reporter, responder) = make(&Options::new().busy_poll(busy_poll));
        publish(&reporter, page(1, 0));
        let waiter = thread::spawn(move || {
            soon(move || {
                let mut out = [FaultCompletion::default(); 4];
                let outcomes = [0; 2].map(|_| reporter.wait_completions(&mut out, None));
                (outcomes, out[0])
            })
        });
        thread::sleep(Duration::from_millis(20));
        drop(responder);
        let (outcomes, completion) = waiter.join().unwrap();
        assert!(matches!(outcomes, [Ok(1), Err(TryRecvError::Closed)]), "{outcomes:?}");
        assert_eq!((completion.code, completion.cause), (Invalid, Cause::HungUp));
    }
}
