//! What can go wrong, by operation.
//!
//! * Setting up and passing descriptors: [`Error`], which names the call and keeps its source.
//! * Calls that take an end, a descriptor or a reporter: [`Rejected`], which gives it back, with that [`Error`].
//! * Sending and replying: [`TrySendError`], which gives the value back.
//! * Receiving: [`TryRecvError`]; what a peer did wrong is a [`Violation`] inside it.
//! * Answering what must be answered: [`RespondError`], which gives the group back.
//! * Waiting for the queue to be read: [`DrainError`].
//!
//! A process that has only inherited an end by fork gets `NotThisProcess` from each call of it: see
//! [the module on events](crate::event#fork).
//!
//! Each has an `errno()`: what a C program on the same descriptor would see.

use std::fmt;
use std::io;

use recordfd_uapi::{Format, OfferError, RecordError};

/// Setting up a channel or passing a descriptor failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that no channel can have.
    #[error("option {name} cannot be {value}: {reason}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// The transport cannot do what an option asks for.
    #[error("the transport cannot do it: {reason}")]
    Unsupported {
        /// Why it cannot.
        reason: &'static str,
    },
    /// The format named by the caller is not the one the type stands for.
    #[error("the channel carries {found}, not {expected}")]
    Format {
        /// The format of the record type.
        expected: Format,
        /// The format named.
        found: Format,
    },
    /// The descriptor is no connected Unix stream socket: no socket at all (`ENOTSOCK`), one of another family or type
    /// (`EPROTOTYPE`), or one that listens or has no peer (`ENOTCONN`).
    #[error("the descriptor is not a connected Unix stream socket")]
    NotAUnixStream(#[source] io::Error),
    /// A message came without the descriptor it should carry.
    #[error("the message carries no descriptor")]
    NoDescriptor,
    /// The kernel cut the descriptor off a message: this process has as many open as it may, or a socket option such as
    /// `SO_PASSCRED` has the kernel add what takes the room.
    #[error("the descriptor was cut off the message")]
    DescriptorsCutOff,
    /// The bytes that came with a descriptor do not describe a channel.
    #[error("the message does not describe a channel")]
    Description(#[source] RecordError),
    /// More descriptors are on their way over sockets than the user may have open; a privileged user may have
    /// any number (`ETOOMANYREFS`).
    #[error("too many descriptors are under way over sockets")]
    TooManyInFlight,
    /// What should describe a shared channel is no offer.
    #[error("the end does not describe a shared channel")]
    Offer(#[source] OfferError),
    /// The offer of a shared channel describes one that cannot be.
    #[error("the offer is refused: {reason}")]
    BadOffer {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The channel has room for more records than this process allows
    /// ([`UnattachedEnd::max_depth`](crate::UnattachedEnd::max_depth)).
    #[error("the channel has depth {depth}, and at most {max_depth} is allowed")]
    TooDeep {
        /// The depth that its maker told.
        depth: u32,
        /// The most that is allowed.
        max_depth: u32,
    },
    /// The end is that of the other side: a sender's or reporter's where a receiver or responder was to be
    /// attached, or the other way round.
    #[error("the end is for the other side of a channel")]
    WrongEnd,
    /// No offer is there: the end was attached before, or is none of a shared channel.
    #[error("the end was attached already, or is none of a shared channel")]
    AlreadyAttached,
    /// The end is that of a shared channel: attach it with `from_shared`, or [`UnattachedEnd`](crate::UnattachedEnd)
    /// with `attach`.
    #[error("the end is of a shared channel, not of a socket")]
    SharedEnd,
    /// The other side has hung up.
    #[error("the other side has hung up")]
    Closed,
    /// This process has only inherited it, by fork (`EPERM`): attach the end after the fork.
    #[error("{}", NotThisProcess)]
    NotThisProcess,
    /// A system call failed.
    #[error("{call} failed")]
    Os {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn os(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Os { call, source: source.into() }
    }

    /// The errno a C program would see in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Option { .. } | Self::Format { .. } | Self::Description(_) => libc::EINVAL,
            Self::BadOffer { .. } | Self::WrongEnd | Self::SharedEnd => libc::EINVAL,
            Self::Offer(source) => source.errno(),
            Self::TooDeep { .. } => libc::E2BIG,
            Self::AlreadyAttached => libc::EBUSY,
            Self::TooManyInFlight => libc::ETOOMANYREFS,
            Self::Unsupported { .. } => libc::EOPNOTSUPP,
            Self::NoDescriptor => libc::ENODATA,
            Self::DescriptorsCutOff => libc::EMFILE,
            Self::Closed => libc::EPIPE,
            Self::NotThisProcess => libc::EPERM,
            Self::NotAUnixStream(source) | Self::Os { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
        }
    }
}

/// A call refused the end, descriptor or reporter that it was given, and gives it back.
///
/// What is given back is as it was: nothing was read from it, and its peer sees no hang-up. `?` in a function that
/// returns [`enum@Error`] drops it.
///
/// # Examples
///
/// ```
/// use recordfd::event::{self, Receiver};
/// use recordfd::uapi::{AcpiNotify, Smmuv3Event};
/// use recordfd::{Error, Options};
///
/// let (tx, end) = event::socket::<AcpiNotify>(&Options::new())?;
/// let rejected = Receiver::<Smmuv3Event>::attach(end).unwrap_err();
/// assert!(matches!(rejected.error(), Error::Format { .. }));
/// let _rx = Receiver::<AcpiNotify>::attach(rejected.into_inner())?;
/// assert!(!tx.is_closed());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Rejected<T> {
    value: T,
    error: Error,
}

impl<T> Rejected<T> {
    /// Keeps `value` if `check` passes it; returns what `check` found, too.
    pub(crate) fn unless<U>(value: T, check: impl FnOnce(&T) -> Result<U, Error>) -> Result<(T, U), Self> {
        match check(&value) {
            Ok(found) => Ok((value, found)),
            Err(error) => Err(Self { value, error }),
        }
    }

    /// The same reason with what `f` makes of the value.
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> Rejected<U> {
        Rejected { value: f(self.value), error: self.error }
    }

    /// Why the call refused.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// What the call was given.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// What the call was given, and why it refused.
    pub fn into_parts(self) -> (T, Error) {
        (self.value, self.error)
    }

    /// The errno a C program would see in the same place.
    pub fn errno(&self) -> i32 {
        self.error.errno()
    }
}

impl<T> From<Rejected<T>> for Error {
    /// Drops what was given back.
    fn from(rejected: Rejected<T>) -> Self {
        rejected.error
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T: fmt::Debug> std::error::Error for Rejected<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// A record or reply was not accepted; it is given back.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrySendError<T> {
    /// The queue is full now (`EAGAIN`).
    Full(T),
    /// Nobody will read it: the other side is gone (`EPIPE`).
    Closed(T),
    /// This process has only inherited it, by fork (`EPERM`): attach the end after the fork.
    NotThisProcess(T),
    /// The system call failed for another reason.
    Io(T, io::Error),
}

impl<T> TrySendError<T> {
    /// The value that was not accepted.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Closed(value) | Self::NotThisProcess(value) | Self::Io(value, _) => {
                value
            }
        }
    }

    /// The errno of send(2) in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Full(_) => libc::EAGAIN,
            Self::Closed(_) => libc::EPIPE,
            Self::NotThisProcess(_) => libc::EPERM,
            Self::Io(_, source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// The same reason with another value.
    pub(crate) fn with<U>(self, value: U) -> TrySendError<U> {
        match self {
            Self::Full(_) => TrySendError::Full(value),
            Self::Closed(_) => TrySendError::Closed(value),
            Self::NotThisProcess(_) => TrySendError::NotThisProcess(value),
            Self::Io(_, source) => TrySendError::Io(value, source),
        }
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the queue is full",
            Self::Closed(_) => "the other side is gone",
            Self::NotThisProcess(_) => NotThisProcess::TEXT,
            Self::Io(..) => "sending failed",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for TrySendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}

/// An answer to what must be answered was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum RespondError<T> {
    /// There is no room for it now: the reporter does not read its answers (`EAGAIN`).
    WouldBlock(T),
    /// No open group goes by the cookie: not received yet, answered before, or completed without its
    /// answer (`EINVAL`).
    StaleCookie,
    /// The format has no such code, and the group stays open (`EINVAL`).
    Code,
    /// The reporter is gone (`EPIPE`).
    Closed,
    /// This process has only inherited it, by fork (`EPERM`): attach the end after the fork.
    NotThisProcess(T),
    /// The system call failed for another reason.
    Io(T, io::Error),
}

impl<T> RespondError<T> {
    /// The same of what `f` makes of the group.
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> RespondError<U> {
        match self {
            Self::WouldBlock(group) => RespondError::WouldBlock(f(group)),
            Self::StaleCookie => RespondError::StaleCookie,
            Self::Code => RespondError::Code,
            Self::Closed => RespondError::Closed,
            Self::NotThisProcess(group) => RespondError::NotThisProcess(f(group)),
            Self::Io(group, source) => RespondError::Io(f(group), source),
        }
    }

    /// The errno of write(2) in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::WouldBlock(_) => libc::EAGAIN,
            Self::StaleCookie | Self::Code => libc::EINVAL,
            Self::Closed => libc::EPIPE,
            Self::NotThisProcess(_) => libc::EPERM,
            Self::Io(_, source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl<T> fmt::Display for RespondError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WouldBlock(_) => "there is no room for the answer now",
            Self::StaleCookie => "no open group goes by the cookie",
            Self::Code => "the format has no such code",
            Self::Closed => "the reporter is gone",
            Self::NotThisProcess(_) => NotThisProcess::TEXT,
            Self::Io(..) => "answering failed",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for RespondError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}

impl From<TrySendError<()>> for RespondError<()> {
    fn from(error: TrySendError<()>) -> Self {
        match error {
            TrySendError::Full(()) => Self::WouldBlock(()),
            TrySendError::Closed(()) => Self::Closed,
            TrySendError::NotThisProcess(()) => Self::NotThisProcess(()),
            TrySendError::Io((), source) => Self::Io((), source),
        }
    }
}

/// There is nothing to receive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// Nothing is there now, or nothing came in time (`EAGAIN`).
    #[error("nothing to receive")]
    Empty,
    /// The other side is gone and everything it sent has been received (read(2) gives 0).
    #[error("the other side is gone")]
    Closed,
    /// The peer broke the format; the channel is of no further use (`EPROTO`).
    #[error("the peer broke the format")]
    PeerViolation(#[source] Violation),
    /// The next group of records has more of them than the caller's slice; it stays where it is
    /// (`EINVAL`).
    #[error("the next group needs room for {needed} records at least")]
    BufferTooSmall {
        /// Records that there must be room for, as far as is known.
        needed: usize,
    },
    /// This process has only inherited it, by fork (`EPERM`): attach the end after the fork.
    #[error("{}", NotThisProcess)]
    NotThisProcess,
    /// The system call failed for another reason.
    #[error("receiving failed")]
    Io(#[source] io::Error),
}

impl TryRecvError {
    /// The errno of recv(2) in the same place; 0 for end of file.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Empty => libc::EAGAIN,
            Self::Closed => 0,
            Self::PeerViolation(_) => libc::EPROTO,
            Self::BufferTooSmall { .. } => libc::EINVAL,
            Self::NotThisProcess => libc::EPERM,
            Self::Io(source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes are not a record of the format.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The stream ended in the middle of a record.
    #[error("the stream ends {found} bytes into a record of {size}")]
    TornRecord {
        /// Bytes of the record that came.
        found: usize,
        /// Bytes it should have.
        size: usize,
    },
    /// An index of a shared ring went backwards, or further than the ring is deep.
    #[error("an index of the ring went where it cannot be")]
    RingIndex,
    /// A byte in the socket of a shared channel that stands for no wake-up.
    #[error("a wake-up that nothing was there for")]
    StrayToken,
    /// A loss notice that stands for no loss.
    #[error("a loss notice that stands for no lost record")]
    NothingLost,
    /// A sequence number is not after the one before it, or by more than a channel loses: the sender was started anew
    /// on a descriptor that was kept, or lies.
    #[error("the sequence number went backwards")]
    SequenceBackwards,
    /// A record is missing where none can be lost.
    #[error("a gap in the sequence numbers of a channel that loses nothing")]
    SequenceGap,
    /// A record that must be answered has the cookie 0.
    #[error("a record that must be answered has no cookie")]
    ZeroCookie,
    /// A group comes under a cookie whose group was not answered yet.
    #[error("the cookie {cookie:#x} comes again before it was answered")]
    CookieOpen {
        /// The cookie.
        cookie: u32,
    },
    /// A group has more records than one write holds.
    #[error("a group has more records than one can have")]
    GroupTooLarge,
    /// Something else comes, or the stream ends, before the last record of a group.
    #[error("a group of records was not ended")]
    GroupNotEnded,
    /// The records of a group are not of one device, address space and group index.
    #[error("the records of a group differ in what they belong to")]
    GroupMixed,
    /// More groups are open than the channel's depth allows.
    #[error("more groups are open than the channel allows")]
    TooManyOpen,
}

/// The queue was not read empty.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// Not in time (`ETIMEDOUT`).
    #[error("the queue was not read in time")]
    Timeout,
    /// The other side is gone, and is not known to have read everything (`EPIPE`): on local and shared channels it has
    /// not; on a socket that cannot be known.
    #[error("the other side is gone")]
    Closed,
    /// This process has only inherited it, by fork (`EPERM`): attach the end after the fork.
    #[error("{}", NotThisProcess)]
    NotThisProcess,
    /// A system call failed.
    #[error("waiting failed")]
    Io(#[source] io::Error),
}

impl DrainError {
    /// The errno a C program would see in the same place.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Timeout => libc::ETIMEDOUT,
            Self::Closed => libc::EPIPE,
            Self::NotThisProcess => libc::EPERM,
            Self::Io(source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// A child of fork calls what it has only inherited. Each error of an operation says so in a variant of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotThisProcess;

impl NotThisProcess {
    pub(crate) const TEXT: &str =
        "it belongs to another process, from which this one has inherited it by fork";
}

#[cfg(feature = "mio")]
impl From<NotThisProcess> for io::Error {
    fn from(_: NotThisProcess) -> Self {
        Self::from_raw_os_error(libc::EPERM)
    }
}

impl fmt::Display for NotThisProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::TEXT)
    }
}

/// Makes the variant of that name of it.
macro_rules! not_this_process {
    ($($error:ty: $variant:expr,)*) => {
        $(impl From<NotThisProcess> for $error {
            fn from(_: NotThisProcess) -> Self {
                $variant
            }
        })*
    };
}

not_this_process! {
    Error: Self::NotThisProcess,
    TrySendError<()>: Self::NotThisProcess(()),
    RespondError<()>: Self::NotThisProcess(()),
    TryRecvError: Self::NotThisProcess,
    DrainError: Self::NotThisProcess,
}
