//! What one process has made, and a child of fork that inherits its memory may only drop.

use std::mem::ManuallyDrop;

use super::Process;
use crate::error::NotThisProcess;

/// What the other side, or a device, is told when an end or a token is dropped.
///
/// This is what a type does in place of `Drop`: [`Owned`] calls it, in the process that made the value and in no other.
pub(crate) trait Release {
    /// Tells it. The value is dropped next; that closes its descriptors and does nothing else.
    fn release(&mut self);
}

/// A value of the process that made it: every end, every token that owes an answer, and every router is one.
///
/// The value can be had only with the check that this is the process, before anything of it is touched: its locks too,
/// which another thread of the parent may have held when it forked.
#[derive(Debug)]
pub(crate) struct Owned<T: Release> {
    process: Process,
    value: T,
}

impl<T: Release> Owned<T> {
    /// A value of this process.
    pub(crate) fn new(value: T) -> Self {
        Self { process: Process::this(), value }
    }

    /// A value of the same process as this one.
    #[inline]
    pub(crate) fn own<U: Release>(&self, value: U) -> Owned<U> {
        Owned { process: self.process, value }
    }

    /// The value, in its process.
    #[inline]
    pub(crate) fn get(&self) -> Result<&T, NotThisProcess> {
        if self.process.is_this() { Ok(&self.value) } else { Err(NotThisProcess) }
    }

    /// The value, in its process.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Result<&mut T, NotThisProcess> {
        if self.process.is_this() { Ok(&mut self.value) } else { Err(NotThisProcess) }
    }

    /// The value in whatever process, for what never changes: its descriptor, its numbers.
    #[inline]
    pub(crate) fn peek(&self) -> &T {
        &self.value
    }

    /// What `f` makes of the value, of the same process. Nothing is released.
    pub(crate) fn map<U: Release>(self, f: impl FnOnce(T) -> U) -> Owned<U> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither dropped nor used again, so the value is moved out of it once.
        let value = f(unsafe { std::ptr::read(&raw const this.value) });
        Owned { process: this.process, value }
    }
}

impl<T: Release> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.process.is_surely_this() {
            self.value.release();
        }
    }
}
