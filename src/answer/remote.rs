//! The reporter's side of a transport: a ledger, the records that go out, the answers that come back.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::wire::RecordTx;
use super::{Completion, Group, Ledger, MustAnswer, PublishError};
use crate::error::{TryRecvError, TrySendError, Violation};
use crate::transport::{Rx, RxCarrier, socket};

/// Answers taken in with one look.
const MOST_ANSWERS: usize = 2048;

#[derive(Debug)]
pub(crate) struct RemoteReporter<A: MustAnswer> {
    ledger: Ledger<A>,
    tx: RecordTx<A>,
    answers: Rx<A::Answer>,
    /// Groups of one record that wait to be sent together. Their slots are taken.
    staged: Vec<A>,
    end: Option<End>,
}

/// Why no answer will come any more.
#[derive(Clone, Copy, Debug)]
enum End {
    HungUp,
    Violation(Violation),
}

impl<A: MustAnswer> RemoteReporter<A> {
    pub(crate) fn new(socket: Arc<OwnedFd>, ledger: Ledger<A>, headed: bool) -> Self {
        let tx = RecordTx::new(socket.clone(), ledger.depth(), headed);
        let staged = Vec::with_capacity(tx.most());
        let answers = Rx::new(RxCarrier::Socket(socket::Rx::new(socket)));
        Self { ledger, tx, answers, staged, end: None }
    }

    pub(crate) fn ledger(&self) -> &Ledger<A> {
        &self.ledger
    }

    /// The most records of a group.
    pub(crate) fn most(&self) -> usize {
        self.tx.most()
    }

    /// Takes a group of one record, to be sent by [`flush`](Self::flush).
    pub(crate) fn stage(&mut self, group: &Group<A>, record: A, now: Instant) -> Result<u32, PublishError> {
        let cookie = self.ledger.open(group.dev_id, group.tag, now, true)?;
        self.staged.push(record.grouped(cookie, true));
        Ok(cookie)
    }

    /// Whether [`stage`](Self::stage) must not be called before a flush.
    pub(crate) fn is_stage_full(&self) -> bool {
        self.staged.len() == self.staged.capacity().min(self.tx.most())
    }

    /// Sends what is staged, all of it or nothing; returns how many groups.
    pub(crate) fn flush(&mut self) -> Result<usize, PublishError> {
        let count = self.staged.len();
        if count == 0 {
            return Ok(0);
        }
        let outcome = self.send(count);
        if outcome.is_err() {
            self.staged.iter().for_each(|record| self.ledger.undo(record.cookie()));
        }
        self.staged.clear();
        outcome.map(|()| count)
    }

    /// Sends a group of `count` records, whole or not at all. Nothing is staged.
    pub(crate) fn publish(
        &mut self,
        group: &Group<A>,
        count: usize,
        record: impl Fn(usize) -> A,
        now: Instant,
    ) -> Result<u32, PublishError> {
        let cookie = self.ledger.open(group.dev_id, group.tag, now, true)?;
        self.staged.extend((0..count).map(|index| record(index).grouped(cookie, index + 1 == count)));
        let outcome = self.send(count);
        self.staged.clear();
        if outcome.is_err() {
            self.ledger.undo(cookie);
        }
        outcome.map(|()| cookie)
    }

    fn send(&mut self, count: usize) -> Result<(), PublishError> {
        if self.end.is_some() {
            return Err(PublishError::Closed);
        }
        // First, so that notices are told in bounded space: one slot has at most one.
        self.tell_cancelled()?;
        let staged = &self.staged;
        self.tx.send(count, |index| staged[index])?;
        Ok(())
    }

    /// Takes completions out, at most `most`, of which `sink` is given each; reads no more answers from
    /// the descriptor than that takes, so that it stays readable while there are more.
    pub(crate) fn collect(
        &mut self,
        most: usize,
        mut sink: impl FnMut(Completion<A>),
    ) -> Result<usize, TryRecvError> {
        let missing = most.saturating_sub(self.ledger.waiting());
        let read = if missing > 0 { self.read_answers(missing) } else { Ok(()) };
        // What cannot be told now is told later.
        let _ = self.tell_cancelled();
        let count = self.ledger.waiting().min(most);
        std::iter::from_fn(|| self.ledger.take()).take(count).for_each(&mut sink);
        match (count, self.end, read) {
            (0, Some(End::HungUp), _) => Err(TryRecvError::Closed),
            (0, Some(End::Violation(violation)), _) => Err(TryRecvError::PeerViolation(violation)),
            (0, None, Err(error)) => Err(error),
            (0, None, Ok(())) if most > 0 => Err(TryRecvError::Empty),
            _ => Ok(count),
        }
    }

    /// Completes every group of `dev_id` that is not answered by now.
    pub(crate) fn detach(&mut self, dev_id: u32) {
        self.read_every_answer();
        self.ledger.detach(dev_id);
        let _ = self.tell_cancelled();
    }

    /// Completes every group whose time is up and that is not answered by now.
    pub(crate) fn process(&mut self, now: Instant) {
        self.read_every_answer();
        self.ledger.expire(now);
        let _ = self.tell_cancelled();
    }

    /// Takes in every answer that has come; no more than an honest peer can have sent. An error of the
    /// descriptor comes again when completions are collected.
    fn read_every_answer(&mut self) {
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
        let outcome = self.answers.recv(most, |answer| {
            let (cookie, verdict) = A::verdict(answer);
            ledger.answer(cookie, verdict);
            Ok(())
        });
        self.end = match outcome {
            Ok(_) => None,
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
        self.tx.finish()?;
        while let Some((dev_id, cookie)) = self.ledger.untold() {
            self.tx.send_cancelled(dev_id, cookie)?;
            self.ledger.told(cookie);
        }
        Ok(())
    }
}
