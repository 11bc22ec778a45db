//! What carries the records of a reporter and brings the answers.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

#[cfg(feature = "local")]
use super::local::{self, LocalReporter};
use super::wire::RecordTx;
use super::{MustAnswer, Withdrawn};
use crate::error::{TryRecvError, TrySendError};
use crate::transport::{Rx, RxCarrier, socket};

#[derive(Debug)]
pub(crate) enum Link<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(LocalReporter<A>),
    Socket {
        records: RecordTx<A>,
        answers: Rx<A::Answer>,
    },
}

impl<A: MustAnswer> Link<A> {
    pub(crate) fn socket(socket: Arc<OwnedFd>, depth: u32, headed: bool) -> Self {
        let records = RecordTx::new(socket.clone(), depth, headed);
        Self::Socket { records, answers: Rx::new(RxCarrier::Socket(socket::Rx::new(socket))) }
    }

    /// The most records that are sent together.
    pub(crate) fn most(&self) -> usize {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.most(),
            Self::Socket { records, .. } => records.most(),
        }
    }

    /// Sends the records of whole groups, as many groups as fit; returns how many records.
    pub(crate) fn send(&mut self, records: &[A]) -> Result<usize, TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.send(records),
            // Where one record has room, a whole write has.
            Self::Socket { records: tx, .. } => {
                tx.send(records.len(), |index| records[index])?;
                Ok(records.len())
            }
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
            Self::Socket { records, .. } => records.send_cancelled(dev_id, cookie),
        }
    }

    /// Begins to take back groups that are to complete without their answer.
    pub(crate) fn withdrawal(&self) -> Withdrawal<'_, A> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => Withdrawal::Local(reporter.withdrawal()),
            Self::Socket { .. } => Withdrawal::Socket(PhantomData),
        }
    }

    /// Takes in at most `most` answers.
    pub(crate) fn recv(&mut self, most: usize, mut sink: impl FnMut(&A::Answer)) -> Result<(), TryRecvError> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.recv(sink),
            Self::Socket { answers, .. } => {
                let taken = answers.recv(most, |answer| {
                    sink(answer);
                    Ok(())
                });
                taken.map(|_| ())
            }
        }
    }

    /// Call it behind each look for completions: the descriptor should be readable while there is `more`
    /// of them, or answers. That of a socket is by itself while there are answers, and cannot be made so
    /// from this side. True: nothing is there.
    pub(crate) fn rest(&mut self, more: bool) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.rest(more),
            Self::Socket { .. } => !more,
        }
    }

    /// Tells who waits in another thread that groups have completed by other means than answers.
    pub(crate) fn note_completions(&self) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reporter) => reporter.note_completions(),
            Self::Socket { .. } => {}
        }
    }

    /// Writes what is left of accepted records, if someone's change of the send buffer cut them.
    pub(crate) fn finish(&mut self) -> Result<(), TrySendError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Ok(()),
            Self::Socket { records, .. } => records.finish(),
        }
    }
}

/// Groups being taken back from the responder.
#[derive(Debug)]
pub(crate) enum Withdrawal<'a, A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(local::Withdrawal<'a, A>),
    Socket(PhantomData<&'a A>),
}

impl<A: MustAnswer> Withdrawal<'_, A> {
    pub(crate) fn take_back(&mut self, cookie: u32) -> Withdrawn {
        match self {
            #[cfg(feature = "local")]
            Self::Local(withdrawal) => withdrawal.take_back(cookie),
            // What is written is out of this side's hands.
            Self::Socket(_) => {
                let _ = cookie;
                Withdrawn::Held
            }
        }
    }
}
