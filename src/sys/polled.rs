//! A descriptor in a poller of the crate polling, which is removed before it closes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use polling::{Event, PollMode, Poller};

use crate::transport::Owner;

/// A descriptor that is in a poller as long as this lives.
#[derive(Debug)]
pub(crate) struct Polled {
    poller: Arc<Poller>,
    descriptor: OwnedFd,
    mode: PollMode,
    owner: Owner,
}

impl Polled {
    pub(crate) fn new(
        poller: Arc<Poller>,
        descriptor: OwnedFd,
        interest: Event,
        mode: PollMode,
    ) -> io::Result<Self> {
        // SAFETY: the descriptor must be deleted from this poller before it is dropped. Up to the end of this function
        // nothing can panic once it is added, so it goes into the value. There it is private, no method hands it
        // out, and nothing replaces it, so it closes with the value only: `drop` runs first and deletes it. The
        // poller is the same one and still there, for the value holds it. A value that is forgotten never closes its
        // descriptor. One that is not added (an error) is dropped without being in the poller. In a child of fork the
        // value was added to the parent's poller by the parent, for whose copy of the descriptor all of this holds.
        unsafe { poller.add_with_mode(&descriptor, interest, mode) }?;
        Ok(Self { poller, descriptor, mode, owner: Owner::this_process() })
    }

    /// Changes what the poller reports.
    pub(crate) fn modify(&self, interest: Event) -> io::Result<()> {
        self.poller.modify_with_mode(&self.descriptor, interest, self.mode)
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        // The kernel's side of the poller is one for a process and its children of fork: a child deletes nothing.
        if self.owner.is_this_process() {
            // Fails only if it is not in the poller any more.
            let _ = self.poller.delete(&self.descriptor);
        }
    }
}
