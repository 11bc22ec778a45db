//! Two processes and more: what was promised holds when one of them is killed, too.

mod common;

use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread;
use std::time::Duration;

use common::way::{Way, on_every_way};
use common::*;
use nix::sys::signal::{Signal, raise};
use recordfd::event::Received;
use recordfd::uapi::{AcpiNotify, AcpiOst};
use recordfd::{DrainError, Options, TryRecvError, TrySendError, fd};

on_every_way! {
    child_answers_every_record
    end_passed_on_by_a_process_in_between_is_a_channel
    end_received_over_a_socket_is_a_channel
    two_children_need_nobody_between_them
    child_that_waits_for_drained_goes_on_after_the_last_read_and_not_before
    receiver_killed_while_we_send_is_closed_at_once_and_for_ever
    waiting_for_drained_ends_when_the_receiver_is_killed
    killed_sender_leaves_whole_records_without_a_gap_and_then_closed
    everything_posted_is_received_or_counted_as_lost
}

const DEPTH: u32 = 64;

fn options() -> Options {
    Options::new().depth(DEPTH)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Answers every record until the sender is gone.
fn answer_all(mut rx: Rx) {
    loop {
        match rx.recv() {
            Ok(item) => {
                let record = item.record().unwrap();
                rx.reply(AcpiOst::new(record.cookie, record.value, record.data)).unwrap();
            }
            Err(TryRecvError::Closed) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Sends 500 records, at most 20 unanswered at a time, to whoever answers all.
fn assert_all_are_answered(tx: &Tx) {
    for cookie in 0..500 {
        tx.try_send(AcpiNotify { cookie, ..notify(0x03, 2 * cookie) }).unwrap();
        if cookie % 20 != 19 {
            continue;
        }
        for answered in cookie - 19..=cookie {
            let reply = loop {
                match tx.try_recv_reply() {
                    Err(TryRecvError::Empty) => assert!(wait_readable(tx), "no answer to {answered}"),
                    outcome => break outcome.unwrap(),
                }
            };
            assert_eq!(reply, AcpiOst::new(answered, 0x03, 2 * answered));
        }
    }
}

fn child_answers_every_record(way: Way) {
    if in_child() {
        return answer_all(way.inherited_receiver(&options()));
    }
    let (tx, child) = way.receiving_child("child_answers_every_record", &options());
    assert_all_are_answered(&tx);
    drop(tx);
    finish(child);
}

fn end_passed_on_by_a_process_in_between_is_a_channel(way: Way) {
    if in_child() {
        return finish(way.spawn("child_answers_every_record", fd::take_stdin().unwrap()));
    }
    let (tx, child) = way.receiving_child("end_passed_on_by_a_process_in_between_is_a_channel", &options());
    assert_all_are_answered(&tx);
    drop(tx);
    finish(child);
}

fn end_received_over_a_socket_is_a_channel(way: Way) {
    if in_child() {
        return answer_all(way.receiver_there(fd::take_stdin().unwrap(), &options()));
    }
    let (near, far) = UnixStream::pair().unwrap();
    let child = way.spawn("end_received_over_a_socket_is_a_channel", far);
    let tx = way.sender_here(near, &options());
    assert_all_are_answered(&tx);
    drop(tx);
    finish(child);
}

fn two_children_need_nobody_between_them(way: Way) {
    if in_child() {
        let tx = way.sender_here(fd::take_stdin().unwrap(), &options());
        assert_all_are_answered(&tx);
        return tx.wait_drained(Some(SOON)).unwrap();
    }
    let (near, far) = UnixStream::pair().unwrap();
    let sender = way.spawn("two_children_need_nobody_between_them", near);
    let receiver = way.spawn("end_received_over_a_socket_is_a_channel", far);
    finish(sender);
    finish(receiver);
}

fn child_that_waits_for_drained_goes_on_after_the_last_read_and_not_before(way: Way) {
    if in_child() {
        let tx = way.inherited_sender(&options(), DEPTH);
        (0..10).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
        tx.wait_drained(None).unwrap();
        return tx.try_send(notify(0x80, 10)).unwrap();
    }
    let name = "child_that_waits_for_drained_goes_on_after_the_last_read_and_not_before";
    let (mut rx, child) = way.sending_child(name, &options());
    for data in 0..9 {
        assert_eq!(summary(rx.recv_timeout(SOON).unwrap()), (0, Some(data)));
    }
    // Time for a child that goes on too early.
    thread::sleep(Duration::from_millis(30));
    let mut items = [Received::default(); 4];
    assert_eq!(rx.recv_batch(&mut items).unwrap(), 1);
    assert_eq!(summary(items[0]), (0, Some(9)));
    assert_eq!(summary(rx.recv_timeout(SOON).unwrap()), (0, Some(10)));
    assert!(matches!(rx.recv_timeout(SOON), Err(TryRecvError::Closed)));
    finish(child);
}

fn receiver_killed_while_we_send_is_closed_at_once_and_for_ever(way: Way) {
    if in_child() {
        let mut rx = way.inherited_receiver(&options());
        let mut items = [Received::default(); 16];
        while rx.recv().is_ok() && !matches!(rx.recv_batch(&mut items), Err(TryRecvError::Closed)) {}
        return;
    }
    let (tx, child) =
        way.receiving_child("receiver_killed_while_we_send_is_closed_at_once_and_for_ever", &options());
    let mut child = Some(child);
    let mut accepted = 0;
    let tx = soon(move || {
        loop {
            match tx.try_send(notify(0x80, accepted)) {
                Ok(()) => accepted += 1,
                Err(TrySendError::Full(_)) => thread::yield_now(),
                Err(error) => {
                    assert!(matches!(error, TrySendError::Closed(record) if record.data == accepted));
                    assert!(child.is_none(), "closed while the receiver lives");
                    break tx;
                }
            }
            if accepted == 5_000 {
                child.take().into_iter().for_each(kill);
            }
        }
    });
    assert!(tx.is_closed());
    assert!(matches!(tx.is_drained(), Err(DrainError::Closed)), "what was accepted may be unread");
    assert!(matches!(tx.post(notify(0x80, 0)), Err(TrySendError::Closed(_))));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
}

fn waiting_for_drained_ends_when_the_receiver_is_killed(way: Way) {
    if in_child() {
        let mut rx = way.inherited_receiver(&options());
        rx.recv().unwrap();
        raise(Signal::SIGKILL).unwrap();
    }
    let (tx, mut child) =
        way.receiving_child("waiting_for_drained_ends_when_the_receiver_is_killed", &options());
    (0..3).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
    let waiters = [(); 3].map(|()| {
        let tx = tx.clone();
        thread::spawn(move || tx.wait_drained(None))
    });
    for waiter in waiters {
        assert!(matches!(soon(move || waiter.join().unwrap()), Err(DrainError::Closed)));
    }
    child.wait().unwrap();
}

fn killed_sender_leaves_whole_records_without_a_gap_and_then_closed(way: Way) {
    if in_child() {
        let tx = way.inherited_sender(&options(), DEPTH);
        let mut number = 0;
        loop {
            // Single records and batches of all sizes by turns.
            let records = [notify(0x80, 0); DEPTH as usize];
            match tx.send_batch(&records[..1 + number % records.len()]) {
                Ok(_) => number += 1,
                Err(TrySendError::Full(())) => thread::yield_now(),
                Err(_) => return,
            }
        }
    }
    let mut random = 0x1234_5678_u32;
    for round in 0..50 {
        let (mut rx, child) =
            way.sending_child("killed_sender_leaves_whole_records_without_a_gap_and_then_closed", &options());
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let kill_at = random >> 20;
        let mut child = Some(child);
        let mut number = 0;
        let error = loop {
            if number == kill_at {
                child.take().into_iter().for_each(kill);
            }
            match rx.recv_timeout(SOON) {
                Ok(Received::Record { lost: 0, sequence, .. }) => assert_eq!(sequence.get(), number),
                Ok(other) => panic!("round {round}: {other:?}"),
                Err(error) => break error,
            }
            number += 1;
        };
        assert!(matches!(error, TryRecvError::Closed), "round {round}: {error:?}");
        assert!(number >= kill_at, "closed after {number} while the sender lives");
    }
}

const POSTED: u32 = 2_000;

/// Receives until the end; returns how many came and how many were lost.
fn count_all(rx: &mut Rx) -> (u32, u32) {
    let (mut received, mut lost) = (0, 0);
    loop {
        match rx.recv_timeout(SOON) {
            Ok(item) => {
                received += u32::from(item.record().is_some());
                lost += item.lost();
            }
            Err(TryRecvError::Closed) => return (received, lost),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn everything_posted_is_received_or_counted_as_lost(way: Way) {
    if in_child() {
        let tx = way.inherited_sender(&options(), DEPTH);
        return (0..POSTED).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    }
    let name = "everything_posted_is_received_or_counted_as_lost";
    // Read while it posts.
    let (mut rx, child) = way.sending_child(name, &options());
    let (received, lost) = count_all(&mut rx);
    assert_eq!(received + lost, POSTED);
    finish(child);
    // Read after it has gone.
    let (mut rx, child) = way.sending_child(name, &options());
    finish(child);
    assert_eq!(count_all(&mut rx), (DEPTH, POSTED - DEPTH));
}
