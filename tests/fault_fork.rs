//! Fork without exec: a child that drops what it never attached does nothing to a page-fault channel, and
//! an end hangs up when its last copy is closed.

mod common;

use common::fault::*;
use common::{Inheritor, dropped_in_a_child, in_own_process, readable, until, wait_readable};
use recordfd::TryRecvError;
use recordfd::fault::{Cause, FaultGroup, FaultReporter, FaultResponder, Options, ResponseCode};
use recordfd::uapi::{Format, PgFault};

use ResponseCode::{Invalid, Success};

/// A channel in the middle of everything: a group that is held, one that is unread, one that is answered
/// and not collected, a zombie, and one that has only begun.
struct Busy {
    reporter: FaultReporter,
    responder: FaultResponder,
    held: FaultGroup,
    zombie: FaultGroup,
    unread: u32,
    answered: u32,
}

impl Busy {
    fn new(make: MakeFault, format: Format) -> Self {
        let (reporter, mut responder) = make(&Options::new().depth(8).format(format));
        publish(&reporter, page(9, 0));
        let (zombie, _) = receive(&mut responder);
        reporter.detach(9);
        assert_eq!(collect(&reporter).len(), 1);
        assert!(is_empty(&mut responder));
        let answered = publish(&reporter, page(1, 1));
        publish(&reporter, page(1, 2));
        receive(&mut responder).0.respond(Success).unwrap();
        let (held, _) = receive(&mut responder);
        reporter.report(group(1, 3, 2)[0]).unwrap();
        let unread = publish(&reporter, page(1, 4));
        Self { reporter, responder, held, zombie, unread, answered }
    }

    /// Fails unless everything is as it was, and still a channel.
    fn assert_untouched(self) {
        let Self { reporter, mut responder, held, zombie, unread, answered } = self;
        assert!(!reporter.is_closed());
        assert_eq!(ended(&reporter), [(answered, Success, Cause::Answered)], "nothing but that");
        assert!(!readable(&reporter));
        let counters = reporter.counters();
        assert_eq!((counters.in_flight, counters.unanswered, counters.half_made), (3, 2, 1));
        assert_eq!(counters.late_answers, 0);
        let (last, _) = receive(&mut responder);
        assert_eq!(last.cookie(), unread);
        assert!(is_empty(&mut responder) && !readable(&responder), "neither closed nor a group");
        let cookie = publish(&reporter, group(1, 3, 2)[1]);
        let (both, pages) = receive(&mut responder);
        assert_eq!((both.cookie(), pages.len()), (cookie, 2));
        both.respond(Success).unwrap();
        let ends = [(cookie, Success, Cause::Answered), (held.cookie(), Invalid, Cause::Answered)];
        drop((held, zombie));
        assert_eq!(ended(&reporter), ends);
        assert_eq!((reporter.counters().late_answers, reporter.counters().in_flight), (1, 1));
        drop((reporter, last));
        let closed = responder.recv_group(&mut [PgFault::default(); 2]);
        assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
    }
}

fn in_every_order(make: MakeFault) {
    for format in [Format::IOMMU_PGFAULT_V1, Format::IOMMU_PGFAULT_V2] {
        let Busy { reporter, responder, held, zombie, unread, answered } = Busy::new(make, format);
        let reporter = dropped_in_a_child(reporter);
        let clone = dropped_in_a_child(reporter.clone());
        let held = dropped_in_a_child(held);
        let (responder, zombie) = dropped_in_a_child((responder, zombie));
        drop(clone);
        let busy = Busy { reporter, responder, held, zombie, unread, answered };
        dropped_in_a_child(busy).assert_untouched();
    }
}

#[cfg(feature = "local")]
#[test]
fn child_that_drops_local_ends_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_local_ends_does_nothing_to_the_channel", || in_every_order(local));
}

#[test]
fn child_that_drops_socket_ends_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_socket_ends_does_nothing_to_the_channel", || {
        in_every_order(socket);
        in_every_order(socket_made_by_responder);
    });
}

#[test]
fn child_that_drops_shared_ends_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_shared_ends_does_nothing_to_the_channel", || {
        in_every_order(shared);
        in_every_order(shared_made_by_responder);
    });
}

#[test]
fn reporter_is_gone_when_its_last_copy_is_closed() {
    in_own_process("reporter_is_gone_when_its_last_copy_is_closed", || {
        for make in [socket, socket_made_by_responder] {
            let (reporter, mut responder) = make(&Options::new());
            let child = Inheritor::new();
            publish(&reporter, page(1, 0));
            drop(reporter);
            let (group, _) = receive(&mut responder);
            assert!(is_empty(&mut responder) && !readable(&responder), "the child has a copy");
            group.respond(Success).expect("it could still be read");
            child.go();
            assert!(wait_readable(&responder));
            let closed = responder.try_recv_group(&mut [PgFault::default()]);
            assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
        }
    });
}

#[test]
fn responder_is_gone_when_its_last_copy_is_closed() {
    in_own_process("responder_is_gone_when_its_last_copy_is_closed", || {
        for make in [socket, socket_made_by_responder] {
            let (reporter, mut responder) = make(&Options::new());
            let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
            let (group, _) = receive(&mut responder);
            let child = Inheritor::new();
            drop(group);
            drop(responder);
            assert_eq!(ended(&reporter), [(cookies[0], Invalid, Cause::Answered)]);
            assert!(!reporter.is_closed() && reporter.counters().unanswered == 1, "the child has a copy");
            child.go();
            assert!(until(|| reporter.is_closed()));
            assert_eq!(ended(&reporter), [(cookies[1], Invalid, Cause::HungUp)]);
        }
    });
}

/// Between threads a channel is a matter of memory: the copies that a child has keep nothing open.
#[cfg(feature = "local")]
#[test]
fn local_ends_are_gone_when_they_are_dropped_whatever_a_child_has() {
    in_own_process("local_ends_are_gone_when_they_are_dropped_whatever_a_child_has", || {
        let (reporter, mut responder) = local(&Options::new());
        let (other_reporter, other_responder) = local(&Options::new());
        let cookie = publish(&other_reporter, page(1, 0));
        let child = Inheritor::new();
        drop((reporter, other_responder));
        assert!(readable(&responder) && readable(&other_reporter));
        let closed = responder.try_recv_group(&mut [PgFault::default()]);
        assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
        assert_eq!(ended(&other_reporter), [(cookie, Invalid, Cause::HungUp)]);
        child.go();
    });
}

/// So in shared memory, where a word tells the end: whoever sleeps is woken, and the descriptors are readable.
#[test]
fn shared_ends_are_gone_when_they_are_dropped_whatever_a_child_has() {
    in_own_process("shared_ends_are_gone_when_they_are_dropped_whatever_a_child_has", || {
        for make in [shared, shared_made_by_responder] {
            let (reporter, mut responder) = make(&Options::new());
            let (other_reporter, other_responder) = make(&Options::new());
            let cookie = publish(&other_reporter, page(1, 0));
            assert!(is_empty(&mut responder) && collect(&other_reporter).is_empty(), "both are asleep");
            let child = Inheritor::new();
            drop((reporter, other_responder));
            assert!(readable(&responder) && readable(&other_reporter), "not woken");
            let closed = responder.try_recv_group(&mut [PgFault::default()]);
            assert!(matches!(closed, Err(TryRecvError::Closed)), "{closed:?}");
            assert_eq!(ended(&other_reporter), [(cookie, Invalid, Cause::HungUp)]);
            assert!(readable(&responder) && readable(&other_reporter), "closed is readable for ever");
            child.go();
        }
    });
}
