//! The stream of a Linux event queue, where a loss notice is a bare header.

use core::marker::PhantomData;

use crate::{Event, EventFlags, EventHeader, Payload, Record, RecordError};

/// One item of a buffer read from a Linux vEVENTQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinuxEvent<T> {
    /// An event.
    Event(Event<T>),
    /// A `LOST_EVENTS` header, 8 bytes without data.
    Lost(EventHeader),
}

/// Walks the bytes that one read(2) of a Linux vEVENTQ returned.
///
/// Linux sends a loss notice as a header without data, where our own channels send a full-size
/// record. The walk ends after the first error.
///
/// Source: Linux `drivers/iommu/iommufd/eventq.c`, `iommufd_veventq_fops_read()`.
#[derive(Clone, Debug)]
pub struct LinuxEvents<'a, T> {
    rest: &'a [u8],
    payload: PhantomData<T>,
}

impl<'a, T: Payload> LinuxEvents<'a, T> {
    /// A walk over `buffer`, the bytes of whole records.
    pub const fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer, payload: PhantomData }
    }

    fn split_off<R: Record>(&mut self) -> Result<R, RecordError> {
        let (record, rest) = self
            .rest
            .split_at_checked(R::SIZE)
            .ok_or(RecordError::Length { expected: R::SIZE, found: self.rest.len() })?;
        self.rest = rest;
        R::decode(record)
    }

    fn step(&mut self) -> Result<LinuxEvent<T>, RecordError> {
        let mut peek = self.clone();
        let header: EventHeader = peek.split_off()?;
        if header.flags.contains(EventFlags::LOST_EVENTS) {
            *self = peek;
            return Ok(LinuxEvent::Lost(header));
        }
        self.split_off().map(LinuxEvent::Event)
    }
}

impl<T: Payload> Iterator for LinuxEvents<'_, T> {
    type Item = Result<LinuxEvent<T>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.step();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}
