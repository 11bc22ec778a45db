//! Receiving descriptors, refusing them, and finding out what socket one is.
//!
//! nix drops the list of the descriptors that did arrive when the kernel cut some off, which would leak them.
//! Here every descriptor that arrives gets an owner at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A descriptor of the sending process, which the kernel adds if a socket option (`SO_PASSPIDFD`) asks
/// for it (`SCM_PIDFD`, include/linux/socket.h).
const SCM_PIDFD: libc::c_int = 4;
/// Whether a socket takes descriptors: `SO_PASSRIGHTS` (include/uapi/asm-generic/socket.h and
/// arch/sparc/include/uapi/asm/socket.h, since Linux 6.16).
const SO_PASSRIGHTS: libc::c_int = if cfg!(target_arch = "sparc64") { 0x5c } else { 83 };
/// Bytes of a control message with one descriptor, without the padding, in which the kernel would put a second one.
// SAFETY: only computes.
const ONE: usize = unsafe { libc::CMSG_LEN(size_of::<libc::c_int>() as libc::c_uint) } as usize;
/// The same in words, for alignment.
const CONTROL_WORDS: usize = ONE.div_ceil(size_of::<usize>());

/// Makes `socket` take no descriptors any more: the kernel refuses a message with one to its sender (`EPERM`).
/// Those that are in the socket stay there.
///
/// Before Linux 6.16 this does nothing.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) {
    let off: libc::c_int = 0;
    // SAFETY: the option takes one int, which is a live local; the descriptor is open as long as it is borrowed.
    let _ = unsafe {
        let (value, length) = ((&raw const off).cast(), size_of_val(&off) as libc::socklen_t);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value, length)
    };
}

/// Whether `socket` is a connected AF_UNIX stream socket, found out with sendmsg(2) alone, which the filters of
/// device processes allow: getsockopt(2) and getsockname(2) are not always.
///
/// Nothing is sent and nothing waits: the byte that should be sent is at an address that cannot be read.
///
/// # Errors
///
/// `ENOTSOCK`, `EPROTOTYPE` for any other family or type, `ENOTCONN`; any other when it could not be found out.
pub(crate) fn check_unix_stream(socket: BorrowedFd<'_>) -> nix::Result<()> {
    // AF_UNIX looks at the descriptors first (unix_stream_sendmsg, net/unix/af_unix.c), and no other family knows this
    // message or gives this error for it.
    match probe(socket, true) {
        Errno::EBADF => {}
        errno @ (Errno::ENOTSOCK | Errno::EACCES | Errno::EPERM | Errno::ENOSYS | Errno::ENOMEM) => {
            return Err(errno);
        }
        _ => return Err(Errno::EPROTOTYPE),
    }
    // A stream refuses any address next. A datagram socket finds this one invalid, and a SOCK_SEQPACKET one ignores
    // addresses and fails to read the byte, or is not connected.
    match probe(socket, false) {
        Errno::EISCONN => Ok(()),
        Errno::EOPNOTSUPP => Err(Errno::ENOTCONN),
        _ => Err(Errno::EPROTOTYPE),
    }
}

/// How the kernel refuses to send a byte that cannot be read to an address of no family, with a descriptor that is
/// none or without.
fn probe(socket: BorrowedFd<'_>, with_descriptor: bool) -> Errno {
    let mut address: libc::sa_family_t = libc::AF_UNSPEC as _;
    let mut iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
    let mut control = [0usize; CONTROL_WORDS];
    // SAFETY: msghdr is plain data of integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = size_of_val(&address) as _;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if with_descriptor {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = ONE as _;
        // SAFETY: `control` is aligned for a header and has room for it and one int, so CMSG_FIRSTHDR returns its
        // beginning, and CMSG_DATA the place of the int. Nothing else refers to `control` meanwhile.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = ONE as _;
            libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(-1);
        }
    }
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the address, the list of one iovec and `control` are alive, with their true lengths, and sendmsg
        // only reads them. The byte at null is not ours to read, nor is it read here: the kernel, which checks
        // each address of a process, answers EFAULT.
        let result = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(errno) => return errno,
            // Somebody has mapped the first page, and a socket of another kind has taken the byte.
            Ok(_) => return Errno::UnknownErrno,
        }
    }
}

/// Receives one message into `buffer`, with `flags`, and the first descriptor on it, close-on-exec.
///
/// Returns the bytes received, the descriptor, and whether the kernel left anything out: further descriptors, which
/// never come into this process's table, or the first one for want of a place there. (On a socket with
/// `SO_PASSCRED` or `SO_PASSSEC` what the kernel adds takes the room of the descriptor.)
pub(crate) fn recv_descriptor(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(usize, Option<OwnedFd>, bool)> {
    let mut control = [0usize; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data of integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = ONE as _;
    let received = loop {
        // SAFETY: `message` points to one iovec over `buffer` and to `control`, both alive and
        // exclusively borrowed for the call, with their true lengths.
        let result =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(bytes) => break bytes as usize,
        }
    };
    let mut descriptor = None;
    // SAFETY: the kernel has set msg_control and msg_controllen to the well-formed list it wrote.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if !header.is_null() {
        // SAFETY: this is a header at the beginning of `control`, which is aligned for it.
        let (level, kind, length) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        let is_known = kind == libc::SCM_RIGHTS || kind == SCM_PIDFD;
        if level == libc::SOL_SOCKET && is_known && length == ONE {
            // SAFETY: a message of this length has one int after its header, within `control`; read_unaligned asks
            // nothing of its alignment.
            let number = unsafe { libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned() };
            // A negative number stands for an SCM_PIDFD that could not be made.
            if number >= 0 {
                // SAFETY: the kernel has just installed this descriptor for this message, so nobody else knows it;
                // dropping the value closes it.
                let owned = unsafe { OwnedFd::from_raw_fd(number) };
                descriptor = (kind == libc::SCM_RIGHTS).then_some(owned);
            }
        }
    }
    Ok((received, descriptor, message.msg_flags & libc::MSG_CTRUNC != 0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Descriptors of processes that this one has open.
    fn pidfds() -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().contains("pidfd")).count()
    }

    #[test]
    fn descriptor_that_the_kernel_adds_is_closed_and_is_not_the_one_sent() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let on: libc::c_int = 1;
        // SAFETY: the option takes one int, which is a live local.
        let set = unsafe {
            let (value, length) = ((&raw const on).cast(), size_of_val(&on) as _);
            libc::setsockopt(far.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSPIDFD, value, length)
        };
        if set != 0 {
            return eprintln!("skipped: before Linux 6.5 the kernel adds none");
        }
        near.write_all(b"x").unwrap();
        let (bytes, descriptor, _) = recv_descriptor(far.as_fd(), &mut [0; 8], 0).unwrap();
        assert_eq!((bytes, descriptor.is_none(), pidfds()), (1, true, 0));
        // It comes after the one that was sent, which has the room.
        crate::fd::send_descriptor(&near, b"x", near.as_fd()).unwrap();
        let (_, descriptor, left_out) = recv_descriptor(far.as_fd(), &mut [0; 8], 0).unwrap();
        assert_eq!((descriptor.is_some(), left_out, pidfds()), (true, true, 0));
    }
}
