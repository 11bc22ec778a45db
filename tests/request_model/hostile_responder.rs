//! A reporter whose peer writes anything: every request that was published completes exactly once.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use recordfd::request::{Cause, Completion, Options, ReportError, Reporter, socket};
use recordfd::uapi::{Event, EventFlags, Record};
use recordfd::{DrainError, TryRecvError, Violation};

use crate::Decisions;
use crate::kept::{Kept, Kind};
use crate::peer::Peer;

const HOUR: Duration = Duration::from_secs(3600);
/// Hours after which a request completes without an answer. The time between is no full hour, so that nothing
/// hangs on how long a call takes.
const DEADLINE: u32 = 4;
const MOST: usize = 12;
const ANSWER: usize = 8;
/// The bound of answers taken in at once.
const MOST_ANSWERS: usize = 2048;

/// A request that can still be answered, or waits to be collected.
struct Request<R: Kind> {
    record: R,
    ending: Option<(R::Verdict, Cause)>,
    is_collected: bool,
    /// The responder may still answer it.
    is_held: bool,
}

struct Run<R: Kind, D> {
    decisions: D,
    reporter: Reporter<R>,
    per_device: u32,
    peer: Peer,
    began: Instant,
    requests: BTreeMap<u32, Request<R>>,
    kept: R::Kept,
    /// In the order of their completion, which within a step is not known.
    done: VecDeque<Vec<u32>>,
    /// Bytes of whole answers read, and those of a part behind them.
    taken: usize,
    part: usize,
    end: Option<Option<Violation>>,
    /// As reported, with their cookies.
    published: Vec<R>,
    completed: u64,
    late: u64,
    refused: u64,
    /// Cookies completed without their answer.
    cancelled: Vec<u32>,
}

pub(crate) fn run<R: Kind>(mut decisions: impl Decisions) {
    let depth = 1 + decisions.below(10);
    let per_device = 1 + decisions.below(depth);
    let options = Options::new().depth(depth).per_device(per_device);
    let options = options.deadline(Some(DEADLINE * HOUR)).repeat_every(Some(HOUR));
    let (reporter, stream) = if decisions.once_in(4) {
        // A socket that nobody has given room for so many requests.
        let (near, far) = UnixStream::pair().unwrap();
        (Reporter::from_socket(near.into(), R::FORMAT, &options).unwrap(), far)
    } else {
        let (reporter, end) = socket::<R>(&options).unwrap();
        (reporter, UnixStream::from(OwnedFd::from(end)))
    };
    let mut run = Run {
        decisions,
        reporter,
        per_device,
        peer: Peer::new(stream),
        began: Instant::now(),
        requests: BTreeMap::new(),
        kept: R::Kept::default(),
        done: VecDeque::new(),
        taken: 0,
        part: 0,
        end: None,
        published: Vec::new(),
        completed: 0,
        late: 0,
        refused: 0,
        cancelled: Vec::new(),
    };
    while !run.decisions.is_used_up() {
        run.step();
    }
    run.finish();
}

impl<R: Kind, D: Decisions> Run<R, D> {
    fn step(&mut self) {
        match self.decisions.below(16) {
            0..4 => self.report(),
            4..7 => self.make_answer(),
            7 if self.decisions.once_in(4) => {
                let count = self.decisions.below(20);
                let bytes: Vec<_> = (0..count).map(|_| self.decisions.below(256) as u8).collect();
                self.peer.pending.extend(bytes);
            }
            7..9 => {
                let most = self.decisions.below(256) as usize;
                self.peer.write(most);
            }
            9..12 => {
                let most = self.decisions.below(MOST as u32 + 1) as usize;
                let _ = self.collect(most);
            }
            12 => {
                let dev_id = self.decisions.below(4);
                self.detach(dev_id);
            }
            13 | 14 => {
                let hour = self.decisions.below(DEADLINE + 2);
                self.process(hour);
            }
            _ => match self.decisions.below(8) {
                0 => self.peer.hang_up(),
                1..4 => self.peer.read(),
                4 => self.drain(),
                _ => self.look(),
            },
        }
    }

    fn report(&mut self) {
        let dev_id = self.decisions.below(4);
        let record = R::any(&mut self.decisions, dev_id);
        let admitted = self.kept.admit(&record);
        let of_device = self.requests.values().filter(|request| request.record.dev_id() == dev_id).count();
        let depth = self.reporter.depth();
        let is_full = self.requests.len() == depth as usize || !self.kept.has_room(&record, depth);
        let is_device_full = of_device > 0 && of_device >= self.per_device as usize;
        let told = self.reporter.report(record);
        self.refused += u64::from(told.is_err());
        match told {
            Ok(cookie) => {
                assert!(admitted.is_ok() && self.end.is_none() && !is_full && !is_device_full && cookie != 0);
                let record = record.asked(0).under(cookie);
                self.kept.published(&record);
                self.published.push(record);
                let request = Request { record, ending: None, is_collected: false, is_held: true };
                assert!(self.requests.insert(cookie, request).is_none(), "a cookie that can be answered");
            }
            Err(ReportError::Refused(back, refusal)) => {
                assert_eq!((back, Err(refusal)), (record, admitted));
            }
            Err(ReportError::Closed(back)) => {
                assert!(admitted.is_ok() && (self.end.is_some() || self.peer.is_gone()));
                assert_eq!(back, record);
            }
            // The socket may be full, too.
            Err(ReportError::Full(back)) => {
                assert!(admitted.is_ok() && self.end.is_none() && (is_full || !is_device_full));
                assert_eq!(back, record);
            }
            Err(ReportError::DeviceFull(back)) => {
                assert!(admitted.is_ok() && self.end.is_none() && !is_full && is_device_full);
                assert_eq!(back, record);
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn make_answer(&mut self) {
        let lately = self.published.len().min(12) as u32;
        let cookie = match self.decisions.below(8) {
            0 => self.decisions.number(),
            _ if lately == 0 => 0,
            _ => self.published[self.published.len() - 1 - self.decisions.below(lately) as usize].cookie(),
        };
        let code = match self.decisions.below(16) {
            0 => self.decisions.number(),
            code => code % 6,
        };
        let mut bytes = [0; ANSWER];
        R::code(cookie, code).encode(&mut bytes);
        self.peer.pending.extend_from_slice(&bytes);
    }

    fn waiting(&self) -> usize {
        self.done.iter().map(Vec::len).sum()
    }

    fn complete(&mut self, cookies: Vec<u32>, verdict: R::Verdict, cause: Cause) {
        for cookie in &cookies {
            self.requests.get_mut(cookie).unwrap().ending = Some((verdict, cause));
        }
        if !cookies.is_empty() {
            self.done.push_back(cookies);
        }
    }

    /// Reads at most `most` answers; false when there are none.
    fn read_answers(&mut self, most: usize) -> bool {
        let read = self.peer.written.len().min(self.taken + most * ANSWER);
        self.part = read - self.taken;
        if self.part < ANSWER {
            if self.peer.is_gone() {
                self.hang_up();
            }
            return self.peer.is_gone();
        }
        while self.part >= ANSWER {
            let bytes = &self.peer.written[self.taken..self.taken + ANSWER];
            let [cookie, code] = [0, 4].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
            self.taken += ANSWER;
            self.part -= ANSWER;
            self.answer(cookie, code);
        }
        true
    }

    fn hang_up(&mut self) {
        let found = self.part;
        self.end = Some((found > 0).then_some(Violation::TornRecord { found, size: ANSWER }));
        let open = self.open(|_| true);
        self.complete(open, R::NO, Cause::HungUp);
        self.requests.values_mut().for_each(|request| request.is_held = false);
        self.requests.retain(|_, request| !request.is_collected);
    }

    fn answer(&mut self, cookie: u32, code: u32) {
        let Some(request) = self.requests.get_mut(&cookie).filter(|request| request.is_held) else {
            self.late += 1;
            return;
        };
        request.is_held = false;
        if request.ending.is_some() {
            self.late += 1;
            if request.is_collected {
                self.requests.remove(&cookie);
            }
            return;
        }
        match R::meaning(code) {
            Some(verdict) => self.complete(vec![cookie], verdict, Cause::Answered),
            None => self.complete(vec![cookie], R::NO, Cause::BadAnswer),
        }
    }

    fn open(&self, is_meant: impl Fn(&R) -> bool) -> Vec<u32> {
        let is_open = |request: &Request<R>| request.ending.is_none() && is_meant(&request.record);
        let open = self.requests.iter().filter(|(_, request)| is_open(request));
        open.map(|(cookie, _)| *cookie).collect()
    }

    fn read_every_answer(&mut self) {
        while self.end.is_none() && self.read_answers(MOST_ANSWERS) {}
    }

    fn cancel(&mut self, cause: Cause, is_meant: impl Fn(&R) -> bool) {
        let open = self.open(is_meant);
        self.cancelled.extend(&open);
        self.complete(open, R::NO, cause);
    }

    fn detach(&mut self, dev_id: u32) {
        self.read_every_answer();
        self.kept.detached(dev_id);
        self.cancel(Cause::Detached, |record| record.dev_id() == dev_id);
        assert_eq!(self.reporter.detach(dev_id), self.waiting());
    }

    fn process(&mut self, hour: u32) {
        if hour >= DEADLINE && !self.open(|_| true).is_empty() {
            self.read_every_answer();
            self.cancel(Cause::Deadline, |_| true);
        }
        if self.kept.is_due(hour) {
            self.read_every_answer();
            let open = self.open(|_| true);
            self.kept.repeat(hour, |cookie| open.contains(&cookie));
        }
        let now = self.began + hour * HOUR + HOUR / 2;
        assert_eq!(self.reporter.process(now), self.waiting());
        assert!(self.reporter.next_deadline().is_none_or(|next| next > now), "it did not act on all");
    }

    fn drain(&mut self) {
        let dev_id = self.decisions.below(4);
        self.read_every_answer();
        let open = self.open(|record| record.dev_id() == dev_id);
        match self.reporter.drain(dev_id, Duration::ZERO) {
            Ok(()) => assert!(open.is_empty()),
            Err(DrainError::Timeout) => assert!(!open.is_empty()),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn collect(&mut self, most: usize) -> Option<TryRecvError> {
        // An honest peer has sent no more late answers than there are slots.
        let missing = most.saturating_sub(self.waiting());
        for _ in 0..self.reporter.depth() as usize / missing.max(1) + 2 {
            if missing == 0 || self.end.is_some() || !self.read_answers(missing) || self.waiting() > 0 {
                break;
            }
        }
        let mut out = [Completion::default(); MOST];
        let count = match self.reporter.completions(&mut out[..most]) {
            Ok(count) => count,
            Err(error) => {
                assert_eq!(if self.end.is_some() { self.waiting() } else { self.waiting().min(most) }, 0);
                match &error {
                    TryRecvError::Empty => assert!(self.end.is_none() && most > 0),
                    TryRecvError::Closed => assert_eq!(self.end, Some(None)),
                    TryRecvError::PeerViolation(violation) => assert_eq!(self.end, Some(Some(*violation))),
                    error => panic!("{error:?}"),
                }
                return Some(error);
            }
        };
        assert_eq!(count, self.waiting().min(most));
        for completion in &out[..count] {
            let Completion { record, verdict, cause } = *completion;
            let cookie = record.cookie();
            let step = self.done.front_mut().unwrap();
            let place = step.iter().position(|done| *done == cookie).expect("a request of the earliest step");
            step.swap_remove(place);
            if step.is_empty() {
                self.done.pop_front();
            }
            let request = self.requests.get_mut(&cookie).unwrap();
            assert_eq!((record, Some((verdict, cause))), (request.record, request.ending));
            request.is_collected = true;
            if !request.is_held {
                self.requests.remove(&cookie);
            }
            self.kept.completed(completion);
            self.completed += 1;
        }
        None
    }

    fn look(&mut self) {
        let counters = self.reporter.counters();
        assert_eq!(counters.in_flight as usize, self.requests.len());
        assert_eq!(counters.unanswered as usize, self.open(|_| true).len());
        assert_eq!((counters.late_answers, counters.refused), (self.late, self.refused));
        assert!(counters.in_flight <= self.reporter.depth());
    }

    /// What the peer was given: requests in the order of their publication, a notice of each that was cancelled,
    /// and repeats of those that were open, with counts that grow.
    fn check_records(&mut self) {
        let mut published = self.published.iter();
        let mut cancelled = self.cancelled.clone();
        let mut counts: BTreeMap<u32, (R, u32)> = BTreeMap::new();
        for (number, bytes) in self.peer.read.chunks_exact(Event::<R>::SIZE).enumerate() {
            let event = Event::<R>::decode(bytes).unwrap();
            assert_eq!(event.header.sequence as usize, number);
            let (record, cookie) = (event.payload, event.payload.cookie());
            if event.header.flags.contains(EventFlags::CANCELLED) {
                let place = cancelled.iter().position(|of| *of == cookie);
                cancelled.swap_remove(place.expect("a request that was cancelled, and was not told"));
                let (first, _) = counts.remove(&cookie).expect("its request comes first");
                assert_eq!(record, R::notice(first.dev_id(), cookie));
                continue;
            }
            let count = record.asked_before();
            if count == 0 {
                assert_eq!(Some(&record), published.next(), "the next that was published");
                counts.insert(cookie, (record, 0));
                continue;
            }
            let (first, last) = counts.get_mut(&cookie).expect("neither cancelled nor before its request");
            assert_eq!(record, first.asked(count));
            assert!(count > *last && count <= self.kept.repeats(cookie));
            *last = count;
        }
    }

    fn finish(&mut self) {
        self.look();
        self.peer.read();
        self.peer.hang_up();
        self.check_records();
        let mut looks = 0;
        let end = loop {
            match self.collect(MOST) {
                None | Some(TryRecvError::Empty) => looks += 1,
                Some(end) => break end,
            }
            assert!(looks <= 2 + self.published.len() + self.peer.written.len() / ANSWER, "it does not end");
        };
        assert_eq!(self.completed, self.published.len() as u64, "each request completes exactly once");
        self.look();
        assert_eq!(self.reporter.next_deadline(), None);
        let counters = self.reporter.counters();
        let answered = counters.answered + counters.bad_answer;
        assert_eq!(answered + counters.late_answers, (self.peer.written.len() / ANSWER) as u64);
        let others = counters.detached + counters.deadline + counters.hung_up;
        assert_eq!(answered + others, self.completed);
        let again = self.collect(MOST).map(|again| again.errno());
        assert_eq!(again, Some(end.errno()));
        self.report();
    }
}
