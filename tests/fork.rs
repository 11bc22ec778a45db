//! Fork without exec: a child that drops ends it never attached does nothing to the channel.

mod common;

use std::thread;
use std::time::Duration;

use common::*;
use recordfd::event::Received;
use recordfd::uapi::AcpiOst;
use recordfd::{DrainError, Options, TryRecvError};

/// A channel of depth 4 that is full and has a loss of 3 pending.
fn with_loss(make: Make) -> (Tx, Rx) {
    let (tx, rx) = make(&Options::new().depth(4));
    (0..7).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    (tx, rx)
}

/// Fails unless `with_loss` is as it was, and still a channel.
fn assert_untouched(tx: Tx, mut rx: Rx, loss_is_told_at_once: bool) {
    assert!(!tx.is_closed());
    for data in 0..4 {
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
    }
    let mut lost = 3;
    if loss_is_told_at_once {
        assert_eq!(rx.try_recv().unwrap(), Received::Lost { count: 3 });
        lost = 0;
    }
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)), "neither closed nor a notice");
    assert!(!readable(&rx));
    tx.try_send(notify(0x80, 7)).unwrap();
    assert_eq!(summary(rx.recv().unwrap()), (lost, Some(7)));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
    rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
    drop(tx);
    assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
}

fn in_every_order(make: Make, loss_is_told_at_once: bool) {
    let (tx, rx) = with_loss(make);
    let tx = dropped_in_a_child(tx);
    assert_untouched(tx, rx, loss_is_told_at_once);

    let (tx, rx) = with_loss(make);
    let rx = dropped_in_a_child(rx);
    assert_untouched(tx, rx, loss_is_told_at_once);

    let (tx, rx) = with_loss(make);
    let (rx, tx) = dropped_in_a_child((rx, tx));
    let (clone, tx, rx) = dropped_in_a_child((tx.clone(), tx, rx));
    drop(clone);
    assert_untouched(tx, rx, loss_is_told_at_once);
}

#[cfg(feature = "local")]
#[test]
fn child_that_drops_local_ends_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_local_ends_does_nothing_to_the_channel", || {
        in_every_order(common::local, true);
    });
}

#[test]
fn child_that_drops_socket_ends_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_socket_ends_does_nothing_to_the_channel", || {
        in_every_order(common::socket, false);
        in_every_order(common::socket_made_by_receiver, false);
    });
}

#[test]
fn child_that_drops_shared_ends_does_nothing_to_the_channel() {
    in_own_process("child_that_drops_shared_ends_does_nothing_to_the_channel", || {
        in_every_order(common::shared, true);
        in_every_order(common::shared_made_by_receiver, true);
    });
}

/// A word in memory tells the end, whatever copies of the socket a child has: whoever sleeps is woken by it, too.
#[test]
fn shared_ends_are_gone_when_they_are_dropped_whatever_a_child_has() {
    in_own_process("shared_ends_are_gone_when_they_are_dropped_whatever_a_child_has", || {
        for make in [common::shared, common::shared_made_by_receiver] {
            let (polled, polled_peer) = make(&Options::new());
            let (receiving, mut receiver) = make(&Options::new());
            let (waiting, waited_for) = make(&Options::new());
            waiting.try_send(notify(0x80, 0)).unwrap();
            let child = Inheritor::new();
            let receiver = thread::spawn(move || receiver.recv());
            let waiter = thread::spawn(move || waiting.wait_drained(None));
            let poller = thread::spawn(move || {
                assert!(wait_readable(&polled), "not woken");
                assert!(matches!(polled.try_recv_reply(), Err(TryRecvError::Closed)));
                assert!(readable(&polled), "closed is readable for ever");
            });
            // So that they sleep, most of the time.
            thread::sleep(Duration::from_millis(20));
            drop((receiving, waited_for, polled_peer));
            assert!(matches!(soon(move || receiver.join().unwrap()), Err(TryRecvError::Closed)));
            assert!(matches!(soon(move || waiter.join().unwrap()), Err(DrainError::Closed)));
            poller.join().unwrap();
            child.go();
        }
    });
}

/// As below.
#[cfg(feature = "mio")]
#[test]
fn child_that_deregisters_an_inherited_end_leaves_it_in_the_parents_poll() {
    use ::fork::{Fork, fork, waitpid};
    use mio::{Events, Interest, Poll, Token};
    use std::process::exit;

    for make in every_make() {
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(4));
        let (tx, mut rx) = make(&Options::new());
        poll.registry().register(&mut rx, Token(1), Interest::READABLE).unwrap();
        match fork().unwrap() {
            Fork::Child => {
                let registry = poll.registry();
                let refused = [
                    registry.deregister(&mut rx),
                    registry.reregister(&mut rx, Token(2), Interest::READABLE),
                    registry.register(&mut rx, Token(3), Interest::READABLE),
                ];
                let is_refused = |outcome: &std::io::Result<()>| {
                    outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
                };
                exit(i32::from(!refused.iter().all(is_refused)));
            }
            Fork::Parent(child) => assert_eq!(libc::WEXITSTATUS(waitpid(child).unwrap()), 0),
        }
        tx.try_send(notify(0x80, 7)).unwrap();
        poll.poll(&mut events, Some(SOON)).unwrap();
        assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [Token(1)]);
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)));
    }
}

/// A poller's kernel object is one for parent and child, so a deletion in the child would be one in the parent.
#[cfg(feature = "polling")]
#[test]
fn child_that_drops_a_registration_leaves_it_in_the_parents_poller() {
    use std::sync::Arc;

    use polling::{Event, Events, Poller};
    use recordfd::reactor::polling::Registration;

    for make in every_make() {
        let (poller, mut events) = (Arc::new(Poller::new().unwrap()), Events::new());
        let (tx, rx) = make(&Options::new());
        let rx = Registration::new(&poller, rx, Event::readable(1)).unwrap();
        // The child drops its last reference to the poller, too.
        let (poller, mut rx) = dropped_in_a_child((poller, rx));
        tx.try_send(notify(0x80, 7)).unwrap();
        poller.wait(&mut events, Some(SOON)).unwrap();
        assert_eq!(events.iter().map(|event| event.key).collect::<Vec<_>>(), [1]);
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)));
    }
}
