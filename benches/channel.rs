//! Time per record of the transports, against what is used in their place.
//!
//! `cargo bench --bench channel` times every contender with criterion, then prints a table of medians
//! of interleaved rounds, which is what ratios are read from: the rounds of all contenders alternate,
//! so that a machine whose speed drifts slows all of them alike.

use std::collections::VecDeque;
use std::hint::{black_box, spin_loop};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use recordfd::event::{self, Received, Receiver, Sender};
use recordfd::uapi::{AcpiNotify, FixedText, Format};
use recordfd::{Options, TryRecvError};

/// Records sent before the sender waits for the consumer to catch up; the queue holds twice as many.
const BURST: usize = 4096;
const BATCH: usize = 64;
/// Rounds of the table.
const ROUNDS: usize = 51;

fn record() -> AcpiNotify {
    AcpiNotify {
        dev_id: 1,
        value: 0x81,
        data: 0,
        cookie: 0,
        bus_id: FixedText::new("PNP0C0A:00").expect("it fits"),
        device_class: FixedText::new("battery").expect("it fits"),
    }
}

/// What a busy consumer does with a record: a few hundred nanoseconds of work, so that it is always
/// behind the sender.
fn handle(record: &AcpiNotify) {
    black_box(record);
    for _ in 0..100 {
        spin_loop();
    }
}

/// Sends `count` records in bursts with `burst`, timed, to a consumer that runs `consume` on a thread of
/// its own; returns the sender's time.
fn sender_time(
    count: usize,
    handled: &AtomicUsize,
    mut burst: impl FnMut(usize),
    finish: impl FnOnce(),
    consume: impl FnOnce() + Send,
) -> Duration {
    thread::scope(|scope| {
        let consumer = scope.spawn(consume);
        let mut total = Duration::ZERO;
        let mut sent = 0;
        while sent < count {
            let records = BURST.min(count - sent);
            let began = Instant::now();
            burst(records);
            total += began.elapsed();
            sent += records;
            while handled.load(Ordering::Acquire) < sent {
                thread::yield_now();
            }
        }
        finish();
        consumer.join().expect("the consumer does not panic");
        total
    })
}

/// A channel with room for two bursts; `batch` records to a call.
fn busy((tx, mut rx): Pair, count: usize, batch: usize) -> Duration {
    let handled = AtomicUsize::new(0);
    let records = [record(); BATCH];
    let mut tx = Some(tx);
    let sender = tx.clone().expect("it is there");
    let burst = |records_left: usize| {
        if batch == 1 {
            (0..records_left).for_each(|_| sender.try_send(records[0]).expect("there is room"));
        } else {
            let mut left = records_left;
            while left > 0 {
                left -= sender.send_batch(&records[..batch.min(left)]).expect("there is room");
            }
        }
    };
    let finish = || drop(tx.take());
    let consume = || {
        let mut items = [Received::default(); BATCH];
        let mut seen = 0;
        while seen < count {
            match rx.recv() {
                Ok(item) => item.record().into_iter().for_each(handle),
                Err(error) => panic!("{error}"),
            }
            seen += 1;
            loop {
                match rx.recv_batch(&mut items) {
                    Ok(got) => {
                        items[..got].iter().filter_map(Received::record).for_each(handle);
                        seen += got;
                        handled.store(seen, Ordering::Release);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            handled.store(seen, Ordering::Release);
        }
    };
    sender_time(count, &handled, burst, finish, consume)
}

/// The usual side structure: a list with a lock, and an eventfd; one lock and one write for `batch` records.
fn eventfd_and_list(count: usize, batch: usize) -> Duration {
    let list = Mutex::new(VecDeque::<AcpiNotify>::with_capacity(2 * BURST));
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
    let handled = AtomicUsize::new(0);
    let records = [record(); BATCH];
    let burst = |records_left: usize| {
        let mut left = records_left;
        while left > 0 {
            let sent = batch.min(left);
            list.lock().expect("not poisoned").extend(&records[..sent]);
            eventfd.write(1).expect("the counter has room");
            left -= sent;
        }
    };
    let consume = || {
        let (mut seen, mut items) = (0, Vec::with_capacity(BATCH));
        while seen < count {
            eventfd.read().expect("an eventfd can be read");
            // As many with one lock as the other consumers take with one call.
            while {
                let mut list = list.lock().expect("not poisoned");
                let found = list.len().min(BATCH);
                items.extend(list.drain(..found));
                !items.is_empty()
            } {
                seen += items.len();
                items.drain(..).for_each(|item| handle(&item));
                handled.store(seen, Ordering::Release);
            }
        }
    };
    sender_time(count, &handled, burst, || (), consume)
}

/// A queue alone: no number, no descriptor, no way to sleep.
fn array_queue(count: usize) -> Duration {
    let queue = ArrayQueue::new(2 * BURST);
    let handled = AtomicUsize::new(0);
    let burst = |records: usize| {
        (0..records).for_each(|_| queue.push(record()).expect("there is room"));
    };
    let consume = || {
        let mut seen = 0;
        while seen < count {
            match queue.pop() {
                Some(next) => handle(&next),
                None => {
                    spin_loop();
                    continue;
                }
            }
            seen += 1;
            handled.store(seen, Ordering::Release);
        }
    };
    sender_time(count, &handled, burst, || (), consume)
}

type Pair = (Sender<AcpiNotify>, Receiver<AcpiNotify>);

fn local_pair(depth: usize) -> Pair {
    event::channel::<AcpiNotify>(&Options::new().depth(depth as u32)).expect("a channel")
}

fn shared_pair(depth: usize) -> Pair {
    let (tx, end) = event::shared::<AcpiNotify>(&Options::new().depth(depth as u32)).expect("memory");
    (tx.into_shared(), Receiver::from_shared(end.into()).expect("it is one"))
}

fn socket_pair() -> Pair {
    let (tx, end) = event::socket::<AcpiNotify>(&Options::new()).expect("a socket");
    let rx = Receiver::from_socket(end.into(), Format::ACPI_NOTIFY_V1).expect("it is one");
    (tx, rx)
}

/// Sends and receives on one thread, `batch` records to a call: the cost of both sides.
fn there_and_back((tx, mut rx): Pair, count: usize, batch: usize) -> Duration {
    let records = [record(); BATCH];
    let mut items = [Received::default(); BATCH];
    let began = Instant::now();
    let mut left = count;
    while left > 0 {
        let sent = tx.send_batch(&records[..batch.min(left)]).expect("there is room");
        assert_eq!(rx.recv_batch(&mut items[..batch]).expect("a record waits"), sent);
        black_box(&items);
        left -= sent;
    }
    began.elapsed()
}

/// The side structure on one thread, one lock, one write and one read for `batch` records.
fn eventfd_there_and_back(count: usize, batch: usize) -> Duration {
    let list = Mutex::new(VecDeque::<AcpiNotify>::with_capacity(BATCH));
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
    let (records, mut items) = ([record(); BATCH], Vec::with_capacity(BATCH));
    let began = Instant::now();
    let mut left = count;
    while left > 0 {
        let sent = batch.min(left);
        list.lock().expect("not poisoned").extend(&records[..sent]);
        eventfd.write(1).expect("the counter has room");
        eventfd.read().expect("an eventfd can be read");
        items.clear();
        items.extend(list.lock().expect("not poisoned").drain(..));
        black_box(&items);
        left -= sent;
    }
    began.elapsed()
}

/// A system call that does next to nothing, as a measure of the machine.
fn getppid(count: usize) -> Duration {
    let began = Instant::now();
    (0..count).for_each(|_| {
        black_box(nix::unistd::getppid());
    });
    began.elapsed()
}

type Contender = (&'static str, fn(usize) -> Duration);

/// Contenders with as many records to a call. The first is the rival that ratios are against.
type Group = &'static [Contender];

/// The sender's time while the consumer is busy.
const SENDER: [Group; 2] = [
    &[
        ("eventfd + Mutex<VecDeque>, one at a time", |count| eventfd_and_list(count, 1)),
        ("recordfd local, one at a time", |count| busy(local_pair(2 * BURST), count, 1)),
        ("recordfd shared, one at a time", |count| busy(shared_pair(2 * BURST), count, 1)),
        ("bare ArrayQueue, one at a time", array_queue),
    ],
    &[
        ("eventfd + Mutex<VecDeque>, batches of 64", |count| eventfd_and_list(count, BATCH)),
        ("recordfd local, batches of 64", |count| busy(local_pair(2 * BURST), count, BATCH)),
        ("recordfd shared, batches of 64", |count| busy(shared_pair(2 * BURST), count, BATCH)),
    ],
];

/// Both sides on one thread, a wake-up for each call.
const BOTH_SIDES: [Group; 2] = [
    &[
        ("eventfd + Mutex<VecDeque>, one at a time", |count| eventfd_there_and_back(count, 1)),
        ("recordfd local, one at a time", |count| there_and_back(local_pair(BATCH), count, 1)),
        ("recordfd socket, one at a time", |count| there_and_back(socket_pair(), count, 1)),
        ("recordfd shared, one at a time", |count| there_and_back(shared_pair(BATCH), count, 1)),
        ("one getppid()", getppid),
    ],
    &[
        ("eventfd + Mutex<VecDeque>, batches of 64", |count| eventfd_there_and_back(count, BATCH)),
        ("recordfd local, batches of 64", |count| there_and_back(local_pair(BATCH), count, BATCH)),
        ("recordfd socket, batches of 64", |count| there_and_back(socket_pair(), count, BATCH)),
        ("recordfd shared, batches of 64", |count| there_and_back(shared_pair(BATCH), count, BATCH)),
    ],
];

fn with_criterion(criterion: &mut Criterion, name: &str, groups: &[Group]) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for (name, run) in groups.iter().copied().flatten() {
        group.bench_function(*name, |bencher| {
            bencher.iter_custom(|count| run(usize::try_from(count).expect("64 bits")));
        });
    }
    group.finish();
}

fn table(title: &str, groups: &[Group], count: usize) {
    let contenders: Vec<&Contender> = groups.iter().copied().flatten().collect();
    let mut times = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, run), times) in contenders.iter().zip(&mut times) {
            times.push(run(count).as_nanos() as f64 / count as f64);
        }
    }
    println!("\n{title}: ns per record, median of {ROUNDS} interleaved rounds of {count} (least to most),");
    println!("and how many times that the first contender with as many records to a call takes");
    let mut times = times.iter_mut();
    for group in groups {
        let mut rival = None;
        for ((name, _), times) in group.iter().zip(&mut times) {
            times.sort_by(f64::total_cmp);
            let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
            let ratio = *rival.get_or_insert(median) / median;
            println!("  {name:40} {median:8.1}  ({least:.1} to {most:.1})  {ratio:.2}");
        }
    }
}

fn main() {
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(3)).sample_size(30).configure_from_args();
    with_criterion(&mut criterion, "sender, consumer busy", &SENDER);
    with_criterion(&mut criterion, "both sides", &BOTH_SIDES);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        table("sender's time, consumer busy", &SENDER, 4 * BURST);
        table("both sides on one thread", &BOTH_SIDES, 4 * BURST);
    }
}
