//! Ways to have the two ends of a channel in two processes: over which transport, and which process makes it.
//!
//! "Here" is the process that runs the test, "there" its child. A channel made here is inherited by the child as
//! its standard input, through fork and exec; one made there comes here over a socket, through SCM_RIGHTS.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

use recordfd::event::{self, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::uapi::{ChannelInfo, Format, Transport};
use recordfd::{Options, UnattachedEnd, fd};

use super::{Rx, Tx, spawn_child};

/// Which transport, and who makes the channel.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub transport: Transport,
    made_here: bool,
    /// The module of the tests that run so.
    module: &'static str,
}

pub const SOCKET: Way = Way { transport: Transport::SOCKET, made_here: true, module: "socket" };
pub const SOCKET_MADE_THERE: Way =
    Way { transport: Transport::SOCKET, made_here: false, module: "socket_made_there" };
pub const SHARED: Way = Way { transport: Transport::SHARED, made_here: true, module: "shared" };
pub const SHARED_MADE_THERE: Way =
    Way { transport: Transport::SHARED, made_here: false, module: "shared_made_there" };

/// Expands to one module for each way, with every test in it.
#[allow(unused_macros, reason = "no single test uses all of it")]
macro_rules! on_every_way {
    ($($test:ident)*) => {
        $crate::common::way::on_every_way! { @module socket SOCKET $($test)* }
        $crate::common::way::on_every_way! { @module socket_made_there SOCKET_MADE_THERE $($test)* }
        $crate::common::way::on_every_way! { @module shared SHARED $($test)* }
        $crate::common::way::on_every_way! { @module shared_made_there SHARED_MADE_THERE $($test)* }
    };
    (@module $module:ident $way:ident $($test:ident)*) => {
        mod $module {
            $(#[test] fn $test() { super::$test($crate::common::way::$way) })*
        }
    };
}
#[allow(unused_imports, reason = "no single test uses all of it")]
pub(crate) use on_every_way;

impl Way {
    /// Starts the test `name`, which runs in this way, as a child.
    pub fn spawn(self, name: &str, stdin: impl Into<std::os::fd::OwnedFd>) -> Child {
        spawn_child(&format!("{}::{name}", self.module), stdin.into())
    }

    pub fn is_shared(self) -> bool {
        self.transport == Transport::SHARED
    }

    /// Starts the test `name` as a child that has the receiver's end: [`Way::inherited_receiver`].
    pub fn receiving_child(self, name: &str, options: &Options) -> (Tx, Child) {
        if self.made_here {
            let (tx, end) = self.make_sender(options);
            return (tx, self.spawn(name, end));
        }
        let (near, far) = UnixStream::pair().unwrap();
        let child = self.spawn(name, far);
        (self.sender_here(near, options), child)
    }

    /// Starts the test `name` as a child that has the sender's end: [`Way::inherited_sender`].
    pub fn sending_child(self, name: &str, options: &Options) -> (Rx, Child) {
        if self.made_here {
            let (rx, end) = self.make_receiver(options);
            return (rx, self.spawn(name, end));
        }
        let (near, far) = UnixStream::pair().unwrap();
        let child = self.spawn(name, far);
        (attach_receiver(UnattachedEnd::recv_from(near).unwrap()), child)
    }

    /// There: the receiver, by what the child was started with.
    pub fn inherited_receiver(self, options: &Options) -> Rx {
        let stdin = fd::take_stdin().unwrap();
        match self.made_here {
            true if self.is_shared() => Rx::from_shared(stdin).unwrap(),
            true => Rx::from_socket(stdin, Format::ACPI_NOTIFY_V1).unwrap(),
            false => self.receiver_there(stdin, options),
        }
    }

    /// There: the sender, by what the child was started with.
    pub fn inherited_sender(self, options: &Options, depth: u32) -> Tx {
        let stdin = fd::take_stdin().unwrap();
        if !self.made_here {
            let (tx, end) = self.make_sender(options);
            end.send_over(stdin).unwrap();
            return tx;
        }
        match self.is_shared() {
            true => SoleSender::from_shared(stdin).unwrap().into_shared(),
            false => Tx::from_socket(stdin, Format::ACPI_NOTIFY_V1, depth).unwrap(),
        }
    }

    /// Here: the sender of a channel whose other end is that of [`receiver_there`](Self::receiver_there), at the
    /// other end of `socket`.
    pub fn sender_here(self, socket: impl AsFd, options: &Options) -> Tx {
        if !self.made_here {
            return attach_sender(UnattachedEnd::recv_from(socket).unwrap());
        }
        let (tx, end) = self.make_sender(options);
        end.send_over(socket).unwrap();
        tx
    }

    pub fn receiver_there(self, socket: impl AsFd, options: &Options) -> Rx {
        if self.made_here {
            return attach_receiver(UnattachedEnd::recv_from(socket).unwrap());
        }
        let (rx, end) = self.make_receiver(options);
        end.send_over(socket).unwrap();
        rx
    }

    fn make_sender(self, options: &Options) -> (Tx, UnattachedEnd) {
        if self.is_shared() {
            let (tx, end) = event::shared(options).unwrap();
            return (tx.into_shared(), end);
        }
        event::socket(options).unwrap()
    }

    fn make_receiver(self, options: &Options) -> (Rx, UnattachedEnd) {
        let make = if self.is_shared() { event::shared_receiver } else { event::socket_receiver };
        make(options).unwrap()
    }
}

fn attach_sender(end: UnattachedEnd) -> Tx {
    let ChannelInfo { transport, format, depth, .. } = end.info();
    match transport {
        Transport::SHARED => SoleSender::from_shared(end.into()).unwrap().into_shared(),
        _ => Tx::from_socket(end.into(), format, depth).unwrap(),
    }
}

fn attach_receiver(end: UnattachedEnd) -> Rx {
    let ChannelInfo { transport, format, .. } = end.info();
    match transport {
        Transport::SHARED => Rx::from_shared(end.into()).unwrap(),
        _ => Rx::from_socket(end.into(), format).unwrap(),
    }
}

/// The same for page faults: the reporter is here, the responder there, or the other way round.
impl Way {
    pub fn responding_child(self, name: &str, options: &fault::Options) -> (FaultReporter, Child) {
        if self.made_here {
            let (reporter, end) = self.make_reporter(options);
            return (reporter, self.spawn(name, end));
        }
        let (near, far) = UnixStream::pair().unwrap();
        let child = self.spawn(name, far);
        (self.reporter_here(near, options), child)
    }

    pub fn reporting_child(self, name: &str, options: &fault::Options) -> (FaultResponder, Child) {
        if self.made_here {
            let (responder, end) = self.make_responder(options);
            return (responder, self.spawn(name, end));
        }
        let (near, far) = UnixStream::pair().unwrap();
        let child = self.spawn(name, far);
        (self.responder_here(near, options), child)
    }

    /// There: the responder; `info` is what the maker told, if that is here.
    pub fn inherited_responder(self, options: &fault::Options, info: (Format, u32)) -> FaultResponder {
        let stdin = fd::take_stdin().unwrap();
        match self.made_here {
            true if self.is_shared() => FaultResponder::from_shared(stdin).unwrap(),
            true => FaultResponder::from_socket(stdin, info.0, info.1).unwrap(),
            false => self.responder_there(stdin, options),
        }
    }

    /// There: the reporter; `info` is what the maker told, if that is here.
    pub fn inherited_reporter(self, options: &fault::Options, info: (Format, u32)) -> FaultReporter {
        let stdin = fd::take_stdin().unwrap();
        match self.made_here {
            true if self.is_shared() => FaultReporter::from_shared(stdin, options).unwrap(),
            true => FaultReporter::from_socket(stdin, info.0, &options.clone().depth(info.1)).unwrap(),
            false => self.reporter_there(stdin, options),
        }
    }

    /// Here: the reporter of a channel whose other end is that of [`responder_there`](Self::responder_there), at
    /// the other end of `socket`.
    pub fn reporter_here(self, socket: impl AsFd, options: &fault::Options) -> FaultReporter {
        self.reporter(self.made_here, socket, options)
    }

    pub fn responder_there(self, socket: impl AsFd, options: &fault::Options) -> FaultResponder {
        self.responder(!self.made_here, socket, options)
    }

    pub fn responder_here(self, socket: impl AsFd, options: &fault::Options) -> FaultResponder {
        self.responder(self.made_here, socket, options)
    }

    pub fn reporter_there(self, socket: impl AsFd, options: &fault::Options) -> FaultReporter {
        self.reporter(!self.made_here, socket, options)
    }

    fn reporter(self, made_here: bool, socket: impl AsFd, options: &fault::Options) -> FaultReporter {
        if !made_here {
            return attach_reporter(UnattachedEnd::recv_from(socket).unwrap(), options);
        }
        let (reporter, end) = self.make_reporter(options);
        end.send_over(socket).unwrap();
        reporter
    }

    fn responder(self, made_here: bool, socket: impl AsFd, options: &fault::Options) -> FaultResponder {
        if !made_here {
            return attach_responder(UnattachedEnd::recv_from(socket).unwrap());
        }
        let (responder, end) = self.make_responder(options);
        end.send_over(socket).unwrap();
        responder
    }

    fn make_reporter(self, options: &fault::Options) -> (FaultReporter, UnattachedEnd) {
        let make = if self.is_shared() { fault::shared } else { fault::socket };
        make(options).unwrap()
    }

    fn make_responder(self, options: &fault::Options) -> (FaultResponder, UnattachedEnd) {
        let make = if self.is_shared() { fault::shared_responder } else { fault::socket_responder };
        make(options).unwrap()
    }
}

fn attach_reporter(end: UnattachedEnd, options: &fault::Options) -> FaultReporter {
    let ChannelInfo { transport, format, depth, .. } = end.info();
    match transport {
        Transport::SHARED => FaultReporter::from_shared(end.into(), options).unwrap(),
        _ => FaultReporter::from_socket(end.into(), format, &options.clone().depth(depth)).unwrap(),
    }
}

fn attach_responder(end: UnattachedEnd) -> FaultResponder {
    let ChannelInfo { transport, format, depth, .. } = end.info();
    match transport {
        Transport::SHARED => FaultResponder::from_shared(end.into()).unwrap(),
        _ => FaultResponder::from_socket(end.into(), format, depth).unwrap(),
    }
}
