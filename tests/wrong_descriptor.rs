//! What is not a channel, or cannot be one, is refused with a typed error that says why in one line.

mod common;

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use common::*;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, setsockopt, socket, socketpair};
use recordfd::event::{self, Receiver, Sender, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::request::{self, Reporter, Responder};
use recordfd::uapi::{AcpiNotify, Format, PciError};
use recordfd::{Error, Options, Overflow, TryRecvError, TrySendError, fd};

const EINVAL: i32 = 22;
const ENOTSOCK: i32 = 88;
const EPROTOTYPE: i32 = 91;
const ENOTCONN: i32 = 107;
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

/// What attaching `descriptor` in every way says.
fn attach(descriptor: impl Into<OwnedFd>) -> [Error; 10] {
    let descriptor = descriptor.into();
    let copy = || descriptor.try_clone().unwrap();
    let (notify, fault, pci) = (Format::ACPI_NOTIFY_V1, Format::IOMMU_PGFAULT_V1, Format::PCI_ERROR_V1);
    let (faults, requests) = (fault::Options::new(), request::Options::new());
    [
        Receiver::<AcpiNotify>::from_socket(copy(), notify).unwrap_err().into(),
        Sender::<AcpiNotify>::from_socket(copy(), notify, 64).unwrap_err().into(),
        Receiver::<AcpiNotify>::from_shared(copy()).unwrap_err().into(),
        SoleSender::<AcpiNotify>::from_shared(copy()).unwrap_err().into(),
        FaultReporter::from_socket(copy(), fault, &faults).unwrap_err().into(),
        FaultResponder::from_socket(copy(), fault, 64).unwrap_err().into(),
        FaultReporter::from_shared(copy(), &faults).unwrap_err().into(),
        FaultResponder::from_shared(copy()).unwrap_err().into(),
        Reporter::<PciError>::from_socket(copy(), pci, &requests).unwrap_err().into(),
        Responder::<PciError>::from_socket(copy(), pci, 64).unwrap_err().into(),
    ]
}

/// A new socket that is connected to nobody; None, and a line that says so, where there is no such socket.
fn unconnected(family: AddressFamily, kind: SockType) -> Option<OwnedFd> {
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
    made.inspect_err(|errno| eprintln!("skipped: {kind:?} of {family:?}: {errno}")).ok()
}

/// Two UDP sockets that are connected to each other.
fn udp(address: &str) -> Option<(OwnedFd, OwnedFd)> {
    let made = UdpSocket::bind((address, 0)).and_then(|near| Ok((near, UdpSocket::bind((address, 0))?)));
    let (near, far) = made.inspect_err(|error| eprintln!("skipped: UDP at {address}: {error}")).ok()?;
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    Some((near.into(), far.into()))
}

/// Two TCP sockets that are connected to each other.
fn tcp() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near.into(), listener.accept().unwrap().0.into())
}

#[test]
fn only_connected_unix_streams_are_channels_and_nothing_is_sent_to_find_out() {
    let path = std::env::temp_dir().join(format!("recordfd-wrong-{}", std::process::id()));
    let listening = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (reading, writing) = nix::unistd::pipe().unwrap();
    let pair = |kind| socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let connected = [
        Some(tcp()),
        udp("127.0.0.1"),
        udp("::1"),
        Some(pair(SockType::Datagram)),
        Some(pair(SockType::SeqPacket)),
    ];
    let alone = [
        (ENOTSOCK, Some(File::open(std::env::current_exe().unwrap()).unwrap().into())),
        (ENOTSOCK, Some(File::open("/dev/null").unwrap().into())),
        (ENOTSOCK, Some(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap().into())),
        (ENOTSOCK, Some(reading)),
        (ENOTSOCK, Some(writing)),
        (ENOTCONN, Some(listening.into())),
        (ENOTCONN, unconnected(AddressFamily::Unix, SockType::Stream)),
        (EPROTOTYPE, Some(TcpListener::bind(("127.0.0.1", 0)).unwrap().into())),
        (EPROTOTYPE, unconnected(AddressFamily::Inet, SockType::Stream)),
        (EPROTOTYPE, unconnected(AddressFamily::Inet6, SockType::Datagram)),
        (EPROTOTYPE, unconnected(AddressFamily::Unix, SockType::Datagram)),
        (EPROTOTYPE, unconnected(AddressFamily::Unix, SockType::SeqPacket)),
        (EPROTOTYPE, unconnected(AddressFamily::Netlink, SockType::Raw)),
        (EPROTOTYPE, unconnected(AddressFamily::Packet, SockType::Raw)),
        (EPROTOTYPE, unconnected(AddressFamily::Packet, SockType::Datagram)),
        (EPROTOTYPE, unconnected(AddressFamily::Vsock, SockType::Stream)),
        (EPROTOTYPE, unconnected(AddressFamily::Vsock, SockType::Datagram)),
    ];
    let refuse = |errno: i32, descriptor: OwnedFd| {
        let description = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap();
        let began = Instant::now();
        for (which, error) in attach(descriptor).into_iter().enumerate() {
            assert!(matches!(error, Error::NotAUnixStream(_)), "{which} of {description:?}: {error:?}");
            assert_says(&error, errno, "the descriptor is not a connected Unix stream socket");
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{description:?} made it wait");
    };
    for (errno, descriptor) in alone {
        if let Some(descriptor) = descriptor {
            refuse(errno, descriptor);
        }
    }
    for (near, far) in connected.into_iter().flatten() {
        // Also while no byte more can be sent.
        for is_full in [false, true] {
            if is_full {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                for socket in [&near, &far] {
                    // One of UDP is never full.
                    (0..2000).find(|_| send(socket.as_raw_fd(), &[0; 4096], flags).is_err());
                }
            }
            refuse(EPROTOTYPE, near.try_clone().unwrap());
            assert!(is_full || !readable(&far), "something was sent");
        }
    }
}

#[test]
fn end_of_a_shared_channel_is_refused_as_a_socket_and_can_still_be_attached() {
    let (mut tx, end) = event::shared::<AcpiNotify>(&Options::new()).unwrap();
    tx.try_send(notify(0x80, 7)).unwrap();
    let end = OwnedFd::from(end);
    let (_rx, other_end) = event::shared_receiver::<AcpiNotify>(&Options::new()).unwrap();
    let (_reporter, fault_end) = fault::shared(&fault::Options::new()).unwrap();
    let fault_end = OwnedFd::from(fault_end);
    let copy = |end: &OwnedFd| end.try_clone().unwrap();
    let (format, faults) = (Format::ACPI_NOTIFY_V1, Format::IOMMU_PGFAULT_V2);
    let errors: [Error; 6] = [
        Rx::from_socket(copy(&end), format).unwrap_err().into(),
        Tx::from_socket(other_end.into(), format, 64).unwrap_err().into(),
        FaultReporter::from_socket(copy(&fault_end), faults, &fault::Options::new()).unwrap_err().into(),
        FaultResponder::from_socket(copy(&fault_end), faults, 64).unwrap_err().into(),
        Reporter::<PciError>::from_socket(copy(&end), Format::PCI_ERROR_V1, &request::Options::new())
            .unwrap_err()
            .into(),
        Responder::<PciError>::from_socket(copy(&end), Format::PCI_ERROR_V1, 64).unwrap_err().into(),
    ];
    for error in errors {
        assert!(matches!(error, Error::SharedEnd), "{error:?}");
        assert_says(&error, EINVAL, "the end is of a shared channel, not of a socket");
    }
    let mut rx = Rx::from_shared(end).unwrap();
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(7)));
    FaultResponder::from_shared(fault_end).unwrap();
}

#[test]
fn socket_that_passes_credentials_is_no_shared_end() {
    let (near, far) = UnixStream::pair().unwrap();
    setsockopt(&far, PassCred, &true).unwrap();
    // The kernel then says of each message that credentials were cut off.
    std::io::Write::write_all(&mut &near, &wire(0)).unwrap();
    let mut rx = Rx::from_socket(far.into(), Format::ACPI_NOTIFY_V1).unwrap();
    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(0)));
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
        assert!(matches!(again.unwrap_err().error(), Error::NotAUnixStream(_)));
        drop(taken);
        assert_eq!(std::io::Read::read(&mut &near, &mut [0; 8]).unwrap(), 0, "hung up");
    });
}
