//! How much each device has open, and a bound on it: no device starves another.

use std::collections::HashMap;

use super::list::{Linked, Links, List};

/// What one device has.
#[derive(Debug)]
struct Device {
    links: Links,
    dev_id: u32,
    count: u32,
}

impl Linked for Device {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
pub(crate) struct DeviceCounts {
    devices: Box<[Device]>,
    /// Places of devices that have nothing, the one longest without first.
    idle: List,
    by_id: HashMap<u32, u32>,
    /// The place that was found last: mostly the next one, too.
    last: u32,
    most: u32,
}

impl DeviceCounts {
    /// Counts for up to `total` devices at a time, at least 1, and up to `most` for each.
    pub(crate) fn new(total: u32, most: u32) -> Self {
        let device = |_| Device { links: Links::LONE, dev_id: 0, count: 0 };
        let mut devices: Box<[_]> = (0..total).map(device).collect();
        let mut idle = List::new();
        (0..total).for_each(|place| idle.push(&mut devices, place));
        // Twice the most, so that the table never grows, whatever was removed from it.
        Self { devices, idle, by_id: HashMap::with_capacity(2 * total as usize), last: 0, most }
    }

    /// Counts `weight` more; false when that is beyond the device's bound, or all places are taken. What is
    /// more than the bound by itself is taken by a device that has nothing else.
    pub(crate) fn add(&mut self, dev_id: u32, weight: u32) -> bool {
        let Some(place) = self.find(dev_id).or_else(|| self.settle(dev_id)) else { return false };
        let device = &mut self.devices[place as usize];
        if device.count == 0 {
            self.idle.remove(&mut self.devices, place);
        } else if device.count.saturating_add(weight) > self.most {
            return false;
        }
        self.devices[place as usize].count += weight;
        true
    }

    /// Counts `weight` less.
    pub(crate) fn remove(&mut self, dev_id: u32, weight: u32) {
        if let Some(place) = self.find(dev_id) {
            let device = &mut self.devices[place as usize];
            device.count -= weight;
            if device.count == 0 {
                self.idle.push(&mut self.devices, place);
            }
        }
    }

    /// Whether the device has anything.
    pub(crate) fn has(&mut self, dev_id: u32) -> bool {
        self.find(dev_id).is_some_and(|place| self.devices[place as usize].count > 0)
    }

    fn find(&mut self, dev_id: u32) -> Option<u32> {
        // A place without anything may not be the device's that its id says.
        let last = &self.devices[self.last as usize];
        if last.dev_id != dev_id || last.count == 0 {
            self.last = *self.by_id.get(&dev_id)?;
        }
        Some(self.last)
    }

    /// Gives the device the place of one that has nothing.
    fn settle(&mut self, dev_id: u32) -> Option<u32> {
        let place = self.idle.first()?;
        let device = &mut self.devices[place as usize];
        // A place that was never given away carries an id that may be another's.
        if self.by_id.get(&device.dev_id) == Some(&place) {
            self.by_id.remove(&device.dev_id);
        }
        device.dev_id = dev_id;
        self.by_id.insert(dev_id, place);
        self.last = place;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_at_its_bound_is_refused_and_another_is_not() {
        let mut counts = DeviceCounts::new(4, 2);
        assert!(counts.add(7, 1) && counts.add(7, 1) && !counts.add(7, 1));
        assert!(counts.add(0, 9) && counts.add(9, 1) && !counts.add(9, 2), "devices with room");
        counts.remove(7, 1);
        assert!(counts.add(7, 1) && !counts.add(7, 1));
        assert_eq!([7, 0, 9, 1].map(|dev_id| counts.has(dev_id)), [true, true, true, false]);
    }

    #[test]
    fn more_devices_than_places_take_turns() {
        let mut counts = DeviceCounts::new(3, 3);
        let capacity = counts.by_id.capacity();
        for round in 0..1000 {
            for dev_id in round..round + 3 {
                assert!(counts.add(dev_id, 2), "{dev_id}");
            }
            assert!(!counts.add(round + 3, 1), "no place is left");
            for dev_id in round..round + 3 {
                assert!(counts.has(dev_id));
                counts.remove(dev_id, 2);
                assert!(!counts.has(dev_id));
            }
        }
        assert!(counts.by_id.len() <= 3);
        assert_eq!(counts.by_id.capacity(), capacity);
    }
}
