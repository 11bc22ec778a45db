//! Events of a virtual IOMMU: the vendor's own record behind a header.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::pin_layout;
use crate::{Event, EventFlags, EventRecord, Format, NoReply, Payload};

/// A little-endian 64-bit word, aligned to 8 bytes within the records that hold it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Le64(u64);

impl Le64 {
    /// The word with this value.
    pub const fn new(value: u64) -> Self {
        Self(value.to_le())
    }

    /// The value.
    pub const fn get(self) -> u64 {
        u64::from_le(self.0)
    }
}

impl fmt::Debug for Le64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.get())
    }
}

/// An SMMUv3 event record; byte-identical to Linux `struct iommu_vevent_arm_smmuv3`.
///
/// The four words are an event queue entry (Arm IHI 0070, "Event records") whose StreamID was
/// replaced by the virtual one.
///
/// Source: Linux `include/uapi/linux/iommufd.h`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Smmuv3Event {
    /// The entry, 256 bits.
    pub evt: [Le64; 4],
}

pin_layout!(Smmuv3Event, size 32, align 8, { evt: 0 });

impl Payload for Smmuv3Event {
    const FLAGS: EventFlags = EventFlags::all();
}

impl EventRecord for Smmuv3Event {
    const FORMAT: Format = Format::VIOMMU_ARM_SMMUV3_V1;
    type Wire = Event<Self>;
    type Reply = NoReply;
}

/// An error of a Tegra241 virtual command queue; byte-identical to Linux
/// `struct iommu_vevent_tegra241_cmdqv`.
///
/// Source: Linux `include/uapi/linux/iommufd.h`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tegra241CmdqvEvent {
    /// Bit n of the 128 is set when logical VCMDQ n is in error.
    pub lvcmdq_err_map: [Le64; 2],
}

pin_layout!(Tegra241CmdqvEvent, size 16, align 8, { lvcmdq_err_map: 0 });

impl Payload for Tegra241CmdqvEvent {
    const FLAGS: EventFlags = EventFlags::all();
}

impl EventRecord for Tegra241CmdqvEvent {
    const FORMAT: Format = Format::VIOMMU_TEGRA241_CMDQV_V1;
    type Wire = Event<Self>;
    type Reply = NoReply;
}
