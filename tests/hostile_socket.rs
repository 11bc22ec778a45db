//! A peer that turns every knob of the socket: no call waits, no record tears, no signal, no silence.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use recordfd::event::Received;
use recordfd::uapi::{AcpiNotify, AcpiOst, Record};
use recordfd::{DrainError, Options, TryRecvError, TrySendError};

/// The same open socket as `end`, as someone has it who once passed it on.
fn shared(end: impl AsFd) -> UnixStream {
    UnixStream::from(end.as_fd().try_clone_to_owned().unwrap())
}

/// What can be read from `peer` now.
fn available(peer: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    peer.set_nonblocking(true).unwrap();
    match peer.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    bytes
}

#[test]
fn no_call_waits_whatever_mode_the_shared_description_is_in() {
    for nonblocking in [false, true] {
        let (mut rx, peer) = receiver_and_peer(&Options::new());
        let (tx, reply_peer) = sender_and_peer(&Options::new().depth(8));
        for stream in [&shared(&rx), &shared(&tx), &peer, &reply_peer] {
            stream.set_nonblocking(nonblocking).unwrap();
        }
        soon(move || {
            let mut items = [Received::default(); 4];
            assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
            assert!(matches!(rx.recv_batch(&mut items), Err(TryRecvError::Empty)));
            while rx.reply(AcpiOst::new(1, 2, 3)).is_ok() {}
            assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Full(_))));
            assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Empty)));
            while tx.try_send(notify(0x80, 0)).is_ok() {}
            assert!(matches!(tx.send_batch(&[notify(0x80, 0); 9]), Err(TrySendError::Full(()))));
            tx.post(notify(0x80, 0)).unwrap();
            assert!(matches!(tx.flush(), Err(TrySendError::Full(()))));
            drop(tx);
            // And what is meant to wait waits.
            let began = Instant::now();
            assert!(matches!(rx.recv_timeout(Duration::from_millis(20)), Err(TryRecvError::Empty)));
            assert!(began.elapsed() >= Duration::from_millis(20));
        });
    }
}

#[test]
fn peer_that_reads_late_finds_every_accepted_record_and_the_loss_notice() {
    for (depth, batch) in [(2, 1), (2, 9), (3, 2), (8, 1), (64, 7), (64, 64), (200, 1), (256, 256), (300, 33)]
    {
        let (tx, mut peer) = sender_and_peer(&Options::new().depth(depth));
        let records = vec![notify(0x80, 0); batch];
        let mut accepted = 0;
        let refused = loop {
            match tx.send_batch(&records) {
                Ok(count) => accepted += count as u32,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, TrySendError::Full(())), "{refused:?}");
        assert!(accepted >= tx.capacity() as u32);
        (0..5).for_each(|_| tx.post(notify(0x80, 0)).unwrap());
        assert_eq!(tx.counters().dropped, 5);
        drop(tx);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        let (records, notice) = bytes.split_at(accepted as usize * RECORD);
        for (number, record) in records.chunks_exact(RECORD).enumerate() {
            assert_eq!(record[..4], [0; 4]);
            assert_eq!(record[4..8], (number as u32).to_ne_bytes());
        }
        assert_eq!(notice, wire_lost(accepted + 4), "depth {depth}, batches of {batch}");
    }
}

/// Sends in a way that the kernel takes a batch up to the middle of a record; returns how many records
/// were accepted, and what of them could be read.
fn tear(tx: &Tx, peer: &mut UnixStream) -> (usize, Vec<u8>) {
    let ours = shared(tx);
    let mut accepted = 0;
    let mut bytes = Vec::new();
    for room in (3000..9000).step_by(500) {
        setsockopt(&ours, SndBuf, &room).unwrap();
        match tx.send_batch(&vec![notify(0x80, 0); 256]) {
            Ok(count) => accepted += count,
            Err(error) => assert!(matches!(error, TrySendError::Full(()))),
        }
        bytes.extend(available(peer));
        if bytes.len() % RECORD != 0 {
            return (accepted, bytes);
        }
    }
    panic!("no write was cut inside a record, so this test shows nothing");
}

#[test]
fn send_buffer_shrunk_in_the_middle_of_a_batch_tears_no_record() {
    // Whatever the sender does next, the rest of the torn record goes first.
    let nexts: [fn(&Tx) -> usize; 5] = [
        |tx| tx.try_send(notify(0x81, 0)).map(|()| 1).unwrap(),
        |tx| tx.post(notify(0x81, 0)).map(|()| 1).unwrap(),
        |tx| tx.send_batch(&[notify(0x81, 0); 3]).unwrap(),
        |tx| tx.flush().map(|()| 0).unwrap(),
        |_| 0,
    ];
    for (which, next) in nexts.into_iter().enumerate() {
        let (tx, mut peer) = sender_and_peer(&Options::new());
        let (mut accepted, mut bytes) = tear(&tx, &mut peer);
        accepted += next(&tx);
        if which != 4 {
            bytes.extend(available(&mut peer));
            assert_eq!(bytes.len(), accepted * RECORD, "step {which}");
        }
        drop(tx);
        bytes.extend(available(&mut peer));
        assert_eq!(bytes.len(), accepted * RECORD, "step {which}");
        for (number, record) in bytes.chunks_exact(RECORD).enumerate() {
            assert_eq!(record[4..8], (number as u32).to_ne_bytes());
        }
    }
}

#[test]
fn cut_record_is_not_drained_before_its_rest_was_read() {
    let (tx, mut peer) = sender_and_peer(&Options::new());
    let (accepted, mut bytes) = tear(&tx, &mut peer);
    assert!(!tx.is_drained().unwrap(), "the rest of a record was not read");
    bytes.extend(available(&mut peer));
    assert_eq!(bytes.len(), accepted * RECORD);
    tx.wait_drained(Some(SOON)).unwrap();
}

/// Records sent while the buffer changes.
const COUNT: usize = 20_000;

#[test]
fn send_buffer_that_changes_all_the_time_loses_and_tears_nothing() {
    rounds::each_seed("sender whose buffer changes", 1, |_| {
        let (tx, mut rx) = common::socket(&Options::new());
        let sender = thread::spawn(move || {
            let ours = shared(&tx);
            let records = vec![notify(0x80, 0); 256];
            let mut sent = 0;
            for round in 0.. {
                setsockopt(&ours, SndBuf, &[1_000, 2_600, 3_100, 120_000][round % 4]).unwrap();
                match tx.send_batch(&records[..256.min(COUNT - sent)]) {
                    Ok(count) => sent += count,
                    Err(TrySendError::Full(())) => thread::yield_now(),
                    Err(error) => panic!("{error:?}"),
                }
                if sent == COUNT {
                    break;
                }
            }
            // What the kernel did not take yet of the last record.
            while let Err(TrySendError::Full(())) = tx.flush() {
                thread::yield_now();
            }
        });
        for number in 0..COUNT {
            match rx.recv_timeout(SOON).unwrap() {
                Received::Record { lost: 0, sequence, .. } => assert_eq!(sequence.get() as usize, number),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(rx.recv_timeout(SOON), Err(TryRecvError::Closed)));
        sender.join().unwrap();
    });
}

/// Whether a SIGPIPE waits for this thread, which blocks it: a blocked signal is kept even if ignored.
fn sigpipe_pending() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() & (1 << (Signal::SIGPIPE as u32 - 1)) != 0
}

#[test]
fn writing_to_a_peer_that_is_gone_raises_no_signal() {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGPIPE);
    mask.thread_block().unwrap();

    let (mut rx, peer) = receiver_and_peer(&Options::new());
    drop(peer);
    assert!(matches!(rx.reply(AcpiOst::new(1, 2, 3)), Err(TrySendError::Closed(_))));
    for unread in [0, 3] {
        let (tx, peer) = sender_and_peer(&Options::new().depth(4));
        (0..unread).for_each(|_| tx.try_send(notify(0x80, 0)).unwrap());
        if unread == 3 {
            (0..9).for_each(|_| tx.post(notify(0x80, 0)).unwrap());
        }
        drop(peer);
        // Unread data left behind makes the first receive say ECONNRESET.
        for _ in 0..2 {
            assert!(matches!(tx.try_send(notify(0x80, 0)), Err(TrySendError::Closed(_))));
            assert!(matches!(tx.post(notify(0x80, 0)), Err(TrySendError::Closed(_))));
            assert!(matches!(tx.send_batch(&[notify(0x80, 0)]), Err(TrySendError::Closed(()))));
            assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
        }
        drop(tx);
    }
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let null = File::open("/dev/null").unwrap();
    assert!(recordfd::fd::send_descriptor(&near, b"x", null.as_fd()).is_err());
    assert!(!sigpipe_pending());

    // What it looks like when a signal does come.
    let (read, write) = nix::unistd::pipe().unwrap();
    drop(read);
    assert_eq!(File::from(write).write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(sigpipe_pending());
}

#[test]
fn peer_that_leaves_unread_data_behind_is_closed_after_what_it_wrote() {
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    peer.write_all(&[wire(0), wire(1)].concat()).unwrap();
    rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
    drop(peer);
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(1)));
    for _ in 0..3 {
        assert!(readable(&rx));
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
    }

    let (tx, mut peer) = sender_and_peer(&Options::new());
    tx.try_send(notify(0x80, 0)).unwrap();
    let mut reply = [0; AcpiOst::SIZE];
    AcpiOst::new(1, 2, 3).encode(&mut reply);
    peer.write_all(&reply).unwrap();
    drop(peer);
    assert!(tx.is_closed());
    assert!(matches!(tx.is_drained(), Err(DrainError::Closed)), "dropped unread is not read");
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
    for _ in 0..3 {
        assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
    }
}

#[test]
fn half_closed_stream_still_carries_the_other_half() {
    let (mut rx, mut peer) = receiver_and_peer(&Options::new());
    peer.write_all(&wire(0)).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(summary(rx.recv().unwrap()), (0, Some(0)));
    assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
    rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
    assert_eq!(available(&mut peer).len(), AcpiOst::SIZE);

    let (tx, mut peer) = sender_and_peer(&Options::new());
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
    tx.try_send(notify(0x80, 0)).unwrap();
    assert_eq!(available(&mut peer).len(), RECORD);
    peer.shutdown(Shutdown::Read).unwrap();
    match tx.try_send(AcpiNotify { data: 7, ..notify(0x80, 0) }) {
        Err(TrySendError::Closed(record)) => assert_eq!(record.data, 7),
        other => panic!("{other:?}"),
    }
}
