//! How a channel is made: options, and the end that is given away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use recordfd_uapi::{ChannelInfo, Record, Transport};

use crate::error::{Error, Rejected};
use crate::fd;

/// The most records a queue may hold.
const MOST_DEPTH: u32 = 1 << 20;

/// Checks that a queue can have room for `value`, the option `name`.
pub(crate) fn check_depth(name: &'static str, value: u32) -> Result<(), Error> {
    if value == 0 || value > MOST_DEPTH {
        let reason = "it must be from 1 to 1048576";
        return Err(Error::Option { name, value: value.into(), reason });
    }
    Ok(())
}

/// The deepest channel that is attached if nothing else is said: [`UnattachedEnd::max_depth`].
pub(crate) const DEFAULT_MAX_DEPTH: u32 = 1 << 16;

/// Checks that a channel whose maker has told `depth` may be attached.
pub(crate) fn check_told_depth(depth: u32, max_depth: u32) -> Result<(), Error> {
    if depth > max_depth { Err(Error::TooDeep { depth, max_depth }) } else { Ok(()) }
}

/// What `post` drops when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The record being posted, as the kernel does.
    #[default]
    DropNewest,
    /// The oldest unread record, so that the last state is always delivered. On the local transport
    /// only: elsewhere what is queued is out of the sender's hands.
    DropOldest,
}

/// Options of a new channel.
///
/// ```
/// use recordfd::{Options, Overflow};
/// let options = Options::new().depth(512).overflow(Overflow::DropOldest);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) depth: u32,
    pub(crate) reply_depth: u32,
    pub(crate) overflow: Overflow,
    pub(crate) busy_poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Depth 256 for records and 64 for replies, drop the newest, no busy polling.
    pub const fn new() -> Self {
        Self { depth: 256, reply_depth: 64, overflow: Overflow::DropNewest, busy_poll: Duration::ZERO }
    }

    /// How many records may wait unread, from 1 to 2^20.
    ///
    /// On a socket this counts writes and is at least 2; it may end up lower, where the system limits
    /// send buffers. In shared memory it is rounded up to a power of two. What it really is, the sender's
    /// `capacity` tells.
    #[must_use]
    pub const fn depth(mut self, records: u32) -> Self {
        self.depth = records;
        self
    }

    /// How many replies may wait unread, from 1 to 2^20. Of no effect where the format has none.
    #[must_use]
    pub const fn reply_depth(mut self, replies: u32) -> Self {
        self.reply_depth = replies;
        self
    }

    /// What `post` drops when the queue is full.
    #[must_use]
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// How long a blocking receive looks for records before it sleeps.
    ///
    /// A wake-up costs tens of microseconds where a look at a queue costs nanoseconds. Worth it on a
    /// processor that has nothing else to do, and only there: who shares one with the sender keeps it from sending.
    /// Zero, the default, sleeps at once. On a shared channel a receiver
    /// that does so leaves a wake-up in its descriptor that tells the sender to put in no other: behind a receive
    /// that brought something the descriptor may read as readable once with nothing to receive.
    #[must_use]
    pub const fn busy_poll(mut self, busy_poll: Duration) -> Self {
        self.busy_poll = busy_poll;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check_depth("depth", self.depth)?;
        check_depth("reply_depth", self.reply_depth)
    }

    pub(crate) fn check_for_processes(&self) -> Result<(), Error> {
        if self.overflow == Overflow::DropOldest {
            let reason = "what another process may be reading cannot be taken back to drop the oldest";
            return Err(Error::Unsupported { reason });
        }
        self.check()
    }
}

/// The end of a channel that is given away: a descriptor, and what is to be known about it.
///
/// It may be passed on through any number of processes: as a child's inherited descriptor
/// ([`OwnedFd::from`]), or over a socket ([`send_over`](Self::send_over)). Whoever uses it attaches it
/// as a sender or receiver; from then on it stays in that process.
#[derive(Debug)]
pub struct UnattachedEnd {
    socket: OwnedFd,
    info: ChannelInfo,
    max_depth: u32,
}

impl UnattachedEnd {
    /// The end that `socket` is, which came by other means than [`recv_from`](Self::recv_from): inherited as
    /// [standard input](fd::take_stdin), or in a message of the caller's own. `info` is what its maker told.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use recordfd::event::Receiver;
    /// use recordfd::uapi::{AcpiNotify, ChannelInfo, Format, Transport};
    /// use recordfd::{Error, UnattachedEnd, fd};
    ///
    /// let info = ChannelInfo::new(Format::ACPI_NOTIFY_V1, Transport::SHARED, 256);
    /// let rx = Receiver::<AcpiNotify>::attach(UnattachedEnd::from_parts(fd::take_stdin()?, info))?;
    /// # let _ = rx;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn from_parts(socket: OwnedFd, info: ChannelInfo) -> Self {
        Self { socket, info, max_depth: DEFAULT_MAX_DEPTH }
    }

    /// The deepest channel that this process attaches, 65,536 if nothing is said.
    ///
    /// The maker chooses the depth, up to 2^20, and whoever attaches the end sets room aside for as many groups or
    /// requests: some 8 MB by default where they are reported, up to 117 MB without a limit. A deeper channel is
    /// refused with [`Error::TooDeep`] before anything is allocated, and the end is given back. In shared memory the limit goes
    /// for replies, too.
    ///
    /// What counts is the depth that [`info`](Self::info) has: rounded up to a power of two in shared memory, at least 2
    /// on a socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use recordfd::Error;
    /// use recordfd::fault::{self, FaultResponder, Options};
    ///
    /// let (_reporter, end) = fault::shared(&Options::new().depth(256))?;
    /// let rejected = FaultResponder::attach(end.max_depth(64)).unwrap_err();
    /// assert!(matches!(rejected.error(), Error::TooDeep { depth: 256, max_depth: 64 }));
    /// let _responder = FaultResponder::attach(rejected.into_inner().max_depth(256))?;
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn max_depth(mut self, records: u32) -> Self {
        self.max_depth = records;
        self
    }

    /// Attaches it by `shared`, whose last argument is the most that the Offer may say, or by `socket`, with what its
    /// maker told; gives this end back if they give its socket back.
    pub(crate) fn attach_by<T>(
        self,
        shared: impl FnOnce(OwnedFd, u32) -> Result<T, Rejected<OwnedFd>>,
        socket: impl FnOnce(OwnedFd, ChannelInfo) -> Result<T, Rejected<OwnedFd>>,
    ) -> Result<T, Rejected<Self>> {
        let (end, ()) = Rejected::unless(self, Self::check)?;
        let Self { info, max_depth, .. } = end;
        let attached = match info.transport {
            Transport::SHARED => shared(end.socket, max_depth),
            _ => socket(end.socket, info),
        };
        attached.map_err(|rejected| rejected.map(|socket| Self { socket, info, max_depth }))
    }

    fn check(&self) -> Result<(), Error> {
        self.check_transport()?;
        check_told_depth(self.info.depth, self.max_depth)
    }

    fn check_transport(&self) -> Result<(), Error> {
        if [Transport::SOCKET, Transport::SHARED].contains(&self.info.transport) {
            return Ok(());
        }
        Err(Error::Unsupported { reason: "the end is of a transport that cannot be passed on" })
    }

    /// Format, transport and depth: what the one who attaches it must know.
    pub fn info(&self) -> ChannelInfo {
        self.info
    }

    /// Passes the end on over a socket, the description along with the descriptor.
    ///
    /// # Errors
    ///
    /// What [`fd::send_descriptor`] says, with the end: the description is one small write, which the socket takes
    /// whole or not at all.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    ///
    /// use recordfd::event::{self, Receiver};
    /// use recordfd::uapi::AcpiNotify;
    /// use recordfd::{Options, UnattachedEnd};
    ///
    /// let (vmm, jail) = UnixStream::pair()?;
    /// let (_tx, end) = event::socket::<AcpiNotify>(&Options::new())?;
    /// end.send_over(&vmm)?;
    /// // In the other process:
    /// let end = UnattachedEnd::recv_from(&jail)?;
    /// let format = end.info().format;
    /// let _rx = Receiver::<AcpiNotify>::from_socket(end.into(), format)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_over(self, socket: impl AsFd) -> Result<(), Rejected<Self>> {
        let mut bytes = [0; ChannelInfo::SIZE];
        self.info.encode(&mut bytes);
        Rejected::unless(self, |end| fd::send_descriptor(socket, &bytes, end.as_fd())).map(drop)
    }

    /// Receives an end that was passed on with [`send_over`](Self::send_over).
    ///
    /// # Errors
    ///
    /// What [`fd::recv_descriptor`] says, [`Error::Description`] when what came with the descriptor is
    /// not a description, [`Error::Unsupported`] when it is that of a transport whose ends are not passed on.
    pub fn recv_from(socket: impl AsFd) -> Result<Self, Error> {
        let mut bytes = [0; ChannelInfo::SIZE];
        let (length, descriptor) = fd::recv_descriptor(socket, &mut bytes)?;
        let info = ChannelInfo::decode(&bytes[..length]).map_err(Error::Description)?;
        let end = Self::from_parts(descriptor, info);
        end.check_transport()?;
        Ok(end)
    }
}

impl AsFd for UnattachedEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<UnattachedEnd> for OwnedFd {
    fn from(end: UnattachedEnd) -> Self {
        end.socket
    }
}
