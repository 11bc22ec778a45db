//! The responder's side, whatever carries the channel.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "local")]
use super::local::{LocalReader, LocalResponder};
use super::responder::{GroupReader, RemoteResponder};
use super::wire::RecordRx;
use super::{MustAnswer, Notice};
use crate::error::{Error, RespondError, TryRecvError};
use crate::sys::{Owned, Release};
#[cfg(feature = "local")]
use crate::transport::NO_FENCES;
use crate::transport::Remote;
#[cfg(feature = "local")]
use crate::wait::spin_until;

/// What answers: the responder's end and its open groups share it.
#[derive(Clone, Debug)]
pub(crate) enum Answerer<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(Arc<Owned<LocalResponder<A>>>),
    Remote(Arc<Owned<RemoteResponder<A>>>),
}

impl<A: MustAnswer> Answerer<A> {
    pub(crate) fn respond(&self, cookie: u32, verdict: A::Verdict) -> Result<(), RespondError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.get()?.apply(&[A::answer(cookie, verdict)]).map(|_| ()),
            Self::Remote(responder) => responder.get()?.respond(cookie, verdict),
        }
    }

    /// The group `cookie`, whose records are at `place`.
    fn token(&self, cookie: u32, place: Range<usize>) -> Token<A> {
        let held = Held { answerer: self.clone(), cookie, place };
        Token(match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.own(held),
            Self::Remote(responder) => responder.own(held),
        })
    }

    /// Answers in order, up to the first that cannot be answered; returns how many.
    pub(crate) fn respond_batch(&self, batch: &[A::Answer]) -> Result<usize, RespondError<()>> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.get()?.respond_batch(batch),
            Self::Remote(responder) => responder.get()?.respond_batch(batch),
        }
    }

    pub(crate) fn is_cancelled(&self, cookie: u32) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.get().is_ok_and(|responder| responder.is_cancelled(cookie)),
            Self::Remote(responder) => responder.get().is_ok_and(|responder| responder.is_cancelled(cookie)),
        }
    }

    /// The next notice and whose it is; each is told once.
    pub(crate) fn next_notice(&self) -> Option<(u32, Notice)> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => responder.get().ok()?.next_notice(),
            Self::Remote(responder) => responder.get().ok()?.next_notice(),
        }
    }

    pub(crate) fn open_cookies(&self) -> Vec<u32> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(responder) => {
                responder.get().map(|responder| responder.open_cookies()).unwrap_or_default()
            }
            Self::Remote(responder) => {
                responder.get().map(|responder| responder.open_cookies()).unwrap_or_default()
            }
        }
    }
}

/// A group that must be answered; dropping it gives it its negative answer.
#[derive(Debug)]
pub(crate) struct Token<A: MustAnswer>(Owned<Held<A>>);

/// What it is in its process.
#[derive(Debug)]
struct Held<A: MustAnswer> {
    answerer: Answerer<A>,
    /// 0, which is no cookie, when nothing is to be answered any more.
    cookie: u32,
    place: Range<usize>,
}

impl<A: MustAnswer> Token<A> {
    pub(crate) fn cookie(&self) -> u32 {
        self.0.peek().cookie
    }

    /// Where its records are in the slice that the read was given.
    pub(crate) fn place(&self) -> Range<usize> {
        self.0.peek().place.clone()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.get().is_ok_and(|held| held.answerer.is_cancelled(held.cookie))
    }

    /// Answers; gives the group back when there is no room for the answer.
    pub(crate) fn respond(mut self, verdict: A::Verdict) -> Result<(), RespondError<Self>> {
        let Ok(held) = self.0.get_mut() else { return Err(RespondError::NotThisProcess(self)) };
        let outcome = held.answerer.respond(held.cookie, verdict);
        if !matches!(outcome, Err(RespondError::WouldBlock(()) | RespondError::Io(..))) {
            held.cookie = 0;
        }
        // What is answered, or not to be any more, is not given back.
        outcome.map_err(|error| error.map(|()| self))
    }

    /// The cookie alone, for an answer by cookie.
    pub(crate) fn into_cookie(mut self) -> u32 {
        // In a child of fork it is known, and dropping it does nothing.
        let cookie = self.cookie();
        if let Ok(held) = self.0.get_mut() {
            held.cookie = 0;
        }
        cookie
    }
}

impl<A: MustAnswer> Release for Held<A> {
    fn release(&mut self) {
        match (&self.answerer, self.cookie) {
            (_, 0) => {}
            #[cfg(feature = "local")]
            (Answerer::Local(responder), cookie) => {
                let _ = responder.get().map(|responder| responder.give_up(cookie));
            }
            (Answerer::Remote(responder), cookie) => {
                let _ = responder.get().map(|responder| responder.give_up(cookie));
            }
        }
    }
}

/// The responder's end.
#[derive(Debug)]
pub(crate) enum Responder<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(LocalReader<A>),
    Remote(GroupReader<A>),
}

impl<A: MustAnswer> Responder<A> {
    /// The responder to another process, with at most `depth` groups open.
    pub(crate) fn remote(remote: &Remote, depth: u32, headed: bool) -> Self {
        let responder = Arc::new(Owned::new(RemoteResponder::new(remote, depth)));
        Self::Remote(GroupReader::new(RecordRx::new(remote, headed), responder))
    }

    pub(crate) fn answerer(&self) -> Answerer<A> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => Answerer::Local(reader.responder.clone()),
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
        let sink = |cookie, place| sink(answerer.token(cookie, place));
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => {
                let (mut sink, mut filled) = (sink, 0);
                reader.read(pages.len(), most, |group| {
                    let place = filled..filled + group.len();
                    pages[place.clone()].copy_from_slice(group);
                    filled = place.end;
                    sink(group[0].cookie(), place);
                })
            }
            Self::Remote(reader) => reader.read(pages, most, sink),
        }
    }

    /// What comes in front of a blocking receive: looks for `busy_poll` whether there is something to read.
    fn look(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<()> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => {
                reader.look(spin_until(deadline, busy_poll));
                Ok(())
            }
            Self::Remote(reader) => reader.rx.look(deadline, busy_poll),
        }
    }

    /// Sleeps until a read may bring something; false when `deadline` came first.
    fn sleep(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => reader.sleep(deadline),
            Self::Remote(reader) => reader.rx.sleep(deadline),
        }
    }

    /// Takes what `try_recv` takes; waits for it until `deadline`.
    pub(crate) fn recv_until<T>(
        &mut self,
        deadline: Option<Instant>,
        busy_poll: Duration,
        mut try_recv: impl FnMut(&mut Self) -> Result<T, TryRecvError>,
    ) -> Result<T, TryRecvError> {
        let mut slept = false;
        loop {
            // First, for a receive that finds nothing asks to be woken.
            self.look(deadline, busy_poll).map_err(TryRecvError::Io)?;
            match try_recv(self) {
                Err(TryRecvError::Empty) => {}
                outcome => return outcome,
            }
            // A peer that keeps the descriptor readable without a group does not make this last longer.
            let is_over = slept && deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_over || !self.sleep(deadline).map_err(TryRecvError::Io)? {
                return Err(TryRecvError::Empty);
            }
            slept = true;
        }
    }

    /// Looks for `busy_poll`, then sleeps, until a read may bring something; false when `deadline` came
    /// first.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>, busy_poll: Duration) -> io::Result<bool> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => {
                // Who has looked by itself has no wake-up in its descriptor until the next read.
                if reader.has_unread() || reader.look(spin_until(deadline, busy_poll)) {
                    Ok(true)
                } else {
                    reader.sleep(deadline)
                }
            }
            Self::Remote(reader) => reader.rx.wait(deadline, busy_poll),
        }
    }

    /// How often a wait ended by looking, and how often by a sleep.
    pub(crate) fn waits(&self) -> (u64, u64) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => reader.waits,
            Self::Remote(reader) => reader.rx.waits(),
        }
    }

    /// Says whether this end looks by itself before it sleeps.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => {}
            Self::Remote(reader) => reader.rx.set_busy(busy),
        }
    }

    /// Leaves fences to the reporter, where it makes them for both, and makes its own for both.
    pub(crate) fn use_asymmetric_fence(&mut self) -> Result<(), Error> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(_) => Err(NO_FENCES),
            Self::Remote(reader) => {
                reader.responder.get()?.leave_fences()?;
                reader.rx.fence_for_both();
                Ok(())
            }
        }
    }
}

impl<A: MustAnswer> AsFd for Responder<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            #[cfg(feature = "local")]
            Self::Local(reader) => reader.responder.peek().as_fd(),
            Self::Remote(reader) => reader.rx.as_fd(),
        }
    }
}
