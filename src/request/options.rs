//! How a channel of requests is made.

use std::time::Duration;

use crate::channel::check_depth;
use crate::error::Error;

/// Options of a channel of requests.
///
/// The maker's decide; the side that attaches the other end is told format and depth by
/// [`UnattachedEnd::info`](crate::UnattachedEnd::info).
///
/// ```
/// use std::time::Duration;
///
/// use recordfd::request::Options;
/// let options = Options::new().depth(16).deadline(Some(Duration::from_secs(10)));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) depth: u32,
    per_device: Option<u32>,
    pub(super) deadline: Option<Duration>,
    pub(super) repeat_every: Option<Duration>,
    pub(super) busy_poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Depth 64, half of that for one device, a deadline of 60 seconds, releases asked for every 10 seconds, no
    /// busy polling.
    pub const fn new() -> Self {
        Self {
            depth: 64,
            per_device: None,
            deadline: Some(Duration::from_secs(60)),
            repeat_every: Some(Duration::from_secs(10)),
            busy_poll: Duration::ZERO,
        }
    }

    /// How many requests may be on their way: unread, unanswered, completed and not collected, or completed
    /// without an answer that may still come. From 1 to 2^20.
    ///
    /// On a socket it is at least 2, and may end up lower where the system limits send buffers; in shared memory
    /// it is rounded up to a power of two. What it really is, the reporter's `depth` tells.
    #[must_use]
    pub const fn depth(mut self, requests: u32) -> Self {
        self.depth = requests;
        self
    }

    /// How many of the requests on their way may be one device's, so that it cannot starve the others: half the
    /// depth if not set.
    #[must_use]
    pub const fn per_device(mut self, requests: u32) -> Self {
        self.per_device = Some(requests);
        self
    }

    /// How long a request may go unanswered, from its first report on; it completes with its negative answer then.
    /// `None` waits for ever. (Linux' proposal for vfio waits 60 seconds for a driver in user space to recover.)
    #[must_use]
    pub const fn deadline(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long it takes until a RELEASE that is not answered is asked for again, with a count that grows; `None`
    /// asks once. Of no effect on other requests. (Linux asks every 10 seconds: `drivers/vfio/vfio_main.c`,
    /// `vfio_unregister_group_dev()`.)
    #[must_use]
    pub const fn repeat_every(mut self, time: Option<Duration>) -> Self {
        self.repeat_every = time;
        self
    }

    /// How long the waits of either end look by themselves before they sleep; see
    /// [`Options::busy_poll`](crate::Options::busy_poll) of event channels.
    #[must_use]
    pub const fn busy_poll(mut self, busy_poll: Duration) -> Self {
        self.busy_poll = busy_poll;
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        check_depth("depth", self.depth)?;
        if self.per_device == Some(0) {
            return Err(Error::Option { name: "per_device", value: 0, reason: "it must be at least 1" });
        }
        for (name, time) in [("deadline", self.deadline), ("repeat_every", self.repeat_every)] {
            if time == Some(Duration::ZERO) {
                return Err(Error::Option { name, value: 0, reason: "nothing can come within no time" });
            }
        }
        Ok(())
    }

    /// The bound of one device in a channel of `depth`.
    pub(super) fn per_device_of(&self, depth: u32) -> u32 {
        self.per_device.unwrap_or(depth.div_ceil(2))
    }

    /// The shortest time after which something that is reported now can be due.
    pub(super) fn shortest(&self) -> Option<Duration> {
        [self.deadline, self.repeat_every].into_iter().flatten().min()
    }
}
