//! In place of `mapping.rs` under loom, whose atomics cannot be in shared memory: nothing can be mapped, and
//! so no shared channel be made. The models have the ring in memory of their own.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::Arc;

/// No mapping.
#[derive(Debug)]
pub(crate) struct Mapping(Infallible);

impl Mapping {
    pub(crate) fn new(_file: impl AsFd, _length: NonZeroUsize) -> io::Result<Arc<Self>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn view<T>(&self, _offset: usize) -> View<T> {
        match self.0 {}
    }

    pub(crate) fn slice<T>(&self, _offset: usize, _count: usize) -> View<[T]> {
        match self.0 {}
    }
}

/// A part of no mapping.
#[derive(Debug)]
pub(crate) struct View<T: ?Sized>(Infallible, PhantomData<T>);

impl<T: ?Sized> Clone for View<T> {
    fn clone(&self) -> Self {
        match self.0 {}
    }
}

impl<T: ?Sized> Deref for View<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self.0 {}
    }
}
