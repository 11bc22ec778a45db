//! The transports, and the options that matter.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::time::Duration;

use recordfd::Options;
use recordfd::event::{self, Receiver, Sender, SoleSender};
use recordfd::uapi::{Format, Smmuv3Event};

use super::ends::{LookingRx, Rx, Tx};
use crate::carrier::{Carrier, Crossing, DEPTH};

const BUSY_POLL: Duration = Duration::from_micros(50);

fn options(busy: bool) -> Options {
    let busy_poll = if busy { BUSY_POLL } else { Duration::ZERO };
    Options::new().depth(DEPTH as u32).busy_poll(busy_poll)
}

/// Threads of one process.
pub(super) struct Local<const BUSY: bool = false>;

impl<const BUSY: bool> Carrier for Local<BUSY> {
    type Tx = Tx<Sender<Smmuv3Event>>;
    type Rx = Rx;

    fn pair() -> (Self::Tx, Self::Rx) {
        let (sender, receiver) = event::channel(&options(BUSY)).expect("a channel");
        (Tx::new(sender), Rx::new(receiver))
    }
}

pub(super) struct Socket;

impl Crossing for Socket {
    type Tx = Tx<Sender<Smmuv3Event>>;
    type Rx = Rx;

    fn make_receiver() -> (Rx, OwnedFd) {
        let (receiver, end) = event::socket_receiver(&options(false)).expect("a channel");
        (Rx::new(receiver), end.into())
    }

    fn attach_sender(end: OwnedFd) -> Self::Tx {
        // More than the socket takes: this one loses nothing and needs no room for a notice.
        let sender = Sender::from_socket(end, Format::VIOMMU_ARM_SMMUV3_V1, DEPTH as u32);
        Tx::new(sender.expect("it is a channel's end"))
    }

    fn make_sender() -> (Self::Tx, OwnedFd) {
        let (sender, end) = event::socket(&options(false)).expect("a channel");
        (Tx::new(sender), end.into())
    }

    fn attach_receiver(end: OwnedFd) -> Rx {
        let receiver = Receiver::from_socket(end, Format::VIOMMU_ARM_SMMUV3_V1);
        Rx::new(receiver.expect("it is a channel's end"))
    }
}

/// Shared memory; with the fences of both sides made by the receiver or not, with a receiver that looks for records
/// before it sleeps or not.
pub(super) struct Shared<const ASYMMETRIC: bool = false, const BUSY: bool = false>;

impl<const ASYMMETRIC: bool, const BUSY: bool> Shared<ASYMMETRIC, BUSY> {
    fn tx(mut sender: SoleSender<Smmuv3Event>) -> Tx<SoleSender<Smmuv3Event>> {
        if ASYMMETRIC {
            sender.use_asymmetric_fence().expect("the kernel has membarrier");
        }
        Tx::new(sender)
    }

    fn rx(mut receiver: Receiver<Smmuv3Event>) -> Rx {
        if ASYMMETRIC {
            receiver.use_asymmetric_fence().expect("the kernel has membarrier");
        }
        if BUSY {
            receiver.set_busy_poll(BUSY_POLL);
        }
        Rx::new(receiver)
    }
}

impl<const ASYMMETRIC: bool, const BUSY: bool> Crossing for Shared<ASYMMETRIC, BUSY> {
    type Tx = Tx<SoleSender<Smmuv3Event>>;
    type Rx = Rx;

    fn make_receiver() -> (Rx, OwnedFd) {
        let (receiver, end) = event::shared_receiver(&options(BUSY)).expect("a channel");
        (Self::rx(receiver), end.into())
    }

    fn attach_sender(end: OwnedFd) -> Self::Tx {
        Self::tx(SoleSender::from_shared(end).expect("it is a channel's end"))
    }

    fn make_sender() -> (Self::Tx, OwnedFd) {
        let (sender, end) = event::shared(&options(BUSY)).expect("a channel");
        (Self::tx(sender), end.into())
    }

    fn attach_receiver(end: OwnedFd) -> Rx {
        Self::rx(Receiver::from_shared(end).expect("it is a channel's end"))
    }
}

/// Receives by the calls that wait, and leaves it to recordfd to look for records meanwhile.
pub(super) struct Looks<C>(PhantomData<C>);

impl<C: Crossing<Rx = Rx>> Crossing for Looks<C> {
    type Tx = C::Tx;
    type Rx = LookingRx;

    fn make_receiver() -> (LookingRx, OwnedFd) {
        let (rx, end) = C::make_receiver();
        (LookingRx(rx), end)
    }

    fn attach_sender(end: OwnedFd) -> Self::Tx {
        C::attach_sender(end)
    }

    fn make_sender() -> (Self::Tx, OwnedFd) {
        C::make_sender()
    }

    fn attach_receiver(end: OwnedFd) -> LookingRx {
        LookingRx(C::attach_receiver(end))
    }
}
