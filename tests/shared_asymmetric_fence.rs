//! A producer that leaves its fence to the consumer may miss that it is to be woken. What each end does before it goes
//! quiet makes up for it.

mod common;
#[path = "common/ring_ends.rs"]
mod ring_ends;
#[path = "common/ring_peer.rs"]
mod ring_peer;

use std::time::Duration;

use common::fault::*;
use common::*;
use recordfd::event::SoleSender;
use recordfd::fault::{FaultReporter, FaultResponder, ResponseCode};
use recordfd::uapi::{AcpiNotify, AcpiOst};
use recordfd::{DrainError, Error, TryRecvError};
use ring_ends::{RECEIVERS, REPORTERS, RESPONDERS, SENDERS};
use ring_peer::{RingPeer, Word};

const NO_TIME: Option<Duration> = Some(Duration::ZERO);

/// What `end` does with a peer that arms its bell just too late for `send` to see, behind which comes `quiet`.
fn misses<E>(
    (mut end, peer): (E, RingPeer),
    agree: impl FnOnce(&mut E) -> Result<(), Error>,
    send: impl FnOnce(&mut E),
    quiet: impl FnOnce(&mut E),
) {
    if let Err(Error::Os { source, .. }) = agree(&mut end) {
        eprintln!("skipped: {source}");
        return;
    }
    peer.consumed.set(Word::Fences, 1);
    peer.consumed.set(Word::Armed, 0);
    send(&mut end);
    assert_eq!(peer.take(), 0, "no token is wanted");
    peer.consumed.set(Word::Armed, 1);
    quiet(&mut end);
    assert_eq!((peer.take(), peer.consumed.get(Word::Armed)), (1, 0), "lost wake-up");
}

#[test]
fn sender_makes_up_for_a_missed_wake_up_before_it_goes_quiet() {
    let ways: [fn(&mut SoleSender<AcpiNotify>); 5] = [
        |tx| tx.flush().unwrap(),
        |tx| tx.try_send(notify(0x80, 1)).unwrap(),
        |tx| assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty))),
        |tx| assert!(!tx.is_drained().unwrap()),
        |tx| assert!(matches!(tx.wait_drained(NO_TIME), Err(DrainError::Timeout))),
    ];
    for make in SENDERS {
        for way in ways {
            misses(make(4), |tx| tx.use_asymmetric_fence(), |tx| tx.try_send(notify(0x80, 0)).unwrap(), way);
        }
        let (tx, peer) = make(4);
        misses(
            (tx.into_shared(), peer),
            |tx| tx.use_asymmetric_fence(),
            |tx| tx.try_send(notify(0x80, 0)).unwrap(),
            |tx| tx.flush().unwrap(),
        );
    }
}

#[test]
fn receiver_makes_up_for_a_missed_wake_up_before_it_goes_quiet() {
    let ways: [fn(&mut Rx); 3] = [
        |rx| assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty))),
        |rx| assert!(matches!(rx.recv_timeout(Duration::ZERO), Err(TryRecvError::Empty))),
        |rx| assert!(!rx.wait(NO_TIME).unwrap()),
    ];
    for make in RECEIVERS {
        for way in ways {
            let reply = |rx: &mut Rx| rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
            misses(make(4), |rx| rx.use_asymmetric_fence(), reply, way);
        }
    }
}

#[test]
fn ends_of_a_page_fault_channel_make_up_for_a_missed_wake_up_before_they_go_quiet() {
    let reporter_ways: [fn(&mut FaultReporter); 2] = [
        |reporter| assert!(collect(reporter).is_empty()),
        |reporter| {
            let none = reporter.wait_completions(&mut [Default::default()], NO_TIME);
            assert!(matches!(none, Err(TryRecvError::Empty)))
        },
    ];
    for make in REPORTERS {
        for way in reporter_ways {
            let report = |reporter: &mut FaultReporter| _ = publish(reporter, page(1, 0));
            misses(make(4), |reporter| reporter.use_asymmetric_fence(), report, way);
        }
    }
    let responder_ways: [fn(&mut FaultResponder); 2] =
        [|responder| assert!(is_empty(responder)), |responder| assert!(!responder.wait(NO_TIME).unwrap())];
    for make in RESPONDERS {
        for way in responder_ways {
            let (mut responder, peer) = make(4);
            peer.publish(&wire_page(1, true));
            let (group, _) = receive(&mut responder);
            let answer = |_: &mut FaultResponder| group.respond(ResponseCode::Success).unwrap();
            misses((responder, peer), |responder| responder.use_asymmetric_fence(), answer, way);
        }
    }
}
