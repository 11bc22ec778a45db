//! Descriptors on their way: whole, counted, close-on-exec, and none left behind.

mod common;

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::*;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use recordfd::event::{self, Receiver, Sender, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::uapi::{AcpiNotify, AcpiOst, ChannelInfo, Format, RecordError, Transport};
use recordfd::{Error, Options, UnattachedEnd, fd};

/// Puts `numbers` on one message.
fn send_many(socket: &UnixStream, bytes: &[u8], numbers: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(numbers)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None).unwrap();
}

fn is_close_on_exec(descriptor: BorrowedFd<'_>) -> bool {
    let flags = fcntl(descriptor, FcntlArg::F_GETFD).unwrap();
    FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
}

/// Whether `tx` and `rx` are the two ends of one channel, both ways.
fn assert_connected(tx: &Tx, rx: &mut Rx) {
    tx.try_send(notify(0x80, 7)).unwrap();
    assert_eq!(summary(rx.recv().unwrap()), (0, Some(7)));
    rx.reply(AcpiOst::new(1, 2, 3)).unwrap();
    assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(1, 2, 3));
}

#[test]
fn descriptor_and_bytes_arrive_as_sent() {
    let (near, far) = UnixStream::pair().unwrap();
    let (mut left, right) = UnixStream::pair().unwrap();
    fd::send_descriptor(&near, b"right", right.as_fd()).unwrap();
    drop(right);
    let mut bytes = [0; 64];
    let (length, descriptor) = fd::recv_descriptor(&far, &mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"right");
    assert!(is_close_on_exec(descriptor.as_fd()));
    left.write_all(b"here").unwrap();
    let mut read = [0; 4];
    UnixStream::from(descriptor).read_exact(&mut read).unwrap();
    assert_eq!(&read, b"here");
}

#[test]
fn end_passed_through_several_sockets_is_a_channel() {
    let pass = |mut end: UnattachedEnd, times| {
        let info = end.info();
        for _ in 0..times {
            let (near, far) = UnixStream::pair().unwrap();
            end.send_over(&near).unwrap();
            end = UnattachedEnd::recv_from(&far).unwrap();
            assert_eq!(end.info(), info);
            assert!(is_close_on_exec(end.as_fd()));
        }
        end
    };
    for times in [1, 5] {
        let (tx, end) = event::socket::<AcpiNotify>(&Options::new().depth(16)).unwrap();
        tx.try_send(notify(0x80, 6)).unwrap();
        let end = pass(end, times);
        assert_eq!(end.info(), ChannelInfo::new(Format::ACPI_NOTIFY_V1, Transport::SOCKET, 16));
        let mut rx = Receiver::from_socket(end.into(), Format::ACPI_NOTIFY_V1).unwrap();
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(6)), "sent before the end was passed on");
        assert_connected(&tx, &mut rx);

        let (mut rx, end) = event::socket_receiver::<AcpiNotify>(&Options::new().depth(16)).unwrap();
        let end = pass(end, times);
        let info = end.info();
        let tx = Sender::from_socket(end.into(), info.format, info.depth).unwrap();
        assert_connected(&tx, &mut rx);
    }
}

#[test]
fn end_is_gone_for_the_one_who_sent_it() {
    let (tx, end) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    end.send_over(&near).unwrap();
    assert!(!tx.is_closed());
    drop(UnattachedEnd::recv_from(&far).unwrap());
    assert!(until(|| tx.is_closed()));
}

#[test]
fn every_descriptor_is_close_on_exec() {
    for make in every_make::<AcpiNotify>() {
        let (tx, rx) = make(&Options::new());
        assert!(is_close_on_exec(tx.as_fd()) && is_close_on_exec(rx.as_fd()));
    }
    let (tx, end) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
    assert!(is_close_on_exec(tx.as_fd()) && is_close_on_exec(end.as_fd()));
    let (rx, end) = event::socket_receiver::<AcpiNotify>(&Options::new()).unwrap();
    assert!(is_close_on_exec(rx.as_fd()) && is_close_on_exec(end.as_fd()));

    // One that comes without the flag gets it when it is attached.
    for which in 0..2 {
        let (near, _far) = UnixStream::pair().unwrap();
        fcntl(&near, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        assert!(!is_close_on_exec(near.as_fd()));
        let other = near.as_raw_fd();
        let attached: Box<dyn AsFd> = match which {
            0 => Box::new(Rx::from_socket(near.into(), Format::ACPI_NOTIFY_V1).unwrap()),
            _ => Box::new(Tx::from_socket(near.into(), Format::ACPI_NOTIFY_V1, 64).unwrap()),
        };
        assert_eq!(attached.as_fd().as_raw_fd(), other);
        assert!(is_close_on_exec(attached.as_fd()));
    }
}

/// How many descriptors this process has open, and how many of those are not close-on-exec.
fn open_and_inheritable() -> (usize, usize) {
    let entries: Vec<_> =
        fs::read_dir("/proc/self/fdinfo").unwrap().map(|entry| entry.unwrap().path()).collect();
    // The one that the list was read by is closed.
    let infos: Vec<_> = entries.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let flags = infos.iter().filter_map(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        i32::from_str_radix(line.trim(), 8).ok()
    });
    (infos.len(), flags.filter(|flags| flags & OFlag::O_CLOEXEC.bits() == 0).count())
}

/// A shared channel is a socket at each end; its memory needs no descriptor once both are attached.
#[test]
fn shared_ends_hold_one_descriptor_each_all_close_on_exec() {
    in_own_process("shared_ends_hold_one_descriptor_each_all_close_on_exec", || {
        let (before, inheritable) = open_and_inheritable();
        let holds = |count: usize| assert_eq!(open_and_inheritable(), (before + count, inheritable));
        let (mut tx, end) = event::shared::<AcpiNotify>(&Options::new()).unwrap();
        holds(2);
        let mut rx = Rx::from_shared(end.into()).unwrap();
        holds(2);
        // Whatever they do.
        tx.use_asymmetric_fence().unwrap();
        rx.use_asymmetric_fence().unwrap();
        rx.set_busy_poll(Duration::from_micros(50));
        tx.try_send(notify(0x80, 0)).unwrap();
        rx.recv().unwrap();
        tx.wait_drained(None).unwrap();
        let tx = tx.into_shared();
        assert_connected(&tx, &mut rx);
        holds(2);
        drop(tx);
        holds(1);
        drop(rx);
        holds(0);
        let (rx, end) = event::shared_receiver::<AcpiNotify>(&Options::new()).unwrap();
        holds(2);
        let end = OwnedFd::from(end);
        fcntl(&end, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        assert_eq!(open_and_inheritable(), (before + 2, inheritable + 1));
        let tx = SoleSender::<AcpiNotify>::from_shared(end).unwrap();
        holds(2);
        drop((tx, rx));

        let options = fault::Options::new();
        let (reporter, end) = fault::shared(&options).unwrap();
        let mut responder = FaultResponder::from_shared(end.into()).unwrap();
        holds(2);
        common::fault::publish(&reporter, common::fault::page(1, 0));
        let (group, _) = common::fault::receive(&mut responder);
        drop(responder);
        holds(2);
        drop(group);
        holds(1);
        drop(reporter);
        holds(0);
        let (responder, end) = fault::shared_responder(&options).unwrap();
        drop((FaultReporter::from_shared(end.into(), &options).unwrap(), responder));
        holds(0);
    });
}

#[test]
fn of_several_descriptors_the_first_is_kept_and_the_rest_closed() {
    in_own_process("of_several_descriptors_the_first_is_kept_and_the_rest_closed", || {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut left, right) = UnixStream::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        for count in [2, 3, 100, 253] {
            let mut numbers = vec![null.as_raw_fd(); count];
            numbers[0] = right.as_raw_fd();
            send_many(&near, b"many", &numbers);
            let mut bytes = [0; 8];
            let (length, first) = fd::recv_descriptor(&far, &mut bytes).unwrap();
            assert_eq!((length, open_descriptors()), (4, before + 1), "{count} descriptors");
            assert!(is_close_on_exec(first.as_fd()));
            left.write_all(b"!").unwrap();
            UnixStream::from(first).read_exact(&mut bytes[..1]).unwrap();
            assert_eq!(open_descriptors(), before);
        }
    });
}

#[test]
fn message_without_a_descriptor_and_the_end_are_told_apart() {
    let (near, far) = UnixStream::pair().unwrap();
    (&near).write_all(b"alone").unwrap();
    let error = fd::recv_descriptor(&far, &mut [0; 8]).unwrap_err();
    assert!(matches!(error, Error::NoDescriptor));
    assert_eq!((error.errno(), error.to_string().as_str()), (61, "the message carries no descriptor"));
    drop(near);
    let error = fd::recv_descriptor(&far, &mut [0; 8]).unwrap_err();
    assert!(matches!(error, Error::Closed));
    assert_eq!((error.errno(), error.to_string().as_str()), (32, "the other side has hung up"));
    let null = File::open("/dev/null").unwrap();
    assert!(matches!(fd::send_descriptor(&far, b"x", null.as_fd()), Err(Error::Closed)));
}

#[test]
fn descriptor_without_a_byte_cannot_travel() {
    let (near, far) = UnixStream::pair().unwrap();
    let null = File::open("/dev/null").unwrap();
    let error = fd::send_descriptor(&near, b"", null.as_fd()).unwrap_err();
    assert!(matches!(error, Error::Option { name: "bytes", .. }));
    // Nor into no room at all, which would look like the end of the stream.
    fd::send_descriptor(&near, b"x", null.as_fd()).unwrap();
    let error = fd::recv_descriptor(&far, &mut []).unwrap_err();
    assert!(matches!(error, Error::Option { name: "bytes", .. }), "{error:?}");
    assert!(fd::recv_descriptor(&far, &mut [0]).is_ok());
}

#[test]
fn full_table_is_told_and_leaks_nothing() {
    in_own_process("full_table_is_told_and_leaks_nothing", || {
        let (near, far) = UnixStream::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // The numbers that the next descriptors get.
        let probes: Vec<_> = (0..16).map(|_| null.try_clone().unwrap()).collect();
        let next: Vec<_> = probes.iter().map(AsRawFd::as_raw_fd).collect();
        drop(probes);
        let with_room = |room: usize, work: &mut dyn FnMut()| {
            setrlimit(Resource::RLIMIT_NOFILE, next[room] as u64, hard).unwrap();
            work();
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        };
        let before = open_descriptors();
        for (room, sent) in [(0, 1), (0, 10)] {
            send_many(&near, b"many", &vec![null.as_raw_fd(); sent]);
            let mut outcome = None;
            with_room(room, &mut || outcome = Some(fd::recv_descriptor(&far, &mut [0; 8])));
            let error = outcome.unwrap().unwrap_err();
            assert!(matches!(error, Error::DescriptorsCutOff), "{error:?}");
            let text = "the descriptor was cut off the message";
            assert_eq!((error.errno(), error.to_string().as_str()), (24, text));
            assert_eq!(open_descriptors(), before, "{sent} into room for {room}");
        }
        // Room for one is enough, whatever comes with it.
        send_many(&near, b"many", &[null.as_raw_fd(); 10]);
        with_room(1, &mut || drop(fd::recv_descriptor(&far, &mut [0; 8]).unwrap()));
        assert_eq!(open_descriptors(), before);
        // And making a channel then fails with the errno of the call. It takes two descriptors.
        let options = Options::new();
        for room in [0, 1] {
            let mut errors = Vec::new();
            with_room(room, &mut || {
                errors = vec![
                    #[cfg(feature = "local")]
                    event::channel::<AcpiNotify>(&options).err(),
                    event::socket::<AcpiNotify>(&options).err(),
                    event::socket_receiver::<AcpiNotify>(&options).err(),
                ];
            });
            errors.into_iter().for_each(|error| assert_eq!(error.unwrap().errno(), 24));
            assert_eq!(open_descriptors(), before);
        }
        with_room(2, &mut || drop(event::socket::<AcpiNotify>(&options).unwrap()));
        // One in shared memory takes a third one meanwhile, and attaching it one.
        for room in [0, 1, 2] {
            let mut errors = Vec::new();
            with_room(room, &mut || {
                errors.extend(event::shared::<AcpiNotify>(&options).err());
                errors.extend(event::shared_receiver::<AcpiNotify>(&options).err());
                errors.extend(fault::shared(&fault::Options::new()).err());
                errors.extend(fault::shared_responder(&fault::Options::new()).err());
            });
            assert_eq!(errors.iter().map(Error::errno).collect::<Vec<_>>(), [24; 4]);
            assert_eq!(open_descriptors(), before);
        }
        with_room(3, &mut || drop(event::shared::<AcpiNotify>(&options).unwrap()));
        let (tx, end) = event::shared::<AcpiNotify>(&options).unwrap();
        let mut end = Some(end);
        with_room(0, &mut || {
            let error = Rx::from_shared(end.take().unwrap().into()).unwrap_err();
            assert!(matches!(error.error(), Error::DescriptorsCutOff), "{error:?}");
        });
        assert_eq!(open_descriptors(), before + 1);
        drop(tx);
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn bytes_that_describe_no_channel_are_refused_and_the_descriptor_closed() {
    in_own_process("bytes_that_describe_no_channel_are_refused_and_the_descriptor_closed", || {
        let (near, far) = UnixStream::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        let short = RecordError::Length { expected: 16, found: 15 };
        let reserved = RecordError::Reserved { field: "reserved" };
        for (bytes, reason) in [(&[0; 15][..], short), (&[1; 16][..], reserved)] {
            fd::send_descriptor(&near, bytes, null.as_fd()).unwrap();
            let error = UnattachedEnd::recv_from(&far).unwrap_err();
            assert!(matches!(error, Error::Description(found) if found == reason), "{error:?}");
            let text = "the message does not describe a channel";
            assert_eq!((error.errno(), error.to_string().as_str()), (22, text));
        }
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn dropped_channels_leave_no_descriptor_behind() {
    in_own_process("dropped_channels_leave_no_descriptor_behind", || {
        let before = open_descriptors();
        for make in every_make() {
            let (tx, mut rx) = make(&Options::new());
            assert_connected(&tx, &mut rx);
            assert!(open_descriptors() > before);
            let clone = tx.clone();
            drop((tx, rx));
            drop(clone);
            assert_eq!(open_descriptors(), before);
        }
        let (tx, end) = event::socket::<AcpiNotify>(&Options::new()).unwrap();
        drop((tx, OwnedFd::from(end)));
        assert_eq!(open_descriptors(), before);
        // With its memory on its way in it.
        let (tx, end) = event::shared::<AcpiNotify>(&Options::new()).unwrap();
        drop((tx, OwnedFd::from(end)));
        assert_eq!(open_descriptors(), before);
    });
}
