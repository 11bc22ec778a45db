//! A look at an end from outside: whether what it sent was received, whether its peer is there.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::port::Port;
use super::{ASK_AFTER, drain};
use crate::error::DrainError;
use crate::ring::Storage;
use crate::sync::Ordering;
use crate::transport::{spin, wait_for, wait_readable};

/// A look at a channel from outside.
#[derive(Debug)]
pub(crate) struct Watch(Arc<Port>);

impl Watch {
    pub(crate) fn new(port: Arc<Port>) -> Self {
        Self(port)
    }

    pub(crate) fn is_drained(&self) -> Result<bool, DrainError> {
        // Who sleeps on what is in the ring does not read it.
        self.0.ring_again();
        if drain::is_drained(&self.0.produced) {
            return Ok(true);
        }
        if self.is_closed() { Err(DrainError::Closed) } else { Ok(false) }
    }

    pub(crate) fn wait_drained(&self, deadline: Option<Instant>) -> Result<(), DrainError> {
        self.0.drain.begin();
        let outcome = self.wait_told(deadline);
        self.0.drain.end();
        outcome
    }

    fn wait_told(&self, deadline: Option<Instant>) -> Result<(), DrainError> {
        let mut interval = Duration::from_micros(50);
        loop {
            self.0.drain.want(&self.0.produced);
            if self.is_drained()? {
                return Ok(());
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(DrainError::Timeout);
            }
            wait_readable(self.as_fd(), deadline).map_err(DrainError::Io)?;
            if self.0.drain.is_pending(&self.0.produced) && !self.is_drained()? {
                // What is there is a reply, which is another's to receive, or an earlier word.
                let until = Instant::now() + interval;
                let until = deadline.map_or(until, |deadline| deadline.min(until));
                wait_for(self.as_fd(), PollFlags::empty(), Some(until)).map_err(DrainError::Io)?;
                interval = (interval * 2).min(Duration::from_millis(2));
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.violation().is_some() || self.0.is_peer_gone() || self.0.has_hung_up()
    }

    /// Looks until `until` whether there is something to receive.
    pub(crate) fn look(&self, until: Instant) -> bool {
        let has_work = || {
            // Relaxed: who receives looks again.
            let head = self.0.consumed_head.load(Ordering::Relaxed);
            self.0.consumed.tail().load(Ordering::Relaxed) != head || self.0.is_peer_gone()
        };
        let mut now = Instant::now();
        while now < until {
            if spin(until.min(now + ASK_AFTER), has_work) || self.0.has_hung_up() {
                return true;
            }
            now = Instant::now();
        }
        false
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
