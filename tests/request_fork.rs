//! Fork without exec: a child that drops what it never attached does nothing to a channel of requests. And how many
//! descriptors a channel takes.

mod common;

use common::request::*;
use common::{
    Inheritor, dropped_in_a_child, in_own_process, open_descriptors, readable, until, wait_readable,
};
use recordfd::TryRecvError;
use recordfd::request::{self, Ack, Cause, Options};
use recordfd::uapi::DeviceRequest;

type R = DeviceRequest;

/// A channel in the middle of everything: a request that is held, a zombie, one that is unread, and one that is
/// answered and not collected.
fn in_every_order(make: MakeRequest<R>) {
    let (reporter, mut responder) = make(&Options::new().depth(8));
    reporter.report(R::of(9)).unwrap();
    let zombie = receive(&mut responder);
    reporter.detach(9);
    assert_eq!(ended(&reporter).len(), 1);
    assert!(is_empty(&mut responder));
    let [answered, held, unread] = [1, 2, 3].map(|dev_id| reporter.report(R::of(dev_id)).unwrap());
    receive(&mut responder).respond(Ack::Done).unwrap();
    let pending = receive(&mut responder);
    // Each by itself, then all of them.
    let reporter = dropped_in_a_child(reporter);
    let clone = dropped_in_a_child(reporter.clone());
    drop(clone);
    let pending = dropped_in_a_child(pending);
    let both = dropped_in_a_child((responder, zombie));
    let (reporter, (mut responder, zombie), pending) = dropped_in_a_child((reporter, both, pending));

    assert!(!reporter.is_closed());
    assert_eq!(ended(&reporter), [(answered, Ack::Done, Cause::Answered)], "nothing but that");
    assert!(!readable(&reporter));
    let counters = reporter.counters();
    assert_eq!((counters.in_flight, counters.unanswered, counters.late_answers), (3, 2, 0));
    let last = receive(&mut responder);
    assert_eq!(last.cookie(), unread);
    assert!(is_empty(&mut responder) && !readable(&responder), "neither closed nor a request");
    drop((zombie, pending));
    assert_eq!(ended(&reporter), [(held, Ack::Refused, Cause::Answered)]);
    assert_eq!((reporter.counters().late_answers, reporter.counters().in_flight), (1, 1));
    drop((reporter, last));
    assert!(matches!(responder.recv(), Err(TryRecvError::Closed)));
}

#[test]
fn child_that_drops_its_copies_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_its_copies_does_nothing_to_the_channel", || {
        every_make().into_iter().for_each(in_every_order);
    });
}

#[test]
fn ends_are_gone_when_their_last_copy_is_closed() {
    in_own_process("ends_are_gone_when_their_last_copy_is_closed", || {
        for make in [socket::<R>, socket_made_by_responder] {
            let (reporter, mut responder) = make(&Options::new());
            let (other, other_responder) = make(&Options::new());
            let cookie = other.report(R::of(1)).unwrap();
            let child = Inheritor::new();
            drop((reporter, other_responder));
            assert!(is_empty(&mut responder) && !readable(&responder), "the child has a copy");
            assert!(!other.is_closed() && ended(&other).is_empty());
            child.go();
            assert!(wait_readable(&responder) && until(|| other.is_closed()));
            assert!(matches!(responder.try_recv(), Err(TryRecvError::Closed)));
            assert_eq!(ended(&other), [(cookie, Ack::Refused, Cause::HungUp)]);
        }
    });
}

#[test]
fn end_takes_one_descriptor_and_leaves_none() {
    in_own_process("end_takes_one_descriptor_and_leaves_none", || {
        for make in every_make::<R>() {
            let before = open_descriptors();
            let (reporter, mut responder) = make(&Options::new());
            assert_eq!(open_descriptors(), before + 2);
            reporter.report(R::of(1)).unwrap();
            let pending = receive(&mut responder);
            let clone = reporter.clone();
            assert_eq!(open_descriptors(), before + 2);
            drop((reporter, responder));
            assert_eq!(open_descriptors(), before + 2, "the clone, and who may still answer");
            drop((clone, pending));
            assert_eq!(open_descriptors(), before);
        }
        let before = open_descriptors();
        drop(request::socket::<R>(&Options::new()).unwrap());
        drop(request::shared_responder::<R>(&Options::new()).unwrap());
        assert_eq!(open_descriptors(), before);
    });
}
