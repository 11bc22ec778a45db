//! The ends of shared channels whose other side is a [`RingPeer`]: made here, or made by that peer.

#![allow(dead_code, reason = "no single test uses all of it")]
#![allow(unreachable_pub, reason = "compiled into each test")]

use std::fmt::Debug;

use recordfd::event::{self, Receiver, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::uapi::{AcpiNotify, Format};
use recordfd::{TryRecvError, Violation};

use super::ring_peer::{RingPeer, good_offer};

/// Replies in the rings of events.
pub const REPLIES: u32 = 4;

/// Makes a channel of so many records (groups of page faults), a power of two.
type Make<T> = fn(u32) -> (T, RingPeer);

/// Every way to have an end: this side makes the channel, or the peer does.
pub const SENDERS: [Make<SoleSender<AcpiNotify>>; 2] = [
    |depth| {
        let (tx, end) = event::shared(&events(depth)).unwrap();
        (tx, RingPeer::attach(end))
    },
    |depth| {
        let (peer, end) = RingPeer::make(&good_offer(Format::ACPI_NOTIFY_V1, true, depth, REPLIES));
        (SoleSender::from_shared(end).unwrap(), peer)
    },
];

pub const RECEIVERS: [Make<Receiver<AcpiNotify>>; 2] = [
    |depth| {
        let (rx, end) = event::shared_receiver(&events(depth)).unwrap();
        (rx, RingPeer::attach(end))
    },
    |depth| {
        let (peer, end) = RingPeer::make(&good_offer(Format::ACPI_NOTIFY_V1, false, depth, REPLIES));
        (Receiver::from_shared(end).unwrap(), peer)
    },
];

pub const REPORTERS: [Make<FaultReporter>; 2] = [
    |depth| {
        let (reporter, end) = fault::shared(&faults(depth)).unwrap();
        (reporter, RingPeer::attach(end))
    },
    |depth| {
        let (peer, end) = RingPeer::make(&good_offer(Format::IOMMU_PGFAULT_V1, true, depth, depth));
        (FaultReporter::from_shared(end, &faults(depth)).unwrap(), peer)
    },
];

pub const RESPONDERS: [Make<FaultResponder>; 2] = [
    |depth| {
        let (responder, end) = fault::shared_responder(&faults(depth)).unwrap();
        (responder, RingPeer::attach(end))
    },
    |depth| {
        let (peer, end) = RingPeer::make(&good_offer(Format::IOMMU_PGFAULT_V1, false, depth, depth));
        (FaultResponder::from_shared(end).unwrap(), peer)
    },
];

/// The violation that a receive fails with.
pub fn violation<T: Debug>(received: Result<T, TryRecvError>) -> Violation {
    match received {
        Err(TryRecvError::PeerViolation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

fn events(depth: u32) -> recordfd::Options {
    recordfd::Options::new().depth(depth).reply_depth(REPLIES)
}

/// One device may have all of it.
fn faults(depth: u32) -> fault::Options {
    fault::Options::new().depth(depth).per_device(depth)
}
