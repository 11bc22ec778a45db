//! PCI errors: each step of a recovery is a record of its own, answered by a result.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{pin_layout, wire_code, wire_flags};
use crate::{EventFlags, Payload};

wire_code! {
    /// The step of error recovery a driver is told of; the numbers are ours.
    ///
    /// Source: Linux `Documentation/PCI/pci-error-recovery.rst`, the callbacks of
    /// `struct pci_error_handlers`.
    PciErrorStep(u16) {
        /// An error was detected.
        ERROR_DETECTED = 1,
        /// MMIO works again, DMA does not.
        MMIO_ENABLED = 2,
        /// The slot was reset.
        SLOT_RESET = 3,
        /// Normal operation may go on.
        RESUME = 4,
    }
}

wire_code! {
    /// State of the channel to the device.
    ///
    /// Source: Linux `include/linux/pci.h`, `pci_channel_state_t`.
    PciChannelState(u16) {
        /// The device can be reached.
        IO_NORMAL = 1,
        /// MMIO and DMA are blocked.
        IO_FROZEN = 2,
        /// The device is gone for good.
        IO_PERM_FAILURE = 3,
    }
}

wire_flags! {
    /// Flags of a [`PciError`].
    PciErrorFlags {
        /// The error is fatal: the link is not reliable.
        FATAL = 0x1,
        /// The hardware corrected the error.
        CORRECTABLE = 0x2,
        /// `status`, `mask` and `header_log` hold AER registers.
        AER_VALID = 0x4,
    }
}

/// A PCI error, or the next step of its recovery.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PciError {
    /// The device, as the channel's two sides number devices.
    pub dev_id: u32,
    /// What the result names.
    pub cookie: u32,
    /// The step of recovery.
    pub step: PciErrorStep,
    /// Whether the device can be reached.
    pub state: PciChannelState,
    /// Severity, and whether the registers are valid.
    pub flags: PciErrorFlags,
    /// AER uncorrectable or correctable error status (PCIe Base Specification, "Advanced Error Reporting").
    pub status: u32,
    /// The mask register that belongs to `status`.
    pub mask: u32,
    /// The header log register: the TLP header of the first error.
    pub header_log: [u32; 4],
}

pin_layout!(PciError, size 40, align 4, {
    dev_id: 0, cookie: 4, step: 8, state: 10, flags: 12, status: 16, mask: 20, header_log: 24,
});

impl Payload for PciError {
    const FLAGS: EventFlags = EventFlags::CANCELLED;
}

wire_code! {
    /// What a driver makes of an error.
    ///
    /// Source: Linux `include/linux/pci.h`, `enum pci_ers_result`. Its NO_AER_DRIVER (6) says that there is no driver
    /// to ask, so it is no answer and has no name here.
    PciErsResult(u32) {
        /// The driver has no opinion: the other functions of the slot decide. Linux' `pds_core`, `mt7921` and `hns3`
        /// return it.
        NONE = 1,
        /// The driver can recover without a slot reset.
        CAN_RECOVER = 2,
        /// The driver wants the slot reset.
        NEED_RESET = 3,
        /// The device cannot recover.
        DISCONNECT = 4,
        /// The device has recovered.
        RECOVERED = 5,
    }
}

/// The answer to a [`PciError`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PciErrorResult {
    /// The cookie of the error.
    pub cookie: u32,
    /// The driver's verdict.
    pub result: PciErsResult,
}

pin_layout!(PciErrorResult, size 8, align 4, { cookie: 0, result: 4 });

impl Payload for PciErrorResult {}
