//! The reporter's side: a ledger, the records that go out, the answers that come back.

use std::time::Instant;

use super::link::{Link, Withdrawal};
use super::{Completion, Group, Ledger, MustAnswer, PublishError};
use crate::error::{Error, TryRecvError, TrySendError, Violation};

/// Answers taken in with one look.
const MOST_ANSWERS: usize = 2048;

#[derive(Debug)]
pub(crate) struct Reporter<A: MustAnswer> {
    ledger: Ledger<A>,
    link: Link<A>,
    /// Records that wait to be sent together. Their slots are taken.
    staged: Vec<A>,
    end: Option<End>,
    /// Waits for completions that ended by looking, and by a sleep.
    pub(crate) waits: (u64, u64),
}

/// Why no answer will come any more.
#[derive(Clone, Copy, Debug)]
enum End {
    HungUp,
    Violation(Violation),
}

impl<A: MustAnswer> Reporter<A> {
    pub(crate) fn new(ledger: Ledger<A>, link: Link<A>) -> Self {
        let staged = Vec::with_capacity(link.most());
        Self { ledger, link, staged, end: None, waits: (0, 0) }
    }

    pub(crate) fn ledger(&self) -> &Ledger<A> {
        &self.ledger
    }

    /// Whether no answer will come any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// The most records of a group.
    pub(crate) fn most(&self) -> usize {
        self.link.most()
    }

    /// Whether [`stage`](Self::stage) has room for a group of `count` records before a flush.
    pub(crate) fn can_stage(&self, count: usize) -> bool {
        self.staged.len() + count <= self.link.most()
    }

    /// Takes a group of `count` records, to be sent by [`flush`](Self::flush).
    pub(crate) fn stage(
        &mut self,
        group: &Group<A>,
        count: usize,
        record: impl Fn(usize) -> A,
        now: Instant,
    ) -> Result<u32, PublishError> {
        let cookie = self.open(group, count as u32, now)?;
        self.staged.extend((0..count).map(|index| record(index).grouped(cookie, index + 1 == count)));
        Ok(cookie)
    }

    /// Sends the groups that are staged. Returns how many were accepted, and why the next one was not;
    /// that one and those behind it are as if they had never been staged.
    pub(crate) fn flush(&mut self) -> (usize, Result<(), PublishError>) {
        if self.staged.is_empty() {
            return (0, Ok(()));
        }
        let (sent, outcome) = match self.send_staged() {
            Ok(sent) if sent == self.staged.len() => (sent, Ok(())),
            Ok(sent) => (sent, Err(PublishError::Full)),
            Err(error) => (0, Err(error.into())),
        };
        let (accepted, refused) = self.staged.split_at(sent);
        refused.iter().filter(|record| record.is_last()).for_each(|record| self.ledger.undo(record.cookie()));
        let accepted = accepted.iter().filter(|record| record.is_last()).count();
        self.staged.clear();
        (accepted, outcome)
    }

    /// Sends a group of `count` records, at most [`most`](Self::most), by itself; returns its cookie.
    pub(crate) fn publish(
        &mut self,
        group: &Group<A>,
        count: usize,
        record: impl Fn(usize) -> A,
        now: Instant,
    ) -> Result<u32, PublishError> {
        let cookie = self.stage(group, count, record, now)?;
        self.flush().1?;
        Ok(cookie)
    }

    /// Sends what is staged, as many whole groups as fit; returns how many records.
    fn send_staged(&mut self) -> Result<usize, TrySendError<()>> {
        // First, so that notices never pile up: a slot has at most one.
        self.tell_cancelled()?;
        self.link.send(&self.staged)
    }

    fn open(&mut self, group: &Group<A>, count: u32, now: Instant) -> Result<u32, PublishError> {
        if self.end.is_some() {
            return Err(PublishError::Closed);
        }
        self.ledger.open(group, count, now)
    }

    /// Takes completions out, at most `most`, of which `sink` is given each. It reads no more answers from
    /// a descriptor than may complete that many groups, so that it stays readable while there are more.
    pub(crate) fn collect(
        &mut self,
        most: usize,
        sink: impl FnMut(Completion<A>),
    ) -> Result<usize, TryRecvError> {
        let mut read = Ok(());
        let missing = most.saturating_sub(self.ledger.waiting());
        // Late answers complete nothing; an honest peer has no more of them than there are slots.
        for _ in 0..self.ledger.depth() as usize / missing.max(1) + 2 {
            if missing == 0 || self.end.is_some() || read.is_err() {
                break;
            }
            read = self.read_answers(missing);
            if self.ledger.waiting() > 0 {
                break;
            }
        }
        // What cannot be told now is told later.
        let _ = self.tell_cancelled();
        let count = self.ledger.waiting().min(most);
        std::iter::from_fn(|| self.ledger.take()).take(count).for_each(sink);
        match (count, self.end, read) {
            (0, ..) if self.ledger.waiting() > 0 => Ok(0),
            (0, Some(End::HungUp), _) => Err(TryRecvError::Closed),
            (0, Some(End::Violation(violation)), _) => Err(TryRecvError::PeerViolation(violation)),
            (0, None, Err(error)) => Err(error),
            (0, None, Ok(())) if most > 0 => Err(TryRecvError::Empty),
            _ => Ok(count),
        }
    }

    /// Sends the record of an open group of one again, behind every notice.
    pub(crate) fn repeat(&mut self, record: &A) -> Result<(), TrySendError<()>> {
        self.tell_cancelled()?;
        self.link.repeat(record)
    }

    /// Completes every group that `is_meant`, by its device and tag, and is not answered by now.
    pub(crate) fn detach(&mut self, is_meant: impl Fn(u32, &A::Tag) -> bool) {
        self.cancel(|ledger, withdrawal| ledger.detach(&is_meant, |cookie| withdrawal.take_back(cookie)));
    }

    /// Completes every group whose time is up and that is not answered by now; false when it is no
    /// group's time.
    pub(crate) fn process(&mut self, now: Instant) -> bool {
        let is_due = self.ledger.next_deadline().is_some_and(|deadline| deadline <= now);
        if is_due {
            self.cancel(|ledger, withdrawal| ledger.expire(now, |cookie| withdrawal.take_back(cookie)));
        }
        is_due
    }

    /// Completes groups without their answer. `complete` says whether it met none that has one.
    fn cancel(&mut self, complete: impl Fn(&mut Ledger<A>, &mut Withdrawal<'_, A>) -> bool) {
        self.read_every_answer();
        let unanswered = self.ledger.unanswered();
        // An answer that it meets is there to be taken in, so there are fewer each time.
        while !complete(&mut self.ledger, &mut self.link.withdrawal()) {
            self.read_every_answer();
        }
        let _ = self.tell_cancelled();
        if self.ledger.unanswered() < unanswered {
            self.link.note_completions();
        }
    }

    /// Nothing more is reported.
    pub(crate) fn release(&mut self) {
        self.link.release();
    }

    /// See [`Link::use_asymmetric_fence`].
    pub(crate) fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        self.link.use_asymmetric_fence()
    }

    /// Wants no wake-up until the next look, for its user looks by itself.
    #[cfg(feature = "local")]
    pub(crate) fn stay_awake(&mut self) {
        if let Link::Local(reporter) = &mut self.link {
            reporter.stay_awake();
        }
    }

    /// Behind each look: sees to it that the descriptor tells what is left, and whether there is `more`.
    /// True: nothing is.
    pub(crate) fn rest(&mut self, more: bool) -> bool {
        self.link.rest(more || self.ledger.waiting() > 0 || self.end.is_some())
    }

    /// Whether `dev_id` has a group that is not completed by now.
    pub(crate) fn has_open(&mut self, dev_id: u32) -> bool {
        self.read_every_answer();
        self.ledger.has_open(dev_id)
    }

    /// Takes in every answer that has come; no more than an honest peer can have sent. An error of the
    /// descriptor comes again when completions are collected.
    pub(crate) fn read_every_answer(&mut self) {
        for _ in 0..=self.ledger.depth() as usize / MOST_ANSWERS + 1 {
            if self.end.is_some() || self.read_answers(MOST_ANSWERS).is_err() {
                break;
            }
        }
    }

    /// Takes in at most `most` answers; notes the end of them.
    fn read_answers(&mut self, most: usize) -> Result<(), TryRecvError> {
        if self.end.is_some() {
            return Ok(());
        }
        let ledger = &mut self.ledger;
        let outcome = self.link.recv(most, |answer| {
            let (cookie, verdict) = A::verdict(answer);
            ledger.answer(cookie, verdict);
        });
        self.end = match outcome {
            Ok(()) => None,
            Err(TryRecvError::Closed) => Some(End::HungUp),
            Err(TryRecvError::PeerViolation(violation)) => Some(End::Violation(violation)),
            Err(error) => return Err(error),
        };
        if self.end.is_some() {
            self.ledger.hang_up();
        }
        Ok(())
    }

    /// Writes the rest of cut records and every notice of a cancelled group, as far as there is room.
    fn tell_cancelled(&mut self) -> Result<(), TrySendError<()>> {
        self.link.finish()?;
        while let Some((dev_id, cookie)) = self.ledger.untold() {
            self.link.send_cancelled(dev_id, cookie)?;
            self.ledger.told();
        }
        Ok(())
    }
}
