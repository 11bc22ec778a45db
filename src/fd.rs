//! Descriptors on their way between processes: over a socket, or inherited across exec.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::error::Error;
use crate::sys;

/// Sends `bytes` and a duplicate of `descriptor` over a socket, as one message.
///
/// Waits for room if the socket is in blocking mode.
///
/// # Errors
///
/// [`Error::Option`] when `bytes` is empty (a descriptor cannot travel alone on a stream),
/// [`Error::Closed`] when the other side is gone, [`Error::Os`] for everything else: `EAGAIN` on a
/// non-blocking socket without room, `ETOOMANYREFS` when too many descriptors are under way.
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
    let rights = [ControlMessage::ScmRights(&numbers)];
    loop {
        let socket = socket.as_fd().as_raw_fd();
        let sent = sendmsg::<()>(socket, &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None);
        return match sent {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => Err(Error::os("sendmsg", Errno::EMSGSIZE)),
            Err(Errno::EINTR) => continue,
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(Error::Closed),
            Err(errno) => Err(Error::os("sendmsg", errno)),
        };
    }
}

/// Receives bytes and the one descriptor that came with them; returns how many bytes, and it.
///
/// The descriptor is close-on-exec. Any further one on the same message is closed: a peer cannot fill
/// this process's table. Waits if the socket is in blocking mode.
///
/// # Errors
///
/// [`Error::Option`] when `bytes` is empty, [`Error::NoDescriptor`] when no descriptor came,
/// [`Error::DescriptorsCutOff`] when the kernel could not deliver all (this process's table is full) and
/// those that came were closed, [`Error::Closed`] at the end of the stream, [`Error::Os`] for everything
/// else.
pub fn recv_descriptor(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, OwnedFd), Error> {
    if bytes.is_empty() {
        let reason = "a message takes at least a byte";
        return Err(Error::Option { name: "bytes", value: 0, reason });
    }
    let received = sys::recv_descriptors(socket.as_fd(), bytes);
    match received.map_err(|source| Error::os("recvmsg", source))? {
        (_, _, true) => Err(Error::DescriptorsCutOff),
        (0, None, _) => Err(Error::Closed),
        (_, None, _) => Err(Error::NoDescriptor),
        (length, Some(descriptor), _) => Ok((length, descriptor)),
    }
}

/// Takes over a descriptor that this process inherited, by its number.
///
/// The number usually comes from the command line or the environment. A descriptor that this process
/// opened itself is refused: it is close-on-exec, which one that crossed an exec never is. The flag is
/// set here, so the descriptor does not leak into children and cannot be taken twice.
///
/// # Errors
///
/// [`Error::NotInherited`] when no such descriptor is open, or it was not inherited.
pub fn inherit(number: RawFd) -> Result<OwnedFd, Error> {
    match sys::take_inherited(number) {
        Ok(Some(descriptor)) => Ok(descriptor),
        Ok(None) => Err(Error::NotInherited { number, source: None }),
        Err(source) => Err(Error::NotInherited { number, source: Some(source) }),
    }
}
