//! How much each device has open, and a bound on it: no device starves another.

use std::collections::HashMap;

#[derive(Debug)]
pub(crate) struct DeviceCounts {
    /// Of the devices that have any.
    counts: HashMap<u32, u32>,
    most: u32,
}

impl DeviceCounts {
    /// Counts up to `total` in all and `most` of one device.
    pub(crate) fn new(total: u32, most: u32) -> Self {
        // Twice the most, so that the table never grows, whatever was removed from it.
        Self { counts: HashMap::with_capacity(2 * total as usize), most }
    }

    /// Counts one more; false when the device is at its bound.
    pub(crate) fn add(&mut self, dev_id: u32) -> bool {
        let count = self.counts.entry(dev_id).or_insert(0);
        if *count >= self.most {
            return false;
        }
        *count += 1;
        true
    }

    /// Counts one less.
    pub(crate) fn remove(&mut self, dev_id: u32) {
        if let Some(count) = self.counts.get_mut(&dev_id) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&dev_id);
            }
        }
    }

    pub(crate) fn has(&self, dev_id: u32) -> bool {
        self.counts.contains_key(&dev_id)
    }
}
