//! A reporter of page faults: every group that it has published completes once.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use recordfd::Error;
use recordfd::fault::{
    Cause, FaultCompletion, FaultReporter, FaultRequest, Options, ReportError, Reported, ResponseCode, shared,
};
use recordfd::uapi::{Format, PageResponse, PageResponseCode, PgFaultPerm, Record};

use super::hostile::Hostile;
use super::model::Nothing;
use super::{LOOKS, SHORT, timed};
use crate::choices::Choices;
use crate::ring_peer::{RingPeer, Word};

pub(crate) fn make(format: Format, depth: u32, _: u32) -> (FaultReporter, RingPeer) {
    let (reporter, end) = shared(&options(depth).format(format)).unwrap();
    (reporter, RingPeer::attach(end))
}

pub(crate) fn attach(end: OwnedFd) -> Result<FaultReporter, Error> {
    Ok(FaultReporter::from_shared(end, &options(4))?)
}

fn options(depth: u32) -> Options {
    Options::new().depth(depth).per_device(depth).half_made(3)
}

pub(crate) struct Machine<C> {
    reporter: FaultReporter,
    pub(crate) hostile: Hostile<C>,
    /// Cookies of groups that were published and are not known to have completed.
    open: BTreeSet<u32>,
    /// Every answer that was in a slot when a call was made.
    answers: HashSet<(u32, u32)>,
    ended: Option<Nothing>,
    /// Of the next group.
    index: u32,
}

impl<C: Choices> Machine<C> {
    pub(crate) fn new(reporter: FaultReporter, hostile: Hostile<C>) -> Self {
        assert_eq!(reporter.depth(), hostile.peer.consumed.depth);
        let (open, answers) = (BTreeSet::new(), HashSet::new());
        Self { reporter, hostile, open, answers, ended: None, index: 0 }
    }

    pub(crate) fn step(&mut self) {
        let choice = self.hostile.choices.below(16);
        if choice < 6 {
            let open = &self.open;
            self.hostile.act(|choices| wire(choices, open));
            return;
        }
        self.note_answers();
        match choice {
            6..9 => self.report(),
            9..13 => self.collect(),
            13 => {
                let device = 1 + self.hostile.choices.below(2);
                timed("detach", || self.reporter.detach(device));
            }
            14 => {
                // Half-made groups are too old then.
                let then = Instant::now() + Duration::from_secs(u64::from(self.hostile.choices.below(3)));
                timed("process", || self.reporter.process(then));
            }
            _ => {
                let device = 1 + self.hostile.choices.below(2);
                let _ = timed("drain", || self.reporter.drain(device, SHORT));
            }
        }
        self.look();
    }

    /// Notes what can be taken for an answer by the next call.
    fn note_answers(&mut self) {
        let ring = &self.hostile.peer.produced;
        let slots = (0..ring.depth).map(|number| PageResponse::decode(&ring.slot(number)).unwrap());
        self.answers.extend(slots.map(|answer| (answer.cookie, answer.code.get())));
    }

    fn report(&mut self) {
        let pages = 1 + self.hostile.choices.below(3);
        let (dev_id, prg_index) = (1 + self.hostile.choices.below(2), self.index % 512);
        self.index += 1;
        for page in 1..=pages {
            let request = FaultRequest {
                dev_id,
                pasid: Some(1),
                prg_index,
                perm: PgFaultPerm::READ,
                last: page == pages,
                addr: u64::from(page),
                ..FaultRequest::default()
            };
            match timed("report", || self.reporter.report(request)) {
                Ok(Reported::HalfMade) => assert!(!request.last),
                Ok(Reported::Group { cookie }) => {
                    assert!(request.last && cookie != 0 && self.ended.is_none());
                    assert!(self.open.insert(cookie), "a cookie that is in use");
                    assert!(self.open.len() <= self.reporter.depth() as usize);
                }
                Ok(other) => panic!("{other:?}"),
                Err(ReportError::Closed(refused)) => {
                    assert_eq!(refused, request);
                    return;
                }
                Err(
                    ReportError::Full(_)
                    | ReportError::DeviceFull(_)
                    | ReportError::HalfMadeFull(_)
                    | ReportError::TooLarge(_),
                ) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn collect(&mut self) {
        let mut out = [FaultCompletion::default(); 6];
        let most = 1 + self.hostile.choices.below(6) as usize;
        let collected = if self.hostile.choices.once_in(6) {
            timed("wait_completions", || self.reporter.wait_completions(&mut out[..most], Some(SHORT)))
        } else {
            timed("completions", || self.reporter.completions(&mut out[..most]))
        };
        match collected.map_err(Nothing::from) {
            Ok(count) => out[..count].iter().for_each(|completion| self.note(completion)),
            Err(Nothing::Empty) => assert!(self.ended.is_none(), "it was at its end"),
            Err(end) => {
                assert!(self.open.is_empty(), "{end:?}, and these have not completed: {:x?}", self.open);
                assert!(self.ended.is_none_or(|ended| ended == end), "{end:?}, and before {:?}", self.ended);
                self.ended = Some(end);
            }
        }
    }

    fn note(&mut self, completion: &FaultCompletion) {
        let FaultCompletion { cookie, code, cause, .. } = *completion;
        if cause == Cause::Unfinished {
            // It was never published.
            return assert_eq!(cookie, 0);
        }
        assert!(self.open.remove(&cookie), "{completion:?} is of no open group");
        let was_answered = |is_meant: fn(u32) -> bool| {
            self.answers.iter().any(|(of, code)| *of == cookie && is_meant(*code))
        };
        let is_true = match (cause, code) {
            (Cause::Answered, ResponseCode::Success) => was_answered(|code| code == 0),
            (Cause::Answered, ResponseCode::Invalid) => was_answered(|code| code == 1),
            (Cause::BadAnswer, ResponseCode::Invalid) => was_answered(|code| code > 1),
            (Cause::Detached | Cause::HungUp, ResponseCode::Invalid) => true,
            _ => false,
        };
        assert!(is_true, "{completion:?}");
    }

    fn look(&self) {
        let counters = self.reporter.counters();
        assert!(counters.unanswered as usize <= self.open.len());
        assert!(counters.in_flight <= self.reporter.depth());
        if self.ended.is_some() {
            assert_eq!((counters.in_flight, counters.half_made), (0, 0));
            assert!(self.reporter.is_closed() || self.hostile.peer.produced.get(Word::Gone) == 0);
        }
    }

    /// Behind its end, everything has completed.
    pub(crate) fn finish(mut self) {
        self.hostile.peer.hang_up();
        for _ in 0..self.reporter.depth() + LOOKS {
            self.note_answers();
            self.collect();
        }
        assert!(self.ended.is_some(), "it does not end");
        self.look();
        drop(self.reporter);
        assert_eq!(self.hostile.peer.consumed.get(Word::Gone), 1);
    }
}

/// An answer, mostly to an open group.
fn wire(choices: &mut impl Choices, open: &BTreeSet<u32>) -> Vec<u8> {
    let which = choices.below(16) as usize;
    let cookie = match open.iter().nth(which % open.len().max(1)) {
        Some(cookie) if which < 15 => *cookie,
        _ => choices.below(u32::MAX),
    };
    let code = PageResponseCode::new(choices.below(16).saturating_sub(12));
    let mut bytes = vec![0; PageResponse::SIZE];
    PageResponse { cookie, code }.encode(&mut bytes);
    bytes
}
