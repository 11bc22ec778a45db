//! A descriptor in a poller of the crate polling, which is removed before it closes.

use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use polling::{Event, PollMode, Poller};

use super::{Owned, Release};
use crate::error::Error;

/// A descriptor that is in a poller as long as this lives.
#[derive(Debug)]
pub(crate) struct Polled(Owned<Entry>);

/// The descriptor, and where it is.
#[derive(Debug)]
struct Entry {
    /// Dropped in its process alone: dropping the last one closes the kernel's part, which a child of fork shares.
    poller: ManuallyDrop<Arc<Poller>>,
    descriptor: OwnedFd,
    mode: PollMode,
}

impl Polled {
    pub(crate) fn new(
        poller: Arc<Poller>,
        descriptor: OwnedFd,
        interest: Event,
        mode: PollMode,
    ) -> Result<Self, Error> {
        // SAFETY: the descriptor must be deleted from this poller before it is dropped. Up to the end of this function
        // nothing can panic once it is added, so it goes into the value. There it is private, no method hands it
        // out, and nothing replaces it, so it closes with the value only: `release` runs first and deletes it. The
        // poller is the same one and still there, for the value holds it. A value that is forgotten never closes its
        // descriptor. One that is not added (an error) is dropped without being in the poller. In a child of fork the
        // value was added to the parent's poller by the parent, for whose copy of the descriptor all of this holds.
        unsafe { poller.add_with_mode(&descriptor, interest, mode) }
            .map_err(|source| Error::os("epoll_ctl", source))?;
        Ok(Self(Owned::new(Entry { poller: ManuallyDrop::new(poller), descriptor, mode })))
    }

    /// Changes what the poller reports.
    pub(crate) fn modify(&self, interest: Event) -> Result<(), Error> {
        let Entry { poller, descriptor, mode } = self.0.get()?;
        poller.modify_with_mode(descriptor, interest, *mode).map_err(|source| Error::os("epoll_ctl", source))
    }
}

impl Release for Entry {
    fn release(&mut self) {
        // Fails only if it is not in the poller any more.
        let _ = self.poller.delete(&self.descriptor);
        // SAFETY: `Owned` calls this once, when it drops the value, and nothing uses the poller after it.
        unsafe { ManuallyDrop::drop(&mut self.poller) };
    }
}
