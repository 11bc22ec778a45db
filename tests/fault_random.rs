//! Long random exchanges, the same in every run, agree with a simple picture of what a channel is.

mod common;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use common::far_fault::*;
use common::fault::*;
use recordfd::TryRecvError;
use recordfd::fault::{
    Cause, FaultCompletion, FaultReporter, FaultRequest, Options, ReportError, ResponseCode,
};
use recordfd::uapi::{Format, PgFault};

use ResponseCode::{Invalid, Success};

on_every_transport! {
    here_and_far
    every {}
    local {
        exchanges_between_threads_agree_with_the_picture
    }
    socket {
        exchanges_with_another_process_agree_with_the_picture
    }
}

const MAX_GROUP: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);

/// Device, PASID and index.
type Key = (u32, Option<u32>, u32);

/// What a completion says, but for the cookie.
type End = (Key, ResponseCode, Cause);

/// A group that was published: its pages are told apart by their addresses.
#[derive(Clone, Debug)]
struct Group {
    key: Key,
    pages: Vec<u64>,
    completed: bool,
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % bound
    }
}

/// The channel, and the picture of it.
struct Exchange {
    reporter: FaultReporter,
    responder: AnyResponder,
    takes_unread_back: bool,
    random: Random,
    next_page: u64,
    /// Pages of each half-made group, and whether it is too large.
    half_made: BTreeMap<Key, (Vec<u64>, bool)>,
    unread: VecDeque<Group>,
    held: Vec<(AnyGroup, Group)>,
    ends: Vec<End>,
    cookies: HashSet<u32>,
    published: usize,
    completed: usize,
}

impl Exchange {
    fn new(make: MakeAnyFault, takes_unread_back: bool, format: Format, seed: u64) -> Self {
        let options = Options::new().depth(24).per_device(32).half_made(6).max_group(MAX_GROUP as u32);
        let (reporter, responder) = make(&options.format(format).deadline(HOUR).half_made_age(HOUR));
        Self {
            reporter,
            responder,
            takes_unread_back,
            random: Random(seed),
            next_page: 0,
            half_made: BTreeMap::new(),
            unread: VecDeque::new(),
            held: Vec::new(),
            ends: Vec::new(),
            cookies: HashSet::new(),
            published: 0,
            completed: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..6 => self.report(),
            6..8 => self.receive_one(),
            8..10 => self.receive_many(),
            10..14 => self.answer(),
            14 => self.collect(),
            _ if self.random.below(4) > 0 => self.detach(),
            _ => self.expire(),
        }
    }

    fn request(&mut self) -> FaultRequest {
        if self.random.below(12) == 0 {
            return stop_marker(self.random.below(3), 40);
        }
        self.next_page += 1;
        FaultRequest {
            dev_id: self.random.below(3),
            pasid: [None, Some(0)][self.random.below(2) as usize],
            prg_index: self.random.below(2),
            last: self.random.below(3) == 0,
            addr: self.next_page,
            ..page(0, 0)
        }
    }

    fn report(&mut self) {
        let batch: Vec<_> = (0..=self.random.below(12)).map(|_| self.request()).collect();
        let mut rest = &batch[..];
        while !rest.is_empty() {
            match self.reporter.report_batch(rest) {
                Ok(taken) => {
                    assert!(taken > 0);
                    rest[..taken].iter().for_each(|request| self.note(request));
                    rest = &rest[taken..];
                    if let (Some(next), true) = (rest.first(), self.random.below(2) == 0) {
                        // The next call tells why the count is short.
                        let error = self.reporter.report(*next).expect_err("it was refused before");
                        self.note_refused(next, error);
                        return;
                    }
                }
                Err(error) => return self.note_refused(&rest[0], error),
            }
        }
    }

    fn note(&mut self, request: &FaultRequest) {
        let key = (request.dev_id, request.pasid, request.prg_index);
        if request.perm.is_empty() {
            return;
        }
        if !request.last {
            let (pages, too_large) = self.half_made.entry(key).or_default();
            pages.push(request.addr);
            assert!(pages.len() < MAX_GROUP && !*too_large, "{key:?}");
            return;
        }
        let (mut pages, too_large) = self.half_made.remove(&key).unwrap_or_default();
        assert!(!too_large, "{key:?} is published with pages missing");
        pages.push(request.addr);
        self.unread.push_back(Group { key, pages, completed: false });
        self.published += 1;
    }

    fn note_refused(&mut self, request: &FaultRequest, error: ReportError) {
        let key = (request.dev_id, request.pasid, request.prg_index);
        match error {
            ReportError::TooLarge(_) if request.last => {
                let (_, too_large) = self.half_made.remove(&key).expect("it had pages");
                assert!(too_large);
            }
            ReportError::TooLarge(_) => {
                let (pages, too_large) = self.half_made.get_mut(&key).expect("it had pages");
                assert_eq!(pages.len(), MAX_GROUP - 1);
                *too_large = true;
            }
            ReportError::HalfMadeFull(_) => {
                // Those that were never finished count until they are collected.
                let unfinished = self.ends.iter().filter(|(.., cause)| *cause == Cause::Unfinished);
                let keys: Vec<_> = self.half_made.keys().chain(unfinished.map(|(key, ..)| key)).collect();
                let of_device = keys.iter().filter(|(dev_id, ..)| *dev_id == key.0).count();
                assert!(of_device == 3 || keys.len() == 6);
                assert!(!request.last, "only a first page needs a place");
            }
            ReportError::Full(_) | ReportError::DeviceFull(_) => {
                assert!(request.last, "only a last page needs room");
            }
            error => panic!("{error:?}"),
        }
        assert_eq!(self.reporter.counters().half_made as usize, self.half_made.len());
    }

    /// Checks a received group against the one that is next.
    fn note_received(&mut self, group: AnyGroup, pages: &[PgFault]) {
        let expected = self.unread.pop_front().expect("a group that was never published");
        let addresses: Vec<_> = pages.iter().map(|page| page.addr).collect();
        assert_eq!(addresses, expected.pages);
        assert!(pages.iter().all(|page| page.cookie == group.cookie()));
        let (dev_id, pasid, prg_index) = expected.key;
        assert_eq!(
            (pages[0].dev_id, pages[0].pasid, pages[0].grpid),
            (dev_id, pasid.unwrap_or(0), prg_index)
        );
        assert!(self.held.iter().all(|(held, _)| held.cookie() != group.cookie()));
        self.held.push((group, expected));
    }

    fn receive_one(&mut self) {
        let mut pages = [PgFault::default(); MAX_GROUP];
        let places = self.random.below(MAX_GROUP as u32) as usize + 1;
        match self.responder.try_recv_group(&mut pages[..places]) {
            Ok(group) => {
                let pages = &pages[group.range()];
                self.note_received(group, pages);
            }
            Err(TryRecvError::BufferTooSmall { needed }) => {
                assert!(needed > places && self.unread[0].pages.len() > places);
            }
            Err(error) => {
                assert!(matches!(error, TryRecvError::Empty) && self.unread.is_empty(), "{error:?}");
            }
        }
    }

    fn receive_many(&mut self) {
        let mut pages = [PgFault::default(); 3 * MAX_GROUP];
        let places = self.random.below(pages.len() as u32) as usize + 1;
        let mut groups = [const { None }; 6];
        let most = self.random.below(6) as usize + 1;
        match self.responder.recv_groups(&mut pages[..places], &mut groups[..most]) {
            Ok(count) => {
                assert!(groups[count..].iter().all(Option::is_none));
                for group in groups.into_iter().flatten() {
                    let pages = &pages[group.range()];
                    self.note_received(group, pages);
                }
            }
            Err(TryRecvError::BufferTooSmall { .. }) => assert!(self.unread[0].pages.len() > places),
            Err(error) => assert!(matches!(error, TryRecvError::Empty), "{error:?}"),
        }
    }

    fn answer(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len() as u32) as usize;
        let (group, expected) = self.held.swap_remove(index);
        let code = match self.random.below(3) {
            0 => {
                drop(group);
                Invalid
            }
            1 => {
                let is_refused = self.responder.respond(response(group.into_cookie(), SUCCESS)).is_err();
                assert_eq!(is_refused, expected.completed && self.takes_unread_back);
                Success
            }
            _ => {
                let is_refused = group.respond(Success).is_err();
                assert_eq!(is_refused, expected.completed && self.takes_unread_back);
                Success
            }
        };
        if !expected.completed {
            self.ends.push((expected.key, code, Cause::Answered));
        }
    }

    fn collect(&mut self) {
        let mut out = vec![FaultCompletion::default(); self.random.below(8) as usize + 1];
        let mut found = Vec::new();
        // Until nothing is there, and late answers are no reason to stop.
        loop {
            match self.reporter.completions(&mut out) {
                Ok(count) => found.extend_from_slice(&out[..count]),
                Err(TryRecvError::Empty) if common::readable(&self.reporter) => {}
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        let order = |end: &End| format!("{end:?}");
        let mut ends: Vec<End> = Vec::new();
        for end in found {
            match end.cause {
                Cause::Unfinished => assert_eq!(end.cookie, 0),
                _ => {
                    self.completed += 1;
                    assert!(end.cookie != 0 && self.cookies.insert(end.cookie), "twice: {end:?}");
                }
            }
            ends.push(((end.dev_id, end.pasid, end.prg_index), end.code, end.cause));
        }
        ends.sort_by_key(order);
        self.ends.sort_by_key(order);
        assert_eq!(ends, self.ends);
        self.ends.clear();
    }

    /// Everything published of these devices that is open completes by `cause`.
    fn cancel(&mut self, cause: Cause, is_meant: impl Fn(u32) -> bool) {
        let unread = self.unread.iter_mut();
        for group in unread.chain(self.held.iter_mut().map(|(_, group)| group)) {
            if is_meant(group.key.0) && !group.completed {
                group.completed = true;
                self.ends.push((group.key, Invalid, cause));
            }
        }
        if self.takes_unread_back {
            self.unread.retain(|group| !group.completed);
        }
    }

    fn detach(&mut self) {
        let dev_id = self.random.below(3);
        let waiting = self.reporter.detach(dev_id);
        self.half_made.retain(|key, _| key.0 != dev_id);
        self.cancel(Cause::Detached, |of| of == dev_id);
        assert_eq!(waiting, self.ends.len());
    }

    fn expire(&mut self) {
        let waiting = self.reporter.process(Instant::now() + 2 * HOUR);
        self.cancel(Cause::Deadline, |_| true);
        let unfinished = std::mem::take(&mut self.half_made).into_keys();
        self.ends.extend(unfinished.map(|key| (key, Invalid, Cause::Unfinished)));
        assert!(waiting <= self.ends.len());
    }

    /// Brings everything to its end.
    fn finish(mut self) {
        while !self.unread.is_empty() || !self.held.is_empty() {
            self.receive_one();
            self.answer();
        }
        self.collect();
        let counters = self.reporter.counters();
        assert_eq!((counters.in_flight, counters.unanswered), (0, 0));
        assert_eq!(counters.half_made as usize, self.half_made.len());
        assert_eq!((self.completed, self.responder.open_cookies()), (self.published, vec![]));
        assert!(self.published > 500, "{}", self.published);
        assert!(is_empty(&mut self.responder));
    }
}

fn agree(make: MakeAnyFault, takes_unread_back: bool) {
    for format in [Format::IOMMU_PGFAULT_V1, Format::IOMMU_PGFAULT_V2] {
        for seed in [0x2545_f491_4f6c_dd1d, 0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03] {
            let mut exchange = Exchange::new(make, takes_unread_back, format, seed);
            (0..4000).for_each(|_| exchange.step());
            exchange.finish();
        }
    }
}

#[cfg(feature = "local")]
fn exchanges_between_threads_agree_with_the_picture() {
    agree(|options| here(local(options)), true);
}

fn exchanges_with_another_process_agree_with_the_picture(make: MakeAnyFault) {
    agree(make, false);
}
