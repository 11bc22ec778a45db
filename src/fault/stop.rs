//! Stop Markers that have come and that nobody has waited for yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::error::DrainError;
use crate::sync::{Condvar, MutexGuard, wait};

/// Markers kept in all, and of one device.
const MOST: usize = 64;
const MOST_OF_DEVICE: usize = 8;

/// Device and PASID of the latest markers, oldest first.
#[derive(Debug)]
pub(super) struct StopMarkers(VecDeque<(u32, u32)>);

impl StopMarkers {
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(MOST))
    }

    /// Keeps a marker. One that is there already stays one; too many, and the oldest goes: of the same
    /// device if it is that one which has too many.
    pub(super) fn add(&mut self, dev_id: u32, pasid: u32) {
        self.forget(dev_id, pasid);
        let of_device = self.0.iter().filter(|marker| marker.0 == dev_id).count();
        if of_device == MOST_OF_DEVICE {
            self.remove(|marker| marker.0 == dev_id);
        } else if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((dev_id, pasid));
    }

    /// Takes a marker; false when it has not come.
    pub(super) fn take(&mut self, dev_id: u32, pasid: u32) -> bool {
        self.remove(|marker| *marker == (dev_id, pasid))
    }

    /// Forgets a marker, for the PASID's requests go on.
    pub(super) fn forget(&mut self, dev_id: u32, pasid: u32) {
        if !self.0.is_empty() {
            self.take(dev_id, pasid);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the markers of a device.
    pub(super) fn discard(&mut self, dev_id: u32) {
        self.0.retain(|marker| marker.0 != dev_id);
    }

    fn remove(&mut self, is_meant: impl Fn(&(u32, u32)) -> bool) -> bool {
        let found = self.0.iter().position(is_meant);
        found.and_then(|index| self.0.remove(index)).is_some()
    }
}

/// Waits until `take` finds the marker it looks for under the lock, which `condvar` tells of.
pub(super) fn wait_for_marker<T>(
    mut guard: MutexGuard<'_, T>,
    condvar: &Condvar,
    timeout: Duration,
    mut take: impl FnMut(&mut T) -> bool,
) -> Result<(), DrainError> {
    let deadline = Instant::now().checked_add(timeout);
    while !take(&mut guard) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(DrainError::Timeout);
        }
        guard = wait(condvar, guard, deadline);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_one_device_leaves_the_marker_of_another() {
        let mut markers = StopMarkers::new();
        markers.add(1, 7);
        (0..1000).for_each(|pasid| markers.add(2, pasid));
        assert!(markers.take(1, 7) && !markers.take(1, 7));
        assert_eq!((0..1000).filter(|pasid| markers.take(2, *pasid)).count(), MOST_OF_DEVICE);
    }

    #[test]
    fn flood_of_many_devices_takes_bounded_room() {
        let mut markers = StopMarkers::new();
        (0..1000).for_each(|dev_id| markers.add(dev_id, 0));
        assert_eq!((markers.0.len(), markers.0[0].0), (MOST, 1000 - MOST as u32));
    }
}
