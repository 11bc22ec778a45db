//! Several threads at one end of a page-fault channel: nobody misses what another one did, or starves.

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ResponseCode::{Invalid, Success};
use common::far::readable;
use common::far_fault::*;
use common::fault::*;
use common::until;
use nix::poll::{PollFd, PollFlags, poll};
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultReporter, FaultRequest, Options, ReportError, ResponseCode,
};
use recordfd::uapi::{Format, PgFault, PgFaultFlags, PgFaultPerm, Record};
use recordfd::{DrainError, Error, TryRecvError, Violation};

/// Longer than any of the calls here may take, shorter than they would wait if they missed something.
const PROMPT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(20);

/// Nothing in here completes for its age, and no wait looks again for that.
fn ageless() -> Options {
    Options::new().half_made_age(Duration::from_secs(3600))
}

/// A thread that has begun `work`, how it goes, and what it returns with how long that took.
struct Worker<T> {
    thread: JoinHandle<(T, Duration)>,
    /// What the kernel tells of it.
    stat: PathBuf,
}

impl<T: Send + 'static> Worker<T> {
    fn new(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (begun, begin) = mpsc::channel();
        let thread = thread::spawn(move || {
            let task = fs::read_link("/proc/thread-self").unwrap();
            begun.send(PathBuf::from("/proc").join(task).join("stat")).unwrap();
            let start = Instant::now();
            (work(), start.elapsed())
        });
        Self { thread, stat: begin.recv().unwrap() }
    }

    /// Begun, and asleep by now: so it waits for what comes next.
    fn asleep(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let worker = Self::new(work);
        assert!(until(|| worker.stat().is_none_or(|(state, _)| state == "S")));
        worker
    }

    /// Begun, and busy for some ticks of the clock by now: so it looks for what comes next.
    fn busy(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let worker = Self::new(work);
        assert!(until(|| worker.stat().is_none_or(|(_, ticks)| ticks > 2)));
        worker
    }

    /// Its state and the processor's time it has taken; none if it is through, which its result tells better.
    fn stat(&self) -> Option<(String, u32)> {
        let line = fs::read_to_string(&self.stat).ok()?;
        let fields: Vec<_> = line.rsplit(')').next()?.split_whitespace().collect();
        Some((
            fields.first()?.to_string(),
            fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?,
        ))
    }

    /// What it returns, which it does promptly.
    fn prompt(self) -> T {
        let (value, took) = self.thread.join().unwrap();
        assert!(took < PROMPT, "it took {took:?}");
        value
    }
}

/// A thread that drains device 1.
fn drain(reporter: &FaultReporter) -> Worker<Result<(), DrainError>> {
    let reporter = reporter.clone();
    Worker::asleep(move || reporter.drain(1, LONG))
}

#[test]
fn far_end() {
    common::far::far_end();
}

#[test]
fn drain_returns_when_another_thread_detaches_the_device() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&ageless());
        let cookie = publish(&reporter, page(1, 1));
        let (_held, _) = receive(&mut responder);
        let drain = drain(&reporter);
        assert_eq!(reporter.detach(1), 1);
        drain.prompt().unwrap();
        assert_eq!(ended(&reporter), [(cookie, Invalid, Cause::Detached)]);
    }
}

#[test]
fn drain_returns_when_another_thread_takes_in_the_answer() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&ageless());
        publish(&reporter, page(1, 1));
        let (held, _) = receive(&mut responder);
        let drain = drain(&reporter);
        let collector = reporter.clone();
        let collector =
            Worker::asleep(move || collector.wait_completions(&mut [Default::default(); 4], None));
        held.respond(Success).unwrap();
        drain.prompt().unwrap();
        // The drain may have taken it in first; it tells nobody on a socket, so this collects behind it.
        let there = collect(&reporter).len();
        publish(&reporter, page(2, 1));
        receive(&mut responder).0.respond(Success).unwrap();
        let collected = collector.prompt().unwrap();
        assert_eq!(there + collected + collect(&reporter).len(), 2, "each once");
    }
}

#[test]
fn several_drains_return_though_one_of_them_takes_the_answer() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&ageless());
        publish(&reporter, page(1, 1));
        let (held, _) = receive(&mut responder);
        let drains = [(); 4].map(|()| drain(&reporter));
        held.respond(Success).unwrap();
        for drain in drains {
            drain.prompt().unwrap();
        }
        assert_eq!(collect(&reporter).len(), 1);
    }
}

#[cfg(feature = "local")]
#[test]
fn waiting_collector_is_woken_by_what_another_thread_completes() {
    let by_detach = |reporter: &FaultReporter| reporter.detach(1);
    for complete in [by_detach, give_up_half_made] {
        for busy_poll in [Duration::ZERO, LONG] {
            let (reporter, _responder) = local(&ageless().busy_poll(busy_poll));
            publish(&reporter, page(1, 1));
            reporter.report(half(2, 1)).unwrap();
            let collector = reporter.clone();
            let wait = move || collector.wait_completions(&mut [Default::default(); 4], Some(LONG));
            let wait = if busy_poll.is_zero() { Worker::asleep(wait) } else { Worker::busy(wait) };
            complete(&reporter);
            assert_eq!(wait.prompt().unwrap(), 1);
        }
    }
}

/// The first page of a group that goes on.
fn half(dev_id: u32, prg_index: u32) -> FaultRequest {
    FaultRequest { last: false, ..page(dev_id, prg_index) }
}

/// Gives up every half-made group; returns how many completions wait then.
fn give_up_half_made(reporter: &FaultReporter) -> usize {
    reporter.process(Instant::now() + Duration::from_secs(7200))
}

#[cfg(feature = "local")]
#[test]
fn descriptor_is_readable_until_the_last_unfinished_group_is_collected() {
    let (reporter, _responder) = local(&ageless());
    for prg_index in 0..3 {
        reporter.report(half(1, prg_index)).unwrap();
    }
    assert!(!readable(&reporter));
    assert_eq!(give_up_half_made(&reporter), 3);
    for _ in 0..3 {
        assert!(readable(&reporter), "a completion waits");
        let mut one = [FaultCompletion::default()];
        assert_eq!(reporter.completions(&mut one).unwrap(), 1);
        assert_eq!(one[0].cause, Cause::Unfinished);
    }
    assert!(!readable(&reporter));
}

#[test]
fn notice_wakes_a_responder_that_sleeps_or_looks_by_itself() {
    // What a thread of this process does is looked at.
    for make in EVERY_MAKE {
        for busy_poll in [Duration::ZERO, LONG] {
            let (reporter, mut responder) = make(&v2());
            let cookie = publish(&reporter, page(1, 1));
            let (held, _) = receive(&mut responder);
            responder.set_busy_poll(busy_poll);
            assert!(is_empty(&mut responder) && !readable(&responder));
            let wait = move || (responder.wait(Some(LONG)).unwrap(), responder);
            let wait = if busy_poll.is_zero() { Worker::asleep(wait) } else { Worker::busy(wait) };
            reporter.detach(1);
            let (woken, mut responder) = wait.prompt();
            assert!(woken && is_empty(&mut responder));
            assert_eq!((responder.next_cancelled(), responder.next_cancelled()), (Some(cookie), None));
            assert!(held.is_cancelled() && !readable(&responder));
        }
    }
}

#[test]
fn receive_with_a_timeout_ends_in_time_though_more_notices_are_there() {
    for timeout in [Duration::ZERO, Duration::from_nanos(1)] {
        let (mut responder, mut peer) = responder_and_peer(&v2());
        peer.set_nonblocking(true).unwrap();
        let mut sent = 0;
        let mut write = |sequence| {
            let notices: Vec<_> =
                (sequence..sequence + 256).map(|number| wire_cancelled(number, 77)).collect();
            peer.write(notices.as_flattened()).is_ok_and(|written| written == 256 * 48)
        };
        while write(sent) {
            sent += 256;
        }
        assert!(sent > 2000, "too few to show anything");
        let outcome = responder.recv_group_timeout(&mut [PgFault::default(); 32], timeout);
        assert!(matches!(outcome, Err(TryRecvError::Empty)), "{outcome:?}");
        // A peer that keeps them coming would have held it for ever.
        assert!(readable(&responder), "it went on until there were no more");
    }
}

#[test]
fn receive_of_many_finds_a_group_with_more_pages_than_places() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new());
        reporter.report_batch(&group(1, 1, 32)).unwrap();
        let (mut pages, mut groups) = ([PgFault::default(); 256], [const { None }; 8]);
        assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 1);
        assert_eq!(groups[0].as_ref().map(|group| group.range()), Some(0..32));
    }
}

#[test]
fn receive_of_many_leaves_places_alone_that_hold_a_group() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new());
        let cookies = [0, 1, 2, 3].map(|prg_index| publish(&reporter, page(1, prg_index)));
        let (mut pages, mut groups) = ([PgFault::default(); 8], [const { None }; 3]);
        assert_eq!(responder.recv_groups(&mut pages, &mut groups[1..2]).unwrap(), 1);
        assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 2);
        let held = groups.each_ref().map(|group| group.as_ref().map(|group| group.cookie()));
        assert_eq!(held, [Some(cookies[1]), Some(cookies[0]), Some(cookies[2])]);
        assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 0, "no place, and no error");
        assert_eq!(ended(&reporter), [], "a group that makes room is dropped, and answered");
        assert_eq!(receive(&mut responder).0.cookie(), cookies[3]);
    }
}

#[test]
fn one_place_for_completions_is_filled_behind_late_answers() {
    for make in EVERY_MAKE_ANY {
        let (reporter, mut responder) = make(&Options::new());
        let late =
            [0, 1, 2].map(|prg_index| (publish(&reporter, page(1, prg_index)), receive(&mut responder).0));
        let good = (publish(&reporter, page(2, 0)), receive(&mut responder).0);
        reporter.detach(1);
        assert_eq!(collect(&reporter).len(), 3);
        for (_, group) in late {
            // Between threads it is told that it comes late.
            let _ = group.respond(Success);
        }
        good.1.respond(Success).unwrap();
        let mut one = [FaultCompletion::default()];
        assert_eq!(reporter.completions(&mut one).unwrap(), 1);
        assert_eq!((one[0].cookie, one[0].cause), (good.0, Cause::Answered));
        assert_eq!((reporter.counters().late_answers, reporter.counters().in_flight), (3, 0));
    }
}

#[test]
fn device_with_large_groups_leaves_room_for_another() {
    for make in EVERY_MAKE_ANY {
        let (reporter, _responder) = make(&Options::new());
        let refused = (0..512).find_map(|prg_index| {
            let large = group(1, prg_index, 32);
            let taken = reporter.report_batch(&large).unwrap();
            (taken < 32).then(|| reporter.report(large[taken]))
        });
        assert!(matches!(refused, Some(Err(ReportError::DeviceFull(_)))), "{refused:?}");
        assert_eq!(reporter.report_batch(&group(2, 0, 32)).unwrap(), 32);
    }
}

#[test]
fn device_with_half_made_groups_leaves_room_for_another() {
    for make in EVERY_MAKE_ANY {
        let (reporter, _responder) = make(&ageless());
        for prg_index in 0..8 {
            reporter.report(half(1, prg_index)).unwrap();
        }
        assert!(matches!(reporter.report(half(1, 8)), Err(ReportError::HalfMadeFull(_))));
        reporter.report(half(2, 0)).unwrap();
        // What waits to be collected is held against its device, too, or it would fill the room of all.
        assert_eq!(give_up_half_made(&reporter), 9);
        assert!(matches!(reporter.report(half(1, 8)), Err(ReportError::HalfMadeFull(_))));
        for prg_index in 0..7 {
            reporter.report(half(2, prg_index)).unwrap();
        }
        assert!(matches!(reporter.report(half(2, 7)), Err(ReportError::HalfMadeFull(_))));
        let ended = collect(&reporter);
        assert!(ended.len() == 9 && ended.iter().all(|ended| ended.cause == Cause::Unfinished));
        reporter.report(half(1, 8)).unwrap();
        reporter.report(half(2, 7)).unwrap();
    }
}

#[test]
fn group_whose_pages_belong_to_different_things_is_a_violation() {
    let first = PgFault {
        flags: PgFaultFlags::PASID_VALID,
        dev_id: 1,
        cookie: 5,
        perm: PgFaultPerm::READ,
        ..PgFault::default()
    };
    let last = PgFault { flags: first.flags | PgFaultFlags::LAST_PAGE, addr: 0x1000, ..first };
    for (second, is_mixed) in [
        (last, false),
        (PgFault { dev_id: 2, ..last }, true),
        (PgFault { pasid: 2, ..last }, true),
        (PgFault { flags: PgFaultFlags::LAST_PAGE, ..last }, true),
        (PgFault { grpid: 2, ..last }, true),
    ] {
        let (mut responder, mut peer) = responder_and_peer(&Options::new());
        for page in [first, second] {
            let mut bytes = [0; PgFault::SIZE];
            page.encode(&mut bytes);
            peer.write_all(&bytes).unwrap();
        }
        let outcome = responder.try_recv_group(&mut [PgFault::default(); 4]);
        let mixed = matches!(outcome, Err(TryRecvError::PeerViolation(Violation::GroupMixed)));
        assert_eq!((mixed, outcome.is_ok()), (is_mixed, !is_mixed), "{outcome:?}");
    }
}

#[test]
fn ages_of_nothing_are_refused() {
    let zero = Duration::ZERO;
    let ages =
        [(Options::new().half_made_age(zero), "half_made_age"), (Options::new().deadline(zero), "deadline")];
    for (options, age) in ages {
        let (_near, far) = UnixStream::pair().unwrap();
        let outcomes = [
            #[cfg(feature = "local")]
            fault::channel(&options).map(drop),
            fault::socket(&options).map(drop),
            fault::socket_responder(&options).map(drop),
            FaultReporter::from_socket(far.into(), Format::IOMMU_PGFAULT_V1, &options)
                .map(drop)
                .map_err(Error::from),
        ];
        for outcome in outcomes {
            assert!(
                matches!(outcome, Err(Error::Option { name, value: 0, .. }) if name == age),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn debug_output_is_short() {
    for make in EVERY_MAKE {
        let (reporter, mut responder) = make(&Options::new());
        publish(&reporter, page(1, 1));
        let (held, _) = receive(&mut responder);
        let outputs = [format!("{held:?}"), format!("{reporter:?}"), format!("{responder:?}")];
        assert!(outputs.iter().all(|output| output.len() < 100), "{outputs:?}");
    }
}

/// What was quadratic in the depth took half a minute at this one.
#[cfg(feature = "local")]
#[test]
fn detach_takes_time_in_proportion_to_the_groups() {
    const DEPTH: u32 = 1 << 16;
    for held in [false, true] {
        let (reporter, mut responder) = local(&v2().depth(DEPTH).per_device(DEPTH));
        let all: Vec<_> = (0..DEPTH).map(|index| page(1, index % 512)).collect();
        let mut reported = 0;
        while reported < all.len() {
            reported += reporter.report_batch(&all[reported..]).unwrap();
        }
        let mut pages = vec![PgFault::default(); if held { all.len() } else { 0 }];
        let mut groups: Vec<_> = pages.iter().map(|_| None).collect();
        if held {
            assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), all.len());
        }
        let (count, told, took) = common::soon(move || {
            let start = Instant::now();
            let count = reporter.detach(1);
            (count, std::iter::from_fn(|| responder.next_cancelled()).count(), start.elapsed())
        });
        assert_eq!((count, told), (all.len(), groups.len()));
        assert!(took < PROMPT, "it took {took:?}");
    }
}

/// What the threads of the stress test share.
#[derive(Default)]
struct Tally {
    published: AtomicUsize,
    completed: Mutex<HashSet<u32>>,
    /// Publishers and disturbers are through.
    quiet: AtomicBool,
    /// So are those who wait for the descriptor.
    over: AtomicBool,
}

impl Tally {
    fn note(&self, completions: &[FaultCompletion]) {
        let mut completed = self.completed.lock().unwrap();
        for completion in completions {
            assert!(completed.insert(completion.cookie), "completed twice: {completion:?}");
        }
    }

    fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    fn is_complete(&self) -> bool {
        self.completed.lock().unwrap().len() == self.published.load(Ordering::Relaxed)
    }
}

/// Publishes groups of three devices, up to three with one call.
fn publisher(reporter: &FaultReporter, tally: &Tally, device: u32) {
    for number in (0..).take_while(|_| !tally.is_quiet()) {
        let groups = (0..1 + number % 3).map(|index| group(device + index, number % 512, 1 + number % 4));
        let requests = groups.collect::<Vec<_>>().concat();
        let mut rest = &requests[..];
        while !rest.is_empty() {
            match reporter.report_batch(rest) {
                Ok(taken) => {
                    let groups = rest[..taken].iter().filter(|request| request.last).count();
                    tally.published.fetch_add(groups, Ordering::Relaxed);
                    rest = &rest[taken..];
                }
                // Nobody but who waits for the descriptor makes room any more.
                Err(_) if tally.is_quiet() => return,
                Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Answers most groups at once, some later, some by dropping them.
fn answerer(mut responder: AnyResponder) {
    let mut pages = [PgFault::default(); 8];
    let mut held = Vec::new();
    for number in 0.. {
        match responder.recv_group_timeout(&mut pages, Duration::from_millis(2)) {
            Ok(group) if number % 5 == 0 => held.push(group),
            // It may have been completed meanwhile.
            Ok(group) => drop(group.respond(Success)),
            Err(TryRecvError::Empty) => {
                held.clear();
                while responder.next_cancelled().is_some() {}
            }
            Err(TryRecvError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
        if held.len() > 3 {
            held.clear();
        }
    }
}

/// Collects one completion for each time that the descriptor is readable, and only then.
fn poller(reporter: &FaultReporter, tally: &Tally) {
    while !tally.over.load(Ordering::Relaxed) {
        if poll(&mut [PollFd::new(reporter.as_fd(), PollFlags::POLLIN)], 10u16).unwrap() > 0 {
            let mut one = [FaultCompletion::default()];
            match reporter.completions(&mut one) {
                Ok(count) => tally.note(&one[..count]),
                Err(TryRecvError::Empty) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Waits for completions by the call for it, which completes groups whose time is up.
fn waiter(reporter: &FaultReporter, tally: &Tally) {
    while !tally.is_quiet() {
        let mut two = [FaultCompletion::default(); 2];
        match reporter.wait_completions(&mut two, Some(Duration::from_millis(1))) {
            Ok(count) => tally.note(&two[..count]),
            Err(TryRecvError::Empty) => {}
            Err(error) => panic!("{error}"),
        }
        thread::yield_now();
    }
    tally.note(&collect(reporter));
}

/// Completes groups by every other means, and collects behind them as a socket asks for.
fn disturber(reporter: &FaultReporter, tally: &Tally) {
    while !tally.is_quiet() {
        reporter.detach(1);
        tally.note(&collect(reporter));
        reporter.process(Instant::now());
        let _ = reporter.drain(2, Duration::from_millis(1));
        tally.note(&collect(reporter));
        let _ = reporter.reset(3, Duration::from_micros(100));
        tally.note(&collect(reporter));
    }
}

fn every_group_completes_once(make: MakeAnyFault, busy_poll: Duration) {
    let options = ageless().format(Format::IOMMU_PGFAULT_V2).depth(8).per_device(8);
    let (reporter, mut responder) = make(&options.busy_poll(busy_poll).deadline(Duration::from_micros(300)));
    responder.set_busy_poll(busy_poll);
    let tally = Tally::default();
    let answerer = thread::spawn(|| answerer(responder));
    thread::scope(|scope| {
        let disturbers = [
            scope.spawn(|| publisher(&reporter, &tally, 1)),
            scope.spawn(|| publisher(&reporter, &tally, 4)),
            scope.spawn(|| waiter(&reporter, &tally)),
            scope.spawn(|| disturber(&reporter, &tally)),
        ];
        let pollers = [(); 2].map(|()| scope.spawn(|| poller(&reporter, &tally)));
        // This is how long they disturb each other; longer where a busy machine gives them little time.
        thread::sleep(Duration::from_secs(1));
        until(|| tally.published.load(Ordering::Relaxed) > 100);
        tally.quiet.store(true, Ordering::Relaxed);
        let quiet = disturbers.map(|thread| thread.join().is_ok());
        // From here on only the descriptor tells of the rest, late answers included.
        let is_through = || tally.is_complete() && reporter.counters().in_flight == 0;
        let through = until(|| is_through() || pollers.iter().any(|poller| poller.is_finished()));
        tally.over.store(true, Ordering::Relaxed);
        assert!(quiet == [true; 4] && through && is_through(), "stalled: {:?}", reporter.counters());
    });
    let counters = reporter.counters();
    let published = tally.published.load(Ordering::Relaxed);
    let completed = counters.answered + counters.detached + counters.deadline;
    assert_eq!((completed, counters.unanswered), (published as u64, 0));
    assert!(published > 100 && counters.answered > 0 && counters.detached > 0, "{counters:?}");
    drop(reporter);
    answerer.join().unwrap();
}

#[cfg(feature = "local")]
#[test]
fn every_group_completes_once_between_busy_threads() {
    every_group_completes_once(|options| here(local(options)), Duration::ZERO);
}

#[cfg(feature = "local")]
#[test]
fn every_group_completes_once_between_busy_threads_that_look_by_themselves() {
    every_group_completes_once(|options| here(local(options)), Duration::from_micros(50));
}

#[test]
fn every_group_completes_once_on_a_socket_of_busy_threads() {
    every_group_completes_once(|options| here(socket(options)), Duration::ZERO);
}

#[test]
fn every_group_completes_once_in_shared_memory_of_busy_threads() {
    every_group_completes_once(|options| here(shared(options)), Duration::from_micros(50));
    every_group_completes_once(shared_made_by_far_responder, Duration::ZERO);
}
