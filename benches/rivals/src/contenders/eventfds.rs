//! Bare eventfds, one each way: what a wake-up costs. They carry the number alone, as their counter.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Contender, Measure, trips, trips_across};
use crate::carrier::{Check, Crossing, Sends, Waits};

pub(super) const EVENTFDS: &str = "two bare eventfds";

pub(super) fn contenders() -> Vec<Contender> {
    let polled = "two bare eventfds, poll before each read";
    vec![
        trips::<Eventfd<false>>(Measure::Asleep, EVENTFDS),
        trips::<Eventfd<true>>(Measure::Asleep, polled),
        trips_across::<Eventfd<false>>(Measure::Asleep, EVENTFDS),
        trips_across::<Eventfd<true>>(Measure::Asleep, polled),
        trips::<Eventfd<false>>(Measure::BusyPoll, EVENTFDS),
        trips_across::<Eventfd<false>>(Measure::BusyPoll, EVENTFDS),
    ]
}

/// Waits in read, or in poll as who has other descriptors to wait for must.
struct Eventfd<const POLLS: bool>;

/// The sender's end.
struct Tx(File);

/// The receiver's end.
struct Rx<const POLLS: bool>(File);

fn make() -> (OwnedFd, OwnedFd) {
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
    let other = eventfd.as_fd().try_clone_to_owned().expect("a descriptor");
    (eventfd.into(), other)
}

impl<const POLLS: bool> Crossing for Eventfd<POLLS> {
    type Tx = Tx;
    type Rx = Rx<POLLS>;

    fn make_receiver() -> (Self::Rx, OwnedFd) {
        let (near, far) = make();
        (Rx(near.into()), far)
    }

    fn attach_sender(end: OwnedFd) -> Self::Tx {
        Tx(end.into())
    }

    fn make_sender() -> (Self::Tx, OwnedFd) {
        let (near, far) = make();
        (Tx(near.into()), far)
    }

    fn attach_receiver(end: OwnedFd) -> Self::Rx {
        Rx(end.into())
    }
}

impl Sends for Tx {
    fn send(&mut self, number: u64) -> bool {
        self.0.write_all(&number.to_ne_bytes()).is_ok()
    }
}

impl<const POLLS: bool> Waits for Rx<POLLS> {
    fn receive_waiting(&mut self, check: &mut Check) {
        if POLLS {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).expect("an eventfd can be polled");
        }
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes).expect("an eventfd can be read");
        let number = u64::from_ne_bytes(bytes);
        check.see_number(number, number);
    }
}
