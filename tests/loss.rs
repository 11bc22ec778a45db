//! No loss is silent, whatever a sender does between the loss and its end.

mod common;

use common::far::{AnyRx, EVERY_MAKE_ANY, MakeAny};
use common::*;
use recordfd::event::Received;
use recordfd::{Options, TryRecvError};

#[test]
fn far_end() {
    common::far::far_end();
}

/// A channel of depth 4 of which the first record was read, three wait, and three after them are lost.
fn with_loss(make: MakeAny) -> (Tx, AnyRx) {
    let (tx, mut rx) = make(&Options::new().depth(4));
    (0..7).for_each(|data| tx.post(notify(0x80, data)).unwrap());
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
    (tx, rx)
}

fn all(mut rx: AnyRx) -> Vec<Received<u32>> {
    let mut all = Vec::new();
    loop {
        match rx.recv() {
            Ok(Received::Record { lost, sequence, record }) => {
                all.push(Received::Record { lost, sequence, record: record.data });
            }
            Ok(Received::Lost { count }) => all.push(Received::Lost { count }),
            Err(TryRecvError::Closed) => return all,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn lost(all: &[Received<u32>]) -> u32 {
    all.iter().map(Received::lost).sum()
}

#[test]
fn empty_batch_forgets_no_loss() {
    for make in EVERY_MAKE_ANY {
        let (tx, rx) = with_loss(*make);
        assert_eq!(tx.send_batch(&[]).unwrap(), 0);
        drop(tx);
        let all = all(rx);
        assert_eq!(all.last(), Some(&Received::Lost { count: 3 }));
    }
}

#[test]
fn every_way_to_go_on_tells_the_loss_once() {
    let steps: [fn(&Tx); 6] = [
        |_| (),
        |tx| tx.try_send(notify(0x80, 7)).unwrap(),
        |tx| tx.post(notify(0x80, 7)).unwrap(),
        |tx| assert_eq!(tx.send_batch(&[notify(0x80, 7)]).unwrap(), 1),
        |tx| tx.flush().unwrap(),
        |tx| assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty))),
    ];
    for make in EVERY_MAKE_ANY {
        for (first, second) in (0..36).map(|pair| (pair / 6, pair % 6)) {
            let (tx, mut rx) = with_loss(*make);
            steps[first](&tx);
            rx.try_recv().unwrap();
            steps[second](&tx);
            drop(tx);
            let all = all(rx);
            assert_eq!(lost(&all), 3, "steps {first} and {second}: {all:?}");
        }
    }
}

#[test]
fn batches_against_a_posting_thread_tell_every_loss_once() {
    const POSTED: u32 = 300_000;
    for make in EVERY_MAKE_ANY {
        for depth in [2, 4] {
            let (tx, mut rx) = make(&Options::new().depth(depth));
            let sender = std::thread::spawn(move || {
                for data in 0..POSTED {
                    tx.post(notify(0x80, data)).unwrap();
                }
            });
            let (mut told, mut items) = (0, [Received::default(); 8]);
            loop {
                match rx.recv_batch(&mut items) {
                    Ok(count) => {
                        for item in &items[..count] {
                            told += item.lost();
                            if let Some(record) = item.record() {
                                assert_eq!(record.data, told, "a record out of its place");
                                told += 1;
                            }
                        }
                    }
                    Err(TryRecvError::Empty) => std::thread::yield_now(),
                    Err(TryRecvError::Closed) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            sender.join().unwrap();
            assert_eq!(told, POSTED);
            assert_eq!(rx.counters().received + rx.counters().dropped, u64::from(POSTED));
        }
    }
}

#[test]
fn loss_in_shared_memory_and_what_is_sent_behind_it_are_told_in_their_order() {
    const POSTS: u32 = 200_000;
    for make in [shared, shared_made_by_receiver] {
        let (tx, mut rx) = make(&Options::new().depth(2));
        let sender = std::thread::spawn(move || {
            for data in 0..POSTS {
                tx.post(notify(0x80, data)).unwrap();
                if data % 3 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        // Longer slices than the queue, so that a batch ends where there is no more.
        let (mut items, mut told, mut size) = ([Received::default(); 4], 0, 0);
        loop {
            size = size % 4 + 1;
            match rx.recv_batch(&mut items[..size]) {
                Ok(count) => {
                    for item in &items[..count] {
                        told += u64::from(item.lost()) + u64::from(item.record().is_some());
                        assert!(told <= POSTS.into(), "{item:?} is told where there was no such loss");
                    }
                }
                // Looks again at once, to meet the sender between its steps.
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(told, u64::from(POSTS));
        sender.join().unwrap();
    }
}
