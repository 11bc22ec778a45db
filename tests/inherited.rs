//! A child of fork that only inherited ends, tokens and routers: every call of it is refused, its drops say nothing, and
//! the parent has everything as it was. Whatever made the child: fork(3), or a bare clone(2).

mod common;

use std::fs;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::ends::{End, KINDS, assert_connected, page, release};
use common::{child_command, finish, in_child, in_own_process, notify};
use fork::{Fork, fork, waitpid};
use recordfd::event::{self, Receiver, ReceiverCounters, Sender, SenderCounters, SoleSender};
use recordfd::fault::{
    self, Cause, FaultCompletion, FaultGroup, FaultHandle, FaultReporter, FaultReporterCounters,
    FaultResponder, FaultRouter, FaultSource, FaultWork, HandleCounters, ResponseCode, RouterCounters,
};
use recordfd::request::{self, Ack, Pending, Reporter, ReporterCounters, Responder};
use recordfd::uapi::{
    AcpiNotify, AcpiOst, DeviceAck, DeviceAckCode, DeviceRequest, MixedEvent, PageResponse, PageResponseCode,
    PgFault,
};
use recordfd::{Options, TrySendError};

const ZERO: Duration = Duration::ZERO;

/// Fails unless each of the calls is refused.
macro_rules! refused {
    ($what:expr, $($call:expr),+ $(,)?) => {
        $(match $call {
            Ok(_) => panic!("{}: {} is not refused", $what, stringify!($call)),
            Err(error) => {
                assert_eq!(error.errno(), libc::EPERM, "{}: {} says {error}", $what, stringify!($call));
                assert!(error.to_string().contains("inherited"), "{error}");
            }
        })+
    };
}

/// Runs `check` in a child of fork, which then drops what it was given; the parent keeps that.
fn in_a_child<T>(given: T, check: impl FnOnce(&mut T)) -> T {
    match fork().unwrap() {
        Fork::Child => {
            let mut given = given;
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                check(&mut given);
                drop(given);
            }));
            std::process::exit(outcome.is_err().into());
        }
        Fork::Parent(child) => {
            assert_eq!(waitpid(child).unwrap(), 0, "the child failed");
            given
        }
    }
}

fn sender(what: &str, tx: &Sender<AcpiNotify>) {
    let record = notify(0x80, 1);
    refused!(
        what,
        tx.try_send(record),
        tx.send_batch(&[record; 2]),
        tx.post(record),
        tx.flush(),
        tx.try_recv_reply(),
        tx.is_drained(),
        tx.wait_drained(None),
        tx.use_asymmetric_fence(),
    );
    assert!(matches!(tx.try_send(record), Err(TrySendError::NotThisProcess(back)) if back == record));
    assert!(tx.is_closed() && tx.capacity() > 0 && tx.counters() == SenderCounters::default(), "{what}");
}

fn sole_sender(what: &str, tx: &mut SoleSender<AcpiNotify>) {
    let record = notify(0x80, 1);
    refused!(
        what,
        tx.try_send(record),
        tx.send_batch(&[record; 2]),
        tx.post(record),
        tx.flush(),
        tx.try_recv_reply(),
        tx.is_drained(),
        tx.wait_drained(None),
        tx.use_asymmetric_fence(),
    );
    assert!(tx.is_closed() && tx.capacity() > 0 && tx.counters() == SenderCounters::default(), "{what}");
}

fn receiver(what: &str, rx: &mut Receiver<AcpiNotify>) {
    let reply = AcpiOst::new(1, 2, 3);
    rx.set_busy_poll(Duration::from_millis(1));
    refused!(
        what,
        rx.try_recv(),
        rx.recv_batch(&mut [Default::default(); 2]),
        rx.recv(),
        rx.recv_timeout(ZERO),
        rx.wait(None),
        rx.reply(reply),
        rx.use_asymmetric_fence(),
    );
    assert_eq!(rx.counters(), ReceiverCounters::default(), "{what}");
}

fn mixed_receiver(what: &str, rx: &mut Receiver<MixedEvent>) {
    refused!(
        what,
        rx.try_recv_known(),
        rx.recv_known(),
        rx.recv_known_timeout(ZERO),
        rx.recv_known_batch(&mut [Default::default(); 2]),
    );
}

fn fault_reporter(what: &str, reporter: &FaultReporter) {
    let mut out = [FaultCompletion::default(); 2];
    refused!(
        what,
        reporter.report(page()),
        reporter.report_batch(&[page(); 2]),
        reporter.completions(&mut out),
        reporter.wait_completions(&mut out, None),
        reporter.drain(1, SOON),
        reporter.reset(1, SOON),
        reporter.wait_stop_marker(1, 1, SOON),
        reporter.use_asymmetric_fence(),
    );
    assert_eq!((reporter.detach(1), reporter.process(Instant::now() + SOON)), (0, 0), "{what}");
    assert!(reporter.is_closed() && reporter.next_deadline().is_none(), "{what}");
    assert!(reporter.depth() > 0 && reporter.max_group() > 0, "{what}");
    assert_eq!(reporter.counters(), FaultReporterCounters::default(), "{what}");
}

fn fault_responder(what: &str, responder: &mut FaultResponder) {
    let mut pages = [PgFault::default(); 2];
    let answer = PageResponse { cookie: 1, code: PageResponseCode::SUCCESS };
    responder.set_busy_poll(Duration::from_millis(1));
    refused!(
        what,
        responder.try_recv_group(&mut pages),
        responder.recv_group(&mut pages),
        responder.recv_group_timeout(&mut pages, SOON),
        responder.recv_groups(&mut pages, &mut [None, None]),
        responder.wait(None),
        responder.respond(answer),
        responder.respond_batch(&[answer]),
        responder.use_asymmetric_fence(),
    );
    assert_eq!((responder.next_cancelled(), responder.open_cookies()), (None, vec![]), "{what}");
}

fn reporter(what: &str, reporter: &Reporter<DeviceRequest>) {
    let mut out = [request::Completion::default(); 2];
    refused!(
        what,
        reporter.report(release()),
        reporter.completions(&mut out),
        reporter.wait_completions(&mut out, None),
        reporter.drain(1, SOON),
        reporter.use_asymmetric_fence(),
    );
    assert_eq!((reporter.detach(1), reporter.process(Instant::now() + SOON)), (0, 0), "{what}");
    assert!(reporter.is_closed() && reporter.next_deadline().is_none() && reporter.depth() > 0, "{what}");
    assert_eq!(reporter.counters(), ReporterCounters::default(), "{what}");
}

fn responder(what: &str, responder: &mut Responder<DeviceRequest>) {
    responder.set_busy_poll(Duration::from_millis(1));
    refused!(
        what,
        responder.try_recv(),
        responder.recv(),
        responder.recv_timeout(SOON),
        responder.wait(None),
        responder.respond(DeviceAck { cookie: 1, code: DeviceAckCode::DONE }),
        responder.use_asymmetric_fence(),
    );
    assert_eq!((responder.next_notice(), responder.open_cookies()), (None, vec![]), "{what}");
}

const SOON: Duration = Duration::from_secs(1);

fn end(what: &str, end: &mut End) {
    match end {
        End::Sender(end) => sender(what, end),
        End::Receiver(end) => receiver(what, end),
        End::FaultReporter(end) => fault_reporter(what, end),
        End::FaultResponder(end) => fault_responder(what, end),
        End::Reporter(end) => reporter(what, end),
        End::Responder(end) => responder(what, end),
    }
}

/// Both ends of a channel of each kind.
fn every_pair() -> Vec<(String, End, End)> {
    let pairs = KINDS.iter().map(|kind| {
        let (mine, end) = (kind.make)();
        (kind.name.to_owned(), mine, (kind.attach)(end).unwrap())
    });
    #[cfg(feature = "local")]
    let pairs = pairs.chain({
        let (sender, receiver) = event::channel(&Options::new()).unwrap();
        let (fault_reporter, fault_responder) = fault::channel(&fault::Options::new()).unwrap();
        let (reporter, responder) = request::channel(&request::Options::new()).unwrap();
        [
            ("events, local".to_owned(), End::Sender(sender), End::Receiver(receiver)),
            (
                "faults, local".to_owned(),
                End::FaultReporter(fault_reporter),
                End::FaultResponder(fault_responder),
            ),
            ("requests, local".to_owned(), End::Reporter(reporter), End::Responder(responder)),
        ]
    });
    pairs.collect()
}

fn every_end_is_refused() {
    for (what, mut one, mut other) in every_pair() {
        assert_connected(&what, &mut one, &mut other);
        let what = what.as_str();
        (one, other) = in_a_child((one, other), |(one, other)| {
            end(what, one);
            end(what, other);
        });
        // Each by itself, and a child of a child.
        one = in_a_child(one, |one| end(what, one));
        one = in_a_child(one, |_| ());
        other = in_a_child(other, |other| in_a_child((), |_| end(what, other)));
        assert!(!common::readable(&one) && !common::readable(&other), "{what}: nobody has hung up");
        assert_connected(what, &mut one, &mut other);
    }
    let (mut tx, rx_end) = event::shared::<AcpiNotify>(&Options::new()).unwrap();
    tx = in_a_child(tx, |tx| sole_sender("sole sender", tx));
    // What a child makes of it is of no process of its own.
    let tx = End::Sender(in_a_child(tx, |_| ()).into_shared());
    let mut rx = End::Receiver(Receiver::attach(rx_end).unwrap());
    assert_connected("sole sender", &mut in_a_child(tx, |tx| end("sole sender, shared", tx)), &mut rx);
    let (_tx, rx_end) = event::socket::<MixedEvent>(&Options::new()).unwrap();
    in_a_child(Receiver::attach(rx_end).unwrap(), |rx| mixed_receiver("mixed", rx));
}

/// A group, or a request, that its responder holds.
enum Token {
    Group(FaultGroup),
    Pending(Pending<DeviceRequest>),
}

fn every_token_is_refused() {
    for (what, one, other) in every_pair() {
        let (reporter, responder) = match one {
            End::FaultReporter(_) | End::Reporter(_) => (one, other),
            _ => (other, one),
        };
        let mut responder = responder;
        let token = match (&reporter, &mut responder) {
            (End::FaultReporter(reporter), End::FaultResponder(responder)) => {
                reporter.report(page()).unwrap();
                Token::Group(responder.try_recv_group(&mut [PgFault::default()]).unwrap())
            }
            (End::Reporter(reporter), End::Responder(responder)) => {
                reporter.report(release()).unwrap();
                Token::Pending(responder.try_recv().unwrap())
            }
            _ => continue,
        };
        // It is given back by what refuses it, and dropped then.
        let token = in_a_child(Some(token), |token| match token.take().unwrap() {
            Token::Group(group) => {
                assert!(!group.is_cancelled());
                let cookie = group.cookie();
                refused!(what, group.respond(ResponseCode::Success).inspect_err(|error| {
                    let is_given_back = matches!(error, recordfd::RespondError::NotThisProcess(group) if group.cookie() == cookie);
                    assert!(is_given_back, "{what}");
                }));
            }
            Token::Pending(pending) => {
                assert!(!pending.is_cancelled());
                refused!(what, pending.respond(Ack::Done));
            }
        });
        match (token.unwrap(), reporter) {
            (Token::Group(group), End::FaultReporter(reporter)) => {
                group.respond(ResponseCode::Success).unwrap();
                let mut ended = [FaultCompletion::default(); 2];
                assert_eq!(reporter.completions(&mut ended).unwrap(), 1, "{what}");
                assert_eq!(
                    (ended[0].code, ended[0].cause),
                    (ResponseCode::Success, Cause::Answered),
                    "{what}"
                );
                assert_eq!(
                    (reporter.counters().in_flight, reporter.counters().late_answers),
                    (0, 0),
                    "{what}"
                );
            }
            (Token::Pending(pending), End::Reporter(reporter)) => {
                pending.respond(Ack::Done).unwrap();
                let mut ended = [request::Completion::default(); 2];
                assert_eq!(reporter.completions(&mut ended).unwrap(), 1, "{what}");
                assert_eq!((ended[0].verdict, ended[0].cause), (Ack::Done, Cause::Answered), "{what}");
                assert_eq!(
                    (reporter.counters().in_flight, reporter.counters().late_answers),
                    (0, 0),
                    "{what}"
                );
            }
            _ => unreachable!("they are one channel's"),
        }
    }
}

/// A router whose device is told over a descriptor, as it is in a VMM; with a handle of each kind.
struct Routed {
    router: FaultRouter,
    device: UnixStream,
    executor: FaultHandle,
    queue: FaultHandle,
    responder: FaultResponder,
    work: Option<FaultWork>,
}

impl Routed {
    fn new() -> Self {
        let (device, line) = UnixStream::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        let respond = move |ended: FaultCompletion| {
            let told = format!("{} {:?} {:?}\n", ended.dev_id, ended.code, ended.cause);
            (&line).write_all(told.as_bytes()).unwrap();
        };
        let router = FaultRouter::new(&fault::Options::new(), respond).unwrap();
        let kept = Arc::new(Mutex::new(None));
        let keeper = kept.clone();
        let keep = move |work: FaultWork| *keeper.lock().unwrap() = Some(work);
        let executor = router.executor(&fault::Options::new(), keep).unwrap();
        let (reporter, end) = fault::shared(&fault::Options::new()).unwrap();
        let queue = router.queue(reporter).unwrap();
        router.attach(FaultSource::rid(1), &executor).unwrap();
        router.attach(FaultSource::rid(2), &queue).unwrap();
        router.report(page()).unwrap();
        router.report(fault::FaultRequest { dev_id: 2, ..page() }).unwrap();
        let work = kept.lock().unwrap().take();
        Self { router, device, executor, queue, responder: FaultResponder::attach(end).unwrap(), work }
    }

    fn is_refused(&mut self) {
        let Self { router, executor, queue, .. } = self;
        let source = FaultSource::rid(3);
        refused!(
            "router",
            router.report(page()),
            router.attach(source, executor),
            router.replace(FaultSource::rid(1), queue),
            router.detach(FaultSource::rid(1)),
            router.detach_device(1),
            router.inline(&fault::Options::new(), |_| ResponseCode::Success).map(drop),
            router.executor(&fault::Options::new(), |_: FaultWork| ()).map(drop),
            router.wait_stop_marker(1, 1, SOON),
        );
        for with in [FaultRouter::attach_with, FaultRouter::replace_with] {
            let switched =
                with(router, source, executor, || -> Result<(), ()> { panic!("nothing is set up") });
            assert_eq!(switched, Err(fault::AttachError::NotThisProcess.into()));
        }
        // One of this process is no queue of a router of another.
        let (reporter, _end) = fault::socket(&fault::Options::new()).unwrap();
        refused!("router", router.queue(reporter));
        assert_eq!((router.process(Instant::now() + SOON), router.next_deadline()), (None, None));
        assert_eq!(router.counters(), RouterCounters::default());
        for handle in [executor, queue] {
            router.collect(handle);
            assert_eq!(handle.counters(), HandleCounters::default());
        }
        assert!(self.queue.is_closed());
        refused!("work", self.work.take().unwrap().respond(ResponseCode::Success));
    }
}

fn every_router_is_refused_and_work_is_answered_once() {
    let mut routed = in_a_child(Routed::new(), Routed::is_refused);
    // The drop of work alone, too, which answers INVALID in its process.
    let work = in_a_child(routed.work.take().unwrap(), |_| ());
    work.respond(ResponseCode::Success).unwrap();
    let group = routed.responder.recv_group(&mut [PgFault::default()]).unwrap();
    group.respond(ResponseCode::Success).unwrap();
    routed.router.process(Instant::now());
    assert_eq!(routed.router.detach_device(1).unwrap() + routed.router.detach_device(2).unwrap(), 2);
    let mut told = String::new();
    let _ = routed.device.read_to_string(&mut told);
    let told: Vec<_> = told.lines().collect();
    assert_eq!(told, ["1 Success Answered", "2 Success Answered"], "exactly one response to one group");
}

/// What a child has made itself it may use: everything is of its process, not of its parent's.
fn child_may_use_what_it_makes() {
    let before = every_pair();
    in_a_child(before, |before| {
        for (what, mut one, mut other) in every_pair() {
            assert_connected(&what, &mut one, &mut other);
            (one, other) = in_a_child((one, other), |(one, other)| {
                end(&what, one);
                end(&what, other);
            });
            assert_connected(&what, &mut one, &mut other);
        }
        before.iter_mut().for_each(|(what, one, _)| end(what, one));
    });
}

fn all() {
    every_end_is_refused();
    every_token_is_refused();
    every_router_is_refused_and_work_is_answered_once();
    child_may_use_what_it_makes();
}

#[test]
fn nothing_that_was_inherited_by_fork_can_be_used() {
    in_own_process("nothing_that_was_inherited_by_fork_can_be_used", all);
}

#[test]
fn nothing_that_was_inherited_by_a_bare_clone_can_be_used() {
    let name = "nothing_that_was_inherited_by_a_bare_clone_can_be_used";
    if in_child() {
        return all();
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(11)) {
        return eprintln!("skipped: before Linux 6.11 a bare clone is noticed by a drop only");
    }
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bare_fork.so");
    let compiled = Command::new("gcc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/bare_fork.c"))
        .arg("-o")
        .arg(&library)
        .status()
        .expect("gcc is needed to fork as minijail does");
    assert!(compiled.success());
    let null = File::open("/dev/null").unwrap();
    let mut command = child_command(std::env::current_exe().unwrap(), name, null.into());
    finish(command.env("LD_PRELOAD", library).spawn().unwrap());
}

/// What a drop tells the other side is a `Release`, which nothing calls but `Owned`, in the process that made the value.
/// A type with a `Drop` of its own would tell it in a child, too: only guards, and what unmaps memory, have one.
#[test]
fn no_end_and_no_token_has_a_drop_of_its_own() {
    fn find(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                find(&path, found);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            let dropped = source.lines().filter_map(|line| line.split_once(" Drop for "));
            found.extend(dropped.map(|(_, name)| name.split([' ', '<']).next().unwrap().to_owned()));
        }
    }
    let mut found = Vec::new();
    find(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort_unstable();
    assert_eq!(found, ["IntakeGuard", "Mapping", "Owned", "Reservation", "Withdrawal", "Within"]);
}
