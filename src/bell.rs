//! The descriptor of the doorbell between threads: an eventfd that counts tokens and nothing else.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::doorbell::Tokens;
use crate::error::Error;

/// The descriptor the consumer polls: readable while it holds a token.
#[derive(Debug)]
pub(crate) struct Bell {
    eventfd: EventFd,
    /// Stands for the eventfd's counter where loom must know of it.
    #[cfg(loom)]
    tokens: loom::sync::atomic::AtomicUsize,
}

impl Bell {
    pub(crate) fn new() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        let eventfd = EventFd::from_flags(flags).map_err(|errno| Error::os("eventfd2", errno))?;
        Ok(Self {
            eventfd,
            #[cfg(loom)]
            tokens: loom::sync::atomic::AtomicUsize::new(0),
        })
    }
}

#[cfg(not(loom))]
impl Tokens for Bell {
    fn put(&self) {
        // Fails only when 2^64 - 2 tokens are in there, and then it is readable anyway.
        let _ = self.eventfd.write(1);
    }

    fn take(&self) -> bool {
        self.eventfd.read().is_ok()
    }
}

#[cfg(loom)]
impl Tokens for Bell {
    fn put(&self) {
        self.tokens.fetch_add(1, crate::sync::Ordering::AcqRel);
    }

    fn take(&self) -> bool {
        // Only the consumer takes tokens out, so none goes between the two.
        self.is_readable() && self.tokens.fetch_sub(1, crate::sync::Ordering::AcqRel) > 0
    }
}

#[cfg(loom)]
impl Bell {
    pub(crate) fn is_readable(&self) -> bool {
        self.tokens.load(crate::sync::Ordering::Acquire) > 0
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
