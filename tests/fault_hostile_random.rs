//! Random peers against a few lines of model: whatever comes, the honest side does what the model says.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

use common::fault::*;
use common::*;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use recordfd::fault::{
    Cause, FaultCompletion, FaultGroup, FaultResponder, Options, ReportError, Reported, ResponseCode,
};
use recordfd::uapi::{Event, EventFlags, Format, PageResponseCode, PgFault, Record, RecordError};
use recordfd::{TryRecvError, Violation};

/// A xorshift generator: what it gives is determined by a seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

fn format(headed: bool) -> Format {
    if headed { Format::IOMMU_PGFAULT_V2 } else { Format::IOMMU_PGFAULT_V1 }
}

/// What a responder must make of pages.
#[derive(Default)]
struct Model {
    depth: usize,
    most: usize,
    open: BTreeSet<u32>,
    /// Cookie and pages of a group that is not complete.
    part: Option<(u32, usize)>,
    delivered: Vec<(u32, usize)>,
    cancelled: BTreeSet<u32>,
    /// Open groups that a notice was told of.
    was_cancelled: BTreeSet<u32>,
    broken: Option<Violation>,
    /// That was found with all pages there that a group may have, and not its end: it may be found too large before.
    broken_when_full: bool,
}

impl Model {
    fn breaks(&mut self, violation: Violation) {
        self.broken = Some(violation);
        self.broken_when_full = self.part.is_some_and(|(_, count)| count == self.most);
    }

    fn take(&mut self, cookie: u32, last: bool, cancelled: bool) {
        let (of, count) = self.part.unwrap_or((cookie, 0));
        let violation = match self.broken {
            Some(_) => return,
            None if count > 0 && (cancelled || of != cookie) => Some(Violation::GroupNotEnded),
            None if count == self.most => Some(Violation::GroupTooLarge),
            None if cookie == 0 => Some(Violation::ZeroCookie),
            None if cancelled => {
                // A notice that comes twice is told once.
                if self.open.contains(&cookie) && self.was_cancelled.insert(cookie) {
                    self.cancelled.insert(cookie);
                }
                None
            }
            None if self.open.contains(&cookie) => Some(Violation::CookieOpen { cookie }),
            None if count == 0 && self.open.len() == self.depth => Some(Violation::TooManyOpen),
            None => {
                self.part = Some((cookie, count + 1));
                None
            }
        };
        if let Some(violation) = violation {
            return self.breaks(violation);
        }
        if let (false, true, Some(group)) = (cancelled, last, self.part) {
            self.part = None;
            self.open.insert(group.0);
            self.delivered.push(group);
        }
    }
}

/// Receives in random ways until nothing is there; what ended it.
fn drain(responder: &mut FaultResponder, random: &mut Random, groups: &mut Vec<FaultGroup>) -> TryRecvError {
    let mut pages = [PgFault::default(); 512];
    loop {
        let told = if random.one_in(2) {
            responder.try_recv_group(&mut pages).map(|group| groups.push(group))
        } else {
            let mut places: Vec<_> = (0..1 + random.below(64)).map(|_| None).collect();
            let told = responder.recv_groups(&mut pages, &mut places).map(drop);
            groups.extend(places.into_iter().flatten());
            told
        };
        match told {
            Err(TryRecvError::Empty) if readable(&*responder) => {}
            Err(error) => return error,
            Ok(()) => {}
        }
    }
}

fn random_reporter(random: &mut Random, headed: bool) -> Option<Violation> {
    let depth = 2 + random.below(12);
    let most = if headed { 341 } else { 409 };
    let (mut responder, mut peer) =
        responder_and_peer(&Options::new().depth(depth as u32).format(format(headed)));
    setsockopt(&peer, SndBuf, &200_000).unwrap();
    let mut model = Model { depth, most, ..Model::default() };
    let mut groups: Vec<FaultGroup> = Vec::new();
    // Records written and not yet taken by the model, and the beginning of one that is not written yet.
    let mut waiting = Vec::new();
    let mut rest: Vec<u8> = Vec::new();
    let mut sequence = 0_u32;
    let mut broken_header = None;
    for _ in 0..120 {
        // A few pages of one group, most of the time sensible.
        let cookie = if random.one_in(200) { 0 } else { 1 + random.below(3 * depth) as u32 };
        let count = if random.one_in(60) { most + 20 } else { 1 + random.below(4) };
        let ends = !random.one_in(if count > 4 { 1 } else { 40 });
        for index in 1..=count {
            let cancelled = headed && random.one_in(12) && index == 1;
            let last = cancelled || (ends && index == count);
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::CANCELLED, cancelled);
            if headed && random.one_in(800) && broken_header.is_none() {
                broken_header = Some((waiting.len(), Violation::SequenceGap));
                sequence = sequence.wrapping_add(1 + random.below(9) as u32) & 0x7fff_ffff;
            } else if headed && random.one_in(800) && broken_header.is_none() {
                flags |= EventFlags::LOST_EVENTS;
                broken_header = Some((waiting.len(), Violation::Record(RecordError::Flags { unknown: 1 })));
            }
            if headed {
                rest.extend(wire_event(sequence, flags, cookie, last));
                sequence = (sequence + 1) & 0x7fff_ffff;
            } else {
                rest.extend(wire_page(cookie, last));
            }
            waiting.push((cookie, last, cancelled));
        }
        if random.one_in(2) {
            // In pieces of any size, the last of which may stay behind.
            let size = if headed { 48 } else { 40 };
            let written = if random.one_in(3) { random.below(rest.len() + 1) } else { rest.len() };
            let total = rest.len();
            // Not so many that the socket is full.
            for piece in rest[..written].chunks(1 + written / 200 + random.below(100)) {
                peer.write_all(piece).unwrap();
            }
            rest.drain(..written);
            let whole = waiting.len() - (total - written).div_ceil(size);
            let told = drain(&mut responder, random, &mut groups);
            for (index, (cookie, last, cancelled)) in waiting.drain(..whole).enumerate() {
                match broken_header {
                    Some((at, violation)) if at == index && model.broken.is_none() => {
                        model.breaks(violation);
                    }
                    _ => model.take(cookie, last, cancelled),
                }
            }
            broken_header = broken_header.map(|(at, violation)| (at.wrapping_sub(whole), violation));
            let got: Vec<_> = groups.iter().map(|group| (group.cookie(), group.len())).collect();
            assert_eq!(got[got.len() - model.delivered.len()..], model.delivered);
            model.delivered.clear();
            if model.part.is_some_and(|(_, count)| count == most) && model.broken.is_none() {
                // Whether the last page that a group may have is too much without its mark, or only the
                // one behind it.
                let too_large = matches!(told, TryRecvError::PeerViolation(Violation::GroupTooLarge));
                model.broken = too_large.then_some(Violation::GroupTooLarge);
            }
            if let Some(expected) = model.broken {
                let told = match told {
                    // Told by the call after the one that found it.
                    TryRecvError::Empty => drain(&mut responder, random, &mut groups),
                    told => told,
                };
                match told {
                    TryRecvError::PeerViolation(Violation::GroupTooLarge) if model.broken_when_full => {}
                    TryRecvError::PeerViolation(found) => assert_eq!(found, expected),
                    other => panic!("{other:?} instead of {expected:?}"),
                }
                break;
            }
            assert!(matches!(told, TryRecvError::Empty), "{told:?}");
            let mut told: BTreeSet<_> = std::iter::from_fn(|| responder.next_cancelled()).collect();
            assert_eq!(told, model.cancelled);
            for group in groups.iter().filter(|group| group.is_cancelled()) {
                told.insert(group.cookie());
            }
            model.cancelled.clear();
        }
        while !groups.is_empty() && !random.one_in(4) {
            let group = groups.swap_remove(random.below(groups.len()));
            let cookie = group.cookie();
            model.open.remove(&cookie);
            model.was_cancelled.remove(&cookie);
            let code = random.below(2) as u32;
            match (random.below(3), code) {
                (0, 0) => group.respond(ResponseCode::Success).unwrap(),
                (0, _) => group.respond(ResponseCode::Invalid).unwrap(),
                (1, _) => {
                    let cookie = group.into_cookie();
                    assert_eq!(
                        responder.respond_batch(&[response(cookie, PageResponseCode::new(code))]).unwrap(),
                        1
                    );
                }
                _ => drop(group),
            }
            let answers = answers(&mut peer);
            assert_eq!(answers.len(), 1);
            assert_eq!(answers[0].0, cookie);
        }
    }
    let mut open = responder.open_cookies();
    open.sort_unstable();
    assert_eq!(open, model.open.iter().copied().collect::<Vec<_>>());
    let count = groups.len();
    drop(groups);
    assert_eq!(answers(&mut peer).len(), count);
    model.broken
}

#[test]
fn random_pages_are_delivered_and_refused_as_a_model_of_the_format_says() {
    let mut seen = [(); 2].map(|()| BTreeMap::<String, u32>::new());
    let rounds = rounds::each_seed("responder of page faults", 500, |seed| {
        let headed = seed % 2 == 1;
        let broken = random_reporter(&mut Random::new(seed), headed);
        let name = broken.map_or("none".into(), |violation| format!("{violation:?}"));
        let name = name.split([' ', '(']).next().unwrap().to_owned();
        *seen[usize::from(headed)].entry(name).or_default() += 1;
    });
    for (headed, seen) in [false, true].into_iter().zip(&seen) {
        let kinds = ["ZeroCookie", "CookieOpen", "GroupTooLarge", "GroupNotEnded", "TooManyOpen"];
        let kinds = kinds.iter().chain(if headed { &["SequenceGap", "Record"][..] } else { &[] });
        for kind in kinds {
            assert!(rounds.is_none() || seen.contains_key(*kind), "never came to {kind}: {seen:?}");
        }
    }
}

/// What a group must come to.
type Ended = (ResponseCode, Cause);

/// What a reporter must make of answers.
#[derive(Default)]
struct Books {
    depth: usize,
    per_device: usize,
    /// Published and not completed, with the device.
    open: BTreeMap<u32, u32>,
    done: BTreeMap<u32, (u32, Ended)>,
    /// Completed without their answer, which may still come.
    held: BTreeMap<u32, u32>,
    late: u64,
}

impl Books {
    fn answer(&mut self, cookie: u32, code: u32) {
        if let Some(device) = self.open.remove(&cookie) {
            let ended = match code {
                0 => (ResponseCode::Success, Cause::Answered),
                1 => (ResponseCode::Invalid, Cause::Answered),
                _ => (ResponseCode::Invalid, Cause::BadAnswer),
            };
            self.done.insert(cookie, (device, ended));
        } else {
            self.late += 1;
            self.held.remove(&cookie);
        }
    }

    fn end(&mut self, cause: Cause, is_meant: impl Fn(u32) -> bool) -> BTreeSet<u32> {
        let cookies: BTreeSet<_> =
            self.open.iter().filter(|(_, device)| is_meant(**device)).map(|(cookie, _)| *cookie).collect();
        for cookie in &cookies {
            let device = self.open.remove(cookie).unwrap();
            self.done.insert(*cookie, (device, (ResponseCode::Invalid, cause)));
            self.held.insert(*cookie, device);
        }
        cookies
    }

    /// Slots that are taken, all of them or a device's: once each, for a completed one may be held.
    fn taken(&self, is_meant: impl Fn(u32) -> bool) -> usize {
        let done = self.done.iter().map(|(cookie, (device, _))| (*cookie, *device));
        let all = self.open.iter().chain(&self.held).map(|(cookie, device)| (*cookie, *device)).chain(done);
        all.filter(|(_, device)| is_meant(*device)).collect::<BTreeSet<_>>().len()
    }
}

fn random_responder(random: &mut Random, headed: bool) {
    const HOUR: Duration = Duration::from_secs(3600);
    let depth = 2 + random.below(30);
    let per_device = 1 + random.below(depth);
    let options = Options::new().depth(depth as u32).per_device(per_device as u32).deadline(HOUR);
    let (reporter, mut peer) = reporter_and_peer(&options.format(format(headed)));
    setsockopt(&peer, SndBuf, &200_000).unwrap();
    let mut books = Books { depth, per_device, ..Books::default() };
    let mut known = vec![0];
    let (mut sequence, mut notices) = (0, BTreeSet::new());
    // Answers that are not written to the end.
    let (mut unwritten, mut unapplied) = (Vec::new(), VecDeque::new());
    for step in 0..300 {
        match random.below(16) {
            0..6 => {
                let device = 1 + random.below(3) as u32;
                let request = page(device, step % 512);
                // A slot is free when its late answer was read, as this does for a device without groups.
                reporter.detach(9);
                let expected_full = books.taken(|_| true) == books.depth;
                let expected_device_full = books.taken(|of| of == device) == books.per_device;
                match reporter.report(request) {
                    Ok(Reported::Group { cookie }) => {
                        assert!(!expected_full && !expected_device_full);
                        assert!(!books.held.contains_key(&cookie) && !books.done.contains_key(&cookie));
                        assert_eq!(books.open.insert(cookie, device), None);
                        known.push(cookie);
                    }
                    Err(ReportError::Full(_)) => assert!(expected_full),
                    Err(ReportError::DeviceFull(_)) => assert!(expected_device_full && !expected_full),
                    other => panic!("{other:?}"),
                }
            }
            6..12 => {
                // Old cookies, open ones, made up ones; the last one in two pieces.
                for _ in 0..random.below(6) {
                    let recent = known.len() - random.below(known.len().min(depth + 4)) - 1;
                    let cookie = if random.one_in(5) { random.next() as u32 } else { known[recent] };
                    let code = if random.one_in(6) { random.next() as u32 } else { random.below(2) as u32 };
                    unwritten.extend(wire_response(cookie, code));
                    unapplied.push_back((cookie, code));
                }
                let written = unwritten.len() - random.below(8).min(unwritten.len());
                peer.write_all(&unwritten[..written]).unwrap();
                unwritten.drain(..written);
                while unapplied.len() > unwritten.len().div_ceil(8) {
                    let (cookie, code) = unapplied.pop_front().unwrap();
                    books.answer(cookie, code);
                }
            }
            12 => {
                let device = 1 + random.below(4) as u32;
                let waiting = reporter.detach(device);
                notices.extend(books.end(Cause::Detached, |of| of == device));
                assert_eq!(waiting, books.done.len());
            }
            13 if random.one_in(4) => {
                let waiting = reporter.process(Instant::now() + 2 * HOUR);
                notices.extend(books.end(Cause::Deadline, |_| true));
                assert_eq!(waiting, books.done.len());
            }
            _ => {
                let mut out = vec![FaultCompletion::default(); 1 + random.below(9)];
                loop {
                    match reporter.completions(&mut out) {
                        Ok(count) => {
                            for ended in &out[..count] {
                                let expected = books.done.remove(&ended.cookie);
                                assert_eq!(expected, Some((ended.dev_id, (ended.code, ended.cause))));
                            }
                        }
                        Err(TryRecvError::Empty) if readable(&reporter) => {}
                        Err(TryRecvError::Empty) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                assert!(books.done.is_empty(), "not completed: {:?}", books.done);
                let counters = reporter.counters();
                assert_eq!(counters.unanswered as usize, books.open.len());
                assert_eq!(counters.in_flight as usize, books.taken(|_| true));
                assert_eq!(counters.late_answers, books.late);
            }
        }
        // What goes out: every group, and a notice of each that was given up, where the format has them.
        let bytes = available(&mut peer);
        if headed {
            for record in bytes.chunks(48) {
                let event = Event::<PgFault>::decode(record).unwrap();
                assert_eq!(event.sequence().get(), sequence);
                sequence += 1;
                if event.header.flags.contains(EventFlags::CANCELLED) {
                    assert!(notices.remove(&event.payload.cookie), "a notice of nothing, or a second one");
                }
            }
            assert!(notices.is_empty(), "no notice of {notices:?}");
        }
    }
    // What was open is hung up on, and nothing is left.
    peer.write_all(&unwritten).unwrap();
    unapplied.into_iter().for_each(|(cookie, code)| books.answer(cookie, code));
    drop(peer);
    reporter.detach(9);
    let mut rest = BTreeMap::new();
    for ended in collect(&reporter) {
        let told = (ended.dev_id, (ended.code, ended.cause));
        assert_eq!(rest.insert(ended.cookie, told), None, "completed twice");
    }
    books.end(Cause::HungUp, |_| true);
    assert_eq!(rest, books.done);
    let told = reporter.completions(&mut [FaultCompletion::default(); 1]);
    assert!(matches!(told, Err(TryRecvError::Closed)), "{told:?}");
    assert_eq!(reporter.counters().in_flight, 0);
}

#[test]
fn random_answers_complete_every_group_once_as_a_model_of_the_protocol_says() {
    rounds::each_seed("reporter of page faults", 400, |seed| {
        random_responder(&mut Random::new(seed), seed % 2 == 1);
    });
}
