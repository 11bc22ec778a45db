//! That one side of a queue is gone: how the other side learns it, and what it then knows of the records.
//!
//! A side that goes publishes, or reads, first and goes then. So two orders matter, and both are kept here: whoever
//! sees that a side is gone also sees what that side did before; and whoever wants to know what it did checks the
//! queue after it has seen that the side is gone, not only before.

use std::borrow::Borrow;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::PollFlags;

use crate::error::DrainError;
use crate::sync::{AtomicU32, Ordering};
use crate::wait::wait_for;

/// A word that says that one side is gone; 0 until then. It is this process's own, or one in shared memory.
#[derive(Debug)]
pub(crate) struct Gone<W = AtomicU32>(W);

impl Gone {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl<W: Borrow<AtomicU32>> Gone<W> {
    /// The word in memory that both sides share.
    pub(crate) fn shared(word: W) -> Self {
        Self(word)
    }

    /// Says that the side is gone. The caller is that side, or has learned it from the kernel or from the peer.
    pub(crate) fn set(&self) {
        // Release pairs with the load in `is_set`: what the side did before, or what the caller knows of that, is
        // seen with the word.
        self.0.borrow().store(1, Ordering::Release);
    }

    /// Whether the side is gone. What it did before is seen by the caller's next look at the queue.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire pairs with the store in `set`.
        self.0.borrow().load(Ordering::Acquire) != 0
    }
}

/// What happens to the records that a consumer has not read when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// They stay in the queue (local, shared): it is empty only if the consumer has read everything.
    Stays,
    /// The kernel frees them (socket): the queue then looks empty, read or not.
    IsFreed,
}

/// Whether the consumer has read everything, by a queue that `is_empty` looks at and a consumer that may be gone.
///
/// # Errors
///
/// [`DrainError::Closed`] when the consumer is gone and is not known to have read everything.
pub(crate) fn is_drained(
    unread: Unread,
    is_empty: impl Fn() -> io::Result<bool>,
    is_gone: impl FnOnce() -> bool,
) -> Result<bool, DrainError> {
    let empty = is_empty().map_err(DrainError::Io)?;
    if empty && unread == Unread::Stays {
        return Ok(true);
    }
    // After the first look: a queue that was emptied by the hang-up itself is not taken for one that was read.
    if !is_gone() {
        return Ok(empty);
    }
    // Once more: the consumer may have read the rest, and gone, since the first look.
    if unread == Unread::Stays && is_empty().map_err(DrainError::Io)? {
        return Ok(true);
    }
    Err(DrainError::Closed)
}

/// Whether the kernel says that the other side of `socket` is gone.
pub(crate) fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    // Without requested events only a hang-up or an error makes poll report the socket.
    wait_for(socket, PollFlags::empty(), Some(Instant::now())).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn queue_is_checked_again_after_its_consumer_is_seen_to_be_gone() {
        // What the first look at the queue finds, whether the consumer is gone then, what a second look finds.
        for (first, gone, second, kept, freed) in [
            (true, false, true, Some(true), Some(true)),
            (true, true, true, Some(true), None),
            (false, false, true, Some(false), Some(false)),
            (false, true, false, None, None),
            (false, true, true, Some(true), None),
        ] {
            for (unread, expected) in [(Unread::Stays, kept), (Unread::IsFreed, freed)] {
                let is_empty = Cell::new(first);
                let outcome = is_drained(unread, || Ok(is_empty.replace(second)), || gone);
                match outcome {
                    Ok(drained) => assert_eq!(Some(drained), expected, "{first} {gone} {second} {unread:?}"),
                    Err(DrainError::Closed) => {
                        assert_eq!(None, expected, "{first} {gone} {second} {unread:?}")
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
}
