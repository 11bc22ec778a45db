//! The stream of a Linux event queue, where a loss notice is a bare header.

use core::marker::PhantomData;

use crate::{Event, EventFlags, EventHeader, Payload, Record, RecordError};

/// One item of a buffer read from a Linux vEVENTQ (see [`LinuxEvents`]).
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
/// record. A header may carry the flags of `T` ([`Payload::FLAGS`]); one of a loss notice may so
/// whether `LOST_EVENTS` is among them or not, for the notice belongs to the queue and not to `T`.
/// The walk ends after the first error.
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
            header.flags.check(T::FLAGS.union(EventFlags::LOST_EVENTS))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcpiNotify, PgFault, Smmuv3Event};

    /// Flags of the bare loss notice that a walk finds in a header with `flags`.
    fn notice<T: Payload>(flags: u32) -> Result<u32, RecordError> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&flags.to_ne_bytes());
        let mut events = LinuxEvents::<T>::new(&bytes);
        match events.next().expect("an item")? {
            LinuxEvent::Lost(header) => Ok(header.flags.bits()),
            LinuxEvent::Event(event) => panic!("{event:?}"),
        }
    }

    #[test]
    fn loss_notice_may_carry_the_flags_of_its_payload() {
        assert_eq!(notice::<Smmuv3Event>(0x8000_0003), Ok(0x8000_0003));
        assert_eq!(notice::<AcpiNotify>(1), Ok(1));
        assert_eq!(notice::<AcpiNotify>(3), Err(RecordError::Flags { unknown: 2 }));
        assert_eq!(notice::<PgFault>(1), Ok(1));
        assert_eq!(notice::<PgFault>(3), Ok(3));
        assert_eq!(notice::<PgFault>(7), Err(RecordError::Flags { unknown: 4 }));
    }

    #[test]
    fn walk_ends_after_an_error() {
        let mut bytes = [0; 16];
        bytes[0] = 5;
        bytes[8] = 1;
        let mut events = LinuxEvents::<AcpiNotify>::new(&bytes);
        assert_eq!(events.next(), Some(Err(RecordError::Flags { unknown: 4 })));
        assert_eq!(events.next(), None);
    }
}
