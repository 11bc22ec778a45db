//! Records of several event formats on one channel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::pin_layout;
use crate::{EventFlags, Format, Payload, Record, RecordError, Sequence};

/// A record of a `MIXED` channel: which format, from which source, and that format's own record.
///
/// `flags` and `sequence` belong to the mixed channel. The payload is the inner record as its own
/// channel would carry it, header and all, padded with zeroes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Mixed {
    /// The inner record's format; 0 when `flags` say `LOST_EVENTS`.
    pub format: Format,
    /// Header flags of the mixed channel: `LOST_EVENTS` or none.
    pub flags: EventFlags,
    /// Number on the mixed channel, `0..=INT_MAX`.
    pub sequence: u32,
    /// Where the record comes from, as the channel's two sides number sources; 0 when `flags` say
    /// `LOST_EVENTS`.
    pub source: u32,
    /// The inner record, zero-padded; all zero when `flags` say `LOST_EVENTS`.
    pub payload: [u8; 64],
}

pin_layout!(Mixed, size 80, align 4, { format: 0, flags: 4, sequence: 8, source: 12, payload: 16 });

impl Mixed {
    /// The record `inner` of `format`, from `source`.
    pub fn new<R: Record>(format: Format, source: u32, sequence: Sequence, inner: &R) -> Self {
        const { assert!(R::SIZE <= 64, "no event record is longer than a mixed payload") };
        let mut payload = [0; 64];
        inner.encode(&mut payload[..R::SIZE]);
        Self { format, flags: EventFlags::empty(), sequence: sequence.get(), source, payload }
    }

    /// The inner record, when it is one of type `R`; the caller has looked at `format`.
    ///
    /// # Errors
    ///
    /// What [`Record::decode`] says, and [`RecordError::Reserved`] when the padding is not zero.
    pub fn inner<R: Record>(&self) -> Result<R, RecordError> {
        const { assert!(R::SIZE <= 64, "no event record is longer than a mixed payload") };
        let (record, padding) = self.payload.split_at(R::SIZE);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Reserved { field: "payload" });
        }
        R::decode(record)
    }
}

impl Payload for Mixed {
    fn check(&self) -> Result<(), RecordError> {
        Sequence::from_wire(self.sequence)?;
        self.flags.check(Self::FLAGS)?;
        if !self.flags.contains(EventFlags::LOST_EVENTS) {
            return Ok(());
        }
        let fields = [
            ("format", self.format.0 == 0),
            ("source", self.source == 0),
            ("payload", self.payload == [0; 64]),
        ];
        match fields.into_iter().find(|(_, is_zero)| !is_zero) {
            Some((field, _)) => Err(RecordError::Reserved { field }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Le64, Tegra241CmdqvEvent};

    #[test]
    fn inner_record_comes_back_and_dirty_padding_is_refused() {
        let inner =
            Event::new(Sequence::wrapping(7), Tegra241CmdqvEvent { lvcmdq_err_map: [Le64::new(1); 2] });
        let mut mixed = Mixed::new(Format::VIOMMU_TEGRA241_CMDQV_V1, 3, Sequence::ZERO, &inner);
        assert_eq!(mixed.inner::<Event<Tegra241CmdqvEvent>>(), Ok(inner));
        mixed.payload[63] = 1;
        let refused = Err(RecordError::Reserved { field: "payload" });
        assert_eq!(mixed.inner::<Event<Tegra241CmdqvEvent>>(), refused);
    }

    #[test]
    fn loss_notice_has_nothing_else_in_it() {
        let lost = Mixed {
            format: Format(0),
            flags: EventFlags::LOST_EVENTS,
            sequence: 9,
            source: 0,
            payload: [0; 64],
        };
        assert_eq!(lost.check(), Ok(()));
        let refused = |field| Err(RecordError::Reserved { field });
        assert_eq!(Mixed { format: Format::ACPI_NOTIFY_V1, ..lost }.check(), refused("format"));
        assert_eq!(Mixed { source: 1, ..lost }.check(), refused("source"));
        let mut payload = [0; 64];
        payload[63] = 1;
        assert_eq!(Mixed { payload, ..lost }.check(), refused("payload"));
        let flags = EventFlags::LOST_EVENTS | EventFlags::CANCELLED;
        assert_eq!(Mixed { flags, ..lost }.check(), Err(RecordError::Flags { unknown: 2 }));
        // Without the flag, they are values like any other.
        let flags = EventFlags::empty();
        assert_eq!(Mixed { format: Format(0), flags, source: 0, payload, ..lost }.check(), Ok(()));
    }
}
