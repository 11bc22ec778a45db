//! Every kind of end, over every transport, in one table.

use std::os::fd::{AsFd, BorrowedFd};

use recordfd::event::{self, Receiver, Sender};
use recordfd::fault::{self, FaultReporter, FaultRequest, FaultResponder, ResponseCode};
use recordfd::request::{self, Ack, Reporter, Responder};
use recordfd::uapi::{AcpiNotify, AcpiOst, DeviceRequest, DeviceRequestKind, PgFault, PgFaultPerm};
use recordfd::{Options, Rejected, UnattachedEnd};

use super::notify;

/// An end of any kind.
#[derive(Debug)]
pub enum End {
    Sender(Sender<AcpiNotify>),
    Receiver(Receiver<AcpiNotify>),
    FaultReporter(FaultReporter),
    FaultResponder(FaultResponder),
    Reporter(Reporter<DeviceRequest>),
    Responder(Responder<DeviceRequest>),
}

use End::*;

pub type Attach = fn(UnattachedEnd) -> Result<End, Rejected<UnattachedEnd>>;
type Make = fn() -> (End, UnattachedEnd);

/// A channel to another process: how it is made, and how the end that is given away is attached.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub make: Make,
    pub attach: Attach,
}

/// Every kind of end that can be given away.
pub const KINDS: [Kind; 12] = {
    const SENDER: Attach = |end| Sender::attach(end).map(Sender);
    const RECEIVER: Attach = |end| Receiver::attach(end).map(Receiver);
    const FAULT_REPORTER: Attach = |end| FaultReporter::attach(end, &fault_options()).map(FaultReporter);
    const FAULT_RESPONDER: Attach = |end| FaultResponder::attach(end).map(FaultResponder);
    const REPORTER: Attach = |end| Reporter::attach(end, &request_options()).map(Reporter);
    const RESPONDER: Attach = |end| Responder::attach(end).map(Responder);
    const fn kind(name: &'static str, attach: Attach, make: Make) -> Kind {
        Kind { name, make, attach }
    }
    [
        kind("receiver, socket", RECEIVER, || with(Sender, event::socket(&Options::new()).unwrap())),
        kind("sender, socket", SENDER, || with(Receiver, event::socket_receiver(&Options::new()).unwrap())),
        kind("receiver, shared", RECEIVER, || {
            let (tx, end) = event::shared(&Options::new()).unwrap();
            (Sender(tx.into_shared()), end)
        }),
        kind("sender, shared", SENDER, || with(Receiver, event::shared_receiver(&Options::new()).unwrap())),
        kind("fault responder, socket", FAULT_RESPONDER, || {
            with(FaultReporter, fault::socket(&fault_options()).unwrap())
        }),
        kind("fault reporter, socket", FAULT_REPORTER, || {
            with(FaultResponder, fault::socket_responder(&fault_options()).unwrap())
        }),
        kind("fault responder, shared", FAULT_RESPONDER, || {
            with(FaultReporter, fault::shared(&fault_options()).unwrap())
        }),
        kind("fault reporter, shared", FAULT_REPORTER, || {
            with(FaultResponder, fault::shared_responder(&fault_options()).unwrap())
        }),
        kind("responder, socket", RESPONDER, || with(Reporter, request::socket(&request_options()).unwrap())),
        kind("reporter, socket", REPORTER, || {
            with(Responder, request::socket_responder(&request_options()).unwrap())
        }),
        kind("responder, shared", RESPONDER, || with(Reporter, request::shared(&request_options()).unwrap())),
        kind("reporter, shared", REPORTER, || {
            with(Responder, request::shared_responder(&request_options()).unwrap())
        }),
    ]
};

fn with<T>(kind: fn(T) -> End, (mine, end): (T, UnattachedEnd)) -> (End, UnattachedEnd) {
    (kind(mine), end)
}

pub fn fault_options() -> fault::Options {
    fault::Options::new()
}

pub fn request_options() -> request::Options {
    request::Options::new()
}

pub fn page() -> FaultRequest {
    FaultRequest { dev_id: 1, perm: PgFaultPerm::READ, last: true, ..FaultRequest::default() }
}

pub fn release() -> DeviceRequest {
    DeviceRequest { dev_id: 1, kind: DeviceRequestKind::RELEASE, ..DeviceRequest::default() }
}

/// Fails unless the two are the ends of one channel: a record goes one way, and its reply the other.
pub fn assert_connected(name: &str, one: &mut End, other: &mut End) {
    match (one, other) {
        (Sender(tx), Receiver(rx)) | (Receiver(rx), Sender(tx)) => {
            tx.try_send(notify(0x80, 7)).expect(name);
            assert_eq!(rx.try_recv().expect(name).record().map(|record| record.data), Some(7), "{name}");
            rx.reply(AcpiOst::new(1, 2, 3)).expect(name);
            assert_eq!(tx.try_recv_reply().expect(name), AcpiOst::new(1, 2, 3), "{name}");
        }
        (FaultReporter(reporter), FaultResponder(responder))
        | (FaultResponder(responder), FaultReporter(reporter)) => {
            reporter.report(page()).expect(name);
            let group = responder.try_recv_group(&mut [PgFault::default()]).expect(name);
            group.respond(ResponseCode::Success).expect(name);
            assert_eq!(reporter.completions(&mut [Default::default(); 2]).expect(name), 1, "{name}");
        }
        (Reporter(reporter), Responder(responder)) | (Responder(responder), Reporter(reporter)) => {
            reporter.report(release()).expect(name);
            responder.try_recv().expect(name).respond(Ack::Done).expect(name);
            assert_eq!(reporter.completions(&mut [Default::default(); 2]).expect(name), 1, "{name}");
        }
        other => panic!("{name}: {other:?}"),
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sender(end) => end.as_fd(),
            Receiver(end) => end.as_fd(),
            FaultReporter(end) => end.as_fd(),
            FaultResponder(end) => end.as_fd(),
            Reporter(end) => end.as_fd(),
            Responder(end) => end.as_fd(),
        }
    }
}
