//! What every reporter does with its lock, its descriptor and the time: waiting, draining, looking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(feature = "local")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::MustAnswer;
use super::link::Link;
#[cfg(feature = "local")]
use super::local::{Exchange, LocalReporter};
use super::reporter::Reporter;
use crate::error::{DrainError, TryRecvError};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::transport::{Remote, Watch};
use crate::wait::{spin_until, wait_readable};

/// How often a wait looks again for answers that another thread may have taken in.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a reporter's lock guards: the engine's reporter, and what its format keeps beside it.
pub(crate) trait Keeper<A: MustAnswer> {
    fn reporter(&mut self) -> &mut Reporter<A>;

    /// Acts on what is due by `now`; returns when that is so next.
    fn process(&mut self, now: Instant) -> Option<Instant>;

    /// Completions to collect.
    fn waiting(&self) -> usize;

    /// Behind each look: sees to it that the descriptor tells what is left. True: nothing is.
    fn rest(&mut self) -> bool;
}

/// A keeper behind its lock, with the descriptor to poll, which takes no lock to find.
#[derive(Debug)]
pub(crate) struct Desk<A: MustAnswer, K> {
    keeper: Mutex<K>,
    descriptor: Descriptor<A>,
    /// The shortest time after which something that is reported now can be due.
    shortest: Option<Duration>,
    busy_poll: Duration,
}

#[derive(Debug)]
enum Descriptor<A: MustAnswer> {
    #[cfg(feature = "local")]
    Local(Arc<Exchange<A>>),
    Remote(Watch<A::Answer>),
}

/// The reporter's end of a channel that nothing has been reported on.
#[derive(Debug)]
pub(crate) struct Way<A: MustAnswer> {
    pub(crate) link: Link<A>,
    descriptor: Descriptor<A>,
    /// How many groups there is room for.
    pub(crate) depth: u32,
    pub(crate) busy_poll: Duration,
}

impl<A: MustAnswer> Way<A> {
    #[cfg(feature = "local")]
    pub(crate) fn local(reporter: LocalReporter<A>, depth: u32, busy_poll: Duration) -> Self {
        let descriptor = Descriptor::Local(reporter.exchange().clone());
        Self { link: Link::Local(reporter), descriptor, depth, busy_poll }
    }

    /// To another process; `headed`: records have the header that can say CANCELLED.
    pub(crate) fn remote(remote: &Remote, depth: u32, headed: bool, busy_poll: Duration) -> Self {
        let link = Link::remote(remote, depth, headed, !busy_poll.is_zero());
        Self { link, descriptor: Descriptor::Remote(remote.watch()), depth, busy_poll }
    }

    /// The desk of the keeper that `make` makes of the link.
    pub(crate) fn desk<K: Keeper<A>>(
        self,
        shortest: Option<Duration>,
        make: impl FnOnce(Link<A>) -> K,
    ) -> Desk<A, K> {
        let Self { link, descriptor, busy_poll, .. } = self;
        Desk { keeper: Mutex::new(make(link)), descriptor, shortest, busy_poll }
    }
}

impl<A: MustAnswer, K: Keeper<A>> Desk<A, K> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, K> {
        lock(&self.keeper)
    }

    /// Waits for completions, which `collect` takes; acts on what is due meanwhile.
    pub(crate) fn wait_completions<T>(
        &self,
        timeout: Option<Duration>,
        mut collect: impl FnMut(&mut K) -> Result<T, TryRecvError>,
    ) -> Result<T, TryRecvError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let now = Instant::now();
            let (next, waiting) = {
                let mut keeper = self.lock();
                (keeper.process(now), keeper.waiting())
            };
            let until = self.soonest(deadline, next);
            if waiting == 0 {
                // First, for a look for completions that finds none asks to be woken.
                self.look(until).map_err(TryRecvError::Io)?;
            }
            match collect(&mut self.lock()) {
                Err(TryRecvError::Empty) if deadline.is_none_or(|deadline| now < deadline) => {}
                outcome => return outcome,
            }
            if wait_readable(self.as_fd(), until).map_err(TryRecvError::Io)? {
                self.lock().reporter().waits.1 += 1;
            }
        }
    }

    /// Waits until every published group of `dev_id` has completed; acts on what is due meanwhile.
    pub(crate) fn drain(&self, dev_id: u32, timeout: Duration) -> Result<(), DrainError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let now = Instant::now();
            let mut keeper = self.lock();
            let next = keeper.process(now);
            let has_open = keeper.reporter().has_open(dev_id);
            keeper.rest();
            if !has_open {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(DrainError::Timeout);
            }
            let until = self.soonest(deadline, next);
            match &self.descriptor {
                #[cfg(feature = "local")]
                Descriptor::Local(exchange) => {
                    // Before the lock goes, without which nothing completes.
                    let seen = exchange.changes();
                    drop(keeper);
                    exchange.wait_change(seen, until);
                }
                Descriptor::Remote(watch) => {
                    drop(keeper);
                    // Another thread may take in the answer that this one waits for.
                    let look = now + LOOK_AGAIN;
                    let until = until.map_or(look, |until| until.min(look));
                    wait_readable(watch.as_fd(), Some(until)).map_err(DrainError::Io)?;
                }
            }
        }
    }

    /// Whether the responder is gone.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.descriptor {
            #[cfg(feature = "local")]
            Descriptor::Local(exchange) => exchange.is_closed(),
            Descriptor::Remote(watch) => watch.is_closed(),
        }
    }

    /// Looks for answers for as long as the option `busy_poll` says, but not beyond `until`.
    fn look(&self, until: Option<Instant>) -> io::Result<()> {
        let Some(spin_until) = spin_until(until, self.busy_poll) else { return Ok(()) };
        let found = match &self.descriptor {
            #[cfg(feature = "local")]
            Descriptor::Local(exchange) => {
                self.lock().reporter().stay_awake();
                // Without the lock, which others need to report.
                exchange.spin(spin_until) || !self.lock().rest()
            }
            Descriptor::Remote(watch) => watch.look(spin_until)?,
        };
        if found {
            self.lock().reporter().waits.0 += 1;
        }
        Ok(())
    }

    /// When a wait must look again: at `deadline`, at the `next` thing that is due, and when something
    /// could be due that is reported meanwhile.
    fn soonest(&self, deadline: Option<Instant>, next: Option<Instant>) -> Option<Instant> {
        let unforeseen = self.shortest.and_then(|shortest| Instant::now().checked_add(shortest));
        [deadline, next, unforeseen].into_iter().flatten().min()
    }
}

impl<A: MustAnswer, K> AsFd for Desk<A, K> {
    /// The descriptor to poll for completions.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            #[cfg(feature = "local")]
            Descriptor::Local(exchange) => exchange.as_fd(),
            Descriptor::Remote(watch) => watch.as_fd(),
        }
    }
}
