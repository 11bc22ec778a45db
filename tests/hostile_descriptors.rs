//! A peer attaches descriptors to its data whose closing waits for that peer: a TCP socket that lingers, and a file of a
//! FUSE server that answers late. No call on a channel that this side has made waits for one.

mod common;
#[path = "common/fuse.rs"]
mod fuse;
#[path = "common/ring_peer.rs"]
mod ring_peer;
#[path = "common/rounds.rs"]
mod rounds;

use std::any::Any;
use std::fmt::Debug;
use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::*;
use fuse::SlowFile;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt::Linger};
use recordfd::event::{self, Receiver};
use recordfd::uapi::{AcpiNotify, AcpiOst, Format, PciError, Record};
use recordfd::{Error, Options, UnattachedEnd, fault, fd, request};
use ring_peer::{good_offer, sealed_memory};
use zerocopy::IntoBytes;

/// No call takes longer that does not wait.
const SHORT: Duration = Duration::from_millis(700);
/// How long closing what a peer attaches takes.
const LONG: Duration = Duration::from_secs(2);

/// The end that was made, its socket and that of the other side.
type Made = (Box<dyn Any>, OwnedFd, OwnedFd);

fn made<E: AsFd + 'static>(ends: Result<(E, UnattachedEnd), Error>) -> Made {
    let (end, far) = ends.unwrap();
    let near = end.as_fd().try_clone_to_owned().unwrap();
    (Box::new(end), near, far.into())
}

/// Every way to make a channel to another process.
fn every_maker() -> Vec<Made> {
    let (events, faults) = (Options::new(), fault::Options::new());
    let requests = request::Options::new();
    vec![
        made(event::socket::<AcpiNotify>(&events)),
        made(event::socket_receiver::<AcpiNotify>(&events)),
        made(event::shared::<AcpiNotify>(&events)),
        made(event::shared_receiver::<AcpiNotify>(&events)),
        made(fault::socket(&faults)),
        made(fault::socket_responder(&faults)),
        made(fault::shared(&faults)),
        made(fault::shared_responder(&faults)),
        made(request::socket::<PciError>(&requests)),
        made(request::socket_responder::<PciError>(&requests)),
        made(request::shared::<PciError>(&requests)),
        made(request::shared_responder::<PciError>(&requests)),
    ]
}

/// Whether this kernel has sockets that refuse descriptors; says so if not.
fn can_refuse() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    let can = (numbers.next(), numbers.next()) >= (Some(6), Some(16));
    if !can {
        eprintln!("skipped: before Linux 6.16 no socket refuses descriptors");
    }
    can
}

/// Sends `bytes` with descriptors.
fn attach(socket: impl AsFd, bytes: &[u8], descriptors: &[&dyn AsFd]) -> nix::Result<usize> {
    let numbers: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &rights, flags, None)
}

/// A TCP socket whose last close takes [`LONG`], and its peer, which reads nothing.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nonblocking(true).unwrap();
    while (&near).write(&[0; 1 << 16]).is_ok() {}
    near.set_nonblocking(false).unwrap();
    setsockopt(&near, Linger, &linger { l_onoff: 1, l_linger: LONG.as_secs() as i32 }).unwrap();
    (near, far)
}

/// What `call` returns, and how long it takes.
fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = call();
    (result, began.elapsed())
}

#[test]
fn both_ends_of_every_channel_that_we_make_refuse_descriptors() {
    if !can_refuse() {
        return;
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    for (which, (_end, near, far)) in every_maker().into_iter().enumerate() {
        assert_eq!(attach(&far, &[0], &[&null]), Err(Errno::EPERM), "maker {which}, its own end");
        assert_eq!(attach(&near, &[0], &[&null]), Err(Errno::EPERM), "maker {which}, the other one");
    }
}

/// Receives what the peer has sent and drops the end; fails if either takes long.
fn receive_and_drop<E, T: Debug>(mut end: E, receive: impl FnOnce(&mut E) -> T) {
    let (received, took) = timed(|| receive(&mut end));
    assert!(took < SHORT, "the receive that says {received:?} has taken {took:?}");
    let ((), took) = timed(|| drop(end));
    assert!(took < SHORT, "dropping the end has taken {took:?}");
}

#[test]
fn no_receive_of_an_end_that_we_make_waits_for_an_attached_socket_that_lingers() {
    if !can_refuse() {
        return;
    }
    rounds::each_seed("peer that attaches sockets that linger", 1, |_| attach_to_every_end());
}

fn attach_to_every_end() {
    // What the peer sends comes with the only descriptor of a socket that lingers, or without it.
    let send = |far: UnattachedEnd, bytes: &[u8]| {
        let far = OwnedFd::from(far);
        let (near, _peer) = lingering();
        if attach(&far, bytes, &[&near]).is_err() {
            (&UnixStream::from(far.try_clone().unwrap())).write_all(bytes).unwrap();
            setsockopt(&near, Linger, &linger { l_onoff: 0, l_linger: 0 }).unwrap();
        }
        (far, _peer)
    };
    let options = Options::new();
    let (rx, far) = event::socket_receiver::<AcpiNotify>(&options).unwrap();
    let _far = send(far, &wire(0));
    receive_and_drop(rx, |rx| rx.try_recv().unwrap());
    let (tx, far) = event::socket::<AcpiNotify>(&options).unwrap();
    let _far = send(far, &[0; AcpiOst::SIZE]);
    receive_and_drop(tx, |tx| tx.try_recv_reply().unwrap());
    // A byte that stands for nothing.
    let (rx, far) = event::shared_receiver::<AcpiNotify>(&options).unwrap();
    let _far = send(far, &[0]);
    receive_and_drop(rx, |rx| rx.try_recv().unwrap_err());
    let (tx, far) = event::shared::<AcpiNotify>(&options).unwrap();
    let _far = send(far, &[0]);
    receive_and_drop(tx, |tx| tx.try_recv_reply().unwrap_err());
    let (reporter, far) = fault::socket(&fault::Options::new()).unwrap();
    let _far = send(far, &[0; 8]);
    receive_and_drop(reporter, |reporter| reporter.completions(&mut [Default::default(); 1]).unwrap_err());
    let (responder, far) = fault::socket_responder(&fault::Options::new()).unwrap();
    let _far = send(far, &[0; 8]);
    receive_and_drop(responder, |responder| {
        responder.try_recv_group(&mut [Default::default(); 8]).unwrap_err()
    });
}

#[test]
fn descriptors_after_the_first_never_come_into_the_table() {
    let Some(slow) = SlowFile::new("surplus", LONG) else { return };
    let (near, far) = UnixStream::pair().unwrap();
    let files = [(); 3].map(|()| slow.open());
    let null = std::fs::File::open("/dev/null").unwrap();
    let surplus: [&dyn AsFd; 4] = [&null, &files[0], &files[1], &files[2]];
    attach(&near, b"many", &surplus).unwrap();
    let (received, took) = timed(|| fd::recv_descriptor(&far, &mut [0; 8]).unwrap());
    assert_eq!((received.0, slow.flushes()), (4, 0), "closed what it never had");
    assert!(took < SHORT, "it has taken {took:?}");
    // Nor when an end is attached.
    let offer = good_offer(Format::ACPI_NOTIFY_V1, false, 4, 4);
    let memory = sealed_memory(offer.map_size);
    let surplus: [&dyn AsFd; 4] = [&memory, &files[0], &files[1], &files[2]];
    attach(&near, offer.as_bytes(), &surplus).unwrap();
    let (_rx, took) = timed(|| Receiver::<AcpiNotify>::from_shared(far.into()).unwrap());
    assert_eq!(slow.flushes(), 0, "closed what it never had");
    assert!(took < SHORT, "it has taken {took:?}");
    drop(files);
}

/// What remains: the side that has not made the socket closes what is attached, in the call that takes it out.
#[test]
fn attaching_and_receiving_a_descriptor_wait_for_what_a_hostile_peer_attaches() {
    let (near, far) = UnixStream::pair().unwrap();
    let (slow, _peer) = lingering();
    let null = std::fs::File::open("/dev/null").unwrap();
    attach(&near, b"two", &[&null, &slow]).unwrap();
    drop(slow);
    let (received, took) = timed(|| fd::recv_descriptor(&far, &mut [0; 8]).unwrap());
    assert!(took > LONG - SHORT && took < LONG + LONG, "{received:?} has taken {took:?}");
    // With data, too, on a socket that the peer has made.
    let (slow, _peer) = lingering();
    attach(&near, &wire(0), &[&slow]).unwrap();
    drop(slow);
    let mut rx = Rx::from_socket(far.into(), Format::ACPI_NOTIFY_V1).unwrap();
    let (received, took) = timed(|| rx.try_recv().unwrap());
    assert!(took > LONG - SHORT && took < LONG + LONG, "{received:?} has taken {took:?}");

    let Some(slow) = SlowFile::new("first", LONG) else { return };
    let (near, far) = UnixStream::pair().unwrap();
    let file = slow.open();
    let offer = good_offer(Format::ACPI_NOTIFY_V1, false, 4, 4);
    attach(&near, offer.as_bytes(), &[&file]).unwrap();
    let (_refused, took) = timed(|| Receiver::<AcpiNotify>::from_shared(far.into()).unwrap_err());
    assert_eq!(slow.flushes(), 1, "what should be memory is closed once");
    assert!(took > LONG - SHORT && took < LONG + LONG, "it has taken {took:?}");
}
