//! Receiving descriptors. nix drops the list of those that did arrive when the kernel cut some off,
//! which would leak them; here every one that arrives gets an owner at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// The most descriptors Linux puts on one message (`SCM_MAX_FD`, include/net/scm.h).
const MOST: usize = 253;
/// A descriptor of the sending process, which the kernel adds if a socket option (`SO_PASSPIDFD`) asks
/// for it (`SCM_PIDFD`, include/linux/socket.h).
const SCM_PIDFD: libc::c_int = 4;
/// Room for them, and for the credentials that a socket option may add, as words for alignment.
const CONTROL_WORDS: usize = (MOST * size_of::<libc::c_int>()).div_ceil(size_of::<usize>()) + 32;

/// Receives one message into `buffer`, with `flags`, and the descriptors on it, all close-on-exec.
///
/// Returns the bytes received, the first descriptor, and whether the kernel cut any off. Further
/// descriptors are closed.
pub(crate) fn recv_descriptors(
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
    message.msg_controllen = size_of_val(&control) as _;
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
    let mut first = None;
    // SAFETY: the kernel has set msg_control and msg_controllen to the well-formed list it wrote.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header that lies within `control`,
        // which is aligned for it.
        let (level, kind, length) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && (kind == libc::SCM_RIGHTS || kind == SCM_PIDFD) {
            // SAFETY: only computes the address behind the header.
            let data = unsafe { libc::CMSG_DATA(header) };
            let bytes = length.saturating_sub(data.addr() - header.addr());
            for index in 0..bytes / size_of::<libc::c_int>() {
                // SAFETY: the kernel wrote that many descriptor numbers behind the header;
                // read_unaligned asks nothing of their alignment.
                let number = unsafe { data.cast::<libc::c_int>().add(index).read_unaligned() };
                if number < 0 {
                    // In place of a SCM_PIDFD that could not be made.
                    continue;
                }
                // SAFETY: the kernel has just installed this descriptor for this message, so nobody
                // else knows it; dropping the value closes it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                if kind == libc::SCM_RIGHTS {
                    first.get_or_insert(descriptor);
                }
            }
        }
        // SAFETY: `header` came from this message's list.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((received, first, message.msg_flags & libc::MSG_CTRUNC != 0))
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
        let (bytes, descriptor, _) = recv_descriptors(far.as_fd(), &mut [0; 8], 0).unwrap();
        assert_eq!((bytes, descriptor.is_none(), pidfds()), (1, true, 0));
    }
}
