//! AMD IOMMU: PPR log, COMPLETE_PPR_REQUEST command, event log.
//!
//! Source: Linux `drivers/iommu/amd/amd_iommu_types.h` (`PPR_*`, `EVENT_*`), `ppr.c` and `iommu.c`;
//! FreeBSD `amd_reg.h`; VirtualBox `iommu-amd.h`; after the AMD I/O Virtualization Technology
//! specification.

mod event_log;

pub use event_log::{
    AddressSpace, EventCode, EventLogEntry, InvalidPprRequest, IoPageFault, IoPageFaultFlags,
};

use super::HwError;
use super::bits::{Field, bit, bytes2, flag, unknown, words2};
use super::pcie::{self, ADDR, PageRequest, Pasid, PrgResponse, ResponseCode, StopMarker};

// All records have these in the same place.
const DEVICE_ID: Field = Field::new("DeviceID", 15, 0);
const CODE: Field = Field::new("CODE", 63, 60);

const PASID_LOW: Field = Field::new("PASID[15:0]", 31, 16);
const PASID_HIGH: Field = Field::new("PASID[19:16]", 45, 42);
const PPR_CODE: u64 = 1;
const PPR_PRGI: Field = Field::new("PRGI", 40, 32);
const PPR_LAST: u32 = 41;
const PPR_EX: u32 = 49;
const PPR_RD: u32 = 50;
const PPR_WR: u32 = 53;
const PPR_US: u32 = 54;
const PPR_RZ: u32 = 55;
const PPR_GN: u32 = 56;
const FLAGS: Field = Field::new("FLAGS", 59, 48);
/// Bits 51, 52 and 59:57, as they lie in FLAGS.
const PPR_OTHER: u16 = 0xe18;

/// A PASID as the low and the high part that PPR records have it in.
#[inline]
fn split_pasid(pasid: u32) -> Result<u64, HwError> {
    let pasid = pcie::PASID.put(pasid)?;
    Ok(PASID_LOW.put(pasid & 0xffff)? | PASID_HIGH.put(pasid >> 16)?)
}

#[inline]
const fn joined_pasid(w0: u64) -> u32 {
    (PASID_LOW.get(w0) | PASID_HIGH.get(w0) << 16) as u32
}

/// PAGE_SERVICE_REQUEST: a page request, and what the IOMMU adds to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageServiceRequest {
    /// The page request.
    pub request: PageRequest,
    /// RVSD or RZ: the request had reserved bits set. Linux answers it as a failure.
    pub reserved_set: bool,
    /// Bits 51, 52 and 59:57, as they lie in the flags 59:48 (mask 0xe18). Not confirmed what they mean:
    /// kept as they came.
    pub other: u16,
}

/// An entry of the PPR log, 16 bytes.
///
/// | bits | field |
/// |---|---|
/// | 15:0 | DeviceID |
/// | 31:16, 45:42 | PASID, in two parts |
/// | 40:32 | PRG index (tag) |
/// | 41 | last page of the group (tag bit 9) |
/// | 49, 50, 53 | EX, RD, WR |
/// | 54 | US: 1 is a user, 0 a supervisor |
/// | 55 | RVSD |
/// | 56 | GN: PASID valid |
/// | 63:60 | code = 1 |
/// | 127:76 | address |
///
/// The driver polls for a code that is not 0: write the second word first.
///
/// Source: Linux `PPR_*`, `ppr.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PprLogEntry {
    /// A page request.
    Request(PageServiceRequest),
    /// Last page, no read, no write, with a PASID. Not confirmed: that the hardware logs Stop Markers. Linux has no
    /// such rule: it reports the entry as a page fault and answers it.
    StopMarker(StopMarker),
    /// Another code, 0 among them, which is an entry not yet written.
    Unknown([u64; 2]),
}

impl PprLogEntry {
    /// The entry with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let words @ [w0, w1] = words2(bytes);
        if CODE.get(w0) != PPR_CODE {
            return Self::Unknown(words);
        }
        let request = PageRequest {
            rid: DEVICE_ID.get(w0) as u32,
            pasid: bit(w0, PPR_GN).then(|| Pasid {
                value: joined_pasid(w0),
                exec: bit(w0, PPR_EX),
                privileged: !bit(w0, PPR_US),
            }),
            prgi: PPR_PRGI.get(w0) as u16,
            read: bit(w0, PPR_RD),
            write: bit(w0, PPR_WR),
            last: bit(w0, PPR_LAST),
            addr: w1 & ADDR.mask(),
        };
        match request.stop_marker() {
            Some(marker) => Self::StopMarker(marker),
            None => Self::Request(PageServiceRequest {
                request,
                reserved_set: bit(w0, PPR_RZ),
                other: FLAGS.get(w0) as u16 & PPR_OTHER,
            }),
        }
    }

    /// The entry's bytes. Without a PASID it says "user", as there is no privileged request then.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `DeviceID`, `PASID`, `PRGI`, `ADDR` or `other`;
    /// [`HwError::StopMarker`]; [`HwError::Missing`] for a Stop Marker without a PASID;
    /// [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        let code = CODE.put(PPR_CODE)?;
        match self {
            Self::Request(PageServiceRequest { request, reserved_set, other }) => {
                request.check()?;
                if other & !PPR_OTHER != 0 {
                    return Err(HwError::DoesNotFit { field: "other", value: (*other).into() });
                }
                let mut w0 = code | DEVICE_ID.put(request.rid)? | PPR_PRGI.put(request.prgi)?;
                if let Some(pasid) = request.pasid {
                    w0 |= flag(true, PPR_GN) | split_pasid(pasid.value)? | flag(pasid.exec, PPR_EX);
                }
                w0 |= flag(request.pasid.is_none_or(|pasid| !pasid.privileged), PPR_US);
                w0 |= flag(request.read, PPR_RD) | flag(request.write, PPR_WR);
                w0 |= flag(request.last, PPR_LAST) | flag(*reserved_set, PPR_RZ) | FLAGS.put(*other)?;
                Ok(bytes2([w0, ADDR.put_address(request.addr)?]))
            }
            Self::StopMarker(marker) => {
                let pasid = flag(true, PPR_GN) | split_pasid(marker.pasid("PASID")?)?;
                let flags = flag(true, PPR_LAST) | flag(true, PPR_US);
                Ok(bytes2([code | DEVICE_ID.put(marker.rid)? | pasid | flags, 0]))
            }
            Self::Unknown(words) => {
                let bytes = bytes2(*words);
                unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)))
            }
        }
    }
}

const COMPLETE_PPR_REQUEST: u64 = 7;
const COMPLETE_PASID: Field = Field::new("PASID", 51, 32);
const COMPLETE_GN: u32 = 2;
const COMPLETE_PRGI: Field = Field::new("PRGI", 40, 32);
const COMPLETE_STATUS: Field = Field::new("STATUS", 47, 44);

/// A command, 16 bytes of the command buffer, as far as it answers page requests.
///
/// | bits | field of COMPLETE_PPR_REQUEST |
/// |---|---|
/// | 15:0 | DeviceID |
/// | 51:32 | PASID |
/// | 63:60 | opcode = 7 |
/// | 66 | GN: PASID valid |
/// | 104:96 | PRG index |
/// | 111:108 | status |
///
/// GN says that the answer carries the PASID. Linux sets it if the function's PRI status has PRG Response PASID
/// Required (bit 15), whatever the request said: see [`PrgResponse::pasid`].
///
/// Bits 107:105 are ignored, and 0 when written. Not confirmed: whether the hardware wants the tag's bit 9
/// in the first of them, where FreeBSD puts the whole tag.
///
/// Source: Linux `build_complete_ppr()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// COMPLETE_PPR_REQUEST; the code is its status.
    CompletePprRequest(PrgResponse),
    /// Another command.
    Unknown([u64; 2]),
}

impl Command {
    /// The command with these bytes.
    #[inline]
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let words @ [w0, w1] = words2(bytes);
        if CODE.get(w0) != COMPLETE_PPR_REQUEST {
            return Self::Unknown(words);
        }
        Self::CompletePprRequest(PrgResponse {
            rid: DEVICE_ID.get(w0) as u32,
            pasid: bit(w1, COMPLETE_GN).then(|| COMPLETE_PASID.get(w0) as u32),
            prgi: COMPLETE_PRGI.get(w1) as u16,
            code: ResponseCode::new(COMPLETE_STATUS.get(w1) as u8),
        })
    }

    /// The command's bytes.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `DeviceID`, `PASID` or `PRGI`; [`HwError::Code`];
    /// [`HwError::Known`].
    #[inline]
    pub fn encode(&self) -> Result<[u8; 16], HwError> {
        match self {
            Self::CompletePprRequest(response) => {
                let mut w0 = CODE.put(COMPLETE_PPR_REQUEST)? | DEVICE_ID.put(response.rid)?;
                let mut w1 =
                    COMPLETE_PRGI.put(response.prgi)? | COMPLETE_STATUS.put(response.code.sent()?)?;
                if let Some(pasid) = response.pasid {
                    w0 |= COMPLETE_PASID.put(pasid)?;
                    w1 |= flag(true, COMPLETE_GN);
                }
                Ok(bytes2([w0, w1]))
            }
            Self::Unknown(words) => {
                let bytes = bytes2(*words);
                unknown(bytes, matches!(Self::decode(&bytes), Self::Unknown(_)))
            }
        }
    }
}
