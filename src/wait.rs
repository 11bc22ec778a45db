//! Waiting for a descriptor, or for work that another thread brings, until a point in time.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Looks between two readings of the clock, which take longer. (Loom tries all that could happen at each.)
const LOOKS: u32 = if cfg!(loom) { 1 } else { 16 };

/// Beyond any use, and short enough to be added to a point in time.
const MOST_BUSY_POLL: Duration = Duration::from_secs(1 << 30);

/// When a wait that may last until `deadline` stops to look for `busy_poll`; `None` when it does not look.
pub(crate) fn spin_until(deadline: Option<Instant>, busy_poll: Duration) -> Option<Instant> {
    if busy_poll.is_zero() {
        return None;
    }
    let until = Instant::now() + busy_poll.min(MOST_BUSY_POLL);
    Some(deadline.map_or(until, |deadline| deadline.min(until)))
}

/// Looks until `until` whether there is work, with pauses between the looks that grow to eight; looks at least once.
pub(crate) fn spin(until: Instant, mut has_work: impl FnMut() -> bool) -> bool {
    let mut pauses = 1;
    loop {
        for _ in 0..LOOKS {
            if has_work() {
                return true;
            }
            (0..pauses).for_each(|_| std::hint::spin_loop());
        }
        if Instant::now() >= until {
            return false;
        }
        pauses = (pauses * 2).min(8);
    }
}

/// Looks until `until` whether `fd` is readable or hung up. Each look is a system call, but no sleep: the
/// wake-up is what is saved.
pub(crate) fn spin_readable(fd: BorrowedFd<'_>, until: Instant) -> io::Result<bool> {
    while Instant::now() < until {
        if wait_readable(fd, Some(Instant::now()))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until `fd` is readable or hung up; false when `deadline` came first.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    wait_for(fd, PollFlags::POLLIN, deadline)
}

/// Waits until one of `events`, or a hang-up, is there; false when `deadline` came first.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left =
            deadline.map(|deadline| TimeSpec::from(deadline.saturating_duration_since(Instant::now())));
        match ppoll(&mut [PollFd::new(fd, events)], left, None) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
