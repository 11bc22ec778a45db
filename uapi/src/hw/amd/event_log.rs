//! The AMD IOMMU's event log.

use super::{CODE, DEVICE_ID, FLAGS, joined_pasid, split_pasid};
use crate::hw::bits::{Field, bit, bytes2, flag, unknown, words2};
use crate::hw::{HwError, pcie};
use crate::record::{wire_code, wire_flags};

wire_code! {
    /// The code of an [`EventLogEntry`], 4 bits.
    ///
    /// Source: Linux `EVENT_TYPE_*`.
    EventCode(u8) {
        /// The device table entry is invalid.
        ILLEGAL_DEV_TABLE_ENTRY = 0x1,
        /// See [`IoPageFault`].
        IO_PAGE_FAULT = 0x2,
        /// Hardware error while reading the device table.
        DEV_TAB_HW_ERROR = 0x3,
        /// Hardware error while reading a page table.
        PAGE_TAB_HW_ERROR = 0x4,
        /// The command is invalid.
        ILLEGAL_COMMAND = 0x5,
        /// Hardware error while reading a command.
        COMMAND_HW_ERROR = 0x6,
        /// A device did not answer the invalidation of its TLB in time.
        IOTLB_INV_TIMEOUT = 0x7,
        /// A device asked for what it may not.
        INVALID_DEVICE_REQUEST = 0x8,
        /// See [`InvalidPprRequest`].
        INVALID_PPR_REQUEST = 0x9,
        /// A counter has reached zero. Not confirmed: Linux does not know this code.
        EVENT_COUNTER_ZERO = 0xa,
        /// The reverse map table forbids the access.
        RMP_FAULT = 0xd,
        /// Hardware error while reading the reverse map table.
        RMP_HW_ERROR = 0xe,
    }
}

wire_flags! {
    /// What an [`IoPageFault`] says of the access. The numbers are those of its first 32 bits for the
    /// vIOMMU's four, of the flags 59:48 for the others. Not confirmed: those four, which Linux does not look at.
    IoPageFaultFlags {
        /// NX, bit 49: instruction fetch.
        NX = 0x2,
        /// US, bit 50: user.
        US = 0x4,
        /// I, bit 51: an interrupt.
        I = 0x8,
        /// PR, bit 52: the page is present.
        PR = 0x10,
        /// RW, bit 53: a write.
        RW = 0x20,
        /// PE, bit 54: no permission.
        PE = 0x40,
        /// RZ, bit 55: reserved bits were set.
        RZ = 0x80,
        /// TR, bit 56: a translation request.
        TR = 0x100,
        /// VNR, bit 27, of the vIOMMU.
        VNR = 0x0800_0000,
        /// VEVENT, bit 29, of the vIOMMU.
        VEVENT = 0x2000_0000,
        /// VPTR, bit 30, of the vIOMMU.
        VPTR = 0x4000_0000,
        /// VCMD, bit 31, of the vIOMMU.
        VCMD = 0x8000_0000,
    }
}

/// The flags of bits 56:49, and those that lie in the first 32 bits.
const IO_FLAGS: u64 = 0x1fe;
const IO_VIOMMU: u64 = 0xe800_0000;
const IO_PASID_HIGH: Field = Field::new("PASID[19:16]", 19, 16);
/// DomainID, or PASID\[15:0\].
const IO_DOMAIN: Field = Field::new("DomainID", 47, 32);
const IO_GN: u32 = 48;

/// Whose address space an [`IoPageFault`] was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// GN = 0: that of a domain.
    Domain(u16),
    /// GN = 1: that of a process, PASID of 20 bits.
    Pasid(u32),
}

/// IO_PAGE_FAULT.
///
/// | bits | field |
/// |---|---|
/// | 15:0 | DeviceID |
/// | 19:16 | PASID\[19:16\] |
/// | 27, 29, 30, 31 | VNR, VEVENT, VPTR, VCMD |
/// | 47:32 | DomainID, or PASID\[15:0\] |
/// | 48 | GN |
/// | 49 to 56 | NX, US, I, PR, RW, PE, RZ, TR |
/// | 63:60 | code = 2 |
/// | 127:64 | address |
///
/// Source: Linux `amd_iommu_report_page_fault()`, `EVENT_FLAG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoPageFault {
    /// Who made the access.
    pub device_id: u16,
    /// Where.
    pub space: AddressSpace,
    /// What is known of it.
    pub flags: IoPageFaultFlags,
    /// The address, in bytes.
    pub addr: u64,
}

/// INVALID_PPR_REQUEST, as Linux takes it apart; not confirmed in AMD's text.
///
/// | bits | field |
/// |---|---|
/// | 15:0 | DeviceID |
/// | 31:16, 45:42 | PASID, in two parts |
/// | 41:32 | TAG |
/// | 59:48 | FLAGS |
/// | 63:60 | code = 9 |
/// | 127:64 | address |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InvalidPprRequest {
    /// Who made the request.
    pub device_id: u16,
    /// Its PASID, 20 bits, valid or not.
    pub pasid: u32,
    /// Its tag, 10 bits.
    pub tag: u16,
    /// Its flags, 12 bits.
    pub flags: u16,
    /// Its address, in bytes.
    pub addr: u64,
}

const INVALID_PPR_TAG: Field = Field::new("TAG", 41, 32);

/// An entry of the event log, 16 bytes; bits 63:60 are its [`EventCode`].
///
/// The emulator of OpenVMM has other places for some fields: DeviceID in bits 31:16, and RW of IO_PAGE_FAULT in bit 127.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventLogEntry {
    /// Code 2.
    IoPageFault(IoPageFault),
    /// Code 9.
    InvalidPprRequest(InvalidPprRequest),
    /// Another code.
    Unknown([u64; 2]),
}

impl EventLogEntry {
    /// The entry with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let words @ [w0, addr] = words2(bytes);
        let device_id = DEVICE_ID.get(w0) as u16;
        match EventCode::new(CODE.get(w0) as u8) {
            EventCode::IO_PAGE_FAULT => {
                let low = IO_DOMAIN.get(w0);
                let space = if bit(w0, IO_GN) {
                    AddressSpace::Pasid((low | IO_PASID_HIGH.get(w0) << 16) as u32)
                } else {
                    AddressSpace::Domain(low as u16)
                };
                let flags = (FLAGS.get(w0) & IO_FLAGS | w0 & IO_VIOMMU) as u32;
                let flags = IoPageFaultFlags::from_bits_retain(flags);
                Self::IoPageFault(IoPageFault { device_id, space, flags, addr })
            }
            EventCode::INVALID_PPR_REQUEST => Self::InvalidPprRequest(InvalidPprRequest {
                device_id,
                pasid: joined_pasid(w0),
                tag: INVALID_PPR_TAG.get(w0) as u16,
                flags: FLAGS.get(w0) as u16,
                addr,
            }),
            _ => Self::Unknown(words),
        }
    }

    /// The code.
    #[inline]
    pub const fn code(&self) -> EventCode {
        match self {
            Self::IoPageFault(_) => EventCode::IO_PAGE_FAULT,
            Self::InvalidPprRequest(_) => EventCode::INVALID_PPR_REQUEST,
            Self::Unknown([w0, _]) => EventCode::new(CODE.get(*w0) as u8),
        }
    }

    /// The entry's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `PASID`, `TAG` or `FLAGS`; [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        let code = CODE.put(self.code().get())?;
        match self {
            Self::IoPageFault(IoPageFault { device_id, space, flags, addr }) => {
                let flags = u64::from(flags.bits());
                if flags & !(IO_FLAGS | IO_VIOMMU) != 0 {
                    return Err(HwError::DoesNotFit { field: "FLAGS", value: flags });
                }
                let space = match space {
                    AddressSpace::Domain(domain) => IO_DOMAIN.put(*domain)?,
                    AddressSpace::Pasid(pasid) => {
                        let pasid = pcie::PASID.put(*pasid)?;
                        let low = IO_DOMAIN.put(pasid & 0xffff)?;
                        low | IO_PASID_HIGH.put(pasid >> 16)? | flag(true, IO_GN)
                    }
                };
                let flags = FLAGS.put(flags & IO_FLAGS)? | flags & IO_VIOMMU;
                Ok(bytes2([code | DEVICE_ID.put(*device_id)? | space | flags, *addr]))
            }
            Self::InvalidPprRequest(InvalidPprRequest { device_id, pasid, tag, flags, addr }) => {
                let w0 = code | DEVICE_ID.put(*device_id)? | split_pasid(*pasid)?;
                Ok(bytes2([w0 | INVALID_PPR_TAG.put(*tag)? | FLAGS.put(*flags)?, *addr]))
            }
            Self::Unknown(words) => {
                let bytes = bytes2(*words);
                unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)))
            }
        }
    }
}
