//! Loom runs the two sides between threads, the real ones, in every order that its memory model allows.
//! Run with `ci/loom.sh`.

use std::time::Instant;

use loom::thread;
use recordfd_uapi::{PageResponse, PageResponseCode, PgFault};

use super::*;
use crate::answer::link::Link;
use crate::answer::reporter::Reporter;
use crate::answer::{Cause, Group, Ledger};
use crate::fault::FaultRequest;

const DEVICE: u32 = 7;

fn sides(depth: u32) -> (Reporter<PgFault>, LocalReader<PgFault>, Arc<Exchange<PgFault>>) {
    let (reporter, reader) = Exchange::pair(depth, true).unwrap();
    let exchange = reporter.exchange().clone();
    (Reporter::new(Ledger::new(depth, depth, None), Link::Local(reporter)), reader, exchange)
}

fn publish(reporter: &mut Reporter<PgFault>) -> u32 {
    let group = Group { dev_id: DEVICE, tag: FaultRequest::default().tag() };
    let cookie = reporter.stage(&group, 1, |_| PgFault::default(), Instant::now()).unwrap();
    assert_eq!(reporter.flush().0, 1);
    cookie
}

/// Reads at most one group; its cookie. Begins as one who has looked for it in vain.
fn read(reader: &mut LocalReader<PgFault>) -> Option<u32> {
    reader.look(Some(Instant::now()));
    let mut cookie = None;
    let _ = reader.read(1, 1, |group| cookie = Some(group[0].cookie));
    cookie
}

fn answer(cookie: u32) -> PageResponse {
    PageResponse { cookie, code: PageResponseCode::SUCCESS }
}

/// Takes at most one completion; its cause. Begins as one who looks for it.
fn collect(reporter: &mut Reporter<PgFault>) -> Option<Cause> {
    reporter.stay_awake();
    let mut cause = None;
    let _ = reporter.collect(1, |completion| cause = Some(completion.cause));
    reporter.rest(false);
    cause
}

#[test]
fn published_group_keeps_the_descriptor_readable_until_it_is_read() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides(2);
        let thread = thread::spawn(move || {
            publish(&mut reporter);
            publish(&mut reporter);
            reporter
        });
        let mut groups = (0..2).filter_map(|_| read(&mut reader)).count();
        let _reporter = thread.join().unwrap();
        while groups < 2 {
            assert!(exchange.records_bell.bell.is_readable(), "lost wake-up: a group is unread");
            groups += usize::from(read(&mut reader).is_some());
        }
        assert!(read(&mut reader).is_none() && !exchange.records_bell.bell.is_readable());
    });
}

#[test]
fn answer_keeps_the_descriptor_readable_until_its_completion_is_collected() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides(2);
        let cookies = [publish(&mut reporter), publish(&mut reporter)];
        assert_eq!([read(&mut reader), read(&mut reader)], cookies.map(Some));
        let responder = reader.responder.clone();
        let thread = thread::spawn(move || {
            for cookie in cookies {
                responder.get().unwrap().respond_batch(&[answer(cookie)]).unwrap();
            }
        });
        let mut completions = (0..2).filter_map(|_| collect(&mut reporter)).count();
        thread.join().unwrap();
        while completions < 2 {
            assert!(exchange.answers_bell.bell.is_readable(), "lost wake-up: an answer is not collected");
            completions += usize::from(collect(&mut reporter).is_some());
        }
        assert!(collect(&mut reporter).is_none() && !exchange.answers_bell.bell.is_readable());
        drop(reader);
    });
}

#[test]
fn hang_up_is_seen_behind_the_last_answer() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides(2);
        let cookies = [publish(&mut reporter), publish(&mut reporter)];
        let thread = thread::spawn(move || {
            assert_eq!(read(&mut reader), Some(cookies[0]));
            reader.responder.get().unwrap().respond_batch(&[answer(cookies[0])]).unwrap();
        });
        let mut causes: Vec<_> = collect(&mut reporter).into_iter().collect();
        thread.join().unwrap();
        while causes.len() < 2 {
            assert!(exchange.answers_bell.bell.is_readable(), "lost wake-up: the responder is gone");
            causes.extend(collect(&mut reporter));
        }
        assert_eq!(causes, [Cause::Answered, Cause::HungUp]);
        assert!(collect(&mut reporter).is_none() && exchange.answers_bell.bell.is_readable());
    });
}

#[test]
fn group_detached_while_it_is_answered_completes_once_and_as_its_responder_was_told() {
    loom::model(|| {
        let (mut reporter, mut reader, _) = sides(1);
        publish(&mut reporter);
        let thread = thread::spawn(move || {
            let cookie = read(&mut reader)?;
            let taken = reader.responder.get().unwrap().respond_batch(&[answer(cookie)]).is_ok();
            Some((taken, reader))
        });
        reporter.detach(|dev_id, _| dev_id == DEVICE);
        let cause = collect(&mut reporter).expect("a detached device has no open group");
        let answered = thread.join().unwrap().is_some_and(|(taken, _)| taken);
        assert_eq!(cause == Cause::Answered, answered, "the responder was told otherwise");
        assert!(collect(&mut reporter).is_none(), "a group completed twice");
        assert_eq!(reporter.ledger().in_flight(), 0, "a slot was not freed");
    });
}

#[test]
fn who_waits_for_a_device_is_told_though_another_thread_takes_the_answer() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides(2);
        publish(&mut reporter);
        let cookie = read(&mut reader).unwrap();
        let reporter = Arc::new(Mutex::new(reporter));
        let answering = thread::spawn(move || {
            reader.responder.get().unwrap().respond_batch(&[answer(cookie)]).unwrap();
            reader
        });
        let draining = reporter.clone();
        let drain = thread::spawn(move || {
            loop {
                let mut reporter = lock(&draining);
                if !reporter.has_open(DEVICE) {
                    break;
                }
                let seen = exchange.changes();
                drop(reporter);
                exchange.wait_change(seen, None);
            }
        });
        let _ = collect(&mut lock(&reporter));
        drain.join().unwrap();
        answering.join().unwrap();
    });
}

#[test]
fn notice_wakes_a_responder_that_has_stopped_looking() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides(2);
        publish(&mut reporter);
        let cookie = read(&mut reader).unwrap();
        assert_eq!(read(&mut reader), None);
        let thread = thread::spawn(move || {
            reporter.detach(|dev_id, _| dev_id == DEVICE);
            reporter
        });
        let told = reader.responder.get().unwrap().next_notice();
        let woken = reader.look(Some(Instant::now()));
        let _reporter = thread.join().unwrap();
        if told.is_none() && !woken {
            assert!(exchange.records_bell.bell.is_readable(), "lost wake-up: a notice");
        }
        assert_eq!(
            told.or_else(|| reader.responder.get().unwrap().next_notice()),
            Some((cookie, Notice::Cancelled))
        );
    });
}

#[test]
fn other_side_reports_and_detaches_while_groups_are_copied() {
    loom::model(|| {
        let (mut reporter, mut reader, _) = sides(2);
        publish(&mut reporter);
        let thread = thread::spawn(move || {
            publish(&mut reporter);
            reporter.detach(|dev_id, _| dev_id == DEVICE);
            reporter
        });
        let (mut thread, mut detached, mut copied) = (Some(thread), None, Vec::new());
        let _ = reader.read(2, 2, |group| {
            // The memory that the group is copied to waits for what the other side does.
            if let Some(thread) = thread.take() {
                detached = Some(thread.join().unwrap());
            }
            copied.push(group[0].cookie);
        });
        let mut reporter = detached.unwrap_or_else(|| thread.unwrap().join().unwrap());
        for cookie in &copied {
            assert!(
                reader.responder.peek().respond_batch(&[answer(*cookie)]).is_err(),
                "its detach overlooked it"
            );
        }
        let causes: Vec<_> = std::iter::from_fn(|| collect(&mut reporter)).collect();
        assert_eq!(causes, [Cause::Detached; 2]);
        assert_eq!((reporter.ledger().in_flight(), read(&mut reader)), (0, None), "a group was copied twice");
    });
}
