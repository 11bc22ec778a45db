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
        /// The fields from `status` on hold AER registers.
        AER_VALID = 0x4,
        /// The TLP was logged in Flit mode, so that its header may have more than 4 dwords. Only a [`PciErrorV2`] has it.
        FLIT = 0x8,
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

/// A PCI error, or the next step of its recovery, with the whole log of the TLP.
///
/// It is a [`PciError`] that also has room for what PCIe 6 logs: a header of up to 14 dwords in Flit mode, and
/// otherwise up to 4 TLP prefixes after the 4 dwords of the header.
///
/// ```
/// use recordfd_uapi::{PciErrorFlags, PciErrorV2};
///
/// let mut error = PciErrorV2 { header_len: 4, prefix_len: 1, ..PciErrorV2::default() };
/// error.flags = PciErrorFlags::FATAL | PciErrorFlags::AER_VALID;
/// error.tlp_log[..5].copy_from_slice(&[0x4a00_0001, 0x0100_0004, 0, 0, 0x9100_0005]);
/// assert_eq!(error.prefixes(), [0x9100_0005]);
/// assert_eq!(error.to_v1().header_log, error.header());
/// ```
///
/// Source: PCIe Base Specification 6.2, sections 7.8.4 and 7.9.14; Linux `include/linux/aer.h`, `struct pcie_tlp_log`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PciErrorV2 {
    /// The device, as the channel's two sides number devices.
    pub dev_id: u32,
    /// What the result names.
    pub cookie: u32,
    /// The step of recovery.
    pub step: PciErrorStep,
    /// Whether the device can be reached.
    pub state: PciChannelState,
    /// Severity, whether the registers are valid, and whether the TLP was logged in Flit mode.
    pub flags: PciErrorFlags,
    /// AER uncorrectable or correctable error status.
    pub status: u32,
    /// The mask register that belongs to `status`.
    pub mask: u32,
    /// The severity register that belongs to `status`: bits that are set are fatal errors. 0 when correctable.
    pub severity: u32,
    /// How many dwords at the beginning of `tlp_log` are the TLP's header: at most 4 without `FLIT`.
    pub header_len: u16,
    /// How many dwords after the header are TLP prefixes: at most 4, and 0 with `FLIT`.
    pub prefix_len: u16,
    /// The log of the first error's TLP: its header, then its prefixes. Read it with [`header`](Self::header) and
    /// [`prefixes`](Self::prefixes).
    pub tlp_log: [u32; 14],
}

pin_layout!(PciErrorV2, size 88, align 4, {
    dev_id: 0, cookie: 4, step: 8, state: 10, flags: 12, status: 16, mask: 20, severity: 24, header_len: 28,
    prefix_len: 30, tlp_log: 32,
});

impl PciErrorV2 {
    /// The dwords of the TLP's header. A `header_len` that is too large stands for all of the log.
    pub fn header(&self) -> &[u32] {
        let end = self.tlp_log.len().min(self.header_len.into());
        &self.tlp_log[..end]
    }

    /// The TLP's prefixes. A `prefix_len` that is too large stands for all after the header.
    pub fn prefixes(&self) -> &[u32] {
        let rest = &self.tlp_log[self.header().len()..];
        &rest[..rest.len().min(self.prefix_len.into())]
    }

    /// The same error as [`PciError`] has it: the first 4 dwords of the log, no severity register and no `FLIT`.
    pub fn to_v1(&self) -> PciError {
        let Self { dev_id, cookie, step, state, flags, status, mask, tlp_log: [d0, d1, d2, d3, ..], .. } =
            *self;
        let flags = flags.difference(PciErrorFlags::FLIT);
        PciError { dev_id, cookie, step, state, flags, status, mask, header_log: [d0, d1, d2, d3] }
    }
}

impl From<PciError> for PciErrorV2 {
    /// The same error with the header's 4 dwords if the registers are valid, without prefixes, and with a `severity`
    /// of 0, which a [`PciError`] does not say.
    fn from(error: PciError) -> Self {
        let PciError { dev_id, cookie, step, state, flags, status, mask, header_log } = error;
        let mut tlp_log = [0; 14];
        tlp_log[..4].copy_from_slice(&header_log);
        let header_len = if flags.contains(PciErrorFlags::AER_VALID) { 4 } else { 0 };
        let flags = flags.difference(PciErrorFlags::FLIT);
        Self {
            dev_id,
            cookie,
            step,
            state,
            flags,
            status,
            mask,
            severity: 0,
            header_len,
            prefix_len: 0,
            tlp_log,
        }
    }
}

impl Payload for PciErrorV2 {
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

/// The answer to a [`PciError`] or a [`PciErrorV2`].
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{Event, Record, Sequence};

    /// Each field with a value of its own.
    fn sample() -> PciErrorV2 {
        let mut error = PciErrorV2 {
            dev_id: 0x0101_0101,
            cookie: 0x0202_0202,
            step: PciErrorStep::SLOT_RESET,
            state: PciChannelState::IO_FROZEN,
            flags: PciErrorFlags::FATAL | PciErrorFlags::AER_VALID | PciErrorFlags::FLIT,
            status: 0x0303_0303,
            mask: 0x0404_0404,
            severity: 0x0505_0505,
            header_len: 14,
            prefix_len: 0,
            tlp_log: [0; 14],
        };
        for (at, dword) in error.tlp_log.iter_mut().enumerate() {
            *dword = 0x6060_6060 + at as u32;
        }
        error
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn second_version_has_these_bytes() {
        let mut bytes = [0xa5; Event::<PciErrorV2>::SIZE];
        Event::new(Sequence::wrapping(7), sample()).encode(&mut bytes);
        let mut expected = [0; 96];
        expected[..40].copy_from_slice(&[
            0, 0, 0, 0, 7, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 0, 2, 0, 0xd, 0, 0, 0, 3, 3, 3, 3, 4, 4, 4, 4,
            5, 5, 5, 5, 14, 0, 0, 0,
        ]);
        for (at, dword) in expected[40..].chunks_exact_mut(4).enumerate() {
            dword.copy_from_slice(&[0x60 + at as u8, 0x60, 0x60, 0x60]);
        }
        assert_eq!(bytes, expected);
        assert_eq!(Event::<PciErrorV2>::decode(&bytes).unwrap().payload, sample());
    }

    #[test]
    fn lengths_of_a_peer_stay_within_the_log() {
        for (header_len, prefix_len, header, prefixes) in [
            (0, 0, 0, 0),
            (4, 4, 4, 4),
            (14, 0, 14, 0),
            (14, 4, 14, 0),
            (12, 4, 12, 2),
            (15, 1, 14, 0),
            (0, u16::MAX, 0, 14),
            (u16::MAX, u16::MAX, 14, 0),
        ] {
            let error = PciErrorV2 { header_len, prefix_len, ..sample() };
            assert_eq!((error.header().len(), error.prefixes().len()), (header, prefixes));
            assert_eq!([error.header(), error.prefixes()].concat(), error.tlp_log[..header + prefixes]);
        }
    }

    #[test]
    fn first_version_comes_back_from_the_second() {
        let first = PciError {
            flags: PciErrorFlags::FATAL | PciErrorFlags::AER_VALID,
            header_log: [1, 2, 3, 4],
            ..sample().to_v1()
        };
        let second = PciErrorV2::from(first);
        assert_eq!((second.to_v1(), second.header(), second.prefixes()), (first, &[1, 2, 3, 4][..], &[][..]));
        let without = PciError { flags: PciErrorFlags::FATAL, ..first };
        assert_eq!((PciErrorV2::from(without).to_v1(), PciErrorV2::from(without).header_len), (without, 0));
        // What only the second has is left out.
        let first = sample().to_v1();
        assert_eq!(first.flags, PciErrorFlags::FATAL | PciErrorFlags::AER_VALID);
        assert_eq!(first.header_log[..], sample().tlp_log[..4]);
    }
}
