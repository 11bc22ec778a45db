//! A look at an end from outside: whether what it sent was received, whether its peer is there.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ASK_AFTER;
use super::port::Port;
use crate::error::DrainError;
use crate::ring::Storage;
use crate::sync::Ordering;
use crate::transport::gone::{Unread, is_drained};
use crate::wait::spin;

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
        is_drained(Unread::Stays, || Ok(self.0.is_drained()), || self.is_closed())
    }

    pub(crate) fn wait_drained(&self, deadline: Option<Instant>) -> Result<(), DrainError> {
        let mut pause = Duration::from_micros(50);
        // What is drained already needs no word of the consumer.
        while !self.0.is_drained() {
            let notified = self.0.drain.want(&self.0.produced);
            if self.is_drained()? {
                break;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(DrainError::Timeout);
            }
            self.0.drain.sleep(&self.0, notified, deadline, &mut pause).map_err(DrainError::Io)?;
        }
        Ok(())
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
