//! Either side is killed in the middle of a storm of releases that are asked for all the time: none is left without
//! an end, none ends twice, none arrives torn. Books outlive who keeps them.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::request::*;
use common::storm::{AFTER, BEFORE, Book, Child, MOST, Random, Tally};
use common::{SOON, in_own_process};
use recordfd::request::{self, Ack, Cause, Completion, Notice, Options, RespondError, Responder};
use recordfd::uapi::{ChannelInfo, DeviceRequest, Transport};
use recordfd::{TryRecvError, UnattachedEnd};

type Reporter = request::Reporter<DeviceRequest>;

/// Kills of each side, by transport.
const KILLS: u32 = 60;

fn options(busy: bool) -> Options {
    let busy_poll = if busy { Duration::from_micros(50) } else { Duration::ZERO };
    let every = Some(Duration::from_micros(100));
    Options::new().depth(16).per_device(16).repeat_every(every).deadline(None).busy_poll(busy_poll)
}

fn attach_responder(end: UnattachedEnd) -> Responder<DeviceRequest> {
    let ChannelInfo { transport, format, depth, .. } = end.info();
    match transport {
        Transport::SHARED => Responder::from_shared(end.into()).unwrap(),
        _ => Responder::from_socket(end.into(), format, depth).unwrap(),
    }
}

fn attach_reporter(end: UnattachedEnd, options: &Options) -> Reporter {
    let ChannelInfo { transport, format, depth, .. } = end.info();
    match transport {
        Transport::SHARED => Reporter::from_shared(end.into(), options).unwrap(),
        _ => Reporter::from_socket(end.into(), format, &options.clone().depth(depth)).unwrap(),
    }
}

fn verdict_of(number: u32) -> Ack {
    if number % 3 == 0 { Ack::Refused } else { Ack::Done }
}

/// Keeps some open and answers them in any order, noting each before and after.
fn answer_at_random(mut responder: Responder<DeviceRequest>, book: &Book, mut random: Random) {
    let (mut open, mut counts) = (Vec::new(), BTreeMap::new());
    loop {
        if let Ok(pending) = responder.recv_timeout(Duration::from_micros(50)) {
            counts.insert(pending.cookie(), pending.record().count);
            open.push(pending);
        }
        while let Some(notice) = responder.next_notice() {
            let Notice::Repeated { cookie, count } = notice else { panic!("{notice:?}") };
            let last = counts.insert(cookie, count).expect("of one that is held");
            assert!(count > last, "counts grow");
        }
        let most = random.below(8);
        while open.len() > most {
            let pending = open.swap_remove(random.below(open.len()));
            let number = pending.record().dev_id;
            counts.remove(&pending.cookie());
            book.note(number as usize, BEFORE);
            match verdict_of(number) {
                Ack::Refused => drop(pending),
                verdict => pending.respond(verdict).unwrap(),
            }
            book.note(number as usize, AFTER);
        }
    }
}

/// One round: the responder is killed. Returns how often something was asked again.
fn kill_responder(make: fn(&Options) -> (Reporter, UnattachedEnd), busy: bool, random: &mut Random) -> usize {
    let book = Book::new();
    let (reporter, end) = make(&options(busy));
    let mut place = Some((reporter.clone(), end));
    let seed = Random(random.0);
    let mut child = Child::start(|| {
        let (reporter, end) = place.take().unwrap();
        // Its copy, so that each side has its own end only.
        drop(reporter);
        answer_at_random(attach_responder(end), &book, seed);
    });
    drop(place);
    child.kill_meanwhile(random, Duration::from_millis(3));
    let mut open = BTreeMap::new();
    let mut out = [Completion::default(); 5];
    let (mut number, mut ends) = (0, BTreeMap::new());
    let began = Instant::now();
    loop {
        while (number as usize) < MOST {
            let Ok(cookie) = reporter.report(DeviceRequest::of(number)) else { break };
            assert!(open.insert(cookie, number).is_none());
            number += 1;
        }
        match reporter.wait_completions(&mut out, Some(Duration::from_micros(300))) {
            Ok(count) => {
                for ended in &out[..count] {
                    assert_eq!(open.remove(&ended.record.cookie), Some(ended.record.dev_id), "ended twice");
                    ends.insert(ended.record.dev_id, (ended.verdict, ended.cause));
                }
            }
            Err(TryRecvError::Empty) => assert!(began.elapsed() < SOON, "the hang-up is not seen"),
            Err(TryRecvError::Closed) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    child.assert_killed();
    assert!(open.is_empty(), "left without an end");
    assert_eq!((ends.len() as u32, reporter.counters().in_flight), (number, 0));
    let notes = book.read();
    for (number, end) in ends {
        match (end, notes[number as usize]) {
            ((verdict, Cause::Answered), BEFORE | AFTER) => assert_eq!(verdict, verdict_of(number)),
            ((Ack::Refused, Cause::HungUp), 0 | BEFORE) => {}
            (end, note) => panic!("{end:?} with {note}"),
        }
    }
    number as usize
}

/// One round: the reporter is killed. Returns how many requests came.
fn kill_reporter(
    make: fn(&Options) -> (Responder<DeviceRequest>, UnattachedEnd),
    busy: bool,
    random: &mut Random,
) -> usize {
    let tally = Tally::new();
    let (mut responder, end) = make(&options(busy));
    let mut place = Some(end);
    let mut child = Child::start(|| {
        let reporter = attach_reporter(place.take().unwrap(), &options(busy));
        let mut out = [Completion::default(); 5];
        let mut number = 0;
        loop {
            while let Ok(_cookie) = reporter.report(DeviceRequest::of(number)) {
                number += 1;
                tally.note(number);
            }
            let _ = reporter.wait_completions(&mut out, Some(Duration::from_micros(200)));
        }
    });
    drop(place);
    child.kill_meanwhile(random, Duration::from_millis(3));
    let (mut open, mut next) = (Vec::new(), 0);
    loop {
        match responder.recv_timeout(Duration::from_micros(200)) {
            Ok(pending) => {
                assert_eq!(pending.record().dev_id, next, "in order and none twice");
                next += 1;
                open.push(pending);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Closed) => break,
            Err(error) => panic!("{error:?}"),
        }
        while responder.next_notice().is_some() {}
        let most = random.below(8);
        while open.len() > most {
            match open.swap_remove(random.below(open.len())).respond(Ack::Done) {
                Ok(()) | Err(RespondError::Closed) => {}
                Err(RespondError::WouldBlock(pending)) => drop(pending),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    child.assert_killed();
    assert!(next >= tally.read(), "what was published is lost");
    next as usize
}

fn storm(round: impl Fn(bool, &mut Random) -> usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let seen: usize = (0..KILLS).map(|number| round(number % 2 == 1, &mut random)).sum();
    assert!(seen > KILLS as usize, "nothing was going on");
}

#[test]
fn responder_that_is_killed_leaves_no_request_without_an_end() {
    in_own_process("responder_that_is_killed_leaves_no_request_without_an_end", || {
        storm(|busy, random| kill_responder(|options| request::socket(options).unwrap(), busy, random));
        storm(|busy, random| kill_responder(|options| request::shared(options).unwrap(), busy, random));
    });
}

#[test]
fn reporter_that_is_killed_leaves_whole_requests_and_then_closed() {
    in_own_process("reporter_that_is_killed_leaves_whole_requests_and_then_closed", || {
        storm(|busy, random| {
            kill_reporter(|options| request::socket_responder(options).unwrap(), busy, random)
        });
        storm(|busy, random| {
            kill_reporter(|options| request::shared_responder(options).unwrap(), busy, random)
        });
    });
}
