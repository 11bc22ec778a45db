//! The ring: a bounded queue of fixed-size records in memory that a producer and a consumer share.
//!
//! This is the index algorithm alone, over any [`Storage`]; it knows nothing of mappings, descriptors or
//! doorbells. Indices run freely: they count records modulo 2^32, and the slot of record `n` is `n`
//! modulo the depth, a power of two. `tail` is what the producer has published, `head` what the consumer
//! has taken out; `tail - head` is in `0..=depth` always.
//!
//! Neither side trusts the other. Each keeps its own index to itself and only ever writes it to the
//! storage; the other's is checked against what it was before. An index that goes backwards or too far is
//! a [`Violation`], and no index is used before it was checked. Slots are copied out once, word by word,
//! and only the copy is looked at: what the peer does to a slot meanwhile changes which record comes out,
//! and nothing else.

use std::marker::PhantomData;

use recordfd_uapi::{Record, RecordError};

use crate::error::Violation;
use crate::sync::{AtomicU32, AtomicUsize, Ordering};

#[cfg(test)]
mod heap;

/// The most records a ring may hold: a depth is a power of two up to this.
pub(crate) const MOST_DEPTH: u32 = 1 << 20;
/// Bytes of the words that slots are read and written in.
const WORD: usize = size_of::<usize>();
/// Bytes of the largest record.
const MOST_BYTES: usize = 96;

/// Words of a slot for `T`. (A format without replies has records of one byte, none of which exists.)
pub(crate) const fn words_of<T: Record>() -> usize {
    assert!(T::SIZE <= MOST_BYTES && (T::SIZE % WORD == 0 || T::SIZE == 1), "a record is whole words");
    T::SIZE / WORD
}

/// Where a ring is.
pub(crate) trait Storage {
    /// Number of the next record that will be published.
    fn tail(&self) -> &AtomicU32;
    /// Number of the next record that will be taken out.
    fn head(&self) -> &AtomicU32;
    /// The slots, one behind the other, each of [`words_of`] the record type.
    fn words(&self) -> &[AtomicUsize];
}

/// The depth of a ring of `T` in `storage`.
fn depth_of<T: Record>(storage: &impl Storage) -> u32 {
    match words_of::<T>() {
        // Records that do not exist: nothing can be put in, and nothing taken out.
        0 => 0,
        words => (storage.words().len() / words) as u32,
    }
}

/// The words of the slot of record `number`.
#[inline]
fn slot<T: Record>(storage: &impl Storage, depth: u32, number: u32) -> &[AtomicUsize] {
    let words = words_of::<T>();
    let at = (number & depth.wrapping_sub(1)) as usize * words;
    &storage.words()[at..at + words]
}

/// The producing side.
#[derive(Debug)]
pub(crate) struct Producer<S, T> {
    storage: S,
    depth: u32,
    /// Number of the next record, this side's own.
    tail: u32,
    /// The consumer's index as it was last seen: `tail - head` is in `0..=depth`.
    head: u32,
    item: PhantomData<T>,
}

impl<S: Storage, T: Record> Producer<S, T> {
    /// The producer of a new ring, whose indices are 0.
    pub(crate) fn new(storage: S) -> Self {
        Self { depth: depth_of::<T>(&storage), storage, tail: 0, head: 0, item: PhantomData }
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Number of the next record that will be published.
    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    /// How many records there is room for; looks at the consumer's index only if fewer than `wanted` are
    /// known of.
    #[inline]
    pub(crate) fn room(&mut self, wanted: u32) -> Result<u32, Violation> {
        let unread = self.tail.wrapping_sub(self.head);
        if self.depth - unread >= wanted {
            return Ok(self.depth - unread);
        }
        // Acquire pairs with the store in `Consumer::release`: what is in the slots was copied out before
        // this side writes over it.
        let head = self.storage.head().load(Ordering::Acquire);
        let still_unread = self.tail.wrapping_sub(head);
        if still_unread > unread {
            return Err(Violation::RingIndex);
        }
        self.head = head;
        Ok(self.depth - still_unread)
    }

    /// Writes a record into the slot `ahead` places behind the last published one: one of those that
    /// [`room`](Self::room) told of.
    #[inline]
    pub(crate) fn put(&mut self, ahead: u32, item: &T) {
        let mut bytes = [0; MOST_BYTES];
        item.encode(&mut bytes[..T::SIZE]);
        let words = slot::<T>(&self.storage, self.depth, self.tail.wrapping_add(ahead));
        for (word, bytes) in words.iter().zip(bytes.chunks_exact(WORD)) {
            // Relaxed: `publish` orders it. A word that the consumer reads early, as only one that breaks the
            // rules does, is some word.
            word.store(bytes.first_chunk().map_or(0, |word| usize::from_ne_bytes(*word)), Ordering::Relaxed);
        }
    }

    /// Publishes the next `count` records, all with one store.
    #[inline]
    pub(crate) fn publish(&mut self, count: u32) {
        self.tail = self.tail.wrapping_add(count);
        // Release pairs with the load in `Consumer::look`: the slots are written before they are seen.
        self.storage.tail().store(self.tail, Ordering::Release);
    }
}

/// The consuming side.
#[derive(Debug)]
pub(crate) struct Consumer<S, T> {
    storage: S,
    depth: u32,
    /// Number of the next record, this side's own.
    head: u32,
    /// The producer's index as it was last seen: `tail - head` is in `0..=depth`.
    tail: u32,
    item: PhantomData<T>,
}

impl<S: Storage, T: Record> Consumer<S, T> {
    /// The consumer of a new ring, whose indices are 0.
    pub(crate) fn new(storage: S) -> Self {
        Self { depth: depth_of::<T>(&storage), storage, head: 0, tail: 0, item: PhantomData }
    }

    /// How many records are known to wait.
    #[inline]
    pub(crate) fn known(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// How many records wait: looks at the producer's index.
    #[inline]
    pub(crate) fn look(&mut self) -> Result<u32, Violation> {
        // Acquire pairs with the store in `Producer::publish`.
        let tail = self.storage.tail().load(Ordering::Acquire);
        let waiting = tail.wrapping_sub(self.head);
        if waiting > self.depth || waiting < self.known() {
            return Err(Violation::RingIndex);
        }
        self.tail = tail;
        Ok(waiting)
    }

    /// Copies the record out that waits `ahead` places behind the next one: one of those
    /// [`known`](Self::known) to wait.
    ///
    /// # Errors
    ///
    /// What is in the slot is no record.
    #[inline]
    pub(crate) fn get(&self, ahead: u32) -> Result<T, RecordError> {
        let mut bytes = [0; MOST_BYTES];
        let words = slot::<T>(&self.storage, self.depth, self.head.wrapping_add(ahead));
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(WORD)) {
            // Relaxed: the load in `look` orders it. Each word is read once.
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        T::decode(&bytes[..T::SIZE])
    }

    /// Gives the slots of the next `count` records back.
    #[inline]
    pub(crate) fn release(&mut self, count: u32) {
        self.head = self.head.wrapping_add(count);
        // Release pairs with the load in `Producer::room`: the slots were copied out before.
        self.storage.head().store(self.head, Ordering::Release);
    }

    /// Number of the next record.
    pub(crate) fn head(&self) -> u32 {
        self.head
    }
}
