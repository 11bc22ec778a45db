//! Intel VT-d: page request queue, page group responses, fault recording registers.
//!
//! Source: Linux `drivers/iommu/intel/prq.c` (`struct page_req_dsc`), `iommu.h` (`QI_PGRP_*`,
//! `dma_frcd_*`) and QEMU `hw/i386/intel_iommu_internal.h` (`VTD_PRD_*`, `VTD_INV_DESC_PGRESP_*`,
//! `VTD_FRCD_*`), after the VT-d specification.

use super::HwError;
use super::bits::{Field, bit, bytes2, bytes4, flag, unknown, words2, words4};
use super::pcie::{PageRequest, Pasid, PrgResponse, ResponseCode, StopMarker};
use crate::record::wire_code;

// Both descriptors have these two in the same place.
const RID: Field = Field::new("RID", 31, 16);
const PASID: Field = Field::new("PASID", 51, 32);

const PRD_TYPE: u64 = 0x01;
const PRD_TYPE_FIELD: Field = Field::new("TYPE", 7, 0);
const PRD_PP: u32 = 8;
const PRD_EXR: u32 = 52;
const PRD_PMR: u32 = 53;

/// A Page Request Descriptor, 32 bytes of the page request queue.
///
/// | bits | field |
/// |---|---|
/// | 7:0 | TYPE = 1 |
/// | 8 | PP: PASID present |
/// | 31:16 | RID |
/// | 51:32 | PASID |
/// | 52, 53 | EXR, PMR |
/// | 64, 65, 66 | RDR, WRR, LPIG |
/// | 75:67 | PRGI |
/// | 127:76 | ADDR |
///
/// Private data (PDP, bit 9, and the upper half) was in no product and is not in VT-d 4.0: it counts as
/// reserved. Linux does not look at TYPE.
///
/// Source: Linux `struct page_req_dsc`; QEMU `VTD_PRD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageRequestDescriptor {
    /// A page request.
    Request(PageRequest),
    /// L, W, R = 1, 0, 0, with a PASID or without: Linux asks for no more.
    ///
    /// Linux judges the address first. It answers a marker whose address is not canonical with Invalid Request, so
    /// the address is ignored here and is 0 when written.
    StopMarker(StopMarker),
    /// Another type.
    Unknown([u64; 4]),
}

impl PageRequestDescriptor {
    /// The descriptor with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 32]) -> Self {
        let words @ [q0, q1, ..] = words4(bytes);
        if PRD_TYPE_FIELD.get(q0) != PRD_TYPE {
            return Self::Unknown(words);
        }
        let pasid = bit(q0, PRD_PP).then(|| Pasid {
            value: PASID.get(q0) as u32,
            exec: bit(q0, PRD_EXR),
            privileged: bit(q0, PRD_PMR),
        });
        let request = PageRequest::from_payload(q1, RID.get(q0) as u32, pasid);
        if request.is_marked() { Self::StopMarker(request.marker()) } else { Self::Request(request) }
    }

    /// The descriptor's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `RID`, `PASID`, `PRGI` or `ADDR`; [`HwError::StopMarker`];
    /// [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 32], HwError> {
        let (rid, pasid, payload) = match self {
            Self::Request(request) if request.is_marked() => return Err(HwError::StopMarker),
            Self::Request(request) => (request.rid, request.pasid, request.to_payload()?),
            Self::StopMarker(StopMarker { rid, pasid }) => {
                let pasid = pasid.map(|value| Pasid { value, ..Pasid::default() });
                (*rid, pasid, StopMarker::PAYLOAD)
            }
            Self::Unknown(words) => {
                let bytes = bytes4(*words);
                return unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)));
            }
        };
        let mut q0 = PRD_TYPE | RID.put(rid)?;
        if let Some(pasid) = pasid {
            q0 |= flag(true, PRD_PP) | PASID.put(pasid.value)?;
            q0 |= flag(pasid.exec, PRD_EXR) | flag(pasid.privileged, PRD_PMR);
        }
        Ok(bytes4([q0, payload, 0, 0]))
    }
}

const PGRP_TYPE: u64 = 0x9;
const PGRP_TYPE_LOW: Field = Field::new("TYPE[3:0]", 3, 0);
const PGRP_TYPE_HIGH: Field = Field::new("TYPE[6:4]", 11, 9);
const PGRP_PP: u32 = 4;
const PGRP_RC: Field = Field::new("RC", 15, 12);
const PGRP_PRGI: Field = Field::new("PRGI", 11, 3);

/// A descriptor of the invalidation queue with 256-bit descriptors (IQA.DW = 1), as far as it answers
/// page requests.
///
/// | bits | field of the Page Group Response Descriptor |
/// |---|---|
/// | 3:0, 11:9 | TYPE = 9, in two parts |
/// | 4 | PP: PASID present |
/// | 15:12 | RC |
/// | 31:16 | RID |
/// | 51:32 | PASID |
/// | 75:67 | PRGI |
///
/// Bit 66 was LPIG before VT-d 4.0 and is reserved since: it is ignored, and 0 when written. Linux 6.12 copies the
/// request's LPIG there, Linux 7.2 writes 0, and QEMU does not read it.
///
/// Source: Linux `QI_PGRP_*`; QEMU `VTD_INV_DESC_PGRESP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InvalidationDescriptor {
    /// Type 9: the guest's answer to a page request group. Its code is RC.
    PageGroupResponse(PrgResponse),
    /// Another type, also the Page Stream Response of VT-d 2.x, whose layout is not confirmed.
    Unknown([u64; 4]),
}

impl InvalidationDescriptor {
    /// The descriptor with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 32]) -> Self {
        let words @ [q0, q1, ..] = words4(bytes);
        if PGRP_TYPE_LOW.get(q0) | PGRP_TYPE_HIGH.get(q0) << 4 != PGRP_TYPE {
            return Self::Unknown(words);
        }
        Self::PageGroupResponse(PrgResponse {
            rid: RID.get(q0) as u32,
            pasid: bit(q0, PGRP_PP).then(|| PASID.get(q0) as u32),
            prgi: PGRP_PRGI.get(q1) as u16,
            code: ResponseCode::new(PGRP_RC.get(q0) as u8),
        })
    }

    /// The descriptor's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `RID`, `PASID` or `PRGI`; [`HwError::Code`]; [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 32], HwError> {
        match self {
            Self::PageGroupResponse(response) => {
                let mut q0 = PGRP_TYPE | RID.put(response.rid)? | PGRP_RC.put(response.code.sent()?)?;
                if let Some(pasid) = response.pasid {
                    q0 |= flag(true, PGRP_PP) | PASID.put(pasid)?;
                }
                Ok(bytes4([q0, PGRP_PRGI.put(response.prgi)?, 0, 0]))
            }
            Self::Unknown(words) => {
                let bytes = bytes4(*words);
                unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)))
            }
        }
    }
}

const FRCD_FI: Field = Field::new("FI", 63, 12);
const FRCD_SID: Field = Field::new("SID", 15, 0);
const FRCD_T2: u32 = 28;
const FRCD_PRIV: u32 = 29;
const FRCD_EXE: u32 = 30;
const FRCD_PP: u32 = 31;
const FRCD_FR: Field = Field::new("FR", 39, 32);
const FRCD_PV: Field = Field::new("PV", 59, 40);
const FRCD_AT: Field = Field::new("AT", 61, 60);
const FRCD_T1: u32 = 62;
const FRCD_F: u32 = 63;

wire_code! {
    /// FR: why a request was refused.
    ///
    /// 0x01 to 0x0e are those of legacy mode, 0x20 to 0x26 those of interrupt remapping, and 0x30 to 0x90 those of
    /// scalable mode.
    ///
    /// Source: Linux `drivers/iommu/intel/dmar.c` (`dma_remap_fault_reasons`, `dma_remap_sm_fault_reasons`,
    /// `irq_remap_fault_reasons`); QEMU `enum VTDFaultReason`; 0x0e and 0x87 as QEMU and OpenVMM have them.
    FaultReason(u8) {
        /// The root entry is not present.
        ROOT_NOT_PRESENT = 0x1,
        /// The context entry is not present.
        CONTEXT_NOT_PRESENT = 0x2,
        /// The context entry is programmed wrongly.
        CONTEXT_INVALID = 0x3,
        /// The address is beyond the guest's width (MGAW).
        BEYOND_WIDTH = 0x4,
        /// No write permission.
        NO_WRITE = 0x5,
        /// No read permission.
        NO_READ = 0x6,
        /// A paging entry could not be accessed.
        PAGING_ACCESS = 0x7,
        /// The root table could not be accessed.
        ROOT_TABLE_ACCESS = 0x8,
        /// The context table could not be accessed.
        CONTEXT_TABLE_ACCESS = 0x9,
        /// Reserved bits are set in the root entry.
        ROOT_RESERVED = 0xa,
        /// Reserved bits are set in the context entry.
        CONTEXT_RESERVED = 0xb,
        /// Reserved bits are set in a paging entry.
        PAGING_RESERVED = 0xc,
        /// The context entry's translation type blocks the request.
        BLOCKED_BY_TYPE = 0xd,
        /// The translated address is in the interrupt range.
        INTERRUPT_RANGE = 0xe,
        /// Interrupt remapping: reserved fields are set in the request.
        IR_REQUEST_RESERVED = 0x20,
        /// Interrupt remapping: the index is beyond the table.
        IR_INDEX = 0x21,
        /// Interrupt remapping: the entry is not present.
        IR_NOT_PRESENT = 0x22,
        /// Interrupt remapping: the table could not be accessed.
        IR_TABLE_ACCESS = 0x23,
        /// Interrupt remapping: reserved fields are set in the entry.
        IR_ENTRY_RESERVED = 0x24,
        /// Interrupt remapping: a request of compatibility format was blocked.
        IR_COMPATIBILITY = 0x25,
        /// Interrupt remapping: the source id is not the entry's.
        IR_SOURCE_ID = 0x26,
        /// The root table's address is invalid.
        SM_ROOT_TABLE_ADDRESS = 0x30,
        /// The table's mode (TTM) does not take a request with a PASID.
        SM_TTM_PASID = 0x31,
        /// The table's mode (TTM) does not take a page group request.
        SM_TTM_PAGE_GROUP = 0x32,
        /// The root entry could not be accessed.
        SM_ROOT_ACCESS = 0x38,
        /// The root entry is not present.
        SM_ROOT_NOT_PRESENT = 0x39,
        /// Reserved fields are set in the root entry.
        SM_ROOT_RESERVED = 0x3a,
        /// The context entry could not be accessed.
        SM_CONTEXT_ACCESS = 0x40,
        /// The context entry is not present.
        SM_CONTEXT_NOT_PRESENT = 0x41,
        /// Reserved fields are set in the context entry.
        SM_CONTEXT_RESERVED = 0x42,
        /// The context entry is invalid.
        SM_CONTEXT_INVALID = 0x43,
        /// The context entry does not enable the device TLB (DTE).
        SM_NO_DEVICE_TLB = 0x44,
        /// The context entry does not enable PASIDs (PASIDE).
        SM_NO_PASID = 0x45,
        /// The PASID is larger than the context entry allows.
        SM_PASID_TOO_LARGE = 0x46,
        /// The context entry does not enable page requests (PRE).
        SM_NO_PAGE_REQUESTS = 0x47,
        /// RID_PASID of the context entry is wrong.
        SM_RID_PASID = 0x48,
        /// The PASID directory entry could not be accessed.
        PASID_DIRECTORY_ACCESS = 0x50,
        /// The PASID directory entry is not present.
        PASID_DIRECTORY_NOT_PRESENT = 0x51,
        /// Reserved fields are set in the PASID directory entry.
        PASID_DIRECTORY_RESERVED = 0x52,
        /// The PASID table entry could not be accessed.
        PASID_TABLE_ACCESS = 0x58,
        /// The PASID table entry is not present.
        PASID_NOT_PRESENT = 0x59,
        /// Reserved fields are set in the PASID table entry.
        PASID_RESERVED = 0x5a,
        /// The PASID table entry is invalid.
        PASID_INVALID = 0x5b,
        /// The PASID table entry does not enable execute requests (ERE).
        PASID_NO_EXECUTE = 0x5c,
        /// The PASID table entry does not enable supervisor requests (SRE).
        PASID_NO_SUPERVISOR = 0x5d,
        /// First stage: a paging entry could not be accessed.
        FS_ACCESS = 0x70,
        /// First stage: a paging entry is not present.
        FS_NOT_PRESENT = 0x71,
        /// First stage: reserved fields are set in a paging entry.
        FS_RESERVED = 0x72,
        /// First stage: the top-level (PML4) entry could not be accessed.
        FS_TOP_ACCESS = 0x73,
        /// First stage, nested: an entry's address is beyond the guest's width (MGAW).
        FS_BEYOND_WIDTH = 0x74,
        /// First stage, nested: no read permission for the top-level (PML4) entry.
        FS_TOP_NO_READ = 0x75,
        /// First stage, nested: no read permission for a paging entry.
        FS_ENTRY_NO_READ = 0x76,
        /// First stage, nested: no write permission for a paging entry.
        FS_ENTRY_NO_WRITE = 0x77,
        /// Second stage: a paging entry could not be accessed.
        SS_ACCESS = 0x78,
        /// Second stage: a paging entry gives no permission to read or to write.
        SS_NO_PERMISSION = 0x79,
        /// Second stage: reserved fields are set in a paging entry.
        SS_RESERVED = 0x7a,
        /// Second stage: the page table pointer is invalid.
        SS_POINTER = 0x7b,
        /// Second stage: an accessed or dirty bit has to be set where snooping is off.
        SS_BIT_UPDATE = 0x7c,
        /// First stage: the address is not canonical.
        FS_NOT_CANONICAL = 0x80,
        /// First stage: a user's request for a supervisor's page.
        FS_USER = 0x81,
        /// No execute permission.
        NO_EXECUTE = 0x82,
        /// The address is beyond the hardware's width.
        BEYOND_HARDWARE_WIDTH = 0x83,
        /// Second stage: an entry's address is beyond the width.
        SS_BEYOND_WIDTH = 0x84,
        /// No permission for a write or an atomic operation.
        SM_NO_WRITE = 0x85,
        /// No permission for a read or an atomic operation.
        SM_NO_READ = 0x86,
        /// The address is in the interrupt range.
        SM_INTERRUPT_RANGE = 0x87,
        /// First stage: an accessed or dirty bit has to be set where snooping is off.
        FS_BIT_UPDATE = 0x90,
    }
}

/// A fault recording register (FRCD), 16 bytes.
///
/// | bits | field |
/// |---|---|
/// | 63:12 | FI |
/// | 79:64 | SID |
/// | 92 | T2 |
/// | 93, 94, 95 | PRIV, EXE, PP |
/// | 103:96 | FR |
/// | 123:104 | PV |
/// | 125:124 | AT |
/// | 126 | T1 |
/// | 127 | F |
///
/// Source: Linux `dma_frcd_*`; QEMU `VTD_FRCD_*`; VirtualBox `iommu-intel.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FaultRecord {
    /// FI: the page that was accessed, in bytes, low 12 bits 0. Of an interrupt remapping fault the
    /// interrupt index in bits 63:48.
    pub fault_info: u64,
    /// SID: who accessed it.
    pub source_id: u16,
    /// PV: the process address space, 20 bits, when PP is set. QEMU 10.2 writes the low 16 bits only.
    pub pasid: Option<u32>,
    /// EXE: execute requested.
    pub exec: bool,
    /// PRIV: privileged mode requested.
    pub privileged: bool,
    /// FR: the reason.
    pub reason: FaultReason,
    /// AT: the address type, 2 bits.
    pub address_type: u8,
    /// T1: in legacy mode 0 a write, 1 a read. Not confirmed: that T1, T2 are 0, 0 for a write, 0, 1
    /// for a page request, 1, 0 for a read and 1, 1 for an atomic operation.
    pub t1: bool,
    /// T2, see `t1`.
    pub t2: bool,
    /// F: there is a fault in this register; software clears it by writing 1.
    pub fault: bool,
}

impl FaultRecord {
    /// The record with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let [q0, q1] = words2(bytes);
        Self {
            fault_info: q0 & FRCD_FI.mask(),
            source_id: FRCD_SID.get(q1) as u16,
            pasid: bit(q1, FRCD_PP).then(|| FRCD_PV.get(q1) as u32),
            exec: bit(q1, FRCD_EXE),
            privileged: bit(q1, FRCD_PRIV),
            reason: FaultReason::new(FRCD_FR.get(q1) as u8),
            address_type: FRCD_AT.get(q1) as u8,
            t1: bit(q1, FRCD_T1),
            t2: bit(q1, FRCD_T2),
            fault: bit(q1, FRCD_F),
        }
    }

    /// The record's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `FI`, `PV` or `AT`.
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        let mut q1 = FRCD_SID.put(self.source_id)? | FRCD_FR.put(self.reason.get())?;
        q1 |= FRCD_AT.put(self.address_type)?;
        if let Some(pasid) = self.pasid {
            q1 |= flag(true, FRCD_PP) | FRCD_PV.put(pasid)?;
        }
        q1 |= flag(self.exec, FRCD_EXE) | flag(self.privileged, FRCD_PRIV);
        q1 |= flag(self.t1, FRCD_T1) | flag(self.t2, FRCD_T2) | flag(self.fault, FRCD_F);
        Ok(bytes2([FRCD_FI.put_address(self.fault_info)?, q1]))
    }
}
