//! A reporter whose peer answers anything: every published group completes exactly once, and as the
//! first answer to it says.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use recordfd::fault::{
    Cause, FaultCompletion, FaultReporter, FaultRequest, ReportError, Reported, ResponseCode, socket,
};
use recordfd::uapi::{
    Event, EventFlags, PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm, Record,
};
use recordfd::{TryRecvError, Violation};

use crate::choices::Choices;
use crate::{Bytes, Peer, options};

const DEADLINE: Duration = Duration::from_secs(3600);
const MOST: usize = 12;
const ANSWER: usize = PageResponse::SIZE;

/// What is known of a group that was published and can still be answered, or waits to be collected.
#[derive(Debug)]
struct Group {
    dev_id: u32,
    prg_index: u32,
    ending: Option<(ResponseCode, Cause)>,
    collected: bool,
    /// The responder may still answer it.
    held: bool,
}

struct Reporter<'a> {
    choices: Bytes<'a>,
    reporter: FaultReporter,
    peer: Peer,
    headed: bool,
    groups: BTreeMap<u32, Group>,
    /// In the order of their completion, which within a step is not known.
    done: VecDeque<Vec<u32>>,
    /// Bytes of answers read, the beginning of one included, and those of whole answers.
    read: usize,
    taken: usize,
    end: Option<Option<Violation>>,
    /// Cookies of all published groups, in order, with their pages.
    published: Vec<(u32, u32)>,
    completed: u64,
    late: u64,
    /// Cookies completed without their answer.
    cancelled: Vec<u32>,
    pages: u64,
    /// Pages of half-made groups, by device and group index.
    half_made: BTreeMap<(u32, u32), u32>,
}

pub(crate) fn run(mut choices: Bytes<'_>) {
    let headed = choices.once_in(2);
    let depth = 1 + choices.below(10);
    let options = options(headed, depth).per_device(1 + choices.below(depth)).deadline(DEADLINE);
    let (reporter, peer) = match choices.below(4) {
        0 => {
            // A socket that nobody has given room for so many groups.
            let (near, far) = UnixStream::pair().unwrap();
            let format = socket(&options).unwrap().1.info().format;
            (FaultReporter::from_socket(near.into(), format, &options).unwrap(), far)
        }
        _ => {
            let (reporter, end) = socket(&options).unwrap();
            (reporter, UnixStream::from(OwnedFd::from(end)))
        }
    };
    let mut run = Reporter {
        choices,
        reporter,
        peer: Peer::new(peer),
        headed,
        groups: BTreeMap::new(),
        done: VecDeque::new(),
        read: 0,
        taken: 0,
        end: None,
        published: Vec::new(),
        completed: 0,
        late: 0,
        cancelled: Vec::new(),
        pages: 0,
        half_made: BTreeMap::new(),
    };
    while !run.choices.is_used_up() {
        run.step();
    }
    run.finish();
}

impl Reporter<'_> {
    fn step(&mut self) {
        match self.choices.below(16) {
            0..4 => self.report(),
            4..7 => self.make_answer(),
            7 => {
                let count = self.choices.below(20);
                for _ in 0..count {
                    let byte = self.choices.below(256) as u8;
                    self.peer.pending.push(byte);
                }
            }
            8..10 => {
                let most = self.choices.below(256) as usize;
                self.peer.write(most);
            }
            10..13 => {
                let most = self.choices.below(MOST as u32 + 1) as usize;
                let _ = self.collect(most);
            }
            13 => {
                let dev_id = self.choices.below(3);
                self.detach(dev_id);
            }
            14 => self.process(),
            _ => match self.choices.below(8) {
                0 => self.peer.hang_up(),
                1..5 => self.peer.read(),
                _ => self.look(),
            },
        }
    }

    /// Reports the pages of a group, which are all taken or, with the last one, none.
    fn report(&mut self) {
        let dev_id = self.choices.below(3);
        let count = 1 + self.choices.below(3);
        let prg_index = self.published.len() as u32 % 512;
        for number in 1..=count {
            self.pages += 1;
            let request = FaultRequest {
                dev_id,
                prg_index,
                perm: PgFaultPerm::READ,
                last: number == count,
                addr: self.pages,
                ..FaultRequest::default()
            };
            match self.reporter.report(request) {
                Ok(Reported::HalfMade) => *self.half_made.entry((dev_id, prg_index)).or_insert(0) += 1,
                Ok(Reported::Group { cookie }) => {
                    assert!(self.end.is_none() && request.last && cookie != 0);
                    let before = self.half_made.remove(&(dev_id, prg_index)).unwrap_or(0);
                    self.published.push((cookie, before + 1));
                    let group = Group { dev_id, prg_index, ending: None, collected: false, held: true };
                    assert!(self.groups.insert(cookie, group).is_none(), "a cookie that can be answered");
                }
                Err(ReportError::Closed(_)) => assert!(self.peer.is_gone() || self.end.is_some()),
                Err(ReportError::TooLarge(_)) if request.last => {
                    self.half_made.remove(&(dev_id, prg_index));
                }
                Err(
                    ReportError::Full(_)
                    | ReportError::DeviceFull(_)
                    | ReportError::HalfMadeFull(_)
                    | ReportError::TooLarge(_),
                ) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn make_answer(&mut self) {
        let lately = self.published.len().min(12) as u32;
        let cookie = match self.choices.below(8) {
            0 => self.choices.number(),
            _ if lately == 0 => 0,
            _ => self.published[self.published.len() - 1 - self.choices.below(lately) as usize].0,
        };
        let code = match self.choices.below(8) {
            0 => self.choices.number(),
            code => code % 2,
        };
        let mut bytes = [0; ANSWER];
        PageResponse { cookie, code: PageResponseCode::new(code) }.encode(&mut bytes);
        self.peer.pending.extend_from_slice(&bytes);
    }

    fn waiting(&self) -> usize {
        self.done.iter().map(Vec::len).sum()
    }

    fn complete(&mut self, cookies: Vec<u32>, code: ResponseCode, cause: Cause) {
        for cookie in &cookies {
            self.groups.get_mut(cookie).unwrap().ending = Some((code, cause));
        }
        if !cookies.is_empty() {
            self.done.push_back(cookies);
        }
    }

    /// Reads at most `most` answers; false when there are none.
    fn read_answers(&mut self, most: usize) -> bool {
        self.read = self.peer.written.len().min(self.taken + most * ANSWER);
        if self.read - self.taken < ANSWER {
            if self.peer.is_gone() {
                self.hang_up();
            }
            return self.peer.is_gone();
        }
        while self.read - self.taken >= ANSWER {
            let bytes = &self.peer.written[self.taken..self.taken + ANSWER];
            let answer = PageResponse::decode(bytes).unwrap();
            self.taken += ANSWER;
            self.answer(answer);
        }
        true
    }

    fn hang_up(&mut self) {
        let found = self.read - self.taken;
        self.end = Some((found > 0).then_some(Violation::TornRecord { found, size: ANSWER }));
        let open = self.open(|_| true);
        self.complete(open, ResponseCode::Invalid, Cause::HungUp);
        self.groups.values_mut().for_each(|group| group.held = false);
        self.groups.retain(|_, group| !group.collected);
        self.half_made.clear();
    }

    fn answer(&mut self, PageResponse { cookie, code }: PageResponse) {
        let Some(group) = self.groups.get_mut(&cookie).filter(|group| group.held) else {
            self.late += 1;
            return;
        };
        group.held = false;
        if group.ending.is_some() {
            self.late += 1;
            if group.collected {
                self.groups.remove(&cookie);
            }
            return;
        }
        let (code, cause) = match code.get() {
            0 => (ResponseCode::Success, Cause::Answered),
            1 => (ResponseCode::Invalid, Cause::Answered),
            _ => (ResponseCode::Invalid, Cause::BadAnswer),
        };
        self.complete(vec![cookie], code, cause);
    }

    fn open(&self, is_meant: impl Fn(&Group) -> bool) -> Vec<u32> {
        let open = self.groups.iter().filter(|(_, group)| group.ending.is_none() && is_meant(group));
        open.map(|(cookie, _)| *cookie).collect()
    }

    fn read_every_answer(&mut self) {
        while self.end.is_none() && self.read_answers(2048) {}
    }

    fn cancel(&mut self, cause: Cause, is_meant: impl Fn(&Group) -> bool) {
        let open = self.open(is_meant);
        self.cancelled.extend(&open);
        self.complete(open, ResponseCode::Invalid, cause);
    }

    fn detach(&mut self, dev_id: u32) {
        self.read_every_answer();
        self.half_made.retain(|(id, _), _| *id != dev_id);
        self.cancel(Cause::Detached, |group| group.dev_id == dev_id);
        assert_eq!(self.reporter.detach(dev_id), self.waiting());
    }

    fn process(&mut self) {
        if self.choices.once_in(2) {
            assert_eq!(self.reporter.process(Instant::now()), self.waiting());
            return;
        }
        // Half-made groups that wait too long are none of what is looked at here.
        while let Some((dev_id, _)) = self.half_made.keys().next().copied() {
            self.detach(dev_id);
        }
        if !self.open(|_| true).is_empty() {
            self.read_every_answer();
            self.cancel(Cause::Deadline, |_| true);
        }
        assert_eq!(self.reporter.process(Instant::now() + DEADLINE), self.waiting());
    }

    fn collect(&mut self, most: usize) -> Option<TryRecvError> {
        // An honest peer has sent no more late answers than there are slots.
        let missing = most.saturating_sub(self.waiting());
        for _ in 0..self.reporter.depth() as usize / missing.max(1) + 2 {
            if missing == 0 || self.end.is_some() || !self.read_answers(missing) || self.waiting() > 0 {
                break;
            }
        }
        let mut out = [FaultCompletion::default(); MOST];
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
            let FaultCompletion { dev_id, pasid: None, prg_index, cookie, code, cause, .. } = *completion
            else {
                panic!("{completion:?}")
            };
            let step = self.done.front_mut().unwrap();
            let place = step.iter().position(|done| *done == cookie).expect("a group of the earliest step");
            step.swap_remove(place);
            if step.is_empty() {
                self.done.pop_front();
            }
            let group = self.groups.get_mut(&cookie).unwrap();
            assert_eq!((dev_id, prg_index), (group.dev_id, group.prg_index));
            assert_eq!(group.ending, Some((code, cause)));
            group.collected = true;
            if !group.held {
                self.groups.remove(&cookie);
            }
            self.completed += 1;
        }
        None
    }

    fn look(&mut self) {
        let counters = self.reporter.counters();
        assert_eq!(counters.in_flight as usize, self.groups.len());
        assert_eq!(counters.unanswered as usize, self.open(|_| true).len());
        assert_eq!(counters.late_answers, self.late);
        assert_eq!(counters.half_made as usize, self.half_made.len());
        assert!(counters.in_flight <= self.reporter.depth());
    }

    /// What the peer was given: whole groups in the order of their publication, and notices of those
    /// that were cancelled, each once.
    fn check_records(&mut self) {
        let size = if self.headed { Event::<PgFault>::SIZE } else { PgFault::SIZE };
        let mut groups = self.published.iter();
        let (mut left, mut cookie) = (0, 0);
        let mut cancelled = self.cancelled.clone();
        for (number, bytes) in self.peer.read.chunks_exact(size).enumerate() {
            let page = if self.headed {
                let event = Event::<PgFault>::decode(bytes).unwrap();
                assert_eq!(event.header.sequence as usize, number);
                if event.header.flags.contains(EventFlags::CANCELLED) {
                    let place = cancelled.iter().position(|cookie| *cookie == event.payload.cookie);
                    cancelled.swap_remove(place.expect("a group that was cancelled"));
                    continue;
                }
                event.payload
            } else {
                PgFault::decode(bytes).unwrap()
            };
            if left == 0 {
                (cookie, left) = *groups.next().expect("a group that was published");
            }
            left -= 1;
            assert_eq!(page.cookie, cookie);
            assert_eq!(page.flags.contains(PgFaultFlags::LAST_PAGE), left == 0);
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
        assert_eq!(self.completed, self.published.len() as u64, "each group completes exactly once");
        self.look();
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
