//! Intel VT-d: page request queue, page group responses, fault recording registers.
//!
//! Source: Linux `drivers/iommu/intel/prq.c` (`struct page_req_dsc`), `iommu.h` (`QI_PGRP_*`,
//! `dma_frcd_*`) and QEMU `hw/i386/intel_iommu_internal.h` (`VTD_PRD_*`, `VTD_INV_DESC_PGRESP_*`,
//! `VTD_FRCD_*`), after the VT-d specification.

use super::HwError;
use super::bits::{Field, bit, bytes2, bytes4, flag, unknown, words2, words4};
use super::pcie::{PageRequest, Pasid, PrgResponse, ResponseCode, StopMarker};

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
/// reserved.
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
    /// PV: the process address space, 20 bits, when PP is set.
    pub pasid: Option<u32>,
    /// EXE: execute requested.
    pub exec: bool,
    /// PRIV: privileged mode requested.
    pub privileged: bool,
    /// FR: the reason. 1 root entry not present, 2 context entry not present, 3 context entry invalid, 4
    /// address beyond the guest's width, 5 no write permission, 6 no read permission, 7 paging entry,
    /// 8 root table or 9 context table not accessible, 0xa to 0xc reserved bits set, 0xd blocked by the
    /// translation type, 0x20 to 0x26 interrupt remapping, 0x58 PASID entry invalid.
    pub reason: u8,
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
            reason: FRCD_FR.get(q1) as u8,
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
        let mut q1 = FRCD_SID.put(self.source_id)? | FRCD_FR.put(self.reason)?;
        q1 |= FRCD_AT.put(self.address_type)?;
        if let Some(pasid) = self.pasid {
            q1 |= flag(true, FRCD_PP) | FRCD_PV.put(pasid)?;
        }
        q1 |= flag(self.exec, FRCD_EXE) | flag(self.privileged, FRCD_PRIV);
        q1 |= flag(self.t1, FRCD_T1) | flag(self.t2, FRCD_T2) | flag(self.fault, FRCD_F);
        Ok(bytes2([FRCD_FI.put_address(self.fault_info)?, q1]))
    }
}
