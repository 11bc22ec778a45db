//! What a call refuses it gives back as it was: it can be attached as what it is, and its peer sees no hang-up.

mod common;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::ends::{self, KINDS, assert_connected};
use common::readable;
use nix::sys::socket::{MsgFlags, send};
use recordfd::event::{Receiver, Sender, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder, FaultRouter};
use recordfd::request::{self, Reporter, Responder};
use recordfd::uapi::{AcpiNotify, ChannelInfo, DeviceRequest, Format, PciError, Smmuv3Event, Transport};
use recordfd::{Error, Rejected, UnattachedEnd};

type Attach = fn(OwnedFd) -> Result<(), Rejected<OwnedFd>>;

/// Calls that refuse every descriptor of [`KINDS`], whatever its transport.
const WRONG_FORMATS_AND_OPTIONS: [(&str, Attach); 12] = {
    const ACPI: Format = Format::ACPI_NOTIFY_V1;
    const FAULTS: Format = Format::IOMMU_PGFAULT_V2;
    const REQUESTS: Format = Format::DEVICE_REQUEST_V1;
    [
        ("Sender", |fd| Sender::<Smmuv3Event>::from_socket(fd, ACPI, 8).map(drop)),
        ("Receiver", |fd| Receiver::<Smmuv3Event>::from_socket(fd, ACPI).map(drop)),
        ("SoleSender", |fd| SoleSender::<Smmuv3Event>::from_shared(fd).map(drop)),
        ("shared Receiver", |fd| Receiver::<Smmuv3Event>::from_shared(fd).map(drop)),
        ("FaultReporter", |fd| FaultReporter::from_socket(fd, ACPI, &fault::Options::new()).map(drop)),
        ("FaultReporter, deadline", |fd| {
            FaultReporter::from_socket(fd, FAULTS, &fault::Options::new().deadline(Duration::ZERO)).map(drop)
        }),
        ("shared FaultReporter, deadline", |fd| {
            FaultReporter::from_shared(fd, &fault::Options::new().deadline(Duration::ZERO)).map(drop)
        }),
        ("FaultResponder, depth", |fd| FaultResponder::from_socket(fd, FAULTS, 0).map(drop)),
        ("Reporter", |fd| {
            Reporter::<PciError>::from_socket(fd, REQUESTS, &request::Options::new()).map(drop)
        }),
        ("shared Reporter, depth", |fd| {
            Reporter::<DeviceRequest>::from_shared(fd, &request::Options::new().depth(0)).map(drop)
        }),
        ("shared Responder", |fd| Responder::<PciError>::from_shared(fd).map(drop)),
        ("Responder, depth", |fd| Responder::<DeviceRequest>::from_socket(fd, REQUESTS, u32::MAX).map(drop)),
    ]
};

/// A stream socket that takes not one more byte.
fn full() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    while send(near.as_raw_fd(), &[0; 4096], MsgFlags::MSG_DONTWAIT).is_ok() {}
    while send(near.as_raw_fd(), &[0], MsgFlags::MSG_DONTWAIT).is_ok() {}
    near.set_nonblocking(true).unwrap();
    (near, far)
}

#[test]
fn end_that_is_refused_is_given_back_as_it_was() {
    let (full, _unread) = full();
    let (hung_up, _) = UnixStream::pair().unwrap();
    for kind in KINDS {
        let (mut mine, end) = (kind.make)();
        let info = end.info();
        // The description too is given back.
        let is_same = |given_back: &UnattachedEnd| assert_eq!(given_back.info(), info);
        let (end, error) = end.send_over(&full).unwrap_err().into_parts();
        assert_eq!(error.errno(), libc::EAGAIN, "{}", kind.name);
        is_same(&end);
        let (mut end, error) = end.send_over(&hung_up).unwrap_err().into_parts();
        assert!(matches!(error, Error::Closed), "{}: {error:?}", kind.name);
        // As any other kind, on whatever transport. Which side is to attach a socket nobody can tell.
        let shared = info.transport == Transport::SHARED;
        let others = KINDS.iter().filter(|other| {
            let (mine, its) = (kind.name.split(", ").next(), other.name.split(", ").next());
            mine != its && (shared || (other.make)().1.info().format != info.format)
        });
        for other in others {
            let refused = (other.attach)(end).expect_err(other.name);
            let what = format!("{} as {}: {refused:?}", kind.name, other.name);
            assert!(matches!(refused.error(), Error::WrongEnd | Error::Format { .. }), "{what}");
            end = refused.into_inner();
            is_same(&end);
            assert!(!readable(&mine), "{what}: the peer learns of it");
        }
        let mut fd = OwnedFd::from(end);
        let number = fd.as_raw_fd();
        for (name, attach) in WRONG_FORMATS_AND_OPTIONS {
            let (given_back, error) = attach(fd).expect_err(name).into_parts();
            assert_eq!(given_back.as_raw_fd(), number, "{} as {name}: {error}", kind.name);
            assert!(!readable(&mine), "{} as {name}: the peer learns of {error}", kind.name);
            fd = given_back;
        }
        let mut its = (kind.attach)(UnattachedEnd::from_parts(fd, info)).expect(kind.name);
        assert_connected(kind.name, &mut mine, &mut its);
    }
}

#[test]
fn descriptor_that_is_no_socket_is_given_back() {
    for (name, attach) in WRONG_FORMATS_AND_OPTIONS {
        let file = OwnedFd::from(File::open("/dev/null").unwrap());
        let number = file.as_raw_fd();
        assert_eq!(attach(file).expect_err(name).into_inner().as_raw_fd(), number, "{name}");
    }
    let file = || OwnedFd::from(File::open("/dev/null").unwrap());
    let refused = [
        Receiver::<AcpiNotify>::from_socket(file(), Format::ACPI_NOTIFY_V1).unwrap_err(),
        Receiver::<AcpiNotify>::from_shared(file()).unwrap_err(),
    ];
    for refused in refused {
        assert!(matches!(refused.error(), Error::NotAUnixStream(_)), "{refused:?}");
        // As what it gives back and as an error that has a source.
        assert!(std::error::Error::source(&refused).is_some());
        assert_eq!((refused.errno(), refused.to_string()), (libc::ENOTSOCK, refused.error().to_string()));
    }
}

#[test]
fn end_of_an_unknown_transport_is_given_back() {
    for kind in KINDS {
        let (mut mine, end) = (kind.make)();
        let info = end.info();
        let mut fd = OwnedFd::from(end);
        let number = fd.as_raw_fd();
        for transport in [Transport::LOCAL, Transport::new(77)] {
            let told = ChannelInfo::new(info.format, transport, info.depth);
            let refused = (kind.attach)(UnattachedEnd::from_parts(fd, told)).expect_err(kind.name);
            assert!(matches!(refused.error(), Error::Unsupported { .. }), "{}: {refused:?}", kind.name);
            let end = refused.into_inner();
            assert_eq!(end.info(), told, "{}", kind.name);
            fd = end.into();
            assert_eq!(fd.as_raw_fd(), number, "{}", kind.name);
        }
        let mut its = (kind.attach)(UnattachedEnd::from_parts(fd, info)).expect(kind.name);
        assert_connected(kind.name, &mut mine, &mut its);
    }
}

#[test]
fn copy_of_an_attached_end_is_given_back_and_the_pair_stays_connected() {
    for kind in KINDS.iter().filter(|kind| kind.name.contains("shared")) {
        let (mut mine, end) = (kind.make)();
        let info = end.info();
        let fd = OwnedFd::from(end);
        let mut copy = fd.try_clone().unwrap();
        let number = copy.as_raw_fd();
        let mut its = (kind.attach)(UnattachedEnd::from_parts(fd, info)).expect(kind.name);
        // What is given back is refused for the same reason the second time.
        for _ in 0..2 {
            let refused = (kind.attach)(UnattachedEnd::from_parts(copy, info)).expect_err(kind.name);
            assert!(matches!(refused.error(), Error::AlreadyAttached), "{}: {refused:?}", kind.name);
            let end = refused.into_inner();
            assert_eq!(end.info(), info, "{}", kind.name);
            copy = end.into();
            assert_eq!(copy.as_raw_fd(), number, "{}", kind.name);
        }
        assert_connected(kind.name, &mut mine, &mut its);
        drop(copy);
        assert_connected(kind.name, &mut mine, &mut its);
    }
}

#[test]
fn reporter_that_is_no_queue_is_given_back_with_its_groups() {
    let router = FaultRouter::new(&fault::Options::new(), |_| {}).unwrap();
    for make in [fault::socket, fault::shared] {
        let (reporter, end) = make(&fault::Options::new()).unwrap();
        let mut responder = FaultResponder::attach(end).unwrap();
        reporter.report(ends::page()).unwrap();
        let (reporter, error) = router.queue(reporter).unwrap_err().into_parts();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        let group = responder.recv_group(&mut [Default::default()]).unwrap();
        group.respond(fault::ResponseCode::Success).unwrap();
        assert_eq!(reporter.wait_completions(&mut [Default::default(); 2], None).unwrap(), 1);
        // Nor does a clone cost it.
        let clone = reporter.clone();
        let reporter = router.queue(reporter).unwrap_err().into_inner();
        drop(clone);
        router.queue(reporter).unwrap();
    }
}
