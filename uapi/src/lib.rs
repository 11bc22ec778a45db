//! The wire contract of recordfd: what the bytes on a channel's file descriptor mean.
//!
//! A channel carries records of one [`Format`], fixed when the channel is made. Most records are an
//! [`EventHeader`] (flags and a 31-bit sequence number) followed by a payload; the replies that go
//! back on the same descriptor are plain structs.
//!
//! | format | record | reply |
//! |---|---|---|
//! | [`Format::IOMMU_PGFAULT_V1`] | [`PgFault`] | [`PageResponse`] |
//! | [`Format::IOMMU_PGFAULT_V2`] | [`Event<PgFault>`](Event) | [`PageResponse`] |
//! | [`Format::VIOMMU_ARM_SMMUV3_V1`] | [`Event<Smmuv3Event>`](Event) | none |
//! | [`Format::VIOMMU_TEGRA241_CMDQV_V1`] | [`Event<Tegra241CmdqvEvent>`](Event) | none |
//! | [`Format::ACPI_NOTIFY_V1`] | [`Event<AcpiNotify>`](Event) | [`AcpiOst`] |
//! | [`Format::PCI_ERROR_V1`] | [`Event<PciError>`](Event) | [`PciErrorResult`] |
//! | [`Format::PCI_ERROR_V2`] | [`Event<PciErrorV2>`](Event) | [`PciErrorResult`] |
//! | [`Format::DEVICE_REQUEST_V1`] | [`Event<DeviceRequest>`](Event) | [`DeviceAck`] |
//! | [`Format::MIXED_V1`] | [`Mixed`] | none |
//!
//! Records of the event formats may be lost, and then a header says so
//! ([`EventFlags::LOST_EVENTS`]); those that must be answered never are, but may be taken back
//! ([`EventFlags::CANCELLED`]). [`Payload::FLAGS`] has the rule.
//!
//! The crate is `no_std`, allocates nothing and contains no unsafe code. Decoding is total: any bytes
//! give a value or a [`RecordError`], never a panic. Values are host-endian except vendor payloads,
//! which are little-endian as the hardware writes them. Nothing on the wire is a Rust enum: codes are
//! transparent integers with named constants, flags keep bits they do not know.
//!
//! [`hw`] has the records of the IOMMUs themselves, and turns page faults into them and back.
//!
//! What mirrors Linux or a specification names its source; everything else is recordfd's own.
//!
//! ```
//! use recordfd_uapi::{AcpiNotify, Event, FixedText, Record, Sequence};
//!
//! let notify = AcpiNotify {
//!     dev_id: 1,
//!     value: 0x81,
//!     data: 0,
//!     cookie: 0,
//!     bus_id: FixedText::new("PNP0C0A:00")?,
//!     device_class: FixedText::new("battery")?,
//! };
//! let mut bytes = [0; Event::<AcpiNotify>::SIZE];
//! Event::new(Sequence::ZERO, notify).encode(&mut bytes);
//! assert_eq!(Event::<AcpiNotify>::decode(&bytes)?.payload, notify);
//! # Ok::<(), recordfd_uapi::RecordError>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]

mod acpi;
pub mod acpi_genl;
mod device;
mod format;
mod header;
pub mod hw;
mod linux;
mod mixed;
mod offer;
mod pci;
mod pgfault;
mod record;
mod sequence;
mod text;
mod viommu;

pub use acpi::{AcpiNotify, AcpiOst, NotifyRange, notify_range, notify_value_name, wants_ost};
pub use device::{DeviceAck, DeviceAckCode, DeviceRequest, DeviceRequestKind};
pub use format::{ChannelInfo, Format, Layout, Protocol, Transport, WRITE_MAX};
pub use header::{Event, EventFlags, EventHeader};
pub use linux::{LinuxEvent, LinuxEvents};
pub use mixed::{AnyEvent, KnownEvent, Mixed, MixedEvent};
pub use offer::{Offer, OfferError, OfferFlags};
pub use pci::{
    PciChannelState, PciError, PciErrorFlags, PciErrorResult, PciErrorStep, PciErrorV2, PciErsResult,
};
pub use pgfault::{PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm};
pub use record::{EventRecord, NoReply, Payload, Record, RecordError, Sequenced};
pub use sequence::{LossMeter, Sequence};
pub use text::FixedText;
pub use viommu::{Le64, Smmuv3Event, Tegra241CmdqvEvent};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
