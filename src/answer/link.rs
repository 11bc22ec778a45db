//! What carries the records of a reporter and brings the answers.

use std::marker::PhantomData;

#[cfg(feature = "local")]
use super::local::{self, LocalReporter};
use super::wire::RecordTx;
use super::{MustAnswer, Withdrawn};
use crate::error::{Error, TryRecvError, TrySendError};
#[cfg(feature = "local")]
use crate::transport::NO_FENCES;
use crate::transport::{Remote, Rx};

#[derive(Debug)]
pub(crate) enum Link<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(LocalReporter<A>),
    Remote {
        records: RecordTx<A>,
        answers: Rx<A::Answer>,
    },
}

impl<A: MustAnswer> Link<A> {
    /// To another process; `busy`: this end looks by itself before it sleeps.
    pub(crate) fn remote(remote: &Remote, depth: u32, headed: bool, busy: bool) -> Self {
        let mut answers = remote.rx();
        answers.set_busy(busy);
        Self::Remote { records: RecordTx::new(remote, depth, headed), answers }
    }

    /// The most records that are sent together.
    pub(crate) fn most(&self) -> usize {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.most(),
            Self::Remote { records, .. } => records.most(),
        }
    }

    /// Sends the records of whole groups, as many groups as fit; returns how many records.
    pub(crate) fn send(&mut self, records: &[A]) -> Result<usize, TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.send(records),
            Self::Remote { records: tx, .. } => {
                let count = whole_groups(&records[..tx.room(records.len())?]);
                if count == 0 {
                    return Err(TrySendError::Full(()));
                }
                tx.send(count, |index| records[index])?;
                Ok(count)
            }
        }
    }

    /// Sends an open group's record again.
    pub(crate) fn repeat(&mut self, record: &A) -> Result<(), TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => {
                reporter.repeat(record);
                Ok(())
            }
            Self::Remote { records, .. } => records.send(1, |_| *record),
        }
    }

    /// Tells that the group `cookie` was completed without its answer, if the format can say so.
    pub(crate) fn send_cancelled(&mut self, dev_id: u32, cookie: u32) -> Result<(), TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => {
                reporter.tell_cancelled(cookie);
                Ok(())
            }
            Self::Remote { records, .. } => records.send_cancelled(dev_id, cookie),
        }
    }

    /// Begins to take back groups that are to complete without their answer.
    pub(crate) fn withdrawal(&self) -> Withdrawal<'_, A> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => Withdrawal::Local(reporter.withdrawal()),
            Self::Remote { .. } => Withdrawal::Remote(PhantomData),
        }
    }

    /// Takes in at most `most` answers.
    pub(crate) fn recv(&mut self, most: usize, mut sink: impl FnMut(&A::Answer)) -> Result<(), TryRecvError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.recv(sink),
            Self::Remote { answers, .. } => {
                let taken = answers.recv(most, |answer| {
                    sink(answer);
                    Ok(())
                });
                taken.map(|_| ())
            }
        }
    }

    /// Call it behind each look for completions: the descriptor should be readable while there is `more`
    /// of them, or answers. That of a socket, or of a shared channel, is by itself while there are answers, and
    /// cannot be made so from this side. True: nothing is there.
    pub(crate) fn rest(&mut self, more: bool) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.rest(more),
            Self::Remote { .. } => !more,
        }
    }

    /// Tells who waits in another thread that groups have completed by other means than answers.
    pub(crate) fn note_completions(&self) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.note_completions(),
            Self::Remote { .. } => {}
        }
    }

    /// Nothing more is reported.
    pub(crate) fn release(&mut self) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.release(),
            Self::Remote { answers, .. } => answers.release(),
        }
    }

    /// Leaves fences to the responder, where it makes them for both, and makes its own for both.
    pub(crate) fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Err(NO_FENCES),
            Self::Remote { records, answers } => {
                records.leave_fences()?;
                answers.fence_for_both();
                Ok(())
            }
        }
    }

    /// See [`RemoteTx::finish`](crate::transport::RemoteTx::finish).
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Ok(()),
            Self::Remote { records, .. } => records.finish(),
        }
    }
}

/// How many of `records` are whole groups.
pub(crate) fn whole_groups<A: MustAnswer>(records: &[A]) -> usize {
    records.iter().rposition(A::is_last).map_or(0, |last| last + 1)
}

/// Groups being taken back from the responder.
#[derive(Debug)]
pub(crate) enum Withdrawal<'a, A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(local::Withdrawal<'a, A>),
    Remote(PhantomData<&'a A>),
}

impl<A: MustAnswer> Withdrawal<'_, A> {
    pub(crate) fn take_back(&mut self, cookie: u32) -> Withdrawn {
        match self {
            #[cfg(feature = "local")]
            Self::Local(withdrawal) => withdrawal.take_back(cookie),
            // What is written is out of this side's hands.
            Self::Remote(_) => {
                let _ = cookie;
                Withdrawn::Held
            }
        }
    }
}
