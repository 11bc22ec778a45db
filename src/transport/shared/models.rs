//! Loom runs both ends of a shared channel, the code itself on a real pair of sockets, in every order that its
//! memory model allows. Only the memory is a stand-in: `sys/model_mapping.rs`. Run with `ci/loom.sh`.

use std::os::fd::AsRawFd;

use loom::thread;
use nix::sys::socket::{Shutdown, shutdown};
use recordfd_uapi::{AcpiNotify, AcpiOst, Event, Format};

use super::layout::Layout;
use super::*;
use crate::doorbell::Tokens;
use crate::sys::Mapping;
use crate::transport::socket;
use crate::wait::wait_readable;

type Sender = Tx<AcpiOst>;
type AcpiNotifyEvent = Event<AcpiNotify>;

/// Both ends of a new channel. Of the two rings, that of replies has the smaller slots, of two words at least: so
/// the end that receives `AcpiOst` is the one that would produce the records.
fn ports(depth: u32) -> (Arc<Port>, Arc<Port>) {
    let layout = Layout::new(Format::ACPI_NOTIFY_V1, depth, depth).unwrap();
    let (near, far) = socket::pair(None).unwrap();
    let mapping = Arc::new(Mapping::default());
    let ports = (Port::new(near, &mapping, &layout, false), Port::new(far, &mapping, &layout, true));
    ports.0.arm();
    ports
}

fn channel(depth: u32) -> (Sender, Receiver) {
    let (near, far) = ports(depth);
    (Tx::new(near), Receiver::new(far))
}

/// A record of whose words each tells the number.
fn item(number: u32) -> AcpiOst {
    AcpiOst::new(number, !number, number)
}

/// Publishes `count` records from `first` on, all together.
fn send(tx: &mut Sender, first: u32, count: u32) {
    loop {
        match tx.send_whole(count as usize, |index| item(first + index as u32)) {
            Ok(()) => return,
            Err(TrySendError::Full(())) => thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Got {
    /// So many, and whether a loss behind them was told.
    Records(u32, bool),
    Empty,
    Closed,
}

struct Receiver {
    rx: Rx<AcpiOst>,
    /// Records received, which is the number of the next one.
    got: u32,
}

impl Receiver {
    fn new(port: Arc<Port>) -> Self {
        Self { rx: Rx::new(port), got: 0 }
    }

    /// Receives at most `most` items, and checks that they come whole and in order.
    fn recv(&mut self, most: usize) -> Got {
        let (mut taken, before) = (Taken::default(), self.got);
        let outcome = self.rx.recv(most, &mut taken, &mut |received| {
            assert_eq!(*received, item(self.got), "a record that was not published");
            self.got += 1;
            Ok(())
        });
        match outcome {
            Ok(()) => Got::Records(self.got - before, taken.tail_loss.is_some()),
            Err(TryRecvError::Empty) => Got::Empty,
            Err(TryRecvError::Closed) => Got::Closed,
            Err(error) => panic!("an honest peer: {error:?}"),
        }
    }

    fn is_readable(&self) -> bool {
        self.rx.port.calls.before_receive();
        wait_readable(self.rx.as_fd(), Some(Instant::now())).unwrap()
    }

    /// Receives as an event loop does, only when the descriptor is readable, until `total` records came or it
    /// has been found unreadable a few times.
    fn run(&mut self, total: u32, most: usize) {
        let mut idle = 0;
        while idle < 2 && self.got < total {
            if self.is_readable() {
                if self.recv(most) == Got::Closed {
                    return;
                }
            } else {
                idle += 1;
                thread::yield_now();
            }
        }
    }

    /// With no send under way any more: everything comes out, with at most one wake-up in vain, and then the
    /// descriptor is unreadable.
    fn finish(&mut self, total: u32, most: usize) {
        let mut in_vain = 0;
        while self.is_readable() {
            in_vain += u32::from(self.recv(most) == Got::Empty);
            assert!(in_vain <= 1, "wakes again with nothing to read");
        }
        assert_eq!(self.got, total, "lost wake-up");
        assert_eq!(self.recv(most), Got::Empty);
        assert!(!self.is_readable(), "readable while empty");
    }
}

/// A thread that publishes groups of these sizes.
fn sending(mut tx: Sender, groups: &'static [u32]) -> thread::JoinHandle<Sender> {
    thread::spawn(move || {
        let mut sent = 0;
        for count in groups {
            send(&mut tx, sent, *count);
            sent += count;
        }
        tx
    })
}

/// Groups of these sizes against a receiver that takes `most` at once and looks by itself.
fn through_the_ring(depth: u32, groups: &'static [u32], most: usize) {
    loom::model(move || {
        let (tx, mut receiver) = channel(depth);
        let thread = sending(tx, groups);
        let total = groups.iter().sum();
        while receiver.got < total {
            if receiver.recv(most) == Got::Empty {
                thread::yield_now();
            }
        }
        let _tx = thread.join().unwrap();
        receiver.finish(total, most);
    });
}

#[test]
fn shared_groups_go_round_the_end_of_the_ring() {
    through_the_ring(2, &[1, 2], 2);
}

#[test]
fn shared_ring_of_one_is_full_and_empty_in_turn() {
    through_the_ring(1, &[1, 1, 1], 1);
}

/// Groups of these sizes against a receiver that takes `most` for each wake-up.
fn send_against_sleep(groups: &'static [u32], most: usize, parks: bool) {
    loom::model(move || {
        let (tx, mut receiver) = channel(4);
        receiver.rx.set_parks(parks);
        let thread = sending(tx, groups);
        let total = groups.iter().sum();
        receiver.run(total, most);
        let _tx = thread.join().unwrap();
        receiver.finish(total, most);
    });
}

#[test]
fn shared_bell_one_record_per_wake_up() {
    send_against_sleep(&[1, 1], 1, false);
    send_against_sleep(&[2], 1, false);
}

#[test]
fn shared_bell_batches() {
    send_against_sleep(&[2, 1], 4, false);
}

#[test]
fn shared_bell_parked() {
    send_against_sleep(&[1, 1], 2, true);
    send_against_sleep(&[2, 1], 1, true);
}

/// Each side sends a record and receives one, both from the same memory and with one socket.
#[test]
fn shared_bell_both_ways() {
    loom::model(|| {
        let (near, far) = ports(1);
        let (mut far_tx, mut far_rx) = (Tx::<AcpiNotifyEvent>::new(far.clone()), Receiver::new(far));
        let (mut near_tx, near_rx) = (Tx::new(near.clone()), Rx::<AcpiNotifyEvent>::new(near));
        let thread = thread::spawn(move || {
            send(&mut near_tx, 0, 1);
            (near_tx, near_rx)
        });
        far_tx.send(1, |_| AcpiNotifyEvent::lost(Sequence::wrapping(1))).unwrap();
        far_rx.run(1, 1);
        let (_near_tx, mut near_rx) = thread.join().unwrap();
        far_rx.finish(1, 1);
        assert!(wait_readable(near_rx.as_fd(), Some(Instant::now())).unwrap(), "lost wake-up");
        let mut taken = Taken::default();
        near_rx.recv(1, &mut taken, &mut |_| Ok(())).unwrap();
        assert_eq!(taken.count, 1);
    });
}

#[test]
fn shared_sender_dropped() {
    loom::model(|| {
        let (mut tx, mut receiver) = channel(2);
        let thread = thread::spawn(move || {
            send(&mut tx, 0, 1);
            send(&mut tx, 1, 1);
            tx.release();
        });
        receiver.run(2, 1);
        while !matches!(receiver.recv(1), Got::Closed) {
            thread::yield_now();
        }
        assert_eq!(receiver.got, 2, "closed before the last record");
        thread.join().unwrap();
        assert!(receiver.is_readable(), "closed is readable for ever");
        assert_eq!(receiver.recv(1), Got::Closed);
    });
}

#[test]
fn shared_receiver_dropped() {
    loom::model(|| {
        let (mut tx, mut receiver) = channel(1);
        let thread = thread::spawn(move || receiver.rx.release());
        let first = tx.send(1, |_| item(0));
        assert!(matches!(first, Ok(1) | Err(TrySendError::Closed(()))), "{first:?}");
        thread.join().unwrap();
        assert!(matches!(tx.send(1, |_| item(1)), Err(TrySendError::Closed(()))));
    });
}

/// A loss that is announced wakes, is told once, and in its place: behind what was accepted before it, not at all
/// once a record tells of it.
fn tell_losses(most: usize, accepted_last: bool) {
    loom::model(move || {
        let (mut tx, mut receiver) = channel(2);
        let thread = thread::spawn(move || {
            send(&mut tx, 0, 1);
            tx.announce_loss(Sequence::wrapping(1));
            if accepted_last {
                send(&mut tx, 1, 1);
            }
            tx
        });
        let total = 1 + u32::from(accepted_last);
        let (mut idle, mut losses, mut running, mut tx) = (0, 0, Some(thread), None::<Sender>);
        loop {
            if receiver.is_readable() {
                if matches!(receiver.recv(most), Got::Records(_, true)) {
                    assert_eq!(receiver.got, 1, "told of a loss out of its place");
                    losses += 1;
                }
            } else if idle < 2 {
                idle += 1;
                thread::yield_now();
            } else if let Some(thread) = running.take() {
                tx = Some(thread.join().unwrap());
            } else {
                break;
            }
        }
        drop(tx);
        assert_eq!(receiver.got, total, "lost wake-up");
        assert!(losses == 1 || accepted_last && losses == 0, "a loss told {losses} times");
    });
}

#[test]
fn shared_loss_is_told_in_its_place() {
    tell_losses(1, false);
    tell_losses(3, false);
}

#[test]
fn shared_loss_is_told_by_the_next_record() {
    tell_losses(1, true);
    tell_losses(3, true);
}

/// A sender that waits until its record was received is told, though another thread receives on its end.
fn tell_of_a_drain(parks: bool) {
    loom::model(move || {
        let (near, far) = ports(1);
        let (mut tx, mut far_rx) = (Tx::new(near.clone()), Receiver::new(far));
        let (watch, mut near_rx) = (tx.watch(), Rx::<AcpiNotifyEvent>::new(near.clone()));
        far_rx.rx.set_parks(parks);
        send(&mut tx, 0, 1);
        let thread = thread::spawn(move || {
            assert_eq!(far_rx.recv(1), Got::Records(1, false));
            far_rx
        });
        // The steps of `wait_drained`, but for the sleep.
        let notified = near.drain.want(&near.produced);
        let early = watch.is_drained().unwrap();
        let _far_rx = thread.join().unwrap();
        assert!(watch.is_drained().unwrap());
        let readable = || wait_readable(watch.as_fd(), Some(Instant::now())).unwrap();
        assert!(early || readable(), "lost wake-up: the ring was read empty");
        if !early {
            // One that sleeps takes the token out.
            wake(&near, notified);
            assert!(!readable(), "readable after the wait");
        }
        // Or else the token is the receiver's to take out, and no stray one.
        let outcome = near_rx.recv(1, &mut Taken::default(), &mut |_| Ok(()));
        assert!(matches!(outcome, Err(TryRecvError::Empty)), "{outcome:?}");
        assert!(!readable(), "readable while empty");
    });
}

#[test]
fn shared_drain_wakes_who_waits() {
    tell_of_a_drain(false);
    // Who parks does not arm, and so has no other fence.
    tell_of_a_drain(true);
}

/// A thread that waits for a drain while another one still sends is woken once the ring is empty.
#[test]
fn shared_drain_wakes_who_waits_while_another_thread_sends() {
    loom::model(|| {
        let (near, far) = ports(1);
        let (mut tx, mut far_rx) = (Tx::new(near.clone()), Receiver::new(far));
        let watch = tx.watch();
        let sender = thread::spawn(move || {
            send(&mut tx, 0, 1);
            tx
        });
        let receiver = thread::spawn(move || {
            far_rx.recv(1);
            far_rx
        });
        near.drain.want(&near.produced);
        let early = watch.is_drained().unwrap();
        let _tx = sender.join().unwrap();
        let far_rx = receiver.join().unwrap();
        let readable = wait_readable(watch.as_fd(), Some(Instant::now())).unwrap();
        assert!(early || readable || far_rx.got == 0, "lost wake-up: the ring was read empty");
    });
}

/// A thread that waits for a drain is woken, if it is to be. (Loom knows of no sleep in the kernel.)
fn wake(port: &Port, notified: u32) {
    port.calls.before_receive();
    let mut pause = Duration::ZERO;
    port.drain.sleep(port, notified, Some(Instant::now()), &mut pause).unwrap();
}

/// A thread that waits for a drain takes the token out while another one receives on the same end, which takes the
/// token for no stray one and leaves it to the thread that waits.
#[test]
fn shared_drain_token_is_no_stray_one_while_it_is_taken_out() {
    loom::model(|| {
        let (near, far) = ports(1);
        let (mut tx, mut far_rx) = (Tx::new(near.clone()), Receiver::new(far));
        let mut near_rx = Rx::<AcpiNotifyEvent>::new(near.clone());
        send(&mut tx, 0, 1);
        let notified = near.drain.want(&near.produced);
        assert_eq!(far_rx.recv(1), Got::Records(1, false));
        let thread = thread::spawn(move || {
            let outcome = near_rx.recv(1, &mut Taken::default(), &mut |_| Ok(()));
            assert!(matches!(outcome, Err(TryRecvError::Empty)), "an honest peer: {outcome:?}");
            near_rx
        });
        wake(&near, notified);
        let mut near_rx = thread.join().unwrap();
        near_rx.settle();
        assert!(!wait_readable(near.as_fd(), Some(Instant::now())).unwrap(), "readable while empty");
    });
}

/// The peer reads the last record and goes: a thread that asks meanwhile whether everything was read hears no
/// `Closed`, and one that asks afterwards hears that it was.
#[test]
fn shared_ring_that_was_read_empty_is_drained_though_the_reader_is_gone() {
    loom::model(|| {
        let (near, far) = ports(1);
        let (mut tx, mut far_rx) = (Tx::new(near.clone()), Receiver::new(far));
        let watch = tx.watch();
        send(&mut tx, 0, 1);
        let thread = thread::spawn(move || {
            assert_eq!(far_rx.recv(1), Got::Records(1, false));
        });
        let during = watch.is_drained();
        assert!(during.is_ok(), "closed though everything was read: {during:?}");
        thread.join().unwrap();
        assert!(watch.is_drained().unwrap(), "closed though everything was read");
    });
}

/// The peer publishes a record and dies: its socket is closed, and its end sets no word. Another thread of this
/// process learns of it, by a system call; the record still comes before `Closed`.
#[test]
fn shared_end_seen_by_another_thread_comes_after_the_last_record() {
    loom::model(|| {
        let (near, far) = ports(1);
        let (mut tx, mut receiver) = (Tx::new(near.clone()), Receiver::new(far.clone()));
        // A thread of its own: by its fences, the one that sends orders whatever it writes next.
        let peer = thread::spawn(move || {
            send(&mut tx, 0, 1);
            near.calls.before_send();
            shutdown(near.as_fd().as_raw_fd(), Shutdown::Both).unwrap();
            // Dropped after the model: a peer that was killed sets no word.
            (tx, near)
        });
        let watcher = thread::spawn(move || {
            far.has_hung_up();
            far
        });
        let received = receiver.recv(1);
        assert!(received != Got::Closed, "closed before the last record");
        let _ends = (peer.join().unwrap(), watcher.join().unwrap());
    });
}

/// Each of two threads that put a token in puts in one, though the kernel may have had no memory for the other's.
#[test]
fn shared_tokens_are_put_in_once() {
    loom::model(|| {
        let (near, far) = ports(1);
        let other = near.clone();
        let thread = thread::spawn(move || other.put_token());
        near.put_token();
        thread.join().unwrap();
        let tokens = SocketTokens::new(&far, false);
        assert!(tokens.take() && tokens.take(), "a token is missing");
        assert!(!tokens.take(), "a token too many");
    });
}
