//! The must-answer protocol: every accepted group of records completes exactly once.
//!
//! Here is what holds for every format whose records must be answered; what a page fault is, `fault/`
//! knows. In the order of a group's way: [`reporter`] opens it in its [`ledger`], which is the protocol
//! itself (which cookies are open, what each group came to, who still owes an answer), and sends it over
//! a [`link`]. The responder of the same process takes it from [`local`], that of another one reads
//! it from a descriptor ([`wire`], [`responder`], [`open`]) and trusts nothing it reads. [`ends`] is what both
//! responders have in common.

pub(crate) mod desk;
pub(crate) mod devices;
pub(crate) mod ends;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod list;
#[cfg(feature = "local")]
pub(crate) mod local;
pub(crate) mod make;
pub(crate) mod open;
pub(crate) mod reporter;
pub(crate) mod responder;
pub(crate) mod wire;

use std::fmt::Debug;
use std::io;

use recordfd_uapi::{Payload, Record};

use crate::error::{NotThisProcess, TrySendError};

pub(crate) use ledger::{Completion, Ledger, Withdrawn};

/// A record that must be answered, what answers it, and what must be known of both.
pub trait MustAnswer: Payload {
    /// The answer on the wire.
    type Answer: Record;
    /// What an answer can say.
    type Verdict: Copy + PartialEq + Debug + Send + 'static;
    /// What the reporter wants back with a completion, besides the device.
    type Tag: Copy + Debug + Default + Send + 'static;

    /// What a group is completed with that gets no answer.
    const NEGATIVE: Self::Verdict;

    fn answer(cookie: u32, verdict: Self::Verdict) -> Self::Answer;

    /// The cookie an answer names, and what it says; `None` for a code the format does not have.
    fn verdict(answer: &Self::Answer) -> (u32, Option<Self::Verdict>);

    /// This record as one of the group `cookie`, and whether it is the last one.
    fn grouped(self, cookie: u32, last: bool) -> Self;

    fn cookie(&self) -> u32;

    /// Whether this is its group's last record; of a format without groups each is.
    fn is_last(&self) -> bool {
        true
    }

    /// Whether this record can follow `first` in one group; their cookies are the same.
    fn is_of_group(&self, _first: &Self) -> bool {
        false
    }

    /// How often this was sent before: 0, or it is an open group's record once more.
    fn repeats(&self) -> u32 {
        0
    }

    /// The payload of the notice that the group `cookie` of `dev_id` was completed without its answer.
    fn cancelled(dev_id: u32, cookie: u32) -> Self;
}

/// Why a group completed as it did. (Linux answers INVALID without a reason.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The consumer answered it.
    Answered,
    /// Its device was detached first.
    Detached,
    /// The consumer is gone, or broke the format of answers.
    HungUp,
    /// It was not answered in time.
    Deadline,
    /// The consumer answered with a code that the format does not have.
    BadAnswer,
    /// Its last record did not come in time, so that it was never published.
    Unfinished,
    /// Nobody was attached to take it ([`FaultRouter`](crate::fault::FaultRouter)).
    NoHandle,
    /// The work that was to answer it panicked, or was dropped ([`FaultWork`](crate::fault::FaultWork)).
    Dropped,
}

/// What a responder is told of a group that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It was completed without its answer.
    Cancelled,
    /// It was sent again, for so many times in all.
    Repeated(u32),
}

/// Whose group is published, and what is given back with its completion.
#[derive(Debug)]
pub(crate) struct Group<A: MustAnswer> {
    pub(crate) dev_id: u32,
    pub(crate) tag: A::Tag,
}

/// Why a group was not published.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// Every slot is taken, or the transport has no room.
    Full,
    /// Its device has as many records on their way as one may have.
    DeviceFull,
    /// The responder is gone, or broke the format of answers.
    Closed,
    NotThisProcess,
    Io(io::Error),
}

impl From<TrySendError<()>> for PublishError {
    fn from(error: TrySendError<()>) -> Self {
        match error {
            TrySendError::Full(()) => Self::Full,
            TrySendError::Closed(()) => Self::Closed,
            TrySendError::NotThisProcess(()) => Self::NotThisProcess,
            TrySendError::Io((), source) => Self::Io(source),
        }
    }
}

impl From<NotThisProcess> for PublishError {
    fn from(_: NotThisProcess) -> Self {
        Self::NotThisProcess
    }
}
