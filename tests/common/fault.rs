//! What the tests of page-fault channels share.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use recordfd::fault::{
    self, FaultCompletion, FaultGroup, FaultReporter, FaultRequest, FaultResponder, Options,
};
use recordfd::uapi::{
    Event, EventFlags, EventHeader, Format, PageResponse, PageResponseCode, PgFault, PgFaultFlags,
    PgFaultPerm, Record,
};
use recordfd::{TryRecvError, fault::Cause, fault::Reported, fault::ResponseCode};

/// Makes a channel, both ends in this process.
pub type MakeFault = fn(&Options) -> (FaultReporter, FaultResponder);

/// Every way to make one.
pub const EVERY_MAKE: &[MakeFault] = &[
    #[cfg(feature = "local")]
    local,
    socket,
    socket_made_by_responder,
    shared,
    shared_made_by_responder,
];

/// Each test with each way to make a channel; those of `local` and `socket` only where threads and processes
/// differ. With `here_and_far`, in shared memory also with the responder in another process.
#[allow(unused_macros, reason = "no single test uses all of it")]
macro_rules! on_every_transport {
    (here_and_far every { $($every:ident)* } local { $($local:ident)* } socket { $($socket:ident)* }) => {
        $crate::common::fault::on_every_transport! {
            @here $crate::common::far_fault::here,
            every { $($every)* } local { $($local)* } socket { $($socket)* }
        }
        mod shared_to_far_responder {
            $(#[test] fn $every() { super::$every($crate::common::far_fault::shared_to_far_responder) })*
            $(#[test] fn $socket() { super::$socket($crate::common::far_fault::shared_to_far_responder) })*
        }
        mod shared_made_by_far_responder {
            $(#[test] fn $every() { super::$every($crate::common::far_fault::shared_made_by_far_responder) })*
            $(#[test] fn $socket() { super::$socket($crate::common::far_fault::shared_made_by_far_responder) })*
        }
        #[test]
        fn far_end() {
            $crate::common::far::far_end();
        }
    };
    (here_and_far $($every:ident)*) => {
        $crate::common::fault::on_every_transport! { here_and_far every { $($every)* } local {} socket {} }
    };
    (@here $as:path, every { $($every:ident)* } local { $($local:ident)* } socket { $($socket:ident)* }) => {
        #[cfg(feature = "local")]
        mod local {
            $(#[test] fn $every() { super::$every(|options| $as($crate::common::fault::local(options))) })*
            $(#[test] fn $local() { super::$local() })*
        }
        mod socket {
            $(#[test] fn $every() { super::$every(|options| $as($crate::common::fault::socket(options))) })*
            $(#[test] fn $socket() { super::$socket(|options| $as($crate::common::fault::socket(options))) })*
        }
        mod socket_made_by_responder {
            $(#[test] fn $every() { super::$every(|options| $as($crate::common::fault::socket_made_by_responder(options))) })*
            $(#[test] fn $socket() { super::$socket(|options| $as($crate::common::fault::socket_made_by_responder(options))) })*
        }
        mod shared {
            $(#[test] fn $every() { super::$every(|options| $as($crate::common::fault::shared(options))) })*
            $(#[test] fn $socket() { super::$socket(|options| $as($crate::common::fault::shared(options))) })*
        }
        mod shared_made_by_responder {
            $(#[test] fn $every() { super::$every(|options| $as($crate::common::fault::shared_made_by_responder(options))) })*
            $(#[test] fn $socket() { super::$socket(|options| $as($crate::common::fault::shared_made_by_responder(options))) })*
        }
    };
    (every { $($every:ident)* } local { $($local:ident)* } socket { $($socket:ident)* }) => {
        $crate::common::fault::on_every_transport! {
            @here std::convert::identity,
            every { $($every)* } local { $($local)* } socket { $($socket)* }
        }
    };
    ($($every:ident)*) => {
        $crate::common::fault::on_every_transport! { every { $($every)* } local {} socket {} }
    };
}
#[allow(unused_imports, reason = "no single test uses all of it")]
pub(crate) use on_every_transport;

#[cfg(feature = "local")]
pub fn local(options: &Options) -> (FaultReporter, FaultResponder) {
    fault::channel(options).unwrap()
}

/// The reporter's side makes the channel.
pub fn socket(options: &Options) -> (FaultReporter, FaultResponder) {
    let (reporter, end) = fault::socket(options).unwrap();
    let info = end.info();
    (reporter, FaultResponder::from_socket(end.into(), info.format, info.depth).unwrap())
}

/// The responder's side makes the channel.
pub fn socket_made_by_responder(options: &Options) -> (FaultReporter, FaultResponder) {
    let (responder, end) = fault::socket_responder(options).unwrap();
    let info = end.info();
    let options = options.clone().depth(info.depth);
    (FaultReporter::from_socket(end.into(), info.format, &options).unwrap(), responder)
}

/// In shared memory; the reporter's side makes the channel.
pub fn shared(options: &Options) -> (FaultReporter, FaultResponder) {
    let (reporter, end) = fault::shared(options).unwrap();
    (reporter, FaultResponder::from_shared(end.into()).unwrap())
}

/// In shared memory; the responder's side makes the channel.
pub fn shared_made_by_responder(options: &Options) -> (FaultReporter, FaultResponder) {
    let (responder, end) = fault::shared_responder(options).unwrap();
    (FaultReporter::from_shared(end.into(), options).unwrap(), responder)
}

/// A reporter, and its peer as a plain stream.
pub fn reporter_and_peer(options: &Options) -> (FaultReporter, UnixStream) {
    let (reporter, end) = fault::socket(options).unwrap();
    (reporter, UnixStream::from(OwnedFd::from(end)))
}

/// A responder, and its peer as a plain stream.
pub fn responder_and_peer(options: &Options) -> (FaultResponder, UnixStream) {
    let (responder, end) = fault::socket_responder(options).unwrap();
    (responder, UnixStream::from(OwnedFd::from(end)))
}

/// A group of one page.
pub fn page(dev_id: u32, prg_index: u32) -> FaultRequest {
    let addr = 0x1000 * u64::from(prg_index);
    let perm = PgFaultPerm::READ;
    FaultRequest { dev_id, pasid: Some(1), prg_index, perm, last: true, addr, ..FaultRequest::default() }
}

/// A group of `count` pages.
pub fn group(dev_id: u32, prg_index: u32, count: u32) -> Vec<FaultRequest> {
    let page_number =
        |index: u32| FaultRequest { last: index + 1 == count, addr: index.into(), ..page(dev_id, prg_index) };
    (0..count).map(page_number).collect()
}

/// The Stop Marker of a PASID.
pub fn stop_marker(dev_id: u32, pasid: u32) -> FaultRequest {
    FaultRequest { pasid: Some(pasid), perm: PgFaultPerm::empty(), ..page(dev_id, 0) }
}

/// Reports a group of one page and returns its cookie.
pub fn publish(reporter: &FaultReporter, request: FaultRequest) -> u32 {
    match reporter.report(request).unwrap() {
        Reported::Group { cookie } => cookie,
        other => panic!("{other:?}"),
    }
}

/// Every completion that there is without waiting.
pub fn collect(reporter: &FaultReporter) -> Vec<FaultCompletion> {
    let mut all = Vec::new();
    let mut out = [FaultCompletion::default(); 7];
    loop {
        match reporter.completions(&mut out) {
            Ok(count) => all.extend_from_slice(&out[..count]),
            Err(TryRecvError::Empty | TryRecvError::Closed | TryRecvError::PeerViolation(_)) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Cookie, response and cause of every completion that there is without waiting.
pub fn ended(reporter: &FaultReporter) -> Vec<(u32, ResponseCode, Cause)> {
    let completions = collect(reporter);
    completions.iter().map(|completion| (completion.cookie, completion.code, completion.cause)).collect()
}

/// What groups came to, whatever the order.
pub fn sorted(ends: impl Into<Vec<(u32, ResponseCode, Cause)>>) -> Vec<(u32, ResponseCode, Cause)> {
    let mut ends = ends.into();
    ends.sort_by_key(|(cookie, ..)| *cookie);
    ends
}

/// What helpers ask of a responder, wherever it is.
pub trait Responds {
    type Group;
    /// The next group, and where its pages are.
    fn next_group(&mut self, pages: &mut [PgFault]) -> Result<(Self::Group, Range<usize>), TryRecvError>;
    fn next_cancelled(&self) -> Option<u32>;
}

impl Responds for FaultResponder {
    type Group = FaultGroup;
    fn next_group(&mut self, pages: &mut [PgFault]) -> Result<(Self::Group, Range<usize>), TryRecvError> {
        let group = self.try_recv_group(pages)?;
        let range = group.range();
        Ok((group, range))
    }
    fn next_cancelled(&self) -> Option<u32> {
        self.next_cancelled()
    }
}

/// Receives the next group; it must be there.
pub fn receive<R: Responds>(responder: &mut R) -> (R::Group, Vec<PgFault>) {
    let mut pages = [PgFault::default(); 409];
    let (group, range) = responder.next_group(&mut pages).unwrap_or_else(|error| panic!("{error}"));
    (group, pages[range].to_vec())
}

/// Whether nothing is there to be received.
pub fn is_empty(responder: &mut impl Responds) -> bool {
    matches!(responder.next_group(&mut [PgFault::default(); 409]), Err(TryRecvError::Empty))
}

pub const SUCCESS: PageResponseCode = PageResponseCode::SUCCESS;

/// An answer, and what it is on the wire.
pub fn response(cookie: u32, code: PageResponseCode) -> PageResponse {
    PageResponse { cookie, code }
}

pub fn wire_response(cookie: u32, code: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    response(cookie, PageResponseCode::new(code)).encode(&mut bytes);
    bytes
}

/// A page of a group on the wire.
pub fn wire_page(cookie: u32, last: bool) -> [u8; 40] {
    let mut fault = PgFault { cookie, dev_id: 1, perm: PgFaultPerm::READ, ..PgFault::default() };
    fault.flags.set(PgFaultFlags::LAST_PAGE, last);
    let mut bytes = [0; 40];
    fault.encode(&mut bytes);
    bytes
}

/// What can be read from `peer` now.
pub fn available(peer: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    peer.set_nonblocking(true).unwrap();
    match peer.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset)),
    }
    peer.set_nonblocking(false).unwrap();
    bytes
}

/// Options of a channel whose records have a header.
pub fn v2() -> Options {
    Options::new().format(Format::IOMMU_PGFAULT_V2)
}

/// A group on the wire.
pub fn wire_group(cookie: u32, count: usize) -> Vec<u8> {
    (1..=count).flat_map(|index| wire_page(cookie, index == count)).collect()
}

/// A page of a group on the wire, in format v2.
pub fn wire_event(sequence: u32, flags: EventFlags, cookie: u32, last: bool) -> [u8; 48] {
    let payload = PgFault::decode(&wire_page(cookie, last)).unwrap();
    let mut bytes = [0; 48];
    Event { header: EventHeader { flags, sequence }, payload }.encode(&mut bytes);
    bytes
}

/// The notice on the wire that a group was completed without its answer.
pub fn wire_cancelled(sequence: u32, cookie: u32) -> [u8; 48] {
    wire_event(sequence, EventFlags::CANCELLED, cookie, true)
}

/// Cookie and code of the answers that `peer` can read now.
pub fn answers(peer: &mut UnixStream) -> Vec<(u32, u32)> {
    let bytes = available(peer);
    assert_eq!(bytes.len() % 8, 0, "an answer is torn");
    let answers = bytes.chunks(8).map(|bytes| PageResponse::decode(bytes).unwrap());
    answers.map(|answer| (answer.cookie, answer.code.get())).collect()
}
