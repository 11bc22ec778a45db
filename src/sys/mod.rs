//! Every unsafe call of the crate, and nothing else.
//!
//! What nix offers as a safe call is used where it is needed; here is what nix lacks.

// UNSAFETY: calls into libc, descriptors that arrive as numbers or must not close while they are polled, memory shared
// with other processes, and the word that says which process this is.
#![expect(unsafe_code)]

#[cfg_attr(loom, path = "model_mapping.rs")]
mod mapping;
mod membarrier;
mod owned;
#[cfg(feature = "polling")]
mod polled;
#[cfg_attr(loom, path = "model_process.rs")]
mod process;
mod scm;

pub(crate) use mapping::{Mapping, View};
pub(crate) use membarrier::{fence_everywhere, register_for_fences};
pub(crate) use owned::{Owned, Release};
#[cfg(feature = "polling")]
pub(crate) use polled::Polled;
use process::Process;
pub(crate) use scm::{check_unix_stream, recv_descriptor, refuse_descriptors};

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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
