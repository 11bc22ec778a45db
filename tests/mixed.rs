//! Records of several formats on one channel, on every transport: in order, with exact losses; what is not known is
//! skipped and counted, and what is malformed ends it.

mod common;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use recordfd::event::{self, Received, Receiver, Sender};
use recordfd::uapi::{
    AnyEvent, Event, EventFlags, EventHeader, Format, KnownEvent, Le64, Mixed, MixedEvent, Record,
    RecordError, Sequence, Sequenced, Smmuv3Event, Tegra241CmdqvEvent,
};
use recordfd::{Options, TryRecvError, TrySendError, Violation, fd};

type Item = Received<KnownEvent>;

const DIRTY: Violation = Violation::Record(RecordError::Reserved { field: "payload" });

fn number(value: u32) -> Sequence {
    Sequence::wrapping(value)
}

fn smmu(word: u64) -> Event<Smmuv3Event> {
    Event::new(number(3), Smmuv3Event { evt: [Le64::new(word); 4] })
}

fn cmdqv(word: u64) -> Event<Tegra241CmdqvEvent> {
    Event::new(number(9), Tegra241CmdqvEvent { lvcmdq_err_map: [Le64::new(word); 2] })
}

fn acpi(data: u32) -> Event<recordfd::uapi::AcpiNotify> {
    Event::new(number(data), notify(0x80, data))
}

/// A record that is told apart by `data`.
fn known(data: u32) -> MixedEvent {
    MixedEvent::new(1, &acpi(data))
}

/// One of a format that nobody knows; what is in it is anybody's.
fn unknown(data: u32) -> MixedEvent {
    let formats = [Format(0), Format::new(4, 2), Format::new(100, 1), Format(u32::MAX)];
    MixedEvent { format: formats[data as usize % 4], source: data, payload: [0xff; 64] }
}

/// Losses before an item, and by what it is told apart.
fn tell(item: Item) -> (u32, Option<u32>) {
    (
        item.lost(),
        item.record().map(|record| match record.event {
            AnyEvent::AcpiNotify(event) => event.payload.data,
            other => panic!("{other:?}"),
        }),
    )
}

fn make_every(depth: u32) -> Vec<(Sender<MixedEvent>, Receiver<MixedEvent>)> {
    every_make().into_iter().map(|make| make(&Options::new().depth(depth))).collect()
}

/// What `rx` receives, one by one, until there is nothing.
fn one_by_one(rx: &mut Receiver<MixedEvent>) -> Vec<(u32, Option<u32>)> {
    let mut told = Vec::new();
    loop {
        match rx.try_recv_known() {
            Ok(item) => told.push(tell(item)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return told,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn in_batches(rx: &mut Receiver<MixedEvent>, size: usize) -> Vec<(u32, Option<u32>)> {
    let (mut told, mut items) = (Vec::new(), vec![Received::default(); size]);
    loop {
        match rx.recv_known_batch(&mut items) {
            Ok(count) => told.extend(items[..count].iter().map(|item| tell(*item))),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return told,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn every_kind_comes_in_order_with_its_source_and_both_its_numbers() {
    let lost = Event::<Smmuv3Event>::lost(number(8));
    let sent = [
        (7, AnyEvent::Smmuv3(smmu(1)), MixedEvent::new(7, &smmu(1))),
        (0, AnyEvent::AcpiNotify(acpi(2)), MixedEvent::new(0, &acpi(2))),
        (u32::MAX, AnyEvent::Tegra241Cmdqv(cmdqv(3)), MixedEvent::new(u32::MAX, &cmdqv(3))),
        // The loss of a source, which is none of the channel.
        (7, AnyEvent::Smmuv3(lost), MixedEvent::new(7, &lost)),
        (7, AnyEvent::Smmuv3(smmu(0)), MixedEvent::new(7, &smmu(0))),
    ];
    let records = sent.map(|(.., record)| record);
    for (tx, mut rx) in make_every(64) {
        for round in 0..2 {
            let expected: Vec<Item> = (round * 5..)
                .zip(sent)
                .map(|(at, (source, event, _))| {
                    let record = KnownEvent { source, event };
                    Received::Record { lost: 0, sequence: number(at), record }
                })
                .collect();
            let mut items = [Received::default(); 64];
            assert_eq!(tx.send_batch(&records).unwrap(), 5);
            if round == 0 {
                assert_eq!(rx.recv_known_batch(&mut items).unwrap(), 5);
            } else {
                items[..5].fill_with(|| rx.recv_known().unwrap());
            }
            assert_eq!(items[..5], expected);
            assert!(matches!(rx.try_recv_known(), Err(TryRecvError::Empty)));
            assert!(!readable(&rx));
        }
        // As they are, for who passes them on.
        tx.try_send(records[0]).unwrap();
        tx.try_send(unknown(1)).unwrap();
        assert_eq!(rx.recv().unwrap().record(), Some(&records[0]));
        assert_eq!(rx.recv().unwrap().record(), Some(&unknown(1)));
        assert_eq!((rx.counters().received, rx.counters().unknown), (12, 0));
        tx.wait_drained(Some(SOON)).unwrap();
        drop(tx);
        assert!(matches!(rx.recv_known(), Err(TryRecvError::Closed)));
    }
}

#[test]
fn losses_come_in_their_places() {
    for receive in [one_by_one, |rx: &mut _| in_batches(rx, 3)] {
        for (tx, mut rx) in make_every(4) {
            (0..7).for_each(|data| tx.post(known(data)).unwrap());
            let told = receive(&mut rx);
            tx.flush().unwrap();
            let told = [told, receive(&mut rx)].concat();
            assert_eq!(told, [(0, Some(0)), (0, Some(1)), (0, Some(2)), (0, Some(3)), (3, None)]);
            (7..13).for_each(|data| tx.post(known(data)).unwrap());
            let Ok(item) = rx.try_recv_known() else { panic!() };
            assert_eq!(tell(item), (0, Some(7)));
            tx.post(known(13)).unwrap();
            drop(tx);
            assert_eq!(receive(&mut rx), [(0, Some(8)), (0, Some(9)), (0, Some(10)), (2, Some(13))]);
            let counters = rx.counters();
            assert_eq!((counters.received, counters.dropped, counters.unknown), (9, 5, 0));
        }
    }
}

#[test]
fn loss_in_front_of_a_skipped_record_is_told() {
    for (receive, last_known) in
        [(one_by_one as fn(&mut _) -> _, true), (|rx| in_batches(rx, 2), true), (one_by_one, false)]
    {
        for (tx, mut rx) in make_every(4) {
            (0..6).for_each(|data| tx.post(known(data)).unwrap());
            // Not to the end: an announced loss would be told there.
            for data in 0..3 {
                assert_eq!(tell(rx.try_recv_known().unwrap()), (0, Some(data)));
            }
            tx.post(unknown(6)).unwrap();
            if last_known {
                tx.post(known(7)).unwrap();
            }
            let mut expected = vec![(0, Some(3)), (2, None)];
            expected.extend(last_known.then_some((0, Some(7))));
            assert_eq!(receive(&mut rx), expected);
            assert!(!readable(&rx));
            let counters = rx.counters();
            let received = if last_known { 6 } else { 5 };
            assert_eq!((counters.received, counters.dropped, counters.unknown), (received, 2, 1));
        }
    }
}

#[test]
fn formats_that_are_no_events_are_skipped_like_those_nobody_knows() {
    let others = [
        Format::IOMMU_PGFAULT_V1,
        Format::IOMMU_PGFAULT_V2,
        Format::PCI_ERROR_V1,
        Format::DEVICE_REQUEST_V1,
        Format::MIXED_V1,
    ];
    for (tx, mut rx) in make_every(64) {
        for format in others {
            tx.try_send(MixedEvent { format, ..unknown(0) }).unwrap();
        }
        (0..4).for_each(|data| tx.try_send(unknown(data)).unwrap());
        tx.try_send(known(1)).unwrap();
        assert_eq!(tell(rx.try_recv_known().unwrap()), (0, Some(1)));
        assert_eq!((rx.counters().received, rx.counters().unknown), (10, 9));
    }
}

#[test]
fn one_receive_for_each_wake_up_finds_everything_behind_what_is_skipped() {
    for (tx, mut rx) in make_every(16) {
        let sender = thread::spawn(move || {
            for data in 0..1500 {
                let record = if data % 7 < 4 { unknown(data) } else { known(data) };
                while let Err(TrySendError::Full(_)) = tx.try_send(record) {
                    thread::yield_now();
                }
                if data % 50 == 0 {
                    tx.wait_drained(Some(SOON)).unwrap();
                }
            }
        });
        let mut items = [Received::default()];
        for data in (0..1500).filter(|data| data % 7 >= 4) {
            loop {
                assert!(wait_readable(&rx), "record {data} waits behind an unreadable descriptor");
                // By turns, as both take one record at least.
                let outcome = match data % 2 {
                    0 => rx.try_recv_known().map(|item| vec![item]),
                    _ => rx.recv_known_batch(&mut items).map(|count| items[..count].to_vec()),
                };
                match outcome.as_deref() {
                    Ok([item]) => {
                        assert_eq!(tell(*item), (0, Some(data)));
                        break;
                    }
                    Ok([]) | Err(TryRecvError::Empty) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        let mut told = None;
        while told.is_none() {
            assert!(wait_readable(&rx));
            told = rx.try_recv_known().err().filter(|error| !matches!(error, TryRecvError::Empty));
        }
        assert!(matches!(told, Some(TryRecvError::Closed)));
        sender.join().unwrap();
        assert_eq!(rx.counters().unknown, (0..1500).filter(|data| data % 7 < 4).count() as u64);
    }
}

#[test]
fn what_is_skipped_in_one_call_has_a_bound_and_empty_means_empty() {
    let nothing: Item = Received::Lost { count: 0 };
    for (tx, mut rx) in make_every(256) {
        let flood: Vec<_> = (0..200).map(unknown).collect();
        assert_eq!(tx.send_batch(&flood).unwrap(), 200);
        for skipped in [64, 128, 192] {
            assert_eq!(rx.recv_known_timeout(SOON).unwrap(), nothing);
            assert_eq!(rx.counters().unknown, skipped);
            assert!(readable(&rx), "there are records left");
        }
        tx.try_send(known(1)).unwrap();
        assert_eq!(tell(rx.try_recv_known().unwrap()), (0, Some(1)));
        assert!(!readable(&rx));

        assert_eq!(tx.send_batch(&flood).unwrap(), 200);
        let mut items = [Received::default(); 300];
        let mut skipped = 200;
        while skipped < 400 {
            assert!(readable(&rx));
            assert_eq!(rx.recv_known_batch(&mut items).unwrap(), 0);
            assert!(rx.counters().unknown > skipped);
            skipped = rx.counters().unknown;
        }
        assert!(matches!(rx.recv_known_batch(&mut items), Err(TryRecvError::Empty)));
        assert!(!readable(&rx));

        // What is unknown does not count as what is waited for.
        tx.send_batch(&flood[..10]).unwrap();
        let began = Instant::now();
        let timeout = Duration::from_millis(30);
        assert!(matches!(rx.recv_known_timeout(timeout), Err(TryRecvError::Empty)));
        assert!(began.elapsed() >= timeout);
    }
}

#[test]
fn flood_of_skipped_records_holds_up_no_receive() {
    for (tx, mut rx) in make_every(64) {
        let flood = thread::spawn(move || {
            let records: Vec<_> = (0..32).map(unknown).collect();
            while !matches!(tx.send_batch(&records), Err(TrySendError::Closed(()))) {}
        });
        soon(move || {
            while rx.counters().unknown < 2000 {
                match rx.recv_known().unwrap() {
                    Received::Lost { count: 0 } => {}
                    other => panic!("{other:?}"),
                }
            }
        });
        flood.join().unwrap();
    }
}

fn malformed() -> Vec<(MixedEvent, Violation)> {
    let header = |flags, sequence| EventHeader { flags, sequence };
    let flags = MixedEvent::new(1, &Event { header: header(EventFlags::CANCELLED, 0), ..acpi(0) });
    let sequence = MixedEvent::new(1, &Event { header: header(EventFlags::empty(), 1 << 31), ..smmu(0) });
    let lost = MixedEvent::new(1, &Event { header: header(EventFlags::LOST_EVENTS, 0), ..acpi(0) });
    let mut padding = MixedEvent::new(1, &cmdqv(0));
    padding.payload[63] = 1;
    vec![
        (flags, Violation::Record(RecordError::Flags { unknown: 2 })),
        (sequence, Violation::Record(RecordError::Sequence { found: 1 << 31 })),
        (lost, DIRTY),
        (padding, DIRTY),
    ]
}

#[test]
fn malformed_record_of_a_known_format_ends_the_channel() {
    for (bad, violation) in malformed() {
        let is_told = |error| matches!(error, TryRecvError::PeerViolation(found) if found == violation);
        for (tx, mut rx) in make_every(64) {
            tx.send_batch(&[known(0), unknown(1), known(2), bad, known(4)]).unwrap();
            let mut items = [Received::default(); 8];
            assert_eq!(rx.recv_known_batch(&mut items).unwrap(), 2);
            assert_eq!([tell(items[0]), tell(items[1])], [(0, Some(0)), (0, Some(2))]);
            assert!(is_told(rx.recv_known_batch(&mut items).unwrap_err()));
            assert!(is_told(rx.try_recv_known().unwrap_err()));
            assert!(is_told(rx.recv_known().unwrap_err()));
            assert!(is_told(rx.try_recv().unwrap_err()), "and what is behind it is not to be had otherwise");
            assert_eq!((rx.counters().received, rx.counters().unknown), (3, 1));
        }
        for (tx, mut rx) in make_every(64) {
            tx.send_batch(&[known(0), bad, known(2)]).unwrap();
            assert_eq!(tell(rx.recv_known().unwrap()), (0, Some(0)));
            assert!(readable(&rx));
            assert!(is_told(rx.recv_known().unwrap_err()));
            assert!(is_told(rx.try_recv_known().unwrap_err()));
        }
        for (tx, mut rx) in make_every(4) {
            // A loss that only a refused record tells of is no more believed than the record is.
            (0..6).for_each(|data| tx.post(known(data)).unwrap());
            (0..3).for_each(|data| assert_eq!(tell(rx.recv_known().unwrap()), (0, Some(data))));
            tx.post(bad).unwrap();
            assert_eq!(tell(rx.recv_known().unwrap()), (0, Some(3)));
            assert!(is_told(rx.recv_known().unwrap_err()));
            assert_eq!((rx.counters().received, rx.counters().dropped), (4, 0));
        }
        for (tx, mut rx) in make_every(64) {
            // Who passes records on does not look into them.
            tx.try_send(bad).unwrap();
            assert_eq!(rx.recv().unwrap().record(), Some(&bad));
        }
    }
}

/// A receiver, and its peer as a plain stream.
fn receiver_and_stream() -> (Receiver<MixedEvent>, UnixStream) {
    let (rx, end) = event::socket_receiver(&Options::new()).unwrap();
    (rx, UnixStream::from(OwnedFd::from(end)))
}

fn wire_mixed(mixed: Mixed) -> [u8; Mixed::SIZE] {
    let mut bytes = [0; Mixed::SIZE];
    mixed.encode(&mut bytes);
    bytes
}

#[test]
fn hostile_stream_is_refused_by_name() {
    let good = Mixed::new(number(0), known(0));
    let refused: [(Mixed, Violation); 6] = [
        (
            Mixed { flags: EventFlags::CANCELLED, ..good },
            Violation::Record(RecordError::Flags { unknown: 2 }),
        ),
        (Mixed { sequence: 1 << 31, ..good }, Violation::Record(RecordError::Sequence { found: 1 << 31 })),
        (
            Mixed { source: 1, ..Mixed::lost(number(5)) },
            Violation::Record(RecordError::Reserved { field: "source" }),
        ),
        (
            Mixed { format: Format(1), ..Mixed::lost(number(5)) },
            Violation::Record(RecordError::Reserved { field: "format" }),
        ),
        (Mixed { payload: [1; 64], ..Mixed::lost(number(5)) }, DIRTY),
        // The same number as of the record before.
        (Mixed::lost(number(0)), Violation::NothingLost),
    ];
    for (bad, violation) in refused {
        let (mut rx, mut peer) = receiver_and_stream();
        peer.write_all(&[wire_mixed(good), wire_mixed(bad)].concat()).unwrap();
        assert_eq!(tell(rx.recv_known().unwrap()), (0, Some(0)));
        for _ in 0..2 {
            let error = rx.recv_known().unwrap_err();
            assert!(matches!(error, TryRecvError::PeerViolation(found) if found == violation), "{error:?}");
        }
    }
    let (mut rx, mut peer) = receiver_and_stream();
    peer.write_all(&wire_mixed(good)[..79]).unwrap();
    assert!(matches!(rx.try_recv_known(), Err(TryRecvError::Empty)), "the last byte is missing");
    peer.write_all(&wire_mixed(good)[79..]).unwrap();
    assert_eq!(tell(rx.try_recv_known().unwrap()), (0, Some(0)));
    peer.write_all(&[0; 9]).unwrap();
    drop(peer);
    let torn = Violation::TornRecord { found: 9, size: 80 };
    assert!(matches!(rx.recv_known(), Err(TryRecvError::PeerViolation(found)) if found == torn));
}

#[test]
fn random_records_of_a_hostile_peer_give_items_or_one_violation() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let (mut violations, mut known_ones, mut skipped) = (0, 0, 0);
    for _ in 0..2000 {
        let (mut rx, mut peer) = receiver_and_stream();
        let mut next = 0;
        for _ in 0..10 {
            // Mostly after the last one.
            let sequence = if random() % 32 == 0 { number(random()) } else { number(next + random() % 3) };
            next = sequence.plus(1).get();
            let event = match random() % 4 {
                0 => MixedEvent::new(random(), &smmu(random().into())),
                1 => MixedEvent::new(random(), &cmdqv(random().into())),
                2 => known(random()),
                _ => unknown(random()),
            };
            let mut bytes = wire_mixed(Mixed::new(sequence, event));
            if random() % 8 == 0 {
                bytes[random() as usize % Mixed::SIZE] ^= 1 << (random() % 8);
            }
            peer.write_all(&bytes).unwrap();
        }
        drop(peer);
        let mut calls = 0;
        let end = loop {
            calls += 1;
            match rx.try_recv_known() {
                Ok(item) => known_ones += u32::from(item.record().is_some()),
                Err(error) => break error,
            }
        };
        // At most a loss and a record each, and the end.
        assert!(calls <= 11, "{calls}");
        skipped += rx.counters().unknown;
        match end {
            TryRecvError::PeerViolation(
                Violation::Record(_) | Violation::NothingLost | Violation::SequenceBackwards,
            ) => violations += 1,
            TryRecvError::Closed => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(violations > 100 && known_ones > 5000 && skipped > 1000, "{violations} {known_ones} {skipped}");
}

/// In another process: receives 1000 records, every third of which is not known.
fn receive_there(mut rx: Receiver<MixedEvent>) {
    for data in (0..1000).filter(|data| data % 3 != 0) {
        assert_eq!(tell(rx.recv_known_timeout(SOON).unwrap()), (0, Some(data)));
    }
    assert!(matches!(rx.recv_known_timeout(SOON), Err(TryRecvError::Closed)));
    assert_eq!(rx.counters().unknown, 334);
}

fn send_here(tx: &Sender<MixedEvent>) {
    for data in 0..1000 {
        let record = if data % 3 == 0 { unknown(data) } else { known(data) };
        while let Err(TrySendError::Full(_)) = tx.try_send(record) {
            thread::yield_now();
        }
    }
}

#[test]
fn another_process_receives_over_a_socket() {
    if in_child() {
        return receive_there(Receiver::from_socket(fd::take_stdin().unwrap(), Format::MIXED_V1).unwrap());
    }
    let (tx, end) = event::socket(&Options::new()).unwrap();
    let child = spawn_child("another_process_receives_over_a_socket", end.into());
    send_here(&tx);
    drop(tx);
    finish(child);
}

#[test]
fn another_process_receives_from_shared_memory() {
    if in_child() {
        return receive_there(Receiver::from_shared(fd::take_stdin().unwrap()).unwrap());
    }
    let (tx, end) = event::shared(&Options::new()).unwrap();
    let child = spawn_child("another_process_receives_from_shared_memory", end.into());
    let tx = tx.into_shared();
    send_here(&tx);
    drop(tx);
    finish(child);
}
