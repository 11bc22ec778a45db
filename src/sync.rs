//! The atomics and locks everything is built from: std's, or loom's when it checks the models.

use std::sync::PoisonError;
use std::time::Instant;

#[cfg(loom)]
use loom::sync as base;
#[cfg(not(loom))]
use std::sync as base;

#[cfg(loom)]
pub(crate) use loom::thread_local;
#[cfg(not(loom))]
pub(crate) use std::thread_local;

pub(crate) use base::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
pub(crate) use base::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks `mutex`. A panic while it was held is no reason to stop: no code of a user runs under our
/// locks, and what they guard is whole after each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `condvar` until `deadline`, or without limit; may return early.
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> MutexGuard<'a, T> {
    let Some(deadline) = deadline else { return condvar.wait(guard).unwrap_or_else(PoisonError::into_inner) };
    let left = deadline.saturating_duration_since(Instant::now());
    condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
}

/// Locks `lock` for reading; a panic is no reason to stop, as above.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for writing; as above.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
