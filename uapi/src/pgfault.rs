//! IO page faults and their responses, as Linux' iommufd has them (`include/uapi/linux/iommufd.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_code, wire_flags};
use crate::{EventFlags, Payload};

wire_flags! {
    /// Flags of a [`PgFault`].
    ///
    /// Source: Linux `include/uapi/linux/iommufd.h`, `enum iommu_hwpt_pgfault_flags`.
    PgFaultFlags {
        /// `pasid` is valid.
        PASID_VALID = 0x1,
        /// The last fault of its group: the group is complete and can be answered.
        LAST_PAGE = 0x2,
        /// The device expects the PASID in the answer that Linux sends to it.
        ///
        /// Linux sets it on every fault of Intel and AMD that has a PASID. Its uapi header has no name for it. A
        /// responder ignores it: a [`PageResponse`] names the cookie alone.
        ///
        /// Source: Linux `include/linux/iommu.h`, `IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID`;
        /// `drivers/iommu/iommufd/eventq.c`, which passes the flags on.
        NEEDS_PASID = 0x4,
    }
}

wire_flags! {
    /// Accesses a [`PgFault`] asks for.
    ///
    /// Source: Linux `include/uapi/linux/iommufd.h`, `enum iommu_hwpt_pgfault_perm`.
    PgFaultPerm {
        /// Read.
        READ = 0x1,
        /// Write.
        WRITE = 0x2,
        /// Execute.
        ///
        /// A PCIe page request has it only together with a PASID: Execute Requested is a bit of the PASID prefix (PCIe
        /// Base Specification, 10.4.1). A stall of SMMUv3 has it without a PASID, too.
        EXEC = 0x4,
        /// Privileged mode. As with `EXEC`, a PCIe page request has it only together with a PASID (Privileged Mode
        /// Requested), and a stall of SMMUv3 also without one.
        PRIV = 0x8,
    }
}

/// One IO page fault; byte-identical to Linux `struct iommu_hwpt_pgfault`.
///
/// The faults of one PRI page request group follow each other, carry the same cookie, and the last
/// one has [`LAST_PAGE`](PgFaultFlags::LAST_PAGE). One [`PageResponse`] answers the group.
///
/// Source: Linux `include/uapi/linux/iommufd.h`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PgFault {
    /// What is valid, and whether the group ends here.
    pub flags: PgFaultFlags,
    /// The device, as an iommufd object id.
    pub dev_id: u32,
    /// The process address space, 20 bits, when `PASID_VALID` is set.
    pub pasid: u32,
    /// The hardware's group index: 9 bits for PCIe PRI, 16 for an SMMUv3 stall. Not an identity.
    pub grpid: u32,
    /// The accesses asked for.
    pub perm: PgFaultPerm,
    /// Linux' `__reserved`: kept as it came, for Linux may give it a meaning.
    pub reserved: u32,
    /// The faulting address, in bytes.
    pub addr: u64,
    /// A hint how many bytes the device will touch from `addr`; 0 is no hint.
    pub length: u32,
    /// What a response names; opaque, never 0 on our own channels.
    pub cookie: u32,
}

pin_layout!(PgFault, size 40, align 8, {
    flags: 0, dev_id: 4, pasid: 8, grpid: 12, perm: 16, reserved: 20, addr: 24, length: 32, cookie: 36,
});

impl Payload for PgFault {
    const FLAGS: EventFlags = EventFlags::CANCELLED;
}

wire_code! {
    /// How a page-fault group is answered.
    ///
    /// There is no FAILURE here: it exists in PCIe and inside the kernel only.
    ///
    /// Source: Linux `include/uapi/linux/iommufd.h`, `enum iommufd_page_response_code`.
    PageResponseCode(u32) {
        /// The pages are there, the device may retry.
        SUCCESS = 0,
        /// The access is refused.
        INVALID = 1,
    }
}

/// The answer to a page-fault group; byte-identical to Linux `struct iommu_hwpt_page_response`.
///
/// Source: Linux `include/uapi/linux/iommufd.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PageResponse {
    /// The cookie of the group's faults.
    pub cookie: u32,
    /// The verdict. A channel of page faults takes no other value than the named ones; decoding does.
    pub code: PageResponseCode,
}

pin_layout!(PageResponse, size 8, align 4, { cookie: 0, code: 4 });

impl Payload for PageResponse {}
