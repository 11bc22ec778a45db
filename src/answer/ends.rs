//! The two ends of a must-answer channel, whatever carries it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

#[cfg(feature = "local")]
use super::local::{LocalReporter, LocalResponder, Publication};
use super::remote::RemoteReporter;
use super::responder::{GroupReader, RemoteResponder};
use super::wire::RecordRx;
use super::{AnswerError, Completion, Group, Ledger, MustAnswer, PublishError};
use crate::error::TryRecvError;
#[cfg(feature = "local")]
use crate::transport::wait_readable;

/// The reporter's end.
#[derive(Debug)]
pub(crate) enum Reporter<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(LocalReporter<A>),
    Remote(Box<RemoteReporter<A>>),
}

impl<A: MustAnswer> Reporter<A> {
    /// Begins to publish groups; those before a [`flush`](Batch::flush) may go out together.
    pub(crate) fn batch(&mut self) -> Batch<'_, A> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => Batch::Local(reporter.publish(), 0),
            Self::Remote(reporter) => Batch::Remote(reporter),
        }
    }

    /// Takes completions out, at most `most`, of which `sink` is given each.
    pub(crate) fn collect(
        &mut self,
        most: usize,
        sink: impl FnMut(Completion<A>),
    ) -> Result<usize, TryRecvError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.collect(most, sink),
            Self::Remote(reporter) => reporter.collect(most, sink),
        }
    }

    /// Completes every group of `dev_id` that is not answered by now.
    pub(crate) fn detach(&mut self, dev_id: u32) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.detach(dev_id),
            Self::Remote(reporter) => reporter.detach(dev_id),
        }
    }

    /// Completes every group whose time is up and that is not answered by now.
    pub(crate) fn process(&mut self, now: Instant) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.process(now),
            Self::Remote(reporter) => reporter.process(now),
        }
    }

    /// Looks at the ledger.
    pub(crate) fn with_ledger<T>(&self, look: impl FnOnce(&Ledger<A>) -> T) -> T {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.core().with_ledger(look),
            Self::Remote(reporter) => look(reporter.ledger()),
        }
    }
}

/// Groups on their way to the responder.
#[derive(Debug)]
pub(crate) enum Batch<'a, A: MustAnswer> {
    /// With the groups of one record added since the last flush.
    #[cfg(feature = "local")]
    Local(Publication<'a, A>, usize),
    Remote(&'a mut RemoteReporter<A>),
}

impl<A: MustAnswer> Batch<'_, A> {
    /// Adds a group of one record. It counts as published when a flush says so.
    pub(crate) fn add_one(&mut self, group: &Group<A>, record: A, now: Instant) -> Result<u32, PublishError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(publication, added) => {
                let cookie = publication.add(group, 1, |_| record, now)?;
                *added += 1;
                Ok(cookie)
            }
            Self::Remote(reporter) => reporter.stage(group, record, now),
        }
    }

    /// Whether a flush must come before the next group of one record.
    pub(crate) fn must_flush(&self) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(..) => false,
            Self::Remote(reporter) => reporter.is_stage_full(),
        }
    }

    /// Publishes the groups of one record added since the last flush; returns how many. An error means
    /// that none was.
    pub(crate) fn flush(&mut self) -> Result<usize, PublishError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_, added) => Ok(std::mem::take(added)),
            Self::Remote(reporter) => reporter.flush(),
        }
    }

    /// Publishes a group of `count` records, whole or not at all, after a flush.
    pub(crate) fn publish(
        &mut self,
        group: &Group<A>,
        count: usize,
        record: impl Fn(usize) -> A,
        now: Instant,
    ) -> Result<u32, PublishError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(publication, _) => publication.add(group, count, record, now),
            Self::Remote(reporter) => reporter.publish(group, count, record, now),
        }
    }
}

/// What answers: the responder's end and its open groups share it.
#[derive(Clone, Debug)]
pub(crate) enum Answerer<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(Arc<LocalResponder<A>>),
    Remote(Arc<RemoteResponder<A>>),
}

impl<A: MustAnswer> Answerer<A> {
    pub(crate) fn respond(&self, cookie: u32, verdict: A::Verdict) -> Result<(), AnswerError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.respond(cookie, verdict),
            Self::Remote(responder) => responder.respond(cookie, verdict),
        }
    }

    /// Answers in order, up to the first that cannot be answered; returns how many.
    pub(crate) fn respond_batch(&self, batch: &[A::Answer]) -> Result<usize, AnswerError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.respond_batch(batch),
            Self::Remote(responder) => responder.respond_batch(batch),
        }
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.is_cancelled(cookie),
            Self::Remote(responder) => responder.is_cancelled(cookie),
        }
    }

    /// The cookie of an open group that the reporter has completed; each is told once.
    pub(crate) fn next_cancelled(&self) -> Option<u32> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.next_cancelled(),
            Self::Remote(responder) => responder.next_cancelled(),
        }
    }

    pub(crate) fn open_cookies(&self) -> Vec<u32> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.open_cookies(),
            Self::Remote(responder) => responder.open_cookies(),
        }
    }
}

/// A group that must be answered; dropping it gives it its negative answer.
#[derive(Debug)]
pub(crate) struct Token<A: MustAnswer> {
    answerer: Answerer<A>,
    /// 0, which is no cookie, when nothing is to be answered any more.
    cookie: u32,
    place: Range<usize>,
}

impl<A: MustAnswer> Token<A> {
    pub(crate) fn cookie(&self) -> u32 {
        self.cookie
    }

    /// Where its records are in the slice that the read was given.
    pub(crate) fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.answerer.is_cancelled(self.cookie)
    }

    /// Answers; gives the group back when there is no room for the answer.
    pub(crate) fn respond(mut self, verdict: A::Verdict) -> Result<(), (AnswerError, Option<Self>)> {
        match self.answerer.respond(self.cookie, verdict) {
            Err(error @ (AnswerError::WouldBlock | AnswerError::Io(_))) => Err((error, Some(self))),
            outcome => {
                self.cookie = 0;
                outcome.map_err(|error| (error, None))
            }
        }
    }

    /// The cookie alone, for an answer by cookie.
    pub(crate) fn into_cookie(mut self) -> u32 {
        std::mem::take(&mut self.cookie)
    }
}

impl<A: MustAnswer> Drop for Token<A> {
    fn drop(&mut self) {
        match (&self.answerer, self.cookie) {
            (_, 0) => {}
            #[cfg(feature = "local")]
            (Answerer::Local(responder), cookie) => responder.give_up(cookie),
            (Answerer::Remote(responder), cookie) => responder.give_up(cookie),
        }
    }
}

/// The responder's end.
#[derive(Debug)]
pub(crate) enum Responder<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(Arc<LocalResponder<A>>),
    Remote(GroupReader<A>),
}

impl<A: MustAnswer> Responder<A> {
    /// A responder on a socket, with at most `depth` groups open, `open` of which another one has
    /// received.
    pub(crate) fn remote(socket: Arc<OwnedFd>, depth: u32, headed: bool, open: &[u32]) -> Self {
        let rx = RecordRx::new(socket.clone(), headed);
        Self::Remote(GroupReader::new(rx, Arc::new(RemoteResponder::new(socket, depth, open))))
    }

    pub(crate) fn answerer(&self) -> Answerer<A> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => Answerer::Local(responder.clone()),
            Self::Remote(reader) => Answerer::Remote(reader.responder.clone()),
        }
    }

    /// Takes at most `most` groups, which go to `pages`, one behind the other; `sink` is given each.
    pub(crate) fn read(
        &mut self,
        pages: &mut [A],
        most: usize,
        mut sink: impl FnMut(Token<A>),
    ) -> Result<(), TryRecvError> {
        let answerer = self.answerer();
        let sink = |cookie, place| sink(Token { answerer: answerer.clone(), cookie, place });
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.read(pages, most, sink),
            Self::Remote(reader) => reader.read(pages, most, sink),
        }
    }

    /// Sleeps until a read may bring something; false when `deadline` came first.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => wait_readable(responder.as_fd(), deadline),
            Self::Remote(reader) => reader.rx.wait(deadline),
        }
    }
}

impl<A: MustAnswer> AsFd for Responder<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.as_fd(),
            Self::Remote(reader) => reader.rx.as_fd(),
        }
    }
}
