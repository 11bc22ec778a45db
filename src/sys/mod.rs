//! Every unsafe call of the crate, and nothing else.
//!
//! What nix offers as a safe call is used where it is needed; here is what nix lacks.

// UNSAFETY: calls into libc, and descriptors taken over by number.
#![expect(unsafe_code)]

mod scm;

pub(crate) use scm::recv_descriptors;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Bytes of send buffer that what was written to a socket and not read yet takes up (`SIOCOUTQ`).
///
/// On AF_UNIX this is the memory charged to the sender, overhead included; exact as a count of
/// records only at 0.
pub(crate) fn unread_bytes(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, Linux include/uapi/linux/sockios.h) writes one int
    // to its argument, which is a live local; the descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(result)?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Takes over the descriptor `number`, which this process inherited across exec.
///
/// Inherited descriptors are told from the process's own by FD_CLOEXEC: the flag never survives an
/// exec, and std and every careful library set it on all they open. It is set here, so a second call
/// with the same number is refused.
pub(crate) fn take_inherited(number: RawFd) -> io::Result<Option<OwnedFd>> {
    // SAFETY: F_GETFD takes no argument and only looks the number up; a closed one gives EBADF.
    let flags = Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Ok(None);
    }
    // SAFETY: F_SETFD takes an int by value and changes nothing but the descriptor's own flag.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open. It was not opened by this process, or it would have had
    // FD_CLOEXEC, and no earlier call has taken it over, or that call would have set FD_CLOEXEC; so
    // this is its one owner.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}
