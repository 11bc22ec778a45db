//! RISC-V IOMMU: page request queue, ATS.PRGR command, fault queue.
//!
//! All of it little-endian, as with fctl.BE = 0.
//!
//! Source: RISC-V IOMMU Architecture Specification, "In-memory queue interface"; Linux
//! `drivers/iommu/riscv/iommu-bits.h`.

use super::HwError;
use super::bits::{Field, bit, bytes2, bytes4, flag, unknown, words2, words4};
use super::pcie::{PageRequest, Pasid, PrgResponse, ResponseCode, StopMarker};

// All three records have these in the same place.
const PID: Field = Field::new("PID", 31, 12);
const PV: u32 = 32;
const PRIV: u32 = 33;
const DID: Field = Field::new("DID", 63, 40);

const PQ_EXEC: u32 = 34;

/// A page-request record, 16 bytes of the page-request queue.
///
/// | bits | field |
/// |---|---|
/// | 31:12 | PID |
/// | 32, 33, 34 | PV, PRIV, EXEC |
/// | 63:40 | DID |
/// | 64, 65, 66 | R, W, L |
/// | 75:67 | PRGI |
/// | 127:76 | address |
///
/// The low 16 bits of DID are the requester id, the high 8 its segment (the reference model's `iommu_ats.c`; QEMU
/// `riscv-iommu.c`). Linux has the records' layout but never enables the queue, see [`GuestPolicy`](super::GuestPolicy).
///
/// Source: RISC-V IOMMU specification, "Page-Request-Queue"; Linux `RISCV_IOMMU_PREQ_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageRequestRecord {
    /// A page request.
    Request(PageRequest),
    /// L, W, R = 1, 0, 0, with a PASID or without: the specification does not ask for PV.
    StopMarker(StopMarker),
}

impl PageRequestRecord {
    /// The record with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let [w0, w1] = words2(bytes);
        let pasid = bit(w0, PV).then(|| Pasid {
            value: PID.get(w0) as u32,
            exec: bit(w0, PQ_EXEC),
            privileged: bit(w0, PRIV),
        });
        let request = PageRequest::from_payload(w1, DID.get(w0) as u32, pasid);
        if request.is_marked() { Self::StopMarker(request.marker()) } else { Self::Request(request) }
    }

    /// The record's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `DID`, `PID`, `PRGI` or `ADDR`; [`HwError::StopMarker`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        let (rid, pasid, payload) = match self {
            Self::Request(request) if request.is_marked() => return Err(HwError::StopMarker),
            Self::Request(request) => (request.rid, request.pasid, request.to_payload()?),
            Self::StopMarker(StopMarker { rid, pasid }) => {
                let pasid = pasid.map(|value| Pasid { value, ..Pasid::default() });
                (*rid, pasid, StopMarker::PAYLOAD)
            }
        };
        let mut w0 = DID.put(rid)?;
        if let Some(pasid) = pasid {
            w0 |= flag(true, PV) | PID.put(pasid.value)?;
            w0 |= flag(pasid.exec, PQ_EXEC) | flag(pasid.privileged, PRIV);
        }
        Ok(bytes2([w0, payload]))
    }
}

const OPCODE: Field = Field::new("OPCODE", 6, 0);
const FUNC3: Field = Field::new("FUNC3", 9, 7);
const OPCODE_ATS: u64 = 4;
const FUNC3_PRGR: u64 = 1;
const DSV: u32 = 33;
const RID: Field = Field::new("RID", 55, 40);
const DSEG: Field = Field::new("DSEG", 63, 56);
const PRGI: Field = Field::new("PRGI", 40, 32);
const CODE: Field = Field::new("CODE", 47, 44);

/// ATS.PRGR: the guest's answer to a page request group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AtsPrgr {
    /// The answer; its `rid` has 16 bits.
    pub response: PrgResponse,
    /// DSEG: the destination's segment, when DSV says that there is one.
    pub segment: Option<u8>,
}

/// A command, 16 bytes of the command queue, as far as it answers page requests.
///
/// | bits | field of ATS.PRGR |
/// |---|---|
/// | 6:0 | opcode = 4 |
/// | 9:7 | func3 = 1 |
/// | 31:12 | PID |
/// | 32, 33 | PV, DSV |
/// | 55:40 | RID |
/// | 63:56 | DSEG |
/// | 104:96 | PRGI |
/// | 111:108 | response code |
///
/// Bits 127:112 are zero, as the specification has it; Linux' header calls them `DST_ID`.
///
/// Source: RISC-V IOMMU specification, "ATS.PRGR"; Linux `RISCV_IOMMU_CMD_ATS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// ATS.PRGR.
    AtsPrgr(AtsPrgr),
    /// Another command.
    Unknown([u64; 2]),
}

impl Command {
    /// The command with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let words @ [w0, w1] = words2(bytes);
        if OPCODE.get(w0) != OPCODE_ATS || FUNC3.get(w0) != FUNC3_PRGR {
            return Self::Unknown(words);
        }
        let response = PrgResponse {
            rid: RID.get(w0) as u32,
            pasid: bit(w0, PV).then(|| PID.get(w0) as u32),
            prgi: PRGI.get(w1) as u16,
            code: ResponseCode::new(CODE.get(w1) as u8),
        };
        Self::AtsPrgr(AtsPrgr { response, segment: bit(w0, DSV).then(|| DSEG.get(w0) as u8) })
    }

    /// The command's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `RID`, `PID` or `PRGI`; [`HwError::Code`]; [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        match self {
            Self::AtsPrgr(AtsPrgr { response, segment }) => {
                let mut w0 = OPCODE.put(OPCODE_ATS)? | FUNC3.put(FUNC3_PRGR)? | RID.put(response.rid)?;
                if let Some(pasid) = response.pasid {
                    w0 |= flag(true, PV) | PID.put(pasid)?;
                }
                if let Some(segment) = segment {
                    w0 |= flag(true, DSV) | DSEG.put(*segment)?;
                }
                Ok(bytes2([w0, PRGI.put(response.prgi)? | CODE.put(response.code.sent()?)?]))
            }
            Self::Unknown(words) => {
                let bytes = bytes2(*words);
                unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)))
            }
        }
    }
}

const FQ_CAUSE: Field = Field::new("CAUSE", 11, 0);
const FQ_TTYP: Field = Field::new("TTYP", 39, 34);
const FQ_CUSTOM: Field = Field::new("CUSTOM", 31, 0);
const FQ_RSVD: Field = Field::new("RSVD", 63, 32);

/// A fault record, 32 bytes of the fault queue.
///
/// | bits | field |
/// |---|---|
/// | 11:0 | CAUSE |
/// | 31:12 | PID |
/// | 32, 33 | PV, PRIV |
/// | 39:34 | TTYP |
/// | 63:40 | DID |
/// | 95:64 | for custom use |
/// | 191:128 | iotval |
/// | 255:192 | iotval2 |
///
/// Source: RISC-V IOMMU specification, "Fault/Event-Queue"; Linux `struct riscv_iommu_fq_record`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FaultRecord {
    /// CAUSE, 12 bits. 1, 5, 7 access fault of a fetch, read, write; 4, 6 misaligned address of a read, write; 12,
    /// 13, 15 page fault of a fetch, read, write; 20, 21, 23 the same of a guest page; 256 all transactions
    /// disallowed; 257 to 259 device directory; 260 transaction type disallowed; 261 to 264 MSI page table; 265 to 267
    /// process directory; 268 to 271 and 274 data corruption; 272 internal data path error; 273 MSI write.
    pub cause: u16,
    /// PID: the process address space, 20 bits, when PV says that there is one.
    pub pasid: Option<u32>,
    /// PRIV: privileged access.
    pub privileged: bool,
    /// TTYP, 6 bits. 1, 2, 3 fetch, read, write with an untranslated address; 5, 6, 7 with a translated
    /// one; 8 ATS request; 9 message.
    pub transaction_type: u8,
    /// DID: who made the access, 24 bits.
    pub did: u32,
    /// For custom use.
    pub custom: u32,
    /// Bits 127:96, which are reserved: kept as they came.
    pub reserved: u32,
    /// iotval: the address, or what else the cause says.
    pub iotval: u64,
    /// iotval2: of a guest page fault bits 63:2 of the guest physical address; bit 0 an implicit access,
    /// bit 1 an implicit write.
    pub iotval2: u64,
}

impl FaultRecord {
    /// The record with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 32]) -> Self {
        let [w0, w1, iotval, iotval2] = words4(bytes);
        Self {
            cause: FQ_CAUSE.get(w0) as u16,
            pasid: bit(w0, PV).then(|| PID.get(w0) as u32),
            privileged: bit(w0, PRIV),
            transaction_type: FQ_TTYP.get(w0) as u8,
            did: DID.get(w0) as u32,
            custom: FQ_CUSTOM.get(w1) as u32,
            reserved: FQ_RSVD.get(w1) as u32,
            iotval,
            iotval2,
        }
    }

    /// The record's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `CAUSE`, `PID`, `TTYP` or `DID`.
    #[inline]
    pub fn encode(&self) -> Result<[u8; 32], HwError> {
        let mut w0 = FQ_CAUSE.put(self.cause)? | FQ_TTYP.put(self.transaction_type)? | DID.put(self.did)?;
        if let Some(pasid) = self.pasid {
            w0 |= flag(true, PV) | PID.put(pasid)?;
        }
        w0 |= flag(self.privileged, PRIV);
        let w1 = FQ_CUSTOM.put(self.custom)? | FQ_RSVD.put(self.reserved)?;
        Ok(bytes4([w0, w1, self.iotval, self.iotval2]))
    }
}
