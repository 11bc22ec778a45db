//! What a channel promises, on every transport and made by either side.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::far::{MakeAny, readable, wait_readable};
use common::*;
use recordfd::event::Received;
use recordfd::uapi::{AcpiNotify, AcpiOst, Sequence};
use recordfd::{DrainError, Options, TryRecvError, TrySendError};

/// Expands to one module for each transport, with every test in it; in the last two the receiver is in another
/// process.
macro_rules! on_every_transport {
    ($($test:ident),* $(,)?) => {
        on_every_transport! { @module #[cfg(feature = "local")] local, here(local), $($test),* }
        on_every_transport! { @module socket, here(socket), $($test),* }
        on_every_transport! { @module socket_made_by_receiver, here(socket_made_by_receiver), $($test),* }
        on_every_transport! { @module shared, here(shared), $($test),* }
        on_every_transport! { @module shared_made_by_receiver, here(shared_made_by_receiver), $($test),* }
        on_every_transport! { @module shared_to_far_receiver, shared_to_far_receiver, $($test),* }
        on_every_transport! { @module shared_made_by_far_receiver, shared_made_by_far_receiver, $($test),* }
    };
    (@module $(#[$cfg:meta])? $name:ident, here($make:ident), $($test:ident),*) => {
        on_every_transport! {
            @module $(#[$cfg])? $name, |options| here(super::common::$make(options)), $($test),*
        }
    };
    (@module $(#[$cfg:meta])? $name:ident, $make:expr, $($test:ident),*) => {
        $(#[$cfg])?
        mod $name {
            #[allow(unused_imports, reason = "not by every module")]
            use super::common::far::*;
            $(#[test] fn $test() { super::$test($make); })*
        }
    };
}

#[test]
fn far_end() {
    common::far::far_end();
}

on_every_transport! {
    records_come_in_order_and_zero_is_a_value,
    empty_is_not_closed,
    closed_comes_after_the_last_record,
    full_gives_the_record_back_and_room_comes_with_reading,
    capacity_is_the_truth,
    sender_learns_that_the_receiver_is_gone,
    posted_loss_in_the_middle_comes_with_the_next_record,
    posted_loss_at_the_end_comes_as_a_notice,
    posted_loss_before_the_drop_comes_before_closed,
    loss_notice_is_not_repeated,
    descriptor_is_readable_for_one_record_per_wake_up,
    batch_is_one_wake_up,
    short_batch_is_counted_and_the_rest_can_follow,
    batch_into_a_longer_slice_takes_what_is_there,
    empty_slices_are_no_error,
    blocking_receive_waits_and_times_out,
    busy_poll_finds_records_and_leaves_the_descriptor_right,
    replies_come_back_in_order_any_number_per_cookie,
    replies_have_a_bound,
    drained_means_read,
    waiting_for_drained_wakes_up_and_times_out,
    many_senders_keep_one_order,
    counters_add_up,
    sequence_numbers_are_the_channels_business,
}

fn options(depth: u32) -> Options {
    Options::new().depth(depth)
}

/// Sends until the queue is full; returns how many were accepted.
fn fill(tx: &Tx) -> u32 {
    let accepted = (0..).find(|data| tx.try_send(notify(0x80, *data)).is_err());
    accepted.unwrap()
}

fn records_come_in_order_and_zero_is_a_value(make: MakeAny) {
    let (tx, mut rx) = make(&options(64));
    // What an eventfd cannot carry: 0 alone, the same value twice, one value right after another.
    let sent = [0x00, 0x80, 0x80, 0x80, 0x81, 0x00];
    for (data, value) in sent.into_iter().enumerate() {
        tx.try_send(notify(value, data as u32)).unwrap();
    }
    for (number, value) in sent.into_iter().enumerate() {
        let sequence = Sequence::wrapping(number as u32);
        let record = notify(value, number as u32);
        assert_eq!(rx.try_recv().unwrap(), Received::Record { lost: 0, sequence, record });
    }
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
}

fn empty_is_not_closed(make: MakeAny) {
    let (tx, mut rx) = make(&options(64));
    for _ in 0..3 {
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
        assert!(!readable(&rx));
    }
    drop(tx);
    for _ in 0..3 {
        assert!(readable(&rx), "closed is readable for ever");
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
    }
}

fn closed_comes_after_the_last_record(make: MakeAny) {
    let (tx, mut rx) = make(&options(64));
    (0..5).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
    let other = tx.clone();
    drop(tx);
    other.try_send(notify(0x80, 5)).unwrap();
    drop(other);
    for data in 0..6 {
        assert!(readable(&rx));
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
    }
    assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
}

fn full_gives_the_record_back_and_room_comes_with_reading(make: MakeAny) {
    let (tx, mut rx) = make(&options(16));
    let accepted = fill(&tx);
    let refused = notify(0x81, 999);
    match tx.try_send(refused) {
        Err(error @ TrySendError::Full(_)) => {
            assert_eq!(error.errno(), 11);
            assert_eq!(error.into_inner(), refused);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
    tx.try_send(refused).unwrap();
    for data in (1..accepted).chain([999]) {
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)), "a refused record is no loss");
    }
}

fn capacity_is_the_truth(make: MakeAny) {
    for depth in [2, 3, 7, 64, 250] {
        let (tx, _rx) = make(&options(depth));
        let capacity = tx.capacity() as u32;
        assert!(capacity == depth || capacity == depth.next_power_of_two(), "a ring may be deeper");
        assert_eq!(fill(&tx), capacity);
    }
}

fn sender_learns_that_the_receiver_is_gone(make: MakeAny) {
    let (tx, rx) = make(&options(16));
    tx.try_send(notify(0x80, 0)).unwrap();
    assert!(!tx.is_closed());
    drop(rx);
    assert!(tx.is_closed());
    assert!(readable(&tx), "the end of the receiver can be polled");
    match tx.try_send(notify(0x80, 1)) {
        Err(TrySendError::Closed(record)) => assert_eq!(record.data, 1),
        other => panic!("{other:?}"),
    }
    assert!(matches!(tx.post(notify(0x80, 2)), Err(TrySendError::Closed(_))));
    assert!(matches!(tx.send_batch(&[notify(0x80, 3)]), Err(TrySendError::Closed(()))));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
    assert!(matches!(tx.is_drained(), Err(DrainError::Closed)));
    assert!(matches!(tx.wait_drained(None), Err(DrainError::Closed)));
}

fn posted_loss_in_the_middle_comes_with_the_next_record(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    (0..7).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
    tx.post(notify(0x80, 7)).unwrap();
    for data in 1..4 {
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
    }
    assert_eq!(summary(rx.try_recv().unwrap()), (3, Some(7)));
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    assert!(!readable(&rx));
}

fn posted_loss_at_the_end_comes_as_a_notice(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    (0..7).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    for data in 0..4 {
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
    }
    tx.flush().unwrap();
    assert!(readable(&rx));
    assert_eq!(rx.try_recv().unwrap(), Received::Lost { count: 3 });
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    assert!(!readable(&rx));
    tx.try_send(notify(0x80, 7)).unwrap();
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)), "the loss was told already");
}

fn posted_loss_before_the_drop_comes_before_closed(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    (0..9).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    drop(tx);
    for data in 0..4 {
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
    }
    assert_eq!(rx.try_recv().unwrap(), Received::Lost { count: 5 });
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
}

fn loss_notice_is_not_repeated(make: MakeAny) {
    let (tx, mut rx) = make(&options(2));
    for round in 0..3 {
        (0..4).for_each(|data| tx.post(notify(0x80, data)).unwrap());
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)), "round {round}");
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(1)));
        tx.flush().unwrap();
        tx.flush().unwrap();
        assert_eq!(rx.try_recv().unwrap(), Received::Lost { count: 2 });
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    }
    assert_eq!((tx.counters().dropped, rx.counters().dropped), (6, 6));
}

fn descriptor_is_readable_for_one_record_per_wake_up(make: MakeAny) {
    let (tx, mut rx) = make(&options(16));
    for round in 0..50 {
        let burst = round % 5 + 1;
        (0..burst).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
        for data in 0..burst {
            assert!(readable(&rx), "record {data} of {burst} waits behind an unreadable descriptor");
            assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(data)));
        }
        assert!(!readable(&rx), "readable while empty");
    }
}

fn batch_is_one_wake_up(make: MakeAny) {
    let (tx, mut rx) = make(&options(256));
    let records: Vec<_> = (0..64).map(|data| notify(0x80, data)).collect();
    assert_eq!(tx.send_batch(&records).unwrap(), 64);
    let mut items = [Received::default(); 64];
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 64);
    for (data, item) in items.into_iter().enumerate() {
        assert_eq!(summary(item), (0, Some(data as u32)));
    }
    assert!(!readable(&rx));
    assert!(tx.counters().wake_ups <= 1);
}

fn short_batch_is_counted_and_the_rest_can_follow(make: MakeAny) {
    let (tx, mut rx) = make(&options(8));
    let records: Vec<_> = (0..1000).map(|data| notify(0x80, data)).collect();
    let mut sent = tx.send_batch(&records).unwrap();
    assert!((1..1000).contains(&sent), "{sent}");
    assert!(matches!(tx.send_batch(&records[sent..]), Err(TrySendError::Full(()))));
    let mut items = [Received::default(); 16];
    let mut next = 0;
    while next < 1000 {
        let count = rx.recv_batch(&mut items).unwrap();
        for item in &items[..count] {
            assert_eq!(summary(*item), (0, Some(next)));
            next += 1;
        }
        if sent < 1000 {
            sent += tx.send_batch(&records[sent..]).unwrap_or(0);
        }
    }
    assert_eq!(rx.counters().received, 1000);
}

fn batch_into_a_longer_slice_takes_what_is_there(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    (0..6).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    drop(tx);
    let mut items = [Received::default(); 16];
    let count = rx.recv_batch(&mut items).unwrap();
    let got: Vec<_> = items[..count].iter().map(|item| summary(*item)).collect();
    assert_eq!(got, [(0, Some(0)), (0, Some(1)), (0, Some(2)), (0, Some(3)), (2, None)]);
    assert!(matches!(rx.recv_batch(&mut items), Err(TryRecvError::Closed)));
}

fn empty_slices_are_no_error(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    assert_eq!(tx.send_batch(&[]).unwrap(), 0);
    assert_eq!(rx.recv_batch(&mut []).unwrap(), 0);
    tx.try_send(notify(0x80, 0)).unwrap();
    assert_eq!(rx.recv_batch(&mut []).unwrap(), 0);
    assert!(readable(&rx));
}

fn blocking_receive_waits_and_times_out(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    let began = Instant::now();
    assert!(matches!(rx.recv_timeout(Duration::from_millis(30)), Err(TryRecvError::Empty)));
    assert!(began.elapsed() >= Duration::from_millis(30));
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        tx.try_send(notify(0x80, 7)).unwrap();
        thread::sleep(Duration::from_millis(20));
    });
    assert_eq!(summary(rx.recv_timeout(SOON).unwrap()), (0, Some(7)));
    assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
    sender.join().unwrap();
    assert!(rx.counters().wake_ups >= 1);
}

fn busy_poll_finds_records_and_leaves_the_descriptor_right(make: MakeAny) {
    let (tx, mut rx) = make(&options(64));
    rx.set_busy_poll(Duration::from_millis(2));
    let sender = thread::spawn(move || {
        for burst in 0..200 {
            (0..3).for_each(|data| tx.try_send(notify(0x80, burst * 3 + data)).unwrap());
            let mut wait = Duration::from_micros(u64::from(burst) * 20);
            wait = wait.min(Duration::from_millis(3));
            thread::sleep(wait);
            tx.wait_drained(Some(SOON)).unwrap();
        }
    });
    let mut next = 0;
    while next < 600 {
        // By turns a spinning receive and one record per wake-up of an event loop.
        if next % 2 == 0 {
            assert_eq!(summary(rx.recv_timeout(SOON).unwrap()), (0, Some(next)));
            next += 1;
        } else {
            assert!(wait_readable(&rx), "record {next} waits behind an unreadable descriptor");
            match rx.try_recv() {
                Ok(item) => {
                    assert_eq!(summary(item), (0, Some(next)));
                    next += 1;
                }
                Err(error) => assert!(matches!(error, TryRecvError::Empty)),
            }
        }
    }
    sender.join().unwrap();
}

fn replies_come_back_in_order_any_number_per_cookie(make: MakeAny) {
    let (tx, mut rx) = make(&options(16));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
    assert!(!readable(&tx));
    tx.try_send(AcpiNotify { cookie: 42, ..notify(0x03, 0) }).unwrap();
    let cookie = rx.try_recv().unwrap().record().unwrap().cookie;
    for status in [0x84, 0x83, 0] {
        rx.reply(AcpiOst::new(cookie, 0x103, status)).unwrap();
    }
    for status in [0x84, 0x83, 0] {
        assert!(readable(&tx));
        assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(42, 0x103, status));
    }
    assert!(!readable(&tx));
    rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
    drop(rx);
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
    assert_eq!(tx.counters().replies, 4);
}

fn replies_have_a_bound(make: MakeAny) {
    let (tx, mut rx) = make(&options(16).reply_depth(8));
    let refused = (0..100_000).find(|status| rx.reply(AcpiOst::new(1, 0, *status)).is_err());
    let accepted = refused.expect("a sender that reads no replies does not take memory without end");
    match rx.reply(AcpiOst::new(9, 9, 9)) {
        Err(TrySendError::Full(reply)) => assert_eq!(reply, AcpiOst::new(9, 9, 9)),
        other => panic!("{other:?}"),
    }
    (0..accepted).for_each(|status| assert_eq!(tx.try_recv_reply().unwrap().status, status));
    rx.reply(AcpiOst::new(9, 9, 9)).unwrap();
}

fn drained_means_read(make: MakeAny) {
    let (tx, mut rx) = make(&options(16));
    assert!(tx.is_drained().unwrap());
    (0..3).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
    for _ in 0..3 {
        assert!(!tx.is_drained().unwrap());
        rx.try_recv().unwrap();
    }
    assert!(tx.is_drained().unwrap());
    tx.wait_drained(Some(Duration::ZERO)).unwrap();
}

fn waiting_for_drained_wakes_up_and_times_out(make: MakeAny) {
    let (tx, mut rx) = make(&options(16));
    tx.try_send(notify(0x80, 0)).unwrap();
    let timeout = Some(Duration::from_millis(20));
    assert!(matches!(tx.wait_drained(timeout), Err(DrainError::Timeout)));
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let tx = tx.clone();
            thread::spawn(move || tx.wait_drained(Some(SOON)))
        })
        .collect();
    thread::sleep(Duration::from_millis(20));
    rx.try_recv().unwrap();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
    tx.try_send(notify(0x80, 1)).unwrap();
    let waiter = thread::spawn(move || tx.wait_drained(Some(SOON)));
    thread::sleep(Duration::from_millis(20));
    drop(rx);
    assert!(matches!(waiter.join().unwrap(), Err(DrainError::Closed)));
}

fn many_senders_keep_one_order(make: MakeAny) {
    const EACH: u32 = 20_000;
    let (tx, mut rx) = make(&options(128));
    let threads: Vec<_> = (0..4)
        .map(|sender| {
            let tx = tx.clone();
            thread::spawn(move || {
                let mut record = notify(0x80, 0);
                record.dev_id = sender;
                for data in 0..EACH {
                    record.data = data;
                    while let Err(TrySendError::Full(_)) = tx.try_send(record) {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    drop(tx);
    let mut next = [0; 4];
    let mut number = 0;
    let mut items = [Received::default(); 32];
    loop {
        match rx.recv_batch(&mut items) {
            Ok(count) => {
                for item in &items[..count] {
                    let Received::Record { lost: 0, sequence, record } = item else { panic!("{item:?}") };
                    assert_eq!(sequence.get(), number, "numbers follow the order of the queue");
                    number += 1;
                    let expected = &mut next[record.dev_id as usize];
                    assert_eq!(record.data, *expected);
                    *expected += 1;
                }
            }
            Err(TryRecvError::Empty) => assert!(wait_readable(&rx), "lost wake-up"),
            Err(TryRecvError::Closed) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(next, [EACH; 4]);
}

fn counters_add_up(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    (0..10).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    let sent = tx.counters().sent;
    assert_eq!((sent, tx.counters().dropped), (4, 6));
    drop(tx);
    let mut items = [Received::default(); 16];
    while rx.recv_batch(&mut items).is_ok() {}
    let counters = rx.counters();
    assert_eq!((counters.received, counters.dropped), (4, 6));
    assert!((4..=5).contains(&counters.high_water), "{counters:?}");
}

fn sequence_numbers_are_the_channels_business(make: MakeAny) {
    let (tx, mut rx) = make(&options(4));
    for number in 0..1000 {
        tx.try_send(notify(0x80, 0)).unwrap();
        match rx.try_recv().unwrap() {
            Received::Record { sequence, .. } => assert_eq!(sequence.get(), number),
            other => panic!("{other:?}"),
        }
    }
}
