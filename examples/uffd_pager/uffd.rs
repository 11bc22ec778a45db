//! userfaultfd(2): memory whose missing pages are reported to a descriptor and put in place through it.

// UNSAFETY: mappings, and the system call and the ioctls of userfaultfd, for which nix has no safe call.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use linux_raw_sys::general::{
    UFFD_API, UFFD_EVENT_PAGEFAULT, UFFD_PAGEFAULT_FLAG_WRITE, UFFD_USER_MODE_ONLY,
    UFFDIO_REGISTER_MODE_MISSING, uffd_msg, uffd_msg__bindgen_ty_1__bindgen_ty_1 as uffd_pagefault,
    uffdio_api, uffdio_copy, uffdio_range, uffdio_register, uffdio_zeropage,
};
use linux_raw_sys::ioctl::{UFFDIO_API, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_WAKE, UFFDIO_ZEROPAGE};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use thiserror::Error;

use crate::content::{PAGE_SIZE, WORDS};

/// The most faults that one read takes.
pub(crate) const BATCH: usize = 64;

/// userfaultfd cannot be had on this system.
#[derive(Debug, Error)]
#[error("userfaultfd(2) in user mode is not to be had here (kernel before 5.11, or a jail that forbids it)")]
pub(crate) struct Unavailable(#[source] Errno);

/// A mapping of whole pages, gone with this value.
struct Mapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: a mapping belongs to the process, so any thread may own it and unmap it; and the address alone
// gives no access, each access has a proof of its own.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing changes through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn address(&self) -> u64 {
        // The kernel accesses the memory by this number.
        self.start.as_ptr().expose_provenance() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and still is, since nothing else unmaps it. References into it
        // borrow from its owner, so there are none any more.
        let unmapped = unsafe { munmap(self.start, self.length.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Anonymous memory, all of whose pages are missing at first.
pub(crate) struct Region {
    mapping: Mapping,
    pages: usize,
}

impl Region {
    pub(crate) fn new(pages: usize) -> io::Result<Self> {
        let length = bytes_of(pages)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel finds room, which takes the place of nothing.
        let start = unsafe { mmap_anonymous(None, length, protection, flags) }?;
        let mapping = Mapping { start, length };
        // SAFETY: the range is the mapping just made; the advice changes no content. A kernel without huge
        // pages refuses it and needs none: the error is of no interest.
        let _ = unsafe { madvise(start, length.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(Self { mapping, pages })
    }

    /// A word of a page. Accessing it waits while the page is missing.
    pub(crate) fn word(&self, page: usize, index: usize) -> &AtomicU64 {
        assert!(page < self.pages && index < WORDS, "word {index} of page {page} is outside of the region");
        // SAFETY: below the end by the line above, so in the mapping, which the result does not outlive.
        // Pages are aligned, and so are words in them. It is memory for reading and writing, of which any
        // bytes are a value; a missing page gets its content as a whole before an access to it comes about.
        // All accesses of this process are atomic: this is the only way to them.
        unsafe { self.mapping.start.cast::<AtomicU64>().add(page * WORDS + index).as_ref() }
    }
}

/// Pages of a shared file in which contents come from another process, one for each request under way.
pub(crate) struct Slots {
    mapping: Mapping,
    count: usize,
}

impl Slots {
    /// Maps the first `count` pages of `file`, for the kernel to read.
    pub(crate) fn map(file: impl AsFd, count: usize) -> io::Result<Self> {
        let length = bytes_of(count)?;
        // SAFETY: a new mapping where the kernel finds room, which takes the place of nothing. What the
        // other process does to the file while it is mapped concerns only accesses, of which there are none
        // but the kernel's: it copies what it finds, or fails with an error.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { mapping: Mapping { start, length }, count })
    }
}

fn bytes_of(pages: usize) -> io::Result<NonZeroUsize> {
    let bytes = pages.checked_mul(PAGE_SIZE).and_then(NonZeroUsize::new);
    bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A thread waits for a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The page, counted from the beginning of the region.
    pub(crate) page: usize,
    /// It wants to write.
    pub(crate) write: bool,
}

/// The descriptor that tells of the missing pages of one region.
///
/// With it the waiting ends: when it is dropped, who waits for a page goes on with a page of zeros.
pub(crate) struct Uffd<'r> {
    fd: OwnedFd,
    region: &'r Region,
}

impl<'r> Uffd<'r> {
    /// From now on, who touches a missing page of the region waits for it.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] where userfaultfd is not permitted, else what the system says.
    pub(crate) fn register(region: &'r Region) -> crate::Result<Self> {
        // Only threads in user mode touch the pages, and so no privilege is needed.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY as libc::c_int;
        // SAFETY: userfaultfd(2) takes an int and accesses no memory.
        let number = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let number = Errno::result(number).map_err(Unavailable)?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(number)?) };
        ioctl(fd.as_fd(), &mut uffdio_api { api: UFFD_API.into(), features: 0, ioctls: 0 })
            .map_err(|errno| format!("the kernel has another userfaultfd: {errno}"))?;
        let range = uffdio_range { start: region.mapping.address(), len: region.mapping.length.get() as u64 };
        let mode = UFFDIO_REGISTER_MODE_MISSING.into();
        ioctl(fd.as_fd(), &mut uffdio_register { range, mode, ioctls: 0 })
            .map_err(|errno| format!("userfaultfd does not take pages of {PAGE_SIZE} bytes: {errno}"))?;
        Ok(Self { fd, region })
    }

    /// Takes up to [`BATCH`] faults without waiting.
    pub(crate) fn read(&self, faults: &mut Vec<Fault>) -> io::Result<()> {
        const MESSAGE: usize = size_of::<uffd_msg>();
        const FLAGS: usize = offset_of!(uffd_msg, arg) + offset_of!(uffd_pagefault, flags);
        const ADDRESS: usize = offset_of!(uffd_msg, arg) + offset_of!(uffd_pagefault, address);
        let mut bytes = [0; MESSAGE * BATCH];
        let length = match nix::unistd::read(&self.fd, &mut bytes) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for message in bytes[..length].chunks_exact(MESSAGE) {
            // No other event was asked for.
            if u32::from(message[offset_of!(uffd_msg, event)]) != UFFD_EVENT_PAGEFAULT {
                continue;
            }
            let offset = word_at(message, ADDRESS) - self.region.mapping.address();
            let write = word_at(message, FLAGS) & u64::from(UFFD_PAGEFAULT_FLAG_WRITE) != 0;
            faults.push(Fault { page: offset as usize / PAGE_SIZE, write });
        }
        Ok(())
    }

    /// Puts a copy of a slot in the place of a missing page.
    pub(crate) fn copy_slot(&self, page: usize, slots: &Slots, slot: usize) -> io::Result<()> {
        assert!(slot < slots.count, "there is no slot {slot}");
        self.copy(page, slots.mapping.address() + (slot * PAGE_SIZE) as u64)
    }

    /// Puts a copy of `content` in the place of a missing page.
    pub(crate) fn copy_bytes(&self, page: usize, content: &[u8; PAGE_SIZE]) -> io::Result<()> {
        self.copy(page, content.as_ptr().expose_provenance() as u64)
    }

    /// Puts zeros in the place of a missing page.
    pub(crate) fn zero(&self, page: usize) -> io::Result<()> {
        let zeroed = self.retry(&mut uffdio_zeropage { range: self.range(page), mode: 0, zeropage: 0 });
        self.settle(page, zeroed)
    }

    /// Makes who waits for a page look again whether it is there.
    pub(crate) fn wake(&self, page: usize) -> io::Result<()> {
        Ok(ioctl(self.fd.as_fd(), &mut self.range(page))?)
    }

    fn copy(&self, page: usize, src: u64) -> io::Result<()> {
        let uffdio_range { start: dst, len } = self.range(page);
        let copied = self.retry(&mut uffdio_copy { dst, src, len, mode: 0, copy: 0 });
        self.settle(page, copied)
    }

    fn range(&self, page: usize) -> uffdio_range {
        assert!(page < self.region.pages, "page {page} is outside of the region");
        let start = self.region.mapping.address() + (page * PAGE_SIZE) as u64;
        uffdio_range { start, len: PAGE_SIZE as u64 }
    }

    /// A request for a page, again while the kernel says that the address space is just being changed.
    fn retry<R: Request>(&self, request: &mut R) -> nix::Result<()> {
        loop {
            match ioctl(self.fd.as_fd(), request) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
    }

    /// A page that was there already has not been changed, and who waits for it has not been woken.
    fn settle(&self, page: usize, result: nix::Result<()>) -> io::Result<()> {
        match result {
            Err(Errno::EEXIST) => self.wake(page),
            result => Ok(result?),
        }
    }
}

impl AsFd for Uffd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn word_at(message: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; size_of::<u64>()];
    bytes.copy_from_slice(&message[offset..][..size_of::<u64>()]);
    u64::from_ne_bytes(bytes)
}

/// The argument of one of userfaultfd's ioctls; the number tells its size too.
trait Request {
    const NUMBER: u32;
}

impl Request for uffdio_api {
    const NUMBER: u32 = UFFDIO_API;
}

impl Request for uffdio_register {
    const NUMBER: u32 = UFFDIO_REGISTER;
}

impl Request for uffdio_copy {
    const NUMBER: u32 = UFFDIO_COPY;
}

impl Request for uffdio_zeropage {
    const NUMBER: u32 = UFFDIO_ZEROPAGE;
}

impl Request for uffdio_range {
    const NUMBER: u32 = UFFDIO_WAKE;
}

fn ioctl<R: Request>(uffd: BorrowedFd<'_>, request: &mut R) -> nix::Result<()> {
    const { assert!((R::NUMBER >> 16) as usize & 0x1fff == size_of::<R>(), "another argument") };
    // SAFETY: the descriptor is a userfaultfd, open while it is borrowed. Each of these ioctls accesses its
    // argument, which is as long as the number says and borrowed for the call, and beyond it only pages that
    // are missing from a registered region: a page that is there is never written (EEXIST). What `copy` reads
    // is borrowed by its caller, and an address that is none gives EFAULT.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), R::NUMBER as _, std::ptr::from_mut(request)) };
    Errno::result(result).map(drop)
}
