//! A queue that was read empty is drained, also when the receiver is gone by then.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::{hint, thread};

use common::*;
use recordfd::{DrainError, Options};

/// Where the memory of the queue outlives the receiver. On a socket the kernel frees what was not read, so that
/// `Closed` is the answer there.
const KEPT: &[Make] = &[
    #[cfg(feature = "local")]
    common::local,
    common::shared,
    common::shared_made_by_receiver,
];
const ROUNDS: u32 = 300;

/// How often a sender is told `Closed` by `is_drained`, or `wait_drained`, of a receiver that reads everything and
/// goes meanwhile.
fn closed(make: Make, is_drained: impl Fn(&Tx) -> Result<bool, DrainError>) -> u32 {
    let closed = |round| {
        let (tx, mut rx) = make(&Options::new().depth(2));
        tx.try_send(notify(0x80, round)).unwrap();
        let go = AtomicBool::new(false);
        thread::scope(|scope| {
            let go = &go;
            scope.spawn(move || {
                while !go.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                (0..round % 64).for_each(|_| hint::spin_loop());
                rx.try_recv().unwrap();
            });
            go.store(true, Ordering::Release);
            for looks in 0.. {
                match is_drained(&tx) {
                    Ok(true) => return 0,
                    // The receiver may need this processor.
                    Ok(false) if looks % 256 == 255 => thread::yield_now(),
                    Ok(false) => {}
                    Err(DrainError::Closed) => return 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            unreachable!("the receiver reads");
        })
    };
    (0..ROUNDS).map(closed).sum()
}

#[test]
fn queue_that_was_read_empty_is_drained_though_the_receiver_is_gone() {
    for (number, make) in KEPT.iter().enumerate() {
        let closed = closed(*make, Tx::is_drained);
        assert_eq!(closed, 0, "make {number}: so many of {ROUNDS} were closed though everything was read");
    }
}

#[test]
fn wait_for_a_queue_that_was_read_empty_succeeds_though_the_receiver_is_gone() {
    for (number, make) in KEPT.iter().enumerate() {
        let closed = closed(*make, |tx| tx.wait_drained(Some(SOON)).map(|()| true));
        assert_eq!(closed, 0, "make {number}: so many of {ROUNDS} were closed though everything was read");
    }
}

#[test]
fn receiver_that_goes_with_unread_records_has_not_drained_the_queue() {
    let with_a_socket = KEPT.iter().copied().chain([common::socket as Make, common::socket_made_by_receiver]);
    for make in with_a_socket {
        let (tx, mut rx) = make(&Options::new());
        (0..2).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
        rx.try_recv().unwrap();
        assert!(matches!(tx.is_drained(), Ok(false)));
        drop(rx);
        assert!(until(|| tx.is_closed()));
        assert!(matches!(tx.is_drained(), Err(DrainError::Closed)));
        assert!(matches!(tx.wait_drained(None), Err(DrainError::Closed)));
    }
}
