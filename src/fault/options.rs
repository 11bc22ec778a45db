//! How a channel of page faults is made.

use std::time::Duration;

use recordfd_uapi::Format;

use crate::answer::make::Plan;
use crate::channel::check_depth;
use crate::error::Error;

/// Options of a channel of page faults.
///
/// The maker's decide; the side that attaches the other end is told format and depth by
/// [`UnattachedEnd::info`](crate::UnattachedEnd::info).
///
/// ```
/// use std::time::Duration;
///
/// use recordfd::fault::Options;
/// let options = Options::new().depth(512).per_device(64).deadline(Duration::from_secs(10));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) format: Format,
    pub(super) depth: u32,
    max_group: Option<u32>,
    per_device: Option<u32>,
    pub(super) half_made: u32,
    pub(super) half_made_age: Duration,
    pub(super) deadline: Option<Duration>,
    pub(super) busy_poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// IOMMU_PGFAULT v1, depth 256, half of that for one device, groups of at most 32 faults, 16 half-made
    /// groups of at most a second, no deadline, no busy polling.
    pub const fn new() -> Self {
        Self {
            format: Format::IOMMU_PGFAULT_V1,
            depth: 256,
            max_group: None,
            per_device: None,
            half_made: 16,
            half_made_age: Duration::from_secs(1),
            deadline: None,
            busy_poll: Duration::ZERO,
        }
    }

    /// [`Format::IOMMU_PGFAULT_V1`], byte-identical to Linux' fault queue, or
    /// [`Format::IOMMU_PGFAULT_V2`], which tells the responder of groups that were completed without its
    /// answer.
    #[must_use]
    pub const fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// How many faults may wait unread, and how many groups may be on their way: unread, unanswered,
    /// completed and not collected, or completed without an answer that may still come. From 1 to 2^20.
    ///
    /// On a socket it is at least 2, counts writes where it bounds what is unread, and may end up lower
    /// where the system limits send buffers: an answer to each group has room in them. What it really is, the ends' `depth` tells. (Linux' own queue has
    /// no bound.)
    #[must_use]
    pub const fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// The most faults of a group, 32 if not set; never more than the depth, nor than one write of 16 KiB
    /// holds. (Linux collects without a bound.)
    #[must_use]
    pub const fn max_group(mut self, faults: u32) -> Self {
        self.max_group = Some(faults);
        self
    }

    /// How many of the faults whose groups are on their way may be one device's, so that it cannot starve
    /// the others; but one group is always taken, however large. Half the depth if not set: **a channel of one device wants all of it.** (In Linux' queue one device
    /// can crowd out every other; in PCIe
    /// the Outstanding Page Request Allocation bounds a device's requests likewise.)
    #[must_use]
    pub const fn per_device(mut self, faults: u32) -> Self {
        self.per_device = Some(faults);
        self
    }

    /// How many groups may wait for their last page, from 1 to 2^20. One device may have half of them,
    /// and at least one. Room for the pages of all is set aside: 40 bytes for each. (Linux
    /// keeps as many as a device sends.)
    #[must_use]
    pub const fn half_made(mut self, groups: u32) -> Self {
        self.half_made = groups;
        self
    }

    /// How long a group may wait for its last page, from its first one on. A last page that comes later
    /// is a group by itself. (Linux keeps it until the device is detached.)
    #[must_use]
    pub const fn half_made_age(mut self, age: Duration) -> Self {
        self.half_made_age = age;
        self
    }

    /// How long a group may go unanswered. Without it, for ever: as long as the responder lives and the
    /// device is attached, as in Linux.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long the waits of either end look by themselves before they sleep; see
    /// [`Options::busy_poll`](crate::Options::busy_poll) of event channels.
    #[must_use]
    pub const fn busy_poll(mut self, busy_poll: Duration) -> Self {
        self.busy_poll = busy_poll;
        self
    }

    /// What the maker of a channel needs.
    pub(super) fn plan(&self) -> Result<Plan, Error> {
        self.check()?;
        let Self { format, depth, busy_poll, .. } = *self;
        Ok(Plan { format, headed: headed(format)?, depth, busy_poll })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        headed(self.format)?;
        check_depth("depth", self.depth)?;
        check_depth("half_made", self.half_made)?;
        for (name, value) in [("max_group", self.max_group), ("per_device", self.per_device)] {
            if value == Some(0) {
                return Err(Error::Option { name, value: 0, reason: "it must be at least 1" });
            }
        }
        for (name, age) in [("half_made_age", Some(self.half_made_age)), ("deadline", self.deadline)] {
            if age == Some(Duration::ZERO) {
                return Err(Error::Option { name, value: 0, reason: "nothing can come within no time" });
            }
        }
        Ok(())
    }

    /// The bound of one device in a channel of `depth`.
    pub(super) fn per_device_of(&self, depth: u32) -> u32 {
        self.per_device.unwrap_or(depth.div_ceil(2))
    }

    /// The most faults of a group in a channel that takes `most` at once.
    pub(super) fn max_group_of(&self, most: usize) -> u32 {
        self.max_group.unwrap_or(32).min(u32::try_from(most).unwrap_or(u32::MAX))
    }
}

/// Whether records of `format` have a header.
pub(super) fn headed(format: Format) -> Result<bool, Error> {
    match format {
        Format::IOMMU_PGFAULT_V1 => Ok(false),
        Format::IOMMU_PGFAULT_V2 => Ok(true),
        found => Err(Error::Format { expected: Format::IOMMU_PGFAULT_V1, found }),
    }
}
