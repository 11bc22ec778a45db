//! virtio-iommu: the fault report of its event queue.
//!
//! The standard has no page request: a fault is reported, never answered.
//!
//! Source: OASIS virtio, "IOMMU device"; Linux `include/uapi/linux/virtio_iommu.h`.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_code, wire_flags};

wire_code! {
    /// Why an access failed.
    ///
    /// Source: Linux `VIRTIO_IOMMU_FAULT_R_*`.
    FaultReason(u8) {
        /// Unknown.
        UNKNOWN = 0,
        /// The endpoint is attached to no domain.
        DOMAIN = 1,
        /// The address is not mapped, or not for this access.
        MAPPING = 2,
    }
}

wire_flags! {
    /// What a [`Fault`] knows of the access.
    ///
    /// Source: Linux `VIRTIO_IOMMU_FAULT_F_*`.
    FaultFlags {
        /// It was a read.
        READ = 0x1,
        /// It was a write.
        WRITE = 0x2,
        /// It was an instruction fetch. Linux has it, the standard does not.
        EXEC = 0x4,
        /// The address is valid.
        ADDRESS = 0x100,
    }
}

/// A fault report, 24 bytes in a buffer of the event queue: `struct virtio_iommu_fault`.
///
/// | bytes | field |
/// |---|---|
/// | 0 | reason |
/// | 1 to 3 | reserved |
/// | 4 to 7 | flags |
/// | 8 to 11 | endpoint |
/// | 12 to 15 | reserved |
/// | 16 to 23 | address |
///
/// Every bit is kept, so any value can be encoded, and gives the bytes it was decoded from.
///
/// Source: OASIS virtio, `struct virtio_iommu_fault`; Linux likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Why.
    pub reason: FaultReason,
    /// Reserved, 0: a driver ignores a report where it is not.
    pub reserved: [u8; 3],
    /// What is known of the access.
    pub flags: FaultFlags,
    /// Who made it.
    pub endpoint: u32,
    /// Reserved, 0.
    pub reserved1: u32,
    /// The address, in bytes, when the flag `ADDRESS` is set.
    pub address: u64,
}

/// The report as it lies in memory.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Raw {
    reason: u8,
    reserved: [u8; 3],
    flags: U32,
    endpoint: U32,
    reserved1: U32,
    address: U64,
}

pin_layout!(Raw, size 24, align 1, {
    reason: 0, reserved: 1, flags: 4, endpoint: 8, reserved1: 12, address: 16,
});

impl Fault {
    /// The report with these bytes.
    #[inline]
    pub const fn decode(bytes: &[u8; 24]) -> Self {
        let raw: Raw = zerocopy::transmute!(*bytes);
        Self {
            reason: FaultReason::new(raw.reason),
            reserved: raw.reserved,
            flags: FaultFlags::from_bits_retain(raw.flags.get()),
            endpoint: raw.endpoint.get(),
            reserved1: raw.reserved1.get(),
            address: raw.address.get(),
        }
    }

    /// The report's bytes.
    #[inline]
    pub const fn encode(&self) -> [u8; 24] {
        zerocopy::transmute!(Raw {
            reason: self.reason.get(),
            reserved: self.reserved,
            flags: U32::new(self.flags.bits()),
            endpoint: U32::new(self.endpoint),
            reserved1: U32::new(self.reserved1),
            address: U64::new(self.address),
        })
    }
}
