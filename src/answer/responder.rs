//! The responder's side of a transport. The reporter is not trusted: what it sends is checked, and what
//! it does not read holds nobody up.

use std::ops::Range;
use std::sync::Arc;

use super::open::OpenGroups;
use super::wire::RecordRx;
use super::{MustAnswer, Notice};
use crate::error::{Error, RespondError, TryRecvError, TrySendError, Violation};
use crate::sync::{Mutex, lock};
use crate::sys::{Owned, Release};
use crate::transport::{Remote, RemoteTx};

/// What has been received and not answered. Groups answer through it from any thread.
#[derive(Debug)]
pub(crate) struct RemoteResponder<A: MustAnswer> {
    answers: Mutex<Answers<A>>,
}

#[derive(Debug)]
struct Answers<A: MustAnswer> {
    tx: RemoteTx<A::Answer>,
    open: OpenGroups,
    /// Groups whose user dropped them, to be answered negatively. They are in `open` until then.
    owed: Vec<u32>,
}

impl<A: MustAnswer> RemoteResponder<A> {
    /// A responder with at most `depth` groups open.
    pub(crate) fn new(remote: &Remote, depth: u32) -> Self {
        let answers = Answers {
            // The kernel alone says when there is no room; there always is with an honest reporter.
            tx: remote.tx(u32::MAX),
            open: OpenGroups::new(depth as usize),
            owed: Vec::with_capacity(depth as usize),
        };
        Self { answers: Mutex::new(answers) }
    }

    pub(crate) fn respond(&self, cookie: u32, verdict: A::Verdict) -> Result<(), RespondError<()>> {
        let mut answers = lock(&self.answers);
        answers.flush_owed()?;
        if !answers.open.contains(cookie) {
            return Err(RespondError::StaleCookie);
        }
        match answers.tx.send(1, |_| A::answer(cookie, verdict)) {
            // Nobody will ever take it.
            Err(error @ TrySendError::Closed(())) => {
                answers.open.remove(cookie);
                Err(error.into())
            }
            outcome => {
                outcome?;
                answers.open.remove(cookie);
                Ok(())
            }
        }
    }

    /// Sends answers in order, up to the first that cannot be sent; returns how many.
    pub(crate) fn respond_batch(&self, batch: &[A::Answer]) -> Result<usize, RespondError<()>> {
        let mut answers = lock(&self.answers);
        if !batch.is_empty() {
            answers.flush_owed()?;
        }
        let (mut good, mut outcome) = (0, Ok(()));
        for answer in batch {
            let (cookie, verdict) = A::verdict(answer);
            // Claimed, so that a cookie that comes twice is bad the second time.
            if verdict.is_none() {
                outcome = Err(RespondError::Code);
            } else if !answers.open.claim(cookie) {
                outcome = Err(RespondError::StaleCookie);
            }
            if outcome.is_err() {
                break;
            }
            good += 1;
        }
        let sent = answers.tx.send(good, |index| batch[index]);
        let count = *sent.as_ref().unwrap_or(&0);
        for (index, answer) in batch[..good].iter().enumerate() {
            let cookie = A::verdict(answer).0;
            if index < count {
                answers.open.remove(cookie);
            } else {
                answers.open.unclaim(cookie);
            }
        }
        match (count, sent, outcome) {
            (0, Err(error), _) => Err(error.into()),
            (0, Ok(_), Err(error)) => Err(error),
            _ => Ok(count),
        }
    }

    /// Owes the group its negative answer: sends it now or at a later call.
    pub(crate) fn give_up(&self, cookie: u32) {
        let mut answers = lock(&self.answers);
        if answers.open.contains(cookie) {
            answers.owed.push(cookie);
            // Without room it stays owed; with nobody there, nothing is.
            let _ = answers.flush_owed();
        }
    }

    /// Leaves fences to the reporter, where it makes them for both.
    pub(crate) fn leave_fences(&self) -> Result<(), Error> {
        lock(&self.answers).tx.leave_fences()
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        lock(&self.answers).open.is_cancelled(cookie)
    }

    /// The next notice and whose it is; each is told once.
    pub(crate) fn next_notice(&self) -> Option<(u32, Notice)> {
        lock(&self.answers).open.next_notice()
    }

    pub(crate) fn open_cookies(&self) -> Vec<u32> {
        lock(&self.answers).open.cookies()
    }
}

impl<A: MustAnswer> Release for RemoteResponder<A> {
    fn release(&mut self) {
        lock(&self.answers).tx.release();
    }
}

impl<A: MustAnswer> Answers<A> {
    fn flush_owed(&mut self) -> Result<(), RespondError<()>> {
        // The rest of an answer that someone's change of the send buffer cut.
        match self.tx.finish() {
            Err(TrySendError::Closed(())) => {}
            outcome => outcome?,
        }
        while !self.owed.is_empty() {
            let owed = &self.owed;
            let sent = match self.tx.send(owed.len(), |index| A::answer(owed[index], A::NEGATIVE)) {
                Err(TrySendError::Closed(())) => owed.len(),
                outcome => outcome?,
            };
            for index in 0..sent {
                self.open.remove(self.owed[index]);
            }
            self.owed.drain(..sent);
        }
        Ok(())
    }
}

/// Puts groups together from the records that come.
#[derive(Debug)]
pub(crate) struct GroupReader<A: MustAnswer> {
    pub(crate) rx: RecordRx<A>,
    pub(crate) responder: Arc<Owned<RemoteResponder<A>>>,
    /// The records of a group that came so far.
    part: Vec<A>,
    /// The most records of a group.
    most: usize,
}

impl<A: MustAnswer> GroupReader<A> {
    pub(crate) fn new(rx: RecordRx<A>, responder: Arc<Owned<RemoteResponder<A>>>) -> Self {
        let most = rx.most_of_group();
        Self { rx, responder, part: Vec::with_capacity(most), most }
    }

    /// Reads once, at most `most` records. Groups that are complete go to `pages`, one behind the other,
    /// and `sink` is told of each: its cookie and its place.
    pub(crate) fn read(
        &mut self,
        pages: &mut [A],
        most: usize,
        mut sink: impl FnMut(u32, Range<usize>),
    ) -> Result<(), TryRecvError> {
        let responder = self.responder.get()?;
        let part = &mut self.part;
        // What is read must fit, for it cannot be put back.
        let room = pages.len().saturating_sub(part.len());
        if room == 0 && most > 0 {
            return Err(TryRecvError::BufferTooSmall { needed: part.len() + 1 });
        }
        let answers = &mut *lock(&responder.answers);
        let _ = answers.flush_owed();
        let mut filled = 0;
        let outcome = self.rx.recv(most.min(room), |record, cancelled| {
            let cookie = record.cookie();
            match part.first() {
                Some(first) if cancelled || first.cookie() != cookie => return Err(Violation::GroupNotEnded),
                Some(first) if !record.is_of_group(first) => return Err(Violation::GroupMixed),
                _ if cookie == 0 => return Err(Violation::ZeroCookie),
                None if cancelled => {
                    answers.open.cancel(cookie);
                    return Ok(());
                }
                // It opens nothing: an answer may have crossed it.
                None if record.repeats() > 0 => {
                    answers.open.repeat(cookie, record.repeats());
                    return Ok(());
                }
                // At once, for a slice for the largest group has no room for a page more.
                _ if part.len() + 1 == self.most && !record.is_last() => {
                    return Err(Violation::GroupTooLarge);
                }
                None => answers.open.check(cookie)?,
                Some(_) => {}
            }
            part.push(*record);
            if record.is_last() {
                answers.open.insert(cookie);
                let place = filled..filled + part.len();
                pages[place.clone()].copy_from_slice(part);
                filled = place.end;
                part.clear();
                sink(cookie, place);
            }
            Ok(())
        });
        match outcome {
            Err(TryRecvError::Closed) if !self.part.is_empty() => {
                Err(TryRecvError::PeerViolation(Violation::GroupNotEnded))
            }
            outcome => outcome,
        }
    }
}
