//! The maker of a channel chooses its depth, and whoever attaches an end how deep it may be.

mod common;

use allocation_counter::measure;
use common::ends::{KINDS, assert_connected};
use recordfd::event::{self, Receiver, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::request::{self, Reporter, Responder};
use recordfd::uapi::{AcpiNotify, ChannelInfo, DeviceRequest};
use recordfd::{Error, Options, UnattachedEnd};

/// The limit if nothing else is said.
const DEFAULT: u32 = 1 << 16;

#[test]
fn end_is_attached_at_the_limit_and_refused_beyond_it() {
    for kind in KINDS {
        let (mut mine, end) = (kind.make)();
        let depth = end.info().depth;
        let mut refused = None;
        let allocated =
            measure(|| refused = Some((kind.attach)(end.max_depth(depth - 1)).expect_err(kind.name)));
        let (end, error) = refused.unwrap().into_parts();
        let is_told = matches!(error, Error::TooDeep { depth: told, max_depth } if (told, max_depth) == (depth, depth - 1));
        assert!(is_told && error.errno() == libc::E2BIG, "{}: {error:?}", kind.name);
        assert!(allocated.bytes_total < 4096, "{}: {allocated:?}", kind.name);
        let mut its = (kind.attach)(end.max_depth(depth)).expect(kind.name);
        assert_connected(kind.name, &mut mine, &mut its);
    }
}

/// What came with a descriptor may say one depth and the Offer another: both are looked at.
#[test]
fn depth_that_the_offer_says_counts_whatever_was_told() {
    for kind in KINDS.iter().filter(|kind| kind.name.contains("shared")) {
        let (mut mine, end) = (kind.make)();
        let info = end.info();
        let told = ChannelInfo::new(info.format, info.transport, 1);
        let end = UnattachedEnd::from_parts(end.into(), told).max_depth(info.depth - 1);
        let rejected = (kind.attach)(end).expect_err(kind.name);
        assert!(matches!(rejected.error(), Error::TooDeep { .. }), "{}: {rejected:?}", kind.name);
        let mut its = (kind.attach)(rejected.into_inner().max_depth(info.depth)).expect(kind.name);
        assert_connected(kind.name, &mut mine, &mut its);
    }
}

#[test]
fn replies_may_not_be_deeper_either() {
    let (_tx, end) = event::shared::<AcpiNotify>(&Options::new().depth(2).reply_depth(64)).unwrap();
    let rejected = Receiver::<AcpiNotify>::attach(end.max_depth(63)).unwrap_err();
    assert!(matches!(rejected.error(), Error::TooDeep { depth: 64, max_depth: 63 }), "{rejected:?}");
    Receiver::<AcpiNotify>::attach(rejected.into_inner().max_depth(64)).unwrap();
}

/// Makes a channel whose maker tells this depth, and attaches its end.
type Attach = fn(u32) -> Result<(), Error>;

/// Attaches the end of `depth` as each kind does that sets room aside for it; how many bytes that took at most.
fn allocated(depth: u32, attach: Attach) -> Result<u64, Error> {
    let mut outcome = Ok(());
    let allocated = measure(|| outcome = attach(depth));
    outcome.map(|()| allocated.bytes_max)
}

#[test]
fn hostile_maker_cannot_take_more_memory_than_the_default() {
    let told: [(&str, Attach); 8] = [
        ("fault responder, socket", |depth| {
            let (_reporter, end) = fault::socket(&fault::Options::new())?;
            let told = ChannelInfo::new(end.info().format, end.info().transport, depth);
            Ok(FaultResponder::attach(UnattachedEnd::from_parts(end.into(), told)).map(drop)?)
        }),
        ("fault reporter, socket", |depth| {
            let (_responder, end) = fault::socket_responder(&fault::Options::new())?;
            let told = ChannelInfo::new(end.info().format, end.info().transport, depth);
            let end = UnattachedEnd::from_parts(end.into(), told);
            Ok(FaultReporter::attach(end, &fault::Options::new()).map(drop)?)
        }),
        ("fault responder, shared", |depth| {
            let (_reporter, end) = fault::shared(&fault::Options::new().depth(depth))?;
            Ok(FaultResponder::from_shared(end.into()).map(drop)?)
        }),
        ("fault reporter, shared", |depth| {
            let (_responder, end) = fault::shared_responder(&fault::Options::new().depth(depth))?;
            Ok(FaultReporter::from_shared(end.into(), &fault::Options::new()).map(drop)?)
        }),
        ("responder, shared", |depth| {
            let (_reporter, end) = request::shared::<DeviceRequest>(&request::Options::new().depth(depth))?;
            Ok(Responder::<DeviceRequest>::from_shared(end.into()).map(drop)?)
        }),
        ("reporter, shared", |depth| {
            let options = request::Options::new().depth(depth);
            let (_responder, end) = request::shared_responder::<DeviceRequest>(&options)?;
            Ok(Reporter::<DeviceRequest>::from_shared(end.into(), &request::Options::new()).map(drop)?)
        }),
        ("receiver, shared", |depth| {
            let (_tx, end) = event::shared::<AcpiNotify>(&Options::new().depth(depth))?;
            Ok(Receiver::<AcpiNotify>::from_shared(end.into()).map(drop)?)
        }),
        ("sender, shared", |depth| {
            let (_rx, end) = event::shared_receiver::<AcpiNotify>(&Options::new().depth(depth))?;
            Ok(SoleSender::<AcpiNotify>::from_shared(end.into()).map(drop)?)
        }),
    ];
    for (name, attach) in told {
        // Those in shared memory are twice as deep then, for depths there are powers of two.
        let refused = allocated(DEFAULT + 1, attach);
        assert!(matches!(refused, Err(Error::TooDeep { max_depth: DEFAULT, .. })), "{name}: {refused:?}");
        // That of both ends of a shared channel.
        let taken = allocated(DEFAULT, attach).expect(name);
        assert!(taken < 24 << 20, "{name}: {taken} bytes");
    }
}
