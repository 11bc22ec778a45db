//! A peer that uses what the kernel gives every process against the other one: the lock of a socket that both have, and
//! signals. The side that made the channel is not held up.

#[path = "common/c_peer.rs"]
mod c_peer;
mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use c_peer::CPeer;
use common::ends::{Attach, End, KINDS, Kind, page, release};
use common::*;
use recordfd::event::{self, Receiver};
use recordfd::fault::{FaultRequest, Reported, ResponseCode};
use recordfd::request::Ack;
use recordfd::uapi::{AcpiNotify, AcpiOst, DeviceAck, DeviceAckCode, Format, PageResponse, PageResponseCode};
use recordfd::{DrainError, Options, TryRecvError, UnattachedEnd};

/// No call of the maker takes longer.
const SHORT: Duration = Duration::from_millis(700);
const SIGIO: i32 = 29;
const OST: AcpiOst = AcpiOst::new(1, 2, 3);

static HOLD_SOCKET: LazyLock<PathBuf> = LazyLock::new(|| c_peer::compile("hold_socket"));

/// A peer that holds the lock of `socket`, in which something is; None, and a line that says why, where it cannot.
fn hold(socket: OwnedFd) -> Option<CPeer> {
    let peer = CPeer::start(&HOLD_SOCKET, &[], socket);
    if peer.said == "held" {
        return Some(peer);
    }
    eprintln!("skipped: {}", peer.said);
    None
}

/// A call, which must return what the pattern says, and within [`SHORT`]. Its value is what follows the pattern.
macro_rules! timed {
    ($call:expr => $expected:pat) => {
        timed!($call => $expected, ())
    };
    ($call:expr => $expected:pat, $value:expr) => {{
        let began = Instant::now();
        let result = $call;
        let took = began.elapsed();
        assert!(took < SHORT, "{} has taken {took:?} and returns {result:?}", stringify!($call));
        match result {
            $expected => $value,
            #[allow(unreachable_patterns, reason = "a pattern can match every result")]
            other => panic!("{} returns {other:?}", stringify!($call)),
        }
    }};
}

/// The calls of a sender, whether it is the only one or not.
macro_rules! sender_calls {
    ($tx:expr) => {
        timed!($tx.try_send(notify(0x80, 0)) => Ok(()));
        timed!($tx.post(notify(0x80, 0)) => Ok(()));
        timed!($tx.send_batch(&[notify(0x80, 0); 9]) => Ok(9));
        timed!($tx.flush() => Ok(()));
        timed!($tx.try_recv_reply() => Ok(_));
        timed!($tx.try_recv_reply() => Err(TryRecvError::Empty));
        timed!($tx.is_drained() => Ok(false));
        timed!($tx.wait_drained(Some(Duration::from_millis(1))) => Err(DrainError::Timeout));
        timed!($tx.is_closed() => false);
    };
}

#[test]
fn peer_that_holds_the_lock_of_its_socket_delays_no_call_of_the_maker() {
    rounds::each_seed("peer that holds a lock", 1, |_| {
        KINDS.into_iter().for_each(hold_up);
        let (mut tx, end) = event::shared::<AcpiNotify>(&Options::new()).unwrap();
        let Some(_held) = held(&tx, end, |end| Receiver::attach(end).map(End::Receiver)) else { return };
        sender_calls!(tx);
        timed!(drop(tx) => ());
    });
}

/// Attaches the other end, has it send what `mine` is to receive, and has a peer hold the lock of its socket. None where
/// it cannot. The peer comes first, for the attached end may not be dropped before the lock is free.
fn held(mine: impl AsFd, end: UnattachedEnd, attach: Attach) -> Option<(CPeer, End)> {
    let info = end.info();
    let far = OwnedFd::from(end);
    let mut its = attach(UnattachedEnd::from_parts(far.try_clone().unwrap(), info)).unwrap();
    match &mut its {
        End::Sender(tx) => (0..2).for_each(|data| tx.try_send(notify(0x80, data)).unwrap()),
        End::Receiver(rx) => rx.reply(OST).unwrap(),
        End::FaultReporter(reporter) => {
            (0..3).for_each(|_| assert!(reporter.report(page()).is_ok()));
        }
        End::Reporter(reporter) => {
            (0..3).for_each(|_| assert!(reporter.report(release()).is_ok()));
        }
        End::FaultResponder(_) | End::Responder(_) => {}
    }
    // For the peer to receive.
    nix::unistd::write(mine, &[0]).unwrap();
    Some((hold(far)?, its))
}

/// Makes a channel, and each call of its end while a peer holds the lock of the socket of the other end. Every call that
/// sends must succeed: a call that is refused before it uses the socket shows nothing.
fn hold_up(kind: Kind) {
    eprintln!("the other end is a {}", kind.name);
    let (mut mine, end) = (kind.make)();
    let Some(_held) = held(mine.as_fd(), end, kind.attach) else { return };
    match &mut mine {
        End::Sender(tx) => {
            sender_calls!(tx);
        }
        End::Receiver(rx) => {
            timed!(rx.try_recv() => Ok(_));
            timed!(rx.recv_timeout(SHORT / 9) => Ok(_));
            timed!(rx.recv_timeout(SHORT / 9) => Err(TryRecvError::Empty));
            timed!(rx.reply(OST) => Ok(()));
        }
        End::FaultReporter(reporter) => {
            timed!(reporter.report(page()) => Ok(Reported::Group { .. }));
            timed!(reporter.report_batch(&[FaultRequest { dev_id: 2, ..page() }; 2]) => Ok(2));
            timed!(reporter.completions(&mut [Default::default(); 4]) => Err(TryRecvError::Empty));
            timed!(reporter.process(Instant::now()) => 0);
            timed!(reporter.is_closed() => false);
            timed!(reporter.detach(1) => 1);
        }
        End::Reporter(reporter) => {
            timed!(reporter.report(release()) => Ok(_));
            timed!(reporter.completions(&mut [Default::default(); 4]) => Err(TryRecvError::Empty));
            timed!(reporter.process(Instant::now()) => 0);
            timed!(reporter.is_closed() => false);
            timed!(reporter.detach(1) => 1);
        }
        End::FaultResponder(responder) => {
            let mut pages = [Default::default(); 8];
            let [first, second, third] =
                [(); 3].map(|()| timed!(responder.try_recv_group(&mut pages) => Ok(group), group));
            timed!(first.respond(ResponseCode::Success) => Ok(()));
            let answer = PageResponse { cookie: second.into_cookie(), code: PageResponseCode::INVALID };
            timed!(responder.respond(answer) => Ok(()));
            timed!(drop(third) => ());
            timed!(responder.next_cancelled() => None);
        }
        End::Responder(responder) => {
            let [first, second, third] =
                [(); 3].map(|()| timed!(responder.try_recv() => Ok(request), request));
            timed!(first.respond(Ack::Done) => Ok(()));
            let answer = DeviceAck { cookie: second.into_cookie(), code: DeviceAckCode::DONE };
            timed!(responder.respond(answer) => Ok(()));
            timed!(drop(third) => ());
            timed!(responder.next_notice() => None);
        }
    }
    timed!(drop(mine) => ());
}

/// What remains: a maker that keeps a copy of the end that it gave away can hold that one's lock.
#[test]
fn hostile_maker_stops_the_side_that_attaches_until_it_is_killed() {
    let (_tx, far) = event::shared::<AcpiNotify>(&Options::new()).unwrap();
    let far = OwnedFd::from(far);
    let Some(peer) = hold(far.try_clone().unwrap()) else { return };
    let (done, result) = mpsc::channel();
    let (begun, task) = mpsc::channel();
    let attaching = thread::spawn(move || {
        begun.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        done.send(Rx::from_shared(far).map(drop))
    });
    assert!(matches!(result.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout)), "it was not held up");
    // Not even a signal that kills ends this sleep.
    let status =
        std::fs::read_to_string(Path::new("/proc").join(task.recv().unwrap()).join("status")).unwrap();
    assert!(status.contains("\nState:\tD "), "{status}");
    drop(peer);
    assert!(result.recv_timeout(SOON).unwrap().is_ok());
    attaching.join().unwrap().unwrap();

    let (tx, far) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
    let far = OwnedFd::from(far);
    tx.try_send(notify(0x80, 0)).unwrap();
    let mut rx =
        Receiver::<AcpiNotify>::from_socket(far.try_clone().unwrap(), Format::ACPI_NOTIFY_V1).unwrap();
    let Some(peer) = hold(far) else { return };
    // What the maker cannot hold up: replies, and polls.
    timed!(rx.reply(OST) => Ok(()));
    timed!(readable(&rx) => true);
    let (done, result) = mpsc::channel();
    let receiving = thread::spawn(move || done.send(rx.try_recv().map(summary)));
    assert!(matches!(result.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout)), "it was not held up");
    drop(peer);
    assert_eq!(result.recv_timeout(SOON).unwrap().unwrap(), (0, Some(0)));
    receiving.join().unwrap().unwrap();
}

/// What remains: who may send a signal may do so by a socket of its own, too, and nobody else.
#[test]
fn peer_with_another_user_id_sends_no_signal_and_one_with_the_same_does() {
    const NAME: &str = "peer_with_another_user_id_sends_no_signal_and_one_with_the_same_does";
    if in_child() {
        // The user id and the program come in the environment.
        let [user, program] = ["PEER_USER", "PEER_PROGRAM"].map(|name| std::env::var(name).unwrap());
        let (tx, far) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
        let peer = CPeer::start(program.as_ref(), &[&std::process::id().to_string(), &user], far.into());
        assert_eq!(peer.said, "set");
        tx.try_send(notify(0x80, 0)).unwrap();
        return;
    }
    let program = c_peer::compile("send_signals");
    let run = |user: u32| {
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut command = child_command(std::env::current_exe().unwrap(), NAME, null.into());
        command.env("PEER_USER", user.to_string()).env("PEER_PROGRAM", &program).output().unwrap().status
    };
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(run(own).signal(), Some(SIGIO));
    if own == 0 {
        assert!(run(65534).success(), "another user's signal has come");
    } else {
        eprintln!("skipped: only root has peers with another user id");
    }
}
