//! Waiting until a queue of this process has been read empty.

use std::time::Instant;

use crate::sync::{AtomicU32, Condvar, Mutex, Ordering, fence, lock, wait};

/// Where producers wait for the consumer to empty the queue.
#[derive(Debug)]
pub(crate) struct DrainGate {
    waiters: AtomicU32,
    lock: Mutex<()>,
    emptied: Condvar,
}

impl DrainGate {
    pub(crate) fn new() -> Self {
        Self { waiters: AtomicU32::new(0), lock: Mutex::new(()), emptied: Condvar::new() }
    }

    /// Consumer: the queue was just left empty. Costs a fence when nobody waits.
    pub(crate) fn open(&self) {
        // Pairs with the fence in `wait`: either the waiter sees the empty queue, or this side sees the
        // waiter. The lock then keeps the notice from falling between its look and its sleep.
        fence(Ordering::SeqCst);
        if self.waiters.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.lock));
            self.emptied.notify_all();
        }
    }

    /// Producer: waits until `is_open` says so; false when `deadline` came first.
    pub(crate) fn wait(&self, deadline: Option<Instant>, mut is_open: impl FnMut() -> bool) -> bool {
        let mut guard = lock(&self.lock);
        // Relaxed: the fence below orders it before the look.
        self.waiters.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `open`.
        fence(Ordering::SeqCst);
        let mut open = is_open();
        while !open && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            guard = wait(&self.emptied, guard, deadline);
            open = is_open();
        }
        // Relaxed: only this side's own count; a late `open` merely notifies nobody.
        self.waiters.fetch_sub(1, Ordering::Relaxed);
        open
    }
}
