//! Records of several event formats on one channel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::pin_layout;
use crate::{
    AcpiNotify, Event, EventFlags, EventRecord, Format, NoReply, Payload, Record, RecordError, Sequence,
    Sequenced, Smmuv3Event, Tegra241CmdqvEvent,
};

/// A record of a `MIXED` channel: which format, from which source, and that format's own record.
///
/// `flags` and `sequence` belong to the mixed channel. The payload is the inner record as its own
/// channel would carry it, header and all, padded with zeroes. Decoding does not look into it:
/// [`MixedEvent::known`] does.
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

impl Sequenced for Mixed {
    type Content = MixedEvent;

    #[inline]
    fn new(sequence: Sequence, content: MixedEvent) -> Self {
        let MixedEvent { format, source, payload } = content;
        Self { format, flags: EventFlags::empty(), sequence: sequence.get(), source, payload }
    }

    fn lost(sequence: Sequence) -> Self {
        let (format, flags) = (Format(0), EventFlags::LOST_EVENTS);
        Self { format, flags, sequence: sequence.get(), source: 0, payload: [0; 64] }
    }

    #[inline]
    fn is_lost(&self) -> bool {
        self.flags.contains(EventFlags::LOST_EVENTS)
    }

    #[inline]
    fn sequence(&self) -> Sequence {
        Sequence::wrapping(self.sequence)
    }

    #[inline]
    fn content(&self) -> MixedEvent {
        MixedEvent { format: self.format, source: self.source, payload: self.payload }
    }
}

/// A record of some event format, and the source it comes from: what a `MIXED` channel is typed by.
///
/// Records of formats that must be answered do not belong on such a channel, nor do `MIXED` ones.
///
/// ```
/// use recordfd_uapi::{Event, Le64, MixedEvent, Sequence, Smmuv3Event, Tegra241CmdqvEvent};
///
/// let event = Event::new(Sequence::ZERO, Smmuv3Event { evt: [Le64::new(0x10); 4] });
/// let mixed = MixedEvent::new(7, &event);
/// assert_eq!(mixed.inner::<Smmuv3Event>()?, Some(event));
/// assert_eq!(mixed.inner::<Tegra241CmdqvEvent>()?, None);
/// # Ok::<(), recordfd_uapi::RecordError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MixedEvent {
    /// The record's format.
    pub format: Format,
    /// Where the record comes from, as the channel's two sides number sources.
    pub source: u32,
    /// The record with its own header, padded with zeroes.
    pub payload: [u8; 64],
}

impl EventRecord for MixedEvent {
    const FORMAT: Format = Format::MIXED_V1;
    type Wire = Mixed;
    type Reply = NoReply;
}

impl MixedEvent {
    /// The record `inner`, from `source`.
    ///
    /// Number and flags of `inner` are those of the source's own stream: a notice of loss there is a
    /// record here.
    ///
    /// Does not compile for a format whose record is longer than 64 bytes.
    pub fn new<R: EventRecord + Payload>(source: u32, inner: &Event<R>) -> Self {
        const { assert!(Event::<R>::SIZE <= 64, "the record is longer than a mixed payload") };
        let mut payload = [0; 64];
        inner.encode(&mut payload[..Event::<R>::SIZE]);
        Self { format: R::FORMAT, source, payload }
    }

    /// The inner record, if it is one of `R`'s format.
    ///
    /// # Errors
    ///
    /// [`RecordError::Reserved`] when the padding is not zero, else as [`Record::decode`].
    pub fn inner<R: EventRecord + Payload>(&self) -> Result<Option<Event<R>>, RecordError> {
        if self.format == R::FORMAT { self.decode().map(Some) } else { Ok(None) }
    }

    /// The inner record, if it is of an event format that this version of the contract knows.
    ///
    /// # Errors
    ///
    /// As [`inner`](Self::inner).
    pub fn known(&self) -> Result<Option<KnownEvent>, RecordError> {
        let event = match self.format {
            Format::VIOMMU_ARM_SMMUV3_V1 => AnyEvent::Smmuv3(self.decode()?),
            Format::VIOMMU_TEGRA241_CMDQV_V1 => AnyEvent::Tegra241Cmdqv(self.decode()?),
            Format::ACPI_NOTIFY_V1 => AnyEvent::AcpiNotify(self.decode()?),
            _ => return Ok(None),
        };
        Ok(Some(KnownEvent { source: self.source, event }))
    }

    fn decode<T: Payload>(&self) -> Result<Event<T>, RecordError> {
        const { assert!(Event::<T>::SIZE <= 64, "the record is longer than a mixed payload") };
        let (record, padding) = self.payload.split_at(Event::<T>::SIZE);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Reserved { field: "payload" });
        }
        Event::decode(record)
    }
}

/// A record of a known format, and the source it comes from: what [`MixedEvent::known`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// Where the record comes from, as the channel's two sides number sources.
    pub source: u32,
    /// The record as the source's own channel would carry it.
    pub event: AnyEvent,
}

/// A record of any event format that this version of the contract knows, its own header included.
///
/// A loss notice in it ([`Event::is_lost`]) tells of records that never came to the mixed channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnyEvent {
    /// Of [`Format::VIOMMU_ARM_SMMUV3_V1`].
    Smmuv3(Event<Smmuv3Event>),
    /// Of [`Format::VIOMMU_TEGRA241_CMDQV_V1`].
    Tegra241Cmdqv(Event<Tegra241CmdqvEvent>),
    /// Of [`Format::ACPI_NOTIFY_V1`].
    AcpiNotify(Event<AcpiNotify>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventHeader, FixedText, Le64, Protocol};

    fn notify() -> AcpiNotify {
        let (bus_id, device_class) = (FixedText::EMPTY, FixedText::EMPTY);
        AcpiNotify { dev_id: 1, value: 0, data: 2, cookie: 3, bus_id, device_class }
    }

    const SMMU: Smmuv3Event = Smmuv3Event { evt: [Le64::new(4); 4] };
    const CMDQV: Tegra241CmdqvEvent = Tegra241CmdqvEvent { lvcmdq_err_map: [Le64::new(1); 2] };

    /// That `payload` comes back as `any` says, through the bytes of a mixed record.
    fn check_way<R: EventRecord + Payload + PartialEq>(payload: R, any: fn(Event<R>) -> AnyEvent) {
        for inner in [Event::new(Sequence::wrapping(7), payload), Event::lost(Sequence::wrapping(8))] {
            let mixed = Mixed::new(Sequence::wrapping(5), MixedEvent::new(3, &inner));
            let mut bytes = [0xff; Mixed::SIZE];
            mixed.encode(&mut bytes);
            assert!(bytes[16 + Event::<R>::SIZE..].iter().all(|byte| *byte == 0));
            let mixed = Mixed::decode(&bytes).unwrap();
            assert_eq!((mixed.sequence().get(), mixed.is_lost()), (5, false));
            let event = mixed.content();
            assert_eq!(event.format, R::FORMAT);
            assert_eq!(event.inner::<R>(), Ok(Some(inner)));
            assert_eq!(event.known(), Ok(Some(KnownEvent { source: 3, event: any(inner) })));
        }
    }

    #[test]
    fn every_event_format_comes_back() {
        check_way(SMMU, AnyEvent::Smmuv3);
        check_way(CMDQV, AnyEvent::Tegra241Cmdqv);
        check_way(notify(), AnyEvent::AcpiNotify);
    }

    #[test]
    fn only_event_formats_are_known_and_not_mixed_itself() {
        let event = MixedEvent { format: Format(0), source: 0, payload: [0; 64] };
        for format in Format::ALL {
            let is_event = format.layout().unwrap().protocol == Protocol::Event && format != Format::MIXED_V1;
            assert_eq!(MixedEvent { format, ..event }.known().unwrap().is_some(), is_event, "{format}");
        }
        for format in [Format(0), Format(u32::MAX), Format::new(4, 2)] {
            // What is in it is not looked at.
            assert_eq!(MixedEvent { format, source: 1, payload: [0xff; 64] }.known(), Ok(None));
        }
    }

    #[test]
    fn inner_record_of_another_format_is_none() {
        let event = MixedEvent::new(0, &Event::new(Sequence::ZERO, SMMU));
        assert_eq!(event.inner::<AcpiNotify>(), Ok(None));
        assert_eq!(event.inner::<Tegra241CmdqvEvent>(), Ok(None));
    }

    #[test]
    fn malformed_inner_record_is_refused() {
        let refused = |event: MixedEvent, error| assert_eq!(event.known(), Err(error));
        let mut event = MixedEvent::new(3, &Event::new(Sequence::ZERO, CMDQV));
        event.payload[24] = 1;
        refused(event, RecordError::Reserved { field: "payload" });
        assert_eq!(event.inner::<Tegra241CmdqvEvent>(), Err(RecordError::Reserved { field: "payload" }));
        event.payload[24] = 0;
        event.payload[63] = 1;
        refused(event, RecordError::Reserved { field: "payload" });

        let header = |flags, sequence| EventHeader { flags, sequence };
        let inner = Event { header: header(EventFlags::CANCELLED, 0), payload: notify() };
        refused(MixedEvent::new(0, &inner), RecordError::Flags { unknown: 2 });
        let inner = Event { header: header(EventFlags::empty(), 1 << 31), payload: SMMU };
        refused(MixedEvent::new(0, &inner), RecordError::Sequence { found: 1 << 31 });
        let inner = Event { header: header(EventFlags::LOST_EVENTS, 0), payload: notify() };
        refused(MixedEvent::new(0, &inner), RecordError::Reserved { field: "payload" });
        // Linux may add flags to its events.
        let inner = Event { header: header(EventFlags::all(), 0), payload: SMMU };
        refused(MixedEvent::new(0, &inner), RecordError::Reserved { field: "payload" });
        let inner = Event { header: header(EventFlags::all() - EventFlags::LOST_EVENTS, 0), payload: SMMU };
        assert_eq!(MixedEvent::new(0, &inner).inner::<Smmuv3Event>(), Ok(Some(inner)));
    }

    #[test]
    fn loss_notice_has_nothing_else_in_it() {
        let lost = Mixed::lost(Sequence::wrapping(9));
        assert!(lost.is_lost());
        assert_eq!((lost.sequence, lost.check()), (9, Ok(())));
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
