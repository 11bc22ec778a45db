//! Receivers in this process or in another one, by the same calls: so that one suite tests both.
//!
//! One that is there belongs to a child, the test `far_end` of the same binary, which makes or attaches the end
//! itself. Every call goes there over a socket, and what it returns comes back. The child ends when the socket does.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Duration;

use recordfd::event::{self, Received, ReceiverCounters, SoleSender};
use recordfd::uapi::{AcpiNotify, AcpiOst};
use recordfd::{Options, TryRecvError, TrySendError, UnattachedEnd, fd};

use super::line::{Line, Wire};
use super::{Rx, Tx, far_fault, finish, in_child, spawn_child};

/// Makes a channel whose receiver is here or there.
pub type MakeAny = fn(&Options) -> (Tx, AnyRx);

/// Both ends in this process.
pub fn here((tx, rx): (Tx, Rx)) -> (Tx, AnyRx) {
    (tx, AnyRx::Here(rx))
}

/// Every way to make one.
pub const EVERY_MAKE_ANY: &[MakeAny] = &[
    #[cfg(feature = "local")]
    |options| here(super::local(options)),
    |options| here(super::socket(options)),
    |options| here(super::socket_made_by_receiver(options)),
    |options| here(super::shared(options)),
    |options| here(super::shared_made_by_receiver(options)),
    shared_to_far_receiver,
    shared_made_by_far_receiver,
];

/// In shared memory, to a receiver in another process; the sender's side makes the channel.
pub fn shared_to_far_receiver(options: &Options) -> (Tx, AnyRx) {
    let far = Far::start("receive", ());
    let (tx, end) = event::shared(options).unwrap();
    end.send_over(&far.line.0).unwrap();
    (tx.into_shared(), AnyRx::There(far))
}

/// The same; the receiver's side makes the channel.
pub fn shared_made_by_far_receiver(options: &Options) -> (Tx, AnyRx) {
    let far = Far::start("make_receiver", (option(options, "depth"), option(options, "reply_depth")));
    let end = UnattachedEnd::recv_from(&far.line.0).unwrap();
    (SoleSender::from_shared(end.into()).unwrap().into_shared(), AnyRx::There(far))
}

/// What the option `name` is set to, which only the derived Debug tells.
pub fn option(options: &impl Debug, name: &str) -> u32 {
    let text = format!("{options:?}");
    let (_, value) = text.split_once(&format!(" {name}: ")).unwrap();
    value[..value.find(|byte: char| !byte.is_ascii_digit()).unwrap()].parse().unwrap()
}

/// A process that has an end.
pub struct Far {
    pub line: Line,
    child: Option<Child>,
}

impl Far {
    /// Starts it as what plays `role`.
    pub fn start(role: &str, what: impl Wire) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        let far = Self { line: Line(near), child: Some(spawn_child("far_end", far.into())) };
        far.line.send((role.to_owned(), what));
        far
    }
}

impl Drop for Far {
    /// Returns when the end is dropped; fails if anything failed there.
    fn drop(&mut self) {
        self.line.0.shutdown(std::net::Shutdown::Write).unwrap();
        let child = self.child.take().unwrap();
        if std::thread::panicking() {
            let _ = child.wait_with_output();
        } else {
            finish(child);
        }
    }
}

/// The test `far_end` of each binary that has ends in other processes.
pub fn far_end() {
    if !in_child() {
        // It goes with the socket, also when nobody says a word.
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        return finish(spawn_child("far_end", far.into()));
    }
    let line = Line(fd::take_stdin().unwrap().into());
    let Some((role, what)) = line.next_call() else { return };
    match role.as_str() {
        "receive" => {
            let end = UnattachedEnd::recv_from(&line.0).unwrap();
            serve(&line, Rx::from_shared(end.into()).unwrap());
        }
        "make_receiver" => {
            let (depth, reply_depth) = Wire::take(&mut what.as_slice());
            let options = Options::new().depth(depth).reply_depth(reply_depth);
            let (rx, end) = event::shared_receiver(&options).unwrap();
            end.send_over(&line.0).unwrap();
            serve(&line, rx);
        }
        role => far_fault::play(role, &what, &line),
    }
}

/// There: does what it is told.
fn serve(line: &Line, mut rx: Rx) {
    while let Some((name, arguments)) = line.next_call() {
        let arguments = &mut arguments.as_slice();
        match name.as_str() {
            "recv" => line.send(rx.recv()),
            "recv_timeout" => line.send(rx.recv_timeout(Wire::take(arguments))),
            "recv_batch" => {
                let mut items = vec![Received::default(); Wire::take(arguments)];
                let outcome = rx.recv_batch(&mut items);
                line.send(outcome.map(|count| items[..count].to_vec()));
            }
            "wait" => line.send(rx.wait(Wire::take(arguments))),
            "reply" => line.send(rx.reply(Wire::take(arguments)).map_err(|error| match error {
                TrySendError::Full(_) => TrySendError::Full(()),
                TrySendError::Closed(_) => TrySendError::Closed(()),
                other => panic!("{other:?}"),
            })),
            "set_busy_poll" => {
                rx.set_busy_poll(Wire::take(arguments));
                line.send(());
            }
            "counters" => line.send(rx.counters()),
            "readable" => line.send(super::readable(&rx)),
            "wait_readable" => line.send(super::wait_readable(&rx)),
            name => panic!("{name}"),
        }
    }
}

/// A receiver, here or there.
#[allow(clippy::large_enum_variant, reason = "a test has one or two")]
pub enum AnyRx {
    Here(Rx),
    There(Far),
}

impl AnyRx {
    pub fn try_recv(&mut self) -> Result<Received<AcpiNotify>, TryRecvError> {
        let mut item = [Received::default()];
        match self.recv_batch(&mut item)? {
            0 => Err(TryRecvError::Empty),
            _ => Ok(item[0]),
        }
    }

    pub fn recv(&mut self) -> Result<Received<AcpiNotify>, TryRecvError> {
        match self {
            Self::Here(rx) => rx.recv(),
            Self::There(far) => far.line.call("recv", ()),
        }
    }

    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Received<AcpiNotify>, TryRecvError> {
        match self {
            Self::Here(rx) => rx.recv_timeout(timeout),
            Self::There(far) => far.line.call("recv_timeout", timeout),
        }
    }

    pub fn recv_batch(&mut self, items: &mut [Received<AcpiNotify>]) -> Result<usize, TryRecvError> {
        match self {
            Self::Here(rx) => rx.recv_batch(items),
            Self::There(far) => {
                let received: Vec<_> = far.line.call::<Result<_, TryRecvError>>("recv_batch", items.len())?;
                items[..received.len()].copy_from_slice(&received);
                Ok(received.len())
            }
        }
    }

    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, TryRecvError> {
        match self {
            Self::Here(rx) => rx.wait(timeout),
            Self::There(far) => far.line.call("wait", timeout),
        }
    }

    pub fn reply(&mut self, reply: AcpiOst) -> Result<(), TrySendError<AcpiOst>> {
        match self {
            Self::Here(rx) => rx.reply(reply),
            Self::There(far) => far.line.call::<Result<_, _>>("reply", reply).map_err(|error| match error {
                TrySendError::Full(()) => TrySendError::Full(reply),
                _ => TrySendError::Closed(reply),
            }),
        }
    }

    pub fn set_busy_poll(&mut self, busy_poll: Duration) {
        match self {
            Self::Here(rx) => rx.set_busy_poll(busy_poll),
            Self::There(far) => far.line.call("set_busy_poll", busy_poll),
        }
    }

    pub fn counters(&self) -> ReceiverCounters {
        match self {
            Self::Here(rx) => rx.counters(),
            Self::There(far) => far.line.call("counters", ()),
        }
    }
}

/// What can be polled, here or there.
pub trait Pollable {
    fn readable(&self) -> bool;
    fn wait_readable(&self) -> bool;
}

impl<T: AsFd> Pollable for T {
    fn readable(&self) -> bool {
        super::readable(self)
    }

    fn wait_readable(&self) -> bool {
        super::wait_readable(self)
    }
}

impl Pollable for AnyRx {
    fn readable(&self) -> bool {
        match self {
            Self::Here(rx) => super::readable(rx),
            Self::There(far) => far.line.call("readable", ()),
        }
    }

    fn wait_readable(&self) -> bool {
        match self {
            Self::Here(rx) => super::wait_readable(rx),
            Self::There(far) => far.line.call("wait_readable", ()),
        }
    }
}

/// Whether poll says, where the end is, that something can be received.
pub fn readable(end: &impl Pollable) -> bool {
    end.readable()
}

/// Waits until poll says so, where the end is.
pub fn wait_readable(end: &impl Pollable) -> bool {
    end.wait_readable()
}
