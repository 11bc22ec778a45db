//! PCI Express Page Request Interface: what a function asks, and what it is answered.
//!
//! Source: PCI Express Base Specification, chapter 10.4, as the RISC-V IOMMU reference model
//! (`iommu_ats.h`) restates it.

use static_assertions::const_assert;

use super::HwError;
use super::bits::{Field, bit, flag};
use crate::record::wire_code;

const R: u32 = 0;
const W: u32 = 1;
const L: u32 = 2;
pub(super) const PRGI: Field = Field::new("PRGI", 11, 3);
pub(super) const ADDR: Field = Field::new("ADDR", 63, 12);
const RID: Field = Field::new("RID", 15, 0);
pub(super) const PASID: Field = Field::new("PASID", 19, 0);

/// A process address space, and the two requests that travel along with it and never without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pasid {
    /// The PASID, 20 bits.
    pub value: u32,
    /// Execute Requested.
    pub exec: bool,
    /// Privileged Mode Requested.
    pub privileged: bool,
}

/// A Page Request, with the requester and the PASID that travel beside its payload.
///
/// | | VT-d | SMMUv3 PRI queue | AMD PPR log | RISC-V |
/// |---|---|---|---|---|
/// | `rid` | RID, 16 bits | StreamID, 32 | DeviceID, 16 | DID, 24 |
/// | `pasid` | PASID, PP | SubstreamID, SSV | PASID, GN | PID, PV |
/// | `pasid.exec` | EXR | X | EX | EXEC |
/// | `pasid.privileged` | PMR | Priv | not US | PRIV |
/// | `read`, `write` | RDR, WRR | R, W | RD, WR | R, W |
/// | `last` | LPIG | Last | tag bit 9 | L |
/// | `prgi` | PRGI | PRGIndex | tag, low 9 bits | PRGI |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// Who asks: the requester id, as wide as the record has it.
    pub rid: u32,
    /// The process address space, when the request is for one.
    pub pasid: Option<Pasid>,
    /// Page Request Group Index, 9 bits.
    pub prgi: u16,
    /// Read access requested.
    pub read: bool,
    /// Write access requested.
    pub write: bool,
    /// The last request of its group; the group can be answered.
    pub last: bool,
    /// The page, in bytes: the low 12 bits are 0.
    pub addr: u64,
}

// A queue's worth of them is moved about by value.
const_assert!(size_of::<PageRequest>() <= 32);

impl PageRequest {
    /// The request with this payload, as PCIe, VT-d and RISC-V have it.
    #[inline]
    pub(super) const fn from_payload(payload: u64, rid: u32, pasid: Option<Pasid>) -> Self {
        Self {
            rid,
            pasid,
            prgi: PRGI.get(payload) as u16,
            read: bit(payload, R),
            write: bit(payload, W),
            last: bit(payload, L),
            addr: payload & ADDR.mask(),
        }
    }

    #[inline]
    pub(super) fn to_payload(self) -> Result<u64, HwError> {
        let flags = flag(self.read, R) | flag(self.write, W) | flag(self.last, L);
        Ok(ADDR.put_address(self.addr)? | PRGI.put(self.prgi)? | flags)
    }

    /// Whether L, W and R are 1, 0, 0.
    #[inline]
    pub(super) const fn is_marked(&self) -> bool {
        self.last && !self.read && !self.write
    }

    /// The Stop Marker that a marked request is, with its PASID or without.
    #[inline]
    pub(super) const fn marker(&self) -> StopMarker {
        let pasid = match self.pasid {
            Some(pasid) => Some(pasid.value),
            None => None,
        };
        StopMarker { rid: self.rid, pasid }
    }

    /// The Stop Marker that this is, by the rule that one has a PASID.
    #[inline]
    pub(super) const fn stop_marker(&self) -> Option<StopMarker> {
        if self.is_marked() && self.pasid.is_some() { Some(self.marker()) } else { None }
    }

    /// Refuses a request that would read as a Stop Marker.
    #[inline]
    pub(super) const fn check(&self) -> Result<(), HwError> {
        if self.stop_marker().is_some() { Err(HwError::StopMarker) } else { Ok(()) }
    }
}

/// A Stop Marker: the function sends no more requests for this PASID. It is never answered.
///
/// Its payload says L, W, R = 1, 0, 0; the rest of it is ignored, and 0 when written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StopMarker {
    /// Who stops, as [`PageRequest::rid`].
    pub rid: u32,
    /// The process address space it stops for, 20 bits. VT-d's queue (as Linux reads it) and RISC-V's may have one
    /// without; everywhere else it must have one.
    pub pasid: Option<u32>,
}

impl StopMarker {
    /// The PASID, where there must be one.
    #[inline]
    pub(super) fn pasid(&self, field: &'static str) -> Result<u32, HwError> {
        self.pasid.ok_or(HwError::Missing { field })
    }

    /// The payload of any of them.
    pub(super) const PAYLOAD: u64 = flag(true, L);
}

/// A Page Request message (code 0x04): 8 bytes of payload behind its header.
///
/// The bytes are those of the payload as a 64-bit number in little-endian order; on the link they are
/// big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageRequestMessage {
    /// A page request.
    Request(PageRequest),
    /// The end of a PASID's requests.
    StopMarker(StopMarker),
}

impl PageRequestMessage {
    /// The message with this payload.
    ///
    /// `rid` is the requester id of its header, `pasid` what its PASID prefix says. Without a PASID it
    /// is a page request whatever the payload says.
    #[inline]
    pub const fn decode(payload: &[u8; 8], rid: u16, pasid: Option<Pasid>) -> Self {
        let request = PageRequest::from_payload(u64::from_le_bytes(*payload), rid as u32, pasid);
        match request.stop_marker() {
            Some(marker) => Self::StopMarker(marker),
            None => Self::Request(request),
        }
    }

    /// The payload. Requester id and PASID are not part of it, but checked.
    ///
    /// # Errors
    ///
    /// [`HwError::DoesNotFit`] for `RID`, `PASID`, `PRGI` or `ADDR`; [`HwError::StopMarker`];
    /// [`HwError::Missing`] for a Stop Marker without a PASID.
    #[inline]
    pub fn encode(&self) -> Result<[u8; 8], HwError> {
        let payload = match self {
            Self::Request(request) => {
                request.check()?;
                RID.put(request.rid)?;
                PASID.put(request.pasid.unwrap_or_default().value)?;
                request.to_payload()?
            }
            Self::StopMarker(marker) => {
                RID.put(marker.rid)?;
                PASID.put(marker.pasid("PASID")?)?;
                StopMarker::PAYLOAD
            }
        };
        Ok(payload.to_le_bytes())
    }
}

wire_code! {
    /// The code of a [`PrgResponse`], 4 bits.
    ///
    /// VT-d, AMD and RISC-V have the same numbers; SMMUv3 has others, see
    /// [`PriResp`](super::smmuv3::PriResp).
    ResponseCode(u8) {
        /// All pages of the group are there.
        SUCCESS = 0,
        /// At least one page is not, and asking again will not help.
        INVALID_REQUEST = 1,
        /// A catastrophic error: the function's page request interface is disabled.
        RESPONSE_FAILURE = 0xf,
    }
}

impl ResponseCode {
    /// The code that this one means: a function takes 2 to 0xe for Response Failure.
    ///
    /// A Linux guest really writes 2: that is FAILURE inside the kernel, and it puts it in the field.
    #[inline]
    pub const fn meaning(self) -> Self {
        match self {
            Self::SUCCESS | Self::INVALID_REQUEST => self,
            _ => Self::RESPONSE_FAILURE,
        }
    }

    /// The code as a number to be sent.
    ///
    /// # Errors
    ///
    /// [`HwError::Code`] for all but the named ones.
    #[inline]
    pub(super) fn sent(self) -> Result<u64, HwError> {
        if self == self.meaning() {
            Ok(self.get().into())
        } else {
            Err(HwError::Code { code: self.get().into() })
        }
    }
}

/// A PRG Response (message code 0x05): the answer to a page request group, due once, on its last
/// request.
///
/// It has no bytes here: each IOMMU has a command of its own that makes the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrgResponse {
    /// Whom it is for, as [`PageRequest::rid`].
    pub rid: u32,
    /// The PASID, 20 bits: only when the request had one, and then only when the function's PRI status
    /// has PRG Response PASID Required (bit 15).
    pub pasid: Option<u32>,
    /// Page Request Group Index, 9 bits.
    pub prgi: u16,
    /// The verdict.
    pub code: ResponseCode,
}
