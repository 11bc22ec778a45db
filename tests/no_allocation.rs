//! After set-up no send or receive allocates.

#[path = "common/allocation.rs"]
mod allocation;
mod common;

use std::thread;
use std::time::Duration;

use allocation::without;
use common::*;
use recordfd::event::{self, Received};
use recordfd::uapi::AcpiOst;
use recordfd::{DrainError, Options, TryRecvError, TrySendError};

fn nothing_allocates(make: Make) {
    let (tx, mut rx) = make(&Options::new().depth(64).reply_depth(8));
    let record = notify(0x80, 0);
    let records = [record; 256];
    let mut items = [Received::default(); 256];
    let reply = AcpiOst::new(1, 2, 3);

    // Twice: the first use of anything may differ from the later ones.
    for _ in 0..2 {
        without("try_send", || tx.try_send(record)).unwrap();
        without("is_drained", || assert!(!tx.is_drained().unwrap()));
        without("try_recv", || rx.try_recv()).unwrap();
        without("try_recv of nothing", || assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty))));
        without("send_batch", || assert!(tx.send_batch(&records).unwrap() >= 32));
        while tx.try_send(record).is_ok() {}
        without("try_send into a full queue", || {
            assert!(matches!(tx.try_send(record), Err(TrySendError::Full(_))));
        });
        without("post that drops", || (0..10).for_each(|_| tx.post(record).unwrap()));
        without("flush", || drop(tx.flush()));
        without("recv_batch", || assert!(rx.recv_batch(&mut items).unwrap() >= 64));
        while rx.try_recv().is_ok() {}
        without("flush of a loss", || tx.flush()).unwrap();
        without("post", || tx.post(record)).unwrap();
        without("recv", || rx.recv()).unwrap();
        while rx.try_recv().is_ok() {}

        without("recv_timeout of nothing", || {
            assert!(matches!(rx.recv_timeout(Duration::from_millis(2)), Err(TryRecvError::Empty)));
        });
        rx.set_busy_poll(Duration::from_millis(1));
        without("busy poll", || {
            assert!(matches!(rx.recv_timeout(Duration::from_millis(2)), Err(TryRecvError::Empty)));
            assert!(!rx.wait(Some(Duration::from_millis(2))).unwrap());
        });
        // With a wake-up that is left in its descriptor.
        without("wait and receives of a busy receiver", || {
            for _ in 0..3 {
                tx.try_send(record).unwrap();
                assert!(rx.wait(None).unwrap());
                assert_eq!(rx.recv_batch(&mut items).unwrap(), 1);
            }
            while !matches!(rx.try_recv(), Err(TryRecvError::Empty)) {}
        });
        rx.set_busy_poll(Duration::ZERO);

        without("reply", || rx.reply(reply)).unwrap();
        without("try_recv_reply", || tx.try_recv_reply()).unwrap();
        without("try_recv_reply of nothing", || {
            assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
        });
        without("is_drained", || assert!(tx.is_drained().unwrap()));
        without("wait_drained of nothing", || tx.wait_drained(None)).unwrap();
        without("the looks", || (tx.counters(), rx.counters(), tx.capacity(), tx.is_closed()));
        without("a clone", || drop(tx.clone()));
    }

    // The same where the call really waits.
    let wake_ups = rx.counters().wake_ups;
    let late = tx.clone();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        late.try_send(record).unwrap();
    });
    without("recv_timeout that waits", || rx.recv_timeout(SOON)).unwrap();
    assert!(rx.counters().wake_ups > wake_ups, "the receiver did not wait");
    sender.join().unwrap();

    tx.try_send(record).unwrap();
    let receiver = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        rx.try_recv().unwrap();
        rx
    });
    without("wait_drained that waits", || tx.wait_drained(Some(SOON))).unwrap();
    drop(receiver.join().unwrap());
    without("try_send to nobody", || assert!(matches!(tx.try_send(record), Err(TrySendError::Closed(_)))));
}

#[cfg(feature = "local")]
#[test]
fn local_channel_allocates_nothing() {
    nothing_allocates(common::local);
}

#[test]
fn socket_allocates_nothing() {
    nothing_allocates(common::socket);
}

#[test]
fn socket_made_by_the_receiver_allocates_nothing() {
    nothing_allocates(common::socket_made_by_receiver);
}

#[test]
fn shared_channel_allocates_nothing() {
    nothing_allocates(common::shared);
}

#[test]
fn shared_channel_made_by_the_receiver_allocates_nothing() {
    nothing_allocates(common::shared_made_by_receiver);
}

/// What only a shared channel has: a sender without a lock, and fences that one side makes for both.
#[test]
fn sole_sender_allocates_nothing_whoever_fences() {
    let (mut tx, end) = event::shared(&Options::new().depth(64)).unwrap();
    let mut rx = Rx::from_shared(end.into()).unwrap();
    let record = notify(0x80, 0);
    let records = [record; 64];
    let mut items = [Received::default(); 64];
    for asymmetric in [false, true] {
        if asymmetric {
            without("use_asymmetric_fence", || {
                tx.use_asymmetric_fence().unwrap();
                rx.use_asymmetric_fence().unwrap();
            });
        }
        for busy_poll in [Duration::ZERO, Duration::from_micros(100)] {
            rx.set_busy_poll(busy_poll);
            without("an exchange", || {
                tx.try_send(record).unwrap();
                assert!(!tx.is_drained().unwrap());
                rx.recv().unwrap();
                assert_eq!(tx.send_batch(&records).unwrap(), 64);
                tx.post(record).unwrap();
                assert!(matches!(tx.try_send(record), Err(TrySendError::Full(_))));
                assert!(matches!(tx.wait_drained(Some(Duration::from_millis(1))), Err(DrainError::Timeout)));
                assert!(rx.wait(None).unwrap());
                while !matches!(rx.recv_batch(&mut items), Err(TryRecvError::Empty)) {}
                tx.wait_drained(None).unwrap();
                rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
                tx.try_recv_reply().unwrap();
                assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
                assert!(rx.recv_timeout(Duration::from_millis(1)).is_err());
                assert!(!tx.is_closed());
                (tx.counters(), rx.counters(), tx.capacity())
            });
        }
    }
    assert!(rx.counters().wake_ups > 0);
    drop(rx);
    without("try_send to nobody", || assert!(matches!(tx.try_send(record), Err(TrySendError::Closed(_)))));
}
