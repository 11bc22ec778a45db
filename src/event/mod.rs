//! Event channels: a stream of typed records one way, a stream of replies the other, on one descriptor.
//!
//! Records are never merged and never reordered, and 0 is a value like any other. The queue is bounded.
//! A sender chooses for each record whether it wants it back when the queue is full
//! ([`Sender::try_send`]) or drops a record then ([`Sender::post`]). What is dropped is counted and
//! comes to the receiver in its place in the stream: [`Received`] says how many were lost before a
//! record, or since the last one.
//!
//! Either side may make a channel and give the other end away:
//!
//! | | keeps the sender | keeps the receiver |
//! |---|---|---|
//! | threads of one process | [`channel`] gives both | |
//! | another process | [`socket`] | [`socket_receiver`] |
//! | another process with this library, in shared memory | [`shared`] | [`shared_receiver`] |
//!
//! The end given away is an [`UnattachedEnd`], attached with [`Receiver::attach`] or [`Sender::attach`]. Who passes the
//! descriptor on by other means attaches it with [`Receiver::from_socket`], [`Sender::from_socket`],
//! [`Receiver::from_shared`] or [`SoleSender::from_shared`].
//!
//! # Waiting
//!
//! Every end is one descriptor ([`AsFd`](std::os::fd::AsFd)), level-triggered: while something waits
//! to be received it is readable, even if each wake-up takes only one record, and once everything has
//! been received it is not. It may become readable once with nothing to receive. When the other side
//! is gone it stays readable for ever. With edge-triggered epoll, receive until
//! [`TryRecvError::Empty`](crate::TryRecvError::Empty) after each event.
//!
//! **Pitfall:** with edge-triggered epoll a batch that comes back short is not `Empty`. Only the receive that returned
//! `Empty` asks for the next event.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::os::fd::AsFd;
//!
//! use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
//! use recordfd::TryRecvError;
//! use recordfd::event::{self, Received, Receiver};
//! use recordfd::uapi::{Le64, Smmuv3Event};
//!
//! let (tx, end) = event::socket::<Smmuv3Event>(&recordfd::Options::new())?;
//! let format = end.info().format;
//! let mut rx = Receiver::<Smmuv3Event>::from_socket(end.into(), format)?;
//! tx.send_batch(&[Smmuv3Event { evt: [Le64::new(0x10); 4] }; 3])?;
//! drop(tx);
//!
//! let (mut items, mut events) = ([Received::default(); 64], 0);
//! loop {
//!     poll(&mut [PollFd::new(rx.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
//!     match rx.recv_batch(&mut items) {
//!         Ok(count) => events += items[..count].iter().filter_map(Received::record).count(),
//!         Err(TryRecvError::Empty) => {}
//!         Err(TryRecvError::Closed) => break,
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(events, 3);
//! # Ok(())
//! # }
//! ```
//!
//! # Several formats on one channel
//!
//! A channel of [`MixedEvent`](recordfd_uapi::MixedEvent) carries records of any event format. Each says which source it
//! comes from and keeps its own header, with its number in the source's stream; a notice of loss in that stream is a
//! record like any other. [`Receiver::recv_known`] and its like receive what is of a format that this version knows,
//! and skip and count the rest. The other receives give every record as it came, for who passes it on.
//!
//! ```
//! use recordfd::TryRecvError;
//! use recordfd::event::{self, Received, Receiver};
//! use recordfd::uapi::{AnyEvent, Event, Le64, MixedEvent, Sequence, Smmuv3Event, Tegra241CmdqvEvent};
//!
//! let (tx, end) = event::socket::<MixedEvent>(&recordfd::Options::new())?;
//! let format = end.info().format;
//! let mut rx = Receiver::<MixedEvent>::from_socket(end.into(), format)?;
//!
//! let smmu = Smmuv3Event { evt: [Le64::new(0x10); 4] };
//! let cmdqv = Tegra241CmdqvEvent { lvcmdq_err_map: [Le64::new(1); 2] };
//! tx.try_send(MixedEvent::new(1, &Event::new(Sequence::ZERO, smmu)))?; // source 1 is the SMMU
//! tx.try_send(MixedEvent::new(2, &Event::new(Sequence::ZERO, cmdqv)))?; // source 2 its command queues
//! drop(tx);
//!
//! let mut seen = Vec::new();
//! loop {
//!     let record = match rx.recv_known() {
//!         Ok(Received::Record { record, .. }) => record,
//!         Ok(Received::Lost { .. }) => continue,
//!         Err(TryRecvError::Closed) => break,
//!         Err(error) => return Err(error.into()),
//!     };
//!     match record.event {
//!         AnyEvent::Smmuv3(event) => seen.push((record.source, event.payload.evt[0].get())),
//!         AnyEvent::Tegra241Cmdqv(event) => seen.push((record.source, event.payload.lvcmdq_err_map[0].get())),
//!         _ => {} // a format that this program has no use for
//!     }
//! }
//! assert_eq!(seen, [(1, 0x10), (2, 1)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **A channel for each source is better where one of them may flood.** In a common queue the flood pushes out the
//! records of the other sources, and those that still fit wait behind it. With channels of their own the others lose
//! nothing, and the consumer chooses whom to read first; the price is a descriptor for each. A common channel keeps the
//! order between sources, and is for those that are known to be quiet.
//!
//! ```
//! # #[cfg(feature = "local")] {
//! use recordfd::event;
//! use recordfd::uapi::{Event, Le64, MixedEvent, Sequence, Smmuv3Event};
//!
//! let options = recordfd::Options::new().depth(8);
//! let fault = |word| Smmuv3Event { evt: [Le64::new(word); 4] };
//!
//! // One channel for both: source 1 floods it, and the only record of source 2 is lost.
//! let (tx, mut rx) = event::channel::<MixedEvent>(&options)?;
//! for number in 0..100 {
//!     tx.post(MixedEvent::new(1, &Event::new(Sequence::wrapping(number), fault(0))))?;
//! }
//! tx.post(MixedEvent::new(2, &Event::new(Sequence::ZERO, fault(7))))?;
//! drop(tx);
//! let (mut sources, mut lost) = (Vec::new(), 0);
//! while let Ok(item) = rx.recv_known() {
//!     lost += item.lost();
//!     sources.extend(item.record().map(|record| record.source));
//! }
//! assert_eq!((sources, lost), (vec![1; 8], 93));
//!
//! // One for each: the flood is lost on its own, and the quiet source's record is there at once.
//! let (noisy_tx, mut noisy) = event::channel::<Smmuv3Event>(&options)?;
//! let (quiet_tx, mut quiet) = event::channel::<Smmuv3Event>(&options)?;
//! for _ in 0..100 {
//!     noisy_tx.post(fault(0))?;
//! }
//! quiet_tx.post(fault(7))?;
//! drop((noisy_tx, quiet_tx));
//! let first = quiet.recv()?;
//! assert_eq!((first.lost(), first.record()), (0, Some(&fault(7))));
//! assert!(quiet.recv().is_err(), "and nothing was lost behind it");
//! let mut lost = 0;
//! while let Ok(item) = noisy.recv() {
//!     lost += item.lost();
//! }
//! assert_eq!(lost, 92);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Fork
//!
//! An end belongs to the process that made or attached it. It crosses fork and exec only as an unattached descriptor:
//! **attach it after the fork.** A program that makes its devices before it forks keeps the
//! [`UnattachedEnd`] and attaches that in the child. A router is made in the child, too.
//!
//! A child that only inherited the memory of an end cannot use it. Every call fails with `NotThisProcess` (`EPERM`)
//! before it touches anything, also a call that would wait; a record, a reply or a group is given back. A call that
//! returns no error does nothing: it returns 0, `None` or an empty value, and `is_closed` returns true. Only numbers that
//! never change, such as a capacity or a cookie, are still there. Dropping the end
//! there closes the child's descriptors and does nothing to the channel. `as_fd` still returns the descriptor. The same
//! goes for routers, and for what must be answered: a group, a request or a piece of work is answered by the process
//! that received it, and by no other.
//!
//! A child is noticed whatever made it, fork(3) or a bare clone(2), on Linux 6.11 and later. On older kernels a child
//! of a bare clone(2) may use what it inherited until it drops something of it or attaches an end itself. On every
//! kernel such a child is taken for its parent if both have the same number in different pid namespaces; a child of
//! fork(3) is not. A child of vfork(2) must exec before it calls anything here.
//!
//! A socket hangs up when the last copy of its descriptor is closed. Every end is close-on-exec, but a
//! child of fork holds copies until it execs, and one that never does, a jailed device process, holds
//! them for good unless it closes them (`close_range(2)`): so long the other side sees `Empty`, not
//! `Closed`. In shared memory that goes for an end that was killed; one that was dropped says so itself.

mod mixed;
mod receiver;
mod sender;
mod sole;
mod stream;

pub use receiver::{Received, Receiver, ReceiverCounters};
pub use sender::Sender;
pub use sole::SoleSender;
pub use stream::SenderCounters;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use recordfd_uapi::{ChannelInfo, EventRecord, Format, Transport};

use crate::channel::{Options, UnattachedEnd};
use crate::error::Error;
use crate::transport::{Remote, Tx, shared as ring_carrier, socket as carrier};
#[cfg(feature = "local")]
use crate::transport::{Rx, RxCarrier, local};

/// Makes a channel between threads of this process; the sender can be cloned.
///
/// # Errors
///
/// [`Error::Option`] for a depth out of range, [`Error::Os`] when no descriptor can be had.
///
/// # Examples
///
/// ```
/// use recordfd::event::{self, Received};
/// use recordfd::uapi::{Le64, Tegra241CmdqvEvent};
/// use recordfd::{Options, TryRecvError};
///
/// let (tx, mut rx) = event::channel::<Tegra241CmdqvEvent>(&Options::new())?;
/// let event = Tegra241CmdqvEvent { lvcmdq_err_map: [Le64::new(1), Le64::new(0)] };
/// tx.try_send(event)?;
/// drop(tx);
/// assert!(matches!(rx.try_recv()?, Received::Record { record, .. } if record == event));
/// assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "local")]
pub fn channel<R: EventRecord>(options: &Options) -> Result<(Sender<R>, Receiver<R>), Error> {
    options.check()?;
    let (records_tx, records_rx) = local::direction::<R::Wire>(options.depth)?;
    let (replies_tx, replies_rx) = local::direction::<R::Reply>(options.reply_depth)?;
    let sender = Sender::new(Tx::Local(records_tx), Rx::new(RxCarrier::Local(replies_rx)), options.overflow);
    let receiver =
        Receiver::new(Rx::new(RxCarrier::Local(records_rx)), Tx::Local(replies_tx), options.busy_poll);
    Ok((sender, receiver))
}

/// Makes a channel to another process: this one keeps the sender and gives the receiver's end away.
///
/// # Errors
///
/// [`Error::Option`] for a depth out of range, [`Error::Unsupported`] for
/// [`Overflow::DropOldest`](crate::Overflow::DropOldest),
/// [`Error::Os`] when no socket can be had.
///
/// # Examples
///
/// ```
/// use recordfd::Options;
/// use recordfd::event::{self, Received, Receiver};
/// use recordfd::uapi::{AcpiNotify, FixedText, Format};
///
/// let (tx, end) = event::socket::<AcpiNotify>(&Options::new())?;
/// // `end` goes to the other process, which attaches it:
/// let mut rx = Receiver::<AcpiNotify>::from_socket(end.into(), Format::ACPI_NOTIFY_V1)?;
///
/// let bus_check = AcpiNotify {
///     dev_id: 0,
///     value: 0,
///     data: 0,
///     cookie: 0,
///     bus_id: FixedText::new("ACPI0003:00")?,
///     device_class: FixedText::new("ac_adapter")?,
/// };
/// tx.try_send(bus_check)?;
/// assert!(matches!(rx.recv()?, Received::Record { record, .. } if record == bus_check));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn socket<R: EventRecord>(options: &Options) -> Result<(Sender<R>, UnattachedEnd), Error> {
    options.check_for_processes()?;
    let (near, far) = carrier::pair(None)?;
    let depth = carrier::set_depth::<R::Wire>(&near, options.depth)?;
    carrier::set_depth::<R::Reply>(&far, options.reply_depth)?;
    let near = Remote::Socket(Arc::new(near));
    let sender = Sender::new(Tx::Remote(near.tx(depth)), near.rx(), options.overflow);
    Ok((sender, UnattachedEnd::from_parts(far, ChannelInfo::new(R::FORMAT, Transport::SOCKET, depth))))
}

/// Makes a channel to another process: this one keeps the receiver and gives the sender's end away.
///
/// This is the way for untrusted devices: the VMM makes the channel and hands the producing end out.
///
/// # Errors
///
/// As [`socket`].
///
/// # Examples
///
/// ```
/// use recordfd::Options;
/// use recordfd::event::{self, Sender};
/// use recordfd::uapi::{Le64, Smmuv3Event};
///
/// let (mut rx, end) = event::socket_receiver::<Smmuv3Event>(&Options::new().depth(64))?;
/// let info = end.info();
/// // `end` and `info` go to the other process, which attaches it:
/// let tx = Sender::<Smmuv3Event>::from_socket(end.into(), info.format, info.depth)?;
/// tx.try_send(Smmuv3Event { evt: [Le64::new(4); 4] })?;
/// assert_eq!(rx.try_recv()?.lost(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn socket_receiver<R: EventRecord>(options: &Options) -> Result<(Receiver<R>, UnattachedEnd), Error> {
    options.check_for_processes()?;
    let (near, far) = carrier::pair(None)?;
    let depth = carrier::set_depth::<R::Wire>(&far, options.depth)?;
    let reply_depth = carrier::set_depth::<R::Reply>(&near, options.reply_depth)?;
    let near = Remote::Socket(Arc::new(near));
    let receiver = Receiver::new(near.rx(), Tx::Remote(near.tx(reply_depth)), options.busy_poll);
    Ok((receiver, UnattachedEnd::from_parts(far, ChannelInfo::new(R::FORMAT, Transport::SOCKET, depth))))
}

/// Makes a channel in shared memory to another process: this one keeps the sender and gives the receiver's end
/// away.
///
/// Sending and receiving take no system call while both sides are busy. The end is a socket like any other
/// channel's: it may be passed on until someone attaches it with [`Receiver::from_shared`], which this library
/// must do; other programs cannot read records from it.
///
/// # Errors
///
/// [`Error::Option`] for a depth out of range, [`Error::Unsupported`] for
/// [`Overflow::DropOldest`](crate::Overflow::DropOldest), [`Error::TooManyInFlight`] when a user has too many
/// unattached ends, [`Error::Os`] when no memory or socket can be had.
///
/// # Examples
///
/// ```
/// use recordfd::Options;
/// use recordfd::event::{self, Receiver};
/// use recordfd::uapi::{AcpiNotify, AcpiOst, FixedText};
///
/// let (mut tx, end) = event::shared::<AcpiNotify>(&Options::new().depth(64))?;
/// // `end` goes to the other process, which attaches it:
/// let mut rx = Receiver::<AcpiNotify>::from_shared(end.into())?;
///
/// let (bus_id, device_class) = (FixedText::new("PCI0")?, FixedText::EMPTY);
/// tx.try_send(AcpiNotify { dev_id: 0, value: 3, data: 0, cookie: 9, bus_id, device_class })?;
/// let received = rx.recv()?;
/// rx.reply(AcpiOst::new(received.record().unwrap().cookie, 3, 0))?;
/// assert_eq!(tx.try_recv_reply()?.cookie, 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shared<R: EventRecord>(options: &Options) -> Result<(SoleSender<R>, UnattachedEnd), Error> {
    let (port, far, depth) = make_shared::<R>(options, true)?;
    Ok((SoleSender::new(&port), end::<R>(far, depth)))
}

/// Makes a channel in shared memory to another process: this one keeps the receiver and gives the sender's end
/// away.
///
/// # Errors
///
/// As [`shared`].
///
/// # Examples
///
/// ```
/// use recordfd::Options;
/// use recordfd::event::{self, SoleSender};
/// use recordfd::uapi::{Le64, Smmuv3Event};
///
/// let (mut rx, end) = event::shared_receiver::<Smmuv3Event>(&Options::new().depth(64))?;
/// // `end` goes to the other process, which attaches it:
/// let mut tx = SoleSender::<Smmuv3Event>::from_shared(end.into())?;
/// tx.try_send(Smmuv3Event { evt: [Le64::new(4); 4] })?;
/// assert_eq!(rx.try_recv()?.lost(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shared_receiver<R: EventRecord>(options: &Options) -> Result<(Receiver<R>, UnattachedEnd), Error> {
    let (port, far, depth) = make_shared::<R>(options, false)?;
    let replies = Tx::Remote(port.tx(u32::MAX));
    Ok((Receiver::new(port.rx(), replies, options.busy_poll), end::<R>(far, depth)))
}

fn make_shared<R: EventRecord>(options: &Options, sends: bool) -> Result<(Remote, OwnedFd, u32), Error> {
    options.check_for_processes()?;
    let (port, far, depth) = ring_carrier::make(R::FORMAT, sends, options.depth, options.reply_depth)?;
    Ok((Remote::Shared(port), far, depth))
}

fn end<R: EventRecord>(far: OwnedFd, depth: u32) -> UnattachedEnd {
    UnattachedEnd::from_parts(far, ChannelInfo::new(R::FORMAT, Transport::SHARED, depth))
}

/// Checks that `format` is the one `R` stands for.
fn check_format<R: EventRecord>(found: Format) -> Result<(), Error> {
    if found == R::FORMAT { Ok(()) } else { Err(Error::Format { expected: R::FORMAT, found }) }
}
