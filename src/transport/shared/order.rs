//! What loom has to know of a system call on the socket: other threads may run in front of it, and a byte or a
//! hang-up that is received orders what was done before it was sent. Otherwise nothing at all.

use std::sync::Arc;

#[cfg(loom)]
use crate::sync::{AtomicU32, Ordering};
use crate::sys::Mapping;
#[cfg(loom)]
use crate::sys::View;

/// The order of both ends' calls.
#[cfg(loom)]
#[derive(Debug)]
pub(super) struct Calls(View<AtomicU32>);

#[cfg(loom)]
impl Calls {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self(mapping.view(usize::MAX))
    }

    /// In front of a call that sends a byte, or hangs up.
    pub(super) fn before_send(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// In front of a call that may receive one.
    pub(super) fn before_receive(&self) {
        self.0.load(Ordering::Relaxed);
    }

    /// Behind a call that has.
    pub(super) fn received(&self) {
        self.0.fetch_add(0, Ordering::Acquire);
    }
}

/// The kernel knows.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct Calls;

#[cfg(not(loom))]
impl Calls {
    pub(super) fn new(_mapping: &Arc<Mapping>) -> Self {
        Self
    }

    #[inline]
    pub(super) fn before_send(&self) {}

    #[inline]
    pub(super) fn before_receive(&self) {}

    #[inline]
    pub(super) fn received(&self) {}
}
