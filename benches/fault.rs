//! Round trips of page-fault groups (report, receive, answer, complete), pipelined between two threads,
//! against what is used in their place: two lists, each with a lock and an eventfd.
//!
//! `cargo bench --bench fault` times every contender with criterion, then prints tables of medians of
//! interleaved rounds, which is what ratios are read from: the rounds of all contenders alternate, so
//! that a machine whose speed drifts slows all of them alike.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use nix::sys::eventfd::{EfdFlags, EventFd};
use recordfd::TryRecvError;
use recordfd::fault::{self, FaultCompletion, FaultReporter, FaultRequest, FaultResponder, Options};
use recordfd::uapi::{PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm};

/// Groups in flight, at most.
const DEPTH: usize = 256;
/// The larger groups.
const PAGES: usize = 8;
/// Groups of one page reported, or received, with one call.
const BATCH: usize = 64;
/// How long both sides look before they sleep, where they do.
const BUSY_POLL: Duration = Duration::from_micros(50);
/// Rounds of the tables.
const ROUNDS: usize = 31;

/// How many groups are kept in flight, and how many pages each has.
#[derive(Clone, Copy)]
struct Load {
    in_flight: usize,
    pages: usize,
}

fn request(last: bool) -> FaultRequest {
    let perm = PgFaultPerm::WRITE;
    FaultRequest { dev_id: 1, pasid: Some(5), perm, last, addr: 0x1000, ..FaultRequest::default() }
}

/// The time of `count` round trips.
fn round_trips((reporter, responder): (FaultReporter, FaultResponder), load: Load, count: usize) -> Duration {
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || answer_all(responder));
        report_all(&reporter, load, count);
        drop(reporter);
    });
    began.elapsed()
}

fn report_all(reporter: &FaultReporter, load: Load, count: usize) {
    let groups: Vec<_> =
        (0..BATCH * load.pages).map(|index| request(index % load.pages == load.pages - 1)).collect();
    let mut completions = [FaultCompletion::default(); DEPTH];
    let (mut reported, mut completed) = (0, 0);
    while completed < count {
        while reported < count && reported - completed < load.in_flight {
            let batch = BATCH.min(count - reported).min(load.in_flight - (reported - completed));
            let taken = reporter.report_batch(&groups[..batch * load.pages]).expect("there is room");
            assert_eq!(taken, batch * load.pages, "there is room for all of them");
            reported += batch;
        }
        match reporter.completions(&mut completions) {
            Ok(more) => completed += more,
            Err(TryRecvError::Empty) => {
                completed += reporter.wait_completions(&mut completions, None).expect("an answer comes");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn answer_all(mut responder: FaultResponder) {
    let mut pages = [PgFault::default(); BATCH * PAGES];
    let mut groups = [const { None }; BATCH * PAGES];
    let mut answers = Vec::with_capacity(groups.len());
    while responder.wait(None).expect("poll works") {
        match responder.recv_groups(&mut pages, &mut groups) {
            Ok(count) => {
                black_box(&pages);
                answers.clear();
                answers.extend(groups[..count].iter_mut().filter_map(Option::take).map(|group| {
                    PageResponse { cookie: group.into_cookie(), code: PageResponseCode::SUCCESS }
                }));
                assert_eq!(responder.respond_batch(&answers).expect("the reporter is there"), count);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn options() -> Options {
    Options::new().depth((DEPTH * PAGES) as u32).per_device((DEPTH * PAGES) as u32)
}

fn local(load: Load, count: usize) -> Duration {
    round_trips(fault::channel(&options()).expect("a channel"), load, count)
}

fn local_busy_poll(load: Load, count: usize) -> Duration {
    round_trips(fault::channel(&options().busy_poll(BUSY_POLL)).expect("a channel"), load, count)
}

fn socket(load: Load, count: usize) -> Duration {
    // The socket's room is counted in writes: fewer than the local queue has.
    let (reporter, end) = fault::socket(&options().depth(2 * DEPTH as u32)).expect("a socket");
    let info = end.info();
    let responder = FaultResponder::from_socket(end.into(), info.format, info.depth).expect("it is one");
    round_trips((reporter, responder), load, count)
}

fn shared(load: Load, count: usize) -> Duration {
    shared_with(&options(), load, count)
}

fn shared_busy_poll(load: Load, count: usize) -> Duration {
    shared_with(&options().busy_poll(BUSY_POLL), load, count)
}

fn shared_with(options: &Options, load: Load, count: usize) -> Duration {
    let (responder, end) = fault::shared_responder(options).expect("memory");
    let reporter = FaultReporter::from_shared(end.into(), options).expect("it is one");
    round_trips((reporter, responder), load, count)
}

/// A list with a lock, and an eventfd: what is usual in one direction.
struct List<T> {
    entries: Mutex<VecDeque<T>>,
    eventfd: EventFd,
}

impl<T> List<T> {
    fn new() -> Self {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
        Self { entries: Mutex::new(VecDeque::with_capacity(DEPTH * PAGES)), eventfd }
    }

    /// One lock and one write for all `entries`.
    fn push(&self, entries: impl IntoIterator<Item = T>) {
        self.entries.lock().expect("not poisoned").extend(entries);
        self.eventfd.write(1).expect("the counter has room");
    }

    /// Waits for entries and takes all that are there, with one lock.
    fn take(&self, out: &mut Vec<T>) {
        self.eventfd.read().expect("an eventfd can be read");
        out.clear();
        out.extend(self.entries.lock().expect("not poisoned").drain(..));
    }
}

/// Two such lists, and a table of what is open; as many groups to a call as the others have.
fn lists_and_eventfds(load: Load, count: usize) -> Duration {
    let (faults, answers) = (List::<PgFault>::new(), List::<PageResponse>::new());
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut taken, mut answered) = (Vec::with_capacity(DEPTH * PAGES), 0);
            while answered < count {
                faults.take(&mut taken);
                black_box(&taken);
                let ends = taken.iter().filter(|fault| fault.flags.contains(PgFaultFlags::LAST_PAGE));
                let code = PageResponseCode::SUCCESS;
                let batch: Vec<_> = ends.map(|fault| PageResponse { cookie: fault.cookie, code }).collect();
                if !batch.is_empty() {
                    answered += batch.len();
                    answers.push(batch);
                }
            }
        });
        let mut free: Vec<u32> = (1..=DEPTH as u32).collect();
        let mut taken = Vec::with_capacity(DEPTH);
        let (mut reported, mut completed) = (0, 0);
        while completed < count {
            while reported < count && reported - completed < load.in_flight {
                let batch = BATCH.min(count - reported).min(load.in_flight - (reported - completed));
                let cookies = free.drain(free.len() - batch..);
                faults.push(cookies.flat_map(|cookie| {
                    (0..load.pages).map(move |index| {
                        let mut fault = PgFault { cookie, dev_id: 1, pasid: 5, ..PgFault::default() };
                        fault.flags.set(PgFaultFlags::LAST_PAGE, index == load.pages - 1);
                        fault
                    })
                }));
                reported += batch;
            }
            answers.take(&mut taken);
            free.extend(taken.iter().map(|answer| answer.cookie));
            completed += taken.len();
        }
    });
    began.elapsed()
}

type Contender = (&'static str, fn(Load, usize) -> Duration);

/// The first is the rival that ratios are against.
const CONTENDERS: [Contender; 6] = [
    ("two eventfds + Mutex<VecDeque>", lists_and_eventfds),
    ("recordfd local", local),
    ("recordfd local, busy_poll 50 us", local_busy_poll),
    ("recordfd socket", socket),
    ("recordfd shared", shared),
    ("recordfd shared, busy_poll 50 us", shared_busy_poll),
];

const LOADS: [Load; 6] = [
    Load { in_flight: 1, pages: 1 },
    Load { in_flight: 16, pages: 1 },
    Load { in_flight: DEPTH, pages: 1 },
    Load { in_flight: 1, pages: PAGES },
    Load { in_flight: 16, pages: PAGES },
    Load { in_flight: DEPTH, pages: PAGES },
];

fn with_criterion(criterion: &mut Criterion, load: Load) {
    let Load { in_flight, pages } = load;
    let mut group = criterion.benchmark_group(format!("{in_flight} in flight, groups of {pages}"));
    group.throughput(Throughput::Elements(1));
    for (name, run) in CONTENDERS {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| run(load, usize::try_from(count).expect("64 bits")));
        });
    }
    group.finish();
}

fn table(load: Load) {
    // A round trip with one in flight takes two wake-ups.
    let count = if load.in_flight == 1 { 500 } else { 20_000 };
    let mut times = [const { Vec::new() }; CONTENDERS.len()];
    for _ in 0..ROUNDS {
        for ((_, run), times) in CONTENDERS.iter().zip(&mut times) {
            times.push(run(load, count).as_nanos() as f64 / count as f64);
        }
    }
    println!(
        "\n{} in flight, groups of {}: ns per group, median of {ROUNDS} interleaved rounds of {count} (least to most),\n\
         groups a second, and how many times that the first contender takes",
        load.in_flight, load.pages
    );
    let mut rival = None;
    for ((name, _), times) in CONTENDERS.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
        let rival = *rival.get_or_insert(median);
        println!(
            "  {name:32} {median:9.1}  ({least:.1} to {most:.1})  {:10.0}  {:.2}",
            1e9 / median,
            rival / median
        );
    }
}

fn main() {
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(1)).sample_size(10).configure_from_args();
    LOADS.into_iter().for_each(|load| with_criterion(&mut criterion, load));
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        LOADS.into_iter().for_each(table);
    }
}
