//! What is not a channel, or cannot be one, is refused with a typed error that says why in one line.

mod common;

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use common::*;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socket, socketpair};
use recordfd::event::{self, Receiver, Sender};
use recordfd::uapi::{AcpiNotify, Format};
use recordfd::{Error, Options, Overflow, TryRecvError, TrySendError, Violation, fd};

const EPROTO: i32 = 71;
const EINVAL: i32 = 22;
const ENOTSOCK: i32 = 88;
const EOPNOTSUPP: i32 = 95;

/// Fails unless the error has this errno and this text, and its sources are one line each.
fn assert_says(error: &Error, errno: i32, text: &str) {
    assert_eq!(error.errno(), errno, "{error:?}");
    assert_eq!(error.to_string(), text);
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let line = error.to_string();
        assert!(!line.is_empty() && !line.contains('\n') && line.len() < 100, "{line}");
        next = error.source();
    }
}

/// What attaching `descriptor` as either end says.
fn attach(descriptor: impl Into<OwnedFd>) -> [Error; 2] {
    let descriptor = descriptor.into();
    let other = descriptor.try_clone().unwrap();
    [
        Receiver::<AcpiNotify>::from_socket(descriptor, Format::ACPI_NOTIFY_V1).unwrap_err().into(),
        Sender::<AcpiNotify>::from_socket(other, Format::ACPI_NOTIFY_V1, 64).unwrap_err().into(),
    ]
}

#[test]
fn what_is_no_socket_is_refused() {
    let (read, write) = nix::unistd::pipe().unwrap();
    let descriptors: [OwnedFd; 5] = [
        File::open(std::env::current_exe().unwrap()).unwrap().into(),
        File::open("/dev/null").unwrap().into(),
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap().into(),
        read,
        write,
    ];
    for error in descriptors.into_iter().flat_map(attach) {
        assert!(matches!(error, Error::NotASocket(_)), "{error:?}");
        assert_says(&error, ENOTSOCK, "the descriptor is not a socket");
    }
}

#[test]
fn refused_descriptor_is_closed() {
    in_own_process("refused_descriptor_is_closed", || {
        let before = open_descriptors();
        attach(File::open("/dev/null").unwrap());
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn socket_that_is_connected_to_nobody_is_refused() {
    let path = std::env::temp_dir().join(format!("recordfd-wrong-{}", std::process::id()));
    let listening = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let unconnected = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    for error in attach(listening).into_iter().chain(attach(unconnected)) {
        assert!(matches!(error, Error::Os { call: "recvmsg", .. }), "{error:?}");
        assert_says(&error, EINVAL, "recvmsg failed");
    }
    let error = attach(TcpListener::bind(("127.0.0.1", 0)).unwrap());
    assert!(error.iter().all(|error| matches!(error, Error::Os { .. })), "{error:?}");
}

#[test]
fn format_other_than_that_of_the_type_is_refused() {
    let cases = [
        (Format::VIOMMU_ARM_SMMUV3_V1, "the channel carries VIOMMU_ARM_SMMUV3 v1, not ACPI_NOTIFY v1"),
        (Format::new(4, 2), "the channel carries unknown format 0x00040002, not ACPI_NOTIFY v1"),
        (Format::new(0, 0), "the channel carries unknown format 0x00000000, not ACPI_NOTIFY v1"),
    ];
    for (format, text) in cases {
        let (near, far) = UnixStream::pair().unwrap();
        let errors: [Error; 2] = [
            Receiver::<AcpiNotify>::from_socket(near.into(), format).unwrap_err().into(),
            Sender::<AcpiNotify>::from_socket(far.into(), format, 64).unwrap_err().into(),
        ];
        for error in errors {
            assert!(
                matches!(error, Error::Format { expected: Format::ACPI_NOTIFY_V1, found } if found == format)
            );
            assert_says(&error, EINVAL, text);
        }
    }
}

#[test]
fn dropping_the_oldest_is_refused_between_processes() {
    let options = Options::new().overflow(Overflow::DropOldest);
    let errors = [
        event::socket::<AcpiNotify>(&options).unwrap_err(),
        event::socket_receiver::<AcpiNotify>(&options).unwrap_err(),
        event::shared::<AcpiNotify>(&options).unwrap_err(),
        event::shared_receiver::<AcpiNotify>(&options).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Unsupported { .. }));
        let text = "the transport cannot do it: what another process may be reading cannot be taken back to drop the oldest";
        assert_eq!((error.errno(), error.to_string().as_str()), (EOPNOTSUPP, text));
    }
}

#[test]
fn depth_out_of_range_is_refused_everywhere() {
    let cases = [
        ("depth", Options::new().depth(0), 0),
        ("depth", Options::new().depth((1 << 20) + 1), (1 << 20) + 1),
        ("depth", Options::new().depth(u32::MAX), u32::MAX),
        ("reply_depth", Options::new().reply_depth(0), 0),
        ("reply_depth", Options::new().reply_depth((1 << 20) + 1), (1 << 20) + 1),
    ];
    for (name, options, value) in cases {
        let errors = [
            #[cfg(feature = "local")]
            event::channel::<AcpiNotify>(&options).unwrap_err(),
            event::socket::<AcpiNotify>(&options).unwrap_err(),
            event::socket_receiver::<AcpiNotify>(&options).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Option { name: found, .. } if found == name));
            let text = format!("option {name} cannot be {value}: it must be from 1 to 1048576");
            assert_says(&error, EINVAL, &text);
        }
    }
}

#[test]
fn smallest_and_largest_depth_make_a_channel() {
    for depth in [1, 1 << 20] {
        let (tx, mut rx) = common::socket(&Options::new().depth(depth).reply_depth(depth));
        assert!((2..=1 << 20).contains(&tx.capacity()), "{}", tx.capacity());
        tx.try_send(notify(0x80, 7)).unwrap();
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)));
    }
    #[cfg(feature = "local")]
    {
        let (tx, mut rx) = common::local(&Options::new().depth(1).reply_depth(1));
        tx.try_send(notify(0x80, 7)).unwrap();
        assert!(matches!(tx.try_send(notify(0x80, 8)), Err(TrySendError::Full(_))));
        assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)));
    }
}

#[test]
fn end_whose_peer_is_gone_already_attaches_and_says_closed() {
    // With what the peer wrote before it went, with unread data of ours in its hands, and with nothing.
    for (written, unread) in [(false, false), (true, false), (false, true), (true, true)] {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = &near;
        if written {
            std::io::Write::write_all(&mut far, &wire(0)).unwrap();
        }
        if unread {
            std::io::Write::write_all(&mut stream, b"unread").unwrap();
        }
        drop(far);
        let mut rx = Receiver::<AcpiNotify>::from_socket(near.into(), Format::ACPI_NOTIFY_V1).unwrap();
        if written {
            assert_eq!(summary(rx.recv().unwrap()), (0, Some(0)));
        }
        assert!(matches!(rx.recv(), Err(TryRecvError::Closed)));
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
    }
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let tx = Sender::<AcpiNotify>::from_socket(near.into(), Format::ACPI_NOTIFY_V1, 64).unwrap();
    assert!(until(|| tx.is_closed()));
    assert!(matches!(tx.try_send(notify(0x80, 0)), Err(TrySendError::Closed(_))));
    assert!(matches!(tx.try_recv_reply(), Err(TryRecvError::Closed)));
}

#[test]
fn standard_input_is_taken_once_and_closed_with_the_end() {
    in_own_process("standard_input_is_taken_once_and_closed_with_the_end", || {
        let (near, far) = UnixStream::pair().unwrap();
        nix::unistd::dup2_stdin(far).unwrap();
        let taken = fd::take_stdin().unwrap();
        let again = Rx::from_socket(fd::take_stdin().unwrap(), Format::ACPI_NOTIFY_V1);
        assert!(matches!(again.unwrap_err().error(), Error::NotASocket(_)));
        drop(taken);
        assert_eq!(std::io::Read::read(&mut &near, &mut [0; 8]).unwrap(), 0, "hung up");
    });
}

#[test]
fn message_socket_is_found_out_before_records_are_lost() {
    for kind in [SockType::SeqPacket, SockType::Datagram] {
        let (near, far) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let mut rx = Rx::from_socket(far, Format::ACPI_NOTIFY_V1).unwrap();
        let message: Vec<u8> = (0..4).flat_map(wire).collect();
        let sent = nix::sys::socket::send(near.as_raw_fd(), &message, MsgFlags::empty());
        assert_eq!(sent.unwrap(), message.len());
        match rx.try_recv() {
            Err(error @ TryRecvError::PeerViolation(Violation::NotAStream)) => {
                assert_eq!(error.errno(), EPROTO);
            }
            other => panic!("{other:?}"),
        }
    }
}
