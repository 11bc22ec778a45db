//! In place of `mapping.rs` under loom, whose atomics cannot be in shared memory: memory of this process, in
//! which the two ends of a channel are made by the models. No file can be mapped.

use std::any::Any;
use std::array;
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicU32, AtomicUsize};

/// What was looked at so far, by where it is.
#[derive(Debug, Default)]
pub(crate) struct Mapping(Mutex<BTreeMap<usize, Box<dyn Any + Send + Sync>>>);

impl Mapping {
    pub(crate) fn new(_file: impl AsFd, _length: NonZeroUsize) -> io::Result<Arc<Self>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn view<T: Atomic>(self: &Arc<Self>, offset: usize) -> View<T> {
        self.look(offset, || Arc::new(T::zero()))
    }

    pub(crate) fn slice<T: Atomic>(self: &Arc<Self>, offset: usize, count: usize) -> View<[T]> {
        self.look(offset, || (0..count).map(|_| T::zero()).collect())
    }

    fn look<T: ?Sized + Send + Sync + 'static>(&self, offset: usize, new: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut parts = self.0.lock().unwrap();
        let part = parts.entry(offset).or_insert_with(|| Box::new(new()));
        part.downcast_ref::<Arc<T>>().expect("always looked at as the same").clone()
    }
}

/// What new memory can be looked at as.
pub(crate) trait Atomic: Send + Sync + 'static {
    fn zero() -> Self;
}

impl Atomic for AtomicU32 {
    fn zero() -> Self {
        Self::new(0)
    }
}

impl Atomic for AtomicUsize {
    fn zero() -> Self {
        Self::new(0)
    }
}

impl<T: Atomic, const N: usize> Atomic for [T; N] {
    fn zero() -> Self {
        array::from_fn(|_| T::zero())
    }
}

/// A part of the memory.
pub(crate) type View<T> = Arc<T>;
