//! The header in front of most records, and a record as header and payload.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_flags};
use crate::{Payload, Record, RecordError, Sequence, Sequenced};

wire_flags! {
    /// Flags of an [`EventHeader`]; which of them a format has is its payload's [`Payload::FLAGS`].
    EventFlags {
        /// Records up to this header's number were lost and this one is no event: its payload is zero
        /// (Linux `include/uapi/linux/iommufd.h`, `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`).
        LOST_EVENTS = 0x1,
        /// The group with this payload's cookie was completed without its answer, and is still to be answered: until
        /// then it takes up room in the channel. Ours, on formats that must be answered only.
        CANCELLED = 0x2,
    }
}

impl EventFlags {
    /// Refuses flags that are not among `defined`.
    pub(crate) fn check(self, defined: Self) -> Result<(), RecordError> {
        match self.difference(defined).bits() {
            0 => Ok(()),
            unknown => Err(RecordError::Flags { unknown }),
        }
    }
}

/// The first 8 bytes of most records; byte-identical to Linux `struct iommufd_vevent_header`.
///
/// By itself it takes any flags: what a format allows is checked for the whole record.
///
/// Source: Linux `include/uapi/linux/iommufd.h`.
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

    #[inline]
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
    #[inline]
    pub const fn new(sequence: Sequence, payload: T) -> Self {
        let header = EventHeader { flags: EventFlags::empty(), sequence: sequence.get() };
        Self { header, payload }
    }

    /// The notice that every record after the last accepted one, up to `sequence`, was lost.
    ///
    /// Does not compile for a payload whose [`FLAGS`](Payload::FLAGS) are without `LOST_EVENTS`: its
    /// records are never lost.
    pub fn lost(sequence: Sequence) -> Self {
        const { assert!(T::FLAGS.contains(EventFlags::LOST_EVENTS), "records of this payload are never lost") };
        let header = EventHeader { flags: EventFlags::LOST_EVENTS, sequence: sequence.get() };
        Self { header, payload: T::new_zeroed() }
    }

    /// Whether this is a loss notice and no event.
    #[inline]
    pub fn is_lost(&self) -> bool {
        self.header.flags.contains(EventFlags::LOST_EVENTS)
    }

    /// The record's number.
    #[inline]
    pub const fn sequence(&self) -> Sequence {
        Sequence::wrapping(self.header.sequence)
    }
}

impl<T: Payload> Record for Event<T> {
    const SIZE: usize = {
        assert!(size_of::<Self>() == size_of::<EventHeader>() + size_of::<T>(), "a gap behind the header");
        size_of::<Self>()
    };

    #[inline]
    fn encode(&self, out: &mut [u8]) {
        let (header, payload) = out.split_at_mut(size_of::<EventHeader>());
        self.header.encode(header);
        self.payload.encode(payload);
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let event = Self::read_from_bytes(bytes)
            .map_err(|_| RecordError::Length { expected: Self::SIZE, found: bytes.len() })?;
        event.header.check()?;
        event.header.flags.check(T::FLAGS)?;
        if event.is_lost() {
            // On the bytes, not on the event: looking at each byte of it would have it copied byte by byte.
            if bytes[size_of::<EventHeader>()..].iter().any(|byte| *byte != 0) {
                return Err(RecordError::Reserved { field: "payload" });
            }
        } else {
            event.payload.check()?;
        }
        Ok(event)
    }
}

impl<T: Payload> Sequenced for Event<T> {
    type Content = T;

    #[inline]
    fn new(sequence: Sequence, content: T) -> Self {
        Self::new(sequence, content)
    }

    fn lost(sequence: Sequence) -> Self {
        Self::lost(sequence)
    }

    #[inline]
    fn is_lost(&self) -> bool {
        self.is_lost()
    }

    #[inline]
    fn sequence(&self) -> Sequence {
        self.sequence()
    }

    #[inline]
    fn content(&self) -> T {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcpiNotify, DeviceRequest, PciError, PciErrorV2, PgFault, Smmuv3Event, Tegra241CmdqvEvent};

    #[test]
    fn lost_record_has_full_size_and_zero_payload() {
        let mut bytes = [0xff; 64];
        Event::<AcpiNotify>::lost(Sequence::wrapping(9)).encode(&mut bytes);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 9, 0, 0, 0]);
        assert!(bytes[8..].iter().all(|byte| *byte == 0));
        bytes[63] = 1;
        assert_eq!(Event::<AcpiNotify>::decode(&bytes), Err(RecordError::Reserved { field: "payload" }));
    }

    /// The flags a decoded event of `T` keeps, or those it is refused for.
    fn flags_of<T: Payload>(flags: u32) -> Result<u32, u32> {
        let mut bytes = [0; 96];
        bytes[..4].copy_from_slice(&flags.to_ne_bytes());
        match Event::<T>::decode(&bytes[..Event::<T>::SIZE]) {
            Ok(event) => Ok(event.header.flags.bits()),
            Err(RecordError::Flags { unknown }) => Err(unknown),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn every_format_takes_its_own_flags_only() {
        const NEW: u32 = 0x8000_0000;
        for flags in [0, 1, 2, 3, NEW, NEW | 1, NEW | 2, NEW | 3] {
            let within = |defined: u32| if flags & !defined == 0 { Ok(flags) } else { Err(flags & !defined) };
            let found = [
                flags_of::<AcpiNotify>(flags),
                flags_of::<PgFault>(flags),
                flags_of::<PciError>(flags),
                flags_of::<PciErrorV2>(flags),
                flags_of::<DeviceRequest>(flags),
                flags_of::<Smmuv3Event>(flags),
                flags_of::<Tegra241CmdqvEvent>(flags),
            ];
            assert_eq!(found, [1, 2, 2, 2, 2, u32::MAX, u32::MAX].map(within), "{flags:#x}");
            let header = EventHeader { flags: EventFlags::from_bits_retain(flags), sequence: 0 };
            assert_eq!(header.check(), Ok(()), "{flags:#x}");
        }
    }

    #[test]
    fn wrong_length_is_refused() {
        let error = Event::<AcpiNotify>::decode(&[0; 63]).unwrap_err();
        assert_eq!(error, RecordError::Length { expected: 64, found: 63 });
        assert_eq!(error.errno(), 22);
    }
}
