//! What the tests of request channels share, for both records.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use recordfd::TryRecvError;
use recordfd::request::{self, Cause, Completion, Options, Pending, Reporter, Request, Responder};
use recordfd::uapi::{Event, EventFlags, EventHeader, Record};

use super::fault::available;

#[path = "../request_model/sample.rs"]
mod sample;
pub(crate) use sample::Sample;

/// Makes a channel, both ends in this process.
pub type MakeRequest<R> = fn(&Options) -> (Reporter<R>, Responder<R>);

/// Every way to make one.
pub fn every_make<R: Request>() -> Vec<MakeRequest<R>> {
    vec![
        #[cfg(feature = "local")]
        local,
        socket,
        socket_made_by_responder,
        shared,
        shared_made_by_responder,
    ]
}

/// Each test with each way to make a channel of one record, in a module `$module`.
#[allow(unused_macros, reason = "no single test uses all of it")]
macro_rules! on_every_request_transport {
    ($module:ident of $record:ident: $($test:ident)*) => {
        mod $module {
            use recordfd::uapi::$record;
            #[cfg(feature = "local")]
            mod local {
                $(#[test] fn $test() { super::super::$test($crate::common::request::local::<super::$record>) })*
            }
            mod socket {
                $(#[test] fn $test() { super::super::$test($crate::common::request::socket::<super::$record>) })*
            }
            mod socket_made_by_responder {
                $(#[test] fn $test() {
                    super::super::$test($crate::common::request::socket_made_by_responder::<super::$record>)
                })*
            }
            mod shared {
                $(#[test] fn $test() { super::super::$test($crate::common::request::shared::<super::$record>) })*
            }
            mod shared_made_by_responder {
                $(#[test] fn $test() {
                    super::super::$test($crate::common::request::shared_made_by_responder::<super::$record>)
                })*
            }
        }
    };
    (all $($test:ident)*) => {
        $crate::common::request::on_every_request_transport! { pci_errors of PciError: $($test)* }
        $crate::common::request::on_every_request_transport! { pci_errors_v2 of PciErrorV2: $($test)* }
        $crate::common::request::on_every_request_transport! { device_requests of DeviceRequest: $($test)* }
    };
}
#[allow(unused_imports, reason = "no single test uses all of it")]
pub(crate) use on_every_request_transport;

#[cfg(feature = "local")]
pub fn local<R: Request>(options: &Options) -> (Reporter<R>, Responder<R>) {
    request::channel(options).unwrap()
}

/// The reporter's side makes the channel.
pub fn socket<R: Request>(options: &Options) -> (Reporter<R>, Responder<R>) {
    let (reporter, end) = request::socket(options).unwrap();
    let info = end.info();
    (reporter, Responder::from_socket(end.into(), info.format, info.depth).unwrap())
}

/// The responder's side makes the channel.
pub fn socket_made_by_responder<R: Request>(options: &Options) -> (Reporter<R>, Responder<R>) {
    let (responder, end) = request::socket_responder(options).unwrap();
    let info = end.info();
    let options = options.clone().depth(info.depth);
    (Reporter::from_socket(end.into(), info.format, &options).unwrap(), responder)
}

/// In shared memory; the reporter's side makes the channel.
pub fn shared<R: Request>(options: &Options) -> (Reporter<R>, Responder<R>) {
    let (reporter, end) = request::shared(options).unwrap();
    (reporter, Responder::from_shared(end.into()).unwrap())
}

/// In shared memory; the responder's side makes the channel.
pub fn shared_made_by_responder<R: Request>(options: &Options) -> (Reporter<R>, Responder<R>) {
    let (responder, end) = request::shared_responder(options).unwrap();
    (Reporter::from_shared(end.into(), options).unwrap(), responder)
}

/// A reporter, and its peer as a plain stream.
pub fn reporter_and_peer<R: Request>(options: &Options) -> (Reporter<R>, UnixStream) {
    let (reporter, end) = request::socket(options).unwrap();
    (reporter, UnixStream::from(OwnedFd::from(end)))
}

/// A responder, and its peer as a plain stream.
pub fn responder_and_peer<R: Request>(options: &Options) -> (Responder<R>, UnixStream) {
    let (responder, end) = request::socket_responder(options).unwrap();
    (responder, UnixStream::from(OwnedFd::from(end)))
}

/// Every completion that there is without waiting, and what was said behind the last.
pub fn collect_all<R: Request>(reporter: &Reporter<R>) -> (Vec<Completion<R>>, TryRecvError) {
    let mut all = Vec::new();
    let mut out = [Completion::default(); 7];
    loop {
        match reporter.completions(&mut out) {
            Ok(count) => all.extend_from_slice(&out[..count]),
            Err(error) => return (all, error),
        }
    }
}

/// Cookie, verdict and cause of every completion that there is without waiting.
pub fn ended<R: Request>(reporter: &Reporter<R>) -> Vec<(u32, R::Verdict, Cause)> {
    let (completions, end) = collect_all(reporter);
    assert!(!matches!(end, TryRecvError::Io(_)), "{end:?}");
    completions.iter().map(|ended| (ended.record.cookie(), ended.verdict, ended.cause)).collect()
}

/// Receives the next request; it must be there.
pub fn receive<R: Request>(responder: &mut Responder<R>) -> Pending<R> {
    responder.try_recv().unwrap_or_else(|error| panic!("{error}"))
}

/// Whether nothing is there to be received.
pub fn is_empty<R: Request>(responder: &mut Responder<R>) -> bool {
    matches!(responder.try_recv(), Err(TryRecvError::Empty))
}

/// A record on the wire.
pub fn wire<R: Request>(sequence: u32, flags: EventFlags, payload: R) -> Vec<u8> {
    let mut bytes = vec![0; Event::<R>::SIZE];
    Event { header: EventHeader { flags, sequence }, payload }.encode(&mut bytes);
    bytes
}

/// Sound records on the wire, numbered from `first` on.
pub fn stream<R: Request>(first: u32, records: &[R]) -> Vec<u8> {
    (first..)
        .zip(records)
        .flat_map(|(sequence, record)| wire(sequence, EventFlags::empty(), *record))
        .collect()
}

/// An answer on the wire.
pub fn wire_answer<R: Sample>(cookie: u32, code: u32) -> Vec<u8> {
    let mut bytes = vec![0; R::Answer::SIZE];
    R::code(cookie, code).encode(&mut bytes);
    bytes
}

/// Flags and payload of the records that `peer` can read now; their numbers follow each other from `*next` on.
pub fn records<R: Request>(peer: &mut UnixStream, next: &mut u32) -> Vec<(EventFlags, R)> {
    let bytes = available(peer);
    assert_eq!(bytes.len() % Event::<R>::SIZE, 0, "a record is torn");
    let events = bytes.chunks(Event::<R>::SIZE).map(|bytes| Event::<R>::decode(bytes).unwrap());
    let numbered = events.map(|event| {
        assert_eq!(event.header.sequence, *next);
        *next += 1;
        (event.header.flags, event.payload)
    });
    numbered.collect()
}
