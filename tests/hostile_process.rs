//! A peer that uses what the kernel gives every process against the other one: the lock of a socket that both have, and
//! signals. The side that made the channel is not held up.

#[path = "common/c_peer.rs"]
mod c_peer;
mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use c_peer::CPeer;
use common::*;
use recordfd::event::{self, Receiver};
use recordfd::fault::{self, FaultRequest, ResponseCode};
use recordfd::request::{self, Reporter, Responder};
use recordfd::uapi::{
    AcpiNotify, AcpiOst, DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind, Format, PageResponse,
    PageResponseCode,
};
use recordfd::{Error, Options, UnattachedEnd};

/// No call of the maker takes longer.
const SHORT: Duration = Duration::from_millis(700);
const SIGIO: i32 = 29;

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

fn timed<T: Debug>(what: &str, call: impl FnOnce() -> T) {
    let began = Instant::now();
    let result = call();
    let took = began.elapsed();
    assert!(took < SHORT, "{what} has taken {took:?} and says {result:?}");
}

/// A call of an end, with its name.
type Call<'a, E> = (&'a str, &'a dyn Fn(&mut E) -> String);

/// Has a peer hold its socket of a channel that this side makes, while each of the calls is made and the end dropped.
fn hold_up<E: AsFd>(made: Result<(E, UnattachedEnd), Error>, calls: &[Call<E>]) {
    let (mut end, far) = made.unwrap();
    // For the peer to receive.
    nix::unistd::write(&end, &[0]).unwrap();
    let Some(_peer) = hold(far.into()) else { return };
    for (what, call) in calls {
        timed(what, || call(&mut end));
    }
    timed("drop", || drop(end));
}

/// Calls of an end, each with a name; what they say matters to nobody.
macro_rules! calls {
    ($($call:ident($($argument:expr),*)),*) => {
        &[$((stringify!($call), &|end| format!("{:?}", end.$call($($argument),*)))),*]
    };
}

#[test]
fn peer_that_holds_the_lock_of_its_socket_delays_no_call_of_the_maker() {
    rounds::each_seed("peer that holds a lock", 1, |_| hold_up_every_end());
}

fn hold_up_every_end() {
    let options = Options::new();
    let moment = Some(Duration::from_millis(1));
    hold_up(
        event::socket::<AcpiNotify>(&options),
        calls![
            try_send(notify(0x80, 0)),
            post(notify(0x80, 0)),
            send_batch(&[notify(0x80, 0); 9]),
            try_recv_reply(),
            is_drained(),
            wait_drained(moment),
            is_closed(),
            flush()
        ],
    );
    hold_up(
        event::shared::<AcpiNotify>(&options),
        calls![
            try_send(notify(0x80, 0)),
            post(notify(0x80, 0)),
            send_batch(&[notify(0x80, 0); 9]),
            try_recv_reply(),
            is_drained(),
            wait_drained(moment),
            is_closed(),
            flush()
        ],
    );
    let reply = AcpiOst::new(1, 2, 3);
    hold_up(
        event::socket_receiver::<AcpiNotify>(&options),
        calls![try_recv(), recv_timeout(SHORT / 9), reply(reply)],
    );
    hold_up(
        event::shared_receiver::<AcpiNotify>(&options),
        calls![try_recv(), recv_timeout(SHORT / 9), reply(reply)],
    );

    let options = fault::Options::new();
    let request = FaultRequest { dev_id: 1, last: true, ..Default::default() };
    macro_rules! reporter {
        () => {
            calls![
                report(request),
                report_batch(&[FaultRequest { dev_id: 2, ..request }]),
                completions(&mut [Default::default(); 4]),
                process(Instant::now()),
                is_closed(),
                detach(1)
            ]
        };
    }
    macro_rules! responder {
        () => {
            calls![
                try_recv_group(&mut [Default::default(); 8]),
                next_cancelled(),
                respond(PageResponse { cookie: 1, code: PageResponseCode::from(ResponseCode::Invalid) })
            ]
        };
    }
    hold_up(fault::socket(&options), reporter!());
    hold_up(fault::shared(&options), reporter!());
    hold_up(fault::socket_responder(&options), responder!());
    hold_up(fault::shared_responder(&options), responder!());

    let options = request::Options::new();
    let request = DeviceRequest { dev_id: 1, cookie: 0, kind: DeviceRequestKind::RELEASE, count: 0 };
    macro_rules! reporter {
        () => {
            calls![
                report(request),
                completions(&mut [Default::default(); 4]),
                process(Instant::now()),
                is_closed(),
                detach(1)
            ]
        };
    }
    macro_rules! responder {
        () => {
            calls![try_recv(), next_notice(), respond(DeviceAck { cookie: 1, code: DeviceAckCode::DONE })]
        };
    }
    hold_up::<Reporter<DeviceRequest>>(request::socket(&options), reporter!());
    hold_up::<Reporter<DeviceRequest>>(request::shared(&options), reporter!());
    hold_up::<Responder<DeviceRequest>>(request::socket_responder(&options), responder!());
    hold_up::<Responder<DeviceRequest>>(request::shared_responder(&options), responder!());
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
    timed("reply", || rx.reply(AcpiOst::new(1, 2, 3)));
    timed("poll", || readable(&rx));
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
