//! What a channel carries: its format, fixed when it is made.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_code};
use crate::{
    AcpiNotify, AcpiOst, DeviceAck, DeviceRequest, Event, Mixed, PageResponse, Payload, PciError,
    PciErrorResult, PciErrorV2, PgFault, Record, RecordError, Smmuv3Event, Tegra241CmdqvEvent,
};

/// The format of a channel: an id in the high half, a version in the low half.
///
/// A format never changes; what must change gets a new version, and ids are never reused. An unknown
/// format is a value like any other, [`layout`](Self::layout) just does not know it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Format(pub u32);

impl Format {
    /// IO page faults as Linux' `iommu_hwpt_pgfault` has them.
    pub const IOMMU_PGFAULT_V1: Self = Self::new(1, 1);
    /// IO page faults behind a header, which can say that a fault was cancelled.
    pub const IOMMU_PGFAULT_V2: Self = Self::new(1, 2);
    /// SMMUv3 event records of a vIOMMU.
    pub const VIOMMU_ARM_SMMUV3_V1: Self = Self::new(2, 1);
    /// Tegra241 CMDQV error maps of a vIOMMU.
    pub const VIOMMU_TEGRA241_CMDQV_V1: Self = Self::new(3, 1);
    /// ACPI device notifications.
    pub const ACPI_NOTIFY_V1: Self = Self::new(4, 1);
    /// PCI errors and the steps of their recovery.
    pub const PCI_ERROR_V1: Self = Self::new(5, 1);
    /// PCI errors and the steps of their recovery, with the TLP log of PCIe 6.
    pub const PCI_ERROR_V2: Self = Self::new(5, 2);
    /// Requests of a device to its user: release it, or take note of its reset.
    pub const DEVICE_REQUEST_V1: Self = Self::new(6, 1);
    /// Event records of several formats on one channel.
    pub const MIXED_V1: Self = Self::new(7, 1);

    /// Every format this version of the contract knows.
    pub const ALL: [Self; 9] = [
        Self::IOMMU_PGFAULT_V1,
        Self::IOMMU_PGFAULT_V2,
        Self::VIOMMU_ARM_SMMUV3_V1,
        Self::VIOMMU_TEGRA241_CMDQV_V1,
        Self::ACPI_NOTIFY_V1,
        Self::PCI_ERROR_V1,
        Self::PCI_ERROR_V2,
        Self::DEVICE_REQUEST_V1,
        Self::MIXED_V1,
    ];

    /// The format with this id and version.
    pub const fn new(id: u16, version: u16) -> Self {
        Self((id as u32) << 16 | version as u32)
    }

    /// Which kind of record, `1..=65535`.
    pub const fn id(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Which version of it, from 1.
    pub const fn version(self) -> u16 {
        self.0 as u16
    }

    /// Name, sizes and protocol; `None` for a format this version of the contract does not know.
    pub const fn layout(self) -> Option<Layout> {
        use Protocol::{Event as Events, MustAnswer};
        Some(match self {
            Self::IOMMU_PGFAULT_V1 => {
                Layout::of::<PgFault>("IOMMU_PGFAULT", size_of::<PageResponse>(), MustAnswer)
            }
            Self::IOMMU_PGFAULT_V2 => {
                Layout::of::<Event<PgFault>>("IOMMU_PGFAULT", size_of::<PageResponse>(), MustAnswer)
            }
            Self::VIOMMU_ARM_SMMUV3_V1 => Layout::of::<Event<Smmuv3Event>>("VIOMMU_ARM_SMMUV3", 0, Events),
            Self::VIOMMU_TEGRA241_CMDQV_V1 => {
                Layout::of::<Event<Tegra241CmdqvEvent>>("VIOMMU_TEGRA241_CMDQV", 0, Events)
            }
            Self::ACPI_NOTIFY_V1 => {
                Layout::of::<Event<AcpiNotify>>("ACPI_NOTIFY", size_of::<AcpiOst>(), Events)
            }
            Self::PCI_ERROR_V1 => {
                Layout::of::<Event<PciError>>("PCI_ERROR", size_of::<PciErrorResult>(), MustAnswer)
            }
            Self::PCI_ERROR_V2 => {
                Layout::of::<Event<PciErrorV2>>("PCI_ERROR", size_of::<PciErrorResult>(), MustAnswer)
            }
            Self::DEVICE_REQUEST_V1 => {
                Layout::of::<Event<DeviceRequest>>("DEVICE_REQUEST", size_of::<DeviceAck>(), MustAnswer)
            }
            Self::MIXED_V1 => Layout::of::<Mixed>("MIXED", 0, Events),
            _ => return None,
        })
    }
}

impl fmt::Display for Format {
    /// `ACPI_NOTIFY v1`, or the number of a format that is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layout() {
            Some(layout) => write!(f, "{} v{}", layout.name, self.version()),
            None => write!(f, "unknown format {:#010x}", self.0),
        }
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Format({self})")
    }
}

/// The most bytes of one write to a socket channel: AF_UNIX takes such a write whole or not at all.
///
/// This needs a send buffer well over twice as large as the write; Linux' default one is. What is
/// longer Linux may take in parts, and so split a record.
///
/// Source: Linux `net/unix/af_unix.c`, `unix_stream_sendmsg()`.
pub const WRITE_MAX: usize = 16384;

/// Name, sizes and protocol of a [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The name without the version.
    pub name: &'static str,
    /// Bytes of one record.
    pub record_size: usize,
    /// Bytes of one reply; 0 when the format has none (see [`NoReply`](crate::NoReply)).
    pub reply_size: usize,
    /// Whether records must be answered.
    pub protocol: Protocol,
}

impl Layout {
    const fn of<R: Record>(name: &'static str, reply_size: usize, protocol: Protocol) -> Self {
        Self { name, record_size: R::SIZE, reply_size, protocol }
    }
}

/// What a channel promises about its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Records may be lost when the queue is full; the loss is counted and visible in order.
    Event,
    /// Every accepted record completes exactly once, by an answer or by the format's negative answer.
    MustAnswer,
}

wire_code! {
    /// What carries a channel's records.
    Transport(u32) {
        /// Threads of one process.
        LOCAL = 1,
        /// An AF_UNIX stream socket.
        SOCKET = 2,
        /// Rings in shared memory, a socket as doorbell.
        SHARED = 3,
        /// A descriptor of the kernel's iommufd.
        KERNEL = 4,
    }
}

/// What the maker of a channel tells the other side out of band, along with the descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ChannelInfo {
    /// What the records are.
    pub format: Format,
    /// How they travel.
    pub transport: Transport,
    /// How many records the queue takes before it is full.
    pub depth: u32,
    reserved: u32,
}

pin_layout!(ChannelInfo, size 16, align 4, { format: 0, transport: 4, depth: 8, reserved: 12 });

impl ChannelInfo {
    /// The description of a channel.
    pub const fn new(format: Format, transport: Transport, depth: u32) -> Self {
        Self { format, transport, depth, reserved: 0 }
    }
}

impl Payload for ChannelInfo {
    fn check(&self) -> Result<(), RecordError> {
        if self.reserved == 0 { Ok(()) } else { Err(RecordError::Reserved { field: "reserved" }) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn sizes_are_those_of_the_contract() {
        let sizes = Format::ALL.map(|format| {
            let layout = format.layout().unwrap();
            (layout.record_size, layout.reply_size)
        });
        assert_eq!(sizes, [(40, 8), (48, 8), (40, 0), (24, 0), (64, 16), (48, 8), (96, 8), (24, 8), (80, 0)]);
    }

    #[test]
    fn longest_write_holds_a_whole_number_of_replies_and_some_records() {
        for layout in Format::ALL.map(|format| format.layout().unwrap()) {
            assert!(layout.reply_size == 0 || WRITE_MAX % layout.reply_size == 0, "{layout:?}");
            assert!(WRITE_MAX / layout.record_size > 150, "{layout:?}");
        }
    }

    #[test]
    fn unknown_format_has_no_layout_but_a_name() {
        assert_eq!(Format::new(4, 2).layout(), None);
        assert_eq!(Format::new(4, 2).to_string(), "unknown format 0x00040002");
        assert_eq!(Format::ACPI_NOTIFY_V1.to_string(), "ACPI_NOTIFY v1");
    }
}
