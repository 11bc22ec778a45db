//! Attaching an end of a shared channel: wherever it has been, exactly once, and what comes of it otherwise.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::thread;

use common::*;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, raise};
use recordfd::event::{self, Received, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::uapi::{AcpiNotify, AcpiOst, Format, Smmuv3Event};
use recordfd::{Error, Options, Rejected, TryRecvError, TrySendError, UnattachedEnd, fd};

fn options() -> Options {
    Options::new().depth(16)
}

/// Replies to every record until the sender is gone.
fn reply_to_all(mut rx: Rx) {
    loop {
        match rx.recv() {
            Ok(item) => rx.reply(AcpiOst::new(0, 0, item.record().unwrap().data)).unwrap(),
            Err(TryRecvError::Closed) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Sends, one by one, to whoever replies to all.
fn assert_replies(mut tx: SoleSender<AcpiNotify>) {
    for data in 0..100 {
        tx.try_send(notify(0x80, data)).unwrap();
        assert!(wait_readable(&tx), "no reply");
        assert_eq!(tx.try_recv_reply().unwrap().status, data);
    }
}

#[test]
fn receivers_end_inherited_through_exec_is_a_channel() {
    if in_child() {
        return reply_to_all(Rx::from_shared(fd::take_stdin().unwrap()).unwrap());
    }
    let (tx, end) = event::shared(&options()).unwrap();
    let child = spawn_child("receivers_end_inherited_through_exec_is_a_channel", end.into());
    assert_replies(tx);
    finish(child);
}

#[test]
fn senders_end_inherited_through_exec_is_a_channel() {
    if in_child() {
        return assert_replies(SoleSender::from_shared(fd::take_stdin().unwrap()).unwrap());
    }
    let (rx, end) = event::shared_receiver(&options()).unwrap();
    let child = spawn_child("senders_end_inherited_through_exec_is_a_channel", end.into());
    reply_to_all(rx);
    finish(child);
}

/// Passes `end` on to another process, the test `name`, which is to do so `times` more.
fn pass_on(name: &str, end: UnattachedEnd, times: u8) -> Child {
    let (mut near, far) = UnixStream::pair().unwrap();
    let child = spawn_child(name, far.into());
    end.send_over(&near).unwrap();
    near.write_all(&[times]).unwrap();
    child
}

/// In a child: passes an end on, over a socket or, in the end, through exec to `heir`.
fn passed_on(name: &str, heir: &str) {
    let mut socket = UnixStream::from(fd::take_stdin().unwrap());
    let end = UnattachedEnd::recv_from(&socket).unwrap();
    let mut times = [0];
    socket.read_exact(&mut times).unwrap();
    finish(match times[0] {
        0 => spawn_child(heir, end.into()),
        times => pass_on(name, end, times - 1),
    });
}

#[test]
fn receivers_end_passed_on_through_processes_is_a_channel() {
    let name = "receivers_end_passed_on_through_processes_is_a_channel";
    if in_child() {
        return passed_on(name, "receivers_end_inherited_through_exec_is_a_channel");
    }
    let (tx, end) = event::shared(&options()).unwrap();
    let child = pass_on(name, end, 1);
    assert_replies(tx);
    finish(child);
}

#[test]
fn senders_end_passed_on_through_processes_is_a_channel() {
    let name = "senders_end_passed_on_through_processes_is_a_channel";
    if in_child() {
        return passed_on(name, "senders_end_inherited_through_exec_is_a_channel");
    }
    let (rx, end) = event::shared_receiver(&options()).unwrap();
    let child = pass_on(name, end, 1);
    reply_to_all(rx);
    finish(child);
}

fn assert_already_attached<T>(outcome: Result<T, Rejected<OwnedFd>>) {
    match outcome.map_err(Error::from) {
        Err(error @ Error::AlreadyAttached) => assert_eq!(error.errno(), 16),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("attached twice"),
    }
}

/// Whether `tx` and `rx` are the two ends of one channel, both ways, whose descriptors tell what comes.
fn assert_connected(tx: &mut SoleSender<AcpiNotify>, rx: &mut Rx) {
    tx.try_send(notify(0x80, 7)).unwrap();
    assert!(wait_readable(&*rx), "not woken");
    assert_eq!(rx.try_recv().unwrap().record().unwrap().data, 7);
    rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
    assert!(wait_readable(&*tx), "not woken");
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
}

#[test]
fn end_is_attached_once_whatever_copies_of_it_there_are() {
    let (mut tx, end) = event::shared(&options()).unwrap();
    let end = OwnedFd::from(end);
    let copies = [(); 6].map(|()| end.try_clone().unwrap());
    let [first, second, third, fourth, fifth, sixth] = copies;
    let mut rx = Rx::from_shared(end).unwrap();
    assert_already_attached(Rx::from_shared(first));
    assert_already_attached(SoleSender::<AcpiNotify>::from_shared(second));
    assert_already_attached(FaultResponder::from_shared(third));
    assert_connected(&mut tx, &mut rx);
    // With a wake-up in the socket, which must stay there.
    tx.try_send(notify(0x80, 0)).unwrap();
    assert!(readable(&rx));
    assert_already_attached(Rx::from_shared(fourth));
    assert!(readable(&rx));
    rx.try_recv().unwrap();
    assert_already_attached(Rx::from_shared(fifth));
    assert_connected(&mut tx, &mut rx);
    drop(tx);
    while rx.try_recv().is_ok() {}
    // What is in the socket then tells of the end, which is for ever.
    assert_already_attached(Rx::from_shared(sixth));
    assert!(readable(&rx));
}

#[test]
fn makers_own_end_cannot_be_attached() {
    let (tx, _end) = event::shared::<AcpiNotify>(&options()).unwrap();
    let copy = tx.as_fd().try_clone_to_owned().unwrap();
    assert_already_attached(SoleSender::<AcpiNotify>::from_shared(copy));
}

#[test]
fn one_of_several_threads_attaches_an_end() {
    for _ in 0..300 {
        let (mut tx, end) = event::shared(&options()).unwrap();
        let end = OwnedFd::from(end);
        let start = Barrier::new(3);
        let outcomes = thread::scope(|scope| {
            let attach = |copy: OwnedFd| {
                start.wait();
                Rx::from_shared(copy)
            };
            let threads = [(); 3].map(|()| {
                let copy = end.try_clone().unwrap();
                scope.spawn(move || attach(copy))
            });
            threads.map(|thread| thread.join().unwrap())
        });
        let mut attached = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(rx) => attached.push(rx),
                error => assert_already_attached(error),
            }
        }
        assert_eq!(attached.len(), 1);
        assert_connected(&mut tx, &mut attached[0]);
    }
}

#[test]
fn end_of_the_other_side_is_refused_and_is_still_there() {
    let (tx, end) = event::shared::<AcpiNotify>(&options()).unwrap();
    let end = OwnedFd::from(end);
    let copy = end.try_clone().unwrap();
    let error = Error::from(SoleSender::<AcpiNotify>::from_shared(end).unwrap_err());
    assert!(matches!(error, Error::WrongEnd), "{error:?}");
    assert_eq!(error.errno(), 22);
    // Who keeps a copy can attach it as what it is.
    let rx = Rx::from_shared(copy).unwrap();
    assert!(!tx.is_closed());
    drop(rx);
    assert!(until(|| tx.is_closed()));

    let (rx, end) = event::shared_receiver::<AcpiNotify>(&options()).unwrap();
    assert!(matches!(Error::from(Rx::from_shared(end.into()).unwrap_err()), Error::WrongEnd));
    assert!(wait_readable(&rx), "the maker learns it");

    let (reporter, end) = fault::shared(&fault::Options::new()).unwrap();
    let error = Error::from(FaultReporter::from_shared(end.into(), &fault::Options::new()).unwrap_err());
    assert!(matches!(error, Error::WrongEnd), "{error:?}");
    assert!(until(|| reporter.is_closed()));
}

#[test]
fn end_of_another_format_is_refused_and_is_still_there() {
    let (mut tx, end) = event::shared::<AcpiNotify>(&options()).unwrap();
    let end = OwnedFd::from(end);
    let copy = end.try_clone().unwrap();
    match event::Receiver::<Smmuv3Event>::from_shared(end).map_err(Error::from) {
        Err(error @ Error::Format { expected, found }) => {
            assert_eq!((expected, found), (Format::VIOMMU_ARM_SMMUV3_V1, Format::ACPI_NOTIFY_V1));
            assert_eq!(error.errno(), 22);
        }
        other => panic!("{other:?}"),
    }
    tx.try_send(notify(0x80, 5)).unwrap();
    let mut rx = Rx::from_shared(copy).unwrap();
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(5)));

    let (mut rx, end) = event::shared_receiver::<AcpiNotify>(&options()).unwrap();
    let outcome = FaultReporter::from_shared(end.into(), &fault::Options::new()).map_err(Error::from);
    assert!(matches!(outcome, Err(Error::Format { found: Format::ACPI_NOTIFY_V1, .. })), "{outcome:?}");
    assert!(matches!(rx.recv_timeout(SOON), Err(TryRecvError::Closed)));

    let (_responder, end) = fault::shared_responder(&fault::Options::new()).unwrap();
    let outcome = SoleSender::<AcpiNotify>::from_shared(end.into()).map_err(Error::from);
    assert!(matches!(outcome, Err(Error::Format { found: Format::IOMMU_PGFAULT_V1, .. })), "{outcome:?}");
}

#[test]
fn end_whose_maker_is_gone_still_has_what_was_published() {
    let name = "end_whose_maker_is_gone_still_has_what_was_published";
    if in_child() {
        let (mut tx, end) = event::shared(&options()).unwrap();
        (0..3).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
        (0..18).for_each(|data| tx.post(notify(0x80, 3 + data)).unwrap());
        end.send_over(fd::take_stdin().unwrap()).unwrap();
        raise(Signal::SIGKILL).unwrap();
    }
    let (near, far) = UnixStream::pair().unwrap();
    let mut maker = spawn_child(name, far.into());
    let killed = UnattachedEnd::recv_from(near).unwrap();
    maker.wait().unwrap();

    let (mut tx, dropped) = event::shared(&options()).unwrap();
    (0..3).for_each(|data| tx.try_send(notify(0x80, data)).unwrap());
    (0..18).for_each(|data| tx.post(notify(0x80, 3 + data)).unwrap());
    drop(tx);

    for end in [killed, dropped] {
        let mut rx = Rx::from_shared(end.into()).unwrap();
        (0..16).for_each(|data| assert_eq!(summary(rx.recv().unwrap()), (0, Some(data))));
        assert_eq!(rx.recv().unwrap(), Received::Lost { count: 5 });
        assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
        assert!(matches!(rx.reply(AcpiOst::new(0, 0, 0)), Err(TrySendError::Closed(_))));
        assert!(readable(&rx));
    }

    // A sender's end, whose receiver is gone: there is nobody to send to.
    let (rx, end) = event::shared_receiver::<AcpiNotify>(&options()).unwrap();
    drop(rx);
    let mut tx = SoleSender::from_shared(end.into()).unwrap();
    assert!(tx.is_closed() && readable(&tx));
    assert!(matches!(tx.try_send(notify(0x80, 0)), Err(TrySendError::Closed(_))));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
}

#[test]
fn what_is_no_end_of_a_shared_channel_is_refused_and_leaves_no_descriptor() {
    let name = "what_is_no_end_of_a_shared_channel_is_refused_and_leaves_no_descriptor";
    in_own_process(name, || {
        let before = open_descriptors();
        let attach = |descriptor: OwnedFd| Error::from(Rx::from_shared(descriptor).unwrap_err());
        let error = attach(File::open("/dev/null").unwrap().into());
        assert!(matches!(error, Error::NotAUnixStream(_)), "{error:?}");
        assert_eq!(error.errno(), 88);
        // That of a socket channel is none.
        let (tx, end) = event::socket::<AcpiNotify>(&options()).unwrap();
        assert!(matches!(attach(end.into()), Error::AlreadyAttached));
        drop(tx);
        let (near, far) = UnixStream::pair().unwrap();
        let copy = far.try_clone().unwrap();
        assert!(matches!(attach(copy.into()), Error::AlreadyAttached));
        (&near).write_all(&[0; 63]).unwrap();
        let copy = far.try_clone().unwrap();
        assert!(matches!(attach(copy.into()), Error::AlreadyAttached));
        // What it looked at is still there.
        far.set_nonblocking(true).unwrap();
        assert_eq!((&far).read(&mut [0; 100]).unwrap(), 63);
        (&near).write_all(&[0; 64]).unwrap();
        let copy = far.try_clone().unwrap();
        assert!(matches!(attach(copy.into()), Error::NoDescriptor));
        let null = File::open("/dev/null").unwrap();
        fd::send_descriptor(&near, &[0; 64], null.as_fd()).unwrap();
        let copy = far.try_clone().unwrap();
        assert!(matches!(attach(copy.into()), Error::Offer(_)));
        drop((near, null));
        // What was refused is still in it; behind that it is closed.
        far.set_nonblocking(true).unwrap();
        while (&far).read(&mut [0; 100]).unwrap() > 0 {}
        assert!(matches!(attach(far.into()), Error::Closed));
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn too_many_ends_under_way_are_told() {
    let name = "too_many_ends_under_way_are_told";
    if in_child() {
        // Of a user that may have no more descriptors under way than open. Each end takes two: the socket is on
        // its way itself, and has its memory in it.
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let before = open_descriptors();
        let (mut senders, mut ends) = (Vec::new(), 0);
        let error = loop {
            match event::shared::<AcpiNotify>(&options()) {
                Ok((tx, end)) => {
                    senders.push(tx);
                    match end.send_over(&near) {
                        Ok(()) => ends += 1,
                        Err(rejected) => break rejected.into(),
                    }
                }
                Err(error) => break error,
            }
            assert!(ends < 64, "no end of them");
        };
        assert!(matches!(error, Error::TooManyInFlight), "after {ends}: {error:?}");
        assert_eq!(error.errno(), Errno::ETOOMANYREFS as i32);
        let failed = senders.len() - ends;
        assert_eq!(open_descriptors(), before + senders.len());
        // Those that are no more under way make room.
        drop((senders, near, far));
        assert!(failed <= 1 && until(|| event::shared::<AcpiNotify>(&options()).is_ok()));
        return;
    }
    let null = File::open("/dev/null").unwrap();
    // By its magic link, for the path may be closed to others.
    let mut command: Command = child_command("/proc/self/exe", name, null.into());
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65_534).gid(65_534);
    }
    match command.spawn() {
        Ok(child) => finish(child),
        Err(error) => eprintln!("skipped: this user cannot be left ({error})"),
    }
}
