//! Descriptors on their way between processes: over a socket, or as a child's standard input.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::dup2_stdin;

use crate::error::Error;
use crate::sys;

/// Sends `bytes` and a duplicate of `descriptor` over a socket, as one message.
///
/// Waits for room if the socket is in blocking mode.
///
/// # Errors
///
/// [`Error::Option`] when `bytes` is empty (a descriptor cannot travel alone on a stream),
/// [`Error::Closed`] when the other side is gone, [`Error::TooManyInFlight`] when too many descriptors are
/// under way, [`Error::Os`] for everything else: `EAGAIN` on a non-blocking socket without room. Bytes
/// too many for one write may be with the peer in part then, and the descriptor with them.
///
/// # Examples
///
/// ```
/// use std::os::{fd::AsFd, unix::net::UnixStream};
/// let (near, far) = UnixStream::pair()?;
/// let file = std::fs::File::open("/dev/null")?;
/// recordfd::fd::send_descriptor(&near, b"null", file.as_fd())?;
/// let mut bytes = [0; 16];
/// let (length, _file) = recordfd::fd::recv_descriptor(&far, &mut bytes)?;
/// assert_eq!(&bytes[..length], b"null");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn send_descriptor(socket: impl AsFd, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Error> {
    if bytes.is_empty() {
        let reason = "a descriptor cannot travel without a byte";
        return Err(Error::Option { name: "bytes", value: 0, reason });
    }
    let numbers = [descriptor.as_raw_fd()];
    let with_it = [ControlMessage::ScmRights(&numbers)];
    // The descriptor travels with the first byte; a stream may take the others later.
    let (mut rest, mut rights) = (bytes, &with_it[..]);
    while !rest.is_empty() {
        let socket = socket.as_fd().as_raw_fd();
        match sendmsg::<()>(socket, &[IoSlice::new(rest)], rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) => (rest, rights) = (&rest[sent..], &[]),
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Error::Closed),
            Err(Errno::ETOOMANYREFS) => return Err(Error::TooManyInFlight),
            Err(errno) => return Err(Error::os("sendmsg", errno)),
        }
    }
    Ok(())
}

/// Receives bytes and the one descriptor that came with them; returns how many bytes, and it.
///
/// The descriptor is close-on-exec. The kernel drops any further one on the same message before it comes into
/// this process's table. Waits if the socket is in blocking mode.
///
/// **Pitfall:** closing a descriptor may wait for the peer that sent it: a TCP socket that lingers (`SO_LINGER`), a file
/// of a FUSE server that does not answer. The kernel closes further ones in this call, and the caller closes what it
/// returns. If the peer is not trusted, use a thread that nothing else needs.
///
/// # Errors
///
/// [`Error::Option`] when `bytes` is empty, [`Error::NoDescriptor`] when no descriptor came,
/// [`Error::DescriptorsCutOff`] when the kernel could not deliver it (this process's table is full, or `SO_PASSCRED` or
/// `SO_PASSSEC` is set on the socket), [`Error::Closed`] at the end of the stream, [`Error::Os`] for everything
/// else.
pub fn recv_descriptor(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, OwnedFd), Error> {
    if bytes.is_empty() {
        let reason = "a message takes at least a byte";
        return Err(Error::Option { name: "bytes", value: 0, reason });
    }
    let received = sys::recv_descriptor(socket.as_fd(), bytes, 0);
    match received.map_err(|source| Error::os("recvmsg", source))? {
        (length, Some(descriptor), _) => Ok((length, descriptor)),
        (0, None, _) => Err(Error::Closed),
        (_, None, true) => Err(Error::DescriptorsCutOff),
        (_, None, false) => Err(Error::NoDescriptor),
    }
}

/// Takes over the descriptor that this process was started with as its standard input.
///
/// The safe way to hand a child its end: `Command::stdin` takes an `OwnedFd`, and no other code of the
/// child owns descriptor 0. It is replaced by `/dev/null`, so the end is closed when what is returned
/// here is dropped, and a second call takes over nothing of use. An end inherited under another number
/// is taken with [`OwnedFd::from_raw_fd`](std::os::fd::FromRawFd::from_raw_fd), whose caller must know
/// that nobody else owns it.
///
/// # Errors
///
/// [`Error::Os`] when descriptor 0 cannot be duplicated or `/dev/null` cannot be opened.
pub fn take_stdin() -> Result<OwnedFd, Error> {
    let taken = std::io::stdin().as_fd().try_clone_to_owned();
    let taken = taken.map_err(|source| Error::os("fcntl", source))?;
    let null = File::open("/dev/null").map_err(|source| Error::os("open", source))?;
    dup2_stdin(null).map_err(|errno| Error::os("dup2", errno))?;
    Ok(taken)
}
