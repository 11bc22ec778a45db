//! Memory that is shared with another process, as atomics only.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of the beginning of a file.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: a mapping belongs to the process, not to a thread; all this type gives out are references to
// atomics, which any thread may use.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of `file`, to be read and written.
    pub(crate) fn new(file: impl AsFd, length: NonZeroUsize) -> io::Result<Arc<Self>> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel chooses an address where nothing is mapped, so no memory
        // that anybody knows of changes.
        let address = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Arc::new(Self { address: address.cast(), length }))
    }

    /// Looks at the `T` that is `offset` bytes into the mapping.
    pub(crate) fn view<T: Atomic>(self: &Arc<Self>, offset: usize) -> View<T> {
        View { first: self.locate::<T>(offset, 1), mapping: self.clone() }
    }

    /// Looks at the `count` of `T` that begin `offset` bytes into the mapping.
    pub(crate) fn slice<T: Atomic>(self: &Arc<Self>, offset: usize, count: usize) -> View<[T]> {
        let first = self.locate::<T>(offset, count);
        View { first: NonNull::slice_from_raw_parts(first, count), mapping: self.clone() }
    }

    /// The first of `count` of `T` that begin `offset` bytes into the mapping.
    fn locate<T: Atomic>(&self, offset: usize, count: usize) -> NonNull<T> {
        let end = size_of::<T>().checked_mul(count).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.length.get()), "beyond the end of the mapping");
        // SAFETY: `offset` is within the mapping, or its end.
        let first = unsafe { self.address.add(offset) }.cast::<T>();
        assert!(first.is_aligned(), "not aligned");
        first
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range that was mapped, and whoever looks at it holds the Arc that it is in. (It
        // fails for a range that was never mapped only.)
        let _ = unsafe { munmap(self.address.cast(), self.length.get()) };
    }
}

/// What may be looked at in memory that another process writes at any time.
///
/// # Safety
///
/// The type consists of atomics alone, and any bytes are a value of it.
pub(crate) unsafe trait Atomic {}

// SAFETY: it is an atomic, and any bytes are an integer.
unsafe impl Atomic for AtomicU32 {}
// SAFETY: as above.
unsafe impl Atomic for AtomicUsize {}
// SAFETY: an array has nothing but its elements.
unsafe impl<T: Atomic, const N: usize> Atomic for [T; N] {}

/// A part of a mapping, which it keeps.
pub(crate) struct View<T: ?Sized> {
    first: NonNull<T>,
    mapping: Arc<Mapping>,
}

// SAFETY: it gives out shared references to atomics only (see `Atomic`), which any thread may use.
unsafe impl<T: ?Sized> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized> Sync for View<T> {}

impl<T: ?Sized> Clone for View<T> {
    fn clone(&self) -> Self {
        Self { first: self.first, mapping: self.mapping.clone() }
    }
}

impl<T: ?Sized> Deref for View<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: only `Mapping::view` and `Mapping::slice` make views: what this points to is aligned, lies
        // within the mapping, which `self.mapping` keeps, and consists of atomics, so that the other process
        // may write it while there is a reference. The file cannot be shortened under the mapping: that it is
        // sealed was checked before it was mapped (`transport/shared/attach.rs`).
        unsafe { self.first.as_ref() }
    }
}

impl<T: ?Sized> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("mapping", &self.mapping).finish_non_exhaustive()
    }
}
