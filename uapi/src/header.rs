//! The header in front of most records, and a record as header and payload.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_flags};
use crate::{Payload, Record, RecordError, Sequence};

wire_flags! {
    /// Flags of an [`EventHeader`].
    EventFlags {
        /// Records up to this header's number were lost and nothing follows the header
        /// (Linux `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`).
        LOST_EVENTS = 0x1,
        /// The record with this payload's cookie was completed without its answer.
        CANCELLED = 0x2,
    }
}

/// The first 8 bytes of most records; byte-identical to Linux `struct iommufd_vevent_header`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventHeader {
    /// What kind of record this is.
    pub flags: EventFlags,
    /// The record's number, `0..=INT_MAX`; see [`Sequence`].
    pub sequence: u32,
}

pin_layout!(EventHeader, size 8, align 4, { flags: 0, sequence: 4 });

impl Payload for EventHeader {
    const FLAGS: EventFlags = EventFlags::all();

    fn check(&self) -> Result<(), RecordError> {
        Sequence::from_wire(self.sequence).map(|_| ())
    }
}

/// A record on the wire: a header and a payload, without a gap.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, Immutable, KnownLayout)]
pub struct Event<T> {
    /// Flags and number.
    pub header: EventHeader,
    /// What happened; all zero when the header says `LOST_EVENTS`.
    pub payload: T,
}

impl<T: fmt::Debug> fmt::Debug for Event<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("header", &self.header).field("payload", &self.payload).finish()
    }
}

impl<T: Payload> Event<T> {
    /// The record number `sequence` with `payload`.
    pub const fn new(sequence: Sequence, payload: T) -> Self {
        let header = EventHeader { flags: EventFlags::empty(), sequence: sequence.get() };
        Self { header, payload }
    }

    /// The notice that every record after the last accepted one, up to `sequence`, was lost.
    pub fn lost(sequence: Sequence) -> Self {
        let header = EventHeader { flags: EventFlags::LOST_EVENTS, sequence: sequence.get() };
        Self { header, payload: T::new_zeroed() }
    }

    /// Whether this is a loss notice and no event.
    pub fn is_lost(&self) -> bool {
        self.header.flags.contains(EventFlags::LOST_EVENTS)
    }

    /// The record's number.
    pub const fn sequence(&self) -> Sequence {
        Sequence::wrapping(self.header.sequence)
    }
}

impl<T: Payload> Record for Event<T> {
    const SIZE: usize = {
        assert!(size_of::<Self>() == size_of::<EventHeader>() + size_of::<T>(), "a gap behind the header");
        size_of::<Self>()
    };

    fn encode(&self, out: &mut [u8]) {
        let (header, payload) = out.split_at_mut(size_of::<EventHeader>());
        self.header.encode(header);
        self.payload.encode(payload);
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let event = Self::read_from_bytes(bytes)
            .map_err(|_| RecordError::Length { expected: Self::SIZE, found: bytes.len() })?;
        event.header.check()?;
        let unknown = event.header.flags.difference(T::FLAGS);
        if !unknown.is_empty() {
            return Err(RecordError::Flags { unknown: unknown.bits() });
        }
        if event.is_lost() {
            if event.payload.as_bytes().iter().any(|byte| *byte != 0) {
                return Err(RecordError::Reserved { field: "payload" });
            }
        } else {
            event.payload.check()?;
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcpiNotify, Smmuv3Event};

    #[test]
    fn lost_record_has_full_size_and_zero_payload() {
        let mut bytes = [0xff; 64];
        Event::<AcpiNotify>::lost(Sequence::wrapping(9)).encode(&mut bytes);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 9, 0, 0, 0]);
        assert!(bytes[8..].iter().all(|byte| *byte == 0));
        bytes[63] = 1;
        assert_eq!(Event::<AcpiNotify>::decode(&bytes), Err(RecordError::Reserved { field: "payload" }));
    }

    #[test]
    fn unknown_flags_are_refused_on_our_formats_and_kept_on_those_of_linux() {
        let mut bytes = [0; 64];
        bytes[3] = 0x80;
        let refused = Err(RecordError::Flags { unknown: 0x8000_0000 });
        assert_eq!(Event::<AcpiNotify>::decode(&bytes), refused);
        let event = Event::<Smmuv3Event>::decode(&bytes[..40]).unwrap();
        assert_eq!(event.header.flags.bits(), 0x8000_0000);
    }

    #[test]
    fn wrong_length_is_refused() {
        let error = Event::<AcpiNotify>::decode(&[0; 63]).unwrap_err();
        assert_eq!(error, RecordError::Length { expected: 64, found: 63 });
        assert_eq!(error.errno(), 22);
    }
}
