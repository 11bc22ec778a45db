//! Loom runs a release that is asked for again against what may happen to it meanwhile. Run with `ci/loom.sh`.

use std::time::Instant;

use loom::thread;
use recordfd_uapi::{DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind};

use super::*;
use crate::answer::link::Link;
use crate::answer::reporter::Reporter;
use crate::answer::{Cause, Group, Ledger};

const DEVICE: u32 = 7;

fn sides() -> (Reporter<DeviceRequest>, LocalReader<DeviceRequest>, Arc<Exchange<DeviceRequest>>) {
    let (reporter, reader) = Exchange::pair(1, true).unwrap();
    let exchange = reporter.exchange().clone();
    (Reporter::new(Ledger::new(1, 1, None), Link::Local(reporter)), reader, exchange)
}

/// Publishes a release; what is to be sent again.
fn publish(reporter: &mut Reporter<DeviceRequest>) -> DeviceRequest {
    let record =
        DeviceRequest { dev_id: DEVICE, kind: DeviceRequestKind::RELEASE, ..DeviceRequest::default() };
    let group = Group { dev_id: DEVICE, tag: record };
    let cookie = reporter.stage(&group, 1, |_| record, Instant::now()).unwrap();
    assert_eq!(reporter.flush().0, 1);
    DeviceRequest { cookie, ..record }
}

/// Sends it again as its reporter does: unless it was answered.
fn repeat(reporter: &mut Reporter<DeviceRequest>, record: DeviceRequest, count: u32) {
    reporter.read_every_answer();
    if reporter.ledger().is_open(record.cookie) {
        reporter.repeat(&DeviceRequest { count, ..record }).unwrap();
    }
    reporter.rest(false);
}

/// Reads at most one request; its cookie and how often it was asked before.
fn read(reader: &mut LocalReader<DeviceRequest>) -> Option<(u32, u32)> {
    let mut found = None;
    let _ = reader.read(1, 1, |group| found = Some((group[0].cookie, group[0].count)));
    found
}

fn answer(cookie: u32) -> DeviceAck {
    DeviceAck { cookie, code: DeviceAckCode::DONE }
}

fn collect(reporter: &mut Reporter<DeviceRequest>) -> Option<Cause> {
    let mut cause = None;
    let _ = reporter.collect(1, |completion| cause = Some(completion.cause));
    reporter.rest(false);
    cause
}

#[test]
fn repeat_that_meets_an_answer_opens_nothing_and_is_told_of_no_answered_request() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides();
        let record = publish(&mut reporter);
        let (cookie, _) = read(&mut reader).unwrap();
        let responder = reader.responder.clone();
        let thread = thread::spawn(move || {
            let told = responder.get().unwrap().next_notice();
            responder.get().unwrap().respond_batch(&[answer(cookie)]).unwrap();
            assert_eq!(responder.get().unwrap().next_notice(), None, "of a request that was answered");
            told
        });
        repeat(&mut reporter, record, 1);
        let told = thread.join().unwrap();
        assert!(told.is_none_or(|told| told == (cookie, Notice::Repeated(1))));
        assert_eq!(collect(&mut reporter), Some(Cause::Answered));
        assert_eq!((reporter.ledger().in_flight(), read(&mut reader)), (0, None), "it was opened again");
        // The slot's next request is told of nothing that is not its own.
        let next = publish(&mut reporter);
        assert_eq!(read(&mut reader), Some((next.cookie, 0)));
        assert_eq!(reader.responder.get().unwrap().next_notice(), None);
        drop(exchange);
    });
}

#[test]
fn repeat_that_meets_a_read_is_in_the_record_or_wakes_its_reader() {
    loom::model(|| {
        let (mut reporter, mut reader, exchange) = sides();
        let record = publish(&mut reporter);
        let thread = thread::spawn(move || {
            repeat(&mut reporter, record, 1);
            reporter
        });
        let (cookie, count) = read(&mut reader).unwrap();
        let nothing = read(&mut reader);
        let told = reader.responder.get().unwrap().next_notice();
        let _reporter = thread.join().unwrap();
        assert_eq!((cookie, nothing), (record.cookie, None));
        if count == 0 && told.is_none() {
            assert!(exchange.records_bell.bell.is_readable(), "lost wake-up: a repeat");
        }
        let told = told.or_else(|| reader.responder.get().unwrap().next_notice());
        let expected = (count == 0).then_some((cookie, Notice::Repeated(1)));
        assert_eq!(told, expected, "it is told once");
    });
}

#[test]
fn request_that_is_detached_behind_a_repeat_is_told_as_cancelled_last() {
    loom::model(|| {
        let (mut reporter, mut reader, _exchange) = sides();
        let record = publish(&mut reporter);
        let thread = thread::spawn(move || {
            repeat(&mut reporter, record, 1);
            reporter.detach(|dev_id, _| dev_id == DEVICE);
            repeat(&mut reporter, record, 2);
            assert_eq!(collect(&mut reporter), Some(Cause::Detached));
            reporter
        });
        let taken = read(&mut reader);
        let early = reader.responder.get().unwrap().next_notice();
        let mut reporter = thread.join().unwrap();
        let late = reader.responder.get().unwrap().next_notice();
        let Some((cookie, count)) = taken else {
            assert_eq!((early, late, reporter.ledger().in_flight()), (None, None, 0));
            return;
        };
        assert!(count < 2, "asked for again behind its end");
        let cancelled = Some((cookie, Notice::Cancelled));
        assert!(early == cancelled || late == cancelled, "{early:?} {late:?}");
        assert!(early != cancelled || late.is_none(), "{late:?} behind the end");
        assert!(reader.responder.get().unwrap().respond_batch(&[answer(cookie)]).is_err());
        assert_eq!((collect(&mut reporter), reporter.ledger().in_flight()), (None, 0));
    });
}
