//! Descriptors that are no channel of page faults, come where none should, or cannot be had.

mod common;

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use common::fault::*;
use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use recordfd::Error;
use recordfd::fault::{self, Cause, FaultReporter, FaultResponder, Options, ResponseCode};
use recordfd::uapi::Format;

const V1: Format = Format::IOMMU_PGFAULT_V1;
const EMFILE: i32 = 24;

/// What attaching `descriptor` as either end says.
fn attach(descriptor: impl Into<OwnedFd>, format: Format) -> [Error; 2] {
    let descriptor = descriptor.into();
    let second = descriptor.try_clone().unwrap();
    [
        FaultReporter::from_socket(descriptor, format, &Options::new()).unwrap_err().into(),
        FaultResponder::from_socket(second, format, 64).unwrap_err().into(),
    ]
}

#[test]
fn refused_descriptor_is_closed() {
    in_own_process("refused_descriptor_is_closed", || {
        let before = open_descriptors();
        attach(File::open("/dev/null").unwrap(), V1);
        let (near, far) = UnixStream::pair().unwrap();
        attach(near, Format::ACPI_NOTIFY_V1);
        drop(far);
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn format_of_something_else_and_depth_out_of_range_are_refused() {
    for format in [Format::ACPI_NOTIFY_V1, Format::PCI_ERROR_V1, Format::new(1, 3), Format::new(0, 0)] {
        let (near, _far) = UnixStream::pair().unwrap();
        for error in attach(near, format) {
            assert!(matches!(error, Error::Format { found, .. } if found == format), "{error:?}");
            assert_eq!(error.errno(), 22);
        }
    }
    for depth in [0, (1 << 20) + 1, u32::MAX] {
        let (near, far) = UnixStream::pair().unwrap();
        let errors = [
            FaultReporter::from_socket(near.into(), V1, &Options::new().depth(depth)).unwrap_err(),
            FaultResponder::from_socket(far.into(), V1, depth).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(error.error(), Error::Option { name: "depth", value, .. } if *value == depth.into())
            );
        }
    }
}

#[test]
fn descriptors_attached_to_data_do_not_stay_open() {
    in_own_process("descriptors_attached_to_data_do_not_stay_open", || {
        let attach = |peer: &UnixStream, bytes: &[u8]| {
            let numbers = [0; 253];
            let rights = [ControlMessage::ScmRights(&numbers)];
            sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None)
                .unwrap();
        };
        // What this side makes refuses descriptors, so the peer makes these.
        let [(near, peer), (far, mut answer_peer)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let mut responder = FaultResponder::from_socket(near.into(), V1, 64).unwrap();
        let reporter = FaultReporter::from_socket(far.into(), V1, &Options::new()).unwrap();
        let before = open_descriptors();
        for number in 1..20 {
            attach(&peer, &wire_group(number, 2));
            assert_eq!(receive(&mut responder).0.into_cookie(), number);
            let cookie = publish(&reporter, page(1, number));
            attach(&answer_peer, &wire_response(cookie, 0));
            assert_eq!(ended(&reporter).len(), 1);
            assert_eq!(available(&mut answer_peer).len(), 40);
            assert_eq!(open_descriptors(), before);
        }
        // Also where attaching looks at what already waits.
        let (near, far) = UnixStream::pair().unwrap();
        attach(&far, &wire_page(1, true));
        let mut responder = FaultResponder::from_socket(near.into(), V1, 4).unwrap();
        assert_eq!(receive(&mut responder).0.into_cookie(), 1);
        assert_eq!(open_descriptors(), before + 2);
    });
}

#[test]
fn channel_that_finds_no_descriptors_leaves_none_behind() {
    in_own_process("channel_that_finds_no_descriptors_leaves_none_behind", || {
        let makes: [fn() -> Result<(), Error>; 3] = [
            || fault::socket(&Options::new()).map(drop),
            || fault::socket_responder(&Options::new()).map(drop),
            #[cfg(feature = "local")]
            || fault::channel(&Options::new()).map(drop),
            #[cfg(not(feature = "local"))]
            || fault::socket(&Options::new().format(Format::IOMMU_PGFAULT_V2)).map(drop),
        ];
        let before = open_descriptors();
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        for make in makes {
            for left in 0..2 {
                // Every number below the limit but `left` of them is taken.
                setrlimit(Resource::RLIMIT_NOFILE, 64.min(most), most).unwrap();
                let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
                taken.truncate(taken.len() - left);
                let error = make().unwrap_err();
                assert!(matches!(error, Error::Os { .. }), "{error:?}");
                assert_eq!(error.errno(), EMFILE);
                // What was free is free again.
                let free: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
                assert_eq!(free.len(), left);
                drop((taken, free));
                assert_eq!(open_descriptors(), before);
            }
            make().unwrap();
            assert_eq!(open_descriptors(), before);
        }
    });
}

#[test]
fn channel_at_work_needs_no_further_descriptor() {
    in_own_process("channel_at_work_needs_no_further_descriptor", || {
        for make in common::fault::EVERY_MAKE {
            let (reporter, mut responder) = make(&Options::new());
            let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 64.min(most), most).unwrap();
            let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            let cookies: Vec<_> = (0..9).map(|index| publish(&reporter, page(1, index))).collect();
            assert!(readable(&responder));
            for cookie in cookies {
                let (group, _) = receive(&mut responder);
                group.respond(ResponseCode::Success).unwrap();
                assert!(readable(&reporter));
                assert_eq!(ended(&reporter), [(cookie, ResponseCode::Success, Cause::Answered)]);
            }
            let last = publish(&reporter, page(1, 1));
            drop(responder);
            assert!(readable(&reporter));
            assert_eq!(ended(&reporter), [(last, ResponseCode::Invalid, Cause::HungUp)]);
            drop(taken);
        }
    });
}
